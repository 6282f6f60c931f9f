/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole connections between two engines in virtual time: streams in both directions over links of every kind of
 * badness, with every agreement on options, with crashes and upgrades on the way. Every byte is verified.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "engines/tcp/testlink.h"

#define SEC NS_PER_SEC
#define MS  NS_PER_MS

enum counter {
#define TCP_COUNTER(name, text, help) COUNT_##name,
#include "engines/tcp/tcp_counters.def"
#undef TCP_COUNTER
};

static void finish(struct link *l, uint64_t up, uint64_t down, uint64_t seed) {
    bool ended = link_run(l, l->now + 4000 * SEC, link_all_closed);
    const char *wrong = link_stream_wrong(l, up, down);
    cr_assert(ended && wrong == NULL, "seed %lu: %s: %s", seed, ended ? "ended" : "did not end", wrong ? wrong : "");
    struct tcp_stats a = link_stats(l, 0), b = link_stats(l, 1);
    cr_assert_eq(a.connections + b.connections + a.items + b.items + a.segments + b.segments, 0u);
    cr_assert_eq(a.ooo_packets + b.ooo_packets, 0u);
}

Test(tcp_link, opens_sends_closes) {
    struct link_faults f = {.delay = MS};
    struct link *l = link_stream(1, NULL, &f, 1000, 2000);
    finish(l, 1000, 2000, 1);
    link_destroy(l);
}

Test(tcp_link, one_side_says_nothing) {
    struct link_faults f = {.delay = MS};
    struct link *l = link_stream(1, NULL, &f, 100000, 0);
    finish(l, 100000, 0, 1);
    link_destroy(l);
    l = link_stream(2, NULL, &f, 0, 0);
    link_step_time(l, l->now + SEC);
    link_shutdown(l, 0, 0);
    finish(l, 0, 0, 2);
    link_destroy(l);
}

Test(tcp_link, bulk_fills_a_clean_link) {
    struct link_faults f = {.delay = MS, .rate_bps = 1000000000, .queue_bytes = 1 << 20};
    struct link *l = link_stream(2, NULL, &f, 20 << 20, 0);
    l->host[0].socks[0].chunk = 65536;
    ns_t start = l->now;
    finish(l, 20 << 20, 0, 2);
    cr_assert_lt(l->now - start, SEC, "20 MiB at 1 Gbit/s take 0.17 s, it took %llu ms",
                 (unsigned long long)((l->now - start) / MS));
    link_destroy(l);
}

/* Ticks are 32 bits of 1.024 us: hosts that were up for 17, 50 and 72 minutes stand on all sides of their circle. */
Test(tcp_link, only_what_is_lost_is_sent_again) {
    static const ns_t up[] = {1000 * SEC, 3000 * SEC, 4320 * SEC};
    for (uint32_t i = 0; i < ARRAY_LEN(up) * 8; i++) {
        struct link *l = link_create(i + 1, NULL, NULL);
        struct link_faults f = {.delay = MS, .rate_bps = 1000000000, .queue_bytes = 4 << 20};
        struct tcp_cmd_listen listen = {.backlog = 4};
        l->now = up[i / 8];
        l->faults[0] = l->faults[1] = f;
        l->faults[0].drop_ppm = i % 2 ? 20000 : 300;
        l->super = i % 2;
        l->host[0].ports[0].caps = i % 2 ? PORT_CAP_TX_GSO_TCP : 0;
        (void)link_listen(l, 1, 80, &listen);
        (void)link_connect(l, 0, 80, 20 << 20, NULL);
        l->host[0].socks[0].chunk = 65536;
        link_step_time(l, l->now + 20 * SEC);
        cr_assert_eq(l->host[1].socks[0].rx_bytes, 20u << 20);
        uint64_t again = l->host[0].counters[COUNT_RETRANS];
        cr_assert(again > 0 && again < 100, "seed %u: %lu repetitions", i + 1, again);
        link_destroy(l);
    }
}

static struct link_faults bad_link(uint64_t seed) {
    return (struct link_faults){.delay = (seed % 5) * 5 * MS,
                                .jitter = seed % 3 == 0 ? 2 * MS : 0,
                                .drop_ppm = (uint32_t)(seed % 4) * 15000,
                                .duplicate_ppm = seed % 2 ? 5000 : 0,
                                .corrupt_ppm = seed % 3 ? 3000 : 0,
                                .reorder_ppm = (uint32_t)(seed % 6) * 10000,
                                .mark_ppm = seed % 7 == 0 ? 20000 : 0};
}

Test(tcp_link, survives_every_fault) {
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct link_faults f = bad_link(seed);
        struct tcp_config cfg = {.flags = TCP_CONFIG_ECN};
        struct link *l = link_stream(seed, &cfg, &f, 300000, 200000);
        l->super = seed % 2;
        finish(l, 300000, 200000, seed);
        link_destroy(l);
    }
}

/* Every subset of what can be agreed on, with each congestion control, both address families, odd MTUs. */
Test(tcp_link, every_agreement) {
    static const char *const cc[] = {"cubic", "reno", "dctcp", "bbr"};
    static const uint16_t mtus[] = {1500, 1280, 9000, 576};
    for (uint64_t seed = 0; seed < 64; seed++) {
        struct link_faults f = {.delay = 3 * MS, .drop_ppm = 10000, .reorder_ppm = 5000, .mark_ppm = 3000};
        struct tcp_config cfg = {.flags = seed & 15};
        memcpy(cfg.congestion, cc[seed / 16], strlen(cc[seed / 16]));
        struct link *l = link_create(seed + 100, &cfg, &cfg);
        l->faults[0] = l->faults[1] = f;
        l->v6 = seed & 1;
        l->mtu = l->v6 && mtus[seed % 4] == 576 ? 1280 : mtus[seed % 4];
        l->host[1].accept_as.tx_total = 150000;
        l->host[1].accept_as.close_when_done = true;
        (void)link_listen(l, 1, 80, NULL);
        l->host[0].socks[link_connect(l, 0, 80, 250000, NULL)].close_when_done = true;
        finish(l, 250000, 150000, seed);
        link_destroy(l);
    }
}

Test(tcp_link, small_sends_of_every_kind) {
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct link_faults f = {.delay = MS, .drop_ppm = seed % 2 ? 20000 : 0};
        struct link *l = link_stream(seed, NULL, &f, 40000, 0);
        l->host[0].socks[0].chunk = (uint32_t)(1 + seed * 37);
        if (seed % 3 == 0)
            cr_assert_eq(link_option(l, 0, 0, TCP_OPT_NODELAY, 1), 0);
        finish(l, 40000, 0, seed);
        link_destroy(l);
    }
}

Test(tcp_link, many_at_once) {
    struct link_faults f = {.delay = 2 * MS, .drop_ppm = 5000};
    struct link *l = link_create(9, NULL, NULL);
    l->faults[0] = l->faults[1] = f;
    l->host[1].accept_as.tx_total = 30000;
    l->host[1].accept_as.close_when_done = true;
    (void)link_listen(l, 1, 80, NULL);
    for (uint32_t i = 0; i < 40; i++)
        l->host[0].socks[link_connect(l, 0, 80, 20000 + i * 100, NULL)].close_when_done = true;
    cr_assert(link_run(l, l->now + 1000 * SEC, link_all_closed));
    for (uint32_t i = 0; i < 40; i++) {
        cr_assert_eq(l->host[0].socks[i].rx_bytes, 30000u);
        cr_assert_eq(l->host[0].socks[i].rx_corrupt + l->host[1].socks[i].rx_corrupt, 0u);
        cr_assert_eq(l->host[0].socks[i].tx_done, 20000 + i * 100);
    }
    link_destroy(l);
}

Test(tcp_link, same_seed_same_trace) {
    uint64_t trace[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct link_faults f = bad_link(11);
        struct link *l = link_stream(11, NULL, &f, 100000, 100000);
        finish(l, 100000, 100000, 11);
        trace[i] = l->trace;
        link_destroy(l);
    }
    cr_assert_eq(trace[0], trace[1]);
}

/* ---- upgrades and crashes ---- */

static uint32_t every;

static void upgrade_now_and_then(struct link *l) {
    if (l->steps % every == 0)
        link_upgrade(l, (l->steps / every) & 1);
}

static void crash_now_and_then(struct link *l) {
    if (l->steps % every == 0)
        cr_assert_eq(link_crash(l, (l->steps / every) & 1), 0u);
}

/* Without reordering nothing is kept out of order, so an upgrade leaves no trace at all. */
Test(tcp_link, upgrade_leaves_no_trace) {
    for (uint64_t seed = 1; seed <= 8; seed++) {
        uint64_t trace[2];
        for (uint32_t i = 0; i < 2; i++) {
            struct link_faults f = {.delay = 5 * MS, .rate_bps = 50000000, .queue_bytes = 1 << 20};
            struct link *l = link_stream(seed, NULL, &f, 400000, 300000);
            every = (uint32_t)(7 + seed * 5);
            l->each_step = i == 0 ? NULL : upgrade_now_and_then;
            finish(l, 400000, 300000, seed);
            trace[i] = l->trace;
            link_destroy(l);
        }
        cr_assert_eq(trace[0], trace[1], "seed %lu: the upgraded run differs", seed);
    }
}

Test(tcp_link, upgrades_under_faults) {
    for (uint64_t seed = 1; seed <= 24; seed++) {
        struct link_faults f = bad_link(seed);
        struct link *l = link_stream(seed, NULL, &f, 200000, 100000);
        every = (uint32_t)(5 + seed * 3);
        l->each_step = upgrade_now_and_then;
        finish(l, 200000, 100000, seed);
        link_destroy(l);
    }
}

Test(tcp_link, crashes_under_faults) {
    for (uint64_t seed = 1; seed <= 24; seed++) {
        struct link_faults f = bad_link(seed);
        struct link *l = link_create(seed, NULL, NULL);
        l->faults[0] = l->faults[1] = f;
        l->host[1].accept_as.tx_total = 100000;
        l->host[1].accept_as.close_when_done = true;
        (void)link_listen(l, 1, 80, NULL);
        l->host[0].socks[link_connect(l, 0, 80, 200000, NULL)].close_when_done = true;
        every = (uint32_t)(11 + seed * 3);
        l->each_step = crash_now_and_then;
        finish(l, 200000, 100000, seed);
        link_destroy(l);
    }
}
