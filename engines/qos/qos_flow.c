/* SPDX-License-Identifier: Apache-2.0
 *
 * Queues of waiting packets, one for each flow of a leaf, served in turn by deficit. Slots hold the pointer and the
 * wire bytes, so that sending a packet does not touch it. A flow that runs empty is gone, and with it what it may owe:
 * fairness between the flows of one leaf is a courtesy, between owners it is kept by the nodes.
 *
 * Who is cut: a flow that lets more wait than its leaf's queue_bytes, but never a stream, of which at most its window
 * waits, and which would send again what was dropped. And whoever comes when his leaf holds as many buffers as are left
 * for the others: a sender's credit bounds what waits of a socket, nothing bounds how many sockets he opens.
 */
#include "engines/qos/qos.h"
#include "engines/wire.h"

#define FRAME_MIN 60u
#define WIRE_MAX  ((1u << 20) - 1) /* a bucket can take no more at once; only tiny segment sizes get there */

void qos_flows_clear(struct qos_state *st) {
    memset(qos_heads(st), 0, ((size_t)st->head_mask + 1) * sizeof(uint32_t));
    st->flow_free = st->slot_free = QOS_NIL;
    st->flow_used = st->slot_used = 0;
    st->waiting = st->large_waiting = 0;
}

/* ---- wire bytes ---- */

/* Bytes in front of the payload of each segment, 0 when the packet does not say. */
static uint32_t header_bytes(const struct pkt *p) {
    uint32_t first = (uint32_t)(p->data - p->buf), bytes = UDP_LEN;
    if (p->l4_off < first || p->l4_off + TCP_LEN > first + p->len)
        return 0;
    if (p->flow.proto == PROTO_TCP)
        bytes = (uint32_t)(pkt_l4(p)[12] >> 4) * 4;
    return p->l4_off - first + bytes;
}

static uint32_t wire_bytes(const struct pkt *p, uint32_t overhead) {
    uint32_t bytes = pkt_bytes(p), segments = 1;
    if (UNLIKELY((p->flags & PKT_GSO) != 0 && p->gso_size != 0)) {
        uint32_t header = header_bytes(p);
        uint32_t payload = bytes > header ? bytes - header : 0;
        segments = payload > p->gso_size ? (payload + p->gso_size - 1) / p->gso_size : 1;
        bytes += (segments - 1) * header;
    }
    if (overhead != 0 && bytes < FRAME_MIN)
        bytes = FRAME_MIN;
    bytes += segments * overhead;
    return bytes < WIRE_MAX ? bytes : WIRE_MAX;
}

/* ---- the table ---- */

static uint32_t *chain_head(struct qos_state *st, uint32_t hash) {
    return &qos_heads(st)[hash & st->head_mask];
}

void qos_flow_prefetch_head(struct qos_state *st, uint32_t hash) {
    __builtin_prefetch(chain_head(st, hash));
}

void qos_flow_prefetch(struct qos_state *st, uint32_t leaf, uint32_t hash) {
    uint32_t at = *chain_head(st, hash);
    if (at != 0)
        __builtin_prefetch(qos_flow(st, at - 1), 1);
    __builtin_prefetch(qos_node(st, leaf), 1);
}

/* A guess: the first flow of the chain is the one, which it nearly always is. */
void qos_flow_prefetch_tail(struct qos_state *st, uint32_t hash) {
    uint32_t at = *chain_head(st, hash);
    if (at != 0 && qos_flow(st, at - 1)->tail != QOS_NIL)
        __builtin_prefetch(qos_slot(st, qos_flow(st, at - 1)->tail), 1);
}

void qos_leaf_prefetch(struct qos_state *st, const struct qos_node *leaf) {
    __builtin_prefetch(qos_flow(st, leaf->turn), 1);
    __builtin_prefetch(&leaf->bytes, 1);
}

void qos_leaf_prefetch_head(struct qos_state *st, const struct qos_node *leaf) {
    __builtin_prefetch(qos_slot(st, qos_flow(st, leaf->turn)->head), 1);
}

static struct qos_flow *flow_find(struct qos_state *st, uint32_t leaf, uint32_t hash) {
    for (uint32_t at = *chain_head(st, hash); at != 0;) {
        struct qos_flow *f = qos_flow(st, at - 1);
        if (f->hash == hash && f->leaf == leaf)
            return f;
        at = f->chain;
    }
    return NULL;
}

/* Cannot fail: a flow has a packet, and there are as many flows as slots. */
static struct qos_flow *flow_make(struct qos_state *st, uint32_t leaf, uint32_t hash) {
    uint32_t i = st->flow_free;
    if (i != QOS_NIL)
        st->flow_free = qos_flow(st, i)->next;
    else
        i = st->flow_used++;
    struct qos_flow *f = qos_flow(st, i);
    uint32_t *head = chain_head(st, hash);
    *f = (struct qos_flow){
        .chain = *head, .hash = hash, .leaf = leaf, .head = QOS_NIL, .tail = QOS_NIL, .deficit = QOS_UNIT};
    *head = i + 1;
    struct qos_node *n = qos_node(st, leaf);
    if (n->first[QOS_SHARE] == QOS_NIL) {
        f->next = i;
        n->turn = i;
    } else {
        struct qos_flow *last = qos_flow(st, n->first[QOS_SHARE]);
        f->next = last->next;
        last->next = i;
    }
    n->first[QOS_SHARE] = i;
    return f;
}

static void flow_free(struct qos_state *st, uint32_t i) {
    struct qos_flow *f = qos_flow(st, i);
    uint32_t *at = chain_head(st, f->hash);
    while (*at != i + 1)
        at = &qos_flow(st, *at - 1)->chain;
    *at = f->chain;
    f->next = st->flow_free;
    st->flow_free = i;
}

static uint32_t slot_take(struct qos_state *st) {
    uint32_t i = st->slot_free;
    if (i != QOS_NIL)
        st->slot_free = qos_slot(st, i)->next;
    else if (st->slot_used < st->cfg.packet_max)
        i = st->slot_used++;
    return i;
}

/* ---- in and out ---- */

static bool refuse(struct engine_io *io, struct pkt *p, struct qos_node *n, enum drop_reason why) {
    n->drops++;
    ENGINE_COUNT(io, QOS_COUNT_DROPS);
    pkt_drop(io, p, why);
    return false;
}

/* Not `<`: a leaf may have one of each when all are taken. */
static bool crowded(const struct qos_state *st, const struct qos_node *n, bool large) {
    uint32_t here = large ? n->large_waiting : n->waiting - n->large_waiting;
    uint32_t all = large ? st->large_waiting : st->waiting - st->large_waiting;
    uint32_t most = large ? st->cfg.large_max : st->cfg.small_max;
    return here > 0 && here + all >= most;
}

bool qos_flow_push(struct qos_state *st, struct engine_io *io, struct pkt *p, uint32_t leaf, uint32_t hash) {
    struct qos_node *n = qos_node(st, leaf);
    struct qos_flow *f = flow_find(st, leaf, hash);
    uint32_t bytes = wire_bytes(p, st->tree[st->active].overhead);
    if (f != NULL && p->flow.proto != PROTO_TCP && f->bytes + bytes > n->queue_bytes)
        return refuse(io, p, n, DROP_QOS_QUEUE);
    bool large = (p->flags & PKT_GSO) != 0;
    if (UNLIKELY(crowded(st, n, large)))
        return refuse(io, p, n, DROP_QOS_CROWD);
    uint32_t slot = slot_take(st);
    if (UNLIKELY(slot == QOS_NIL))
        return refuse(io, p, n, DROP_ENGINE_LIMIT);
    if (f == NULL)
        f = flow_make(st, leaf, hash);
    *qos_slot(st, slot) = (struct qos_slot){.pkt = p, .bytes = bytes & INT32_MAX, .large = large, .next = QOS_NIL};
    if (f->head == QOS_NIL)
        f->head = slot;
    else
        qos_slot(st, f->tail)->next = slot;
    f->tail = slot;
    f->bytes += bytes;
    n->waiting++;
    n->waiting_bytes += bytes;
    n->large_waiting += large;
    st->waiting++;
    st->large_waiting += large;
    return true;
}

/* To take a turn is to become the last one. */
static void turn_end(struct qos_node *leaf, uint32_t i, struct qos_flow *f) {
    f->deficit += QOS_UNIT;
    leaf->first[QOS_SHARE] = i;
    leaf->turn = f->next;
}

static void flow_leave(struct qos_state *st, struct qos_node *leaf, uint32_t i, const struct qos_flow *f) {
    leaf->turn = f->next;
    if (leaf->first[QOS_SHARE] == i)
        leaf->first[QOS_SHARE] = QOS_NIL;
    else
        qos_flow(st, leaf->first[QOS_SHARE])->next = f->next;
    flow_free(st, i);
}

/* A turn ends when the flow has used it up, while its line is at hand, and not when it comes by again. */
struct pkt *qos_flow_pop(struct qos_state *st, struct qos_node *leaf, uint32_t *ret_bytes) {
    uint32_t i = leaf->turn;
    struct qos_flow *f = qos_flow(st, i);
    while (UNLIKELY(f->deficit <= 0)) { /* it has sent a giant */
        turn_end(leaf, i, f);
        i = leaf->turn;
        f = qos_flow(st, i);
    }
    uint32_t at = f->head;
    struct qos_slot *slot = qos_slot(st, at);
    struct pkt *p = slot->pkt;
    *ret_bytes = slot->bytes;
    f->head = slot->next;
    f->bytes -= slot->bytes;
    f->deficit -= (int32_t)slot->bytes;
    leaf->waiting--;
    leaf->waiting_bytes -= slot->bytes;
    leaf->large_waiting -= slot->large;
    st->large_waiting -= slot->large;
    slot->next = st->slot_free;
    st->slot_free = at;
    st->waiting--;
    if (f->head == QOS_NIL)
        flow_leave(st, leaf, i, f);
    else if (f->deficit <= 0)
        turn_end(leaf, i, f);
    return p;
}

void qos_flows_move(struct qos_state *st, uint32_t from, uint32_t to) {
    struct qos_node *a = qos_node(st, from), *b = qos_node(st, to);
    if (a->waiting == 0)
        return;
    uint32_t i = a->first[QOS_SHARE];
    do {
        qos_flow(st, i)->leaf = to;
        i = qos_flow(st, i)->next;
    } while (i != a->first[QOS_SHARE]);
    if (b->first[QOS_SHARE] != QOS_NIL) { /* two rings become one when their last ones swap what follows */
        uint32_t first = qos_flow(st, b->first[QOS_SHARE])->next;
        qos_flow(st, b->first[QOS_SHARE])->next = qos_flow(st, a->first[QOS_SHARE])->next;
        qos_flow(st, a->first[QOS_SHARE])->next = first;
    }
    b->first[QOS_SHARE] = a->first[QOS_SHARE];
    b->turn = qos_flow(st, b->first[QOS_SHARE])->next;
    b->waiting += a->waiting;
    b->waiting_bytes += a->waiting_bytes;
    b->large_waiting += a->large_waiting;
    a->first[QOS_SHARE] = QOS_NIL;
    a->waiting = 0;
    a->waiting_bytes = 0;
    a->large_waiting = 0;
}
