/* SPDX-License-Identifier: Apache-2.0
 *
 * A line that `usherctl capture` or tcpdump printed, back into what a packet is. Pure text; nothing is asked.
 */
#ifndef USHER_CONTROL_USHERCTL_CAPTURE_LINE_H
#define USHER_CONTROL_USHERCTL_CAPTURE_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Texts are empty where the line does not say. */
struct capture_line {
    char direction[4]; /* "in", "out" */
    char interface[16], protocol[12], state[12], flags[40];
    char source[80], destination[80]; /* as ExplainPolicyRequest has them */
    char address[46];                 /* the source's alone */
    char user[12], comm[16], exe[256], cgroup[256];
    uint32_t length; /* of the IP packet, 0 = not said */
    uint32_t icmp_type, icmp_code, vlan;
};

/* 0, or -1 and a sentence. */
int capture_line_read(const char *text, struct capture_line *ret_line, char *ret_why, size_t size);

#endif
