/* SPDX-License-Identifier: Apache-2.0
 *
 * Which sessions and sockets a list wants, as plain values. Pure.
 */
#ifndef USHER_CONTROL_SERVICES_FILTER_H
#define USHER_CONTROL_SERVICES_FILTER_H

#include "control/broker/broker.h"
#include "control/identity/owner.h"
#include "control/rpc/rpc.h"
#include "dataplane/session/snapshot.h"

struct filter_session {
    uint64_t session_id; /* 0 = any */
    uint32_t pid;        /* 0 = any */
    bool by_uid;
    uint32_t uid;
    char comm[16], label[64]; /* "" = any */
};

struct filter_prefix {
    struct ipaddr addr;
    uint32_t len; /* in v4-mapped counting; 0 = any */
};

struct filter_socket {
    struct filter_session session;
    uint8_t proto;   /* 0 = any */
    uint32_t states; /* bit mask of the package's numbers; 0 = any */
    struct filter_prefix local, remote;
    uint16_t local_port, remote_port; /* 0 = any */
};

/* From the messages (SessionFilter, SocketFilter; NULL = anything). RPC_OK, or rpc_fail() was called. */
enum rpc_code filter_session_read(struct rpc_call *c, const void *message, struct filter_session *ret_filter);
enum rpc_code filter_socket_read(struct rpc_call *c, const void *message, struct filter_socket *ret_filter);

/* "10.0.0.0/8", "fd00::1"; "" = any. */
bool filter_prefix_parse(const char *text, struct filter_prefix *ret_prefix);
bool filter_prefix_fits(const struct filter_prefix *p, const struct ipaddr *a);

/* `o` may be NULL: its process is not known (any more). */
bool filter_session_fits(const struct filter_session *f, uint64_t id, const char *label, const struct owner *o);
/* `state` in the package's numbers. */
bool filter_socket_fits(const struct filter_socket *f, const struct session_snap *snap, uint32_t state);

#endif
