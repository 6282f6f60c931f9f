/* SPDX-License-Identifier: Apache-2.0
 *
 * Saved state: the nodes of the tree in force, then the tree, then each owner that has a leaf. load() stages nodes as
 * commands do, and the tree's record puts them in force; hostile records meet the same checks. See
 * proto/usher/state/v1/qos.proto.
 */
#include <errno.h>

#include "engines/qos/qos.h"
#include "engines/statewire.h"

enum record { RECORD_NODE = 1, RECORD_TREE, RECORD_OWNER };
#define FIELD_MAX 10

static int64_t record_put(enum record kind, const uint64_t *v, uint8_t *buf, size_t size) {
    uint8_t body[FIELD_MAX * 11];
    struct statewire_out inner = {.buf = body, .size = sizeof body}, o = {.buf = buf, .size = size};
    for (uint32_t field = 1; field < FIELD_MAX; field++)
        statewire_put(&inner, field, v[field]);
    statewire_put_bytes(&o, kind, body, inner.len);
    return o.full ? -ENOSPC : (int64_t)o.len;
}

static int64_t save_node(struct qos_state *st, uint32_t id, uint8_t *buf, size_t size) {
    const struct qos_spec *s = qos_spec(st, st->active, id);
    const uint64_t v[FIELD_MAX] = {[1] = id,          [2] = (uint32_t)(s->parent + 1),
                                   [3] = s->weight,   [4] = s->queue_bytes,
                                   [5] = s->min_rate, [6] = s->max_rate,
                                   [7] = s->burst,    [8] = s->key,
                                   [9] = s->each};
    return record_put(RECORD_NODE, v, buf, size);
}

static int64_t save_tree(struct qos_state *st, uint8_t *buf, size_t size) {
    const struct qos_tree *t = &st->tree[st->active];
    const uint64_t v[FIELD_MAX] = {[2] = t->fallback, [3] = t->overhead};
    return record_put(RECORD_TREE, v, buf, size);
}

int64_t qos_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size) {
    struct qos_state *st = (struct qos_state *)(uintptr_t)state;
    uint64_t at = *cursor, nodes = st->node_count, end = nodes + 1 + st->cfg.owner_max;
    while (at > nodes && at < end && qos_owners(st)[at - nodes - 1].leaf == 0)
        at++;
    if (at >= end)
        return 0;
    int64_t n;
    if (at < nodes) {
        n = save_node(st, (uint32_t)at, buf, size);
    } else if (at == nodes) {
        n = save_tree(st, buf, size);
    } else {
        const struct qos_owner *o = &qos_owners(st)[at - nodes - 1];
        const uint64_t v[FIELD_MAX] = {
            [1] = at - nodes - 1, [2] = o->leaf, [3] = o->who[0], [4] = o->who[1], [5] = o->who[2]};
        n = record_put(RECORD_OWNER, v, buf, size);
    }
    if (n > 0)
        *cursor = at + 1;
    return n;
}

static int fields_read(const uint8_t *data, size_t size, uint64_t *ret_v) {
    struct statewire_in in = {data, data + size};
    struct statewire_field f;
    int more;
    while ((more = statewire_next(&in, &f)) > 0) {
        if (f.type != STATEWIRE_VARINT || f.number >= FIELD_MAX)
            return -EBADMSG;
        ret_v[f.number] = f.value;
    }
    return more < 0 ? -EBADMSG : 0;
}

static int load_node(struct qos_state *st, const uint64_t *v) {
    char err[64];
    if ((v[1] | v[2] | v[3] | v[4] | v[9]) > UINT32_MAX)
        return -EBADMSG;
    const struct qos_cmd_node c = {.id = (uint32_t)v[1],
                                   .parent = (uint32_t)v[2] - 1,
                                   .weight = (uint32_t)v[3],
                                   .queue_bytes = (uint32_t)v[4],
                                   .min_rate = v[5],
                                   .max_rate = v[6],
                                   .burst = v[7],
                                   .key = v[8],
                                   .each = (uint32_t)v[9]};
    if (c.id == 0)
        qos_tree_begin(st, &(struct qos_tree){0});
    return qos_tree_add(st, &c, err, sizeof err);
}

static int load_tree(struct qos_state *st, const uint64_t *v) {
    char err[64];
    if (v[2] > UINT32_MAX || v[3] > QOS_OVERHEAD_MAX)
        return -EBADMSG;
    st->tree[1 - st->active] = (struct qos_tree){.fallback = (uint32_t)v[2], .overhead = (uint32_t)v[3]};
    return qos_tree_commit(st, 0, err, sizeof err);
}

static int load_owner(struct qos_state *st, const uint64_t *v) {
    if ((v[1] | v[3] | v[4] | v[5]) > UINT32_MAX || v[2] == 0 || v[2] > st->cfg.node_max)
        return -EBADMSG;
    const struct qos_owner is = {.leaf = (uint32_t)v[2] - 1, .who = {(uint32_t)v[3], (uint32_t)v[4], (uint32_t)v[5]}};
    return qos_owner_set(st, (uint32_t)v[1], &is);
}

int qos_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size) {
    struct qos_state *st = (struct qos_state *)state;
    struct statewire_in in = {rec, rec + size};
    struct statewire_field f;
    uint64_t v[FIELD_MAX] = {0};
    if (from_version > QOS_LAYOUT)
        return -EPROTONOSUPPORT;
    if (statewire_next(&in, &f) <= 0 || f.type != STATEWIRE_BYTES || in.at != in.end)
        return -EBADMSG;
    int error = fields_read(f.data, f.size, v);
    if (error < 0)
        return error;
    switch (f.number) {
    case RECORD_NODE:
        return load_node(st, v);
    case RECORD_TREE:
        return load_tree(st, v);
    case RECORD_OWNER:
        return load_owner(st, v);
    default:
        return -EBADMSG;
    }
}
