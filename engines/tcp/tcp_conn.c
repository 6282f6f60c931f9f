/* SPDX-License-Identifier: Apache-2.0
 *
 * Connection records: birth, the bracket around every change, what a burst has touched, the one wheel node of each
 * connection, death. Runs on the shard's worker.
 *
 * Crash order: a record is filled before it is published; what a change lets go of (send-queue items, the record
 * itself) is given back only after the change is committed; so recovery finds either all of it or none.
 */
#include "engines/tcp/tcp_conn.h"

#include "engines/tcp/tcp_cc.h"
#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_queue.h"
#include "engines/tcp/tcp_seg.h"
#include "engines/tcp/tcp_timer.h"

#define MSS_DEFAULT4 536u /* RFC 9293 MUST-15 */
#define MSS_DEFAULT6 1220u
#define MSS_FLOOR    88u /* a peer that asks for less costs us more than it is worth (tiny-MSS attack) */
#define MTU_DEFAULT  1500u
#define RTO_INITIAL  TCP_TICKS_MS(1000) /* RFC 6298 section 2.1 */
#define QUICKACKS    8u
#define ARM_FAR      (1u << 30) /* ticks; what is further away is looked at again on the way */
#define STALL_TICKS  TCP_TICKS_US(50)

void tcp_ctx_init(struct tcp_ctx *x, struct tcp_engine *st, struct engine_io *io) {
    x->st = st;
    x->io = io;
    x->tick = tcp_tick(io->now);
    x->coarse = tcp_coarse(io->now);
    x->free_item = TCP_NIL;
    x->free_item_end = TCP_NIL;
    x->open = TCP_NIL;
    x->dead = false;
    x->force = false;
    x->refused = NULL;
    x->later = false;
    x->touched_count = 0;
    st->now = io->now;
}

struct tcp_conn *tcp_begin(struct tcp_ctx *x, uint32_t index) {
    struct tcp_conn *c = tcp_at(x->st, index);
    DCHECK(x->open == TCP_NIL && (c->r.generation & 1));
    arena_change(&x->st->a, TCP_TABLE_CONN, index, c, sizeof *c);
    x->open = index;
    return c;
}

void tcp_end(struct tcp_ctx *x) {
    uint32_t index = x->open;
    arena_commit(&x->st->a);
    x->open = TCP_NIL;
    if (x->free_item != x->free_item_end) {
        tcp_queue_release(x, x->free_item, x->free_item_end);
        x->free_item = x->free_item_end = TCP_NIL;
    }
    if (UNLIKELY(x->dead)) {
        x->dead = false;
        tcp_conn_destroy(x, index);
    }
}

void tcp_touch(struct tcp_ctx *x, struct tcp_conn *c) {
    if (c->flags & TCP_F_TOUCHED)
        return;
    DCHECK(x->touched_count < ARRAY_LEN(x->touched));
    c->flags |= TCP_F_TOUCHED;
    x->touched[x->touched_count++] = tcp_index(x->st, c);
}

/* The earliest thing the connection waits for, as a tick; false = nothing. */
static bool next_tick(const struct tcp_ctx *x, const struct tcp_conn *c, uint32_t *ret_at) {
    bool any = false;
    uint32_t at = 0;
    if (c->rtx != TCP_RTX_NONE) {
        at = c->rtx_at;
        any = true;
    }
    if ((c->flags & TCP_F_ACK_LATER) && (!any || seq_before(c->delack_at, at))) {
        at = c->delack_at;
        any = true;
    }
    bool waits = seq_before(c->snd_nxt, c->snd_end) || c->lost != c->retrans; /* repetitions are paced as well */
    if ((c->flags & TCP_F_PACED) && waits && seq_before(x->tick, c->pace_at) && (!any || seq_before(c->pace_at, at))) {
        at = c->pace_at;
        any = true;
    }
    if (c->flags & TCP_F_STALLED) {
        /* The vecs are empty next time, the pool may not be; the next turn is a later time. */
        bool room = pkt_vec_room(x->io->down) <= TCP_ROOM_RESERVE || pkt_vec_room(x->io->up) <= TCP_UP_RESERVE;
        uint32_t again = x->tick + (x->later ? 1 : room ? 0 : STALL_TICKS);
        at = any ? seq_min(at, again) : again;
        any = true;
    }
    if (c->slow_at != 0) {
        int32_t left = (int32_t)(c->slow_at - x->coarse);
        uint32_t ticks = left <= 0 ? 0 : left >= (int32_t)(ARM_FAR >> 10) ? ARM_FAR : (uint32_t)left << 10;
        if (!any || seq_before(x->tick + ticks, at))
            at = x->tick + ticks;
        any = true;
    }
    *ret_at = at;
    return any;
}

/* Deadlines mostly move into the future (every ACK restarts the retransmission timer), so the node stays where it is
 * until it fires, and is armed anew only for something earlier: no wheel work on the fast path. */
static void arm(struct tcp_ctx *x, struct tcp_conn *c) {
    uint32_t at;
    if (!next_tick(x, c, &at))
        return;
    if ((c->flags & TCP_F_ARMED) && !seq_before(at, c->wake_at))
        return;
    int32_t left = (int32_t)(at - x->tick);
    ns_t deadline = left <= 0 ? x->io->now : ((x->io->now >> TCP_TICK_SHIFT) + (uint32_t)left) << TCP_TICK_SHIFT;
    c->wake_at = at;
    c->flags |= TCP_F_ARMED;
    wheel_arm(tcp_wheel(x->st), tcp_index(x->st, c), deadline);
}

static void give_notices(struct tcp_ctx *x, struct tcp_conn *c) {
    if (c->tx_done != 0 && x->io->notice_count < NOTICE_VEC_MAX) {
        uint32_t done = c->tx_done;
        c->tx_done = 0;
        if (c->flags & TCP_F_ADOPTED)
            tcp_notice(x, c, NOTICE_TX_DONE, tcp_queue_advice(x->st, c), done);
    }
    if (UNLIKELY(c->flags & TCP_F_LOWAT) && c->snd_end - c->snd_nxt < tcp_cold(x->st, c)->notsent_lowat) {
        c->flags &= ~(uint32_t)TCP_F_LOWAT;
        tcp_notice(x, c, NOTICE_WRITABLE, 0, 0);
    }
}

void tcp_flush_conn(struct tcp_ctx *x, struct tcp_conn *c) {
    c->flags &= ~(uint32_t)TCP_F_TOUCHED;
    if (UNLIKELY(x->dead))
        return;
    tcp_output(x, c);
    if (UNLIKELY(x->dead))
        return;
    if (UNLIKELY(c->ooo_head != TCP_NIL) && tcp_data_waits(x, c))
        c->flags |= TCP_F_STALLED;
    if (c->flags & TCP_F_ACK_NOW)
        tcp_send_ack(x, c);
    give_notices(x, c);
    arm(x, c);
}

void tcp_flush(struct tcp_ctx *x) {
    for (uint32_t i = 0; i < x->touched_count; i++) {
        struct tcp_conn *c = tcp_at(x->st, x->touched[i]);
        if (!(c->r.generation & 1) || !(c->flags & TCP_F_TOUCHED))
            continue; /* it ended within this burst */
        (void)tcp_begin(x, x->touched[i]);
        tcp_flush_conn(x, c);
        tcp_end(x);
    }
    x->touched_count = 0;
}

void tcp_notice(struct tcp_ctx *x, const struct tcp_conn *c, uint16_t kind, uint32_t value, uint32_t extra) {
    const struct notice n = {.sink = c->sink,
                             .value = value,
                             .extra = extra,
                             .kind = kind,
                             .port = c->flow.remote_port,
                             .addr = c->flow.remote};
    engine_notice(x->io, &n);
}

/* RFC 6928. */
uint32_t tcp_initial_cwnd(uint32_t mss) {
    return min_u32(10 * mss, max_u32(2 * mss, 14600));
}

void tcp_conn_mss(struct tcp_engine *st, struct tcp_conn *c) {
    const struct tcp_cold *k = tcp_cold(st, c);
    bool v4 = ipaddr_is_v4(&c->flow.remote);
    uint32_t headers = TCP_LEN + (v4 ? IP4_LEN : IP6_LEN);
    uint32_t mss = k->mtu > headers + MSS_FLOOR ? k->mtu - headers : MSS_FLOOR;
    mss = min_u32(mss, max_u32(k->peer_mss != 0 ? k->peer_mss : v4 ? MSS_DEFAULT4 : MSS_DEFAULT6, MSS_FLOOR));
    if (k->user_mss != 0)
        mss = min_u32(mss, k->user_mss);
    /* RFC 6691: the MSS option counts no options, a segment must. */
    c->mss = (uint16_t)(mss - (c->flags & TCP_F_TS ? TCP_OPTS_TS : 0));
}

uint16_t tcp_advertised_mss(struct tcp_engine *st, const struct tcp_conn *c) {
    const struct tcp_cold *k = tcp_cold(st, c);
    uint32_t headers = TCP_LEN + (ipaddr_is_v4(&c->flow.remote) ? IP4_LEN : IP6_LEN);
    uint32_t mss = k->mtu > headers + MSS_FLOOR ? k->mtu - headers : MSS_FLOOR;
    return (uint16_t)(k->user_mss != 0 ? min_u32(mss, k->user_mss) : mss);
}

int tcp_conn_route(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    struct engine_route route = {.port = k->port, .mtu = k->mtu != 0 ? k->mtu : MTU_DEFAULT};
    if (x->io->route != NULL)
        x->io->route(x->io->route_arg, &c->flow.remote, &route);
    if (route.error != 0)
        return route.error;
    k->port = route.port;
    k->mtu = route.mtu;
    c->flags = route.local ? c->flags | TCP_F_LOCAL : c->flags & ~(uint32_t)TCP_F_LOCAL;
    tcp_conn_mss(x->st, c);
    return 0;
}

void tcp_conn_apply(struct tcp_engine *st, struct tcp_conn *c, const struct tcp_options *opt) {
    struct tcp_cold *k = tcp_cold(st, c);
    k->user_timeout = opt->user_timeout_ms != 0 ? TCP_COARSE_MS(opt->user_timeout_ms) : 0;
    k->notsent_lowat = opt->notsent_lowat;
    k->max_pacing = (uint32_t)(((uint64_t)opt->max_pacing << 20) / NS_PER_SEC);
    k->keep_idle = opt->keep_idle != 0 ? opt->keep_idle : 7200; /* RFC 9293 MUST-28 */
    k->keep_interval = opt->keep_interval != 0 ? opt->keep_interval : 75;
    k->keep_count = opt->keep_count != 0 ? opt->keep_count : 9;
    k->user_mss = opt->maxseg;
    k->tos = opt->tos;
    k->ttl = opt->ttl;
    k->syn_retries = opt->retries != 0 ? opt->retries : 7; /* over 3 minutes, RFC 9293 MUST-23 */
    k->linger2 = 60;
    c->flags |= (opt->nodelay ? TCP_F_NODELAY : 0u) | (opt->cork ? TCP_F_CORK : 0u) |
                (opt->quickack ? TCP_F_QUICKACK : 0u) | (opt->keepalive ? TCP_F_KEEPALIVE : 0u);
    uint32_t limit = opt->rcvbuf != 0 ? opt->rcvbuf : st->cfg.rcvbuf;
    c->rcv_limit = min_u32(limit, st->cfg.rcvbuf_max);
    k->drs_space = opt->rcvbuf != 0 ? UINT32_MAX : 0; /* a size that was asked for is not tuned */
    int cc = opt->congestion[0] != '\0' ? tcp_cc_find(opt->congestion) : -1;
    c->cc = (uint8_t)(cc >= 0 ? cc : st->cc_default);
}

static void init_hot(struct tcp_engine *st, struct tcp_conn *c, const struct tcp_birth *b) {
    memset((uint8_t *)c + sizeof c->r, 0, sizeof *c - sizeof c->r);
    c->flow = b->flow;
    c->sink = b->sink;
    c->flags = b->flags;
    if (SINK_KIND(b->sink) == SINK_ENGINE)
        c->flags |= TCP_F_APP_SINK;
    c->scales = (uint8_t)(b->flags & TCP_F_WSCALE ? b->snd_wscale | (uint32_t)st->rcv_wscale << 4 : 0);
    c->iss = c->snd_una = c->snd_nxt = b->iss;
    c->snd_end = b->iss + 1;
    c->snd_up = b->iss;
    c->irs = b->irs;
    c->rcv_nxt = c->rcv_acked = c->rcv_adv = b->irs + 1;
    c->ts_recent = b->ts_recent;
    c->ooo_head = c->ooo_tail = TCP_NIL;
    c->q_head = c->q_tail = c->q_next = TCP_NIL;
    c->seg_head = c->seg_tail = TCP_NIL;
    c->ssthresh = UINT32_MAX >> 1;
    c->rto = RTO_INITIAL;
    c->rcv_mss = MSS_DEFAULT4;
}

static void init_cold(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_birth *b) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    memset(k, 0, sizeof *k);
    k->owner = b->owner;
    k->ts_off = b->ts_off;
    k->listener = b->listener;
    k->peer_mss = b->peer_mss;
    k->port = b->port;
    k->min_rtt = UINT32_MAX;
    k->rack_end = k->fack = k->reo_end = b->iss;
    k->quickacks = QUICKACKS;
    k->reo_mult = 1;
    k->drs_seq = k->rcv_up = c->rcv_nxt;
    k->drs_at = x->tick;
    k->delivered_at = k->first_sent = x->tick;
}

struct tcp_conn *tcp_conn_create(struct tcp_ctx *x, const struct tcp_birth *b) {
    struct tcp_engine *st = x->st;
    struct arena_table *t = &st->a.table[TCP_TABLE_CONN];
    uint32_t index;
    DCHECK(x->open == TCP_NIL);
    struct tcp_conn *c = (struct tcp_conn *)arena_take(st, t, &index);
    if (c == NULL)
        return NULL;
    init_hot(st, c, b);
    c->heard_at = c->ts_recent_at = x->coarse;
    c->pace_at = x->tick;
    init_cold(x, c, b);
    tcp_conn_apply(st, c, b->opt);
    (void)tcp_conn_route(x, c);
    if (b->local)
        c->flags |= TCP_F_LOCAL;
    c->cwnd = tcp_initial_cwnd(c->mss);
    tcp_cc_init(x, c);
    arena_publish(t, c);
    hash_index_insert(&st->conn_ix, &st->a, index, hash_flow(&st->key, &c->flow));
    struct tcp_listener *l = tcp_listener_at(st, b->listener);
    if (l != NULL) {
        l->pending++;
        l->open++;
    }
    return tcp_begin(x, index);
}

void tcp_conn_destroy(struct tcp_ctx *x, uint32_t index) {
    struct tcp_engine *st = x->st;
    struct tcp_conn *c = tcp_at(st, index);
    struct tcp_cold *k = tcp_cold_at(st, index);
    DCHECK(x->open == TCP_NIL);
    struct tcp_listener *l = tcp_listener_at(st, k->listener);
    if (l != NULL) {
        l->open -= l->open > 0;
        if (!(c->flags & TCP_F_ADOPTED))
            l->pending -= l->pending > 0;
        if ((c->flags & TCP_F_TFO) && (c->flags & TCP_F_PASSIVE))
            l->fastopen_used -= l->fastopen_used > 0;
    }
    st->rx_held -= c->rcv_held;
    hash_index_remove(&st->conn_ix, &st->a, index);
    wheel_cancel(tcp_wheel(st), index);
    tcp_seg_release_all(st, c);
    if (c->ooo_head != TCP_NIL)
        tcp_data_forget(x, c);
    uint32_t items = c->q_head;
    arena_release(&st->a.table[TCP_TABLE_CONN], c, index);
    tcp_queue_release(x, items, TCP_NIL);
}
