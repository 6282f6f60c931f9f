/* SPDX-License-Identifier: Apache-2.0
 *
 * A port: one queue pair set through which a shard's packets enter and leave. Kinds: pair, packet, xdp, tap; decorators
 * (faulty, trace, pcap) wrap any kind and are ports themselves. One conformance test runs against all of them.
 *
 * Threads: create/destroy/attach on the control thread while no worker polls; rx, tx, arm and the rest of struct
 * port_queue_ops on the worker that runs the queue's shard. A queue may be moved to another worker between two polls:
 * port_queue_ops.detach on the old one, then attach on the new one; nothing is lost or reordered by it.
 */
#ifndef USHER_DATAPLANE_PORT_PORT_H
#define USHER_DATAPLANE_PORT_PORT_H

#include "engines/engine.h"

#define PORT_QUEUE_MAX 16
#define PORT_NAME_MAX 32

struct port;
struct port_queue;
struct nb_claims;

struct port_stats {
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes, rx_dropped, tx_dropped, kicks;
    uint64_t rx_partial_sums; /* AF_XDP: frames accepted with the bare pseudo-header sum of a local kernel */
    /* The kernel's own counts; zero but in what port_stats_read() returns. */
    uint64_t rx_kernel_dropped; /* frames it had no room for: the ring, or the socket's buffer, was full */
    uint64_t rx_no_buffer;      /* AF_XDP: times it found no buffer to receive into */
    uint64_t bad_descs;         /* AF_XDP: descriptors of ours that it refused */
};

struct port_queue_ops {
    /* Fills up to `max` packets from the wire: data = link header, rx flags and csum fields set, pkt->rx_ns left to the
     * caller. Packets come from the queue's pool. Never blocks; costs one or two loads when there is nothing. */
    uint32_t (*rx)(struct port_queue *q, struct pkt **ret_pkts, uint32_t max);
    /* Takes all n packets (whole frames with frags; caps say what may be left to the port). Those it cannot send go to
     * `drop` with a reason; the others come out of `reap` when their memory is free, or at once into `done`. */
    void (*tx)(struct port_queue *q, struct pkt **pkts, uint32_t n, struct pkt_vec *done, struct pkt_vec *drop);
    /* Packets whose transmission ended. */
    void (*reap)(struct port_queue *q, struct pkt_vec *done);
    /* Before the worker sleeps: makes the fd readable when there is something to receive or reap. Returns 1 when there
     * is something already (do not sleep), else 0. */
    int (*arm)(struct port_queue *q);
    /* After the worker woke up. */
    void (*disarm)(struct port_queue *q);
    /* The calling thread becomes / ceases to be the one that polls. */
    int (*attach)(struct port_queue *q);
    void (*detach)(struct port_queue *q);
};

/* What a worker polls. Embedded as the first member of each kind's own struct. */
struct port_queue {
    const struct port_queue_ops *ops;
    struct port *port;
    struct pkt_pool *rx_pool;  /* given by the host at create time; see port_queue_need */
    uint32_t index;
    int event_fd;              /* to wait on while armed (POLLIN), -1 = none (poll only) */
    bool event_level;          /* event_fd is readable exactly as long as there is something: a watch that begins after
                                  it became so still fires, so none is needed while the worker polls */
    ns_t now;                  /* set by the worker once a turn, before the first call */
    ns_t wake_at;              /* set by the port: rx wants a call by then although no fd says so; NS_NEVER = none */
    struct port_stats stats;
} CACHE_ALIGNED;

struct port_ops {
    const char *kind;
    void (*destroy)(struct port *p);
    /* Applies the interface's current MTU/state after a change the kernel reported. */
    int (*refresh)(struct port *p);
    /* Adds the kernel's counts of the queue. NULL: no kernel stands behind it. */
    void (*kernel_stats)(struct port_queue *q, struct port_stats *stats);
};

struct port {
    const struct port_ops *ops;
    char name[PORT_NAME_MAX];   /* interface or pair name */
    char mode[64];              /* for people: "native, zero-copy, need-wakeup" */
    char why[160];              /* why this kind and mode were chosen, filled by whoever chose */
    struct port_info info;
    uint32_t queue_count;
    struct port_queue *queue[PORT_QUEUE_MAX];
};

/* A pool and the memory under it. UMEM of xdp ports must lie in one memfd: the host makes pools by pktmem_create(). */
struct pktmem {
    struct pkt_pool pool;
    int memfd;      /* whole, pinned at will, never punched, never mapped by a client */
    uint8_t *base;
    size_t size;
    uint32_t frame_size; /* distance between two packets' buffers */
};

/* Frames of `frame_size` bytes: 2048 or 4096 for xdp (page aligned start), 69632 for packet ports with GSO. */
int pktmem_create(struct pktmem *m, uint32_t count, uint32_t frame_size, uint32_t shard);
void pktmem_destroy(struct pktmem *m);

struct port_error {
    char text[256];
};

struct port_params {
    const char *ifname;
    uint32_t queue_count;     /* wished; the port says what it became */
    struct nb_claims *claims; /* shared mode: whose packets are ours. NULL = every packet (tests, dedicated tap) */
    bool dedicated;
    uint8_t dedicated_mac[6];
    struct pktmem *mem[PORT_QUEUE_MAX]; /* one for each queue: receive buffers (and UMEM) */
    struct pktmem *large_mem[PORT_QUEUE_MAX]; /* may be NULL. packet: for frames that do not fit `mem`; xdp: to put
                                                 frames together that span several buffers */
    bool allow_zero_copy, allow_native, allow_generic; /* xdp */
    uint32_t ring_entries;    /* 0 = default of the kind */
};

/* 0 or -errno with a sentence that says what failed and what to do. */
int port_packet_create(const struct port_params *params, struct port **ret_port, struct port_error *err);
int port_xdp_create(const struct port_params *params, struct port **ret_port, struct port_error *err);
int port_tap_create(const struct port_params *params, struct port **ret_port, struct port_error *err);
/* Two ends joined in memory; each end may be polled by another thread. params[i].ifname is only a name. Copies frames
 * between the ends' pools. l3 = no link header. */
int port_pair_create(const struct port_params params[2], bool l3, struct port *ret_ends[2], struct port_error *err);

/* Decorators take the inner port (destroyed with them). */
struct port_faults {
    uint64_t seed;
    uint32_t drop_ppm, duplicate_ppm, corrupt_ppm, reorder_ppm;
    ns_t delay_ns, jitter_ns;
    uint64_t bottleneck_bps; /* 0 = none */
    uint32_t queue_packets;  /* of the bottleneck and the delay line */
    bool on_rx, on_tx;
};
int port_faulty_create(struct port *inner, const struct port_faults *faults, struct port **ret_port);
int port_trace_create(struct port *inner, void (*sink)(void *arg, const char *line), void *arg, struct port **ret_port);
int port_pcap_create(struct port *inner, const char *path, struct port **ret_port); /* .pcap, nanoseconds */

/* Which kind serves an interface. `wish`: "auto" or NULL, "packet", "xdp" (native), "xdp-generic", "tap". */
struct port_choice {
    const char *kind; /* "packet", "xdp" or "tap": which port_*_create() to call */
    bool allow_zero_copy, allow_native, allow_generic;
    bool large_frames; /* memory of 69632-byte frames does best; else 2048 or 4096 */
    char why[160];     /* one sentence */
};
int port_choose(const char *ifname, const char *wish, struct port_choice *ret_choice, struct port_error *err);

/* On control, at any time: what workers count, and what the kernel lost before they could (a system call). */
void port_stats_read(struct port_queue *q, struct port_stats *ret_stats);
/* Of all queues together. */
void port_stats_sum(const struct port *p, struct port_stats *ret_stats);

static inline void port_destroy(struct port *p) {
    if (p != NULL)
        p->ops->destroy(p);
}

#endif
