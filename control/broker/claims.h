/* SPDX-License-Identifier: Apache-2.0
 *
 * Which local ports and groups this daemon claims, counted: several sockets may share a port (SO_REUSEPORT) or a group,
 * and the hooks in the kernel know it only once. First taker adds, last giver removes.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_BROKER_CLAIMS_H
#define USHER_CONTROL_BROKER_CLAIMS_H

#include "engines/ipaddr.h"

struct nb_claims;
struct claim_table;

int claim_table_create(struct nb_claims *nb, uint32_t max, struct claim_table **ret_table);
void claim_table_destroy(struct claim_table *t); /* removes what is still claimed */

/* Claims local address and port of `flow`: 0.0.0.0 is any local IPv4 address, :: any local one, with v6only any local
 * IPv6 one. -ENOSPC when full. */
int claim_take(struct claim_table *t, const struct flow *flow, bool v6only);
void claim_give(struct claim_table *t, const struct flow *flow, bool v6only);
/* A connection that the kernel has: no claim takes it away. */
int claim_keep(struct claim_table *t, const struct flow *flow);
/* A connection that is ours, whoever has its port, until it is let go. -EEXIST, -ENOSPC. */
int claim_hold(struct claim_table *t, const struct flow *flow);
void claim_let_go(struct claim_table *t, const struct flow *flow);
/* True: closing the socket takes the port back to the kernel, no other claim is on the same address. */
bool claim_is_last(const struct claim_table *t, const struct flow *flow, bool v6only);
/* Around the first claim of a TCP port: whoever comes meanwhile stays with the kernel. Port 0 ends it. */
int claim_settle(struct claim_table *t, uint16_t port);
/* True when packets to this address and port are claimed. */
bool claim_covers(const struct claim_table *t, uint8_t proto, const struct ipaddr *addr, uint16_t port);

/* Every port of the range at any local address, as one claim: where connections go out. Kept until the table ends. */
int claim_range_take(struct claim_table *t, uint8_t proto, uint16_t low, uint16_t high);

/* A multicast group, so that packets to it are ours as well. */
int claim_group_take(struct claim_table *t, const struct ipaddr *group);
void claim_group_give(struct claim_table *t, const struct ipaddr *group);

/* Drops a predecessor's claims that nobody has taken again; returns how many. */
uint32_t claim_sweep(struct claim_table *t);
uint32_t claim_table_count(const struct claim_table *t);

#endif
