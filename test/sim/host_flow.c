/* SPDX-License-Identifier: Apache-2.0
 *
 * How packets flow through a simulated host: port.rx > LINK > TRANSPORT > APP engine or application, and back; local
 * ones turn round. Every packet is at any time in one place (free, with the host, with an engine), and each hand-over
 * is checked against that.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engines/wire.h"
#include "test/sim/host.h"
#include "test/sim/store.h"

enum host_where { WHERE_FREE, WHERE_HOST, WHERE_ENGINE };

#define FRAME_MAX   66000u
#define TURN_ROUNDS 4096 /* more rounds without an end in one turn mean that packets go in circles */

static struct host_pool *host_pool_of(struct host *h, const struct pkt *p) {
    return p->pool == &h->small.pool ? &h->small : p->pool == &h->large.pool ? &h->large : NULL;
}

static bool host_is_free(const struct pkt_pool *pool, const struct pkt *p) {
    for (uint32_t i = 0; i < pool->free_count; i++)
        if (pool->free[i] == p)
            return true;
    return false;
}

/* Takes a packet from an engine: one it was given, or one it has made. */
static bool host_take(struct host *h, struct pkt *p, const char *who) {
    struct host_pool *hp = p == NULL ? NULL : host_pool_of(h, p);
    if (hp == NULL || p->index >= hp->pool.count || &hp->pool.pkts[p->index] != p) {
        world_fail(h->world, "host %u: %s hands on something that is no packet", h->params.id, who);
        return false;
    }
    uint8_t *where = &hp->where[p->index];
    if (*where == WHERE_HOST || (*where == WHERE_FREE && host_is_free(&hp->pool, p))) {
        world_fail(h->world, "host %u: %s hands on packet %u, which it does not hold", h->params.id, who, p->index);
        return false;
    }
    if (p->data < p->buf || p->len > p->buf_size || p->data + p->len > p->buf + p->buf_size) {
        world_fail(h->world, "host %u: %s hands on packet %u with data outside its buffer", h->params.id, who,
                   p->index);
        return false;
    }
    h->stats.made += *where == WHERE_FREE;
    *where = WHERE_HOST;
    hp->held++;
    return true;
}

static struct pkt *host_alloc(struct host *h, uint32_t len) {
    struct host_pool *hp = len + PKT_HEADROOM <= h->small.pool.buf_size ? &h->small : &h->large;
    struct pkt *p = pkt_alloc(&hp->pool);
    if (p == NULL)
        return NULL;
    hp->where[p->index] = WHERE_HOST;
    hp->held++;
    return p;
}

static void host_free(struct host *h, struct pkt *p) {
    struct host_pool *hp = host_pool_of(h, p);
    for (uint32_t i = 0; i < p->frag_count; i++) {
        if (p->frag[i].token == 0)
            continue;
        free(h->lent[p->frag[i].token - 1]);
        h->lent[p->frag[i].token - 1] = NULL;
    }
    hp->where[p->index] = WHERE_FREE;
    hp->held--;
    pkt_free(&hp->pool, p);
}

uint32_t host_kept(const struct host *h) {
    return h->small.pool.count - h->small.pool.free_count - h->small.held + h->large.pool.count -
           h->large.pool.free_count - h->large.held;
}

void host_io(struct host *h, uint32_t engine, struct engine_io *ret_io) {
    struct host_engine *e = &h->engine[engine];
    *ret_io = (struct engine_io){
        .now = h->world->now,
        .pool = &h->small.pool,
        .pool_large = &h->large.pool,
        .up = &e->up,
        .down = &e->down,
        .drop = &e->drop,
        .done = &e->done,
        .ports = h->ports,
        .counters = e->counters,
        .notices = h->notices,
        .events = h->events,
        .rng = &e->rng,
    };
}

static void host_drop(struct host *h, struct pkt *p, uint32_t why) {
    if (why == DROP_NONE || why >= DROP_COUNT) {
        world_fail(h->world, "host %u: a drop without a reason (%u)", h->params.id, why);
        return;
    }
    h->stats.drops[why]++;
    WORLD_TRACE(&h->world->wire, 'd', h->world->now, h->params.id, why);
    world_log(h->world, "host %u drops %u bytes: reason %u", h->params.id, pkt_bytes(p), why);
    host_free(h, p);
}

static uint32_t host_engine_of(const struct host *h, enum engine_stage stage, uint8_t proto) {
    for (uint32_t i = 0; i < h->engine_count; i++)
        if (h->engine[i].code.ops->stage == stage && h->engine[i].code.ops->proto == proto)
            return i;
    return HOST_ENGINE_MAX;
}

typedef void host_call(void *st, struct engine_io *io, struct pkt **pkts, uint32_t n);

/* Gives packets to an engine, a burst at a time, and sees to what comes out. */
static void host_feed(struct host *h, uint32_t engine, bool up, struct pkt **pkts, uint32_t n) {
    const struct engine_ops *ops = h->engine[engine].code.ops;
    host_call *call = up ? ops->input : ops->output;
    for (uint32_t at = 0; at < n && !h->world->failed; at += PKT_BURST) {
        uint32_t k = n - at < PKT_BURST ? n - at : PKT_BURST;
        for (uint32_t i = 0; i < k; i++) {
            struct host_pool *hp = host_pool_of(h, pkts[at + i]);
            hp->where[pkts[at + i]->index] = WHERE_ENGINE;
            hp->held--;
        }
        struct engine_io io;
        host_io(h, engine, &io);
        call(h->engine[engine].arena, &io, pkts + at, k);
        host_collect(h, engine, &io);
    }
}

static void host_deliver(struct host *h, struct pkt *p) {
    h->stats.delivered++;
    h->app.deliver(h->app.arg, h, p);
    host_free(h, p);
}

/* The interface's part of a checksum that was left to it: the field holds the folded pseudo-header sum. */
static void port_complete_checksum(struct pkt *p) {
    uint8_t *field = p->buf + p->csum_start + p->csum_offset;
    uint16_t sum = (uint16_t)~csum_fold(csum_pkt(0, p, p->buf + p->csum_start));
    if (sum == 0)
        sum = 0xffff;
    memcpy(field, &sum, sizeof sum);
    p->flags &= (uint16_t)~PKT_CSUM_PARTIAL;
}

static const char *port_refusal(const struct host *h, const struct pkt *p) {
    if (p->port != 0)
        return "for an interface that is not there";
    if ((p->flags & PKT_CSUM_PARTIAL) && !(h->ports[0].caps & PORT_CAP_TX_CSUM))
        return "whose checksum it left to an interface that cannot";
    if ((p->flags & PKT_GSO) && !(h->ports[0].caps & PORT_CAP_TX_GSO_UDP))
        return "whose segmentation it left to an interface that cannot";
    if (p->frag_count > 0 && !(h->ports[0].caps & PORT_CAP_TX_FRAGS))
        return "in pieces for an interface that takes whole frames";
    if (pkt_bytes(p) > h->params.mtu + ETH_LEN + VLAN_LEN)
        return "larger than the MTU";
    return NULL;
}

static void host_transmit(struct host *h, uint32_t engine, struct pkt *p) {
    static uint8_t frame[FRAME_MAX]; /* one thread; too large for every stack */
    const char *refusal = port_refusal(h, p);
    if (refusal != NULL) {
        world_fail(h->world, "host %u: %s sends a frame %s", h->params.id, h->engine[engine].name, refusal);
        return;
    }
    if (p->flags & PKT_CSUM_PARTIAL)
        port_complete_checksum(p);
    uint32_t len = p->len;
    memcpy(frame, p->data, len);
    for (uint32_t i = 0; i < p->frag_count; len += p->frag[i].len, i++)
        memcpy(frame + len, p->frag[i].base, p->frag[i].len);
    h->stats.tx++;
    WORLD_TRACE(&h->world->wire, 't', h->world->now, h->params.id, len);
    world_trace_bytes(&h->world->wire, frame, len);
    world_log(h->world, "host %u sends %u bytes", h->params.id, len);
    host_free(h, p);
    link_send(&h->wire, frame, len);
}

static void host_turn_round(struct host *h, struct pkt *p) {
    if (h->turn_count == HOST_QUEUE_MAX) {
        host_drop(h, p, DROP_QUEUE_FULL);
        return;
    }
    h->stats.turned++;
    h->turn[h->turn_count++] = p;
}

/* Where a packet goes next: an engine's number, or one of these. */
enum host_way { WAY_WIRE = HOST_ENGINE_MAX, WAY_TURN, WAY_APP, WAY_NOBODY, WAY_WRONG };

static uint32_t host_way_up(const struct host *h, uint32_t engine, const struct pkt *p) {
    if (h->engine[engine].code.ops->stage == STAGE_LINK) {
        uint32_t next = host_engine_of(h, STAGE_TRANSPORT, p->flow.proto);
        return next == HOST_ENGINE_MAX ? WAY_NOBODY : next;
    }
    if (SINK_KIND(p->sink) == SINK_SESSION)
        return WAY_APP;
    uint32_t next = SINK_INDEX(p->sink);
    bool good =
        SINK_KIND(p->sink) == SINK_ENGINE && next < h->engine_count && h->engine[next].code.ops->stage == STAGE_APP;
    return good ? next : WAY_WRONG;
}

static uint32_t host_way_down(const struct host *h, uint32_t engine, const struct pkt *p) {
    switch (h->engine[engine].code.ops->stage) {
    case STAGE_APP:
        return host_engine_of(h, STAGE_TRANSPORT, p->flow.proto);
    case STAGE_TRANSPORT:
        return h->link_engine;
    default:
        return p->flags & PKT_LOCAL ? WAY_TURN : WAY_WIRE;
    }
}

static void host_hand_on(struct host *h, uint32_t engine, uint32_t way, struct pkt *p) {
    switch (way) {
    case WAY_WIRE:
        host_transmit(h, engine, p);
        break;
    case WAY_TURN:
        host_turn_round(h, p);
        break;
    case WAY_APP:
        host_deliver(h, p);
        break;
    case WAY_NOBODY:
        host_drop(h, p, DROP_IP_PROTO);
        break;
    default:
        world_fail(h->world, "host %u: %s hands on a packet that leads nowhere", h->params.id, h->engine[engine].name);
    }
}

/* Packets keep their order; neighbours that go the same way go together. */
static void host_pass(struct host *h, uint32_t engine, bool up, struct pkt **pkts, uint32_t n) {
    for (uint32_t at = 0, end; at < n && !h->world->failed; at = end) {
        uint32_t way = up ? host_way_up(h, engine, pkts[at]) : host_way_down(h, engine, pkts[at]);
        end = at + 1;
        if (way >= HOST_ENGINE_MAX) {
            host_hand_on(h, engine, way, pkts[at]);
            continue;
        }
        while (end < n && (up ? host_way_up(h, engine, pkts[end]) : host_way_down(h, engine, pkts[end])) == way)
            end++;
        host_feed(h, way, up, pkts + at, end - at);
    }
}

static void host_tell(struct host *h, const struct engine_io *io) {
    struct notice notices[NOTICE_VEC_MAX];
    struct engine_event events[EVENT_VEC_MAX];
    memcpy(notices, io->notices, io->notice_count * sizeof *notices);
    memcpy(events, io->events, io->event_count * sizeof *events);
    for (uint32_t i = 0; i < io->notice_count; i++)
        h->app.notice(h->app.arg, h, &notices[i]);
    for (uint32_t i = 0; i < io->event_count; i++)
        h->app.event(h->app.arg, h, &events[i]);
}

/* Moves what an engine handed on out of its vecs before anything else runs: seeing to it may call the engine again. */
static uint32_t host_drain(struct host *h, uint32_t engine, struct pkt_vec *vec, struct pkt **ret_pkts) {
    uint32_t n = vec->count;
    vec->count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!host_take(h, vec->v[i], h->engine[engine].name))
            return 0;
        ret_pkts[i] = vec->v[i];
    }
    return n;
}

void host_collect(struct host *h, uint32_t engine, const struct engine_io *io) {
    struct host_engine *e = &h->engine[engine];
    struct pkt *up[PKT_VEC_MAX], *down[PKT_VEC_MAX], *drop[PKT_VEC_MAX], *done[PKT_VEC_MAX];
    uint32_t ups = host_drain(h, engine, &e->up, up), downs = host_drain(h, engine, &e->down, down);
    uint32_t drops = host_drain(h, engine, &e->drop, drop), dones = host_drain(h, engine, &e->done, done);
    for (uint32_t i = 0; i < drops && !h->world->failed; i++)
        host_drop(h, drop[i], drop[i]->drop);
    for (uint32_t i = 0; i < dones && !h->world->failed; i++, h->stats.done++)
        host_free(h, done[i]);
    host_tell(h, io);
    host_pass(h, engine, true, up, ups);
    host_pass(h, engine, false, down, downs);
}

/* -------------------------------------------------------------------------------------------------------- turns */

/* Queues are served at a time of their own, so that a timer which fires early or once more changes nothing else. */
static void host_serve_soon(struct host *h) {
    ns_t when = h->world->now + prng_below(&h->prng, h->params.poll_delay + 1);
    if (when < h->serve_at)
        h->serve_at = when;
    host_wake(h, h->serve_at);
}

void host_receive(struct host *h, const uint8_t *frame, uint32_t len) {
    if (h->dead || h->rx_count == HOST_RX_MAX) {
        h->stats.rx_lost++;
        return;
    }
    uint8_t *bytes = (uint8_t *)malloc(len + 1);
    CHECK(bytes != NULL);
    memcpy(bytes, frame, len);
    h->rx[h->rx_count].bytes = bytes;
    h->rx[h->rx_count++].len = len;
    host_serve_soon(h);
}

/* Copies waiting frames into packets, as a port does. The frames' exact sizes keep the address sanitizer watchful. */
static uint32_t host_turn_rx(struct host *h) {
    struct pkt *pkts[PKT_BURST];
    uint32_t n = 0, took = h->rx_count < PKT_BURST ? h->rx_count : PKT_BURST;
    for (uint32_t i = 0; i < took; i++) {
        uint32_t len = h->rx[i].len;
        struct pkt *p = host_alloc(h, len);
        if (p != NULL) {
            memcpy(p->data, h->rx[i].bytes, len);
            p->len = len;
            p->port = 0;
            p->rx_ns = h->world->now;
            pkts[n++] = p;
        } else {
            h->stats.rx_lost++;
        }
        free(h->rx[i].bytes);
    }
    h->rx_count -= took;
    memmove(h->rx, h->rx + took, h->rx_count * sizeof *h->rx);
    h->stats.rx += n;
    host_feed(h, h->link_engine, true, pkts, n);
    return took;
}

/* Takes a queue as it stands; what is added meanwhile waits for the next round. */
static uint32_t host_turn_queue(struct host *h, struct pkt **queue, uint32_t *count, uint32_t engine, bool up) {
    struct pkt *pkts[HOST_QUEUE_MAX];
    uint32_t n = *count;
    memcpy(pkts, queue, n * sizeof *pkts);
    *count = 0;
    host_feed(h, engine, up, pkts, n);
    return n;
}

static uint32_t host_turn_timers(struct host *h) {
    uint32_t ran = 0;
    for (uint32_t i = 0; i < h->engine_count && !h->world->failed; i++) {
        struct host_engine *e = &h->engine[i];
        if (e->code.ops->next_deadline(e->arena) > h->world->now)
            continue;
        struct engine_io io;
        host_io(h, i, &io);
        e->code.ops->run(e->arena, &io, PKT_BURST);
        host_collect(h, i, &io);
        ran++;
    }
    return ran;
}

static void host_turn_work(struct host *h) {
    uint32_t transport = host_engine_of(h, STAGE_TRANSPORT, PROTO_UDP);
    for (uint32_t round = 0; !h->world->failed; round++) {
        uint32_t work = host_turn_queue(h, h->turn, &h->turn_count, h->link_engine, true);
        if (h->serve_at <= h->world->now) {
            h->serve_at = NS_NEVER;
            while (h->rx_count > 0 && !h->world->failed)
                work += host_turn_rx(h);
            work += host_turn_queue(h, h->submit, &h->submit_count, transport, false);
        }
        work += host_turn_timers(h);
        if (work == 0)
            break;
        if (round == TURN_ROUNDS)
            world_fail(h->world, "host %u: a turn without an end", h->params.id);
    }
}

void host_wake(struct host *h, ns_t when) {
    if (when >= h->turn_at || h->dead)
        return;
    h->turn_at = when < h->world->now ? h->world->now : when;
    world_post(h->world, h->turn_at, host_turn, h, h->turn_at);
}

/* The next turn's time, when nothing else happens. */
void host_plan(struct host *h) {
    ns_t when = h->turn_count > 0 ? h->world->now : h->serve_at;
    for (uint32_t i = 0; i < h->engine_count; i++) {
        ns_t deadline = h->engine[i].code.ops->next_deadline(h->engine[i].arena);
        when = deadline < when ? deadline : when;
    }
    if (when != NS_NEVER)
        host_wake(h, when);
}

void host_turn(void *arg, uint64_t value) {
    struct host *h = (struct host *)arg;
    if (h->dead || value != h->turn_at)
        return; /* an earlier turn has taken this one's place */
    h->turn_at = NS_NEVER;
    h->stats.turns++;
    if (setjmp(h->death) != 0) {
        host_died(h);
        return;
    }
    host_arm(h);
    host_turn_work(h);
    host_disarm(h);
    host_check(h, "a turn");
    host_plan(h);
}

int host_submit(struct host *h, const struct host_send *s) {
    if (h->dead)
        return -EOWNERDEAD;
    struct pkt *p = h->submit_count == HOST_QUEUE_MAX ? NULL : host_alloc(h, s->lend ? 0 : s->len);
    uint32_t token = 0;
    while (s->lend && token < ARRAY_LEN(h->lent) && h->lent[token] != NULL)
        token++;
    if (p == NULL || token == ARRAY_LEN(h->lent)) {
        if (p != NULL)
            host_free(h, p);
        return -ENOBUFS;
    }
    p->sock = s->sock;
    p->gso_size = s->gso_size;
    p->flow = (struct flow){.local = s->local, .remote = s->remote, .remote_port = s->remote_port, .proto = s->proto};
    if (s->gso_size != 0) {
        p->flags |= PKT_GSO;
        p->gso_type = PKT_GSO_UDP;
    }
    if (s->lend) {
        h->lent[token] = (uint8_t *)malloc(s->len + 1);
        CHECK(h->lent[token] != NULL);
        memcpy(h->lent[token], s->payload, s->len);
        p->frag[p->frag_count++] = (struct pkt_frag){h->lent[token], s->len, token + 1};
        p->frag_len = s->len;
    } else {
        memcpy(p->data, s->payload, s->len);
        p->len = s->len;
    }
    h->submit[h->submit_count++] = p;
    h->stats.submitted++;
    host_serve_soon(h);
    return 0;
}

void host_cancel(struct host *h, uint32_t sock) {
    uint32_t kept = 0, n = h->submit_count;
    h->submit_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (h->submit[i]->sock == sock)
            host_drop(h, h->submit[i], DROP_SESSION_GONE);
        else
            h->submit[kept++] = h->submit[i];
    }
    h->submit_count = kept;
}

void host_forget(struct host *h) {
    for (uint32_t i = 0; i < h->rx_count; i++)
        free(h->rx[i].bytes);
    for (uint32_t i = 0; i < ARRAY_LEN(h->lent); i++) {
        free(h->lent[i]);
        h->lent[i] = NULL;
    }
    h->rx_count = h->turn_count = h->submit_count = 0;
    h->turn_at = h->serve_at = NS_NEVER;
    struct host_pool *pools[] = {&h->small, &h->large};
    for (uint32_t k = 0; k < ARRAY_LEN(pools); k++) {
        struct pkt_pool *pool = &pools[k]->pool;
        for (uint32_t i = 0; i < pool->count; i++)
            pool->free[i] = &pool->pkts[i];
        pool->free_count = pool->count;
        pools[k]->held = 0;
        memset(pools[k]->where, WHERE_FREE, pool->count);
    }
    for (uint32_t i = 0; i < h->engine_count; i++) {
        struct host_engine *e = &h->engine[i];
        e->up.count = e->down.count = e->drop.count = e->done.count = 0;
    }
}
