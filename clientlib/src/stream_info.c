/* SPDX-License-Identifier: Apache-2.0
 *
 * What a stream knows about itself: asked of the worker by an entry of the ring, answered in a cell; no exchange with
 * control, and no system call while the worker is awake. Any thread.
 */
#include <linux/tcp.h>
#include <stdlib.h>

#include "clientlib/src/internal.h"

#define PATIENCE_NS INT64_C(1000000000)
#define AGAIN_NS    INT64_C(20000000) /* a question may find the completion ring full, and is then lost */

_Static_assert(sizeof(struct usher_stream_info) == sizeof(struct ush_stream_info), "the same fields");
_Static_assert(offsetof(struct usher_stream_info, congestion) == offsetof(struct ush_stream_info, congestion), "");

/* The answer. Under the lock. */
void client_stream_info_take(struct usher_context *ctx, struct client_set *s, const struct ush_cqe *e) {
    struct usher_socket *sock = client_by_handle(ctx, e->info.handle);
    uint32_t cell = e->info.cell, error = e->info.error;
    bool good = cell < ctx->h.rx_size && sizeof(struct ush_stream_info) <= ctx->h.rx_size - cell &&
                !(cell & (ctx->h.rx_cell_min - 1));
    if (cell != USH_NONE && !good) {
        client_go_down(ctx, "a completion names bytes outside the RX region");
        return;
    }
    if (sock && sock->st && sock->st->info) {
        sock->st->info_count++;
        sock->st->info_error = cell == USH_NONE ? (int)(error & 0xfff) : 0;
        if (good)
            memcpy(sock->st->info, ctx->rx + cell, sizeof(*sock->st->info));
        client_waiters_wake(ctx);
    }
    if (good)
        client_release_cell(ctx, s, cell, sizeof(struct ush_stream_info));
}

/* What comes meanwhile waits for whoever reads it. */
static bool answered(struct usher_socket *sock, uint32_t before, bool look) {
    struct usher_event ev;
    while (sock->st->info_count == before && client_take_fresh(sock->ctx, &ev, 1, look) == 1)
        client_park(sock->ctx, &ev);
    return sock->st->info_count != before;
}

/* One question. 0: answered, -EAGAIN: not yet. */
static int ask(struct usher_socket *sock, uint32_t before) {
    struct usher_context *ctx = sock->ctx;
    struct client_wait w;
    int err = 0;
    (void)client_stream_op(sock, USH_OP_INFO, 0); /* a full ring: waiting drains it, then again */
    client_kick(ctx);
    client_wait_begin(&w, sock, AGAIN_NS);
    bool done = answered(sock, before, false);
    while (!done && !err && sock->set) {
        err = client_wait_block(ctx, &w);
        done = answered(sock, before, w.look || err == -EAGAIN);
    }
    client_wait_end(ctx, &w, done);
    return done ? 0 : err ? err : -EAGAIN;
}

static int ask_usherd(struct usher_socket *sock, struct usher_stream_info *ret_info) {
    struct client_stream *st = sock->st;
    if (!st->info && !(st->info = calloc(1, sizeof(*st->info))))
        return client_fail(-ENOMEM, "no memory for a stream's information");
    int64_t until = client_now() + PATIENCE_NS;
    uint32_t before = st->info_count;
    int err = -EAGAIN;
    while (err == -EAGAIN && sock->set && !st->gone && client_now() < until)
        err = ask(sock, before);
    if (!sock->set || st->gone || (!err && st->info_error))
        return client_fail(!err && st->info_error == ENOBUFS ? -ENOBUFS : -ENOTCONN,
                           "the stream is not connected, or usherd has no room for the answer");
    if (err)
        return client_fail(err == -EAGAIN ? -ETIMEDOUT : err, "usherd does not tell about the stream");
    memcpy(ret_info, st->info, sizeof(*ret_info));
    return 0;
}

/* ---- the kernel's words ---- */

static int ask_kernel(struct usher_socket *sock, struct usher_stream_info *ret_info) {
    struct tcp_info k = {0};
    socklen_t len = sizeof(k);
    if (sock->fd < 0 || !sock->st->open)
        return client_fail(-ENOTCONN, "the stream is not connected");
    if (getsockopt(sock->fd, IPPROTO_TCP, TCP_INFO, &k, &len) < 0)
        return client_fail(-errno, "TCP_INFO of the kernel socket: %s", strerror(errno));
    *ret_info = (struct usher_stream_info){
        .rx_bytes = k.tcpi_bytes_received,
        .tx_bytes = k.tcpi_bytes_acked,
        .pacing_rate = k.tcpi_pacing_rate,
        .local_port = sock->st->local_port,
        .remote_port = sock->st->peer_port,
        .state = k.tcpi_state,
        .ca_state = k.tcpi_ca_state,
        .backoff = k.tcpi_backoff,
        .snd_wscale = k.tcpi_snd_wscale,
        .rcv_wscale = k.tcpi_rcv_wscale,
        .timestamps = (k.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0,
        .sack = (k.tcpi_options & TCPI_OPT_SACK) != 0,
        .ecn = (k.tcpi_options & TCPI_OPT_ECN) != 0,
        .rtt_us = k.tcpi_rtt,
        .rtt_var_us = k.tcpi_rttvar,
        .min_rtt_us = k.tcpi_min_rtt,
        .rto_us = k.tcpi_rto,
        .cwnd = k.tcpi_snd_cwnd * k.tcpi_snd_mss,
        .ssthresh = k.tcpi_snd_ssthresh > INT32_MAX / 65536 ? INT32_MAX : k.tcpi_snd_ssthresh * k.tcpi_snd_mss,
        .snd_wnd = k.tcpi_snd_wnd,
        .rcv_wnd = k.tcpi_rcv_space,
        .mss = k.tcpi_snd_mss,
        .pmtu = k.tcpi_pmtu,
        .unacked = k.tcpi_unacked * k.tcpi_snd_mss,
        .unsent = k.tcpi_notsent_bytes,
        .sacked = k.tcpi_sacked * k.tcpi_snd_mss,
        .lost = k.tcpi_lost * k.tcpi_snd_mss,
        .retransmits = k.tcpi_total_retrans,
        .rcv_limit = k.tcpi_rcv_space,
    };
    memcpy(ret_info->local, sock->st->local, 16);
    memcpy(ret_info->remote, sock->st->peer, 16);
    char name[16] = "";
    len = sizeof(name);
    (void)getsockopt(sock->fd, IPPROTO_TCP, TCP_CONGESTION, name, &len);
    memcpy(ret_info->congestion, name, sizeof(ret_info->congestion) - 1);
    return 0;
}

static int stream_info(struct usher_socket *sock, struct usher_stream_info *ret_info) {
    if (!sock->st || sock->st->listening)
        return client_fail(-ENOTCONN, "this is no connected stream");
    return sock->set ? ask_usherd(sock, ret_info) : ask_kernel(sock, ret_info);
}

int usher_stream_info(struct usher_socket *sock, struct usher_stream_info *ret_info) {
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    err = stream_info(sock, ret_info);
    client_leave(sock->ctx);
    return err;
}

/* ---- as getsockopt(2) has them ---- */

static uint32_t segments(uint32_t bytes, uint32_t mss) {
    return (bytes + mss - 1) / mss;
}

static void fill_tcp_info(const struct usher_stream_info *i, struct tcp_info *k) {
    uint32_t mss = i->mss ? i->mss : 1;
    *k = (struct tcp_info){
        .tcpi_state = i->state,
        .tcpi_ca_state = i->ca_state,
        .tcpi_backoff = i->backoff,
        .tcpi_options = (uint8_t)((i->timestamps ? TCPI_OPT_TIMESTAMPS : 0) | (i->sack ? TCPI_OPT_SACK : 0) |
                                  (i->ecn ? TCPI_OPT_ECN : 0) | (i->rcv_wscale ? TCPI_OPT_WSCALE : 0)),
        .tcpi_snd_wscale = i->snd_wscale & 15u,
        .tcpi_rcv_wscale = i->rcv_wscale & 15u,
        .tcpi_rto = i->rto_us,
        .tcpi_snd_mss = i->mss,
        .tcpi_rcv_mss = i->mss,
        .tcpi_unacked = segments(i->unacked, mss),
        .tcpi_sacked = segments(i->sacked, mss),
        .tcpi_lost = segments(i->lost, mss),
        .tcpi_pmtu = i->pmtu,
        .tcpi_rtt = i->rtt_us,
        .tcpi_rttvar = i->rtt_var_us,
        .tcpi_snd_ssthresh = i->ssthresh / mss,
        .tcpi_snd_cwnd = i->cwnd / mss ? i->cwnd / mss : 1,
        .tcpi_advmss = i->mss,
        .tcpi_rcv_space = i->rcv_limit,
        .tcpi_total_retrans = i->retransmits,
        .tcpi_pacing_rate = i->pacing_rate,
        .tcpi_max_pacing_rate = UINT64_MAX,
        .tcpi_bytes_acked = i->tx_bytes,
        .tcpi_bytes_received = i->rx_bytes,
        .tcpi_notsent_bytes = i->unsent,
        .tcpi_min_rtt = i->min_rtt_us,
        .tcpi_bytes_sent = i->tx_bytes + i->unacked,
        .tcpi_snd_wnd = i->snd_wnd,
    };
}

/* Options that the engine answers. 1: not one of these. */
int client_stream_ask(struct usher_socket *sock, int level, int name, void *ret_value, socklen_t *len) {
    bool wanted = level == IPPROTO_TCP && (name == TCP_INFO || name == TCP_MAXSEG || name == TCP_CONGESTION);
    struct usher_stream_info info;
    struct tcp_info k;
    if (!wanted || !sock->set || !sock->st->open || sock->st->gone)
        return 1;
    int err = ask_usherd(sock, &info);
    if (err)
        return err;
    int mss = (int)info.mss;
    fill_tcp_info(&info, &k);
    const void *from = name == TCP_INFO ? (const void *)&k : name == TCP_MAXSEG ? (const void *)&mss : info.congestion;
    socklen_t size = name == TCP_INFO ? sizeof(k) : name == TCP_MAXSEG ? sizeof(mss) : sizeof(info.congestion);
    *len = *len < size ? *len : size;
    memcpy(ret_value, from, *len);
    return 0;
}
