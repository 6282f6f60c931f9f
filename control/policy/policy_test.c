/* SPDX-License-Identifier: Apache-2.0
 *
 * Policy files: what they become, and what is said about those that are wrong.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "control/policy/policy.h"
#include "nicbackend/ir/interpret.h"

static struct problems problems;

static struct policy *good(const char *text) {
    struct policy *p = NULL;
    problems.count = 0;
    int err = policy_parse("p.yaml", text, strlen(text), &p, &problems);
    cr_assert_eq(err, 0, "%s", problems.text[0]);
    return p;
}

static void bad(const char *text, const char *at, const char *what) {
    struct policy *p = NULL;
    problems.count = 0;
    cr_assert_eq(policy_parse("p.yaml", text, strlen(text), &p, &problems), -EINVAL);
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
    bad("rule: []\n", "p.yaml:1:1: rule:", "defaults, sets and rules");
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
}
