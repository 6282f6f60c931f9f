/* SPDX-License-Identifier: Apache-2.0
 *
 * Clients on libusher that mostly sleep: the silent one, the crowd of sockets, and the one that is woken by stamps.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <usher/usher.h>

#include "test/bench/sandbox.h"
#include "test/bench/tick.h"
#include "test/bench/usher_udp.h"
#include "test/bench/usherd.h"
#include "test/bench/wake.h"

static int fail(struct proc_shared *s, const char *what, int rc) {
    (void)snprintf(s->error, sizeof(s->error), "%s: %s (%s)", what, strerror(-rc), usher_strerror());
    return 1;
}

static int open_sockets(struct proc_shared *s, const char *address, uint32_t count, uint16_t port,
                        struct usher_context **ret_ctx) {
    struct usher_context_params params = {
        .flags = USHER_SINGLE_THREAD, .label = "usher-bench", .spin_us = -1, .socket_max = count};
    struct rlimit files = {.rlim_cur = count + 64, .rlim_max = count + 64};
    if (count > 512)
        (void)setrlimit(RLIMIT_NOFILE, &files);
    int rc = usher_context_open(&params, ret_ctx);
    if (rc != 0)
        return fail(s, "cannot attach to usherd", rc);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    (void)inet_pton(AF_INET, address, &sa.sin_addr);
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        struct usher_socket *sock;
        rc = usher_socket(*ret_ctx, AF_INET, SOCK_DGRAM, 0, &sock);
        if (rc == 0)
            rc = usher_bind(sock, (struct sockaddr *)&sa, sizeof(sa));
    }
    return rc == 0 ? 0 : fail(s, "cannot bind a socket", rc);
}

struct crowd {
    const char *address;
    uint32_t count;
};

static int sleeper(struct proc_shared *s, void *arg) {
    struct usher_context *ctx;
    struct usher_event ev;
    const struct crowd *crowd = arg;
    if (open_sockets(s, crowd->address, crowd->count, 0, &ctx) != 0)
        return 1;
    atomic_store(&s->ready, 1);
    while (usher_wait(ctx, &ev, 1, -1) >= 0)
        continue;
    return 0;
}

pid_t usher_udp_sleeper(int core, struct proc_shared *s) {
    return usher_udp_crowd(core, 1, s);
}

pid_t usher_udp_crowd(int core, uint32_t count, struct proc_shared *s) {
    return usher_udp_crowd_at(core, SANDBOX_ADDR, count, s);
}

pid_t usher_udp_crowd_at(int core, const char *address, uint32_t count, struct proc_shared *s) {
    struct crowd crowd = {address, count};
    return proc_spawn(core, sleeper, s, &crowd);
}

struct woken {
    const struct usher_udp_job *job;
    struct wake_job sender;
};

/* Waits for one stamp and adds its age to the histogram. */
static int take_stamp(struct usher_context *ctx, struct hist *h) {
    struct usher_event ev;
    int rc = usher_wait(ctx, &ev, 1, 1000000000);
    uint64_t now = tick_now();
    if (rc < 0 || (rc == 1 && ev.type != USHER_EV_RECV))
        return rc < 0 ? rc : 0;
    if (rc == 0)
        return -ETIMEDOUT;
    struct wake_stamp stamp;
    memcpy(&stamp, ev.msg.buf.data, sizeof(stamp));
    hist_add(h, now - stamp.tick);
    usher_rx_release(ctx, &ev.msg, 1);
    return 0;
}

static int woken(struct proc_shared *s, void *arg) {
    struct woken *w = arg;
    struct usher_context *ctx;
    const pid_t pids[] = {getpid(), w->job->usherd};
    if (open_sockets(s, SANDBOX_ADDR, 1, USHERD_SERVER_PORT, &ctx) != 0)
        return 1;
    pid_t sender = wake_sender_spawn(s, &w->sender);
    int rc = 0;
    for (int i = 0; i < 10 && rc == 0; i++)
        rc = take_stamp(ctx, &s->hist);
    hist_reset(&s->hist);
    double cpu = proc_cpu_seconds(pids, 2);
    uint64_t end = tick_now() + tick_from_seconds(w->job->seconds);
    while (rc == 0 && tick_now() < end)
        rc = take_stamp(ctx, &s->hist);
    s->cpu_seconds = proc_cpu_seconds(pids, 2) - cpu;
    (void)kill(sender, SIGKILL);
    return rc == 0 ? 0 : fail(s, "no stamp came", rc);
}

int usher_udp_wake(struct usher_udp_job *job, int peer_netns, struct proc_shared *s) {
    memset(s, 0, sizeof(*s));
    struct woken w = {
        .job = job,
        .sender = {.peer_netns = peer_netns, .core = job->server_core, .port = USHERD_SERVER_PORT},
    };
    int rc = proc_join(proc_spawn(job->client_core, woken, s, &w), 5 + 2 * job->seconds);
    if (rc != 0 && s->error[0] == '\0')
        (void)snprintf(s->error, sizeof(s->error), "the receiver did not run to its end");
    return rc == 0 ? 0 : -1;
}
