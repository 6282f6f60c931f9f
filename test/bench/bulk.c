/* SPDX-License-Identifier: Apache-2.0
 *
 * The measuring process sleeps while the stream runs and takes two looks: at the receiver's counter, the clock, and the
 * idle time of the core, which the kernel counts exactly (whatever interrupted the idle task ends it).
 */
#include "test/bench/bulk.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "test/bench/sandbox.h"
#include "test/bench/tick.h"

static void count(struct proc_shared *s, size_t bytes) {
    __atomic_store_n(&s->operations, s->operations + bytes, __ATOMIC_RELAXED); /* one writer */
}

static int stream(struct proc_shared *s, int fd, bool transmit) {
    static uint8_t block[BULK_BLOCK];
    memset(block, 1, sizeof(block)); /* pages of its own, not the zero page */
    atomic_fetch_add(&s->ready, 1);
    for (;;) {
        ssize_t n = transmit ? send(fd, block, sizeof(block), MSG_NOSIGNAL) : recv(fd, block, sizeof(block), 0);
        if (n <= 0)
            return 1;
        if (!transmit)
            count(s, (size_t)n);
    }
}

/* Cubic per socket: a host's default may be bbr, whose pacing hides what is to be seen here. */
static int tcp_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
    return fd;
}

static int peer(struct proc_shared *s, void *arg) {
    const struct bulk_job *job = arg;
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof(sa);
    int fd = setns(job->peer_netns, CLONE_NEWNET) == 0 ? tcp_socket() : -1;
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) != 0 || listen(fd, 1) != 0 ||
        getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return 1;
    s->port = ntohs(sa.sin_port);
    atomic_fetch_add(&s->ready, 1);
    int conn = accept(fd, NULL, NULL);
    return conn < 0 ? 1 : stream(s, conn, !job->transmit);
}

int bulk_end_kernel(struct proc_shared *s, void *arg) {
    const struct bulk_job *job = arg;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(s->port)};
    (void)inet_pton(AF_INET, SANDBOX_PEER_ADDR, &sa.sin_addr);
    int fd = tcp_socket();
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0)
        return 1;
    return stream(s, fd, job->transmit);
}

/* Seconds in which the core had nothing to do, or was not ours (steal). */
static double idle_seconds(int core) {
    char line[256], name[16];
    unsigned long long t[8] = {0};
    FILE *f = fopen("/proc/stat", "r");
    (void)snprintf(name, sizeof(name), "cpu%d ", core);
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, name, strlen(name)) != 0)
            continue;
        (void)sscanf(line + strlen(name), "%llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4],
                     &t[5], &t[6], &t[7]);
        break;
    }
    if (f != NULL)
        (void)fclose(f);
    return (double)(t[3] + t[4] + t[7]) / (double)sysconf(_SC_CLK_TCK);
}

static void pause_for(double seconds) {
    struct timespec ts = {.tv_sec = (time_t)seconds};
    ts.tv_nsec = (long)((seconds - (double)ts.tv_sec) * 1e9);
    (void)nanosleep(&ts, NULL);
}

static void measure(const struct bulk_job *job, const struct proc_shared *s, struct proc_shared *ret_figures) {
    pause_for(job->seconds / 3);
    double idle = idle_seconds(job->core);
    uint64_t from = tick_now(), bytes = __atomic_load_n(&s->operations, __ATOMIC_RELAXED);
    pause_for(job->seconds);
    ret_figures->operations = __atomic_load_n(&s->operations, __ATOMIC_RELAXED) - bytes;
    ret_figures->seconds = tick_to_us((double)(tick_now() - from)) / 1e6;
    ret_figures->cpu_seconds = ret_figures->seconds - (idle_seconds(job->core) - idle);
}

static void end_process(pid_t pid) {
    if (pid <= 0)
        return;
    (void)kill(pid, SIGKILL);
    (void)proc_join(pid, 1);
}

int bulk_run(const struct bulk_job *job, struct proc_shared *s) {
    struct proc_shared figures = {.operations = 0};
    memset(s, 0, sizeof(*s));
    pid_t far = proc_spawn(job->peer_core, peer, s, (void *)(uintptr_t)job), near = -1;
    int rc = proc_await(&s->ready, 1, 2);
    if (rc == 0) {
        near = proc_spawn(job->core, job->end, s, (void *)(uintptr_t)job);
        rc = proc_await(&s->ready, 3, 5);
    }
    if (rc == 0)
        measure(job, s, &figures);
    end_process(near);
    end_process(far);
    s->operations = figures.operations; /* nobody writes them any more */
    s->seconds = figures.seconds;
    s->cpu_seconds = figures.cpu_seconds;
    if (rc == 0 && s->operations > 0)
        return 0;
    if (s->error[0] == '\0')
        (void)snprintf(s->error, sizeof(s->error), "the stream did not %s", rc == 0 ? "move" : "open");
    return -1;
}
