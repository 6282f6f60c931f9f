/* SPDX-License-Identifier: Apache-2.0
 *
 * Neighbour discovery on dedicated interfaces (RFC 4861 section 7): answers solicitations for our dedicated addresses,
 * learns from them and from advertisements. No router discovery, no duplicate address detection: control configures
 * routes and vouches for the addresses.
 */
#include "engines/ip/ip_cut.h"
#include "engines/ip/ip_resolve.h"

#define ND_SOLICIT       135
#define ND_ADVERT        136
#define ND_LEN           24u /* ICMPv6 header, flags, target */
#define ND_OPT_LEN       8u  /* a link-layer address option on Ethernet */
#define OPT_SOURCE       1
#define OPT_TARGET       2
#define ADVERT_SOLICITED 0x40
#define ADVERT_OVERRIDE  0x20

/* The Ethernet address in option `type`, or NULL. False in *ret_ok when the options are malformed. */
static const uint8_t *option_find(const struct pkt *p, uint8_t type, bool *ret_ok) {
    const uint8_t *found = NULL;
    *ret_ok = false;
    for (uint32_t at = ND_LEN; at < p->len;) {
        if (p->len - at < ND_OPT_LEN)
            return NULL;
        uint32_t size = (uint32_t)p->data[at + 1] * 8;
        if (size == 0 || size > p->len - at)
            return NULL;
        if (p->data[at] == type && size == ND_OPT_LEN && !(p->data[at + 2] & 1))
            found = p->data + at + 2;
        at += size;
    }
    *ret_ok = true;
    return found;
}

/* Writes a message with one option and sends it to `mac`. */
struct message {
    struct ipaddr from, to, target;
    const uint8_t *mac;
    uint8_t type, flags, option;
};

static void send(struct engine_io *io, uint16_t slot, const struct message *m) {
    const struct port_info *port = &io->ports[slot];
    struct pkt *p = ip_pkt_alloc(io, ND_LEN + ND_OPT_LEN);
    if (p == NULL)
        return; /* whoever asked asks again, and so does our timer */
    uint8_t *h = p->data;
    memset(h, 0, ND_LEN + ND_OPT_LEN);
    h[0] = m->type;
    h[4] = m->flags;
    memcpy(h + 8, m->target.b, 16);
    h[ND_LEN] = m->option;
    h[ND_LEN + 1] = 1;
    memcpy(h + ND_LEN + 2, port->mac, 6);
    p->len = ND_LEN + ND_OPT_LEN;
    p->flow = (struct flow){.local = m->from, .remote = m->to, .proto = PROTO_ICMP6};
    p->ttl = 255;
    p->flags = PKT_CSUM_PARTIAL;
    p->csum_start = PKT_HEADROOM;
    p->csum_offset = 2;
    p->l4_off = PKT_HEADROOM;
    ip_csum_finish(io, p, false);
    ip_push6(p, PROTO_ICMP6);
    ip_push_link(port, p, m->mac);
    p->port = slot;
    ip_down(io, p);
}

void ip_ndp_ask(struct ip_state *st, struct engine_io *io, const struct ip_neigh *n, const struct ipaddr *own) {
    const uint8_t *b = n->addr.b;
    const uint8_t group_mac[6] = {0x33, 0x33, 0xff, b[13], b[14], b[15]};
    struct message m = {.from = *own, .target = n->addr, .type = ND_SOLICIT, .option = OPT_SOURCE};
    (void)st;
    if (n->state == NEIGH_REACHABLE || n->state == NEIGH_PROBE) {
        m.to = n->addr;
        m.mac = n->mac;
    } else {
        m.to = (struct ipaddr){.b = {0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, b[13], b[14], b[15]}};
        m.mac = group_mac;
    }
    send(io, n->port, &m);
}

/* Of the frame that brought the packet: its link header still lies in front of the IP header. */
static const uint8_t *link_source(const struct pkt *p) {
    return pkt_l3(p) - ETH_LEN - ((p->flags & PKT_VLAN) ? VLAN_LEN : 0) + sizeof(((struct eth_hdr *)0)->dst);
}

static void answer(struct engine_io *io, const struct pkt *p, const struct ipaddr *target, const uint8_t *mac) {
    static const uint8_t all_mac[6] = {0x33, 0x33, 0, 0, 0, 1};
    static const struct ipaddr all_nodes = {.b = {0xff, 0x02, [15] = 1}};
    bool probe = ipaddr_is_any(&p->flow.remote); /* duplicate address detection: told to everybody */
    struct message m = {.from = *target,
                        .to = probe ? all_nodes : p->flow.remote,
                        .target = *target,
                        .mac = probe         ? all_mac
                               : mac != NULL ? mac
                                             : link_source(p),
                        .type = ND_ADVERT,
                        .flags = probe ? ADVERT_OVERRIDE : ADVERT_OVERRIDE | ADVERT_SOLICITED,
                        .option = OPT_TARGET};
    send(io, p->port, &m);
}

enum drop_reason ip_ndp_input(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    uint8_t type = p->data[0];
    if (!ip_port_dedicated(io, p->port) || (p->flags & PKT_LOCAL) || (type != ND_SOLICIT && type != ND_ADVERT))
        return DROP_ICMP_UNWANTED;
    if (ip_port_is(io, p->port, PORT_CAP_L3))
        return DROP_ICMP_UNWANTED;
    if (p->len < ND_LEN || p->data[1] != 0 || p->ttl != 255 || (p->flags & PKT_FRAGMENT)) /* RFC 6980 section 5 */
        return DROP_ARP_MALFORMED;
    bool ok;
    const uint8_t *mac = option_find(p, type == ND_SOLICIT ? OPT_SOURCE : OPT_TARGET, &ok);
    struct ipaddr target = ipaddr_from_v6(p->data + 8);
    if (!ok || ipaddr_is_multicast(&target))
        return DROP_ARP_MALFORMED;
    const struct ip_addr *own = ip_addr_find(st, &target, p->port);
    bool ours = own != NULL && (own->flags & IP_ADDR_DEDICATED);
    if (type == ND_ADVERT && ours) {
        const struct engine_event ev = {.kind = EVENT_ADDR_CONFLICT, .port = p->port, .addr = target};
        engine_event(io, &ev);
        return DROP_IP_MARTIAN;
    }
    if (type == ND_ADVERT && mac != NULL)
        ip_neigh_learn(st, io, &target, p->port, mac, false);
    if (type == ND_SOLICIT && ours) {
        if (mac != NULL && !ipaddr_is_any(&p->flow.remote))
            ip_neigh_learn(st, io, &p->flow.remote, p->port, mac, true);
        answer(io, p, &target, mac);
    }
    (void)pkt_vec_push(io->done, p);
    return IP_TAKEN;
}
