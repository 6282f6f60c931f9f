/* SPDX-License-Identifier: Apache-2.0
 *
 * A QoS engine on a bench clock: packets without buffers, owners that always have something to send, and what each of
 * them got. For the engine's tests and its bench. Heap memory, one thread.
 */
#ifndef USHER_ENGINES_QOS_QOS_FIXTURE_H
#define USHER_ENGINES_QOS_QOS_FIXTURE_H

#include <stdlib.h>

#include "engines/qos/qos_cmd.h"
#include "engines/testkit.h"

extern const struct engine_ops usher_engine_qos;

struct bed {
    struct testkit *tk;
    struct testkit_engine qos;
    struct pkt *pkts;
    uint32_t count, used;
    struct pkt **free;
    uint32_t free_count;
    uint64_t seed;
    uint32_t owners;
    uint64_t *got; /* bytes by owner */
    uint64_t sent, sent_bytes, dropped;
};

static inline uint32_t bed_random(struct bed *b) {
    b->seed = b->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(b->seed >> 33);
}

/* `small_max`: see qos_config. */
static inline struct bed bed_make_crowded(uint32_t nodes, uint32_t owners, uint32_t packets, uint32_t small_max) {
    struct bed b = {.tk = testkit_create(), .count = packets, .owners = owners, .seed = 1};
    const struct qos_config cfg = {
        .node_max = nodes, .packet_max = packets < 64 ? 64 : packets, .owner_max = owners, .small_max = small_max};
    b.pkts = (struct pkt *)aligned_alloc(CACHE_LINE, (size_t)packets * sizeof *b.pkts);
    b.free = (struct pkt **)calloc(packets, sizeof *b.free);
    b.got = (uint64_t *)calloc(owners, sizeof *b.got);
    CHECK(b.pkts != NULL && b.free != NULL && b.got != NULL);
    testkit_open(&b.qos, &usher_engine_qos, &cfg, 1);
    return b;
}

/* A leaf may have all packets of the bed. */
static inline struct bed bed_make(uint32_t nodes, uint32_t owners, uint32_t packets) {
    return bed_make_crowded(nodes, owners, packets, 2 * packets + 1);
}

static inline void bed_end(struct bed *b) {
    free(b->qos.st);
    free(b->pkts);
    free(b->free);
    free(b->got);
    testkit_destroy(b->tk);
}

/* A packet of `bytes` for flow number `flow` of `owner`; NULL when all of them wait. */
static inline struct pkt *bed_packet(struct bed *b, uint32_t owner, uint32_t flow, uint32_t bytes) {
    struct pkt *p = b->free_count > 0 ? b->free[--b->free_count] : NULL;
    if (p == NULL && b->used == b->count)
        return NULL;
    if (p == NULL) {
        p = &b->pkts[b->used++];
        memset(p, 0, sizeof *p);
    }
    p->len = bytes;
    p->owner = owner;
    p->flow.local.d[0] = flow;
    p->flow.local_port = (uint16_t)owner;
    p->flow.proto = 17;
    return p;
}

static inline void bed_send(struct bed *b, uint32_t owner, uint32_t flow, uint32_t bytes) {
    struct pkt *p = bed_packet(b, owner, flow, bytes);
    CHECK(p != NULL);
    testkit_output(b->tk, &b->qos, &p, 1);
}

/* Counts what left, puts it back, and tells `again` (may be NULL) about each. */
static inline void bed_settle(struct bed *b, void (*again)(struct bed *b, struct pkt *p)) {
    struct pkt *left[PKT_VEC_MAX];
    uint32_t n = b->tk->down.count;
    memcpy(left, b->tk->down.v, n * sizeof left[0]);
    b->tk->down.count = 0;
    for (uint32_t i = 0; i < b->tk->drop.count; i++)
        b->free[b->free_count++] = b->tk->drop.v[i];
    b->dropped += b->tk->drop.count;
    b->tk->drop.count = 0;
    for (uint32_t i = 0; i < n; i++) {
        b->got[left[i]->owner] += left[i]->len;
        b->sent++;
        b->sent_bytes += left[i]->len;
        b->free[b->free_count++] = left[i];
        if (again != NULL)
            again(b, left[i]);
    }
}

/* One turn of a worker, then on to when the engine has something to do, or a little later. */
static inline void bed_turn(struct bed *b, void (*again)(struct bed *b, struct pkt *p), uint32_t late_ns) {
    (void)testkit_run(b->tk, &b->qos, PKT_BURST);
    bed_settle(b, again);
    ns_t at = b->qos.ops->next_deadline(b->qos.st);
    if (at == NS_NEVER || at <= b->tk->io.now)
        at = b->tk->io.now + 200;
    b->tk->io.now = at + (late_ns > 0 ? bed_random(b) % late_ns : 0);
}

static inline void bed_begin(struct bed *b, uint32_t fallback, uint32_t overhead) {
    struct qos_cmd_begin c = {
        .cmd = {QOS_CMD_BEGIN, sizeof c}, .fallback = fallback, .overhead = overhead};
    CHECK(testkit_command(b->tk, &b->qos, &c).error == 0);
}

static inline int bed_node(struct bed *b, uint32_t id, uint32_t parent, uint32_t weight, uint64_t min_rate,
                           uint64_t max_rate) {
    struct qos_cmd_node c = {.cmd = {QOS_CMD_NODE, sizeof c},
                             .id = id,
                             .parent = parent,
                             .weight = weight,
                             .min_rate = min_rate,
                             .max_rate = max_rate};
    return testkit_command(b->tk, &b->qos, &c).error;
}

static inline int bed_commit(struct bed *b) {
    struct qos_cmd_commit c = {.cmd = {QOS_CMD_COMMIT, sizeof c}};
    return testkit_command(b->tk, &b->qos, &c).error;
}

static inline int bed_owner(struct bed *b, uint32_t owner, uint32_t id) {
    struct qos_cmd_owner c = {.cmd = {QOS_CMD_OWNER, sizeof c}, .owner = owner, .is = {.leaf = id}};
    return testkit_command(b->tk, &b->qos, &c).error;
}

static inline struct qos_stat bed_stat(struct bed *b, uint32_t id) {
    struct qos_stat s = {0};
    struct qos_cmd_stats c = {.cmd = {QOS_CMD_STATS, sizeof c}, .first = id, .count = 1, .stats = &s};
    CHECK(testkit_command(b->tk, &b->qos, &c).value == 1);
    return s;
}

#endif
