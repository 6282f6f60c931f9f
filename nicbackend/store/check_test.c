/* SPDX-License-Identifier: Apache-2.0
 *
 * The proof by walking: random policies, sockets, devices and failures over a world so small that after every single
 * operation each packet can be asked about. A device may drop only what the policy in force always drops; after a
 * change that met no failure its counters, too, are those of the rule that software would have counted.
 * NB_CHECK_WORLDS (environment) raises the number of worlds.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/model/model.h"
#include "nicbackend/partition/plan.h"
#include "nicbackend/store/store.h"
#include "nicbackend/store/world_fixture.h"

#define CHANGES 6

struct trial {
    uint64_t seed, rng;
    struct nb_view views[TOY_POINTS];
    struct nb_key keys[TOY_POINTS];
    uint32_t points;
    struct toy toys[2];
    struct toy *force, *next; /* the policy in force, and the one to come */
    struct nb_model *model;
    struct nb_store *store;
    struct nb_model_params params;
    bool watching;
    bool planned, exact; /* changes are edits where they can be */
    struct nb_plan plan;
};

static struct { uint64_t states, changes, edits, drops, unsound, failures; } seen;

static uint32_t roll(struct trial *t, uint32_t n) {
    return toy_roll(&t->rng, n);
}

/* --- what may never be ----------------------------------------------------------------------------------------- */

static void look(void *arg) {
    struct trial *t = arg;
    uint64_t credit;
    if (!t->watching)
        return;
    seen.states++;
    for (uint32_t i = 0; i < t->points; i++) {
        if (!nb_model_may_drop(t->model, &t->keys[i], &credit))
            continue;
        seen.drops++;
        seen.unsound += !t->force->drops[i];
        cr_assert(t->force->drops[i], "world %llu: packet %u (proto %u dport %u) dies, software lets it live",
                  (unsigned long long)t->seed, i, t->views[i].proto, t->views[i].dport);
    }
}

static void look_at_counters(struct trial *t) {
    uint64_t credit;
    for (uint32_t i = 0; i < t->points; i++) {
        if (!nb_model_may_drop(t->model, &t->keys[i], &credit))
            continue;
        cr_assert(t->force->alone[i] && credit == t->force->credit[i], "world %llu: packet %u is counted by %llu",
                  (unsigned long long)t->seed, i, (unsigned long long)credit);
    }
}

static int commit(void *arg) {
    struct trial *t = arg;
    struct toy *was = t->force;
    if (roll(t, 10) == 0)
        return -ENOMEM;
    t->force = t->next;
    t->next = was;
    look(t); /* the very moment */
    return 0;
}

/* --- devices and changes --------------------------------------------------------------------------------------- */

static void some_caps(struct trial *t, struct nb_caps *caps) {
    static const uint32_t sizes[] = {0, 1, 3, 8, 30, 500}, masks[] = {1, 3, 8, 1000}, levels[] = {1, 2, 3, 5, 100};
    const bool able = t->planned || roll(t, 2) != 0;
    *caps = (struct nb_caps){.order = (uint8_t)roll(t, 3),
                             .unique = roll(t, 2) != 0,
                             .counters = true,
                             .survives = true,
                             .inner_match = roll(t, 8) == 0,
                             .frag_ports = !able && roll(t, 3) == 0,
                             .rule_max = sizes[roll(t, 6)],
                             .mask_max = masks[roll(t, 4)],
                             .levels = levels[roll(t, 5)]};
    if (t->planned) {
        caps->order = NB_ORDER_PRIO;
        caps->levels = UINT32_MAX;
        caps->inner_match = false;
    }
    for (uint32_t f = 0; f < NB_KEY_COUNT; f++)
        caps->match[f] = (uint8_t)(able ? NB_MATCH_MASK : roll(t, 4));
    if (!able)
        caps->match[NB_KEY_PARSED] = NB_MATCH_NONE;
}

static void some_failure(struct trial *t) {
    static const int errors[] = {-ENOSPC, -EOPNOTSUPP, -EIO, -EAGAIN, -ENODEV};
    t->params.fail_at = roll(t, 2) ? 1 + roll(t, 12) : 0;
    t->params.fail_error = errors[roll(t, 5)];
    t->params.die_at = roll(t, 6) == 0 ? 1 + roll(t, 12) : 0;
    nb_model_renew(t->model, &t->params);
    seen.failures += t->params.fail_at != 0 || t->params.die_at != 0;
}

static void no_failure(struct trial *t) {
    t->params.fail_at = t->params.die_at = 0;
    nb_model_renew(t->model, &t->params);
}

static void some_next(struct trial *t) {
    uint64_t seed = roll(t, 1u << 30);
    if (t->planned) {
        toy_copy(t->next, t->force);
        t->next->rng = seed;
        for (uint32_t n = 1 + roll(t, 2); n > 0; n--)
            toy_nudge(t->next);
        return toy_judge(t->next);
    }
    toy_policy(t->next, roll(t, 4) ? seed : t->force->policy.revision);
    t->next->rng = seed;
    if (roll(t, 2))
        toy_world(t->next);
    toy_judge(t->next);
}

static int bring(struct trial *t, const struct nb_program *program, int (*fn)(void *arg), struct nb_update *u) {
    cr_assert_leq(program->count, nb_store_caps(t->store)->rule_max);
    *u = (struct nb_update){.commit = fn, .arg = t};
    return nb_store_update(t->store, program, u);
}

/* As control does it: what has changed is brought; when that did not succeed, all of it next time. */
static int plan_to(struct trial *t, const struct toy *toy, struct nb_partition_params p, bool with_commit,
                   struct nb_update *u) {
    struct nb_plan next;
    struct nb_program program, resident;
    cr_assert_eq(nb_store_program(t->store, &resident), 0);
    p.resident = &resident;
    p.heat = NULL;
    p.exact = t->exact;
    bool whole = !with_commit || t->plan.places == NULL;
    if (whole)
        cr_assert_eq(nb_plan_make(&p, &next, &program), 0);
    else
        cr_assert_eq(nb_plan_follow(&t->plan, &t->force->policy, &p, &next, &program), 0);
    seen.edits += next.rough;
    cr_assert_eq(next.count, toy->policy.rule_count + NB_TIER_COUNT);
    int error = bring(t, &program, with_commit ? commit : NULL, u);
    next.broken = error != 0 || u->refused != 0;
    nb_program_free(&program);
    nb_program_free(&resident);
    if (u->committed) {
        nb_plan_free(&t->plan);
        t->plan = next;
    } else {
        nb_plan_free(&next);
        t->plan.broken = true;
    }
    return error;
}

static int update_to(struct trial *t, struct toy *toy, bool with_commit, bool exact, struct nb_update *u) {
    uint32_t heat[TOY_RULES + NB_TIER_COUNT];
    struct nb_program program, resident;
    struct nb_place *places;
    for (uint32_t i = 0; i < TOY_RULES + NB_TIER_COUNT; i++)
        heat[i] = roll(t, 100);
    cr_assert_eq(nb_store_program(t->store, &resident), 0);
    const struct nb_partition_params p = {.policy = &toy->policy,
                                          .world = &toy->world,
                                          .caps = nb_store_caps(t->store),
                                          .ifindex = 1,
                                          .exact = exact,
                                          .heat = heat,
                                          .resident = roll(t, 2) ? &resident : NULL,
                                          .refusals = nb_store_refusals(t->store)};
    if (t->planned) {
        nb_program_free(&resident);
        return plan_to(t, toy, p, with_commit, u);
    }
    cr_assert_eq(nb_partition(&p, &program, &places), 0);
    cr_assert_leq(program.count, nb_store_caps(t->store)->rule_max);
    *u = (struct nb_update){.commit = with_commit ? commit : NULL, .arg = t};
    int error = nb_store_update(t->store, &program, u);
    nb_program_free(&program);
    nb_program_free(&resident);
    free(places);
    return error;
}

/* Sockets go, then others come, under the same policy. Both are edits. */
static void some_sockets(struct trial *t) {
    struct nb_update u;
    struct nb_program resident;
    struct nb_partition_params p = {.policy = &t->force->policy,
                                    .world = &t->force->world,
                                    .caps = nb_store_caps(t->store),
                                    .ifindex = 1,
                                    .exact = t->exact,
                                    .resident = &resident,
                                    .refusals = nb_store_refusals(t->store)};
    cr_assert_eq(nb_store_program(t->store, &resident), 0);
    int went = nb_plan_go(&t->plan, &p, t->force->cells, t->force->world.cell_count, &resident);
    if (went == 0) {
        cr_assert_eq(bring(t, &resident, NULL, &u), 0);
        t->plan.broken = t->plan.broken || u.refused != 0;
    } else if (went == -E2BIG) {
        t->force->world.cell_count = 0;
        cr_assert_eq(plan_to(t, t->force, p, false, &u), 0);
    }
    nb_program_free(&resident);
    toy_sockets(t->force);
    toy_judge(t->force);
    look(t);
    cr_assert_eq(nb_store_program(t->store, &resident), 0);
    some_failure(t);
    if (nb_plan_come(&t->plan, &p, t->force->cells, t->force->world.cell_count, &resident) == 0) {
        int error = bring(t, &resident, NULL, &u);
        t->plan.broken = t->plan.broken || error != 0 || u.refused != 0;
        seen.edits++;
    }
    nb_program_free(&resident);
    no_failure(t);
    look(t);
}

/* The daemon dies and comes back; or the device forgets; or somebody meddles. Then it converges. */
static void some_accident(struct trial *t) {
    struct nb_update u;
    struct nb_error err;
    uint32_t what = roll(t, 4);
    no_failure(t);
    if (what == 0) {
        nb_store_destroy(t->store);
        cr_assert_eq(nb_store_create(nb_model_backend(t->model), &t->store, &err), 0);
    } else if (what == 1) {
        nb_model_reset(t->model, 256);
    } else {
        t->watching = false;
        nb_model_reset(t->model, 100);
        struct nb_hw_rule foreign = {.action = NB_HW_DROP, .prec = 0, .credit = 7};
        if (what == 2)
            (void)nb_model_intrude(t->model, &foreign);
    }
    cr_assert_geq(nb_store_audit(t->store, &err), 0);
    t->plan.broken = true;
    t->watching = true;
    look(t);
    cr_assert_eq(nb_store_audit(t->store, &err), 0);
    cr_assert_eq(update_to(t, t->force, false, true, &u), 0);
    if (u.refused == 0 && (t->exact || !t->planned))
        look_at_counters(t);
}

static void some_change(struct trial *t) {
    struct nb_update u;
    bool exact = t->planned ? t->exact : roll(t, 2) != 0;
    struct toy *to = t->next;
    some_next(t);
    some_failure(t);
    int error = update_to(t, to, true, exact, &u);
    cr_assert_eq(u.committed, t->force == to);
    look(t);
    seen.changes++;
    no_failure(t);
    if (error == 0 && exact && u.refused == 0)
        look_at_counters(t);
    if (t->planned && t->plan.places != NULL && roll(t, 2))
        some_sockets(t);
    if (roll(t, 2))
        some_accident(t);
}

static void one_world(uint64_t seed) {
    struct trial *t = calloc(1, sizeof *t);
    struct nb_error err;
    t->seed = t->rng = seed;
    t->points = toy_points(t->views);
    for (uint32_t i = 0; i < t->points; i++)
        nb_key_of_view(&t->views[i], &t->keys[i]);
    t->force = &t->toys[0];
    t->next = &t->toys[1];
    toy_policy(t->force, seed);
    t->force->policy.rule_count = 0;
    t->planned = roll(t, 2) != 0;
    t->exact = roll(t, 2) != 0;
    if (t->planned) {
        toy_policy(t->force, seed);
        toy_sockets(t->force);
    }
    toy_judge(t->force);
    some_caps(t, &t->params.caps);
    t->params.seed = seed;
    t->params.delayed = roll(t, 2) != 0;
    t->params.refuse_in = roll(t, 3) ? 0 : 2 + roll(t, 10);
    t->params.watch = look;
    t->params.watch_arg = t;
    t->watching = true;
    cr_assert_eq(nb_model_create(&t->params, &t->model), 0);
    cr_assert_eq(nb_store_create(nb_model_backend(t->model), &t->store, &err), 0);
    for (int i = 0; i < CHANGES; i++)
        some_change(t);
    nb_store_destroy(t->store);
    nb_model_destroy(t->model);
    nb_plan_free(&t->plan);
    free(t);
}

Test(nic_check, no_state_is_unsound) {
    const char *env = getenv("NB_CHECK_WORLDS");
    uint64_t worlds = env != NULL ? strtoull(env, NULL, 10) : 1500;
    for (uint64_t i = 1; i <= worlds; i++)
        one_world(i);
    cr_log_info("%llu worlds, %llu changes, %llu edits, %llu with failures, %llu states, %llu drops asked about, %llu "
                "unsound\n",
                (unsigned long long)worlds, (unsigned long long)seen.changes, (unsigned long long)seen.edits,
                (unsigned long long)seen.failures, (unsigned long long)seen.states, (unsigned long long)seen.drops,
                (unsigned long long)seen.unsound);
    cr_assert_gt(seen.edits, worlds, "too few edits");
    cr_assert_gt(seen.drops, worlds * 10, "the worlds are too tame to prove anything");
}
