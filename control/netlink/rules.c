/* SPDX-License-Identifier: Apache-2.0
 *
 * Dumps the rules of both families over a raw netlink socket. Answers are the kernel's, lengths are checked all the
 * same. Changes nothing.
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
#include <unistd.h>

#define ANSWER_MAX 32768

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

/* One datagram of the answer. 1 = more follows, 0 = that was all, or -errno. */
static int answer_read(int nl, bool *ret_found, struct rule *ret_rule) {
    _Alignas(struct nlmsghdr) char buf[ANSWER_MAX];
    ssize_t n = recv(nl, buf, sizeof buf, 0);
    if (n < 0)
        return errno == EINTR ? 1 : -errno;
    int left = (int)n;
    for (const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)buf; NLMSG_OK(h, (uint32_t)left);
         h = NLMSG_NEXT(h, left)) {
        if (h->nlmsg_type == NLMSG_DONE)
            return 0;
        if (h->nlmsg_type == NLMSG_ERROR)
            return NLMSG_PAYLOAD(h, 0) >= sizeof(struct nlmsgerr) ? ((const struct nlmsgerr *)NLMSG_DATA(h))->error
                                                                  : -EBADMSG;
        if (h->nlmsg_type != RTM_NEWRULE || NLMSG_PAYLOAD(h, 0) < sizeof(struct fib_rule_hdr))
            continue;
        struct rule r = rule_read(h);
        if (!*ret_found && rule_matters(h, &r)) {
            *ret_found = true;
            *ret_rule = r;
        }
    }
    return n > 0 ? 1 : -EBADMSG;
}

static int family_search(uint8_t family, bool *ret_found, struct rule *ret_rule) {
    struct {
        struct nlmsghdr h;
        struct fib_rule_hdr r;
    } q = {.h = {.nlmsg_len = sizeof q, .nlmsg_type = RTM_GETRULE, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
           .r = {.family = family}};
    int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (nl < 0)
        return -errno;
    int more = send(nl, &q, sizeof q, 0) == (ssize_t)sizeof q ? 1 : -errno;
    while (more > 0)
        more = answer_read(nl, ret_found, ret_rule);
    (void)close(nl);
    return more;
}

bool rules_route(char *ret_what, size_t size) {
    static const uint8_t families[] = {AF_INET, AF_INET6};
    for (size_t i = 0; i < sizeof families; i++) {
        const char *name = families[i] == AF_INET ? "IPv4" : "IPv6";
        struct rule r = {0};
        bool found = false;
        int err = family_search(families[i], &found, &r);
        if (err == -EOPNOTSUPP || err == -EAFNOSUPPORT)
            continue; /* a kernel without rules, or without the family */
        if (err != 0) {
            (void)snprintf(ret_what, size, "the kernel does not tell its %s rules (%s)", name, strerror(-err));
            return true;
        }
        if (found) {
            (void)snprintf(ret_what, size, "%s rule %u (table %u)", name, r.priority, r.table);
            return true;
        }
    }
    return false;
}
