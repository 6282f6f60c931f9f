/* SPDX-License-Identifier: Apache-2.0
 *
 * Workers as threads: wake-ups in both directions, shards that move under traffic, modes, silence. Nothing here judges
 * time; a wait that never ends is a lost wake-up and shows as a timeout. The thread sanitizer runs these too.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "dataplane/core/test_kit.h"

#define WAIT_MS 20000 /* nobody waits this long unless a wake-up was lost */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SCALE 10
#else
#define SCALE 1
#endif

static struct kit k;

static void open_shards(uint32_t shards, enum sched_mode mode) {
    struct runtime_config cfg = {.shard_count = shards,
                                 .small_packets = 2048,
                                 .large_packets = 4,
                                 .mode = mode,
                                 .spin_max_us = 20,
                                 .seed = 7,
                                 .target_delay_us = 5};
    kit_open(&k, &cfg);
}

static void start(void) {
    cr_assert_eq(runtime_start(k.rt, &k.err), 0, "%s", k.err.text);
}

/* ---- a client that plays ping-pong with an echo port and checks each answer ---- */

struct player {
    struct kit_client kc;
    uint16_t port; /* of the echo */
    uint32_t rounds;
    uint32_t window;
    uint32_t nap_every; /* sleeps the whole conversation now and then, so that the worker falls asleep too */
    bool stop;          /* atomic; ends before `rounds` */
    uint32_t got;       /* atomic */
    const char *error;
    pthread_t thread;
};

static void player_send(struct player *p, uint32_t number) {
    struct fake_client *c = &p->kc.c;
    uint32_t off = (number % 256) * 128;
    memcpy(fake_client_tx(c, off), &number, sizeof number);
    fake_client_send(c, p->kc.sock.handle, off, 100, kit_addr(1).b, p->port);
    fake_client_kick(c);
}

static bool player_take(struct player *p, uint32_t want) {
    struct fake_client *c = &p->kc.c;
    struct ush_cqe e;
    do {
        while (!fake_client_ready(c)) {
            if (!fake_client_wait(c, WAIT_MS) && !fake_client_ready(c)) {
                p->error = "a wake-up was lost";
                return false;
            }
        }
        (void)fake_client_take(c, &e);
    } while (e.type != USH_CQ_RECV);
    uint32_t number;
    memcpy(&number, fake_client_rx(c, e.recv.cell), sizeof number);
    fake_client_release(c, e.recv.cell);
    if (number != want)
        p->error = number > want ? "a datagram was lost" : "a datagram came twice or late";
    return number == want;
}

/* Silence for up to 300 us, in which the worker comes to sleep: nothing can arrive, for nothing was sent. */
static void nap(const struct player *p, long ns) {
    struct pollfd nothing = {.fd = p->kc.fds.wake_peer, .events = 0};
    struct timespec ts = {.tv_nsec = ns};
    (void)ppoll(&nothing, 1, &ts, NULL);
}

static void *player_main(void *arg) {
    struct player *p = arg;
    uint32_t sent = 0, got = 0;
    while (got < p->rounds && !__atomic_load_n(&p->stop, __ATOMIC_RELAXED)) {
        while (sent < p->rounds && sent - got < p->window)
            player_send(p, sent++);
        if (!player_take(p, got))
            return NULL;
        __atomic_store_n(&p->got, ++got, __ATOMIC_RELAXED);
        if (p->nap_every != 0 && got % p->nap_every == 0)
            nap(p, 1000 * (long)(got % 300));
    }
    while (got < sent && player_take(p, got))
        got++;
    return NULL;
}

static void player_begin(struct player *p, uint16_t local, uint16_t echo) {
    p->port = echo;
    p->rounds = p->rounds != 0 ? p->rounds / SCALE : UINT32_MAX;
    p->window = p->window != 0 ? p->window : 1;
    kit_attach(&k, &p->kc, local);
    cr_assert_eq(pthread_create(&p->thread, NULL, player_main, p), 0);
}

static void player_end(struct player *p, bool stop) {
    if (stop)
        __atomic_store_n(&p->stop, true, __ATOMIC_RELAXED);
    pthread_join(p->thread, NULL);
    cr_assert_null(p->error, "%s (after %u)", p->error, p->got);
    kit_detach(&k, &p->kc);
}

/* Packets that belong to other shards may still be on their way home when the workers stop: turn by hand. */
static void close_and_count(void) {
    runtime_stop(k.rt);
    kit_settle(&k);
    for (uint32_t i = 0; i < k.rt->shard_count; i++) {
        const struct pkt_pool *pool = &k.rt->shard[i]->small.pool;
        cr_assert_eq(pool->free_count, pool->count, "shard %u lost %u packets", i, pool->count - pool->free_count);
    }
    runtime_events(k.rt, NULL, NULL);
    cr_assert_null(k.rt->zombies);
    kit_close(&k);
}

/* ---- wake-ups ---- */

Test(worker, ping_pong_with_both_sides_asleep, .timeout = 120) {
    static struct player p = {.rounds = 20000, .nap_every = 3};
    open_shards(1, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    start();
    player_begin(&p, 5000, 7);
    player_end(&p, false);
    struct worker_stats ws;
    cr_assert_eq(runtime_worker_stats(k.rt, &ws, 1), 1);
    cr_assert_gt(ws.sleeps, 0, "the worker never slept");
    cr_assert_gt(ws.kicks, 0, "nobody kicked it");
    close_and_count();
}

Test(worker, many_clients_many_at_a_time, .timeout = 120) {
    static struct player p[6];
    open_shards(1, SCHED_AUTO);
    kit_echo(&k, 0, 7);
    start();
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = (struct player){.rounds = 20000, .window = 1 + i * 5, .nap_every = i % 2 ? 50 : 0};
        player_begin(&p[i], (uint16_t)(5000 + i), 7);
    }
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        player_end(&p[i], false);
    close_and_count();
}

/* A worker that has nothing to do does nothing: it sleeps, and no tick wakes it. */
Test(worker, an_idle_worker_sleeps_and_wakes_for_a_call, .timeout = 60) {
    static struct player p = {.rounds = 10};
    struct worker_stats before, after;
    struct pollfd silence = {.events = POLLIN};
    open_shards(1, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    start();
    player_begin(&p, 5000, 7);
    pthread_join(p.thread, NULL); /* the session stays attached and silent */
    silence.fd = runtime_event_fd(k.rt);
    do {
        (void)poll(&silence, 1, 100);
        runtime_worker_stats(k.rt, &before, 1);
        (void)poll(&silence, 1, 300);
        runtime_worker_stats(k.rt, &after, 1);
    } while (after.turns != before.turns); /* the test's timeout ends a worker that ticks */
    struct session_socket s;
    cr_assert_eq(kit_bind(&k, &p.kc, 5001, &s), 0, "a sleeping worker answers");
    cr_assert_null(p.error);
    kit_detach(&k, &p.kc);
    close_and_count();
}

/* ---- several shards ---- */

Test(worker, shards_reach_one_another_and_packets_come_home, .timeout = 120) {
    static struct player p[4];
    open_shards(3, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
    kit_echo(&k, 2, 9);
    start();
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = (struct player){.rounds = 5000, .window = 8, .nap_every = 20};
        player_begin(&p[i], (uint16_t)(5000 + i), (uint16_t)(7 + (i + 1) % 3));
    }
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        player_end(&p[i], false);
    uint64_t crossed = 0;
    for (uint32_t i = 0; i < 3; i++) {
        struct shard_stats st;
        cr_assert_eq(runtime_shard_stats(k.rt, i, &st), 0);
        crossed += st.cross_shard;
    }
    cr_assert_gt(crossed, 0);
    close_and_count();
}

Test(worker, shards_move_under_traffic_without_loss_or_reorder, .timeout = 120) {
    static struct player p[3];
    open_shards(2, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
    start();
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = (struct player){.window = 16, .nap_every = i == 0 ? 10 : 0};
        player_begin(&p[i], (uint16_t)(5000 + i), (uint16_t)(7 + i % 2));
    }
    for (uint32_t i = 0; i < 400 / SCALE; i++) {
        uint32_t before = __atomic_load_n(&p[i % 3].got, __ATOMIC_RELAXED);
        cr_assert_eq(runtime_shard_move(k.rt, i % 2, (i / 2) % 2), 0);
        while (__atomic_load_n(&p[i % 3].got, __ATOMIC_RELAXED) == before && p[i % 3].error == NULL)
            sched_yield(); /* each move sees traffic */
    }
    cr_assert_eq(runtime_shard_move(k.rt, 5, 0), -EINVAL);
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        player_end(&p[i], true);
    close_and_count();
}

/* By turns the same layout and another one; each sees traffic, and every datagram comes, once and in order. */
Test(worker, engines_are_upgraded_under_traffic_without_loss_or_reorder, .timeout = 120) {
    static const char *const versions[] = {NEXT "/udp.so", NEXT "/udp.so", ENGINES "/udp.so", ENGINES "/udp.so"};
    static struct player p[3];
    open_shards(2, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
    start();
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = (struct player){.window = 16, .nap_every = i == 0 ? 10 : 0};
        player_begin(&p[i], (uint16_t)(5000 + i), (uint16_t)(7 + i % 2));
    }
    for (uint32_t i = 0; i < 200 / SCALE; i++) {
        const struct runtime_upgrade how = {.file = versions[i % ARRAY_LEN(versions)]};
        struct runtime_upgrade_report r;
        uint32_t before = __atomic_load_n(&p[i % 3].got, __ATOMIC_RELAXED);
        cr_assert_eq(runtime_engine_upgrade(k.rt, KIT_UDP, &how, &r, &k.err), 0, "%s", k.err.text);
        cr_assert_eq(r.moved, i == 0 || i % 2 == 0);
        while (__atomic_load_n(&p[i % 3].got, __ATOMIC_RELAXED) == before && p[i % 3].error == NULL)
            sched_yield();
    }
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        player_end(&p[i], true);
    close_and_count();
}

/* ---- an engine that passes everything on ---- */

static void pass_up(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)st;
    for (uint32_t i = 0; i < n; i++)
        (void)pkt_vec_push(io->up, pkts[i]);
}

static void pass_down(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    (void)st;
    for (uint32_t i = 0; i < n; i++)
        (void)pkt_vec_push(io->down, pkts[i]);
}

Test(worker, engines_come_and_go_under_traffic_without_loss_or_reorder, .timeout = 120) {
    static struct player p[3];
    struct engine_ops pass = kit_link;
    uint32_t index;
    pass.name = "pass";
    pass.stage = STAGE_FILTER;
    pass.input = pass_up;
    pass.output = pass_down;
    open_shards(2, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
    start();
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = (struct player){.window = 16, .nap_every = i == 0 ? 10 : 0};
        player_begin(&p[i], (uint16_t)(5000 + i), (uint16_t)(7 + i % 2));
    }
    for (uint32_t i = 0; i < 100 / SCALE; i++) {
        uint32_t before = __atomic_load_n(&p[i % 3].got, __ATOMIC_RELAXED);
        cr_assert_eq(runtime_engine_add(k.rt, &pass, NULL, &index, &k.err), 0, "%s", k.err.text);
        while (__atomic_load_n(&p[i % 3].got, __ATOMIC_RELAXED) == before && p[i % 3].error == NULL)
            sched_yield(); /* each change sees traffic */
        cr_assert_eq(runtime_engine_unload(k.rt, index, &k.err), 0, "%s", k.err.text);
    }
    pass.stage = STAGE_LINK;
    cr_assert_eq(runtime_engine_add(k.rt, &pass, NULL, &index, &k.err), -EBUSY, "at the start only");
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        player_end(&p[i], true);
    close_and_count();
}

Test(worker, modes_change_under_traffic, .timeout = 120) {
    static const enum sched_mode modes[] = {SCHED_COMPACTING, SCHED_SPREADING, SCHED_DEDICATED, SCHED_AUTO};
    static struct player p[2];
    open_shards(2, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
    start();
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = (struct player){.window = 4};
        player_begin(&p[i], (uint16_t)(5000 + i), (uint16_t)(7 + i));
    }
    for (uint32_t i = 0; i < 40 / SCALE + 4; i++) {
        uint32_t before = __atomic_load_n(&p[0].got, __ATOMIC_RELAXED);
        const char *why = NULL;
        cr_assert_eq(runtime_mode_set(k.rt, modes[i % ARRAY_LEN(modes)]), 0);
        enum sched_mode mode = runtime_mode(k.rt, &why);
        cr_assert(mode != SCHED_AUTO && why != NULL);
        while (__atomic_load_n(&p[0].got, __ATOMIC_RELAXED) < before + 50 && p[0].error == NULL)
            sched_yield();
        runtime_events(k.rt, NULL, NULL);
    }
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        player_end(&p[i], true);
    close_and_count();
}

static uint32_t workers_in_use(void) {
    struct worker_stats ws[WORKER_MAX];
    uint32_t n = runtime_worker_stats(k.rt, ws, WORKER_MAX), used = 0;
    for (uint32_t i = 0; i < n; i++)
        used += ws[i].shards != 0;
    return used;
}

/* Compacting: one worker until packets wait too long there, and one again when the load is gone. */
Test(worker, compacting_spreads_out_and_draws_in, .timeout = 120) {
    static struct player p[4], idler = {.nap_every = 1};
    struct pollfd ev = {.events = POLLIN};
    struct runtime_config cfg = {.shard_count = 2,
                                 .small_packets = 2048,
                                 .large_packets = 4,
                                 .seed = 7,
                                 .mode = SCHED_COMPACTING,
                                 .target_delay_us = 1};
    kit_open(&k, &cfg);
    kit_echo(&k, 0, 7);
    kit_echo(&k, 1, 8);
    start();
    ev.fd = runtime_event_fd(k.rt);
    cr_assert_eq(workers_in_use(), 1);
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++) {
        p[i] = (struct player){.window = 64};
        player_begin(&p[i], (uint16_t)(5000 + i), (uint16_t)(7 + i % 2));
    }
    while (workers_in_use() < 2) {
        (void)poll(&ev, 1, WAIT_MS); /* control is told; it does not ask */
        runtime_events(k.rt, NULL, NULL);
    }
    for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
        player_end(&p[i], true);
    __atomic_store_n(&k.rt->cfg.target_delay_us, 1000000u,
                     __ATOMIC_RELAXED); /* any delay is fine now: only the load counts */
    player_begin(&idler, 6000, 7);
    while (workers_in_use() > 1) {
        (void)poll(&ev, 1, WAIT_MS);
        runtime_events(k.rt, NULL, NULL);
    }
    player_end(&idler, true);
    close_and_count();
}

/* ---- ports on moving shards ---- */

Test(worker, a_port_survives_moves_and_removal, .timeout = 120) {
    static struct pktmem far;
    static struct pkt_vec done, drop;
    struct port *ends[2];
    struct pkt *v[1], *got[PKT_BURST];
    uint32_t slot, sent = 0, seen = 0;
    open_shards(2, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    start();
    cr_assert_eq(pktmem_create(&far, 256, 2048, 99), 0);
    struct port_params params[2] = {{.ifname = "near", .queue_count = 1, .mem = {runtime_port_mem(k.rt, 0, false)}},
                                    {.ifname = "far", .queue_count = 1, .mem = {&far}}};
    cr_assert_eq(port_pair_create(params, true, ends, NULL), 0);
    cr_assert_eq(runtime_port_add(k.rt, ends[0], &slot, &k.err), 0);
    struct port_queue *q = ends[1]->queue[0];
    while (seen < 6000 / SCALE) {
        if (sent - seen < 32) {
            v[0] = pkt_alloc(&far.pool);
            struct flow f = {kit_far_addr(1), kit_addr(1), (uint16_t)(1 + sent % 60000), 7, PROTO_UDP, {0, 0, 0}};
            uint8_t *d = v[0]->data;
            memcpy(d, &f, sizeof f);
            be16_store(d + sizeof f, f.local_port);
            be16_store(d + sizeof f + 2, 7);
            be16_store(d + sizeof f + 4, 8 + 4);
            be16_store(d + sizeof f + 6, 0);
            memcpy(d + sizeof f + 8, &sent, 4);
            v[0]->len = sizeof f + 12;
            done.count = drop.count = 0;
            q->ops->tx(q, v, 1, &done, &drop);
            cr_assert_eq(drop.count, 0);
            sent++;
        }
        q->ops->reap(q, &done);
        while (done.count > 0)
            pkt_free(&far.pool, done.v[--done.count]);
        uint32_t n = q->ops->rx(q, got, PKT_BURST);
        for (uint32_t i = 0; i < n; i++, seen++) {
            uint32_t number;
            memcpy(&number, got[i]->data + sizeof(struct flow) + 8, 4);
            cr_assert_eq(number, seen, "lost or out of order");
            pkt_free(&far.pool, got[i]);
        }
        if (sent % 97 == 0)
            cr_assert_eq(runtime_shard_move(k.rt, 0, sent % 2), 0);
        if (n == 0)
            sched_yield();
    }
    runtime_port_remove(k.rt, slot);
    cr_assert_null(runtime_port(k.rt, slot));
    port_destroy(ends[1]);
    close_and_count();
    pktmem_destroy(&far);
}

/* ---- no allocation ---- */

#if SCALE == 1
extern void *__libc_malloc(size_t size);
static uint32_t worker_mallocs; /* atomic */
static bool watching;

void *malloc(size_t size) {
    char name[16] = "";
    if (__atomic_load_n(&watching, __ATOMIC_RELAXED)) {
        prctl(PR_GET_NAME, name);
        if (strncmp(name, "usher-w", 7) == 0)
            __atomic_add_fetch(&worker_mallocs, 1, __ATOMIC_RELAXED);
    }
    return __libc_malloc(size);
}

Test(worker, workers_never_allocate, .timeout = 120) {
    static struct player p = {.rounds = 5000, .window = 4, .nap_every = 7};
    open_shards(2, SCHED_SPREADING);
    kit_echo(&k, 0, 7);
    start();
    __atomic_store_n(&watching, true, __ATOMIC_RELAXED);
    player_begin(&p, 5000, 7);
    cr_assert_eq(runtime_shard_move(k.rt, 0, 1), 0);
    player_end(&p, false);
    cr_assert_eq(worker_mallocs, 0);
    __atomic_store_n(&watching, false, __ATOMIC_RELAXED);
    close_and_count();
}
#endif

/* ---- the watchdog's question ---- */

struct block {
    uint32_t held, go; /* atomic */
};

static void block_run(struct shard *sh, void *arg) {
    struct block *b = arg;
    (void)sh;
    __atomic_store_n(&b->held, 1, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&b->go, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void *block_main(void *arg) {
    cr_assert_eq(runtime_call(k.rt, 1, block_run, arg), 0);
    return NULL;
}

/* A worker that slept since the last question is woken by it and found alive by the next one. */
static void until_stuck_is(uint32_t mask) {
    for (int i = 0; i < WAIT_MS; i++) {
        if (runtime_stuck_workers(k.rt) == mask)
            return;
        (void)poll(NULL, 0, 1);
    }
    cr_assert(false, "never %x", mask);
}

Test(worker, watchdog_finds_the_one_that_hangs) {
    struct block b = {0, 0};
    pthread_t other;
    open_shards(2, SCHED_SPREADING);
    cr_assert_eq(runtime_stuck_workers(k.rt), 0, "nobody runs");
    start();
    cr_assert_eq(runtime_stuck_workers(k.rt), 0, "nobody was asked yet");
    until_stuck_is(0);
    cr_assert_eq(pthread_create(&other, NULL, block_main, &b), 0);
    while (!__atomic_load_n(&b.held, __ATOMIC_ACQUIRE))
        sched_yield();
    until_stuck_is(1u << 1);
    cr_assert_eq(runtime_stuck_workers(k.rt) & 2, 2, "it still hangs");
    __atomic_store_n(&b.go, 1, __ATOMIC_RELEASE);
    pthread_join(other, NULL);
    until_stuck_is(0);
    kit_close(&k);
}
