/* SPDX-License-Identifier: Apache-2.0
 *
 * The QoS engine's calls: packets are put into their owner's leaf and leave when the tree says so. Runs on the shard's
 * worker, between the link engine (or the filter) and the port. It looks at no received packet and changes no byte.
 */
#include "engines/qos/qos.h"

#include <errno.h>

#define RUN_WAKES 256u /* timers a call looks at; the rest keep the deadline in the past */

static const struct qos_config defaults = {.node_max = 1024, .packet_max = 65536, .owner_max = 65536};

static const struct engine_counter counters[QOS_COUNTERS] = {
    [QOS_COUNT_PACKETS] = {"sent_packets", "packets that the tree has let go"},
    [QOS_COUNT_BYTES] = {"sent_wire_bytes", "their bytes on the wire"},
    [QOS_COUNT_DROPS] = {"dropped_packets", "packets whose flow had too much waiting already"},
    [QOS_COUNT_PARKED] = {"parked_times", "nodes that had to wait at their ceiling"},
    [QOS_COUNT_PASSED] = {"passed_packets", "packets that no tree limits"},
};

/* ---- packets ---- */

static uint32_t leaf_of(struct qos_state *st, const struct pkt *p) {
    uint32_t id = p->class_id & ~PKT_MARKED;
    if (id == 0 && p->owner < st->cfg.owner_max)
        id = qos_owners(st)[p->owner].leaf;
    if (id != 0 && id - 1 < st->node_count && qos_node(st, id - 1)->leaf)
        return id - 1;
    return st->tree[st->active].fallback;
}

/* Which line of the leaf. A packet of nobody's is of its flow's. */
static uint32_t line_of(struct qos_state *st, const struct pkt *p, uint32_t leaf) {
    uint8_t each = qos_node(st, leaf)->each;
    if (each != QOS_EACH_FLOW && p->owner < st->cfg.owner_max)
        return qos_owners(st)[p->owner].who[each - 1];
    return hash_flow(&st->key, &p->flow);
}

static void pass(struct engine_io *io, struct pkt *p) {
    ENGINE_COUNT(io, QOS_COUNT_PASSED);
    (void)pkt_vec_push(io->down, p); /* has room for twice the packets of the call */
}

/* In rounds, so that the misses of a burst overlap: hash head, then flow, then its last packet, then the work. */
static void output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct qos_state *st = (struct qos_state *)state;
    uint32_t hash[PKT_BURST], leaf[PKT_BURST];
    CHECK(n <= PKT_BURST);
    for (uint32_t i = 0; i < n; i++) {
        leaf[i] = leaf_of(st, pkts[i]);
        hash[i] = line_of(st, pkts[i], leaf[i]);
        qos_flow_prefetch_head(st, hash[i]);
    }
    for (uint32_t i = 0; i < n; i++)
        qos_flow_prefetch(st, leaf[i], hash[i]);
    for (uint32_t i = 0; i < n; i++)
        qos_flow_prefetch_tail(st, hash[i]);
    for (uint32_t i = 0; i < n; i++) {
        if (st->open)
            pass(io, pkts[i]);
        else if (qos_flow_push(st, io, pkts[i], leaf[i], hash[i]))
            qos_node_activate(st, leaf[i], io->now);
    }
    if (st->waiting > 0)
        (void)qos_send(st, io, PKT_BURST);
}

static uint32_t run(void *state, struct engine_io *io, uint32_t budget) {
    struct qos_state *st = (struct qos_state *)state;
    uint32_t work = qos_wake(st, io, RUN_WAKES);
    return work + qos_send(st, io, budget);
}

static ns_t next_deadline(const void *state) {
    return qos_deadline((const struct qos_state *)state);
}

static void fini(void *state, struct engine_io *io) {
    struct qos_state *st = (struct qos_state *)state;
    for (uint32_t id = 0; id < st->node_count; id++) {
        struct qos_node *n = qos_node(st, id);
        while (n->leaf && n->waiting > 0 && pkt_vec_room(io->drop) > 0) {
            uint32_t bytes;
            pkt_drop(io, qos_flow_pop(st, n, &bytes), DROP_PORT_DOWN);
        }
    }
}

/* ---- life ---- */

static bool plan(struct qos_state *st, const struct qos_config *cfg) {
    if (cfg->node_max == 0 || cfg->node_max > 1u << 20 || cfg->packet_max < PKT_BURST || cfg->packet_max > 1u << 24 ||
        cfg->owner_max > 1u << 24)
        return false;
    uint32_t heads = 16;
    while (heads < cfg->packet_max)
        heads *= 2;
    st->cfg = *cfg;
    st->cfg.small_max = cfg->small_max != 0 ? cfg->small_max : cfg->packet_max;
    st->cfg.large_max = cfg->large_max != 0 ? cfg->large_max : cfg->packet_max;
    st->head_mask = heads - 1;
    st->a.size = arena_round(sizeof *st);
    if (!arena_plan_table(&st->a, cfg->node_max, sizeof(struct qos_spec)) ||
        !arena_plan_table(&st->a, cfg->node_max, sizeof(struct qos_spec)))
        return false;
    st->owner_lines = arena_plan_derived(&st->a, (size_t)cfg->owner_max * sizeof(struct qos_owner));
    st->node_lines = arena_plan_derived(&st->a, (size_t)cfg->node_max * sizeof(struct qos_node));
    st->timer_lines = arena_plan_derived(&st->a, (size_t)cfg->node_max * QOS_TIMERS * sizeof(struct wheel_node));
    st->flow_lines = arena_plan_derived(&st->a, (size_t)cfg->packet_max * sizeof(struct qos_flow));
    st->slot_lines = arena_plan_derived(&st->a, (size_t)cfg->packet_max * sizeof(struct qos_slot));
    st->head_lines = arena_plan_derived(&st->a, (size_t)heads * sizeof(uint32_t));
    return true;
}

static size_t state_size(const void *cfg, char *err, size_t err_size) {
    struct qos_state scratch = {0};
    if (plan(&scratch, cfg != NULL ? (const struct qos_config *)cfg : &defaults))
        return scratch.a.size;
    engine_say(err, err_size, "qos: node_max is 1 to 2^20, packet_max 64 to 2^24, owner_max at most 2^24");
    return 0;
}

static void derive(struct qos_state *st) {
    st->node_count = 0;
    hash_key_init(&st->key, st->a.seed);
    qos_flows_clear(st);
}

static int init(void *state, size_t size, const void *cfg, uint64_t seed) {
    struct qos_state *st = (struct qos_state *)state;
    if (size < sizeof *st || !plan(st, cfg != NULL ? (const struct qos_config *)cfg : &defaults) || st->a.size > size)
        return -EINVAL;
    st->a.seed = seed;
    st->a.layout_version = QOS_LAYOUT;
    derive(st);
    qos_tree_default(st);
    arena_barrier();
    st->a.magic = ARENA_MAGIC;
    return 0;
}

static bool places_take(struct qos_state *st, size_t size) {
    struct qos_state planned = {0};
    if (size < sizeof *st || !plan(&planned, &st->cfg) || planned.a.size > size || !arena_same_plan(&st->a, &planned.a))
        return false;
    st->owner_lines = planned.owner_lines;
    st->node_lines = planned.node_lines;
    st->timer_lines = planned.timer_lines;
    st->flow_lines = planned.flow_lines;
    st->slot_lines = planned.slot_lines;
    st->head_lines = planned.head_lines;
    st->head_mask = planned.head_mask;
    return true;
}

/* Waiting packets were lost with the process. A tree that makes no sense any more gives way to the one without limits:
 * control sees the loss and sends its own again. */
static int recover(void *state, size_t size, uint32_t *ret_lost) {
    struct qos_state *st = (struct qos_state *)state;
    if (!places_take(st, size) || st->active > 1 || arena_recover(&st->a, size, QOS_LAYOUT) != 0)
        return -EUCLEAN;
    uint32_t lost = 0;
    for (uint32_t i = 0; i < st->cfg.owner_max; i++) {
        if (qos_owners(st)[i].leaf > st->cfg.node_max) {
            qos_owners(st)[i].leaf = 0;
            lost++;
        }
    }
    derive(st);
    qos_tree_begin(st, &(struct qos_tree){0}); /* who was staging is gone as well */
    if (qos_tree_wrong(st, st->active) != NULL || st->tree[st->active].overhead > QOS_OVERHEAD_MAX) {
        lost += qos_specs(st, st->active)->high_water;
        qos_tree_default(st);
    } else {
        qos_tree_build(st, 0);
    }
    *ret_lost = lost;
    return 0;
}

__attribute__((visibility("default"))) extern const struct engine_ops usher_engine;
const struct engine_ops usher_engine = {
    .abi = ENGINE_ABI,
    .size = sizeof(struct engine_ops),
    .name = "qos",
    .stage = STAGE_QOS,
    .caps = ENGINE_CAP_OUTPUT,
    .layout_version = QOS_LAYOUT,
    .counter_count = QOS_COUNTERS,
    .counters = counters,
    .state_size = state_size,
    .init = init,
    .recover = recover,
    .fini = fini,
    .output = output,
    .run = run,
    .next_deadline = next_deadline,
    .command = qos_command,
    .save = qos_save,
    .load = qos_load,
    .check = qos_check,
};
