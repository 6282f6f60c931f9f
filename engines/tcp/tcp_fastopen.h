/* SPDX-License-Identifier: Apache-2.0
 *
 * TCP Fast Open (RFC 7413), both sides.
 */
#ifndef USHER_ENGINES_TCP_FASTOPEN_H
#define USHER_ENGINES_TCP_FASTOPEN_H

#include "engines/tcp/tcp_syn.h"

struct tcp_head;

#define TCP_FASTOPEN_COOKIE 8u

/* Client: a cookie for this server is known, so the SYN should wait for data. */
bool tcp_fastopen_known(struct tcp_ctx *x, const struct ipaddr *server);
/* Client: puts cookie or cookie request among the SYN's options. True when data may go with it. */
bool tcp_fastopen_ask(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_opts *o, uint8_t cookie[16]);
/* Client: the SYN with data. False: no buffer, nothing sent. */
bool tcp_fastopen_send(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_head *h);
/* Client: what the SYN-ACK said; sends data again that it did not cover. */
void tcp_fastopen_answer(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_opts *o);
/* Client: a SYN with data went unanswered. */
void tcp_fastopen_failed(struct tcp_ctx *x, const struct tcp_conn *c);
/* Server: the cookie a client of this address has. */
void tcp_fastopen_cookie(const struct tcp_engine *st, const struct flow *f, uint8_t ret_cookie[TCP_FASTOPEN_COOKIE]);
/* Server: a SYN whose cookie is good and fits the listener's queue. */
bool tcp_fastopen_good(struct tcp_ctx *x, const struct tcp_listener *l, const struct tcp_rx *rx,
                       const struct tcp_opts *o);
/* Server: the handshake is complete, or the connection ends: its place in the queue is free. */
void tcp_fastopen_done(struct tcp_ctx *x, struct tcp_conn *c);

#endif
