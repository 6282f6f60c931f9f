/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks the kernel for a list over a raw netlink socket and reads the answer to its end.
 *
 * Thread: any; blocks for as long as the kernel takes (it answers within the calls). Cost: one socket, 32 KiB of stack.
 */
#ifndef USHER_CONTROL_NETLINK_DUMP_H
#define USHER_CONTROL_NETLINK_DUMP_H

#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

struct netlink_dump {
    int protocol;                   /* NETLINK_ROUTE */
    const struct nlmsghdr *request; /* whole, nlmsg_len long */
    uint16_t type;                  /* of the answers; others are passed over */
    size_t least;                   /* of their payload; shorter ones are passed over */
};

/* Borrows `h` until it returns. */
typedef void netlink_answer_fn(void *arg, const struct nlmsghdr *h);

/* `each` for every answer. 0 at the end of the list; the kernel's -errno; -EBADMSG for what is no netlink. */
int netlink_dump(const struct netlink_dump *d, netlink_answer_fn *each, void *arg);

#endif
