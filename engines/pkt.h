/* SPDX-License-Identifier: Apache-2.0
 *
 * A packet on its way through a shard, as a value. Three cache lines: what every stage reads, whose it is, and the
 * payload that lies elsewhere. Packets and their buffers belong to a pool of one shard; nothing here is atomic.
 *
 * Ownership: whoever holds the pointer owns the packet. A call that takes packets hands every one of them on (up,
 * down, drop or done) or keeps it on purpose (reassembly, neighbour queue). Nobody but the host puts one back.
 *
 * Geometry: the head buffer starts at `buf` and has `buf_size` bytes; `data`..`data + len` is what the current stage
 * looks at. On receive, `data` walks towards the payload; on send, headers are pushed in front of it. Payload may
 * continue in `frag[]`, which borrows memory of a client's TX region until the packet is put back.
 *
 * Transport checksums on send, one rule: the transport writes 0 into its checksum field and sets PKT_CSUM_PARTIAL,
 * csum_start and csum_offset. Everything else is the link engine's, which alone knows the final source address and the
 * port: it adds the pseudo header and either completes the sum and clears the flag, or, when the port has
 * PORT_CAP_TX_CSUM, stores the folded pseudo-header sum and leaves the flag. A packet that turns round inside the host
 * keeps the flag and the zero: nobody looks.
 *
 * Errors. A packet that goes up with PKT_ICMP_ERROR tells the transport flow.proto that a packet of its own could not
 * be delivered: flow.local/remote are that packet's source and destination, data..len the quoted transport header (at
 * least 8 bytes, already checked), user = errno, user_data = path MTU in IP bytes when errno is EMSGSIZE. The transport
 * turns it into a notice. A packet that goes *down* with PKT_ICMP_ERROR is a received one that its transport refuses:
 * user = enum pkt_refusal, drop = the reason under which it is counted, user_data = the rule when that is DROP_POLICY.
 *
 * Bounces. A datagram whose destination only the kernel reaches (a route over an interface that Usher does not run, a
 * local port where no socket of Usher's listens) is lost for good unless its sender can hand it to the kernel. So a
 * sender that has a kernel socket gets it back: the transport asks with PKT_BOUNCE, and whoever finds out that the
 * datagram cannot go passes it up with PKT_BOUNCED: sock, sink, flow and gso_size are as the transport sent them, data
 * is at the transport header when it comes from the link engine, at the payload from the transport on. Filters let it
 * pass: nothing arrives. Its pool is that of the sender's shard, to which the host takes it.
 */
#ifndef USHER_ENGINES_PKT_H
#define USHER_ENGINES_PKT_H

#include <stddef.h>

#include "engines/check.h"
#include "engines/ipaddr.h"

#define PKT_BURST 64      /* most packets one call is given */
#define PKT_VEC_MAX 256   /* most packets one call can hand on by one way */
#define PKT_HEADROOM 128  /* bytes in front of a fresh packet: room for eth + vlan + ipv6 + tcp with options */
#define PKT_FRAG_MAX 4

enum drop_reason {
#define DROP(name, text) DROP_##name,
#include "engines/drops.def"
#undef DROP
    DROP_COUNT
};

enum pkt_flag {
    PKT_CSUM_OK = 1 << 0,      /* receive: the transport checksum is known to be right */
    PKT_CSUM_PARTIAL = 1 << 1, /* the checksum field holds the pseudo-header sum only; csum_start/csum_offset are set */
    PKT_LOCAL = 1 << 2,        /* turned round inside the host: no MAC header, sums not needed */
    PKT_GSO = 1 << 3,          /* gso_size/gso_type are set; one super-segment or coalesced receive */
    PKT_FRAGMENT = 1 << 4,     /* an IP fragment: it has no transport header to look at */
    PKT_BROADCAST = 1 << 5,    /* received as link-layer broadcast or multicast; on send: the socket may broadcast */
    PKT_ECN_CE = 1 << 6,
    PKT_MORE = 1 << 7,         /* sender says that more follows at once: a port may delay its doorbell */
    PKT_ICMP_ERROR = 1 << 8,   /* up: about a packet we sent; down: refuse this received packet. See above */
    PKT_DONT_FRAGMENT = 1 << 9, /* send: too big for the path is an error (EMSGSIZE), never fragments */
    PKT_MCAST_LOOP = 1 << 10,   /* send to a group: members on this host get a copy; with ttl 0 nobody else does */
    PKT_REGION = 1 << 11,       /* send request to a stream: the payload is the frag_len bytes at offset `user` of the
                                   TX region of session SINK_INDEX(sink). The engine remembers the place, not the
                                   packet: it comes back in `done` at once, and the bytes stay put until
                                   NOTICE_TX_DONE has counted them. len, frag_count = 0. Without the flag the engine
                                   keeps the packet */
    PKT_BOUNCE = 1 << 12,  /* send: when only the kernel reaches the destination, the sender wants it back. See below */
    PKT_BOUNCED = 1 << 13, /* up: a send request on its way back to its own sender */
    PKT_URGENT = 1 << 14,  /* send request to a stream: its last byte is urgent */
    PKT_VLAN = 1 << 15,    /* receive: came with a tag, `vlan` is set */
};

#define PKT_MARKED 0x80000000u /* | class_id: a filter has set `mark` */

/* Token of a frag in a TX region that the engine made: whose memory the packet borrows. */
#define PKT_TOKEN_REGION 0x80000000u /* | session slot */

/* The POLICY ones speak for the operator, also about addresses that this host shares with its kernel. */
enum pkt_refusal {
    PKT_REFUSE_PORT = 1,
    PKT_REFUSE_PROTO,
    PKT_REFUSE_POLICY_PORT,
    PKT_REFUSE_POLICY_HOST,
    PKT_REFUSE_POLICY_ADMIN
};

/* What is known of the packet's conversation beyond its headers; filters ask. Up: demux() says it. */
enum pkt_known {
    PKT_KNOWN_NOTHING,
    PKT_KNOWN_ESTABLISHED,
    PKT_KNOWN_RELATED,
    PKT_KNOWN_RAW, /* down: a frame that a program made whole. No engine has looked into it; data is at its Ethernet
                      header, the first PKT_RAW_HEAD bytes of it lie in the head buffer */
};
#define PKT_RAW_HEAD 256u

enum pkt_gso { PKT_GSO_NONE = 0, PKT_GSO_TCP4, PKT_GSO_TCP6, PKT_GSO_UDP };

/* Where a packet that goes up ends: copied from the socket's record by the transport. */
enum sink_kind { SINK_NONE = 0, SINK_SESSION, SINK_ENGINE };
#define SINK(kind, index, handle) (((uint64_t)(kind) << 56) | ((uint64_t)(index) << 32) | (uint64_t)(handle))
#define SINK_KIND(s) ((enum sink_kind)((s) >> 56))
#define SINK_INDEX(s) ((uint32_t)((s) >> 32) & 0xffffffu) /* session slot in the shard, or engine number */
#define SINK_HANDLE(s) ((uint32_t)(s))                    /* the session's socket handle, or the engine's own */

struct pkt_pool;

struct pkt_frag {
    const uint8_t *base; /* borrowed until the packet is put back */
    uint32_t len;
    uint32_t token; /* the host's: which loan to give back; 0 when there is none */
};

struct pkt {
    /* line 0: every stage */
    uint8_t *data;
    uint32_t len;      /* bytes at data, in the head buffer */
    uint32_t frag_len; /* bytes in frag[0..frag_count) */
    uint8_t *buf;
    struct pkt_pool *pool;
    uint64_t rx_ns;      /* when the port took it */
    uint16_t flags;      /* enum pkt_flag */
    uint16_t drop;       /* enum drop_reason */
    uint16_t l3_off;     /* of the IP header, from buf */
    uint16_t l4_off;     /* of the transport header, from buf */
    uint16_t gso_size;
    uint8_t gso_type; /* enum pkt_gso */
    uint8_t frag_count;
    uint16_t csum_start; /* from buf */
    uint16_t csum_offset;
    uint8_t ip_version; /* 4 or 6 once ip has seen it, else 0 */
    uint8_t tos;
    uint8_t ttl;
    uint8_t known; /* enum pkt_known */
    uint16_t port; /* interface slot: in on receive, out once routed */
    uint16_t stage;

    /* line 1: whose it is. The line starts with the flow, so that a lookup touches one line only */
    struct flow flow CACHE_ALIGNED;
    uint32_t sock;     /* transport's socket index */
    uint32_t owner;    /* index into the host's owner table, 0 = unknown */
    uint32_t class_id; /* leaf of the QoS tree + 1 that a filter chose; 0 = the owner's. And PKT_MARKED */
    uint32_t token; /* host's: opaque */
    uint64_t sink;

    /* line 2: payload elsewhere */
    struct pkt_frag frag[PKT_FRAG_MAX] CACHE_ALIGNED;

    /* line 3: cold; a plain datagram never touches it */
    uint32_t buf_size CACHE_ALIGNED;
    uint32_t index; /* of this packet in its pool; never changes */
    uint32_t next;  /* link for queues inside engines; means nothing outside of them */
    uint32_t user;
    uint64_t user_data; /* the sender's, from its submission */
    uint32_t mark;      /* on send, with PKT_MARKED: for who looks at frames behind the port */
    uint16_t vlan;      /* the TCI, with PKT_VLAN */
};
STATIC_ASSERT(sizeof(struct pkt) == 4 * CACHE_LINE, "a packet is four cache lines");
STATIC_ASSERT(offsetof(struct pkt, flow) == CACHE_LINE, "line 0 holds what every stage reads");
STATIC_ASSERT(offsetof(struct pkt, frag) == 2 * CACHE_LINE, "line 1 holds whose it is");

struct pkt_vec {
    uint32_t count;
    uint32_t pad;
    struct pkt *v[PKT_VEC_MAX];
};

/* A stack of free packets of one size class. `free` has room for all of them. */
struct pkt_pool {
    struct pkt **free;
    uint32_t free_count;
    uint32_t count;
    struct pkt *pkts; /* all packets of the pool, by index */
    uint32_t buf_size;
    uint32_t shard;
};

static inline bool pkt_vec_push(struct pkt_vec *vec, struct pkt *p) {
    if (UNLIKELY(vec->count == PKT_VEC_MAX))
        return false;
    vec->v[vec->count++] = p;
    return true;
}

static inline uint32_t pkt_vec_room(const struct pkt_vec *vec) { return PKT_VEC_MAX - vec->count; }

/* Makes `p` an empty packet with PKT_HEADROOM in front. Touches lines 0 and 1 only. */
static inline void pkt_reset(struct pkt *p) {
    p->data = p->buf + PKT_HEADROOM;
    p->len = 0;
    p->frag_len = 0;
    p->flags = 0;
    p->drop = DROP_NONE;
    p->l3_off = 0;
    p->l4_off = 0;
    p->gso_size = 0;
    p->gso_type = PKT_GSO_NONE;
    p->frag_count = 0;
    p->ip_version = 0;
    p->tos = 0;
    p->ttl = 0;
    p->known = PKT_KNOWN_NOTHING;
    p->sink = 0;
    p->owner = 0;
    p->class_id = 0;
    p->token = 0;
}

/* Takes a free packet, or NULL when the pool is empty (a normal event: count and go on). */
static inline struct pkt *pkt_alloc(struct pkt_pool *pool) {
    if (UNLIKELY(pool->free_count == 0))
        return NULL;
    struct pkt *p = pool->free[--pool->free_count];
    pkt_reset(p);
    return p;
}

/* Puts a packet of this pool back. Host only: the frags' loans must have been given back. */
static inline void pkt_free(struct pkt_pool *pool, struct pkt *p) {
    DCHECK(p->pool == pool && pool->free_count < pool->count);
    pool->free[pool->free_count++] = p;
}

static inline uint32_t pkt_bytes(const struct pkt *p) { return p->len + p->frag_len; }

/* Opens `n` bytes in front of data; the caller knows that the headroom is there (DCHECK). */
static inline uint8_t *pkt_push(struct pkt *p, uint32_t n) {
    DCHECK((size_t)(p->data - p->buf) >= n);
    p->data -= n;
    p->len += n;
    return p->data;
}

/* Steps over `n` bytes of the head; the caller has checked len. */
static inline void pkt_pull(struct pkt *p, uint32_t n) {
    DCHECK(p->len >= n);
    p->data += n;
    p->len -= n;
}

static inline uint8_t *pkt_l3(const struct pkt *p) { return p->buf + p->l3_off; }
static inline uint8_t *pkt_l4(const struct pkt *p) { return p->buf + p->l4_off; }

#endif
