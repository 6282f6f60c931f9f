/* SPDX-License-Identifier: Apache-2.0
 *
 * Two tcp engines and the link between them, in virtual time: the fixture of this room's tests. Each end has a host of
 * the plainest kind (pools, a session region, programs that send and verify byte streams); the link delays, drops,
 * reorders, duplicates, corrupts and has a bottleneck, all from one seed. check() runs after every call.
 */
#ifndef USHER_ENGINES_TCP_TESTLINK_H
#define USHER_ENGINES_TCP_TESTLINK_H

#include "engines/tcp/tcp_cmd.h"

#define LINK_SOCK_MAX   64
#define LINK_FLIGHT_MAX 8192
#define LINK_POOL       6000
#define LINK_LARGE      64

struct link_faults {
    uint32_t drop_ppm, duplicate_ppm, corrupt_ppm, reorder_ppm, mark_ppm;
    ns_t delay, jitter;
    uint64_t rate_bps;     /* 0 = no bottleneck */
    uint32_t queue_bytes;  /* of the bottleneck */
    uint32_t mark_bytes;   /* bottleneck queue above which ECN-capable packets are marked */
};

/* A program's end of a connection: sends `tx_total` bytes of a known stream, reads and verifies the peer's. */
struct link_sock {
    bool used, connected, hung_up, closed, shut, close_when_done, adopted;
    uint32_t sock;
    uint64_t sink;
    int error;
    uint64_t tx_total, tx_queued, tx_done;
    uint64_t rx_bytes, rx_expect_key, tx_key;
    uint64_t rx_credited;
    uint64_t region_at, region_size; /* its part of the session's region */
    uint32_t chunk;                  /* bytes of one send */
    uint64_t read_rate;              /* bytes a ms the program takes; 0 = at once */
    uint32_t rx_corrupt;             /* bytes that were not what the peer sent */
    bool no_read;
    uint64_t urgent_at; /* a send that ends here is urgent */
    uint64_t urgent_end; /* where the peer's urgent data ends */
    uint32_t urgents;
};

struct link_host {
    void *st;
    size_t size;
    struct tcp_config cfg;
    struct engine_io io;
    struct pkt_vec up, down, drop, done;
    struct pkt_pool small, large;
    struct notice notices[NOTICE_VEC_MAX];
    struct engine_event events[EVENT_VEC_MAX];
    struct port_info ports[PORT_SLOT_MAX];
    uint64_t counters[128];
    uint64_t rng;
    struct engine_region region;
    struct link_sock socks[LINK_SOCK_MAX];
    uint64_t drops[DROP_COUNT];
    uint32_t accepts;
    bool refuse_adopt;
    struct link_sock accept_as; /* what an accepted connection does */
    uint32_t tx_packets, tx_bytes, rx_packets;
    ns_t queue_free_at; /* bottleneck: when the last bit leaves */
};

struct link_flight {
    ns_t at;
    uint64_t order;
    uint32_t to;
    struct pkt *p;
};

struct link_tap_arg;

struct link {
    struct link_host host[2];
    ns_t now;
    uint64_t rng, order;
    struct link_faults faults[2]; /* of what host i sends */
    struct link_flight flight[LINK_FLIGHT_MAX];
    uint32_t flights;
    uint16_t mtu;       /* both ends' */
    uint16_t path_mtu;  /* larger packets vanish; 0 = none do */
    bool icmp;          /* ... with an ICMP message */
    bool local;         /* both ends on one host: any size, no checksums */
    bool super;         /* carry PKT_GSO whole, as a port with offloads does; else cut at the sender */
    bool v6;
    uint64_t trace;     /* hash over every segment sent, all that was delivered, and when */
    uint32_t steps;
    /* Sees each packet before the link takes it; false swallows it. Data at the TCP header. */
    bool (*filter)(struct link *l, uint32_t from, struct pkt *p, void *arg);
    void *filter_arg;
    /* Called before each step; may upgrade or kill engines. */
    void (*each_step)(struct link *l);
};

/* The engine under test; a test may put another build of it here before it makes a link. */
extern const struct engine_ops *link_ops;

extern uint32_t link_pool_size; /* small buffers of a host */

struct link *link_create(uint64_t seed, const struct tcp_config *a, const struct tcp_config *b);
void link_destroy(struct link *l);
/* Runs until nothing is left to do, `until` is reached or `done` says so. Returns false when time ran out first. */
bool link_run(struct link *l, ns_t until, bool (*done)(struct link *l));
void link_step_time(struct link *l, ns_t until);

struct engine_reply link_command(struct link *l, uint32_t host, const void *cmd);
uint32_t link_listen(struct link *l, uint32_t host, uint16_t port, const struct tcp_cmd_listen *more);
/* A socket that sends `bytes`; index into host[].socks. */
uint32_t link_connect(struct link *l, uint32_t host, uint16_t port, uint64_t bytes, const struct tcp_cmd_connect *more);
void link_pump(struct link *l, uint32_t host);
void link_close(struct link *l, uint32_t host, uint32_t s, bool abort);
void link_shutdown(struct link *l, uint32_t host, uint32_t s);
int link_option(struct link *l, uint32_t host, uint32_t s, uint32_t option, int64_t value);
struct tcp_conn_info link_info(struct link *l, uint32_t host, uint32_t s);
struct tcp_stats link_stats(struct link *l, uint32_t host);
uint8_t link_byte(uint64_t key, uint64_t at);

/* A hand-made segment that arrives at `to` now: from the peer's address, right checksum. */
struct link_segment {
    uint16_t sport, dport;
    uint32_t seq, ack;
    uint8_t flags;
    uint16_t wnd;
    const uint8_t *opts;
    uint32_t opts_len;
    const void *data;
    uint32_t len;
    bool bad_csum, broadcast;
    uint8_t doff;   /* 0 = right */
    uint16_t pkt_flags;
};
void link_inject(struct link *l, uint32_t to, const struct link_segment *s);
void link_inject_icmp(struct link *l, uint32_t to, uint16_t sport, uint16_t dport, uint32_t seq, int error,
                      uint32_t mtu);
/* The last segment host i sent, header fields parsed. */
struct link_sent {
    uint32_t seq, ack, count;
    uint16_t wnd;
    uint8_t flags;
    uint32_t len;
    uint8_t opts[40];
    uint32_t opts_len;
    uint8_t tos;
};
extern struct link_sent link_last[2];

/* save() all of host i's engine into a fresh arena. */
void link_upgrade(struct link *l, uint32_t host);
/* The daemon of host i dies and starts again on the same arena: packets it had are gone, recover() runs, and the host
 * tells what its clients have (TCP_CMD_SYNC). Returns the records lost. */
uint32_t link_crash(struct link *l, uint32_t host);
/* A listener and a connection that sends `up` bytes and gets `down`; both ends close when they are done. The engines'
 * configs may be NULL. */
struct link *link_stream(uint64_t seed, const struct tcp_config *cfg, const struct link_faults *f, uint64_t up,
                         uint64_t down);
bool link_all_closed(struct link *l);
/* NULL, or what is wrong with the streams that have ended. */
const char *link_stream_wrong(struct link *l, uint64_t up, uint64_t down);
/* No packet is missing from a pool except those the engines keep and the link carries. */
bool link_pools_whole(struct link *l);

#endif
