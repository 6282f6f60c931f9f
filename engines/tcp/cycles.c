/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of cycles.h: a 64-byte request and its response, client and server side apart, with one connection and with
 * many, in bursts; and 64 KiB in bulk by super-segments. Carrying packets between the two ends is not timed.
 */
#include "engines/tcp/cycles.h"

#include <stdlib.h>
#include <x86intrin.h>

#include "engines/tcp/testlink_internal.h"
#include "engines/wire.h"

extern const struct engine_ops usher_engine_tcp;
#define OPS    (&usher_engine_tcp)
#define ROUNDS 4000u

/* Medians: the machine may be busy with other things. */
struct cost {
    uint64_t send, receive;
};

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

uint64_t cycles_median(uint64_t *v, uint32_t n) {
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

struct cycles_request cycles_requests(struct link *l, uint32_t socks) {
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct cost client = {0}, server = {0};
        l->now += 20000;
        send_burst(l, 0, socks, CYCLES_SIZE, &client);
        receive_burst(l, 1, &server);
        l->now += 2000;
        send_burst(l, 1, socks, CYCLES_SIZE, &server);
        receive_burst(l, 0, &client);
        samples[0][i] = client.send;
        samples[1][i] = client.receive;
        samples[2][i] = server.send;
        samples[3][i] = server.receive;
    }
    return (struct cycles_request){cycles_median(samples[0], ROUNDS) / socks, cycles_median(samples[1], ROUNDS) / socks,
                                   cycles_median(samples[2], ROUNDS) / socks,
                                   cycles_median(samples[3], ROUNDS) / socks};
}

struct cycles_bulk cycles_bulk(struct link *l) {
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
    return (struct cycles_bulk){cycles_median(samples[0], ROUNDS), cycles_median(samples[1], ROUNDS),
                                cycles_median(samples[2], ROUNDS)};
}

void cycles_drain(struct link *l, uint32_t host) {
    drain(&l->host[host]);
}

struct link *cycles_open(void) {
    struct link *l = link_create(1, NULL, NULL);
    struct tcp_cmd_connect c = {.opt.nodelay = true};
    struct tcp_cmd_listen listen = {.backlog = 64, .opt.nodelay = true};
    (void)link_listen(l, 1, 80, &listen);
    for (uint32_t i = 0; i < CYCLES_CONNS; i++)
        (void)link_connect(l, 0, 80, 0, &c);
    link_step_time(l, l->now + NS_PER_SEC);
    return l;
}
