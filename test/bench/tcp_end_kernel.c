/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's way: sockets on loopback. Many connections: epoll, then one recv() for each that is ready. A single one:
 * recv() alone, polling or asleep in it. connect() on loopback is done when it returns, so it is called plainly.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/bench/tcp_end.h"

#define BACKLOG 4096

static struct sockaddr_in loopback(uint16_t port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int watch(struct tcp_end *e, struct tcp_conn *c, uint32_t events) {
    struct epoll_event ev = {.events = events, .data.ptr = c};
    return epoll_ctl(e->epoll, EPOLL_CTL_ADD, c->fd, &ev);
}

static int stream_socket(struct tcp_conn *c, int flags) {
    const int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    return c->fd < 0 || setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0 ||
                   setsockopt(c->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
                   setsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5) != 0
               ? -1
               : 0;
}

static int kernel_open(struct tcp_end *e) {
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    return e->epoll < 0 ? tcp_end_fail(e, "epoll", errno) : 0;
}

static void kernel_fini(struct tcp_end *e) {
    (void)close(e->epoll); /* its sockets go with the process */
}

static int kernel_listen(struct tcp_end *e, struct tcp_conn *c) {
    struct sockaddr_in sa = loopback(c->port);
    if (stream_socket(c, SOCK_NONBLOCK) != 0 || bind(c->fd, (struct sockaddr *)&sa, sizeof(sa)) != 0 ||
        listen(c->fd, BACKLOG) != 0 || watch(e, c, EPOLLIN) != 0)
        return tcp_end_fail(e, "cannot listen", errno);
    return 0;
}

static int kernel_connect(struct tcp_end *e, struct tcp_conn *c) {
    struct sockaddr_in sa = loopback(c->port);
    if (stream_socket(c, 0) != 0 || connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)) != 0 ||
        watch(e, c, EPOLLIN | EPOLLOUT | EPOLLET) != 0)
        return tcp_end_fail(e, "cannot connect", errno);
    e->on(e, c, TCP_UP, NULL, 0);
    return 0;
}

static void accept_all(struct tcp_end *e, const struct tcp_conn *listener) {
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        struct tcp_conn *c = tcp_conn_new(e);
        if (c == NULL) {
            (void)close(fd);
            return;
        }
        c->fd = fd;
        c->port = listener->port;
        if (watch(e, c, EPOLLIN) != 0)
            (void)tcp_end_fail(e, "epoll", errno);
        e->on(e, c, TCP_UP, NULL, 0);
    }
}

/* As long as the buffer was full there may be more. */
static void receive(struct tcp_end *e, struct tcp_conn *c, int flags) {
    ssize_t n = recv(c->fd, e->buf, 4 * TCP_END_CHUNK, flags);
    if (n > 0)
        e->on(e, c, TCP_DATA, e->buf, (uint32_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        e->on(e, c, TCP_GONE, NULL, 0);
}

static void ready(struct tcp_end *e, struct tcp_conn *c, uint32_t events) {
    if (c->closing)
        return;
    if (c->listens) {
        accept_all(e, c);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(e, c, MSG_DONTWAIT);
    if ((events & EPOLLOUT) && !c->closing)
        e->on(e, c, TCP_ROOM, NULL, 0);
}

static int kernel_turn(struct tcp_end *e, bool wait) {
    struct epoll_event ev[TCP_END_BATCH];
    if (e->solo != NULL) {
        receive(e, e->solo, wait && !e->spin ? 0 : MSG_DONTWAIT);
        return 0;
    }
    int n = epoll_wait(e->epoll, ev, TCP_END_BATCH, wait && !e->spin ? 1000 : 0);
    for (int i = 0; i < n; i++)
        ready(e, ev[i].data.ptr, ev[i].events);
    return 0;
}

static int kernel_send(struct tcp_end *e, struct tcp_conn *c, uint32_t len) {
    ssize_t n = send(c->fd, e->buf, len, MSG_NOSIGNAL);
    return n == (ssize_t)len ? 0 : tcp_end_fail(e, "cannot send", errno);
}

static int kernel_flush(struct tcp_end *e) {
    (void)e;
    return 0;
}

static int kernel_push(struct tcp_end *e, struct tcp_conn *c) {
    ssize_t n = send(c->fd, e->buf, TCP_END_CHUNK, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN)
        return tcp_end_fail(e, "cannot send", errno);
    return n > 0;
}

static void kernel_close(struct tcp_end *e, struct tcp_conn *c) {
    (void)e;
    (void)close(c->fd);
}

const struct tcp_end_ops tcp_end_kernel = {
    .open = kernel_open,
    .fini = kernel_fini,
    .listen = kernel_listen,
    .connect = kernel_connect,
    .turn = kernel_turn,
    .send = kernel_send,
    .flush = kernel_flush,
    .push = kernel_push,
    .close = kernel_close,
};
