/* SPDX-License-Identifier: Apache-2.0
 *
 * See plan.h.
 */
#include "nicbackend/partition/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/index.h"
#include "nicbackend/partition/ranks.h"

#define EDIT_ITEMS   64u  /* new ones; more are better brought there as a whole */
#define EDIT_LOOKUPS 512u /* entries looked for, each by a pass over all */

struct editing {
    const struct nb_partition_params *p;
    const uint32_t *ranks;
    struct nb_program next;
    uint32_t lookups;
    struct nb_place *places;
};

static struct nb_flatten_params flattening(const struct editing *e) {
    const struct nb_partition_params *p = e->p;
    return (struct nb_flatten_params){.policy = p->policy,
                                      .world = p->world,
                                      .ifindex = p->ifindex,
                                      .cube_max = NB_CUBE_MAX,
                                      .exact = p->exact,
                                      .ranks = e->ranks};
}

/* --- entries --------------------------------------------------------------------------------------------------- */

static int editing_begin(struct editing *e, const struct nb_partition_params *p) {
    const struct nb_program *r = p->resident;
    e->p = p;
    e->next = (struct nb_program){.count = r->count, .room = EDIT_LOOKUPS};
    e->next.rules = malloc((r->count + EDIT_LOOKUPS) * sizeof *e->next.rules);
    if (e->next.rules == NULL)
        return -ENOMEM;
    memcpy(e->next.rules, r->rules, r->count * sizeof *r->rules);
    return 0;
}

static struct nb_hw_rule *entry_find(struct editing *e, const struct nb_cube *cube) {
    e->lookups++;
    for (uint32_t i = 0; i < e->next.count; i++) {
        struct nb_hw_rule *r = &e->next.rules[i];
        if (r->cube.value.words[4] == cube->value.words[4] && nb_cube_equal(&r->cube, cube))
            return r;
    }
    return NULL;
}

static int entry_add(struct editing *e, const struct nb_hw_rule *rule) {
    if (e->next.room == 0 || e->lookups > EDIT_LOOKUPS)
        return -E2BIG;
    e->next.rules[e->next.count++] = *rule;
    e->next.room--;
    return 0;
}

static int punt_ensure(struct editing *e, const struct nb_item *item) {
    struct nb_hw_rule *r = entry_find(e, &item->cube);
    const struct nb_hw_rule punt = {.cube = item->cube, .prec = item->prec, .action = NB_HW_PUNT};
    if (r == NULL)
        return entry_add(e, &punt);
    if (r->prec < item->prec)
        *r = punt;
    return 0;
}

/* --- one new item ---------------------------------------------------------------------------------------------- */

/* It matters which of the two has a packet; see partition.c. */
static bool apart(const struct editing *e, const struct nb_item *a, const struct nb_item *drop) {
    return !a->drop || (e->p->exact && a->rule != drop->rule);
}

/* What stands above a new drop: 1 when it may get in, with its covers; 0 and a reason when not. */
static int covers_ensure(struct editing *e, const struct nb_item *drop, const struct nb_items *near,
                         enum nb_reason *ret_reason) {
    int error = 0;
    for (uint32_t i = 0; i < near->count; i++) {
        const struct nb_item *a = &near->v[i];
        bool above = a->prec > drop->prec && apart(e, a, drop);
        if (above && nb_cube_contains(&a->cube, &drop->cube))
            *ret_reason = NB_REASON_HIDDEN;
        else if (above && nb_refusals_has(e->p->refusals, &a->cube, NB_HW_PUNT))
            *ret_reason = NB_REASON_REFUSED;
        if (*ret_reason != NB_REASON_NONE)
            return 0;
    }
    for (uint32_t i = 0; i < near->count && error == 0; i++)
        if (near->v[i].prec > drop->prec && apart(e, &near->v[i], drop))
            error = punt_ensure(e, &near->v[i]);
    return error != 0 ? error : 1;
}

/* Does any drop in the device stand behind it where it has a say? */
static bool drop_behind(const struct editing *e, const struct nb_item *item) {
    uint64_t credit = nb_credit(e->p->policy, item->rule);
    for (uint32_t i = 0; i < e->next.count; i++) {
        const struct nb_hw_rule *r = &e->next.rules[i];
        if (r->action == NB_HW_DROP && r->prec < item->prec && nb_cube_overlaps(&r->cube, &item->cube) &&
            (!item->drop || (e->p->exact && r->credit != credit)))
            return true;
    }
    return false;
}

static int drop_add(struct editing *e, const struct nb_item *item, enum nb_reason *ret_reason) {
    const struct nb_hw_rule rule = {
        .cube = item->cube, .prec = item->prec, .action = NB_HW_DROP, .credit = nb_credit(e->p->policy, item->rule)};
    struct nb_hw_rule *r = entry_find(e, &item->cube);
    if (r == NULL)
        return entry_add(e, &rule);
    if (r->action == NB_HW_DROP && r->prec > item->prec)
        *ret_reason = NB_REASON_HIDDEN;
    else
        *r = rule;
    return 0;
}

static int item_admit(struct editing *e, const struct nb_item *item, enum nb_reason *ret_reason) {
    struct nb_flatten_params f = flattening(e);
    struct nb_items near;
    if (nb_refusals_has(e->p->refusals, &item->cube, NB_HW_DROP)) {
        *ret_reason = NB_REASON_REFUSED;
        return 0;
    }
    f.near = &item->cube;
    int error = nb_flatten(&f, &near);
    if (error != 0)
        return error;
    error = covers_ensure(e, item, &near, ret_reason);
    nb_items_free(&near);
    return error == 1 ? drop_add(e, item, ret_reason) : error;
}

static int item_bring(struct editing *e, const struct nb_item *item) {
    struct nb_place *place = &e->places[item->rule];
    enum nb_reason reason = NB_REASON_NONE;
    int error = 0;
    if (!nb_cube_exact(&item->cube, e->p->caps))
        return -E2BIG;
    place->entries += item->drop;
    if (item->drop)
        error = item_admit(e, item, &reason);
    if (item->drop && reason == NB_REASON_NONE)
        place->placed += error == 0;
    else if (error == 0 && drop_behind(e, item))
        error = punt_ensure(e, item);
    if (place->reason == NB_REASON_NONE)
        place->reason = (uint8_t)reason;
    return error;
}

/* The device has it already, and it is as it was. */
static bool item_stays(struct editing *e, const struct nb_item *item, const struct nb_index *index, uint8_t *doomed) {
    uint64_t credit = nb_credit(e->p->policy, item->rule);
    uint32_t at = 0, i;
    while (item->drop && nb_index_next(index, &item->cube, &at, &i)) {
        const struct nb_hw_rule *r = &e->p->resident->rules[i];
        if (doomed[i] == 0 || r->prec != item->prec || r->credit != credit || !nb_cube_equal(&r->cube, &item->cube))
            continue;
        doomed[i] = 0;
        e->places[item->rule].entries++;
        e->places[item->rule].placed++;
        return true;
    }
    return false;
}

static int doomed_index(const struct editing *e, const uint8_t *doomed, struct nb_index *ret_index) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < e->p->resident->count; i++)
        count += doomed[i];
    int error = nb_index_create(count, ret_index);
    for (uint32_t i = 0; i < e->p->resident->count && error == 0; i++)
        if (doomed[i] != 0)
            nb_index_add(ret_index, &e->p->resident->rules[i].cube, i);
    return error;
}

static int items_bring(struct editing *e, const struct nb_items *items, uint8_t *doomed) {
    bool *stays = calloc(items->count + 1u, sizeof *stays);
    uint32_t more = 0;
    struct nb_index index = {.slots = NULL};
    int error = stays == NULL ? -ENOMEM : doomed_index(e, doomed, &index);
    for (uint32_t i = 0; i < items->count && error == 0; i++) {
        stays[i] = item_stays(e, &items->v[i], &index, doomed);
        more += !stays[i];
    }
    if (more > EDIT_ITEMS)
        error = -E2BIG;
    for (uint32_t i = 0; i < e->p->resident->count && error == 0; i++)
        if (doomed[i] != 0) {
            e->next.rules[i].action = NB_HW_PUNT;
            e->next.rules[i].credit = 0;
        }
    for (uint32_t i = 0; i < items->count && error == 0; i++)
        if (!stays[i])
            error = item_bring(e, &items->v[i]);
    nb_index_free(&index);
    free(stays);
    return error;
}

/* --- another policy ---------------------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Drops of places that are gone, by resident entry. */
static int doom(const struct nb_plan *was, const struct nb_difference *d, const struct nb_program *resident,
                uint8_t *doomed) {
    uint32_t *ranks = malloc((was->count + 1u) * sizeof *ranks), count = 0;
    if (ranks == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < was->count; i++)
        if (d->gone[i])
            ranks[count++] = was->ranks[i];
    qsort(ranks, count, sizeof *ranks, by_number);
    for (uint32_t i = 0; i < resident->count && count > 0; i++) {
        const struct nb_hw_rule *r = &resident->rules[i];
        uint32_t below = r->prec - 1; /* a cell's is one above its rank */
        doomed[i] = r->action == NB_HW_DROP && (bsearch(&r->prec, ranks, count, sizeof *ranks, by_number) != NULL ||
                                                bsearch(&below, ranks, count, sizeof *ranks, by_number) != NULL);
    }
    free(ranks);
    return 0;
}

static struct nb_place *places_follow(const struct nb_plan *was, const struct nb_difference *d, uint32_t count,
                                      const struct nb_items *items) {
    struct nb_place *places = calloc(count, sizeof *places);
    for (uint32_t i = 0; places != NULL && i < count; i++) {
        if (d->from[i] != NB_NONE)
            places[i] = was->places[d->from[i]];
        else
            places[i].reason = items->reasons[i];
    }
    return places;
}

static uint32_t places_of(const struct nb_partition_params *p) {
    return p->policy->rule_count + NB_TIER_COUNT;
}

static bool fits(const struct editing *e) {
    uint32_t max = e->p->caps->rule_max;
    if (e->p->rule_max != 0 && e->p->rule_max < max)
        max = e->p->rule_max;
    return e->next.count <= max;
}

/* Takes the ranks out of `d` when it succeeds. */
static int edit(const struct nb_plan *was, struct nb_difference *d, const struct nb_partition_params *p,
                struct nb_plan *ret_plan, struct nb_program *ret_program) {
    struct editing e = {.ranks = d->ranks};
    struct nb_items fresh = {.reasons = NULL};
    uint8_t *doomed = calloc(p->resident->count + 1u, 1);
    int error = doomed == NULL ? -ENOMEM : editing_begin(&e, p);
    if (error != 0) {
        free(doomed);
        return error;
    }
    struct nb_flatten_params f = flattening(&e);
    f.only = d->fresh;
    error = nb_flatten(&f, &fresh);
    if (error == 0 && (e.places = places_follow(was, d, places_of(p), &fresh)) == NULL)
        error = -ENOMEM;
    if (error == 0)
        error = doom(was, d, p->resident, doomed);
    if (error == 0)
        error = items_bring(&e, &fresh, doomed);
    if (error == 0 && !fits(&e))
        error = -E2BIG;
    if (fresh.reasons != NULL)
        nb_items_free(&fresh);
    free(doomed);
    if (error != 0) {
        free(e.places);
        nb_program_free(&e.next);
        return error;
    }
    *ret_plan = (struct nb_plan){.places = e.places, .ranks = d->ranks, .count = places_of(p), .rough = true};
    d->ranks = NULL;
    *ret_program = e.next;
    return 0;
}

void nb_plan_free(struct nb_plan *plan) {
    free(plan->places);
    free(plan->ranks);
    *plan = (struct nb_plan){.places = NULL};
}

int nb_plan_make(const struct nb_partition_params *params, struct nb_plan *ret_plan, struct nb_program *ret_program) {
    struct nb_partition_params p = *params;
    struct nb_plan plan = {.count = places_of(params)};
    if (nb_ranked(p.caps) && p.world->disjoint && (plan.ranks = nb_ranks_make(p.policy)) == NULL)
        return -ENOMEM;
    p.ranks = plan.ranks;
    int error = nb_partition(&p, ret_program, &plan.places);
    if (error != 0)
        nb_plan_free(&plan);
    else
        *ret_plan = plan;
    return error;
}

int nb_plan_follow(const struct nb_plan *plan, const struct nb_policy *old, const struct nb_partition_params *p,
                   struct nb_plan *ret_plan, struct nb_program *ret_program) {
    struct nb_difference d;
    if (plan->ranks == NULL || plan->broken || old == NULL || p->resident == NULL || p->heat != NULL ||
        !p->world->disjoint)
        return nb_plan_make(p, ret_plan, ret_program);
    int error = nb_difference_make(old, plan->ranks, p->policy, &d);
    if (error == 0) {
        error = edit(plan, &d, p, ret_plan, ret_program);
        nb_difference_free(&d);
    }
    return error == -E2BIG ? nb_plan_make(p, ret_plan, ret_program) : error;
}

/* --- sockets ----------------------------------------------------------------------------------------------------- */

/* What rules that ask for owners or states say in these cells. */
static int cells_flatten(const struct nb_plan *plan, const struct nb_partition_params *p, const struct nb_cell *cells,
                         uint32_t count, struct nb_items *ret_items) {
    const struct nb_world world = {
        .cells = cells, .cell_count = count, .disjoint = true, .no_rest = true, .rest = p->world->rest};
    const struct editing e = {.p = p, .ranks = plan->ranks};
    struct nb_flatten_params f = flattening(&e);
    f.world = &world;
    return nb_flatten(&f, ret_items);
}

int nb_plan_come(struct nb_plan *plan, const struct nb_partition_params *p, const struct nb_cell *cells, uint32_t count,
                 struct nb_program *program) {
    struct editing e = {.p = p, .ranks = plan->ranks, .places = plan->places, .next = *program};
    struct nb_items items;
    if (plan->ranks == NULL || plan->broken)
        return -E2BIG;
    int error = cells_flatten(plan, p, cells, count, &items);
    if (error != 0)
        return error;
    if (items.count > EDIT_ITEMS)
        error = -E2BIG;
    for (uint32_t i = 0; i < items.count && error == 0; i++)
        error = item_bring(&e, &items.v[i]);
    if (error == 0 && !fits(&e))
        error = -E2BIG;
    bool any = items.count > 0;
    nb_items_free(&items);
    if (error != 0 || !any)
        return error != 0 ? error : -ENOENT;
    plan->rough = true;
    *program = e.next;
    return 0;
}

int nb_plan_go(struct nb_plan *plan, const struct nb_partition_params *p, const struct nb_cell *cells, uint32_t count,
               struct nb_program *program) {
    bool any = false;
    (void)p;
    if (plan->broken)
        return -E2BIG;
    for (uint32_t i = 0; i < program->count; i++) {
        struct nb_hw_rule *r = &program->rules[i];
        for (uint32_t k = 0; k < count && r->action == NB_HW_DROP; k++) {
            if (!nb_cube_contains(&cells[k].cube, &r->cube))
                continue;
            r->action = NB_HW_PUNT;
            r->credit = 0;
            any = true;
        }
    }
    plan->rough = plan->rough || any;
    return any ? 0 : -ENOENT;
}
