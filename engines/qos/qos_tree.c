/* SPDX-License-Identifier: Apache-2.0
 *
 * Trees: specs as control gives them, checked, put in force by one store, and nodes made of them. A tree is checked
 * whole before COMMIT and again by recover(), so what builds nodes trusts it.
 */
#include <errno.h>

#include "engines/qos/qos.h"

/* ---- staging ---- */

static uint32_t staged(const struct qos_state *st) {
    return 1 - st->active;
}

void qos_tree_begin(struct qos_state *st, const struct qos_tree *tree) {
    struct arena_table *t = qos_specs(st, staged(st));
    for (uint32_t i = 0; i < t->high_water; i++)
        qos_spec(st, staged(st), i)->r.generation = 0;
    t->high_water = 0;
    t->live = 0;
    t->free_head = ARENA_NIL;
    st->tree[staged(st)] = *tree;
}

static const char *rate_wrong(uint64_t rate) {
    return rate != 0 && (rate < QOS_RATE_MIN || rate > QOS_RATE_MAX) ? "a rate is out of range" : NULL;
}

static const char *node_wrong(const struct qos_spec *s, uint32_t id) {
    if ((id == 0) != (s->parent == QOS_NONE))
        return "node 0, and it alone, is the root";
    if (id != 0 && s->parent >= id)
        return "a parent comes before its children";
    if (s->weight == 0 || s->weight > QOS_WEIGHT_MAX)
        return "a weight is out of range";
    if (s->max_rate != 0 && s->min_rate > s->max_rate)
        return "a guarantee is above its own ceiling";
    if (s->each >= QOS_EACHES)
        return "a leaf has a line for each flow, user, cgroup or program";
    if (s->burst > QOS_RATE_MAX)
        return "a burst is out of range";
    return rate_wrong(s->min_rate) != NULL ? rate_wrong(s->min_rate) : rate_wrong(s->max_rate);
}

int qos_tree_add(struct qos_state *st, const struct qos_cmd_node *c, char *err, size_t err_size) {
    struct arena_table *t = qos_specs(st, staged(st));
    struct qos_spec wanted = {.parent = c->parent,
                              .weight = c->weight,
                              .each = c->each,
                              .queue_bytes = c->queue_bytes,
                              .min_rate = c->min_rate,
                              .max_rate = c->max_rate,
                              .burst = c->burst,
                              .key = c->key};
    const char *wrong = c->id == t->high_water ? node_wrong(&wanted, c->id) : "ids come in order";
    if (wrong != NULL) {
        engine_say(err, err_size, wrong);
        return -EINVAL;
    }
    uint32_t id;
    struct qos_spec *s = (struct qos_spec *)arena_take(st, t, &id);
    if (s == NULL)
        return -ENOSPC;
    wanted.r = s->r;
    *s = wanted;
    arena_publish(t, s);
    return 0;
}

/* ---- judging ---- */

/* Top down: what children say of their parents. */
static const char *family_wrong(struct qos_state *st, uint32_t tree, uint32_t count) {
    for (uint32_t id = 0; id < count; id++) {
        struct qos_spec *s = (struct qos_spec *)arena_lookup(st, qos_specs(st, tree), id);
        if (s == NULL)
            return "a node is missing";
        const char *wrong = node_wrong(s, id);
        if (wrong != NULL)
            return wrong;
        s->children = 0;
        s->below = 0;
        s->lightest = QOS_WEIGHT_MAX;
        s->heaviest = 1;
        s->depth = 1;
        if (id == 0)
            continue;
        struct qos_spec *parent = qos_spec(st, tree, s->parent);
        parent->children++;
        parent->lightest = s->weight < parent->lightest ? s->weight : parent->lightest;
        parent->heaviest = s->weight > parent->heaviest ? s->weight : parent->heaviest;
        s->depth = parent->depth + 1;
        if (s->depth > QOS_DEPTH_MAX)
            return "the tree is too deep";
    }
    return NULL;
}

/* Bottom up: a node guarantees at least what its children do together. */
static const char *guarantees_wrong(struct qos_state *st, uint32_t tree, uint32_t count) {
    for (uint32_t id = count; id-- > 0;) {
        struct qos_spec *s = qos_spec(st, tree, id);
        s->guarantee = s->below > s->min_rate ? s->below : s->min_rate;
        if (s->max_rate != 0 && s->guarantee > s->max_rate)
            return "the guarantees of its children are above a node's ceiling";
        if (id != 0)
            qos_spec(st, tree, s->parent)->below += s->guarantee;
    }
    return NULL;
}

const char *qos_tree_wrong(struct qos_state *st, uint32_t tree) {
    uint32_t count = qos_specs(st, tree)->high_water;
    if (count == 0)
        return "a tree has a root";
    const char *wrong = family_wrong(st, tree, count);
    if (wrong != NULL)
        return wrong;
    uint32_t fallback = st->tree[tree].fallback;
    if (fallback >= count || qos_spec(st, tree, fallback)->children != 0)
        return "the fallback is no leaf";
    return guarantees_wrong(st, tree, count);
}

int qos_tree_commit(struct qos_state *st, ns_t now, char *err, size_t err_size) {
    const char *wrong = qos_tree_wrong(st, staged(st));
    if (wrong != NULL) {
        engine_say(err, err_size, wrong);
        return -EINVAL;
    }
    arena_barrier();
    st->active = staged(st);
    qos_tree_begin(st, &(struct qos_tree){0}); /* a second COMMIT finds nothing */
    qos_tree_build(st, now);
    return 0;
}

/* ---- nodes ---- */

/* The credit or debt that was there stays, in bytes. */
static void bucket_set(struct qos_bucket *b, uint64_t rate, uint64_t burst, ns_t now) {
    uint64_t before = b->cost;
    if (b->ready + b->depth < now)
        b->ready = now - b->depth;
    b->cost = rate == 0 ? 0 : (NS_PER_SEC << QOS_BUCKET_SHIFT) / rate;
    b->depth = rate == 0 ? 0 : (ns_t)((hash_u128)burst * NS_PER_SEC / rate);
    if (before == 0 || rate == 0) {
        b->ready = now > b->depth ? now - b->depth : 0;
    } else if (b->ready > now) {
        b->ready = now + (ns_t)((hash_u128)(b->ready - now) * b->cost / before);
    } else {
        ns_t credit = (ns_t)((hash_u128)(now - b->ready) * b->cost / before);
        b->ready = now > credit ? now - credit : 0;
    }
}

static uint64_t burst_of(uint64_t rate, uint64_t wanted) {
    if (wanted != 0)
        return wanted;
    return rate / 1000 > QOS_BURST_MIN ? rate / 1000 : QOS_BURST_MIN;
}

/* The root's guarantee would be one against nobody. */
static void node_rates(struct qos_node *n, const struct qos_spec *s, ns_t now) {
    bucket_set(&n->ceiling, s->max_rate, burst_of(s->max_rate, s->burst), now);
    bucket_set(&n->guarantee, s->parent == QOS_NONE ? 0 : s->guarantee, burst_of(s->guarantee, 0), now);
}

/* A large quantum would hold the siblings of a heavy node up, a tiny one have a light node visited in vain. */
static uint32_t quantum_of(struct qos_state *st, const struct qos_spec *s) {
    if (s->parent == QOS_NONE)
        return QOS_UNIT * QOS_FINE;
    const struct qos_spec *parent = qos_spec(st, st->active, s->parent);
    uint32_t most = parent->lightest * QOS_FINE;
    return QOS_UNIT * QOS_FINE * s->weight / (parent->heaviest < most ? parent->heaviest : most);
}

static void node_make(struct qos_state *st, uint32_t id, ns_t now) {
    struct qos_node *n = qos_node(st, id);
    const struct qos_spec *s = qos_spec(st, st->active, id);
    if (n->key != s->key && n->waiting == 0)
        memset(n, 0, sizeof *n);
    n->key = s->key;
    n->parent = s->parent;
    n->state = QOS_IDLE;
    n->green = false;
    n->leaf = s->children == 0;
    n->first[QOS_GREEN] = QOS_NIL;
    if (n->waiting == 0)
        n->first[QOS_SHARE] = QOS_NIL;
    n->each = (uint8_t)s->each;
    n->quantum = quantum_of(st, s);
    n->queue_bytes = s->queue_bytes != 0 ? s->queue_bytes : QOS_QUEUE_BYTES;
    node_rates(n, s, now);
}

/* What waits in leaves that the new tree has not. A former inner node's ring holds nodes, never flows. */
static void leaves_empty(struct qos_state *st, uint32_t count) {
    uint32_t fallback = st->tree[st->active].fallback;
    for (uint32_t id = 0; id < st->node_count; id++) {
        const struct qos_spec *s = id < count ? qos_spec(st, st->active, id) : NULL;
        bool stays = s != NULL && s->children == 0 && s->key == qos_node(st, id)->key;
        if (!stays && id != fallback && qos_node(st, id)->leaf)
            qos_flows_move(st, id, fallback);
    }
}

/* Costs some 20 ns a node, and 20 a flow that has to move. */
void qos_tree_build(struct qos_state *st, ns_t now) {
    uint32_t count = qos_specs(st, st->active)->high_water;
    struct qos_node *fallback = qos_node(st, st->tree[st->active].fallback);
    wheel_init(&st->wheel, arena_at(st, st->timer_lines), sizeof(struct wheel_node), 10);
    memset(arena_at(st, st->timer_lines), 0, (size_t)st->cfg.node_max * QOS_TIMERS * sizeof(struct wheel_node));
    for (uint32_t id = st->node_count; id < count; id++)
        memset(qos_node(st, id), 0, sizeof(struct qos_node));
    if (fallback->waiting == 0)
        fallback->first[QOS_SHARE] = QOS_NIL;
    leaves_empty(st, count);
    st->node_count = count;
    for (uint32_t id = 0; id < count; id++)
        node_make(st, id, now);
    for (uint32_t id = 0; id < count; id++) {
        if (qos_node(st, id)->leaf && qos_node(st, id)->waiting > 0)
            qos_node_activate(st, id, now);
    }
    const struct qos_node *root = qos_node(st, 0);
    st->open = root->leaf && root->ceiling.cost == 0 && root->waiting == 0;
}

/* One node without limits. */
void qos_tree_default(struct qos_state *st) {
    const struct qos_tree all = {.fallback = 0};
    const struct qos_cmd_node root = {.parent = QOS_NONE, .weight = 1};
    char err[64];
    qos_tree_begin(st, &all);
    int error = qos_tree_add(st, &root, err, sizeof err);
    CHECK(error == 0);
    error = qos_tree_commit(st, 0, err, sizeof err);
    CHECK(error == 0);
}
