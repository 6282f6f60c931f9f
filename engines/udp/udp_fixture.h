/* SPDX-License-Identifier: Apache-2.0
 *
 * What the test files of this folder share: a udp engine in a test kit, sockets from short specs, datagrams that
 * arrive. For tests only.
 */
#ifndef USHER_ENGINES_UDP_UDP_FIXTURE_H
#define USHER_ENGINES_UDP_UDP_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>

#include "engines/testkit.h"
#include "engines/udp/udp.h"

extern const struct engine_ops usher_engine_udp;

struct fixture {
    struct testkit *tk;
    struct testkit_engine udp;
};

static inline struct fixture make(void) {
    struct fixture f = {.tk = testkit_create()};
    struct udp_config cfg = {.socket_max = 256, .member_max = 32};
    testkit_open(&f.udp, &usher_engine_udp, &cfg, 11);
    return f;
}

static inline void end(struct fixture *f) {
    cr_assert_eq(f->udp.ops->check(f->udp.st), 0);
    testkit_close(f->tk, &f->udp);
    cr_assert_eq(testkit_missing(f->tk), 0);
    testkit_destroy(f->tk);
}

struct spec {
    const char *local, *remote;
    uint16_t local_port, remote_port;
    bool v6only, reuseport;
    uint8_t spread;
    uint32_t ifindex;
};

static inline struct udp_cmd_open open_cmd(const struct spec *s, uint32_t handle) {
    struct udp_cmd_open c = {.cmd = {UDP_CMD_OPEN, sizeof c}, .sink = SINK(SINK_SESSION, 1, handle), .owner = 77};
    c.flow.local = testkit_addr(s->local);
    c.flow.local_port = s->local_port;
    if (s->remote != NULL)
        c.flow.remote = testkit_addr(s->remote);
    c.flow.remote_port = s->remote_port;
    c.v6only = s->v6only;
    c.reuseport = s->reuseport;
    c.spread = s->spread;
    c.ifindex = s->ifindex;
    return c;
}

static inline int try_open(struct fixture *f, const struct spec *s, uint32_t *ret_sock) {
    struct udp_cmd_open c = open_cmd(s, 1);
    struct engine_reply r = testkit_command(f->tk, &f->udp, &c);
    if (ret_sock != NULL)
        *ret_sock = r.value;
    return r.error;
}

static inline uint32_t must_open(struct fixture *f, const struct spec *s) {
    uint32_t sock;
    cr_assert_eq(try_open(f, s, &sock), 0);
    return sock;
}

/* As ip hands it up: flow addresses and offsets set, data at the UDP header. */
static inline struct pkt *arrive(struct fixture *f, const struct flow *flow, const void *payload, uint32_t len) {
    struct pkt *p = testkit_udp_packet(f->tk, flow, payload, len);
    bool v4 = ipaddr_is_v4(&flow->local);
    p->l3_off = (uint16_t)(p->data - p->buf);
    p->ip_version = v4 ? 4 : 6;
    pkt_pull(p, v4 ? IP4_LEN : IP6_LEN);
    p->l4_off = (uint16_t)(p->data - p->buf);
    p->flow = (struct flow){.local = flow->local, .remote = flow->remote, .proto = PROTO_UDP};
    return p;
}

#define NOBODY ARENA_NIL

static inline uint32_t deliver(struct fixture *f, const char *local, uint16_t lport, const char *remote,
                               uint16_t rport) {
    struct flow flow = testkit_flow(local, lport, remote, rport);
    struct pkt *p = arrive(f, &flow, "x", 1);
    testkit_input(f->tk, &f->udp, &p, 1);
    uint32_t sock = f->tk->up.count == 1 ? f->tk->up.v[0]->sock : NOBODY;
    cr_assert_leq(f->tk->up.count, 1);
    testkit_clear(f->tk);
    return sock;
}

static inline void join(struct fixture *f, uint32_t sock, const char *group, uint32_t ifindex, int error) {
    struct udp_cmd_group c = {
        .cmd = {UDP_CMD_GROUP, sizeof c}, .sock = sock, .ifindex = ifindex, .group = testkit_addr(group)};
    cr_assert_eq(testkit_command(f->tk, &f->udp, &c).error, error);
}

#endif
