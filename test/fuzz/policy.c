/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: an operator's policy. What is refused names a problem; what is accepted passes the check that everything
 * behind it relies on, differs from itself in nothing, and judges packets; its sets change in the text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/policy/compare.h"
#include "control/policy/explain.h"
#include "control/policy/policy.h"
#include "test/fuzz/fuzz_input.h"

static void on_difference(void *arg, const struct policy_difference *d) {
    (void)arg;
    fprintf(stderr, "fuzz: a policy differs from itself in %s %s\n", d->what, d->name);
    abort();
}

static void judge(const struct policy *p) {
    static const char *const ends[] = {"10.0.0.1:80", "[fd00::1]:53", ":1"};
    static struct explanation e;
    struct explain_error err;
    for (size_t i = 0; i < 3; i++) {
        const struct explain_packet q = {.direction = i == 1 ? "out" : "",
                                         .protocol = i == 2 ? "icmp" : "udp",
                                         .source = "",
                                         .destination = ends[i],
                                         .state = "",
                                         .interface = "",
                                         .tcp_flags = "",
                                         .dscp = "",
                                         .user = i == 0 ? "0" : "",
                                         .group = "",
                                         .exe = "",
                                         .comm = "",
                                         .cgroup = ""};
        if (explain(p, &q, &e, &err) != 0) {
            fprintf(stderr, "fuzz: %s\n", err.text);
            abort();
        }
    }
}

/* A member more in the first set with a name: the result is a policy again. */
static void edit(const struct policy *p, const char *text, size_t size) {
    static struct problems problems;
    uint32_t set = 0;
    while (set < policy_rules(p)->set_count && policy_set_name(p, set)[0] == '\0')
        set++;
    if (set == policy_rules(p)->set_count)
        return;
    const char *member = policy_rules(p)->sets[set].kind == NB_SET_ADDR ? "10.9.8.7" : "7";
    char *edited = NULL;
    struct policy *again = NULL;
    problems = (struct problems){0};
    if (policy_edit_set(text, size, policy_set_name(p, set), POLICY_EDIT_ADD, &member, 1, &edited, &problems) != 0)
        return; /* a member that this host does not know any more */
    problems = (struct problems){0};
    if (policy_parse("edited", edited, strlen(edited), POLICY_ABSENT_OK, &again, &problems) != 0) {
        fprintf(stderr, "fuzz: what was edited is refused: %s\n%s\n", problems.text[0], edited);
        abort();
    }
    policy_destroy(again);
    free(edited);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct problems problems;
    struct policy *p = NULL;
    char err[160];
    problems = (struct problems){0};
    if (policy_parse("fuzz.yaml", (const char *)data, size, POLICY_ABSENT_OK, &p, &problems) != 0) {
        if (problems.count == 0)
            abort();
        return 0;
    }
    if (nb_policy_check(policy_rules(p), err, sizeof err) != 0)
        abort();
    if (policy_compare(p, p, on_difference, NULL) != 0)
        abort();
    judge(p);
    edit(p, (const char *)data, size);
    policy_destroy(p);
    return 0;
}
