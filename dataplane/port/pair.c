/* SPDX-License-Identifier: Apache-2.0
 *
 * The `pair` port: two ends joined in memory. Each direction of each queue is a ring of packet pointers; the receiver
 * copies a frame into a packet of its own pool and moves `head`, which at once gives the sender its packet back. So one
 * ring and one copy do, no pool is shared, and each end may be polled by its own thread.
 *
 * Cost per frame and direction: one cache line moved for the slots of eight frames, the frame itself, and one line of
 * each `struct pkt`; a burst adds the two index lines and one fence for the sleep flag.
 *
 * Sleeping: arm() stores `armed`, then looks at the rings; the peer moves its index, then looks at `armed`; a full
 * fence stands between the two steps on both sides, so at least one of them sees the other (no lost wake-up).
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dataplane/port/port_internal.h"

#define PAIR_ENTRIES_DEFAULT 1024u
#define PAIR_MTU             1500u
#define GSO_FRAME_MAX        65536u

/* One direction. */
struct wire {
    _Atomic uint32_t tail CACHE_ALIGNED; /* sender moves it when a slot is filled */
    _Atomic uint32_t head CACHE_ALIGNED; /* receiver moves it when the frame is copied */
    bool closed;                         /* an end is gone: nothing will be taken any more */
    struct pkt **slot CACHE_ALIGNED;
    uint32_t mask;
};

struct pair_queue {
    struct port_queue q;
    struct wire *out, *in;
    uint32_t reaped;   /* in `out`: packets before it were given back */
    uint32_t out_tail; /* private copies of the index this end moves */
    uint32_t in_head;
    _Atomic uint32_t armed CACHE_ALIGNED; /* 1 = this end sleeps or is about to */
    struct pair_queue *peer;
};

struct pair_end {
    struct port port;
    struct pair *pair;
    struct pair_queue queue[PORT_QUEUE_MAX];
    struct wire wire[PORT_QUEUE_MAX]; /* to the other end */
};

/* Both ends live in one block; the last to be destroyed frees it. */
struct pair {
    struct pair_end end[2];
    uint32_t alive;
};

static struct pair_queue *pair_of(struct port_queue *q) {
    return (struct pair_queue *)q;
}

/* Pairs with the fence in pair_arm(). */
static void peer_wake(struct pair_queue *pq) {
    atomic_thread_fence(memory_order_seq_cst);
    struct pair_queue *peer = pq->peer;
    if (LIKELY(atomic_load_explicit(&peer->armed, memory_order_relaxed) == 0))
        return;
    if (atomic_exchange_explicit(&peer->armed, 0, memory_order_relaxed) != 0) {
        pq->q.stats.kicks++;
        eventfd_write(peer->q.event_fd, 1);
    }
}

static bool frame_copy(struct pkt *to, const struct pkt *from) {
    uint32_t bytes = pkt_bytes(from);
    if (UNLIKELY(bytes > to->pool->buf_size - PKT_HEADROOM)) /* to->buf_size is on a line of its own */
        return false;
    port_gather(to->data, from);
    to->len = bytes;
    to->flags = from->flags & PORT_CONTENT_FLAGS;
    if (to->flags & PKT_CSUM_PARTIAL) {
        to->csum_start = (uint16_t)(PKT_HEADROOM + (from->buf + from->csum_start - from->data));
        to->csum_offset = from->csum_offset;
    }
    if (to->flags & PKT_GSO) {
        to->gso_size = from->gso_size;
        to->gso_type = from->gso_type;
    }
    return true;
}

static uint32_t pair_rx(struct port_queue *q, struct pkt **ret_pkts, uint32_t max) {
    struct pair_queue *pq = pair_of(q);
    struct wire *w = pq->in;
    /* Acquires the slots and frames released by pair_tx(). */
    uint32_t ready = atomic_load_explicit(&w->tail, memory_order_acquire) - pq->in_head;
    if (ready == 0)
        return 0;
    uint32_t n = 0, taken = 0;
    for (; taken < ready && n < max; taken++) {
        struct pkt *p = pkt_alloc(q->rx_pool);
        if (UNLIKELY(p == NULL))
            break; /* the rest waits in the ring; the sender sees it fill */
        if (UNLIKELY(!frame_copy(p, w->slot[(pq->in_head + taken) & w->mask]))) {
            pkt_free(q->rx_pool, p);
            q->stats.rx_dropped++;
            continue;
        }
        q->stats.rx_bytes += p->len;
        ret_pkts[n++] = p;
    }
    q->stats.rx_packets += n;
    pq->in_head += taken;
    /* Releases the copied frames to pair_reap() of the peer. */
    atomic_store_explicit(&w->head, pq->in_head, memory_order_release);
    peer_wake(pq);
    return n;
}

static void pair_reap(struct port_queue *q, struct pkt_vec *done) {
    struct pair_queue *pq = pair_of(q);
    struct wire *w = pq->out;
    /* Acquires: the receiver has read these frames for the last time. */
    uint32_t head = atomic_load_explicit(&w->head, memory_order_acquire);
    while (pq->reaped != head && pkt_vec_push(done, w->slot[pq->reaped & w->mask]))
        pq->reaped++;
}

static void pair_tx(struct port_queue *q, struct pkt **pkts, uint32_t n, struct pkt_vec *done, struct pkt_vec *drop) {
    struct pair_queue *pq = pair_of(q);
    struct wire *w = pq->out;
    (void)done; /* frames are always still being read: they come out of reap */
    uint32_t room = w->mask + 1 - (pq->out_tail - pq->reaped);
    uint32_t sent = w->closed ? 0 : n < room ? n : room;
    for (uint32_t i = 0; i < sent; i++) {
        w->slot[(pq->out_tail + i) & w->mask] = pkts[i];
        q->stats.tx_bytes += pkt_bytes(pkts[i]);
    }
    for (uint32_t i = sent; i < n; i++)
        port_drop(q, drop, pkts[i], w->closed ? DROP_PORT_DOWN : DROP_PORT_TX_FULL);
    if (sent == 0)
        return;
    q->stats.tx_packets += sent;
    pq->out_tail += sent;
    atomic_store_explicit(&w->tail, pq->out_tail, memory_order_release);
    peer_wake(pq);
}

static bool pair_has_work(struct pair_queue *pq) {
    return atomic_load_explicit(&pq->in->tail, memory_order_relaxed) != pq->in_head ||
           atomic_load_explicit(&pq->out->head, memory_order_relaxed) != pq->reaped;
}

static int pair_arm(struct port_queue *q) {
    struct pair_queue *pq = pair_of(q);
    atomic_store_explicit(&pq->armed, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* pairs with the one in peer_wake() */
    if (!pair_has_work(pq))
        return 0;
    q->ops->disarm(q);
    return 1;
}

static void pair_disarm(struct port_queue *q) {
    struct pair_queue *pq = pair_of(q);
    /* When the peer has taken the flag its write is done or on its way; a late one only wakes us once for nothing. */
    if (atomic_exchange_explicit(&pq->armed, 0, memory_order_relaxed) == 0) {
        eventfd_t ignored;
        (void)eventfd_read(q->event_fd, &ignored);
    }
}

static int pair_attach(struct port_queue *q) {
    (void)q;
    return 0;
}

static void pair_detach(struct port_queue *q) {
    (void)q;
}

static const struct port_queue_ops pair_queue_ops = {
    .rx = pair_rx,
    .tx = pair_tx,
    .reap = pair_reap,
    .arm = pair_arm,
    .disarm = pair_disarm,
    .attach = pair_attach,
    .detach = pair_detach,
};

static void pair_free(struct pair *pair) {
    for (uint32_t e = 0; e < 2; e++) {
        struct pair_end *end = &pair->end[e];
        for (uint32_t i = 0; i < end->port.queue_count; i++) {
            if (end->queue[i].q.event_fd >= 0)
                close(end->queue[i].q.event_fd);
            free(end->wire[i].slot);
        }
    }
    free(pair);
}

/* Nobody polls either end now. What was under way is lost: each sender gets its packets back. */
static void queue_close(struct pair_queue *pq) {
    struct pair_queue *peer = pq->peer;
    pq->out->closed = pq->in->closed = true;
    peer->in_head = pq->out_tail;
    atomic_store(&pq->out->head, pq->out_tail);
    atomic_store(&pq->in->head, peer->out_tail); /* the peer's come out of its reap */
    for (; pq->reaped != pq->out_tail; pq->reaped++) {
        struct pkt *p = pq->out->slot[pq->reaped & pq->out->mask];
        pkt_free(p->pool, p);
    }
}

static void pair_destroy(struct port *p) {
    struct pair_end *end = (struct pair_end *)p;
    for (uint32_t i = 0; i < p->queue_count; i++)
        queue_close(&end->queue[i]);
    if (--end->pair->alive == 0)
        pair_free(end->pair);
}

static int pair_refresh(struct port *p) {
    (void)p;
    return 0;
}

static const struct port_ops pair_ops = {.kind = "pair", .destroy = pair_destroy, .refresh = pair_refresh};

static int queue_create(struct pair *pair, uint32_t e, uint32_t index, uint32_t entries, struct pkt_pool *pool) {
    struct pair_end *end = &pair->end[e];
    struct pair_end *other = &pair->end[1 - e];
    struct pair_queue *pq = &end->queue[index];
    end->port.queue_count = index + 1;
    port_queue_init(&pq->q, &pair_queue_ops, &end->port, index, pool);
    pq->out = &end->wire[index];
    pq->in = &other->wire[index];
    pq->peer = &other->queue[index];
    pq->out->mask = entries - 1;
    pq->out->slot = calloc(entries, sizeof(struct pkt *));
    pq->q.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pq->out->slot == NULL)
        return -ENOMEM;
    return pq->q.event_fd < 0 ? -errno : 0;
}

static void info_fill(struct pair_end *end, uint32_t e, bool l3, const struct pkt_pool *peer_pool) {
    struct port_info *info = &end->port.info;
    info->up = true;
    info->mtu = PAIR_MTU;
    info->caps = PORT_CAP_TX_CSUM | PORT_CAP_TX_FRAGS;
    if (peer_pool->buf_size >= GSO_FRAME_MAX + PKT_HEADROOM)
        info->caps |= PORT_CAP_TX_GSO_TCP | PORT_CAP_TX_GSO_UDP;
    if (l3)
        info->caps |= PORT_CAP_L3;
    memcpy(info->mac, (uint8_t[]){0x02, 0, 0, 0, 0, (uint8_t)(e + 1)}, 6);
    snprintf(end->port.mode, sizeof end->port.mode, "in memory");
}

static int pair_check(const struct port_params params[2], struct port_error *err) {
    for (uint32_t e = 0; e < 2; e++) {
        int error = port_params_check("pair", &params[e], err);
        if (error < 0)
            return error;
    }
    if (params[0].queue_count != params[1].queue_count)
        return port_fail(err, -EINVAL, "pair port %s: both ends need the same number of queues", params[0].ifname);
    return 0;
}

int port_pair_create(const struct port_params params[2], bool l3, struct port *ret_ends[2], struct port_error *err) {
    uint32_t entries = params[0].ring_entries == 0 ? PAIR_ENTRIES_DEFAULT : params[0].ring_entries;
    int error = pair_check(params, err);
    if (error < 0)
        return error;
    struct pair *pair = aligned_alloc(CACHE_LINE, sizeof *pair);
    if (pair == NULL)
        return port_fail(err, -ENOMEM, "pair %s: no memory", params[0].ifname);
    memset(pair, 0, sizeof *pair);
    pair->alive = 2;
    for (uint32_t e = 0; e < 2 && error == 0; e++) {
        struct pair_end *end = &pair->end[e];
        end->pair = pair;
        port_init(&end->port, &pair_ops, params[e].ifname);
        info_fill(end, e, l3, &params[1 - e].mem[0]->pool);
        for (uint32_t i = 0; i < params[e].queue_count && error == 0; i++)
            error = queue_create(pair, e, i, entries, &params[e].mem[i]->pool);
    }
    if (error < 0) {
        pair_free(pair);
        return port_fail(err, error, "pair %s: cannot make its queues: %s", params[0].ifname, strerror(-error));
    }
    ret_ends[0] = &pair->end[0].port;
    ret_ends[1] = &pair->end[1].port;
    return 0;
}
