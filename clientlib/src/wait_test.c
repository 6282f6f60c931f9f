/* SPDX-License-Identifier: Apache-2.0
 *
 * Waiting and waking: timeouts, signals, foreign loops (poll, epoll, io_uring), usherd's end at every step, and a long
 * ping-pong in which both sides sleep as often as they can: one lost wake-up ends it.
 */
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

Test(wait, a_timeout_is_no_error) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    char buf[4];
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 0), 0);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 1), 0);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 2000000), 0);
    cr_assert_eq(usher_wait(r.ctx, &ev, 0, SECOND), -EINVAL);
    cr_assert_eq(usher_recvfrom(r.sock, buf, 4, NULL, NULL, 0), -EAGAIN);
    cr_assert_eq(usher_recvfrom(r.sock, buf, 4, NULL, NULL, 2000000), -EAGAIN);
    rig_stop(&r);
}

static void on_alarm(int sig) {
    (void)sig;
}

Test(wait, a_signal_ends_it) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    const struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, NULL);
    const struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, -1), -EINTR);
    cr_assert(strstr(usher_strerror(), "signal"));
    setitimer(ITIMER_REAL, &soon, NULL);
    char buf[4];
    cr_assert_eq(usher_recvfrom(r.sock, buf, 4, NULL, NULL, -1), -EINTR);
    rig_stop(&r);
}

/* Both sides sleep after each message (no spin): each round needs a kick and a wake-up, unless they overlap. */
static void ping_pong(uint32_t flags, int spin_us, int rounds, uint32_t sets) {
    const struct fake_config c = {.sets = sets};
    struct rig r = rig_start_with(&c, flags, spin_us);
    for (int i = 0; i < rounds; i++) {
        struct usher_event ev;
        cr_assert_eq(rig_send(r.sock, &i, sizeof(i)), sizeof(i));
        if (i % 7 == 0)
            sched_yield();
        cr_assert_eq(usher_wait(r.ctx, &ev, 1, 20 * SECOND), 1, "round %d: a wake-up was lost", i);
        cr_assert_eq(*(int *)ev.msg.buf.data, i);
        usher_rx_release(r.ctx, &ev.msg, 1);
    }
    struct fake_stats st;
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.bad, 0);
    rig_stop(&r);
}

Test(wait, no_wakeup_is_lost_without_spinning) {
    ping_pong(0, 0, 5000, 1);
}

Test(wait, no_wakeup_is_lost_alone) {
    ping_pong(USHER_SINGLE_THREAD, 0, 5000, 1);
}

Test(wait, no_wakeup_is_lost_with_a_short_spin) {
    ping_pong(0, 3, 5000, 2);
}

Test(wait, no_wakeup_is_lost_self_tuned) {
    ping_pong(0, -1, 5000, 1);
}

Test(wait, on_the_workers_core_it_yields) {
    const struct fake_config c = {.worker_cpu = 0}; /* unknown */
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    cr_assert_eq(sched_setaffinity(0, sizeof(one), &one), 0);
    struct rig r = rig_start_with(&c, 0, 1000);
    for (int i = 0; i < 200; i++) {
        char buf[4];
        cr_assert_eq(rig_send(r.sock, "x", 1), 1);
        cr_assert_eq(usher_recvfrom(r.sock, buf, 4, NULL, NULL, 20 * SECOND), 1);
    }
    rig_stop(&r);
}

/* ---- foreign loops ---- */

static void loop_with(struct rig *r, void (*sleep_on)(int fd, void *arg), void *arg) {
    int got = 0;
    for (int i = 0; i < 300; i++) {
        struct usher_event ev[8];
        cr_assert_eq(rig_send(r->sock, &i, sizeof(i)), sizeof(i), "%s", usher_strerror());
        while (got <= i) {
            if (!usher_arm(r->ctx))
                sleep_on(usher_fd(r->ctx), arg);
            int n = usher_poll(r->ctx, ev, 8);
            cr_assert_geq(n, 0);
            for (int k = 0; k < n; k++, got++)
                usher_rx_release(r->ctx, &ev[k].msg, 1);
        }
    }
    /* One late kick may be on its way: usherd saw the set armed just before we took the message unasked. */
    struct pollfd p = {usher_fd(r->ctx), POLLIN, 0};
    struct usher_event none;
    int readable = 1;
    for (int tries = 0; readable && tries < 100; tries++) {
        cr_assert_eq(usher_poll(r->ctx, &none, 1), 0);
        cr_assert_eq(usher_arm(r->ctx), 0);
        readable = poll(&p, 1, 0);
    }
    cr_assert_eq(readable, 0, "nothing to say, not readable");
}

static void sleep_poll(int fd, void *arg) {
    (void)arg;
    struct pollfd p = {fd, POLLIN, 0};
    cr_assert_eq(poll(&p, 1, 20000), 1, "a wake-up was lost");
}

Test(wait, in_a_poll_loop) {
    struct rig r = rig_start(NULL);
    loop_with(&r, sleep_poll, NULL);
    rig_stop(&r);
}

static void sleep_epoll(int fd, void *arg) {
    struct epoll_event ev;
    (void)fd;
    cr_assert_eq(epoll_wait(*(int *)arg, &ev, 1, 20000), 1, "a wake-up was lost");
}

Test(wait, in_an_epoll_loop) {
    struct rig r = rig_start(NULL);
    int ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN};
    cr_assert_eq(epoll_ctl(ep, EPOLL_CTL_ADD, usher_fd(r.ctx), &ev), 0);
    loop_with(&r, sleep_epoll, &ep);
    close(ep);
    rig_stop(&r);
}

static void sleep_uring(int fd, void *arg) {
    struct io_uring *ring = arg;
    struct io_uring_sqe *e = io_uring_get_sqe(ring);
    struct io_uring_cqe *c;
    struct __kernel_timespec limit = {.tv_sec = 20};
    io_uring_prep_poll_add(e, fd, POLLIN);
    cr_assert_eq(io_uring_submit(ring), 1);
    cr_assert_eq(io_uring_wait_cqe_timeout(ring, &c, &limit), 0, "a wake-up was lost");
    io_uring_cqe_seen(ring, c);
}

Test(wait, in_an_io_uring_loop) {
    struct io_uring ring;
    if (io_uring_queue_init(8, &ring, 0) < 0)
        cr_skip("no io_uring here");
    struct rig r = rig_start(NULL);
    loop_with(&r, sleep_uring, &ring);
    io_uring_queue_exit(&ring);
    rig_stop(&r);
}

Test(wait, a_foreign_loop_is_told_of_credit_and_buffers) {
    const struct fake_config c = {.tx_limit = 1000, .swallow = true};
    struct rig r = rig_start(&c);
    struct usher_event ev;
    static char data[900];
    fake_hold(r.fake, true);
    cr_assert_eq(rig_send(r.sock, data, 900), 900);
    cr_assert_eq(rig_send(r.sock, data, 900), -EAGAIN);
    cr_assert_eq(usher_arm(r.ctx), 0);
    fake_hold(r.fake, false);
    int n = 0;
    while (n == 0) {
        if (!usher_arm(r.ctx))
            sleep_poll(usher_fd(r.ctx), NULL);
        n = usher_poll(r.ctx, &ev, 1);
    }
    cr_assert_eq(ev.type, USHER_EV_WRITABLE);
    rig_stop(&r);
}

Test(wait, more_holds_the_kick_back_until_something_waits) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    struct usher_msg m = rig_msg(&r, 10);
    m.flags = USHER_MORE;
    cr_assert_eq(usher_send(r.ctx, &m, 1), 1);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 20 * SECOND), 1);
    usher_rx_release(r.ctx, &ev.msg, 1);
    rig_stop(&r);
}

/* ---- usherd's end ---- */

Test(wait, usherd_dies_while_we_sleep) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    pthread_t t;
    cr_assert_eq(pthread_create(&t, NULL, (void *(*)(void *))(void *)fake_die, r.fake), 0);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 20 * SECOND), 1);
    cr_assert_eq(ev.type, USHER_EV_DOWN);
    pthread_join(t, NULL);
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), -ENETDOWN);
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 0, "said once");
    rig_stop(&r);
}

Test(wait, usherd_dies_and_sockets_go_on) {
    const struct fake_config c = {.swallow = true};
    struct rig r = rig_start(&c);
    struct usher_event ev;
    char buf[8];
    static char big[40000];
    fake_hold_credit(r.fake, true);
    for (int i = 0; i < 5; i++)
        rig_send(r.sock, big, sizeof(big)); /* never given back */
    fake_die(r.fake);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 20 * SECOND), 1);
    cr_assert_eq(ev.type, USHER_EV_DOWN);
    struct sockaddr_in self = rig_addr("127.0.0.1", rig_port(r.sock));
    for (int i = 0; i < 40; i++) /* more than the region could hold, had nothing come home */
        cr_assert_eq(usher_sendto(r.sock, big, sizeof(big), (struct sockaddr *)&self, sizeof(self)), sizeof(big), "%s",
                     usher_strerror());
    cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, SECOND), 8);
    struct usher_socket_info info;
    cr_assert_eq(usher_socket_info(r.sock, &info), 0);
    cr_assert_eq(info.accelerated, 0);
    struct usher_socket *later = rig_socket(r.ctx);
    cr_assert_eq(usher_setsockopt(later, IPPROTO_IP, IP_TOS, &(int){4}, sizeof(int)), 0);
    usher_close(later);
    rig_stop(&r);
}

Test(wait, usherd_dies_within_each_exchange) {
    for (int at = FAKE_RPC_OPEN; at < FAKE_RPC_COUNT; at++) {
        const struct fake_config c = {.fault = FAULT_DIE, .fault_at = (enum fake_rpc)at};
        struct rig r = rig_start(&c);
        struct sockaddr_in to = rig_addr("127.0.0.1", 9);
        struct ip_mreqn m = {.imr_ifindex = 1};
        inet_pton(AF_INET, "239.1.2.3", &m.imr_multiaddr);
        cr_assert_eq(usher_setsockopt(r.sock, IPPROTO_IP, IP_TOS, &(int){4}, sizeof(int)), 0, "at %d", at);
        cr_assert_eq(usher_setsockopt(r.sock, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)), 0, "at %d", at);
        cr_assert_eq(usher_connect(r.sock, (struct sockaddr *)&to, sizeof(to)), 0, "at %d", at);
        struct usher_socket *s = rig_socket(r.ctx);
        usher_close(s);
        struct usher_event ev;
        cr_assert_eq(usher_wait(r.ctx, &ev, 1, 20 * SECOND), 1, "at %d", at);
        cr_assert_eq(ev.type, USHER_EV_DOWN, "at %d", at);
        rig_stop(&r);
    }
}

Test(wait, what_is_in_the_ring_survives_the_end) {
    const struct fake_config c = {.manual = true};
    struct rig r = rig_start(&c);
    struct usher_event ev[4];
    cr_assert_eq(rig_send(r.sock, "late", 4), 4);
    fake_step(r.fake);
    fake_die(r.fake);
    int n = usher_wait(r.ctx, ev, 4, 5 * SECOND);
    cr_assert_geq(n, 1);
    cr_assert_eq(ev[0].type, USHER_EV_RECV);
    cr_assert_eq(ev[0].sock, r.sock);
    cr_assert_arr_eq(ev[0].msg.buf.data, "late", 4);
    usher_rx_release(r.ctx, &ev[0].msg, 1);
    usher_close(r.sock);
    rig_stop(&r);
}

Test(wait, received_buffers_stay_readable_after_the_end) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    cr_assert_eq(rig_send(r.sock, "kept", 4), 4);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    struct usher_event down;
    fake_die(r.fake);
    cr_assert_eq(usher_wait(r.ctx, &down, 1, 5 * SECOND), 1);
    cr_assert_arr_eq(ev.msg.buf.data, "kept", 4);
    usher_rx_release(r.ctx, &ev.msg, 1);
    rig_stop(&r);
}
