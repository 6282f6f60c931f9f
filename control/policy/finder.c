/* SPDX-License-Identifier: Apache-2.0
 *
 * Open addressing, at most half full. See finder.h.
 */
#include "control/policy/finder.h"

#include <stdlib.h>
#include <string.h>

uint64_t finder_hash(const void *bytes, size_t size) {
    const uint8_t *b = bytes;
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < size; i++)
        h = (h ^ b[i]) * 0x100000001b3ull;
    return h;
}

uint64_t finder_hash_text(const char *text) {
    return finder_hash(text, strlen(text));
}

uint32_t finder_get(const struct finder *f, uint64_t hash, finder_same_fn *same, const void *things,
                    const void *wanted) {
    for (uint32_t i = (uint32_t)(hash >> 32); f->size != 0; i++) {
        const struct finder_slot *s = &f->slots[i & (f->size - 1)];
        if (s->index == 0)
            break;
        if (s->hash == hash && same(things, s->index - 1, wanted))
            return s->index - 1;
    }
    return FINDER_NONE;
}

static void put(struct finder *f, const struct finder_slot *what) {
    uint32_t i = (uint32_t)(what->hash >> 32);
    while (f->slots[i & (f->size - 1)].index != 0)
        i++;
    f->slots[i & (f->size - 1)] = *what;
}

static bool grow(struct finder *f) {
    struct finder more = {.size = f->size == 0 ? 64 : 2 * f->size, .used = f->used};
    more.slots = calloc(more.size, sizeof *more.slots);
    if (more.slots == NULL)
        return false;
    for (uint32_t i = 0; i < f->size; i++)
        if (f->slots[i].index != 0)
            put(&more, &f->slots[i]);
    free(f->slots);
    *f = more;
    return true;
}

bool finder_add(struct finder *f, uint64_t hash, uint32_t index) {
    if (2 * f->used >= f->size && !grow(f))
        return false;
    const struct finder_slot s = {hash, index + 1};
    put(f, &s);
    f->used++;
    return true;
}

void finder_free(struct finder *f) {
    free(f->slots);
    *f = (struct finder){.size = 0};
}
