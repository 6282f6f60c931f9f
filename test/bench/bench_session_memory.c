/* SPDX-License-Identifier: Apache-2.0
 *
 * session-memory: how much usherd's resident memory grows when one client attaches and opens many sockets. The first
 * socket's share of the session itself is in it: the target is 64 KiB a session plus 1 KiB a socket.
 */
#include <signal.h>
#include <string.h>

#include "test/bench/benches.h"
#include "test/bench/proc.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"

#define SOCKETS 10000u

enum { RSS, PER_SOCKET };

static const struct bench_metric metrics[] = {
    [RSS] = {.name = "rss", .unit = "KiB", .target_kind = TARGET_USHER, .target = 64 + SOCKETS},
    [PER_SOCKET] = {.name = "per_socket", .unit = "B"},
};

static int measure(struct bench_env *env, pid_t usherd) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    uint64_t before = usherd_rss(usherd);
    pid_t pid = usher_udp_crowd(env->core[1], SOCKETS, s);
    int rc = proc_await(&s->ready, 1, 30);
    uint64_t after = usherd_rss(usherd);
    if (rc == 0 && after > before) {
        bench_sample(env, SIDE_USHER, RSS, (double)(after - before) / 1024);
        bench_sample(env, SIDE_USHER, PER_SOCKET, (double)(after - before) / SOCKETS);
    } else {
        rc = bench_fail(env, SIDE_USHER, "no client with %u sockets: %s", SOCKETS, s->error);
    }
    (void)kill(pid, SIGKILL);
    (void)proc_join(pid, 5);
    proc_shared_destroy(s);
    return rc;
}

static int usher_side(struct bench_env *env) {
    struct usherd_params params = {.core = env->core[0], .mode = "auto", .sockets = SOCKETS + 16};
    char err[512];
    pid_t usherd;
    if (usherd_start(&params, &usherd, err, sizeof(err)) != 0)
        return bench_fail(env, SIDE_USHER, "%s", err);
    int rc = measure(env, usherd);
    usherd_stop(usherd);
    return rc;
}

const struct bench bench_session_memory = {
    .name = "session-memory",
    .what = "resident memory of usherd for one client with 10,000 idle sockets",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 1,
    .seconds = 0.1,
    .slack_seconds = 60,
    .setup = bench_setup_peer,
    .side = {[SIDE_USHER] = usher_side},
};
