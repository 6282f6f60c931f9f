/* SPDX-License-Identifier: Apache-2.0
 *
 * See partition.h. Three steps: the policy as one list of cubes (flatten.c); which of the drops get in, each with the
 * punts above it that overlap it (its covers), by heat and cost; and their precedence.
 *
 * Why it is sound: a packet that an installed drop has and no installed punt above it has, is in no earlier item that
 * punts, because all that overlap the drop are installed as its covers. So the first item that has it drops, which is
 * certain.
 */
#include "nicbackend/partition/partition.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/chains.h"
#include "nicbackend/partition/index.h"

#define CARVE_MAX      8u  /* pieces of one drop where the device knows no order */
#define RESIDENT_BONUS 3u  /* to a rule's heat, in halves of it: a newcomer must be 1.5 times as hot */
#define MASK_MAX       256 /* masks that are counted; a device with more of them has them without limit */

struct candidate {
    struct nb_item item;
    uint32_t order; /* place in the list */
    uint64_t score;
    bool in;    /* the program has it */
    bool drops; /* and drops by it; else it covers a drop below */
    bool resident;
};

struct selection {
    const struct nb_partition_params *p;
    struct candidate *v; /* all items, in order */
    uint32_t count;
    struct nb_chains covers; /* those that may have to cover a drop behind them */
    uint32_t *by_score;      /* those that drop and could get in, the best first */
    uint32_t drops;
    struct nb_index resident;
    uint32_t used, rule_max, newcomers;
    struct nb_key masks[MASK_MAX];
    uint32_t mask_count;
    struct nb_place *places;
};

uint64_t nb_credit(const struct nb_policy *policy, uint32_t place) {
    if (place < policy->rule_count)
        return policy->rules[place].id;
    return NB_CREDIT_DEFAULT(place - policy->rule_count);
}

static void refuse(struct selection *s, const struct candidate *c, enum nb_reason reason) {
    struct nb_place *place = &s->places[c->item.rule];
    if (place->reason == NB_REASON_NONE)
        place->reason = (uint8_t)reason;
}

/* --- candidates ------------------------------------------------------------------------------------------------ */

static int candidate_add(struct selection *s, uint32_t *size, const struct nb_item *item) {
    if (s->count == *size) {
        uint32_t more = *size == 0 ? 64 : *size * 2;
        struct candidate *v = realloc(s->v, more * sizeof *v);
        if (v == NULL)
            return -ENOMEM;
        s->v = v;
        *size = more;
    }
    s->v[s->count] = (struct candidate){.item = *item, .order = s->count};
    s->count++;
    return 0;
}

/* Devices that look into tunnels would drop by what is inside: whatever may be a tunnel is punted first. */
static int tunnels_add(struct selection *s, uint32_t *size) {
    static const uint8_t protos[] = {4, 41, 47};
    static const uint16_t ports[] = {4789, 6081};
    int error = 0;
    for (size_t i = 0; i < 5 && error == 0; i++) {
        struct nb_item item = {.rule = UINT32_MAX, .prec = UINT32_MAX};
        item.cube.value.proto = i < 3 ? protos[i] : 17;
        item.cube.mask.proto = 0xff;
        item.cube.value.parsed = item.cube.mask.parsed = NB_PARSED_IP | (i < 3 ? 0 : NB_PARSED_PORTS);
        if (i >= 3) {
            memset(item.cube.mask.dport, 0xff, 2);
            item.cube.value.dport[0] = (uint8_t)(ports[i - 3] >> 8);
            item.cube.value.dport[1] = (uint8_t)ports[i - 3];
        }
        error = candidate_add(s, size, &item);
    }
    return error;
}

/* Takes `by` out of every piece; false when there are too many. */
static bool carve(struct nb_cube *pieces, int *count, const struct nb_cube *by) {
    struct nb_cube next[CARVE_MAX];
    int n = 0;
    for (int i = 0; i < *count; i++) {
        int got = nb_cube_subtract(&pieces[i], by, next + n, (int)CARVE_MAX - n);
        if (got < 0)
            return false;
        n += got;
    }
    memcpy(pieces, next, (size_t)n * sizeof *next);
    *count = n;
    return true;
}

/* It matters which of the two has a packet. */
static bool apart(const struct selection *s, const struct nb_item *a, bool a_drops, const struct nb_item *b,
                  bool b_drops) {
    return a_drops != b_drops || (a_drops && s->p->exact && a->rule != b->rule);
}

/* Without an order a drop is cut to where nothing earlier has a say. */
static int carved_add(struct selection *s, uint32_t *size, const struct nb_items *items, uint32_t i) {
    const struct nb_item *item = &items->v[i];
    struct nb_cube pieces[CARVE_MAX] = {item->cube};
    int count = 1, error = 0;
    bool ok = true;
    for (uint32_t k = 0; k < i && ok && count > 0; k++)
        if (apart(s, &items->v[k], items->v[k].drop, item, true) && nb_cube_overlaps(&items->v[k].cube, &item->cube))
            ok = carve(pieces, &count, &items->v[k].cube);
    s->places[item->rule].entries += ok ? (uint32_t)count : 1;
    if (!ok)
        refuse(s, &(struct candidate){.item = *item}, NB_REASON_ORDER);
    for (int n = 0; ok && n < count && error == 0; n++) {
        struct nb_item piece = {.cube = pieces[n], .rule = item->rule, .drop = true};
        if (nb_cube_exact(&piece.cube, s->p->caps))
            error = candidate_add(s, size, &piece);
        else
            refuse(s, &(struct candidate){.item = piece}, NB_REASON_FIELDS);
    }
    return error;
}

static int candidates_make(struct selection *s, const struct nb_items *items) {
    const struct nb_caps *caps = s->p->caps;
    uint32_t size = 0;
    int error = caps->inner_match ? tunnels_add(s, &size) : 0;
    for (uint32_t i = 0; i < items->count && error == 0; i++) {
        struct nb_item item = items->v[i];
        if (caps->order == NB_ORDER_NONE || caps->levels < 2) { /* drops are cut free of punts, which need no telling */
            error = item.drop ? carved_add(s, &size, items, i) : 0;
            continue;
        }
        if (item.drop)
            s->places[item.rule].entries++;
        if (item.drop && !nb_cube_exact(&item.cube, caps)) {
            refuse(s, &(struct candidate){.item = item}, NB_REASON_FIELDS);
            item.drop = false;
            if (!s->p->exact)
                continue;
        }
        if (!item.drop)
            nb_cube_widen(&item.cube, caps);
        error = candidate_add(s, &size, &item);
    }
    return error;
}

/* --- selection ------------------------------------------------------------------------------------------------- */

/* The next cover that a drop needs; NULL at the end. With exact counters that is an earlier drop, too, by another rule:
 * it punts unless it gets in itself. */
static struct candidate *cover_next(const struct selection *s, const struct candidate *drop, struct nb_walk *walk) {
    for (uint32_t i; nb_walk_next(walk, &i);) {
        struct candidate *c = &s->v[i];
        if (i < drop->order && apart(s, &c->item, c->item.drop, &drop->item, true) &&
            nb_cube_overlaps(&c->item.cube, &drop->item.cube))
            return c;
    }
    return NULL;
}

static struct nb_walk covers_of(const struct selection *s, const struct candidate *drop) {
    return nb_chains_walk(&s->covers, &drop->item.cube);
}

static bool mask_known(const struct selection *s, const struct nb_key *mask) {
    for (uint32_t i = 0; i < s->mask_count; i++)
        if (memcmp(&s->masks[i], mask, sizeof *mask) == 0)
            return true;
    return false;
}

static bool masks_limited(const struct selection *s) {
    return s->p->caps->mask_max < MASK_MAX;
}

/* A new mask needs room; true when it has it now. */
static bool mask_take(struct selection *s, const struct nb_key *mask) {
    if (!masks_limited(s) || mask_known(s, mask))
        return true;
    if (s->mask_count >= s->p->caps->mask_max)
        return false;
    s->masks[s->mask_count++] = *mask;
    return true;
}

/* Can this cover stand above this drop? */
static enum nb_reason cover_reason(const struct selection *s, const struct candidate *cover,
                                   const struct candidate *drop) {
    const struct nb_caps *caps = s->p->caps;
    if (nb_cube_contains(&cover->item.cube, &drop->item.cube))
        return NB_REASON_HIDDEN;
    if (caps->order == NB_ORDER_NONE || caps->levels < 2)
        return NB_REASON_ORDER;
    if (caps->order == NB_ORDER_FIELDS && nb_cube_fields(&cover->item.cube) <= nb_cube_fields(&drop->item.cube))
        return NB_REASON_ORDER;
    return nb_refusals_has(s->p->refusals, &cover->item.cube, NB_HW_PUNT) ? NB_REASON_REFUSED : NB_REASON_NONE;
}

/* Whether a drop could get in at all, and how many entries that takes. */
static enum nb_reason drop_reason(const struct selection *s, const struct candidate *c, uint32_t *ret_cost) {
    if (nb_refusals_has(s->p->refusals, &c->item.cube, NB_HW_DROP))
        return NB_REASON_REFUSED;
    uint32_t cost = !c->in;
    struct nb_walk walk = covers_of(s, c);
    for (const struct candidate *cover; (cover = cover_next(s, c, &walk)) != NULL;) {
        enum nb_reason reason = cover_reason(s, cover, c);
        if (reason != NB_REASON_NONE)
            return reason;
        cost += !cover->in;
    }
    *ret_cost = cost;
    return NB_REASON_NONE;
}

/* Devices with fewer levels than the program is deep get all punts above all drops: drops among themselves then tie. */
static bool ties(const struct selection *s, const struct candidate *c) {
    if (!s->p->exact || (s->p->caps->order == NB_ORDER_PRIO && s->p->caps->levels > 2))
        return false;
    for (uint32_t k = 0; k < s->count; k++) {
        const struct candidate *o = &s->v[k];
        if (o != c && o->drops && o->item.rule != c->item.rule && nb_cube_overlaps(&o->item.cube, &c->item.cube))
            return true;
    }
    return false;
}

static bool masks_take(struct selection *s, const struct candidate *c) {
    uint32_t before = s->mask_count;
    struct nb_walk walk = covers_of(s, c);
    bool ok = mask_take(s, &c->item.cube.mask);
    for (const struct candidate *cover; ok && masks_limited(s) && (cover = cover_next(s, c, &walk)) != NULL;)
        ok = mask_take(s, &cover->item.cube.mask);
    if (!ok)
        s->mask_count = before;
    return ok;
}

static enum nb_reason admit(struct selection *s, struct candidate *c) {
    uint32_t cost = 0;
    struct nb_walk walk = covers_of(s, c);
    enum nb_reason reason = drop_reason(s, c, &cost);
    if (reason != NB_REASON_NONE)
        return reason;
    if (ties(s, c))
        return NB_REASON_ORDER;
    bool newcomer = s->p->resident != NULL && !c->resident;
    if (s->used + cost > s->rule_max || (newcomer && s->p->newcomer_max != 0 && s->newcomers >= s->p->newcomer_max))
        return NB_REASON_SPACE;
    if (!masks_take(s, c))
        return NB_REASON_MASKS;
    for (struct candidate *cover; (cover = cover_next(s, c, &walk)) != NULL;)
        cover->in = true;
    c->in = c->drops = true;
    s->used += cost;
    s->newcomers += newcomer;
    s->places[c->item.rule].placed++;
    return NB_REASON_NONE;
}

static bool is_resident(const struct selection *s, const struct candidate *c) {
    const struct nb_program *r = s->p->resident;
    uint64_t credit = nb_credit(s->p->policy, c->item.rule);
    uint32_t at = 0, i;
    while (r != NULL && nb_index_next(&s->resident, &c->item.cube, &at, &i))
        if (r->rules[i].credit == credit && nb_cube_equal(&r->rules[i].cube, &c->item.cube))
            return true;
    return false;
}

static int by_score(const void *a, const void *b, void *candidates) {
    const struct candidate *sorted = candidates;
    const struct candidate *x = &sorted[*(const uint32_t *)a], *y = &sorted[*(const uint32_t *)b];
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

static int indexes_make(struct selection *s) {
    const struct nb_program *r = s->p->resident;
    s->by_score = calloc(s->count + 1u, sizeof *s->by_score);
    int error = s->by_score == NULL ? -ENOMEM : nb_chains_create(s->count, &s->covers);
    if (error != 0)
        return error;
    for (uint32_t i = 0; i < s->count; i++)
        if (s->p->exact || !s->v[i].item.drop)
            nb_chains_add(&s->covers, &s->v[i].item.cube, i);
    error = nb_index_create(r != NULL ? r->count : 0, &s->resident);
    for (uint32_t i = 0; r != NULL && i < r->count && error == 0; i++)
        nb_index_add(&s->resident, &r->rules[i].cube, i);
    return error;
}

/* Hot ones first, cheap ones among equals, then in the order of the policy. */
static void score_all(struct selection *s) {
    for (uint32_t i = 0; i < s->count; i++) {
        struct candidate *c = &s->v[i];
        uint32_t cost = 0;
        if (!c->item.drop)
            continue;
        enum nb_reason reason = drop_reason(s, c, &cost);
        if (reason != NB_REASON_NONE) {
            refuse(s, c, reason);
            continue;
        }
        uint64_t heat = s->p->heat != NULL ? s->p->heat[c->item.rule] : 0;
        c->resident = is_resident(s, c);
        c->score = ((heat + 1) << 20) / (cost + 1);
        c->score = c->resident ? c->score * RESIDENT_BONUS / 2 : c->score;
        s->by_score[s->drops++] = i;
    }
    qsort_r(s->by_score, s->drops, sizeof *s->by_score, by_score, s->v);
}

/* --- precedence ------------------------------------------------------------------------------------------------ */

/* The list of what is in, in order; the longest chain of overlaps that matter below each is its level. */
static int levels_make(const struct selection *s, const uint32_t *in, uint32_t count, uint32_t *level,
                       uint32_t *ret_deepest) {
    struct nb_chains below;
    int error = nb_chains_create(count, &below);
    *ret_deepest = 0;
    for (uint32_t i = count; i-- > 0 && error == 0;) {
        const struct candidate *a = &s->v[in[i]];
        struct nb_walk walk = nb_chains_walk(&below, &a->item.cube);
        level[i] = 0;
        for (uint32_t k; nb_walk_next(&walk, &k);) {
            const struct candidate *b = &s->v[in[k]];
            if (level[k] >= level[i] && apart(s, &a->item, a->drops, &b->item, b->drops) &&
                nb_cube_overlaps(&a->item.cube, &b->item.cube))
                level[i] = level[k] + 1;
        }
        *ret_deepest = level[i] > *ret_deepest ? level[i] : *ret_deepest;
        nb_chains_add(&below, &a->item.cube, i);
    }
    nb_chains_free(&below);
    return error;
}

static int by_prec(const void *a, const void *b) {
    const struct nb_hw_rule *x = a, *y = b;
    if (x->prec != y->prec)
        return x->prec > y->prec ? -1 : 1;
    return (int)x->action - (int)y->action;
}

static bool ranked(const struct selection *s) {
    return s->p->ranks != NULL;
}

/* Of the same cube only the first has a say; a punt among them has it for the drops that it covers. */
static bool repeated(const struct nb_program *p, const struct nb_index *index, const struct nb_cube *cube) {
    uint32_t at = 0, i;
    while (nb_index_next(index, cube, &at, &i))
        if (nb_cube_equal(&p->rules[i].cube, cube))
            return true;
    return false;
}

static void program_fill(const struct selection *s, const uint32_t *in, uint32_t count, const uint32_t *level,
                         struct nb_index *index, struct nb_program *program) {
    bool flat = s->p->caps->order != NB_ORDER_PRIO || s->p->caps->levels <= 2;
    for (uint32_t i = 0; i < count; i++) {
        const struct candidate *c = &s->v[in[i]];
        struct nb_hw_rule rule = {.cube = c->item.cube,
                                  .action = c->drops ? NB_HW_DROP : NB_HW_PUNT,
                                  .prec = ranked(s) ? c->item.prec
                                          : flat    ? !c->drops
                                                    : level[i],
                                  .credit = c->drops ? nb_credit(s->p->policy, c->item.rule) : 0};
        if (repeated(program, index, &rule.cube))
            continue;
        nb_index_add(index, &rule.cube, program->count);
        program->rules[program->count++] = rule;
    }
    qsort(program->rules, program->count, sizeof *program->rules, by_prec);
}

/* -E2BIG: the device has too few levels for it. */
static int program_make(const struct selection *s, struct nb_program *ret) {
    struct nb_program program = {.rules = calloc(s->used + 1u, sizeof *program.rules)};
    struct nb_index index = {.slots = NULL};
    uint32_t *in = calloc(s->used + 1u, sizeof *in), *level = calloc(s->used + 1u, sizeof *level), count = 0,
             deepest = 0;
    int error = program.rules == NULL || in == NULL || level == NULL ? -ENOMEM : nb_index_create(s->used, &index);
    for (uint32_t i = 0; error == 0 && i < s->count; i++)
        if (s->v[i].in)
            in[count++] = i;
    if (error == 0 && !ranked(s))
        error = levels_make(s, in, count, level, &deepest);
    if (error == 0 && deepest >= s->p->caps->levels && s->p->caps->levels > 2)
        error = -E2BIG;
    if (error == 0)
        program_fill(s, in, count, level, &index, &program);
    nb_index_free(&index);
    free(in);
    free(level);
    if (error != 0)
        free(program.rules);
    else
        *ret = program;
    return error;
}

/* --- all of it ------------------------------------------------------------------------------------------------- */

static int select_all(struct selection *s) {
    int error = indexes_make(s);
    if (error != 0)
        return error;
    score_all(s);
    for (uint32_t i = 0; i < s->drops; i++) {
        struct candidate *c = &s->v[s->by_score[i]];
        refuse(s, c, admit(s, c));
    }
    return 0;
}

static int partition_items(const struct nb_partition_params *p, const struct nb_items *items,
                           struct nb_program *ret_program, struct nb_place **ret_places) {
    const uint32_t places = p->policy->rule_count + NB_TIER_COUNT;
    struct selection s = {.p = p, .rule_max = p->caps->rule_max};
    if (p->rule_max != 0 && p->rule_max < s.rule_max)
        s.rule_max = p->rule_max;
    s.places = calloc(places, sizeof *s.places);
    for (uint32_t i = 0; s.places != NULL && i < places; i++)
        s.places[i].reason = items->reasons[i];
    int error = s.places == NULL ? -ENOMEM : candidates_make(&s, items);
    if (error == 0)
        error = select_all(&s);
    if (error == 0)
        error = program_make(&s, ret_program);
    nb_index_free(&s.resident);
    nb_chains_free(&s.covers);
    free(s.by_score);
    free(s.v);
    if (error != 0)
        free(s.places);
    else
        *ret_places = s.places;
    return error;
}

int nb_partition(const struct nb_partition_params *p, struct nb_program *ret_program, struct nb_place **ret_places) {
    const struct nb_flatten_params flatten = {.policy = p->policy,
                                              .world = p->world,
                                              .ifindex = p->ifindex,
                                              .cube_max = NB_CUBE_MAX,
                                              .exact = p->exact,
                                              .ranks = p->ranks};
    struct nb_items items;
    int error = nb_flatten(&flatten, &items);
    if (error != 0)
        return error;
    error = partition_items(p, &items, ret_program, ret_places);
    if (error == -E2BIG) { /* all punts above all drops always fit into two */
        struct nb_caps two = *p->caps;
        struct nb_partition_params again = *p;
        two.levels = 2;
        again.caps = &two;
        error = partition_items(&again, &items, ret_program, ret_places);
    }
    nb_items_free(&items);
    return error;
}

void nb_program_free(struct nb_program *program) {
    free(program->rules);
    *program = (struct nb_program){.rules = NULL};
}
