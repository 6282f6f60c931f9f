/* SPDX-License-Identifier: Apache-2.0
 *
 * The faulty decorator in virtual time: every fault alone, determinism, and that nothing leaks or touches the sender's
 * bytes.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/port/port.h"
#include "engines/wire.h"

#define COUNT 2000u

struct wire {
    struct pktmem mem[2];
    struct port *port[2];
    struct port_queue *a, *b;
    struct pkt_vec done, drop;
    uint32_t sent, received, dropped;
    uint64_t hash; /* of what came, when and in which order */
    uint32_t last;
    uint32_t out_of_order, twice;
};

/* End 0 is faulty. */
static void wire_open(struct wire *w, const struct port_faults *faults) {
    memset(w, 0, sizeof *w);
    struct port_params params[2] = {{.ifname = "a", .queue_count = 1}, {.ifname = "b", .queue_count = 1}};
    struct port_error err;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pktmem_create(&w->mem[i], 1024, 2048, 0), 0);
        params[i].mem[0] = &w->mem[i];
    }
    cr_assert_eq(port_pair_create(params, false, w->port, &err), 0);
    cr_assert_eq(port_faulty_create(w->port[0], faults, &w->port[0]), 0);
    w->a = w->port[0]->queue[0];
    w->b = w->port[1]->queue[0];
}

static void wire_close(struct wire *w) {
    for (int i = 0; i < 2; i++)
        port_destroy(w->port[i]);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(w->mem[i].pool.free_count, 1024, "end %d leaks", i);
        pktmem_destroy(&w->mem[i]);
    }
}

static void settle(struct wire *w, struct port_queue *q) {
    q->ops->reap(q, &w->done);
    w->dropped += w->drop.count;
    for (uint32_t i = 0; i < w->done.count; i++)
        pkt_free(w->done.v[i]->pool, w->done.v[i]);
    for (uint32_t i = 0; i < w->drop.count; i++) {
        cr_assert_eq(w->drop.v[i]->drop, DROP_FAULT_INJECTED);
        pkt_free(w->drop.v[i]->pool, w->drop.v[i]);
    }
    w->done.count = w->drop.count = 0;
}

static void send_one(struct wire *w, struct port_queue *q, int end, ns_t now, uint32_t len) {
    struct pkt *p = pkt_alloc(&w->mem[end].pool);
    p->len = len;
    memset(p->data, 0, len);
    be32_store(p->data + 14, ++w->sent);
    q->now = now;
    q->ops->tx(q, &p, 1, &w->done, &w->drop);
    settle(w, q);
}

static void note(struct wire *w, const struct pkt *p, ns_t now) {
    uint32_t number = be32_load(p->data + 14);
    w->out_of_order += number < w->last;
    w->twice += number == w->last;
    w->last = number;
    w->received++;
    w->hash = (w->hash ^ number ^ (now << 20)) * 0x100000001b3ull;
    for (uint32_t i = 18; i < p->len; i++)
        w->hash = (w->hash ^ p->data[i]) * 0x100000001b3ull;
}

static void receive(struct wire *w, struct port_queue *q, ns_t now) {
    struct pkt *got[PKT_BURST];
    q->now = now;
    uint32_t n = q->ops->rx(q, got, PKT_BURST);
    for (uint32_t i = 0; i < n; i++) {
        note(w, got[i], now);
        pkt_free(got[i]->pool, got[i]);
    }
}

/* COUNT frames, one each 10 us, sent into the faulty end (tx faults) or out of the good one (rx faults). */
static void run(struct wire *w, bool into_faulty) {
    struct port_queue *from = into_faulty ? w->a : w->b, *to = into_faulty ? w->b : w->a;
    for (ns_t now = 0; now < (COUNT + 1000) * 10 * NS_PER_US; now += 10 * NS_PER_US) {
        if (w->sent < COUNT)
            send_one(w, from, into_faulty ? 0 : 1, now, 100);
        w->a->now = now;
        settle(w, w->a);
        receive(w, to, now);
        settle(w, w->b);
    }
}

static struct wire both_ways(struct port_faults f, bool into_faulty) {
    static struct wire w;
    f.on_tx = into_faulty;
    f.on_rx = !into_faulty;
    wire_open(&w, &f);
    run(&w, into_faulty);
    wire_close(&w);
    return w;
}

Test(faulty, no_faults_change_nothing) {
    for (int tx = 0; tx < 2; tx++) {
        struct wire w = both_ways((struct port_faults){.seed = 1}, tx);
        cr_assert_eq(w.received, COUNT);
        cr_assert_eq(w.out_of_order + w.twice + w.dropped, 0);
    }
}

Test(faulty, drops_at_about_the_rate) {
    for (int tx = 0; tx < 2; tx++) {
        struct wire w = both_ways((struct port_faults){.seed = 1, .drop_ppm = 100000}, tx);
        cr_assert(w.received > COUNT * 85 / 100 && w.received < COUNT * 95 / 100, "%u", w.received);
        cr_assert_eq(w.out_of_order, 0);
        if (tx)
            cr_assert_eq(w.dropped, COUNT - w.received);
    }
}

Test(faulty, duplicates_come_behind_their_twin) {
    for (int tx = 0; tx < 2; tx++) {
        struct wire w = both_ways((struct port_faults){.seed = 1, .duplicate_ppm = 100000}, tx);
        cr_assert(w.twice > COUNT * 5 / 100 && w.twice < COUNT * 15 / 100);
        cr_assert_eq(w.received, COUNT + w.twice);
        cr_assert_eq(w.out_of_order, 0);
    }
}

Test(faulty, reorders_only_when_asked) {
    for (int tx = 0; tx < 2; tx++) {
        struct wire w = both_ways((struct port_faults){.seed = 1, .delay_ns = NS_PER_MS, .jitter_ns = NS_PER_MS}, tx);
        cr_assert_eq(w.received, COUNT);
        cr_assert_eq(w.out_of_order, 0, "jitter keeps order");
        w = both_ways((struct port_faults){.seed = 1, .reorder_ppm = 50000}, tx);
        cr_assert_eq(w.received, COUNT);
        cr_assert(w.out_of_order > COUNT / 100);
    }
}

Test(faulty, same_seed_same_run) {
    struct port_faults f = {.seed = 42,
                            .drop_ppm = 50000,
                            .duplicate_ppm = 50000,
                            .corrupt_ppm = 50000,
                            .reorder_ppm = 50000,
                            .delay_ns = NS_PER_MS,
                            .jitter_ns = NS_PER_MS,
                            .bottleneck_bps = 100000000};
    for (int tx = 0; tx < 2; tx++) {
        f.seed = 42;
        uint64_t first = both_ways(f, tx).hash;
        cr_assert_eq(both_ways(f, tx).hash, first);
        f.seed = 43;
        cr_assert_neq(both_ways(f, tx).hash, first);
    }
}

Test(faulty, delay_is_exact_and_wakes) {
    struct wire w;
    struct port_faults f = {.delay_ns = 5 * NS_PER_MS, .on_tx = true};
    wire_open(&w, &f);
    w.a->now = 0;
    cr_assert_eq(w.a->ops->arm(w.a), 0);
    cr_assert_eq(w.a->wake_at, NS_NEVER);
    send_one(&w, w.a, 0, 1000, 100);
    cr_assert_eq(w.a->wake_at, 1000 + 5 * NS_PER_MS);
    w.a->now = w.a->wake_at - 1;
    settle(&w, w.a);
    receive(&w, w.b, w.a->now);
    cr_assert_eq(w.received, 0);
    w.a->now++;
    cr_assert_eq(w.a->ops->arm(w.a), 1, "it is due: do not sleep");
    settle(&w, w.a);
    receive(&w, w.b, w.a->now);
    cr_assert_eq(w.received, 1);
    settle(&w, w.a);
    cr_assert_eq(w.a->wake_at, NS_NEVER);
    wire_close(&w);
}

Test(faulty, bottleneck_spaces_frames_and_its_queue_is_bounded) {
    struct wire w;
    struct port_faults f = {.bottleneck_bps = 8000000, .queue_packets = 10, .on_tx = true}; /* 1 byte a us */
    wire_open(&w, &f);
    for (int i = 0; i < 20; i++)
        send_one(&w, w.a, 0, 0, 100);
    cr_assert_eq(w.dropped, 10);
    for (ns_t now = 0; now <= 1000 * NS_PER_US; now += NS_PER_US) {
        w.a->now = now;
        settle(&w, w.a);
        receive(&w, w.b, now);
        cr_assert_eq(w.received, now / (100 * NS_PER_US), "at %u us", (uint32_t)(now / NS_PER_US));
    }
    settle(&w, w.a);
    wire_close(&w);
}

Test(faulty, corruption_flips_one_bit_of_a_copy) {
    struct wire w;
    struct port_faults f = {.seed = 9, .corrupt_ppm = 1000000, .on_tx = true};
    wire_open(&w, &f);
    uint32_t where[100] = {0};
    for (int i = 0; i < 500; i++) {
        struct pkt *p = pkt_alloc(&w.mem[0].pool), *got;
        memset(p->data, 0x55, 100);
        p->len = 60;
        p->frag[0] = (struct pkt_frag){.base = p->data + 60, .len = 40};
        p->frag_count = 1;
        p->frag_len = 40;
        w.a->ops->tx(w.a, &p, 1, &w.done, &w.drop);
        for (int k = 0; k < 100; k++)
            cr_assert_eq(p->data[k], 0x55, "the sender's bytes are its own");
        cr_assert_eq(w.b->ops->rx(w.b, &got, 1), 1);
        int flipped = 0;
        for (int k = 0; k < 100; k++) {
            flipped += __builtin_popcount(got->data[k] ^ 0x55u);
            where[k] += got->data[k] != 0x55;
        }
        cr_assert_eq(flipped, 1);
        pkt_free(got->pool, got);
        settle(&w, w.a);
    }
    for (int k = 0; k < 14; k++)
        cr_assert_eq(where[k], 0, "the link header stays");
    cr_assert(where[99] + where[98] + where[97] > 0);
    wire_close(&w);
}

Test(faulty, corruption_survives_checksum_offload) {
    struct wire w;
    struct port_faults f = {.seed = 9, .corrupt_ppm = 1000000, .on_tx = true};
    wire_open(&w, &f);
    cr_assert_eq(w.port[0]->info.caps & (PORT_CAP_TX_GSO_TCP | PORT_CAP_TX_GSO_UDP), 0);
    struct pkt *p = pkt_alloc(&w.mem[0].pool), *got;
    memset(p->data, 1, 100);
    p->len = 100;
    p->flags = PKT_CSUM_PARTIAL;
    p->csum_start = PKT_HEADROOM + 34;
    p->csum_offset = 6;
    w.a->ops->tx(w.a, &p, 1, &w.done, &w.drop);
    cr_assert_eq(w.b->ops->rx(w.b, &got, 1), 1);
    cr_assert_eq(got->flags & (PKT_CSUM_PARTIAL | PKT_CSUM_OK), 0);
    pkt_free(got->pool, got);
    settle(&w, w.a);
    wire_close(&w);
}

Test(faulty, destroyed_full_it_gives_everything_back) {
    struct wire w;
    struct port_faults f = {.delay_ns = NS_PER_SEC, .duplicate_ppm = 500000, .on_tx = true, .on_rx = true};
    wire_open(&w, &f);
    for (int i = 0; i < 100; i++) {
        send_one(&w, w.a, 0, 0, 100);
        send_one(&w, w.b, 1, 0, 100);
        receive(&w, w.a, 0);
    }
    wire_close(&w);
    f.queue_packets = 1 << 20;
    struct port *out;
    struct port_error err;
    struct pktmem mem;
    cr_assert_eq(pktmem_create(&mem, 4, 2048, 0), 0);
    struct port_params params[2] = {{.ifname = "a", .queue_count = 1, .mem = {&mem}},
                                    {.ifname = "b", .queue_count = 1, .mem = {&mem}}};
    struct port *ends[2];
    cr_assert_eq(port_pair_create(params, false, ends, &err), 0);
    cr_assert_eq(port_faulty_create(ends[0], &f, &out), -EINVAL);
    port_destroy(ends[0]);
    port_destroy(ends[1]);
    pktmem_destroy(&mem);
}
