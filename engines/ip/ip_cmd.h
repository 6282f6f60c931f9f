/* SPDX-License-Identifier: Apache-2.0
 *
 * What control tells the ip engine: the kernel's addresses, routes and neighbours (or its own, in dedicated mode).
 * Values only. Interfaces are named by slot (pkt->port); their MTU, MAC and caps are in engine_io.ports.
 */
#ifndef USHER_ENGINES_IP_CMD_H
#define USHER_ENGINES_IP_CMD_H

#include "engines/engine.h"

struct ip_config {
    uint32_t addr_max, route_max, neigh_max, pmtu_max;
    uint32_t reassembly_max;       /* datagrams under reassembly */
    uint32_t neigh_queue_max;      /* packets that wait for one next hop */
    uint32_t icmp_per_second;      /* errors we send; 0 = default */
};

enum ip_cmd_id { IP_CMD_ADDR = 1, IP_CMD_ROUTE, IP_CMD_NEIGH, IP_CMD_FLUSH, IP_CMD_LOOKUP };

/* An address of ours, on interface slot `port`. Local delivery needs no port: slot PORT_SLOT_LOCAL. */
#define PORT_SLOT_LOCAL 0xffffu
#define PORT_SLOT_KERNEL 0xfffeu /* a route that leaves by an interface which Usher does not run */

struct ip_cmd_addr {
    struct engine_cmd cmd;
    struct ipaddr addr;
    uint16_t port;
    uint8_t prefix_len; /* of the on-link prefix; in v4-mapped counting (96 + n) for IPv4 */
    bool remove;
    bool dedicated;     /* ours alone: answer ARP/NDP/echo for it */
    bool broadcast;     /* `addr` is a broadcast address of the interface */
};

/* prefix_len in v4-mapped counting. gateway all zero = on link. Longest prefix, then lowest metric, wins. */
struct ip_cmd_route {
    struct engine_cmd cmd;
    struct ipaddr prefix;
    struct ipaddr gateway;
    struct ipaddr source; /* preferred source address, all zero = choose */
    uint32_t metric;
    uint16_t port;        /* slot, PORT_SLOT_LOCAL or PORT_SLOT_KERNEL */
    uint16_t mtu;         /* 0 = the interface's */
    uint8_t prefix_len;
    bool remove;
    bool unreachable;     /* blackhole/prohibit/unreachable: refuse with EHOSTUNREACH */
};

/* What the kernel says of a next hop. `state`: 0 unknown/failed, 1 usable, 2 gone. */
struct ip_cmd_neigh {
    struct engine_cmd cmd;
    struct ipaddr addr;
    uint16_t port;
    uint8_t mac[6];
    uint8_t state;
};

/* Forgets addresses, routes and neighbours that were not given again since the last FLUSH with begin = true (a netlink
 * resync): begin marks, end sweeps. */
struct ip_cmd_flush {
    struct engine_cmd cmd;
    bool begin;
};

/* Route lookup, for control and `explain`. Writes to *result, which the caller lends. */
struct ip_route_result {
    struct ipaddr source, next_hop;
    uint16_t port; /* slot, PORT_SLOT_LOCAL, PORT_SLOT_KERNEL */
    uint16_t mtu;
    int32_t error; /* 0 or -errno */
};
struct ip_cmd_lookup {
    struct engine_cmd cmd;
    struct ipaddr dst;
    struct ip_route_result *result;
};

#endif
