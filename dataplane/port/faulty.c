/* SPDX-License-Identifier: Apache-2.0
 *
 * The `faulty` decorator: a bad wire in front of a good port. Seeded and driven by q->now alone, so the same seed,
 * times and packets give the same faults. Each way of each queue is a line: drop, duplicate, corrupt, then a
 * bottleneck, a delay with jitter (which keeps order) and reordering (which does not).
 *
 * Packets on a line are kept: received ones until they are due, packets to send likewise before the inner port sees
 * them. Copies it makes (duplicates, corrupted frames: the sender's own bytes are never touched) come from the receive
 * pool and go back there. Runs on the queue's worker.
 */
#include <errno.h>
#include <stdlib.h>

#include "dataplane/port/csum.h"
#include "dataplane/port/wrap.h"

#define LINE_PACKETS_DEFAULT 1024u
#define LINE_PACKETS_MAX     65536u
#define REORDER_HOLD_MIN     NS_PER_MS
#define PPM                  1000000u

struct held {
    ns_t due;
    struct pkt *p;
};

/* Packets by due time; equal times in order of arrival. A ring would do without jitter; insertion is near the end. */
struct line {
    struct held *held;
    uint32_t head, count, max;
    ns_t free_at;  /* bottleneck: when the last bit of the previous packet has left */
    ns_t last_due; /* jitter must not overtake */
    uint64_t rng;
    bool faulty; /* else packets pass as they are */
};

struct faulty_queue {
    struct wrap_queue wrap;
    const struct port_faults *faults;
    struct line rx, tx;
    uint8_t *copy; /* by index in the receive pool: 1 = a copy of ours is under way */
    uint32_t copies;
    struct pkt_vec *done, *drop; /* what the inner port hands back, before our copies are taken out */
};

struct faulty_port {
    struct wrap_port wrap;
    struct port_faults faults;
    struct faulty_queue *queue[PORT_QUEUE_MAX];
};

static struct faulty_queue *faulty_of(struct port_queue *q) {
    return (struct faulty_queue *)q;
}

/* --- chance ---------------------------------------------------------------------------------------------------- */

static uint64_t random_next(struct line *l) { /* splitmix64 */
    uint64_t z = (l->rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool happens(struct line *l, uint32_t ppm) {
    return ppm != 0 && random_next(l) % PPM < ppm;
}

/* --- the line -------------------------------------------------------------------------------------------------- */

static bool line_full(const struct line *l) {
    return l->count == l->max;
}

static struct held *line_at(struct line *l, uint32_t i) {
    return &l->held[(l->head + i) % l->max];
}

static void line_insert(struct line *l, struct pkt *p, ns_t due) {
    uint32_t i = l->count++;
    for (; i > 0 && line_at(l, i - 1)->due > due; i--)
        *line_at(l, i) = *line_at(l, i - 1);
    *line_at(l, i) = (struct held){due, p};
}

static ns_t line_due(const struct line *l) {
    return l->count == 0 ? NS_NEVER : l->held[l->head].due;
}

static struct pkt *line_take(struct line *l) {
    struct pkt *p = l->held[l->head].p;
    l->head = (l->head + 1) % l->max;
    l->count--;
    return p;
}

/* When a packet that enters the line now comes out. */
static ns_t line_plan(struct line *l, const struct port_faults *f, uint32_t bytes, ns_t now) {
    ns_t due = now;
    if (f->bottleneck_bps != 0) {
        ns_t start = l->free_at > now ? l->free_at : now;
        l->free_at = start + (ns_t)((unsigned __int128)bytes * 8 * NS_PER_SEC / f->bottleneck_bps);
        due = l->free_at;
    }
    due += f->delay_ns;
    if (f->jitter_ns != 0)
        due += random_next(l) % f->jitter_ns;
    if (happens(l, f->reorder_ppm)) {
        ns_t hold = f->delay_ns + f->jitter_ns;
        return due + (hold > REORDER_HOLD_MIN ? hold : REORDER_HOLD_MIN); /* later ones overtake it */
    }
    due = due > l->last_due ? due : l->last_due;
    l->last_due = due;
    return due;
}

/* --- copies ---------------------------------------------------------------------------------------------------- */

/* A copy with everything that speaks of the content, or NULL when it does not fit or no packet is free. */
static struct pkt *copy_make(struct faulty_queue *fq, const struct pkt *from) {
    struct pkt_pool *pool = fq->wrap.q.rx_pool;
    if (pkt_bytes(from) > pool->buf_size - PKT_HEADROOM)
        return NULL;
    struct pkt *p = pkt_alloc(pool);
    if (p == NULL)
        return NULL;
    port_gather(p->data, from);
    p->len = pkt_bytes(from);
    p->flags = from->flags & PORT_CONTENT_FLAGS;
    p->csum_start = (uint16_t)(PKT_HEADROOM + (from->buf + from->csum_start - from->data));
    p->csum_offset = from->csum_offset;
    p->gso_size = from->gso_size;
    p->gso_type = from->gso_type;
    return p;
}

/* Flips one bit behind the link header. The checksum is completed first, else a device would make it right again. */
static void corrupt(struct line *l, struct pkt *p) {
    csum_complete(p);
    p->flags &= (uint16_t)~PKT_CSUM_OK;
    if (p->len > ETH_LEN) {
        uint64_t r = random_next(l);
        p->data[ETH_LEN + (r >> 8) % (p->len - ETH_LEN)] ^= (uint8_t)(1u << (r & 7));
    }
}

/* --- send ------------------------------------------------------------------------------------------------------ */

static void wake_plan(struct faulty_queue *fq) {
    ns_t at = fq->wrap.inner->wake_at, rx = line_due(&fq->rx), tx = line_due(&fq->tx);
    at = rx < at ? rx : at;
    fq->wrap.q.wake_at = tx < at ? tx : at;
}

static bool is_copy(struct faulty_queue *fq, struct pkt *p) {
    return p->pool == fq->wrap.q.rx_pool && fq->copy[p->index];
}

/* Takes our copies out of what the inner port handed back; the rest is the host's. */
static void hand_back(struct faulty_queue *fq, struct pkt_vec *from, struct pkt_vec *to) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < from->count; i++) {
        struct pkt *p = from->v[i];
        if (is_copy(fq, p)) {
            fq->copy[p->index] = 0;
            fq->copies--;
            pkt_free(p->pool, p);
        } else if (to == NULL || !pkt_vec_push(to, p)) {
            from->v[kept++] = p; /* a later call hands it back */
        }
    }
    from->count = kept;
}

/* Gives what is due to the inner port, as long as there is room for what comes back. */
static void tx_flush(struct faulty_queue *fq) {
    struct port_queue *q = &fq->wrap.q, *inner = wrap_inner(q);
    while (line_due(&fq->tx) <= q->now) {
        struct pkt *burst[PKT_BURST];
        uint32_t n = 0, room = pkt_vec_room(fq->done) < pkt_vec_room(fq->drop) ? pkt_vec_room(fq->done)
                                                                               : pkt_vec_room(fq->drop);
        while (n < PKT_BURST && n < room && line_due(&fq->tx) <= q->now)
            burst[n++] = line_take(&fq->tx);
        if (n == 0)
            return;
        inner->ops->tx(inner, burst, n, fq->done, fq->drop);
        hand_back(fq, fq->done, NULL);
        hand_back(fq, fq->drop, NULL);
    }
}

/* A copy that takes the place of `p`, or NULL. */
static struct pkt *tx_copy(struct faulty_queue *fq, const struct pkt *p) {
    struct pkt *copy = copy_make(fq, p);
    if (copy == NULL)
        return NULL;
    fq->copy[copy->index] = 1;
    fq->copies++;
    return copy;
}

static void tx_enter(struct faulty_queue *fq, struct pkt *p, struct pkt_vec *done, struct pkt_vec *drop) {
    struct line *l = &fq->tx;
    ns_t now = fq->wrap.q.now;
    if (happens(l, fq->faults->drop_ppm) || line_full(l)) {
        port_drop(&fq->wrap.q, drop, p, DROP_FAULT_INJECTED);
        return;
    }
    fq->wrap.q.stats.tx_packets++;
    fq->wrap.q.stats.tx_bytes += pkt_bytes(p);
    struct pkt *bad = happens(l, fq->faults->corrupt_ppm) ? tx_copy(fq, p) : NULL;
    if (bad != NULL) {
        corrupt(l, bad);
        CHECK(pkt_vec_push(done, p));
        p = bad;
    }
    struct pkt *twin = happens(l, fq->faults->duplicate_ppm) ? tx_copy(fq, p) : NULL;
    line_insert(l, p, line_plan(l, fq->faults, pkt_bytes(p), now));
    if (twin == NULL)
        return;
    if (!line_full(l)) {
        line_insert(l, twin, line_plan(l, fq->faults, twin->len, now));
        return;
    }
    fq->copy[twin->index] = 0;
    fq->copies--;
    pkt_free(twin->pool, twin);
}

static void faulty_tx(struct port_queue *q, struct pkt **pkts, uint32_t n, struct pkt_vec *done, struct pkt_vec *drop) {
    struct faulty_queue *fq = faulty_of(q);
    struct port_queue *inner = wrap_inner(q);
    if (!fq->tx.faulty) {
        inner->ops->tx(inner, pkts, n, done, drop);
        q->stats.tx_packets = inner->stats.tx_packets;
        q->stats.tx_bytes = inner->stats.tx_bytes;
        q->stats.tx_dropped = inner->stats.tx_dropped;
        wake_plan(fq);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        tx_enter(fq, pkts[i], done, drop);
    tx_flush(fq);
    hand_back(fq, fq->done, done);
    hand_back(fq, fq->drop, drop);
    wake_plan(fq);
}

static void faulty_reap(struct port_queue *q, struct pkt_vec *done) {
    struct faulty_queue *fq = faulty_of(q);
    struct port_queue *inner = wrap_inner(q);
    tx_flush(fq);
    inner->ops->reap(inner, fq->done);
    hand_back(fq, fq->done, done);
    hand_back(fq, fq->drop, done); /* too late for the caller's drop: counted by the inner port */
    wake_plan(fq);
}

/* --- receive --------------------------------------------------------------------------------------------------- */

static void rx_enter(struct faulty_queue *fq, struct pkt *p) {
    struct line *l = &fq->rx;
    struct port_queue *q = &fq->wrap.q;
    if (happens(l, fq->faults->drop_ppm) || line_full(l)) {
        q->stats.rx_dropped++;
        pkt_free(p->pool, p);
        return;
    }
    if (happens(l, fq->faults->corrupt_ppm))
        corrupt(l, p);
    line_insert(l, p, line_plan(l, fq->faults, p->len, q->now));
    if (!happens(l, fq->faults->duplicate_ppm) || line_full(l))
        return;
    struct pkt *twin = copy_make(fq, p);
    if (twin != NULL)
        line_insert(l, twin, line_plan(l, fq->faults, twin->len, q->now));
}

static uint32_t rx_count(struct faulty_queue *fq, struct pkt **pkts, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        fq->wrap.q.stats.rx_bytes += pkts[i]->len;
    fq->wrap.q.stats.rx_packets += n;
    wake_plan(fq);
    return n;
}

static uint32_t faulty_rx(struct port_queue *q, struct pkt **ret_pkts, uint32_t max) {
    struct faulty_queue *fq = faulty_of(q);
    struct port_queue *inner = wrap_inner(q);
    tx_flush(fq);
    if (fq->copies > 0 && fq->done->count == 0) { /* the host does not reap for them */
        inner->ops->reap(inner, fq->done);
        hand_back(fq, fq->done, NULL);
    }
    if (!fq->rx.faulty)
        return rx_count(fq, ret_pkts, inner->ops->rx(inner, ret_pkts, max));
    struct pkt *got[PKT_BURST];
    uint32_t n = inner->ops->rx(inner, got, PKT_BURST);
    for (uint32_t i = 0; i < n; i++)
        rx_enter(fq, got[i]);
    for (n = 0; n < max && line_due(&fq->rx) <= q->now; n++)
        ret_pkts[n] = line_take(&fq->rx);
    return rx_count(fq, ret_pkts, n);
}

/* --- the rest -------------------------------------------------------------------------------------------------- */

static int faulty_arm(struct port_queue *q) {
    struct faulty_queue *fq = faulty_of(q);
    wake_plan(fq);
    return q->wake_at <= q->now || fq->done->count > 0 || wrap_arm(q);
}

static const struct port_queue_ops faulty_queue_ops = {
    .rx = faulty_rx,
    .tx = faulty_tx,
    .reap = faulty_reap,
    .arm = faulty_arm,
    .disarm = wrap_disarm,
    .attach = wrap_attach,
    .detach = wrap_detach,
};

static void line_fini(struct line *l) {
    while (l->count > 0) {
        struct pkt *p = line_take(l);
        pkt_free(p->pool, p);
    }
    free(l->held);
}

static void vec_fini(struct pkt_vec *vec) {
    for (uint32_t i = 0; vec != NULL && i < vec->count; i++)
        pkt_free(vec->v[i]->pool, vec->v[i]);
    free(vec);
}

static void queue_destroy(struct faulty_queue *fq) {
    if (fq == NULL)
        return;
    line_fini(&fq->rx);
    line_fini(&fq->tx);
    vec_fini(fq->done);
    vec_fini(fq->drop);
    free(fq->copy);
    free(fq);
}

static void faulty_free(struct faulty_port *port) {
    for (uint32_t i = 0; i < PORT_QUEUE_MAX; i++)
        queue_destroy(port->queue[i]);
    free(port);
}

static void faulty_destroy(struct port *p) {
    struct faulty_port *port = (struct faulty_port *)p;
    port_destroy(port->wrap.inner); /* gives back what it still holds, our copies too */
    faulty_free(port);
}

static const struct port_ops faulty_ops = {
    .kind = "faulty", .destroy = faulty_destroy, .refresh = wrap_refresh, .kernel_stats = wrap_kernel_stats};

static int line_init(struct line *l, const struct port_faults *f, bool on, uint64_t salt) {
    l->max = f->queue_packets == 0 ? LINE_PACKETS_DEFAULT : f->queue_packets;
    l->faulty = on;
    l->rng = f->seed ^ (salt * 0x9e3779b97f4a7c15ull);
    l->held = calloc(l->max, sizeof *l->held);
    return l->held == NULL ? -ENOMEM : 0;
}

static int queue_create(struct faulty_port *port, uint32_t index) {
    struct port_queue *inner = port->wrap.inner->queue[index];
    struct faulty_queue *fq = aligned_alloc(CACHE_LINE, sizeof *fq);
    if (fq == NULL)
        return -ENOMEM;
    memset(fq, 0, sizeof *fq);
    port->queue[index] = fq;
    wrap_queue_init(&fq->wrap, &faulty_queue_ops, &port->wrap.port, inner);
    fq->faults = &port->faults;
    fq->copy = calloc(inner->rx_pool->count, 1);
    fq->done = calloc(1, sizeof *fq->done);
    fq->drop = calloc(1, sizeof *fq->drop);
    int error = line_init(&fq->rx, &port->faults, port->faults.on_rx, 2 * index + 1);
    if (error == 0)
        error = line_init(&fq->tx, &port->faults, port->faults.on_tx, 2 * index + 2);
    return fq->copy == NULL || fq->done == NULL || fq->drop == NULL ? -ENOMEM : error;
}

int port_faulty_create(struct port *inner, const struct port_faults *faults, struct port **ret_port) {
    if (faults->queue_packets > LINE_PACKETS_MAX)
        return -EINVAL;
    struct faulty_port *port = calloc(1, sizeof *port);
    if (port == NULL)
        return -ENOMEM;
    port->faults = *faults;
    wrap_init(&port->wrap, &faulty_ops, inner, "faulty");
    if (faults->on_tx &&
        faults->corrupt_ppm != 0) /* a corrupted super-segment must be whole: nobody may cut it later */
        port->wrap.port.info.caps &= (uint16_t) ~(PORT_CAP_TX_GSO_TCP | PORT_CAP_TX_GSO_UDP);
    int error = 0;
    for (uint32_t i = 0; i < inner->queue_count && error == 0; i++)
        error = queue_create(port, i);
    if (error < 0) {
        faulty_free(port);
        return error;
    }
    *ret_port = &port->wrap.port;
    return 0;
}
