/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device would not take. See partition.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/partition.h"

#define REFUSAL_MAX 256u /* the oldest makes room: asking once too often is harmless */

struct refusal {
    struct nb_cube cube; /* of a shape: only the mask */
    uint8_t action;
    bool shape;
};

struct nb_refusals {
    struct refusal v[REFUSAL_MAX];
    uint32_t count; /* ever */
};

int nb_refusals_create(struct nb_refusals **ret) {
    *ret = calloc(1, sizeof **ret);
    return *ret == NULL ? -ENOMEM : 0;
}

void nb_refusals_destroy(struct nb_refusals *r) {
    free(r);
}

void nb_refusals_add(struct nb_refusals *r, const struct nb_hw_rule *rule, bool shape) {
    if (nb_refusals_has(r, &rule->cube, rule->action))
        return;
    r->v[r->count++ % REFUSAL_MAX] = (struct refusal){.cube = rule->cube, .action = rule->action, .shape = shape};
}

bool nb_refusals_has(const struct nb_refusals *r, const struct nb_cube *cube, enum nb_hw_action action) {
    for (uint32_t i = 0; r != NULL && i < r->count && i < REFUSAL_MAX; i++) {
        const struct refusal *f = &r->v[i];
        if (f->action == action && memcmp(&f->cube.mask, &cube->mask, sizeof cube->mask) == 0 &&
            (f->shape || memcmp(&f->cube.value, &cube->value, sizeof cube->value) == 0))
            return true;
    }
    return false;
}
