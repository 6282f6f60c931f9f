/* SPDX-License-Identifier: Apache-2.0
 *
 * Client and server of the kernel's side. Both use the same moving parts: take what is there, send as much back. The
 * server is ended by SIGKILL, so neither loop looks at a stop flag.
 */
#include "test/bench/kernel_udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/bench/tick.h"

#define SIZE_MAX_BYTES 1472
#define LOST_SECONDS   0.05 /* without an answer for that long, the window is opened anew */

struct end {
    int fd;
    uint32_t batch;
    uint32_t size;
    bool spin;
    struct mmsghdr msg[KERNEL_UDP_BATCH_MAX];
    struct iovec iov[KERNEL_UDP_BATCH_MAX];
    uint8_t data[KERNEL_UDP_BATCH_MAX][SIZE_MAX_BYTES];
};

static int udp_socket(const char *addr, uint16_t *port) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET};
    socklen_t len = sizeof(sa);
    (void)inet_pton(AF_INET, addr, &sa.sin_addr);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) != 0 || getsockname(fd, (struct sockaddr *)&sa, &len) != 0)
        return -1;
    *port = ntohs(sa.sin_port);
    return fd;
}

static int udp_connect(int fd, const char *addr, uint16_t port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    (void)inet_pton(AF_INET, addr, &sa.sin_addr);
    return connect(fd, (struct sockaddr *)&sa, sizeof(sa));
}

static void end_init(struct end *e, const struct kernel_udp_job *job, int fd) {
    memset(e, 0, sizeof(*e));
    e->fd = fd;
    e->batch = job->batch;
    e->size = job->size;
    e->spin = job->spin;
    for (uint32_t i = 0; i < KERNEL_UDP_BATCH_MAX; i++) {
        e->iov[i] = (struct iovec){.iov_base = e->data[i], .iov_len = job->size};
        e->msg[i].msg_hdr.msg_iov = &e->iov[i];
        e->msg[i].msg_hdr.msg_iovlen = 1;
    }
}

/* Takes at least one datagram when it blocks; 0 when there is none (spinning, or the receive timeout). */
static uint32_t end_recv(struct end *e) {
    int flags = e->spin ? MSG_DONTWAIT : 0;
    if (e->batch == 1)
        return recv(e->fd, e->data[0], e->size, flags) > 0 ? 1 : 0;
    int n = recvmmsg(e->fd, e->msg, e->batch, e->spin ? MSG_DONTWAIT : MSG_WAITFORONE, NULL);
    return n > 0 ? (uint32_t)n : 0;
}

static void end_send(struct end *e, uint32_t n) {
    uint32_t sent = 0;
    while (sent < n) {
        uint32_t now = n - sent < e->batch ? n - sent : e->batch;
        int rc = e->batch == 1 ? (send(e->fd, e->data[0], e->size, 0) > 0) : sendmmsg(e->fd, e->msg, now, 0);
        if (rc <= 0)
            return;
        sent += (uint32_t)rc;
    }
}

static int serve(struct proc_shared *s, void *arg) {
    const struct kernel_udp_job *job = arg;
    static struct end e;
    uint16_t port = 0;
    int fd = udp_socket("127.0.0.1", &port);
    if (fd < 0)
        return 1;
    end_init(&e, job, fd);
    s->port = port;
    atomic_store(&s->ready, 1);
    struct sockaddr_in peer;
    socklen_t len = sizeof(peer);
    ssize_t first = recvfrom(fd, e.data[0], e.size, 0, (struct sockaddr *)&peer, &len);
    if (first < 0 || connect(fd, (struct sockaddr *)&peer, len) != 0)
        return 1;
    end_send(&e, 1);
    for (;;) {
        uint32_t n = end_recv(&e);
        if (n > 0)
            end_send(&e, n);
    }
}

/* One phase, warm-up or measurement: keeps `window` datagrams under way until `seconds` are over. */
static void drive(struct end *e, const struct kernel_udp_job *job, double seconds, struct proc_shared *s) {
    const uint64_t lost_after = tick_from_seconds(LOST_SECONDS);
    uint64_t start = tick_now(), end = start + tick_from_seconds(seconds), last = start;
    uint32_t under_way = job->window;
    uint64_t count = 0;
    end_send(e, under_way);
    while (last < end) {
        uint32_t n = end_recv(e);
        uint64_t now = tick_now();
        if (n == 0 && now - last > lost_after) {
            end_send(e, job->window);
            last = now;
        }
        if (n == 0)
            continue;
        count += n;
        if (job->window == 1)
            hist_add(&s->hist, now - last);
        last = now;
        end_send(e, n);
    }
    s->operations = count;
    s->seconds = tick_to_us((double)(tick_now() - start)) / 1e6;
    while (end_recv(e) > 0)
        continue;
}

static int client(struct proc_shared *s, void *arg) {
    const struct kernel_udp_job *job = arg;
    static struct end e;
    uint16_t port = 0;
    int fd = udp_socket("127.0.0.1", &port);
    struct timeval tv = {.tv_usec = (int)(LOST_SECONDS * 1e6)};
    if (fd < 0 || udp_connect(fd, "127.0.0.1", s->port) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) != 0)
        return 1;
    end_init(&e, job, fd);
    struct kernel_udp_job first = *job;
    first.window = 1;
    drive(&e, &first, job->seconds / 10, s);
    hist_reset(&s->hist);
    const pid_t pids[] = {job->server, getpid()};
    double cpu = proc_cpu_seconds(pids, 2);
    drive(&e, job, job->seconds, s);
    s->cpu_seconds = proc_cpu_seconds(pids, 2) - cpu;
    return 0;
}

int kernel_udp_run(struct kernel_udp_job *job, struct proc_shared *s) {
    memset(s, 0, sizeof(*s));
    job->server = proc_spawn(job->server_core, serve, s, job);
    int rc = job->server < 0 ? -1 : proc_await(&s->ready, 1, 2);
    if (rc == 0) {
        pid_t pid = proc_spawn(job->client_core, client, s, job);
        rc = pid < 0 ? -1 : proc_join(pid, 5 + 2 * job->seconds);
    }
    if (job->server > 0) {
        (void)kill(job->server, SIGKILL);
        (void)proc_join(job->server, 1);
    }
    if (rc != 0)
        (void)snprintf(s->error, sizeof(s->error), "the kernel's UDP pair did not run");
    return rc == 0 ? 0 : -1;
}
