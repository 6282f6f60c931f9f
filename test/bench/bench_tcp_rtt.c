/* SPDX-License-Identifier: Apache-2.0
 *
 * tcp-rtt: round trips of 64 B on one connection, one at a time. `one_thread`: a thread holds both ends; the kernel's
 * sockets are polled, on one core; Usher's worker has the other core. `two_process`: client and server on a core each,
 * usherd's worker on the server's. The kernel's figure there is the better of polling and sleeping in recv();
 * `two_process_block` is against sleeping alone. Usher's programs wait with default settings.
 */
#include "test/bench/benches.h"
#include "test/bench/limit.h"
#include "test/bench/tcp_job.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

enum { ONE_P50, ONE_P999, ONE_CPU, TWO_P50, TWO_P999, TWO_CPU, BLOCK_P50, BLOCK_P999, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [ONE_P50] = {.name = "one_thread_p50", .unit = "us", .target_kind = TARGET_RATIO, .target = 4},
    [ONE_P999] = {.name = "one_thread_p999", .unit = "us", .target_kind = TARGET_RATIO, .target = 1},
    [ONE_CPU] = {.name = "one_thread_cpu", .unit = "us"},
    [TWO_P50] = {.name = "two_process_p50", .unit = "us", .target_kind = TARGET_RATIO, .target = 2},
    [TWO_P999] = {.name = "two_process_p999", .unit = "us", .target_kind = TARGET_RATIO, .target = 1},
    [TWO_CPU] = {.name = "two_process_cpu", .unit = "us"},
    [BLOCK_P50] = {.name = "two_process_block_p50", .unit = "us", .target_kind = TARGET_RATIO, .target = 4},
    [BLOCK_P999] = {.name = "two_process_block_p999", .unit = "us"},
};

struct figures {
    double p50, p999, cpu;
};

static struct figures figures_of(const struct proc_shared *s) {
    return (struct figures){tick_to_us(hist_quantile(&s->hist, 0.5)), tick_to_us(hist_quantile(&s->hist, 0.999)),
                            s->cpu_seconds * 1e6 / (double)s->hist.count};
}

static void sample(struct bench_env *env, enum bench_side side, uint32_t first, struct figures f, bool with_cpu) {
    bench_sample(env, side, first, f.p50);
    bench_sample(env, side, first + 1, f.p999);
    if (with_cpu)
        bench_sample(env, side, first + 2, f.cpu);
}

static struct tcp_job job_of(const struct bench_env *env, enum tcp_kind kind, bool spin) {
    return (struct tcp_job){.kind = kind,
                            .spin = spin,
                            .client_core = env->core[1],
                            .server_core = env->core[0],
                            .rpcs = 1,
                            .seconds = env->seconds};
}

static struct figures better(struct figures a, struct figures b) {
    struct figures best = a.p50 < b.p50 ? a : b;
    best.p999 = a.p999 < b.p999 ? a.p999 : b.p999;
    return best;
}

static int kernel_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    struct tcp_job job = job_of(env, TCP_KERNEL, true);
    struct figures one, spin, block;
    if (s == NULL || tcp_job_alone(&job, s) != 0)
        return bench_fail(env, SIDE_KERNEL, "%s", s != NULL ? s->error : "out of memory");
    one = figures_of(s);
    int rc = tcp_job_run(&job, s);
    spin = figures_of(s);
    job = job_of(env, TCP_KERNEL, false);
    if (rc == 0)
        rc = tcp_job_run(&job, s);
    block = figures_of(s);
    if (rc == 0) {
        sample(env, SIDE_KERNEL, ONE_P50, one, true);
        sample(env, SIDE_KERNEL, TWO_P50, better(spin, block), true);
        sample(env, SIDE_KERNEL, BLOCK_P50, block, false);
        bench_note(env, "kernel, two processes: %.1f us polling, %.1f us sleeping", spin.p50, block.p50);
    } else {
        rc = bench_fail(env, SIDE_KERNEL, "%s", s->error);
    }
    proc_shared_destroy(s);
    return rc;
}

/* One thread: a worker that has its core to itself spins (mode dedicated). Two processes: usherd's own choice. */
static int usher_round(struct bench_env *env, bool one, struct proc_shared *s) {
    struct usherd_params params = {.core = env->core[0], .mode = one ? "dedicated" : "auto"};
    struct tcp_job job = job_of(env, TCP_USHER, false);
    if (usherd_start(&params, &job.usherd, s->error, sizeof(s->error)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", s->error);
    int rc = one ? tcp_job_alone(&job, s) : tcp_job_run(&job, s);
    usherd_stop(job.usherd);
    if (rc != 0)
        return bench_fail(env, SIDE_USHER, "%s", s->error);
    sample(env, SIDE_USHER, one ? ONE_P50 : TWO_P50, figures_of(s), true);
    if (!one)
        sample(env, SIDE_USHER, BLOCK_P50, figures_of(s), false);
    return 0;
}

static int usher_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    int rc = usher_round(env, true, s);
    if (rc == 0)
        rc = usher_round(env, false, s);
    proc_shared_destroy(s);
    return rc;
}

static int limit_side(struct bench_env *env) {
    static struct hist h;
    hist_reset(&h);
    if (limit_line_rtt(env->core, env->seconds / 4, &h) != 0)
        return bench_fail(env, SIDE_LIMIT, "needs two cores that this process may use");
    /* One thread crosses to the worker and back twice a round trip. */
    bench_sample(env, SIDE_LIMIT, ONE_P50, 2 * tick_to_us(hist_quantile(&h, 0.5)));
    bench_sample(env, SIDE_LIMIT, TWO_P50, tick_to_us(hist_quantile(&h, 0.5)));
    return 0;
}

const struct bench bench_tcp_rtt = {
    .name = "tcp-rtt",
    .what = "round trips of 64 B on one TCP connection",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 12,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side, [SIDE_LIMIT] = limit_side},
};
