/* SPDX-License-Identifier: Apache-2.0
 *
 * Sequence numbers and the engine's two clocks as values. Time inside a connection is kept in 32 bits: `tick` is
 * 1024 ns (spans of up to 36 minutes: round trips, retransmission, pacing), `coarse` is 2^20 ns, about a millisecond
 * (spans of up to 24 days: keep-alive, user timeout, and the timestamp option of RFC 7323). Shifts, no divisions.
 */
#ifndef USHER_ENGINES_TCP_TIME_H
#define USHER_ENGINES_TCP_TIME_H

#include <stdbool.h>
#include <stdint.h>

#define TCP_TICK_SHIFT   10
#define TCP_COARSE_SHIFT 20

#define TCP_TICKS_US(us) ((uint32_t)((uint64_t)(us)*1000u / 1024u))
#define TCP_TICKS_MS(ms) TCP_TICKS_US((uint64_t)(ms)*1000u)
/* Milliseconds to coarse units, rounded up. */
#define TCP_COARSE_MS(ms) ((uint32_t)(((uint64_t)(ms)*1000000u + (1u << TCP_COARSE_SHIFT) - 1) >> TCP_COARSE_SHIFT))
#define TCP_COARSE_S(s)   TCP_COARSE_MS((uint64_t)(s)*1000u)

static inline uint32_t tcp_tick(uint64_t now_ns) { return (uint32_t)(now_ns >> TCP_TICK_SHIFT); }
static inline uint32_t tcp_coarse(uint64_t now_ns) { return (uint32_t)(now_ns >> TCP_COARSE_SHIFT); }
static inline uint32_t tcp_ticks_to_us(uint32_t ticks) { return (uint32_t)((uint64_t)ticks * 1024u / 1000u); }

/* RFC 9293 section 3.4: all comparisons modulo 2^32. */
static inline bool seq_before(uint32_t a, uint32_t b) { return (int32_t)(a - b) < 0; }
static inline bool seq_after(uint32_t a, uint32_t b) { return (int32_t)(b - a) < 0; }
static inline uint32_t seq_max(uint32_t a, uint32_t b) { return seq_before(a, b) ? b : a; }
static inline uint32_t seq_min(uint32_t a, uint32_t b) { return seq_before(a, b) ? a : b; }
static inline bool time_reached(uint32_t now, uint32_t at) { return (int32_t)(now - at) >= 0; }

/* Stamps that use 0 for "none" are set with | 1 and may lie one unit ahead. */
static inline uint32_t time_since(uint32_t now, uint32_t at) { return time_reached(now, at) ? now - at : 0; }

static inline uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

#endif
