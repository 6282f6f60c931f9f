/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of libusher share: the context, its ring sets, its sockets. Everything here is private memory of the
 * program; what usherd also sees is reached through the pointers into the mapping (set->shared, cq, sq, rx, tx).
 *
 * Locks. rpc_lock covers an exchange with usherd and what it changes here (a handle may be given anew as soon as usherd
 * has closed it, so closing and forgetting are one step); it is taken first. lock guards everything else and is never
 * held while sleeping. A context of one thread takes neither.
 */
#ifndef USHER_CLIENTLIB_INTERNAL_H
#define USHER_CLIENTLIB_INTERNAL_H

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include <usher/usher.h>

#include "clientlib/src/cpu.h"
#include "clientlib/src/error.h"
#include "clientlib/src/lock.h"
#include "clientlib/src/txbuf.h"
#include "proto/usher_shm.h"

#define CLIENT_DEFAULT_PATH "/run/usher/session.sock"
#define CLIENT_DATAGRAM_MAX 65507u
#define CLIENT_SPIN_MAX_US 50
#define CLIENT_PEERS 64
#define CLIENT_OWED_MAX 8192u

/* One ring set: a worker's completion ring towards us and our submission ring towards it. */
struct client_set {
    /* line 0: what receiving touches */
    struct ush_cqe *cq;
    uint32_t cq_mask;
    uint32_t cq_pos;       /* next to read */
    uint32_t cq_published; /* what usherd has been told */
    uint32_t ticket;       /* last wait_ticket written */
    struct ush_set *shared;
    uint32_t *release; /* RX cells to give back with the next RELEASE entries */
    uint32_t release_count, release_room;
    uint32_t release_bytes;
    uint32_t index;
    uint32_t scan_pos; /* completions before it were searched for bounces */
    uint32_t owed; /* bytes given back since the last kick */
    /* line 1: what sending touches */
    struct ush_sqe *sq;
    uint32_t *sq_buf; /* by slot: block to free once usherd has consumed the entry, or TXBUF_NONE */
    uint32_t sq_mask;
    uint32_t sq_pos;    /* next to write */
    uint32_t sq_reaped; /* entries whose blocks are free again: the last sq_head seen */
    bool kick_due;
    bool streams; /* it has had one: what is given back opens a window */
    int kick_fd;
    uint64_t *held; /* a bit for each place where a cell may begin: we have it */
} __attribute__((aligned(64)));

/* A received datagram or event that waits in private memory, because somebody else's recvfrom() found it. */
struct client_parked {
    struct client_parked *next;
    struct usher_event ev;
};

/* A buffer that a stream has sent: the block is usherd's until `end` bytes of the stream are done. */
struct client_sent {
    uint32_t off;
    uint32_t end;
};

/* An option that the program has set. */
struct client_option {
    uint32_t row; /* in stream_option.c's table */
    int64_t value;
};
#define CLIENT_OPTIONS 32
#define CLIENT_LISTEN_OPTIONS 16 /* that usherd takes with a listener */

/* A port of the program's choice that usherd has for one connection: its kernel socket holds it until that is over. */
struct client_port {
    struct client_port *next;
    uint32_t handle;
    int fd;
};

#define CLIENT_SENT_FIRST 16u

/* What a stream has besides; see stream.c. It lies behind its socket, in the same block: of many streams a message
 * finds none in the caches nor their pages in the TLB. So what every message looks at comes first, here and there. */
struct client_stream {
    struct client_sent *sent; /* a ring of sent_room (power of two) entries */
    uint32_t sent_head, sent_tail, sent_room;
    uint32_t sent_from; /* where the oldest buffer in `sent` begins */
    uint32_t rx_total; /* bytes taken from the ring, modulo 2^32 */
    uint32_t more_sets; /* of a listener, a bit for each besides its own that brings connections */
    bool listening, connecting, open;
    bool parking;   /* PARK was sent: nothing goes out any more */
    bool parked;    /* ... and PARKED came: client_stream_put() follows */
    bool recalled;  /* another process wants it */
    bool retired;   /* a listener that usherd has closed; what it has accepted still comes */
    bool shut;      /* SHUTDOWN was sent */
    bool eof;       /* the peer has hung up */
    bool gone;      /* CLOSED came */
    bool left;      /* usher_close(): lives on until CLOSED */
    bool close_due; /* CLOSE found the ring full */
    bool unread;    /* closed with received bytes that nobody read: the peer is told */
    bool quiet;     /* its connect was refused and the kernel tries: no CLOSED of the first try ends it */
    bool by_kernel; /* has an option that only the kernel honours */
    bool fastopen;  /* may send before it is connected */
    bool deaf;      /* shut down for reading: what waits is read, then the end */
    uint8_t again;  /* enum client_again */
    struct client_sent first[CLIENT_SENT_FIRST]; /* where `sent` begins */
    uint8_t peer[16], local[16]; /* v4-mapped */
    uint16_t peer_port, local_port;
    uint8_t *tail;  /* bytes the kernel socket did not take yet */
    uint32_t tail_len, tail_at;
    struct usher_msg rest; /* usher_recv_stream() has read a part of it */
    uint32_t rest_at;
    uint32_t again_at; /* bytes of ours that usherd has */
    int linger;     /* seconds; -1 = off */
    struct client_port *port;
    uint32_t option_count;
    struct client_option *options;
    char congestion[12]; /* "": the default */
    struct usher_stream_info *info; /* the last answer, and how many there were */
    uint32_t info_count;
    int info_error;
};
_Static_assert(offsetof(struct client_stream, first) <= 64, "a line for every message");

/* A stream after its usherd was succeeded by another. */
enum client_again {
    AGAIN_NOT,     /* nothing is due */
    AGAIN_CONNECT, /* it was connecting: from the start */
    AGAIN_RESUME,  /* to be asked for */
    AGAIN_WAIT,    /* asked */
    AGAIN_SEND,    /* what usherd has not, goes again, and the end of it if there was one */
};

struct client_group {
    uint8_t addr[16];
    uint32_t ifindex;
};

struct usher_socket {
    struct usher_context *ctx;
    struct client_set *set; /* NULL: not accelerated */
    struct client_stream *st; /* SOCK_STREAM, else NULL */
    void *user;
    uint32_t handle;
    uint32_t sent;      /* bytes submitted, modulo 2^32 */
    uint32_t done;      /* of ush_socket.tx_done, when last read */
    uint32_t tx_limit;
    bool connected, bound, wildcard, v6;
    bool frames;      /* AF_PACKET */
    bool known;          /* in by_handle */
    bool let_go;         /* usherd carries it no longer and waits for Close */
    bool blocked; /* a send answered -EAGAIN: WRITABLE is owed */
    bool kernel_blocked; /* ... because the kernel socket's buffer was full */
    bool watched; /* in the epoll set */
    bool bouncing;    /* sends came back and others may still: what follows goes behind them */
    bool kernel_peer; /* the connected peer is reached by the kernel only */
    bool muted;   /* readable, but its share of parked datagrams is used up */
    bool borrowed; /* fd is the program's own: neither watched nor closed here */
    bool parked_listed;
    bool reopen_due; /* it was usherd's, and no successor has answered yet whether it is again */
    struct client_set *home; /* while `known`: whose completions may name it */
    int fd;
    uint32_t ifindex; /* where frames leave; 0 = where the kernel socket is bound */
    int error; /* parked asynchronous errno, positive: the next call on it, or poll, tells */
    struct client_parked *parked_head, **parked_tail;
    uint32_t parked_kernel;
    struct usher_socket *parked_next; /* among the context's sockets with parked events */
    struct usher_socket *blocked_next;
    struct usher_socket *next, **prev_next; /* all of the context */
    uint32_t rx_quota;
    uint32_t wish_rx_quota, wish_tx_limit; /* of setsockopt before usherd knew the socket */
    uint32_t group_count;
    struct client_group *groups;
    char reason[128];
};
_Static_assert(offsetof(struct usher_socket, home) == 64, "a line for every message");

#define CLIENT_LINES(bytes) (((bytes) + 63) & ~(size_t)63)
#define CLIENT_STREAM_AT    CLIENT_LINES(sizeof(struct usher_socket)) /* in the block of a stream's socket */

static inline void client_socket_prefetch(const struct usher_socket *sock) {
    __builtin_prefetch(sock, 1);
    __builtin_prefetch((const uint8_t *)sock + CLIENT_STREAM_AT, 1);
    __builtin_prefetch((const uint8_t *)sock + CLIENT_STREAM_AT + 64, 1);
}

/* A datagram that came by a kernel socket; the payload follows. */
struct client_kbuf {
    struct client_kbuf *next, **prev_next;
    uint64_t room;
    uint64_t pad[5];
};
_Static_assert(sizeof(struct client_kbuf) == 64, "payload starts on a line");

struct client_tune {
    uint32_t score; /* share of recent waits that a spin would have caught, of 256 */
    uint32_t waits;
    bool one_cpu;
};

struct usher_context {
    struct client_lock lock;
    uint32_t generation; /* client_generation when it was opened; a fork's child has another */
    uint32_t flags;
    uint32_t set_count;
    struct client_set *sets[USH_SET_MAX]; /* in the order they appeared */
    struct client_set *set_at[USH_SET_MAX]; /* by usherd's number */
    uint32_t opening; /* Open is on its way: completions of unknown handles wait in the ring */
    uint32_t polls;
    bool armed;        /* a foreign loop sleeps on usher_fd() */
    bool asleep;       /* the leader sleeps */
    bool kick_due;     /* some set has entries the worker may sleep over */
    bool confined;     /* no system call but read and write, please */
    bool down;         /* usherd is gone */
    bool away;         /* it is gone, a successor may come; see comeback.c */
    bool returning;    /* ... and is being talked to. Under rpc_lock */
    bool farewell;     /* it has said that it ends the session. Under rpc_lock */
    int64_t away_until, away_next;
    uint32_t comeback_ms;
    uint32_t agains;   /* streams with something due */
    uint8_t key[16];
    char path[108], label[64];
    bool down_event;   /* EV_DOWN is owed */
    bool down_errno;   /* -ENETDOWN is owed */
    bool tx_wanted;    /* a tx_alloc failed: EV_TX_FREE is owed as soon as a block is free */
    bool tx_freed;
    uint32_t accelerated, kernel_only; /* bound sockets of either kind */
    uint64_t peer_used;                /* which of peer[] are in use: 0 while nobody has come by the kernel */
    struct usher_socket **by_handle;
    struct ush_header h; /* copied and checked at attach */
    uint8_t *base;       /* the mapping */
    uint8_t *tx, *rx;
    uint32_t cell_shift; /* log2 of the header's rx_cell_min */
    struct ush_socket *shared_sockets;
    struct txbuf txbuf;
    uint32_t set_turn; /* which set a poll begins with */
    struct client_set *stream_set; /* where streams connect; NULL: not asked yet, or stream_why says why not */
    char stream_why[128];
    uint32_t *stream_free;  /* indexes for CONNECT, a stack of stream_free_count */
    uint32_t stream_free_count;
    uint8_t *stream_generation; /* by index - socket_max */
    uint32_t table_size;    /* of by_handle and shared_sockets */
    bool take_v6;           /* of the stream that client_stream_take() waits for */
    uint32_t closes_due;    /* streams whose CLOSE found the ring full */
    uint32_t owed_max;      /* bytes of streams given back that usherd need not hear of at once */
    struct client_port *ports_due; /* that usherd may have back */
    struct usher_socket *blocked, *parked, *parked_last, *sockets;
    struct client_parked *parked_free;
    struct client_kbuf *kbuf_free, *kbuf_lent;
    uint32_t kbuf_cached;
    uint8_t *scratch; /* overflow of a kernel receive */
    int64_t looked_ns;
    uint8_t peer[CLIENT_PEERS][16];   /* v4-mapped addresses that the kernel reaches, ... */
    uint16_t peer_port[CLIENT_PEERS]; /* ... and which port of theirs, 0 = all */
    int epoll_fd, wake_fd, session_fd, timer_fd, memfd;
    bool timer_on;
    bool wake_taken; /* a wake-up's byte is still in wake_fd */
    /* waiting */
    bool leader;
    uint32_t followers;
    uint32_t news; /* counts what waiters should look at: parked events, usherd's end, a leader that leaves */
    int spin_us;
    struct client_tune tune;
    /* exchanges */
    struct client_lock rpc_lock;
    uint32_t rpc_id;
    struct usher_context *list_next, **list_prev_next;
    char daemon_version[32];
    uint64_t session_id;
    uint32_t life; /* 1, and one more with each usherd it has come back to */
};

/* The socket of a completion's handle, or NULL. */
static inline struct usher_socket *client_by_handle(const struct usher_context *ctx, uint32_t handle)
{
    uint32_t index = USH_HANDLE_INDEX(handle);
    struct usher_socket *sock = index < ctx->table_size ? ctx->by_handle[index] : NULL;
    return LIKELY(sock && sock->handle == handle) ? sock : NULL;
}

/* ---- context.c ---- */
extern uint32_t client_generation;
int client_forked(void);
/* Handlers of fork(); who has some of its own around them registers these first. */
void client_fork_watch(void);

static inline bool client_is_single(const struct usher_context *ctx)
{
    return ctx->flags & USHER_SINGLE_THREAD;
}

static inline void client_leave(struct usher_context *ctx)
{
    if (!client_is_single(ctx))
        client_lock_give(&ctx->lock);
}

/* Every call starts here: 0 with the lock held, or -EPERM in a fork's child. */
static inline int client_enter(struct usher_context *ctx)
{
    if (UNLIKELY(ctx->generation != __atomic_load_n(&client_generation, __ATOMIC_RELAXED)))
        return client_forked();
    if (!client_is_single(ctx))
        client_lock_take(&ctx->lock);
    return 0;
}
/* Takes the lock again after client_leave(). */
static inline void client_relock(struct usher_context *ctx)
{
    if (!client_is_single(ctx))
        client_lock_take(&ctx->lock);
}
void client_close_fd(int *fd);
/* Of session_fd; closed on failure. 0 or -errno. */
int client_session_connect(struct usher_context *ctx, const char *path, int *ret_fd);
int client_session_watch(struct usher_context *ctx);
/* What was submitted and will never be looked at: its buffers come home. */
void client_reclaim(struct usher_context *ctx);
/* usherd is gone: sockets go on over the kernel. Under the lock. */
void client_go_down(struct usher_context *ctx, const char *why);

/* ---- comeback.c ---- */
/* The session's socket has ended. Under both locks. */
void client_lost(struct usher_context *ctx, const char *why);
/* Something happened to it, as epoll says. Under the lock, which is given away meanwhile. */
void client_session_news(struct usher_context *ctx);
/* Looks whether a successor is there, now and then. The same. */
void client_comeback_look(struct usher_context *ctx);
/* Waits for one, under rpc_lock only; returns when it is there or usherd counts as gone. */
void client_comeback_wait(struct usher_context *ctx);
/* Streams with something due go on as far as the rings have room. Under the lock. */
void client_again(struct usher_context *ctx);
bool client_again_event(struct usher_socket *sock, uint32_t taken);
void client_again_over(struct usher_socket *sock);

static inline void client_held_set(struct usher_context *ctx, struct client_set *s, uint32_t cell)
{
    uint32_t at = cell >> ctx->cell_shift;
    s->held[at / 64] |= UINT64_C(1) << (at % 64);
}

static inline void client_held_clear(struct usher_context *ctx, struct client_set *s, uint32_t cell)
{
    uint32_t at = cell >> ctx->cell_shift;
    s->held[at / 64] &= ~(UINT64_C(1) << (at % 64));
}

static inline uint64_t client_held_words(const struct usher_context *ctx)
{
    return ((ctx->h.rx_size >> ctx->cell_shift) + 63) / 64;
}

/* ---- shm.c ---- */
int client_shm_map(struct usher_context *ctx, int memfd);
void client_shm_unmap(struct usher_context *ctx);
/* Makes the set known; takes kick_fd on success. */
int client_set_add(struct usher_context *ctx, uint32_t index, int kick_fd);

/* ---- submit.c ---- */
/* A free slot, or NULL while usherd has consumed none. Fill it, then client_sq_commit(). */
struct ush_sqe *client_sq_slot(struct usher_context *ctx, struct client_set *s);
void client_sq_reap(struct usher_context *ctx, struct client_set *s);
void client_release_cell(struct usher_context *ctx, struct client_set *s, uint32_t cell, uint32_t len);
void client_release_flush(struct usher_context *ctx, struct client_set *s);
void client_release_flush_all(struct usher_context *ctx);
void client_kick(struct usher_context *ctx);
/* Sockets that were out of credit or of ring slots: which of them can go on now? Under the lock. */
uint32_t client_take_writable(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n);
bool client_any_writable(struct usher_context *ctx);
void client_block_socket(struct usher_socket *sock);
void client_unblock_socket(struct usher_socket *sock);
bool client_tx_available(struct usher_context *ctx);

static inline void client_sq_commit(struct client_set *s, struct ush_sqe *e, uint32_t buf)
{
    s->sq_buf[s->sq_pos & s->sq_mask] = buf;
    /* Pairs with the worker's acquire load of seq: it sees the whole line. */
    __atomic_store_n(&e->seq, s->sq_pos + 1, __ATOMIC_RELEASE);
    s->sq_pos++;
}

/* ---- complete.c ---- */
static inline bool client_cq_ready(const struct client_set *s)
{
    uint32_t pos = __atomic_load_n(&s->cq_pos, __ATOMIC_RELAXED);
    return __atomic_load_n(&s->cq[pos & s->cq_mask].seq, __ATOMIC_ACQUIRE) == pos + 1;
}
bool client_any_ready(const struct usher_context *ctx);
/* Events straight from the rings, no kernel socket looked at. */
uint32_t client_take_rings(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n);
/* The same, and now and then (or when `look`) what the kernel sockets have. */
uint32_t client_take_fresh(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n, bool look);
/* All kinds, parked ones first: what usher_poll() returns. */
uint32_t client_take(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n, bool look);
void client_cq_publish(struct client_set *s);
/* usherd has closed the handle: forgets it, and the completions that name it, before it is given anew. */
void client_handle_forget(struct usher_socket *sock);

/* Gives one received buffer back; a buffer given already is nothing. */
void client_release_msg(struct usher_context *ctx, struct usher_msg *m);

/* ---- bounce.c ---- */
/* The entry brings a datagram of `sock` back: sends it by the kernel. 0, or a positive errno for the program. */
int client_bounce_send(struct usher_socket *sock, const struct ush_cqe *e);
/* Sends and buffers that came back and that nobody has polled for: a program may only send. */
void client_bounce_scan(struct usher_context *ctx, struct client_set *s);
/* May sends of this socket still come back? Then what goes straight to the kernel would overtake them. */
bool client_bounce_pending(struct usher_socket *sock);
void client_take_tx_free(struct usher_context *ctx, const struct ush_cqe *e);
/* The entry names bytes of the RX region. */
bool client_cell_valid(const struct usher_context *ctx, const struct ush_cqe *e);

/* ---- park.c ---- */
void client_park(struct usher_context *ctx, const struct usher_event *ev);
bool client_unpark(struct usher_socket *sock, struct usher_event *ret_ev);
bool client_has_parked(struct usher_context *ctx);
uint32_t client_take_parked(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n);
bool client_park_has_bytes(const struct usher_socket *sock);
void client_park_purge(struct usher_socket *sock);
void client_park_fini(struct usher_context *ctx);

/* ---- rpc.c: all of it under rpc_lock ---- */
static inline void client_rpc_begin(struct usher_context *ctx)
{
    if (!client_is_single(ctx))
        client_lock_take(&ctx->rpc_lock);
    if (UNLIKELY(__atomic_load_n(&ctx->away, __ATOMIC_RELAXED)))
        client_comeback_wait(ctx);
}

static inline void client_rpc_end(struct usher_context *ctx)
{
    if (!client_is_single(ctx))
        client_lock_give(&ctx->rpc_lock);
}
struct client_answer {
    int32_t error;
    bool accelerated;
    uint32_t abi, handle, set, more_sets, rx_quota, tx_limit, index;
    uint32_t others, shut, unread, local_port; /* of a stream that is shared */
    uint64_t session_id;
    char text[256], reason[128], version[32];
    int fds[1 + USH_SET_MAX];
    uint32_t fd_count;
    uint32_t comeback_ms;
    uint8_t key[16];
};
int client_rpc_attach(struct usher_context *ctx, const struct usher_context_params *p, const char *label,
                      struct client_answer *ret_answer);
/* Attaches again, with the memory it has; `file` holds a struct ush_comeback. */
int client_rpc_return(struct usher_context *ctx, int file, struct client_answer *ret_answer);
/* Of a stream that is bound and does not listen: for a connection to its peer. */
int client_rpc_open(struct usher_context *ctx, const struct usher_socket *sock, struct client_answer *ret_answer);
int client_rpc_update(struct usher_context *ctx, const struct usher_socket *sock, struct client_answer *ret_answer);
int client_rpc_close(struct usher_context *ctx, uint32_t handle);
int client_rpc_option(struct usher_context *ctx, uint32_t handle, uint32_t option, int64_t value);
int client_rpc_refresh_owner(struct usher_context *ctx);
int client_rpc_group(struct usher_context *ctx, uint32_t handle, const struct client_group *g, bool leave);
struct client_share;
/* unread_fd -1 = none. ret_answer may bring two fds. */
int client_rpc_share(struct usher_context *ctx, const struct client_share *share, int fd, int unread_fd,
                     struct client_answer *ret_answer);

/* ---- socket.c ---- */
/* Binds an unbound socket to a port of the kernel's choice. Without the lock. */
int client_socket_autobind(struct usher_socket *sock);
/* The kernel socket's address changed: asks usherd to carry it. Without the lock. */
int client_socket_announce(struct usher_socket *sock);
/* Wraps a kernel socket of the program's, which stays the program's: whoever asks watches and closes it. Its stream is
 * never carried by the kernel from here; CLIENT_BY_KERNEL says that the kernel has to try. Without the lock. */
#define CLIENT_BY_KERNEL 4095 /* no errno */
int client_socket_adopt(struct usher_context *ctx, int fd, int family, int type, struct usher_socket **ret_sock);
/* The program's socket listens: asks usherd to carry it. Without the lock. */
int client_stream_listen(struct usher_socket *sock);
/* Under rpc_lock: a successor has never heard of it. */
void client_socket_reopen(struct usher_socket *sock);
/* Does usherd carry it now? Takes the lock. */
bool client_socket_is_carried(struct usher_socket *sock);
/* Completions that are in the ring already still reach it. Under the lock. */
void client_socket_to_kernel(struct usher_socket *sock, const char *why);

/* A socket of no context yet, for client_socket_link(); client_socket_drop() ends one that was not linked. NULL: it was
 * said why. */
struct usher_socket *client_socket_new(bool stream);
void client_socket_drop(struct usher_socket *sock);
/* Under the lock: enters or leaves the context's list; `free` also gives its memory back. */
void client_socket_link(struct usher_context *ctx, struct usher_socket *sock);
void client_socket_free(struct usher_socket *sock);
void client_socket_reason(struct usher_socket *sock, const char *reason);
/* Without the lock: asks usherd to carry a stream's listener, or (fresh kernel socket) where streams connect. */
int client_stream_announce(struct usher_socket *sock);
/* The same: asks usherd for the port that a stream is bound to. *ret_set is where to connect from it, or NULL. */
int client_stream_port(struct usher_socket *sock, struct client_set **ret_set);
/* Without the lock: gives back the ports of connections that are over. */
void client_ports_give(struct usher_context *ctx);

/* ---- stream.c: under the lock ---- */
void client_stream_free(struct usher_socket *sock);
/* An event of usherd's about a stream. True: *ret_ev is for the program. */
bool client_stream_event(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev);
/* A connection for a listener, by the set that serves it; false: not now, the submission ring is full. */
bool client_stream_accept(struct usher_socket *listener, struct client_set *s, const struct ush_cqe *e,
                          struct usher_event *ret_ev);
/* Buffers whose bytes are done come home. */
void client_stream_reap(struct usher_socket *sock);
bool client_stream_reap_all(struct usher_context *ctx);
int client_stream_send(struct usher_socket *sock, const struct usher_msg *m, uint32_t off, bool more);
/* The program is done with it. True: nothing is left, the caller frees it. */
bool client_stream_leave(struct usher_socket *sock);
/* Nobody names its handle any more. */
void client_stream_detach(struct usher_socket *sock);
/* A stream that usherd has begun, under its handle. NULL: not now. */
struct usher_socket *client_stream_begun(struct usher_context *ctx, struct client_set *s, bool v6, uint32_t handle,
                                         const struct ush_cqe *e);
void client_stream_peer(const struct usher_socket *sock, struct usher_msg *ret_msg);
void client_stream_closes(struct usher_context *ctx);
bool client_stream_op(struct usher_socket *sock, uint8_t op, uint8_t flags);
void client_stream_refuse(struct usher_context *ctx, struct client_set *s, uint32_t handle);
void client_stream_down(struct usher_socket *sock);
/* CONNECT as if for the first time. False: no room in the ring. */
bool client_stream_reconnect(struct usher_socket *sock);
bool client_stream_say_close(struct usher_socket *sock);
/* Nobody names the handle any more. */
void client_stream_detach(struct usher_socket *sock);
/* Waits, as SO_LINGER asks, until the peer has everything. */
void client_stream_linger(struct usher_socket *sock);
/* Without the lock. */
int client_stream_connect(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len);

/* ---- stream_option.c, stream_info.c: under the lock ---- */
int client_stream_setsockopt(struct usher_socket *sock, int level, int name, const void *value, socklen_t len);
int client_stream_getsockopt(struct usher_socket *sock, int level, int name, void *ret_value, socklen_t *len);
/* What the program has set: before CONNECT, in the same ring (false: it is full); what can only come after it; for a
 * listener's Open; for what a listener accepts; for a kernel socket. */
bool client_stream_options_ahead(struct usher_socket *sock);
void client_stream_options_late(struct usher_socket *sock);
uint32_t client_stream_options_list(const struct client_stream *st, struct ush_option *ret_options, uint32_t max);
void client_stream_options_inherit(struct client_stream *st, const struct client_stream *listener);
void client_stream_options_kernel(const struct usher_socket *sock);
bool client_stream_fastopen(const struct client_stream *st);
void client_stream_info_take(struct usher_context *ctx, struct client_set *s, const struct ush_cqe *e);
/* An option that usherd's engine has to be asked for. 1: it is none of these, or usherd does not carry the stream. */
int client_stream_ask(struct usher_socket *sock, int level, int name, void *ret_value, socklen_t *len);

/* ---- handover.c ---- */
typedef void client_bytes_fn(void *arg, uint8_t *to);
/* A stream that the program never saw goes back to usherd with the `len` received bytes that `bytes` writes. False: it
 * cannot, and is still the caller's. True: it is none of the caller's any more. */
bool client_stream_return(struct usher_socket *sock, client_bytes_fn *bytes, void *arg, uint32_t len);
/* Events that only the library's own layers see. */
#define CLIENT_EV_PARKED   ((enum usher_event_type)100)
#define CLIENT_EV_RECALLED ((enum usher_event_type)101)
#define CLIENT_EV_ADOPTED  ((enum usher_event_type)102)
/* Asks usherd to park a stream for others that have a copy of it; CLIENT_EV_PARKED answers. False: it cannot. */
bool client_stream_park(struct usher_socket *sock);
enum client_share_action { CLIENT_SHARE_PUT = 1, CLIENT_SHARE_HOLD, CLIENT_SHARE_TAKE, CLIENT_SHARE_DROP,
    CLIENT_SHARE_LEAVE, CLIENT_SHARE_LOOK };
struct client_share {
    enum client_share_action action;
    uint32_t handle, copies, unread;
    uint32_t unread_at; /* LEAVE: in the TX region */
    uint32_t pid;       /* LOOK */
    bool keep, shut;
};
struct client_taken {
    uint32_t unread, local_port;
    int unread_fd; /* the caller's; -1 = none */
    bool shut;
};
/* The parked stream is anybody's who has a copy of the kernel socket `fd`; on success `sock` is gone. */
int client_stream_put(struct usher_socket *sock, int fd, const struct client_share *share, int unread_fd);
/* As client_stream_put(), by a process that can pass no descriptors any more, for those that have a copy: the unread
 * bytes are at unread_at, where client_tx_keep() has put them. -EOPNOTSUPP: usherd is too old for it. */
int client_stream_bequeath(struct usher_socket *sock, const struct client_share *share);
/* `len` bytes (at least 1) into the TX region. False: there is no room. */
bool client_tx_keep(struct usher_context *ctx, client_bytes_fn *bytes, void *arg, uint32_t len, uint32_t *ret_at);
/* Into this context: CLIENT_EV_ADOPTED brings it. -EAGAIN: another process has it, and is asked; -ENOENT. */
int client_stream_take(struct usher_context *ctx, int fd, bool v6, struct client_taken *ret_taken);
/* This process has a copy, and makes so many. -ENOENT: it is not shared. */
int client_stream_hold(struct usher_context *ctx, int fd, uint32_t copies);
int client_stream_drop(struct usher_context *ctx, int fd, uint32_t *ret_others);
/* Has that process a copy? */
bool client_stream_is_held_by(struct usher_context *ctx, int fd, pid_t pid);
/* ACCEPT of no listener. */
bool client_stream_adopted(struct usher_context *ctx, struct client_set *s, const struct ush_cqe *e,
                           struct usher_event *ret_ev);
/* usherd gives this listener no more connections; those on their way can be polled for. usher_close() follows. */
void client_listener_retire(struct usher_socket *sock);

/* ---- kernel_stream.c: under the lock ---- */
int client_kstream_fd(struct usher_socket *sock);
int client_kstream_connect(struct usher_socket *sock);
int client_kstream_send(struct usher_socket *sock, const struct usher_msg *m, const void *data);
uint32_t client_kstream_ready(struct usher_socket *sock, uint32_t events, struct usher_event *ret_events, uint32_t n);
bool client_kstream_tail(struct usher_socket *sock);

/* ---- kernel.c ---- */
struct client_kbuf *client_kbuf_get(struct usher_context *ctx, uint64_t room);
int client_kernel_watch(struct usher_socket *sock);
void client_kernel_interest(struct usher_socket *sock);
/* One sendmsg(): 0 or -errno. */
int client_kernel_transmit(const struct usher_socket *sock, const struct usher_msg *msg, const void *data);
/* The same for a program that will hear USHER_EV_WRITABLE after -EAGAIN. */
int client_kernel_send(struct usher_socket *sock, const struct usher_msg *msg, const void *data);
/* One datagram into *ret_ev; client_kernel_recv() brings a buffer of the library's.
 * Length or -errno. */
ssize_t client_kernel_recv(struct usher_socket *sock, struct usher_event *ret_ev);
ssize_t client_kernel_recv_into(struct usher_socket *sock, struct iovec *iov, int iov_count,
                                struct usher_event *ret_ev);
void client_kbuf_give(struct usher_context *ctx, void *data);
void client_kbuf_fini(struct usher_context *ctx);
/* One look at everything that has an fd. Kernel datagrams go to ret_events. */
void client_drain_wake(struct usher_context *ctx);
uint32_t client_look(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n);

/* ---- peer.c ---- */
/* Peers of accelerated sockets that only the kernel reaches: sends go that way at once. port 0: all of its ports. */
void client_peer_by_kernel(struct usher_context *ctx, uint8_t family, const uint8_t addr[16], uint16_t port);
void client_peer_by_rings(struct usher_context *ctx, const uint8_t mapped[16], uint16_t port);
bool client_peer_is_by_kernel(struct usher_socket *sock, const struct usher_msg *msg);
bool client_msg_from_loopback(const struct usher_msg *msg);

/* ---- wait.c ---- */
struct client_wait {
    int64_t start_ns, deadline_ns; /* deadline < 0: for ever */
    struct usher_socket *sock; /* whose events are waited for; NULL = all */
    bool spun, slept, leads, look;
};
void client_wait_begin(struct client_wait *w, struct usher_socket *sock, int64_t timeout_ns);
/* Called with the lock held and nothing to take; returns with it held when another look may pay: 0, -EAGAIN when the
 * time is up, or -EINTR. */
int client_wait_block(struct usher_context *ctx, struct client_wait *w);
void client_wait_end(struct usher_context *ctx, struct client_wait *w, bool success);
void client_disarm(struct usher_context *ctx);
/* For a waiter of its own kind. announce: true = sleep now, on wake_fd and session_fd among others, and look again
 * after CLIENT_NAG_NS when client_sleep_nags(); false = there is something already. over: nobody sleeps any more. */
#define CLIENT_NAG_NS 1000000
bool client_sleep_announce(struct usher_context *ctx);
void client_sleep_over(struct usher_context *ctx);
bool client_sleep_nags(struct usher_context *ctx);
int64_t client_spin_budget(const struct usher_context *ctx);
void client_spin_learn(struct usher_context *ctx, int64_t waited_ns);
bool client_shares_core(struct usher_context *ctx);
void client_waiters_wake(struct usher_context *ctx);

/* ---- place.c ---- */
/* Where the library's own fd shall lie: the same fd, or a copy elsewhere. -1 stays -1. */
int client_place_fd(int fd);

/* ---- frames.c ---- */
int client_frames_check(const struct usher_socket *sock, const struct usher_msg *m);
/* Of a received frame: peer = its sender's MAC, peer_port = EtherType, tos = packet type, user_data = interface. */
void client_frames_from(const struct sockaddr_storage *from, socklen_t len, struct usher_msg *ret_msg);
void client_frames_to(const struct usher_msg *msg, struct sockaddr_storage *ret_addr, socklen_t *ret_len);

/* ---- addr.c ---- */
/* Family, peer, port and scope of a message, from and to a sockaddr. */
int client_addr_from(const struct sockaddr *addr, socklen_t len, struct usher_msg *ret_msg);
void client_addr_to(const struct usher_msg *msg, bool v6, struct sockaddr_storage *ret_addr, socklen_t *ret_len);
void client_addr_give(const struct sockaddr_storage *from, socklen_t from_len, struct sockaddr *ret_addr,
                      socklen_t *len);

/* v4-mapped form that the rings carry. */
static inline void client_addr_map(uint8_t family, const uint8_t addr[16], uint8_t ret_mapped[16])
{
    if (family == AF_INET) {
        memset(ret_mapped, 0, 10);
        ret_mapped[10] = ret_mapped[11] = 0xff;
        memcpy(ret_mapped + 12, addr, 4);
    } else {
        memcpy(ret_mapped, addr, 16);
    }
}

static inline void client_addr_unmap(bool v6, const uint8_t mapped[16], uint8_t ret_addr[16])
{
    memset(ret_addr, 0, 16);
    memcpy(ret_addr, v6 ? mapped : mapped + 12, v6 ? 16 : 4);
}

static inline bool client_addr_is_mapped(const uint8_t a[16])
{
    static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
    return memcmp(a, prefix, 12) == 0;
}

#endif
