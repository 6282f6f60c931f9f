/* SPDX-License-Identifier: Apache-2.0
 *
 * See fuzz_host.h. The pools are small, so that an input can use them up.
 */
#include "test/fuzz/fuzz_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CMD(id_, type) .cmd = {.id = (id_), .size = sizeof(type)}
#define V4(d_)                                                                                                         \
    {                                                                                                                  \
        .w = { 0, 0, __builtin_bswap32(0xffff), __builtin_bswap32(0x0a000000u | (d_)) }                                \
    }
#define V6(d_)                                                                                                         \
    {                                                                                                                  \
        .b = { 0xfd, [15] = (d_) }                                                                                     \
    }

static void deliver(void *arg, struct host *h, const struct pkt *p) {
    (void)h;
    struct fuzz_host *f = (struct fuzz_host *)arg;
    /* The reader reads all of it: the address sanitizer looks on. */
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->len; i++)
        sum += p->data[i];
    for (uint32_t k = 0; k < p->frag_count; k++)
        for (uint32_t i = 0; i < p->frag[k].len; i++)
            sum += p->frag[k].base[i];
    f->delivered += 1 + sum % 2;
}

static void notice(void *arg, struct host *h, const struct notice *n) {
    (void)arg, (void)h, (void)n;
}
static void event(void *arg, struct host *h, const struct engine_event *ev) {
    (void)arg, (void)h, (void)ev;
}
static void restarted(void *arg, struct host *h) {
    (void)arg, (void)h;
}

static void wire(void *arg, const uint8_t *frame, uint32_t len) {
    (void)frame, (void)len;
    ((struct fuzz_host *)arg)->frames++;
}

void fuzz_host_judge(const struct fuzz_host *f) {
    if (!f->world.failed)
        return;
    fprintf(stderr, "fuzz: %s\n", f->world.failure);
    abort();
}

void fuzz_host_command(struct fuzz_host *f, const char *engine, const void *cmd) {
    struct engine_reply reply;
    (void)host_command(f->host, engine, (const struct engine_cmd *)cmd, &reply);
    fuzz_host_judge(f);
}

static void configure(struct fuzz_host *f, bool dedicated) {
    const struct ip_cmd_addr addr[] = {
        {CMD(IP_CMD_ADDR, *addr), .addr = V4(1), .prefix_len = 120, .dedicated = dedicated},
        {CMD(IP_CMD_ADDR, *addr), .addr = V6(1), .prefix_len = 64, .dedicated = dedicated},
    };
    const struct ip_cmd_route route[] = {
        {CMD(IP_CMD_ROUTE, *route), .prefix = V4(0), .prefix_len = 120},
        {CMD(IP_CMD_ROUTE, *route), .prefix = V6(0), .prefix_len = 64},
        {CMD(IP_CMD_ROUTE, *route), .prefix = V4(0), .prefix_len = 96, .gateway = V4(2), .metric = 9},
    };
    const struct ip_cmd_neigh neigh = {CMD(IP_CMD_NEIGH, neigh), .addr = V4(2), .mac = {2, 0, 0, 0, 0, 2}, .state = 1};
    const struct udp_cmd_open open[] = {
        {CMD(UDP_CMD_OPEN, *open), .flow = {.local_port = 1000, .proto = 17}, .sink = SINK(SINK_SESSION, 0, 0)},
        {CMD(UDP_CMD_OPEN, *open), .flow = {.local = V4(1), .local_port = 1001, .proto = 17},
         .sink = SINK(SINK_SESSION, 0, 1)},
        {CMD(UDP_CMD_OPEN, *open),
         .flow = {.local = V6(1), .remote = V6(2), .local_port = 1002, .remote_port = 7, .proto = 17},
         .sink = SINK(SINK_SESSION, 0, 2)},
    };
    for (uint32_t i = 0; i < ARRAY_LEN(addr); i++)
        fuzz_host_command(f, "ip", &addr[i]);
    for (uint32_t i = 0; i < ARRAY_LEN(route); i++)
        fuzz_host_command(f, "ip", &route[i]);
    fuzz_host_command(f, "ip", &neigh);
    for (uint32_t i = 0; i < ARRAY_LEN(open); i++)
        fuzz_host_command(f, "udp", &open[i]);
}

void fuzz_host_open(struct fuzz_host *f, bool dedicated, bool tx_csum) {
    static const struct udp_config udp = {.socket_max = 8, .member_max = 4};
    static const struct ip_config ip = {
        .addr_max = 4, .route_max = 8, .neigh_max = 8, .pmtu_max = 4, .reassembly_max = 4, .neigh_queue_max = 4};
    memset(f, 0, sizeof *f);
    world_init(&f->world, 1);
    const struct host_app app = {f, deliver, notice, event, restarted};
    const struct host_params params = {.packets = 24,
                                       .packets_large = 2,
                                       .mtu = 1500,
                                       .caps = (uint16_t)(PORT_CAP_TX_FRAGS | (tx_csum ? PORT_CAP_TX_CSUM : 0)),
                                       .dedicated = dedicated,
                                       .mac = {2, 0, 0, 0, 0, 1}};
    host_create(&f->world, &params, &app, &(struct link_faults){0}, &f->host);
    f->host->wire.deliver = wire;
    f->host->wire.arg = f;
    (void)host_engine_add_ops(f->host, "ip", &usher_engine_ip, &ip);
    (void)host_engine_add_ops(f->host, "udp", &usher_engine_udp, &udp);
    fuzz_host_judge(f);
    configure(f, dedicated);
}

void fuzz_host_close(struct fuzz_host *f) {
    host_finish(f->host);
    fuzz_host_judge(f);
    world_each(&f->world, link_event_drop, NULL);
    host_destroy(f->host);
    world_fini(&f->world);
}
