/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of a capture: what libpcap reads back from the blocks, expressions that are wrong or hostile, and names
 * that their owners chose to mislead.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/capture/describe.h"
#include "control/capture/filter.h"
#include "control/capture/pcapng.h"
#include "engines/wire.h"

/* ---- pcapng ---- */

Test(pcapng, libpcap_reads_what_was_written) {
    static uint8_t room[65536], bytes[1500];
    char err[PCAP_ERRBUF_SIZE];
    struct pcapng out = {room, 0, sizeof room};
    pcapng_section(&out, "test");
    pcapng_interface(&out, "va", "", 262144);
    pcapng_interface(&out, "vb", "the other one", 262144);
    for (uint32_t i = 0; i < 20; i++) {
        memset(bytes, (int)i, sizeof bytes);
        pcapng_packet(&out, &(struct pcapng_packet){.interface = i % 2,
                                                    .direction = PCAPNG_OUT,
                                                    .unix_ns = 1700000000000000000u + i,
                                                    .captured = 60 + i,
                                                    .length = 1000 + i,
                                                    .bytes = bytes,
                                                    .comment = i % 3 == 0 ? NULL : "a comment",
                                                    .custom = "dir=out"});
    }
    pcapng_statistics(&out, &(struct pcapng_statistics){.unix_ns = 1, .received = 20, .dropped = 3});
    cr_assert_eq(out.len % 4, 0);
    FILE *f = fmemopen(room, out.len, "r");
    pcap_t *p = pcap_fopen_offline_with_tstamp_precision(f, PCAP_TSTAMP_PRECISION_NANO, err);
    cr_assert_not_null(p, "%s", err);
    for (uint32_t i = 0; i < 20; i++) {
        struct pcap_pkthdr *h;
        const u_char *data;
        cr_assert_eq(pcap_next_ex(p, &h, &data), 1, "%s", pcap_geterr(p));
        cr_assert(h->caplen == 60 + i && h->len == 1000 + i && h->ts.tv_sec == 1700000000 && h->ts.tv_usec == i);
        cr_assert_eq(data[59], i);
    }
    struct pcap_pkthdr *h;
    const u_char *data;
    cr_assert_eq(pcap_next_ex(p, &h, &data), PCAP_ERROR_BREAK);
    pcap_close(p);
}

Test(pcapng, long_texts_are_cut) {
    static uint8_t room[PCAPNG_PACKET_EXTRA + 8];
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct pcapng out = {room, 0, sizeof room};
    pcapng_packet(&out,
                  &(struct pcapng_packet){.captured = 3, .length = 3, .bytes = room, .comment = text, .custom = text});
    cr_assert_leq(out.len, PCAPNG_PACKET_EXTRA + 4);
}

/* ---- expressions ---- */

static int compiles(const char *expression, char *err) {
    struct sock_filter *code;
    uint32_t count;
    err[0] = '\0';
    int error = filter_expression_compile(expression, &code, &count, err, 256);
    free(code);
    return error;
}

Test(filter, expressions_compile_or_are_refused_with_a_sentence) {
    char err[256], *deep = calloc(1, FILTER_EXPRESSION_MAX + 2);
    static const char *const good[] = {"", "  \n", "tcp port 80", "udp and not port 53", "vlan 3 and ip6"};
    static const char *const bad[] = {"port",
                                      "tcp port 99999999999999",
                                      "host 300.1.1.1.1",
                                      "((((",
                                      "\x01\xff%n%s",
                                      "ip[99999999999]",
                                      "len == ",

                                      "1 / 0 = 1",
                                      "mpls 1 mpls"};
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        cr_assert_eq(compiles(good[i], err), 0, "%s: %s", good[i], err);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cr_assert_eq(compiles(bad[i], err), -EINVAL, "%s", bad[i]);
        cr_assert_neq(err[0], '\0');
    }
    memset(deep, '(', FILTER_EXPRESSION_MAX);
    cr_assert_eq(compiles(deep, err), -EINVAL);
    memset(deep, '!', FILTER_EXPRESSION_MAX);
    cr_assert_eq(compiles(deep, err), -EINVAL);
    memset(deep, 'a', FILTER_EXPRESSION_MAX + 1);
    cr_assert_eq(compiles(deep, err), -EINVAL);
    free(deep);
}

/* As many alternatives as fit: long, but it ends. */
Test(filter, a_long_expression_ends) {
    char err[256], *text = calloc(1, FILTER_EXPRESSION_MAX + 64);
    size_t n = 0;
    for (unsigned i = 1; n + 24 < FILTER_EXPRESSION_MAX; i++)
        n += (size_t)snprintf(text + n, 24, "%sudp port %u", i > 1 ? " or " : "", i);
    int error = compiles(text, err);
    cr_assert(error == 0 || (error == -EINVAL && err[0] != '\0'), "%d %s", error, err);
    free(text);
}

/* ---- descriptions ---- */

Test(describe, the_owner_and_the_reason_are_told) {
    struct owner o = {.pid = 12, .uid = 1001, .comm = "flood", .exe = "/usr/bin/flood", .cgroup = "/games"};
    struct capture_record r = {.point = TAP_DROP, .drop = DROP_POLICY, .flags = CAPTURE_OUT, .proto = PROTO_UDP};
    struct description d = {.record = &r, .owner = &o, .user = "bob", .rule = "no-flood"};
    char text[1024];
    describe_sentence(&d, text, sizeof text);
    cr_assert_str_eq(text, "sent by flood, pid 12, user bob (1001), /usr/bin/flood, cgroup /games; dropped: the policy "
                           "says so, rule no-flood");
    describe_words(&d, text, sizeof text);
    cr_assert_str_eq(text, "dir=out point=drop verdict=drop engine=filter reason=POLICY rule=no-flood offload=none "
                           "uid=1001 user=bob pid=12 comm=flood exe=/usr/bin/flood cgroup=/games");
    r = (struct capture_record){.point = TAP_DROP, .drop = DROP_UDP_NO_SOCKET, .flags = CAPTURE_GSO, .gso_size = 1400};
    d = (struct description){.record = &r, .user = ""};
    describe_sentence(&d, text, sizeof text);
    cr_assert_str_eq(text, "for no socket known here; dropped: no socket on this UDP port");
    describe_words(&d, text, sizeof text);
    cr_assert_str_eq(text, "dir=in point=drop verdict=drop engine=udp reason=UDP_NO_SOCKET offload=gso:1400");
}

/* A program calls itself what it likes; it cannot add words or lines, nor speak to a terminal. */
Test(describe, names_cannot_mislead) {
    struct owner o = {.pid = 1, .comm = "a uid=0\n\x1b[2J%", .exe = "/tmp/x pid=1"};
    struct capture_record r = {.point = TAP_TX, .flags = CAPTURE_OUT};
    struct description d = {.record = &r, .owner = &o, .user = "\xff"};
    char text[1024];
    describe_words(&d, text, sizeof text);
    cr_assert_not_null(strstr(text, "comm=a%20uid%3D0%0A%1B[2J%25 exe=/tmp/x%20pid%3D1 "), "%s", text);
    cr_assert_not_null(strstr(text, "user=%FF "), "%s", text);
    describe_sentence(&d, text, 20);
    cr_assert_eq(strlen(text), 19);
}
