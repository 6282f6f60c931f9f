/* SPDX-License-Identifier: Apache-2.0
 *
 * The verifier refuses what could loop, read or write elsewhere; the interpreter does what libpcap's own does, on real
 * expressions and on random programs, wherever the frame is cut into pieces.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pcap/pcap.h>
#include <string.h>

#include "dataplane/capture/program.h"

#define FRAME_BYTES 120u

static struct program program;

static int loads(const struct sock_filter *code, uint32_t count) {
    uint32_t at;
    return capture_program_load(&program, code, count, &at);
}

Test(program, what_is_not_the_language_is_refused) {
    const struct sock_filter ret = BPF_STMT(BPF_RET | BPF_K, 1);
    const struct sock_filter bad[][2] = {
        {ret, BPF_STMT(BPF_LD | BPF_IMM, 1)},  /* no end */
        {BPF_STMT(0xffff, 0), ret},            /* no such instruction */
        {BPF_STMT(BPF_LD | BPF_MEM, 16), ret}, /* not one of the words */
        {BPF_STMT(BPF_ST, 16), ret},
        {BPF_STMT(BPF_STX, UINT32_MAX), ret},
        {BPF_STMT(BPF_LDX | BPF_MEM, 99), ret},
        {BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), ret},
        {BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 0), ret},
        {BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), ret},
        {BPF_STMT(BPF_JMP | BPF_JA, 1), ret},          /* beyond the end */
        {BPF_STMT(BPF_JMP | BPF_JA, UINT32_MAX), ret}, /* back */
        {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), ret},
        {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 255), ret},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_assert_eq(loads(bad[i], 2), -EINVAL, "%zu", i);
    cr_assert_eq(loads(&ret, PROGRAM_MAX + 1), -EINVAL);
    cr_assert_eq(loads(&ret, 1), 0);
    cr_assert_eq(loads(NULL, 0), 0);
}

/* ---- against libpcap ---- */

static uint64_t rng; /* of splitmix64 */

static uint64_t random_next(void) {
    uint64_t z = (rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint32_t random_below(uint32_t n) {
    return (uint32_t)(random_next() % n);
}

/* An IPv4 or IPv6 frame with TCP, UDP or something else behind it, now and then with a tag, short, or only noise. */
static uint32_t frame_fill(uint8_t *b) {
    for (uint32_t i = 0; i < FRAME_BYTES; i++)
        b[i] = (uint8_t)random_next();
    static const uint8_t protos[] = {1, 6, 17, 17, 6, 58, 132};
    uint8_t proto = protos[random_below(ARRAY_LEN(protos))], *l3 = b + ETH_LEN;
    uint16_t type = random_below(3) == 0 ? ETHERTYPE_IP6 : ETHERTYPE_IP4;
    if (random_below(8) == 0)
        return FRAME_BYTES;
    if (random_below(8) == 0) {
        be16_store(b + 12, ETHERTYPE_VLAN);
        be16_store(b + 14, (uint16_t)random_below(20));
        l3 += VLAN_LEN;
    }
    be16_store(l3 - 2, type);
    uint8_t *l4 = l3 + (type == ETHERTYPE_IP4 ? IP4_LEN : IP6_LEN);
    l3[0] = type == ETHERTYPE_IP4 ? 0x45 : 0x60;
    l3[type == ETHERTYPE_IP4 ? 9 : 6] = proto;
    if (type == ETHERTYPE_IP4)
        be16_store(l3 + 6, random_below(6) == 0 ? 0x2005 : 0);
    memcpy(l3 + 12, (const uint8_t[]){10, 0, 0, (uint8_t)random_below(4)}, 4);
    be16_store(l4, (uint16_t)(78 + random_below(4)));
    be16_store(l4 + 2, (uint16_t)(78 + random_below(4)));
    return random_below(6) == 0 ? random_below(FRAME_BYTES) + 1 : FRAME_BYTES;
}

/* The same bytes in up to four pieces. */
static void frame_cut(struct frame *f, const uint8_t *b, uint32_t len) {
    *f = (struct frame){.length = len};
    for (uint32_t at = 0; at < len;) {
        uint32_t n = f->piece_count < 3 ? random_below(len - at) + 1 : len - at;
        f->piece[f->piece_count++] = (struct frame_piece){b + at, n};
        at += n;
    }
    f->head = f->piece[0].base;
    f->head_len = f->piece[0].len;
}

static void compare(const struct bpf_insn *code, const char *what) {
    uint8_t bytes[FRAME_BYTES];
    struct frame f;
    for (uint32_t i = 0; i < 300; i++) {
        uint32_t len = frame_fill(bytes);
        frame_cut(&f, bytes, len);
        uint32_t says = capture_program_run(&program, &f);
        cr_assert_eq(says, bpf_filter(code, bytes, len, len), "%s, frame %u", what, i);
        cr_assert(says == 0 || len < SHAPE_BYTES || capture_program_may_match(&program, bytes), "%s, frame %u", what,
                  i);
    }
}

Test(program, expressions_choose_as_libpcap_does) {
    static const char *const expressions[] = {
        "tcp port 80",
        "udp",
        "ip6",
        "arp",
        "host 10.0.0.1",
        "net 10.0.0.0/30 and not port 79",
        "vlan 7 and udp",
        "ip6 proto 17",
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "ether broadcast",
        "portrange 79-80",
        "ip[8] < 20 or len > 100",
        "icmp[icmptype] = icmp-echo",
        "ether[3:2] % 7 = 3 or ip[2:2] * 3 > 5000",
        "udp[4:2] > 1000 and (src port 78 or dst port 81)",
        "greater 60 and ether[0] ^ 0x55 = 3 << 2",
        "",
    };
    rng = 11;
    pcap_t *dead = pcap_open_dead(DLT_EN10MB, 65535);
    for (size_t i = 0; i < ARRAY_LEN(expressions); i++) {
        struct bpf_program code;
        uint32_t at;
        cr_assert_eq(pcap_compile(dead, &code, expressions[i], (int)(i & 1), PCAP_NETMASK_UNKNOWN), 0, "%s",
                     pcap_geterr(dead));
        cr_assert_eq(capture_program_load(&program, (const struct sock_filter *)code.bf_insns, code.bf_len, &at), 0);
        compare(code.bf_insns, expressions[i]);
        pcap_freecode(&code);
    }
    pcap_close(dead);
}

#define RANDOM_MAX 24u

Test(program, what_cannot_match_is_known_beforehand) {
    pcap_t *dead = pcap_open_dead(DLT_EN10MB, 65535);
    struct bpf_program code;
    uint32_t at;
    cr_assert_eq(pcap_compile(dead, &code, "tcp port 80", 1, PCAP_NETMASK_UNKNOWN), 0);
    cr_assert_eq(capture_program_load(&program, (const struct sock_filter *)code.bf_insns, code.bf_len, &at), 0);
    for (uint32_t proto = 0; proto < 256; proto++) {
        cr_assert_eq(program.possible[SHAPE_IP4][proto], proto == PROTO_TCP);
        cr_assert_eq(program.possible[SHAPE_IP6][proto], proto == PROTO_TCP);
    }
    pcap_freecode(&code);
    pcap_close(dead);
    cr_assert_eq(capture_program_load(&program, NULL, 0, &at), 0);
    cr_assert(program.possible[SHAPE_IP4][17] && program.possible[SHAPE_IP6][0]);
}

/* Random instructions: those that both verifiers take must do the same. libpcap does not clear the words. */
Test(program, random_programs_do_what_libpcap_does) {
    struct bpf_insn code[BPF_MEMWORDS + RANDOM_MAX];
    uint32_t taken = 0, at;
    rng = 5;
    for (uint32_t round = 0; round < 200000 && taken < 200; round++) {
        uint32_t n = BPF_MEMWORDS + 2 + random_below(RANDOM_MAX - 2);
        for (uint32_t i = 0; i < BPF_MEMWORDS; i++)
            code[i] = (struct bpf_insn){.code = BPF_ST, .k = i};
        for (uint32_t i = BPF_MEMWORDS; i + 1 < n; i++) {
            static const uint16_t classes[] = {BPF_LD, BPF_LDX, BPF_ALU, BPF_ALU, BPF_JMP, BPF_MISC, BPF_ST, BPF_STX};
            uint16_t class = classes[random_below(ARRAY_LEN(classes))];
            uint16_t modes = class == BPF_ST || class == BPF_STX ? 0 : (uint16_t)(random_below(32) << 3);
            code[i] = (struct bpf_insn){.code = (uint16_t)(class | modes),
                                        .jt = (uint8_t)random_below(3),
                                        .jf = (uint8_t)random_below(3),
                                        .k = random_below(random_below(2) ? 16 : FRAME_BYTES + 4)};
        }
        code[n - 1] = (struct bpf_insn){.code = BPF_RET | BPF_A};
        if (capture_program_load(&program, (const struct sock_filter *)code, n, &at) != 0 ||
            !bpf_validate(code, (int)n))
            continue;
        taken++;
        compare(code, "random");
    }
    cr_assert_eq(taken, 200);
}
