/* SPDX-License-Identifier: Apache-2.0
 *
 * An AF_XDP socket and its four rings, by hand: opening one, and mapping the rings of one that is already bound (which
 * a successor process does with an fd it was handed; Linux 6.4 or later). It moves no packets; see xdp.c.
 */
#ifndef USHER_DATAPLANE_PORT_XSK_H
#define USHER_DATAPLANE_PORT_XSK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/if_xdp.h>

#ifndef XDP_USE_SG /* since Linux 6.6 */
#define XDP_USE_SG    (1 << 4)
#define XDP_PKT_CONTD (1 << 0)
#endif

/* One ring. We move one of its indexes and read the kernel's other; `ours` and `theirs` are private copies. */
struct xsk_ring {
    uint32_t *producer, *consumer, *flags;
    union {
        struct xdp_desc *desc; /* rx and tx */
        uint64_t *addr;        /* fill and completion */
        void *entries;
    };
    uint32_t mask;
    uint32_t ours, theirs;
    void *map;
    size_t map_size;
};

struct xsk {
    int fd;
    struct xsk_ring rx, tx, fill, completion;
};

struct xsk_params {
    void *umem;
    size_t umem_size;
    uint32_t chunk_size;
    uint32_t entries; /* of each ring, power of two */
    uint32_t ifindex, queue;
    uint16_t bind_flags; /* XDP_ZEROCOPY or XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG */
};

/* Opens, maps and binds. -EBUSY (the queue's last owner is still being torn down) is tried again for up to 500 ms. */
int xsk_open(struct xsk *x, const struct xsk_params *params);
/* Maps the rings of x->fd, which is set up already. */
int xsk_map(struct xsk *x, uint32_t entries);
void xsk_close(struct xsk *x);

/* Producing: room for at least one entry? Reads the kernel's index only when the private copy says full. */
static inline uint32_t xsk_room(struct xsk_ring *r) {
    uint32_t room = r->mask + 1 - (r->ours - r->theirs);
    if (room > 0)
        return room;
    r->theirs = __atomic_load_n(r->consumer, __ATOMIC_ACQUIRE);
    return r->mask + 1 - (r->ours - r->theirs);
}

/* Releases what was written to the entries up to `ours`. */
static inline void xsk_produce(struct xsk_ring *r) { __atomic_store_n(r->producer, r->ours, __ATOMIC_RELEASE); }

/* Consuming: how many entries are ready. One load. */
static inline uint32_t xsk_ready(struct xsk_ring *r) {
    r->theirs = __atomic_load_n(r->producer, __ATOMIC_ACQUIRE);
    return r->theirs - r->ours;
}

static inline void xsk_consume(struct xsk_ring *r) { __atomic_store_n(r->consumer, r->ours, __ATOMIC_RELEASE); }

static inline bool xsk_wants_wakeup(const struct xsk_ring *r) {
    return __atomic_load_n(r->flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP;
}

#endif
