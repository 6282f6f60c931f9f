/* SPDX-License-Identifier: Apache-2.0
 *
 * TCP connections outlive the death of their daemon at any store. Two hosts with the instrumented tcp engine carry
 * streams both ways over bad links; again and again one of them dies before a random store into its arena (or half-way
 * through a wide one), starts again on the same memory, and asks each connection where it stands (TCP_CMD_SYNC). No
 * byte may be lost, doubled or altered, every stream must end properly, and check() must hold after each recovery.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdio.h>

#include "engines/tcp/testlink.h"
#include "test/sim/prng.h"
#include "test/sim/store.h"

#define UP   60000u
#define DOWN 40000u

static jmp_buf death;

static const struct engine_ops *instrumented(void) {
    void *module = dlopen(SIM_ENGINES "/tcp.so", RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(module, "%s", dlerror());
    return (const struct engine_ops *)dlsym(module, ENGINE_SYMBOL);
}

static bool both_open(struct link *l) {
    return l->host[0].socks[0].adopted && l->host[1].socks[0].adopted;
}

static struct link *open_stream(uint64_t seed) {
    struct link_faults f = {.delay = (1 + seed % 4) * NS_PER_MS,
                            .drop_ppm = seed % 3 == 0 ? 10000 : 0,
                            .reorder_ppm = seed % 2 ? 10000 : 0,
                            .duplicate_ppm = 2000};
    struct link *l = link_create(seed, NULL, NULL);
    l->faults[0] = l->faults[1] = f;
    l->host[1].accept_as.tx_total = DOWN;
    l->host[1].accept_as.close_when_done = true;
    (void)link_listen(l, 1, 80, NULL);
    (void)link_connect(l, 0, 80, UP, NULL);
    l->host[0].socks[0].close_when_done = true;
    cr_assert(link_run(l, l->now + 60 * NS_PER_SEC, both_open));
    return l;
}

static void arm(struct link *l, uint32_t victim, uint64_t n, bool torn) {
    store_watch_none();
    store_watch(l->host[victim].st, l->host[victim].size);
    store_arm(n, torn, &death);
}

/* Dies `*deaths` times at most; what is left runs to the end undisturbed. */
static uint32_t run_with_deaths(struct link *l, uint64_t seed) {
    volatile uint32_t deaths = 0;
    volatile uint64_t rng = seed * 77 + 5;
    if (setjmp(death) != 0) {
        store_disarm();
        deaths++;
        cr_assert_eq(link_crash(l, deaths & 1), 0u, "seed %lu: records lost at death %u", seed, deaths);
    }
    if (deaths < 100) {
        rng = rng * 6364136223846793005ull + 1442695040888963407ull;
        arm(l, (deaths + 1) & 1, 1 + (rng >> 33) % 150, rng >> 63);
    }
    bool ended = link_run(l, l->now + 4000 * NS_PER_SEC, link_all_closed);
    store_disarm();
    /* Whether the last bytes were acknowledged to their sender is not asked: a peer's TIME-WAIT may pass meanwhile. */
    const struct link_sock *c = &l->host[0].socks[0], *s = &l->host[1].socks[0];
    cr_assert(ended && c->error == 0 && s->error == 0 && c->hung_up && s->hung_up, "seed %lu, %u deaths: no proper end",
              seed, deaths);
    cr_assert(s->rx_bytes == UP && c->rx_bytes == DOWN && s->rx_corrupt + c->rx_corrupt == 0,
              "seed %lu, %u deaths: %lu and %lu bytes, %u wrong", seed, deaths, s->rx_bytes, c->rx_bytes,
              s->rx_corrupt + c->rx_corrupt);
    return deaths;
}

Test(tcp_kill, streams_outlive_death_at_any_store) {
    uint32_t deaths = 0;
    link_ops = instrumented();
    cr_assert_not_null(link_ops);
    for (uint64_t seed = 1; seed <= TCP_KILL_SEEDS; seed++) {
        struct link *l = open_stream(seed);
        deaths += run_with_deaths(l, seed);
        link_destroy(l);
    }
    cr_assert_gt(deaths, 10u * TCP_KILL_SEEDS, "only %u deaths: is the module instrumented?", deaths);
}
