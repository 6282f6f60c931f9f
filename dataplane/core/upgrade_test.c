/* SPDX-License-Identifier: Apache-2.0
 *
 * Engines that are replaced: what is refused and changes nothing, and what is carried over. Streams under upgrades are
 * in dataplane/session/stream_test.c, running workers in worker_test.c.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"
#include "engines/arena.h"

static struct kit k;
static struct kit_client a;

static void setup(void) {
    struct runtime_config cfg = {.shard_count = 2, .small_packets = 1024, .large_packets = 4, .seed = 7};
    kit_open(&k, &cfg);
    kit_attach(&k, &a, 5000);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
}

static void ask(uint16_t port) {
    struct ush_cqe e;
    memcpy(fake_client_tx(&a.c, 0), "hello", 5);
    fake_client_send(&a.c, a.sock.handle, 0, 5, kit_addr(1).b, port);
    kit_settle(&k);
    cr_assert(fake_client_take(&a.c, &e), "port %u does not answer", port);
    cr_assert_eq(e.type, USH_CQ_RECV);
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release_flush(&a.c);
    kit_settle(&k);
}

static void teardown(void) {
    ask(7);
    ask(8);
    kit_detach(&k, &a);
    kit_settle(&k);
    for (uint32_t i = 0; i < 2; i++)
        cr_assert_eq(k.rt->shard[i]->small.pool.free_count, k.rt->shard[i]->small.pool.count, "a packet leaked");
    kit_close(&k);
}

TestSuite(upgrade, .init = setup, .fini = teardown);

static uint64_t counter(uint32_t engine, const char *name) {
    const struct engine_counter *names;
    uint64_t values[64];
    uint32_t n = runtime_engine_counters(k.rt, engine, &names, values, ARRAY_LEN(values));
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(names[i].name, name) == 0)
            return values[i];
    }
    cr_assert_fail("no counter %s", name);
    return 0;
}

static struct runtime_upgrade_report upgrade_to(const char *file) {
    struct runtime_upgrade how = {.file = file};
    struct runtime_upgrade_report r;
    cr_assert_eq(runtime_engine_upgrade(k.rt, KIT_UDP, &how, &r, &k.err), 0, "%s", k.err.text);
    return r;
}

Test(upgrade, the_same_layout_stays_where_it_is) {
    const void *st = k.rt->shard[1]->node[KIT_UDP].st;
    void (*code)(void *, struct engine_io *, struct pkt **, uint32_t) = k.rt->engine[KIT_UDP].ops.input;
    ask(7);
    struct runtime_upgrade_report r = upgrade_to(ENGINES "/udp.so");
    cr_assert(!r.moved && r.records == 0 && r.packets == 0);
    cr_assert_eq(r.layout_before, r.layout_after);
    cr_assert_eq(k.rt->shard[1]->node[KIT_UDP].st, st);
    cr_assert_neq(k.rt->engine[KIT_UDP].ops.input, code);
}

Test(upgrade, another_layout_is_moved_there_and_back) {
    uint64_t sent = counter(KIT_UDP, "tx_packets");
    ask(7);
    sent = counter(KIT_UDP, "tx_packets") - sent;
    for (uint32_t i = 0; i < 10; i++) {
        uint64_t before = counter(KIT_UDP, "tx_packets");
        struct runtime_upgrade_report r = upgrade_to(i % 2 ? ENGINES "/udp.so" : NEXT "/udp.so");
        cr_assert(r.moved);
        cr_assert_eq(r.layout_after, usher_engine_udp.layout_version + 1 - i % 2);
        cr_assert_eq(r.records, 3, "one socket of the session, two of echo: %llu", (unsigned long long)r.records);
        cr_assert_eq(counter(KIT_UDP, "tx_packets"), before, "counters go on");
        ask(i % 4 < 2 ? 7 : 8);
        cr_assert_eq(counter(KIT_UDP, "tx_packets"), before + sent);
    }
}

/* ---- versions that fail ---- */

static struct engine_ops bad;
static int records_left;

static int load_some(void *st, uint32_t from, const uint8_t *rec, size_t size) {
    return records_left-- > 0 ? usher_engine_udp.load(st, from, rec, size) : -EBADMSG;
}
static size_t no_size(const void *cfg, char *err, size_t err_size) {
    (void)cfg;
    engine_say(err, err_size, "sockets: 0 is too few");
    return 0;
}
static size_t huge_size(const void *cfg, char *err, size_t err_size) {
    (void)cfg;
    (void)err;
    (void)err_size;
    return SIZE_MAX / 4;
}
static int no_init(void *st, size_t size, const void *cfg, uint64_t seed) {
    (void)st;
    (void)size;
    (void)cfg;
    (void)seed;
    return -ENOMEM;
}

static void other_name(void) {
    bad.name = "ddp";
}
static void other_place(void) {
    bad.proto = 136;
}
static void other_abi(void) {
    bad.abi = ENGINE_ABI + 1;
}
static void refuses_options(void) {
    bad.state_size = no_size;
}
static void wants_too_much(void) {
    bad.state_size = huge_size;
}
static void fails_at_birth(void) {
    bad.init = no_init;
}
static void refuses_the_first(void) {
    bad.load = load_some;
}
static void refuses_the_last(void) {
    bad.load = load_some;
    records_left = 2;
}

Test(upgrade, whatever_fails_leaves_the_old_version_serving) {
    static const struct {
        void (*spoil)(void);
        const char *says;
    } faults[] = {
        {other_name, "is engine \"ddp\""},
        {other_place, "another place"},
        {other_abi, "ABI"},
        {refuses_options, "0 is too few"},
        {wants_too_much, "no state"},
        {fails_at_birth, "no state"},
        {refuses_the_first, "record 0, shard 0"},
        {refuses_the_last, "record 2, shard 1"},
    };
    const struct engine_ops before = k.rt->engine[KIT_UDP].ops;
    for (uint32_t i = 0; i < ARRAY_LEN(faults); i++) {
        struct runtime_upgrade how = {.ops = &bad};
        struct runtime_upgrade_report r;
        bad = usher_engine_udp;
        bad.layout_version++;
        records_left = 0;
        faults[i].spoil();
        cr_assert_lt(runtime_engine_upgrade(k.rt, KIT_UDP, &how, &r, &k.err), 0);
        cr_assert_not_null(strstr(k.err.text, faults[i].says), "\"%s\" does not say \"%s\"", k.err.text,
                           faults[i].says);
        cr_assert(memcmp(&before, &k.rt->engine[KIT_UDP].ops, sizeof before) == 0);
        ask(7);
        ask(8);
    }
    struct runtime_upgrade how = {.file = "/no/such/engine.so"};
    cr_assert_eq(runtime_engine_upgrade(k.rt, KIT_UDP, &how, NULL, &k.err), -ENOENT);
    cr_assert_eq(runtime_engine_upgrade(k.rt, 99, &how, NULL, &k.err), -ENOENT);
}

/* ---- what save() leaves to control ---- */

static int fills;

static int fill_sockets(void *arg) {
    struct udp_cmd_open open = {.cmd = {UDP_CMD_OPEN, sizeof open},
                                .flow = {.local_port = 4242, .proto = PROTO_UDP},
                                .sink = SINK(SINK_ENGINE, KIT_ECHO, 0)};
    fills++;
    return arg != NULL ? -EIO : runtime_command(k.rt, UINT32_MAX, KIT_UDP, &open.cmd, NULL);
}

static int64_t save_nothing(const void *st, uint64_t *cursor, uint8_t *buf, size_t size) {
    (void)st;
    (void)cursor;
    (void)buf;
    (void)size;
    return 0;
}

Test(upgrade, control_fills_the_new_states_before_they_serve) {
    struct runtime_upgrade how = {.file = NEXT "/udp.so", .fill = fill_sockets, .arg = &k};
    const struct arena_header *before = k.rt->shard[0]->node[KIT_UDP].st;
    uint32_t live = before->table[0].live;
    cr_assert_eq(runtime_engine_upgrade(k.rt, KIT_UDP, &how, NULL, &k.err), -EIO);
    cr_assert_null(k.rt->upgrade);
    ask(7);
    k.rt->engine[KIT_UDP].ops.save = save_nothing;
    how.arg = NULL;
    cr_assert_eq(runtime_engine_upgrade(k.rt, KIT_UDP, &how, NULL, &k.err), 0, "%s", k.err.text);
    cr_assert_eq(fills, 2);
    const struct arena_header *h = k.rt->shard[0]->node[KIT_UDP].st;
    cr_assert_eq(h->table[0].live, 1, "the one that control opened, none of the %u", live);
    kit_detach(&k, &a); /* its socket was not saved; the teardown wants one */
    kit_attach(&k, &a, 5000);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
}
