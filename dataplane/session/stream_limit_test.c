/* SPDX-License-Identifier: Apache-2.0
 *
 * Where streams end against a limit: a user's quota, the session's handles, the shard's packets, the time that a closed
 * stream may take. And streams between shards. Over the real tcp engine, turned by hand, in virtual time.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "dataplane/core/test_kit.h"

#define PORT 80

static struct kit k;

/* A session with nothing but a set for streams, or with a listener on PORT. */
static void attach(struct kit_client *kc, const struct session_params *p, bool listens) {
    struct session_params params = *p;
    params.abi = 1;
    params.owner = 1;
    cr_assert_eq(session_create(k.rt, &params, &kc->s, &kc->fds), 0);
    cr_assert_eq(fake_client_map(&kc->c, kc->fds.memfd, kc->fds.wake_peer), 0);
    cr_assert_eq(listens ? kit_listen(kc, PORT, &kc->sock) : session_stream_set(kc->s, &kc->sock), 0);
    fake_client_use_set(&kc->c, kc->sock.set, 0, kc->sock.kick_fd);
}

static void engines(uint32_t shards) {
    const struct runtime_config cfg = {
        .shard_count = shards, .small_packets = 1024, .large_packets = 4, .session_max = 16, .seed = 7};
    kit_open(&k, &cfg);
    kit_tcp(&k, 1024);
}

static uint32_t connections(uint32_t shard) {
    struct tcp_stats stats;
    struct tcp_cmd_stats cmd = {.cmd = {TCP_CMD_STATS, sizeof cmd}, .stats = &stats};
    struct engine_reply reply;
    cr_assert_eq(runtime_command(k.rt, shard, KIT_TCP, &cmd.cmd, &reply), 0);
    return stats.connections;
}

static void finish(void) {
    kit_settle(&k);
    session_reap(k.rt);
    for (uint32_t i = 0; i < k.rt->shard_count; i++) {
        const struct pkt_pool *pool = &k.rt->shard[i]->small.pool;
        cr_assert_eq(pool->free_count, pool->count, "a packet leaked in shard %u", i);
        cr_assert_eq(connections(i), 0, "a connection outlives its session");
    }
    cr_assert_null(k.rt->zombies, "a session leaked");
    kit_close(&k);
}

static uint32_t handle_of(const struct kit_client *kc, uint32_t n) {
    return USH_HANDLE(kc->c.h.socket_max + n, 1);
}

/* The next event of that kind. */
static bool take(struct kit_client *kc, uint8_t event, struct ush_cqe *ret_e) {
    for (uint32_t i = 0; i < 100000; i++) {
        while (fake_client_take(&kc->c, ret_e)) {
            if (ret_e->type == USH_CQ_EVENT && ret_e->flags == event)
                return true;
        }
        (void)kit_turn(&k);
    }
    return false;
}

static void send_bytes(struct kit_client *kc, uint32_t handle, uint32_t off, uint32_t len) {
    memset(fake_client_tx(&kc->c, off), (int)handle, len);
    fake_client_send(&kc->c, handle, off, len, NULL, 0);
}

/* ---- quotas ---- */

Test(stream_limit, a_users_quota) {
    struct kit_client l, c;
    struct ush_cqe e;
    engines(1);
    struct session_quota *q = session_quota_create(3);
    attach(&l, &(struct session_params){.quota = q}, true);
    attach(&c, &(struct session_params){.quota = q}, false);
    fake_client_connect(&c.c, handle_of(&c, 0), kit_addr(1).b, PORT);
    cr_assert(take(&l, USH_EVENT_ACCEPT, &e));
    uint32_t first = e.event.value;
    cr_assert(take(&c, USH_EVENT_CONNECTED, &e));
    cr_assert_eq(session_quota_used(q), 2);
    fake_client_connect(&c.c, handle_of(&c, 1), kit_addr(1).b, PORT);
    cr_assert(take(&c, USH_EVENT_ERROR, &e), "the third may connect, its other end would be the fourth");
    cr_assert_eq(e.event.handle, handle_of(&c, 1));
    cr_assert_eq(e.event.value, ECONNRESET);
    const struct ush_socket *table = (const struct ush_socket *)(l.c.base + l.c.h.socket_off);
    cr_assert_eq(table[l.sock.handle].rx_dropped, 1, "and is counted");
    struct kit_client far;
    attach(&far, &(struct session_params){.quota = q}, false);
    fake_client_connect(&far.c, handle_of(&far, 0), kit_far_addr(1).b, PORT);
    kit_settle(&k);
    fake_client_connect(&far.c, handle_of(&far, 1), kit_far_addr(1).b, PORT);
    cr_assert(take(&far, USH_EVENT_ERROR, &e));
    cr_assert(e.event.value == EMFILE && e.event.extra == 1, "the kernel may carry it");
    kit_detach(&k, &far);
    fake_client_stream(&c.c, USH_OP_CLOSE, USH_CLOSE_ABORT, handle_of(&c, 0));
    fake_client_stream(&l.c, USH_OP_CLOSE, 0, first);
    kit_settle(&k);
    cr_assert_eq(session_quota_used(q), 0, "all are counted out");
    kit_detach(&k, &l);
    session_quota_release(q); /* the session holds it */
    kit_detach(&k, &c);
    finish();
}

Test(stream_limit, a_sessions_handles) {
    struct kit_client l, c;
    struct ush_cqe e;
    engines(1);
    attach(&l, &(struct session_params){.stream_max = 1}, true);
    attach(&c, &(struct session_params){.stream_max = 100}, false);
    cr_assert_eq(l.c.h.accept_socket_max, 64, "a pool is made of words");
    cr_assert_eq(c.c.h.client_socket_max, 128);
    for (uint32_t i = 0; i < 64; i++) {
        fake_client_connect(&c.c, handle_of(&c, i), kit_addr(1).b, PORT);
        cr_assert(take(&l, USH_EVENT_ACCEPT, &e), "%u", i);
    }
    uint32_t last = e.event.value;
    fake_client_connect(&c.c, handle_of(&c, 64), kit_addr(1).b, PORT);
    cr_assert(take(&c, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.value, ECONNRESET);
    fake_client_stream(&l.c, USH_OP_CLOSE, USH_CLOSE_ABORT, last);
    kit_settle(&k);
    fake_client_connect(&c.c, handle_of(&c, 65), kit_addr(1).b, PORT);
    cr_assert(take(&l, USH_EVENT_ACCEPT, &e), "a handle is free again");
    cr_assert_eq(USH_HANDLE_INDEX(e.event.value), USH_HANDLE_INDEX(last));
    cr_assert_neq(e.event.value, last, "under another generation");
    kit_detach(&k, &c);
    kit_detach(&k, &l);
    finish();
}

/* ---- the shard's packets ---- */

/* A packet as a port brings it, the transport's work done. */
static void arrives(struct sess_set *set, uint32_t handle, uint32_t len) {
    struct shard *sh = k.rt->shard[0];
    struct pkt *p = pkt_alloc(len > 2000 ? &sh->large.pool : &sh->small.pool);
    cr_assert_not_null(p);
    memset(p->data, 0x44, len);
    p->len = len;
    p->sink = SINK(SINK_SESSION, set->slot, handle);
    cr_assert_eq(stream_deliver(sh, set, &p, 1), 1);
    session_flush(sh);
}

static void read_all(struct kit_client *l, uint64_t want) {
    struct ush_cqe e;
    uint64_t got = 0;
    for (uint32_t turn = 0; turn < 1000000 && got < want; turn++) {
        kit_pass(NS_PER_MS);
        (void)kit_turn(&k);
        while (fake_client_take(&l->c, &e)) {
            cr_assert(e.type != USH_CQ_EVENT || e.flags == USH_EVENT_ACCEPT, "event %u", e.flags);
            if (e.type != USH_CQ_RECV)
                continue;
            got += e.recv.len;
            fake_client_release(&l->c, e.recv.cell);
        }
        fake_client_release_flush(&l->c);
    }
    cr_assert_eq(got, want);
}

/* A region is full, and small segments of many streams fill the shard's packets: those that find no place stay with
 * their senders, and no stream ends. */
Test(stream_limit, small_segments_end_no_stream) {
    enum { LARGE = 16, STREAMS = 400 };
    struct kit_client l, c;
    struct ush_cqe e;
    engines(1);
    const struct shard *sh = k.rt->shard[0];
    attach(&l, &(struct session_params){.rx_bytes = 1}, true);
    attach(&c, &(struct session_params){.tx_bytes = 4 << 20}, false);
    for (uint32_t i = 0; i < STREAMS; i++) {
        fake_client_connect(&c.c, handle_of(&c, i), kit_addr(1).b, PORT);
        cr_assert(take(&c, USH_EVENT_CONNECTED, &e));
    }
    for (uint32_t i = 0; i < LARGE; i++) {
        send_bytes(&c, handle_of(&c, i), i * 65536, 60000);
        kit_settle(&k);
    }
    for (uint32_t i = LARGE; i < STREAMS; i++) {
        send_bytes(&c, handle_of(&c, i), (2 << 20) + i, 1);
        kit_settle(&k);
    }
    cr_assert_gt(kit_drops(&k, DROP_SESSION_NO_CELL), 0, "not taken");
    cr_assert_leq(sh->pending, sh->small.pool.count / 4, "%u packets wait", sh->pending);
    read_all(&l, LARGE * 60000 + STREAMS - LARGE);
    cr_assert_eq(sh->pending, 0);
    kit_detach(&k, &c);
    kit_detach(&k, &l);
    finish();
}

/* What waits together must fit a cell together: a buffer is a little larger than the largest. */
Test(stream_limit, small_pieces_that_wait_behind_a_large_one_come_through) {
    struct kit_client l, c;
    struct ush_cqe e;
    uint32_t held[64], cells = 0, got = 0;
    engines(1);
    attach(&l, &(struct session_params){.rx_bytes = 1}, true);
    attach(&c, &(struct session_params){0}, false);
    fake_client_connect(&c.c, handle_of(&c, 0), kit_addr(1).b, PORT);
    cr_assert(take(&l, USH_EVENT_ACCEPT, &e));
    uint32_t server = e.event.value;
    struct sess_set *set = k.rt->shard[0]->set[0];
    for (uint32_t i = 0; i < 16; i++) /* the region is full */
        arrives(set, server, 65000);
    while (fake_client_take(&l.c, &e))
        held[cells++] = e.recv.cell;
    cr_assert_eq(cells, 16);
    arrives(set, server, 65000);
    for (uint32_t i = 0; i < 10; i++)
        arrives(set, server, 200);
    for (uint32_t i = 0; i < cells; i++)
        fake_client_release(&l.c, held[i]);
    fake_client_release_flush(&l.c);
    for (uint32_t turn = 0; turn < 10000 && got < 67000; turn++) {
        kit_pass(NS_PER_MS);
        (void)kit_turn(&k);
        for (; fake_client_take(&l.c, &e); fake_client_release(&l.c, e.recv.cell))
            got += e.recv.len;
        fake_client_release_flush(&l.c);
    }
    cr_assert_eq(got, 67000);
    kit_detach(&k, &c);
    kit_detach(&k, &l);
    finish();
}

/* Many who do not read share half of the packets; each has some, also who comes last. */
Test(stream_limit, readers_together_may_not_keep_all_packets) {
    enum { READERS = 12 };
    struct kit_client l, c[READERS];
    struct ush_cqe e;
    engines(1);
    const struct shard *sh = k.rt->shard[0];
    attach(&l, &(struct session_params){0}, true);
    for (uint32_t i = 0; i < READERS; i++) {
        attach(&c[i], &(struct session_params){.rx_bytes = 1}, false);
        fake_client_connect(&c[i].c, handle_of(&c[i], 0), kit_addr(1).b, PORT);
        cr_assert(take(&c[i], USH_EVENT_CONNECTED, &e));
    }
    for (uint32_t i = 0; i < READERS; i++) {
        struct sess_set *set = sh->set[1 + i];
        for (uint32_t n = 0; n < 1000 && !sh->regions[set->slot].rx_full; n++) /* a transport keeps to that */
            arrives(set, handle_of(&c[i], 0), 1500);
        cr_assert_geq(set->pend_count, 1u, "reader %u", i);
        cr_assert_leq(set->pend_count, sh->small.pool.count / 8);
    }
    cr_assert_leq(sh->pending, sh->small.pool.count / 2);
    cr_assert_geq(sh->small.pool.free_count, sh->small.pool.count / 3);
    for (uint32_t i = 0; i < READERS; i++)
        kit_detach(&k, &c[i]);
    kit_detach(&k, &l);
    cr_assert_eq(sh->pending, 0);
    finish();
}

/* Windows follow the room that the region has left: some readers that do not read fill it, and those who come later are
 * promised little, so that little waits in the shard's packets. */
Test(stream_limit, windows_end_where_the_region_does) {
    struct kit_client l, c;
    uint32_t streams = 32, each = 120000, waits = 0;
    engines(1);
    attach(&l, &(struct session_params){.rx_bytes = 1}, true);
    attach(&c, &(struct session_params){.tx_bytes = 4 << 20}, false);
    for (uint32_t i = 0; i < streams; i++) {
        fake_client_connect(&c.c, handle_of(&c, i), kit_addr(1).b, PORT);
        kit_settle(&k);
        send_bytes(&c, handle_of(&c, i), i * each, each);
        kit_settle(&k);
    }
    for (const struct pkt *p = k.rt->shard[0]->set[0]->pend_head; p != NULL; p = (const struct pkt *)p->user_data)
        waits += pkt_bytes(p);
    cr_assert_leq(waits, streams * 16384 + (128 << 10), "%u bytes of %u wait", waits, streams * each);
    read_all(&l, (uint64_t)streams * each);
    kit_detach(&k, &c);
    kit_detach(&k, &l);
    finish();
}

/* ---- what is closed and not through ---- */

Test(stream_limit, what_was_left_behind_ends_after_a_while) {
    struct kit_client l, c;
    struct ush_cqe e;
    engines(1);
    attach(&l, &(struct session_params){.rx_bytes = 1}, true);
    attach(&c, &(struct session_params){0}, false);
    fake_client_connect(&c.c, handle_of(&c, 0), kit_addr(1).b, PORT);
    cr_assert(take(&l, USH_EVENT_ACCEPT, &e));
    uint32_t server = e.event.value;
    cr_assert(take(&c, USH_EVENT_CONNECTED, &e));
    for (uint32_t i = 0; i < 40; i++) /* the reader does not read: its window closes */
        send_bytes(&c, handle_of(&c, 0), i * 65536, 65536);
    kit_settle(&k);
    fake_client_stream(&c.c, USH_OP_CLOSE, 0, handle_of(&c, 0));
    kit_settle(&k);
    kit_detach(&k, &c);
    kit_settle(&k);
    cr_assert_eq(connections(0), 2, "its bytes may still be read");
    cr_assert_not_null(k.rt->zombies);
    const struct shard *sh = k.rt->shard[0];
    (void)kit_turn(&k); /* control's calls set the shard's clock to the real time */
    kit_pass(sh->linger->linger_until - sh->now - NS_PER_SEC);
    kit_settle(&k);
    cr_assert_eq(connections(0), 2);
    kit_pass(2 * NS_PER_SEC);
    kit_settle(&k);
    cr_assert_eq(connections(0), 0);
    session_reap(k.rt);
    cr_assert_null(k.rt->zombies);
    cr_assert(take(&l, USH_EVENT_ERROR, &e));
    cr_assert(e.event.handle == server && e.event.value == ECONNRESET);
    kit_detach(&k, &l);
    finish();
}

/* ---- shards ---- */

/* As usherd does it at its start. */
static void ports_share(uint32_t shards) {
    for (uint32_t i = 0; i < shards; i++) {
        uint16_t low = (uint16_t)(40000 + 100 * i);
        struct tcp_cmd_ports cmd = {.cmd = {TCP_CMD_PORTS, sizeof cmd}, .low = low, .high = (uint16_t)(low + 99)};
        struct engine_reply reply;
        cr_assert_eq(runtime_command(k.rt, i, KIT_TCP, &cmd.cmd, &reply), 0);
        for (uint16_t port = low; port <= cmd.high; port++)
            cr_assert_eq(runtime_steer(k.rt, &(struct flow){.local_port = port, .proto = PROTO_TCP}, i, true), 0);
    }
}

static void expect_bytes(struct kit_client *kc, uint32_t handle, uint32_t len) {
    struct ush_cqe e;
    uint32_t got = 0;
    for (uint32_t i = 0; got < len && i < 200000; i++) {
        while (fake_client_take(&kc->c, &e)) {
            if (e.type != USH_CQ_RECV)
                continue;
            cr_assert_eq(e.recv.handle, handle);
            got += e.recv.len;
            fake_client_release(&kc->c, e.recv.cell);
        }
        fake_client_release_flush(&kc->c);
        (void)kit_turn(&k);
    }
    cr_assert_eq(got, len);
}

/* A connection's ends live where their ports do; its segments cross, whichever shard they come up in. */
Test(stream_limit, ends_in_different_shards) {
    struct kit_client l, c[3];
    struct ush_cqe e;
    bool seen[3] = {false};
    engines(3);
    ports_share(3);
    attach(&l, &(struct session_params){0}, true);
    for (uint32_t i = 0; i < 3; i++) {
        struct session_socket udp;
        attach(&c[i], &(struct session_params){0}, false);
        cr_assert_eq(kit_bind(&k, &c[i], (uint16_t)(5000 + i), &udp), 0); /* so that the next one goes elsewhere */
        if (udp.kick_fd >= 0)
            close(udp.kick_fd);
        seen[c[i].sock.set] = true;
        fake_client_connect(&c[i].c, handle_of(&c[i], 0), kit_addr(1).b, PORT);
        cr_assert(take(&l, USH_EVENT_ACCEPT, &e));
        uint32_t server = e.event.value;
        cr_assert_eq((e.event.port - 40000u) / 100, c[i].sock.set, "a port of its own shard");
        cr_assert(take(&c[i], USH_EVENT_CONNECTED, &e));
        send_bytes(&c[i], handle_of(&c[i], 0), 0, 50000);
        expect_bytes(&l, server, 50000);
        send_bytes(&l, server, 0, 50000);
        expect_bytes(&c[i], handle_of(&c[i], 0), 50000);
    }
    cr_assert(seen[0] + seen[1] + seen[2] > 1, "not all in one shard");
    uint64_t crossed = 0;
    for (uint32_t i = 0; i < 3; i++)
        crossed += k.rt->shard[i]->stats.cross_shard;
    cr_assert_gt(crossed, 0);
    kit_detach(&k, &l);
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert(take(&c[i], USH_EVENT_ERROR, &e));
        cr_assert_eq(e.event.value, ECONNRESET, "the listener's session died with its connections open");
        kit_detach(&k, &c[i]);
    }
    finish();
}

/* A port that was bound in the kernel goes to one shard; a connection from it does as well. */
Test(stream_limit, a_bound_port_is_steered) {
    struct kit_client l, c;
    struct session_socket b;
    struct ush_cqe e;
    engines(2);
    ports_share(2);
    attach(&l, &(struct session_params){0}, true);
    attach(&c, &(struct session_params){0}, false);
    const struct session_socket_params p = {
        .flow = {.local_port = 1234, .proto = PROTO_TCP}, .owner = 1, .bound = true};
    cr_assert_eq(session_socket_open(c.s, &p, &b), 0);
    if (b.set != c.sock.set)
        fake_client_use_set(&c.c, b.set, 0, b.kick_fd);
    struct ush_sqe s = {.op = USH_OP_CONNECT, .flags = USH_CONNECT_BOUND};
    s.connect.handle = handle_of(&c, 0);
    s.connect.port = PORT;
    s.connect.bound = b.handle;
    memcpy(s.connect.addr, kit_addr(1).b, 16);
    fake_client_put(&c.c, &s);
    cr_assert(take(&l, USH_EVENT_ACCEPT, &e));
    cr_assert_eq(e.event.port, 1234);
    uint32_t server = e.event.value;
    send_bytes(&l, server, 0, 1000);
    expect_bytes(&c, handle_of(&c, 0), 1000);
    kit_detach(&k, &c);
    kit_detach(&k, &l);
    finish();
}

/* A listener that stands in every shard: a fake client for each of its sets. */
struct spread {
    struct kit_client l;
    struct fake_client at[3];
    uint32_t accepted[3];
};

static const struct session_socket_params spread_params = {
    .flow = {.local_port = PORT, .proto = PROTO_TCP}, .owner = 1, .reuseport = true, .all_shards = true};

static void spread_open(struct spread *s) {
    const struct session_params params = {.abi = 1, .owner = 1};
    *s = (struct spread){.l = {.sock = {.kick_fd = -1}}};
    cr_assert_eq(session_create(k.rt, &params, &s->l.s, &s->l.fds), 0);
    cr_assert_eq(fake_client_map(&s->l.c, s->l.fds.memfd, s->l.fds.wake_peer), 0);
    cr_assert_eq(session_socket_open(s->l.s, &spread_params, &s->l.sock), 0);
    cr_assert_eq(s->l.sock.more_sets | 1u << s->l.sock.set, 7);
    for (uint32_t i = 0; i < 3; i++) {
        int kick = i == s->l.sock.set ? s->l.sock.kick_fd : s->l.sock.more_kick_fd[i];
        cr_assert_geq(kick, 0, "each set is new to the session");
        s->at[i] = s->l.c;
        fake_client_use_set(&s->at[i], i, 0, kick);
    }
}

static void spread_close(struct spread *s) {
    for (uint32_t i = 0; i < 3; i++) {
        if (i != s->l.sock.set)
            close(s->l.sock.more_kick_fd[i]);
    }
    kit_detach(&k, &s->l);
}

static bool accept_take(struct fake_client *c, struct ush_cqe *ret_e) {
    while (fake_client_take(c, ret_e)) {
        if (ret_e->type == USH_CQ_EVENT && ret_e->flags == USH_EVENT_ACCEPT)
            return true;
    }
    return false;
}

/* The set that brings the next connection; 3 = none. */
static uint32_t spread_take(struct spread *s, struct ush_cqe *ret_e) {
    for (uint32_t i = 0; i < 300000; i++) {
        if (accept_take(&s->at[i % 3], ret_e))
            return i % 3;
        (void)kit_turn(&k);
    }
    return 3;
}

/* Each of `count` connections comes up in the shard that its flow says, and its bytes with it. */
static void spread_accept(struct spread *s, struct kit_client *c, uint32_t from, uint32_t count) {
    struct ush_cqe e, up;
    for (uint32_t i = from; i < from + count; i++) {
        fake_client_connect(&c->c, handle_of(c, i), kit_addr(1).b, PORT);
        uint32_t set = spread_take(s, &e);
        cr_assert_lt(set, 3);
        const struct flow flow = {.remote = kit_addr(1), .remote_port = e.event.port, .local_port = PORT};
        cr_assert_eq(set, steer_spread(&flow, 3));
        cr_assert_eq(e.event.handle, s->l.sock.handle, "one listener for the client");
        cr_assert(take(c, USH_EVENT_CONNECTED, &up));
        send_bytes(c, handle_of(c, i), 0, 3000);
        struct kit_client view = {.c = s->at[set]};
        expect_bytes(&view, e.event.value, 3000);
        s->at[set] = view.c;
        s->accepted[set]++;
    }
}

static uint32_t congested(uint32_t shard, const char *name) {
    struct tcp_conn_info info;
    struct engine_reply reply;
    uint32_t n = 0;
    for (uint32_t sock = 0;; sock = reply.value + 1) {
        struct tcp_cmd_info cmd = {.cmd = {TCP_CMD_INFO, sizeof cmd}, .sock = sock, .each = true, .info = &info};
        if (runtime_command(k.rt, shard, KIT_TCP, &cmd.cmd, &reply) != 0 || reply.value & TCP_SOCK_LISTENER)
            return n;
        n += strcmp(info.congestion, name) == 0;
    }
}

Test(stream_limit, a_listener_in_every_shard) {
    struct spread s;
    struct kit_client c;
    struct ush_cqe e;
    engines(3);
    ports_share(3);
    spread_open(&s);
    attach(&c, &(struct session_params){0}, false);
    spread_accept(&s, &c, 0, 30);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_gt(s.accepted[i], 0, "shard %u has got none", i);
    for (uint32_t i = 0; i < 3; i++) {
        struct ush_sqe o = {.op = USH_OP_OPTION};
        o.stream.handle = s.l.sock.handle;
        o.stream.option = USH_STREAM_CONGESTION;
        memcpy(o.stream.name, "dctcp", 5);
        fake_client_put(&s.at[i], &o);
    }
    kit_settle(&k);
    spread_accept(&s, &c, 30, 30);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_gt(congested(i, "dctcp"), 0, "an option of the listener reaches shard %u", i);
    cr_assert_eq(session_socket_close(s.l.s, s.l.sock.handle), 0);
    fake_client_connect(&c.c, handle_of(&c, 60), kit_addr(1).b, PORT);
    cr_assert(take(&c, USH_EVENT_ERROR, &e));
    cr_assert_eq(e.event.handle, handle_of(&c, 60), "nobody listens, and all connections stay");
    spread_close(&s);
    kit_detach(&k, &c);
    finish();
}

Test(stream_limit, who_may_use_a_spread_port) {
    struct spread s, t;
    struct kit_client c;
    struct session_socket sock;
    struct session_socket_params p = spread_params;
    engines(3);
    ports_share(3);
    spread_open(&s);
    spread_open(&t);
    attach(&c, &(struct session_params){0}, false);
    p.all_shards = false;
    cr_assert_eq(session_socket_open(c.s, &p, &sock), -EADDRINUSE, "it would miss what comes elsewhere");
    p = (struct session_socket_params){.flow = p.flow, .owner = 1, .bound = true, .peer = kit_far_addr(9)};
    for (p.peer_port = 1; p.peer_port < 10; p.peer_port++) {
        struct flow toward = {.remote = p.peer, .remote_port = p.peer_port, .local_port = PORT};
        cr_assert_eq(session_socket_open(c.s, &p, &sock), 0);
        cr_assert_eq(sock.set, steer_spread(&toward, 3), "where its answers go");
        session_socket_undo(c.s, &sock);
    }
    spread_close(&s);
    cr_assert_eq(steer_lookup(k.rt->steer, PROTO_TCP, PORT), STEER_SPREAD, "another listens still");
    spread_accept(&t, &c, 0, 12);
    spread_close(&t);
    cr_assert_eq(steer_lookup(k.rt->steer, PROTO_TCP, PORT), STEER_NONE);
    kit_detach(&k, &c);
    finish();
}

/* A port that some shard has already stays with it. */
Test(stream_limit, a_port_with_an_owner_is_not_spread) {
    struct kit_client l, m;
    struct session_socket sock;
    engines(3);
    attach(&l, &(struct session_params){0}, true);
    attach(&m, &(struct session_params){0}, false);
    cr_assert_eq(session_socket_open(m.s, &spread_params, &sock), -EADDRINUSE, "the other did not share it");
    kit_detach(&k, &l);
    cr_assert_eq(session_socket_open(m.s, &spread_params, &sock), 0);
    cr_assert_neq(sock.more_sets, 0, "nobody has it now");
    session_socket_undo(m.s, &sock);
    kit_detach(&k, &m);
    finish();
}
