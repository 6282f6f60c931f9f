/* SPDX-License-Identifier: Apache-2.0
 *
 * What control may ask of the filter engine. Values only.
 *
 * A policy is replaced whole and without a pause: BEGIN, the compiled image in PARTs (filter_compile.h makes it),
 * COMMIT. Each command costs the worker some microseconds; only COMMIT changes what packets meet, between two bursts.
 * Without a policy everything passes: control installs one before it adds a port.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_CMD_H
#define USHER_ENGINES_FILTER_FILTER_CMD_H

#include "engines/engine.h"

#define FILTER_PART_MAX 32768u /* bytes of one PART: about 3 us */

struct filter_config {
    uint32_t image_bytes;   /* of one policy, its counters and buckets; there are two. Touched as it is used */
    uint32_t cache_lines;   /* flows whose verdict is remembered; a power of two */
    uint32_t talk_lines;    /* datagram conversations that are remembered; a power of two */
};

enum filter_cmd_id {
    FILTER_CMD_BEGIN = 1, /* forgets what a transaction before it has left */
    FILTER_CMD_PART,
    FILTER_CMD_COMMIT,
    FILTER_CMD_ABORT,
    FILTER_CMD_OWNER,
    FILTER_CMD_COUNTS,
    FILTER_CMD_SET,
    FILTER_CMD_INFO, /* reply.value64 = revision, value = 1 when there is a policy */
};

/* -EFBIG when it does not fit image_bytes. */
struct filter_cmd_begin {
    struct engine_cmd cmd;
    uint64_t size; /* image->size */
};

/* The next `size` bytes, in order, a multiple of 8; `bytes` NULL = zeros. Lent for the call. */
struct filter_cmd_part {
    struct engine_cmd cmd;
    const uint8_t *bytes;
    uint64_t offset;
    uint32_t size;
};

/* -EBADMSG when the bytes that came are not those the sum was made of. */
struct filter_cmd_commit {
    struct engine_cmd cmd;
    uint64_t sum; /* filter_sum() over everything up to image->fixed */
};

/* The answers of the policy's owner predicates for one owner: before its first socket opens. The bits of the policy
 * that is in force; -ENOENT when there is none, -ERANGE when it was made for fewer owners. */
struct filter_cmd_owner {
    struct engine_cmd cmd;
    uint32_t owner;
    uint32_t count;      /* words */
    const uint64_t *bits;
};

/* Other members for a set of the policy in force, sorted and disjoint: `count` of `total` from `offset` on, lent for
 * the call. They are in force with the last part. -ENOSPC: the set has no room for `total`; install the policy anew. */
struct filter_cmd_set {
    struct engine_cmd cmd;
    const void *members; /* struct filter_addrs or filter_range, by the set's kind */
    uint32_t set;
    uint32_t offset, count, total; /* at most FILTER_SET_PART of them in a part */
};
#define FILTER_SET_PART 1024u

/* Copies counters out: of rules, or named ones. `previous`: of the policy that the last COMMIT replaced, which counts
 * no more; it stays until the next BEGIN. reply.value = how many were copied. */
struct filter_cmd_counts {
    struct engine_cmd cmd;
    bool previous;
    bool named;
    uint32_t first, count; /* at most 1024 */
    struct filter_count *counts;
};

#endif
