/* SPDX-License-Identifier: Apache-2.0
 *
 * What the policy commands show; drawn from answers, so that tests need no usherd. See policy.c for the commands.
 */
#ifndef USHER_CONTROL_USHERCTL_POLICY_H
#define USHER_CONTROL_USHERCTL_POLICY_H

#include "control/usherctl/ctl.h"
#include "control/usherctl/lists.h"
#include "usher/control/v1/policies.pb-c.h"

/* Places in the options' tables. */
enum policy_apply_option { APPLY_CONFIRM, APPLY_EXPECT, APPLY_NOTE, APPLY_PARTIAL };
enum policy_diff_option { DIFF_FROM, DIFF_TO };
enum policy_explain_option {
    EXPLAIN_OUT,
    EXPLAIN_PROTOCOL,
    EXPLAIN_FROM,
    EXPLAIN_TO,
    EXPLAIN_STATE,
    EXPLAIN_INTERFACE,
    EXPLAIN_USER,
    EXPLAIN_GROUP,
    EXPLAIN_EXE,
    EXPLAIN_COMM,
    EXPLAIN_CGROUP,
    EXPLAIN_PID,
    EXPLAIN_FLAGS,
    EXPLAIN_LENGTH,
    EXPLAIN_FILE
};
extern const struct option_def policy_apply_options[], policy_diff_options[], policy_explain_options[];

extern const struct list list_policy_history, list_policy_rules, list_policy_counters, list_policy_sets;

void policy_print_check(const PB(CheckPolicyResponse) * a, const char *file, const struct screen *s);
/* What kernel sockets are not judged by; `count` of all. */
void policy_print_gaps(PB(PolicyGap) * *gaps, size_t given, uint32_t count, const struct screen *s);
void policy_print_diff(const PB(DiffPolicyResponse) * a, const struct screen *s);
void policy_print_explain(const PB(ExplainPolicyResponse) * a, const struct screen *s);
void policy_print_apply(const PB(ApplyPolicyResponse) * a, uint64_t now_unix_ns, const struct screen *s);

#endif
