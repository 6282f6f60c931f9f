/* SPDX-License-Identifier: Apache-2.0
 *
 * The pipeline of a shard: named hops in a row, one function for each, run until every vec is empty. On the shard's
 * worker only. It does not know where packets come from (shard.c) nor what sessions do with them (dataplane/session).
 *
 * Cost: one indirect call per burst and engine; between hops a packet is one pointer in a vec.
 */
#include "dataplane/core/shard.h"
#include "dataplane/core/steer.h"
#include "dataplane/session/session_internal.h"

/* A packet passes the row at most a few times (each local turn-round is one more). Engines that keep passing packets
 * in circles lose them here instead of keeping the worker. */
#define HOP_ROUND_MAX 64

typedef void hop_fn(struct shard *sh, struct pkt **pkts, uint32_t n);
static void sinks_run(struct shard *sh);
static void hop_transport_in(struct shard *sh, struct pkt **pkts, uint32_t n);
static void hop_port(struct shard *sh, struct pkt **pkts, uint32_t n);

/* ---- what is left when a packet ends ---- */

void shard_pkt_free(struct shard *sh, struct pkt *p) {
    struct pkt_pool *pool = p->pool;
    if (UNLIKELY(pool->shard != sh->index)) {
        /* Home rings hold every packet of their shard, so this cannot fail. Loans are given back over there. */
        uint32_t home = pool->shard;
        sh->crossed |= p->token != 0 ? 1u << home : 0; /* a client over there may wait for its buffer */
        bool pushed = ring_push(sh->home_out[home], p);
        CHECK(pushed);
        return;
    }
    if (p->token & PKT_TOKEN_REGION)
        session_region_end(sh, p);
    else if (p->token != 0)
        session_tx_end(sh, p);
    pkt_free(pool, p);
}

static void drops_end(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->tap != NULL))
        sh->tap(sh, sh->tap_arg, TAP_DROP, pkts, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t why = pkts[i]->drop;
        sh->stats.drops[why < DROP_COUNT ? why : DROP_NONE]++;
        shard_pkt_free(sh, pkts[i]);
    }
}

static void drops_settle(struct shard *sh, struct pkt_vec *drop) {
    drops_end(sh, drop->v, drop->count);
    drop->count = 0;
}

static void done_settle(struct shard *sh, struct pkt_vec *done) {
    for (uint32_t i = 0; i < done->count; i++)
        shard_pkt_free(sh, done->v[i]);
    done->count = 0;
}

void shard_drop(struct shard *sh, struct pkt *p, enum drop_reason why) {
    p->drop = (uint16_t)why;
    drops_end(sh, &p, 1);
}

static void events_settle(struct shard *sh, struct engine_io *io) {
    for (uint32_t i = 0; i < io->event_count; i++) {
        uint32_t head = __atomic_load_n(&sh->event_head, __ATOMIC_ACQUIRE); /* pairs with runtime_events() */
        if (sh->event_tail - head >= SHARD_EVENT_MAX) {
            sh->events_lost++;
            continue;
        }
        sh->event_ring[sh->event_tail % SHARD_EVENT_MAX].event = io->events[i];
        __atomic_store_n(&sh->event_tail, sh->event_tail + 1, __ATOMIC_RELEASE);
    }
    io->event_count = 0;
    shard_tell_control(sh);
}

/* Before any of them is anywhere else. */
static SELDOM void shown_settle(struct shard *sh) {
    if (sh->tap != NULL)
        sh->tap(sh, sh->tap_arg, TAP_MIRROR, sh->shown.v, sh->shown.count);
    sh->shown.count = 0;
}

void node_settle(struct shard *sh, struct node *nd) {
    if (UNLIKELY(sh->shown.count > 0))
        shown_settle(sh);
    if (sh->drop.count > 0)
        drops_settle(sh, &sh->drop);
    if (sh->done.count > 0)
        done_settle(sh, &sh->done);
    if (UNLIKELY(nd->io.notice_count > 0)) {
        sinks_run(sh); /* data goes before the news about it; no effect when that is where we are */
        session_notices(sh, nd->io.notices, nd->io.notice_count);
        nd->io.notice_count = 0;
        stream_accepts(sh); /* calls the engine again, which writes the same notices[] */
    }
    if (UNLIKELY(nd->io.event_count > 0))
        events_settle(sh, &nd->io);
}

static void drop_all(struct shard *sh, struct pkt **pkts, uint32_t n, enum drop_reason why) {
    for (uint32_t i = 0; i < n; i++)
        shard_drop(sh, pkts[i], why);
}

/* ---- engines ---- */

static void node_input(struct shard *sh, struct node *nd, struct pkt **pkts, uint32_t n) {
    nd->io.now = sh->now;
    nd->ops->input(nd->st, &nd->io, pkts, n);
    node_settle(sh, nd);
}

static void node_output(struct shard *sh, struct node *nd, struct pkt **pkts, uint32_t n) {
    nd->io.now = sh->now;
    nd->io.direct = sh->tap == NULL && sh->stage_node[STAGE_FILTER] == NODE_NONE;
    nd->ops->output(nd->st, &nd->io, pkts, n);
    node_settle(sh, nd);
}

static void hop_link_in(struct shard *sh, struct pkt **pkts, uint32_t n) {
    node_input(sh, &sh->node[sh->stage_node[STAGE_LINK]], pkts, n);
}

/* Returns how many are left. */
static uint32_t refusals_drop(struct shard *sh, struct pkt **pkts, uint32_t n) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        if ((pkts[i]->flags & PKT_ICMP_ERROR) && pkts[i]->user == PKT_REFUSE_PORT)
            shard_drop(sh, pkts[i], (enum drop_reason)pkts[i]->drop);
        else
            pkts[kept++] = pkts[i];
    }
    return kept;
}

static void hop_link_out(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->quiet) && (n = refusals_drop(sh, pkts, n)) == 0)
        return;
    session_regions_mark(sh, pkts, n);
    node_output(sh, &sh->node[sh->stage_node[STAGE_LINK]], pkts, n);
}

/* Upwards it gets the error about what a filter has ended here. */
static void hop_filter_out(struct shard *sh, struct pkt **pkts, uint32_t n) {
    sh->node[sh->stage_node[STAGE_FILTER]].io.down = &sh->hop[HOP_EGRESS];
    node_output(sh, &sh->node[sh->stage_node[STAGE_FILTER]], pkts, n);
}

/* ---- by shard, by protocol ---- */

static void shard_cross(struct shard *sh, uint32_t to, enum hop_id hop, struct pkt *p) {
    p->stage = (uint16_t)hop;
    if (UNLIKELY(!ring_push(sh->cross_out[to], p))) {
        shard_drop(sh, p, DROP_NO_SHARD);
        return;
    }
    sh->crossed |= 1u << to;
    sh->stats.cross_shard++;
}

/* The link engine does not look at ports, and the transport has not seen the packet yet. What ICMP quotes is a packet
 * of ours: there the local port comes first. */
static uint16_t local_port(const struct pkt *p) {
    if (p->flow.local_port != 0 || p->len < 4)
        return p->flow.local_port;
    return be16_load(p->data + (p->flags & PKT_ICMP_ERROR ? 0 : 2));
}

static uint32_t spread_shard(const struct shard *sh, const struct pkt *p, uint16_t port) {
    struct flow flow = p->flow;
    if (flow.local_port == 0 && p->len >= 4)
        flow.remote_port = be16_load(p->data + (p->flags & PKT_ICMP_ERROR ? 2 : 0));
    flow.local_port = port;
    return steer_spread(&flow, sh->shard_count);
}

/* One tree for the host, in one shard: what the others send crosses to it, so that shares, guarantees and ceilings are
 * exact whichever worker serves whom. */
static void hop_qos(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->stage_node[STAGE_QOS] == NODE_NONE)) { /* it was unloaded while these were crossing */
        hop_port(sh, pkts, n);
        return;
    }
    if (LIKELY(sh->index == SHARD_QOS)) {
        node_output(sh, &sh->node[sh->stage_node[STAGE_QOS]], pkts, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        shard_cross(sh, SHARD_QOS, HOP_QOS, pkts[i]);
}

/* Sends those whose flow another shard owns across; keeps the others at the front, in order. Returns how many stay. */
static uint32_t cross_out(struct shard *sh, enum hop_id hop, struct pkt **pkts, uint32_t n) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        uint16_t port = local_port(p);
        uint32_t owner = steer_lookup(sh->steer, p->flow.proto, port);
        if (owner == STEER_SPREAD)
            owner = spread_shard(sh, p, port);
        if (LIKELY(owner == sh->index || owner >= sh->shard_count))
            pkts[kept++] = p;
        else
            shard_cross(sh, owner, hop, p);
    }
    return kept;
}

static void strangers_in(struct shard *sh, struct pkt **pkts, uint32_t n) {
    drop_all(sh, pkts, n, DROP_IP_PROTO);
}

static void strangers_out(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (pkts[0]->flow.proto == PROTO_FRAME)
        frames_output(sh, pkts, n);
    else
        drop_all(sh, pkts, n, DROP_IP_PROTO);
}

/* Runs of one protocol go to its transport in one call; mixed traffic costs a call per change. */
static void by_proto(struct shard *sh, struct pkt **pkts, uint32_t n,
                     void (*call)(struct shard *, struct node *, struct pkt **, uint32_t), hop_fn *strangers) {
    for (uint32_t i = 0, end; i < n; i = end) {
        uint8_t proto = pkts[i]->flow.proto;
        for (end = i + 1; end < n && pkts[end]->flow.proto == proto;)
            end++;
        uint8_t node = sh->proto_node[proto];
        if (UNLIKELY(node == NODE_NONE))
            strangers(sh, &pkts[i], end - i);
        else
            call(sh, &sh->node[node], &pkts[i], end - i);
    }
}

static void node_demux(struct shard *sh, struct node *nd, struct pkt **pkts, uint32_t n) {
    nd->io.now = sh->now;
    if (nd->ops->demux != NULL)
        nd->ops->demux(nd->st, &nd->io, pkts, n);
}

/* Runs of one protocol whose transport can tell whose they are; what was turned round still bears its sender's name. */
static void stamp_owners(struct shard *sh, struct pkt **pkts, uint32_t n) {
    for (uint32_t i = 0, end; i < n; i = end) {
        uint8_t proto = pkts[i]->flow.proto, node = sh->proto_node[proto];
        for (end = i; end < n && pkts[end]->flow.proto == proto; end++) {
            pkts[end]->owner = 0;
            pkts[end]->known = PKT_KNOWN_NOTHING;
        }
        if (LIKELY(node != NODE_NONE))
            node_demux(sh, &sh->node[node], &pkts[i], end - i);
    }
}

/* On the shard that has the socket; what the filter refuses goes down again, by way of the link engine. */
static void hop_filter_in(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->shard_count > 1))
        n = cross_out(sh, HOP_FILTER_IN, pkts, n);
    if (UNLIKELY(sh->stage_node[STAGE_FILTER] == NODE_NONE)) { /* it was unloaded while these were crossing */
        hop_transport_in(sh, pkts, n);
        return;
    }
    struct node *nd = &sh->node[sh->stage_node[STAGE_FILTER]];
    stamp_owners(sh, pkts, n);
    nd->io.down = &sh->hop[sh->stage_node[STAGE_LINK] != NODE_NONE ? HOP_LINK_OUT : HOP_EGRESS];
    if (n > 0)
        node_input(sh, nd, pkts, n);
}

static void hop_transport_in(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->shard_count > 1))
        n = cross_out(sh, HOP_TRANSPORT_IN, pkts, n);
    by_proto(sh, pkts, n, node_input, strangers_in);
}

static void hop_transport_out(struct shard *sh, struct pkt **pkts, uint32_t n) {
    by_proto(sh, pkts, n, node_output, strangers_out);
}

/* ---- the upper end ---- */

static void to_engine(struct shard *sh, struct pkt **pkts, uint32_t n) {
    uint32_t index = SINK_INDEX(pkts[0]->sink);
    if (index >= sh->node_count || !(sh->node[index].ops->caps & ENGINE_CAP_INPUT))
        drop_all(sh, pkts, n, DROP_SESSION_GONE);
    else
        node_input(sh, &sh->node[index], pkts, n);
}

/* A datagram that found nobody at its destination's port goes back to the shard its sender lives in. */
static uint32_t bounce_home(struct shard *sh, struct pkt **pkts, uint32_t n) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (LIKELY(!(p->flags & PKT_BOUNCED) || p->pool->shard == sh->index))
            pkts[kept++] = p;
        else
            shard_cross(sh, p->pool->shard, HOP_SINK, p);
    }
    return kept;
}

/* Runs of one kind of sink, and of one engine, stay together. */
static void hop_sink(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->shard_count > 1))
        n = bounce_home(sh, pkts, n);
    for (uint32_t i = 0, end; i < n; i = end) {
        enum sink_kind kind = SINK_KIND(pkts[i]->sink);
        uint64_t group = kind == SINK_ENGINE ? SINK_INDEX(pkts[i]->sink) : 0;
        end = i + 1;
        while (end < n && SINK_KIND(pkts[end]->sink) == kind &&
               (kind != SINK_ENGINE || SINK_INDEX(pkts[end]->sink) == group))
            end++;
        if (kind == SINK_ENGINE)
            to_engine(sh, &pkts[i], end - i);
        else
            session_deliver(sh, &pkts[i], end - i);
    }
}

static void hop_session(struct shard *sh, struct pkt **pkts, uint32_t n) {
    session_deliver(sh, pkts, n);
}

/* ---- the lower end ---- */

static void turn_round(struct shard *sh, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->tap != NULL))
        sh->tap(sh, sh->tap_arg, TAP_LOCAL, pkts, n);
    for (uint32_t i = 0; i < n; i++) {
        pkts[i]->rx_ns = sh->now;
        if (UNLIKELY(!hop_push(sh, sh->up_first, pkts[i])))
            shard_drop(sh, pkts[i], DROP_QUEUE_FULL);
    }
    sh->stats.local_packets += n;
}

static void hop_egress(struct shard *sh, struct pkt **pkts, uint32_t n) {
    for (uint32_t i = 0, end; i < n; i = end) {
        uint32_t local = pkts[i]->flags & PKT_LOCAL;
        for (end = i + 1; end < n && (pkts[end]->flags & PKT_LOCAL) == local;)
            end++;
        if (local) {
            turn_round(sh, &pkts[i], end - i);
            continue;
        }
        for (uint32_t k = i; k < end; k++) {
            enum hop_id next = sh->qos_ports >> pkts[k]->port % 32 & 1 ? HOP_QOS : HOP_PORT;
            (void)hop_push(sh, next, pkts[k]); /* has room: hop_room() */
        }
    }
}

static void port_send(struct shard *sh, struct shard_queue *sq, struct pkt **pkts, uint32_t n) {
    if (UNLIKELY(sh->tap != NULL))
        sh->tap(sh, sh->tap_arg, TAP_TX, pkts, n);
    uint32_t before = sh->done.count + sh->drop.count;
    sq->q->now = sh->now;
    sq->q->ops->tx(sq->q, pkts, n, &sh->done, &sh->drop);
    sq->in_flight += n - (sh->done.count + sh->drop.count - before);
    sh->stats.tx_packets += n;
    if (sh->drop.count > 0)
        drops_settle(sh, &sh->drop);
    if (sh->done.count > 0)
        done_settle(sh, &sh->done);
}

/* A port with fewer queues than there are shards is served by the shard that has one. */
static void port_elsewhere(struct shard *sh, uint32_t slot, struct pkt **pkts, uint32_t n) {
    uint32_t owner = slot < PORT_SLOT_MAX ? runtime_slot_shard(sh->rt, slot) : SHARD_MAX;
    if (owner >= sh->shard_count || owner == sh->index) {
        drop_all(sh, pkts, n, DROP_PORT_DOWN);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        shard_cross(sh, owner, HOP_PORT, pkts[i]);
}

static void hop_port(struct shard *sh, struct pkt **pkts, uint32_t n) {
    for (uint32_t i = 0, end; i < n; i = end) {
        uint32_t slot = pkts[i]->port;
        for (end = i + 1; end < n && pkts[end]->port == slot;)
            end++;
        uint8_t queue = slot < PORT_SLOT_MAX ? sh->tx_queue[slot] : NODE_NONE;
        if (LIKELY(queue != NODE_NONE))
            port_send(sh, &sh->queue[queue], &pkts[i], end - i);
        else
            port_elsewhere(sh, slot, &pkts[i], end - i);
    }
}

/* ---- wiring ---- */

/* Where an engine's packets go from a hop, upwards and downwards; filled by hops_wire() for stages that have one. */
static uint8_t up_of(const struct shard *sh, enum engine_stage stage) {
    switch (stage) {
    case STAGE_LINK:
        return sh->stage_node[STAGE_FILTER] != NODE_NONE ? HOP_FILTER_IN : HOP_TRANSPORT_IN;
    case STAGE_FILTER:
        return HOP_TRANSPORT_IN;
    case STAGE_TRANSPORT:
        return HOP_SINK;
    default:
        return HOP_SESSION;
    }
}

static uint8_t down_of(const struct shard *sh, enum engine_stage stage) {
    bool filter = sh->stage_node[STAGE_FILTER] != NODE_NONE;
    switch (stage) {
    case STAGE_APP:
        return HOP_TRANSPORT_OUT;
    case STAGE_TRANSPORT:
        if (sh->stage_node[STAGE_LINK] != NODE_NONE)
            return HOP_LINK_OUT;
        return filter ? HOP_FILTER_OUT : HOP_EGRESS;
    case STAGE_LINK:
        return filter ? HOP_FILTER_OUT : HOP_EGRESS;
    case STAGE_FILTER:
        return HOP_EGRESS;
    default:
        return HOP_PORT;
    }
}

void hops_wire(struct shard *sh) {
    for (uint32_t i = 0; i < sh->node_count; i++) {
        struct node *nd = &sh->node[i];
        nd->io.up = &sh->hop[up_of(sh, nd->ops->stage)];
        nd->io.down = &sh->hop[down_of(sh, nd->ops->stage)];
    }
    bool link = sh->stage_node[STAGE_LINK] != NODE_NONE;
    sh->up_first = link ? HOP_LINK_IN : up_of(sh, STAGE_LINK);
}

/* ---- the row ---- */

/* How many packets the hop may be given so that twice as many fit wherever they can go. The vec a packet turns round
 * into is not asked: that one drops when it is full, or two full vecs could wait for one another. */
static inline uint32_t hop_room(const struct shard *sh, enum hop_id hop) {
    static const uint8_t next[HOP_COUNT][3] = {
        [HOP_LINK_IN] = {HOP_FILTER_IN, HOP_TRANSPORT_IN, HOP_EGRESS},
        [HOP_FILTER_IN] = {HOP_TRANSPORT_IN, HOP_LINK_OUT, HOP_EGRESS},
        [HOP_TRANSPORT_IN] = {HOP_SINK, HOP_LINK_OUT, HOP_EGRESS},
        [HOP_SINK] = {HOP_SESSION, HOP_TRANSPORT_OUT, HOP_TRANSPORT_OUT},
        [HOP_SESSION] = {HOP_PORT, HOP_PORT, HOP_PORT},
        [HOP_TRANSPORT_OUT] = {HOP_SINK, HOP_LINK_OUT, HOP_EGRESS},
        [HOP_LINK_OUT] = {HOP_TRANSPORT_IN, HOP_FILTER_OUT, HOP_EGRESS},
        [HOP_FILTER_OUT] = {HOP_EGRESS, HOP_TRANSPORT_IN, HOP_TRANSPORT_IN},
        [HOP_EGRESS] = {HOP_QOS, HOP_PORT, HOP_PORT},
        [HOP_QOS] = {HOP_PORT, HOP_PORT, HOP_PORT},
        [HOP_PORT] = {HOP_PORT, HOP_PORT, HOP_PORT},
    };
    if (hop == HOP_PORT || hop == HOP_SESSION)
        return PKT_BURST;
    /* Nearly always all of them are nearly empty; their bits together are no less than the fullest one. */
    const uint8_t *at = next[hop];
    uint32_t fullest = sh->hop[at[0]].count | sh->hop[at[1]].count | sh->hop[at[2]].count;
    if (LIKELY(fullest < PKT_VEC_MAX - 2 * PKT_BURST))
        return PKT_BURST;
    uint32_t room = 2 * PKT_BURST;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t r = pkt_vec_room(&sh->hop[next[hop][i]]);
        room = r < room ? r : room;
    }
    return room / 2;
}

/* Inlined with a constant hop, so that its vec, its room and its function are known. A datagram that travels alone
 * passes twelve hops and pays for each: 35 instructions so, 93 by way of a table of functions. True when it worked. */
__attribute__((always_inline)) static inline bool hop_run(struct shard *sh, enum hop_id hop, hop_fn *fn) {
    struct pkt_vec *vec = &sh->hop[hop];
    uint32_t i = 0;
    if (vec->count == 0 || UNLIKELY(sh->hop_busy & (1u << hop)))
        return false;
    sh->hop_busy |= 1u << hop;
    while (i < vec->count) {
        uint32_t n = vec->count - i;
        uint32_t room = hop_room(sh, hop);
        n = n < room ? n : room;
        if (UNLIKELY(n == 0))
            break; /* what comes behind is emptied first, then this again */
        fn(sh, &vec->v[i], n);
        i += n;
    }
    if (UNLIKELY(i < vec->count))
        memmove(&vec->v[0], &vec->v[i], (vec->count - i) * sizeof vec->v[0]);
    vec->count -= i;
    sh->hop_busy &= ~(1u << hop);
    return true;
}

static void sinks_run(struct shard *sh) {
    (void)hop_run(sh, HOP_SINK, hop_sink);
    (void)hop_run(sh, HOP_SESSION, hop_session);
}

/* True when there was anything to do. */
static bool row_run(struct shard *sh) {
    bool busy = hop_run(sh, HOP_LINK_IN, hop_link_in);
    busy |= hop_run(sh, HOP_FILTER_IN, hop_filter_in);
    busy |= hop_run(sh, HOP_TRANSPORT_IN, hop_transport_in);
    busy |= hop_run(sh, HOP_SINK, hop_sink);
    busy |= hop_run(sh, HOP_SESSION, hop_session);
    busy |= hop_run(sh, HOP_TRANSPORT_OUT, hop_transport_out);
    busy |= hop_run(sh, HOP_LINK_OUT, hop_link_out);
    busy |= hop_run(sh, HOP_FILTER_OUT, hop_filter_out);
    busy |= hop_run(sh, HOP_EGRESS, hop_egress);
    busy |= hop_run(sh, HOP_QOS, hop_qos);
    return hop_run(sh, HOP_PORT, hop_port) || busy;
}

void hops_run(struct shard *sh) {
    for (uint32_t round = 0; round < HOP_ROUND_MAX; round++) {
        if (!row_run(sh))
            return;
    }
    for (uint32_t hop = 0; hop < HOP_COUNT; hop++) {
        struct pkt_vec *vec = &sh->hop[hop];
        drop_all(sh, vec->v, vec->count, DROP_QUEUE_FULL);
        vec->count = 0;
    }
}
