/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory that usherd and one client share, byte by byte. usherd makes it (a sealed memfd) and sends it in the
 * answer to Attach; both sides map it whole. Nothing in here is a pointer. Each side keeps its own positions, masks and
 * ownership in private memory; what lies here is only what it tells the other.
 *
 * Rules for the daemon: the client may write anything anywhere at any time. Read a field once, copy, then validate the
 * copy. Rules for both: a position counts entries since the start and never wraps back (32 bits, modulo arithmetic).
 *
 * Rings. An entry is one cache line whose first word is its sequence: entry at position p is valid when seq == p + 1.
 * The producer fills the line and stores seq last (release); the consumer polls seq (acquire, pairs with it). So one
 * line crosses the cores per message. The consumer publishes its head in a line of its own, at most once a burst; the
 * producer reads that line only when the ring looks full.
 *
 * Handles. The low 24 bits index the socket table: sockets opened by RPC first (socket_max of them), then streams the
 * client connects (client_socket_max), then streams usherd accepts for it (accept_socket_max). The upper 8 bits of a
 * stream's handle are a generation that whoever chooses the handle changes with every use of the index, so that what
 * comes late is never taken for a new socket's. An index is free again after CQ_EVENT/CLOSED and OP_CLOSE, whatever the
 * order. What names a stream that is gone is ignored: the two cross on the way.
 *
 * Streams. A sent buffer is lent until the bytes of the stream up to its end are counted in tx_done (acknowledged), or
 * until CLOSED: there is no TX_FREE for it. Received bytes come in cells like datagrams, none is ever dropped; giving a
 * cell back opens the peer's window.
 *
 * Sleeping. Two flags, each written by the side that wants to sleep, each followed by a full fence and one more look
 * at the ring before it does (the other side: write the entry, full fence, read the flag):
 *   set->need_kick   the worker sleeps: the client writes 1 to the set's kick eventfd after submitting;
 *   set->wait_ticket the client sleeps while it is odd: the worker sends one byte on the wake socket, once per ticket.
 */
#ifndef USHER_PROTO_USHER_SHM_H
#define USHER_PROTO_USHER_SHM_H

#include <stdint.h>

#define USH_MAGIC 0x314d485352485355ull /* "USHRSHM1" */
#define USH_ABI_MIN 1u
#define USH_ABI_MAX 1u
#define USH_LINE 64
#define USH_PAGE 4096

#define USH_SET_MAX 16 /* ring sets of a session: one for each shard that serves it */
#define USH_SQ_MAX 16  /* submission rings of a set: one for each client thread that asks */
#define USH_NONE UINT32_MAX

/* At offset 0. Written by the daemon before the client sees it, never changed. The client copies and checks it. */
struct ush_header {
    uint64_t magic;
    uint32_t abi;         /* negotiated */
    uint32_t header_size; /* sizeof(struct ush_header) of the daemon */
    uint64_t total_size;
    uint64_t socket_off; /* struct ush_socket[socket_max] */
    uint64_t set_off;    /* USH_SET_MAX sets, set_stride bytes apart */
    uint64_t set_stride;
    uint64_t tx_off; /* TX region: the client allocates; the daemon only reads */
    uint64_t tx_size;
    uint64_t rx_off; /* RX region: the daemon allocates and writes; the client reads and gives back */
    uint64_t rx_size;
    uint32_t socket_max;
    uint32_t sq_entries; /* powers of two */
    uint32_t cq_entries;
    uint32_t tx_copy_max; /* a send of at most this many bytes is copied when its entry is consumed: its buffer is free
                             again once sq_head has passed. Larger ones are lent until CQ_TX_FREE names them */
    uint32_t rx_cell_min; /* every offset in the RX region is a multiple of this */
    uint32_t client_socket_max; /* streams whose handles the client chooses (CONNECT); see "Handles" */
    uint32_t accept_socket_max; /* streams whose handles usherd chooses (ACCEPT) */
    uint32_t features; /* enum ush_feature */
    uint32_t reserved[4];
};

/* What this usherd can beyond the first of its ABI. */
enum ush_feature {
    USH_FEATURE_RETURN = 1 << 0,
    USH_FEATURE_SHARE = 1 << 1, /* PARK, and ShareRequest */
    USH_FEATURE_LEAVE = 1 << 2, /* ShareRequest's LEAVE */
};

#define USH_HANDLE_INDEX(handle) ((handle) & 0xffffffu)
#define USH_HANDLE_GENERATION(handle) ((handle) >> 24)
#define USH_HANDLE(index, generation) ((uint32_t)(generation) << 24 | (index))

/* What the daemon says about a socket, by index. Written by the daemon, hints to the client only. */
struct ush_socket {
    uint32_t tx_done; /* bytes of this socket's sends that left usherd, modulo 2^32: credit = limit - (sent - done) */
    uint32_t rx_dropped; /* datagrams lost to the socket's own limits */
    uint32_t error;      /* last asynchronous errno, 0 = none; also sent as CQ_EVENT */
    uint32_t state;      /* enum ush_socket_state */
    uint32_t tx_limit;   /* streams: bytes that may be in flight now; follows the path. 0 = as was said at first */
    uint32_t recall;     /* streams that are shared: 1 = another process wants it, PARK it. Said with WRITABLE */
    uint32_t reserved[2];
};

enum ush_socket_state { USH_SOCKET_FREE = 0, USH_SOCKET_OPEN, USH_SOCKET_CLOSED };

/* Head of a ring set; page aligned. Behind it: the completion ring, then USH_SQ_MAX submission rings; ush_cq_off() and
 * ush_sq_off() say where. Submission ring 0 exists from the start, others after NewSubmissionRing. */
struct ush_set {
    /* line 0: written by the daemon */
    uint32_t need_kick;  /* 1 while the worker may sleep */
    int32_t worker_cpu;  /* core that serves this set now; -1 unknown. A client on that core yields, never spins */
    uint32_t spin_hint_us; /* how long waiting actively pays, as the worker sees it */
    uint32_t pad0[13];
    /* line 1: written by the client */
    uint32_t wait_ticket; /* odd while a thread of the client sleeps on this set */
    uint32_t yields; /* 1 while one waits on worker_cpu by yielding: the worker gives way as soon as it has news */
    uint32_t pad1[14];
    /* line 2: written by the client */
    uint32_t cq_head; /* completions consumed */
    uint32_t pad2[15];
    /* lines 3..: written by the daemon, one line for each submission ring */
    struct {
        uint32_t sq_head; /* submissions consumed */
        uint32_t pad[15];
    } sq[USH_SQ_MAX];
};

enum ush_op {
    USH_OP_NOP = 0,
    USH_OP_SEND = 1,    /* one datagram, or `gso_size` pieces of one buffer, or stream bytes */
    USH_OP_RELEASE = 2, /* gives RX cells back: to the set whose completion ring brought them */
    USH_OP_CONNECT = 3, /* opens a stream under a free handle of the client's choice; CONNECTED or ERROR answers */
    USH_OP_SHUTDOWN = 4, /* a stream's last byte was sent */
    USH_OP_CLOSE = 5,   /* the client is done with a stream; what was sent still arrives, unless aborted */
    USH_OP_OPTION = 6,  /* an option of a stream or a listener; a value that cannot be is ignored */
    USH_OP_INFO = 7,    /* CQ_INFO answers, if the completion ring has room; who waits in vain asks again */
    USH_OP_RETURN = 8,  /* an accepted stream that the program never saw: another listener of its port gets it, with the
                           len bytes at off that were received; else it is aborted. The client is done with it */
    USH_OP_RESUME = 9,  /* after coming back: a stream of before goes on under its handle. RESUMED or ERROR answers */
    USH_OP_PARK = 10,   /* a stream that another process shall have: PARKED answers once all that came has been told and
                           all that was sent is acknowledged. Then ShareRequest; the handle is gone with its answer */
};

#define USH_RETURN_MAX 65536u /* bytes that may go back with a stream */

enum ush_connect_flag {
    USH_CONNECT_NODELAY = 1 << 0,
    USH_CONNECT_FASTOPEN = 1 << 1, /* the SYN may wait for the first bytes and carry them */
    USH_CONNECT_BOUND = 1 << 2,    /* from the address and port of socket `bound`, opened by RPC with a remote address.
                                      That socket must stay open until the stream is CLOSED */
};

enum ush_option_flag {
    USH_OPTION_AHEAD = 1 << 0, /* for the CONNECT of this handle that follows in the same ring: in force from the first
                                  segment on. A set prepares one CONNECT at a time: an entry that names another handle
                                  begins anew */
};

enum ush_close_flag {
    USH_CLOSE_ABORT = 1 << 0,  /* reset the connection; what is queued is lost */
    USH_CLOSE_UNREAD = 1 << 1, /* received bytes were never read: the peer is told by a reset */
};

enum ush_stream_option {
    USH_STREAM_NODELAY = 1,
    USH_STREAM_CORK,
    USH_STREAM_QUICKACK,
    USH_STREAM_KEEPALIVE,
    USH_STREAM_KEEP_IDLE,     /* seconds */
    USH_STREAM_KEEP_INTERVAL, /* seconds */
    USH_STREAM_KEEP_COUNT,
    USH_STREAM_USER_TIMEOUT,  /* milliseconds */
    USH_STREAM_CONGESTION,    /* name[] */
    USH_STREAM_RCVBUF,
    USH_STREAM_SNDBUF,
    USH_STREAM_TOS,
    USH_STREAM_TTL,
    USH_STREAM_NOTSENT_LOWAT,
    USH_STREAM_MAX_PACING,    /* bytes per second */
    USH_STREAM_LINGER2,       /* milliseconds */
    USH_STREAM_MAXSEG,        /* of listeners, and ahead of CONNECT */
    USH_STREAM_SYN_RETRIES,
    USH_STREAM_DEFER_ACCEPT,  /* listeners: seconds */
    USH_STREAM_FASTOPEN,      /* listeners: how many may be open before the handshake is through, 0 = off */
    USH_STREAM_OPTION_COUNT,
};

/* An option of a listener, as OpenRequest.stream_options has them. Its connections are born with what it has. */
struct ush_option {
    uint32_t option; /* enum ush_stream_option */
    uint8_t name[12];
    int64_t value;
};

enum ush_send_flag {
    USH_SEND_TO = 1 << 0,   /* addr/port are set; else the socket's peer */
    USH_SEND_FROM = 1 << 1, /* from[] is set: source address of this datagram */
    USH_SEND_MORE = 1 << 2, /* more follows at once */
    USH_SEND_URGENT = 1 << 3, /* streams: the last byte is urgent */
};

struct ush_sqe {
    uint32_t seq;
    uint8_t op;    /* enum ush_op */
    uint8_t flags; /* enum ush_send_flag */
    uint8_t count; /* RELEASE: cells in use */
    uint8_t tos;
    union {
        struct {
            uint32_t handle;
            uint32_t off; /* in the TX region */
            uint32_t len;
            uint16_t port; /* host order */
            uint16_t gso_size;
            uint8_t addr[16]; /* v4-mapped for IPv4 */
            uint8_t from[16];
            uint64_t user_data;
        } send;
        struct {
            uint32_t cell[14]; /* offsets in the RX region */
        } release;
        struct {
            uint32_t handle;
            uint16_t port; /* host order */
            uint16_t reserved;
            uint8_t addr[16]; /* v4-mapped for IPv4 */
            uint32_t bound;   /* with CONNECT_BOUND */
        } connect;
        struct {
            uint32_t handle;
            uint32_t option; /* OPTION: enum ush_stream_option */
            int64_t value;
            uint8_t name[12];
        } stream; /* SHUTDOWN, CLOSE, OPTION, INFO */
        struct {
            uint32_t handle;
            uint32_t rx_bytes; /* of the stream that have come out of the completion ring, modulo 2^32 */
            uint16_t local_port, remote_port; /* host order */
            uint8_t local[16], remote[16];    /* v4-mapped for IPv4 */
        } resume;
    };
};

enum ush_cq_type {
    USH_CQ_RECV = 1,    /* a datagram, or stream bytes, in an RX cell: the client's until released */
    USH_CQ_TX_FREE = 2, /* buffers that were lent are the client's again */
    USH_CQ_EVENT = 3,   /* something happened to a socket */
    USH_CQ_INFO = 4,    /* a struct ush_stream_info in an RX cell: the client's until released */
};

enum ush_recv_flag {
    USH_RECV_TRUNC = 1 << 0,
    USH_RECV_CE = 1 << 1, /* congestion experienced */
    /* Not received: a datagram of the socket's own that usherd cannot carry, because only the kernel reaches `peer` (a
     * foreign interface, or a local port where none of Usher's sockets listens). Cell, len, gso_size and tos are those
     * of the send; `local` is its source address or all zero. The client sends it by its kernel socket and releases the
     * cell. Bounces of a socket come in the order of its sends, each before tx_done counts it; one that finds no room
     * is an USH_EVENT_ERROR with ENOBUFS. */
    USH_RECV_BOUNCED = 1 << 2,
};

enum ush_event {
    USH_EVENT_ERROR = 1, /* value = errno; extra = 1: CONNECT found no way through usherd, the kernel may have one */
    USH_EVENT_WRITABLE,  /* tx_done has moved and the socket was out of credit */
    USH_EVENT_CONNECTED, /* addr, port = the local end; extra = tx_limit to begin with */
    USH_EVENT_ACCEPT,    /* handle = listener's; value = the new stream's; addr, port = its peer; extra = tx_limit.
                            handle = USH_NONE: ShareRequest has brought it */
    USH_EVENT_HANGUP,    /* the peer will send no more; all it sent has come before */
    USH_EVENT_CLOSED,    /* nothing of the stream is left: its buffers are the client's again. Of a datagram socket or a
                            listener: usherd carries it no longer, the kernel socket has its port. What has come before
                            is still in the ring, and the handle stays taken until Close */
    USH_EVENT_URGENT,    /* extra = bytes of the stream up to and with its urgent one, modulo 2^32. They may have come
                            already, or are still to come. Of several that found no room the last one is told */
    USH_EVENT_RESUMED,   /* value = bytes sent that usherd has, modulo 2^32: the client sends again what came after */
    USH_EVENT_PARKED,
};

/* What a stream tells about itself. */
struct ush_stream_info {
    uint64_t rx_bytes, tx_bytes; /* that went up to the client; that the peer has acknowledged */
    uint64_t pacing_rate;        /* bytes per second, 0 = not paced */
    uint8_t local[16], remote[16];
    uint16_t local_port, remote_port;
    uint8_t state; /* as the kernel counts them: 1 = ESTABLISHED ... 11 = CLOSING */
    uint8_t ca_state; /* 0 open, 1 disorder, 2 cwr, 3 recovery, 4 loss */
    uint8_t backoff;
    uint8_t snd_wscale, rcv_wscale;
    uint8_t timestamps, sack, ecn;
    uint32_t rtt_us, rtt_var_us, min_rtt_us, rto_us;
    uint32_t cwnd, ssthresh;     /* bytes */
    uint32_t snd_wnd, rcv_wnd;
    uint32_t mss, pmtu;
    uint32_t unacked, unsent;    /* bytes */
    uint32_t sacked, lost;       /* bytes */
    uint32_t retransmits;        /* segments, ever */
    uint32_t rcv_limit, rcv_held, rcv_ooo; /* bytes: that may be unread, that are, that came out of order */
    uint8_t congestion[12];
};

struct ush_cqe {
    uint32_t seq;
    uint8_t type;  /* enum ush_cq_type */
    uint8_t flags; /* RECV: enum ush_recv_flag; EVENT: enum ush_event */
    uint8_t count; /* TX_FREE: offsets in use */
    uint8_t tos;
    union {
        struct {
            uint32_t handle;
            uint32_t cell; /* offset in the RX region: what RELEASE names */
            uint32_t len;
            uint16_t peer_port; /* host order */
            uint16_t gso_size;  /* 0, or the datagrams' size when several were coalesced */
            uint8_t peer[16];
            uint8_t local[16];
            uint64_t rx_ns; /* CLOCK_MONOTONIC when the port took it */
        } recv;
        struct {
            uint32_t off[14];
        } tx_free;
        struct {
            uint32_t handle;
            uint32_t value;
            uint32_t extra;
            uint16_t port;
            uint16_t pad;
            uint8_t addr[16];
            uint8_t local[16]; /* ACCEPT: the stream's own address */
        } event;
        struct {
            uint32_t handle;
            uint32_t cell; /* USH_NONE: none, and `error` says why */
            uint32_t len;
            uint32_t error; /* ENOTCONN: no such stream (any more); ENOBUFS: no cell */
        } info;
    };
};

/* A client comes back to an usherd that has taken the place of the one it attached to, with the memory it has. It says
 * in a file of its own (a memfd, beside Attach) where its rings stand and which cells it still holds. What it had
 * submitted and not seen consumed is void; it has taken all completions. Behind this struct, for each of the
 * `set_count` sets: a bit for each multiple of rx_cell_min in the RX region, 1 = a cell that begins there is the
 * client's; in words of 64, the least bit first. */
#define USH_COMEBACK_MAGIC 0x3142434852485355ull /* "USHRHCB1" */
struct ush_comeback {
    uint64_t magic;
    uint32_t set_count, pad;
    struct {
        uint32_t set;    /* its number */
        uint32_t sq_pos; /* submission ring 0 goes on here; the others are to be made anew */
        uint32_t cq_pos;
        uint32_t pad;
    } set[USH_SET_MAX];
};

_Static_assert(sizeof(struct ush_sqe) == USH_LINE, "one line per submission");
_Static_assert(sizeof(struct ush_cqe) == USH_LINE, "one line per completion");
_Static_assert(sizeof(struct ush_socket) == 32, "two sockets a line");
_Static_assert(sizeof(struct ush_stream_info) == 152, "no padding that differs");
_Static_assert(sizeof(struct ush_option) == 24, "");
_Static_assert(sizeof(struct ush_set) % USH_LINE == 0, "rings start on a line");

/* Offsets inside a set, from its start. */
static inline uint64_t ush_cq_off(void)
{
    return sizeof(struct ush_set);
}

static inline uint64_t ush_sq_off(uint32_t cq_entries, uint32_t sq_entries, uint32_t index)
{
    return ush_cq_off() + ((uint64_t)cq_entries + (uint64_t)sq_entries * index) * USH_LINE;
}

/* What set_stride must be at least; the daemon rounds it up to pages. */
static inline uint64_t ush_set_bytes(uint32_t cq_entries, uint32_t sq_entries)
{
    return ush_sq_off(cq_entries, sq_entries, USH_SQ_MAX);
}

#endif
