/* SPDX-License-Identifier: Apache-2.0
 *
 * One test for each thing that TCP promises beyond carrying bytes: windows and probes, Nagle and cork, delayed ACKs,
 * keep-alive, timeouts, half close, simultaneous open and close, ECN, pacing. Virtual time.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/tcp/testlink.h"
#include "engines/wire.h"

#define SEC NS_PER_SEC
#define MS  NS_PER_MS
#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define PSH 0x08
#define ACK 0x10
#define ECE 0x40

enum counter {
#define TCP_COUNTER(name, text, help) COUNT_##name,
#include "engines/tcp/tcp_counters.def"
#undef TCP_COUNTER
};

/* An open connection, client on host 0, both ends idle. */
static struct link *open_pair(const struct tcp_config *cfg, ns_t delay) {
    struct link *l = link_create(77, cfg, cfg);
    l->faults[0].delay = l->faults[1].delay = delay;
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + SEC);
    cr_assert(l->host[0].socks[0].connected && l->host[1].socks[0].connected);
    return l;
}

static void send_bytes(struct link *l, uint32_t h, uint64_t n) {
    l->host[h].socks[0].tx_total += n;
    link_pump(l, h);
}

static bool blocked(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    (void)l;
    (void)p;
    return from != *(uint32_t *)arg;
}

static void cut_off(struct link *l, uint32_t *host) {
    l->filter = blocked;
    l->filter_arg = host;
}

/* ---- on one host ---- */

struct turns {
    ns_t now;
    uint64_t bytes, most;
};

static bool count_turn(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    struct turns *t = arg;
    if (from != 0)
        return true;
    t->bytes = t->now == l->now ? t->bytes + pkt_bytes(p) : pkt_bytes(p);
    t->now = l->now;
    t->most = t->bytes > t->most ? t->bytes : t->most;
    return true;
}

/* Without a wire between the ends a window's worth would go in one turn, and whoever else has work would wait. */
static void bulk_leaves_the_turn(uint16_t mtu) {
    struct turns t = {0};
    struct link *l = link_create(1, NULL, NULL);
    const struct tcp_cmd_connect nodelay = {.opt.nodelay = true};
    l->local = true;
    l->mtu = mtu;
    l->filter = count_turn;
    l->filter_arg = &t;
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 8 << 20, &nodelay);
    link_step_time(l, l->now + 10 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, (uint64_t)8 << 20);
    cr_assert_leq(t.most, 128u << 10, "%lu bytes in one turn, mtu %u", t.most, mtu);
    link_destroy(l);
}

Test(tcp_feature, bulk_to_this_host_leaves_the_turn_to_others) {
    bulk_leaves_the_turn(1500);
}

Test(tcp_feature, bulk_in_large_segments_leaves_the_turn_to_others) {
    bulk_leaves_the_turn(UINT16_MAX); /* as ip says of routes within the host */
}

/* ---- flow control ---- */

Test(tcp_feature, zero_window_is_probed_and_opens) {
    struct link *l = open_pair(NULL, MS);
    l->host[1].socks[0].no_read = true;
    send_bytes(l, 0, 1 << 20);
    link_step_time(l, l->now + 3600 * SEC);
    struct tcp_conn_info server = link_info(l, 1, 0);
    cr_assert_eq(server.rcv_wnd, 0u);
    cr_assert_geq(l->host[1].socks[0].rx_bytes, server.rcv_limit);
    cr_assert_leq(l->host[1].socks[0].rx_bytes, server.rcv_limit + 4096); /* scale rounds a promise up, never back */
    uint64_t probes = l->host[0].counters[COUNT_PERSIST];
    cr_assert(probes >= 20 && probes < 60, "%lu probes in an hour", probes);
    cr_assert_not(l->host[0].socks[0].closed); /* MUST-37: as long as it answers */
    l->host[1].socks[0].no_read = false;
    link_step_time(l, l->now + 10 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, (uint64_t)1 << 20);
    link_destroy(l);
}

Test(tcp_feature, lost_window_update_does_not_hang) {
    struct link *l = open_pair(NULL, MS);
    uint32_t server = 1;
    l->host[1].socks[0].no_read = true;
    send_bytes(l, 0, 1 << 20);
    link_step_time(l, l->now + 10 * SEC);
    cut_off(l, &server);
    l->host[1].socks[0].no_read = false;
    link_step_time(l, l->now + SEC);
    l->filter = NULL;
    link_step_time(l, l->now + 200 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, (uint64_t)1 << 20);
    link_destroy(l);
}

Test(tcp_feature, slow_reader_gets_no_silly_segments) {
    struct link *l = open_pair(NULL, MS);
    l->host[1].socks[0].read_rate = 50; /* 50 bytes a ms: far less than a segment a round trip */
    l->host[1].socks[0].rx_credited = (l->now / MS) * 50;
    l->host[1].socks[0].rx_bytes = l->host[1].socks[0].rx_credited; /* counting from now */
    l->host[1].socks[0].rx_expect_key = 0;
    send_bytes(l, 0, 400000);
    uint32_t before = l->host[0].tx_packets;
    link_step_time(l, l->now + 30 * SEC);
    uint32_t segments = l->host[0].tx_packets - before;
    cr_assert_lt(segments, 1200u, "%u segments for 400 KB", segments);
    link_destroy(l);
}

Test(tcp_feature, receive_window_grows_with_the_path) {
    struct link_faults f = {.delay = 25 * MS, .rate_bps = 200000000, .queue_bytes = 4 << 20};
    struct link *l = link_stream(3, NULL, &f, 30 << 20, 0);
    link_step_time(l, l->now + 1500 * MS);
    cr_assert_gt(link_info(l, 1, 0).rcv_limit, 2u << 20);
    cr_assert(link_run(l, l->now + 100 * SEC, link_all_closed));
    cr_assert_null(link_stream_wrong(l, 30 << 20, 0));
    link_destroy(l);
}

Test(tcp_feature, fixed_receive_buffer_stays) {
    struct tcp_cmd_listen listen = {.backlog = 4, .opt.rcvbuf = 20000};
    struct link *l = link_create(5, NULL, NULL);
    l->faults[0].delay = l->faults[1].delay = 10 * MS;
    (void)link_listen(l, 1, 80, &listen);
    (void)link_connect(l, 0, 80, 500000, NULL);
    link_step_time(l, l->now + 20 * SEC);
    cr_assert_eq(link_info(l, 1, 0).rcv_limit, 20000u);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 500000u);
    link_destroy(l);
}

/* ---- small segments ---- */

static uint32_t packets_for(struct link *l, uint32_t sends, uint32_t size) {
    uint32_t before = l->host[0].tx_packets;
    l->host[0].socks[0].chunk = size;
    for (uint32_t i = 0; i < sends; i++)
        send_bytes(l, 0, size);
    link_step_time(l, l->now + 2 * SEC);
    return l->host[0].tx_packets - before;
}

Test(tcp_feature, nagle_gathers_nodelay_does_not) {
    struct link *l = open_pair(NULL, 10 * MS);
    uint32_t nagle = packets_for(l, 20, 10);
    cr_assert_leq(nagle, 4u, "%u", nagle);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_NODELAY, 1), 0);
    uint32_t nodelay = packets_for(l, 20, 10);
    cr_assert_geq(nodelay, 20u, "%u", nodelay);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 400u);
    link_destroy(l);
}

Test(tcp_feature, cork_holds_until_taken_off_or_200_ms) {
    struct link *l = open_pair(NULL, MS);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_CORK, 1), 0);
    send_bytes(l, 0, 100);
    link_step_time(l, l->now + 100 * MS);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 0u);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_CORK, 0), 0);
    link_step_time(l, l->now + 10 * MS);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 100u);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_CORK, 1), 0);
    send_bytes(l, 0, 100);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 200u);
    link_destroy(l);
}

Test(tcp_feature, delayed_ack_waits_for_the_answer) {
    struct link *l = open_pair(NULL, MS);
    uint64_t acks = l->host[1].counters[COUNT_TX_ACK];
    send_bytes(l, 0, 64);
    link_step_time(l, l->now + 20 * MS);
    cr_assert_eq(l->host[1].counters[COUNT_TX_ACK], acks);
    send_bytes(l, 1, 64); /* the answer carries it */
    link_step_time(l, l->now + 20 * MS);
    cr_assert_eq(l->host[1].counters[COUNT_TX_ACK], acks);
    send_bytes(l, 0, 64); /* no answer: within 500 ms (RFC 9293 MUST-40) */
    link_step_time(l, l->now + 100 * MS);
    cr_assert_eq(l->host[1].counters[COUNT_TX_ACK], acks + 1);
    cr_assert_eq(link_option(l, 1, 0, TCP_OPT_QUICKACK, 1), 0);
    send_bytes(l, 0, 64);
    link_step_time(l, l->now + 5 * MS);
    cr_assert_eq(l->host[1].counters[COUNT_TX_ACK], acks + 2);
    link_destroy(l);
}

Test(tcp_feature, burst_is_acknowledged_once) {
    struct link *l = open_pair(NULL, MS);
    link_step_time(l, l->now + SEC);
    uint64_t acks = l->host[1].counters[COUNT_TX_ACK];
    send_bytes(l, 0, 10 * 1448); /* the initial window in one burst */
    link_step_time(l, l->now + 10 * MS);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 14480u);
    cr_assert_leq(l->host[1].counters[COUNT_TX_ACK] - acks, 2u);
    link_destroy(l);
}

/* ---- closing ---- */

Test(tcp_feature, half_close_still_receives) {
    struct link *l = open_pair(NULL, MS);
    link_shutdown(l, 0, 0);
    link_step_time(l, l->now + SEC);
    cr_assert(l->host[1].socks[0].hung_up);
    cr_assert_eq(link_info(l, 0, 0).state, TCP_STATE_FIN_WAIT_2);
    cr_assert_eq(link_info(l, 1, 0).state, TCP_STATE_CLOSE_WAIT);
    send_bytes(l, 1, 50000);
    link_step_time(l, l->now + 100 * SEC); /* not an orphan: FIN-WAIT-2 has no end */
    cr_assert_eq(l->host[0].socks[0].rx_bytes, 50000u);
    link_shutdown(l, 1, 0);
    link_step_time(l, l->now + SEC);
    cr_assert(l->host[0].socks[0].closed && l->host[1].socks[0].closed);
    cr_assert_eq(link_stats(l, 0).time_wait, 1u);
    link_step_time(l, l->now + 61 * SEC);
    cr_assert_eq(link_stats(l, 0).time_wait, 0u);
    link_destroy(l);
}

Test(tcp_feature, both_close_at_once) {
    struct link *l = open_pair(NULL, 10 * MS);
    link_shutdown(l, 0, 0);
    link_shutdown(l, 1, 0);
    link_step_time(l, l->now + 15 * MS);
    cr_assert_eq(link_info(l, 0, 0).state, TCP_STATE_CLOSING);
    link_step_time(l, l->now + SEC);
    cr_assert(l->host[0].socks[0].closed && l->host[1].socks[0].closed);
    cr_assert(l->host[0].socks[0].hung_up && l->host[1].socks[0].hung_up);
    cr_assert_eq(link_stats(l, 0).time_wait + link_stats(l, 1).time_wait, 2u);
    link_destroy(l);
}

Test(tcp_feature, both_open_at_once) {
    struct link *l = link_create(4, NULL, NULL);
    l->faults[0].delay = l->faults[1].delay = 10 * MS;
    struct tcp_cmd_connect c = {.flow.local_port = 1000};
    (void)link_connect(l, 0, 2000, 5000, &c);
    c.flow.local_port = 2000;
    (void)link_connect(l, 1, 1000, 7000, &c);
    l->host[0].socks[0].rx_expect_key = l->host[1].socks[0].rx_expect_key = 0xc11e;
    link_step_time(l, l->now + SEC);
    cr_assert(l->host[0].socks[0].connected && l->host[1].socks[0].connected);
    cr_assert_eq(l->host[0].socks[0].rx_bytes, 7000u);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 5000u);
    cr_assert_eq(l->host[0].socks[0].rx_corrupt + l->host[1].socks[0].rx_corrupt, 0u);
    link_destroy(l);
}

Test(tcp_feature, abort_resets_the_peer) {
    struct link *l = open_pair(NULL, MS);
    link_close(l, 0, 0, true);
    cr_assert(l->host[0].socks[0].closed);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[1].socks[0].error, ECONNRESET);
    cr_assert(l->host[1].socks[0].closed);
    link_destroy(l);
}

Test(tcp_feature, data_after_close_is_refused) {
    struct link *l = open_pair(NULL, MS);
    link_close(l, 0, 0, false);
    link_step_time(l, l->now + 100 * MS);
    send_bytes(l, 1, 100);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[0].counters[COUNT_AFTER_CLOSE], 1u);
    cr_assert_eq(l->host[1].socks[0].error, EPIPE);
    link_destroy(l);
}

Test(tcp_feature, orphan_leaves_fin_wait_2) {
    struct link *l = open_pair(NULL, MS);
    link_close(l, 0, 0, false);
    link_step_time(l, l->now + 50 * SEC);
    cr_assert_eq(link_stats(l, 0).connections, 1u);
    link_step_time(l, l->now + 20 * SEC);
    cr_assert_eq(link_stats(l, 0).connections, 0u);
    cr_assert(l->host[0].socks[0].closed);
    link_destroy(l);
}

Test(tcp_feature, close_sends_what_is_queued) {
    struct link *l = open_pair(NULL, 5 * MS);
    send_bytes(l, 0, 300000);
    link_close(l, 0, 0, false);
    link_step_time(l, l->now + 10 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, l->host[0].socks[0].tx_queued);
    cr_assert(l->host[1].socks[0].hung_up);
    link_destroy(l);
}

/* ---- silence ---- */

Test(tcp_feature, connect_to_nobody_times_out) {
    struct link *l = link_create(5, NULL, NULL);
    uint32_t client = 0;
    cut_off(l, &client);
    (void)link_connect(l, 0, 80, 0, NULL);
    ns_t start = l->now;
    (void)link_run(l, l->now + 1000 * SEC, link_all_closed);
    cr_assert_eq(l->host[0].socks[0].error, ETIMEDOUT);
    cr_assert_geq(l->now - start, 180 * SEC); /* RFC 9293 MUST-23 */
    cr_assert_eq(l->host[0].counters[COUNT_RETRANS], 7u);
    link_destroy(l);
}

Test(tcp_feature, connect_to_a_closed_port_is_refused) {
    struct link *l = link_create(5, NULL, NULL);
    (void)link_connect(l, 0, 81, 0, NULL);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[0].socks[0].error, ECONNREFUSED);
    cr_assert(l->host[0].socks[0].closed);
    link_destroy(l);
}

Test(tcp_feature, silent_peer_is_given_up) {
    struct link *l = open_pair(NULL, MS);
    uint32_t client = 0;
    cut_off(l, &client);
    send_bytes(l, 0, 1000);
    ns_t start = l->now;
    (void)link_run(l, l->now + 2000 * SEC, link_all_closed);
    cr_assert_eq(l->host[0].socks[0].error, ETIMEDOUT);
    cr_assert_geq(l->now - start, 100 * SEC); /* RFC 9293 SHLD-11 */
    link_destroy(l);
}

Test(tcp_feature, what_a_program_left_behind_ends) {
    struct link *l = open_pair(NULL, MS);
    l->host[1].socks[0].no_read = true;
    send_bytes(l, 0, 1 << 20);
    link_step_time(l, l->now + SEC);
    link_close(l, 0, 0, false); /* queued data, and a reader that never reads */
    link_step_time(l, l->now + 60 * SEC);
    cr_assert_not(l->host[0].socks[0].closed);
    link_step_time(l, l->now + 240 * SEC);
    cr_assert(l->host[0].socks[0].closed);
    cr_assert_eq(l->host[1].socks[0].error, ECONNRESET);
    link_destroy(l);
}

Test(tcp_feature, keepalive_from_birth) {
    struct tcp_cmd_listen listen = {.backlog = 4, .opt = {.keepalive = true, .keep_idle = 5, .keep_count = 2}};
    struct link *l = link_create(5, NULL, NULL);
    uint32_t server = 1;
    listen.opt.keep_interval = 1;
    (void)link_listen(l, 1, 80, &listen);
    (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + 20 * SEC);
    cr_assert_geq(l->host[1].counters[COUNT_KEEPALIVE], 2u);
    cut_off(l, &server);
    link_step_time(l, l->now + 20 * SEC);
    cr_assert(l->host[1].socks[0].closed);
    link_destroy(l);
}

Test(tcp_feature, user_timeout_is_kept) {
    struct link *l = open_pair(NULL, MS);
    uint32_t client = 0;
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_USER_TIMEOUT, 5000), 0);
    cut_off(l, &client);
    send_bytes(l, 0, 1000);
    ns_t start = l->now;
    while (!l->host[0].socks[0].closed && l->now - start < 100 * SEC)
        link_step_time(l, l->now + SEC);
    cr_assert(l->now - start >= 5 * SEC && l->now - start <= 12 * SEC, "after %llu ms",
              (unsigned long long)((l->now - start) / MS));
    cr_assert_eq(l->host[0].socks[0].error, ETIMEDOUT);
    link_destroy(l);
}

Test(tcp_feature, keepalive_finds_the_dead_and_spares_the_living) {
    struct link *l = open_pair(NULL, MS);
    uint32_t client = 0;
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_KEEP_IDLE, 10), 0);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_KEEP_INTERVAL, 2), 0);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_KEEP_COUNT, 3), 0);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_KEEPALIVE, 1), 0);
    link_step_time(l, l->now + 1000 * SEC);
    cr_assert_not(l->host[0].socks[0].closed);
    cr_assert_geq(l->host[0].counters[COUNT_KEEPALIVE], 90u);
    cut_off(l, &client);
    link_step_time(l, l->now + 30 * SEC);
    cr_assert(l->host[0].socks[0].closed);
    cr_assert_eq(l->host[0].socks[0].error, ETIMEDOUT);
    link_destroy(l);
}

/* ---- loss ---- */

static uint32_t drop_nth;
static bool drop_one(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    uint32_t header = (p->data[12] >> 4) * 4u;
    (void)l;
    (void)arg;
    return from != 0 || pkt_bytes(p) == header || drop_nth == 0 || --drop_nth != 0;
}

Test(tcp_feature, tail_loss_is_probed_not_timed_out) {
    struct link *l = open_pair(NULL, 10 * MS);
    send_bytes(l, 0, 1448);
    link_step_time(l, l->now + SEC);
    l->filter = drop_one;
    drop_nth = 1;
    l->host[0].socks[0].chunk = 3 * 1448;
    l->host[0].io.ports = l->host[0].ports;
    send_bytes(l, 0, 3 * 1448);
    ns_t start = l->now;
    while (l->host[1].socks[0].rx_bytes < 4 * 1448 && l->now - start < 5 * SEC)
        link_step_time(l, l->now + MS);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 4 * 1448u);
    cr_assert_leq(l->now - start, 200 * MS);
    cr_assert_eq(l->host[0].counters[COUNT_RTO], 0u);
    link_destroy(l);
}

Test(tcp_feature, spurious_timeout_is_undone) {
    struct link *l = open_pair(NULL, 10 * MS);
    for (uint32_t i = 0; i < 20; i++) {
        send_bytes(l, 0, 14480);
        link_step_time(l, l->now + 100 * MS);
    }
    uint32_t cwnd = link_info(l, 0, 0).cwnd;
    l->faults[0].delay = 900 * MS; /* the path becomes slow all at once */
    send_bytes(l, 0, 14480);
    link_step_time(l, l->now + 5 * SEC);
    cr_assert_geq(l->host[0].counters[COUNT_RTO], 1u);
    cr_assert_geq(l->host[0].counters[COUNT_UNDO], 1u);
    cr_assert_geq(link_info(l, 0, 0).cwnd, cwnd);
    link_destroy(l);
}

static struct link *busy_pair(uint32_t flags) {
    struct tcp_config cfg = {.flags = flags};
    struct link *l = open_pair(&cfg, 10 * MS);
    for (uint32_t i = 0; i < 20; i++) {
        send_bytes(l, 0, 14480);
        link_step_time(l, l->now + 100 * MS);
    }
    return l;
}

/* Without timestamps the second ACK after a timeout tells: it is for what was never repeated. */
static void forward_rto(uint32_t flags) {
    struct link *l = busy_pair(flags | TCP_CONFIG_NO_TIMESTAMPS);
    uint32_t cwnd = link_info(l, 0, 0).cwnd;
    l->faults[0].delay = 300 * MS;    /* longer than the timeout, shorter than two */
    l->faults[0].rate_bps = 50000000; /* not one burst, which one ACK would answer */
    l->faults[0].queue_bytes = 1 << 20;
    send_bytes(l, 0, 4 * (uint64_t)cwnd);
    link_step_time(l, l->now + 500 * MS);
    cr_assert_eq(l->host[0].counters[COUNT_RTO], 1u);
    cr_assert_eq(l->host[0].counters[COUNT_UNDO], 1u);
    cr_assert_eq(l->host[0].counters[COUNT_RETRANS], 1u, "the one that asked");
    cr_assert_geq(link_info(l, 0, 0).cwnd, cwnd);
    link_step_time(l, l->now + 10 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, l->host[0].socks[0].tx_total);
    link_destroy(l);
}

Test(tcp_feature, spurious_timeout_is_found_by_new_data) {
    forward_rto(0);
    forward_rto(TCP_CONFIG_NO_SACK);
}

/* A loss that was one is repeated as ever, and costs what it must. */
Test(tcp_feature, timeout_after_loss_is_not_undone) {
    struct link *l = busy_pair(TCP_CONFIG_NO_TIMESTAMPS);
    uint32_t cwnd = link_info(l, 0, 0).cwnd, host = 0;
    cut_off(l, &host);
    send_bytes(l, 0, 4 * (uint64_t)cwnd);
    link_step_time(l, l->now + 100 * MS);
    l->filter = NULL;
    link_step_time(l, l->now + 10 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, l->host[0].socks[0].tx_total);
    cr_assert_eq(l->host[0].counters[COUNT_RTO], 1u);
    cr_assert_eq(l->host[0].counters[COUNT_UNDO], 0u);
    cr_assert_lt(link_info(l, 0, 0).ssthresh, cwnd);
    link_destroy(l);
}

/* ---- room ---- */

static void room_is_left(struct link *l) {
    const struct link_sock *reader = &l->host[1].socks[0];
    uint64_t held = reader->rx_bytes - reader->rx_credited, all = 100000;
    l->host[1].region.rx_room = held < all ? all - held : 1;
}

/* A session that has little room left promises little to each; one that holds nothing always has a small window. */
Test(tcp_feature, windows_follow_the_sessions_room) {
    struct link *l = link_create(77, NULL, NULL);
    struct link_sock *reader = &l->host[1].socks[0];
    l->faults[0].delay = l->faults[1].delay = MS;
    l->each_step = room_is_left;
    room_is_left(l);
    l->host[1].accept_as.no_read = true;
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 2000000, NULL);
    link_step_time(l, l->now + SEC);
    cr_assert(reader->rx_bytes >= 25000 && reader->rx_bytes < 75000, "%lu bytes", reader->rx_bytes);
    uint64_t held = reader->rx_bytes;
    l->each_step = NULL;
    l->host[1].region.rx_room = 1; /* others fill it up */
    link_step_time(l, l->now + 10 * SEC);
    cr_assert_eq(reader->rx_bytes, held, "nothing more is promised");
    reader->no_read = false;
    link_step_time(l, l->now + 20 * SEC);
    cr_assert_eq(reader->rx_bytes, 2000000u, "a small window is enough to go on");
    cr_assert_eq(reader->rx_corrupt, 0u);
    link_destroy(l);
}

/* Too much waits for the session's reader: what comes is not taken, its sender keeps it and asks now and then. */
Test(tcp_feature, a_full_session_is_given_nothing) {
    struct link *l = link_create(78, NULL, NULL);
    struct link_sock *reader = &l->host[1].socks[0];
    l->faults[0].delay = l->faults[1].delay = MS;
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 3000000, NULL);
    for (uint32_t round = 1; round <= 5; round++) {
        uint64_t before = reader->rx_bytes;
        l->host[1].region.rx_full = false;
        for (ns_t until = l->now + 130 * SEC; reader->rx_bytes < before + 100000 && l->now < until;)
            link_step_time(l, l->now + MS); /* a probe is due at last */
        cr_assert_geq(reader->rx_bytes, before + 100000, "round %u", round);
        before = reader->rx_bytes;
        l->host[1].region.rx_full = true;
        link_step_time(l, l->now + 100 * SEC);
        cr_assert_eq(reader->rx_bytes, before);
        cr_assert_eq(link_last[1].wnd, 0, "its window is closed");
    }
    l->host[1].region.rx_full = false;
    cr_assert_gt(l->host[1].counters[COUNT_REFUSED], 0u);
    link_step_time(l, l->now + 200 * SEC);
    cr_assert_eq(reader->rx_bytes, 3000000u);
    cr_assert_eq(reader->rx_corrupt, 0u);
    link_destroy(l);
}

/* ---- congestion ---- */

Test(tcp_feature, ecn_slows_down_without_loss) {
    struct tcp_config cfg = {.flags = TCP_CONFIG_ECN};
    struct link_faults f = {.delay = 5 * MS, .rate_bps = 50000000, .queue_bytes = 1 << 20, .mark_bytes = 60000};
    struct link *l = link_stream(6, &cfg, &f, 5 << 20, 0);
    cr_assert(link_run(l, l->now + 100 * SEC, link_all_closed));
    cr_assert_null(link_stream_wrong(l, 5 << 20, 0));
    cr_assert_geq(l->host[0].counters[COUNT_ECN_REDUCE], 2u);
    cr_assert_eq(l->host[0].counters[COUNT_RETRANS], 0u);
    link_destroy(l);
}

Test(tcp_feature, dctcp_keeps_the_queue_short) {
    struct tcp_config cfg = {.flags = TCP_CONFIG_ECN, .congestion = "dctcp"};
    struct link_faults f = {.delay = MS, .rate_bps = 100000000, .queue_bytes = 1 << 20, .mark_bytes = 30000};
    struct link *l = link_stream(6, &cfg, &f, 10 << 20, 0);
    ns_t start = l->now;
    cr_assert(link_run(l, l->now + 100 * SEC, link_all_closed));
    cr_assert_null(link_stream_wrong(l, 10 << 20, 0));
    cr_assert_eq(l->host[0].counters[COUNT_RETRANS], 0u);
    cr_assert_leq(l->now - start, 1100 * MS); /* 0.84 s of wire */
    link_destroy(l);
}

Test(tcp_feature, pacing_spreads_and_limits) {
    struct link *l = open_pair(NULL, MS);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_MAX_PACING, 1000000), 0);
    send_bytes(l, 0, 2000000);
    link_step_time(l, l->now + SEC);
    uint64_t got = l->host[1].socks[0].rx_bytes;
    cr_assert(got > 900000 && got < 1050000, "%lu bytes in a second", got);
    link_destroy(l);
}

/* Ticks wrap after 73 minutes: a pace from before a silence of more than half of that looks like one to come. */
Test(tcp_feature, pacing_does_not_block_after_a_long_silence) {
    struct link *l = open_pair(NULL, MS);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_MAX_PACING, 1000000), 0);
    for (uint64_t sent = 10000; sent <= 50000; sent += 10000) {
        send_bytes(l, 0, 10000);
        link_step_time(l, l->now + SEC);
        cr_assert_eq(l->host[1].socks[0].rx_bytes, sent);
        link_step_time(l, l->now + 50 * 60 * SEC);
    }
    link_destroy(l);
}

Test(tcp_feature, super_segments_where_the_port_can) {
    struct link *l = open_pair(NULL, MS);
    l->host[0].ports[0].caps = PORT_CAP_TX_GSO_TCP;
    l->super = true;
    l->host[0].socks[0].chunk = 65536;
    send_bytes(l, 0, 4 << 20);
    link_step_time(l, l->now + 5 * SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 4u << 20);
    cr_assert_eq(l->host[1].socks[0].rx_corrupt, 0u);
    cr_assert_gt(l->host[0].counters[COUNT_TX_GSO], 50u);
    cr_assert_lt(l->host[0].tx_packets, 400u);
    link_destroy(l);
}

Test(tcp_feature, both_ends_on_one_host) {
    struct link *l = link_create(7, NULL, NULL);
    l->local = l->super = true;
    l->mtu = 65535;
    l->host[1].accept_as.tx_total = 1 << 20;
    l->host[1].accept_as.close_when_done = true;
    l->host[1].accept_as.chunk = 65536;
    (void)link_listen(l, 1, 80, NULL);
    uint32_t s = link_connect(l, 0, 80, 4 << 20, NULL);
    l->host[0].socks[s].chunk = 65536;
    l->host[0].socks[s].close_when_done = true;
    cr_assert(link_run(l, l->now + 100 * SEC, link_all_closed));
    cr_assert_null(link_stream_wrong(l, 4 << 20, 1 << 20));
    cr_assert_lt(l->host[0].tx_packets, 300u);
    link_destroy(l);
}

/* Readers that do not read hold at most the budget of all together, and one that reads is served meanwhile. */
Test(tcp_feature, receive_budget_is_shared) {
    struct tcp_config cfg = {.rx_budget = 300000};
    struct link *l = link_create(7, &cfg, &cfg);
    l->faults[0].delay = l->faults[1].delay = MS;
    l->host[1].accept_as.no_read = true;
    (void)link_listen(l, 1, 80, NULL);
    for (uint32_t i = 0; i < 10; i++)
        (void)link_connect(l, 0, 80, 200000, NULL);
    link_step_time(l, l->now + 10 * SEC);
    uint64_t held = 0;
    for (uint32_t i = 0; i < 10; i++)
        held += l->host[1].socks[i].rx_bytes;
    cr_assert_leq(held, 10u * (131072 + 2048), "%lu", held); /* what first windows had promised, and no more */
    l->host[1].accept_as.no_read = false;
    uint32_t s = link_connect(l, 0, 80, 100000, NULL);
    link_step_time(l, l->now + 20 * SEC);
    cr_assert_eq(l->host[1].socks[s].rx_bytes, 100000u);
    for (uint32_t i = 0; i < 10; i++)
        l->host[1].socks[i].no_read = false;
    link_step_time(l, l->now + 200 * SEC);
    for (uint32_t i = 0; i < 10; i++)
        cr_assert_eq(l->host[1].socks[i].rx_bytes, 200000u);
    link_destroy(l);
}

/* ---- crash ---- */

/* The daemon died between the engine's call and the client's ring: what had gone up comes again. */
Test(tcp_feature, sync_goes_back_to_what_the_client_has) {
    struct link *l = open_pair(NULL, MS);
    send_bytes(l, 0, 400);
    link_step_time(l, l->now + 2 * MS);
    struct link_sock *s = &l->host[1].socks[0];
    cr_assert_eq(s->rx_bytes, 400u);
    s->rx_bytes = 150; /* the client has seen only this much; the ACK has not left (it is delayed) */
    s->rx_credited = 150;
    cr_assert_eq(link_crash(l, 1), 0u);
    link_step_time(l, l->now + 2 * SEC);
    cr_assert_eq(s->rx_bytes, 400u);
    cr_assert_eq(s->rx_corrupt, 0u);
    send_bytes(l, 0, 1000);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(s->rx_bytes, 1400u);
    link_destroy(l);
}

/* ---- marks on segments ---- */

static struct {
    uint8_t tos, ttl, flags;
    uint16_t urgent;
} seen;

static bool look(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    (void)l;
    (void)arg;
    if (from == 0) {
        seen.tos = p->tos;
        seen.ttl = p->ttl;
        seen.flags = p->data[13];
        seen.urgent = be16_load(p->data + 18);
    }
    return true;
}

Test(tcp_feature, dscp_and_ttl_reach_the_packets) {
    struct link *l = open_pair(NULL, MS);
    l->filter = look;
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_TOS, 0xb8), 0);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_TTL, 7), 0);
    send_bytes(l, 0, 10);
    cr_assert(seen.tos == 0xb8 && seen.ttl == 7);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_TOS, 0x20), 0); /* it may change on the way */
    link_step_time(l, l->now + SEC);
    send_bytes(l, 0, 10);
    cr_assert_eq(seen.tos, 0x20);
    link_destroy(l);
}

Test(tcp_feature, psh_marks_the_end_of_what_is_queued) {
    struct link *l = open_pair(NULL, MS);
    l->filter = look;
    l->host[0].socks[0].chunk = 5 * 1448;
    send_bytes(l, 0, 5 * 1448);
    cr_assert(seen.flags & PSH);
    cr_assert_eq(link_last[0].len, 1448u);
    link_destroy(l);
}

Test(tcp_feature, urgent_data_is_announced) {
    struct link *l = open_pair(NULL, MS);
    l->filter = look;
    l->host[0].socks[0].urgent_at = 5000;
    send_bytes(l, 0, 10000);
    link_step_time(l, l->now + SEC);
    struct link_sock *s = &l->host[1].socks[0];
    cr_assert_eq(s->rx_bytes, 10000u);
    cr_assert_eq(s->rx_corrupt, 0u);
    cr_assert_eq(s->urgent_end, 5000u);
    cr_assert_eq(s->urgents, 1u);
    cr_assert_not(seen.flags & 0x20); /* it has passed */
    l->host[0].socks[0].urgent_at = 10100;
    send_bytes(l, 0, 100);
    cr_assert(seen.flags & 0x20);
    cr_assert_eq(seen.urgent, 100u);
    link_step_time(l, l->now + SEC);
    cr_assert(s->urgents == 2 && s->urgent_end == 10100);
    link_destroy(l);
}

Test(tcp_feature, icmp_refuses_a_connect) {
    struct link *l = link_create(5, NULL, NULL);
    uint32_t client = 0;
    cut_off(l, &client);
    struct tcp_cmd_connect c = {.flow.local_port = 1234};
    (void)link_connect(l, 0, 80, 0, &c);
    link_inject_icmp(l, 0, 1234, 80, link_last[0].seq, EHOSTUNREACH, 0); /* soft: it goes on trying */
    link_step_time(l, l->now + 10 * SEC);
    cr_assert_not(l->host[0].socks[0].closed);
    link_inject_icmp(l, 0, 1234, 80, link_last[0].seq, ECONNREFUSED, 0);
    link_step_time(l, l->now + MS);
    cr_assert_eq(l->host[0].socks[0].error, ECONNREFUSED);
    link_destroy(l);
}
