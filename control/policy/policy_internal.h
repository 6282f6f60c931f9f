/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to control/policy: the policy under construction.
 */
#ifndef USHER_CONTROL_POLICY_POLICY_INTERNAL_H
#define USHER_CONTROL_POLICY_POLICY_INTERNAL_H

#include "control/policy/policy.h"

#define NAME_SIZE 64
#define WHY_SIZE  160

struct name {
    char text[NAME_SIZE];
};

struct policy {
    struct nb_policy nb;
    struct nb_rule *rules;
    struct name *rule_names;
    struct nb_set *sets;
    struct name *set_names; /* empty: made for one rule */
    struct nb_owner_match *owners;
    struct nb_limit *limits;
    struct name *counters;
};

/* Appends a zeroed element to *v, which has `count`; NULL without memory. */
void *policy_grow(void *v_ptr, uint32_t count, size_t size);

/* policy_values.c: one value each. False: `why` says what is allowed. */
bool policy_read_addr(const char *text, struct nb_addr_range *ret_range, char *why);
bool policy_read_range(const char *text, uint32_t max, struct nb_range *ret_range, char *why);
/* A user's or group's name, number, or a range of numbers. */
bool policy_read_id(const char *text, bool group, struct nb_range *ret_range, char *why);
bool policy_read_word(const char *text, const char *const *words, uint32_t *ret_index, char *why);

/* policy_rule.c: one rule's match and action from its node. */
void policy_read_rule(struct policy *p, const struct node *map, struct nb_rule *ret_rule, struct problems *problems);

/* The set of that name and kind; NB_NONE with `why`. */
uint32_t policy_find_set(const struct policy *p, const char *name, uint8_t kind, char *why);
/* A set of one range without a name; NB_NONE without memory. */
uint32_t policy_add_set(struct policy *p, uint8_t kind, const struct nb_range *range);

#endif
