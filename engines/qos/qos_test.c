/* SPDX-License-Identifier: Apache-2.0
 *
 * The QoS engine's contract: classification, wire bytes, queue limits, live changes of the tree, commands that are
 * refused, upgrade, death, and hostile records.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/qos/qos_fixture.h"
#include "engines/wire.h"

#define RATE 1000000ull

/* root with a ceiling > 1, 2 (inner) > 3, 4 */
static void small_tree(struct bed *b) {
    bed_begin(b, 1, 0);
    cr_assert_eq(bed_node(b, 0, QOS_NONE, 1, 0, RATE), 0);
    cr_assert_eq(bed_node(b, 1, 0, 1, 0, 0), 0);
    cr_assert_eq(bed_node(b, 2, 0, 3, 0, 0), 0);
    cr_assert_eq(bed_node(b, 3, 2, 1, RATE / 10, 0), 0);
    cr_assert_eq(bed_node(b, 4, 2, 1, 0, RATE / 2), 0);
    cr_assert_eq(bed_commit(b), 0);
    for (uint32_t i = 0; i < 4; i++)
        cr_assert_eq(bed_owner(b, i + 1, i + 1), 0);
}

static struct bed make(void) {
    struct bed b = bed_make(16, 16, 2048);
    b.tk->io.now = NS_PER_SEC;
    return b;
}

static uint64_t waiting(struct bed *b, uint32_t count) {
    uint64_t sum = 0;
    for (uint32_t id = 0; id < count; id++)
        sum += bed_stat(b, id).waiting_packets;
    return sum;
}

static void sound(struct bed *b) {
    cr_assert_eq(b->qos.ops->check(b->qos.st), 0, "%d", b->qos.ops->check(b->qos.st));
}

static void drain(struct bed *b) {
    for (uint32_t i = 0; i < 100000 && b->qos.ops->next_deadline(b->qos.st) != NS_NEVER; i++)
        bed_turn(b, NULL, 0);
    sound(b);
}

Test(qos, passes_everything_without_a_tree) {
    struct bed b = make();
    for (uint32_t i = 0; i < 100; i++)
        bed_send(&b, i % 20, i, 100);
    cr_assert_eq(b.tk->down.count, 100);
    cr_assert_eq(b.qos.ops->next_deadline(b.qos.st), NS_NEVER);
    bed_end(&b);
}

Test(qos, a_class_goes_before_the_owner) {
    struct bed b = make();
    small_tree(&b);
    for (uint32_t i = 0; i < 64; i++)
        bed_send(&b, 0, 0, 1500); /* uses the root's burst up */
    bed_send(&b, 3, 1, 100);
    struct pkt *p = bed_packet(&b, 3, 2, 200);
    p->class_id = 4 + 1;
    testkit_output(b.tk, &b.qos, &p, 1);
    p = bed_packet(&b, 3, 3, 400);
    p->class_id = 2 + 1; /* no leaf */
    testkit_output(b.tk, &b.qos, &p, 1);
    uint64_t fallback = bed_stat(&b, 1).waiting_packets;
    cr_assert_eq(bed_stat(&b, 3).waiting_bytes, 100);
    cr_assert_eq(bed_stat(&b, 4).waiting_bytes, 200);
    cr_assert_eq(fallback, 64 + 1 - b.tk->down.count);
    drain(&b);
    cr_assert_eq(waiting(&b, 5), 0);
    bed_end(&b);
}

Test(qos, a_flow_keeps_its_order) {
    struct bed b = make();
    small_tree(&b);
    for (uint32_t i = 0; i < 200; i++) {
        struct pkt *p = bed_packet(&b, i % 4 + 1, i % 8, 1000);
        p->user_data = i;
        testkit_output(b.tk, &b.qos, &p, 1);
    }
    uint64_t last[8] = {0}, seen = 0;
    while (seen < 200) {
        (void)testkit_run(b.tk, &b.qos, 64);
        for (uint32_t i = 0; i < b.tk->down.count; i++, seen++) {
            struct pkt *p = b.tk->down.v[i];
            cr_assert(p->user_data == p->flow.local.d[0] || p->user_data > last[p->flow.local.d[0]]);
            last[p->flow.local.d[0]] = p->user_data;
        }
        b.tk->down.count = 0;
        ns_t at = b.qos.ops->next_deadline(b.qos.st);
        cr_assert_eq(at == NS_NEVER, seen == 200);
        b.tk->io.now = at > b.tk->io.now ? at : b.tk->io.now;
    }
    bed_end(&b);
}

/* What a link of 1 Gbit/s would say of each. */
Test(qos, counts_wire_bytes) {
    struct bed b = make();
    uint8_t frame[2048] = {0};
    bed_begin(&b, 0, 24);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 0, 1000 * RATE), 0);
    cr_assert_eq(bed_commit(&b), 0);
    bed_send(&b, 0, 0, 42);
    cr_assert_eq(bed_stat(&b, 0).bytes, 84);
    bed_send(&b, 0, 0, 1514);
    cr_assert_eq(bed_stat(&b, 0).bytes, 84 + 1538);
    struct pkt *p = bed_packet(&b, 0, 0, 54);
    p->buf = frame;
    p->data = frame + 64;
    p->l4_off = 64 + 34;
    frame[p->l4_off + 12] = 5 << 4;
    p->flow.proto = PROTO_TCP;
    p->frag_len = 64000;
    p->flags = PKT_GSO;
    p->gso_size = 1460;
    testkit_output(b.tk, &b.qos, &p, 1);
    cr_assert_eq(bed_stat(&b, 0).bytes, 84 + 1538 + 64000 + 44 * (54 + 24));
    bed_end(&b);
}

Test(qos, datagrams_are_bounded_and_streams_never_cut) {
    struct bed b = make();
    small_tree(&b);
    for (uint32_t i = 0; i < 900; i++) {
        struct pkt *p = bed_packet(&b, 1, 0, 1500);
        testkit_output(b.tk, &b.qos, &p, 1);
    }
    cr_assert(b.tk->drop.count > 100 && b.tk->drop.v[0]->drop == DROP_QOS_QUEUE);
    cr_assert(bed_stat(&b, 1).waiting_bytes <= 1u << 20 && bed_stat(&b, 1).drops == b.tk->drop.count);
    b.tk->drop.count = 0;
    for (uint32_t i = 0; i < 900; i++) {
        struct pkt *p = bed_packet(&b, 1, 1, 1500);
        p->flow.proto = PROTO_TCP;
        testkit_output(b.tk, &b.qos, &p, 1);
    }
    cr_assert_eq(b.tk->drop.count, 0);
    sound(&b);
    bed_end(&b);
}

static void from_new_ports(struct bed *b, uint32_t owner, uint32_t count, uint16_t flags) {
    for (uint32_t i = 0; i < count; i++) {
        struct pkt *p = bed_packet(b, owner, 1000 + b->used, 1000);
        p->flags = flags;
        testkit_output(b->tk, &b->qos, &p, 1);
        bed_settle(b, NULL);
    }
}

/* Sockets without end, each with little to say: their class gets half of what is free, and so does the next. */
Test(qos, no_leaf_takes_all_buffers) {
    struct bed b = bed_make_crowded(16, 16, 4096, 2048);
    b.tk->io.now = NS_PER_SEC;
    small_tree(&b);
    from_new_ports(&b, 1, 1500, 0);
    cr_assert_eq(bed_stat(&b, 1).waiting_packets, 1024);
    from_new_ports(&b, 3, 1500, 0);
    cr_assert_eq(bed_stat(&b, 1).waiting_packets + bed_stat(&b, 3).waiting_packets, 1024 + 512);
    from_new_ports(&b, 4, 1, 0);
    cr_assert_eq(bed_stat(&b, 4).waiting_packets, 1);
    from_new_ports(&b, 1, 1, PKT_GSO); /* of another kind, of which none is taken */
    cr_assert_eq(bed_stat(&b, 1).waiting_packets, 1025);
    cr_assert(bed_stat(&b, 1).drops > 400 && b.dropped > 1300);
    sound(&b);
    drain(&b);
    bed_end(&b);
}

/* Leaves come and go while packets wait in them: none is lost, none is seen twice. */
Test(qos, live_changes_lose_nothing) {
    struct bed b = make();
    uint64_t in = 0;
    small_tree(&b);
    for (uint32_t round = 0; round < 300; round++) {
        for (uint32_t i = 0; i < 12; i++, in++) {
            struct pkt *p = bed_packet(&b, bed_random(&b) % 16, bed_random(&b) % 6, 60 + bed_random(&b) % 1400);
            p->flow.proto = PROTO_TCP;
            testkit_output(b.tk, &b.qos, &p, 1);
        }
        uint32_t nodes = 1 + bed_random(&b) % 15, leaf = nodes - 1;
        bed_begin(&b, leaf, 0);
        for (uint32_t id = 0; id < nodes; id++) {
            uint32_t parent = id == 0 ? QOS_NONE : bed_random(&b) % (id < 6 ? id : 6);
            cr_assert_eq(bed_node(&b, id, parent, 1 + bed_random(&b) % 40, 0, id == 0 ? 40 * RATE : 0), 0);
        }
        cr_assert_eq(bed_commit(&b), 0);
        sound(&b);
        for (uint32_t i = 0; i < 16; i++)
            (void)bed_owner(&b, i, bed_random(&b) % 16);
        bed_turn(&b, NULL, 100000);
        sound(&b);
    }
    drain(&b);
    cr_assert_eq(b.sent, in);
    cr_assert_eq(b.dropped, 0);
    bed_end(&b);
}

Test(qos, refuses_trees_that_make_no_sense) {
    struct bed b = make();
    small_tree(&b);
    cr_assert_eq(bed_commit(&b), -EINVAL); /* nothing is staged any more */
    bed_begin(&b, 1, 0);
    cr_assert_eq(bed_node(&b, 1, 0, 1, 0, 0), -EINVAL);
    cr_assert_eq(bed_node(&b, 0, 0, 1, 0, 0), -EINVAL);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 0, 0, 0), -EINVAL);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, QOS_WEIGHT_MAX + 1, 0, 0), -EINVAL);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 0, 10), -EINVAL);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 2 * RATE, RATE), -EINVAL);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 0, RATE), 0);
    cr_assert_eq(bed_commit(&b), -EINVAL); /* the fallback is not there */
    cr_assert_eq(bed_node(&b, 1, 1, 1, 0, 0), -EINVAL);
    cr_assert_eq(bed_node(&b, 1, 0, 1, RATE, 0), 0);
    cr_assert_eq(bed_node(&b, 2, 0, 1, RATE, 0), 0);
    cr_assert_eq(bed_commit(&b), -EINVAL); /* more guaranteed than there is */
    bed_begin(&b, 9, 0);
    for (uint32_t id = 0; id < 10; id++)
        cr_assert_eq(bed_node(&b, id, id == 0 ? QOS_NONE : id - 1, 1, 0, 0), 0);
    cr_assert_eq(bed_commit(&b), -EINVAL); /* too deep */
    bed_begin(&b, 1, 0);
    for (uint32_t id = 0; id < 17; id++)
        cr_assert_eq(bed_node(&b, id, id == 0 ? QOS_NONE : 0, 1, 0, 0), id < 16 ? 0 : -ENOSPC);
    cr_assert_eq(bed_owner(&b, 16, 0), -ERANGE);
    cr_assert_eq(bed_owner(&b, 0, 16), -ERANGE);
    cr_assert_eq(bed_stat(&b, 4).packets, 0); /* the tree in force is what it was */
    sound(&b);
    bed_end(&b);
}

Test(qos, refuses_bad_commands) {
    struct bed b = make();
    struct engine_cmd unknown = {77, sizeof unknown}, none = {0, sizeof none}, cut = {QOS_CMD_NODE, 12};
    cr_assert_eq(testkit_command(b.tk, &b.qos, &unknown).error, -ENOTSUP);
    cr_assert_eq(testkit_command(b.tk, &b.qos, &none).error, -ENOTSUP);
    cr_assert_eq(testkit_command(b.tk, &b.qos, &cut).error, -EINVAL);
    struct qos_cmd_stats s = {.cmd = {QOS_CMD_STATS, sizeof s}, .count = QOS_STATS_MAX + 1};
    cr_assert_eq(testkit_command(b.tk, &b.qos, &s).error, -EINVAL);
    bed_end(&b);
}

/* Ids are places; who a node is says its key. */
Test(qos, a_leaf_of_another_key_starts_anew) {
    struct bed b = make();
    for (uint32_t round = 0; round < 3; round++) {
        const struct qos_owner owner[2] = {{.leaf = 0}, {.leaf = round < 2 ? 2 : 77}};
        struct qos_cmd_node n = {.cmd = {QOS_CMD_NODE, sizeof n}, .id = 2, .weight = 1, .key = round < 2 ? 7 : 8};
        struct qos_cmd_commit c = {.cmd = {QOS_CMD_COMMIT, sizeof c}, .owner = owner, .owner_count = 2};
        bed_begin(&b, 1, 0);
        cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 0, RATE), 0);
        cr_assert_eq(bed_node(&b, 1, 0, 1, 0, 0), 0);
        cr_assert_eq(testkit_command(b.tk, &b.qos, &n).error, 0);
        cr_assert_eq(testkit_command(b.tk, &b.qos, &c).error, round < 2 ? 0 : -ERANGE);
        for (uint32_t i = 0; i < 100; i++)
            bed_send(&b, 1, 1, 1000);
        if (round < 2)
            continue;
        c.owner_count = 1; /* owner 1 stays where it was */
        uint64_t waited = bed_stat(&b, 2).waiting_packets;
        cr_assert(waited > 150 && bed_stat(&b, 2).packets > 0);
        cr_assert_eq(testkit_command(b.tk, &b.qos, &c).error, 0);
        cr_assert_eq(bed_stat(&b, 2).packets, 0);
        cr_assert_eq(bed_stat(&b, 2).waiting_packets, 0);
        cr_assert_eq(bed_stat(&b, 1).waiting_packets, waited);
    }
    sound(&b);
    drain(&b);
    bed_end(&b);
}

Test(qos, trees_survive_upgrade_and_death) {
    struct bed a = make(), b = make(), c = make();
    uint8_t buf[2][256];
    uint64_t cursor[2] = {0};
    int64_t n;
    small_tree(&a);
    for (uint32_t i = 0; i < 100; i++)
        bed_send(&a, i % 4, i, 1000);
    cr_assert_eq(testkit_transfer(&b.qos, &a.qos), 0);
    sound(&b);
    cr_assert_eq(testkit_transfer(&c.qos, &b.qos), 0);
    do {
        n = a.qos.ops->save(a.qos.st, &cursor[0], buf[0], sizeof buf[0]);
        cr_assert_eq(n, c.qos.ops->save(c.qos.st, &cursor[1], buf[1], sizeof buf[1]));
        cr_assert(n >= 0 && memcmp(buf[0], buf[1], (size_t)n) == 0);
    } while (n > 0);
    bed_begin(&a, 0, 0); /* dies in the middle of a transaction */
    cr_assert_eq(bed_node(&a, 0, QOS_NONE, 1, 0, 0), 0);
    cr_assert_eq(testkit_recover(&a.qos), 0);
    sound(&a);
    cr_assert_eq(waiting(&a, 5), 0);
    small_tree(&a);
    bed_end(&a);
    bed_end(&b);
    bed_end(&c);
}

Test(qos, load_refuses_hostile_records) {
    struct bed a = make(), b = make();
    uint8_t good[16][64], bad[64];
    int64_t size[16];
    uint32_t n = 0;
    uint64_t cursor = 0;
    small_tree(&a);
    while ((size[n] = a.qos.ops->save(a.qos.st, &cursor, good[n], sizeof good[n])) > 0)
        n++;
    for (uint32_t i = 0; i < 30000; i++) {
        uint32_t k = bed_random(&a) % n;
        memcpy(bad, good[k], (size_t)size[k]);
        if (bed_random(&a) % 2)
            bad[bed_random(&a) % (uint32_t)size[k]] = (uint8_t)bed_random(&a);
        (void)b.qos.ops->load(b.qos.st, 1, bad, (size_t)size[k] - bed_random(&a) % 2);
        if (i % 64 == 0)
            sound(&b);
    }
    sound(&b);
    cr_assert_eq(b.qos.ops->load(b.qos.st, 99, good[0], (size_t)size[0]), -EPROTONOSUPPORT);
    bed_end(&a);
    bed_end(&b);
}

Test(qos, fini_hands_everything_back) {
    struct bed b = make();
    small_tree(&b);
    for (uint32_t i = 0; i < 700; i++)
        bed_send(&b, i % 4 + 1, i % 50, 1000);
    uint64_t kept = waiting(&b, 5);
    bed_settle(&b, NULL);
    do {
        b.tk->drop.count = 0;
        b.tk->io.counters = b.qos.counters;
        b.qos.ops->fini(b.qos.st, &b.tk->io);
        kept -= b.tk->drop.count;
    } while (b.tk->drop.count > 0);
    cr_assert_eq(kept, 0);
    bed_end(&b);
}
