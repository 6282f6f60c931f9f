/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands, from control by mailbox or from a client's ring by way of the session. Arguments may come from a client:
 * everything is checked, a bad one is refused with its errno. Runs on the shard's worker between two polls.
 */
#include <errno.h>

#include "engines/tcp/tcp_cc.h"
#include "engines/tcp/tcp_cmds.h"
#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_fastopen.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_prf.h"
#include "engines/tcp/tcp_syn.h"
#include "engines/tcp/tcp_timer.h"

static struct tcp_conn *find(struct tcp_ctx *x, uint32_t sock, uint64_t sink) {
    struct tcp_conn *c = (struct tcp_conn *)arena_lookup(x->st, &x->st->a.table[TCP_TABLE_CONN], sock);
    return c == NULL || (sink != 0 && c->sink != sink) ? NULL : c;
}

static int cmd_listen(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_listen *a = (const struct tcp_cmd_listen *)cmd;
    struct tcp_engine *st = x->st;
    struct arena_table *t = &st->a.table[TCP_TABLE_LISTENER];
    if (a->flow.local_port == 0 || a->sink == 0 || (a->opt.congestion[0] != '\0' && tcp_cc_find(a->opt.congestion) < 0))
        return -EINVAL;
    struct tcp_listener fresh = {.flow = a->flow,
                                 .sink = a->sink,
                                 .owner = a->owner,
                                 .ifindex = a->ifindex,
                                 .backlog = a->backlog != 0 ? a->backlog : 1,
                                 .fastopen = a->fastopen,
                                 .defer_accept = TCP_COARSE_S(a->defer_accept_s),
                                 .opt = a->opt};
    fresh.flow.proto = PROTO_TCP;
    fresh.flow.remote = ipaddr_any();
    fresh.flow.remote_port = 0;
    memset(fresh.flow.pad, 0, sizeof fresh.flow.pad);
    fresh.flags =
        (a->v6only ? TCP_L_V6ONLY : 0u) | (a->reuseport ? TCP_L_REUSEPORT : 0u) | (a->spread ? TCP_L_SPREAD_LOAD : 0u);
    if (tcp_listener_conflict(st, &fresh))
        return -EADDRINUSE;
    uint32_t index;
    struct tcp_listener *l = (struct tcp_listener *)arena_take(st, t, &index);
    if (l == NULL)
        return -ENOSPC;
    fresh.r = l->r;
    *l = fresh;
    arena_publish(t, l);
    tcp_listener_index(st, index);
    tcp_frozen_offer(x, index);
    r->value = index | TCP_SOCK_LISTENER;
    return 0;
}

static int connect_flow(struct tcp_ctx *x, const struct tcp_cmd_connect *a, struct tcp_birth *b) {
    struct engine_route route = {.source = a->flow.local};
    b->flow = a->flow;
    b->flow.proto = PROTO_TCP;
    memset(b->flow.pad, 0, sizeof b->flow.pad);
    if (ipaddr_is_any(&a->flow.remote) || ipaddr_is_multicast(&a->flow.remote) || a->flow.remote_port == 0)
        return -EADDRNOTAVAIL; /* RFC 9293 MUST-45, MUST-46 */
    if (x->io->route != NULL)
        x->io->route(x->io->route_arg, &a->flow.remote, &route);
    if (route.error != 0)
        return route.error;
    if (ipaddr_is_any(&a->flow.local))
        b->flow.local = route.source;
    if (ipaddr_is_any(&b->flow.local) || ipaddr_is_v4(&b->flow.local) != ipaddr_is_v4(&a->flow.remote))
        return -EADDRNOTAVAIL;
    if (a->flow.local_port == 0)
        return tcp_port_pick(x->st, &b->flow, x->coarse);
    return tcp_flow_free(x->st, &b->flow, x->coarse) ? 0 : -EADDRINUSE;
}

static int cmd_connect(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_connect *a = (const struct tcp_cmd_connect *)cmd;
    uint32_t off = x->st->cfg.flags;
    struct tcp_birth b = {.sink = a->sink, .owner = a->owner, .listener = TCP_NIL, .port = UINT16_MAX, .opt = &a->opt};
    if (a->sink == 0 || (a->opt.congestion[0] != '\0' && tcp_cc_find(a->opt.congestion) < 0))
        return -EINVAL;
    int error = connect_flow(x, a, &b);
    if (error != 0)
        return error;
    b.iss = tcp_isn(x->st, &b.flow, x->io->now);
    b.ts_off = tcp_ts_offset(x->st, &b.flow);
    b.flags = TCP_F_ADOPTED | (off & TCP_CONFIG_NO_TIMESTAMPS ? 0u : TCP_F_TS) |
              (off & TCP_CONFIG_NO_SACK ? 0u : TCP_F_SACK) | (off & TCP_CONFIG_NO_WSCALE ? 0u : TCP_F_WSCALE) |
              (off & TCP_CONFIG_ECN ? TCP_F_ECN : 0u) | (a->fastopen ? TCP_F_TFO : 0u);
    struct tcp_conn *c = tcp_conn_create(x, &b);
    if (c == NULL)
        return -ENOSPC;
    ENGINE_COUNT(x->io, TCP_COUNT_ACTIVE);
    r->value = tcp_index(x->st, c);
    if (tcp_cc(c)->accurate_ecn)
        c->flags |= TCP_F_ECN;
    (void)tcp_fsm(x, c, TCP_EV_OPEN);
    bool wait = a->fastopen && tcp_fastopen_known(x, &b.flow.remote);
    if (!wait && !tcp_send_syn(x, c)) {
        x->dead = true;
        error = -ENOSPC;
    } else {
        tcp_flush_conn(x, c);
    }
    tcp_end(x);
    return error;
}

/* Whoever takes it counts its bytes from here, and may have to resume it by them. */
static void counts_begin(struct tcp_engine *st, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(st, c);
    k->rx_high = 0;
    k->tx_high = TCP_COUNTS_ANEW;
    c->irs = c->rcv_nxt - 1 - ((c->flags & TCP_F_FIN_RCVD) != 0);
    c->iss = c->snd_end - 1;
}

static int cmd_adopt(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_adopt *a = (const struct tcp_cmd_adopt *)cmd;
    struct tcp_conn *c = find(x, a->sock, 0);
    if (c == NULL)
        return -ENOENT;
    if (a->sink == 0 || (c->flags & TCP_F_ADOPTED))
        return a->sink == 0 ? -EINVAL : -EALREADY;
    if (a->peer_port != 0 && (a->peer_port != c->flow.remote_port || !ipaddr_equal(&a->peer, &c->flow.remote)))
        return -ENOENT;
    bool given = tcp_cold(x->st, c)->listener == TCP_NIL && c->state >= TCP_STATE_ESTABLISHED;
    if (tcp_is_frozen(x->st, c))
        tcp_thaw(x, a->sock);
    (void)tcp_begin(x, a->sock);
    if (given)
        counts_begin(x->st, c);
    tcp_accept_done(x, c, a->sink, a->owner);
    tcp_flush_conn(x, c);
    tcp_end(x);
    r->value = c->mss;
    return 0;
}

/* The program will send no more: FIN follows what is queued. */
static void queue_fin(struct tcp_ctx *x, struct tcp_conn *c) {
    if (c->state == TCP_STATE_SYN_SENT && c->seg_head == TCP_NIL)
        (void)tcp_send_syn(x, c); /* fast open that waited for data in vain */
    c->flags |= TCP_F_FIN_QUEUED;
    c->flags &= ~(uint32_t)(TCP_F_CORK | TCP_F_MORE);
}

static int cmd_shutdown(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_sock *a = (const struct tcp_cmd_sock *)cmd;
    struct tcp_conn *c = find(x, a->sock, a->sink);
    (void)r;
    if (c == NULL)
        return -ENOENT;
    (void)tcp_begin(x, a->sock);
    queue_fin(x, c);
    tcp_flush_conn(x, c);
    tcp_end(x);
    return 0;
}

static void abort_one(struct tcp_ctx *x, uint32_t index) {
    struct tcp_conn *c = tcp_begin(x, index);
    (void)tcp_fsm(x, c, TCP_EV_ABORT);
    tcp_end(x);
}

/* Its connection goes to another listener of the port, if there is one. */
static bool conn_inherit(struct tcp_ctx *x, uint32_t index) {
    struct tcp_conn *c = tcp_at(x->st, index);
    uint32_t heir = tcp_find_listener(x->st, &c->flow, hash_flow(&x->st->key, &c->flow), 0);
    if (heir == TCP_NIL)
        return false;
    (void)tcp_begin(x, index);
    struct tcp_listener *l = tcp_listener_at(x->st, heir);
    tcp_cold_at(x->st, index)->listener = heir;
    l->pending++;
    l->open++;
    tcp_accept_ready(x, c);
    tcp_end(x);
    return true;
}

static void half_inherit(struct tcp_engine *st, struct tcp_half *h, uint32_t index) {
    uint32_t heir = tcp_find_listener(st, &h->flow, hash_flow(&st->key, &h->flow), 0);
    if (heir == TCP_NIL) {
        tcp_half_release(st, index);
        return;
    }
    h->listener = heir;
    tcp_listener_at(st, heir)->half++;
}

/* Whatever came from it and was not adopted ends with the listener (RFC 9293: CLOSE in LISTEN), unless another one has
 * the port too. */
static int close_listener(struct tcp_ctx *x, uint32_t index, uint64_t sink) {
    struct tcp_engine *st = x->st;
    struct tcp_listener *l = tcp_listener_at(st, index);
    if (l == NULL || (sink != 0 && l->sink != sink))
        return -ENOENT;
    hash_index_remove(&st->listener_ix, &st->a, index);
    arena_release(&st->a.table[TCP_TABLE_LISTENER], l, index);
    const struct arena_table *t = &st->a.table[TCP_TABLE_HALF];
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct tcp_half *h = (struct tcp_half *)arena_lookup(st, t, i);
        if (h != NULL && h->listener == index)
            half_inherit(st, h, i);
    }
    t = &st->a.table[TCP_TABLE_CONN];
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct tcp_conn *c = (const struct tcp_conn *)arena_lookup(st, t, i);
        if (c == NULL || tcp_cold_at(st, i)->listener != index)
            continue;
        tcp_cold_at(st, i)->listener = TCP_NIL;
        if (!(c->flags & TCP_F_ADOPTED) && !conn_inherit(x, i))
            abort_one(x, i);
    }
    return 0;
}

static int cmd_close(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_close *a = (const struct tcp_cmd_close *)cmd;
    (void)r;
    if (a->sock != TCP_NIL && (a->sock & TCP_SOCK_LISTENER))
        return close_listener(x, a->sock & ~TCP_SOCK_LISTENER, a->sink);
    struct tcp_conn *c = find(x, a->sock, a->sink);
    if (c == NULL)
        return -ENOENT;
    (void)tcp_begin(x, a->sock);
    c->flags |= TCP_F_ORPHAN;
    bool waits = !(c->flags & TCP_F_ADOPTED), given = waits && tcp_cold(x->st, c)->listener == TCP_NIL;
    bool unread = a->unread || tcp_data_waits(x, c) || (given && c->ooo_head != TCP_NIL);
    if (given && !unread) { /* nobody is told how it ends, but end it must */
        c->sink = 0;
        c->flags |= TCP_F_ADOPTED;
    }
    if (a->abort || unread || c->state == TCP_STATE_SYN_SENT || (waits && !given)) {
        (void)tcp_fsm(x, c, TCP_EV_ABORT);
    } else {
        queue_fin(x, c);
        tcp_timer_slow(x, c);
        tcp_flush_conn(x, c);
    }
    tcp_end(x);
    return 0;
}

/* Back to what the reader has: what came later was never acknowledged to the peer, a FIN included. */
static void rewind_rx(struct tcp_ctx *x, struct tcp_conn *c, uint32_t lost) {
    if (c->flags & TCP_F_FIN_RCVD) {
        (void)tcp_fsm(x, c, TCP_EV_REWIND);
        c->flags &= ~(uint32_t)(TCP_F_FIN_RCVD | TCP_F_HUNG_UP);
        lost++;
        c->slow_at = 0;
        tcp_timer_slow(x, c);
    }
    c->rcv_nxt -= lost;
    c->rcv_acked = seq_min(c->rcv_acked, c->rcv_nxt);
}

static bool sync_lost(const struct tcp_conn *c, uint64_t rx_bytes, uint32_t *ret_lost) {
    bool fin = c->flags & TCP_F_FIN_RCVD, open = c->state >= TCP_STATE_ESTABLISHED;
    *ret_lost = open ? c->rcv_nxt - c->irs - 1 - fin - (uint32_t)rx_bytes : 0;
    return *ret_lost <= INT32_MAX;
}

int tcp_sync(struct tcp_ctx *x, struct tcp_conn *c, uint64_t rx_bytes, uint32_t held, struct tcp_resumed *ret) {
    uint32_t lost, acked = seq_min(c->snd_una, c->snd_end) - c->iss;
    if (!sync_lost(c, rx_bytes, &lost) || held > INT32_MAX)
        return -EINVAL;
    x->st->rx_held += held - c->rcv_held;
    c->rcv_held = held;
    c->tx_done = 0; /* the reply says it all */
    *ret = (struct tcp_resumed){tcp_index(x->st, c), c->snd_end - c->iss - 1, acked - (acked > 0)};
    if (c->state >= TCP_STATE_ESTABLISHED && !(c->flags & TCP_F_PASSIVE))
        tcp_notice(x, c, NOTICE_CONNECTED, 0, c->mss);
    if (lost != 0)
        rewind_rx(x, c, lost);
    else if ((c->flags & TCP_F_FIN_RCVD) && !(c->flags & TCP_F_ORPHAN))
        tcp_notice(x, c, NOTICE_HANGUP, 0, 0);
    return 0;
}

static int cmd_sync(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_sync *a = (const struct tcp_cmd_sync *)cmd;
    struct tcp_conn *c = find(x, a->sock, a->sink);
    struct tcp_resumed result = {0};
    if (c == NULL)
        return -ENOENT;
    uint64_t high = (uint64_t)tcp_high(tcp_cold(x->st, c)->tx_high) << 32;
    (void)tcp_begin(x, a->sock);
    int error = tcp_sync(x, c, a->rx_bytes, a->held, &result);
    r->value = result.taken;
    r->value64 = high | result.acked;
    tcp_flush_conn(x, c);
    tcp_end(x);
    return error;
}

static int cmd_ports(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_ports *a = (const struct tcp_cmd_ports *)cmd;
    (void)r;
    if (a->low > a->high || (a->low == 0 && a->high != 0))
        return -EINVAL;
    x->st->port_low = a->low;
    x->st->port_high = a->high;
    return 0;
}

static int cmd_heir(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_sock *a = (const struct tcp_cmd_sock *)cmd;
    const struct tcp_conn *c = find(x, a->sock, a->sink);
    uint32_t l = c != NULL ? tcp_find_listener(x->st, &c->flow, hash_flow(&x->st->key, &c->flow), 0) : TCP_NIL;
    if (l == TCP_NIL)
        return -ENOENT;
    r->value64 = tcp_listener_at(x->st, l)->sink;
    return 0;
}

/* Its listener counts it no more. */
static void leave_listener(struct tcp_engine *st, const struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(st, c);
    struct tcp_listener *l = tcp_listener_at(st, k->listener);
    if (l != NULL) {
        l->open -= l->open > 0;
        if ((c->flags & TCP_F_TFO) && (c->flags & TCP_F_PASSIVE))
            l->fastopen_used -= l->fastopen_used > 0;
    }
    k->listener = TCP_NIL;
}

static int cmd_give(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_give *a = (const struct tcp_cmd_give *)cmd;
    struct tcp_conn *c = find(x, a->sock, a->sink);
    if (c == NULL)
        return -ENOENT;
    if (!(c->flags & TCP_F_ADOPTED) || (c->flags & TCP_F_ORPHAN) || SINK_KIND(a->to) == SINK_ENGINE)
        return -EINVAL;
    if (c->q_head != TCP_NIL)
        return -EBUSY;
    (void)tcp_begin(x, a->sock);
    leave_listener(x->st, c);
    if (a->to != 0) {
        c->sink = a->to;
        tcp_cold(x->st, c)->owner = a->owner;
    } else {
        c->flags &= ~(uint32_t)TCP_F_ADOPTED;
    }
    r->value = (c->flags & TCP_F_HUNG_UP) != 0;
    tcp_end(x);
    return 0;
}

struct command {
    uint32_t size;
    int (*run)(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r);
};

static const struct command commands[] = {
    [TCP_CMD_LISTEN] = {sizeof(struct tcp_cmd_listen), cmd_listen},
    [TCP_CMD_CONNECT] = {sizeof(struct tcp_cmd_connect), cmd_connect},
    [TCP_CMD_ADOPT] = {sizeof(struct tcp_cmd_adopt), cmd_adopt},
    [TCP_CMD_SHUTDOWN] = {sizeof(struct tcp_cmd_sock), cmd_shutdown},
    [TCP_CMD_CLOSE] = {sizeof(struct tcp_cmd_close), cmd_close},
    [TCP_CMD_OPTION] = {sizeof(struct tcp_cmd_option), tcp_cmd_option_run},
    [TCP_CMD_INFO] = {sizeof(struct tcp_cmd_info), tcp_cmd_info_run},
    [TCP_CMD_STATS] = {sizeof(struct tcp_cmd_stats), tcp_cmd_stats_run},
    [TCP_CMD_SYNC] = {sizeof(struct tcp_cmd_sync), cmd_sync},
    [TCP_CMD_PORTS] = {sizeof(struct tcp_cmd_ports), cmd_ports},
    [TCP_CMD_HEIR] = {sizeof(struct tcp_cmd_sock), cmd_heir},
    [TCP_CMD_GIVE] = {sizeof(struct tcp_cmd_give), cmd_give},
    [TCP_CMD_FREEZE] = {sizeof(struct tcp_cmd_freeze), tcp_cmd_freeze_run},
    [TCP_CMD_RESUME] = {sizeof(struct tcp_cmd_resume), tcp_cmd_resume_run},
};

void tcp_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    struct tcp_ctx x;
    memset(ret_reply, 0, sizeof *ret_reply);
    if (cmd->id >= ARRAY_LEN(commands) || commands[cmd->id].run == NULL) {
        ret_reply->error = -ENOTSUP;
        return;
    }
    if (cmd->size < commands[cmd->id].size) {
        ret_reply->error = -EINVAL;
        return;
    }
    tcp_ctx_init(&x, (struct tcp_engine *)state, io);
    ret_reply->error = commands[cmd->id].run(&x, cmd, ret_reply);
}

/* ---- the data path's own requests ---- */

static void reject(struct engine_io *io, struct pkt *p) {
    ENGINE_COUNT(io, TCP_COUNT_BAD_SEND);
    pkt_drop(io, p, DROP_TCP_BAD_SEND);
}

static bool can_send(const struct tcp_conn *c) {
    return (c->state == TCP_STATE_ESTABLISHED || c->state == TCP_STATE_CLOSE_WAIT || c->state == TCP_STATE_SYN_SENT ||
            c->state == TCP_STATE_SYN_RCVD) &&
           !(c->flags & (TCP_F_FIN_QUEUED | TCP_F_ORPHAN)) && (c->flags & TCP_F_ADOPTED);
}

/* False: bad request, or no room; the packet was dealt with. */
static bool enqueue(struct tcp_ctx *x, struct tcp_conn *c, struct pkt *p) {
    bool region = p->flags & PKT_REGION;
    uint32_t len = region ? p->frag_len : pkt_bytes(p), ref = TCP_NIL, off = p->user;
    bool more = p->flags & PKT_MORE, urgent = p->flags & PKT_URGENT;
    if (len == 0 || len > INT32_MAX - (c->snd_end - c->snd_una)) {
        reject(x->io, p);
        return false;
    }
    if (!region) {
        ref = tcp_keep(x, p);
        if (ref == TCP_NIL) {
            reject(x->io, p);
            return false;
        }
        off = 0;
    }
    bool queued = tcp_queue_push(x, c, off, len, ref);
    if (region)
        (void)pkt_vec_push(x->io->done, p);
    else if (!queued)
        tcp_bury(x, ref);
    if (UNLIKELY(!queued)) { /* a stream may not lose bytes: it ends */
        ENGINE_COUNT(x->io, TCP_COUNT_ITEM_LIMIT);
        tcp_cold(x->st, c)->error = ENOBUFS;
        (void)tcp_fsm(x, c, TCP_EV_ABORT);
        return false;
    }
    if (UNLIKELY(urgent))
        c->snd_up = c->snd_end;
    c->flags = more ? c->flags | TCP_F_MORE : c->flags & ~(uint32_t)TCP_F_MORE;
    if (tcp_cold(x->st, c)->notsent_lowat != 0 && c->snd_end - c->snd_nxt >= tcp_cold(x->st, c)->notsent_lowat)
        c->flags |= TCP_F_LOWAT;
    return true;
}

/* The connections of a burst, and as bits those packets that are the last of theirs: it is flushed with them, within
 * the same change, which spares a copy to the undo slot. */
static uint64_t find_all(struct tcp_ctx *x, struct pkt **pkts, uint32_t n, struct tcp_conn **ret_conn) {
    STATIC_ASSERT(PKT_BURST <= 64, "a bit each");
    uint64_t last = 0;
    for (uint32_t i = 0; i < n; i++)
        if (LIKELY(pkts[i]->sock < x->st->a.table[TCP_TABLE_CONN].high_water))
            tcp_prefetch(x->st, pkts[i]->sock);
    for (uint32_t i = n; i-- > 0;) {
        struct tcp_conn *c = find(x, pkts[i]->sock, pkts[i]->sink);
        ret_conn[i] = c;
        if (UNLIKELY(c == NULL) || (c->flags & TCP_F_TOUCHED))
            continue;
        c->flags |= TCP_F_TOUCHED;
        last |= 1ull << i;
    }
    return last;
}

void tcp_send(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct tcp_conn *conn[PKT_BURST];
    struct tcp_ctx x;
    CHECK(n <= PKT_BURST);
    tcp_ctx_init(&x, (struct tcp_engine *)state, io);
    uint64_t last = find_all(&x, pkts, n, conn);
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        struct tcp_conn *c = conn[i];
        if (UNLIKELY(c == NULL || !(c->r.generation & 1))) { /* an earlier packet of the burst may have ended it */
            reject(io, p);
            continue;
        }
        (void)tcp_begin(&x, p->sock);
        if (UNLIKELY(!can_send(c) || ((p->flags & PKT_REGION) && SINK_KIND(c->sink) != SINK_SESSION)))
            reject(io, p);
        else if (enqueue(&x, c, p) && UNLIKELY(c->state == TCP_STATE_SYN_SENT) && c->seg_head == TCP_NIL)
            (void)tcp_send_syn(&x, c);
        if (LIKELY(last >> i & 1))
            tcp_flush_conn(&x, c);
        tcp_end(&x);
    }
}

void tcp_credit(void *state, struct engine_io *io, const struct engine_credit *credits, uint32_t n) {
    struct tcp_ctx x;
    tcp_ctx_init(&x, (struct tcp_engine *)state, io);
    for (uint32_t i = 0; i < n; i++) {
        struct tcp_conn *c = find(&x, credits[i].sock, credits[i].sink);
        if (c == NULL)
            continue;
        (void)tcp_begin(&x, credits[i].sock);
        tcp_data_credit(&x, c, credits[i].bytes);
        if (c->flags & TCP_F_ACK_NOW)
            tcp_flush_conn(&x, c);
        tcp_end(&x);
    }
}
