/* SPDX-License-Identifier: Apache-2.0
 *
 * The canonical parse: one frame for each thing about which devices disagree, and no frame that makes it read too far.
 */
#include "nicbackend/ir/view.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

struct build {
    uint8_t b[256];
    size_t len;
};

static void put(struct build *f, const void *bytes, size_t n) {
    memcpy(f->b + f->len, bytes, n);
    f->len += n;
}

static void put16(struct build *f, uint16_t v) {
    put(f, (uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2);
}

static void put_eth(struct build *f, uint16_t type) {
    put(f, "\2\0\0\0\0\1\2\0\0\0\0\2", 12);
    put16(f, type);
}

/* `frag`: the flags and offset word. */
static void put_v4(struct build *f, uint8_t proto, size_t payload, size_t options, uint16_t frag) {
    uint8_t h[60] = {(uint8_t)(0x45 + options / 4), 46 << 2, [8] = 64, [9] = proto, [12] = 10, 0, 0, 1, 10, 0, 0, 2};
    size_t total = 20 + options + payload;
    h[2] = (uint8_t)(total >> 8);
    h[3] = (uint8_t)total;
    h[6] = (uint8_t)(frag >> 8);
    h[7] = (uint8_t)frag;
    put(f, h, 20 + options);
}

static void put_v6(struct build *f, uint8_t next, size_t payload) {
    uint8_t h[40] = {0x6b, 0x80, [4] = (uint8_t)(payload >> 8), [5] = (uint8_t)payload, [6] = next, [7] = 64};
    h[8] = 0xfd;
    h[23] = 1;
    h[24] = 0xfd;
    h[39] = 2;
    put(f, h, sizeof h);
}

static void put_udp(struct build *f) {
    put(f, "\x30\x39\0\x50\0\x08\0\0", 8);
}

static void put_tcp(struct build *f, uint8_t flags) {
    uint8_t h[20] = {0x30, 0x39, 0, 0x50, [12] = 0x50};
    h[13] = flags;
    put(f, h, sizeof h);
}

static struct nb_view parse(const struct build *f) {
    /* A copy of the exact size, so that a sanitizer sees a byte too many. */
    uint8_t *exact = malloc(f->len);
    memcpy(exact, f->b, f->len);
    struct nb_view v;
    nb_view_parse(&(struct nb_frame){.data = exact, .len = f->len, .ifindex = 7, .dir = NB_IN, .state = NB_STATE_NEW},
                  &v);
    free(exact);
    return v;
}

static void expect_udp(const struct nb_view *v) {
    cr_assert_eq(v->parsed, NB_PARSED_IP | NB_PARSED_PORTS);
    cr_assert_eq(v->proto, IPPROTO_UDP);
    cr_assert_eq(v->sport, 12345);
    cr_assert_eq(v->dport, 80);
}

Test(view, plain_v4_and_v6) {
    struct build f = {.len = 0};
    put_eth(&f, 0x0800);
    put_v4(&f, IPPROTO_UDP, 8, 0, 0);
    put_udp(&f);
    struct nb_view v = parse(&f);
    expect_udp(&v);
    cr_assert_eq(v.ip_version, 4);
    cr_assert_eq(v.dscp, 46);
    cr_assert_eq(v.length, 28);
    cr_assert_eq(v.ifindex, 7);
    struct nb_addr src = nb_addr_from_v4((uint8_t[]){10, 0, 0, 1});
    cr_assert_eq(memcmp(&v.src, &src, sizeof src), 0);

    struct build g = {.len = 0};
    put_eth(&g, 0x86dd);
    put_v6(&g, IPPROTO_UDP, 8);
    put_udp(&g);
    v = parse(&g);
    expect_udp(&v);
    cr_assert_eq(v.ip_version, 6);
    cr_assert_eq(v.dscp, 46);
    cr_assert_eq(v.length, 48);
}

Test(view, tags_are_stepped_over_and_the_outer_one_counts) {
    struct build f = {.len = 0};
    put_eth(&f, 0x88a8);
    put16(&f, 0x6064); /* priority 3, VLAN 100 */
    put16(&f, 0x8100);
    put16(&f, 200);
    put16(&f, 0x0800);
    put_v4(&f, IPPROTO_UDP, 8, 0, 0);
    put_udp(&f);
    struct nb_view v = parse(&f);
    expect_udp(&v);
    cr_assert_eq(v.vlan, 100);
    cr_assert_eq(v.ethertype, 0x0800);
}

Test(view, a_tag_that_was_taken_out_counts_as_the_outer_one) {
    struct build f = {.len = 0};
    put_eth(&f, 0x8100);
    put16(&f, 200);
    put16(&f, 0x0800);
    put_v4(&f, IPPROTO_UDP, 8, 0, 0);
    put_udp(&f);
    struct nb_view v;
    nb_view_parse(&(struct nb_frame){.data = f.b, .len = f.len, .has_vlan = true, .vlan_tci = 100}, &v);
    expect_udp(&v);
    cr_assert_eq(v.vlan, 100);
}

Test(view, options_do_not_matter) {
    struct build f = {.len = 0};
    put_eth(&f, 0x0800);
    put_v4(&f, IPPROTO_UDP, 8, 12, 0);
    put_udp(&f);
    struct nb_view v = parse(&f);
    expect_udp(&v);
}

Test(view, fragments_have_no_ports) {
    static const uint16_t words[] = {0x2000, 0x2001, 0x0001, 0x1fff};
    for (size_t i = 0; i < 4; i++) {
        struct build f = {.len = 0};
        put_eth(&f, 0x0800);
        put_v4(&f, IPPROTO_UDP, 8, 0, words[i]);
        put_udp(&f);
        struct nb_view v = parse(&f);
        cr_assert_eq(v.parsed, NB_PARSED_IP | NB_PARSED_FRAGMENT);
        cr_assert_eq(v.proto, IPPROTO_UDP);
        cr_assert_eq(v.dport, 0);
    }
    struct build f = {.len = 0};
    put_eth(&f, 0x0800);
    put_v4(&f, IPPROTO_UDP, 8, 0, 0x4000); /* "do not fragment" is none */
    put_udp(&f);
    struct nb_view v = parse(&f);
    expect_udp(&v);
}

static struct nb_view v6_with_fragment_header(uint16_t word) {
    struct build f = {.len = 0};
    put_eth(&f, 0x86dd);
    put_v6(&f, IPPROTO_DSTOPTS, 8 + 8 + 8);
    put(&f, "\x2c\0\0\0\0\0\0\0", 8); /* next: fragment */
    put(&f, "\x11\0", 2);
    put16(&f, word);
    put(&f, "\0\0\0\1", 4);
    put_udp(&f);
    return parse(&f);
}

Test(view, atomic_fragments_are_whole) {
    struct nb_view v = v6_with_fragment_header(0);
    expect_udp(&v);
    v = v6_with_fragment_header(1);
    cr_assert_eq(v.parsed, NB_PARSED_IP | NB_PARSED_FRAGMENT);
    cr_assert_eq(v.proto, IPPROTO_UDP);
    v = v6_with_fragment_header(8);
    cr_assert_eq(v.parsed, NB_PARSED_IP | NB_PARSED_FRAGMENT);
}

Test(view, extension_headers_up_to_the_bound) {
    for (int n = 0; n <= NB_EXTENSION_MAX + 1; n++) {
        struct build f = {.len = 0};
        put_eth(&f, 0x86dd);
        put_v6(&f, n == 0 ? IPPROTO_UDP : IPPROTO_DSTOPTS, (size_t)n * 8 + 8);
        for (int i = 1; i <= n; i++)
            put(&f, (uint8_t[8]){i == n ? IPPROTO_UDP : IPPROTO_DSTOPTS}, 8);
        put_udp(&f);
        struct nb_view v = parse(&f);
        if (n <= NB_EXTENSION_MAX)
            expect_udp(&v);
        else
            cr_assert_eq(v.parsed, NB_PARSED_IP);
    }
}

Test(view, icmp_has_a_type_and_no_ports) {
    struct build f = {.len = 0};
    put_eth(&f, 0x0800);
    put_v4(&f, IPPROTO_ICMP, 8, 0, 0);
    put(&f, "\3\1\0\0\0\0\0\0", 8);
    struct nb_view v = parse(&f);
    cr_assert_eq(v.parsed, NB_PARSED_IP | NB_PARSED_ICMP);
    cr_assert_eq(v.icmp_type, 3);
    cr_assert_eq(v.icmp_code, 1);
}

Test(view, what_is_cut_off_is_not_seen) {
    struct build f = {.len = 0};
    put_eth(&f, 0x0800);
    put_v4(&f, IPPROTO_TCP, 20, 0, 0);
    put_tcp(&f, 0x02);
    size_t whole = f.len;
    for (f.len = 0; f.len < whole; f.len++) {
        struct nb_view v = parse(&f);
        cr_assert_eq(v.parsed, 0, "%zu bytes", f.len); /* shorter than its total length says */
        cr_assert_eq(v.ethertype, f.len < 14 ? 0 : 0x0800);
    }
    f.len = whole;
    struct nb_view v = parse(&f);
    cr_assert_eq(v.tcp_flags, 0x02);
}

Test(view, a_transport_header_that_does_not_fit_is_not_seen) {
    for (size_t payload = 0; payload <= 20; payload++) {
        struct build f = {.len = 0};
        put_eth(&f, 0x0800);
        put_v4(&f, IPPROTO_TCP, payload, 0, 0);
        put_tcp(&f, 0x02); /* there, but behind the end of the packet: padding */
        struct nb_view v = parse(&f);
        cr_assert_eq((v.parsed & NB_PARSED_PORTS) != 0, payload == 20);
        cr_assert_eq(v.length, 20 + payload);
    }
}

Test(view, a_header_that_lies_is_no_ip) {
    static const struct {
        size_t at;
        uint8_t value;
    } lies[] = {{14, 0x65}, {14, 0x44}, {17, 0x13}, {16, 0x05}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct build f = {.len = 0};
        put_eth(&f, 0x0800);
        put_v4(&f, IPPROTO_UDP, 8, 0, 0);
        put_udp(&f);
        f.b[lies[i].at] = lies[i].value;
        struct nb_view v = parse(&f);
        cr_assert_eq(v.parsed, 0);
        cr_assert_eq(v.length, 28); /* what follows the link header */
    }
}

Test(view, super_segments_are_judged_as_their_segments) {
    struct build f = {.len = 0};
    put_eth(&f, 0x0800);
    put_v4(&f, IPPROTO_TCP, 20 + 100, 0, 0);
    put_tcp(&f, 0x10);
    f.len += 100;
    struct nb_view v;
    nb_view_parse(&(struct nb_frame){.data = f.b, .len = f.len, .gso_size = 30}, &v);
    cr_assert_eq(v.length, 70);
    cr_assert_eq(v.bytes, 140);
    nb_view_parse(&(struct nb_frame){.data = f.b, .len = f.len, .gso_size = 3000}, &v);
    cr_assert_eq(v.length, 140);
}

Test(view, arp_is_only_its_type) {
    struct build f = {.len = 0};
    put_eth(&f, 0x0806);
    f.len += 28;
    struct nb_view v = parse(&f);
    cr_assert_eq(v.parsed, 0);
    cr_assert_eq(v.ethertype, 0x0806);
    cr_assert_eq(v.length, 28);
}

Test(view, a_frame_without_link_header) {
    struct build f = {.len = 0};
    put_v4(&f, IPPROTO_UDP, 8, 0, 0);
    put_udp(&f);
    struct nb_view v;
    nb_view_parse(&(struct nb_frame){.data = f.b, .len = f.len, .l3 = true, .ethertype = 0x0800}, &v);
    expect_udp(&v);
}

Test(view, noise_is_never_read_too_far) {
    srand(1);
    for (int i = 0; i < 200000; i++) {
        struct build f = {.len = (size_t)(rand() % 100)};
        for (size_t k = 0; k < f.len; k++)
            f.b[k] = (uint8_t)(rand() >> 7);
        if (f.len > 15) { /* look like something, often */
            static const uint16_t types[] = {0x0800, 0x86dd, 0x8100, 0x88a8};
            uint16_t type = types[rand() % 4];
            f.b[12] = (uint8_t)(type >> 8);
            f.b[13] = (uint8_t)type;
            f.b[14] = (uint8_t)(type == 0x86dd ? 0x60 : 0x45 + rand() % 3);
        }
        if (f.len > 20) {
            f.b[16] = f.b[18] = 0;
            f.b[17] = f.b[19] = (uint8_t)(rand() % 90);
        }
        struct nb_view v = parse(&f);
        cr_assert((v.parsed & (NB_PARSED_PORTS | NB_PARSED_ICMP)) == 0 || (v.parsed & NB_PARSED_IP) != 0);
        cr_assert_leq(v.length, 100);
    }
}
