/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments on their way in.
 */
#ifndef USHER_ENGINES_TCP_INPUT_H
#define USHER_ENGINES_TCP_INPUT_H

#include "engines/tcp/tcp_conn.h"

void tcp_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
void tcp_demux(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
/* One segment for a connection whose change is open. Takes the packet. */
void tcp_conn_input(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx);
/* An ICMP error about a segment of ours. Takes the packet. */
void tcp_icmp_input(struct tcp_ctx *x, struct pkt *p);

#endif
