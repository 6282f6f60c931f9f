/* SPDX-License-Identifier: Apache-2.0
 *
 * See chains.h.
 */
#include "nicbackend/partition/chains.h"

#include <errno.h>
#include <stdlib.h>

enum { ANY = 65536, ALL, HEADS };

int nb_chains_create(uint32_t max, struct nb_chains *ret) {
    struct nb_chains c = {.head = calloc(HEADS, sizeof *c.head),
                          .next = calloc(max + 1u, sizeof *c.next),
                          .next_all = calloc(max + 1u, sizeof *c.next_all)};
    *ret = c;
    return c.head == NULL || c.next == NULL || c.next_all == NULL ? -ENOMEM : 0;
}

void nb_chains_free(struct nb_chains *c) {
    free(c->head);
    free(c->next);
    free(c->next_all);
    *c = (struct nb_chains){.head = NULL};
}

static uint32_t chain_of(const struct nb_cube *c) {
    if (c->mask.dport[0] != 0xff || c->mask.dport[1] != 0xff)
        return ANY;
    return (uint32_t)c->value.dport[0] << 8 | c->value.dport[1];
}

void nb_chains_add(struct nb_chains *c, const struct nb_cube *cube, uint32_t index) {
    uint32_t *head = &c->head[chain_of(cube)];
    c->next[index] = *head;
    c->next_all[index] = c->head[ALL];
    *head = c->head[ALL] = index + 1;
}

struct nb_walk nb_chains_walk(const struct nb_chains *c, const struct nb_cube *cube) {
    uint32_t chain = chain_of(cube);
    if (chain == ANY)
        return (struct nb_walk){.next = c->next_all, .at = c->head[ALL]};
    return (struct nb_walk){.next = c->next, .at = c->head[chain], .then = c->head[ANY]};
}
