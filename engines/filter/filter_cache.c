/* SPDX-License-Identifier: Apache-2.0
 *
 * The flow cache: one line says which rules match the packets of a flow. What it points to is a *trace*, the list of
 * those rules, kept once however many flows share it; when no limit and no named counter has a part in it, the trace
 * holds the outcome as well. On the shard's worker; all of it is derived and ends with the policy.
 *
 * A hit touches the flow's line, the trace's first (warm), and a counter for each rule in it.
 */
#include "engines/filter/filter.h"

#define TRACE_NONE UINT32_MAX

static struct filter_trace *trace_at(struct filter_state *st, uint32_t i) {
    return (struct filter_trace *)arena_at(st, st->trace_lines) + i;
}

struct filter_line *filter_line_at(struct filter_state *st, const struct filter_image *img,
                                   const struct filter_words *p) {
    uint32_t hash = filter_hash(&st->key, p, &img->used);
    return (struct filter_line *)arena_at(st, st->cache_lines) + (hash & (st->cfg.cache_lines - 1));
}

void filter_cache_clear(struct filter_state *st) {
    if (++st->generation == 0)
        st->generation = 1;
    st->trace_count = 0;
    memset(arena_at(st, st->slot_lines), 0, FILTER_TRACE_SLOTS * sizeof(uint32_t));
}

static bool is_plain(const struct filter_image *img, const struct filter_list *l) {
    const struct filter_rule *rules = (const struct filter_rule *)filter_at(img, FILTER_SEC_RULES);
    for (uint32_t i = 0; i < l->count; i++)
        if (rules[l->rule[i]].limit != FILTER_NONE)
            return false;
    return !img->counting;
}

static uint32_t list_hash(const struct filter_state *st, const struct filter_list *l) {
    uint32_t hash = l->count;
    for (uint32_t i = 0; i < l->count; i++)
        hash = hash_mix(&st->key, hash, l->rule[i]);
    return hash;
}

/* The trace of a list, made when it is new; TRACE_NONE when it is too long or there are too many. */
static uint32_t trace_of(struct filter_state *st, const struct filter_image *img, const struct filter_list *l,
                         const struct filter_outcome *out) {
    uint32_t *slots = (uint32_t *)arena_at(st, st->slot_lines), hash = list_hash(st, l);
    uint32_t at = hash & (FILTER_TRACE_SLOTS - 1);
    if (l->count > FILTER_TRACE_RULES)
        return TRACE_NONE;
    for (; slots[at] != 0; at = (at + 1) & (FILTER_TRACE_SLOTS - 1)) {
        const struct filter_trace *t = trace_at(st, slots[at] - 1);
        if (t->hash == hash && t->count == l->count && memcmp(t->rule, l->rule, l->count * sizeof l->rule[0]) == 0)
            return slots[at] - 1;
    }
    if (st->trace_count == FILTER_TRACE_MAX)
        return TRACE_NONE;
    struct filter_trace *t = trace_at(st, st->trace_count);
    *t = (struct filter_trace){.out = *out, .hash = hash, .count = (uint8_t)l->count, .plain = is_plain(img, l)};
    memcpy(t->rule, l->rule, l->count * sizeof l->rule[0]);
    slots[at] = ++st->trace_count;
    return st->trace_count - 1;
}

/* Rules of a tier below the one that closed are not asked: they leave the list of a plain trace. */
static void trim(const struct filter_image *img, struct filter_list *l, const struct filter_outcome *out) {
    const struct filter_rule *rules = (const struct filter_rule *)filter_at(img, FILTER_SEC_RULES);
    if (out->verdict == FILTER_ALLOW || !is_plain(img, l))
        return;
    while (l->count > 0 && rules[l->rule[l->count - 1]].tier > out->tier)
        l->count--;
}

static SELDOM void miss(struct filter_state *st, struct engine_io *io, struct filter_image *img,
                        struct filter_line *line, const struct filter_case *c, struct filter_outcome *out) {
    struct filter_list list;
    ENGINE_COUNT(io, FILTER_COUNT_MISSES);
    if (!filter_classify(img, &c->words, &list)) {
        ENGINE_COUNT(io, FILTER_COUNT_UNCACHED);
        filter_act_all(img, c, out);
        return;
    }
    filter_act(img, c, list.rule, list.count, out);
    trim(img, &list, out);
    uint32_t trace = trace_of(st, img, &list, out);
    if (trace == TRACE_NONE) {
        ENGINE_COUNT(io, FILTER_COUNT_UNCACHED);
        return;
    }
    if (line->generation == st->generation)
        ENGINE_COUNT(io, FILTER_COUNT_EVICTED);
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        line->key.w[i] = c->words.w[i] & img->used.w[i];
    line->generation = st->generation;
    line->trace = trace;
}

void filter_judge(struct filter_state *st, struct engine_io *io, struct filter_image *img, struct filter_line *line,
                  const struct filter_case *c, struct filter_outcome *out) {
    if (UNLIKELY(line->generation != st->generation || !filter_words_match(&c->words, &line->key, &img->used))) {
        miss(st, io, img, line, c, out);
        return;
    }
    const struct filter_trace *t = trace_at(st, line->trace);
    if (UNLIKELY(!t->plain)) {
        filter_act(img, c, t->rule, t->count, out);
        return;
    }
    for (uint32_t i = 0; i < t->count; i++)
        filter_count(img, t->rule[i], c->bytes);
    *out = t->out;
}
