/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is next. Deficit round robin by weight at every node, guarantees before shares, ceilings by parking. A packet
 * may be larger than a quantum (64 KiB of a stream): a node sends while its deficit is above zero and owes what it
 * overdrew, also over an idle time, so that sending one giant at a time wins nothing. Quanta are at least QOS_UNIT /
 * QOS_FINE: a full-sized packet costs at most that many visits that find nothing to send, and two on average with
 * weights 1:2:4:8.
 */
#include "engines/qos/qos.h"

#define AHEAD_BELOW 16u /* leaves of one inner node that are looked at ahead of time */

static bool bucket_empty(const struct qos_bucket *b, ns_t now) {
    return b->ready > now;
}

static void bucket_charge(struct qos_bucket *b, ns_t now, uint32_t bytes) {
    if (b->ready + b->depth < now) {
        b->ready = now - b->depth;
        b->rest = 0;
    }
    uint64_t cost = bytes * b->cost + b->rest; /* below 2^64: 2^20 bytes at QOS_RATE_MIN */
    b->ready += cost >> QOS_BUCKET_SHIFT;
    b->rest = cost & ((1u << QOS_BUCKET_SHIFT) - 1);
}

/* Not at the first token: each wake-up would send one packet. A late wake-up loses nothing before `depth` is full. */
static ns_t bucket_wake(const struct qos_bucket *b) {
    ns_t gather = b->depth / 4;
    return b->ready + (gather < QOS_WAKE_NS ? gather : QOS_WAKE_NS);
}

static void timer_arm(struct qos_state *st, uint32_t id, enum qos_timer timer, ns_t at) {
    wheel_arm(&st->wheel, id * QOS_TIMERS + timer, at);
}

/* ---- rings ---- */

static void ring_append(struct qos_state *st, uint32_t id, enum qos_ring ring) {
    struct qos_node *n = qos_node(st, id);
    if (n->parent == QOS_NONE)
        return;
    uint32_t *first = &qos_node(st, n->parent)->first[ring];
    if (*first == QOS_NIL) {
        n->link[ring] = (struct qos_link){id, id};
        *first = id;
        return;
    }
    struct qos_link *l = &qos_node(st, *first)->link[ring];
    n->link[ring] = (struct qos_link){*first, l->prev};
    qos_node(st, l->prev)->link[ring].next = id;
    l->prev = id;
}

static void ring_remove(struct qos_state *st, uint32_t id, enum qos_ring ring) {
    struct qos_node *n = qos_node(st, id);
    if (n->parent == QOS_NONE)
        return;
    uint32_t *first = &qos_node(st, n->parent)->first[ring];
    struct qos_link l = n->link[ring];
    if (l.next == id) {
        *first = QOS_NIL;
        return;
    }
    qos_node(st, l.prev)->link[ring].next = l.next;
    qos_node(st, l.next)->link[ring].prev = l.prev;
    if (*first == id)
        *first = l.next;
}

static bool has_work(const struct qos_node *n) {
    return n->leaf ? n->waiting > 0 : n->first[QOS_SHARE] != QOS_NIL;
}

/* ---- states ---- */

static void green_end(struct qos_state *st, uint32_t id, struct qos_node *n) {
    ring_remove(st, id, QOS_GREEN);
    n->green = false;
}

static void green_try(struct qos_state *st, uint32_t id, struct qos_node *n, ns_t now) {
    if (bucket_empty(&n->guarantee, now)) {
        timer_arm(st, id, QOS_TIMER_GUARANTEE, bucket_wake(&n->guarantee));
        return;
    }
    ring_append(st, id, QOS_GREEN);
    n->green = true;
}

static void node_leave(struct qos_state *st, uint32_t id, struct qos_node *n) {
    ring_remove(st, id, QOS_SHARE);
    if (n->green)
        green_end(st, id, n);
    n->state = QOS_IDLE;
}

static void node_park(struct qos_state *st, uint32_t id, struct qos_node *n) {
    n->state = QOS_PARKED;
    timer_arm(st, id, QOS_TIMER_CEILING, bucket_wake(&n->ceiling));
}

/* An idle node has work: into the rings or the wheel, and its ancestors with it. */
void qos_node_activate(struct qos_state *st, uint32_t id, ns_t now) {
    for (; id != QOS_NONE; id = qos_node(st, id)->parent) {
        struct qos_node *n = qos_node(st, id);
        if (n->state != QOS_IDLE)
            return;
        if (n->ceiling.cost != 0 && bucket_empty(&n->ceiling, now)) {
            node_park(st, id, n);
            return;
        }
        n->state = QOS_ACTIVE;
        n->deficit = (n->deficit < 0 ? n->deficit : 0) + (int32_t)n->quantum;
        ring_append(st, id, QOS_SHARE);
        if (n->guarantee.cost != 0)
            green_try(st, id, n, now);
    }
}

/* After `bytes` left through it. Bottom up: a child has taken itself out of the rings before its parent looks. */
static void node_charge(struct qos_state *st, struct engine_io *io, uint32_t id, struct qos_node *n, uint32_t bytes) {
    n->bytes += bytes;
    n->packets++;
    if (n->green)
        bucket_charge(&n->guarantee, io->now, bytes);
    else if (n->parent != QOS_NONE)
        n->deficit -= (int32_t)(bytes * QOS_FINE);
    if (n->ceiling.cost != 0)
        bucket_charge(&n->ceiling, io->now, bytes);
    if (UNLIKELY(!has_work(n))) {
        node_leave(st, id, n);
    } else if (n->ceiling.cost != 0 && UNLIKELY(bucket_empty(&n->ceiling, io->now))) {
        node_leave(st, id, n);
        node_park(st, id, n);
        ENGINE_COUNT(io, QOS_COUNT_PARKED);
    } else if (n->green && UNLIKELY(bucket_empty(&n->guarantee, io->now))) {
        green_end(st, id, n);
        green_try(st, id, n, io->now);
    }
}

/* ---- the walk ---- */

/* The first child with a deficit above zero; the others get their quantum and go to the end. */
static uint32_t share_next(struct qos_state *st, struct qos_node *parent) {
    for (;;) {
        struct qos_node *n = qos_node(st, parent->first[QOS_SHARE]);
        if (LIKELY(n->deficit > 0))
            return parent->first[QOS_SHARE];
        n->deficit += (int32_t)n->quantum;
        parent->first[QOS_SHARE] = n->link[QOS_SHARE].next;
    }
}

static void send_one(struct qos_state *st, struct engine_io *io) {
    uint32_t id = 0, bytes;
    struct qos_node *n = qos_node(st, 0);
    while (!n->leaf) {
        id = n->first[QOS_GREEN] != QOS_NIL ? n->first[QOS_GREEN] : share_next(st, n);
        n = qos_node(st, id);
    }
    struct pkt *p = qos_flow_pop(st, n, &bytes);
    (void)pkt_vec_push(io->down, p);
    ENGINE_COUNT(io, QOS_COUNT_PACKETS);
    io->counters[QOS_COUNT_BYTES] += bytes;
    for (; id != QOS_NONE; id = n->parent) {
        n = qos_node(st, id);
        node_charge(st, io, id, n, bytes);
    }
}

/* Leaves whose turn is near, as far as the rings tell: `most` below this node. A wrong guess costs little. */
static uint32_t leaves_ahead(struct qos_state *st, const struct qos_node *parent, uint32_t most, uint32_t *ret_leaves) {
    uint32_t n = 0, id = parent->first[QOS_SHARE];
    for (uint32_t i = 0; i < most && n < most && id != QOS_NIL; i++) {
        const struct qos_node *child = qos_node(st, id);
        if (!child->leaf)
            n += leaves_ahead(st, child, most - n < AHEAD_BELOW ? most - n : AHEAD_BELOW, &ret_leaves[n]);
        else if (child->deficit > 0)
            ret_leaves[n++] = id;
        id = child->link[QOS_SHARE].next;
        if (id == parent->first[QOS_SHARE])
            break;
    }
    return n;
}

static void look_ahead(struct qos_state *st) {
    uint32_t leaves[PKT_BURST];
    uint32_t n = leaves_ahead(st, qos_node(st, 0), PKT_BURST, leaves);
    for (uint32_t i = 0; i < n; i++)
        qos_leaf_prefetch(st, qos_node(st, leaves[i]));
    for (uint32_t i = 0; i < n; i++)
        qos_leaf_prefetch_head(st, qos_node(st, leaves[i]));
}

uint32_t qos_send(struct qos_state *st, struct engine_io *io, uint32_t budget) {
    uint32_t room = pkt_vec_room(io->down), sent = 0;
    budget = budget < room ? budget : room;
    if (qos_node(st, 0)->state == QOS_ACTIVE && !qos_node(st, 0)->leaf)
        look_ahead(st);
    while (sent < budget && qos_node(st, 0)->state == QOS_ACTIVE) {
        send_one(st, io);
        sent++;
    }
    return sent;
}

/* ---- time ---- */

static void timer_fire(struct qos_state *st, struct engine_io *io, uint32_t timer) {
    uint32_t id = timer / QOS_TIMERS;
    struct qos_node *n = qos_node(st, id);
    if (timer % QOS_TIMERS == QOS_TIMER_CEILING) {
        if (n->state != QOS_PARKED)
            return;
        n->state = QOS_IDLE;
        if (has_work(n))
            qos_node_activate(st, id, io->now);
    } else if (n->state == QOS_ACTIVE && !n->green && n->guarantee.cost != 0) {
        green_try(st, id, n, io->now);
    }
}

uint32_t qos_wake(struct qos_state *st, struct engine_io *io, uint32_t budget) {
    uint32_t timer, work = budget;
    while ((timer = wheel_pop(&st->wheel, io->now, &budget)) != WHEEL_NIL)
        timer_fire(st, io, timer);
    return work - budget;
}

ns_t qos_deadline(const struct qos_state *st) {
    const struct qos_node *root = qos_node((struct qos_state *)(uintptr_t)st, 0);
    return root->state == QOS_ACTIVE ? 0 : wheel_next(&st->wheel);
}
