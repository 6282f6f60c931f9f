/* SPDX-License-Identifier: Apache-2.0
 *
 * The fixture of engines/testkit.h. Not part of any engine and not on any data path.
 */
#include "engines/testkit.h"

#include <arpa/inet.h>
#include <stdlib.h>

#include "engines/arena.h"
#include "engines/wire.h"

static void pool_create(struct pkt_pool *pool, uint32_t count, uint32_t size) {
    uint8_t *bufs = aligned_alloc(CACHE_LINE, (size_t)count * size);
    pool->pkts = aligned_alloc(CACHE_LINE, (size_t)count * sizeof(struct pkt));
    pool->free = malloc(count * sizeof *pool->free);
    CHECK(bufs != NULL && pool->pkts != NULL && pool->free != NULL);
    memset(pool->pkts, 0, (size_t)count * sizeof(struct pkt));
    memset(bufs, 0, (size_t)count * size);
    pool->count = count;
    pool->buf_size = size;
    for (uint32_t i = 0; i < count; i++) {
        pool->pkts[i].buf = bufs + (size_t)i * size;
        pool->pkts[i].buf_size = size;
        pool->pkts[i].index = i;
        pool->pkts[i].pool = pool;
        pool->free[pool->free_count++] = &pool->pkts[i];
    }
}

static void pool_destroy(struct pkt_pool *pool) {
    free(pool->pkts[0].buf);
    free(pool->pkts);
    free(pool->free);
}

struct testkit *testkit_create(void) {
    struct testkit *tk = calloc(1, sizeof *tk);
    CHECK(tk != NULL);
    pool_create(&tk->small, TESTKIT_SMALL, 2048);
    pool_create(&tk->large, TESTKIT_LARGE, 69632);
    for (uint8_t i = 0; i < PORT_SLOT_MAX; i++)
        tk->ports[i] =
            (struct port_info){.up = true, .mtu = 1500, .ifindex = 10u + i, .mac = {2, 0, 0, 0, 0, (uint8_t)(1 + i)}};
    tk->rng = 1;
    tk->io = (struct engine_io){.now = NS_PER_SEC,
                                .pool = &tk->small,
                                .pool_large = &tk->large,
                                .up = &tk->up,
                                .down = &tk->down,
                                .drop = &tk->drop,
                                .done = &tk->done,
                                .shown = &tk->shown,
                                .ports = tk->ports,
                                .notices = tk->notices,
                                .events = tk->events,
                                .rng = &tk->rng};
    return tk;
}

void testkit_destroy(struct testkit *tk) {
    pool_destroy(&tk->small);
    pool_destroy(&tk->large);
    free(tk);
}

void testkit_open(struct testkit_engine *e, const struct engine_ops *ops, const void *cfg, uint64_t seed) {
    memset(e, 0, sizeof *e);
    CHECK(ops->abi == ENGINE_ABI && ops->size == sizeof *ops && ops->counter_count <= TESTKIT_COUNTER_MAX);
    CHECK(ops->state_size && ops->init && ops->recover && ops->fini && ops->run && ops->next_deadline);
    CHECK(ops->command && ops->save && ops->load);
    e->ops = ops;
    e->size = arena_round(ops->state_size(cfg, NULL, 0));
    CHECK(e->size != 0);
    e->st = aligned_alloc(CACHE_LINE, e->size);
    CHECK(e->st != NULL);
    memset(e->st, 0, e->size);
    CHECK(ops->init(e->st, e->size, cfg, seed) == 0);
}

void testkit_close(struct testkit *tk, struct testkit_engine *e) {
    uint32_t before;
    testkit_clear(tk);
    do { /* a vec takes 256 packets; an engine may keep more */
        before = testkit_missing(tk);
        tk->io.counters = e->counters;
        e->ops->fini(e->st, &tk->io);
        testkit_clear(tk);
    } while (testkit_missing(tk) < before);
    free(e->st);
    e->st = NULL;
}

uint32_t testkit_recover(struct testkit_engine *e) {
    uint32_t lost = 0;
    CHECK(e->ops->recover(e->st, e->size, &lost) == 0);
    return lost;
}

int testkit_transfer(struct testkit_engine *to, const struct testkit_engine *from) {
    uint8_t buf[4096];
    uint64_t cursor = 0;
    int64_t n;
    while ((n = from->ops->save(from->st, &cursor, buf, sizeof buf)) > 0) {
        int error = to->ops->load(to->st, from->ops->layout_version, buf, (size_t)n);
        if (error != 0)
            return error;
    }
    return (int)n;
}

void testkit_input(struct testkit *tk, struct testkit_engine *e, struct pkt **pkts, uint32_t n) {
    tk->io.counters = e->counters;
    e->ops->input(e->st, &tk->io, pkts, n);
}

void testkit_output(struct testkit *tk, struct testkit_engine *e, struct pkt **pkts, uint32_t n) {
    tk->io.counters = e->counters;
    e->ops->output(e->st, &tk->io, pkts, n);
}

uint32_t testkit_run(struct testkit *tk, struct testkit_engine *e, uint32_t budget) {
    tk->io.counters = e->counters;
    return e->ops->run(e->st, &tk->io, budget);
}

struct engine_reply testkit_command(struct testkit *tk, struct testkit_engine *e, const void *cmd) {
    struct engine_reply reply;
    tk->io.counters = e->counters;
    e->ops->command(e->st, &tk->io, cmd, &reply);
    return reply;
}

void testkit_put(struct pkt *p) {
    CHECK(p->pool->free_count < p->pool->count);
    p->pool->free[p->pool->free_count++] = p;
}

static void vec_clear(struct pkt_vec *vec) {
    for (uint32_t i = 0; i < vec->count; i++)
        testkit_put(vec->v[i]);
    vec->count = 0;
}

void testkit_clear(struct testkit *tk) {
    vec_clear(&tk->up);
    vec_clear(&tk->down);
    vec_clear(&tk->drop);
    vec_clear(&tk->done);
    tk->io.notice_count = 0;
    tk->io.event_count = 0;
}

uint32_t testkit_missing(const struct testkit *tk) {
    uint32_t in_vecs = tk->up.count + tk->down.count + tk->drop.count + tk->done.count;
    return tk->small.count - tk->small.free_count + tk->large.count - tk->large.free_count - in_vecs;
}

struct pkt *testkit_take(struct pkt_vec *vec, uint32_t i) {
    CHECK(i < vec->count);
    struct pkt *p = vec->v[i];
    memmove(&vec->v[i], &vec->v[i + 1], (vec->count - i - 1) * sizeof vec->v[0]);
    vec->count--;
    return p;
}

struct ipaddr testkit_addr(const char *text) {
    uint8_t b[16];
    if (inet_pton(AF_INET, text, b) == 1)
        return ipaddr_from_v4(b);
    CHECK(inet_pton(AF_INET6, text, b) == 1);
    return ipaddr_from_v6(b);
}

struct flow testkit_flow(const char *local, uint16_t local_port, const char *remote, uint16_t remote_port) {
    return (struct flow){.local = testkit_addr(local),
                         .remote = testkit_addr(remote),
                         .local_port = local_port,
                         .remote_port = remote_port,
                         .proto = PROTO_UDP};
}

void testkit_fix_ip4(uint8_t *header) {
    memset(header + 10, 0, 2);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, header, (size_t)(header[0] & 15) * 4));
    memcpy(header + 10, &sum, 2);
}

static struct pkt *alloc(struct testkit *tk, uint32_t bytes) {
    struct pkt *p = pkt_alloc(bytes + PKT_HEADROOM <= tk->small.buf_size ? &tk->small : &tk->large);
    CHECK(p != NULL);
    memset(&p->flow, 0, sizeof p->flow);
    p->port = 0;
    p->user = 0;
    p->user_data = 0;
    return p;
}

static void push_ip4(struct pkt *p, const struct flow *f) {
    uint8_t *h = pkt_push(p, IP4_LEN);
    const uint8_t head[IP4_LEN] = {0x45, 0, 0, 0, 0, 0, 0, 0, 64, PROTO_UDP};
    memcpy(h, head, sizeof head);
    be16_store(h + 2, (uint16_t)p->len);
    memcpy(h + 12, &f->remote.b[12], 4);
    memcpy(h + 16, &f->local.b[12], 4);
    testkit_fix_ip4(h);
}

static void push_ip6(struct pkt *p, const struct flow *f) {
    uint32_t len = p->len;
    uint8_t *h = pkt_push(p, IP6_LEN);
    be32_store(h, 6u << 28);
    be16_store(h + 4, (uint16_t)len);
    h[6] = PROTO_UDP;
    h[7] = 64;
    memcpy(h + 8, f->remote.b, 16);
    memcpy(h + 24, f->local.b, 16);
}

struct pkt *testkit_udp_packet(struct testkit *tk, const struct flow *f, const void *payload, uint32_t len) {
    struct pkt *p = alloc(tk, len + IP6_LEN + UDP_LEN);
    memset(p->data, 0, len);
    if (payload != NULL && len > 0)
        memcpy(p->data, payload, len);
    p->len = len;
    uint8_t *h = pkt_push(p, UDP_LEN);
    be16_store(h, f->remote_port);
    be16_store(h + 2, f->local_port);
    be16_store(h + 4, (uint16_t)p->len);
    memset(h + 6, 0, 2);
    struct flow udp = *f;
    udp.proto = PROTO_UDP;
    uint16_t sum = (uint16_t)~csum_fold(csum_add(csum_pseudo(&udp, p->len), h, p->len));
    sum = sum != 0 ? sum : 0xffff;
    memcpy(h + 6, &sum, 2);
    if (ipaddr_is_v4(&f->local))
        push_ip4(p, f);
    else
        push_ip6(p, f);
    return p;
}

struct pkt *testkit_udp_frame(struct testkit *tk, const struct flow *f, const void *payload, uint32_t len) {
    struct pkt *p = testkit_udp_packet(tk, f, payload, len);
    uint8_t *h = pkt_push(p, ETH_LEN);
    memcpy(h, tk->ports[0].mac, 6);
    memcpy(h + 6, "\x02\0\0\0\0\xfe", 6);
    be16_store(h + 12, ipaddr_is_v4(&f->local) ? ETHERTYPE_IP4 : ETHERTYPE_IP6);
    return p;
}

struct pkt *testkit_raw(struct testkit *tk, const void *bytes, uint32_t len) {
    struct pkt *p = alloc(tk, len);
    if (len > 0)
        memcpy(p->data, bytes, len);
    p->len = len;
    return p;
}

struct pkt *testkit_request(struct testkit *tk, uint32_t sock, const struct flow *to, const void *payload,
                            uint32_t len) {
    struct pkt *p = alloc(tk, len);
    memset(p->data, 0, len);
    if (payload != NULL && len > 0)
        memcpy(p->data, payload, len);
    p->len = len;
    p->sock = sock;
    if (to != NULL)
        p->flow = *to;
    return p;
}

bool testkit_csum_ok(const struct pkt *p, uint32_t ip_offset) {
    const uint8_t *ip = p->data + ip_offset;
    struct flow f = {0};
    uint32_t head;
    if (ip[0] >> 4 == 4) {
        head = (uint32_t)(ip[0] & 15) * 4;
        f = (struct flow){.local = ipaddr_from_v4(ip + 12), .remote = ipaddr_from_v4(ip + 16), .proto = ip[9]};
        if (csum_fold(csum_add(0, ip, head)) != 0xffff)
            return false;
    } else {
        head = IP6_LEN;
        f = (struct flow){.local = ipaddr_from_v6(ip + 8), .remote = ipaddr_from_v6(ip + 24), .proto = ip[6]};
    }
    uint32_t len = pkt_bytes(p) - ip_offset - head;
    uint64_t sum = f.proto == PROTO_ICMP ? 0 : csum_pseudo(&f, len);
    return csum_fold(csum_pkt(sum, p, ip + head)) == 0xffff;
}
