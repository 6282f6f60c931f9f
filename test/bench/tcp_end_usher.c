/* SPDX-License-Identifier: Apache-2.0
 *
 * Usher's way: libusher. Messages are written into lent buffers and received in place. An end that finds its streams
 * not accelerated fails with usherd's reason: a figure of the fall-back would mean nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "test/bench/sandbox.h"
#include "test/bench/tcp_end.h"
#include "test/bench/tick.h"

#define BACKLOG 4096
#define WAIT_NS 1000000000

static struct sockaddr_in own_address(uint16_t port) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    (void)inet_pton(AF_INET, SANDBOX_ADDR, &sa.sin_addr);
    return sa;
}

static int accelerated(struct tcp_end *e, struct tcp_conn *c) {
    struct usher_socket_info info;
    if (usher_socket_info(c->sock, &info) == 0 && info.accelerated)
        return 0;
    (void)snprintf(e->error, sizeof(e->error), "the stream is not accelerated: %s", info.reason);
    return -1;
}

static int ush_open(struct tcp_end *e) {
    struct usher_context_params params = {.flags = USHER_SINGLE_THREAD, .label = "usher-bench", .spin_us = -1};
    int rc = usher_context_open(&params, &e->ctx);
    return rc != 0 ? tcp_end_fail(e, "cannot attach to usherd", rc) : 0;
}

static void ush_fini(struct tcp_end *e) {
    if (e->ctx != NULL)
        usher_context_close(e->ctx);
}

static int ush_socket(struct tcp_end *e, struct tcp_conn *c) {
    const int on = 1;
    int rc = usher_socket(e->ctx, AF_INET, SOCK_STREAM, 0, &c->sock);
    if (rc != 0)
        return tcp_end_fail(e, "cannot make a stream", rc);
    usher_set_user(c->sock, c);
    return c->listens ? 0 : usher_setsockopt(c->sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int ush_listen(struct tcp_end *e, struct tcp_conn *c) {
    struct sockaddr_in sa = own_address(c->port);
    if (ush_socket(e, c) != 0)
        return -1;
    int rc = usher_bind(c->sock, (struct sockaddr *)&sa, sizeof(sa));
    if (rc == 0)
        rc = usher_listen(c->sock, BACKLOG);
    return rc != 0 ? tcp_end_fail(e, "cannot listen", rc) : accelerated(e, c);
}

static int ush_connect(struct tcp_end *e, struct tcp_conn *c) {
    struct sockaddr_in sa = own_address(c->port);
    if (ush_socket(e, c) != 0)
        return -1;
    int rc = usher_connect(c->sock, (struct sockaddr *)&sa, sizeof(sa));
    return rc != 0 ? tcp_end_fail(e, "cannot connect", rc) : accelerated(e, c);
}

static void on_accept(struct tcp_end *e, const struct usher_event *ev) {
    const struct tcp_conn *listener = usher_user(ev->sock);
    struct tcp_conn *c = tcp_conn_new(e);
    if (c == NULL) {
        usher_close(ev->msg.sock);
        return;
    }
    c->sock = ev->msg.sock;
    c->port = listener->port;
    usher_set_user(c->sock, c);
    e->on(e, c, TCP_UP, NULL, 0);
}

static void on_recv(struct tcp_end *e, struct tcp_conn *c, const struct usher_event *ev) {
    e->taken[e->taken_count++] = ev->msg;
    if (!c->closing)
        e->on(e, c, TCP_DATA, ev->msg.buf.data, ev->msg.len);
}

static void handle(struct tcp_end *e, const struct usher_event *ev) {
    struct tcp_conn *c = ev->sock != NULL ? usher_user(ev->sock) : NULL;
    if (ev->type == USHER_EV_ACCEPT)
        on_accept(e, ev);
    else if (ev->type == USHER_EV_RECV)
        on_recv(e, c, ev);
    else if (ev->type == USHER_EV_TX_FREE || ev->type == USHER_EV_DOWN)
        e->on(e, NULL, ev->type == USHER_EV_DOWN ? TCP_GONE : TCP_ROOM, NULL, 0);
    else if (c->closing)
        return;
    else if (ev->type == USHER_EV_CONNECTED && accelerated(e, c) == 0)
        e->on(e, c, TCP_UP, NULL, 0);
    else if (ev->type == USHER_EV_WRITABLE)
        e->on(e, c, TCP_ROOM, NULL, 0);
    else
        e->on(e, c, TCP_GONE, NULL, 0);
}

/* A full ring is usherd's to empty; it has a core, and at most a second. */
static int ush_flush(struct tcp_end *e) {
    uint32_t n = e->out_count, at = 0;
    uint64_t end = 0;
    e->out_count = 0;
    while (at < n) {
        int sent = usher_send(e->ctx, e->out + at, n - at);
        at += sent > 0 ? (uint32_t)sent : 0;
        if (at == n)
            break;
        end = end != 0 ? end : tick_now() + tick_from_seconds(1);
        if ((sent < 0 && sent != -EAGAIN) || tick_now() > end)
            return tcp_end_fail(e, "cannot send", sent < 0 ? sent : EAGAIN);
        (void)sched_yield();
    }
    return 0;
}

/* Answers first, then what they answer to goes back. */
static int ush_turn(struct tcp_end *e, bool wait) {
    struct usher_event ev[TCP_END_BATCH];
    int n = wait && !e->spin ? usher_wait(e->ctx, ev, TCP_END_BATCH, WAIT_NS) : usher_poll(e->ctx, ev, TCP_END_BATCH);
    for (int i = 0; i < n; i++)
        handle(e, &ev[i]);
    int rc = ush_flush(e);
    if (e->taken_count > 0)
        usher_rx_release(e->ctx, e->taken, e->taken_count);
    e->taken_count = 0;
    return n < 0 && n != -EINTR ? tcp_end_fail(e, "waiting", n) : rc;
}

static int ush_send(struct tcp_end *e, struct tcp_conn *c, uint32_t len) {
    if (e->out_count == TCP_END_BATCH && ush_flush(e) != 0)
        return -1;
    struct usher_msg *m = &e->out[e->out_count];
    int rc = usher_tx_alloc(e->ctx, len, &m->buf);
    if (rc != 0)
        return tcp_end_fail(e, "no buffer", rc);
    memcpy(m->buf.data, e->buf, len);
    m->sock = c->sock;
    m->len = len;
    m->flags = 0;
    m->gso_size = 0;
    e->out_count++;
    return 0;
}

static int ush_push(struct tcp_end *e, struct tcp_conn *c) {
    struct usher_msg m = {.sock = c->sock, .len = TCP_END_CHUNK};
    int rc = usher_tx_alloc(e->ctx, m.len, &m.buf);
    if (rc != 0)
        return rc == -ENOBUFS ? 0 : tcp_end_fail(e, "no buffer", rc);
    memcpy(m.buf.data, e->buf, m.len);
    rc = usher_send(e->ctx, &m, 1);
    if (rc == 1)
        return 1;
    usher_tx_free(e->ctx, &m.buf);
    return rc == -EAGAIN || rc == -ENOBUFS ? 0 : tcp_end_fail(e, "cannot send", rc);
}

static void ush_close(struct tcp_end *e, struct tcp_conn *c) {
    (void)e;
    usher_close(c->sock);
}

const struct tcp_end_ops tcp_end_usher = {
    .open = ush_open,
    .fini = ush_fini,
    .listen = ush_listen,
    .connect = ush_connect,
    .turn = ush_turn,
    .send = ush_send,
    .flush = ush_flush,
    .push = ush_push,
    .close = ush_close,
};
