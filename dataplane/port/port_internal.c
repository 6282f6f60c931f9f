/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kinds of port share: error sentences, copying, and the first steps of create.
 */
#include "dataplane/port/port_internal.h"

#include <errno.h>
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

/* Copies what [from, from + len) and a piece at `at` of `size` bytes have in common. */
static void part_copy(uint8_t *to, const uint8_t *piece, uint32_t at, uint32_t size, uint32_t from, uint32_t len) {
    uint32_t begin = from > at ? from : at;
    uint32_t end = from + len < at + size ? from + len : at + size;
    if (begin < end)
        memcpy(to + (begin - from), piece + (begin - at), end - begin);
}

void port_gather_part(uint8_t *to, const struct pkt *p, uint32_t from, uint32_t len) {
    part_copy(to, p->data, 0, p->len, from, len);
    for (uint32_t i = 0, at = p->len; i < p->frag_count; at += p->frag[i].len, i++)
        part_copy(to, p->frag[i].base, at, p->frag[i].len, from, len);
}

int port_params_check(const char *kind, const struct port_params *params, struct port_error *err) {
    const char *name = params->ifname == NULL ? "(none)" : params->ifname;
    if (params->queue_count == 0 || params->queue_count > PORT_QUEUE_MAX)
        return port_fail(err, -EINVAL, "%s port on %s: %u queues are not possible, 1 to %d", kind, name,
                         params->queue_count, PORT_QUEUE_MAX);
    for (uint32_t i = 0; i < params->queue_count; i++) {
        if (params->mem[i] == NULL)
            return port_fail(err, -EINVAL, "%s port on %s: queue %u has no packet memory", kind, name, i);
    }
    uint32_t entries = params->ring_entries;
    if (entries > PORT_ENTRIES_MAX || (entries & (entries - 1)) != 0)
        return port_fail(err, -EINVAL, "%s port on %s: ring_entries must be a power of two up to %u", kind, name,
                         PORT_ENTRIES_MAX);
    return 0;
}

static void stats_add(struct port_stats *sum, const volatile struct port_stats *more) {
    const volatile uint64_t *from = (const volatile uint64_t *)more;
    uint64_t *to = (uint64_t *)sum;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

void port_stats_read(struct port_queue *q, struct port_stats *ret_stats) {
    *ret_stats = (struct port_stats){0};
    stats_add(ret_stats, &q->stats);
    if (q->port->ops->kernel_stats != NULL)
        q->port->ops->kernel_stats(q, ret_stats);
}

void port_stats_sum(const struct port *p, struct port_stats *ret_stats) {
    struct port_stats one;
    *ret_stats = (struct port_stats){0};
    for (uint32_t i = 0; i < p->queue_count; i++) {
        port_stats_read(p->queue[i], &one);
        stats_add(ret_stats, &one);
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
