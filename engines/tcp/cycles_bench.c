/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tcp engine costs, in TSC cycles on warm caches: a 64-byte request and its response (client and server side
 * apart, with one connection and with many, in bursts), and 64 KiB in bulk by super-segments. Only the engine's calls
 * are timed; carrying packets between the two ends is not. Then what 100,000 established connections take, and whether
 * requests on a random thousand of them cost more than when there are only these. Prints a table; not a test.
 */
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

#include "engines/tcp/testlink_internal.h"
#include "engines/wire.h"

extern const struct engine_ops usher_engine_tcp;
#define OPS   (&usher_engine_tcp)
#define SIZE  64u
#define CONNS 32u

#define ROUNDS 4000u

/* Medians: the machine may be busy with other things. */
struct cost {
    uint64_t send, receive;
};

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t median(uint64_t *v, uint32_t n) {
    qsort(v, n, sizeof *v, ascending);
    return v[n / 2];
}

static void drain(struct link_host *h) {
    for (uint32_t i = 0; i < h->up.count; i++)
        link_put(h->up.v[i]);
    for (uint32_t i = 0; i < h->done.count; i++)
        link_put(h->done.v[i]);
    for (uint32_t i = 0; i < h->drop.count; i++)
        link_put(h->drop.v[i]);
    h->up.count = h->done.count = h->drop.count = 0;
    h->io.notice_count = 0;
}

/* What `from` has sent becomes packets of the other end. */
static uint32_t carry(struct link *l, uint32_t from, struct pkt **ret_pkts) {
    struct link_host *h = &l->host[from];
    static uint8_t bytes[70000];
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->down.count; i++) {
        struct pkt *p = h->down.v[i];
        uint32_t len = p->len;
        memcpy(bytes, p->data, len);
        for (uint32_t f = 0; f < p->frag_count; f++) {
            memcpy(bytes + len, p->frag[f].base, p->frag[f].len);
            len += p->frag[f].len;
        }
        ret_pkts[n] = link_arrive(l, !from, p, bytes, len);
        ret_pkts[n]->flags |= PKT_CSUM_OK | (p->flags & PKT_GSO); /* as a port that checks sums */
        ret_pkts[n++]->gso_size = p->gso_size;
        link_put(p);
    }
    h->down.count = 0;
    return n;
}

static void send_burst(struct link *l, uint32_t host, uint32_t socks, uint32_t bytes, struct cost *c) {
    struct link_host *h = &l->host[host];
    struct pkt *reqs[PKT_BURST];
    for (uint32_t i = 0; i < socks; i++) {
        reqs[i] = pkt_alloc(&h->small);
        reqs[i]->flags |= PKT_REGION;
        reqs[i]->sock = h->socks[i].sock;
        reqs[i]->sink = h->socks[i].sink;
        reqs[i]->user = (uint32_t)h->socks[i].region_at;
        reqs[i]->frag_len = bytes;
    }
    h->io.now = l->now;
    uint64_t t = __rdtsc();
    OPS->output(h->st, &h->io, reqs, socks);
    c->send += __rdtsc() - t;
    drain(h);
}

static struct engine_credit credit_of(const struct pkt *p) {
    return (struct engine_credit){p->sink, p->sock, pkt_bytes(p)};
}

static void receive_burst(struct link *l, uint32_t host, struct cost *c) {
    struct link_host *h = &l->host[host];
    struct pkt *pkts[PKT_VEC_MAX];
    struct engine_credit credits[PKT_BURST];
    uint32_t n = carry(l, !host, pkts);
    h->io.now = l->now;
    for (uint32_t at = 0; at < n; at += PKT_BURST) {
        uint64_t t = __rdtsc();
        OPS->input(h->st, &h->io, pkts + at, n - at < PKT_BURST ? n - at : PKT_BURST);
        c->receive += __rdtsc() - t;
        uint32_t credit_count = 0;
        for (uint32_t i = 0; i < h->up.count; i++)
            credits[credit_count++] = credit_of(h->up.v[i]);
        t = __rdtsc();
        OPS->credit(h->st, &h->io, credits, credit_count);
        c->receive += __rdtsc() - t;
        drain(h);
    }
}

static uint64_t samples[4][ROUNDS];

static void requests(struct link *l, uint32_t socks) {
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct cost client = {0}, server = {0};
        l->now += 20000;
        send_burst(l, 0, socks, SIZE, &client);
        receive_burst(l, 1, &server);
        l->now += 2000;
        send_burst(l, 1, socks, SIZE, &server);
        receive_burst(l, 0, &client);
        samples[0][i] = client.send;
        samples[1][i] = server.receive;
        samples[2][i] = server.send;
        samples[3][i] = client.receive;
    }
    uint64_t m[4], sum = 0;
    for (uint32_t i = 0; i < 4; i++)
        sum += m[i] = median(samples[i], ROUNDS) / socks;
    printf("64 B, %2u connections a burst: client %lu + %lu, server %lu + %lu (send + receive), sum %lu\n", socks, m[0],
           m[3], m[2], m[1], sum);
}

static void bulk(struct link *l) {
    l->host[0].ports[0].caps = PORT_CAP_TX_GSO_TCP;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct cost client = {0}, server = {0};
        l->now += 100000;
        send_burst(l, 0, 1, 65160, &client);
        for (uint32_t k = 0; k < 4; k++) { /* data and the ACKs that let the rest go */
            receive_burst(l, 1, &server);
            receive_burst(l, 0, &client);
        }
        samples[0][i] = client.send;
        samples[1][i] = client.receive;
        samples[2][i] = server.receive;
    }
    printf("64 KiB by super-segments: sender %lu send + %lu for ACKs, receiver %lu\n", median(samples[0], ROUNDS),
           median(samples[1], ROUNDS), median(samples[2], ROUNDS));
}

/* ---- many connections ---- */

#define MANY   100000u
#define ACTIVE 1000u
#define SYN    0x02
#define ACK    0x10

struct remote {
    uint32_t snd, rcv;
};
static struct remote remotes[MANY];

static struct pkt *segment(struct link *l, uint32_t i, uint8_t flags, uint32_t len) {
    uint8_t bytes[TCP_LEN + SIZE] = {0}, ip[4] = {10, (uint8_t)(1 + i / 50000), 0, 1};
    struct pkt meta = {.flow = {.remote = link_address(l, 1), .proto = PROTO_TCP}};
    meta.flow.local = ipaddr_from_v4(ip);
    be16_store(bytes, (uint16_t)(1024 + i % 50000));
    be16_store(bytes + 2, 80);
    be32_store(bytes + 4, remotes[i].snd);
    be32_store(bytes + 8, remotes[i].rcv);
    bytes[12] = (TCP_LEN / 4) << 4;
    bytes[13] = flags;
    be16_store(bytes + 14, 60000);
    struct pkt *p = link_arrive(l, 1, &meta, bytes, TCP_LEN + len);
    CHECK(p != NULL);
    p->flags |= PKT_CSUM_OK;
    remotes[i].snd += len + !!(flags & SYN);
    return p;
}

static void put_down(struct link_host *h) {
    for (uint32_t i = 0; i < h->down.count; i++)
        link_put(h->down.v[i]);
    h->down.count = 0;
}

static void open_one(struct link *l, uint32_t i) {
    struct link_host *h = &l->host[1];
    struct pkt *p = segment(l, i, SYN, 0);
    OPS->input(h->st, &h->io, &p, 1);
    remotes[i].rcv = be32_load(h->down.v[0]->data + 4) + 1;
    put_down(h);
    p = segment(l, i, ACK, 0);
    OPS->input(h->st, &h->io, &p, 1);
    put_down(h);
    drain(h);
}

static size_t resident(void) {
    unsigned long pages = 0, size = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f != NULL && fscanf(f, "%lu %lu", &size, &pages) == 2);
    fclose(f);
    return pages * 4096;
}

/* Bursts of 32 requests to connections chosen at random among the first `among`, one in `apart`. */
static uint64_t random_requests(struct link *l, uint32_t among, uint32_t apart) {
    struct link_host *h = &l->host[1];
    uint64_t rng = 1;
    for (uint32_t r = 0; r < ROUNDS; r++) {
        struct pkt *burst[CONNS];
        for (uint32_t i = 0; i < CONNS; i++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            burst[i] = segment(l, (uint32_t)((rng >> 33) % among) * apart, ACK, SIZE);
        }
        l->now += 100000;
        h->io.now = l->now;
        uint64_t t = __rdtsc();
        OPS->input(h->st, &h->io, burst, CONNS);
        samples[0][r] = (__rdtsc() - t) / CONNS;
        drain(h);
        put_down(h);
    }
    return median(samples[0], ROUNDS);
}

static void many(uint32_t count) {
    struct tcp_config cfg = {.conn_max = 131072, .half_open_max = 64, .item_max = 4096, .segment_max = 4096};
    struct tcp_cmd_listen c = {.cmd = {TCP_CMD_LISTEN, sizeof c}, .flow.local_port = 80, .backlog = 64};
    struct engine_reply r;
    size_t before = resident();
    struct link *l = link_create(2, &cfg, &cfg);
    struct link_host *h = &l->host[1];
    c.sink = SINK(SINK_ENGINE, 1, 1);
    h->io.now = l->now;
    OPS->command(h->st, &h->io, &c.cmd, &r);
    CHECK(r.error == 0);
    size_t empty = resident();
    memset(remotes, 0, sizeof remotes);
    for (uint32_t i = 0; i < count; i++)
        open_one(l, i);
    size_t full = resident();
    uint32_t apart = count / ACTIVE;
    printf("%6u established: %zu bytes resident each (the fixture itself %zu MiB), %lu cycles a 64 B segment over a "
           "random %u\n",
           count, (full - empty) / count, (empty - before) >> 20, random_requests(l, ACTIVE, apart), ACTIVE);
    link_destroy(l);
}

int main(void) {
    struct link *l = link_create(1, NULL, NULL);
    struct tcp_cmd_connect c = {.opt.nodelay = true};
    struct tcp_cmd_listen listen = {.backlog = 64, .opt.nodelay = true};
    (void)link_listen(l, 1, 80, &listen);
    for (uint32_t i = 0; i < CONNS; i++)
        (void)link_connect(l, 0, 80, 0, &c);
    link_step_time(l, l->now + NS_PER_SEC);
    requests(l, 1);
    requests(l, CONNS);
    bulk(l);
    link_destroy(l);
    many(ACTIVE);
    many(MANY);
    return EXIT_SUCCESS;
}
