/* SPDX-License-Identifier: Apache-2.0
 *
 * The wire of the two-endpoint fixture: packet pools, the packets in flight by time, faults, bottleneck, cutting of
 * super-segments. See testlink.h. Test code.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engines/tcp/testlink_internal.h"
#include "engines/wire.h"

#define COPY_MAX 66000u

struct link_sent link_last[2];

uint8_t link_byte(uint64_t key, uint64_t at) {
    uint64_t z = (at >> 3) * 0x9e3779b97f4a7c15ull + key;
    z ^= z >> 29;
    return (uint8_t)((z * 0xbf58476d1ce4e5b9ull) >> (8 * (at & 7)));
}

static uint64_t link_random(struct link *l) {
    uint64_t z = (l->rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static bool chance(struct link *l, uint32_t ppm) {
    return ppm != 0 && link_random(l) % 1000000 < ppm;
}

void link_check_failed(const char *what, int code) {
    fprintf(stderr, "tcp test link: %s: %d\n", what, code);
    abort();
}

/* ---- pools ---- */

void *link_map(size_t size) {
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

void link_pool_create(struct pkt_pool *pool, uint32_t count, uint32_t size) {
    pool->pkts = aligned_alloc(64, count * sizeof *pool->pkts);
    pool->free = calloc(count, sizeof *pool->free);
    uint8_t *mem = link_map((size_t)count * size);
    CHECK(pool->pkts != NULL && pool->free != NULL);
    memset(pool->pkts, 0, count * sizeof *pool->pkts);
    pool->count = count;
    pool->buf_size = size;
    for (uint32_t i = 0; i < count; i++) {
        pool->pkts[i].buf = mem + (size_t)i * size;
        pool->pkts[i].buf_size = size;
        pool->pkts[i].index = i;
        pool->pkts[i].pool = pool;
        pool->free[pool->free_count++] = &pool->pkts[i];
    }
}

void link_pool_destroy(struct pkt_pool *pool) {
    munmap(pool->pkts[0].buf, (size_t)pool->count * pool->buf_size);
    free(pool->pkts);
    free(pool->free);
}

void link_put(struct pkt *p) {
    pkt_free(p->pool, p);
}

/* ---- addresses, routes ---- */

struct ipaddr link_address(const struct link *l, uint32_t h) {
    uint8_t v6[16] = {0xfd, 0};
    uint8_t v4[4] = {10, 0, 0, (uint8_t)(h + 1)};
    v6[15] = (uint8_t)(h + 1);
    return l->v6 ? ipaddr_from_v6(v6) : ipaddr_from_v4(v4);
}

/* ---- the wire ---- */

static void gather(const struct pkt *p, uint8_t *to) {
    memcpy(to, p->data, p->len);
    to += p->len;
    for (uint32_t i = 0; i < p->frag_count; i++) {
        memcpy(to, p->frag[i].base, p->frag[i].len);
        to += p->frag[i].len;
    }
}

void link_enqueue(struct link *l, uint32_t to, struct pkt *p, ns_t at) {
    if (l->flights == LINK_FLIGHT_MAX) {
        link_put(p);
        return;
    }
    uint32_t i = l->flights++;
    struct link_flight f = {at, l->order++, to, p};
    while (i > 0) { /* binary heap by (at, order) */
        uint32_t up = (i - 1) / 2;
        struct link_flight *parent = &l->flight[up];
        if (parent->at < f.at || (parent->at == f.at && parent->order < f.order))
            break;
        l->flight[i] = *parent;
        i = up;
    }
    l->flight[i] = f;
}

struct link_flight link_dequeue(struct link *l) {
    struct link_flight top = l->flight[0], last = l->flight[--l->flights];
    uint32_t i = 0;
    for (;;) {
        uint32_t c = 2 * i + 1;
        if (c >= l->flights)
            break;
        const struct link_flight *a = &l->flight[c], *b = c + 1 < l->flights ? a + 1 : a;
        const struct link_flight *least = b->at < a->at || (b->at == a->at && b->order < a->order) ? b : a;
        if (last.at < least->at || (last.at == least->at && last.order < least->order))
            break;
        l->flight[i] = *least;
        i = (uint32_t)(least - l->flight);
    }
    if (l->flights > 0)
        l->flight[i] = last;
    return top;
}

/* `bytes` = TCP header and payload, checksum field zero. Fills in what ip would. */
struct pkt *link_arrive(struct link *l, uint32_t to, const struct pkt *meta, const uint8_t *bytes, uint32_t len) {
    struct link_host *h = &l->host[to];
    struct pkt_pool *pool = len + PKT_HEADROOM <= LINK_SMALL_SIZE ? &h->small : &h->large;
    struct pkt *p = pkt_alloc(pool);
    if (p == NULL)
        return NULL;
    memcpy(p->data, bytes, len);
    p->len = len;
    p->flow = (struct flow){.local = meta->flow.remote, .remote = meta->flow.local, .proto = PROTO_TCP};
    p->ip_version = l->v6 ? 6 : 4;
    p->l4_off = (uint16_t)(p->data - p->buf);
    p->l3_off = (uint16_t)(p->l4_off - (l->v6 ? 40 : 20));
    p->tos = meta->tos;
    p->rx_ns = l->now;
    if (l->local) {
        p->flags |= PKT_LOCAL;
        return p;
    }
    memset(p->data + 16, 0, 2);
    uint16_t sum = (uint16_t)~csum_fold(csum_pkt(csum_pseudo(&p->flow, len), p, p->data));
    memcpy(p->data + 16, &sum, 2);
    return p;
}

static void carry(struct link *l, uint32_t from, const struct pkt *meta, const uint8_t *bytes, uint32_t len) {
    const struct link_faults *f = &l->faults[from];
    struct link_host *h = &l->host[from];
    uint32_t wire = len + (l->v6 ? 40 : 20);
    if (chance(l, f->drop_ppm))
        return;
    ns_t at = l->now + f->delay;
    bool mark = chance(l, f->mark_ppm);
    if (f->rate_bps != 0) {
        ns_t start = h->queue_free_at > l->now ? h->queue_free_at : l->now;
        uint64_t queued = (start - l->now) * f->rate_bps / 8 / NS_PER_SEC;
        if (f->queue_bytes != 0 && queued + wire > f->queue_bytes)
            return;
        mark |= f->mark_bytes != 0 && queued > f->mark_bytes;
        h->queue_free_at = start + (uint64_t)wire * 8 * NS_PER_SEC / f->rate_bps;
        at = h->queue_free_at + f->delay;
    }
    if (f->jitter != 0)
        at += link_random(l) % f->jitter;
    if (chance(l, f->reorder_ppm))
        at += f->delay / 4 + link_random(l) % (f->delay / 2 + 1000000);
    uint32_t copies = 1 + chance(l, f->duplicate_ppm);
    while (copies-- > 0) {
        struct pkt *p = link_arrive(l, !from, meta, bytes, len);
        if (p == NULL)
            return;
        if (mark && (p->tos & 3) != 0)
            p->flags |= PKT_ECN_CE;
        if (chance(l, f->corrupt_ppm))
            p->data[link_random(l) % p->len] ^= (uint8_t)(1 + link_random(l) % 255);
        if (meta->flags & PKT_GSO) {
            p->flags |= PKT_GSO;
            p->gso_size = meta->gso_size;
        }
        link_enqueue(l, !from, p, at);
    }
}

static void trace(struct link *l, uint64_t word) {
    l->trace = (l->trace ^ word) * 0x100000001b3ull;
}

static void remember(struct link *l, uint32_t from, const struct pkt *p) {
    struct link_sent *s = &link_last[from];
    const uint8_t *h = p->data;
    uint32_t header = (h[12] >> 4) * 4u;
    s->seq = be32_load(h + 4);
    s->ack = be32_load(h + 8);
    s->flags = h[13];
    s->wnd = be16_load(h + 14);
    s->len = pkt_bytes(p) - header;
    s->opts_len = header - TCP_LEN;
    memcpy(s->opts, h + TCP_LEN, s->opts_len);
    s->tos = p->tos;
    s->count++;
    trace(l, l->now ^ (uint64_t)from << 63);
    trace(l, (uint64_t)s->seq << 32 | s->ack);
    trace(l, (uint64_t)s->len << 32 | (uint32_t)s->wnd << 8 | s->flags);
    for (uint32_t i = 0; i < s->opts_len; i++)
        trace(l, s->opts[i]);
}

/* A super-segment as a port without offloads would cut it. */
static void cut(struct link *l, uint32_t from, const struct pkt *p, uint8_t *bytes, uint32_t len) {
    uint32_t header = (bytes[12] >> 4) * 4u, seq = be32_load(bytes + 4);
    uint8_t piece[COPY_MAX], flags = bytes[13];
    for (uint32_t at = header; at < len; at += p->gso_size) {
        uint32_t n = len - at < p->gso_size ? len - at : p->gso_size;
        bool last = at + n == len;
        memcpy(piece, bytes, header);
        memcpy(piece + header, bytes + at, n);
        be32_store(piece + 4, seq + at - header);
        piece[13] = (uint8_t)(flags & (last ? 0xff : ~(0x01 | 0x08)) & (at == header ? 0xff : ~0x80));
        struct pkt meta = *p;
        meta.flags &= (uint16_t)~PKT_GSO;
        carry(l, from, &meta, piece, header + n);
    }
}

void link_transmit(struct link *l, uint32_t from, struct pkt *p) {
    uint8_t bytes[COPY_MAX];
    struct link_host *h = &l->host[from];
    uint32_t len = pkt_bytes(p), ip = l->v6 ? 40 : 20;
    CHECK(len <= COPY_MAX && (p->flags & PKT_CSUM_PARTIAL) && p->data[16] == 0 && p->data[17] == 0);
    uint32_t size = p->flags & PKT_GSO ? p->gso_size + (p->data[12] >> 4) * 4u : len;
    CHECK(size + ip <= l->mtu);
    CHECK(len + ip <= 65535);
    remember(l, from, p);
    h->tx_packets++;
    h->tx_bytes += len;
    if (l->filter != NULL && !l->filter(l, from, p, l->filter_arg))
        return;
    if (l->path_mtu != 0 && size + ip > l->path_mtu) {
        if (l->icmp)
            link_inject_icmp(l, from, p->flow.local_port, p->flow.remote_port, be32_load(p->data + 4), EMSGSIZE,
                             l->path_mtu);
        return;
    }
    gather(p, bytes);
    if ((p->flags & PKT_GSO) && !l->super)
        cut(l, from, p, bytes, len);
    else
        carry(l, from, p, bytes, len);
}
