/* SPDX-License-Identifier: Apache-2.0
 *
 * A program that follows its policy and the sockets of the host: as a whole, or, when little has changed, by an edit of
 * what the device has. An edit is as sound as a whole program but not as tidy (`rough`): a drop that goes leaves a punt
 * in its place, and what could get in now stays out until the next whole program.
 *
 * Why an edit is sound: every punt in the policy's list that overlaps an installed drop behind it has an entry of its
 * cube at its height or above (a punt, or a drop of an earlier place, which is right in its stead). Nothing that an
 * edit does ends that: entries are added, raised, or exchanged for a punt or for a drop that no earlier punt contains.
 *
 * Pure but for memory. Control thread. Cost of an edit: some passes over the rules and the entries; 10,000 of both take
 * about a millisecond.
 */
#ifndef USHER_NICBACKEND_PARTITION_PLAN_H
#define USHER_NICBACKEND_PARTITION_PLAN_H

#include "nicbackend/partition/partition.h"

struct nb_plan {
    struct nb_place *places; /* of the policy, and behind them the tiers' defaults */
    uint32_t *ranks;         /* by place; NULL: the device cannot be edited */
    uint32_t count;          /* of both */
    bool rough;              /* a whole program would do better */
    bool broken;             /* the device did not take all of it: only a whole program may follow */
};

void nb_plan_free(struct nb_plan *plan);

/* All of it. `p->ranks` is not looked at. 0 or -ENOMEM. */
int nb_plan_make(const struct nb_partition_params *p, struct nb_plan *ret_plan, struct nb_program *ret_program);
/* The policy of `plan` was `old`; `p->resident` is what the device has. By an edit if that is possible; with room for
 * more (`p->heat`, a full table) as a whole. 0 or -ENOMEM. */
int nb_plan_follow(const struct nb_plan *plan, const struct nb_policy *old, const struct nb_partition_params *p,
                   struct nb_plan *ret_plan, struct nb_program *ret_program);
/* Sockets came: `cells` are new in `p->world`, which is disjoint, and the policy is the same. `program` is what the
 * device has, and becomes what it is to have. 0; -ENOENT: no rule asks for them; -ENOMEM; -E2BIG: make a whole. */
int nb_plan_come(struct nb_plan *plan, const struct nb_partition_params *p, const struct nb_cell *cells, uint32_t count,
                 struct nb_program *program);
/* They are about to go: what was dropped because of them is punted. 0; -ENOENT: nothing was; -E2BIG: make a whole
 * without them, for nobody knows what the device still has. */
int nb_plan_go(struct nb_plan *plan, const struct nb_partition_params *p, const struct nb_cell *cells, uint32_t count,
               struct nb_program *program);

#endif
