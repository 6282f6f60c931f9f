/* SPDX-License-Identifier: Apache-2.0
 *
 * What the conformance rigs do not show: several queues on one interface, and frames that span several buffers. Two
 * ports on a veth pair in a namespace of each test's own.
 */
#include <criterion/criterion.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/port/port.h"
#include "engines/wire.h"

#define QUEUES 2

struct pairing {
    struct pktmem mem[2][QUEUES], large[2][QUEUES];
    struct port *port[2];
    struct pkt_vec done, drop;
};

static ns_t clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (ns_t)t.tv_sec * NS_PER_SEC + (ns_t)t.tv_nsec;
}

static bool veth_make(uint32_t mtu) {
    char command[256];
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
        fprintf(stderr, "SKIPPED: needs root, for a network namespace and raw sockets\n");
        return false;
    }
    snprintf(command, sizeof command,
             "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 && "
             "ip link add v0 mtu %u numrxqueues 2 numtxqueues 2 type veth "
             "peer name v1 mtu %u numrxqueues 2 numtxqueues 2 && ip link set v0 up && ip link set v1 up",
             mtu, mtu);
    cr_assert_eq(system(command), 0);
    return true;
}

typedef int create_fn(const struct port_params *params, struct port **ret_port, struct port_error *err);

static void end_open(struct pairing *p, int e, create_fn *create, uint32_t queues, uint32_t frame_size) {
    struct port_params params = {.ifname = e == 0 ? "v0" : "v1", .queue_count = queues, .allow_native = true};
    struct port_error err = {""};
    for (uint32_t i = 0; i < queues; i++) {
        cr_assert_eq(pktmem_create(&p->mem[e][i], 1024, frame_size, i), 0);
        cr_assert_eq(pktmem_create(&p->large[e][i], 64, 69632, i), 0);
        params.mem[i] = &p->mem[e][i];
        params.large_mem[i] = &p->large[e][i];
    }
    cr_assert_eq(create(&params, &p->port[e], &err), 0, "%s", err.text);
    cr_assert_eq(p->port[e]->queue_count, queues);
    for (uint32_t i = 0; i < queues; i++)
        cr_assert_eq(p->port[e]->queue[i]->ops->attach(p->port[e]->queue[i]), 0);
}

static void pairing_close(struct pairing *p) {
    for (int e = 0; e < 2; e++) {
        for (uint32_t i = 0; i < p->port[e]->queue_count; i++)
            p->port[e]->queue[i]->ops->detach(p->port[e]->queue[i]);
        port_destroy(p->port[e]);
        for (uint32_t i = 0; i < QUEUES && p->mem[e][i].base != NULL; i++) {
            cr_assert_eq(p->mem[e][i].pool.free_count, p->mem[e][i].pool.count);
            cr_assert_eq(p->large[e][i].pool.free_count, p->large[e][i].pool.count);
            pktmem_destroy(&p->mem[e][i]);
            pktmem_destroy(&p->large[e][i]);
        }
    }
}

static void send_one(struct pairing *p, struct port_queue *q, struct pkt *pkt) {
    q->now = clock_now();
    q->ops->tx(q, &pkt, 1, &p->done, &p->drop);
    q->ops->reap(q, &p->done);
    cr_assert_eq(p->drop.count, 0);
    for (uint32_t i = 0; i < p->done.count; i++)
        pkt_free(p->done.v[i]->pool, p->done.v[i]);
    p->done.count = 0;
}

/* veth hands a frame to the backlog of the core that sends it: a sender that moves would overtake itself. */
static void stay_on_this_core(void) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    cr_assert_eq(sched_setaffinity(0, sizeof(one), &one), 0);
}

/* A datagram of flow `flow`, number `number`; checksum left out. */
static struct pkt *flow_frame(struct pkt_pool *pool, uint16_t flow, uint32_t number) {
    struct pkt *p = pkt_alloc(pool);
    memset(p->data, 0, 60);
    memset(p->data, 0xff, 6);
    p->data[6] = 2;
    be16_store(p->data + 12, ETHERTYPE_IP4);
    uint8_t *ip = p->data + ETH_LEN;
    memcpy(ip, (uint8_t[]){0x45, 0, 0, 46, 0, 1, 0, 0, 64, PROTO_UDP, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2}, 20);
    be16_store(ip + 20, (uint16_t)(1000 + flow));
    be16_store(ip + 22, 7000);
    be16_store(ip + 24, 26);
    be32_store(ip + 28, number);
    p->len = 60;
    return p;
}

#define FLOWS  64u
#define ROUNDS 7u /* all of it fits one ring: nobody receives meanwhile */

/* Every frame comes once, in the order of its flow, and a flow stays on its queue. */
Test(queues, packet_spreads_flows_and_keeps_them) {
    static struct pairing p;
    static uint32_t next[FLOWS], queue_of[FLOWS], on_queue[QUEUES];
    stay_on_this_core();
    if (!veth_make(1500))
        return;
    end_open(&p, 0, port_packet_create, 1, 2048);
    end_open(&p, 1, port_packet_create, QUEUES, 2048);
    for (uint32_t r = 0; r < ROUNDS; r++) {
        for (uint16_t f = 0; f < FLOWS; f++)
            send_one(&p, p.port[0]->queue[0], flow_frame(&p.mem[0][0].pool, f, r));
    }
    ns_t until = clock_now() + 5 * NS_PER_SEC;
    for (uint32_t got = 0, i = 0; got < FLOWS * ROUNDS; i = (i + 1) % QUEUES) {
        struct pkt *pkts[PKT_BURST];
        uint32_t n = p.port[1]->queue[i]->ops->rx(p.port[1]->queue[i], pkts, PKT_BURST);
        for (uint32_t k = 0; k < n; k++) {
            const uint8_t *udp = pkts[k]->data + ETH_LEN + IP4_LEN;
            uint32_t flow = be16_load(udp) - 1000u;
            cr_assert_lt(flow, FLOWS);
            cr_assert_eq(be32_load(udp + 8), next[flow]++);
            cr_assert(next[flow] == 1 || queue_of[flow] == i);
            queue_of[flow] = i;
            on_queue[i]++;
            pkt_free(pkts[k]->pool, pkts[k]);
        }
        got += n;
        cr_assert(clock_now() < until, "%u came", got);
    }
    cr_assert(on_queue[0] > 0 && on_queue[1] > 0, "one queue got all");
    pairing_close(&p);
}

Test(queues, xdp_serves_each_queue) {
    static struct pairing p;
    stay_on_this_core();
    if (!veth_make(1500))
        return;
    end_open(&p, 0, port_xdp_create, QUEUES, 2048);
    end_open(&p, 1, port_xdp_create, QUEUES, 2048);
    for (uint32_t i = 0; i < QUEUES; i++) {
        for (uint32_t number = 0; number < 100; number++)
            send_one(&p, p.port[0]->queue[i], flow_frame(&p.mem[0][i].pool, (uint16_t)i, number));
        ns_t until = clock_now() + 5 * NS_PER_SEC;
        for (uint32_t got = 0; got < 100;) {
            struct pkt *pkt;
            cr_assert(clock_now() < until, "queue %u: %u came", i, got);
            if (p.port[1]->queue[i]->ops->rx(p.port[1]->queue[i], &pkt, 1) == 0)
                continue;
            cr_assert_eq(be32_load(pkt->data + ETH_LEN + IP4_LEN + 8), got++);
            pkt_free(pkt->pool, pkt);
        }
    }
    pairing_close(&p);
}

/* Nobody receives: what the kernel cannot keep is counted, once. */
static void flooded(create_fn *create, struct port_stats *ret_stats) {
    static struct pairing p;
    struct port_stats again;
    end_open(&p, 0, create, 1, 2048);
    end_open(&p, 1, create, 1, 2048);
    for (uint32_t i = 0; i < 20000; i++)
        send_one(&p, p.port[0]->queue[0], flow_frame(&p.mem[0][0].pool, 1, i));
    port_stats_read(p.port[1]->queue[0], ret_stats);
    port_stats_sum(p.port[1], &again);
    cr_assert_eq(memcmp(ret_stats, &again, sizeof again), 0, "telling it does not forget it");
    pairing_close(&p);
}

Test(queues, packet_counts_what_the_kernel_lost) {
    struct port_stats s;
    if (!veth_make(1500))
        return;
    flooded(port_packet_create, &s);
    cr_assert(s.rx_kernel_dropped > 0 && s.rx_kernel_dropped <= 20000, "%lu", (unsigned long)s.rx_kernel_dropped);
}

Test(queues, xdp_counts_what_the_kernel_lost) {
    struct port_stats s;
    if (!veth_make(1500))
        return;
    flooded(port_xdp_create, &s);
    cr_assert(s.rx_kernel_dropped > 0 && s.rx_kernel_dropped <= 20000, "%lu", (unsigned long)s.rx_kernel_dropped);
    cr_assert_eq(s.bad_descs, 0);
}

/* Frames of up to 9014 bytes over buffers of 4096, cut on one side and put together on the other. */
Test(queues, xdp_jumbo_frames) {
    static struct pairing p;
    if (!veth_make(9000))
        return;
    end_open(&p, 0, port_xdp_create, 1, 4096);
    end_open(&p, 1, port_xdp_create, 1, 4096);
    cr_assert(strstr(p.port[0]->mode, "multi-buffer") != NULL, "%s", p.port[0]->mode);
    static uint8_t tail[8192];
    for (uint32_t len = 60; len <= 9014; len += 199) {
        struct pkt *pkt = pkt_alloc(&p.mem[0][0].pool), *got;
        uint32_t head = len < 1000 ? len : 1000;
        memset(pkt->data, 0xff, 6);
        for (uint32_t i = 6; i < head; i++)
            pkt->data[i] = (uint8_t)(i * 3);
        for (uint32_t i = head; i < len; i++)
            tail[i - head] = (uint8_t)(i * 3);
        pkt->len = head;
        pkt->frag_len = len - head;
        pkt->frag_count = len > head;
        pkt->frag[0] = (struct pkt_frag){.base = tail, .len = len - head};
        be16_store(pkt->data + 12, 0x88b5);
        send_one(&p, p.port[0]->queue[0], pkt);
        ns_t until = clock_now() + 5 * NS_PER_SEC;
        while (p.port[1]->queue[0]->ops->rx(p.port[1]->queue[0], &got, 1) == 0)
            cr_assert(clock_now() < until, "%u bytes did not come", len);
        cr_assert_eq(got->len, len);
        for (uint32_t i = 14; i < len; i++)
            cr_assert_eq(got->data[i], (uint8_t)(i * 3), "byte %u of %u", i, len);
        pkt_free(got->pool, got);
    }
    pairing_close(&p);
}

Test(queues, xdp_jumbo_without_memory_is_refused) {
    struct pktmem mem;
    struct port *port;
    struct port_error err = {""};
    if (!veth_make(9000))
        return;
    cr_assert_eq(pktmem_create(&mem, 64, 2048, 0), 0);
    struct port_params params = {.ifname = "v0", .queue_count = 1, .mem = {&mem}, .allow_native = true};
    cr_assert_lt(port_xdp_create(&params, &port, &err), 0);
    cr_assert(strstr(err.text, "9000") != NULL && strstr(err.text, "MTU") != NULL, "%s", err.text);
    params.ifname = "nonesuch";
    cr_assert_lt(port_xdp_create(&params, &port, &err), 0);
    cr_assert_lt(port_packet_create(&params, &port, &err), 0);
    cr_assert(strstr(err.text, "nonesuch") != NULL, "%s", err.text);
    params.ifname = "lo"; /* no native XDP there */
    cr_assert_eq(system("ip link set lo mtu 1500"), 0);
    cr_assert_lt(port_xdp_create(&params, &port, &err), 0);
    cr_assert(strstr(err.text, "native") != NULL, "%s", err.text);
    pktmem_destroy(&mem);
}
