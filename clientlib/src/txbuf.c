/* SPDX-License-Identifier: Apache-2.0
 *
 * See txbuf.h. Lists are doubly linked by slab index; a slab is on its class's list exactly while it has a free block.
 */
#include "clientlib/src/txbuf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clientlib/src/cpu.h"

static uint32_t class_shift(uint32_t class) {
    return TXBUF_MIN_SHIFT + class;
}

static uint32_t class_blocks(uint32_t class) {
    return TXBUF_SLAB >> class_shift(class);
}

static uint32_t class_of(uint32_t size) {
    if (size <= 1u << TXBUF_MIN_SHIFT)
        return 0;
    return 32 - (uint32_t)__builtin_clz(size - 1) - TXBUF_MIN_SHIFT;
}

static void list_push(struct txbuf *t, uint32_t *head, uint32_t i) {
    t->slab[i].prev = TXBUF_NONE;
    t->slab[i].next = *head;
    if (*head != TXBUF_NONE)
        t->slab[*head].prev = i;
    *head = i;
}

static void list_remove(struct txbuf *t, uint32_t *head, uint32_t i) {
    struct txbuf_slab *s = &t->slab[i];
    if (s->prev != TXBUF_NONE)
        t->slab[s->prev].next = s->next;
    else
        *head = s->next;
    if (s->next != TXBUF_NONE)
        t->slab[s->next].prev = s->prev;
}

int txbuf_init(struct txbuf *t, uint64_t region_size) {
    uint64_t count = region_size >> TXBUF_SLAB_SHIFT;
    if (count == 0 || region_size > UINT32_MAX)
        return -EINVAL;
    t->slab = aligned_alloc(64, count * sizeof(*t->slab));
    if (!t->slab)
        return -ENOMEM;
    memset(t->slab, 0, count * sizeof(*t->slab));
    t->slab_count = (uint32_t)count;
    t->pool = TXBUF_NONE;
    for (uint32_t c = 0; c < TXBUF_CLASSES; c++)
        t->head[c] = TXBUF_NONE;
    for (uint32_t i = t->slab_count; i-- > 0;) {
        t->slab[i].class = TXBUF_CLASSES;
        list_push(t, &t->pool, i);
    }
    return 0;
}

void txbuf_fini(struct txbuf *t) {
    free(t->slab);
    t->slab = NULL;
    t->slab_count = 0;
}

static void slab_to_pool(struct txbuf *t, uint32_t i) {
    list_remove(t, &t->head[t->slab[i].class], i);
    t->slab[i].class = TXBUF_CLASSES;
    list_push(t, &t->pool, i);
}

static uint32_t slab_from_pool(struct txbuf *t, uint32_t class) {
    uint32_t i = t->pool;
    if (i == TXBUF_NONE)
        return i;
    list_remove(t, &t->pool, i);
    struct txbuf_slab *s = &t->slab[i];
    uint32_t blocks = class_blocks(class);
    s->class = (uint8_t) class;
    s->free_count = (uint16_t)blocks;
    for (uint32_t w = 0; w < TXBUF_WORDS; w++) {
        uint32_t left = blocks > w * 64 ? blocks - w * 64 : 0;
        s->free[w] = left >= 64 ? UINT64_MAX : (UINT64_C(1) << left) - 1;
    }
    list_push(t, &t->head[class], i);
    return i;
}

/* Each class may keep one slab that is wholly free; when the pool is empty they are fetched. Rare: walks the lists. */
static void collect_free_slabs(struct txbuf *t) {
    for (uint32_t c = 0; c < TXBUF_CLASSES; c++)
        for (uint32_t i = t->head[c], next; i != TXBUF_NONE; i = next) {
            next = t->slab[i].next;
            if (t->slab[i].free_count == class_blocks(c))
                slab_to_pool(t, i);
        }
}

/* The class itself, then the pool, then any larger class that has a block left: a large block serves a small wish. */
static uint32_t find_slab(struct txbuf *t, uint32_t class) {
    if (LIKELY(t->head[class] != TXBUF_NONE))
        return t->head[class];
    if (t->pool == TXBUF_NONE)
        collect_free_slabs(t);
    uint32_t i = slab_from_pool(t, class);
    for (uint32_t c = class + 1; i == TXBUF_NONE && c < TXBUF_CLASSES; c++)
        i = t->head[c];
    return i;
}

uint32_t txbuf_take(struct txbuf *t, uint32_t size, uint32_t *ret_room) {
    if (UNLIKELY(size > TXBUF_SLAB))
        return TXBUF_NONE;
    uint32_t i = find_slab(t, class_of(size));
    if (UNLIKELY(i == TXBUF_NONE))
        return TXBUF_NONE;
    struct txbuf_slab *s = &t->slab[i];
    uint32_t w = 0;
    while (!s->free[w])
        w++;
    uint32_t bit = (uint32_t)__builtin_ctzll(s->free[w]);
    s->free[w] &= s->free[w] - 1;
    if (--s->free_count == 0)
        list_remove(t, &t->head[s->class], i);
    uint32_t shift = class_shift(s->class);
    *ret_room = 1u << shift;
    return (i << TXBUF_SLAB_SHIFT) + ((w * 64 + bit) << shift);
}

/* The slab and bit of the block that holds `off`, when it is a block in use; else NULL. */
static struct txbuf_slab *in_use(const struct txbuf *t, uint32_t off, uint32_t *ret_bit) {
    uint32_t i = off >> TXBUF_SLAB_SHIFT;
    if (UNLIKELY(i >= t->slab_count || t->slab[i].class >= TXBUF_CLASSES))
        return NULL;
    uint32_t bit = (off & (TXBUF_SLAB - 1)) >> class_shift(t->slab[i].class);
    if (UNLIKELY(t->slab[i].free[bit / 64] >> (bit % 64) & 1))
        return NULL;
    *ret_bit = bit;
    return &t->slab[i];
}

bool txbuf_give(struct txbuf *t, uint32_t off) {
    uint32_t bit;
    struct txbuf_slab *s = in_use(t, off, &bit);
    if (UNLIKELY(!s))
        return false;
    uint32_t i = off >> TXBUF_SLAB_SHIFT;
    s->free[bit / 64] |= UINT64_C(1) << (bit % 64);
    if (s->free_count++ == 0)
        list_push(t, &t->head[s->class], i);
    /* The last slab of a class stays: giving it back would make every second take cut it up anew. */
    if (s->free_count == class_blocks(s->class) && (s->prev != TXBUF_NONE || s->next != TXBUF_NONE))
        slab_to_pool(t, i);
    return true;
}

bool txbuf_block(const struct txbuf *t, uint32_t off, uint32_t *ret_start, uint32_t *ret_size) {
    uint32_t bit;
    const struct txbuf_slab *s = in_use(t, off, &bit);
    if (UNLIKELY(!s))
        return false;
    uint32_t shift = class_shift(s->class);
    *ret_size = 1u << shift;
    *ret_start = off & ~(*ret_size - 1);
    return true;
}

void txbuf_lend(struct txbuf *t, uint32_t off) {
    uint32_t bit;
    struct txbuf_slab *s = in_use(t, off, &bit);
    if (s)
        s->lent[bit / 64] |= UINT64_C(1) << (bit % 64);
}

bool txbuf_return(struct txbuf *t, uint32_t off) {
    uint32_t bit;
    struct txbuf_slab *s = in_use(t, off, &bit);
    if (!s || !(s->lent[bit / 64] >> (bit % 64) & 1))
        return false;
    s->lent[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
    return txbuf_give(t, off);
}

void txbuf_return_all(struct txbuf *t) {
    for (uint32_t i = 0; i < t->slab_count; i++)
        for (uint32_t w = 0; w < TXBUF_WORDS; w++)
            while (t->slab[i].lent[w]) {
                uint32_t bit = w * 64 + (uint32_t)__builtin_ctzll(t->slab[i].lent[w]);
                txbuf_return(t, (i << TXBUF_SLAB_SHIFT) + (bit << class_shift(t->slab[i].class)));
            }
}
