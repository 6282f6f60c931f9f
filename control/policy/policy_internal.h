/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to control/policy: the policy under construction.
 */
#ifndef USHER_CONTROL_POLICY_POLICY_INTERNAL_H
#define USHER_CONTROL_POLICY_POLICY_INTERNAL_H

#include "control/policy/classes.h"
#include "control/policy/finder.h"
#include "control/policy/policy.h"

#define NAME_SIZE POLICY_NAME_SIZE
#define WHY_SIZE  160

struct name {
    char text[NAME_SIZE];
};

struct label {
    char name[NAME_SIZE];
    char pattern[256]; /* of cgroup paths; a label with several has several of these */
    uint32_t number;
};

struct policy {
    struct nb_policy nb;
    struct nb_rule *rules;
    struct name *rule_names;
    char **rule_texts;
    uint32_t *rule_lines;
    struct nb_set *sets;
    struct name *set_names; /* empty: made for one rule */
    struct nb_owner_match *owners;
    struct nb_limit *limits;
    struct name *counters;
    struct label *labels;
    uint32_t label_count;
    struct classes classes;
    struct finder rule_finder, set_finder, owner_finder, counter_finder;
    uint32_t flags; /* enum policy_flag */
    uint32_t absent;
    char absent_first[WHY_SIZE];
};

/* Appends a zeroed element to *v, which has `count`; NULL without memory. */
void *policy_grow(void *v_ptr, uint32_t count, size_t size);

/* policy_values.c: one value each. False: `why` says what is allowed. */
bool policy_read_addr(const char *text, struct nb_addr_range *ret_range, char *why);
bool policy_read_range(const char *text, uint32_t max, struct nb_range *ret_range, char *why);
/* A user's or group's name, number, or a range of numbers. *ret_absent: it is a name that this host does not have. */
bool policy_read_id(const char *text, bool group, struct nb_range *ret_range, bool *ret_absent, char *why);
bool policy_read_word(const char *text, const char *const *words, uint32_t *ret_index, char *why);
/* "100", "100/s", "64KB", "1MiB/s": a number with its multiplier; *ret_bytes: it counts bytes. */
bool policy_read_amount(const char *text, uint64_t *ret_amount, bool *ret_bytes, char *why);
/* A member of a set whose kind's word is `field`. */
bool policy_read_member(const char *field, const char *text, struct nb_addr_range *ret_addr,
                        struct nb_range *ret_range, bool *ret_absent, char *why);

/* policy_rule.c: one rule's match and action from its node. */
void policy_read_rule(struct policy *p, const struct node *map, struct nb_rule *ret_rule, struct problems *problems);

/* classes.c: the qos part; sets are known by then, rules are not. */
void policy_read_classes(struct policy *p, const struct node *map, struct problems *problems);

/* The set of that name and kind; NB_NONE with `why`. */
uint32_t policy_find_set(const struct policy *p, const char *name, uint8_t kind, char *why);
/* A set of users or groups without a name: of one range, NULL = of nobody. Equal ones are one. NB_NONE: no memory. */
uint32_t policy_add_ids(struct policy *p, const struct nb_range *range);
/* Something is not on this host, says `why`. True: the policy takes it all the same. */
bool policy_absent_note(struct policy *p, const char *why);

#endif
