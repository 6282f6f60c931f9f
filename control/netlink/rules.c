/* SPDX-License-Identifier: Apache-2.0
 *
 * Dumps the rules of both families over a raw netlink socket. Changes
 * nothing.
 */
#include "control/netlink/rules.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "control/netlink/dump.h"

struct rule {
    uint32_t priority, table;
    bool iif;        /* an interface that packets come in over; what this host sends has the loopback */
    bool suppresses; /* answers of the table that are not taken */
};

static uint32_t number(const struct rtattr *a) {
    uint32_t v = 0;
    if (RTA_PAYLOAD(a) >= sizeof v)
        memcpy(&v, RTA_DATA(a), sizeof v);
    return v;
}

static struct rule rule_read(const struct nlmsghdr *h) {
    const struct fib_rule_hdr *m = NLMSG_DATA(h);
    struct rule r = {.table = m->table};
    int left = (int)NLMSG_PAYLOAD(h, sizeof *m);
    for (const struct rtattr *a = (const struct rtattr *)(m + 1); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        switch (a->rta_type) {
        case FRA_PRIORITY:
            r.priority = number(a);
            break;
        case FRA_TABLE:
            r.table = number(a);
            break;
        case FRA_IIFNAME:
            r.iif = RTA_PAYLOAD(a) == 0 || strncmp(RTA_DATA(a), "lo", RTA_PAYLOAD(a)) != 0;
            break;
        case FRA_SUPPRESS_PREFIXLEN:
        case FRA_SUPPRESS_IFGROUP:
            r.suppresses |= number(a) != UINT32_MAX;
            break;
        default:
            break;
        }
    }
    return r;
}

static bool rule_matters(const struct nlmsghdr *h, const struct rule *r) {
    const struct fib_rule_hdr *m = NLMSG_DATA(h);
    bool known = r->table == RT_TABLE_LOCAL || r->table == RT_TABLE_MAIN || r->table == RT_TABLE_DEFAULT;
    return !r->iif && !(m->action == FR_ACT_TO_TBL && known && !r->suppresses);
}

/* The first rule that matters. */
struct search {
    struct rule rule;
    bool found;
};

static void judge(void *arg, const struct nlmsghdr *h) {
    struct search *q = arg;
    struct rule r = rule_read(h);
    if (q->found || !rule_matters(h, &r))
        return;
    q->found = true;
    q->rule = r;
}

static int family_search(uint8_t family, struct search *ret_search) {
    struct {
        struct nlmsghdr h;
        struct fib_rule_hdr r;
    } ask = {.h = {.nlmsg_len = sizeof ask, .nlmsg_type = RTM_GETRULE, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
             .r = {.family = family}};
    const struct netlink_dump d = {
        .protocol = NETLINK_ROUTE, .request = &ask.h, .type = RTM_NEWRULE, .least = sizeof(struct fib_rule_hdr)};
    return netlink_dump(&d, judge, ret_search);
}

bool rules_route(char *ret_what, size_t size) {
    static const uint8_t families[] = {AF_INET, AF_INET6};
    for (size_t i = 0; i < sizeof families; i++) {
        const char *name = families[i] == AF_INET ? "IPv4" : "IPv6";
        struct search q = {.found = false};
        int err = family_search(families[i], &q);
        if (err == -EOPNOTSUPP || err == -EAFNOSUPPORT)
            continue; /* a kernel without rules, or without the family */
        if (err != 0) {
            (void)snprintf(ret_what, size, "the kernel does not tell its %s rules (%s)", name, strerror(-err));
            return true;
        }
        if (q.found) {
            (void)snprintf(ret_what, size, "%s rule %u (table %u)", name, q.rule.priority, q.rule.table);
            return true;
        }
    }
    return false;
}
