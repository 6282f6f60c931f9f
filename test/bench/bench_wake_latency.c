/* SPDX-License-Identifier: Apache-2.0
 *
 * wake-latency: a process sleeps; a datagram comes over the veth from another core; how long from the sender's call
 * until the process runs with the data. Kernel: recv(). Usher: usher_wait(), with usherd itself asleep too, so two
 * wake-ups in a row where the kernel has one.
 */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/bench/benches.h"
#include "test/bench/rtt.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"
#include "test/bench/wake.h"

enum { P50, P99, P999, CPU };

static const struct bench_metric metrics[] = {
    [P50] = {.name = "p50", .unit = "us"},
    [P99] = {.name = "p99", .unit = "us"},
    [P999] = {.name = "p999", .unit = "us"},
    [CPU] = {.name = "cpu", .unit = "us"},
};

struct kernel_wake {
    struct wake_job sender;
    double seconds;
};

static int kernel_receiver(struct proc_shared *s, void *arg) {
    struct kernel_wake *w = arg;
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) != 0 || getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return 1;
    w->sender.port = ntohs(sa.sin_port);
    pid_t sender = wake_sender_spawn(s, &w->sender);
    const pid_t self = getpid();
    struct wake_stamp stamp;
    for (int i = 0; i < 10; i++)
        (void)recv(fd, &stamp, sizeof(stamp), 0);
    double cpu = proc_cpu_seconds(&self, 1);
    uint64_t end = tick_now() + tick_from_seconds(w->seconds), now = 0;
    while (now < end && recv(fd, &stamp, sizeof(stamp), 0) == (ssize_t)sizeof(stamp)) {
        now = tick_now();
        hist_add(&s->hist, now - stamp.tick);
    }
    s->cpu_seconds = proc_cpu_seconds(&self, 1) - cpu;
    (void)kill(sender, SIGKILL);
    return 0;
}

/* What both sides do with a measurement that ended: sample it, or say why there is none. Takes s. */
static int conclude(struct bench_env *env, enum bench_side side, struct proc_shared *s, int rc) {
    rc = rc != 0 ? bench_fail(env, side, "%s", s->error) : rtt_sample(env, side, P50, s);
    proc_shared_destroy(s);
    return rc;
}

static int kernel_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_KERNEL, "out of memory");
    struct kernel_wake w = {.sender = {.peer_netns = env->peer, .core = env->core[0]}, .seconds = env->seconds};
    int rc = proc_join(proc_spawn(env->core[1], kernel_receiver, s, &w), 5 + 2 * env->seconds);
    if (rc != 0)
        (void)snprintf(s->error, sizeof(s->error), "the receiver did not run");
    return conclude(env, SIDE_KERNEL, s, rc);
}

static int usher_side(struct bench_env *env) {
    struct proc_shared *s = proc_shared_create();
    if (s == NULL)
        return bench_fail(env, SIDE_USHER, "out of memory");
    struct usherd_params params = {.core = env->core[0], .mode = "auto"};
    struct usher_udp_job job = {
        .client_core = env->core[1], .server_core = env->core[0], .size = 64, .seconds = env->seconds};
    int rc = usherd_start(&params, &job.usherd, s->error, sizeof(s->error));
    if (rc == 0) {
        rc = usher_udp_wake(&job, env->peer, s);
        usherd_stop(job.usherd);
    }
    return conclude(env, SIDE_USHER, s, rc);
}

const struct bench bench_wake_latency = {
    .name = "wake-latency",
    .what = "from a datagram's send on the other core until the sleeping receiver runs",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 10,
    .setup = bench_setup_peer,
    .side = {[SIDE_KERNEL] = kernel_side, [SIDE_USHER] = usher_side},
};
