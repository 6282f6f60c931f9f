/* SPDX-License-Identifier: Apache-2.0
 *
 * The operator's policy: a YAML text becomes an nb_policy, with names for people beside it. It is refused whole when
 * anything in it is wrong; every problem names file, line, column and field. Control thread; 10,000 rules take some
 * 100 ms.
 *
 *     defaults: {host: allow}             # platform, host, app: allow, drop or reject
 *     labels: {game: [/game.slice]}       # cgroups, patterns too, and all that is below them
 *     sets:
 *       office: {addresses: [10.0.0.0/8, 192.168.1.5-192.168.1.9]}
 *       web: {ports: [80, 443, 8000-8080]}
 *       staff: {users: [bob, 1000-1010]}  # groups: as well, by name or number
 *     qos: {}                             # classes: see classes.h
 *     rules:
 *       - {name: postgres, to_port: 5432, direction: in, user: bob, exe: /usr/bin/postgres, action: allow}
 *       - {name: no-postgres, to_port: 5432, action: reject}
 *
 * usher-policy(5) explains every field; policy_rule.c has the table of them.
 */
#ifndef USHER_CONTROL_POLICY_POLICY_H
#define USHER_CONTROL_POLICY_POLICY_H

#include "control/config/tree.h"
#include "nicbackend/ir/rule.h"

#define POLICY_TEXT_MAX  (16u << 20)
#define POLICY_VALUE_MAX 1500000u
#define POLICY_NAME_SIZE 64

struct owner;
struct policy;

enum policy_flag {
    /* Users, groups, programs, cgroups and interfaces that this host does not have now match nobody instead of being a
     * mistake: for a policy that was in force before and must be again. */
    POLICY_ABSENT_OK = 1 << 0,
};

/* 0, or -EINVAL with problems, -ENOMEM. `name` is shown in messages. */
int policy_parse(const char *name, const char *text, size_t size, uint32_t flags, struct policy **ret_policy,
                 struct problems *problems);
/* A file's bytes, to be freed; problems as above. */
int policy_read_file(const char *path, char **ret_text, size_t *ret_size, struct problems *problems);
void policy_destroy(struct policy *p);

const struct nb_policy *policy_rules(const struct policy *p);
/* Of the image that is made of it: says which revision counted. */
void policy_revision_set(struct policy *p, uint64_t revision);
/* NULL when there is no such rule. */
const char *policy_rule_name(const struct policy *p, uint32_t rule);
/* All that the rule says but its name, on one line; and where it stands. */
const char *policy_rule_text(const struct policy *p, uint32_t rule);
uint32_t policy_rule_line(const struct policy *p, uint32_t rule);
/* NB_NONE when there is none. */
uint32_t policy_rule_find(const struct policy *p, const char *name);
uint32_t policy_rule_find_id(const struct policy *p, uint64_t id);
uint32_t policy_counter_find(const struct policy *p, const char *name);
const char *policy_counter_name(const struct policy *p, uint32_t counter);
uint32_t policy_set_find(const struct policy *p, const char *name); /* NB_NONE: there is none */
/* "" for sets that were made for one rule. */
const char *policy_set_name(const struct policy *p, uint32_t set);
const char *policy_tier_name(uint32_t tier);
const char *policy_verdict_name(uint32_t verdict);
/* How many names this host does not have (POLICY_ABSENT_OK), and a sentence about the first. */
uint32_t policy_absent(const struct policy *p, const char **ret_first);

/* What predicates see of an owner. */
void policy_owner(const struct policy *p, const struct owner *owner, struct nb_owner *ret_owner);

enum policy_edit { POLICY_EDIT_ADD, POLICY_EDIT_REMOVE, POLICY_EDIT_REPLACE };
/* The same text with other members of one set; the rest, comments included, stays as it is. To be freed. -ENOENT: no
 * such set, -EINVAL: a member is none, or the one to remove is not there; both with problems. */
int policy_edit_set(const char *text, size_t size, const char *set, enum policy_edit how, const char *const *members,
                    size_t member_count, char **ret_text, struct problems *problems);

#endif
