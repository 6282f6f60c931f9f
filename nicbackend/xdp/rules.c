/* SPDX-License-Identifier: Apache-2.0
 *
 * The entries of the rule table: nb_backend_ops over kernel maps. The maps are truth for packets, the copies here for
 * us. Thread: control only. See rules.h, rules_abi.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "nicbackend/partition/cube.h"
#include "nicbackend/xdp/rules_internal.h"

_Static_assert(sizeof(struct nb_key) == RULES_WORDS * 8, "the programs see the same key");

const char *const rules_map_names[RULES_MAP_COUNT] = {"rules",        "tuples",      "rule_ports",
                                                      "rule_sources", "rule_counts", "rule_config"};

static struct nb_rules *of(struct nb_backend *b) {
    return (struct nb_rules *)(void *)b;
}

/* --- what it can do -------------------------------------------------------------------------------------------- */

static int rules_caps(struct nb_backend *b, struct nb_caps *ret_caps, struct nb_error *err) {
    (void)b;
    (void)err;
    *ret_caps = (struct nb_caps){.order = NB_ORDER_PRIO,
                                 .unique = true,
                                 .counters = true,
                                 .rule_max = RULES_MAX,
                                 .mask_max = RULES_TUPLES,
                                 .levels = UINT32_MAX};
    memset(ret_caps->match, NB_MATCH_MASK, sizeof ret_caps->match);
    return 0;
}

static int rules_validate(struct nb_backend *b, const struct nb_hw_rule *rule, struct nb_error *err) {
    (void)b;
    for (int i = 0; i < 6; i++)
        if ((rule->cube.value.words[i] & ~rule->cube.mask.words[i]) != 0)
            return nb_fail(err, -EINVAL, "the rule has value bits outside its mask");
    return 0;
}

/* --- tuples, slots, entries ------------------------------------------------------------------------------------ */

/* The tuple of this mask, perhaps a new one. */
static int tuple_take(struct nb_rules *r, const struct nb_key *mask, uint32_t *ret_tuple, struct nb_error *err) {
    uint32_t free_one = RULES_TUPLES;
    for (uint32_t i = 0; i < RULES_TUPLES; i++) {
        if (r->users[i] == 0)
            free_one = free_one == RULES_TUPLES ? i : free_one;
        else if (memcmp(&r->masks[i], mask, sizeof *mask) == 0) {
            *ret_tuple = i;
            return 0;
        }
    }
    if (free_one == RULES_TUPLES)
        return nb_fail(err, -ENOSPC, "the rule table has no mask left: it has %d", RULES_TUPLES);
    if (bpf_map_update_elem(r->map[RULES_MAP_TUPLES], &free_one, mask, BPF_ANY) < 0)
        return nb_fail(err, -errno, "cannot write a mask: %s", strerror(errno));
    r->masks[free_one] = *mask;
    *ret_tuple = free_one;
    return 0;
}

static void tuple_drop(struct nb_rules *r, uint32_t tuple) {
    if (r->users[tuple] == 0)
        rules_prune_clear(r, tuple);
}

static uint32_t slot_take(struct nb_rules *r) {
    return r->free_slots[r->slot_head++ % RULES_MAX];
}

static void slot_give(struct nb_rules *r, uint32_t slot) {
    r->free_slots[r->slot_tail++ % RULES_MAX] = slot;
}

static int slot_read(struct nb_rules *r, uint32_t slot, struct nb_count *ret_count) {
    const struct rule_count *c = (const struct rule_count *)(const void *)r->cpu_counts;
    if (bpf_map_lookup_elem(r->map[RULES_MAP_COUNTS], &slot, r->cpu_counts) < 0)
        return -errno;
    *ret_count = (struct nb_count){0, 0};
    for (int i = 0; i < r->cpus; i++) {
        ret_count->packets += c[i].packets;
        ret_count->bytes += c[i].bytes;
    }
    return 0;
}

static int slot_clear(struct nb_rules *r, uint32_t slot) {
    memset(r->cpu_counts, 0, (size_t)r->cpus * sizeof(struct rule_count));
    return bpf_map_update_elem(r->map[RULES_MAP_COUNTS], &slot, r->cpu_counts, BPF_ANY) < 0 ? -errno : 0;
}

static int value_write(struct nb_rules *r, const struct rule_key *key, const struct nb_hw_rule *rule, uint32_t slot,
                       uint64_t flags) {
    struct rule_value v = {.prec = rule->prec, .slot = slot, .action = rule->action, .credit = rule->credit};
    int error = slot_clear(r, slot);
    if (error == 0 && bpf_map_update_elem(r->map[RULES_MAP_RULES], key, &v, flags) < 0)
        error = errno == E2BIG ? -ENOSPC : -errno;
    return error;
}

static struct rules_entry *entry_of(struct nb_rules *r, uint64_t handle) {
    return handle == 0 || handle > RULES_MAX || !r->entries[handle - 1].used ? NULL : &r->entries[handle - 1];
}

/* --- operations ------------------------------------------------------------------------------------------------ */

static int rules_add(struct nb_backend *b, const struct nb_hw_rule *rule, uint64_t *ret_handle, struct nb_error *err) {
    struct nb_rules *r = of(b);
    struct rule_key key = {.tuple = 0};
    int error = rules_validate(b, rule, err);
    if (error == 0 && r->free_entry_count == 0)
        error = nb_fail(err, -ENOSPC, "the rule table is full: it has %d entries", RULES_MAX);
    if (error == 0)
        error = tuple_take(r, &rule->cube.mask, &key.tuple, err);
    if (error != 0)
        return error;
    memcpy(key.words, &rule->cube.value, sizeof key.words);
    uint32_t slot = slot_take(r);
    error = rules_prune_add(r, key.tuple, &rule->cube);
    if (error == 0)
        error = value_write(r, &key, rule, slot, BPF_NOEXIST);
    if (error != 0) {
        slot_give(r, slot);
        tuple_drop(r, key.tuple);
        return nb_fail(err, error, "cannot write a rule: %s", strerror(-error));
    }
    uint32_t entry = r->free_entries[--r->free_entry_count];
    r->entries[entry] = (struct rules_entry){.rule = *rule, .key = key, .slot = slot, .used = true};
    r->users[key.tuple]++;
    *ret_handle = entry + 1u;
    return 0;
}

static int rules_swap(struct nb_backend *b, uint64_t handle, const struct nb_hw_rule *rule, struct nb_count *ret_final,
                      struct nb_error *err) {
    struct nb_rules *r = of(b);
    struct rules_entry *e = entry_of(r, handle);
    if (e == NULL || !nb_cube_equal(&e->rule.cube, &rule->cube))
        return nb_fail(err, -EINVAL, "only a rule of the same cube can take another's place");
    if (r->slot_head == r->slot_tail)
        return nb_fail(err, -EAGAIN, "no counter is free");
    uint32_t slot = slot_take(r);
    int error = value_write(r, &e->key, rule, slot, BPF_EXIST);
    if (error != 0) {
        slot_give(r, slot);
        return nb_fail(err, error, "cannot exchange a rule: %s", strerror(-error));
    }
    (void)slot_read(r, e->slot, ret_final);
    slot_give(r, e->slot);
    e->rule = *rule;
    e->slot = slot;
    return 0;
}

static int rules_del(struct nb_backend *b, uint64_t handle, struct nb_count *ret_final, struct nb_error *err) {
    struct nb_rules *r = of(b);
    struct rules_entry *e = entry_of(r, handle);
    if (e == NULL)
        return nb_fail(err, -ENOENT, "there is no such rule");
    if (bpf_map_delete_elem(r->map[RULES_MAP_RULES], &e->key) < 0 && errno != ENOENT)
        return nb_fail(err, -errno, "cannot delete a rule: %s", strerror(errno));
    (void)slot_read(r, e->slot, ret_final);
    slot_give(r, e->slot);
    r->users[e->key.tuple]--;
    tuple_drop(r, e->key.tuple);
    e->used = false;
    r->free_entries[r->free_entry_count++] = (uint32_t)(e - r->entries);
    return 0;
}

static int rules_read(struct nb_backend *b, uint64_t handle, struct nb_count *ret_count) {
    const struct rules_entry *e = entry_of(of(b), handle);
    return e == NULL ? -ENOENT : slot_read(of(b), e->slot, ret_count);
}

/* A map's change is seen by every packet that comes after it. One that a CPU is judging at this moment came before, and
 * is judged by what was in force then: there is nothing to wait for. */
static int rules_sync(struct nb_backend *b) {
    (void)b;
    return 0;
}

/* What the maps say, not what we remember: somebody may have meddled. */
static int rules_dump(struct nb_backend *b, nb_dump_fn fn, void *arg) {
    struct nb_rules *r = of(b);
    struct rule_value v;
    for (uint32_t i = 0; i < RULES_MAX; i++) {
        struct rules_entry *e = &r->entries[i];
        if (!e->used || bpf_map_lookup_elem(r->map[RULES_MAP_RULES], &e->key, &v) < 0)
            continue;
        struct nb_hw_rule rule = {
            .cube = e->rule.cube, .prec = v.prec, .action = (uint8_t)v.action, .credit = v.credit};
        fn(arg, i + 1u, &rule);
    }
    return 0;
}

static void rules_destroy(struct nb_backend *b) {
    nb_rules_destroy(of(b));
}

static const struct nb_backend_ops rules_ops = {
    .name = "xdp",
    .caps = rules_caps,
    .validate = rules_validate,
    .add = rules_add,
    .swap = rules_swap,
    .del = rules_del,
    .read = rules_read,
    .sync = rules_sync,
    .dump = rules_dump,
    .destroy = rules_destroy,
};

/* --- all of it ------------------------------------------------------------------------------------------------- */

static int map_create(enum rules_map which) {
    LIBBPF_OPTS(bpf_map_create_opts, lazy, .map_flags = BPF_F_NO_PREALLOC);
    const char *name = rules_map_names[which];
    switch (which) {
    case RULES_MAP_RULES:
        return bpf_map_create(BPF_MAP_TYPE_HASH, name, sizeof(struct rule_key), sizeof(struct rule_value), RULES_MAX,
                              &lazy);
    case RULES_MAP_TUPLES:
        return bpf_map_create(BPF_MAP_TYPE_ARRAY, name, 4, sizeof(struct rule_tuple), RULES_TUPLES, NULL);
    case RULES_MAP_PORTS:
        return bpf_map_create(BPF_MAP_TYPE_ARRAY, name, 4, 8, 65536, NULL);
    case RULES_MAP_SOURCES:
        return bpf_map_create(BPF_MAP_TYPE_LPM_TRIE, name, sizeof(struct rule_source), 8, RULES_SOURCES, &lazy);
    case RULES_MAP_COUNTS:
        return bpf_map_create(BPF_MAP_TYPE_PERCPU_ARRAY, name, 4, sizeof(struct rule_count), RULES_MAX, NULL);
    default:
        return bpf_map_create(BPF_MAP_TYPE_ARRAY, name, 4, sizeof(struct rule_config), 1, NULL);
    }
}

static int maps_create(struct nb_rules *r) {
    uint32_t zero = 0;
    for (int i = 0; i < RULES_MAP_COUNT; i++)
        if ((r->map[i] = map_create((enum rules_map)i)) < 0)
            return -errno;
    r->prune.config.abi = RULES_ABI;
    return bpf_map_update_elem(r->map[RULES_MAP_CONFIG], &zero, &r->prune.config, BPF_ANY) < 0 ? -errno : 0;
}

static struct nb_rules *rules_alloc(void) {
    struct nb_rules *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->base.ops = &rules_ops;
    for (int i = 0; i < RULES_MAP_COUNT; i++)
        r->map[i] = -1;
    for (int i = 0; i < NB_RULES_HOOK_COUNT; i++)
        r->hooks[i].prog = r->hooks[i].link = -1;
    r->filter = r->next = -1;
    for (uint32_t i = 0; i < RULES_MAX; i++) {
        r->free_entries[r->free_entry_count++] = RULES_MAX - 1 - i;
        slot_give(r, i);
    }
    return r;
}

int nb_rules_create(struct nb_rules **ret_rules, struct nb_error *err) {
    struct nb_rules *r = rules_alloc();
    if (r == NULL)
        return nb_fail(err, -ENOMEM, "no memory for a rule table");
    libbpf_set_print(NULL); /* the sentences in err say what libbpf's lines would */
    r->cpus = libbpf_num_possible_cpus();
    if (r->cpus > 0)
        r->cpu_counts = calloc((size_t)r->cpus, sizeof(struct rule_count));
    int error = r->cpu_counts == NULL ? -ENOMEM : maps_create(r);
    if (error != 0) {
        nb_rules_destroy(r);
        return nb_fail(err, error, "cannot make the maps of a rule table: %s; it needs CAP_BPF and CAP_NET_ADMIN",
                       strerror(-error));
    }
    *ret_rules = r;
    return 0;
}

struct nb_backend *nb_rules_backend(struct nb_rules *r) {
    return &r->base;
}

void nb_rules_destroy(struct nb_rules *r) {
    if (r == NULL)
        return;
    for (int i = 0; i < NB_RULES_HOOK_COUNT; i++)
        nb_rules_detach(r, (enum nb_rules_hook)i);
    for (int i = 0; i < RULES_MAP_COUNT; i++)
        if (r->map[i] >= 0)
            close(r->map[i]);
    if (r->filter >= 0)
        close(r->filter);
    if (r->next >= 0)
        close(r->next);
    free(r->prune.sources);
    free(r->cpu_counts);
    free(r);
}
