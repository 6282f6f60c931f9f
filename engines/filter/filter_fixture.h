/* SPDX-License-Identifier: Apache-2.0
 *
 * For the filter engine's tests: a policy goes through the compiler and the commands into an engine.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_FIXTURE_H
#define USHER_ENGINES_FILTER_FILTER_FIXTURE_H

#include "engines/filter/filter.h"
#include "engines/filter/filter_compile.h"
#include "engines/testkit.h"

extern const struct engine_ops usher_engine_filter;

/* The engine includes no nicbackend header: its numbers are the same. */
STATIC_ASSERT((int)FILTER_ALLOW == NB_ALLOW, "verdict");
STATIC_ASSERT((int)FILTER_DROP == NB_DROP && (int)FILTER_REJECT == NB_REJECT, "verdict");
STATIC_ASSERT((int)FILTER_REJECT_RST == NB_REJECT_RST && (int)FILTER_REJECT_ADMIN == NB_REJECT_ADMIN, "reject");
STATIC_ASSERT((int)FILTER_IN == NB_IN && (int)FILTER_OUT == NB_OUT && FILTER_TIERS == NB_TIER_COUNT, "direction");
STATIC_ASSERT((int)FILTER_NEW == NB_STATE_NEW && (int)FILTER_RELATED == NB_STATE_RELATED, "state");
STATIC_ASSERT((int)FILTER_HAS_PORTS == NB_PARSED_PORTS && (int)FILTER_IS_FRAGMENT == NB_PARSED_FRAGMENT, "parsed");
STATIC_ASSERT((int)FILTER_ACT_MARK == NB_ACT_MARK && (int)FILTER_ACT_STEER == NB_ACT_STEER, "action");
STATIC_ASSERT((int)FILTER_ACT_MIRROR == NB_ACT_MIRROR && (int)FILTER_ACT_CLASS == NB_ACT_CLASS, "action");
STATIC_ASSERT((int)FILTER_LIMIT_PER_SOURCE == NB_LIMIT_PER_SOURCE && (int)FILTER_LIMIT_OVER == NB_LIMIT_OVER, "limit");

static const struct filter_config fixture_config = {
    .image_bytes = 4u << 20, .cache_lines = 1024, .talk_lines = 256};

/* Sends all that is allocated of `c`, then zeros; returns the first error. */
static inline int fixture_send(struct testkit *tk, struct testkit_engine *e, const struct filter_compiled *c) {
    struct filter_cmd_begin begin = {.cmd = {FILTER_CMD_BEGIN, sizeof begin}, .size = c->image->size};
    int err = testkit_command(tk, e, &begin).error;
    for (uint64_t at = 0; at < c->image->size && err == 0;) {
        uint64_t end = at < c->bytes ? c->bytes : c->image->size;
        uint32_t n = end - at < FILTER_PART_MAX ? (uint32_t)(end - at) : FILTER_PART_MAX;
        struct filter_cmd_part part = {.cmd = {FILTER_CMD_PART, sizeof part}, .offset = at, .size = n};
        part.bytes = at < c->bytes ? (const uint8_t *)c->image + at : NULL;
        err = testkit_command(tk, e, &part).error;
        at += n;
    }
    return err;
}

static inline int fixture_install(struct testkit *tk, struct testkit_engine *e, const struct nb_policy *policy,
                                  const struct filter_owner *owners, uint32_t count) {
    struct filter_compiled c;
    int err = filter_compile(policy, owners, count, policy->revision + 1, &c);
    if (err != 0)
        return err;
    err = fixture_send(tk, e, &c);
    struct filter_cmd_commit commit = {.cmd = {FILTER_CMD_COMMIT, sizeof commit}, .sum = c.sum};
    if (err == 0)
        err = testkit_command(tk, e, &commit).error;
    filter_compiled_free(&c);
    return err;
}

#endif
