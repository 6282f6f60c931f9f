/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole connections between two engines in virtual time: opening, streams in both directions over links of every kind
 * of badness, closing, crashes and upgrades on the way.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/tcp/testlink.h"

#define SEC NS_PER_SEC
#define MS  NS_PER_MS

static bool all_closed(struct link *l) {
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t i = 0; i < LINK_SOCK_MAX; i++)
            if (l->host[h].socks[i].used && !l->host[h].socks[i].closed)
                return false;
    return true;
}

/* One connection that carries `up` bytes to the server and `down` back; both ends close when they are done. */
static struct link *stream(uint64_t seed, const struct link_faults *f, uint64_t up, uint64_t down) {
    struct link *l = link_create(seed, NULL, NULL);
    if (f != NULL)
        l->faults[0] = l->faults[1] = *f;
    l->host[1].accept_as.tx_total = down;
    l->host[1].accept_as.close_when_done = true;
    (void)link_listen(l, 1, 80, NULL);
    uint32_t s = link_connect(l, 0, 80, up, NULL);
    l->host[0].socks[s].close_when_done = true;
    return l;
}

static void verify(struct link *l, uint64_t up, uint64_t down) {
    const struct link_sock *c = &l->host[0].socks[0], *s = &l->host[1].socks[0];
    cr_assert_eq(c->error, 0);
    cr_assert_eq(s->rx_bytes, up, "server got %lu of %lu", s->rx_bytes, up);
    cr_assert_eq(c->rx_bytes, down, "client got %lu of %lu", c->rx_bytes, down);
    cr_assert_eq(s->rx_corrupt + c->rx_corrupt, 0u);
    cr_assert(c->hung_up && s->hung_up);
    cr_assert_eq(c->tx_done, up);
    cr_assert_eq(s->tx_done, down);
    cr_assert(link_pools_whole(l));
}

Test(tcp_link, opens_sends_closes) {
    struct link *l = stream(1, NULL, 1000, 2000);
    l->faults[0].delay = l->faults[1].delay = MS;
    cr_assert(link_run(l, l->now + 100 * SEC, all_closed));
    verify(l, 1000, 2000);
    cr_assert_eq(link_stats(l, 0).connections + link_stats(l, 1).connections, 0u);
    cr_assert_eq(link_stats(l, 0).items + link_stats(l, 0).segments, 0u);
    link_destroy(l);
}

Test(tcp_link, bulk_on_a_clean_link) {
    struct link_faults f = {.delay = MS, .rate_bps = 1000000000, .queue_bytes = 1 << 20};
    struct link *l = stream(2, &f, 20 << 20, 0);
    l->host[0].socks[0].chunk = 65536;
    cr_assert(link_run(l, l->now + 100 * SEC, all_closed));
    verify(l, 20 << 20, 0);
    link_destroy(l);
}

Test(tcp_link, survives_every_fault) {
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct link_faults f = {.delay = (seed % 5) * 5 * MS,
                                .jitter = seed % 3 == 0 ? 2 * MS : 0,
                                .drop_ppm = (uint32_t)(seed % 4) * 10000,
                                .duplicate_ppm = seed % 2 ? 5000 : 0,
                                .corrupt_ppm = seed % 3 ? 3000 : 0,
                                .reorder_ppm = (uint32_t)(seed % 6) * 10000};
        struct link *l = stream(seed, &f, 300000, 200000);
        l->super = seed % 2;
        cr_assert(link_run(l, l->now + 2000 * SEC, all_closed), "seed %lu", seed);
        verify(l, 300000, 200000);
        link_destroy(l);
    }
}
