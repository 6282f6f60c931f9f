/* SPDX-License-Identifier: Apache-2.0
 *
 * The rpc layer from the inside. call.c: one call's states. server.c: the core's life, its thread, the list of calls.
 * peers.c: connections, who is behind them, what they may. unpack.c and message.c: bytes to messages and back. tls.c:
 * the TCP side. health.c and reflection.c: the standard services.
 *
 * Thread: control, except the few members that say otherwise.
 */
#ifndef USHER_CONTROL_RPC_RPC_INTERNAL_H
#define USHER_CONTROL_RPC_RPC_INTERNAL_H

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <pthread.h>

#include "control/rpc/rpc.h"

#define RPC_TEXT_MAX 384
#define RPC_WAITING_CALLS 8u /* calls the core may hand over before we ask for more */
#define RPC_CALLS_MAX 4096u  /* of all callers together */

/* What is given to the core with each batch and comes back when it completed. */
struct rpc_tag {
    struct rpc_tag *next;
    struct rpc_call *call; /* NULL: the server's own */
    uint8_t event;         /* enum call_event */
    bool ok;
};

enum call_event { CALL_ARRIVED, CALL_MESSAGE, CALL_SENT, CALL_READY, CALL_CLOSED, CALL_EVENT_COUNT };
enum call_state {
    CALL_EMPTY,   /* waits for a caller */
    CALL_READING, /* waits for a request */
    CALL_WAITING, /* a stream with nothing to say */
    CALL_SENDING, /* a message is on its way */
    CALL_ENDING,  /* the status is */
    CALL_OVER,    /* freed when the last batch came back */
    CALL_STATE_COUNT
};

struct rpc_scratch {
    uint8_t *base;
    size_t used;
    size_t limit; /* of what unpacking may take, 0 = none */
};

/* What one caller has, over all its connections. */
struct rpc_use {
    struct rpc_use *next;
    char name[72];
    uint32_t connections, calls;
    uint64_t tokens, tokens_us; /* millionths of calls it may begin, when counted */
};

struct rpc_connection {
    struct rpc_connection *next;
    char peer[64]; /* as grpc_call_get_peer() says it */
    int fd;        /* the core's; its number only names it */
    uint64_t ino;  /* the number is still this socket as long as this is its inode */
    struct rpc_relay *relay; /* TLS: it ends with the relay */
    struct rpc_caller caller; /* TLS: without a name and role, which the certificate gives */
    struct rpc_use *use;
};

struct rpc_call {
    struct rpc_call *next, *prev;
    struct rpc_server *server;
    uint8_t state; /* enum call_state; only rpc_call_event() writes it */
    uint8_t door;  /* index of the core's server */
    bool headers_sent, ready, entered, judged; /* judged: its status was decided */
    uint32_t batches; /* with the core */
    struct rpc_tag tag[CALL_EVENT_COUNT];
    grpc_call *core;
    grpc_call_details details;
    grpc_metadata_array metadata;
    grpc_byte_buffer *incoming, *answer;
    int cancelled;
    const struct rpc_service *service;
    const struct rpc_method *method;
    uint32_t number; /* of its method in server->method[] */
    struct rpc_caller caller;
    struct rpc_use *use;
    void *stream; /* open */
    sd_event_source *timer;
    enum rpc_code code;
    char text[RPC_TEXT_MAX], reason[48], field[96], path[128];
    const char *audit_target, *audit_before, *audit_after;
    grpc_slice details_key, details_value;
    bool has_details;
};

/* A grant's user and group as numbers. */
struct rpc_grant_ids {
    bool by_user, by_group;
    uid_t uid;
    gid_t gid;
};

enum rpc_door { RPC_DOOR_UNIX, RPC_DOOR_TLS, RPC_DOOR_COUNT };

/* What is counted of one method. */
struct rpc_method_counts {
    uint64_t ended[RPC_CODE_COUNT];
    uint32_t streams;
};

struct rpc_server {
    struct rpc_params params;
    struct rpc_service *services; /* the params' and the standard ones */
    size_t service_count;
    struct rpc_method_counts *counts; /* [0]: of methods there are not; then all methods in the services' order */
    struct rpc_grant_ids *grants; /* of params.grants */
    char path[108]; /* to be removed at the end, "" = none */
    int listen_fd;
    sd_event_source *listen_io;
    /* the core, while it runs */
    bool running, stopping;
    bool replaced; /* another usherd serves in a moment */
    grpc_completion_queue *queue;
    grpc_server *door[RPC_DOOR_COUNT];
    grpc_server_credentials *insecure;
    struct rpc_tag stop_tag[RPC_DOOR_COUNT];
    uint32_t doors_open;
    pthread_t thread;
    sd_event_source *sweep; /* looks which connections ended */
    uint64_t empty_since_us; /* 0 = somebody is connected */
    int next_fd;
    struct rpc_call *calls;
    struct rpc_connection *connections;
    struct rpc_use *uses;
    struct rpc_scratch scratch;
    sd_event_source *ready_source;
    /* completions, from the thread to us */
    pthread_mutex_t lock; /* guards the list */
    struct rpc_tag *done_head, *done_tail;
    int done_fd;
    sd_event_source *done_io;
    struct rpc_tls_side *tls;
    bool serving;
    struct rpc_stats stats;
};

/* call.c */
int rpc_call_await(struct rpc_server *s, enum rpc_door door);
void rpc_call_event(struct rpc_call *c, enum call_event event, bool ok);
/* Ends a call from outside a handler. */
void rpc_call_end_unavailable(struct rpc_call *c);

/* server.c */
int rpc_core_start(struct rpc_server *s);
uint64_t rpc_now_us(void);

/* peers.c */
int rpc_grants_resolve(struct rpc_server *s);
/* Hands an accepted UNIX connection to the core, or refuses it. Takes fd. */
void rpc_peer_accept(struct rpc_server *s, int fd);
/* Knows a TLS connection by its peer name from now on. NULL: refused, the limits do not allow it. */
struct rpc_connection *rpc_peer_add(struct rpc_server *s, const char *peer, const struct rpc_caller *caller);
void rpc_peer_remove(struct rpc_server *s, struct rpc_connection *conn);
/* The roles of connections and of open streams anew, by changed grants. */
void rpc_peers_judge(struct rpc_server *s);
/* Who makes this call. RPC_OK, or why it may not; fills c->caller and takes c->use. */
enum rpc_code rpc_peer_identify(struct rpc_call *c);
void rpc_peer_release(struct rpc_call *c);
/* Forgets connections that ended; how many are left. */
uint32_t rpc_peers_sweep(struct rpc_server *s);
void rpc_peers_clear(struct rpc_server *s);

/* unpack.c: knows nothing of the core, so that it can be fuzzed without */
int rpc_scratch_init(struct rpc_scratch *m);
void rpc_scratch_fini(struct rpc_scratch *m);
void rpc_scratch_reset(struct rpc_scratch *m);
void *rpc_scratch_alloc(struct rpc_scratch *m, size_t size);
/* Bytes from a caller to a message in scratch memory. NULL: `why` says what is wrong with them. */
ProtobufCMessage *rpc_message_unpack(struct rpc_scratch *m, const ProtobufCMessageDescriptor *d, const uint8_t *bytes,
                                     size_t size, const char **ret_why);

/* message.c */
grpc_slice rpc_message_pack(const ProtobufCMessage *message);
/* google.rpc.Status of a failed call. */
grpc_slice rpc_message_status(struct rpc_call *c);

/* tls.c */
int rpc_tls_create(struct rpc_server *s, char *err, size_t err_size);
void rpc_tls_destroy(struct rpc_server *s);
/* The core is starting: gives it the door with certificates. */
int rpc_tls_door(struct rpc_server *s, grpc_server *server);
/* Takes over certificates whose files changed. */
void rpc_tls_refresh(struct rpc_server *s);
/* Ends all relays. */
void rpc_tls_drop(struct rpc_server *s);

/* health.c, reflection.c */
extern const struct rpc_method rpc_health_methods[];
extern const size_t rpc_health_method_count;
extern const struct rpc_method rpc_reflection_methods[];
extern const size_t rpc_reflection_method_count;

#endif
