/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams that only the kernel can carry come back to the client that sent them: whole, in order, before its credit,
 * and never without a word. The shards are turned by hand, in virtual time.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"

#define NOBODYS_PORT 99
#define OPTION_QUOTA 3

static struct kit k;
static struct kit_client a;

static void teardown(void) {
    kit_settle(&k);
    kit_detach(&k, &a);
    for (uint32_t i = 0; i < k.rt->shard_count; i++) {
        const struct pkt_pool *pool = &k.rt->shard[i]->small.pool;
        cr_assert_eq(pool->free_count, pool->count, "a packet leaked");
    }
    kit_close(&k);
}

TestSuite(bounce, .fini = teardown);

static void open_with(uint32_t shards) {
    const struct runtime_config cfg = {.shard_count = shards, .small_packets = 1024, .large_packets = 4, .seed = 7};
    kit_open(&k, &cfg);
    kit_attach(&k, &a, 5000);
}

static void send_nowhere(uint32_t number, uint32_t len) {
    uint32_t off = (number % 8) * 65536;
    memset(fake_client_tx(&a.c, off), (int)number + 1, len);
    fake_client_send(&a.c, a.sock.handle, off, len, kit_addr(1).b, NOBODYS_PORT);
}

static void expect_bounce(const struct ush_cqe *e, uint32_t number, uint32_t len) {
    cr_assert_eq(e->type, USH_CQ_RECV);
    cr_assert_eq(e->flags, USH_RECV_BOUNCED);
    cr_assert_eq(e->recv.handle, a.sock.handle);
    cr_assert_eq(e->recv.len, len);
    cr_assert_eq(e->recv.peer_port, NOBODYS_PORT);
    cr_assert(memcmp(e->recv.peer, kit_addr(1).b, 16) == 0);
    const uint8_t *bytes = fake_client_rx(&a.c, e->recv.cell);
    for (uint32_t i = 0; i < len; i++)
        cr_assert_eq(bytes[i], (uint8_t)(number + 1), "byte %u of %u", i, len);
}

static const struct ush_socket *shm_socket(void) {
    return (const struct ush_socket *)(a.c.base + a.c.h.socket_off) + a.sock.handle;
}

Test(bounce, comes_back_whole_and_in_order) {
    static const uint32_t sizes[] = {0, 1, 64, 1536, 1537, 20000, 65507};
    struct ush_cqe e;
    open_with(1);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, OPTION_QUOTA, 1 << 20), 0);
    uint32_t bytes = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(sizes); i++) {
        send_nowhere(i, sizes[i]);
        bytes += sizes[i];
    }
    kit_settle(&k);
    cr_assert_eq(shm_socket()->tx_done, bytes, "its credit is back");
    for (uint32_t i = 0; i < ARRAY_LEN(sizes);) {
        cr_assert(fake_client_take(&a.c, &e));
        if (e.type != USH_CQ_RECV)
            continue;
        expect_bounce(&e, i, sizes[i]);
        fake_client_release(&a.c, e.recv.cell);
        i++;
    }
    fake_client_release_flush(&a.c);
    kit_settle(&k);
    struct session_socket_info info;
    cr_assert_eq(session_sockets(a.s, USH_NONE, &info, 1), 1);
    cr_assert_eq(info.rx_held, 0);
    cr_assert_eq(info.rx_packets, 0, "nothing was received");
    cr_assert_eq(info.tx_packets, ARRAY_LEN(sizes));
}

Test(bounce, several_pieces_of_one_buffer_keep_their_size) {
    struct ush_cqe e;
    open_with(1);
    memset(fake_client_tx(&a.c, 0), 1, 3000);
    struct ush_sqe sqe = {.op = USH_OP_SEND,
                          .flags = USH_SEND_TO,
                          .send = {.handle = a.sock.handle, .len = 3000, .port = NOBODYS_PORT, .gso_size = 1000}};
    memcpy(sqe.send.addr, kit_addr(1).b, 16);
    fake_client_put(&a.c, &sqe);
    kit_settle(&k);
    cr_assert(fake_client_take(&a.c, &e));
    expect_bounce(&e, 0, 3000);
    cr_assert_eq(e.recv.gso_size, 1000);
}

Test(bounce, finds_its_sender_in_another_shard) {
    struct ush_cqe e;
    open_with(2);
    const struct flow flow = {.local_port = NOBODYS_PORT, .proto = PROTO_UDP};
    cr_assert_eq(runtime_steer(k.rt, &flow, 1 - a.sock.set, true), 0);
    send_nowhere(0, 64);
    send_nowhere(1, 5000);
    kit_settle(&k);
    cr_assert(fake_client_take(&a.c, &e));
    expect_bounce(&e, 0, 64);
    cr_assert(fake_client_take(&a.c, &e));
    expect_bounce(&e, 1, 5000);
    cr_assert_geq(k.rt->shard[1 - a.sock.set]->stats.cross_shard, 2);
}

Test(bounce, without_room_the_sender_is_told) {
    struct ush_cqe e;
    uint32_t bounced = 0, errors = 0;
    open_with(1);
    cr_assert_eq(session_socket_set_option(a.s, a.sock.handle, OPTION_QUOTA, 2048), 0);
    for (uint32_t i = 0; i < 20; i++)
        send_nowhere(i, 64);
    kit_settle(&k);
    while (fake_client_take(&a.c, &e)) {
        bounced += e.type == USH_CQ_RECV && e.flags == USH_RECV_BOUNCED;
        errors += e.type == USH_CQ_EVENT && e.flags == USH_EVENT_ERROR && e.event.value == ENOBUFS;
    }
    cr_assert_eq(bounced, 8);
    cr_assert_eq(errors, 12);
    cr_assert_eq(kit_drops(&k, DROP_SOCKET_RX_FULL), 12);
}

Test(bounce, what_was_sent_before_the_close_comes_back_before_it) {
    struct ush_cqe e;
    open_with(1);
    send_nowhere(0, 64);
    cr_assert_eq(session_socket_close(a.s, a.sock.handle), 0);
    cr_assert(fake_client_take(&a.c, &e));
    expect_bounce(&e, 0, 64);
}
