/* SPDX-License-Identifier: Apache-2.0
 *
 * What follow.c and neigh.c share: the sockets, and how messages become values.
 */
#ifndef USHER_CONTROL_NETLINK_FOLLOW_INTERNAL_H
#define USHER_CONTROL_NETLINK_FOLLOW_INTERNAL_H

#include "control/netlink/follow.h"

struct nl_sock;
struct nlattr;
struct nlmsghdr;

/* Marks the neighbours that usherd made (NDA_PROTOCOL), as routing daemons mark their routes. So the kernel itself
 * remembers what is to be undone after a crash. */
#define NEIGH_PROTOCOL 0x75 /* 'u' */

struct follow {
    struct follow_sink sink;
    struct nl_sock *events;   /* subscribed, never blocks */
    struct nl_sock *requests; /* dumps and changes */
    bool stale;               /* a resync is due */
    bool no_managed;          /* the kernel does not know NTF_EXT_MANAGED */
};

int nl_errno(int nl_error); /* of libnl, as -errno */
int requests_open(struct nl_sock **ret_socket);
/* Asks for all objects of a type and hands them to the socket's callback. */
int requests_dump(struct nl_sock *s, int type);
bool neigh_parse(struct nlmsghdr *h, struct follow_neigh *ret_neigh);
bool address_of(int family, const struct nlattr *attr, struct ipaddr *ret_addr);

#endif
