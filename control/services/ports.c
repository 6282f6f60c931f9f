/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Ports. Control thread; counters are words that workers write, each read once.
 */
#include <string.h>

#include "control/interfaces.h"
#include "control/services/service_internal.h"
#include "dataplane/port/port.h"
#include "usher/control/v1/ports.pb-c.h"

static PB(PortQueue) * queue_message(struct rpc_call *c, const struct service *s, const struct port *p, uint32_t i) {
    struct port_stats stats;
    port_stats_read(p->queue[i], &stats);
    PB(PortQueue) *m = PB_NEW(c, PortQueue, port_queue);
    m->queue = i;
    m->shard = i % runtime_shard_count(s->u->rt);
    m->rx_packets = stats.rx_packets;
    m->rx_bytes = stats.rx_bytes;
    m->tx_packets = stats.tx_packets;
    m->tx_bytes = stats.tx_bytes;
    m->rx_dropped = stats.rx_dropped;
    m->tx_dropped = stats.tx_dropped;
    m->kicks = stats.kicks;
    m->rx_partial_sums = stats.rx_partial_sums;
    m->rx_kernel_dropped = stats.rx_kernel_dropped;
    m->rx_no_buffer = stats.rx_no_buffer;
    m->bad_descs = stats.bad_descs;
    return m;
}

static void caps_fill(struct rpc_call *c, uint16_t caps, PB(Port) * m) {
    static const struct {
        uint16_t cap;
        const char *name;
    } names[] = {{PORT_CAP_TX_CSUM, "tx_csum"},
                 {PORT_CAP_TX_GSO_TCP, "tx_gso_tcp"},
                 {PORT_CAP_TX_GSO_UDP, "tx_gso_udp"},
                 {PORT_CAP_TX_FRAGS, "tx_frags"}};
    m->caps = rpc_alloc_array(c, char *, ARRAY_LEN(names));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (caps & names[i].cap)
            m->caps[m->n_caps++] = PB_TEXT(names[i].name);
    }
}

static PB(Port) *
    port_message(struct rpc_call *c, const struct service *s, const struct port *p, const struct interface *interface) {
    const uint8_t *mac = p->info.mac;
    PB(Port) *m = PB_NEW(c, Port, port);
    m->name = PB_TEXT(interface->name);
    m->ifindex = interface->ifindex;
    m->slot = interface->slot;
    m->kind = PB_TEXT(p->ops->kind);
    m->mode = PB_TEXT(p->mode);
    m->why = PB_TEXT(p->why);
    m->dedicated = interface->dedicated;
    m->up = p->info.up;
    m->mtu = p->info.mtu;
    m->mac = rpc_text(c, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    caps_fill(c, p->info.caps, m);
    m->queues = rpc_alloc_array(c, PB(PortQueue) *, p->queue_count);
    for (uint32_t i = 0; i < p->queue_count; i++)
        m->queues[m->n_queues++] = queue_message(c, s, p, i);
    return m;
}

static enum rpc_code list(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(ListPortsRequest) *q = request;
    PB(ListPortsResponse) *r = PB_NEW(c, ListPortsResponse, list_ports_response);
    r->time_unix_ns = service_now_unix_ns();
    r->ports = rpc_alloc_array(c, PB(Port) *, PORT_SLOT_MAX);
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX; slot++) {
        const struct port *p = runtime_port(s->u->rt, slot);
        const struct interface *i = interfaces_slot(s->u->interfaces, slot);
        if (p != NULL && i != NULL && (q->name[0] == '\0' || strcmp(q->name, i->name) == 0))
            r->ports[r->n_ports++] = port_message(c, s, p, i);
    }
    if (r->n_ports == 0 && q->name[0] != '\0')
        return rpc_fail(c, RPC_NOT_FOUND, "PORT_UNKNOWN", "name",
                        "usherd does not run %.32s; the setting interfaces says which it runs", q->name);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

const struct rpc_method ports_methods[] = {
    {.name = "List", PB_REQUEST(list_ports_request), .role = RPC_ROLE_VIEWER, .unary = list},
};
const size_t ports_method_count = ARRAY_LEN(ports_methods);
