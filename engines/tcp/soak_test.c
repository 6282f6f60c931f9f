/* SPDX-License-Identifier: Apache-2.0
 *
 * Random streams: every seed chooses link faults, bottleneck, what both ends can do, sizes of sends, buffers and
 * readers, and whether engines are upgraded or crash on the way. Every byte is verified, every stream must end, and an
 * upgrade at a moment when nothing is kept out of order must not change one segment. check() runs after every call of
 * an engine. More seeds by hand: TCP_SOAK_FROM and TCP_SOAK_COUNT.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "engines/tcp/testlink.h"

#define MS         NS_PER_MS
#define DEATHS_MAX 150u
#define SEEDS      1000u
#define SAVE_SEEDS 1000u

static uint64_t rng;
static uint32_t every, events;
static uint64_t disturbed;
static enum { UNDISTURBED, UPGRADES, CRASHES, SAVES } disturbance;

static uint32_t roll(uint32_t below) {
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((rng >> 33) % below);
}

static void disturb(struct link *l) {
    if (disturbance == UNDISTURBED || events >= DEATHS_MAX || l->steps % every != 0)
        return;
    uint32_t host = events++ & 1;
    if (disturbance == SAVES && link_stats(l, host).ooo_packets != 0)
        return; /* packets do not survive a save: the peer sends them again, which is a trace */
    if (disturbance != CRASHES)
        link_upgrade(l, host);
    else if (l->host[0].socks[0].connected && l->host[1].socks[0].used)
        (void)link_crash(l, host);
}

static struct link_faults random_faults(void) {
    struct link_faults f = {.delay = roll(40) * MS / 2, .drop_ppm = roll(4) * 12000, .reorder_ppm = roll(5) * 12000};
    f.jitter = roll(3) == 0 ? roll(4000000) : 0;
    f.duplicate_ppm = roll(2) * 8000;
    f.corrupt_ppm = roll(3) == 0 ? 4000 : 0;
    f.mark_ppm = roll(5) == 0 ? 10000 : 0;
    f.rate_bps = roll(4) == 0 ? 1000000ull << roll(10) : 0;
    f.queue_bytes = 20000 + roll(200000);
    return f;
}

static struct tcp_config random_config(void) {
    static const char *const controls[] = {"cubic", "reno", "dctcp", "bbr"};
    struct tcp_config c = {.flags = roll(16) | (roll(8) == 0 ? TCP_CONFIG_COOKIES_ALWAYS : 0u)};
    const char *name = controls[roll(4)];
    memcpy(c.congestion, name, strlen(name));
    return c;
}

static struct link *random_link(uint64_t seed) {
    static const uint16_t mtus[] = {1500, 1280, 9000, 1400};
    struct tcp_config c = random_config();
    struct link *l = link_create(seed, &c, &c);
    l->faults[0] = l->faults[1] = random_faults();
    l->v6 = roll(2);
    l->super = roll(2);
    l->mtu = mtus[roll(4)];
    if (l->super)
        l->host[0].ports[0].caps = l->host[1].ports[0].caps = PORT_CAP_TX_GSO_TCP;
    disturbance = roll(3);
    every = 7 + roll(60);
    events = 0;
    l->each_step = disturb;
    return l;
}

struct stream {
    uint64_t up, down;
    uint32_t events;
    uint64_t trace;
};

/* `forced`: how it is disturbed; as the seed says without. */
static struct stream one_stream(uint64_t seed, const int *forced) {
    rng = seed * 0x9e3779b97f4a7c15ull;
    struct link *l = random_link(seed);
    if (forced != NULL) {
        disturbance = *forced;
        every = 1 + every / 8;
    }
    struct tcp_cmd_connect connect = {.opt.nodelay = roll(2)};
    struct tcp_cmd_listen listen = {.backlog = 4, .opt.rcvbuf = roll(4) == 0 ? 3000 + roll(30000) : 0};
    struct link_sock *as = &l->host[1].accept_as;
    struct stream s = {.up = 2 + roll(250000), .down = roll(150000)};
    as->tx_total = s.down;
    as->close_when_done = true;
    as->chunk = 1 + roll(60000);
    (void)link_listen(l, 1, 80, &listen);
    (void)link_connect(l, 0, 80, s.up, &connect);
    l->host[0].socks[0].close_when_done = true;
    l->host[0].socks[0].chunk = 1 + roll(60000);
    bool ended = link_run(l, l->now + 20000 * NS_PER_SEC, link_all_closed);
    const char *wrong = link_stream_wrong(l, s.up, s.down);
    cr_assert(ended && wrong == NULL, "TCP_SOAK_FROM=%lu TCP_SOAK_COUNT=1 repeats it: %s: %s", seed,
              ended ? "ended" : "did not end", wrong != NULL ? wrong : "");
    s.events = events;
    s.trace = l->trace;
    link_destroy(l);
    return s;
}

static void each_seed(void (*visit)(uint64_t seed), uint64_t n) {
    const char *from = getenv("TCP_SOAK_FROM"), *count = getenv("TCP_SOAK_COUNT");
    uint64_t first = from != NULL ? strtoull(from, NULL, 0) : 1;
    n = count != NULL ? strtoull(count, NULL, 0) : n;
    for (uint64_t seed = first; seed < first + n; seed++)
        visit(seed);
    printf("%lu seeds, %lu upgrades and deaths\n", n, disturbed);
}

static void arrives(uint64_t seed) {
    disturbed += one_stream(seed, NULL).events;
}

static void same_with_saves(uint64_t seed) {
    static const int undisturbed = UNDISTURBED, saves = SAVES;
    struct stream a = one_stream(seed, &undisturbed), b = one_stream(seed, &saves);
    disturbed += b.events;
    cr_assert_eq(a.trace, b.trace, "TCP_SOAK_FROM=%lu TCP_SOAK_COUNT=1 repeats it: the upgraded run differs", seed);
}

Test(tcp_soak, random_streams_arrive) {
    each_seed(arrives, SEEDS);
}

Test(tcp_soak, a_save_leaves_no_trace) {
    each_seed(same_with_saves, SAVE_SEEDS);
}
