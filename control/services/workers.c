/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Workers. Control thread; moves and modes go to the workers by letter.
 */
#include <errno.h>
#include <string.h>

#include "control/services/service_internal.h"
#include "usher/control/v1/workers.pb-c.h"

/* The runtime's modes begin at 0, the package's at 1 in the same order. */
static PB(SchedulingMode) mode_message(enum sched_mode mode) {
    return (PB(SchedulingMode))((int)mode + 1);
}

static const char *mode_text(enum sched_mode mode) {
    static const char *const words[SCHED_MODE_COUNT] = {"auto", "dedicated", "spreading", "compacting"};
    return (uint32_t)mode < SCHED_MODE_COUNT ? words[mode] : "unknown";
}

/* ---- list ---- */

static PB(Worker) * worker_message(struct rpc_call *c, const struct worker_stats *w) {
    PB(Worker) *m = PB_NEW(c, Worker, worker);
    m->worker = w->worker;
    m->cpu = w->cpu;
    m->running = w->running;
    m->shards = rpc_alloc_array(c, uint32_t, SHARD_MAX);
    for (uint32_t i = 0; i < SHARD_MAX; i++) {
        if (w->shards >> i & 1)
            m->shards[m->n_shards++] = i;
    }
    m->turns = w->turns;
    m->busy_turns = w->busy_turns;
    m->sleeps = w->sleeps;
    m->wakes = w->wakes;
    m->kicks = w->kicks;
    m->busy_ns = w->busy_ns;
    m->spin_ns = w->spin_ns;
    m->delay_p99_ns = w->delay_p99_ns;
    return m;
}

static uint32_t worker_of(const struct worker_stats *w, uint32_t n, uint32_t shard) {
    uint32_t i = 0;
    while (i < n && !(w[i].shards >> shard & 1))
        i++;
    return i < n ? w[i].worker : 0;
}

static PB(Shard) * shard_message(struct rpc_call *c, const struct service *s, uint32_t shard, uint32_t worker) {
    PB(Shard) *m = PB_NEW(c, Shard, shard);
    struct shard_stats stats;
    m->shard = shard;
    m->worker = worker;
    if (runtime_shard_stats(s->u->rt, shard, &stats) != 0)
        return m;
    m->rx_packets = stats.rx_packets;
    m->tx_packets = stats.tx_packets;
    m->local_packets = stats.local_packets;
    m->to_session_packets = stats.to_sessions;
    m->from_session_packets = stats.from_sessions;
    m->cross_shard_packets = stats.cross_shard;
    for (uint32_t r = DROP_NONE + 1; r < DROP_COUNT; r++)
        m->dropped_packets += stats.drops[r];
    m->small_buffers_free = stats.pool_small_free;
    m->large_buffers_free = stats.pool_large_free;
    m->sessions = stats.sessions;
    return m;
}

static enum rpc_code list(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    PB(ListWorkersResponse) *r = PB_NEW(c, ListWorkersResponse, list_workers_response);
    struct worker_stats stats[WORKER_MAX];
    uint32_t n = runtime_worker_stats(s->u->rt, stats, WORKER_MAX), shards = runtime_shard_count(s->u->rt);
    const char *why;
    (void)request;
    r->mode = mode_message(runtime_mode(s->u->rt, &why));
    r->mode_why = PB_TEXT(why);
    r->time_unix_ns = service_now_unix_ns();
    r->workers = rpc_alloc_array(c, PB(Worker) *, n);
    for (; r->n_workers < n; r->n_workers++)
        r->workers[r->n_workers] = worker_message(c, &stats[r->n_workers]);
    r->shards = rpc_alloc_array(c, PB(Shard) *, shards);
    for (uint32_t i = 0; i < shards; i++)
        r->shards[r->n_shards++] = shard_message(c, s, i, worker_of(stats, n, i));
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- changes ---- */

static enum rpc_code worker_failed(struct rpc_call *c, int error) {
    return rpc_fail(c, RPC_UNAVAILABLE, "WORKER_SILENT", NULL,
                    "a worker does not answer (%s); look at its load, and restart usherd if it hangs",
                    strerror(-error));
}

static enum rpc_code set_mode(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(SetModeRequest) *q = request;
    PB(SetModeResponse) *r = PB_NEW(c, SetModeResponse, set_mode_response);
    const char *why;
    if (q->mode < 1 || (uint32_t)q->mode > SCHED_MODE_COUNT)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "MODE_UNKNOWN", "mode",
                        "%d is no scheduling mode; give AUTO, DEDICATED, SPREADING or COMPACTING", (int)q->mode);
    enum sched_mode before = runtime_mode(s->u->rt, &why);
    int error = runtime_mode_set(s->u->rt, (enum sched_mode)((int)q->mode - 1));
    enum sched_mode after = runtime_mode(s->u->rt, &why);
    rpc_audit(c, "scheduling mode", mode_text(before), mode_text(after));
    if (error != 0)
        return worker_failed(c, error);
    r->before = mode_message(before);
    r->mode = mode_message(after);
    r->mode_why = PB_TEXT(why);
    log_info("runtime.mode", "%s: %s", mode_text(after), why);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code move_shard(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(MoveShardRequest) *q = request;
    PB(MoveShardResponse) *r = PB_NEW(c, MoveShardResponse, move_shard_response);
    struct worker_stats stats[WORKER_MAX];
    uint32_t n = runtime_worker_stats(s->u->rt, stats, WORKER_MAX);
    if (q->shard >= runtime_shard_count(s->u->rt))
        return rpc_fail(c, RPC_NOT_FOUND, "SHARD_UNKNOWN", "shard", "there is no shard %u; there are %u, from 0",
                        q->shard, runtime_shard_count(s->u->rt));
    if (q->worker >= n)
        return rpc_fail(c, RPC_NOT_FOUND, "WORKER_UNKNOWN", "worker", "there is no worker %u; there are %u, from 0",
                        q->worker, n);
    r->worker_before = worker_of(stats, n, q->shard);
    rpc_audit(c, rpc_text(c, "shard %u", q->shard), rpc_text(c, "worker %u", r->worker_before),
              rpc_text(c, "worker %u", q->worker));
    int error = runtime_shard_move(s->u->rt, q->shard, q->worker);
    if (error != 0)
        return worker_failed(c, error);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

const struct rpc_method workers_methods[] = {
    {.name = "List", PB_REQUEST(list_workers_request), .role = RPC_ROLE_VIEWER, .unary = list},
    {.name = "SetMode", PB_REQUEST(set_mode_request), .role = RPC_ROLE_OPERATOR, .change = true, .unary = set_mode},
    {.name = "MoveShard",
     PB_REQUEST(move_shard_request),
     .role = RPC_ROLE_OPERATOR,
     .change = true,
     .unary = move_shard},
};
const size_t workers_method_count = ARRAY_LEN(workers_methods);
