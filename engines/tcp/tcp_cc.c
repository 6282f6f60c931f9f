/* SPDX-License-Identifier: Apache-2.0
 *
 * The list of congestion controls, what they share, and Reno (RFC 5681), the plainest of them.
 */
#include "engines/tcp/tcp_cc.h"

static const struct tcp_cc_ops *const controls[] = {&tcp_cc_cubic, &tcp_cc_reno, &tcp_cc_dctcp, &tcp_cc_bbr};

const struct tcp_cc_ops *tcp_cc(const struct tcp_conn *c) {
    return controls[c->cc < ARRAY_LEN(controls) ? c->cc : 0];
}

/* Names come from clients: bounded, and not necessarily ended. */
int tcp_cc_find(const char *name) {
    for (uint32_t i = 0; i < ARRAY_LEN(controls); i++) {
        uint32_t at = 0;
        while (at < TCP_CC_NAME_MAX && name[at] != '\0' && name[at] == controls[i]->name[at])
            at++;
        if (at < TCP_CC_NAME_MAX && name[at] == '\0' && controls[i]->name[at] == '\0')
            return (int)i;
    }
    return -1;
}

const char *tcp_cc_name(uint32_t index) {
    return index < ARRAY_LEN(controls) ? controls[index]->name : "";
}

void tcp_cc_init(struct tcp_ctx *x, struct tcp_conn *c) {
    const struct tcp_cc_ops *ops = tcp_cc(c);
    struct tcp_cold *k = tcp_cold(x->st, c);
    memset(k->cc, 0, sizeof k->cc);
    k->pacing_rate = 0;
    bool paced = k->max_pacing != 0 || (ops->paced && !(x->st->cfg.flags & TCP_CONFIG_NO_PACING));
    c->flags = paced ? c->flags | TCP_F_PACED : c->flags & ~(uint32_t)TCP_F_PACED;
    ops->init(x, c, k->cc);
}

uint32_t tcp_cc_slow_start(struct tcp_conn *c, uint32_t acked) {
    if (c->cwnd >= c->ssthresh)
        return acked;
    uint32_t grow = min_u32(acked, c->ssthresh - c->cwnd);
    c->cwnd += grow;
    return acked - grow;
}

void tcp_cc_nothing(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    (void)c;
    (void)w;
}

/* w[0]: bytes acknowledged since the last step of congestion avoidance. One segment a window: no division. */
static void reno_ack(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w, const struct tcp_acked *a) {
    (void)x;
    if (!(c->flags & TCP_F_CWND_LIMITED))
        return;
    uint32_t left = tcp_cc_slow_start(c, a->acked);
    w[0] += left;
    if (w[0] >= c->cwnd) {
        w[0] -= c->cwnd;
        c->cwnd += c->mss;
    }
}

static uint32_t reno_ssthresh(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w) {
    (void)x;
    w[0] = 0;
    return max_u32(c->cwnd / 2, 2u * c->mss);
}

const struct tcp_cc_ops tcp_cc_reno = {
    .name = "reno",
    .init = tcp_cc_nothing,
    .ack = reno_ack,
    .ssthresh = reno_ssthresh,
    .undo = tcp_cc_nothing,
    .idle = tcp_cc_nothing,
};
