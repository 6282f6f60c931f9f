/* SPDX-License-Identifier: Apache-2.0
 *
 * Every invariant of the state, for tests, simulator and fuzzers: 0, or the number of the broken one.
 *   1 open undo slot, 2 the tree in force makes no sense, 3 an owner's leaf is out of range, 4 a node's state and work
 *   do not agree, 5 a ring does not hold its active children, 6 a leaf's flows do not add up, 7 nor do all leaves
 */
#include "engines/qos/qos.h"

/* Counts the flow's packets; bytes are compared here. */
static bool flow_sound(struct qos_state *st, uint32_t leaf, const struct qos_flow *f, uint32_t *ret_packets) {
    uint64_t bytes = 0;
    uint32_t packets = 0, last = QOS_NIL;
    for (uint32_t at = f->head; at != QOS_NIL && packets <= st->waiting; at = qos_slot(st, at)->next) {
        bytes += qos_slot(st, at)->bytes;
        last = at;
        packets++;
    }
    *ret_packets += packets;
    return f->leaf == leaf && packets > 0 && last == f->tail && bytes == f->bytes;
}

static bool leaf_sound(struct qos_state *st, uint32_t id, const struct qos_node *n) {
    uint32_t packets = 0;
    uint64_t bytes = 0;
    if (n->waiting == 0)
        return n->first[QOS_SHARE] == QOS_NIL && n->waiting_bytes == 0;
    uint32_t i = n->first[QOS_SHARE];
    do {
        const struct qos_flow *f = qos_flow(st, i);
        if (!flow_sound(st, id, f, &packets))
            return false;
        bytes += f->bytes;
        i = f->next;
    } while (i != n->first[QOS_SHARE] && packets <= n->waiting);
    return packets == n->waiting && bytes == n->waiting_bytes;
}

static uint32_t ring_count(struct qos_state *st, const struct qos_node *n, enum qos_ring ring) {
    uint32_t i = n->first[ring], count = 0;
    if (i == QOS_NIL)
        return 0;
    do {
        i = qos_node(st, i)->link[ring].next;
        count++;
    } while (i != n->first[ring] && count <= st->node_count);
    return count;
}

static bool rings_sound(struct qos_state *st, uint32_t id, const struct qos_node *n) {
    uint32_t active = 0, green = 0;
    for (uint32_t child = id + 1; child < st->node_count; child++) {
        const struct qos_node *c = qos_node(st, child);
        active += c->parent == id && c->state == QOS_ACTIVE;
        green += c->parent == id && c->green;
    }
    return ring_count(st, n, QOS_SHARE) == active && ring_count(st, n, QOS_GREEN) == green;
}

static int node_check(struct qos_state *st, uint32_t id) {
    const struct qos_node *n = qos_node(st, id);
    bool work = n->leaf ? n->waiting > 0 : n->first[QOS_SHARE] != QOS_NIL;
    if ((n->state == QOS_ACTIVE && !work) || (n->state == QOS_IDLE && work) || (n->green && n->state != QOS_ACTIVE))
        return 4;
    if (n->state == QOS_PARKED && !wheel_armed(&st->wheel, id * QOS_TIMERS + QOS_TIMER_CEILING))
        return 4;
    if (!n->leaf)
        return rings_sound(st, id, n) ? 0 : 5;
    return leaf_sound(st, id, n) ? 0 : 6;
}

int qos_check(const void *state) {
    struct qos_state *st = (struct qos_state *)(uintptr_t)state;
    uint32_t waiting = 0;
    if (st->a.undo_open)
        return 1;
    if (qos_specs(st, st->active)->high_water != st->node_count || qos_tree_wrong(st, st->active) != NULL)
        return 2;
    for (uint32_t i = 0; i < st->cfg.owner_max; i++)
        if (qos_owners(st)[i].leaf > st->cfg.node_max)
            return 3;
    for (uint32_t id = 0; id < st->node_count; id++) {
        int broken = node_check(st, id);
        if (broken != 0)
            return broken;
        waiting += qos_node(st, id)->leaf ? qos_node(st, id)->waiting : 0;
    }
    return waiting == st->waiting ? 0 : 7;
}
