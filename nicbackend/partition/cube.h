/* SPDX-License-Identifier: Apache-2.0
 *
 * Arithmetic of cubes: sets of keys that agree with a value under a mask. Pure functions on values; any thread.
 */
#ifndef USHER_NICBACKEND_PARTITION_CUBE_H
#define USHER_NICBACKEND_PARTITION_CUBE_H

#include "nicbackend/backend.h"

void nb_key_of_view(const struct nb_view *view, struct nb_key *ret_key);
bool nb_cube_has(const struct nb_cube *c, const struct nb_key *key);
bool nb_cube_overlaps(const struct nb_cube *a, const struct nb_cube *b);
/* Every key of `b` is in `a`. */
bool nb_cube_contains(const struct nb_cube *a, const struct nb_cube *b);
bool nb_cube_equal(const struct nb_cube *a, const struct nb_cube *b);
/* False when they have nothing in common. */
bool nb_cube_meet(const struct nb_cube *a, const struct nb_cube *b, struct nb_cube *ret_cube);
/* `a` without `b` as disjoint cubes; -ENOSPC when there are more than `max`. Returns how many. */
int nb_cube_subtract(const struct nb_cube *a, const struct nb_cube *b, struct nb_cube *ret_cubes, int max);

uint8_t *nb_key_field(struct nb_key *key, enum nb_key_field field, uint32_t *ret_size);
/* How many fields the mask looks at, without those that others imply. */
uint32_t nb_cube_fields(const struct nb_cube *c);
/* The device matches exactly these keys. */
bool nb_cube_exact(const struct nb_cube *c, const struct nb_caps *caps);
/* The smallest cube the device can express that contains `c`. */
void nb_cube_widen(struct nb_cube *c, const struct nb_caps *caps);

#endif
