/* SPDX-License-Identifier: Apache-2.0
 *
 * Passive opens: listeners, half-open connections, SYN cookies, the accept queue.
 */
#ifndef USHER_ENGINES_TCP_SYN_H
#define USHER_ENGINES_TCP_SYN_H

#include "engines/tcp/tcp_conn.h"

/* A SYN for a listener. `iss` != 0: the number to begin with (after TIME-WAIT). Takes the packet. */
void tcp_listen_syn(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t listener, const struct tcp_opts *o, uint32_t iss);
/* A segment for a listener that is no SYN: the answer to a cookie, or stray. Takes the packet. */
void tcp_listen_ack(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t listener);
/* A segment for a half-open connection. Takes the packet. */
void tcp_half_input(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t index);
void tcp_half_release(struct tcp_engine *st, uint32_t index);
/* A half-open record, not linked yet, of a connection on which no byte was sent or acknowledged: complete once more
 * when its peer next speaks. False: there were bytes, or there is no room. */
bool tcp_half_again(struct tcp_engine *st, const struct tcp_conn *c, const struct tcp_cold *k, uint32_t *ret_index);
/* Into the index, and on the wheel: its SYN-ACK is repeated at `at`. */
void tcp_half_link(struct tcp_engine *st, uint32_t index, ns_t at);
uint32_t tcp_half_run(struct tcp_ctx *x, uint32_t *budget);
/* The connection may be accepted: tells the listener's owner, or gives it to an engine at once. */
void tcp_accept_ready(struct tcp_ctx *x, struct tcp_conn *c);
/* It has its sink. */
void tcp_accept_done(struct tcp_ctx *x, struct tcp_conn *c, uint64_t sink, uint32_t owner);

/* tcp_cookie.c: a SYN remembered in its own answer. */
struct tcp_cookie {
    uint16_t mss;
    uint8_t snd_wscale;
    uint32_t flags; /* TS, SACK, WSCALE, ECN */
};
uint32_t tcp_cookie_make(const struct tcp_engine *st, const struct flow *f, uint32_t irs, uint32_t coarse,
                         uint16_t mss);
/* The low bits of the timestamp carry what has no room in the number. */
uint32_t tcp_cookie_stamp(uint32_t stamp, const struct tcp_cookie *c);
bool tcp_cookie_check(const struct tcp_engine *st, const struct tcp_rx *rx, const struct tcp_opts *o, uint32_t coarse,
                      struct tcp_cookie *ret_cookie);

#endif
