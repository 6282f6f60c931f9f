/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/ip: address resolution on dedicated interfaces, ARP (RFC 826, 5227) and neighbour discovery
 * (RFC 4861), and what both share with the neighbour table.
 */
#ifndef USHER_ENGINES_IP_IP_RESOLVE_H
#define USHER_ENGINES_IP_IP_RESOLVE_H

#include "engines/ip/ip.h"

/* Sends one question for n->addr: to its last known MAC while that is in doubt, else to everybody. */
void ip_resolve_ask(struct ip_state *st, struct engine_io *io, const struct ip_neigh *n);
/* An ARP message behind the link header (data). Verdict as in ip.h. */
enum drop_reason ip_arp_input(struct ip_state *st, struct engine_io *io, struct pkt *p);
void ip_arp_ask(struct ip_state *st, struct engine_io *io, const struct ip_neigh *n, const struct ipaddr *own);
/* A neighbour solicitation or advertisement; data is at the ICMPv6 header, its checksum is right. */
enum drop_reason ip_ndp_input(struct ip_state *st, struct engine_io *io, struct pkt *p);
void ip_ndp_ask(struct ip_state *st, struct engine_io *io, const struct ip_neigh *n, const struct ipaddr *own);

void ip_neigh_learn(struct ip_state *st, struct engine_io *io, const struct ipaddr *addr, uint16_t port,
                    const uint8_t *mac, bool create);

#endif
