/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/tcp: the state, its records, and what every file of the room needs.
 *
 * Truth: connections (hot record and cold twin), send-queue items, half-open and time-wait records, listeners. Derived:
 * the four indexes, both wheels, the scoreboard (struct tcp_seg) and the packets kept out of order. After a crash the
 * scoreboard is one range "in flight, time unknown" and the kept packets are gone, as if the peer had not sent them.
 *
 * Changes. An event on a connection runs between tcp_begin() and tcp_end(): begin copies the hot record (4 lines, about
 * 10 cycles warm) to the undo slot, end closes it and only then gives back what the event let go of. Cold fields are
 * such that any mixture of old and new is valid.
 */
#ifndef USHER_ENGINES_TCP_TCP_H
#define USHER_ENGINES_TCP_TCP_H

#include "engines/hash.h"
#include "engines/tcp/tcp_cmd.h"
#include "engines/tcp/tcp_time.h"
#include "engines/wheel.h"
#include "engines/wire.h"

#define TCP_LAYOUT (2u + ARENA_LAYOUT_STEP)
#define TCP_NIL ARENA_NIL

enum tcp_table { TCP_TABLE_CONN, TCP_TABLE_ITEM, TCP_TABLE_SEG, TCP_TABLE_HALF, TCP_TABLE_WAIT, TCP_TABLE_LISTENER };

enum tcp_conn_flag {
    TCP_F_TS = 1 << 0,
    TCP_F_SACK = 1 << 1,
    TCP_F_WSCALE = 1 << 2,
    TCP_F_ECN = 1 << 3,
    TCP_F_ECE = 1 << 4,         /* we echo congestion until the peer says CWR */
    TCP_F_CWR = 1 << 5,         /* the next new segment says that we have reduced */
    TCP_F_NODELAY = 1 << 6,
    TCP_F_CORK = 1 << 7,
    TCP_F_MORE = 1 << 8,        /* the last send said that more follows */
    TCP_F_FIN_QUEUED = 1 << 9,  /* the program will send no more */
    TCP_F_FIN_SENT = 1 << 10,
    TCP_F_FIN_RCVD = 1 << 11,
    TCP_F_ORPHAN = 1 << 12,     /* the program has closed it */
    TCP_F_ADOPTED = 1 << 13,    /* it has a sink of its own */
    TCP_F_KEEPALIVE = 1 << 14,
    TCP_F_ACK_NOW = 1 << 15,
    TCP_F_ACK_LATER = 1 << 16,
    TCP_F_TOUCHED = 1 << 17,    /* derived: in the list of this burst */
    TCP_F_ARMED = 1 << 18,      /* derived: on the wheel at wake_at */
    TCP_F_CWND_LIMITED = 1 << 19,
    TCP_F_QUICKACK = 1 << 20,
    TCP_F_PACED = 1 << 21,
    TCP_F_TFO = 1 << 22,        /* fast open: the SYN waits for data, or carried some */
    TCP_F_PASSIVE = 1 << 23,
    TCP_F_SACK_REORDER = 1 << 24, /* RACK: reordering was seen on this path */
    TCP_F_TLP = 1 << 25,        /* a loss probe is out (RFC 8985 section 7) */
    TCP_F_LOWAT = 1 << 26,      /* NOTICE_WRITABLE is owed once unsent falls below the mark */
    TCP_F_STALLED = 1 << 27,    /* output stopped for want of a buffer or of room; it is run again */
    TCP_F_LOCAL = 1 << 28,      /* ends on this host */
    TCP_F_APP_SINK = 1 << 29,   /* sink is an engine: no credit comes */
    TCP_F_HUNG_UP = 1 << 30,    /* NOTICE_HANGUP was given */
};
/* A segment smaller than a full one is out: Nagle's rule in Minshall's form holds the next small one back. */
#define TCP_F_SMALL_OUT (1u << 31)

enum tcp_rtx { TCP_RTX_NONE, TCP_RTX_RTO, TCP_RTX_TLP, TCP_RTX_REO, TCP_RTX_PERSIST };
enum tcp_undo {
    TCP_UNDO_ARMED = 1,  /* something was repeated since undo_stamp: without it there is nothing to undo */
    TCP_UNDO_UNDONE = 2, /* the last episode was needless; its repetitions may still be on their way */
    /* F-RTO (RFC 5682): the timeout's one repetition is out and its ACK will tell; then what comes next is new data,
     * and an ACK that goes further is for something that was never repeated. */
    TCP_UNDO_FRTO_WAIT = 4,
    TCP_UNDO_FRTO_NEW = 8,
    TCP_UNDO_FRTO = TCP_UNDO_FRTO_WAIT | TCP_UNDO_FRTO_NEW,
};
enum tcp_ca { TCP_CA_OPEN, TCP_CA_DISORDER, TCP_CA_CWR, TCP_CA_RECOVERY, TCP_CA_LOSS };

/* The hot record: two lines for each direction, and as much as the undo slot holds. */
struct tcp_conn {
    /* line 0: whose segment is it */
    struct arena_record r;
    struct flow flow;
    struct hash_link link;
    uint64_t sink;

    /* line 1: receiving */
    uint32_t rcv_nxt;
    uint32_t rcv_adv;   /* right edge of the window we have told; never moves back */
    uint32_t rcv_acked; /* last acknowledgement sent */
    uint32_t rcv_limit; /* bytes the reader may hold */
    uint32_t rcv_held;  /* bytes that went up and were not credited yet */
    uint32_t ts_recent;
    uint32_t ts_recent_at; /* coarse */
    uint32_t ooo_head, ooo_tail; /* derived: packets kept out of order, as tcp_kept references */
    uint32_t ooo_bytes;
    uint32_t delack_at; /* tick, while TCP_F_ACK_LATER */
    uint32_t heard_at;  /* coarse: when the peer last sent anything */
    uint32_t flags;     /* enum tcp_conn_flag */
    uint32_t wake_at;   /* tick at which the wheel wakes this connection */
    uint16_t rcv_mss;   /* largest segment seen lately: what a full one is (delayed ACK) */
    uint8_t state;      /* enum tcp_state; only tcp_fsm() writes it */
    uint8_t scales;     /* snd_wscale | rcv_wscale << 4 */
    uint32_t irs;

    /* lines 2 and 3: sending */
    uint32_t snd_una, snd_nxt;
    uint32_t snd_end; /* behind the last byte queued; a FIN takes the number after it */
    uint32_t snd_wnd, snd_wl1;
    uint32_t snd_wnd_max;
    uint32_t q_head, q_head_off; /* send queue: item of the first unacknowledged byte, bytes of it already gone */
    uint32_t q_tail;
    uint32_t q_next, q_next_off; /* item of the first unsent byte */
    uint32_t seg_head, seg_tail; /* scoreboard, in sequence order: covers snd_una..snd_nxt without gaps */
    uint32_t seg_count;
    uint32_t sacked, lost, retrans; /* bytes: flight = snd_nxt - snd_una - sacked - lost + retrans */
    uint32_t cwnd, ssthresh;
    uint32_t srtt, rttvar; /* ticks, times 8 and times 4 */
    uint32_t rto;          /* ticks, without backoff */
    uint32_t rtx_at;       /* tick, while rtx != NONE */
    uint32_t pace_at;      /* tick of the next permitted send, while TCP_F_PACED */
    uint32_t recover;      /* recovery, or with TCP_F_TLP the probe's episode, ends when this is acknowledged */
    uint32_t tx_done;      /* bytes whose NOTICE_TX_DONE is owed */
    uint32_t sent_at;      /* tick of the last data segment */
    uint16_t mss;          /* payload bytes of a full segment, options of every segment taken off */
    uint8_t rtx;           /* enum tcp_rtx */
    uint8_t backoff;
    uint8_t ca;            /* enum tcp_ca */
    uint8_t dupacks;
    uint8_t cc;            /* index of the congestion control */
    uint8_t probes;        /* keep-alive or window probes without an answer */
    uint32_t slow_at;      /* coarse: keep-alive, FIN-WAIT-2, user timeout; 0 = none */
    uint32_t iss;
    uint32_t snd_up;       /* behind the last urgent byte; not after snd_una: none is on its way */
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct tcp_conn) == 256, "two lines a direction, and the undo slot");
STATIC_ASSERT(offsetof(struct tcp_conn, rcv_nxt) == 64 && offsetof(struct tcp_conn, snd_una) == 128, "lines");

#define TCP_CC_WORDS  10
#define TCP_SACK_KEPT 3

struct tcp_range {
    uint32_t start, end;
};

/* The cold twin, same index. Not under the undo slot. Its first half is what every segment looks at: of many
 * connections a segment finds neither in the caches nor its pages in the TLB, so what it needs lies together. */
struct tcp_cold {
    struct wheel_node node;
    uint32_t delivered;    /* bytes the peer is known to have, modulo 2^32 */
    uint32_t delivered_at; /* tick */
    uint32_t first_sent;   /* tick at which the segments of the current rate sample began to be sent */
    uint32_t app_limited;  /* `delivered` until which samples are limited by the program, 0 = not */
    uint32_t rack_sent, rack_end, rack_rtt; /* RFC 8985: most recently sent segment known delivered */
    uint32_t fack;         /* highest sequence known delivered */
    uint32_t min_rtt, min_rtt_at; /* ticks; coarse */
    uint32_t drs_seq, drs_at, drs_space;
    uint32_t ts_off;
    uint32_t owner;
    uint32_t stuck_at;     /* coarse: since when the oldest byte waits; 0 = it does not */
    uint32_t notsent_lowat;
    uint16_t rx_high, tx_high; /* high parts of the 48-bit byte counts; see TCP_COUNTS_ANEW */
    uint16_t black_hole_at; /* coarse >> 10: when a larger MTU may be tried; 0 = the route's is believed */
    uint16_t port;         /* slot of the route */
    uint16_t mtu;
    uint8_t tos, ttl;
    uint8_t quickacks;
    uint8_t undo_armed;    /* enum tcp_undo */
    uint8_t error;         /* soft errno, reported when the connection gives up */
    uint8_t keep_count;

    uint32_t prr_delivered, prr_out, prr_flight;
    uint32_t undo_cwnd, undo_ssthresh;
    uint32_t undo_stamp;   /* timestamp clock at the first retransmission */
    uint32_t undo_left;    /* bytes repeated and not yet reported as duplicates */
    uint32_t reo_end;      /* what was sent when RACK's window was last raised: once a round trip */
    struct tcp_range sack[TCP_SACK_KEPT]; /* ranges kept, most recent first; start == end: unused */
    struct tcp_range dsack;               /* duplicate to report with the next ACK (RFC 2883) */
    uint32_t user_timeout; /* coarse units */
    uint32_t max_pacing;   /* bytes per 2^20 ns, as pacing_rate */
    uint32_t pacing_rate;
    uint32_t listener;     /* index while not adopted, else TCP_NIL */
    uint32_t rcv_up;       /* behind the last urgent byte the reader was told of */
    uint16_t retransmits;  /* stops at its maximum */
    uint16_t keep_idle, keep_interval;
    uint16_t user_mss, peer_mss;
    uint16_t linger2;      /* seconds */
    uint8_t retries;
    uint8_t reo_mult, reo_persist;
    uint8_t syn_retries;
    uint32_t cc[TCP_CC_WORDS];
};
#define TCP_COLD_WARM offsetof(struct tcp_cold, prr_delivered) /* the half that every segment looks at */
STATIC_ASSERT(TCP_COLD_WARM <= 2 * CACHE_LINE, "two lines of it");
STATIC_ASSERT(sizeof(struct tcp_conn) + sizeof(struct tcp_cold) + 8 <= 512, "an idle connection and its index share");

enum tcp_seg_flag {
    TCP_SEG_SACKED = 1 << 0,
    TCP_SEG_LOST = 1 << 1,
    TCP_SEG_RETRANS = 1 << 2, /* the last transmission was a repetition and is in flight */
    TCP_SEG_EVER = 1 << 3,    /* repeated at least once: no round trip may be taken from it (RFC 6298, Karn) */
    TCP_SEG_SYN = 1 << 4,
    TCP_SEG_FIN = 1 << 5,     /* its last number is the FIN */
    TCP_SEG_APP_LIMITED = 1 << 6,
    TCP_SEG_PROBE = 1 << 7,   /* one segment, larger than the path's proven MTU (tcp_mtu.h) */
};

/* A range that was sent by one call of output: up to 64 KiB, one time stamp. Split by SACK and by repetition. */
struct tcp_seg {
    struct arena_record r;
    uint32_t seq, end;
    uint32_t next;
    uint32_t sent;       /* tick of the last transmission */
    uint32_t item, item_off; /* where its first byte lies */
    uint32_t delivered, delivered_at, first_sent; /* of the connection when it was sent: rate samples */
    uint8_t flags;       /* enum tcp_seg_flag */
    uint8_t pad[3];
};
STATIC_ASSERT(sizeof(struct tcp_seg) == 48, "");

/* A piece of a send queue: bytes of the session's TX region, or a packet of an engine sink. */
struct tcp_item {
    struct arena_record r;
    uint32_t off; /* in the region */
    uint32_t len;
    uint32_t next;
    uint32_t kept; /* tcp_kept reference of the packet, TCP_NIL = region */
};
STATIC_ASSERT(sizeof(struct tcp_item) == 24, "");

/* A connection that exists only as an answered SYN. */
struct tcp_half {
    struct arena_record r;
    struct flow flow;
    struct hash_link link;
    struct wheel_node node;
    uint32_t iss, irs;
    uint32_t ts_recent, ts_off;
    uint32_t listener;
    uint32_t sent_at; /* tick of the first SYN-ACK */
    uint32_t flags;   /* TS, SACK, WSCALE, ECN of enum tcp_conn_flag */
    uint16_t mss;
    uint16_t port;
    uint8_t snd_wscale;
    uint8_t retries;
    uint8_t acked;    /* the third segment came but the accept queue was full, or data is awaited */
    uint8_t tos;
    uint32_t user_timeout; /* the peer's, seconds (RFC 5482); 0 = none */
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct tcp_half) == 128, "a flood costs two lines a SYN");

struct tcp_wait {
    struct arena_record r;
    struct flow flow;
    struct hash_link link;
    uint32_t snd_nxt, rcv_nxt, rcv_wnd;
    uint32_t ts_recent, ts_recent_at, ts_off;
    uint32_t until;      /* coarse */
    uint32_t prev, next; /* derived: in order of `until` */
    uint32_t acked_at;   /* coarse: last ACK sent, so that two of them cannot talk for ever */
    uint8_t has_ts;
    uint8_t rcv_wscale;
    uint8_t tos;
    uint8_t same_host;   /* both ends were on this host: nothing of it is on any wire */
    uint32_t born_at;    /* coarse */
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct tcp_wait) == 128, "");

enum tcp_listener_flag { TCP_L_V6ONLY = 1 << 0, TCP_L_REUSEPORT = 1 << 1, TCP_L_SPREAD_LOAD = 1 << 2 };

struct tcp_listener {
    struct arena_record r;
    struct flow flow;
    struct hash_link link;
    uint64_t sink;
    uint32_t owner, ifindex;
    uint32_t backlog;
    uint32_t half;    /* derived: half-open connections */
    uint32_t pending; /* derived: connections that wait for ADOPT */
    uint32_t open;    /* derived: connections that came from it and live */
    uint32_t fastopen, fastopen_used;
    uint32_t defer_accept; /* coarse units */
    uint32_t flags;
    struct tcp_options opt;
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct tcp_listener) <= ARENA_UNDO_MAX, "");

/* What we remember of servers for fast open (RFC 7413 section 4.1.3). Derived: losing it costs a round trip. */
struct tcp_fastopen_line {
    struct ipaddr peer;
    uint16_t mss;
    uint8_t len;
    uint8_t failed; /* a SYN with data got lost: do not try for a while */
    uint8_t cookie[16];
    uint32_t failed_at; /* coarse */
    uint8_t pad[24];
} CACHE_ALIGNED;
#define TCP_FASTOPEN_LINES 256u

struct tcp_key {
    uint64_t k[2];
};

struct tcp_engine {
    struct arena_header a;
    struct tcp_config cfg;
    struct hash_key key;
    struct tcp_key isn_key, cookie_key, fastopen_key, port_key;
    struct hash_index conn_ix, half_ix, wait_ix, listener_ix;
    uint32_t cold_lines, wheel_lines, half_wheel_lines, fastopen_lines;
    ns_t now; /* of the last call: what recovery and save go by */
    uint32_t wait_head, wait_tail; /* derived */
    uint32_t ooo_packets;          /* derived */
    uint32_t rx_held;              /* derived: sum of rcv_held */
    uint32_t grave;                /* derived: kept packets to be given back */
    uint32_t challenge_at, challenge_left; /* RFC 5961 section 7: coarse second and what is left of it */
    uint32_t cookies_at;  /* coarse: when the last SYN cookie was sent; 0 = none */
    uint32_t port_step;   /* RFC 6056 algorithm 4: counter */
    uint16_t port_low, port_high;
    uint8_t cc_default;
    uint8_t rcv_wscale;
    bool quiet; /* derived: owners may be on their way back, so no stray segment is answered */
    uint8_t pad;
    ns_t turn;           /* derived: the turn in which ... */
    uint32_t turn_bytes; /* ... so many bytes were sent to this host itself */
    uint32_t thawed_at;  /* derived: coarse, when somebody came back to a connection last; 0 = long ago */
};

/* What one call works with. */
struct tcp_ctx {
    struct tcp_engine *st;
    struct engine_io *io;
    uint32_t tick, coarse;
    uint32_t free_item, free_item_end; /* items to give back after the change: from .. before */
    uint32_t open;                     /* connection between begin and end, TCP_NIL = none */
    bool dead;                         /* it ends with this change */
    bool force;                        /* output may send less than it would like to (persist timer) */
    const struct tcp_rx *refused;      /* the segment because of which a connection is aborted, NULL = none */
    bool later;                        /* output stopped for the others' sake: it goes on in the next turn */
    uint32_t touched_count;
    uint32_t touched[PKT_BURST * 2];
};

/* A segment on its way in. */
struct tcp_rx {
    struct pkt *p;
    uint32_t seq, ack;
    uint32_t len;  /* payload bytes */
    uint32_t hash;
    uint32_t conn; /* TCP_NIL = not a connection */
    uint16_t wnd;
    uint8_t flags; /* enum tcp_wire_flag */
    uint8_t header;
    bool last; /* of its connection in the burst */
};

enum tcp_wire_flag {
    TCP_FIN = 1 << 0,
    TCP_SYN = 1 << 1,
    TCP_RST = 1 << 2,
    TCP_PSH = 1 << 3,
    TCP_ACK = 1 << 4,
    TCP_URG = 1 << 5,
    TCP_ECE = 1 << 6,
    TCP_CWR = 1 << 7,
};

enum tcp_counter {
#define TCP_COUNTER(name, text, help) TCP_COUNT_##name,
#include "engines/tcp/tcp_counters.def"
#undef TCP_COUNTER
    TCP_COUNT_COUNT
};

static inline uint32_t tcp_index(const struct tcp_engine *st, const struct tcp_conn *c) {
    const uint8_t *base = (const uint8_t *)st + (size_t)st->a.table[TCP_TABLE_CONN].offset_lines * CACHE_LINE;
    return (uint32_t)((size_t)((const uint8_t *)c - base) / sizeof *c);
}

static inline struct tcp_conn *tcp_at(struct tcp_engine *st, uint32_t index) {
    return (struct tcp_conn *)arena_record(st, &st->a.table[TCP_TABLE_CONN], index);
}

static inline struct tcp_cold *tcp_cold_at(struct tcp_engine *st, uint32_t index) {
    return (struct tcp_cold *)arena_at(st, st->cold_lines) + index;
}

static inline struct tcp_cold *tcp_cold(struct tcp_engine *st, const struct tcp_conn *c) {
    return tcp_cold_at(st, tcp_index(st, c));
}

/* A burst's connections are asked for before the first one is worked on, so that their misses overlap. */
static inline void tcp_prefetch(struct tcp_engine *st, uint32_t index) {
    const uint8_t *hot = (const uint8_t *)tcp_at(st, index), *cold = (const uint8_t *)tcp_cold_at(st, index);
    for (uint32_t line = 0; line < sizeof(struct tcp_conn); line += CACHE_LINE)
        __builtin_prefetch(hot + line, 1);
    for (uint32_t line = 0; line <= TCP_COLD_WARM; line += CACHE_LINE)
        __builtin_prefetch(cold + line, 1);
}

static inline struct tcp_seg *tcp_seg_at(struct tcp_engine *st, uint32_t index) {
    return (struct tcp_seg *)arena_record(st, &st->a.table[TCP_TABLE_SEG], index);
}

static inline struct tcp_item *tcp_item_at(struct tcp_engine *st, uint32_t index) {
    return (struct tcp_item *)arena_record(st, &st->a.table[TCP_TABLE_ITEM], index);
}

static inline struct tcp_listener *tcp_listener_at(struct tcp_engine *st, uint32_t index) {
    return (struct tcp_listener *)arena_lookup(st, &st->a.table[TCP_TABLE_LISTENER], index);
}

static inline struct wheel *tcp_wheel(const struct tcp_engine *st) {
    return (struct wheel *)arena_at((void *)(uintptr_t)st, st->wheel_lines);
}

static inline struct wheel *tcp_half_wheel(const struct tcp_engine *st) {
    return (struct wheel *)arena_at((void *)(uintptr_t)st, st->half_wheel_lines);
}

/* Bytes believed to be in the network. */
static inline uint32_t tcp_flight(const struct tcp_conn *c) {
    return c->snd_nxt - c->snd_una - c->sacked - c->lost + c->retrans;
}

static inline uint32_t tcp_snd_scale(const struct tcp_conn *c) { return c->scales & 15u; }
static inline uint32_t tcp_rcv_scale(const struct tcp_conn *c) { return c->scales >> 4; }

/* In tx_high: the counts began anew when the connection changed hands, so iss is not where our bytes began. */
#define TCP_COUNTS_ANEW 0x8000u
static inline uint16_t tcp_high(uint16_t tx_high) { return tx_high & (TCP_COUNTS_ANEW - 1); }

static inline bool tcp_synchronized(const struct tcp_conn *c) { return c->state >= TCP_STATE_ESTABLISHED; }

/* tcp.c */
void tcp_ctx_init(struct tcp_ctx *x, struct tcp_engine *st, struct engine_io *io);
struct tcp_conn *tcp_begin(struct tcp_ctx *x, uint32_t index);
void tcp_end(struct tcp_ctx *x);
void tcp_touch(struct tcp_ctx *x, struct tcp_conn *c);
/* Sends what may be sent, gives owed notices, arms the wheel; for every touched connection. */
void tcp_flush(struct tcp_ctx *x);
void tcp_flush_conn(struct tcp_ctx *x, struct tcp_conn *c);

#endif
