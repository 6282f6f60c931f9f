/* SPDX-License-Identifier: Apache-2.0
 *
 * Receiving: usher_poll(), usher_wait(), usher_recvfrom(), and giving buffers back. Any thread, under the lock.
 */
#include "clientlib/src/internal.h"

void client_release_msg(struct usher_context *ctx, struct usher_msg *m) {
    void *data = m->buf.data;
    if (UNLIKELY(!data))
        return;
    m->buf.data = NULL; /* so that the same message given twice is given once */
    if (UNLIKELY(m->flags & USHER_RECV_KERNEL)) {
        client_kbuf_give(ctx, data);
        return;
    }
    struct client_set *s = ctx->set_at[m->buf.cookie % USH_SET_MAX];
    if (LIKELY(s))
        client_release_cell(ctx, s, m->buf.cookie >> 4 << ctx->cell_shift, m->buf.size);
}

void usher_rx_release(struct usher_context *ctx, struct usher_msg *msgs, uint32_t n) {
    if (client_enter(ctx))
        return;
    for (uint32_t i = 0; i < n; i++)
        client_release_msg(ctx, &msgs[i]);
    client_leave(ctx);
}

/* What usher_poll() returns when there is no event. */
static int nothing(struct usher_context *ctx) {
    if (LIKELY(!ctx->down_errno || ctx->down_event))
        return 0;
    ctx->down_errno = false;
    return client_fail_fast(-ENETDOWN, "usherd is gone; sockets go on over the kernel where they can");
}

int usher_poll(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n) {
    if (UNLIKELY(__atomic_load_n(&ctx->ports_due, __ATOMIC_RELAXED)))
        client_ports_give(ctx);
    int err = client_enter(ctx);
    if (err)
        return err;
    client_kick(ctx);
    int got = (int)client_take(ctx, ret_events, n, false);
    if (UNLIKELY(got == 0 && n))
        got = nothing(ctx);
    client_leave(ctx);
    return got;
}

static int wait_events(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n, int64_t timeout_ns) {
    struct client_wait w;
    client_wait_begin(&w, NULL, timeout_ns);
    int got, err = 0;
    do {
        got = (int)client_take(ctx, ret_events, n, w.look);
        if (got == 0)
            got = nothing(ctx);
        if (got == 0)
            err = client_wait_block(ctx, &w);
    } while (got == 0 && err == 0);
    if (err == -EAGAIN)
        got = (int)client_take(ctx, ret_events, n, true);
    client_wait_end(ctx, &w, got > 0);
    return got == 0 && err == -EINTR ? client_fail_fast(err, "a signal came while waiting") : got;
}

int usher_wait(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n, int64_t timeout_ns) {
    if (n == 0)
        return client_fail_fast(-EINVAL, "no room for even one event");
    if (UNLIKELY(__atomic_load_n(&ctx->ports_due, __ATOMIC_RELAXED)))
        client_ports_give(ctx);
    int err = client_enter(ctx);
    if (err)
        return err;
    client_kick(ctx);
    int got = (int)client_take(ctx, ret_events, n, false);
    if (got == 0 && timeout_ns != 0)
        got = wait_events(ctx, ret_events, n, timeout_ns);
    else if (got == 0)
        got = nothing(ctx);
    client_leave(ctx);
    return got;
}

struct receiver {
    struct usher_socket *sock;
    struct iovec iov;
    struct usher_event ev; /* the datagram's addresses */
};

static ssize_t copy_out(struct receiver *r) {
    struct usher_msg *m = &r->ev.msg;
    size_t n = m->len < r->iov.iov_len ? m->len : r->iov.iov_len;
    if (n)
        memcpy(r->iov.iov_base, m->buf.data, n);
    client_release_msg(r->sock->ctx, m);
    return (ssize_t)n;
}

static ssize_t deliver(struct receiver *r) {
    if (r->ev.type == USHER_EV_RECV)
        return copy_out(r);
    return client_fail(-r->ev.error, "an earlier send on this socket failed: %s", strerror(r->ev.error));
}

/* A socket that lives on the kernel is read straight into the caller's buffer: no copy, and no look at the rest. */
static ssize_t recv_kernel(struct receiver *r) {
    ssize_t n = client_kernel_recv_into(r->sock, &r->iov, 1, &r->ev);
    return n < 0 && n != -EAGAIN && n != -EINTR
               ? client_fail((int)n, "receiving from the kernel socket: %s", strerror((int)-n))
               : n;
}

/* One datagram or error of r->sock, or -EAGAIN. What belongs to other sockets is parked for them. */
static ssize_t recv_now(struct receiver *r, bool look) {
    struct usher_socket *sock = r->sock;
    if (UNLIKELY(sock->error)) {
        r->ev = (struct usher_event){.type = USHER_EV_ERROR, .error = sock->error};
        sock->error = 0;
        return deliver(r);
    }
    if (client_unpark(sock, &r->ev))
        return deliver(r);
    if (!sock->set && sock->watched) {
        ssize_t n = recv_kernel(r);
        if (n != -EAGAIN && n != -EINTR)
            return n;
    }
    while (client_take_fresh(sock->ctx, &r->ev, 1, look) == 1) {
        if (r->ev.sock == sock)
            return deliver(r);
        client_park(sock->ctx, &r->ev);
    }
    return -EAGAIN;
}

static ssize_t recv_wait(struct receiver *r, int64_t timeout_ns) {
    struct usher_context *ctx = r->sock->ctx;
    ssize_t n = recv_now(r, false);
    if (n != -EAGAIN || timeout_ns == 0)
        return n;
    struct client_wait w;
    client_wait_begin(&w, r->sock, timeout_ns);
    int err = 0;
    while (n == -EAGAIN && err == 0) {
        err = client_wait_block(ctx, &w);
        n = recv_now(r, w.look || err == -EAGAIN);
    }
    client_wait_end(ctx, &w, n >= 0);
    return n == -EAGAIN
               ? client_fail_fast(err, err == -EINTR ? "a signal came while waiting" : "no datagram came in time")
               : n;
}

/* ---- streams ---- */

/* Bytes of what a call before has left, then the next event's. 0 = the peer has hung up. */
static ssize_t stream_rest(struct receiver *r) {
    struct client_stream *st = r->sock->st;
    size_t left = st->rest.len - st->rest_at, n = left < r->iov.iov_len ? left : r->iov.iov_len;
    memcpy(r->iov.iov_base, (uint8_t *)st->rest.buf.data + st->rest_at, n);
    st->rest_at += (uint32_t)n;
    if (st->rest_at == st->rest.len)
        client_release_msg(r->sock->ctx, &st->rest);
    return (ssize_t)n;
}

static ssize_t stream_take(struct receiver *r) {
    struct usher_socket *sock = r->sock;
    switch (r->ev.type) {
    case USHER_EV_RECV:
        sock->st->rest = r->ev.msg;
        sock->st->rest_at = 0;
        return stream_rest(r);
    case USHER_EV_HANGUP:
        return 0;
    case USHER_EV_ERROR:
        return client_fail(-r->ev.error, "the stream failed: %s", strerror(r->ev.error));
    default:
        return -EAGAIN; /* CONNECTED: whoever reads knows it soon */
    }
}

static ssize_t stream_error(struct receiver *r) {
    if (LIKELY(!r->sock->error))
        return -EAGAIN;
    r->ev = (struct usher_event){.type = USHER_EV_ERROR, .error = r->sock->error};
    r->sock->error = 0;
    return stream_take(r);
}

static ssize_t stream_now(struct receiver *r, bool look) {
    struct usher_socket *sock = r->sock;
    ssize_t n = -EAGAIN;
    if (sock->st->rest.buf.data)
        return stream_rest(r);
    while (n == -EAGAIN && client_unpark(sock, &r->ev))
        n = stream_take(r);
    if (n == -EAGAIN)
        n = stream_error(r);
    while (n == -EAGAIN && client_take_fresh(sock->ctx, &r->ev, 1, look) == 1) {
        if (r->ev.sock == sock)
            n = stream_take(r);
        else
            client_park(sock->ctx, &r->ev);
    }
    if (n == -EAGAIN)
        n = stream_error(r); /* usherd's end was found just now */
    return n == -EAGAIN && (sock->st->eof || sock->st->deaf) ? 0 : n;
}

ssize_t usher_recv_stream(struct usher_socket *sock, void *data, size_t size, int64_t timeout_ns) {
    struct receiver r = {.sock = sock, .iov = {data, size}};
    struct usher_context *ctx = sock->ctx;
    int err = client_enter(ctx);
    if (err)
        return err;
    client_kick(ctx);
    ssize_t n = sock->st && !sock->st->listening ? stream_now(&r, false)
                                                 : client_fail(-EOPNOTSUPP, "this is no stream with bytes to read");
    if (n == -EAGAIN && timeout_ns != 0) {
        struct client_wait w;
        client_wait_begin(&w, sock, timeout_ns);
        while (n == -EAGAIN && err == 0) {
            err = client_wait_block(ctx, &w);
            n = stream_now(&r, w.look || err == -EAGAIN);
        }
        client_wait_end(ctx, &w, n >= 0);
    }
    client_leave(ctx);
    return n == -EAGAIN && err == -EINTR ? err : n;
}

ssize_t usher_recvfrom(struct usher_socket *sock, void *data, size_t size, struct sockaddr *ret_addr,
                       socklen_t *addr_len, int64_t timeout_ns) {
    struct receiver r = {.sock = sock, .iov = {data, size}};
    if (sock->st)
        return client_fail_fast(-EOPNOTSUPP, "a stream is read by usher_recv_stream()");
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    client_kick(sock->ctx);
    ssize_t n = recv_wait(&r, timeout_ns);
    client_leave(sock->ctx);
    if (n >= 0 && ret_addr && addr_len) {
        struct sockaddr_storage from;
        socklen_t len;
        client_addr_to(&r.ev.msg, sock->v6, &from, &len);
        client_addr_give(&from, len, ret_addr, addr_len);
    }
    return n;
}
