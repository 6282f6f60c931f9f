/* SPDX-License-Identifier: Apache-2.0
 *
 * Rings and mailboxes, alone and between two threads (the thread sanitizer runs these too).
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include "dataplane/core/mailbox.h"

Test(ring, is_a_bounded_queue) {
    struct ring r;
    int messages[10];
    cr_assert_eq(ring_init(&r, 5), 0); /* becomes 8 */
    cr_assert(ring_empty(&r));
    cr_assert_null(ring_pop(&r));
    for (uint32_t lap = 0; lap < 5; lap++) {
        for (uint32_t i = 0; i < 8; i++)
            cr_assert(ring_push(&r, &messages[i]));
        cr_assert_not(ring_push(&r, &messages[8]), "a full ring refuses");
        for (uint32_t i = 0; i < 8; i++)
            cr_assert_eq(ring_pop(&r), &messages[i]);
        cr_assert(ring_empty(&r));
    }
    ring_fini(&r);
}

#define MESSAGES 200000u

static void *producer(void *arg) {
    for (uintptr_t i = 1; i <= MESSAGES;) {
        if (ring_push(arg, (void *)i))
            i++;
        else
            sched_yield();
    }
    return NULL;
}

Test(ring, keeps_order_between_threads) {
    struct ring r;
    pthread_t t;
    cr_assert_eq(ring_init(&r, 64), 0);
    cr_assert_eq(pthread_create(&t, NULL, producer, &r), 0);
    for (uintptr_t want = 1; want <= MESSAGES;) {
        void *got = ring_pop(&r);
        if (got == NULL) {
            sched_yield();
            continue;
        }
        cr_assert_eq((uintptr_t)got, want);
        want++;
    }
    pthread_join(t, NULL);
    ring_fini(&r);
}

/* ---- mailboxes ---- */

struct worker_like {
    struct mailbox m;
    bool stop;
    uint32_t naps;
};

static void count_up(void *target, void *arg) {
    *(uint32_t *)target += *(const uint32_t *)arg;
}
static void stop_it(void *target, void *arg) {
    (void)arg;
    ((struct worker_like *)target)->stop = true;
}

/* Opens letters and sleeps as a worker does: flag, fence, look, wait for the bell. */
static void *opener(void *arg) {
    struct worker_like *w = arg;
    while (!w->stop) {
        if (mailbox_open(&w->m) > 0)
            continue;
        __atomic_store_n(&w->m.asleep, 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (ring_empty(&w->m.ring)) {
            struct pollfd p = {.fd = w->m.bell, .events = POLLIN};
            eventfd_t ignored;
            poll(&p, 1, 5000);
            (void)eventfd_read(w->m.bell, &ignored); /* plain poll() is level-triggered, unlike the worker's */
            w->naps++;
        }
        __atomic_store_n(&w->m.asleep, 0, __ATOMIC_RELAXED);
    }
    return NULL;
}

Test(mailbox, calls_arrive_in_order_and_wake_the_sleeper) {
    static struct worker_like w;
    pthread_t t;
    uint32_t sum = 0, one = 1;
    cr_assert_eq(mailbox_init(&w.m), 0);
    cr_assert_eq(pthread_create(&t, NULL, opener, &w), 0);
    for (uint32_t i = 0; i < 3000; i++) {
        cr_assert_eq(mailbox_call(&w.m, count_up, &sum, &one, 5 * NS_PER_SEC), 0);
        cr_assert_eq(sum, i + 1, "a call returns after it ran");
    }
    cr_assert_eq(mailbox_call(&w.m, stop_it, &w, NULL, 5 * NS_PER_SEC), 0);
    pthread_join(t, NULL);
    mailbox_fini(&w.m);
}

Test(mailbox, a_letter_nobody_opened_in_time_never_runs) {
    static struct mailbox m;
    uint32_t sum = 0, one = 1;
    cr_assert_eq(mailbox_init(&m), 0);
    cr_assert_eq(mailbox_call(&m, count_up, &sum, &one, NS_PER_MS), -ETIMEDOUT);
    cr_assert_eq(mailbox_open(&m), 1);
    cr_assert_eq(sum, 0);
    for (uint32_t i = 0; i < LETTER_MAX; i++)
        cr_assert_eq(mailbox_call(&m, count_up, &sum, &one, 0), -ETIMEDOUT);
    cr_assert_eq(mailbox_call(&m, count_up, &sum, &one, 0), -ENOBUFS, "too many were abandoned");
    cr_assert_eq(mailbox_open(&m), LETTER_MAX);
    cr_assert_eq(mailbox_call(&m, count_up, &sum, &one, 0), -ETIMEDOUT, "their places are free again");
    cr_assert_eq(sum, 0);
    mailbox_fini(&m);
}
