/* SPDX-License-Identifier: Apache-2.0
 *
 * The suite of every backend (store/conform_fixture.h), on `xdp` as the kernel runs it (bpf_prog_test_run) and on
 * `model`. Then the programs' parse against the
 * canonical one, on frames of every kind, by all three hooks. Needs root; says so when it has to skip.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <linux/pkt_cls.h>

#include "nicbackend/model/model.h"
#include "nicbackend/partition/cube.h"
#include "nicbackend/rules.h"
#include "nicbackend/store/conform_fixture.h"
#include "nicbackend/store/frames_fixture.h"
#include "nicbackend/store/store.h"
#include "nicbackend/store/world_fixture.h"

static const struct {
    const char *program;
    uint32_t drop;
} hooks[] = {{"rules_xdp", 1}, {"rules_tc", TC_ACT_SHOT}, {"rules_filter", 0}};
#define HOOKS 3

static bool skip(void) {
    if (geteuid() == 0)
        return false;
    fprintf(stderr, "SKIPPED: needs root (CAP_BPF, CAP_NET_ADMIN)\n");
    return true;
}

/* --- a backend under test -------------------------------------------------------------------------------------- */

struct subject {
    struct nb_backend *b;
    struct nb_model *model; /* or */
    struct nb_rules *rules;
    int prog[HOOKS];
};

/* Newer kernels answer no test run of an skb whose IP header is cut off: `else_want` is taken for their answer. */
static bool run_or(int prog, const struct frame *f, uint32_t drop, bool else_want) {
    LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = f->b, .data_size_in = f->len, .repeat = 1);
    if (bpf_prog_test_run_opts(prog, &o) == 0)
        return o.retval == drop;
    cr_assert_eq(errno, EINVAL, "%s", strerror(errno));
    return else_want;
}

static bool run(int prog, const struct frame *f, uint32_t drop) {
    LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = f->b, .data_size_in = f->len, .repeat = 1);
    cr_assert_eq(bpf_prog_test_run_opts(prog, &o), 0, "%s", strerror(errno));
    return o.retval == drop;
}

/* Kernels answer test runs for frames of at least a link header. */
static bool drops(struct subject *s, const struct nb_view *v) {
    struct nb_key key;
    nb_key_of_view(v, &key);
    if (s->model != NULL)
        return nb_model_packet(s->model, &key, v->bytes);
    struct frame f = frame_of(v);
    bool dropped = run(s->prog[0], &f, hooks[0].drop);
    return dropped;
}

/* A socket filter that takes everything. */
static int taker(void) {
    const struct bpf_insn take[] = {{.code = 0xb7, .dst_reg = 0, .imm = -1}, {.code = 0x95}};
    int fd = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "take", "GPL", take, 2, NULL);
    cr_assert_geq(fd, 0);
    return fd;
}

static void subject_xdp(struct subject *s) {
    struct nb_error err;
    *s = (struct subject){.model = NULL};
    cr_assert_eq(nb_rules_create(&s->rules, &err), 0, "%s", err.text);
    s->b = nb_rules_backend(s->rules);
    for (int i = 0; i < HOOKS - 1; i++)
        cr_assert_eq(nb_rules_program(s->rules, hooks[i].program, &s->prog[i], &err), 0, "%s", err.text);
    int next = taker();
    cr_assert_eq(nb_rules_filter(s->rules, next, &s->prog[HOOKS - 1], &err), 0, "%s", err.text);
    close(next);
}

static void subject_model(struct subject *s) {
    struct nb_model_params p = {
        .caps = {.order = NB_ORDER_PRIO, .unique = true, .rule_max = 1000, .mask_max = 64, .levels = UINT32_MAX}};
    memset(p.caps.match, NB_MATCH_MASK, sizeof p.caps.match);
    *s = (struct subject){.rules = NULL};
    cr_assert_eq(nb_model_create(&p, &s->model), 0);
    s->b = nb_model_backend(s->model);
}

static void subject_end(struct subject *s) {
    for (int i = 0; s->rules != NULL && i < HOOKS; i++)
        close(s->prog[i]);
    s->b->ops->destroy(s->b);
    nb_model_destroy(s->model);
}

static bool subject_drops(void *arg, const struct nb_view *v) {
    return drops(arg, v);
}

static void conforms(struct subject *s, uint64_t seed) {
    const struct conform c = {.backend = s->b, .drops = subject_drops, .arg = s, .exact = true};
    (void)conform_run(&c, seed);
}

Test(nic_conformance, model) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct subject s;
        subject_model(&s);
        conforms(&s, seed);
        subject_end(&s);
    }
}

Test(nic_conformance, xdp) {
    if (skip())
        return;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct subject s;
        subject_xdp(&s);
        conforms(&s, seed);
        subject_end(&s);
    }
}

/* --- the parse ------------------------------------------------------------------------------------------------- */

/* The kernel's own view of the frame before the programs: skb hooks have the outermost tag taken out. */
static void canonical(const struct frame *f, struct nb_key *ret_key) {
    struct nb_view v;
    nb_view_parse(&(struct nb_frame){.data = f->b, .len = f->len, .dir = NB_IN}, &v);
    nb_key_of_view(&v, ret_key);
}

/* A rule that is the frame's whole key: found exactly when the program has parsed the same. Then one that differs in a
 * bit: not found. */
static void parsed_alike(struct subject *s, const struct frame *f, uint64_t *rng, uint64_t n) {
    struct nb_hw_rule rule = {.action = NB_HW_DROP, .credit = 1};
    struct nb_count final;
    struct nb_error err;
    uint64_t handle;
    bool tagged = f->b[12] == 0x81 || f->b[12] == 0x88; /* a test run leaves tags in the skb's data */
    memset(&rule.cube.mask, 0xff, sizeof rule.cube.mask);
    canonical(f, &rule.cube.value);
    for (int differ = 0; differ < 2; differ++) {
        if (differ)
            rule.cube.value.bytes[toy_roll(rng, 48)] ^= (uint8_t)(1 << toy_roll(rng, 8));
        cr_assert_eq(s->b->ops->add(s->b, &rule, &handle, &err), 0, "%s", err.text);
        for (int h = 0; h < (tagged ? 1 : HOOKS); h++)
            cr_assert_eq(run_or(s->prog[h], f, hooks[h].drop, !differ), !differ, "frame %llu, %s, %s",
                         (unsigned long long)n, hooks[h].program, differ ? "another key" : "its key");
        cr_assert_eq(s->b->ops->del(s->b, handle, &final, &err), 0);
    }
}

Test(nic_rules, programs_parse_as_the_specification_does) {
    struct subject s;
    uint64_t rng = 7;
    if (skip())
        return;
    subject_xdp(&s);
    for (uint64_t n = 0; n < 4000; n++) {
        struct frame f = frame_some(&rng);
        parsed_alike(&s, &f, &rng, n);
    }
    subject_end(&s);
}

/* --- whole policies -------------------------------------------------------------------------------------------- */

static uint32_t one_policy(struct subject *s, struct nb_store *store, struct toy *t, const struct nb_view *views,
                           uint32_t n) {
    struct nb_program program;
    struct nb_place *places;
    struct nb_update u = {.commit = NULL};
    uint32_t dropped = 0;
    const struct nb_partition_params p = {.policy = &t->policy,
                                          .world = &t->world,
                                          .caps = nb_store_caps(store),
                                          .ifindex = 1,
                                          .refusals = nb_store_refusals(store)};
    toy_judge(t);
    cr_assert_eq(nb_partition(&p, &program, &places), 0);
    cr_assert_eq(nb_store_update(store, &program, &u), 0, "%s", u.error.text);
    cr_assert_eq(u.refused, 0);
    for (uint32_t i = 0; i < n; i++) {
        bool drop = drops(s, &views[i]);
        cr_assert(!drop || t->drops[i], "packet %u dies, software lets it live", i);
        dropped += drop;
    }
    nb_program_free(&program);
    free(places);
    return dropped;
}

Test(nic_rules, policies_drop_in_the_kernel_only_what_the_interpreter_drops) {
    struct subject s;
    struct nb_store *store;
    struct nb_view views[TOY_POINTS];
    struct toy *t = calloc(1, sizeof *t);
    uint32_t n = toy_points(views), dropped = 0;
    if (skip())
        return free(t);
    subject_xdp(&s);
    cr_assert_eq(nb_store_create(s.b, &store, NULL), 0);
    for (uint64_t seed = 1; seed <= 100; seed++) {
        toy_policy(t, seed);
        dropped += one_policy(&s, store, t, views, n);
    }
    cr_assert_gt(dropped, 100);
    for (int i = 0; i < HOOKS; i++)
        close(s.prog[i]);
    nb_store_destroy(store);
    free(t);
}

/* --- prefixes inside prefixes ---------------------------------------------------------------------------------- */

Test(nic_rules, nested_prefixes_of_many_lengths_are_all_found) {
    struct subject s;
    struct nb_error err;
    struct nb_view v = {.parsed = NB_PARSED_IP | NB_PARSED_PORTS,
                        .ethertype = 0x0800,
                        .ip_version = 4,
                        .proto = 17,
                        .src = nb_addr_from_v4((uint8_t[]){10, 1, 2, 3}),
                        .dst = nb_addr_from_v4((uint8_t[]){10, 0, 0, 9})};
    uint64_t handles[33];
    if (skip())
        return;
    subject_xdp(&s);
    for (uint32_t i = 0; i <= 24; i++) { /* /8 to /32, shuffled; each drops another port */
        struct nb_hw_rule r = {.action = NB_HW_DROP, .credit = 1};
        uint32_t length = 8 + i * 7 % 25;
        for (uint32_t bit = 0; bit < 96 + length; bit++)
            r.cube.mask.src[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
        for (int k = 0; k < 16; k++)
            r.cube.value.src[k] = v.src.b[k] & r.cube.mask.src[k];
        memset(r.cube.mask.dport, 0xff, 2);
        r.cube.value.dport[1] = (uint8_t)length;
        cr_assert_eq(s.b->ops->add(s.b, &r, &handles[length], &err), 0, "%s", err.text);
    }
    for (uint32_t round = 0; round < 2; round++) {
        for (uint32_t port = 1; port < 40; port++) {
            v.dport = (uint16_t)port;
            bool want = port >= 8 && port <= 32 && (round == 0 || port % 2 == 0);
            cr_assert_eq(drops(&s, &v), want, "port %u", port);
        }
        struct nb_count final;
        for (uint32_t length = 9; length <= 31 && round == 0; length += 2)
            cr_assert_eq(s.b->ops->del(s.b, handles[length], &final, &err), 0);
    }
    subject_end(&s);
}

Test(nic_rules, a_filter_has_somebody_behind_it) {
    struct subject s;
    struct nb_error err;
    struct nb_hw_rule all = {.action = NB_HW_DROP, .credit = 1};
    uint64_t handle;
    int prog[2];
    if (skip())
        return;
    subject_xdp(&s);
    int next = taker();
    struct frame f = frame_of(&(struct nb_view){.ethertype = 0x0806});
    for (int i = 0; i < 2; i++) /* a queue each */
        cr_assert_eq(nb_rules_filter(s.rules, next, &prog[i], &err), 0, "%s", err.text);
    for (int i = 0; i < 2; i++)
        cr_assert(!run(prog[i], &f, 0));
    cr_assert_eq(s.b->ops->add(s.b, &all, &handle, &err), 0);
    for (int i = 0; i < 2; i++)
        cr_assert(run(prog[i], &f, 0));
    struct nb_count c;
    cr_assert_eq(s.b->ops->read(s.b, handle, &c), 0);
    cr_assert_eq(c.packets, 0, "the ingress hook counts");
    close(prog[0]);
    close(prog[1]);
    close(next);
    subject_end(&s);
}

Test(nic_rules, hooks_attach_and_go) {
    struct nb_rules *r, *other;
    struct nb_error err;
    if (skip())
        return;
    cr_assert_eq(unshare(CLONE_NEWNET), 0);
    cr_assert_eq(nb_rules_create(&r, &err), 0, "%s", err.text);
    cr_assert_eq(nb_rules_create(&other, &err), 0, "%s", err.text);
    cr_assert_eq(nb_rules_attach(r, 1, NB_RULES_XDP_GENERIC, &err), 0, "%s", err.text);
    cr_assert_eq(nb_rules_attach(r, 1, NB_RULES_TC, &err), 0, "%s", err.text);
    cr_assert_eq(nb_rules_attach(r, 1, NB_RULES_TC, &err), -EEXIST);
    cr_assert_eq(nb_rules_attach(other, 1, NB_RULES_XDP_GENERIC, &err), -EBUSY);
    int native = nb_rules_attach(other, 1, NB_RULES_XDP_NATIVE, &err);
    cr_assert(native == -EBUSY || native == -EOPNOTSUPP, "which of the two Linux says first depends on its age");
    cr_assert_str_eq(nb_rules_mode(r, NB_RULES_XDP_GENERIC), "generic XDP link");
    cr_assert_null(nb_rules_mode(r, NB_RULES_XDP_NATIVE));
    nb_rules_destroy(r);
    cr_assert_eq(nb_rules_attach(other, 1, NB_RULES_XDP_GENERIC, &err), 0, "%s", err.text);
    nb_rules_destroy(other);
}
