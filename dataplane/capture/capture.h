/* SPDX-License-Identifier: Apache-2.0
 *
 * Captures: what crosses a tap and passes a capture's program is copied, cut to its snap length, into a ring of bytes
 * that another thread empties. One ring for each shard: single producer (the shard's worker), single consumer (the
 * capture's reader). A record for which there is no room is counted and gone: the packet path never waits.
 *
 * Threads: capture_host_*, capture_open and capture_close are control's; capture_next() to capture_sleep() are one
 * reader's; capture_counts() is anybody's. The tap itself runs on workers.
 *
 * Cost: none while nothing is captured, but for the pipeline's one branch a burst at each tap. While a capture is open
 * each packet costs a look at its protocol or a run of the program, and each match the copy; and datagrams between
 * sockets of this host take the way past the link engine, where the taps are.
 */
#ifndef USHER_DATAPLANE_CAPTURE_CAPTURE_H
#define USHER_DATAPLANE_CAPTURE_CAPTURE_H

#include <linux/filter.h>

#include "dataplane/core/runtime.h"

#define CAPTURE_MAX      8u /* open at a time */
#define CAPTURE_SNAP_MAX 262144u
#define CAPTURE_RING_MIN (1u << 20) /* any record fits */
#define CAPTURE_RING_MAX (64u << 20)

struct capture;
struct capture_host;

enum capture_flag {
    CAPTURE_OUT = 1 << 0,       /* this host sends it */
    CAPTURE_MADE_UP = 1 << 1,   /* headers were made from what is known of the flow */
    CAPTURE_CSUM_OK = 1 << 2,   /* the port says that the transport checksum is right */
    CAPTURE_CSUM_LATER = 1 << 3, /* the checksum is left to the port, or to nobody because nothing can corrupt it */
    CAPTURE_GSO = 1 << 4,       /* one frame for many: gso_size */
    CAPTURE_KERNEL = 1 << 5,    /* of the kernel's own sockets: not from a tap of ours */
};

/* One packet; `captured` bytes follow. Lies in the ring until it is released. */
struct capture_record {
    uint32_t size;     /* of record and bytes, a multiple of 8 */
    uint32_t captured; /* bytes that follow */
    uint32_t length;   /* of the frame */
    uint32_t owner;    /* index of the owner table, 0 = nobody's, or not known */
    uint64_t time_ns;  /* monotonic */
    uint32_t rule;     /* of the policy, with DROP_POLICY */
    uint16_t drop;     /* enum drop_reason; DROP_NONE unless point is TAP_DROP or TAP_MIRROR */
    uint16_t port;     /* slot */
    uint16_t gso_size;
    uint8_t point; /* enum tap_point */
    uint8_t shard;
    uint8_t flags; /* enum capture_flag */
    uint8_t proto; /* of the transport that asked or was asked for the owner; 0 = none */
    uint8_t pad[2];
};
STATIC_ASSERT(sizeof(struct capture_record) % 8 == 0, "the next record is aligned as well");

struct capture_params {
    const struct sock_filter *code; /* count 0: every packet */
    uint32_t count;
    uint32_t points;     /* bits of 1 << enum tap_point */
    uint32_t ports;      /* bits of 1 << slot; what has no port is always of interest. 0 = all */
    uint32_t snaplen;    /* 0 = CAPTURE_SNAP_MAX */
    uint32_t sample;     /* one of so many that match; 0 = 1 */
    uint32_t ring_bytes; /* for each shard, rounded up to a power of two; 0 = 4 MiB */
    uint64_t limit;      /* a shard that has recorded so many stops; 0 = none. The reader cuts exactly */
};

struct capture_counts {
    uint64_t seen;     /* packets that crossed a tap of interest */
    uint64_t matched;  /* of those, by the program */
    uint64_t recorded; /* of those, after sampling */
    uint64_t lost;     /* would have been recorded, but the ring was full */
};

int capture_host_create(struct runtime *rt, struct capture_host **ret_host);
/* The captures must be closed. */
void capture_host_destroy(struct capture_host *h);

/* Begins to record. 0; -EINVAL with the instruction that is wrong in *ret_at; -EMFILE: CAPTURE_MAX are open. */
int capture_open(struct capture_host *h, const struct capture_params *params, struct capture **ret_capture,
                 uint32_t *ret_at);
/* Takes it off the taps and frees it. Its reader has stopped. */
void capture_close(struct capture *c);

/* The oldest record there is, over all shards; NULL when there is none. It stays until capture_release(). */
const struct capture_record *capture_next(struct capture *c);
void capture_release(struct capture *c, const struct capture_record *r);
static inline const uint8_t *capture_bytes(const struct capture_record *r) { return (const uint8_t *)(r + 1); }

/* Readable when there may be records, once capture_sleep() has said false. */
int capture_fd(const struct capture *c);
/* The reader is about to wait for capture_fd(). True: there is something after all. */
bool capture_sleep(struct capture *c);
/* It woke up. */
void capture_wake(struct capture *c);

void capture_counts(const struct capture *c, struct capture_counts *ret_counts);

#endif
