/* SPDX-License-Identifier: Apache-2.0
 *
 * The stream is measured where it is received. Cubic is set per socket: a host's default may be bbr, whose pacing
 * hides what is to be seen here.
 */
#include "test/bench/kernel_tcp.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/bench/sandbox.h"
#include "test/bench/tick.h"

#define BLOCK (256u << 10)

static int tcp_socket(const struct kernel_tcp_job *job, bool in_peer) {
    if (in_peer && setns(job->peer_netns, CLONE_NEWNET) != 0)
        return -1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    return fd;
}

static double receive(int fd, uint8_t *block, double seconds, uint64_t *ret_bytes) {
    uint64_t start = tick_now(), end = start + tick_from_seconds(seconds), bytes = 0, now = start;
    while (now < end) {
        ssize_t n = recv(fd, block, BLOCK, 0);
        if (n <= 0)
            break;
        bytes += (uint64_t)n;
        now = tick_now();
    }
    *ret_bytes = bytes;
    return tick_to_us((double)(now - start)) / 1e6;
}

static int receiver(struct proc_shared *s, void *arg) {
    const struct kernel_tcp_job *job = arg;
    static uint8_t block[BLOCK];
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof(sa);
    int fd = tcp_socket(job, !job->inward);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) != 0 || listen(fd, 1) != 0 ||
        getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return 1;
    s->port = ntohs(sa.sin_port);
    atomic_store(&s->ready, 1);
    int conn = accept(fd, NULL, NULL);
    pid_t sender = 0;
    if (conn < 0 || recv(conn, &sender, sizeof(sender), MSG_WAITALL) != (ssize_t)sizeof(sender))
        return 1;
    const pid_t pids[] = {getpid(), sender, job->also};
    (void)receive(conn, block, job->seconds / 5, &s->operations);
    double cpu = proc_cpu_seconds(pids, 3);
    s->seconds = receive(conn, block, job->seconds, &s->operations);
    s->cpu_seconds = proc_cpu_seconds(pids, 3) - cpu;
    return s->operations > 0 ? 0 : 1;
}

static int sender(struct proc_shared *s, void *arg) {
    const struct kernel_tcp_job *job = arg;
    static uint8_t block[BLOCK];
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(s->port)};
    (void)inet_pton(AF_INET, job->inward ? SANDBOX_ADDR : SANDBOX_PEER_ADDR, &sa.sin_addr);
    int fd = tcp_socket(job, job->inward);
    pid_t self = getpid();
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0 ||
        send(fd, &self, sizeof(self), 0) != (ssize_t)sizeof(self))
        return 1;
    while (send(fd, block, sizeof(block), MSG_NOSIGNAL) > 0)
        continue;
    return 0;
}

int kernel_tcp_run(struct kernel_tcp_job *job, struct proc_shared *s) {
    memset(s, 0, sizeof(*s));
    job->receiver = proc_spawn(job->receiver_core, receiver, s, job);
    int rc = job->receiver < 0 ? -1 : proc_await(&s->ready, 1, 2);
    if (rc == 0) {
        pid_t pid = proc_spawn(job->sender_core, sender, s, job);
        rc = proc_join(job->receiver, 5 + 2 * job->seconds);
        (void)kill(pid, SIGKILL);
        (void)proc_join(pid, 1);
    }
    if (rc != 0)
        (void)snprintf(s->error, sizeof(s->error), "the kernel's TCP stream did not run");
    return rc == 0 ? 0 : -1;
}
