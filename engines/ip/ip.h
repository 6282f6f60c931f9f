/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/ip: the state, its records, and what the files of the room say to each other.
 *
 * Truth: addresses, routes, neighbours, path MTUs. Derived: indexes, the destination cache, timers, and every packet
 * that waits (for a next hop, for its other fragments, for room to be cut into pieces); a wait never survives a death.
 *
 * The destination cache holds, for one destination, the answer of everything that output has to ask: local or which
 * port, source address, MTU, MAC. Any change of a table empties it by raising `generation`, so no entry ever needs to
 * be found again to be corrected.
 */
#ifndef USHER_ENGINES_IP_IP_H
#define USHER_ENGINES_IP_IP_H

#include "engines/hash.h"
#include "engines/ip/ip_cmd.h"
#include "engines/wheel.h"
#include "engines/wire.h"

#define IP_LAYOUT         (1u + ARENA_LAYOUT_STEP)
#define IP_DEST_LINES 4096u /* in sets of two; 256 KiB, touched as peers come */
#define IP_TTL_DEFAULT    64
#define IP6_MTU_MIN       1280u
#define IP4_MTU_MIN       68u
#define IP4_PMTU_MIN      552u /* a report below it is held against this floor: it would be an attack on our rate */
#define IP_TICK_SHIFT     20u  /* timers count in 2^20 ns, about a millisecond */
#define NEIGH_QUEUE_LIMIT 64u  /* upper bound of neigh_queue_max */
#define IP_WAIT_MAX       256u /* packets that wait to be cut */
#define IP_FRAG_PIECES    64u
#define IP_FRAG_HELD_MAX  512u /* fragments that all reassemblies together may hold */

enum ip_table { IP_TABLE_ADDR, IP_TABLE_ROUTE, IP_TABLE_NEIGH, IP_TABLE_PMTU, IP_TABLE_COUNT };

enum ip_addr_flag { IP_ADDR_DEDICATED = 1 << 0, IP_ADDR_BROADCAST = 1 << 1 };

struct ip_addr {
    struct arena_record r;
    struct ipaddr addr;
    uint32_t mark; /* round of the last IP_CMD_FLUSH in which it was given */
    uint16_t port;
    uint8_t prefix_len;
    uint8_t flags; /* enum ip_addr_flag */
    struct hash_link link;
};

struct ip_route {
    struct arena_record r;
    struct ipaddr prefix, gateway, source;
    uint32_t metric;
    uint32_t mark;
    uint16_t port;
    uint16_t mtu;
    uint8_t prefix_len;
    uint8_t unreachable;
    uint8_t pad[2];
    struct hash_link link;
};

enum ip_neigh_state { NEIGH_NONE, NEIGH_INCOMPLETE, NEIGH_REACHABLE, NEIGH_PROBE, NEIGH_FAILED, NEIGH_STATE_COUNT };

struct ip_neigh {
    struct arena_record r;
    struct ipaddr addr;
    uint32_t mark;
    uint16_t port;
    uint8_t mac[6];
    uint8_t state;    /* enum ip_neigh_state; only the dispatcher in ip_neigh.c writes it */
    uint8_t probes;   /* questions asked since the last answer */
    uint8_t used;     /* a destination was resolved through it since its timer last looked */
    uint8_t asked;    /* control was asked for it and has to be told when it is no longer needed */
    uint32_t waiting; /* derived: packets in its queue */
    ns_t due;         /* when its timer comes: truth, so that a restart does not shift it */
    struct hash_link link;
};

struct ip_pmtu {
    struct arena_record r;
    struct ipaddr addr;
    ns_t until;
    uint32_t mtu;
    uint32_t pad;
    struct hash_link link;
};

/* KERNEL and what follows it: the source address is not ours to judge. */
enum ip_dest_kind {
    IP_DEST_NONE,
    IP_DEST_WIRE,
    IP_DEST_LOCAL,
    IP_DEST_WAIT,
    IP_DEST_BROADCAST,
    IP_DEST_KERNEL, /* only the kernel's interfaces reach it */
    IP_DEST_ERROR,
};

struct ip_dest {
    struct ipaddr dst;
    struct ipaddr src; /* when the sender leaves it open; all zero = none */
    uint32_t generation;
    uint16_t port;
    uint16_t mtu;
    uint8_t mac[6];
    uint8_t kind; /* enum ip_dest_kind */
    uint8_t error;
    uint32_t neigh; /* WAIT */
    uint32_t pad[2];
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct ip_dest) == CACHE_LINE, "one line an answer");

/* A datagram under reassembly. Pieces are kept in ascending order of their offset. */
struct ip_frag_key {
    struct ipaddr src, dst;
    uint32_t id;
    uint8_t proto; /* IPv4; 0 for IPv6, whose fragments are told apart by id alone */
    uint8_t version;
    uint16_t pad;
};

struct ip_frag {
    struct ip_frag_key key;
    uint32_t used;
    uint32_t pieces;
    uint32_t have;  /* payload bytes held */
    uint32_t total; /* payload bytes in all, 0 until the last fragment is here */
    uint64_t seq;   /* order of arrival: the oldest gives way */
    struct pkt *piece[IP_FRAG_PIECES];
};

struct ip_state {
    struct arena_header a;
    struct ip_config cfg;
    struct hash_key key;
    struct hash_index addr, route, neigh, pmtu;
    uint32_t mark; /* truth: round of IP_CMD_FLUSH */
    uint32_t generation;
    uint32_t dest_turn;
    uint32_t dest_lines;  /* struct ip_dest[IP_DEST_LINES] */
    uint32_t queue_lines; /* struct pkt *[neigh_max][neigh_queue_max] */
    uint32_t frag_lines;  /* struct ip_frag[reassembly_max] */
    uint32_t timer_lines; /* struct wheel_node: neighbours, then path MTUs, then reassemblies */
    uint32_t frag_live, frag_held;
    uint64_t frag_seq;
    uint64_t addr_filter;      /* bits of our own addresses: a clear one proves a foreign address */
    struct ipaddr last_local;  /* destination of the last unicast packet that was for us */
    uint64_t route_lengths[3]; /* bit per prefix length in use */
    uint32_t route_count[129];
    uint32_t icmp_tokens;
    ns_t icmp_refilled;
    uint32_t wait_head, wait_count; /* ring of packets that wait to be cut */
    uint32_t wait_cut;              /* payload bytes of the first one that have left already */
    uint32_t wait_id;
    struct pkt *wait[IP_WAIT_MAX];
    struct wheel wheel;
};

enum ip_counter {
    IP_COUNT_RX,
    IP_COUNT_TX,
    IP_COUNT_LOCAL,
    IP_COUNT_DEST_MISS,
    IP_COUNT_REASSEMBLED,
    IP_COUNT_FRAGMENTED,
    IP_COUNT_GSO_SPLIT,
    IP_COUNT_CSUM,
    IP_COUNT_NEIGH_WAIT,
    IP_COUNT_NEIGH_ASKED,
    IP_COUNT_ICMP_IN,
    IP_COUNT_ICMP_OUT,
    IP_COUNT_PMTU,
    IP_COUNT_BOUNCED,
    IP_COUNT_COUNT
};

/* A stage's verdict about a packet: DROP_NONE = hand it up, IP_TAKEN = dealt with, else drop it for that reason. */
#define IP_TAKEN DROP_COUNT

static inline const struct arena_table *ip_table_of(const struct ip_state *st, enum ip_table t) {
    return &st->a.table[t];
}

static inline void *ip_get(struct ip_state *st, enum ip_table t, uint32_t index) {
    return arena_lookup(st, &st->a.table[t], index);
}

/* Not keyed: who hits a bit on purpose makes us look once more, no worse. */
static inline uint64_t ip_filter_bit(const struct ipaddr *addr) {
    return 1ull << (((uint32_t)addr->w[3] * 0x9e3779b1u) >> 26);
}

static inline bool ip_filter_has(const struct ip_state *st, const struct ipaddr *addr) {
    return (st->addr_filter & ip_filter_bit(addr)) != 0;
}

/* First of the two ways that may hold `dst`. */
static inline struct ip_dest *ip_dest_set(struct ip_state *st, const struct ipaddr *dst) {
    return (struct ip_dest *)arena_at(st, st->dest_lines) + (hash_addr(&st->key, dst, 0) & (IP_DEST_LINES - 2));
}

static inline bool ip_dest_is(const struct ip_state *st, const struct ip_dest *d, const struct ipaddr *dst) {
    return d->generation == st->generation && ipaddr_equal(&d->dst, dst);
}

static inline bool ip_port_is(const struct engine_io *io, uint16_t port, uint16_t cap) {
    return port < PORT_SLOT_MAX && (io->ports[port].caps & cap) != 0;
}

static inline bool ip_port_dedicated(const struct engine_io *io, uint16_t port) {
    return port < PORT_SLOT_MAX && io->ports[port].dedicated;
}

/* Hands a packet down; the vec has room unless something floods. */
static inline void ip_down(struct engine_io *io, struct pkt *p) {
    if (UNLIKELY(!pkt_vec_push(io->down, p)))
        pkt_drop(io, p, DROP_QUEUE_FULL);
}

/* ip_table.c: addresses, routes, path MTUs, the destination cache. */
const struct ip_addr *ip_addr_find(struct ip_state *st, const struct ipaddr *addr, uint16_t port);
bool ip_addr_is_local(struct ip_state *st, const struct ipaddr *addr);
bool ip_addr_is_broadcast(struct ip_state *st, const struct ipaddr *addr);
/* The cached answer for `dst`, or NULL. */
const struct ip_dest *ip_dest_peek(struct ip_state *st, const struct ipaddr *dst);
/* Something was sent there not long ago: its line is still there, though perhaps outdated. Else NULL. */
const struct ip_dest *ip_dest_talked(struct ip_state *st, const struct ipaddr *dst);
/* Finds the answer anew and puts it into one of the two ways at `set`. */
struct ip_dest *ip_dest_resolve(struct ip_state *st, struct engine_io *io, const struct ipaddr *dst,
                                struct ip_dest *set);
void ip_route_explain(struct ip_state *st, struct engine_io *io, const struct ipaddr *dst,
                      struct ip_route_result *ret_result);
void ip_pmtu_learn(struct ip_state *st, struct engine_io *io, const struct ipaddr *dst, uint32_t mtu);
void ip_pmtu_expire(struct ip_state *st, uint32_t index);
void ip_changed(struct ip_state *st);
void ip_tables_rebuild(struct ip_state *st);
void ip_index_add(struct ip_state *st, enum ip_table t, uint32_t index);
void ip_index_remove(struct ip_state *st, enum ip_table t, uint32_t index);
struct ipaddr ip_prefix_mask(const struct ipaddr *addr, uint8_t len);
bool ip_prefix_covers(const struct ipaddr *prefix, uint8_t len, const struct ipaddr *addr);

/* ip_neigh.c: next hops. */
enum ip_neigh_event {
    NEIGH_EV_NEED,
    NEIGH_EV_KNOWN,
    NEIGH_EV_LOST,
    NEIGH_EV_RETRY,
    NEIGH_EV_GIVE_UP,
    NEIGH_EV_IN_USE,
    NEIGH_EV_IN_USE_OWN,
    NEIGH_EV_IDLE,
    NEIGH_EV_COUNT
};
/* The record of a next hop, made when there is none; ARENA_NIL when the table is full. */
uint32_t ip_neigh_need(struct ip_state *st, struct engine_io *io, const struct ipaddr *addr, uint16_t port);
uint32_t ip_neigh_find(struct ip_state *st, const struct ipaddr *addr, uint16_t port);
void ip_neigh_event(struct ip_state *st, struct engine_io *io, uint32_t index, enum ip_neigh_event ev,
                    const uint8_t *mac);
void ip_neigh_wait(struct ip_state *st, struct engine_io *io, uint32_t index, struct pkt *p);
void ip_neigh_timer(struct ip_state *st, struct engine_io *io, uint32_t index);
void ip_neigh_recovered(struct ip_state *st, uint32_t index);
void ip_neigh_drop_all(struct ip_state *st, struct engine_io *io);

/* ip_input.c, ip_output.c */
void ip_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
void ip_output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
/* Sends one packet whose transport header is at data and whose flow is filled, as output() does. Takes it. */
void ip_output_packet(struct ip_state *st, struct engine_io *io, struct pkt *p);
/* Drops a packet on its way out and tells its sender why. */
void ip_output_fail(struct engine_io *io, struct pkt *p, int error, uint32_t mtu, enum drop_reason why);
/* What is left when address, size and segmentation are settled: checksum, headers, and down it goes. */
void ip_send(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_dest *d);

/* The pieces of it. push4: IPv4 identification, and the flags and offset field. */
void ip_push4(struct pkt *p, uint16_t id, uint16_t flags_off);
void ip_push6(struct pkt *p, uint8_t next);
void ip_push_link(const struct port_info *port, struct pkt *p, const uint8_t *mac);
/* data is at the transport header; `port_does`: leave the payload's sum to the port. */
void ip_csum_finish(struct engine_io *io, struct pkt *p, bool port_does);

/* ip_frag.c: reassembly. `p` is a fragment whose payload is at data, `offset` bytes into the datagram. When it
 * completes one, *ret_whole is a fresh packet with data at its IP header and PKT_FRAGMENT set. Verdict as above; the
 * fragment is always kept or dealt with unless the verdict is a drop reason. */
enum drop_reason ip_frag_input(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_frag_key *key,
                               uint32_t offset, bool more, struct pkt **ret_whole);
/* The timer of a reassembly: too late, or complete and waiting for room. *ret_whole as above. */
void ip_frag_timer(struct ip_state *st, struct engine_io *io, uint32_t index, struct pkt **ret_whole);
void ip_frag_drop_all(struct ip_state *st, struct engine_io *io);
uint32_t ip_frag_timer_of(const struct ip_state *st, uint32_t index);
/* A packet with data at its IP header that needs no link header looked at. Takes it. */
void ip_input_packet(struct ip_state *st, struct engine_io *io, struct pkt *p);

/* ip_cmd.c, ip_save.c */
void ip_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply);
int ip_record_valid(const struct ip_state *st, enum ip_table t, const void *record);

#endif
