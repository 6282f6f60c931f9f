/* SPDX-License-Identifier: Apache-2.0
 *
 * Random policies, packets and owners from a small world, in which they meet often: for comparing what judges packets
 * with the interpreter. Same seed, same policy.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_DIFFER_H
#define USHER_ENGINES_FILTER_FILTER_DIFFER_H

#include "nicbackend/ir/rule.h"

#define DIFFER_RULES   400u
#define DIFFER_SETS    12u
#define DIFFER_MEMBERS 24u
#define DIFFER_OWNERS  8u
#define DIFFER_MATCHES 70u
#define DIFFER_LIMITS  6u
#define DIFFER_COUNTS  4u

struct differ {
    uint64_t rng;
    struct nb_policy policy;
    struct nb_rule rules[DIFFER_RULES];
    struct nb_set sets[DIFFER_SETS];
    struct nb_addr_range addrs[DIFFER_SETS][DIFFER_MEMBERS];
    struct nb_range ranges[DIFFER_SETS][DIFFER_MEMBERS];
    struct nb_owner_match matches[DIFFER_MATCHES];
    struct nb_limit limits[DIFFER_LIMITS];
    struct nb_owner owners[DIFFER_OWNERS]; /* 0 is nobody */
};

uint32_t differ_roll(struct differ *d, uint32_t n);
/* `rules` at most DIFFER_RULES. */
void differ_policy(struct differ *d, uint64_t seed, uint32_t rules);
void differ_view(struct differ *d, struct nb_view *ret_view);

#endif
