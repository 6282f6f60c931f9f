/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine's memory as a value: tables of plain records in one block, linked by index, that survive the death of the
 * process at any instruction.
 *
 * Truth and derivation. A table's records are truth. Everything else in the arena (free lists, hashes, queues, wheels)
 * is derived and is rebuilt by the engine's recover(). A record starts with a generation word: odd = live. Making a
 * record writes its fields first and its generation last; removing one writes the generation first.
 *
 * Undo. Before an engine changes a live record in more than one store it calls arena_change(), which copies the record
 * (at most ARENA_UNDO_MAX bytes) to the undo slot; arena_commit() closes the slot. Effects (packets, notices) may leave
 * the engine only after the commit. One thread changes an arena, so one slot is enough. The stores need to reach
 * memory in program order only as this CPU sees it (the killer is SIGKILL, not a power cut): compiler barriers do.
 */
#ifndef USHER_ENGINES_ARENA_H
#define USHER_ENGINES_ARENA_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engines/check.h"

#define ARENA_MAGIC 0x414e455241485355ull
#define ARENA_TABLE_MAX 8

/* Tests build the engines once more with other numbers here: as their next version, of another layout. */
#ifndef ARENA_UNDO_MAX
#define ARENA_UNDO_MAX 256
#endif
#ifndef ARENA_LAYOUT_STEP
#define ARENA_LAYOUT_STEP 0u /* added to each engine's layout version */
#endif

#define ARENA_NIL UINT32_MAX

#define arena_barrier() __asm__ __volatile__("" ::: "memory")

struct arena_table {
    uint32_t offset_lines; /* from the arena's start, in cache lines */
    uint32_t record_size;
    uint32_t capacity;
    uint32_t high_water; /* no record at or above it was ever live; grows before the record goes live */
    /* derived */
    uint32_t free_head;
    uint32_t live;
};

/* Every record begins with this. */
struct arena_record {
    uint32_t generation; /* odd = live */
    uint32_t free_next;  /* derived, meaningful only when not live */
};

struct arena_header {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t table_count;
    uint64_t size;
    uint64_t seed; /* keys the derived hashes; truth, so that recovery rebuilds the same ones */
    struct arena_table table[ARENA_TABLE_MAX];
    uint32_t undo_open; /* 1 while a change is under way */
    uint32_t undo_table;
    uint32_t undo_index;
    uint32_t undo_size;
    uint8_t undo[ARENA_UNDO_MAX] CACHE_ALIGNED;
} CACHE_ALIGNED;

static inline size_t arena_round(size_t n) { return (n + CACHE_LINE - 1) & ~(size_t)(CACHE_LINE - 1); }

static inline void *arena_at(void *arena, uint32_t offset_lines) {
    return (uint8_t *)arena + (size_t)offset_lines * CACHE_LINE;
}

static inline void *arena_record(void *arena, const struct arena_table *t, uint32_t index) {
    DCHECK(index < t->capacity);
    return (uint8_t *)arena + (size_t)t->offset_lines * CACHE_LINE + (size_t)index * t->record_size;
}

/* The record when `index` names a live one, else NULL. Fit for indexes that come from outside. */
static inline void *arena_lookup(void *arena, const struct arena_table *t, uint32_t index) {
    if (UNLIKELY(index >= t->high_water))
        return NULL;
    struct arena_record *r = (struct arena_record *)arena_record(arena, t, index);
    return LIKELY(r->generation & 1) ? r : NULL;
}

/* Takes a dead record off the free list, or off the untouched end. Not live until arena_publish(). NULL when full.
 * The caller fills everything behind struct arena_record. */
static inline void *arena_take(void *arena, struct arena_table *t, uint32_t *ret_index) {
    uint32_t index = t->free_head;
    if (index != ARENA_NIL) {
        struct arena_record *r = (struct arena_record *)arena_record(arena, t, index);
        t->free_head = r->free_next;
        *ret_index = index;
        return r;
    }
    if (t->high_water == t->capacity)
        return NULL;
    index = t->high_water;
    struct arena_record *r = (struct arena_record *)arena_record(arena, t, index);
    r->generation = 0;
    arena_barrier();
    t->high_water = index + 1;
    *ret_index = index;
    return r;
}

/* Takes the dead record `index`, for load(): records come back at the places they had. NULL when it is live or out of
 * range. Costs a walk over the free list only when records do not come in ascending order. */
static inline void *arena_take_at(void *arena, struct arena_table *t, uint32_t index) {
    if (index >= t->capacity)
        return NULL;
    for (; t->high_water <= index; t->high_water++) {
        struct arena_record *fresh = (struct arena_record *)arena_record(arena, t, t->high_water);
        fresh->generation = 0;
        fresh->free_next = t->free_head;
        t->free_head = t->high_water;
    }
    struct arena_record *r = (struct arena_record *)arena_record(arena, t, index);
    if (r->generation & 1)
        return NULL;
    uint32_t *at = &t->free_head;
    while (*at != index) {
        if (*at == ARENA_NIL)
            return NULL;
        at = &((struct arena_record *)arena_record(arena, t, *at))->free_next;
    }
    *at = r->free_next;
    return r;
}

static inline void arena_publish(struct arena_table *t, void *record) {
    struct arena_record *r = (struct arena_record *)record;
    DCHECK(!(r->generation & 1));
    arena_barrier();
    r->generation++;
    t->live++;
}

/* Ends a live record, or gives back one that was taken and never published. */
static inline void arena_release(struct arena_table *t, void *record, uint32_t index) {
    struct arena_record *r = (struct arena_record *)record;
    if (r->generation & 1) {
        r->generation++;
        t->live--;
    }
    arena_barrier();
    r->free_next = t->free_head;
    t->free_head = index;
}

static inline void arena_change(struct arena_header *a, uint32_t table, uint32_t index, const void *record,
                                uint32_t size) {
    DCHECK(size <= ARENA_UNDO_MAX && !a->undo_open);
    memcpy(a->undo, record, size);
    a->undo_table = table;
    a->undo_index = index;
    a->undo_size = size;
    arena_barrier();
    a->undo_open = 1;
    arena_barrier();
}

static inline void arena_commit(struct arena_header *a) {
    arena_barrier();
    a->undo_open = 0;
    arena_barrier();
}

/* Sizes: the caller adds tables in a fixed order to a zeroed header `a` whose table_count and size start at 0 and
 * sizeof(struct arena_header). Returns false on overflow. */
static inline int arena_plan_table(struct arena_header *a, uint32_t capacity, uint32_t record_size) {
    if (a->size == 0)
        a->size = sizeof(struct arena_header);
    CHECK(a->table_count < ARENA_TABLE_MAX && record_size >= sizeof(struct arena_record));
    size_t bytes;
    if (__builtin_mul_overflow((size_t)capacity, (size_t)record_size, &bytes) || bytes > (1ull << 37))
        return 0;
    struct arena_table *t = &a->table[a->table_count++];
    t->offset_lines = (uint32_t)(a->size / CACHE_LINE);
    t->record_size = record_size;
    t->capacity = capacity;
    t->high_water = 0;
    t->free_head = ARENA_NIL;
    t->live = 0;
    a->size += arena_round(bytes);
    return 1;
}

/* Reserves room for derived data; returns its place in cache lines. */
static inline uint32_t arena_plan_derived(struct arena_header *a, size_t bytes) {
    if (a->size == 0)
        a->size = sizeof(struct arena_header);
    uint32_t at = (uint32_t)(a->size / CACHE_LINE);
    a->size += arena_round(bytes);
    return at;
}

/* First step of every recover(): do the tables of `a` lie where a new plan from its config puts them? A header that
 * was damaged would send records into one another. */
static inline int arena_same_plan(const struct arena_header *a, const struct arena_header *planned) {
    if (a->size != planned->size || a->table_count != planned->table_count)
        return 0;
    for (uint32_t i = 0; i < planned->table_count; i++) {
        const struct arena_table *t = &a->table[i], *p = &planned->table[i];
        if (t->offset_lines != p->offset_lines || t->record_size != p->record_size || t->capacity != p->capacity)
            return 0;
    }
    return 1;
}

/* Second step of every recover(): rolls an open change back and rebuilds the free lists and live counts from the
 * records. Returns 0, or 1 when the header is not to be trusted. */
static inline int arena_recover(struct arena_header *a, size_t size, uint32_t layout_version) {
    if (a->magic != ARENA_MAGIC || a->layout_version != layout_version || a->size > size ||
        a->table_count > ARENA_TABLE_MAX)
        return 1;
    for (uint32_t i = 0; i < a->table_count; i++) {
        const struct arena_table *t = &a->table[i];
        size_t end = (size_t)t->offset_lines * CACHE_LINE + (size_t)t->capacity * t->record_size;
        if (end > a->size || t->high_water > t->capacity || t->record_size < sizeof(struct arena_record))
            return 1;
    }
    if (a->undo_open) {
        if (a->undo_table >= a->table_count || a->undo_index >= a->table[a->undo_table].capacity ||
            a->undo_size > a->table[a->undo_table].record_size || a->undo_size > ARENA_UNDO_MAX)
            return 1;
        memcpy(arena_record(a, &a->table[a->undo_table], a->undo_index), a->undo, a->undo_size);
        arena_commit(a);
    }
    for (uint32_t i = 0; i < a->table_count; i++) {
        struct arena_table *t = &a->table[i];
        t->free_head = ARENA_NIL;
        t->live = 0;
        for (uint32_t k = t->high_water; k-- > 0;) {
            struct arena_record *r = (struct arena_record *)arena_record(a, t, k);
            if (r->generation & 1) {
                t->live++;
            } else {
                r->free_next = t->free_head;
                t->free_head = k;
            }
        }
    }
    return 0;
}

#endif
