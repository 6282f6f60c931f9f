/* SPDX-License-Identifier: Apache-2.0
 *
 * Receiving on carried sockets: bytes are copied once, out of the RX region. A datagram socket's kernel half is asked
 * when the rings are empty, or have kept us busy for some microseconds. Under the lock, given while a call waits.
 */
#include <netinet/ip.h>
#include <time.h>

#include "clientlib/posix/posix.h"

struct reader {
    struct posix_sock *s;
    struct posix_iov *v;
    struct msghdr *h; /* the program's, for addresses and control messages */
    int flags;
    struct posix_wait w;
    bool waiting;
};

/* 0 = look again. */
static int block(struct reader *r, short kernel_events) {
    struct posix_sock *s = r->s;
    if (s->nonblock || r->flags & MSG_DONTWAIT)
        return -EAGAIN;
    if (!r->waiting)
        posix_wait_begin(&r->w, s->rcv_timeout_ns);
    r->waiting = true;
    int err = posix_wait_sock(&r->w, s, kernel_events);
    return err == -EINTR && s->rcv_timeout_ns < 0 && posix_signal_restarts() ? 0 : err;
}

/* ---- streams ---- */

static ssize_t take_bytes(struct reader *r) {
    struct posix_sock *s = r->s;
    ssize_t done = 0;
    for (struct posix_rx *rx = s->rx_head, *next; rx && posix_iov_left(r->v); rx = next) {
        next = rx->next;
        size_t left = rx->msg.len - rx->at, room = posix_iov_left(r->v), n = left < room ? left : room;
        bool ok = r->flags & MSG_TRUNC || posix_iov_put(r->v, (uint8_t *)rx->msg.buf.data + rx->at, n);
        if (!ok)
            return done ? done : -EFAULT;
        if (r->flags & MSG_TRUNC)
            r->v->total -= n;
        done += (ssize_t)n;
        if (r->flags & MSG_PEEK)
            continue;
        rx->at += (uint32_t)n;
        s->rx_bytes -= (uint32_t)n;
        if (rx->at == rx->msg.len)
            posix_rx_free(posix_rx_pop(s));
    }
    return done;
}

/* What ends a read before there is enough: 0 = nothing does, 1 = the end of the stream, or -errno. */
static int stream_end(struct posix_sock *s) {
    if (s->error)
        return -posix_sock_take_error(s);
    if (s->o.state == POSIX_LISTENING)
        return -ENOTCONN;
    return s->eof || s->shut_rd || s->o.state == POSIX_DEAD;
}

static ssize_t stream_recv(struct reader *r) {
    struct posix_sock *s = r->s;
    size_t want = posix_iov_left(r->v), least = r->flags & MSG_WAITALL ? want : s->rcvlowat > 1 ? s->rcvlowat : 1;
    least = least < want ? least : want;
    const struct posix_iov start = *r->v;
    ssize_t done = 0;
    if (r->flags & MSG_OOB)
        return s->o.state == POSIX_LISTENING ? -ENOTCONN : -EINVAL;
    if (r->flags & MSG_ERRQUEUE)
        return -EAGAIN;
    for (;;) {
        int err =
            s->o.state == POSIX_PARKED && !posix_share_take(s, true) && s->o.state == POSIX_PARKED ? block(r, 0) : 0;
        if (err)
            return done ? done : err;
        if (r->flags & MSG_PEEK) { /* all of it anew */
            *r->v = start;
            done = 0;
        }
        ssize_t n = s->rx_head ? take_bytes(r) : 0;
        if (n < 0)
            return done ? done : n;
        done += n;
        if ((done && (size_t)done >= least) || (s->rx_head && !want))
            return done;
        if (done && s->error)
            return done; /* the next call tells */
        int end = stream_end(s);
        if (end)
            return end < 0 ? end : done;
        if (posix_pump(false))
            continue;
        err = block(r, 0);
        if (err)
            return done ? done : err;
    }
}

/* ---- datagrams ---- */

static void *add_control(struct msghdr *h, size_t *used, int level, int type, size_t len) {
    if (*used + CMSG_SPACE(len) > h->msg_controllen) {
        h->msg_flags |= MSG_CTRUNC;
        return NULL;
    }
    struct cmsghdr *c = (struct cmsghdr *)((char *)h->msg_control + *used);
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    *used += CMSG_SPACE(len);
    return CMSG_DATA(c);
}

static void put_control(struct msghdr *h, size_t *used, int level, int type, const void *data, size_t len) {
    void *at = add_control(h, used, level, type, len);
    if (at)
        memcpy(at, data, len);
}

static void put_times(uint32_t wanted, struct msghdr *h, size_t *used, const struct usher_msg *m) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t age = client_now() - (int64_t)m->rx_ns;
    int64_t at = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec - (age > 0 ? age : 0);
    struct timespec ts = {at / 1000000000, at % 1000000000};
    struct timeval tv = {ts.tv_sec, ts.tv_nsec / 1000};
    if (wanted & CONTROL_TIMESTAMP)
        put_control(h, used, SOL_SOCKET, SO_TIMESTAMP, &tv, sizeof(tv));
    if (wanted & CONTROL_TIMESTAMPNS)
        put_control(h, used, SOL_SOCKET, SO_TIMESTAMPNS, &ts, sizeof(ts));
}

/* What the program has asked to be told of each datagram, as the kernel would tell it. */
static void fill_control(struct posix_sock *s, struct msghdr *h, const struct usher_msg *m) {
    size_t used = 0;
    int tos = m->tos;
    uint8_t tos8 = m->tos;
    if (s->control & (CONTROL_TIMESTAMP | CONTROL_TIMESTAMPNS))
        put_times(s->control, h, &used, m);
    if (s->control & CONTROL_PKTINFO && !s->v6) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_addr, m->local, 4);
        memcpy(&info.ipi_spec_dst, m->local, 4);
        put_control(h, &used, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
    }
    if (s->control & CONTROL_TOS && !s->v6)
        put_control(h, &used, IPPROTO_IP, IP_TOS, &tos8, sizeof(tos8));
    if (s->control & CONTROL_PKTINFO6 && s->v6) {
        struct in6_pktinfo info = {0};
        memcpy(&info.ipi6_addr, m->local, 16);
        put_control(h, &used, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
    }
    if (s->control & CONTROL_TCLASS && s->v6)
        put_control(h, &used, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
    h->msg_controllen = used;
}

/* One datagram of what was received; a coalesced buffer gives them one after the other. */
static ssize_t take_datagram(struct reader *r) {
    struct posix_sock *s = r->s;
    struct posix_rx *rx = s->rx_head;
    uint32_t left = rx->msg.len - rx->at;
    uint32_t len = rx->msg.gso_size && rx->msg.gso_size < left ? rx->msg.gso_size : left;
    size_t room = posix_iov_left(r->v), n = len < room ? len : room;
    if (!posix_iov_put(r->v, (uint8_t *)rx->msg.buf.data + rx->at, n))
        return -EFAULT;
    struct sockaddr_storage from;
    socklen_t from_len;
    client_addr_to(&rx->msg, s->v6, &from, &from_len);
    if (r->h->msg_name) {
        socklen_t name_room = r->h->msg_namelen;
        if (!posix_copy(r->h->msg_name, &from, name_room < from_len ? name_room : from_len))
            return -EFAULT;
        r->h->msg_namelen = from_len;
    }
    r->h->msg_flags = len > room ? MSG_TRUNC : 0;
    fill_control(s, r->h, &rx->msg);
    if (!(r->flags & MSG_PEEK)) {
        rx->at += len;
        s->rx_bytes -= len;
        if (rx->at == rx->msg.len)
            posix_rx_free(posix_rx_pop(s));
    }
    return r->flags & MSG_TRUNC ? (ssize_t)len : (ssize_t)n;
}

static ssize_t ask_kernel(struct reader *r) {
    ssize_t n = posix_real.recvmsg(r->s->fd, r->h, r->flags | MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static ssize_t dgram_recv(struct reader *r) {
    struct posix_sock *s = r->s;
    if (r->flags & (MSG_OOB | MSG_ERRQUEUE)) {
        ssize_t n = ask_kernel(r);
        return n;
    }
    bool waits = !s->nonblock && !(r->flags & MSG_DONTWAIT);
    for (;;) {
        if (s->rx_head && !posix_look_due(s, waits))
            return take_datagram(r);
        if (s->error)
            return -posix_sock_take_error(s);
        if (!s->rx_head && posix_pump(false))
            continue;
        ssize_t n = s->rx_head || posix_look_due(s, waits) ? ask_kernel(r) : -EAGAIN;
        if (n != -EAGAIN)
            return n;
        if (s->rx_head)
            return take_datagram(r);
        if (s->shut_rd)
            return 0;
        int err = block(r, POLLIN);
        if (err)
            return err;
        if (s->o.state != POSIX_DGRAM)
            return -CLIENT_BY_KERNEL;
    }
}

/* ---- the call ---- */

ssize_t posix_recvmsg(struct posix_sock *s, struct msghdr *h, int flags) {
    struct iovec iov[64], *many = NULL;
    struct posix_iov v;
    int fd = s->fd;
    if (h->msg_iovlen > 64 && h->msg_iovlen <= 1024)
        many = malloc(h->msg_iovlen * sizeof(*many));
    struct reader r = {.s = s, .v = &v, .h = h, .flags = flags};
    int err = posix_iov_init(&v, many ? many : iov, many ? h->msg_iovlen : 64, h->msg_iov, h->msg_iovlen);
    ssize_t n = err ? err : s->stream ? stream_recv(&r) : dgram_recv(&r);
    if (s->stream && n >= 0) {
        h->msg_namelen = 0;
        h->msg_controllen = 0;
        h->msg_flags = 0;
    }
    if (r.waiting)
        posix_wait_end(&r.w, n >= 0);
    posix_unlock();
    free(many);
    if (n == -CLIENT_BY_KERNEL)
        return posix_real.recvmsg(fd, h, flags);
    return n < 0 ? posix_errno((int)n) : n;
}
