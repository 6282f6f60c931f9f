/* SPDX-License-Identifier: Apache-2.0
 *
 * Which process has a kernel socket. The kernel says of a packet it sends only the socket's cookie and uid; so the
 * sockets of all processes are looked through (/proc/PID/fdinfo, pidfd_getfd) and remembered, by cookie, and by address
 * for packets that come in. Looking costs some microseconds a socket of the host; it is done when an unknown one turns
 * up, and at most so often.
 *
 * Thread: any one at a time; not control's, for a look may take long.
 */
#ifndef USHER_CONTROL_IDENTITY_SOCKETS_H
#define USHER_CONTROL_IDENTITY_SOCKETS_H

#include "control/identity/owner.h"
#include "engines/ipaddr.h"

struct socket_table;

int socket_table_create(struct socket_table **ret_table);
void socket_table_destroy(struct socket_table *t);

/* Whose the socket with that cookie is; of several processes that share it the one with the smallest pid. NULL when it
 * is gone, or nobody's. */
const struct owner *socket_by_cookie(struct socket_table *t, uint64_t cookie);
/* Who would get a packet of that flow; a connected socket comes before one that is only bound. */
const struct owner *socket_by_flow(struct socket_table *t, const struct flow *flow);

#endif
