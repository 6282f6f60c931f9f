/* SPDX-License-Identifier: Apache-2.0
 *
 * The control service: what a call costs, how fast a hundred thousand sockets are listed, and whether the data path
 * notices. Usher has no other side to be compared with here: the data path beside a busy control plane is compared with
 * the same one beside a silent one, turn by turn in the same run.
 */
#include <signal.h>
#include <string.h>

#include "test/bench/benches.h"
#include "test/bench/control_load.h"
#include "test/bench/noise.h"
#include "test/bench/sandbox.h"
#include "test/bench/tick.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"

#define CROWDS        6u /* programs, because one may rarely have more than 20,000 descriptors */
#define CROWD_SOCKETS 16667u
#define TURNS         4u /* silent and busy, alternating */

/* ---- control-unary ---- */

enum { CALL, CALL_P99, CALL_FIRST };

static const struct bench_metric unary_metrics[] = {
    [CALL] = {.name = "p50", .unit = "us", .target_kind = TARGET_USHER, .target = 200},
    [CALL_P99] = {.name = "p99", .unit = "us"},
    [CALL_FIRST] = {.name = "first", .unit = "ms"},
};

static int unary_measure(struct bench_env *env, struct proc_shared *s) {
    double first;
    if (control_calls(env->seconds, &first, s) != 0)
        return bench_fail(env, SIDE_USHER, "%s", s->error);
    bench_sample(env, SIDE_USHER, CALL, tick_to_us(hist_quantile(&s->hist, 0.5)));
    bench_sample(env, SIDE_USHER, CALL_P99, tick_to_us(hist_quantile(&s->hist, 0.99)));
    bench_sample(env, SIDE_USHER, CALL_FIRST, first * 1e3);
    return 0;
}

int bench_with_usherd(struct bench_env *env, const struct usherd_params *params, bench_measure_fn *measure) {
    struct proc_shared *s = proc_shared_create();
    pid_t usherd;
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    int rc = usherd_start(params, &usherd, s->error, sizeof(s->error));
    if (rc != 0)
        rc = bench_fail(env, SIDE_USHER, "%s", s->error);
    else {
        env->state = &usherd;
        rc = measure(env, s);
        usherd_stop(usherd);
    }
    proc_shared_destroy(s);
    return rc;
}

static int unary_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .control = true};
    return bench_with_usherd(env, &params, unary_measure);
}

const struct bench bench_control_unary = {
    .name = "control-unary",
    .what = "a call of the control service over its UNIX socket, gRPC on both ends",
    .metrics = unary_metrics,
    .metric_count = sizeof(unary_metrics) / sizeof(unary_metrics[0]),
    .rounds = 3,
    .seconds = 1,
    .slack_seconds = 10,
    .setup = bench_setup_peer,
    .side = {[SIDE_USHER] = unary_side},
};

/* ---- the data path beside it ---- */

/* Round trips with the load or without, added to `all`. */
static int rtt_turn(struct bench_env *env, bool spin, bench_load_fn *load, struct hist *all, uint64_t *ret_operations) {
    struct proc_shared *rtt = proc_shared_create(), *busy = proc_shared_create();
    struct usher_udp_job job = {.client_core = env->core[1],
                                .server_core = -1,
                                .spin = spin,
                                .size = 64,
                                .seconds = env->seconds / TURNS,
                                .usherd = *(const pid_t *)env->state};
    if (rtt == NULL || busy == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    pid_t pid = load != NULL ? load(env->core[1], busy) : 0;
    int rc = pid > 0 && proc_await(&busy->ready, 1, 10) != 0 ? -1 : 0;
    uint64_t before = busy->operations;
    if (rc != 0)
        rc = bench_fail(env, SIDE_USHER, "the control service is not busy: %s", busy->error);
    else if (usher_udp_rtt(&job, rtt) != 0)
        rc = bench_fail(env, SIDE_USHER, "%s", rtt->error);
    *ret_operations += busy->operations - before;
    if (pid > 0) {
        (void)kill(pid, SIGKILL);
        (void)proc_join(pid, 5);
    }
    for (uint32_t i = 0; i < HIST_BUCKETS; i++)
        all->bucket[i] += rtt->hist.bucket[i];
    all->count += rtt->hist.count;
    proc_shared_destroy(rtt);
    proc_shared_destroy(busy);
    return rc;
}

int bench_noise(struct bench_env *env, bool spin, bench_load_fn *load, uint32_t first) {
    static struct hist silent, loud;
    uint64_t operations = 0, none = 0;
    hist_reset(&silent);
    hist_reset(&loud);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        bool is_loud = turn % 2 == 1;
        if (rtt_turn(env, spin, is_loud ? load : NULL, is_loud ? &loud : &silent, is_loud ? &operations : &none) != 0)
            return -1;
    }
    double quiet = hist_quantile(&silent, 0.99), busy = hist_quantile(&loud, 0.99);
    bench_sample(env, SIDE_USHER, first, tick_to_us(quiet));
    bench_sample(env, SIDE_USHER, first + 1, tick_to_us(busy));
    bench_sample(env, SIDE_USHER, first + 2, busy / quiet);
    bench_sample(env, SIDE_USHER, first + 3, (double)operations / (env->seconds / 2));
    return 0;
}

enum { SPIN_QUIET, SPIN_BUSY, SPIN_RATIO, SPIN_CALLS, BLOCK_QUIET, BLOCK_BUSY, BLOCK_RATIO, BLOCK_CALLS };

static const struct bench_metric noise_metrics[] = {
    [SPIN_QUIET] = {.name = "spin_p99_quiet", .unit = "us"},
    [SPIN_BUSY] = {.name = "spin_p99_busy", .unit = "us"},
    [SPIN_RATIO] = {.name = "spin_noise", .unit = "x", .target_kind = TARGET_USHER, .target = 1.1},
    [SPIN_CALLS] = {.name = "spin_calls", .unit = "1/s"},
    [BLOCK_QUIET] = {.name = "block_p99_quiet", .unit = "us"},
    [BLOCK_BUSY] = {.name = "block_p99_busy", .unit = "us"},
    [BLOCK_RATIO] = {.name = "block_noise", .unit = "x", .target_kind = TARGET_USHER, .target = 1.1},
    [BLOCK_CALLS] = {.name = "block_calls", .unit = "1/s"},
};

static int noise_spin(struct bench_env *env, struct proc_shared *s) {
    (void)s;
    return bench_noise(env, true, control_busy, SPIN_QUIET);
}

static int noise_block(struct bench_env *env, struct proc_shared *s) {
    (void)s;
    return bench_noise(env, false, control_busy, BLOCK_QUIET);
}

static int noise_side(struct bench_env *env) {
    struct usherd_params dedicated = {.core = env->core[0], .mode = "dedicated", .control = true};
    struct usherd_params own = {.core = env->core[0], .mode = "auto", .control = true};
    int rc = bench_with_usherd(env, &dedicated, noise_spin);
    return rc == 0 ? bench_with_usherd(env, &own, noise_block) : rc;
}

const struct bench bench_control_noise = {
    .name = "control-noise",
    .what = "round trips of 64 B beside 200 streams and steady calls of the control service, and without",
    .metrics = noise_metrics,
    .metric_count = sizeof(noise_metrics) / sizeof(noise_metrics[0]),
    .rounds = 3,
    .seconds = 4,
    .slack_seconds = 30,
    .setup = bench_setup_peer,
    .side = {[SIDE_USHER] = noise_side},
};

/* ---- control-list ---- */

enum { LIST_TIME, LIST_QUIET, LIST_BUSY, LIST_RATIO, LIST_RATE };

static const struct bench_metric list_metrics[] = {
    [LIST_TIME] = {.name = "list", .unit = "s", .target_kind = TARGET_USHER, .target = 1},
    [LIST_QUIET] = {.name = "p99_quiet", .unit = "us"},
    [LIST_BUSY] = {.name = "p99_busy", .unit = "us"},
    [LIST_RATIO] = {.name = "noise", .unit = "x", .target_kind = TARGET_USHER, .target = 1.1},
    [LIST_RATE] = {.name = "listed", .unit = "1/s"},
};

static int list_setup(struct bench_env *env) {
    int rc = bench_setup_peer(env);
    if (rc == 0 && (sandbox_exec(-1, "ip addr add " USHER_UDP_CROWD_ADDR "/24 dev " SANDBOX_IFNAME) != 0 ||
                    sandbox_exec(-1, "sysctl -qw net.ipv4.ip_local_port_range=1024\t65535") != 0))
        return bench_fail(env, SIDE_USHER, "no second address and no wide range of ports");
    return rc;
}

static int list_with_crowd(struct bench_env *env, struct proc_shared *s) {
    uint32_t count = 0;
    double seconds = 0;
    if (control_list(&count, &seconds, s) != 0)
        return bench_fail(env, SIDE_USHER, "%s", s->error);
    if (count < CROWDS * CROWD_SOCKETS)
        return bench_fail(env, SIDE_USHER, "%u sockets were listed instead of %u", count, CROWDS * CROWD_SOCKETS);
    bench_sample(env, SIDE_USHER, LIST_TIME, seconds);
    return bench_noise(env, true, control_lister, LIST_QUIET);
}

static int list_measure(struct bench_env *env, struct proc_shared *s) {
    pid_t crowd[CROWDS];
    struct proc_shared *ready[CROWDS];
    int rc = 0;
    for (uint32_t i = 0; i < CROWDS; i++) {
        ready[i] = proc_shared_create();
        crowd[i] =
            usher_udp_crowd_at(env->core[1], i % 2 == 0 ? SANDBOX_ADDR : USHER_UDP_CROWD_ADDR, CROWD_SOCKETS, ready[i]);
        if (proc_await(&ready[i]->ready, 1, 60) != 0)
            rc = bench_fail(env, SIDE_USHER, "no client with %u sockets: %s", CROWD_SOCKETS, ready[i]->error);
    }
    if (rc == 0)
        rc = list_with_crowd(env, s);
    for (uint32_t i = 0; i < CROWDS; i++) {
        (void)kill(crowd[i], SIGKILL);
        (void)proc_join(crowd[i], 5);
        proc_shared_destroy(ready[i]);
    }
    return rc;
}

static int list_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0],
                                   .mode = "dedicated",
                                   .sockets = CROWD_SOCKETS + 16,
                                   .udp_sockets = CROWDS * CROWD_SOCKETS + 1024,
                                   .control = true};
    return bench_with_usherd(env, &params, list_measure);
}

const struct bench bench_control_list = {
    .name = "control-list",
    .what = "100,000 sockets of six programs listed; round trips of 64 B beside endless listing, and without",
    .metrics = list_metrics,
    .metric_count = sizeof(list_metrics) / sizeof(list_metrics[0]),
    .rounds = 1,
    .seconds = 4,
    .slack_seconds = 120,
    .setup = list_setup,
    .side = {[SIDE_USHER] = list_side},
};
