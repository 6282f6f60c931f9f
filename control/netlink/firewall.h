/* SPDX-License-Identifier: Apache-2.0
 *
 * Does netfilter of this network namespace have rules that accelerated flows would not pass? Empty tables and chains
 * that let everything pass do not count.
 *
 * Thread: control. A check costs one netlink dump and a few system calls.
 */
#ifndef USHER_CONTROL_NETLINK_FIREWALL_H
#define USHER_CONTROL_NETLINK_FIREWALL_H

#include <stdbool.h>
#include <stddef.h>

/* True when there are rules; `ret_what` names the first ("nftables chain inet filter input"). What cannot be asked
 * (a kernel without nftables, say) has none. */
bool firewall_has_rules(char *ret_what, size_t size);

#endif
