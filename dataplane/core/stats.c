/* SPDX-License-Identifier: Apache-2.0
 *
 * Counters and names, for control to show. Counters are written by workers with plain stores of aligned words and read
 * here while they run: each value is exact, the set is no snapshot.
 */
#include <errno.h>
#include <sys/eventfd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/core/worker.h"
#include "dataplane/session/session_internal.h"

#if defined(__SANITIZE_THREAD__)
#define READS_COUNTERS __attribute__((no_sanitize("thread"), noinline))
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define READS_COUNTERS __attribute__((no_sanitize("thread"), noinline))
#endif
#endif
#ifndef READS_COUNTERS
#define READS_COUNTERS
#endif

/* Not memcpy(): each word is read once, whole. */
READS_COUNTERS void counters_read(uint64_t *to, const uint64_t *from, size_t n) {
    const volatile uint64_t *v = from;
    for (size_t i = 0; i < n; i++)
        to[i] = v[i];
}

READS_COUNTERS static void bins_read(uint32_t *to, const uint32_t *from, size_t n) {
    const volatile uint32_t *v = from;
    for (size_t i = 0; i < n; i++)
        to[i] = v[i];
}

/* Upper edge of the bin below which 99 of 100 turns lie. */
uint64_t worker_delay_p99(const struct worker *w) {
    uint32_t bin[64];
    bins_read(bin, w->delay_map, ARRAY_LEN(bin));
    uint64_t all = 0, seen = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(bin); i++)
        all += bin[i];
    for (uint32_t i = 0; i < ARRAY_LEN(bin) && all > 0; i++) {
        seen += bin[i];
        if (seen * 100 >= all * 99)
            return 2ull << i;
    }
    return 0;
}

uint32_t runtime_worker_stats(const struct runtime *rt, struct worker_stats *ret_stats, uint32_t max) {
    uint32_t n = 0;
    for (; n < rt->worker_count && n < max; n++) {
        const struct worker *w = rt->worker[n];
        struct worker_stats *s = &ret_stats[n];
        counters_read((uint64_t *)s, (const uint64_t *)&w->stats, sizeof *s / sizeof(uint64_t));
        s->worker = n;
        s->cpu = w->cpu;
        s->running = w->started;
        s->shards = 0;
        for (uint32_t i = 0; i < rt->shard_count; i++)
            s->shards |= rt->started && rt->shard_worker[i] == n ? 1u << i : 0;
        s->delay_p99_ns = worker_delay_p99(w);
    }
    return n;
}

uint32_t runtime_stuck_workers(struct runtime *rt) {
    uint32_t stuck = 0;
    for (uint32_t i = 0; i < rt->worker_count; i++) {
        struct worker *w = rt->worker[i];
        uint64_t turns;
        counters_read(&turns, &w->stats.turns, 1);
        turns++; /* 0 stands for "not asked" */
        stuck |= w->started && turns == rt->turns_then[i] ? 1u << i : 0;
        rt->turns_then[i] = w->started ? turns : 0;
        if (w->started)
            (void)eventfd_write(w->mailbox.bell, 1);
    }
    return stuck;
}

READS_COUNTERS int runtime_shard_stats(const struct runtime *rt, uint32_t shard, struct shard_stats *ret_stats) {
    if (shard >= rt->shard_count)
        return -EINVAL;
    const struct shard *sh = rt->shard[shard];
    counters_read((uint64_t *)ret_stats, (const uint64_t *)&sh->stats, sizeof *ret_stats / sizeof(uint64_t));
    ret_stats->pool_small_free = *(const volatile uint32_t *)&sh->small.pool.free_count;
    ret_stats->pool_large_free = *(const volatile uint32_t *)&sh->large.pool.free_count;
    ret_stats->sessions = *(const volatile uint32_t *)&sh->set_count;
    return 0;
}

const char *runtime_engine_name(const struct runtime *rt, uint32_t engine) {
    return engine < rt->engine_count ? rt->engine[engine].ops.name : NULL;
}

int runtime_engine_facts(const struct runtime *rt, uint32_t engine, struct engine_facts *ret_facts) {
    if (engine >= rt->engine_count)
        return -ENOENT;
    const struct engine_ops *ops = &rt->engine[engine].ops;
    *ret_facts = (struct engine_facts){.name = ops->name,
                                       .abi = ops->abi,
                                       .layout_version = ops->layout_version,
                                       .stage = ops->stage,
                                       .proto = ops->proto,
                                       .state_bytes = rt->shard[0]->node[engine].arena.size};
    return 0;
}

uint32_t runtime_engine_counters(const struct runtime *rt, uint32_t engine, const struct engine_counter **ret_names,
                                 uint64_t *ret_values, uint32_t max) {
    if (engine >= rt->engine_count)
        return 0;
    const struct engine_ops *ops = &rt->engine[engine].ops;
    uint32_t n = ops->counter_count < max ? ops->counter_count : max;
    for (uint32_t k = 0; k < n; k++)
        ret_values[k] = 0;
    for (uint32_t i = 0; i < rt->shard_count; i++) {
        for (uint32_t k = 0; k < n; k++) {
            uint64_t value;
            counters_read(&value, &rt->shard[i]->node[engine].io.counters[k], 1);
            ret_values[k] += value;
        }
    }
    if (ret_names != NULL)
        *ret_names = ops->counters;
    return n;
}

/* ---- names ---- */

const char *drop_reason_text(enum drop_reason r) {
    static const char *const text[] = {
#define DROP(name, words) words,
#include "engines/drops.def"
#undef DROP
    };
    return (uint32_t)r < DROP_COUNT ? text[r] : "unknown reason";
}

const char *drop_reason_name(enum drop_reason r) {
    static const char *const name[] = {
#define DROP(id, words) #id,
#include "engines/drops.def"
#undef DROP
    };
    return (uint32_t)r < DROP_COUNT ? name[r] : "UNKNOWN";
}

const char *detach_reason_text(enum detach_reason r) {
    static const char *const text[] = {
#define DETACH(name, words) words,
#include "dataplane/session/detach.def"
#undef DETACH
    };
    return (uint32_t)r < DETACH_COUNT ? text[r] : "still attached";
}
