/* SPDX-License-Identifier: Apache-2.0
 *
 * Which rule decides about a packet that somebody describes in words. The interpreter answers (nicbackend/ir); this
 * makes the packet, and remembers who had a say. Control thread.
 */
#ifndef USHER_CONTROL_POLICY_EXPLAIN_H
#define USHER_CONTROL_POLICY_EXPLAIN_H

#include "control/policy/policy.h"
#include "nicbackend/ir/interpret.h"

#define EXPLAIN_PASSED_MAX 32u

/* Texts may be empty: then what is most usual is meant. */
struct explain_packet {
    const char *direction, *protocol, *source, *destination, *state, *interface, *tcp_flags, *dscp;
    uint32_t length, icmp_type, icmp_code, vlan;
    const struct owner *owner; /* NULL: as the next five say; all empty: nobody's */
    const char *user, *group, *exe, *comm, *cgroup;
};

struct explain_error {
    const char *field;
    char text[200];
};

struct explanation {
    char packet[320]; /* as it was understood */
    struct nb_view view;
    struct nb_outcome out;
    uint32_t passed[NB_TIER_COUNT][EXPLAIN_PASSED_MAX]; /* rules that matched and went on */
    uint32_t passed_count[NB_TIER_COUNT];
    bool owned;
    struct nb_owner owner; /* when it is */
};

/* 0, or -EINVAL. Limits count as not reached. */
int explain(const struct policy *p, const struct explain_packet *packet, struct explanation *ret,
            struct explain_error *err);
/* What a program of this host gets for such a packet of its own: "ECONNREFUSED"; "" = nothing. */
const char *explain_errno(const struct explanation *e);

#endif
