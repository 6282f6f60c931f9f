/* SPDX-License-Identifier: Apache-2.0
 *
 * Epoll sets with sockets of ours in them. The set is the program's own; what the kernel can watch stays in it. Of
 * ours it holds the kernel socket of a listener or datagram socket under a tag, and, so that its sleepers wake, the
 * session's wake socket and a bell. What is ready by usherd is on the set's ready list, which is the kernel's
 * algorithm: level goes back to its end, edge waits for the next event, oneshot is disabled.
 *
 * Data of the program's that looks like a tag would be a random 32-bit number above its own: not a pointer, not an fd.
 */
#include <sys/eventfd.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define TAG_HIGH  UINT64_C(0xd5e4a7c100000000)
#define TAG_WAKE  (TAG_HIGH | 0xffffffff)
#define TAG_END   (TAG_HIGH | 0xfffffffe)
#define TAG_BELL  (TAG_HIGH | 0xfffffffd)
#define EVENTS    128
#define LOOK_NS   20000 /* how long the kernel's fds may wait while ours are busy */
#define KEPT_BITS (EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP)

/* ---- the kernel's set ---- */

static int kernel_ctl(const struct posix_epoll *ep, int op, int fd, uint32_t events, uint64_t data) {
    struct epoll_event ev = {.events = events, .data.u64 = data};
    return posix_real.epoll_ctl(ep->fd, op, fd, &ev) < 0 ? -errno : 0;
}

/* Again when the session has come back to another usherd: the fds of before have left the set by themselves. */
static void watch_wake(struct posix_epoll *ep) {
    if (!posix.ctx || posix.ctx->away || ep->watches == posix.ctx->life)
        return;
    ep->watches = posix.ctx->life;
    (void)kernel_ctl(ep, EPOLL_CTL_ADD, posix.ctx->wake_fd, EPOLLIN | EPOLLEXCLUSIVE, TAG_WAKE);
    (void)kernel_ctl(ep, EPOLL_CTL_ADD, posix.ctx->session_fd, EPOLLRDHUP, TAG_END);
}

/* usherd is gone: what hung up would be ready for ever. */
void posix_epoll_unwatch(struct posix_epoll *ep, const struct usher_context *ctx) {
    if (ep->watches == 0)
        return;
    ep->watches = 0;
    (void)kernel_ctl(ep, EPOLL_CTL_DEL, ctx->wake_fd, 0, 0);
    (void)kernel_ctl(ep, EPOLL_CTL_DEL, ctx->session_fd, 0, 0);
}

/* Does the kernel's set have this socket's fd? While it is the kernel's or half the kernel's. */
static bool belongs_in_kernel(const struct posix_sock *s) {
    return s->o.state == POSIX_FRESH || posix_sock_is_dual(s);
}

/* Of a carried datagram socket only usherd's half tells when there is room. */
static uint32_t kernel_events(const struct posix_interest *i) {
    return posix_sock_is_dual(i->sock) ? i->events & ~(uint32_t)(EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND) : i->events;
}

static void list(struct posix_interest *i) {
    struct posix_epoll *ep = i->ep;
    if (i->listed || i->disabled)
        return;
    i->listed = true;
    i->ready_next = NULL;
    *ep->ready_tail = i;
    ep->ready_tail = &i->ready_next;
}

static void unlist(struct posix_interest *i) {
    struct posix_epoll *ep = i->ep;
    if (!i->listed)
        return;
    struct posix_interest **p = &ep->ready;
    while (*p != i)
        p = &(*p)->ready_next;
    *p = i->ready_next;
    if (ep->ready_tail == &i->ready_next)
        ep->ready_tail = p;
    i->listed = false;
}

static void interest_end(struct posix_interest *i) {
    unlist(i);
    struct posix_interest **p = &i->sock->interests;
    while (*p != i)
        p = &(*p)->next;
    *p = i->next;
    *i->set_prev_next = i->set_next;
    if (i->set_next)
        i->set_next->set_prev_next = i->set_prev_next;
    i->next = posix.free_interests;
    posix.free_interests = i;
}

static struct posix_interest *interest_new(struct posix_epoll *ep, struct posix_sock *s, int fd) {
    struct posix_interest *i = posix.free_interests;
    if (i)
        posix.free_interests = i->next;
    else if (!(i = malloc(sizeof(*i))))
        return NULL;
    *i = (struct posix_interest){.ep = ep, .sock = s, .fd = fd, .next = s->interests, .set_next = ep->interests};
    s->interests = i;
    i->set_prev_next = &ep->interests;
    if (i->set_next)
        i->set_next->set_prev_next = &i->set_next;
    ep->interests = i;
    return i;
}

/* ---- what becomes of a socket ---- */

void posix_epoll_sync(struct posix_sock *s) {
    bool belongs = belongs_in_kernel(s);
    for (struct posix_interest *i = s->interests; i; i = i->next) {
        watch_wake(i->ep);
        if (i->in_kernel && !belongs)
            (void)kernel_ctl(i->ep, EPOLL_CTL_DEL, i->fd, 0, 0);
        else if (i->in_kernel)
            (void)kernel_ctl(i->ep, EPOLL_CTL_MOD, i->fd, kernel_events(i), TAG_HIGH | (uint32_t)i->fd);
        i->in_kernel = belongs;
        list(i);
    }
}

void posix_epoll_give_kernel(struct posix_sock *s) {
    while (s->interests) {
        struct posix_interest *i = s->interests;
        if (i->in_kernel)
            (void)kernel_ctl(i->ep, EPOLL_CTL_MOD, i->fd, i->disabled ? 0 : i->events, i->data.u64);
        else
            (void)kernel_ctl(i->ep, EPOLL_CTL_ADD, i->fd, i->disabled ? 0 : i->events, i->data.u64);
        interest_end(i);
    }
}

/* The last fd of the socket is about to be closed: the kernel forgets its half by itself. */
void posix_epoll_release(struct posix_sock *s) {
    while (s->interests)
        interest_end(s->interests);
}

void posix_epoll_end(struct posix_epoll *ep) {
    while (ep->interests)
        interest_end(ep->interests);
    if (ep->bell >= 0) {
        posix_slot_drop(ep->bell);
        posix_real.close(ep->bell);
    }
    ep->o.kind = 0;
    ep->next_free = posix.free_epolls;
    posix.free_epolls = ep;
}

static void ring(struct posix_epoll *ep) {
    if (ep->sleepers == 0)
        return;
    if (ep->bell < 0) {
        ep->bell = posix_bell_new();
        (void)kernel_ctl(ep, EPOLL_CTL_ADD, ep->bell, EPOLLIN | EPOLLEXCLUSIVE, TAG_BELL);
    }
    posix_bell_ring(ep->bell);
}

void posix_epoll_notify(struct posix_sock *s) {
    for (struct posix_interest *i = s->interests; i; i = i->next) {
        list(i);
        ring(i->ep);
    }
}

/* ---- epoll_ctl ---- */

static struct posix_epoll *epoll_new(int fd) {
    struct posix_epoll *ep = posix.free_epolls;
    if (ep)
        posix.free_epolls = ep->next_free;
    else if (!(ep = malloc(sizeof(*ep))))
        return NULL;
    *ep = (struct posix_epoll){.o = {.kind = POSIX_EPOLL}, .fd = fd, .bell = -1};
    ep->ready_tail = &ep->ready;
    posix_slot_set(fd, &ep->o);
    return ep;
}

/* The set's object; made when the kernel agrees that it is one (it has no such fd to change). */
static struct posix_epoll *epoll_of(int ep_fd, int fd, int *ret_err) {
    struct posix_object *o = posix_object(ep_fd);
    if (o && o->kind == POSIX_EPOLL)
        return (struct posix_epoll *)o;
    struct epoll_event ev = {0};
    *ret_err = -EINVAL;
    if (o || ep_fd < 0 || ep_fd >= POSIX_FDS)
        return NULL;
    if (posix_real.epoll_ctl(ep_fd, EPOLL_CTL_MOD, fd, &ev) < 0 && errno != ENOENT) {
        *ret_err = -errno;
        return NULL;
    }
    *ret_err = -ENOMEM;
    return epoll_new(ep_fd);
}

static struct posix_interest *interest_of(const struct posix_epoll *ep, const struct posix_sock *s, int fd) {
    for (struct posix_interest *i = s->interests; i; i = i->next)
        if (i->ep == ep && i->fd == fd)
            return i;
    return NULL;
}

static int add(struct posix_epoll *ep, struct posix_sock *s, int fd, const struct epoll_event *ev) {
    struct posix_interest *i = interest_new(ep, s, fd);
    if (!i)
        return -ENOMEM;
    i->events = ev->events;
    i->data = ev->data;
    if (s->o.state != POSIX_FRESH)
        watch_wake(ep);
    if (belongs_in_kernel(s)) {
        int err = kernel_ctl(ep, EPOLL_CTL_ADD, fd, kernel_events(i), TAG_HIGH | (uint32_t)fd);
        if (err) {
            interest_end(i);
            return err;
        }
        i->in_kernel = true;
    }
    list(i);
    ring(ep);
    return 0;
}

static int modify(struct posix_interest *i, const struct epoll_event *ev) {
    i->events = ev->events;
    i->data = ev->data;
    i->disabled = false;
    int err = i->in_kernel ? kernel_ctl(i->ep, EPOLL_CTL_MOD, i->fd, kernel_events(i), TAG_HIGH | (uint32_t)i->fd) : 0;
    list(i);
    ring(i->ep);
    return err;
}

static int del(struct posix_interest *i) {
    if (i->in_kernel)
        (void)kernel_ctl(i->ep, EPOLL_CTL_DEL, i->fd, 0, 0);
    interest_end(i);
    return 0;
}

static int control(int ep_fd, int op, struct posix_sock *s, int fd, const struct epoll_event *ev) {
    int err = 0;
    struct posix_epoll *ep = epoll_of(ep_fd, fd, &err);
    if (!ep)
        return err;
    struct posix_interest *i = interest_of(ep, s, fd);
    switch (op) {
    case EPOLL_CTL_ADD:
        return i ? -EEXIST : add(ep, s, fd, ev);
    case EPOLL_CTL_MOD:
        return i ? modify(i, ev) : -ENOENT;
    case EPOLL_CTL_DEL:
        return i ? del(i) : -ENOENT;
    default:
        return -EINVAL;
    }
}

int POSIX_CALL epoll_ctl(int ep_fd, int op, int fd, struct epoll_event *event) {
    struct posix_sock *s = posix_enter(fd);
    if (LIKELY(!s))
        return posix_real.epoll_ctl(ep_fd, op, fd, event);
    if (s->trust == TRUST_OPEN)
        s->trust = TRUST_YES; /* who has its own loop over many sockets serves what it accepts */
    if (s->o.state == POSIX_FRESH && op == EPOLL_CTL_ADD && !posix_sock_decide(s, false) && s->o.kind != POSIX_SOCK) {
        posix_unlock();
        return posix_real.epoll_ctl(ep_fd, op, fd, event);
    }
    struct epoll_event ev = {0};
    int err = op != EPOLL_CTL_DEL && !posix_copy(&ev, event, sizeof(ev)) ? -EFAULT : control(ep_fd, op, s, fd, &ev);
    posix_unlock();
    return err ? posix_errno(err) : 0;
}

/* ---- epoll_wait ---- */

static uint32_t report(struct posix_interest *i, uint32_t events, struct epoll_event *ret_ev) {
    events &= i->events | EPOLLERR | EPOLLHUP;
    if (!events || i->disabled)
        return 0;
    *ret_ev = (struct epoll_event){.events = events, .data = i->data};
    i->disabled = i->events & EPOLLONESHOT;
    return 1;
}

static uint32_t collect(struct posix_epoll *ep, struct epoll_event *ret_events, uint32_t n) {
    uint32_t got = 0;
    struct posix_interest *last = NULL, *i;
    while (got < n && (i = ep->ready) && i != last) {
        ep->ready = i->ready_next;
        if (!ep->ready)
            ep->ready_tail = &ep->ready;
        i->listed = false;
        if (!report(i, posix_sock_events(i->sock), &ret_events[got]))
            continue;
        got++;
        if (i->events & (EPOLLET | EPOLLONESHOT))
            continue;
        list(i); /* level: it may still be ready next time */
        last = last ? last : i;
    }
    return got;
}

bool posix_epoll_ready(struct posix_epoll *ep) {
    for (struct posix_interest *i = ep->ready; i; i = i->ready_next)
        if (!i->disabled && posix_sock_events(i->sock) & (i->events | EPOLLERR | EPOLLHUP))
            return true;
    return false;
}

/* The kernel's half of one of ours. */
static uint32_t take_tagged(struct posix_epoll *ep, const struct epoll_event *ev, struct epoll_event *ret_ev) {
    int fd = (int)(uint32_t)ev->data.u64;
    struct posix_object *o = posix_object(fd);
    struct posix_interest *i = o && o->kind == POSIX_SOCK ? interest_of(ep, (struct posix_sock *)o, fd) : NULL;
    if (!i || !i->in_kernel)
        return 0;
    i->sock->looked_ns = 0; /* its kernel socket has something */
    return report(i, ev->events, ret_ev);
}

static uint32_t take_kernel(struct posix_epoll *ep, const struct epoll_event *from, int count,
                            struct epoll_event *ret) {
    uint32_t got = 0;
    bool end = false;
    for (int k = 0; k < count; k++) {
        uint64_t data = from[k].data.u64, value;
        if (LIKELY((data & ~UINT64_C(0xffffffff)) != TAG_HIGH))
            ret[got++] = from[k];
        else if (data == TAG_WAKE && posix.ctx)
            client_drain_wake(posix.ctx);
        else if (data == TAG_BELL)
            (void)!posix_real.read(ep->bell, &value, sizeof(value));
        else if (data == TAG_END)
            end = true;
        else
            got += take_tagged(ep, &from[k], &ret[got]);
    }
    if (end)
        posix_pump(true);
    return got;
}

static uint32_t look(struct posix_epoll *ep, struct epoll_event *ret_events, uint32_t n) {
    struct epoll_event from[EVENTS];
    int count = posix_real.epoll_wait(ep->fd, from, (int)n, 0);
    return take_kernel(ep, from, count, ret_events);
}

static bool look_due(struct posix_epoll *ep, bool idle) {
    int64_t now = client_now();
    if (now - ep->looked_ns < (idle ? LOOK_NS / 10 : LOOK_NS))
        return false;
    ep->looked_ns = now;
    return true;
}

static int sleep_in(struct posix_epoll *ep, int64_t limit, const sigset_t *mask, struct epoll_event *ret, uint32_t n) {
    struct epoll_event from[EVENTS];
    struct timespec ts = {limit / 1000000000, limit % 1000000000};
    int fd = ep->fd;
    ep->sleepers++;
    posix_unlock();
    int count = posix_real.epoll_pwait2(fd, from, (int)n, limit < 0 ? NULL : &ts, mask);
    count = count < 0 ? -errno : count;
    posix_lock();
    if (ep->sleepers)
        ep->sleepers--;
    posix_sleep_end();
    return count < 0 ? count : (int)take_kernel(ep, from, count, ret);
}

/* Who waits for events of a stream that is parked wants it. */
static void take_parked(struct posix_epoll *ep) {
    for (struct posix_interest *i = ep->interests; i; i = i->set_next)
        if (i->sock->o.state == POSIX_PARKED && !i->disabled)
            (void)posix_share_take(i->sock, false);
}

/* How many, or -errno. */
static int wait_events(struct posix_epoll *ep, struct epoll_event *ret, uint32_t n, int64_t timeout_ns,
                       const sigset_t *mask) {
    struct posix_wait w;
    posix_wait_begin(&w, timeout_ns);
    int got = 0;
    while (ep->o.kind == POSIX_EPOLL) {
        posix_pump(false);
        if (LIKELY(ep->watches != 0))
            watch_wake(ep);
        if (UNLIKELY(posix.parked))
            take_parked(ep);
        got = (int)collect(ep, ret, n);
        if ((uint32_t)got < n && look_due(ep, got == 0))
            got += (int)look(ep, ret + got, n - (uint32_t)got);
        if (got || timeout_ns == 0)
            break;
        if (!w.spun) {
            posix_wait_spin(&w);
            continue;
        }
        int64_t limit = posix_wait_limit(&w);
        if (limit == 0)
            break;
        if (!posix_sleep_begin())
            continue;
        w.slept = true;
        got = sleep_in(ep, limit, mask, ret, n);
        if (got)
            break;
    }
    posix_wait_end(&w, got > 0);
    return got;
}

static int wait_on(struct posix_epoll *ep, struct epoll_event *events, int n, int64_t timeout_ns,
                   const sigset_t *mask) {
    struct epoll_event found[EVENTS];
    if (n <= 0)
        return posix_errno(-EINVAL);
    posix_lock();
    int got = wait_events(ep, found, n < EVENTS ? (uint32_t)n : EVENTS, timeout_ns, mask);
    posix_unlock();
    if (got > 0 && !posix_copy(events, found, (size_t)got * sizeof(*found)))
        got = -EFAULT;
    return got < 0 ? posix_errno(got) : got;
}

static struct posix_epoll *ours(int fd) {
    struct posix_object *o = posix_object(fd);
    return UNLIKELY(o && o->kind == POSIX_EPOLL) ? (struct posix_epoll *)o : NULL;
}

int POSIX_CALL epoll_wait(int fd, struct epoll_event *events, int n, int timeout_ms) {
    return epoll_pwait(fd, events, n, timeout_ms, NULL);
}

int POSIX_CALL epoll_pwait(int fd, struct epoll_event *events, int n, int timeout_ms, const sigset_t *mask) {
    struct posix_epoll *ep = ours(fd);
    if (!ep)
        return posix_real.epoll_pwait(fd, events, n, timeout_ms, mask);
    return wait_on(ep, events, n, timeout_ms < 0 ? -1 : (int64_t)timeout_ms * 1000000, mask);
}

int POSIX_CALL epoll_pwait2(int fd, struct epoll_event *events, int n, const struct timespec *timeout,
                            const sigset_t *mask) {
    struct posix_epoll *ep = ours(fd);
    struct timespec ts;
    if (!ep)
        return posix_real.epoll_pwait2(fd, events, n, timeout, mask);
    if (timeout && !posix_copy(&ts, timeout, sizeof(ts)))
        return posix_errno(-EFAULT);
    return wait_on(ep, events, n, timeout ? (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec : -1, mask);
}
