/* SPDX-License-Identifier: Apache-2.0
 *
 * one-core: usherd, a client and a server all on one core, blocking waits with default settings, against the kernel's
 * client and server on that core. Who spins here ruins everybody: this is where polling dataplanes take milliseconds.
 */
#include "test/bench/benches.h"
#include "test/bench/kernel_udp.h"
#include "test/bench/rtt.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"

enum { P50, P99, P999, CPU };

static const struct bench_metric metrics[] = {
    [P50] = {.name = "p50", .unit = "us", .target_kind = TARGET_RATIO, .target = 0.5},
    [P99] = {.name = "p99", .unit = "us", .target_kind = TARGET_RATIO, .target = 0.333},
    [P999] = {.name = "p999", .unit = "us"},
    [CPU] = {.name = "cpu", .unit = "us"},
};

static int kernel_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_KERNEL, "out of memory");
    struct kernel_udp_job job = {.server_core = env->core[0],
                                 .client_core = env->core[0],
                                 .window = 1,
                                 .batch = 1,
                                 .size = 64,
                                 .seconds = env->seconds};
    int rc = kernel_udp_run(&job, s);
    rc = rc != 0 ? bench_fail(env, SIDE_KERNEL, "%s", s->error) : rtt_sample(env, SIDE_KERNEL, P50, s);
    proc_shared_destroy(s);
    return rc;
}

static int usher_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    struct usherd_params params = {.core = env->core[0], .pinned = true, .mode = "auto"};
    struct usher_udp_job job = {
        .client_core = env->core[0], .server_core = env->core[0], .size = 64, .seconds = env->seconds};
    int rc = usherd_start(&params, &job.usherd, s->error, sizeof(s->error));
    if (rc == 0) {
        rc = usher_udp_rtt(&job, s);
        usherd_stop(job.usherd);
    }
    rc = rc != 0 ? bench_fail(env, SIDE_USHER, "%s", s->error) : rtt_sample(env, SIDE_USHER, P50, s);
    proc_shared_destroy(s);
    return rc;
}

const struct bench bench_one_core = {
    .name = "one-core",
    .what = "round trips of 64 B with everybody on one core",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 10,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
