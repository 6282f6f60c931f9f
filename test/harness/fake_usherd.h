/* SPDX-License-Identifier: Apache-2.0
 *
 * A daemon inside a test process: the session socket (with the generated protobuf code, so that libusher's own encoding
 * is held against it) and the shared-memory protocol, with one thread for each, or stepped by hand. It has no network:
 * it echoes, swallows, holds back or injects datagrams, and it can be stubborn in all the ways below.
 *
 * Threads: calls are the test's, from any thread; one mutex guards the whole.
 */
#ifndef USHER_TEST_FAKE_USHERD_H
#define USHER_TEST_FAKE_USHERD_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/usher_shm.h"

struct fake;

enum fake_rpc {
    FAKE_RPC_ATTACH = 2, FAKE_RPC_OPEN, FAKE_RPC_UPDATE, FAKE_RPC_CLOSE, FAKE_RPC_SET_OPTION, FAKE_RPC_GROUP,
    FAKE_RPC_COUNT,
};

/* What is wrong with the answer to the request named in fake_config.fault_at. */
enum fake_fault {
    FAULT_NONE,
    FAULT_DIE,        /* the daemon is gone before it answers */
    FAULT_ERROR,      /* errno ENOBUFS with a text */
    FAULT_GARBAGE,    /* bytes that are no message */
    FAULT_CUT,        /* the message ends early */
    FAULT_NO_FDS,     /* without its file descriptors */
    FAULT_MANY_FDS,   /* with more of them than were asked for */
    FAULT_STALE_ID,   /* an answer to another request first, then the right one */
    FAULT_BAD_HANDLE, /* a handle beyond socket_max */
    FAULT_BAD_SET,
    FAULT_KERNEL,     /* accelerated = false with a reason */
    FAULT_LONG_TEXT,  /* a reason and text of 2000 bytes */
    FAULT_COUNT,
};

struct fake_config {
    uint32_t cq_entries, sq_entries; /* 0 = 64 */
    uint32_t socket_max;             /* 0 = 64 */
    uint32_t tx_copy_max;            /* 0 = 1024 */
    uint32_t cell_bytes;             /* 0 = 2048; every received datagram takes one cell */
    uint32_t tx_bytes, rx_bytes;     /* 0 = 1 MiB */
    uint32_t tx_limit, rx_quota;     /* 0 = 256 KiB */
    uint32_t sets;                   /* 0 = 1: sockets go round them */
    int32_t worker_cpu;              /* 0 = unknown (-1); else core + 1 */
    bool manual;                     /* no worker thread: fake_step() */
    bool wire_order_lossy;           /* drops every third datagram */
    bool swallow;                    /* takes sends and answers none */
    uint16_t bounce_port;            /* sends to ports from here on come back as USH_RECV_BOUNCED; 0 = none */
    bool greet;                      /* a datagram reaches each socket before the answer to its open does */
    enum fake_fault fault;
    enum fake_rpc fault_at;
    void (*spoil)(struct ush_header *h, uint32_t arg); /* ruins the header before the client sees it */
    uint32_t spoil_arg;
    bool unsealed;
};

struct fake_stats {
    uint64_t sends, send_bytes, releases, recvs, no_cell, cq_full, kicks_seen, wakes, sleeps, bad;
    uint32_t cells_lent, opens, updates, closes, options, groups, attached;
    uint32_t stream_options, ahead; /* OPTION entries; those for a CONNECT to come */
    uint32_t listen_options;        /* that came with the last Open */
    uint32_t last_bound, last_option_handle, last_remote_port;
    uint32_t last_option;
    int64_t last_option_value;
    uint64_t last_user_data;
    uint8_t last_tos, last_flags;
    uint16_t last_gso_size;
};

/* NULL: fails the test with a sentence on stderr. */
struct fake *fake_start(const struct fake_config *config);
void fake_stop(struct fake *f);
const char *fake_path(const struct fake *f);
void fake_stats_get(struct fake *f, struct fake_stats *ret_stats);

/* Closes every connection at once, as kill -9 would. */
void fake_die(struct fake *f);
/* The worker takes no submissions while held. */
void fake_hold(struct fake *f, bool hold);
/* Sends are taken, but tx_done does not move and lent buffers are kept while held. Letting go returns all of it. */
void fake_hold_credit(struct fake *f, bool hold);
/* One worker turn; returns the entries taken. For `manual`. */
unsigned fake_step(struct fake *f);
/* A datagram for `handle` from 192.0.2.1:7; false when there was no room. */
bool fake_inject(struct fake *f, uint32_t handle, const void *data, uint32_t len);
void fake_error(struct fake *f, uint32_t handle, int error);
/* Puts a completion into a set as it is; seq is added. */
void fake_raw(struct fake *f, uint32_t set, const struct ush_cqe *e);
/* The client's own session's shared memory, as the daemon maps it. */
struct ush_set *fake_set(struct fake *f, uint32_t index);

#endif
