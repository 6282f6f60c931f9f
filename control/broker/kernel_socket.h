/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program's own kernel socket says of itself. The socket came over SCM_RIGHTS, so it may be anything; what is
 * read here comes from the kernel and is true. A packet socket (flow.proto = PROTO_FRAME) of this network namespace is
 * proof that whoever made it had CAP_NET_RAW over it: /proc/PID/status would speak of some user namespace.
 *
 * Thread: control.
 */
#ifndef USHER_CONTROL_BROKER_KERNEL_SOCKET_H
#define USHER_CONTROL_BROKER_KERNEL_SOCKET_H

#include <stddef.h>

#include "engines/ipaddr.h"

struct kernel_socket {
    struct flow flow; /* local any = wildcard (:: for both versions, ::ffff:0.0.0.0 for IPv4); remote zero = none */
    uint64_t cookie;
    uint32_t ifindex; /* bound to this interface, 0 = any; of frames: where they leave */
    bool v6;
    bool v6only;
    bool reuseport;
    bool reuseaddr;
    bool connected;
    bool listening;   /* TCP */
    uint32_t backlog; /* of a listening one */
};

/* Identity of the network namespace that the calling thread is in. */
int netns_cookie_read(uint64_t *ret_cookie);

/* 0, or -errno with a sentence: -ENOTSOCK, -EPROTONOSUPPORT, -EXDEV (another network namespace), -EDESTADDRREQ (a UDP
 * socket that is not bound to a port; a TCP one may be, its local_port is then 0). `why` is filled on failure only. */
int kernel_socket_read(int fd, uint64_t netns_cookie, struct kernel_socket *ret_socket, char *why, size_t why_size);

#endif
