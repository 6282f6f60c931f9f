/* SPDX-License-Identifier: Apache-2.0
 *
 * Passive opens: accept queue, half-open limits, SYN cookies, fast open, deferred accept, groups, TIME-WAIT and its
 * reuse, ports for outgoing connections, commands with bad arguments. Virtual time.
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
#define ACK 0x10

enum counter {
#define TCP_COUNTER(name, text, help) COUNT_##name,
#include "engines/tcp/tcp_counters.def"
#undef TCP_COUNTER
};

static struct link *make(const struct tcp_config *cfg) {
    struct link *l = link_create(5, cfg, cfg);
    l->faults[0].delay = l->faults[1].delay = MS;
    return l;
}

Test(tcp_syn, flood_leaves_the_established_alone) {
    struct link *l = make(NULL);
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + SEC);
    for (uint32_t i = 0; i < 5000; i++) {
        struct link_segment s = {
            .sport = (uint16_t)(1024 + i), .dport = 80, .seq = i * 7919, .flags = SYN, .wnd = 1000};
        link_inject(l, 1, &s);
    }
    cr_assert_leq(link_stats(l, 1).half_open, 64u);
    cr_assert_gt(l->host[1].counters[COUNT_COOKIE_SENT], 4000u);
    l->host[0].socks[0].tx_total = 100000;
    ns_t start = l->now;
    l->faults[1].drop_ppm = 0;
    while (l->host[1].socks[0].rx_bytes < 100000 && l->now - start < 10 * SEC)
        link_step_time(l, l->now + 10 * MS);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 100000u);
    cr_assert_leq(l->now - start, 500 * MS);
    (void)link_connect(l, 0, 80, 5000, NULL); /* and newcomers get in by cookie */
    link_step_time(l, l->now + 5 * SEC);
    cr_assert_eq(l->host[0].socks[1].error, 0);
    cr_assert_eq(l->host[1].socks[1].rx_bytes, 5000u);
    link_step_time(l, l->now + 200 * SEC);
    cr_assert_eq(link_stats(l, 1).half_open, 0u);
    link_destroy(l);
}

/* How long an established connection takes for a megabyte while `syns` new ones a millisecond knock. */
static ns_t megabyte_beside(uint32_t syns) {
    struct link *l = make(NULL);
    uint32_t n = 0;
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + SEC);
    l->host[0].socks[0].tx_total = 1 << 20;
    ns_t start = l->now;
    while (l->host[1].socks[0].rx_bytes < 1 << 20 && l->now - start < 10 * SEC) {
        for (uint32_t i = 0; i < syns; i++, n++) {
            const struct link_segment s = {
                .sport = (uint16_t)(1024 + n % 30000), .dport = 80, .seq = n * 7919, .flags = SYN, .wnd = 1000};
            link_inject(l, 1, &s);
        }
        link_step_time(l, l->now + MS);
    }
    ns_t took = l->now - start;
    link_destroy(l);
    return took;
}

Test(tcp_syn, flood_costs_the_established_no_throughput) {
    ns_t quiet = megabyte_beside(0), flooded = megabyte_beside(100);
    cr_assert_leq(flooded, quiet + quiet / 100, "%lu ns beside a flood, %lu without", flooded, quiet);
}

Test(tcp_syn, cookies_carry_the_options) {
    for (uint32_t flags = 0; flags < 8; flags++) {
        struct tcp_config cfg = {.flags = TCP_CONFIG_COOKIES_ALWAYS | flags};
        struct link_faults f = {.delay = MS, .drop_ppm = 5000};
        struct link *l = link_stream(flags + 1, &cfg, &f, 200000, 100000);
        link_step_time(l, l->now + 5 * MS);
        cr_assert(link_run(l, l->now + 1000 * SEC, link_all_closed));
        cr_assert_null(link_stream_wrong(l, 200000, 100000));
        cr_assert_geq(l->host[1].counters[COUNT_COOKIE_OK], 1u);
        cr_assert_eq(link_stats(l, 1).half_open, 0u);
        link_destroy(l);
    }
}

Test(tcp_syn, forged_and_old_cookies_are_refused) {
    struct tcp_config cfg = {.flags = TCP_CONFIG_COOKIES_ALWAYS};
    struct link *l = make(&cfg);
    (void)link_listen(l, 1, 80, NULL);
    struct link_segment s = {.sport = 5000, .dport = 80, .seq = 100, .flags = SYN, .wnd = 1000};
    link_inject(l, 1, &s);
    uint32_t iss = link_last[1].seq;
    for (uint32_t i = 1; i < 2000; i++) {
        struct link_segment a = {.sport = 5000, .dport = 80, .seq = 101, .ack = iss + 1 + i, .flags = ACK, .wnd = 1000};
        link_inject(l, 1, &a);
    }
    cr_assert_eq(l->host[1].accepts, 0u);
    cr_assert_eq(l->host[1].counters[COUNT_COOKIE_BAD], 1999u);
    cr_assert_eq(link_last[1].flags, RST);
    uint32_t sent = link_last[1].count;
    struct link_segment later = {.sport = 5000, .dport = 80, .seq = 601, .ack = iss + 1, .flags = ACK, .wnd = 1000};
    later.data = "overtook the cookie";
    later.len = 10;
    link_inject(l, 1, &later);
    cr_assert_eq(link_last[1].count, sent); /* no reset: what carries the cookie will come again */
    struct link_segment good = {.sport = 5000, .dport = 80, .seq = 101, .ack = iss + 1, .flags = ACK, .wnd = 1000};
    link_step_time(l, l->now + 139 * SEC);
    link_inject(l, 1, &good);
    cr_assert_eq(l->host[1].accepts, 0u, "two minutes old");
    s.sport = 5001;
    link_inject(l, 1, &s);
    good.sport = 5001;
    good.ack = link_last[1].seq + 1;
    link_inject(l, 1, &good);
    cr_assert_eq(l->host[1].accepts, 1u);
    link_destroy(l);
}

Test(tcp_syn, full_accept_queue_holds_newcomers_back) {
    struct tcp_cmd_listen listen = {.backlog = 3};
    struct link *l = make(NULL);
    l->host[1].refuse_adopt = true;
    (void)link_listen(l, 1, 80, &listen);
    for (uint32_t i = 0; i < 6; i++)
        (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + 500 * MS);
    cr_assert_eq(l->host[1].accepts, 3u);
    cr_assert_gt(l->host[1].counters[COUNT_ACCEPT_FULL], 0u);
    link_destroy(l);
}

Test(tcp_syn, data_waits_for_adoption) {
    struct link *l = make(NULL);
    struct notice notices[8];
    (void)notices;
    l->host[1].refuse_adopt = true;
    uint32_t listener = link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 3000, NULL);
    link_step_time(l, l->now + 100 * MS);
    cr_assert_eq(link_stats(l, 1).connections, 1u);
    cr_assert_gt(link_stats(l, 1).ooo_packets, 0u);
    struct tcp_cmd_close c = {.cmd = {TCP_CMD_CLOSE, sizeof c}, .sock = listener};
    cr_assert_eq(link_command(l, 1, &c).error, 0);
    cr_assert_eq(link_stats(l, 1).connections, 0u);
    link_step_time(l, l->now + 100 * MS);
    cr_assert_eq(l->host[0].socks[0].error, ECONNRESET);
    cr_assert(link_pools_whole(l));
    link_destroy(l);
}

Test(tcp_syn, lost_segments_of_the_handshake) {
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct link_faults f = {.delay = 5 * MS, .drop_ppm = 300000};
        struct link *l = link_stream(seed, NULL, &f, 100, 100);
        cr_assert(link_run(l, l->now + 3000 * SEC, link_all_closed), "seed %lu", seed);
        if (l->host[0].socks[0].error == 0)
            cr_assert_eq(l->host[1].socks[0].rx_bytes, 100u);
        link_destroy(l);
    }
}

Test(tcp_syn, deferred_accept_waits_for_data) {
    struct tcp_cmd_listen listen = {.backlog = 4, .defer_accept_s = 10};
    struct link *l = make(NULL);
    (void)link_listen(l, 1, 80, &listen);
    (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + 3 * SEC);
    cr_assert(l->host[0].socks[0].connected);
    cr_assert_eq(l->host[1].accepts, 0u);
    l->host[0].socks[0].tx_total = 100;
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[1].accepts, 1u);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 100u);
    link_destroy(l);
}

/* ---- fast open ---- */

static struct link *fastopen_pair(void) {
    struct tcp_cmd_listen listen = {.backlog = 8, .fastopen = 8};
    struct tcp_cmd_connect c = {.fastopen = true};
    struct link *l = make(NULL);
    l->host[1].accept_as.tx_total = 50;
    (void)link_listen(l, 1, 80, &listen);
    (void)link_connect(l, 0, 80, 200, &c); /* asks for a cookie */
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[1].socks[0].rx_bytes, 200u);
    cr_assert_eq(l->host[1].counters[COUNT_FASTOPEN], 0u);
    return l;
}

Test(tcp_syn, fastopen_sends_with_the_syn) {
    struct link *l = fastopen_pair();
    struct tcp_cmd_connect c = {.fastopen = true};
    uint32_t s = link_connect(l, 0, 80, 200, &c);
    ns_t start = l->now;
    while (l->host[0].socks[s].rx_bytes < 50 && l->now - start < SEC)
        link_step_time(l, l->now + MS / 4);
    cr_assert_eq(l->host[1].counters[COUNT_FASTOPEN], 1u);
    cr_assert_eq(l->host[1].socks[1].rx_bytes, 200u);
    cr_assert_leq(l->now - start, 3 * MS, "the answer came after %lu us", (l->now - start) / 1000);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[0].socks[s].tx_done, 200u);
    cr_assert_eq(l->host[0].counters[COUNT_RETRANS], 0u);
    link_destroy(l);
}

static bool drop_syn_data(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    (void)l;
    (void)arg;
    return !(from == 0 && (p->data[13] & SYN) && pkt_bytes(p) > (p->data[12] >> 4) * 4u);
}

Test(tcp_syn, fastopen_falls_back) {
    struct link *l = fastopen_pair();
    struct tcp_cmd_connect c = {.fastopen = true};
    l->filter = drop_syn_data; /* a middlebox that eats SYNs with data */
    uint32_t s = link_connect(l, 0, 80, 200, &c);
    link_step_time(l, l->now + 5 * SEC);
    cr_assert_eq(l->host[1].socks[1].rx_bytes, 200u);
    cr_assert_eq(l->host[0].socks[s].rx_bytes, 50u);
    link_destroy(l);
    l = fastopen_pair();
    struct tcp_cmd_option off = {.cmd = {TCP_CMD_OPTION, sizeof off}, .sock = TCP_SOCK_LISTENER};
    off.option = TCP_OPT_FASTOPEN; /* the server stops to offer it: the cookie is worth nothing */
    cr_assert_eq(link_command(l, 1, &off).error, 0);
    s = link_connect(l, 0, 80, 200, &c);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(l->host[1].socks[1].rx_bytes, 200u);
    cr_assert_eq(l->host[0].socks[s].tx_done, 200u);
    link_destroy(l);
}

/* ---- listeners, groups ---- */

Test(tcp_syn, a_listeners_options_can_change) {
    static const struct {
        uint32_t option;
        int64_t good, bad;
    } cases[] = {
        {TCP_OPT_NODELAY, 1, 2},
        {TCP_OPT_CORK, 1, -1},
        {TCP_OPT_QUICKACK, 1, 2},
        {TCP_OPT_KEEPALIVE, 1, 2},
        {TCP_OPT_KEEP_IDLE, 32767, 0},
        {TCP_OPT_KEEP_INTERVAL, 1, 32768},
        {TCP_OPT_KEEP_COUNT, 127, 128},
        {TCP_OPT_USER_TIMEOUT, 1000, -1},
        {TCP_OPT_MAXSEG, 600, 87},
        {TCP_OPT_RCVBUF, 9999, -1},
        {TCP_OPT_SNDBUF, 9999, 1 << 31},
        {TCP_OPT_TOS, 255, 256},
        {TCP_OPT_TTL, 255, 256},
        {TCP_OPT_NOTSENT_LOWAT, 1, -1},
        {TCP_OPT_MAX_PACING, 1 << 30, INT64_C(1) << 40},
        {TCP_OPT_RETRIES, 127, 0},
        {TCP_OPT_DEFER_ACCEPT, 1, -1},
        {TCP_OPT_FASTOPEN, 1, -1},
    };
    struct link *l = fastopen_pair();
    struct tcp_cmd_option o = {.cmd = {TCP_CMD_OPTION, sizeof o}, .sock = TCP_SOCK_LISTENER};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        o.option = cases[i].option;
        o.value = cases[i].bad;
        cr_assert_eq(link_command(l, 1, &o).error, -EINVAL, "%zu", i);
        o.value = cases[i].good;
        cr_assert_eq(link_command(l, 1, &o).error, 0, "%zu", i);
    }
    o.option = TCP_OPT_LINGER2;
    cr_assert_eq(link_command(l, 1, &o).error, -ENOPROTOOPT, "of connections only");
    o.option = 99;
    cr_assert_eq(link_command(l, 1, &o).error, -ENOPROTOOPT);
    link_destroy(l);
}

Test(tcp_syn, groups_share_and_addresses_conflict) {
    struct link *l = make(NULL);
    struct tcp_cmd_listen c = {.cmd = {TCP_CMD_LISTEN, sizeof c}, .sink = 1ull << 56 | 0xffff, .backlog = 100};
    c.flow.local_port = 80;
    c.reuseport = true;
    cr_assert_eq(link_command(l, 1, &c).error, 0);
    c.sink++;
    cr_assert_eq(link_command(l, 1, &c).error, 0);
    c.reuseport = false;
    cr_assert_eq(link_command(l, 1, &c).error, -EADDRINUSE);
    c.flow.local_port = 0;
    cr_assert_eq(link_command(l, 1, &c).error, -EINVAL);
    for (uint32_t i = 0; i < 40; i++)
        (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + SEC);
    struct tcp_conn_info info;
    struct tcp_cmd_info q = {.cmd = {TCP_CMD_INFO, sizeof q}, .info = &info};
    uint32_t seen = 0;
    for (q.each = true;; q.sock++) {
        struct engine_reply r = link_command(l, 1, &q);
        if (r.error == -ENOENT)
            break;
        q.sock = r.value;
        seen += info.state == TCP_STATE_LISTEN;
    }
    cr_assert_eq(seen, 2u);
    cr_assert_eq(l->host[1].accepts, 40u);
    link_destroy(l);
}

/* ---- TIME-WAIT, ports ---- */

static void open_and_close(struct link *l, uint16_t port) {
    struct tcp_cmd_connect c = {.flow.local_port = port};
    uint32_t s = link_connect(l, 0, 80, 100, &c);
    cr_assert_eq(l->host[0].socks[s].error, 0);
    l->host[0].socks[s].close_when_done = true;
    l->host[1].accept_as.close_when_done = true;
    cr_assert(link_run(l, l->now + 10 * SEC, link_all_closed));
    for (uint32_t h = 0; h < 2; h++)
        memset(l->host[h].socks, 0, sizeof l->host[h].socks);
}

Test(tcp_syn, port_is_used_again_early_with_timestamps) {
    struct link *l = make(NULL);
    (void)link_listen(l, 1, 80, NULL);
    open_and_close(l, 5555);
    cr_assert_eq(link_stats(l, 0).time_wait, 1u);
    struct tcp_cmd_connect c = {.flow.local_port = 5555};
    uint32_t s = link_connect(l, 0, 80, 0, &c);
    cr_assert_eq(l->host[0].socks[s].error, EADDRINUSE); /* not within a second */
    l->host[0].socks[s].used = false;
    link_step_time(l, l->now + 1100 * MS);
    open_and_close(l, 5555);
    link_destroy(l);
}

/* Both ends here: short connections to one server must not run out of ports for a second. */
Test(tcp_syn, port_is_used_again_at_once_on_one_host) {
    struct link *l = make(NULL);
    (void)link_listen(l, 1, 80, NULL);
    l->local = true;
    open_and_close(l, 5555);
    cr_assert_eq(link_stats(l, 0).time_wait, 1u);
    link_step_time(l, l->now + 3 * MS);
    open_and_close(l, 5555);
    cr_assert_eq(link_stats(l, 0).time_wait, 1u);
    link_destroy(l);
}

Test(tcp_syn, server_in_time_wait_takes_a_new_syn) {
    struct link *l = make(NULL);
    (void)link_listen(l, 1, 80, NULL);
    struct link_segment s = {.sport = 6000, .dport = 80, .seq = 1000, .flags = SYN, .wnd = 60000};
    link_inject(l, 1, &s);
    uint32_t iss = link_last[1].seq;
    s = (struct link_segment){.sport = 6000, .dport = 80, .seq = 1001, .ack = iss + 1, .flags = ACK, .wnd = 60000};
    link_inject(l, 1, &s);
    link_close(l, 1, 0, false); /* the server closes first: TIME-WAIT is its */
    s.ack = iss + 2;
    s.flags = FIN | ACK;
    link_inject(l, 1, &s);
    link_step_time(l, l->now + MS);
    cr_assert_eq(link_stats(l, 1).time_wait, 1u);
    link_inject(l, 1, &s); /* the FIN again: acknowledged again */
    cr_assert_eq(link_last[1].ack, 1002u);
    s.flags = RST | ACK;
    s.seq = 1002;
    link_inject(l, 1, &s); /* RFC 1337: does not end it */
    cr_assert_eq(link_stats(l, 1).time_wait, 1u);
    struct link_segment old = {.sport = 6000, .dport = 80, .seq = 900, .flags = SYN, .wnd = 60000};
    link_inject(l, 1, &old);
    cr_assert_eq(link_stats(l, 1).time_wait, 1u);
    struct link_segment fresh = {.sport = 6000, .dport = 80, .seq = 5000, .flags = SYN, .wnd = 60000};
    link_inject(l, 1, &fresh);
    cr_assert_eq(link_stats(l, 1).time_wait, 0u);
    cr_assert_eq(link_last[1].flags, SYN | ACK);
    cr_assert_gt((int32_t)(link_last[1].seq - iss), 65535);
    link_destroy(l);
}

Test(tcp_syn, time_wait_table_evicts_the_oldest) {
    struct tcp_config cfg = {.time_wait_max = 4};
    struct link *l = make(&cfg);
    (void)link_listen(l, 1, 80, NULL);
    for (uint16_t i = 0; i < 10; i++)
        open_and_close(l, (uint16_t)(7000 + i));
    cr_assert_eq(link_stats(l, 0).time_wait, 4u);
    cr_assert_eq(l->host[0].counters[COUNT_WAIT_EVICT], 6u);
    link_destroy(l);
}

Test(tcp_syn, ephemeral_ports_run_out_and_differ) {
    struct tcp_config cfg = {.port_low = 40000, .port_high = 40009};
    struct link *l = make(&cfg);
    (void)link_listen(l, 1, 80, NULL);
    uint16_t used[10];
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t s = link_connect(l, 0, 80, 0, NULL);
        used[i] = link_info(l, 0, s).flow.local_port;
        cr_assert(used[i] >= 40000 && used[i] <= 40009);
        for (uint32_t k = 0; k < i; k++)
            cr_assert_neq(used[i], used[k]);
    }
    uint32_t s = link_connect(l, 0, 80, 0, NULL);
    cr_assert_eq(l->host[0].socks[s].error, EADDRNOTAVAIL);
    link_destroy(l);
}

Test(tcp_syn, commands_judge_their_arguments) {
    struct link *l = make(NULL);
    struct engine_cmd small = {TCP_CMD_LISTEN, sizeof small}, unknown = {99, sizeof unknown}, none = {0, 8};
    cr_assert_eq(link_command(l, 0, &small).error, -EINVAL);
    cr_assert_eq(link_command(l, 0, &unknown).error, -ENOTSUP);
    cr_assert_eq(link_command(l, 0, &none).error, -ENOTSUP);
    for (uint32_t id = TCP_CMD_ADOPT; id <= TCP_CMD_INFO; id++) {
        uint8_t buf[256] = {0};
        struct engine_cmd cmd = {id, sizeof buf};
        struct tcp_conn_info info;
        struct tcp_cmd_info *q = (struct tcp_cmd_info *)(void *)buf;
        memcpy(buf, &cmd, sizeof cmd);
        q->sock = 4711;
        if (id == TCP_CMD_INFO)
            q->info = &info;
        cr_assert_eq(link_command(l, 0, buf).error, -ENOENT, "command %u", id);
        q->sock = UINT32_MAX;
        cr_assert_eq(link_command(l, 0, buf).error, -ENOENT, "command %u", id);
    }
    struct tcp_cmd_connect c = {.cmd = {TCP_CMD_CONNECT, sizeof c}, .sink = 1};
    cr_assert_eq(link_command(l, 0, &c).error, -EADDRNOTAVAIL); /* nowhere */
    c.flow.remote_port = 80;
    c.flow.remote = ipaddr_from_v4("\xe0\x00\x00\x01");
    cr_assert_eq(link_command(l, 0, &c).error, -EADDRNOTAVAIL); /* multicast */
    c.flow.remote = ipaddr_from_v4("\x0a\x00\x00\x02");
    memcpy(c.opt.congestion, "vegas", 6);
    cr_assert_eq(link_command(l, 0, &c).error, -EINVAL);
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, 0, NULL);
    link_step_time(l, l->now + SEC);
    cr_assert_eq(link_option(l, 0, 0, 0, 1), -ENOPROTOOPT);
    cr_assert_eq(link_option(l, 0, 0, 999, 1), -ENOPROTOOPT);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_KEEP_IDLE, 0), -EINVAL);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_MAXSEG, 10), -EINVAL);
    cr_assert_eq(link_option(l, 0, 0, TCP_OPT_NODELAY, -1), -EINVAL);
    struct tcp_config bad = {.conn_max = UINT32_MAX};
    extern const struct engine_ops usher_engine_tcp;
    char text[128];
    cr_assert_eq(usher_engine_tcp.state_size(&bad, text, sizeof text), 0u);
    cr_assert_gt(strlen(text), 10u);
    link_destroy(l);
}
