/* SPDX-License-Identifier: Apache-2.0
 *
 * What a policy means, as plain code: linear, one rule after the other. It is the specification of the filter engine,
 * of every NIC backend and of `explain`. Any thread; one nb_meters from one thread at a time. Cost: about 10 ns a rule.
 */
#ifndef USHER_NICBACKEND_IR_INTERPRET_H
#define USHER_NICBACKEND_IR_INTERPRET_H

#include "nicbackend/ir/rule.h"

/* The moving parts of a policy: what its limits have left and its counters have counted. */
struct nb_meters;

struct nb_count {
    uint64_t packets, bytes;
};

int nb_meters_create(const struct nb_policy *policy, struct nb_meters **ret_meters); /* 0 or -ENOMEM */
void nb_meters_destroy(struct nb_meters *m);
struct nb_count nb_meters_rule(const struct nb_meters *m, uint32_t rule);
struct nb_count nb_meters_counter(const struct nb_meters *m, uint32_t counter);

#define NB_RULE_DEFAULT UINT32_MAX       /* the tier's default decided */
#define NB_RULE_UNASKED (UINT32_MAX - 1) /* a tier above had closed already */

struct nb_outcome {
    uint8_t verdict; /* NB_ALLOW, NB_DROP or NB_REJECT */
    uint8_t reject;  /* enum nb_reject */
    uint16_t flags;  /* enum nb_action_flag: what was asked for */
    uint8_t tier;    /* that closed; NB_TIER_APP when all let it pass */
    uint8_t pad[3];
    uint32_t rule[NB_TIER_COUNT]; /* that decided in each tier */
    uint32_t mark;
    uint32_t class_id;
    uint32_t steer;
};

bool nb_owner_matches(const struct nb_policy *policy, const struct nb_owner_match *match, const struct nb_owner *owner);
/* Everything of the rule's match but its limit. `owner` NULL: nobody's. */
bool nb_rule_matches(const struct nb_policy *policy, const struct nb_match *match, const struct nb_view *view,
                     const struct nb_owner *owner);

/* `meters` NULL: nothing is counted and every limit is within its rate. `now` in nanoseconds, never going back. */
void nb_interpret(const struct nb_policy *policy, struct nb_meters *meters, const struct nb_view *view,
                  const struct nb_owner *owner, uint64_t now, struct nb_outcome *ret_outcome);

#endif
