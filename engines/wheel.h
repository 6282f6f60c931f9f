/* SPDX-License-Identifier: Apache-2.0
 *
 * A hierarchical timing wheel inside an arena: seven levels of 64 slots, nodes linked by index. Derived state: an
 * engine's recover() clears it and arms every record's timer again. One thread; no allocation.
 *
 * A node sits on the level of the highest 6-bit digit in which its expiry differs from the wheel's time, in the slot of
 * that digit. So the lowest occupied level holds the earliest node, whole empty stretches are skipped with one bit scan
 * a level, and a node moves down at most six times in its life. Add and cancel are O(1). Expiry is rounded up to a
 * tick: nothing fires early. wheel_next() is exact on level 0 and the start of the slot above it: a node that is
 * hours away costs a few wake-ups on its way down, never more. Ticks have 42 bits: with a tick of a microsecond or more
 * no clock that starts at boot comes near the end; later deadlines are cut to it.
 */
#ifndef USHER_ENGINES_WHEEL_H
#define USHER_ENGINES_WHEEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engines/check.h"

#define WHEEL_LEVELS 7u
#define WHEEL_BITS 6u
#define WHEEL_SLOTS (1u << WHEEL_BITS)
#define WHEEL_TICK_MAX ((1ull << (WHEEL_LEVELS * WHEEL_BITS)) - 1)
#define WHEEL_NIL UINT32_MAX
#define WHEEL_NEVER UINT64_MAX

struct wheel_node {
    uint64_t expiry; /* tick */
    uint32_t next, prev;
    uint32_t slot; /* level * WHEEL_SLOTS + slot + 1; 0 = not armed */
    uint32_t pad;
};

struct wheel {
    uint64_t tick;              /* the wheel's time: every node that expired at or before it was handed out */
    uint64_t used[WHEEL_LEVELS]; /* bit per slot that is not empty */
    int64_t node_offset;        /* of node 0, from the wheel itself */
    uint32_t stride;            /* bytes between nodes: they may be embedded in records */
    uint32_t shift;             /* a tick is 2^shift ns */
    uint32_t head[WHEEL_LEVELS][WHEEL_SLOTS]; /* index + 1 */
};

/* `nodes` must be zeroed (not armed) and lie in the same arena. */
static inline void wheel_init(struct wheel *w, void *nodes, uint32_t stride, uint32_t shift) {
    memset(w, 0, sizeof *w);
    w->node_offset = (int64_t)((uint8_t *)nodes - (uint8_t *)w);
    w->stride = stride;
    w->shift = shift;
}

static inline struct wheel_node *wheel_at(const struct wheel *w, uint32_t index) {
    return (struct wheel_node *)((uintptr_t)w + (uintptr_t)w->node_offset + (uintptr_t)index * w->stride);
}

static inline int wheel_armed(const struct wheel *w, uint32_t index) { return wheel_at(w, index)->slot != 0; }

static inline void wheel_link(struct wheel *w, uint32_t index) {
    struct wheel_node *n = wheel_at(w, index);
    uint64_t differ = (n->expiry ^ w->tick) | 1;
    uint32_t level = (uint32_t)(63 - __builtin_clzll(differ)) / WHEEL_BITS;
    uint32_t slot = (uint32_t)(n->expiry >> (level * WHEEL_BITS)) & (WHEEL_SLOTS - 1);
    uint32_t *head = &w->head[level][slot];
    n->next = *head;
    n->prev = 0;
    n->slot = level * WHEEL_SLOTS + slot + 1;
    if (*head != 0)
        wheel_at(w, *head - 1)->prev = index + 1;
    *head = index + 1;
    w->used[level] |= 1ull << slot;
}

static inline void wheel_cancel(struct wheel *w, uint32_t index) {
    struct wheel_node *n = wheel_at(w, index);
    if (n->slot == 0)
        return;
    uint32_t level = (n->slot - 1) / WHEEL_SLOTS, slot = (n->slot - 1) % WHEEL_SLOTS;
    if (n->next != 0)
        wheel_at(w, n->next - 1)->prev = n->prev;
    if (n->prev != 0)
        wheel_at(w, n->prev - 1)->next = n->next;
    else
        w->head[level][slot] = n->next;
    if (w->head[level][slot] == 0)
        w->used[level] &= ~(1ull << slot);
    n->slot = 0;
}

/* Arms, or arms anew. A deadline in the past fires at the next wheel_pop(). */
static inline void wheel_arm(struct wheel *w, uint32_t index, uint64_t deadline_ns) {
    struct wheel_node *n = wheel_at(w, index);
    wheel_cancel(w, index);
    uint64_t tick = (deadline_ns >> w->shift) + ((deadline_ns & ((1ull << w->shift) - 1)) != 0);
    if (tick > WHEEL_TICK_MAX)
        tick = WHEEL_TICK_MAX;
    n->expiry = tick < w->tick ? w->tick : tick;
    wheel_link(w, index);
}

/* The level and slot to look at next, and when; false when the wheel is empty. A slot above level 0 that the wheel's
 * time has entered is still being moved down (a budget ended there) and goes first. */
static inline int wheel_find(const struct wheel *w, uint32_t *ret_level, uint32_t *ret_slot, uint64_t *ret_tick) {
    for (uint32_t level = 1; level < WHEEL_LEVELS; level++) {
        uint32_t here = (uint32_t)(w->tick >> (level * WHEEL_BITS)) & (WHEEL_SLOTS - 1);
        if (UNLIKELY(w->used[level] >> here & 1)) {
            *ret_level = level;
            *ret_slot = here;
            *ret_tick = w->tick;
            return 1;
        }
    }
    for (uint32_t level = 0; level < WHEEL_LEVELS; level++) {
        if (w->used[level] == 0)
            continue;
        uint32_t slot = (uint32_t)__builtin_ctzll(w->used[level]);
        uint64_t above = w->tick >> ((level + 1) * WHEEL_BITS) << ((level + 1) * WHEEL_BITS);
        *ret_level = level;
        *ret_slot = slot;
        *ret_tick = above | (uint64_t)slot << (level * WHEEL_BITS);
        return 1;
    }
    return 0;
}

/* When wheel_pop() should be called next, in ns; WHEEL_NEVER when nothing is armed. At most 14 loads. */
static inline uint64_t wheel_next(const struct wheel *w) {
    uint32_t level, slot;
    uint64_t tick;
    if (!wheel_find(w, &level, &slot, &tick))
        return WHEEL_NEVER;
    return tick << w->shift;
}

/* Takes one node that is due at `now_ns` off the wheel, or returns WHEEL_NIL. Each step (a node handed out or moved
 * down) takes one from *budget; at 0 the rest waits for the next call. */
static inline uint32_t wheel_pop(struct wheel *w, uint64_t now_ns, uint32_t *budget) {
    uint64_t now = now_ns >> w->shift;
    uint32_t level, slot;
    uint64_t tick;
    while (wheel_find(w, &level, &slot, &tick) && tick <= now) {
        if (*budget == 0)
            return WHEEL_NIL;
        (*budget)--;
        w->tick = tick;
        uint32_t index = w->head[level][slot] - 1;
        wheel_cancel(w, index);
        if (level == 0)
            return index;
        wheel_link(w, index);
    }
    if (w->tick < now)
        w->tick = now;
    return WHEEL_NIL;
}

#endif
