/* SPDX-License-Identifier: Apache-2.0
 *
 * See classes_install.h.
 */
#include "control/policy/classes_install.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/identity/owner.h"
#include "control/policy/finder.h"
#include "control/policy/policy.h"
#include "dataplane/core/runtime.h"
#include "dataplane/port/port.h"
#include "engines/qos/qos_cmd.h"

struct sending {
    struct runtime *rt;
    uint32_t engine;
};

static int command(const struct sending *s, const struct engine_cmd *cmd) {
    struct engine_reply reply = {.error = 0};
    int error = runtime_command(s->rt, SHARD_QOS, s->engine, cmd, &reply);
    return error != 0 ? error : reply.error;
}

/* 0; -ENOENT: there is no engine, and none is needed when the policy has no classes. */
static int begin(struct runtime *rt, struct sending *s) {
    s->rt = rt;
    return runtime_engine_find(rt, "qos", &s->engine);
}

static int absent(const struct policy *policy) {
    return policy_classes(policy)->count == 0 ? 0 : -ENOENT;
}

static int send_node(const struct sending *s, const struct class_spec *c, uint32_t id) {
    struct qos_cmd_node node = {
        .cmd = {QOS_CMD_NODE, sizeof node},
        .id = id,
        .parent = c->parent == CLASS_NONE ? QOS_NONE : c->parent,
        .weight = c->weight,
        .each = c->each,
        .queue_bytes = c->queue != 0 ? (uint32_t)c->queue : INT32_MAX,
        .min_rate = c->guarantee,
        .max_rate = c->ceiling,
        .burst = c->burst,
        .key = c->key,
    };
    return command(s, &node.cmd);
}

/* Without classes: one node without limits, which lets go what still waits. */
static int send_tree(const struct sending *s, const struct classes *c) {
    static const struct class_spec all = {.parent = CLASS_NONE, .weight = 1};
    struct qos_cmd_begin open = {.cmd = {QOS_CMD_BEGIN, sizeof open}, .fallback = c->fallback, .overhead = c->overhead};
    int error = command(s, &open.cmd);
    for (uint32_t i = 0; i < c->count && error == 0; i++)
        error = send_node(s, &c->v[i], i);
    return error == 0 && c->count == 0 ? send_node(s, &all, 0) : error;
}

int classes_stage(struct runtime *rt, const struct policy *policy) {
    struct sending s;
    return begin(rt, &s) == 0 ? send_tree(&s, policy_classes(policy)) : absent(policy);
}

static struct qos_owner owner_of(const struct policy *policy, const struct owner *owner) {
    struct qos_owner is = {.leaf = QOS_NONE};
    if (owner == NULL)
        return is;
    const uint64_t program[] = {owner->exe_dev, owner->exe_ino};
    uint32_t id = policy_class_of(policy, owner);
    is.leaf = id == CLASS_NONE ? QOS_NONE : id;
    is.who[QOS_EACH_USER - 1] = (uint32_t)finder_hash(&owner->uid, sizeof owner->uid);
    is.who[QOS_EACH_CGROUP - 1] = (uint32_t)finder_hash_text(owner->cgroup);
    is.who[QOS_EACH_PROGRAM - 1] = (uint32_t)finder_hash(program, sizeof program);
    return is;
}

int classes_commit(struct runtime *rt, const struct policy *policy, const struct owner_table *owners,
                   uint32_t owner_max) {
    struct sending s;
    if (begin(rt, &s) != 0)
        return absent(policy);
    struct qos_owner *all = calloc(owner_max + 1u, sizeof *all);
    if (all == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < owner_max; i++)
        all[i] = owner_of(policy, owners != NULL ? owner_get(owners, i) : NULL);
    struct qos_cmd_commit commit = {.cmd = {QOS_CMD_COMMIT, sizeof commit}, .owner = all, .owner_count = owner_max};
    int error = command(&s, &commit.cmd);
    free(all);
    return error != 0 ? error : classes_ports(rt, policy);
}

int classes_owner_add(struct runtime *rt, const struct policy *policy, uint32_t index, const struct owner *owner) {
    struct sending s;
    if (policy_classes(policy)->count == 0 || begin(rt, &s) != 0)
        return absent(policy);
    struct qos_cmd_owner cmd = {.cmd = {QOS_CMD_OWNER, sizeof cmd}, .owner = index, .is = owner_of(policy, owner)};
    return command(&s, &cmd.cmd);
}

int classes_stats(struct runtime *rt, struct qos_stat *ret_stats, uint32_t count) {
    struct sending s;
    int error = begin(rt, &s);
    for (uint32_t at = 0; at < count && error == 0; at += QOS_STATS_MAX) {
        struct qos_cmd_stats cmd = {.cmd = {QOS_CMD_STATS, sizeof cmd},
                                    .first = at,
                                    .count = count - at < QOS_STATS_MAX ? count - at : QOS_STATS_MAX,
                                    .stats = &ret_stats[at]};
        error = command(&s, &cmd.cmd);
    }
    return error;
}

static bool wanted(const struct classes *c, const char *name) {
    for (uint32_t i = 0; i < c->interface_count; i++)
        if (strcmp(c->interface[i].name, name) == 0)
            return true;
    return c->interface_count == 0;
}

int classes_ports(struct runtime *rt, const struct policy *policy) {
    uint32_t mask = 0, engine;
    if (runtime_engine_find(rt, "qos", &engine) != 0)
        return policy == NULL ? 0 : absent(policy);
    for (uint32_t slot = 0; policy != NULL && policy_classes(policy)->count > 0 && slot < PORT_SLOT_MAX; slot++) {
        const struct port *port = runtime_port(rt, slot);
        mask |= port != NULL && wanted(policy_classes(policy), port->name) ? 1u << slot : 0;
    }
    return runtime_qos_ports(rt, mask);
}
