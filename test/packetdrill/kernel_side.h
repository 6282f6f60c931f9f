/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's TCP behind a tun device, in a network namespace of this process alone: what goes in is answered before
 * the write returns, so that it can be compared step by step.
 */
#ifndef USHER_TEST_PACKETDRILL_KERNEL_SIDE_H
#define USHER_TEST_PACKETDRILL_KERNEL_SIDE_H

#include <stddef.h>
#include <stdint.h>

struct kernel_side {
    int tun, listener;
};

/* 192.168.0.1 here, 192.0.2.1 at the other end of the device, a listener on port 8080. 0, or -1 when this machine does
 * not allow it; *ret_why says what is missing. */
int kernel_side_open(struct kernel_side *k, const char **ret_why);
void kernel_side_setting(const char *name, const char *value); /* of net.ipv4 */

#endif
