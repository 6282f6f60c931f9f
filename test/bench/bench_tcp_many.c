/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-many: 100,000 established connections on one tcp engine in this process: resident memory for each, and what a
 * segment of 64 B in costs the engine on a random 1,000 of them against when there are only these. Sessions take part
 * in neither; a session holds 8,192 accepted streams today.
 */
#include "engines/tcp/cycles.h"
#include "test/bench/benches.h"
#include "test/bench/proc.h"

enum { BYTES, FEW, MANY, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [BYTES] = {.name = "bytes_per_connection", .unit = "B", .target_kind = TARGET_USHER, .target = 512},
    [FEW] = {.name = "segment_cycles_1000", .unit = "cycles"},
    [MANY] = {.name = "segment_cycles_100000", .unit = "cycles"},
};

static int usher_side(struct bench_env *env) {
    (void)proc_pin(env->core[1]);
    struct cycles_many few = cycles_many(CYCLES_ACTIVE), many = cycles_many(CYCLES_MANY);
    bench_sample(env, SIDE_USHER, BYTES, (double)many.bytes_each);
    bench_sample(env, SIDE_USHER, FEW, (double)few.segment);
    bench_sample(env, SIDE_USHER, MANY, (double)many.segment);
    return 0;
}

const struct bench bench_tcp_many = {
    .name = "tcp-many",
    .what = "100,000 established connections on the tcp engine",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 1,
    .seconds = 0.1,
    .slack_seconds = 60,
    .side = {[SIDE_USHER] = usher_side},
};
