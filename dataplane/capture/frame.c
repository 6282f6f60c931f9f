/* SPDX-License-Identifier: Apache-2.0
 *
 * See frame.h. Which way a dropped packet went is read from what it looks like: a packet on its way down starts at its
 * IP header or in front of it, one on its way up has left that behind.
 */
#include "dataplane/capture/frame.h"

#define TTL_MADE 64u

static void piece_add(struct frame *f, const uint8_t *base, uint32_t len) {
    if (len == 0 || f->piece_count == FRAME_PIECE_MAX)
        return;
    f->piece[f->piece_count++] = (struct frame_piece){base, len};
    f->length += len;
}

/* From `from` in the head buffer to the packet's end. */
static void rest_add(struct frame *f, const struct pkt *p, const uint8_t *from) {
    const uint8_t *end = p->data + p->len;
    if (from < end)
        piece_add(f, from, (uint32_t)(end - from));
    for (uint32_t i = 0; i < p->frag_count && i < PKT_FRAG_MAX; i++)
        piece_add(f, p->frag[i].base, p->frag[i].len);
}

/* An Ethernet header of nobody; returns where what follows goes. */
static uint8_t *link_make(struct frame *f, uint16_t type) {
    memset(f->made, 0, ETH_LEN);
    be16_store(f->made + 12, type);
    return f->made + ETH_LEN;
}

static uint16_t type_of_version(uint8_t first_byte) {
    return first_byte >> 4 == 6 ? ETHERTYPE_IP6 : ETHERTYPE_IP4;
}

/* An IP packet without a link header. */
static void from_l3(struct frame *f, const struct pkt *p, const uint8_t *l3) {
    const uint8_t *end = link_make(f, l3 < p->data + p->len ? type_of_version(l3[0]) : ETHERTYPE_IP4);
    piece_add(f, f->made, (uint32_t)(end - f->made));
    rest_add(f, p, l3);
}

static void from_eth(struct frame *f, const struct pkt *p, const uint8_t *eth) {
    bool whole = eth + ETH_LEN <= p->data + p->len;
    if (LIKELY(!(p->flags & PKT_VLAN)) || !whole || be16_load(eth + 12) == ETHERTYPE_VLAN) {
        rest_add(f, p, eth);
        return;
    }
    memcpy(f->made, eth, 12);
    be16_store(f->made + 12, ETHERTYPE_VLAN);
    be16_store(f->made + 14, p->vlan);
    piece_add(f, f->made, 16);
    rest_add(f, p, eth + 12);
}

/* ---- dropped ones ---- */

static bool ends_before_ip_header(enum drop_reason why) {
    switch (why) {
    case DROP_UDP_BAD_SEND:
    case DROP_TCP_BAD_SEND:
    case DROP_IP_NO_ROUTE:
    case DROP_IP_TOO_BIG:
    case DROP_IP_NEIGH_PENDING:
    case DROP_IP_NEIGH_FAILED:
    case DROP_PORT_DOWN:
    case DROP_NO_BUFFER:
    case DROP_NO_SHARD:
    case DROP_QUEUE_FULL:
        return true;
    default:
        return false;
    }
}

static uint8_t *ip_make(uint8_t *at, const struct flow *flow, uint8_t ttl, uint32_t payload) {
    uint16_t length = (uint16_t)(payload < UINT16_MAX - IP6_LEN ? payload : UINT16_MAX - IP6_LEN);
    if (ipaddr_is_v4(&flow->remote)) {
        memset(at, 0, IP4_LEN);
        at[0] = 0x45;
        be16_store(at + 2, (uint16_t)(length + IP4_LEN));
        at[8] = ttl;
        at[9] = flow->proto;
        if (ipaddr_is_v4(&flow->local))
            memcpy(at + 12, flow->local.b + 12, 4);
        memcpy(at + 16, flow->remote.b + 12, 4);
        uint16_t sum = (uint16_t)~csum_fold(csum_ip4_header(at));
        memcpy(at + 10, &sum, sizeof sum);
        return at + IP4_LEN;
    }
    memset(at, 0, IP6_LEN);
    at[0] = 0x60;
    be16_store(at + 4, length);
    at[6] = flow->proto;
    at[7] = ttl;
    memcpy(at + 8, flow->local.b, 16);
    memcpy(at + 24, flow->remote.b, 16);
    return at + IP6_LEN;
}

static uint8_t *transport_make(uint8_t *at, const struct flow *flow, uint32_t payload) {
    uint32_t size = flow->proto == PROTO_TCP ? TCP_LEN : UDP_LEN;
    memset(at, 0, size);
    be16_store(at, flow->local_port);
    be16_store(at + 2, flow->remote_port);
    if (flow->proto == PROTO_TCP)
        at[12] = TCP_LEN / 4 << 4;
    else
        be16_store(at + 4, (uint16_t)(payload + UDP_LEN));
    return at + size;
}

/* A send request that died before it had an IP header, perhaps even before it had a transport header. */
static void from_flow(struct frame *f, const struct pkt *p) {
    bool has_l4 = p->l4_off != 0 && p->buf + p->l4_off == p->data;
    bool makes_l4 = !has_l4 && (p->flow.proto == PROTO_TCP || p->flow.proto == PROTO_UDP);
    uint32_t l4 = !makes_l4 ? 0 : p->flow.proto == PROTO_TCP ? TCP_LEN : UDP_LEN;
    uint8_t *at = link_make(f, ipaddr_is_v4(&p->flow.remote) ? ETHERTYPE_IP4 : ETHERTYPE_IP6);
    at = ip_make(at, &p->flow, p->ttl != 0 ? p->ttl : TTL_MADE, pkt_bytes(p) + l4);
    if (makes_l4)
        at = transport_make(at, &p->flow, pkt_bytes(p));
    f->flags |= FRAME_OUT | FRAME_MADE_UP;
    piece_add(f, f->made, (uint32_t)(at - f->made));
    rest_add(f, p, p->data);
}

/* On its way up, headers left behind are still in the buffer, as they came. */
static void from_behind(struct frame *f, const struct pkt *p, const uint8_t *l3, bool l3_port) {
    size_t before = (size_t)(l3 - p->buf);
    bool local = l3_port || (p->flags & PKT_LOCAL);
    if (!local && before >= ETH_LEN + VLAN_LEN && (p->flags & PKT_VLAN) && be16_load(l3 - 6) == ETHERTYPE_VLAN)
        from_eth(f, p, l3 - ETH_LEN - VLAN_LEN);
    else if (!local && before >= ETH_LEN)
        from_eth(f, p, l3 - ETH_LEN);
    else
        from_l3(f, p, l3);
}

static void from_dropped(struct frame *f, const struct pkt *p, bool l3_port) {
    const uint8_t *l3 = pkt_l3(p);
    if (p->l3_off != 0 && p->data <= l3) { /* on its way down: with a link header, or not yet */
        f->flags |= FRAME_OUT;
        if (l3 - p->data >= (ptrdiff_t)ETH_LEN)
            from_eth(f, p, p->data);
        else
            from_l3(f, p, l3);
        return;
    }
    if (p->l3_off != 0) {
        from_behind(f, p, l3, l3_port);
        return;
    }
    if (ends_before_ip_header((enum drop_reason)p->drop) && p->flow.proto != 0) {
        from_flow(f, p);
        return;
    }
    if (l3_port) {
        from_l3(f, p, p->data);
        return;
    }
    bool has_eth = p->drop == DROP_ETH_TRUNCATED || p->drop == DROP_PORT_RX_TRUNCATED || p->data < p->buf + ETH_LEN;
    from_eth(f, p, has_eth ? p->data : p->data - ETH_LEN);
}

/* ---- the public calls ---- */

void frame_of(struct frame *f, const struct pkt *p, enum tap_point point, bool l3) {
    f->length = 0;
    f->piece_count = 0;
    f->flags = point == TAP_TX || point == TAP_LOCAL ? FRAME_OUT : 0;
    if (point == TAP_MIRROR && (p->flags & PKT_ICMP_ERROR)) /* received, and on its way back to be refused */
        from_l3(f, p, pkt_l3(p));
    else if (point == TAP_DROP || point == TAP_MIRROR)
        from_dropped(f, p, l3);
    else if (point == TAP_LOCAL || l3)
        from_l3(f, p, p->data);
    else
        from_eth(f, p, p->data);
    f->head = f->piece[0].base;
    f->head_len = f->piece_count > 0 ? f->piece[0].len : 0;
}

void frame_of_bytes(struct frame *f, const uint8_t *bytes, uint32_t len, const uint16_t *tag) {
    f->length = f->piece_count = 0;
    f->flags = 0;
    if (tag != NULL && len >= ETH_LEN) {
        memcpy(f->made, bytes, 12);
        be16_store(f->made + 12, ETHERTYPE_VLAN);
        be16_store(f->made + 14, *tag);
        piece_add(f, f->made, 16);
        piece_add(f, bytes + 12, len - 12);
    } else {
        piece_add(f, bytes, len);
    }
    f->head = f->piece_count > 0 ? f->piece[0].base : NULL;
    f->head_len = f->piece_count > 0 ? f->piece[0].len : 0;
}

static uint32_t ip_flow(const uint8_t *ip, uint32_t len, struct flow *flow) {
    if (len >= IP4_LEN && ip[0] >> 4 == 4) {
        uint32_t head = (uint32_t)(ip[0] & 0xf) * 4;
        bool later = (be16_load(ip + 6) & 0x1fff) != 0;
        flow->remote = ipaddr_from_v4(ip + 12);
        flow->local = ipaddr_from_v4(ip + 16);
        flow->proto = ip[9];
        return later || head < IP4_LEN ? 0 : head;
    }
    if (len >= IP6_LEN && ip[0] >> 4 == 6) {
        flow->remote = ipaddr_from_v6(ip + 8);
        flow->local = ipaddr_from_v6(ip + 24);
        flow->proto = ip[6];
        return IP6_LEN;
    }
    return 0;
}

uint32_t frame_flow(const uint8_t *ip, uint32_t len, struct flow *ret_flow) {
    *ret_flow = (struct flow){.proto = 0};
    uint32_t l4 = ip_flow(ip, len, ret_flow);
    if (l4 == 0 || l4 > len)
        return 0;
    if ((ret_flow->proto == PROTO_TCP || ret_flow->proto == PROTO_UDP) && len - l4 >= 4) {
        ret_flow->remote_port = be16_load(ip + l4);
        ret_flow->local_port = be16_load(ip + l4 + 2);
    }
    return l4;
}

bool frame_read(const struct frame *f, uint32_t at, uint8_t *to, uint32_t size) {
    for (uint32_t i = 0; i < f->piece_count && size > 0; i++) {
        const struct frame_piece *piece = &f->piece[i];
        if (at >= piece->len) {
            at -= piece->len;
            continue;
        }
        uint32_t n = piece->len - at < size ? piece->len - at : size;
        memcpy(to, piece->base + at, n);
        to += n;
        size -= n;
        at = 0;
    }
    return size == 0;
}
