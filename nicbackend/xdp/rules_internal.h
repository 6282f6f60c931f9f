/* SPDX-License-Identifier: Apache-2.0
 *
 * The rule table as rules.c (entries), prune.c (which tuples to ask) and rules_attach.c (hooks) see it.
 */
#ifndef USHER_NICBACKEND_XDP_RULES_INTERNAL_H
#define USHER_NICBACKEND_XDP_RULES_INTERNAL_H

#include "nicbackend/rules.h"
#include "nicbackend/xdp/rules_abi.h"

enum rules_map {
    RULES_MAP_RULES,
    RULES_MAP_TUPLES,
    RULES_MAP_PORTS,
    RULES_MAP_SOURCES,
    RULES_MAP_COUNTS,
    RULES_MAP_CONFIG,
    RULES_MAP_COUNT
};

extern const char *const rules_map_names[RULES_MAP_COUNT];

struct rules_source {
    struct rule_source prefix;
    uint64_t own, all; /* tuples with a rule of this prefix; and of those that contain it */
};

/* Copies of what the pruning maps say. */
struct rules_prune {
    uint64_t ports[65536];
    struct rules_source *sources; /* by address, then length */
    uint32_t source_count, source_size;
    uint32_t lengths[129]; /* how many sources of each length */
    struct rule_config config;
};

struct rules_entry {
    struct nb_hw_rule rule;
    struct rule_key key;
    uint32_t slot;
    bool used;
};

struct rules_hook {
    int prog, link;
    uint32_t ifindex; /* 0 = not attached */
    bool clsact, made_qdisc;
};

struct nb_rules {
    struct nb_backend base;
    int map[RULES_MAP_COUNT];
    struct rules_prune prune;
    struct nb_key masks[RULES_TUPLES];
    uint32_t users[RULES_TUPLES]; /* rules of each tuple */
    struct rules_entry entries[RULES_MAX]; /* by handle - 1 */
    uint32_t free_entries[RULES_MAX], free_entry_count;
    uint32_t free_slots[RULES_MAX]; /* a ring: the one free longest is used next */
    uint32_t slot_head, slot_tail;
    uint64_t *cpu_counts; /* room for one lookup */
    int cpus;
    struct rules_hook hooks[NB_RULES_HOOK_COUNT];
    int filter, next; /* the socket filter and its program array, -1 = not loaded */
};

/* prune.c. Sets the bits that a rule of this tuple and cube needs, before the rule comes. -ENOSPC, -errno. */
int rules_prune_add(struct nb_rules *r, uint32_t tuple, const struct nb_cube *cube);
/* No rule of this tuple is left: its bits go. */
void rules_prune_clear(struct nb_rules *r, uint32_t tuple);

#endif
