/* SPDX-License-Identifier: Apache-2.0
 *
 * Client and server on libusher. Each message's bytes are written and read once, as a program would. A side that finds
 * its socket not accelerated fails with usherd's reason: a figure of the fall-back would mean nothing.
 */
#include "test/bench/usher_udp.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <usher/usher.h>

#include "test/bench/sandbox.h"
#include "test/bench/tick.h"
#include "test/bench/usherd.h"

#define BATCH   64
#define LOST_NS 50000000

struct app {
    struct usher_context *ctx;
    struct usher_socket *sock;
};

static int app_fail(struct proc_shared *s, const char *what, int rc) {
    (void)snprintf(s->error, sizeof(s->error), "%s: %s (%s)", what, strerror(-rc), usher_strerror());
    return 1;
}

static struct sockaddr_in local_addr(uint16_t port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    (void)inet_pton(AF_INET, SANDBOX_ADDR, &sa.sin_addr);
    return sa;
}

/* A socket connected to `port` here (is_client) or bound to it. */
static int app_open(struct app *a, struct proc_shared *s, uint16_t port, bool is_client) {
    struct usher_context_params params = {.flags = USHER_SINGLE_THREAD, .label = "usher-bench", .spin_us = -1};
    struct sockaddr_in sa = local_addr(port);
    struct usher_socket_info info;
    int rc = usher_context_open(&params, &a->ctx);
    if (rc != 0)
        return app_fail(s, "cannot attach to usherd", rc);
    rc = usher_socket(a->ctx, AF_INET, SOCK_DGRAM, 0, &a->sock);
    if (rc == 0)
        rc = is_client ? usher_connect(a->sock, (struct sockaddr *)&sa, sizeof(sa))
                       : usher_bind(a->sock, (struct sockaddr *)&sa, sizeof(sa));
    if (rc != 0)
        return app_fail(s, "cannot make a socket", rc);
    rc = usher_socket_info(a->sock, &info);
    if (rc == 0 && info.accelerated)
        return 0;
    (void)snprintf(s->error, sizeof(s->error), "the socket is not accelerated: %s", info.reason);
    return 1;
}

static int app_send_one(struct app *a, uint32_t size, uint64_t number) {
    struct usher_msg msg = {.sock = a->sock, .len = size};
    int rc = usher_tx_alloc(a->ctx, size, &msg.buf);
    if (rc != 0)
        return rc;
    memset(msg.buf.data, (int)(number & 0xff), size);
    return usher_send(a->ctx, &msg, 1);
}

/* One look, or one blocking wait: 1 when the answer to `number` is there, 0 when it is not, or a negative errno. */
static int app_look(struct app *a, bool spin, uint64_t number) {
    struct usher_event ev;
    int n = spin ? usher_poll(a->ctx, &ev, 1) : usher_wait(a->ctx, &ev, 1, LOST_NS);
    if (n <= 0 || ev.type != USHER_EV_RECV)
        return n < 0 ? n : 0;
    bool right = *(const uint8_t *)ev.msg.buf.data == (uint8_t)number;
    usher_rx_release(a->ctx, &ev.msg, 1);
    return right;
}

/* Takes the answer to `number`. 1 when it came, 0 when it is lost, or a negative errno. Looks at the clock rarely: it
 * costs as much as a look. */
static int app_recv_one(struct app *a, bool spin, uint64_t number) {
    uint64_t start = tick_now();
    for (uint32_t looks = 1;; looks++) {
        int rc = app_look(a, spin, number);
        if (rc != 0)
            return rc;
        if ((!spin || looks % 1024 == 0) && tick_now() - start > (uint64_t)(LOST_NS * tick_per_ns()))
            return 0;
    }
}

static int drive(struct app *a, const struct usher_udp_job *job, double seconds, struct proc_shared *s) {
    uint64_t start = tick_now(), end = start + tick_from_seconds(seconds), last = start;
    for (uint64_t i = 0; last < end; i++) {
        int rc = app_send_one(a, job->size, i);
        if (rc < 0)
            return app_fail(s, "cannot send", rc);
        rc = app_recv_one(a, job->spin, i);
        if (rc < 0)
            return app_fail(s, "cannot receive", rc);
        uint64_t now = tick_now();
        if (rc == 1)
            hist_add(&s->hist, now - last);
        last = now;
    }
    s->operations = s->hist.count;
    s->seconds = tick_to_us((double)(last - start)) / 1e6;
    return 0;
}

static int client(struct proc_shared *s, void *arg) {
    const struct usher_udp_job *job = arg;
    struct app a = {0};
    uint16_t port = job->server_core < 0 ? USHERD_ECHO_PORT : USHERD_SERVER_PORT;
    if (app_open(&a, s, port, true) != 0 || drive(&a, job, job->seconds / 10, s) != 0)
        return 1;
    hist_reset(&s->hist);
    const pid_t pids[] = {getpid(), job->usherd, job->server};
    double cpu = proc_cpu_seconds(pids, 3);
    int rc = drive(&a, job, job->seconds, s);
    s->cpu_seconds = proc_cpu_seconds(pids, 3) - cpu;
    usher_context_close(a.ctx);
    return rc;
}

/* Answers up to BATCH datagrams in one go. Returns how many, 0 when none came, or a negative errno. */
static int answer_burst(struct app *a, bool spin) {
    struct usher_event ev[BATCH];
    struct usher_msg in[BATCH], out[BATCH];
    uint32_t taken = 0, count = 0;
    int n = spin ? usher_poll(a->ctx, ev, BATCH) : usher_wait(a->ctx, ev, BATCH, -1);
    for (int i = 0; i < n; i++) {
        if (ev[i].type != USHER_EV_RECV)
            continue;
        const struct usher_msg *req = &ev[i].msg;
        struct usher_msg *m = &out[count];
        in[taken++] = *req;
        if (usher_tx_alloc(a->ctx, req->len, &m->buf) != 0)
            continue;
        memcpy(m->buf.data, req->buf.data, req->len);
        m->sock = a->sock;
        m->len = req->len;
        m->flags = 0;
        m->gso_size = 0;
        m->tos = 0;
        m->family = req->family;
        m->peer_port = req->peer_port;
        memcpy(m->peer, req->peer, sizeof(m->peer));
        count++;
    }
    if (taken > 0)
        usher_rx_release(a->ctx, in, taken);
    if (count == 0)
        return n < 0 ? n : 0;
    int sent = usher_send(a->ctx, out, count);
    for (uint32_t i = sent < 0 ? 0 : (uint32_t)sent; i < count; i++)
        usher_tx_free(a->ctx, &out[i].buf);
    return sent < 0 ? 0 : sent;
}

static int server(struct proc_shared *s, void *arg) {
    (void)arg;
    struct app a = {0};
    if (app_open(&a, s, USHERD_SERVER_PORT, false) != 0)
        return 1;
    atomic_store(&s->ready, 1);
    for (;;) {
        if (answer_burst(&a, false) < 0)
            return 1;
    }
}

static int finish(struct proc_shared *s, int rc) {
    if (rc != 0 && s->error[0] == '\0')
        (void)snprintf(s->error, sizeof(s->error), "Usher's programs did not run to their end");
    return rc == 0 ? 0 : -1;
}

int usher_udp_rtt(struct usher_udp_job *job, struct proc_shared *s) {
    memset(s, 0, sizeof(*s));
    job->server = 0;
    int rc = 0;
    if (job->server_core >= 0) {
        job->server = proc_spawn(job->server_core, server, s, job);
        rc = proc_await(&s->ready, 1, 5);
    }
    if (rc == 0)
        rc = proc_join(proc_spawn(job->client_core, client, s, job), 5 + 2 * job->seconds);
    if (job->server > 0) {
        (void)kill(job->server, SIGKILL);
        (void)proc_join(job->server, 1);
    }
    return finish(s, rc);
}

static uint64_t answer_for(struct app *a, double seconds) {
    uint64_t end = tick_now() + tick_from_seconds(seconds), count = 0;
    for (uint32_t turn = 0;; turn++) {
        int n = answer_burst(a, true);
        if (n < 0 || (turn % 16 == 0 && tick_now() > end))
            return count;
        count += (uint64_t)n;
    }
}

static int rate_server(struct proc_shared *s, void *arg) {
    const struct usher_udp_job *job = arg;
    struct app a = {0};
    if (app_open(&a, s, USHERD_SERVER_PORT, false) != 0)
        return 1;
    (void)answer_for(&a, job->seconds / 10 + 0.05);
    const pid_t pids[] = {getpid(), job->usherd};
    double cpu = proc_cpu_seconds(pids, 2);
    uint64_t start = tick_now();
    s->operations = answer_for(&a, job->seconds);
    s->seconds = tick_to_us((double)(tick_now() - start)) / 1e6;
    s->cpu_seconds = proc_cpu_seconds(pids, 2) - cpu;
    usher_context_close(a.ctx);
    return 0;
}

int usher_udp_serve_rate(struct usher_udp_job *job, struct proc_shared *s) {
    memset(s, 0, sizeof(*s));
    return finish(s, proc_join(proc_spawn(job->client_core, rate_server, s, job), 5 + 2 * job->seconds));
}
