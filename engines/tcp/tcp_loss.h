/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding loss and recovering from it: RACK-TLP (RFC 8985), NewReno without SACK (RFC 6582), PRR (RFC 6937), timeouts
 * (RFC 6298), undo (RFC 4015 by timestamps, RFC 3708 by D-SACK).
 */
#ifndef USHER_ENGINES_TCP_LOSS_H
#define USHER_ENGINES_TCP_LOSS_H

#include "engines/tcp/tcp_cc.h"

/* After the scoreboard has taken an ACK in. */
void tcp_loss_ack(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_acked *a, const struct tcp_opts *o);
/* The retransmission timer expired. */
void tcp_loss_rto(struct tcp_ctx *x, struct tcp_conn *c);
/* After a timeout: new data goes before what is marked lost, because its ACK tells whether anything was. */
bool tcp_loss_holds_back(struct tcp_ctx *x, const struct tcp_conn *c);
/* RACK's reordering timer expired: what was given time is lost now. */
void tcp_loss_reo(struct tcp_ctx *x, struct tcp_conn *c);
/* Marks what is larger than the new MSS for sending again, without a reaction of congestion control (RFC 1191). */
void tcp_loss_resize(struct tcp_ctx *x, struct tcp_conn *c);
/* (Re)arms the retransmission or probe timer for what is in flight now. */
void tcp_rtx_arm(struct tcp_ctx *x, struct tcp_conn *c);
/* RFC 6298 with backoff, in ticks. */
uint32_t tcp_rto(const struct tcp_conn *c);
/* While connections are being resumed: ticks after which what is in flight is sent again, for it may have met somebody
 * who was not back yet. Doubles by itself, for it is the time since the last one was resumed. 0 = no such time. */
uint32_t tcp_quick_wait(struct tcp_ctx *x);
void tcp_rtt_sample(struct tcp_ctx *x, struct tcp_conn *c, uint32_t rtt);
/* The peer says it got something twice: a repetition was needless. */
void tcp_loss_dsack(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_range block, struct tcp_acked *a);

#endif
