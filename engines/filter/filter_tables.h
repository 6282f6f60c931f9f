/* SPDX-License-Identifier: Apache-2.0
 *
 * Which rules lie in which hash table: a part of filter_compile.c. Control thread, heap memory.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_TABLES_H
#define USHER_ENGINES_FILTER_FILTER_TABLES_H

#include "engines/filter/filter_image.h"

struct filter_group {
    struct filter_words mask;
    uint32_t *rules; /* ascending */
    uint32_t count, room;
};

struct filter_groups {
    struct filter_group *v;
    uint32_t count, room;
    uint32_t chain_max;
};

/* Groups the rules that can match (`possible`, by rule). -ENOMEM. */
int filter_tables_plan(const struct filter_rule *rules, const bool *possible, uint32_t count,
                       const struct hash_key *key, struct filter_groups *ret_groups);
void filter_groups_free(struct filter_groups *g);
/* Buckets of a group's table: a power of two. */
uint32_t filter_group_buckets(const struct filter_group *g);

#endif
