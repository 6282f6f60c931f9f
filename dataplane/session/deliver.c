/* SPDX-License-Identifier: Apache-2.0
 *
 * Towards the client: datagrams, buffers that come back, events. On the shard's worker. It writes the completion ring
 * and RX cells and reads one word of the client's, cq_head, which it checks.
 *
 * Cost of a small datagram: the cell's line and the completion's line are written (both were last read by the client),
 * four private lines are touched (socket, slab, cell word, packet), one copy of the payload.
 */
#include <errno.h>

#include "dataplane/session/session_internal.h"
#include "engines/wire.h"

/* ---- the completion ring ---- */

void session_set_dirty(struct shard *sh, struct sess_set *set) {
    if (set->dirty)
        return;
    set->dirty = true;
    set->dirty_next = sh->dirty;
    sh->dirty = set;
}

/* The client publishes its head lazily, so it is read only when the ring looks full. */
static bool cq_refresh(struct shard *sh, struct sess_set *set) {
    uint32_t head = __atomic_load_n(&set->shm->cq_head, __ATOMIC_ACQUIRE); /* the client has read those entries */
    if (UNLIKELY(set->cq_tail - head > SESS_CQ_ENTRIES)) {
        session_detach(sh, set, DETACH_BAD_CQ_HEAD);
        return false;
    }
    set->cq_head = head;
    return set->cq_tail - head < SESS_CQ_ENTRIES;
}

static inline struct ush_cqe *slot(struct shard *sh, struct sess_set *set) {
    if (UNLIKELY(set->cq_tail - set->cq_head >= SESS_CQ_ENTRIES) && !cq_refresh(sh, set))
        return NULL;
    return &set->cq[set->cq_tail % SESS_CQ_ENTRIES];
}

struct ush_cqe *cq_slot(struct shard *sh, struct sess_set *set) {
    return slot(sh, set);
}

/* Wakes nobody: who sleeps finds it when something else wakes it. */
static void cq_publish(struct sess_set *set, struct ush_cqe *e) {
    set->cq_tail++;
    __atomic_store_n(&e->seq, set->cq_tail, __ATOMIC_RELEASE); /* pairs with the client's load of seq */
}

void cq_commit(struct shard *sh, struct sess_set *set, struct ush_cqe *e) {
    cq_publish(set, e);
    session_set_dirty(sh, set);
}

static void cqe_head(struct ush_cqe *e, uint8_t type, uint8_t flags, uint8_t count, uint8_t tos) {
    e->type = type;
    e->flags = flags;
    e->count = count;
    e->tos = tos;
}

/* ---- datagrams ---- */

static SELDOM void payload_gather(uint8_t *to, const struct pkt *p, uint32_t len) {
    uint32_t head = p->len < len ? p->len : len;
    memcpy(to, p->data, head);
    uint32_t at = head;
    for (uint32_t i = 0; i < p->frag_count && at < len; i++) {
        uint32_t piece = p->frag[i].len < len - at ? p->frag[i].len : len - at;
        memcpy(to + at, p->frag[i].base, piece);
        at += piece;
    }
}

static inline void payload_copy(uint8_t *to, const struct pkt *p, uint32_t len) {
    if (LIKELY(p->len >= len))
        memcpy(to, p->data, len);
    else
        payload_gather(to, p, len);
}

void session_payload_copy(uint8_t *to, const struct pkt *p, uint32_t len) {
    payload_copy(to, p, len);
}

static inline void cqe_recv(struct ush_cqe *e, const struct pkt *p, uint32_t handle, uint32_t cell, uint32_t len) {
    uint8_t flags = (p->flags & PKT_ECN_CE) ? USH_RECV_CE : 0;
    if (UNLIKELY(len < pkt_bytes(p)))
        flags |= USH_RECV_TRUNC;
    if (UNLIKELY(p->flags & PKT_BOUNCED))
        flags = USH_RECV_BOUNCED;
    cqe_head(e, USH_CQ_RECV, flags, 0, p->tos);
    e->recv.handle = handle;
    e->recv.cell = cell;
    e->recv.len = len;
    e->recv.peer_port = p->flow.remote_port;
    e->recv.gso_size = (p->flags & PKT_GSO) ? p->gso_size : 0;
    memcpy(e->recv.peer, p->flow.remote.b, 16);
    memcpy(e->recv.local, p->flow.local.b, 16);
    e->recv.rx_ns = p->rx_ns;
}

static void socket_overrun(struct sess_set *set, uint32_t handle) {
    uint32_t dropped = ++set->socket[handle].rx_dropped;
    __atomic_store_n(&set->shm_socket[handle].rx_dropped, dropped, __ATOMIC_RELAXED);
}

static inline enum drop_reason deliver_one(struct shard *sh, struct sess_set *set, struct pkt *p) {
    uint32_t handle = SINK_HANDLE(p->sink);
    if (UNLIKELY(set->dead || handle >= set->socket_max || set->socket[handle].state != SOCK_OPEN))
        return DROP_SESSION_GONE;
    struct sess_socket *sk = &set->socket[handle];
    if (UNLIKELY(sk->rx_held >= sk->rx_quota)) { /* as the kernel does: the last one may go over */
        socket_overrun(set, handle);
        return DROP_SOCKET_RX_FULL;
    }
    struct ush_cqe *e = slot(sh, set);
    if (UNLIKELY(e == NULL)) {
        socket_overrun(set, handle);
        return set->dead ? DROP_SESSION_GONE : DROP_SESSION_RING_FULL;
    }
    uint32_t len = pkt_bytes(p), size = 0;
    len = len < SLAB_BYTES ? len : SLAB_BYTES;
    uint32_t cell = cells_take(&set->cells, len, handle, &size);
    if (UNLIKELY(cell == USH_NONE)) {
        socket_overrun(set, handle);
        return DROP_SESSION_NO_CELL;
    }
    payload_copy(set->rx + cell, p, len);
    sk->rx_held += size;
    sk->rx_packets += !(p->flags & PKT_BOUNCED);
    cqe_recv(e, p, handle, cell, len);
    cq_commit(sh, set, e);
    return DROP_NONE;
}

/* The client's own datagram cannot even be given back: it learns that it is lost. */
static void bounce_lost(struct shard *sh, const struct pkt *p) {
    const struct notice n = {
        .sink = p->sink, .kind = NOTICE_ERROR, .value = ENOBUFS, .port = p->flow.remote_port, .addr = p->flow.remote};
    session_notices(sh, &n, 1);
}

static struct sess_set *set_of(const struct shard *sh, uint64_t sink) {
    uint32_t slot = SINK_INDEX(sink);
    return SINK_KIND(sink) == SINK_SESSION && slot < sh->session_max ? sh->set[slot] : NULL;
}

/* Of many sockets, those that a burst is for are in no cache: they are asked for before the first one is needed. */
static inline void receiver_prefetch(const struct shard *sh, const struct pkt *p) {
    const struct sess_set *set = set_of(sh, p->sink);
    uint32_t index = USH_HANDLE_INDEX(SINK_HANDLE(p->sink));
    if (LIKELY(set != NULL) && index < set->socket_end)
        __builtin_prefetch(&set->socket[index], 1);
}

void session_deliver(struct shard *sh, struct pkt **pkts, uint32_t n) {
    uint32_t delivered = 0;
    for (uint32_t i = 0; i < n; i++)
        receiver_prefetch(sh, pkts[i]);
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        struct sess_set *set = set_of(sh, p->sink);
        if (p->flow.proto == PROTO_TCP) {
            i += stream_deliver(sh, set, &pkts[i], n - i) - 1;
            continue;
        }
        enum drop_reason why = LIKELY(set != NULL) ? deliver_one(sh, set, p) : DROP_SESSION_GONE;
        if (UNLIKELY(why != DROP_NONE)) {
            if (p->flags & PKT_BOUNCED)
                bounce_lost(sh, p);
            shard_drop(sh, p, why);
            continue;
        }
        delivered++;
        shard_pkt_put(sh, p);
    }
    sh->stats.to_sessions += delivered;
}

/* ---- events ---- */

/* By bit. */
static const uint8_t event_map[] = {USH_EVENT_ACCEPT, USH_EVENT_CONNECTED, USH_EVENT_WRITABLE, USH_EVENT_URGENT,
                                    USH_EVENT_HANGUP, USH_EVENT_ERROR,     USH_EVENT_CLOSED,   USH_EVENT_RESUMED};

static uint8_t event_of(uint32_t bit) {
    return event_map[__builtin_ctz(bit)];
}

static void cqe_event(struct ush_cqe *e, uint32_t handle, uint32_t bit, const struct notice *n) {
    cqe_head(e, USH_CQ_EVENT, event_of(bit), 0, 0);
    memset(&e->event, 0, sizeof e->event);
    e->event.handle = handle;
    e->event.value = n->value;
    e->event.extra = n->extra;
    e->event.port = n->port;
    memcpy(e->event.addr, n->addr.b, 16);
}

/* No room: the socket remembers what it has to say, once of each kind. The list holds a socket at most once. */
static void event_defer(struct sess_set *set, uint32_t index, uint32_t bit, const struct notice *n) {
    struct sess_socket *sk = &set->socket[index];
    if (bit == EV_ERROR)
        sk->error = (uint16_t)n->value;
    if (bit == EV_URGENT)
        sk->urgent = n->extra;
    sk->events |= (uint8_t)bit;
    if (sk->flags & SOCK_LISTED)
        return;
    sk->flags |= SOCK_LISTED;
    sk->event_next = USH_NONE;
    if (set->event_head == USH_NONE)
        set->event_head = index;
    else
        set->socket[set->event_tail].event_next = index;
    set->event_tail = index;
}

static bool is_stream(const struct sess_set *set, uint32_t index) {
    return index >= set->socket_max;
}

/* To which of the listener's addresses it came: the engine is asked only when the listener has more than one. */
static void accept_local(struct shard *sh, const struct sess_set *set, uint32_t index, struct ush_cqe *e) {
    const struct sess_socket *sk = &set->socket[index];
    struct flow ends = {.local = ipaddr_any()};
    if (sk->listener != USH_NONE)
        ends = set->session->flow[sk->listener].flow;
    if (ipaddr_is_any(&ends.local))
        (void)stream_ends(sh, sk, &ends);
    memcpy(e->event.local, ends.local.b, sizeof e->event.local);
}

static void event_write(struct shard *sh, struct sess_set *set, struct ush_cqe *e, uint32_t handle, uint32_t bit,
                        const struct notice *n) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    if (bit == EV_ACCEPT) {
        struct notice of_listener = *n;
        of_listener.value = handle;
        cqe_event(e, set->socket[index].listener, bit, &of_listener);
        accept_local(sh, set, index, e);
    } else {
        cqe_event(e, handle, bit, n);
        if (bit == EV_PARKED && set->socket[index].state == SOCK_PARKED)
            e->flags = USH_EVENT_PARKED;
    }
    bool closed = bit == EV_CLOSED && is_stream(set, index);
    if (closed && (set->socket[index].flags & SOCK_LEFT)) /* only bookkeeping: two wake-ups fewer a connection */
        cq_publish(set, e);
    else
        cq_commit(sh, set, e);
    if (closed)
        stream_told_closed(set, handle);
}

void session_event(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t bit, const struct notice *n) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    if (set->dead)
        return;
    if (bit == EV_ERROR)
        __atomic_store_n(&set->shm_socket[index].error, n->value, __ATOMIC_RELAXED);
    bool wait = set->event_head != USH_NONE || (is_stream(set, index) && set->pend_head != NULL);
    struct ush_cqe *e = wait ? NULL : cq_slot(sh, set);
    if (UNLIKELY(e == NULL)) {
        event_defer(set, index, bit, n);
        session_set_dirty(sh, set); /* so that session_flush() tries again */
        return;
    }
    event_write(sh, set, e, handle, bit, n);
}

void session_notices(struct shard *sh, const struct notice *notices, uint32_t n) {
    static const uint8_t bit_of[] = {
        [NOTICE_ERROR] = EV_ERROR,   [NOTICE_WRITABLE] = EV_WRITABLE, [NOTICE_CONNECTED] = EV_CONNECTED,
        [NOTICE_HANGUP] = EV_HANGUP, [NOTICE_CLOSED] = EV_CLOSED,     [NOTICE_TX_DONE] = 0,
        [NOTICE_URGENT] = EV_URGENT,
    };
    for (uint32_t i = 0; i < n; i++) {
        struct sess_set *set = set_of(sh, notices[i].sink);
        uint32_t handle = SINK_HANDLE(notices[i].sink), index = USH_HANDLE_INDEX(handle);
        if (set == NULL || index >= set->socket_end || set->socket[index].state == SOCK_FREE)
            continue;
        if (stream_notice(sh, set, handle, &notices[i]))
            continue;
        if (notices[i].kind == NOTICE_TX_DONE)
            session_tx_return(sh, set, handle, notices[i].extra, USH_NONE);
        else if (notices[i].kind < ARRAY_LEN(bit_of) && bit_of[notices[i].kind] != 0)
            session_event(sh, set, handle, bit_of[notices[i].kind], &notices[i]);
    }
}

/* ---- sends that end ---- */

static SELDOM void tell_writable(struct shard *sh, struct sess_set *set, uint32_t handle) {
    struct sess_socket *sk = &set->socket[USH_HANDLE_INDEX(handle)];
    sk->tx_told = sk->tx_done;
    session_event(sh, set, handle, EV_WRITABLE, &(struct notice){.kind = NOTICE_WRITABLE});
}

/* A client that is out of credit waits for WRITABLE. Nobody tells us who waits, so it is said after every quarter of
 * the limit: the last one before the queue runs empty finds at least three quarters free. */
STRAIGHT void tx_return(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t bytes, uint32_t off) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    struct sess_socket *sk = &set->socket[index];
    sk->tx_flight -= bytes < sk->tx_flight ? bytes : sk->tx_flight;
    sk->tx_done += bytes;
    if (off != USH_NONE) {
        set->loans--;
        set->tx_free[set->free_tail++ % SESS_LOAN_MAX] = off;
        session_set_dirty(sh, set);
    }
    if (set->dead)
        return;
    __atomic_store_n(&set->shm_socket[index].tx_done, sk->tx_done, __ATOMIC_RELEASE);
    if (UNLIKELY(sk->tx_done - sk->tx_told >= sk->tx_limit / 4))
        tell_writable(sh, set, handle);
}

void session_tx_return(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t bytes, uint32_t off) {
    tx_return(sh, set, handle, bytes, off);
}

void session_tx_end(struct shard *sh, struct pkt *p) {
    const struct sess_tx *tx = &sh->tx[p->token - 1];
    struct sess_set *set = sh->set[tx->slot];
    if (UNLIKELY(p->known == PKT_KNOWN_RAW))
        frame_end(sh, p);
    p->token = 0;
    tx_return(sh, set, tx->handle, tx->bytes, tx->off);
    set->flight--;
    if (UNLIKELY(set->retired))
        session_set_settle(sh, set);
}

void session_regions_mark(struct shard *sh, struct pkt **pkts, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (p->frag_count == 0 || !(p->frag[0].token & PKT_TOKEN_REGION) || p->token != 0)
            continue;
        uint32_t slot = p->frag[0].token & ~PKT_TOKEN_REGION;
        if (slot >= sh->session_max || sh->set[slot] == NULL)
            continue;
        p->token = p->frag[0].token;
        sh->set[slot]->flight++;
    }
}

void session_region_end(struct shard *sh, struct pkt *p) {
    struct sess_set *set = sh->set[p->token & ~PKT_TOKEN_REGION];
    p->token = 0;
    set->flight--;
    session_set_settle(sh, set);
}

/* ---- what found the ring full ---- */

static void untold_frees(struct shard *sh, struct sess_set *set) {
    while (set->free_head != set->free_tail) {
        struct ush_cqe *e = cq_slot(sh, set);
        if (e == NULL)
            return;
        uint32_t n = set->free_tail - set->free_head;
        n = n < ARRAY_LEN(e->tx_free.off) ? n : ARRAY_LEN(e->tx_free.off);
        cqe_head(e, USH_CQ_TX_FREE, 0, (uint8_t)n, 0);
        for (uint32_t i = 0; i < n; i++)
            e->tx_free.off[i] = set->tx_free[set->free_head++ % SESS_LOAN_MAX];
        cq_commit(sh, set, e);
    }
}

bool session_events_tell(struct shard *sh, struct sess_set *set, uint32_t index, uint32_t bits) {
    struct sess_socket *sk = &set->socket[index];
    while ((sk->events & bits) != 0) {
        struct ush_cqe *e = cq_slot(sh, set);
        if (e == NULL)
            return false;
        uint32_t bit = sk->events & bits;
        bit &= -bit;
        struct notice n = {.value = bit == EV_ERROR ? sk->error : 0, .extra = sk->tx_limit};
        if (bit == EV_ERROR)
            n.extra = (sk->flags & SOCK_REFUSED) != 0;
        if (bit == EV_URGENT)
            n.extra = sk->urgent;
        if (bit == EV_RESUMED)
            n.value = sk->tx_done + sk->tx_flight; /* nothing was sent since: the client waits for this */
        struct flow ends;
        if ((bit & EV_OPENING) && stream_ends(sh, sk, &ends)) {
            n.addr = bit == EV_ACCEPT ? ends.remote : ends.local;
            n.port = bit == EV_ACCEPT ? ends.remote_port : ends.local_port;
        }
        sk->events &= (uint8_t)~bit;
        event_write(sh, set, e, USH_HANDLE(index, sk->generation), bit, &n);
    }
    return true;
}

static void untold_events(struct shard *sh, struct sess_set *set) {
    while (set->event_head != USH_NONE) {
        struct sess_socket *sk = &set->socket[set->event_head];
        sk->flags &= (uint8_t)~SOCK_LISTED; /* telling CLOSED may free it */
        if (!session_events_tell(sh, set, set->event_head, UINT8_MAX)) {
            sk->flags |= SOCK_LISTED;
            return;
        }
        set->event_head = sk->event_next;
    }
}

void session_untold(struct shard *sh, struct sess_set *set) {
    if (set->dead) {
        set->free_head = set->free_tail;
        return;
    }
    untold_frees(sh, set);
    stream_untold(sh, set);
    if (set->pend_head == NULL) /* else HANGUP could overtake bytes */
        untold_events(sh, set);
}

bool session_has_untold(const struct sess_set *set) {
    return !set->dead && (set->free_head != set->free_tail || set->event_head != USH_NONE || set->pend_head != NULL);
}
