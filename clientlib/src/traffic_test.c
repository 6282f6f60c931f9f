/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams through the rings: wrap, full rings, credit, buffers, releases, several sets, errors, and a daemon whose
 * completions are impossible. The worker is stepped by hand where order matters.
 */
#include <stdlib.h>

#include "clientlib/src/testkit.h"

static const struct fake_config by_hand = {.manual = true};

static int take_all(struct rig *r, struct usher_event *ev, int n) {
    int got = usher_poll(r->ctx, ev, (uint32_t)n);
    cr_assert_geq(got, 0, "%s", usher_strerror());
    return got;
}

static void release_all(struct rig *r, struct usher_event *ev, int n) {
    for (int i = 0; i < n; i++)
        if (ev[i].type == USHER_EV_RECV)
            usher_rx_release(r->ctx, &ev[i].msg, 1);
}

Test(traffic, a_message_comes_back_with_everything) {
    struct rig r = rig_start(&by_hand);
    struct fake_stats st;
    struct usher_event ev[4];
    struct usher_msg m = rig_msg(&r, 100);
    m.user_data = 0x1234567890;
    m.tos = 0xb8;
    cr_assert_eq(usher_send(r.ctx, &m, 1), 1, "%s", usher_strerror());
    cr_assert_null(m.buf.data, "the buffer is usherd's now");
    cr_assert_eq(take_all(&r, ev, 4), 0);
    cr_assert_eq(fake_step(r.fake), 1);
    cr_assert_eq(take_all(&r, ev, 4), 1);
    cr_assert_eq(ev[0].type, USHER_EV_RECV);
    cr_assert_eq(ev[0].sock, r.sock);
    cr_assert_eq(ev[0].msg.len, 100);
    cr_assert_eq(ev[0].msg.family, AF_INET);
    cr_assert_eq(ev[0].msg.peer_port, 7);
    cr_assert_arr_eq(ev[0].msg.peer, ((uint8_t[16]){192, 0, 2, 9}), 16);
    cr_assert_arr_eq(ev[0].msg.local, ((uint8_t[16]){127, 0, 0, 1}), 16);
    cr_assert_eq(ev[0].msg.tos, 0xb8);
    cr_assert_eq(((uint8_t *)ev[0].msg.buf.data)[99], 0x5a);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.last_user_data, 0x1234567890);
    cr_assert_eq(st.last_flags, USH_SEND_TO);
    release_all(&r, ev, 1);
    rig_stop(&r);
}

Test(traffic, a_batch_says_more_and_gso_travels) {
    struct rig r = rig_start(&by_hand);
    struct fake_stats st;
    struct usher_event ev[4];
    struct usher_msg m[2] = {rig_msg(&r, 10), rig_msg(&r, 1500)};
    m[1].gso_size = 500;
    m[1].buf.data = (char *)m[1].buf.data + 8; /* headroom is the program's business */
    cr_assert_eq(usher_send(r.ctx, m, 2), 2);
    cr_assert_eq(fake_step(r.fake), 2);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.last_gso_size, 500);
    cr_assert_not(st.last_flags & USH_SEND_MORE);
    int n = take_all(&r, ev, 4);
    cr_assert_eq(n, 2);
    release_all(&r, ev, n);
    rig_stop(&r);
}

Test(traffic, bad_messages_are_refused_and_keep_their_buffer) {
    struct rig r = rig_start(&by_hand);
    struct usher_msg good = rig_msg(&r, 100), m = good;
    m.len = good.buf.size + 1;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EINVAL);
    m = good;
    m.buf.cookie ^= 1;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EINVAL);
    m = good;
    m.buf.data = (char *)m.buf.data - 1;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EINVAL);
    m = good;
    m.sock = NULL;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EINVAL);
    m = good;
    m.family = AF_UNIX;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EAFNOSUPPORT);
    m = good;
    m.family = AF_INET6; /* on an IPv4 socket */
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EAFNOSUPPORT);
    m = good;
    m.family = 0;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EDESTADDRREQ);
    m = good;
    m.peer_port = 0;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EINVAL);
    m = good;
    m.gso_size = 1;
    cr_assert_eq(usher_send(r.ctx, &m, 1), -EINVAL, "100 datagrams of one byte");
    cr_assert_not_null(m.buf.data);
    cr_assert_eq(usher_send(r.ctx, &good, 0), 0);
    struct usher_msg again = good;
    cr_assert_eq(usher_send(r.ctx, &good, 1), 1);
    fake_step(r.fake);
    cr_assert_eq(usher_tx_alloc(r.ctx, 65508, &again.buf), -EMSGSIZE);
    static char big[65508];
    cr_assert_eq(rig_send(r.sock, big, sizeof(big)), -EMSGSIZE);
    cr_assert_eq(usher_sendto(r.sock, "x", 1, (struct sockaddr *)&(struct sockaddr){AF_UNIX, {0}}, 16), -EAFNOSUPPORT);
    rig_stop(&r);
}

Test(traffic, rings_wrap_many_times) {
    const struct fake_config c = {.manual = true, .sq_entries = 8, .cq_entries = 4};
    struct rig r = rig_start(&c);
    struct fake_stats st;
    struct usher_event ev[4];
    for (uint32_t i = 0; i < 1000; i++) {
        cr_assert_eq(rig_send(r.sock, &i, sizeof(i)), sizeof(i), "round %u: %s", i, usher_strerror());
        fake_step(r.fake);
        cr_assert_eq(take_all(&r, ev, 4), 1, "round %u", i);
        cr_assert_eq(*(uint32_t *)ev[0].msg.buf.data, i);
        release_all(&r, ev, 1);
    }
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.bad, 0);
    cr_assert_eq(st.recvs, 1000);
    rig_stop(&r);
}

Test(traffic, a_full_submission_ring_says_again_and_then_writable) {
    const struct fake_config c = {.manual = true, .sq_entries = 8, .swallow = true};
    struct rig r = rig_start(&c);
    struct usher_event ev[4];
    for (int i = 0; i < 8; i++)
        cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    cr_assert_eq(rig_send(r.sock, "x", 1), -EAGAIN);
    cr_assert(strstr(usher_strerror(), "USHER_EV_WRITABLE"));
    cr_assert_eq(take_all(&r, ev, 4), 0, "not writable yet");
    fake_step(r.fake);
    cr_assert_eq(take_all(&r, ev, 4), 1);
    cr_assert_eq(ev[0].type, USHER_EV_WRITABLE);
    cr_assert_eq(ev[0].sock, r.sock);
    cr_assert_eq(take_all(&r, ev, 4), 0, "told once");
    cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    rig_stop(&r);
}

Test(traffic, a_batch_stops_where_the_ring_is_full) {
    const struct fake_config c = {.manual = true, .sq_entries = 4};
    struct rig r = rig_start(&c);
    struct usher_msg m[6];
    for (int i = 0; i < 6; i++)
        m[i] = rig_msg(&r, 8);
    cr_assert_eq(usher_send(r.ctx, m, 6), 4);
    cr_assert_null(m[3].buf.data);
    cr_assert_not_null(m[4].buf.data, "what was not sent stays the caller's");
    usher_tx_free(r.ctx, &m[4].buf);
    usher_tx_free(r.ctx, &m[5].buf);
    usher_tx_free(r.ctx, &m[5].buf);
    rig_stop(&r);
}

Test(traffic, credit_stops_one_socket_and_not_its_neighbour) {
    const struct fake_config c = {.manual = true, .tx_limit = 1000, .swallow = true};
    struct rig r = rig_start(&c);
    struct usher_socket *other = rig_socket(r.ctx);
    struct usher_event ev[4];
    char data[400] = {0};
    fake_hold_credit(r.fake, true);
    cr_assert_eq(rig_send(r.sock, data, 400), 400);
    cr_assert_eq(rig_send(r.sock, data, 400), 400);
    cr_assert_eq(rig_send(r.sock, data, 400), -EAGAIN, "800 of 1000 in flight");
    cr_assert_eq(rig_send(other, data, 400), 400);
    fake_step(r.fake);
    cr_assert_eq(take_all(&r, ev, 4), 0);
    fake_hold_credit(r.fake, false);
    cr_assert_eq(take_all(&r, ev, 4), 1);
    cr_assert_eq(ev[0].type, USHER_EV_WRITABLE);
    cr_assert_eq(ev[0].sock, r.sock);
    cr_assert_eq(rig_send(r.sock, data, 400), 400);
    rig_stop(&r);
}

Test(traffic, a_datagram_larger_than_all_credit_goes_alone) {
    const struct fake_config c = {.manual = true, .tx_limit = 100, .swallow = true};
    struct rig r = rig_start(&c);
    char data[400] = {0};
    cr_assert_eq(rig_send(r.sock, data, 400), 400);
    cr_assert_eq(rig_send(r.sock, data, 400), -EAGAIN);
    fake_step(r.fake);
    cr_assert_eq(rig_send(r.sock, data, 400), 400);
    rig_stop(&r);
}

Test(traffic, waiting_for_writable_wakes_up) {
    const struct fake_config c = {.tx_limit = 1000, .swallow = true};
    struct rig r = rig_start(&c);
    struct usher_event ev;
    char data[900] = {0};
    fake_hold(r.fake, true);
    cr_assert_eq(rig_send(r.sock, data, 900), 900);
    cr_assert_eq(rig_send(r.sock, data, 900), -EAGAIN);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 3000000), 0);
    fake_hold(r.fake, false);
    cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
    cr_assert_eq(ev.type, USHER_EV_WRITABLE);
    rig_stop(&r);
}

Test(traffic, buffers_run_out_and_come_back) {
    const struct fake_config c = {.manual = true, .tx_bytes = 128 << 10, .swallow = true};
    struct rig r = rig_start(&c);
    struct usher_event ev[2];
    struct usher_buf b;
    struct usher_msg m[2];
    for (int i = 0; i < 2; i++) {
        m[i] = rig_msg(&r, 40000); /* lent: longer than tx_copy_max */
        cr_assert_eq(usher_send(r.ctx, &m[i], 1), 1);
    }
    cr_assert_eq(usher_tx_alloc(r.ctx, 40000, &b), -ENOBUFS);
    cr_assert(strstr(usher_strerror(), "USHER_EV_TX_FREE"));
    cr_assert_eq(rig_send(r.sock, "x", 1), -ENOBUFS);
    cr_assert_eq(take_all(&r, ev, 2), 0);
    fake_step(r.fake);
    cr_assert_eq(take_all(&r, ev, 2), 1);
    cr_assert_eq(ev[0].type, USHER_EV_TX_FREE);
    cr_assert_eq(usher_tx_alloc(r.ctx, 40000, &b), 0);
    usher_tx_free(r.ctx, &b);
    cr_assert_eq(take_all(&r, ev, 2), 0, "told once");
    rig_stop(&r);
}

Test(traffic, copied_buffers_come_back_without_a_word_from_usherd) {
    const struct fake_config c = {.manual = true, .tx_bytes = 64 << 10, .swallow = true, .sq_entries = 1024};
    struct rig r = rig_start(&c);
    struct usher_event ev;
    int sent = 0;
    while (rig_send(r.sock, "small", 5) == 5)
        sent++;
    cr_assert_eq(sent, 256, "one slab of the smallest class");
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 0);
    fake_step(r.fake);
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 1);
    cr_assert_eq(ev.type, USHER_EV_TX_FREE);
    cr_assert_eq(rig_send(r.sock, "small", 5), 5);
    rig_stop(&r);
}

Test(traffic, releases_travel_in_company) {
    const struct fake_config c = {.manual = true, .sq_entries = 256};
    struct rig r = rig_start(&c);
    struct fake_stats st;
    struct usher_event ev[32];
    for (int i = 0; i < 28; i++)
        cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    fake_step(r.fake);
    cr_assert_eq(take_all(&r, ev, 32), 28);
    release_all(&r, ev, 13);
    fake_step(r.fake);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.releases, 0, "13 wait for one more");
    release_all(&r, ev + 13, 15);
    cr_assert_eq(fake_step(r.fake), 2, "two entries for 28 cells");
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.releases, 28);
    cr_assert_eq(st.cells_lent, 0);
    cr_assert_eq(st.bad, 0);
    rig_stop(&r);
}

Test(traffic, releases_do_not_wait_for_ever) {
    struct rig r = rig_start(&by_hand);
    struct fake_stats st;
    struct usher_event ev[2];
    cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    fake_step(r.fake);
    cr_assert_eq(take_all(&r, ev, 2), 1);
    release_all(&r, ev, 1);
    for (int i = 0; i < 300; i++)
        cr_assert_eq(take_all(&r, ev, 2), 0);
    fake_step(r.fake);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.releases, 1, "a program that polls gives them back by and by");
    cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    fake_step(r.fake);
    cr_assert_eq(take_all(&r, ev, 2), 1);
    release_all(&r, ev, 1);
    cr_assert_eq(usher_arm(r.ctx), 0);
    fake_step(r.fake);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.releases, 2, "before sleeping at once");
    rig_stop(&r);
}

Test(traffic, releases_survive_a_ring_that_nobody_drains) {
    const struct fake_config c = {.manual = true, .sq_entries = 4, .cq_entries = 256};
    struct rig r = rig_start(&c);
    struct fake_stats st;
    struct usher_socket_info info;
    static struct usher_event ev[200];
    cr_assert_eq(usher_socket_info(r.sock, &info), 0);
    for (int i = 0; i < 200; i++)
        cr_assert(fake_inject(r.fake, info.handle, "x", 1));
    cr_assert_eq(take_all(&r, ev, 200), 200);
    release_all(&r, ev, 200); /* four entries hold 56 of them */
    for (int i = 0; i < 10; i++) {
        fake_step(r.fake);
        usher_arm(r.ctx);
    }
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.releases, 200);
    cr_assert_eq(st.bad, 0);
    rig_stop(&r);
}

Test(traffic, sockets_of_several_sets) {
    const struct fake_config c = {.sets = 3};
    struct rig r = rig_start(&c);
    struct usher_socket *s[6] = {r.sock};
    for (int i = 1; i < 6; i++)
        s[i] = rig_socket(r.ctx);
    int seen[6] = {0};
    for (int i = 0; i < 6; i++)
        cr_assert_eq(rig_send(s[i], &i, sizeof(i)), sizeof(i));
    for (int n = 0; n < 6; n++) {
        struct usher_event ev;
        cr_assert_eq(usher_wait(r.ctx, &ev, 1, 5 * SECOND), 1);
        int i = *(int *)ev.msg.buf.data;
        cr_assert_eq(ev.sock, s[i]);
        seen[i]++;
        usher_rx_release(r.ctx, &ev.msg, 1);
    }
    for (int i = 0; i < 6; i++)
        cr_assert_eq(seen[i], 1);
    rig_stop(&r);
}

Test(traffic, recvfrom_leaves_other_sockets_their_events) {
    struct rig r = rig_start(&by_hand);
    struct usher_socket *other = rig_socket(r.ctx);
    struct usher_event ev[4];
    char buf[8];
    for (int i = 0; i < 3; i++)
        cr_assert_eq(rig_send(r.sock, "mine", 4), 4);
    cr_assert_eq(rig_send(other, "theirs", 6), 6);
    fake_step(r.fake);
    cr_assert_eq(usher_recvfrom(other, buf, sizeof(buf), NULL, NULL, 0), 6);
    cr_assert_eq(usher_recvfrom(other, buf, sizeof(buf), NULL, NULL, 0), -EAGAIN);
    cr_assert_eq(usher_recvfrom(other, buf, sizeof(buf), NULL, NULL, 1000000), -EAGAIN);
    cr_assert_eq(usher_arm(r.ctx), 1, "parked events are something");
    cr_assert_eq(usher_recvfrom(r.sock, buf, 2, NULL, NULL, 0), 2, "cut to the size");
    cr_assert_eq(take_all(&r, ev, 4), 2);
    cr_assert_eq(ev[1].sock, r.sock);
    release_all(&r, ev, 2);
    cr_assert_eq(take_all(&r, ev, 4), 0);
    rig_stop(&r);
}

Test(traffic, closing_a_socket_with_parked_events_gives_them_back) {
    struct rig r = rig_start(&by_hand);
    struct usher_socket *other = rig_socket(r.ctx);
    struct usher_event ev[4];
    struct fake_stats st;
    char buf[8];
    for (int i = 0; i < 14; i++)
        cr_assert_eq(rig_send(other, "x", 1), 1);
    fake_step(r.fake);
    cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, 0), -EAGAIN);
    usher_close(other);
    fake_step(r.fake);
    fake_stats_get(r.fake, &st);
    cr_assert_eq(st.cells_lent, 0);
    cr_assert_eq(take_all(&r, ev, 4), 0);
    rig_stop(&r);
}

Test(traffic, errors_are_told_once_by_event_or_by_the_next_call) {
    struct rig r = rig_start(&by_hand);
    struct usher_socket *other = rig_socket(r.ctx);
    struct usher_socket_info info;
    struct usher_event ev[4];
    char buf[8];
    cr_assert_eq(usher_socket_info(r.sock, &info), 0);
    fake_error(r.fake, info.handle, ECONNREFUSED);
    cr_assert_eq(take_all(&r, ev, 4), 1);
    cr_assert_eq(ev[0].type, USHER_EV_ERROR);
    cr_assert_eq(ev[0].error, ECONNREFUSED);
    cr_assert_eq(ev[0].sock, r.sock);
    fake_error(r.fake, info.handle, EMSGSIZE);
    cr_assert_eq(usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, SECOND), -EMSGSIZE);
    fake_error(r.fake, info.handle, EHOSTUNREACH);
    cr_assert_eq(usher_recvfrom(other, buf, sizeof(buf), NULL, NULL, 0), -EAGAIN);
    cr_assert_eq(rig_send(r.sock, "x", 1), -EHOSTUNREACH);
    cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    cr_assert_eq(take_all(&r, ev, 4), 0, "the send has told it");
    for (int i = 0; i < 1000; i++) { /* a storm of errors that nobody reads is one number */
        fake_error(r.fake, info.handle, i % 2 ? EHOSTUNREACH : ENETUNREACH);
        cr_assert_eq(usher_recvfrom(other, buf, sizeof(buf), NULL, NULL, 0), -EAGAIN);
    }
    cr_assert_eq(take_all(&r, ev, 4), 1);
    cr_assert_eq(ev[0].error, EHOSTUNREACH);
    rig_stop(&r);
}

Test(traffic, completions_that_cannot_be_end_the_session) {
    static const struct ush_cqe cases[] = {
        {.type = USH_CQ_RECV, .recv = {.cell = 1 << 20, .len = 1}},
        {.type = USH_CQ_RECV, .recv = {.cell = (1 << 20) - 256, .len = 257}},
        {.type = USH_CQ_RECV, .recv = {.cell = 0, .len = UINT32_MAX}},
        {.type = USH_CQ_RECV, .recv = {.cell = 100, .len = 1}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct rig r = rig_start(&by_hand);
        struct usher_event ev;
        fake_raw(r.fake, 0, &cases[i]);
        cr_assert_eq(usher_poll(r.ctx, &ev, 1), 1, "case %zu", i);
        cr_assert_eq(ev.type, USHER_EV_DOWN);
        cr_assert_eq(usher_poll(r.ctx, &ev, 1), -ENETDOWN);
        cr_assert_eq(usher_poll(r.ctx, &ev, 1), 0);
        rig_stop(&r);
    }
}

Test(traffic, odd_completions_are_skipped) {
    static const struct ush_cqe cases[] = {
        {.type = 0},
        {.type = 200},
        {.type = USH_CQ_RECV, .recv = {.handle = UINT32_MAX, .len = 1}},
        {.type = USH_CQ_RECV, .recv = {.handle = 50, .len = 1}},
        {.type = USH_CQ_EVENT, .flags = USH_EVENT_ERROR, .event = {.handle = UINT32_MAX}},
        {.type = USH_CQ_EVENT, .flags = 99, .event = {.handle = 0}},
        {.type = USH_CQ_EVENT, .flags = USH_EVENT_CONNECTED, .event = {.handle = 0}},
        {.type = USH_CQ_TX_FREE, .count = 255, .tx_free = {.off = {1, UINT32_MAX, 65536}}},
    };
    struct rig r = rig_start(&by_hand);
    struct usher_event ev;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        fake_raw(r.fake, 0, &cases[i]);
        cr_assert_eq(usher_poll(r.ctx, &ev, 1), 0, "case %zu", i);
    }
    cr_assert_eq(rig_send(r.sock, "still here", 10), 10);
    fake_step(r.fake);
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 1);
    rig_stop(&r);
}

Test(traffic, an_impossible_head_ends_the_session) {
    struct rig r = rig_start(&by_hand);
    struct usher_event ev;
    cr_assert_eq(rig_send(r.sock, "x", 1), 1);
    fake_set(r.fake, 0)->sq[0].sq_head = 1000;
    for (int i = 0; i < 40; i++)
        rig_send(r.sock, "x", 1);
    cr_assert_eq(usher_poll(r.ctx, &ev, 1), 1);
    cr_assert_eq(ev.type, USHER_EV_DOWN);
    rig_stop(&r);
}

Test(traffic, loss_is_loss) {
    const struct fake_config c = {.wire_order_lossy = true};
    struct rig r = rig_start(&c);
    char buf[8];
    int got = 0;
    for (int i = 0; i < 30; i++) {
        cr_assert_eq(rig_send(r.sock, "x", 1), 1);
        got += usher_recvfrom(r.sock, buf, sizeof(buf), NULL, NULL, 20000000) == 1;
    }
    cr_assert_eq(got, 20);
    rig_stop(&r);
}
