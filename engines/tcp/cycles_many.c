/* SPDX-License-Identifier: Apache-2.0
 *
 * Many established connections on one engine: what they take, and what a segment costs on a random few of them. Their
 * far ends exist as two numbers each. One thread.
 */
#include <stdio.h>
#include <x86intrin.h>

#include "engines/tcp/cycles.h"
#include "engines/tcp/testlink_internal.h"
#include "engines/wire.h"

extern const struct engine_ops usher_engine_tcp;
#define OPS    (&usher_engine_tcp)
#define ROUNDS 4000u

static uint64_t samples[ROUNDS];

#define SYN 0x02
#define ACK 0x10

struct remote {
    uint32_t snd, rcv;
};
static struct remote remotes[CYCLES_MANY];

static struct pkt *segment(struct link *l, uint32_t i, uint8_t flags, uint32_t len) {
    uint8_t bytes[TCP_LEN + CYCLES_SIZE] = {0}, ip[4] = {10, (uint8_t)(1 + i / 50000), 0, 1};
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
    cycles_drain(l, 1);
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
        struct pkt *burst[CYCLES_CONNS];
        for (uint32_t i = 0; i < CYCLES_CONNS; i++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            burst[i] = segment(l, (uint32_t)((rng >> 33) % among) * apart, ACK, CYCLES_SIZE);
        }
        l->now += 100000;
        h->io.now = l->now;
        uint64_t t = __rdtsc();
        OPS->input(h->st, &h->io, burst, CYCLES_CONNS);
        samples[r] = (__rdtsc() - t) / CYCLES_CONNS;
        cycles_drain(l, 1);
        put_down(h);
    }
    return cycles_median(samples, ROUNDS);
}

struct cycles_many cycles_many(uint32_t count) {
    struct tcp_config cfg = {.conn_max = 131072, .half_open_max = 64, .item_max = 4096, .segment_max = 4096};
    struct tcp_cmd_listen c = {.cmd = {TCP_CMD_LISTEN, sizeof c}, .flow.local_port = 80, .backlog = 64};
    struct engine_reply r;
    struct link *l = link_create(2, &cfg, &cfg);
    struct link_host *h = &l->host[1];
    CHECK(count >= CYCLES_ACTIVE && count <= CYCLES_MANY);
    c.sink = SINK(SINK_ENGINE, 1, 1);
    h->io.now = l->now;
    OPS->command(h->st, &h->io, &c.cmd, &r);
    CHECK(r.error == 0);
    memset(remotes, 0, sizeof remotes);
    size_t empty = resident();
    for (uint32_t i = 0; i < count; i++)
        open_one(l, i);
    struct cycles_many result = {.bytes_each = (resident() - empty) / count};
    result.segment = random_requests(l, CYCLES_ACTIVE, count / CYCLES_ACTIVE);
    link_destroy(l);
    return result;
}
