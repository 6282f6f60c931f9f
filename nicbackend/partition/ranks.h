/* SPDX-License-Identifier: Apache-2.0
 *
 * Precedences that stay when a policy changes a little. Each place (a rule, or a tier's default) of a policy has a
 * rank; earlier places have higher ones, with room between them, so that a new rule finds its place without moving the
 * others. For devices with as many levels as there are numbers. Pure but for memory; control thread.
 */
#ifndef USHER_NICBACKEND_PARTITION_RANKS_H
#define USHER_NICBACKEND_PARTITION_RANKS_H

#include "nicbackend/partition/partition.h"

/* Can the device order rules by rank? */
static inline bool nb_ranked(const struct nb_caps *caps) {
    return caps->order == NB_ORDER_PRIO && caps->levels == UINT32_MAX;
}

/* A rank for each place of the policy, the caller's to free; NULL: no memory. */
uint32_t *nb_ranks_make(const struct nb_policy *policy);

/* What of two policies differs, by place: nonzero. */
struct nb_difference {
    uint8_t *gone;  /* of the old one: not in the new one */
    uint8_t *fresh; /* of the new one: not in the old one */
    uint32_t *ranks; /* of the new one: what is in both has the rank that it had */
    uint32_t *from;  /* of the new one: the same place in the old one, NB_NONE of what is fresh */
};

/* 0; -E2BIG: too much differs, or there is no room between two ranks; -ENOMEM. */
int nb_difference_make(const struct nb_policy *old, const uint32_t *old_ranks, const struct nb_policy *new,
                       struct nb_difference *ret_difference);
void nb_difference_free(struct nb_difference *d);

#endif
