/* SPDX-License-Identifier: Apache-2.0
 *
 * udp-echo-rate: small datagrams a second through one echo server, a window of them under way, client and server on a
 * core each. Kernel: the best of plain calls and batches of 32, polling and blocking, found anew in every round. Usher:
 * the echo engine's generator inside usherd against a server on libusher. The CPU time of both ends counts.
 */
#include "test/bench/benches.h"
#include "test/bench/kernel_udp.h"
#include "test/bench/limit.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"

#define WINDOW 128u /* small enough that a default receive buffer of the kernel holds all of it */
#define SIZE   64u

enum { RATE, CPU_PER_DATAGRAM };

static const struct bench_metric metrics[] = {
    [RATE] = {.name = "rate", .unit = "1/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = 5},
    [CPU_PER_DATAGRAM] = {.name = "cpu", .unit = "us", .target_kind = TARGET_RATIO, .target = 5},
};

static const struct variant {
    const char *name;
    uint32_t batch;
    bool spin;
} variant[] = {
    {"plain, polling", 1, true},
    {"plain, blocking", 1, false},
    {"sendmmsg/recvmmsg, polling", 32, true},
    {"sendmmsg/recvmmsg, blocking", 32, false},
};
#define VARIANTS (sizeof(variant) / sizeof(variant[0]))

static int kernel_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    double best = 0, cpu = 0;
    if (s == NULL)
        return bench_fail(env, SIDE_KERNEL, "out of memory");
    for (size_t i = 0; i < VARIANTS; i++) {
        struct kernel_udp_job job = {.server_core = env->core[0],
                                     .client_core = env->core[1],
                                     .spin = variant[i].spin,
                                     .window = WINDOW,
                                     .batch = variant[i].batch,
                                     .size = SIZE,
                                     .seconds = env->seconds / 2};
        if (kernel_udp_run(&job, s) != 0 || s->operations == 0)
            return bench_fail(env, SIDE_KERNEL, "%s", s->error);
        double rate = (double)s->operations / s->seconds;
        if (rate <= best)
            continue;
        best = rate;
        cpu = s->cpu_seconds * 1e6 / (double)s->operations;
        bench_note(env, "kernel's best: %s", variant[i].name);
    }
    proc_shared_destroy(s);
    bench_sample(env, SIDE_KERNEL, RATE, best);
    bench_sample(env, SIDE_KERNEL, CPU_PER_DATAGRAM, cpu);
    return 0;
}

static int usher_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .generate = WINDOW};
    struct usher_udp_job job = {.client_core = env->core[1], .server_core = -1, .spin = true, .seconds = env->seconds};
    int rc = usherd_start(&params, &job.usherd, s->error, sizeof(s->error));
    if (rc == 0) {
        rc = usher_udp_serve_rate(&job, s);
        usherd_stop(job.usherd);
    }
    if (rc == 0 && s->operations > 0) {
        bench_sample(env, SIDE_USHER, RATE, (double)s->operations / s->seconds);
        bench_sample(env, SIDE_USHER, CPU_PER_DATAGRAM, s->cpu_seconds * 1e6 / (double)s->operations);
    } else {
        rc = bench_fail(env, SIDE_USHER, "%s", rc == 0 ? "no datagram came" : s->error);
    }
    proc_shared_destroy(s);
    return rc;
}

static int limit_side(struct bench_env *env) {
    double rate;
    if (limit_line_rate(env->core, env->seconds / 4, &rate) != 0)
        return bench_fail(env, SIDE_LIMIT, "needs two cores that this process may use");
    bench_sample(env, SIDE_LIMIT, RATE, rate);
    return 0;
}

const struct bench bench_udp_echo_rate = {
    .name = "udp-echo-rate",
    .what = "64 B datagrams through an echo server, client and server on a core each",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.6,
    .slack_seconds = 10,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side, [SIDE_LIMIT] = limit_side},
};
