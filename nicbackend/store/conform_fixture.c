/* SPDX-License-Identifier: Apache-2.0
 *
 * See conform_fixture.h.
 */
#include "nicbackend/store/conform_fixture.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "nicbackend/partition/cube.h"
#include "nicbackend/store/world_fixture.h"

#define LIVE       24u /* rules at a time */
#define OPERATIONS 150

struct live {
    struct nb_hw_rule rule;
    uint64_t handle;
    uint64_t packets;
};

struct table {
    const struct conform *c;
    struct nb_caps caps;
    struct live v[LIVE];
    uint32_t count, prec, listed;
    uint64_t rng;
    uint64_t dropped, counted; /* all packets; those that deleted rules have counted */
};

/* --- rules ----------------------------------------------------------------------------------------------------- */

static bool prec_used(const struct table *t, uint32_t prec) {
    for (uint32_t i = 0; i < t->count; i++)
        if (t->v[i].rule.prec == prec)
            return true;
    return false;
}

/* No ties, where there are levels enough; devices of one or two know only drops here, which never disagree. */
static uint32_t some_prec(struct table *t) {
    if (t->caps.levels > 1u << 24)
        return toy_roll(&t->rng, 1000) * 4096 + t->prec++;
    uint32_t prec = toy_roll(&t->rng, t->caps.levels);
    while (t->caps.levels > LIVE && prec_used(t, prec))
        prec = (prec + 1) % t->caps.levels;
    return prec;
}

static bool orders(const struct table *t) {
    return t->caps.order == NB_ORDER_PRIO && t->caps.levels > LIVE;
}

static struct nb_hw_rule some_rule(struct table *t) {
    struct nb_hw_rule r = {.action = NB_HW_DROP, .prec = some_prec(t)};
    if (orders(t) && toy_roll(&t->rng, 2))
        r.action = NB_HW_PUNT;
    r.credit = r.action == NB_HW_DROP ? 1 + toy_roll(&t->rng, 5) : 0;
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
    if (toy_roll(&t->rng, 3) != 0) {
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
    for (uint32_t i = 0; i < t->count; i++) {
        struct live *l = &t->v[i];
        if (nb_cube_has(&l->rule.cube, key) && (best == NULL || l->rule.prec > best->rule.prec))
            best = l;
    }
    return best;
}

/* --- operations ------------------------------------------------------------------------------------------------ */

static void swap_one(struct table *t, struct live *l, const struct nb_hw_rule *r) {
    const struct nb_backend_ops *ops = t->c->backend->ops;
    struct nb_error err;
    struct nb_count final = {0, 0};
    uint64_t handle;
    cr_assert_lt(ops->add(t->c->backend, r, &handle, &err), 0, "two rules of one cube");
    cr_assert_eq(ops->swap(t->c->backend, l->handle, r, &final, &err), 0, "%s", err.text);
    if (l->rule.action == NB_HW_DROP)
        cr_assert_eq(final.packets, l->packets);
    t->counted += final.packets;
    *l = (struct live){.rule = *r, .handle = l->handle};
}

static void delete_one(struct table *t, struct live *l) {
    struct nb_error err;
    struct nb_count final = {0, 0};
    cr_assert_eq(t->c->backend->ops->del(t->c->backend, l->handle, &final, &err), 0, "%s", err.text);
    if (l->rule.action == NB_HW_DROP && t->c->exact)
        cr_assert_eq(final.packets, l->packets);
    t->counted += l->rule.action == NB_HW_DROP ? final.packets : 0;
    *l = t->v[--t->count];
}

static void add_one(struct table *t, const struct nb_hw_rule *r) {
    struct nb_error err = {""};
    struct live *l = &t->v[t->count];
    *l = (struct live){.rule = *r};
    int error = t->c->backend->ops->add(t->c->backend, r, &l->handle, &err);
    cr_assert(error == 0 || (error == -EOPNOTSUPP && !t->c->exact && err.text[0] != '\0'), "%d: %s", error, err.text);
    t->count += error == 0;
}

static void one_operation(struct table *t) {
    struct nb_hw_rule r = some_rule(t);
    struct live *same = holder(t, &r.cube);
    struct nb_count final;
    if (same != NULL && t->caps.unique)
        swap_one(t, same, &r);
    else if (t->count == 0 && toy_roll(&t->rng, 3) == 0)
        cr_assert_eq(t->c->backend->ops->del(t->c->backend, 12345, &final, NULL), -ENOENT);
    else if (t->count == LIVE || (t->count > 0 && toy_roll(&t->rng, 3) == 0))
        delete_one(t, &t->v[toy_roll(&t->rng, t->count)]);
    else if (same == NULL)
        add_one(t, &r);
}

static void one_packet(struct table *t, const struct nb_view *v, int op, uint32_t packet) {
    struct nb_key key;
    nb_key_of_view(v, &key);
    struct live *l = winner(t, &key);
    bool want = l != NULL && l->rule.action == NB_HW_DROP, got = t->c->drops(t->c->arg, v);
    cr_assert(t->c->exact ? got == want : !got || want, "operation %d packet %u: %s", op, packet,
              got ? "dropped" : "not dropped");
    t->dropped += got;
    if (l != NULL)
        l->packets++;
}

/* --- what it says of itself ------------------------------------------------------------------------------------ */

static void on_dump(void *arg, uint64_t handle, const struct nb_hw_rule *rule) {
    struct table *t = arg;
    for (uint32_t i = 0; i < t->count; i++)
        if (t->v[i].handle == handle && memcmp(&t->v[i].rule, rule, sizeof *rule) == 0)
            t->listed++;
}

static void says_the_truth(struct table *t) {
    const struct nb_backend_ops *ops = t->c->backend->ops;
    for (uint32_t i = 0; i < t->count; i++) {
        struct nb_count n = {0, 0};
        int error = ops->read(t->c->backend, t->v[i].handle, &n);
        cr_assert_eq(error, t->caps.counters ? 0 : error);
        if (t->v[i].rule.action == NB_HW_DROP && t->c->exact)
            cr_assert_eq(n.packets, t->v[i].packets);
    }
    t->listed = 0;
    cr_assert_eq(ops->dump(t->c->backend, on_dump, t), 0);
    cr_assert_eq(t->listed, t->count);
}

uint32_t conform_run(const struct conform *c, uint64_t seed) {
    static struct nb_view views[TOY_POINTS];
    struct table t = {.c = c, .rng = seed};
    struct nb_error err;
    uint32_t n = toy_points(views);
    cr_assert_eq(c->backend->ops->caps(c->backend, &t.caps, &err), 0, "%s", err.text);
    for (int op = 0; op < OPERATIONS; op++) {
        one_operation(&t);
        if (op % 16 == 0)
            cr_assert_eq(c->backend->ops->sync(c->backend), 0);
        for (uint32_t i = (uint32_t)op % 4; i < n; i += 4)
            one_packet(&t, &views[i], op, i);
    }
    says_the_truth(&t);
    while (t.count > 0)
        delete_one(&t, &t.v[0]);
    if (t.caps.counters)
        cr_assert_eq(t.counted, t.dropped, "the counters say %llu, the packets %llu", (unsigned long long)t.counted,
                     (unsigned long long)t.dropped);
    return (uint32_t)t.dropped;
}
