/* SPDX-License-Identifier: Apache-2.0
 *
 * What ip lets up, and under which name it drops the rest. Tables of one good frame and what spoils it.
 */
#include "engines/ip/ip_fixture.h"

#define EH (ETH_LEN) /* the IP header's place in a frame */

static struct pkt *frame(struct fixture *f, bool six) {
    struct flow flow = six ? testkit_flow("fd00::1", 7, "fd00::2", 9) : testkit_flow("10.0.0.1", 7, "10.0.0.2", 9);
    return testkit_udp_frame(f->tk, &flow, "abcd", 4);
}

/* ---- good ones ---- */

Test(ip_input, fills_what_transports_need) {
    struct fixture f = fx_make();
    for (int six = 0; six < 2; six++) {
        struct pkt *p = frame(&f, six);
        uint32_t head = six ? IP6_LEN : IP4_LEN;
        struct flow want = six ? testkit_flow("fd00::1", 0, "fd00::2", 0) : testkit_flow("10.0.0.1", 0, "10.0.0.2", 0);
        fx_input(&f, p);
        cr_assert_eq(f.tk->up.count, 1);
        cr_assert_eq(p->len, UDP_LEN + 4);
        cr_assert_eq(p->l4_off - p->l3_off, head);
        cr_assert_eq(p->l4_off, p->data - p->buf);
        cr_assert(p->ip_version == (six ? 6 : 4) && p->ttl == 64 && p->tos == 0);
        cr_assert_eq(memcmp(&p->flow, &want, sizeof want), 0);
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

Test(ip_input, cuts_padding) {
    struct fixture f = fx_make();
    for (int six = 0; six < 2; six++) {
        struct pkt *p = frame(&f, six);
        memset(p->data + p->len, 0xee, 20);
        p->len += 20;
        fx_input(&f, p);
        cr_assert_eq(p->len, UDP_LEN + 4);
        testkit_clear(f.tk);
    }
    struct pkt *p = frame(&f, false); /* padding that lies in a frag, and one frag that is all padding */
    static const uint8_t pad[8];
    p->len -= 2;
    p->frag[0] = (struct pkt_frag){.base = p->data + p->len, .len = 5};
    p->frag[1] = (struct pkt_frag){.base = pad, .len = 8};
    p->frag_count = 2;
    p->frag_len = 13;
    fx_input(&f, p);
    cr_assert(p->len == UDP_LEN + 2 && p->frag_len == 2 && p->frag_count == 1);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_input, vlan_tag) {
    struct fixture f = fx_make();
    struct pkt *p = frame(&f, false);
    uint8_t *h = pkt_push(p, VLAN_LEN);
    memmove(h, h + VLAN_LEN, 12);
    be16_store(h + 12, ETHERTYPE_VLAN);
    be16_store(h + 14, 0x6005);
    fx_input(&f, p);
    cr_assert_eq(f.tk->up.count, 1);
    cr_assert((p->flags & PKT_VLAN) && p->vlan == 0x6005);
    testkit_clear(f.tk);
    p = frame(&f, false);
    be16_store(p->data + 12, ETHERTYPE_VLAN);
    p->len = ETH_LEN + 3;
    cr_assert_eq(fx_input_drop(&f, p), DROP_ETH_TRUNCATED);
    fx_end(&f);
}

Test(ip_input, layer3_port) {
    struct fixture f = fx_make();
    f.tk->ports[0].caps = PORT_CAP_L3;
    for (int six = 0; six < 2; six++) {
        struct pkt *p = frame(&f, six);
        pkt_pull(p, ETH_LEN);
        fx_input(&f, p);
        cr_assert_eq(f.tk->up.count, 1);
        testkit_clear(f.tk);
    }
    struct pkt *p = testkit_raw(f.tk, "\x50", 1);
    cr_assert_eq(fx_input_drop(&f, p), DROP_IP_VERSION);
    p = testkit_raw(f.tk, "", 0);
    cr_assert_eq(fx_input_drop(&f, p), DROP_IP_TRUNCATED);
    fx_end(&f);
}

Test(ip_input, congestion_mark) {
    struct fixture f = fx_make();
    struct pkt *p = frame(&f, false);
    p->data[EH + 1] = 0x2b;
    testkit_fix_ip4(p->data + EH);
    fx_input(&f, p);
    cr_assert(p->tos == 0x2b && (p->flags & PKT_ECN_CE));
    testkit_clear(f.tk);
    p = frame(&f, true);
    be32_store(p->data + EH, 6u << 28 | 0x2bu << 20 | 12345);
    fx_input(&f, p);
    cr_assert(p->tos == 0x2b && (p->flags & PKT_ECN_CE));
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_input, groups_and_broadcasts) {
    struct fixture f = fx_make();
    static const char *const to[] = {"239.1.2.3", "255.255.255.255", "10.0.0.255", "ff02::fb"};
    for (uint32_t i = 0; i < ARRAY_LEN(to); i++) {
        struct flow flow = testkit_flow(to[i], 7, i == 3 ? "fd00::2" : "10.0.0.2", 9);
        struct pkt *p = testkit_udp_frame(f.tk, &flow, "a", 1);
        memset(p->data, 0xff, 6);
        fx_input(&f, p);
        cr_assert_eq(f.tk->up.count, 1, "%s", to[i]);
        cr_assert(p->flags & PKT_BROADCAST);
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

/* ---- bad ones ---- */

typedef void spoil_fn(struct pkt *p);

static void s_eth13(struct pkt *p) {
    p->len = 13;
}
static void s_eth0(struct pkt *p) {
    p->len = 0;
}
static void s_type(struct pkt *p) {
    be16_store(p->data + 12, 0x88cc);
}
static void s_arp(struct pkt *p) {
    be16_store(p->data + 12, ETHERTYPE_ARP);
} /* shared: the kernel's */
static void s_cut(struct pkt *p) {
    p->len = EH + 19;
}
static void s_cut_payload(struct pkt *p) {
    p->len -= 1;
}
static void s_version(struct pkt *p) {
    p->data[EH] = 0x75;
}
static void s_ihl4(struct pkt *p) {
    p->data[EH] = 0x44;
}
static void s_ihl_long(struct pkt *p) {
    p->data[EH] = 0x4f;
    p->len = EH + 40;
}
static void s_total_short(struct pkt *p) {
    be16_store(p->data + EH + 2, 19);
    testkit_fix_ip4(p->data + EH);
}
static void s_total_long(struct pkt *p) {
    be16_store(p->data + EH + 2, 2000);
    testkit_fix_ip4(p->data + EH);
}
static void s_sum(struct pkt *p) {
    p->data[EH + 10] ^= 1;
}
static void set4(struct pkt *p, uint32_t at, const char *addr) {
    struct ipaddr a = testkit_addr(addr);
    memcpy(p->data + EH + at, &a.b[12], 4);
    testkit_fix_ip4(p->data + EH);
}
static void s_src_zero(struct pkt *p) {
    set4(p, 12, "0.1.2.3");
}
static void s_src_loop(struct pkt *p) {
    set4(p, 12, "127.0.0.1");
}
static void s_src_group(struct pkt *p) {
    set4(p, 12, "224.0.0.1");
}
static void s_src_ones(struct pkt *p) {
    set4(p, 12, "255.255.255.255");
}
static void s_src_own(struct pkt *p) {
    set4(p, 12, "10.0.0.1");
}
static void s_src_bcast(struct pkt *p) {
    set4(p, 12, "10.0.0.255");
}
static void s_dst_zero(struct pkt *p) {
    set4(p, 16, "0.0.0.0");
}
static void s_dst_loop(struct pkt *p) {
    set4(p, 16, "127.0.0.1");
}
static void s_dst_other(struct pkt *p) {
    set4(p, 16, "10.0.0.77");
}

Test(ip_input, every_reason_v4) {
    static const struct {
        spoil_fn *spoil;
        enum drop_reason why;
    } cases[] = {
        {s_eth0, DROP_ETH_TRUNCATED},      {s_eth13, DROP_ETH_TRUNCATED},
        {s_type, DROP_ETH_TYPE},           {s_arp, DROP_ETH_TYPE},
        {s_cut, DROP_IP_TRUNCATED},        {s_cut_payload, DROP_IP_TRUNCATED},
        {s_version, DROP_IP_VERSION},      {s_ihl4, DROP_IP_HEADER_LEN},
        {s_ihl_long, DROP_IP_HEADER_LEN},  {s_total_short, DROP_IP_TRUNCATED},
        {s_total_long, DROP_IP_TRUNCATED}, {s_sum, DROP_IP_CHECKSUM},
        {s_src_zero, DROP_IP_MARTIAN},     {s_src_loop, DROP_IP_MARTIAN},
        {s_src_group, DROP_IP_MARTIAN},    {s_src_ones, DROP_IP_MARTIAN},
        {s_src_own, DROP_IP_MARTIAN},      {s_src_bcast, DROP_IP_MARTIAN},
        {s_dst_zero, DROP_IP_MARTIAN},     {s_dst_loop, DROP_IP_MARTIAN},
        {s_dst_other, DROP_IP_NOT_LOCAL},
    };
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (int warm = 0; warm < 2; warm++) { /* with and without a good packet just before */
            if (warm)
                cr_assert_eq(fx_input_drop(&f, frame(&f, false)), DROP_NONE);
            struct pkt *p = frame(&f, false);
            cases[i].spoil(p);
            cr_assert_eq(fx_input_drop(&f, p), cases[i].why, "case %u", i);
        }
    }
    fx_end(&f);
}

static void set6(struct pkt *p, uint32_t at, const char *addr) {
    static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1};
    struct ipaddr a = testkit_addr(addr);
    memcpy(p->data + EH + at, addr[0] == '1' ? mapped : a.b, 16);
}
static void s6_cut(struct pkt *p) {
    p->len = EH + 39;
}
static void s6_long(struct pkt *p) {
    be16_store(p->data + EH + 4, 13);
}
static void s6_version(struct pkt *p) {
    p->data[EH] = 0x50;
}
static void s6_src_group(struct pkt *p) {
    set6(p, 8, "ff02::1");
}
static void s6_src_loop(struct pkt *p) {
    set6(p, 8, "::1");
}
static void s6_src_any(struct pkt *p) {
    set6(p, 8, "::");
}
static void s6_src_mapped(struct pkt *p) {
    set6(p, 8, "10.0.0.1");
}
static void s6_src_own(struct pkt *p) {
    set6(p, 8, "fd00::1");
}
static void s6_dst_loop(struct pkt *p) {
    set6(p, 24, "::1");
}
static void s6_dst_any(struct pkt *p) {
    set6(p, 24, "::");
}
static void s6_dst_mapped(struct pkt *p) {
    set6(p, 24, "10.0.0.1");
}
static void s6_dst_other(struct pkt *p) {
    set6(p, 24, "fd00::77");
}
static void s6_no_next(struct pkt *p) {
    p->data[EH + 6] = 59;
}

Test(ip_input, every_reason_v6) {
    static const struct {
        spoil_fn *spoil;
        enum drop_reason why;
    } cases[] = {
        {s6_cut, DROP_IP_TRUNCATED},      {s6_long, DROP_IP_TRUNCATED},     {s6_version, DROP_IP_VERSION},
        {s6_src_group, DROP_IP_MARTIAN},  {s6_src_loop, DROP_IP_MARTIAN},   {s6_src_any, DROP_IP_MARTIAN},
        {s6_src_mapped, DROP_IP_MARTIAN}, {s6_src_own, DROP_IP_MARTIAN},    {s6_dst_loop, DROP_IP_MARTIAN},
        {s6_dst_any, DROP_IP_MARTIAN},    {s6_dst_mapped, DROP_IP_MARTIAN}, {s6_dst_other, DROP_IP_NOT_LOCAL},
        {s6_no_next, DROP_IP_OPTIONS},
    };
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct pkt *p = frame(&f, true);
        cases[i].spoil(p);
        cr_assert_eq(fx_input_drop(&f, p), cases[i].why, "case %u", i);
    }
    fx_end(&f);
}

/* ---- options and extension headers ---- */

static struct pkt *with_options(struct fixture *f, const uint8_t *options, uint32_t len) {
    struct pkt *p = frame(f, false);
    uint8_t *h = pkt_push(p, len);
    memmove(h, h + len, ETH_LEN + IP4_LEN);
    memcpy(h + ETH_LEN + IP4_LEN, options, len);
    h[EH] = (uint8_t)(0x45 + len / 4);
    be16_store(h + EH + 2, (uint16_t)(p->len - ETH_LEN));
    testkit_fix_ip4(h + EH);
    return p;
}

Test(ip_input, ipv4_options) {
    static const struct {
        uint8_t bytes[12];
        uint8_t len;
        enum drop_reason why;
    } cases[] = {
        {{1, 1, 1, 0}, 4, DROP_NONE},             /* no-ops, end */
        {{0, 131, 0, 0}, 4, DROP_NONE},           /* after the end anything */
        {{148, 4, 0, 0}, 4, DROP_NONE},           /* router alert */
        {{7, 7, 4, 0, 0, 0, 0, 0}, 8, DROP_NONE}, /* record route: skipped */
        {{131, 7, 4, 0, 0, 0, 0, 0}, 8, DROP_IP_OPTIONS},
        {{137, 7, 4, 0, 0, 0, 0, 0}, 8, DROP_IP_OPTIONS},
        {{1, 1, 1, 7}, 4, DROP_IP_OPTIONS}, /* length missing */
        {{7, 0, 0, 0}, 4, DROP_IP_OPTIONS}, /* length 0 */
        {{7, 1, 0, 0}, 4, DROP_IP_OPTIONS}, /* length 1 */
        {{7, 5, 0, 0}, 4, DROP_IP_OPTIONS}, /* longer than the header */
    };
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_assert_eq(fx_input_drop(&f, with_options(&f, cases[i].bytes, cases[i].len)), cases[i].why, "case %u", i);
    fx_end(&f);
}

static struct pkt *with_extensions(struct fixture *f, uint8_t first, const uint8_t *ext, uint32_t len) {
    struct pkt *p = frame(f, true);
    uint8_t *h = p->data;
    memmove(h + ETH_LEN + IP6_LEN + len, h + ETH_LEN + IP6_LEN, p->len - ETH_LEN - IP6_LEN);
    memcpy(h + ETH_LEN + IP6_LEN, ext, len);
    p->len += len;
    h[EH + 6] = first;
    be16_store(h + EH + 4, (uint16_t)(p->len - ETH_LEN - IP6_LEN));
    return p;
}

Test(ip_input, ipv6_extension_headers) {
    static const struct {
        uint8_t first;
        uint8_t bytes[24];
        uint8_t len;
        enum drop_reason why;
    } cases[] = {
        {0, {17, 0, 1, 4}, 8, DROP_NONE},             /* hop-by-hop with padding */
        {0, {17, 0, 0, 0, 0, 0, 0, 0}, 8, DROP_NONE}, /* single-byte padding */
        {60, {17, 0, 1, 4}, 8, DROP_NONE},            /* destination options */
        {0, {60, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4}, 16, DROP_NONE},
        {43, {17, 0, 0, 0}, 8, DROP_NONE},                                /* routing, no segments left */
        {43, {17, 0, 0, 1}, 8, DROP_IP_OPTIONS},                          /* segments left */
        {60, {0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4}, 16, DROP_IP_OPTIONS}, /* hop-by-hop not first */
        {0, {17, 0, 0x05, 2, 0, 0, 1, 0}, 8, DROP_NONE},                  /* router alert: may be skipped */
        {0, {17, 0, 0x45, 4}, 8, DROP_IP_OPTIONS},                        /* unknown: discard */
        {0, {17, 0, 0xc2, 4}, 8, DROP_IP_OPTIONS},                        /* jumbo */
        {0, {17, 0, 1, 5}, 8, DROP_IP_OPTIONS},                           /* option longer than its header */
        {0, {17, 0, 1, 3, 0, 0, 0, 1}, 8, DROP_IP_OPTIONS},               /* option without a length */
        {0, {17, 9, 1, 4}, 8, DROP_IP_TRUNCATED},                         /* header longer than the packet */
        {44, {17, 0, 0, 0, 1, 2, 3, 4}, 8, DROP_NONE},                    /* atomic fragment */
    };
    struct fixture f = fx_make();
    for (uint32_t i = 0; i < ARRAY_LEN(cases); i++)
        cr_assert_eq(fx_input_drop(&f, with_extensions(&f, cases[i].first, cases[i].bytes, cases[i].len)), cases[i].why,
                     "case %u", i);
    uint8_t many[80];
    for (uint32_t i = 0; i < 10; i++)
        memcpy(many + 8 * i, i == 9 ? "\x11\0\1\4\0\0\0\0" : "\x3c\0\1\4\0\0\0\0", 8);
    cr_assert_eq(fx_input_drop(&f, with_extensions(&f, 60, many, 80)), DROP_IP_OPTIONS); /* more than eight */
    fx_end(&f);
}

/* ---- local packets ---- */

Test(ip_input, local_packets_take_the_short_way) {
    struct fixture f = fx_make();
    struct flow flow = testkit_flow("127.0.0.1", 7, "127.0.0.1", 9);
    struct pkt *p = testkit_udp_packet(f.tk, &flow, "abc", 3);
    p->flags = PKT_LOCAL;
    p->port = PORT_SLOT_LOCAL;
    p->data[10] ^= 1; /* nobody looks at the sum */
    fx_input(&f, p);
    cr_assert_eq(f.tk->up.count, 1);
    cr_assert(p->flags & PKT_LOCAL);
    testkit_clear(f.tk);
    p = testkit_udp_packet(f.tk, &flow, "abc", 3);
    p->flags = PKT_LOCAL;
    p->len = 12;
    cr_assert_eq(fx_input_drop(&f, p), DROP_IP_TRUNCATED);
    fx_end(&f);
}

/* ---- anything at all ---- */

Test(ip_random, bytes_never_leak_or_crash) {
    struct fixture f =
        fx_make_with(&(struct ip_config){.reassembly_max = 4, .neigh_max = 16, .neigh_queue_max = 2}, true);
    uint64_t seed = 23;
    uint32_t up = 0;
    for (uint32_t i = 0; i < 60000; i++) {
        struct pkt *p = frame(&f, i & 1);
        if (i % 7 == 0)
            be16_store(p->data + 12, ETHERTYPE_ARP);
        if (i % 5 == 0)
            p->data[EH + (i & 1 ? 6 : 9)] = i & 1 ? (uint8_t)(i % 3 ? 58 : 44) : 1;
        for (uint32_t k = 0; k < 1 + i % 6; k++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            p->data[(seed >> 33) % p->len] = (uint8_t)(seed >> 50);
        }
        if (!(i & 1) && p->data[EH] >> 4 == 4 && (seed >> 20) % 8 != 0)
            testkit_fix_ip4(p->data + EH);
        if ((seed >> 10) % 16 == 0)
            p->len = (uint32_t)(seed >> 40) % (p->len + 1);
        fx_input(&f, p);
        if ((seed >> 5) % 64 == 0) {
            f.tk->io.now += (seed >> 44) * NS_PER_MS;
            (void)testkit_run(f.tk, &f.ip, 64);
        }
        up += f.tk->up.count;
        testkit_clear(f.tk);
        cr_assert_leq(testkit_missing(f.tk), 4 * IP_FRAG_PIECES + 32);
    }
    cr_assert_gt(up, 1000);
    fx_end(&f);
}
