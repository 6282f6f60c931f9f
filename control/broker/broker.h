/* SPDX-License-Identifier: Apache-2.0
 *
 * The session broker: programs attach here. One connection (UNIX SEQPACKET) is one process's session; it ends when the
 * connection, the process or its program ends, or when the client breaks a rule. Everything a client did is then
 * undone: its claims first, so that the kernel serves its ports again, then its sockets, then its memory.
 *
 * Thread: control (the sd-event loop).
 */
#ifndef USHER_CONTROL_BROKER_BROKER_H
#define USHER_CONTROL_BROKER_BROKER_H

#include <stddef.h>
#include <systemd/sd-event.h>

#include "control/broker/kernel_socket.h"
#include "dataplane/session/session.h"

struct owner;
struct broker;
struct claim_table;
struct owner_table;

struct broker_limits {
    uint32_t sessions, sessions_per_uid; /* root's are not counted against a user's */
    uint32_t sockets, sockets_per_uid;
    uint32_t streams, streams_per_uid; /* of a session: each of those opened and those accepted */
    uint64_t tx_bytes, rx_bytes;
};

/* May this kernel socket of a process in `cgroup` (of the v2 hierarchy, "" = unknown) be accelerated? False: `reason`
 * says why not, true: how (its interface, say). */
typedef bool broker_judge_fn(void *arg, const struct kernel_socket *s, const char *cgroup, char *ret_reason,
                             size_t size);

/* How the interface of a socket runs (0: all of them), and why so. */
typedef void broker_how_fn(void *arg, uint32_t ifindex, char *ret_how, size_t how_size, char *ret_why,
                           size_t why_size);

/* A datagram socket, or a stream that is bound or listens: before it can get packets, when it can, and before it cannot
 * any more. */
struct broker_socket {
    struct flow flow;
    uint32_t owner, ifindex;
    bool v6only, listens;
};
enum broker_socket_event { BROKER_SOCKET_COMES, BROKER_SOCKET_LIVES, BROKER_SOCKET_GOES };
typedef void broker_socket_fn(void *arg, const struct broker_socket *s, enum broker_socket_event event);

struct broker_params {
    sd_event *event;
    struct runtime *rt;
    struct claim_table *claims;
    uint16_t stream_port_low, stream_port_high; /* local ports of outgoing connections; 0 = none to claim */
    struct owner_table *owners;
    int (*owner_seen)(void *arg, uint32_t index, const struct owner *owner); /* before it has sockets; NULL: none */
    void *owner_arg;
    broker_socket_fn *socket_event; /* NULL: nobody wants to know */
    void *socket_arg;
    const char *path;  /* of the socket; a stale one is replaced */
    const char *group; /* "" = leave */
    uint32_t mode;     /* permission bits */
    struct broker_limits limits;
    uint32_t comeback_ms; /* for so long clients may come back to a successor; 0 = they cannot */
    uint64_t netns_cookie;
    broker_judge_fn *judge;
    broker_how_fn *how;
    void *judge_arg; /* of both */
};

int broker_create(const struct broker_params *params, struct broker **ret_broker, char *err, size_t err_size);
/* Ends every session with DETACH_DAEMON_STOPS, of which their clients are told, and removes the socket's path. */
void broker_destroy(struct broker *b);
/* Lets no new session attach, or lets them again. */
void broker_drain(struct broker *b, bool drain);
/* Ends the sessions whose clients the workers have found out. Call when runtime_event_fd() is readable. */
void broker_reap(struct broker *b);

/* An attached session, for an operator's list. Pointers are valid until control returns to its loop. */
struct broker_session {
    uint64_t id;
    struct session *session;
    uint32_t owner; /* index; its sockets have their own */
    const char *label;
    uint64_t attached_unix_ns;
    uint32_t sockets, socket_max;
};
/* The one with the least id that is at least `id`; false: there is none. */
bool broker_session_next(const struct broker *b, uint64_t id, struct broker_session *ret_session);
/* Limits from now on, except `sessions`, which memory was made for: what is attached and open stays, also beyond them.
 * Streams of a user that has a session go on by the limit it began with. */
void broker_limits_set(struct broker *b, const struct broker_limits *limits);
/* Ends it. -ENOENT. */
int broker_session_kill(struct broker *b, uint64_t id);
/* Lets go of a datagram socket or listener: the program's kernel socket carries it from here. -ENOENT. */
int broker_socket_kill(struct broker *b, uint64_t session_id, uint32_t handle);
/* How a socket bound to this interface (0 = any) is carried, and why so. */
void broker_how(const struct broker *b, uint32_t ifindex, char *ret_how, size_t how_size, char *ret_why,
                size_t why_size);

/* A socket that stayed with the kernel. */
struct broker_refusal {
    uint64_t unix_ns, session_id;
    uint32_t pid, uid, gid;
    char comm[16];
    struct flow flow;
    char reason[160];
    uint32_t count; /* of equal ones in a row */
};
#define BROKER_REFUSALS 256u
/* The latest, oldest first; returns how many. */
uint32_t broker_refusals(const struct broker *b, struct broker_refusal *ret_refusals, uint32_t max);

struct broker_stats {
    uint32_t connections, sessions, sockets;
    uint64_t attached, refused, detached[DETACH_COUNT];
    uint64_t bad_credentials, extra_fds, slow_clients;
};
void broker_stats_read(const struct broker *b, struct broker_stats *ret_stats);

#endif
