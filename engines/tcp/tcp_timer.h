/* SPDX-License-Identifier: Apache-2.0
 *
 * The timers of a connection.
 */
#ifndef USHER_ENGINES_TCP_TIMER_H
#define USHER_ENGINES_TCP_TIMER_H

#include "engines/tcp/tcp_conn.h"

/* Whatever is due on one connection; its change is open. */
void tcp_timer_fire(struct tcp_ctx *x, struct tcp_conn *c);
/* Sets slow_at for what the connection now waits for: keep-alive, FIN-WAIT-2. */
void tcp_timer_slow(struct tcp_ctx *x, struct tcp_conn *c);
/* Its owner has come back to it: what is in flight is sent again at once, and quickly until the peer is heard. */
void tcp_timer_resumed(struct tcp_ctx *x, struct tcp_conn *c);

#endif
