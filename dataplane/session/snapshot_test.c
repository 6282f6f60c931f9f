/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists of sockets: every one once, in letters of bounded work, whatever the client does; and killing streams.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"
#include "dataplane/session/snapshot.h"

#define PORT    80
#define SOCKETS 100u

static struct kit k;
static struct kit_client a;
static struct session_socket listener;

static void setup(void) {
    kit_open(&k, NULL);
    kit_tcp(&k, 512);
    kit_attach(&k, &a, 5000);
    cr_assert_eq(kit_listen(&a, PORT, &listener), 0);
}

static void teardown(void) {
    kit_settle(&k);
    kit_detach(&k, &a);
    kit_settle(&k);
    session_reap(k.rt);
    cr_assert_eq(k.rt->shard[0]->small.pool.free_count, k.rt->shard[0]->small.pool.count, "a packet leaked");
    kit_close(&k);
}

TestSuite(snapshot, .init = setup, .fini = teardown, .timeout = 60);

/* All of them, asked for `step` at a time. */
static uint32_t list(struct session_snap *ret_snaps, uint32_t max, uint32_t step) {
    struct session_cursor at = {.shard = 0};
    uint32_t n = 0;
    bool end = false;
    while (!end && n + step <= max) {
        uint32_t got = session_snapshot(a.s, &at, ret_snaps + n, step, &end);
        cr_assert_leq(got, step);
        n += got;
    }
    cr_assert(end);
    cr_assert_eq(session_snapshot(a.s, &at, ret_snaps + n, 1, &end), 0);
    cr_assert(end, "it stays at its end");
    return n;
}

static const struct session_snap *snap_of(const struct session_snap *snaps, uint32_t n, uint32_t handle) {
    for (uint32_t i = 0; i < n; i++) {
        if (snaps[i].handle == handle)
            return &snaps[i];
    }
    return NULL;
}

static uint32_t connect_one(uint32_t index) {
    uint32_t handle = USH_HANDLE(a.c.h.socket_max + index, 1);
    fake_client_connect(&a.c, handle, kit_addr(1).b, PORT);
    kit_settle(&k);
    return handle;
}

Test(snapshot, says_what_a_socket_is) {
    struct session_snap snaps[16];
    uint32_t client = connect_one(0), n = list(snaps, 16, 4);
    cr_assert_eq(n, 4, "a datagram socket, a listener, and both ends of a stream; got %u", n);
    const struct session_snap *udp = snap_of(snaps, n, a.sock.handle), *l = snap_of(snaps, n, listener.handle),
                              *c = snap_of(snaps, n, client);
    cr_assert(udp != NULL && udp->flow.proto == PROTO_UDP && udp->flow.local_port == 5000 && !udp->has_tcp);
    cr_assert(l != NULL && l->has_tcp && l->tcp.state == TCP_STATE_LISTEN && l->flow.local_port == PORT && !l->stream);
    cr_assert(c != NULL && c->has_tcp && c->tcp.state == TCP_STATE_ESTABLISHED && c->stream);
    cr_assert_eq(c->flow.remote_port, PORT);
    cr_assert_eq(memcmp(&c->flow.remote, &(struct ipaddr){.d = {kit_addr(1).d[0], kit_addr(1).d[1]}}, 16), 0);
}

Test(snapshot, lists_every_socket_once_at_any_step) {
    static struct session_snap snaps[SOCKETS + 64];
    struct session_socket sock[SOCKETS];
    for (uint32_t i = 0; i < SOCKETS; i++)
        cr_assert_eq(kit_bind(&k, &a, (uint16_t)(6000 + i), &sock[i]), 0);
    for (uint32_t step = 1; step < 60; step += 7) {
        uint32_t n = list(snaps, SOCKETS + 64, step);
        cr_assert_eq(n, SOCKETS + 2);
        for (uint32_t i = 0; i < SOCKETS; i++)
            cr_assert_not_null(snap_of(snaps, n, sock[i].handle), "step %u misses %u", step, i);
    }
}

Test(snapshot, closed_ones_are_not_listed) {
    struct session_snap snaps[16];
    struct session_socket sock;
    cr_assert_eq(kit_bind(&k, &a, 6000, &sock), 0);
    cr_assert_eq(session_snapshot_one(a.s, sock.handle, &snaps[0]), 0);
    cr_assert_eq(snaps[0].flow.local_port, 6000);
    cr_assert_eq(session_socket_close(a.s, sock.handle), 0);
    cr_assert_eq(list(snaps, 16, 8), 2);
    cr_assert_eq(session_snapshot_one(a.s, sock.handle, &snaps[0]), -ENOENT);
}

Test(snapshot, handles_that_do_not_exist) {
    struct session_snap snap;
    uint32_t client = connect_one(0);
    const uint32_t bad[] = {USH_NONE,
                            0xffffff,
                            a.c.h.socket_max - 1,
                            client + 1,
                            client ^ 1u << 24,
                            1u << 24,
                            USH_HANDLE(a.c.h.socket_max + a.c.h.client_socket_max, 1) ^ 5u << 24};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cr_assert_eq(session_snapshot_one(a.s, bad[i], &snap), -ENOENT, "%x", bad[i]);
        cr_assert_lt(session_stream_kill(a.s, bad[i]), 0, "%x", bad[i]);
    }
    cr_assert_eq(session_snapshot_one(a.s, client, &snap), 0);
}

static bool told(uint32_t handle, uint8_t event, uint32_t value) {
    struct ush_cqe e;
    while (fake_client_take(&a.c, &e)) {
        if (e.type == USH_CQ_EVENT && e.flags == event && e.event.handle == handle &&
            (value == 0 || e.event.value == value))
            return true;
    }
    return false;
}

Test(snapshot, a_killed_stream_is_told_and_reset) {
    struct session_snap snaps[16];
    uint32_t client = connect_one(0), n = list(snaps, 16, 8), server = USH_NONE;
    for (uint32_t i = 0; i < n; i++)
        server = snaps[i].stream && snaps[i].handle != client ? snaps[i].handle : server;
    cr_assert_neq(server, USH_NONE);
    cr_assert_eq(session_stream_kill(a.s, a.sock.handle), -EPROTOTYPE);
    cr_assert_eq(session_stream_kill(a.s, listener.handle), -EPROTOTYPE);
    cr_assert_eq(session_stream_kill(a.s, server), 0);
    kit_settle(&k);
    cr_assert(told(server, USH_EVENT_ERROR, ECONNABORTED), "its own program");
    kit_settle(&k);
    cr_assert_eq(session_stream_kill(a.s, server), -ENOENT, "twice");
    for (uint32_t i = 0; i < list(snaps, 16, 8); i++)
        cr_assert(!snaps[i].has_tcp || snaps[i].tcp.state != TCP_STATE_ESTABLISHED, "the peer is reset as well");
}

Test(snapshot, a_socket_that_is_let_go_keeps_its_handle_until_it_is_closed) {
    struct session_snap snap;
    struct session_socket again;
    cr_assert_eq(session_socket_retire(a.s, a.sock.handle), 0);
    cr_assert_eq(session_socket_retire(a.s, a.sock.handle), -ENOENT, "twice");
    cr_assert_eq(session_snapshot_one(a.s, a.sock.handle, &snap), -ENOENT);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, 2, 64), -EBADF, "its transport's socket is gone");
    cr_assert(told(a.sock.handle, USH_EVENT_CLOSED, 0));
    cr_assert_eq(kit_bind(&k, &a, 5000, &again), 0, "the port is free at once");
    cr_assert_neq(again.handle, a.sock.handle);
    cr_assert_eq(session_socket_close(a.s, a.sock.handle), 0);
    cr_assert_eq(session_socket_close(a.s, a.sock.handle), -EBADF);
    cr_assert_eq(session_socket_retire(a.s, listener.handle), 0);
    cr_assert(told(listener.handle, USH_EVENT_CLOSED, 0));
}
