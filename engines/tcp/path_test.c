/* SPDX-License-Identifier: Apache-2.0
 *
 * What the path takes: MTU messages, black holes, and the search for what goes through (RFC 1191, 4821). Virtual time.
 */
#include <criterion/criterion.h>

#include "engines/tcp/testlink.h"

#define SEC NS_PER_SEC
#define MS  NS_PER_MS

enum counter {
#define TCP_COUNTER(name, text, help) COUNT_##name,
#include "engines/tcp/tcp_counters.def"
#undef TCP_COUNTER
};

/* An open connection, client on host 0, both ends idle. */
static struct link *open_pair(void) {
    struct link *l = link_create(77, NULL, NULL);
    l->faults[0].delay = l->faults[1].delay = 5 * MS;
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + SEC);
    cr_assert(l->host[0].socks[0].connected && l->host[1].socks[0].connected);
    return l;
}

static void send_bytes(struct link *l, uint32_t h, uint64_t n) {
    l->host[h].socks[0].tx_total += n;
    link_pump(l, h);
}

Test(tcp_path, path_mtu_messages_are_followed) {
    struct link *l = open_pair();
    l->path_mtu = 1280;
    l->icmp = true;
    send_bytes(l, 0, 200000);
    link_step_time(l, l->now + 5 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 200000u);
    cr_assert_eq(link_info(l, 0, 0).mss, 1280u - 40 - 12);
    cr_assert_eq(l->host[0].counters[COUNT_RTO], 0u);
    link_destroy(l);
}

Test(tcp_path, black_hole_is_found) {
    struct link *l = open_pair();
    l->path_mtu = 1000;
    send_bytes(l, 0, 200000);
    link_step_time(l, l->now + 60 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 200000u);
    cr_assert_eq(l->host[0].counters[COUNT_BLACK_HOLE], 1u);
    link_destroy(l);
}

/* What the hole takes is searched for from below; a probe that is lost costs its own repetition and no more. When the
 * path heals the route's MTU is found again. */
Test(tcp_path, path_mtu_is_searched_upwards) {
    struct link *l = open_pair();
    l->path_mtu = 1300;
    send_bytes(l, 0, 400000);
    link_step_time(l, l->now + 60 * SEC);
    cr_assert_eq(link_info(l, 0, 0).mss, 1280u - 40 - 12);
    cr_assert_eq(l->host[0].counters[COUNT_MTU_PROBE], 3u, "1006, 1280, and 1400, which is too large");
    cr_assert_eq(l->host[0].counters[COUNT_BLACK_HOLE], 1u);
    cr_assert_eq(l->host[0].counters[COUNT_RECOVERY], 0u, "the loss of a probe is none");
    uint64_t timeouts = l->host[0].counters[COUNT_RTO], repeated = l->host[0].counters[COUNT_RETRANS];
    l->path_mtu = 0;
    link_step_time(l, l->now + 600 * SEC);
    send_bytes(l, 0, 400000);
    link_step_time(l, l->now + 60 * SEC);
    cr_assert_eq(link_info(l, 0, 0).mss, 1500u - 40 - 12);
    cr_assert_eq(l->host[0].counters[COUNT_RTO], timeouts);
    cr_assert_eq(l->host[0].counters[COUNT_RETRANS], repeated);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 800000u);
    cr_assert_eq(l->host[1].socks[0].rx_corrupt, 0u);
    link_destroy(l);
}

/* Found once, then the path becomes narrower still. */
Test(tcp_path, black_hole_after_a_search) {
    struct link *l = open_pair();
    l->path_mtu = 1300;
    send_bytes(l, 0, 400000);
    link_step_time(l, l->now + 60 * SEC);
    l->path_mtu = 700;
    send_bytes(l, 0, 400000);
    link_step_time(l, l->now + 60 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 800000u);
    cr_assert_eq(l->host[0].counters[COUNT_BLACK_HOLE], 2u);
    link_destroy(l);
}
