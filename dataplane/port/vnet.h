/* SPDX-License-Identifier: Apache-2.0
 *
 * The virtio-net header that packet sockets and taps put before each frame, to and from packet flags. The kernel is
 * trusted to exist, not to be right: offsets are checked against the frame.
 */
#ifndef USHER_DATAPLANE_PORT_VNET_H
#define USHER_DATAPLANE_PORT_VNET_H

#include <linux/virtio_net.h>

#include "dataplane/port/port.h"
#include "engines/wire.h"

#define VNET_LEN ((uint32_t)sizeof(struct virtio_net_hdr))
#define VNET_GSO_UDP_L4 5 /* VIRTIO_NET_HDR_GSO_UDP_L4, not in the headers of kernel 6.1 */

/* Sets flags of a received packet whose data and len are set. False when the header makes no sense. */
static inline bool vnet_read(struct pkt *p, const struct virtio_net_hdr *h) {
    if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        uint32_t sum_at = (uint32_t)h->csum_start + h->csum_offset;
        if (UNLIKELY(sum_at + 2 > p->len))
            return false;
        p->flags |= PKT_CSUM_PARTIAL;
        p->csum_start = (uint16_t)((p->data - p->buf) + h->csum_start);
        p->csum_offset = h->csum_offset;
    } else if (h->flags & VIRTIO_NET_HDR_F_DATA_VALID) {
        p->flags |= PKT_CSUM_OK;
    }
    uint8_t gso = h->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    if (LIKELY(gso == VIRTIO_NET_HDR_GSO_NONE))
        return true;
    if (h->gso_size == 0 ||
        (gso != VIRTIO_NET_HDR_GSO_TCPV4 && gso != VIRTIO_NET_HDR_GSO_TCPV6 && gso != VNET_GSO_UDP_L4))
        return false;
    p->flags |= PKT_GSO;
    p->gso_size = h->gso_size;
    p->gso_type = gso == VIRTIO_NET_HDR_GSO_TCPV4   ? PKT_GSO_TCP4
                  : gso == VIRTIO_NET_HDR_GSO_TCPV6 ? PKT_GSO_TCP6
                                                    : PKT_GSO_UDP;
    return true;
}

/* Bytes of link, network and transport header of a super-segment: what the kernel wants in the linear part. */
static inline uint16_t vnet_header_len(const struct pkt *p) {
    uint32_t l4 = (uint32_t)(p->buf + p->csum_start - p->data);
    if (p->gso_type == PKT_GSO_UDP)
        return (uint16_t)(l4 + UDP_LEN);
    uint32_t tcp = l4 + 12 < p->len ? (p->data[l4 + 12] >> 4) * 4u : TCP_LEN;
    return (uint16_t)(l4 + tcp);
}

/* The header of a packet to send. */
static inline void vnet_write(struct virtio_net_hdr *h, const struct pkt *p) {
    *h = (struct virtio_net_hdr){0};
    if (!(p->flags & PKT_CSUM_PARTIAL))
        return;
    h->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    h->csum_start = (uint16_t)(p->buf + p->csum_start - p->data);
    h->csum_offset = p->csum_offset;
    if (!(p->flags & PKT_GSO))
        return;
    h->gso_type = p->gso_type == PKT_GSO_TCP4   ? VIRTIO_NET_HDR_GSO_TCPV4
                  : p->gso_type == PKT_GSO_TCP6 ? VIRTIO_NET_HDR_GSO_TCPV6
                                                : VNET_GSO_UDP_L4;
    h->gso_size = p->gso_size;
    h->hdr_len = vnet_header_len(p);
}

#endif
