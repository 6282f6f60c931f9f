/* SPDX-License-Identifier: Apache-2.0
 *
 * Options, information, urgent bytes, ports of a client's choice and connections to this host, over the real tcp
 * engine. Both ends are here; the shard is turned by hand.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"

#define PORT 80

static struct kit k;
static struct kit_client a;

static void setup(void) {
    kit_open(&k, NULL);
    kit_tcp(&k, 512);
    kit_attach(&k, &a, 5000);
}

static void teardown(void) {
    kit_settle(&k);
    kit_detach(&k, &a);
    kit_settle(&k);
    session_reap(k.rt);
    cr_assert_eq(k.rt->shard[0]->small.pool.free_count, k.rt->shard[0]->small.pool.count, "a packet leaked");
    cr_assert_null(k.rt->zombies, "a session leaked");
    kit_close(&k);
}

TestSuite(stream_option, .init = setup, .fini = teardown);

static struct session_socket open_with(struct session_socket_params p) {
    struct session_socket s;
    p.flow.proto = PROTO_TCP;
    p.owner = 1;
    cr_assert_eq(session_socket_open(a.s, &p, &s), 0);
    return s;
}

static uint32_t client_handle(uint32_t n) {
    return USH_HANDLE(a.c.h.socket_max + n, 1);
}

/* The next completion of that kind; others are dropped, received cells given back. */
static bool take(uint8_t type, uint8_t flags, struct ush_cqe *ret_e) {
    for (uint32_t i = 0; i < 200000; i++) {
        while (fake_client_take(&a.c, ret_e)) {
            if (ret_e->type == type && (type != USH_CQ_EVENT || ret_e->flags == flags))
                return true;
        }
        (void)kit_turn(&k);
    }
    return false;
}

static void option(uint32_t handle, uint8_t flags, uint32_t name, int64_t value) {
    struct ush_sqe e = {.op = USH_OP_OPTION, .flags = flags};
    e.stream.handle = handle;
    e.stream.option = name;
    e.stream.value = value;
    fake_client_put(&a.c, &e);
}

static void connect_from(uint32_t handle, uint8_t flags, uint32_t bound, uint8_t to, uint16_t port) {
    struct ush_sqe e = {.op = USH_OP_CONNECT, .flags = flags};
    e.connect.handle = handle;
    e.connect.port = port;
    e.connect.bound = bound;
    memcpy(e.connect.addr, kit_addr(to).b, 16);
    fake_client_put(&a.c, &e);
}

/* Connected to a listener of the session's own; returns the accepted stream's handle. */
static uint32_t accepted(uint32_t handle) {
    struct ush_cqe e;
    connect_from(handle, 0, 0, 1, PORT);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_ACCEPT, &e));
    uint32_t server = e.event.value;
    cr_assert(memcmp(e.event.local, kit_addr(1).b, 16) == 0, "the listener's is the wildcard");
    return server;
}

static struct ush_stream_info info_of(uint32_t handle) {
    struct ush_stream_info info;
    struct ush_cqe e;
    fake_client_stream(&a.c, USH_OP_INFO, 0, handle);
    cr_assert(take(USH_CQ_INFO, 0, &e));
    cr_assert_eq(e.info.handle, handle);
    cr_assert_eq(e.info.error, 0);
    memcpy(&info, fake_client_rx(&a.c, e.info.cell), sizeof info);
    fake_client_release(&a.c, e.info.cell);
    fake_client_release_flush(&a.c);
    return info;
}

/* ---- options ---- */

Test(stream_option, ahead_of_connect_is_in_the_first_segment) {
    (void)open_with((struct session_socket_params){.flow.local_port = PORT});
    option(client_handle(1), USH_OPTION_AHEAD, USH_STREAM_MAXSEG, 700);
    option(client_handle(0), USH_OPTION_AHEAD, USH_STREAM_MAXSEG, 600); /* begins anew */
    option(client_handle(0), USH_OPTION_AHEAD, USH_STREAM_TTL, 9999);   /* cannot be */
    uint32_t server = accepted(client_handle(0));
    uint32_t small = info_of(server).mss;
    cr_assert_leq(small, 600, "the peer was told in the SYN");
    cr_assert_gt(small, 500);
    connect_from(client_handle(1), 0, 0, 1, PORT);
    struct ush_cqe e;
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_ACCEPT, &e));
    cr_assert_gt(info_of(e.event.value).mss, 700, "what was kept for another was forgotten");
}

Test(stream_option, connections_are_born_with_their_listeners) {
    static const struct ush_option options[] = {{.option = USH_STREAM_MAXSEG, .value = 800},
                                                {.option = USH_STREAM_CONGESTION, .name = "dctcp"},
                                                {.option = USH_STREAM_DEFER_ACCEPT, .value = 0},
                                                {.option = 77, .value = 1},
                                                {.option = USH_STREAM_TOS, .value = -1}};
    struct session_socket l = open_with((struct session_socket_params){
        .flow.local_port = PORT, .options = options, .option_count = ARRAY_LEN(options)});
    struct ush_stream_info info = info_of(accepted(client_handle(0)));
    cr_assert_leq(info.mss, 800);
    cr_assert_str_eq((char *)info.congestion, "dctcp");
    struct ush_sqe name = {.op = USH_OP_OPTION};
    name.stream.handle = l.handle;
    name.stream.option = USH_STREAM_CONGESTION;
    memcpy(name.stream.name, "cubic", 6);
    fake_client_put(&a.c, &name);
    info = info_of(accepted(client_handle(1)));
    cr_assert_str_eq((char *)info.congestion, "cubic", "changed while it listens");
}

Test(stream_option, an_unknown_name_is_no_obstacle) {
    static const struct ush_option nonsense = {.option = USH_STREAM_CONGESTION, .name = "nonsense"};
    (void)open_with((struct session_socket_params){.flow.local_port = PORT, .options = &nonsense, .option_count = 1});
    struct ush_sqe name = {.op = USH_OP_OPTION, .flags = USH_OPTION_AHEAD};
    name.stream.handle = client_handle(0);
    name.stream.option = USH_STREAM_CONGESTION;
    memset(name.stream.name, 'x', sizeof name.stream.name);
    fake_client_put(&a.c, &name);
    cr_assert_str_eq((char *)info_of(accepted(client_handle(0))).congestion, "cubic");
}

Test(stream_option, what_is_no_option_ends_the_session) {
    static const struct {
        uint32_t handle, option;
        uint8_t flags;
    } bad[] = {{0, USH_STREAM_OPTION_COUNT, 0}, {0, 0, 0}, {0, USH_STREAM_TOS, 2}, {0xffffff, USH_STREAM_TOS, 0}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct kit_client b;
        kit_attach(&k, &b, (uint16_t)(6000 + i));
        struct ush_sqe e = {.op = USH_OP_OPTION, .flags = bad[i].flags};
        e.stream.handle = bad[i].handle;
        e.stream.option = bad[i].option;
        fake_client_put(&b.c, &e);
        kit_settle(&k);
        enum detach_reason why;
        cr_assert_eq(session_next_detached(k.rt, &why), b.s, "%zu", i);
        kit_detach(&k, &b);
        kit_settle(&k);
    }
    option(a.sock.handle, 0, USH_STREAM_TOS, 1); /* a datagram socket: nothing */
    option(client_handle(7), 0, USH_STREAM_TOS, 1);
    kit_settle(&k);
    enum detach_reason why;
    cr_assert_null(session_next_detached(k.rt, &why));
}

/* ---- information ---- */

Test(stream_option, information_opens_no_window) {
    (void)open_with((struct session_socket_params){.flow.local_port = PORT});
    uint32_t server = accepted(client_handle(0));
    struct ush_cqe e;
    memcpy(fake_client_tx(&a.c, 0), "hello", 5);
    fake_client_send(&a.c, client_handle(0), 0, 5, NULL, 0);
    cr_assert(take(USH_CQ_RECV, 0, &e));
    struct ush_stream_info before = info_of(server), after = info_of(server);
    cr_assert_eq(before.state, 1);
    cr_assert_eq(before.rx_bytes, 5);
    cr_assert_eq(before.rcv_held, 5);
    cr_assert_eq(after.rcv_held, 5);
    cr_assert(memcmp(before.local, kit_addr(1).b, 16) == 0 && before.local_port == PORT);
    fake_client_release(&a.c, e.recv.cell);
    fake_client_release_flush(&a.c);
    fake_client_stream(&a.c, USH_OP_INFO, 0, client_handle(5));
    cr_assert(take(USH_CQ_INFO, 0, &e));
    cr_assert_eq(e.info.error, ENOTCONN);
    cr_assert_eq(e.info.cell, USH_NONE);
}

/* ---- urgent ---- */

Test(stream_option, urgent_bytes_are_told_with_their_place) {
    (void)open_with((struct session_socket_params){.flow.local_port = PORT});
    uint32_t server = accepted(client_handle(0));
    struct ush_cqe e;
    memcpy(fake_client_tx(&a.c, 0), "abc!d", 5);
    fake_client_send(&a.c, client_handle(0), 0, 3, NULL, 0);
    struct ush_sqe s = {.op = USH_OP_SEND, .flags = USH_SEND_URGENT};
    s.send.handle = client_handle(0);
    s.send.off = 3;
    s.send.len = 1;
    fake_client_put(&a.c, &s);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_URGENT, &e));
    cr_assert_eq(e.event.handle, server);
    cr_assert_eq(e.event.extra, 4);
}

/* ---- ports ---- */

Test(stream_option, connects_from_a_port_of_its_choice) {
    (void)open_with((struct session_socket_params){.flow.local_port = PORT});
    struct session_socket b =
        open_with((struct session_socket_params){.flow = {.local = kit_addr(2), .local_port = 1234}, .bound = true});
    struct ush_cqe e;
    connect_from(client_handle(0), USH_CONNECT_BOUND, b.handle, 1, PORT);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_ACCEPT, &e));
    cr_assert_eq(e.event.port, 1234);
    cr_assert(memcmp(e.event.addr, kit_addr(2).b, 16) == 0);
    connect_from(client_handle(1), USH_CONNECT_BOUND, b.handle, 1, PORT);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, EADDRNOTAVAIL, "the very same connection again");
    cr_assert_eq(e.event.extra, 0);
    cr_assert_eq(session_socket_close(a.s, b.handle), 0);
    connect_from(client_handle(2), USH_CONNECT_BOUND, b.handle, 1, PORT);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, EADDRNOTAVAIL, "it has that port no more");
    connect_from(client_handle(3), USH_CONNECT_BOUND, a.sock.handle, 1, PORT);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, EADDRNOTAVAIL, "a datagram socket is no port for streams");
    connect_from(client_handle(4), USH_CONNECT_BOUND, a.c.h.socket_max, 1, PORT);
    kit_settle(&k);
    enum detach_reason why;
    cr_assert_eq(session_next_detached(k.rt, &why), a.s);
    cr_assert_eq(why, DETACH_BAD_HANDLE);
}

/* A port of ours at another address of this host: refused here, the kernel may have a listener there. */
Test(stream_option, refused_on_this_host_the_kernel_may_try) {
    (void)open_with((struct session_socket_params){.flow = {.local = kit_addr(2), .local_port = PORT}});
    struct ush_cqe e;
    connect_from(client_handle(0), 0, 0, 1, PORT);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, ECONNREFUSED);
    cr_assert_eq(e.event.extra, 1);
    cr_assert(take(USH_CQ_EVENT, USH_EVENT_CLOSED, &e));
}
