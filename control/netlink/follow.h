/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's links, addresses, routes and neighbours, as values, live. Everything is told again between resync(begin)
 * and resync(end) whenever the kernel may have changed something without saying so; what is not told then is gone.
 * The kernel is silent, for instance, about IPv4 routes that vanish with their link.
 *
 * Thread: control. Nothing here blocks but resyncs and single requests, which the kernel answers at once.
 */
#ifndef USHER_CONTROL_NETLINK_FOLLOW_H
#define USHER_CONTROL_NETLINK_FOLLOW_H

#include "engines/ipaddr.h"

struct follow;

struct follow_link {
    uint32_t ifindex, mtu;
    uint32_t master; /* ifindex of its bridge or bond, 0 = none */
    uint16_t type;   /* ARPHRD_ */
    bool up;         /* administratively */
    bool running;    /* and with carrier */
    bool loopback;
    uint8_t mac[6];
    char name[16];
};

struct follow_addr {
    struct ipaddr addr;
    uint32_t ifindex;
    uint8_t prefix_len; /* in v4-mapped counting */
    bool tentative;     /* not to be used yet (or refused by duplicate address detection) */
};

struct follow_route {
    struct ipaddr prefix, gateway, source; /* zero = none */
    uint32_t ifindex, metric, mtu;
    uint8_t prefix_len; /* in v4-mapped counting */
    uint8_t type;       /* RTN_ */
    bool foreign;       /* has an encapsulation or a gateway of the other IP version: only the kernel can do it */
};

enum follow_neigh_state { FOLLOW_NEIGH_FAILED, FOLLOW_NEIGH_USABLE, FOLLOW_NEIGH_GONE };

struct follow_neigh {
    struct ipaddr addr;
    uint32_t ifindex;
    uint8_t mac[6];
    enum follow_neigh_state state;
    bool ours; /* made by usherd, this one or a dead one */
};

struct follow_sink {
    void *arg;
    void (*resync)(void *arg, bool begin);
    void (*link)(void *arg, const struct follow_link *link, bool gone);
    void (*addr)(void *arg, const struct follow_addr *addr, bool gone);
    void (*route)(void *arg, const struct follow_route *route, bool gone);
    void (*neigh)(void *arg, const struct follow_neigh *neigh);
};

/* Subscribes; tells nothing before the first follow_resync(). */
int follow_create(const struct follow_sink *sink, struct follow **ret_follow);
void follow_destroy(struct follow *f);
/* Readable when follow_dispatch() has something to read. */
int follow_fd(const struct follow *f);
/* Tells what happened. Returns 1 when follow_resync() is due, 0 when all is told, -errno. */
int follow_dispatch(struct follow *f);
/* Tells everything. Events that arrive meanwhile are told by the next dispatch. */
int follow_resync(struct follow *f);

/* Asks the kernel to resolve a next hop and to keep it resolved (NTF_EXT_MANAGED, NTF_USE where that is unknown), and
 * tells the sink what the kernel knows now. */
int follow_neigh_want(struct follow *f, uint32_t ifindex, const struct ipaddr *addr);
/* No longer. */
int follow_neigh_release(struct follow *f, uint32_t ifindex, const struct ipaddr *addr);
/* Releases every next hop that any usherd of this network namespace ever wanted; returns how many. */
int follow_neigh_cleanup(void);

#endif
