/* SPDX-License-Identifier: Apache-2.0
 *
 * Few tables with short chains, after TupleMerge: a rule's mask is first made coarser (prefixes to a few lengths,
 * fields that seldom tell rules apart left out), so that rules share tuples; a finer tuple then moves into a coarser
 * table where its rules do not crowd; what is still too many tables is merged, the smallest first. Control thread.
 * Comparing candidates by their whole mask keeps every choice made here correct, so only speed depends on it.
 */
#include "engines/filter/filter_tables.h"

#include <errno.h>
#include <stdlib.h>

#define CHAIN_GOOD 8u /* candidates of one probe that are cheaper than one more table */

static uint32_t bits_of(const struct filter_words *m) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        n += (uint32_t)__builtin_popcountll(m->w[i]);
    return n;
}

static bool contains(const struct filter_words *m, const struct filter_words *part) {
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        if ((part->w[i] & ~m->w[i]) != 0)
            return false;
    return true;
}

/* Leading ones of an address mask: what it has behind its first zero does not count. */
static uint32_t prefix_of(const uint64_t *mask) {
    uint64_t high = __builtin_bswap64(mask[0]), low = __builtin_bswap64(mask[1]);
    if (high != UINT64_MAX)
        return (uint32_t)__builtin_clzll(~high);
    return low == UINT64_MAX ? 128 : 64 + (uint32_t)__builtin_clzll(~low);
}

static void relax_addr(uint64_t *mask) {
    static const uint8_t kept[] = {128, 124, 120, 116, 112, 108, 104, 100, 96, 64, 56, 48, 40, 32, 16, 0};
    uint32_t n = prefix_of(mask), i = 0;
    while (kept[i] > n)
        i++;
    n = kept[i];
    mask[0] = n == 0 ? 0 : __builtin_bswap64(n >= 64 ? UINT64_MAX : UINT64_MAX << (64 - n));
    mask[1] = n <= 64 ? 0 : __builtin_bswap64(UINT64_MAX << (128 - n));
}

static struct filter_words relaxed(const struct filter_words *mask) {
    struct filter_words m = *mask;
    relax_addr(&m.w[FILTER_W_SRC]);
    relax_addr(&m.w[FILTER_W_DST]);
    m.w[FILTER_W_WHAT] &= 0xffffffffffull; /* ports and protocol */
    m.w[FILTER_W_WHOSE] &= 0xffffffffull << FILTER_IFINDEX;
    m.w[FILTER_W_SHAPE] &= 0xffffull << FILTER_VLAN;
    return m;
}

static int group_add(struct filter_group *g, uint32_t rule) {
    if (g->count == g->room) {
        uint32_t room = g->room == 0 ? 8 : g->room * 2;
        uint32_t *more = realloc(g->rules, room * sizeof *more);
        if (more == NULL)
            return -ENOMEM;
        g->rules = more;
        g->room = room;
    }
    g->rules[g->count++] = rule;
    return 0;
}

static struct filter_group *group_of(struct filter_groups *g, const struct filter_words *mask) {
    for (uint32_t i = 0; i < g->count; i++)
        if (memcmp(&g->v[i].mask, mask, sizeof *mask) == 0)
            return &g->v[i];
    if (g->count == g->room) {
        uint32_t room = g->room == 0 ? 64 : g->room * 2;
        struct filter_group *more = realloc(g->v, room * sizeof *more);
        if (more == NULL)
            return NULL;
        g->v = more;
        g->room = room;
    }
    g->v[g->count] = (struct filter_group){.mask = *mask};
    return &g->v[g->count++];
}

uint32_t filter_group_buckets(const struct filter_group *g) {
    uint32_t n = 1;
    while (n < g->count)
        n *= 2;
    return n;
}

/* Longest chain that the rules of `a`, and of `b` when there is one, make under `mask`; UINT32_MAX without memory. */
static uint32_t chain(const struct filter_rule *rules, const struct hash_key *key, const struct filter_words *mask,
                      const struct filter_group *a, const struct filter_group *b) {
    struct filter_group both = {.count = a->count + (b != NULL ? b->count : 0)};
    uint32_t buckets = filter_group_buckets(&both), most = 0;
    uint32_t *used = calloc(buckets, sizeof *used);
    if (used == NULL)
        return UINT32_MAX;
    for (uint32_t i = 0; i < both.count; i++) {
        uint32_t rule = i < a->count ? a->rules[i] : b->rules[i - a->count];
        uint32_t n = ++used[filter_hash(key, &rules[rule].value, mask) & (buckets - 1)];
        most = n > most ? n : most;
    }
    free(used);
    return most;
}

static int merge(struct filter_group *into, struct filter_group *from) {
    for (uint32_t i = 0; i < from->count; i++)
        if (group_add(into, from->rules[i]) != 0)
            return -ENOMEM;
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        into->mask.w[i] &= from->mask.w[i];
    free(from->rules);
    *from = (struct filter_group){.rules = NULL};
    return 0;
}

static int coarse_first(const void *a, const void *b) {
    const struct filter_group *x = (const struct filter_group *)a, *y = (const struct filter_group *)b;
    uint32_t m = bits_of(&x->mask), n = bits_of(&y->mask);
    if (m != n)
        return m < n ? -1 : 1;
    return memcmp(&x->mask, &y->mask, sizeof x->mask);
}

/* Moves each tuple into the finest coarser table that it does not crowd. */
static int fold(struct filter_groups *g, const struct filter_rule *rules, const struct hash_key *key) {
    if (g->count > 1)
        qsort(g->v, g->count, sizeof *g->v, coarse_first);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        struct filter_group *into = NULL;
        for (uint32_t k = kept; k-- > 0 && into == NULL;)
            if (contains(&g->v[i].mask, &g->v[k].mask) &&
                chain(rules, key, &g->v[k].mask, &g->v[k], &g->v[i]) <= CHAIN_GOOD)
                into = &g->v[k];
        if (into == NULL)
            g->v[kept++] = g->v[i];
        else if (merge(into, &g->v[i]) != 0)
            return -ENOMEM;
        if (kept != i + 1 && into == NULL)
            g->v[i].rules = NULL;
    }
    g->count = kept;
    return 0;
}

static uint32_t common_bits(const struct filter_words *a, const struct filter_words *b) {
    struct filter_words both;
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        both.w[i] = a->w[i] & b->w[i];
    return bits_of(&both);
}

/* Until there are few enough: the smallest table joins the one with which it has most bits in common. */
static int squeeze(struct filter_groups *g) {
    while (g->count > FILTER_TABLES_MAX) {
        uint32_t small = 0, best = UINT32_MAX;
        for (uint32_t i = 1; i < g->count; i++)
            if (g->v[i].count < g->v[small].count)
                small = i;
        for (uint32_t i = 0; i < g->count; i++)
            if (i != small && (best == UINT32_MAX || common_bits(&g->v[i].mask, &g->v[small].mask) >
                                                         common_bits(&g->v[best].mask, &g->v[small].mask)))
                best = i;
        if (merge(&g->v[best], &g->v[small]) != 0)
            return -ENOMEM;
        g->v[small] = g->v[--g->count];
        g->v[g->count].rules = NULL;
    }
    return 0;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Tables with the strongest rules first: a verdict then spares the others. */
static int strong_first(const void *a, const void *b) {
    const struct filter_group *x = (const struct filter_group *)a, *y = (const struct filter_group *)b;
    return ascending(&x->rules[0], &y->rules[0]);
}

int filter_tables_plan(const struct filter_rule *rules, const bool *possible, uint32_t count,
                       const struct hash_key *key, struct filter_groups *g) {
    *g = (struct filter_groups){.v = NULL};
    int err = 0;
    for (uint32_t i = 0; i < count && err == 0; i++) {
        if (!possible[i])
            continue;
        const struct filter_words mask = relaxed(&rules[i].mask);
        struct filter_group *in = group_of(g, &mask);
        err = in == NULL ? -ENOMEM : group_add(in, i);
    }
    if (err == 0)
        err = fold(g, rules, key);
    if (err == 0)
        err = squeeze(g);
    if (err != 0) {
        filter_groups_free(g);
        return err;
    }
    for (uint32_t i = 0; i < g->count; i++) {
        qsort(g->v[i].rules, g->v[i].count, sizeof *g->v[i].rules, ascending);
        uint32_t n = chain(rules, key, &g->v[i].mask, &g->v[i], NULL);
        g->chain_max = n > g->chain_max ? n : g->chain_max;
    }
    if (g->count > 1)
        qsort(g->v, g->count, sizeof *g->v, strong_first);
    return 0;
}

void filter_groups_free(struct filter_groups *g) {
    for (uint32_t i = 0; i < g->count; i++)
        free(g->v[i].rules);
    free(g->v);
    *g = (struct filter_groups){.v = NULL};
}
