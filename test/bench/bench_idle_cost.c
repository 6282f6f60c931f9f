/* SPDX-License-Identifier: Apache-2.0
 *
 * idle-cost: CPU time of usherd plus one attached client with an open socket, both silent, in percent of one core. The
 * kernel's side is a process that sleeps in recv(): nothing, as it should be. usherd has a port, like in real life.
 */
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "test/bench/benches.h"
#include "test/bench/proc.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"

enum { CPU_PERCENT };

static const struct bench_metric metrics[] = {
    [CPU_PERCENT] = {.name = "cpu_percent", .unit = "%", .target_kind = TARGET_USHER, .target = 0.5},
};

#define SETTLE_SECONDS 0.3 /* what starting costs is not what idling costs */

static void sleep_seconds(double seconds) {
    struct timespec ts = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    (void)nanosleep(&ts, NULL);
}

static double percent_of(const pid_t *pids, uint32_t n, double seconds) {
    sleep_seconds(SETTLE_SECONDS);
    double cpu = proc_cpu_seconds(pids, n);
    sleep_seconds(seconds);
    return (proc_cpu_seconds(pids, n) - cpu) / seconds * 100;
}

static int kernel_sleeper(struct proc_shared *s, void *arg) {
    (void)arg;
    struct sockaddr_in sa = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char byte;
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0)
        return 1;
    atomic_store(&s->ready, 1);
    return (int)recv(fd, &byte, 1, 0);
}

static int measure(struct bench_env *env, enum bench_side side, pid_t usherd) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, side, "out of memory");
    pid_t pids[2];
    pids[0] =
        side == SIDE_KERNEL ? proc_spawn(env->core[1], kernel_sleeper, s, NULL) : usher_udp_sleeper(env->core[1], s);
    pids[1] = usherd;
    int rc = proc_await(&s->ready, 1, 5);
    if (rc == 0)
        bench_sample(env, side, CPU_PERCENT, percent_of(pids, 2, env->seconds));
    else
        (void)bench_fail(env, side, "the silent client did not start: %s", s->error);
    (void)kill(pids[0], SIGKILL);
    (void)proc_join(pids[0], 1);
    proc_shared_destroy(s);
    return rc;
}

static int kernel_side(struct bench_env *env) {
    return measure(env, SIDE_KERNEL, 0);
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto"};
    char err[512];
    pid_t usherd;
    if (usherd_start(&params, &usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = measure(env, SIDE_USHER, usherd);
    usherd_stop(usherd);
    return rc;
}

const struct bench bench_idle_cost = {
    .name = "idle-cost",
    .what = "CPU of usherd and an attached client while nothing happens",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 1,
    .seconds = 10,
    .slack_seconds = 20,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
