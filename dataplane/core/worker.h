/* SPDX-License-Identifier: Apache-2.0
 *
 * A worker: a pinned thread that runs shards. It polls while that pays, then arms everything that could bring work,
 * looks once more, and sleeps in one io_uring wait over all of it. See dataplane/session/WAKEUP.md.
 *
 * Threads: worker_start, worker_stop and worker_call are control's; the rest runs on the worker itself.
 */
#ifndef USHER_DATAPLANE_CORE_WORKER_H
#define USHER_DATAPLANE_CORE_WORKER_H

#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>

#include "dataplane/core/clock.h"
#include "dataplane/core/mailbox.h"
#include "dataplane/core/shard.h"

/* How a worker waits for work. */
enum idle_policy {
    IDLE_SPIN,  /* own core: look for a long time (dedicated_spin_ns) before sleeping */
    IDLE_TUNED, /* look as long as it lately paid, at most spin_max_ns */
    IDLE_YIELD, /* the core is shared with clients: the same, but give the core away between looks */
    IDLE_COUNT
};

struct worker {
    uint32_t index;
    int32_t cpu; /* pinned to; -1 = not */
    uint8_t idle; /* enum idle_policy */
    ns_t spin_max_ns;
    ns_t spin_ns; /* tuned */
    struct clock clock;
    uint32_t shard_count;
    struct shard *shard[SHARD_MAX];
    ns_t last_work;
    ns_t window_start; /* of the load measurement */
    ns_t window_busy; /* busy_ns then */
    struct io_uring ring;
    bool slept;     /* since the last work */
    bool turn_busy; /* the last turn found work */
    ns_t turn_start;
    ns_t gave_way;      /* when it last gave the core away ... */
    ns_t yielder_at;    /* ... and when, to a client that waits for it by yielding */
    bool slice_short;   /* asked for by slice_set() */
    ns_t crowded_until; /* somebody else wants this core: yield between looks */
    bool stop;
    bool runs; /* the thread's own view of `started`: control may read it only while there is no thread */
    struct runtime *rt;
    /* read by control */
    struct worker_stats stats CACHE_ALIGNED;
    uint32_t delay_map[64]; /* turns that took 2^i ns, recent: what an entry may have waited */
    /* shared with control */
    struct mailbox mailbox CACHE_ALIGNED;
    pthread_t thread;
    sem_t ready; /* posted once the thread stands */
    int start_error;
    bool started; /* control's */
};

int worker_init(struct worker *w, struct runtime *rt, uint32_t index);
void worker_fini(struct worker *w);
int worker_start(struct worker *w, int32_t cpu, struct runtime_error *err);
void worker_stop(struct worker *w);
/* Runs fn on the worker between two polls and waits; at once on the caller when the worker's thread does not run. */
int worker_call(struct worker *w, letter_fn *fn, void *target, void *arg);

/* Between two polls, on the worker (or on control while its thread does not run). */
void worker_idle_set(struct worker *w, enum idle_policy policy);
void worker_shard_add(struct worker *w, struct shard *sh);
void worker_shard_remove(struct worker *w, struct shard *sh);

/* What can wake a sleeping worker, as named in the io_uring's user data. */
enum watch_kind { WATCH_NONE, WATCH_MAILBOX, WATCH_BELL, WATCH_QUEUE, WATCH_SET, WATCH_CANCEL };

/* Begin and end watching an fd of a shard. No effect while the shard has no running worker: worker_shard_add() watches
 * all there is. False when the kernel refused: the thing must then be polled. */
bool worker_watch(struct shard *sh, enum watch_kind kind, uint32_t index, int fd);
void worker_unwatch(struct shard *sh, enum watch_kind kind, uint32_t index);

#endif
