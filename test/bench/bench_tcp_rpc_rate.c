/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-rpc-rate: requests of 64 B over 64 connections, one under way on each. Client and server are a process on a core
 * each; usherd's worker shares the server's core. CPU time of all processes counts: `per_cpu_second` is the requests
 * answered for each second of it. The kernel's pair uses epoll on loopback and may poll or sleep: the better counts.
 */
#include "test/bench/benches.h"
#include "test/bench/tcp_job.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define CONNECTIONS 64u

enum { PER_CPU, RATE, P99 };

static const struct bench_metric metrics[] = {
    [PER_CPU] =
        {.name = "per_cpu_second", .unit = "1/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = 3},
    [RATE] = {.name = "rate", .unit = "1/s", .better = BETTER_HIGHER},
    [P99] = {.name = "p99", .unit = "us"},
};

struct figures {
    double per_cpu, rate, p99;
};

static int measure(struct bench_env *env, struct tcp_job *job, struct figures *ret_figures) {
    struct proc_shared *s = proc_shared_create();
    enum bench_side side = job->kind == TCP_KERNEL ? SIDE_KERNEL : SIDE_USHER;
    if (s == NULL)
        return bench_fail(env, side, "out of memory");
    job->client_core = env->core[1];
    job->server_core = env->core[0];
    job->rpcs = CONNECTIONS;
    job->seconds = env->seconds;
    int rc = tcp_job_run(job, s) == 0 && s->operations > 0 ? 0 : bench_fail(env, side, "%s", s->error);
    if (rc == 0)
        *ret_figures = (struct figures){(double)s->operations / s->cpu_seconds, (double)s->operations / s->seconds,
                                        tick_to_us(hist_quantile(&s->hist, 0.99))};
    proc_shared_destroy(s);
    return rc;
}

static void sample(struct bench_env *env, enum bench_side side, const struct figures *f) {
    bench_sample(env, side, PER_CPU, f->per_cpu);
    bench_sample(env, side, RATE, f->rate);
    bench_sample(env, side, P99, f->p99);
}

static int kernel_side(struct bench_env *env) {
    struct figures spin, block;
    struct tcp_job job = {.kind = TCP_KERNEL, .spin = true};
    if (measure(env, &job, &spin) != 0)
        return -1;
    job = (struct tcp_job){.kind = TCP_KERNEL};
    if (measure(env, &job, &block) != 0)
        return -1;
    sample(env, SIDE_KERNEL, spin.per_cpu > block.per_cpu ? &spin : &block);
    return 0;
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto"};
    struct tcp_job job = {.kind = TCP_USHER};
    struct figures f;
    char err[512];
    if (usherd_start(&params, &job.usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = measure(env, &job, &f);
    usherd_stop(job.usherd);
    if (rc == 0)
        sample(env, SIDE_USHER, &f);
    return rc;
}

const struct bench bench_tcp_rpc_rate = {
    .name = "tcp-rpc-rate",
    .what = "requests of 64 B over 64 TCP connections for each second of CPU time",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 12,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
