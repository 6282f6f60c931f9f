/* SPDX-License-Identifier: Apache-2.0
 *
 * Cells of a session's RX region: slabs of 64 KiB, each cut into cells of one size when it is first needed. On the
 * worker of the set that owns the slab. The shared memory itself is never read here: which cells are lent is known from
 * a private word for each place where a cell may begin, so a client can give back only what it holds, and only once.
 *
 * A cell given back is the next to be taken: a busy socket goes round in few cache lines. Taking one and giving it back
 * touch its word and its slab's, 42 and 40 instructions.
 */
#include "dataplane/session/session_internal.h"

#define CELL_NIL    UINT16_MAX
#define SLAB_NIL    UINT32_MAX
#define SLAB_PLACE  (SLAB_BYTES >> CELL_SHIFT) /* places in a slab where a cell may begin */
#define STEAL_LOOK  8u
#define HELD_BEFORE 0xffffffu /* no socket has this handle: nobody is credited when the cell comes back */

static const uint8_t class_shift[CELL_CLASSES] = {8, 11, 14, 16};

void cells_init(struct cells *c, struct slab *slab, struct cell_word *word, uint64_t *pool, uint32_t *pool_free,
                uint32_t slab_count, uint32_t set) {
    *c = (struct cells){
        .slab = slab, .word = word, .pool = pool, .pool_free = pool_free, .slab_count = slab_count, .set = set};
    for (uint32_t i = 0; i < CELL_CLASSES; i++)
        c->partial[i] = SLAB_NIL;
}

uint64_t cells_room(const struct cells *c) {
    return (uint64_t)__atomic_load_n(c->pool_free, __ATOMIC_RELAXED) << SLAB_SHIFT;
}

static uint32_t class_for(uint32_t len) {
    uint32_t cls = 0;
    while (len > (1u << class_shift[cls]))
        cls++;
    return cls;
}

static void partial_push(struct cells *c, uint32_t cls, uint32_t s) {
    struct slab *slab = &c->slab[s];
    slab->prev = SLAB_NIL;
    slab->next = c->partial[cls];
    if (slab->next != SLAB_NIL)
        c->slab[slab->next].prev = s;
    c->partial[cls] = s;
}

static void partial_remove(struct cells *c, uint32_t cls, uint32_t s) {
    struct slab *slab = &c->slab[s];
    if (slab->prev != SLAB_NIL)
        c->slab[slab->prev].next = slab->next;
    else
        c->partial[cls] = slab->next;
    if (slab->next != SLAB_NIL)
        c->slab[slab->next].prev = slab->prev;
}

/* Takes a free slab from the session's pool. Acquires what its last owner wrote about it; pairs with slab_put(). */
static uint32_t slab_get(struct cells *c, uint32_t cls) {
    uint32_t words = (c->slab_count + 63) / 64;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t map = __atomic_load_n(&c->pool[w], __ATOMIC_RELAXED);
        while (map != 0) {
            uint64_t bit = map & -map;
            map = __atomic_fetch_and(&c->pool[w], ~bit, __ATOMIC_ACQUIRE);
            if ((map & bit) == 0)
                continue; /* another shard was quicker */
            __atomic_fetch_sub(c->pool_free, 1, __ATOMIC_RELAXED);
            uint32_t s = w * 64 + (uint32_t)__builtin_ctzll(bit);
            c->slab[s] = (struct slab){.cls = (uint8_t)cls,
                                       .set = (uint8_t)c->set,
                                       .count = (uint16_t)(1u << (SLAB_SHIFT - class_shift[cls])),
                                       .free_head = CELL_NIL};
            partial_push(c, cls, s);
            return s;
        }
    }
    return SLAB_NIL;
}

static void slab_put(struct cells *c, uint32_t s) {
    partial_remove(c, c->slab[s].cls, s);
    c->slab[s].set = SLAB_NOBODY;
    /* Counted first: the count never falls below what is there. */
    __atomic_fetch_add(c->pool_free, 1, __ATOMIC_RELAXED);
    __atomic_fetch_or(&c->pool[s / 64], 1ull << (s % 64), __ATOMIC_RELEASE);
}

/* What is free between the cells that are held stays unused until all of them are back. */
void cells_hold(struct cells *c, uint32_t off) {
    uint32_t s = off >> SLAB_SHIFT;
    if (s >= c->slab_count || off % (1u << CELL_SHIFT) != 0)
        return;
    struct slab *slab = &c->slab[s];
    uint64_t bit = 1ull << (s % 64);
    if (__atomic_fetch_and(&c->pool[s / 64], ~bit, __ATOMIC_ACQUIRE) & bit) {
        __atomic_fetch_sub(c->pool_free, 1, __ATOMIC_RELAXED);
        *slab = (struct slab){.cls = SLAB_256, .set = (uint8_t)c->set, .carved = SLAB_PLACE, .free_head = CELL_NIL};
    }
    struct cell_word *word = &c->word[off >> CELL_SHIFT];
    if (slab->set != c->set || word->lent != 0)
        return;
    *word = (struct cell_word){HELD_BEFORE, 1};
    slab->count = ++slab->lent; /* full: it is looked at again when the first one is back */
}

/* The region is used up: an empty slab that another class kept back will do. Such a one is the last of its class, or
 * near the front of its list. */
static uint32_t slab_steal(struct cells *c, uint32_t cls) {
    for (uint32_t other = 0; other < CELL_CLASSES; other++) {
        uint32_t s = c->partial[other];
        for (uint32_t i = 0; i < STEAL_LOOK && s != SLAB_NIL; i++, s = c->slab[s].next) {
            if (c->slab[s].lent > 0)
                continue;
            slab_put(c, s);
            return slab_get(c, cls);
        }
    }
    return SLAB_NIL;
}

__attribute__((noinline)) static uint32_t slab_find(struct cells *c, uint32_t cls) {
    uint32_t s = slab_get(c, cls);
    return s != SLAB_NIL ? s : slab_steal(c, cls);
}

uint32_t cells_take(struct cells *c, uint32_t len, uint32_t handle, uint32_t *ret_size) {
    uint32_t cls = LIKELY(len <= 1u << CELL_SHIFT) ? SLAB_256 : class_for(len);
    uint32_t s = c->partial[cls];
    if (UNLIKELY(s == SLAB_NIL) && (s = slab_find(c, cls)) == SLAB_NIL)
        return USH_NONE;
    struct slab *slab = &c->slab[s];
    uint32_t size = 1u << class_shift[cls], place = slab->free_head;
    if (UNLIKELY(place == CELL_NIL)) {
        place = slab->carved;
        slab->carved = (uint16_t)(place + (size >> CELL_SHIFT));
        c->word[s * SLAB_PLACE + place].mark = CELL_NIL;
    }
    struct cell_word *word = &c->word[s * SLAB_PLACE + place];
    slab->free_head = (uint16_t)word->mark;
    *word = (struct cell_word){handle, len + 1};
    if (UNLIKELY(++slab->lent == slab->count))
        partial_remove(c, cls, s);
    *ret_size = size;
    return (s * SLAB_PLACE + place) << CELL_SHIFT;
}

uint32_t cells_give(struct cells *c, uint32_t off, uint32_t *ret_size, uint32_t *ret_len) {
    uint32_t s = off >> SLAB_SHIFT;
    if (UNLIKELY(s >= c->slab_count || off % (1u << CELL_SHIFT) != 0))
        return USH_NONE;
    struct slab *slab = &c->slab[s];
    struct cell_word *word = &c->word[off >> CELL_SHIFT];
    if (UNLIKELY(slab->set != c->set || word->lent == 0))
        return USH_NONE;
    uint32_t handle = word->mark, cls = slab->cls;
    *ret_len = word->lent - 1;
    *ret_size = 1u << class_shift[cls];
    *word = (struct cell_word){slab->free_head, 0};
    slab->free_head = (uint16_t)((off >> CELL_SHIFT) % SLAB_PLACE);
    if (UNLIKELY(slab->lent-- == slab->count))
        partial_push(c, cls, s);
    /* One slab of a class stays, so that a socket that empties its queue now and then does not carve each time. */
    if (UNLIKELY(slab->lent == 0 && (slab->next != SLAB_NIL || slab->prev != SLAB_NIL)))
        slab_put(c, s);
    return handle;
}
