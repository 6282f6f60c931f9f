/* SPDX-License-Identifier: Apache-2.0
 *
 * BBR, version 1: the window and the pace follow a model of the path (the most bandwidth seen in some ten round trips,
 * the least round trip in ten seconds) instead of loss. Rates are bytes per 2^20 ns, gains in 1/256. Optional: it is
 * less fair to loss-based neighbours than CUBIC, and it needs pacing.
 */
#include "engines/tcp/tcp_cc.h"

enum { MODE, BW_NEW, BW_OLD, ROUND_END, ROUNDS, FULL_BW, FULL_ROUNDS, CYCLE_AT, PHASE, DONE_AT };
STATIC_ASSERT(DONE_AT < TCP_CC_WORDS, "state fits");
enum { STARTUP, DRAIN, PROBE_BW, PROBE_RTT };

#define GAIN_ONE      256u
#define GAIN_HIGH     739u /* 2 / ln 2: doubles the rate each round trip */
#define GAIN_DRAIN    88u
#define GAIN_CWND     512u
#define PHASES        8u
#define WINDOW_ROUNDS 5u /* two buckets of it: a maximum over five to ten round trips */
#define RTT_WINDOW    TCP_COARSE_S(10)
#define PROBE_RTT_FOR TCP_TICKS_MS(200)
#define CWND_FLOOR    4u /* segments */

static const uint16_t phase_gain[PHASES] = {320, 192, 256, 256, 256, 256, 256, 256};

static uint32_t bandwidth(const uint32_t *w) {
    return max_u32(w[BW_NEW], w[BW_OLD]);
}

static uint32_t pacing_gain(const uint32_t *w) {
    switch (w[MODE]) {
    case STARTUP:
        return GAIN_HIGH;
    case DRAIN:
        return GAIN_DRAIN;
    case PROBE_BW:
        return phase_gain[w[PHASE] % PHASES];
    default:
        return GAIN_ONE;
    }
}

/* Bytes in flight that fill the path, times gain. min_rtt is in ticks of 2^10 ns, rates are per 2^20 ns. */
static uint32_t bdp(const struct tcp_cold *k, const uint32_t *w, uint32_t gain) {
    uint64_t bytes = (uint64_t)bandwidth(w) * (k->min_rtt == UINT32_MAX ? 0 : k->min_rtt) >> 10;
    bytes = bytes * gain / GAIN_ONE;
    return bytes > UINT32_MAX / 4 ? UINT32_MAX / 4 : (uint32_t)bytes;
}

static void set_pace(struct tcp_conn *c, struct tcp_cold *k, const uint32_t *w) {
    uint64_t rate = (uint64_t)bandwidth(w) * pacing_gain(w) / GAIN_ONE;
    if (rate == 0) /* nothing is known: the initial window in a round trip, or in a millisecond */
        rate = ((uint64_t)c->cwnd << 10) * GAIN_HIGH / GAIN_ONE / max_u32(c->srtt >> 3, TCP_TICKS_MS(1));
    k->pacing_rate = rate > UINT32_MAX ? UINT32_MAX : max_u32((uint32_t)rate, 1);
}

static void init(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    w[ROUND_END] = k->delivered;
    w[CYCLE_AT] = x->tick;
    set_pace(c, k, w);
}

/* Takes the sample in; true when a round trip has passed since the last time. */
static bool update_bandwidth(struct tcp_cold *k, uint32_t *w, const struct tcp_acked *a) {
    if (a->interval == 0)
        return false;
    bool round = !seq_before(a->prior_delivered, w[ROUND_END]);
    if (round) {
        w[ROUND_END] = k->delivered;
        if (++w[ROUNDS] % WINDOW_ROUNDS == 0) {
            w[BW_OLD] = w[BW_NEW];
            w[BW_NEW] = 0;
        }
    }
    uint64_t rate = ((uint64_t)(k->delivered - a->prior_delivered) << 10) / a->interval;
    uint32_t bw = rate > UINT32_MAX ? UINT32_MAX : (uint32_t)rate;
    if (a->interval >= k->min_rtt / 2 && (!a->app_limited || bw >= bandwidth(w)))
        w[BW_NEW] = max_u32(w[BW_NEW], bw);
    return round;
}

static void check_full(uint32_t *w, const struct tcp_acked *a) {
    if (a->app_limited)
        return;
    if ((uint64_t)bandwidth(w) * 4 >= (uint64_t)w[FULL_BW] * 5) {
        w[FULL_BW] = bandwidth(w);
        w[FULL_ROUNDS] = 0;
    } else {
        w[FULL_ROUNDS]++;
    }
}

static void enter_probe_bw(struct tcp_ctx *x, uint32_t *w) {
    w[MODE] = PROBE_BW;
    w[PHASE] = 2 + (uint32_t)(engine_random(x->io) % (PHASES - 2)); /* not in step with others */
    w[CYCLE_AT] = x->tick;
}

static void next_mode(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_cold *k, uint32_t *w) {
    if (w[MODE] == STARTUP && w[FULL_ROUNDS] >= 3)
        w[MODE] = DRAIN;
    if (w[MODE] == DRAIN && tcp_flight(c) <= bdp(k, w, GAIN_ONE))
        enter_probe_bw(x, w);
    if (w[MODE] == PROBE_BW && x->tick - w[CYCLE_AT] > k->min_rtt) {
        w[PHASE] = (w[PHASE] + 1) % PHASES;
        w[CYCLE_AT] = x->tick;
    }
    if (w[MODE] != PROBE_RTT && x->coarse - k->min_rtt_at > RTT_WINDOW) {
        w[MODE] = PROBE_RTT;
        w[DONE_AT] = x->tick + PROBE_RTT_FOR;
        k->min_rtt = max_u32(c->srtt >> 3, 1);
    }
    if (w[MODE] == PROBE_RTT && time_reached(x->tick, w[DONE_AT])) {
        k->min_rtt_at = x->coarse;
        if (w[FULL_ROUNDS] >= 3)
            enter_probe_bw(x, w);
        else
            w[MODE] = STARTUP;
    }
}

static void ack(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w, const struct tcp_acked *a) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    if (update_bandwidth(k, w, a) && w[FULL_ROUNDS] < 3)
        check_full(w, a);
    next_mode(x, c, k, w);
    set_pace(c, k, w);
    uint32_t target = bdp(k, w, w[MODE] == STARTUP ? GAIN_HIGH : GAIN_CWND) + 3u * c->mss;
    if (w[FULL_ROUNDS] >= 3)
        c->cwnd = min_u32(c->cwnd + a->delivered, max_u32(target, CWND_FLOOR * c->mss));
    else if (c->cwnd < target || k->delivered < tcp_initial_cwnd(c->mss))
        c->cwnd += a->delivered;
    uint32_t most = w[MODE] == PROBE_RTT ? CWND_FLOOR * c->mss : UINT32_MAX / 4;
    c->cwnd = min_u32(max_u32(c->cwnd, CWND_FLOOR * c->mss), most);
}

/* Loss says nothing about the model. */
static uint32_t ssthresh(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    (void)w;
    return c->ssthresh;
}

const struct tcp_cc_ops tcp_cc_bbr = {.name = "bbr",
                                      .paced = true,
                                      .owns_cwnd = true,
                                      .init = init,
                                      .ack = ack,
                                      .ssthresh = ssthresh,
                                      .undo = tcp_cc_nothing,
                                      .idle = tcp_cc_nothing};
