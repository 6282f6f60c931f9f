/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's side of client sessions: the shared memory of proto/usher_shm.h, its rings, the RX region's cells, and
 * the table that ties a client's socket handles to the transports' sockets.
 *
 * Threads: the calls below are control's (they reach the worker through the shard's mailbox where they must); the ring
 * work itself is in session_internal.h and runs on the shard's worker. The client is hostile: see usher_shm.h. When it
 * breaks a rule, the worker detaches the session at once (its memory is no longer looked at), counts the reason and
 * tells control, which ends the connection.
 */
#ifndef USHER_DATAPLANE_SESSION_SESSION_H
#define USHER_DATAPLANE_SESSION_SESSION_H

#include "dataplane/core/runtime.h"
#include "proto/usher_shm.h"

struct session;

enum detach_reason {
#define DETACH(name, text) DETACH_##name,
#include "dataplane/session/detach.def"
#undef DETACH
    DETACH_COUNT
};
const char *detach_reason_text(enum detach_reason r);

struct session_key {
    uint64_t k[2];
};

/* What a client that comes back brings; all of it is its word. */
struct session_comeback {
    struct session_key key; /* of the session it had */
    int memfd;              /* that session's memory; borrowed */
    struct ush_comeback rings;
    const uint64_t *held[USH_SET_MAX]; /* by place in rings.set */
    uint64_t held_words;               /* of each */
};

struct session_params {
    const struct session_comeback *back; /* NULL: it is new */
    uint32_t abi;
    uint64_t tx_bytes, rx_bytes; /* rounded up to pages, bounded by the daemon's limits */
    uint32_t socket_max;
    uint32_t owner; /* stamped on packets until a socket says otherwise, and on streams that the client connects */
    uint32_t stream_max;           /* streams it may have opened, and as many that were accepted; 0 = default */
    struct session_quota *quota;   /* its user's; NULL = none */
};

/* How many streams all sessions of one user may have together. Workers count, with one atomic addition a connection.
 * Made and given back by control; a session holds its own reference for as long as its last stream lives. */
struct session_quota *session_quota_create(uint32_t stream_max);
void session_quota_release(struct session_quota *q);
uint32_t session_quota_used(const struct session_quota *q);

struct session_fds {
    int memfd;     /* sealed against resizing; for the client. -1: it has it */
    int wake_peer; /* the client's end of the wake socket; for the client */
    int kick[USH_SET_MAX]; /* of one that came back: by place in rings.set */
};

/* The fds in ret_fds are the caller's. -ESTALE: it comes back with memory that this daemon would not have made; it may
 * attach as a new one. */
int session_create(struct runtime *rt, const struct session_params *params, struct session **ret_session,
                   struct session_fds *ret_fds);
/* With it the client may come back to a successor that has inherited runtime_heirlooms(). */
struct session_key session_key_of(const struct session *s);
/* Streams that the client connects from now on are `owner`'s. */
void session_owner_set(struct session *s, uint32_t owner);
/* Closes all sockets, waits until no worker touches the memory, gives everything back. Works on detached ones too. */
void session_destroy(struct session *s, enum detach_reason why);

struct ush_option;

/* A socket: control has read these from the program's kernel socket. A TCP socket is a listener, or `bound`: the local
 * end of connections to come. */
struct session_socket_params {
    struct flow flow;      /* local any/port, remote all zero when not connected; proto */
    bool v6only;
    bool reuseport;        /* joins the group of its address and port */
    uint8_t spread;        /* 0 hash, 1 shortest queue */
    uint32_t owner;
    uint32_t rx_quota, tx_limit; /* 0 = default */
    uint32_t ifindex;      /* SO_BINDTODEVICE, 0 = none */
    uint32_t backlog;      /* listeners; 0 = default */
    uint64_t cookie;       /* SO_COOKIE */
    bool bound;
    struct ipaddr peer; /* bound: where it is about to connect to, with peer_port */
    uint16_t peer_port;
    bool all_shards; /* a listener whose client takes connections on any ring set: it may stand in every shard */
    const struct ush_option *options; /* listeners: what their connections are born with; a client's words */
    uint32_t option_count;
};

struct session_socket {
    uint32_t handle;
    uint32_t set;
    int kick_fd; /* set is new to the session: eventfd for the client (a dup, the caller's); else -1 */
    uint32_t rx_quota, tx_limit;
    uint32_t more_sets; /* a bit for each further one that brings connections of this listener */
    int more_kick_fd[USH_SET_MAX]; /* of these, as kick_fd */
};

int session_socket_open(struct session *s, const struct session_socket_params *params,
                        struct session_socket *ret_socket);
/* Where the client may connect streams: set and kick_fd as above. -EPROTONOSUPPORT: there is no stream transport. */
int session_stream_set(struct session *s, struct session_socket *ret_socket);
int session_socket_update(struct session *s, uint32_t handle, const struct session_socket_params *params);
int session_socket_close(struct session *s, uint32_t handle);
/* The same for one that the client has not heard of and never will; closes its kick_fds. */
void session_socket_undo(struct session *s, const struct session_socket *sock);
/* Lets go of a datagram socket or listener and tells its client, whose kernel socket carries it from here. Its handle
 * stays taken until session_socket_close(). -ENOENT; -EPROTOTYPE: it is only a port for streams that connect. */
int session_socket_retire(struct session *s, uint32_t handle);
/* `option` is a SocketOption of session.proto. */
int session_socket_set_option(struct session *s, uint32_t handle, uint32_t option, int64_t value);
int session_socket_group(struct session *s, uint32_t handle, const struct ipaddr *group, uint32_t ifindex, bool leave);
int session_new_sq(struct session *s, uint32_t set, uint32_t *ret_index);

struct session_socket_info {
    uint32_t handle;
    uint32_t owner;
    struct flow flow;
    uint64_t cookie, rx_packets, tx_packets, rx_dropped;
    uint32_t rx_held; /* bytes of RX region the client holds */
};
/* Sockets with handles above `after`, ascending; returns how many. */
uint32_t session_sockets(struct session *s, uint32_t after, struct session_socket_info *ret_info, uint32_t max);

/* A stream that is in no session: it was parked, and waits for whoever has a copy of it. */
struct session_stream {
    struct flow flow;
    uint32_t shard, sock;
    bool hung_up; /* its peer sends no more */
};
/* Takes a parked stream out of its session. -EBUSY: it is not parked; -ENOENT: there is none, or it has ended. */
int session_stream_share(struct session *s, uint32_t handle, struct session_stream *ret_stream);
/* A file with these bytes of the client's TX region, the caller's. -EINVAL: they are not in it; -ENOMEM. */
int session_tx_file(const struct session *s, uint32_t off, uint32_t len);
/* The session is about to end, and others have copies of this stream: it stays, and may be adopted once all that was
 * sent is acknowledged. -EBUSY: received bytes are the client's still. -ENOENT. */
int session_stream_leave(struct session *s, uint32_t handle, struct session_stream *ret_stream);
/* Into a session: ACCEPT of no listener tells the client. -ENOENT: it has ended. */
/* -EAGAIN: what its last owner sent is not acknowledged yet. */
int session_stream_adopt(struct session *s, const struct session_stream *stream, struct session_socket *ret_socket);
/* Another wants it: the client is asked to park it. */
void session_stream_recall(struct session *s, uint32_t handle);
/* Nobody wants it any more. abort: received bytes were never read. */
void session_stream_drop(struct runtime *rt, const struct session_stream *stream, bool abort);

/* A connection on a local port, whoever it belongs to. */
struct session_port_flow {
    struct flow flow;
    uint32_t sock; /* the transport's */
    uint32_t shard;
    bool lives;
};
struct session_port_cursor {
    uint32_t shard, sock;
};
/* TCP connections whose local port is in `ports` (a bit each), some at a time; *at begins as zero. */
uint32_t session_port_flows(struct runtime *rt, const uint64_t *ports, struct session_port_cursor *at,
                            struct session_port_flow *ret_flows, uint32_t max, bool *ret_end);
/* Says in `lives` which of them are still there. */
void session_port_flows_look(struct runtime *rt, struct session_port_flow *flows, uint32_t count);
/* Its port stays steered to its shard, or is let go. */
void session_port_flow_steer(struct runtime *rt, const struct session_port_flow *f, bool hold);

/* Sessions that workers detached since the last call; for control to close. Signalled by runtime_event_fd(). */
struct session *session_next_detached(struct runtime *rt, enum detach_reason *ret_why);

#endif
