/* SPDX-License-Identifier: Apache-2.0
 *
 * Properties on a bench clock: shares by weight, ceilings, guarantees, nothing left unused, whatever the sizes, the
 * depth of the tree, and how late the worker comes.
 */
#include <criterion/criterion.h>

#include "engines/qos/qos_fixture.h"

#define LINE (1250 * 1000 * 1000ull) /* 10 Gbit/s */
#define FULL 1500u
#define LATE 20000u

/* Tops an owner up by a packet of the same flow and size, or by one of any size. */
static void again_same(struct bed *b, struct pkt *p) {
    bed_send(b, p->owner, (uint32_t)p->flow.local.d[0], p->len);
}

static void again_mixed(struct bed *b, struct pkt *p) {
    bed_send(b, p->owner, (uint32_t)p->flow.local.d[0], 60 + bed_random(b) % (FULL - 59));
}

static uint32_t weight_of(uint32_t owner) {
    return 1u << owner % 4;
}

/* root > tiers > leaves 1 ... owners of weights 1:2:4:8; owner i has leaf ids last. */
static void grow(struct bed *b, uint32_t owners, uint32_t tiers) {
    bed_begin(b, tiers + 1, 0);
    cr_assert_eq(bed_node(b, 0, QOS_NONE, 1, 0, LINE), 0);
    for (uint32_t t = 0; t < tiers; t++)
        cr_assert_eq(bed_node(b, 1 + t, 0, 1, 0, 0), 0);
    for (uint32_t i = 0; i < owners; i++) {
        uint32_t parent = tiers == 0 ? 0 : 1 + i / 4 % tiers;
        cr_assert_eq(bed_node(b, 1 + tiers + i, parent, weight_of(i), 0, 0), 0);
        cr_assert_eq(bed_owner(b, i, 1 + tiers + i), 0);
    }
    cr_assert_eq(bed_commit(b), 0);
}

static void fill(struct bed *b, uint32_t owner, uint32_t flows, uint32_t each) {
    for (uint32_t i = 0; i < flows * each; i++)
        bed_send(b, owner, i % flows, FULL);
}

static void run_for(struct bed *b, ns_t ns, void (*again)(struct bed *b, struct pkt *p)) {
    ns_t end = b->tk->io.now + ns;
    while (b->tk->io.now < end)
        bed_turn(b, again, LATE);
    cr_assert_eq(b->qos.ops->check(b->qos.st), 0);
}

static void start_over(struct bed *b) {
    memset(b->got, 0, b->owners * sizeof b->got[0]);
    b->sent = b->sent_bytes = 0;
}

static void shares(uint32_t owners, uint32_t tiers, void (*again)(struct bed *b, struct pkt *p)) {
    struct bed b = bed_make(owners + tiers + 1, owners, owners * 8 + 5000);
    grow(&b, owners, tiers);
    b.tk->io.now = 12345 * NS_PER_SEC;
    for (uint32_t i = 0; i < owners; i++)
        fill(&b, i, 2, 4 + 2048 / owners);
    run_for(&b, 100 * NS_PER_MS, again);
    start_over(&b);
    run_for(&b, NS_PER_SEC, again);
    uint64_t weights = owners / 4 * 15;
    cr_assert(b.sent_bytes > LINE * 995 / 1000 && b.sent_bytes < LINE * 1002 / 1000 + 2000000, "%lu", b.sent_bytes);
    for (uint32_t i = 0; i < owners; i++) {
        double want = (double)b.sent_bytes * weight_of(i) / (double)weights, error = (double)b.got[i] - want;
        double most = want / 100 > FULL ? want / 100 : FULL;
        cr_assert(error <= most && error >= -most, "owner %u of %u: %lu, not %.0f", i, owners, b.got[i], want);
    }
    cr_assert_eq(b.dropped, 0);
    bed_end(&b);
}

Test(qos_share, weights_hold_among_4) {
    shares(4, 0, again_mixed);
}
Test(qos_share, weights_hold_among_64) {
    shares(64, 0, again_same);
}
Test(qos_share, weights_hold_among_1024_in_tiers) {
    shares(1024, 4, again_mixed);
}
Test(qos_share, weights_hold_among_4096) {
    shares(4096, 0, again_same);
}

/* Who asks for less leaves the rest to the others, by their weights. */
Test(qos_share, what_is_left_is_shared) {
    struct bed b = bed_make(8, 4, 4096);
    grow(&b, 4, 0);
    for (uint32_t i = 0; i < 3; i++)
        fill(&b, i, 1, 512);
    run_for(&b, 50 * NS_PER_MS, again_same);
    start_over(&b);
    run_for(&b, NS_PER_SEC, again_same);
    cr_assert(b.sent_bytes > LINE * 995 / 1000, "%lu", b.sent_bytes);
    cr_assert(b.got[2] > b.got[1] * 199 / 100 && b.got[1] > b.got[0] * 199 / 100);
    bed_end(&b);
}

/* At any time, over any window: rate and one burst. */
Test(qos_share, ceilings_hold_at_all_times) {
    const uint64_t ceiling[4] = {1000000, 20000000, 100000000, 300000000};
    struct bed b = bed_make(8, 4, 4096);
    bed_begin(&b, 1, 0);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 0, LINE), 0);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert_eq(bed_node(&b, 1 + i, 0, 1, 0, ceiling[i]), 0);
        cr_assert_eq(bed_owner(&b, i, 1 + i), 0);
    }
    cr_assert_eq(bed_commit(&b), 0);
    b.tk->io.now = NS_PER_SEC;
    for (uint32_t i = 0; i < 4; i++)
        fill(&b, i, 1, 128);
    for (ns_t end = NS_PER_SEC * 2; b.tk->io.now < end;) {
        bed_turn(&b, again_same, LATE);
        double seconds = (double)(b.tk->io.now - NS_PER_SEC) / 1e9;
        for (uint32_t i = 0; i < 4; i++) {
            double burst = (double)(ceiling[i] / 1000 > 32768 ? ceiling[i] / 1000 : 32768) + FULL;
            cr_assert((double)b.got[i] <= (double)ceiling[i] * seconds + burst, "%u: %lu in %.6f", i, b.got[i],
                      seconds);
        }
    }
    for (uint32_t i = 0; i < 4; i++)
        cr_assert(b.got[i] > ceiling[i] * 99 / 100, "%u: %lu", i, b.got[i]);
    bed_end(&b);
}

/* 40 % of the line for a node of the least weight among heavy ones, in a tier that has no guarantee of its own; what it
 * asks for beyond that comes by weight. */
Test(qos_share, guarantees_come_before_shares) {
    struct bed b = bed_make(8, 4, 4096);
    bed_begin(&b, 2, 0);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 0, LINE), 0);
    cr_assert_eq(bed_node(&b, 1, 0, 1, 0, 0), 0);
    cr_assert_eq(bed_node(&b, 2, 0, 49, 0, 0), 0);
    cr_assert_eq(bed_node(&b, 3, 1, 1, LINE * 4 / 10, 0), 0);
    cr_assert_eq(bed_node(&b, 4, 1, 1, 0, 0), 0);
    cr_assert_eq(bed_owner(&b, 0, 3), 0);
    cr_assert_eq(bed_owner(&b, 1, 2), 0);
    cr_assert_eq(bed_owner(&b, 2, 4), 0);
    cr_assert_eq(bed_commit(&b), 0);
    fill(&b, 0, 4, 128);
    fill(&b, 1, 4, 128);
    fill(&b, 2, 4, 128);
    run_for(&b, 50 * NS_PER_MS, again_same);
    start_over(&b);
    run_for(&b, NS_PER_SEC, again_same);
    cr_assert(b.got[0] >= LINE * 396 / 1000 && b.got[0] <= LINE * 420 / 1000, "%lu", b.got[0]);
    cr_assert(b.got[1] >= LINE * 570 / 1000, "%lu", b.got[1]);
    cr_assert(b.sent_bytes > LINE * 995 / 1000);
    bed_end(&b);
}

/* Super-segments of 64 KiB beside frames: the same bytes for the same weight. */
Test(qos_share, giants_win_nothing) {
    struct bed b = bed_make(8, 4, 4096);
    grow(&b, 4, 0);
    cr_assert_eq(bed_owner(&b, 1, 1), 0); /* owners 0 and 1: flows of one leaf */
    cr_assert_eq(bed_owner(&b, 3, 3), 0); /* 2 and 3 too, with four times the weight */
    for (uint32_t i = 0; i < 512; i++) {
        bed_send(&b, 0, 1, 65000);
        bed_send(&b, 1, 2, 1500);
        bed_send(&b, 2, 3, 65000);
        bed_send(&b, 3, 4, 300);
    }
    run_for(&b, NS_PER_SEC, again_same);
    double all = (double)b.sent_bytes;
    cr_assert((double)b.got[0] > all * 0.098 && (double)b.got[1] > all * 0.098, "%lu %lu", b.got[0], b.got[1]);
    cr_assert((double)b.got[2] > all * 0.395 && (double)b.got[3] > all * 0.395, "%lu %lu", b.got[2], b.got[3]);
    bed_end(&b);
}

/* A leaf may give each user, not each flow, as much: who has nine flows gets no more than who has one. */
Test(qos_share, many_flows_win_nothing_where_users_count) {
    struct bed b = bed_make(8, 4, 8192);
    struct qos_cmd_node leaf = {.cmd = {QOS_CMD_NODE, sizeof leaf}, .id = 1, .weight = 1, .each = QOS_EACH_USER};
    bed_begin(&b, 1, 0);
    cr_assert_eq(bed_node(&b, 0, QOS_NONE, 1, 0, LINE), 0);
    cr_assert_eq(testkit_command(b.tk, &b.qos, &leaf).error, 0);
    cr_assert_eq(bed_commit(&b), 0);
    for (uint32_t i = 0; i < 4; i++) { /* owners 2 and 3: programs of one user */
        struct qos_cmd_owner o = {
            .cmd = {QOS_CMD_OWNER, sizeof o}, .owner = i, .is = {1, {i < 3 ? 100 + i : 102, 7, 8}}};
        cr_assert_eq(testkit_command(b.tk, &b.qos, &o).error, 0);
    }
    fill(&b, 0, 1, 1024);
    fill(&b, 1, 9, 256);
    fill(&b, 2, 3, 256);
    fill(&b, 3, 1, 768);
    run_for(&b, 50 * NS_PER_MS, again_same);
    start_over(&b);
    run_for(&b, NS_PER_SEC, again_same);
    uint64_t got[] = {b.got[0], b.got[1], b.got[2] + b.got[3]};
    for (uint32_t i = 0; i < 3; i++)
        cr_assert(got[i] > b.sent_bytes / 100 * 33 && got[i] < b.sent_bytes / 100 * 34, "%u: %lu", i, got[i]);
    bed_end(&b);
}
