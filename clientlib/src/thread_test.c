/* SPDX-License-Identifier: Apache-2.0
 *
 * Several threads in one context, and fork. Meant for the thread sanitizer as well.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

#define THREADS 4
#define ROUNDS  400

struct job {
    struct rig *r;
    struct usher_socket *sock;
    int ok;
};

static void *own_socket_main(void *arg) {
    struct job *j = arg;
    for (int i = 0; i < ROUNDS; i++) {
        int got = -1;
        if (rig_send(j->sock, &i, sizeof(i)) != sizeof(i) ||
            usher_recvfrom(j->sock, &got, sizeof(got), NULL, NULL, 20 * SECOND) != sizeof(got) || got != i)
            return NULL;
    }
    j->ok = 1;
    return NULL;
}

static void run_threads(struct rig *r, void *(*main)(void *)) {
    pthread_t t[THREADS];
    struct job jobs[THREADS];
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){r, i ? rig_socket(r->ctx) : r->sock, 0};
        cr_assert_eq(pthread_create(&t[i], NULL, main, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
        cr_assert(jobs[i].ok, "thread %d: %s", i, usher_strerror());
    }
}

Test(thread, each_waits_on_its_own_socket, .timeout = 100) {
    static const int spins[] = {0, -1, 20};
    for (int i = 0; i < 3; i++) {
        const struct fake_config c = {.sets = (uint32_t)i + 1, .cq_entries = 16};
        struct rig r = rig_start_with(&c, 0, spins[i]);
        run_threads(&r, own_socket_main);
        rig_stop(&r);
    }
}

/* Sockets come and go while others carry traffic. */
static void *churn_main(void *arg) {
    struct job *j = arg;
    for (int i = 0; i < ROUNDS / 8; i++) {
        struct usher_socket *s = rig_socket(j->r->ctx);
        char buf[4];
        if (rig_send(s, "x", 1) != 1 || usher_recvfrom(s, buf, 4, NULL, NULL, 20 * SECOND) != 1)
            return NULL;
        rig_send(s, "x", 1); /* left on its way */
        usher_close(s);
    }
    j->ok = 1;
    return NULL;
}

Test(thread, sockets_come_and_go_under_traffic, .timeout = 100) {
    const struct fake_config c = {.sets = 2};
    struct rig r = rig_start(&c);
    pthread_t t;
    struct job steady = {&r, rig_socket(r.ctx), 0};
    cr_assert_eq(pthread_create(&t, NULL, own_socket_main, &steady), 0);
    run_threads(&r, churn_main);
    pthread_join(t, NULL);
    cr_assert(steady.ok);
    struct fake_stats st;
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.bad, 0);
    rig_stop(&r);
}

static uint32_t taken;

static void *take_main(void *arg) {
    struct job *j = arg;
    while (__atomic_load_n(&taken, __ATOMIC_RELAXED) < 1000) {
        struct usher_event ev[4];
        int n = usher_wait(j->r->ctx, ev, 4, 5000000);
        for (int i = 0; i < n; i++) {
            if (ev[i].type != USHER_EV_RECV)
                continue;
            usher_rx_release(j->r->ctx, &ev[i].msg, 1);
            __atomic_add_fetch(&taken, 1, __ATOMIC_RELAXED);
        }
    }
    j->ok = 1;
    return NULL;
}

static void *feed_main(void *arg) {
    struct rig *r = arg;
    while (__atomic_load_n(&taken, __ATOMIC_RELAXED) < 1000) /* some are dropped: the takers are slow */
        if (rig_send(r->sock, "x", 1) != 1)
            sched_yield();
    return NULL;
}

Test(thread, many_take_from_one_queue, .timeout = 100) {
    const struct fake_config c = {.cq_entries = 4096, .sq_entries = 1024};
    struct rig r = rig_start_with(&c, 0, 0);
    pthread_t feeder;
    cr_assert_eq(pthread_create(&feeder, NULL, feed_main, &r), 0);
    run_threads(&r, take_main);
    pthread_join(feeder, NULL);
    rig_stop(&r);
}

Test(thread, usherds_end_wakes_all_who_wait, .timeout = 100) {
    struct rig r = rig_start_with(NULL, 0, 0);
    struct usher_event ev;
    pthread_t t;
    struct job j = {&r, r.sock, 0};
    taken = 1000 - 1; /* one datagram ends take_main */
    cr_assert_eq(pthread_create(&t, NULL, take_main, &j), 0);
    fake_die(r.fake);
    int n = 0;
    for (int i = 0; i < 1000 && n <= 0; i++)
        n = usher_wait(r.ctx, &ev, 1, 10000000);
    __atomic_store_n(&taken, 1000, __ATOMIC_RELAXED);
    pthread_join(t, NULL);
    rig_stop(&r);
}

/* ---- completions of a socket whose open is not answered yet ---- */

static uint32_t greeted;

static void *greeted_main(void *arg) {
    struct job *j = arg;
    while (__atomic_load_n(&greeted, __ATOMIC_RELAXED) < 60) {
        struct usher_event ev[4];
        int n = usher_poll(j->r->ctx, ev, 4);
        for (int i = 0; i < n; i++) {
            usher_rx_release(j->r->ctx, &ev[i].msg, 1);
            __atomic_add_fetch(&greeted, 1, __ATOMIC_RELAXED);
        }
        sched_yield();
    }
    return NULL;
}

Test(thread, no_datagram_is_too_early, .timeout = 100) {
    const struct fake_config c = {.greet = true, .sets = 2};
    struct rig r = rig_start(&c);
    pthread_t t;
    struct job j = {&r, r.sock, 0};
    cr_assert_eq(pthread_create(&t, NULL, greeted_main, &j), 0);
    for (int i = 1; i < 60; i++) /* the first came with the rig */
        rig_socket(r.ctx);
    pthread_join(t, NULL); /* ends when all 60 greetings have come */
    rig_stop(&r);
}

/* ---- fork ---- */

static int child(struct rig *r) {
    struct usher_event ev;
    struct usher_buf b;
    struct usher_socket_info info;
    char buf[4];
    struct sockaddr_in sa = rig_addr("127.0.0.1", 0);
    socklen_t len = sizeof(sa);
    if (usher_poll(r->ctx, &ev, 1) != -EPERM || !strstr(usher_strerror(), "parent"))
        return 1;
    if (usher_wait(r->ctx, &ev, 1, 0) != -EPERM || usher_arm(r->ctx) != -EPERM || usher_fd(r->ctx) != -EPERM)
        return 2;
    if (usher_tx_alloc(r->ctx, 1, &b) != -EPERM || rig_send(r->sock, "x", 1) != -EPERM)
        return 3;
    if (usher_recvfrom(r->sock, buf, 4, NULL, NULL, 0) != -EPERM || usher_socket_info(r->sock, &info) != -EPERM)
        return 4;
    if (usher_bind(r->sock, (struct sockaddr *)&sa, len) != -EPERM ||
        usher_connect(r->sock, (struct sockaddr *)&sa, len) != -EPERM ||
        usher_getsockname(r->sock, (struct sockaddr *)&sa, &len) != -EPERM)
        return 5;
    usher_close(r->sock);
    usher_context_close(r->ctx);
    return 0;
}

Test(thread, a_forked_child_cannot_touch_the_parents_session) {
    struct rig r = rig_start(NULL);
    struct fake_stats st;
    pid_t pid = fork();
    if (pid == 0)
        _exit(child(&r));
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status));
    cr_assert_eq(WEXITSTATUS(status), 0);
    char buf[4];
    cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    cr_assert_eq(usher_recvfrom(r.sock, buf, 4, NULL, NULL, 20 * SECOND), 1, "the parent goes on");
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.closes, 0);
    rig_stop(&r);
}

Test(thread, a_forked_child_opens_its_own) {
    struct rig r = rig_start(NULL);
    struct fake *second = fake_start(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct usher_context *mine = NULL;
        const struct usher_context_params p = {.socket_path = "/nonexistent", .spin_us = -1};
        _exit(usher_context_open(&p, &mine) == -ENOENT ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    fake_stop(second);
    rig_stop(&r);
}
