/* SPDX-License-Identifier: Apache-2.0
 *
 * Finds cubes again: a hash table of indexes into an array that the caller has. Private to nicbackend.
 */
#ifndef USHER_NICBACKEND_PARTITION_INDEX_H
#define USHER_NICBACKEND_PARTITION_INDEX_H

#include "nicbackend/partition/cube.h"

struct nb_index {
    uint32_t *slots; /* index + 1 */
    uint32_t mask;
};

/* For at most `max` cubes. 0 or -ENOMEM. */
int nb_index_create(uint32_t max, struct nb_index *ret_index);
void nb_index_free(struct nb_index *index);
void nb_index_add(struct nb_index *index, const struct nb_cube *cube, uint32_t value);
/* The values of this cube's hash, one after the other: begin with *at = 0; false at the end. Values whose cube differs
 * come too: the caller compares. */
bool nb_index_next(const struct nb_index *index, const struct nb_cube *cube, uint32_t *at, uint32_t *ret_value);

#endif
