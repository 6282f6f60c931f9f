/* SPDX-License-Identifier: Apache-2.0
 *
 * The view from the inside: view.c turns the kernel's words into commands, judge.c answers questions about them.
 */
#ifndef USHER_CONTROL_VIEW_INTERNAL_H
#define USHER_CONTROL_VIEW_INTERNAL_H

#include <netinet/in.h>

#include "control/view.h"

#define LINK_STATES      4096u /* links whose up or down is remembered, by ifindex modulo; a clash costs a resync */
#define DEDICATED_METRIC 65536u /* of our own default routes: the kernel's, when it has one, is preferred */

struct view_addr {
    struct ipaddr addr;
    uint32_t ifindex, mark;
    uint8_t prefix_len;
    bool broadcast, dedicated;
};

/* A next hop the kernel keeps for us, and the shards that want it. */
struct view_wanted {
    struct ipaddr addr;
    uint32_t ifindex, shards;
};

struct view {
    struct view_params p;
    struct follow *follow;
    sd_event_source *io, *due;
    struct view_addr *addrs;
    uint32_t addr_count, addr_max, mark;
    struct view_wanted *wanted;
    uint32_t wanted_count, wanted_max;
    uint8_t link_state[LINK_STATES];
    bool stale, due_armed, links_changed;
    bool overflow; /* a table of the ip engine does not hold all: its answers may be wrong */
    /* judge.c */
    uint64_t firewall_checked_us;
    bool firewall_rules;
    char firewall_what[160];
    uint64_t cgroup_checked_us; /* of the group last asked about */
    bool cgroup_programs;
    char cgroup[256], cgroup_what[160];
    uint64_t rules_checked_us;
    bool rules_route;
    char rules_what[160];
};

const struct view_addr *view_addr_find(const struct view *v, const struct ipaddr *addr);
const char *view_addr_text(const struct ipaddr *a, char text[INET6_ADDRSTRLEN]);
void view_resync_soon(struct view *v);

#endif
