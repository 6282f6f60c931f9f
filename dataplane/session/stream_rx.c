/* SPDX-License-Identifier: Apache-2.0
 *
 * Received bytes of streams on their way to the client. On the shard's worker. Neighbouring packets of one stream share
 * a cell and a completion: one copy of the payload, and for bulk a completion for up to 44 segments. A stream loses
 * nothing: what finds no room waits here, in order, and is not credited, so the peer's window closes behind it.
 */
#include <errno.h>

#include "dataplane/session/session_internal.h"
#include "engines/wire.h"

#define CELL_16K     (16u << 10)
#define PENDING_TAKE 2u /* all sets together may keep half of the small packets waiting, ... */
#define PENDING_ONE  3u /* ... and one of them a third of what is left of that; then its transport takes no more. */
#define PENDING_HOLD 1u /* The same of all of them is the end: what came before it heard of that still finds place. */

static struct pkt *pend_next(const struct pkt *p) {
    return (struct pkt *)(uintptr_t)p->user_data;
}

/* ---- one cell, one completion ---- */

/* Whole packets only; a 64 KiB cell when it would be three quarters full, so that nobody's region is mostly air. */
static uint32_t run_fit(struct pkt **pkts, uint32_t n, uint32_t *ret_bytes) {
    uint32_t total = 0, bytes = 0, fit = 0;
    for (uint32_t i = 0; i < n && total < SLAB_BYTES; i++)
        total += pkt_bytes(pkts[i]);
    bool large = total >= SLAB_BYTES / 4 * 3 || pkt_bytes(pkts[0]) > CELL_16K;
    uint32_t limit = large ? SLAB_BYTES : CELL_16K;
    while (fit < n && bytes + pkt_bytes(pkts[fit]) <= limit)
        bytes += pkt_bytes(pkts[fit++]);
    *ret_bytes = bytes;
    return fit;
}

/* How many of the packets found room together; 0 = none. They stay the caller's. */
static uint32_t put(struct shard *sh, struct sess_set *set, uint32_t handle, struct pkt **pkts, uint32_t n) {
    uint32_t bytes, size, fit = run_fit(pkts, n, &bytes);
    struct ush_cqe *e = fit > 0 ? cq_slot(sh, set) : NULL;
    uint32_t cell = e != NULL ? cells_take(&set->cells, bytes, handle, &size) : USH_NONE;
    if (UNLIKELY(cell == USH_NONE))
        return 0;
    uint8_t *to = set->rx + cell;
    for (uint32_t i = 0; i < fit; i++) {
        session_payload_copy(to, pkts[i], pkt_bytes(pkts[i]));
        to += pkt_bytes(pkts[i]);
    }
    struct sess_socket *sk = &set->socket[USH_HANDLE_INDEX(handle)];
    sk->rx_held += bytes;
    sk->rx_packets += fit;
    e->type = USH_CQ_RECV;
    e->flags = 0;
    e->count = 0;
    e->tos = pkts[0]->tos;
    memset(&e->recv, 0, sizeof e->recv);
    e->recv.handle = handle;
    e->recv.cell = cell;
    e->recv.len = bytes;
    e->recv.rx_ns = pkts[0]->rx_ns;
    cq_commit(sh, set, e);
    return fit;
}

/* ---- waiting ---- */

/* Into the tail of the last one that waits: segments of a few bytes must not cost a buffer each. Never more than a cell
 * holds, which is less than a large buffer does: what fits no cell would wait, and all behind it, for ever. */
static bool pend_join(struct sess_set *set, const struct pkt *p) {
    struct pkt *last = set->pend_tail;
    uint32_t len = pkt_bytes(p);
    if (last == NULL || last->sink != p->sink || last->frag_count > 0 || last->len + len > SLAB_BYTES)
        return false;
    if ((size_t)(last->buf + last->buf_size - (last->data + last->len)) < len)
        return false;
    session_payload_copy(last->data + last->len, p, len);
    last->len += len;
    return true;
}

static bool is_large(const struct shard *sh, const struct pkt *p) {
    return p->pool == &sh->large.pool;
}

/* So that a reader that does not read takes an eighth of the small packets, many such readers together never all, and
 * one that comes last still some. Of the large ones they may take all: a frame that finds none is dropped at the port
 * and sent again, which ends nobody's stream. */
static bool pend_full(const struct shard *sh, const struct sess_set *set, uint32_t part) {
    uint32_t all = sh->small.pool.count / part, taken = sh->pending;
    uint32_t left = all > taken ? all - taken : 0;
    return set->pend_count >= (left + PENDING_ONE - 1) / PENDING_ONE;
}

static void pend_push(struct shard *sh, struct sess_set *set, struct pkt *p) {
    p->user_data = 0;
    if (set->pend_tail != NULL)
        set->pend_tail->user_data = (uintptr_t)p;
    else
        set->pend_head = p;
    set->pend_tail = p;
    set->pend_count += !is_large(sh, p);
    sh->pending += !is_large(sh, p);
}

static void pend_pop(struct shard *sh, struct sess_set *set) {
    struct pkt *p = set->pend_head;
    set->pend_head = pend_next(p);
    if (set->pend_head == NULL)
        set->pend_tail = NULL;
    set->pend_count -= !is_large(sh, p);
    sh->pending -= !is_large(sh, p);
    stream_room_tell(sh, set);
    shard_pkt_free(sh, p);
}

/* More than a transport that keeps to rx_full can bring, unless many sessions fill the pool at once: its connection
 * ends, nobody else's. */
static void overrun(struct shard *sh, struct sess_set *set, struct sess_socket *sk, const struct pkt *p) {
    struct tcp_cmd_close cmd = {.cmd = {TCP_CMD_CLOSE, sizeof cmd}, .sock = sk->sock, .abort = true, .sink = p->sink};
    struct engine_reply reply;
    session_event(sh, set, SINK_HANDLE(p->sink), EV_ERROR, &(struct notice){.value = ENOBUFS});
    sk->state = SOCK_CLOSING;
    (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
}

static void pend(struct shard *sh, struct sess_set *set, struct sess_socket *sk, struct pkt *p) {
    session_set_dirty(sh, set);
    if (pend_join(set, p)) {
        shard_pkt_free(sh, p);
        return;
    }
    if (UNLIKELY(pend_full(sh, set, PENDING_HOLD)) && !is_large(sh, p)) {
        if (sk->state == SOCK_OPEN && sk->sock != USH_NONE)
            overrun(sh, set, sk, p);
        shard_drop(sh, p, DROP_SESSION_NO_CELL);
        return;
    }
    pend_push(sh, set, p);
    stream_room_tell(sh, set);
}

bool stream_is_pending(const struct sess_set *set, uint64_t sink) {
    for (const struct pkt *p = set->pend_head; p != NULL; p = pend_next(p)) {
        if (p->sink == sink)
            return true;
    }
    return false;
}

void stream_pending_drop(struct shard *sh, struct sess_set *set) {
    while (set->pend_head != NULL)
        pend_pop(sh, set);
}

/* Room came back. Of a stream that has not been announced yet the announcement goes first. */
void stream_untold(struct shard *sh, struct sess_set *set) {
    while (set->pend_head != NULL) {
        struct pkt *p = set->pend_head;
        uint32_t handle = SINK_HANDLE(p->sink);
        struct sess_socket *sk = stream_find(set, handle);
        if (sk != NULL && !(sk->flags & SOCK_LEFT)) {
            if (!session_events_tell(sh, set, USH_HANDLE_INDEX(handle), EV_OPENING) || put(sh, set, handle, &p, 1) == 0)
                return;
            sh->stats.to_sessions++;
        }
        pend_pop(sh, set);
    }
}

/* ---- entry ---- */

static void run_drop(struct shard *sh, struct pkt **pkts, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        shard_drop(sh, pkts[i], DROP_SESSION_GONE);
}

uint32_t stream_deliver(struct shard *sh, struct sess_set *set, struct pkt **pkts, uint32_t n) {
    uint32_t run = 1, at = 0, handle = SINK_HANDLE(pkts[0]->sink);
    while (run < n && pkts[run]->sink == pkts[0]->sink)
        run++;
    struct sess_socket *sk = set != NULL && !set->dead ? stream_find(set, handle) : NULL;
    if (UNLIKELY(sk == NULL || (sk->flags & SOCK_LEFT))) {
        run_drop(sh, pkts, run);
        return run;
    }
    bool wait = set->pend_head != NULL || sk->events != 0;
    for (uint32_t fit = 1; at < run && !wait && fit > 0; at += fit) {
        fit = put(sh, set, handle, &pkts[at], run - at);
        sh->stats.to_sessions += fit;
        for (uint32_t i = 0; i < fit; i++)
            shard_pkt_free(sh, pkts[at + i]);
    }
    stream_room_tell(sh, set);
    for (; at < run; at++)
        pend(sh, set, sk, pkts[at]);
    return run;
}

/* ---- credit ---- */

void stream_room_tell(struct shard *sh, const struct sess_set *set) {
    uint64_t room = set->pend_head != NULL ? 0 : cells_room(&set->cells);
    sh->regions[set->slot].rx_full = set->pend_head != NULL && pend_full(sh, set, PENDING_TAKE);
    sh->regions[set->slot].rx_room = room != 0 ? room : 1; /* 0 would say that nobody counts */
}

void stream_credit(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t bytes) {
    struct sess_socket *sk = stream_find(set, handle);
    if (sk == NULL || sk->sock == USH_NONE)
        return;
    uint64_t sink = SINK(SINK_SESSION, set->slot, handle);
    stream_room_tell(sh, set);
    sk->rx_held -= bytes < sk->rx_held ? bytes : sk->rx_held;
    if (sh->credit_count > 0 && sh->credit[sh->credit_count - 1].sink == sink) {
        sh->credit[sh->credit_count - 1].bytes += bytes;
        return;
    }
    if (sh->credit_count == ARRAY_LEN(sh->credit))
        stream_credit_flush(sh);
    sh->credit[sh->credit_count++] = (struct engine_credit){.sink = sink, .sock = sk->sock, .bytes = bytes};
}

void stream_credit_flush(struct shard *sh) {
    uint8_t engine = sh->proto_node[PROTO_TCP];
    uint32_t n = sh->credit_count;
    sh->credit_count = 0;
    if (engine == NODE_NONE || sh->node[engine].ops->credit == NULL)
        return;
    struct node *nd = &sh->node[engine];
    nd->io.now = sh->now;
    nd->ops->credit(nd->st, &nd->io, sh->credit, n);
    node_settle(sh, nd);
}
