/* SPDX-License-Identifier: Apache-2.0
 *
 * Cubes by destination port: whoever looks for overlaps need not ask those of other ports. Private to partition.
 */
#ifndef USHER_NICBACKEND_PARTITION_CHAINS_H
#define USHER_NICBACKEND_PARTITION_CHAINS_H

#include "nicbackend/partition/cube.h"

struct nb_chains {
    uint32_t *head;           /* by port, behind them those of any port, behind those all: index + 1, 0 = none */
    uint32_t *next, *next_all;
};

/* For indexes below `max`. 0 or -ENOMEM. */
int nb_chains_create(uint32_t max, struct nb_chains *ret_chains);
void nb_chains_free(struct nb_chains *c);
void nb_chains_add(struct nb_chains *c, const struct nb_cube *cube, uint32_t index);

/* All indexes whose cubes may overlap a cube, and some that do not. In each chain the one added last comes first. */
struct nb_walk {
    const uint32_t *next;
    uint32_t at, then;
};
struct nb_walk nb_chains_walk(const struct nb_chains *c, const struct nb_cube *cube);

static inline bool nb_walk_next(struct nb_walk *w, uint32_t *ret_index) {
    if (w->at == 0) {
        w->at = w->then;
        w->then = 0;
    }
    if (w->at == 0)
        return false;
    *ret_index = w->at - 1;
    w->at = w->next[w->at - 1];
    return true;
}

#endif
