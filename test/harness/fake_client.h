/* SPDX-License-Identifier: Apache-2.0
 *
 * A client that speaks the shared memory of proto/usher_shm.h by hand, for tests of the daemon's side: no socket, no
 * library, no checks. One thread uses one of them. It keeps to the rules unless a test breaks them on purpose.
 */
#ifndef USHER_TEST_HARNESS_FAKE_CLIENT_H
#define USHER_TEST_HARNESS_FAKE_CLIENT_H

#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/usher_shm.h"

struct fake_client {
    uint8_t *base;
    uint64_t size;
    struct ush_header h; /* a copy, taken at once */
    struct ush_set *set;
    struct ush_cqe *cq;
    struct ush_sqe *sq;
    uint32_t sq_tail, cq_head, release_count;
    uint32_t release[14];
    int kick_fd, wake_fd;
    uint64_t kicks;
};

/* Borrows the fds. */
static inline int fake_client_map(struct fake_client *c, int memfd, int wake_fd) {
    struct stat st;
    memset(c, 0, sizeof *c);
    c->kick_fd = -1;
    c->wake_fd = wake_fd;
    if (fstat(memfd, &st) < 0)
        return -1;
    c->size = (uint64_t)st.st_size;
    void *p = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memfd, 0);
    if (p == MAP_FAILED)
        return -1;
    c->base = p;
    memcpy(&c->h, p, sizeof c->h);
    return c->h.magic == USH_MAGIC && c->h.total_size == c->size ? 0 : -1;
}

static inline void fake_client_unmap(struct fake_client *c) { munmap(c->base, c->size); }

static inline void fake_client_use_set(struct fake_client *c, uint32_t set, uint32_t sq, int kick_fd) {
    uint8_t *base = c->base + c->h.set_off + c->h.set_stride * set;
    c->set = (struct ush_set *)base;
    c->cq = (struct ush_cqe *)(base + ush_cq_off());
    c->sq = (struct ush_sqe *)(base + ush_sq_off(c->h.cq_entries, c->h.sq_entries, sq));
    c->kick_fd = kick_fd;
}

static inline uint8_t *fake_client_tx(struct fake_client *c, uint32_t off) { return c->base + c->h.tx_off + off; }
static inline uint8_t *fake_client_rx(struct fake_client *c, uint32_t off) { return c->base + c->h.rx_off + off; }

static inline void fake_client_put(struct fake_client *c, struct ush_sqe *e) {
    struct ush_sqe *at = &c->sq[c->sq_tail % c->h.sq_entries];
    memcpy((uint8_t *)at + 4, (const uint8_t *)e + 4, sizeof *e - 4);
    c->sq_tail++;
    __atomic_store_n(&at->seq, c->sq_tail, __ATOMIC_RELEASE);
}

/* Entry, full fence, flag: the client's half of the kick protocol. */
static inline void fake_client_kick(struct fake_client *c) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (c->kick_fd >= 0 && __atomic_load_n(&c->set->need_kick, __ATOMIC_RELAXED) != 0) {
        c->kicks++;
        (void)eventfd_write(c->kick_fd, 1);
    }
}

/* addr: 16 bytes, or NULL for the connected peer. */
static inline void fake_client_send(struct fake_client *c, uint32_t handle, uint32_t off, uint32_t len,
                                    const uint8_t *addr, uint16_t port) {
    struct ush_sqe e = {.op = USH_OP_SEND, .flags = addr != NULL ? USH_SEND_TO : 0};
    e.send.handle = handle;
    e.send.off = off;
    e.send.len = len;
    e.send.port = port;
    if (addr != NULL)
        memcpy(e.send.addr, addr, 16);
    fake_client_put(c, &e);
}

static inline void fake_client_connect(struct fake_client *c, uint32_t handle, const uint8_t *addr, uint16_t port) {
    struct ush_sqe e = {.op = USH_OP_CONNECT};
    e.connect.handle = handle;
    e.connect.port = port;
    memcpy(e.connect.addr, addr, 16);
    fake_client_put(c, &e);
}

/* SHUTDOWN, CLOSE. */
static inline void fake_client_stream(struct fake_client *c, uint8_t op, uint8_t flags, uint32_t handle) {
    struct ush_sqe e = {.op = op, .flags = flags};
    e.stream.handle = handle;
    fake_client_put(c, &e);
}

static inline void fake_client_release_flush(struct fake_client *c) {
    if (c->release_count == 0)
        return;
    struct ush_sqe e = {.op = USH_OP_RELEASE, .count = (uint8_t)c->release_count};
    memcpy(e.release.cell, c->release, sizeof e.release.cell);
    c->release_count = 0;
    fake_client_put(c, &e);
}

static inline void fake_client_release(struct fake_client *c, uint32_t cell) {
    c->release[c->release_count++] = cell;
    if (c->release_count == 14)
        fake_client_release_flush(c);
}

/* One completion, if there is one; its place in the ring is given back. */
static inline bool fake_client_take(struct fake_client *c, struct ush_cqe *ret_e) {
    struct ush_cqe *at = &c->cq[c->cq_head % c->h.cq_entries];
    if (__atomic_load_n(&at->seq, __ATOMIC_ACQUIRE) != c->cq_head + 1)
        return false;
    memcpy(ret_e, at, sizeof *ret_e);
    c->cq_head++;
    __atomic_store_n(&c->set->cq_head, c->cq_head, __ATOMIC_RELEASE);
    return true;
}

static inline bool fake_client_ready(const struct fake_client *c) {
    return __atomic_load_n(&c->cq[c->cq_head % c->h.cq_entries].seq, __ATOMIC_ACQUIRE) == c->cq_head + 1;
}

static inline void fake_client_ticket(struct fake_client *c, uint32_t step) {
    __atomic_store_n(&c->set->wait_ticket, c->set->wait_ticket + step, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Sleeps until there is a completion; false after timeout_ms without one. The client's half of the wake protocol: a
 * new odd ticket, a fence, one more look, sleep. A byte may come late, for an earlier ticket: then the same again. */
static inline bool fake_client_wait(struct fake_client *c, int timeout_ms) {
    fake_client_ticket(c, 1);
    while (!fake_client_ready(c)) {
        struct pollfd p = {.fd = c->wake_fd, .events = POLLIN};
        char bytes[64];
        if (poll(&p, 1, timeout_ms) == 0)
            break;
        while (recv(c->wake_fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            continue;
        fake_client_ticket(c, 2);
    }
    fake_client_ticket(c, 1);
    return fake_client_ready(c);
}

#endif
