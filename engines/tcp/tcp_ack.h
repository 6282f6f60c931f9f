/* SPDX-License-Identifier: Apache-2.0
 *
 * What an acknowledgement does to the sending side.
 */
#ifndef USHER_ENGINES_TCP_ACK_H
#define USHER_ENGINES_TCP_ACK_H

#include "engines/tcp/tcp_loss.h"

/* Takes the ACK, window and SACK fields of a segment that passed the sequence checks. False: the ACK is not acceptable
 * (it names what was never sent, or is far too old) and the segment must not be looked at further. */
bool tcp_ack(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_rx *rx, const struct tcp_opts *o);

#endif
