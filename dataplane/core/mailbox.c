/* SPDX-License-Identifier: Apache-2.0
 *
 * Letters from control to a worker, see mailbox.h. Control waits in a futex on the letter's state; the worker neither
 * waits nor allocates.
 */
#include "dataplane/core/mailbox.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int mailbox_init(struct mailbox *m) {
    *m = (struct mailbox){.bell = -1};
    int error = ring_init(&m->ring, LETTER_MAX);
    if (error < 0)
        return error;
    m->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return m->bell < 0 ? -errno : 0;
}

void mailbox_fini(struct mailbox *m) {
    if (m->bell >= 0)
        close(m->bell);
    ring_fini(&m->ring);
    m->bell = -1;
}

void mailbox_ring_if(const uint32_t *asleep, int bell) {
    /* Pairs with the fence between the sleeper's flag and its last look. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(asleep, __ATOMIC_RELAXED) == 0)
        return;
    (void)eventfd_write(bell, 1);
}

/* Abandoned letters become free when the worker has passed them. */
static struct letter *letter_take(struct mailbox *m) {
    for (uint32_t i = 0; i < LETTER_MAX; i++) {
        struct letter *l = &m->letter[(m->next + i) % LETTER_MAX];
        if (__atomic_load_n(&l->state, __ATOMIC_ACQUIRE) == LETTER_FREE) {
            m->next = (m->next + i + 1) % LETTER_MAX;
            return l;
        }
    }
    return NULL;
}

static ns_t monotonic(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (ns_t)ts.tv_sec * NS_PER_SEC + (ns_t)ts.tv_nsec;
}

static int letter_wait(struct letter *l, ns_t timeout_ns) {
    ns_t end = monotonic() + timeout_ns;
    for (;;) {
        uint32_t state = __atomic_load_n(&l->state, __ATOMIC_ACQUIRE);
        if (state == LETTER_DONE)
            return 0;
        ns_t now = monotonic();
        if (now >= end)
            return -ETIMEDOUT;
        struct timespec ts = {.tv_sec = (time_t)((end - now) / NS_PER_SEC),
                              .tv_nsec = (long)((end - now) % NS_PER_SEC)};
        (void)syscall(SYS_futex, &l->state, FUTEX_WAIT_PRIVATE, state, &ts, NULL, 0);
    }
}

int mailbox_call(struct mailbox *m, letter_fn *fn, void *target, void *arg, ns_t timeout_ns) {
    struct letter *l = letter_take(m);
    if (l == NULL)
        return -ENOBUFS;
    l->fn = fn;
    l->target = target;
    l->arg = arg;
    __atomic_store_n(&l->state, LETTER_POSTED, __ATOMIC_RELEASE);
    if (!ring_push(&m->ring, l)) {
        __atomic_store_n(&l->state, LETTER_FREE, __ATOMIC_RELEASE);
        return -ENOBUFS;
    }
    mailbox_ring_if(&m->asleep, m->bell);
    int error = letter_wait(l, timeout_ns);
    if (error < 0) {
        /* Still unopened: the worker will find it cancelled. Open: it may finish any time, then it frees it itself. */
        uint32_t state = __atomic_exchange_n(&l->state, LETTER_CANCELLED, __ATOMIC_ACQ_REL);
        if (state != LETTER_DONE)
            return error;
    }
    __atomic_store_n(&l->state, LETTER_FREE, __ATOMIC_RELEASE);
    return 0;
}

static void letter_open(struct letter *l) {
    uint32_t posted = LETTER_POSTED;
    if (__atomic_compare_exchange_n(&l->state, &posted, LETTER_OPEN, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        l->fn(l->target, l->arg);
        uint32_t open = LETTER_OPEN;
        if (__atomic_compare_exchange_n(&l->state, &open, LETTER_DONE, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            (void)syscall(SYS_futex, &l->state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
            return;
        }
    }
    __atomic_store_n(&l->state, LETTER_FREE, __ATOMIC_RELEASE);
}

uint32_t mailbox_open(struct mailbox *m) {
    uint32_t n = 0;
    for (struct letter *l; n < LETTER_MAX && (l = ring_pop(&m->ring)) != NULL; n++)
        letter_open(l);
    return n;
}
