/* SPDX-License-Identifier: Apache-2.0
 *
 * A policy as one list of cubes, read from the top: the first that has a packet's key says what hardware may do with
 * the packet. An item that drops is certain: whatever hardware cannot see (state, owner, length, tokens), software
 * would drop every such packet by the same rule and leave nothing else behind. Everything else is an item that punts,
 * or nothing. Ahead of all stands what software never asks the policy about: ARP, ICMP's errors, neighbour discovery.
 * Control thread; cost is cubes times rules.
 */
#ifndef USHER_NICBACKEND_PARTITION_FLATTEN_H
#define USHER_NICBACKEND_PARTITION_FLATTEN_H

#include "nicbackend/partition/cube.h"

/* What is certain about the packets of a cube because of the sockets of this host. */
struct nb_cell {
    struct nb_cube cube;
    const struct nb_owner *owner; /* with `owner_known`; NULL is nobody */
    bool owner_known;
    uint8_t states; /* mask of enum nb_state: what such packets may be */
};

/* Cells are asked in order, the most special first; what is in none of them is `rest` (whose cube is not looked at). */
struct nb_world {
    const struct nb_cell *cells;
    uint32_t cell_count;
    bool disjoint; /* no two cells have a packet in common: their order says nothing */
    bool no_rest;  /* only the cells are asked about, and only rules that ask for what they say */
    struct nb_cell rest;
};

/* Nothing is known: of any state, of whoever. */
#define NB_STATES_ALL    (NB_STATE_NEW | NB_STATE_ESTABLISHED | NB_STATE_RELATED)
#define NB_WORLD_UNKNOWN ((struct nb_world){.disjoint = true, .rest = {.states = NB_STATES_ALL}})

/* Why a rule is not, or not wholly, in the NIC, and what to do about it. The first that was found. */
#define NB_REASONS(X) \
    X(NONE, "it is in the NIC", \
      "nothing is left to do") \
    X(ALLOWS, "it lets packets pass: software has the last word", \
      "nothing to do: packets that pass cost what software costs; deny what is unwanted earlier") \
    X(OUTGOING, "it is about packets that leave or about another interface", \
      "nothing to do: it has no say on packets that come in here") \
    X(REJECTS, "it answers the sender", \
      "drop instead of reject where senders need no answer") \
    X(MARKS, "it logs or mirrors what it matches", \
      "take log or mirror out, or put a rule behind one that drops silently") \
    X(LIMITED, "its limit counts in software", \
      "nothing to do: tokens are software's") \
    X(STATE, "hardware does not know the conversation's state", \
      "name flags instead of a state where that says the same (tcp_flags: syn)") \
    X(OWNER, "hardware does not know whose packets these are", \
      "nothing to do: it gets there where all sockets of a port are one owner's") \
    X(LENGTH, "hardware does not see the packet's length as software does", \
      "take the length out") \
    X(CUBES, "it needs too many entries", \
      "split the rule: name fewer ranges at a time") \
    X(HIDDEN, "earlier rules decide all that it matches", \
      "take it out, or move it up: what it matches is decided before it") \
    X(FIELDS, "the device cannot match such fields", \
      "match by fields that the device has") \
    X(ORDER, "an earlier rule overlaps it and the device cannot order them", \
      "make rules that overlap disjoint, or put them into one") \
    X(MASKS, "the device has no mask left", \
      "use fewer combinations of fields and prefix lengths") \
    X(SPACE, "the device has no entry left for it", \
      "give it more entries (interfaces[].nic_entries), or join rules; the hottest get in") \
    X(REFUSED, "the device refused it", \
      "ask the device's driver: its log may say why")

enum nb_reason {
#define NB_REASON_ENUM(name, text, advice) NB_REASON_##name,
    NB_REASONS(NB_REASON_ENUM)
#undef NB_REASON_ENUM
        NB_REASON_COUNT
};

const char *nb_reason_text(enum nb_reason reason);
const char *nb_reason_advice(enum nb_reason reason);

struct nb_item {
    struct nb_cube cube;
    uint32_t rule; /* index in the policy; its count plus the tier for a tier's default; UINT32_MAX: nobody's */
    uint32_t prec; /* with ranks: the higher the earlier */
    bool drop;
};

struct nb_items {
    struct nb_item *v;
    uint32_t count, size;
    uint8_t *reasons; /* enum nb_reason, by rule: why its items punt, if they do */
};

#define NB_CUBE_MAX 4096u

struct nb_flatten_params {
    const struct nb_policy *policy;
    const struct nb_world *world;
    uint32_t ifindex;
    uint32_t cube_max; /* of one rule, NB_CUBE_MAX for devices; more are widened */
    bool exact;        /* counters of rules that do not decide must not miss what hardware drops either */
    const uint32_t *ranks;       /* by place, see ranks.h; of a disjoint world only. NULL: items get no prec */
    const struct nb_cube *near;  /* only items that overlap it, NULL = all */
    const uint8_t *only;         /* by place: nonzero for those that are asked for; NULL = all */
};

/* 0 or -ENOMEM. */
int nb_flatten(const struct nb_flatten_params *params, struct nb_items *ret_items);
void nb_items_free(struct nb_items *items);

#endif
