/* SPDX-License-Identifier: Apache-2.0
 *
 * The claim table and its attachments as claims.c and attach.c see them. Both structs hold plain fds only, no libbpf
 * objects, so that they can be made anew from the fds a predecessor left.
 */
#ifndef USHER_NICBACKEND_CLAIMS_INTERNAL_H
#define USHER_NICBACKEND_CLAIMS_INTERNAL_H

#include "nicbackend/claims.h"
#include "nicbackend/xdp/claims_abi.h"

enum claims_map {
    CLAIMS_MAP_CLAIMS,
    CLAIMS_MAP_PORTS,
    CLAIMS_MAP_ADDRS,
    CLAIMS_MAP_FRAGS,
    CLAIMS_MAP_KEPT,
    CLAIMS_MAP_HELD,
    CLAIMS_MAP_COUNT
};

enum attach_fd {
    ATTACH_FD_PROG,   /* what is attached */
    ATTACH_FD_FILTER, /* socket filter, tc hook only */
    ATTACH_FD_CONFIG,
    ATTACH_FD_COUNTS,
    ATTACH_FD_XSKS, /* XDP hooks only */
    ATTACH_FD_LINK, /* not with clsact */
    ATTACH_FD_COUNT
};

/* Stable names: the program in question is <map> or <ifindex>.<hook>.<part>. */
extern const char *const claims_map_names[CLAIMS_MAP_COUNT];
extern const char *const claims_hook_names[NB_HOOK_COUNT];
extern const char *const claims_attach_fd_names[ATTACH_FD_COUNT];

struct nb_attach {
    struct nb_claims *claims;
    struct nb_attach *next;
    struct claim_config config; /* the truth is the map; this is our copy */
    int fd[ATTACH_FD_COUNT];    /* -1 = none */
};

#define CLAIMS_FRONT_MAX 64

/* Rules that packet sockets of an interface ask before claims. */
struct claims_front {
    uint32_t ifindex; /* 0 = free */
    struct nb_rules *rules;
};

struct nb_claims {
    struct claims_front fronts[CLAIMS_FRONT_MAX];
    int map[CLAIMS_MAP_COUNT];
    struct nb_attach *attaches;
    uint64_t ports[CLAIM_PORT_WORDS]; /* copy of the map */
    uint64_t kept;                    /* copy of its CLAIM_KEPT_WORD */
    uint32_t exact[2][65536];         /* exact claims and held flows of a port: [is_tcp][port]; touched lazily */
    uint8_t any[2][65536];            /* the same of claims at any address, ranges included */
};

/* clsact.c. Our filters by priority, the first first. */
enum nb_clsact_place { NB_CLSACT_CLAIMS = 1, NB_CLSACT_RULES = 2 };
/* Detaching takes the qdisc away too when asked and when no filter is left in it. */
int nb_clsact_attach(uint32_t ifindex, int prog_fd, enum nb_clsact_place place, bool *ret_made_qdisc);
int nb_clsact_detach(uint32_t ifindex, enum nb_clsact_place place, bool qdisc_too);
/* attach.c. A tcx link before all others where the kernel has them, else a clsact filter, and then the link is -1. */
int nb_tc_attach(uint32_t ifindex, int prog_fd, enum nb_clsact_place place, int *ret_link, bool *ret_made_qdisc);
struct nb_attach *nb_attach_alloc(struct nb_claims *c);

#endif
