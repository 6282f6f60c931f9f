/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kinds of port share: error sentences, copying, and the first steps of create.
 */
#include "dataplane/port/port_internal.h"

#include <stdarg.h>
#include <stdio.h>

int port_fail(struct port_error *err, int error, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return error;
}

void port_gather(uint8_t *to, const struct pkt *p) {
    memcpy(to, p->data, p->len);
    to += p->len;
    for (uint32_t i = 0; i < p->frag_count; i++) {
        memcpy(to, p->frag[i].base, p->frag[i].len);
        to += p->frag[i].len;
    }
}

void port_init(struct port *port, const struct port_ops *ops, const char *name) {
    port->ops = ops;
    snprintf(port->name, sizeof port->name, "%s", name == NULL ? "" : name);
}

void port_queue_init(struct port_queue *q, const struct port_queue_ops *ops, struct port *port, uint32_t index,
                     struct pkt_pool *pool) {
    q->ops = ops;
    q->port = port;
    q->rx_pool = pool;
    q->index = index;
    q->event_fd = -1;
    q->wake_at = NS_NEVER;
    port->queue[index] = q;
}
