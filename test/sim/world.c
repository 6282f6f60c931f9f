/* SPDX-License-Identifier: Apache-2.0
 *
 * The event queue is a binary heap ordered by (time, order of posting), so that two events of one instant always run in
 * the order in which they were posted, whatever the heap's shape. One thread.
 */
#include "test/sim/world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/sim/prng.h"

void world_init(struct world *w, uint64_t seed) {
    memset(w, 0, sizeof *w);
    w->now = WORLD_EPOCH;
    w->seed = seed;
}

void world_fini(struct world *w) {
    free(w->heap);
    w->heap = NULL;
    w->count = w->capacity = 0;
}

static bool world_before(const struct world_event *a, const struct world_event *b) {
    return a->when != b->when ? a->when < b->when : a->order < b->order;
}

static void world_swap(struct world *w, size_t a, size_t b) {
    struct world_event t = w->heap[a];
    w->heap[a] = w->heap[b];
    w->heap[b] = t;
}

static void world_grow(struct world *w) {
    w->capacity = w->capacity == 0 ? 256 : 2 * w->capacity;
    w->heap = (struct world_event *)realloc(w->heap, w->capacity * sizeof *w->heap);
    CHECK(w->heap != NULL);
}

void world_post(struct world *w, ns_t when, world_fn *fn, void *arg, uint64_t value) {
    if (w->count == w->capacity)
        world_grow(w);
    size_t at = w->count++;
    w->heap[at] = (struct world_event){when < w->now ? w->now : when, w->order++, fn, arg, value};
    while (at > 0 && world_before(&w->heap[at], &w->heap[(at - 1) / 2])) {
        world_swap(w, at, (at - 1) / 2);
        at = (at - 1) / 2;
    }
}

static struct world_event world_pop(struct world *w) {
    struct world_event first = w->heap[0];
    w->heap[0] = w->heap[--w->count];
    for (size_t at = 0;;) {
        size_t child = 2 * at + 1;
        if (child >= w->count)
            return first;
        if (child + 1 < w->count && world_before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (world_before(&w->heap[at], &w->heap[child]))
            return first;
        world_swap(w, at, child);
        at = child;
    }
}

void world_run(struct world *w, ns_t until) {
    while (!w->failed && w->count > 0 && w->heap[0].when <= until) {
        struct world_event ev = world_pop(w);
        w->now = ev.when;
        ev.fn(ev.arg, ev.value);
    }
    if (!w->failed && w->now < until)
        w->now = until;
}

void world_each(struct world *w, void (*visit)(struct world_event *ev, void *arg), void *arg) {
    for (size_t i = 0; i < w->count; i++)
        visit(&w->heap[i], arg);
}

void world_fail(struct world *w, const char *fmt, ...) {
    if (w->failed)
        return;
    w->failed = true;
    int at = snprintf(w->failure, sizeof w->failure, "at %llu ns: ", (unsigned long long)(w->now - WORLD_EPOCH));
    va_list args;
    va_start(args, fmt);
    vsnprintf(w->failure + at, sizeof w->failure - (size_t)at, fmt, args);
    va_end(args);
}

void world_log(const struct world *w, const char *fmt, ...) {
    if (!w->verbose)
        return;
    printf("%12.6f ms  ", (double)(w->now - WORLD_EPOCH) / 1e6);
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
}

void world_trace_words(struct world_trace *t, const uint64_t *words, size_t n) {
    for (size_t i = 0; i < n; i++)
        t->hash = prng_mix(t->hash * 0x9e3779b97f4a7c15ull + words[i] + 1);
    t->events++;
}

void world_trace_bytes(struct world_trace *t, const void *data, size_t len) {
    const uint8_t *p = (const uint8_t *)data;
    uint64_t h = t->hash + len;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * 0x9fb21c651e98df25ull;
        h ^= h >> 32;
    }
    for (; len > 0; p++, len--)
        h = (h ^ *p) * 0x100000001b3ull;
    t->hash = prng_mix(h);
}
