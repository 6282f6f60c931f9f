/* SPDX-License-Identifier: Apache-2.0
 *
 * See capture.h. The set of open captures is immutable once the taps know it: opening and closing make a new one, and
 * the old one is freed when every worker has taken the new one over between two polls.
 */
#include "dataplane/capture/capture.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dataplane/capture/program.h"
#include "dataplane/core/shard.h"

#define RING_DEFAULT (4u << 20)

/* Bytes, single producer and single consumer. A record never wraps: what is too short for it at the end is skipped by a
 * record of size only. Positions grow without bound; their difference is what is in the ring. */
struct bytes {
    uint8_t *data;
    uint64_t mask;
    /* the worker's */
    uint64_t tail_here CACHE_ALIGNED, head_seen;
    uint32_t skip; /* until the next sample */
    /* the worker writes, anybody reads */
    uint64_t tail CACHE_ALIGNED;
    struct capture_counts counts;
    /* the reader's */
    uint64_t head CACHE_ALIGNED;
    uint64_t head_here;
};

struct capture {
    struct capture_host *host;
    uint32_t points, ports, snaplen, sample;
    uint64_t limit;
    uint32_t shard_count;
    int bell;
    uint32_t asleep CACHE_ALIGNED; /* the reader sets it, a worker clears it when it rings */
    struct program program;
    struct bytes ring[SHARD_MAX];
};

struct capture_set {
    uint32_t count;
    struct capture *open[CAPTURE_MAX];
};

struct capture_host {
    struct runtime *rt;
    struct capture_set *set; /* what the taps know; NULL = no tap */
};

/* ---- the ring, on the worker ---- */

static inline void count(uint64_t *counter, uint64_t n) {
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static bool room(struct bytes *b, uint64_t size) {
    uint64_t all = b->mask + 1;
    if (b->tail_here + size - b->head_seen <= all)
        return true;
    b->head_seen = __atomic_load_n(&b->head, __ATOMIC_ACQUIRE); /* pairs with capture_release() */
    return b->tail_here + size - b->head_seen <= all;
}

/* Memory for a record of `size` bytes, or NULL. */
static struct capture_record *bytes_reserve(struct bytes *b, uint32_t size) {
    uint64_t at = b->tail_here & b->mask, end = b->mask + 1 - at;
    if (size <= end)
        return room(b, size) ? (struct capture_record *)(b->data + at) : NULL;
    if (!room(b, end + size))
        return NULL;
    *(uint32_t *)(b->data + at) = 0; /* go on at the beginning */
    b->tail_here += end;
    return (struct capture_record *)b->data;
}

static void bytes_commit(struct bytes *b, uint32_t size) {
    b->tail_here += size;
    __atomic_store_n(&b->tail, b->tail_here, __ATOMIC_RELEASE); /* pairs with bytes_peek() */
}

/* ---- whose it is ---- */

/* A received packet is nobody's before its transport has seen it: the transport is asked, about a copy. Sockets of
 * another shard are not known here. */
static void owner_ask(struct shard *sh, const struct pkt *p, const struct frame *f, struct capture_record *r) {
    struct pkt copy = *p, *one = &copy;
    const uint8_t *ip = f->head + ETH_LEN;
    uint32_t len = f->head_len > ETH_LEN ? f->head_len - ETH_LEN : 0;
    uint32_t l4 = frame_flow(ip, len, &copy.flow);
    if (l4 == 0 || l4 > len)
        return;
    r->proto = copy.flow.proto;
    uint8_t node = sh->proto_node[copy.flow.proto];
    if (node == NODE_NONE || sh->node[node].ops->demux == NULL)
        return;
    copy.data = p->buf + (ip + l4 - p->buf);
    copy.len = len - l4;
    copy.flags &= (uint16_t) ~(PKT_ICMP_ERROR | PKT_BOUNCED);
    sh->node[node].io.now = sh->now;
    sh->node[node].ops->demux(sh->node[node].st, &sh->node[node].io, &one, 1);
    r->owner = copy.owner;
}

static void owner_find(struct shard *sh, const struct pkt *p, const struct frame *f, struct capture_record *r) {
    r->owner = p->owner;
    r->proto = p->flow.proto;
    if (f->flags & FRAME_OUT)
        return;
    if (r->point == TAP_RX || p->owner == 0) {
        r->owner = 0;
        r->proto = 0;
        if (f->piece_count > 0 && f->head >= p->buf && f->head < p->buf + p->buf_size)
            owner_ask(sh, p, f, r);
    }
}

/* ---- the tap ---- */

static uint8_t flags_of(const struct pkt *p, const struct frame *f) {
    uint32_t flags = f->flags & FRAME_OUT ? CAPTURE_OUT : 0;
    flags |= f->flags & FRAME_MADE_UP ? CAPTURE_MADE_UP : 0;
    flags |= p->flags & PKT_CSUM_OK ? CAPTURE_CSUM_OK : 0;
    flags |= p->flags & (PKT_CSUM_PARTIAL | PKT_LOCAL) ? CAPTURE_CSUM_LATER : 0;
    flags |= p->flags & PKT_GSO ? CAPTURE_GSO : 0;
    return (uint8_t)flags;
}

/* Where the filter left it: a packet that goes down to be refused says there how. */
static uint32_t rule_of(const struct pkt *p) {
    return p->flags & PKT_ICMP_ERROR ? (uint32_t)p->user_data : p->user;
}

static void record(struct capture *c, struct shard *sh, const struct pkt *p, const struct frame *f,
                   enum tap_point point, uint32_t wanted) {
    struct bytes *b = &c->ring[sh->index];
    uint32_t captured = f->length < c->snaplen ? f->length : c->snaplen;
    captured = captured < wanted ? captured : wanted;
    uint32_t size = (uint32_t)sizeof(struct capture_record) + ((captured + 7) & ~7u);
    struct capture_record *r = bytes_reserve(b, size);
    if (UNLIKELY(r == NULL)) {
        count(&b->counts.lost, 1);
        return;
    }
    *r = (struct capture_record){
        .size = size,
        .captured = captured,
        .length = f->length,
        .time_ns = sh->now,
        .rule = rule_of(p),
        .drop = point == TAP_DROP || point == TAP_MIRROR ? p->drop : DROP_NONE,
        .port = p->port,
        .gso_size = p->flags & PKT_GSO ? p->gso_size : 0,
        .point = (uint8_t)point,
        .shard = (uint8_t)sh->index,
        .flags = flags_of(p, f),
    };
    owner_find(sh, p, f, r);
    (void)frame_read(f, 0, (uint8_t *)(r + 1), captured);
    bytes_commit(b, size);
    count(&b->counts.recorded, 1);
}

static inline bool wants_port(const struct capture *c, const struct pkt *p) {
    return p->port >= PORT_SLOT_MAX || (c->ports >> p->port & 1) != 0;
}

/* One of `sample` is taken, the first one first. */
static bool sampled(struct capture *c, struct bytes *b) {
    if (b->skip > 0) {
        b->skip--;
        return false;
    }
    b->skip = c->sample - 1;
    return c->limit == 0 || b->counts.recorded < c->limit;
}

/* Nearly all packets of a capture that looks for few end here. */
static inline bool may_match(const struct capture *c, const struct pkt *p) {
    return p->len < SHAPE_BYTES || (p->flags & PKT_VLAN) || capture_program_may_match(&c->program, p->data);
}

static void capture_burst(struct capture *c, struct shard *sh, enum tap_point point, struct pkt *const *pkts,
                          uint32_t n) {
    struct bytes *b = &c->ring[sh->index];
    struct frame f;
    uint64_t before = b->counts.recorded;
    uint32_t seen = 0, matched = 0;
    /* A burst at an interface is of one interface. */
    bool l3 = pkts[0]->port < PORT_SLOT_MAX && (sh->port_info[pkts[0]->port].caps & PORT_CAP_L3) != 0;
    bool frames = (point == TAP_RX || point == TAP_TX) && !l3;
    for (uint32_t i = 0; i < n; i++) {
        const struct pkt *p = pkts[i];
        if (c->ports != 0 && !wants_port(c, p))
            continue;
        seen++;
        if (LIKELY(frames && !may_match(c, p)))
            continue;
        l3 = p->port < PORT_SLOT_MAX && (sh->port_info[p->port].caps & PORT_CAP_L3) != 0;
        frame_of(&f, p, point, l3);
        uint32_t wanted = capture_program_run(&c->program, &f);
        if (LIKELY(wanted == 0))
            continue;
        matched++;
        if (sampled(c, b))
            record(c, sh, p, &f, point, wanted);
    }
    count(&b->counts.seen, seen);
    count(&b->counts.matched, matched);
    if (b->counts.recorded == before)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with the one in capture_sleep(): records first, then the flag */
    if (__atomic_load_n(&c->asleep, __ATOMIC_RELAXED) != 0 && __atomic_exchange_n(&c->asleep, 0, __ATOMIC_RELAXED) != 0)
        (void)eventfd_write(c->bell, 1);
}

static void tap(struct shard *sh, void *arg, enum tap_point point, struct pkt *const *pkts, uint32_t n) {
    const struct capture_set *set = arg;
    for (uint32_t i = 0; i < set->count; i++) {
        if (set->open[i]->points >> point & 1)
            capture_burst(set->open[i], sh, point, pkts, n);
    }
}

/* ---- open and close ---- */

int capture_host_create(struct runtime *rt, struct capture_host **ret_host) {
    struct capture_host *h = calloc(1, sizeof *h);
    if (h == NULL)
        return -ENOMEM;
    h->rt = rt;
    *ret_host = h;
    return 0;
}

void capture_host_destroy(struct capture_host *h) {
    if (h == NULL)
        return;
    CHECK(h->set == NULL);
    free(h);
}

/* The taps' new set: the old one with `add`, or without `remove`. */
static int set_change(struct capture_host *h, struct capture *add, const struct capture *remove) {
    struct capture_set *set = calloc(1, sizeof *set), *old = h->set;
    if (set == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; old != NULL && i < old->count; i++) {
        if (old->open[i] != remove)
            set->open[set->count++] = old->open[i];
    }
    if (add != NULL)
        set->open[set->count++] = add;
    if (set->count == 0) {
        free(set);
        set = NULL;
    }
    int error = runtime_tap_set(h->rt, set != NULL ? tap : NULL, set);
    if (error != 0 && add != NULL) { /* a worker that hangs may keep the new set: it is left to it */
        (void)runtime_tap_set(h->rt, old != NULL ? tap : NULL, old);
        return error;
    }
    h->set = set;
    if (error == 0)
        free(old);
    return error;
}

static uint64_t power_of_two(uint64_t at_least) {
    uint64_t n = CAPTURE_RING_MIN;
    while (n < at_least)
        n *= 2;
    return n;
}

static int rings_make(struct capture *c, const struct capture_params *params) {
    uint64_t wish = params->ring_bytes == 0 ? RING_DEFAULT : params->ring_bytes;
    uint64_t size = power_of_two(wish < CAPTURE_RING_MAX ? wish : CAPTURE_RING_MAX);
    for (uint32_t i = 0; i < c->shard_count; i++) {
        c->ring[i].mask = size - 1;
        c->ring[i].data = aligned_alloc(CACHE_LINE, size);
        if (c->ring[i].data == NULL)
            return -ENOMEM;
    }
    c->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return c->bell < 0 ? -errno : 0;
}

static void capture_free(struct capture *c) {
    for (uint32_t i = 0; i < c->shard_count; i++)
        free(c->ring[i].data);
    if (c->bell >= 0)
        close(c->bell);
    free(c);
}

int capture_open(struct capture_host *h, const struct capture_params *params, struct capture **ret_capture,
                 uint32_t *ret_at) {
    if (h->set != NULL && h->set->count == CAPTURE_MAX)
        return -EMFILE;
    struct capture *c = aligned_alloc(CACHE_LINE, sizeof *c);
    if (c == NULL)
        return -ENOMEM;
    memset(c, 0, sizeof *c);
    c->host = h;
    c->bell = -1;
    c->points = params->points;
    c->ports = params->ports;
    c->snaplen = params->snaplen != 0 && params->snaplen < CAPTURE_SNAP_MAX ? params->snaplen : CAPTURE_SNAP_MAX;
    c->sample = params->sample != 0 ? params->sample : 1;
    c->limit = params->limit;
    c->shard_count = runtime_shard_count(h->rt);
    int error = capture_program_load(&c->program, params->code, params->count, ret_at);
    if (error == 0)
        error = rings_make(c, params);
    if (error == 0)
        error = set_change(h, c, NULL);
    if (error != 0) {
        if (error != -ETIMEDOUT) /* else a worker that hangs may have it */
            capture_free(c);
        return error;
    }
    *ret_capture = c;
    return 0;
}

void capture_close(struct capture *c) {
    if (c == NULL)
        return;
    /* A worker that hangs for longer than a letter waits may still have it: then its memory is left to it. */
    if (set_change(c->host, NULL, c) == 0)
        capture_free(c);
}

/* ---- the reader ---- */

static const struct capture_record *bytes_peek(struct bytes *b) {
    uint64_t tail = __atomic_load_n(&b->tail, __ATOMIC_ACQUIRE); /* pairs with bytes_commit() */
    if (b->head_here == tail)
        return NULL;
    uint64_t at = b->head_here & b->mask;
    if (*(const uint32_t *)(b->data + at) == 0)
        b->head_here += b->mask + 1 - at;
    return (const struct capture_record *)(b->data + (b->head_here & b->mask));
}

const struct capture_record *capture_next(struct capture *c) {
    const struct capture_record *first = NULL;
    for (uint32_t i = 0; i < c->shard_count; i++) {
        const struct capture_record *r = bytes_peek(&c->ring[i]);
        if (r != NULL && (first == NULL || r->time_ns < first->time_ns))
            first = r;
    }
    return first;
}

void capture_release(struct capture *c, const struct capture_record *r) {
    struct bytes *b = &c->ring[r->shard];
    b->head_here += r->size;
    __atomic_store_n(&b->head, b->head_here, __ATOMIC_RELEASE); /* pairs with room() */
}

int capture_fd(const struct capture *c) {
    return c->bell;
}

bool capture_sleep(struct capture *c) {
    __atomic_store_n(&c->asleep, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* pairs with that in capture_burst(): the flag, then a last look */
    return capture_next(c) != NULL;
}

void capture_wake(struct capture *c) {
    eventfd_t ignored;
    __atomic_store_n(&c->asleep, 0, __ATOMIC_RELAXED);
    (void)eventfd_read(c->bell, &ignored);
}

void capture_counts(const struct capture *c, struct capture_counts *ret_counts) {
    *ret_counts = (struct capture_counts){0};
    for (uint32_t i = 0; i < c->shard_count; i++) {
        const struct capture_counts *n = &c->ring[i].counts;
        ret_counts->seen += __atomic_load_n(&n->seen, __ATOMIC_RELAXED);
        ret_counts->matched += __atomic_load_n(&n->matched, __ATOMIC_RELAXED);
        ret_counts->recorded += __atomic_load_n(&n->recorded, __ATOMIC_RELAXED);
        ret_counts->lost += __atomic_load_n(&n->lost, __ATOMIC_RELAXED);
    }
}
