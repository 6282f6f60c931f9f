/* SPDX-License-Identifier: Apache-2.0
 *
 * Real sockets of every kind a program might pass.
 */
#include "control/broker/kernel_socket.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char why[128];

static uint64_t our_netns(void) {
    uint64_t cookie = 0;
    cr_assert_eq(netns_cookie_read(&cookie), 0);
    return cookie;
}

static int bound(int family, const char *addr, int type) {
    struct sockaddr_storage ss = {.ss_family = (sa_family_t)family};
    if (family == AF_INET)
        inet_pton(AF_INET, addr, &((struct sockaddr_in *)&ss)->sin_addr);
    else
        inet_pton(AF_INET6, addr, &((struct sockaddr_in6 *)&ss)->sin6_addr);
    int fd = socket(family, type | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&ss, sizeof ss), 0, "%s", strerror(errno));
    return fd;
}

Test(kernel_socket, bound_and_connected) {
    struct kernel_socket s, c;
    int fd = bound(AF_INET, "127.0.0.1", SOCK_DGRAM);
    cr_assert_eq(kernel_socket_read(fd, our_netns(), &s, why, sizeof why), 0, "%s", why);
    cr_assert(ipaddr_is_v4(&s.flow.local) && ipaddr_is_loopback(&s.flow.local));
    cr_assert(s.flow.local_port != 0 && s.flow.proto == IPPROTO_UDP && s.cookie != 0);
    cr_assert(!s.connected && !s.v6 && !s.reuseport);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f000001)};
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    cr_assert_eq(kernel_socket_read(fd, our_netns(), &c, why, sizeof why), 0);
    cr_assert(c.connected && c.flow.remote_port == 9 && c.cookie == s.cookie);
    close(fd);
}

Test(kernel_socket, wildcards_keep_their_version) {
    struct kernel_socket s;
    int one = 1, fd = bound(AF_INET, "0.0.0.0", SOCK_DGRAM);
    cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one), 0);
    cr_assert_eq(kernel_socket_read(fd, our_netns(), &s, why, sizeof why), 0);
    cr_assert(ipaddr_is_v4(&s.flow.local) && ipaddr_is_any(&s.flow.local) && s.reuseport);
    close(fd);
    fd = bound(AF_INET6, "::", SOCK_DGRAM);
    cr_assert_eq(kernel_socket_read(fd, our_netns(), &s, why, sizeof why), 0);
    cr_assert(s.v6 && !s.v6only && !ipaddr_is_v4(&s.flow.local) && ipaddr_is_any(&s.flow.local));
    close(fd);
}

Test(kernel_socket, streams_are_read) {
    struct kernel_socket s;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(kernel_socket_read(fd, our_netns(), &s, why, sizeof why), 0, "a fresh one may ask where to connect");
    cr_assert(s.flow.local_port == 0 && !s.listening && s.flow.proto == IPPROTO_TCP);
    close(fd);
    fd = bound(AF_INET, "127.0.0.1", SOCK_STREAM);
    cr_assert_eq(listen(fd, 77), 0);
    cr_assert_eq(kernel_socket_read(fd, our_netns(), &s, why, sizeof why), 0);
    cr_assert(s.listening && s.flow.local_port != 0);
    cr_assert_eq(s.backlog, 77);
    close(fd);
}

Test(kernel_socket, everything_else_is_refused) {
    struct kernel_socket s;
    int fds[] = {socket(AF_UNIX, SOCK_STREAM, 0), socket(AF_UNIX, SOCK_DGRAM, 0), socket(AF_INET, SOCK_DGRAM, 0), -1};
    int expect[] = {-EPROTONOSUPPORT, -EPROTONOSUPPORT, -EDESTADDRREQ, -ENOTSOCK};
    int pipes[2];
    cr_assert_eq(pipe(pipes), 0);
    fds[3] = pipes[0];
    for (size_t i = 0; i < 4; i++) {
        why[0] = '\0';
        cr_expect_eq(kernel_socket_read(fds[i], our_netns(), &s, why, sizeof why), expect[i], "case %zu", i);
        cr_expect_neq(why[0], '\0');
        close(fds[i]);
    }
    cr_expect_eq(kernel_socket_read(-1, our_netns(), &s, why, sizeof why), -ENOTSOCK);
}

Test(kernel_socket, another_namespace_is_refused) {
    struct kernel_socket s;
    uint64_t here = our_netns();
    if (unshare(CLONE_NEWNET) != 0)
        cr_skip_test("needs the right to make a network namespace");
    int fd = bound(AF_INET, "0.0.0.0", SOCK_DGRAM);
    cr_assert_eq(kernel_socket_read(fd, here, &s, why, sizeof why), -EXDEV);
    cr_assert_eq(kernel_socket_read(fd, our_netns(), &s, why, sizeof why), 0);
    close(fd);
}
