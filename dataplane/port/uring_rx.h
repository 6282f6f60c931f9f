/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames from a socket by one multishot receive: the kernel fills packets of a pool through a ring of provided buffers,
 * and an idle look costs two loads (completion tail, task-run flag) and no system call.
 *
 * The io_uring belongs to the thread that opened it (SINGLE_ISSUER, DEFER_TASKRUN: the kernel copies frames only when
 * this thread enters it, so no other core and no interrupt is involved). To move to another thread: close here, open
 * there; frames that were complete are returned, the others still wait in the socket.
 *
 * To sleep, wait for the socket itself: what has not been taken in by the ring keeps it readable.
 */
#ifndef USHER_DATAPLANE_PORT_URING_RX_H
#define USHER_DATAPLANE_PORT_URING_RX_H

#include <liburing.h>

#include "dataplane/port/port.h"

struct uring_rx {
    struct io_uring ring;
    struct io_uring_buf_ring *bufs;
    struct pkt **slot; /* by buffer number: the packet that is lent to the kernel */
    uint16_t *spare;   /* buffer numbers without a packet */
    struct pkt_pool *pool;
    uint64_t truncated, errors;
    uint32_t entries;
    uint32_t spare_count;
    uint32_t prefix; /* bytes the socket puts before a frame: they end where p->data begins */
    int fd;
    bool open;
    bool receiving; /* the multishot receive is under way */
};

/* Control thread. `entries`: power of two. `fd` stays the caller's. */
int uring_rx_create(struct uring_rx *u, int fd, struct pkt_pool *pool, uint32_t entries, uint32_t prefix);
/* Puts lent packets back into the pool. */
void uring_rx_destroy(struct uring_rx *u);
int uring_rx_open(struct uring_rx *u);
/* Returns frames that were complete, at most `entries`; gives lent packets back to the pool. */
uint32_t uring_rx_close(struct uring_rx *u, struct pkt **ret_pkts);
/* Fills up to `max` packets: data and len are the frame's, `prefix` bytes lie before data. */
uint32_t uring_rx_take(struct uring_rx *u, struct pkt **ret_pkts, uint32_t max);
/* True when uring_rx_take() has something to do now. */
bool uring_rx_pending(const struct uring_rx *u);

#endif
