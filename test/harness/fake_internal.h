/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake daemon's state, shared by its two files. Everything is under `lock`.
 */
#ifndef USHER_TEST_FAKE_INTERNAL_H
#define USHER_TEST_FAKE_INTERNAL_H

#include <pthread.h>

#include "test/harness/fake_usherd.h"

#define FAKE_HELD_MAX 65536

struct fake_set {
    struct ush_set *shm;
    struct ush_cqe *cq;
    struct ush_sqe *sq;
    uint32_t cq_pos, sq_pos, woken;
    bool known, dirty;
};

struct fake_socket {
    bool open;
    uint8_t local[16], peer[16];
    uint16_t peer_port, local_port;
    bool listens;
};

/* Streams: by index after the sockets opened by RPC. Two connected to one another, or one that echoes. */
#define FAKE_STREAMS 64
struct fake_stream {
    uint32_t handle, peer; /* USH_NONE: echoes */
    bool open, hung_up, left;
};

struct fake_held {
    struct fake_set *set;
    uint32_t handle, off, len;
};

struct fake {
    struct fake_config config;
    struct fake_stats stats;
    pthread_mutex_t lock;
    pthread_t control, worker;
    bool stop, hold, hold_credit, refuse;
    char dir[64], path[108];
    int listen_fd, conn_fd, wake_fd, wake_peer, memfd, kick_fd, stop_fd;
    struct ush_header h;
    uint8_t *base;
    struct fake_set set[USH_SET_MAX];
    struct fake_socket *socket;
    struct fake_stream stream[2 * FAKE_STREAMS]; /* the client's, then the accepted ones */
    uint32_t *cell_free;
    bool *cell_lent;
    uint32_t cell_free_count, cell_count;
    uint32_t held_count;
    struct fake_held held[FAKE_HELD_MAX];
};

void *fake_control_main(void *arg);
void fake_drop_session(struct fake *f);
/* A datagram to a handle; under the lock. */
bool fake_deliver(struct fake *f, uint32_t handle, const void *data, uint32_t len);
/* Takes what a set's ring still holds. */
void fake_take_rest(struct fake *f, uint32_t set);

#endif
