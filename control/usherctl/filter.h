/* SPDX-License-Identifier: Apache-2.0
 *
 * Options that narrow lists of sessions and sockets, as filters of the service.
 */
#ifndef USHER_CONTROL_USHERCTL_FILTER_H
#define USHER_CONTROL_USHERCTL_FILTER_H

#include "control/usherctl/ctl.h"

#define SOCKET_STATE_MAX 12

/* Places in the commands' option tables: those of a session come first in both. */
enum { SESSION_OPTIONS_AT = 0 };
enum { FILTER_PID, FILTER_UID, FILTER_COMM, FILTER_LABEL, FILTER_SESSION, FILTER_SESSION_COUNT };
enum {
    FILTER_TCP = FILTER_SESSION_COUNT,
    FILTER_UDP,
    FILTER_LISTENING,
    FILTER_STATE,
    FILTER_LOCAL,
    FILTER_PEER,
    FILTER_PORT,
    FILTER_PEER_PORT,
    FILTER_LIMIT,
    FILTER_COUNT
};
extern const struct option_def session_options[], socket_options[];

struct socket_request {
    PB(ListSocketsRequest) list;
    PB(SocketFilter) filter;
    PB(SessionFilter) session;
    PB(SocketState) states[SOCKET_STATE_MAX];
};

/* 0, or -1 with c->fault. */
int filter_session(struct ctl *c, size_t first, PB(SessionFilter) * ret);
int filter_sockets(struct ctl *c, struct socket_request *ret);

#endif
