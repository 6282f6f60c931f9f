/* SPDX-License-Identifier: Apache-2.0
 *
 * The pipeline: which way packets take past filters and queues, what happens to those that have nowhere to go, and that
 * every one of them comes home. Shards are turned by hand.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "dataplane/core/test_kit.h"

/* ---- engines for the places in between: they write down whom they saw ---- */

static char path[256];
static struct engine_ops filter_ops, qos_ops;
static bool reject, circle;

static void note(const char *where, uint32_t n) {
    size_t at = strlen(path);
    snprintf(path + at, sizeof path - at, "%s%u ", where, n);
}

static void filter_in(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)st;
    note("fin", n);
    for (uint32_t i = 0; i < n; i++) {
        if (reject)
            pkt_drop(io, pkts[i], DROP_ENGINE_LIMIT);
        else
            (void)pkt_vec_push(io->up, pkts[i]);
    }
}

static void filter_out(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)st;
    note("fout", n);
    for (uint32_t i = 0; i < n; i++)
        (void)pkt_vec_push(circle ? io->up : io->down, pkts[i]);
}

static void qos_out(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)st;
    note("qos", n);
    for (uint32_t i = 0; i < n; i++)
        (void)pkt_vec_push(io->down, pkts[i]);
}

static struct kit k;
static struct kit_client a;

static void setup(void) {
    uint32_t index;
    kit_open(&k, NULL);
    filter_ops = qos_ops = kit_link;
    filter_ops.name = "filter";
    filter_ops.stage = STAGE_FILTER;
    filter_ops.input = filter_in;
    filter_ops.output = filter_out;
    qos_ops.name = "qos";
    qos_ops.stage = STAGE_QOS;
    qos_ops.caps = ENGINE_CAP_OUTPUT;
    qos_ops.output = qos_out;
    cr_assert_eq(runtime_engine_add(k.rt, &filter_ops, NULL, &index, &k.err), 0, "%s", k.err.text);
    cr_assert_eq(runtime_engine_add(k.rt, &qos_ops, NULL, &index, &k.err), 0, "%s", k.err.text);
    kit_echo(&k, 0, 7);
    kit_attach(&k, &a, 5000);
}

static void teardown(void) {
    kit_detach(&k, &a);
    cr_assert_eq(k.rt->shard[0]->small.pool.free_count, k.rt->shard[0]->small.pool.count);
    kit_close(&k);
}

TestSuite(hops, .init = setup, .fini = teardown);

Test(hops, local_packets_pass_the_filter_both_ways_and_no_queue) {
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_str_eq(path, "fout1 fin1 fout1 fin1 ");
    cr_assert(fake_client_ready(&a.c));
    cr_assert_eq(k.rt->shard[0]->stats.local_packets, 2);
}

Test(hops, far_packets_pass_the_queue_and_die_without_a_port) {
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_far_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_str_eq(path, "fout1 qos1 ");
    cr_assert_eq(kit_drops(&k, DROP_PORT_DOWN), 1);
}

Test(hops, a_rejecting_filter_keeps_its_reason) {
    reject = true;
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_eq(kit_drops(&k, DROP_ENGINE_LIMIT), 1);
    cr_assert_not(fake_client_ready(&a.c));
}

Test(hops, a_full_burst_goes_on_in_order) {
    struct ush_cqe e;
    for (uint32_t i = 0; i < 300; i++) {
        memcpy(fake_client_tx(&a.c, i * 64), &i, 4);
        fake_client_send(&a.c, a.sock.handle, i * 64, 64, kit_addr(1).b, 7);
    }
    kit_settle(&k);
    for (uint32_t i = 0; i < 300; i++) {
        uint32_t number;
        cr_assert(fake_client_take(&a.c, &e));
        memcpy(&number, fake_client_rx(&a.c, e.recv.cell), 4);
        cr_assert_eq(number, i);
    }
}

static struct pkt *packet(uint8_t proto, uint16_t local_port) {
    struct pkt *p = pkt_alloc(&k.rt->shard[0]->small.pool);
    p->flow = (struct flow){.local = kit_addr(1), .local_port = local_port, .proto = proto};
    return p;
}

Test(hops, a_protocol_without_engine_and_a_sink_that_is_gone_are_counted) {
    struct shard *sh = k.rt->shard[0];
    struct pkt *p = packet(99, 1);
    cr_assert(hop_push(sh, HOP_TRANSPORT_IN, p));
    p = packet(PROTO_UDP, 1);
    p->sink = SINK(SINK_SESSION, 777, 1);
    cr_assert(hop_push(sh, HOP_SINK, p));
    p = packet(PROTO_UDP, 1);
    p->sink = SINK(SINK_ENGINE, 15, 1);
    cr_assert(hop_push(sh, HOP_SINK, p));
    p = packet(PROTO_UDP, 1);
    p->sink = 0;
    cr_assert(hop_push(sh, HOP_SINK, p));
    hops_run(sh);
    cr_assert_eq(kit_drops(&k, DROP_IP_PROTO), 1);
    cr_assert_eq(kit_drops(&k, DROP_SESSION_GONE), 3);
}

/* Filters that send everything back up would keep the worker for ever. */
Test(hops, packets_in_circles_are_dropped) {
    circle = true;
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    kit_settle(&k);
    uint64_t lost = 0;
    for (uint32_t i = 1; i < DROP_COUNT; i++)
        lost += kit_drops(&k, (enum drop_reason)i);
    cr_assert_eq(lost, 1);
}

/* ---- taps, counters, names ---- */

static uint32_t tapped[4];

static void count_tap(struct shard *sh, void *arg, enum tap_point point, struct pkt *const *pkts, uint32_t n) {
    (void)sh;
    (void)arg;
    for (uint32_t i = 0; i < n; i++)
        cr_assert_gt(pkts[i]->buf_size, 0u);
    tapped[point] += n;
}

Test(hops, taps_see_local_packets_and_drops_until_taken_off) {
    cr_assert_eq(runtime_tap_set(k.rt, count_tap, NULL), 0);
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_far_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_eq(tapped[TAP_LOCAL], 2);
    cr_assert_eq(tapped[TAP_DROP], 1);
    cr_assert_eq(runtime_tap_set(k.rt, NULL, NULL), 0);
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_eq(tapped[TAP_LOCAL], 2);
}

Test(hops, counters_and_names_for_people) {
    const struct engine_counter *names = NULL;
    uint64_t values[32];
    struct shard_stats st;
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    kit_settle(&k);
    uint32_t n = runtime_engine_counters(k.rt, KIT_UDP, &names, values, ARRAY_LEN(values));
    cr_assert_gt(n, 0);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_not_null(names[i].name);
        sum += values[i];
    }
    cr_assert_gt(sum, 0);
    cr_assert_eq(runtime_shard_stats(k.rt, 0, &st), 0);
    cr_assert_eq(st.from_sessions, 1);
    cr_assert_eq(st.to_sessions, 1);
    cr_assert_eq(st.sessions, 1);
    cr_assert_eq(runtime_shard_stats(k.rt, 9, &st), -EINVAL);
    for (uint32_t i = 0; i < DROP_COUNT; i++)
        cr_assert_neq(drop_reason_text((enum drop_reason)i)[0], '\0');
    cr_assert_str_eq(drop_reason_name(DROP_NO_BUFFER), "NO_BUFFER");
    for (uint32_t i = 0; i < DETACH_COUNT; i++)
        cr_assert_neq(detach_reason_text((enum detach_reason)i)[0], '\0');
}

Test(hops, commands_to_nobody_are_refused) {
    struct engine_cmd cmd = {4711, sizeof cmd};
    struct engine_reply reply;
    cr_assert_eq(runtime_command(k.rt, 0, 77, &cmd, &reply), -EINVAL);
    cr_assert_eq(runtime_command(k.rt, 9, 0, &cmd, &reply), -EINVAL);
    cr_assert_eq(runtime_command(k.rt, UINT32_MAX, KIT_UDP, &cmd, &reply), -ENOTSUP);
    struct flow f = {.local_port = 7, .proto = PROTO_UDP};
    cr_assert_eq(runtime_steer(k.rt, &f, 5, true), -EINVAL);
    f.local_port = 99;
    cr_assert_eq(runtime_steer(k.rt, &f, 0, false), -ENOENT);
}

/* ---- one tree for all shards ---- */

static void sends(struct kit *two, uint32_t shard, uint16_t port) {
    struct pkt *p = pkt_alloc(&two->rt->shard[shard]->small.pool);
    p->port = port;
    cr_assert(hop_push(two->rt->shard[shard], HOP_EGRESS, p));
    hops_run(two->rt->shard[shard]);
    kit_settle(two);
}

Test(hops_qos, every_shard_sends_through_the_one_tree) {
    static const struct runtime_config cfg = {.shard_count = 2, .small_packets = 256, .large_packets = 4, .seed = 7};
    struct kit two;
    uint32_t index;
    kit_open(&two, &cfg);
    cr_assert_eq(runtime_qos_ports(two.rt, 1), -ENOENT);
    qos_ops = kit_link;
    qos_ops.name = "qos";
    qos_ops.stage = STAGE_QOS;
    qos_ops.caps = ENGINE_CAP_OUTPUT;
    qos_ops.output = qos_out;
    cr_assert_eq(runtime_engine_add(two.rt, &qos_ops, NULL, &index, &two.err), 0, "%s", two.err.text);
    sends(&two, 0, 1);
    sends(&two, 1, 1);
    cr_assert_str_eq(path, "qos1 qos1 ");
    cr_assert_eq(two.rt->shard[1]->stats.cross_shard, 1);
    cr_assert_eq(runtime_qos_ports(two.rt, 1u << 3), 0);
    sends(&two, 1, 1); /* no slot of the tree's */
    cr_assert_str_eq(path, "qos1 qos1 ");
    sends(&two, 1, 3);
    cr_assert_str_eq(path, "qos1 qos1 qos1 ");
    cr_assert_eq(kit_drops(&two, DROP_PORT_DOWN), 4);
    for (uint32_t i = 0; i < 2; i++)
        cr_assert_eq(two.rt->shard[i]->small.pool.free_count, two.rt->shard[i]->small.pool.count);
    kit_close(&two);
}

Test(hops, engines_come_and_go) {
    uint32_t filter, qos, index;
    cr_assert_eq(runtime_engine_find(k.rt, "filter", &filter), 0);
    cr_assert_eq(runtime_engine_find(k.rt, "qos", &qos), 0);
    cr_assert_eq(runtime_engine_unload(k.rt, filter, &k.err), 0, "%s", k.err.text);
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_far_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_str_eq(path, "qos1 ");
    cr_assert_eq(runtime_engine_find(k.rt, "filter", &index), -ENOENT);
    cr_assert_str_eq(runtime_engine_name(k.rt, filter), "", "its place is empty, the others keep theirs");
    cr_assert_eq(runtime_engine_counters(k.rt, filter, NULL, NULL, 8), 0);
    struct engine_cmd cmd = {1, sizeof cmd};
    cr_assert_eq(runtime_command(k.rt, 0, filter, &cmd, NULL), -ENODEV);
    cr_assert_eq(runtime_engine_unload(k.rt, filter, &k.err), -ENOENT);
    cr_assert_eq(runtime_engine_unload(k.rt, qos, &k.err), 0);
    cr_assert_eq(runtime_engine_add(k.rt, &filter_ops, NULL, &index, &k.err), 0, "%s", k.err.text);
    cr_assert_eq(index, filter, "the first empty place");
    path[0] = '\0';
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_far_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_str_eq(path, "fout2 fin1 fout1 fin1 ");
}

Test(hops, engines_with_sockets_stay) {
    cr_assert_eq(runtime_engine_unload(k.rt, KIT_UDP, &k.err), -EBUSY);
    cr_assert_eq(runtime_engine_unload(k.rt, KIT_LINK, &k.err), -EBUSY);
    cr_assert_eq(runtime_engine_unload(k.rt, 99, &k.err), -ENOENT);
}

/* A packet that another shard had sent to the filter's hop before it went. */
Test(hops, what_was_on_its_way_to_a_filter_that_is_gone_goes_on) {
    uint32_t filter;
    cr_assert_eq(runtime_engine_find(k.rt, "filter", &filter), 0);
    cr_assert_eq(runtime_engine_unload(k.rt, filter, &k.err), 0);
    cr_assert(hop_push(k.rt->shard[0], HOP_FILTER_IN, packet(99, 1)));
    hops_run(k.rt->shard[0]);
    cr_assert_eq(kit_drops(&k, DROP_IP_PROTO), 1, "the transport hop has seen it");
}

Test(hops, an_engine_that_is_gone_is_given_nothing) {
    cr_assert_eq(runtime_engine_unload(k.rt, KIT_ECHO, &k.err), 0);
    fake_client_send(&a.c, a.sock.handle, 0, 10, kit_addr(1).b, 7);
    kit_settle(&k);
    cr_assert_eq(kit_drops(&k, DROP_SESSION_GONE), 1);
    cr_assert_not(fake_client_ready(&a.c));
}
