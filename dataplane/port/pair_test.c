/* SPDX-License-Identifier: Apache-2.0
 *
 * The pair port: order, content, limits, back-pressure and the end of one side.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>

#include "dataplane/port/port.h"

struct ends {
    struct pktmem mem[2];
    struct port *port[2];
    struct port_queue *a, *b;
    struct pkt_vec done, drop;
};

static void ends_open(struct ends *e, uint32_t count, uint32_t frame, uint32_t entries) {
    memset(e, 0, sizeof *e);
    struct port_params params[2] = {{.ifname = "a", .queue_count = 1, .ring_entries = entries},
                                    {.ifname = "b", .queue_count = 1}};
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(pktmem_create(&e->mem[i], count, frame, 0), 0);
        params[i].mem[0] = &e->mem[i];
    }
    struct port_error err;
    cr_assert_eq(port_pair_create(params, false, e->port, &err), 0, "%s", err.text);
    e->a = e->port[0]->queue[0];
    e->b = e->port[1]->queue[0];
}

static void ends_close(struct ends *e) {
    for (int i = 0; i < 2; i++)
        port_destroy(e->port[i]);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(e->mem[i].pool.free_count, e->mem[i].pool.count, "packets leaked at end %d", i);
        pktmem_destroy(&e->mem[i]);
    }
}

static void vec_free(struct pkt_vec *vec) {
    for (uint32_t i = 0; i < vec->count; i++)
        pkt_free(vec->v[i]->pool, vec->v[i]);
    vec->count = 0;
}

static void send_numbered(struct ends *e, uint32_t first, uint32_t n, uint32_t len) {
    struct pkt *burst[PKT_BURST];
    for (uint32_t i = 0; i < n; i++) {
        burst[i] = pkt_alloc(&e->mem[0].pool);
        burst[i]->len = len;
        memset(burst[i]->data, 0x5a, len);
        memcpy(burst[i]->data, &(uint32_t){first + i}, 4);
    }
    e->a->ops->tx(e->a, burst, n, &e->done, &e->drop);
}

Test(pair, keeps_order_and_content) {
    struct ends e;
    ends_open(&e, 512, 2048, 0);
    uint32_t expect = 0;
    for (uint32_t round = 0; round < 1000; round++) {
        uint32_t n = 1 + round % PKT_BURST;
        send_numbered(&e, round * 100, n, 60 + round);
        struct pkt *got[PKT_BURST];
        cr_assert_eq(e.b->ops->rx(e.b, got, PKT_BURST), n);
        for (uint32_t i = 0; i < n; i++) {
            memcpy(&expect, got[i]->data, 4);
            cr_assert_eq(expect, round * 100 + i);
            cr_assert_eq(got[i]->len, 60 + round);
            cr_assert_eq(got[i]->data[59 + round], 0x5a);
            pkt_free(&e.mem[1].pool, got[i]);
        }
        e.a->ops->reap(e.a, &e.done);
        cr_assert_eq(e.done.count, n);
        vec_free(&e.done);
    }
    cr_assert_eq(e.drop.count, 0);
    ends_close(&e);
}

Test(pair, full_ring_drops_with_the_reason) {
    struct ends e;
    ends_open(&e, 64, 2048, 16);
    send_numbered(&e, 0, 20, 60);
    cr_assert_eq(e.drop.count, 4);
    cr_assert_eq(e.drop.v[0]->drop, DROP_PORT_TX_FULL);
    cr_assert_eq(e.a->stats.tx_packets, 16);
    cr_assert_eq(e.a->stats.tx_dropped, 4);
    vec_free(&e.drop);
    ends_close(&e);
}

Test(pair, empty_receive_pool_leaves_frames_in_the_ring) {
    struct ends e;
    ends_open(&e, 8, 2048, 16);
    struct pkt *held[8], *got[8];
    for (int i = 0; i < 6; i++)
        held[i] = pkt_alloc(&e.mem[1].pool);
    send_numbered(&e, 0, 8, 60);
    cr_assert_eq(e.b->ops->rx(e.b, got, 8), 2);
    for (int i = 0; i < 6; i++)
        pkt_free(&e.mem[1].pool, held[i]);
    cr_assert_eq(e.b->ops->rx(e.b, got + 2, 6), 6);
    for (int i = 0; i < 8; i++)
        pkt_free(&e.mem[1].pool, got[i]);
    ends_close(&e);
}

Test(pair, frame_larger_than_the_buffer_is_counted) {
    struct ends e;
    ends_open(&e, 8, 512, 16);
    struct pkt *p = pkt_alloc(&e.mem[0].pool);
    static uint8_t payload[1000];
    p->len = 60;
    p->frag_count = 1;
    p->frag[0] = (struct pkt_frag){.base = payload, .len = sizeof payload};
    p->frag_len = sizeof payload;
    e.a->ops->tx(e.a, &p, 1, &e.done, &e.drop);
    struct pkt *got;
    cr_assert_eq(e.b->ops->rx(e.b, &got, 1), 0);
    cr_assert_eq(e.b->stats.rx_dropped, 1);
    e.a->ops->reap(e.a, &e.done);
    cr_assert_eq(e.done.count, 1);
    vec_free(&e.done);
    ends_close(&e);
}

static int readable(const struct port_queue *q) {
    struct pollfd p = {.fd = q->event_fd, .events = POLLIN};
    return poll(&p, 1, 0);
}

Test(pair, arm_wakes_for_frames_and_for_reaping) {
    struct ends e;
    ends_open(&e, 8, 2048, 16);
    cr_assert_eq(e.b->ops->arm(e.b), 0);
    cr_assert_eq(readable(e.b), 0);
    send_numbered(&e, 0, 1, 60);
    cr_assert_eq(readable(e.b), 1);
    e.b->ops->disarm(e.b);
    cr_assert_eq(readable(e.b), 0);
    cr_assert_eq(e.b->ops->arm(e.b), 1, "a frame waits: arm must say so");
    cr_assert_eq(e.a->ops->arm(e.a), 0);
    struct pkt *got;
    cr_assert_eq(e.b->ops->rx(e.b, &got, 1), 1);
    cr_assert_eq(readable(e.a), 1, "the sender has a packet to reap");
    e.a->ops->disarm(e.a);
    cr_assert_eq(e.a->ops->arm(e.a), 1);
    pkt_free(&e.mem[1].pool, got);
    ends_close(&e);
}

Test(pair, peer_of_a_destroyed_end_gets_everything_back) {
    struct ends e;
    ends_open(&e, 32, 2048, 16);
    send_numbered(&e, 0, 10, 60);
    port_destroy(e.port[1]);
    e.port[1] = NULL;
    e.a->ops->reap(e.a, &e.done);
    cr_assert_eq(e.done.count, 10);
    send_numbered(&e, 0, 2, 60);
    cr_assert_eq(e.drop.count, 2);
    cr_assert_eq(e.drop.v[1]->drop, DROP_PORT_DOWN);
    vec_free(&e.done);
    vec_free(&e.drop);
    ends_close(&e);
}

Test(pair, wrong_params_are_refused_with_a_sentence) {
    struct pktmem mem;
    cr_assert_eq(pktmem_create(&mem, 8, 2048, 0), 0);
    struct port_params params[2] = {{.ifname = "x", .queue_count = 1, .mem = {&mem, &mem}},
                                    {.ifname = "y", .queue_count = 2, .mem = {&mem, &mem}}};
    struct port *ends[2];
    struct port_error err = {""};
    cr_assert_eq(port_pair_create(params, false, ends, &err), -EINVAL);
    cr_assert(strstr(err.text, "same number") != NULL);
    params[1].queue_count = 1;
    params[0].ring_entries = 3;
    cr_assert_eq(port_pair_create(params, false, ends, &err), -EINVAL);
    cr_assert(strstr(err.text, "power of two") != NULL);
    params[0].mem[0] = NULL;
    cr_assert_eq(port_pair_create(params, false, ends, &err), -EINVAL);
    cr_assert(strstr(err.text, "memory") != NULL);
    pktmem_destroy(&mem);
}
