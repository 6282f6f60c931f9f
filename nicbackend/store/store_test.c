/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's bookkeeping: what is kept, what is counted, what a refusal teaches. Soundness is check_test.c's.
 */
#include "nicbackend/store/store.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/model/model.h"

static struct nb_hw_rule rule_of(uint8_t action, uint32_t prec, uint8_t dport, uint64_t credit) {
    struct nb_hw_rule r = {.action = action, .prec = prec, .credit = credit};
    r.cube.mask.dport[1] = 0xff;
    r.cube.value.dport[1] = dport;
    return r;
}

struct fixture {
    struct nb_model_params params;
    struct nb_model *model;
    struct nb_store *store;
    struct nb_update u;
};

static void begin(struct fixture *f, bool unique) {
    memset(f, 0, sizeof *f);
    f->params.caps = (struct nb_caps){
        .order = NB_ORDER_PRIO, .unique = unique, .counters = true, .rule_max = 4, .mask_max = 9, .levels = 9};
    memset(f->params.caps.match, NB_MATCH_MASK, sizeof f->params.caps.match);
    cr_assert_eq(nb_model_create(&f->params, &f->model), 0);
    cr_assert_eq(nb_store_create(nb_model_backend(f->model), &f->store, NULL), 0);
}

static void end(struct fixture *f) {
    nb_store_destroy(f->store);
    nb_model_destroy(f->model);
}

static int update(struct fixture *f, struct nb_hw_rule *rules, uint32_t count) {
    const struct nb_program p = {.rules = rules, .count = count};
    f->u = (struct nb_update){.commit = NULL};
    return nb_store_update(f->store, &p, &f->u);
}

static void send(struct fixture *f, uint8_t dport, uint32_t times) {
    struct nb_key k = {.dport = {0, dport}};
    for (uint32_t i = 0; i < times; i++)
        (void)nb_model_packet(f->model, &k, 60);
}

static void add_packets(void *arg, uint64_t credit, struct nb_count count) {
    cr_assert(credit == 10 || credit == 20);
    *(uint64_t *)arg += count.packets;
}

Test(nic_store, what_is_the_same_stays_and_counters_outlive_rules) {
    struct fixture f;
    begin(&f, true);
    struct nb_hw_rule a[] = {rule_of(NB_HW_DROP, 0, 1, 10), rule_of(NB_HW_DROP, 0, 2, 20)};
    cr_assert_eq(update(&f, a, 2), 0);
    send(&f, 1, 3);
    send(&f, 2, 5);
    cr_assert_eq(nb_store_credit(f.store, 10).packets, 3);
    struct nb_hw_rule b[] = {rule_of(NB_HW_DROP, 0, 2, 20), rule_of(NB_HW_DROP, 0, 3, 10)};
    cr_assert_eq(update(&f, b, 2), 0);
    cr_assert(f.u.kept == 1 && f.u.deleted == 1 && f.u.added == 1);
    send(&f, 3, 4);
    cr_assert_eq(nb_store_credit(f.store, 10).packets, 7);
    cr_assert_eq(nb_store_credit(f.store, 10).bytes, 7 * 60);
    cr_assert_eq(nb_store_credit(f.store, 20).packets, 5);
    cr_assert_eq(nb_store_credit(f.store, 30).packets, 0);
    uint64_t sum = 0;
    nb_store_counts(f.store, add_packets, &sum);
    cr_assert_eq(sum, 12);
    end(&f);
}

Test(nic_store, a_drop_becomes_a_cover_in_one_step) {
    struct fixture f;
    begin(&f, true);
    struct nb_hw_rule a[] = {rule_of(NB_HW_DROP, 0, 1, 10)}, b[] = {rule_of(NB_HW_PUNT, 1, 1, 0)};
    cr_assert_eq(update(&f, a, 1), 0);
    send(&f, 1, 2);
    uint32_t before = nb_model_operations(f.model);
    cr_assert_eq(update(&f, b, 1), 0);
    cr_assert_eq(nb_store_count(f.store), 1);
    cr_assert_eq(nb_model_operations(f.model) - before, 3); /* the swap, and two waits */
    cr_assert_eq(nb_store_credit(f.store, 10).packets, 2);
    end(&f);
}

Test(nic_store, what_did_not_fit_beside_the_old_comes_when_the_old_is_gone) {
    struct fixture f;
    begin(&f, false);
    struct nb_hw_rule a[] = {rule_of(NB_HW_PUNT, 1, 1, 0), rule_of(NB_HW_PUNT, 1, 2, 0), rule_of(NB_HW_PUNT, 1, 3, 0)};
    struct nb_hw_rule b[] = {rule_of(NB_HW_PUNT, 1, 4, 0), rule_of(NB_HW_PUNT, 1, 5, 0), rule_of(NB_HW_DROP, 0, 5, 9),
                             rule_of(NB_HW_DROP, 0, 6, 8)};
    cr_assert_eq(update(&f, a, 3), 0);
    cr_assert_eq(update(&f, b, 4), 0);
    cr_assert_eq(nb_store_count(f.store), 4);
    cr_assert_eq(f.u.refused, 0);
    end(&f);
}

Test(nic_store, a_refusal_is_learned) {
    struct fixture f;
    begin(&f, false);
    struct nb_hw_rule a[] = {rule_of(NB_HW_DROP, 0, 1, 10)};
    f.params.fail_at = 2; /* the first waits for the commit */
    f.params.fail_error = -EOPNOTSUPP;
    nb_model_renew(f.model, &f.params);
    cr_assert_eq(update(&f, a, 1), 0);
    cr_assert_eq(f.u.refused, 1);
    cr_assert_eq(strcmp(f.u.error.text, "the model NIC was told to fail"), 0);
    cr_assert(nb_refusals_has(nb_store_refusals(f.store), &a[0].cube, NB_HW_DROP));
    cr_assert(!nb_refusals_has(nb_store_refusals(f.store), &a[0].cube, NB_HW_PUNT));
    end(&f);
}

static int refuse_commit(void *arg) {
    *(bool *)arg = true;
    return -EPERM;
}

Test(nic_store, a_commit_that_fails_adds_nothing) {
    struct fixture f;
    bool asked = false;
    begin(&f, false);
    struct nb_hw_rule a[] = {rule_of(NB_HW_DROP, 0, 1, 10)};
    const struct nb_program p = {.rules = a, .count = 1};
    struct nb_update u = {.commit = refuse_commit, .arg = &asked};
    cr_assert_eq(nb_store_update(f.store, &p, &u), -EPERM);
    cr_assert(asked && !u.committed);
    cr_assert_eq(nb_store_count(f.store), 0);
    end(&f);
}

Test(nic_store, a_successor_finds_the_rules) {
    struct fixture f;
    begin(&f, true);
    struct nb_hw_rule a[] = {rule_of(NB_HW_DROP, 0, 1, 10), rule_of(NB_HW_PUNT, 1, 2, 0)};
    cr_assert_eq(update(&f, a, 2), 0);
    nb_store_destroy(f.store);
    cr_assert_eq(nb_store_create(nb_model_backend(f.model), &f.store, NULL), 0);
    cr_assert_eq(nb_store_count(f.store), 2);
    cr_assert_eq(nb_store_audit(f.store, NULL), 0);
    cr_assert_eq(update(&f, a, 1), 0);
    cr_assert(f.u.kept == 1 && f.u.deleted == 1 && f.u.added == 0);
    end(&f);
}
