/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's half of every socket: what arrives where Usher is not attached, and all of a socket that is not
 * accelerated. One epoll set holds these sockets and the session's own fds. Under the context's lock; system calls
 * here, so nothing of it on a fast path.
 */
#include <netinet/udp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clientlib/src/internal.h"
#include "clientlib/src/tags.h"

#define KBUF_SMALL 2048u
#define KBUF_CACHE 256u
#define LOOK_MAX   16
#define RECV_BURST 32

/* ---- buffers of received datagrams ---- */

struct client_kbuf *client_kbuf_get(struct usher_context *ctx, uint64_t room) {
    struct client_kbuf *b = room <= KBUF_SMALL ? ctx->kbuf_free : NULL;
    if (b) {
        ctx->kbuf_free = b->next;
        ctx->kbuf_cached--;
    } else {
        uint64_t size = room < KBUF_SMALL ? KBUF_SMALL : (room + 63) & ~UINT64_C(63);
        b = aligned_alloc(64, sizeof(*b) + size);
        if (!b)
            return NULL;
        b->room = size;
    }
    b->next = ctx->kbuf_lent;
    b->prev_next = &ctx->kbuf_lent;
    if (b->next)
        b->next->prev_next = &b->next;
    ctx->kbuf_lent = b;
    return b;
}

static void kbuf_put(struct usher_context *ctx, struct client_kbuf *b) {
    *b->prev_next = b->next;
    if (b->next)
        b->next->prev_next = b->prev_next;
    if (b->room != KBUF_SMALL || ctx->kbuf_cached == KBUF_CACHE) {
        free(b);
        return;
    }
    b->next = ctx->kbuf_free;
    ctx->kbuf_free = b;
    ctx->kbuf_cached++;
}

void client_kbuf_give(struct usher_context *ctx, void *data) {
    kbuf_put(ctx, (struct client_kbuf *)data - 1);
}

static void kbuf_free_list(struct client_kbuf *b) {
    while (b) {
        struct client_kbuf *next = b->next;
        free(b);
        b = next;
    }
}

void client_kbuf_fini(struct usher_context *ctx) {
    kbuf_free_list(ctx->kbuf_free);
    kbuf_free_list(ctx->kbuf_lent);
    ctx->kbuf_free = ctx->kbuf_lent = NULL;
}

/* ---- receiving ---- */

static void read_control(struct usher_msg *m, struct msghdr *h) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            memcpy(m->local, &info.ipi_addr, 4);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            memcpy(m->local, &info.ipi6_addr, 16);
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            m->tos = *CMSG_DATA(c);
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
            int tclass;
            memcpy(&tclass, CMSG_DATA(c), sizeof(tclass));
            m->tos = (uint8_t)tclass;
        }
    }
    if ((m->tos & 3) == 3)
        m->flags |= USHER_RECV_CE;
}

ssize_t client_kernel_recv_into(struct usher_socket *sock, struct iovec *iov, int iov_count,
                                struct usher_event *ret_ev) {
    struct sockaddr_storage from;
    union {
        struct cmsghdr h;
        char space[256];
    } control;
    struct msghdr h = {.msg_name = &from,
                       .msg_namelen = sizeof(from),
                       .msg_iov = iov,
                       .msg_iovlen = (size_t)iov_count,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(sock->fd, &h, MSG_DONTWAIT);
    if (n < 0)
        return -errno;
    *ret_ev = (struct usher_event){.type = USHER_EV_RECV, .sock = sock};
    struct usher_msg *m = &ret_ev->msg;
    m->sock = sock;
    m->len = (uint32_t)n;
    m->flags = USHER_RECV_KERNEL | (h.msg_flags & MSG_TRUNC ? (uint32_t)USHER_RECV_TRUNC : 0);
    m->rx_ns = (uint64_t)client_now();
    if (sock->frames) {
        client_frames_from(&from, h.msg_namelen, m);
        return n;
    }
    if (client_addr_from((struct sockaddr *)&from, h.msg_namelen, m))
        m->family = sock->v6 ? AF_INET6 : AF_INET;
    read_control(m, &h);
    bool here = memcmp(m->peer, m->local, 16) == 0 || client_msg_from_loopback(m);
    if (sock->set) /* of this host's own addresses, other ports may be Usher's */
        client_peer_by_kernel(sock->ctx, m->family, m->peer, here ? m->peer_port : 0);
    return n;
}

/* Most datagrams fit the small buffer and are received in place; the rest of a large one lands in the scratch page and
 * is copied once its size is known. */
ssize_t client_kernel_recv(struct usher_socket *sock, struct usher_event *ret_ev) {
    struct usher_context *ctx = sock->ctx;
    if (!ctx->scratch && !(ctx->scratch = malloc(1 << 16)))
        return -ENOMEM;
    struct client_kbuf *b = client_kbuf_get(ctx, KBUF_SMALL);
    if (!b)
        return -ENOMEM;
    struct iovec iov[2] = {{b + 1, KBUF_SMALL}, {ctx->scratch, 1 << 16}};
    ssize_t n = client_kernel_recv_into(sock, iov, 2, ret_ev);
    if (n > (ssize_t)KBUF_SMALL) {
        struct client_kbuf *large = client_kbuf_get(ctx, (uint64_t)n);
        if (large) {
            memcpy(large + 1, b + 1, KBUF_SMALL);
            memcpy((uint8_t *)(large + 1) + KBUF_SMALL, ctx->scratch, (size_t)n - KBUF_SMALL);
            kbuf_put(ctx, b);
            b = large;
        } else {
            n = -ENOMEM;
        }
    }
    if (n < 0) {
        kbuf_put(ctx, b);
        return n;
    }
    ret_ev->msg.buf = (struct usher_buf){b + 1, (uint32_t)n, 0};
    return n;
}

/* ---- sending ---- */

static void *add_control(struct msghdr *h, int level, int type, size_t len) {
    struct cmsghdr *c = (struct cmsghdr *)((char *)h->msg_control + h->msg_controllen);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    h->msg_controllen += CMSG_SPACE(len);
    return CMSG_DATA(c);
}

static void write_control(struct msghdr *h, const struct usher_socket *sock, const struct usher_msg *m) {
    static const uint8_t none[16];
    if (m->gso_size)
        memcpy(add_control(h, IPPROTO_UDP, UDP_SEGMENT, sizeof(uint16_t)), &m->gso_size, sizeof(uint16_t));
    if (m->tos) {
        const int tos = m->tos;
        memcpy(add_control(h, sock->v6 ? IPPROTO_IPV6 : IPPROTO_IP, sock->v6 ? IPV6_TCLASS : IP_TOS, sizeof(tos)), &tos,
               sizeof(tos));
    }
    if (!sock->wildcard || !m->family || memcmp(m->local, none, 16) == 0)
        return;
    if (sock->v6) {
        struct in6_pktinfo info = {0};
        memcpy(&info.ipi6_addr, m->local, 16);
        memcpy(add_control(h, IPPROTO_IPV6, IPV6_PKTINFO, sizeof(info)), &info, sizeof(info));
    } else {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, m->local, 4);
        memcpy(add_control(h, IPPROTO_IP, IP_PKTINFO, sizeof(info)), &info, sizeof(info));
    }
}

int client_kernel_transmit(const struct usher_socket *sock, const struct usher_msg *msg, const void *data) {
    struct sockaddr_storage to;
    union {
        struct cmsghdr h;
        char space[160];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)data, msg->len};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};
    if (msg->family) {
        client_addr_to(msg, sock->v6, &to, &h.msg_namelen);
        h.msg_name = &to;
    }
    write_control(&h, sock, msg);
    if (!h.msg_controllen)
        h.msg_control = NULL;
    return sendmsg(sock->fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ? 0 : -errno;
}

int client_kernel_send(struct usher_socket *sock, const struct usher_msg *msg, const void *data) {
    int err = client_kernel_transmit(sock, msg, data);
    if (err == 0)
        return 0;
    if (err != -EAGAIN && err != -ENOBUFS)
        return client_fail(err, "sending over the kernel socket: %s", strerror(-err));
    client_block_socket(sock);
    sock->kernel_blocked = true;
    client_kernel_interest(sock);
    return client_fail_fast(-EAGAIN, "the kernel socket's send buffer is full: wait for USHER_EV_WRITABLE");
}

/* ---- the epoll set ---- */

static uint32_t interest(const struct usher_socket *sock) {
    bool out = sock->kernel_blocked || (sock->st && sock->st->connecting);
    bool in = !sock->muted && !(sock->st && sock->st->eof);
    return (in ? EPOLLIN : 0) | (out ? EPOLLOUT : 0);
}

int client_kernel_watch(struct usher_socket *sock) {
    if (sock->watched || sock->borrowed)
        return 0;
    struct epoll_event ev = {.events = interest(sock), .data.ptr = sock};
    if (epoll_ctl(sock->ctx->epoll_fd, EPOLL_CTL_ADD, sock->fd, &ev) < 0)
        return client_fail(-errno, "watching the kernel socket: %s; raise fs.epoll.max_user_watches", strerror(errno));
    sock->watched = true;
    return 0;
}

void client_kernel_interest(struct usher_socket *sock) {
    struct epoll_event ev = {.events = interest(sock), .data.ptr = sock};
    if (sock->watched)
        epoll_ctl(sock->ctx->epoll_fd, EPOLL_CTL_MOD, sock->fd, &ev);
}

void client_drain_wake(struct usher_context *ctx) {
    char byte;
    /* There is one for each nap; should there be more, the fd stays readable. */
    ctx->wake_taken = false;
    ssize_t n = read(ctx->wake_fd, &byte, sizeof(byte)); /* it does not block; and some programs may only read */
    (void)n;
}

static void drain_timer(struct usher_context *ctx) {
    uint64_t count;
    ssize_t n = read(ctx->timer_fd, &count, sizeof(count));
    (void)n;
    ctx->timer_on = false;
}

static uint32_t take_error(struct usher_socket *sock, struct usher_event *ret_ev) {
    int e = 0;
    socklen_t len = sizeof(e);
    if (getsockopt(sock->fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0 || e == 0)
        return 0;
    *ret_ev = (struct usher_event){.type = USHER_EV_ERROR, .error = e, .sock = sock};
    return 1;
}

static uint32_t socket_ready(struct usher_socket *sock, uint32_t events, struct usher_event *ret_events, uint32_t n) {
    uint32_t got = 0;
    if (sock->st)
        return client_kstream_ready(sock, events, ret_events, n);
    if (events & EPOLLOUT && sock->kernel_blocked) {
        sock->kernel_blocked = false;
        client_kernel_interest(sock);
    }
    if (events & EPOLLERR && n)
        got += take_error(sock, ret_events);
    for (int i = 0; i < RECV_BURST && events & EPOLLIN && got < n && !sock->muted; i++) {
        ssize_t len = client_kernel_recv(sock, &ret_events[got]);
        if (len == -EAGAIN || len == -EINTR || len == -ENOMEM)
            break;
        if (len < 0)
            ret_events[got] = (struct usher_event){.type = USHER_EV_ERROR, .error = (int)-len, .sock = sock};
        got++;
    }
    return got;
}

uint32_t client_look(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n) {
    struct epoll_event ready[LOOK_MAX];
    uint32_t got = 0;
    if (UNLIKELY(ctx->away)) {
        client_comeback_look(ctx);
        got = client_take_parked(ctx, ret_events, n); /* what had come before: no ring tells of it any more */
    }
    int count = epoll_wait(ctx->epoll_fd, ready, LOOK_MAX, 0);
    for (int i = 0; i < count; i++) {
        uint64_t tag = ready[i].data.u64;
        if (tag >= TAG_COUNT)
            got += socket_ready(ready[i].data.ptr, ready[i].events, ret_events + got, n - got);
        else if (tag == TAG_SESSION)
            client_session_news(ctx);
        else if (ctx->asleep)
            continue; /* taken from under a sleeping leader, its wake-up would be lost */
        else if (tag == TAG_WAKE)
            client_drain_wake(ctx);
        else
            drain_timer(ctx);
    }
    return got;
}
