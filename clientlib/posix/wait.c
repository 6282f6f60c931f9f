/* SPDX-License-Identifier: Apache-2.0
 *
 * Waiting of blocking calls: an active wait as long as that pays, then sleep in one ppoll over the kernel's fds, the
 * thread's bell and (one thread of the process) the session's wake socket. Under the lock, which is given meanwhile.
 *
 * Whoever takes usherd's events for others rings their bells. The thread that owns the wake socket passes it on when it
 * leaves. Threads in epoll_wait() have the wake socket in their epoll set and need no owner.
 *
 * A signal that comes during the active wait is as one that came just before the call: a program cannot tell them
 * apart.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define SPIN_LOOKS 16
#define YIELD_MAX  64

__thread struct posix_thread posix_thread __attribute__((tls_model("initial-exec")));

void posix_wait_begin(struct posix_wait *w, int64_t timeout_ns) {
    *w = (struct posix_wait){.start_ns = client_now(), .deadline_ns = -1};
    if (timeout_ns >= 0 && __builtin_add_overflow(w->start_ns, timeout_ns, &w->deadline_ns))
        w->deadline_ns = INT64_MAX;
}

void posix_wait_end(struct posix_wait *w, bool success) {
    if (w->spun && posix.ctx)
        client_spin_learn(posix.ctx, !success ? INT64_MAX : w->slept ? client_now() - w->start_ns : 0);
}

/* ---- the active part ---- */

static bool has_news(const struct usher_context *ctx, uint32_t news) {
    return client_any_ready(ctx) || __atomic_load_n(&posix.news, __ATOMIC_RELAXED) != news;
}

static void look_actively(const struct usher_context *ctx, bool shared, uint32_t news, int64_t end_ns) {
    for (int turns = 0; client_now() < end_ns; turns++) {
        if (shared && turns == YIELD_MAX)
            return;
        if (shared)
            sched_yield();
        for (int i = 0; i < SPIN_LOOKS; i++) {
            if (has_news(ctx, news))
                return;
            client_cpu_pause();
        }
    }
}

void posix_wait_spin(struct posix_wait *w) {
    struct usher_context *ctx = posix.ctx;
    w->spun = true;
    int64_t budget = ctx && !posix.confined ? client_spin_budget(ctx) : 0;
    if (budget == 0 || posix.sleeping >= posix.cpus) /* what comes is more likely another's, and needs this core */
        return;
    int64_t end = w->start_ns + budget;
    if (w->deadline_ns >= 0 && w->deadline_ns < end)
        end = w->deadline_ns;
    bool shared = client_shares_core(ctx);
    uint32_t news = posix.news;
    posix_unlock();
    look_actively(ctx, shared, news, end);
    posix_lock();
}

/* ---- sleeping ---- */

int64_t posix_wait_limit(const struct posix_wait *w) {
    int64_t limit = -1;
    if (w->deadline_ns >= 0) {
        limit = w->deadline_ns - client_now();
        if (limit <= 0)
            return 0;
    }
    if (posix.ctx && client_sleep_nags(posix.ctx) && (limit < 0 || limit > CLIENT_NAG_NS))
        limit = CLIENT_NAG_NS;
    return posix_share_limit(limit);
}

/* Others sleep and count on a ticket that is still good. */
static void announce_for_others(void) {
    if (posix.ctx && posix.sleeping == 0)
        client_sleep_over(posix.ctx);
    while (posix.ctx && posix.sleeping && !client_sleep_announce(posix.ctx))
        posix_pump(false);
}

bool posix_sleep_begin(void) {
    if (!posix.ctx || client_sleep_announce(posix.ctx)) {
        posix.sleeping++;
        return true;
    }
    announce_for_others();
    return false;
}

void posix_sleep_end(void) {
    posix.sleeping--;
    announce_for_others();
}

int posix_bell_new(void) {
    return client_place_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

void posix_bell_ring(int bell) {
    const uint64_t one = 1;
    ssize_t n = bell >= 0 ? posix_real.write(bell, &one, sizeof(one)) : 0;
    (void)n;
}

static bool waits_for(const struct posix_waiter *w, const struct posix_sock *s) {
    if (w->sock)
        return w->sock == s;
    for (uint32_t i = 0; i < w->fd_count; i++)
        if (posix_object(w->fds[i].fd) == &s->o || (w->fds[i].fd >= 0 && s->o.refs == 0))
            return true;
    return false;
}

void posix_wake_waiters(const struct posix_sock *s) {
    for (struct posix_waiter *w = posix.sleepers; w; w = w->next)
        if (waits_for(w, s))
            posix_bell_ring(w->bell);
}

static void waiter_leave(struct posix_waiter *me) {
    if (!me->prev_next)
        return;
    *me->prev_next = me->next;
    if (me->next)
        me->next->prev_next = me->prev_next;
    me->prev_next = NULL;
    if (me->owns_wake && posix.sleepers)
        posix_bell_ring(posix.sleepers->bell); /* it looks, finds no owner and becomes one */
    me->owns_wake = false;
}

static void thread_ends(void *bell) {
    int fd = (int)(intptr_t)bell - 1;
    posix_lock();
    posix_slot_drop(fd);
    posix_unlock();
    posix_real.close(fd);
}

static pthread_key_t end_key;
static void make_key(void) {
    pthread_key_create(&end_key, thread_ends);
}

/* The bell exists from the first sleep of a process with several threads on. */
static void waiter_enter(struct posix_waiter *me, const struct posix_wanted *want) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (me->bell == 0 && posix.confined)
        me->bell = -1; /* no more file descriptors; nor threads */
    if (me->bell == 0) {
        pthread_once(&once, make_key);
        me->bell = posix_bell_new();
        pthread_setspecific(end_key, (void *)(intptr_t)(me->bell + 1));
    }
    me->sock = want->sock;
    me->fds = want->all;
    me->fd_count = want->all_count;
    me->owns_wake = true;
    for (struct posix_waiter *w = posix.sleepers; w; w = w->next)
        if (w->owns_wake)
            me->owns_wake = false;
    me->next = posix.sleepers;
    me->prev_next = &posix.sleepers;
    if (me->next)
        me->next->prev_next = &me->next;
    posix.sleepers = me;
}

/* Cancelled in its sleep. */
static void sleep_cancelled(void *arg) {
    posix_lock();
    waiter_leave(arg);
    posix_sleep_end();
    posix_unlock();
}

static void drain_bell(int bell) {
    uint64_t count;
    ssize_t n = posix_real.read(bell, &count, sizeof(count));
    (void)n;
}

/* RLIMIT_NOFILE may be 1, and then no call takes more than one fd: in turns, if there is one of the kernel's. */
static int poll_one(struct posix_wanted *want, struct pollfd *wake, int64_t limit_ns) {
    struct timespec ts = {limit_ns / 1000000000, limit_ns % 1000000000}, turn = {0, 2000000};
    uint32_t i = 0;
    while (i < want->n && want->fds[i].fd < 0)
        i++;
    if (i == want->n)
        return posix_real.ppoll(wake, 1, limit_ns < 0 ? NULL : &ts, want->mask);
    int n = posix_real.ppoll(&want->fds[i], 1, &turn, want->mask);
    return n ? n : posix_real.ppoll(wake, 1, &(struct timespec){0}, want->mask);
}

static int sleep_now(struct posix_wanted *want, struct posix_waiter *me, int64_t limit_ns) {
    struct usher_context *ctx = posix.ctx;
    struct pollfd *extra = want->fds + want->n;
    extra[0] = (struct pollfd){.fd = me->bell, .events = POLLIN};
    extra[1] = (struct pollfd){.fd = ctx && me->owns_wake ? ctx->wake_fd : -1, .events = POLLIN};
    extra[2] = (struct pollfd){.fd = ctx && me->owns_wake ? ctx->session_fd : -1, .events = POLLRDHUP};
    struct timespec ts = {limit_ns / 1000000000, limit_ns % 1000000000};
    int n;
    pthread_cleanup_push(sleep_cancelled, me);
    posix_unlock();
    n = posix.confined ? poll_one(want, &extra[1], limit_ns)
                       : posix_real.ppoll(want->fds, want->n + POSIX_WAIT_EXTRA, limit_ns < 0 ? NULL : &ts, want->mask);
    n = n < 0 ? -errno : n;
    posix_lock();
    pthread_cleanup_pop(0);
    if (n > 0 && extra[0].revents)
        drain_bell(me->bell);
    if (n > 0 && extra[1].revents && ctx == posix.ctx)
        client_drain_wake(ctx);
    if (n > 0 && extra[2].revents && ctx == posix.ctx)
        posix_pump(true);
    for (int i = 0; n > 0 && i < POSIX_WAIT_EXTRA; i++)
        n -= extra[i].revents != 0;
    return n;
}

int posix_wait_block(struct posix_wait *w, struct posix_wanted *want) {
    struct posix_waiter *me = &posix_thread.waiter;
    want->polled = false;
    if (!w->spun) {
        posix_wait_spin(w);
        return 0;
    }
    int64_t limit = posix_wait_limit(w);
    if (limit == 0)
        return -EAGAIN;
    if (!posix_sleep_begin())
        return 0;
    waiter_leave(me); /* left by a longjmp */
    waiter_enter(me, want);
    int n = sleep_now(want, me, limit);
    waiter_leave(me);
    posix_sleep_end();
    w->slept = true;
    want->polled = n > 0;
    return n < 0 ? n : 0;
}

int posix_wait_sock(struct posix_wait *w, struct posix_sock *s, short kernel_events) {
    struct pollfd fds[1 + POSIX_WAIT_EXTRA] = {{.fd = s->fd, .events = kernel_events}};
    struct posix_wanted want = {.sock = s, .fds = fds, .n = posix_sock_is_dual(s) && kernel_events ? 1 : 0};
    uint32_t life = s->life;
    int err = posix_wait_block(w, &want);
    if (s->life != life)
        return -CLIENT_BY_KERNEL; /* closed by another thread, or the kernel's now: the C library knows what to say */
    if (want.polled)
        s->looked_ns = 0; /* the kernel socket has something */
    return err;
}
