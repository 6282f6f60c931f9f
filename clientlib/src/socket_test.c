/* SPDX-License-Identifier: Apache-2.0
 *
 * Sockets: every call and errno, options, close and what it leaves.
 */
#include <netinet/ip.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

Test(socket, kinds_that_are_not_ours_are_refused) {
    struct rig r = rig_start(NULL);
    struct usher_socket *s = NULL;
    cr_assert_eq(usher_socket(r.ctx, AF_UNIX, SOCK_DGRAM, 0, &s), -EAFNOSUPPORT);
    cr_assert_eq(usher_socket(r.ctx, AF_INET, SOCK_SEQPACKET, 0, &s), -ESOCKTNOSUPPORT);
    cr_assert_eq(usher_socket(r.ctx, AF_INET, SOCK_DGRAM, IPPROTO_TCP, &s), -EPROTONOSUPPORT);
    cr_assert_null(s);
    cr_assert_eq(usher_socket(r.ctx, AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, IPPROTO_UDP, &s), 0);
    usher_close(s);
    usher_close(NULL);
    rig_stop(&r);
}

Test(socket, the_kernel_decides_who_has_a_port) {
    struct rig r = rig_start(NULL);
    struct usher_socket *s;
    cr_assert_eq(usher_socket(r.ctx, AF_INET, SOCK_DGRAM, 0, &s), 0);
    struct sockaddr_in taken = rig_addr("127.0.0.1", rig_port(r.sock));
    cr_assert_eq(usher_bind(s, (struct sockaddr *)&taken, sizeof(taken)), -EADDRINUSE);
    struct sockaddr_in foreign = rig_addr("203.0.113.77", 0);
    cr_assert_eq(usher_bind(s, (struct sockaddr *)&foreign, sizeof(foreign)), -EADDRNOTAVAIL);
    cr_assert(strstr(usher_strerror(), "bind"));
    cr_assert_eq(usher_bind(s, (struct sockaddr *)&taken, 3), -EINVAL);
    rig_stop(&r);
}

Test(socket, info_tells_what_usherd_said) {
    const struct fake_config c = {.tx_limit = 12345, .rx_quota = 54321, .worker_cpu = 4};
    struct rig r = rig_start(&c);
    struct usher_socket_info info;
    cr_assert_eq(usher_socket_info(r.sock, &info), 0);
    cr_assert_eq(info.accelerated, 1);
    cr_assert_eq(info.tx_limit, 12345);
    cr_assert_eq(info.rx_quota, 54321);
    cr_assert_eq(info.worker_cpu, 3);
    cr_assert_geq(usher_kernel_fd(r.sock), 0);
    int x;
    usher_set_user(r.sock, &x);
    cr_assert_eq(usher_user(r.sock), &x);
    rig_stop(&r);
}

Test(socket, connect_updates_and_lets_send_without_address) {
    struct rig r = rig_start(NULL);
    struct fake_stats st;
    cr_assert_eq(usher_sendto(r.sock, "x", 1, NULL, 0), -EDESTADDRREQ);
    struct sockaddr_in to = rig_addr("127.0.0.1", 9);
    cr_assert_eq(usher_connect(r.sock, (struct sockaddr *)&to, sizeof(to)), 0, "%s", usher_strerror());
    cr_assert_eq(usher_sendto(r.sock, "x", 1, NULL, 0), 1);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.updates, 1);
    char buf[4];
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), (struct sockaddr *)&from, &len, SECOND), 1);
    cr_assert_eq(from.sin_addr.s_addr, to.sin_addr.s_addr);
    cr_assert_eq(from.sin_port, to.sin_port);
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    cr_assert_eq(usher_connect(r.sock, &nobody, sizeof(nobody)), 0);
    cr_assert_eq(usher_sendto(r.sock, "x", 1, NULL, 0), -EDESTADDRREQ);
    rig_stop(&r);
}

Test(socket, a_refused_update_makes_usherd_let_go) {
    const struct fake_config c = {.fault = FAULT_ERROR, .fault_at = FAKE_RPC_UPDATE};
    struct rig r = rig_start(&c);
    struct usher_socket_info info;
    struct fake_stats st;
    struct sockaddr_in to = rig_addr("127.0.0.1", 9);
    cr_assert_eq(usher_connect(r.sock, (struct sockaddr *)&to, sizeof(to)), 0, "the kernel socket is connected");
    cr_assert_eq(usher_socket_info(r.sock, &info), 0);
    cr_assert_eq(info.accelerated, 0);
    cr_assert(strstr(info.reason, "no buffers in the fake"), "%s", info.reason);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.closes, 1);
    rig_stop(&r);
}

Test(socket, a_send_on_an_unbound_socket_binds_it) {
    struct rig r = rig_start(NULL);
    struct usher_socket *s;
    cr_assert_eq(usher_socket(r.ctx, AF_INET, SOCK_DGRAM, 0, &s), 0);
    cr_assert_eq(rig_send(s, "hi", 2), 2, "%s", usher_strerror());
    cr_assert_neq(rig_port(s), 0);
    char buf[4];
    cr_assert_eq(usher_recvfrom(s, buf, 4, NULL, NULL, SECOND), 2);
    rig_stop(&r);
}

Test(socket, ipv6_addresses_travel_whole) {
    struct rig r = rig_start(NULL);
    struct usher_socket *s;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6}, to = {.sin6_family = AF_INET6, .sin6_port = htons(99)};
    inet_pton(AF_INET6, "2001:db8::7", &to.sin6_addr);
    cr_assert_eq(usher_socket(r.ctx, AF_INET6, SOCK_DGRAM, 0, &s), 0);
    cr_assert_eq(usher_bind(s, (struct sockaddr *)&any, sizeof(any)), 0);
    cr_assert_eq(usher_sendto(s, "six", 3, (struct sockaddr *)&to, sizeof(to)), 3, "%s", usher_strerror());
    struct sockaddr_in6 from;
    socklen_t len = sizeof(from);
    char buf[8];
    cr_assert_eq(usher_recvfrom(s, buf, sizeof(buf), (struct sockaddr *)&from, &len, SECOND), 3);
    cr_assert_arr_eq(&from.sin6_addr, &to.sin6_addr, 16);
    cr_assert_eq(from.sin6_port, to.sin6_port);
    cr_assert_eq(len, sizeof(from));
    rig_stop(&r);
}

Test(socket, close_forgets_what_was_on_its_way) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    struct usher_socket_info info;
    cr_assert_eq(usher_socket_info(r.sock, &info), 0);
    cr_assert(fake_inject(r.fake, info.handle, "old", 3));
    cr_assert(fake_inject(r.fake, info.handle, "old", 3));
    usher_close(r.sock);
    r.sock = rig_socket(r.ctx);
    struct usher_socket_info again;
    cr_assert_eq(usher_socket_info(r.sock, &again), 0);
    cr_assert_eq(again.handle, info.handle, "the fake gives the same handle again");
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 0, "nothing of the old socket reaches the new one");
    cr_assert(fake_inject(r.fake, again.handle, "new", 3));
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, SECOND), 1);
    cr_assert_eq(ev.sock, r.sock);
    cr_assert_arr_eq(ev.msg.buf.data, "new", 3);
    usher_rx_release(r.ctx, &ev.msg, 1);
    usher_close(r.sock);
    rig_stop(&r);
}

Test(socket, received_buffers_outlive_their_socket) {
    struct rig r = rig_start(NULL);
    struct usher_event ev;
    cr_assert_eq(rig_send(r.sock, "keep", 4), 4);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, SECOND), 1);
    usher_close(r.sock);
    cr_assert_arr_eq(ev.msg.buf.data, "keep", 4);
    usher_rx_release(r.ctx, &ev.msg, 1);
    cr_assert_null(ev.msg.buf.data);
    usher_rx_release(r.ctx, &ev.msg, 1); /* given twice is given once */
    rig_stop(&r);
}

/* ---- options ---- */

struct option_case {
    int level, name, value;
    uint32_t wire; /* SocketOption, 0 = not told */
    int64_t told;  /* -1 = whatever the kernel made of it */
};

Test(option, the_kernel_and_usherd_are_told) {
    static const struct option_case cases[] = {
        {IPPROTO_IP, IP_TOS, 0x28, 1, 0x28},
        {IPPROTO_IP, IP_TTL, 9, 2, 9},
        {SOL_SOCKET, SO_RCVBUF, 100000, 3, -1},
        {SOL_SOCKET, SO_SNDBUF, 100000, 4, -1},
        {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO, 5, 1},
        {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT, 5, 0},
        {IPPROTO_IP, IP_MULTICAST_TTL, 3, 6, 3},
        {IPPROTO_IP, IP_MULTICAST_LOOP, 0, 7, 0},
        {SOL_SOCKET, SO_BROADCAST, 1, 8, 1},
        {SOL_SOCKET, SO_REUSEADDR, 1, 0, 0},
    };
    struct rig r = rig_start(NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct option_case *c = &cases[i];
        struct fake_stats st;
        cr_assert_eq(usher_setsockopt(r.sock, c->level, c->name, &c->value, sizeof(int)), 0, "case %zu: %s", i,
                     usher_strerror());
        int got = -1;
        socklen_t len = sizeof(got);
        cr_assert_eq(usher_getsockopt(r.sock, c->level, c->name, &got, &len), 0);
        fake_stats_get(r.fake, &st);
        if (!c->wire)
            continue;
        cr_assert_eq(st.last_option, c->wire, "case %zu", i);
        cr_assert_eq(st.last_option_value, c->told >= 0 ? c->told : got, "case %zu", i);
    }
    rig_stop(&r);
}

Test(option, unknown_ones_are_refused_with_a_sentence) {
    struct rig r = rig_start(NULL);
    int one = 1;
    socklen_t len = sizeof(one);
    cr_assert_eq(usher_setsockopt(r.sock, SOL_SOCKET, SO_LINGER, &one, sizeof(one)), -ENOPROTOOPT);
    cr_assert(strstr(usher_strerror(), "usher.h"));
    cr_assert_eq(usher_getsockopt(r.sock, SOL_SOCKET, SO_LINGER, &one, &len), -ENOPROTOOPT);
    cr_assert_eq(usher_setsockopt(r.sock, IPPROTO_IP, IP_TTL, &(int){9999}, sizeof(int)), -EINVAL, "the kernel's own");
    rig_stop(&r);
}

Test(option, usherds_refusal_is_the_answer) {
    const struct fake_config c = {.fault = FAULT_ERROR, .fault_at = FAKE_RPC_SET_OPTION};
    struct rig r = rig_start(&c);
    cr_assert_eq(usher_setsockopt(r.sock, IPPROTO_IP, IP_TOS, &(int){4}, sizeof(int)), -ENOBUFS);
    cr_assert(strstr(usher_strerror(), "no buffers in the fake"));
    rig_stop(&r);
}

Test(option, groups_joined_before_bind_are_told_afterwards) {
    struct rig r = rig_start(NULL);
    struct usher_socket *s;
    struct fake_stats st;
    struct ip_mreqn m = {.imr_ifindex = 1};
    inet_pton(AF_INET, "239.1.2.3", &m.imr_multiaddr);
    cr_assert_eq(usher_socket(r.ctx, AF_INET, SOCK_DGRAM, 0, &s), 0);
    cr_assert_eq(usher_setsockopt(s, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)), 0, "%s", usher_strerror());
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.groups, 0);
    struct sockaddr_in any = rig_addr("0.0.0.0", 0);
    cr_assert_eq(usher_bind(s, (struct sockaddr *)&any, sizeof(any)), 0);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.groups, 1);
    cr_assert_eq(usher_setsockopt(s, IPPROTO_IP, IP_DROP_MEMBERSHIP, &m, sizeof(m)), 0);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.groups, 2);
    rig_stop(&r);
}
