/* SPDX-License-Identifier: Apache-2.0
 *
 * The three engines together, wired as the host wires them: a datagram from the wire to a socket and an answer back,
 * and a datagram between two sockets of one host.
 */
#include <criterion/criterion.h>

#include "engines/echo/echo_cmd.h"
#include "engines/ip/ip_cmd.h"
#include "engines/testkit.h"
#include "engines/udp/udp_cmd.h"
#include "engines/wire.h"

extern const struct engine_ops usher_engine_ip, usher_engine_udp, usher_engine_echo;

struct host {
    struct testkit *tk;
    struct testkit_engine ip, udp, echo;
};

static const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 0xfe};

static void address_add(struct host *h, const char *addr, uint8_t len) {
    struct ip_cmd_addr c = {.cmd = {IP_CMD_ADDR, sizeof c}, .addr = testkit_addr(addr), .port = 0, .prefix_len = len};
    cr_assert_eq(testkit_command(h->tk, &h->ip, &c).error, 0);
}

static void neighbour_add(struct host *h, const char *addr) {
    struct ip_cmd_neigh c = {.cmd = {IP_CMD_NEIGH, sizeof c}, .addr = testkit_addr(addr), .port = 0, .state = 1};
    memcpy(c.mac, peer_mac, 6);
    cr_assert_eq(testkit_command(h->tk, &h->ip, &c).error, 0);
}

static uint32_t socket_open(struct host *h, const char *local, uint16_t port, uint64_t sink) {
    struct udp_cmd_open c = {.cmd = {UDP_CMD_OPEN, sizeof c}, .sink = sink};
    c.flow.local = testkit_addr(local);
    c.flow.local_port = port;
    struct engine_reply r = testkit_command(h->tk, &h->udp, &c);
    cr_assert_eq(r.error, 0);
    return r.value;
}

static struct host host_make(void) {
    struct host h = {.tk = testkit_create()};
    testkit_open(&h.ip, &usher_engine_ip, NULL, 7);
    testkit_open(&h.udp, &usher_engine_udp, NULL, 7);
    testkit_open(&h.echo, &usher_engine_echo, NULL, 7);
    address_add(&h, "10.0.0.1", 96 + 24);
    address_add(&h, "fd00::1", 64);
    neighbour_add(&h, "10.0.0.2");
    neighbour_add(&h, "fd00::2");
    return h;
}

static void host_end(struct host *h) {
    cr_assert_eq(h->ip.ops->check(h->ip.st), 0);
    cr_assert_eq(h->udp.ops->check(h->udp.st), 0);
    cr_assert_eq(h->echo.ops->check(h->echo.st), 0);
    testkit_close(h->tk, &h->ip);
    testkit_close(h->tk, &h->udp);
    testkit_close(h->tk, &h->echo);
    cr_assert_eq(testkit_missing(h->tk), 0);
    testkit_destroy(h->tk);
}

static void ping(const char *own, const char *peer, uint32_t head) {
    struct host h = host_make();
    uint32_t sock = socket_open(&h, "::", 7, SINK(SINK_ENGINE, 2, 0));
    struct flow f = testkit_flow(own, 7, peer, 4000);
    struct pkt *p = testkit_udp_frame(h.tk, &f, "hello", 5);
    testkit_input(h.tk, &h.ip, &p, 1);
    p = testkit_take(&h.tk->up, 0);
    testkit_input(h.tk, &h.udp, &p, 1);
    p = testkit_take(&h.tk->up, 0);
    cr_assert_eq(p->sock, sock);
    cr_assert_eq(p->len, 5);
    cr_assert_eq(memcmp(p->data, "hello", 5), 0);
    testkit_input(h.tk, &h.echo, &p, 1);
    p = testkit_take(&h.tk->down, 0);
    testkit_output(h.tk, &h.udp, &p, 1);
    p = testkit_take(&h.tk->down, 0);
    testkit_output(h.tk, &h.ip, &p, 1);
    p = testkit_take(&h.tk->down, 0);
    cr_assert_eq(p->len, ETH_LEN + head + UDP_LEN + 5);
    cr_assert_eq(memcmp(p->data, peer_mac, 6), 0);
    cr_assert(testkit_csum_ok(p, ETH_LEN));
    cr_assert_eq(be16_load(p->data + ETH_LEN + head), 7);
    cr_assert_eq(be16_load(p->data + ETH_LEN + head + 2), 4000);
    cr_assert_eq(memcmp(p->data + ETH_LEN + head + UDP_LEN, "hello", 5), 0);
    testkit_put(p);
    host_end(&h);
}

Test(engines, echo_over_the_wire_v4) {
    ping("10.0.0.1", "10.0.0.2", IP4_LEN);
}

Test(engines, echo_over_the_wire_v6) {
    ping("fd00::1", "fd00::2", IP6_LEN);
}

static void between(const char *addr, const char *source) {
    struct host h = host_make();
    uint32_t a = socket_open(&h, "::", 1000, SINK(SINK_SESSION, 0, 1));
    uint32_t b = socket_open(&h, addr, 2000, SINK(SINK_SESSION, 0, 2));
    struct flow to = testkit_flow("::", 0, addr, 2000);
    struct pkt *p = testkit_request(h.tk, a, &to, "hi", 2);
    testkit_output(h.tk, &h.udp, &p, 1);
    p = testkit_take(&h.tk->down, 0);
    testkit_output(h.tk, &h.ip, &p, 1);
    p = testkit_take(&h.tk->down, 0);
    cr_assert(p->flags & PKT_LOCAL);
    testkit_input(h.tk, &h.ip, &p, 1);
    p = testkit_take(&h.tk->up, 0);
    testkit_input(h.tk, &h.udp, &p, 1);
    p = testkit_take(&h.tk->up, 0);
    struct ipaddr want = testkit_addr(source);
    cr_assert_eq(p->sock, b);
    cr_assert_eq(p->sink, SINK(SINK_SESSION, 0, 2));
    cr_assert_eq(p->flow.remote_port, 1000);
    cr_assert(ipaddr_equal(&p->flow.remote, &want));
    testkit_put(p);
    host_end(&h);
}

Test(engines, local_turn_round) {
    between("127.0.0.1", "127.0.0.1");
    between("::1", "::1");
    between("10.0.0.1", "10.0.0.1");
    between("fd00::1", "fd00::1");
}

Test(engines, generator_and_echo_keep_a_closed_loop) {
    struct host h = host_make();
    uint32_t client = socket_open(&h, "10.0.0.1", 1000, SINK(SINK_ENGINE, 2, 0));
    (void)socket_open(&h, "10.0.0.1", 2000, SINK(SINK_ENGINE, 2, 1));
    struct echo_cmd_generate g = {.cmd = {ECHO_CMD_GENERATE, sizeof g},
                                  .sock = client,
                                  .window = 4,
                                  .size = 64,
                                  .peer_port = 2000,
                                  .peer = testkit_addr("10.0.0.1"),
                                  .timeout_ns = NS_PER_SEC};
    cr_assert_eq(testkit_command(h.tk, &h.echo, &g).error, 0);
    cr_assert_leq(h.echo.ops->next_deadline(h.echo.st), h.tk->io.now);
    cr_assert_eq(testkit_run(h.tk, &h.echo, 64), 4);
    for (uint32_t turn = 0; turn < 10; turn++) {
        struct testkit_engine *path[] = {&h.udp, &h.ip};
        for (uint32_t i = 0; i < 2; i++)
            for (uint32_t n = h.tk->down.count; n > 0; n--) {
                struct pkt *p = testkit_take(&h.tk->down, 0);
                testkit_output(h.tk, path[i], &p, 1);
            }
        for (uint32_t n = h.tk->down.count; n > 0; n--) {
            struct pkt *p = testkit_take(&h.tk->down, 0);
            testkit_input(h.tk, &h.ip, &p, 1);
            p = testkit_take(&h.tk->up, 0);
            testkit_input(h.tk, &h.udp, &p, 1);
            p = testkit_take(&h.tk->up, 0);
            testkit_input(h.tk, &h.echo, &p, 1);
        }
        cr_assert_eq(h.tk->down.count, 4);
    }
    struct echo_cmd_stats s = {.cmd = {ECHO_CMD_STATS, sizeof s}};
    cr_assert_eq(testkit_command(h.tk, &h.echo, &s).value64, 20);
    testkit_clear(h.tk);
    host_end(&h);
}
