/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands: one function for each in a table.
 */
#include <errno.h>

#include "engines/qos/qos.h"

typedef void command_fn(struct qos_state *st, struct engine_io *io, const void *cmd, struct engine_reply *ret_reply);

static void cmd_begin(struct qos_state *st, struct engine_io *io, const void *cmd, struct engine_reply *ret_reply) {
    const struct qos_cmd_begin *c = (const struct qos_cmd_begin *)cmd;
    (void)io;
    if (c->overhead > QOS_OVERHEAD_MAX) {
        ret_reply->error = -EINVAL;
        engine_say(ret_reply->text, sizeof ret_reply->text, "the overhead is out of range");
        return;
    }
    qos_tree_begin(st, &(struct qos_tree){.fallback = c->fallback, .overhead = c->overhead});
}

static void cmd_node(struct qos_state *st, struct engine_io *io, const void *cmd, struct engine_reply *ret_reply) {
    (void)io;
    ret_reply->error = qos_tree_add(st, (const struct qos_cmd_node *)cmd, ret_reply->text, sizeof ret_reply->text);
}

static void cmd_commit(struct qos_state *st, struct engine_io *io, const void *cmd, struct engine_reply *ret_reply) {
    const struct qos_cmd_commit *c = (const struct qos_cmd_commit *)cmd;
    bool good = c->owner_count <= st->cfg.owner_max && (c->owner_count == 0 || c->owner != NULL);
    for (uint32_t i = 0; good && i < c->owner_count; i++)
        good = c->owner[i].leaf == QOS_NONE || c->owner[i].leaf < st->cfg.node_max;
    if (!good) {
        ret_reply->error = -ERANGE;
        return;
    }
    ret_reply->error = qos_tree_commit(st, io->now, ret_reply->text, sizeof ret_reply->text);
    for (uint32_t i = 0; i < c->owner_count && ret_reply->error == 0; i++)
        (void)qos_owner_set(st, i, &c->owner[i]);
}

int qos_owner_set(struct qos_state *st, uint32_t owner, const struct qos_owner *is) {
    if (owner >= st->cfg.owner_max || (is->leaf != QOS_NONE && is->leaf >= st->cfg.node_max))
        return -ERANGE;
    struct qos_owner *o = &qos_owners(st)[owner];
    memcpy(o->who, is->who, sizeof o->who);
    arena_barrier();
    o->leaf = is->leaf + 1; /* QOS_NONE + 1 is 0 */
    return 0;
}

static void cmd_owner(struct qos_state *st, struct engine_io *io, const void *cmd, struct engine_reply *ret_reply) {
    const struct qos_cmd_owner *c = (const struct qos_cmd_owner *)cmd;
    (void)io;
    ret_reply->error = qos_owner_set(st, c->owner, &c->is);
}

static void cmd_stats(struct qos_state *st, struct engine_io *io, const void *cmd, struct engine_reply *ret_reply) {
    const struct qos_cmd_stats *c = (const struct qos_cmd_stats *)cmd;
    (void)io;
    uint32_t n = 0;
    if (c->count > QOS_STATS_MAX || c->stats == NULL) {
        ret_reply->error = -EINVAL;
        return;
    }
    for (; n < c->count && c->first < st->node_count && n < st->node_count - c->first; n++) {
        const struct qos_node *node = qos_node(st, c->first + n);
        c->stats[n] = (struct qos_stat){.packets = node->packets,
                                        .bytes = node->bytes,
                                        .drops = node->drops,
                                        .waiting_bytes = node->waiting_bytes,
                                        .waiting_packets = node->waiting};
    }
    ret_reply->value = n;
}

static const struct {
    command_fn *fn;
    uint32_t size;
} commands[] = {
    [QOS_CMD_BEGIN] = {cmd_begin, sizeof(struct qos_cmd_begin)},
    [QOS_CMD_NODE] = {cmd_node, sizeof(struct qos_cmd_node)},
    [QOS_CMD_COMMIT] = {cmd_commit, sizeof(struct qos_cmd_commit)},
    [QOS_CMD_OWNER] = {cmd_owner, sizeof(struct qos_cmd_owner)},
    [QOS_CMD_STATS] = {cmd_stats, sizeof(struct qos_cmd_stats)},
};

void qos_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    memset(ret_reply, 0, sizeof *ret_reply);
    if (cmd->id >= ARRAY_LEN(commands) || commands[cmd->id].fn == NULL)
        ret_reply->error = -ENOTSUP;
    else if (cmd->size < commands[cmd->id].size)
        ret_reply->error = -EINVAL;
    else
        commands[cmd->id].fn((struct qos_state *)state, io, cmd, ret_reply);
}
