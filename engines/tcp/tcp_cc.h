/* SPDX-License-Identifier: Apache-2.0
 *
 * Congestion control as a table of const ops; state is TCP_CC_WORDS words in the cold record. Windows are in bytes.
 * Loss detection and recovery (tcp_loss.c) call these; none of them knows how loss was found.
 */
#ifndef USHER_ENGINES_TCP_CC_H
#define USHER_ENGINES_TCP_CC_H

#include "engines/tcp/tcp_seg.h"

struct tcp_cc_ops {
    char name[TCP_CC_NAME_MAX];
    bool paced;     /* wants pacing at tcp_cold.pacing_rate */
    bool owns_cwnd; /* sets cwnd in recovery too: PRR stands back */
    bool accurate_ecn; /* RFC 8257: every CE mark is echoed and counted */
    void (*init)(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w);
    /* After each ACK that delivered something. In recovery only where owns_cwnd. */
    void (*ack)(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w, const struct tcp_acked *a);
    /* Loss or ECN: the new threshold. */
    uint32_t (*ssthresh)(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w);
    /* The loss was none: cwnd and ssthresh were put back. */
    void (*undo)(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w);
    /* The connection sends again after it was idle for longer than the retransmission timeout. */
    void (*idle)(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w);
};

const struct tcp_cc_ops *tcp_cc(const struct tcp_conn *c);
int tcp_cc_find(const char *name); /* index or -1 */
const char *tcp_cc_name(uint32_t index);
/* (Re)starts the control c->cc on a connection. */
void tcp_cc_init(struct tcp_ctx *x, struct tcp_conn *c);
/* RFC 5681 slow start with appropriate byte counting (RFC 3465, L = 2 segments per ACK of one burst's worth): grows up
 * to ssthresh; returns the acknowledged bytes that are left over for congestion avoidance. */
uint32_t tcp_cc_slow_start(struct tcp_conn *c, uint32_t acked);
void tcp_cc_nothing(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *w);

extern const struct tcp_cc_ops tcp_cc_reno, tcp_cc_cubic, tcp_cc_dctcp, tcp_cc_bbr;

#endif
