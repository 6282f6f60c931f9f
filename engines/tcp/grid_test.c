/* SPDX-License-Identifier: Apache-2.0
 *
 * Throughput over bottleneck x delay x loss x reordering x buffer, against a table of what it was when last looked at.
 * A cell may be a tenth worse before it fails; a change that makes it better changes the table in the same commit.
 * Virtual time: the numbers are the same on every machine. Each is a mean over seeds, because which segment is the one
 * that is lost decides more than anything that is changed here. Print the table anew: TCP_GRID_PRINT=1.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "engines/tcp/testlink.h"

#define SEEDS 5u

struct cell {
    uint32_t rate_mbit, delay_ms, loss_ppm, reorder_ppm, buffer_kib; /* buffer: receive limit, 0 = tuned */
    const char *cc;
    uint32_t kbit; /* what goes through */
};

static const struct cell cells[] = {
#include "engines/tcp/grid.def"
};

static bool all_there(struct link *l) {
    return l->host[1].socks[0].rx_bytes == l->host[0].socks[0].tx_total;
}

static uint32_t measure(const struct cell *c, uint64_t seed) {
    uint64_t rate = c->rate_mbit * 1000000ull, bytes = rate / 8 * 3 < 6u << 20 ? rate / 8 * 3 : 6u << 20;
    uint64_t bdp = rate / 8 * c->delay_ms * 2 / 1000;
    struct link_faults f = {.delay = c->delay_ms * NS_PER_MS, .rate_bps = rate, .queue_bytes = (uint32_t)bdp + 30000};
    struct tcp_cmd_listen listen = {.backlog = 4, .opt.rcvbuf = c->buffer_kib << 10};
    struct tcp_config cfg = {0};
    memcpy(cfg.congestion, c->cc, strlen(c->cc));
    struct link *l = link_create(seed, &cfg, &cfg);
    l->faults[1] = f;
    f.drop_ppm = c->loss_ppm;
    f.reorder_ppm = c->reorder_ppm;
    l->faults[0] = f;
    (void)link_listen(l, 1, 80, &listen);
    (void)link_connect(l, 0, 80, bytes, NULL);
    l->host[0].socks[0].chunk = 65536;
    ns_t start = l->now;
    (void)link_run(l, l->now + 60 * NS_PER_SEC, all_there);
    uint32_t kbit = (uint32_t)(l->host[1].socks[0].rx_bytes * 8 * 1000000 / (l->now - start));
    cr_assert_eq(l->host[1].socks[0].rx_corrupt, 0u);
    link_destroy(l);
    return kbit;
}

static uint32_t mean(const struct cell *c) {
    uint64_t sum = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        sum += measure(c, seed);
    return (uint32_t)(sum / SEEDS);
}

Test(tcp_grid, throughput_is_what_it_was) {
    bool print = getenv("TCP_GRID_PRINT") != NULL;
    for (uint32_t i = 0; i < ARRAY_LEN(cells); i++) {
        const struct cell *c = &cells[i];
        uint32_t kbit = mean(c);
        if (print)
            printf("{%u, %u, %u, %u, %u, \"%s\", %u},\n", c->rate_mbit, c->delay_ms, c->loss_ppm, c->reorder_ppm,
                   c->buffer_kib, c->cc, kbit);
        else
            cr_assert_geq(kbit, c->kbit - c->kbit / 10, "line %u: %u kbit/s, it was %u", i + 5, kbit, c->kbit);
    }
}

/* Segments that only come late, by up to three quarters of the way: RACK must learn to wait for them, and what was done
 * before it had learned must be undone. One seed tells little: all depends on how the first round trips go. */
Test(tcp_grid, reordering_alone_costs_little) {
    const struct cell plain = {100, 10, 0, 0, 0, "cubic", 0}, late = {100, 10, 0, 20000, 0, "cubic", 0};
    uint32_t straight = measure(&plain, 7);
    for (uint64_t seed = 1; seed <= 12; seed++) {
        uint32_t kbit = measure(&late, seed);
        cr_assert_geq(kbit, straight - straight / 10, "seed %lu: %u of %u kbit/s", seed, kbit, straight);
    }
}
