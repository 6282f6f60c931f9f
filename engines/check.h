/* SPDX-License-Identifier: Apache-2.0
 *
 * The three kinds of assertion. None of them may ever look at bytes that came from a client, a peer, the kernel or a
 * file: such bytes are validated, counted and dropped.
 *
 *   STATIC_ASSERT  sizes, cache lines, index widths: costs nothing
 *   CHECK          always on, once a burst or a command
 *   DCHECK         once a packet: debug, simulator and fuzzer builds only
 *
 * Engines may not call abort(): a failed check executes a trap instruction, which the daemon's crash handler reports.
 */
#ifndef USHER_ENGINES_CHECK_H
#define USHER_ENGINES_CHECK_H

#define STATIC_ASSERT(cond, text) _Static_assert(cond, text)

#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (__builtin_expect(!(cond), 0))                                                                              \
            __builtin_trap();                                                                                          \
    } while (0)

#ifdef USHER_DCHECK
#define DCHECK(cond) CHECK(cond)
#else
#define DCHECK(cond)                                                                                                   \
    do {                                                                                                               \
        if (0)                                                                                                         \
            (void)(cond);                                                                                              \
    } while (0)
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Off the straight path: its registers and its stack are not paid for by those who do not call it. */
#define SELDOM __attribute__((cold, noinline))
/* A stage of the straight path that the compiler would call: 10 to 20 instructions a packet for each. */
#define STRAIGHT __attribute__((always_inline)) static inline

#define CACHE_LINE 64
#define CACHE_ALIGNED __attribute__((aligned(CACHE_LINE)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#endif
