/* SPDX-License-Identifier: Apache-2.0
 *
 * What changes between policies, and which rule decides about a packet in words.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "control/policy/compare.h"
#include "control/policy/explain.h"

static struct problems problems;
static char told[2048];

static struct policy *parsed(const char *text) {
    struct policy *p = NULL;
    problems.count = 0;
    cr_assert_eq(policy_parse("p", text, strlen(text), 0, &p, &problems), 0, "%s", problems.text[0]);
    return p;
}

static void on_difference(void *arg, const struct policy_difference *d) {
    static const char signs[] = "?+-~^";
    size_t n = strlen(told);
    (void)arg;
    (void)snprintf(told + n, sizeof told - n, "%c %s %s|%s|%s\n", signs[d->kind], d->what, d->name, d->before,
                   d->after);
}

static void differ(const char *before, const char *after, const char *want) {
    struct policy *a = parsed(before), *b = parsed(after);
    told[0] = '\0';
    cr_assert_eq(policy_compare(a, b, on_difference, NULL), 0);
    cr_expect_str_eq(told, want);
    policy_destroy(a);
    policy_destroy(b);
}

Test(compare, rules_are_known_by_their_names) {
    differ("rules: [{name: a, action: drop}, {name: b}, {name: c}, {name: d}]",
           "rules: [{name: d}, {name: a, action: allow}, {name: c}, {name: e}]",
           "^ rule d||\n~ rule a|action: drop|action: allow\n+ rule e||\n- rule b||\n");
    differ("", "", "");
}

Test(compare, sets_defaults_and_classes) {
    differ("sets: {s: {ports: [1, 2, 9]}, t: {addresses: [10.0.0.0/8]}}",
           "defaults: {app: drop}\nsets: {s: {ports: [1-3]}, u: {addresses: ['fd00::/8', 10.0.0.1-10.0.0.3]}}",
           "~ default app|allow|drop\n~ set s|ports: 1-2, 9|ports: 1-3\n"
           "+ set u||addresses: 10.0.0.1-10.0.0.3, fd00::/8\n- set t|addresses: 10.0.0.0/8|\n");
    differ("qos: {rate: 10M, default: b, classes: [{name: a, user: '5'}, {name: b}]}",
           "qos: {rate: 10M, default: b, classes: [{name: a, user: '5', weight: 3}, {name: b}, {name: c, user: '6'}]}",
           "~ class a|weight 1, guarantee 0, ceiling 0, burst 0, queue 0, user 5|"
           "weight 3, guarantee 0, ceiling 0, burst 0, queue 0, user 5\n"
           "+ class c||weight 1, guarantee 0, ceiling 0, burst 0, queue 0, user 6\n");
}

static const struct explain_packet usual = {"", "",         "",          "",        "",         "",          "",
                                            "", .user = "", .group = "", .exe = "", .comm = "", .cgroup = ""};

static const char *asked(const struct policy *p, const struct explain_packet *q, struct explanation *e) {
    struct explain_error err;
    if (explain(p, q, e, &err) != 0) {
        (void)snprintf(told, sizeof told, "%s", err.text);
        return told;
    }
    return policy_verdict_name(e->out.verdict);
}

Test(explain, packets_in_words) {
    static struct explanation e;
    struct policy *p = parsed("rules:\n"
                              "  - {name: count, to_port: 80, counter: c}\n"
                              "  - {name: slow, limit: 5/s, over: yes, action: drop}\n"
                              "  - {name: bob, to_port: 80, user: 1000, action: allow}\n"
                              "  - {name: no, to_port: 80, action: reject}\n"
                              "  - {name: six, tier: app, ip: 6, action: drop}\n");
    struct explain_packet q = usual;
    q.destination = "10.0.0.1:80";
    cr_expect_str_eq(asked(p, &q, &e), "reject");
    cr_expect_eq(e.out.rule[NB_TIER_HOST], 3);
    cr_expect(e.passed_count[NB_TIER_HOST] == 1 && e.passed[NB_TIER_HOST][0] == 0);
    cr_expect_str_eq(e.packet, "in tcp 0.0.0.0:40000 to 10.0.0.1:80, new, nobody's");
    q.user = "1000";
    cr_expect_str_eq(asked(p, &q, &e), "allow");
    q.user = "1001";
    q.direction = "out";
    cr_expect_str_eq(asked(p, &q, &e), "reject");
    cr_expect_str_eq(explain_errno(&e), "ECONNREFUSED");
    q.destination = "[fd00::1]:81";
    cr_expect_str_eq(asked(p, &q, &e), "drop");
    cr_expect_str_eq(explain_errno(&e), "EPERM");
    policy_destroy(p);
}

Test(explain, what_is_no_packet_is_said) {
    static struct explanation e;
    struct policy *p = parsed("");
    struct explain_packet q = usual;
    const struct {
        const char **field, *value, *say;
    } cases[] = {
        {&q.source, "10.0.0", "source: write"},          {&q.destination, "1.2.3.4:x", "destination: write"},
        {&q.protocol, "ttp", "protocol: 'ttp'"},         {&q.state, "old", "state: 'old'"},
        {&q.user, "no-such-user-here", "user: no user"}, {&q.comm, "it's", "comm: one plain value"},
        {&q.direction, "!in", "direction: one plain"},   {&q.interface, "nosuchlink", "interface: no interface"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        *cases[i].field = cases[i].value;
        const char *said = asked(p, &q, &e);
        cr_expect(strncmp(said, cases[i].say, strlen(cases[i].say)) == 0, "%s: %s", cases[i].value, said);
        *cases[i].field = "";
    }
    q.source = "10.0.0.1";
    q.destination = "fd00::1";
    cr_expect_not_null(strstr(asked(p, &q, &e), "another IP version"));
    policy_destroy(p);
}
