/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibration of the worker's clock. The first clock of the process measures the counter against CLOCK_MONOTONIC for
 * two milliseconds; each later anchor, taken over a far longer base, corrects the rate. Any thread may make a clock.
 */
#include "dataplane/core/clock.h"

#include <cpuid.h>
#include <pthread.h>
#include <time.h>

#define CALIBRATE_NS  (2 * NS_PER_MS)
#define SYNC_NS       (200 * NS_PER_MS) /* 200 ms at 500 ppm of drift is 100 us: the worst error between anchors */
#define RATE_MIN_HZ   100000000ull
#define RATE_MAX_HZ   10000000000ull
#define CPUID_POWER   0x80000007u
#define INVARIANT_TSC (1u << 8)

static struct calibration {
    bool tsc;
    uint64_t mult;
    uint64_t sync_ticks;
} calibration; /* written once, below */
static pthread_once_t calibrate_once = PTHREAD_ONCE_INIT;

static ns_t monotonic(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (ns_t)ts.tv_sec * NS_PER_SEC + (ns_t)ts.tv_nsec;
}

static bool tsc_invariant(void) {
    unsigned int a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(CPUID_POWER, &a, &b, &c, &d) != 0 && (d & INVARIANT_TSC) != 0;
}

static uint64_t mult_of(uint64_t ns, uint64_t ticks) {
    return (uint64_t)(((unsigned __int128)ns << CLOCK_SHIFT) / ticks);
}

static void calibrate(void) {
    if (!tsc_invariant())
        return;
    ns_t from_ns = monotonic();
    uint64_t from_tsc = __rdtsc();
    ns_t to_ns;
    do {
        to_ns = monotonic();
    } while (to_ns - from_ns < CALIBRATE_NS);
    uint64_t ticks = __rdtsc() - from_tsc;
    ns_t ns = to_ns - from_ns;
    uint64_t hz = (uint64_t)((unsigned __int128)ticks * NS_PER_SEC / ns);
    if (hz < RATE_MIN_HZ || hz > RATE_MAX_HZ)
        return;
    calibration.mult = mult_of(ns, ticks);
    calibration.sync_ticks = (uint64_t)((unsigned __int128)SYNC_NS * hz / NS_PER_SEC);
    calibration.tsc = true;
}

void clock_init(struct clock *c) {
    pthread_once(&calibrate_once, calibrate);
    *c = (struct clock){.tsc = calibration.tsc, .mult = calibration.mult, .sync_ticks = calibration.sync_ticks};
    (void)clock_sync(c);
}

/* The rate is corrected only over a base long enough that reading two clocks one after the other does not matter, and
 * only by a step that a sane counter can need (0.1 %): a counter that was reset or a paused machine changes nothing. */
static void rate_correct(struct clock *c, uint64_t ticks, ns_t ns) {
    if (ticks == 0 || ns < SYNC_NS / 2)
        return;
    uint64_t mult = mult_of(ns, ticks);
    uint64_t step = mult > c->mult ? mult - c->mult : c->mult - mult;
    if (step < c->mult / 1000)
        c->mult = mult;
}

ns_t clock_sync(struct clock *c) {
    ns_t now = monotonic();
    if (c->tsc) {
        uint64_t tsc = __rdtsc();
        if (c->anchor_ns != 0 && tsc > c->anchor_tsc)
            rate_correct(c, tsc - c->anchor_tsc, now - c->anchor_ns);
        c->anchor_tsc = tsc;
        c->anchor_ns = now;
    }
    c->last = now > c->last ? now : c->last;
    return c->last;
}

const char *clock_source(const struct clock *c) {
    return c->tsc ? "time stamp counter" : "clock_gettime";
}
