/* SPDX-License-Identifier: Apache-2.0
 *
 * Options of streams and listeners, and what a stream tells about itself. On the shard's worker. Values are a client's:
 * bounded here where a connection is born with them, by the engine where it lives already. What cannot be is ignored:
 * the client's library has refused it before, and nobody waits for an answer.
 */
#include <errno.h>

#include "dataplane/session/session_internal.h"
#include "engines/wire.h"

/* By enum ush_stream_option. Size 0: nothing that a connection is born with. */
struct row {
    uint8_t engine; /* enum tcp_option */
    uint8_t size;
    uint16_t offset; /* in struct tcp_options */
    int64_t min, max;
};

#define BORN(field) sizeof(((struct tcp_options *)0)->field), offsetof(struct tcp_options, field)
#define BUFFER_MAX  (1 << 30)

static const struct row rows[USH_STREAM_OPTION_COUNT] = {
    [USH_STREAM_NODELAY] = {TCP_OPT_NODELAY, BORN(nodelay), 0, 1},
    [USH_STREAM_CORK] = {TCP_OPT_CORK, BORN(cork), 0, 1},
    [USH_STREAM_QUICKACK] = {TCP_OPT_QUICKACK, BORN(quickack), 0, 1},
    [USH_STREAM_KEEPALIVE] = {TCP_OPT_KEEPALIVE, BORN(keepalive), 0, 1},
    [USH_STREAM_KEEP_IDLE] = {TCP_OPT_KEEP_IDLE, BORN(keep_idle), 1, 32767},
    [USH_STREAM_KEEP_INTERVAL] = {TCP_OPT_KEEP_INTERVAL, BORN(keep_interval), 1, 32767},
    [USH_STREAM_KEEP_COUNT] = {TCP_OPT_KEEP_COUNT, BORN(keep_count), 1, 127},
    [USH_STREAM_USER_TIMEOUT] = {TCP_OPT_USER_TIMEOUT, BORN(user_timeout_ms), 0, 24 * 3600 * 1000},
    [USH_STREAM_CONGESTION] = {TCP_OPT_CONGESTION, BORN(congestion), 0, 0},
    [USH_STREAM_RCVBUF] = {TCP_OPT_RCVBUF, BORN(rcvbuf), 0, BUFFER_MAX},
    [USH_STREAM_SNDBUF] = {TCP_OPT_SNDBUF, BORN(sndbuf), 0, BUFFER_MAX},
    [USH_STREAM_TOS] = {TCP_OPT_TOS, BORN(tos), 0, 255},
    [USH_STREAM_TTL] = {TCP_OPT_TTL, BORN(ttl), 0, 255},
    [USH_STREAM_NOTSENT_LOWAT] = {TCP_OPT_NOTSENT_LOWAT, BORN(notsent_lowat), 0, BUFFER_MAX},
    [USH_STREAM_MAX_PACING] = {TCP_OPT_MAX_PACING, BORN(max_pacing), 0, UINT32_MAX},
    [USH_STREAM_LINGER2] = {TCP_OPT_LINGER2, 0, 0, 0, 0},
    [USH_STREAM_MAXSEG] = {TCP_OPT_MAXSEG, BORN(maxseg), 88, 65483},
    [USH_STREAM_SYN_RETRIES] = {TCP_OPT_RETRIES, BORN(retries), 1, 127},
    [USH_STREAM_DEFER_ACCEPT] = {TCP_OPT_DEFER_ACCEPT, 0, 0, 0, 0},
    [USH_STREAM_FASTOPEN] = {TCP_OPT_FASTOPEN, 0, 0, 0, 0},
};

static bool known(uint32_t option) {
    return option < ARRAY_LEN(rows) && rows[option].engine != 0;
}

void stream_option_born(struct tcp_options *opt, uint32_t option, int64_t value, const uint8_t name[12]) {
    if (!known(option) || rows[option].size == 0)
        return;
    const struct row *r = &rows[option];
    uint8_t *at = (uint8_t *)opt + r->offset;
    STATIC_ASSERT(sizeof opt->congestion == 12, "names fit");
    if (option == USH_STREAM_CONGESTION)
        memcpy(at, name, sizeof opt->congestion - 1); /* the last byte stays 0 */
    else if (value >= r->min && value <= r->max)
        memcpy(at, &value, r->size); /* little endian, as all hosts we build for */
}

/* Options ahead of a CONNECT: kept with the set until it comes. */
static void keep_ahead(struct sess_set *set, const struct ush_sqe *e) {
    if (set->ahead_handle != e->stream.handle)
        set->ahead = (struct tcp_options){.rcvbuf = 0};
    set->ahead_handle = e->stream.handle;
    stream_option_born(&set->ahead, e->stream.option, e->stream.value, e->stream.name);
}

void stream_options_take(struct sess_set *set, uint32_t handle, struct tcp_options *ret_opt) {
    if (set->ahead_handle == handle)
        *ret_opt = set->ahead;
    set->ahead_handle = USH_NONE;
}

/* The transport's index of what takes options on this set now: an open stream, or a listener, whose client sets them on
 * each of its sets. USH_NONE = none. */
static uint32_t option_target(struct sess_set *set, uint32_t handle) {
    struct sess_socket *sk = handle < set->socket_max ? &set->socket[handle] : stream_find(set, handle);
    if (handle < set->socket_max && sk->set != set->index)
        return session_part(set->session, handle, set->index);
    if (handle < set->socket_max && !(sk->flags & SOCK_LISTENER))
        return USH_NONE;
    return sk != NULL && sk->state == SOCK_OPEN ? sk->sock : USH_NONE;
}

uint32_t stream_take_option(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    if (UNLIKELY(USH_HANDLE_INDEX(e->stream.handle) >= set->socket_end))
        return DETACH_BAD_HANDLE;
    if (UNLIKELY(!known(e->stream.option) || (e->flags & ~USH_OPTION_AHEAD)))
        return DETACH_BAD_OP;
    if (e->flags & USH_OPTION_AHEAD) {
        keep_ahead(set, e);
        return SQE_TAKEN;
    }
    uint32_t sock = option_target(set, e->stream.handle);
    if (sock == USH_NONE)
        return SQE_TAKEN;
    struct tcp_cmd_option cmd = {.cmd = {TCP_CMD_OPTION, sizeof cmd},
                                 .sock = sock,
                                 .option = rows[e->stream.option].engine,
                                 .value = e->stream.value,
                                 .sink = SINK(SINK_SESSION, set->slot, e->stream.handle)};
    memcpy(cmd.name, e->stream.name, sizeof cmd.name - 1); /* the last byte stays 0 */
    struct engine_reply reply;
    (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
    return SQE_TAKEN;
}

/* A listener is made and nobody can have come yet: the rest of its options. */
void stream_listen_options(struct shard *sh, const struct sess_socket *sk, const struct ush_option *options,
                           uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (!known(options[i].option) || rows[options[i].option].size != 0)
            continue;
        struct tcp_cmd_option cmd = {.cmd = {TCP_CMD_OPTION, sizeof cmd},
                                     .sock = sk->sock,
                                     .option = rows[options[i].option].engine,
                                     .value = options[i].value};
        struct engine_reply reply;
        (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
    }
}

/* ---- information ---- */

static void info_fill(const struct tcp_conn_info *from, struct ush_stream_info *i) {
    /* As the kernel counts them in struct tcp_info. */
    static const uint8_t state_of[TCP_STATE_COUNT] = {
        [TCP_STATE_CLOSED] = 7,      [TCP_STATE_LISTEN] = 10,    [TCP_STATE_SYN_SENT] = 2,   [TCP_STATE_SYN_RCVD] = 3,
        [TCP_STATE_ESTABLISHED] = 1, [TCP_STATE_FIN_WAIT_1] = 4, [TCP_STATE_FIN_WAIT_2] = 5, [TCP_STATE_CLOSE_WAIT] = 8,
        [TCP_STATE_CLOSING] = 11,    [TCP_STATE_LAST_ACK] = 9,   [TCP_STATE_TIME_WAIT] = 6,
    };
    *i = (struct ush_stream_info){
        .rx_bytes = from->rx_bytes,
        .tx_bytes = from->tx_bytes,
        .pacing_rate = from->pacing_rate,
        .local_port = from->flow.local_port,
        .remote_port = from->flow.remote_port,
        .state = state_of[from->state < TCP_STATE_COUNT ? from->state : TCP_STATE_CLOSED],
        .ca_state = from->ca_state,
        .backoff = from->backoff,
        .snd_wscale = from->snd_wscale,
        .rcv_wscale = from->rcv_wscale,
        .timestamps = from->timestamps,
        .sack = from->sack,
        .ecn = from->ecn,
        .rtt_us = from->rtt_us,
        .rtt_var_us = from->rtt_var_us,
        .min_rtt_us = from->min_rtt_us,
        .rto_us = from->rto_us,
        .cwnd = from->cwnd,
        .ssthresh = from->ssthresh,
        .snd_wnd = from->snd_wnd,
        .rcv_wnd = from->rcv_wnd,
        .mss = from->mss,
        .pmtu = from->pmtu,
        .unacked = from->unacked,
        .unsent = from->unsent,
        .sacked = from->sacked,
        .lost = from->lost,
        .retransmits = from->retransmits,
        .rcv_limit = from->rcv_limit,
        .rcv_held = from->rcv_held,
        .rcv_ooo = from->rcv_ooo,
    };
    memcpy(i->local, from->flow.local.b, sizeof i->local);
    memcpy(i->remote, from->flow.remote.b, sizeof i->remote);
    memcpy(i->congestion, from->congestion, sizeof i->congestion);
}

bool stream_info(struct shard *sh, const struct sess_socket *sk, struct tcp_conn_info *ret_info) {
    uint8_t engine = sh->proto_node[PROTO_TCP];
    if (engine == NODE_NONE || sk->sock == USH_NONE)
        return false;
    struct node *nd = &sh->node[engine];
    struct tcp_cmd_info cmd = {.cmd = {TCP_CMD_INFO, sizeof cmd}, .sock = sk->sock, .info = ret_info};
    struct engine_reply reply = {.error = 0};
    nd->ops->command(nd->st, &nd->io, &cmd.cmd, &reply); /* only reads: there is nothing to settle */
    return reply.error == 0;
}

/* The cell is lent to no stream, so that giving it back opens nobody's window. */
static uint32_t info_cell(struct sess_set *set, const struct tcp_conn_info *from) {
    struct ush_stream_info info;
    uint32_t size;
    uint32_t cell = cells_take(&set->cells, sizeof info, USH_HANDLE(set->socket_end, 0), &size);
    if (cell == USH_NONE)
        return USH_NONE;
    info_fill(from, &info);
    memcpy(set->rx + cell, &info, sizeof info);
    return cell;
}

uint32_t stream_take_info(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    if (UNLIKELY(USH_HANDLE_INDEX(e->stream.handle) >= set->socket_end))
        return DETACH_BAD_HANDLE;
    struct ush_cqe *c = cq_slot(sh, set);
    if (c == NULL)
        return SQE_TAKEN;
    struct tcp_conn_info info;
    const struct sess_socket *sk = stream_find(set, e->stream.handle);
    bool there = sk != NULL && stream_info(sh, sk, &info);
    uint32_t cell = there ? info_cell(set, &info) : USH_NONE;
    c->type = USH_CQ_INFO;
    c->flags = c->count = c->tos = 0;
    memset(&c->info, 0, sizeof c->info);
    c->info.handle = e->stream.handle;
    c->info.cell = cell;
    c->info.len = sizeof(struct ush_stream_info);
    c->info.error = cell != USH_NONE ? 0 : there ? ENOBUFS : ENOTCONN;
    cq_commit(sh, set, c);
    return SQE_TAKEN;
}
