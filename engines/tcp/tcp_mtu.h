/* SPDX-License-Identifier: Apache-2.0
 *
 * The path's MTU where no ICMP message tells it (RFC 4821): down when full segments vanish, and up again by segments
 * that are larger than the others, one at a time. While tcp_cold.black_hole_at is 0 the route's MTU is believed.
 */
#ifndef USHER_ENGINES_TCP_MTU_H
#define USHER_ENGINES_TCP_MTU_H

#include "engines/tcp/tcp_seg.h"

/* Timeouts in a row: if a full segment is what does not arrive, the MSS is cut. */
void tcp_mtu_black_hole(struct tcp_ctx *x, struct tcp_conn *c);
/* Timeouts: is the route still good? */
void tcp_mtu_route(struct tcp_ctx *x, struct tcp_conn *c);
/* Payload of a probe that is due and has `room` bytes of the congestion window; 0 = none. Whoever asks sends it. */
uint32_t tcp_mtu_probe(struct tcp_ctx *x, struct tcp_conn *c, uint32_t room);
/* The peer has a probe of so many bytes. What is lost needs no call: it is repeated in segments of the old size. */
void tcp_mtu_arrived(struct tcp_ctx *x, struct tcp_conn *c, uint32_t len);

#endif
