/* SPDX-License-Identifier: Apache-2.0
 *
 * The gRPC server as its services see it. A service is a table of methods; a method takes one protobuf-c message and
 * gives one (unary), gives many (stream), or gives one for each it gets (chat).
 *
 * Threads: everything here is the control thread's (the sd-event loop), handlers included. A handler never blocks.
 *
 * Flow: a stream has at most one message under way. The layer asks for the next one when the last has left, so a reader
 * that does not read costs one message of memory and no work.
 */
#ifndef USHER_CONTROL_RPC_RPC_H
#define USHER_CONTROL_RPC_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-event.h>

#define RPC_MESSAGE_MAX 65536u /* bytes of one request */

struct rpc_call;
struct rpc_server;

enum rpc_role { RPC_ROLE_NONE, RPC_ROLE_VIEWER, RPC_ROLE_OPERATOR, RPC_ROLE_ADMIN, RPC_ROLE_COUNT };
const char *rpc_role_text(enum rpc_role role);

/* The status codes of gRPC that are used here, with their numbers. */
enum rpc_code {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_UNAUTHENTICATED = 16,
};

/* Who calls. By UNIX socket: what the kernel says of the process that connected. By TLS: a name of its certificate. */
struct rpc_caller {
    char name[64];
    enum rpc_role role;
    bool tls;
    uint32_t uid, gid;
    uint32_t pid;     /* when it connected */
    char address[64]; /* TLS */
};

/* ---- a service ---- */

/* Unary and chat: calls rpc_answer() and returns RPC_OK, or returns rpc_fail(). `request` lives until it returns. */
typedef enum rpc_code rpc_unary_fn(struct rpc_call *c, void *arg, const void *request);

/* A stream begins: copies what it needs of `request` into `state` (zeroed). RPC_OK, or rpc_fail(). */
typedef enum rpc_code rpc_open_fn(struct rpc_call *c, void *arg, const void *request, void *state);

enum rpc_next {
    RPC_NEXT_SENT, /* rpc_answer() was called: ask again when it has left */
    RPC_NEXT_WAIT, /* nothing to say: ask again after rpc_stream_ready() or at rpc_stream_at() */
    RPC_NEXT_END,  /* that was all, or rpc_fail() was called */
};
typedef enum rpc_next rpc_next_fn(struct rpc_call *c, void *arg, void *state);
/* The stream is over, for whatever reason. Once after each open() that gave RPC_OK. */
typedef void rpc_close_fn(void *arg, void *state);

struct rpc_method {
    const char *name; /* "List" */
    const ProtobufCMessageDescriptor *request;
    enum rpc_role role; /* least */
    bool change;        /* leaves an audit record, refused calls too */
    bool chat;          /* `unary` is called for each message until the caller sends no more */
    rpc_unary_fn *unary;
    rpc_open_fn *open; /* streams: these, and not unary */
    rpc_next_fn *next;
    rpc_close_fn *close; /* may be NULL */
    size_t state_size;
};

struct rpc_service {
    const char *name; /* "usher.control.v1.Daemon" */
    const struct rpc_method *methods;
    size_t method_count;
    void *arg; /* of its handlers */
};

/* ---- for handlers ---- */

const struct rpc_caller *rpc_caller(const struct rpc_call *c);
/* Packs `answer` at once: it may lie in rpc_alloc() memory or on the stack. */
void rpc_answer(struct rpc_call *c, const ProtobufCMessage *answer);
/* Ends the call. `reason`: stable word for programs, "ENGINE_UNKNOWN". `field`: path in the request, NULL = none. The
 * text says what happened, to what, and what to do next. Returns `code`. */
enum rpc_code rpc_fail(struct rpc_call *c, enum rpc_code code, const char *reason, const char *field, const char *fmt,
                       ...) __attribute__((format(printf, 5, 6)));
/* Memory for building an answer: zeroed, gone when the handler returns. Answers are bounded by their handlers (streams
 * send in parts), far below the RPC_SCRATCH_MAX this can give. */
void *rpc_alloc(struct rpc_call *c, size_t size);
/* A message of that type with its defaults, in rpc_alloc() memory. */
void *rpc_new(struct rpc_call *c, const ProtobufCMessageDescriptor *d);
char *rpc_text(struct rpc_call *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define rpc_alloc_array(c, type, n) ((type *)rpc_alloc((c), sizeof(type) * (n)))
#define RPC_SCRATCH_MAX (16u << 20)

/* A change's audit record says what was and what is; the layer adds who, what was asked and how it ended. */
void rpc_audit(struct rpc_call *c, const char *target, const char *before, const char *after);

/* A waiting stream has something to say. Any time while it is open. */
void rpc_stream_ready(struct rpc_call *c);
/* The same at a time of CLOCK_MONOTONIC; one time is remembered. */
void rpc_stream_at(struct rpc_call *c, uint64_t usec);

/* ---- the server ---- */

/* Which callers have a role: the highest that fits counts. root and usherd's own user are admins. */
struct rpc_grant {
    enum rpc_role role;
    const char *user, *group, *name; /* one of them: user, group of a UNIX caller; name of a certificate */
};

struct rpc_tls {
    const char *address; /* "192.0.2.1:9480", "[::]:9480" */
    const char *certificate, *key, *client_ca; /* PEM files; changes are taken over within seconds */
};

struct rpc_limits {
    uint32_t connections;        /* of all callers together */
    uint32_t caller_connections; /* of one user, or one peer address */
    uint32_t caller_calls;       /* under way at a time */
    uint32_t caller_rate;        /* calls a second, twice as many in a burst; 0 = no limit */
    uint64_t idle_stop_us;       /* the core ends so long after the last connection */
};

struct rpc_audit_record {
    const struct rpc_caller *caller;
    const char *method; /* "/usher.control.v1.Daemon/Drain" */
    const char *target, *before, *after;
    enum rpc_code code;
    const char *text; /* of the error, "" when RPC_OK */
};

struct rpc_params {
    sd_event *event;
    const char *path; /* of the UNIX socket */
    int listen_fd;    /* already listening there (systemd), -1 = make it; taken, whatever comes of it */
    const char *group;
    uint32_t mode;
    const struct rpc_grant *grants;
    size_t grant_count;
    const struct rpc_tls *tls; /* NULL = no TCP */
    struct rpc_limits limits;
    const struct rpc_service *services; /* outlives the server */
    size_t service_count;
    void (*audit)(void *arg, const struct rpc_audit_record *r);
    void *arg;
};

int rpc_server_create(const struct rpc_params *params, struct rpc_server **ret_server, char *err, size_t err_size);
/* Ends all streams with UNAVAILABLE, lets answers under way leave (at most 1 s), ends the core. */
void rpc_server_destroy(struct rpc_server *s);
/* Before that, when another usherd takes over at once: streams end with reason REPLACED, not STOPPING. */
void rpc_server_replaced(struct rpc_server *s);
/* What grpc.health.v1 says of the whole. */
void rpc_server_serving(struct rpc_server *s, bool serving);
/* Other roles and limits from now on. Callers that are connected get the role that the new grants give them: their next
 * call is judged by it, and a stream that it does not allow ends. `grants` outlives the server or the next update.
 * 0 or -ENOMEM with nothing changed. */
int rpc_server_update(struct rpc_server *s, const struct rpc_grant *grants, size_t grant_count,
                      const struct rpc_limits *limits);

struct rpc_stats {
    uint64_t connections, refused_connections; /* since the beginning */
    uint64_t calls, failed_calls, denied_calls, limited_calls, malformed_requests;
    uint64_t messages_sent, bytes_sent;
    uint64_t core_starts;
    uint32_t connections_now, calls_now;
    bool core_running;
};
void rpc_server_stats(const struct rpc_server *s, struct rpc_stats *ret_stats);

#define RPC_CODE_COUNT 17
/* "NOT_FOUND"; "UNKNOWN" for what is none. */
const char *rpc_code_text(uint32_t code);
struct rpc_method_stats {
    const char *service, *method; /* "usher.control.v1.Daemon", "Drain"; "", "": calls of what there is not */
    uint64_t ended[RPC_CODE_COUNT]; /* by code. A call whose caller went, or took too long, ended as CANCELLED */
    bool is_stream;
    uint32_t streams; /* open now */
};
/* By number, from 0; false after the last one. */
bool rpc_server_method_stats(const struct rpc_server *s, uint32_t index, struct rpc_method_stats *ret_stats);

#endif
