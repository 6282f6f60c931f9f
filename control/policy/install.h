/* SPDX-License-Identifier: Apache-2.0
 *
 * A policy into the filter engines of all shards, its classes into the QoS engine, and owners into the policy in
 * force. Control thread; each command runs between two polls of a worker, which goes on handling packets by the old
 * policy until its COMMIT.
 */
#ifndef USHER_CONTROL_POLICY_INSTALL_H
#define USHER_CONTROL_POLICY_INSTALL_H

#include "control/policy/policy.h"

struct filter_count;
struct owner_table;
struct runtime;

/* Replaces what is in force. When a shard refuses, all keep the old policy, unless the refusal is of a COMMIT, which
 * only happens to one that does not run any more. `owners` NULL: there are none yet. 0 or -errno. */
int policy_install(struct runtime *rt, const struct policy *policy, const struct owner_table *owners,
                   uint32_t owner_max);
/* Tells all shards what the policy in force says of a new owner; before its first socket opens. */
int policy_owner_add(struct runtime *rt, const struct policy *policy, uint32_t index, const struct owner *owner);
/* Other members for one set of the policy in force; `policy` has them, and is the same otherwise. -ENOSPC: the shards
 * have no room for them, and nothing changed. */
int policy_set_install(struct runtime *rt, const struct policy *policy, uint32_t set, const struct owner_table *owners,
                       uint32_t owner_max);
/* Adds what all shards have counted to `counts`: of the first `count` rules, or named counters. `previous`: of the
 * policy that the last install replaced; it counts no more. */
int policy_counts_add(struct runtime *rt, bool previous, bool named, uint32_t count, struct filter_count *counts);

#endif
