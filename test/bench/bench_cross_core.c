/* SPDX-License-Identifier: Apache-2.0
 *
 * cross-core: no dataplane at all, only what the machine can do between its cores. Read the other benches against it.
 */
#include "test/bench/benches.h"
#include "test/bench/limit.h"
#include "test/bench/tick.h"

enum { LINE_RTT, LINE_RTT_P99, LINE_RATE, MEMCPY };

static const struct bench_metric metrics[] = {
    [LINE_RTT] = {.name = "line_rtt", .unit = "us"},
    [LINE_RTT_P99] = {.name = "line_rtt_p99", .unit = "us"},
    [LINE_RATE] = {.name = "line_rate", .unit = "1/s", .better = BETTER_HIGHER},
    [MEMCPY] = {.name = "memcpy", .unit = "GB/s", .better = BETTER_HIGHER},
};

static int limit_side(struct bench_env *env) {
    static struct hist h;
    double rate, bytes;
    hist_reset(&h);
    if (limit_line_rtt(env->core, env->seconds, &h) != 0 || limit_line_rate(env->core, env->seconds, &rate) != 0)
        return bench_fail(env, SIDE_LIMIT, "needs two cores that this process may use");
    if (limit_memcpy(env->seconds, &bytes) != 0)
        return bench_fail(env, SIDE_LIMIT, "no memory for two blocks of 64 MiB");
    bench_sample(env, SIDE_LIMIT, LINE_RTT, tick_to_us(hist_quantile(&h, 0.5)));
    bench_sample(env, SIDE_LIMIT, LINE_RTT_P99, tick_to_us(hist_quantile(&h, 0.99)));
    bench_sample(env, SIDE_LIMIT, LINE_RATE, rate);
    bench_sample(env, SIDE_LIMIT, MEMCPY, bytes / 1e9);
    return 0;
}

const struct bench bench_cross_core = {
    .name = "cross-core",
    .what = "raw exchange of cache lines between the two cores, and memcpy",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.2,
    .slack_seconds = 2,
    .side = {[SIDE_LIMIT] = limit_side},
};
