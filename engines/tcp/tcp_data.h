/* SPDX-License-Identifier: Apache-2.0
 *
 * The receiving side: payload in order goes up, payload out of order is kept, the window follows the reader.
 */
#ifndef USHER_ENGINES_TCP_DATA_H
#define USHER_ENGINES_TCP_DATA_H

#include "engines/tcp/tcp_conn.h"

/* Room in io->up that draining leaves for the packets of the call. */
#define TCP_UP_RESERVE (PKT_BURST * 2u)

/* Takes the packet of a segment with payload or FIN that passed the sequence checks: up, kept, or done/drop. */
void tcp_data_input(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_rx *rx);
/* Sends up what waits in order: after ADOPT, or after `up` was full. */
void tcp_data_drain(struct tcp_ctx *x, struct tcp_conn *c);
/* Whether there is something to drain. */
bool tcp_data_waits(struct tcp_ctx *x, const struct tcp_conn *c);
/* The reader let go of `bytes`. */
void tcp_data_credit(struct tcp_ctx *x, struct tcp_conn *c, uint32_t bytes);
/* Lets go of everything kept out of order. */
void tcp_data_forget(struct tcp_ctx *x, struct tcp_conn *c);
/* The acknowledgement number of a SYN-ACK: with fast open it covers data that still waits for ADOPT. */
uint32_t tcp_data_syn_ack(struct tcp_ctx *x, const struct tcp_conn *c);
/* What all readers together, and those of one session, leave to one that holds `held` bytes. */
/* The session's packets wait for its reader in such numbers that it is given no more. */
bool tcp_session_full(const struct tcp_ctx *x, uint64_t sink);
uint32_t tcp_window_most(const struct tcp_ctx *x, uint64_t sink, uint32_t held);
/* The most that the reader may hold: its own limit, or that. */
uint32_t tcp_window_limit(const struct tcp_ctx *x, const struct tcp_conn *c);
/* Bytes of window there are, whatever was told. */
uint32_t tcp_window_free(const struct tcp_ctx *x, const struct tcp_conn *c);
/* SACK option: bytes it will take, and writing it. */
uint32_t tcp_sack_room(struct tcp_ctx *x, const struct tcp_conn *c);
uint32_t tcp_sack_write(struct tcp_ctx *x, struct tcp_conn *c, uint8_t *at);

/* Payload of a packet, head and pieces: n bytes less at its front or end. */
void tcp_payload_trim_front(struct pkt *p, uint32_t n);
void tcp_payload_trim_back(struct pkt *p, uint32_t n);

#endif
