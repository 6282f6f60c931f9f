/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine contract. An engine is a module with one symbol, `const struct engine_ops usher_engine`, and it is
 * sans-IO: no file descriptors, clock, randomness, threads, malloc, logging or writable globals. Time, packets, a
 * seeded generator, counters, a trace hook and all of its memory are passed in. So the very same object runs in the
 * daemon, the simulator, the fuzzer and the unit tests.
 *
 * Threads: every call on one state comes from one thread at a time (the worker that runs the shard). A call never
 * blocks and its work is bounded by the packets or the budget it is given. Calls on different states are independent.
 *
 * Memory: `st` is the first byte of the engine's arena (see engines/arena.h). All state is in there, linked by index.
 * Only records are truth; hash tables, lists, wheels and caches are derived and are rebuilt by recover(). Packets that
 * an engine keeps are derived too: they are lost when the daemon dies, as a network may lose them.
 */
#ifndef USHER_ENGINES_ENGINE_H
#define USHER_ENGINES_ENGINE_H

#include "engines/pkt.h"

#define ENGINE_ABI 3u
#define ENGINE_SYMBOL "usher_engine"
#define ENGINE_NAME_MAX 16
#define PORT_SLOT_MAX 16  /* interfaces one shard can serve */
#define SHARD_ENGINE_MAX 16

typedef uint64_t ns_t; /* monotonic nanoseconds */
#define NS_NEVER UINT64_MAX
#define NS_PER_SEC 1000000000ull
#define NS_PER_MS 1000000ull
#define NS_PER_US 1000ull

/* Where in the graph an engine stands. The host wires: port.rx > LINK > FILTER > TRANSPORT > APP > session, and back
 * session > APP > TRANSPORT > LINK > FILTER > QOS > port.tx. One LINK engine per shard; one TRANSPORT per protocol. */
enum engine_stage { STAGE_LINK, STAGE_FILTER, STAGE_TRANSPORT, STAGE_APP, STAGE_QOS, STAGE_COUNT };

enum engine_cap {
    ENGINE_CAP_INPUT = 1 << 0,  /* wants packets that go up */
    ENGINE_CAP_OUTPUT = 1 << 1, /* wants packets that go down */
};

/* What a port can do, as far as an engine may care. Read-only to engines; the host keeps it current. */
enum port_cap {
    PORT_CAP_TX_CSUM = 1 << 0,    /* takes PKT_CSUM_PARTIAL */
    PORT_CAP_TX_GSO_TCP = 1 << 1, /* takes PKT_GSO with TCP */
    PORT_CAP_TX_GSO_UDP = 1 << 2,
    PORT_CAP_TX_FRAGS = 1 << 3, /* takes frag[] without a copy */
    PORT_CAP_L3 = 1 << 4,       /* no link header (tun-like, pair in L3 mode) */
};

struct port_info {
    bool up;
    bool dedicated;  /* own MAC and address: the ip engine answers ARP, NDP and echo here */
    uint16_t caps;   /* enum port_cap */
    uint16_t mtu;    /* IP bytes */
    uint32_t ifindex; /* the kernel's, 0 when there is none */
    uint8_t mac[6];
    uint8_t pad[2];
};

/* Something a socket's owner should learn. Becomes an event in the client's completion ring. */
enum notice_kind {
    NOTICE_ERROR = 1,  /* value = errno (ECONNREFUSED, EMSGSIZE, EHOSTUNREACH ...), pmtu in extra for EMSGSIZE */
    NOTICE_WRITABLE,   /* back-pressure is over */
    NOTICE_CONNECTED,  /* handshake done */
    NOTICE_ACCEPT,     /* a new connection waits; sink = its listener's, extra = its socket index, addr and port = the
                          peer. The host answers in the same turn (ADOPT or CLOSE); its data waits in the engine */
    NOTICE_HANGUP,     /* the peer will send no more; all it sent has gone up before */
    NOTICE_CLOSED,     /* the socket's last state is gone and its index with it: no request may name it any more, what
                          it had borrowed is free */
    NOTICE_TX_DONE,    /* extra = bytes that left the send queue; value = send limit the engine advises, 0 = none */
    NOTICE_URGENT,     /* a stream's urgent data ends after byte `extra` of it, modulo 2^32 (RFC 9293 section 3.8.5) */
};

/* The host hands packets in `up` on before it looks at the notices of the same call. */
struct notice {
    uint64_t sink;
    uint32_t value;
    uint32_t extra;
    uint16_t kind; /* enum notice_kind */
    uint16_t port; /* host order, with `addr` */
    uint16_t pad[2];
    struct ipaddr addr; /* whom it is about */
    uint64_t pad2;
};

/* Something control should do or know. Handed over by ring; may be lost when the ring is full (counted), so an engine
 * repeats what it still needs. */
enum engine_event_kind {
    EVENT_NEIGH_WANTED = 1, /* resolve `addr` on interface slot `port` */
    EVENT_NEIGH_UNUSED,     /* nobody uses it any more: release it */
    EVENT_ADDR_CONFLICT,    /* somebody else answers for our dedicated address */
    EVENT_POLICY_LOG,       /* a rule wants a record: `value` = verdict, 8 bits, and direction, `id` = of the rule that
                               decided (0: a default), `owner`, and `flow` as this host sees it */
};

struct engine_event {
    uint16_t kind;
    uint16_t port;
    uint32_t value;
    struct ipaddr addr;
    uint64_t id;
    uint32_t owner;
    uint32_t pad;
    struct flow flow;
};

#define NOTICE_VEC_MAX 256
#define EVENT_VEC_MAX 64

/* The memory that stream send requests of one session point into (its TX region); base NULL = not there (any more). A
 * region stays mapped until NOTICE_CLOSED for the last socket of the session and until every packet with a frag in it
 * was put back. */
struct engine_region {
    const uint8_t *base;
    uint64_t size;
    uint64_t rx_room; /* bytes that the session has room to be given, as far as is known; 0 = nobody counts */
    bool rx_full; /* too much waits for that room: what is not acknowledged yet had better stay with its sender */
    uint8_t pad[7];
};

/* Answer of the link engine to "how do I reach dst?". */
struct engine_route {
    struct ipaddr source; /* address to use when the socket has none */
    int32_t error;        /* 0 or -errno */
    uint16_t port;        /* interface slot, for its caps */
    uint16_t mtu;         /* IP bytes; the path MTU when one is known */
    bool local;           /* ends on this host: any size, frags and PKT_GSO are welcome */
};

/* The host says how much of a stream its reader has let go of: the receive window may open. */
struct engine_credit {
    uint64_t sink; /* of the socket; another sink: the index was reused meanwhile, the credit is void */
    uint32_t sock;
    uint32_t bytes;
};

/* Everything one call may use. Filled by the host; the engine pushes packets and notices and changes nothing else.
 * A vec that has no room: the engine keeps the rest and asks to be run again (next_deadline = now), or drops with
 * DROP_QUEUE_FULL. up, down, drop and done always have room for twice the packets of the call. */
struct engine_io {
    ns_t now;               /* monotonic, read once per loop turn */
    struct pkt_pool *pool;  /* for packets the engine makes */
    struct pkt_pool *pool_large; /* for those that do not fit `pool` (up to 64 KiB); NULL when there is none */
    struct pkt_vec *up;     /* towards the client */
    struct pkt_vec *down;   /* towards the wire */
    struct pkt_vec *drop;   /* with pkt->drop set */
    struct pkt_vec *done;   /* no longer needed, not a drop */
    const struct port_info *ports; /* PORT_SLOT_MAX of them, by pkt->port */
    uint64_t *counters;     /* ops->counter_count of them, this shard's own */
    struct notice *notices; /* NOTICE_VEC_MAX */
    struct engine_event *events; /* EVENT_VEC_MAX */
    uint32_t notice_count;
    uint32_t event_count;
    uint64_t *rng; /* state of the seeded generator; see engine_random() */
    void (*trace)(void *arg, uint32_t point, uint64_t a, uint64_t b); /* NULL when off */
    void *trace_arg;
    const struct engine_region *regions; /* by session slot = SINK_INDEX(sink); see PKT_REGION */
    uint32_t region_count;
    bool direct; /* nobody between transports wants to see what stays on this host (no filter, no tap): a transport may
                    hand such a packet up itself, marked PKT_LOCAL, instead of sending it round by the link engine */
    uint8_t pad[3];
    /* Asks the shard's link engine; once a connection, not once a packet. NULL: there is none (tests, fuzzer). */
    void (*route)(void *arg, const struct ipaddr *dst, struct engine_route *ret_route);
    void *route_arg;
    struct pkt_vec *shown; /* towards captures that ask: copied when the call returns. A packet in it goes its own way
                              all the same. NULL: nobody could look */
};

/* A command from control: a plain struct that engines/<name>/<name>_cmd.h defines; `id` selects it. */
struct engine_cmd {
    uint32_t id;
    uint32_t size; /* of the whole struct that begins here */
};

struct engine_reply {
    int32_t error; /* 0 or -errno */
    uint32_t value;
    uint64_t value64;
    char text[112]; /* for people, empty when there is nothing to say */
};

struct engine_counter {
    const char *name; /* snake_case, ends in its unit: "rx_packets" */
    const char *help;
};

struct engine_config; /* each engine casts to its own plain struct, see engines/<name>/<name>_cmd.h */

struct engine_ops {
    uint32_t abi;            /* ENGINE_ABI */
    uint32_t size;           /* sizeof(struct engine_ops) the module was built with */
    const char *name;
    uint8_t stage;           /* enum engine_stage */
    uint8_t proto;           /* IPPROTO_ number of a TRANSPORT, else 0 */
    uint16_t caps;           /* enum engine_cap */
    uint32_t layout_version; /* of the arena; other version = save/load instead of a code swap */
    uint32_t counter_count;
    const struct engine_counter *counters;

    /* Bytes of arena that `cfg` needs (NULL = defaults), or 0 when cfg is not valid. Pure. Control thread. Required. */
    size_t (*state_size)(const void *cfg, char *err, size_t err_size);
    /* Makes a state in `size` zeroed bytes. `seed` keys hashes and generators. Control thread, before the state is
     * published. 0 or -errno. Required. */
    int (*init)(void *st, size_t size, const void *cfg, uint64_t seed);
    /* The state was used by a process that died or by other code of the same layout: rolls the open undo slot back,
     * checks every record, rebuilds what is derived. Records that fail are removed and counted in *ret_lost.
     * 0 or -errno (the arena is beyond repair). Control thread. Required. */
    int (*recover)(void *st, size_t size, uint32_t *ret_lost);
    /* Hands the packets the state still keeps to io->drop, as many as fit: called again until it adds none. Worker
     * thread, last call. Required. */
    void (*fini)(void *st, struct engine_io *io);

    /* Packets that go up. n <= PKT_BURST. Takes them all. Required with ENGINE_CAP_INPUT. */
    void (*input)(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n);
    /* Packets that go down; for a TRANSPORT these are send requests: payload only, pkt->sock, flow.remote and
     * remote_port (or "any" for connected) set. n <= PKT_BURST. Takes them all. Required with ENGINE_CAP_OUTPUT. */
    void (*output)(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n);
    /* Timers, own packets, leftovers: at most `budget` packets. Returns work done (0 = nothing). Called when now has
     * reached next_deadline(). Required. */
    uint32_t (*run)(void *st, struct engine_io *io, uint32_t budget);
    /* When run() should be called next, NS_NEVER when idle. Pure, a few loads. Required. */
    ns_t (*next_deadline)(const void *st);
    /* A command from control, between two polls. Borrows cmd. Answers every id, unknown ones -ENOTSUP. Required. */
    void (*command)(void *st, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply);

    /* Writes the record after *cursor (0 at first) as one usher.state.v1 message into buf; returns its bytes, 0 at the
     * end, -ENOSPC when buf is too small. Never changes the state. Required. */
    int64_t (*save)(const void *st, uint64_t *cursor, uint8_t *buf, size_t size);
    /* Takes one record as save() of layout `from_version` wrote it. 0 or -errno; hostile bytes: refused. Required. */
    int (*load)(void *st, uint32_t from_version, const uint8_t *rec, size_t size);
    /* Checks every invariant of the state; 0, or a number that names the broken one. Tests and simulator. Optional. */
    int (*check)(const void *st);
    /* Stream transports: readers let go of received bytes. Packets of a stream that went `up` may not be dropped by the
     * host: one it cannot place waits, in order, and is not credited, so the peer is slowed and nothing is lost. Sinks
     * of kind SINK_ENGINE give no credit. n is not bounded. Optional. */
    void (*credit)(void *st, struct engine_io *io, const struct engine_credit *credits, uint32_t n);
    /* Transports: whose are these packets that go up? Called in front of a filter, with data at the transport header
     * and owner and known zero; sets pkt->owner to that of the socket that would get it, pkt->known, and the flow's
     * ports. Hands nothing on and changes nothing else; what it does not understand it leaves. n <= PKT_BURST.
     * Optional. */
    void (*demux)(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n);
};

#define ENGINE_COUNT(io, index) ((io)->counters[index]++)
#define ENGINE_TRACE(io, point, a, b)                                                                                  \
    do {                                                                                                               \
        if (UNLIKELY((io)->trace != NULL))                                                                             \
            (io)->trace((io)->trace_arg, (point), (uint64_t)(a), (uint64_t)(b));                                       \
    } while (0)

static inline void pkt_drop(struct engine_io *io, struct pkt *p, enum drop_reason why) {
    p->drop = (uint16_t)why;
    (void)pkt_vec_push(io->drop, p);
}

/* splitmix64: good enough for jitter and ports, never for secrets (ISNs and cookies use a keyed hash). */
static inline uint64_t engine_random(struct engine_io *io) {
    uint64_t z = (*io->rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Copies a sentence into what state_size() was lent for it; cut to fit. */
static inline void engine_say(char *ret_err, size_t size, const char *text) {
    if (ret_err == NULL || size == 0)
        return;
    size_t i = 0;
    for (; i + 1 < size && text[i] != '\0'; i++)
        ret_err[i] = text[i];
    ret_err[i] = '\0';
}

static inline void engine_notice(struct engine_io *io, const struct notice *n) {
    if (io->notice_count < NOTICE_VEC_MAX)
        io->notices[io->notice_count++] = *n;
}

static inline void engine_event(struct engine_io *io, const struct engine_event *e) {
    if (io->event_count < EVENT_VEC_MAX)
        io->events[io->event_count++] = *e;
}

#endif
