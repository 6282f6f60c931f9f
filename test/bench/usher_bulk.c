/* SPDX-License-Identifier: Apache-2.0
 *
 * Usher's end of a bulk stream, on libusher's zero-copy calls: buffers lent from the TX region are sent as they are,
 * received ones are given back unread. It sleeps whenever there is nothing to do; it shares its core with usherd.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <usher/usher.h>

#include "test/bench/bulk.h"
#include "test/bench/sandbox.h"

#define PIECE   65507u /* the largest buffer there is */
#define EVENTS  32u
#define PATIENT 2000000000 /* ns */

struct end {
    struct usher_context *ctx;
    struct usher_socket *sock;
    struct proc_shared *s;
};

static int fail(struct end *e, const char *what, int rc) {
    (void)snprintf(e->s->error, sizeof(e->s->error), "%s: %s (%s)", what, strerror(-rc), usher_strerror());
    return 1;
}

static int await_connected(struct end *e) {
    struct usher_event ev;
    int n;
    while ((n = usher_wait(e->ctx, &ev, 1, PATIENT)) == 1 && ev.type != USHER_EV_CONNECTED)
        if (ev.type == USHER_EV_ERROR)
            return -ev.error;
    return n == 1 ? 0 : n < 0 ? n : -ETIMEDOUT;
}

static int open_stream(struct end *e) {
    struct usher_context_params params = {.flags = USHER_SINGLE_THREAD, .label = "usher-bench", .spin_us = -1};
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(e->s->port)};
    struct usher_socket_info info;
    (void)inet_pton(AF_INET, SANDBOX_PEER_ADDR, &sa.sin_addr);
    int rc = usher_context_open(&params, &e->ctx);
    if (rc != 0)
        return fail(e, "cannot attach to usherd", rc);
    rc = usher_socket(e->ctx, AF_INET, SOCK_STREAM, 0, &e->sock);
    if (rc == 0)
        rc = usher_connect(e->sock, (struct sockaddr *)&sa, sizeof(sa));
    if (rc == 0)
        rc = await_connected(e);
    if (rc != 0)
        return fail(e, "cannot connect", rc);
    rc = usher_socket_info(e->sock, &info);
    if (rc == 0 && info.accelerated)
        return 0;
    (void)snprintf(e->s->error, sizeof(e->s->error), "the stream is not accelerated: %s", info.reason);
    return 1;
}

/* Sends until credit or buffers are used up. 0, or a negative errno when the stream is broken. */
static int push(struct end *e) {
    for (;;) {
        struct usher_msg m = {.sock = e->sock, .len = PIECE, .flags = USHER_MORE};
        int rc = usher_tx_alloc(e->ctx, PIECE, &m.buf);
        if (rc != 0)
            return rc == -ENOBUFS ? 0 : rc;
        rc = usher_send(e->ctx, &m, 1);
        if (rc == 1)
            continue;
        usher_tx_free(e->ctx, &m.buf);
        return rc == -EAGAIN ? 0 : rc;
    }
}

static int pull(struct end *e, struct usher_event *ev, int n) {
    for (int i = 0; i < n; i++) {
        if (ev[i].type == USHER_EV_ERROR || ev[i].type == USHER_EV_HANGUP || ev[i].type == USHER_EV_DOWN)
            return ev[i].error != 0 ? -ev[i].error : -EPIPE;
        if (ev[i].type != USHER_EV_RECV)
            continue;
        __atomic_store_n(&e->s->operations, e->s->operations + ev[i].msg.len, __ATOMIC_RELAXED);
        usher_rx_release(e->ctx, &ev[i].msg, 1);
    }
    return 0;
}

int bulk_end_usher(struct proc_shared *s, void *arg) {
    const struct bulk_job *job = arg;
    struct end e = {.s = s};
    if (open_stream(&e) != 0)
        return 1;
    atomic_fetch_add(&s->ready, 1);
    for (;;) {
        struct usher_event ev[EVENTS];
        int rc = job->transmit ? push(&e) : 0;
        int n = rc == 0 ? usher_wait(e.ctx, ev, EVENTS, PATIENT) : rc;
        rc = n < 0 ? n : pull(&e, ev, n);
        if (rc < 0)
            return fail(&e, "the stream broke", rc);
    }
}
