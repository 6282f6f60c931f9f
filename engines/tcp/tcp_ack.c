/* SPDX-License-Identifier: Apache-2.0
 *
 * Acknowledgements: RFC 9293 section 3.10.7.4 (fifth step) with RFC 5961's bounds, SACK blocks judged one by one
 * (RFC 2018, 2883), round trips (RFC 6298), the send window. Finding loss is tcp_loss.c. Nothing here trusts the peer:
 * an ACK cannot move what was not sent, a SACK block counts only inside what is in flight.
 */
#include "engines/tcp/tcp_ack.h"

#include "engines/tcp/tcp_mtu.h"
#include "engines/tcp/tcp_output.h"

/* RFC 5961 section 5: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT, and never what lies before our first byte. */
static bool acceptable(struct tcp_ctx *x, struct tcp_conn *c, uint32_t ack) {
    if (LIKELY(!seq_after(ack, c->snd_nxt) && !seq_before(ack, c->snd_una)))
        return true;
    uint32_t known = tcp_cold(x->st, c)->tx_high != 0 ? UINT32_MAX : c->snd_una - c->iss - 1;
    if (!seq_after(ack, c->snd_nxt) && !seq_before(ack, c->snd_una - min_u32(c->snd_wnd_max, known)))
        return true;
    ENGINE_COUNT(x->io, TCP_COUNT_BAD_ACK);
    tcp_send_challenge(x, c);
    return false;
}

/* RFC 9293: not from old segments. From one with the same numbers, which may be old as well, only a window that grows
 * or closes is taken: to believe a closed one costs a probe, not to believe it costs the data. */
static bool update_window(struct tcp_conn *c, const struct tcp_rx *rx) {
    uint32_t wnd = (uint32_t)rx->wnd << (rx->flags & TCP_SYN ? 0 : tcp_snd_scale(c));
    if (!seq_after(rx->ack, c->snd_una) && !seq_after(rx->seq, c->snd_wl1) &&
        !(rx->seq == c->snd_wl1 && (wnd > c->snd_wnd || wnd == 0)))
        return false;
    bool changed = wnd != c->snd_wnd;
    c->snd_wnd = wnd;
    c->snd_wl1 = rx->seq;
    c->snd_wnd_max = max_u32(c->snd_wnd_max, wnd);
    return changed;
}

/* RFC 2883: the first block tells of a duplicate when it lies below the ACK, or inside the second block. */
static bool is_dsack(const struct tcp_opts *o, uint32_t ack) {
    const struct tcp_range *b = o->sack;
    if (seq_before(b[0].start, ack))
        return true;
    return o->sack_count > 1 && !seq_before(b[0].start, b[1].start) && !seq_after(b[0].end, b[1].end);
}

static void take_sack(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o,
                      struct tcp_acked *a) {
    uint32_t i = 0;
    if (is_dsack(o, rx->ack)) {
        uint32_t len = o->sack[0].end - o->sack[0].start;
        if (len > 0 && len <= c->snd_wnd_max && !seq_after(o->sack[0].end, c->snd_nxt))
            tcp_loss_dsack(x, c, o->sack[0], a);
        else
            ENGINE_COUNT(x->io, TCP_COUNT_BAD_SACK);
        i = 1;
    }
    for (; i < o->sack_count; i++) {
        struct tcp_range b = o->sack[i];
        if (!seq_before(b.start, b.end) || !seq_after(b.start, rx->ack) || seq_after(b.end, c->snd_nxt)) {
            if (seq_after(b.end, c->snd_una))
                ENGINE_COUNT(x->io, TCP_COUNT_BAD_SACK);
            continue; /* old blocks come with reordered ACKs */
        }
        tcp_seg_sack(x, c, b, a);
        struct tcp_cold *k = tcp_cold(x->st, c);
        k->fack = seq_max(k->fack, b.end);
    }
}

/* Moves snd_una: scoreboard, send queue, round trip. SYN and FIN take a number but no queue bytes. */
static void advance(struct tcp_ctx *x, struct tcp_conn *c, uint32_t ack, struct tcp_acked *a) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t before = c->snd_una;
    a->acked = ack - before;
    a->advanced = true;
    tcp_seg_ack(x, c, ack, a);
    a->data = a->acked - a->syn - a->fin;
    c->snd_una = ack;
    c->snd_up = seq_max(c->snd_up, ack); /* so that it never looks new again after half the space */
    k->fack = seq_max(k->fack, ack);
    if (a->data != 0) {
        tcp_queue_acked(x, c, a->data);
        uint32_t low = c->snd_una - c->iss;
        if (UNLIKELY(low < before - c->iss))
            k->tx_high = (uint16_t)((k->tx_high & TCP_COUNTS_ANEW) | tcp_high((uint16_t)(k->tx_high + 1)));
    }
    c->backoff = 0;
    k->stuck_at = 0;
    c->dupacks = 0;
}

/* Without SACK, what RFC 5681 calls a duplicate: no data, no window change, something in flight. */
static void count_duplicate(struct tcp_conn *c, const struct tcp_rx *rx, bool window_changed, struct tcp_acked *a) {
    if ((c->flags & TCP_F_SACK) || rx->len != 0 || (rx->flags & (TCP_SYN | TCP_FIN)) || window_changed ||
        rx->ack != c->snd_una || c->snd_una == c->snd_nxt)
        return;
    if (c->dupacks < UINT8_MAX)
        c->dupacks++;
    if (c->ca >= TCP_CA_RECOVERY)
        a->delivered += c->mss; /* RFC 6937: each tells that one segment arrived */
}

static void sample_rtt(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_opts *o, const struct tcp_acked *a) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    /* What waited behind a repetition measures the repair, not the path. */
    if (a->rtt != UINT32_MAX && !a->repeated) {
        tcp_rtt_sample(x, c, a->rtt);
        k->min_rtt = min_u32(k->min_rtt, max_u32(a->rtt_last, 1));
        return;
    }
    /* Only repeated segments were acknowledged: the timestamp still tells which transmission was answered. */
    if (a->advanced && (c->flags & TCP_F_TS) && (o->present & TCP_O_TS) && o->tsecr != 0) {
        /* An ACK of something the peer had before carries an older stamp: it counts for no more than the time that was
         * really waited. */
        uint32_t coarse = min_u32(x->coarse + k->ts_off - o->tsecr, TCP_COARSE_S(3600));
        tcp_rtt_sample(x, c, min_u32(max_u32(coarse, 1) << 10, a->rto));
    }
}

/* RFC 8985 / BBR: bytes delivered over the longer of the send and the ACK interval. */
static void rate_sample(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_acked *a) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    if (a->delivered == 0)
        return;
    k->delivered_at = x->tick;
    if (a->sent_at == 0)
        return;
    k->first_sent = a->sent_at;
    a->interval = max_u32(x->tick - a->prior_at, a->sent_at - a->first_sent);
    if (k->app_limited != 0 && (int32_t)(k->delivered - k->app_limited) > 0)
        k->app_limited = 0;
}

/* The probe's question is answered: go on at once, or wait for the next probe with what is known now. */
static void window_opened(struct tcp_ctx *x, struct tcp_conn *c) {
    c->probes = 0;
    if (c->rtx == TCP_RTX_PERSIST && c->snd_wnd > c->snd_nxt - c->snd_una) {
        c->rtx = TCP_RTX_NONE;
        c->backoff = 0;
    }
    (void)x;
}

bool tcp_ack(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o) {
    if (!acceptable(x, c, rx->ack))
        return false;
    struct tcp_acked a = {
        .rtt = UINT32_MAX, .flight = tcp_flight(c), .rto = tcp_rto(c), .fack = tcp_cold(x->st, c)->fack};
    bool window_changed = update_window(c, rx);
    c->probes = 0;
    if (c->rtx == TCP_RTX_PERSIST)
        window_opened(x, c);
    bool old = seq_before(rx->ack, c->snd_una), sack = (c->flags & TCP_F_SACK) && o->sack_count != 0;
    if (UNLIKELY(old) && !sack)
        return true; /* reordered, with nothing to say; its SACK blocks may still be news */
    if ((c->flags & TCP_F_ECN) && (rx->flags & (TCP_ECE | TCP_SYN)) == TCP_ECE)
        a.ece = true;
    if (c->snd_una == c->snd_nxt)
        return true;
    if (sack)
        take_sack(x, c, rx, o, &a);
    if (seq_after(rx->ack, c->snd_una))
        advance(x, c, rx->ack, &a);
    else if (!old)
        count_duplicate(c, rx, window_changed, &a);
    sample_rtt(x, c, o, &a);
    rate_sample(x, c, &a);
    if (UNLIKELY(a.probe != 0))
        tcp_mtu_arrived(x, c, a.probe);
    tcp_loss_ack(x, c, &a, o);
    if (a.advanced || (c->rtx == TCP_RTX_TLP && c->ca != TCP_CA_OPEN))
        tcp_rtx_arm(x, c);
    if (UNLIKELY(a.fin))
        (void)tcp_fsm(x, c, TCP_EV_FIN_ACKED);
    return true;
}
