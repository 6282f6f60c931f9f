/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated world: one virtual clock, one queue of events in (time, order of posting), two running hashes of what
 * happened, and the first failure. One thread; nothing here reads a real clock.
 */
#ifndef USHER_TEST_SIM_WORLD_H
#define USHER_TEST_SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>

#include "engines/engine.h"

typedef void world_fn(void *arg, uint64_t value);

struct world_event {
    ns_t when;
    uint64_t order;
    world_fn *fn;
    void *arg;
    uint64_t value;
};

struct world_trace {
    uint64_t hash;
    uint64_t events;
};

struct world {
    ns_t now;
    uint64_t order;
    uint64_t seed;
    struct world_event *heap;
    size_t count, capacity;
    struct world_trace wire; /* everything: frames, drops, deliveries */
    struct world_trace app;  /* only what applications see */
    bool verbose;
    bool failed;
    char failure[512];
};

/* The clock does not start at zero: an engine must not take 0 for "never". */
#define WORLD_EPOCH (1000 * NS_PER_SEC)

void world_init(struct world *w, uint64_t seed);
void world_fini(struct world *w); /* events left over are forgotten; who posted memory with them frees it first */

void world_post(struct world *w, ns_t when, world_fn *fn, void *arg, uint64_t value);
/* Runs events up to and including `until`, or to the first failure. The clock then stands at `until`. */
void world_run(struct world *w, ns_t until);
/* Visits every event that still waits, in no particular order. */
void world_each(struct world *w, void (*visit)(struct world_event *ev, void *arg), void *arg);

/* Remembers the first failure and stops the run. */
void world_fail(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void world_log(const struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void world_trace_words(struct world_trace *t, const uint64_t *words, size_t n);
void world_trace_bytes(struct world_trace *t, const void *data, size_t len);
#define WORLD_TRACE(t, ...)                                                                                            \
    world_trace_words((t), (const uint64_t[]){__VA_ARGS__}, sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

#endif
