/* SPDX-License-Identifier: Apache-2.0
 *
 * What control may ask of the udp engine. Values only.
 */
#ifndef USHER_ENGINES_UDP_CMD_H
#define USHER_ENGINES_UDP_CMD_H

#include "engines/engine.h"

struct udp_config {
    uint32_t socket_max; /* sockets one shard can hold */
    uint32_t member_max; /* multicast memberships */
};

enum udp_cmd_id { UDP_CMD_OPEN = 1, UDP_CMD_UPDATE, UDP_CMD_CLOSE, UDP_CMD_OPTION, UDP_CMD_GROUP, UDP_CMD_INFO };

/* Makes a socket. reply.value = its index (what pkt->sock carries). -EADDRINUSE when the address and port are taken
 * and not both sides said `reuseport`; -ENOSPC when the table is full. UPDATE changes flow of an open one. */
struct udp_cmd_open {
    struct engine_cmd cmd;
    struct flow flow;  /* local (any = wildcard), local_port; remote all zero while not connected */
    uint64_t sink;     /* who gets its packets: SINK_SESSION or SINK_ENGINE */
    uint32_t sock;     /* UPDATE only */
    uint32_t owner;
    uint32_t ifindex;  /* 0 = any interface */
    bool v6only;
    bool reuseport;
    uint8_t spread;    /* 0 = hash over the flow, 1 = member with the least `load` */
};

struct udp_cmd_close {
    struct engine_cmd cmd;
    uint32_t sock;
};

/* The numbers of tos, ttl, fragmenting, multicast and broadcast options take 0..255, or 0 and 1. LOAD: how much the
 * socket's reader has in front of it (any unit); it counts up by itself with each datagram, so a group with spread = 1
 * that is never told goes round robin. */
enum udp_option {
    UDP_OPT_TOS = 1,
    UDP_OPT_TTL,
    UDP_OPT_DONT_FRAGMENT,
    UDP_OPT_MULTICAST_TTL,
    UDP_OPT_MULTICAST_LOOP,
    UDP_OPT_BROADCAST,
    UDP_OPT_LOAD,
};

struct udp_cmd_option {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t option; /* enum udp_option */
    int64_t value;
};

struct udp_cmd_group {
    struct engine_cmd cmd;
    uint32_t sock;
    uint32_t ifindex;
    struct ipaddr group;
    bool leave;
};

/* reply.text unused; reply.value = UDP_CMD_INFO's answer is written to *info, which the caller lends for the call. */
struct udp_info {
    struct flow flow;
    uint64_t sink, rx_packets, tx_packets, rx_bytes, tx_bytes;
    uint32_t owner;
};
struct udp_cmd_info {
    struct engine_cmd cmd;
    uint32_t sock;
    struct udp_info *info;
};

#endif
