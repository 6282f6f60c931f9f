/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams of sessions over the real tcp engine, both ends on this host, against a client that writes the shared memory
 * by hand. The shards are turned by hand, in virtual time.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"
#include "engines/tcp/tcp_cmd.h"

#define PORT   80
#define CHUNK  16384u
#define CHUNKS 64u

static struct kit k;
static struct kit_client a;
static struct session_socket listener;

static void setup(void) {
    kit_open(&k, NULL);
    kit_tcp(&k, 512);
    kit_attach(&k, &a, 5000);
    cr_assert_eq(kit_listen(&a, PORT, &listener), 0);
}

static uint32_t engine_connections(void) {
    struct tcp_stats stats;
    struct tcp_cmd_stats cmd = {.cmd = {TCP_CMD_STATS, sizeof cmd}, .stats = &stats};
    struct engine_reply reply;
    cr_assert_eq(runtime_command(k.rt, 0, KIT_TCP, &cmd.cmd, &reply), 0);
    return stats.connections;
}

/* Every packet is home again, the session's memory goes, and so does the runtime. */
static void teardown(void) {
    kit_settle(&k);
    kit_detach(&k, &a);
    kit_settle(&k);
    session_reap(k.rt);
    cr_assert_eq(engine_connections(), 0, "a connection outlives its session");
    cr_assert_eq(k.rt->shard[0]->small.pool.free_count, k.rt->shard[0]->small.pool.count, "a packet leaked");
    cr_assert_null(k.rt->zombies, "a session leaked");
    kit_close(&k);
}

TestSuite(stream, .init = setup, .fini = teardown);

static uint32_t client_handle(uint32_t n, uint32_t generation) {
    return USH_HANDLE(a.c.h.socket_max + n, generation);
}

static bool take_event(uint8_t event, struct ush_cqe *ret_e) {
    for (uint32_t i = 0; i < 200000; i++) {
        while (fake_client_take(&a.c, ret_e)) {
            if (ret_e->type == USH_CQ_EVENT && ret_e->flags == event)
                return true;
        }
        (void)kit_turn(&k);
    }
    return false;
}

struct pair {
    uint32_t client, server;
};

static struct pair open_pair(uint32_t n, uint32_t generation) {
    struct pair p = {.client = client_handle(n, generation)};
    struct ush_cqe e;
    bool connected = false, accepted = false;
    fake_client_connect(&a.c, p.client, kit_addr(1).b, PORT);
    for (uint32_t i = 0; i < 100000 && !(connected && accepted); i++) {
        (void)kit_turn(&k);
        while (fake_client_take(&a.c, &e)) {
            cr_assert_eq(e.type, USH_CQ_EVENT);
            if (e.flags == USH_EVENT_CONNECTED) {
                cr_assert_eq(e.event.handle, p.client);
                cr_assert_geq(e.event.port, 40000);
                connected = true;
            } else {
                cr_assert_eq(e.flags, USH_EVENT_ACCEPT);
                cr_assert_eq(e.event.handle, listener.handle);
                p.server = e.event.value;
                accepted = true;
            }
        }
    }
    cr_assert(connected && accepted);
    cr_assert_geq(USH_HANDLE_INDEX(p.server), a.c.h.socket_max + a.c.h.client_socket_max);
    return p;
}

static void close_both(struct pair p) {
    struct ush_cqe e;
    fake_client_stream(&a.c, USH_OP_CLOSE, 0, p.client);
    fake_client_stream(&a.c, USH_OP_CLOSE, 0, p.server);
    cr_assert(take_event(USH_EVENT_CLOSED, &e));
    cr_assert(take_event(USH_EVENT_CLOSED, &e));
}

static uint8_t byte_at(uint64_t at) {
    return (uint8_t)(at * 131 + (at >> 8) * 7);
}

/* ---- what works ---- */

Test(stream, connects_and_is_accepted_and_closes) {
    struct pair p = open_pair(0, 1);
    cr_assert_eq(engine_connections(), 2);
    close_both(p);
    cr_assert_eq(engine_connections(), 0);
}

Test(stream, bytes_go_both_ways) {
    struct pair p = open_pair(0, 1);
    struct ush_cqe e;
    memcpy(fake_client_tx(&a.c, 0), "question", 8);
    memcpy(fake_client_tx(&a.c, 4096), "answer", 6);
    fake_client_send(&a.c, p.client, 0, 8, NULL, 0);
    kit_settle(&k);
    cr_assert(fake_client_take(&a.c, &e));
    cr_assert_eq(e.type, USH_CQ_RECV);
    cr_assert_eq(e.recv.handle, p.server);
    cr_assert_eq(e.recv.len, 8);
    cr_assert(memcmp(fake_client_rx(&a.c, e.recv.cell), "question", 8) == 0);
    fake_client_release(&a.c, e.recv.cell);
    fake_client_send(&a.c, p.server, 4096, 6, NULL, 0);
    kit_settle(&k);
    cr_assert(fake_client_take(&a.c, &e));
    cr_assert_eq(e.recv.handle, p.client);
    cr_assert(memcmp(fake_client_rx(&a.c, e.recv.cell), "answer", 6) == 0);
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release_flush(&a.c);
    for (uint32_t i = 0; i < 100000; i++)
        (void)kit_turn(&k); /* until the delayed acknowledgment has gone */
    const struct ush_socket *table = (const struct ush_socket *)(a.c.base + a.c.h.socket_off);
    cr_assert_eq(table[USH_HANDLE_INDEX(p.client)].tx_done, 8, "acknowledged, so the buffer is free");
    close_both(p);
}

/* What a bulk test knows of its progress. */
struct bulk {
    struct pair p;
    uint64_t sent, got, total;
    uint32_t limit, completions;
    bool lazy; /* the reader keeps its cells */
};

static void bulk_send(struct bulk *b) {
    const volatile struct ush_socket *s =
        (struct ush_socket *)(a.c.base + a.c.h.socket_off) + USH_HANDLE_INDEX(b->p.client);
    while (b->sent < b->total && (uint32_t)b->sent - s->tx_done + CHUNK <= s->tx_limit &&
           (uint32_t)b->sent - s->tx_done + CHUNK <= CHUNK * CHUNKS) {
        uint32_t off = (uint32_t)(b->sent / CHUNK % CHUNKS) * CHUNK;
        uint8_t *at = fake_client_tx(&a.c, off);
        for (uint32_t i = 0; i < CHUNK; i++)
            at[i] = byte_at(b->sent + i);
        fake_client_send(&a.c, b->p.client, off, CHUNK, NULL, 0);
        b->sent += CHUNK;
    }
}

static void bulk_take(struct bulk *b) {
    struct ush_cqe e;
    while (fake_client_take(&a.c, &e)) {
        if (e.type != USH_CQ_RECV)
            continue;
        cr_assert_eq(e.recv.handle, b->p.server);
        const uint8_t *at = fake_client_rx(&a.c, e.recv.cell);
        for (uint32_t i = 0; i < e.recv.len; i++)
            cr_assert_eq(at[i], byte_at(b->got + i), "byte %lu", (unsigned long)(b->got + i));
        b->got += e.recv.len;
        b->completions++;
        if (!b->lazy)
            fake_client_release(&a.c, e.recv.cell);
    }
    fake_client_release_flush(&a.c);
}

Test(stream, bulk_arrives_whole_and_in_order) {
    struct bulk b = {.p = open_pair(0, 1), .total = 8u << 20};
    for (uint32_t i = 0; i < 3000000 && b.got < b.total; i++) {
        bulk_send(&b);
        (void)kit_turn(&k);
        bulk_take(&b);
    }
    cr_assert_eq(b.got, b.total);
    close_both(b.p);
}

/* By turns the code alone and code of another layout, at moments of all kinds. */
Test(stream, bulk_arrives_whole_through_upgrades_of_the_engine) {
    static const char *const versions[] = {NEXT "/tcp.so", NEXT "/tcp.so", ENGINES "/tcp.so", ENGINES "/tcp.so"};
    const struct tcp_config cfg = {.conn_max = 512, .port_low = 40000, .port_high = 49999};
    struct bulk b = {.p = open_pair(0, 1), .total = 8u << 20};
    uint32_t upgrades = 0, next = 1;
    for (uint32_t i = 0; i < 3000000 && b.got < b.total; i++) {
        bulk_send(&b);
        (void)kit_turn(&k);
        bulk_take(&b);
        if (i < next)
            continue;
        const struct runtime_upgrade how = {.file = versions[upgrades++ % ARRAY_LEN(versions)], .cfg = &cfg};
        struct runtime_upgrade_report r;
        next += 1 + upgrades % 17;
        cr_assert_eq(runtime_engine_upgrade(k.rt, KIT_TCP, &how, &r, &k.err), 0, "%s", k.err.text);
        cr_assert(!r.moved || r.records >= 4, "itself, a listener, two ends: %lu", (unsigned long)r.records);
    }
    cr_assert_eq(b.got, b.total);
    cr_assert_gt(upgrades, 8, "%u", upgrades);
    close_both(b.p);
}

/* Bulk that is not sent yet must not keep a message of another stream in the ring. */
Test(stream, a_message_passes_bulk_that_waits) {
    enum { PIECE = 1024, PIECES = 400 };
    struct pair bulk = open_pair(0, 1), small = open_pair(1, 1);
    struct ush_cqe e;
    bool came = false;
    for (uint32_t i = 0; i < PIECES; i++)
        fake_client_send(&a.c, bulk.client, i * PIECE, PIECE, NULL, 0);
    fake_client_send(&a.c, small.client, PIECES * PIECE, 8, NULL, 0);
    (void)kit_turn(&k);
    while (fake_client_take(&a.c, &e)) {
        came |= e.type == USH_CQ_RECV && e.recv.handle == small.server;
        if (e.type == USH_CQ_RECV)
            fake_client_release(&a.c, e.recv.cell);
    }
    cr_assert(came, "one turn is enough");
    fake_client_release_flush(&a.c);
    close_both(bulk);
    close_both(small);
}

/* The reader reads nothing: the window closes, nothing is lost, and all of it comes when the ring is read. */
Test(stream, a_reader_that_sleeps_slows_its_peer) {
    struct bulk b = {.p = open_pair(0, 1), .total = 8u << 20};
    for (uint32_t i = 0; i < 100000; i++) {
        bulk_send(&b);
        (void)kit_turn(&k);
    }
    cr_assert_lt(b.sent, b.total, "the sender was stopped");
    for (uint32_t i = 0; i < 3000000 && b.got < b.total; i++) {
        bulk_take(&b);
        bulk_send(&b);
        (void)kit_turn(&k);
    }
    cr_assert_eq(b.got, b.total);
    close_both(b.p);
}

Test(stream, half_close_lets_the_other_half_speak) {
    struct pair p = open_pair(0, 1);
    struct ush_cqe e;
    memcpy(fake_client_tx(&a.c, 0), "last", 4);
    fake_client_send(&a.c, p.client, 0, 4, NULL, 0);
    fake_client_stream(&a.c, USH_OP_SHUTDOWN, 0, p.client);
    kit_settle(&k);
    cr_assert(fake_client_take(&a.c, &e));
    cr_assert_eq(e.type, USH_CQ_RECV, "bytes first");
    fake_client_release(&a.c, e.recv.cell);
    cr_assert(take_event(USH_EVENT_HANGUP, &e));
    cr_assert_eq(e.event.handle, p.server);
    fake_client_send(&a.c, p.server, 0, 4, NULL, 0);
    kit_settle(&k);
    cr_assert(fake_client_take(&a.c, &e));
    cr_assert_eq(e.type, USH_CQ_RECV);
    cr_assert_eq(e.recv.handle, p.client);
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release_flush(&a.c);
    close_both(p);
}

Test(stream, an_abort_is_an_error_at_the_peer) {
    struct pair p = open_pair(0, 1);
    struct ush_cqe e;
    fake_client_stream(&a.c, USH_OP_CLOSE, USH_CLOSE_ABORT, p.client);
    cr_assert(take_event(USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.handle, p.server);
    cr_assert_eq(e.event.value, ECONNRESET);
    cr_assert(take_event(USH_EVENT_CLOSED, &e));
    fake_client_send(&a.c, p.server, 0, 4, NULL, 0); /* crossed the news: nothing happens */
    fake_client_stream(&a.c, USH_OP_CLOSE, 0, p.server);
    kit_settle(&k);
    cr_assert_eq(a.s->detach_why, DETACH_COUNT);
}

Test(stream, nobody_listens) {
    struct ush_cqe e;
    const struct flow port = {.local_port = PORT + 1, .proto = 6};
    fake_client_connect(&a.c, client_handle(3, 1), kit_addr(1).b, PORT + 1);
    cr_assert(take_event(USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, ENETUNREACH);
    cr_assert_eq(e.event.extra, 1, "a port of this host that is not ours: the kernel may have a listener");
    cr_assert(take_event(USH_EVENT_CLOSED, &e));
    cr_assert_eq(runtime_steer(k.rt, &port, 0, true), 0);
    fake_client_connect(&a.c, client_handle(3, 2), kit_addr(1).b, PORT + 1);
    cr_assert(take_event(USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, ECONNREFUSED);
    cr_assert_eq(e.event.extra, 1, "nobody of ours at that address: the kernel may have somebody");
    cr_assert(take_event(USH_EVENT_CLOSED, &e));
    fake_client_connect(&a.c, client_handle(4, 1), (const uint8_t[16]){0}, PORT);
    cr_assert(take_event(USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.extra, 1, "never began: the kernel may try");
}

/* Thousands of connections over few indexes: generations keep them apart, nothing is left behind. */
Test(stream, short_connections_leave_nothing) {
    for (uint32_t i = 0; i < 2000; i++)
        close_both(open_pair(i % 8, i / 8));
    cr_assert_eq(engine_connections(), 0);
    cr_assert_eq(k.rt->shard[0]->set[0]->streams, 0);
}

/* The completion ring is full of datagrams: whatever a stream has to say waits, and comes in its order. */
Test(stream, news_and_bytes_wait_in_order_for_a_full_ring) {
    struct ush_cqe e;
    uint32_t client = client_handle(0, 1), server = 0, step = 0, got = 0;
    kit_echo(&k, 0, 7);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, 3, 1 << 30), 0);
    for (uint32_t i = 0; i < SESS_CQ_ENTRIES; i++) {
        fake_client_send(&a.c, a.sock.handle, 0, 1, kit_addr(1).b, 7);
        kit_settle(&k);
    }
    memset(fake_client_tx(&a.c, 4096), 0x33, 30000);
    fake_client_connect(&a.c, client, kit_addr(1).b, PORT);
    fake_client_send(&a.c, client, 4096, 30000, NULL, 0);
    fake_client_stream(&a.c, USH_OP_SHUTDOWN, 0, client);
    kit_settle(&k);
    for (uint32_t i = 0; i < 3000000 && step < 2; i++) {
        (void)kit_turn(&k);
        for (uint32_t n = 0; n < 3 && fake_client_take(&a.c, &e); n++) {
            if (e.type == USH_CQ_EVENT && e.flags == USH_EVENT_ACCEPT) {
                cr_assert_eq(e.event.handle, listener.handle);
                cr_assert_eq(e.event.port >= 40000, true, "the peer is known");
                server = e.event.value;
                step = 1;
            } else if (e.type == USH_CQ_EVENT && e.flags == USH_EVENT_HANGUP) {
                cr_assert_eq(e.event.handle, server);
                cr_assert_eq(got, 30000, "all bytes come before the hang-up");
                step = 2;
            } else if (e.type == USH_CQ_RECV && e.recv.handle != a.sock.handle) {
                cr_assert_eq(step, 1, "no byte before the news of the stream");
                cr_assert_eq(e.recv.handle, server);
                cr_assert_eq(fake_client_rx(&a.c, e.recv.cell)[0], 0x33);
                got += e.recv.len;
            }
            if (e.type == USH_CQ_RECV)
                fake_client_release(&a.c, e.recv.cell);
        }
    }
    cr_assert_eq(step, 2);
    fake_client_release_flush(&a.c);
    close_both((struct pair){client, server});
}

/* ---- the end of a session ---- */

Test(stream, a_session_that_ends_resets_what_it_left_open) {
    struct kit_client b;
    struct ush_cqe e;
    kit_attach(&k, &b, 5001);
    fake_client_connect(&b.c, USH_HANDLE(b.c.h.socket_max, 7), kit_addr(1).b, PORT);
    cr_assert(take_event(USH_EVENT_ACCEPT, &e));
    uint32_t server = e.event.value;
    kit_detach(&k, &b);
    cr_assert(take_event(USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, ECONNRESET);
    cr_assert_eq(e.event.handle, server);
    cr_assert_null(k.rt->zombies, "nothing of it lingers");
}

Test(stream, what_was_closed_before_the_session_ended_still_arrives) {
    struct kit_client b;
    struct ush_cqe e;
    uint32_t got = 0, handle;
    kit_attach(&k, &b, 5001);
    handle = USH_HANDLE(b.c.h.socket_max, 7);
    fake_client_connect(&b.c, handle, kit_addr(1).b, PORT);
    cr_assert(take_event(USH_EVENT_ACCEPT, &e));
    memset(fake_client_tx(&b.c, 0), 0x77, 100000);
    fake_client_send(&b.c, handle, 0, 100000, NULL, 0);
    fake_client_stream(&b.c, USH_OP_CLOSE, 0, handle);
    kit_detach(&k, &b);
    cr_assert_not_null(k.rt->zombies, "its bytes are on their way");
    for (uint32_t i = 0; i < 100000 && got < 100000; i++) {
        (void)kit_turn(&k);
        while (fake_client_take(&a.c, &e)) {
            cr_assert(e.type == USH_CQ_RECV || e.flags == USH_EVENT_HANGUP);
            if (e.type != USH_CQ_RECV)
                continue;
            for (uint32_t j = 0; j < e.recv.len; j++)
                cr_assert_eq(fake_client_rx(&a.c, e.recv.cell)[j], 0x77);
            got += e.recv.len;
            fake_client_release(&a.c, e.recv.cell);
        }
        fake_client_release_flush(&a.c);
    }
    cr_assert_eq(got, 100000);
}

/* ---- a client that breaks the rules ---- */

static void expect_detach(enum detach_reason why) {
    kit_settle(&k);
    cr_assert_eq(a.s->detach_why, why, "%s", detach_reason_text((enum detach_reason)a.s->detach_why));
}

Test(stream, connect_on_a_live_handle_ends_the_session) {
    struct pair p = open_pair(0, 1);
    fake_client_connect(&a.c, p.client, kit_addr(1).b, PORT);
    expect_detach(DETACH_BAD_CONNECT);
}

Test(stream, connect_on_a_handle_of_ours_ends_the_session) {
    fake_client_connect(&a.c, USH_HANDLE(a.c.h.socket_max + a.c.h.client_socket_max, 0), kit_addr(1).b, PORT);
    expect_detach(DETACH_BAD_HANDLE);
}

Test(stream, a_handle_beyond_the_table_ends_the_session) {
    fake_client_stream(&a.c, USH_OP_CLOSE, 0, 0xffffffu);
    expect_detach(DETACH_BAD_HANDLE);
}

Test(stream, bytes_outside_the_region_end_the_session) {
    struct pair p = open_pair(0, 1);
    fake_client_send(&a.c, p.client, (uint32_t)a.c.h.tx_size - 3, 4, NULL, 0);
    expect_detach(DETACH_BAD_TX_RANGE);
}

Test(stream, more_in_flight_than_the_region_ends_the_session) {
    struct pair p = open_pair(0, 1);
    for (uint32_t i = 0; i < 3; i++)
        fake_client_send(&a.c, p.client, 0, (uint32_t)a.c.h.tx_size, NULL, 0);
    expect_detach(DETACH_BAD_CREDIT);
}

Test(stream, stale_handles_are_ignored) {
    struct pair p = open_pair(0, 1);
    uint32_t stale = client_handle(0, 9);
    fake_client_send(&a.c, stale, 0, 4, NULL, 0);
    fake_client_stream(&a.c, USH_OP_SHUTDOWN, 0, stale);
    fake_client_stream(&a.c, USH_OP_CLOSE, USH_CLOSE_ABORT, stale);
    kit_settle(&k);
    cr_assert_eq(a.s->detach_why, DETACH_COUNT);
    cr_assert_eq(engine_connections(), 2);
    close_both(p);
}
