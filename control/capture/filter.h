/* SPDX-License-Identifier: Apache-2.0
 *
 * Filter expressions as tcpdump(1) knows them, compiled by libpcap for Ethernet frames. May take long (names of hosts
 * are looked up): never on the control thread. Any other thread.
 */
#ifndef USHER_CONTROL_CAPTURE_FILTER_H
#define USHER_CONTROL_CAPTURE_FILTER_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>

#define FILTER_EXPRESSION_MAX 4096u /* bytes: keeps libpcap's time and stack small */

/* 0 with code for free(), none for an empty expression; -EINVAL with libpcap's sentence, -ENOMEM. */
int filter_expression_compile(const char *expression, struct sock_filter **ret_code, uint32_t *ret_count, char *err,
                              size_t err_size);

#endif
