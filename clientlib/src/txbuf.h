/* SPDX-License-Identifier: Apache-2.0
 *
 * The allocator of the TX region. The region is cut into slabs of 64 KiB; a slab holds blocks of one size (256 B to
 * 64 KiB, powers of two) and says in a bitmap which are free. Taking and giving touch one private line each (plus a
 * second for a buffer that usherd keeps), and the bitmap makes a double free harmless. Slabs that become wholly free go
 * back to the pool, so that no size can eat the region for good.
 *
 * Under the context's lock. Nothing of it lies in shared memory.
 */
#ifndef USHER_CLIENTLIB_TXBUF_H
#define USHER_CLIENTLIB_TXBUF_H

#include <stdbool.h>
#include <stdint.h>

#define TXBUF_SLAB_SHIFT 16
#define TXBUF_SLAB (1u << TXBUF_SLAB_SHIFT)
#define TXBUF_MIN_SHIFT 8
#define TXBUF_CLASSES (TXBUF_SLAB_SHIFT - TXBUF_MIN_SHIFT + 1)
#define TXBUF_WORDS ((TXBUF_SLAB >> TXBUF_MIN_SHIFT) / 64)
#define TXBUF_NONE UINT32_MAX

struct txbuf_slab {
    uint64_t free[TXBUF_WORDS];
    uint32_t prev, next; /* among the slabs of its class that have free blocks, or in the pool */
    uint16_t free_count;
    uint8_t class; /* TXBUF_CLASSES: in the pool */
    uint8_t pad[21];
    uint64_t lent[TXBUF_WORDS]; /* usherd reads them until it says TX_FREE */
    uint64_t pad2[4];
};
_Static_assert(sizeof(struct txbuf_slab) == 128, "one line to allocate, a second to lend");

struct txbuf {
    uint32_t head[TXBUF_CLASSES];
    uint32_t pool;
    uint32_t slab_count;
    struct txbuf_slab *slab;
};

int txbuf_init(struct txbuf *t, uint64_t region_size);
void txbuf_fini(struct txbuf *t);

/* Offset of a block of at least `size` bytes (at most TXBUF_SLAB) and how many it has; TXBUF_NONE: none is free. */
uint32_t txbuf_take(struct txbuf *t, uint32_t size, uint32_t *ret_room);
/* Any offset inside a block names it. False, and nothing happens, when it is no block in use. */
bool txbuf_give(struct txbuf *t, uint32_t off);
/* First byte and size of the block that holds `off`; false when it is not in use. */
bool txbuf_block(const struct txbuf *t, uint32_t off, uint32_t *ret_start, uint32_t *ret_size);
/* A large send: usherd keeps the block until txbuf_return(). Return of a block that is not lent: false. */
void txbuf_lend(struct txbuf *t, uint32_t off);
bool txbuf_return(struct txbuf *t, uint32_t off);
/* usherd is gone: all that is lent comes home. */
void txbuf_return_all(struct txbuf *t);

#endif
