/* SPDX-License-Identifier: Apache-2.0
 *
 * The way out: routes and sources, checksums, what is larger than the path, next hops that are not known yet, groups,
 * the local turn-round.
 */
#include <stdio.h>

#include "engines/ip/ip_fixture.h"

static struct ip_route_result look_up(struct fixture *f, const char *dst) {
    struct ip_route_result r;
    struct ip_cmd_lookup c = {.cmd = {IP_CMD_LOOKUP, sizeof c}, .dst = testkit_addr(dst), .result = &r};
    cr_assert_eq(testkit_command(f->tk, &f->ip, &c).error, 0);
    return r;
}

static void expect_route(struct fixture *f, const char *dst, const char *next, const char *source, uint16_t port) {
    struct ip_route_result r = look_up(f, dst);
    struct ipaddr n = testkit_addr(next), s = testkit_addr(source);
    cr_assert_eq(r.port, port, "%s", dst);
    cr_assert(ipaddr_equal(&r.next_hop, &n), "%s", dst);
    cr_assert(ipaddr_equal(&r.source, &s), "%s", dst);
    cr_assert_eq(r.error, 0);
}

/* The notice that the only failed packet left, and its drop reason; everything is put back. */
static int failed(struct fixture *f, enum drop_reason why) {
    cr_assert_eq(f->tk->io.notice_count, 1);
    cr_assert_eq(f->tk->notices[0].sink, SINK(SINK_SESSION, 1, 5));
    cr_assert_eq(f->tk->notices[0].kind, NOTICE_ERROR);
    int error = (int)f->tk->notices[0].value;
    cr_assert_eq(f->tk->drop.count, 1);
    cr_assert_eq(f->tk->drop.v[0]->drop, why);
    testkit_clear(f->tk);
    return error;
}

/* ---- routes ---- */

Test(ip_route, longest_prefix_then_lowest_metric) {
    struct fixture f = fx_make();
    cr_assert_eq(fx_addr(&f, "192.168.1.1", 96 + 24, 1, 0), 0);
    cr_assert_eq(fx_addr(&f, "fd01::1", 64, 1, 0), 0);
    cr_assert_eq(fx_route_add(&f, "::", 0, "fd00::9", 0), 0);
    cr_assert_eq(fx_route_add(&f, "0.0.0.0", 96, "10.0.0.9", 0), 0);
    cr_assert_eq(fx_route_add(&f, "172.16.0.0", 96 + 12, "10.0.0.8", 0), 0);
    cr_assert_eq(fx_route_add(&f, "172.16.5.0", 96 + 24, "192.168.1.9", 1), 0);
    struct ip_cmd_route worse = fx_route("172.16.5.0", 96 + 24, "10.0.0.7", 0);
    worse.metric = 100;
    cr_assert_eq(testkit_command(f.tk, &f.ip, &worse).error, 0);
    cr_assert_eq(fx_route_add(&f, "172.16.5.5", 128, NULL, PORT_SLOT_KERNEL), 0);
    expect_route(&f, "10.0.0.77", "10.0.0.77", "10.0.0.1", 0); /* on link by the address's prefix */
    expect_route(&f, "192.168.1.5", "192.168.1.5", "192.168.1.1", 1);
    expect_route(&f, "8.8.8.8", "10.0.0.9", "10.0.0.1", 0);
    expect_route(&f, "172.20.1.1", "10.0.0.8", "10.0.0.1", 0);
    expect_route(&f, "172.16.5.1", "192.168.1.9", "192.168.1.1", 1);
    expect_route(&f, "2001:db8::1", "fd00::9", "fd00::1", 0);
    expect_route(&f, "fd01::77", "fd01::77", "fd01::1", 1);
    expect_route(&f, "10.0.0.1", "10.0.0.1", "10.0.0.1", PORT_SLOT_LOCAL);
    cr_assert_eq(look_up(&f, "172.16.5.5").port, PORT_SLOT_KERNEL);
    struct ip_cmd_route gone = fx_route("172.16.5.0", 96 + 24, "192.168.1.9", 1);
    gone.remove = true;
    cr_assert_eq(testkit_command(f.tk, &f.ip, &gone).error, 0);
    cr_assert_eq(testkit_command(f.tk, &f.ip, &gone).error, -ESRCH);
    expect_route(&f, "172.16.5.1", "10.0.0.7", "10.0.0.1", 0);
    fx_end(&f);
}

Test(ip_route, preferred_source_and_unreachable) {
    struct fixture f = fx_make();
    cr_assert_eq(fx_addr(&f, "10.0.0.33", 96 + 24, 0, 0), 0);
    struct ip_cmd_route r = fx_route("172.16.0.0", 96 + 12, "10.0.0.2", 0);
    r.source = testkit_addr("10.0.0.33");
    cr_assert_eq(testkit_command(f.tk, &f.ip, &r).error, 0);
    expect_route(&f, "172.16.0.1", "10.0.0.2", "10.0.0.33", 0);
    r = fx_route("172.17.0.0", 96 + 16, NULL, 0);
    r.unreachable = true;
    cr_assert_eq(testkit_command(f.tk, &f.ip, &r).error, 0);
    cr_assert_eq(look_up(&f, "172.17.0.1").error, -EHOSTUNREACH);
    cr_assert_eq(look_up(&f, "8.8.8.8").error, -ENETUNREACH);
    fx_output(&f, fx_datagram(&f, "::", "172.17.0.1", 10));
    cr_assert_eq(failed(&f, DROP_IP_NEIGH_FAILED), EHOSTUNREACH);
    fx_output(&f, fx_datagram(&f, "::", "8.8.8.8", 10));
    cr_assert_eq(failed(&f, DROP_IP_NO_ROUTE), ENETUNREACH);
    cr_assert_eq(fx_route_add(&f, "8.8.8.0", 96 + 24, NULL, PORT_SLOT_KERNEL), 0);
    fx_output(&f, fx_datagram(&f, "::", "8.8.8.8", 10));
    cr_assert_eq(failed(&f, DROP_IP_NO_ROUTE), ENETUNREACH);
    fx_end(&f);
}

Test(ip_route, what_only_the_kernel_reaches_goes_back) {
    struct fixture f = fx_make();
    cr_assert_eq(fx_route_add(&f, "8.8.8.0", 96 + 24, NULL, PORT_SLOT_KERNEL), 0);
    for (int i = 0; i < 2; i++) { /* resolved, then from the cache */
        struct pkt *p = fx_datagram(&f, "127.0.0.1", "8.8.8.8", 10);
        p->flags |= PKT_BOUNCE;
        fx_output(&f, p);
        cr_assert_eq(f.tk->up.count, 1);
        p = f.tk->up.v[0];
        cr_assert(p->flags & PKT_BOUNCED);
        cr_assert_eq(p->len, UDP_LEN + 10, "data is at the transport header");
        struct ipaddr from = testkit_addr("127.0.0.1");
        cr_assert(ipaddr_equal(&p->flow.local, &from), "the kernel judges the source");
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

Test(ip_route, link_local_sources_for_link_local_destinations) {
    struct fixture f = fx_make();
    cr_assert_eq(fx_addr(&f, "fe80::1", 64, 0, 0), 0);
    expect_route(&f, "fe80::77", "fe80::77", "fe80::1", 0);
    expect_route(&f, "fd00::77", "fd00::77", "fd00::1", 0);
    expect_route(&f, "ff02::5", "ff02::5", "fe80::1", 0);
    fx_end(&f);
}

Test(ip_route, commands_refuse_bad_arguments) {
    struct fixture f = fx_make();
    cr_assert_eq(fx_addr(&f, "10.0.0.5", 95, 0, 0), -EINVAL); /* IPv4 prefix shorter than the mapping */
    cr_assert_eq(fx_addr(&f, "10.0.0.5", 129, 0, 0), -EINVAL);
    cr_assert_eq(fx_addr(&f, "10.0.0.5", 120, PORT_SLOT_MAX, 0), -EINVAL);
    cr_assert_eq(fx_addr(&f, "0.0.0.0", 120, 0, 0), -EINVAL);
    cr_assert_eq(fx_route_add(&f, "10.1.0.0", 200, NULL, 0), -EINVAL);
    cr_assert_eq(fx_route_add(&f, "10.1.0.0", 112, NULL, 77), -EINVAL);
    cr_assert_eq(fx_neigh(&f, "10.0.0.9", 3), -EINVAL);
    struct ip_cmd_neigh n = {.cmd = {IP_CMD_NEIGH, sizeof n}, .addr = testkit_addr("10.0.0.9"), .port = 99, .state = 1};
    cr_assert_eq(testkit_command(f.tk, &f.ip, &n).error, -EINVAL);
    struct ip_cmd_addr a = {.cmd = {IP_CMD_ADDR, sizeof a}, .addr = testkit_addr("10.0.0.9"), .remove = true};
    cr_assert_eq(testkit_command(f.tk, &f.ip, &a).error, -EADDRNOTAVAIL);
    struct ip_cmd_lookup l = {.cmd = {IP_CMD_LOOKUP, sizeof l}};
    cr_assert_eq(testkit_command(f.tk, &f.ip, &l).error, -EINVAL);
    struct engine_cmd bad[3] = {{0, 100}, {77, 100}, {IP_CMD_ADDR, 12}};
    cr_assert_eq(testkit_command(f.tk, &f.ip, &bad[0]).error, -ENOTSUP);
    cr_assert_eq(testkit_command(f.tk, &f.ip, &bad[1]).error, -ENOTSUP);
    cr_assert_eq(testkit_command(f.tk, &f.ip, &bad[2]).error, -EINVAL);
    fx_end(&f);
}

Test(ip_route, full_tables_say_so) {
    struct fixture f = fx_make_with(&(struct ip_config){.addr_max = 4, .route_max = 2}, false);
    cr_assert_eq(fx_addr(&f, "10.0.1.1", 120, 0, 0), 0);
    cr_assert_eq(fx_addr(&f, "10.0.2.1", 120, 0, 0), -ENOSPC);
    cr_assert_eq(fx_addr(&f, "10.0.1.1", 112, 0, 0), 0); /* a change, not a new one */
    cr_assert_eq(fx_route_add(&f, "10.1.0.0", 112, NULL, 0), 0);
    cr_assert_eq(fx_route_add(&f, "10.2.0.0", 112, NULL, 0), 0);
    cr_assert_eq(fx_route_add(&f, "10.3.0.0", 112, NULL, 0), -ENOSPC);
    fx_end(&f);
}

Test(ip_route, flush_forgets_what_was_not_given_again) {
    struct fixture f = fx_make();
    struct ip_cmd_flush flush = {.cmd = {IP_CMD_FLUSH, sizeof flush}, .begin = true};
    cr_assert_eq(fx_route_add(&f, "172.16.0.0", 96 + 12, "10.0.0.2", 0), 0);
    cr_assert_eq(fx_route_add(&f, "172.31.0.0", 96 + 16, "10.0.0.2", 0), 0);
    cr_assert_eq(testkit_command(f.tk, &f.ip, &flush).error, 0);
    cr_assert_eq(fx_addr(&f, "10.0.0.1", 96 + 24, 0, 0), 0);
    cr_assert_eq(fx_route_add(&f, "172.16.0.0", 96 + 12, "10.0.0.2", 0), 0);
    cr_assert_eq(fx_neigh(&f, "10.0.0.2", 1), 0);
    flush.begin = false;
    cr_assert_eq(testkit_command(f.tk, &f.ip, &flush).error, 0);
    expect_route(&f, "172.31.0.1", "10.0.0.2", "10.0.0.1", 0); /* by the shorter prefix now */
    cr_assert_eq(look_up(&f, "fd00::2").error, -ENETUNREACH);  /* its address is gone */
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.2", 4));
    cr_assert_eq(f.tk->down.count, 1);
    testkit_clear(f.tk);
    fx_end(&f);
}

/* ---- sources, checksums, frames ---- */

Test(ip_output, writes_whole_frames) {
    struct fixture f = fx_make();
    static const uint32_t sizes[] = {0, 1, 2, 7, 8, 63, 1000, 1472};
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        for (int six = 0; six < 2; six++) {
            uint32_t len = six && sizes[i] > 1400 ? 1452 : sizes[i];
            fx_output(&f, fx_datagram(&f, "::", six ? "fd00::2" : "10.0.0.2", len));
            cr_assert_eq(f.tk->down.count, 1);
            const struct pkt *p = f.tk->down.v[0];
            cr_assert_eq(p->len, ETH_LEN + (six ? IP6_LEN : IP4_LEN) + UDP_LEN + len);
            cr_assert_eq(memcmp(p->data, fx_peer_mac, 6), 0);
            cr_assert_eq(memcmp(p->data + 6, f.tk->ports[0].mac, 6), 0);
            cr_assert_eq(be16_load(p->data + 12), six ? ETHERTYPE_IP6 : ETHERTYPE_IP4);
            cr_assert(testkit_csum_ok(p, ETH_LEN));
            cr_assert_not(p->flags & PKT_CSUM_PARTIAL);
            cr_assert_eq(p->port, 0);
            testkit_clear(f.tk);
        }
    }
    fx_end(&f);
}

Test(ip_output, leaves_the_sum_to_a_port_that_can) {
    struct fixture f = fx_make();
    f.tk->ports[0].caps = PORT_CAP_TX_CSUM;
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.2", 101));
    struct pkt *p = f.tk->down.v[0];
    cr_assert(p->flags & PKT_CSUM_PARTIAL);
    /* What the port does: sum from csum_start to the end, the field included, stored inverted. */
    uint8_t *field = p->buf + p->csum_start + p->csum_offset;
    uint16_t sum = (uint16_t)~csum_fold(csum_pkt(0, p, p->buf + p->csum_start));
    memcpy(field, &sum, 2);
    cr_assert(testkit_csum_ok(p, ETH_LEN));
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_output, payload_in_frags_is_summed_and_kept) {
    struct fixture f = fx_make();
    static const uint8_t a[] = "odd", b[] = "lengths everywhere";
    struct pkt *p = fx_datagram(&f, "::", "10.0.0.2", 5);
    p->frag[0] = (struct pkt_frag){.base = a, .len = 3};
    p->frag[1] = (struct pkt_frag){.base = b, .len = 17};
    p->frag_count = 2;
    p->frag_len = 20;
    be16_store(p->data + 4, UDP_LEN + 25);
    fx_output(&f, p);
    cr_assert_eq(p->frag_len, 20);
    cr_assert(testkit_csum_ok(p, ETH_LEN));
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_output, named_sources_must_be_ours) {
    static const struct {
        const char *from, *to;
        int error;
    } cases[] = {
        {"10.0.0.1", "10.0.0.2", 0},
        {"10.0.0.9", "10.0.0.2", EADDRNOTAVAIL},
        {"10.0.0.255", "10.0.0.2", EADDRNOTAVAIL},
        {"127.0.0.1", "10.0.0.2", EINVAL},
        {"fd00::1", "10.0.0.2", EADDRNOTAVAIL},
        {"10.0.0.1", "10.0.0.1", 0},
        {"127.0.0.1", "10.0.0.1", 0},
        {"fd00::9", "fd00::2", EADDRNOTAVAIL},
    };
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        fx_output(&f, fx_datagram(&f, cases[i].from, cases[i].to, 4));
        cr_assert_eq(f.tk->down.count, cases[i].error == 0, "case %u", i);
        if (cases[i].error != 0)
            cr_assert_eq(failed(&f, DROP_IP_NO_ROUTE), cases[i].error, "case %u", i);
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

Test(ip_output, downed_port_and_short_headroom) {
    struct fixture f = fx_make();
    f.tk->ports[0].up = false;
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.2", 4));
    cr_assert_eq(failed(&f, DROP_PORT_DOWN), ENETDOWN);
    f.tk->ports[0].up = true;
    struct pkt *p = fx_datagram(&f, "::", "10.0.0.2", 4);
    p->data = p->buf + 20;
    fx_output(&f, p);
    cr_assert_eq(fx_dropped(&f), DROP_NO_BUFFER);
    fx_end(&f);
}

Test(ip_output, layer3_port_has_no_link_header) {
    struct fixture f = fx_make();
    f.tk->ports[0].caps = PORT_CAP_L3;
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.77", 4)); /* nobody to resolve */
    cr_assert_eq(f.tk->down.count, 1);
    cr_assert_eq(f.tk->down.v[0]->data[0], 0x45);
    cr_assert(testkit_csum_ok(f.tk->down.v[0], 0));
    testkit_clear(f.tk);
    fx_end(&f);
}

/* ---- larger than the path ---- */

/* Feeds what went down into a second host, 10.0.0.2 and fd00::2, and returns what comes up there. */
static struct pkt *across(struct fixture *f, struct fixture *peer) {
    while (f->tk->down.count > 0) {
        struct pkt *p = testkit_take(&f->tk->down, 0);
        struct pkt *q = testkit_raw(peer->tk, p->data, p->len);
        testkit_put(p);
        fx_input(peer, q);
    }
    return peer->tk->up.count == 1 ? peer->tk->up.v[0] : NULL;
}

static struct fixture peer_make(void) {
    struct fixture f = {.tk = testkit_create()};
    testkit_open(&f.ip, &usher_engine_ip, NULL, 12);
    cr_assert_eq(fx_addr(&f, "10.0.0.2", 96 + 24, 0, 0), 0);
    cr_assert_eq(fx_addr(&f, "fd00::2", 64, 0, 0), 0);
    return f;
}

Test(ip_cut, fragments_meet_again_at_the_peer) {
    static const uint32_t sizes[] = {1473, 1480, 2000, 2961, 8000, 65507};
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        for (int six = 0; six < 2; six++) {
            struct fixture f = fx_make(), peer = peer_make();
            fx_output(&f, fx_datagram(&f, "::", six ? "fd00::2" : "10.0.0.2", sizes[i]));
            cr_assert_geq(f.tk->down.count, 2);
            cr_assert_eq(f.tk->done.count, 1);
            for (uint32_t k = 0; k < f.tk->down.count; k++) {
                cr_assert_leq(f.tk->down.v[k]->len, 1500 + ETH_LEN);
                cr_assert(f.tk->down.v[k]->flags & PKT_FRAGMENT);
            }
            const struct pkt *p = across(&f, &peer);
            cr_assert_not_null(p, "size %u v6 %d", sizes[i], six);
            cr_assert_eq(p->len, sizes[i] + UDP_LEN);
            cr_assert_eq(csum_fold(csum_pkt(csum_pseudo(&p->flow, p->len), p, p->data)), 0xffff);
            cr_assert_eq(p->data[UDP_LEN + 1400], (uint8_t)(1400 * 7));
            cr_assert_not(p->flags & PKT_FRAGMENT);
            testkit_clear(f.tk);
            testkit_clear(peer.tk);
            fx_end(&f);
            fx_end(&peer);
        }
    }
}

Test(ip_cut, dont_fragment_is_an_error_with_the_mtu) {
    struct fixture f = fx_make();
    struct pkt *p = fx_datagram(&f, "::", "10.0.0.2", 1473);
    p->flags |= PKT_DONT_FRAGMENT;
    fx_output(&f, p);
    cr_assert_eq(f.tk->notices[0].extra, 1500);
    cr_assert_eq(failed(&f, DROP_IP_TOO_BIG), EMSGSIZE);
    p = fx_datagram(&f, "::", "10.0.0.2", 1472);
    p->flags |= PKT_DONT_FRAGMENT;
    fx_output(&f, p);
    cr_assert_eq(f.tk->down.count, 1);
    cr_assert_eq(be16_load(f.tk->down.v[0]->data + ETH_LEN + 6), 0x4000);
    testkit_clear(f.tk);
    fx_end(&f);
}

static struct pkt *gso(struct fixture *f, uint32_t len, uint16_t size) {
    struct pkt *p = fx_datagram(f, "::", "10.0.0.2", len);
    p->flags |= PKT_GSO;
    p->gso_type = PKT_GSO_UDP;
    p->gso_size = size;
    return p;
}

Test(ip_cut, gso_is_cut_where_the_port_cannot) {
    static const struct {
        uint32_t len;
        uint16_t size;
    } cases[] = {{3000, 1000}, {3001, 1000}, {2999, 1000}, {100, 1}, {64000, 1000}, {2944, 1472}};
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f = fx_make();
        uint32_t len = cases[i].len == 100 ? 64 : cases[i].len, size = cases[i].size;
        fx_output(&f, gso(&f, len, (uint16_t)size));
        cr_assert_eq(f.tk->down.count, (len + size - 1) / size, "case %u", i);
        cr_assert_eq(f.tk->done.count, 1);
        for (uint32_t k = 0, at = 0; k < f.tk->down.count; k++) {
            const struct pkt *p = f.tk->down.v[k];
            uint32_t n = len - at < size ? len - at : size;
            cr_assert_eq(p->len, ETH_LEN + IP4_LEN + UDP_LEN + n);
            cr_assert_eq(be16_load(p->data + ETH_LEN + IP4_LEN + 4), n + UDP_LEN);
            cr_assert_eq(p->data[ETH_LEN + IP4_LEN + UDP_LEN], (uint8_t)(at * 7));
            cr_assert(testkit_csum_ok(p, ETH_LEN));
            at += n;
        }
        testkit_clear(f.tk);
        fx_end(&f);
    }
}

Test(ip_cut, gso_passes_whole_to_a_port_that_can) {
    struct fixture f = fx_make();
    f.tk->ports[0].caps = PORT_CAP_TX_GSO_UDP | PORT_CAP_TX_CSUM;
    fx_output(&f, gso(&f, 64000, 1000));
    cr_assert_eq(f.tk->down.count, 1);
    cr_assert(f.tk->down.v[0]->flags & PKT_GSO);
    testkit_clear(f.tk);
    fx_output(&f, gso(&f, 3000, 1473)); /* pieces that do not fit are nobody's to send */
    cr_assert_eq(failed(&f, DROP_IP_TOO_BIG), EMSGSIZE);
    struct pkt *tcp = gso(&f, 3000, 1000);
    tcp->gso_type = PKT_GSO_TCP4;
    tcp->data[12] = 5 << 4;
    fx_output(&f, tcp);
    cr_assert_eq(failed(&f, DROP_IP_TOO_BIG),
                 EMSGSIZE); /* the transport saw the port's caps and asks for it all the same */
    fx_end(&f);
}

Test(ip_cut, waits_for_room_and_keeps_the_order) {
    struct fixture f = fx_make();
    struct pkt *burst[8];
    for (uint32_t i = 0; i < 6; i++)
        burst[i] = gso(&f, 4800, 100); /* 48 pieces each: 288 in all */
    burst[6] = fx_datagram(&f, "::", "10.0.0.2", 33);
    burst[7] = fx_datagram(&f, "::", "127.0.0.1", 34); /* overtakes: it goes another way */
    testkit_output(f.tk, &f.ip, burst, 8);
    cr_assert_eq(f.ip.ops->next_deadline(f.ip.st), 0);
    uint32_t pieces = 0, rounds = 0;
    bool last_seen = false;
    for (; f.tk->down.count > 0; rounds++) {
        for (uint32_t i = 0; i < f.tk->down.count; i++) {
            const struct pkt *p = f.tk->down.v[i];
            if (p->flags & PKT_LOCAL)
                continue;
            cr_assert_not(last_seen);
            last_seen = p->len == ETH_LEN + IP4_LEN + UDP_LEN + 33;
            pieces += !last_seen;
        }
        testkit_clear(f.tk);
        (void)testkit_run(f.tk, &f.ip, 64);
    }
    cr_assert_eq(pieces, 288);
    cr_assert(last_seen);
    cr_assert_geq(rounds, 2);
    cr_assert_neq(f.ip.ops->next_deadline(f.ip.st), 0);
    fx_end(&f);
}

Test(ip_cut, out_of_buffers) {
    struct fixture f = fx_make();
    struct pkt *held[TESTKIT_SMALL], *p = gso(&f, 4800, 100);
    uint32_t n = 0;
    while (f.tk->small.free_count > 5)
        held[n++] = pkt_alloc(&f.tk->small);
    fx_output(&f, p);
    cr_assert_eq(f.tk->down.count, 5);
    cr_assert_eq(f.tk->drop.v[0]->drop, DROP_NO_BUFFER);
    testkit_clear(f.tk);
    while (n > 0)
        testkit_put(held[--n]);
    fx_end(&f);
}

/* ---- groups and broadcast ---- */

Test(ip_group, mac_and_local_copy) {
    static const struct {
        const char *to;
        uint8_t mac[6];
    } cases[] = {{"239.129.2.3", {1, 0, 0x5e, 1, 2, 3}}, {"ff02::1:2", {0x33, 0x33, 0, 1, 0, 2}}};
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < 2; i++) {
        fx_output(&f, fx_datagram(&f, "::", cases[i].to, 9));
        cr_assert_eq(f.tk->down.count, 1);
        cr_assert_eq(memcmp(f.tk->down.v[0]->data, cases[i].mac, 6), 0);
        testkit_clear(f.tk);
        struct pkt *p = fx_datagram(&f, "::", cases[i].to, 9);
        p->flags |= PKT_MCAST_LOOP;
        p->ttl = 1;
        fx_output(&f, p);
        cr_assert_eq(f.tk->down.count, 2);
        cr_assert(f.tk->down.v[0]->flags & PKT_LOCAL);
        cr_assert_not(f.tk->down.v[1]->flags & (PKT_LOCAL | PKT_MCAST_LOOP));
        p = testkit_take(&f.tk->down, 0);
        fx_input(&f, p);
        cr_assert_eq(f.tk->up.count, 1);
        cr_assert_eq(p->len, UDP_LEN + 9);
        testkit_clear(f.tk);
        p = fx_datagram(&f, "::", cases[i].to, 9);
        p->flags |= PKT_MCAST_LOOP;
        p->ttl = 0; /* stays here */
        fx_output(&f, p);
        cr_assert_eq(f.tk->down.count, 1);
        cr_assert(f.tk->down.v[0]->flags & PKT_LOCAL);
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

Test(ip_group, broadcast_needs_permission) {
    static const char *const to[] = {"255.255.255.255", "10.0.0.255"};
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < 2; i++) {
        struct pkt *p = fx_datagram(&f, "::", to[i], 9);
        fx_output(&f, p);
        cr_assert_eq(failed(&f, DROP_UDP_BAD_SEND), EACCES);
        p = fx_datagram(&f, "::", to[i], 9);
        p->flags |= PKT_BROADCAST;
        fx_output(&f, p);
        cr_assert_eq(f.tk->down.count, 1, "%s", to[i]);
        cr_assert_eq(memcmp(f.tk->down.v[0]->data, "\xff\xff\xff\xff\xff\xff", 6), 0);
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

/* ---- next hops of a shared interface ---- */

Test(ip_neigh, packets_wait_and_go_in_order) {
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < 3; i++)
        fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", i));
    cr_assert_eq(f.tk->down.count, 0);
    cr_assert_eq(f.tk->io.event_count, 1);
    struct ipaddr who = testkit_addr("10.0.0.50");
    cr_assert(f.tk->events[0].kind == EVENT_NEIGH_WANTED && ipaddr_equal(&f.tk->events[0].addr, &who));
    cr_assert_eq(testkit_missing(f.tk), 3);
    cr_assert_eq(fx_neigh(&f, "10.0.0.50", 1), 0);
    cr_assert_eq(f.tk->down.count, 3);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(f.tk->down.v[i]->len, ETH_LEN + IP4_LEN + UDP_LEN + i);
    testkit_clear(f.tk);
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1)); /* known now */
    cr_assert_eq(f.tk->down.count, 1);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_neigh, the_queue_is_bounded) {
    struct fixture f = fx_make_with(&(struct ip_config){.neigh_queue_max = 4}, false);
    for (uint32_t i = 0; i < 6; i++)
        fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", i));
    cr_assert_eq(f.tk->drop.count, 2);
    cr_assert_eq(f.tk->drop.v[0]->drop, DROP_IP_NEIGH_PENDING);
    testkit_clear(f.tk);
    fx_end(&f); /* and what waits is handed back at the end */
}

Test(ip_neigh, more_may_wait_than_one_fini_can_drop) {
    struct ip_config cfg = {.neigh_queue_max = NEIGH_QUEUE_LIMIT};
    struct fixture f = fx_make_with(&cfg, false);
    char text[32];
    for (uint32_t i = 0; i < 6 * NEIGH_QUEUE_LIMIT; i++) {
        (void)snprintf(text, sizeof text, "10.0.0.%u", 20 + i / NEIGH_QUEUE_LIMIT);
        fx_output(&f, fx_datagram(&f, "::", text, 10));
    }
    cr_assert_eq(f.tk->drop.count, 0);
    cr_assert_eq(testkit_missing(f.tk), 6 * NEIGH_QUEUE_LIMIT);
    fx_end(&f); /* misses none */
}

Test(ip_neigh, asks_again_and_gives_up) {
    struct fixture f = fx_make();
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1));
    for (uint32_t i = 0; i < 2; i++) {
        testkit_clear(f.tk);
        for (uint32_t wakes = 0; f.tk->io.event_count == 0; wakes++) {
            cr_assert_lt(wakes, 7);
            f.tk->io.now = f.ip.ops->next_deadline(f.ip.st);
            (void)testkit_run(f.tk, &f.ip, 64);
        }
    }
    testkit_clear(f.tk);
    ns_t before = f.tk->io.now;
    while (f.tk->drop.count == 0) {
        f.tk->io.now = f.ip.ops->next_deadline(f.ip.st);
        (void)testkit_run(f.tk, &f.ip, 64);
    }
    cr_assert_leq(f.tk->io.now, before + 2 * NS_PER_SEC);
    cr_assert_eq(failed(&f, DROP_IP_NEIGH_FAILED), EHOSTUNREACH);
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1)); /* refused at once for a while */
    cr_assert_eq(failed(&f, DROP_IP_NEIGH_FAILED), EHOSTUNREACH);
    f.tk->io.now += 4 * NS_PER_SEC;
    (void)testkit_run(f.tk, &f.ip, 64);
    testkit_clear(f.tk);
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1)); /* then asked for anew */
    cr_assert_eq(f.tk->io.event_count, 1);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_neigh, control_says_that_it_failed) {
    struct fixture f = fx_make();
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1));
    testkit_clear(f.tk);
    cr_assert_eq(fx_neigh(&f, "10.0.0.50", 0), 0);
    cr_assert_eq(failed(&f, DROP_IP_NEIGH_FAILED), EHOSTUNREACH);
    cr_assert_eq(fx_neigh(&f, "10.0.0.50", 1), 0); /* and later that it is back */
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1));
    cr_assert_eq(f.tk->down.count, 1);
    testkit_clear(f.tk);
    cr_assert_eq(fx_neigh(&f, "10.0.0.50", 2), 0); /* gone: asked for when needed */
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1));
    cr_assert_eq(f.tk->down.count, 0);
    cr_assert_eq(f.tk->events[f.tk->io.event_count - 1].kind, EVENT_NEIGH_WANTED);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_neigh, unused_ones_are_given_back) {
    struct fixture f = fx_make();
    fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1));
    cr_assert_eq(fx_neigh(&f, "10.0.0.50", 1), 0);
    testkit_clear(f.tk);
    bool given_back = false;
    for (uint32_t minute = 0; minute < 8; minute++) {
        if (minute < 4)
            fx_output(&f, fx_datagram(&f, "::", "10.0.0.50", 1));
        f.tk->io.now += 60 * NS_PER_SEC + 10 * NS_PER_MS;
        (void)testkit_run(f.tk, &f.ip, 64);
        for (uint32_t i = 0; i < f.tk->io.event_count; i++)
            given_back |= f.tk->events[i].kind == EVENT_NEIGH_UNUSED;
        cr_assert_not(minute < 4 && given_back);
        testkit_clear(f.tk);
    }
    cr_assert(given_back);
    fx_end(&f);
}

Test(ip_neigh, a_full_table_gives_way_or_refuses) {
    struct fixture f = fx_make_with(&(struct ip_config){.neigh_max = 4}, false);
    char addr[16];
    for (uint32_t i = 0; i < 40; i++) {
        snprintf(addr, sizeof addr, "10.0.0.%u", 100 + i);
        fx_output(&f, fx_datagram(&f, "::", addr, 1));
        cr_assert_eq(f.ip.ops->check(f.ip.st), 0);
    }
    cr_assert_leq(testkit_missing(f.tk), 4);
    cr_assert_geq(f.tk->io.notice_count, 36);
    testkit_clear(f.tk);
    fx_end(&f);
}
