/* SPDX-License-Identifier: Apache-2.0
 *
 * Options of streams, what a stream tells of itself, bound ports, lingering: libusher against the fake daemon.
 */
#include <netinet/tcp.h>
#include <pthread.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

#define ECHO_PORT    7
#define FOREIGN_PORT 2

static struct usher_socket *stream(struct usher_context *ctx) {
    struct usher_socket *sock = NULL;
    cr_assert(usher_socket(ctx, AF_INET, SOCK_STREAM, 0, &sock) == 0, "%s", usher_strerror());
    return sock;
}

static int connect_to(struct usher_socket *sock, const char *ip, uint16_t port) {
    struct sockaddr_in to = rig_addr(ip, port);
    return usher_connect(sock, (struct sockaddr *)&to, sizeof(to));
}

static struct usher_event expect(struct usher_context *ctx, enum usher_event_type type) {
    struct usher_event ev;
    do {
        int n = usher_wait(ctx, &ev, 1, 5 * SECOND);
        cr_assert(n == 1, "no event %d: %d %s", type, n, usher_strerror());
    } while (ev.type != type);
    return ev;
}

static struct usher_socket *connected(struct rig *r) {
    struct usher_socket *sock = stream(r->ctx);
    cr_assert_eq(connect_to(sock, "192.0.2.9", ECHO_PORT), 0);
    cr_assert_eq(expect(r->ctx, USHER_EV_CONNECTED).sock, sock);
    return sock;
}

static int set(struct usher_socket *sock, int level, int name, int value) {
    return usher_setsockopt(sock, level, name, &value, sizeof(value));
}

static int get(struct usher_socket *sock, int level, int name) {
    int value = -12345;
    socklen_t len = sizeof(value);
    int err = usher_getsockopt(sock, level, name, &value, &len);
    return err ? err : value;
}

static struct fake_stats stats_of(struct rig *r) {
    struct fake_stats s;
    char c;
    struct usher_socket *sock = connected(r); /* what was submitted before has been taken */
    cr_assert_eq(usher_send_stream(sock, "x", 1), 1);
    cr_assert_eq(usher_recv_stream(sock, &c, 1, 5 * SECOND), 1);
    fake_stats_get(r->fake, &s);
    usher_close(sock);
    return s;
}

static const struct {
    int level, name, value, standard;
} settable[] = {
    {IPPROTO_TCP, TCP_NODELAY, 1, 0},
    {IPPROTO_TCP, TCP_CORK, 1, 0},
    {IPPROTO_TCP, TCP_QUICKACK, 0, 1},
    {SOL_SOCKET, SO_KEEPALIVE, 1, 0},
    {IPPROTO_TCP, TCP_KEEPIDLE, 77, 7200},
    {IPPROTO_TCP, TCP_KEEPINTVL, 7, 75},
    {IPPROTO_TCP, TCP_KEEPCNT, 3, 9},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, 5000, 0},
    {IPPROTO_TCP, TCP_SYNCNT, 3, 6},
    {IPPROTO_TCP, TCP_LINGER2, 9, 60},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, 5, 0},
    {IPPROTO_TCP, TCP_FASTOPEN, 5, 0},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, 9999, 0},
    {IPPROTO_IP, IP_TOS, 8, 0},
    {IPPROTO_IP, IP_TTL, 9, 64},
    {IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1, 0},
};

Test(stream_option, reads_what_was_set) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = stream(r.ctx);
    struct linger l = {1, 7};
    socklen_t len = sizeof(l);
    for (size_t i = 0; i < sizeof(settable) / sizeof(settable[0]); i++) {
        cr_assert_eq(get(sock, settable[i].level, settable[i].name), settable[i].standard, "%zu", i);
        cr_assert_eq(set(sock, settable[i].level, settable[i].name, settable[i].value), 0, "%zu", i);
        cr_assert_eq(get(sock, settable[i].level, settable[i].name), settable[i].value, "%zu", i);
    }
    cr_assert_eq(set(sock, SOL_SOCKET, SO_RCVBUF, 30000), 0);
    cr_assert_eq(get(sock, SOL_SOCKET, SO_RCVBUF), 60000, "as the kernel counts it");
    cr_assert_eq(usher_setsockopt(sock, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    l = (struct linger){0};
    cr_assert_eq(usher_getsockopt(sock, SOL_SOCKET, SO_LINGER, &l, &len), 0);
    cr_assert(l.l_onoff == 1 && l.l_linger == 7);
    cr_assert_eq(get(sock, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    cr_assert_eq(get(sock, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
    cr_assert_eq(get(sock, SOL_SOCKET, SO_ACCEPTCONN), 0);
    usher_close(sock);
    rig_stop(&r);
}

Test(stream_option, refuses_what_the_kernel_would) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = stream(r.ctx);
    char one = 1;
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_KEEPIDLE, 0), -EINVAL);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_KEEPCNT, 128), -EINVAL);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_MAXSEG, 87), -EINVAL);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_SYNCNT, 0), -EINVAL);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_USER_TIMEOUT, -1), -EINVAL);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 2), -EINVAL);
    cr_assert_eq(usher_setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, 1), -EINVAL);
    cr_assert_eq(usher_setsockopt(sock, SOL_SOCKET, SO_LINGER, &one, 1), -EINVAL);
    cr_assert_eq(set(sock, IPPROTO_TCP, 9999, 1), -ENOPROTOOPT, "the kernel socket has been asked");
    cr_assert_eq(get(sock, IPPROTO_TCP, 9999), -ENOPROTOOPT);
    usher_close(sock);
    rig_stop(&r);
}

Test(stream_option, goes_ahead_of_connect_and_later_at_once) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = stream(r.ctx);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_NODELAY, 1), 0);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_MAXSEG, 1000), 0);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_LINGER2, 5), 0);
    cr_assert_eq(connect_to(sock, "192.0.2.9", ECHO_PORT), 0);
    cr_assert_eq(expect(r.ctx, USHER_EV_CONNECTED).sock, sock);
    struct fake_stats s = stats_of(&r);
    cr_assert_eq(s.ahead, 2);
    cr_assert_eq(s.stream_options, 3);
    cr_assert(s.last_option == USH_STREAM_LINGER2 && s.last_option_value == 5000);
    cr_assert_eq(set(sock, SOL_SOCKET, SO_RCVBUF, 50000), 0);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_WINDOW_CLAMP, 20000), 0);
    s = stats_of(&r);
    cr_assert(s.last_option == USH_STREAM_RCVBUF && s.last_option_value == 20000, "the smaller of the two");
    usher_close(sock);
    rig_stop(&r);
}

static struct usher_socket *listener(struct usher_context *ctx, uint16_t *ret_port) {
    struct usher_socket *sock = stream(ctx);
    struct sockaddr_in any = rig_addr("127.0.0.1", 0);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_NODELAY, 1), 0);
    cr_assert_eq(set(sock, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3), 0);
    cr_assert_eq(usher_bind(sock, (struct sockaddr *)&any, sizeof(any)), 0);
    cr_assert_eq(set(sock, SOL_SOCKET, SO_KEEPALIVE, 1), 0);
    cr_assert_eq(usher_listen(sock, 10), 0, "%s", usher_strerror());
    *ret_port = rig_port(sock);
    return sock;
}

Test(stream_option, accepted_streams_have_the_listeners) {
    struct rig r = rig_start(NULL);
    uint16_t port;
    struct fake_stats s;
    struct sockaddr_in name;
    socklen_t len = sizeof(name);
    struct usher_socket *l = listener(r.ctx, &port), *c = stream(r.ctx);
    fake_stats_get(r.fake, &s);
    cr_assert_eq(s.listen_options, 3);
    cr_assert_eq(get(l, IPPROTO_TCP, TCP_NODELAY), 1, "the kernel's socket has it too");
    cr_assert_eq(set(l, IPPROTO_TCP, TCP_KEEPIDLE, 100), 0);
    cr_assert_eq(connect_to(c, "127.0.0.1", port), 0);
    struct usher_socket *a = expect(r.ctx, USHER_EV_ACCEPT).msg.sock;
    cr_assert_eq(get(a, IPPROTO_TCP, TCP_NODELAY), 1);
    cr_assert_eq(get(a, SOL_SOCKET, SO_KEEPALIVE), 1);
    cr_assert_eq(get(a, IPPROTO_TCP, TCP_KEEPIDLE), 100);
    cr_assert_eq(get(a, IPPROTO_TCP, TCP_DEFER_ACCEPT), 0, "a listener's own");
    cr_assert_eq(get(c, IPPROTO_TCP, TCP_NODELAY), 0);
    fake_stats_get(r.fake, &s);
    cr_assert(s.last_option == USH_STREAM_KEEP_IDLE && s.last_option_handle < 64, "told by the listener's handle");
    cr_assert_eq(usher_getsockname(a, (struct sockaddr *)&name, &len), 0);
    cr_assert_eq(ntohl(name.sin_addr.s_addr), 0xc000024du, "where it came to, not what the listener is bound to");
    cr_assert_eq(usher_getpeername(a, (struct sockaddr *)&name, &len), 0);
    cr_assert_eq(ntohs(name.sin_port), 1234);
    usher_close(a);
    usher_close(c);
    usher_close(l);
    rig_stop(&r);
}

/* ---- what it tells ---- */

Test(stream_info, is_asked_of_the_worker) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = connected(&r);
    struct usher_stream_info info;
    struct tcp_info k;
    char name[16] = "";
    socklen_t len = sizeof(k);
    for (int i = 0; i < 300; i++)
        cr_assert_eq(usher_stream_info(sock, &info), 0, "%s", usher_strerror());
    cr_assert(info.mss == 1448 && info.rtt_us == 123 && info.state == 1);
    cr_assert_eq(usher_getsockopt(sock, IPPROTO_TCP, TCP_INFO, &k, &len), 0);
    cr_assert_eq(len, sizeof(k));
    cr_assert(k.tcpi_snd_cwnd == 10 && k.tcpi_rtt == 123 && k.tcpi_snd_mss == 1448);
    len = 8; /* programs of older days know less of it */
    cr_assert_eq(usher_getsockopt(sock, IPPROTO_TCP, TCP_INFO, &k, &len), 0);
    cr_assert_eq(len, 8);
    cr_assert_eq(get(sock, IPPROTO_TCP, TCP_MAXSEG), 1448);
    len = sizeof(name);
    cr_assert_eq(usher_getsockopt(sock, IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
    cr_assert_str_eq(name, "dctcp");
    usher_close(sock);
    (void)stats_of(&r);
    struct fake_stats s;
    fake_stats_get(r.fake, &s);
    cr_assert_eq(s.bad, 0);
    cr_assert_leq(s.cells_lent, 14, "all but what waits for company was given back");
    rig_stop(&r);
}

Test(stream_info, what_comes_meanwhile_is_kept) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = connected(&r);
    struct usher_stream_info info;
    char buf[8] = "";
    cr_assert_eq(usher_send_stream(sock, "abc", 3), 3);
    cr_assert_eq(usher_stream_info(sock, &info), 0);
    cr_assert_eq(usher_recv_stream(sock, buf, sizeof(buf), 5 * SECOND), 3);
    cr_assert_str_eq(buf, "abc");
    usher_close(sock);
    rig_stop(&r);
}

Test(stream_info, is_refused_where_there_is_none) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = stream(r.ctx);
    struct usher_stream_info info;
    cr_assert_eq(usher_stream_info(sock, &info), -ENOTCONN);
    cr_assert_eq(usher_stream_info(r.sock, &info), -ENOTCONN);
    usher_close(sock);
    sock = connected(&r);
    fake_die(r.fake);
    cr_assert_eq(usher_stream_info(sock, &info), -ENOTCONN);
    usher_close(sock);
    rig_stop(&r);
}

/* ---- ports ---- */

Test(stream_port, bound_then_connected) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = stream(r.ctx);
    struct sockaddr_in any = rig_addr("127.0.0.1", 0);
    struct usher_socket_info info;
    struct fake_stats s;
    cr_assert_eq(usher_bind(sock, (struct sockaddr *)&any, sizeof(any)), 0);
    uint16_t port = rig_port(sock);
    cr_assert_eq(connect_to(sock, "192.0.2.9", ECHO_PORT), 0);
    cr_assert_eq(expect(r.ctx, USHER_EV_CONNECTED).sock, sock);
    cr_assert_eq(usher_socket_info(sock, &info), 0);
    cr_assert(info.accelerated, "%s", info.reason);
    fake_stats_get(r.fake, &s);
    cr_assert_eq(s.last_remote_port, ECHO_PORT, "usherd judges the whole way");
    cr_assert(s.last_flags & USH_CONNECT_BOUND);
    cr_assert_eq(s.closes, 0);
    usher_close(sock);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    any.sin_port = htons(port);
    for (int i = 0; s.closes == 0 && i < 1000; i++) {
        struct usher_event ev;
        cr_assert_geq(usher_wait(r.ctx, &ev, 1, SECOND / 100), 0);
        fake_stats_get(r.fake, &s);
    }
    cr_assert_eq(s.closes, 1, "the port is given back when the connection is over");
    cr_assert_eq(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0, "and the kernel has it again");
    close(fd);
    rig_stop(&r);
}

Test(stream_port, refused_by_usherd_goes_to_the_kernel) {
    struct rig r = rig_start(&(struct fake_config){.fault = FAULT_KERNEL, .fault_at = FAKE_RPC_OPEN});
    struct usher_socket *sock = stream(r.ctx);
    struct sockaddr_in here = rig_addr("127.0.0.1", 0);
    struct usher_socket_info info;
    int l = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = sizeof(here);
    cr_assert_eq(bind(l, (struct sockaddr *)&here, sizeof(here)), 0);
    cr_assert_eq(listen(l, 1), 0);
    cr_assert_eq(getsockname(l, (struct sockaddr *)&here, &len), 0);
    struct sockaddr_in any = rig_addr("127.0.0.1", 0);
    cr_assert_eq(usher_bind(sock, (struct sockaddr *)&any, sizeof(any)), 0);
    cr_assert_eq(usher_connect(sock, (struct sockaddr *)&here, sizeof(here)), 0, "%s", usher_strerror());
    cr_assert_eq(expect(r.ctx, USHER_EV_CONNECTED).sock, sock);
    cr_assert_eq(usher_socket_info(sock, &info), 0);
    cr_assert(!info.accelerated);
    usher_close(sock);
    close(l);
    rig_stop(&r);
}

/* ---- ends ---- */

Test(stream_end, shut_down_for_reading) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = connected(&r);
    char buf[8];
    cr_assert_eq(usher_send_stream(sock, "abc", 3), 3);
    cr_assert_eq(usher_recv_stream(sock, buf, 1, 5 * SECOND), 1);
    cr_assert_eq(usher_shutdown(sock, SHUT_RD), 0);
    cr_assert_eq(usher_recv_stream(sock, buf, sizeof(buf), 5 * SECOND), 2, "what waits is read");
    cr_assert_eq(usher_recv_stream(sock, buf, sizeof(buf), 5 * SECOND), 0, "then it is over, at once");
    cr_assert_eq(usher_send_stream(sock, "d", 1), 1, "sending goes on");
    cr_assert_eq(usher_shutdown(sock, 77), -EINVAL);
    usher_close(sock);
    rig_stop(&r);
}

Test(stream_end, lingers_until_the_peer_has_it) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = connected(&r);
    const struct linger l = {1, 30};
    cr_assert_eq(usher_setsockopt(sock, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    cr_assert_eq(usher_send_stream(sock, "abc", 3), 3);
    usher_close(sock); /* would hang the test if it waited for the time */
    rig_stop(&r);
}

Test(stream_urgent, goes_with_its_byte) {
    struct rig r = rig_start(NULL);
    struct usher_socket *sock = connected(&r);
    struct usher_socket_info info;
    struct fake_stats s;
    char c;
    struct usher_msg m = {.sock = sock, .len = 1, .flags = USHER_URGENT};
    cr_assert_eq(usher_tx_alloc(r.ctx, 1, &m.buf), 0);
    cr_assert_eq(usher_send(r.ctx, &m, 1), 1);
    cr_assert_eq(usher_recv_stream(sock, &c, 1, 5 * SECOND), 1);
    fake_stats_get(r.fake, &s);
    cr_assert_eq(s.last_flags, USH_SEND_URGENT);
    cr_assert_eq(usher_socket_info(sock, &info), 0);
    struct ush_cqe e = {.type = USH_CQ_EVENT, .flags = USH_EVENT_URGENT};
    e.event.handle = info.handle;
    e.event.extra = 41;
    fake_raw(r.fake, 0, &e);
    struct usher_event ev = expect(r.ctx, USHER_EV_URGENT);
    cr_assert(ev.sock == sock && ev.msg.user_data == 41);
    usher_close(sock);
    rig_stop(&r);
}

/* ---- usherd dies ---- */

struct blocked {
    struct usher_context *ctx;
    struct usher_socket *sock; /* NULL: waits for any event */
    ssize_t result;
};

static void *block(void *arg) {
    struct blocked *b = arg;
    struct usher_event ev;
    char c;
    b->result = b->sock ? usher_recv_stream(b->sock, &c, 1, -1) : usher_wait(b->ctx, &ev, 1, -1);
    return NULL;
}

static ssize_t blocked_while_it_dies(struct rig *r, struct usher_socket *sock) {
    struct blocked b = {.ctx = r->ctx, .sock = sock};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, block, &b), 0);
    fake_die(r->fake); /* before it sleeps or after: it must not matter */
    cr_assert_eq(pthread_join(thread, NULL), 0);
    return b.result;
}

Test(stream_end, who_is_blocked_when_usherd_dies) {
    for (int i = 0; i < 50; i++) {
        struct rig r = rig_start(NULL);
        struct usher_socket *sock = connected(&r);
        cr_assert_eq(blocked_while_it_dies(&r, sock), -ENETDOWN);
        cr_assert_eq(usher_send_stream(sock, "x", 1), -EPIPE);
        usher_close(sock);
        rig_stop(&r);
        r = rig_start(NULL);
        sock = connected(&r);
        cr_assert_eq(blocked_while_it_dies(&r, NULL), 1, "USHER_EV_DOWN");
        usher_close(sock);
        rig_stop(&r);
    }
}

Test(stream_end, what_is_connecting_or_lingering_when_usherd_dies) {
    struct rig r = rig_start(NULL);
    struct usher_socket *a = connected(&r), *b = stream(r.ctx);
    const struct linger l = {1, 60};
    cr_assert_eq(usher_setsockopt(a, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
    fake_hold_credit(r.fake, true); /* nothing is acknowledged any more */
    cr_assert_eq(usher_send_stream(a, "abc", 3), 3);
    fake_hold(r.fake, true);
    cr_assert_eq(connect_to(b, "192.0.2.9", ECHO_PORT), 0);
    fake_die(r.fake);
    usher_close(a); /* would take a minute */
    struct usher_event ev = expect(r.ctx, USHER_EV_ERROR);
    cr_assert(ev.sock == b && ev.error == ENETDOWN);
    usher_close(b);
    rig_stop(&r);
}
