/* SPDX-License-Identifier: Apache-2.0
 *
 * The operator's policy: a YAML file becomes an nb_policy, with names for people beside it. The file is refused whole
 * when anything in it is wrong; every problem names file, line, column and field. Control thread.
 *
 *     defaults: {host: allow}             # platform, host, app: allow, drop or reject
 *     sets:
 *       office: {addresses: [10.0.0.0/8, 192.168.1.5-192.168.1.9]}
 *       web: {ports: [80, 443, 8000-8080]}
 *       staff: {users: [bob, 1000-1010]}  # groups: as well, by name or number
 *     rules:
 *       - {name: postgres, to_port: 5432, direction: in, user: bob, exe: /usr/bin/postgres, action: allow}
 *       - {name: no-postgres, to_port: 5432, action: reject}
 *
 * A rule's matches: direction, protocol, from, to, from_port, to_port, state, ip, interface, user, group, exe, comm,
 * cgroup, pid. An address, port, user or group may be "@name" of a set; a leading "!" (in quotes) inverts a match.
 * What it does: action (allow, drop, reject; none = go on), reject_with, counter, log, mark, class, limit.
 */
#ifndef USHER_CONTROL_POLICY_POLICY_H
#define USHER_CONTROL_POLICY_POLICY_H

#include "control/config/tree.h"
#include "nicbackend/ir/rule.h"

struct owner;
struct policy;

/* 0, or -EINVAL with problems, -ENOMEM. `name` is shown in messages. */
int policy_parse(const char *name, const char *text, size_t size, struct policy **ret_policy,
                 struct problems *problems);
int policy_load(const char *path, struct policy **ret_policy, struct problems *problems);
void policy_destroy(struct policy *p);

const struct nb_policy *policy_rules(const struct policy *p);
/* NULL when there is no such rule. */
const char *policy_rule_name(const struct policy *p, uint32_t rule);
const char *policy_counter_name(const struct policy *p, uint32_t counter);

/* What predicates see of an owner. */
void policy_owner(const struct owner *owner, struct nb_owner *ret_owner);

#endif
