/* SPDX-License-Identifier: Apache-2.0
 *
 * Each sentence of rule.h about what a policy means.
 */
#include "nicbackend/ir/interpret.h"

#include <criterion/criterion.h>
#include <string.h>

#define SECOND   1000000000ull
#define RULE_MAX 8

struct fixture {
    struct nb_rule rules[RULE_MAX];
    struct nb_range ids[1], ports[1];
    struct nb_addr_range addrs[1];
    struct nb_set sets[3];
    struct nb_owner_match owners[1];
    struct nb_limit limits[1];
    struct nb_policy policy;
    struct nb_meters *meters;
    struct nb_view view;
};

static struct nb_addr v4(uint8_t last) {
    return nb_addr_from_v4((uint8_t[]){10, 0, 0, last});
}

static void fixture_make(struct fixture *f) {
    *f = (struct fixture){
        .ids = {{1000, 1001}},
        .ports = {{80, 90}},
        .addrs = {{v4(1), v4(9)}},
        .limits = {{.rate = 2, .burst = 3}},
        .view = {.src = v4(1),
                 .dst = v4(2),
                 .length = 60,
                 .bytes = 60,
                 .ethertype = 0x0800,
                 .sport = 1234,
                 .dport = 80,
                 .parsed = NB_PARSED_IP | NB_PARSED_PORTS,
                 .dir = NB_IN,
                 .state = NB_STATE_NEW,
                 .ip_version = 4,
                 .proto = 6,
                 .tcp_flags = 0x02},
    };
    f->sets[0] = (struct nb_set){.kind = NB_SET_ID, .count = 1, .ranges = f->ids};
    f->sets[1] = (struct nb_set){.kind = NB_SET_PORT, .count = 1, .ranges = f->ports};
    f->sets[2] = (struct nb_set){.kind = NB_SET_ADDR, .count = 1, .addrs = f->addrs};
    f->owners[0] = (struct nb_owner_match){.fields = NB_OWNER_UID, .uids = 0};
    f->policy = (struct nb_policy){.rules = f->rules,
                                   .sets = f->sets,
                                   .owners = f->owners,
                                   .limits = f->limits,
                                   .set_count = 3,
                                   .owner_count = 1,
                                   .limit_count = 1,
                                   .counter_count = 1};
    for (int t = 0; t < NB_TIER_COUNT; t++)
        f->policy.defaults[t] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
}

/* Appends a rule that matches everything. */
static struct nb_rule *add(struct fixture *f, enum nb_tier tier, enum nb_verdict verdict) {
    struct nb_rule *r = &f->rules[f->policy.rule_count++];
    *r = (struct nb_rule){.tier = (uint8_t)tier,
                          .limit = NB_NONE,
                          .match.owner = NB_NONE,
                          .action = {.verdict = (uint8_t)verdict, .counter = NB_NONE}};
    return r;
}

static struct nb_outcome ask_at(struct fixture *f, const struct nb_owner *owner, uint64_t now) {
    char err[128];
    struct nb_outcome out;
    cr_assert_eq(nb_policy_check(&f->policy, err, sizeof err), 0, "%s", err);
    nb_interpret(&f->policy, f->meters, &f->view, owner, now, &out);
    return out;
}

static struct nb_outcome ask(struct fixture *f) {
    return ask_at(f, NULL, 0);
}

Test(interpret, the_first_verdict_of_a_tier_decides) {
    struct fixture f;
    fixture_make(&f);
    add(&f, NB_TIER_HOST, NB_ALLOW);
    add(&f, NB_TIER_HOST, NB_DROP);
    struct nb_outcome out = ask(&f);
    cr_assert_eq(out.verdict, NB_ALLOW);
    cr_assert_eq(out.rule[NB_TIER_HOST], 0);
    cr_assert_eq(out.rule[NB_TIER_PLATFORM], NB_RULE_DEFAULT);
}

Test(interpret, a_lower_tier_can_close_and_never_open) {
    struct fixture f;
    fixture_make(&f);
    add(&f, NB_TIER_PLATFORM, NB_ALLOW);
    add(&f, NB_TIER_HOST, NB_REJECT)->action.reject = NB_REJECT_RST;
    add(&f, NB_TIER_APP, NB_ALLOW);
    struct nb_outcome out = ask(&f);
    cr_assert_eq(out.verdict, NB_REJECT);
    cr_assert_eq(out.reject, NB_REJECT_RST);
    cr_assert_eq(out.tier, NB_TIER_HOST);
    cr_assert_eq(out.rule[NB_TIER_PLATFORM], 0);
    cr_assert_eq(out.rule[NB_TIER_HOST], 1);
    cr_assert_eq(out.rule[NB_TIER_APP], NB_RULE_UNASKED);
}

Test(interpret, a_tier_without_a_match_takes_its_default) {
    struct fixture f;
    fixture_make(&f);
    f.policy.defaults[NB_TIER_APP].verdict = NB_DROP;
    struct nb_outcome out = ask(&f);
    cr_assert_eq(out.verdict, NB_DROP);
    cr_assert_eq(out.tier, NB_TIER_APP);
}

Test(interpret, a_rule_without_a_verdict_leaves_its_marks_and_goes_on) {
    struct fixture f;
    fixture_make(&f);
    struct nb_rule *r = add(&f, NB_TIER_HOST, NB_CONTINUE);
    r->action.flags = NB_ACT_MARK | NB_ACT_CLASS | NB_ACT_LOG;
    r->action.mark = 0x11;
    r->action.mark_mask = 0xff;
    r->action.class_id = 5;
    r = add(&f, NB_TIER_HOST, NB_ALLOW);
    r->action.flags = NB_ACT_MARK;
    r->action.mark = 0x20;
    r->action.mark_mask = 0xf0;
    struct nb_outcome out = ask(&f);
    cr_assert_eq(out.mark, 0x21);
    cr_assert_eq(out.class_id, 5);
    cr_assert_eq(out.flags, NB_ACT_MARK | NB_ACT_CLASS | NB_ACT_LOG);
    cr_assert_eq(out.rule[NB_TIER_HOST], 1);
}

Test(interpret, rules_and_named_counters_count) {
    struct fixture f;
    fixture_make(&f);
    add(&f, NB_TIER_HOST, NB_CONTINUE)->action.counter = 0;
    add(&f, NB_TIER_HOST, NB_DROP)->action.counter = 0;
    add(&f, NB_TIER_HOST, NB_ALLOW);
    cr_assert_eq(nb_meters_create(&f.policy, &f.meters), 0);
    ask(&f);
    ask(&f);
    cr_assert_eq(nb_meters_rule(f.meters, 0).packets, 2);
    cr_assert_eq(nb_meters_rule(f.meters, 1).bytes, 120);
    cr_assert_eq(nb_meters_rule(f.meters, 2).packets, 0);
    cr_assert_eq(nb_meters_counter(f.meters, 0).packets, 4);
    nb_meters_destroy(f.meters);
}

Test(interpret, a_limit_is_the_last_part_of_the_match) {
    struct fixture f;
    fixture_make(&f);
    struct nb_rule *other = add(&f, NB_TIER_HOST, NB_DROP); /* does not match: takes no tokens */
    other->limit = 0;
    other->match.fields = NB_F_PROTO;
    other->match.proto = 17;
    add(&f, NB_TIER_HOST, NB_ALLOW)->limit = 0;
    add(&f, NB_TIER_HOST, NB_DROP);
    cr_assert_eq(nb_meters_create(&f.policy, &f.meters), 0);
    for (int i = 0; i < 3; i++) /* the burst */
        cr_assert_eq(ask_at(&f, NULL, SECOND).verdict, NB_ALLOW);
    cr_assert_eq(ask_at(&f, NULL, SECOND).verdict, NB_DROP);
    cr_assert_eq(ask_at(&f, NULL, SECOND + SECOND / 2 - 1).verdict, NB_DROP);
    cr_assert_eq(ask_at(&f, NULL, SECOND + SECOND / 2).verdict, NB_ALLOW); /* two a second */
    cr_assert_eq(ask_at(&f, NULL, SECOND + SECOND / 2).verdict, NB_DROP);
    for (int i = 0; i < 3; i++) /* never more than the burst */
        cr_assert_eq(ask_at(&f, NULL, 100 * SECOND).verdict, NB_ALLOW);
    cr_assert_eq(ask_at(&f, NULL, 100 * SECOND).verdict, NB_DROP);
    nb_meters_destroy(f.meters);
}

Test(interpret, over_the_limit_and_in_bytes) {
    struct fixture f;
    fixture_make(&f);
    f.limits[0] = (struct nb_limit){.rate = 60, .burst = 120, .flags = NB_LIMIT_BYTES | NB_LIMIT_OVER};
    add(&f, NB_TIER_HOST, NB_DROP)->limit = 0;
    cr_assert_eq(nb_meters_create(&f.policy, &f.meters), 0);
    static const enum nb_verdict expected[] = {NB_ALLOW, NB_ALLOW, NB_DROP};
    for (int i = 0; i < 3; i++)
        cr_assert_eq(ask(&f).verdict, expected[i]);
    cr_assert_eq(ask_at(&f, NULL, SECOND).verdict, NB_ALLOW);
    cr_assert_eq(ask_at(&f, NULL, SECOND).verdict, NB_DROP);
    nb_meters_destroy(f.meters);
}

static enum nb_verdict ask_from(struct fixture *f, uint8_t last, uint64_t now) {
    f->view.src = v4(last);
    return ask_at(f, NULL, now).verdict;
}

Test(interpret, each_source_has_its_own_bucket_until_there_are_too_many) {
    struct fixture f;
    fixture_make(&f);
    f.limits[0] = (struct nb_limit){.rate = 0, .burst = 1, .flags = NB_LIMIT_PER_SOURCE, .source_max = 2};
    add(&f, NB_TIER_HOST, NB_ALLOW)->limit = 0;
    add(&f, NB_TIER_HOST, NB_DROP);
    cr_assert_eq(nb_meters_create(&f.policy, &f.meters), 0);
    cr_assert_eq(ask_from(&f, 1, 1), NB_ALLOW);
    cr_assert_eq(ask_from(&f, 2, 2), NB_ALLOW);
    cr_assert_eq(ask_from(&f, 1, 3), NB_DROP);
    cr_assert_eq(ask_from(&f, 3, 4), NB_ALLOW); /* makes 2, idle longest, go */
    cr_assert_eq(ask_from(&f, 1, 5), NB_DROP);
    cr_assert_eq(ask_from(&f, 2, 6), NB_ALLOW);
    nb_meters_destroy(f.meters);
}

Test(interpret, without_meters_every_limit_is_within_its_rate) {
    struct fixture f;
    fixture_make(&f);
    add(&f, NB_TIER_HOST, NB_DROP)->limit = 0;
    for (int i = 0; i < 10; i++)
        cr_assert_eq(ask(&f).verdict, NB_DROP);
}

/* --- fields ---------------------------------------------------------------------------------------------------- */

struct field_case {
    uint32_t field;
    struct nb_match yes, no;
};

static const struct field_case fields[] = {
    {NB_F_DIR, {.dir = NB_IN | NB_OUT}, {.dir = NB_OUT}},
    {NB_F_IFINDEX, {.ifindex = 0}, {.ifindex = 1}},
    {NB_F_ETHERTYPE, {.ethertype = 0x0800}, {.ethertype = 0x0806}},
    {NB_F_VLAN, {.vlan = 0}, {.vlan = 1}},
    {NB_F_SRC, {.src_mask.b[15] = 0xfe}, {.src.b[15] = 2, .src_mask.b[15] = 0xfe}},
    {NB_F_DST, {.dst.b[15] = 2, .dst_mask.b[15] = 0xff}, {.dst_mask.b[15] = 0xff}},
    {NB_F_SRC_SET, {.src_set = 2}, {.src_set = 2}},
    {NB_F_DST_SET, {.dst_set = 2}, {.dst_set = 2}},
    {NB_F_PROTO, {.proto = 6}, {.proto = 17}},
    {NB_F_SPORT, {.sport = {1234, 1234}}, {.sport = {1235, 9999}}},
    {NB_F_DPORT, {.dport = {0, 80}}, {.dport = {81, 81}}},
    {NB_F_DPORT_SET, {.dport_set = 1}, {.dport_set = 1}},
    {NB_F_TCP_FLAGS, {.tcp_flags = 2, .tcp_flags_mask = 0x12}, {.tcp_flags = 0x12, .tcp_flags_mask = 0x12}},
    {NB_F_DSCP, {.dscp = 0}, {.dscp = 1}},
    {NB_F_LENGTH, {.length = {60, 60}}, {.length = {61, 70}}},
    {NB_F_STATE, {.state = NB_STATE_NEW}, {.state = NB_STATE_ESTABLISHED | NB_STATE_RELATED}},
    {NB_F_IP_VERSION, {.ip_version = 4}, {.ip_version = 6}},
};

static bool is_set_field(uint32_t field) {
    return (field & (NB_F_SRC_SET | NB_F_DST_SET | NB_F_DPORT_SET | NB_F_SPORT_SET)) != 0;
}

static bool matches(struct fixture *f, const struct nb_match *m, uint32_t field, uint32_t invert) {
    struct nb_match copy = *m;
    copy.fields = field;
    copy.invert = invert;
    copy.owner = NB_NONE;
    return nb_rule_matches(&f->policy, &copy, &f->view, NULL);
}

Test(interpret, every_field_matches_and_inverts) {
    struct fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const struct field_case *c = &fields[i];
        cr_assert(matches(&f, &c->yes, c->field, 0), "field %zu", i);
        cr_assert(!matches(&f, &c->yes, c->field, c->field), "field %zu", i);
        if (is_set_field(c->field))
            continue;
        cr_assert(!matches(&f, &c->no, c->field, 0), "field %zu", i);
        cr_assert(matches(&f, &c->no, c->field, c->field), "field %zu", i);
    }
    f.view.src = f.view.dst = v4(10);
    f.view.dport = 91;
    cr_assert(!matches(&f, &fields[6].yes, NB_F_SRC_SET, 0));
    cr_assert(!matches(&f, &fields[7].yes, NB_F_DST_SET, 0));
    cr_assert(!matches(&f, &fields[11].yes, NB_F_DPORT_SET, 0));
}

Test(interpret, what_a_packet_does_not_have_never_matches) {
    struct fixture f;
    fixture_make(&f);
    const struct nb_match m = {.dport = {0, 65535}, .tcp_flags_mask = 0, .icmp_type = 0, .proto = 6};
    f.view.parsed = NB_PARSED_IP | NB_PARSED_FRAGMENT;
    cr_assert(!matches(&f, &m, NB_F_DPORT, 0));
    cr_assert(!matches(&f, &m, NB_F_DPORT, NB_F_DPORT));
    cr_assert(!matches(&f, &m, NB_F_ICMP_TYPE, NB_F_ICMP_TYPE));
    cr_assert(matches(&f, &m, NB_F_PROTO, 0));
    cr_assert(matches(&f, &m, NB_F_FRAGMENT, 0));
    f.view.parsed = NB_PARSED_IP | NB_PARSED_PORTS;
    f.view.proto = 17;
    cr_assert(!matches(&f, &m, NB_F_TCP_FLAGS, NB_F_TCP_FLAGS));
    f.view.parsed = 0;
    cr_assert(!matches(&f, &m, NB_F_PROTO, NB_F_PROTO));
    cr_assert(!matches(&f, &m, NB_F_FRAGMENT, NB_F_FRAGMENT));
}

/* --- owners ---------------------------------------------------------------------------------------------------- */

static bool owned(struct fixture *f, struct nb_owner_match m, const struct nb_owner *o) {
    return nb_owner_matches(&f->policy, &m, o);
}

Test(interpret, every_owner_field_matches_and_inverts) {
    struct fixture f;
    fixture_make(&f);
    const struct nb_owner o = {.uid = 1001,
                               .gid = 5,
                               .pid = 77,
                               .label = 3,
                               .exe_dev = 8,
                               .exe_inode = 99,
                               .cgroup = {1, 20, 300},
                               .groups = {7, 1000},
                               .group_count = 2,
                               .comm = "postgres"};
    struct nb_owner other = {.uid = 5, .exe_dev = 8, .cgroup = {1, 21}, .comm = "postgrey"};
    const struct nb_owner_match m[] = {
        {.fields = NB_OWNER_UID, .uids = 0},           {.fields = NB_OWNER_GID, .gids = 0},
        {.fields = NB_OWNER_PID, .pid = 77},           {.fields = NB_OWNER_EXE, .exe_dev = 8, .exe_inode = 99},
        {.fields = NB_OWNER_COMM, .comm = "postgres"}, {.fields = NB_OWNER_CGROUP, .cgroup = 20},
        {.fields = NB_OWNER_LABEL, .label = 3},
    };
    for (size_t i = 0; i < sizeof m / sizeof m[0]; i++) {
        struct nb_owner_match inverse = m[i];
        inverse.invert = inverse.fields;
        cr_assert(owned(&f, m[i], &o) && !owned(&f, inverse, &o), "field %zu", i);
        cr_assert(!owned(&f, m[i], &other) && owned(&f, inverse, &other), "field %zu", i);
        cr_assert(!owned(&f, m[i], NULL) && !owned(&f, inverse, NULL), "nobody has no field %zu", i);
    }
    cr_assert(owned(&f, (struct nb_owner_match){.fields = NB_OWNER_NOBODY}, NULL));
    cr_assert(!owned(&f, (struct nb_owner_match){.fields = NB_OWNER_NOBODY}, &o));
}

Test(interpret, a_rule_with_an_owner_needs_its_packet_too) {
    struct fixture f;
    fixture_make(&f);
    struct nb_rule *r = add(&f, NB_TIER_HOST, NB_DROP);
    r->match.owner = 0;
    r->match.fields = NB_F_PROTO;
    r->match.proto = 6;
    const struct nb_owner bob = {.uid = 1000}, charlie = {.uid = 1002};
    cr_assert_eq(ask_at(&f, &bob, 0).verdict, NB_DROP);
    cr_assert_eq(ask_at(&f, &charlie, 0).verdict, NB_ALLOW);
    cr_assert_eq(ask(&f).verdict, NB_ALLOW);
    f.view.proto = 17;
    cr_assert_eq(ask_at(&f, &bob, 0).verdict, NB_ALLOW);
}
