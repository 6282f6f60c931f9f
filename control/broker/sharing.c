/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks the kernel over NETLINK_SOCK_DIAG for the sockets of one port and compares addresses.
 */
#include "control/broker/sharing.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "control/netlink/dump.h"

/* <netinet/tcp.h> and <linux/tcp.h> cannot both be had. */
#define TCP_STATE_TIME_WAIT 6
#define TCP_STATE_LISTEN    10

struct search {
    const struct kernel_socket *s;
    sharing_ours_fn *ours;
    sharing_flow_fn *flow; /* instead of `ours`: every connection is wanted */
    void *arg;
    struct sharing_socket other;
    bool found;
};

static bool wildcard_covers(const struct sharing_socket *w, const struct ipaddr *addr) {
    if (!ipaddr_is_any(&w->local))
        return false;
    return ipaddr_is_v4(&w->local) ? ipaddr_is_v4(addr) : !(w->v6only && ipaddr_is_v4(addr));
}

/* Wildcards overlap with everything of their versions. Between two overlapping sockets the kernel prefers the more
 * specific one, and for IPv4 a socket of IPv4 before one of both: where that is `s`, nothing is taken from `other`. But
 * a claim knows no peers: of a connected socket's port it takes what the kernel would give to a wildcard. */
bool sharing_conflicts(const struct kernel_socket *s, const struct sharing_socket *other) {
    static const uint8_t zero[4];
    const struct ipaddr any4 = ipaddr_from_v4(zero);
    const struct ipaddr *mine = &s->flow.local, *its = &other->local;
    if (ipaddr_equal(mine, &any4))
        return ipaddr_is_v4(its);
    if (!ipaddr_is_any(mine))
        return ipaddr_equal(mine, its) || (s->connected && wildcard_covers(other, mine));
    return !s->v6only || !ipaddr_is_v4(its);
}

static uint32_t states_wanted(const struct search *search) {
    if (search->s->flow.proto != IPPROTO_TCP)
        return UINT32_MAX;
    if (search->flow != NULL)
        return ~(1u << TCP_STATE_TIME_WAIT | 1u << TCP_STATE_LISTEN);
    /* The port of a connection to come must not be that of a connection of the kernel's either. */
    return search->s->listening ? 1u << TCP_STATE_LISTEN : ~(1u << TCP_STATE_TIME_WAIT);
}

static bool is_v6only(const struct nlmsghdr *h) {
    const struct inet_diag_msg *m = NLMSG_DATA(h);
    int left = (int)NLMSG_PAYLOAD(h, sizeof *m);
    for (const struct rtattr *a = (const struct rtattr *)(m + 1); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        if (a->rta_type == INET_DIAG_SKV6ONLY && RTA_PAYLOAD(a) >= 1)
            return *(const uint8_t *)RTA_DATA(a) != 0;
    }
    return false;
}

static void judge(void *arg, const struct nlmsghdr *h) {
    struct search *q = arg;
    const struct inet_diag_msg *m = NLMSG_DATA(h);
    struct sharing_socket o = {.uid = m->idiag_uid, .inode = m->idiag_inode};
    if (ntohs(m->id.idiag_sport) != q->s->flow.local_port)
        return;
    o.cookie = m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32;
    o.local = m->idiag_family == AF_INET ? ipaddr_from_v4(m->id.idiag_src) : ipaddr_from_v6(m->id.idiag_src);
    if (q->flow != NULL) {
        const struct flow f = {
            .local = o.local,
            .remote = m->idiag_family == AF_INET ? ipaddr_from_v4(m->id.idiag_dst) : ipaddr_from_v6(m->id.idiag_dst),
            .local_port = ntohs(m->id.idiag_sport),
            .remote_port = ntohs(m->id.idiag_dport),
            .proto = IPPROTO_TCP,
        };
        if (f.remote_port != 0)
            q->flow(q->arg, &f);
        return;
    }
    o.v6only = is_v6only(h);
    if (o.cookie == q->s->cookie || !sharing_conflicts(q->s, &o) || q->ours(q->arg, o.cookie))
        return;
    q->other = o;
    q->found = true;
}

static int family_search(struct search *q, uint8_t family) {
    const struct kernel_socket *s = q->s;
    struct {
        struct nlmsghdr h;
        struct inet_diag_req_v2 r;
    } ask = {
        .h = {.nlmsg_len = sizeof ask, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .r = {.sdiag_family = family,
              .sdiag_protocol = s->flow.proto,
              .idiag_states = states_wanted(q),
              .id.idiag_sport = htons(s->flow.local_port)}};
    const struct netlink_dump d = {.protocol = NETLINK_SOCK_DIAG,
                                   .request = &ask.h,
                                   .type = SOCK_DIAG_BY_FAMILY,
                                   .least = sizeof(struct inet_diag_msg)};
    return netlink_dump(&d, judge, q);
}

bool sharing_allows(const struct kernel_socket *s, sharing_ours_fn *ours, void *arg, char *ret_why, size_t size) {
    struct search q = {.s = s, .ours = ours, .arg = arg};
    if ((!s->reuseport && !s->reuseaddr) || s->flow.local_port == 0)
        return true; /* the kernel gave it the port alone, or it has none yet */
    int err = family_search(&q, AF_INET);
    if (err == 0 && !q.found)
        err = family_search(&q, AF_INET6);
    if (err == -EAFNOSUPPORT)
        err = 0; /* a kernel without IPv6 has no such sockets */
    if (err != 0)
        (void)snprintf(ret_why, size,
                       "it may share its port and the kernel does not say with whom (sock_diag: %s); load the kernel "
                       "module udp_diag",
                       strerror(-err));
    else if (q.found)
        (void)snprintf(ret_why, size,
                       "port %u is shared with a kernel socket of uid %u (inode %u) that usherd does not "
                       "carry",
                       s->flow.local_port, q.other.uid, q.other.inode);
    return err == 0 && !q.found;
}

void sharing_flows(const struct kernel_socket *s, sharing_flow_fn *found, void *arg) {
    struct search q = {.s = s, .flow = found, .arg = arg};
    (void)family_search(&q, AF_INET);
    (void)family_search(&q, AF_INET6);
}
