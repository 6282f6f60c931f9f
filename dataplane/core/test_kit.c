/* SPDX-License-Identifier: Apache-2.0
 *
 * See test_kit.h.
 */
#include "dataplane/core/test_kit.h"

#include <criterion/criterion.h>

#include "engines/tcp/tcp_cmd.h"
#include "engines/wire.h"

/* ---- the kit ---- */

struct ipaddr kit_addr(uint8_t n) {
    return ipaddr_from_v4((const uint8_t[]){10, 0, 0, n});
}
struct ipaddr kit_far_addr(uint8_t n) {
    return ipaddr_from_v4((const uint8_t[]){192, 168, 0, n});
}

void kit_open(struct kit *k, const struct runtime_config *cfg) {
    static const struct runtime_config small = {.shard_count = 1, .small_packets = 1024, .large_packets = 4, .seed = 7};
    uint32_t index;
    cr_assert_eq(runtime_create(cfg != NULL ? cfg : &small, &k->rt, &k->err), 0, "%s", k->err.text);
    cr_assert_eq(runtime_engine_add(k->rt, &kit_link, NULL, &index, &k->err), 0, "%s", k->err.text);
    cr_assert_eq(runtime_engine_add(k->rt, &usher_engine_udp, NULL, &index, &k->err), 0, "%s", k->err.text);
    cr_assert_eq(runtime_engine_add(k->rt, &usher_engine_echo, NULL, &index, &k->err), 0, "%s", k->err.text);
}

void kit_tcp(struct kit *k, uint32_t conn_max) {
    const struct tcp_config cfg = {.conn_max = conn_max, .port_low = 40000, .port_high = 49999};
    uint32_t index;
    cr_assert_eq(runtime_engine_add(k->rt, &usher_engine_tcp, &cfg, &index, &k->err), 0, "%s", k->err.text);
    cr_assert_eq(index, KIT_TCP);
}

int kit_listen(struct kit_client *kc, uint16_t port, struct session_socket *ret_sock) {
    struct session_socket_params params = {.flow = {.local_port = port, .proto = PROTO_TCP}, .owner = 1};
    return session_socket_open(kc->s, &params, ret_sock);
}

void kit_close(struct kit *k) {
    runtime_destroy(k->rt);
}

uint32_t kit_echo(struct kit *k, uint32_t shard, uint16_t port) {
    struct udp_cmd_open open = {.cmd = {UDP_CMD_OPEN, sizeof open},
                                .flow = {.local_port = port, .proto = PROTO_UDP},
                                .sink = SINK(SINK_ENGINE, KIT_ECHO, 0)};
    struct engine_reply reply;
    cr_assert_eq(runtime_command(k->rt, shard, KIT_UDP, &open.cmd, &reply), 0, "%s", reply.text);
    cr_assert_eq(runtime_steer(k->rt, &open.flow, shard, true), 0);
    return reply.value;
}

int kit_bind(struct kit *k, struct kit_client *kc, uint16_t port, struct session_socket *ret_sock) {
    (void)k;
    struct session_socket_params params = {.flow = {.local_port = port, .proto = PROTO_UDP}, .owner = 1};
    return session_socket_open(kc->s, &params, ret_sock);
}

void kit_attach(struct kit *k, struct kit_client *kc, uint16_t port) {
    struct session_params params = {.abi = 1};
    cr_assert_eq(session_create(k->rt, &params, &kc->s, &kc->fds), 0);
    cr_assert_eq(fake_client_map(&kc->c, kc->fds.memfd, kc->fds.wake_peer), 0);
    cr_assert_eq(kit_bind(k, kc, port, &kc->sock), 0);
    fake_client_use_set(&kc->c, kc->sock.set, 0, kc->sock.kick_fd);
}

void kit_detach(struct kit *k, struct kit_client *kc) {
    (void)k;
    session_destroy(kc->s, DETACH_CLIENT_CLOSED);
    fake_client_unmap(&kc->c);
    close(kc->fds.memfd);
    close(kc->fds.wake_peer);
    if (kc->sock.kick_fd >= 0)
        close(kc->sock.kick_fd);
}

static ns_t now = NS_PER_SEC;

void kit_pass(ns_t ns) {
    now += ns;
}

uint32_t kit_turn(struct kit *k) {
    uint32_t work = 0;
    for (uint32_t i = 0; i < k->rt->shard_count; i++) /* a letter to a runtime at rest reads the real clock */
        now = k->rt->shard[i]->now > now ? k->rt->shard[i]->now : now;
    now += NS_PER_US;
    for (uint32_t i = 0; i < k->rt->shard_count; i++)
        work += shard_poll(k->rt->shard[i], now);
    return work;
}

void kit_settle(struct kit *k) {
    for (uint32_t i = 0; i < 10000 && kit_turn(k) > 0; i++)
        continue;
}

uint64_t kit_drops(struct kit *k, enum drop_reason why) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < k->rt->shard_count; i++)
        n += k->rt->shard[i]->stats.drops[why];
    return n;
}
