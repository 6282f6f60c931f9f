/* SPDX-License-Identifier: Apache-2.0
 *
 * Death at every single store of every command and of packets that change records: for each store k, a host dies before
 * it (and, where the store is wide, in its middle), recovers, and must have lost nothing and broken nothing. A command
 * on one record has then happened wholly or not at all.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "engines/ip/ip_cmd.h"
#include "engines/udp/udp_cmd.h"
#include "engines/wire.h"
#include "test/sim/host.h"
#include "test/sim/store.h"

#define STORES_MAX 20000 /* more in one step means that the loop does not end */

/* A pool as it was, buffers included: engines may hold some of its packets. */
struct pool_copy {
    struct pkt *pkts;
    struct pkt **free;
    uint8_t *where, *bytes;
    uint32_t free_count, held;
};

struct rig {
    struct world world;
    struct host *host;
    void *before[HOST_ENGINE_MAX]; /* the arenas as they were in front of the step */
    uint64_t rng[HOST_ENGINE_MAX];
    struct pool_copy small, large;
    uint64_t stores, deaths;
};

static void deliver(void *arg, struct host *h, const struct pkt *p) {
    (void)arg, (void)h, (void)p;
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
static void swallow(void *arg, const uint8_t *frame, uint32_t len) {
    (void)arg, (void)frame, (void)len;
}

static const struct udp_config udp_config = {.socket_max = 32, .member_max = 8};
static const struct ip_config ip_config = {
    .addr_max = 16, .route_max = 16, .neigh_max = 16, .pmtu_max = 8, .reassembly_max = 8, .neigh_queue_max = 8};

static void pool_copy_init(struct pool_copy *c, const struct host_pool *hp) {
    const struct pkt_pool *pool = &hp->pool;
    c->pkts = (struct pkt *)aligned_alloc(CACHE_LINE, pool->count * sizeof(struct pkt));
    c->free = (struct pkt **)calloc(pool->count, sizeof *c->free);
    c->where = (uint8_t *)calloc(pool->count, 1);
    c->bytes = (uint8_t *)calloc(pool->count, pool->buf_size);
}

static void pool_copy_fini(struct pool_copy *c) {
    free(c->pkts);
    free((void *)c->free);
    free(c->where);
    free(c->bytes);
}

static void pool_copy_save(struct pool_copy *c, const struct host_pool *hp) {
    const struct pkt_pool *pool = &hp->pool;
    memcpy(c->pkts, pool->pkts, pool->count * sizeof(struct pkt));
    memcpy((void *)c->free, (void *)pool->free, pool->count * sizeof *c->free);
    memcpy(c->where, hp->where, pool->count);
    for (uint32_t i = 0; i < pool->count; i++)
        memcpy(c->bytes + (size_t)i * pool->buf_size, pool->pkts[i].buf, pool->buf_size);
    c->free_count = pool->free_count;
    c->held = hp->held;
}

static void pool_copy_restore(const struct pool_copy *c, struct host_pool *hp) {
    struct pkt_pool *pool = &hp->pool;
    memcpy(pool->pkts, c->pkts, pool->count * sizeof(struct pkt));
    memcpy((void *)pool->free, (void *)c->free, pool->count * sizeof *c->free);
    memcpy(hp->where, c->where, pool->count);
    for (uint32_t i = 0; i < pool->count; i++)
        memcpy(pool->pkts[i].buf, c->bytes + (size_t)i * pool->buf_size, pool->buf_size);
    pool->free_count = c->free_count;
    hp->held = c->held;
}

static void rig_init(struct rig *r, bool dedicated) {
    memset(r, 0, sizeof *r);
    world_init(&r->world, 1);
    const struct host_app app = {r, deliver, notice, event, restarted};
    const struct host_params params = {.engines = SIM_ENGINES,
                                       .packets = 64,
                                       .packets_large = 4,
                                       .mtu = 1500,
                                       .dedicated = dedicated,
                                       .mac = {2, 0, 0, 0, 0, 1}};
    host_create(&r->world, &params, &app, &(struct link_faults){0}, &r->host);
    r->host->wire.deliver = swallow;
    cr_assert_eq(host_engine_add(r->host, "ip", &ip_config), 0, "%s", r->world.failure);
    cr_assert_eq(host_engine_add(r->host, "udp", &udp_config), 0, "%s", r->world.failure);
    for (uint32_t i = 0; i < r->host->engine_count; i++)
        r->before[i] = calloc(1, r->host->engine[i].size);
    pool_copy_init(&r->small, &r->host->small);
    pool_copy_init(&r->large, &r->host->large);
}

static void rig_fini(struct rig *r) {
    world_each(&r->world, link_event_drop, NULL);
    for (uint32_t i = 0; i < HOST_ENGINE_MAX; i++)
        free(r->before[i]);
    pool_copy_fini(&r->small);
    pool_copy_fini(&r->large);
    host_destroy(r->host);
    world_fini(&r->world);
}

static void rig_save(struct rig *r) {
    for (uint32_t i = 0; i < r->host->engine_count; i++) {
        memcpy(r->before[i], r->host->engine[i].arena, r->host->engine[i].size);
        r->rng[i] = r->host->engine[i].rng;
    }
    pool_copy_save(&r->small, &r->host->small);
    pool_copy_save(&r->large, &r->host->large);
}

/* Puts everything back as it was in front of the step. Steps begin and end between two turns, so the host itself holds
 * nothing. */
static void rig_restore(struct rig *r) {
    for (uint32_t i = 0; i < r->host->engine_count; i++) {
        memcpy(r->host->engine[i].arena, r->before[i], r->host->engine[i].size);
        r->host->engine[i].rng = r->rng[i];
    }
    host_forget(r->host);
    pool_copy_restore(&r->small, &r->host->small);
    pool_copy_restore(&r->large, &r->host->large);
    host_plan(r->host);
}

typedef void step_fn(struct rig *r, const void *arg);

static void step_udp(struct rig *r, const void *cmd) {
    struct engine_reply reply;
    (void)host_command(r->host, "udp", (const struct engine_cmd *)cmd, &reply);
}

static void step_ip(struct rig *r, const void *cmd) {
    struct engine_reply reply;
    (void)host_command(r->host, "ip", (const struct engine_cmd *)cmd, &reply);
}

static void step_send(struct rig *r, const void *send) {
    (void)host_submit(r->host, (const struct host_send *)send);
    world_run(&r->world, r->world.now + NS_PER_MS);
}

struct frame {
    uint32_t len;
    uint8_t bytes[256];
};

static void step_frame(struct rig *r, const void *arg) {
    const struct frame *f = (const struct frame *)arg;
    host_receive(r->host, f->bytes, f->len);
    world_run(&r->world, r->world.now + NS_PER_MS);
}

/* Time passes: timers. */
static void step_wait(struct rig *r, const void *arg) {
    (void)arg;
    world_run(&r->world, r->world.now + 100 * NS_PER_SEC);
}

struct step {
    const char *name;
    step_fn *fn;
    const void *arg;
    int atomic; /* engine whose records must be as before or as after; -1 = only sound */
};

/* The step dies at store k, the host comes back; false when the step makes fewer stores. */
static bool die_at(struct rig *r, const struct step *s, uint64_t k, bool torn) {
    rig_restore(r);
    uint64_t deaths = r->host->stats.deaths;
    host_kill_at(r->host, k, torn);
    s->fn(r, s->arg);
    if (r->host->stats.deaths == deaths) {
        host_kill_at(r->host, 0, false);
        return false;
    }
    r->deaths++;
    for (uint32_t i = 0; r->host->dead && i < 10; i++)
        world_run(&r->world, r->world.now + NS_PER_MS);
    cr_assert_not(r->world.failed, "%s dies at store %llu%s: %s", s->name, (unsigned long long)k, torn ? " (torn)" : "",
                  r->world.failure);
    return true;
}

static void run_step(struct rig *r, const struct step *s) {
    rig_save(r);
    uint64_t old = s->atomic < 0 ? 0 : host_digest(r->host, (uint32_t)s->atomic);
    s->fn(r, s->arg);
    uint64_t new = s->atomic < 0 ? 0 : host_digest(r->host, (uint32_t)s->atomic);
    cr_assert_not(r->world.failed, "%s: %s", s->name, r->world.failure);
    for (uint64_t k = 1; die_at(r, s, k, false); k++) {
        uint64_t now = s->atomic < 0 ? 0 : host_digest(r->host, (uint32_t)s->atomic);
        cr_assert(now == old || now == new, "%s dies at store %llu: half of it has happened", s->name,
                  (unsigned long long)k);
        (void)die_at(r, s, k, true); /* later in time, so perhaps a store less: then it simply happens */
        now = s->atomic < 0 ? 0 : host_digest(r->host, (uint32_t)s->atomic);
        cr_assert(now == old || now == new, "%s dies in store %llu: half of it has happened", s->name,
                  (unsigned long long)k);
        cr_assert(k < STORES_MAX, "%s has no end", s->name);
        r->stores++;
    }
    rig_restore(r);
    s->fn(r, s->arg);
}

static void run_steps(struct rig *r, const struct step *steps, size_t n) {
    for (size_t i = 0; i < n; i++)
        run_step(r, &steps[i]);
    cr_assert_not(r->world.failed, "%s", r->world.failure);
}

/* -------------------------------------------------------------------------------------------------------- values */

#define CMD(id_, type) .cmd = {.id = (id_), .size = sizeof(type)}
#define V4(d_)                                                                                                         \
    {                                                                                                                  \
        .w = { 0, 0, __builtin_bswap32(0xffff), __builtin_bswap32(0x0a000000u | (d_)) }                                \
    }
#define V6(d_)                                                                                                         \
    {                                                                                                                  \
        .b = { 0xfd, [15] = (d_) }                                                                                     \
    }
#define V6_GROUP                                                                                                       \
    {                                                                                                                  \
        .b = { 0xff, 0x05, [15] = 9 }                                                                                  \
    }
#define IP_STEP(name_, atomic_, type, ...)                                                                             \
    { name_, step_ip, &(const struct type){__VA_ARGS__}, atomic_ }
#define UDP_STEP(name_, atomic_, type, ...)                                                                            \
    { name_, step_udp, &(const struct type){__VA_ARGS__}, atomic_ }
#define LINK 0
#define UDP  1

static void set_up_ip(struct rig *r) {
    const struct step steps[] = {
        IP_STEP("add an IPv4 address", LINK, ip_cmd_addr, CMD(IP_CMD_ADDR, struct ip_cmd_addr), .addr = V4(1),
                .prefix_len = 120, .dedicated = r->host->params.dedicated),
        IP_STEP("add an IPv6 address", LINK, ip_cmd_addr, CMD(IP_CMD_ADDR, struct ip_cmd_addr), .addr = V6(1),
                .prefix_len = 64, .dedicated = r->host->params.dedicated),
        IP_STEP("add an on-link route", LINK, ip_cmd_route, CMD(IP_CMD_ROUTE, struct ip_cmd_route), .prefix = V4(0),
                .prefix_len = 120, .metric = 1),
        IP_STEP("add an IPv6 route", LINK, ip_cmd_route, CMD(IP_CMD_ROUTE, struct ip_cmd_route), .prefix = V6(0),
                .prefix_len = 64, .metric = 1),
        IP_STEP("add a default route", LINK, ip_cmd_route, CMD(IP_CMD_ROUTE, struct ip_cmd_route), .prefix = V4(0),
                .gateway = V4(254), .prefix_len = 96, .metric = 9),
    };
    run_steps(r, steps, ARRAY_LEN(steps));
}

static void set_up_udp(struct rig *r) {
    const struct step steps[] = {
        UDP_STEP("open a wildcard socket", UDP, udp_cmd_open, CMD(UDP_CMD_OPEN, struct udp_cmd_open),
                 .flow = {.local_port = 1000, .proto = PROTO_UDP}, .sink = SINK(SINK_SESSION, 0, 1), .owner = 1),
        UDP_STEP("open a bound socket", UDP, udp_cmd_open, CMD(UDP_CMD_OPEN, struct udp_cmd_open),
                 .flow = {.local = V4(1), .local_port = 1001, .proto = PROTO_UDP}, .sink = SINK(SINK_SESSION, 0, 2)),
        UDP_STEP("open a connected socket", UDP, udp_cmd_open, CMD(UDP_CMD_OPEN, struct udp_cmd_open),
                 .flow = {.local = V4(1), .remote = V4(2), .local_port = 1002, .remote_port = 7, .proto = PROTO_UDP},
                 .sink = SINK(SINK_SESSION, 0, 3)),
    };
    run_steps(r, steps, ARRAY_LEN(steps));
}

/* ----------------------------------------------------------------------------------------------------------- tests */

Test(kill, udp_commands_happen_wholly_or_not_at_all, .timeout = 60) {
    struct rig r;
    rig_init(&r, false);
    set_up_udp(&r);
    const struct step steps[] = {
        UDP_STEP("first of a group", UDP, udp_cmd_open, CMD(UDP_CMD_OPEN, struct udp_cmd_open),
                 .flow = {.local_port = 1003, .proto = PROTO_UDP}, .sink = SINK(SINK_SESSION, 0, 4), .reuseport = true),
        UDP_STEP("second of a group", UDP, udp_cmd_open, CMD(UDP_CMD_OPEN, struct udp_cmd_open),
                 .flow = {.local_port = 1003, .proto = PROTO_UDP}, .sink = SINK(SINK_SESSION, 0, 5), .reuseport = true),
        UDP_STEP("join", UDP, udp_cmd_group, CMD(UDP_CMD_GROUP, struct udp_cmd_group), .sock = 0, .group = V6_GROUP),
        UDP_STEP("join another", UDP, udp_cmd_group, CMD(UDP_CMD_GROUP, struct udp_cmd_group), .sock = 3,
                 .group = V6_GROUP),
        UDP_STEP("set an option", UDP, udp_cmd_option, CMD(UDP_CMD_OPTION, struct udp_cmd_option), .sock = 1,
                 .option = UDP_OPT_TTL, .value = 9),
        UDP_STEP("connect", UDP, udp_cmd_open, CMD(UDP_CMD_UPDATE, struct udp_cmd_open), .sock = 1,
                 .flow = {.local = V4(1), .remote = V4(2), .local_port = 1001, .remote_port = 9, .proto = PROTO_UDP},
                 .sink = SINK(SINK_SESSION, 0, 2)),
        UDP_STEP("disconnect", UDP, udp_cmd_open, CMD(UDP_CMD_UPDATE, struct udp_cmd_open), .sock = 2,
                 .flow = {.local = V4(1), .local_port = 1002, .proto = PROTO_UDP}, .sink = SINK(SINK_SESSION, 0, 3)),
        UDP_STEP("leave", UDP, udp_cmd_group, CMD(UDP_CMD_GROUP, struct udp_cmd_group), .sock = 3, .group = V6_GROUP,
                 .leave = true),
        UDP_STEP("close a plain socket", UDP, udp_cmd_close, CMD(UDP_CMD_CLOSE, struct udp_cmd_close), .sock = 1),
        UDP_STEP("close a group's member", UDP, udp_cmd_close, CMD(UDP_CMD_CLOSE, struct udp_cmd_close), .sock = 4),
        /* Its membership is a record of its own, so there is a state in between; it must be a sound one. */
        UDP_STEP("close a socket with a membership", -1, udp_cmd_close, CMD(UDP_CMD_CLOSE, struct udp_cmd_close),
                 .sock = 0),
        UDP_STEP("open at a used place", UDP, udp_cmd_open, CMD(UDP_CMD_OPEN, struct udp_cmd_open),
                 .flow = {.local_port = 1009, .proto = PROTO_UDP}, .sink = SINK(SINK_SESSION, 0, 9)),
    };
    run_steps(&r, steps, ARRAY_LEN(steps));
    cr_assert(r.stores > 100, "only %llu stores were tried: is the module instrumented?", (unsigned long long)r.stores);
    rig_fini(&r);
}

Test(kill, ip_commands_happen_wholly_or_not_at_all, .timeout = 60) {
    struct rig r;
    rig_init(&r, false);
    set_up_ip(&r);
    const struct step steps[] = {
        IP_STEP("change an address", LINK, ip_cmd_addr, CMD(IP_CMD_ADDR, struct ip_cmd_addr), .addr = V4(1),
                .prefix_len = 112),
        IP_STEP("change a route", LINK, ip_cmd_route, CMD(IP_CMD_ROUTE, struct ip_cmd_route), .prefix = V4(0),
                .prefix_len = 120, .metric = 1, .mtu = 1400),
        IP_STEP("learn a neighbour", LINK, ip_cmd_neigh, CMD(IP_CMD_NEIGH, struct ip_cmd_neigh), .addr = V4(2),
                .mac = {2, 0, 0, 0, 0, 2}, .state = 1),
        IP_STEP("its address changes", LINK, ip_cmd_neigh, CMD(IP_CMD_NEIGH, struct ip_cmd_neigh), .addr = V4(2),
                .mac = {2, 0, 0, 0, 0, 9}, .state = 1),
        IP_STEP("lose it", LINK, ip_cmd_neigh, CMD(IP_CMD_NEIGH, struct ip_cmd_neigh), .addr = V4(2), .state = 2),
        IP_STEP("learn it again", LINK, ip_cmd_neigh, CMD(IP_CMD_NEIGH, struct ip_cmd_neigh), .addr = V4(2),
                .mac = {2, 0, 0, 0, 0, 2}, .state = 1),
        IP_STEP("remove a route", LINK, ip_cmd_route, CMD(IP_CMD_ROUTE, struct ip_cmd_route), .prefix = V4(0),
                .gateway = V4(254), .prefix_len = 96, .metric = 9, .remove = true),
        IP_STEP("remove an address", LINK, ip_cmd_addr, CMD(IP_CMD_ADDR, struct ip_cmd_addr), .addr = V6(1),
                .prefix_len = 64, .remove = true),
        IP_STEP("begin a resync", -1, ip_cmd_flush, CMD(IP_CMD_FLUSH, struct ip_cmd_flush), .begin = true),
        IP_STEP("give an address again", -1, ip_cmd_addr, CMD(IP_CMD_ADDR, struct ip_cmd_addr), .addr = V4(1),
                .prefix_len = 120),
        IP_STEP("sweep the rest", -1, ip_cmd_flush, CMD(IP_CMD_FLUSH, struct ip_cmd_flush), .begin = false),
    };
    run_steps(&r, steps, ARRAY_LEN(steps));
    cr_assert(r.stores > 100, "only %llu stores were tried: is the module instrumented?", (unsigned long long)r.stores);
    rig_fini(&r);
}

/* An IPv4 UDP frame, or a fragment of one, from 10.0.0.2 to 10.0.0.1 port 1000, without a UDP checksum. */
static struct frame udp_frame(uint16_t payload, uint16_t frag, uint8_t proto) {
    struct frame f = {.len = ETH_LEN + IP4_LEN + UDP_LEN + payload,
                      .bytes = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0}};
    uint8_t *ip = f.bytes + ETH_LEN, *udp = ip + IP4_LEN;
    be16_store(ip + 2, (uint16_t)(IP4_LEN + UDP_LEN + payload));
    be16_store(ip + 4, 77);
    be16_store(ip + 6, frag);
    ip[8] = 64;
    ip[9] = proto;
    memcpy(ip + 12, (const uint8_t[]){10, 0, 0, 2, 10, 0, 0, 1}, 8);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, ip, IP4_LEN));
    memcpy(ip + 10, &sum, sizeof sum);
    be16_store(udp, 7);
    be16_store(udp + 2, 1000);
    be16_store(udp + 4, (uint16_t)(frag != 0 ? 48 : UDP_LEN + payload));
    return f;
}

Test(kill, packets_leave_sound_records_at_every_store, .timeout = 60) {
    struct rig r;
    rig_init(&r, false);
    set_up_ip(&r);
    set_up_udp(&r);
    static const uint8_t payload[3000] = {1};
    const struct frame whole = udp_frame(20, 0, PROTO_UDP), first = udp_frame(16, 0x2000, PROTO_UDP);
    const struct frame second = udp_frame(16, 3, PROTO_UDP), unknown = udp_frame(20, 0, 99);
    const struct host_send send = {.payload = payload, .len = 100, .sock = 2, .proto = PROTO_UDP};
    const struct host_send large = {.payload = payload, .len = 3000, .sock = 2, .proto = PROTO_UDP};
    const struct host_send local = {
        .payload = payload, .len = 100, .sock = 1, .proto = PROTO_UDP, .remote = V4(1), .remote_port = 1000};
    const struct step steps[] = {
        {"send to an unknown neighbour", step_send, &send, -1},
        {"time passes", step_wait, NULL, -1},
        IP_STEP("learn the neighbour", -1, ip_cmd_neigh, CMD(IP_CMD_NEIGH, struct ip_cmd_neigh), .addr = V4(2),
                .mac = {2, 0, 0, 0, 0, 2}, .state = 1),
        {"send", step_send, &send, -1},
        {"send in fragments", step_send, &large, -1},
        {"send to this host", step_send, &local, -1},
        {"receive", step_frame, &whole, -1},
        {"receive a first fragment", step_frame, &first, -1},
        {"receive a last fragment", step_frame, &second, -1},
        {"receive an unknown protocol", step_frame, &unknown, -1},
        {"time passes again", step_wait, NULL, -1},
    };
    run_steps(&r, steps, ARRAY_LEN(steps));
    cr_assert(r.stores > 50, "only %llu stores were tried", (unsigned long long)r.stores);
    rig_fini(&r);
}

Test(kill, a_dedicated_host_dies_while_it_resolves, .timeout = 60) {
    struct rig r;
    rig_init(&r, true);
    set_up_ip(&r);
    set_up_udp(&r);
    static const uint8_t payload[100] = {1};
    const struct host_send send = {.payload = payload, .len = 100, .sock = 2, .proto = PROTO_UDP};
    struct frame arp = {.len = 60, .bytes = {2, 0, 0, 0, 0, 1, 2, 0,  0, 0, 0, 2, 0x08, 0x06, 0, 1, 8, 0,  6, 4, 0,
                                             2, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 2, 0,    0,    0, 0, 1, 10, 0, 0, 1}};
    struct frame question = arp;
    question.bytes[21] = 1;
    const struct step steps[] = {
        {"send to an unknown neighbour", step_send, &send, -1},
        {"the answer", step_frame, &arp, -1},
        {"send", step_send, &send, -1},
        {"a question", step_frame, &question, -1},
        {"time passes", step_wait, NULL, -1},
    };
    run_steps(&r, steps, ARRAY_LEN(steps));
    rig_fini(&r);
}

/* Recovery itself may be cut short, any number of times, and is then done again. */
Test(kill, death_during_recovery_is_one_more_death, .timeout = 60) {
    struct rig r;
    rig_init(&r, false);
    set_up_ip(&r);
    set_up_udp(&r);
    const struct udp_cmd_open connect = {
        CMD(UDP_CMD_UPDATE, struct udp_cmd_open), .sock = 1,
        .flow = {.local = V4(1), .remote = V4(2), .local_port = 1001, .remote_port = 9, .proto = PROTO_UDP},
        .sink = SINK(SINK_SESSION, 0, 2)};
    rig_save(&r);
    uint64_t recovered = 0;
    for (uint64_t k = 1; k < 40; k++) {
        for (uint64_t again = 1; again < 400; again += 7) {
            rig_restore(&r);
            host_kill_at(r.host, k, false);
            step_udp(&r, &connect);
            if (!r.host->dead)
                break;
            host_kill_at(r.host, again, again % 2);
            world_run(&r.world, r.world.now + NS_PER_MS);
            cr_assert_not(r.world.failed, "%llu, then %llu: %s", (unsigned long long)k, (unsigned long long)again,
                          r.world.failure);
            cr_assert_not(r.host->dead);
            host_kill_at(r.host, 0, false);
            recovered++;
        }
    }
    cr_assert(recovered > 100 && r.host->stats.deaths > recovered, "%llu", (unsigned long long)recovered);
    rig_fini(&r);
}
