/* SPDX-License-Identifier: Apache-2.0
 *
 * The followers against the real kernel, in a network namespace of the test's own. Skipped without the right to make
 * one.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/netlink/firewall.h"
#include "control/netlink/follow.h"
#include "control/netlink/rules.h"

#define SEEN 256

static struct {
    struct follow_link link[SEEN];
    struct follow_addr addr[SEEN];
    struct follow_route route[SEEN];
    struct follow_neigh neigh[SEEN];
    bool gone_addr[SEEN], gone_route[SEEN], gone_link[SEEN];
    uint32_t links, addrs, routes, neighs, begins, ends;
} seen;

static void on_resync(void *arg, bool begin) {
    (void)arg;
    seen.begins += begin;
    seen.ends += !begin;
}

static void on_link(void *arg, const struct follow_link *l, bool gone) {
    (void)arg;
    seen.gone_link[seen.links % SEEN] = gone;
    seen.link[seen.links++ % SEEN] = *l;
}

static void on_addr(void *arg, const struct follow_addr *a, bool gone) {
    (void)arg;
    seen.gone_addr[seen.addrs % SEEN] = gone;
    seen.addr[seen.addrs++ % SEEN] = *a;
}

static void on_route(void *arg, const struct follow_route *r, bool gone) {
    (void)arg;
    seen.gone_route[seen.routes % SEEN] = gone;
    seen.route[seen.routes++ % SEEN] = *r;
}

static void on_neigh(void *arg, const struct follow_neigh *n) {
    (void)arg;
    seen.neigh[seen.neighs++ % SEEN] = *n;
}

static struct follow *f;

static void run(const char *command) {
    cr_assert_eq(system(command), 0, "%s", command);
}

static void setup(void) {
    static const struct follow_sink sink = {NULL, on_resync, on_link, on_addr, on_route, on_neigh};
    if (unshare(CLONE_NEWNET) != 0)
        cr_skip_test("needs the right to make a network namespace");
    run("ip link set lo up && ip link add va type veth peer name vb && ip link set va up && ip link set vb up");
    cr_assert_eq(follow_create(&sink, &f), 0);
}

static void teardown(void) {
    follow_destroy(f);
}

TestSuite(follow, .init = setup, .fini = teardown, .timeout = 30);

static struct ipaddr addr(const char *text) {
    uint8_t raw[16];
    if (inet_pton(AF_INET, text, raw) == 1)
        return ipaddr_from_v4(raw);
    cr_assert_eq(inet_pton(AF_INET6, text, raw), 1);
    return ipaddr_from_v6(raw);
}

static const struct follow_addr *seen_addr(const char *text, bool gone) {
    struct ipaddr a = addr(text);
    for (uint32_t i = seen.addrs; i-- > 0;) {
        if (ipaddr_equal(&seen.addr[i].addr, &a))
            return seen.gone_addr[i] == gone ? &seen.addr[i] : NULL;
    }
    return NULL;
}

static const struct follow_route *seen_route(const char *prefix, uint8_t len, uint8_t type) {
    struct ipaddr a = addr(prefix);
    for (uint32_t i = seen.routes; i-- > 0;) {
        const struct follow_route *r = &seen.route[i];
        if (ipaddr_equal(&r->prefix, &a) && r->prefix_len == len && r->type == type)
            return r;
    }
    return NULL;
}

static const struct follow_link *seen_link(const char *name) {
    for (uint32_t i = seen.links; i-- > 0;) {
        if (strcmp(seen.link[i].name, name) == 0)
            return &seen.link[i];
    }
    return NULL;
}

Test(follow, resync_tells_everything) {
    run("ip addr add 10.7.0.1/24 dev va && ip -6 addr add fd07::1/64 dev va nodad");
    run("ip route add 10.8.0.0/16 via 10.7.0.9 mtu 1400 metric 77 && ip route add unreachable 10.9.0.0/16");
    run("ip route add default via 10.7.0.254 && ip -6 route add default via fd07::fe");
    run("ip route add 10.10.0.0/16 nexthop via 10.7.0.3 nexthop via 10.7.0.4");
    run("ip route add 10.11.0.0/16 dev va table 100");
    run("ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev va");
    cr_assert_eq(follow_resync(f), 0);
    cr_assert(seen.begins == 1 && seen.ends == 1);
    const struct follow_link *l = seen_link("va");
    cr_assert(l != NULL && l->up && l->running && !l->loopback && l->mtu == 1500);
    cr_assert(seen_link("lo")->loopback);
    cr_assert_eq(seen_addr("10.7.0.1", false)->prefix_len, 120);
    cr_assert_eq(seen_addr("fd07::1", false)->prefix_len, 64);
    const struct follow_route *r = seen_route("10.8.0.0", 112, RTN_UNICAST);
    struct ipaddr gw = addr("10.7.0.9");
    cr_assert(r != NULL && r->mtu == 1400 && r->metric == 77 && r->ifindex == l->ifindex);
    cr_assert(ipaddr_equal(&r->gateway, &gw));
    cr_assert_not_null(seen_route("10.9.0.0", 112, RTN_UNREACHABLE));
    cr_assert_not_null(seen_route("0.0.0.0", 96, RTN_UNICAST));
    cr_assert_not_null(seen_route("::", 0, RTN_UNICAST));
    cr_assert_not_null(seen_route("10.7.0.255", 128, RTN_BROADCAST));
    cr_assert_not_null(seen_route("10.7.0.1", 128, RTN_LOCAL));
    cr_assert_null(seen_route("10.11.0.0", 112, RTN_UNICAST), "another table");
    r = seen_route("10.10.0.0", 112, RTN_UNICAST);
    gw = addr("10.7.0.3");
    cr_assert(r != NULL && ipaddr_equal(&r->gateway, &gw), "the first next hop");
    struct ipaddr next = addr("10.7.0.9");
    bool found = false;
    for (uint32_t i = 0; i < seen.neighs; i++)
        found |= ipaddr_equal(&seen.neigh[i].addr, &next) && seen.neigh[i].state == FOLLOW_NEIGH_USABLE &&
                 seen.neigh[i].mac[5] == 9 && !seen.neigh[i].ours;
    cr_assert(found);
}

Test(follow, changes_are_told_live) {
    cr_assert_eq(follow_resync(f), 0);
    run("ip addr add 10.7.0.1/24 dev va");
    cr_assert_geq(follow_dispatch(f), 0);
    cr_assert_not_null(seen_addr("10.7.0.1", false));
    run("ip link set va mtu 9000");
    cr_assert_geq(follow_dispatch(f), 0);
    cr_assert_eq(seen_link("va")->mtu, 9000);
    run("ip addr del 10.7.0.1/24 dev va");
    cr_assert_eq(follow_dispatch(f), 1, "routes may have vanished silently");
    cr_assert_not_null(seen_addr("10.7.0.1", true));
    cr_assert_eq(follow_resync(f), 0);
    cr_assert_eq(follow_dispatch(f), 0);
    run("ip link del va");
    cr_assert_geq(follow_dispatch(f), 0);
    cr_assert(seen.gone_link[seen.links - 1] || seen.gone_link[seen.links - 2]);
}

Test(follow, a_replaced_route_asks_for_a_resync) {
    run("ip addr add 10.7.0.1/24 dev va && ip route add 10.8.0.0/16 via 10.7.0.2");
    cr_assert_eq(follow_resync(f), 0);
    cr_assert_eq(follow_dispatch(f), 0);
    run("ip route replace 10.8.0.0/16 via 10.7.0.3");
    cr_assert_eq(follow_dispatch(f), 1);
}

Test(follow, lost_events_ask_for_a_resync, .timeout = 60) {
    cr_assert_eq(follow_resync(f), 0);
    FILE *p = popen("ip -force -batch - >/dev/null 2>&1", "w");
    for (int i = 0; i < 25000; i++)
        fprintf(p, "route add 10.%d.%d.0/24 dev lo\n", 100 + i / 250 % 100, i % 250);
    pclose(p);
    for (int round = 0; round < 3; round++)
        run("ip route flush root 10.0.0.0/8; for i in 1 2 3 4 5 6 7 8; do ip addr add 10.7.$i.1/24 dev va; done; "
            "for i in 1 2 3 4 5 6 7 8; do ip addr del 10.7.$i.1/24 dev va; done");
    cr_assert_eq(follow_dispatch(f), 1);
    seen.links = seen.addrs = seen.routes = 0;
    cr_assert_eq(follow_resync(f), 0);
    cr_assert_not_null(seen_link("vb"));
}

static bool shell_says(const char *command, const char *word) {
    char text[4096] = "";
    FILE *p = popen(command, "r");
    size_t n = fread(text, 1, sizeof text - 1, p);
    text[n] = '\0';
    pclose(p);
    return strstr(text, word) != NULL;
}

Test(follow, next_hops_are_kept_and_released) {
    struct ipaddr v4 = addr("10.7.0.2"), v6 = addr("fd07::2"), known = addr("10.7.0.9");
    run("ip addr add 10.7.0.1/24 dev va && ip -6 addr add fd07::1/64 dev va nodad");
    run("ip neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 nud stale dev va");
    cr_assert_eq(follow_resync(f), 0);
    uint32_t va = seen_link("va")->ifindex;
    seen.neighs = 0;
    cr_assert_eq(follow_neigh_want(f, va, &known), 0);
    cr_assert(seen.neighs > 0 && seen.neigh[seen.neighs - 1].state == FOLLOW_NEIGH_USABLE, "told at once");
    cr_assert_eq(follow_neigh_want(f, va, &v4), 0);
    cr_assert_eq(follow_neigh_want(f, va, &v6), 0);
    cr_assert(shell_says("ip neigh show 10.7.0.9 dev va", "managed"));
    cr_assert_eq(follow_neigh_release(f, va, &known), 0);
    cr_assert(!shell_says("ip neigh show 10.7.0.9 dev va", "managed"));
    cr_assert(shell_says("ip neigh show 10.7.0.9 dev va", "02:00:00:00:00:09"), "the MAC stays known");
    cr_assert_eq(follow_neigh_release(f, va, &v4), 0);
    cr_assert_eq(follow_neigh_release(f, va, &v4), 0, "twice is no harm");
    cr_assert_geq(follow_neigh_cleanup(), 1);
    cr_assert(!shell_says("ip neigh; ip -6 neigh", "managed"));
    cr_assert_neq(follow_neigh_want(f, 9999, &v4), 0);
}

TestSuite(firewall, .timeout = 30);

Test(firewall, rules_count_and_empty_tables_do_not) {
    char what[160] = "";
    if (unshare(CLONE_NEWNET) != 0)
        cr_skip_test("needs the right to make a network namespace");
    cr_assert(!firewall_has_rules(what, sizeof what), "%s", what);
    if (system("nft add table inet t") != 0)
        cr_skip_test("no nftables here");
    run("nft 'add chain inet t input { type filter hook input priority 0; policy accept; }'");
    cr_assert(!firewall_has_rules(what, sizeof what), "an empty chain that accepts: %s", what);
    run("nft 'chain inet t input { policy drop; }'");
    cr_assert(firewall_has_rules(what, sizeof what));
    cr_assert_str_eq(what, "nftables chain inet t input drops by default");
    run("nft 'chain inet t input { policy accept; }' && nft add rule inet t input tcp dport 22 accept");
    cr_assert(firewall_has_rules(what, sizeof what));
    cr_assert_str_eq(what, "nftables chain inet t input has rules");
    run("nft flush ruleset && nft add table bridge b && nft 'add chain bridge b c' && nft add rule bridge b c accept");
    cr_assert(!firewall_has_rules(what, sizeof what), "%s", what);
}

Test(firewall, iptables_is_seen) {
    char what[160] = "";
    if (unshare(CLONE_NEWNET) != 0 || system("iptables-legacy -L >/dev/null 2>&1") != 0)
        cr_skip_test("needs iptables-legacy and the right to make a network namespace");
    cr_assert(!firewall_has_rules(what, sizeof what), "%s", what);
    run("iptables-legacy -P INPUT DROP");
    cr_assert(firewall_has_rules(what, sizeof what));
    run("iptables-legacy -P INPUT ACCEPT && iptables-legacy -A INPUT -p tcp -j ACCEPT");
    cr_assert(firewall_has_rules(what, sizeof what));
    cr_assert_str_eq(what, "iptables table filter has rules");
}

/* ---- rules ---- */

Test(rules, those_that_lead_elsewhere_count, .timeout = 30) {
    char what[160] = "";
    if (unshare(CLONE_NEWNET) != 0)
        cr_skip_test("needs the right to make a network namespace");
    cr_assert_not(rules_route(what, sizeof what), "a fresh namespace: %s", what);
    run("ip rule add prio 90 from 10.0.0.0/8 lookup main && ip rule add prio 91 iif lo to 10.1.0.0/16 lookup local");
    run("ip rule add prio 92 iif va lookup 7");
    cr_assert_not(rules_route(what, sizeof what), "the same tables, or only what comes in: %s", what);
    run("ip rule add prio 100 from 10.0.0.0/8 lookup 7");
    cr_assert(rules_route(what, sizeof what));
    cr_assert_str_eq(what, "IPv4 rule 100 (table 7)");
    run("ip rule del prio 100 && ip rule add prio 101 lookup main suppress_prefixlength 0");
    cr_assert(rules_route(what, sizeof what), "a table of which not every answer is taken");
    run("ip rule del prio 101 && ip -6 rule add prio 102 fwmark 1 unreachable");
    cr_assert(rules_route(what, sizeof what));
    cr_assert(strncmp(what, "IPv6 rule 102", 13) == 0, "%s", what);
}
