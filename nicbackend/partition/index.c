/* SPDX-License-Identifier: Apache-2.0
 *
 * See index.h. Open addressing, at most half full, nothing is ever taken out.
 */
#include "nicbackend/partition/index.h"

#include <errno.h>
#include <stdlib.h>

static uint32_t hash(const struct nb_cube *c) {
    uint64_t h = 0x9e3779b97f4a7c15ull;
    for (int i = 0; i < 6; i++) {
        h = (h ^ c->value.words[i]) * 0xbf58476d1ce4e5b9ull;
        h = ((h ^ h >> 29) ^ c->mask.words[i]) * 0x94d049bb133111ebull;
        h ^= h >> 32;
    }
    return (uint32_t)h;
}

int nb_index_create(uint32_t max, struct nb_index *ret) {
    uint32_t size = 16;
    while (size / 2 < max)
        size *= 2;
    ret->mask = size - 1;
    ret->slots = calloc(size, sizeof *ret->slots);
    return ret->slots == NULL ? -ENOMEM : 0;
}

void nb_index_free(struct nb_index *index) {
    free(index->slots);
    index->slots = NULL;
}

void nb_index_add(struct nb_index *index, const struct nb_cube *cube, uint32_t value) {
    uint32_t at = hash(cube);
    while (index->slots[at & index->mask] != 0)
        at++;
    index->slots[at & index->mask] = value + 1;
}

bool nb_index_next(const struct nb_index *index, const struct nb_cube *cube, uint32_t *at, uint32_t *ret_value) {
    uint32_t slot = index->slots[(hash(cube) + *at) & index->mask];
    if (slot == 0)
        return false;
    *at += 1;
    *ret_value = slot - 1;
    return true;
}
