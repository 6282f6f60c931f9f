/* SPDX-License-Identifier: Apache-2.0
 *
 * A single-producer single-consumer ring of pointers. A slot that is not NULL is full: producer and consumer share no
 * index, so a message moves one cache line for the eight slots in it and nothing else. The producer's position and the
 * consumer's lie in lines of their own. Neither side ever waits.
 */
#ifndef USHER_DATAPLANE_CORE_RING_H
#define USHER_DATAPLANE_CORE_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engines/check.h"

struct ring {
    void **slot;
    uint32_t mask;
    uint32_t tail CACHE_ALIGNED; /* the producer's */
    uint32_t head CACHE_ALIGNED; /* the consumer's */
};

/* `entries` is rounded up to a power of two. 0 or -ENOMEM. */
int ring_init(struct ring *r, uint32_t entries);
void ring_fini(struct ring *r);

/* False when the ring is full; the message is then still the caller's. */
static inline bool ring_push(struct ring *r, void *message) {
    void **slot = &r->slot[r->tail & r->mask];
    /* Acquires: the consumer has read the slot's last message. Pairs with the store in ring_pop(). */
    if (UNLIKELY(__atomic_load_n(slot, __ATOMIC_ACQUIRE) != NULL))
        return false;
    __atomic_store_n(slot, message, __ATOMIC_RELEASE); /* pairs with the load in ring_pop() */
    r->tail++;
    return true;
}

/* NULL when the ring is empty. */
static inline void *ring_pop(struct ring *r) {
    void **slot = &r->slot[r->head & r->mask];
    void *message = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
    if (message == NULL)
        return NULL;
    __atomic_store_n(slot, NULL, __ATOMIC_RELEASE);
    r->head++;
    return message;
}

/* The consumer's view. */
static inline bool ring_empty(const struct ring *r) {
    return __atomic_load_n(&r->slot[r->head & r->mask], __ATOMIC_ACQUIRE) == NULL;
}

#endif
