/* SPDX-License-Identifier: Apache-2.0
 *
 * How benches of round trips turn a measurement into samples: p50, p99, p99.9 and CPU time per round trip.
 */
#ifndef USHER_TEST_BENCH_RTT_H
#define USHER_TEST_BENCH_RTT_H

#include "test/bench/bench.h"
#include "test/bench/proc.h"
#include "test/bench/tick.h"

/* Metrics first..first+3 are p50, p99, p999 (us) and cpu (us per round trip). -1 when nothing was measured. */
static inline int rtt_sample(struct bench_env *env, enum bench_side side, uint32_t first, const struct proc_shared *s) {
    if (s->hist.count == 0)
        return bench_fail(env, side, "no round trip was completed");
    bench_sample(env, side, first, tick_to_us(hist_quantile(&s->hist, 0.5)));
    bench_sample(env, side, first + 1, tick_to_us(hist_quantile(&s->hist, 0.99)));
    bench_sample(env, side, first + 2, tick_to_us(hist_quantile(&s->hist, 0.999)));
    bench_sample(env, side, first + 3, s->cpu_seconds * 1e6 / (double)s->hist.count);
    return 0;
}

#endif
