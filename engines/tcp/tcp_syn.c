/* SPDX-License-Identifier: Apache-2.0
 *
 * Passive opens. A SYN costs a record of two lines (struct tcp_half) while there is room, and nothing at all under
 * pressure (cookies); a connection record is made only when the third segment proves that the peer can hear us. Fast
 * open is the exception: its cookie is that proof. Runs on the shard's worker.
 */
#include "engines/tcp/tcp_syn.h"

#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_fastopen.h"
#include "engines/tcp/tcp_input.h"
#include "engines/tcp/tcp_loss.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_prf.h"

#define SYNACK_RETRIES 5u
#define SYNACK_FIRST   NS_PER_SEC
#define COOKIES_FOR    TCP_COARSE_S(140) /* as long as one may still be answered */
#define MTU_DEFAULT    1500u

static struct tcp_half *half_at(struct tcp_engine *st, uint32_t index) {
    return (struct tcp_half *)arena_record(st, &st->a.table[TCP_TABLE_HALF], index);
}

/* Listeners that a dead process had are made again by its clients; what was half open then waits for them. */
static struct tcp_listener *listener_of(struct tcp_engine *st, struct tcp_half *h) {
    if (h->listener != TCP_NIL)
        return tcp_listener_at(st, h->listener);
    h->listener = tcp_find_listener(st, &h->flow, hash_flow(&st->key, &h->flow), 0);
    struct tcp_listener *l = tcp_listener_at(st, h->listener);
    if (l != NULL)
        l->half++;
    return l;
}

void tcp_half_release(struct tcp_engine *st, uint32_t index) {
    struct tcp_half *h = half_at(st, index);
    struct tcp_listener *l = tcp_listener_at(st, h->listener);
    if (l != NULL)
        l->half -= l->half > 0;
    hash_index_remove(&st->half_ix, &st->a, index);
    wheel_cancel(tcp_half_wheel(st), index);
    arena_release(&st->a.table[TCP_TABLE_HALF], h, index);
}

void tcp_half_link(struct tcp_engine *st, uint32_t index, ns_t at) {
    hash_index_insert(&st->half_ix, &st->a, index, hash_flow(&st->key, &half_at(st, index)->flow));
    wheel_arm(tcp_half_wheel(st), index, at);
}

bool tcp_half_again(struct tcp_engine *st, const struct tcp_conn *c, const struct tcp_cold *k, uint32_t *ret_index) {
    struct arena_table *t = &st->a.table[TCP_TABLE_HALF];
    bool fresh = c->state == TCP_STATE_ESTABLISHED && c->rcv_nxt == c->irs + 1 && c->snd_end == c->iss + 1;
    if (!fresh || (c->flags & (TCP_F_PASSIVE | TCP_F_TFO)) != TCP_F_PASSIVE)
        return false;
    struct tcp_half *h = (struct tcp_half *)arena_take(st, t, ret_index);
    if (h == NULL)
        return false;
    const struct arena_record keep = h->r;
    *h = (struct tcp_half){.r = keep,
                           .flow = c->flow,
                           .iss = c->iss,
                           .irs = c->irs,
                           .ts_recent = c->ts_recent,
                           .ts_off = k->ts_off,
                           .listener = TCP_NIL,
                           .flags = c->flags & (TCP_F_TS | TCP_F_SACK | TCP_F_WSCALE | TCP_F_ECN),
                           .mss = k->peer_mss,
                           .port = k->port,
                           .snd_wscale = (uint8_t)tcp_snd_scale(c),
                           .retries = 1}; /* the time since its SYN is no round trip */
    arena_publish(t, h);
    return true;
}

/* What both sides can do, from the peer's SYN. */
static uint32_t agree(const struct tcp_engine *st, const struct tcp_rx *rx, const struct tcp_opts *o) {
    uint32_t off = st->cfg.flags, flags = 0;
    if ((o->present & TCP_O_TS) && !(off & TCP_CONFIG_NO_TIMESTAMPS))
        flags |= TCP_F_TS;
    if ((o->present & TCP_O_SACK_OK) && !(off & TCP_CONFIG_NO_SACK))
        flags |= TCP_F_SACK;
    if ((o->present & TCP_O_WSCALE) && !(off & TCP_CONFIG_NO_WSCALE))
        flags |= TCP_F_WSCALE;
    if ((rx->flags & (TCP_ECE | TCP_CWR)) == (TCP_ECE | TCP_CWR) && !(off & TCP_CONFIG_NO_ECN))
        flags |= TCP_F_ECN;
    return flags;
}

/* Everything a SYN-ACK says. */
struct syn_ack {
    const struct flow *flow;
    const struct tcp_listener *l;
    uint32_t iss, irs, tsval, tsecr, flags;
    uint8_t tos;
    const uint8_t *cookie; /* fast open, NULL = none */
};

static uint16_t our_mss(struct tcp_ctx *x, const struct flow *f, const struct tcp_listener *l) {
    struct engine_route route = {.mtu = MTU_DEFAULT};
    if (x->io->route != NULL)
        x->io->route(x->io->route_arg, &f->remote, &route);
    uint32_t headers = TCP_LEN + (ipaddr_is_v4(&f->remote) ? IP4_LEN : IP6_LEN);
    uint32_t mss = route.error == 0 && route.mtu > headers + 88u ? route.mtu - headers : 536;
    return (uint16_t)(l->opt.maxseg != 0 ? min_u32(mss, l->opt.maxseg) : mss);
}

static uint32_t first_window(const struct tcp_ctx *x, const struct tcp_listener *l) {
    uint32_t limit = min_u32(l->opt.rcvbuf != 0 ? l->opt.rcvbuf : x->st->cfg.rcvbuf, x->st->cfg.rcvbuf_max);
    return min_u32(min_u32(limit, tcp_window_most(x, l->sink, 0)), 65535);
}

static void send_syn_ack(struct tcp_ctx *x, const struct syn_ack *s) {
    struct tcp_opts o = {.mss = our_mss(x, s->flow, s->l), .tsval = s->tsval, .tsecr = s->tsecr};
    uint8_t bytes[TCP_OPTS_MAX];
    o.wscale = x->st->rcv_wscale;
    o.present = TCP_O_MSS | (s->flags & TCP_F_TS ? TCP_O_TS : 0u) | (s->flags & TCP_F_SACK ? TCP_O_SACK_OK : 0u) |
                (s->flags & TCP_F_WSCALE ? TCP_O_WSCALE : 0u) | (s->cookie != NULL ? TCP_O_FASTOPEN : 0u);
    o.cookie = s->cookie;
    o.cookie_len = s->cookie != NULL ? TCP_FASTOPEN_COOKIE : 0;
    const struct tcp_head h = {.flow = s->flow,
                               .seq = s->iss,
                               .ack = s->irs + 1,
                               .wnd = (uint16_t)first_window(x, s->l),
                               .flags = (uint8_t)(TCP_SYN | TCP_ACK | (s->flags & TCP_F_ECN ? TCP_ECE : 0)),
                               .tos = s->l->opt.tos,
                               .ttl = s->l->opt.ttl,
                               .opts_len = (uint8_t)tcp_opts_write_syn(bytes, &o),
                               .opts = bytes,
                               .owner = s->l->owner,
                               .sock = TCP_NIL};
    (void)tcp_emit(x, &h);
}

static void half_answer(struct tcp_ctx *x, const struct tcp_half *h, const struct tcp_listener *l) {
    uint8_t cookie[TCP_FASTOPEN_COOKIE];
    tcp_fastopen_cookie(x->st, &h->flow, cookie);
    const struct syn_ack s = {.flow = &h->flow,
                              .l = l,
                              .iss = h->iss,
                              .irs = h->irs,
                              .tsval = x->coarse + h->ts_off,
                              .tsecr = h->ts_recent,
                              .flags = h->flags,
                              .cookie = h->flags & TCP_F_TFO ? cookie : NULL};
    send_syn_ack(x, &s);
}

static void answer_by_cookie(struct tcp_ctx *x, const struct tcp_rx *rx, const struct tcp_listener *l,
                             const struct tcp_opts *o) {
    struct tcp_engine *st = x->st;
    const struct flow *f = &rx->p->flow;
    const struct tcp_cookie c = {.snd_wscale = o->wscale, .flags = agree(st, rx, o)};
    struct syn_ack s = {.flow = f, .l = l, .irs = rx->seq, .tsecr = o->tsval, .flags = c.flags};
    s.iss = tcp_cookie_make(st, f, rx->seq, x->coarse, o->present & TCP_O_MSS ? o->mss : 536);
    if (c.flags & TCP_F_TS)
        s.tsval = tcp_cookie_stamp(x->coarse + tcp_ts_offset(st, f), &c);
    else
        s.flags &= ~(uint32_t)(TCP_F_SACK | TCP_F_WSCALE | TCP_F_ECN); /* there is nowhere to remember them */
    st->cookies_at = x->coarse | 1;
    ENGINE_COUNT(x->io, TCP_COUNT_COOKIE_SENT);
    send_syn_ack(x, &s);
}

static struct tcp_half *half_create(struct tcp_ctx *x, const struct tcp_rx *rx, uint32_t listener,
                                    const struct tcp_opts *o, uint32_t iss) {
    struct tcp_engine *st = x->st;
    uint32_t index;
    struct tcp_half *h = (struct tcp_half *)arena_take(st, &st->a.table[TCP_TABLE_HALF], &index);
    if (h == NULL)
        return NULL;
    const struct arena_record keep = h->r;
    *h = (struct tcp_half){.r = keep,
                           .flow = rx->p->flow,
                           .iss = iss != 0 ? iss : tcp_isn(st, &rx->p->flow, x->io->now),
                           .irs = rx->seq,
                           .ts_recent = o->tsval,
                           .ts_off = tcp_ts_offset(st, &rx->p->flow),
                           .listener = listener,
                           .sent_at = x->tick,
                           .flags = agree(st, rx, o),
                           .mss = o->present & TCP_O_MSS ? o->mss : 0,
                           .port = rx->p->port,
                           .snd_wscale = o->wscale,
                           .user_timeout = o->present & TCP_O_UTO ? o->uto : 0};
    if (tcp_listener_at(st, listener)->fastopen != 0 && (o->present & TCP_O_FASTOPEN))
        h->flags |= TCP_F_TFO; /* a cookie is asked for */
    arena_publish(&st->a.table[TCP_TABLE_HALF], h);
    tcp_half_link(st, index, x->io->now + SYNACK_FIRST);
    tcp_listener_at(st, listener)->half++;
    return h;
}

static void birth_of(const struct tcp_ctx *x, const struct tcp_rx *rx, const struct tcp_listener *l, uint32_t index,
                     struct tcp_birth *ret_birth) {
    *ret_birth = (struct tcp_birth){.flow = rx->p->flow,
                                    .sink = l->sink,
                                    .owner = l->owner,
                                    .ts_off = tcp_ts_offset(x->st, &rx->p->flow),
                                    .listener = index,
                                    .port = rx->p->port,
                                    .local = rx->p->flags & PKT_LOCAL,
                                    .opt = &l->opt};
}

/* RFC 7413 section 4.2: the connection exists from its SYN on, and the data in it counts. */
static void fastopen_accept(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t listener, const struct tcp_opts *o) {
    struct tcp_listener *l = tcp_listener_at(x->st, listener);
    struct tcp_birth b;
    birth_of(x, rx, l, listener, &b);
    b.iss = tcp_isn(x->st, &rx->p->flow, x->io->now);
    b.irs = rx->seq;
    b.flags = agree(x->st, rx, o) | TCP_F_PASSIVE | TCP_F_TFO;
    b.ts_recent = o->tsval;
    b.peer_mss = o->present & TCP_O_MSS ? o->mss : 0;
    b.snd_wscale = o->wscale;
    struct tcp_conn *c = tcp_conn_create(x, &b);
    if (c == NULL) {
        pkt_drop(x->io, rx->p, DROP_ENGINE_LIMIT);
        return;
    }
    ENGINE_COUNT(x->io, TCP_COUNT_FASTOPEN);
    l->fastopen_used++;
    c->snd_wnd = c->snd_wnd_max = rx->wnd;
    c->snd_wl1 = rx->seq;
    c->rcv_adv = c->rcv_nxt + first_window(x, l);
    (void)tcp_fsm(x, c, TCP_EV_ACCEPT_TFO);
    rx->seq++;
    rx->flags = (uint8_t)(rx->flags & ~TCP_SYN);
    if (rx->len != 0)
        tcp_data_input(x, c, rx);
    else
        (void)pkt_vec_push(x->io->done, rx->p);
    c->flags &= ~(uint32_t)(TCP_F_ACK_NOW | TCP_F_ACK_LATER);
    (void)tcp_send_syn(x, c);
    tcp_flush_conn(x, c);
    tcp_end(x);
}

void tcp_listen_syn(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t listener, const struct tcp_opts *o, uint32_t iss) {
    struct tcp_listener *l = tcp_listener_at(x->st, listener);
    const struct arena_table *halves = &x->st->a.table[TCP_TABLE_HALF];
    if (UNLIKELY(l->pending >= l->backlog)) {
        ENGINE_COUNT(x->io, TCP_COUNT_ACCEPT_FULL);
        pkt_drop(x->io, rx->p, DROP_TCP_BACKLOG);
        return;
    }
    if (UNLIKELY(tcp_fastopen_good(x, l, rx, o))) {
        fastopen_accept(x, rx, listener, o);
        return;
    }
    struct tcp_half *h = NULL;
    bool room = l->half < l->backlog && halves->live < halves->capacity;
    if (LIKELY(room && !(x->st->cfg.flags & TCP_CONFIG_COOKIES_ALWAYS)))
        h = half_create(x, rx, listener, o, iss);
    if (LIKELY(h != NULL))
        half_answer(x, h, l);
    else
        answer_by_cookie(x, rx, l, o);
    (void)pkt_vec_push(x->io->done, rx->p);
}

/* The handshake is complete: a connection is born, and the segment that completed it is its first. */
static void promote(struct tcp_ctx *x, struct tcp_rx *rx, const struct tcp_birth *b, uint32_t half, uint32_t rtt,
                    uint32_t user_timeout_s) {
    struct tcp_conn *c = tcp_conn_create(x, b);
    if (UNLIKELY(c == NULL)) {
        pkt_drop(x->io, rx->p, DROP_ENGINE_LIMIT);
        return;
    }
    if (half != TCP_NIL)
        tcp_half_release(x->st, half);
    ENGINE_COUNT(x->io, TCP_COUNT_PASSIVE);
    c->snd_una = c->snd_nxt = c->iss + 1;
    c->snd_wnd = c->snd_wnd_max = (uint32_t)rx->wnd << tcp_snd_scale(c);
    c->snd_wl1 = rx->seq;
    c->rcv_adv = c->rcv_nxt + min_u32(tcp_window_limit(x, c), 65535);
    struct tcp_cold *k = tcp_cold(x->st, c);
    if (user_timeout_s != 0 && k->user_timeout == 0) /* RFC 5482: within our own bounds */
        k->user_timeout = TCP_COARSE_S(max_u32(user_timeout_s, 100));
    if (rtt != 0)
        tcp_rtt_sample(x, c, rtt);
    (void)tcp_fsm(x, c, TCP_EV_ACCEPT);
    rx->conn = tcp_index(x->st, c);
    if (!x->dead)
        tcp_conn_input(x, c, rx);
    else
        (void)pkt_vec_push(x->io->done, rx->p);
    tcp_touch(x, c);
    tcp_end(x);
}

/* False: the third segment is held back, the half-open record stays. */
static bool may_accept(struct tcp_ctx *x, const struct tcp_rx *rx, struct tcp_half *h, const struct tcp_listener *l) {
    if (l->pending >= l->backlog) {
        ENGINE_COUNT(x->io, TCP_COUNT_ACCEPT_FULL);
        return false;
    }
    if (l->defer_accept != 0 && rx->len == 0 && !(rx->flags & TCP_FIN)) {
        h->acked = 1;
        return false;
    }
    return true;
}

static void half_ack(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t index, const struct tcp_opts *o) {
    struct tcp_half *h = half_at(x->st, index);
    const struct tcp_listener *l = tcp_listener_at(x->st, h->listener);
    if (l == NULL || !may_accept(x, rx, h, l)) {
        pkt_drop(x->io, rx->p, DROP_TCP_BACKLOG);
        return;
    }
    struct tcp_birth b;
    birth_of(x, rx, l, h->listener, &b);
    b.iss = h->iss;
    b.irs = h->irs;
    b.flags = (h->flags & ~(uint32_t)TCP_F_TFO) | TCP_F_PASSIVE;
    b.ts_recent = o->present & TCP_O_TS ? o->tsval : h->ts_recent;
    b.peer_mss = h->mss;
    b.snd_wscale = h->snd_wscale;
    promote(x, rx, &b, index, h->retries == 0 ? max_u32(x->tick - h->sent_at, 1) : 0, h->user_timeout);
}

/* RFC 9293 section 3.10.7.4 for SYN-RECEIVED, with RFC 5961 for what is not quite right. */
void tcp_half_input(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t index) {
    struct tcp_half *h = half_at(x->st, index);
    const struct tcp_listener *l = listener_of(x->st, h);
    struct tcp_opts o;
    if (l == NULL || !tcp_opts_parse(rx->p->data - rx->header + TCP_LEN, rx->header - TCP_LEN, false, &o)) {
        pkt_drop(x->io, rx->p, DROP_TCP_OPTIONS);
        return;
    }
    uint32_t offset = rx->seq - h->irs - 1;
    bool old = (h->flags & TCP_F_TS) && (o.present & TCP_O_TS) && seq_before(o.tsval, h->ts_recent);
    if (rx->flags & TCP_RST) {
        if (offset == 0)
            tcp_half_release(x->st, index);
    } else if (rx->flags & TCP_SYN) {
        if (rx->seq == h->irs || tcp_challenge_allowed(x))
            half_answer(x, h, l);
    } else if (rx->flags & TCP_ACK) {
        if (rx->ack != h->iss + 1) {
            tcp_send_stray_reset(x, rx);
        } else if (!old && offset < first_window(x, l)) {
            half_ack(x, rx, index, &o);
            return;
        }
    }
    pkt_drop(x->io, rx->p, DROP_TCP_FLAGS);
}

void tcp_listen_ack(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t listener) {
    struct tcp_engine *st = x->st;
    const struct tcp_listener *l = tcp_listener_at(st, listener);
    struct tcp_cookie cookie;
    struct tcp_opts o;
    bool expected = st->cookies_at != 0 && time_since(x->coarse, st->cookies_at) < COOKIES_FOR;
    if (!expected || (rx->flags & (TCP_RST | TCP_ACK)) != TCP_ACK ||
        !tcp_opts_parse(rx->p->data - rx->header + TCP_LEN, rx->header - TCP_LEN, false, &o) ||
        !tcp_cookie_check(st, rx, &o, x->coarse, &cookie)) {
        if (expected)
            ENGINE_COUNT(x->io, TCP_COUNT_COOKIE_BAD);
        /* Data or FIN may have overtaken the segment that carries the cookie: the peer will repeat that one. */
        if (!expected || (rx->len == 0 && !(rx->flags & TCP_FIN)))
            tcp_send_stray_reset(x, rx);
        pkt_drop(x->io, rx->p, DROP_TCP_NO_SOCKET);
        return;
    }
    if (l->pending >= l->backlog) {
        ENGINE_COUNT(x->io, TCP_COUNT_ACCEPT_FULL);
        pkt_drop(x->io, rx->p, DROP_TCP_BACKLOG);
        return;
    }
    ENGINE_COUNT(x->io, TCP_COUNT_COOKIE_OK);
    struct tcp_birth b;
    birth_of(x, rx, l, listener, &b);
    b.iss = rx->ack - 1;
    b.irs = rx->seq - 1;
    b.flags = cookie.flags | TCP_F_PASSIVE;
    b.ts_recent = o.tsval;
    b.peer_mss = cookie.mss;
    b.snd_wscale = cookie.snd_wscale;
    promote(x, rx, &b, TCP_NIL, 0, 0);
}

uint32_t tcp_half_run(struct tcp_ctx *x, uint32_t *budget) {
    struct tcp_engine *st = x->st;
    uint32_t n = 0, index;
    while (pkt_vec_room(x->io->down) > 0 && (index = wheel_pop(tcp_half_wheel(st), x->io->now, budget)) != WHEEL_NIL) {
        struct tcp_half *h = half_at(st, index);
        struct tcp_listener *l = listener_of(st, h);
        n++;
        /* What is acknowledged but deferred waits for its data, and is answered again at the end of that time. */
        uint32_t age = (uint32_t)((x->tick - h->sent_at) >> (TCP_COARSE_SHIFT - TCP_TICK_SHIFT));
        bool deferred = l != NULL && h->acked && age < l->defer_accept;
        if ((l == NULL && h->listener != TCP_NIL) || (h->retries >= SYNACK_RETRIES && !deferred)) {
            ENGINE_COUNT(x->io, TCP_COUNT_HALF_TIMEOUT);
            tcp_half_release(st, index);
            continue;
        }
        if (h->retries < SYNACK_RETRIES)
            h->retries++;
        if (l != NULL && (!h->acked || !deferred))
            half_answer(x, h, l);
        wheel_arm(tcp_half_wheel(st), index, x->io->now + (SYNACK_FIRST << h->retries));
    }
    return n;
}

void tcp_accept_ready(struct tcp_ctx *x, struct tcp_conn *c) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    const struct tcp_listener *l = tcp_listener_at(x->st, k->listener);
    if (l == NULL)
        return;
    if (SINK_KIND(l->sink) == SINK_ENGINE) {
        tcp_accept_done(x, c, l->sink, l->owner);
        return;
    }
    c->sink = l->sink;
    tcp_notice(x, c, NOTICE_ACCEPT, c->flow.local_port, tcp_index(x->st, c));
}

void tcp_accept_done(struct tcp_ctx *x, struct tcp_conn *c, uint64_t sink, uint32_t owner) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    struct tcp_listener *l = tcp_listener_at(x->st, k->listener);
    if (l != NULL)
        l->pending -= l->pending > 0;
    c->sink = sink;
    k->owner = owner != 0 ? owner : k->owner;
    c->flags |= TCP_F_ADOPTED | (SINK_KIND(sink) == SINK_ENGINE ? TCP_F_APP_SINK : 0u);
    tcp_data_drain(x, c);
}
