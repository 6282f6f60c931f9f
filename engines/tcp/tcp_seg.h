/* SPDX-License-Identifier: Apache-2.0
 *
 * The scoreboard: what is between snd_una and snd_nxt, as a list of ranges in sequence order without gaps, each with
 * the time it was sent and what we believe of it (SACKed, lost, repeated). RFC 6675's counters are kept as bytes in the
 * connection. Derived state.
 */
#ifndef USHER_ENGINES_TCP_SEG_H
#define USHER_ENGINES_TCP_SEG_H

#include "engines/tcp/tcp_queue.h"

#define TCP_SEG_PER_CONN 1024u /* beyond, SACK blocks that would split a range are not used */

/* What one ACK told us; filled by tcp_seg_* and the ACK code, read by loss recovery and congestion control. */
struct tcp_acked {
    uint32_t acked;     /* bytes newly acknowledged in sequence, SYN and FIN counted */
    uint32_t delivered; /* bytes newly known delivered, SACKed ones counted once */
    uint32_t lost;      /* bytes newly marked lost ... */
    uint32_t probe_lost; /* ... by reason of their size alone */
    uint32_t probe;     /* bytes of an MTU probe that arrived; 0 = none did */
    uint32_t flight;    /* before this ACK */
    uint32_t fack;      /* highest number known delivered before this ACK: what it tells all at once is no reordering */
    uint32_t rtt;       /* ticks; of the oldest range acknowledged, UINT32_MAX = no sample */
    uint32_t rtt_last;  /* of the latest one */
    uint32_t prior_delivered, prior_at, sent_at, first_sent; /* rate sample: of the latest range delivered */
    uint32_t rto;       /* ticks, with backoff, before this ACK */
    uint32_t interval;  /* ticks of the rate sample, 0 = none */
    uint32_t data;      /* queue bytes among acked */
    bool app_limited;
    bool repeated;      /* something acknowledged had been sent twice */
    bool overtaken;     /* a first transmission arrived from below the highest SACK: reordering */
    bool dsack;
    bool advanced;      /* snd_una moved */
    bool ece;
    bool syn, fin;      /* ours were acknowledged */
};

/* Appends what was just sent; merges with the range before when both left in the same call. False: table full. */
bool tcp_seg_append(struct tcp_ctx *x, struct tcp_conn *c, uint32_t seq, uint32_t end, uint8_t flags,
                    struct tcp_cursor at);
/* Cuts a range in two at `at`; both keep their marks. False: no record. */
bool tcp_seg_split(struct tcp_ctx *x, struct tcp_conn *c, uint32_t index, uint32_t at);
/* Drops everything below `ack` from the list. */
void tcp_seg_ack(struct tcp_ctx *x, struct tcp_conn *c, uint32_t ack, struct tcp_acked *a);
/* Marks what a SACK block covers; the block was checked to lie in flight. */
void tcp_seg_sack(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_range block, struct tcp_acked *a);
void tcp_seg_mark_lost(struct tcp_conn *c, struct tcp_seg *s, struct tcp_acked *a);
/* All that is not SACKed is lost; with `forget` SACKed too (the peer reneged, or it knows no SACK). */
void tcp_seg_mark_all_lost(struct tcp_ctx *x, struct tcp_conn *c, bool forget);
/* It was sent again just now. */
void tcp_seg_repeated(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_seg *s);
/* First range that is lost and not in flight again, TCP_NIL = none. */
uint32_t tcp_seg_first_lost(struct tcp_engine *st, const struct tcp_conn *c);
void tcp_seg_clear_lost(struct tcp_engine *st, struct tcp_conn *c);
void tcp_seg_release_all(struct tcp_engine *st, struct tcp_conn *c);

#endif
