/* SPDX-License-Identifier: Apache-2.0
 *
 * What the test files of this folder share: an ip engine with two addresses and two neighbours in a test kit, and
 * commands from short arguments. For tests only.
 */
#ifndef USHER_ENGINES_IP_IP_FIXTURE_H
#define USHER_ENGINES_IP_IP_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>

#include "engines/ip/ip.h"
#include "engines/testkit.h"

extern const struct engine_ops usher_engine_ip;

struct fixture {
    struct testkit *tk;
    struct testkit_engine ip;
};

static const uint8_t fx_peer_mac[6] = {2, 0, 0, 0, 0, 0xfe};

static inline int fx_addr(struct fixture *f, const char *addr, uint8_t len, uint16_t port, uint8_t flags) {
    struct ip_cmd_addr c = {.cmd = {IP_CMD_ADDR, sizeof c}, .addr = testkit_addr(addr), .port = port};
    c.prefix_len = len;
    c.dedicated = flags & IP_ADDR_DEDICATED;
    c.broadcast = flags & IP_ADDR_BROADCAST;
    return testkit_command(f->tk, &f->ip, &c).error;
}

static inline int fx_neigh(struct fixture *f, const char *addr, uint8_t state) {
    struct ip_cmd_neigh c = {.cmd = {IP_CMD_NEIGH, sizeof c}, .addr = testkit_addr(addr), .port = 0, .state = state};
    memcpy(c.mac, fx_peer_mac, 6);
    return testkit_command(f->tk, &f->ip, &c).error;
}

static inline struct ip_cmd_route fx_route(const char *prefix, uint8_t len, const char *gateway, uint16_t port) {
    struct ip_cmd_route c = {.cmd = {IP_CMD_ROUTE, sizeof c}, .prefix = testkit_addr(prefix), .port = port};
    c.prefix_len = len;
    if (gateway != NULL)
        c.gateway = testkit_addr(gateway);
    return c;
}

static inline int fx_route_add(struct fixture *f, const char *prefix, uint8_t len, const char *gateway, uint16_t port) {
    struct ip_cmd_route c = fx_route(prefix, len, gateway, port);
    return testkit_command(f->tk, &f->ip, &c).error;
}

/* 10.0.0.1/24 and fd00::1/64 on slot 0, neighbours .2 and ::2. */
static inline struct fixture fx_make_with(const struct ip_config *cfg, bool dedicated) {
    struct fixture f = {.tk = testkit_create()};
    uint8_t flags = dedicated ? IP_ADDR_DEDICATED : 0;
    testkit_open(&f.ip, &usher_engine_ip, cfg, 11);
    f.tk->ports[0].dedicated = dedicated;
    cr_assert_eq(fx_addr(&f, "10.0.0.1", 96 + 24, 0, flags), 0);
    cr_assert_eq(fx_addr(&f, "10.0.0.255", 96 + 24, 0, IP_ADDR_BROADCAST), 0);
    cr_assert_eq(fx_addr(&f, "fd00::1", 64, 0, flags), 0);
    cr_assert_eq(fx_neigh(&f, "10.0.0.2", 1), 0);
    cr_assert_eq(fx_neigh(&f, "fd00::2", 1), 0);
    return f;
}

static inline struct fixture fx_make(void) {
    return fx_make_with(NULL, false);
}

static inline void fx_end(struct fixture *f) {
    cr_assert_eq(f->ip.ops->check(f->ip.st), 0);
    testkit_close(f->tk, &f->ip);
    cr_assert_eq(testkit_missing(f->tk), 0);
    testkit_destroy(f->tk);
}

/* A packet as a transport hands it down: a UDP header with an open checksum, then `len` bytes that count up. */
static inline struct pkt *fx_datagram(struct fixture *f, const char *from, const char *to, uint32_t len) {
    struct flow flow = testkit_flow(from, 7, to, 9);
    struct pkt *p = testkit_request(f->tk, 0, &flow, NULL, len);
    for (uint32_t i = 0; i < len; i++)
        p->data[i] = (uint8_t)(i * 7);
    uint8_t *h = pkt_push(p, UDP_LEN);
    be16_store(h, 7);
    be16_store(h + 2, 9);
    be16_store(h + 4, (uint16_t)(len + UDP_LEN));
    be16_store(h + 6, 0);
    p->flags = PKT_CSUM_PARTIAL;
    p->l4_off = (uint16_t)(h - p->buf);
    p->csum_start = p->l4_off;
    p->csum_offset = 6;
    p->sink = SINK(SINK_SESSION, 1, 5);
    return p;
}

static inline void fx_output(struct fixture *f, struct pkt *p) {
    testkit_output(f->tk, &f->ip, &p, 1);
}
static inline void fx_input(struct fixture *f, struct pkt *p) {
    testkit_input(f->tk, &f->ip, &p, 1);
}

/* The reason of the only drop, after which everything is put back. */
static inline enum drop_reason fx_dropped(struct fixture *f) {
    enum drop_reason why = f->tk->drop.count == 1 ? (enum drop_reason)f->tk->drop.v[0]->drop : DROP_NONE;
    cr_assert_leq(f->tk->drop.count, 1);
    testkit_clear(f->tk);
    return why;
}

static inline enum drop_reason fx_input_drop(struct fixture *f, struct pkt *p) {
    fx_input(f, p);
    return fx_dropped(f);
}

#endif
