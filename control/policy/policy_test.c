/* SPDX-License-Identifier: Apache-2.0
 *
 * Policy files: what they become, and what is said about those that are wrong.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/identity/owner.h"
#include "control/policy/policy.h"
#include "nicbackend/ir/interpret.h"

static struct problems problems;

static struct policy *good(const char *text) {
    struct policy *p = NULL;
    problems.count = 0;
    int err = policy_parse("p.yaml", text, strlen(text), 0, &p, &problems);
    cr_assert_eq(err, 0, "%s", problems.text[0]);
    return p;
}

static void bad(const char *text, const char *at, const char *what) {
    struct policy *p = NULL;
    problems.count = 0;
    cr_assert_eq(policy_parse("p.yaml", text, strlen(text), 0, &p, &problems), -EINVAL);
    cr_assert(strncmp(problems.text[0], at, strlen(at)) == 0 && strstr(problems.text[0], what) != NULL, "%s",
              problems.text[0]);
}

static struct nb_outcome ask(const struct policy *p, uint16_t port, uint8_t dir, const struct nb_owner *owner) {
    struct nb_view v = {.src = nb_addr_from_v4((uint8_t[]){10, 1, 0, 1}),
                        .dst = nb_addr_from_v4((uint8_t[]){192, 168, 1, 7}),
                        .ethertype = 0x0800,
                        .sport = 4000,
                        .dport = port,
                        .parsed = NB_PARSED_IP | NB_PARSED_PORTS,
                        .dir = dir,
                        .state = NB_STATE_NEW,
                        .ip_version = 4,
                        .proto = 17};
    struct nb_outcome out;
    nb_interpret(policy_rules(p), NULL, &v, owner, 0, &out);
    return out;
}

Test(policy, owner_rules_by_user_and_program) {
    struct policy *p = good("rules:\n"
                            "  - {name: postgres, to_port: 5432, user: 1000, comm: postgres, action: allow}\n"
                            "  - {name: no-postgres, to_port: 5432, action: reject, reject_with: admin}\n");
    const struct nb_owner bob = {.uid = 1000, .comm = "postgres"}, copy = {.uid = 1000, .comm = "other"};
    const struct nb_owner charlie = {.uid = 1001, .comm = "postgres"};
    cr_assert_eq(ask(p, 5432, NB_IN, &bob).verdict, NB_ALLOW);
    cr_assert_eq(ask(p, 5432, NB_OUT, &copy).verdict, NB_REJECT);
    cr_assert_eq(ask(p, 5432, NB_IN, &charlie).reject, NB_REJECT_ADMIN);
    cr_assert_eq(ask(p, 5433, NB_IN, &charlie).verdict, NB_ALLOW);
    cr_assert_str_eq(policy_rule_name(p, 1), "no-postgres");
    cr_assert_null(policy_rule_name(p, 2));
    policy_destroy(p);
}

Test(policy, sets_tiers_defaults_and_inversion) {
    struct policy *p = good("defaults: {app: drop}\n"
                            "sets:\n"
                            "  office: {addresses: [10.0.0.0/8, 192.168.1.5-192.168.1.9]}\n"
                            "  web: {ports: [80, 8000-8080]}\n"
                            "rules:\n"
                            "  - {name: late, tier: app, to_port: '@web', action: allow, counter: web}\n"
                            "  - {name: strangers, tier: platform, from: '!@office', action: drop}\n"
                            "  - {name: one-host, to: 192.168.1.7, to_port: 8001, action: drop}\n");
    cr_assert_str_eq(policy_rule_name(p, 0), "strangers");
    cr_assert_str_eq(policy_rule_name(p, 2), "late");
    cr_assert_str_eq(policy_counter_name(p, 0), "web");
    cr_assert_eq(ask(p, 80, NB_IN, NULL).verdict, NB_ALLOW);
    cr_assert_eq(ask(p, 81, NB_IN, NULL).verdict, NB_DROP);
    cr_assert_eq(ask(p, 8001, NB_IN, NULL).tier, NB_TIER_HOST);
    policy_destroy(p);
}

Test(policy, an_empty_file_allows_everything) {
    struct policy *p = good("");
    cr_assert_eq(ask(p, 1, NB_IN, NULL).verdict, NB_ALLOW);
    policy_destroy(p);
}

Test(policy, mistakes_are_named_with_their_place) {
    bad("rule: []\n", "p.yaml:1:1: rule:", "defaults, labels, sets, qos and rules");
    bad("rules:\n  - {name: a, port: 1}\n", "p.yaml:2:15: port:", "no such field");
    bad("rules:\n  - {name: a, to_port: 65536}\n", "p.yaml:2:24: to_port:", "65535");
    bad("rules:\n  - {name: a, to_port: 9-1}\n", "p.yaml:2:24: to_port:", "1-9");
    bad("rules:\n  - {name: a, from: 10.0.0.0/33}\n", "p.yaml:2:21: from:", "10.0.0.0/8");
    bad("rules:\n  - {name: a, from: 10.0.0.1-10.0.0.9}\n", "p.yaml:2:21: from:", "set");
    bad("rules:\n  - {name: a, from: '@gone'}\n", "p.yaml:2:21: from:", "no set 'gone'");
    bad("rules:\n  - {name: a, user: no-such-user-here}\n", "p.yaml:2:21: user:", "no user");
    bad("rules:\n  - {name: a, action: accept}\n", "p.yaml:2:23: action:", "allow");
    bad("rules:\n  - {name: a}\n  - {name: a}\n", "p.yaml:3:12: name:", "unique");
    bad("rules:\n  - {action: drop}\n", "p.yaml:2:5: rules:", "name");
    bad("rules:\n  - {name: a, tier: top}\n", "p.yaml:2:21: tier:", "platform");
    bad("rules:\n  - {name: a, protocol: icmp, to_port: 3}\n", "p.yaml:2:5: protocol:", "no ports");
    bad("rules: {a: b}\n", "p.yaml:1:8: rules:", "list");
    bad("sets: {a: {ports: [x]}}\n", "p.yaml:1:20: sets.a:", "no number");
    bad("sets: {a: {words: [x]}}\n", "p.yaml:1:11: sets.a:", "addresses");
    bad("defaults: {host: perhaps}\n", "p.yaml:1:18: defaults.host:", "allow");
    bad("defaults: {guest: allow}\n", "p.yaml:1:12: defaults:", "platform");
    bad("rules: [\n", "p.yaml:", "");
    bad("include: other.yaml\n", "p.yaml:1:1: include:", "a policy has");
    bad("rules: &a [*a]\n", "p.yaml:1:8:", "anchors");
    bad("rules:\n  - {name: a, burst: 5}\n", "p.yaml:2:5: limit:", "belong to a limit");
    bad("rules:\n  - {name: a, limit: 5/h}\n", "p.yaml:2:22: limit:", "no amount");
    bad("rules:\n  - {name: a, label: game}\n", "p.yaml:2:22: label:", "no label");
    bad("rules:\n  - {name: a, owner: nobody, user: 5}\n", "p.yaml:2:5: owner:", "nobody has no user");
    bad("rules:\n  - {name: a, tcp_flags: syn/ack}\n", "p.yaml:2:26: tcp_flags:", "syn,ack");
    bad("include: p.yaml\nrules: []\n", "p.yaml:1:1: include:", "other files are not read");
    bad("rules: !include p.yaml\n", "p.yaml:1:8:", "tags");
    bad("rules: &r [*r]\n", "p.yaml:1:8:", "anchors and aliases");
    bad("rules: [[[[[[[[[[[[[[[[[[[[[[[[\n", "p.yaml:1:", "nested deeper");
    bad("rules:\n  - {name: a, steer: 3}\n", "p.yaml:2:22: steer:", "no port of this version steers");
    bad("rules:\n  - {name: a, mark: 3/1}\n", "p.yaml:2:21: mark:", "0x10");
    bad("labels: {a: [game]}\n", "p.yaml:1:14: labels.a:", "cgroup");
}

Test(policy, limits_labels_marks_and_fields_of_headers) {
    struct policy *p = good("labels: {game: [/game.slice]}\n"
                            "qos: {classes: [{name: bulk}]}\n"
                            "rules:\n"
                            "  - {name: slow, limit: 64KB/s, burst: 128KB, per: source, over: yes, action: drop}\n"
                            "  - {name: shots, label: game, mark: 0x10/0xf0, class: bulk, log: yes, mirror: yes}\n"
                            "  - {name: syn, protocol: tcp, tcp_flags: 'syn/syn,ack', dscp: af41, length: 40-60}\n"
                            "  - {name: ping, protocol: icmp, icmp_type: 8, vlan: 7, fragment: no}\n"
                            "  - {name: strays, owner: nobody, action: drop}\n");
    const struct nb_policy *nb = policy_rules(p);
    cr_assert_eq(nb->limits[0].rate, 64000);
    cr_assert_eq(nb->limits[0].burst, 128000);
    cr_assert_eq(nb->limits[0].flags, NB_LIMIT_BYTES | NB_LIMIT_PER_SOURCE | NB_LIMIT_OVER);
    cr_assert_eq(nb->rules[1].action.mark, 0x10);
    cr_assert_eq(nb->rules[1].action.mark_mask, 0xf0);
    cr_assert_eq(nb->rules[1].action.flags, NB_ACT_MARK | NB_ACT_CLASS | NB_ACT_LOG | NB_ACT_MIRROR);
    cr_assert_eq(nb->rules[2].match.tcp_flags_mask, 0x12);
    cr_assert_eq(nb->rules[2].match.dscp, 34);
    cr_assert_eq(nb->rules[3].match.invert, NB_F_FRAGMENT);
    cr_assert_str_eq(policy_rule_text(p, 0), "limit: 64KB/s, burst: 128KB, per: source, over: yes, action: drop");
    cr_assert_eq(policy_rule_line(p, 4), 8);
    cr_assert_eq(nb->rules[1].action.class_id, 1);
    struct owner game = {.cgroup = "/game.slice/a.scope"}, other = {.cgroup = "/game.slices"};
    struct nb_owner seen;
    policy_owner(p, &game, &seen);
    cr_assert_eq(seen.label, 1);
    policy_owner(p, &other, &seen);
    cr_assert_eq(seen.label, 0);
    policy_destroy(p);
}

Test(policy, what_is_absent_matches_nobody_when_that_is_asked_for) {
    const char *text = "sets: {staff: {users: [no-such-user-here, 5]}}\n"
                       "rules:\n"
                       "  - {name: a, user: no-such-user-here, action: drop}\n"
                       "  - {name: b, exe: /no/such/program, action: drop}\n"
                       "  - {name: c, interface: nosuchlink, action: drop}\n"
                       "  - {name: d, user: '!no-such-user-here', action: reject}\n";
    struct policy *p = NULL;
    const char *first;
    problems.count = 0;
    cr_assert_eq(policy_parse("p.yaml", text, strlen(text), POLICY_ABSENT_OK, &p, &problems), 0);
    cr_assert_eq(policy_absent(p, &first), 5);
    cr_assert(strstr(first, "no-such-user-here") != NULL, "%s", first);
    const struct nb_owner somebody = {.uid = 5};
    cr_assert_eq(ask(p, 1, NB_IN, &somebody).rule[NB_TIER_HOST], 3);
    policy_destroy(p);
}

Test(policy, equal_predicates_are_one) {
    struct policy *p = good("rules:\n"
                            "  - {name: a, user: 7, to_port: 1, action: drop}\n"
                            "  - {name: b, user: 7, to_port: 2, action: drop}\n"
                            "  - {name: c, user: 8, to_port: 2, action: drop}\n");
    cr_assert_eq(policy_rules(p)->owner_count, 2);
    cr_assert_eq(policy_rules(p)->set_count, 2);
    cr_assert_eq(policy_rule_find(p, "c"), 2);
    cr_assert_eq(policy_rule_find(p, "d"), NB_NONE);
    policy_destroy(p);
}

Test(policy, many_rules_and_too_many) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    (void)fputs("rules:\n", out);
    for (int i = 0; i < 10000; i++)
        (void)fprintf(out, "  - {name: r%d, protocol: tcp, to_port: %d, user: %d, action: drop}\n", i, i, i);
    (void)fclose(out);
    struct policy *p = good(text);
    cr_assert_eq(policy_rules(p)->rule_count, 10000);
    policy_destroy(p);
    free(text);
    text = calloc(1, POLICY_TEXT_MAX + 2u);
    memset(text, ' ', POLICY_TEXT_MAX + 1u);
    bad(text, "p.yaml: larger than", "make it smaller");
    free(text);
}

static void edits(const char *before, enum policy_edit how, const char *const *members, size_t n, const char *after) {
    char *text = NULL;
    problems.count = 0;
    int error = policy_edit_set(before, strlen(before), "s", how, members, n, &text, &problems);
    cr_assert_eq(error, 0, "%s", problems.text[0]);
    cr_assert_str_eq(text, after);
    free(text);
}

Test(policy, sets_change_in_the_text) {
    const char *const more[] = {"10.1.0.0/16", "fd00::/8"}, *const one[] = {"10.0.0.1"};
    const char *flow = "# \xc3\xa4\nsets: {t: {ports: [1]}, s: {addresses: [10.0.0.1]}} # kept\nrules: []\n";
    edits(flow, POLICY_EDIT_ADD, more, 2,
          "# \xc3\xa4\nsets: {t: {ports: [1]}, s: {addresses: [10.0.0.1, 10.1.0.0/16, 'fd00::/8']}} # kept\n"
          "rules: []\n");
    edits(flow, POLICY_EDIT_REMOVE, one, 1,
          "# \xc3\xa4\nsets: {t: {ports: [1]}, s: {addresses: []}} # kept\nrules: []\n");
    const char *block = "sets:\n  s:\n    addresses:\n    - 10.0.0.1 # one\n    - 10.0.0.2\n# more\nrules: []\n";
    edits(block, POLICY_EDIT_REPLACE, more, 1, "sets:\n  s:\n    addresses:\n    - 10.1.0.0/16\n# more\nrules: []\n");
    edits(block, POLICY_EDIT_REPLACE, more, 0, "sets:\n  s:\n    addresses:\n      []\n# more\nrules: []\n");
    char *text = NULL;
    problems.count = 0;
    cr_assert_eq(policy_edit_set(block, strlen(block), "t", POLICY_EDIT_ADD, more, 1, &text, &problems), -ENOENT);
    cr_assert_eq(policy_edit_set(block, strlen(block), "s", POLICY_EDIT_REMOVE, more, 1, &text, &problems), -EINVAL);
    const char *const wrong[] = {"x]"};
    cr_assert_eq(policy_edit_set(block, strlen(block), "s", POLICY_EDIT_ADD, wrong, 1, &text, &problems), -EINVAL);
}
