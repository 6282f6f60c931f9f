/* SPDX-License-Identifier: Apache-2.0
 *
 * What policies.c, policies_list.c and policies_where.c share: the methods that only look. Control thread.
 */
#ifndef USHER_CONTROL_SERVICES_POLICIES_H
#define USHER_CONTROL_SERVICES_POLICIES_H

#include <stddef.h>

#include "control/rpc/rpc.h"

struct explanation;
struct filter_count;
struct policy;
struct service;
struct Usher__Control__V1__ExplainPolicyResponse;
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
/* Which parts of this host judge such a packet, and what each says. `live`: it is the policy in force. */
void policies_places(struct rpc_call *c, const struct service *s, const struct policy *p, const struct explanation *e,
                     bool live, struct Usher__Control__V1__ExplainPolicyResponse *r);

#endif
