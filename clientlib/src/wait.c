/* SPDX-License-Identifier: Apache-2.0
 *
 * Waiting: look, look actively while that pays, then sleep. Also usher_fd() and usher_arm() for foreign loops.
 *
 * Sleeping follows usher_shm.h: an odd wait_ticket in every set, a full fence, one more look at the rings, then one
 * epoll wait over the wake socket, the session socket and the kernel sockets.
 *
 * Several threads may wait. One of them leads: it alone spins and sleeps on the session. The others sleep on a futex;
 * they are woken when the leader finds something for another socket, and when it leaves.
 */
#include <limits.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "clientlib/src/internal.h"
#include "clientlib/src/tags.h"

/* Looks between two looks at the clock while spinning: about 40 ns of pauses. */
#define SPIN_LOOKS 16
#define YIELD_MAX  64
/* Nothing tells us when a ring slot, a copied block or credit comes back: look again after this long. */
#define NAG_NS CLIENT_NAG_NS

/* ---- does an active wait pay? ---- */

/* The share of recent waits whose event came within the longest spin, as an exponential mean over about eight. A wait
 * that slept counts as well: had it been short, a spin would have caught it. */
void client_spin_learn(struct usher_context *ctx, int64_t waited_ns) {
    uint32_t *score = &ctx->tune.score;
    if (waited_ns <= CLIENT_SPIN_MAX_US * 1000)
        *score += (256 - *score + 7) / 8;
    else
        *score -= (*score + 7) / 8;
}

int64_t client_spin_budget(const struct usher_context *ctx) {
    if (ctx->accelerated == 0)
        return 0;
    if (ctx->spin_us >= 0)
        return (int64_t)ctx->spin_us * 1000;
    return ctx->tune.score >= 64 ? CLIENT_SPIN_MAX_US * 1000 : 0;
}

/* True when spinning would keep the worker, whose answer we wait for, from its core. */
bool client_shares_core(struct usher_context *ctx) {
    if (ctx->tune.waits++ % 256 == 0) {
        cpu_set_t mask;
        ctx->tune.one_cpu = sched_getaffinity(0, sizeof(mask), &mask) == 0 && CPU_COUNT(&mask) == 1;
    }
    int me = sched_getcpu();
    for (uint32_t i = 0; i < ctx->set_count; i++) {
        int32_t cpu = __atomic_load_n(&ctx->sets[i]->shared->worker_cpu, __ATOMIC_RELAXED);
        if (cpu == me || (cpu < 0 && ctx->tune.one_cpu))
            return true;
    }
    return false;
}

/* ---- the active part ---- */

/* Without the lock. */
static bool has_news(const struct usher_context *ctx, uint32_t news) {
    return client_any_ready(ctx) || __atomic_load_n(&ctx->news, __ATOMIC_RELAXED) != news;
}

static void spin(const struct usher_context *ctx, uint32_t news, int64_t end_ns) {
    while (client_now() < end_ns)
        for (int i = 0; i < SPIN_LOOKS; i++) {
            if (has_news(ctx, news))
                return;
            client_cpu_pause();
        }
}

/* A hint, without the lock: it costs the worker nothing to find it wrong. */
static void say_yields(const struct usher_context *ctx, uint32_t value) {
    uint32_t n = __atomic_load_n(&ctx->set_count, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n; i++)
        __atomic_store_n(&ctx->sets[i]->shared->yields, value, __ATOMIC_RELAXED);
}

static void yield(const struct usher_context *ctx, uint32_t news, int64_t end_ns) {
    say_yields(ctx, 1);
    for (int i = 0; i < YIELD_MAX && !has_news(ctx, news) && client_now() < end_ns; i++)
        sched_yield();
    say_yields(ctx, 0);
}

static int64_t earlier(int64_t a, int64_t deadline) {
    return deadline >= 0 && deadline < a ? deadline : a;
}

static void active_wait(struct usher_context *ctx, struct client_wait *w) {
    w->spun = true;
    int64_t budget = client_spin_budget(ctx);
    if (budget == 0)
        return;
    int64_t end = earlier(w->start_ns + budget, w->deadline_ns);
    bool shared = client_shares_core(ctx);
    uint32_t news = ctx->news;
    client_leave(ctx);
    if (shared)
        yield(ctx, news, end);
    else
        spin(ctx, news, end);
    client_relock(ctx);
}

/* ---- tickets ---- */

static void tickets_odd(struct usher_context *ctx) {
    for (uint32_t i = 0; i < ctx->set_count; i++) {
        struct client_set *s = ctx->sets[i];
        s->ticket += s->ticket & 1 ? 2 : 1;
        __atomic_store_n(&s->shared->wait_ticket, s->ticket, __ATOMIC_RELAXED);
    }
}

/* Nobody sleeps any more: spares the worker a wake-up that would only be drained. */
void client_sleep_over(struct usher_context *ctx) {
    if (ctx->armed || ctx->asleep)
        return;
    for (uint32_t i = 0; i < ctx->set_count; i++) {
        struct client_set *s = ctx->sets[i];
        s->ticket += s->ticket & 1;
        __atomic_store_n(&s->shared->wait_ticket, s->ticket, __ATOMIC_RELAXED);
    }
}

void client_disarm(struct usher_context *ctx) {
    if (!ctx->armed)
        return;
    ctx->armed = false;
    client_sleep_over(ctx);
}

/* True: sleep now, the worker will send a wake-up. False: there is something already. */
bool client_sleep_announce(struct usher_context *ctx) {
    if (ctx->wake_taken) /* while no ticket is odd: a byte for the next one stays */
        client_drain_wake(ctx);
    if (ctx->down || ctx->away)
        return true;
    client_release_flush_all(ctx);
    client_kick(ctx);
    tickets_odd(ctx);
    /* Between our ticket and the look at the rings; pairs with the worker's fence between its entries and the look
     * at the ticket. One of the two sees the other. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!client_any_ready(ctx))
        return true;
    client_sleep_over(ctx);
    return false;
}

bool client_sleep_nags(struct usher_context *ctx) {
    return ctx->blocked || ctx->tx_wanted || ctx->closes_due || ctx->away || ctx->agains;
}

/* ---- sleeping ---- */

static int sleep_on_epoll(struct usher_context *ctx, struct client_wait *w, int64_t limit_ns) {
    struct epoll_event ev;
    struct timespec ts = {limit_ns / 1000000000, limit_ns % 1000000000};
    ctx->asleep = true;
    client_leave(ctx);
    int n = epoll_pwait2(ctx->epoll_fd, &ev, 1, limit_ns < 0 ? NULL : &ts, NULL);
    int err = n < 0 ? -errno : 0;
    client_relock(ctx);
    ctx->asleep = false;
    client_sleep_over(ctx);
    /* A socket that was ready is not believed: another thread may have closed it since. A wake-up means the rings. */
    if (n == 1 && ev.data.u64 == TAG_WAKE)
        ctx->wake_taken = true; /* what came is looked at first: 2 us sooner */
    else
        w->look = true;
    w->slept = true;
    return err == -EINTR ? err : 0;
}

/* Nanoseconds to sleep: < 0 for ever, 0 = the time is up. */
static int64_t sleep_limit(struct usher_context *ctx, const struct client_wait *w) {
    int64_t limit = -1;
    if (w->deadline_ns >= 0) {
        limit = w->deadline_ns - client_now();
        if (limit <= 0)
            return 0;
    }
    if (client_sleep_nags(ctx) && (limit < 0 || limit > NAG_NS))
        limit = NAG_NS;
    return limit;
}

static int follow(struct usher_context *ctx, const struct client_wait *w) {
    int64_t limit = sleep_limit(ctx, w);
    if (limit == 0)
        return -EAGAIN;
    uint32_t news = ctx->news;
    struct timespec ts = {limit / 1000000000, limit % 1000000000};
    ctx->followers++;
    client_lock_give(&ctx->lock);
    int err = client_futex_wait(&ctx->news, news, limit < 0 ? NULL : &ts);
    client_lock_take(&ctx->lock);
    ctx->followers--;
    return err == -EINTR ? err : 0;
}

void client_waiters_wake(struct usher_context *ctx) {
    __atomic_store_n(&ctx->news, ctx->news + 1, __ATOMIC_RELAXED);
    if (ctx->followers)
        client_futex_wake(&ctx->news, INT_MAX);
    if (ctx->asleep) {
        /* The timer is in the leader's epoll set: firing it now wakes the leader without one more fd. */
        const struct itimerspec now = {.it_value = {.tv_nsec = 1}};
        timerfd_settime(ctx->timer_fd, 0, &now, NULL);
    }
}

void client_wait_begin(struct client_wait *w, struct usher_socket *sock, int64_t timeout_ns) {
    *w = (struct client_wait){.sock = sock, .deadline_ns = -1};
    w->start_ns = client_now();
    if (timeout_ns >= 0 && __builtin_add_overflow(w->start_ns, timeout_ns, &w->deadline_ns))
        w->deadline_ns = INT64_MAX;
}

int client_wait_block(struct usher_context *ctx, struct client_wait *w) {
    w->look = false;
    if (!w->leads && ctx->leader)
        return follow(ctx, w);
    w->leads = ctx->leader = true;
    client_kick(ctx);
    if (!w->spun) {
        active_wait(ctx, w);
        return 0;
    }
    int64_t limit = sleep_limit(ctx, w);
    if (limit == 0)
        return -EAGAIN;
    return client_sleep_announce(ctx) ? sleep_on_epoll(ctx, w, limit) : 0;
}

void client_wait_end(struct usher_context *ctx, struct client_wait *w, bool success) {
    if (w->spun)
        client_spin_learn(ctx, !success ? INT64_MAX : w->slept ? client_now() - w->start_ns : 0);
    if (!w->leads)
        return;
    ctx->leader = false;
    client_waiters_wake(ctx);
}

/* ---- foreign loops ---- */

int usher_fd(struct usher_context *ctx) {
    int err = client_enter(ctx);
    if (err)
        return err;
    client_leave(ctx);
    return ctx->epoll_fd;
}

static void set_timer(struct usher_context *ctx) {
    const struct itimerspec soon = {.it_value = {.tv_nsec = NAG_NS}};
    if (ctx->timer_on || timerfd_settime(ctx->timer_fd, 0, &soon, NULL) == 0)
        ctx->timer_on = true;
}

static bool has_something(struct usher_context *ctx) {
    return client_has_parked(ctx) || ctx->down_event || ctx->down_errno || (ctx->blocked && client_any_writable(ctx)) ||
           (ctx->tx_wanted && client_tx_available(ctx));
}

int usher_arm(struct usher_context *ctx) {
    int err = client_enter(ctx);
    if (err)
        return err;
    bool something = has_something(ctx);
    if (!something) {
        ctx->armed = true;
        something = !client_sleep_announce(ctx);
        if (something)
            client_disarm(ctx);
        else if (client_sleep_nags(ctx))
            set_timer(ctx);
    }
    client_leave(ctx);
    return something;
}
