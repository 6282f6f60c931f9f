/* SPDX-License-Identifier: Apache-2.0
 *
 * The QoS engine's state. Truth: two trees of specs, the word that says which one is in force, and each owner's leaf.
 * Everything that schedules is derived: nodes with their rings and buckets, flows, slots of waiting packets, the wheel.
 *
 * A node that has something to send, and may, is ACTIVE: in its parent's ring of shares, and while it has tokens of its
 * guarantee also in the green ring. At its ceiling it is PARKED, in no ring, until the wheel says so. A tree is served
 * by walking down from the root: the first green child, else the first one whose deficit is above zero.
 *
 * Flows are queues of one leaf, made by their first packet and gone with their last one; where the leaf says so, all
 * that a user, cgroup or program sends is one. Two flows whose keyed hashes agree in 32 bits share a queue: of a
 * million, some hundred. Cost: a packet touches its flow (half a line), its slot
 * (a quarter of one), a hash head, and two lines of each node on its way; its own lines only when it comes in.
 */
#ifndef USHER_ENGINES_QOS_QOS_H
#define USHER_ENGINES_QOS_QOS_H

#include "engines/arena.h"
#include "engines/engine.h"
#include "engines/hash.h"
#include "engines/qos/qos_cmd.h"
#include "engines/wheel.h"

#define QOS_LAYOUT (3u + ARENA_LAYOUT_STEP)
#define QOS_NIL    UINT32_MAX
#define QOS_UNIT   1536u /* bytes: quantum of a flow, and of the heaviest node among its siblings... */
#define QOS_FINE                                                                                                       \
    16u /* ...unless the lightest one had less than this part of it. Deficits count in this part
                                  of a byte, so that small quanta are exact to 0.1 % */
#define QOS_BURST_MIN    32768u
#define QOS_QUEUE_BYTES  (1u << 20)
#define QOS_BUCKET_SHIFT 24
#define QOS_OVERHEAD_MAX 1024u
#define QOS_WAKE_NS      (250 * NS_PER_US) /* credit that a parked node gathers before it sends again, at most */

enum qos_counter {
    QOS_COUNT_PACKETS,
    QOS_COUNT_BYTES,
    QOS_COUNT_DROPS,
    QOS_COUNT_PARKED,
    QOS_COUNT_PASSED,
    QOS_COUNTERS
};

struct qos_spec {
    struct arena_record r;
    uint32_t parent;
    uint32_t weight;
    uint32_t queue_bytes;
    uint32_t each; /* enum qos_each */
    uint64_t min_rate;
    uint64_t max_rate;
    uint64_t burst;
    uint64_t key; /* who it is, across trees */
    /* derived by qos_tree_wrong() */
    uint64_t guarantee; /* its own, or its children's sum when that is more */
    uint64_t below;     /* that sum */
    uint32_t children;
    uint32_t lightest, heaviest; /* weight among them */
    uint32_t depth;
};

/* One tree beside its specs. */
struct qos_tree {
    uint32_t fallback;
    uint32_t overhead;
};

/* Full when `ready` lies `depth` back, empty when it is now; in the future: in debt. */
struct qos_bucket {
    ns_t ready;
    uint64_t cost; /* of a byte, in ns << QOS_BUCKET_SHIFT; 0 = no limit */
    ns_t depth;
    uint64_t rest; /* of the last charge: less than a nanosecond */
};

enum qos_node_state { QOS_IDLE, QOS_ACTIVE, QOS_PARKED };
enum qos_ring { QOS_SHARE, QOS_GREEN, QOS_RINGS };
enum qos_timer { QOS_TIMER_CEILING, QOS_TIMER_GUARANTEE, QOS_TIMERS };

struct qos_link {
    uint32_t next, prev;
};

struct qos_node {
    /* line 0: whose turn it is */
    uint32_t parent;
    uint32_t first[QOS_RINGS]; /* of its children; of a leaf [QOS_SHARE] is its last flow, whose next is the first */
    struct qos_link link[QOS_RINGS]; /* among its siblings */
    uint8_t state;                   /* enum qos_node_state */
    bool leaf;
    bool green;   /* in the green ring */
    uint8_t each; /* enum qos_each: who a flow of this leaf is */
    int32_t deficit;
    uint32_t quantum;
    uint32_t turn;    /* of a leaf: the flow that sends next, so that the last one need not be asked */
    uint32_t waiting; /* packets of a leaf */
    uint64_t waiting_bytes;
    uint32_t large_waiting; /* packets, of `waiting` */
    uint32_t queue_bytes;
    /* line 1: what it has sent, and may */
    uint64_t bytes;
    uint64_t packets;
    struct qos_bucket ceiling;
    uint64_t drops;
    uint64_t key; /* of the spec it was made of */
    /* line 2: only nodes that have one */
    struct qos_bucket guarantee;
    uint64_t pad2[4];
};
STATIC_ASSERT(sizeof(struct qos_node) == 3 * CACHE_LINE, "two lines to schedule, one that few have");
STATIC_ASSERT(offsetof(struct qos_node, bytes) == CACHE_LINE, "line 0 says whose turn it is");

struct qos_flow {
    uint32_t chain; /* next in its hash chain */
    uint32_t next;  /* in its leaf's ring, or free */
    uint32_t hash;
    uint32_t leaf;
    uint32_t head, tail; /* slots */
    uint32_t bytes;
    int32_t deficit;
};
STATIC_ASSERT(sizeof(struct qos_flow) == CACHE_LINE / 2, "two flows a line");

struct qos_slot {
    struct pkt *pkt;
    uint32_t bytes : 31;
    uint32_t large : 1;
    uint32_t next;
};

struct qos_state {
    struct arena_header a;
    struct qos_config cfg;
    struct qos_tree tree[2];
    uint32_t active;      /* the one store that puts a tree in force */
    uint32_t owner_lines; /* a qos_owner each, but with leaf + 1, 0 = none. Truth: the leaf is written last, in one
                             store, and whoever the rest says it is moves no packet to another leaf */
    uint32_t node_lines, flow_lines, slot_lines, head_lines, timer_lines; /* places of what is derived */
    uint32_t head_mask;
    /* derived */
    uint32_t node_count;
    uint32_t flow_free, slot_free, flow_used, slot_used; /* `used`: never given out beyond it */
    uint32_t waiting;
    uint32_t large_waiting; /* of them */
    bool open; /* one node without limits */
    struct hash_key key;
    struct wheel wheel;
};

static inline struct arena_table *qos_specs(struct qos_state *st, uint32_t tree) {
    return &st->a.table[tree];
}

static inline struct qos_spec *qos_spec(struct qos_state *st, uint32_t tree, uint32_t id) {
    return (struct qos_spec *)arena_record(st, qos_specs(st, tree), id);
}

static inline struct qos_node *qos_node(struct qos_state *st, uint32_t id) {
    return (struct qos_node *)arena_at(st, st->node_lines) + id;
}

static inline struct qos_flow *qos_flow(struct qos_state *st, uint32_t i) {
    return (struct qos_flow *)arena_at(st, st->flow_lines) + i;
}

static inline struct qos_slot *qos_slot(struct qos_state *st, uint32_t i) {
    return (struct qos_slot *)arena_at(st, st->slot_lines) + i;
}

static inline struct qos_owner *qos_owners(struct qos_state *st) {
    return (struct qos_owner *)arena_at(st, st->owner_lines);
}
static inline uint32_t *qos_heads(struct qos_state *st) {
    return (uint32_t *)arena_at(st, st->head_lines);
}

/* qos_tree.c: specs, and nodes made of them */
void qos_tree_begin(struct qos_state *st, const struct qos_tree *tree);
int qos_tree_add(struct qos_state *st, const struct qos_cmd_node *c, char *err, size_t err_size);
int qos_tree_commit(struct qos_state *st, ns_t now, char *err, size_t err_size);
/* The staged or active tree makes sense; NULL, or a sentence that says why not. */
const char *qos_tree_wrong(struct qos_state *st, uint32_t tree);
void qos_tree_default(struct qos_state *st);
void qos_tree_build(struct qos_state *st, ns_t now);

/* qos_flow.c: waiting packets */
void qos_flows_clear(struct qos_state *st);
/* False: the packet was dropped. */
bool qos_flow_push(struct qos_state *st, struct engine_io *io, struct pkt *p, uint32_t leaf, uint32_t hash);
/* Takes the packet whose turn it is from a leaf that has one. */
struct pkt *qos_flow_pop(struct qos_state *st, struct qos_node *leaf, uint32_t *ret_bytes);
/* Hands all flows of a leaf to another one. */
void qos_flows_move(struct qos_state *st, uint32_t from, uint32_t to);

/* Three steps towards a push, each a memory access behind the one before it, and two towards a pop. For bursts: the
 * steps of one packet cannot overlap, those of many can. */
void qos_flow_prefetch_head(struct qos_state *st, uint32_t hash);
void qos_flow_prefetch(struct qos_state *st, uint32_t leaf, uint32_t hash);
void qos_flow_prefetch_tail(struct qos_state *st, uint32_t hash);
void qos_leaf_prefetch(struct qos_state *st, const struct qos_node *leaf);
void qos_leaf_prefetch_head(struct qos_state *st, const struct qos_node *leaf);

/* qos_sched.c: who is next */
void qos_node_activate(struct qos_state *st, uint32_t id, ns_t now);
uint32_t qos_send(struct qos_state *st, struct engine_io *io, uint32_t budget);
uint32_t qos_wake(struct qos_state *st, struct engine_io *io, uint32_t budget);
ns_t qos_deadline(const struct qos_state *st);

/* qos_cmd.c, qos_save.c, qos_check.c */
void qos_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply);
int64_t qos_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size);
int qos_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size);
int qos_owner_set(struct qos_state *st, uint32_t owner, const struct qos_owner *is);
int qos_check(const void *state);

#endif
