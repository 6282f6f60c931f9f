/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening AF_XDP sockets; see xsk.h. Control thread only. libxdp's xsk_* would do it too, but hides the fds and rings
 * that a successor process must find again.
 */
#include "dataplane/port/xsk.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REBIND_PATIENCE_MS 500

static int option_set(int fd, int option, const void *value, socklen_t size) {
    return setsockopt(fd, SOL_XDP, option, value, size) < 0 ? -errno : 0;
}

static int rings_size(int fd, uint32_t entries) {
    static const int rings[] = {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING};
    int error = 0;
    for (int i = 0; i < 4 && error == 0; i++)
        error = option_set(fd, rings[i], &entries, sizeof entries);
    return error;
}

static int ring_map(struct xsk_ring *r, int fd, uint64_t place, const struct xdp_ring_offset *off, size_t entry_size,
                    uint32_t entries) {
    r->map_size = off->desc + entries * entry_size;
    void *map = mmap(NULL, r->map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)place);
    if (map == MAP_FAILED)
        return -errno;
    uint8_t *base = map;
    r->map = map;
    r->producer = (uint32_t *)(void *)(base + off->producer);
    r->consumer = (uint32_t *)(void *)(base + off->consumer);
    r->flags = (uint32_t *)(void *)(base + off->flags);
    r->entries = base + off->desc;
    r->mask = entries - 1;
    return 0;
}

/* Where a ring was left: zero for a new one, the last owner's place for one that was handed over. */
static void ring_resume(struct xsk_ring *r, bool we_produce) {
    uint32_t produced = __atomic_load_n(r->producer, __ATOMIC_ACQUIRE);
    uint32_t consumed = __atomic_load_n(r->consumer, __ATOMIC_ACQUIRE);
    r->ours = we_produce ? produced : consumed;
    r->theirs = we_produce ? consumed : produced;
}

int xsk_map(struct xsk *x, uint32_t entries) {
    struct xdp_mmap_offsets off;
    socklen_t size = sizeof off;
    if (getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &off, &size) < 0)
        return -errno;
    int error = ring_map(&x->rx, x->fd, XDP_PGOFF_RX_RING, &off.rx, sizeof(struct xdp_desc), entries);
    if (error == 0)
        error = ring_map(&x->tx, x->fd, XDP_PGOFF_TX_RING, &off.tx, sizeof(struct xdp_desc), entries);
    if (error == 0)
        error = ring_map(&x->fill, x->fd, XDP_UMEM_PGOFF_FILL_RING, &off.fr, sizeof(uint64_t), entries);
    if (error == 0)
        error = ring_map(&x->completion, x->fd, XDP_UMEM_PGOFF_COMPLETION_RING, &off.cr, sizeof(uint64_t), entries);
    if (error < 0)
        return error;
    ring_resume(&x->rx, false);
    ring_resume(&x->completion, false);
    ring_resume(&x->tx, true);
    ring_resume(&x->fill, true);
    return 0;
}

static int open_once(struct xsk *x, const struct xsk_params *params) {
    *x = (struct xsk){.fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)};
    if (x->fd < 0)
        return -errno;
    struct xdp_umem_reg umem = {
        .addr = (uintptr_t)params->umem, .len = params->umem_size, .chunk_size = params->chunk_size};
    int error = option_set(x->fd, XDP_UMEM_REG, &umem, sizeof umem);
    if (error == 0)
        error = rings_size(x->fd, params->entries);
    if (error == 0)
        error = xsk_map(x, params->entries);
    struct sockaddr_xdp addr = {.sxdp_family = AF_XDP,
                                .sxdp_flags = params->bind_flags,
                                .sxdp_ifindex = params->ifindex,
                                .sxdp_queue_id = params->queue};
    if (error == 0 && bind(x->fd, (struct sockaddr *)&addr, sizeof addr) < 0)
        error = -errno;
    if (error < 0)
        xsk_close(x);
    return error;
}

int xsk_open(struct xsk *x, const struct xsk_params *params) {
    int error = open_once(x, params);
    for (uint32_t wait_ms = 1, waited = 0; error == -EBUSY && waited < REBIND_PATIENCE_MS; wait_ms *= 2) {
        struct timespec pause = {.tv_nsec = (long)wait_ms * 1000000};
        nanosleep(&pause, NULL);
        waited += wait_ms;
        error = open_once(x, params);
    }
    return error;
}

static void ring_unmap(struct xsk_ring *r) {
    if (r->map != NULL)
        munmap(r->map, r->map_size);
}

void xsk_close(struct xsk *x) {
    ring_unmap(&x->rx);
    ring_unmap(&x->tx);
    ring_unmap(&x->fill);
    ring_unmap(&x->completion);
    if (x->fd >= 0)
        close(x->fd);
    *x = (struct xsk){.fd = -1};
}
