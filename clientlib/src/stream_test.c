/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams of libusher against the fake daemon, which joins two of them or echoes, and over the kernel.
 */
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include "clientlib/src/internal.h"
#include "clientlib/src/testkit.h"

#define ECHO_PORT    7
#define REFUSED_PORT 1
#define FOREIGN_PORT 2

static struct usher_socket *stream(struct usher_context *ctx) {
    struct usher_socket *sock = NULL;
    cr_assert(usher_socket(ctx, AF_INET, SOCK_STREAM, 0, &sock) == 0, "%s", usher_strerror());
    return sock;
}

static void connect_to(struct usher_socket *sock, const char *ip, uint16_t port) {
    struct sockaddr_in to = rig_addr(ip, port);
    cr_assert(usher_connect(sock, (struct sockaddr *)&to, sizeof(to)) == 0, "%s", usher_strerror());
}

/* The next event of that type; others of no interest are dropped. */
static struct usher_event expect(struct usher_context *ctx, enum usher_event_type type) {
    struct usher_event ev;
    for (int i = 0; i < 1000; i++) {
        int n = usher_wait(ctx, &ev, 1, 5 * SECOND);
        cr_assert(n == 1, "no event %d: %d %s", type, n, usher_strerror());
        if (ev.type == type)
            return ev;
        cr_assert(ev.type == USHER_EV_WRITABLE || ev.type == USHER_EV_TX_FREE, "event %d, error %d instead of %d",
                  ev.type, ev.error, type);
    }
    cr_assert_fail("never");
    return ev;
}

static struct usher_socket *echo_stream(struct rig *r) {
    struct usher_socket *sock = stream(r->ctx);
    connect_to(sock, "192.0.2.9", ECHO_PORT);
    cr_assert_eq(expect(r->ctx, USHER_EV_CONNECTED).sock, sock);
    return sock;
}

static struct usher_socket *listener(struct usher_context *ctx, uint16_t *ret_port) {
    struct usher_socket *sock = stream(ctx);
    struct sockaddr_in any = rig_addr("127.0.0.1", 0);
    cr_assert(usher_bind(sock, (struct sockaddr *)&any, sizeof(any)) == 0, "%s", usher_strerror());
    cr_assert(usher_listen(sock, 10) == 0, "%s", usher_strerror());
    *ret_port = rig_port(sock);
    return sock;
}

Test(stream, connects_sends_receives_and_closes) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = echo_stream(&r);
    struct usher_socket_info info;
    char buf[64] = "";
    cr_assert_eq(usher_socket_info(sock, &info), 0);
    cr_assert(info.accelerated);
    cr_assert_eq(usher_send_stream(sock, "hello", 5), 5);
    cr_assert_eq(usher_recv_stream(sock, buf, 3, 5 * SECOND), 3);
    cr_assert_eq(usher_recv_stream(sock, buf + 3, sizeof(buf) - 3, 5 * SECOND), 2, "the rest of the same bytes");
    cr_assert_str_eq(buf, "hello");
    cr_assert_eq(usher_recv_stream(sock, buf, sizeof(buf), 0), -EAGAIN);
    cr_assert_eq(usher_shutdown(sock, SHUT_WR), 0);
    cr_assert_eq(usher_recv_stream(sock, buf, sizeof(buf), 5 * SECOND), 0, "the other half ended");
    cr_assert_eq(usher_send_stream(sock, "x", 1), -EPIPE);
    usher_close(sock);
    rig_stop(&r);
}

/* A stream's last small segment would wait for what is announced to follow it. */
Test(stream, more_follows_only_on_the_same_stream) {
    struct rig r = rig_start(NULL);
    struct usher_socket *a = echo_stream(&r), *b = echo_stream(&r), *order[] = {a, a, b, a};
    const uint8_t want[] = {USH_SEND_MORE, 0, 0, 0};
    struct usher_msg m[4] = {0};
    const struct client_set *s = a->set;
    for (int i = 0; i < 4; i++) {
        m[i].sock = order[i];
        m[i].len = 1;
        cr_assert_eq(usher_tx_alloc(r.ctx, 1, &m[i].buf), 0);
    }
    uint32_t first = s->sq_pos;
    cr_assert_eq(usher_send(r.ctx, m, 4), 4);
    for (uint32_t i = 0; i < 4; i++)
        cr_assert_eq(s->sq[(first + i) & s->sq_mask].flags, want[i], "message %u", i);
    rig_stop(&r);
}

Test(stream, a_listener_gets_streams_as_events) {
    struct rig r = rig_start(NULL);
    uint16_t port;
    char buf[16];
    struct usher_socket *l = listener(r.ctx, &port), *c = stream(r.ctx);
    connect_to(c, "127.0.0.1", port);
    struct usher_event ev = expect(r.ctx, USHER_EV_ACCEPT);
    struct usher_socket *s = ev.msg.sock;
    cr_assert_eq(ev.sock, l);
    cr_assert_eq(ev.msg.peer_port, 1234);
    cr_assert_eq(expect(r.ctx, USHER_EV_CONNECTED).sock, c);
    cr_assert_eq(usher_send_stream(c, "question", 8), 8);
    cr_assert_eq(usher_recv_stream(s, buf, sizeof(buf), 5 * SECOND), 8);
    cr_assert_eq(usher_send_stream(s, "answer", 6), 6);
    cr_assert_eq(usher_recv_stream(c, buf, sizeof(buf), 5 * SECOND), 6);
    usher_close(s);
    ev = expect(r.ctx, USHER_EV_HANGUP);
    cr_assert_eq(ev.sock, c);
    usher_close(c);
    usher_close(l);
    rig_stop(&r);
}

/* The worker sleeps, the peer waits for a window: what is given back must wake the one for the sake of the other. */
Test(stream, bytes_given_back_wake_the_worker) {
    struct rig r = rig_start_with(NULL, 0, 0);
    struct usher_socket *sock = echo_stream(&r);
    static char bytes[12000];
    uint32_t held = 0, count = 0, tries = 0;
    struct usher_event ev[16];
    struct fake_stats stats;
    cr_assert_eq(usher_send_stream(sock, bytes, sizeof(bytes)), sizeof(bytes));
    while (held < sizeof(bytes)) {
        ev[count] = expect(r.ctx, USHER_EV_RECV);
        held += ev[count++].msg.len;
        cr_assert(count < 16);
    }
    while (__atomic_load_n(&fake_set(r.fake, 0)->need_kick, __ATOMIC_RELAXED) == 0 && tries++ < 5000)
        poll(NULL, 0, 1);
    for (uint32_t i = 0; i < count; i++)
        usher_rx_release(r.ctx, &ev[i].msg, 1);
    (void)usher_arm(r.ctx);
    for (tries = 0, stats.releases = 0; stats.releases < count && tries < 5000; tries++) {
        poll(NULL, 0, 1);
        fake_stats_get(r.fake, &stats);
    }
    cr_assert_eq(stats.releases, count, "%lu of %u cells came back", (unsigned long)stats.releases, count);
    rig_stop(&r);
}

/* More connections than there are handles, several times: each index comes home. */
Test(stream, short_connections_use_few_handles) {
    struct rig r = rig_start(NULL);
    for (int i = 0; i < 1000; i++) {
        struct usher_socket *sock = echo_stream(&r);
        struct usher_socket_info info;
        cr_assert_eq(usher_socket_info(sock, &info), 0);
        cr_assert(info.accelerated, "connection %d: %s", i, info.reason);
        cr_assert_eq(usher_send_stream(sock, "x", 1), 1);
        char c;
        cr_assert_eq(usher_recv_stream(sock, &c, 1, 5 * SECOND), 1);
        usher_close(sock);
    }
    struct fake_stats stats;
    fake_stats_get(r.fake, &stats);
    cr_assert_eq(stats.bad, 0);
    rig_stop(&r);
}

Test(stream, refusal_and_reset_are_errors) {
    struct rig r = rig_start(NULL);
    uint16_t port;
    struct usher_socket *sock = stream(r.ctx), *l, *c;
    connect_to(sock, "192.0.2.9", REFUSED_PORT);
    struct usher_event ev = expect(r.ctx, USHER_EV_ERROR);
    cr_assert_eq(ev.sock, sock);
    cr_assert_eq(ev.error, ECONNREFUSED);
    cr_assert_eq(expect(r.ctx, USHER_EV_HANGUP).sock, sock);
    usher_close(sock);
    l = listener(r.ctx, &port);
    c = stream(r.ctx);
    connect_to(c, "127.0.0.1", port);
    struct usher_socket *s = expect(r.ctx, USHER_EV_ACCEPT).msg.sock;
    cr_assert_eq(expect(r.ctx, USHER_EV_CONNECTED).sock, c);
    const struct linger now = {.l_onoff = 1};
    cr_assert_eq(usher_setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
    usher_close(s);
    ev = expect(r.ctx, USHER_EV_ERROR);
    cr_assert_eq(ev.error, ECONNRESET);
    usher_close(c);
    usher_close(l);
    rig_stop(&r);
}

Test(stream, credit_blocks_and_comes_back) {
    struct rig r = rig_start(&(struct fake_config){.tx_limit = 16384, .rx_bytes = 4 << 20, .cq_entries = 4096});
    struct usher_socket *sock = echo_stream(&r);
    static char bytes[65536];
    fake_hold_credit(r.fake, true);
    cr_assert_eq(usher_send_stream(sock, bytes, sizeof(bytes)), 16384);
    cr_assert_eq(usher_send_stream(sock, bytes, 1), -EAGAIN);
    usher_close(sock);
    rig_stop(&r);
}

/* WRITABLE comes with half of the credit; whoever has that much may send any piece, or both would wait for ever. */
Test(stream, half_of_the_credit_is_enough_for_any_piece) {
    struct rig r = rig_start(&(struct fake_config){.tx_limit = 65536, .rx_bytes = 4 << 20, .cq_entries = 4096});
    struct usher_socket *sock = echo_stream(&r);
    fake_hold_credit(r.fake, true);
    cr_assert_eq(usher_send_stream(sock, "the unsent tail", 15), 15);
    struct usher_msg m = {.sock = sock, .len = 65507};
    cr_assert_eq(usher_tx_alloc(r.ctx, m.len, &m.buf), 0);
    memset(m.buf.data, 1, m.len);
    cr_assert_eq(usher_send(r.ctx, &m, 1), 1, "%s", usher_strerror());
    cr_assert_eq(usher_send_stream(sock, "more than the limit has left", 28), -EAGAIN);
    usher_close(sock);
    rig_stop(&r);
}

Test(stream, options_reach_usherd) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = stream(r.ctx);
    const int on = 1;
    cr_assert_eq(usher_setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
    connect_to(sock, "192.0.2.9", ECHO_PORT);
    (void)expect(r.ctx, USHER_EV_CONNECTED);
    struct fake_stats stats;
    fake_stats_get(r.fake, &stats);
    cr_assert_eq(usher_setsockopt(sock, IPPROTO_TCP, TCP_MAXSEG + 1000, &on, sizeof(on)), -ENOPROTOOPT);
    usher_close(sock);
    rig_stop(&r);
}

/* usherd has no way there; the kernel's loopback has. */
Test(stream, a_foreign_peer_is_reached_by_the_kernel) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = stream(r.ctx);
    connect_to(sock, "127.0.0.1", FOREIGN_PORT);
    struct usher_event ev = expect(r.ctx, USHER_EV_ERROR);
    cr_assert_eq(ev.error, ECONNREFUSED, "nobody listens there on the kernel either: %d", ev.error);
    usher_close(sock);
    rig_stop(&r);
}

static int kernel_listener(uint16_t *ret_port) {
    struct sockaddr_in sa = rig_addr("127.0.0.1", 0);
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    cr_assert_eq(listen(fd, 5), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    *ret_port = ntohs(sa.sin_port);
    return fd;
}

Test(stream, the_kernel_carries_a_marked_client_and_a_listener) {
    struct rig r = rig_start(NULL);
    uint16_t kernel_port, port;
    char buf[16];
    int kernel = kernel_listener(&kernel_port);
    struct usher_socket *c = stream(r.ctx), *l = listener(r.ctx, &port);
    struct sockaddr_in any = rig_addr("127.0.0.1", 0), to = rig_addr("127.0.0.1", port);
    const int loopback = 1; /* the index of lo: an option that only the kernel honours */
    cr_assert_eq(usher_bind(c, (struct sockaddr *)&any, sizeof(any)), 0);
    cr_assert_eq(usher_setsockopt(c, SOL_SOCKET, SO_BINDTOIFINDEX, &loopback, sizeof(loopback)), 0);
    connect_to(c, "127.0.0.1", kernel_port);
    cr_assert_eq(expect(r.ctx, USHER_EV_CONNECTED).sock, c);
    int peer = accept(kernel, NULL, NULL);
    cr_assert_eq(usher_send_stream(c, "abc", 3), 3);
    cr_assert_eq(recv(peer, buf, sizeof(buf), 0), 3);
    cr_assert_eq(send(peer, "defg", 4, 0), 4);
    cr_assert_eq(usher_recv_stream(c, buf, sizeof(buf), 5 * SECOND), 4);
    close(peer);
    cr_assert_eq(usher_recv_stream(c, buf, sizeof(buf), 5 * SECOND), 0);
    usher_close(c);
    int caller = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(caller, (struct sockaddr *)&to, sizeof(to)), 0);
    struct usher_socket *s = expect(r.ctx, USHER_EV_ACCEPT).msg.sock;
    cr_assert_eq(send(caller, "hi", 2, 0), 2);
    cr_assert_eq(usher_recv_stream(s, buf, sizeof(buf), 5 * SECOND), 2);
    usher_close(s);
    cr_assert_eq(recv(caller, buf, sizeof(buf), 0), 0);
    close(caller);
    close(kernel);
    usher_close(l);
    rig_stop(&r);
}

Test(stream, usherd_dies_under_a_stream) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = echo_stream(&r);
    fake_die(r.fake);
    char c;
    ssize_t n = usher_recv_stream(sock, &c, 1, 5 * SECOND);
    cr_assert_eq(n, -ENETDOWN, "%zd", n);
    (void)expect(r.ctx, USHER_EV_DOWN);
    cr_assert_eq(usher_recv_stream(sock, &c, 1, 5 * SECOND), 0, "told once, then it is over");
    cr_assert_lt(usher_send_stream(sock, "x", 1), 0);
    usher_close(sock);
    rig_stop(&r);
}

static void raw_event(struct rig *r, uint32_t set, uint8_t event, uint32_t handle, uint32_t value) {
    struct ush_cqe e = {.type = USH_CQ_EVENT, .flags = event};
    e.event.handle = handle;
    e.event.value = value;
    fake_raw(r->fake, set, &e);
}

/* A listener that usherd serves by two sets: their rings are read in any order. */
Test(stream, accepts_by_every_set) {
    struct rig r = rig_start(&(struct fake_config){.sets = 2});
    uint16_t port;
    struct usher_socket *l = listener(r.ctx, &port), *first, *second;
    struct usher_socket_info info;
    uint32_t index = r.ctx->h.socket_max + r.ctx->h.client_socket_max + 5;
    const int on = 1;
    cr_assert_eq(usher_socket_info(l, &info), 0);
    uint32_t was = r.ctx->set_at[0]->sq_pos, was_other = r.ctx->set_at[1]->sq_pos;
    cr_assert_eq(usher_setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
    cr_assert_eq(r.ctx->set_at[0]->sq_pos, was + 1);
    cr_assert_eq(r.ctx->set_at[1]->sq_pos, was_other + 1, "each set hears of the option");
    raw_event(&r, 0, USH_EVENT_ACCEPT, info.handle, USH_HANDLE(index, 1));
    cr_assert_not_null(first = expect(r.ctx, USHER_EV_ACCEPT).msg.sock);
    cr_assert_eq(first->set, r.ctx->set_at[0]);
    usher_close(first);
    raw_event(&r, 1, USH_EVENT_ACCEPT, info.handle, USH_HANDLE(index, 2));
    cr_assert_not_null(second = expect(r.ctx, USHER_EV_ACCEPT).msg.sock,
                       "its index is another's, CLOSED is on its way");
    cr_assert_eq(second->set, r.ctx->set_at[1]);
    raw_event(&r, 0, USH_EVENT_CLOSED, USH_HANDLE(index, 1), 0);
    raw_event(&r, 1, USH_EVENT_HANGUP, USH_HANDLE(index, 2), 0);
    cr_assert_eq(expect(r.ctx, USHER_EV_HANGUP).sock, second);
    raw_event(&r, 1, USH_EVENT_ACCEPT, info.handle, USH_HANDLE(index + 1, 1));
    usher_close(l); /* refuses what nobody has seen */
    usher_close(second);
    rig_stop(&r);
}
