/* SPDX-License-Identifier: Apache-2.0
 *
 * Sending and receiving. A stream's bytes wait in its part of the region until they are acknowledged, as a client's do.
 * See program.h.
 */
#include <errno.h>
#include <time.h>

#include <linux/errqueue.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include "engines/wire.h"
#include "test/packetdrill/program.h"

#ifndef TCP_CM_INQ
#define TCP_CM_INQ 36
#endif

size_t iov_bytes(const struct iovec *iov, size_t count) {
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        n += iov[i].iov_len;
    return n;
}

/* ---- sending ---- */

size_t program_room(const struct program *p, const struct fd *f) {
    (void)p;
    size_t limit = f->opt.sndbuf != 0 && f->opt.sndbuf < FD_REGION ? f->opt.sndbuf : FD_REGION;
    size_t used = f->tx_queued - f->tx_done;
    size_t room = used < limit ? limit - used : 0;
    uint32_t lowat = f->opt.notsent_lowat;
    struct tcp_conn_info info = {.unsent = 0};
    struct tcp_cmd_info ask = {.cmd = {TCP_CMD_INFO, sizeof ask}, .sock = f->sock, .info = &info};
    if (lowat == 0 || lowat > FD_REGION || f->state != STREAM_OPEN)
        return room;
    if (stack_command(p->stack, STACK_TCP, &ask).error == 0 && info.unsent >= lowat)
        return 0;
    return room;
}

/* The bytes from `skip` on, at most `n` of them, to the ring; in one piece or two. */
static void copy_in(const struct program *p, const struct fd *f, uint64_t at, const struct iovec *iov, size_t skip,
                    size_t n) {
    uint8_t *base = stack_region(p->stack) + (size_t)(f - p->fds) * FD_REGION;
    for (; n > 0; iov++) {
        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        size_t part = iov->iov_len - skip < n ? iov->iov_len - skip : n;
        for (size_t i = 0; i < part; i++, at++)
            base[at % FD_REGION] = ((const uint8_t *)iov->iov_base)[skip + i];
        n -= part;
        skip = 0;
    }
}

static void queue(struct program *p, struct fd *f, const struct iovec *iov, size_t skip, size_t n, int flags) {
    struct stack_send s = {.sock = f->sock, .sink = program_sink(p, f)};
    copy_in(p, f, f->tx_queued, iov, skip, n);
    while (n > 0 && !f->ended) {
        uint64_t at = f->tx_queued % FD_REGION;
        size_t piece = FD_REGION - at < n ? FD_REGION - at : n;
        s.offset = (uint32_t)((uint64_t)(f - p->fds) * FD_REGION + at);
        s.len = (uint32_t)piece;
        s.flags = (uint16_t)(flags & MSG_MORE || piece < n ? PKT_MORE : 0);
        s.flags |= (uint16_t)(flags & MSG_OOB && piece == n ? PKT_URGENT : 0);
        f->tx_queued += piece;
        n -= piece;
        stack_send_stream(p->stack, &s);
    }
}

static int may_send(struct fd *f) {
    if (f->kind != FD_STREAM)
        return -EDESTADDRREQ;
    if (f->error != 0) {
        int error = f->error;
        f->error = 0;
        return -error;
    }
    if (f->fin_queued || f->state == STREAM_ENDED || f->state == STREAM_NEW || f->state == STREAM_LISTENING)
        return -EPIPE;
    return f->state == STREAM_CONNECTING && !f->syn_waits ? -EAGAIN : 0;
}

static void note_zerocopy(struct fd *f, int flags) {
    if ((flags & MSG_ZEROCOPY) && program_option(f, SOL_SOCKET, SO_ZEROCOPY))
        f->zerocopy_end[f->zerocopy_next++ % ZEROCOPY_MAX] = f->tx_queued;
}

ssize_t program_send(struct program *p, int fd, const struct iovec *iov, size_t count, size_t skip, int flags) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    for (size_t i = 0; i < count; i++)
        if (iov[i].iov_base == NULL && iov[i].iov_len != 0)
            return -EFAULT;
    int error = may_send(f);
    size_t n = iov_bytes(iov, count) - skip, room;
    if (error < 0)
        return error;
    room = program_room(p, f);
    if (n == 0)
        return 0;
    if (room == 0) {
        f->wants_room = true;
        return -EAGAIN;
    }
    if (n > room) {
        f->wants_room = true;
        n = room;
    }
    f->syn_waits = false;
    queue(p, f, iov, skip, n, flags);
    note_zerocopy(f, flags);
    return (ssize_t)n;
}

ssize_t program_send_to(struct program *p, int fd, const struct iovec *iov, size_t count, const struct sockaddr *to,
                        socklen_t len) {
    struct fd *f = program_fd(p, fd);
    struct ipaddr a = {.d = {0, 0}};
    uint16_t port = 0;
    size_t n = iov_bytes(iov, count), at = 0;
    int error = to == NULL ? 0 : program_address(to, len, &a, &port);
    if (error < 0)
        return error;
    if (!f->bound && (to == NULL || (error = program_connect(p, fd, to, len, false)) != 0))
        return to == NULL ? -EDESTADDRREQ : error;
    uint8_t *data = malloc(n + 1);
    CHECK(data != NULL);
    for (size_t i = 0; i < count; at += iov[i++].iov_len)
        memcpy(data + at, iov[i].iov_base, iov[i].iov_len);
    const struct stack_send s = {
        .sock = f->sock, .sink = program_sink(p, f), .len = (uint32_t)n, .remote = a, .remote_port = port};
    error = stack_send_datagram(p->stack, &s, data);
    free(data);
    return error < 0 ? error : (ssize_t)n;
}

/* ---- receiving ---- */

static void control_add(struct msghdr *msg, size_t room, int level, int type, const void *data, size_t len) {
    size_t at = msg->msg_controllen;
    struct cmsghdr *c = (struct cmsghdr *)((uint8_t *)msg->msg_control + at);
    if (msg->msg_control == NULL || at + CMSG_SPACE(len) > room)
        return;
    c->cmsg_level = level;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(len);
    memcpy(CMSG_DATA(c), data, len);
    msg->msg_controllen = at + CMSG_SPACE(len);
}

/* What was sent without a copy and is acknowledged: consecutive sends are reported together. */
static ssize_t recv_completions(struct fd *f, struct msghdr *msg, size_t room) {
    uint32_t first = f->zerocopy_told;
    while (f->zerocopy_told != f->zerocopy_next && f->zerocopy_end[f->zerocopy_told % ZEROCOPY_MAX] <= f->tx_done)
        f->zerocopy_told++;
    msg->msg_flags = MSG_ERRQUEUE;
    if (first == f->zerocopy_told)
        return -EAGAIN;
    struct sock_extended_err e = {
        .ee_origin = SO_EE_ORIGIN_ZEROCOPY, .ee_info = first, .ee_data = f->zerocopy_told - 1};
    if (f->family == AF_INET)
        control_add(msg, room, SOL_IP, IP_RECVERR, &e, sizeof e);
    else
        control_add(msg, room, SOL_IPV6, IPV6_RECVERR, &e, sizeof e);
    return 0;
}

static ssize_t scatter(struct fd *f, const struct msghdr *msg, size_t most, bool peek) {
    size_t got = 0;
    size_t was = f->rx.from;
    for (size_t i = 0; i < msg->msg_iovlen && got < most; i++) {
        size_t n = msg->msg_iov[i].iov_len < most - got ? msg->msg_iov[i].iov_len : most - got;
        got += bytes_take(&f->rx, msg->msg_iov[i].iov_base, n, false);
    }
    if (peek)
        f->rx.from = was;
    return (ssize_t)got;
}

static ssize_t recv_datagram(struct fd *f, struct msghdr *msg) {
    uint32_t len;
    struct flow from;
    if (bytes_count(&f->rx) == 0)
        return -EAGAIN;
    (void)bytes_take(&f->rx, &len, sizeof len, false);
    (void)bytes_take(&f->rx, &from, sizeof from, false);
    program_name(&from.remote, from.remote_port, f->family, msg->msg_name, &msg->msg_namelen);
    ssize_t got = scatter(f, msg, len, false);
    (void)bytes_take(&f->rx, NULL, len - (size_t)got, false);
    return got;
}

static int end_of_stream(struct fd *f) {
    if (f->error != 0) {
        int error = f->error;
        f->error = 0;
        return -error;
    }
    return f->hung_up || f->shut_rd || f->state == STREAM_ENDED ? 0 : -EAGAIN;
}

/* The urgent byte, out of line; it stays in line as well when the program asked for that. */
static ssize_t recv_urgent(struct fd *f, struct msghdr *msg) {
    uint64_t at = f->rx_base + bytes_count(&f->rx);
    if (!f->urgent_known || f->urgent_end == 0 || program_option(f, SOL_SOCKET, SO_OOBINLINE))
        return -EINVAL;
    if (f->urgent_end > at)
        return -EAGAIN;
    f->urgent_known = false;
    uint8_t byte = f->urgent_byte; /* a read has passed it, or it still waits in line */
    if (f->urgent_end - 1 >= f->rx_base)
        byte = f->rx.v[f->rx.from + (f->urgent_end - 1 - f->rx_base)];
    if (msg->msg_iovlen == 0 || msg->msg_iov[0].iov_len == 0)
        return 0;
    *(uint8_t *)msg->msg_iov[0].iov_base = byte;
    msg->msg_flags |= MSG_OOB;
    return 1;
}

static void credit(struct program *p, struct fd *f, size_t n) {
    const struct engine_credit c = {.sink = program_sink(p, f), .sock = f->sock, .bytes = (uint32_t)n};
    f->rx_base += n;
    if (!f->ended)
        stack_credit(p->stack, &c);
}

/* A read stops in front of the urgent byte, and the next one begins behind it. */
static size_t up_to_mark(struct program *p, struct fd *f) {
    if (f->urgent_end == 0 || program_option(f, SOL_SOCKET, SO_OOBINLINE) || f->urgent_end <= f->rx_base)
        return SIZE_MAX;
    size_t before = f->urgent_end - 1 - f->rx_base;
    if (before != 0 || bytes_count(&f->rx) == 0)
        return before != 0 ? before : SIZE_MAX;
    if (f->urgent_known)
        f->urgent_byte = f->rx.v[f->rx.from];
    (void)bytes_take(&f->rx, NULL, 1, false);
    credit(p, f, 1);
    return SIZE_MAX;
}

ssize_t program_recv(struct program *p, int fd, struct msghdr *msg, int flags) {
    struct fd *f = program_fd(p, fd);
    size_t control_room = msg->msg_controllen;
    if (f == NULL)
        return -EBADF;
    msg->msg_controllen = 0;
    msg->msg_flags = 0;
    if (flags & MSG_ERRQUEUE)
        return recv_completions(f, msg, control_room);
    if (f->kind == FD_DATAGRAM)
        return recv_datagram(f, msg);
    if (f->kind == FD_PIPE)
        return bytes_count(&f->rx) != 0 ? scatter(f, msg, SIZE_MAX, false) : -EAGAIN;
    if (f->state == STREAM_NEW || f->state == STREAM_LISTENING)
        return -ENOTCONN;
    if (flags & MSG_OOB)
        return recv_urgent(f, msg);
    for (size_t i = 0; i < msg->msg_iovlen; i++)
        if (msg->msg_iov[i].iov_base == NULL && msg->msg_iov[i].iov_len != 0 && bytes_count(&f->rx) != 0)
            return -EFAULT;
    size_t most = up_to_mark(p, f);
    ssize_t got = bytes_count(&f->rx) != 0 ? scatter(f, msg, most, flags & MSG_PEEK) : end_of_stream(f);
    if (got > 0 && !(flags & MSG_PEEK))
        credit(p, f, (size_t)got);
    int left = (int)bytes_count(&f->rx);
    left += left == 0 && f->hung_up; /* the end of the stream counts as one */
    if (got >= 0 && program_option(f, SOL_TCP, TCP_INQ))
        control_add(msg, control_room, SOL_TCP, TCP_CM_INQ, &left, sizeof left);
    return got;
}
