/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulator's own tests: its clock, its wire, its options, its way to die; and that it sees every fault which is
 * planted in the toy link engine, while a sound one passes. TOY_DIR is the folder of the toys.
 */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/sim/model.h"
#include "test/sim/store.h"

/* -------------------------------------------------------------------------------------------------------- world */

struct seen {
    struct world *world;
    uint64_t values[64];
    uint32_t count;
};

static void remember(void *arg, uint64_t value) {
    struct seen *s = (struct seen *)arg;
    s->values[s->count++] = value;
    if (value == 100) /* an event may post others, also for now */
        world_post(s->world, s->world->now, remember, s, 101);
}

Test(sim_world, events_run_by_time_and_then_by_order_of_posting) {
    struct world w;
    world_init(&w, 1);
    struct seen s = {.world = &w};
    const ns_t at[] = {50, 10, 10, 30, 10, 50, 20};
    for (uint32_t i = 0; i < ARRAY_LEN(at); i++)
        world_post(&w, WORLD_EPOCH + at[i], remember, &s, i);
    world_post(&w, WORLD_EPOCH + 20, remember, &s, 100);
    world_run(&w, WORLD_EPOCH + 30);
    const uint64_t want[] = {1, 2, 4, 6, 100, 101, 3};
    cr_assert_eq(s.count, ARRAY_LEN(want));
    cr_assert_arr_eq(s.values, want, sizeof want);
    cr_assert_eq(w.now, WORLD_EPOCH + 30);
    world_run(&w, WORLD_EPOCH + 100);
    cr_assert_eq(s.count, ARRAY_LEN(want) + 2);
    world_fini(&w);
}

Test(sim_world, the_first_failure_stops_the_run) {
    struct world w;
    world_init(&w, 1);
    struct seen s = {.world = &w};
    world_post(&w, WORLD_EPOCH + 5, remember, &s, 1);
    world_fail(&w, "first %d", 1);
    world_fail(&w, "second");
    world_run(&w, WORLD_EPOCH + 100);
    cr_assert_eq(s.count, 0);
    cr_assert(strstr(w.failure, "first 1") != NULL);
    world_fini(&w);
}

/* --------------------------------------------------------------------------------------------------------- link */

struct arrived {
    uint32_t count, altered, out_of_order, duplicates;
    uint32_t last;
};

static void arrive(void *arg, const uint8_t *frame, uint32_t len) {
    struct arrived *a = (struct arrived *)arg;
    uint32_t number = 0, copy = 0;
    if (len == 100) {
        memcpy(&number, frame, 4);
        memcpy(&copy, frame + 50, 4);
    }
    a->count++;
    a->altered += len != 100 || number != copy;
    a->out_of_order += number < a->last;
    a->last = number;
}

static void doubled(void *arg, const uint8_t *frame, uint32_t len) {
    (void)frame, (void)len;
    ((struct arrived *)arg)->duplicates++;
}

static struct arrived send_frames(const struct link_faults *faults, uint32_t n, ns_t gap, struct link *ret_link) {
    struct world w;
    struct arrived a = {0};
    world_init(&w, 7);
    link_init(ret_link, &w, faults, 7, 1);
    ret_link->deliver = arrive;
    ret_link->duplicated = doubled;
    ret_link->arg = &a;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t frame[100] = {0};
        memcpy(frame, &i, 4);
        memcpy(frame + 50, &i, 4);
        link_send(ret_link, frame, sizeof frame);
        world_run(&w, w.now + gap);
    }
    world_run(&w, w.now + NS_PER_SEC);
    world_fini(&w);
    return a;
}

Test(sim_link, a_perfect_wire_keeps_everything_in_order) {
    struct link l;
    struct arrived a = send_frames(&(struct link_faults){.delay = 1000, .jitter = 900}, 1000, 100, &l);
    cr_assert_eq(a.count, 1000);
    cr_assert_eq(a.altered + a.out_of_order + a.duplicates, 0);
}

Test(sim_link, each_fault_strikes_about_as_often_as_asked) {
    struct link l;
    const struct link_faults faults = {
        .loss_ppm = 100000, .duplicate_ppm = 100000, .corrupt_ppm = 100000, .reorder_ppm = 100000, .delay = 1000};
    struct arrived a = send_frames(&faults, 10000, 100, &l);
    cr_assert(l.stats.lost > 800 && l.stats.lost < 1200);
    cr_assert(a.duplicates > 700 && a.duplicates < 1100);
    cr_assert(l.stats.corrupted > 700 && l.stats.corrupted < 1100);
    cr_assert(l.stats.reordered > 700 && a.out_of_order > 300);
    cr_assert_eq(a.count, 10000 - l.stats.lost + a.duplicates);
}

Test(sim_link, a_bottleneck_paces_and_overflows) {
    struct link l;
    /* 100 bytes at 8 Mbit/s take 100 us; frames come every 50 us; 2000 bytes may wait. */
    const struct link_faults faults = {.bottleneck_bps = 8000000, .queue_bytes = 2000};
    struct arrived a = send_frames(&faults, 1000, 50 * NS_PER_US, &l);
    cr_assert(a.count > 490 && a.count < 540, "%u", a.count);
    cr_assert_eq(a.count + l.stats.overflowed, 1000);
    cr_assert_eq(a.out_of_order, 0);
}

Test(sim_link, an_outage_ends) {
    struct link l;
    const struct link_faults faults = {.outage_ppm = 2000, .outage = 5 * NS_PER_MS};
    struct arrived a = send_frames(&faults, 10000, 100 * NS_PER_US, &l);
    cr_assert(l.stats.lost > 20 && a.count > 5000);
}

/* ------------------------------------------------------------------------------------------------------ options */

Test(sim_options, overruling_one_leaves_the_others) {
    struct sim_options a = {.seed = 5, .level = SIM_WILD}, b = a;
    cr_assert(sim_options_set(&b, "loss_ppm=77"));
    sim_options_draw(&a);
    sim_options_draw(&b);
    for (uint32_t i = 0; i < SIM_OPTION_COUNT; i++)
        cr_assert_eq(b.v[i], i == SIM_loss_ppm ? 77 : a.v[i]);
}

Test(sim_options, nonsense_is_refused) {
    struct sim_options o = {0};
    const char *const bad[] = {"", "loss_ppm", "loss_ppm=", "loss_ppm=x", "loss_ppm=1x", "loss=1", "loss_ppmm=1"};
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_assert_not(sim_options_set(&o, bad[i]), "%s", bad[i]);
}

Test(sim_options, the_printed_command_names_the_seed_and_what_was_given) {
    struct sim_options o = {.seed = 42, .time_ms = 1500, .level = SIM_MILD, .engines = "somewhere"};
    char text[512] = "";
    sim_options_set(&o, "kills=3");
    FILE *f = fmemopen(text, sizeof text, "w");
    sim_options_print_command(&o, f);
    fclose(f);
    cr_assert_str_eq(text, "usher-sim --seed 42 --time 1500ms --faults mild --set kills=3 --engines somewhere\n");
}

/* ---------------------------------------------------------------------------------------------------- whole runs */

static struct model_result run_toy(const char *toy, uint64_t seed, const char *more) {
    char folder[256];
    snprintf(folder, sizeof folder, "%s%s", TOY_DIR, toy);
    struct sim_options o = {.seed = seed, .time_ms = 3000, .level = SIM_MILD, .engines = folder};
    const char *const fixed[] = {"size_max=1000", "gso_ppm=0", "tx_csum=0", "rate=200", "sockets=4", more};
    for (uint32_t i = 0; i < ARRAY_LEN(fixed); i++)
        cr_assert(more == NULL || sim_options_set(&o, fixed[i]), "%s", fixed[i]);
    sim_options_draw(&o);
    struct model_result r;
    model_run(&o, &r);
    return r;
}

Test(sim_run, a_sound_engine_passes, .timeout = 60) {
    uint64_t deaths = 0, upgrades = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct model_result r = run_toy("FINE", seed, "kills=10");
        cr_assert_not(r.failed, "seed %llu: %s", (unsigned long long)seed, r.failure);
        cr_assert(r.stats.probes > 0 && r.stats.answered > 0);
        deaths += r.deaths;
        upgrades += r.upgrades;
    }
    cr_assert(deaths > 50 && upgrades > 50, "%llu deaths, %llu upgrades", (unsigned long long)deaths,
              (unsigned long long)upgrades);
}

Test(sim_run, one_seed_one_trace, .timeout = 60) {
    struct model_result a = run_toy("FINE", 11, "kills=5"), b = run_toy("FINE", 11, "kills=5");
    struct model_result c = run_toy("FINE", 12, "kills=5");
    cr_assert_eq(a.wire_hash, b.wire_hash);
    cr_assert_eq(a.app_hash, b.app_hash);
    cr_assert_neq(a.wire_hash, c.wire_hash);
}

Test(sim_run, every_planted_fault_is_seen, .timeout = 120) {
    static const struct {
        const char *toy, *more, *text;
    } rows[] = {
        {"LEAK", "kills=0", "never came back"},
        {"TWICE", "kills=0", "which it does not hold"},
        {"ALTER", "kills=0", "altered bytes"},
        {"CLONE", "kills=0", "once too often"},
        {"MUTE", "kills=0", "without a reason"},
        {"NO_UNDO", "kills=20", "loses 1 records"},
        {"FORGETS", "upgrades=5", "at "}, /* shows as a wrong address, or as silence */
        {"SPINS", "kills=0", "without an end"},
        {"WRONG_SOCKET", "kills=0", "wrong address"},
        {"BAD_SUM", "kills=0", "whose checksum it left"},
    };
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct model_result r = {0};
        for (uint64_t seed = 1; seed <= 20 && !r.failed; seed++)
            r = run_toy(rows[i].toy, seed, rows[i].more);
        cr_assert(r.failed, "%s passes", rows[i].toy);
        cr_expect(strstr(r.failure, rows[i].text) != NULL, "%s: %s", rows[i].toy, r.failure);
    }
}
