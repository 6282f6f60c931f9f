/* SPDX-License-Identifier: Apache-2.0
 *
 * A policy's classes into the QoS engine of the shard that has the tree (SHARD_QOS). Control thread; a worker goes on
 * by the old tree until the COMMIT. Without the engine a policy without classes is fine, any other is refused.
 */
#ifndef USHER_CONTROL_POLICY_CLASSES_INSTALL_H
#define USHER_CONTROL_POLICY_CLASSES_INSTALL_H

#include "control/policy/classes.h"

struct owner_table;
struct qos_stat;
struct runtime;

/* First half: what cannot be done is refused here. 0 or -errno. */
int classes_stage(struct runtime *rt, const struct policy *policy);
/* Second half: in force, with every owner in its class, from the return of the call. */
int classes_commit(struct runtime *rt, const struct policy *policy, const struct owner_table *owners,
                   uint32_t owner_max);
/* A new owner; before its first socket opens. */
int classes_owner_add(struct runtime *rt, const struct policy *policy, uint32_t index, const struct owner *owner);
/* What the first `count` classes have sent since they are there, by id. 0 or -errno. */
int classes_stats(struct runtime *rt, struct qos_stat *ret_stats, uint32_t count);
/* Ports came or went: which of them the tree judges is told anew. NULL: there is no policy. */
int classes_ports(struct runtime *rt, const struct policy *policy);

#endif
