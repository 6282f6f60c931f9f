/* SPDX-License-Identifier: Apache-2.0
 *
 * Every way to send and receive, brought to sendmsg and recvmsg. A call on an fd that is not ours costs one load.
 */
#include <unistd.h>

#include "clientlib/posix/posix.h"

static ssize_t send_one(struct posix_sock *s, const void *data, size_t len, int flags, const struct sockaddr *to,
                        socklen_t to_len) {
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_name = (void *)(uintptr_t)to, .msg_namelen = to_len};
    return posix_sendmsg(s, &h, flags);
}

/* True: a packet socket's frame, and it went through usherd, or failed there. */
static bool frame_one(int fd, const void *data, size_t len, int flags, const struct sockaddr *to, socklen_t to_len,
                      ssize_t *ret_n) {
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_name = (void *)(uintptr_t)to, .msg_namelen = to_len};
    return posix_is_frames(fd) && posix_frames_sendmsg(fd, &h, flags, ret_n);
}

/* A datagram socket that sends is decided now, unless this goes by the loopback. */
static struct posix_sock *enter_sender(int fd) {
    struct posix_sock *s = posix_enter(fd);
    if (LIKELY(!s || s->o.state != POSIX_FRESH))
        return s;
    if (!s->stream && posix_sock_decide(s, true))
        return s;
    posix_unlock();
    return NULL;
}

ssize_t POSIX_CALL write(int fd, const void *data, size_t len) {
    struct posix_sock *s = enter_sender(fd);
    ssize_t n;
    if (LIKELY(!s))
        return frame_one(fd, data, len, 0, NULL, 0, &n) ? n : posix_real.write(fd, data, len);
    return send_one(s, data, len, 0, NULL, 0);
}

ssize_t POSIX_CALL send(int fd, const void *data, size_t len, int flags) {
    struct posix_sock *s = enter_sender(fd);
    ssize_t n;
    if (LIKELY(!s))
        return frame_one(fd, data, len, flags, NULL, 0, &n) ? n : posix_real.send(fd, data, len, flags);
    return send_one(s, data, len, flags, NULL, 0);
}

ssize_t POSIX_CALL sendto(int fd, const void *data, size_t len, int flags, const struct sockaddr *to,
                          socklen_t to_len) {
    struct posix_sock *s = enter_sender(fd);
    ssize_t n;
    if (LIKELY(!s))
        return frame_one(fd, data, len, flags, to, to_len, &n) ? n
                                                               : posix_real.sendto(fd, data, len, flags, to, to_len);
    return send_one(s, data, len, flags, to, to_len);
}

ssize_t POSIX_CALL writev(int fd, const struct iovec *iov, int n) {
    struct posix_sock *s = enter_sender(fd);
    struct msghdr h = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    ssize_t sent;
    if (LIKELY(!s)) {
        bool frame = n >= 0 && posix_is_frames(fd) && posix_frames_sendmsg(fd, &h, 0, &sent);
        return frame ? sent : posix_real.writev(fd, iov, n);
    }
    if (n < 0 || n > 1024) {
        posix_unlock();
        return posix_errno(-EINVAL);
    }
    return posix_sendmsg(s, &h, 0);
}

ssize_t POSIX_CALL sendmsg(int fd, const struct msghdr *msg, int flags) {
    struct posix_sock *s = enter_sender(fd);
    struct msghdr h;
    ssize_t n;
    if (LIKELY(!s)) {
        if (posix_is_frames(fd) && posix_copy(&h, msg, sizeof(h)) && posix_frames_sendmsg(fd, &h, flags, &n))
            return n;
        if (UNLIKELY(posix.objects && posix_copy(&h, msg, sizeof(h)) && h.msg_controllen >= CMSG_LEN(sizeof(int))))
            posix_share_message(&h);
        return posix_real.sendmsg(fd, msg, flags);
    }
    if (!posix_copy(&h, msg, sizeof(h))) {
        posix_unlock();
        return posix_errno(-EFAULT);
    }
    return posix_sendmsg(s, &h, flags);
}

int POSIX_CALL sendmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags) {
    if (LIKELY(!posix_object(fd)))
        return posix_real.sendmmsg(fd, msgs, n, flags);
    unsigned int i = 0;
    for (; i < n && i < 1024; i++) {
        ssize_t sent = sendmsg(fd, &msgs[i].msg_hdr, flags);
        unsigned int len = (unsigned int)sent;
        if (sent < 0)
            return i ? (int)i : -1;
        if (!posix_copy(&msgs[i].msg_len, &len, sizeof(len)))
            return i ? (int)i : posix_errno(-EFAULT);
    }
    return (int)i;
}

static ssize_t recv_one(struct posix_sock *s, void *data, size_t len, int flags) {
    struct iovec iov = {data, len};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    return posix_recvmsg(s, &h, flags);
}

ssize_t POSIX_CALL read(int fd, void *data, size_t len) {
    struct posix_sock *s = posix_enter_carried(fd);
    if (LIKELY(!s))
        return posix_real.read(fd, data, len);
    return recv_one(s, data, len, 0);
}

ssize_t POSIX_CALL recv(int fd, void *data, size_t len, int flags) {
    struct posix_sock *s = posix_enter_carried(fd);
    return LIKELY(!s) ? posix_real.recv(fd, data, len, flags) : recv_one(s, data, len, flags);
}

ssize_t POSIX_CALL recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *from, socklen_t *from_len) {
    struct posix_sock *s = posix_enter_carried(fd);
    if (LIKELY(!s))
        return posix_real.recvfrom(fd, data, len, flags, from, from_len);
    struct iovec iov = {data, len};
    struct sockaddr_storage sa;
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (from) {
        h.msg_name = &sa;
        h.msg_namelen = sizeof(sa);
    }
    ssize_t n = posix_recvmsg(s, &h, flags);
    if (n < 0 || !from)
        return n;
    if (h.msg_namelen == 0) { /* a stream: the kernel leaves the address alone */
        return posix_copy(from_len, &h.msg_namelen, sizeof(*from_len)) ? n : posix_errno(-EFAULT);
    }
    int err = posix_give_addr(&sa, h.msg_namelen, from, from_len);
    return err ? posix_errno(err) : n;
}

ssize_t POSIX_CALL readv(int fd, const struct iovec *iov, int n) {
    struct posix_sock *s = posix_enter_carried(fd);
    if (LIKELY(!s))
        return posix_real.readv(fd, iov, n);
    if (n < 0 || n > 1024) {
        posix_unlock();
        return posix_errno(-EINVAL);
    }
    struct msghdr h = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n};
    return posix_recvmsg(s, &h, 0);
}

ssize_t POSIX_CALL recvmsg(int fd, struct msghdr *msg, int flags) {
    struct posix_sock *s = posix_enter_carried(fd);
    struct msghdr h;
    if (LIKELY(!s)) {
        ssize_t got = posix_real.recvmsg(fd, msg, flags);
        if (UNLIKELY(got >= 0 && msg->msg_controllen >= CMSG_LEN(sizeof(int))))
            posix_inherit_message(msg);
        return got;
    }
    if (!posix_copy(&h, msg, sizeof(h))) {
        posix_unlock();
        return posix_errno(-EFAULT);
    }
    h.msg_flags = 0;
    ssize_t n = posix_recvmsg(s, &h, flags);
    if (n >= 0 && !posix_copy(msg, &h, sizeof(h)))
        return posix_errno(-EFAULT);
    return n;
}

int POSIX_CALL recvmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags, struct timespec *timeout) {
    if (LIKELY(!posix_object(fd)))
        return posix_real.recvmmsg(fd, msgs, n, flags, timeout);
    unsigned int i = 0;
    int64_t end = timeout ? client_now() + (int64_t)timeout->tv_sec * 1000000000 + timeout->tv_nsec : INT64_MAX;
    for (; i < n && i < 1024 && (i == 0 || client_now() < end); i++) {
        bool wait = i == 0 || !(flags & MSG_WAITFORONE);
        ssize_t got = recvmsg(fd, &msgs[i].msg_hdr, (flags & ~MSG_WAITFORONE) | (wait ? 0 : MSG_DONTWAIT));
        unsigned int len = (unsigned int)got;
        if (got < 0)
            return i ? (int)i : -1;
        if (!posix_copy(&msgs[i].msg_len, &len, sizeof(len)))
            return i ? (int)i : posix_errno(-EFAULT);
    }
    return (int)i;
}

/* ---- files into sockets ---- */

static ssize_t file_piece(int out, int in, off_t *at, size_t len) {
    uint8_t piece[16384];
    ssize_t got = pread(in, piece, len < sizeof(piece) ? len : sizeof(piece), *at);
    if (got <= 0)
        return got;
    ssize_t sent = send(out, piece, (size_t)got, len > (size_t)got ? MSG_MORE : 0);
    if (sent > 0)
        *at += sent;
    return sent;
}

ssize_t POSIX_CALL sendfile(int out, int in, off_t *offset, size_t len) {
    struct posix_object *o = posix_object(out);
    off_t at;
    if (LIKELY(!o || o->kind != POSIX_SOCK || o->state == POSIX_FRESH))
        return posix_real.sendfile(out, in, offset, len);
    if (offset ? !posix_copy(&at, offset, sizeof(at)) : (at = lseek(in, 0, SEEK_CUR)) < 0)
        return offset ? posix_errno(-EFAULT) : -1;
    size_t done = 0;
    ssize_t n = 0;
    while (done < len && (n = file_piece(out, in, &at, len - done)) > 0)
        done += (size_t)n;
    if (offset)
        (void)posix_copy(offset, &at, sizeof(at));
    else
        (void)lseek(in, at, SEEK_SET);
    return done ? (ssize_t)done : n;
}

ssize_t POSIX_CALL sendfile64(int out, int in, off64_t *offset, size_t len) {
    return sendfile(out, in, offset, len);
}

/* There is no pipe in shared memory. Programs that splice know that not every file can. */
ssize_t POSIX_CALL splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t len, unsigned int flags) {
    const struct posix_object *a = posix_object(in), *b = posix_object(out);
    if (LIKELY((!a || a->state == POSIX_FRESH) && (!b || b->state == POSIX_FRESH)))
        return posix_real.splice(in, in_at, out, out_at, len, flags);
    return posix_errno(-EINVAL);
}
