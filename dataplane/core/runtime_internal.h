/* SPDX-License-Identifier: Apache-2.0
 *
 * The runtime from the inside, for dataplane/core and dataplane/session. Everything is control's except where it says
 * that workers read it; those parts are written before the workers start or with atomics.
 */
#ifndef USHER_DATAPLANE_CORE_RUNTIME_INTERNAL_H
#define USHER_DATAPLANE_CORE_RUNTIME_INTERNAL_H

#include "dataplane/core/module.h"
#include "dataplane/core/shard.h"
#include "dataplane/core/steer.h"

struct upgrade;
struct worker;

struct runtime {
    struct runtime_config cfg;
    char engine_dir[256];
    uint32_t shard_count;
    struct shard *shard[SHARD_MAX]; /* workers read it */
    struct steer *steer;            /* workers read it */
    uint32_t engine_count;
    struct module engine[SHARD_ENGINE_MAX];
    struct port *port[PORT_SLOT_MAX];
    uint8_t slot_shard[PORT_SLOT_MAX]; /* workers read it: who can transmit */
    int event_fd;                      /* workers write it */

    bool started;
    uint64_t cpus;   /* usable cores */
    uint32_t cpu_count;
    bool only_cpu; /* this process may run on one core only */
    enum sched_mode mode;
    const char *mode_why;
    uint32_t worker_count;
    struct worker *worker[WORKER_MAX];
    uint32_t shard_worker[SHARD_MAX]; /* who runs which shard */
    uint32_t rebalance;               /* workers set it (atomic): their load calls for another distribution */
    uint32_t compacting;              /* workers read it (atomic): reports are wanted */
    ns_t rebalance_at;
    ns_t busy_then[WORKER_MAX];
    uint64_t turns_then[WORKER_MAX]; /* when runtime_stuck_workers() woke them, 0 = it did not */
    struct session *detached; /* by workers, not yet told to control */
    struct session *zombies;  /* destroyed, packets under way */
    ns_t quiet_since;         /* when the first worker stood still for runtime_quiesce() */
    struct runtime_heirloom heirloom[RUNTIME_HEIRLOOM_MAX]; /* a predecessor's, until they are used */
    uint32_t heirloom_count;
    struct runtime_estate estate;
    struct upgrade *upgrade;  /* one whose new states are being filled: commands to its engine reach those */
};

/* ---- heirloom.c ---- */

/* The state that a predecessor left takes the place of the fresh one when it is sound; one of another layout is moved
 * into it. */
void heirloom_adopt(struct runtime *rt, uint32_t shard, struct node *nd);
void heirlooms_drop(struct runtime *rt);

/* ---- runtime_engine.c ---- */

/* Of a fresh state of an engine. */
uint64_t engine_seed(const struct runtime *rt, const struct engine_ops *ops, uint32_t shard);

/* ---- upgrade.c ---- */

uint32_t upgrade_engine(const struct upgrade *up);
int upgrade_command(struct upgrade *up, uint32_t shard, const struct engine_cmd *cmd, struct engine_reply *ret_reply);

/* ---- sched.c ---- */

int sched_plan(struct runtime *rt, struct runtime_error *err);
int sched_start(struct runtime *rt, struct runtime_error *err);
void sched_stop(struct runtime *rt);
void sched_rebalance(struct runtime *rt);
/* On the worker, once a SCHED_WINDOW_NS while it turns: forgets old delays, tells control what its load calls for. */
void sched_report(struct worker *w, ns_t now);

uint64_t worker_delay_p99(const struct worker *w);

/* Runs fn while every worker stands between two polls. */
void runtime_quiesce(struct runtime *rt, void (*fn)(struct runtime *rt, void *arg), void *arg);

/* Copies words that a worker writes meanwhile. */
void counters_read(uint64_t *to, const uint64_t *from, size_t n);

#define SCHED_WINDOW_NS (20 * NS_PER_MS)

#endif
