/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-mixed: one request of 64 B at a time beside two streams of bulk, between a client and a server process on a core
 * each, usherd's worker on the server's. `rpc_p99` and `bulk_throughput` are those of the mixture; `rpc_growth` is how
 * many times the requests' p99 without the bulk that is, `bulk_lost` how much of the bulk's throughput alone is gone.
 */
#include "test/bench/benches.h"
#include "test/bench/tcp_job.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define STREAMS 2u

enum { RPC_P99, BULK, GROWTH, LOST, RPC_ALONE, BULK_ALONE, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [RPC_P99] = {.name = "rpc_p99", .unit = "us"},
    [BULK] = {.name = "bulk_throughput", .unit = "Gbit/s", .better = BETTER_HIGHER},
    [GROWTH] = {.name = "rpc_growth", .unit = "x", .target_kind = TARGET_USHER, .target = 2},
    [LOST] = {.name = "bulk_lost", .unit = "%", .target_kind = TARGET_USHER, .target = 20},
    [RPC_ALONE] = {.name = "rpc_p99_alone", .unit = "us"},
    [BULK_ALONE] = {.name = "bulk_alone", .unit = "Gbit/s", .better = BETTER_HIGHER},
};

struct figures {
    double p99, bulk;
};

static int measure(struct bench_env *env, struct tcp_job *job, uint32_t rpcs, uint32_t streams,
                   struct figures *ret_figures) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, job->kind == TCP_KERNEL ? SIDE_KERNEL : SIDE_USHER, "out of memory");
    job->client_core = env->core[1];
    job->server_core = env->core[0];
    job->rpcs = rpcs;
    job->streams = streams;
    job->seconds = env->seconds;
    int rc = tcp_job_run(job, s);
    if (rc != 0)
        (void)bench_fail(env, job->kind == TCP_KERNEL ? SIDE_KERNEL : SIDE_USHER, "%s", s->error);
    else
        *ret_figures =
            (struct figures){tick_to_us(hist_quantile(&s->hist, 0.99)), (double)s->bulk_read * 8 / 1e9 / s->seconds};
    proc_shared_destroy(s);
    return rc;
}

static int measure_all(struct bench_env *env, enum bench_side side, struct tcp_job *job) {
    struct figures rpc, bulk, both;
    int rc = measure(env, job, 1, 0, &rpc);
    if (rc == 0)
        rc = measure(env, job, 0, STREAMS, &bulk);
    if (rc == 0)
        rc = measure(env, job, 1, STREAMS, &both);
    if (rc != 0)
        return rc;
    bench_sample(env, side, RPC_P99, both.p99);
    bench_sample(env, side, BULK, both.bulk);
    bench_sample(env, side, GROWTH, both.p99 / rpc.p99);
    bench_sample(env, side, LOST, (1 - both.bulk / bulk.bulk) * 100);
    bench_sample(env, side, RPC_ALONE, rpc.p99);
    bench_sample(env, side, BULK_ALONE, bulk.bulk);
    return 0;
}

static int kernel_side(struct bench_env *env) {
    struct tcp_job job = {.kind = TCP_KERNEL};
    return measure_all(env, SIDE_KERNEL, &job);
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto"};
    struct tcp_job job = {.kind = TCP_USHER};
    char err[512];
    if (usherd_start(&params, &job.usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = measure_all(env, SIDE_USHER, &job);
    usherd_stop(job.usherd);
    return rc;
}

const struct bench bench_tcp_mixed = {
    .name = "tcp-mixed",
    .what = "requests of 64 B beside bulk between the same two processes",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 5,
    .seconds = 0.4,
    .slack_seconds = 15,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
