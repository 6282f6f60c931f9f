/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames from a socket by one multishot receive; see uring_rx.h. It interprets nothing: what the prefix says is the
 * caller's business.
 */
#include "dataplane/port/uring_rx.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define BUFFER_GROUP 0
#define SQ_ENTRIES   8u
#define TAG_RECEIVE  1ull
#define TAG_CANCEL   2ull

/* Provided-buffer rings are mapped, page aligned, by the user. */
static size_t bufs_bytes(const struct uring_rx *u) {
    return u->entries * sizeof(struct io_uring_buf);
}

int uring_rx_create(struct uring_rx *u, int fd, struct pkt_pool *pool, uint32_t entries, uint32_t prefix) {
    CHECK(prefix <= PKT_HEADROOM);
    if (entries == 0 || entries > 32768 || (entries & (entries - 1)) != 0)
        return -EINVAL;
    *u = (struct uring_rx){.fd = fd, .pool = pool, .entries = entries, .prefix = prefix};
    u->slot = calloc(entries, sizeof *u->slot);
    u->spare = calloc(entries, sizeof *u->spare);
    void *bufs = mmap(NULL, bufs_bytes(u), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    u->bufs = bufs == MAP_FAILED ? NULL : bufs;
    if (u->slot == NULL || u->spare == NULL || u->bufs == NULL) {
        uring_rx_destroy(u);
        return -ENOMEM;
    }
    return 0;
}

/* Lends packets to the kernel for every buffer number that has none. One slot and one pkt line 0 each. */
static void lend(struct uring_rx *u) {
    int mask = io_uring_buf_ring_mask(u->entries);
    int added = 0;
    while (u->spare_count > 0) {
        struct pkt *p = pkt_alloc(u->pool);
        if (UNLIKELY(p == NULL))
            break; /* a later call tries again */
        uint16_t id = u->spare[--u->spare_count];
        u->slot[id] = p;
        io_uring_buf_ring_add(u->bufs, p->data - u->prefix, p->buf_size - PKT_HEADROOM + u->prefix, id, mask, added);
        added++;
    }
    io_uring_buf_ring_advance(u->bufs, added);
}

static void unlend(struct uring_rx *u) {
    for (uint32_t i = 0; u->slot != NULL && i < u->entries; i++) {
        if (u->slot[i] != NULL)
            pkt_free(u->pool, u->slot[i]);
        u->slot[i] = NULL;
    }
}

/* Queues the receive unless it runs. False when there is no buffer to receive into. */
static bool start(struct uring_rx *u) {
    if (u->receiving)
        return true;
    if (u->spare_count == u->entries)
        return false;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (sqe == NULL)
        return false;
    /* MSG_TRUNC: the result is the frame's true length, so a frame that did not fit is known. */
    io_uring_prep_recv_multishot(sqe, u->fd, NULL, 0, MSG_TRUNC);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFER_GROUP;
    io_uring_sqe_set_data64(sqe, TAG_RECEIVE);
    u->receiving = true;
    return true;
}

int uring_rx_open(struct uring_rx *u) {
    struct io_uring_params params = {
        .flags =
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE,
        .cq_entries = u->entries * 2,
    };
    int error = io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &params);
    if (error < 0)
        return error;
    io_uring_buf_ring_init(u->bufs);
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)u->bufs, .ring_entries = u->entries, .bgid = BUFFER_GROUP};
    error = io_uring_register_buf_ring(&u->ring, &reg, 0);
    if (error < 0) {
        io_uring_queue_exit(&u->ring);
        return error;
    }
    u->open = true;
    u->receiving = false;
    u->spare_count = u->entries;
    for (uint32_t i = 0; i < u->entries; i++)
        u->spare[i] = (uint16_t)(u->entries - 1 - i);
    lend(u);
    if (start(u))
        io_uring_submit(&u->ring);
    return 0;
}

/* The packet of one completion, or NULL when it brought none. */
static struct pkt *complete(struct uring_rx *u, const struct io_uring_cqe *cqe) {
    if (UNLIKELY(!(cqe->flags & IORING_CQE_F_MORE)))
        u->receiving = false; /* out of buffers, or an error: take() starts it again */
    if (UNLIKELY(!(cqe->flags & IORING_CQE_F_BUFFER))) {
        u->errors += cqe->res != -ENOBUFS && cqe->res != -ECANCELED;
        return NULL;
    }
    uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    CHECK(id < u->entries && u->slot[id] != NULL);
    struct pkt *p = u->slot[id];
    u->slot[id] = NULL;
    u->spare[u->spare_count++] = id;
    uint32_t room = p->buf_size - PKT_HEADROOM + u->prefix;
    if (UNLIKELY(cqe->res < (int)u->prefix || (uint32_t)cqe->res > room)) {
        u->truncated += cqe->res > 0;
        u->errors += cqe->res <= 0;
        pkt_free(u->pool, p);
        return NULL;
    }
    p->len = (uint32_t)cqe->res - u->prefix;
    return p;
}

static uint32_t completions(struct uring_rx *u, struct pkt **ret_pkts, uint32_t max) {
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;
    uint32_t n = 0;
    io_uring_for_each_cqe(&u->ring, head, cqe) {
        if (n == max)
            break;
        seen++;
        if (LIKELY(cqe->user_data == TAG_RECEIVE)) {
            struct pkt *p = complete(u, cqe);
            if (LIKELY(p != NULL))
                ret_pkts[n++] = p;
        }
    }
    io_uring_cq_advance(&u->ring, seen);
    return n;
}

static bool wants_entry(const struct uring_rx *u) {
    return (IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) || !u->receiving;
}

uint32_t uring_rx_take(struct uring_rx *u, struct pkt **ret_pkts, uint32_t max) {
    if (UNLIKELY(!u->open))
        return 0;
    uint32_t n = completions(u, ret_pkts, max);
    if (u->spare_count > 0)
        lend(u);
    if (n > 0 || LIKELY(!wants_entry(u)) || !start(u))
        return n;
    io_uring_submit_and_get_events(&u->ring); /* the one system call of a burst; frames are copied in it */
    n = completions(u, ret_pkts, max);
    if (u->spare_count > 0)
        lend(u);
    return n;
}

bool uring_rx_pending(const struct uring_rx *u) {
    return u->open && (io_uring_cq_ready(&u->ring) > 0 || wants_entry(u));
}

/* Ends the receive and waits for its last completion. The kernel answers at once: nothing here blocks on the wire. */
static uint32_t cancel(struct uring_rx *u, struct pkt **ret_pkts) {
    uint32_t n = completions(u, ret_pkts, u->entries);
    while (u->receiving) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (sqe == NULL)
            break;
        io_uring_prep_cancel64(sqe, TAG_RECEIVE, 0);
        io_uring_sqe_set_data64(sqe, TAG_CANCEL);
        if (io_uring_submit_and_wait(&u->ring, 1) < 0)
            break;
        n += completions(u, ret_pkts + n, u->entries - n);
    }
    return n;
}

uint32_t uring_rx_close(struct uring_rx *u, struct pkt **ret_pkts) {
    if (!u->open)
        return 0;
    uint32_t n = cancel(u, ret_pkts);
    io_uring_queue_exit(&u->ring);
    u->open = false;
    unlend(u);
    return n;
}

void uring_rx_destroy(struct uring_rx *u) {
    if (u->open)
        io_uring_queue_exit(&u->ring); /* on whatever thread: the kernel cancels what is under way */
    u->open = false;
    unlend(u);
    if (u->bufs != NULL)
        munmap(u->bufs, bufs_bytes(u));
    free(u->slot);
    free(u->spare);
    *u = (struct uring_rx){.fd = -1};
}
