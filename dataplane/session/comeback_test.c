/* SPDX-License-Identifier: Apache-2.0
 *
 * A client that comes back to a second runtime, which has inherited what the first one leaves: its streams go on, its
 * cells stay its own, and what it says wrongly harms only itself. The first runtime is never turned again, as if it
 * had been killed between two polls.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>

#include "dataplane/core/test_kit.h"

#define PORT 80

static struct kit old, new;
static struct kit_client a;
static struct session_socket listener;
static uint32_t client, server;

static bool take_event(struct kit *k, uint8_t event, struct ush_cqe *ret_e) {
    for (uint32_t i = 0; i < 100000; i++) {
        while (fake_client_take(&a.c, ret_e)) {
            if (ret_e->type == USH_CQ_EVENT && ret_e->flags == event)
                return true;
        }
        (void)kit_turn(k);
    }
    return false;
}

static void setup(void) {
    struct ush_cqe e;
    kit_open(&old, NULL);
    kit_tcp(&old, 64);
    kit_attach(&old, &a, 5000);
    cr_assert_eq(kit_listen(&a, PORT, &listener), 0);
    client = USH_HANDLE(a.c.h.socket_max, 1);
    fake_client_connect(&a.c, client, kit_addr(1).b, PORT);
    cr_assert(take_event(&old, USH_EVENT_ACCEPT, &e) || take_event(&old, USH_EVENT_ACCEPT, &e));
    server = e.event.value;
    kit_settle(&old);
    while (fake_client_take(&a.c, &e))
        continue;
}

static void inherit_from(const struct kit *from, struct kit *to) {
    struct runtime_heirloom h[8];
    struct runtime_estate estate;
    kit_open(to, NULL);
    uint32_t n = runtime_heirlooms(from->rt, h, ARRAY_LEN(h));
    cr_assert_eq(n, 2, "the tcp engine's state and the keys; its code is linked in");
    for (uint32_t i = 0; i < n; i++)
        runtime_inherit(to->rt, h[i].name, fcntl(h[i].fd, F_DUPFD_CLOEXEC, 0));
    kit_tcp(to, 64);
    cr_assert_eq(runtime_estate_open(to->rt, &estate), 0);
    cr_assert_eq(estate.arenas, 1);
    cr_assert_eq(estate.lost + estate.refused, 0);
}

static void inherit(void) {
    inherit_from(&old, &new);
}

static int come_back(const struct session_key *key, const uint64_t *held, uint64_t words, struct kit_client *ret) {
    struct session_comeback back = {
        .key = *key, .memfd = a.fds.memfd, .held = {held}, .held_words = words, .rings = {.set_count = 1}};
    back.rings.set[0].sq_pos = a.c.sq_tail;
    back.rings.set[0].cq_pos = a.c.cq_head;
    struct session_params params = {.abi = 1, .back = &back};
    *ret = a;
    int error = session_create(new.rt, &params, &ret->s, &ret->fds);
    ret->c.kick_fd = error == 0 ? ret->fds.kick[0] : -1;
    return error;
}

static void resume(struct fake_client *c, uint32_t handle, uint32_t rx_bytes, uint16_t local, uint16_t remote) {
    struct ush_sqe e = {.op = USH_OP_RESUME};
    e.resume.handle = handle;
    e.resume.rx_bytes = rx_bytes;
    e.resume.local_port = local;
    e.resume.remote_port = remote;
    memcpy(e.resume.local, kit_addr(1).b, 16);
    memcpy(e.resume.remote, kit_addr(1).b, 16);
    fake_client_put(c, &e);
}

static uint16_t client_port(void) {
    struct tcp_conn_info info;
    struct tcp_cmd_info cmd = {.cmd = {TCP_CMD_INFO, sizeof cmd}, .each = true, .info = &info};
    struct engine_reply reply;
    for (;; cmd.sock = reply.value + 1) {
        cr_assert_eq(runtime_command(old.rt, 0, KIT_TCP, &cmd.cmd, &reply), 0);
        if (info.flow.remote_port == PORT)
            return info.flow.local_port;
    }
}

static void leave(struct kit_client *b) {
    a.c = b->c;
    session_destroy(b->s, DETACH_CLIENT_CLOSED);
    close(b->fds.wake_peer);
    close(b->fds.kick[0]);
    kit_settle(&new);
    session_reap(new.rt);
    kit_close(&new);
    kit_detach(&old, &a);
    kit_close(&old);
}

Test(comeback, streams_go_on_and_cells_stay) {
    struct ush_cqe e;
    struct kit_client b;
    uint16_t port = client_port();
    memcpy(fake_client_tx(&a.c, 0), "first", 5);
    fake_client_send(&a.c, client, 0, 5, NULL, 0);
    kit_settle(&old);
    cr_assert(fake_client_take(&a.c, &e) && e.type == USH_CQ_RECV);
    uint32_t cell = e.recv.cell;
    uint64_t held[4096] = {0};
    held[cell >> 8 >> 6] |= 1ull << (cell >> 8 & 63);
    memcpy(fake_client_tx(&a.c, 5), "second", 6);
    fake_client_send(&a.c, client, 5, 6, NULL, 0); /* submitted, never looked at */
    inherit();
    struct session_key key = session_key_of(a.s);
    cr_assert_eq(come_back(&key, held, ARRAY_LEN(held), &b), 0);
    resume(&b.c, client, 0, port, PORT);
    resume(&b.c, server, 5, PORT, port);
    kit_settle(&new);
    uint32_t resumed = 0;
    while (fake_client_take(&b.c, &e)) {
        cr_assert_eq(e.type, USH_CQ_EVENT);
        cr_assert(e.flags == USH_EVENT_RESUMED || e.flags == USH_EVENT_CONNECTED, "event %u", e.flags);
        if (e.flags == USH_EVENT_RESUMED)
            cr_assert_eq(e.event.value, e.event.handle == client ? 5 : 0, "bytes that the engine had");
        resumed += e.flags == USH_EVENT_RESUMED;
    }
    cr_assert_eq(resumed, 2);
    fake_client_send(&b.c, client, 5, 6, NULL, 0);
    for (uint32_t i = 0; i < 100000 && !fake_client_ready(&b.c); i++)
        (void)kit_turn(&new);
    cr_assert(fake_client_take(&b.c, &e) && e.type == USH_CQ_RECV, "type %u", e.type);
    cr_assert_eq(e.recv.len, 6);
    cr_assert(memcmp(fake_client_rx(&b.c, e.recv.cell), "second", 6) == 0);
    cr_assert(memcmp(fake_client_rx(&b.c, cell), "first", 5) == 0, "the cell was given to somebody else");
    fake_client_release(&b.c, cell);
    fake_client_release(&b.c, e.recv.cell);
    fake_client_release_flush(&b.c);
    kit_settle(&new);
    cr_assert_not(b.s->set[0]->dead, "it may give back what it said it had");
    cr_assert_eq(runtime_estate_close(new.rt), 0);
    leave(&b);
}

TestSuite(comeback, .init = setup);

Test(comeback, nobody_resumes_what_is_not_his) {
    struct ush_cqe e;
    struct kit_client b;
    const struct session_key guess = {{1, 2}};
    uint16_t port = client_port();
    inherit();
    cr_assert_eq(come_back(&guess, NULL, 0, &b), 0);
    resume(&b.c, client, 0, port, PORT);
    cr_assert(take_event(&new, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, ECONNRESET);
    cr_assert(take_event(&new, USH_EVENT_CLOSED, &e));
    cr_assert_eq(runtime_estate_close(new.rt), 2, "both wait for their owner, in vain");
    leave(&b);
}

Test(comeback, a_stream_is_resumed_once) {
    struct kit_client b;
    uint16_t port = client_port();
    inherit();
    struct session_key key = session_key_of(a.s);
    cr_assert_eq(come_back(&key, NULL, 0, &b), 0);
    resume(&b.c, client, 0, port, PORT);
    resume(&b.c, client, 0, port, PORT);
    kit_settle(&new);
    cr_assert(b.s->set[0]->dead);
    cr_assert_eq(b.s->detach_why, DETACH_BAD_CONNECT);
    leave(&b);
}

static uint32_t resumed_count(struct kit_client *b) {
    struct ush_cqe e;
    uint32_t resumed = 0;
    kit_settle(&new);
    while (fake_client_take(&b->c, &e))
        resumed += e.type == USH_CQ_EVENT && e.flags == USH_EVENT_RESUMED;
    return resumed;
}

/* The first successor dies before the client has found it, when a stranger has; the second one when the client has one
 * of its streams again; the third has both. */
Test(comeback, it_may_die_as_often_as_it_likes) {
    static struct kit second, third;
    static struct kit_client stranger, b;
    const struct session_key key = session_key_of(a.s);
    uint16_t port = client_port();
    inherit_from(&old, &second);
    kit_attach(&second, &stranger, 5001);
    inherit_from(&second, &third);
    new = third;
    cr_assert_eq(come_back(&key, NULL, 0, &b), 0);
    cr_assert(session_key_equal(&key, &b.s->key), "it keeps its key");
    resume(&b.c, client, 0, port, PORT);
    cr_assert_eq(resumed_count(&b), 1);
    a.c = b.c;
    inherit_from(&third, &new);
    struct kit_client c;
    cr_assert_eq(come_back(&key, NULL, 0, &c), 0);
    resume(&c.c, client, 0, port, PORT);
    resume(&c.c, server, 0, PORT, port);
    cr_assert_eq(resumed_count(&c), 2);
    cr_assert_eq(runtime_estate_close(new.rt), 0);
    session_destroy(b.s, DETACH_CLIENT_CLOSED);
    close(b.fds.wake_peer);
    close(b.fds.kick[0]);
    kit_settle(&third);
    session_reap(third.rt);
    kit_close(&third);
    kit_detach(&second, &stranger);
    kit_close(&second);
    leave(&c);
}

/* Slots of those who never come are given away again. */
Test(comeback, a_slot_waits_no_longer_than_the_grace) {
    struct kit_client b;
    const struct session_key key = session_key_of(a.s);
    inherit();
    cr_assert_eq(runtime_estate_close(new.rt), 2);
    cr_assert_eq(come_back(&key, NULL, 0, &b), 0);
    cr_assert_not(b.s->set[0]->is_home);
    cr_assert_not(session_key_equal(&key, &b.s->key));
    leave(&b);
}

/* What it says of its rings must be possible before anything is made of it. */
Test(comeback, a_ring_set_named_twice_is_refused) {
    const struct session_key key = session_key_of(a.s);
    struct session_comeback back = {.key = key, .memfd = a.fds.memfd, .rings = {.set_count = 2}};
    struct session_params params = {.abi = 1, .back = &back};
    struct session_fds fds;
    struct session *s;
    struct kit_client b;
    inherit();
    cr_assert_eq(session_create(new.rt, &params, &s, &fds), -ESTALE);
    back.rings.set_count = USH_SET_MAX + 1;
    cr_assert_eq(session_create(new.rt, &params, &s, &fds), -EINVAL);
    kit_settle(&new);
    cr_assert_eq(come_back(&key, NULL, 0, &b), 0);
    cr_assert(b.s->set[0]->is_home, "nothing was taken from it");
    leave(&b);
}

Test(comeback, other_memory_is_refused) {
    struct kit_client b;
    struct session_key key = session_key_of(a.s);
    inherit();
    int was = a.fds.memfd, loose = memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    cr_assert_eq(ftruncate(loose, (off_t)a.c.size), 0);
    a.fds.memfd = loose;
    cr_assert_eq(come_back(&key, NULL, 0, &b), -ESTALE, "it is not sealed");
    a.fds.memfd = sealed_memfd_create("empty", a.c.size);
    cr_assert_eq(come_back(&key, NULL, 0, &b), -ESTALE, "it has no header");
    close(a.fds.memfd);
    close(loose);
    a.fds.memfd = was;
    cr_assert_eq(come_back(&key, NULL, 0, &b), 0);
    leave(&b);
}

/* The state is of a layout that the successor's engine does not know: the predecessor's code, which it inherits, does
 * know it. */
Test(comeback, a_state_of_another_layout_is_moved) {
    const struct tcp_config cfg = {.conn_max = 64, .port_low = 40000, .port_high = 49999};
    const char *const dirs[] = {ENGINES, NEXT};
    struct runtime *rt[2];
    struct runtime_heirloom h[8];
    struct runtime_estate estate;
    struct runtime_error err;
    uint32_t index, n = 0;
    for (uint32_t i = 0; i < 2; i++) {
        struct runtime_config rc = {.shard_count = 1, .small_packets = 1024, .large_packets = 4, .engine_dir = dirs[i]};
        cr_assert_eq(runtime_create(&rc, &rt[i], &err), 0, "%s", err.text);
        for (uint32_t k = 0; k < n; k++)
            runtime_inherit(rt[i], h[k].name, fcntl(h[k].fd, F_DUPFD_CLOEXEC, 0));
        cr_assert_eq(runtime_engine_load(rt[i], "tcp", &cfg, &index, &err), 0, "%s", err.text);
        cr_assert_eq(runtime_estate_open(rt[i], &estate), 0);
        n = runtime_heirlooms(rt[i], h, ARRAY_LEN(h));
        cr_assert_eq(n, 3, "state, keys and code");
    }
    cr_assert_eq(estate.arenas, 1, "%u refused", estate.refused);
    cr_assert_eq(estate.refused, 0);
    runtime_destroy(rt[0]);
    runtime_destroy(rt[1]);
    kit_detach(&old, &a);
    kit_close(&old);
}

/* A list of cells that cannot be: what lies outside is ignored, the rest is unusable until it is given back. */
Test(comeback, a_lie_about_cells_costs_the_liar) {
    struct kit_client b;
    struct session_key key = session_key_of(a.s);
    static uint64_t held[8192];
    memset(held, 0xff, sizeof held);
    inherit();
    cr_assert_eq(come_back(&key, held, ARRAY_LEN(held), &b), 0);
    fake_client_release(&b.c, 0);
    fake_client_release_flush(&b.c);
    kit_settle(&new);
    cr_assert_not(b.s->set[0]->dead);
    fake_client_release(&b.c, 0);
    fake_client_release_flush(&b.c);
    kit_settle(&new);
    cr_assert(b.s->set[0]->dead, "twice is once too often");
    leave(&b);
}
