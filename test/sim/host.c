/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a simulated host: its engines' arenas, commands, upgrades, death and recovery. How packets flow is in
 * host_flow.c. Arenas outlive a death, as the daemon's sealed memfds do; everything else of the process is lost.
 */
#include "test/sim/host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engines/arena.h"
#include "test/sim/store.h"

#define RECORD_MAX  4096 /* bytes of one saved record */
#define STREAM_HOST 1000
#define STREAM_WIRE 2000

static void pool_init(struct host_pool *hp, uint32_t count, uint32_t buf_size, uint32_t shard) {
    struct pkt_pool *pool = &hp->pool;
    pool->pkts = (struct pkt *)aligned_alloc(CACHE_LINE, count * sizeof(struct pkt));
    pool->free = (struct pkt **)calloc(count, sizeof(struct pkt *));
    hp->where = (uint8_t *)calloc(count, 1);
    CHECK(pool->pkts != NULL && pool->free != NULL && hp->where != NULL);
    memset(pool->pkts, 0, count * sizeof(struct pkt));
    pool->count = count;
    pool->buf_size = buf_size;
    pool->shard = shard;
    for (uint32_t i = 0; i < count; i++) {
        struct pkt *p = &pool->pkts[i];
        p->pool = pool;
        p->index = i;
        p->buf_size = buf_size;
        p->buf = (uint8_t *)calloc(1, buf_size); /* one by one: the address sanitizer sees each one's end */
        CHECK(p->buf != NULL);
    }
}

static void pool_fini(struct host_pool *hp) {
    for (uint32_t i = 0; i < hp->pool.count; i++)
        free(hp->pool.pkts[i].buf);
    free(hp->pool.pkts);
    free((void *)hp->pool.free);
    free(hp->where);
}

int host_create(struct world *w, const struct host_params *params, const struct host_app *app,
                const struct link_faults *faults, struct host **ret_host) {
    struct host *h = (struct host *)aligned_alloc(CACHE_LINE, (sizeof *h + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    CHECK(h != NULL);
    memset(h, 0, sizeof *h);
    h->world = w;
    h->params = *params;
    h->app = *app;
    h->prng = prng_stream(w->seed, STREAM_HOST + params->id);
    h->link_engine = HOST_ENGINE_MAX;
    link_init(&h->wire, w, faults, w->seed, STREAM_WIRE + params->id);
    h->ports[0] = (struct port_info){
        .up = true, .dedicated = params->dedicated, .caps = params->caps, .mtu = (uint16_t)params->mtu, .ifindex = 2};
    memcpy(h->ports[0].mac, params->mac, sizeof params->mac);
    pool_init(&h->small, params->packets, 2048, params->id);
    pool_init(&h->large, params->packets_large, 69632, params->id);
    host_forget(h);
    *ret_host = h;
    return 0;
}

static void *arena_new(const struct host_engine *e) {
    void *arena = aligned_alloc(CACHE_LINE, arena_round(e->size));
    CHECK(arena != NULL);
    memset(arena, 0, arena_round(e->size));
    return arena;
}

int host_engine_add(struct host *h, const char *name, const void *cfg) {
    char err[600];
    struct module code;
    if (module_open(h->params.engines, name, &code, err, sizeof err) != 0) {
        world_fail(h->world, "%s", err);
        return -ENOENT;
    }
    int rc = host_engine_add_ops(h, name, code.ops, cfg);
    if (rc != 0)
        module_close(&code);
    else
        h->engine[h->engine_count - 1].code = code;
    return rc;
}

int host_engine_add_ops(struct host *h, const char *name, const struct engine_ops *ops, const void *cfg) {
    char err[256] = "";
    struct host_engine *e = &h->engine[h->engine_count];
    CHECK(h->engine_count < HOST_ENGINE_MAX);
    *e = (struct host_engine){.name = name, .cfg = cfg, .code = {.ops = ops}};
    e->seed = prng_next(&h->prng);
    e->rng = prng_next(&h->prng);
    e->size = ops->state_size(cfg, err, sizeof err);
    if (e->size == 0) {
        world_fail(h->world, "%s refuses its config: %s", name, err);
        return -EINVAL;
    }
    e->arena = arena_new(e);
    e->counters = (uint64_t *)calloc(ops->counter_count + 1, sizeof(uint64_t));
    int rc = ops->init(e->arena, e->size, cfg, e->seed);
    if (rc != 0) {
        world_fail(h->world, "%s: init: %d", name, rc);
        free(e->arena);
        free(e->counters);
        return rc;
    }
    if (ops->stage == STAGE_LINK)
        h->link_engine = h->engine_count;
    h->engine_count++;
    return 0;
}

void host_destroy(struct host *h) {
    host_forget(h);
    for (uint32_t i = 0; i < h->engine_count; i++) {
        if (h->engine[i].code.handle != NULL)
            module_close(&h->engine[i].code);
        free(h->engine[i].arena);
        free(h->engine[i].counters);
    }
    pool_fini(&h->small);
    pool_fini(&h->large);
    free(h);
}

void host_check(struct host *h, const char *after) {
    for (uint32_t i = 0; i < h->engine_count; i++) {
        const struct host_engine *e = &h->engine[i];
        int broken = e->code.ops->check == NULL ? 0 : e->code.ops->check(e->arena);
        if (broken != 0)
            world_fail(h->world, "host %u: after %s, %s breaks its invariant %d", h->params.id, after, e->name, broken);
    }
}

/* -------------------------------------------------------------------------------------------------------- death */

void host_kill_at(struct host *h, uint64_t n, bool torn) {
    h->kill_in = n;
    h->kill_torn = torn;
}

void host_arm(struct host *h) {
    store_watch_none();
    for (uint32_t i = 0; i < h->engine_count; i++)
        store_watch(h->engine[i].arena, h->engine[i].size);
    store_arm(h->kill_in, h->kill_torn, &h->death);
}

void host_disarm(struct host *h) {
    if (h->kill_in > 0)
        h->kill_in -= store_count();
    store_disarm();
}

static void host_recover_engine(struct host *h, struct host_engine *e) {
    uint32_t lost = 0;
    int rc = e->code.ops->recover(e->arena, e->size, &lost);
    if (rc != 0 || lost != 0)
        world_fail(h->world, "host %u: %s: recover() returns %d and loses %u records", h->params.id, e->name, rc, lost);
    memset(e->counters, 0, e->code.ops->counter_count * sizeof *e->counters);
    e->rng = prng_next(&h->prng);
}

static void host_restart(void *arg, uint64_t value) {
    struct host *h = (struct host *)arg;
    (void)value;
    if (setjmp(h->death) != 0) {
        host_died(h);
        return;
    }
    host_arm(h); /* death may strike again while the successor recovers */
    for (uint32_t i = 0; i < h->engine_count && !h->world->failed; i++)
        host_recover_engine(h, &h->engine[i]);
    host_disarm(h);
    h->stats.recoveries++;
    h->dead = false;
    host_check(h, "recovery");
    world_log(h->world, "host %u is back", h->params.id);
    if (!h->world->failed)
        h->app.restarted(h->app.arg, h);
    host_wake(h, h->world->now);
}

void host_died(struct host *h) {
    h->stats.deaths++;
    h->kill_in = 0;
    h->dead = true;
    host_forget(h);
    WORLD_TRACE(&h->world->wire, 'k', h->world->now, h->params.id);
    world_log(h->world, "host %u dies", h->params.id);
    world_post(h->world, h->world->now + h->params.restart_delay, host_restart, h, 0);
}

int host_command(struct host *h, const char *name, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    if (h->dead)
        return -EOWNERDEAD;
    if (setjmp(h->death) != 0) {
        host_died(h);
        return -EOWNERDEAD;
    }
    host_arm(h);
    for (uint32_t i = 0; i < h->engine_count; i++) {
        if (strcmp(h->engine[i].name, name) != 0)
            continue;
        struct engine_io io;
        host_io(h, i, &io);
        memset(ret_reply, 0, sizeof *ret_reply);
        h->engine[i].code.ops->command(h->engine[i].arena, &io, cmd, ret_reply);
        host_collect(h, i, &io);
    }
    host_disarm(h);
    host_check(h, "a command");
    host_plan(h);
    return 0;
}

/* ------------------------------------------------------------------------------------------------------ upgrade */

/* A sum over the saved records that does not depend on their order. */
static uint64_t engine_digest(struct host *h, const struct host_engine *e, const void *arena, void *into) {
    uint8_t record[RECORD_MAX];
    uint64_t cursor = 0, sum = 0;
    for (;;) {
        int64_t n = e->code.ops->save(arena, &cursor, record, sizeof record);
        if (n == 0)
            return sum;
        int rc =
            n < 0 || into == NULL ? (int)n : e->code.ops->load(into, e->code.ops->layout_version, record, (size_t)n);
        if (n < 0 || rc < 0) {
            world_fail(h->world, "host %u: %s: %s of a record: %d", h->params.id, e->name, n < 0 ? "save" : "load", rc);
            return 0;
        }
        struct world_trace t = {0};
        world_trace_bytes(&t, record, (size_t)n);
        sum += t.hash;
    }
}

uint64_t host_digest(struct host *h, uint32_t engine) {
    return engine_digest(h, &h->engine[engine], h->engine[engine].arena, NULL);
}

static void host_upgrade_state(struct host *h, struct host_engine *e) {
    void *fresh = arena_new(e);
    int rc = e->code.ops->init(fresh, e->size, e->cfg, e->seed);
    if (rc != 0) {
        world_fail(h->world, "host %u: %s: init of the new arena: %d", h->params.id, e->name, rc);
        free(fresh);
        return;
    }
    uint64_t before = engine_digest(h, e, e->arena, fresh);
    uint64_t after = engine_digest(h, e, fresh, NULL);
    if (before != after)
        world_fail(h->world, "host %u: %s: save and load change a record", h->params.id, e->name);
    free(e->arena);
    e->arena = fresh;
}

/* Other code of the same layout: a fresh copy of the module. Engines that are linked in only recover. */
static void host_upgrade_code(struct host *h, struct host_engine *e) {
    char err[600];
    struct module fresh = e->code;
    if (e->code.handle != NULL && module_open(h->params.engines, e->name, &fresh, err, sizeof err) != 0) {
        world_fail(h->world, "%s", err);
        return;
    }
    if (e->code.handle != NULL)
        module_close(&e->code);
    e->code = fresh;
    uint32_t lost = 0;
    int rc = e->code.ops->recover(e->arena, e->size, &lost);
    if (rc != 0 || lost != 0)
        world_fail(h->world, "host %u: %s: recover() of a sound arena returns %d and loses %u records", h->params.id,
                   e->name, rc, lost);
}

bool host_upgrade(struct host *h, enum host_upgrade how) {
    if (h->dead || host_kept(h) > 0) {
        h->stats.upgrades_skipped++;
        return false;
    }
    for (uint32_t i = 0; i < h->engine_count && !h->world->failed; i++) {
        if (how == HOST_UPGRADE_STATE)
            host_upgrade_state(h, &h->engine[i]);
        else
            host_upgrade_code(h, &h->engine[i]);
    }
    h->stats.upgrades++;
    world_log(h->world, "host %u is upgraded (%s)", h->params.id, how == HOST_UPGRADE_STATE ? "state" : "code");
    host_check(h, "an upgrade");
    return true;
}

/* ---------------------------------------------------------------------------------------------------------- end */

static void host_balance(struct host *h) {
    const struct host_stats *s = &h->stats;
    uint64_t drops = 0;
    for (uint32_t i = 0; i < DROP_COUNT; i++)
        drops += s->drops[i];
    uint64_t in = s->rx + s->submitted + s->made, out = s->tx + s->delivered + s->done + drops;
    if (in != out && s->deaths == 0)
        world_fail(h->world, "host %u: %llu packets came in, %llu went out", h->params.id, (unsigned long long)in,
                   (unsigned long long)out);
}

void host_finish(struct host *h) {
    for (uint32_t i = 0; i < h->engine_count && !h->world->failed && !h->dead; i++) {
        struct engine_io io;
        uint32_t dropped;
        do { /* it may keep more than a vec takes */
            host_io(h, i, &io);
            h->engine[i].code.ops->fini(h->engine[i].arena, &io);
            dropped = io.drop->count;
            host_collect(h, i, &io);
        } while (dropped > 0 && !h->world->failed);
    }
    if (h->world->failed || h->dead)
        return;
    uint32_t leaked = host_kept(h) + h->small.held + h->large.held - h->turn_count - h->submit_count;
    if (leaked != 0)
        world_fail(h->world, "host %u: %u packets never came back", h->params.id, leaked);
    if (h->turn_count + h->submit_count == 0)
        host_balance(h);
}
