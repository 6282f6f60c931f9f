/* SPDX-License-Identifier: Apache-2.0
 *
 * What the nic commands show. See nic.c.
 */
#ifndef USHER_CONTROL_USHERCTL_NIC_H
#define USHER_CONTROL_USHERCTL_NIC_H

#include "control/usherctl/ctl.h"
#include "control/usherctl/lists.h"

extern const struct list list_nics, list_nic_rules;

int run_nic_show(struct ctl *c);
int run_nic_rules(struct ctl *c);
int run_nic_explain(struct ctl *c);

#endif
