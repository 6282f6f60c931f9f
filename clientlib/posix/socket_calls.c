/* SPDX-License-Identifier: Apache-2.0
 *
 * socket, bind, listen, accept, connect, shutdown, and the names of both ends. The kernel judges every address and
 * option first, with the program's own socket; so every errno is the kernel's.
 */
#include <netinet/in.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

static bool fits(int family, int type, int protocol) {
    int kind = type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (family != AF_INET && family != AF_INET6)
        return false;
    return (kind == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP)) ||
           (kind == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP));
}

static void track(int fd, bool stream, bool v6, bool nonblock) {
    posix_lock();
    posix_slot_drop(fd); /* closed behind our back: by a raw system call */
    struct posix_sock *s = posix_sock_new(fd, stream, v6, nonblock);
    if (s)
        posix_slot_set(fd, &s->o);
    posix_unlock();
}

int POSIX_CALL socket(int family, int type, int protocol) {
    int fd = posix_real.socket(family, type, protocol);
    if (fd < 0 || fd >= POSIX_FDS)
        return fd;
    int kind = type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fits(family, type, protocol))
        track(fd, kind == SOCK_STREAM, family == AF_INET6, type & SOCK_NONBLOCK);
    else if (family == AF_PACKET && (kind == SOCK_RAW || kind == SOCK_DGRAM))
        posix_frames_track(fd, kind == SOCK_DGRAM);
    return fd;
}

int POSIX_CALL bind(int fd, const struct sockaddr *addr, socklen_t len) {
    struct posix_sock *s = posix_enter(fd);
    if (!s) {
        if (posix_is_frames(fd))
            posix_frames_bound(fd);
        return posix_real.bind(fd, addr, len);
    }
    int result = posix_real.bind(fd, addr, len);
    if (result == 0 && (s->o.state == POSIX_OPEN || s->o.state == POSIX_CONNECTING))
        result = posix_errno(-EINVAL); /* it has an address, which its kernel socket does not know */
    posix_unlock();
    return result;
}

/* The kernel's socket listens, and goes on listening; usherd hears of it at the first accept, poll or epoll_ctl, in
 * the process that accepts: a master that only forks workers never gets a connection. */
int POSIX_CALL listen(int fd, int backlog) {
    struct posix_sock *s = posix_enter(fd);
    if (!s)
        return posix_real.listen(fd, backlog);
    bool carried = s->o.state == POSIX_OPEN || s->o.state == POSIX_CONNECTING;
    int result = carried ? posix_errno(-EINVAL) : posix_real.listen(fd, backlog);
    if (result == 0 && s->stream)
        s->listened = true;
    posix_unlock();
    return result;
}

/* ---- accepting ---- */

/* A number for it, as every socket has: a kernel socket of its own kind. */
static int accept_usher(struct posix_sock *s, int flags, struct sockaddr_storage *ret_from, socklen_t *ret_len) {
    int fd = posix_real.socket(s->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0)
        return -errno;
    if (fd >= POSIX_FDS) {
        posix_real.close(fd);
        return -EMFILE;
    }
    struct posix_rx *r = posix_rx_pop(s);
    struct posix_sock *child = usher_user(r->msg.sock);
    client_addr_to(&r->msg, s->v6, ret_from, ret_len);
    posix_rx_free(r);
    posix_slot_drop(fd);
    child->nonblock = flags & SOCK_NONBLOCK;
    child->us->borrowed = true;
    child->rcv_timeout_ns = s->rcv_timeout_ns;
    child->snd_timeout_ns = s->snd_timeout_ns;
    posix_sock_move(child, fd);
    posix_slot_set(fd, &child->o);
    if (child->us->st->option_count || child->us->st->linger >= 0)
        client_stream_options_kernel(child->us); /* for getsockopt(); usherd's half was born with them */
    return fd;
}

/* The kernel's half, without waiting. -EAGAIN: nobody there. */
static int accept_kernel(struct posix_sock *s, int flags, struct sockaddr_storage *ret_from, socklen_t *ret_len) {
    struct pollfd f = {.fd = s->fd, .events = POLLIN};
    if (!s->nonblock && posix_real.poll(&f, 1, 0) <= 0)
        return -EAGAIN;
    *ret_len = sizeof(*ret_from);
    int fd = posix_real.accept4(s->fd, (struct sockaddr *)ret_from, ret_len, flags);
    return fd < 0 ? -errno : fd;
}

static int accept_wait(struct posix_sock *s, int flags, struct sockaddr_storage *ret_from, socklen_t *ret_len) {
    struct posix_wait w;
    posix_wait_begin(&w, s->rcv_timeout_ns);
    int fd = -EAGAIN, err = 0;
    while (err == 0) {
        if (s->rx_head || posix_pump(false)) {
            if (!s->rx_head)
                continue;
            fd = accept_usher(s, flags, ret_from, ret_len);
            break;
        }
        fd = posix_look_due(s, !s->nonblock) ? accept_kernel(s, flags, ret_from, ret_len) : -EAGAIN;
        if (fd != -EAGAIN || s->nonblock)
            break;
        err = posix_wait_sock(&w, s, POLLIN);
        if (err == -EINTR && s->rcv_timeout_ns < 0 && posix_signal_restarts())
            err = 0;
    }
    posix_wait_end(&w, fd >= 0);
    return err ? err : fd;
}

/* From a listener that waits for trust: what becomes of the connection tells. */
static int accept_witness(struct posix_sock *s, int fd, struct sockaddr *addr, socklen_t *len, int flags) {
    uint32_t life = s->life;
    posix_unlock();
    int got = posix_real.accept4(fd, addr, len, flags);
    if (got < 0)
        return got;
    posix_lock();
    posix_sock_witness(s, life, got, flags & SOCK_NONBLOCK);
    posix_unlock();
    return got;
}

int POSIX_CALL accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags) {
    struct posix_sock *s = posix_enter(fd);
    struct sockaddr_storage from = {0};
    socklen_t from_len = 0;
    if (s && s->o.state == POSIX_FRESH && !posix_sock_decide(s, false)) {
        if (s->o.kind == POSIX_SOCK && s->listened)
            return accept_witness(s, fd, addr, len, flags);
        posix_unlock();
        s = NULL;
    }
    if (!s)
        return posix_real.accept4(fd, addr, len, flags);
    if (flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK) || s->o.state != POSIX_LISTENING) {
        int err = s->stream || flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK) ? -EINVAL : -EOPNOTSUPP;
        posix_unlock();
        return posix_errno(err);
    }
    int got = accept_wait(s, flags, &from, &from_len);
    posix_unlock();
    if (got == -CLIENT_BY_KERNEL)
        return posix_real.accept4(fd, addr, len, flags);
    int err = got >= 0 ? posix_give_addr(&from, from_len, addr, len) : 0;
    if (err) {
        close(got);
        got = err;
    }
    return got < 0 ? posix_errno(got) : got;
}

int POSIX_CALL accept(int fd, struct sockaddr *addr, socklen_t *len) {
    return LIKELY(!posix_object(fd)) ? posix_real.accept(fd, addr, len) : accept4(fd, addr, len, 0);
}

/* ---- connecting ---- */

static bool is_loopback(const struct sockaddr *addr, socklen_t len) {
    struct usher_msg m = {0};
    return client_addr_from(addr, len, &m) == 0 && client_msg_from_loopback(&m);
}

/* Where only the kernel can go, and what only the kernel can say. */
static const char *why_kernel(struct posix_sock *s, const struct sockaddr *addr, socklen_t len) {
    if (addr->sa_family != (s->v6 ? AF_INET6 : AF_INET) || len < (s->v6 ? 24 : sizeof(struct sockaddr_in)))
        return "not an address of its family";
    if (posix.loopback == LOOPBACK_KERNEL && is_loopback(addr, len))
        return "the loopback is the kernel's (--loopback)";
    return s->why[0] ? s->why : NULL;
}

static int connect_result(struct posix_sock *s) {
    switch (s->o.state) {
    case POSIX_OPEN:
        return 0;
    case POSIX_FRESH:
        return -CLIENT_BY_KERNEL;
    case POSIX_CONNECTING:
        return -EAGAIN;
    default:
        return -(s->error ? posix_sock_take_error(s) : ECONNABORTED);
    }
}

static int connect_wait(struct posix_sock *s) {
    struct posix_wait w;
    posix_wait_begin(&w, s->snd_timeout_ns);
    int err = 0, result;
    while ((result = connect_result(s)) == -EAGAIN && err == 0) {
        if (posix_pump(false))
            continue;
        err = posix_wait_sock(&w, s, 0);
        if (err == -EINTR && s->snd_timeout_ns < 0 && posix_signal_restarts())
            err = 0;
    }
    posix_wait_end(&w, result == 0);
    if (err && err != -CLIENT_BY_KERNEL && result == -EAGAIN)
        return err == -EAGAIN ? -EINPROGRESS : err;
    return err ? err : result;
}

/* Under the lock, which it gives. */
static int connect_stream(struct posix_sock *s, int fd, const struct sockaddr *addr, socklen_t len) {
    int err = posix_sock_connect(s, addr, len);
    if (err == 0 && s->nonblock) {
        posix_pump(false); /* who is refused at once is the kernel's by now */
        err = -EINPROGRESS;
    } else if (err == 0) {
        err = connect_wait(s);
        if (err && s->o.state == POSIX_DEAD)
            posix_sock_renew(s); /* as if it had never tried */
    }
    bool kernel = err < 0 && (err == -CLIENT_BY_KERNEL || s->o.state == POSIX_FRESH);
    if (kernel && posix.loopback == LOOPBACK_USHER && is_loopback(addr, len)) {
        kernel = false;
        err = -ECONNREFUSED;
    }
    if (kernel && posix_object(fd) == &s->o)
        posix_sock_to_kernel(s, s->why[0] ? s->why : "usherd has no way to its peer");
    posix_unlock();
    if (kernel)
        return posix_real.connect(fd, addr, len);
    return err ? posix_errno(err) : 0;
}

/* Datagrams: the kernel's socket is connected, and usherd follows. */
static int connect_dgram(struct posix_sock *s, int fd, const struct sockaddr *addr, socklen_t len) {
    int result = posix_real.connect(fd, addr, len);
    if (result == 0 && s->o.state == POSIX_DGRAM) {
        s->us->connected = addr->sa_family != AF_UNSPEC;
        s->us->kernel_peer = false;
        (void)client_socket_announce(s->us);
        if (!s->us->set)
            posix_sock_to_kernel(s, s->us->reason);
    }
    posix_unlock();
    return result;
}

int POSIX_CALL connect(int fd, const struct sockaddr *addr, socklen_t len) {
    struct sockaddr_storage copy = {0};
    struct posix_sock *s = posix_enter(fd);
    if (!s)
        return posix_real.connect(fd, addr, len);
    if (len > sizeof(copy) || !posix_copy(&copy, addr, len)) {
        posix_unlock();
        return posix_real.connect(fd, addr, len);
    }
    const struct sockaddr *to = (struct sockaddr *)&copy;
    if (!s->stream)
        return connect_dgram(s, fd, to, len);
    if (s->o.state == POSIX_OPEN || s->o.state == POSIX_CONNECTING || s->o.state == POSIX_LISTENING) {
        bool done = s->o.state == POSIX_OPEN && s->nonblock && !s->told;
        s->told = true;
        int err = s->o.state == POSIX_CONNECTING ? -EALREADY : -EISCONN;
        posix_unlock();
        return done ? 0 : posix_errno(err);
    }
    if (s->o.state == POSIX_DEAD) {
        posix_sock_renew(s);
        if (s->error) {
            int err = -posix_sock_take_error(s);
            posix_unlock();
            return posix_errno(err);
        }
    }
    const char *why = why_kernel(s, to, len);
    if (!why)
        return connect_stream(s, fd, to, len);
    if (client_addr_from(to, len, &s->peer))
        s->peer.family = 0;
    else if (s->listened == false)
        posix_sock_to_kernel(s, why);
    posix_unlock();
    return posix_real.connect(fd, addr, len);
}

/* ---- the rest ---- */

int POSIX_CALL shutdown(int fd, int how) {
    struct posix_sock *s = posix_enter(fd);
    if (!s)
        return posix_real.shutdown(fd, how);
    int err = 0;
    posix_pump(false);
    if (how < SHUT_RD || how > SHUT_RDWR)
        err = -EINVAL;
    else if (s->o.state == POSIX_OPEN && s->eof && s->shut_wr)
        err = -ENOTCONN; /* over: nothing is left to shut down */
    else if (s->o.state == POSIX_OPEN || s->o.state == POSIX_DGRAM) {
        err = s->stream ? 0 : posix_real.shutdown(fd, how) < 0 ? -errno : 0;
        bool write = how != SHUT_RD && s->stream && !s->shut_wr;
        while (!err && write && (err = usher_shutdown(s->us, SHUT_WR)) == -EAGAIN) {
            (void)posix_pump(false); /* the ring is full: usherd takes some in microseconds */
            client_kick(s->us->ctx);
            err = 0;
        }
        s->shut_rd |= !err && how != SHUT_WR;
        s->shut_wr |= !err && how != SHUT_RD;
        posix_sock_notify(s);
    } else {
        err = s->o.state == POSIX_FRESH || s->o.state == POSIX_LISTENING ? posix_real.shutdown(fd, how) < 0 ? -errno : 0
                                                                         : -ENOTCONN;
    }
    posix_unlock();
    return err ? posix_errno(err) : 0;
}

/* Another process may have it just now: its ends are the same. */
static bool is_lent(const struct posix_sock *s) {
    return s->o.state == POSIX_PARKED && s->local.peer_port;
}

static bool has_own_ends(const struct posix_sock *s) {
    return s->stream && ((s->us && (s->o.state == POSIX_OPEN || s->o.state == POSIX_DEAD)) || is_lent(s));
}

static int give_addr(const struct posix_sock *s, const struct usher_msg *m, struct sockaddr *addr, socklen_t *len) {
    struct sockaddr_storage sa;
    socklen_t sa_len;
    client_addr_to(m, s->v6, &sa, &sa_len);
    return addr && len ? posix_give_addr(&sa, sa_len, addr, len) : -EFAULT;
}

static int give_end(const struct posix_sock *s, const uint8_t mapped[16], uint16_t port, struct sockaddr *addr,
                    socklen_t *len) {
    struct usher_msg m = {.family = s->v6 ? AF_INET6 : AF_INET, .peer_port = port};
    client_addr_unmap(s->v6, mapped, m.peer);
    return give_addr(s, &m, addr, len);
}

int POSIX_CALL getsockname(int fd, struct sockaddr *addr, socklen_t *len) {
    struct posix_sock *s = posix_enter(fd);
    if (!s)
        return posix_real.getsockname(fd, addr, len);
    bool own = has_own_ends(s);
    int err = !own         ? 0
              : is_lent(s) ? give_addr(s, &s->local, addr, len)
                           : give_end(s, s->us->st->local, s->us->st->local_port, addr, len);
    posix_unlock();
    if (!own)
        return posix_real.getsockname(fd, addr, len);
    return err ? posix_errno(err) : 0;
}

int POSIX_CALL getpeername(int fd, struct sockaddr *addr, socklen_t *len) {
    struct posix_sock *s = posix_enter(fd);
    if (!s)
        return posix_real.getpeername(fd, addr, len);
    bool own = has_own_ends(s);
    int err = 0;
    if (own && (s->o.state == POSIX_DEAD || (s->eof && s->shut_wr)))
        err = -ENOTCONN;
    else if (own && is_lent(s))
        err = give_addr(s, &s->peer, addr, len);
    else if (own)
        err = give_end(s, s->us->st->peer, s->us->st->peer_port, addr, len);
    posix_unlock();
    if (!own)
        return posix_real.getpeername(fd, addr, len);
    return err ? posix_errno(err) : 0;
}
