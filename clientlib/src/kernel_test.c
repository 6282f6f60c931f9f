/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel sockets behind the same calls: what arrives by them at an accelerated socket, and sockets that live on
 * them altogether. Only the loopback interface, only ports of the kernel's choice.
 */
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

static const struct fake_config refusing = {.fault = FAULT_KERNEL, .fault_at = FAKE_RPC_OPEN};

/* A plain kernel socket that sends to `port` on loopback. */
static void send_plain(uint16_t port, const void *data, size_t len) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = rig_addr("127.0.0.1", port);
    cr_assert_eq(sendto(fd, data, len, 0, (struct sockaddr *)&to, sizeof(to)), (ssize_t)len);
    close(fd);
}

Test(kernel, datagrams_by_the_kernel_come_out_of_wait) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    send_plain(rig_port(r.sock), "by lo", 5);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    cr_assert_eq(ev.type, USHER_EV_RECV);
    cr_assert(ev.msg.flags & USHER_RECV_KERNEL);
    cr_assert_eq(ev.msg.len, 5);
    cr_assert_eq(ev.msg.family, AF_INET);
    cr_assert_arr_eq(ev.msg.peer, ((uint8_t[4]){127, 0, 0, 1}), 4);
    cr_assert_arr_eq(ev.msg.local, ((uint8_t[4]){127, 0, 0, 1}), 4);
    cr_assert_neq(ev.msg.peer_port, 0);
    cr_assert_neq(ev.msg.rx_ns, 0);
    cr_assert_arr_eq(ev.msg.buf.data, "by lo", 5);
    usher_rx_release(r.ctx, &ev.msg, 1);
    usher_rx_release(r.ctx, &ev.msg, 1);
    rig_stop(&r);
}

Test(kernel, datagrams_by_the_kernel_come_out_of_polling_by_and_by) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    send_plain(rig_port(r.sock), "x", 1);
    int n = 0;
    for (long i = 0; n == 0 && i < 100000000; i++)
        n = usher_poll(r.ctx, &ev, 1);
    cr_assert_eq(n, 1);
    usher_rx_release(r.ctx, &ev.msg, 1);
    rig_stop(&r);
}

Test(kernel, both_worlds_reach_recvfrom) {
    struct rig r = rig_start(NULL);
    char buf[8];
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    send_plain(rig_port(r.sock), "lo", 2);
    cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), (struct sockaddr *)&from, &len, 5 * SECOND), 2);
    cr_assert_eq(from.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    cr_assert_eq(rig_send(r.sock, "ring", 4), 4);
    cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, 5 * SECOND), 4);
    rig_stop(&r);
}

Test(kernel, large_and_empty_datagrams) {
    struct rig r = rig_start(&refusing);
    static char big[60000];
    memset(big, 7, sizeof(big));
    big[sizeof(big) - 1] = 9;
    static const size_t sizes[] = {0, 1, 2047, 2048, 2049, 60000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct usher_event ev;
        send_plain(rig_port(r.sock), big, sizes[i]);
        cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
        cr_assert_eq(ev.msg.len, sizes[i]);
        cr_assert_arr_eq(ev.msg.buf.data, big, sizes[i]);
        usher_rx_release(r.ctx, &ev.msg, 1);
    }
    rig_stop(&r);
}

Test(kernel, a_refused_socket_lives_on_the_kernel_by_the_same_calls) {
    struct rig a = rig_start(&refusing);
    struct usher_socket_info info;
    cr_assert_eq(usher_socket_info(a.sock, &info), 0);
    cr_assert_eq(info.accelerated, 0);
    cr_assert(strstr(info.reason, "does not manage"));
    struct sockaddr_in self = rig_addr("127.0.0.1", rig_port(a.sock));
    for (int i = 0; i < 20; i++) {
        char buf[8];
        cr_assert_eq(usher_sendto(a.sock, "round", 5, (struct sockaddr *)&self, sizeof(self)), 5);
        cr_assert_eq(usher_recvfrom(a.sock, buf, sizeof(buf), NULL, NULL, 5 * SECOND), 5);
        struct usher_msg m = {.sock = a.sock, .len = 6, .family = AF_INET, .peer = {127, 0, 0, 1}, .tos = 0x20};
        m.peer_port = rig_port(a.sock);
        cr_assert_eq(usher_tx_alloc(a.ctx, 6, &m.buf), 0);
        memcpy(m.buf.data, "batch!", 6);
        cr_assert_eq(usher_send(a.ctx, &m, 1), 1, "%s", usher_strerror());
        struct usher_event ev;
        cr_assert_eq(usher_wait(a.ctx, &ev, 1, 5 * SECOND), 1);
        cr_assert_eq(ev.msg.tos, 0x20);
        usher_rx_release(a.ctx, &ev.msg, 1);
    }
    rig_stop(&a);
}

Test(kernel, gso_is_cut_by_the_kernel) {
    struct rig r = rig_start(&refusing);
    struct usher_msg m = {.sock = r.sock, .len = 1000, .gso_size = 300, .family = AF_INET, .peer = {127, 0, 0, 1}};
    m.peer_port = rig_port(r.sock);
    cr_assert_eq(usher_tx_alloc(r.ctx, m.len, &m.buf), 0);
    cr_assert_eq(usher_send(r.ctx, &m, 1), 1, "%s", usher_strerror());
    static const uint32_t sizes[] = {300, 300, 300, 100};
    for (int i = 0; i < 4; i++) {
        char buf[400];
        cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, 5 * SECOND), sizes[i]);
    }
    rig_stop(&r);
}

Test(kernel, refused_ports_are_an_error_event) {
    struct rig r = rig_start(&refusing);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = rig_addr("127.0.0.1", 0);
    socklen_t len = sizeof(to);
    cr_assert_eq(bind(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&to, &len), 0);
    close(fd); /* now nobody has that port */
    cr_assert_eq(usher_connect(r.sock, (struct sockaddr *)&to, sizeof(to)), 0);
    cr_assert_eq(usher_sendto(r.sock, "x", 1, NULL, 0), 1);
    struct usher_event ev;
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    cr_assert_eq(ev.type, USHER_EV_ERROR);
    cr_assert_eq(ev.error, ECONNREFUSED);
    rig_stop(&r);
}

Test(kernel, a_silent_neighbour_neither_starves_nor_spins) {
    struct rig r = rig_start(&refusing);
    struct usher_socket *quiet = rig_socket(r.ctx);
    char buf[8];
    for (int i = 0; i < 100; i++) /* more than its share of parked datagrams */
        send_plain(rig_port(r.sock), &i, sizeof(i));
    cr_assert_eq(usher_recvfrom(quiet, buf, sizeof(buf), NULL, NULL, 30000000), -EAGAIN);
    for (int i = 0; i < 100; i++) {
        int got = -1;
        cr_assert_eq(usher_recvfrom(r.sock, &got, sizeof(got), NULL, NULL, 5 * SECOND), sizeof(got), "%d", i);
        cr_assert_eq(got, i, "in order");
    }
    cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, 0), -EAGAIN);
    rig_stop(&r);
}

Test(kernel, a_full_kernel_buffer_says_again_and_then_writable) {
    struct rig r = rig_start(&refusing);
    struct usher_event ev;
    static char data[60000];
    int pair = usher_kernel_fd(r.sock), small = 4096;
    cr_assert_eq(setsockopt(pair, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    struct sockaddr_in self = rig_addr("127.0.0.1", rig_port(r.sock));
    /* The loopback consumes a datagram at once, so that a refusal may never come: both are right. */
    int rc = 0;
    for (int i = 0; i < 200 && rc >= 0; i++)
        rc = (int)usher_sendto(r.sock, data, 3000, (struct sockaddr *)&self, sizeof(self));
    if (rc == -EAGAIN) {
        for (int n = 0; n == 0 || ev.type != USHER_EV_WRITABLE;) {
            n = usher_wait(r.ctx, &ev, 1, 5 * SECOND);
            cr_assert_eq(n, 1);
            if (ev.type == USHER_EV_RECV)
                usher_rx_release(r.ctx, &ev.msg, 1);
        }
    } else {
        cr_assert_geq(rc, 0, "%s", usher_strerror());
    }
    rig_stop(&r);
}

Test(kernel, ipv6_by_the_kernel) {
    struct rig r = rig_start(&refusing);
    struct usher_socket *s;
    struct sockaddr_in6 lo = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}, self;
    socklen_t len = sizeof(self);
    cr_assert_eq(usher_socket(r.ctx, AF_INET6, SOCK_DGRAM, 0, &s), 0);
    if (usher_bind(s, (struct sockaddr *)&lo, sizeof(lo)) < 0)
        cr_skip("no IPv6 here");
    cr_assert_eq(usher_getsockname(s, (struct sockaddr *)&self, &len), 0);
    cr_assert_eq(usher_sendto(s, "six", 3, (struct sockaddr *)&self, len), 3, "%s", usher_strerror());
    struct usher_event ev;
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    cr_assert_eq(ev.msg.family, AF_INET6);
    cr_assert_arr_eq(ev.msg.peer, &lo.sin6_addr, 16);
    cr_assert_arr_eq(ev.msg.local, &lo.sin6_addr, 16);
    usher_rx_release(r.ctx, &ev.msg, 1);
    rig_stop(&r);
}

Test(kernel, answers_go_the_way_they_came) {
    struct rig r = rig_start(NULL);
    struct usher_socket *s;
    struct sockaddr_in any = rig_addr("0.0.0.0", 0), to, from;
    struct usher_event ev;
    struct fake_stats st;
    cr_assert_eq(usher_socket(r.ctx, AF_INET, SOCK_DGRAM, 0, &s), 0);
    cr_assert_eq(usher_bind(s, (struct sockaddr *)&any, sizeof(any)), 0);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    to = rig_addr("127.0.0.1", rig_port(s));
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    cr_assert_eq(send(fd, "ask", 3, 0), 3);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    struct usher_msg reply = ev.msg;
    cr_assert_eq(usher_tx_alloc(r.ctx, 6, &reply.buf), 0);
    memcpy(reply.buf.data, "answer", 6);
    reply.len = 6;
    reply.flags = 0;
    cr_assert_eq(usher_send(r.ctx, &reply, 1), 1, "%s", usher_strerror());
    usher_rx_release(r.ctx, &ev.msg, 1);
    char buf[8];
    socklen_t len = sizeof(from);
    cr_assert_eq(recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len), 6);
    cr_assert_eq(from.sin_port, to.sin_port);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.sends, 0, "usherd cannot reach loopback");
    close(fd);
    rig_stop(&r);
}

/* An operator took it off: the program notices nothing but the way. */
Test(kernel, a_socket_that_usherd_lets_go_goes_on_by_the_kernel) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    struct fake_stats st;
    const struct ush_cqe gone = {.type = USH_CQ_EVENT, .flags = USH_EVENT_CLOSED};
    cr_assert(fake_inject(r.fake, 0, "before", 6));
    fake_raw(r.fake, 0, &gone);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    cr_assert_arr_eq(ev.msg.buf.data, "before", 6, "what came before is read");
    usher_rx_release(r.ctx, &ev.msg, 1);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = rig_addr("127.0.0.1", rig_port(r.sock));
    cr_assert_eq(sendto(fd, "after", 5, 0, (struct sockaddr *)&to, sizeof(to)), 5);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    cr_assert_eq(ev.type, USHER_EV_RECV);
    usher_rx_release(r.ctx, &ev.msg, 1);
    cr_assert_eq(usher_sendto(r.sock, "self", 4, (struct sockaddr *)&to, sizeof(to)), 4, "%s", usher_strerror());
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.closes, 0);
    cr_assert_eq(st.sends, 0);
    usher_close(r.sock);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.closes, 1, "its handle is given back");
    close(fd);
    rig_stop(&r);
}
