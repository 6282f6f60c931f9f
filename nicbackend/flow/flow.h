/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device that matches header fields makes of a rule. Such devices do not know the canonical parse: they match
 * IPv4 or IPv6, never "either"; they find transport headers by means of their own. A flow is a cube that says what
 * the device really looks at, for one version of IP. It stands for the rule only in a region of packets:
 *
 *   untagged IPv4, and untagged IPv6 that is no fragment (also none of one piece) and has no IPv4-mapped address.
 *
 * In the region a drop's flow has no packet that the rule has not, and a punt's flow has all that the rule has. Outside
 * no flow drops, or the backend sees to it (a guard that punts). So a program of flows is as sound as one of rules.
 *
 * Where the headers do not fit the packet (lengths that lie, a transport header cut short) devices may take for ports
 * what the canonical parse does not: every IP stack discards such packets, so that nobody can tell.
 *
 * Pure functions on values; any thread.
 */
#ifndef USHER_NICBACKEND_FLOW_FLOW_H
#define USHER_NICBACKEND_FLOW_FLOW_H

#include "nicbackend/backend.h"

/* The cube of a flow: ip_version is whole; of an IPv4 address only the last four bytes are looked at; of `parsed` only
 * NB_PARSED_FRAGMENT; ports come with a protocol that has them, flags with TCP, types with ICMP of the version; no vlan
 * and no ethertype. */
struct nb_flow_traits {
    bool fragments;  /* can tell fragments from others; else rules that depend on it are not dropped */
    bool frag_ports; /* without `fragments`: takes a first fragment's ports for the packet's */
};

enum nb_flow_answer {
    NB_FLOW_NONE,   /* no packet of the region has it, or no flow may stand for it: the rule does without */
    NB_FLOW_EXISTS, /* `ret_flow` */
};

enum nb_flow_answer nb_flow_of(const struct nb_hw_rule *rule, uint8_t ip_version, const struct nb_flow_traits *traits,
                               struct nb_cube *ret_flow);
bool nb_flow_has_ports(uint8_t proto);

#endif
