/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/udp: the state, its records, and what the files of the room say to each other.
 *
 * Truth: sockets and memberships. Derived: the three index tables and the flow cache. The flow cache remembers, for a
 * remote peer's flow, the answer of a whole lookup in one cache line; any change of the socket table empties it by
 * raising `generation`.
 */
#ifndef USHER_ENGINES_UDP_UDP_H
#define USHER_ENGINES_UDP_UDP_H

#include "engines/hash.h"
#include "engines/udp/udp_cmd.h"
#include "engines/wire.h"

#define UDP_LAYOUT      (2u + ARENA_LAYOUT_STEP)
#define UDP_CACHE_LINES 4096u /* 256 KiB, touched as flows come */
#define UDP_SLOT_LOCAL  0xffffu /* pkt->port of what never saw a port */
#define UDP_NEAR_COUNT     16u
#define UDP_PORT_RANGE_MAX 65535u

enum udp_table { UDP_TABLE_SOCKET, UDP_TABLE_MEMBER };

enum udp_socket_flag {
    UDP_SOCKET_V6ONLY = 1 << 0,
    UDP_SOCKET_REUSEPORT = 1 << 1,
    UDP_SOCKET_CONNECTED = 1 << 2,
    UDP_SOCKET_DONT_FRAGMENT = 1 << 3,
    UDP_SOCKET_MCAST_LOOP = 1 << 4,
    UDP_SOCKET_BROADCAST = 1 << 5,
};

/* What may leave a socket. */
enum udp_sends {
    UDP_SENDS_V4 = 1 << 0,
    UDP_SENDS_V6 = 1 << 1,
    UDP_SENDS_BOUND = 1 << 2, /* from flow.local only */
};

/* Two lines. Sending touches both, receiving through the flow cache only the second. The packet and byte counts are
 * changed without the undo slot: a death between the two leaves a statistic one packet off. */
struct udp_socket {
    struct arena_record r;
    struct flow flow;
    uint64_t sink;
    uint32_t owner;
    uint32_t ifindex;

    uint64_t rx_packets, rx_bytes;
    uint64_t tx_packets, tx_bytes;
    struct hash_link link; /* derived: in `exact` when connected, else in `bound` */
    uint32_t load;         /* spread groups: what UDP_OPT_LOAD said, and a datagram each since */
    uint8_t flags;         /* enum udp_socket_flag */
    uint8_t spread;
    uint8_t tos;
    uint8_t ttl;       /* 0 = the default */
    uint8_t mcast_ttl; /* 0 stays on this host */
    uint8_t sends;     /* derived: enum udp_sends */
    uint16_t tx_flags; /* derived: flags of each packet it sends */
    uint8_t pad[12];
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct udp_socket) == 128, "10,000 idle sockets are 1.25 MB");

struct udp_member {
    struct arena_record r;
    struct ipaddr group;
    uint32_t sock;
    uint32_t ifindex; /* 0 = any */
    struct hash_link link;
};

struct udp_cache_line {
    struct flow flow;
    uint32_t generation;
    uint32_t sock;
    uint32_t ifindex; /* of the interface the answer holds for: a socket may be bound to one */
    uint32_t pad[3];
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct udp_cache_line) == CACHE_LINE, "one line an answer");

/* Two addresses of this host between which the link engine has just carried a datagram: source and destination were
 * judged, both are ours. Derived, and true for a moment only, so that a change of addresses is soon seen. */
struct udp_near {
    struct ipaddr src, dst;
    ns_t since, until;
} CACHE_ALIGNED;

struct udp_state {
    struct arena_header a;
    struct udp_config cfg;
    struct hash_key key;
    struct hash_index exact;  /* connected sockets, by flow */
    struct hash_index bound;  /* the others, by local address (all zero for a wildcard) and port */
    struct hash_index member; /* memberships, by group */
    uint32_t cache_lines;
    uint32_t generation;                    /* derived; never 0 */
    uint32_t exact_count, bound_addr_count; /* derived: lookups that nobody needs are skipped */
    ns_t near_until; /* the latest of all entries: one compare when nothing is local */
    struct udp_near near[UDP_NEAR_COUNT];
};

enum udp_counter {
    UDP_COUNT_RX,
    UDP_COUNT_TX,
    UDP_COUNT_CACHE_MISS,
    UDP_COUNT_CLONES,
    UDP_COUNT_CLONE_FAILED,
    UDP_COUNT_ERRORS,
    UDP_COUNT_DIRECT,
    UDP_COUNT_BOUNCED,
    UDP_COUNT_COUNT
};

static inline const struct arena_table *udp_sockets(const struct udp_state *st) {
    return &st->a.table[UDP_TABLE_SOCKET];
}

static inline struct udp_socket *udp_socket_get(struct udp_state *st, uint32_t sock) {
    return (struct udp_socket *)arena_lookup(st, &st->a.table[UDP_TABLE_SOCKET], sock);
}

static inline struct udp_cache_line *udp_cache_at(struct udp_state *st, uint32_t hash) {
    return (struct udp_cache_line *)arena_at(st, st->cache_lines) + (hash & (UDP_CACHE_LINES - 1));
}

static inline uint32_t udp_ifindex(const struct engine_io *io, uint16_t port) {
    return port < PORT_SLOT_MAX ? io->ports[port].ifindex : 0;
}

/* udp_table.c: lookups, the derived tables, the derived part of a record. */
void udp_socket_derive(struct udp_socket *s);
void udp_table_add(struct udp_state *st, uint32_t sock);
void udp_table_remove(struct udp_state *st, uint32_t sock);
void udp_table_changed(struct udp_state *st);
void udp_table_rebuild(struct udp_state *st);
/* The socket that `f` (as received) belongs to, ARENA_NIL when there is none. */
uint32_t udp_table_find(struct udp_state *st, const struct flow *f, uint32_t hash, uint32_t ifindex);
/* Whether another socket than `self` holds an address that no datagram could tell from that of `s`. */
bool udp_table_conflict(struct udp_state *st, const struct udp_socket *s, uint32_t self);
bool udp_socket_matches(const struct udp_socket *s, const struct flow *f, uint32_t ifindex);
bool udp_table_has_member(struct udp_state *st, const struct ipaddr *group);
uint32_t udp_member_find(struct udp_state *st, const struct ipaddr *group, uint32_t sock, uint32_t ifindex);
uint32_t udp_key_bound(const struct udp_state *st, const struct ipaddr *local, uint16_t port);

/* udp_local.c: datagrams from one socket of this host to another. */
void udp_local_learn(struct udp_state *st, const struct engine_io *io, const struct pkt *p);
/* The packet that was turned round for another socket and found none: addresses as its sender sees them. */
void udp_flow_turn(struct flow *f);
/* Hands a send request that stays here to its receiver; false: it must go down. */
bool udp_local_take(struct udp_state *st, struct engine_io *io, struct pkt *p);

/* udp_input.c, udp_output.c */
uint32_t udp_look_up(struct udp_state *st, struct engine_io *io, const struct pkt *p, uint32_t hash);
void udp_deliver(struct udp_state *st, struct engine_io *io, struct pkt *p, uint32_t sock);
void udp_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
void udp_demux(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
void udp_output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);

/* udp_cmd.c */
void udp_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply);
void udp_socket_close(struct udp_state *st, uint32_t sock);
int udp_socket_valid(const struct udp_socket *s);

/* udp_save.c */
int64_t udp_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size);
int udp_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size);

#endif
