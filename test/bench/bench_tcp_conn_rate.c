/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-conn-rate: short connections: connect, a request of 64 B, its answer, close by the client. `rate`: 32 under way
 * at a time; `sequential`: one after the other. Client and server are a process on a core each and of the same kind;
 * usherd's worker shares the server's core.
 */
#include "test/bench/benches.h"
#include "test/bench/tcp_job.h"
#include "test/bench/usherd.h"

#define UNDER_WAY 32u

enum { RATE, CPU, SEQUENTIAL };

static const struct bench_metric metrics[] = {
    [RATE] = {.name = "rate", .unit = "1/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = 3},
    [CPU] = {.name = "cpu", .unit = "us"},
    [SEQUENTIAL] = {.name = "sequential", .unit = "1/s", .better = BETTER_HIGHER},
};

static int measure(struct bench_env *env, struct tcp_job *job, uint32_t under_way) {
    struct proc_shared *s = proc_shared_create();
    enum bench_side side = job->kind == TCP_KERNEL ? SIDE_KERNEL : SIDE_USHER;
    if (s == NULL)
        return bench_fail(env, side, "out of memory");
    job->client_core = env->core[1];
    job->server_core = env->core[0];
    job->rpcs = under_way;
    job->brief = true;
    job->seconds = env->seconds;
    int rc = tcp_job_run(job, s) == 0 && s->operations > 0 ? 0 : bench_fail(env, side, "%s", s->error);
    if (rc == 0)
        bench_sample(env, side, under_way == 1 ? SEQUENTIAL : RATE, (double)s->operations / s->seconds);
    if (rc == 0 && under_way > 1)
        bench_sample(env, side, CPU, s->cpu_seconds * 1e6 / (double)s->operations);
    proc_shared_destroy(s);
    return rc;
}

static int kernel_side(struct bench_env *env) {
    struct tcp_job job = {.kind = TCP_KERNEL};
    return measure(env, &job, UNDER_WAY) == 0 ? measure(env, &job, 1) : -1;
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto"};
    struct tcp_job job = {.kind = TCP_USHER};
    char err[512];
    if (usherd_start(&params, &job.usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = measure(env, &job, UNDER_WAY);
    if (rc == 0)
        rc = measure(env, &job, 1);
    usherd_stop(job.usherd);
    return rc;
}

const struct bench bench_tcp_conn_rate = {
    .name = "tcp-conn-rate",
    .what = "short TCP connections, opened, used once and closed",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.3,
    .slack_seconds = 12,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
