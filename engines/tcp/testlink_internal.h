/* SPDX-License-Identifier: Apache-2.0
 *
 * Between the two files of the two-endpoint fixture. Test code.
 */
#ifndef USHER_ENGINES_TCP_TESTLINK_INTERNAL_H
#define USHER_ENGINES_TCP_TESTLINK_INTERNAL_H

#include "engines/tcp/testlink.h"

#define LINK_SMALL_SIZE 2304u
#define LINK_LARGE_SIZE 69632u

/* Zero, touched lazily, as the daemon's arenas are. */
void *link_map(size_t size);
void link_check_failed(const char *what, int code);
void link_pool_create(struct pkt_pool *pool, uint32_t count, uint32_t size);
void link_pool_destroy(struct pkt_pool *pool);
void link_put(struct pkt *p);
struct ipaddr link_address(const struct link *l, uint32_t h);
void link_enqueue(struct link *l, uint32_t to, struct pkt *p, ns_t at);
struct link_flight link_dequeue(struct link *l);
/* `bytes` = TCP header and payload, checksum field zero. Fills in what ip would. */
struct pkt *link_arrive(struct link *l, uint32_t to, const struct pkt *meta, const uint8_t *bytes, uint32_t len);
/* Takes no ownership: the caller puts `p` back. */
void link_transmit(struct link *l, uint32_t from, struct pkt *p);

#endif
