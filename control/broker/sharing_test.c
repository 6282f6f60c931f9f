/* SPDX-License-Identifier: Apache-2.0
 *
 * Ports that kernel sockets share: the rule, and the kernel's own answers about sockets of this process.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/broker/sharing.h"

static struct ipaddr addr(const char *text) {
    struct in6_addr a6;
    struct in_addr a4;
    if (inet_pton(AF_INET, text, &a4) == 1)
        return ipaddr_from_v4(&a4);
    cr_assert_eq(inet_pton(AF_INET6, text, &a6), 1);
    return ipaddr_from_v6(&a6);
}

Test(sharing, who_is_preferred_by_the_kernel_keeps_its_packets) {
    static const struct {
        const char *mine;
        bool v6only;
        const char *its;
        bool conflict;
    } cases[] = {
        {"10.0.0.1", false, "10.0.0.1", true},
        {"10.0.0.1", false, "10.0.0.2", false},
        {"10.0.0.1", false, "0.0.0.0", false},
        {"0.0.0.0", false, "10.0.0.1", true},
        {"0.0.0.0", false, "0.0.0.0", true},
        {"0.0.0.0", false, "::", false},
        {"0.0.0.0", false, "fd00::1", false},
        {"::", false, "0.0.0.0", true},
        {"::", false, "10.0.0.1", true},
        {"::", false, "fd00::1", true},
        {"::", false, "::", true},
        {"::", true, "10.0.0.1", false},
        {"::", true, "fd00::1", true},
        {"fd00::1", false, "::", false},
        {"fd00::1", false, "fd00::1", true},
        {"0.0.0.0", false, "::ffff:10.0.0.1", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kernel_socket s = {.flow = {.local = addr(cases[i].mine)}, .v6only = cases[i].v6only};
        struct sharing_socket o = {.local = addr(cases[i].its)};
        cr_expect_eq(sharing_conflicts(&s, &o), cases[i].conflict, "%s against %s", cases[i].mine, cases[i].its);
    }
}

Test(sharing, a_claim_for_a_connected_socket_takes_from_wildcards) {
    struct kernel_socket s = {.flow = {.local = addr("10.0.0.1")}, .connected = true};
    struct sharing_socket o = {.local = addr("0.0.0.0")};
    cr_expect(sharing_conflicts(&s, &o));
    o.local = addr("::");
    cr_expect(sharing_conflicts(&s, &o));
    o.v6only = true;
    cr_expect_not(sharing_conflicts(&s, &o));
    o.local = addr("10.0.0.2");
    cr_expect_not(sharing_conflicts(&s, &o));
}

static int udp_at(const char *ip, uint16_t port, int option) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, ip, &sa.sin_addr);
    if (option != 0)
        cr_assert_eq(setsockopt(fd, SOL_SOCKET, option, &on, sizeof on), 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0, "%s", strerror(errno));
    return fd;
}

static struct kernel_socket read_socket(int fd) {
    struct kernel_socket s;
    uint64_t netns;
    char why[160];
    cr_assert_eq(netns_cookie_read(&netns), 0);
    cr_assert_eq(kernel_socket_read(fd, netns, &s, why, sizeof why), 0, "%s", why);
    return s;
}

static uint64_t our_cookie;
static bool ours(void *arg, uint64_t cookie) {
    (void)arg;
    return cookie == our_cookie;
}

Test(sharing, the_kernel_is_asked) {
    static const int options[] = {SO_REUSEPORT, SO_REUSEADDR};
    for (size_t i = 0; i < 2; i++) {
        char why[160] = "";
        int a = udp_at("127.0.0.1", 0, options[i]);
        struct kernel_socket s = read_socket(a);
        our_cookie = 0;
        bool alone = sharing_allows(&s, ours, NULL, why, sizeof why);
        if (!alone && strstr(why, "does not say"))
            cr_skip_test("no sock_diag for UDP in this kernel: %s", why);
        cr_assert(alone, "%s", why);
        int b = udp_at("127.0.0.1", s.flow.local_port, options[i]);
        cr_assert_not(sharing_allows(&s, ours, NULL, why, sizeof why));
        cr_assert_not_null(strstr(why, "is shared with a kernel socket"), "%s", why);
        our_cookie = read_socket(b).cookie;
        cr_assert(sharing_allows(&s, ours, NULL, why, sizeof why), "the other one is accelerated, too");
        our_cookie = 0;
        close(b);
        b = udp_at("127.0.0.2", s.flow.local_port, options[i]);
        cr_assert(sharing_allows(&s, ours, NULL, why, sizeof why), "another address");
        s.flow.local = ipaddr_any();
        cr_assert_not(sharing_allows(&s, ours, NULL, why, sizeof why), "a wildcard would take its packets");
        close(a);
        close(b);
    }
}

Test(sharing, a_socket_that_shares_nothing_is_not_asked_about) {
    char why[160];
    int a = udp_at("127.0.0.1", 0, 0);
    struct kernel_socket s = read_socket(a);
    cr_assert(sharing_allows(&s, ours, NULL, why, sizeof why));
    close(a);
}
