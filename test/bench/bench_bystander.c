/* SPDX-License-Identifier: Apache-2.0
 *
 * bystander: what attaching Usher costs the rest of the host. A kernel TCP stream over a veth pair, each way, while
 * usherd is not there (column kernel) and while it is attached to one end, idle, by its default port (column usher).
 */
#include <stdlib.h>

#include "test/bench/benches.h"
#include "test/bench/kernel_tcp.h"
#include "test/bench/sandbox.h"

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

struct bystander {
    int peer;
    struct proc_shared *shared;
};

static int setup(struct bench_env *env) {
    struct bystander *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return bench_fail(env, SIDE_KERNEL, "out of memory");
    env->state = b;
    b->shared = proc_shared_create();
    b->peer = sandbox_peer();
    if (b->peer < 0 || b->shared == NULL)
        return bench_fail(env, SIDE_KERNEL, "no second network namespace could be made");
    return 0;
}

static int stream(struct bench_env *env, enum bench_side side, pid_t also) {
    struct bystander *b = env->state;
    for (int outward = 0; outward < 2; outward++) {
        struct kernel_tcp_job job = {.peer_netns = b->peer,
                                     .sender_core = env->core[outward ? 1 : 0],
                                     .receiver_core = env->core[outward ? 0 : 1],
                                     .inward = !outward,
                                     .seconds = env->seconds,
                                     .also = also};
        if (kernel_tcp_run(&job, b->shared) != 0)
            return bench_fail(env, side, "%s", b->shared->error);
        double bytes = (double)b->shared->operations;
        bench_sample(env, side, outward ? THROUGHPUT_OUT : THROUGHPUT, bytes * 8 / b->shared->seconds / 1e9);
        bench_sample(env, side, outward ? CPU_OUT : CPU, b->shared->cpu_seconds * 1e6 / (bytes / 1e6));
    }
    return 0;
}

static int kernel_side(struct bench_env *env) {
    return stream(env, SIDE_KERNEL, 0);
}

const struct bench bench_bystander = {
    .name = "bystander",
    .what = "a kernel TCP stream while usherd is attached, idle, and while it is not",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 12,
    .setup = setup,
    .side = {[SIDE_KERNEL] = kernel_side},
};
