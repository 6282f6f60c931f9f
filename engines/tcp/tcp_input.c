/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments on their way in, in passes over a burst so that the cache misses of different connections overlap: parse
 * (header, checksum, flow, hash), look up, then one by one (validate, acknowledge, deliver), and with a connection's
 * last one a flush: what a burst allows to send leaves in one piece, and a burst of data is acknowledged once.
 *
 * A connection's segment passes the stages of RFC 9293 section 3.10.7.4 in its order: sequence number, RST, SYN, ACK,
 * text, FIN; in the common case (established, next in order, nothing odd) a prediction skips to ACK. Lines touched per
 * segment, warm: the packet's 0, 1, 3, the header's, index head, connection's 4 and the undo slot's 4.
 */
#include <errno.h>

#include "engines/tcp/tcp_input.h"

#include "engines/tcp/tcp_ack.h"
#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_fastopen.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_syn.h"

#define PREFETCH_AHEAD 4u
#define TS_OLD         TCP_COARSE_S(24u * 24u * 3600u) /* RFC 7323 section 5.5: then ts_recent says nothing */

/* ---- parse ---- */

static enum drop_reason parse(struct pkt *p, struct tcp_rx *rx) {
    const uint8_t *h = p->data;
    if (UNLIKELY(p->len < TCP_LEN))
        return DROP_TCP_TRUNCATED;
    uint32_t header = (uint32_t)(h[12] >> 4) * 4u;
    if (UNLIKELY(header < TCP_LEN || header > p->len))
        return DROP_TCP_TRUNCATED;
    if (!(p->flags & (PKT_LOCAL | PKT_CSUM_PARTIAL | PKT_CSUM_OK)) &&
        csum_fold(csum_pkt(csum_pseudo(&p->flow, pkt_bytes(p)), p, h)) != 0xffff)
        return DROP_TCP_CHECKSUM;
    p->flow.remote_port = be16_load(h);
    p->flow.local_port = be16_load(h + 2);
    rx->p = p;
    rx->seq = be32_load(h + 4);
    rx->ack = be32_load(h + 8);
    rx->wnd = be16_load(h + 14);
    rx->flags = h[13];
    rx->header = (uint8_t)header;
    pkt_pull(p, header);
    rx->len = pkt_bytes(p);
    return DROP_NONE;
}

static const uint8_t *options(const struct tcp_rx *rx) {
    return rx->p->data - rx->header + TCP_LEN;
}

/* ---- validate ---- */

/* The segment is not for now: tell the peer where we are (RFC 9293 MUST-58..), but not because of an RST, and not
 * without bound (an ACK may be answered by an ACK for ever). */
static void answer_out_of_window(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx) {
    ENGINE_COUNT(x->io, TCP_COUNT_OUT_OF_WINDOW);
    if (rx->flags & TCP_RST)
        return;
    if (rx->len != 0 || (rx->flags & (TCP_SYN | TCP_FIN)) || tcp_challenge_allowed(x))
        c->flags |= TCP_F_ACK_NOW;
    if (rx->len != 0 && (c->flags & TCP_F_SACK) && !seq_after(rx->seq + rx->len, c->rcv_nxt)) /* RFC 2883 */
        tcp_cold(x->st, c)->dsack = (struct tcp_range){rx->seq, rx->seq + rx->len};
}

/* RFC 7323 section 5: false = older than what we have seen. */
static bool timely(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o) {
    if (!(c->flags & TCP_F_TS) || (rx->flags & TCP_RST))
        return true;
    if (!(o->present & TCP_O_TS)) {
        ENGINE_COUNT(x->io, TCP_COUNT_NO_TS);
        return false;
    }
    if (LIKELY(!seq_before(o->tsval, c->ts_recent)) || x->coarse - c->ts_recent_at > TS_OLD)
        return true;
    ENGINE_COUNT(x->io, TCP_COUNT_PAWS);
    c->flags |= TCP_F_ACK_NOW;
    return false;
}

/* RFC 9293 section 3.4: does any part of it lie in the window? */
static bool in_window(const struct tcp_conn *c, const struct tcp_rx *rx) {
    uint32_t len = rx->len + !!(rx->flags & TCP_SYN) + !!(rx->flags & TCP_FIN);
    uint32_t window = seq_after(c->rcv_adv, c->rcv_nxt) ? c->rcv_adv - c->rcv_nxt : 0;
    if (len == 0)
        return window == 0 ? rx->seq == c->rcv_nxt : rx->seq - c->rcv_nxt <= window;
    if (window == 0)
        return false;
    return rx->seq - c->rcv_nxt < window || (rx->seq + len - 1) - c->rcv_nxt < window ||
           c->rcv_nxt - rx->seq < len; /* it covers the window and more; never half the space away */
}

/* RFC 5961 section 3: only the exact number resets. True: the segment ends here. */
static bool take_reset(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx) {
    if (!(rx->flags & TCP_RST))
        return false;
    if (rx->seq == c->rcv_nxt)
        (void)tcp_fsm(x, c, TCP_EV_RST);
    else
        tcp_send_challenge(x, c);
    return true;
}

/* What else the numbers say about a segment outside the window. Its ACK is still news when the data is merely old
 * (both sides may be repeating FINs at each other) or when our window is closed (RFC 9293 MUST-66). */
static bool old_but_acks(const struct tcp_conn *c, const struct tcp_rx *rx) {
    if ((rx->flags & (TCP_ACK | TCP_RST | TCP_SYN)) != TCP_ACK)
        return false;
    uint32_t end = rx->seq + rx->len + !!(rx->flags & TCP_FIN);
    return !seq_after(end, c->rcv_nxt) ? c->rcv_nxt - end < 1u << 30 : rx->seq == c->rcv_nxt;
}

static void note_timestamp(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o) {
    if ((o->present & TCP_O_TS) && !seq_after(rx->seq, c->rcv_acked) && !seq_before(o->tsval, c->ts_recent)) {
        c->ts_recent = o->tsval;
        c->ts_recent_at = x->coarse;
    }
}

/* RFC 3168 section 6.1.3, or for DCTCP every mark as it comes (RFC 8257 section 3.2). */
static void take_ecn(struct tcp_conn *c, const struct tcp_rx *rx) {
    if (tcp_cc(c)->accurate_ecn) {
        bool ce = rx->p->flags & PKT_ECN_CE;
        if (ce != !!(c->flags & TCP_F_ECE) && (c->flags & TCP_F_ACK_LATER))
            c->flags |= TCP_F_ACK_NOW;
        c->flags = ce ? c->flags | TCP_F_ECE : c->flags & ~(uint32_t)TCP_F_ECE;
        return;
    }
    if (rx->flags & TCP_CWR)
        c->flags &= ~(uint32_t)TCP_F_ECE;
    if (rx->p->flags & PKT_ECN_CE)
        c->flags |= TCP_F_ECE | TCP_F_ACK_NOW;
}

/* ---- act ---- */

static bool takes_data(const struct tcp_conn *c) {
    return c->state == TCP_STATE_ESTABLISHED || c->state == TCP_STATE_FIN_WAIT_1 || c->state == TCP_STATE_FIN_WAIT_2;
}

/* Urgent data is delivered in line; its reader is told where it ends, once for each new end (RFC 9293 section 3.8.5,
 * RFC 6093). */
static void take_urgent(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t up = rx->seq + be16_load(rx->p->data - rx->header + 18);
    bool pending = k->rcv_up - c->rcv_nxt - 1 < UINT16_MAX;
    ENGINE_COUNT(x->io, TCP_COUNT_URGENT);
    if (!seq_after(up, c->rcv_nxt) || (pending && !seq_after(up, k->rcv_up)) || !(c->flags & TCP_F_ADOPTED))
        return;
    k->rcv_up = up;
    tcp_notice(x, c, NOTICE_URGENT, 0, up - c->irs - 1);
}

/* Text and FIN (steps six to eight). Takes the packet. */
static void take_text(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx) {
    if (rx->len == 0 && !(rx->flags & TCP_FIN)) {
        (void)pkt_vec_push(x->io->done, rx->p);
        return;
    }
    if (UNLIKELY(rx->flags & TCP_URG))
        take_urgent(x, c, rx);
    if (UNLIKELY((c->flags & TCP_F_ORPHAN) && seq_after(rx->seq + rx->len, c->rcv_nxt))) {
        ENGINE_COUNT(x->io, TCP_COUNT_AFTER_CLOSE); /* RFC 9293 SHLD-3: nobody will read it */
        x->refused = rx;
        (void)tcp_fsm(x, c, TCP_EV_ABORT);
        x->refused = NULL;
        pkt_drop(x->io, rx->p, DROP_TCP_NO_SOCKET);
        return;
    }
    if (LIKELY(takes_data(c))) {
        if (UNLIKELY(c->flags & TCP_F_ECN))
            take_ecn(c, rx);
        tcp_data_input(x, c, rx);
        return;
    }
    c->flags |= TCP_F_ACK_NOW; /* after its FIN there can be nothing new */
    (void)pkt_vec_push(x->io->done, rx->p);
}

/* Sequence, RST, SYN: false when the segment ended there (`why` says how it is counted). */
static bool validate(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o,
                     enum drop_reason *why) {
    *why = DROP_TCP_PAWS;
    if (!timely(x, c, rx, o))
        return false;
    *why = DROP_TCP_WINDOW;
    if (!in_window(c, rx)) {
        answer_out_of_window(x, c, rx);
        if (old_but_acks(c, rx))
            (void)tcp_ack(x, c, rx, o);
        return false;
    }
    *why = DROP_TCP_FLAGS;
    if (take_reset(x, c, rx))
        return false;
    if (rx->flags & TCP_SYN) { /* RFC 5961 section 4; the SYN of a simultaneous open that was repeated as well */
        tcp_send_challenge(x, c);
        return false;
    }
    return rx->flags & TCP_ACK;
}

/* SYN-RECEIVED: the ACK must be of our SYN (RFC 9293 section 3.10.7.4, fifth step). */
static bool finish_handshake(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx) {
    if (!seq_after(rx->ack, c->iss) || seq_after(rx->ack, c->snd_nxt)) {
        tcp_send_stray_reset(x, rx);
        return false;
    }
    c->snd_wnd = c->snd_wnd_max = (uint32_t)rx->wnd << tcp_snd_scale(c);
    c->snd_wl1 = rx->seq;
    return tcp_fsm(x, c, TCP_EV_SYN_ACKED);
}

/* Established, next in order, plain flags, and a timestamp that is not old. */
static bool predicted(const struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o) {
    return c->state == TCP_STATE_ESTABLISHED && (rx->flags & ~(TCP_PSH | TCP_FIN)) == TCP_ACK &&
           rx->seq == c->rcv_nxt &&
           (!(c->flags & TCP_F_TS) || ((o->present & TCP_O_TS) && !seq_before(o->tsval, c->ts_recent)));
}

static void syn_sent_input(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx);

void tcp_conn_input(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx) {
    struct tcp_opts o;
    enum drop_reason why = DROP_TCP_OPTIONS;
    if (UNLIKELY(c->state == TCP_STATE_SYN_SENT)) {
        syn_sent_input(x, c, rx);
        return;
    }
    if (UNLIKELY(!tcp_opts_parse_common(options(rx), rx->header - TCP_LEN, &o)) &&
        !tcp_opts_parse(options(rx), rx->header - TCP_LEN, false, &o)) {
        ENGINE_COUNT(x->io, TCP_COUNT_BAD_OPTION);
        pkt_drop(x->io, rx->p, why);
        return;
    }
    if (LIKELY(predicted(c, rx, &o))) {
        ENGINE_COUNT(x->io, TCP_COUNT_RX_FAST);
    } else if (!validate(x, c, rx, &o, &why)) {
        pkt_drop(x->io, rx->p, why);
        return;
    }
    c->heard_at = x->coarse;
    if (UNLIKELY(c->state == TCP_STATE_SYN_RCVD) && !finish_handshake(x, c, rx)) {
        pkt_drop(x->io, rx->p, DROP_TCP_ACK);
        return;
    }
    if (UNLIKELY(!tcp_ack(x, c, rx, &o))) {
        pkt_drop(x->io, rx->p, DROP_TCP_ACK);
        return;
    }
    note_timestamp(x, c, rx, &o);
    if (UNLIKELY(x->dead))
        (void)pkt_vec_push(x->io->done, rx->p);
    else
        take_text(x, c, rx);
}

/* ---- SYN-SENT ---- */

static void take_syn_options(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t off = 0;
    off |= o->present & TCP_O_TS ? 0 : TCP_F_TS;
    off |= o->present & TCP_O_SACK_OK ? 0 : TCP_F_SACK;
    off |= o->present & TCP_O_WSCALE ? 0 : TCP_F_WSCALE;
    bool ecn = rx->flags & TCP_ACK ? (rx->flags & (TCP_ECE | TCP_CWR)) == TCP_ECE
                                   : (rx->flags & (TCP_ECE | TCP_CWR)) == (TCP_ECE | TCP_CWR);
    off |= ecn ? 0 : TCP_F_ECN;
    c->flags &= ~off;
    c->scales = (uint8_t)(c->flags & TCP_F_WSCALE ? o->wscale | (uint32_t)x->st->rcv_wscale << 4 : 0);
    if (o->present & TCP_O_MSS)
        k->peer_mss = o->mss;
    if (rx->p->flags & PKT_LOCAL)
        c->flags |= TCP_F_LOCAL;
    uint32_t told = c->rcv_adv - c->rcv_nxt;
    c->irs = rx->seq;
    c->rcv_nxt = c->rcv_acked = rx->seq + 1;
    c->rcv_adv = c->rcv_nxt + told;
    k->drs_seq = c->rcv_nxt;
    c->ts_recent = o->tsval;
    c->ts_recent_at = x->coarse;
    c->snd_wnd = c->snd_wnd_max = rx->wnd; /* a SYN's window is never scaled */
    c->snd_wl1 = rx->seq;
    bool first = c->cwnd == tcp_initial_cwnd(c->mss);
    tcp_conn_mss(x->st, c);
    if (first)
        c->cwnd = tcp_initial_cwnd(c->mss);
}

/* RFC 9293 section 3.10.7.3. */
static void syn_sent_input(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx) {
    struct tcp_opts o;
    bool acks = (rx->flags & TCP_ACK) && seq_after(rx->ack, c->iss) && !seq_after(rx->ack, c->snd_nxt);
    struct pkt *p = rx->p;
    if (!tcp_opts_parse(options(rx), rx->header - TCP_LEN, rx->flags & TCP_SYN, &o)) {
        ENGINE_COUNT(x->io, TCP_COUNT_BAD_OPTION);
        pkt_drop(x->io, p, DROP_TCP_OPTIONS);
        return;
    }
    bool echo = !(c->flags & TCP_F_TS) || !(o.present & TCP_O_TS) || !acks ||
                o.tsecr - (x->coarse + tcp_cold(x->st, c)->ts_off) + TCP_COARSE_S(3600) <= TCP_COARSE_S(3600);
    if ((rx->flags & TCP_ACK) && (!acks || !echo)) {
        tcp_send_stray_reset(x, rx);
        pkt_drop(x->io, p, DROP_TCP_ACK);
        return;
    }
    if (rx->flags & TCP_RST) {
        if (acks)
            (void)tcp_fsm(x, c, TCP_EV_RST);
        pkt_drop(x->io, p, DROP_TCP_FLAGS);
        return;
    }
    if (!(rx->flags & TCP_SYN)) {
        pkt_drop(x->io, p, DROP_TCP_FLAGS);
        return;
    }
    take_syn_options(x, c, rx, &o);
    c->heard_at = x->coarse;
    if (!acks) { /* both sides opened at once (figure 8) */
        (void)tcp_fsm(x, c, TCP_EV_SYN);
        (void)tcp_send_syn(x, c);
        (void)pkt_vec_push(x->io->done, p);
        return;
    }
    (void)tcp_ack(x, c, rx, &o);
    (void)tcp_fsm(x, c, TCP_EV_SYN_ACKED);
    c->flags |= TCP_F_ACK_NOW;
    if (c->flags & TCP_F_TFO)
        tcp_fastopen_answer(x, c, &o);
    rx->seq++;
    rx->flags = (uint8_t)(rx->flags & ~TCP_SYN);
    take_text(x, c, rx);
}

/* ---- segments of no connection ---- */

static void listener_input(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t iss) {
    uint16_t port = rx->p->port;
    uint32_t ifindex = port < PORT_SLOT_MAX ? x->io->ports[port].ifindex : 0;
    uint32_t l = tcp_find_listener(x->st, &rx->p->flow, rx->hash, ifindex);
    struct tcp_opts o;
    if (l == TCP_NIL) {
        tcp_send_stray_reset(x, rx);
        pkt_drop(x->io, rx->p, DROP_TCP_NO_SOCKET);
        return;
    }
    if ((rx->flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN) {
        tcp_listen_ack(x, rx, l);
        return;
    }
    if ((rx->p->flags & PKT_BROADCAST) || ipaddr_is_multicast(&rx->p->flow.local) ||
        ipaddr_is_multicast(&rx->p->flow.remote)) { /* RFC 9293 MUST-57 */
        pkt_drop(x->io, rx->p, DROP_TCP_FLAGS);
        return;
    }
    if (!tcp_opts_parse(options(rx), rx->header - TCP_LEN, true, &o)) {
        ENGINE_COUNT(x->io, TCP_COUNT_BAD_OPTION);
        pkt_drop(x->io, rx->p, DROP_TCP_OPTIONS);
        return;
    }
    tcp_listen_syn(x, rx, l, &o, iss);
}

static void wait_input(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t index) {
    struct tcp_opts o;
    uint32_t iss = 0;
    bool syn = (rx->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
    if (syn && tcp_opts_parse(options(rx), rx->header - TCP_LEN, true, &o) && tcp_wait_yield(x, index, rx, &o, &iss))
        listener_input(x, rx, iss);
    else
        tcp_wait_input(x, rx, index);
}

static void other_input(struct tcp_ctx *x, struct tcp_rx *rx) {
    struct tcp_engine *st = x->st;
    /* A connection may have been made by an earlier segment of this very burst. */
    uint32_t i = tcp_find_conn(st, &rx->p->flow, rx->hash);
    if (i != TCP_NIL) {
        struct tcp_conn *c = tcp_begin(x, i);
        tcp_touch(x, c);
        tcp_conn_input(x, c, rx);
        tcp_end(x);
        return;
    }
    i = tcp_find_half(st, &rx->p->flow, rx->hash);
    if (i != TCP_NIL) {
        tcp_half_input(x, rx, i);
        return;
    }
    i = tcp_find_wait(st, &rx->p->flow, rx->hash);
    if (i != TCP_NIL)
        wait_input(x, rx, i);
    else
        listener_input(x, rx, 0);
}

/* ---- the burst ---- */

static uint32_t parse_all(struct tcp_ctx *x, struct pkt **pkts, uint32_t n, struct tcp_rx *rx) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (i + PREFETCH_AHEAD < n)
            __builtin_prefetch(pkts[i + PREFETCH_AHEAD]->data);
        if (UNLIKELY(p->flags & PKT_ICMP_ERROR)) {
            tcp_icmp_input(x, p);
            continue;
        }
        enum drop_reason why = parse(p, &rx[kept]);
        if (UNLIKELY(why != DROP_NONE)) {
            pkt_drop(x->io, p, why);
            continue;
        }
        rx[kept].hash = hash_flow(&x->st->key, &p->flow);
        __builtin_prefetch(hash_index_head(&x->st->conn_ix, &x->st->a, rx[kept].hash));
        kept++;
    }
    return kept;
}

static void look_up_all(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) /* a guess: the first of its chain is the one */
        hash_index_prefetch(&x->st->conn_ix, &x->st->a, rx[i].hash);
    for (uint32_t i = 0; i < n; i++) {
        rx[i].conn = tcp_find_conn(x->st, &rx[i].p->flow, rx[i].hash);
        if (rx[i].conn == TCP_NIL)
            continue;
        tcp_prefetch(x->st, rx[i].conn);
    }
}

/* Which segments are the last of their connection in this burst: it is flushed with them, within the same change, which
 * spares a copy to the undo slot. */
static void mark_last(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t n) {
    for (uint32_t i = n; i-- > 0;) {
        rx[i].last = false;
        if (UNLIKELY(rx[i].conn == TCP_NIL))
            continue;
        struct tcp_conn *c = tcp_at(x->st, rx[i].conn);
        rx[i].last = !(c->flags & TCP_F_TOUCHED);
        c->flags |= TCP_F_TOUCHED;
    }
}

void tcp_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct tcp_engine *st = (struct tcp_engine *)state;
    struct tcp_rx rx[PKT_BURST];
    struct tcp_ctx x;
    CHECK(n <= PKT_BURST);
    tcp_ctx_init(&x, st, io);
    io->counters[TCP_COUNT_RX] += n;
    n = parse_all(&x, pkts, n, rx);
    look_up_all(&x, rx, n);
    mark_last(&x, rx, n);
    for (uint32_t i = 0; i < n; i++) {
        struct tcp_conn *c = rx[i].conn == TCP_NIL ? NULL : tcp_at(st, rx[i].conn);
        /* An earlier segment of the burst may have ended the connection, or given its place to another. */
        if (UNLIKELY(c == NULL || !(c->r.generation & 1) || c->link.hash != rx[i].hash)) {
            other_input(&x, &rx[i]);
            continue;
        }
        (void)tcp_begin(&x, rx[i].conn);
        tcp_conn_input(&x, c, &rx[i]);
        if (LIKELY(rx[i].last))
            tcp_flush_conn(&x, c);
        tcp_end(&x);
    }
    if (UNLIKELY(x.touched_count > 0))
        tcp_flush(&x);
}

/* ---- for a filter ---- */

static void stamp(struct tcp_engine *st, const struct engine_io *io, struct pkt *p) {
    uint32_t hash = hash_flow(&st->key, &p->flow), ifindex = p->port < PORT_SLOT_MAX ? io->ports[p->port].ifindex : 0;
    uint32_t i = tcp_find_conn(st, &p->flow, hash);
    if (LIKELY(i != TCP_NIL)) {
        p->owner = tcp_cold(st, tcp_at(st, i))->owner;
        p->known = PKT_KNOWN_ESTABLISHED;
        return;
    }
    i = tcp_find_half(st, &p->flow, hash);
    if (i != TCP_NIL || tcp_find_wait(st, &p->flow, hash) != TCP_NIL)
        p->known = PKT_KNOWN_ESTABLISHED;
    if (i != TCP_NIL)
        i = ((const struct tcp_half *)arena_record(st, &st->a.table[TCP_TABLE_HALF], i))->listener;
    else
        i = tcp_find_listener(st, &p->flow, hash, ifindex);
    const struct tcp_listener *l = i == TCP_NIL ? NULL : tcp_listener_at(st, i);
    if (l != NULL)
        p->owner = l->owner;
}

void tcp_demux(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (UNLIKELY((p->flags & PKT_ICMP_ERROR) || p->len < TCP_LEN))
            continue;
        p->flow.remote_port = be16_load(p->data);
        p->flow.local_port = be16_load(p->data + 2);
        stamp((struct tcp_engine *)state, io, p);
    }
}
