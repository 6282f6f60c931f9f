/* SPDX-License-Identifier: Apache-2.0
 *
 * What comes of the rules that match: limits are asked, counters count, marks are left, tier by tier, as
 * nicbackend/ir/rule.h says it. On the shard's worker. A limit's buckets are this shard's own.
 */
#include "engines/filter/filter.h"

#define NANO 1000000000ull

/* ---- limits ---- */

struct buckets {
    const struct filter_limit *limit;
    struct filter_meter *meter;
    struct filter_bucket *v;
    uint32_t *heads;
};

static struct buckets buckets_of(struct filter_image *img, uint32_t limit) {
    const struct filter_limit *l = (const struct filter_limit *)filter_at(img, FILTER_SEC_LIMITS) + limit;
    return (struct buckets){.limit = l,
                            .meter = (struct filter_meter *)filter_at(img, FILTER_SEC_METERS) + limit,
                            .v = (struct filter_bucket *)filter_at(img, FILTER_SEC_BUCKETS) + l->bucket_first,
                            .heads = (uint32_t *)filter_at(img, FILTER_SEC_HEADS) + l->head_first};
}

/* Takes bucket `n` (index + 1) out of the order of use. */
static void use_remove(struct buckets *b, uint32_t n) {
    struct filter_bucket *k = &b->v[n - 1];
    if (k->newer != 0)
        b->v[k->newer - 1].older = k->older;
    else
        b->meter->newest = k->older;
    if (k->older != 0)
        b->v[k->older - 1].newer = k->newer;
    else
        b->meter->oldest = k->newer;
}

static void use_first(struct buckets *b, uint32_t n) {
    struct filter_bucket *k = &b->v[n - 1];
    k->newer = 0;
    k->older = b->meter->newest;
    if (k->older != 0)
        b->v[k->older - 1].newer = n;
    else
        b->meter->oldest = n;
    b->meter->newest = n;
}

static void chain_remove(struct buckets *b, uint32_t n) {
    uint32_t *at = &b->heads[b->v[n - 1].head];
    while (*at != n)
        at = &b->v[*at - 1].next;
    *at = b->v[n - 1].next;
}

/* The bucket of `source`; else a new one, full, for which the one idle longest makes room. */
static struct filter_bucket *bucket_find(struct buckets *b, const uint64_t *source, uint32_t hash, ns_t now) {
    uint32_t head = hash & b->limit->head_mask, n = b->heads[head];
    while (n != 0 && (b->v[n - 1].source[0] != source[0] || b->v[n - 1].source[1] != source[1]))
        n = b->v[n - 1].next;
    if (n != 0) {
        use_remove(b, n);
        use_first(b, n);
        return &b->v[n - 1];
    }
    if (b->meter->used < b->limit->bucket_count) {
        n = ++b->meter->used;
    } else {
        n = b->meter->oldest;
        use_remove(b, n);
        chain_remove(b, n);
    }
    b->v[n - 1] = (struct filter_bucket){
        .source = {source[0], source[1]}, .level = b->limit->full, .at = now, .next = b->heads[head], .head = head};
    b->heads[head] = n;
    use_first(b, n);
    return &b->v[n - 1];
}

static bool limit_within(struct filter_image *img, uint32_t limit, const struct filter_case *c) {
    struct buckets b = buckets_of(img, limit);
    uint64_t source[2] = {0, 0};
    uint32_t hash = 0;
    if (b.limit->flags & FILTER_LIMIT_PER_SOURCE) {
        memcpy(source, &c->words.w[FILTER_W_SRC], sizeof source);
        hash = hash_fold(&img->key, hash_pair(source[0], img->key.k[0], source[1], img->key.k[1]));
    }
    struct filter_bucket *k = bucket_find(&b, source, hash, c->now);
    hash_u128 level = (hash_u128)(c->now - k->at) * b.limit->rate + k->level;
    k->level = level > b.limit->full ? b.limit->full : (uint64_t)level;
    k->at = c->now;
    hash_u128 cost = (hash_u128)(b.limit->flags & FILTER_LIMIT_BYTES ? c->bytes : 1u) * NANO;
    if (cost > k->level)
        return false;
    k->level -= (uint64_t)cost;
    return true;
}

/* ---- marks and counters ---- */

static void count_at(struct filter_count *c, uint32_t bytes) {
    c->packets++;
    c->bytes += bytes;
}

void filter_count(struct filter_image *img, uint32_t rule, uint32_t bytes) {
    count_at((struct filter_count *)filter_at(img, FILTER_SEC_RULE_COUNTS) + rule, bytes);
}

static void leave(struct filter_image *img, const struct filter_action *a, uint32_t bytes, struct filter_outcome *o) {
    o->flags |= a->flags;
    if (a->flags & FILTER_ACT_MARK)
        o->mark = (o->mark & ~a->mark_mask) | a->mark;
    if (a->flags & FILTER_ACT_CLASS)
        o->class_id = a->class_id;
    if (a->flags & FILTER_ACT_STEER)
        o->steer = a->steer;
    if (a->counter != FILTER_NONE)
        count_at((struct filter_count *)filter_at(img, FILTER_SEC_COUNTERS) + a->counter, bytes);
}

/* ---- tiers ---- */

struct walk {
    struct filter_image *img;
    const struct filter_case *c;
    struct filter_outcome *out;
    bool decided; /* this tier */
};

static void walk_begin(struct walk *w, struct filter_outcome *out) {
    *out = (struct filter_outcome){.verdict = FILTER_ALLOW,
                                   .rule = {FILTER_RULE_DEFAULT, FILTER_RULE_UNASKED, FILTER_RULE_UNASKED}};
    w->out = out;
    w->decided = false;
}

static void decide(struct walk *w, const struct filter_action *a) {
    leave(w->img, a, w->c->bytes, w->out);
    w->out->verdict = a->verdict;
    w->out->reject = a->verdict == FILTER_REJECT ? a->reject : 0;
    w->decided = true;
}

/* Ends a tier and begins the next. False: nothing more is asked. */
static bool next_tier(struct walk *w) {
    if (!w->decided)
        decide(w, &w->img->defaults[w->out->tier]);
    if (w->out->verdict != FILTER_ALLOW || w->out->tier + 1u == FILTER_TIERS)
        return false;
    w->out->tier++;
    w->out->rule[w->out->tier] = FILTER_RULE_DEFAULT;
    w->decided = false;
    return true;
}

/* A rule that matches but for its limit. False: nothing more is asked. */
static bool walk_rule(struct walk *w, const struct filter_rule *r, uint32_t n) {
    while (w->out->tier < r->tier)
        if (!next_tier(w))
            return false;
    if (w->decided)
        return w->out->verdict == FILTER_ALLOW;
    if (r->limit != FILTER_NONE) {
        const struct filter_limit *l = (const struct filter_limit *)filter_at(w->img, FILTER_SEC_LIMITS) + r->limit;
        if (limit_within(w->img, r->limit, w->c) == ((l->flags & FILTER_LIMIT_OVER) != 0))
            return true;
    }
    const struct filter_action *a = (const struct filter_action *)filter_at(w->img, FILTER_SEC_ACTIONS) + n;
    filter_count(w->img, n, w->c->bytes);
    if (r->verdict == FILTER_CONTINUE) {
        leave(w->img, a, w->c->bytes, w->out);
        return true;
    }
    w->out->rule[r->tier] = n;
    decide(w, a);
    return r->verdict == FILTER_ALLOW;
}

static void walk_end(struct walk *w) {
    while (next_tier(w))
        continue;
}

void filter_act(struct filter_image *img, const struct filter_case *c, const uint32_t *list, uint32_t count,
                struct filter_outcome *out) {
    const struct filter_rule *rules = (const struct filter_rule *)filter_at(img, FILTER_SEC_RULES);
    struct walk w = {.img = img, .c = c};
    walk_begin(&w, out);
    for (uint32_t i = 0; i < count; i++)
        if (!walk_rule(&w, &rules[list[i]], list[i]))
            break;
    walk_end(&w);
}

void filter_act_all(struct filter_image *img, const struct filter_case *c, struct filter_outcome *out) {
    const struct filter_rule *rules = (const struct filter_rule *)filter_at(img, FILTER_SEC_RULES);
    struct walk w = {.img = img, .c = c};
    walk_begin(&w, out);
    for (uint32_t i = 0; i < img->count[FILTER_SEC_RULES]; i++)
        if (filter_rule_matches(img, &rules[i], &c->words) && !walk_rule(&w, &rules[i], i))
            break;
    walk_end(&w);
}
