/* SPDX-License-Identifier: Apache-2.0
 *
 * A compiled policy as one block of bytes: filter_compile.c makes it from an nb_policy on the control thread, the
 * engine copies it piece by piece into the idle half of its arena and judges with it. Values only; sections are named
 * by their offset, so that it lies anywhere.
 *
 * A packet is seven words, and so is everything it is compared with:
 *   - a *rule* matches when ((packet ^ value) & mask) is zero in all words and its tests (ranges, sets, owners, what
 *     must not hold) agree;
 *   - a *table* holds the rules whose masks contain the table's mask; it is a hash over the packet's words under that
 *     mask, so one probe leaves a handful of its rules to be compared (tuple-space search);
 *   - the *flow cache's* key is the packet under `used`, the union of all that any rule looks at: what no rule asks for
 *     does not split flows.
 * Sections behind `fixed` are the moving parts: owners' bits, sets, counters, token buckets. They begin as zeros, but
 * for the sets, and the owners that are known when the policy is made.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_IMAGE_H
#define USHER_ENGINES_FILTER_FILTER_IMAGE_H

#include "engines/hash.h"

#define FILTER_MAGIC      0x5245544c49464855ull
#define FILTER_WORDS      7u
#define FILTER_TIERS      3u
#define FILTER_NONE       UINT32_MAX
#define FILTER_OWNER_MAX  4096u /* owners a policy knows; the words of an owner are its predicates' answers */
#define FILTER_TABLES_MAX 32u   /* more tuples are merged */

enum filter_word {
    FILTER_W_SRC, /* two words each, network order */
    FILTER_W_DST = 2,
    FILTER_W_WHAT = 4, /* sport 16, dport 16, proto 8, parsed 4, direction 2, state 3, version 2 (one bit a value) */
    FILTER_W_WHOSE,    /* owner 16, ethertype 16, ifindex 32 */
    FILTER_W_SHAPE,    /* length 32, dscp 8, vlan 16, tcp flags 8 */
};

enum filter_shift {
    FILTER_SPORT = 0,
    FILTER_DPORT = 16,
    FILTER_PROTO = 32,
    FILTER_PARSED = 40,
    FILTER_DIR = 44,
    FILTER_STATE = 46,
    FILTER_VERSION = 49,
    FILTER_OWNER = 0,
    FILTER_ETHERTYPE = 16,
    FILTER_IFINDEX = 32,
    FILTER_LENGTH = 0,
    FILTER_DSCP = 32,
    FILTER_VLAN = 40,
    FILTER_TCP_FLAGS = 56,
};

/* What a rule can see of one packet. ICMP's type and code lie where ports would. */
struct filter_words {
    uint64_t w[FILTER_WORDS];
};

struct filter_rule {
    struct filter_words value;
    uint32_t test_first;
    uint16_t test_count;
    uint8_t tier;
    uint8_t verdict; /* enum nb_verdict */
    struct filter_words mask;
    uint32_t limit; /* FILTER_NONE */
    uint32_t pad;
};
STATIC_ASSERT(sizeof(struct filter_rule) == 2 * CACHE_LINE, "a candidate costs two lines");

enum filter_test_kind { FILTER_TEST_RANGE, FILTER_TEST_SET, FILTER_TEST_ADDRS, FILTER_TEST_OWNER, FILTER_TEST_CUBE };

struct filter_test {
    uint8_t kind; /* enum filter_test_kind */
    bool negate;
    uint8_t word, shift; /* of the number or address */
    uint32_t width_mask; /* of the number */
    uint32_t index;      /* set, owner predicate, cube */
    uint32_t lo, hi;
};

struct filter_cube {
    struct filter_words value, mask;
};

struct filter_action {
    uint64_t id;
    uint32_t counter; /* FILTER_NONE */
    uint32_t mark, mark_mask, class_id, steer;
    uint16_t flags; /* enum nb_action_flag */
    uint8_t verdict, reject;
};

struct filter_table {
    struct filter_words mask;
    uint32_t first[FILTER_TIERS]; /* lowest rule of each tier, FILTER_NONE */
    uint32_t starts;              /* in FILTER_SEC_STARTS: bucket b's entries are starts[b] .. starts[b + 1] */
    uint32_t bucket_mask;
    uint32_t pad;
};

/* With the destination ports that its rule may match, so that most of a crowded bucket costs no look at the rule. */
struct filter_entry {
    uint32_t hash;
    uint32_t rule;
    uint16_t lo, hi;
};

/* Each has room for other members beside those in force: they are put there, and one store turns to them. */
struct filter_set {
    uint32_t first, count; /* in the section of its kind; one store changes both */
    uint32_t base, room;   /* two places of `room` members, one behind the other */
    uint32_t addrs;        /* else ranges */
    uint32_t pad;
};
STATIC_ASSERT(offsetof(struct filter_set, count) == 4, "first and count are one word");

struct filter_range {
    uint32_t lo, hi;
};

struct filter_addrs {
    uint64_t lo[2], hi[2]; /* host order, high word first */
};

struct filter_limit {
    uint64_t rate, full; /* tokens a second; burst in units of 10^-9 tokens */
    uint32_t flags;      /* enum nb_limit_flag */
    uint32_t bucket_first, bucket_count;
    uint32_t head_first, head_mask; /* per source: chains of buckets */
};

struct filter_count {
    uint64_t packets, bytes;
};

/* A limit's moving part: which of its buckets are in use, and those in order of use. Numbers are index + 1. */
struct filter_meter {
    uint32_t used, newest, oldest, pad;
};

struct filter_bucket {
    uint64_t source[2];
    uint64_t level, at;
    uint32_t next; /* in its chain */
    uint32_t newer, older;
    uint32_t head; /* its chain */
};

enum filter_section {
    FILTER_SEC_TABLES,
    FILTER_SEC_STARTS,
    FILTER_SEC_ENTRIES,
    FILTER_SEC_RULES,
    FILTER_SEC_ACTIONS,
    FILTER_SEC_TESTS,
    FILTER_SEC_CUBES,
    FILTER_SEC_LIMITS,
    FILTER_SEC_OWNERS, /* the first one that moves */
    FILTER_SEC_SETS,
    FILTER_SEC_RANGES,
    FILTER_SEC_ADDRS,
    FILTER_SEC_RULE_COUNTS,
    FILTER_SEC_COUNTERS,
    FILTER_SEC_METERS,
    FILTER_SEC_HEADS,
    FILTER_SEC_BUCKETS,
    FILTER_SEC_COUNT
};

struct filter_image {
    uint64_t magic;
    uint64_t revision;
    uint64_t size;  /* of everything */
    uint64_t fixed; /* what never changes and is sent; whole lines */
    struct hash_key key;
    struct filter_words used;
    struct filter_action defaults[FILTER_TIERS];
    uint64_t at[FILTER_SEC_COUNT]; /* from the start of the image */
    uint32_t count[FILTER_SEC_COUNT];
    uint32_t owner_words; /* words of bits an owner has */
    uint32_t owner_max;
    uint32_t counting; /* a default or a rule names a counter */
    uint32_t pad;
};

static inline void *filter_at(const struct filter_image *img, enum filter_section s) {
    return (uint8_t *)(uintptr_t)img + img->at[s];
}

static inline uint32_t filter_hash(const struct hash_key *key, const struct filter_words *p,
                                   const struct filter_words *mask) {
    hash_u128 acc = hash_pair(p->w[0] & mask->w[0], key->k[0], p->w[1] & mask->w[1], key->k[1]);
    acc += hash_pair(p->w[2] & mask->w[2], key->k[2], p->w[3] & mask->w[3], key->k[3]);
    acc += hash_pair(p->w[4] & mask->w[4], key->k[4], p->w[5] & mask->w[5], key->k[5]);
    return hash_fold(key, acc + hash_pair(p->w[6] & mask->w[6], key->k[6], 0, key->k[7]));
}

/* True when all that `mask` looks at is as in `value`. */
static inline bool filter_words_match(const struct filter_words *p, const struct filter_words *value,
                                      const struct filter_words *mask) {
    uint64_t differ = 0;
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        differ |= (p->w[i] ^ value->w[i]) & mask->w[i];
    return differ == 0;
}

/* Continues a checksum over whole words: against damage, not against forgers. */
static inline uint64_t filter_sum(uint64_t sum, const void *bytes, size_t size) {
    const uint8_t *at = (const uint8_t *)bytes;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t w;
        memcpy(&w, at + i, 8);
        sum = (sum ^ w) * 0x9e3779b97f4a7c15ull;
        sum ^= sum >> 29;
    }
    return sum;
}

#endif
