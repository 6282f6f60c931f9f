/* SPDX-License-Identifier: Apache-2.0
 *
 * A packet as a capture shows it: a whole Ethernet frame, wherever on its way the packet is. Nothing is copied but
 * headers: the frame is a list of pieces of the packet, behind headers that are made up where the packet has none (yet,
 * or any more):
 *
 *   received            the frame as it came; a VLAN tag that the port took off is put back
 *   sent                the frame as it leaves
 *   turned round        an Ethernet header of zeros, as on the kernel's loopback
 *   dropped on its way  as much as is known: from the IP header; before there is one, IP and UDP or TCP headers are
 *                       made from the flow (FRAME_MADE_UP)
 *
 * Pure; the frame borrows the packet. On the shard's worker.
 */
#ifndef USHER_DATAPLANE_CAPTURE_FRAME_H
#define USHER_DATAPLANE_CAPTURE_FRAME_H

#include "dataplane/core/runtime.h"
#include "engines/pkt.h"
#include "engines/wire.h"

#define FRAME_MADE_MAX  (ETH_LEN + IP6_LEN + TCP_LEN)
#define FRAME_PIECE_MAX (2 + PKT_FRAG_MAX)

enum frame_flag {
    FRAME_OUT = 1 << 0,     /* this host sends it; else it receives it */
    FRAME_MADE_UP = 1 << 1, /* its headers were made from what is known of the flow */
};

struct frame_piece {
    const uint8_t *base;
    uint32_t len;
};

struct frame {
    const uint8_t *head; /* = piece[0]: what a filter nearly always looks at */
    uint32_t head_len;
    uint32_t length; /* of all pieces */
    uint32_t piece_count;
    uint8_t flags; /* enum frame_flag */
    uint8_t pad[3];
    struct frame_piece piece[FRAME_PIECE_MAX];
    uint8_t made[FRAME_MADE_MAX];
};

/* `l3`: its port has no link header. Touches line 0 of the packet, and line 1 where it says so above. */
void frame_of(struct frame *f, const struct pkt *p, enum tap_point point, bool l3);

/* The same for bytes that are no packet of ours; `tag`: a VLAN tag that is not among them is put back. */
void frame_of_bytes(struct frame *f, const uint8_t *bytes, uint32_t len, const uint16_t *tag);

/* Where the transport header of the IP packet in `ip` begins, and the flow as the receiver sees it: addresses,
 * protocol, and ports where there are any. 0 when it has none to see. */
uint32_t frame_flow(const uint8_t *ip, uint32_t len, struct flow *ret_flow);

/* Copies `size` bytes at `at`; false when they are not all there. */
bool frame_read(const struct frame *f, uint32_t at, uint8_t *to, uint32_t size);

#endif
