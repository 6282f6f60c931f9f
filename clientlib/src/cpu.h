/* SPDX-License-Identifier: Apache-2.0
 *
 * What depends on the processor or the clock, in one place. Any thread.
 */
#ifndef USHER_CLIENTLIB_CPU_H
#define USHER_CLIENTLIB_CPU_H

#include <stdint.h>
#include <time.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

static inline void client_cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* CLOCK_MONOTONIC in nanoseconds; through the vDSO, about 22 ns. */
static inline int64_t client_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

#endif
