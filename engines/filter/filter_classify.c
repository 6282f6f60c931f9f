/* SPDX-License-Identifier: Apache-2.0
 *
 * Which rules match a packet, all of them in order, in one pass over the tables: a tier's first verdict that no limit
 * qualifies closes the list behind it, so tables and candidates that could only come later are not looked at. Pure.
 *
 * Cost of a probe: one hash (some 12 cycles), one line of bucket starts, one of entries; two lines for a candidate
 * whose hash agrees, which nearly always matches.
 */
#include "engines/filter/filter.h"

static bool in_ranges(const struct filter_image *img, const struct filter_set *s, uint32_t value) {
    const struct filter_range *r = (const struct filter_range *)filter_at(img, FILTER_SEC_RANGES) + s->first;
    uint32_t lo = 0, hi = s->count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (value > r[mid].hi)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < s->count && value >= r[lo].lo;
}

static bool addr_less(const uint64_t *a, const uint64_t *b) {
    return a[0] < b[0] || (a[0] == b[0] && a[1] < b[1]);
}

static bool in_addrs(const struct filter_image *img, const struct filter_set *s, const uint64_t *words) {
    const struct filter_addrs *r = (const struct filter_addrs *)filter_at(img, FILTER_SEC_ADDRS) + s->first;
    const uint64_t addr[2] = {__builtin_bswap64(words[0]), __builtin_bswap64(words[1])};
    uint32_t lo = 0, hi = s->count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (addr_less(r[mid].hi, addr))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < s->count && !addr_less(addr, r[lo].lo);
}

/* An owner that nobody told about answers no predicate with yes, and is not nobody either. */
static bool owner_has(const struct filter_image *img, uint64_t whose, uint32_t predicate) {
    uint32_t owner = (uint32_t)(whose >> FILTER_OWNER) & 0xffff;
    if (UNLIKELY(owner >= img->owner_max))
        return false;
    const uint64_t *bits = (const uint64_t *)filter_at(img, FILTER_SEC_OWNERS) + (size_t)owner * img->owner_words;
    return bits[predicate / 64] >> predicate % 64 & 1;
}

static bool test_passes(const struct filter_image *img, const struct filter_test *t, const struct filter_words *p) {
    const struct filter_set *sets = (const struct filter_set *)filter_at(img, FILTER_SEC_SETS);
    const struct filter_cube *cubes = (const struct filter_cube *)filter_at(img, FILTER_SEC_CUBES);
    uint32_t value = (uint32_t)(p->w[t->word] >> t->shift) & t->width_mask;
    switch ((enum filter_test_kind)t->kind) {
    case FILTER_TEST_RANGE:
        return value >= t->lo && value <= t->hi;
    case FILTER_TEST_SET:
        return in_ranges(img, &sets[t->index], value);
    case FILTER_TEST_ADDRS:
        return in_addrs(img, &sets[t->index], &p->w[t->word]);
    case FILTER_TEST_OWNER:
        return owner_has(img, p->w[FILTER_W_WHOSE], t->index);
    case FILTER_TEST_CUBE:
        break;
    }
    return filter_words_match(p, &cubes[t->index].value, &cubes[t->index].mask);
}

bool filter_rule_matches(const struct filter_image *img, const struct filter_rule *r, const struct filter_words *p) {
    if (!filter_words_match(p, &r->value, &r->mask))
        return false;
    const struct filter_test *t = (const struct filter_test *)filter_at(img, FILTER_SEC_TESTS) + r->test_first;
    for (uint32_t i = 0; i < r->test_count; i++)
        if (test_passes(img, &t[i], p) == t[i].negate)
            return false;
    return true;
}

/* A list under way: beyond last[tier] nothing of the tier matters. */
struct scan {
    struct filter_list *list;
    uint32_t last[FILTER_TIERS];
};

static bool wanted(const struct scan *s, const struct filter_table *t) {
    return t->first[0] < s->last[0] || t->first[1] < s->last[1] || t->first[2] < s->last[2];
}

static bool list_insert(struct filter_list *l, uint32_t rule) {
    if (UNLIKELY(l->count == FILTER_LIST_MAX))
        return false;
    uint32_t i = l->count++;
    for (; i > 0 && l->rule[i - 1] > rule; i--)
        l->rule[i] = l->rule[i - 1];
    l->rule[i] = rule;
    return true;
}

static bool probe(const struct filter_image *img, struct scan *s, const struct filter_table *t,
                  const struct filter_words *p) {
    const struct filter_rule *rules = (const struct filter_rule *)filter_at(img, FILTER_SEC_RULES);
    const struct filter_entry *entries = (const struct filter_entry *)filter_at(img, FILTER_SEC_ENTRIES);
    uint32_t hash = filter_hash(&img->key, p, &t->mask);
    uint16_t dport = (uint16_t)(p->w[FILTER_W_WHAT] >> FILTER_DPORT);
    const uint32_t *at = (const uint32_t *)filter_at(img, FILTER_SEC_STARTS) + t->starts + (hash & t->bucket_mask);
    for (uint32_t i = at[0]; i < at[1]; i++) {
        uint32_t n = entries[i].rule;
        if (entries[i].hash != hash || dport < entries[i].lo || dport > entries[i].hi)
            continue;
        const struct filter_rule *r = &rules[n];
        if (n >= s->last[r->tier] || !filter_rule_matches(img, r, p))
            continue;
        if (!list_insert(s->list, n))
            return false;
        if (r->verdict != FILTER_CONTINUE && r->limit == FILTER_NONE)
            s->last[r->tier] = n;
    }
    return true;
}

/* Takes out what was found before the verdict in front of it was. */
static void prune(const struct filter_image *img, const struct scan *s) {
    const struct filter_rule *rules = (const struct filter_rule *)filter_at(img, FILTER_SEC_RULES);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->list->count; i++) {
        uint32_t n = s->list->rule[i];
        if (s->last[rules[n].tier] == FILTER_NONE || n <= s->last[rules[n].tier])
            s->list->rule[kept++] = n;
    }
    s->list->count = kept;
}

bool filter_classify(const struct filter_image *img, const struct filter_words *p, struct filter_list *list) {
    struct scan s = {.list = list, .last = {FILTER_NONE, FILTER_NONE, FILTER_NONE}};
    const struct filter_table *t = (const struct filter_table *)filter_at(img, FILTER_SEC_TABLES);
    list->count = 0;
    for (uint32_t i = 0; i < img->count[FILTER_SEC_TABLES]; i++)
        if (wanted(&s, &t[i]) && !probe(img, &s, &t[i], p))
            return false;
    prune(img, &s);
    return true;
}
