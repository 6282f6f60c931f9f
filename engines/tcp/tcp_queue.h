/* SPDX-License-Identifier: Apache-2.0
 *
 * The send queue of a connection: a list of pieces {offset, length} in the session's TX region, or packets of an engine
 * sink, from the first unacknowledged byte to the last one queued. Bytes stay where the client put them.
 */
#ifndef USHER_ENGINES_TCP_QUEUE_H
#define USHER_ENGINES_TCP_QUEUE_H

#include "engines/tcp/tcp_conn.h"

/* A place in the queue. */
struct tcp_cursor {
    uint32_t item; /* TCP_NIL behind the end */
    uint32_t off;
};

/* Appends. False: the table is full (nothing changed). `kept` TCP_NIL = region bytes. */
bool tcp_queue_push(struct tcp_ctx *x, struct tcp_conn *c, uint32_t off, uint32_t len, uint32_t kept);
/* Steps over n queued bytes. */
void tcp_cursor_skip(struct tcp_engine *st, struct tcp_cursor *cur, uint32_t n);
/* The peer has `n` more bytes of the queue: they are given back when the change is committed. */
void tcp_queue_acked(struct tcp_ctx *x, struct tcp_conn *c, uint32_t n);
/* Gives back items from `from` up to, not including, `end`. */
void tcp_queue_release(struct tcp_ctx *x, uint32_t from, uint32_t end);
/* Send limit that suits the path: twice the congestion window, within bounds. */
uint32_t tcp_queue_advice(const struct tcp_engine *st, const struct tcp_conn *c);
/* Where the bytes at a cursor lie and how many follow contiguously, at most `max`. NULL: the client's memory is
 * gone. */
const uint8_t *tcp_queue_bytes(struct tcp_ctx *x, const struct tcp_conn *c, const struct tcp_cursor *cur, uint32_t max,
                               uint32_t *ret_len);

#endif
