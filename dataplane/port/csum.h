/* SPDX-License-Identifier: Apache-2.0
 *
 * Partial checksums: finding them on receive where no flag tells, and completing them. A kernel that sends over veth
 * or a tap leaves the transport checksum to a device that does not exist: AF_XDP then sees the bare pseudo-header sum
 * where the checksum belongs. Such a frame never left the host, so there is nothing to verify: it is accepted and
 * marked. A wrong guess needs a payload that sums to zero (1 in 65536 of corrupted frames), and only on interfaces
 * whose peer is a kernel of this host.
 */
#ifndef USHER_DATAPLANE_PORT_CSUM_H
#define USHER_DATAPLANE_PORT_CSUM_H

#include "engines/wire.h"

/* Finds UDP or TCP behind Ethernet, at most one tag, and IPv4 or plain IPv6. Returns the offset of the transport header
 * from data, or 0. */
static inline uint32_t rx_transport(const struct pkt *p, struct flow *ret_flow, uint32_t *ret_l4_len) {
    uint32_t l3 = ETH_LEN;
    if (p->len < ETH_LEN + IP4_LEN + UDP_LEN)
        return 0;
    uint16_t type = be16_load(p->data + 12);
    if (type == ETHERTYPE_VLAN && p->len >= ETH_LEN + VLAN_LEN + IP4_LEN + UDP_LEN) {
        type = be16_load(p->data + 16);
        l3 += VLAN_LEN;
    }
    const uint8_t *ip = p->data + l3;
    if (type == ETHERTYPE_IP4) {
        uint32_t header = (ip[0] & 15) * 4u, total = be16_load(ip + 2);
        if (header < IP4_LEN || total < header || l3 + total > p->len || (be16_load(ip + 6) & 0x3fff) != 0)
            return 0;
        *ret_flow = (struct flow){
            .local = ipaddr_from_v4(ip + 16), .remote = ipaddr_from_v4(ip + 12), .proto = ip[9]};
        *ret_l4_len = total - header;
        return l3 + header;
    }
    if (type != ETHERTYPE_IP6 || p->len < l3 + IP6_LEN)
        return 0;
    *ret_l4_len = be16_load(ip + 4);
    if (l3 + IP6_LEN + *ret_l4_len > p->len)
        return 0;
    *ret_flow = (struct flow){.local = ipaddr_from_v6(ip + 24), .remote = ipaddr_from_v6(ip + 8), .proto = ip[6]};
    return l3 + IP6_LEN;
}

/* Marks a frame whose transport checksum is the bare pseudo-header sum. Touches the frame's first two lines; about 10
 * ns. Returns true when it was one. */
static inline bool rx_csum_accept_partial(struct pkt *p) {
    struct flow flow = {.proto = 0};
    uint32_t l4_len = 0;
    uint32_t l4 = rx_transport(p, &flow, &l4_len);
    uint32_t at = flow.proto == PROTO_UDP ? 6 : 16;
    if (l4 == 0 || (flow.proto != PROTO_UDP && flow.proto != PROTO_TCP) || l4_len < at + 2)
        return false;
    uint16_t field, pseudo = csum_fold(csum_pseudo(&flow, l4_len));
    memcpy(&field, p->data + l4 + at, 2);
    if (field != pseudo || field == 0)
        return false;
    p->flags |= PKT_CSUM_PARTIAL;
    p->csum_start = (uint16_t)(p->data - p->buf + l4);
    p->csum_offset = (uint16_t)at;
    return true;
}

/* Makes a partial checksum a full one, in the packet's own head. Does nothing when it is not partial. */
static inline void csum_complete(struct pkt *p) {
    if (!(p->flags & PKT_CSUM_PARTIAL))
        return;
    uint8_t *start = p->buf + p->csum_start;
    uint16_t sum = (uint16_t)~csum_fold(csum_pkt(0, p, start)); /* the field holds the pseudo header's part */
    if (sum == 0)
        sum = 0xffff; /* RFC 768: zero would mean none */
    memcpy(start + p->csum_offset, &sum, 2);
    p->flags &= (uint16_t)~PKT_CSUM_PARTIAL;
}

#endif
