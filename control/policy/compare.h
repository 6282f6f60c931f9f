/* SPDX-License-Identifier: Apache-2.0
 *
 * What changes from one policy to another, as people see it: by the names of rules and sets. Pure; control thread.
 */
#ifndef USHER_CONTROL_POLICY_COMPARE_H
#define USHER_CONTROL_POLICY_COMPARE_H

#include "control/policy/policy.h"

enum policy_change { POLICY_ADDED = 1, POLICY_REMOVED, POLICY_CHANGED, POLICY_MOVED };

struct policy_difference {
    enum policy_change kind;
    const char *what;          /* "rule", "set", "default" */
    const char *name;
    const char *before, *after; /* "" where there is none; until the call returns */
};

typedef void policy_difference_fn(void *arg, const struct policy_difference *d);

/* In the order of the new one, then what is gone. -ENOMEM. */
int policy_compare(const struct policy *before, const struct policy *after, policy_difference_fn *fn, void *arg);

/* A set's kind and its first members, on one line. */
void policy_set_text(const struct policy *p, uint32_t set, char *ret_text, size_t size);
const char *policy_set_kind(const struct policy *p, uint32_t set);
/* One member; 0.0.0.0/0 is written as a prefix where it is one. */
void policy_member_text(const struct policy *p, uint32_t set, uint32_t i, char *ret_text, size_t size);

#endif
