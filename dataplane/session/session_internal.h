/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions from the inside. A session's memory is one shared memfd; what the daemon believes about it lies in private
 * memory: `struct session` (control's), `struct sess_set` (one for each shard that serves it, the shard's worker's) and
 * `struct sess_socket` (one line a socket, written by the worker of the set that owns it).
 *
 * Every function here runs on the shard's worker unless it says "control". Nothing waits, allocates or logs.
 */
#ifndef USHER_DATAPLANE_SESSION_SESSION_INTERNAL_H
#define USHER_DATAPLANE_SESSION_SESSION_INTERNAL_H

#include "dataplane/core/shard.h"
#include "dataplane/session/session.h"
#include "engines/tcp/tcp_cmd.h"
#include "proto/usher_shm.h"

#define SESS_SQ_ENTRIES  1024u
#define SESS_SQ_TURN     (SESS_SQ_ENTRIES / 2) /* entries of a ring that one turn takes at most */
#define SESS_CQ_ENTRIES  4096u
#define SESS_TX_COPY_MAX 1536u /* what fits a small packet behind the headroom, and a frame of 1500 with it */
#define SESS_TX_LEN_MAX  65527u
#define SESS_LOAN_MAX    1024u /* buffers a set may have lent to us at a time */
#define SESS_TX_MAX      (1ull << 30)
#define SESS_RX_MAX      (1ull << 30)
#define SESS_SOCKET_MAX  65536u
#define SESS_RX_QUOTA    (256u << 10)
#define SESS_TX_LIMIT    (256u << 10)
#define SESS_STREAMS        8192u /* that the client opens, and as many that are accepted */
#define SESS_STREAMS_MAX    (1u << 20)
#define SESS_STREAM_LIMIT   (256u << 10) /* until the engine advises */
#define SESS_LINGER_NS      (30 * NS_PER_SEC)
#define SESS_IDLE_NS     NS_PER_MS /* a set without traffic for so long is armed and no longer polled */
#define SESS_KICK_MAX    100000u   /* needless kicks in a second that end the session */
#define STUCK_FIRST_NS   (50 * NS_PER_US) /* how soon a full completion ring is looked at again ... */
#define STUCK_LAST_NS    NS_PER_SEC       /* ... and how rarely at last */

/* ---- cells of the RX region: rx_cells.c ---- */

#define SLAB_BYTES  (64u << 10)
#define SLAB_SHIFT  16
#define CELL_SHIFT  8 /* of the smallest class */
#define CELL_CLASSES 4

#define SLAB_NOBODY 0xff /* no set has this number */

enum slab_class { SLAB_256, SLAB_2K, SLAB_16K, SLAB_64K };

/* A place is a multiple of the smallest cell's size, counted from the slab's start: where a cell may begin. */
struct slab {
    uint8_t cls;      /* enum slab_class */
    uint8_t set;      /* whose it is */
    uint16_t count;   /* cells of its size */
    uint16_t lent;    /* cells the client holds */
    uint16_t carved;  /* place behind the last cell ever used since the slab got its class */
    uint16_t free_head; /* place of the first of the given back, CELL_NIL ends */
    uint32_t next, prev; /* in the class's list of slabs with a free cell */
};

/* `mark`: the socket's handle while lent, else the place of the slab's next free cell. */
struct cell_word {
    uint32_t mark;
    uint32_t lent; /* payload + 1 while lent, 0 = no cell of the client's begins here */
};
STATIC_ASSERT(USH_SET_MAX <= SLAB_NOBODY, "a slab's owner is one byte");

/* One for each set. `word` belongs to the session: one for each 256 bytes. Slabs move between the session's sets
 * through `pool`, a bit map that workers change
 * atomically, because that is rare. */
struct cells {
    struct slab *slab;
    struct cell_word *word;
    uint64_t *pool; /* 1 = slab free */
    uint32_t *pool_free; /* how many those are (atomic) */
    uint32_t slab_count;
    uint32_t set;
    uint32_t partial[CELL_CLASSES]; /* slabs with a free cell */
};

void cells_init(struct cells *c, struct slab *slab, struct cell_word *word, uint64_t *pool, uint32_t *pool_free,
                uint32_t slab_count, uint32_t set);
/* Bytes of slabs that nobody has yet. */
uint64_t cells_room(const struct cells *c);
/* Offset of a cell for `len` bytes, lent to `handle` from now on; USH_NONE when the region is full. *ret_size is what
 * it counts against the socket's quota. */
uint32_t cells_take(struct cells *c, uint32_t len, uint32_t handle, uint32_t *ret_size);
/* The client, which came back, has the cell at `off` already. Before the set is polled. */
void cells_hold(struct cells *c, uint32_t off);
/* The client gives `off` back. Hostile: returns the handle it was lent to, or USH_NONE when it was not. */
uint32_t cells_give(struct cells *c, uint32_t off, uint32_t *ret_size, uint32_t *ret_len);

/* ---- worker's state ---- */

enum sess_sock_state { SOCK_FREE = 0, SOCK_OPEN, SOCK_CLOSING, SOCK_CLOSED, SOCK_PARKING, SOCK_PARKED };
/* In the order in which they are told. */
enum sess_event_bit { EV_ACCEPT = 1 << 0, EV_CONNECTED = 1 << 1, EV_WRITABLE = 1 << 2, EV_URGENT = 1 << 3,
    EV_HANGUP = 1 << 4, EV_ERROR = 1 << 5, EV_CLOSED = 1 << 6, EV_RESUMED = 1 << 7 };
#define EV_PARKED EV_RESUMED /* which of the two is what the state says */
#define EV_OPENING (EV_ACCEPT | EV_CONNECTED) /* before any byte of the stream */

enum sess_socket_flag {
    SOCK_LISTED = 1 << 0,   /* in the set's list of sockets with untold events */
    SOCK_ACCEPTED = 1 << 1, /* a stream under a handle of ours */
    SOCK_LEFT = 1 << 2,     /* the client has said CLOSE */
    SOCK_LISTENER = 1 << 3,
    SOCK_REFUSED = 1 << 4,  /* CONNECT did not even begin */
    SOCK_SPREAD = 1 << 5,   /* of a group that goes by the shortest queue: its transport is told how long this one is */
    SOCK_LOCAL = 1 << 6,    /* connects to an address of this host: refused here, it may try the kernel */
    SOCK_BOUND = 1 << 7,    /* a port for CONNECT, no more: the transport knows nothing of it */
};

/* One cache line. Written by the worker; control reads counters. */
struct sess_socket {
    uint8_t state; /* enum sess_sock_state */
    uint8_t set;
    uint8_t proto;
    uint8_t events; /* enum sess_event_bit: not yet told, the ring was full */
    uint32_t sock;  /* the transport's index; of PROTO_FRAME: the interface's */
    uint32_t owner;
    union {
        uint32_t rx_quota;
        uint32_t listener; /* of an accepted stream: handle of its listener, USH_NONE once that is history */
    };
    uint32_t rx_held;
    uint32_t tx_limit, tx_flight, tx_done;
    uint32_t tx_told;     /* tx_done when WRITABLE was last said */
    uint16_t error;       /* of EV_ERROR */
    uint8_t generation;   /* of a stream's handle */
    uint8_t flags;        /* enum sess_socket_flag */
    uint32_t event_next;  /* in the set's list of sockets with untold events */
    union {
        uint32_t rx_dropped;
        uint32_t urgent; /* of a stream: where EV_URGENT is */
    };
    union {
        uint64_t rx_packets;
        uint64_t frame_bytes; /* of PROTO_FRAME, which receives nothing by its session: bytes sent */
    };
    uint64_t tx_packets;
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct sess_socket) == CACHE_LINE, "one line per socket");

struct sess_sq {
    struct ush_sqe *ring;
    uint32_t head;
    uint32_t streamed;   /* sends of streams ever taken */
    uint32_t off, guess; /* in the TX region: of the last send, and where the next one may be */
};

/* What of a client's a small packet carries; by the packet's index. */
struct sess_tx {
    uint32_t slot; /* of the set in the shard */
    uint32_t handle;
    uint32_t bytes;
    uint32_t off; /* lent from the TX region, USH_NONE = was copied */
};

/* What becomes of a submission, besides the reasons to detach. */
#define SQE_TAKEN DETACH_COUNT        /* the entry is done with */
#define SQE_WAIT  (DETACH_COUNT + 1u) /* it stays in the ring for now */

enum set_list { SET_NOWHERE, SET_ACTIVE, SET_ARMED };

struct sess_set {
    /* polled every turn */
    struct sess_set *next; /* active */
    struct ush_cqe *cq;
    uint32_t cq_tail;
    uint32_t cq_head; /* last valid value of the client's */
    uint32_t sq_count;
    uint8_t list;  /* enum set_list */
    bool dirty, unsure, dead, retired;
    struct sess_sq sq[USH_SQ_MAX];
    /* delivery */
    struct ush_set *shm;
    struct sess_socket *socket;
    struct ush_socket *shm_socket;
    uint8_t *tx, *rx;
    uint64_t tx_size;
    uint32_t socket_max;  /* sockets that were opened by RPC */
    uint32_t accept_base; /* streams the client connects end here, those we accept begin ... */
    uint32_t socket_end;  /* ... and end here */
    uint32_t index; /* of the set in the session */
    struct cells cells;
    ns_t active_ns; /* last traffic */
    uint32_t woken_ticket;
    int wake_fd;
    struct sess_set *dirty_next, *unsure_next, *stuck_next;
    bool stuck;
    /* untold: the completion ring was full */
    uint32_t event_head, event_tail; /* sockets with event bits */
    uint32_t free_head, free_tail;   /* in tx_free */
    uint32_t loans;                  /* buffers lent to us and not yet in tx_free */
    uint32_t flight;                 /* packets that carry this set's bytes: it stays in the shard's table until 0 */
    uint32_t tx_free[SESS_LOAN_MAX];
    /* streams */
    struct pkt *pend_head, *pend_tail; /* received bytes that found no room, in order, linked by user_data */
    uint32_t pend_count; /* the small ones of them */
    uint32_t streams;     /* that the engine still knows: the TX region is theirs until 0 */
    struct session_quota *quota; /* NULL = none */
    uint32_t connect_high, accept_high; /* indexes at or above were never used by this set */
    uint32_t accept_next; /* where the search for a free handle begins */
    uint64_t *accept_pool; /* the session's: 1 = index free; sets take and give atomically */
    uint32_t ahead_handle; /* the CONNECT that is to have the options in `ahead`; USH_NONE = none */
    struct tcp_options ahead;
    bool is_home; /* of a client that came back to the slot it had: the sinks of its streams name it */
    struct sess_set *linger_next;
    ns_t linger_until;    /* when what the client closed and left behind is aborted */
    /* kicks */
    int kick_fd;
    uint32_t slot; /* in the shard; also names the set in the worker's io_uring */
    uint32_t kicks; /* needless ones since kick_since */
    ns_t kick_since;
    bool polled; /* the worker's io_uring watches kick_fd */
    struct session *session;
    struct shard *shard;
};

/* ---- worker: set.c ---- */

/* Takes submissions of all active sets. Returns how many. */
uint32_t session_poll(struct shard *sh);
/* Publishes what a turn produced: tx_done, untold completions, wake-ups. */
void session_flush(struct shard *sh);
/* Looks behind a fence at the sets that were given completions in the turn before. */
void session_confirm(struct shard *sh);
/* Arms sets without recent traffic. */
void session_sweep(struct shard *sh);
/* Going to sleep: says need_kick in every active set; then looks; then takes it back. */
void session_arm_all(struct shard *sh);
bool session_recheck(struct shard *sh);
/* Takes what the client submitted before it closed a socket. */
void session_set_drain(struct shard *sh, struct sess_set *set);
/* Looks again at full completion rings. True: some have got entries, session_flush() has to tell. */
bool session_unstick(struct shard *sh);
void session_set_activate(struct shard *sh, struct sess_set *set);
/* The set's kick eventfd fired. */
void session_kicked(struct shard *sh, uint32_t slot);
void session_set_add(struct shard *sh, struct sess_set *set);
/* The client is gone: nothing is delivered or taken any more. The set leaves the table with its last packet. */
void session_set_retire(struct shard *sh, struct sess_set *set);
/* Lets the worker's io_uring watch the set's kick eventfd, or not. */
void session_set_watch(struct shard *sh, struct sess_set *set, bool on);
void session_set_release(struct shard *sh, struct sess_set *set);
void session_detach(struct shard *sh, struct sess_set *set, enum detach_reason why);
/* Tells clients on which core their sets are served now. */
void session_cpu_set(struct shard *sh, int cpu);

/* A stream's record, which the caller has taken out of SOCK_FREE. */
struct sess_socket *stream_record_fill(struct sess_set *set, uint32_t handle, uint32_t owner, uint8_t flags);
/* Counts it against its user; false: that is one too many, and it is to be ended by stream_refused(). */
bool stream_quota_take(const struct sess_set *set);
/* It could not even begin: the client learns why, and that nothing of it is left. */
void stream_refused(struct shard *sh, struct sess_set *set, uint32_t handle, const struct notice *why);

/* ---- worker: stream.c ---- */

/* Entries of the ring that name a stream; as the functions in set.c. */
uint32_t stream_take_send(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
uint32_t stream_take_connect(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
uint32_t stream_take_shutdown(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
uint32_t stream_take_close(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
uint32_t stream_take_resume(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
/* The live stream of this set with exactly this handle, or NULL. */
struct sess_socket *stream_find(const struct sess_set *set, uint32_t handle);
/* A notice about a stream. True when it is dealt with. */
bool stream_notice(struct shard *sh, struct sess_set *set, uint32_t handle, const struct notice *n);
/* CLOSED was told: the index may be used again, at once or when the client has said CLOSE. */
void stream_told_closed(struct sess_set *set, uint32_t handle);
/* Connections that wait for a handle, and streams that may be parked now; after the notices of a call. */
void stream_accepts(struct shard *sh);
/* An index for one stream more of ours, USH_NONE: none is free, or its user has as many as allowed. */
uint32_t stream_handle_take(struct sess_set *set);
/* Its record, and ACCEPT to the client; n: sink = the listener's, extra = the engine's index, the peer's end. */
struct sess_socket *stream_accept_tell(struct shard *sh, struct sess_set *set, uint32_t handle, const struct notice *n);
/* The engine knows it no more, or knows it as another's. */
void stream_engine_done(struct sess_set *set, struct sess_socket *sk);
/* Both ends of it, as the engine knows them. */
bool stream_ends(struct shard *sh, const struct sess_socket *sk, struct flow *ret_flow);
/* The session ends: what the client has not closed is reset. `*at` = where to go on; false when all is done. */
bool stream_end_some(struct shard *sh, struct sess_set *set, uint32_t *at, uint32_t max);
/* Returns work done. */
uint32_t stream_linger(struct shard *sh);
/* The engines are gone, and with them all streams. */
void stream_forget_all(struct shard *sh);

/* The record of one that was parked, and ACCEPT of no listener to the client. */
struct sess_socket *stream_adopted_tell(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t owner,
                                        uint32_t sock);

/* ---- worker: stream_share.c ---- */

uint32_t stream_take_park(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
/* It is to be parked, and something that it had sent was acknowledged. */
void stream_park(struct shard *sh, struct sess_set *set, struct sess_socket *sk, uint32_t handle);

/* ---- worker: stream_return.c ---- */

uint32_t stream_take_return(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);

/* ---- worker: stream_option.c ---- */

uint32_t stream_take_option(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
uint32_t stream_take_info(struct shard *sh, struct sess_set *set, const struct ush_sqe *e);
/* What came ahead of the CONNECT of `handle`; ret_opt untouched when that is nothing. */
void stream_options_take(struct sess_set *set, uint32_t handle, struct tcp_options *ret_opt);
/* One option that a connection or listener is to be born with. What cannot be is ignored. */
void stream_option_born(struct tcp_options *opt, uint32_t option, int64_t value, const uint8_t name[12]);
void stream_listen_options(struct shard *sh, const struct sess_socket *sk, const struct ush_option *options,
                           uint32_t count);
/* False: the engine does not know it any more. */
bool stream_info(struct shard *sh, const struct sess_socket *sk, struct tcp_conn_info *ret_info);

/* ---- worker: stream_rx.c ---- */

/* Takes packets of one stream, a run of them; returns how many that was. */
uint32_t stream_deliver(struct shard *sh, struct sess_set *set, struct pkt **pkts, uint32_t n);
/* Bytes that waited for room. */
void stream_untold(struct shard *sh, struct sess_set *set);
void stream_pending_drop(struct shard *sh, struct sess_set *set);
bool stream_is_pending(const struct sess_set *set, uint64_t sink);
/* Tells the transport how much room the session has left for received bytes. */
void stream_room_tell(struct shard *sh, const struct sess_set *set);
/* The client let go of bytes. stream_credit_flush() tells the engine. */
void stream_credit(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t bytes);
void stream_credit_flush(struct shard *sh);

/* ---- worker: socket.c ---- */

/* Tells the transport what the client has in front of it: cells of datagrams not consumed, or not given back. */
void session_load_tell(struct shard *sh, const struct sess_socket *sk);

/* ---- worker: frames.c ---- */

/* Frames that programs made whole, on their way to the filter and to their interface. */
void frames_output(struct shard *sh, struct pkt **pkts, uint32_t n);
/* One of them has ended: its sender learns when the filter did it. */
void frame_end(struct shard *sh, const struct pkt *p);

/* ---- worker: deliver.c ---- */

/* NULL when the ring is full. cq_commit() must follow. */
struct ush_cqe *cq_slot(struct shard *sh, struct sess_set *set);
void cq_commit(struct shard *sh, struct sess_set *set, struct ush_cqe *e);
void session_payload_copy(uint8_t *to, const struct pkt *p, uint32_t len);
void session_set_dirty(struct shard *sh, struct sess_set *set);
/* Tells an event, now or when there is room. `bit`: enum sess_event_bit. */
void session_event(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t bit, const struct notice *n);
/* Of the socket's untold events those in `bits`, in their order; false: no room. */
bool session_events_tell(struct shard *sh, struct sess_set *set, uint32_t index, uint32_t bits);

/* Takes packets whose sink is a session. */
void session_deliver(struct shard *sh, struct pkt **pkts, uint32_t n);
void session_notices(struct shard *sh, const struct notice *notices, uint32_t n);
/* A packet that carried a client's bytes ends. */
void session_tx_end(struct shard *sh, struct pkt *p);
/* The same, for a segment that a stream transport made of them (p->token has PKT_TOKEN_REGION). */
void session_region_end(struct shard *sh, struct pkt *p);
/* Segments on their way down: those that borrow from a TX region keep their session in place. */
void session_regions_mark(struct shard *sh, struct pkt **pkts, uint32_t n);
/* The retired set leaves when nothing of it is out any more. */
void session_set_settle(struct shard *sh, struct sess_set *set);
/* Ends one send without a packet having left: credit and buffer go back. */
void session_tx_return(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t bytes, uint32_t off);
/* Completions that found the ring full. */
void session_untold(struct shard *sh, struct sess_set *set);
/* True while something still waits for room. */
bool session_has_untold(const struct sess_set *set);

/* ---- control ---- */

struct sess_flow { /* what control keeps of a socket */
    struct flow flow;
    uint64_t cookie;
    uint32_t *part; /* a listener's index in each further shard, USH_NONE = none there; see session_part() */
    uint8_t shard;
    uint8_t spread;
    bool open;
    bool retired; /* open no more, but the client has not said Close: its handle stays taken */
};

struct session_quota {
    uint32_t refs; /* control's */
    uint32_t max;
    uint32_t used CACHE_ALIGNED; /* atomic: workers count */
};

struct session {
    struct runtime *rt;
    uint8_t *base;
    size_t size;
    int memfd;
    int wake_fd; /* our end */
    struct ush_header layout; /* private copy */
    uint32_t owner; /* control writes, workers read */
    struct session_quota *quota;
    struct session_key key;
    const struct session_comeback *back; /* while it is being made */
    struct sess_set *set[USH_SET_MAX];
    struct sess_socket *socket;
    struct sess_flow *flow;
    uint32_t socket_high; /* handles at or above were never used */
    bool parted;          /* it has had a listener in several shards */
    uint32_t *closed;     /* handles to be used again, a queue of socket_max */
    uint32_t closed_head, closed_tail;
    bool kick_sent[USH_SET_MAX];  /* the client has the set's eventfd */
    uint8_t sq_made[USH_SET_MAX]; /* submission rings besides the first */
    struct slab *slab;
    struct cell_word *cell_word;
    uint64_t *slab_pool;
    uint32_t slab_pool_free; /* atomic */
    uint64_t *accept_pool;
    uint32_t detach_why; /* enum detach_reason, set once by a worker (atomic); DETACH_COUNT = attached */
    uint32_t guard;       /* slot in the SIGBUS table */
    bool guarded;
    bool reported;        /* no worker will name it any more */
    bool destroyed;       /* the owner is done with it; memory goes when the last packet has come back */
    uint32_t set_alive;   /* sets that shards still hold (atomic) */
    struct session *next; /* in the runtime's list of detached or of destroyed sessions */
};

/* comeback.c */
int session_comeback_map(struct session *s, const struct session_comeback *back);
void session_comeback_set(struct sess_set *set, const struct session *s);
int session_comeback_sets(struct session *s, struct session_fds *ret_fds);
bool session_key_equal(const struct session_key *a, const struct session_key *b);
uint32_t session_comeback_slot(const struct shard *sh, const struct session_key *key); /* USH_NONE: there is none */

/* session.c */
int session_set_make(struct session *s, uint32_t shard);
/* socket.c */
/* Worker of shard `index`, which alone reads and writes that entry: the transport's index there of a listener that has
 * its home in another shard. USH_NONE: it has none. */
uint32_t session_part(const struct session *s, uint32_t handle, uint32_t index);
/* Makes the set when this is the session's first socket on the shard. *ret_kick_fd: a dup for the client, or -1. */
int session_set_ready(struct session *s, uint32_t shard, int *ret_kick_fd);
void session_sockets_close(struct session *s);
/* Worker: a command to the transport of `proto` in this shard. 0 or -errno. */
int session_transport(struct shard *sh, uint8_t proto, struct engine_cmd *cmd, struct engine_reply *ret_reply);

/* Maps and fills the memfd. sigbus.c: a page that cannot be had becomes zeros and a lost session, not a dead daemon. */
int session_guard_add(void *base, size_t size, uint32_t *ret_slot);
void session_guard_remove(uint32_t slot);
bool session_guard_hit(uint32_t slot);
/* runtime_events(): frees destroyed sessions whose last loan came back. */
void session_reap(struct runtime *rt);

#endif
