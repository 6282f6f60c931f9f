/* SPDX-License-Identifier: Apache-2.0
 *
 * Death at any store. The simulator's copies of the engine modules are compiled with the thread sanitizer's
 * instrumentation, but its runtime is ours: every store first calls in here, and mem*() calls come here whole. While
 * armed, the n-th store into a watched arena never happens: control jumps out of the engine, as if SIGKILL had struck
 * just before that instruction. A store of many bytes (a struct assignment, a memcpy) may also be torn in the middle.
 *
 * Thread: one. Modules that are not instrumented simply never die.
 */
#ifndef USHER_TEST_SIM_STORE_H
#define USHER_TEST_SIM_STORE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Forgets all watched ranges. */
void store_watch_none(void);
void store_watch(const void *base, size_t size);

/* Dies before store number `n` (from 1) into a watched range, or half-way through it when `torn` and it is wide enough;
 * longjmp(*where, 1). The caller has done setjmp(). Disarms itself. */
void store_arm(uint64_t n, bool torn, jmp_buf *where);
void store_disarm(void);

/* Stores into watched ranges since the last store_arm() or store_count_reset(). */
uint64_t store_count(void);
void store_count_reset(void);

#endif
