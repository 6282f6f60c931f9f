/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections from the inside: broker.c owns their list and limits, connection.c the bytes and the process behind them,
 * requests.c what they ask for.
 */
#ifndef USHER_CONTROL_BROKER_BROKER_INTERNAL_H
#define USHER_CONTROL_BROKER_BROKER_INTERNAL_H

#include <sys/types.h>

#include "control/broker/broker.h"
#include "control/broker/claims.h"
#include "control/broker/wire.h"
#include "control/identity/owner.h"

#define ATTACH_TIMEOUT_US 5000000u /* a connection that has not attached by then is closed */
#define PENDING_PER_UID   16u      /* connections of one user that have not attached */
#define MESSAGES_PER_TURN 16u      /* of one connection, before others get their turn */
#define OWNERS_MAX        16u      /* that one session may have been */
#define FD_MAX            4u       /* in one message: more than any request carries, so that extras are seen */

/* What one user has. */
struct uid_use {
    struct uid_use *next;
    uint32_t uid;
    uint32_t connections, sessions, sockets;
    struct session_quota *streams; /* NULL = not counted */
};

struct open_socket {
    struct flow claimed; /* what was claimed for it: may lag behind the kernel socket, never behind the hooks */
    uint64_t cookie;
    uint32_t owner;
    uint32_t ifindex; /* bound to it, 0 = any */
    bool v6only; /* of `claimed` */
    bool listens;
    bool open;
    bool told;    /* somebody reckons with it, see broker_socket_fn */
    bool retired; /* the operator took it off: it has no claim, the program has still to close it */
};

struct membership {
    struct membership *next;
    struct ipaddr group;
    uint32_t handle, ifindex;
};

struct connection {
    struct connection *next;
    struct broker *broker;
    int fd, pidfd;
    pid_t pid;
    struct uid_use *use;
    sd_event_source *io, *death, *timeout;
    /* once attached */
    struct session *session;
    uint64_t session_id;
    uint64_t attached_unix_ns;
    uint64_t exe_dev, exe_ino;
    uint32_t owner;
    uint32_t owners_before[OWNERS_MAX], owner_count; /* held until the end: streams are still stamped with them */
    char label[WIRE_LABEL_MAX];
    struct open_socket *sockets; /* socket_max of them, by handle */
    struct membership *memberships;
    uint32_t membership_count;
    uint32_t socket_max, socket_count;
};

struct broker {
    bool draining;
    bool stream_ports_claimed; /* the first connection that leaves claims them all */
    struct broker_params params;
    char path[108];
    int listen_fd;
    bool passed; /* by systemd: its path is not ours to remove */
    sd_event_source *listen_io;
    struct connection *connections;
    struct uid_use *uses;
    struct orphans *orphans;
    struct shared_table *shared;
    uint64_t next_session_id;
    struct broker_stats stats;
    struct broker_refusal refusals[BROKER_REFUSALS]; /* a ring */
    uint64_t refusal_count;
};

/* A message as it came. */
struct incoming {
    uint8_t bytes[WIRE_MESSAGE_MAX + 1];
    size_t size;
    int fds[FD_MAX];
    uint32_t fd_count;
};

/* An answer on its way; fds are closed after sending. */
struct outgoing {
    struct response response;
    int fds[2 + USH_SET_MAX];
    uint32_t fd_count;
};

int connection_create(struct broker *b, int fd);
/* Undoes everything the connection did and frees it. */
void connection_end(struct connection *c, enum detach_reason why);

/* Runs one request; always fills ret_out. Returns the reason when the connection must end instead, else -1. */
int request_run(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *ret_out);
/* As a run_fn of requests.c. */
int request_share(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out);
int request_list(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out);
/* owned.c. Reads who the process is now and takes a reference for it; 0, -ENOSPC, or -errno: it has ended. */
int connection_owner_read(struct connection *c, struct owner *ret_owner, uint32_t *ret_index);
/* From now on; takes the reference. False: there were OWNERS_MAX already. */
bool connection_owner_set(struct connection *c, uint32_t index);
/* A socket is its maker's as he is now, whether his library has told of a change or not; what he calls himself does not
 * matter. False: as above. */
bool connection_owner_follow(struct connection *c);

int request_refuse(struct outgoing *out, int error, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The fd a request carries, taken out of the message; -1 when there is none. */
int request_fd_take(struct incoming *in);
/* Takes back all claims, sockets and the session. */
void request_undo_all(struct connection *c, enum detach_reason why);

/* Remembers why a socket of c stays with the kernel. */
void broker_refusal_note(struct connection *c, const struct kernel_socket *s, const char *reason);
uint64_t broker_now_unix_ns(void);

struct uid_use *broker_use_take(struct broker *b, uint32_t uid);
/* told.c: before the socket is opened or moves, when it was not, when it is there, and before it goes. */
void told_comes(const struct connection *c, const struct kernel_socket *s, uint32_t owner);
void told_comes_not(const struct connection *c, const struct kernel_socket *s, uint32_t owner);
void told_lives(const struct connection *c, struct open_socket *o);
void told_stays(const struct connection *c, struct open_socket *o, const struct kernel_socket *s); /* did not move */
void told_goes(const struct connection *c, struct open_socket *o);
void broker_use_give(struct broker *b, struct uid_use *u);

#endif
