/* SPDX-License-Identifier: Apache-2.0
 *
 * The engines' own reader and writer against the generated protobuf code: what one side writes the other reads, field
 * by field, so that the .proto files in proto/usher/state/v1 say the truth.
 */
#include <criterion/criterion.h>

#include "engines/echo/echo_cmd.h"
#include "engines/ip/ip_cmd.h"
#include "engines/qos/qos_cmd.h"
#include "engines/testkit.h"
#include "engines/udp/udp_cmd.h"
#include "engines/wire.h"
#include "usher/state/v1/echo.pb-c.h"
#include "usher/state/v1/ip.pb-c.h"
#include "usher/state/v1/qos.pb-c.h"
#include "usher/state/v1/udp.pb-c.h"

extern const struct engine_ops usher_engine_ip, usher_engine_udp, usher_engine_echo, usher_engine_qos;

struct saved {
    uint8_t bytes[8][512];
    size_t size[8];
    uint32_t count;
};

static struct saved save_all(const struct testkit_engine *e) {
    struct saved s = {0};
    uint64_t cursor = 0;
    int64_t n;
    while ((n = e->ops->save(e->st, &cursor, s.bytes[s.count], sizeof s.bytes[0])) > 0)
        s.size[s.count++] = (size_t)n;
    cr_assert_eq(n, 0);
    return s;
}

static bool is_addr(const ProtobufCBinaryData *b, const char *text) {
    struct ipaddr a = testkit_addr(text);
    return b->len == 16 && memcmp(b->data, a.b, 16) == 0;
}

/* Packs `m` with the generated code and has `e` load it; then what `e` saves must be the same bytes. */
static void there_and_back(struct testkit_engine *e, const ProtobufCMessage *m, const struct saved *s, uint32_t i) {
    uint8_t packed[512];
    size_t n = protobuf_c_message_pack(m, packed);
    cr_assert_eq(n, s->size[i]);
    cr_assert_eq(memcmp(packed, s->bytes[i], n), 0);
    cr_assert_eq(e->ops->load(e->st, e->ops->layout_version, packed, n), 0);
}

Test(state_proto, udp) {
    struct testkit *tk = testkit_create();
    struct testkit_engine a, b;
    testkit_open(&a, &usher_engine_udp, NULL, 1);
    testkit_open(&b, &usher_engine_udp, NULL, 2);
    struct udp_cmd_open o = {.cmd = {UDP_CMD_OPEN, sizeof o},
                             .flow = testkit_flow("10.0.0.1", 53, "10.0.0.2", 54),
                             .sink = SINK(SINK_SESSION, 3, 4),
                             .owner = 5,
                             .ifindex = 6,
                             .reuseport = true,
                             .spread = 1};
    cr_assert_eq(testkit_command(tk, &a, &o).error, 0);
    struct udp_cmd_group g = {.cmd = {UDP_CMD_GROUP, sizeof g}, .ifindex = 9, .group = testkit_addr("ff02::9")};
    cr_assert_eq(testkit_command(tk, &a, &g).error, 0);
    struct saved s = save_all(&a);
    cr_assert_eq(s.count, 2);
    Usher__State__V1__UdpRecord *r = usher__state__v1__udp_record__unpack(NULL, s.size[0], s.bytes[0]);
    cr_assert(r != NULL && r->record_case == USHER__STATE__V1__UDP_RECORD__RECORD_SOCKET);
    const Usher__State__V1__UdpSocket *k = r->socket;
    cr_assert(is_addr(&k->local, "10.0.0.1") && is_addr(&k->remote, "10.0.0.2"));
    cr_assert(k->local_port == 53 && k->remote_port == 54 && k->sink == SINK(SINK_SESSION, 3, 4));
    cr_assert(k->owner == 5 && k->ifindex == 6 && k->spread == 1 && k->mcast_ttl == 1);
    there_and_back(&b, &r->base, &s, 0);
    usher__state__v1__udp_record__free_unpacked(r, NULL);
    r = usher__state__v1__udp_record__unpack(NULL, s.size[1], s.bytes[1]);
    cr_assert(r != NULL && r->record_case == USHER__STATE__V1__UDP_RECORD__RECORD_MEMBER);
    cr_assert(is_addr(&r->member->group, "ff02::9") && r->member->ifindex == 9 && r->member->socket == 0);
    there_and_back(&b, &r->base, &s, 1);
    usher__state__v1__udp_record__free_unpacked(r, NULL);
    testkit_close(tk, &a);
    testkit_close(tk, &b);
    testkit_destroy(tk);
}

static void ip_fill(struct testkit *tk, struct testkit_engine *e) {
    struct ip_cmd_addr a = {.cmd = {IP_CMD_ADDR, sizeof a},
                            .addr = testkit_addr("10.0.0.1"),
                            .port = 2,
                            .prefix_len = 120,
                            .dedicated = true};
    struct ip_cmd_route r = {.cmd = {IP_CMD_ROUTE, sizeof r},
                             .prefix = testkit_addr("172.16.0.0"),
                             .gateway = testkit_addr("10.0.0.2"),
                             .source = testkit_addr("10.0.0.1"),
                             .metric = 7,
                             .port = 2,
                             .mtu = 1400,
                             .prefix_len = 108};
    struct ip_cmd_neigh n = {.cmd = {IP_CMD_NEIGH, sizeof n},
                             .addr = testkit_addr("10.0.0.2"),
                             .port = 2,
                             .mac = {2, 3, 4, 5, 6, 7},
                             .state = 1};
    cr_assert_eq(testkit_command(tk, e, &a).error, 0);
    cr_assert_eq(testkit_command(tk, e, &r).error, 0);
    cr_assert_eq(testkit_command(tk, e, &n).error, 0);
}

static void ip_check(const Usher__State__V1__IpRecord *r) {
    switch (r->record_case) {
    case USHER__STATE__V1__IP_RECORD__RECORD_ADDRESS:
        cr_assert(is_addr(&r->address->address, "10.0.0.1") && r->address->port == 2);
        cr_assert(r->address->prefix_len == 120 && r->address->flags == 1);
        break;
    case USHER__STATE__V1__IP_RECORD__RECORD_ROUTE:
        cr_assert(is_addr(&r->route->prefix, "172.16.0.0") && is_addr(&r->route->gateway, "10.0.0.2"));
        cr_assert(is_addr(&r->route->source, "10.0.0.1") && r->route->metric == 7 && r->route->port == 2);
        cr_assert(r->route->mtu == 1400 && r->route->prefix_len == 108 && r->route->unreachable == 0);
        break;
    case USHER__STATE__V1__IP_RECORD__RECORD_NEIGHBOUR:
        cr_assert(is_addr(&r->neighbour->address, "10.0.0.2") && r->neighbour->port == 2);
        cr_assert(r->neighbour->mac.len == 6 && r->neighbour->mac.data[5] == 7 && r->neighbour->due > 0);
        break;
    default:
        cr_assert_eq(r->record_case, USHER__STATE__V1__IP_RECORD__RECORD_FLUSH_ROUND);
    }
}

Test(state_proto, ip) {
    struct testkit *tk = testkit_create();
    struct testkit_engine a, b;
    testkit_open(&a, &usher_engine_ip, NULL, 1);
    testkit_open(&b, &usher_engine_ip, NULL, 2);
    ip_fill(tk, &a);
    struct saved s = save_all(&a);
    cr_assert_eq(s.count, 4);
    for (uint32_t i = 0; i < s.count; i++) {
        Usher__State__V1__IpRecord *r = usher__state__v1__ip_record__unpack(NULL, s.size[i], s.bytes[i]);
        cr_assert_not_null(r);
        ip_check(r);
        there_and_back(&b, &r->base, &s, i);
        usher__state__v1__ip_record__free_unpacked(r, NULL);
    }
    testkit_close(tk, &a);
    testkit_close(tk, &b);
    testkit_destroy(tk);
}

Test(state_proto, echo) {
    struct testkit *tk = testkit_create();
    struct testkit_engine a, b;
    testkit_open(&a, &usher_engine_echo, NULL, 1);
    testkit_open(&b, &usher_engine_echo, NULL, 2);
    struct echo_cmd_generate g = {.cmd = {ECHO_CMD_GENERATE, sizeof g},
                                  .sock = 1,
                                  .window = 2,
                                  .size = 64,
                                  .peer_port = 9,
                                  .peer = testkit_addr("fd00::2"),
                                  .timeout_ns = 1234567890123};
    cr_assert_eq(testkit_command(tk, &a, &g).error, 0);
    struct saved s = save_all(&a);
    cr_assert_eq(s.count, 1);
    Usher__State__V1__EchoLoop *r = usher__state__v1__echo_loop__unpack(NULL, s.size[0], s.bytes[0]);
    cr_assert(r != NULL && r->socket == 1 && r->window == 2 && r->size == 64 && r->peer_port == 9);
    cr_assert(is_addr(&r->peer, "fd00::2") && r->timeout_ns == 1234567890123);
    there_and_back(&b, &r->base, &s, 0);
    usher__state__v1__echo_loop__free_unpacked(r, NULL);
    testkit_close(tk, &a);
    testkit_close(tk, &b);
    testkit_destroy(tk);
}

static void qos_fill(struct testkit *tk, struct testkit_engine *e) {
    struct qos_cmd_begin b = {.cmd = {QOS_CMD_BEGIN, sizeof b}, .fallback = 1, .overhead = 24};
    struct qos_cmd_node n = {.cmd = {QOS_CMD_NODE, sizeof n}, .parent = QOS_NONE, .weight = 1, .max_rate = 9000};
    struct qos_cmd_commit c = {.cmd = {QOS_CMD_COMMIT, sizeof c}};
    struct qos_cmd_owner o = {.cmd = {QOS_CMD_OWNER, sizeof o}, .owner = 77, .is = {1, {31, 32, 33}}};
    cr_assert_eq(testkit_command(tk, e, &b).error, 0);
    cr_assert_eq(testkit_command(tk, e, &n).error, 0);
    n = (struct qos_cmd_node){.cmd = n.cmd,
                              .id = 1,
                              .weight = 3,
                              .queue_bytes = 4,
                              .min_rate = 5000,
                              .burst = 7,
                              .key = 9,
                              .each = QOS_EACH_USER};
    cr_assert_eq(testkit_command(tk, e, &n).error, 0);
    cr_assert_eq(testkit_command(tk, e, &c).error, 0);
    cr_assert_eq(testkit_command(tk, e, &o).error, 0);
}

static void qos_record_check(const Usher__State__V1__QosRecord *r) {
    switch (r->record_case) {
    case USHER__STATE__V1__QOS_RECORD__RECORD_NODE:
        cr_assert(r->node->id == 0 ? r->node->parent == 0 && r->node->max_rate == 9000
                                   : r->node->parent == 1 && r->node->min_rate == 5000 && r->node->burst == 7 &&
                                         r->node->key == 9 && r->node->each == QOS_EACH_USER);
        break;
    case USHER__STATE__V1__QOS_RECORD__RECORD_TREE:
        cr_assert(r->tree->fallback == 1 && r->tree->overhead == 24);
        break;
    default:
        cr_assert(r->owner->owner == 77 && r->owner->leaf == 2 && r->owner->user == 31 && r->owner->program == 33);
    }
}

Test(state_proto, qos) {
    struct testkit *tk = testkit_create();
    struct testkit_engine a, b;
    testkit_open(&a, &usher_engine_qos, NULL, 1);
    testkit_open(&b, &usher_engine_qos, NULL, 2);
    qos_fill(tk, &a);
    struct saved s = save_all(&a);
    cr_assert_eq(s.count, 4);
    for (uint32_t i = 0; i < s.count; i++) {
        Usher__State__V1__QosRecord *r = usher__state__v1__qos_record__unpack(NULL, s.size[i], s.bytes[i]);
        cr_assert_not_null(r);
        qos_record_check(r);
        there_and_back(&b, &r->base, &s, i);
        usher__state__v1__qos_record__free_unpacked(r, NULL);
    }
    testkit_close(tk, &a);
    testkit_close(tk, &b);
    testkit_destroy(tk);
}
