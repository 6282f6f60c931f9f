/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams between sockets of this host: when they may leave the long way round, and when they may not.
 */
#include "engines/udp/udp_fixture.h"

#define HERE  "10.0.0.1"
#define THERE "10.0.0.7" /* another address of this host */

static uint32_t client, server;

static struct fixture make_pair(void) {
    struct fixture f = make();
    client = must_open(&f, &(struct spec){.local = HERE, .local_port = 5000});
    server = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 7});
    f.tk->io.direct = true;
    f.tk->io.now = 1000;
    return f;
}

/* The link engine carries one datagram HERE > THERE round. */
static void carry(struct fixture *f) {
    struct flow flow = testkit_flow(THERE, 7, HERE, 5000);
    struct pkt *p = arrive(f, &flow, "x", 1);
    p->flags |= PKT_LOCAL;
    testkit_input(f->tk, &f->udp, &p, 1);
    cr_assert_eq(f->tk->up.count, 1);
    testkit_clear(f->tk);
}

/* Sends HERE > `to`; true when it went straight up. */
static bool send_direct(struct fixture *f, const char *to, uint16_t port) {
    struct flow flow = testkit_flow(HERE, 5000, to, port);
    flow.local = ipaddr_any(); /* the socket's own */
    struct pkt *p = testkit_request(f->tk, client, &flow, "hello", 5);
    testkit_output(f->tk, &f->udp, &p, 1);
    cr_assert_eq(f->tk->up.count + f->tk->down.count, 1);
    bool direct = f->tk->up.count == 1;
    testkit_clear(f->tk);
    return direct;
}

Test(udp_local, goes_straight_from_the_next_turn_on) {
    struct fixture f = make_pair();
    cr_assert_not(send_direct(&f, THERE, 7), "nothing is known yet");
    carry(&f);
    cr_assert_not(send_direct(&f, THERE, 7), "others of this turn may still be under way");
    f.tk->io.now += 1;
    cr_assert(send_direct(&f, THERE, 7));
    cr_assert_not(send_direct(&f, HERE, 7), "another pair of addresses");
    cr_assert_not(send_direct(&f, THERE, 8), "nobody there: ip answers");
    f.tk->io.now += NS_PER_MS;
    cr_assert_not(send_direct(&f, THERE, 7), "to be judged anew");
    end(&f);
}

Test(udp_local, arrives_as_by_ip) {
    struct fixture f = make_pair();
    carry(&f);
    f.tk->io.now += 5;
    struct flow flow = testkit_flow(HERE, 5000, THERE, 7);
    struct pkt *p = testkit_request(f.tk, client, &flow, "hello", 5);
    p->tos = 3;
    testkit_output(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->up.count, 1);
    p = f.tk->up.v[0];
    struct flow want = testkit_flow(THERE, 7, HERE, 5000);
    cr_assert(ipaddr_equal(&p->flow.local, &want.local) && ipaddr_equal(&p->flow.remote, &want.remote));
    cr_assert_eq(p->flow.local_port, 7);
    cr_assert_eq(p->flow.remote_port, 5000);
    cr_assert_eq(p->sock, server);
    cr_assert_eq(p->flags, PKT_LOCAL | PKT_ECN_CE);
    cr_assert_eq(p->rx_ns, f.tk->io.now);
    cr_assert_eq(p->len, 5);
    cr_assert_eq(memcmp(p->data, "hello", 5), 0);
    testkit_clear(f.tk);
    end(&f);
}

Test(udp_local, not_while_somebody_wants_to_see_it) {
    struct fixture f = make_pair();
    carry(&f);
    f.tk->io.now += 1;
    f.tk->io.direct = false;
    cr_assert_not(send_direct(&f, THERE, 7));
    f.tk->io.direct = true;
    cr_assert(send_direct(&f, THERE, 7));
    cr_assert_eq(testkit_recover(&f.udp), 0);
    cr_assert_not(send_direct(&f, THERE, 7), "a restart knows nothing");
    end(&f);
}

/* ---- what only the kernel can carry ---- */

/* A datagram of the client's that the link engine has turned round: nobody has `port` here. */
static struct pkt *turned(struct fixture *f, uint16_t port, uint64_t sink) {
    struct flow flow = testkit_flow(THERE, port, HERE, 5000);
    struct pkt *p = arrive(f, &flow, "hello", 5);
    p->flags |= PKT_LOCAL | (SINK_KIND(sink) == SINK_SESSION ? PKT_BOUNCE : 0);
    p->sink = sink;
    p->sock = client;
    return p;
}

static void expect_bounced(struct fixture *f, uint16_t port) {
    cr_assert_eq(f->tk->up.count, 1);
    const struct pkt *p = f->tk->up.v[0];
    struct flow want = testkit_flow(HERE, 5000, THERE, port);
    cr_assert(p->flags & PKT_BOUNCED);
    cr_assert(ipaddr_equal(&p->flow.local, &want.local) && ipaddr_equal(&p->flow.remote, &want.remote));
    cr_assert(p->flow.local_port == 5000 && p->flow.remote_port == port);
    cr_assert_eq(p->sink, SINK(SINK_SESSION, 1, 1));
    cr_assert_eq(p->sock, client);
    cr_assert_eq(p->len, 5);
    cr_assert_eq(memcmp(p->data, "hello", 5), 0);
    testkit_clear(f->tk);
}

Test(udp_bounce, a_port_without_a_socket_goes_back_to_the_sender) {
    struct fixture f = make_pair();
    struct pkt *p = turned(&f, 8, SINK(SINK_SESSION, 1, 1));
    testkit_input(f.tk, &f.udp, &p, 1);
    expect_bounced(&f, 8);
    p = turned(&f, 8, SINK(SINK_ENGINE, 2, 0));
    testkit_input(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->down.count, 1, "an engine has no kernel socket: ip tells it that nobody is there");
    cr_assert(f.tk->down.v[0]->flags & PKT_ICMP_ERROR);
    testkit_clear(f.tk);
    end(&f);
}

Test(udp_bounce, what_the_link_engine_gives_back_goes_on_to_the_sender) {
    struct fixture f = make_pair();
    struct flow to = testkit_flow("::", 0, THERE, 9);
    struct pkt *p = testkit_request(f.tk, client, &to, "hello", 5);
    testkit_output(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->down.count, 1);
    p = testkit_take(&f.tk->down, 0);
    cr_assert(p->flags & PKT_BOUNCE);
    p->flags |= PKT_BOUNCED;
    testkit_input(f.tk, &f.udp, &p, 1);
    expect_bounced(&f, 9);

    p = testkit_request(f.tk, client, &to, "hello", 5);
    testkit_output(f.tk, &f.udp, &p, 1);
    p = testkit_take(&f.tk->down, 0);
    p->flags |= PKT_BOUNCED;
    struct udp_cmd_close c = {.cmd = {UDP_CMD_CLOSE, sizeof c}, .sock = client};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    testkit_input(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->drop.count, 1, "its sender is gone");
    testkit_clear(f.tk);
    end(&f);
}
