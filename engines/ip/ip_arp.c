/* SPDX-License-Identifier: Apache-2.0
 *
 * ARP on dedicated interfaces: answers for our dedicated addresses, learns from answers and from those who ask us,
 * tells control when somebody else claims an address of ours (RFC 5227). Shared interfaces leave ARP to the kernel.
 */
#include "engines/ip/ip_resolve.h"

#define ARP_REQUEST 1
#define ARP_REPLY   2

static const uint8_t mac_all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

struct arp {
    uint8_t htype[2], ptype[2], hlen, plen, op[2], sha[6], spa[4], tha[6], tpa[4];
};
STATIC_ASSERT(sizeof(struct arp) == ARP_LEN, "wire layout");

/* Writes a whole frame at data, which has room for it. */
static void frame_write(struct pkt *p, const uint8_t *own_mac, const uint8_t *to, const struct arp *body) {
    static const uint8_t type[2] = {ETHERTYPE_ARP >> 8, ETHERTYPE_ARP & 0xff};
    memcpy(p->data, to, 6);
    memcpy(p->data + 6, own_mac, 6);
    memcpy(p->data + 12, type, 2);
    memcpy(p->data + ETH_LEN, body, sizeof *body);
    p->len = ETH_LEN + ARP_LEN;
}

static struct arp body_make(uint16_t op, const uint8_t *sha, const void *spa, const uint8_t *tha, const void *tpa) {
    struct arp a = {.htype = {0, 1}, .ptype = {ETHERTYPE_IP4 >> 8, 0}, .hlen = 6, .plen = 4};
    be16_store(a.op, op);
    memcpy(a.sha, sha, 6);
    memcpy(a.spa, spa, 4);
    memcpy(a.tha, tha, 6);
    memcpy(a.tpa, tpa, 4);
    return a;
}

void ip_arp_ask(struct ip_state *st, struct engine_io *io, const struct ip_neigh *n, const struct ipaddr *own) {
    static const uint8_t nobody[6] = {0};
    struct pkt *p = pkt_alloc(io->pool);
    (void)st;
    if (p == NULL)
        return; /* asked again by the timer */
    const uint8_t *mac = io->ports[n->port].mac;
    struct arp body = body_make(ARP_REQUEST, mac, &own->b[12], nobody, &n->addr.b[12]);
    frame_write(p, mac, n->state == NEIGH_REACHABLE || n->state == NEIGH_PROBE ? n->mac : mac_all, &body);
    p->port = n->port;
    ip_down(io, p);
}

static enum drop_reason answer(struct engine_io *io, struct pkt *p, const struct arp *request) {
    const uint8_t *mac = io->ports[p->port].mac;
    struct arp body = body_make(ARP_REPLY, mac, request->tpa, request->sha, request->spa);
    if ((size_t)(p->data - p->buf) < ETH_LEN || p->buf_size < ETH_LEN + ARP_LEN)
        return DROP_NO_BUFFER;
    p->data = p->buf + (p->data - p->buf - ETH_LEN);
    frame_write(p, mac, request->sha, &body);
    p->flags = 0;
    ip_down(io, p);
    return IP_TAKEN;
}

enum drop_reason ip_arp_input(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    static const uint8_t head[6] = {0, 1, ETHERTYPE_IP4 >> 8, 0, 6, 4};
    struct arp a;
    if (!ip_port_dedicated(io, p->port))
        return DROP_ETH_TYPE;
    if (p->len < sizeof a)
        return DROP_ARP_MALFORMED;
    memcpy(&a, p->data, sizeof a);
    if (memcmp(&a, head, sizeof head) != 0 || (a.sha[0] & 1))
        return DROP_ARP_MALFORMED;
    struct ipaddr sender = ipaddr_from_v4(a.spa), target = ipaddr_from_v4(a.tpa);
    const struct ip_addr *own = ip_addr_find(st, &target, p->port);
    bool ours = own != NULL && (own->flags & IP_ADDR_DEDICATED);
    const struct ip_addr *claimed = ip_addr_find(st, &sender, p->port);
    if (claimed != NULL && (claimed->flags & IP_ADDR_DEDICATED) && memcmp(a.sha, io->ports[p->port].mac, 6) != 0) {
        const struct engine_event ev = {.kind = EVENT_ADDR_CONFLICT, .port = p->port, .addr = sender};
        engine_event(io, &ev);
        return DROP_IP_MARTIAN;
    }
    if (!ipaddr_is_any(&sender) && !ipaddr_is_multicast(&sender) && claimed == NULL)
        ip_neigh_learn(st, io, &sender, p->port, a.sha, ours && be16_load(a.op) == ARP_REQUEST);
    if (ours && be16_load(a.op) == ARP_REQUEST)
        return answer(io, p, &a);
    (void)pkt_vec_push(io->done, p);
    return IP_TAKEN;
}

void ip_resolve_ask(struct ip_state *st, struct engine_io *io, const struct ip_neigh *n) {
    const struct arena_table *t = ip_table_of(st, IP_TABLE_ADDR);
    bool v4 = ipaddr_is_v4(&n->addr);
    const struct ip_addr *own = NULL;
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct ip_addr *a = (const struct ip_addr *)ip_get(st, IP_TABLE_ADDR, i);
        if (a == NULL || a->port != n->port || (a->flags & IP_ADDR_BROADCAST) || ipaddr_is_v4(&a->addr) != v4)
            continue;
        if (own == NULL || ip_prefix_covers(&a->addr, a->prefix_len, &n->addr))
            own = a;
    }
    if (own == NULL)
        return;
    if (v4)
        ip_arp_ask(st, io, n, &own->addr);
    else
        ip_ndp_ask(st, io, n, &own->addr);
}
