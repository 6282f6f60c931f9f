/* SPDX-License-Identifier: Apache-2.0
 *
 * ICMP, ICMPv6, ARP and neighbour discovery: what goes up to transports, what is answered where the interface is ours
 * alone, what is refused.
 */
#include "engines/ip/ip_fixture.h"

/* An ICMP or ICMPv6 message from the neighbour to us, as a frame; its checksum is right. */
static struct pkt *icmp(struct fixture *f, bool six, const void *message, uint32_t len, uint8_t hops) {
    struct flow flow = six ? testkit_flow("fd00::1", 0, "fd00::2", 0) : testkit_flow("10.0.0.1", 0, "10.0.0.2", 0);
    struct pkt *p = testkit_udp_frame(f->tk, &flow, NULL, len);
    uint32_t head = six ? IP6_LEN : IP4_LEN;
    uint8_t *h = p->data + ETH_LEN;
    memcpy(h + head, message, len);
    p->len = ETH_LEN + head + len;
    flow.proto = six ? PROTO_ICMP6 : PROTO_ICMP;
    h[six ? 6 : 9] = flow.proto;
    h[six ? 7 : 8] = hops;
    be16_store(h + (six ? 4 : 2), (uint16_t)(six ? len : head + len));
    if (!six)
        testkit_fix_ip4(h);
    if (len >= 4) {
        memset(h + head + 2, 0, 2);
        uint64_t pseudo = six ? csum_pseudo(&flow, len) : 0;
        uint16_t sum = (uint16_t)~csum_fold(csum_add(pseudo, h + head, len));
        memcpy(h + head + 2, &sum, 2);
    }
    return p;
}

/* An error that quotes a datagram of ours from port 7 to port 9 of `to`. */
static struct pkt *error_about(struct fixture *f, bool six, uint8_t type, uint8_t code, uint32_t rest, const char *from,
                               const char *to) {
    uint8_t m[ICMP_LEN + IP6_LEN + 8] = {type, code};
    struct flow flow = testkit_flow(to, 9, from, 7); /* as the far end saw it */
    struct pkt *q = testkit_udp_packet(f->tk, &flow, NULL, 0);
    be32_store(m + 4, rest);
    memcpy(m + ICMP_LEN, q->data, q->len);
    uint32_t len = ICMP_LEN + q->len;
    testkit_put(q);
    return icmp(f, six, m, len, 64);
}

/* ---- errors about our packets ---- */

Test(ip_icmp, errors_go_up_to_the_transport) {
    static const struct {
        bool six;
        uint8_t type, code;
        int error;
    } cases[] = {
        {false, 3, 0, ENETUNREACH},   {false, 3, 1, EHOSTUNREACH},  {false, 3, 2, ENOPROTOOPT},
        {false, 3, 3, ECONNREFUSED},  {false, 3, 13, EHOSTUNREACH}, {false, 3, 99, EHOSTUNREACH},
        {false, 11, 0, EHOSTUNREACH}, {false, 12, 0, EPROTO},       {true, 1, 0, ENETUNREACH},
        {true, 1, 4, ECONNREFUSED},   {true, 1, 1, EACCES},         {true, 3, 0, EHOSTUNREACH},
        {true, 4, 1, EPROTO},
    };
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        bool six = cases[i].six;
        fx_input(&f, error_about(&f, six, cases[i].type, cases[i].code, 0, six ? "fd00::1" : "10.0.0.1",
                                 six ? "fd00::2" : "10.0.0.2"));
        cr_assert_eq(f.tk->up.count, 1, "case %u", i);
        const struct pkt *p = f.tk->up.v[0];
        struct ipaddr remote = testkit_addr(six ? "fd00::2" : "10.0.0.2");
        cr_assert(p->flags & PKT_ICMP_ERROR);
        cr_assert_eq((int)p->user, cases[i].error, "case %u", i);
        cr_assert(p->flow.proto == PROTO_UDP && ipaddr_equal(&p->flow.remote, &remote));
        cr_assert_eq(be16_load(p->data), 7);
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

typedef void spoil_fn(uint8_t *ip, struct pkt *p);
static void s_nothing(uint8_t *ip, struct pkt *p) {
    (void)ip, (void)p;
}
static void s_sum(uint8_t *ip, struct pkt *p) {
    (void)ip;
    p->data[p->len - 1] ^= 1;
}
static void recut(uint8_t *ip, struct pkt *p, uint32_t len) {
    p->len = ETH_LEN + IP4_LEN + len;
    be16_store(ip + 2, (uint16_t)(IP4_LEN + len));
    testkit_fix_ip4(ip);
    p->flags |= PKT_CSUM_OK;
}
static void s_short(uint8_t *ip, struct pkt *p) {
    recut(ip, p, 7);
}
static void s_no_quote(uint8_t *ip, struct pkt *p) {
    recut(ip, p, 8);
}
static void s_quote_cut(uint8_t *ip, struct pkt *p) {
    recut(ip, p, ICMP_LEN + IP4_LEN + 7);
}
static void s_quote_version(uint8_t *ip, struct pkt *p) {
    ip[IP4_LEN + ICMP_LEN] = 0x65;
    p->flags |= PKT_CSUM_OK;
}
static void s_quote_ihl(uint8_t *ip, struct pkt *p) {
    ip[IP4_LEN + ICMP_LEN] = 0x44;
    p->flags |= PKT_CSUM_OK;
}
static void s_quote_ihl_long(uint8_t *ip, struct pkt *p) {
    ip[IP4_LEN + ICMP_LEN] = 0x4f;
    p->flags |= PKT_CSUM_OK;
}
static void s_quote_foreign(uint8_t *ip, struct pkt *p) {
    ip[IP4_LEN + ICMP_LEN + 15] = 99;
    p->flags |= PKT_CSUM_OK;
}
static void s_quote_fragment(uint8_t *ip, struct pkt *p) {
    be16_store(ip + IP4_LEN + ICMP_LEN + 6, 5);
    p->flags |= PKT_CSUM_OK;
}
static void s_redirect(uint8_t *ip, struct pkt *p) {
    ip[IP4_LEN] = 5;
    p->flags |= PKT_CSUM_OK;
}

Test(ip_icmp, ill_errors_stay_down) {
    static const struct {
        spoil_fn *spoil;
        enum drop_reason why;
    } cases[] = {
        {s_nothing, DROP_NONE},
        {s_sum, DROP_ICMP_CHECKSUM},
        {s_short, DROP_ICMP_MALFORMED},
        {s_no_quote, DROP_ICMP_MALFORMED},
        {s_quote_cut, DROP_ICMP_MALFORMED},
        {s_quote_version, DROP_ICMP_MALFORMED},
        {s_quote_ihl, DROP_ICMP_MALFORMED},
        {s_quote_ihl_long, DROP_ICMP_MALFORMED},
        {s_quote_foreign, DROP_ICMP_UNWANTED},
        {s_quote_fragment, DROP_ICMP_UNWANTED},
        {s_redirect, DROP_ICMP_UNWANTED},
    };
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct pkt *p = error_about(&f, false, 3, 3, 0, "10.0.0.1", "10.0.0.2");
        cases[i].spoil(p->data + ETH_LEN, p);
        cr_assert_eq(fx_input_drop(&f, p), cases[i].why, "case %u", i);
    }
    fx_end(&f);
}

/* ---- path MTU ---- */

static uint32_t path_mtu(struct fixture *f, const char *dst) {
    struct ip_route_result r;
    struct ip_cmd_lookup c = {.cmd = {IP_CMD_LOOKUP, sizeof c}, .dst = testkit_addr(dst), .result = &r};
    cr_assert_eq(testkit_command(f->tk, &f->ip, &c).error, 0);
    return r.mtu;
}

static void talk_to(struct fixture *f, const char *dst) {
    fx_output(f, fx_datagram(f, "::", dst, 4));
    testkit_clear(f->tk);
}

static void too_big(struct fixture *f, bool six, const char *dst, uint32_t mtu) {
    fx_input(f, error_about(f, six, six ? 2 : 3, six ? 0 : 4, mtu, six ? "fd00::1" : "10.0.0.1", dst));
}

Test(ip_pmtu, is_learnt_per_destination_and_ages) {
    struct fixture f = fx_make();
    for (int six = 0; six < 2; six++) {
        const char *dst = six ? "fd00::2" : "10.0.0.2";
        talk_to(&f, dst);
        too_big(&f, six, dst, 1400);
        cr_assert_eq(f.tk->up.count, 1);
        cr_assert(f.tk->up.v[0]->user == EMSGSIZE && f.tk->up.v[0]->user_data == 1400);
        testkit_clear(f.tk);
        cr_assert_eq(path_mtu(&f, dst), 1400);
        talk_to(&f, dst);
        too_big(&f, six, dst, 1450); /* never up again by a report */
        testkit_clear(f.tk);
        cr_assert_eq(path_mtu(&f, dst), 1400);
        fx_output(&f, fx_datagram(&f, "::", dst, 1400));
        cr_assert_eq(f.tk->down.count, 2); /* now it is cut */
        testkit_clear(f.tk);
    }
    cr_assert_eq(path_mtu(&f, "10.0.0.3"), 1500);
    f.tk->io.now += 601 * NS_PER_SEC;
    for (uint32_t i = 0; i < 10; i++)
        (void)testkit_run(f.tk, &f.ip, 64);
    cr_assert_eq(path_mtu(&f, "10.0.0.2"), 1500);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_pmtu, lies_are_bounded) {
    struct fixture f = fx_make();
    too_big(&f, false, "10.0.0.2", 1400); /* we never spoke to it */
    cr_assert_eq(fx_dropped(&f), DROP_ICMP_UNWANTED);
    cr_assert_eq(path_mtu(&f, "10.0.0.2"), 1500);
    talk_to(&f, "10.0.0.2");
    talk_to(&f, "fd00::2");
    too_big(&f, false, "10.0.0.2", 68);
    too_big(&f, true, "fd00::2", 20);
    testkit_clear(f.tk);
    cr_assert_eq(path_mtu(&f, "10.0.0.2"), 552);
    cr_assert_eq(path_mtu(&f, "fd00::2"), 1280);
    fx_end(&f);
}

Test(ip_pmtu, old_routers_give_a_plateau) {
    struct fixture f = fx_make();
    talk_to(&f, "10.0.0.2");
    struct pkt *p = error_about(&f, false, 3, 4, 0, "10.0.0.1", "10.0.0.2");
    be16_store(p->data + ETH_LEN + IP4_LEN + ICMP_LEN + 2, 1500); /* what did not fit */
    p->flags |= PKT_CSUM_OK;
    fx_input(&f, p);
    testkit_clear(f.tk);
    cr_assert_eq(path_mtu(&f, "10.0.0.2"), 1492);
    fx_end(&f);
}

Test(ip_pmtu, a_full_table_makes_room) {
    struct fixture f = fx_make_with(&(struct ip_config){.pmtu_max = 2}, false);
    static const char *const dst[] = {"10.0.0.11", "10.0.0.12", "10.0.0.13", "10.0.0.14"};
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert_eq(fx_neigh(&f, dst[i], 1), 0);
        talk_to(&f, dst[i]);
        too_big(&f, false, dst[i], 1400);
        testkit_clear(f.tk);
        cr_assert_eq(path_mtu(&f, dst[i]), 1400);
        cr_assert_eq(f.ip.ops->check(f.ip.st), 0);
    }
    fx_end(&f);
}

/* ---- echo ---- */

Test(ip_echo, is_answered_on_dedicated_addresses_alone) {
    for (int dedicated = 0; dedicated < 2; dedicated++) {
        for (int six = 0; six < 2; six++) {
            struct fixture f = fx_make_with(NULL, dedicated);
            uint8_t m[20] = {six ? 128 : 8, 0, 0, 0, 1, 2, 3, 4, 'p', 'i', 'n', 'g'};
            struct pkt *p = icmp(&f, six, m, sizeof m, 3);
            fx_input(&f, p);
            if (!dedicated) {
                cr_assert_eq(fx_dropped(&f), DROP_ICMP_UNWANTED);
                fx_end(&f);
                continue;
            }
            cr_assert_eq(f.tk->down.count, 1);
            uint32_t head = six ? IP6_LEN : IP4_LEN;
            cr_assert_eq(p->data[ETH_LEN + head], six ? 129 : 0);
            cr_assert_eq(memcmp(p->data + ETH_LEN + head + 4, m + 4, 16), 0);
            cr_assert_eq(memcmp(p->data, fx_peer_mac, 6), 0);
            cr_assert(testkit_csum_ok(p, ETH_LEN));
            cr_assert_eq(p->data[ETH_LEN + (six ? 7 : 8)], IP_TTL_DEFAULT);
            testkit_clear(f.tk);
            fx_end(&f);
        }
    }
}

Test(ip_echo, is_limited_by_a_rate) {
    struct fixture f = fx_make_with(&(struct ip_config){.icmp_per_second = 5}, true);
    uint8_t m[8] = {8};
    uint32_t answered = 0;
    for (uint32_t i = 0; i < 20; i++)
        fx_input(&f, icmp(&f, false, m, 8, 64));
    cr_assert_eq(f.tk->down.count, 5);
    cr_assert_eq(f.tk->drop.count, 15);
    cr_assert_eq(f.tk->drop.v[0]->drop, DROP_ICMP_RATE);
    testkit_clear(f.tk);
    for (uint32_t i = 0; i < 20; i++) { /* two seconds more */
        f.tk->io.now += 100 * NS_PER_MS;
        fx_input(&f, icmp(&f, false, m, 8, 64));
        answered += f.tk->down.count;
        testkit_clear(f.tk);
    }
    cr_assert(answered >= 9 && answered <= 11);
    fx_end(&f);
}

Test(ip_echo, not_to_a_broadcast) {
    struct fixture f = fx_make_with(NULL, true);
    uint8_t m[8] = {8};
    struct pkt *p = icmp(&f, false, m, 8, 64);
    memset(p->data, 0xff, 6);
    cr_assert_eq(fx_input_drop(&f, p), DROP_ICMP_UNWANTED);
    fx_end(&f);
}

/* ---- refusals ---- */

/* A datagram that came in and whose transport knows no socket for it. */
static struct pkt *refused(struct fixture *f, const char *local, const char *remote, uint16_t flags) {
    struct flow flow = testkit_flow(local, 7, remote, 9);
    struct pkt *p = testkit_udp_packet(f->tk, &flow, "data", 4);
    p->flow = flow;
    p->ip_version = ipaddr_is_v4(&flow.local) ? 4 : 6;
    p->flags = flags | PKT_ICMP_ERROR;
    p->user = PKT_REFUSE_PORT;
    p->drop = DROP_UDP_NO_SOCKET;
    return p;
}

Test(ip_refuse, dedicated_addresses_answer) {
    struct fixture f = fx_make_with(NULL, true);
    for (int six = 0; six < 2; six++) {
        fx_output(&f, refused(&f, six ? "fd00::1" : "10.0.0.1", six ? "fd00::2" : "10.0.0.2", 0));
        cr_assert_eq(f.tk->drop.count, 1);
        cr_assert_eq(f.tk->drop.v[0]->drop, DROP_UDP_NO_SOCKET);
        cr_assert_eq(f.tk->down.count, 1);
        const struct pkt *p = f.tk->down.v[0];
        uint32_t head = six ? IP6_LEN : IP4_LEN;
        cr_assert_eq(p->data[ETH_LEN + head], six ? 1 : 3);
        cr_assert_eq(p->data[ETH_LEN + head + 1], six ? 4 : 3);
        cr_assert_eq(p->len, ETH_LEN + head + ICMP_LEN + head + UDP_LEN + 4);
        cr_assert(testkit_csum_ok(p, ETH_LEN));
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

Test(ip_refuse, who_is_not_told) {
    struct fixture f = fx_make(); /* shared: the kernel speaks for this address */
    fx_output(&f, refused(&f, "10.0.0.1", "10.0.0.2", 0));
    cr_assert_eq(f.tk->down.count, 0);
    cr_assert_eq(fx_dropped(&f), DROP_UDP_NO_SOCKET);
    fx_end(&f);
    f = fx_make_with(NULL, true);
    fx_output(&f, refused(&f, "10.0.0.1", "10.0.0.2", PKT_BROADCAST));
    cr_assert_eq(f.tk->down.count, 0);
    cr_assert_eq(fx_dropped(&f), DROP_UDP_NO_SOCKET);
    fx_output(&f, refused(&f, "239.0.0.1", "10.0.0.2", 0));
    cr_assert_eq(f.tk->down.count, 0);
    cr_assert_eq(fx_dropped(&f), DROP_UDP_NO_SOCKET);
    fx_end(&f);
}

/* Between two programs of this host the error goes all the way round. */
Test(ip_refuse, local_senders_learn_it) {
    static const char *const addr[] = {"127.0.0.1", "::1", "10.0.0.1"};
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(addr); i++) {
        struct pkt *p = refused(&f, addr[i], addr[i], PKT_LOCAL);
        fx_output(&f, p);
        cr_assert_eq(f.tk->down.count, 1);
        p = testkit_take(&f.tk->down, 0);
        cr_assert(p->flags & PKT_LOCAL);
        testkit_clear(f.tk);
        fx_input(&f, p);
        cr_assert_eq(f.tk->up.count, 1);
        cr_assert((p->flags & PKT_ICMP_ERROR) && p->user == ECONNREFUSED && p->flow.proto == PROTO_UDP);
        cr_assert_eq(be16_load(p->data), 9); /* the sender's port: its own side of the flow */
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

/* ---- ARP ---- */

static struct pkt *arp(struct fixture *f, uint16_t op, const uint8_t *sha, const char *spa, const char *tpa) {
    uint8_t m[ETH_LEN + ARP_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    memcpy(m + 6, sha, 6);
    be16_store(m + 12, ETHERTYPE_ARP);
    uint8_t *a = m + ETH_LEN;
    memcpy(a, "\0\1\x08\0\6\4", 6);
    be16_store(a + 6, op);
    memcpy(a + 8, sha, 6);
    struct ipaddr s = testkit_addr(spa), t = testkit_addr(tpa);
    memcpy(a + 14, &s.b[12], 4);
    memcpy(a + 24, &t.b[12], 4);
    return testkit_raw(f->tk, m, sizeof m);
}

static const uint8_t other_mac[6] = {2, 0, 0, 0, 0, 0xcc};

Test(ip_arp, answers_for_dedicated_addresses) {
    struct fixture f = fx_make_with(NULL, true);
    struct pkt *p = arp(&f, 1, other_mac, "10.0.0.50", "10.0.0.1");
    fx_input(&f, p);
    cr_assert_eq(f.tk->down.count, 1);
    cr_assert_eq(p->len, ETH_LEN + ARP_LEN);
    cr_assert_eq(memcmp(p->data, other_mac, 6), 0);
    cr_assert_eq(be16_load(p->data + ETH_LEN + 6), 2);
    cr_assert_eq(memcmp(p->data + ETH_LEN + 8, f.tk->ports[0].mac, 6), 0);
    testkit_clear(f.tk);
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 4)); /* who asked us is known */
    cr_assert_eq(memcmp(f.tk->down.v[0]->data, other_mac, 6), 0);
    testkit_clear(f.tk);
    fx_input(&f, arp(&f, 1, other_mac, "10.0.0.50", "10.0.0.99")); /* not for us */
    cr_assert_eq(f.tk->down.count, 0);
    cr_assert_eq(f.tk->done.count, 1);
    testkit_clear(f.tk);
    fx_input(&f, arp(&f, 1, other_mac, "0.0.0.0", "10.0.0.1")); /* a probe */
    cr_assert_eq(f.tk->down.count, 1);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_arp, resolves_and_probes) {
    struct fixture f = fx_make_with(NULL, true);
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 4));
    cr_assert_eq(f.tk->down.count, 1);
    const uint8_t *q = f.tk->down.v[0]->data;
    cr_assert_eq(memcmp(q, "\xff\xff\xff\xff\xff\xff", 6), 0);
    cr_assert_eq(be16_load(q + 12), ETHERTYPE_ARP);
    cr_assert_eq(f.tk->io.event_count, 0); /* nobody else is asked */
    testkit_clear(f.tk);
    fx_input(&f, arp(&f, 2, other_mac, "10.0.0.50", "10.0.0.1"));
    cr_assert_eq(f.tk->down.count, 1);
    cr_assert_eq(memcmp(f.tk->down.v[0]->data, other_mac, 6), 0);
    testkit_clear(f.tk);
    f.tk->io.now += 31 * NS_PER_SEC; /* in use: asked directly whether it is still there */
    (void)testkit_run(f.tk, &f.ip, 64);
    bool probed = false;
    for (uint32_t i = 0; i < f.tk->down.count; i++)
        probed |= memcmp(f.tk->down.v[i]->data, other_mac, 6) == 0;
    cr_assert(probed);
    testkit_clear(f.tk);
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 4)); /* and used meanwhile */
    cr_assert_eq(f.tk->down.count, 1);
    testkit_clear(f.tk);
    for (uint32_t i = 0; i < 4; i++) { /* it does not answer */
        f.tk->io.now += 1100 * NS_PER_MS;
        (void)testkit_run(f.tk, &f.ip, 64);
        testkit_clear(f.tk);
    }
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 4));
    cr_assert_eq(f.tk->notices[0].value, EHOSTUNREACH);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_arp, ill_messages_and_conflicts) {
    struct fixture f = fx_make_with(NULL, true);
    struct pkt *p = arp(&f, 1, other_mac, "10.0.0.50", "10.0.0.1");
    p->len -= 1;
    cr_assert_eq(fx_input_drop(&f, p), DROP_ARP_MALFORMED);
    for (uint32_t i = 0; i < 6; i++) { /* hardware and protocol types and sizes */
        p = arp(&f, 1, other_mac, "10.0.0.50", "10.0.0.1");
        p->data[ETH_LEN + i] ^= 1;
        cr_assert_eq(fx_input_drop(&f, p), DROP_ARP_MALFORMED);
    }
    static const uint8_t group[6] = {1, 0, 0, 0, 0, 1};
    cr_assert_eq(fx_input_drop(&f, arp(&f, 1, group, "10.0.0.50", "10.0.0.1")), DROP_ARP_MALFORMED);
    fx_input(&f, arp(&f, 2, other_mac, "10.0.0.1", "10.0.0.1"));
    cr_assert_eq(f.tk->io.event_count, 1);
    cr_assert_eq(f.tk->events[0].kind, EVENT_ADDR_CONFLICT);
    cr_assert_eq(fx_dropped(&f), DROP_IP_MARTIAN);
    fx_end(&f);
}

/* ---- neighbour discovery ---- */

static struct pkt *nd(struct fixture *f, uint8_t type, const char *target, uint8_t option, const uint8_t *mac) {
    uint8_t m[32] = {type};
    struct ipaddr t = testkit_addr(target);
    memcpy(m + 8, t.b, 16);
    m[24] = option;
    m[25] = 1;
    if (mac != NULL)
        memcpy(m + 26, mac, 6);
    return icmp(f, true, m, mac != NULL ? 32 : 24, 255);
}

Test(ip_ndp, answers_solicitations) {
    struct fixture f = fx_make_with(NULL, true);
    fx_input(&f, nd(&f, 135, "fd00::1", 1, other_mac));
    cr_assert_eq(f.tk->down.count, 1);
    const struct pkt *p = f.tk->down.v[0];
    cr_assert_eq(memcmp(p->data, other_mac, 6), 0);
    cr_assert_eq(p->data[ETH_LEN + 7], 255);
    cr_assert_eq(p->data[ETH_LEN + IP6_LEN], 136);
    cr_assert_eq(p->data[ETH_LEN + IP6_LEN + 4], 0x60);
    cr_assert_eq(memcmp(p->data + ETH_LEN + IP6_LEN + 26, f.tk->ports[0].mac, 6), 0);
    cr_assert(testkit_csum_ok(p, ETH_LEN));
    testkit_clear(f.tk);
    fx_input(&f, nd(&f, 135, "fd00::77", 1, other_mac));
    cr_assert_eq(f.tk->down.count, 0);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_ndp, answers_duplicate_address_detection) {
    struct fixture f = fx_make_with(NULL, true);
    struct pkt *p = nd(&f, 135, "fd00::1", 1, NULL);
    struct ipaddr group = testkit_addr("ff02::1:ff00:1");
    memset(p->data + ETH_LEN + 8, 0, 16);
    memcpy(p->data + ETH_LEN + 24, group.b, 16);
    p->flags |= PKT_CSUM_OK;
    fx_input(&f, p);
    cr_assert_eq(f.tk->down.count, 1);
    const uint8_t *h = f.tk->down.v[0]->data;
    struct ipaddr all = testkit_addr("ff02::1");
    cr_assert_eq(memcmp(h + ETH_LEN + 24, all.b, 16), 0);
    cr_assert_eq(h[ETH_LEN + IP6_LEN + 4], 0x20);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_ndp, resolves) {
    struct fixture f = fx_make_with(NULL, true);
    fx_output(&f, fx_datagram(&f, "::", "fd00::50", 4));
    cr_assert_eq(f.tk->down.count, 1);
    const struct pkt *p = f.tk->down.v[0];
    cr_assert_eq(memcmp(p->data, "\x33\x33\xff\0\0\x50", 6), 0);
    cr_assert_eq(p->data[ETH_LEN + IP6_LEN], 135);
    cr_assert(testkit_csum_ok(p, ETH_LEN));
    testkit_clear(f.tk);
    fx_input(&f, nd(&f, 136, "fd00::50", 2, other_mac));
    cr_assert_eq(f.tk->down.count, 1);
    cr_assert_eq(memcmp(f.tk->down.v[0]->data, other_mac, 6), 0);
    testkit_clear(f.tk);
    fx_input(&f, nd(&f, 136, "fd00::51", 2, other_mac)); /* unasked: not remembered */
    testkit_clear(f.tk);
    fx_output(&f, fx_datagram(&f, "::", "fd00::51", 4));
    cr_assert_eq(f.tk->down.v[0]->data[ETH_LEN + IP6_LEN], 135);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_ndp, ill_messages) {
    struct fixture f = fx_make_with(NULL, true);
    uint8_t m[40] = {135};
    struct ipaddr own = testkit_addr("fd00::1");
    memcpy(m + 8, own.b, 16);
    m[24] = 1;
    m[25] = 1;
    cr_assert_eq(fx_input_drop(&f, icmp(&f, true, m, 32, 254)), DROP_ARP_MALFORMED); /* came over a router */
    cr_assert_eq(fx_input_drop(&f, icmp(&f, true, m, 23, 255)), DROP_ARP_MALFORMED);
    cr_assert_eq(fx_input_drop(&f, icmp(&f, true, m, 28, 255)), DROP_ARP_MALFORMED); /* option cut off */
    m[25] = 0;
    cr_assert_eq(fx_input_drop(&f, icmp(&f, true, m, 32, 255)), DROP_ARP_MALFORMED); /* option of no length */
    m[25] = 3;
    cr_assert_eq(fx_input_drop(&f, icmp(&f, true, m, 40, 255)), DROP_ARP_MALFORMED); /* longer than the message */
    m[25] = 1;
    m[1] = 1;
    cr_assert_eq(fx_input_drop(&f, icmp(&f, true, m, 32, 255)), DROP_ARP_MALFORMED); /* code */
    cr_assert_eq(fx_input_drop(&f, nd(&f, 136, "ff02::5", 2, other_mac)), DROP_ARP_MALFORMED);
    cr_assert_eq(fx_input_drop(&f, nd(&f, 134, "fd00::1", 2, other_mac)), DROP_ICMP_UNWANTED);
    fx_input(&f, nd(&f, 136, "fd00::1", 2, other_mac)); /* somebody claims our address */
    cr_assert_eq(f.tk->events[0].kind, EVENT_ADDR_CONFLICT);
    cr_assert_eq(fx_dropped(&f), DROP_IP_MARTIAN);
    fx_end(&f);
    f = fx_make();
    cr_assert_eq(fx_input_drop(&f, nd(&f, 135, "fd00::1", 1, other_mac)), DROP_ICMP_UNWANTED);
    fx_end(&f);
}
