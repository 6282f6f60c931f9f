/* SPDX-License-Identifier: Apache-2.0
 *
 * qos-accuracy: whether owners with weights 1:2:4:8 get their shares, and what that costs. `share_error_*`: the engine
 * behind a shard's pair port on a bench clock, 10 M packets a second, over one second. `ceiling_excess`: the same with
 * ceilings. `veth_*`: real sockets over the veth pair, the kernel's through HTB, Usher's through usherd. `cost_*`: the
 * engine's calls alone.
 */
#include "test/bench/benches.h"
#include "test/bench/qos_cost.h"
#include "test/bench/qos_rig.h"
#include "test/bench/qos_veth.h"

enum {
    SHARE_4,
    SHARE_64,
    SHARE_1024,
    SHARE_4096,
    SHARE_WORST,
    CEILING,
    VETH_4,
    VETH_256,
    COST_16K,
    COST_1M,
};

#define PERCENT(metric_name, most)                                                                                     \
    { .name = metric_name, .unit = "%", .target_kind = TARGET_USHER, .target = most }

static const struct bench_metric metrics[] = {
    [SHARE_4] = PERCENT("share_error_percent_4", 1),
    [SHARE_64] = PERCENT("share_error_percent_64", 1),
    [SHARE_1024] = PERCENT("share_error_percent_1024", 1),
    [SHARE_4096] = PERCENT("share_error_percent_4096", 1),
    [SHARE_WORST] = PERCENT("share_error_percent", 1),
    [CEILING] = PERCENT("ceiling_excess_percent", 2),
    [VETH_4] = {.name = "veth_share_error_percent_4", .unit = "%"},
    [VETH_256] = {.name = "veth_share_error_percent_256", .unit = "%"},
    [COST_16K] = {.name = "cost_16k_flows", .unit = "ns"},
    [COST_1M] = {.name = "cost_1m_flows", .unit = "ns", .target_kind = TARGET_USHER, .target = 100},
};

static int sample(struct bench_env *env, enum bench_side side, uint32_t metric, double value) {
    if (value < 0)
        return bench_fail(env, side, "the dataplane of this process could not be made");
    bench_sample(env, side, metric, value);
    return 0;
}

static int veth(struct bench_env *env, enum bench_side side) {
    int rc = sample(env, side, VETH_4, qos_veth_error(env, side, 4));
    return rc != 0 ? rc : sample(env, side, VETH_256, qos_veth_error(env, side, QOS_VETH_MAX));
}

static int kernel_side(struct bench_env *env) {
    return veth(env, SIDE_KERNEL);
}

static int on_the_pair(struct bench_env *env) {
    static const uint32_t owners[] = {[SHARE_4] = 4, [SHARE_64] = 64, [SHARE_1024] = 1024, [SHARE_4096] = 4096};
    double worst = 0;
    int rc = 0;
    for (uint32_t m = SHARE_4; m <= SHARE_4096 && rc == 0; m++) {
        double error = qos_rig_share_error(owners[m], env->seconds);
        worst = error > worst ? error : worst;
        rc = sample(env, SIDE_USHER, m, error);
    }
    if (rc == 0)
        rc = sample(env, SIDE_USHER, SHARE_WORST, worst);
    return rc != 0 ? rc : sample(env, SIDE_USHER, CEILING, qos_rig_ceiling_excess(env->seconds));
}

static int usher_side(struct bench_env *env) {
    int rc = veth(env, SIDE_USHER);
    if (rc == 0 && env->round == 0) /* its clock is simulated: another round would find the same */
        rc = on_the_pair(env);
    if (rc == 0)
        rc = sample(env, SIDE_USHER, COST_16K, qos_cost_ns(16384, 256, env->seconds));
    return rc != 0 ? rc : sample(env, SIDE_USHER, COST_1M, qos_cost_ns(1000000, 4096, env->seconds));
}

const struct bench bench_qos = {
    .name = "qos-accuracy",
    .what = "shares of owners with weights 1:2:4:8, ceilings, and what the QoS engine costs",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 3,
    .seconds = 1,
    .slack_seconds = 90,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
