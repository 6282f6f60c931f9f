/* SPDX-License-Identifier: Apache-2.0
 *
 * wake-latency: a process sleeps; a datagram comes over the veth from another core; how long from the sender's call
 * until the process runs with the data. Kernel: recv(). Usher: usher_wait(), with usherd itself asleep too, so two
 * wake-ups in a row where the kernel has one.
 */
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/bench/benches.h"
#include "test/bench/rtt.h"
#include "test/bench/sandbox.h"
#include "test/bench/wake.h"

enum { P50, P99, P999, CPU };

static const struct bench_metric metrics[] = {
    [P50] = {.name = "p50", .unit = "us"},
    [P99] = {.name = "p99", .unit = "us"},
    [P999] = {.name = "p999", .unit = "us"},
    [CPU] = {.name = "cpu", .unit = "us"},
};

struct wake_bench {
    int peer;
    struct proc_shared *shared;
    struct wake_job job;
    double seconds;
};

static int setup(struct bench_env *env) {
    struct wake_bench *b = calloc(1, sizeof(*b));
    if (b == NULL)
        return bench_fail(env, SIDE_KERNEL, "out of memory");
    env->state = b;
    b->seconds = env->seconds;
    b->shared = proc_shared_create();
    b->peer = sandbox_peer();
    if (b->peer < 0 || b->shared == NULL)
        return bench_fail(env, SIDE_KERNEL, "no second network namespace could be made");
    b->job = (struct wake_job){.peer_netns = b->peer, .core = env->core[0]};
    return 0;
}

static int kernel_receiver(struct proc_shared *s, void *arg) {
    struct wake_bench *b = arg;
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) != 0 || getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return 1;
    b->job.port = ntohs(sa.sin_port);
    pid_t sender = wake_sender_spawn(s, &b->job);
    const pid_t self = getpid();
    struct wake_stamp stamp;
    for (int i = 0; i < 10; i++)
        (void)recv(fd, &stamp, sizeof(stamp), 0);
    double cpu = proc_cpu_seconds(&self, 1);
    uint64_t end = tick_now() + tick_from_seconds(b->seconds), now = 0;
    while (now < end && recv(fd, &stamp, sizeof(stamp), 0) == (ssize_t)sizeof(stamp)) {
        now = tick_now();
        hist_add(&s->hist, now - stamp.tick);
    }
    s->cpu_seconds = proc_cpu_seconds(&self, 1) - cpu;
    (void)kill(sender, SIGKILL);
    return 0;
}

static int kernel_side(struct bench_env *env) {
    struct wake_bench *b = env->state;
    memset(b->shared, 0, sizeof(*b->shared));
    pid_t pid = proc_spawn(env->core[1], kernel_receiver, b->shared, b);
    if (pid < 0 || proc_join(pid, 5 + 2 * env->seconds) != 0)
        return bench_fail(env, SIDE_KERNEL, "the receiver did not run");
    return rtt_sample(env, SIDE_KERNEL, P50, b->shared);
}

const struct bench bench_wake_latency = {
    .name = "wake-latency",
    .what = "from a datagram's send on the other core until the sleeping receiver runs",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 5,
    .seconds = 0.5,
    .slack_seconds = 10,
    .setup = setup,
    .side = {[SIDE_KERNEL] = kernel_side},
};
