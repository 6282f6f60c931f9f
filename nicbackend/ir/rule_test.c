/* SPDX-License-Identifier: Apache-2.0
 *
 * Sets against the plainest possible ones, and every line of the check of a policy.
 */
#include "nicbackend/ir/rule.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

Test(rule_set, ranges_are_what_was_put_in) {
    srand(2);
    for (int round = 0; round < 2000; round++) {
        struct nb_range r[12];
        bool in[128] = {false};
        struct nb_set s = {.kind = NB_SET_PORT, .count = (uint32_t)(rand() % 13), .ranges = r};
        for (uint32_t i = 0; i < s.count; i++) {
            r[i].lo = (uint32_t)(rand() % 100);
            r[i].hi = r[i].lo + (uint32_t)(rand() % 12);
            for (uint32_t v = r[i].lo; v <= r[i].hi; v++)
                in[v] = true;
        }
        cr_assert_eq(nb_set_normalise(&s), 0);
        for (uint32_t v = 0; v < 128; v++)
            cr_assert_eq(nb_set_has(&s, v), in[v]);
        for (uint32_t i = 1; i < s.count; i++)
            cr_assert_gt(r[i].lo, r[i - 1].hi + 1);
    }
}

static struct nb_addr addr_of(uint32_t v) {
    return nb_addr_from_v4((uint8_t[]){(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v});
}

Test(rule_set, addresses_are_what_was_put_in) {
    srand(3);
    for (int round = 0; round < 2000; round++) {
        struct nb_addr_range r[12];
        bool in[600] = {false};
        struct nb_set s = {.kind = NB_SET_ADDR, .count = (uint32_t)(rand() % 13), .addrs = r};
        for (uint32_t i = 0; i < s.count; i++) {
            uint32_t lo = (uint32_t)(rand() % 500), hi = lo + (uint32_t)(rand() % 40);
            r[i] = (struct nb_addr_range){addr_of(lo), addr_of(hi)};
            for (uint32_t v = lo; v <= hi; v++)
                in[v] = true;
        }
        cr_assert_eq(nb_set_normalise(&s), 0);
        for (uint32_t v = 0; v < 600; v++) {
            struct nb_addr a = addr_of(v);
            cr_assert_eq(nb_set_has_addr(&s, &a), in[v]);
        }
    }
}

Test(rule_set, the_ends_of_the_space) {
    struct nb_range r[] = {{UINT32_MAX, UINT32_MAX}, {0, 0}, {1, UINT32_MAX - 1}};
    struct nb_set s = {.kind = NB_SET_ID, .count = 3, .ranges = r};
    cr_assert_eq(nb_set_normalise(&s), 0);
    cr_assert_eq(s.count, 1);
    cr_assert(nb_set_has(&s, UINT32_MAX) && nb_set_has(&s, 0));

    struct nb_addr lowest = {{0}}, highest;
    memset(&highest, 0xff, sizeof highest);
    struct nb_addr_range a[] = {{lowest, highest}, {highest, highest}};
    s = (struct nb_set){.kind = NB_SET_ADDR, .count = 2, .addrs = a};
    cr_assert_eq(nb_set_normalise(&s), 0);
    cr_assert_eq(s.count, 1);
    cr_assert(nb_set_has_addr(&s, &highest) && nb_set_has_addr(&s, &lowest));
}

Test(rule_set, a_range_the_wrong_way_round_is_refused) {
    struct nb_range r[] = {{5, 4}};
    struct nb_set s = {.kind = NB_SET_PORT, .count = 1, .ranges = r};
    cr_assert_eq(nb_set_normalise(&s), -EINVAL);
    struct nb_addr_range a[] = {{addr_of(2), addr_of(1)}};
    s = (struct nb_set){.kind = NB_SET_ADDR, .count = 1, .addrs = a};
    cr_assert_eq(nb_set_normalise(&s), -EINVAL);
    struct nb_set empty = {.kind = NB_SET_ADDR};
    cr_assert_eq(nb_set_normalise(&empty), 0);
    struct nb_addr any = {{0}};
    cr_assert(!nb_set_has_addr(&empty, &any));
}

/* --- the check ------------------------------------------------------------------------------------------------- */

/* A policy with one of everything, all in order. */
struct whole {
    struct nb_range ports[2], ids[1];
    struct nb_addr_range addrs[2];
    struct nb_set sets[3];
    struct nb_owner_match owners[1];
    struct nb_limit limits[1];
    struct nb_rule rules[2];
    struct nb_policy policy;
};

static void whole_make(struct whole *w) {
    *w = (struct whole){
        .ports = {{10, 20}, {30, 40}},
        .ids = {{0, 0}},
        .addrs = {{addr_of(1), addr_of(2)}, {addr_of(9), addr_of(9)}},
        .owners = {{.fields = NB_OWNER_UID, .uids = 2}},
        .limits = {{.rate = 1, .burst = 1, .flags = NB_LIMIT_PER_SOURCE, .source_max = 4}},
    };
    w->sets[0] = (struct nb_set){.kind = NB_SET_PORT, .count = 2, .ranges = w->ports};
    w->sets[1] = (struct nb_set){.kind = NB_SET_ADDR, .count = 2, .addrs = w->addrs};
    w->sets[2] = (struct nb_set){.kind = NB_SET_ID, .count = 1, .ranges = w->ids};
    w->rules[0] = (struct nb_rule){.tier = NB_TIER_HOST,
                                   .limit = 0,
                                   .match = {.fields = NB_F_DPORT_SET | NB_F_SRC_SET, .src_set = 1, .owner = 0},
                                   .action = {.verdict = NB_DROP, .counter = 0}};
    w->rules[1] = (struct nb_rule){.tier = NB_TIER_APP,
                                   .limit = NB_NONE,
                                   .match.owner = NB_NONE,
                                   .action = {.verdict = NB_ALLOW, .counter = NB_NONE}};
    w->policy = (struct nb_policy){.rules = w->rules,
                                   .sets = w->sets,
                                   .owners = w->owners,
                                   .limits = w->limits,
                                   .rule_count = 2,
                                   .set_count = 3,
                                   .owner_count = 1,
                                   .limit_count = 1,
                                   .counter_count = 1};
    for (int t = 0; t < NB_TIER_COUNT; t++)
        w->policy.defaults[t] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
}

static int whole_check(const struct whole *w, char *err) {
    return nb_policy_check(&w->policy, err, 128);
}

Test(rule_check, a_whole_policy_passes) {
    struct whole w;
    char err[128] = "";
    whole_make(&w);
    cr_assert_eq(whole_check(&w, err), 0, "%s", err);
}

#define REFUSED(...)                                                                                                   \
    do {                                                                                                               \
        struct whole w;                                                                                                \
        char err[128] = "";                                                                                            \
        whole_make(&w);                                                                                                \
        __VA_ARGS__;                                                                                                   \
        cr_assert_eq(whole_check(&w, err), -EINVAL, "%s", #__VA_ARGS__);                                               \
        cr_assert_neq(err[0], 0);                                                                                      \
    } while (0)

Test(rule_check, every_fault_is_named) {
    REFUSED(w.sets[0].kind = 9);
    REFUSED(w.ports[1].lo = 21);
    REFUSED(w.ports[1].hi = 70000);
    REFUSED(w.addrs[1] = (struct nb_addr_range){addr_of(3), addr_of(3)});
    REFUSED(w.owners[0].fields = 0);
    REFUSED(w.owners[0].fields = 1u << 20);
    REFUSED(w.owners[0].invert = NB_OWNER_PID);
    REFUSED(w.owners[0].fields |= NB_OWNER_NOBODY);
    REFUSED(w.owners[0].uids = 3);
    REFUSED(w.owners[0].uids = 0);
    REFUSED(w.owners[0] = (struct nb_owner_match){.fields = NB_OWNER_GID, .gids = 1});
    REFUSED(memset(w.owners[0].comm, 'x', NB_COMM_SIZE));
    REFUSED(w.limits[0].burst = 0);
    REFUSED(w.limits[0].burst = UINT64_MAX);
    REFUSED(w.limits[0].rate = UINT64_MAX);
    REFUSED(w.limits[0].flags = 1u << 9);
    REFUSED(w.limits[0].source_max = 0);
    REFUSED(w.limits[0].source_max = UINT32_MAX);
    REFUSED(w.limits[0].flags = 0);
    REFUSED(w.rules[0].tier = NB_TIER_COUNT);
    REFUSED(w.rules[1].tier = NB_TIER_PLATFORM);
    REFUSED(w.rules[0].match.fields = 1u << 30);
    REFUSED(w.rules[0].match.invert = NB_F_DST);
    REFUSED(w.rules[0].match.owner = 1);
    REFUSED(w.rules[0].limit = 1);
    REFUSED(w.rules[0].match.src_set = 0);
    REFUSED(w.rules[0].match.dport_set = 7);
    REFUSED(w.rules[0].action.verdict = 9);
    REFUSED(w.rules[0].action.reject = 9);
    REFUSED(w.rules[0].action.flags = 1u << 12);
    REFUSED(w.rules[0].action.counter = 1);
    REFUSED((w.rules[0].action.flags = NB_ACT_MARK, w.rules[0].action.mark = 1));
    REFUSED(w.policy.defaults[1].verdict = NB_CONTINUE);
    REFUSED(w.policy.defaults[2].counter = 4);
}

Test(rule_check, values_that_no_packet_has_are_refused) {
    REFUSED(w.rules[1].match.fields = NB_F_DIR);
    REFUSED((w.rules[1].match.fields = NB_F_VLAN, w.rules[1].match.vlan = 4096));
    REFUSED((w.rules[1].match.fields = NB_F_SRC, w.rules[1].match.src.b[3] = 1));
    REFUSED((w.rules[1].match.fields = NB_F_DST, w.rules[1].match.dst.b[3] = 1));
    REFUSED((w.rules[1].match.fields = NB_F_SPORT, w.rules[1].match.sport.lo = 1));
    REFUSED((w.rules[1].match.fields = NB_F_DPORT, w.rules[1].match.dport.hi = 65536));
    REFUSED((w.rules[1].match.fields = NB_F_TCP_FLAGS, w.rules[1].match.tcp_flags = 2));
    REFUSED((w.rules[1].match.fields = NB_F_DSCP, w.rules[1].match.dscp = 64));
    REFUSED((w.rules[1].match.fields = NB_F_LENGTH, w.rules[1].match.length.lo = 1));
    REFUSED(w.rules[1].match.fields = NB_F_STATE);
    REFUSED((w.rules[1].match.fields = NB_F_IP_VERSION, w.rules[1].match.ip_version = 5));
}
