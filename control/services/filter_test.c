/* SPDX-License-Identifier: Apache-2.0
 *
 * Filters of lists: prefixes are read exactly, and every given field counts.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "control/services/filter.h"

static struct ipaddr v4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
    const uint8_t bytes[] = {a, b, c, d};
    return ipaddr_from_v4(bytes);
}

static bool fits(const char *prefix, struct ipaddr a) {
    struct filter_prefix p;
    cr_assert(filter_prefix_parse(prefix, &p), "%s", prefix);
    return filter_prefix_fits(&p, &a);
}

Test(filter, prefixes) {
    cr_assert(fits("", v4(1, 2, 3, 4)));
    cr_assert(fits("10.0.0.0/8", v4(10, 9, 8, 7)) && !fits("10.0.0.0/8", v4(11, 9, 8, 7)));
    cr_assert(fits("10.1.2.3", v4(10, 1, 2, 3)) && !fits("10.1.2.3", v4(10, 1, 2, 4)));
    cr_assert(fits("10.1.2.128/25", v4(10, 1, 2, 200)) && !fits("10.1.2.128/25", v4(10, 1, 2, 100)));
    cr_assert(fits("0.0.0.0/0", v4(1, 2, 3, 4)), "any IPv4 address");
    cr_assert(!fits("0.0.0.0/0", (struct ipaddr){.b = {0xfd}}), "and no IPv6 one");
    cr_assert(fits("fd00::/8", (struct ipaddr){.b = {0xfd, 1}}) && !fits("fd00::/8", (struct ipaddr){.b = {0xfe}}));
    cr_assert(fits("::/0", v4(1, 2, 3, 4)), "everything");
    cr_assert(fits("fd00::1", (struct ipaddr){.b = {0xfd, [15] = 1}}));
}

Test(filter, what_is_no_prefix) {
    static const char *const bad[] = {"x",           "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8", "::/129",
                                      "10.0.0.0/8x", "/8",          " 10.0.0.1", "10.0.0.0/ 8", "1::2::3"};
    struct filter_prefix p;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert(!filter_prefix_parse(bad[i], &p), "%s", bad[i]);
}

Test(filter, sessions) {
    const struct owner o = {.pid = 7, .uid = 1000, .comm = "nginx"};
    struct filter_session f = {.session_id = 0};
    cr_assert(filter_session_fits(&f, 1, "web", &o) && filter_session_fits(&f, 1, "web", NULL));
    f = (struct filter_session){.session_id = 2};
    cr_assert(!filter_session_fits(&f, 1, "web", &o) && filter_session_fits(&f, 2, "web", &o));
    f = (struct filter_session){.by_uid = true, .uid = 0};
    cr_assert(!filter_session_fits(&f, 1, "web", &o) && !filter_session_fits(&f, 1, "web", NULL));
    f = (struct filter_session){.pid = 7, .by_uid = true, .uid = 1000, .comm = "nginx", .label = "web"};
    cr_assert(filter_session_fits(&f, 1, "web", &o) && !filter_session_fits(&f, 1, "other", &o));
    f.comm[0] = 'x';
    cr_assert(!filter_session_fits(&f, 1, "web", &o));
}

Test(filter, sockets) {
    const struct session_snap s = {
        .flow = {
            .local = v4(10, 0, 0, 1), .remote = v4(10, 0, 0, 2), .local_port = 80, .remote_port = 4000, .proto = 6}};
    struct filter_socket f = {.proto = 0};
    cr_assert(filter_socket_fits(&f, &s, 5));
    f = (struct filter_socket){.proto = 17};
    cr_assert(!filter_socket_fits(&f, &s, 5));
    f = (struct filter_socket){.states = 1u << 5 | 1u << 2};
    cr_assert(filter_socket_fits(&f, &s, 5) && filter_socket_fits(&f, &s, 2) && !filter_socket_fits(&f, &s, 3));
    f = (struct filter_socket){.proto = 6, .local_port = 80, .remote_port = 4000};
    cr_assert(filter_prefix_parse("10.0.0.0/24", &f.remote));
    cr_assert(filter_socket_fits(&f, &s, 5));
    f.remote_port = 4001;
    cr_assert(!filter_socket_fits(&f, &s, 5));
}
