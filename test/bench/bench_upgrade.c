/* SPDX-License-Identifier: Apache-2.0
 *
 * upgrade-blackout: what replacing parts of usherd costs those who use it, at 10,000 ends of connections with a request
 * under way on 100 of them. `engine_*`: how long no packet is handled while the tcp engine is replaced, as usherd
 * reports it, by code of the same layout and of another. `daemon_p50_ms` and `crash_ms`: the slowest request while
 * usherd became another one (`usherctl upgrade`), or was killed and started again at once; the programs' way back is
 * part of it.
 */
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "test/bench/benches.h"
#include "test/bench/tcp_job.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define CROWD     5000u /* both ends of each are usherd's */
#define ACTIVE    100u
#define SWAPS     40
#define LOAD_MIN  3.0 /* seconds: the load has to outlast what is done beside it, however short a run is asked for */
#define RELAYOUTS 6
#define LATE_MAX  300u

enum { ENGINE_P50, ENGINE_P99, RELAYOUT, DAEMON, CRASH, METRICS };

static const struct bench_metric metrics[METRICS] = {
    [ENGINE_P50] = {.name = "engine_p50_us", .unit = "us", .target_kind = TARGET_USHER, .target = 100},
    [ENGINE_P99] = {.name = "engine_p99_us", .unit = "us", .target_kind = TARGET_USHER, .target = 1000},
    [RELAYOUT] = {.name = "engine_relayout_ms", .unit = "ms", .target_kind = TARGET_USHER, .target = 20},
    [DAEMON] = {.name = "daemon_p50_ms", .unit = "ms", .target_kind = TARGET_USHER, .target = 20},
    [CRASH] = {.name = "crash_ms", .unit = "ms", .target_kind = TARGET_USHER, .target = 300},
};

/* What is done to usherd beside the load, by a process of its own. */
struct trouble {
    struct proc_shared *load;
    struct usherd_params *params;
    pid_t usherd;
    int (*make)(struct trouble *t, struct proc_shared *told);
};

/* In proc_shared.hist of the troublemaker's own page: black-outs in ns. */
static int engine_replace(struct proc_shared *told, const char *module) {
    char path[PATH_MAX], answer[1024];
    const char *const words[] = {"-o", "json", "engine", "upgrade", "tcp", path, NULL};
    usherd_beside(module, path, sizeof(path));
    if (usherd_ctl(words, answer, sizeof(answer)) != 0)
        return -1;
    const char *at = strstr(answer, "\"black_out_ns\"");
    at = at != NULL ? strpbrk(at + 14, "0123456789") : NULL;
    if (at == NULL)
        return -1;
    hist_add(&told->hist, strtoull(at, NULL, 10));
    return 0;
}

static int swap_make(struct trouble *t, struct proc_shared *told) {
    int rc = 0;
    (void)t;
    for (uint32_t i = 0; i < SWAPS && rc == 0; i++)
        rc = engine_replace(told, "../lib/engines/tcp.so");
    return rc;
}

static int relayout_make(struct trouble *t, struct proc_shared *told) {
    int rc = 0;
    (void)t;
    for (uint32_t i = 0; i < RELAYOUTS && rc == 0; i++)
        rc = engine_replace(told, i % 2 == 0 ? "../tests/engines-next/tcp.so" : "../lib/engines/tcp.so");
    return rc;
}

static int succession_make(struct trouble *t, struct proc_shared *told) {
    const char *const words[] = {"upgrade", NULL};
    char answer[256];
    (void)t;
    (void)told;
    return usherd_ctl(words, answer, sizeof(answer));
}

static int crash_make(struct trouble *t, struct proc_shared *told) {
    pid_t successor;
    cpu_set_t all;
    memset(&all, 0xff, sizeof(all)); /* usherd pins its worker by itself */
    (void)sched_setaffinity(0, sizeof(all), &all);
    (void)kill(t->usherd, SIGKILL);
    return usherd_start(t->params, &successor, told->error, sizeof(told->error));
}

static void nap(double seconds) {
    struct timespec ts = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    (void)nanosleep(&ts, NULL);
}

/* Waits until the connections are there and the load is measured. */
static int trouble_main(struct proc_shared *told, void *arg) {
    struct trouble *t = arg;
    while (*(volatile uint64_t *)&t->load->resident == 0)
        nap(0.01);
    nap(0.8);
    int rc = t->make(t, told);
    atomic_store(rc == 0 ? &told->ready : &told->failed, 1);
    nap(120); /* until killed: a successor that was started here ends with us */
    return 1;
}

/* ---- one measurement ---- */

static int run(struct bench_env *env, int (*make)(struct trouble *t, struct proc_shared *told), double seconds,
               struct proc_shared *load, struct proc_shared *told) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .streams = CROWD, .kept = true};
    struct tcp_job job = {.kind = TCP_USHER,
                          .client_core = env->core[1],
                          .server_core = env->core[0],
                          .rpcs = ACTIVE,
                          .crowd = CROWD,
                          .seconds = seconds > LOAD_MIN ? seconds : LOAD_MIN};
    if (usherd_start(&params, &job.usherd, load->error, sizeof(load->error)) != 0)
        return -1;
    struct trouble t = {load, &params, job.usherd, make};
    pid_t maker = proc_spawn(env->core[1], trouble_main, told, &t);
    int rc = tcp_job_run(&job, load);
    for (uint32_t i = 0; i < LATE_MAX && !atomic_load(&told->ready) && !atomic_load(&told->failed); i++)
        nap(0.1); /* on a busy machine what is replaced often may take longer than the load */
    if (rc == 0 && atomic_load(&told->ready) == 0)
        rc = -1;
    (void)kill(maker, SIGKILL);
    (void)proc_join(maker, 1);
    usherd_stop(job.usherd);
    usherd_forget();
    return rc;
}

static int measure(struct bench_env *env, int (*make)(struct trouble *t, struct proc_shared *told), double seconds,
                   struct proc_shared **ret_load, struct proc_shared **ret_told) {
    *ret_load = proc_shared_create();
    *ret_told = proc_shared_create();
    if (*ret_load == NULL || *ret_told == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    if (run(env, make, seconds, *ret_load, *ret_told) == 0)
        return 0;
    return bench_fail(env, SIDE_USHER, "%s%s", (*ret_load)->error[0] != '\0' ? "" : "it was not replaced in time ",
                      (*ret_load)->error[0] != '\0' ? (*ret_load)->error : (*ret_told)->error);
}

static void done(struct proc_shared *load, struct proc_shared *told) {
    if (load != NULL)
        proc_shared_destroy(load);
    if (told != NULL)
        proc_shared_destroy(told);
}

static int usher_side(struct bench_env *env) {
    struct proc_shared *load, *told;
    int rc = measure(env, swap_make, env->seconds * 3, &load, &told);
    if (rc == 0) {
        bench_sample(env, SIDE_USHER, ENGINE_P50, hist_quantile(&told->hist, 0.5) / 1e3);
        bench_sample(env, SIDE_USHER, ENGINE_P99, hist_quantile(&told->hist, 0.99) / 1e3);
    }
    done(load, told);
    rc = rc == 0 ? measure(env, relayout_make, env->seconds, &load, &told) : rc;
    if (rc == 0) {
        bench_sample(env, SIDE_USHER, RELAYOUT, hist_quantile(&told->hist, 0.5) / 1e6);
        done(load, told);
    }
    rc = rc == 0 ? measure(env, succession_make, env->seconds, &load, &told) : rc;
    if (rc == 0) {
        bench_sample(env, SIDE_USHER, DAEMON, tick_to_us((double)load->hist.max) / 1e3);
        done(load, told);
    }
    rc = rc == 0 ? measure(env, crash_make, env->seconds, &load, &told) : rc;
    if (rc == 0) {
        bench_sample(env, SIDE_USHER, CRASH, tick_to_us((double)load->hist.max) / 1e3);
        done(load, told);
    }
    return rc;
}

const struct bench bench_upgrade_blackout = {
    .name = "upgrade-blackout",
    .what = "what replacing usherd or an engine costs at 10,000 ends of connections",
    .metrics = metrics,
    .metric_count = METRICS,
    .rounds = 3,
    .seconds = 3,
    .slack_seconds = 80,
    .setup = bench_setup_peer,
    .side = {[SIDE_USHER] = usher_side},
};
