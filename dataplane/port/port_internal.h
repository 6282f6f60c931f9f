/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kinds of port share. Private to dataplane/port.
 */
#ifndef USHER_DATAPLANE_PORT_INTERNAL_H
#define USHER_DATAPLANE_PORT_INTERNAL_H

#include "dataplane/port/port.h"

/* Flags and fields of a packet that speak of its content and so go along with a copy of it. */
#define PORT_CONTENT_FLAGS (PKT_CSUM_OK | PKT_CSUM_PARTIAL | PKT_GSO)

#define PORT_ENTRIES_MAX 32768u

/* Fills err (when there is one) and returns `error`, so that callers can say `return port_fail(...)`. */
int port_fail(struct port_error *err, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Copies head and frags of `p` to `to`, which has room for pkt_bytes(p). */
void port_gather(uint8_t *to, const struct pkt *p);

/* Copies bytes [from, from + len) of the frame. */
void port_gather_part(uint8_t *to, const struct pkt *p, uint32_t from, uint32_t len);

/* Hands one packet that will not be sent to `drop`. */
static inline void port_drop(struct port_queue *q, struct pkt_vec *drop, struct pkt *p, enum drop_reason why) {
    p->drop = (uint16_t)why;
    q->stats.tx_dropped++;
    CHECK(pkt_vec_push(drop, p));
}

/* Common first steps of create. */
int port_params_check(const char *kind, const struct port_params *params, struct port_error *err);
void port_init(struct port *port, const struct port_ops *ops, const char *name);
void port_queue_init(struct port_queue *q, const struct port_queue_ops *ops, struct port *port, uint32_t index,
                     struct pkt_pool *pool);

#endif
