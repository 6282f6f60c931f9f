/* SPDX-License-Identifier: Apache-2.0
 *
 * Fuzz target: saved state. Hostile records into load(), and damaged arenas into recover(): either is refused, or what
 * is left is sound, works, and survives a further recovery without a loss. Input: engine and way, then records or
 * damage.
 */
#include <stdio.h>
#include <stdlib.h>

#include "engines/echo/echo_cmd.h"
#include "engines/testkit.h"
#include "test/fuzz/fuzz_host.h"
#include "test/fuzz/fuzz_input.h"

static const struct udp_config udp_config = {.socket_max = 8, .member_max = 4};
static const struct ip_config ip_config = {
    .addr_max = 4, .route_max = 8, .neigh_max = 8, .pmtu_max = 4, .reassembly_max = 4, .neigh_queue_max = 4};

static const struct {
    const struct engine_ops *ops;
    const void *cfg;
} engines[] = {{&usher_engine_udp, &udp_config}, {&usher_engine_ip, &ip_config}, {&usher_engine_echo, NULL}};

static void must(bool good, const struct testkit_engine *e, const char *what) {
    if (good)
        return;
    fprintf(stderr, "fuzz: %s: %s\n", e->ops->name, what);
    abort();
}

static void must_be_sound(const struct testkit_engine *e, const char *when) {
    must(e->ops->check == NULL || e->ops->check(e->st) == 0, e, when);
}

static void load_records(struct testkit_engine *e, struct fuzz_input *in) {
    for (uint32_t i = 0; i < 32 && in->left > 0; i++) {
        size_t len;
        uint8_t want = fuzz_u8(in);
        const uint8_t *p = fuzz_bytes(in, want, &len);
        uint8_t *exact = (uint8_t *)malloc(len + (len == 0));
        memcpy(exact, p, len);
        (void)e->ops->load(e->st, e->ops->layout_version, exact, len);
        free(exact);
        must_be_sound(e, "unsound after a load");
    }
}

static const uint8_t v6_group[16] = {0xff, 5, [15] = 1};

/* Some records of each kind, so that damage has something to hit. */
static void populate(struct testkit *tk, struct testkit_engine *e) {
    struct ipaddr ours = testkit_addr("10.0.0.1"), peer = testkit_addr("10.0.0.2");
    for (uint16_t i = 0; e->ops == &usher_engine_udp && i < 4; i++) {
        struct udp_cmd_open open = {.cmd = {.id = UDP_CMD_OPEN, .size = sizeof open}, .sink = SINK(SINK_SESSION, 0, i)};
        open.flow = (struct flow){.local = ours, .local_port = (uint16_t)(1000 + i), .proto = 17};
        if (i == 3)
            open.flow.remote = peer, open.flow.remote_port = 7;
        (void)testkit_command(tk, e, &open);
        struct udp_cmd_group group = {.cmd = {.id = UDP_CMD_GROUP, .size = sizeof group}, .sock = i};
        group.group = ipaddr_from_v6(v6_group);
        (void)testkit_command(tk, e, &group);
    }
    if (e->ops == &usher_engine_ip) {
        struct ip_cmd_addr addr = {.cmd = {.id = IP_CMD_ADDR, .size = sizeof addr}, .addr = ours, .prefix_len = 120};
        struct ip_cmd_route route = {
            .cmd = {.id = IP_CMD_ROUTE, .size = sizeof route}, .prefix = ours, .prefix_len = 120};
        struct ip_cmd_neigh neigh = {.cmd = {.id = IP_CMD_NEIGH, .size = sizeof neigh}, .addr = peer, .state = 1};
        (void)testkit_command(tk, e, &addr);
        (void)testkit_command(tk, e, &route);
        (void)testkit_command(tk, e, &neigh);
    }
    if (e->ops == &usher_engine_echo) {
        struct echo_cmd_generate g = {.cmd = {.id = ECHO_CMD_GENERATE, .size = sizeof g},
                                      .window = 2,
                                      .size = 64,
                                      .peer_port = 7,
                                      .peer = peer,
                                      .timeout_ns = NS_PER_SEC};
        (void)testkit_command(tk, e, &g);
    }
}

/* Damage at places that the input names; offsets are mostly small, where headers and first records are. */
static void damage(struct testkit_engine *e, struct fuzz_input *in) {
    while (in->left > 0) {
        uint32_t at = fuzz_u8(in) & 1 ? fuzz_u32(in) : fuzz_u16(in) % 4096u;
        ((uint8_t *)e->st)[at % e->size] = fuzz_u8(in);
    }
}

static void recover_damaged(struct testkit *tk, struct testkit_engine *e, struct fuzz_input *in) {
    uint32_t lost = 0, again = 0;
    populate(tk, e);
    testkit_clear(tk);
    damage(e, in);
    if (e->ops->recover(e->st, e->size, &lost) != 0)
        return;
    must_be_sound(e, "unsound after a recovery");
    must(e->ops->recover(e->st, e->size, &again) == 0 && again == 0, e, "a second recovery finds more to lose");
    must_be_sound(e, "unsound after a second recovery");
    populate(tk, e);
    must_be_sound(e, "unsound at work after a recovery");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct fuzz_input in = {data, size};
    uint8_t how = fuzz_u8(&in);
    static struct testkit *tk; /* made once: its pools are megabytes */
    tk = tk != NULL ? tk : testkit_create();
    struct testkit_engine e;
    uint32_t which = how % ARRAY_LEN(engines);
    testkit_open(&e, engines[which].ops, engines[which].cfg, 5);
    if (how & 0x80)
        recover_damaged(tk, &e, &in);
    else
        load_records(&e, &in);
    testkit_clear(tk);
    free(e.st);
    return 0;
}
