/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers by the hash of what they stand for: names, sets, predicates of a policy under construction, so that 100,000
 * rules cost no more each than ten. The caller keeps the things and compares them; control thread.
 */
#ifndef USHER_CONTROL_POLICY_FINDER_H
#define USHER_CONTROL_POLICY_FINDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FINDER_NONE UINT32_MAX

struct finder_slot {
    uint64_t hash;
    uint32_t index; /* + 1; 0 = free */
};

/* All zero is an empty one. */
struct finder {
    struct finder_slot *slots;
    uint32_t size, used;
};

typedef bool finder_same_fn(const void *things, uint32_t index, const void *wanted);

/* FINDER_NONE: there is none. */
uint32_t finder_get(const struct finder *f, uint64_t hash, finder_same_fn *same, const void *things,
                    const void *wanted);
/* False: no memory. */
bool finder_add(struct finder *f, uint64_t hash, uint32_t index);
void finder_free(struct finder *f);

/* FNV-1a. */
uint64_t finder_hash(const void *bytes, size_t size);
uint64_t finder_hash_text(const char *text);

#endif
