/* SPDX-License-Identifier: Apache-2.0
 *
 * The transaction of install.h: BEGIN and PARTs to every shard, then COMMIT to every shard.
 */
#include "control/policy/install.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "control/identity/owner.h"
#include "control/policy/classes_install.h"
#include "dataplane/core/runtime.h"
#include "engines/filter/filter_cmd.h"
#include "engines/filter/filter_compile.h"

struct sending {
    struct runtime *rt;
    uint32_t engine, shard;
};

static int command(const struct sending *s, const struct engine_cmd *cmd) {
    struct engine_reply reply = {.error = 0};
    int error = runtime_command(s->rt, s->shard, s->engine, cmd, &reply);
    return error != 0 ? error : reply.error;
}

static int send_parts(const struct sending *s, const struct filter_compiled *c) {
    struct filter_cmd_begin begin = {.cmd = {FILTER_CMD_BEGIN, sizeof begin}, .size = c->image->size};
    int error = command(s, &begin.cmd);
    for (uint64_t at = 0; at < c->image->size && error == 0;) {
        uint64_t end = at < c->bytes ? c->bytes : c->image->size;
        uint32_t n = end - at < FILTER_PART_MAX ? (uint32_t)(end - at) : FILTER_PART_MAX;
        struct filter_cmd_part part = {.cmd = {FILTER_CMD_PART, sizeof part}, .offset = at, .size = n};
        part.bytes = at < c->bytes ? (const uint8_t *)c->image + at : NULL;
        error = command(s, &part.cmd);
        at += n;
    }
    return error;
}

static int send_all(struct sending *s, const struct filter_compiled *c) {
    uint32_t shards = runtime_shard_count(s->rt);
    int error = 0;
    for (s->shard = 0; s->shard < shards && error == 0; s->shard++)
        error = send_parts(s, c);
    if (error != 0) {
        struct engine_cmd abort = {FILTER_CMD_ABORT, sizeof abort};
        for (s->shard = 0; s->shard < shards; s->shard++)
            (void)command(s, &abort);
        return error;
    }
    struct filter_cmd_commit commit = {.cmd = {FILTER_CMD_COMMIT, sizeof commit}, .sum = c->sum};
    for (s->shard = 0; s->shard < shards; s->shard++) {
        int one = command(s, &commit.cmd);
        error = error != 0 ? error : one;
    }
    return error;
}

static uint32_t owners_list(const struct policy *policy, const struct owner_table *owners, uint32_t max,
                            struct nb_owner *seen, struct filter_owner *ret) {
    uint32_t n = 0;
    for (uint32_t i = 1; owners != NULL && i < max; i++) {
        const struct owner *o = owner_get(owners, i);
        if (o == NULL)
            continue;
        policy_owner(policy, o, &seen[n]);
        ret[n] = (struct filter_owner){i, &seen[n]};
        n++;
    }
    return n;
}

int policy_install(struct runtime *rt, const struct policy *policy, const struct owner_table *owners,
                   uint32_t owner_max) {
    struct sending s = {.rt = rt};
    struct filter_compiled c;
    uint64_t seed = 0;
    int error = runtime_engine_find(rt, "filter", &s.engine);
    if (error != 0)
        return error;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        return -EIO;
    uint32_t max = owner_max < FILTER_OWNER_MAX ? owner_max : FILTER_OWNER_MAX;
    struct nb_owner *seen = calloc(max + 1u, sizeof *seen);
    struct filter_owner *list = calloc(max + 1u, sizeof *list);
    error = seen == NULL || list == NULL ? -ENOMEM : 0;
    if (error == 0)
        error = classes_stage(rt, policy);
    if (error == 0)
        error = filter_compile(policy_rules(policy), list, owners_list(policy, owners, max, seen, list), seed, &c);
    if (error == 0) {
        error = send_all(&s, &c);
        filter_compiled_free(&c);
    }
    if (error == 0)
        error = classes_commit(rt, policy, owners, owner_max);
    free(list);
    free(seen);
    return error;
}

int policy_owner_add(struct runtime *rt, const struct policy *policy, uint32_t index, const struct owner *owner) {
    const struct nb_policy *rules = policy_rules(policy);
    struct sending s = {.rt = rt, .shard = UINT32_MAX};
    struct nb_owner seen;
    uint32_t words = (rules->owner_count + 63) / 64;
    int error = runtime_engine_find(rt, "filter", &s.engine);
    uint64_t *bits = calloc(words + 1u, sizeof *bits);
    if (error == 0 && bits == NULL)
        error = -ENOMEM;
    if (error == 0 && words > 0) {
        policy_owner(policy, owner, &seen);
        filter_owner_bits(rules, &seen, bits);
        struct filter_cmd_owner c = {.cmd = {FILTER_CMD_OWNER, sizeof c}, .owner = index, .count = words, .bits = bits};
        error = command(&s, &c.cmd);
    }
    free(bits);
    return error != 0 ? error : classes_owner_add(rt, policy, index, owner);
}

/* ---- sets ---- */

static int set_parts(const struct sending *s, const struct nb_set *set, uint32_t index, const uint8_t *members) {
    size_t size = set->kind == NB_SET_ADDR ? sizeof(struct filter_addrs) : sizeof(struct filter_range);
    uint32_t at = 0;
    int error;
    do {
        uint32_t n = set->count - at < FILTER_SET_PART ? set->count - at : FILTER_SET_PART;
        struct filter_cmd_set c = {.cmd = {FILTER_CMD_SET, sizeof c}, .members = members + at * size, .set = index};
        c.offset = at;
        c.count = n;
        c.total = set->count;
        error = command(s, &c.cmd);
        at += n;
    } while (error == 0 && at < set->count);
    return error;
}

/* Users and groups: what the predicates say of each owner. */
static int ids_install(struct runtime *rt, const struct policy *policy, const struct owner_table *owners,
                       uint32_t max) {
    int error = 0;
    for (uint32_t i = 1; owners != NULL && i < max && error == 0; i++) {
        const struct owner *o = owner_get(owners, i);
        error = o != NULL ? policy_owner_add(rt, policy, i, o) : 0;
    }
    return error;
}

int policy_set_install(struct runtime *rt, const struct policy *policy, uint32_t set, const struct owner_table *owners,
                       uint32_t owner_max) {
    const struct nb_set *members = &policy_rules(policy)->sets[set];
    struct sending s = {.rt = rt};
    if (members->kind == NB_SET_ID)
        return ids_install(rt, policy, owners, owner_max < FILTER_OWNER_MAX ? owner_max : FILTER_OWNER_MAX);
    uint8_t *bytes = calloc(members->count + 1u, sizeof(struct filter_addrs));
    int error = bytes == NULL ? -ENOMEM : runtime_engine_find(rt, "filter", &s.engine);
    if (error == 0)
        filter_set_members(members, bytes);
    for (s.shard = 0; s.shard < runtime_shard_count(rt) && error == 0; s.shard++)
        error = set_parts(&s, members, set, bytes);
    free(bytes);
    return error;
}

/* ---- counts ---- */

#define COUNTS_PART 1024u

static int counts_part(struct sending *s, struct filter_cmd_counts *c, struct filter_count *counts) {
    struct engine_reply reply = {.error = 0};
    int error = runtime_command(s->rt, s->shard, s->engine, &c->cmd, &reply);
    if (error != 0 || reply.error != 0)
        return error != 0 ? error : reply.error;
    for (uint64_t i = 0; i < reply.value; i++) {
        counts[c->first + i].packets += c->counts[i].packets;
        counts[c->first + i].bytes += c->counts[i].bytes;
    }
    return 0;
}

int policy_counts_add(struct runtime *rt, bool previous, bool named, uint32_t count, struct filter_count *counts) {
    struct sending s = {.rt = rt};
    struct filter_count part[COUNTS_PART];
    int error = runtime_engine_find(rt, "filter", &s.engine);
    for (s.shard = 0; s.shard < runtime_shard_count(rt) && error == 0; s.shard++)
        for (uint32_t at = 0; at < count && error == 0; at += COUNTS_PART) {
            struct filter_cmd_counts c = {.cmd = {FILTER_CMD_COUNTS, sizeof c},
                                          .previous = previous,
                                          .named = named,
                                          .first = at,
                                          .count = count - at < COUNTS_PART ? count - at : COUNTS_PART,
                                          .counts = part};
            error = counts_part(&s, &c, counts);
        }
    return error;
}
