/* SPDX-License-Identifier: Apache-2.0
 *
 * Sessions against a client that writes the shared memory by hand. The shards are turned by hand, in virtual time.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"

#define ECHO_PORT 7
#define ANY_PORT  5000

static struct kit k;
static struct kit_client a;

static void fill(uint8_t *p, uint32_t len, uint32_t seed) {
    for (uint32_t i = 0; i < len; i++)
        p[i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
}

static bool intact(const uint8_t *p, uint32_t len, uint32_t seed) {
    for (uint32_t i = 0; i < len; i++) {
        if (p[i] != (uint8_t)(seed * 31 + i * 7 + (i >> 8)))
            return false;
    }
    return true;
}

static void setup(void) {
    kit_open(&k, NULL);
    kit_echo(&k, 0, ECHO_PORT);
    kit_attach(&k, &a, ANY_PORT);
}

static struct ush_socket *shm_socket(uint32_t handle) {
    return (struct ush_socket *)(a.c.base + a.c.h.socket_off) + handle;
}

static uint32_t pool_free(void) {
    return k.rt->shard[0]->small.pool.free_count;
}

/* Every packet is home again, the session's memory goes, and so does the runtime. */
static void teardown(void) {
    kit_settle(&k);
    kit_detach(&k, &a);
    cr_assert_eq(pool_free(), k.rt->shard[0]->small.pool.count, "a packet leaked");
    cr_assert_null(k.rt->zombies, "a session leaked");
    kit_close(&k);
}

TestSuite(session, .init = setup, .fini = teardown);

/* Sends to the echo engine and lets it all happen. */
static void send_echo(uint32_t off, uint32_t len) {
    fake_client_send(&a.c, a.sock.handle, off, len, kit_addr(1).b, ECHO_PORT);
    kit_settle(&k);
}

static bool take_type(uint8_t type, struct ush_cqe *ret_e) {
    while (fake_client_take(&a.c, ret_e)) {
        if (ret_e->type == type)
            return true;
    }
    return false;
}

/* ---- what works ---- */

Test(session, datagram_goes_to_echo_and_back) {
    struct ush_cqe e;
    fill(fake_client_tx(&a.c, 0), 64, 1);
    send_echo(0, 64);
    cr_assert(fake_client_take(&a.c, &e));
    cr_assert_eq(e.type, USH_CQ_RECV);
    cr_assert_eq(e.recv.len, 64);
    cr_assert_eq(e.recv.peer_port, ECHO_PORT);
    cr_assert_eq(e.recv.handle, a.sock.handle);
    cr_assert(memcmp(e.recv.peer, kit_addr(1).b, 16) == 0);
    cr_assert(intact(fake_client_rx(&a.c, e.recv.cell), 64, 1));
    cr_assert_not(fake_client_take(&a.c, &e));
    cr_assert_eq(shm_socket(a.sock.handle)->tx_done, 64);
    cr_assert_eq(a.c.set->sq[0].sq_head, 1);
}

Test(session, every_size_arrives_whole) {
    static const uint32_t sizes[] = {0,    1,    2,    63,   64,   65,    255,   256,   257,  1535,
                                     1536, 1537, 2048, 2049, 9000, 16384, 16385, 60000, 65507};
    struct ush_cqe e;
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        bool lent = sizes[i] > a.c.h.tx_copy_max;
        fill(fake_client_tx(&a.c, 4096), sizes[i], i);
        send_echo(4096, sizes[i]);
        cr_assert(take_type(USH_CQ_RECV, &e), "%u bytes did not come back", sizes[i]);
        cr_assert_eq(e.recv.len, sizes[i]);
        cr_assert(intact(fake_client_rx(&a.c, e.recv.cell), sizes[i], i), "%u bytes came back changed", sizes[i]);
        cr_assert_eq(e.recv.cell % a.c.h.rx_cell_min, 0);
        fake_client_release(&a.c, e.recv.cell);
        fake_client_release_flush(&a.c);
        kit_settle(&k);
        cr_assert_eq(take_type(USH_CQ_TX_FREE, &e), lent);
        if (lent)
            cr_assert_eq(e.tx_free.off[0], 4096);
    }
    struct session_socket_info info;
    cr_assert_eq(session_sockets(a.s, USH_NONE, &info, 1), 1);
    cr_assert_eq(info.rx_held, 0);
    cr_assert_eq(info.rx_packets, ARRAY_LEN(sizes));
    cr_assert_eq(info.tx_packets, ARRAY_LEN(sizes));
}

Test(session, rings_wrap_many_times) {
    struct ush_cqe e;
    uint32_t sent = 0, got = 0;
    while (got < 3 * SESS_CQ_ENTRIES) {
        for (uint32_t i = 0; i < 50; i++, sent++) {
            memcpy(fake_client_tx(&a.c, (sent % 1000) * 64), &sent, sizeof sent);
            fake_client_send(&a.c, a.sock.handle, (sent % 1000) * 64, 64, kit_addr(1).b, ECHO_PORT);
        }
        kit_settle(&k);
        while (fake_client_take(&a.c, &e)) {
            if (e.type != USH_CQ_RECV)
                continue;
            uint32_t number;
            memcpy(&number, fake_client_rx(&a.c, e.recv.cell), sizeof number);
            cr_assert_eq(number, got++, "order is kept");
            fake_client_release(&a.c, e.recv.cell);
        }
    }
    fake_client_release_flush(&a.c);
    cr_assert_eq(sent, got);
}

Test(session, several_submission_rings_are_drained) {
    struct ush_cqe e;
    struct fake_client other = a.c;
    uint32_t index = 0;
    cr_assert_eq(session_new_sq(a.s, a.sock.set, &index), 0);
    cr_assert_eq(index, 1);
    fake_client_use_set(&other, a.sock.set, index, -1);
    other.sq_tail = 0;
    fake_client_send(&other, a.sock.handle, 0, 10, kit_addr(1).b, ECHO_PORT);
    send_echo(0, 11);
    cr_assert(take_type(USH_CQ_RECV, &e));
    cr_assert(take_type(USH_CQ_RECV, &e));
    for (uint32_t i = 2; i < USH_SQ_MAX; i++)
        cr_assert_eq(session_new_sq(a.s, a.sock.set, &index), 0);
    cr_assert_eq(session_new_sq(a.s, a.sock.set, &index), -ENOSPC);
    cr_assert_eq(session_new_sq(a.s, a.sock.set + 1, &index), -EINVAL);
}

/* ---- limits of the client's own ---- */

Test(session, a_full_socket_loses_only_its_own) {
    struct kit_client b;
    struct ush_cqe e;
    kit_attach(&k, &b, ANY_PORT + 1);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, 3, 4096), 0);
    for (uint32_t i = 0; i < 40; i++) {
        fake_client_send(&a.c, a.sock.handle, 0, 64, kit_addr(1).b, ECHO_PORT);
        fake_client_send(&b.c, b.sock.handle, 0, 64, kit_addr(1).b, ECHO_PORT);
        kit_settle(&k);
    }
    cr_assert_eq(shm_socket(a.sock.handle)->rx_dropped, 40 - 4096 / 256);
    cr_assert_eq(kit_drops(&k, DROP_SOCKET_RX_FULL), 40 - 4096 / 256);
    uint32_t got = 0;
    while (fake_client_take(&b.c, &e))
        got += e.type == USH_CQ_RECV;
    cr_assert_eq(got, 40);
    kit_detach(&k, &b);
}

static void quota_off(void) {
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, 3, 1 << 30), 0);
}

Test(session, a_full_region_is_a_counted_drop) {
    struct session_socket other;
    quota_off();
    cr_assert_eq(kit_bind(&k, &a, ANY_PORT + 1, &other), 0);
    for (uint32_t i = 0; i < a.c.h.rx_size / SLAB_BYTES; i++)
        send_echo(0, 60000);
    cr_assert_eq(kit_drops(&k, DROP_SESSION_NO_CELL), 0);
    fake_client_send(&a.c, other.handle, 0, 64, kit_addr(1).b, ECHO_PORT);
    kit_settle(&k);
    cr_assert_eq(kit_drops(&k, DROP_SESSION_NO_CELL), 1);
    struct ush_cqe e;
    cr_assert(take_type(USH_CQ_RECV, &e));
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release_flush(&a.c);
    send_echo(0, 64);
    cr_assert_eq(kit_drops(&k, DROP_SESSION_NO_CELL), 1, "one slab came free and changed its class");
}

/* A client that does not read: datagrams are lost and counted, buffers and events are not. */
Test(session, a_full_ring_loses_datagrams_but_no_buffer_and_no_event) {
    struct ush_cqe e;
    uint32_t freed = 0, writable = 0, got = 0;
    quota_off();
    for (uint32_t i = 0; i < SESS_CQ_ENTRIES + 100; i++)
        send_echo(0, 64);
    uint64_t lost = kit_drops(&k, DROP_SESSION_RING_FULL);
    cr_assert_gt(lost, 0);
    for (uint32_t i = 0; i < 600; i++)
        send_echo(i * 4096, 2000); /* lent, 1.2 MB: several quarters of the credit */
    cr_assert_gt(kit_drops(&k, DROP_SESSION_RING_FULL), lost);
    for (uint32_t i = 0; i < 30; i++) {
        while (fake_client_take(&a.c, &e)) {
            freed += e.type == USH_CQ_TX_FREE ? e.count : 0;
            writable += e.type == USH_CQ_EVENT && e.flags == USH_EVENT_WRITABLE;
            got += e.type == USH_CQ_RECV;
        }
        for (uint32_t t = 0; t < 100000 && !fake_client_ready(&a.c); t++)
            kit_turn(&k); /* the worker looks again by itself, ever more rarely */
    }
    cr_assert_eq(freed, 600);
    cr_assert_gt(writable, 0);
    cr_assert_eq(got + kit_drops(&k, DROP_SESSION_RING_FULL), SESS_CQ_ENTRIES + 100 + 600);
}

Test(session, lent_buffers_are_bounded_and_the_rest_waits) {
    struct ush_cqe e;
    uint32_t freed = 0;
    quota_off();
    for (uint32_t i = 0; i < SESS_CQ_ENTRIES; i++)
        send_echo(0, 1);
    for (uint32_t i = 0; i < SESS_LOAN_MAX + 200; i++)
        send_echo((i % 2000) * 4096, 2000);
    cr_assert_eq(a.c.set->sq[0].sq_head, SESS_CQ_ENTRIES + SESS_LOAN_MAX, "what cannot be given back is not taken");
    for (uint32_t i = 0; i < 100 && freed < SESS_LOAN_MAX + 200; i++) {
        while (fake_client_take(&a.c, &e))
            freed += e.type == USH_CQ_TX_FREE ? e.count : 0;
        for (uint32_t t = 0; t < 3000; t++)
            kit_turn(&k);
    }
    cr_assert_eq(freed, SESS_LOAN_MAX + 200);
}

Test(session, credit_is_given_back_and_said) {
    struct ush_cqe e;
    uint32_t sent = 0, writable = 0;
    while (sent < 3 * a.sock.tx_limit) {
        send_echo(0, 1000);
        sent += 1000;
        while (fake_client_take(&a.c, &e)) {
            writable += e.type == USH_CQ_EVENT && e.flags == USH_EVENT_WRITABLE && e.event.handle == a.sock.handle;
            if (e.type == USH_CQ_RECV)
                fake_client_release(&a.c, e.recv.cell);
        }
    }
    fake_client_release_flush(&a.c);
    cr_assert_eq(shm_socket(a.sock.handle)->tx_done, sent);
    cr_assert_geq(writable, 11, "once a quarter of the limit");
    cr_assert_leq(writable, 13);
}

/* ---- sockets ---- */

Test(session, handles_are_used_again_when_nothing_is_out) {
    struct session_socket s;
    struct ush_cqe e;
    send_echo(0, 64); /* a cell is lent */
    uint32_t first = a.sock.handle;
    cr_assert_eq(session_socket_close(a.s, first), 0);
    cr_assert_eq(shm_socket(first)->state, USH_SOCKET_CLOSED);
    cr_assert_eq(session_socket_close(a.s, first), -EBADF);
    cr_assert_eq(kit_bind(&k, &a, ANY_PORT + 1, &s), 0);
    cr_assert_neq(s.handle, first, "the client still holds a cell of it");
    cr_assert_eq(s.kick_fd, -1, "the set is known");
    cr_assert(take_type(USH_CQ_RECV, &e));
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release_flush(&a.c);
    kit_settle(&k);
    struct session_socket again;
    cr_assert_eq(kit_bind(&k, &a, ANY_PORT + 2, &again), 0);
    cr_assert_eq(again.handle, first);
    cr_assert_eq(shm_socket(first)->tx_done, 0, "a new socket counts from zero");
}

Test(session, what_was_sent_before_the_close_still_goes) {
    struct kit_client b;
    struct ush_cqe e;
    kit_attach(&k, &b, ANY_PORT + 1);
    for (uint32_t i = 0; i < 100; i++)
        fake_client_send(&a.c, a.sock.handle, 0, 64, kit_addr(1).b, ANY_PORT + 1);
    cr_assert_eq(session_socket_close(a.s, a.sock.handle), 0);
    fake_client_send(&a.c, a.sock.handle, 0, 64, kit_addr(1).b, ANY_PORT + 1);
    kit_settle(&k);
    uint32_t got = 0;
    while (fake_client_take(&b.c, &e))
        got += e.type == USH_CQ_RECV;
    cr_assert_eq(got, 100);
    cr_assert_eq(kit_drops(&k, DROP_SESSION_GONE), 1, "a send the close overtook is dropped, nobody is detached");
    cr_assert_null(session_next_detached(k.rt, &(enum detach_reason){0}));
    kit_detach(&k, &b);
}

Test(session, bad_calls_are_refused) {
    struct session_socket s;
    struct session_socket_params p = {.flow = {.local_port = ANY_PORT, .proto = PROTO_UDP}};
    cr_assert_eq(session_socket_open(a.s, &p, &s), -EADDRINUSE);
    p.flow.local_port = 0;
    cr_assert_eq(session_socket_open(a.s, &p, &s), -EINVAL);
    p.flow = (struct flow){.local_port = 1, .proto = 99};
    cr_assert_eq(session_socket_open(a.s, &p, &s), -EPROTONOSUPPORT);
    cr_assert_eq(session_socket_update(a.s, 999999, &p), -EBADF);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, 77, 1), -ENOPROTOOPT);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, 3, -1), -EINVAL);
    cr_assert_eq(session_socket_set_option(a.s, 4711, 1, 1), -EBADF);
    cr_assert_eq(session_socket_group(a.s, 4711, &(struct ipaddr){.d = {0, 0}}, 0, false), -EBADF);
    struct session *none;
    struct session_fds fds;
    cr_assert_eq(session_create(k.rt, &(struct session_params){.abi = 99}, &none, &fds), -EPROTONOSUPPORT);
}

Test(session, connect_narrows_and_options_reach_the_transport) {
    struct session_socket_params p = {.flow = {.local = kit_addr(1),
                                               .local_port = ANY_PORT,
                                               .remote_port = 9,
                                               .remote = kit_addr(3),
                                               .proto = PROTO_UDP},
                                      .owner = 4};
    cr_assert_eq(session_socket_update(a.s, a.sock.handle, &p), 0);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, 1, 0x10), 0);
    send_echo(0, 64); /* the answer comes from port 7, the socket is connected to port 9 */
    struct ush_cqe e;
    cr_assert_not(take_type(USH_CQ_RECV, &e));
    struct session_socket_info info;
    cr_assert_eq(session_sockets(a.s, USH_NONE, &info, 1), 1);
    cr_assert_eq(info.flow.remote_port, 9);
}

Test(session, sockets_are_listed_in_pieces) {
    struct session_socket s;
    struct session_socket_info info[4];
    for (uint32_t i = 1; i < 10; i++)
        cr_assert_eq(kit_bind(&k, &a, (uint16_t)(ANY_PORT + i), &s), 0);
    uint32_t seen = 0, after = USH_NONE, n;
    while ((n = session_sockets(a.s, after, info, 4)) > 0) {
        for (uint32_t i = 0; i < n; i++)
            cr_assert(after == USH_NONE || info[i].handle > after);
        after = info[n - 1].handle;
        seen += n;
    }
    cr_assert_eq(seen, 10);
}

Test(session, runs_out_of_handles_politely) {
    struct kit_client b = {.sock = {.kick_fd = -1}};
    struct session_params params = {.abi = 1, .socket_max = 3};
    struct session_socket s;
    cr_assert_eq(session_create(k.rt, &params, &b.s, &b.fds), 0);
    cr_assert_eq(fake_client_map(&b.c, b.fds.memfd, b.fds.wake_peer), 0);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(kit_bind(&k, &b, (uint16_t)(6000 + i), i == 0 ? &b.sock : &s), 0);
    cr_assert_eq(kit_bind(&k, &b, 6003, &s), -EMFILE);
    kit_detach(&k, &b);
}

/* Of two sockets that share a port the one whose program is slower gets less. */
Test(session, the_shortest_queue_gets_the_next_datagram) {
    const struct session_socket_params params = {
        .flow = {.local_port = 6000, .proto = PROTO_UDP}, .owner = 1, .reuseport = true, .spread = 1};
    struct session_socket member[2];
    struct ush_cqe e;
    uint32_t got[2] = {0};
    for (uint32_t i = 0; i < 2; i++)
        cr_assert_eq(session_socket_open(a.s, &params, &member[i]), 0);
    for (uint32_t i = 0; i < 200; i++) {
        fake_client_send(&a.c, a.sock.handle, 0, 64, kit_addr(1).b, 6000);
        kit_settle(&k);
        while (fake_client_take(&a.c, &e)) {
            uint32_t who = e.recv.handle == member[1].handle;
            if (e.type != USH_CQ_RECV)
                continue;
            got[who]++;
            if (who == 1 || i % 20 == 0) /* the first one gives back one in twenty only */
                fake_client_release(&a.c, e.recv.cell);
            fake_client_release_flush(&a.c);
        }
    }
    cr_assert_eq(got[0] + got[1], 200);
    cr_assert(got[0] > 0 && got[0] < 20, "%u of 200 went to the slow one", got[0]);
}

Test(session, errors_of_the_transport_reach_the_socket) {
    struct ush_cqe e;
    fake_client_send(&a.c, a.sock.handle, 0, 64, NULL, 0); /* not connected, no address */
    kit_settle(&k);
    cr_assert(take_type(USH_CQ_EVENT, &e));
    cr_assert_eq(e.flags, USH_EVENT_ERROR);
    cr_assert_eq(e.event.value, EDESTADDRREQ);
    cr_assert_eq(shm_socket(a.sock.handle)->error, EDESTADDRREQ);
}

/* ---- wake-ups, seen from the shared page ---- */

Test(session, one_byte_a_ticket) {
    char bytes[16];
    a.c.set->wait_ticket = 1;
    for (uint32_t i = 0; i < 5; i++)
        send_echo(0, 8);
    cr_assert_eq(recv(a.fds.wake_peer, bytes, sizeof bytes, MSG_DONTWAIT), 1);
    cr_assert_eq(recv(a.fds.wake_peer, bytes, sizeof bytes, MSG_DONTWAIT), -1);
    a.c.set->wait_ticket = 2;
    send_echo(0, 8);
    cr_assert_eq(recv(a.fds.wake_peer, bytes, sizeof bytes, MSG_DONTWAIT), -1);
    a.c.set->wait_ticket = 3;
    send_echo(0, 8);
    cr_assert_eq(recv(a.fds.wake_peer, bytes, sizeof bytes, MSG_DONTWAIT), 1);
}

Test(session, a_client_that_falls_asleep_late_is_woken_a_turn_later) {
    char bytes[16];
    send_echo(0, 8); /* published; then the client goes to sleep without having seen it */
    send_echo(0, 8);
    fake_client_send(&a.c, a.sock.handle, 0, 8, kit_addr(1).b, ECHO_PORT);
    kit_turn(&k);
    a.c.set->wait_ticket = 7;
    kit_turn(&k);
    cr_assert_eq(recv(a.fds.wake_peer, bytes, sizeof bytes, MSG_DONTWAIT), 1);
}

/* What waited for room in the ring is told in a turn in which nothing else happens. */
Test(session, a_client_that_fell_asleep_behind_a_full_ring_is_woken) {
    char bytes[16];
    struct ush_cqe e;
    quota_off();
    for (uint32_t i = 0; i < SESS_CQ_ENTRIES + 100; i++)
        send_echo(0, 64);
    for (uint32_t i = 0; i < 100; i++)
        send_echo(i * 4096, 2000); /* lent: each has to be given back */
    kit_settle(&k);
    while (fake_client_take(&a.c, &e))
        continue;
    a.c.set->wait_ticket = 1;
    for (uint32_t t = 0; t < 100000 && !fake_client_ready(&a.c); t++)
        kit_turn(&k);
    cr_assert(fake_client_ready(&a.c));
    cr_assert_eq(recv(a.fds.wake_peer, bytes, sizeof bytes, MSG_DONTWAIT), 1);
}

Test(session, the_worker_knows_whom_it_keeps_from_the_core) {
    struct shard *sh = k.rt->shard[0];
    char byte;
    send_echo(0, 8);
    cr_assert_eq(sh->told, 0);
    a.c.set->yields = 1;
    send_echo(0, 8);
    cr_assert_eq(sh->told, TOLD_YIELDER);
    sh->told = 0;
    a.c.set->yields = 0;
    a.c.set->wait_ticket = 1;
    send_echo(0, 8);
    cr_assert_eq(sh->told, TOLD_SLEEPER);
    cr_assert_eq(recv(a.fds.wake_peer, &byte, 1, MSG_DONTWAIT), 1);
}

/* ---- what a hostile client may try, one rule at a time ---- */

static void bad_sequence(void) {
    a.c.sq[0].seq = 0x12345;
}
static void bad_op(void) {
    struct ush_sqe e = {.op = 77};
    fake_client_put(&a.c, &e);
}
static void bad_flags(void) {
    struct ush_sqe e = {.op = USH_OP_SEND, .flags = 0x80};
    fake_client_put(&a.c, &e);
}
static void bad_handle(void) {
    fake_client_send(&a.c, 500, 0, 8, NULL, 0);
}
static void huge_handle(void) {
    fake_client_send(&a.c, 0xfffffff0, 0, 8, NULL, 0);
}
static void tx_behind_the_end(void) {
    fake_client_send(&a.c, a.sock.handle, (uint32_t)a.c.h.tx_size - 7, 8, NULL, 0);
}
static void tx_overflow(void) {
    fake_client_send(&a.c, a.sock.handle, 0xffffffff, 60000, NULL, 0);
}
static void tx_too_long(void) {
    fake_client_send(&a.c, a.sock.handle, 0, 70000, NULL, 0);
}
static void release_unlent(void) {
    fake_client_release(&a.c, 256);
    fake_client_release_flush(&a.c);
}
static void release_outside(void) {
    fake_client_release(&a.c, 0xffffff00);
    fake_client_release_flush(&a.c);
}
static void release_twice(void) {
    struct ush_cqe e;
    send_echo(0, 8);
    cr_assert(take_type(USH_CQ_RECV, &e));
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release_flush(&a.c);
}
static void release_inside_a_cell(void) {
    struct ush_cqe e;
    send_echo(0, 8);
    cr_assert(take_type(USH_CQ_RECV, &e));
    fake_client_release(&a.c, e.recv.cell + 4);
    fake_client_release_flush(&a.c);
}
static void release_too_many(void) {
    struct ush_sqe e = {.op = USH_OP_RELEASE, .count = 15};
    fake_client_put(&a.c, &e);
}
static void bad_cq_head(void) {
    quota_off();
    a.c.set->cq_head = 0x40000000;
    for (uint32_t i = 0; i < SESS_CQ_ENTRIES + 1; i++) {
        struct ush_sqe e = {.op = USH_OP_SEND, .flags = USH_SEND_TO};
        e.send.handle = a.sock.handle;
        e.send.port = ECHO_PORT;
        memcpy(e.send.addr, kit_addr(1).b, 16);
        fake_client_put(&a.c, &e);
        kit_settle(&k);
    }
}
static void bad_from(void) {
    struct ush_sqe e = {.op = USH_OP_SEND, .flags = USH_SEND_FROM};
    e.send.handle = a.sock.handle;
    e.send.from[0] = 0xff;
    fake_client_put(&a.c, &e);
}

static const struct crime {
    const char *name;
    void (*commit)(void);
    enum detach_reason why;
} crimes[] = {
    {"sequence", bad_sequence, DETACH_BAD_SEQUENCE},
    {"op", bad_op, DETACH_BAD_OP},
    {"flags", bad_flags, DETACH_BAD_OP},
    {"handle never opened", bad_handle, DETACH_BAD_HANDLE},
    {"handle outside", huge_handle, DETACH_BAD_HANDLE},
    {"tx behind the end", tx_behind_the_end, DETACH_BAD_TX_RANGE},
    {"tx overflow", tx_overflow, DETACH_BAD_TX_RANGE},
    {"tx too long", tx_too_long, DETACH_BAD_TX_LEN},
    {"release unlent", release_unlent, DETACH_BAD_RELEASE},
    {"release outside", release_outside, DETACH_BAD_RELEASE},
    {"release twice", release_twice, DETACH_BAD_RELEASE},
    {"release inside a cell", release_inside_a_cell, DETACH_BAD_RELEASE},
    {"release too many", release_too_many, DETACH_BAD_RELEASE},
    {"cq head", bad_cq_head, DETACH_BAD_CQ_HEAD},
    {"from a group", bad_from, DETACH_BAD_ADDRESS},
};

Test(session, each_broken_rule_detaches_with_its_reason) {
    for (uint32_t i = 0; i < ARRAY_LEN(crimes); i++) {
        struct kit_client b;
        struct ush_cqe e;
        enum detach_reason why = DETACH_COUNT;
        kit_attach(&k, &b, ANY_PORT + 1);
        crimes[i].commit();
        fake_client_send(&b.c, b.sock.handle, 0, 64, kit_addr(1).b, ECHO_PORT);
        kit_settle(&k);
        cr_assert_eq(session_next_detached(k.rt, &why), a.s, "%s: not detached", crimes[i].name);
        cr_assert_eq(why, crimes[i].why, "%s: %s", crimes[i].name, detach_reason_text(why));
        cr_assert_null(session_next_detached(k.rt, &why));
        cr_assert(fake_client_take(&b.c, &e) && e.type == USH_CQ_RECV, "%s: a bystander was hurt", crimes[i].name);
        kit_detach(&k, &a);
        kit_detach(&k, &b);
        kit_attach(&k, &a, ANY_PORT);
    }
}

/* ---- the end of a session ---- */

static void to_far(uint32_t off, uint32_t len) {
    fake_client_send(&a.c, a.sock.handle, off, len, kit_far_addr(1).b, 9);
}

/* The far end of the pair does not take packets: they stay in the port, with the client's bytes in them. */
Test(session, memory_stays_until_the_last_packet_is_home) {
    static struct pktmem far;
    cr_assert_eq(pktmem_create(&far, 64, 2048, 99), 0);
    struct port_params params[2] = {{.ifname = "near", .queue_count = 1, .mem = {runtime_port_mem(k.rt, 0, false)}},
                                    {.ifname = "far", .queue_count = 1, .mem = {&far}}};
    struct port *ends[2];
    uint32_t slot;
    cr_assert_eq(port_pair_create(params, true, ends, NULL), 0);
    cr_assert_eq(runtime_port_add(k.rt, ends[0], &slot, &k.err), 0);
    to_far(0, 5000);
    to_far(8192, 64);
    kit_settle(&k);
    cr_assert_eq(pool_free(), k.rt->shard[0]->small.pool.count - 2);
    kit_detach(&k, &a);
    cr_assert_not_null(k.rt->zombies, "two packets are under way");
    runtime_port_remove(k.rt, slot);
    runtime_events(k.rt, NULL, NULL);
    cr_assert_null(k.rt->zombies);
    port_destroy(ends[1]);
    pktmem_destroy(&far);
    kit_attach(&k, &a, ANY_PORT);
}

Test(session, ten_thousand_idle_sockets_are_cheap) {
    struct kit_client b = {.sock = {.kick_fd = -1}};
    struct session_params params = {.abi = 1, .socket_max = 10000};
    struct session_socket s;
    cr_assert_eq(session_create(k.rt, &params, &b.s, &b.fds), 0);
    cr_assert_eq(fake_client_map(&b.c, b.fds.memfd, b.fds.wake_peer), 0);
    uint32_t opened = 0;
    while (opened < 1000 && kit_bind(&k, &b, (uint16_t)(10000 + opened), opened == 0 ? &b.sock : &s) == 0)
        opened++;
    cr_assert_eq(opened, 1000, "the transport's table holds %u", opened);
    cr_assert_lt(sizeof(struct sess_socket) + sizeof(struct sess_flow) + sizeof(struct ush_socket) + sizeof(uint32_t),
                 256, "what one socket costs here, while idle");
    kit_detach(&k, &b);
}
