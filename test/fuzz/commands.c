/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: commands to ip and udp in any order with any values, with upgrades between them and a look at the
 * engines' invariants after each. Control is not hostile, but it passes on what programs and the kernel say.
 */
#include "test/fuzz/fuzz_host.h"
#include "test/fuzz/fuzz_input.h"

#define STEPS_MAX       64
#define SOME(in, value) (fuzz_u8(in) % 4 == 0 ? (value) : 0)

/* Mostly an address that other commands use as well. */
static struct ipaddr any_addr(struct fuzz_input *in) {
    struct ipaddr a;
    uint8_t how = fuzz_u8(in), low = (uint8_t)(fuzz_u8(in) % 4);
    switch (how % 6) {
    case 0:
        return ipaddr_any();
    case 1:
        return ipaddr_from_v6((const uint8_t[16]){0xfd, [15] = low});
    case 2:
        return ipaddr_from_v4((const uint8_t[]){224, 0, 0, low});
    case 3:
        return ipaddr_from_v6((const uint8_t[16]){0xff, 5, [15] = low});
    case 4:
        fuzz_fill(in, a.b, sizeof a.b);
        return a;
    default:
        return ipaddr_from_v4((const uint8_t[]){10, 0, 0, low});
    }
}

static void udp_open(struct fuzz_host *f, struct fuzz_input *in) {
    uint8_t how = fuzz_u8(in);
    struct udp_cmd_open c = {.cmd = {.id = how & 1 ? UDP_CMD_OPEN : UDP_CMD_UPDATE, .size = sizeof c}};
    c.flow.local = any_addr(in);
    c.flow.local_port = how & 2 ? fuzz_u16(in) : (uint16_t)(1000 + fuzz_u8(in) % 4);
    if (how & 4) {
        c.flow.remote = any_addr(in);
        c.flow.remote_port = SOME(in, fuzz_u16(in));
    }
    c.flow.proto = how & 8 ? fuzz_u8(in) : 17;
    c.sink = SINK(SINK_SESSION, 0, fuzz_u8(in));
    c.sock = fuzz_u8(in) % 10;
    c.owner = fuzz_u8(in);
    c.ifindex = SOME(in, fuzz_u8(in));
    c.v6only = how & 16;
    c.reuseport = how & 32;
    c.spread = (how >> 6) & 1;
    fuzz_host_command(f, "udp", &c);
}

static void udp_close(struct fuzz_host *f, struct fuzz_input *in) {
    struct udp_cmd_close c = {.cmd = {.id = UDP_CMD_CLOSE, .size = sizeof c}, .sock = fuzz_u8(in) % 10};
    if (c.sock == 9)
        c.sock = fuzz_u32(in);
    fuzz_host_command(f, "udp", &c);
}

static void udp_option(struct fuzz_host *f, struct fuzz_input *in) {
    struct udp_cmd_option c = {.cmd = {.id = UDP_CMD_OPTION, .size = sizeof c}};
    c.sock = fuzz_u8(in) % 10;
    c.option = fuzz_u8(in) % 9;
    fuzz_fill(in, &c.value, fuzz_u8(in) & 1 ? sizeof c.value : 1);
    fuzz_host_command(f, "udp", &c);
}

static void udp_group(struct fuzz_host *f, struct fuzz_input *in) {
    struct udp_cmd_group c = {.cmd = {.id = UDP_CMD_GROUP, .size = sizeof c}};
    c.sock = fuzz_u8(in) % 10;
    c.ifindex = SOME(in, fuzz_u8(in));
    c.group = any_addr(in);
    c.leave = fuzz_u8(in) & 1;
    fuzz_host_command(f, "udp", &c);
}

static void udp_info(struct fuzz_host *f, struct fuzz_input *in) {
    struct udp_info info;
    struct udp_cmd_info c = {.cmd = {.id = UDP_CMD_INFO, .size = sizeof c}, .sock = fuzz_u8(in) % 10, .info = &info};
    fuzz_host_command(f, "udp", &c);
}

static void ip_addr(struct fuzz_host *f, struct fuzz_input *in) {
    struct ip_cmd_addr c = {.cmd = {.id = IP_CMD_ADDR, .size = sizeof c}, .addr = any_addr(in)};
    uint8_t how = fuzz_u8(in);
    c.port = how & 1 ? fuzz_u16(in) : 0;
    c.prefix_len = how & 2 ? fuzz_u8(in) : 120;
    c.remove = how & 4;
    c.dedicated = how & 8;
    c.broadcast = how & 16;
    fuzz_host_command(f, "ip", &c);
}

static void ip_route(struct fuzz_host *f, struct fuzz_input *in) {
    struct ip_cmd_route c = {.cmd = {.id = IP_CMD_ROUTE, .size = sizeof c}, .prefix = any_addr(in)};
    uint8_t how = fuzz_u8(in);
    c.gateway = how & 1 ? any_addr(in) : ipaddr_any();
    c.source = how & 2 ? any_addr(in) : ipaddr_any();
    c.metric = fuzz_u8(in) % 4;
    c.port = how & 4 ? fuzz_u16(in) : 0;
    c.mtu = how & 8 ? fuzz_u16(in) : 0;
    c.prefix_len = fuzz_u8(in);
    c.remove = how & 16;
    c.unreachable = how & 32;
    fuzz_host_command(f, "ip", &c);
}

static void ip_neigh(struct fuzz_host *f, struct fuzz_input *in) {
    struct ip_cmd_neigh c = {.cmd = {.id = IP_CMD_NEIGH, .size = sizeof c}, .addr = any_addr(in)};
    c.port = SOME(in, fuzz_u16(in));
    fuzz_fill(in, c.mac, sizeof c.mac);
    c.state = fuzz_u8(in) % 4;
    fuzz_host_command(f, "ip", &c);
}

static void ip_flush(struct fuzz_host *f, struct fuzz_input *in) {
    struct ip_cmd_flush c = {.cmd = {.id = IP_CMD_FLUSH, .size = sizeof c}, .begin = fuzz_u8(in) & 1};
    fuzz_host_command(f, "ip", &c);
}

static void ip_lookup(struct fuzz_host *f, struct fuzz_input *in) {
    struct ip_route_result result;
    struct ip_cmd_lookup c = {.cmd = {.id = IP_CMD_LOOKUP, .size = sizeof c}, .dst = any_addr(in), .result = &result};
    fuzz_host_command(f, "ip", &c);
}

static void send_datagram(struct fuzz_host *f, struct fuzz_input *in) {
    static const uint8_t payload[4096];
    struct host_send s = {.payload = payload, .len = fuzz_u16(in) % 4096, .sock = fuzz_u8(in) % 10, .proto = 17};
    s.remote = any_addr(in);
    s.remote_port = (uint16_t)(1000 + fuzz_u8(in) % 4);
    s.local = SOME(in, 1) ? any_addr(in) : ipaddr_any();
    (void)host_submit(f->host, &s);
}

static void upgrade(struct fuzz_host *f, struct fuzz_input *in) {
    (void)host_upgrade(f->host, fuzz_u8(in) & 1 ? HOST_UPGRADE_CODE : HOST_UPGRADE_STATE);
}

static void unknown(struct fuzz_host *f, struct fuzz_input *in) {
    struct engine_cmd c = {.id = fuzz_u32(in) | 0x100, .size = sizeof c};
    fuzz_host_command(f, fuzz_u8(in) & 1 ? "ip" : "udp", &c);
}

static void (*const steps[])(struct fuzz_host *f, struct fuzz_input *in) = {
    udp_open, udp_close, udp_option, udp_group,     udp_info, ip_addr, ip_route,
    ip_neigh, ip_flush,  ip_lookup,  send_datagram, upgrade,  unknown};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    struct fuzz_host f;
    fuzz_host_open(&f, fuzz_u8(&in) & 1, false);
    for (uint32_t i = 0; i < STEPS_MAX && in.left > 0; i++) {
        steps[fuzz_u8(&in) % ARRAY_LEN(steps)](&f, &in);
        world_run(&f.world, f.world.now + NS_PER_MS);
        fuzz_host_judge(&f);
    }
    fuzz_host_close(&f);
    return 0;
}
