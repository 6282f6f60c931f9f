/* SPDX-License-Identifier: Apache-2.0
 *
 * Local ports that the kernel is not to give out by itself: those of connections that go out by usherd
 * (net.ipv4.ip_local_reserved_ports, which counts for IPv6 too). What the administrator reserved stays reserved. A
 * program that asks the kernel for such a port by number still gets it.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_RESERVED_H
#define USHER_CONTROL_RESERVED_H

#include <stdint.h>

struct state_file;

/* Reserves low to high and notes it. 0, or -errno with nothing changed. */
int reserved_take(struct state_file *state, uint16_t low, uint16_t high);
/* Undoes it. What fails stays noted, for the next usherd. */
void reserved_give(struct state_file *state);
/* Takes out of the kernel's list what `after` has and `before` has not, whatever was added to it since. */
int reserved_undo(const char *before, const char *after);

#endif
