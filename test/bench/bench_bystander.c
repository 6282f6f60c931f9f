/* SPDX-License-Identifier: Apache-2.0
 *
 * bystander: what attaching Usher costs the rest of the host. A kernel TCP stream over a veth pair, each way, while
 * usherd is not there (column kernel) and while it is attached to one end, idle, by its default port (column usher).
 */
#include "test/bench/benches.h"
#include "test/bench/kernel_tcp.h"
#include "test/bench/usherd.h"

enum { THROUGHPUT, CPU, THROUGHPUT_OUT, CPU_OUT };

static const struct bench_metric metrics[] = {
    [THROUGHPUT] =
        {.name = "throughput", .unit = "Gbit/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = 0.95},
    [CPU] = {.name = "cpu", .unit = "us/MB"},
    [THROUGHPUT_OUT] = {.name = "throughput_out",
                        .unit = "Gbit/s",
                        .better = BETTER_HIGHER,
                        .target_kind = TARGET_RATIO,
                        .target = 0.95},
    [CPU_OUT] = {.name = "cpu_out", .unit = "us/MB"},
};

static int stream(struct bench_env *env, enum bench_side side, pid_t also) {
    struct proc_shared *s = proc_shared_create();
    int rc = s == NULL ? bench_fail(env, side, "out of memory") : 0;
    for (int outward = 0; outward < 2 && rc == 0; outward++) {
        struct kernel_tcp_job job = {.peer_netns = env->peer,
                                     .sender_core = env->core[outward ? 1 : 0],
                                     .receiver_core = env->core[outward ? 0 : 1],
                                     .inward = !outward,
                                     .seconds = env->seconds,
                                     .also = also};
        rc = kernel_tcp_run(&job, s);
        if (rc != 0) {
            (void)bench_fail(env, side, "%s", s->error);
            break;
        }
        double bytes = (double)s->operations;
        bench_sample(env, side, outward ? THROUGHPUT_OUT : THROUGHPUT, bytes * 8 / s->seconds / 1e9);
        bench_sample(env, side, outward ? CPU_OUT : CPU, s->cpu_seconds * 1e6 / (bytes / 1e6));
    }
    if (s != NULL)
        proc_shared_destroy(s);
    return rc;
}

static int kernel_side(struct bench_env *env) {
    return stream(env, SIDE_KERNEL, 0);
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto"};
    char err[512];
    pid_t usherd;
    if (usherd_start(&params, &usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = stream(env, SIDE_USHER, usherd);
    usherd_stop(usherd);
    return rc;
}

const struct bench bench_bystander = {
    .name = "bystander",
    .what = "a kernel TCP stream while usherd is attached, idle, and while it is not",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 12,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
