/* SPDX-License-Identifier: Apache-2.0
 *
 * Which part of a policy a device gets: a hardware program that drops a packet only where software would drop it too,
 * by the same rule. What it relies on, and every caller may: any subset of the program's drops together with all of its
 * punts (and any others of higher precedence) is as sound as the whole.
 *
 * Pure but for memory. Control thread. Cost: rules times those of the same port or of any; 10,000 rules of many ports
 * take some 15 ms.
 */
#ifndef USHER_NICBACKEND_PARTITION_PARTITION_H
#define USHER_NICBACKEND_PARTITION_PARTITION_H

#include "nicbackend/partition/flatten.h"

struct nb_program {
    struct nb_hw_rule *rules; /* by precedence, highest first, unless it was edited */
    uint32_t count;
    uint32_t room; /* for so many more */
};

#define NB_PROGRAM_ROOM 64u /* in what nb_store_program() gives */

/* How much of each rule is in the NIC, and why not more. Behind the rules come the defaults of the tiers. */
struct nb_place {
    uint8_t reason; /* enum nb_reason of the first entry that did not get in */
    uint32_t entries, placed;
};

struct nb_refusals;

struct nb_partition_params {
    const struct nb_policy *policy;
    const struct nb_world *world;
    const struct nb_caps *caps;
    uint32_t ifindex;
    uint32_t rule_max;                   /* fewer than the device has, 0 = all it has */
    bool exact;                          /* counters are exact, too: see nb_flatten_params */
    const uint32_t *heat;                /* by place: packets a second it drops; NULL = all the same */
    const struct nb_program *resident;   /* what is there now gets an advantage; NULL */
    uint32_t newcomer_max;               /* entries that may be new when `resident` is given; 0 = any number */
    const struct nb_refusals *refusals;  /* what the device would not take before; NULL */
    const uint32_t *ranks;               /* of devices that nb_ranked() accepts: precedences by place, see ranks.h */
};

/* 0 or -ENOMEM. `ret_places` has rule_count + NB_TIER_COUNT entries and is the caller's to free, as is the program. */
int nb_partition(const struct nb_partition_params *params, struct nb_program *ret_program,
                 struct nb_place **ret_places);
void nb_program_free(struct nb_program *program);
uint64_t nb_credit(const struct nb_policy *policy, uint32_t place);

/* Rules that a device has refused, by what they ask for: not asked again before they are forgotten. */
int nb_refusals_create(struct nb_refusals **ret_refusals);
void nb_refusals_destroy(struct nb_refusals *r);
/* The whole shape (its mask and action) was refused, or only this rule. */
void nb_refusals_add(struct nb_refusals *r, const struct nb_hw_rule *rule, bool shape);
bool nb_refusals_has(const struct nb_refusals *r, const struct nb_cube *cube, enum nb_hw_action action);

#endif
