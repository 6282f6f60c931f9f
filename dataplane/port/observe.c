/* SPDX-License-Identifier: Apache-2.0
 *
 * A decorator that shows every packet to a function; see observe.h.
 */
#include "dataplane/port/observe.h"

#include <errno.h>
#include <stdlib.h>

#include "dataplane/port/wrap.h"

struct observe_port {
    struct wrap_port wrap;
    const struct observer *observer;
    void *arg;
    struct port_ops ops; /* one of its own, because its kind is the observer's */
    struct wrap_queue queue[PORT_QUEUE_MAX];
};

static void show(struct port_queue *q, enum observe_way way, struct pkt *const *pkts, uint32_t n) {
    struct observe_port *port = (struct observe_port *)q->port;
    for (uint32_t i = 0; i < n; i++)
        port->observer->see(port->arg, way, pkts[i], q->now);
}

static uint32_t observe_rx(struct port_queue *q, struct pkt **ret_pkts, uint32_t max) {
    struct port_queue *inner = wrap_inner(q);
    uint32_t n = inner->ops->rx(inner, ret_pkts, max);
    q->wake_at = inner->wake_at;
    if (n > 0) {
        show(q, OBSERVE_RX, ret_pkts, n);
        q->stats = inner->stats;
    }
    return n;
}

/* Before they are sent: afterwards they may be somebody else's. */
static void observe_tx(struct port_queue *q, struct pkt **pkts, uint32_t n, struct pkt_vec *done,
                       struct pkt_vec *drop) {
    struct port_queue *inner = wrap_inner(q);
    show(q, OBSERVE_TX, pkts, n);
    inner->ops->tx(inner, pkts, n, done, drop);
    q->stats = inner->stats;
    q->wake_at = inner->wake_at;
}

static const struct port_queue_ops observe_queue_ops = {
    .rx = observe_rx,
    .tx = observe_tx,
    .reap = wrap_reap,
    .arm = wrap_arm,
    .disarm = wrap_disarm,
    .attach = wrap_attach,
    .detach = wrap_detach,
};

static void observe_destroy(struct port *p) {
    struct observe_port *port = (struct observe_port *)p;
    port_destroy(port->wrap.inner);
    port->observer->end(port->arg);
    free(port);
}

int observe_create(struct port *inner, const struct observer *observer, void *arg, struct port **ret_port) {
    struct observe_port *port = aligned_alloc(CACHE_LINE, sizeof *port);
    if (port == NULL)
        return -ENOMEM;
    memset(port, 0, sizeof *port);
    port->observer = observer;
    port->arg = arg;
    port->ops = (struct port_ops){
        .kind = observer->kind, .destroy = observe_destroy, .refresh = wrap_refresh, .kernel_stats = wrap_kernel_stats};
    wrap_init(&port->wrap, &port->ops, inner, observer->kind);
    for (uint32_t i = 0; i < inner->queue_count; i++)
        wrap_queue_init(&port->queue[i], &observe_queue_ops, &port->wrap.port, inner->queue[i]);
    *ret_port = &port->wrap.port;
    return 0;
}
