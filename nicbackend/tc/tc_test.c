/* SPDX-License-Identifier: Apache-2.0
 *
 * The `tc` backend against the kernel's own flower, gact and netem: the suite of all backends, frames of every kind
 * against the canonical parse, whole policies against the interpreter, successors and meddlers. Needs root and flower;
 * where the kernel has none, vm.flower does.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nicbackend/flow/flow.h"
#include "nicbackend/partition/cube.h"
#include "nicbackend/store/conform_fixture.h"
#include "nicbackend/store/store.h"
#include "nicbackend/store/world_fixture.h"
#include "nicbackend/tc.h"
#include "nicbackend/tc/wire_fixture.h"

static struct wire wire;
static struct nb_error err;

static struct nb_backend *backend_open(void) {
    struct nb_tc *t;
    const struct nb_tc_params p = {.ifindex = wire.ifindex, .place = NB_TC_SOFTWARE, .rule_max = 256};
    cr_assert_eq(nb_tc_create(&p, &t, &err), 0, "%s", err.text);
    return nb_tc_backend(t);
}

/* False: it cannot be done here. */
static bool begin(void) {
    struct nb_tc *t = NULL;
    if (geteuid() == 0) {
        wire_make(&wire);
        const struct nb_tc_params p = {.ifindex = wire.ifindex, .place = NB_TC_SOFTWARE, .rule_max = 1};
        if (nb_tc_create(&p, &t, &err) == 0)
            nb_tc_backend(t)->ops->destroy(nb_tc_backend(t));
    }
    if (t == NULL)
        fprintf(stderr, "SKIPPED: needs root and a kernel with flower (vm.flower has both)\n");
    return t != NULL;
}

static bool drops(void *arg, const struct nb_view *v) {
    struct frame f = frame_of(v);
    (void)arg;
    return !wire_arrives(&wire, &f);
}

Test(nic_tc, conforms, .timeout = 100) {
    uint32_t dropped = 0;
    if (!begin())
        return;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct nb_backend *b = backend_open();
        const struct conform c = {.backend = b, .drops = drops};
        dropped += conform_run(&c, seed);
        b->ops->destroy(b);
    }
    cr_assert_gt(dropped, 1000, "%u", dropped);
    wire_end(&wire);
}

/* --- the parse ------------------------------------------------------------------------------------------------- */

/* The headers fit the frame: else devices may see what the canonical parse does not (see flow.h). */
static bool is_sane(const struct nb_view *v) {
    bool ip = v->ethertype == 0x0800 || v->ethertype == 0x86dd;
    bool transport = v->proto == 6 || v->proto == 17 || v->proto == 132 || v->proto == 136 || v->proto == 1;
    if (ip && (v->parsed & NB_PARSED_IP) == 0)
        return false;
    return v->ip_version != 4 || !transport || (v->parsed & ~NB_PARSED_IP) != 0;
}

/* Some fields of the frame's own key. */
static struct nb_cube some_cube(const struct nb_key *key, uint64_t *rng) {
    static const enum nb_key_field whole[] = {NB_KEY_PROTO, NB_KEY_SPORT, NB_KEY_DPORT,     NB_KEY_DSCP,
                                              NB_KEY_VLAN,  NB_KEY_SRC,   NB_KEY_ETHERTYPE, NB_KEY_ICMP_TYPE};
    struct nb_cube c;
    uint32_t size;
    memset(&c, 0, sizeof c);
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++) {
        uint8_t *mask = nb_key_field(&c.mask, whole[i], &size);
        if (toy_roll(rng, 3) == 0)
            memset(mask, 0xff, size);
    }
    c.mask.parsed = (uint8_t)toy_roll(rng, 16);
    if ((c.mask.sport[0] | c.mask.dport[0]) != 0) {
        c.mask.parsed |= NB_PARSED_PORTS;
        c.mask.proto = 0xff;
    }
    c.mask.dscp &= 0x3f;
    c.mask.icmp_type = (key->parsed & NB_PARSED_ICMP) != 0 ? c.mask.icmp_type : 0;
    for (size_t i = 0; i < sizeof c.mask.bytes; i++)
        c.value.bytes[i] = key->bytes[i] & c.mask.bytes[i];
    return c;
}

static uint64_t counted(struct nb_backend *b, uint64_t handle) {
    struct nb_count n;
    cr_assert_eq(b->ops->read(b, handle, &n), 0);
    return n.packets;
}

/* 1: a drop of `cube` takes the frame, 0: it does not, -1: such a drop is not taken. */
static int is_dropped(struct nb_backend *b, const struct nb_cube *cube, const struct frame *f) {
    const struct nb_hw_rule drop = {.cube = *cube, .action = NB_HW_DROP, .credit = 1};
    struct nb_count final;
    uint64_t handle;
    int error = b->ops->add(b, &drop, &handle, &err);
    if (error == -EOPNOTSUPP)
        return -1;
    cr_assert_eq(error, 0, "%s", err.text);
    (void)wire_arrives(&wire, f);
    cr_assert_eq(b->ops->del(b, handle, &final, &err), 0, "%s", err.text);
    return final.packets != 0;
}

/* A drop of everything below a punt of `cube`. */
static bool is_punted(struct nb_backend *b, const struct nb_cube *cube, const struct frame *f) {
    struct nb_hw_rule drop = {.action = NB_HW_DROP, .credit = 1};
    const struct nb_hw_rule punt = {.cube = *cube, .action = NB_HW_PUNT, .prec = 1};
    struct nb_count final;
    uint64_t handles[2];
    cr_assert_eq(b->ops->add(b, &punt, &handles[0], &err), 0, "%s", err.text);
    cr_assert_eq(b->ops->add(b, &drop, &handles[1], &err), 0, "%s", err.text);
    (void)wire_arrives(&wire, f);
    bool dropped = counted(b, handles[1]) != 0;
    cr_assert_eq(b->ops->del(b, handles[1], &final, &err), 0, "%s", err.text);
    cr_assert_eq(b->ops->del(b, handles[0], &final, &err), 0, "%s", err.text);
    return !dropped;
}

Test(nic_tc, parses_as_the_specification_does, .timeout = 150) {
    uint64_t rng = 11;
    uint32_t taken = 0;
    if (!begin())
        return;
    struct nb_backend *b = backend_open();
    for (uint32_t n = 0; n < 700; n++) {
        struct frame f = frame_some(&rng);
        struct nb_view v;
        struct nb_key key;
        nb_view_parse(&(struct nb_frame){.data = f.b, .len = f.len, .dir = NB_IN}, &v);
        nb_key_of_view(&v, &key);
        if (!is_sane(&v))
            continue;
        struct nb_cube cube = some_cube(&key, &rng);
        cr_assert(is_punted(b, &cube, &f), "frame %u is dropped in spite of a punt", n);
        taken += is_dropped(b, &cube, &f) == 1;
        cube.value.bytes[toy_roll(&rng, 48)] ^= (uint8_t)(1 << toy_roll(&rng, 8));
        for (size_t i = 0; i < sizeof cube.mask.bytes; i++)
            cube.value.bytes[i] &= cube.mask.bytes[i];
        if (!nb_cube_has(&cube, &key))
            cr_assert_neq(is_dropped(b, &cube, &f), 1, "frame %u is dropped by a rule that does not match it", n);
    }
    cr_assert_gt(taken, 30, "%u", taken);
    b->ops->destroy(b);
    wire_end(&wire);
}

/* --- whole policies -------------------------------------------------------------------------------------------- */

static void update(struct nb_store *store, const struct nb_policy *policy, const struct nb_world *world,
                   uint32_t ifindex) {
    struct nb_program program;
    struct nb_place *places;
    struct nb_update u = {.commit = NULL};
    const struct nb_partition_params p = {.policy = policy,
                                          .world = world,
                                          .caps = nb_store_caps(store),
                                          .ifindex = ifindex,
                                          .refusals = nb_store_refusals(store)};
    cr_assert_eq(nb_partition(&p, &program, &places), 0);
    cr_assert_eq(nb_store_update(store, &program, &u), 0, "%s", u.error.text);
    nb_program_free(&program);
    free(places);
}

Test(nic_tc, policies_drop_only_what_the_interpreter_drops, .timeout = 150) {
    struct nb_store *store;
    struct nb_view views[TOY_POINTS];
    uint32_t n = toy_points(views), dropped = 0, all = 0;
    if (!begin())
        return;
    struct toy *t = calloc(1, sizeof *t);
    cr_assert_eq(nb_store_create(backend_open(), &store, &err), 0, "%s", err.text);
    for (uint64_t seed = 1; seed <= 40; seed++) {
        toy_policy(t, seed);
        toy_judge(t);
        update(store, &t->policy, &t->world, 1);
        cr_assert_eq(nb_store_audit(store, &err), 0, "the kernel has what we know");
        for (uint32_t i = seed % 2; i < n; i += 2) {
            bool dead = drops(NULL, &views[i]);
            cr_assert(!dead || t->drops[i], "seed %d packet %u dies, software lets it live", (int)seed, i);
            dropped += dead;
            all += t->drops[i];
        }
    }
    cr_assert_gt(dropped, all / 3, "%u of %u", dropped, all);
    nb_store_destroy(store);
    free(t);
    wire_end(&wire);
}

/* --- others ---------------------------------------------------------------------------------------------------- */

static void policy_of(struct nb_policy *p, struct nb_rule rules[2], uint16_t port) {
    memset(rules, 0, 2 * sizeof *rules);
    for (int i = 0; i < 2; i++)
        rules[i] = (struct nb_rule){.id = i == 0 ? 7u : 8u + port,
                                    .limit = NB_NONE,
                                    .match = {.owner = NB_NONE},
                                    .action = {.verdict = NB_DROP, .counter = NB_NONE}};
    rules[0].match.fields = NB_F_SRC;
    rules[0].match.src = nb_addr_from_v4((uint8_t[]){10, 0, 0, 1});
    memset(&rules[0].match.src_mask, 0xff, 16);
    rules[1].match.fields = NB_F_PROTO | NB_F_DPORT;
    rules[1].match.proto = 17;
    rules[1].match.dport = (struct nb_range){port, port};
    *p = (struct nb_policy){.rules = rules, .rule_count = 2};
    for (int i = 0; i < NB_TIER_COUNT; i++)
        p->defaults[i] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
}

static void set_policy(struct nb_store *store, uint16_t port) {
    const struct nb_world world = NB_WORLD_UNKNOWN;
    struct nb_policy p;
    struct nb_rule rules[2];
    policy_of(&p, rules, port);
    update(store, &p, &world, wire.ifindex);
}

static struct frame udp(uint8_t src, uint16_t dport) {
    const struct nb_view v = {.parsed = NB_PARSED_IP | NB_PARSED_PORTS,
                              .src = nb_addr_from_v4((uint8_t[]){10, 0, 0, src}),
                              .dst = nb_addr_from_v4((uint8_t[]){10, 0, 0, 9}),
                              .ethertype = 0x0800,
                              .ip_version = 4,
                              .proto = 17,
                              .dport = dport};
    return frame_of(&v);
}

/* What a predecessor leaves is found, deleted by the first update and counted; meddling is found and put right. */
Test(nic_tc, successors_and_meddlers, .timeout = 100) {
    struct nb_store *store, *next;
    struct frame denied = udp(1, 9), other = udp(2, 5), fine = udp(2, 9);
    if (!begin())
        return;
    cr_assert_eq(nb_store_create(backend_open(), &store, &err), 0, "%s", err.text);
    set_policy(store, 5);
    cr_assert(!wire_arrives(&wire, &denied) && !wire_arrives(&wire, &other) && wire_arrives(&wire, &fine));
    uint32_t rules = nb_store_count(store);
    nb_store_destroy(store);
    cr_assert_not(wire_arrives(&wire, &other), "filters outlive who made them");

    cr_assert_eq(nb_store_create(backend_open(), &next, &err), 0, "%s", err.text);
    cr_assert_geq(nb_store_count(next), rules, "each filter is a rule of somebody else's");
    set_policy(next, 6);
    cr_assert_eq(nb_store_count(next), rules);
    cr_assert(!wire_arrives(&wire, &denied) && wire_arrives(&wire, &other));
    cr_assert_eq(nb_store_credit(next, 8 + 5).packets, 2, "what the predecessor's rules have counted");

    cr_assert_eq(system("tc filter add dev vb ingress chain 89344082 prio 9 protocol ip flower skip_hw action drop"),
                 0);
    cr_assert_not(wire_arrives(&wire, &fine));
    cr_assert_gt(nb_store_audit(next, &err), 0);
    cr_assert(wire_arrives(&wire, &fine), "a stranger in our chain is sent away");
    cr_assert_eq(system("tc filter del dev vb ingress chain 89344082"), 0);
    cr_assert(wire_arrives(&wire, &denied), "without our filters nothing is dropped");
    cr_assert_gt(nb_store_audit(next, &err), 0);
    set_policy(next, 6);
    cr_assert_not(wire_arrives(&wire, &denied));
    cr_assert_eq(system("tc qdisc del dev vb clsact"), 0);
    cr_assert_gt(nb_store_audit(next, &err), 0);
    set_policy(next, 6);
    cr_assert_not(wire_arrives(&wire, &denied));
    cr_assert_eq(nb_store_audit(next, &err), 0);
    nb_store_destroy(next);
    wire_end(&wire);
}

Test(nic_tc, says_why_it_cannot) {
    struct nb_tc *t;
    if (!begin())
        return;
    struct nb_tc_params p = {.ifindex = wire.ifindex, .place = NB_TC_HARDWARE};
    cr_assert_eq(nb_tc_create(&p, &t, &err), -EOPNOTSUPP, "veth offloads nothing");
    cr_assert(strstr(err.text, "the device takes no such filter") != NULL, "%s", err.text);
    p = (struct nb_tc_params){.ifindex = 4242, .place = NB_TC_SOFTWARE};
    cr_assert_eq(nb_tc_create(&p, &t, &err), -ENODEV, "%s", err.text);
    wire_end(&wire);
}

/* Policies change under traffic that netem delays, reorders and duplicates: what both deny never arrives, what both
 * allow always does. */
Test(nic_tc, no_window_under_a_bad_wire, .timeout = 100) {
    enum { ROUNDS = 60 };
    bool arrived[ROUNDS] = {false};
    struct nb_store *store;
    struct frame got;
    int missing = ROUNDS;
    if (!begin())
        return;
    cr_assert_eq(system("tc qdisc add dev va root netem delay 3ms 2ms reorder 25% duplicate 20% limit 10000"), 0);
    cr_assert_eq(nb_store_create(backend_open(), &store, &err), 0, "%s", err.text);
    set_policy(store, 5);
    for (int i = 0; i < ROUNDS; i++) {
        struct frame denied = udp(1, 7), fine = udp(3, (uint16_t)(100 + i)), changing = udp(2, 5);
        for (int k = 0; k < 5; k++) {
            wire_send(&wire, &denied);
            wire_send(&wire, &changing);
        }
        wire_send(&wire, &fine);
        set_policy(store, i % 2 ? 5 : 6);
    }
    while (missing > 0 && wire_receive(&wire, &got, 10000)) {
        int i = got.b[36] * 256 + got.b[37] - 100;
        cr_assert_neq(got.b[29], 1, "a packet that both policies deny has arrived");
        if (got.b[29] != 3 || i < 0 || i >= ROUNDS || arrived[i])
            continue;
        arrived[i] = true;
        missing--;
    }
    cr_assert_eq(missing, 0, "%d packets that both policies allow are lost", missing);
    nb_store_destroy(store);
    wire_end(&wire);
}
