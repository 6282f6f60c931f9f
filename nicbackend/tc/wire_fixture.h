/* SPDX-License-Identifier: Apache-2.0
 *
 * Two ends of a wire in a network namespace of its own: what is sent at one end, and whether it gets past the ingress
 * filters of the other. Tests only; needs root.
 */
#ifndef USHER_NICBACKEND_TC_WIRE_FIXTURE_H
#define USHER_NICBACKEND_TC_WIRE_FIXTURE_H

#include "nicbackend/store/frames_fixture.h"

struct wire {
    uint32_t ifindex; /* of the end that receives, "vb"; the other one is "va" */
    int send;
    int ip, arp, marker; /* packet sockets of one ethertype stand behind the ingress filters */
    uint32_t sent;
};

/* Puts the process into a namespace of its own, for good, and onto one processor: frames then keep their order. */
void wire_make(struct wire *w);
void wire_end(struct wire *w);
/* Sends, and returns when the frame has arrived or never will (untagged frames that are IPv4 or ARP are asked for). */
bool wire_arrives(struct wire *w, const struct frame *f);
void wire_send(struct wire *w, const struct frame *f);
/* The next frame that has arrived, of IPv4; false when there is none within `wait_ms`. */
bool wire_receive(struct wire *w, struct frame *ret_frame, int wait_ms);

#endif
