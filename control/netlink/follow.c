/* SPDX-License-Identifier: Apache-2.0
 *
 * Two sockets: one subscribed to events and never waiting, one for dumps. Messages are parsed to values here and
 * nowhere else. libnl's attribute layer is used, not its object caches: they would hold a second copy of every route.
 */
#include "control/netlink/follow.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>

#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "control/netlink/follow_internal.h"

#define EVENT_BUFFER (4 << 20)
#define DUMP_TRIES   5

static const int groups[] = {RTNLGRP_LINK,       RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR,
                             RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE,  RTNLGRP_NEIGH};

int nl_errno(int nl_error) {
    switch (nl_error < 0 ? -nl_error : nl_error) {
    case NLE_SUCCESS:
        return 0;
    case NLE_NOMEM:
        return -ENOBUFS;
    case NLE_PERM:
    case NLE_NOACCESS:
        return -EPERM;
    case NLE_OBJ_NOTFOUND:
    case NLE_NODEV:
        return -ENOENT;
    case NLE_EXIST:
        return -EEXIST;
    case NLE_AGAIN:
        return -EAGAIN;
    case NLE_DUMP_INTR:
        return -EINTR;
    case NLE_INVAL:
    case NLE_RANGE:
        return -EINVAL;
    case NLE_OPNOTSUPP:
        return -EOPNOTSUPP;
    default:
        return -EIO;
    }
}

/* ---- messages to values ---- */

bool address_of(int family, const struct nlattr *attr, struct ipaddr *ret_addr) {
    if (attr == NULL)
        return false;
    if (family == AF_INET && nla_len(attr) == 4)
        *ret_addr = ipaddr_from_v4(nla_data(attr));
    else if (family == AF_INET6 && nla_len(attr) == 16)
        *ret_addr = ipaddr_from_v6(nla_data(attr));
    else
        return false;
    return true;
}

static uint32_t u32_of(struct nlattr *attr) {
    return attr != NULL && nla_len(attr) >= (int)sizeof(uint32_t) ? nla_get_u32(attr) : 0;
}

static uint8_t mapped(int family, uint8_t len) {
    return (uint8_t)(family == AF_INET ? 96 + len : len);
}

static bool link_parse(struct nlmsghdr *h, struct follow_link *l) {
    struct nlattr *tb[IFLA_MAX + 1];
    const struct ifinfomsg *m = nlmsg_data(h);
    /* A bridge speaks of its ports with a message of family AF_BRIDGE; that is no news of the link itself. */
    if (nlmsg_parse(h, sizeof *m, tb, IFLA_MAX, NULL) < 0 || m->ifi_family == AF_BRIDGE || tb[IFLA_IFNAME] == NULL)
        return false;
    *l = (struct follow_link){
        .ifindex = (uint32_t)m->ifi_index,
        .mtu = u32_of(tb[IFLA_MTU]),
        .master = u32_of(tb[IFLA_MASTER]),
        .type = m->ifi_type,
        .up = (m->ifi_flags & IFF_UP) != 0,
        .running = (m->ifi_flags & IFF_UP) != 0 && (m->ifi_flags & IFF_LOWER_UP) != 0,
        .loopback = (m->ifi_flags & IFF_LOOPBACK) != 0,
    };
    (void)nla_strlcpy(l->name, tb[IFLA_IFNAME], sizeof l->name);
    if (tb[IFLA_ADDRESS] != NULL && nla_len(tb[IFLA_ADDRESS]) == sizeof l->mac)
        memcpy(l->mac, nla_data(tb[IFLA_ADDRESS]), sizeof l->mac);
    return true;
}

static bool addr_parse(struct nlmsghdr *h, struct follow_addr *a) {
    struct nlattr *tb[IFA_MAX + 1];
    const struct ifaddrmsg *m = nlmsg_data(h);
    if (nlmsg_parse(h, sizeof *m, tb, IFA_MAX, NULL) < 0)
        return false;
    *a = (struct follow_addr){.ifindex = m->ifa_index, .prefix_len = mapped(m->ifa_family, m->ifa_prefixlen)};
    uint32_t flags = tb[IFA_FLAGS] != NULL ? u32_of(tb[IFA_FLAGS]) : m->ifa_flags;
    /* An optimistic address may be used while its duplicate detection runs (RFC 4429). */
    a->tentative = (flags & IFA_F_DADFAILED) || ((flags & IFA_F_TENTATIVE) && !(flags & IFA_F_OPTIMISTIC));
    /* On point-to-point links IFA_ADDRESS is the peer and IFA_LOCAL is ours. */
    return address_of(m->ifa_family, tb[IFA_LOCAL] != NULL ? tb[IFA_LOCAL] : tb[IFA_ADDRESS], &a->addr);
}

/* Of several next hops the first is taken: flows of one destination then share a path, and the rest of the load
 * spreading stays with the kernel. */
static void nexthop_first(struct nlattr *multipath, struct nlattr **tb, uint32_t *ret_ifindex) {
    struct rtnexthop *nh = nla_data(multipath);
    struct nlattr *sub[RTA_MAX + 1];
    int left = nla_len(multipath);
    if (left < (int)sizeof *nh || nh->rtnh_len < sizeof *nh || nh->rtnh_len > left)
        return;
    *ret_ifindex = (uint32_t)nh->rtnh_ifindex;
    if (nla_parse(sub, RTA_MAX, (struct nlattr *)RTNH_DATA(nh), (int)(nh->rtnh_len - sizeof *nh), NULL) < 0)
        return;
    tb[RTA_GATEWAY] = sub[RTA_GATEWAY];
    tb[RTA_VIA] = sub[RTA_VIA];
    tb[RTA_ENCAP] = sub[RTA_ENCAP];
}

static uint32_t route_mtu(struct nlattr *metrics) {
    struct nlattr *tb[RTAX_MAX + 1];
    if (metrics == NULL || nla_parse_nested(tb, RTAX_MAX, metrics, NULL) < 0)
        return 0;
    return u32_of(tb[RTAX_MTU]);
}

static bool route_wanted(const struct rtmsg *m, struct nlattr **tb) {
    uint32_t table = tb[RTA_TABLE] != NULL ? u32_of(tb[RTA_TABLE]) : m->rtm_table;
    if (m->rtm_family != AF_INET && m->rtm_family != AF_INET6)
        return false;
    return (table == RT_TABLE_MAIN || table == RT_TABLE_LOCAL) && !(m->rtm_flags & RTM_F_CLONED) && m->rtm_tos == 0;
}

static bool route_parse(struct nlmsghdr *h, struct follow_route *r) {
    struct nlattr *tb[RTA_MAX + 1];
    const struct rtmsg *m = nlmsg_data(h);
    if (nlmsg_parse(h, sizeof *m, tb, RTA_MAX, NULL) < 0 || !route_wanted(m, tb))
        return false;
    *r = (struct follow_route){.ifindex = u32_of(tb[RTA_OIF]), .metric = u32_of(tb[RTA_PRIORITY]), .type = m->rtm_type};
    if (tb[RTA_MULTIPATH] != NULL)
        nexthop_first(tb[RTA_MULTIPATH], tb, &r->ifindex);
    r->mtu = route_mtu(tb[RTA_METRICS]);
    r->prefix_len = mapped(m->rtm_family, m->rtm_dst_len);
    r->foreign = tb[RTA_VIA] != NULL || tb[RTA_ENCAP] != NULL || m->rtm_src_len != 0;
    static const uint8_t zero[4];
    if (!address_of(m->rtm_family, tb[RTA_DST], &r->prefix) && m->rtm_family == AF_INET)
        r->prefix = ipaddr_from_v4(zero);
    (void)address_of(m->rtm_family, tb[RTA_GATEWAY], &r->gateway);
    (void)address_of(m->rtm_family, tb[RTA_PREFSRC], &r->source);
    return true;
}

bool neigh_parse(struct nlmsghdr *h, struct follow_neigh *n) {
    struct nlattr *tb[NDA_MAX + 1];
    const struct ndmsg *m = nlmsg_data(h);
    if (nlmsg_parse(h, sizeof *m, tb, NDA_MAX, NULL) < 0 || (m->ndm_flags & NTF_PROXY) ||
        !address_of(m->ndm_family, tb[NDA_DST], &n->addr))
        return false;
    n->ifindex = (uint32_t)m->ndm_ifindex;
    /* The mark stays on an entry that was released; the kernel's flag tells whether there is anything to release. */
    n->ours = tb[NDA_PROTOCOL] != NULL && nla_len(tb[NDA_PROTOCOL]) == 1 &&
              nla_get_u8(tb[NDA_PROTOCOL]) == NEIGH_PROTOCOL && (u32_of(tb[NDA_FLAGS_EXT]) & NTF_EXT_MANAGED);
    bool valid = (m->ndm_state & (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)) != 0;
    bool known = valid && tb[NDA_LLADDR] != NULL && nla_len(tb[NDA_LLADDR]) == sizeof n->mac;
    memset(n->mac, 0, sizeof n->mac);
    if (known)
        memcpy(n->mac, nla_data(tb[NDA_LLADDR]), sizeof n->mac);
    n->state = known ? FOLLOW_NEIGH_USABLE : FOLLOW_NEIGH_FAILED;
    return true;
}

/* ---- values to the sink ---- */

static void tell_link(struct follow *f, struct nlmsghdr *h) {
    struct follow_link l;
    if (link_parse(h, &l))
        f->sink.link(f->sink.arg, &l, h->nlmsg_type == RTM_DELLINK);
}

static void tell_addr(struct follow *f, struct nlmsghdr *h) {
    struct follow_addr a;
    bool gone = h->nlmsg_type == RTM_DELADDR;
    if (!addr_parse(h, &a))
        return;
    f->sink.addr(f->sink.arg, &a, gone);
    /* Routes that prefer this source vanish without a word. */
    f->stale |= gone;
}

static void tell_route(struct follow *f, struct nlmsghdr *h) {
    struct follow_route r;
    if (!route_parse(h, &r))
        return;
    f->sink.route(f->sink.arg, &r, h->nlmsg_type == RTM_DELROUTE);
    /* A route was put in another's place, and the message does not say which. */
    f->stale |= (h->nlmsg_flags & NLM_F_REPLACE) != 0 && h->nlmsg_type == RTM_NEWROUTE;
}

static void tell_neigh(struct follow *f, struct nlmsghdr *h) {
    struct follow_neigh n;
    const struct ndmsg *m = nlmsg_data(h);
    if (!neigh_parse(h, &n))
        return;
    /* One being asked for the first time is neither usable nor lost. */
    if (n.state == FOLLOW_NEIGH_FAILED && !(m->ndm_state & NUD_FAILED) && h->nlmsg_type == RTM_NEWNEIGH)
        return;
    if (h->nlmsg_type == RTM_DELNEIGH)
        n.state = FOLLOW_NEIGH_GONE;
    f->sink.neigh(f->sink.arg, &n);
}

static int on_message(struct nl_msg *msg, void *arg) {
    struct follow *f = arg;
    struct nlmsghdr *h = nlmsg_hdr(msg);
    switch (h->nlmsg_type) {
    case RTM_NEWLINK:
    case RTM_DELLINK:
        tell_link(f, h);
        break;
    case RTM_NEWADDR:
    case RTM_DELADDR:
        tell_addr(f, h);
        break;
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
        tell_route(f, h);
        break;
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH:
        tell_neigh(f, h);
        break;
    default:
        break;
    }
    return NL_OK;
}

/* ---- sockets ---- */

int requests_open(struct nl_sock **ret_socket) {
    struct nl_sock *s = nl_socket_alloc();
    if (s == NULL)
        return -ENOMEM;
    int err = nl_connect(s, NETLINK_ROUTE);
    if (err < 0) {
        nl_socket_free(s);
        return nl_errno(err);
    }
    nl_socket_set_msg_buf_size(s, 64 << 10);
    *ret_socket = s;
    return 0;
}

int requests_dump(struct nl_sock *s, int type) {
    struct rtgenmsg g = {.rtgen_family = AF_UNSPEC};
    int err = nl_send_simple(s, type, NLM_F_DUMP, &g, sizeof g);
    return err < 0 ? err : nl_recvmsgs_default(s);
}

static int events_open(struct follow *f) {
    int err = requests_open(&f->events);
    if (err != 0)
        return err;
    nl_socket_disable_seq_check(f->events);
    for (size_t i = 0; i < sizeof groups / sizeof groups[0] && err >= 0; i++)
        err = nl_socket_add_membership(f->events, groups[i]);
    if (err >= 0)
        err = nl_socket_set_nonblocking(f->events);
    (void)nl_socket_set_buffer_size(f->events, EVENT_BUFFER, 0);
    (void)nl_socket_modify_cb(f->events, NL_CB_VALID, NL_CB_CUSTOM, on_message, f);
    return nl_errno(err);
}

int follow_create(const struct follow_sink *sink, struct follow **ret_follow) {
    struct follow *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -ENOMEM;
    f->sink = *sink;
    int err = events_open(f);
    if (err == 0)
        err = requests_open(&f->requests);
    if (err != 0) {
        follow_destroy(f);
        return err;
    }
    (void)nl_socket_modify_cb(f->requests, NL_CB_VALID, NL_CB_CUSTOM, on_message, f);
    *ret_follow = f;
    return 0;
}

void follow_destroy(struct follow *f) {
    if (f == NULL)
        return;
    nl_socket_free(f->events);
    nl_socket_free(f->requests);
    free(f);
}

int follow_fd(const struct follow *f) {
    return nl_socket_get_fd(f->events);
}

int follow_dispatch(struct follow *f) {
    for (;;) {
        int err = nl_recvmsgs_default(f->events);
        if (err == -NLE_AGAIN)
            break;
        /* ENOBUFS comes out as NOMEM: events were lost. Go on reading: what is left is still true. */
        if (err == -NLE_NOMEM)
            f->stale = true;
        else if (err < 0)
            return nl_errno(err);
    }
    return f->stale ? 1 : 0;
}

static int dump_all(struct follow *f) {
    static const int types[] = {RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH};
    f->sink.resync(f->sink.arg, true);
    int err = 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0] && err >= 0; i++)
        err = requests_dump(f->requests, types[i]);
    return err;
}

/* A dump that the kernel changed under is no truth: it is not swept after, and taken anew. */
int follow_resync(struct follow *f) {
    int err = -NLE_DUMP_INTR;
    for (int i = 0; i < DUMP_TRIES && err == -NLE_DUMP_INTR; i++)
        err = dump_all(f);
    if (err < 0)
        return nl_errno(err);
    f->sink.resync(f->sink.arg, false);
    f->stale = false;
    return 0;
}
