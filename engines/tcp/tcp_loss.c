/* SPDX-License-Identifier: Apache-2.0
 *
 * Loss recovery. See tcp_loss.h. The order on each ACK: is recovery over or was it needless, what is lost now, enter,
 * then either grow the window (open) or let PRR meter it (recovery). The scoreboard is walked only while something is
 * SACKed, lost or reordered; in the normal case an ACK costs none of this.
 */
#include "engines/tcp/tcp_loss.h"

#define RTO_MIN          TCP_TICKS_MS(200)
#define RTO_MAX          TCP_TICKS_MS(120000)
#define DUPACK_THRESHOLD 3u
#define PTO_MIN          TCP_TICKS_MS(2)
#define DELACK_MAX       TCP_TICKS_MS(200) /* RFC 8985 section 7.2: what a lone segment's ACK may be late */
#define QUICK_COARSE     TCP_COARSE_MS(100)
#define REO_PERSIST      16u
#define MIN_RTT_WINDOW_S 300u

uint32_t tcp_rto(const struct tcp_conn *c) {
    uint64_t rto = (uint64_t)c->rto << min_u32(c->backoff, 16);
    return rto > RTO_MAX ? RTO_MAX : (uint32_t)rto;
}

/* RFC 6298 section 2, scaled integers. The minimum is added to srtt instead of applied to the sum, so that a path
 * longer than the minimum keeps a margin. */
void tcp_rtt_sample(struct tcp_ctx *x, struct tcp_conn *c, uint32_t rtt) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    rtt = max_u32(min_u32(rtt, RTO_MAX), 1);
    if (rtt <= k->min_rtt || x->coarse - k->min_rtt_at > TCP_COARSE_S(MIN_RTT_WINDOW_S)) {
        k->min_rtt = rtt;
        k->min_rtt_at = x->coarse;
    }
    if (c->srtt == 0) {
        c->srtt = rtt << 3;
        c->rttvar = rtt << 1;
    } else {
        int32_t err = (int32_t)(rtt - (c->srtt >> 3));
        c->srtt = (uint32_t)((int32_t)c->srtt + err);
        uint32_t mag = (uint32_t)(err < 0 ? -err : err);
        c->rttvar = c->rttvar - (c->rttvar >> 2) + mag;
    }
    c->srtt = max_u32(c->srtt, 1);
    c->rto = (c->srtt >> 3) + max_u32(c->rttvar, RTO_MIN);
}

/* ---- detection ---- */

/* RFC 8985 section 6.2 step 4. */
static uint32_t reo_wnd(const struct tcp_conn *c, const struct tcp_cold *k) {
    if (!(c->flags & TCP_F_SACK_REORDER) &&
        (c->ca >= TCP_CA_RECOVERY || c->sacked >= DUPACK_THRESHOLD * (uint32_t)c->mss))
        return 0;
    uint32_t quarter = k->min_rtt == UINT32_MAX ? 0 : k->min_rtt / 4;
    return min_u32(max_u32(quarter, 1) * k->reo_mult, c->srtt >> 3);
}

static bool sent_after(uint32_t t1, uint32_t end1, uint32_t t2, uint32_t end2) {
    return seq_after(t1, t2) || (t1 == t2 && seq_after(end1, end2));
}

/* Step 5: what was sent sufficiently before the latest delivered segment is lost. Returns the ticks after which the
 * next range will be, 0 = none waits. */
static uint32_t rack_detect(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_acked *a) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t wait = 0, window = reo_wnd(c, k);
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(x->st, i)->next) {
        struct tcp_seg *s = tcp_seg_at(x->st, i);
        if (c->retrans == 0 && seq_after(s->sent, k->rack_sent))
            break; /* without repetitions the list is in order of time as well */
        if ((s->flags & TCP_SEG_SACKED) || (s->flags & (TCP_SEG_LOST | TCP_SEG_RETRANS)) == TCP_SEG_LOST)
            continue;
        if (!sent_after(k->rack_sent, k->rack_end, s->sent, s->end))
            continue;
        int32_t left = (int32_t)(s->sent + k->rack_rtt + window - x->tick);
        if (left <= 0)
            tcp_seg_mark_lost(c, s, a);
        else
            wait = max_u32(wait, (uint32_t)left);
    }
    return wait;
}

/* Without SACK: the third duplicate condemns the first segment; a partial ACK the next (RFC 6582). */
static void newreno_detect(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_acked *a) {
    bool partial = c->ca == TCP_CA_RECOVERY && a->advanced;
    if (c->seg_head == TCP_NIL || (c->dupacks < DUPACK_THRESHOLD && !partial))
        return;
    struct tcp_seg *s = tcp_seg_at(x->st, c->seg_head);
    if (s->flags & TCP_SEG_LOST && !partial)
        return;
    if (s->end - s->seq > c->mss && !tcp_seg_split(x, c, c->seg_head, s->seq + c->mss))
        return;
    if (partial || !(s->flags & TCP_SEG_EVER))
        tcp_seg_mark_lost(c, s, a);
}

static void update_reordering(struct tcp_conn *c, struct tcp_cold *k, const struct tcp_acked *a) {
    if (a->overtaken)
        c->flags |= TCP_F_SACK_REORDER;
    if (a->dsack && !seq_before(c->snd_una, k->reo_end)) { /* at most once a round trip */
        k->reo_mult = (uint8_t)min_u32(k->reo_mult + 1u, 100);
        k->reo_persist = REO_PERSIST;
        k->reo_end = c->snd_nxt;
    }
}

/* ---- recovery ---- */

/* If the first segment was repeated before, an ACK of it could answer that repetition: then no undo. Unless it was
 * repeated in an episode that was undone: with that one's stamp and its count of repetitions both proofs still hold. */
static void remember_for_undo(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_cold *k) {
    bool repeated = c->seg_head != TCP_NIL && (tcp_seg_at(x->st, c->seg_head)->flags & TCP_SEG_EVER);
    bool again = repeated && (k->undo_armed & TCP_UNDO_UNDONE);
    k->undo_cwnd = c->ca < TCP_CA_CWR && (!repeated || again) ? c->cwnd : 0;
    k->undo_ssthresh = c->ssthresh;
    if (again)
        return;
    k->undo_stamp = x->coarse + k->ts_off;
    k->undo_left = 0;
    k->undo_armed = 0;
}

static void reduce(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_cold *k) {
    k->prr_flight = max_u32(tcp_flight(c), c->mss);
    k->prr_delivered = 0;
    k->prr_out = 0;
    c->ssthresh = tcp_cc(c)->ssthresh(x, c, k->cc);
    c->recover = c->snd_nxt;
    if (c->flags & TCP_F_ECN)
        c->flags |= TCP_F_CWR;
}

static void enter_recovery(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    ENGINE_COUNT(x->io, TCP_COUNT_RECOVERY);
    remember_for_undo(x, c, k);
    c->flags &= ~(uint32_t)TCP_F_TLP;
    reduce(x, c, k);
    c->ca = TCP_CA_RECOVERY;
}

/* RFC 6937 with the slow-start reduction bound. */
static void prr(struct tcp_conn *c, struct tcp_cold *k, const struct tcp_acked *a) {
    uint32_t pipe = tcp_flight(c), send;
    k->prr_delivered += a->delivered;
    if (pipe > c->ssthresh && k->prr_flight != 0) {
        uint64_t due = ((uint64_t)k->prr_delivered * c->ssthresh + k->prr_flight - 1) / k->prr_flight;
        send = due > k->prr_out ? (uint32_t)(due - k->prr_out) : 0;
    } else {
        uint32_t limit = k->prr_delivered > k->prr_out ? k->prr_delivered - k->prr_out : 0;
        limit = max_u32(limit, a->delivered);
        if (a->advanced && a->lost == 0)
            limit += c->mss;
        send = min_u32(c->ssthresh > pipe ? c->ssthresh - pipe : 0, limit);
    }
    if (k->prr_out == 0)
        send = max_u32(send, c->mss); /* the fast retransmission itself */
    c->cwnd = max_u32(pipe + send, c->mss);
}

static void leave(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    if ((c->ca == TCP_CA_CWR || c->ca == TCP_CA_RECOVERY) && !tcp_cc(c)->owns_cwnd)
        c->cwnd = max_u32(min_u32(c->ssthresh, UINT32_MAX >> 2), c->mss);
    c->ca = TCP_CA_OPEN;
    c->dupacks = 0;
    k->undo_cwnd = 0;
    k->undo_armed = 0;
    if (k->reo_persist > 0 && --k->reo_persist == 0)
        k->reo_mult = 1;
}

static bool needless(const struct tcp_conn *c, const struct tcp_cold *k, const struct tcp_acked *a,
                     const struct tcp_opts *o) {
    if (k->undo_cwnd == 0 || c->ca < TCP_CA_RECOVERY)
        return false;
    /* RFC 4015: the ACK answers what was sent before the first repetition. */
    if (a->advanced && (c->flags & TCP_F_TS) && (o->present & TCP_O_TS) && k->undo_left != 0 &&
        seq_before(o->tsecr, k->undo_stamp))
        return true;
    if ((k->undo_armed & TCP_UNDO_FRTO_NEW) && a->advanced)
        return true;
    /* RFC 3708: every repetition was reported as a duplicate. A report about an earlier episode says nothing. */
    return a->dsack && (k->undo_armed & TCP_UNDO_ARMED) && k->undo_left == 0;
}

static void undo(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    ENGINE_COUNT(x->io, TCP_COUNT_UNDO);
    c->cwnd = max_u32(c->cwnd, k->undo_cwnd);
    c->ssthresh = max_u32(c->ssthresh, k->undo_ssthresh);
    tcp_cc(c)->undo(x, c, k->cc);
    tcp_seg_clear_lost(x->st, c);
    /* What fast recovery took for lost was overtaken: from now on RACK waits for it, as RFC 8985 section 6.2 does once
     * a segment that was never repeated comes late. Here all that come late have been repeated. */
    if (c->ca == TCP_CA_RECOVERY)
        c->flags |= TCP_F_SACK_REORDER;
    c->backoff = 0;
    c->ca = TCP_CA_OPEN;
    k->undo_cwnd = 0;
    k->undo_armed = (uint8_t)((k->undo_armed & ~TCP_UNDO_FRTO) | TCP_UNDO_UNDONE);
}

/* RFC 5682 section 2.1, the first and the second ACK after a timeout; needless() sees when the second has good news. A
 * timestamp tells with the first one which transmission it answers: that was looked at before. */
static void forward_rto(struct tcp_conn *c, struct tcp_cold *k, const struct tcp_acked *a) {
    uint8_t at = k->undo_armed & TCP_UNDO_FRTO;
    k->undo_armed &= (uint8_t)~at;
    uint32_t unsent = c->snd_end - c->snd_nxt, window = c->snd_una + c->snd_wnd - c->snd_nxt;
    bool may_send = unsent >= c->mss && window >= c->mss && (int32_t)window > 0;
    if (at == TCP_UNDO_FRTO_WAIT && a->advanced && may_send && c->ca == TCP_CA_LOSS)
        k->undo_armed |= TCP_UNDO_FRTO_NEW;
}

bool tcp_loss_holds_back(struct tcp_ctx *x, const struct tcp_conn *c) {
    return c->ca == TCP_CA_LOSS && (tcp_cold(x->st, c)->undo_armed & TCP_UNDO_FRTO_NEW);
}

/* RFC 3168 section 6.1.2, once a window. */
static void react_to_ecn(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_acked *a) {
    if (!a->ece || c->ca >= TCP_CA_CWR || a->flight == 0)
        return;
    struct tcp_cold *k = tcp_cold(x->st, c);
    ENGINE_COUNT(x->io, TCP_COUNT_ECN_REDUCE);
    k->undo_cwnd = 0;
    reduce(x, c, k);
    c->ca = TCP_CA_CWR;
}

/* RFC 8985 section 7.4: the probe repaired a loss that nothing else showed; congestion control must hear of it. */
static void probe_over(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    c->flags &= ~(uint32_t)TCP_F_TLP;
    k->undo_cwnd = 0;
    reduce(x, c, k);
    c->ca = TCP_CA_CWR;
}

static void detect(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_acked *a) {
    uint32_t wait = 0;
    if (!(c->flags & TCP_F_SACK))
        newreno_detect(x, c, a);
    else if (c->sacked != 0 || c->retrans != 0 || c->lost != 0 || (c->flags & TCP_F_SACK_REORDER))
        wait = rack_detect(x, c, a);
    /* What was found lost during the last recovery but sent after it began is a loss of its own. */
    if (c->lost - c->retrans != a->probe_lost && c->ca < TCP_CA_RECOVERY)
        enter_recovery(x, c);
    else if (c->ca == TCP_CA_OPEN && (c->sacked != 0 || c->dupacks != 0))
        c->ca = TCP_CA_DISORDER;
    else if (c->ca == TCP_CA_DISORDER && c->sacked == 0 && c->dupacks == 0)
        c->ca = TCP_CA_OPEN;
    if (wait != 0) {
        c->rtx = TCP_RTX_REO;
        c->rtx_at = x->tick + wait;
    }
}

void tcp_loss_ack(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_acked *a, const struct tcp_opts *o) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    const struct tcp_cc_ops *cc = tcp_cc(c);
    if (UNLIKELY(a->overtaken || a->dsack))
        update_reordering(c, k, a);
    if (UNLIKELY(needless(c, k, a, o)))
        undo(x, c);
    if (c->ca >= TCP_CA_CWR && a->advanced && !seq_before(c->snd_una, c->recover))
        leave(x, c);
    if (UNLIKELY(c->ca == TCP_CA_LOSS))
        forward_rto(c, k, a);
    if (UNLIKELY(c->flags & TCP_F_TLP) && a->advanced && !seq_before(c->snd_una, c->recover))
        probe_over(x, c);
    if (UNLIKELY(a->ece))
        react_to_ecn(x, c, a);
    if (UNLIKELY(c->sacked | c->lost | c->retrans | c->dupacks | (c->flags & TCP_F_SACK_REORDER) | (c->ca != 0)))
        detect(x, c, a);
    if ((c->ca == TCP_CA_CWR || c->ca == TCP_CA_RECOVERY) && !cc->owns_cwnd)
        prr(c, k, a);
    else if (a->delivered != 0)
        cc->ack(x, c, k->cc, a);
}

void tcp_loss_reo(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_acked a = {.rtt = UINT32_MAX};
    uint32_t wait = rack_detect(x, c, &a);
    if (a.lost != a.probe_lost && c->ca < TCP_CA_RECOVERY)
        enter_recovery(x, c);
    if (a.lost != 0 && c->ca == TCP_CA_RECOVERY && !tcp_cc(c)->owns_cwnd)
        prr(c, tcp_cold(x->st, c), &a);
    c->rtx = TCP_RTX_NONE;
    if (wait != 0) {
        c->rtx = TCP_RTX_REO;
        c->rtx_at = x->tick + wait;
    } else {
        tcp_rtx_arm(x, c);
    }
}

/* RFC 5681 section 3.1 (equation 4) and RFC 6298 section 5. A repeated timeout of the same data does not lower the
 * threshold again. What the peer has SACKed stays so, unless it holds the very first byte: then it has reneged. */
void tcp_loss_rto(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    ENGINE_COUNT(x->io, TCP_COUNT_RTO);
    bool first = c->ca != TCP_CA_LOSS || c->backoff == 0;
    if (first) {
        remember_for_undo(x, c, k);
        reduce(x, c, k);
    }
    k->undo_armed &= (uint8_t)~TCP_UNDO_FRTO;
    if (first && k->undo_cwnd != 0)
        k->undo_armed |= TCP_UNDO_FRTO_WAIT;
    bool reneged = c->seg_head != TCP_NIL && (tcp_seg_at(x->st, c->seg_head)->flags & TCP_SEG_SACKED);
    if (reneged)
        ENGINE_COUNT(x->io, TCP_COUNT_SACK_RENEGE);
    tcp_seg_mark_all_lost(x, c, reneged || !(c->flags & TCP_F_SACK));
    c->ca = TCP_CA_LOSS;
    c->recover = c->snd_nxt;
    c->cwnd = tcp_flight(c) + c->mss;
    c->dupacks = 0;
    c->flags &= ~(uint32_t)TCP_F_TLP;
    if (c->backoff < 32)
        c->backoff++;
}

void tcp_loss_resize(struct tcp_ctx *x, struct tcp_conn *c) {
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(x->st, i)->next) {
        struct tcp_seg *s = tcp_seg_at(x->st, i);
        if (!(s->flags & TCP_SEG_SACKED) && s->end - s->seq > c->mss)
            tcp_seg_mark_lost(c, s, NULL);
    }
    c->cwnd = max_u32(c->cwnd, c->mss);
}

void tcp_loss_dsack(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_range block, struct tcp_acked *a) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    a->dsack = true;
    k->undo_left -= min_u32(k->undo_left, block.end - block.start);
    /* RFC 8985 section 7.4.2: the probe was a needless copy, nothing was lost. */
    if ((c->flags & TCP_F_TLP) && block.end == c->recover)
        c->flags &= ~(uint32_t)TCP_F_TLP;
}

/* ---- timer ---- */

uint32_t tcp_quick_wait(struct tcp_ctx *x) {
    uint32_t since = (x->coarse | 1) - x->st->thawed_at;
    if (LIKELY(x->st->thawed_at == 0))
        return 0;
    if (since <= QUICK_COARSE)
        return max_u32(PTO_MIN, since << (TCP_COARSE_SHIFT - TCP_TICK_SHIFT));
    x->st->thawed_at = 0;
    return 0;
}

/* RFC 8985 section 7.2: a probe after two round trips, while nothing points to a loss. */
static bool probe_fits(const struct tcp_conn *c) {
    return (c->flags & (TCP_F_SACK | TCP_F_TLP)) == TCP_F_SACK && c->ca == TCP_CA_OPEN && c->srtt != 0 &&
           c->state >= TCP_STATE_ESTABLISHED && c->backoff == 0 && c->sacked == 0;
}

void tcp_rtx_arm(struct tcp_ctx *x, struct tcp_conn *c) {
    if (c->snd_una == c->snd_nxt) {
        if (c->rtx != TCP_RTX_PERSIST)
            c->rtx = TCP_RTX_NONE;
        return;
    }
    if (c->rtx == TCP_RTX_REO)
        return;
    uint32_t rto = tcp_rto(c), quick = tcp_quick_wait(x);
    c->rtx = TCP_RTX_RTO;
    c->rtx_at = x->tick + rto;
    if (UNLIKELY(quick != 0)) {
        c->rtx = TCP_RTX_TLP;
        c->rtx_at = x->tick + min_u32(quick, rto);
        return;
    }
    if (!probe_fits(c))
        return;
    uint32_t pto = max_u32(c->srtt >> 2, PTO_MIN);
    if (c->snd_nxt - c->snd_una <= c->mss)
        pto += DELACK_MAX;
    /* Where the timeout would come first, the probe takes its place (RFC 8985 section 7.2). */
    c->rtx = TCP_RTX_TLP;
    c->rtx_at = x->tick + min_u32(pto, rto);
}
