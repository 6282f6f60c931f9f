/* SPDX-License-Identifier: Apache-2.0
 *
 * poll, ppoll, select, pselect with sockets of ours among the file descriptors. Without one they are the C library's.
 * Each turn the kernel's fds are asked afresh: a socket may become the kernel's while we wait.
 */
#include <time.h>

#include "clientlib/posix/posix.h"

#define SMALL 64

/* A copy of the program's set, and what the kernel is asked. */
struct pollset {
    struct pollfd *all; /* revents: the answer */
    uint32_t n;
    struct pollfd *kernel; /* n + POSIX_WAIT_EXTRA */
    bool asks_kernel;      /* there is something to ask it */
    struct pollfd small[2 * SMALL + POSIX_WAIT_EXTRA];
};

/* 1 = one of ours is there, 0 = none, -1 = the pointer is bad. */
static int has_ours(struct pollfd *fds, nfds_t n) {
    struct posix_thread *t = &posix_thread;
    posix_signal_install();
    if (sigsetjmp(t->fault, 0)) {
        t->copying = false;
        return -1;
    }
    bool found = false;
    t->copying = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    for (nfds_t i = 0; i < n && !found; i++) {
        struct posix_object *o = posix_object(((volatile struct pollfd *)fds)[i].fd);
        found = o && o->kind != POSIX_INTERNAL && o->kind != POSIX_FRAMES;
    }
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    t->copying = false;
    return found;
}

static int set_init(struct pollset *p, const struct pollfd *fds, nfds_t n) {
    *p = (struct pollset){.all = p->small, .n = (uint32_t)n, .kernel = p->small + SMALL};
    if (n > SMALL) {
        struct rlimit limit;
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && n > limit.rlim_cur)
            return -EINVAL;
        p->all = calloc(2 * n + POSIX_WAIT_EXTRA, sizeof(*p->all));
        if (!p->all)
            return -ENOMEM;
        p->kernel = p->all + n;
    }
    return posix_copy(p->all, fds, n * sizeof(*fds)) ? 0 : -EFAULT;
}

static void set_fini(struct pollset *p) {
    if (p->all != p->small)
        free(p->all);
}

static uint32_t epoll_events(struct posix_epoll *ep) {
    return posix_epoll_ready(ep) ? POLLIN | POLLRDNORM : 0;
}

/* What usherd's half of one fd has, and whether its other half is to be asked of the kernel. */
static short look_at(struct pollfd *f, struct pollfd *kernel, bool *asks_kernel) {
    struct posix_object *o = posix_object(f->fd);
    struct posix_sock *s = (struct posix_sock *)o;
    short wanted = f->events | POLLERR | POLLHUP;
    *kernel = (struct pollfd){.fd = f->fd, .events = f->events};
    if (f->fd < 0)
        return 0;
    if (o && o->kind == POSIX_SOCK && s->o.state == POSIX_FRESH)
        (void)posix_sock_decide(s, false);
    else if (o && o->kind == POSIX_SOCK && s->o.state == POSIX_PARKED)
        (void)posix_share_take(s, false);
    o = posix_object(f->fd);
    if (!o || o->kind == POSIX_INTERNAL || o->state == POSIX_FRESH) { /* packet sockets are nothing else */
        *asks_kernel = true;
        return 0;
    }
    if (o->kind == POSIX_EPOLL) {
        *asks_kernel = true;
        return (short)(wanted & (short)epoll_events((struct posix_epoll *)o));
    }
    if (posix_sock_is_dual(s)) {
        kernel->events &= ~(POLLOUT | POLLWRNORM | POLLWRBAND);
        *asks_kernel = true;
    } else {
        kernel->fd = -1;
    }
    return (short)(wanted & (short)posix_sock_events(s));
}

static int look(struct pollset *p) {
    int got = 0;
    p->asks_kernel = false;
    for (uint32_t i = 0; i < p->n; i++) {
        p->all[i].revents = look_at(&p->all[i], &p->kernel[i], &p->asks_kernel);
        got += p->all[i].revents != 0;
    }
    return got;
}

/* Adds the kernel's answer; how many fds have something now. */
static int merge(struct pollset *p) {
    int got = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->kernel[i].fd >= 0 && p->kernel[i].revents) {
            struct posix_object *o = posix_object(p->all[i].fd);
            if (o && o->kind == POSIX_SOCK)
                ((struct posix_sock *)o)->looked_ns = 0;
            p->all[i].revents |= p->kernel[i].revents;
        }
        got += p->all[i].revents != 0;
    }
    return got;
}

/* How many, or -errno. */
static int wait_set(struct pollset *p, int64_t timeout_ns, const sigset_t *mask) {
    struct posix_wait w;
    struct posix_wanted want = {.all = p->all, .all_count = p->n, .fds = p->kernel, .n = p->n, .mask = mask};
    posix_wait_begin(&w, timeout_ns);
    int got = 0, err = 0;
    for (bool first = true; err == 0; first = false) {
        posix_pump(false);
        got = look(p);
        if (p->asks_kernel && (first || err) && posix_real.poll(p->kernel, p->n, 0) > 0)
            got = merge(p);
        if (got || timeout_ns == 0)
            break;
        err = posix_wait_block(&w, &want);
        if (want.polled && (got = merge(p)))
            break;
    }
    posix_wait_end(&w, got > 0);
    return got ? got : err == -EINTR ? err : 0;
}

static int poll_ours(struct pollfd *fds, nfds_t n, int64_t timeout_ns, const sigset_t *mask) {
    struct pollset p;
    int got = set_init(&p, fds, n);
    if (got == 0) {
        posix_lock();
        got = wait_set(&p, timeout_ns, mask);
        posix_unlock();
        if (got >= 0 && !posix_copy(fds, p.all, n * sizeof(*fds)))
            got = -EFAULT;
    }
    set_fini(&p);
    return got < 0 ? posix_errno(got) : got;
}

int POSIX_CALL poll(struct pollfd *fds, nfds_t n, int timeout_ms) {
    if (LIKELY(!posix.objects) || has_ours(fds, n) <= 0)
        return posix_real.poll(fds, n, timeout_ms);
    return poll_ours(fds, n, timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000000, NULL);
}

int POSIX_CALL ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
    struct timespec ts;
    if (LIKELY(!posix.objects) || has_ours(fds, n) <= 0 ||
        (timeout && (!posix_copy(&ts, timeout, sizeof(ts)) || ts.tv_nsec < 0 || ts.tv_sec < 0)))
        return posix_real.ppoll(fds, n, timeout, mask);
    return poll_ours(fds, n, timeout ? (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec : -1, mask);
}

/* ---- select ---- */

#define READ_BITS   (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR)
#define WRITE_BITS  (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR)
#define EXCEPT_BITS POLLPRI

/* fd_set has no bound of its own: programs allocate larger ones. */
static bool bit(const fd_set *set, int fd) {
    return set && ((const uint64_t *)set)[fd / 64] >> (fd % 64) & 1;
}

static void set_bit(fd_set *set, int fd) {
    ((uint64_t *)set)[fd / 64] |= UINT64_C(1) << (fd % 64);
}

static bool wants(int fd, const fd_set *in, const fd_set *out, const fd_set *ex) {
    return bit(in, fd) || bit(out, fd) || bit(ex, fd);
}

static bool select_has_ours(int n, const fd_set *in, const fd_set *out, const fd_set *ex) {
    struct posix_thread *t = &posix_thread;
    bool found = false;
    posix_signal_install();
    if (sigsetjmp(t->fault, 0)) {
        t->copying = false;
        return false; /* the kernel says EFAULT */
    }
    t->copying = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    for (int fd = 0; fd < n && !found; fd++) {
        struct posix_object *o = posix_object(fd);
        found = o && o->kind != POSIX_INTERNAL && o->kind != POSIX_FRAMES && wants(fd, in, out, ex);
    }
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    t->copying = false;
    return found;
}

static void clear_set(fd_set *set, int n) {
    if (set)
        memset(set, 0, (size_t)(n + 63) / 64 * 8);
}

static int select_ours(int n, fd_set *in, fd_set *out, fd_set *ex, int64_t timeout_ns, const sigset_t *mask) {
    struct pollset p = {.all = calloc(2 * (size_t)n + POSIX_WAIT_EXTRA, sizeof(struct pollfd))};
    if (!p.all)
        return -ENOMEM;
    for (int fd = 0; fd < n; fd++)
        if (wants(fd, in, out, ex))
            p.all[p.n++] = (struct pollfd){.fd = fd,
                                           .events = (short)((bit(in, fd) ? POLLIN : 0) | (bit(out, fd) ? POLLOUT : 0) |
                                                             (bit(ex, fd) ? POLLPRI : 0))};
    p.kernel = p.all + p.n;
    posix_lock();
    int got = wait_set(&p, timeout_ns, mask), bits = 0;
    posix_unlock();
    for (uint32_t i = 0; i < p.n; i++)
        if (p.all[i].revents & POLLNVAL)
            got = -EBADF;
    for (int k = 0; k < 3 && got >= 0; k++) {
        fd_set *set = k == 0 ? in : k == 1 ? out : ex;
        const short events[] = {POLLIN, POLLOUT, POLLPRI}, answers[] = {READ_BITS, WRITE_BITS, EXCEPT_BITS};
        clear_set(set, n);
        for (uint32_t i = 0; i < p.n && set; i++)
            if (p.all[i].events & events[k] && p.all[i].revents & answers[k]) {
                set_bit(set, p.all[i].fd);
                bits++;
            }
    }
    free(p.all);
    return got < 0 ? got : bits;
}

int POSIX_CALL select(int n, fd_set *in, fd_set *out, fd_set *ex, struct timeval *timeout) {
    struct timeval tv = {0};
    if (LIKELY(!posix.objects) || n < 0 || !select_has_ours(n, in, out, ex) ||
        (timeout && (!posix_copy(&tv, timeout, sizeof(tv)) || tv.tv_sec < 0 || tv.tv_usec < 0)))
        return posix_real.select(n, in, out, ex, timeout);
    int64_t ns = (int64_t)tv.tv_sec * 1000000000 + (int64_t)tv.tv_usec * 1000, start = client_now();
    int got = select_ours(n, in, out, ex, timeout ? ns : -1, NULL);
    if (timeout) { /* Linux says what is left */
        int64_t left = ns - (client_now() - start);
        left = left > 0 ? left : 0;
        *timeout = (struct timeval){left / 1000000000, left % 1000000000 / 1000};
    }
    return got < 0 ? posix_errno(got) : got;
}

int POSIX_CALL pselect(int n, fd_set *in, fd_set *out, fd_set *ex, const struct timespec *timeout,
                       const sigset_t *mask) {
    struct timespec ts = {0};
    if (LIKELY(!posix.objects) || n < 0 || !select_has_ours(n, in, out, ex) ||
        (timeout && (!posix_copy(&ts, timeout, sizeof(ts)) || ts.tv_nsec < 0 || ts.tv_sec < 0)))
        return posix_real.pselect(n, in, out, ex, timeout, mask);
    int got = select_ours(n, in, out, ex, timeout ? (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec : -1, mask);
    return got < 0 ? posix_errno(got) : got;
}
