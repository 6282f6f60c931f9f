/* SPDX-License-Identifier: Apache-2.0
 *
 * The runtime as control uses it: creation, engines, ports, calls into shards, events out of them. Control thread only;
 * nothing here runs on a worker except what is handed to runtime_call().
 */
#include "dataplane/core/runtime.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/core/worker.h"
#include "dataplane/session/session_internal.h"

#define SMALL_DEFAULT    8192u
#define LARGE_DEFAULT    64u
#define PACKETS_MAX      (1u << 20)
#define SESSION_DEFAULT  1024u
#define SESSION_LIMIT    (1u << 20)
#define SPIN_DEFAULT_US  50u
#define DELAY_DEFAULT_US 50u

static ns_t monotonic(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (ns_t)ts.tv_sec * NS_PER_SEC + (ns_t)ts.tv_nsec;
}

/* ---- creation ---- */

static uint32_t or_default(uint32_t value, uint32_t standard) {
    return value != 0 ? value : standard;
}

static int config_take(struct runtime *rt, const struct runtime_config *cfg, struct runtime_error *err) {
    rt->cfg = *cfg;
    rt->cfg.small_packets = or_default(cfg->small_packets, SMALL_DEFAULT);
    rt->cfg.large_packets = or_default(cfg->large_packets, LARGE_DEFAULT);
    rt->cfg.session_max = or_default(cfg->session_max, SESSION_DEFAULT);
    rt->cfg.spin_max_us = or_default(cfg->spin_max_us, SPIN_DEFAULT_US);
    rt->cfg.target_delay_us = or_default(cfg->target_delay_us, DELAY_DEFAULT_US);
    if (cfg->shard_count > SHARD_MAX)
        return runtime_fail(err, -EINVAL, "%u shards asked for, at most %d are possible", cfg->shard_count, SHARD_MAX);
    if (rt->cfg.small_packets > PACKETS_MAX || rt->cfg.large_packets > PACKETS_MAX)
        return runtime_fail(err, -EINVAL, "at most %u packets of a size are possible", PACKETS_MAX);
    if (rt->cfg.session_max > SESSION_LIMIT || cfg->mode >= SCHED_MODE_COUNT)
        return runtime_fail(err, -EINVAL, "at most %u sessions, and one of %d modes, are possible", SESSION_LIMIT,
                            SCHED_MODE_COUNT);
    if (rt->cfg.seed == 0 && getrandom(&rt->cfg.seed, sizeof rt->cfg.seed, 0) != sizeof rt->cfg.seed)
        return runtime_fail(err, -EIO, "the kernel gives no random seed");
    if (cfg->engine_dir != NULL)
        snprintf(rt->engine_dir, sizeof rt->engine_dir, "%s", cfg->engine_dir);
    rt->cfg.engine_dir = rt->engine_dir;
    return 0;
}

/* The other ends of the rings between shards lie in the other shards. */
static void shards_join(struct runtime *rt) {
    for (uint32_t a = 0; a < rt->shard_count; a++) {
        for (uint32_t b = 0; b < rt->shard_count; b++) {
            rt->shard[a]->cross_out[b] = &rt->shard[b]->cross_in[a];
            rt->shard[a]->home_out[b] = &rt->shard[b]->home_in[a];
        }
    }
}

static int parts_create(struct runtime *rt, struct runtime_error *err) {
    rt->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rt->steer = malloc(sizeof *rt->steer);
    if (rt->event_fd < 0 || rt->steer == NULL)
        return runtime_fail(err, -ENOMEM, "cannot make the runtime: %s", strerror(errno));
    memset(rt->steer->shard, STEER_NONE, sizeof rt->steer->shard);
    memset(rt->steer->users, 0, sizeof rt->steer->users);
    memset(rt->steer->sockets, 0, sizeof rt->steer->sockets);
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        int error = shard_create(rt, i, &rt->cfg, &rt->shard[i]);
        if (error < 0)
            return runtime_fail(err, error, "no memory for shard %u (%u packets of 2 KiB, %u of 68 KiB): %s", i,
                                rt->cfg.small_packets, rt->cfg.large_packets, strerror(-error));
    }
    shards_join(rt);
    for (uint32_t i = 0; i < rt->worker_count; i++) {
        rt->worker[i] = aligned_alloc(CACHE_LINE, sizeof(struct worker));
        if (rt->worker[i] == NULL || worker_init(rt->worker[i], rt, i) < 0)
            return runtime_fail(err, -ENOMEM, "no memory for worker %u", i);
    }
    return 0;
}

int runtime_create(const struct runtime_config *cfg, struct runtime **ret_rt, struct runtime_error *err) {
    struct runtime *rt = calloc(1, sizeof *rt);
    if (rt == NULL)
        return runtime_fail(err, -ENOMEM, "no memory for the runtime");
    rt->event_fd = -1;
    memset(rt->slot_shard, SHARD_MAX, sizeof rt->slot_shard);
    int error = config_take(rt, cfg, err);
    if (error == 0)
        error = sched_plan(rt, err);
    if (error == 0)
        error = parts_create(rt, err);
    if (error < 0) {
        runtime_destroy(rt);
        return error;
    }
    *ret_rt = rt;
    return 0;
}

void runtime_destroy(struct runtime *rt) {
    if (rt == NULL)
        return;
    runtime_stop(rt);
    for (uint32_t slot = 0; slot < PORT_SLOT_MAX; slot++)
        runtime_port_remove(rt, slot);
    for (uint32_t i = 0; i < rt->shard_count && rt->shard[i] != NULL; i++)
        shard_nodes_remove(rt->shard[i]);
    for (uint32_t i = 0; i < rt->shard_count && rt->shard[i] != NULL; i++)
        shard_settle(rt->shard[i]); /* takes home what engines of other shards held */
    session_reap(rt);
    for (uint32_t i = 0; i < rt->shard_count && rt->shard[i] != NULL; i++)
        shard_destroy(rt->shard[i]);
    for (uint32_t i = 0; i < rt->worker_count && rt->worker[i] != NULL; i++) {
        worker_fini(rt->worker[i]);
        free(rt->worker[i]);
    }
    for (uint32_t i = 0; i < rt->engine_count; i++)
        module_unload(&rt->engine[i]);
    if (rt->event_fd >= 0)
        close(rt->event_fd);
    heirlooms_drop(rt);
    free(rt->steer);
    free(rt);
}

int runtime_start(struct runtime *rt, struct runtime_error *err) {
    if (rt->started)
        return 0;
    int error = sched_start(rt, err);
    if (error < 0)
        sched_stop(rt);
    rt->started = error == 0;
    return error;
}

void runtime_stop(struct runtime *rt) {
    if (!rt->started)
        return;
    sched_stop(rt);
    rt->started = false;
}

uint32_t runtime_shard_count(const struct runtime *rt) {
    return rt->shard_count;
}

/* ---- calls ---- */

struct call {
    shard_fn *fn;
    void *arg;
};

static void call_letter(void *target, void *arg) {
    struct shard *sh = target;
    const struct call *call = arg;
    call->fn(sh, call->arg);
    shard_settle(sh);
}

int runtime_call(struct runtime *rt, uint32_t shard, shard_fn *fn, void *arg) {
    if (shard >= rt->shard_count)
        return -EINVAL;
    struct shard *sh = rt->shard[shard];
    struct call call = {fn, arg};
    if (rt->started)
        return worker_call(rt->worker[rt->shard_worker[shard]], call_letter, sh, &call);
    sh->now = monotonic();
    call_letter(sh, &call);
    return 0;
}

struct quiet {
    struct runtime *rt;
    uint32_t worker;
    void (*fn)(struct runtime *rt, void *arg);
    void *arg;
};

/* Each worker, standing between two polls, asks the next one to stand too; the last runs fn. Only one thread posts at a
 * time, because everybody before it waits: the mailboxes keep their single producer. */
static void quiet_letter(void *target, void *arg) {
    struct quiet *q = target;
    if (q->worker == 1)
        q->rt->quiet_since = monotonic();
    (void)arg;
    if (q->worker == q->rt->worker_count) {
        q->fn(q->rt, q->arg);
        return;
    }
    struct worker *w = q->rt->worker[q->worker++];
    (void)worker_call(w, quiet_letter, q, NULL);
}

void runtime_quiesce(struct runtime *rt, void (*fn)(struct runtime *rt, void *arg), void *arg) {
    struct quiet q = {.rt = rt, .fn = fn, .arg = arg};
    quiet_letter(&q, NULL);
}

struct command {
    uint32_t engine;
    const struct engine_cmd *cmd;
    struct engine_reply reply;
};

static void command_run(struct shard *sh, void *arg) {
    struct command *c = arg;
    node_command(sh, &sh->node[c->engine], c->cmd, &c->reply);
}

/* See struct runtime_upgrade.fill. */
static int command_send(struct runtime *rt, uint32_t shard, struct command *c) {
    if (rt->upgrade != NULL && upgrade_engine(rt->upgrade) == c->engine)
        return upgrade_command(rt->upgrade, shard, c->cmd, &c->reply);
    int error = runtime_call(rt, shard, command_run, c);
    return error < 0 ? error : c->reply.error;
}

int runtime_command(struct runtime *rt, uint32_t shard, uint32_t engine, const struct engine_cmd *cmd,
                    struct engine_reply *ret_reply) {
    if (engine >= rt->engine_count || (shard >= rt->shard_count && shard != UINT32_MAX))
        return -EINVAL;
    uint32_t first = shard == UINT32_MAX ? 0 : shard;
    uint32_t last = shard == UINT32_MAX ? rt->shard_count - 1 : shard;
    struct command result = {.reply = {.error = 0}};
    int error = 0;
    for (uint32_t i = first; i <= last; i++) {
        struct command c = {.engine = engine, .cmd = cmd};
        int e = command_send(rt, i, &c);
        if (i == first || (e < 0 && error == 0))
            result = c;
        error = error < 0 ? error : e;
    }
    if (ret_reply != NULL)
        *ret_reply = result.reply;
    return error;
}

int runtime_steer(struct runtime *rt, const struct flow *flow, uint32_t shard, bool add) {
    uint32_t owner = steer_lookup(rt->steer, flow->proto, flow->local_port);
    if (shard >= rt->shard_count)
        return -EINVAL;
    if (owner != shard && (owner != STEER_NONE || !add))
        return add ? -EADDRINUSE : -ENOENT;
    if (add)
        steer_add(rt->steer, flow, shard);
    else
        steer_del(rt->steer, flow, shard);
    return 0;
}

/* ---- engines ---- */

struct stage_change {
    uint32_t engine;
    bool on;
};

static void stage_set_run(struct shard *sh, void *arg) {
    const struct stage_change *c = arg;
    sh->stage_node[sh->node[c->engine].ops->stage] = c->on ? (uint8_t)c->engine : NODE_NONE;
    hops_wire(sh);
}

int runtime_stage_set(struct runtime *rt, uint32_t engine, bool on) {
    struct stage_change change = {.engine = engine, .on = on};
    uint32_t stage = engine < rt->engine_count ? rt->engine[engine].ops.stage : STAGE_APP;
    int error = stage == STAGE_LINK || stage == STAGE_FILTER || stage == STAGE_QOS ? 0 : -EINVAL;
    for (uint32_t i = 0; i < rt->shard_count && error == 0; i++)
        error = runtime_call(rt, i, stage_set_run, &change);
    return error;
}

/* ---- ports ---- */

struct pktmem *runtime_port_mem(struct runtime *rt, uint32_t shard, bool large) {
    struct shard *sh = rt->shard[shard % rt->shard_count];
    return large ? &sh->large : &sh->small;
}

struct queue_change {
    struct port_queue *q;
    uint32_t slot;
    struct port_info info;
    int error;
};

static void queue_add_run(struct shard *sh, void *arg) {
    struct queue_change *c = arg;
    c->error = shard_queue_add(sh, c->q, c->slot);
}

static void queue_remove_run(struct shard *sh, void *arg) {
    const struct queue_change *c = arg;
    sh->port_info[c->slot] = (struct port_info){.up = false};
    shard_queue_remove_slot(sh, c->slot);
}

static void info_set_run(struct shard *sh, void *arg) {
    const struct queue_change *c = arg;
    sh->port_info[c->slot] = c->info;
}

uint32_t runtime_slot_shard(const struct runtime *rt, uint32_t slot) {
    return __atomic_load_n(&rt->slot_shard[slot], __ATOMIC_RELAXED);
}

static void slot_shard_set(struct runtime *rt, uint32_t slot, uint32_t shard) {
    __atomic_store_n(&rt->slot_shard[slot], (uint8_t)shard, __ATOMIC_RELAXED);
}

static void queues_remove(struct runtime *rt, uint32_t slot) {
    slot_shard_set(rt, slot, SHARD_MAX);
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        struct queue_change c = {.slot = slot};
        (void)runtime_call(rt, i, queue_remove_run, &c);
    }
}

int runtime_port_add(struct runtime *rt, struct port *port, uint32_t *ret_slot, struct runtime_error *err) {
    uint32_t slot = 0;
    while (slot < PORT_SLOT_MAX && rt->port[slot] != NULL)
        slot++;
    if (slot == PORT_SLOT_MAX)
        return runtime_fail(err, -ENOSPC, "port %s: at most %d interfaces are possible", port->name, PORT_SLOT_MAX);
    runtime_port_info_set(rt, slot, &port->info);
    for (uint32_t i = 0; i < port->queue_count; i++) {
        struct queue_change c = {.q = port->queue[i], .slot = slot};
        int error = runtime_call(rt, i % rt->shard_count, queue_add_run, &c);
        error = error < 0 ? error : c.error;
        if (error < 0) {
            queues_remove(rt, slot);
            return runtime_fail(err, error, "port %s: queue %u cannot be served: %s", port->name, i, strerror(-error));
        }
    }
    slot_shard_set(rt, slot, 0);
    rt->port[slot] = port;
    if (ret_slot != NULL)
        *ret_slot = slot;
    return 0;
}

/* A port that is destroyed puts what it still holds straight into the pools: nobody may be using them, and the clients'
 * bytes that those packets carried are given back afterwards. */
static void port_end(struct runtime *rt, void *arg) {
    port_destroy(arg);
    for (uint32_t i = 0; i < rt->shard_count; i++)
        shard_forced_reclaim(rt->shard[i]);
}

void runtime_port_remove(struct runtime *rt, uint32_t slot) {
    if (slot >= PORT_SLOT_MAX || rt->port[slot] == NULL)
        return;
    struct port *port = rt->port[slot];
    rt->port[slot] = NULL;
    queues_remove(rt, slot);
    runtime_quiesce(rt, port_end, port);
}

struct port *runtime_port(struct runtime *rt, uint32_t slot) {
    return slot < PORT_SLOT_MAX ? rt->port[slot] : NULL;
}

void runtime_port_info_set(struct runtime *rt, uint32_t slot, const struct port_info *info) {
    struct queue_change c = {.slot = slot, .info = *info};
    if (slot >= PORT_SLOT_MAX)
        return;
    for (uint32_t i = 0; i < rt->shard_count; i++)
        (void)runtime_call(rt, i, info_set_run, &c);
}

/* ---- events ---- */

int runtime_event_fd(const struct runtime *rt) {
    return rt->event_fd;
}

static void shard_events(struct shard *sh, runtime_event_fn *fn, void *arg) {
    uint32_t tail = __atomic_load_n(&sh->event_tail, __ATOMIC_ACQUIRE); /* pairs with events_settle() */
    while (sh->event_head != tail) {
        struct engine_event ev = sh->event_ring[sh->event_head % SHARD_EVENT_MAX].event;
        __atomic_store_n(&sh->event_head, sh->event_head + 1, __ATOMIC_RELEASE);
        if (fn != NULL)
            fn(arg, sh->index, &ev);
    }
}

void runtime_events(struct runtime *rt, runtime_event_fn *fn, void *arg) {
    eventfd_t ignored;
    (void)eventfd_read(rt->event_fd, &ignored);
    for (uint32_t i = 0; i < rt->shard_count; i++)
        shard_events(rt->shard[i], fn, arg);
    session_reap(rt);
    if (__atomic_exchange_n(&rt->rebalance, 0, __ATOMIC_ACQUIRE) != 0)
        sched_rebalance(rt);
}

/* ---- taps ---- */

struct tap {
    shard_tap_fn *fn;
    void *arg;
};

static void tap_run(struct shard *sh, void *arg) {
    const struct tap *t = arg;
    sh->tap = t->fn;
    sh->tap_arg = t->arg;
}

int runtime_tap_set(struct runtime *rt, shard_tap_fn *fn, void *arg) {
    struct tap t = {fn, arg};
    int error = 0;
    for (uint32_t i = 0; i < rt->shard_count && error == 0; i++)
        error = runtime_call(rt, i, tap_run, &t);
    return error;
}

static void qos_ports_run(struct shard *sh, void *arg) {
    sh->qos_ports = *(const uint32_t *)arg;
}

int runtime_qos_ports(struct runtime *rt, uint32_t mask) {
    int error = rt->shard[SHARD_QOS]->stage_node[STAGE_QOS] != NODE_NONE ? 0 : -ENOENT;
    for (uint32_t i = 0; i < rt->shard_count && error == 0; i++)
        error = runtime_call(rt, i, qos_ports_run, &mask);
    return error;
}
