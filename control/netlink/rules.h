/* SPDX-License-Identifier: Apache-2.0
 *
 * Does the kernel route what this host sends by rules (ip rule) that usherd does not follow? It follows the tables
 * local and main, asked in this order. Rules that only bring these tables up again, or that speak of packets which come
 * in over an interface, change nothing about it; every other rule does.
 *
 * Thread: control. A question costs about ten system calls.
 */
#ifndef USHER_CONTROL_NETLINK_RULES_H
#define USHER_CONTROL_NETLINK_RULES_H

#include <stdbool.h>
#include <stddef.h>

/* `ret_what` names the first such rule ("IPv4 rule 100 (table 7)"). True also when the kernel does not answer: what it
 * would do is then unknown. */
bool rules_route(char *ret_what, size_t size);

#endif
