/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams that the daemon gives back: they reach a kernel socket of this host, in order, whatever the program is
 * doing. 0.0.0.0 is this host for the kernel and an ordinary peer for the library.
 */
#include <netinet/udp.h>
#include <poll.h>
#include <unistd.h>

#include "clientlib/src/testkit.h"

static const struct fake_config by_hand = {.manual = true, .bounce_port = 1};

struct peer {
    int fd;
    uint16_t port;
};

static struct peer peer_open(void) {
    struct peer p = {.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    struct sockaddr_in sa = rig_addr("127.0.0.1", 0);
    socklen_t len = sizeof(sa);
    cr_assert_eq(bind(p.fd, (struct sockaddr *)&sa, len), 0);
    cr_assert_eq(getsockname(p.fd, (struct sockaddr *)&sa, &len), 0);
    p.port = ntohs(sa.sin_port);
    return p;
}

static bool peer_has(const struct peer *p) {
    struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
    return poll(&pfd, 1, 0) == 1;
}

/* Loopback delivers within the send, so nothing is waited for. */
static void expect_at(const struct peer *p, char byte, ssize_t len) {
    char data[4096];
    cr_assert(peer_has(p), "'%c' did not come", byte);
    cr_assert_eq(recv(p->fd, data, sizeof(data), 0), len);
    cr_assert_eq(data[0], byte);
    cr_assert_eq(data[len - 1], byte);
}

static void send_to(struct usher_socket *sock, const char *ip, uint16_t port, char byte) {
    struct sockaddr_in to = rig_addr(ip, port);
    cr_assert_eq(usher_sendto(sock, &byte, 1, (struct sockaddr *)&to, sizeof(to)), 1, "%s", usher_strerror());
}

static uint64_t sends(struct rig *r) {
    struct fake_stats st;
    fake_stats_get(r->fake, &st);
    return st.sends;
}

static void expect_no_cells(struct rig *r) {
    struct fake_stats st;
    struct usher_event ev;
    for (int i = 0; i < 300; i++) /* releases that wait for company */
        cr_assert_eq(usher_poll(r->ctx, &ev, 1), 0);
    fake_step(r->fake);
    fake_stats_get(r->fake, &st);
    cr_assert_eq(st.cells_lent, 0);
    cr_assert_eq(st.bad, 0);
}

Test(bounce, goes_by_the_kernel_and_so_do_the_next) {
    struct rig r = rig_start(&by_hand);
    struct peer p = peer_open();
    struct usher_event ev[4];
    send_to(r.sock, "0.0.0.0", p.port, 'a');
    fake_step(r.fake);
    cr_assert_eq(usher_poll(r.ctx, ev, 4), 0, "%s", usher_strerror());
    expect_at(&p, 'a', 1);
    send_to(r.sock, "0.0.0.0", p.port, 'b');
    expect_at(&p, 'b', 1);
    fake_step(r.fake);
    cr_assert_eq(sends(&r), 1, "the second did not ask usherd");
    send_to(r.sock, "0.0.0.0", (uint16_t)(p.port ^ 1), 'c');
    fake_step(r.fake);
    cr_assert_eq(sends(&r), 2, "other ports of that address may be usherd's");
    expect_no_cells(&r);
    close(p.fd);
    rig_stop(&r);
}

Test(bounce, a_program_that_only_sends_gets_them_out) {
    struct rig r = rig_start(&by_hand);
    struct peer p = peer_open();
    send_to(r.sock, "0.0.0.0", p.port, 'a');
    fake_step(r.fake);
    cr_assert_not(peer_has(&p));
    send_to(r.sock, "0.0.0.0", p.port, 'b');
    expect_at(&p, 'a', 1);
    expect_at(&p, 'b', 1);
    for (int i = 0; i < 500; i++) { /* to ever new ports, so that each is bounced */
        send_to(r.sock, "0.0.0.0", (uint16_t)(20000 + i), 'c');
        fake_step(r.fake);
    }
    struct fake_stats st;
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.cq_full + st.no_cell, 0, "the ring does not fill up");
    expect_no_cells(&r);
    close(p.fd);
    rig_stop(&r);
}

Test(bounce, nothing_overtakes) {
    struct rig r = rig_start(&by_hand);
    struct peer p = peer_open();
    struct usher_event ev[4];
    fake_hold_credit(r.fake, true); /* as long as usherd has not counted them, more may come back */
    send_to(r.sock, "0.0.0.0", p.port, 'a');
    fake_step(r.fake);
    cr_assert_eq(usher_poll(r.ctx, ev, 4), 0);
    send_to(r.sock, "0.0.0.0", p.port, 'b');
    cr_assert_eq(usher_poll(r.ctx, ev, 4), 0);
    expect_at(&p, 'a', 1);
    cr_assert_not(peer_has(&p), "the second follows the first through the rings");
    fake_step(r.fake);
    fake_hold_credit(r.fake, false);
    send_to(r.sock, "0.0.0.0", p.port, 'c');
    expect_at(&p, 'b', 1);
    expect_at(&p, 'c', 1);
    cr_assert_eq(sends(&r), 2);
    expect_no_cells(&r);
    close(p.fd);
    rig_stop(&r);
}

Test(bounce, several_pieces_of_one_buffer) {
    struct rig r = rig_start(&by_hand);
    struct peer p = peer_open();
    struct usher_event ev[4];
    struct usher_msg m = rig_msg(&r, 1500);
    memset(m.peer, 0, 16);
    m.peer_port = p.port;
    m.gso_size = 500;
    cr_assert_eq(usher_send(r.ctx, &m, 1), 1);
    fake_step(r.fake);
    cr_assert_eq(usher_poll(r.ctx, ev, 4), 0);
    for (int i = 0; i < 3; i++)
        expect_at(&p, 0x5a, 500);
    cr_assert_not(peer_has(&p));
    expect_no_cells(&r);
    close(p.fd);
    rig_stop(&r);
}

Test(bounce, a_connected_socket_hears_that_nobody_listens) {
    struct rig r = rig_start(&by_hand);
    struct peer p = peer_open();
    struct usher_event ev;
    struct sockaddr_in to = rig_addr("127.0.0.1", p.port);
    cr_assert_eq(usher_connect(r.sock, (struct sockaddr *)&to, sizeof(to)), 0);
    cr_assert_eq(usher_sendto(r.sock, "a", 1, NULL, 0), 1);
    fake_step(r.fake);
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 0);
    expect_at(&p, 'a', 1);
    close(p.fd);
    cr_assert_eq(usher_sendto(r.sock, "b", 1, NULL, 0), 1);
    cr_assert_eq(sends(&r), 1, "its peer is the kernel's");
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, SECOND), 1);
    cr_assert_eq(ev.type, USHER_EV_ERROR);
    cr_assert_eq(ev.error, ECONNREFUSED);
    rig_stop(&r);
}

Test(bounce, refused_by_the_kernel_is_an_error_of_the_socket) {
    struct rig r = rig_start(&by_hand);
    struct usher_event ev;
    send_to(r.sock, "240.0.0.1", 9, 'a'); /* class E: a socket of 127.0.0.1 cannot reach it */
    fake_step(r.fake);
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 1);
    cr_assert_eq(ev.type, USHER_EV_ERROR);
    cr_assert_eq(ev.sock, r.sock);
    cr_assert(ev.error == EINVAL || ev.error == ENETUNREACH, "%d", ev.error);
    expect_no_cells(&r);
    rig_stop(&r);
}

Test(bounce, goes_before_the_socket_closes) {
    struct rig r = rig_start(&by_hand);
    struct peer p = peer_open();
    send_to(r.sock, "0.0.0.0", p.port, 'a');
    fake_step(r.fake);
    usher_close(r.sock);
    expect_at(&p, 'a', 1);
    close(p.fd);
    rig_stop(&r);
}

Test(bounce, goes_before_the_context_closes) {
    const struct fake_config by_thread = {.bounce_port = 1};
    struct rig r = rig_start(&by_thread);
    struct usher_socket *other = rig_socket(r.ctx);
    struct peer p = peer_open(), q = peer_open();
    for (char c = 'a'; c <= 'z'; c++) {
        send_to(r.sock, "0.0.0.0", p.port, c);
        send_to(other, "0.0.0.0", q.port, c);
    }
    rig_stop(&r);
    for (char c = 'a'; c <= 'z'; c++) {
        expect_at(&p, c, 1);
        expect_at(&q, c, 1);
    }
    close(p.fd);
    close(q.fd);
}

Test(bounce, of_another_socket_is_sent_on_the_way) {
    struct rig r = rig_start(&by_hand);
    struct usher_socket *other = rig_socket(r.ctx);
    struct peer p = peer_open();
    char byte;
    send_to(other, "0.0.0.0", p.port, 'a');
    fake_step(r.fake);
    cr_assert_eq(usher_recvfrom(r.sock, &byte, 1, NULL, NULL, 0), -EAGAIN);
    expect_at(&p, 'a', 1);
    close(p.fd);
    rig_stop(&r);
}
