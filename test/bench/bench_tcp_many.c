/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-many: 100,000 established connections at once. `rpc_rate_*`: requests of 64 B a second between a client and a
 * server process, one under way on each of a random 1,000 of them, against the rate when there are only these; usherd
 * has both ends of each, and `usherd_bytes` is what an end of one takes of its resident memory, sessions included.
 * `bytes_per_connection` and `segment_cycles_*` are the tcp engine's alone, in this process: memory, and what a segment
 * of 64 B in costs it.
 */
#include <sched.h>

#include "engines/tcp/cycles.h"
#include "test/bench/benches.h"
#include "test/bench/tcp_job.h"
#include "test/bench/usherd.h"

#define FEW_STREAMS 1000u
#define ALL_STREAMS 100000u

enum { BYTES, FEW, MANY, RATE_FEW, RATE_MANY, SLOWDOWN, USHERD_BYTES, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [BYTES] = {.name = "bytes_per_connection", .unit = "B", .target_kind = TARGET_USHER, .target = 512},
    [FEW] = {.name = "segment_cycles_1000", .unit = "cycles"},
    [MANY] = {.name = "segment_cycles_100000", .unit = "cycles"},
    [RATE_FEW] = {.name = "rpc_rate_1000", .unit = "1/s", .better = BETTER_HIGHER},
    [RATE_MANY] = {.name = "rpc_rate_100000", .unit = "1/s", .better = BETTER_HIGHER},
    [SLOWDOWN] = {.name = "rpc_slowdown", .unit = "x", .target_kind = TARGET_USHER, .target = 1 / 0.9},
    [USHERD_BYTES] = {.name = "usherd_bytes", .unit = "B"},
};

struct figures {
    double rate, bytes;
};

static int measure(struct bench_env *env, uint32_t crowd, struct figures *ret_figures) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .streams = ALL_STREAMS};
    struct tcp_job job = {.kind = TCP_USHER,
                          .client_core = env->core[1],
                          .server_core = env->core[0],
                          .rpcs = FEW_STREAMS,
                          .crowd = crowd,
                          .seconds = env->seconds};
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    int rc = usherd_start(&params, &job.usherd, s->error, sizeof(s->error));
    if (rc == 0) {
        rc = tcp_job_run(&job, s);
        usherd_stop(job.usherd);
    }
    if (rc != 0)
        (void)bench_fail(env, SIDE_USHER, "%u connections: %s", crowd, s->error);
    else
        *ret_figures = (struct figures){(double)s->operations / s->seconds, (double)s->resident / (2.0 * crowd)};
    proc_shared_destroy(s);
    return rc;
}

static int usher_side(struct bench_env *env) {
    struct figures few, many;
    if (measure(env, FEW_STREAMS, &few) != 0 || measure(env, ALL_STREAMS, &many) != 0)
        return -1;
    bench_sample(env, SIDE_USHER, RATE_FEW, few.rate);
    bench_sample(env, SIDE_USHER, RATE_MANY, many.rate);
    bench_sample(env, SIDE_USHER, SLOWDOWN, few.rate / many.rate);
    bench_sample(env, SIDE_USHER, USHERD_BYTES, many.bytes);
    cpu_set_t all;
    bool known = sched_getaffinity(0, sizeof(all), &all) == 0;
    (void)proc_pin(env->core[1]);
    struct cycles_many f = cycles_many(CYCLES_ACTIVE), m = cycles_many(CYCLES_MANY);
    bench_sample(env, SIDE_USHER, BYTES, (double)m.bytes_each);
    bench_sample(env, SIDE_USHER, FEW, (double)f.segment);
    bench_sample(env, SIDE_USHER, MANY, (double)m.segment);
    if (known) /* the next round's usherd is a child of ours */
        (void)sched_setaffinity(0, sizeof(all), &all);
    return 0;
}

const struct bench bench_tcp_many = {
    .name = "tcp-many",
    .what = "100,000 established TCP connections at once",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 3,
    .seconds = 0.5,
    .slack_seconds = 120,
    .setup = bench_setup_peer,
    .side = {[SIDE_USHER] = usher_side},
};
