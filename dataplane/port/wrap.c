/* SPDX-License-Identifier: Apache-2.0
 *
 * What decorators share; see wrap.h.
 */
#include "dataplane/port/wrap.h"

#include <stdio.h>

void wrap_init(struct wrap_port *port, const struct port_ops *ops, struct port *inner, const char *prefix) {
    port_init(&port->port, ops, inner->name);
    port->inner = inner;
    port->port.info = inner->info;
    port->port.queue_count = inner->queue_count;
    snprintf(port->port.mode, sizeof port->port.mode, "%s %.48s", prefix, inner->mode);
    memcpy(port->port.why, inner->why, sizeof port->port.why);
}

void wrap_queue_init(struct wrap_queue *w, const struct port_queue_ops *ops, struct port *port,
                     struct port_queue *inner) {
    port_queue_init(&w->q, ops, port, inner->index, inner->rx_pool);
    w->inner = inner;
    w->q.event_fd = inner->event_fd;
}

int wrap_arm(struct port_queue *q) {
    struct port_queue *inner = wrap_inner(q);
    return inner->ops->arm(inner);
}

void wrap_disarm(struct port_queue *q) {
    struct port_queue *inner = wrap_inner(q);
    inner->ops->disarm(inner);
}

int wrap_attach(struct port_queue *q) {
    struct port_queue *inner = wrap_inner(q);
    return inner->ops->attach(inner);
}

void wrap_detach(struct port_queue *q) {
    struct port_queue *inner = wrap_inner(q);
    inner->ops->detach(inner);
}

void wrap_reap(struct port_queue *q, struct pkt_vec *done) {
    struct port_queue *inner = wrap_inner(q);
    inner->ops->reap(inner, done);
    q->wake_at = inner->wake_at;
}

int wrap_refresh(struct port *p) {
    struct wrap_port *port = (struct wrap_port *)p;
    uint16_t caps = p->info.caps; /* a decorator may have taken some away */
    int error = port->inner->ops->refresh(port->inner);
    p->info = port->inner->info;
    p->info.caps = caps;
    return error;
}

void wrap_kernel_stats(struct port_queue *q, struct port_stats *stats) {
    struct port_queue *inner = ((struct wrap_queue *)q)->inner;
    if (inner->port->ops->kernel_stats != NULL)
        inner->port->ops->kernel_stats(inner, stats);
}
