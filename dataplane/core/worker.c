/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's loop: poll, look for as long as it pays, arm, sleep. On the worker's own thread, except for start, stop
 * and call. It does not know what shards do with what they find.
 *
 * The io_uring is for sleeping and for kicks only: packets and submissions are found by polling memory. While the
 * worker polls, a pending kick shows as a bit in a shared word (IORING_SQ_TASKRUN): one load a turn.
 */
#include "dataplane/core/worker.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session_internal.h"

#define RING_SQ      64u
#define RING_CQ      4096u
#define SPIN_FLOOR   (2 * NS_PER_US)   /* the tuned time never falls below: less than the cost of a sleep */
#define YIELD_FLOOR  (30 * NS_PER_US)  /* with clients on this core: about three of their turns */
#define LINGER       (2 * NS_PER_US)   /* ... but after work look for so long, unless it was for one of them */
#define HOG_TOLD     (10 * NS_PER_US)  /* busy for so long: the core goes to a client that waits for its news, ... */
#define HOG_SHARED   (100 * NS_PER_US) /* ... or to whoever else may want it */
#define SPIN_ALONE   NS_PER_SEC        /* a core of its own: sleep only when nothing came for so long */
#define CROWD_TURN   (20 * NS_PER_US)  /* a turn without work that took so long: somebody else ran on this core ... */
#define CROWD_FOR    (10 * NS_PER_MS)  /* ... and is given way to for so long */
#define CALL_TIMEOUT (5 * NS_PER_SEC)
#define SLICE        (100 * NS_PER_US) /* the least the kernel takes */

/* ---- what wakes us ---- */

static uint64_t watch_key(enum watch_kind kind, uint32_t shard, uint32_t index) {
    return ((uint64_t)kind << 56) | ((uint64_t)shard << 40) | index;
}

static struct io_uring_sqe *sqe_get(struct worker *w) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&w->ring);
    if (sqe == NULL && io_uring_submit(&w->ring) >= 0)
        sqe = io_uring_get_sqe(&w->ring);
    return sqe;
}

static bool watch_add(struct worker *w, uint64_t key, int fd) {
    struct io_uring_sqe *sqe = sqe_get(w);
    if (sqe == NULL)
        return false;
    io_uring_prep_poll_multishot(sqe, fd, POLLIN);
    io_uring_sqe_set_data64(sqe, key);
    return io_uring_submit(&w->ring) >= 0;
}

bool worker_watch(struct shard *sh, enum watch_kind kind, uint32_t index, int fd) {
    return sh->worker != NULL && watch_add(sh->worker, watch_key(kind, sh->index, index), fd);
}

void worker_unwatch(struct shard *sh, enum watch_kind kind, uint32_t index) {
    struct worker *w = sh->worker;
    struct io_uring_sqe *sqe = w != NULL ? sqe_get(w) : NULL;
    if (sqe == NULL)
        return;
    io_uring_prep_cancel64(sqe, watch_key(kind, sh->index, index), IORING_ASYNC_CANCEL_ALL);
    io_uring_sqe_set_data64(sqe, watch_key(WATCH_CANCEL, 0, 0));
    (void)io_uring_submit(&w->ring);
}

static struct shard *shard_find(struct worker *w, uint32_t index) {
    for (uint32_t i = 0; i < w->shard_count; i++) {
        if (w->shard[i]->index == index)
            return w->shard[i];
    }
    return NULL;
}

/* The kernel ended a watch (its completion ring overflowed, or the fd cannot be polled). */
static void watch_again(struct worker *w, enum watch_kind kind, uint32_t shard, uint32_t index, bool failed) {
    struct shard *sh = shard_find(w, shard);
    if (kind == WATCH_MAILBOX)
        (void)watch_add(w, watch_key(kind, 0, 0), w->mailbox.bell);
    if (kind == WATCH_BELL && sh != NULL)
        (void)worker_watch(sh, kind, 0, sh->bell);
    if (kind == WATCH_QUEUE && sh != NULL && index < sh->queue_count) {
        sh->queue[index].polling = false;
        sh->queue[index].watched = !failed && sh->queue[index].q->event_level; /* unwatched queues keep us polling */
        if (!failed && !sh->queue[index].watched)
            shard_queue_watch(sh, index);
    }
    if (kind == WATCH_SET && sh != NULL && index < sh->session_max && sh->set[index] != NULL)
        session_set_watch(sh, sh->set[index], !failed);
}

static void watch_fired(struct worker *w, const struct io_uring_cqe *cqe) {
    uint64_t key = cqe->user_data;
    enum watch_kind kind = (enum watch_kind)(key >> 56);
    uint32_t shard = (uint32_t)(key >> 40) & 0xffff, index = (uint32_t)key;
    if (kind == WATCH_SET && cqe->res > 0) {
        struct shard *sh = shard_find(w, shard);
        w->stats.kicks++;
        if (sh != NULL)
            session_kicked(sh, index);
    }
    if (!(cqe->flags & IORING_CQE_F_MORE) && kind != WATCH_CANCEL && cqe->res != -ECANCELED)
        watch_again(w, kind, shard, index, cqe->res < 0);
}

static void ring_harvest(struct worker *w) {
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    io_uring_for_each_cqe(&w->ring, head, cqe) {
        watch_fired(w, cqe);
        if (++n == RING_CQ)
            break;
    }
    io_uring_cq_advance(&w->ring, n);
}

static void ring_look(struct worker *w) {
    unsigned flags = __atomic_load_n(w->ring.sq.kflags, __ATOMIC_RELAXED);
    if (UNLIKELY(flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)))
        (void)io_uring_get_events(&w->ring);
    if (UNLIKELY(io_uring_cq_ready(&w->ring) > 0))
        ring_harvest(w);
}

/* ---- shards come and go ---- */

void worker_shard_add(struct worker *w, struct shard *sh) {
    CHECK(w->shard_count < SHARD_MAX && sh->worker == NULL);
    w->shard[w->shard_count++] = sh;
    sh->worker = w;
    sh->now = w->clock.last;
    sh->deadline = 0;
    (void)worker_watch(sh, WATCH_BELL, 0, sh->bell);
    for (uint32_t i = 0; i < sh->queue_count; i++) {
        (void)sh->queue[i].q->ops->attach(sh->queue[i].q);
        shard_queue_watch(sh, i);
    }
    for (uint32_t i = 0; i < sh->session_max; i++) {
        if (sh->set[i] != NULL)
            session_set_watch(sh, sh->set[i], true);
    }
    session_cpu_set(sh, w->cpu);
}

void worker_shard_remove(struct worker *w, struct shard *sh) {
    for (uint32_t i = 0; i < sh->session_max; i++) {
        if (sh->set[i] != NULL)
            session_set_watch(sh, sh->set[i], false);
    }
    for (uint32_t i = 0; i < sh->queue_count; i++) {
        worker_unwatch(sh, WATCH_QUEUE, i);
        sh->queue[i].watched = sh->queue[i].polling = false;
        sh->queue[i].q->ops->detach(sh->queue[i].q);
    }
    worker_unwatch(sh, WATCH_BELL, 0);
    ring_look(w); /* what the cancelled watches left behind must not be taken for the next owner's */
    for (uint32_t i = 0; i < w->shard_count; i++) {
        if (w->shard[i] == sh)
            w->shard[i] = w->shard[w->shard_count - 1];
    }
    w->shard_count--;
    sh->worker = NULL;
}

/* ---- the scheduler ---- */

/* sched_setattr(2), for which glibc 2.36 has no wrapper. */
struct scheduling {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* A shorter slice than others have, and no larger share: a worker that is woken on a busy core runs at once, not when
 * the one that runs there next sleeps (from Linux 6.12 on; before, the kernel ignores it). Whoever sends to us from our
 * own core would else go on until it blocks: 9 us of a wake-up. Not where clients of this core yield to us: with the
 * earlier deadline we would get the core that we have just given away (one-core: 16 us instead of 10; tcp-rtt between
 * two processes: 14 instead of 5). What somebody chose for us stays. */
static void slice_set(struct worker *w, bool is_short) {
    struct scheduling s = {.size = sizeof s};
    if (!w->runs) /* control's thread, of which we have no say; the worker's own sleep catches up */
        return;
    w->slice_short = is_short;
    if (syscall(SYS_sched_getattr, 0, &s, sizeof s, 0) < 0 || s.policy != SCHED_OTHER)
        return;
    s.runtime = is_short ? SLICE : 0;
    (void)syscall(SYS_sched_setattr, 0, &s, 0);
}

void worker_idle_set(struct worker *w, enum idle_policy policy) {
    w->idle = (uint8_t)policy;
    slice_set(w, policy != IDLE_YIELD);
}

/* ---- waiting ---- */

/* Level-triggered queues are watched while we sleep only: a watch costs the kernel a wake-up and us a system call for
 * every turn with packets, a twentieth of the core of a bulk stream. False: one could not be; do not sleep. */
static bool queues_watch(struct worker *w) {
    for (uint32_t i = 0; i < w->shard_count; i++) {
        struct shard *sh = w->shard[i];
        for (uint32_t k = 0; k < sh->queue_count; k++) {
            struct shard_queue *sq = &sh->queue[k];
            if (!sq->q->event_level || sq->polling)
                continue;
            struct io_uring_sqe *sqe = sqe_get(w);
            if (sqe == NULL)
                return false;
            io_uring_prep_poll_add(sqe, sq->q->event_fd, POLLIN); /* goes with the wait itself */
            io_uring_sqe_set_data64(sqe, watch_key(WATCH_QUEUE, sh->index, k));
            sq->polling = true;
        }
    }
    return true;
}

static ns_t deadline_of(const struct worker *w) {
    ns_t first = NS_NEVER;
    for (uint32_t i = 0; i < w->shard_count; i++)
        first = w->shard[i]->deadline < first ? w->shard[i]->deadline : first;
    return first;
}

static void ring_wait(struct worker *w, ns_t now) {
    ns_t until = deadline_of(w);
    struct io_uring_cqe *cqe;
    if (until == NS_NEVER) {
        (void)io_uring_submit_and_wait(&w->ring, 1);
        return;
    }
    if (until <= now)
        return;
    ns_t ns = until - now;
    struct __kernel_timespec ts = {.tv_sec = (long long)(ns / NS_PER_SEC), .tv_nsec = (long long)(ns % NS_PER_SEC)};
    (void)io_uring_submit_and_wait_timeout(&w->ring, &cqe, 1, &ts, NULL);
}

/* Flags up, fence, look again, sleep; the other sides: message, fence, look at the flag. WAKEUP.md has the proof. */
static void worker_sleep(struct worker *w) {
    if (UNLIKELY(!w->slice_short && w->idle != IDLE_YIELD && w->clock.last - w->yielder_at > CROWD_FOR))
        slice_set(w, true);
    __atomic_store_n(&w->mailbox.asleep, 1, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < w->shard_count; i++)
        shard_arm(w->shard[i]);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    bool work = !ring_empty(&w->mailbox.ring);
    for (uint32_t i = 0; i < w->shard_count; i++)
        work |= shard_recheck(w->shard[i]);
    if (!work && queues_watch(w)) {
        w->stats.sleeps++;
        ring_wait(w, clock_sync(&w->clock));
    }
    for (uint32_t i = 0; i < w->shard_count; i++)
        shard_disarm(w->shard[i]);
    __atomic_store_n(&w->mailbox.asleep, 0, __ATOMIC_RELAXED);
    ns_t now = clock_sync(&w->clock);
    for (uint32_t i = 0; i < w->shard_count; i++)
        w->shard[i]->now = now;
    ring_look(w);
    w->slept = true;
}

/* Learns how long looking pays. A gap that looking would have bridged makes the next look twice that long; a gap far
 * beyond the limit halves it. */
static void spin_tune(struct worker *w, ns_t gap, bool slept) {
    ns_t floor = w->idle == IDLE_YIELD ? YIELD_FLOOR : SPIN_FLOOR;
    ns_t want = 2 * gap;
    if (gap > w->spin_max_ns)
        w->spin_ns -= w->spin_ns / 2;
    else if (want > w->spin_ns)
        w->spin_ns = want;
    else if (!slept)
        w->spin_ns -= (w->spin_ns - want) / 64;
    w->spin_ns = w->spin_ns < floor ? floor : w->spin_ns;
    w->spin_ns = w->spin_ns > w->spin_max_ns ? w->spin_max_ns : w->spin_ns;
}

/* Since the last question: whom was there news for? */
static uint32_t told(struct worker *w, ns_t now) {
    uint32_t whom = 0;
    for (uint32_t i = 0; i < w->shard_count; i++) {
        whom |= w->shard[i]->told;
        w->shard[i]->told = 0;
    }
    if (whom & TOLD_YIELDER) {
        w->yielder_at = now;
        if (UNLIKELY(w->slice_short))
            slice_set(w, false);
    }
    return whom;
}

/* Whoever waits for us on this core gets it as soon as there is news for it. After news for others only we look a
 * little longer: a client on another core answers within a microsecond, and a turn of giving the core away and getting
 * it back takes more than two. While there is work it may wait a little: see HOG_TOLD. For one that sleeps the core is
 * given away only if others are known to want it: the kernel wakes it in time, and to give way costs a turn of whoever
 * computes here. */
static bool gives_way(struct worker *w, ns_t now, bool busy) {
    bool shared = w->idle == IDLE_YIELD || now < w->crowded_until;
    ns_t kept = now - w->gave_way;
    if (busy && kept < HOG_TOLD)
        return false;
    if (told(w, now) & (shared ? TOLD_YIELDER | TOLD_SLEEPER : TOLD_YIELDER))
        return true;
    return shared && (busy ? kept >= HOG_SHARED : now - w->last_work >= LINGER);
}

static void give_way(struct worker *w) {
    sched_yield();
    w->gave_way = clock_now(&w->clock);
}

static void worker_idle(struct worker *w, ns_t now) {
    ns_t look = w->idle == IDLE_SPIN ? SPIN_ALONE : w->spin_ns;
    if (w->shard_count > 0 && now - w->last_work < look) {
        if (gives_way(w, now, false))
            give_way(w);
        return;
    }
    worker_sleep(w);
}

/* ---- the loop ---- */

static void load_account(struct worker *w, ns_t now) {
    ns_t took = now - w->turn_start;
    w->turn_start = now;
    w->stats.turns++;
    if (!w->turn_busy) {
        w->stats.spin_ns += took;
        if (UNLIKELY(took > CROWD_TURN) && w->idle == IDLE_TUNED)
            w->crowded_until = now + CROWD_FOR;
    } else {
        w->stats.busy_turns++;
        w->stats.busy_ns += took;
        w->delay_map[63 - __builtin_clzll(took | 1)]++;
    }
    if (UNLIKELY(now - w->window_start > SCHED_WINDOW_NS))
        sched_report(w, now);
}

static void worker_turn(struct worker *w) {
    ns_t now = clock_now(&w->clock);
    if (UNLIKELY(w->slept)) { /* the nap is neither work nor looking */
        w->turn_start = now;
        w->turn_busy = false;
    }
    load_account(w, now);
    uint32_t work = mailbox_open(&w->mailbox);
    for (uint32_t i = 0; i < w->shard_count; i++)
        work += shard_poll(w->shard[i], now);
    ring_look(w);
    w->turn_busy = work > 0;
    if (work > 0) {
        spin_tune(w, now - w->last_work, w->slept);
        w->stats.wakes += w->slept;
        w->last_work = now;
        w->slept = false;
        if (UNLIKELY(gives_way(w, now, true)))
            give_way(w);
    } else {
        worker_idle(w, now);
    }
}

static int ring_open(struct worker *w) {
    static const unsigned wishes[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int error = -EINVAL;
    for (size_t i = 0; i < ARRAY_LEN(wishes) && error == -EINVAL; i++) {
        struct io_uring_params p = {.flags = wishes[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
                                    .cq_entries = RING_CQ};
        error = io_uring_queue_init_params(RING_SQ, &w->ring, &p);
    }
    return error;
}

static void thread_prepare(struct worker *w) {
    char name[16];
    snprintf(name, sizeof name, "usher-w%u", w->index);
    prctl(PR_SET_NAME, name);
    prctl(PR_SET_TIMERSLACK, 1ul);
    if (w->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((unsigned)w->cpu, &set);
        (void)sched_setaffinity(0, sizeof set, &set);
    }
    w->slice_short = false; /* a new thread has what everybody has */
    clock_init(&w->clock);
    w->last_work = w->turn_start = w->window_start = w->clock.last;
}

static void *worker_main(void *arg) {
    struct worker *w = arg;
    thread_prepare(w);
    int error = ring_open(w);
    if (error == 0 && !watch_add(w, watch_key(WATCH_MAILBOX, 0, 0), w->mailbox.bell))
        error = -EIO;
    if (error == 0 && w->rt->cfg.worker_begins != NULL)
        w->rt->cfg.worker_begins();
    __atomic_store_n(&w->start_error, error, __ATOMIC_RELEASE);
    w->runs = error == 0;
    sem_post(&w->ready);
    if (error < 0)
        return NULL;
    while (!w->stop)
        worker_turn(w);
    while (w->shard_count > 0)
        worker_shard_remove(w, w->shard[0]);
    io_uring_queue_exit(&w->ring);
    w->runs = false;
    return NULL;
}

/* ---- control's side ---- */

int worker_init(struct worker *w, struct runtime *rt, uint32_t index) {
    memset(w, 0, sizeof *w);
    w->rt = rt;
    w->index = index;
    w->cpu = -1;
    w->idle = IDLE_TUNED;
    w->spin_max_ns = (ns_t)rt->cfg.spin_max_us * NS_PER_US;
    w->spin_ns = w->spin_max_ns;
    sem_init(&w->ready, 0, 0);
    return mailbox_init(&w->mailbox);
}

void worker_fini(struct worker *w) {
    worker_stop(w);
    sem_destroy(&w->ready);
    mailbox_fini(&w->mailbox);
}

static const int faults[] = {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT};

int worker_start(struct worker *w, int32_t cpu, struct runtime_error *err) {
    if (w->started)
        return 0;
    w->cpu = cpu;
    w->stop = false;
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        sigdelset(&all, faults[i]); /* a fault that is blocked would end the process before its handler is asked */
    pthread_sigmask(SIG_SETMASK, &all, &before); /* the others are control's */
    int error = -pthread_create(&w->thread, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error < 0)
        return runtime_fail(err, error, "cannot start worker %u: %s", w->index, strerror(-error));
    while (sem_wait(&w->ready) < 0 && errno == EINTR)
        continue;
    error = __atomic_load_n(&w->start_error, __ATOMIC_ACQUIRE);
    if (error < 0) {
        pthread_join(w->thread, NULL);
        return runtime_fail(err, error, "worker %u cannot use io_uring: %s; check kernel.io_uring_disabled", w->index,
                            strerror(-error));
    }
    w->started = true;
    w->stats.running = true;
    return 0;
}

static void stop_letter(void *target, void *arg) {
    (void)arg;
    ((struct worker *)target)->stop = true;
}

void worker_stop(struct worker *w) {
    if (!w->started)
        return;
    while (mailbox_call(&w->mailbox, stop_letter, w, NULL, CALL_TIMEOUT) == -ENOBUFS)
        continue;
    pthread_join(w->thread, NULL);
    w->started = false;
    w->stats.running = false;
}

int worker_call(struct worker *w, letter_fn *fn, void *target, void *arg) {
    if (!w->started) {
        fn(target, arg);
        return 0;
    }
    return mailbox_call(&w->mailbox, fn, target, arg, CALL_TIMEOUT);
}
