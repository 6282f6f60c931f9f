/* SPDX-License-Identifier: Apache-2.0
 *
 * Engines come and go: from a module to a state in every shard, and back. Control thread; what touches a shard's graph
 * runs on its worker between two polls and only moves structs, memory is made and freed here.
 */
#include <errno.h>
#include <string.h>

#include "dataplane/core/runtime_internal.h"

/* The first empty place; engine_count when there is none before the end. */
static uint32_t place_free(const struct runtime *rt) {
    uint32_t i = 0;
    while (i < rt->engine_count && !module_empty(&rt->engine[i]))
        i++;
    return i;
}

static bool for_good(const struct engine_ops *ops) {
    return ops->stage == STAGE_LINK || ops->stage == STAGE_TRANSPORT;
}

static int place_check(const struct runtime *rt, const struct engine_ops *ops, struct runtime_error *err) {
    if (rt->started && for_good(ops))
        return runtime_fail(err, -EBUSY,
                            "engine %s: link and transport engines are loaded when usherd starts; name it in the "
                            "setting engines.load",
                            ops->name);
    for (uint32_t i = 0; i < rt->engine_count; i++) {
        const struct engine_ops *o = &rt->engine[i].ops;
        if (&rt->engine[i].ops == ops || module_empty(&rt->engine[i]))
            continue;
        if (strcmp(o->name, ops->name) == 0)
            return runtime_fail(err, -EEXIST, "engine %s is there already", ops->name);
        if (o->stage == ops->stage && o->stage != STAGE_APP && o->proto == ops->proto)
            return runtime_fail(err, -EEXIST, "engine %s: its place in the graph is taken by %s", ops->name, o->name);
    }
    return 0;
}

/* ---- states ---- */

struct place {
    uint32_t engine;
    const struct engine_ops *nobody;
    struct node node;
};

static void put_run(struct shard *sh, void *arg) {
    const struct place *p = arg;
    shard_node_put(sh, p->engine, &p->node);
}

static void take_run(struct shard *sh, void *arg) {
    struct place *p = arg;
    shard_node_take(sh, p->engine, p->nobody, &p->node);
}

static void take_all(struct runtime *rt, uint32_t engine, uint32_t shards) {
    for (uint32_t i = 0; i < shards; i++) {
        struct place p = {.engine = engine, .nobody = &module_nobody};
        if (runtime_call(rt, i, take_run, &p) == 0)
            shard_node_free(&p.node);
    }
}

/* Transports have the same secrets everywhere: a client of a port that is spread may show a cookie that another shard
 * gave it. */
uint64_t engine_seed(const struct runtime *rt, const struct engine_ops *ops, uint32_t shard) {
    return rt->cfg.seed + (ops->stage == STAGE_TRANSPORT ? 0 : shard);
}

static int put_one(struct runtime *rt, uint32_t shard, uint32_t engine, const void *cfg) {
    struct place p = {.engine = engine};
    struct shard *sh = rt->shard[shard];
    int error =
        shard_node_make(sh, &rt->engine[engine].ops, cfg, engine_seed(rt, &rt->engine[engine].ops, shard), &p.node);
    if (error < 0)
        return error;
    error = runtime_call(rt, shard, put_run, &p);
    if (error < 0)
        shard_node_free(&p.node);
    return error;
}

/* Makes one state a shard for the module in place `index`. */
static int engine_start(struct runtime *rt, uint32_t index, const void *cfg, uint32_t *ret_index,
                        struct runtime_error *err) {
    struct module *m = &rt->engine[index];
    char why[128] = "";
    int error = place_check(rt, &m->ops, err);
    if (error == 0 && m->ops.state_size(cfg, why, sizeof why) == 0)
        error = runtime_fail(err, -EINVAL, "engine %s: its options are not valid: %s", m->ops.name, why);
    for (uint32_t made = 0; error == 0 && made < rt->shard_count; made++) {
        error = put_one(rt, made, index, cfg);
        if (error == 0)
            continue;
        runtime_fail(err, error, "engine %s: no state for shard %u: %s", m->ops.name, made, strerror(-error));
        take_all(rt, index, made);
    }
    if (error < 0) {
        module_unload(m);
        return error;
    }
    if (index == rt->engine_count)
        rt->engine_count++;
    if (ret_index != NULL)
        *ret_index = index;
    return 0;
}

/* ---- coming and going ---- */

int runtime_engine_load(struct runtime *rt, const char *name, const void *cfg, uint32_t *ret_index,
                        struct runtime_error *err) {
    uint32_t index = place_free(rt);
    if (index == SHARD_ENGINE_MAX)
        return runtime_fail(err, -ENOSPC, "engine %s: a shard holds at most %d engines", name, SHARD_ENGINE_MAX);
    int error = module_load(&rt->engine[index], rt->engine_dir, name, err);
    return error < 0 ? error : engine_start(rt, index, cfg, ret_index, err);
}

int runtime_engine_add(struct runtime *rt, const struct engine_ops *ops, const void *cfg, uint32_t *ret_index,
                       struct runtime_error *err) {
    uint32_t index = place_free(rt);
    if (index == SHARD_ENGINE_MAX)
        return runtime_fail(err, -ENOSPC, "engine %s: a shard holds at most %d engines", ops->name, SHARD_ENGINE_MAX);
    int error = module_link(&rt->engine[index], ops, err);
    return error < 0 ? error : engine_start(rt, index, cfg, ret_index, err);
}

int runtime_engine_unload(struct runtime *rt, uint32_t index, struct runtime_error *err) {
    if (index >= rt->engine_count || module_empty(&rt->engine[index]))
        return runtime_fail(err, -ENOENT, "there is no such engine");
    struct module *m = &rt->engine[index];
    if (for_good(&m->ops))
        return runtime_fail(err, -EBUSY, "engine %s holds the sockets of programs; it stays while usherd runs",
                            m->ops.name);
    take_all(rt, index, rt->shard_count);
    module_unload(m);
    return 0;
}

int runtime_engine_find(const struct runtime *rt, const char *name, uint32_t *ret_index) {
    for (uint32_t i = 0; i < rt->engine_count; i++) {
        if (name[0] != '\0' && strcmp(rt->engine[i].ops.name, name) == 0) {
            *ret_index = i;
            return 0;
        }
    }
    return -ENOENT;
}
