/* SPDX-License-Identifier: Apache-2.0
 *
 * udp-rtt: round trips of 64 B, one at a time, between two cores. Kernel: client and server process on loopback. Usher:
 * a client against the echo engine inside usherd. `spin`: both ends poll. `block`: both ends use blocking waits with
 * default settings, so the library's own short self-tuned spin counts.
 */
#include "test/bench/benches.h"
#include "test/bench/kernel_udp.h"
#include "test/bench/limit.h"
#include "test/bench/rtt.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"

enum { SPIN, SPIN_P99, SPIN_P999, SPIN_CPU, BLOCK, BLOCK_P99, BLOCK_P999, BLOCK_CPU };

static const struct bench_metric metrics[] = {
    [SPIN] = {.name = "spin", .unit = "us", .target_kind = TARGET_RATIO, .target = 8},
    [SPIN_P99] = {.name = "spin_p99", .unit = "us"},
    [SPIN_P999] = {.name = "spin_p999", .unit = "us"},
    [SPIN_CPU] = {.name = "spin_cpu", .unit = "us"},
    [BLOCK] = {.name = "block", .unit = "us", .target_kind = TARGET_RATIO, .target = 3},
    [BLOCK_P99] = {.name = "block_p99", .unit = "us"},
    [BLOCK_P999] = {.name = "block_p999", .unit = "us"},
    [BLOCK_CPU] = {.name = "block_cpu", .unit = "us"},
};

static int kernel_round(struct bench_env *env, bool spin, uint32_t first, struct proc_shared *s) {
    struct kernel_udp_job job = {.server_core = env->core[0],
                                 .client_core = env->core[1],
                                 .spin = spin,
                                 .window = 1,
                                 .batch = 1,
                                 .size = 64,
                                 .seconds = env->seconds};
    if (kernel_udp_run(&job, s) != 0)
        return bench_fail(env, SIDE_KERNEL, "%s", s->error);
    return rtt_sample(env, SIDE_KERNEL, first, s);
}

static int kernel_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_KERNEL, "out of memory");
    int rc = kernel_round(env, true, SPIN, s);
    if (rc == 0)
        rc = kernel_round(env, false, BLOCK, s);
    proc_shared_destroy(s);
    return rc;
}

/* `spin` is against a worker that spins (mode dedicated); `block` against usherd's own choice. */
static int usher_round(struct bench_env *env, bool spin, uint32_t first, struct proc_shared *s) {
    struct usherd_params params = {.core = env->core[0], .mode = spin ? "dedicated" : "auto"};
    struct usher_udp_job job = {
        .client_core = env->core[1], .server_core = -1, .spin = spin, .size = 64, .seconds = env->seconds};
    if (usherd_start(&params, &job.usherd, s->error, sizeof(s->error)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", s->error);
    int rc = usher_udp_rtt(&job, s);
    usherd_stop(job.usherd);
    if (rc != 0)
        return bench_fail(env, SIDE_USHER, "%s", s->error);
    return rtt_sample(env, SIDE_USHER, first, s);
}

static int usher_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    int rc = usher_round(env, true, SPIN, s);
    if (rc == 0)
        rc = usher_round(env, false, BLOCK, s);
    proc_shared_destroy(s);
    return rc;
}

static int limit_side(struct bench_env *env) {
    static struct hist h;
    hist_reset(&h);
    if (limit_line_rtt(env->core, env->seconds / 4, &h) != 0)
        return bench_fail(env, SIDE_LIMIT, "needs two cores that this process may use");
    bench_sample(env, SIDE_LIMIT, SPIN, tick_to_us(hist_quantile(&h, 0.5)));
    bench_sample(env, SIDE_LIMIT, SPIN_P99, tick_to_us(hist_quantile(&h, 0.99)));
    return 0;
}

const struct bench bench_udp_rtt = {
    .name = "udp-rtt",
    .what = "round trips of 64 B to an echo on the other core",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 10,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side, [SIDE_LIMIT] = limit_side},
};
