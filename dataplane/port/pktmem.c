/* SPDX-License-Identifier: Apache-2.0
 *
 * Packet memory: one sealed memfd that holds the buffers, and a pool of packets over it. Made and destroyed by control;
 * afterwards the pool belongs to one shard. Pages are touched when packets first use them. It neither pins nor punches:
 * an AF_XDP port pins the whole file, and a punched page would part the kernel's view from ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dataplane/port/port_internal.h"

#define FRAME_SIZE_MIN 512u
#define FRAME_SIZE_MAX (128u << 10)

static int memory_create(struct pktmem *m) {
    m->memfd = memfd_create("usher-pktmem", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (m->memfd < 0)
        return -errno;
    if (ftruncate(m->memfd, (off_t)m->size) < 0)
        return -errno;
    /* No F_SEAL_FUTURE_WRITE: a successor of this process maps the file for writing. */
    if (fcntl(m->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    void *base = mmap(NULL, m->size, PROT_READ | PROT_WRITE, MAP_SHARED, m->memfd, 0);
    if (base == MAP_FAILED)
        return -errno;
    m->base = base;
    return 0;
}

static int pool_create(struct pktmem *m, uint32_t count, uint32_t shard) {
    struct pkt_pool *pool = &m->pool;
    pool->pkts = aligned_alloc(CACHE_LINE, (size_t)count * sizeof(struct pkt));
    pool->free = malloc((size_t)count * sizeof(struct pkt *));
    if (pool->pkts == NULL || pool->free == NULL)
        return -ENOMEM;
    pool->count = pool->free_count = count;
    pool->buf_size = m->frame_size;
    pool->shard = shard;
    memset(pool->pkts, 0, (size_t)count * sizeof(struct pkt));
    for (uint32_t i = 0; i < count; i++) {
        struct pkt *p = &pool->pkts[i];
        p->pool = pool;
        p->index = i;
        p->buf = m->base + (size_t)i * m->frame_size;
        p->buf_size = m->frame_size;
        pkt_reset(p);
        pool->free[count - 1 - i] = p; /* the first to be taken is number 0 */
    }
    return 0;
}

int pktmem_create(struct pktmem *m, uint32_t count, uint32_t frame_size, uint32_t shard) {
    if (count == 0 || frame_size < FRAME_SIZE_MIN || frame_size > FRAME_SIZE_MAX || frame_size % CACHE_LINE != 0)
        return -EINVAL;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *m = (struct pktmem){.memfd = -1, .frame_size = frame_size};
    m->size = ((size_t)count * frame_size + page - 1) & ~(page - 1);
    int error = memory_create(m);
    if (error == 0)
        error = pool_create(m, count, shard);
    if (error < 0)
        pktmem_destroy(m);
    return error;
}

void pktmem_destroy(struct pktmem *m) {
    free(m->pool.free);
    free(m->pool.pkts);
    if (m->base != NULL)
        munmap(m->base, m->size);
    if (m->memfd >= 0)
        close(m->memfd);
    *m = (struct pktmem){.memfd = -1};
}
