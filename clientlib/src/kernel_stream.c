/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams over the kernel's sockets: where usherd has no way, where it is gone, and what reaches a listener by an
 * interface that is not Usher's. The same events come of them. Under the context's lock; system calls here.
 */
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clientlib/src/internal.h"

#define READ_MAX     (16u << 10)
#define READ_BURST   8
#define ACCEPT_BURST 16

/* A stream's kernel socket is made when it is first needed. */
int client_kstream_fd(struct usher_socket *sock) {
    if (sock->fd >= 0)
        return 0;
    sock->fd = socket(sock->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock->fd < 0)
        return client_fail(-errno, "kernel socket: %s", strerror(errno));
    client_stream_options_kernel(sock);
    return 0;
}

int client_kstream_connect(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    if (sock->borrowed)
        return client_fail_fast(-CLIENT_BY_KERNEL, "only the kernel reaches that address");
    struct sockaddr_storage to;
    socklen_t len;
    struct usher_msg m = {.family = sock->v6 ? AF_INET6 : AF_INET, .peer_port = st->peer_port};
    memcpy(m.peer, sock->v6 ? st->peer : st->peer + 12, sock->v6 ? 16 : 4);
    int err = client_kstream_fd(sock);
    if (err)
        return err;
    client_addr_to(&m, sock->v6, &to, &len);
    if (connect(sock->fd, (struct sockaddr *)&to, len) < 0 && errno != EINPROGRESS)
        return client_fail(-errno, "connect: %s", strerror(errno));
    st->connecting = true;
    if (!sock->watched)
        sock->ctx->kernel_only++;
    return client_kernel_watch(sock);
}

/* ---- sending ---- */

bool client_kstream_tail(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    while (st->tail_at < st->tail_len) {
        ssize_t n = send(sock->fd, st->tail + st->tail_at, st->tail_len - st->tail_at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return errno != EAGAIN && errno != EINTR; /* a real error is told by the epoll set */
        st->tail_at += (uint32_t)n;
    }
    st->tail_at = st->tail_len = 0;
    return true;
}

static int block(struct usher_socket *sock) {
    client_block_socket(sock);
    sock->kernel_blocked = true;
    client_kernel_interest(sock);
    return client_fail_fast(-EAGAIN, "the kernel socket's send buffer is full: wait for USHER_EV_WRITABLE");
}

/* All or nothing, as the caller was promised: what the kernel does not take now waits in `tail`. */
int client_kstream_send(struct usher_socket *sock, const struct usher_msg *m, const void *data) {
    struct client_stream *st = sock->st;
    if (!client_kstream_tail(sock))
        return block(sock);
    int oob = m->flags & USHER_URGENT ? MSG_OOB : 0;
    ssize_t n = send(sock->fd, data, m->len, MSG_DONTWAIT | MSG_NOSIGNAL | oob);
    if (n < 0)
        return errno == EAGAIN ? block(sock) : client_fail(-errno, "sending over the kernel: %s", strerror(errno));
    if ((uint32_t)n == m->len)
        return 0;
    if (!st->tail && !(st->tail = malloc(TXBUF_SLAB)))
        return client_fail(-ENOMEM, "no memory for the rest of a send");
    st->tail_len = m->len - (uint32_t)n;
    memcpy(st->tail, (const uint8_t *)data + n, st->tail_len);
    (void)block(sock);
    return 0;
}

/* ---- events ---- */

static void read_ends(struct usher_socket *sock) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    struct usher_msg m = {0};
    if (getsockname(sock->fd, (struct sockaddr *)&sa, &len) == 0 &&
        client_addr_from((struct sockaddr *)&sa, len, &m) == 0) {
        client_addr_map(m.family, m.peer, sock->st->local);
        sock->st->local_port = m.peer_port;
    }
}

static uint32_t finish_connect(struct usher_socket *sock, struct usher_event *ret_ev) {
    int e = 0;
    socklen_t len = sizeof(e);
    getsockopt(sock->fd, SOL_SOCKET, SO_ERROR, &e, &len);
    sock->st->connecting = false;
    sock->st->open = e == 0;
    sock->st->eof = e != 0;
    read_ends(sock);
    client_kernel_interest(sock);
    *ret_ev = (struct usher_event){
        .type = e ? USHER_EV_ERROR : USHER_EV_CONNECTED, .error = e, .sock = sock, .msg = {.sock = sock}};
    return 1;
}

static uint32_t accept_one(struct usher_socket *listener, struct usher_event *ret_ev) {
    struct usher_context *ctx = listener->ctx;
    struct sockaddr_storage from;
    socklen_t len = sizeof(from);
    int fd = accept4(listener->fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return 0;
    struct usher_socket *sock = client_socket_new(true);
    if (!sock) {
        close(fd);
        return 0;
    }
    sock->ctx = ctx;
    sock->fd = fd;
    sock->v6 = listener->v6;
    client_socket_link(ctx, sock);
    client_socket_reason(sock, "it came by an interface that usherd does not run");
    sock->st->open = true;
    ctx->kernel_only++;
    read_ends(sock);
    *ret_ev = (struct usher_event){.type = USHER_EV_ACCEPT, .sock = listener, .msg = {.sock = sock}};
    (void)client_addr_from((struct sockaddr *)&from, len, &ret_ev->msg);
    client_addr_map(ret_ev->msg.family, ret_ev->msg.peer, sock->st->peer);
    sock->st->peer_port = ret_ev->msg.peer_port;
    if (client_kernel_watch(sock))
        client_socket_reason(sock, usher_strerror());
    return 1;
}

static uint32_t hang_up(struct usher_socket *sock, int error, struct usher_event *ret_ev) {
    sock->st->eof = true;
    client_kernel_interest(sock);
    *ret_ev = (struct usher_event){
        .type = error ? USHER_EV_ERROR : USHER_EV_HANGUP, .error = error, .sock = sock, .msg = {.sock = sock}};
    return 1;
}

static uint32_t read_one(struct usher_socket *sock, struct usher_event *ret_ev) {
    struct usher_context *ctx = sock->ctx;
    struct client_kbuf *b = client_kbuf_get(ctx, READ_MAX);
    if (!b)
        return 0;
    ssize_t n = recv(sock->fd, b + 1, READ_MAX, MSG_DONTWAIT);
    if (n <= 0) {
        int e = n < 0 ? errno : 0;
        client_kbuf_give(ctx, b + 1);
        return e == EAGAIN || e == EINTR ? 0 : hang_up(sock, e, ret_ev);
    }
    *ret_ev = (struct usher_event){.type = USHER_EV_RECV, .sock = sock};
    struct usher_msg *m = &ret_ev->msg;
    m->sock = sock;
    m->buf = (struct usher_buf){b + 1, (uint32_t)n, 0};
    m->len = (uint32_t)n;
    m->flags = USHER_RECV_KERNEL;
    m->rx_ns = (uint64_t)client_now();
    return 1;
}

uint32_t client_kstream_ready(struct usher_socket *sock, uint32_t events, struct usher_event *ret_events, uint32_t n) {
    struct client_stream *st = sock->st;
    uint32_t got = 0;
    if (n == 0)
        return 0;
    if (st->listening) {
        for (int i = 0; i < ACCEPT_BURST && got < n && accept_one(sock, &ret_events[got]); i++)
            got++;
        return got;
    }
    if (st->connecting)
        return events & (EPOLLOUT | EPOLLERR | EPOLLHUP) ? finish_connect(sock, ret_events) : 0;
    if (events & EPOLLOUT && sock->kernel_blocked && client_kstream_tail(sock)) {
        sock->kernel_blocked = false;
        client_kernel_interest(sock);
    }
    for (int i = 0; i < READ_BURST && got < n && !st->eof && !sock->muted; i++) {
        if (!read_one(sock, &ret_events[got]))
            break;
        got++;
    }
    return got;
}
