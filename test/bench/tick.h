/* SPDX-License-Identifier: Apache-2.0
 *
 * The cheapest clock there is: the TSC where it is constant (x86-64: 8 to 10 ns a read, clock_gettime takes 22), else
 * CLOCK_MONOTONIC. tick_init() once per process tree: its scale is inherited by forked children.
 */
#ifndef USHER_TEST_BENCH_TICK_H
#define USHER_TEST_BENCH_TICK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t tick_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#ifdef __x86_64__
static inline uint64_t tick_now(void) { return __builtin_ia32_rdtsc(); }
static inline void tick_pause(void) { __builtin_ia32_pause(); }
#else
static inline uint64_t tick_now(void) { return tick_ns(); }
static inline void tick_pause(void) { __asm__ __volatile__("" ::: "memory"); }
#endif

void tick_init(void); /* takes 20 ms */
double tick_per_ns(void);

static inline uint64_t tick_from_seconds(double s) { return (uint64_t)(s * 1e9 * tick_per_ns()); }
static inline double tick_to_us(double ticks) { return ticks / tick_per_ns() / 1e3; }

#endif
