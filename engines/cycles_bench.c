/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints TSC cycles per packet of each stage, bursts of 32 on warm caches: the figures that stand beside the code. One
 * thread; not a test: nothing is judged. `engines-cycles [sockets] [peers] [payload]`; peers spread over the bound
 * socket's flows, sockets are idle ones beside it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <x86intrin.h>

#include "engines/ip/ip_cmd.h"
#include "engines/testkit.h"
#include "engines/udp/udp_cmd.h"
#include "engines/wire.h"

extern const struct engine_ops usher_engine_ip, usher_engine_udp;

#define BURST  32u
#define ROUNDS 20000u

enum stage { IP_IN, UDP_IN, UDP_OUT, IP_OUT, STAGES };

struct bench {
    struct testkit *tk;
    struct testkit_engine ip, udp;
    uint32_t sock, peers, payload;
    uint32_t round;
    uint32_t cycles[STAGES][ROUNDS];
    struct pkt *pkts[BURST];
};

static void set_up(struct bench *b, uint32_t idle) {
    b->tk = testkit_create();
    testkit_open(&b->ip, &usher_engine_ip, NULL, 7);
    testkit_open(&b->udp, &usher_engine_udp, &(struct udp_config){.socket_max = idle + 16}, 7);
    b->tk->ports[0].caps = PORT_CAP_TX_CSUM;
    struct ip_cmd_addr addr = {
        .cmd = {IP_CMD_ADDR, sizeof addr}, .addr = testkit_addr("10.0.0.1"), .prefix_len = 96 + 16};
    CHECK(testkit_command(b->tk, &b->ip, &addr).error == 0);
    for (uint32_t i = 0; i < b->peers; i++) {
        struct ip_cmd_neigh n = {.cmd = {IP_CMD_NEIGH, sizeof n}, .addr = testkit_addr("10.0.1.0"), .state = 1};
        n.addr.b[15] = (uint8_t)i;
        n.addr.b[14] = (uint8_t)(1 + (i >> 8));
        CHECK(testkit_command(b->tk, &b->ip, &n).error == 0);
    }
    for (uint32_t i = 0; i <= idle; i++) {
        struct udp_cmd_open o = {.cmd = {UDP_CMD_OPEN, sizeof o}, .sink = SINK(SINK_SESSION, 0, i)};
        o.flow.local_port = (uint16_t)(7000 + i);
        o.flow.local = testkit_addr(i == 0 ? "::" : "10.0.0.1");
        struct engine_reply r = testkit_command(b->tk, &b->udp, &o);
        CHECK(r.error == 0);
        b->sock = i == 0 ? r.value : b->sock;
    }
}

static void make_burst(struct bench *b, uint32_t round) {
    struct flow f = testkit_flow("10.0.0.1", 7000, "10.0.1.0", 4000);
    for (uint32_t i = 0; i < BURST; i++) {
        uint32_t peer = (round * BURST + i) % b->peers;
        f.remote.b[15] = (uint8_t)peer;
        f.remote.b[14] = (uint8_t)(1 + (peer >> 8));
        b->pkts[i] = testkit_udp_frame(b->tk, &f, NULL, b->payload);
        b->pkts[i]->flags = PKT_CSUM_OK;
    }
}

static void step(struct bench *b, enum stage s, struct testkit_engine *e, bool in, struct pkt_vec *to) {
    uint64_t t0 = __rdtsc();
    if (in)
        testkit_input(b->tk, e, b->pkts, BURST);
    else
        testkit_output(b->tk, e, b->pkts, BURST);
    b->cycles[s][b->round] = (uint32_t)(__rdtsc() - t0);
    CHECK(to->count == BURST);
    for (uint32_t i = 0; i < BURST; i++)
        b->pkts[i] = to->v[i];
    to->count = 0;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The median burst: others share the machine. */
static void report(struct bench *b) {
    static const char *const names[STAGES] = {"ip.input", "udp.input", "udp.output", "ip.output"};
    for (uint32_t s = 0; s < STAGES; s++) {
        qsort(b->cycles[s], ROUNDS, sizeof b->cycles[s][0], compare);
        printf("%-10s %6.1f cycles/packet (median burst; best tenth %.1f)\n", names[s],
               (double)b->cycles[s][ROUNDS / 2] / BURST, (double)b->cycles[s][ROUNDS / 10] / BURST);
    }
}

int main(int argc, char **argv) {
    static struct bench b = {.peers = 1, .payload = 64};
    uint32_t idle = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    b.peers = argc > 2 ? (uint32_t)atoi(argv[2]) : 1;
    b.payload = argc > 3 ? (uint32_t)atoi(argv[3]) : 64;
    CHECK(b.peers >= 1 && b.peers <= 1000 && b.payload <= 1400 && idle <= 50000);
    set_up(&b, idle);
    for (b.round = 0; b.round < ROUNDS; b.round++) {
        make_burst(&b, b.round);
        step(&b, IP_IN, &b.ip, true, &b.tk->up);
        step(&b, UDP_IN, &b.udp, true, &b.tk->up);
        step(&b, UDP_OUT, &b.udp, false, &b.tk->down);
        step(&b, IP_OUT, &b.ip, false, &b.tk->down);
        for (uint32_t i = 0; i < BURST; i++)
            testkit_put(b.pkts[i]);
    }
    report(&b);
    testkit_close(b.tk, &b.ip);
    testkit_close(b.tk, &b.udp);
    testkit_destroy(b.tk);
    return 0;
}
