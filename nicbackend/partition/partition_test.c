/* SPDX-License-Identifier: Apache-2.0
 *
 * Cubes say what the interpreter says; and what becomes of small policies on devices of several kinds.
 */
#include "nicbackend/partition/partition.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/expand.h"
#include "nicbackend/store/world_fixture.h"

/* --- cubes ----------------------------------------------------------------------------------------------------- */

static bool in_cubes(const struct nb_cubes *cubes, const struct nb_view *v) {
    struct nb_key key;
    nb_key_of_view(v, &key);
    for (uint32_t i = 0; i < cubes->count; i++)
        if (nb_cube_has(&cubes->v[i], &key))
            return true;
    return false;
}

Test(partition_cubes, are_what_matches) {
    const uint32_t hidden = NB_F_STATE | NB_F_LENGTH | NB_F_DIR | NB_F_IFINDEX;
    struct toy *t = calloc(1, sizeof *t);
    struct nb_view views[TOY_POINTS];
    struct nb_cubes cubes;
    bool wide;
    uint32_t n = toy_points(views);
    for (uint64_t seed = 1; seed <= 500; seed++) {
        toy_policy(t, seed);
        for (uint32_t r = 0; r < t->policy.rule_count; r++) {
            struct nb_match *m = &t->rules[r].match;
            m->fields &= ~hidden;
            m->invert &= ~hidden;
            m->owner = NB_NONE;
            cr_assert_eq(nb_expand(&t->policy, m, 4096, &cubes, &wide), 0);
            cr_assert(!wide);
            for (uint32_t i = 0; i < n; i++)
                cr_assert_eq(in_cubes(&cubes, &views[i]), nb_rule_matches(&t->policy, m, &views[i], NULL),
                             "seed %llu rule %u packet %u", (unsigned long long)seed, r, i);
            free(cubes.v);
        }
    }
    free(t);
}

Test(partition_cubes, subtract) {
    uint64_t rng = 1;
    struct nb_cube a, b, pieces[64];
    for (int round = 0; round < 2000; round++) {
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        for (int i = 0; i < 3; i++) { /* a space of six bits */
            a.mask.bytes[i * 20] = (uint8_t)toy_roll(&rng, 4);
            a.value.bytes[i * 20] = (uint8_t)(toy_roll(&rng, 4) & a.mask.bytes[i * 20]);
            b.mask.bytes[i * 20] = (uint8_t)toy_roll(&rng, 4);
            b.value.bytes[i * 20] = (uint8_t)(toy_roll(&rng, 4) & b.mask.bytes[i * 20]);
        }
        int n = nb_cube_subtract(&a, &b, pieces, 64);
        for (uint32_t p = 0; p < 64; p++) {
            struct nb_key k = {.bytes = {[0] = p & 3, [20] = p >> 2 & 3, [40] = p >> 4 & 3}};
            int in = 0;
            for (int i = 0; i < n; i++)
                in += nb_cube_has(&pieces[i], &k);
            cr_assert_eq(in, nb_cube_has(&a, &k) && !nb_cube_has(&b, &k));
        }
    }
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    b.mask.proto = b.value.proto = 3;
    cr_assert_eq(nb_cube_subtract(&a, &b, pieces, 1), -ENOSPC);
}

/* --- small policies -------------------------------------------------------------------------------------------- */

static struct nb_rule rule_of(uint64_t id, uint8_t verdict, uint16_t dport, uint32_t src_bits) {
    struct nb_rule r = {.id = id, .tier = NB_TIER_HOST, .limit = NB_NONE};
    r.action = (struct nb_action){.verdict = verdict, .counter = NB_NONE};
    r.match.owner = NB_NONE;
    r.match.fields = (dport != 0 ? NB_F_DPORT : 0) | (src_bits != 0 ? NB_F_SRC : 0);
    r.match.dport = (struct nb_range){dport, dport};
    for (uint32_t i = 0; i < src_bits; i++)
        r.match.src_mask.b[i / 8] |= (uint8_t)(0x80 >> i % 8);
    r.match.src = nb_addr_from_v4((uint8_t[]){10, 0, 0, 0});
    for (int i = 0; i < 16; i++)
        r.match.src.b[i] &= r.match.src_mask.b[i];
    return r;
}

static struct nb_caps able(void) {
    struct nb_caps c = {.order = NB_ORDER_PRIO, .rule_max = 20000, .mask_max = 1000, .levels = 100};
    memset(c.match, NB_MATCH_MASK, sizeof c.match);
    return c;
}

struct result {
    struct nb_program program;
    struct nb_place *places;
};

static struct result split(const struct nb_rule *rules, uint32_t count, const struct nb_caps *caps,
                           const uint32_t *heat) {
    struct nb_policy policy = {.rules = rules, .rule_count = count};
    for (uint32_t i = 0; i < NB_TIER_COUNT; i++)
        policy.defaults[i] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
    struct nb_world world = NB_WORLD_UNKNOWN;
    struct result r;
    const struct nb_partition_params p = {.policy = &policy, .world = &world, .caps = caps, .ifindex = 1, .heat = heat};
    cr_assert_eq(nb_partition(&p, &r.program, &r.places), 0);
    return r;
}

static void done(struct result *r) {
    nb_program_free(&r->program);
    free(r->places);
}

Test(partition_policies, what_is_allowed_above_a_drop_covers_it) {
    const struct nb_rule rules[] = {rule_of(1, NB_ALLOW, 22, 0), rule_of(2, NB_ALLOW, 0, 104),
                                    rule_of(3, NB_DROP, 22, 120), rule_of(4, NB_DROP, 0, 0)};
    struct nb_caps caps = able();
    struct result r = split(rules, 4, &caps, NULL);
    cr_assert_eq(r.program.count, 11); /* two covers, what no rule is asked about, and the last */
    cr_assert_eq(r.program.rules[10].credit, 4);
    cr_assert_gt(r.program.rules[9].prec, r.program.rules[10].prec);
    cr_assert_eq(r.places[0].reason, NB_REASON_ALLOWS);
    cr_assert_eq(r.places[2].reason, NB_REASON_HIDDEN);
    cr_assert(r.places[3].reason == NB_REASON_NONE && r.places[3].placed == 1);
    done(&r);
}

Test(partition_policies, without_order_a_drop_is_carved) {
    struct nb_rule rules[] = {rule_of(1, NB_ALLOW, 0, 104), rule_of(2, NB_DROP, 0, 102), rule_of(3, NB_DROP, 0, 0)};
    struct nb_caps caps = able();
    rules[1].match.fields |= NB_F_PROTO; /* else there are ICMP's errors to carve out */
    rules[1].match.proto = 17;
    caps.order = NB_ORDER_NONE;
    struct result r = split(rules, 3, &caps, NULL);
    cr_assert_eq(r.places[1].placed, 2);
    cr_assert_eq(r.places[2].reason, NB_REASON_ORDER); /* too many pieces */
    for (uint32_t i = 0; i < r.program.count; i++)
        cr_assert_eq(r.program.rules[i].action, NB_HW_DROP);
    done(&r);
}

Test(partition_policies, the_hottest_get_in) {
    struct nb_rule rules[64];
    uint32_t heat[64 + NB_TIER_COUNT] = {[7] = 10, [60] = 30, [33] = 20};
    struct nb_caps caps = able();
    for (uint16_t i = 0; i < 64; i++)
        rules[i] = rule_of(100u + i, NB_DROP, 1000 + i, 0);
    caps.rule_max = 3;
    struct result r = split(rules, 64, &caps, heat);
    cr_assert_eq(r.program.count, 3);
    cr_assert(r.places[7].placed == 1 && r.places[33].placed == 1 && r.places[60].placed == 1);
    cr_assert_eq(r.places[8].reason, NB_REASON_SPACE);
    done(&r);
}

Test(partition_policies, masks_are_limited) {
    const struct nb_rule rules[] = {rule_of(1, NB_DROP, 1, 0), rule_of(2, NB_DROP, 2, 0), rule_of(3, NB_DROP, 3, 120)};
    struct nb_caps caps = able();
    caps.mask_max = 1;
    struct result r = split(rules, 3, &caps, NULL);
    cr_assert_eq(r.program.count, 2);
    cr_assert_eq(r.places[2].reason, NB_REASON_MASKS);
    done(&r);
}

Test(partition_policies, what_answers_logs_or_limits_stays) {
    struct nb_rule rules[] = {rule_of(1, NB_REJECT, 1, 0), rule_of(2, NB_DROP, 2, 0), rule_of(3, NB_DROP, 3, 0)};
    struct nb_caps caps = able();
    rules[1].action.flags = NB_ACT_LOG;
    rules[2].match.fields |= NB_F_STATE;
    rules[2].match.state = NB_STATE_NEW;
    struct result r = split(rules, 3, &caps, NULL);
    cr_assert_eq(r.program.count, 0);
    cr_assert_eq(r.places[0].reason, NB_REASON_REJECTS);
    cr_assert_eq(r.places[1].reason, NB_REASON_MARKS);
    cr_assert_eq(r.places[2].reason, NB_REASON_STATE);
    for (int i = 0; i < NB_REASON_COUNT; i++)
        cr_assert_not_null(nb_reason_text((enum nb_reason)i));
    done(&r);
}

Test(partition_policies, a_closed_default_lets_hosts_find_each_other) {
    struct nb_policy policy = {.rule_count = 0};
    struct nb_caps caps = able();
    struct nb_world world = NB_WORLD_UNKNOWN;
    struct nb_program program;
    struct nb_place *places;
    const struct nb_partition_params p = {.policy = &policy, .world = &world, .caps = &caps, .ifindex = 1};
    for (uint32_t i = 0; i < NB_TIER_COUNT; i++)
        policy.defaults[i] = (struct nb_action){.verdict = i ? NB_ALLOW : NB_DROP, .counter = NB_NONE};
    cr_assert_eq(nb_partition(&p, &program, &places), 0);
    const struct nb_view views[] = {
        {.ethertype = 0x0806},
        {.ethertype = 0x0800, .parsed = NB_PARSED_IP | NB_PARSED_ICMP, .proto = 1, .icmp_type = 3},
        {.ethertype = 0x86dd, .parsed = NB_PARSED_IP | NB_PARSED_ICMP, .proto = 58, .icmp_type = 2},
        {.ethertype = 0x86dd, .parsed = NB_PARSED_IP | NB_PARSED_ICMP, .proto = 58, .icmp_type = 135},
        {.ethertype = 0x86dd, .parsed = NB_PARSED_IP | NB_PARSED_ICMP, .proto = 58, .icmp_type = 128},
        {.ethertype = 0x0800, .parsed = NB_PARSED_IP | NB_PARSED_PORTS, .proto = 17, .dport = 53},
    };
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
        struct nb_key key;
        uint32_t k = 0;
        nb_key_of_view(&views[i], &key);
        while (k < program.count && !nb_cube_has(&program.rules[k].cube, &key))
            k++;
        cr_assert_lt(k, program.count);
        cr_assert_eq(program.rules[k].action == NB_HW_DROP, i >= 4, "packet %zu", i);
    }
    nb_program_free(&program);
    free(places);
}

Test(partition_policies, ten_thousand_rules) {
    struct nb_rule *rules = calloc(10000, sizeof *rules);
    struct nb_caps caps = able();
    for (uint32_t i = 0; i < 10000; i++) {
        rules[i] = rule_of(i + 1, i % 100 == 99 ? NB_ALLOW : NB_DROP, (uint16_t)(1 + i), 96 + i % 32);
        rules[i].match.src.b[12] = 0;
    }
    struct result r = split(rules, 10000, &caps, NULL);
    cr_assert_eq(r.program.count, 9900);
    done(&r);
    free(rules);
}
