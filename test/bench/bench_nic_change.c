/* SPDX-License-Identifier: Apache-2.0
 *
 * nic-change: from a policy of 10,000 rules to what a NIC does about it: all of them at once, and one that becomes
 * another. The NIC is the xdp backend's table in the kernel; software's part of a change is the benches' of filters.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/plan.h"
#include "nicbackend/rules.h"
#include "nicbackend/store/store.h"
#include "test/bench/benches.h"
#include "test/bench/tick.h"

#define RULES      10000u
#define CHANGES    20u
#define BINDS      100u
#define OWNER_RULE (RULES - 1)

enum { SCRATCH, CHANGE, BIND };

static const struct bench_metric metrics[] = {
    [SCRATCH] = {.name = "scratch", .unit = "ms", .target_kind = TARGET_USHER, .target = 1000},
    [CHANGE] = {.name = "change", .unit = "ms", .target_kind = TARGET_USHER, .target = 5},
    [BIND] = {.name = "bind", .unit = "us", .target_kind = TARGET_USHER, .target = 200},
};

/* Deny rules for hosts and nets and a port, an exception for every hundredth, one that closes a port to all, and one
 * for an owner. */
static void rule_make(struct nb_rule *r, uint32_t i) {
    uint32_t bits = i % 3 ? 128 : 120;
    *r = (struct nb_rule){.id = i + 1, .tier = NB_TIER_HOST, .limit = NB_NONE};
    r->action = (struct nb_action){.verdict = i % 100 == 50 ? NB_ALLOW : NB_DROP, .counter = NB_NONE};
    r->match = (struct nb_match){.fields = NB_F_DIR | NB_F_PROTO | NB_F_DPORT | (i + 2 < RULES ? NB_F_SRC : 0),
                                 .dir = NB_IN,
                                 .proto = IPPROTO_UDP,
                                 .dport = {1000 + i % 5000, 1000 + i % 5000},
                                 .owner = NB_NONE};
    for (uint32_t bit = 0; bit < bits; bit++)
        r->match.src_mask.b[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    if (i == OWNER_RULE) {
        r->match.fields = NB_F_DIR | NB_F_PROTO;
        r->match.owner = 0;
    }
    r->match.src = nb_addr_from_v4((uint8_t[]){10, (uint8_t)(128 + i % 64), (uint8_t)(i / 64), (uint8_t)(1 + i % 250)});
    for (int k = 0; k < 16; k++)
        r->match.src.b[k] &= r->match.src_mask.b[k];
}

struct rig {
    struct nb_store *store;
    struct nb_plan plan;
    struct nb_policy policy;
    struct nb_rule rules[RULES], old[RULES];
};

static struct nb_partition_params params_of(const struct rig *r, const struct nb_world *world,
                                            const struct nb_program *resident) {
    return (struct nb_partition_params){.policy = &r->policy,
                                        .world = world,
                                        .caps = nb_store_caps(r->store),
                                        .ifindex = 1,
                                        .exact = true,
                                        .resident = resident,
                                        .refusals = nb_store_refusals(r->store)};
}

/* Partition and transaction, as control does both; milliseconds, -1 when it did not succeed. `old`: NULL for all of
 * it. */
static double bring(struct rig *r, const struct nb_policy *old) {
    const struct nb_world world = NB_WORLD_UNKNOWN;
    struct nb_program program = {.rules = NULL}, resident;
    struct nb_plan plan = {.places = NULL};
    struct nb_update u = {.commit = NULL};
    uint64_t start = tick_ns();
    if (nb_store_program(r->store, &resident) != 0)
        return -1;
    const struct nb_partition_params p = params_of(r, &world, &resident);
    int rc = nb_plan_follow(&r->plan, old, &p, &plan, &program);
    if (rc == 0)
        rc = nb_store_update(r->store, &program, &u);
    double ms = (double)(tick_ns() - start) / 1e6;
    nb_program_free(&program);
    nb_program_free(&resident);
    nb_plan_free(&r->plan);
    r->plan = plan;
    return rc == 0 && u.refused == 0 ? ms : -1;
}

static double change(struct rig *rig, uint32_t i) {
    struct nb_policy old = rig->policy;
    struct nb_rule *r = &rig->rules[(i * 487 + 13) % RULES];
    memcpy(rig->old, rig->rules, sizeof rig->old);
    old.rules = rig->old;
    if (i % 2)
        r->action.verdict = r->action.verdict == NB_DROP ? NB_ALLOW : NB_DROP;
    else
        r->match.dport.lo = r->match.dport.hi = (r->match.dport.lo + 1) % 65536;
    return bring(rig, &old);
}

/* A socket whose packets the owner's rule drops, and it goes again; microseconds of the first. */
static double bind_one(struct rig *r, uint16_t port) {
    const struct nb_world world = NB_WORLD_UNKNOWN;
    const struct nb_owner owner = {.pid = 1};
    struct nb_cell cell = {.owner = &owner, .owner_known = true, .states = NB_STATES_ALL};
    double us[2] = {-1, -1};
    cell.cube.value.parsed = cell.cube.mask.parsed = NB_PARSED_IP | NB_PARSED_PORTS;
    cell.cube.value.proto = IPPROTO_UDP;
    cell.cube.mask.proto = 0xff;
    memcpy(cell.cube.value.dport, (uint8_t[]){(uint8_t)(port >> 8), (uint8_t)port}, 2);
    memset(cell.cube.mask.dport, 0xff, 2);
    for (int goes = 0; goes < 2; goes++) {
        struct nb_program program;
        struct nb_update u = {.commit = NULL};
        uint64_t start = tick_ns();
        if (nb_store_program(r->store, &program) != 0)
            return -1;
        const struct nb_partition_params p = params_of(r, &world, NULL);
        int rc = goes ? nb_plan_go(&r->plan, &p, &cell, 1, &program) : nb_plan_come(&r->plan, &p, &cell, 1, &program);
        if (rc == 0)
            rc = nb_store_update(r->store, &program, &u);
        nb_program_free(&program);
        if (rc != 0 || u.added == 0)
            return -1;
        us[goes] = (double)(tick_ns() - start) / 1e3;
    }
    return us[0];
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median: a bind is a matter of microseconds, and so is whatever else the machine does. */
static int measure_binds(struct bench_env *env, struct rig *rig) {
    double us[BINDS];
    for (uint32_t i = 0; i < BINDS; i++)
        if ((us[i] = bind_one(rig, (uint16_t)(30000 + i))) < 0)
            return -1;
    qsort(us, BINDS, sizeof *us, by_value);
    bench_sample(env, SIDE_USHER, BIND, us[BINDS / 2]);
    return 0;
}

static int measure(struct bench_env *env, struct rig *rig) {
    double worst = 0, ms;
    static const struct nb_owner_match hers = {.fields = NB_OWNER_PID, .pid = 1};
    rig->policy = (struct nb_policy){.rules = rig->rules, .rule_count = RULES, .owners = &hers, .owner_count = 1};
    for (uint32_t i = 0; i < NB_TIER_COUNT; i++)
        rig->policy.defaults[i] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
    for (uint32_t i = 0; i < RULES; i++)
        rule_make(&rig->rules[i], i);
    ms = bring(rig, NULL);
    if (ms < 0)
        return -1;
    bench_sample(env, SIDE_USHER, SCRATCH, ms);
    for (uint32_t i = 0; i < CHANGES && ms >= 0; i++) {
        ms = change(rig, i);
        worst = ms > worst ? ms : worst;
    }
    if (ms < 0)
        return -1;
    bench_sample(env, SIDE_USHER, CHANGE, worst);
    return measure_binds(env, rig);
}

static int usher_side(struct bench_env *env) {
    struct rig *rig = calloc(1, sizeof *rig);
    struct nb_rules *table;
    struct nb_error err = {"no memory"};
    if (rig == NULL || nb_rules_create(&table, &err) != 0) {
        free(rig);
        return bench_fail(env, SIDE_USHER, "%s", err.text);
    }
    int rc = nb_store_create(nb_rules_backend(table), &rig->store, &err);
    if (rc != 0) {
        nb_rules_destroy(table);
        free(rig);
        return bench_fail(env, SIDE_USHER, "%s", err.text);
    }
    rc = measure(env, rig);
    nb_store_destroy(rig->store);
    nb_plan_free(&rig->plan);
    free(rig);
    return rc == 0 ? 0 : bench_fail(env, SIDE_USHER, "the table did not take the rules");
}

const struct bench bench_nic_change = {
    .name = "nic-change",
    .what = "10,000 rules brought into a NIC's table, one of them changed (the slowest of 20), a socket bound",
    .metrics = metrics,
    .metric_count = sizeof(metrics) / sizeof(metrics[0]),
    .rounds = 3,
    .seconds = 1,
    .slack_seconds = 20,
    .side = {[SIDE_USHER] = usher_side},
};
