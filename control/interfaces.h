/* SPDX-License-Identifier: Apache-2.0
 *
 * The interfaces usherd runs: which of the kernel's links fit the config, how each is run and why, and their coming and
 * going. One slot of the runtime (pkt->port) each.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_INTERFACES_H
#define USHER_CONTROL_INTERFACES_H

#include "control/config/config.h"
#include "control/netlink/follow.h"
#include "dataplane/core/runtime.h"

struct interfaces;
struct nb_claims;
struct nic;
struct state_file;

/* Claims exist before ports do; the state file is told of a qdisc before it is made. */
struct interfaces_params {
    const struct config *cfg;
    struct runtime *rt;
    struct nb_claims *claims;
    struct nic *nic;
    struct state_file *state;
};

struct interface {
    uint32_t ifindex, slot;
    const struct config_interface *entry;
    char name[16];
    bool dedicated;
};

int interfaces_create(const struct interfaces_params *params, struct interfaces **ret_ifs);
void interfaces_destroy(struct interfaces *ifs); /* removes the ports */
/* Makes the taps the config names; they are links of the kernel like others from then on. */
int interfaces_taps_create(struct interfaces *ifs, char *err, size_t err_size);
/* A link came, changed or went. True when slots changed: routes must be told anew. */
bool interfaces_link(struct interfaces *ifs, const struct follow_link *link, bool gone);
/* NULL when usherd does not run it. */
const struct interface *interfaces_find(const struct interfaces *ifs, uint32_t ifindex);
const struct interface *interfaces_slot(const struct interfaces *ifs, uint32_t slot);
uint32_t interfaces_count(const struct interfaces *ifs);
/* One line each to the log: kind, mode, why. */
void interfaces_report(const struct interfaces *ifs);
/* "packet on veth0": how an interface runs, or all of them when ifindex is 0; and why so, a sentence each. */
void interfaces_text(const struct interfaces *ifs, uint32_t ifindex, char *ret_text, size_t size);
void interfaces_why(const struct interfaces *ifs, uint32_t ifindex, char *ret_text, size_t size);

#endif
