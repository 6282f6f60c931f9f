/* SPDX-License-Identifier: Apache-2.0
 *
 * A shard's turn: where packets come from. On the shard's worker; creation and wiring on control while no worker runs
 * the shard. The pipeline behind it is in hops.c, sleeping in worker.c.
 */
#include "dataplane/core/shard.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/core/worker.h"
#include "dataplane/session/session_internal.h"
#include "engines/ip/ip_cmd.h"

#define RUN_BUDGET  64
#define SWEEP_NS    (SESS_IDLE_NS / 2)
#define SMALL_FRAME 2048u
#define LARGE_FRAME 69632u

/* ---- sources ---- */

static uint32_t poll_home(struct shard *sh) {
    uint32_t n = 0;
    for (uint32_t from = 0; from < sh->shard_count; from++) {
        if (from == sh->index)
            continue;
        for (struct pkt *p; (p = ring_pop(&sh->home_in[from])) != NULL; n++)
            shard_pkt_free(sh, p);
    }
    return n;
}

static uint32_t poll_cross(struct shard *sh) {
    uint32_t n = 0;
    for (uint32_t from = 0; from < sh->shard_count; from++) {
        if (from == sh->index)
            continue;
        struct pkt *p;
        for (uint32_t k = 0; k < PKT_BURST && (p = ring_pop(&sh->cross_in[from])) != NULL; k++, n++) {
            if (UNLIKELY(!hop_push(sh, (enum hop_id)p->stage, p)))
                shard_drop(sh, p, DROP_QUEUE_FULL);
        }
        hops_run(sh);
    }
    return n;
}

static void queue_reap(struct shard *sh, struct shard_queue *sq) {
    sq->q->ops->reap(sq->q, &sh->done);
    sq->in_flight -= sh->done.count;
    for (uint32_t i = 0; i < sh->done.count; i++)
        shard_pkt_free(sh, sh->done.v[i]);
    sh->done.count = 0;
}

static uint32_t poll_queue(struct shard *sh, struct shard_queue *sq) {
    struct pkt_vec *in = &sh->hop[sh->up_first];
    sq->q->now = sh->now;
    if (sq->in_flight > 0)
        queue_reap(sh, sq);
    uint32_t room = pkt_vec_room(in);
    struct pkt **pkts = &in->v[in->count];
    uint32_t n = sq->q->ops->rx(sq->q, pkts, room < PKT_BURST ? room : PKT_BURST);
    if (n == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        pkts[i]->rx_ns = sh->now;
        pkts[i]->port = sq->slot;
    }
    if (UNLIKELY(sh->tap != NULL))
        sh->tap(sh, sh->tap_arg, TAP_RX, pkts, n);
    in->count += n;
    sh->stats.rx_packets += n;
    hops_run(sh);
    return n;
}

static uint32_t poll_queues(struct shard *sh) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < sh->queue_count; i++)
        n += poll_queue(sh, &sh->queue[i]);
    return n;
}

static uint32_t poll_timers(struct shard *sh) {
    uint32_t work = 0;
    for (uint32_t i = 0; i < sh->node_count; i++) {
        struct node *nd = &sh->node[i];
        if (nd->ops->next_deadline(nd->st) > sh->now)
            continue;
        nd->io.now = sh->now;
        work += nd->ops->run(nd->st, &nd->io, RUN_BUDGET);
        node_settle(sh, nd);
        hops_run(sh);
    }
    return work;
}

/* ---- the turn ---- */

/* Other workers sleep only after they looked behind a fence; this side pushes, fences, and looks whether they do. */
static void crossed_flush(struct shard *sh) {
    uint32_t to = sh->crossed;
    sh->crossed = 0;
    for (; to != 0; to &= to - 1) {
        struct shard *other = sh->rt->shard[__builtin_ctz(to)];
        mailbox_ring_if(&other->asleep, other->bell);
    }
}

ns_t shard_deadline(struct shard *sh) {
    ns_t first = NS_NEVER;
    for (uint32_t i = 0; i < sh->node_count; i++) {
        ns_t at = sh->node[i].ops->next_deadline(sh->node[i].st);
        first = at < first ? at : first;
    }
    for (uint32_t i = 0; i < sh->queue_count; i++)
        first = sh->queue[i].q->wake_at < first ? sh->queue[i].q->wake_at : first;
    if (sh->stuck != NULL && sh->stuck_at < first)
        first = sh->stuck_at;
    for (const struct sess_set *set = sh->linger; set != NULL; set = set->linger_next)
        first = set->linger_until < first ? set->linger_until : first;
    return first;
}

uint32_t shard_poll(struct shard *sh, ns_t now) {
    sh->now = now;
    session_confirm(sh);
    uint32_t work = 0;
    if (UNLIKELY(sh->shard_count > 1))
        work = poll_home(sh) + poll_cross(sh);
    work += poll_queues(sh);
    work += session_poll(sh);
    if (UNLIKELY(now >= sh->deadline)) {
        work += poll_timers(sh);
        work += session_unstick(sh);
        work += stream_linger(sh);
        sh->deadline = shard_deadline(sh);
    }
    if (UNLIKELY(now >= sh->sweep_at)) {
        session_sweep(sh);
        sh->sweep_at = now + SWEEP_NS;
    }
    if (work > 0) {
        session_flush(sh);
        if (UNLIKELY(sh->crossed != 0))
            crossed_flush(sh);
        sh->deadline = shard_deadline(sh);
    }
    return work;
}

void shard_settle(struct shard *sh) {
    if (sh->shard_count > 1)
        (void)poll_home(sh);
    hops_run(sh);
    session_flush(sh);
    if (sh->crossed != 0)
        crossed_flush(sh);
    sh->deadline = 0;
}

/* A packet that was put back the right way carries nothing: shard_pkt_free() saw to that. */
void shard_forced_reclaim(struct shard *sh) {
    struct pkt_pool *pool = &sh->small.pool;
    for (uint32_t i = 0; i < pool->free_count; i++) {
        if (pool->free[i]->token & PKT_TOKEN_REGION)
            session_region_end(sh, pool->free[i]);
        else if (pool->free[i]->token != 0)
            session_tx_end(sh, pool->free[i]);
    }
    session_flush(sh);
}

/* ---- sleeping ---- */

void shard_arm(struct shard *sh) {
    __atomic_store_n(&sh->asleep, 1, __ATOMIC_RELAXED);
    session_arm_all(sh);
}

bool shard_recheck(struct shard *sh) {
    bool work = session_recheck(sh);
    for (uint32_t i = 0; i < sh->queue_count; i++) {
        struct shard_queue *sq = &sh->queue[i];
        if (sq->q->event_fd < 0 || !sq->watched || sq->q->ops->arm(sq->q) != 0)
            work = true;
        else
            sq->armed = true;
    }
    for (uint32_t from = 0; from < sh->shard_count; from++) {
        if (from != sh->index && (!ring_empty(&sh->cross_in[from]) || !ring_empty(&sh->home_in[from])))
            work = true;
    }
    return work;
}

void shard_disarm(struct shard *sh) {
    __atomic_store_n(&sh->asleep, 0, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < sh->queue_count; i++) {
        if (sh->queue[i].armed)
            sh->queue[i].q->ops->disarm(sh->queue[i].q);
        sh->queue[i].armed = false;
    }
}

/* ---- engines and queues ---- */

void node_command(struct shard *sh, struct node *nd, const struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    nd->io.now = sh->now;
    nd->ops->command(nd->st, &nd->io, cmd, ret_reply);
    node_settle(sh, nd);
}

int32_t shard_cpu(const struct shard *sh) {
    return sh->worker != NULL ? sh->worker->cpu : -1;
}

/* engine_io.route: the link engine knows. */
void shard_route(void *arg, const struct ipaddr *dst, struct engine_route *ret_route) {
    struct shard *sh = arg;
    *ret_route = (struct engine_route){.error = -ENETUNREACH};
    if (sh->stage_node[STAGE_LINK] == NODE_NONE)
        return;
    struct node *nd = &sh->node[sh->stage_node[STAGE_LINK]];
    struct ip_route_result result = {.error = -ENETUNREACH};
    struct ip_cmd_lookup cmd = {.cmd = {IP_CMD_LOOKUP, sizeof cmd}, .dst = *dst, .result = &result};
    struct engine_reply reply = {.error = 0};
    nd->ops->command(nd->st, &nd->io, &cmd.cmd, &reply);
    if (result.error == 0 && result.port == PORT_SLOT_KERNEL)
        result.error = -ENETUNREACH; /* behind an interface that is not ours: the kernel's socket may reach it */
    *ret_route = (struct engine_route){.source = result.source,
                                       .error = reply.error < 0 ? reply.error : result.error,
                                       .port = result.port,
                                       .mtu = result.mtu,
                                       .local = result.port == PORT_SLOT_LOCAL};
}

int node_state_create(struct node *nd, const struct engine_ops *ops, const void *cfg, uint64_t seed) {
    char why[128] = "";
    size_t size = ops->state_size(cfg, why, sizeof why);
    if (size == 0)
        return -EINVAL;
    int error = arena_memory_create(&nd->arena, ops->name, size);
    if (error < 0)
        return error;
    nd->st = nd->arena.base;
    error = ops->init(nd->st, size, cfg, seed);
    if (error < 0)
        arena_memory_destroy(&nd->arena);
    return error;
}

int shard_node_make(struct shard *sh, const struct engine_ops *ops, const void *cfg, uint64_t seed,
                    struct node *ret_node) {
    struct node nd = {.ops = ops, .arena = {.memfd = -1}, .rng = seed ^ (0x9e3779b97f4a7c15ull * (sh->index + 1))};
    int error = node_state_create(&nd, ops, cfg, seed);
    if (error < 0)
        return error;
    heirloom_adopt(sh->rt, sh->index, &nd);
    uint64_t *counters = calloc(ops->counter_count + 1, sizeof *counters);
    nd.io = (struct engine_io){.pool = &sh->small.pool,
                               .pool_large = &sh->large.pool,
                               .drop = &sh->drop,
                               .done = &sh->done,
                               .shown = &sh->shown,
                               .ports = sh->port_info,
                               .counters = counters,
                               .notices = calloc(NOTICE_VEC_MAX, sizeof(struct notice)),
                               .events = sh->events,
                               .regions = sh->regions,
                               .region_count = sh->session_max,
                               .route = shard_route,
                               .route_arg = sh};
    if (counters == NULL || nd.io.notices == NULL) {
        shard_node_free(&nd);
        return -ENOMEM;
    }
    *ret_node = nd;
    return 0;
}

void shard_node_free(struct node *nd) {
    free(nd->io.counters);
    free(nd->io.notices);
    arena_memory_destroy(&nd->arena);
}

void shard_node_put(struct shard *sh, uint32_t engine, const struct node *made) {
    struct node *nd = &sh->node[engine];
    *nd = *made;
    nd->io.rng = &nd->rng;
    if (engine >= sh->node_count)
        sh->node_count = engine + 1;
    if (nd->ops->stage == STAGE_TRANSPORT)
        sh->proto_node[nd->ops->proto] = (uint8_t)engine;
    else if (nd->ops->stage != STAGE_APP)
        sh->stage_node[nd->ops->stage] = (uint8_t)engine;
    if (nd->ops->stage == STAGE_QOS)
        sh->qos_ports = UINT32_MAX; /* until runtime_qos_ports() */
    hops_wire(sh);
}

static void node_end(struct shard *sh, struct node *nd) {
    uint32_t dropped;
    nd->io.now = sh->now;
    do { /* it may keep more than a vec takes */
        nd->ops->fini(nd->st, &nd->io);
        dropped = sh->drop.count;
        node_settle(sh, nd);
    } while (dropped > 0);
}

void shard_node_take(struct shard *sh, uint32_t engine, const struct engine_ops *nobody, struct node *ret_node) {
    struct node *nd = &sh->node[engine];
    node_end(sh, nd);
    if (nd->ops->stage != STAGE_APP)
        sh->stage_node[nd->ops->stage] = NODE_NONE;
    if (nd->ops->stage == STAGE_QOS)
        sh->qos_ports = 0;
    *ret_node = *nd;
    *nd = (struct node){.ops = nobody, .arena = {.memfd = -1}};
    hops_wire(sh);
}

void shard_node_remove_last(struct shard *sh) {
    struct node *nd = &sh->node[sh->node_count - 1];
    node_end(sh, nd);
    shard_node_free(nd);
    sh->node_count--;
}

int shard_queue_add(struct shard *sh, struct port_queue *q, uint32_t slot) {
    if (sh->queue_count == SHARD_QUEUE_MAX)
        return -ENOSPC;
    uint32_t i = sh->queue_count;
    int error = sh->worker != NULL ? q->ops->attach(q) : 0; /* else worker_shard_add() attaches it */
    if (error < 0)
        return error;
    sh->queue[i] = (struct shard_queue){.q = q, .slot = (uint16_t)slot};
    sh->queue_count++;
    if (sh->tx_queue[slot] == NODE_NONE)
        sh->tx_queue[slot] = (uint8_t)i;
    shard_queue_watch(sh, i);
    sh->deadline = 0;
    return 0;
}

void shard_queue_watch(struct shard *sh, uint32_t i) {
    struct shard_queue *sq = &sh->queue[i];
    sq->polling = false;
    if (sq->q->event_level)
        sq->watched = sh->worker != NULL; /* from the next sleep on */
    else
        sq->watched = sq->q->event_fd >= 0 && worker_watch(sh, WATCH_QUEUE, i, sq->q->event_fd);
}

/* What the port still sends belongs to it until it is destroyed; the packets are then put back by force. */
void shard_queue_remove_slot(struct shard *sh, uint32_t slot) {
    for (uint32_t i = sh->queue_count; i-- > 0;)
        worker_unwatch(sh, WATCH_QUEUE, i);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < sh->queue_count; i++) {
        struct shard_queue *sq = &sh->queue[i];
        if (sq->slot != slot) {
            sh->queue[kept++] = *sq;
            continue;
        }
        if (sq->in_flight > 0)
            queue_reap(sh, sq);
        if (sh->worker != NULL)
            sq->q->ops->detach(sq->q);
    }
    sh->queue_count = kept;
    memset(sh->tx_queue, NODE_NONE, sizeof sh->tx_queue);
    for (uint32_t i = kept; i-- > 0;) {
        sh->tx_queue[sh->queue[i].slot] = (uint8_t)i;
        shard_queue_watch(sh, i);
    }
    sh->deadline = 0;
}

void shard_tell_control(struct shard *sh) {
    (void)eventfd_write(sh->rt->event_fd, 1);
}

/* ---- creation ---- */

static int memory_create(struct shard *sh, const struct runtime_config *cfg) {
    int error = pktmem_create(&sh->small, cfg->small_packets, SMALL_FRAME, sh->index);
    if (error == 0)
        error = pktmem_create(&sh->large, cfg->large_packets, LARGE_FRAME, sh->index);
    if (error < 0)
        return error;
    sh->tx = calloc(cfg->small_packets, sizeof *sh->tx);
    sh->set = calloc(cfg->session_max, sizeof(struct sess_set *));
    sh->regions = calloc(cfg->session_max, sizeof *sh->regions);
    sh->slot_taken = calloc(cfg->session_max, sizeof *sh->slot_taken);
    error = arena_memory_create(&sh->key_memory, "keys", cfg->session_max * sizeof(struct session_key));
    sh->keys = sh->key_memory.base;
    if (error < 0)
        return error;
    sh->accept = calloc(NOTICE_VEC_MAX, sizeof *sh->accept);
    if (sh->tx == NULL || sh->set == NULL || sh->regions == NULL || sh->slot_taken == NULL || sh->accept == NULL)
        return -ENOMEM;
    uint32_t packets = cfg->small_packets + cfg->large_packets; /* all of a shard: what it sends across is not lost */
    for (uint32_t k = 0; k < sh->shard_count; k++) {
        if (k == sh->index)
            continue;
        if (ring_init(&sh->cross_in[k], packets) < 0 || ring_init(&sh->home_in[k], packets) < 0)
            return -ENOMEM;
    }
    return ring_init(&sh->detached, cfg->session_max);
}

int shard_create(struct runtime *rt, uint32_t index, const struct runtime_config *cfg, struct shard **ret_shard) {
    struct shard *sh = aligned_alloc(CACHE_LINE, sizeof *sh);
    if (sh == NULL)
        return -ENOMEM;
    memset(sh, 0, sizeof *sh);
    sh->rt = rt;
    sh->index = index;
    sh->shard_count = rt->shard_count;
    sh->session_max = cfg->session_max;
    sh->steer = rt->steer;
    sh->small.memfd = sh->large.memfd = sh->key_memory.memfd = -1;
    memset(sh->stage_node, NODE_NONE, sizeof sh->stage_node);
    memset(sh->proto_node, NODE_NONE, sizeof sh->proto_node);
    memset(sh->tx_queue, NODE_NONE, sizeof sh->tx_queue);
    hops_wire(sh);
    sh->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = sh->bell < 0 ? -errno : memory_create(sh, cfg);
    if (error < 0) {
        shard_destroy(sh);
        return error;
    }
    *ret_shard = sh;
    return 0;
}

void shard_nodes_remove(struct shard *sh) {
    while (sh->node_count > 0)
        shard_node_remove_last(sh);
    stream_forget_all(sh);
}

void shard_destroy(struct shard *sh) {
    shard_nodes_remove(sh);
    for (uint32_t k = 0; k < sh->shard_count; k++) {
        ring_fini(&sh->cross_in[k]);
        ring_fini(&sh->home_in[k]);
    }
    ring_fini(&sh->detached);
    free(sh->tx);
    free(sh->set);
    free(sh->regions);
    free(sh->slot_taken);
    arena_memory_destroy(&sh->key_memory);
    free(sh->accept);
    pktmem_destroy(&sh->small);
    pktmem_destroy(&sh->large);
    if (sh->bell >= 0)
        close(sh->bell);
    free(sh);
}
