/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's clock: CLOCK_MONOTONIC in nanoseconds, read once per loop turn. Where the CPU's time stamp counter is
 * invariant it is scaled (about 20 cycles a read) and anchored anew to CLOCK_MONOTONIC several times a second, so it
 * follows the kernel's corrections; elsewhere clock_gettime() is used. It never runs backwards.
 *
 * One clock belongs to one thread.
 */
#ifndef USHER_DATAPLANE_CORE_CLOCK_H
#define USHER_DATAPLANE_CORE_CLOCK_H

#include <x86intrin.h>

#include "engines/engine.h"

struct clock {
    bool tsc;            /* scaled TSC, else clock_gettime() */
    uint64_t anchor_tsc; /* the counter when the anchor was taken */
    ns_t anchor_ns;      /* the time then */
    uint64_t mult;       /* nanoseconds per tick, shifted left by CLOCK_SHIFT */
    uint64_t sync_ticks; /* after so many ticks the anchor is too old */
    ns_t last;           /* newest time that was given out */
};

#define CLOCK_SHIFT 32

/* Copies the process-wide calibration and takes an anchor. Cheap. */
void clock_init(struct clock *c);
/* Takes a new anchor: after a sleep, and by itself when the old one is stale. */
ns_t clock_sync(struct clock *c);
/* What the clock stands on, for people. */
const char *clock_source(const struct clock *c);

static inline ns_t clock_now(struct clock *c) {
    if (UNLIKELY(!c->tsc))
        return clock_sync(c);
    uint64_t ticks = __rdtsc() - c->anchor_tsc;
    if (UNLIKELY(ticks > c->sync_ticks)) /* also when the counter went backwards: the difference is then huge */
        return clock_sync(c);
    ns_t now = c->anchor_ns + ((ticks * c->mult) >> CLOCK_SHIFT);
    c->last = now > c->last ? now : c->last;
    return c->last;
}

#endif
