/* SPDX-License-Identifier: Apache-2.0
 *
 * The five phases of store.h.
 */
#include <errno.h>
#include <stdlib.h>

#include "nicbackend/store/store_internal.h"

/* What becomes of each rule of the new program. */
struct step {
    bool kept;      /* the device has it already, */
    uint32_t entry; /* as this one */
    bool blocked;   /* a cover above it is missing: not in this round */
    bool failed;    /* the device did not take it */
};

struct change {
    struct nb_store *s;
    const struct nb_program *next;
    struct nb_update *u;
    struct step *steps;  /* by rule of `next` */
    struct nb_index old; /* entries by cube that are not kept, as they were when the round began */
    bool full;           /* something did not fit: worth another round when the old rules are gone */
    bool progress;
};

static bool same_rule(const struct nb_hw_rule *a, const struct nb_hw_rule *b) {
    return a->prec == b->prec && a->action == b->action && a->credit == b->credit;
}

/* The entry of this cube that the new program does not have; NULL when there is none. */
static struct nb_entry *entry_find(const struct change *c, const struct nb_cube *cube, const struct nb_hw_rule *same) {
    uint32_t at = 0, i;
    while (nb_index_next(&c->old, cube, &at, &i)) {
        struct nb_entry *e = &c->s->entries[i];
        if (!e->gone && !e->wanted && nb_cube_equal(&e->rule.cube, cube) && (same == NULL || same_rule(&e->rule, same)))
            return e;
    }
    return NULL;
}

static void keep(struct change *c, uint32_t rule, struct nb_entry *e) {
    e->wanted = true;
    c->steps[rule] = (struct step){.kept = true, .entry = (uint32_t)(e - c->s->entries)};
    c->u->kept++;
}

/* A program that was made of the one in force has most rules in their old places; the others are looked for. */
static int change_begin(struct change *c) {
    struct nb_store *s = c->s;
    uint32_t count = c->next->count, left = s->count;
    c->steps = calloc(count + 1u, sizeof *c->steps);
    if (c->steps == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < s->count; i++) {
        struct nb_entry *e = &s->entries[i];
        const struct nb_hw_rule *rule = i < count ? &c->next->rules[i] : NULL;
        e->wanted = e->gone = false;
        if (rule == NULL || !same_rule(&e->rule, rule) || !nb_cube_equal(&e->rule.cube, &rule->cube))
            continue;
        keep(c, i, e);
        left--;
    }
    int error = nb_index_create(left, &c->old);
    for (uint32_t i = 0; i < s->count && error == 0; i++)
        if (!s->entries[i].wanted)
            nb_index_add(&c->old, &s->entries[i].rule.cube, i);
    for (uint32_t i = 0; i < count && error == 0; i++) {
        struct nb_entry *e = c->steps[i].kept ? NULL : entry_find(c, &c->next->rules[i].cube, &c->next->rules[i]);
        if (e != NULL)
            keep(c, i, e);
    }
    return error;
}

static void change_end(struct change *c) {
    nb_entries_sweep(c->s);
    nb_index_free(&c->old);
    free(c->steps);
    c->steps = NULL;
}

static void refused(struct change *c, uint32_t i, int error) {
    c->steps[i].failed = true;
    c->u->refused++;
    c->full = c->full || error == -ENOSPC;
    if (error == -EOPNOTSUPP)
        nb_refusals_add(c->s->refusals, &c->next->rules[i], false);
}

static int put(struct change *c, const struct nb_hw_rule *rule) {
    struct nb_entry *e = c->s->caps.unique ? entry_find(c, &rule->cube, NULL) : NULL;
    int error = e != NULL ? nb_entry_swap(c->s, e, rule, &c->u->error) : nb_entry_add(c->s, rule, &c->u->error);
    if (error == 0 && e != NULL)
        e->wanted = true;
    if (error == 0) {
        c->u->added++;
        c->progress = true;
    }
    return error;
}

/* --- the phases ------------------------------------------------------------------------------------------------ */

/* Drops may not be there without this cover: neither new ones nor those that would stay. */
static void block_below(struct change *c, uint32_t cover) {
    const struct nb_hw_rule *punt = &c->next->rules[cover];
    for (uint32_t i = 0; i < c->next->count; i++) {
        const struct nb_hw_rule *drop = &c->next->rules[i];
        if (drop->action != NB_HW_DROP || !nb_cube_overlaps(&drop->cube, &punt->cube))
            continue;
        c->steps[i].blocked = true;
        if (c->steps[i].kept)
            c->s->entries[c->steps[i].entry].wanted = false;
    }
}

/* A punt that is there already, only lower or higher: raised now; lowered in the last phase, when its old height is of
 * no use to anybody. */
static bool stays_high(struct change *c, const struct nb_hw_rule *rule) {
    const struct nb_entry *e = c->s->caps.unique ? entry_find(c, &rule->cube, NULL) : NULL;
    return e != NULL && e->rule.action == NB_HW_PUNT && e->rule.prec > rule->prec;
}

static void add_covers(struct change *c) {
    for (uint32_t i = 0; i < c->next->count; i++) {
        const struct nb_hw_rule *rule = &c->next->rules[i];
        if (c->steps[i].kept || rule->action != NB_HW_PUNT || stays_high(c, rule))
            continue;
        int error = put(c, rule);
        if (error == 0)
            continue;
        refused(c, i, error);
        block_below(c, i);
    }
}

static int delete_all(struct change *c, uint8_t action) {
    for (uint32_t i = 0; i < c->s->count; i++) {
        struct nb_entry *e = &c->s->entries[i];
        if (e->gone || e->wanted || e->rule.action != action)
            continue;
        int error = nb_entry_del(c->s, e, &c->u->error);
        if (error != 0)
            return error;
        c->u->deleted++;
        c->progress = true;
    }
    return 0;
}

static int commit(struct change *c) {
    int error = nb_store_sync(c->s);
    if (error != 0)
        return nb_fail(&c->u->error, error, "the device does not confirm that its old rules are gone");
    if (c->u->commit != NULL && !c->u->committed)
        error = c->u->commit(c->u->arg);
    c->u->committed = error == 0;
    return error;
}

static void add_drops(struct change *c) {
    for (uint32_t i = 0; i < c->next->count; i++) {
        const struct nb_hw_rule *rule = &c->next->rules[i];
        const struct step *step = &c->steps[i];
        if (step->kept || step->blocked || rule->action != NB_HW_DROP)
            continue;
        int error = put(c, rule);
        if (error != 0)
            refused(c, i, error);
    }
}

static void lower_covers(struct change *c) {
    for (uint32_t i = 0; i < c->next->count; i++) {
        const struct nb_hw_rule *rule = &c->next->rules[i];
        if (c->steps[i].kept || rule->action != NB_HW_PUNT || !stays_high(c, rule))
            continue;
        struct nb_entry *e = entry_find(c, &rule->cube, NULL);
        e->wanted = true; /* too high is sound: a failure only wastes */
        (void)nb_entry_swap(c->s, e, rule, &c->u->error);
    }
}

static int round_run(struct change *c) {
    add_covers(c);
    int error = delete_all(c, NB_HW_DROP);
    if (error != 0)
        return error;
    error = commit(c);
    if (error != 0)
        return error;
    add_drops(c);
    lower_covers(c);
    (void)delete_all(c, NB_HW_PUNT);
    return nb_store_sync(c->s);
}

int nb_store_update(struct nb_store *s, const struct nb_program *next, struct nb_update *u) {
    struct change c = {.s = s, .next = next, .u = u};
    int error = 0;
    u->added = u->deleted = u->kept = u->refused = 0;
    u->committed = false;
    u->error.text[0] = '\0';
    for (int round = 0; round == 0 || (c.full && c.progress && round < 4 && error == 0); round++) {
        c.full = c.progress = false;
        u->refused = u->kept = 0;
        error = change_begin(&c);
        if (error == 0)
            error = round_run(&c);
        change_end(&c);
    }
    return error;
}
