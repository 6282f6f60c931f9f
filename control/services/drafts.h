/* SPDX-License-Identifier: Apache-2.0
 *
 * Policies on their way in: texts that came in parts, each its maker's own, and what became of them when they were
 * parsed. Bounded: a new draft takes the place of the caller's oldest, or of the oldest of all. Control thread.
 */
#ifndef USHER_CONTROL_SERVICES_DRAFTS_H
#define USHER_CONTROL_SERVICES_DRAFTS_H

#include "control/policy/policy.h"

struct rpc_caller;

#define DRAFT_MAX 4

struct draft {
    uint64_t id; /* 0 = free; they grow */
    uint64_t key; /* whose */
    char name[128];
    char *text;
    size_t size, room;
    struct policy *policy; /* NULL: not parsed, or wrong */
    struct problems *problems; /* NULL: not parsed */
};

struct drafts {
    uint64_t last;
    struct draft v[DRAFT_MAX];
};

struct draft *draft_begin(struct drafts *d, const struct rpc_caller *who, const char *name);
/* NULL: no such draft of this caller's. */
struct draft *draft_find(struct drafts *d, const struct rpc_caller *who, uint64_t id);
/* -EFBIG, -ENOMEM. */
int draft_append(struct draft *d, const void *bytes, size_t size);
/* Once for each text. The policy, or NULL with d->problems. */
struct policy *draft_parse(struct draft *d);
void draft_end(struct draft *d);
void drafts_free(struct drafts *d);

#endif
