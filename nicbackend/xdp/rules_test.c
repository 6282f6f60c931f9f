/* SPDX-License-Identifier: Apache-2.0
 *
 * One suite for every backend that can be run here, `xdp` as the kernel runs it (bpf_prog_test_run) and `model`: random
 * operations, after which each packet of the toy world must fare as the rules say. Then the programs' parse against the
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
#include "nicbackend/store/store.h"
#include "nicbackend/store/world_fixture.h"

#define LIVE 24u /* rules at a time */

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

/* --- frames ---------------------------------------------------------------------------------------------------- */

struct frame {
    uint8_t b[256];
    uint32_t len;
};

static void put(struct frame *f, const void *bytes, uint32_t n) {
    memcpy(f->b + f->len, bytes, n);
    f->len += n;
}

static void put16(struct frame *f, uint32_t v) {
    put(f, (uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2);
}

static void put_eth(struct frame *f, uint16_t type) {
    put(f, "\2\0\0\0\0\1\2\0\0\0\0\2", 12);
    put16(f, type);
}

static void put_transport(struct frame *f, const struct nb_view *v) {
    put16(f, v->proto == 1 ? (uint32_t)v->icmp_type << 8 | v->icmp_code : v->sport);
    put16(f, v->dport);
    put(f, "\0\0\0\0\0\0\0\0\x50", 9);
    put(f, &v->tcp_flags, 1);
    put(f, "\0\0\0\0\0\0", 6);
}

static void put_v4(struct frame *f, const struct nb_view *v, uint32_t options) {
    uint8_t h[60] = {(uint8_t)(0x45 + options / 4), (uint8_t)(v->dscp << 2), [8] = 64, [9] = v->proto};
    uint32_t total = 20 + options + 20;
    h[2] = (uint8_t)(total >> 8);
    h[3] = (uint8_t)total;
    h[6] = (v->parsed & NB_PARSED_FRAGMENT) != 0 ? 0x20 : 0;
    memcpy(h + 12, v->src.b + 12, 4);
    memcpy(h + 16, v->dst.b + 12, 4);
    put(f, h, 20 + options);
}

/* The frame of a view, of the toy world: what is not IP is ARP. */
static struct frame frame_of(const struct nb_view *v) {
    struct frame f = {.len = 0};
    put_eth(&f, v->ethertype);
    if ((v->parsed & NB_PARSED_IP) == 0) {
        f.len += 28;
        return f;
    }
    put_v4(&f, v, 0);
    put_transport(&f, v);
    return f;
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

/* --- operations ------------------------------------------------------------------------------------------------ */

struct live {
    struct nb_hw_rule rule;
    uint64_t handle;
    uint64_t packets;
};

struct table {
    struct live v[LIVE];
    uint32_t count, prec;
    uint64_t rng;
};

static struct nb_hw_rule some_rule(struct table *t) {
    struct nb_hw_rule r = {.action = toy_roll(&t->rng, 2) ? NB_HW_DROP : NB_HW_PUNT, .prec = toy_roll(&t->rng, 1000)};
    r.prec = r.prec * 4096 + t->prec++; /* no ties */
    r.credit = 1 + toy_roll(&t->rng, 5);
    if (toy_roll(&t->rng, 2)) {
        memset(r.cube.mask.src, 0xff, 16);
        r.cube.mask.src[15] = (uint8_t)(0xff << toy_roll(&t->rng, 3));
        r.cube.value.src[10] = r.cube.value.src[11] = 0xff;
        r.cube.value.src[12] = 10;
        r.cube.value.src[15] = (uint8_t)(toy_roll(&t->rng, 4) & r.cube.mask.src[15]);
    }
    if (toy_roll(&t->rng, 2)) {
        memset(r.cube.mask.dport, 0xff, 2);
        r.cube.value.dport[1] = (uint8_t)toy_roll(&t->rng, 4);
        r.cube.mask.parsed = r.cube.value.parsed = NB_PARSED_PORTS;
    }
    if (toy_roll(&t->rng, 3) == 0) {
        r.cube.mask.proto = 0xff;
        r.cube.value.proto = toy_roll(&t->rng, 2) ? 6 : 17;
    }
    if (toy_roll(&t->rng, 5) == 0)
        r.cube.mask.tcp_flags = r.cube.value.tcp_flags = 0x02;
    return r;
}

static struct live *holder(struct table *t, const struct nb_cube *cube) {
    for (uint32_t i = 0; i < t->count; i++)
        if (nb_cube_equal(&t->v[i].rule.cube, cube))
            return &t->v[i];
    return NULL;
}

static struct live *winner(struct table *t, const struct nb_key *key) {
    struct live *best = NULL;
    for (uint32_t i = 0; i < t->count; i++)
        if (nb_cube_has(&t->v[i].rule.cube, key) && (best == NULL || t->v[i].rule.prec > best->rule.prec))
            best = &t->v[i];
    return best;
}

static void one_operation(struct table *t, struct subject *s) {
    struct nb_error err;
    struct nb_count final = {0, 0};
    struct nb_hw_rule r = some_rule(t);
    struct live *same = holder(t, &r.cube), *l;
    if (same != NULL) {
        uint64_t handle;
        cr_assert_lt(s->b->ops->add(s->b, &r, &handle, &err), 0, "two rules of one cube");
        cr_assert_eq(s->b->ops->swap(s->b, same->handle, &r, &final, &err), 0, "%s", err.text);
        if (same->rule.action == NB_HW_DROP)
            cr_assert_eq(final.packets, same->packets);
        *same = (struct live){.rule = r, .handle = same->handle};
        return;
    }
    if (t->count == LIVE || toy_roll(&t->rng, 3) == 0) {
        l = &t->v[t->count == 0 ? 0 : toy_roll(&t->rng, t->count)];
        int want = t->count == 0 ? -ENOENT : 0;
        cr_assert_eq(s->b->ops->del(s->b, t->count == 0 ? 12345 : l->handle, &final, &err), want);
        if (want != 0)
            return;
        if (l->rule.action == NB_HW_DROP)
            cr_assert_eq(final.packets, l->packets);
        *l = t->v[--t->count];
        return;
    }
    l = &t->v[t->count++];
    *l = (struct live){.rule = r};
    cr_assert_eq(s->b->ops->add(s->b, &r, &l->handle, &err), 0, "%s", err.text);
}

static void on_dump(void *arg, uint64_t handle, const struct nb_hw_rule *rule) {
    struct table *t = arg;
    const struct live *l = holder(t, &rule->cube);
    cr_assert(l != NULL && l->handle == handle && l->rule.prec == rule->prec && l->rule.credit == rule->credit);
    t->prec++; /* counts them */
}

static void conforms(struct subject *s, uint64_t seed) {
    static struct nb_view views[TOY_POINTS];
    struct table t = {.rng = seed};
    uint32_t n = toy_points(views);
    for (int op = 0; op < 150; op++) {
        one_operation(&t, s);
        if (op % 16 == 0)
            cr_assert_eq(s->b->ops->sync(s->b), 0);
        for (uint32_t i = (uint32_t)op % 4; i < n; i += 4) {
            struct nb_key key;
            nb_key_of_view(&views[i], &key);
            struct live *l = winner(&t, &key);
            bool want = l != NULL && l->rule.action == NB_HW_DROP;
            cr_assert_eq(drops(s, &views[i]), want, "seed %llu operation %d packet %u", (unsigned long long)seed, op,
                         i);
            if (l != NULL)
                l->packets++;
        }
    }
    for (uint32_t i = 0; i < t.count; i++) {
        struct nb_count c;
        cr_assert_eq(s->b->ops->read(s->b, t.v[i].handle, &c), 0);
        if (t.v[i].rule.action == NB_HW_DROP)
            cr_assert_eq(c.packets, t.v[i].packets);
    }
    t.prec = 0;
    cr_assert_eq(s->b->ops->dump(s->b, on_dump, &t), 0);
    cr_assert_eq(t.prec, t.count);
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

static void put_v6(struct frame *f, const struct nb_view *v, uint64_t *rng) {
    static const uint8_t kinds[] = {0, 43, 60, 44};
    uint32_t n = toy_roll(rng, 9);
    n = n > 7 ? 0 : toy_roll(rng, 2) ? 0 : n;
    uint32_t total = n * 8 + 20;
    uint8_t h[40] = {(uint8_t)(0x60 | v->dscp >> 2), (uint8_t)(v->dscp << 6), [4] = (uint8_t)(total >> 8), [7] = 64};
    uint8_t kind = n == 0 ? v->proto : kinds[toy_roll(rng, 4)];
    h[5] = (uint8_t)total;
    h[6] = kind;
    memcpy(h + 8, v->src.b, 16);
    memcpy(h + 24, v->dst.b, 16);
    put(f, h, sizeof h);
    for (; n > 0; n--) {
        uint8_t e[8] = {n == 1 ? v->proto : kinds[toy_roll(rng, 4)]};
        if (kind == 44 && toy_roll(rng, 3) == 0)
            e[3] = (uint8_t)(toy_roll(rng, 2) ? 1 : 8);
        kind = e[0];
        put(f, e, sizeof e);
    }
}

static struct frame some_frame(uint64_t *rng) {
    static const uint8_t protos[] = {6, 17, 1, 58, 132, 136, 47, 6, 17};
    struct nb_view v = {.proto = protos[toy_roll(rng, sizeof protos)],
                        .sport = (uint16_t)toy_roll(rng, 3),
                        .dport = (uint16_t)toy_roll(rng, 3),
                        .tcp_flags = (uint8_t)toy_roll(rng, 256),
                        .icmp_type = (uint8_t)toy_roll(rng, 4),
                        .dscp = (uint8_t)toy_roll(rng, 64),
                        .parsed = toy_roll(rng, 8) ? 0 : NB_PARSED_FRAGMENT};
    struct frame f = {.len = 0};
    bool v6 = toy_roll(rng, 2) != 0;
    v.src = nb_addr_from_v4((uint8_t[]){10, 0, 0, (uint8_t)toy_roll(rng, 4)});
    v.dst = nb_addr_from_v4((uint8_t[]){10, 0, 1, (uint8_t)toy_roll(rng, 4)});
    put(&f, "\2\0\0\0\0\1\2\0\0\0\0\2", 12);
    for (uint32_t tags = toy_roll(rng, 6); tags > 0 && tags < 4; tags--) {
        put16(&f, toy_roll(rng, 2) ? 0x8100 : 0x88a8);
        put16(&f, toy_roll(rng, 3) | 0x6000);
    }
    put16(&f, toy_roll(rng, 20) == 0 ? 0x0806 : v6 ? 0x86dd : 0x0800);
    uint32_t l3 = f.len;
    if (v6)
        put_v6(&f, &v, rng);
    else
        put_v4(&f, &v, 4 * toy_roll(rng, 4));
    put_transport(&f, &v);
    if (toy_roll(rng, 6) == 0) /* a lie in the header, or a frame that ends early, or padding */
        f.b[l3 + toy_roll(rng, 8)] ^= (uint8_t)(1 << toy_roll(rng, 8));
    if (toy_roll(rng, 6) == 0)
        f.len -= toy_roll(rng, 30);
    else if (toy_roll(rng, 6) == 0)
        f.len += toy_roll(rng, 30);
    return f;
}

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
        struct frame f = some_frame(&rng);
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
