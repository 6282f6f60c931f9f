/* SPDX-License-Identifier: Apache-2.0
 *
 * One line about a frame, as far as a line goes: who to whom, which protocol, how much. tcpdump and Wireshark know
 * more. The frame is whatever somebody sent: every byte is looked for before it is read. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_DISSECT_H
#define USHER_CONTROL_USHERCTL_DISSECT_H

#include <stddef.h>
#include <stdint.h>

#define DISSECT_MAX 200u

/* "IP 10.0.0.1.5000 > 10.0.0.2.7: UDP, length 64" of an Ethernet frame of which `captured` bytes are there. */
void dissect(const uint8_t *frame, uint32_t captured, uint32_t length, char *ret_text, size_t size);

#endif
