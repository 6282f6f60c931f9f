/* SPDX-License-Identifier: Apache-2.0
 *
 * See model.h. A slot is one rule: what it is for the packets, and what it has been told to become.
 */
#include "nicbackend/model/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nicbackend/partition/cube.h"

struct slot {
    struct nb_hw_rule now, next;
    bool is, will; /* there for packets; there when all is in effect */
    uint64_t handle;
    struct nb_count count;
};

struct nb_model {
    struct nb_backend base;
    struct nb_model_params p;
    struct slot *slots;
    uint32_t size; /* slots are reused when they are neither is nor will be anything */
    uint64_t handles, rng;
    uint32_t operations;
};

static uint32_t roll(struct nb_model *m, uint32_t n) {
    uint64_t z = (m->rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

static struct nb_model *of(struct nb_backend *b) {
    return (struct nb_model *)(void *)b;
}

/* --- effect ---------------------------------------------------------------------------------------------------- */

static void slot_settle(struct slot *s) {
    s->is = s->will;
    s->now = s->next;
}

static void settle_some(struct nb_model *m) {
    for (uint32_t i = 0; i < m->size; i++)
        if (!m->p.delayed || roll(m, 4) == 0)
            slot_settle(&m->slots[i]);
}

/* Before an operation: does it happen at all? */
static int begin(struct nb_model *m, struct nb_error *err) {
    m->operations++;
    if (m->p.die_at != 0 && m->operations >= m->p.die_at)
        return nb_fail(err, -ENODEV, "the model NIC has died");
    if (m->operations == m->p.fail_at)
        return nb_fail(err, m->p.fail_error, "the model NIC was told to fail");
    return 0;
}

static int end(struct nb_model *m) {
    settle_some(m);
    if (m->p.watch != NULL)
        m->p.watch(m->p.watch_arg);
    return 0;
}

/* --- operations ------------------------------------------------------------------------------------------------ */

static int model_caps(struct nb_backend *b, struct nb_caps *ret_caps, struct nb_error *err) {
    (void)err;
    *ret_caps = of(b)->p.caps;
    return 0;
}

static bool masks_fit(const struct nb_model *m, const struct nb_key *mask) {
    uint32_t others = 0;
    for (uint32_t i = 0; i < m->size; i++) {
        const struct slot *s = &m->slots[i];
        bool seen = !s->will;
        if (s->will && memcmp(&s->next.cube.mask, mask, sizeof *mask) == 0)
            return true;
        for (uint32_t k = 0; k < i && !seen; k++)
            seen = m->slots[k].will && memcmp(&m->slots[k].next.cube.mask, &s->next.cube.mask, sizeof *mask) == 0;
        others += !seen;
    }
    return others < m->p.caps.mask_max;
}

/* A refusal depends on the rule alone, as a real one's does. */
static bool moody(const struct nb_model *m, const struct nb_hw_rule *r) {
    uint64_t h = m->p.seed + r->action;
    for (int i = 0; i < 6; i++)
        h = (h ^ r->cube.value.words[i] ^ r->cube.mask.words[i] << 1) * 0x9e3779b97f4a7c15ull;
    return m->p.refuse_in != 0 && (h >> 32) % m->p.refuse_in == 0;
}

static int model_validate(struct nb_backend *b, const struct nb_hw_rule *r, struct nb_error *err) {
    const struct nb_model *m = of(b);
    if (!nb_cube_exact(&r->cube, &m->p.caps) && r->action == NB_HW_DROP)
        return nb_fail(err, -EOPNOTSUPP, "the model NIC cannot match such fields");
    if (m->p.caps.order == NB_ORDER_PRIO && r->prec >= m->p.caps.levels)
        return nb_fail(err, -EOPNOTSUPP, "the model NIC has %u levels", m->p.caps.levels);
    return moody(m, r) ? nb_fail(err, -EOPNOTSUPP, "the model NIC is moody") : 0;
}

static struct slot *slot_find(struct nb_model *m, uint64_t handle) {
    for (uint32_t i = 0; i < m->size; i++)
        if (m->slots[i].will && m->slots[i].handle == handle)
            return &m->slots[i];
    return NULL;
}

static int room(struct nb_model *m, const struct nb_hw_rule *r, struct slot **ret_slot, struct nb_error *err) {
    uint32_t used = 0;
    *ret_slot = NULL;
    for (uint32_t i = 0; i < m->size; i++) {
        struct slot *s = &m->slots[i];
        used += s->will;
        if (!s->is && !s->will)
            *ret_slot = s;
        if (s->will && m->p.caps.unique && nb_cube_equal(&s->next.cube, &r->cube))
            return nb_fail(err, -EEXIST, "the model NIC has a rule of this cube");
    }
    if (used >= m->p.caps.rule_max)
        return nb_fail(err, -ENOSPC, "the model NIC is full");
    if (!masks_fit(m, &r->cube.mask))
        return nb_fail(err, -ENOSPC, "the model NIC has no mask left");
    if (*ret_slot != NULL)
        return 0;
    struct slot *v = realloc(m->slots, (m->size + 1u) * sizeof *v);
    if (v == NULL)
        return nb_fail(err, -ENOMEM, "no memory for the model NIC");
    m->slots = v;
    *ret_slot = &v[m->size++];
    **ret_slot = (struct slot){.is = false};
    return 0;
}

static int insert(struct nb_model *m, const struct nb_hw_rule *r, uint64_t *ret_handle, struct nb_error *err) {
    struct slot *s;
    int error = room(m, r, &s, err);
    if (error != 0)
        return error;
    *s = (struct slot){.now = *r, .next = *r, .will = true, .handle = ++m->handles};
    *ret_handle = s->handle;
    return 0;
}

static int model_add(struct nb_backend *b, const struct nb_hw_rule *r, uint64_t *ret_handle, struct nb_error *err) {
    struct nb_model *m = of(b);
    int error = begin(m, err);
    if (error == 0)
        error = model_validate(b, r, err);
    if (error == 0)
        error = insert(m, r, ret_handle, err);
    return error != 0 ? error : end(m);
}

static int model_swap(struct nb_backend *b, uint64_t handle, const struct nb_hw_rule *r, struct nb_count *ret_final,
                      struct nb_error *err) {
    struct nb_model *m = of(b);
    int error = begin(m, err);
    struct slot *s = slot_find(m, handle);
    if (error == 0 && (s == NULL || !m->p.caps.unique || !nb_cube_equal(&s->next.cube, &r->cube)))
        error = nb_fail(err, -EINVAL, "the model NIC cannot swap these");
    if (error == 0)
        error = model_validate(b, r, err);
    if (error != 0)
        return error;
    s->next = *r;
    *ret_final = s->count;
    s->count = (struct nb_count){0, 0};
    return end(m);
}

static int model_del(struct nb_backend *b, uint64_t handle, struct nb_count *ret_final, struct nb_error *err) {
    struct nb_model *m = of(b);
    int error = begin(m, err);
    if (error != 0)
        return error;
    struct slot *s = slot_find(m, handle);
    if (s == NULL)
        return nb_fail(err, -ENOENT, "the model NIC has no such rule");
    s->will = false;
    *ret_final = s->count;
    return end(m);
}

static int model_read(struct nb_backend *b, uint64_t handle, struct nb_count *ret_count) {
    const struct slot *s = slot_find(of(b), handle);
    if (s == NULL)
        return -ENOENT;
    *ret_count = s->count;
    return 0;
}

static int model_sync(struct nb_backend *b) {
    struct nb_model *m = of(b);
    int error = begin(m, NULL);
    if (error != 0)
        return error;
    for (uint32_t i = 0; i < m->size; i++)
        slot_settle(&m->slots[i]);
    return end(m);
}

static int model_dump(struct nb_backend *b, nb_dump_fn fn, void *arg) {
    struct nb_model *m = of(b);
    if (m->p.die_at != 0 && m->operations >= m->p.die_at)
        return -ENODEV;
    for (uint32_t i = 0; i < m->size; i++)
        if (m->slots[i].will)
            fn(arg, m->slots[i].handle, &m->slots[i].next);
    return 0;
}

static void model_destroy(struct nb_backend *b) {
    (void)b;
}

static const struct nb_backend_ops model_ops = {
    .name = "model",
    .caps = model_caps,
    .validate = model_validate,
    .add = model_add,
    .swap = model_swap,
    .del = model_del,
    .read = model_read,
    .sync = model_sync,
    .dump = model_dump,
    .destroy = model_destroy,
};

/* --- packets --------------------------------------------------------------------------------------------------- */

/* Zero for all where the device has no order. */
static uint32_t height(const struct nb_model *m, const struct nb_hw_rule *r) {
    switch (m->p.caps.order) {
    case NB_ORDER_PRIO:
        return r->prec;
    case NB_ORDER_FIELDS:
        return nb_cube_fields(&r->cube);
    default:
        return 0;
    }
}

static bool looks_at_ports(const struct nb_key *mask) {
    return (mask->sport[0] | mask->sport[1] | mask->dport[0] | mask->dport[1] | mask->tcp_flags) != 0;
}

/* A device that takes a first fragment's ports for the packet's may find any: worst of all for us. */
static bool slot_matches(const struct nb_model *m, const struct slot *s, const struct nb_key *key) {
    if (!s->is)
        return false;
    if (!m->p.caps.frag_ports || (key->parsed & NB_PARSED_FRAGMENT) == 0 || !looks_at_ports(&s->now.cube.mask))
        return nb_cube_has(&s->now.cube, key);
    return s->now.action == NB_HW_DROP;
}

/* Of the highest that match, one that drops before one that does not. */
static struct slot *winner(struct nb_model *m, const struct nb_key *key) {
    struct slot *best = NULL;
    for (uint32_t i = 0; i < m->size; i++) {
        struct slot *s = &m->slots[i];
        if (!slot_matches(m, s, key))
            continue;
        if (best == NULL || height(m, &s->now) > height(m, &best->now) ||
            (height(m, &s->now) == height(m, &best->now) && s->now.action == NB_HW_DROP))
            best = s;
    }
    return best;
}

bool nb_model_may_drop(struct nb_model *m, const struct nb_key *key, uint64_t *ret_credit) {
    const struct slot *s = winner(m, key);
    if (s == NULL || s->now.action != NB_HW_DROP)
        return false;
    *ret_credit = s->now.credit;
    return true;
}

bool nb_model_packet(struct nb_model *m, const struct nb_key *key, uint32_t bytes) {
    struct slot *s = winner(m, key);
    if (s == NULL)
        return false;
    s->count.packets++;
    s->count.bytes += bytes;
    return s->now.action == NB_HW_DROP;
}

/* --- the world around ------------------------------------------------------------------------------------------ */

int nb_model_create(const struct nb_model_params *params, struct nb_model **ret_model) {
    struct nb_model *m = calloc(1, sizeof *m);
    if (m == NULL)
        return -ENOMEM;
    m->base.ops = &model_ops;
    nb_model_renew(m, params);
    *ret_model = m;
    return 0;
}

struct nb_backend *nb_model_backend(struct nb_model *m) {
    return &m->base;
}

void nb_model_renew(struct nb_model *m, const struct nb_model_params *params) {
    m->p = *params;
    m->rng = params->seed;
    m->operations = 0;
}

void nb_model_destroy(struct nb_model *m) {
    if (m == NULL)
        return;
    free(m->slots);
    free(m);
}

void nb_model_reset(struct nb_model *m, uint32_t lost) {
    for (uint32_t i = 0; i < m->size; i++)
        if (roll(m, 256) < lost)
            m->slots[i].is = m->slots[i].will = false;
}

int nb_model_intrude(struct nb_model *m, const struct nb_hw_rule *rule) {
    uint64_t handle;
    int error = insert(m, rule, &handle, NULL);
    if (error == 0)
        settle_some(m);
    return error;
}

uint32_t nb_model_operations(const struct nb_model *m) {
    return m->operations;
}
