/* SPDX-License-Identifier: Apache-2.0
 *
 * See ranks.h. Two policies are compared from both ends; what is left in the middle is compared one by one when it is
 * equally long, and else is all different.
 */
#include "nicbackend/partition/ranks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DIFFER_MAX 64u /* places: more are better brought there as a whole */
#define RANK_SPAN  2u  /* numbers that one place has: see prec_of() in flatten.c */

/* --- the order of places ----------------------------------------------------------------------------------------- */

static uint32_t places_of(const struct nb_policy *p) {
    return p->rule_count + NB_TIER_COUNT;
}

/* As packets meet them. */
static uint32_t *order_make(const struct nb_policy *p) {
    uint32_t *order = calloc(places_of(p), sizeof *order), n = 0, next = 0;
    for (uint32_t tier = 0; order != NULL && tier < NB_TIER_COUNT; tier++) {
        while (next < p->rule_count && p->rules[next].tier == tier)
            order[n++] = next++;
        order[n++] = p->rule_count + tier;
    }
    return order;
}

uint32_t *nb_ranks_make(const struct nb_policy *p) {
    uint32_t n = places_of(p), gap = (UINT32_MAX - 1) / (n + 1);
    uint32_t *order = order_make(p), *ranks = calloc(n, sizeof *ranks);
    for (uint32_t i = 0; order != NULL && ranks != NULL && i < n; i++)
        ranks[order[i]] = (n - i) * gap;
    if (order == NULL) {
        free(ranks);
        ranks = NULL;
    }
    free(order);
    return ranks;
}

/* --- the same or not --------------------------------------------------------------------------------------------- */

struct comparing {
    const struct nb_policy *a, *b;
};

static bool same_set(const struct comparing *c, bool used, uint32_t a, uint32_t b) {
    return !used || nb_set_same(&c->a->sets[a], &c->b->sets[b]);
}

static bool same_sets(const struct comparing *c, const struct nb_match *a, const struct nb_match *b) {
    return same_set(c, a->fields & NB_F_SRC_SET, a->src_set, b->src_set) &&
           same_set(c, a->fields & NB_F_DST_SET, a->dst_set, b->dst_set) &&
           same_set(c, a->fields & NB_F_SPORT_SET, a->sport_set, b->sport_set) &&
           same_set(c, a->fields & NB_F_DPORT_SET, a->dport_set, b->dport_set);
}

static bool same_owner(const struct comparing *c, uint32_t a, uint32_t b) {
    if (a == NB_NONE || b == NB_NONE)
        return a == b;
    struct nb_owner_match x = c->a->owners[a], y = c->b->owners[b];
    bool same = same_set(c, x.fields & y.fields & NB_OWNER_UID, x.uids, y.uids) &&
                same_set(c, x.fields & y.fields & NB_OWNER_GID, x.gids, y.gids);
    x.uids = y.uids = x.gids = y.gids = 0;
    return same && memcmp(&x, &y, sizeof x) == 0;
}

/* Names of things (sets, owners, limits, counters) are numbers that another policy gives anew. */
static bool same_but_for_names(const struct nb_rule *a, const struct nb_rule *b) {
    struct nb_rule x = *a, y = *b;
    bool same = (a->limit == NB_NONE) == (b->limit == NB_NONE) &&
                (a->action.counter == NB_NONE) == (b->action.counter == NB_NONE);
    x.limit = y.limit = x.action.counter = y.action.counter = 0;
    x.match.src_set = y.match.src_set = x.match.dst_set = y.match.dst_set = 0;
    x.match.sport_set = y.match.sport_set = x.match.dport_set = y.match.dport_set = 0;
    x.match.owner = y.match.owner = 0;
    return same && memcmp(&x, &y, sizeof x) == 0;
}

static bool same_rule(const struct comparing *c, const struct nb_rule *a, const struct nb_rule *b) {
    return (memcmp(a, b, sizeof *a) == 0 || same_but_for_names(a, b)) &&
           same_owner(c, a->match.owner, b->match.owner) && same_sets(c, &a->match, &b->match);
}

static bool same_place(const struct comparing *c, uint32_t a, uint32_t b) {
    bool rule = a < c->a->rule_count;
    if (rule != (b < c->b->rule_count))
        return false;
    if (rule)
        return same_rule(c, &c->a->rules[a], &c->b->rules[b]);
    uint32_t tier = a - c->a->rule_count;
    return tier == b - c->b->rule_count &&
           memcmp(&c->a->defaults[tier], &c->b->defaults[tier], sizeof c->a->defaults[tier]) == 0;
}

/* --- two policies ------------------------------------------------------------------------------------------------ */

struct pairing {
    const uint32_t *a, *b; /* orders */
    uint32_t n, m, head, tail;
    const uint32_t *old_ranks;
    struct nb_difference *d;
};

static void pair(const struct pairing *p, uint32_t i, uint32_t k) {
    p->d->ranks[p->b[k]] = p->old_ranks[p->a[i]];
    p->d->from[p->b[k]] = p->a[i];
}

/* New places share out the room between their neighbours. */
static int middle_rank(const struct pairing *p) {
    uint32_t count = p->m - p->head - p->tail;
    uint64_t high = p->head > 0 ? p->d->ranks[p->b[p->head - 1]] : UINT32_MAX - RANK_SPAN;
    uint64_t low = p->tail > 0 ? p->d->ranks[p->b[p->m - p->tail]] : 0, step = (high - low) / (count + 1u);
    if (step < RANK_SPAN)
        return -E2BIG;
    for (uint32_t i = 0; i < count; i++)
        p->d->ranks[p->b[p->head + i]] = (uint32_t)(high - (i + 1) * step);
    return 0;
}

static int middle_pair(const struct pairing *p, const struct comparing *c) {
    uint32_t old = p->n - p->head - p->tail, new = p->m - p->head - p->tail, differ = 0;
    bool aligned = old == new;
    for (uint32_t i = 0; i < new &&aligned; i++)
        pair(p, p->head + i, p->head + i);
    int error = aligned || new == 0 ? 0 : middle_rank(p);
    for (uint32_t i = 0; i < new &&error == 0; i++) {
        if (aligned && same_place(c, p->a[p->head + i], p->b[p->head + i]))
            continue;
        p->d->from[p->b[p->head + i]] = NB_NONE;
        p->d->fresh[p->b[p->head + i]] = 1;
        differ++;
    }
    for (uint32_t i = 0; i < old; i++)
        if (!aligned || p->d->fresh[p->b[p->head + i]])
            p->d->gone[p->a[p->head + i]] = 1;
    return error != 0 ? error : differ > DIFFER_MAX || (!aligned && old > DIFFER_MAX) ? -E2BIG : 0;
}

static int pair_all(struct pairing *p, const struct comparing *c) {
    uint32_t least = p->n < p->m ? p->n : p->m;
    while (p->head < least && same_place(c, p->a[p->head], p->b[p->head]))
        p->head++;
    while (p->head + p->tail < least && same_place(c, p->a[p->n - 1 - p->tail], p->b[p->m - 1 - p->tail]))
        p->tail++;
    for (uint32_t i = 0; i < p->head; i++)
        pair(p, i, i);
    for (uint32_t i = 1; i <= p->tail; i++)
        pair(p, p->n - i, p->m - i);
    return middle_pair(p, c);
}

int nb_difference_make(const struct nb_policy *old, const uint32_t *old_ranks, const struct nb_policy *new,
                       struct nb_difference *ret) {
    uint32_t n = places_of(old), m = places_of(new), *a = order_make(old), *b = order_make(new);
    struct nb_difference d = {.gone = calloc(n, 1),
                              .fresh = calloc(m, 1),
                              .ranks = calloc(m, sizeof *d.ranks),
                              .from = calloc(m, sizeof *d.from)};
    struct pairing p = {.a = a, .b = b, .n = n, .m = m, .old_ranks = old_ranks, .d = &d};
    const struct comparing c = {old, new};
    bool room = a != NULL && b != NULL && d.gone != NULL && d.fresh != NULL && d.ranks != NULL && d.from != NULL;
    int error = room ? pair_all(&p, &c) : -ENOMEM;
    free(a);
    free(b);
    if (error != 0)
        nb_difference_free(&d);
    else
        *ret = d;
    return error;
}

void nb_difference_free(struct nb_difference *d) {
    free(d->gone);
    free(d->fresh);
    free(d->ranks);
    free(d->from);
    *d = (struct nb_difference){.gone = NULL};
}
