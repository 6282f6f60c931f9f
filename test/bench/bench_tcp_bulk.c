/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-bulk and tcp-bulk-gso: one TCP stream over a veth pair at MTU 1500, each direction, against a kernel process. The
 * side under test, be it a kernel process or usherd with its client, has core 0 with all of its soft interrupts; the
 * peer has core 1 with all of its own (receive packet steering on both ends). tcp-bulk turns tso, gso and gro off on
 * both ends: every segment is a frame, as on a plain wire. tcp-bulk-gso leaves them on: veth hands over frames of 64 KB
 * by reference.
 */
#include "test/bench/benches.h"
#include "test/bench/bulk.h"
#include "test/bench/sandbox.h"
#include "test/bench/usherd.h"

enum { THROUGHPUT_TX, THROUGHPUT_RX, CPU_TX, CPU_RX, METRICS };

#define METRIC_TABLE(target_)                                                                                          \
    {                                                                                                                  \
        [THROUGHPUT_TX] = {"throughput_tx", "Gbit/s", BETTER_HIGHER, TARGET_RATIO, target_},                           \
        [THROUGHPUT_RX] = {"throughput_rx", "Gbit/s", BETTER_HIGHER, TARGET_RATIO, target_},                           \
        [CPU_TX] = {"cpu_per_byte_tx", "ns/KB", BETTER_LOWER, TARGET_RATIO, target_},                                  \
        [CPU_RX] = {"cpu_per_byte_rx", "ns/KB", BETTER_LOWER, TARGET_RATIO, target_},                                  \
    }

static const struct bench_metric metrics[METRICS] = METRIC_TABLE(1.0);
static const struct bench_metric metrics_gso[METRICS] = METRIC_TABLE(0.6);

static int both_ways(struct bench_env *env, enum bench_side side, proc_fn *end) {
    struct proc_shared *s = proc_shared_create();
    int rc = s == NULL ? bench_fail(env, side, "out of memory") : 0;
    for (int transmit = 1; transmit >= 0 && rc == 0; transmit--) {
        const struct bulk_job job = {.peer_netns = env->peer,
                                     .core = env->core[0],
                                     .peer_core = env->core[1],
                                     .transmit = transmit != 0,
                                     .seconds = env->seconds,
                                     .end = end};
        rc = bulk_run(&job, s);
        if (rc != 0) {
            (void)bench_fail(env, side, "%s", s->error);
            break;
        }
        double bytes = (double)s->operations;
        bench_sample(env, side, transmit ? THROUGHPUT_TX : THROUGHPUT_RX, bytes * 8 / s->seconds / 1e9);
        bench_sample(env, side, transmit ? CPU_TX : CPU_RX, s->cpu_seconds * 1e9 / (bytes / 1e3));
    }
    if (s != NULL)
        proc_shared_destroy(s);
    return rc;
}

static int kernel_side(struct bench_env *env) {
    return both_ways(env, SIDE_KERNEL, bulk_end_kernel);
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .pinned = true, .mode = "auto"};
    char err[512];
    pid_t usherd;
    if (usherd_start(&params, &usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = both_ways(env, SIDE_USHER, bulk_end_usher);
    usherd_stop(usherd);
    return rc;
}

static int setup(struct bench_env *env) {
    if (bench_setup_peer(env) != 0)
        return -1;
    if (sandbox_steer(-1, SANDBOX_IFNAME, env->core[0]) != 0 ||
        sandbox_steer(env->peer, SANDBOX_PEER_IFNAME, env->core[1]) != 0)
        return bench_fail(env, SIDE_KERNEL, "receive packet steering cannot be set: is the kernel without CONFIG_RPS?");
    return 0;
}

static int setup_plain(struct bench_env *env) {
    if (setup(env) != 0)
        return -1;
    if (sandbox_exec(-1, "ethtool -K " SANDBOX_IFNAME " tso off gso off gro off") != 0 ||
        sandbox_exec(env->peer, "ethtool -K " SANDBOX_PEER_IFNAME " tso off gso off gro off") != 0)
        return bench_fail(env, SIDE_KERNEL, "ethtool cannot turn the offloads of veth off");
    return 0;
}

const struct bench bench_tcp_bulk = {
    .name = "tcp-bulk",
    .what = "one TCP stream over veth without offloads, each way, against a kernel peer",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 5,
    .seconds = 1,
    .slack_seconds = 15,
    .setup = setup_plain,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};

const struct bench bench_tcp_bulk_gso = {
    .name = "tcp-bulk-gso",
    .what = "the same with offloads: frames of 64 KB by reference",
    .metrics = metrics_gso,
    .metric_count = METRICS,
    .rounds = 5,
    .seconds = 1,
    .slack_seconds = 15,
    .setup = setup,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
