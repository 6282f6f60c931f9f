/* SPDX-License-Identifier: Apache-2.0
 *
 * A client that writes anything anywhere. Each round: traffic on two sessions, then seeded damage to one's shared
 * memory (single fields, whole lines, pages punched out, rings filled with near-misses), more traffic. Whatever happens
 * to the damaged one, the other's every datagram comes back whole and in order, every packet comes home, and the
 * daemon's memory stays clean under the sanitizers.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>

#include "dataplane/core/test_kit.h"

#define ROUNDS_DEFAULT 4000u

static uint64_t rng;

static uint32_t dice(uint32_t n) {
    rng += 0x9e3779b97f4a7c15ull;
    uint64_t z = rng;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) % n);
}

/* ---- damage ---- */

static void spoil_word(struct fake_client *c) {
    uint32_t *w = (uint32_t *)c->base + dice((uint32_t)(c->size / 4));
    *w = dice(4) == 0 ? dice(16) : dice(UINT32_MAX);
}

static void spoil_set_head(struct fake_client *c) {
    ((uint32_t *)c->set)[dice(sizeof *c->set / 4)] = dice(3) == 0 ? UINT32_MAX : dice(8192);
}

static void spoil_ring(struct fake_client *c) {
    uint32_t at = dice(2) ? c->sq_tail % c->h.sq_entries : dice(c->h.sq_entries);
    uint8_t *line = (uint8_t *)&c->sq[at];
    for (uint32_t i = 0; i < 64; i++)
        line[i] = (uint8_t)dice(256);
}

static uint32_t stream_handle(struct fake_client *c) {
    uint32_t index = c->h.socket_max + dice(4) + (dice(3) == 0 ? c->h.client_socket_max : 0);
    return dice(200) == 0 ? dice(UINT32_MAX) : USH_HANDLE(index, dice(3));
}

/* Connects, sends, closes in any order; most of it legal, so that it gets deep. */
static void stream_ops(struct fake_client *c) {
    for (uint32_t i = dice(12); i > 0; i--) {
        struct ush_sqe e = {.op = (uint8_t)(dice(5) == 0 ? USH_OP_SEND : USH_OP_CONNECT + dice(7))};
        e.send.handle = e.connect.handle = stream_handle(c);
        if (e.op == USH_OP_SEND) {
            e.send.off = dice(100000);
            e.send.len = dice(50) == 0 ? dice(UINT32_MAX) : dice(30000);
        } else if (e.op == USH_OP_CONNECT) {
            e.connect.port = dice(4) == 0 ? 7 : 80;
            memcpy(e.connect.addr, kit_addr(1).b, 16);
        } else {
            e.flags = (uint8_t)(e.op == USH_OP_CLOSE ? dice(4) : 0);
            e.stream.option = 1 + dice(16);
            e.stream.value = dice(100000);
        }
        fake_client_put(c, &e);
    }
}

/* Valid but for one thing. */
static void near_miss(struct fake_client *c) {
    struct ush_sqe e = {.op = (uint8_t)dice(8), .flags = (uint8_t)dice(8), .count = (uint8_t)dice(16)};
    if (e.op == USH_OP_RELEASE) {
        for (uint32_t i = 0; i < 14; i++)
            e.release.cell[i] = dice(64) * 256;
    } else {
        e.send.handle = dice(6);
        e.send.off = dice(4) == 0 ? dice(UINT32_MAX) : dice(100000);
        e.send.len = dice(4) == 0 ? dice(UINT32_MAX) : dice(70000);
        e.send.port = (uint16_t)(dice(2) ? 7 : dice(65536));
        e.send.gso_size = (uint16_t)(dice(3) == 0 ? dice(65536) : 0);
        memcpy(e.send.addr, kit_addr(1).b, 16);
    }
    fake_client_put(c, &e);
}

static void spoil_descriptor_after(struct fake_client *c) {
    near_miss(c);
    ((uint8_t *)&c->sq[(c->sq_tail - 1) % c->h.sq_entries])[4 + dice(60)] = (uint8_t)dice(256);
}

static void punch(struct fake_client *c) {
    uint64_t page = dice((uint32_t)(c->size / USH_PAGE));
    (void)madvise(c->base + page * USH_PAGE, USH_PAGE * (1 + dice(64)), MADV_REMOVE);
}

static void rewind_tail(struct fake_client *c) {
    c->sq_tail -= dice(5000);
}
static void skip_tail(struct fake_client *c) {
    c->sq_tail += dice(5000);
}
static void flood(struct fake_client *c) {
    for (uint32_t i = dice(3000); i > 0; i--)
        near_miss(c);
}
static void toss_ticket(struct fake_client *c) {
    c->set->wait_ticket = dice(UINT32_MAX);
}
static void toss_header(struct fake_client *c) {
    ((uint8_t *)c->base)[dice(4096)] = (uint8_t)dice(256);
}

static void (*const damage[])(struct fake_client *) = {
    spoil_word, spoil_set_head, spoil_ring,  near_miss,  spoil_descriptor_after, punch, rewind_tail, skip_tail,
    flood,      toss_ticket,    toss_header, stream_ops,
};

/* ---- the bystander ---- */

static uint32_t good_sent, good_got;

static void good_traffic(struct kit_client *g) {
    static const uint32_t sizes[] = {8, 64, 700, 1400, 3000};
    struct ush_cqe e;
    for (uint32_t i = 0; i < 4; i++, good_sent++) {
        uint32_t len = sizes[good_sent % ARRAY_LEN(sizes)], off = (good_sent % 512) * 4096;
        memset(fake_client_tx(&g->c, off), (int)(good_sent & 0xff), len);
        memcpy(fake_client_tx(&g->c, off), &good_sent, sizeof good_sent);
        fake_client_send(&g->c, g->sock.handle, off, len, kit_addr(1).b, 7);
    }
    (void)e;
}

static void good_check(struct kit_client *g) {
    struct ush_cqe e;
    while (fake_client_take(&g->c, &e)) {
        if (e.type != USH_CQ_RECV)
            continue;
        const uint8_t *p = fake_client_rx(&g->c, e.recv.cell);
        uint32_t number;
        memcpy(&number, p, sizeof number);
        cr_assert_eq(number, good_got, "datagram %u came as %u", good_got, number);
        for (uint32_t i = sizeof number; i < e.recv.len; i++)
            cr_assert_eq(p[i], (uint8_t)(number & 0xff));
        good_got++;
        fake_client_release(&g->c, e.recv.cell);
    }
    fake_client_release_flush(&g->c);
    cr_assert_eq(good_sent, good_got);
}

/* ---- the rounds ---- */

static void bad_traffic(struct kit_client *b) {
    struct ush_cqe e;
    for (uint32_t i = dice(8); i > 0; i--)
        fake_client_send(&b->c, b->sock.handle, dice(1000) * 64, dice(3000), kit_addr(1).b, 7);
    for (uint32_t i = dice(20); i > 0 && fake_client_take(&b->c, &e); i--) {
        if (e.type == USH_CQ_RECV)
            fake_client_release(&b->c, e.recv.cell);
    }
}

static void attach_bad(struct kit *k, struct kit_client *bad) {
    struct session_socket listener;
    kit_attach(k, bad, 5001);
    cr_assert_eq(kit_listen(bad, 80, &listener), 0);
}

static struct shard *only_shard(struct kit *k) {
    return k->rt->shard[0];
}

Test(hostile, thousands_of_corruptions_hurt_nobody_else, .timeout = 300) {
    static struct kit k;
    static struct kit_client good, bad;
    uint32_t reasons[DETACH_COUNT] = {0}, detached = 0;
    const char *env = getenv("USHER_HOSTILE_ROUNDS"), *seed = getenv("USHER_HOSTILE_SEED");
    uint32_t rounds = env != NULL ? (uint32_t)atoi(env) : ROUNDS_DEFAULT;
    rng = seed != NULL ? strtoull(seed, NULL, 0) : 0x5eed;
    kit_open(&k, NULL);
    kit_echo(&k, 0, 7);
    kit_tcp(&k, 512);
    kit_attach(&k, &good, 5000);
    attach_bad(&k, &bad);
    for (uint32_t r = 0; r < rounds; r++) {
        enum detach_reason why;
        bad_traffic(&bad);
        stream_ops(&bad.c);
        good_traffic(&good);
        for (uint32_t i = 1 + dice(3); i > 0; i--)
            damage[dice(ARRAY_LEN(damage))](&bad.c);
        kit_settle(&k);
        bad_traffic(&bad);
        kit_settle(&k);
        good_check(&good);
        for (uint32_t i = dice(100); i > 0; i--)
            (void)kit_turn(&k);
        if (session_next_detached(k.rt, &why) == NULL && dice(50) != 0)
            continue;
        detached++;
        reasons[bad.s->detach_why == DETACH_COUNT ? 0 : bad.s->detach_why]++;
        kit_detach(&k, &bad);
        attach_bad(&k, &bad);
    }
    cr_assert_gt(detached, rounds / 50);
    for (uint32_t i = DETACH_BAD_SEQUENCE; i <= DETACH_BAD_CQ_HEAD; i++)
        cr_assert(rounds < ROUNDS_DEFAULT || i == DETACH_BAD_CQ_HEAD || reasons[i] > 0, "never seen: %s",
                  detach_reason_text(i));
    kit_detach(&k, &bad);
    kit_detach(&k, &good);
    kit_settle(&k);
    for (uint32_t i = 0; i < 100 && k.rt->zombies != NULL; i++) {
        kit_pass(NS_PER_SEC); /* what bad had closed lingers for a while */
        kit_settle(&k);
        session_reap(k.rt);
    }
    cr_assert_eq(only_shard(&k)->small.pool.free_count, only_shard(&k)->small.pool.count, "a packet leaked");
    cr_assert_null(k.rt->zombies);
    kit_close(&k);
}

/* The memfd cannot be resized, and a page that cannot be had costs the session, not the daemon. */
Test(hostile, the_memory_cannot_be_taken_away) {
    static struct kit k;
    static struct kit_client c, good;
    enum detach_reason why = DETACH_COUNT;
    kit_open(&k, NULL);
    kit_echo(&k, 0, 7);
    kit_attach(&k, &c, 5000);
    kit_attach(&k, &good, 5001);
    cr_assert_eq(ftruncate(c.fds.memfd, 0), -1);
    cr_assert_eq(ftruncate(c.fds.memfd, (off_t)c.c.size * 2), -1);
    cr_assert_eq(fcntl(c.fds.memfd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    /* Stands for a page the kernel cannot give: the mapping now reaches behind the end of a shorter file. */
    int shorter = memfd_create("shorter", 0);
    cr_assert_neq(mmap(c.s->base, c.s->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, shorter, 0), MAP_FAILED);
    for (uint32_t i = 0; i < 3000; i++)
        kit_turn(&k);
    cr_assert_eq(session_next_detached(k.rt, &why), c.s);
    cr_assert_eq(why, DETACH_MEMORY_LOST);
    good_sent = good_got = 0;
    good_traffic(&good);
    kit_settle(&k);
    good_check(&good);
    close(shorter);
    kit_detach(&k, &c);
    kit_detach(&k, &good);
    kit_close(&k);
}
