/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/ip: ICMP and ICMPv6.
 */
#ifndef USHER_ENGINES_IP_IP_ICMP_H
#define USHER_ENGINES_IP_IP_ICMP_H

#include "engines/ip/ip.h"

/* data is at the ICMP header, flow is filled. Verdict as in ip.h: an error that quotes a flow of ours goes up. */
enum drop_reason ip_icmp4_input(struct ip_state *st, struct engine_io *io, struct pkt *p);
enum drop_reason ip_icmp6_input(struct ip_state *st, struct engine_io *io, struct pkt *p);
/* A received packet that its transport refuses (PKT_ICMP_ERROR on the way down). Takes it. */
void ip_icmp_refuse(struct ip_state *st, struct engine_io *io, struct pkt *p);

#endif
