/* SPDX-License-Identifier: Apache-2.0
 *
 * A small world that can be walked through whole: random policies and sockets over a few addresses and ports, and for
 * every packet of it what software says, whatever hardware cannot see. Tests only.
 */
#ifndef USHER_NICBACKEND_STORE_WORLD_FIXTURE_H
#define USHER_NICBACKEND_STORE_WORLD_FIXTURE_H

#include "nicbackend/partition/flatten.h"

#define TOY_RULES  10u
#define TOY_CELLS  5u
#define TOY_OWNERS 3u
#define TOY_POINTS 160u

struct toy {
    uint64_t rng;
    struct nb_policy policy;
    struct nb_rule rules[TOY_RULES];
    struct nb_set sets[2];
    struct nb_addr_range addrs[2];
    struct nb_range ports[2];
    struct nb_owner_match matches[2];
    struct nb_limit limit;
    struct nb_world world;
    struct nb_cell cells[TOY_CELLS];
    /* What software says of each point. */
    bool drops[TOY_POINTS];        /* always, and nothing is logged */
    bool alone[TOY_POINTS];        /* and no other rule counts the packet, and it is always the same one */
    uint64_t credit[TOY_POINTS];
};

uint32_t toy_roll(uint64_t *rng, uint32_t n);
/* All packets there are; the same for every toy. Returns how many. */
uint32_t toy_points(struct nb_view *ret_views);
void toy_policy(struct toy *t, uint64_t seed);
/* Other sockets, the same policy. */
void toy_world(struct toy *t);
/* Other sockets that have no port in common, and of packets to other ports nothing is known. */
void toy_sockets(struct toy *t);
void toy_copy(struct toy *to, const struct toy *from);
/* A rule comes, goes or becomes another; or a set or a default does. */
void toy_nudge(struct toy *t);
/* Fills in what software says. */
void toy_judge(struct toy *t);

#endif
