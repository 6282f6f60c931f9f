/* SPDX-License-Identifier: Apache-2.0
 *
 * How a segment is put together. Payload stays in the client's TX region: a segment borrows it as at most PKT_FRAG_MAX
 * pieces. Small ones (COPY_MAX) and those in too many pieces are copied into the head instead: below that size a copy
 * is cheaper than one more piece for the port to gather, and the packet then owns all it needs.
 *
 * Lines written per segment: the packet's 0, 1, 2 (with pieces), 3, one or two of the head. Copies: none above
 * COPY_MAX.
 */
#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_output.h"

#define COPY_MAX  256u
#define SUPER_MAX (65535u - IP6_LEN - TCP_LEN - TCP_OPTS_MAX)
#define WND_MAX   65535u

uint32_t tcp_segment_size(struct tcp_ctx *x, const struct tcp_conn *c) {
    if (LIKELY(c->ooo_head == TCP_NIL && !(c->flags & TCP_F_ACK_NOW)))
        return c->mss;
    return c->mss - tcp_sack_room(x, c);
}

uint32_t tcp_super_max(struct tcp_ctx *x, const struct tcp_conn *c, uint32_t segment) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    bool local = c->flags & TCP_F_LOCAL;
    bool can = local || (k->port < PORT_SLOT_MAX && (x->io->ports[k->port].caps & PORT_CAP_TX_GSO_TCP));
    if (!can || (x->st->cfg.flags & TCP_CONFIG_NO_GSO) || segment >= SUPER_MAX / 2)
        return segment;
    return SUPER_MAX / segment * segment;
}

/* RFC 9293 section 3.8.6.2.2: the edge moves only by steps worth sending, and never back; but when what comes is not
 * taken, the peer had better probe a closed window than repeat itself until it gives up. */
uint16_t tcp_window(struct tcp_ctx *x, struct tcp_conn *c) {
    if (UNLIKELY(tcp_session_full(x, c->sink)))
        return 0;
    uint32_t scale = tcp_rcv_scale(c);
    uint32_t told = c->rcv_adv - c->rcv_nxt;
    uint32_t wnd = tcp_window_free(x, c);
    uint32_t step = min_u32(tcp_window_limit(x, c) / 2, c->rcv_mss);
    if ((int32_t)told < 0)
        told = 0;
    if (wnd < told + step)
        wnd = told;
    uint32_t field = min_u32(wnd >> scale, WND_MAX);
    if (field << scale < told) /* rounding must not take back what was promised */
        field = min_u32((told + (1u << scale) - 1) >> scale, WND_MAX);
    c->rcv_adv = seq_max(c->rcv_adv, c->rcv_nxt + (field << scale));
    return (uint16_t)field;
}

void tcp_push_down(struct tcp_ctx *x, struct pkt *p, const struct tcp_head *h) {
    uint32_t len = TCP_LEN + h->opts_len;
    uint8_t *at = pkt_push(p, len);
    be16_store(at, h->flow->local_port);
    be16_store(at + 2, h->flow->remote_port);
    be32_store(at + 4, h->seq);
    be32_store(at + 8, h->ack);
    at[12] = (uint8_t)(len << 2);
    at[13] = h->flags;
    be16_store(at + 14, h->wnd);
    be16_store(at + 16, 0); /* checksum is ip's, see engines/pkt.h */
    be16_store(at + 18, h->urgent);
    if (h->opts_len != 0)
        memcpy(at + TCP_LEN, h->opts, h->opts_len);
    p->flow = *h->flow;
    p->l4_off = (uint16_t)(at - p->buf);
    p->csum_start = p->l4_off;
    p->csum_offset = 16;
    p->flags |= PKT_CSUM_PARTIAL | PKT_DONT_FRAGMENT;
    p->ip_version = ipaddr_is_v4(&h->flow->remote) ? 4 : 6;
    p->tos = h->tos;
    p->ttl = h->ttl;
    p->owner = h->owner;
    p->sock = h->sock;
    (void)pkt_vec_push(x->io->down, p);
    ENGINE_COUNT(x->io, TCP_COUNT_TX);
}

bool tcp_emit(struct tcp_ctx *x, const struct tcp_head *h) {
    if (UNLIKELY(pkt_vec_room(x->io->down) == 0))
        return false;
    struct pkt *p = pkt_alloc(x->io->pool);
    if (UNLIKELY(p == NULL)) {
        ENGINE_COUNT(x->io, TCP_COUNT_STALL);
        return false;
    }
    tcp_push_down(x, p, h);
    return true;
}

static uint32_t write_options(struct tcp_ctx *x, struct tcp_conn *c, uint8_t *at) {
    uint32_t n = 0;
    if (c->flags & TCP_F_TS)
        n = tcp_opts_write_ts(at, x->coarse + tcp_cold(x->st, c)->ts_off, c->ts_recent);
    if (UNLIKELY(c->ooo_head != TCP_NIL || (c->flags & TCP_F_ACK_NOW)) && (c->flags & TCP_F_SACK))
        n += tcp_sack_write(x, c, at + n);
    return n;
}

static void fill_copy(struct tcp_ctx *x, const struct tcp_conn *c, struct pkt *p, struct tcp_cursor at, uint32_t len) {
    while (p->len < len && at.item != TCP_NIL) {
        uint32_t n;
        const uint8_t *from = tcp_queue_bytes(x, c, &at, len - p->len, &n);
        if (from == NULL)
            return;
        memcpy(p->data + p->len, from, n);
        p->len += n;
        tcp_cursor_skip(x->st, &at, n);
    }
}

static void fill_frags(struct tcp_ctx *x, const struct tcp_conn *c, struct pkt *p, struct tcp_cursor at, uint32_t len) {
    uint32_t token = PKT_TOKEN_REGION | SINK_INDEX(c->sink);
    while (p->frag_len < len && p->frag_count < PKT_FRAG_MAX && at.item != TCP_NIL) {
        uint32_t n;
        if (tcp_item_at(x->st, at.item)->kept != TCP_NIL)
            return;
        const uint8_t *from = tcp_queue_bytes(x, c, &at, len - p->frag_len, &n);
        if (from == NULL)
            return;
        p->frag[p->frag_count++] = (struct pkt_frag){from, n, token};
        p->frag_len += n;
        tcp_cursor_skip(x->st, &at, n);
    }
}

static void trim_frags(struct pkt *p, uint32_t len) {
    while (p->frag_len > len) {
        struct pkt_frag *last = &p->frag[p->frag_count - 1];
        uint32_t cut = min_u32(p->frag_len - len, last->len);
        last->len -= cut;
        p->frag_len -= cut;
        if (last->len == 0)
            p->frag_count--;
    }
}

/* Payload into `p`: at most `len`, at least one segment's worth if there is as much. */
static uint32_t fill(struct tcp_ctx *x, const struct tcp_conn *c, struct pkt *p, struct tcp_cursor at, uint32_t len,
                     uint32_t segment) {
    uint32_t room = p->buf_size - PKT_HEADROOM;
    uint32_t small = min_u32(min_u32(len, segment), room);
    if (len > COPY_MAX && tcp_item_at(x->st, at.item)->kept == TCP_NIL) {
        fill_frags(x, c, p, at, len);
        if (p->frag_len < len && p->frag_len > segment)
            trim_frags(p, p->frag_len / segment * segment);
        if (p->frag_len >= small)
            return p->frag_len;
        trim_frags(p, 0);
    }
    fill_copy(x, c, p, at, small);
    return p->len;
}

enum tcp_built tcp_build(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_build *b, struct pkt **ret_pkt,
                         uint32_t *ret_len) {
    *ret_len = 0;
    *ret_pkt = pkt_alloc(x->io->pool);
    if (UNLIKELY(*ret_pkt == NULL))
        return TCP_BUILT_NO_BUFFER;
    if (b->len == 0)
        return TCP_BUILT;
    uint32_t segment = UNLIKELY(b->segment != 0) ? b->segment : tcp_segment_size(x, c);
    uint32_t got = fill(x, c, *ret_pkt, b->at, b->len, segment);
    if (UNLIKELY(got == 0)) {
        (void)pkt_vec_push(x->io->done, *ret_pkt);
        return TCP_BUILT_GONE;
    }
    if (got > segment) {
        (*ret_pkt)->flags |= PKT_GSO;
        (*ret_pkt)->gso_size = (uint16_t)segment;
        (*ret_pkt)->gso_type = ipaddr_is_v4(&c->flow.remote) ? PKT_GSO_TCP4 : PKT_GSO_TCP6;
        ENGINE_COUNT(x->io, TCP_COUNT_TX_GSO);
    }
    *ret_len = got;
    return TCP_BUILT;
}

void tcp_build_send(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_build *b, struct pkt *p) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    uint8_t opts[TCP_OPTS_MAX], flags = b->flags, tos = k->tos;
    if (c->flags & TCP_F_ECE)
        flags |= TCP_ECE;
    if (b->fresh && (c->flags & TCP_F_ECN)) {
        tos = (uint8_t)((tos & ~3u) | 2u); /* ECT(0), RFC 3168 section 6.1.1 */
        flags = (uint8_t)(flags | (c->flags & TCP_F_CWR ? TCP_CWR : 0));
        c->flags &= ~(uint32_t)TCP_F_CWR;
    }
    bool urgent = UNLIKELY(seq_after(c->snd_up, b->seq)) && seq_after(c->snd_up, c->snd_una);
    const struct tcp_head h = {.flow = &c->flow,
                               .urgent = (uint16_t)(urgent ? min_u32(c->snd_up - b->seq, UINT16_MAX) : 0),
                               .seq = b->seq,
                               .ack = c->rcv_nxt,
                               .wnd = tcp_window(x, c),
                               .flags = (uint8_t)(flags | (urgent ? TCP_URG : 0)),
                               .tos = tos,
                               .ttl = k->ttl,
                               .opts_len = (uint8_t)write_options(x, c, opts),
                               .opts = opts,
                               .owner = k->owner,
                               .sock = tcp_index(x->st, c)};
    c->rcv_acked = c->rcv_nxt;
    c->flags &= ~(uint32_t)(TCP_F_ACK_NOW | TCP_F_ACK_LATER);
    tcp_push_down(x, p, &h);
}

/* RFC 9293 section 3.10.7.1: the numbers make it acceptable to whoever sent the segment. */
void tcp_send_stray_reset(struct tcp_ctx *x, const struct tcp_rx *rx) {
    bool everybodys = (rx->p->flags & PKT_BROADCAST) || ipaddr_is_multicast(&rx->p->flow.local);
    if (x->st->quiet || (rx->flags & TCP_RST) || everybodys)
        return;
    struct tcp_head h = {.flow = &rx->p->flow, .sock = TCP_NIL};
    if (rx->flags & TCP_ACK) {
        h.seq = rx->ack;
        h.flags = TCP_RST;
    } else {
        h.ack = rx->seq + rx->len + !!(rx->flags & TCP_SYN) + !!(rx->flags & TCP_FIN);
        h.flags = TCP_RST | TCP_ACK;
    }
    if (tcp_emit(x, &h))
        ENGINE_COUNT(x->io, TCP_COUNT_RESET_OUT);
}
