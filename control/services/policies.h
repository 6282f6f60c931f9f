/* SPDX-License-Identifier: Apache-2.0
 *
 * What policies.c and policies_list.c share: the methods that only look. Control thread.
 */
#ifndef USHER_CONTROL_SERVICES_POLICIES_H
#define USHER_CONTROL_SERVICES_POLICIES_H

#include <stddef.h>

#include "control/rpc/rpc.h"

struct filter_count;
struct policy;
struct service;
struct Usher__Control__V1__PolicyGap;

struct policies_rules {
    uint64_t revision;
    uint32_t next, end; /* rules */
    bool sent;
    struct filter_count *counts;
};

rpc_open_fn policies_rules_open;
rpc_next_fn policies_rules_next;
rpc_close_fn policies_rules_close;
rpc_unary_fn policies_history, policies_show, policies_counters, policies_sets, policies_explain;

enum rpc_code policies_revision_unknown(struct rpc_call *c, uint64_t number);
/* The gaps of a policy, the first of them as messages of the call's; their number. */
uint32_t policies_gaps(struct rpc_call *c, const struct policy *p, struct Usher__Control__V1__PolicyGap ***ret_gaps,
                       size_t *ret_count);
/* A revision parsed anew, 0 = the empty policy; NULL: it is not there. */
struct policy *policies_revision(const struct service *s, uint64_t number);

#endif
