/* SPDX-License-Identifier: Apache-2.0
 *
 * The visible part of a match as cubes. Private to partition.
 */
#ifndef USHER_NICBACKEND_PARTITION_EXPAND_H
#define USHER_NICBACKEND_PARTITION_EXPAND_H

#include "nicbackend/partition/cube.h"

struct nb_cubes {
    struct nb_cube *v;
    uint32_t count, size;
};

/* All keys that can match, whatever hardware cannot see. `ret_wide`: a field was left out because there would be more
 * than `max` cubes. 0 or -ENOMEM. */
int nb_expand(const struct nb_policy *policy, const struct nb_match *match, uint32_t max, struct nb_cubes *ret_cubes,
              bool *ret_wide);

#endif
