/* SPDX-License-Identifier: Apache-2.0
 *
 * DCTCP (RFC 8257): the window shrinks in proportion to the share of bytes that met congestion. Growth is Reno's. Only
 * with ECN; without it the connection behaves as Reno.
 */
#include "engines/tcp/tcp_cc.h"

enum { GROWN, ALPHA, ACKED, MARKED, ROUND_END };
#define ALPHA_ONE 1024u
#define G_SHIFT   4u /* g = 1/16 */

static void init(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    w[ALPHA] = ALPHA_ONE;
    w[ROUND_END] = c->snd_nxt;
}

static void round_over(struct tcp_conn *c, uint32_t *w) {
    uint32_t share = w[ACKED] == 0 ? 0 : (uint32_t)((uint64_t)w[MARKED] * ALPHA_ONE / w[ACKED]);
    w[ALPHA] = w[ALPHA] - (w[ALPHA] >> G_SHIFT) + (share >> G_SHIFT);
    if (share == 0 && w[ALPHA] < 1u << G_SHIFT)
        w[ALPHA] = 0;
    w[ACKED] = 0;
    w[MARKED] = 0;
    w[ROUND_END] = c->snd_nxt;
}

static void ack(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w, const struct tcp_acked *a) {
    (void)x;
    w[ACKED] += a->acked;
    if (a->ece)
        w[MARKED] += a->acked;
    if (!seq_before(c->snd_una, w[ROUND_END]))
        round_over(c, w);
    if (!(c->flags & TCP_F_CWND_LIMITED) || c->ca == TCP_CA_CWR)
        return;
    w[GROWN] += tcp_cc_slow_start(c, a->acked);
    if (w[GROWN] >= c->cwnd) {
        w[GROWN] -= c->cwnd;
        c->cwnd += c->mss;
    }
}

static uint32_t ssthresh(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    uint32_t alpha = c->flags & TCP_F_ECN ? w[ALPHA] : ALPHA_ONE;
    w[GROWN] = 0;
    return max_u32(c->cwnd - (uint32_t)((uint64_t)c->cwnd * alpha / (2 * ALPHA_ONE)), 2u * c->mss);
}

const struct tcp_cc_ops tcp_cc_dctcp = {.name = "dctcp",
                                        .accurate_ecn = true,
                                        .init = init,
                                        .ack = ack,
                                        .ssthresh = ssthresh,
                                        .undo = tcp_cc_nothing,
                                        .idle = tcp_cc_nothing};
