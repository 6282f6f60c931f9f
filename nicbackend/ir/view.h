/* SPDX-License-Identifier: Apache-2.0
 *
 * What a rule can see of a packet: the canonical parse. Everything that judges packets (interpreter, filter engine, XDP
 * and tc programs, a NIC) either sees a packet exactly so or may not decide about it. Pure functions on values; any
 * thread; about 30 ns a frame (the engines do not call it: they build the same view from what they have parsed).
 *
 * The parse, where devices disagree:
 *   - Up to two VLAN tags are stepped over; `vlan` is the outermost tag's identifier, 0 for none and for priority tags.
 *   - A packet is IP when its EtherType says so and its header is whole and sane (version, header length, total length
 *     that fits the frame). Otherwise only link fields are set; `length` is then what follows the link header.
 *   - `length` is the IP packet's: IPv4 total length, IPv6 payload length + 40. Padding behind it does not exist. A
 *     super-segment is judged as its full-sized segments are: headers + gso_size.
 *   - IPv4 options do not matter. Of IPv6, at most NB_EXTENSION_MAX hop-by-hop, routing, destination and fragment
 *     headers are stepped over; `proto` is what follows the last one that was stepped over.
 *   - Any fragment (more fragments to come, or an offset; not the atomic fragments of IPv6) has no transport fields.
 *   - Transport fields need the whole fixed part inside the IP packet: TCP 20 bytes, UDP and UDP-Lite 8, SCTP 12;
 *     ICMP and ICMPv6 4 (type and code). Checksums are not looked at. Nothing inside a tunnel is looked at.
 */
#ifndef USHER_NICBACKEND_IR_VIEW_H
#define USHER_NICBACKEND_IR_VIEW_H

#include <stdbool.h>
#include <stddef.h>

#include "nicbackend/addr.h"

#define NB_EXTENSION_MAX 6

enum nb_dir {
    NB_IN = 1 << 0,  /* towards this host's sockets */
    NB_OUT = 1 << 1, /* from this host's sockets */
};

/* What is known of the conversation. Only sockets know: forwarded and raw traffic is always new. */
enum nb_state {
    NB_STATE_NEW = 1 << 0,
    NB_STATE_ESTABLISHED = 1 << 1, /* of a connected socket, or an answer to what an unconnected one has sent */
    NB_STATE_RELATED = 1 << 2,     /* an ICMP error about such a packet */
};

enum nb_parsed {
    NB_PARSED_IP = 1 << 0,    /* addresses, proto, dscp, length of the IP packet */
    NB_PARSED_PORTS = 1 << 1, /* sport, dport; tcp_flags when proto is TCP */
    NB_PARSED_ICMP = 1 << 2,  /* icmp_type, icmp_code */
    NB_PARSED_FRAGMENT = 1 << 3,
};

/* Numbers are in host order. What was not parsed is zero. */
struct nb_view {
    struct nb_addr src, dst;
    uint32_t ifindex;
    uint32_t length;    /* what rules match */
    uint32_t bytes;     /* what limits and counters take: of a super-segment the whole, which counts as one packet */
    uint16_t ethertype; /* behind the tags */
    uint16_t vlan;
    uint16_t sport, dport;
    uint8_t parsed; /* enum nb_parsed */
    uint8_t dir;    /* one of enum nb_dir */
    uint8_t state;  /* one of enum nb_state */
    uint8_t ip_version;
    uint8_t proto;
    uint8_t dscp; /* six bits */
    uint8_t tcp_flags;
    uint8_t icmp_type, icmp_code;
    uint8_t pad[3];
};

/* What the frame does not say about itself. */
struct nb_frame {
    const uint8_t *data;
    size_t len;
    uint32_t ifindex;
    uint16_t vlan_tci;  /* of a tag that the NIC or the kernel took out of the frame, with `has_vlan` */
    uint16_t gso_size;  /* payload bytes of each segment, 0 when it is one packet */
    uint16_t ethertype; /* of a frame without link header (`l3`) */
    uint8_t dir;
    uint8_t state;
    bool has_vlan;
    bool l3; /* data starts at the network header */
};

/* Never fails: what cannot be parsed is not set. Reads only data[0..len). */
void nb_view_parse(const struct nb_frame *frame, struct nb_view *ret_view);

static inline struct nb_addr nb_addr_from_v4(const uint8_t v4[4]) {
    return (struct nb_addr){{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]}};
}

#endif
