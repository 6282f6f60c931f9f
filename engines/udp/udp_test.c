/* SPDX-License-Identifier: Apache-2.0
 *
 * The udp engine alone: who gets a datagram, what is refused and under which name, what is sent.
 */
#include "engines/udp/udp_fixture.h"

/* ---- who gets it ---- */

Test(udp_lookup, exact_beats_bound_beats_wildcard) {
    struct fixture f = make();
    uint32_t any = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 53});
    uint32_t bound = must_open(&f, &(struct spec){.local = "10.0.0.1", .local_port = 53});
    uint32_t exact =
        must_open(&f, &(struct spec){.local = "10.0.0.1", .local_port = 53, .remote = "10.0.0.2", .remote_port = 9});
    for (int twice = 0; twice < 2; twice++) { /* the second time from the flow cache */
        cr_assert_eq(deliver(&f, "10.0.0.1", 53, "10.0.0.2", 9), exact);
        cr_assert_eq(deliver(&f, "10.0.0.1", 53, "10.0.0.2", 10), bound);
        cr_assert_eq(deliver(&f, "10.0.0.1", 53, "10.0.0.3", 9), bound);
        cr_assert_eq(deliver(&f, "10.0.0.9", 53, "10.0.0.2", 9), any);
        cr_assert_eq(deliver(&f, "10.0.0.1", 54, "10.0.0.2", 9), NOBODY);
        cr_assert_eq(deliver(&f, "fd00::1", 53, "fd00::2", 9), NOBODY);
    }
    struct udp_cmd_close c = {.cmd = {UDP_CMD_CLOSE, sizeof c}, .sock = exact};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    cr_assert_eq(deliver(&f, "10.0.0.1", 53, "10.0.0.2", 9), bound);
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, -EBADF);
    end(&f);
}

Test(udp_lookup, dual_stack_and_v6only) {
    struct fixture f = make();
    uint32_t dual = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    uint32_t six = must_open(&f, &(struct spec){.local = "::", .local_port = 2, .v6only = true});
    uint32_t four = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 2});
    cr_assert_eq(deliver(&f, "10.0.0.1", 1, "10.0.0.2", 9), dual);
    cr_assert_eq(deliver(&f, "fd00::1", 1, "fd00::2", 9), dual);
    cr_assert_eq(deliver(&f, "10.0.0.1", 2, "10.0.0.2", 9), four);
    cr_assert_eq(deliver(&f, "fd00::1", 2, "fd00::2", 9), six);
    end(&f);
}

Test(udp_lookup, interface_bound_sockets) {
    struct fixture f = make();
    uint32_t on10 = must_open(&f, &(struct spec){.local = "::", .local_port = 1, .ifindex = 10});
    uint32_t any = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    (void)must_open(&f, &(struct spec){.local = "::", .local_port = 2, .ifindex = 11});
    cr_assert_eq(deliver(&f, "10.0.0.1", 1, "10.0.0.2", 9), on10); /* slot 0 has ifindex 10 */
    cr_assert_eq(deliver(&f, "10.0.0.1", 2, "10.0.0.2", 9), NOBODY);
    struct flow flow = testkit_flow("10.0.0.1", 1, "10.0.0.2", 9);
    struct pkt *p = arrive(&f, &flow, NULL, 0);
    p->port = 0xffff; /* local: no interface */
    testkit_input(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->up.v[0]->sock, any);
    testkit_clear(f.tk);
    end(&f);
}

Test(udp_lookup, update_moves_the_socket) {
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5});
    struct udp_cmd_open c =
        open_cmd(&(struct spec){.local = "10.0.0.1", .local_port = 5, .remote = "10.0.0.2", .remote_port = 6}, 1);
    c.cmd.id = UDP_CMD_UPDATE;
    c.sock = s;
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    cr_assert_eq(deliver(&f, "10.0.0.1", 5, "10.0.0.2", 6), s);
    cr_assert_eq(deliver(&f, "10.0.0.1", 5, "10.0.0.2", 7), NOBODY);
    c.sock = 200;
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, -EBADF);
    end(&f);
}

/* ---- groups ---- */

static void share(struct fixture *f, uint8_t spread, uint32_t *ret_socks, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        ret_socks[i] =
            must_open(f, &(struct spec){.local = "0.0.0.0", .local_port = 80, .reuseport = true, .spread = spread});
}

Test(udp_group, hash_spreads_and_sticks) {
    struct fixture f = make();
    uint32_t socks[4], got[4] = {0}, first[400];
    share(&f, 0, socks, 4);
    for (uint16_t i = 0; i < 400; i++) {
        first[i] = deliver(&f, "10.0.0.1", 80, "10.0.0.2", (uint16_t)(1000 + i));
        for (uint32_t k = 0; k < 4; k++)
            got[k] += first[i] == socks[k];
    }
    for (uint32_t k = 0; k < 4; k++)
        cr_assert(got[k] > 60 && got[k] < 140, "member %u got %u of 400", k, got[k]);
    struct udp_cmd_close c = {.cmd = {UDP_CMD_CLOSE, sizeof c}, .sock = socks[2]};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    cr_assert_eq(testkit_recover(&f.udp), 0); /* the choice does not hang on the order of tables */
    for (uint16_t i = 0; i < 400; i++) {
        uint32_t now = deliver(&f, "10.0.0.1", 80, "10.0.0.2", (uint16_t)(1000 + i));
        cr_assert(first[i] == socks[2] ? now != socks[2] : now == first[i]);
    }
    end(&f);
}

Test(udp_group, least_load_follows_what_it_is_told) {
    struct fixture f = make();
    uint32_t socks[3], got[3] = {0};
    share(&f, 1, socks, 3);
    for (uint16_t i = 0; i < 30; i++) {
        uint32_t s = deliver(&f, "10.0.0.1", 80, "10.0.0.2", 1000);
        for (uint32_t k = 0; k < 3; k++)
            got[k] += s == socks[k];
    }
    for (uint32_t k = 0; k < 3; k++)
        cr_assert_eq(got[k], 10); /* nobody said anything: round robin */
    struct udp_cmd_option c = {.cmd = {UDP_CMD_OPTION, sizeof c}, .sock = socks[1], .option = UDP_OPT_LOAD, .value = 5};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    for (uint16_t i = 0; i < 5; i++)
        cr_assert_eq(deliver(&f, "10.0.0.1", 80, "10.0.0.2", 1000), socks[1]);
    end(&f);
}

Test(udp_group, least_load_shares_a_burst) {
    struct fixture f = make();
    uint32_t socks[3], got[3] = {0};
    share(&f, 1, socks, 3);
    struct flow flow = testkit_flow("10.0.0.1", 80, "10.0.0.2", 1000);
    struct pkt *p[30];
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        p[i] = arrive(&f, &flow, "x", 1);
    testkit_input(f.tk, &f.udp, p, ARRAY_LEN(p));
    for (uint32_t i = 0; i < f.tk->up.count; i++)
        for (uint32_t k = 0; k < 3; k++)
            got[k] += f.tk->up.v[i]->sock == socks[k];
    cr_assert(got[0] == 10 && got[1] == 10 && got[2] == 10, "%u %u %u", got[0], got[1], got[2]);
    testkit_clear(f.tk);
    end(&f);
}

/* ---- commands ---- */

Test(udp_command, open_conflicts) {
    static const struct {
        struct spec have, want;
        int error;
    } cases[] = {
        {{.local = "0.0.0.0", .local_port = 1}, {.local = "0.0.0.0", .local_port = 1}, -EADDRINUSE},
        {{.local = "0.0.0.0", .local_port = 1}, {.local = "10.0.0.1", .local_port = 1}, 0},
        {{.local = "::", .local_port = 1}, {.local = "0.0.0.0", .local_port = 1}, -EADDRINUSE},
        {{.local = "::", .local_port = 1, .v6only = true}, {.local = "0.0.0.0", .local_port = 1}, 0},
        {{.local = "::", .local_port = 1, .reuseport = true}, {.local = "::", .local_port = 1}, -EADDRINUSE},
        {{.local = "::", .local_port = 1, .reuseport = true}, {.local = "::", .local_port = 1, .reuseport = true}, 0},
        {{.local = "::", .local_port = 1, .ifindex = 10}, {.local = "::", .local_port = 1, .ifindex = 11}, 0},
        {{.local = "10.0.0.1", .local_port = 1, .remote = "10.0.0.2", .remote_port = 2},
         {.local = "10.0.0.1", .local_port = 1, .remote = "10.0.0.2", .remote_port = 2},
         -EADDRINUSE},
        {{.local = "10.0.0.1", .local_port = 1, .remote = "10.0.0.2", .remote_port = 2},
         {.local = "10.0.0.1", .local_port = 1, .remote = "10.0.0.2", .remote_port = 3},
         0},
    };
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f = make();
        (void)must_open(&f, &cases[i].have);
        cr_assert_eq(try_open(&f, &cases[i].want, NULL), cases[i].error, "case %u", i);
        end(&f);
    }
}

Test(udp_command, open_refuses_bad_arguments) {
    static const struct {
        struct spec spec;
        int error;
    } cases[] = {
        {{.local = "::", .local_port = 0}, -EINVAL},
        {{.local = "::", .local_port = 1, .spread = 2}, -EINVAL},
        {{.local = "::", .local_port = 1, .remote = "fd00::2", .remote_port = 2}, -EINVAL}, /* no local address */
        {{.local = "fd00::1", .local_port = 1, .remote = "fd00::2"}, -EINVAL},              /* no peer port */
        {{.local = "fd00::1", .local_port = 1, .remote_port = 2}, -EINVAL},                 /* no peer address */
        {{.local = "10.0.0.1", .local_port = 1, .remote = "fd00::2", .remote_port = 2}, -EAFNOSUPPORT},
    };
    struct fixture f = make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_assert_eq(try_open(&f, &cases[i].spec, NULL), cases[i].error, "case %u", i);
    struct udp_cmd_open c = open_cmd(&(struct spec){.local = "::", .local_port = 1}, 1);
    c.sink = 0;
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, -EINVAL);
    c.cmd.size = sizeof c - 1;
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, -EINVAL);
    struct engine_cmd unknown[2] = {{0, sizeof unknown}, {99, sizeof unknown}};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &unknown[0]).error, -ENOTSUP);
    cr_assert_eq(testkit_command(f.tk, &f.udp, &unknown[1]).error, -ENOTSUP);
    end(&f);
}

Test(udp_command, table_full) {
    struct fixture f = make();
    for (uint16_t i = 0; i < 256; i++)
        (void)must_open(&f, &(struct spec){.local = "::", .local_port = (uint16_t)(1 + i)});
    cr_assert_eq(try_open(&f, &(struct spec){.local = "::", .local_port = 999}, NULL), -ENOSPC);
    struct udp_cmd_close c = {.cmd = {UDP_CMD_CLOSE, sizeof c}, .sock = 17};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    uint32_t sock;
    cr_assert_eq(try_open(&f, &(struct spec){.local = "::", .local_port = 999}, &sock), 0);
    cr_assert_eq(sock, 17);
    end(&f);
}

Test(udp_command, options_judge_their_values) {
    static const struct {
        uint32_t option;
        int64_t value;
        int error;
    } cases[] = {
        {UDP_OPT_TOS, 255, 0},
        {UDP_OPT_TOS, 256, -EINVAL},
        {UDP_OPT_TTL, -1, -EINVAL},
        {UDP_OPT_TTL, 9, 0},
        {UDP_OPT_DONT_FRAGMENT, 1, 0},
        {UDP_OPT_DONT_FRAGMENT, 2, -EINVAL},
        {UDP_OPT_MULTICAST_TTL, 0, 0},
        {UDP_OPT_MULTICAST_TTL, 300, -EINVAL},
        {UDP_OPT_MULTICAST_LOOP, 0, 0},
        {UDP_OPT_BROADCAST, 1, 0},
        {UDP_OPT_BROADCAST, -1, -EINVAL},
        {UDP_OPT_LOAD, 1ll << 32, -EINVAL},
        {99, 0, -ENOPROTOOPT},
        {0, 0, -ENOPROTOOPT},
    };
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct udp_cmd_option c = {
            .cmd = {UDP_CMD_OPTION, sizeof c}, .sock = s, .option = cases[i].option, .value = cases[i].value};
        cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, cases[i].error, "case %u", i);
    }
    struct udp_cmd_option c = {.cmd = {UDP_CMD_OPTION, sizeof c}, .sock = 5, .option = UDP_OPT_TOS};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, -EBADF);
    end(&f);
}

Test(udp_command, info_counts) {
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    (void)deliver(&f, "10.0.0.1", 1, "10.0.0.2", 9);
    struct flow to = testkit_flow("::", 0, "10.0.0.2", 9);
    struct pkt *p = testkit_request(f.tk, s, &to, NULL, 100);
    testkit_output(f.tk, &f.udp, &p, 1);
    struct udp_info info;
    struct udp_cmd_info c = {.cmd = {UDP_CMD_INFO, sizeof c}, .sock = s, .info = &info};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    cr_assert(info.rx_packets == 1 && info.rx_bytes == 1 && info.tx_packets == 1 && info.tx_bytes == 100);
    cr_assert(info.owner == 77 && info.flow.local_port == 1);
    c.info = NULL;
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, -EINVAL);
    end(&f);
}

/* ---- what is refused on the way up ---- */

static enum drop_reason dropped(struct fixture *f, struct pkt *p) {
    testkit_input(f->tk, &f->udp, &p, 1);
    enum drop_reason why = f->tk->drop.count == 1 ? f->tk->drop.v[0]->drop : DROP_NONE;
    if (f->tk->down.count == 1) /* refused: ip is to answer */
        why = f->tk->down.v[0]->drop;
    testkit_clear(f->tk);
    return why;
}

static void spoil_short(struct pkt *p) {
    p->len = 7;
}
static void spoil_empty(struct pkt *p) {
    p->len = 0;
}
static void spoil_len_small(struct pkt *p) {
    be16_store(p->data + 4, 7);
}
static void spoil_len_big(struct pkt *p) {
    be16_store(p->data + 4, (uint16_t)(p->len + 1));
}
static void spoil_len_zero(struct pkt *p) {
    be16_store(p->data + 4, 0);
}
static void spoil_sum(struct pkt *p) {
    p->data[6] ^= 1;
}
static void spoil_payload(struct pkt *p) {
    p->data[8] ^= 1;
}
static void spoil_no_sum(struct pkt *p) {
    be16_store(p->data + 6, 0);
}
static void spoil_port(struct pkt *p) {
    be16_store(p->data + 2, 99);
    p->flags |= PKT_CSUM_OK;
}
static void spoil_nothing(struct pkt *p) {
    (void)p;
}
static void spoil_sum_but_trusted(struct pkt *p) {
    p->data[6] ^= 1;
    p->flags |= PKT_CSUM_OK;
}
static void spoil_sum_partial(struct pkt *p) {
    p->data[6] ^= 1;
    p->flags |= PKT_CSUM_PARTIAL;
}
static void spoil_sum_local(struct pkt *p) {
    be16_store(p->data + 6, 0);
    p->flags |= PKT_LOCAL;
}
/* The IP layer gave more than the UDP length says (allowed: the rest is cut). */
static void spoil_tail(struct pkt *p) {
    p->len += 3;
}

Test(udp_input, every_reason) {
    static const struct {
        void (*spoil)(struct pkt *p);
        enum drop_reason v4, v6;
    } cases[] = {
        {spoil_nothing, DROP_NONE, DROP_NONE},
        {spoil_short, DROP_UDP_TRUNCATED, DROP_UDP_TRUNCATED},
        {spoil_empty, DROP_UDP_TRUNCATED, DROP_UDP_TRUNCATED},
        {spoil_len_small, DROP_UDP_TRUNCATED, DROP_UDP_TRUNCATED},
        {spoil_len_big, DROP_UDP_TRUNCATED, DROP_UDP_TRUNCATED},
        {spoil_len_zero, DROP_UDP_TRUNCATED, DROP_UDP_TRUNCATED},
        {spoil_sum, DROP_UDP_CHECKSUM, DROP_UDP_CHECKSUM},
        {spoil_payload, DROP_UDP_CHECKSUM, DROP_UDP_CHECKSUM},
        {spoil_no_sum, DROP_NONE, DROP_UDP_CHECKSUM},
        {spoil_port, DROP_UDP_NO_SOCKET, DROP_UDP_NO_SOCKET},
        {spoil_sum_but_trusted, DROP_NONE, DROP_NONE},
        {spoil_sum_partial, DROP_NONE, DROP_NONE},
        {spoil_sum_local, DROP_NONE, DROP_NONE},
        {spoil_tail, DROP_NONE, DROP_NONE},
    };
    struct fixture f = make();
    (void)must_open(&f, &(struct spec){.local = "::", .local_port = 7});
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (int six = 0; six < 2; six++) {
            struct flow flow =
                six ? testkit_flow("fd00::1", 7, "fd00::2", 9) : testkit_flow("10.0.0.1", 7, "10.0.0.2", 9);
            struct pkt *p = arrive(&f, &flow, "abcdefg", 7);
            cases[i].spoil(p);
            cr_assert_eq(dropped(&f, p), six ? cases[i].v6 : cases[i].v4, "case %u, v6 %d", i, six);
        }
    }
    end(&f);
}

Test(udp_input, checksum_edge_cases) {
    struct fixture f = make();
    (void)must_open(&f, &(struct spec){.local = "::", .local_port = 7});
    /* Two payload bytes run through all values: among them those whose sum is 0, sent as 0xffff. */
    uint32_t all_ones = 0;
    for (uint32_t v = 0; v < 65536; v++) {
        struct flow flow = testkit_flow("10.0.0.1", 7, "10.0.0.2", 9);
        uint8_t payload[2] = {(uint8_t)(v >> 8), (uint8_t)v};
        struct pkt *p = arrive(&f, &flow, payload, 2);
        all_ones += be16_load(p->data + 6) == 0xffff;
        cr_assert_eq(dropped(&f, p), DROP_NONE);
    }
    cr_assert_geq(all_ones, 1);
    end(&f);
}

Test(udp_input, refusal_goes_down_whole) {
    struct fixture f = make();
    struct flow flow = testkit_flow("10.0.0.1", 7, "10.0.0.2", 9);
    struct pkt *p = arrive(&f, &flow, "abc", 3);
    testkit_input(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->down.count, 1);
    p = f.tk->down.v[0];
    cr_assert(p->flags & PKT_ICMP_ERROR);
    cr_assert_eq(p->user, PKT_REFUSE_PORT);
    cr_assert_eq(p->data[0], 0x45);
    cr_assert_eq(p->len, IP4_LEN + UDP_LEN + 3);
    testkit_clear(f.tk);
    end(&f);
}

Test(udp_input, icmp_error_becomes_a_notice) {
    struct fixture f = make();
    uint32_t s =
        must_open(&f, &(struct spec){.local = "10.0.0.1", .local_port = 7, .remote = "10.0.0.2", .remote_port = 9});
    for (int known = 1; known >= 0; known--) {
        uint8_t quoted[8];
        be16_store(quoted, 7);
        be16_store(quoted + 2, known ? 9 : 10);
        struct pkt *p = testkit_raw(f.tk, quoted, 8);
        p->flow = testkit_flow("10.0.0.1", 0, "10.0.0.2", 0);
        p->flags = PKT_ICMP_ERROR;
        p->user = EMSGSIZE;
        p->user_data = 1400;
        testkit_input(f.tk, &f.udp, &p, 1);
        cr_assert_eq(f.tk->io.notice_count, (uint32_t)known);
        cr_assert_eq(f.tk->done.count, (uint32_t)known);
        cr_assert_eq(f.tk->drop.count, (uint32_t)!known);
        if (known) {
            const struct notice *n = &f.tk->notices[0];
            cr_assert(n->sink == SINK(SINK_SESSION, 1, 1) && n->kind == NOTICE_ERROR);
            cr_assert(n->value == EMSGSIZE && n->extra == 1400 && n->port == 9);
        } else {
            cr_assert_eq(f.tk->drop.v[0]->drop, DROP_ICMP_UNWANTED);
        }
        testkit_clear(f.tk);
    }
    (void)s;
    end(&f);
}

/* ---- many receivers ---- */

Test(udp_multicast, every_member_gets_its_own_copy) {
    struct fixture f = make();
    uint32_t a = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5000, .reuseport = true});
    uint32_t b = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5000, .reuseport = true});
    uint32_t c = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5001});
    uint32_t d = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5000, .reuseport = true});
    join(&f, a, "239.1.1.1", 0, 0);
    join(&f, a, "239.1.1.1", 10, 0); /* twice the same, once by interface: still one copy */
    join(&f, b, "239.1.1.1", 10, 0);
    join(&f, c, "239.1.1.1", 0, 0);  /* another port */
    join(&f, d, "239.1.1.1", 11, 0); /* another interface */
    struct flow flow = testkit_flow("239.1.1.1", 5000, "10.0.0.2", 9);
    struct pkt *p = arrive(&f, &flow, "news", 4);
    testkit_input(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->up.count, 2);
    uint32_t seen = 0;
    for (uint32_t i = 0; i < 2; i++) {
        const struct pkt *q = f.tk->up.v[i];
        seen |= q->sock == a ? 1u : q->sock == b ? 2u : 4u;
        cr_assert_eq(q->len, 4);
        cr_assert_eq(memcmp(q->data, "news", 4), 0);
        cr_assert(ipaddr_equal(&q->flow.local, &flow.local) && q->flow.remote_port == 9);
        cr_assert_eq(pkt_l3(q)[0], 0x45);
    }
    cr_assert_eq(seen, 3);
    cr_assert_neq(f.tk->up.v[0]->data, f.tk->up.v[1]->data);
    testkit_clear(f.tk);
    end(&f);
}

Test(udp_multicast, membership_commands) {
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    join(&f, s, "10.0.0.1", 0, -EINVAL);
    join(&f, 99, "239.0.0.1", 0, -EBADF);
    join(&f, s, "ff02::1234", 0, 0);
    join(&f, s, "ff02::1234", 0, -EADDRINUSE);
    struct udp_cmd_group c = {
        .cmd = {UDP_CMD_GROUP, sizeof c}, .sock = s, .group = testkit_addr("ff02::1234"), .leave = true};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, -EADDRNOTAVAIL);
    for (uint32_t i = 0; i < 32; i++)
        join(&f, s, "239.0.0.1", 100 + i, 0);
    join(&f, s, "239.0.0.1", 99, -ENOSPC);
    struct udp_cmd_close close = {.cmd = {UDP_CMD_CLOSE, sizeof close}, .sock = s};
    cr_assert_eq(testkit_command(f.tk, &f.udp, &close).error, 0);
    s = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    join(&f, s, "239.0.0.1", 99, 0); /* closing left all groups */
    end(&f);
}

Test(udp_multicast, copies_are_bounded_by_buffers_and_vecs) {
    struct fixture f = make();
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t s = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5000, .reuseport = true});
        join(&f, s, "239.1.1.1", 0, 0);
    }
    struct pkt *burst[PKT_BURST];
    struct flow flow = testkit_flow("239.1.1.1", 5000, "10.0.0.2", 9);
    for (uint32_t i = 0; i < PKT_BURST; i++)
        burst[i] = arrive(&f, &flow, "x", 1);
    testkit_input(f.tk, &f.udp, burst, PKT_BURST); /* 2048 copies are wanted, 256 places are there */
    cr_assert_leq(f.tk->up.count, PKT_VEC_MAX);
    cr_assert_geq(f.tk->up.count, PKT_BURST);
    cr_assert_eq(testkit_missing(f.tk), 0);
    testkit_clear(f.tk);
    end(&f);
}

Test(udp_multicast, broadcast_reaches_every_socket_of_the_port) {
    struct fixture f = make();
    uint32_t a = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 67, .reuseport = true});
    uint32_t b = must_open(&f, &(struct spec){.local = "::", .local_port = 67, .reuseport = true});
    struct flow flow = testkit_flow("255.255.255.255", 67, "10.0.0.2", 68);
    struct pkt *p = arrive(&f, &flow, "x", 1);
    p->flags |= PKT_BROADCAST;
    testkit_input(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->up.count, 2);
    cr_assert_eq(f.tk->up.v[0]->sock + f.tk->up.v[1]->sock, a + b);
    testkit_clear(f.tk);
    flow.local_port = 68;
    p = arrive(&f, &flow, "x", 1);
    p->flags |= PKT_BROADCAST;
    cr_assert_eq(dropped(&f, p), DROP_UDP_NO_SOCKET); /* and nobody is told */
    end(&f);
}

/* ---- sending ---- */

struct send_case {
    struct spec sock;
    const char *to, *from;
    uint16_t port;
    uint32_t len;
    int error; /* errno of the notice, 0 = sent */
};

Test(udp_output, judges_requests) {
    static const struct send_case cases[] = {
        {{.local = "::", .local_port = 1}, "10.0.0.2", NULL, 9, 10, 0},
        {{.local = "::", .local_port = 1}, "fd00::2", NULL, 9, 10, 0},
        {{.local = "::", .local_port = 1}, "10.0.0.2", "10.0.0.1", 9, 0, 0},
        {{.local = "::", .local_port = 1}, NULL, NULL, 0, 10, EDESTADDRREQ},
        {{.local = "::", .local_port = 1}, "10.0.0.2", NULL, 0, 10, EINVAL},
        {{.local = "::", .local_port = 1, .v6only = true}, "10.0.0.2", NULL, 9, 10, EAFNOSUPPORT},
        {{.local = "0.0.0.0", .local_port = 1}, "fd00::2", NULL, 9, 10, EAFNOSUPPORT},
        {{.local = "10.0.0.1", .local_port = 1}, "10.0.0.2", "10.0.0.7", 9, 10, EADDRNOTAVAIL},
        {{.local = "10.0.0.1", .local_port = 1}, "10.0.0.2", "10.0.0.1", 9, 10, 0},
        {{.local = "::", .local_port = 1}, "10.0.0.2", "fd00::1", 9, 10, EAFNOSUPPORT},
        {{.local = "10.0.0.1", .local_port = 1, .remote = "10.0.0.2", .remote_port = 2}, NULL, NULL, 0, 10, 0},
        {{.local = "10.0.0.1", .local_port = 1, .remote = "10.0.0.2", .remote_port = 2}, "10.0.0.9", NULL, 3, 10, 0},
        {{.local = "::", .local_port = 1}, "10.0.0.2", NULL, 9, 65507, 0},
        {{.local = "::", .local_port = 1}, "10.0.0.2", NULL, 9, 65508, EMSGSIZE},
        {{.local = "::", .local_port = 1}, "fd00::2", NULL, 9, 65527, 0},
        {{.local = "::", .local_port = 1}, "fd00::2", NULL, 9, 65528, EMSGSIZE},
    };
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        const struct send_case *c = &cases[i];
        struct fixture f = make();
        uint32_t s = must_open(&f, &c->sock);
        struct flow to = testkit_flow(c->from != NULL ? c->from : "::", 0, c->to != NULL ? c->to : "::", c->port);
        struct pkt *p = testkit_request(f.tk, s, &to, NULL, c->len);
        testkit_output(f.tk, &f.udp, &p, 1);
        cr_assert_eq(f.tk->down.count, c->error == 0, "case %u", i);
        cr_assert_eq(f.tk->io.notice_count, c->error != 0, "case %u", i);
        if (c->error != 0) {
            cr_assert_eq((int)f.tk->notices[0].value, c->error, "case %u", i);
            cr_assert_eq(f.tk->drop.v[0]->drop, DROP_UDP_BAD_SEND);
        } else {
            p = f.tk->down.v[0];
            cr_assert_eq(be16_load(p->data), 1);
            cr_assert_eq(be16_load(p->data + 2), c->to != NULL ? c->port : 2);
            cr_assert_eq(be16_load(p->data + 4), c->len + UDP_LEN);
            cr_assert(p->flags & PKT_CSUM_PARTIAL);
            cr_assert(p->csum_start == p->data - p->buf && p->csum_offset == 6);
            cr_assert(p->sink == SINK(SINK_SESSION, 1, 1) && p->owner == 77 && p->flow.proto == PROTO_UDP);
        }
        testkit_clear(f.tk);
        end(&f);
    }
}

Test(udp_output, refuses_unknown_sockets_and_full_heads) {
    struct fixture f = make();
    static const uint32_t socks[] = {0, 5, 255, 256, UINT32_MAX};
    struct flow to = testkit_flow("::", 0, "10.0.0.2", 9);
    for (uint32_t i = 0; i < ARRAY_LEN(socks); i++) {
        struct pkt *p = testkit_request(f.tk, socks[i], &to, NULL, 1);
        testkit_output(f.tk, &f.udp, &p, 1);
        cr_assert_eq(f.tk->drop.v[0]->drop, DROP_UDP_BAD_SEND);
        testkit_clear(f.tk);
    }
    uint32_t s = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    struct pkt *p = testkit_request(f.tk, s, &to, NULL, 1);
    p->data = p->buf + 7;
    testkit_output(f.tk, &f.udp, &p, 1);
    cr_assert_eq(f.tk->drop.v[0]->drop, DROP_NO_BUFFER);
    testkit_clear(f.tk);
    end(&f);
}

Test(udp_output, gso) {
    static const struct {
        uint32_t len;
        uint16_t size;
        int error;
        bool gso;
    } cases[] = {{3000, 1000, 0, true}, {1000, 1000, 0, false},     {999, 1000, 0, false},
                 {6400, 100, 0, true},  {6401, 100, EINVAL, false}, {0, 100, 0, false}};
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    struct flow to = testkit_flow("::", 0, "10.0.0.2", 9);
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct pkt *p = testkit_request(f.tk, s, &to, NULL, cases[i].len);
        p->gso_size = cases[i].size;
        testkit_output(f.tk, &f.udp, &p, 1);
        cr_assert_eq(f.tk->down.count, cases[i].error == 0, "case %u", i);
        if (cases[i].error == 0) {
            p = f.tk->down.v[0];
            cr_assert_eq((p->flags & PKT_GSO) != 0, cases[i].gso);
            cr_assert_eq(p->gso_size, cases[i].gso ? cases[i].size : 0);
        }
        testkit_clear(f.tk);
    }
    end(&f);
}

Test(udp_output, options_reach_the_packet) {
    static const struct {
        uint32_t option;
        int64_t value;
    } set[] = {{UDP_OPT_TOS, 0x28},
               {UDP_OPT_TTL, 9},
               {UDP_OPT_DONT_FRAGMENT, 1},
               {UDP_OPT_BROADCAST, 1},
               {UDP_OPT_MULTICAST_TTL, 3}};
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "::", .local_port = 1});
    for (uint32_t i = 0; i < ARRAY_LEN(set); i++) {
        struct udp_cmd_option c = {
            .cmd = {UDP_CMD_OPTION, sizeof c}, .sock = s, .option = set[i].option, .value = set[i].value};
        cr_assert_eq(testkit_command(f.tk, &f.udp, &c).error, 0);
    }
    join(&f, s, "239.1.1.1", 0, 0);
    struct flow to = testkit_flow("::", 0, "10.0.0.2", 9), group = testkit_flow("::", 0, "239.1.1.1", 9);
    struct pkt *p[2] = {testkit_request(f.tk, s, &to, NULL, 1), testkit_request(f.tk, s, &group, NULL, 1)};
    p[1]->tos = 0x10;
    testkit_output(f.tk, &f.udp, p, 2);
    cr_assert(f.tk->down.v[0]->tos == 0x28 && f.tk->down.v[0]->ttl == 9);
    cr_assert_eq(f.tk->down.v[0]->flags, PKT_CSUM_PARTIAL | PKT_DONT_FRAGMENT | PKT_BROADCAST | PKT_BOUNCE);
    cr_assert(f.tk->down.v[1]->tos == 0x10 && f.tk->down.v[1]->ttl == 3);
    cr_assert(f.tk->down.v[1]->flags & PKT_MCAST_LOOP);
    testkit_clear(f.tk);
    end(&f);
}
