/* SPDX-License-Identifier: Apache-2.0
 *
 * Sending on carried sockets. Bytes are copied once, into the TX region, where the engine reads them. Under the lock,
 * given while a blocking call waits.
 */
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <pthread.h>

#include "clientlib/posix/posix.h"

#define CHUNK    (16u << 10) /* of a stream: what one ring entry carries */
#define IOV_MAX_ 1024

/* Remembers who waits for buffers; a socket out of credit is remembered by libusher. */
static void starve(struct posix_sock *s) {
    s->full = true;
    if (s->starved)
        return;
    s->starved = true;
    s->next_starved = posix.starved;
    posix.starved = s;
}

static int refused(struct posix_sock *s, int err) {
    if (err == -ENOBUFS)
        starve(s);
    else if (err == -EAGAIN)
        s->full = true;
    return err == -ENOBUFS ? -EAGAIN : err;
}

/* The next bytes: how many went, or -errno. */
static ssize_t stream_chunk(struct posix_sock *s, struct posix_iov *v, int flags) {
    size_t left = posix_iov_left(v);
    uint32_t len = left < CHUNK ? (uint32_t)left : CHUNK;
    struct usher_msg m = {.sock = s->us, .len = len};
    int err = usher_tx_alloc(s->us->ctx, len, &m.buf);
    if (UNLIKELY(err))
        return refused(s, err);
    struct posix_iov before = *v;
    if (UNLIKELY(!posix_iov_get(v, m.buf.data, len))) {
        usher_tx_free(s->us->ctx, &m.buf);
        return -EFAULT;
    }
    m.flags = (flags & MSG_MORE) || len < left ? USHER_MORE : 0;
    if (UNLIKELY(flags & MSG_OOB) && len == left)
        m.flags |= USHER_URGENT;
    err = usher_send(s->us->ctx, &m, 1);
    if (LIKELY(err == 1))
        return (ssize_t)len;
    usher_tx_free(s->us->ctx, &m.buf);
    *v = before;
    return refused(s, err);
}

static int stream_state(struct posix_sock *s) {
    if (s->error)
        return -posix_sock_take_error(s);
    if (s->o.state == POSIX_LISTENING)
        return -EPIPE;
    if (UNLIKELY(s->o.state == POSIX_PARKED) && !posix_share_take(s, true) && s->o.state == POSIX_PARKED)
        return -EAGAIN;
    if (UNLIKELY(s->us && s->us->st->parking))
        return -EAGAIN;
    if (s->o.state == POSIX_DEAD || s->shut_wr)
        return -EPIPE;
    return s->o.state == POSIX_CONNECTING ? -EAGAIN : 0;
}

static ssize_t stream_send(struct posix_sock *s, struct posix_iov *v, int flags) {
    bool wait = !s->nonblock && !(flags & MSG_DONTWAIT);
    ssize_t done = 0, n = 0;
    struct posix_wait w = {0};
    bool waiting = false;
    do {
        n = stream_state(s);
        if (n == 0 && posix_iov_left(v))
            n = stream_chunk(s, v, flags);
        if (n > 0)
            done += n;
        if (n != -EAGAIN)
            continue;
        if (posix_pump(false) && !s->full)
            continue;
        if (!wait)
            break;
        if (!waiting)
            posix_wait_begin(&w, s->snd_timeout_ns);
        waiting = true;
        int err = posix_wait_sock(&w, s, 0);
        if (err == -EINTR && s->snd_timeout_ns < 0 && posix_signal_restarts())
            err = 0;
        n = err ? err : -EAGAIN;
        if (err)
            break;
    } while ((n > 0 || n == -EAGAIN) && (posix_iov_left(v) || s->o.state == POSIX_CONNECTING || n == -EAGAIN));
    if (waiting)
        posix_wait_end(&w, n >= 0);
    return done ? done : n;
}

/* ---- datagrams ---- */

/* What a control message asks for goes into the message; false: the kernel has to do it. */
static bool take_control(struct usher_msg *um, const struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c)) {
        if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_SEGMENT)
            memcpy(&um->gso_size, CMSG_DATA(c), sizeof(um->gso_size));
        else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS)
            um->tos = *CMSG_DATA(c);
        else
            return false;
    }
    return true;
}

static ssize_t dgram_try(struct posix_sock *s, struct posix_iov *v, const struct usher_msg *head) {
    struct usher_msg m = *head;
    size_t len = posix_iov_left(v);
    m.sock = s->us;
    m.len = (uint32_t)len;
    int err = usher_tx_alloc(s->us->ctx, m.len, &m.buf);
    if (UNLIKELY(err))
        return refused(s, err);
    struct posix_iov before = *v;
    if (UNLIKELY(!posix_iov_get(v, m.buf.data, len))) {
        usher_tx_free(s->us->ctx, &m.buf);
        return -EFAULT;
    }
    err = usher_send(s->us->ctx, &m, 1);
    if (LIKELY(err == 1))
        return (ssize_t)len;
    usher_tx_free(s->us->ctx, &m.buf);
    *v = before;
    return refused(s, err);
}

static ssize_t dgram_send(struct posix_sock *s, struct posix_iov *v, const struct msghdr *h, int flags) {
    struct usher_msg m = {0};
    struct sockaddr_storage to;
    if (h->msg_name) {
        socklen_t len = h->msg_namelen < sizeof(to) ? h->msg_namelen : sizeof(to);
        if (!posix_copy(&to, h->msg_name, len))
            return -EFAULT;
        int err = client_addr_from((struct sockaddr *)&to, len, &m);
        if (err || !m.peer_port || (m.family == AF_INET6 && !s->v6))
            return -CLIENT_BY_KERNEL;
    }
    if (!h->msg_name && !s->us->connected)
        return s->error ? -posix_sock_take_error(s) : -EDESTADDRREQ;
    if ((h->msg_controllen && !take_control(&m, h)) || flags & ~(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_CONFIRM))
        return -CLIENT_BY_KERNEL;
    if (posix_iov_left(v) > CLIENT_DATAGRAM_MAX)
        return -EMSGSIZE;
    if (s->error)
        return -posix_sock_take_error(s);
    struct posix_wait w;
    posix_wait_begin(&w, s->snd_timeout_ns);
    bool wait = !s->nonblock && !(flags & MSG_DONTWAIT);
    ssize_t n;
    int err = 0;
    while ((n = dgram_try(s, v, &m)) == -EAGAIN && err == 0) {
        if (posix_pump(false) && !s->full)
            continue;
        if (!wait)
            break;
        err = posix_wait_sock(&w, s, 0);
        if (err == -EINTR && s->snd_timeout_ns < 0 && posix_signal_restarts())
            err = 0;
        if (s->o.state != POSIX_DGRAM)
            return -CLIENT_BY_KERNEL;
    }
    posix_wait_end(&w, n >= 0);
    return n == -EAGAIN && err ? err : n;
}

/* ---- the call ---- */

static ssize_t give(ssize_t n, bool pipe_signal) {
    posix_unlock();
    if (n == -EPIPE && pipe_signal)
        pthread_kill(pthread_self(), SIGPIPE);
    return n < 0 ? posix_errno((int)n) : n;
}

ssize_t posix_sendmsg(struct posix_sock *s, const struct msghdr *h, int flags) {
    struct iovec iov[IOV_MAX_ < 64 ? IOV_MAX_ : 64], *many = NULL;
    struct posix_iov v;
    int fd = s->fd;
    if (h->msg_iovlen > 64 && h->msg_iovlen <= IOV_MAX_)
        many = malloc(h->msg_iovlen * sizeof(*many));
    int err = posix_iov_init(&v, many ? many : iov, many ? h->msg_iovlen : 64, h->msg_iov, h->msg_iovlen);
    ssize_t n = err ? err : s->stream ? stream_send(s, &v, flags) : dgram_send(s, &v, h, flags);
    free(many);
    if (n != -CLIENT_BY_KERNEL)
        return give(n, s->stream && !(flags & MSG_NOSIGNAL));
    posix.kernel_sends++;
    posix_unlock();
    return posix_real.sendmsg(fd, h, flags);
}
