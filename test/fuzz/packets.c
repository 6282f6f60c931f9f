/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: frames from the wire into ip and udp, with sends, time and neighbours between them. Raw frames, and
 * frames whose headers are put right around fuzzed fields, so that inputs come past the checksums.
 */
#include "engines/wire.h"
#include "test/fuzz/fuzz_host.h"
#include "test/fuzz/fuzz_input.h"

#define STEPS_MAX 64
#define FRAME_MAX 1600u

static uint32_t eth_header(struct fuzz_input *in, uint8_t *b, uint16_t type) {
    memcpy(b, (const uint8_t[]){2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, 12);
    uint8_t how = fuzz_u8(in);
    if (how == 1)
        memset(b, 0xff, 6);
    if (how != 2) {
        be16_store(b + 12, type);
        return ETH_LEN;
    }
    be16_store(b + 12, ETHERTYPE_VLAN);
    be16_store(b + 14, 5);
    be16_store(b + 16, type);
    return ETH_LEN + VLAN_LEN;
}

/* The transport's checksum, when its header is a known one. */
static void transport_sum(uint8_t *l4, uint32_t len, uint8_t proto, const struct flow *f) {
    uint32_t at = proto == PROTO_UDP ? 6 : proto == PROTO_ICMP || proto == PROTO_ICMP6 ? 2 : UINT32_MAX;
    if (at == UINT32_MAX || len < at + 2)
        return;
    memset(l4 + at, 0, 2);
    struct flow pseudo = *f;
    pseudo.proto = proto;
    uint64_t sum = proto == PROTO_ICMP ? 0 : csum_pseudo(&pseudo, len);
    uint16_t folded = (uint16_t)~csum_fold(csum_add(sum, l4, len));
    memcpy(l4 + at, &folded, 2);
}

/* An IPv4 packet whose lengths and sums are right unless a bit of `wrong` says otherwise. */
static void frame_ip4(struct fuzz_host *f, struct fuzz_input *in) {
    uint8_t b[FRAME_MAX];
    uint32_t l3 = eth_header(in, b, ETHERTYPE_IP4);
    uint8_t wrong = fuzz_u8(in), ihl = (uint8_t)(5 + fuzz_u8(in) % 11), proto = fuzz_u8(in);
    uint8_t *ip = b + l3, *l4 = ip + 4u * ihl;
    memset(ip, 0, 60);
    be16_store(ip + 4, fuzz_u8(in));
    be16_store(ip + 6, fuzz_u16(in));
    ip[8] = wrong & 1 ? fuzz_u8(in) : 64;
    ip[9] = proto;
    be32_store(ip + 12, wrong & 2 ? fuzz_u32(in) : 0x0a000002);
    be32_store(ip + 16, wrong & 4 ? fuzz_u32(in) : 0x0a000001);
    fuzz_fill(in, ip + 20, 4u * ihl - 20);
    uint32_t len = fuzz_u16(in) % 1400;
    fuzz_fill(in, l4, len);
    ip[0] = (uint8_t)(0x40 | (wrong & 8 ? fuzz_u8(in) & 15 : ihl));
    be16_store(ip + 2, wrong & 16 ? fuzz_u16(in) : (uint16_t)(4u * ihl + len));
    struct flow flow = {.local = ipaddr_from_v4(ip + 16), .remote = ipaddr_from_v4(ip + 12)};
    if (!(wrong & 32))
        transport_sum(l4, len, proto, &flow);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, ip, 4u * ihl));
    memcpy(ip + 10, &sum, 2);
    host_receive(f->host, b, l3 + 4u * ihl + len);
}

static void frame_ip6(struct fuzz_host *f, struct fuzz_input *in) {
    uint8_t b[FRAME_MAX];
    uint32_t l3 = eth_header(in, b, ETHERTYPE_IP6);
    uint8_t wrong = fuzz_u8(in), next = fuzz_u8(in), *ip = b + l3, *l4 = ip + IP6_LEN;
    memset(ip, 0, IP6_LEN);
    ip[0] = 0x60;
    ip[6] = next;
    ip[7] = wrong & 1 ? fuzz_u8(in) : 255;
    ip[8] = ip[24] = 0xfd;
    ip[23] = 2;
    ip[39] = 1;
    if (wrong & 2)
        fuzz_fill(in, ip + 8, 16);
    if (wrong & 4)
        fuzz_fill(in, ip + 24, 16);
    uint32_t len = fuzz_u16(in) % 1400;
    fuzz_fill(in, l4, len);
    be16_store(ip + 4, wrong & 16 ? fuzz_u16(in) : (uint16_t)len);
    struct flow flow = {.local = ipaddr_from_v6(ip + 24), .remote = ipaddr_from_v6(ip + 8)};
    if (!(wrong & 32))
        transport_sum(l4, len, next, &flow);
    host_receive(f->host, b, l3 + IP6_LEN + len);
}

static void frame_arp(struct fuzz_host *f, struct fuzz_input *in) {
    uint8_t b[64] = {0};
    uint32_t l3 = eth_header(in, b, ETHERTYPE_ARP);
    memcpy(b + l3, (const uint8_t[]){0, 1, 8, 0, 6, 4, 0}, 7);
    fuzz_fill(in, b + l3 + 7, 21);
    host_receive(f->host, b, l3 + ARP_LEN);
}

static void frame_raw(struct fuzz_host *f, struct fuzz_input *in) {
    size_t len;
    const uint8_t *p = fuzz_bytes(in, fuzz_u16(in) % FRAME_MAX, &len);
    host_receive(f->host, p, (uint32_t)len);
}

static void send_datagram(struct fuzz_host *f, struct fuzz_input *in) {
    static const uint8_t payload[65536];
    struct host_send s = {.payload = payload, .sock = fuzz_u8(in) % 4, .proto = PROTO_UDP};
    uint8_t how = fuzz_u8(in);
    s.lend = how & 1;
    s.len = how & 2 ? fuzz_u16(in) : fuzz_u16(in) % 1500u;
    s.gso_size = how & 4 ? fuzz_u16(in) : 0;
    if (how & 8) {
        fuzz_fill(in, s.remote.b, 16);
        s.remote_port = fuzz_u16(in);
    } else if (how & 16) {
        s.remote = ipaddr_from_v4((const uint8_t[]){10, 0, 0, (uint8_t)(fuzz_u8(in) % 4)});
        s.remote_port = (uint16_t)(1000 + fuzz_u8(in) % 4);
    }
    if (how & 32)
        fuzz_fill(in, s.local.b, 16);
    (void)host_submit(f->host, &s);
}

static void let_time_pass(struct fuzz_host *f, struct fuzz_input *in) {
    uint8_t how = fuzz_u8(in);
    ns_t span = how < 128 ? how * NS_PER_US : (how - 127u) * NS_PER_SEC;
    world_run(&f->world, f->world.now + span);
}

static void neighbour(struct fuzz_host *f, struct fuzz_input *in) {
    struct ip_cmd_neigh n = {.cmd = {.id = IP_CMD_NEIGH, .size = sizeof n}, .mac = {2, 0, 0, 0, 0, 9}};
    uint8_t which = fuzz_u8(in);
    n.addr = which & 1 ? ipaddr_from_v6((const uint8_t[16]){0xfd, [15] = which >> 4})
                       : ipaddr_from_v4((const uint8_t[]){10, 0, 0, which >> 4});
    n.state = (which >> 1) % 3;
    fuzz_host_command(f, "ip", &n);
}

static void (*const steps[])(struct fuzz_host *f, struct fuzz_input *in) = {
    frame_raw, frame_ip4, frame_ip6, frame_arp, send_datagram, let_time_pass, neighbour};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    struct fuzz_host f;
    uint8_t how = fuzz_u8(&in);
    fuzz_host_open(&f, how & 1, how & 2);
    for (uint32_t i = 0; i < STEPS_MAX && in.left > 0; i++) {
        steps[fuzz_u8(&in) % ARRAY_LEN(steps)](&f, &in);
        if (how & 4)
            world_run(&f.world, f.world.now);
        fuzz_host_judge(&f);
    }
    world_run(&f.world, f.world.now + (how & 8 ? 300 * NS_PER_SEC : 0));
    fuzz_host_judge(&f);
    fuzz_host_close(&f);
    return 0;
}
