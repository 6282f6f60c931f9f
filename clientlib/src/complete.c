/* SPDX-License-Identifier: Apache-2.0
 *
 * Our side of a completion ring, and the order in which events come out. Under the context's lock. A datagram costs the
 * entry's line, the socket's table slot and the event; the head is published once for each call.
 */
#include "clientlib/src/internal.h"

enum verdict { SKIP, TAKEN, STOP };

/* After this many polls buffers that wait for company are given back. */
#define POLLS_FLUSH 256
/* Polls between looks at the clock, and how long kernel sockets may go unseen while the rings are polled. */
#define POLLS_CLOCK   64
#define LOOK_NS       50000
#define LOOK_MIXED_NS 2000

bool client_any_ready(const struct usher_context *ctx) {
    uint32_t n = __atomic_load_n(&ctx->set_count, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; i < n; i++)
        if (client_cq_ready(ctx->sets[i]))
            return true;
    return false;
}

void client_cq_publish(struct client_set *s) {
    if (s->cq_pos == s->cq_published)
        return;
    s->cq_published = s->cq_pos;
    /* Pairs with the worker's acquire load: our reads of the entries are over. */
    __atomic_store_n(&s->shared->cq_head, s->cq_pos, __ATOMIC_RELEASE);
}

bool client_cell_valid(const struct usher_context *ctx, const struct ush_cqe *e) {
    uint32_t cell = e->recv.cell, len = e->recv.len;
    return cell < ctx->h.rx_size && len <= ctx->h.rx_size - cell && !(cell & (ctx->h.rx_cell_min - 1));
}

/* A datagram of the socket's own: it goes on by the kernel, which may have something to say about it. */
static enum verdict take_bounced(struct usher_context *ctx, struct client_set *s, struct usher_socket *sock,
                                 const struct ush_cqe *e, struct usher_event *ret_ev) {
    int error = client_bounce_send(sock, e);
    client_release_cell(ctx, s, e->recv.cell, e->recv.len);
    if (error == 0)
        return SKIP;
    *ret_ev = (struct usher_event){.type = USHER_EV_ERROR, .error = error, .sock = sock};
    return TAKEN;
}

static enum verdict take_recv(struct usher_context *ctx, struct client_set *s, const struct ush_cqe *e,
                              struct usher_event *ret_ev) {
    uint32_t handle = e->recv.handle, cell = e->recv.cell, len = e->recv.len;
    if (UNLIKELY(!client_cell_valid(ctx, e))) {
        client_go_down(ctx, "a completion names bytes outside the RX region");
        return SKIP;
    }
    struct usher_socket *sock = client_by_handle(ctx, handle);
    client_held_set(ctx, s, cell);
    if (LIKELY(sock) && sock->st)
        sock->st->rx_total += len;
    if (UNLIKELY(!sock || (sock->st && sock->st->left))) {
        if (!sock && ctx->opening)
            return STOP; /* perhaps of the socket whose answer is being read by another thread */
        client_release_cell(ctx, s, cell, len);
        return SKIP;
    }
    if (UNLIKELY(e->flags & USH_RECV_BOUNCED))
        return take_bounced(ctx, s, sock, e, ret_ev);
    __builtin_prefetch(ctx->rx + cell);
    if (UNLIKELY(ctx->peer_used)) {
        client_peer_by_rings(ctx, e->recv.peer, e->recv.peer_port);
        sock->kernel_peer = false; /* who is connected hears its peer only */
    }
    ret_ev->type = USHER_EV_RECV;
    ret_ev->error = 0;
    ret_ev->sock = sock;
    struct usher_msg *m = &ret_ev->msg;
    m->sock = sock;
    m->buf = (struct usher_buf){ctx->rx + cell, len, cell >> ctx->cell_shift << 4 | s->index};
    m->len = len;
    m->flags = e->flags;
    m->gso_size = e->recv.gso_size;
    m->tos = e->tos;
    m->family = sock->v6 ? AF_INET6 : AF_INET;
    m->peer_port = e->recv.peer_port;
    m->scope = 0;
    client_addr_unmap(sock->v6, e->recv.peer, m->peer);
    client_addr_unmap(sock->v6, e->recv.local, m->local);
    m->rx_ns = e->recv.rx_ns;
    m->user_data = 0;
    return TAKEN;
}

void client_take_tx_free(struct usher_context *ctx, const struct ush_cqe *e) {
    uint32_t n = e->count < 14 ? e->count : 14;
    for (uint32_t i = 0; i < n; i++)
        txbuf_return(&ctx->txbuf, e->tx_free.off[i]);
    ctx->tx_freed = true;
}

static enum verdict take_accept(struct usher_context *ctx, struct client_set *s, struct usher_socket *listener,
                                const struct ush_cqe *e, struct usher_event *ret_ev) {
    if (e->event.handle == USH_NONE && client_stream_adopted(ctx, s, e, ret_ev))
        return TAKEN;
    if (LIKELY(listener && listener->st && !listener->st->left)) {
        if (client_stream_accept(listener, s, e, ret_ev))
            return TAKEN;
    }
    client_stream_refuse(ctx, s, e->event.value);
    return SKIP;
}

/* What came before is still in the ring; the program notices nothing. Streams that a listener accepted stay. */
static void take_let_go(struct usher_socket *sock) {
    if (!sock->set)
        return;
    sock->let_go = true;
    client_socket_to_kernel(sock, "the operator took it off Usher");
}

static enum verdict take_event(struct usher_context *ctx, struct client_set *s, const struct ush_cqe *e,
                               struct usher_event *ret_ev) {
    uint32_t handle = e->event.handle, value = e->event.value;
    struct usher_socket *sock = client_by_handle(ctx, handle);
    if (!sock && ctx->opening)
        return STOP;
    if (e->flags == USH_EVENT_ACCEPT)
        return take_accept(ctx, s, sock, e, ret_ev);
    if (!sock)
        return SKIP;
    if (e->flags == USH_EVENT_CLOSED && (!sock->st || sock->st->listening)) {
        take_let_go(sock);
        return SKIP;
    }
    if (sock->st)
        return client_stream_event(sock, e, ret_ev) ? TAKEN : SKIP;
    /* WRITABLE needs nothing here: every poll looks at the credit of sockets that ran out of it. */
    if (e->flags != USH_EVENT_ERROR)
        return SKIP;
    *ret_ev = (struct usher_event){.type = USHER_EV_ERROR, .error = (int)(value & 0xfff), .sock = sock};
    return TAKEN;
}

static enum verdict take_entry(struct usher_context *ctx, struct client_set *s, const struct ush_cqe *e,
                               struct usher_event *ret_ev) {
    switch (e->type) {
    case USH_CQ_RECV:
        return take_recv(ctx, s, e, ret_ev);
    case USH_CQ_TX_FREE:
        client_take_tx_free(ctx, e);
        return SKIP;
    case USH_CQ_EVENT:
        return take_event(ctx, s, e, ret_ev);
    case USH_CQ_INFO:
        client_stream_info_take(ctx, s, e);
        return SKIP;
    default:
        return SKIP; /* purged, or of a newer usherd */
    }
}

#define AHEAD 2u /* entries: a miss takes as long */

/* Entries to come name sockets that, of many, are in no cache: what lies AHEAD is asked for, and twice as far ahead
 * where to find it. Nothing is believed. Lines that the worker has yet to write are left to it. */
static inline void look_ahead(const struct usher_context *ctx, const struct client_set *s) {
    if (__atomic_load_n(&s->cq[(s->cq_pos + 1) & s->cq_mask].seq, __ATOMIC_RELAXED) != s->cq_pos + 2)
        return;
    uint32_t soon = USH_HANDLE_INDEX(s->cq[(s->cq_pos + AHEAD) & s->cq_mask].recv.handle);
    uint32_t later = USH_HANDLE_INDEX(s->cq[(s->cq_pos + 2 * AHEAD) & s->cq_mask].recv.handle);
    const struct usher_socket *sock = soon < ctx->table_size ? ctx->by_handle[soon] : NULL;
    if (sock) {
        client_socket_prefetch(sock);
        __builtin_prefetch(&ctx->shared_sockets[soon]);
    }
    if (later < ctx->table_size)
        __builtin_prefetch(&ctx->by_handle[later]);
    __builtin_prefetch(&s->cq[(s->cq_pos + 3 * AHEAD) & s->cq_mask]);
}

static uint32_t take_set(struct usher_context *ctx, struct client_set *s, struct usher_event *ret_events, uint32_t n) {
    uint32_t got = 0;
    while (got < n && client_cq_ready(s)) {
        const struct ush_cqe *e = &s->cq[s->cq_pos & s->cq_mask];
        look_ahead(ctx, s);
        enum verdict v = take_entry(ctx, s, e, &ret_events[got]);
        if (v == STOP)
            break;
        __atomic_store_n(&s->cq_pos, s->cq_pos + 1, __ATOMIC_RELAXED);
        got += v == TAKEN;
    }
    client_cq_publish(s);
    return got;
}

uint32_t client_take_rings(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n) {
    uint32_t got = 0, count = ctx->set_count;
    if (LIKELY(count == 1))
        return take_set(ctx, ctx->sets[0], ret_events, n);
    /* Each call begins with another set, so that a busy one cannot starve its neighbours. */
    for (uint32_t i = 0; i < count && got < n; i++)
        got += take_set(ctx, ctx->sets[ctx->set_turn++ % count], ret_events + got, n - got);
    return got;
}

/* Is it time to ask the kernel (a system call)? Never on a fast path: the clock is read once in 64 polls, unless some
 * socket lives wholly on the kernel. */
static bool look_due(struct usher_context *ctx) {
    if (UNLIKELY(ctx->confined))
        return false;
    if (ctx->armed || ctx->accelerated == 0 || ctx->away)
        return true;
    ctx->polls++;
    if (LIKELY(ctx->polls % POLLS_CLOCK && ctx->kernel_only == 0))
        return false;
    if (ctx->polls % POLLS_FLUSH == 0)
        client_release_flush_all(ctx);
    int64_t now = client_now();
    if (now - ctx->looked_ns < (ctx->kernel_only ? LOOK_MIXED_NS : LOOK_NS))
        return false;
    ctx->looked_ns = now;
    return true;
}

uint32_t client_take_fresh(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n, bool look) {
    uint32_t got = client_take_rings(ctx, ret_events, n);
    /* Polls with results count as well: busy rings must not hide the kernel sockets for ever. */
    if (UNLIKELY(look) || look_due(ctx)) {
        client_disarm(ctx);
        got += client_look(ctx, ret_events + got, n - got);
    }
    return got;
}

static uint32_t take_notices(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n) {
    uint32_t got = 0;
    if (ctx->blocked)
        got += client_take_writable(ctx, ret_events, n);
    if (got < n && ctx->tx_wanted && client_tx_available(ctx)) {
        ctx->tx_wanted = false;
        ret_events[got++] = (struct usher_event){.type = USHER_EV_TX_FREE};
    }
    if (got < n && UNLIKELY(ctx->down_event)) {
        ctx->down_event = false;
        ret_events[got++] = (struct usher_event){.type = USHER_EV_DOWN, .error = ENETDOWN};
    }
    return got;
}

uint32_t client_take(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n, bool look) {
    uint32_t got = 0;
    if (UNLIKELY(ctx->closes_due != 0))
        client_stream_closes(ctx);
    if (UNLIKELY(ctx->agains != 0))
        client_again(ctx);
    if (UNLIKELY(ctx->parked != NULL))
        got = client_take_parked(ctx, ret_events, n);
    if (LIKELY(got < n))
        got += client_take_fresh(ctx, ret_events + got, n - got, look);
    if (UNLIKELY(ctx->blocked || ctx->tx_wanted || ctx->down_event) && got < n)
        got += take_notices(ctx, ret_events + got, n - got);
    return got;
}

static void purge(struct usher_context *ctx, struct client_set *s, uint32_t handle) {
    for (uint32_t pos = s->cq_pos; pos - s->cq_pos <= s->cq_mask; pos++) {
        struct ush_cqe *e = &s->cq[pos & s->cq_mask];
        if (__atomic_load_n(&e->seq, __ATOMIC_ACQUIRE) != pos + 1)
            break;
        if (e->type == USH_CQ_RECV && e->recv.handle == handle) {
            if (e->flags & USH_RECV_BOUNCED && client_cell_valid(ctx, e))
                (void)client_bounce_send(ctx->by_handle[handle], e); /* sent before the close: it still goes */
            client_release_cell(ctx, s, e->recv.cell, e->recv.len);
            e->type = 0; /* consumed: usherd does not read its completions again */
        } else if (e->type == USH_CQ_EVENT && e->event.handle == handle) {
            if (e->flags == USH_EVENT_ACCEPT)
                client_stream_refuse(ctx, s, e->event.value); /* its peer must not wait for ever */
            e->type = 0;
        }
    }
}

void client_handle_forget(struct usher_socket *sock) {
    if (!sock->known)
        return;
    purge(sock->ctx, sock->home, sock->handle);
    for (uint32_t i = 0; sock->st && i < USH_SET_MAX; i++)
        if (sock->st->more_sets >> i & 1 && sock->ctx->set_at[i])
            purge(sock->ctx, sock->ctx->set_at[i], sock->handle);
    sock->ctx->by_handle[USH_HANDLE_INDEX(sock->handle)] = NULL;
    sock->known = false;
}
