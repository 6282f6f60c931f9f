/* SPDX-License-Identifier: Apache-2.0
 *
 * A watch shows the packets of the kernel's own stack on an interface: what leaves through its egress hook and what
 * comes in and is nobody's claim, each with what the kernel knows of its sender (socket cookie, uid). For captures; no
 * packet is changed or held up. What finds no room is counted exactly.
 *
 * It takes tcx links (Linux 6.6), which end with their fds; older kernels' clsact would outlive us, so there a watch is
 * refused. Packets that skip the egress hook (PACKET_QDISC_BYPASS, AF_XDP) are not seen.
 *
 * Threads: create, add and destroy are control's; fd and read are one reader's.
 */
#ifndef USHER_NICBACKEND_WATCH_H
#define USHER_NICBACKEND_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_error;
struct nb_watch;

struct nb_watch_packet {
    uint64_t time_ns; /* monotonic */
    uint64_t cookie;  /* of the sender's socket, 0 = none: received, or the kernel's own */
    uint32_t uid;     /* of the sender; means nothing without a cookie */
    uint32_t ifindex;
    uint32_t length; /* of the frame */
    uint32_t captured;
    uint16_t gso_size;
    uint16_t vlan; /* the TCI, with has_vlan: the tag is not in the bytes */
    bool out, has_vlan;
    const uint8_t *bytes; /* Ethernet header first */
};

/* `own`: cookies of our own packet sockets, whose packets are left out. */
int nb_watch_create(uint32_t snaplen, const uint64_t *own, size_t own_count, struct nb_watch **ret_watch,
                    struct nb_error *err);
/* Begins to watch. -EOPNOTSUPP: the kernel has no tcx. */
int nb_watch_add(struct nb_watch *w, uint32_t ifindex, bool in, bool out, struct nb_error *err);
void nb_watch_destroy(struct nb_watch *w);

/* Readable when there are packets. */
int nb_watch_fd(const struct nb_watch *w);
/* Calls fn with what there is until it says false (that packet counts as read). */
typedef bool nb_watch_fn(void *arg, const struct nb_watch_packet *p);
void nb_watch_read(struct nb_watch *w, nb_watch_fn *fn, void *arg);
uint64_t nb_watch_lost(const struct nb_watch *w);

#endif
