/* SPDX-License-Identifier: Apache-2.0
 *
 * SO_REUSEPORT and SO_REUSEADDR let several kernel sockets have one port. A claim takes the port's packets from all of
 * them, so a port is claimed only while all its sockets are Usher's. The kernel is asked (sock_diag); sockets that come
 * later are not seen.
 *
 * Thread: control. A question costs one netlink dump, and only for sockets that allow sharing.
 */
#ifndef USHER_CONTROL_BROKER_SHARING_H
#define USHER_CONTROL_BROKER_SHARING_H

#include <stdbool.h>
#include <stddef.h>

#include "control/broker/kernel_socket.h"

/* A kernel socket that has the port as well. */
struct sharing_socket {
    struct ipaddr local; /* as in struct kernel_socket */
    uint64_t cookie;
    uint32_t uid, inode;
    bool v6only;
};

/* Is the socket with this cookie accelerated, too? */
typedef bool sharing_ours_fn(void *arg, uint64_t cookie);

/* Would packets of `other` be taken by a claim for the address and port of `s`, which the kernel gives to `other`? */
bool sharing_conflicts(const struct kernel_socket *s, const struct sharing_socket *other);
/* True when the port of `s` may be claimed; else `ret_why` says with whom it is shared, or why that is unknown. */
bool sharing_allows(const struct kernel_socket *s, sharing_ours_fn *ours, void *arg, char *ret_why, size_t size);

/* The TCP connections that the kernel has on the port of `s`, one call each; they go on beside a claim of it. What the
 * kernel does not say is no connection. */
typedef void sharing_flow_fn(void *arg, const struct flow *flow);
void sharing_flows(const struct kernel_socket *s, sharing_flow_fn *found, void *arg);

#endif
