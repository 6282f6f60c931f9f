/* SPDX-License-Identifier: Apache-2.0
 *
 * The qos part of a policy file: the tree it becomes, whose packets go where, and what is said about mistakes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/identity/owner.h"
#include "control/policy/classes.h"
#include "control/policy/policy.h"
#include "engines/qos/qos_cmd.h"

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

static const char *leaf(const struct policy *p, uint32_t uid, const char *cgroup) {
    struct owner o = {.uid = uid};
    (void)snprintf(o.cgroup, sizeof o.cgroup, "%s", cgroup);
    uint32_t id = policy_class_of(p, &o);
    return id == CLASS_NONE ? "" : policy_classes(p)->v[id].name;
}

static const char tree[] =
    "sets: {staff: {users: [1000, 2000-2005]}}\n"
    "qos:\n"
    "  rate: 80M\n"
    "  overhead: 0\n"
    "  interfaces: [eth0, eth1]\n"
    "  default: rest\n"
    "  classes:\n"
    "    - {name: games, weight: 2, ceiling: 16M, burst: 64K, queue: 32K, cgroup: /games.slice/}\n"
    "    - name: staff\n"
    "      weight: 6\n"
    "      user: \"@staff\"\n"
    "      classes:\n"
    "        - {name: builds, cgroup: /build, guarantee: 8M}\n"
    "        - {name: desk, each: user}\n"
    "    - {name: rest}\n"
    "rules: [{name: dns, to_port: 53, class: desk}]\n";

Test(classes, become_a_tree) {
    struct policy *p = good(tree);
    const struct classes *c = policy_classes(p);
    cr_assert(c->count == 6 && c->fallback == 5 && c->overhead == 0 && c->interface_count == 2);
    cr_assert_eq(c->v[0].ceiling, 10000000);
    cr_assert_str_eq(c->v[1].name, "games");
    cr_assert(c->v[1].weight == 2 && c->v[1].ceiling == 2000000 && c->v[1].burst == 65536 && c->v[1].queue == 32768);
    cr_assert(c->v[2].children == 2 && c->v[3].parent == 2 && c->v[3].depth == 3 && c->v[3].guarantee == 1000000);
    cr_assert(c->v[4].each == QOS_EACH_USER && c->v[1].each == QOS_EACH_FLOW);
    cr_assert_eq(policy_rules(p)->rules[0].action.class_id, 4);
    policy_destroy(p);
}

Test(classes, owners_go_where_all_above_fits_too) {
    struct policy *p = good(tree);
    cr_assert_str_eq(leaf(p, 1, "/games.slice"), "games");
    cr_assert_str_eq(leaf(p, 1000, "/games.slice/session-3"), "games");
    cr_assert_str_eq(leaf(p, 1, "/games.slicer"), "");
    cr_assert_str_eq(leaf(p, 2003, "/build/job"), "builds");
    cr_assert_str_eq(leaf(p, 1000, "/user"), "desk");
    cr_assert_str_eq(leaf(p, 1, "/build"), "");
    cr_assert_str_eq(leaf(p, 1, ""), "");
    policy_destroy(p);
}

Test(classes, have_a_default) {
    struct policy *p = good("qos: {rate: 1G, classes: [{name: a, user: 0}]}\n");
    const struct classes *c = policy_classes(p);
    cr_assert(c->count == 3 && c->fallback == 2 && c->overhead == 24);
    cr_assert_str_eq(c->v[2].name, "default");
    policy_destroy(p);
    p = good("qos: {}\n");
    cr_assert_eq(policy_classes(p)->count, 2);
    policy_destroy(p);
    p = good("rules: []\n");
    cr_assert_eq(policy_classes(p)->count, 0);
    policy_destroy(p);
}

Test(classes, mistakes_are_named) {
    bad("qos: {wheight: 3}\n", "p.yaml:1:7: qos.wheight", "unknown");
    bad("qos: {classes: [{name: a, wheight: 3}]}\n", "p.yaml:1:27: qos.classes[0].wheight", "did you mean weight");
    bad("qos: {classes: [{name: a, weight: 0}]}\n", "p.yaml:1:35: qos.classes[0].weight", "1");
    bad("qos: {classes: [{weight: 1}]}\n", "p.yaml:1:17: qos.classes[0]", "has a name");
    bad("qos: {classes: [{name: a}, {name: a}]}\n", "p.yaml:1:28: qos.classes[1]", "unique");
    bad("qos: {classes: [{name: a, ceiling: 3}]}\n", "p.yaml:1:36: qos.classes[0].ceiling", "bit/s");
    bad("qos: {classes: [{name: a, ceiling: 1M, guarantee: 2M}]}\n", "p.yaml:1:17: ", "above its ceiling");
    bad("qos: {rate: 1M, classes: [{name: a, guarantee: 700k}, {name: b, guarantee: 700k}]}\n", "p.yaml:1:6: qos",
        "guaranteed 1400000 bit/s together");
    bad("qos: {default: a, classes: [{name: a, classes: [{name: b}]}]}\n", "p.yaml:1:6: qos.default",
        "'a' is no class");
    bad("qos: {classes: [{name: a, user: no-such-user-here}]}\n", "p.yaml:1:33: user", "no user");
    bad("qos: {classes: [{name: a, each: socket}]}\n", "p.yaml:1:33: qos.classes[0].each", "program");
    bad("qos: {classes: [{name: a, each: user, classes: [{name: b}]}]}\n", "p.yaml:1:17: ", "that has packets");
    bad("qos: {classes: [{name: a, cgroup: games}]}\n", "p.yaml:1:17: ", "begins with /");
    bad("qos: 7\n", "p.yaml:1:6: qos", "write rate");
    bad("qos: {classes: 7}\n", "p.yaml:1:16: qos.classes", "a list");
    bad("qos: {classes: [a]}\n", "p.yaml:1:17: qos.classes[0]", "a class is wanted");
    bad("rules: [{name: a, class: games}]\n", "p.yaml:1:26: class", "no class that has packets");
}

Test(classes, too_deep_is_refused) {
    bad("qos: {classes: [{name: a, classes: [{name: b, classes: [{name: c, classes: [{name: d, classes: [{name: e,\n"
        " classes: [{name: f, classes: [{name: g, classes: [{name: h}]}]}]}]}]}]}]}]}\n",
        "p.yaml:2:", "");
}
