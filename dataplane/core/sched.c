/* SPDX-License-Identifier: Apache-2.0
 *
 * Which worker runs which shard. Control thread, except sched_report(). A shard moves by two letters: the old worker
 * lets go of it between two polls, the new one takes it up; what arrives meanwhile waits in queues and rings, in order.
 */
#include <errno.h>
#include <sched.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/core/worker.h"

#define REBALANCE_NS  (2 * SCHED_WINDOW_NS) /* a distribution is judged by two windows of its own */
#define MERGE_PERCENT 60                    /* shards of two workers share one when together they keep it this busy */

/* ---- modes ---- */

struct mode_choice {
    enum sched_mode mode;
    const char *why;
};

static struct mode_choice mode_choose(enum sched_mode wish, uint32_t cpus, uint32_t shards) {
    if (wish != SCHED_AUTO)
        return (struct mode_choice){wish, "asked for"};
    if (cpus == 1)
        return (struct mode_choice){SCHED_SPREADING, "one usable core: workers and clients take turns on it"};
    if (shards >= cpus)
        return (struct mode_choice){SCHED_SPREADING, "as many shards as cores: spinning would take them from programs"};
    if (cpus < 4 || shards * 2 > cpus)
        return (struct mode_choice){SCHED_SPREADING, "few cores: workers give theirs back when there is nothing to do"};
    return (struct mode_choice){SCHED_DEDICATED, "cores to spare: each shard has one of its own"};
}

int sched_plan(struct runtime *rt, struct runtime_error *err) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return runtime_fail(err, -errno, "cannot read this process's cores");
    for (uint32_t cpu = 0; cpu < 64; cpu++) {
        if (CPU_ISSET(cpu, &set) && (rt->cfg.cpu_mask == 0 || (rt->cfg.cpu_mask >> cpu & 1)))
            rt->cpus |= 1ull << cpu;
    }
    rt->cpu_count = (uint32_t)__builtin_popcountll(rt->cpus);
    rt->only_cpu = CPU_COUNT(&set) == 1;
    if (rt->cpu_count == 0)
        return runtime_fail(err, -EINVAL, "none of the cores in the mask 0x%llx is usable by this process",
                            (unsigned long long)rt->cfg.cpu_mask);
    uint32_t standard = rt->cpu_count > 1 ? rt->cpu_count - 1 : 1;
    rt->shard_count = rt->cfg.shard_count != 0 ? rt->cfg.shard_count : standard;
    rt->shard_count = rt->shard_count < SHARD_MAX ? rt->shard_count : SHARD_MAX;
    rt->worker_count = rt->shard_count;
    struct mode_choice choice = mode_choose(rt->cfg.mode, rt->cpu_count, rt->shard_count);
    rt->mode = choice.mode;
    rt->mode_why = choice.why;
    return 0;
}

/* Workers take cores from the last one down: the first ones tend to serve interrupts. */
static int32_t worker_cpu(const struct runtime *rt, uint32_t worker) {
    uint32_t skip = worker % rt->cpu_count;
    for (int32_t cpu = 63; cpu >= 0; cpu--) {
        if ((rt->cpus >> cpu & 1) && skip-- == 0)
            return cpu;
    }
    return -1;
}

/* One core of several that the settings give to workers is theirs alone; the only one is shared with everybody. */
static enum idle_policy idle_policy(const struct runtime *rt) {
    if (rt->only_cpu || rt->worker_count > rt->cpu_count)
        return IDLE_YIELD;
    return rt->mode == SCHED_DEDICATED ? IDLE_SPIN : IDLE_TUNED;
}

static uint32_t home_worker(const struct runtime *rt, uint32_t shard) {
    return rt->mode == SCHED_COMPACTING ? 0 : shard;
}

static void policy_letter(void *target, void *arg) {
    worker_idle_set(target, *(const enum idle_policy *)arg);
}

static void policy_apply(struct runtime *rt) {
    enum idle_policy policy = idle_policy(rt);
    __atomic_store_n(&rt->compacting, rt->mode == SCHED_COMPACTING, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < rt->worker_count; i++)
        (void)worker_call(rt->worker[i], policy_letter, rt->worker[i], &policy);
}

/* ---- moving ---- */

static void add_letter(void *target, void *arg) {
    worker_shard_add(target, arg);
}
static void remove_letter(void *target, void *arg) {
    worker_shard_remove(target, arg);
}

int sched_start(struct runtime *rt, struct runtime_error *err) {
    for (uint32_t i = 0; i < rt->worker_count; i++) {
        int error = worker_start(rt->worker[i], worker_cpu(rt, i), err);
        if (error < 0)
            return error;
    }
    policy_apply(rt);
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        rt->shard_worker[i] = home_worker(rt, i);
        struct worker *w = rt->worker[rt->shard_worker[i]];
        int error = worker_call(w, add_letter, w, rt->shard[i]);
        if (error < 0)
            return runtime_fail(err, error, "worker %u does not answer", w->index);
    }
    return 0;
}

void sched_stop(struct runtime *rt) {
    for (uint32_t i = 0; i < rt->worker_count; i++)
        worker_stop(rt->worker[i]); /* lets go of its shards */
}

int runtime_shard_move(struct runtime *rt, uint32_t shard, uint32_t worker) {
    if (shard >= rt->shard_count || worker >= rt->worker_count)
        return -EINVAL;
    if (!rt->started)
        return -ESRCH;
    struct worker *from = rt->worker[rt->shard_worker[shard]], *to = rt->worker[worker];
    if (from == to)
        return 0;
    int error = worker_call(from, remove_letter, from, rt->shard[shard]);
    if (error < 0)
        return error;
    rt->shard_worker[shard] = worker;
    return worker_call(to, add_letter, to, rt->shard[shard]);
}

enum sched_mode runtime_mode(const struct runtime *rt, const char **ret_why) {
    if (ret_why != NULL)
        *ret_why = rt->mode_why;
    return rt->mode;
}

int runtime_mode_set(struct runtime *rt, enum sched_mode mode) {
    if (mode >= SCHED_MODE_COUNT)
        return -EINVAL;
    struct mode_choice choice = mode_choose(mode, rt->cpu_count, rt->shard_count);
    rt->mode = choice.mode;
    rt->mode_why = choice.why;
    if (!rt->started)
        return 0;
    policy_apply(rt);
    int error = 0;
    for (uint32_t i = 0; i < rt->shard_count && error == 0; i++)
        error = runtime_shard_move(rt, i, home_worker(rt, i));
    return error;
}

/* ---- compacting ---- */

/* Workers read it as well. */
static uint64_t target_delay_ns(const struct runtime *rt) {
    return __atomic_load_n(&rt->cfg.target_delay_us, __ATOMIC_RELAXED) * NS_PER_US;
}

/* On the worker. Old delays fade by halves; control is told when this worker keeps packets waiting, or has so little to
 * do that another could do it as well. While nothing happens no window ends and nobody is told anything. */
void sched_report(struct worker *w, ns_t now) {
    ns_t window = now - w->window_start;
    ns_t busy = w->stats.busy_ns - w->window_busy;
    w->window_start = now;
    w->window_busy = w->stats.busy_ns;
    struct runtime *rt = w->rt;
    if (__atomic_load_n(&rt->compacting, __ATOMIC_RELAXED) && w->shard_count > 0) {
        bool late = worker_delay_p99(w) > target_delay_ns(rt);
        bool light = busy * 100 < window * MERGE_PERCENT / 2;
        if ((late && w->shard_count > 1) || light) {
            __atomic_store_n(&rt->rebalance, 1, __ATOMIC_RELEASE);
            shard_tell_control(w->shard[0]);
        }
    }
    for (uint32_t i = 0; i < ARRAY_LEN(w->delay_map); i++)
        w->delay_map[i] /= 2;
}

struct load {
    uint64_t busy_percent;
    uint64_t delay_ns;
    uint32_t shards;
};

static void loads_read(struct runtime *rt, ns_t now, struct load *ret_load) {
    struct worker_stats stats[WORKER_MAX];
    uint32_t n = runtime_worker_stats(rt, stats, WORKER_MAX);
    ns_t window = now - rt->rebalance_at;
    for (uint32_t i = 0; i < n; i++) {
        ns_t busy = stats[i].busy_ns - rt->busy_then[i];
        rt->busy_then[i] = stats[i].busy_ns;
        ret_load[i] = (struct load){busy * 100 / (window | 1), stats[i].delay_p99_ns,
                                    (uint32_t)__builtin_popcount(stats[i].shards)};
    }
    rt->rebalance_at = now;
}

static uint32_t last_shard_of(const struct runtime *rt, uint32_t worker) {
    uint32_t found = SHARD_MAX;
    for (uint32_t i = 0; i < rt->shard_count; i++)
        found = rt->shard_worker[i] == worker ? i : found;
    return found;
}

/* Somebody's packets wait too long: one of its shards goes to the worker that has least to do. */
static bool spread_out(struct runtime *rt, const struct load *load) {
    uint32_t worst = WORKER_MAX, least = 0;
    for (uint32_t i = 0; i < rt->worker_count; i++) {
        if (load[i].shards > 1 && load[i].delay_ns > target_delay_ns(rt) &&
            (worst == WORKER_MAX || load[i].delay_ns > load[worst].delay_ns))
            worst = i;
        if (load[i].busy_percent + load[i].shards < load[least].busy_percent + load[least].shards)
            least = i;
    }
    if (worst == WORKER_MAX || least == worst)
        return false;
    return runtime_shard_move(rt, last_shard_of(rt, worst), least) == 0;
}

/* Two workers that could be one: the one with less to do parks. */
static void draw_in(struct runtime *rt, const struct load *load) {
    uint32_t a = WORKER_MAX, b = WORKER_MAX; /* the two with least to do, a <= b */
    for (uint32_t i = 0; i < rt->worker_count; i++) {
        if (load[i].shards == 0)
            continue;
        if (a == WORKER_MAX || load[i].busy_percent < load[a].busy_percent) {
            b = a;
            a = i;
        } else if (b == WORKER_MAX || load[i].busy_percent < load[b].busy_percent) {
            b = i;
        }
    }
    if (b == WORKER_MAX || load[a].busy_percent + load[b].busy_percent > MERGE_PERCENT)
        return;
    if (load[a].delay_ns + load[b].delay_ns > target_delay_ns(rt))
        return;
    for (uint32_t shard; (shard = last_shard_of(rt, a)) != SHARD_MAX;) {
        if (runtime_shard_move(rt, shard, b) < 0)
            return;
    }
}

void sched_rebalance(struct runtime *rt) {
    struct clock clock;
    clock_init(&clock);
    if (!rt->started || rt->mode != SCHED_COMPACTING || clock.last - rt->rebalance_at < REBALANCE_NS)
        return;
    struct load load[WORKER_MAX] = {0};
    loads_read(rt, clock.last, load);
    if (!spread_out(rt, load))
        draw_in(rt, load);
}
