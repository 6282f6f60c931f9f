/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/ip: cutting what is larger than the path, either into datagrams (PKT_GSO of UDP where the port
 * cannot) or into IP fragments.
 */
#ifndef USHER_ENGINES_IP_IP_CUT_H
#define USHER_ENGINES_IP_IP_CUT_H

#include "engines/ip/ip.h"

/* Room in front of the transport header that output asks for: Ethernet, IPv6, fragment header. */
#define IP_HEADROOM (ETH_LEN + IP6_LEN + 8u)

/* A fresh packet that has room for `bytes` at data, from the smallest pool that does. NULL when there is none. */
struct pkt *ip_pkt_alloc(struct engine_io *io, uint32_t bytes);
/* A fresh packet with `bytes` of p from `offset` on (head and frags made one), and p's flow, tos, ttl. */
struct pkt *ip_pkt_copy(struct engine_io *io, const struct pkt *p, uint32_t offset, uint32_t bytes);
/* The packet fits the path as it is, or the port cuts it itself. */
bool ip_fits(const struct port_info *port, const struct pkt *p, uint32_t mtu);
/* Sends a packet to the wire destination `d`, cut as it must be. Takes it; keeps it while `down` has no room. */
void ip_cut(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_dest *d);
/* Goes on with what was kept. Returns packets finished. */
uint32_t ip_cut_run(struct ip_state *st, struct engine_io *io);
void ip_cut_drop_all(struct ip_state *st, struct engine_io *io);

#endif
