/* SPDX-License-Identifier: Apache-2.0
 *
 * Keyed hashes of addresses and flows, and the index tables over arena records that use them. Values and inline code
 * only; derived state: rebuilt by inserting every live record again.
 *
 * The hash is NH (the universal family of UMAC): a sum of 64x64-bit products of key-masked words, so two inputs chosen
 * without knowledge of the key collide with probability 2^-64 before the fold. A flow costs three multiplications that
 * run in parallel, about 8 cycles; a byte-serial hash of the same strength costs about 40. Peers never see a hash
 * value.
 *
 * An index table is an array of chain heads (record index + 1, so that zeroed memory is an empty table and untouched
 * pages stay untouched); the chain runs through a struct hash_link in each record.
 */
#ifndef USHER_ENGINES_HASH_H
#define USHER_ENGINES_HASH_H

#include "engines/arena.h"
#include "engines/ipaddr.h"

__extension__ typedef unsigned __int128 hash_u128;

struct hash_key {
    uint64_t k[8];
};

/* splitmix64 turns one seed into independent-looking keys. */
static inline void hash_key_init(struct hash_key *key, uint64_t seed) {
    for (uint32_t i = 0; i < ARRAY_LEN(key->k); i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        key->k[i] = z ^ (z >> 31);
    }
}

static inline hash_u128 hash_pair(uint64_t a, uint64_t ka, uint64_t b, uint64_t kb) {
    return (hash_u128)(a + ka) * (b + kb);
}

/* High bits of a product are the well mixed ones, so the table index comes from the top. */
static inline uint32_t hash_fold(const struct hash_key *key, hash_u128 acc) {
    uint64_t x = (uint64_t)acc ^ (uint64_t)(acc >> 64);
    return (uint32_t)((x * (key->k[7] | 1)) >> 32);
}

/* An address and one more word (a port, an interface, a prefix length ...). */
static inline uint32_t hash_addr(const struct hash_key *key, const struct ipaddr *a, uint64_t extra) {
    hash_u128 acc = hash_pair(a->d[0], key->k[0], a->d[1], key->k[1]);
    return hash_fold(key, acc + hash_pair(extra, key->k[2], 0, key->k[3]));
}

static inline uint32_t hash_flow(const struct hash_key *key, const struct flow *f) {
    uint64_t w = (uint64_t)f->local_port | (uint64_t)f->remote_port << 16 | (uint64_t)f->proto << 32;
    hash_u128 acc = hash_pair(f->local.d[0], key->k[0], f->local.d[1], key->k[1]);
    acc += hash_pair(f->remote.d[0], key->k[2], f->remote.d[1], key->k[3]);
    return hash_fold(key, acc + hash_pair(w, key->k[4], 0, key->k[5]));
}

/* Mixes two words that are already hashes or small numbers; for choices that must not depend on a table's order. */
static inline uint32_t hash_mix(const struct hash_key *key, uint32_t a, uint32_t b) {
    return hash_fold(key, hash_pair(a, key->k[5], b, key->k[6]));
}

struct hash_link {
    uint32_t next; /* index + 1 of the next record in the chain, 0 ends it */
    uint32_t hash;
};

struct hash_index {
    uint32_t heads_lines; /* place of the heads in the arena, in cache lines */
    uint32_t mask;
    uint32_t link_offset; /* of struct hash_link in the record */
    uint32_t table;       /* number of the arena table it indexes */
};

/* Room for `capacity` records at a load of at most one. */
static inline void hash_index_plan(struct hash_index *ix, struct arena_header *a, uint32_t table, uint32_t capacity,
                                   size_t link_offset) {
    uint32_t buckets = 16;
    while (buckets < capacity)
        buckets *= 2;
    ix->mask = buckets - 1;
    ix->table = table;
    ix->link_offset = (uint32_t)link_offset;
    ix->heads_lines = arena_plan_derived(a, (size_t)buckets * sizeof(uint32_t));
}

static inline void hash_index_clear(const struct hash_index *ix, struct arena_header *a) {
    memset(arena_at(a, ix->heads_lines), 0, ((size_t)ix->mask + 1) * sizeof(uint32_t));
}

static inline uint32_t *hash_index_head(const struct hash_index *ix, const struct arena_header *a, uint32_t hash) {
    return (uint32_t *)arena_at((void *)(uintptr_t)a, ix->heads_lines) + (hash & ix->mask);
}

static inline struct hash_link *hash_index_link(const struct hash_index *ix, const struct arena_header *a,
                                                uint32_t index) {
    void *record = arena_record((void *)(uintptr_t)a, &a->table[ix->table], index);
    return (struct hash_link *)((uint8_t *)record + ix->link_offset);
}

/* The record that stands first in the chain, before it is asked. */
static inline void hash_index_prefetch(const struct hash_index *ix, const struct arena_header *a, uint32_t hash) {
    uint32_t at = *hash_index_head(ix, a, hash);
    if (at != 0)
        __builtin_prefetch(hash_index_link(ix, a, at - 1), 1);
}

/* First record whose hash is `hash`, and the next one after `index`; ARENA_NIL when there is none. The caller compares
 * the keys. */
static inline uint32_t hash_index_scan(const struct hash_index *ix, const struct arena_header *a, uint32_t at,
                                       uint32_t hash) {
    while (at != 0) {
        const struct hash_link *link = hash_index_link(ix, a, at - 1);
        if (link->hash == hash)
            return at - 1;
        at = link->next;
    }
    return ARENA_NIL;
}

static inline uint32_t hash_index_first(const struct hash_index *ix, const struct arena_header *a, uint32_t hash) {
    return hash_index_scan(ix, a, *hash_index_head(ix, a, hash), hash);
}

static inline uint32_t hash_index_next(const struct hash_index *ix, const struct arena_header *a, uint32_t index) {
    const struct hash_link *link = hash_index_link(ix, a, index);
    return hash_index_scan(ix, a, link->next, link->hash);
}

static inline void hash_index_insert(const struct hash_index *ix, struct arena_header *a, uint32_t index,
                                     uint32_t hash) {
    struct hash_link *link = hash_index_link(ix, a, index);
    uint32_t *head = hash_index_head(ix, a, hash);
    link->hash = hash;
    link->next = *head;
    *head = index + 1;
}

static inline void hash_index_remove(const struct hash_index *ix, struct arena_header *a, uint32_t index) {
    uint32_t *at = hash_index_head(ix, a, hash_index_link(ix, a, index)->hash);
    while (*at != 0 && *at != index + 1)
        at = &hash_index_link(ix, a, *at - 1)->next;
    if (*at != 0)
        *at = hash_index_link(ix, a, index)->next;
}

#endif
