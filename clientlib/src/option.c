/* SPDX-License-Identifier: Apache-2.0
 *
 * Socket options: one table says which are allowed and what usherd is told. Set on the kernel socket first, which
 * checks the value; usherd reads most of them from it when it takes the socket, later changes are sent. Any thread.
 */
#include <stdlib.h>

#include "clientlib/src/internal.h"

/* SocketOption of session.proto. */
enum wire_option {
    OPT_KERNEL = 0, /* usherd needs no word of it */
    OPT_TOS,
    OPT_TTL,
    OPT_RX_QUOTA,
    OPT_TX_LIMIT,
    OPT_DONT_FRAGMENT,
    OPT_MULTICAST_TTL,
    OPT_MULTICAST_LOOP,
    OPT_BROADCAST,
    OPT_JOIN4 = 100,
    OPT_LEAVE4,
    OPT_JOIN6,
    OPT_LEAVE6,  /* have exchanges of their own */
    OPT_ADDRESS, /* usherd reads the socket anew */
};

static const struct row {
    int level, name;
    enum wire_option option;
} rows[] = {
    {SOL_SOCKET, SO_REUSEADDR, OPT_KERNEL},
    {SOL_SOCKET, SO_REUSEPORT, OPT_KERNEL},
    {SOL_SOCKET, SO_RCVBUF, OPT_RX_QUOTA},
    {SOL_SOCKET, SO_SNDBUF, OPT_TX_LIMIT},
    {SOL_SOCKET, SO_BROADCAST, OPT_BROADCAST},
    {SOL_SOCKET, SO_BINDTODEVICE, OPT_ADDRESS},
    {IPPROTO_IP, IP_TOS, OPT_TOS},
    {IPPROTO_IP, IP_TTL, OPT_TTL},
    {IPPROTO_IP, IP_MTU_DISCOVER, OPT_DONT_FRAGMENT},
    {IPPROTO_IP, IP_ADD_MEMBERSHIP, OPT_JOIN4},
    {IPPROTO_IP, IP_DROP_MEMBERSHIP, OPT_LEAVE4},
    {IPPROTO_IP, IP_MULTICAST_TTL, OPT_MULTICAST_TTL},
    {IPPROTO_IP, IP_MULTICAST_LOOP, OPT_MULTICAST_LOOP},
    {IPPROTO_IP, IP_MULTICAST_IF, OPT_ADDRESS},
    {IPPROTO_IPV6, IPV6_TCLASS, OPT_TOS},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, OPT_TTL},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER, OPT_DONT_FRAGMENT},
    {IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, OPT_JOIN6},
    {IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, OPT_LEAVE6},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS, OPT_MULTICAST_TTL},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, OPT_MULTICAST_LOOP},
    {IPPROTO_IPV6, IPV6_MULTICAST_IF, OPT_ADDRESS},
    {IPPROTO_IPV6, IPV6_V6ONLY, OPT_KERNEL},
};

static const struct row *find(int level, int name) {
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].level == level && rows[i].name == name)
            return &rows[i];
    return NULL;
}

static int unknown(int level, int name) {
    return client_fail(-ENOPROTOOPT,
                       "socket option %d of level %d is not one of Usher's; see usher_setsockopt() in "
                       "usher.h for the list",
                       name, level);
}

/* The value as the kernel understood it: it may have been a single byte, or cut to a limit. */
static int64_t read_back(const struct usher_socket *sock, const struct row *row) {
    int v = 0;
    socklen_t len = sizeof(v);
    if (getsockopt(sock->fd, row->level, row->name, &v, &len) < 0)
        return 0;
    if (len == 1)
        v = *(uint8_t *)&v;
    if (row->option == OPT_DONT_FRAGMENT) /* DO and PROBE set the bit, WANT and DONT leave it to usherd */
        return v == IP_PMTUDISC_DO || v == IP_PMTUDISC_PROBE;
    return v;
}

static int remember_group(struct usher_socket *sock, const struct client_group *g) {
    struct client_group *p = realloc(sock->groups, (sock->group_count + 1) * sizeof(*p));
    if (!p)
        return client_fail(-ENOMEM, "no memory for a group membership");
    sock->groups = p;
    sock->groups[sock->group_count++] = *g;
    return 0;
}

static void forget_group(struct usher_socket *sock, const struct client_group *g) {
    for (uint32_t i = 0; i < sock->group_count; i++)
        if (memcmp(sock->groups[i].addr, g->addr, 16) == 0 && (!g->ifindex || sock->groups[i].ifindex == g->ifindex)) {
            sock->groups[i] = sock->groups[--sock->group_count];
            return;
        }
}

/* ip_mreq, ip_mreqn and ipv6_mreq; the kernel has accepted the value, so its length is one of theirs. */
static void read_group(enum wire_option option, const void *value, socklen_t len, struct client_group *ret_group) {
    *ret_group = (struct client_group){0};
    if (option == OPT_JOIN6 || option == OPT_LEAVE6) {
        struct ipv6_mreq m;
        memcpy(&m, value, sizeof(m));
        memcpy(ret_group->addr, &m.ipv6mr_multiaddr, 16);
        ret_group->ifindex = m.ipv6mr_interface;
        return;
    }
    struct ip_mreqn m = {0};
    memcpy(&m, value, len < sizeof(m) ? len : sizeof(m));
    uint8_t addr[16] = {0};
    memcpy(addr, &m.imr_multiaddr, 4);
    client_addr_map(AF_INET, addr, ret_group->addr);
    ret_group->ifindex = (uint32_t)m.imr_ifindex;
}

static int tell_group(struct usher_socket *sock, enum wire_option option, const void *value, socklen_t len) {
    struct client_group g;
    read_group(option, value, len, &g);
    bool leave = option == OPT_LEAVE4 || option == OPT_LEAVE6;
    int err = 0;
    if (leave)
        forget_group(sock, &g);
    else
        err = remember_group(sock, &g);
    return err || !client_socket_is_carried(sock) ? err : client_rpc_group(sock->ctx, sock->handle, &g, leave);
}

static int tell_usherd(struct usher_socket *sock, const struct row *row, const void *value, socklen_t len) {
    if (row->option >= OPT_JOIN4 && row->option <= OPT_LEAVE6)
        return tell_group(sock, row->option, value, len);
    int64_t v = read_back(sock, row);
    if (row->option == OPT_RX_QUOTA)
        sock->wish_rx_quota = (uint32_t)v;
    if (row->option == OPT_TX_LIMIT)
        sock->wish_tx_limit = (uint32_t)v;
    if (!client_socket_is_carried(sock) || row->option == OPT_KERNEL)
        return 0;
    int err = client_rpc_option(sock->ctx, sock->handle, row->option, v);
    if (!err && row->option == OPT_TX_LIMIT && v > 0) {
        client_relock(sock->ctx);
        sock->tx_limit = (uint32_t)v;
        client_leave(sock->ctx);
    }
    return err;
}

int usher_setsockopt(struct usher_socket *sock, int level, int name, const void *value, socklen_t len) {
    const struct row *row = find(level, name);
    if (!row && !sock->st && !sock->frames)
        return unknown(level, name);
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    if (sock->st) {
        err = client_stream_setsockopt(sock, level, name, value, len);
        client_kick(sock->ctx);
        client_leave(sock->ctx);
        return err;
    }
    client_leave(sock->ctx);
    if (setsockopt(sock->fd, level, name, value, len) < 0)
        return client_fail(-errno, "setting socket option %d of level %d: %s", name, level, strerror(errno));
    if (sock->frames && (!row || row->option != OPT_TX_LIMIT))
        return 0; /* it is about receiving, which is the kernel's */
    if (row->option == OPT_ADDRESS)
        return sock->bound ? client_socket_announce(sock) : 0;
    client_rpc_begin(sock->ctx);
    err = tell_usherd(sock, row, value, len);
    client_rpc_end(sock->ctx);
    /* usherd went away meanwhile: the kernel socket, which carries on, has the option. */
    return err == -ENETDOWN ? 0 : err;
}

static int stream_getsockopt(struct usher_socket *sock, int level, int name, void *ret_value, socklen_t *len) {
    int err = client_stream_ask(sock, level, name, ret_value, len);
    return err == 1 ? client_stream_getsockopt(sock, level, name, ret_value, len) : err;
}

int usher_getsockopt(struct usher_socket *sock, int level, int name, void *ret_value, socklen_t *len) {
    if (!sock->st && !find(level, name))
        return unknown(level, name);
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    if (sock->st) {
        err = stream_getsockopt(sock, level, name, ret_value, len);
        client_leave(sock->ctx);
        return err;
    }
    client_leave(sock->ctx);
    if (getsockopt(sock->fd, level, name, ret_value, len) < 0)
        return client_fail(-errno, "reading socket option %d of level %d: %s", name, level, strerror(errno));
    return 0;
}
