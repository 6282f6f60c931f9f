/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine against its specification: random policies, packets and owners are judged by both, by way of the flow
 * cache, with limits and counters; outcomes and all counters must agree. FILTER_DIFFER_POLICIES (environment) raises
 * the number of policies.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "engines/filter/filter_differ.h"
#include "engines/filter/filter_fixture.h"
#include "nicbackend/ir/interpret.h"

#define PACKETS 2000u
#define RECENT  64u /* flows that come again */

static void same_outcome(const struct filter_outcome *got, const struct nb_outcome *want, uint64_t seed, uint32_t n) {
    bool same = got->verdict == want->verdict && got->reject == want->reject && got->flags == want->flags &&
                got->tier == want->tier && got->mark == want->mark && got->class_id == want->class_id &&
                got->steer == want->steer && memcmp(got->rule, want->rule, sizeof got->rule) == 0;
    cr_assert(same, "seed %llu packet %u: verdict %u/%u tier %u/%u rules %d %d %d / %d %d %d flags %x/%x mark %x/%x",
              (unsigned long long)seed, n, got->verdict, want->verdict, got->tier, want->tier, (int)got->rule[0],
              (int)got->rule[1], (int)got->rule[2], (int)want->rule[0], (int)want->rule[1], (int)want->rule[2],
              got->flags, want->flags, got->mark, want->mark);
}

static void same_counters(struct testkit *tk, struct testkit_engine *e, const struct nb_policy *p,
                          const struct nb_meters *m) {
    static struct filter_count got[1024];
    struct filter_cmd_counts c = {.cmd = {FILTER_CMD_COUNTS, sizeof c}, .count = 1024, .counts = got};
    cr_assert_eq(testkit_command(tk, e, &c).value, p->rule_count);
    for (uint32_t i = 0; i < p->rule_count; i++) {
        struct nb_count want = nb_meters_rule(m, i);
        cr_assert(got[i].packets == want.packets && got[i].bytes == want.bytes, "rule %u", i);
    }
    c.named = true;
    cr_assert_eq(testkit_command(tk, e, &c).value, p->counter_count);
    for (uint32_t i = 0; i < p->counter_count; i++) {
        struct nb_count want = nb_meters_counter(m, i);
        cr_assert(got[i].packets == want.packets && got[i].bytes == want.bytes, "counter %u", i);
    }
}

struct flow_of {
    struct nb_view view;
    uint32_t owner;
};

static void one_policy(struct testkit *tk, struct testkit_engine *e, struct differ *d, uint64_t seed, uint32_t rules) {
    struct filter_owner owners[DIFFER_OWNERS - 1];
    struct flow_of recent[RECENT];
    struct nb_meters *meters;
    char err[128];
    differ_policy(d, seed, rules);
    cr_assert_eq(nb_policy_check(&d->policy, err, sizeof err), 0, "%s", err);
    for (uint32_t i = 1; i < DIFFER_OWNERS; i++)
        owners[i - 1] = (struct filter_owner){i, &d->owners[i]};
    cr_assert_eq(fixture_install(tk, e, &d->policy, owners, DIFFER_OWNERS - 1), 0);
    cr_assert_eq(nb_meters_create(&d->policy, &meters), 0);
    struct filter_state *st = (struct filter_state *)e->st;
    tk->io.counters = e->counters;
    for (uint32_t i = 0; i < PACKETS; i++) {
        struct nb_outcome want;
        struct filter_outcome got;
        struct filter_case c;
        uint32_t k = differ_roll(d, RECENT);
        if (i < RECENT || differ_roll(d, 3) == 0) {
            k = i % RECENT;
            differ_view(d, &recent[k].view);
            recent[k].owner = differ_roll(d, DIFFER_OWNERS);
        }
        const struct nb_view v = recent[k].view;
        uint32_t owner = recent[k].owner;
        tk->io.now += 1 + differ_roll(d, 1000000);
        c.bytes = v.bytes;
        c.now = tk->io.now;
        filter_words_of_view(&v, owner, &c.words);
        struct filter_image *img = filter_active(st);
        filter_judge(st, &tk->io, img, filter_line_at(st, img, &c.words), &c, &got);
        nb_interpret(&d->policy, meters, &v, owner == 0 ? NULL : &d->owners[owner], tk->io.now, &want);
        same_outcome(&got, &want, seed, i);
    }
    same_counters(tk, e, &d->policy, meters);
    nb_meters_destroy(meters);
}

Test(filter_differ, engine_and_interpreter_agree) {
    const char *wanted = getenv("FILTER_DIFFER_POLICIES");
    uint32_t policies = wanted != NULL ? (uint32_t)atoi(wanted) : 150;
    struct testkit *tk = testkit_create();
    struct differ *d = malloc(sizeof *d);
    struct testkit_engine e;
    testkit_open(&e, &usher_engine_filter, &fixture_config, 3);
    for (uint32_t i = 0; i < policies; i++)
        one_policy(tk, &e, d, i + 1, i % 3 == 0 ? i % 20 : i % DIFFER_RULES);
    fprintf(stderr, "%u policies, %u packets each: %llu misses, %llu not cached\n", policies, PACKETS,
            (unsigned long long)e.counters[FILTER_COUNT_MISSES], (unsigned long long)e.counters[FILTER_COUNT_UNCACHED]);
    cr_assert_eq(e.ops->check(e.st), 0);
    testkit_close(tk, &e);
    testkit_destroy(tk);
    free(d);
}
