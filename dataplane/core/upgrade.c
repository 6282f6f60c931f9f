/* SPDX-License-Identifier: Apache-2.0
 *
 * Another version of an engine under traffic. On the control thread, but for what is marked; the change itself runs
 * while every worker stands between two polls, so no shard ever sees two versions.
 *
 * Code of the same layout takes over the arenas as they are. Code of another layout gets new ones: they are made and
 * touched while the old ones serve (brown-out), filled by save() and load() while the workers stand (black-out), and
 * the old ones stay whole until all shards have theirs, so whatever fails before changes nothing. What the old states
 * still keep (packets) comes out afterwards: a QoS engine's goes on into the new one, other packets are dropped, as a
 * network may drop them.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "engines/arena.h"

#define RECORD_BYTES  (4u << 20)       /* room for the largest record of any engine; touched as far as used */
#define BLACK_OUT_MAX (2 * NS_PER_SEC) /* a version that takes longer to load does not get in */
#define CLOCK_EVERY   64               /* records */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum phase { PHASE_WAITING, PHASE_AT_WORK, PHASE_DONE, PHASE_CANCELLED };

struct upgrade {
    struct runtime *rt;
    uint32_t engine;
    struct module code;           /* the new one; after the commit the old one */
    struct node spare[SHARD_MAX]; /* the new states; after the commit the old ones */
    bool moves;                   /* the states go into new arenas */
    uint32_t phase;               /* enum phase, atomic */
    int *counter_from;            /* by the new version's counter: the old one of that name, -1 = none */
    uint8_t *record;
    ns_t began, until;
    /* what became of it */
    int error;
    uint32_t at_shard;
    const char *at_step;
    struct runtime_upgrade_report report;
    struct pkt_vec nowhere; /* for commands to states that do not run yet */
    struct notice notices[NOTICE_VEC_MAX];
    struct engine_event events[EVENT_VEC_MAX];
};

static ns_t monotonic(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (ns_t)ts.tv_sec * NS_PER_SEC + (ns_t)ts.tv_nsec;
}

/* ---- brown-out: everything that can be done while the old version serves ---- */

static int place_check(const struct engine_ops *old, const struct engine_ops *fresh, struct runtime_error *err) {
    if (strcmp(old->name, fresh->name) != 0)
        return runtime_fail(err, -EINVAL, "the module is engine \"%s\", not \"%s\"", fresh->name, old->name);
    if (old->stage != fresh->stage || old->proto != fresh->proto)
        return runtime_fail(err, -EINVAL, "engine %s: the module wants another place in the graph; load it instead",
                            old->name);
    return 0;
}

static int counters_map(struct upgrade *up, const struct engine_ops *old, const struct engine_ops *fresh) {
    up->counter_from = calloc(fresh->counter_count + 1, sizeof *up->counter_from);
    if (up->counter_from == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < fresh->counter_count; i++) {
        up->counter_from[i] = -1;
        for (uint32_t k = 0; k < old->counter_count; k++) {
            if (strcmp(fresh->counters[i].name, old->counters[k].name) == 0)
                up->counter_from[i] = (int)k;
        }
    }
    return 0;
}

struct tables {
    uint32_t engine;
    bool known;
    struct arena_table table[ARENA_TABLE_MAX];
};

/* On the worker. */
static void tables_read(struct shard *sh, void *arg) {
    struct tables *t = arg;
    const struct node *nd = &sh->node[t->engine];
    const struct arena_header *h = nd->st;
    t->known = nd->arena.size >= sizeof *h && h->magic == ARENA_MAGIC && h->table_count <= ARENA_TABLE_MAX;
    memcpy(t->table, h->table, t->known ? sizeof t->table : 0);
}

static void pages_touch(const struct arena_memory *a, size_t at, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), first = at & ~(page - 1);
    if (at < a->size && bytes <= a->size - at)
        (void)madvise((uint8_t *)a->base + first, bytes + (at - first), MADV_POPULATE_WRITE);
}

/* The kernel zeroes a page at its first touch, which would be most of the black-out: as many records as the old state
 * has used are touched now. An engine whose arena has no such header is touched when it is filled. */
static void arena_touch(struct upgrade *up, uint32_t shard) {
    struct tables used = {.engine = up->engine};
    const struct arena_memory *a = &up->spare[shard].arena;
    const struct arena_header *h = a->base;
    (void)runtime_call(up->rt, shard, tables_read, &used);
    if (!used.known || h->magic != ARENA_MAGIC)
        return;
    for (uint32_t i = 0; i < h->table_count && i < ARENA_TABLE_MAX; i++) {
        const struct arena_table *t = &h->table[i];
        uint32_t records = used.table[i].high_water < t->capacity ? used.table[i].high_water : t->capacity;
        pages_touch(a, (size_t)t->offset_lines * CACHE_LINE, (size_t)records * t->record_size);
    }
}

static int spare_create(struct upgrade *up, uint32_t shard, const void *cfg) {
    struct node *spare = &up->spare[shard];
    const struct node *live = &up->rt->shard[shard]->node[up->engine];
    spare->ops = &up->code.ops;
    spare->rng = live->rng;
    spare->io.counters = calloc(up->code.ops.counter_count + 1, sizeof(uint64_t));
    if (spare->io.counters == NULL)
        return -ENOMEM;
    if (!up->moves)
        return 0;
    int error = node_state_create(spare, spare->ops, cfg, engine_seed(up->rt, spare->ops, shard));
    if (error == 0)
        arena_touch(up, shard);
    return error;
}

uint32_t upgrade_engine(const struct upgrade *up) {
    return up->engine;
}

int upgrade_command(struct upgrade *up, uint32_t shard, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    struct node *spare = &up->spare[shard];
    struct engine_io io = {.now = monotonic(),
                           .up = &up->nowhere,
                           .down = &up->nowhere,
                           .drop = &up->nowhere,
                           .done = &up->nowhere,
                           .ports = up->rt->shard[shard]->port_info,
                           .counters = spare->io.counters,
                           .notices = up->notices,
                           .events = up->events,
                           .rng = &spare->rng};
    *ret_reply = (struct engine_reply){.error = 0};
    spare->ops->command(spare->st, &io, cmd, ret_reply);
    return ret_reply->error;
}

static int states_prepare(struct upgrade *up, const struct runtime_upgrade *how, struct runtime_error *err) {
    const struct engine_ops *old = &up->rt->engine[up->engine].ops, *fresh = &up->code.ops;
    char why[128] = "";
    size_t size = fresh->state_size(how->cfg, why, sizeof why);
    if (size == 0)
        return runtime_fail(err, -EINVAL, "engine %s: the new version refuses its options: %s", old->name, why);
    up->moves = old->layout_version != fresh->layout_version || size > up->rt->shard[0]->node[up->engine].arena.size;
    int error = counters_map(up, old, fresh);
    for (uint32_t i = 0; i < up->rt->shard_count && error == 0; i++)
        error = spare_create(up, i, how->cfg);
    if (error == 0 && up->moves && (up->record = malloc(RECORD_BYTES)) == NULL)
        error = -ENOMEM;
    if (error < 0)
        return runtime_fail(err, error, "engine %s: no state for the new version: %s", old->name, strerror(-error));
    if (!up->moves || how->fill == NULL)
        return 0;
    up->rt->upgrade = up;
    error = how->fill(how->arg);
    up->rt->upgrade = NULL;
    if (error < 0)
        return runtime_fail(err, error, "engine %s: the new version does not take what it needs: %s", old->name,
                            strerror(-error));
    return 0;
}

/* ---- black-out: every worker stands between two polls; on one of them ---- */

static int record_move(struct upgrade *up, uint32_t shard, uint64_t *cursor) {
    const struct engine_ops *old = &up->rt->engine[up->engine].ops, *fresh = &up->code.ops;
    /* Messages only grow: an older version reads what it knows of a newer one's. */
    uint32_t from = old->layout_version < fresh->layout_version ? old->layout_version : fresh->layout_version;
    up->at_step = "save() of the old version";
    int64_t n = old->save(up->rt->shard[shard]->node[up->engine].st, cursor, up->record, RECORD_BYTES);
    if (n <= 0)
        return (int)n;
    up->at_step = "load() of the new version";
    int error = fresh->load(up->spare[shard].st, from, up->record, (size_t)n);
    if (error == 0 && up->report.records++ % CLOCK_EVERY == 0 && monotonic() > up->until)
        error = -ETIMEDOUT;
    return error < 0 ? error : 1;
}

static int state_move(struct upgrade *up, uint32_t shard) {
    uint64_t cursor = 0;
    int more;
    up->at_shard = shard;
    while ((more = record_move(up, shard, &cursor)) > 0)
        continue;
    return more;
}

static void node_swap(struct upgrade *up, struct shard *sh) {
    struct node *nd = &sh->node[up->engine], *spare = &up->spare[sh->index];
    struct node old = *nd;
    for (uint32_t i = 0; i < up->code.ops.counter_count; i++)
        spare->io.counters[i] = up->counter_from[i] < 0 ? 0 : old.io.counters[up->counter_from[i]];
    nd->io.counters = spare->io.counters;
    if (up->moves) {
        nd->arena = spare->arena;
        nd->st = nd->arena.base;
    }
    *spare = old;
    spare->ops = &up->code.ops;
    sh->deadline = 0;
}

static void code_swap(struct upgrade *up) {
    struct module old = up->rt->engine[up->engine];
    for (uint32_t i = 0; i < up->rt->shard_count; i++)
        node_swap(up, up->rt->shard[i]);
    up->rt->engine[up->engine] = up->code;
    up->code = old;
    for (uint32_t i = 0; i < up->rt->shard_count; i++)
        hops_wire(up->rt->shard[i]);
}

static void change_run(struct runtime *rt, void *arg) {
    struct upgrade *up = arg;
    uint32_t waiting = PHASE_WAITING;
    if (!__atomic_compare_exchange_n(&up->phase, &waiting, PHASE_AT_WORK, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return;
    up->until = monotonic() + BLACK_OUT_MAX;
    for (uint32_t i = 0; i < rt->shard_count && up->moves && up->error == 0; i++)
        up->error = state_move(up, i);
    if (up->error == 0)
        code_swap(up);
    up->report.black_out_ns = monotonic() - rt->quiet_since;
    __atomic_store_n(&up->phase, PHASE_DONE, __ATOMIC_RELEASE);
}

/* ---- afterwards ---- */

/* On the worker. What the old state kept: a queue's packets go on, the others end. */
static void old_end(struct shard *sh, void *arg) {
    struct upgrade *up = arg;
    struct node *old = &up->spare[sh->index];
    uint32_t n;
    old->io.notice_count = old->io.event_count = 0;
    old->io.now = sh->now;
    do {
        old->ops->fini(old->st, &old->io);
        n = sh->drop.count;
        up->report.packets += n;
        for (uint32_t i = 0; i < n; i++) {
            struct pkt *p = sh->drop.v[i];
            p->drop = DROP_NONE;
            if (old->ops->stage != STAGE_QOS || !hop_push(sh, HOP_QOS, p))
                shard_drop(sh, p, DROP_ENGINE_UPGRADED);
        }
        sh->drop.count = 0;
        old->io.notice_count = old->io.event_count = 0;
        node_settle(sh, old);
        hops_run(sh);
    } while (n > 0);
}

static void upgrade_free(struct upgrade *up) {
    for (uint32_t i = 0; i < up->rt->shard_count; i++) {
        free(up->spare[i].io.counters);
        if (up->moves)
            arena_memory_destroy(&up->spare[i].arena);
    }
    module_unload(&up->code);
    free(up->counter_from);
    free(up->record);
    free(up);
}

/* Either nothing has changed, with the reason in err, or everything has. */
static int change(struct upgrade *up, struct runtime_error *err) {
    const char *name = up->rt->engine[up->engine].ops.name;
    runtime_quiesce(up->rt, change_run, up);
    uint32_t waiting = PHASE_WAITING;
    if (__atomic_compare_exchange_n(&up->phase, &waiting, PHASE_CANCELLED, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return runtime_fail(err, -ETIMEDOUT, "engine %s: a worker does not answer; the old version goes on", name);
    if (waiting != PHASE_DONE)
        return runtime_fail(err, -EBUSY,
                            "engine %s: the new version hangs while it loads; usherd's watchdog restarts it", name);
    if (up->error < 0)
        return runtime_fail(err, up->error, "engine %s: %s fails at record %llu, shard %u: %s; the old version goes on",
                            name, up->at_step, (unsigned long long)up->report.records, up->at_shard,
                            up->error == -ETIMEDOUT ? "it takes too long" : strerror(-up->error));
    return 0;
}

static int upgrade_begin(struct runtime *rt, uint32_t engine, const struct runtime_upgrade *how,
                         struct upgrade **ret_up, struct runtime_error *err) {
    if (engine >= rt->engine_count)
        return runtime_fail(err, -ENOENT, "there is no engine %u", engine);
    struct upgrade *up = calloc(1, sizeof *up);
    if (up == NULL)
        return runtime_fail(err, -ENOMEM, "no memory for an upgrade");
    up->rt = rt;
    up->engine = engine;
    up->began = monotonic();
    for (uint32_t i = 0; i < SHARD_MAX; i++)
        up->spare[i].arena.memfd = -1;
    const char *name = rt->engine[engine].ops.name;
    int error = how->ops != NULL    ? module_link(&up->code, how->ops, err)
                : how->file != NULL ? module_load_file(&up->code, how->file, err)
                                    : module_load(&up->code, rt->engine_dir, name, err);
    if (error < 0) {
        free(up);
        return error;
    }
    *ret_up = up;
    return 0;
}

int runtime_engine_upgrade(struct runtime *rt, uint32_t engine, const struct runtime_upgrade *how,
                           struct runtime_upgrade_report *ret_report, struct runtime_error *err) {
    struct upgrade *up = NULL;
    int error = upgrade_begin(rt, engine, how, &up, err);
    if (error < 0)
        return error;
    const struct engine_ops *old = &rt->engine[engine].ops;
    up->report.layout_before = old->layout_version;
    up->report.layout_after = up->code.ops.layout_version;
    error = place_check(old, &up->code.ops, err);
    if (error == 0)
        error = states_prepare(up, how, err);
    up->report.moved = up->moves;
    if (error == 0)
        error = change(up, err);
    uint32_t phase = __atomic_load_n(&up->phase, __ATOMIC_ACQUIRE);
    if (phase == PHASE_AT_WORK || phase == PHASE_CANCELLED)
        return error; /* a worker may still look at it: it stays */
    for (uint32_t i = 0; i < rt->shard_count && error == 0 && up->moves; i++)
        (void)runtime_call(rt, i, old_end, up);
    for (uint32_t i = 0; i < rt->shard_count; i++)
        up->report.state_bytes += rt->shard[i]->node[engine].arena.size;
    up->report.brown_out_ns = monotonic() - up->began - up->report.black_out_ns;
    if (ret_report != NULL)
        *ret_report = up->report;
    upgrade_free(up);
    return error;
}
