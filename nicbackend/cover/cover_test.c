/* SPDX-License-Identifier: Apache-2.0
 *
 * The hooks judge as the interpreter does: random policies, packets and owners. What they cannot express is told, and
 * passes. That the kernel takes the programs is tested where it may be asked (root); what they do to real sockets is
 * tested end to end.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "nicbackend/cover/compile.h"
#include "nicbackend/cover/cover_judge.h"
#include "nicbackend/ir/interpret.h"

#define RULES  12u
#define SETS   6u
#define OWNERS 8u

static uint64_t rng;
static struct nb_rule rules[RULES];
static struct nb_set sets[SETS];
static struct nb_addr_range addrs[SETS][3];
static struct nb_range ranges[SETS][3];
static struct nb_owner_match matches[OWNERS];
static struct nb_policy policy;
static struct cover_rule made[COVER_RULES];

static uint32_t roll(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

static struct nb_addr some_addr(void) {
    if (roll(4) == 0)
        return (struct nb_addr){{0xfd, [15] = (uint8_t)roll(4)}};
    return nb_addr_from_v4((uint8_t[]){10, 0, (uint8_t)roll(2), (uint8_t)roll(4)});
}

static void some_prefix(struct nb_addr *value, struct nb_addr *mask) {
    static const uint8_t lengths[] = {128, 127, 126, 120, 104, 96, 8, 0};
    uint32_t n = lengths[roll(sizeof lengths)];
    *value = some_addr();
    memset(mask, 0, sizeof *mask);
    for (uint32_t i = 0; i < n; i++)
        mask->b[i / 8] |= (uint8_t)(0x80u >> i % 8);
    for (uint32_t i = 0; i < 16; i++)
        value->b[i] &= mask->b[i];
}

static struct nb_range some_range(uint32_t n) {
    uint32_t lo = roll(n);
    return (struct nb_range){lo, lo + roll(3)};
}

static void sets_make(void) {
    for (uint32_t i = 0; i < SETS; i++) {
        struct nb_set *s = &sets[i];
        *s = (struct nb_set){.kind = i < 2 ? NB_SET_ADDR : i < 4 ? NB_SET_PORT : NB_SET_ID, .count = 1 + roll(3)};
        for (uint32_t k = 0; k < s->count; k++) {
            struct nb_addr a = some_addr();
            addrs[i][k] = (struct nb_addr_range){a, a};
            addrs[i][k].hi.b[15] |= 1; /* a pair at most: a prefix */
            addrs[i][k].lo.b[15] &= 0xfe;
            ranges[i][k] = some_range(8);
        }
        if (i < 2)
            s->addrs = addrs[i];
        else
            s->ranges = ranges[i];
        cr_assert_eq(nb_set_normalise(s), 0);
    }
}

static void owners_make(void) {
    static const uint32_t kinds[] = {NB_OWNER_UID,   NB_OWNER_PID,    NB_OWNER_EXE,
                                     NB_OWNER_COMM,  NB_OWNER_CGROUP, NB_OWNER_UID | NB_OWNER_EXE,
                                     NB_OWNER_NOBODY};
    for (uint32_t i = 0; i < OWNERS; i++) {
        uint32_t fields = kinds[roll(7)], uids = 4 + roll(2);
        bool invert = roll(4) == 0 && fields != NB_OWNER_NOBODY && (!(fields & NB_OWNER_UID) || sets[uids].count == 1);
        matches[i] = (struct nb_owner_match){.fields = fields,
                                             .invert = invert ? fields : 0,
                                             .uids = uids,
                                             .pid = 100 + roll(3),
                                             .exe_dev = makedev(8, roll(2)),
                                             .exe_inode = roll(3),
                                             .cgroup = 1 + roll(3)};
        (void)snprintf(matches[i].comm, sizeof matches[i].comm, roll(2) ? "bob" : "bobby");
    }
}

static void rule_roll(struct nb_rule *r) {
    struct nb_match *m = &r->match;
    *r = (struct nb_rule){.limit = NB_NONE, .action.verdict = (uint8_t)roll(4), .match.owner = NB_NONE};
    m->fields = (1u << roll(21)) | (1u << roll(21));
    m->fields &= NB_F_DIR | NB_F_IFINDEX | NB_F_SRC | NB_F_DST | NB_F_SRC_SET | NB_F_DST_SET | NB_F_PROTO | NB_F_SPORT |
                 NB_F_DPORT | NB_F_SPORT_SET | NB_F_DPORT_SET | NB_F_IP_VERSION | NB_F_TCP_FLAGS | NB_F_ICMP_TYPE |
                 NB_F_ICMP_CODE | NB_F_DSCP | NB_F_LENGTH | NB_F_FRAGMENT;
    if ((m->fields & (NB_F_SRC | NB_F_SRC_SET)) == (NB_F_SRC | NB_F_SRC_SET))
        m->fields &= ~(uint32_t)NB_F_SRC_SET; /* the reader makes one of both */
    if ((m->fields & (NB_F_DST | NB_F_DST_SET)) == (NB_F_DST | NB_F_DST_SET))
        m->fields &= ~(uint32_t)NB_F_DST_SET;
    if ((m->fields & (NB_F_SPORT | NB_F_SPORT_SET)) == (NB_F_SPORT | NB_F_SPORT_SET))
        m->fields &= ~(uint32_t)NB_F_SPORT_SET;
    if ((m->fields & (NB_F_DPORT | NB_F_DPORT_SET)) == (NB_F_DPORT | NB_F_DPORT_SET))
        m->fields &= ~(uint32_t)NB_F_DPORT_SET;
    m->invert =
        roll(3) == 0 ? m->fields & ~(uint32_t)(NB_F_SRC_SET | NB_F_DST_SET | NB_F_SPORT_SET | NB_F_DPORT_SET) : 0;
    some_prefix(&m->src, &m->src_mask);
    some_prefix(&m->dst, &m->dst_mask);
    m->src_set = roll(2);
    m->dst_set = roll(2);
    m->sport_set = 2 + roll(2);
    m->dport_set = 2 + roll(2);
    m->sport = some_range(8);
    m->dport = some_range(8);
    m->ifindex = 1 + roll(2);
    m->dir = (uint8_t)(1 + roll(3));
    m->proto = roll(2) ? 6 : 17;
    m->ip_version = roll(2) ? 4 : 6;
    m->tcp_flags_mask = (uint8_t)roll(4);
    m->tcp_flags = (uint8_t)(m->tcp_flags_mask & roll(4));
    m->icmp_type = (uint8_t)roll(2);
    m->icmp_code = (uint8_t)roll(2);
    m->dscp = (uint8_t)roll(3);
    m->length = some_range(4);
    if (m->proto == 6 && (m->fields & NB_F_PROTO) != 0 && m->invert == 0 && roll(3) == 0) {
        m->fields |= NB_F_STATE;
        m->state = (uint8_t)(1 + roll(3));
    }
    if (roll(2))
        m->owner = roll(OWNERS);
}

static void policy_roll(void) {
    sets_make();
    owners_make();
    policy =
        (struct nb_policy){.rules = rules, .sets = sets, .owners = matches, .set_count = SETS, .owner_count = OWNERS};
    policy.rule_count = 1 + roll(RULES);
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++)
        policy.defaults[t] = (struct nb_action){.verdict = roll(4) == 0 ? NB_DROP : NB_ALLOW, .counter = NB_NONE};
    uint8_t tier = 0;
    for (uint32_t i = 0; i < policy.rule_count; i++) {
        rule_roll(&rules[i]);
        tier = (uint8_t)(tier < 2 && roll(3) == 0 ? tier + 1 : tier);
        rules[i].tier = tier;
        rules[i].action.counter = NB_NONE;
    }
}

static struct nb_view view_roll(void) {
    struct nb_view v = {.src = some_addr(),
                        .dst = some_addr(),
                        .ifindex = 1 + roll(2),
                        .ethertype = 0x0800,
                        .dir = roll(2) ? NB_IN : NB_OUT,
                        .proto = roll(2) ? 6 : 17,
                        .parsed = NB_PARSED_IP};
    if (roll(8) != 0) {
        v.parsed |= NB_PARSED_PORTS;
        v.sport = (uint16_t)roll(9);
        v.dport = (uint16_t)roll(9);
    }
    v.ip_version = roll(2) ? 4 : 6;
    v.ethertype = v.ip_version == 4 ? 0x0800 : 0x86dd;
    v.dscp = (uint8_t)roll(3);
    v.length = roll(6);
    if (roll(6) == 0) {
        v.parsed = NB_PARSED_IP | (roll(2) ? NB_PARSED_ICMP : NB_PARSED_FRAGMENT);
        v.proto = (v.parsed & NB_PARSED_ICMP) != 0 ? 1 : v.proto;
        v.icmp_type = (uint8_t)roll(2);
        v.icmp_code = (uint8_t)roll(2);
        v.sport = v.dport = 0;
    }
    v.tcp_flags = (v.parsed & NB_PARSED_PORTS) != 0 && v.proto == 6 ? (uint8_t)roll(4) : 0;
    v.state = roll(2) ? NB_STATE_NEW : NB_STATE_ESTABLISHED;
    return v;
}

static struct nb_owner owner_roll(void) {
    struct nb_owner o = {.uid = roll(9),
                         .pid = 100 + roll(3),
                         .exe_dev = makedev(8, roll(2)),
                         .exe_inode = roll(3),
                         .cgroup = {1, 2 + roll(2)},
                         .kernel = true};
    (void)snprintf(o.comm, sizeof o.comm, roll(2) ? "bob" : "bobby");
    return o;
}

static bool cover_allows(const struct nb_view *v, const struct nb_owner *o, const struct cover_bank *bank) {
    struct nb_cover_answer answer;
    cover_answer(made, bank, v, o, &answer);
    return !answer.denied;
}

static void gap_count(void *arg, uint32_t rule, const char *why) {
    (void)rule;
    cr_assert_not_null(why);
    ++*(uint32_t *)arg;
}

Test(cover, judges_as_the_interpreter_does) {
    uint32_t denied = 0;
    for (uint32_t seed = 0; seed < 3000; seed++) {
        struct cover_bank bank;
        uint32_t gaps = 0;
        char why[128];
        rng = seed;
        policy_roll();
        cr_assert_eq(nb_policy_check(&policy, why, sizeof why), 0, "%s", why);
        memset(made, 0, sizeof made);
        cr_assert_geq(cover_compile(&policy, made, &bank, gap_count, &gaps), 0);
        cr_assert_eq(gaps, 0, "seed %u", seed);
        for (uint32_t i = 0; i < 100; i++) {
            struct nb_view v = view_roll();
            struct nb_owner o = owner_roll();
            struct nb_outcome out;
            nb_interpret(&policy, NULL, &v, &o, 0, &out);
            cr_assert_eq(cover_allows(&v, &o, &bank), out.verdict == NB_ALLOW, "seed %u packet %u", seed, i);
            denied += out.verdict != NB_ALLOW;
        }
    }
    cr_assert_gt(denied, 10000, "both answers occur");
}

Test(cover, what_hooks_cannot_express_is_told_and_passes) {
    struct cover_bank bank;
    struct nb_owner o = {.uid = 1};
    struct nb_view v = {
        .proto = 17, .ip_version = 4, .parsed = NB_PARSED_IP | NB_PARSED_PORTS, .dport = 7, .dir = NB_IN};
    struct nb_limit limit = {.rate = 1, .burst = 1};
    uint32_t gaps = 0;
    rules[0] = (struct nb_rule){.limit = 0,
                                .action = {.verdict = NB_DROP, .counter = NB_NONE},
                                .match.owner = NB_NONE,
                                .match.fields = NB_F_DPORT,
                                .match.dport = {7, 7}};
    policy = (struct nb_policy){.rules = rules, .rule_count = 1, .limits = &limit, .limit_count = 1};
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++)
        policy.defaults[t] = (struct nb_action){.verdict = NB_DROP, .counter = NB_NONE};
    policy.defaults[0].verdict = policy.defaults[2].verdict = NB_ALLOW;
    rules[0].tier = NB_TIER_HOST;
    cr_assert_eq(cover_compile(&policy, made, &bank, gap_count, &gaps), 1);
    cr_assert_eq(gaps, 1);
    cr_assert(cover_allows(&v, &o, &bank), "the rule might have let it pass");
    struct nb_cover_answer answer;
    cr_assert_eq(nb_cover_judge(&policy, &v, &o, &answer), 0);
    cr_assert(!answer.denied && answer.open == 0, "and is named");
    v.dport = 8;
    cr_assert_not(cover_allows(&v, &o, &bank), "it does not match in any case");
    rules[0].limit = NB_NONE;
    rules[0].match.fields = NB_F_VLAN;
    cr_assert_eq(nb_cover_gaps(&policy, NULL, NULL), 1);
    rules[0].match.fields = NB_F_STATE;
    cr_assert_eq(nb_cover_gaps(&policy, NULL, NULL), 1, "of UDP nobody knows");
    rules[0].match.fields = NB_F_DPORT;
    cr_assert_eq(nb_cover_gaps(&policy, NULL, NULL), 0);
}

/* A call that knows less than a packet is refused only when no packet could pass. */
Test(cover, what_is_not_known_is_open) {
    struct cover_rule r = {.fields = COVER_SRC | COVER_DPORT, .dport = {7, 7}, .tier = 1, .verdict = COVER_PASS};
    struct cover_owner o = {.uid = 1};
    struct cover_view v = {.dport = 7, .known = COVER_DPORT, .there = UINT32_MAX};
    struct cover_walk w = {.v = &v, .o = &o, .defaults = COVER_PASS | COVER_DENY << 8 | COVER_PASS << 16};
    (void)cover_ask(&w, &r);
    cr_assert_neq(cover_end(&w), COVER_DENY, "some source may");
    v.dport = 8;
    w = (struct cover_walk){.v = &v, .o = &o, .defaults = w.defaults};
    (void)cover_ask(&w, &r);
    cr_assert_eq(cover_end(&w), COVER_DENY);
}

Test(cover, too_many_rules_are_refused) {
    struct cover_bank bank;
    static struct nb_rule many[COVER_RULES + 1];
    for (uint32_t i = 0; i < COVER_RULES + 1; i++)
        many[i] = (struct nb_rule){.limit = NB_NONE, .action.verdict = NB_DROP, .match.owner = NB_NONE};
    policy = (struct nb_policy){.rules = many, .rule_count = COVER_RULES + 1};
    cr_assert_eq(cover_compile(&policy, made, &bank, NULL, NULL), -E2BIG);
    policy.rule_count--;
    cr_assert_eq(cover_compile(&policy, made, &bank, NULL, NULL), COVER_RULES);
}

Test(cover, the_kernel_takes_the_hooks) {
    struct nb_error err = {""};
    struct nb_cover *c;
    struct nb_fd fds[16];
    uint32_t ids[16];
    int cgroup = open("/sys/fs/cgroup/unified", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cgroup = cgroup >= 0 ? cgroup : open("/sys/fs/cgroup", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct nb_cover_params p = {.netns = 1, .cgroup_fd = cgroup, .stamps_fd = -1};
    int error = nb_cover_create(&p, &c, &err);
    (void)close(cgroup);
    if (error != 0)
        cr_skip("%s", err.text);
    cr_assert_eq(nb_cover_fds(c, fds, 16), 8);
    cr_assert_eq(nb_cover_programs(c, ids, 16), 7);
    cr_assert_neq(ids[0], 0);
    rules[0] = (struct nb_rule){.limit = NB_NONE, .action.verdict = NB_DROP, .match.owner = NB_NONE};
    policy = (struct nb_policy){.rules = rules, .rule_count = 1};
    cr_assert_eq(nb_cover_install(c, &policy, &err), 0, "%s", err.text);
    cr_assert_eq(nb_cover_install(c, &policy, &err), 0, "%s", err.text);
    cr_assert_eq(nb_cover_interface(c, 1, true), 0);
    cr_assert_eq(nb_cover_interface(c, 1, false), 0);
    cr_assert_eq(nb_cover_interface(c, 1, false), 0);
    struct nb_cover_counts counts;
    cr_assert_eq(nb_cover_counts(c, &counts), 0);
    nb_cover_destroy(c);
}
