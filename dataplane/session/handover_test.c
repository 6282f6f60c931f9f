/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that go from one session to another, over the real tcp engine: connections that were never accepted, and
 * streams that several processes have a copy of.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <unistd.h>

#include "dataplane/core/test_kit.h"
#include "engines/tcp/tcp_cmd.h"

#define PORT 80

static struct kit k;
static struct kit_client server[2], client;
static struct session_socket listener[2];

static void listen_shared(struct kit_client *kc, struct session_socket *ret_sock) {
    struct session_socket_params params = {
        .flow = {.local_port = PORT, .proto = PROTO_TCP}, .owner = 1, .reuseport = true, .spread = 1};
    cr_assert_eq(session_socket_open(kc->s, &params, ret_sock), 0);
}

static void setup(void) {
    kit_open(&k, NULL);
    kit_tcp(&k, 512);
    for (uint16_t i = 0; i < 2; i++) {
        kit_attach(&k, &server[i], (uint16_t)(5000 + i));
        listen_shared(&server[i], &listener[i]);
    }
    kit_attach(&k, &client, 5009);
}

static void teardown(void) {
    kit_settle(&k);
    kit_detach(&k, &client);
    kit_detach(&k, &server[0]);
    kit_detach(&k, &server[1]);
    kit_settle(&k);
    session_reap(k.rt);
    struct tcp_stats stats;
    struct tcp_cmd_stats cmd = {.cmd = {TCP_CMD_STATS, sizeof cmd}, .stats = &stats};
    struct engine_reply reply;
    cr_assert_eq(runtime_command(k.rt, 0, KIT_TCP, &cmd.cmd, &reply), 0);
    cr_assert_eq(stats.connections, 0, "a connection outlives its session");
    cr_assert_eq(k.rt->shard[0]->small.pool.free_count, k.rt->shard[0]->small.pool.count, "a packet leaked");
    cr_assert_null(k.rt->zombies, "a session leaked");
    kit_close(&k);
}

TestSuite(handover, .init = setup, .fini = teardown);

/* The next completion of a type (and event); others are dropped. */
static bool take(struct kit_client *kc, uint8_t type, uint8_t event, struct ush_cqe *ret_e) {
    for (uint32_t i = 0; i < 200000; i++) {
        while (fake_client_take(&kc->c, ret_e)) {
            if (ret_e->type == type && (type != USH_CQ_EVENT || ret_e->flags == event))
                return true;
        }
        (void)kit_turn(&k);
    }
    return false;
}

static bool take_event(struct kit_client *kc, uint8_t event, struct ush_cqe *ret_e) {
    return take(kc, USH_CQ_EVENT, event, ret_e);
}

static void say(struct kit_client *kc, uint32_t handle, const char *text) {
    memcpy(fake_client_tx(&kc->c, 0), text, strlen(text));
    fake_client_send(&kc->c, handle, 0, (uint32_t)strlen(text), NULL, 0);
}

static bool hears(struct kit_client *kc, uint32_t handle, const char *text) {
    struct ush_cqe e;
    bool same = take(kc, USH_CQ_RECV, 0, &e) && e.recv.handle == handle && e.recv.len == strlen(text) &&
                memcmp(fake_client_rx(&kc->c, e.recv.cell), text, strlen(text)) == 0;
    fake_client_release(&kc->c, e.recv.cell);
    fake_client_release_flush(&kc->c);
    return same;
}

/* Which server was given the client's connection, and as what. */
static uint32_t connect_one(uint32_t handle, uint32_t *ret_handle) {
    struct ush_cqe e;
    fake_client_connect(&client.c, handle, kit_addr(1).b, PORT);
    for (uint32_t i = 0; i < 100000; i++) {
        (void)kit_turn(&k);
        for (uint32_t s = 0; s < 2; s++) {
            if (!fake_client_take(&server[s].c, &e))
                continue;
            cr_assert(e.type == USH_CQ_EVENT && e.flags == USH_EVENT_ACCEPT);
            *ret_handle = e.event.value;
            return s;
        }
    }
    cr_assert_fail("nobody was given the connection");
    return 0;
}

static void give_back(struct kit_client *kc, uint32_t handle, const char *bytes) {
    struct ush_sqe e = {.op = USH_OP_RETURN};
    e.send.handle = handle;
    e.send.off = 8192;
    e.send.len = (uint32_t)strlen(bytes);
    memcpy(fake_client_tx(&kc->c, 8192), bytes, strlen(bytes));
    fake_client_put(&kc->c, &e);
}

Test(handover, a_connection_goes_to_the_other_listener_with_its_bytes) {
    uint32_t first = USH_HANDLE(client.c.h.socket_max, 1), got;
    uint32_t from = connect_one(first, &got), to = 1 - from;
    struct ush_cqe e;
    say(&client, first, "question");
    cr_assert(hears(&server[from], got, "question"));
    cr_assert_eq(session_socket_close(server[from].s, listener[from].handle), 0);
    give_back(&server[from], got, "question");
    cr_assert(take_event(&server[to], USH_EVENT_ACCEPT, &e));
    cr_assert_eq(e.event.handle, listener[to].handle);
    uint32_t heir = e.event.value;
    cr_assert(hears(&server[to], heir, "question"), "what it had brought comes again");
    cr_assert(take_event(&server[from], USH_EVENT_CLOSED, &e), "its first owner is done with it");
    say(&client, first, "more");
    cr_assert(hears(&server[to], heir, "more"));
    say(&server[to], heir, "answer");
    cr_assert(hears(&client, first, "answer"));
    fake_client_stream(&client.c, USH_OP_CLOSE, 0, first);
    cr_assert(take_event(&server[to], USH_EVENT_HANGUP, &e));
    fake_client_stream(&server[to].c, USH_OP_CLOSE, 0, heir);
    cr_assert(take_event(&server[to], USH_EVENT_CLOSED, &e));
    cr_assert(take_event(&client, USH_EVENT_CLOSED, &e));
}

Test(handover, without_another_listener_it_is_reset) {
    uint32_t first = USH_HANDLE(client.c.h.socket_max, 1), got, from = connect_one(first, &got);
    struct ush_cqe e;
    for (uint32_t i = 0; i < 2; i++)
        cr_assert_eq(session_socket_close(server[i].s, listener[i].handle), 0);
    give_back(&server[from], got, "");
    cr_assert(take_event(&client, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, ECONNRESET);
    cr_assert(take_event(&server[from], USH_EVENT_CLOSED, &e));
}

/* Its peer has hung up already: the next one hears of it. */
Test(handover, a_hang_up_goes_with_it) {
    uint32_t first = USH_HANDLE(client.c.h.socket_max, 1), got;
    uint32_t from = connect_one(first, &got), to = 1 - from;
    struct ush_cqe e;
    fake_client_stream(&client.c, USH_OP_SHUTDOWN, 0, first);
    cr_assert(take_event(&server[from], USH_EVENT_HANGUP, &e));
    cr_assert_eq(session_socket_close(server[from].s, listener[from].handle), 0);
    give_back(&server[from], got, "");
    cr_assert(take_event(&server[to], USH_EVENT_ACCEPT, &e));
    uint32_t heir = e.event.value;
    cr_assert(take_event(&server[to], USH_EVENT_HANGUP, &e));
    cr_assert_eq(e.event.handle, heir);
}

/* ---- streams that several processes have a copy of ---- */

static struct session_stream park(struct kit_client *kc, uint32_t handle) {
    struct session_stream stream;
    struct ush_cqe e;
    fake_client_stream(&kc->c, USH_OP_PARK, 0, handle);
    cr_assert(take_event(kc, USH_EVENT_PARKED, &e));
    cr_assert_eq(e.event.handle, handle);
    cr_assert_eq(session_stream_share(kc->s, handle, &stream), 0);
    return stream;
}

static uint32_t adopt(struct kit_client *kc, const struct session_stream *stream) {
    struct session_socket made;
    struct ush_cqe e;
    cr_assert_eq(session_stream_adopt(kc->s, stream, &made), 0);
    if (made.kick_fd >= 0)
        close(made.kick_fd);
    cr_assert(take_event(kc, USH_EVENT_ACCEPT, &e));
    cr_assert(e.event.handle == USH_NONE && e.event.value == made.handle);
    return made.handle;
}

Test(handover, a_parked_stream_goes_on_in_another_session) {
    uint32_t first = USH_HANDLE(client.c.h.socket_max, 1), got;
    uint32_t from = connect_one(first, &got), to = 1 - from;
    struct session_stream stream;
    struct ush_cqe e;
    cr_assert_eq(session_stream_share(server[from].s, got, &stream), -EBUSY, "it is not parked");
    say(&server[from], got, "sent before");
    stream = park(&server[from], got);
    cr_assert(hears(&client, first, "sent before"));
    say(&client, first, "meanwhile");
    kit_settle(&k);
    uint32_t heir = adopt(&server[to], &stream);
    cr_assert(hears(&server[to], heir, "meanwhile"), "nobody had it, and nothing is lost");
    say(&server[to], heir, "answer");
    cr_assert(hears(&client, first, "answer"));
    fake_client_stream(&client.c, USH_OP_SHUTDOWN, 0, first);
    cr_assert(take_event(&server[to], USH_EVENT_HANGUP, &e));
    stream = park(&server[to], heir);
    cr_assert(stream.hung_up);
    heir = adopt(&server[from], &stream);
    cr_assert(take_event(&server[from], USH_EVENT_HANGUP, &e), "who comes later hears of it too");
    fake_client_stream(&server[from].c, USH_OP_CLOSE, 0, heir);
    fake_client_stream(&client.c, USH_OP_CLOSE, 0, first);
    cr_assert(take_event(&server[from], USH_EVENT_CLOSED, &e));
    cr_assert(take_event(&client, USH_EVENT_CLOSED, &e));
}

Test(handover, unread_bytes_are_taken_from_the_region) {
    uint32_t size = (uint32_t)client.c.h.tx_size;
    char got[5] = "";
    memcpy(client.c.base + client.c.h.tx_off + size - 4, "last", 4);
    int fd = session_tx_file(client.s, size - 4, 4);
    cr_assert(fd >= 0 && pread(fd, got, sizeof got, 0) == 4);
    cr_assert_str_eq(got, "last");
    close(fd);
    cr_assert_eq(session_tx_file(client.s, size - 4, 5), -EINVAL);
    cr_assert_eq(session_tx_file(client.s, UINT32_MAX, UINT32_MAX), -EINVAL);
}

Test(handover, a_parked_stream_that_nobody_wants_is_closed) {
    uint32_t first = USH_HANDLE(client.c.h.socket_max, 1), got, from = connect_one(first, &got);
    struct session_stream stream = park(&server[from], got);
    struct ush_cqe e;
    session_stream_drop(k.rt, &stream, false);
    cr_assert(take_event(&client, USH_EVENT_HANGUP, &e), "as if its last owner had closed it");
    fake_client_stream(&client.c, USH_OP_CLOSE, 0, first);
    cr_assert(take_event(&client, USH_EVENT_CLOSED, &e));
}

Test(handover, a_session_that_ends_leaves_it) {
    uint32_t first = USH_HANDLE(client.c.h.socket_max, 1), got;
    uint32_t from = connect_one(first, &got), to = 1 - from;
    struct session_stream stream;
    say(&server[from], got, "last words");
    cr_assert_eq(session_stream_leave(server[from].s, got, &stream), 0);
    kit_detach(&k, &server[from]);
    cr_assert(hears(&client, first, "last words"));
    kit_settle(&k);
    for (uint32_t i = 0; i < 100000; i++)
        (void)kit_turn(&k); /* until they are acknowledged */
    uint32_t heir = adopt(&server[to], &stream);
    say(&client, first, "more");
    cr_assert(hears(&server[to], heir, "more"));
    kit_attach(&k, &server[from], 5020); /* for the teardown */
}
