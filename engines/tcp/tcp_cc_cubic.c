/* SPDX-License-Identifier: Apache-2.0
 *
 * CUBIC (RFC 9438) with HyStart++'s delay test (RFC 9406, simplified to its exit rule). Windows in segments of the
 * current MSS inside the cube, time in 1/1024 s: everything is a multiplication and a shift except one division per
 * millisecond of ACKs and one cube root per congestion event.
 */
#include "engines/tcp/tcp_cc.h"

/* What the words of the control mean. */
enum { W_MAX, K, EPOCH, ORIGIN, W_EST, EST_ACKED, CNT, CNT_ACKED, UPDATED, HYSTART };
STATIC_ASSERT(HYSTART < TCP_CC_WORDS, "state fits");

#define BETA_1024          717u /* 0.7 */
#define COARSE_PER_S       954u /* 2^20 ns units in a second, rounded */
#define HYSTART_MIN_RTT_T  TCP_TICKS_MS(4)
#define HYSTART_MAX_RTT_T  TCP_TICKS_MS(16)
#define HYSTART_LOW_WINDOW 16u

/* floor of the cube root; 21 steps. */
static uint32_t cube_root(uint64_t v) {
    uint64_t root = 0;
    for (int shift = 63; shift >= 0; shift -= 3) {
        root *= 2;
        uint64_t step = 3 * root * (root + 1) + 1;
        if ((v >> shift) >= step) {
            v -= step << shift;
            root++;
        }
    }
    return (uint32_t)root;
}

static void init(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    (void)c;
    w[HYSTART] = UINT32_MAX;
}

/* K = cbrt((w_max - cwnd) / C), C = 0.4, in 1/1024 s: the cube of 1024 s is 2^30, so K^3 = diff * 2.5 * 2^30. */
static void begin_epoch(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    uint32_t cwnd = c->cwnd / c->mss;
    w[EPOCH] = x->coarse | 1;
    if (w[W_MAX] <= cwnd) {
        w[K] = 0;
        w[ORIGIN] = cwnd;
    } else {
        w[K] = cube_root(((uint64_t)(w[W_MAX] - cwnd) << 30) / 2 * 5);
        w[ORIGIN] = w[W_MAX];
    }
    w[W_EST] = cwnd;
    w[EST_ACKED] = 0;
}

/* Target window in segments at `t` 1/1024 s into the epoch: origin + C (t - K)^3. */
static uint32_t target(const uint32_t *w, uint32_t t) {
    uint64_t d = t < w[K] ? w[K] - t : t - w[K];
    if (d > 1u << 17) /* two minutes: the cube would overflow, the answer is "much more" */
        d = 1u << 17;
    uint64_t cube = d * d * d * 2 / 5, delta = cube >> 30;
    if (t < w[K] && (cube & ((1u << 30) - 1)) != 0)
        delta++; /* the target is rounded down on both sides of the plateau */
    if (t < w[K])
        return delta >= w[ORIGIN] ? 1 : w[ORIGIN] - (uint32_t)delta;
    return (uint32_t)(delta > UINT32_MAX - w[ORIGIN] ? UINT32_MAX : w[ORIGIN] + delta);
}

/* How many segments must be acknowledged for one more: cwnd / (target - cwnd). */
static void update(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    uint32_t cwnd = c->cwnd / c->mss;
    uint32_t elapsed = x->coarse - w[EPOCH] + (c->srtt >> 13); /* one round trip ahead */
    uint32_t t = (uint32_t)((uint64_t)elapsed * 1024 / COARSE_PER_S);
    uint32_t goal = min_u32(target(w, t), cwnd + cwnd / 2 + 1); /* RFC 9438 section 4.2: at most 1.5 cwnd */
    w[CNT] = goal > cwnd ? max_u32(cwnd / (goal - cwnd), 2) : 100 * max_u32(cwnd, 1);
    /* Reno-friendly region, section 4.3: W_est grows by 3(1-b)/(1+b) = 0.53 segments a window. */
    uint32_t per = (uint32_t)((uint64_t)max_u32(w[W_EST], 1) * c->mss * 1024 / 542);
    if (w[EST_ACKED] >= per) {
        uint32_t steps = w[EST_ACKED] / per;
        w[W_EST] += steps;
        w[EST_ACKED] -= steps * per;
    }
    if (w[W_EST] > cwnd)
        w[CNT] = min_u32(w[CNT], max_u32(cwnd / (w[W_EST] - cwnd), 1));
    w[UPDATED] = x->coarse;
}

/* Slow start ends before the queue overflows, when round trips grow by an eighth. */
static void hystart(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w, const struct tcp_acked *a) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    (void)w;
    if (a->rtt_last == 0 || a->rtt == UINT32_MAX || k->min_rtt == UINT32_MAX || c->cwnd < HYSTART_LOW_WINDOW * c->mss)
        return;
    uint32_t eighth = k->min_rtt / 8;
    uint32_t slack = min_u32(max_u32(eighth, HYSTART_MIN_RTT_T), HYSTART_MAX_RTT_T);
    /* Eight samples in a row, so that one late ACK is not taken for a queue. */
    if (a->rtt_last <= k->min_rtt + slack)
        w[HYSTART] = 0;
    else if (w[HYSTART] != UINT32_MAX && ++w[HYSTART] >= 8)
        c->ssthresh = c->cwnd;
}

static void ack(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w, const struct tcp_acked *a) {
    if (!(c->flags & TCP_F_CWND_LIMITED))
        return;
    uint32_t left = a->acked;
    if (c->cwnd < c->ssthresh) {
        hystart(x, c, w, a);
        left = tcp_cc_slow_start(c, left);
        if (left == 0)
            return;
    }
    if (w[EPOCH] == 0)
        begin_epoch(x, c, w);
    w[CNT_ACKED] += left;
    w[EST_ACKED] += left;
    if (w[CNT_ACKED] < c->mss)
        return;
    uint32_t segments = w[CNT_ACKED] / c->mss;
    if (w[CNT] == 0 || w[UPDATED] != x->coarse)
        update(x, c, w);
    if (segments >= w[CNT]) {
        uint32_t grow = segments / w[CNT];
        c->cwnd += grow * c->mss;
        w[CNT_ACKED] -= grow * w[CNT] * c->mss;
    }
}

static uint32_t ssthresh(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    uint32_t cwnd = c->cwnd / c->mss;
    w[EPOCH] = 0;
    w[CNT] = 0;
    w[CNT_ACKED] = 0;
    /* Fast convergence, RFC 9438 section 4.7: below the last maximum, leave room for newcomers. */
    w[W_MAX] = cwnd < w[W_MAX] ? (uint32_t)((uint64_t)cwnd * (1024 + BETA_1024) / 2048) : cwnd;
    return max_u32((uint32_t)((uint64_t)c->cwnd * BETA_1024 >> 10), 2u * c->mss);
}

static void undo(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    w[EPOCH] = 0;
    w[W_MAX] = max_u32(w[W_MAX], c->cwnd / c->mss);
}

/* The cube must not run while nothing is sent (RFC 9438 section 5.8). */
static void idle(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    (void)c;
    w[EPOCH] = 0;
}

const struct tcp_cc_ops tcp_cc_cubic = {
    .name = "cubic", .init = init, .ack = ack, .ssthresh = ssthresh, .undo = undo, .idle = idle};
