/* SPDX-License-Identifier: Apache-2.0
 *
 * What decorators share: a port that stands before another one and passes everything on.
 */
#ifndef USHER_DATAPLANE_PORT_WRAP_H
#define USHER_DATAPLANE_PORT_WRAP_H

#include "dataplane/port/port_internal.h"

/* First member of each decorator's queue. */
struct wrap_queue {
    struct port_queue q;
    struct port_queue *inner;
};

struct wrap_port {
    struct port port;
    struct port *inner;
};

/* Makes `port` look like `inner`: name, mode with `prefix` before it, info. */
void wrap_init(struct wrap_port *port, const struct port_ops *ops, struct port *inner, const char *prefix);
void wrap_queue_init(struct wrap_queue *w, const struct port_queue_ops *ops, struct port *port,
                     struct port_queue *inner);
/* Passing on: arm, disarm, attach, detach as they are, and the clock before any of them. */
int wrap_arm(struct port_queue *q);
void wrap_disarm(struct port_queue *q);
int wrap_attach(struct port_queue *q);
void wrap_detach(struct port_queue *q);
void wrap_reap(struct port_queue *q, struct pkt_vec *done);
int wrap_refresh(struct port *p);
void wrap_kernel_stats(struct port_queue *q, struct port_stats *stats);

static inline struct port_queue *wrap_inner(struct port_queue *q) {
    struct port_queue *inner = ((struct wrap_queue *)q)->inner;
    inner->now = q->now;
    return inner;
}

#endif
