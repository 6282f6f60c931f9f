/* SPDX-License-Identifier: Apache-2.0
 *
 * Payload on its way up. In order it goes straight to `up` with its headers cut off: no copy, and the packets of a
 * burst stay neighbours so that the session can join them. Out of order it is kept as packet references in a list
 * without overlaps, bounded by the window, by a count for the whole engine, and by the length of the walk an insertion
 * may take; what exceeds them is dropped, which the peer repairs. Runs on the shard's worker inside a change.
 *
 * A kept packet: `user` = first sequence number, user_data = 1 when a FIN follows its bytes.
 */
#include "engines/tcp/tcp_data.h"

#include "engines/tcp/tcp_output.h"

#define DELACK_TICKS TCP_TICKS_MS(40)
#define WALK_MAX     512u /* steps of one insertion: a peer cannot make us walk a long list for a few bytes */
#define POOL_RESERVE 8u   /* keep nothing while less than 1/8 of the pool is free */
#define DRS_GROW     4u
#define WINDOW_SMALL 16384u
#define ROOM_PART    4u /* of a session's room one connection is promised: so many may fill theirs and none must wait */

bool tcp_session_full(const struct tcp_ctx *x, uint64_t sink) {
    uint32_t slot = SINK_INDEX(sink);
    return SINK_KIND(sink) == SINK_SESSION && slot < x->io->region_count && x->io->regions[slot].rx_full;
}

uint32_t tcp_window_most(const struct tcp_ctx *x, uint64_t sink, uint32_t held) {
    uint32_t slot = SINK_INDEX(sink);
    uint64_t most = UINT32_MAX;
    if (SINK_KIND(sink) == SINK_SESSION && slot < x->io->region_count && x->io->regions[slot].rx_room != 0)
        most = x->io->regions[slot].rx_room / ROOM_PART;
    if (UNLIKELY(x->st->rx_held > x->st->cfg.rx_budget))
        most = 0;
    if (LIKELY(most >= WINDOW_SMALL))
        return (uint32_t)(most < UINT32_MAX ? most : UINT32_MAX);
    /* One that reads keeps a small window, whatever others hold. */
    return held < WINDOW_SMALL ? WINDOW_SMALL - held : 0;
}

uint32_t tcp_window_limit(const struct tcp_ctx *x, const struct tcp_conn *c) {
    return min_u32(c->rcv_limit, tcp_window_most(x, c->sink, c->rcv_held));
}

uint32_t tcp_window_free(const struct tcp_ctx *x, const struct tcp_conn *c) {
    uint32_t wnd = c->rcv_limit > c->rcv_held ? c->rcv_limit - c->rcv_held : 0;
    return min_u32(wnd, tcp_window_most(x, c->sink, c->rcv_held));
}

void tcp_payload_trim_front(struct pkt *p, uint32_t n) {
    uint32_t head = min_u32(n, p->len);
    pkt_pull(p, head);
    n -= head;
    uint32_t i = 0;
    for (; n > 0 && i < p->frag_count; i++) {
        uint32_t cut = min_u32(n, p->frag[i].len);
        p->frag[i].base += cut;
        p->frag[i].len -= cut;
        p->frag_len -= cut;
        n -= cut;
        if (p->frag[i].len != 0)
            break;
    }
    if (i > 0 && i <= p->frag_count) {
        memmove(p->frag, p->frag + i, (p->frag_count - i) * sizeof p->frag[0]);
        p->frag_count = (uint8_t)(p->frag_count - i);
    }
}

void tcp_payload_trim_back(struct pkt *p, uint32_t n) {
    while (n > 0 && p->frag_count > 0) {
        struct pkt_frag *last = &p->frag[p->frag_count - 1];
        uint32_t cut = min_u32(n, last->len);
        last->len -= cut;
        p->frag_len -= cut;
        n -= cut;
        if (last->len == 0)
            p->frag_count--;
    }
    p->len -= min_u32(n, p->len);
}

/* ---- SACK ---- */

static void sack_add(struct tcp_cold *k, struct tcp_range r) {
    uint32_t kept = 0;
    struct tcp_range rest[TCP_SACK_KEPT];
    for (uint32_t i = 0; i < TCP_SACK_KEPT; i++) {
        struct tcp_range b = k->sack[i];
        if (b.start == b.end)
            continue;
        if (seq_after(b.start, r.end) || seq_before(b.end, r.start)) {
            rest[kept++] = b;
            continue;
        }
        r.start = seq_min(r.start, b.start);
        r.end = seq_max(r.end, b.end);
    }
    memset(k->sack, 0, sizeof k->sack);
    k->sack[0] = r; /* RFC 2018 section 4: the most recent one first */
    for (uint32_t i = 0; i < kept && i + 1 < TCP_SACK_KEPT; i++)
        k->sack[i + 1] = rest[i];
}

static void sack_forget_below(struct tcp_cold *k, uint32_t edge) {
    for (uint32_t i = 0; i < TCP_SACK_KEPT; i++) {
        struct tcp_range *b = &k->sack[i];
        if (!seq_after(b->end, edge))
            b->start = b->end = 0;
        else if (seq_before(b->start, edge))
            b->start = edge;
    }
}

static void sack_duplicate(struct tcp_conn *c, struct tcp_cold *k, uint32_t start, uint32_t end) {
    if (c->flags & TCP_F_SACK)
        k->dsack = (struct tcp_range){start, end};
    c->flags |= TCP_F_ACK_NOW;
}

/* A duplicate first (RFC 2883), then the ranges. Data that only waits for ADOPT is no gap. */
static uint32_t sack_list(struct tcp_ctx *x, const struct tcp_conn *c, struct tcp_range *ret_list) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t n = 0, max = c->flags & TCP_F_TS ? 3 : 4;
    if (k->dsack.start != k->dsack.end)
        ret_list[n++] = k->dsack;
    for (uint32_t i = 0; i < TCP_SACK_KEPT && n < max; i++) {
        if (k->sack[i].start != k->sack[i].end && seq_after(k->sack[i].start, c->rcv_nxt))
            ret_list[n++] = k->sack[i];
    }
    return n;
}

uint32_t tcp_sack_room(struct tcp_ctx *x, const struct tcp_conn *c) {
    struct tcp_range list[4];
    if (!(c->flags & TCP_F_SACK))
        return 0;
    uint32_t n = sack_list(x, c, list);
    return n == 0 ? 0 : 4 + 8 * n;
}

uint32_t tcp_sack_write(struct tcp_ctx *x, struct tcp_conn *c, uint8_t *at) {
    struct tcp_range list[4];
    uint32_t n = sack_list(x, c, list);
    if (n == 0)
        return 0;
    tcp_cold(x->st, c)->dsack = (struct tcp_range){0, 0};
    return tcp_opts_write_sack(at, list, n);
}

/* ---- window ---- */

/* Dynamic right-sizing: the window should let through in a round trip at least twice what the reader took in the last
 * one, and twice that while the sender still doubles. */
static void right_size(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t rtt = max_u32(c->srtt >> 3, TCP_TICKS_US(100));
    if (k->drs_space == UINT32_MAX || x->st->rx_held > x->st->cfg.rx_budget / 2 || x->tick - k->drs_at < rtt)
        return;
    uint32_t taken = c->rcv_nxt - c->rcv_held - k->drs_seq;
    if ((int32_t)taken > 0 && taken > k->drs_space) {
        k->drs_space = taken;
        uint64_t want = (uint64_t)taken * DRS_GROW + 16u * c->rcv_mss;
        c->rcv_limit = max_u32(c->rcv_limit, (uint32_t)(want < x->st->cfg.rcvbuf_max ? want : x->st->cfg.rcvbuf_max));
    }
    k->drs_seq = c->rcv_nxt - c->rcv_held;
    k->drs_at = x->tick;
}

void tcp_data_credit(struct tcp_ctx *x, struct tcp_conn *c, uint32_t bytes) {
    bytes = min_u32(bytes, c->rcv_held);
    c->rcv_held -= bytes;
    x->st->rx_held -= bytes;
    right_size(x, c);
    /* What the header can say is a limit too: without window scaling, reads would seem to open the window for ever. */
    uint32_t most = 65535u << tcp_rcv_scale(c), limit = min_u32(tcp_window_limit(x, c), most);
    uint32_t told = c->rcv_adv - c->rcv_nxt, wnd = min_u32(tcp_window_free(x, c), most);
    if ((int32_t)told < 0)
        told = 0;
    uint32_t step = min_u32(limit / 2, 2u * c->rcv_mss);
    if (told < limit / 4 && wnd >= told + step && !(c->flags & TCP_F_FIN_RCVD))
        c->flags |= TCP_F_ACK_NOW;
}

/* ---- delivery ---- */

static void count_bytes(struct tcp_ctx *x, struct tcp_conn *c, uint32_t n) {
    uint32_t before = c->rcv_nxt - c->irs;
    c->rcv_nxt += n;
    if (UNLIKELY(c->rcv_nxt - c->irs < before))
        tcp_cold(x->st, c)->rx_high++;
}

static void deliver(struct tcp_ctx *x, struct tcp_conn *c, struct pkt *p) {
    uint32_t n = pkt_bytes(p);
    count_bytes(x, c, n);
    if (!(c->flags & TCP_F_APP_SINK)) {
        c->rcv_held += n;
        x->st->rx_held += n;
    }
    p->sock = tcp_index(x->st, c);
    p->sink = c->sink;
    p->owner = tcp_cold(x->st, c)->owner;
    (void)pkt_vec_push(x->io->up, p);
}

void tcp_data_forget(struct tcp_ctx *x, struct tcp_conn *c) {
    for (uint32_t ref = c->ooo_head; ref != TCP_NIL; ref = tcp_kept(x, ref)->next)
        x->st->ooo_packets--;
    if (c->ooo_head != TCP_NIL)
        tcp_bury_chain(x, c->ooo_head, c->ooo_tail);
    c->ooo_head = c->ooo_tail = TCP_NIL;
    c->ooo_bytes = 0;
    memset(tcp_cold(x->st, c)->sack, 0, sizeof tcp_cold(x->st, c)->sack);
}

/* What is still kept is a copy of what came with the FIN, or lies behind it, where there is nothing. */
static void take_fin(struct tcp_ctx *x, struct tcp_conn *c) {
    c->rcv_nxt++;
    c->flags |= TCP_F_FIN_RCVD | TCP_F_ACK_NOW;
    if (UNLIKELY(c->ooo_head != TCP_NIL))
        tcp_data_forget(x, c);
    (void)tcp_fsm(x, c, TCP_EV_FIN);
}

/* RFC 5681 section 4.2: at least every second full segment, at once while slow start needs the clock. */
static void acknowledge(struct tcp_ctx *x, struct tcp_conn *c, uint32_t len) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    if ((c->flags & TCP_F_QUICKACK) || c->rcv_nxt - c->rcv_acked >= 2u * c->rcv_mss) {
        c->flags |= TCP_F_ACK_NOW;
    } else if (k->quickacks > 0 && len >= c->rcv_mss) {
        k->quickacks--;
        c->flags |= TCP_F_ACK_NOW;
    } else if (!(c->flags & TCP_F_ACK_LATER)) {
        c->flags |= TCP_F_ACK_LATER;
        c->delack_at = x->tick + DELACK_TICKS;
    }
}

bool tcp_data_waits(struct tcp_ctx *x, const struct tcp_conn *c) {
    return c->ooo_head != TCP_NIL && (c->flags & (TCP_F_ADOPTED | TCP_F_FIN_RCVD)) == TCP_F_ADOPTED &&
           !seq_after(tcp_kept(x, c->ooo_head)->user, c->rcv_nxt);
}

/* A SYN's data is acknowledged already; all else its peer still has. */
static bool must_forget(const struct tcp_ctx *x, const struct tcp_conn *c) {
    return (c->flags & TCP_F_ADOPTED) && !(c->flags & TCP_F_TFO) && tcp_session_full(x, c->sink);
}

void tcp_data_drain(struct tcp_ctx *x, struct tcp_conn *c) {
    if (UNLIKELY(must_forget(x, c)))
        tcp_data_forget(x, c);
    while (c->ooo_head != TCP_NIL && (c->flags & TCP_F_ADOPTED) && !(c->flags & TCP_F_FIN_RCVD)) {
        struct pkt *p = tcp_kept(x, c->ooo_head);
        if (seq_after(p->user, c->rcv_nxt))
            break;
        if (pkt_vec_room(x->io->up) <= TCP_UP_RESERVE)
            break; /* the rest goes with the next call */
        uint32_t ref = c->ooo_head, bytes = pkt_bytes(p);
        bool fin = (p->user_data & 1) && !seq_after(c->rcv_nxt, p->user + bytes); /* data behind a FIN: it was none */
        c->ooo_head = p->next;
        if (c->ooo_head == TCP_NIL)
            c->ooo_tail = TCP_NIL;
        c->ooo_bytes -= bytes;
        x->st->ooo_packets--;
        p->next = UINT32_MAX;
        uint32_t old = c->rcv_nxt - p->user;
        if (c->state != TCP_STATE_SYN_RCVD) /* fast open: the SYN-ACK has said it */
            c->flags |= TCP_F_ACK_NOW;      /* RFC 5681: a gap was filled */
        if (old < bytes) {
            tcp_payload_trim_front(p, old);
            deliver(x, c, p);
        } else {
            tcp_bury(x, ref);
        }
        if (fin)
            take_fin(x, c);
    }
    sack_forget_below(tcp_cold(x->st, c), c->rcv_nxt);
}

uint32_t tcp_data_syn_ack(struct tcp_ctx *x, const struct tcp_conn *c) {
    uint32_t edge = c->rcv_nxt;
    for (uint32_t ref = c->ooo_head; ref != TCP_NIL; ref = tcp_kept(x, ref)->next) {
        const struct pkt *p = tcp_kept(x, ref);
        if (p->user != edge)
            break;
        edge += pkt_bytes(p);
    }
    return edge;
}

/* ---- out of order ---- */

static uint32_t kept_end(const struct pkt *p) {
    return p->user + pkt_bytes(p);
}

/* The pool that the packet came from must not run dry: what fills the gap needs a buffer of it too. */
static bool may_keep(const struct tcp_ctx *x, const struct pkt *p) {
    const struct pkt_pool *pool = p->pool == x->io->pool_large && p->frag_count == 0 ? p->pool : x->io->pool;
    return x->st->ooo_packets < x->st->cfg.ooo_packet_max && pool->free_count > pool->count / POOL_RESERVE;
}

/* The last kept packet that begins at or before `seq`; false when it is too far to walk. */
static bool find_before(struct tcp_ctx *x, const struct tcp_conn *c, uint32_t seq, uint32_t *ret_ref) {
    *ret_ref = TCP_NIL;
    if (c->ooo_tail != TCP_NIL && !seq_before(seq, tcp_kept(x, c->ooo_tail)->user)) {
        *ret_ref = c->ooo_tail;
        return true;
    }
    uint32_t steps = 0;
    for (uint32_t ref = c->ooo_head; ref != TCP_NIL; ref = tcp_kept(x, ref)->next) {
        if (seq_after(tcp_kept(x, ref)->user, seq))
            return true;
        if (++steps > WALK_MAX)
            return false;
        *ret_ref = ref;
    }
    return true;
}

/* Those that the new one covers are of no use any more. */
static void absorb(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *next, uint32_t end) {
    while (*next != TCP_NIL) {
        struct pkt *n = tcp_kept(x, *next);
        if (seq_after(kept_end(n), end) || (n->user_data & 1))
            return;
        uint32_t ref = *next;
        *next = n->next;
        if (c->ooo_tail == ref)
            c->ooo_tail = TCP_NIL; /* set anew by the caller */
        c->ooo_bytes -= pkt_bytes(n);
        x->st->ooo_packets--;
        tcp_bury(x, ref);
    }
}

static void link_kept(struct tcp_ctx *x, struct tcp_conn *c, uint32_t before, uint32_t ref) {
    struct pkt *p = tcp_kept(x, ref);
    uint32_t next = before == TCP_NIL ? c->ooo_head : tcp_kept(x, before)->next;
    absorb(x, c, &next, kept_end(p));
    if (next != TCP_NIL && seq_before(tcp_kept(x, next)->user, kept_end(p)))
        tcp_payload_trim_back(p, kept_end(p) - tcp_kept(x, next)->user);
    p->next = next;
    if (before == TCP_NIL)
        c->ooo_head = ref;
    else
        tcp_kept(x, before)->next = ref;
    if (next == TCP_NIL)
        c->ooo_tail = ref;
    c->ooo_bytes += pkt_bytes(p);
    x->st->ooo_packets++;
}

static void keep(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx, bool fin) {
    struct pkt *p = rx->p;
    uint32_t before, seq = rx->seq;
    c->flags |= c->flags & TCP_F_ADOPTED ? TCP_F_ACK_NOW : 0u;
    if (!may_keep(x, p) || !find_before(x, c, seq, &before)) {
        ENGINE_COUNT(x->io, TCP_COUNT_OOO_LIMIT);
        pkt_drop(x->io, p, DROP_TCP_OUT_OF_ORDER);
        return;
    }
    uint32_t covered = before != TCP_NIL ? kept_end(tcp_kept(x, before)) : seq;
    uint32_t overlap = seq_after(covered, seq) ? covered - seq : 0;
    if (overlap >= pkt_bytes(p) && (overlap > 0 || (pkt_bytes(p) == 0 && before != c->ooo_tail))) {
        ENGINE_COUNT(x->io, TCP_COUNT_DUPLICATE);
        sack_duplicate(c, tcp_cold(x->st, c), seq, seq + pkt_bytes(p));
        (void)pkt_vec_push(x->io->done, p);
        return;
    }
    tcp_payload_trim_front(p, overlap);
    p->user = seq + overlap;
    p->user_data = fin && (before == c->ooo_tail);
    uint32_t ref = tcp_keep(x, p);
    if (ref == TCP_NIL) {
        ENGINE_COUNT(x->io, TCP_COUNT_OOO_LIMIT);
        pkt_drop(x->io, p, DROP_TCP_OUT_OF_ORDER);
        return;
    }
    link_kept(x, c, before, ref);
    p = tcp_kept(x, ref);
    ENGINE_COUNT(x->io, TCP_COUNT_OOO);
    sack_add(tcp_cold(x->st, c), (struct tcp_range){p->user, kept_end(p)});
}

/* ---- entry ---- */

/* Cuts off what we have and what does not fit; false when nothing is left. */
static bool trim(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx, bool *fin) {
    if (seq_before(rx->seq, c->rcv_nxt)) {
        uint32_t old = min_u32(c->rcv_nxt - rx->seq, rx->len);
        sack_duplicate(c, tcp_cold(x->st, c), rx->seq, rx->seq + old);
        tcp_payload_trim_front(rx->p, old);
        rx->seq += old;
        rx->len -= old;
        if (seq_before(rx->seq, c->rcv_nxt))
            *fin = false; /* a FIN we have taken already */
    }
    if (seq_after(rx->seq + rx->len, c->rcv_adv)) {
        uint32_t over = min_u32(rx->seq + rx->len - c->rcv_adv, rx->len);
        tcp_payload_trim_back(rx->p, over);
        rx->len -= over;
        *fin = false;
        c->flags |= TCP_F_ACK_NOW;
    }
    return rx->len != 0 || *fin;
}

void tcp_data_input(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx) {
    bool fin = rx->flags & TCP_FIN;
    struct pkt *p = rx->p;
    if (UNLIKELY(c->flags & TCP_F_FIN_RCVD) ||
        (UNLIKELY(rx->seq != c->rcv_nxt || seq_after(rx->seq + rx->len, c->rcv_adv)) && !trim(x, c, rx, &fin))) {
        ENGINE_COUNT(x->io, TCP_COUNT_DUPLICATE);
        c->flags |= TCP_F_ACK_NOW;
        (void)pkt_vec_push(x->io->done, p);
        return;
    }
    if (UNLIKELY(rx->len != 0 && (c->flags & TCP_F_ADOPTED) && tcp_session_full(x, c->sink))) {
        ENGINE_COUNT(x->io, TCP_COUNT_REFUSED);
        c->flags |= TCP_F_ACK_NOW; /* which says that the window is closed */
        pkt_drop(x->io, p, DROP_SESSION_NO_CELL);
        return;
    }
    uint32_t segment = p->flags & PKT_GSO ? p->gso_size : min_u32(rx->len, UINT16_MAX);
    if (UNLIKELY(segment > c->rcv_mss)) /* joined segments whose port does not say so are not larger ones */
        c->rcv_mss = (uint16_t)max_u32(c->rcv_mss, min_u32(segment, tcp_advertised_mss(x->st, c)));
    if (UNLIKELY(rx->seq != c->rcv_nxt || !(c->flags & TCP_F_ADOPTED))) {
        keep(x, c, rx, fin);
        return;
    }
    if (rx->len != 0)
        deliver(x, c, p);
    else
        (void)pkt_vec_push(x->io->done, p);
    acknowledge(x, c, rx->len);
    if (fin)
        take_fin(x, c);
    if (UNLIKELY(c->ooo_head != TCP_NIL))
        tcp_data_drain(x, c);
    if (c->flags & TCP_F_APP_SINK)
        right_size(x, c);
}
