/* SPDX-License-Identifier: Apache-2.0
 *
 * Our side of a submission ring: slots, the blocks that come back with them, RELEASE entries, credit, and the kick.
 * Under the context's lock. A send touches the slot's line, one private line of the shadow ring and the socket; the
 * worker's head is read once in 32 entries, or when the ring looks full.
 */
#include <stdlib.h>
#include <unistd.h>

#include "clientlib/src/internal.h"

void client_sq_reap(struct usher_context *ctx, struct client_set *s) {
    /* Pairs with the worker's release store: it has copied what the entries before its head name. */
    uint32_t head = __atomic_load_n(&s->shared->sq[0].sq_head, __ATOMIC_ACQUIRE);
    if (UNLIKELY(head - s->sq_reaped > s->sq_pos - s->sq_reaped)) {
        client_go_down(ctx, "the head of a submission ring is impossible");
        return;
    }
    for (; s->sq_reaped != head; s->sq_reaped++) {
        uint32_t buf = s->sq_buf[s->sq_reaped & s->sq_mask];
        if (buf == TXBUF_NONE)
            continue;
        txbuf_give(&ctx->txbuf, buf);
        ctx->tx_freed = true;
    }
}

struct ush_sqe *client_sq_slot(struct usher_context *ctx, struct client_set *s) {
    if (UNLIKELY(s->sq_pos - s->sq_reaped > s->sq_mask)) {
        if (ctx->away) /* client_reclaim() has made it look full */
            return NULL;
        client_sq_reap(ctx, s);
        if (ctx->down || s->sq_pos - s->sq_reaped > s->sq_mask)
            return NULL;
    }
    return &s->sq[s->sq_pos & s->sq_mask];
}

/* A stream's peer may be waiting for the window that these bytes open, and the worker may sleep because nothing else
 * happens. Fewer bytes need no system call: the window is wider than that, so more of the stream is on its way. */
static void release_tell(struct usher_context *ctx, struct client_set *s) {
    s->owed += s->release_bytes;
    if (s->streams && s->owed >= ctx->owed_max)
        s->kick_due = ctx->kick_due = true;
}

static bool release_grow(struct client_set *s) {
    uint32_t room = s->release_room * 2;
    uint32_t *p = realloc(s->release, room * sizeof(*p));
    if (!p)
        return false;
    s->release = p;
    s->release_room = room;
    return true;
}

void client_release_cell(struct usher_context *ctx, struct client_set *s, uint32_t cell, uint32_t len) {
    if (UNLIKELY(ctx->down))
        return;
    client_held_clear(ctx, s, cell);
    /* The list outgrows an entry only while usherd does not drain the ring. */
    if (UNLIKELY(s->release_count == s->release_room) && !release_grow(s))
        return;
    s->release[s->release_count++] = cell;
    s->release_bytes += len;
    /* Full entry, or so many bytes that keeping them back could exhaust a socket's quota. */
    if (s->release_count >= 14 || s->release_bytes >= 8192)
        client_release_flush(ctx, s);
}

void client_release_flush(struct usher_context *ctx, struct client_set *s) {
    while (s->release_count) {
        struct ush_sqe *e = client_sq_slot(ctx, s);
        if (!e)
            return;
        uint32_t n = s->release_count < 14 ? s->release_count : 14;
        e->op = USH_OP_RELEASE;
        e->flags = 0;
        e->count = (uint8_t)n;
        e->tos = 0;
        s->release_count -= n;
        memcpy(e->release.cell, s->release + s->release_count, n * sizeof(uint32_t));
        client_sq_commit(s, e, TXBUF_NONE);
    }
    release_tell(ctx, s);
    s->release_bytes = 0;
}

void client_release_flush_all(struct usher_context *ctx) {
    for (uint32_t i = 0; i < ctx->set_count; i++)
        client_release_flush(ctx, ctx->sets[i]);
}

void client_kick(struct usher_context *ctx) {
    if (!ctx->kick_due)
        return;
    ctx->kick_due = false;
    /* Between our entries and the look at need_kick; pairs with the worker's fence between need_kick = 1 and its last
     * look at the ring. One of the two sees the other. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (uint32_t i = 0; i < ctx->set_count; i++) {
        struct client_set *s = ctx->sets[i];
        if (!s->kick_due)
            continue;
        s->kick_due = false;
        s->owed = 0;
        if (__atomic_load_n(&s->shared->need_kick, __ATOMIC_RELAXED)) {
            const uint64_t one = 1;
            /* A full counter means that the worker has been kicked already. */
            ssize_t n = write(s->kick_fd, &one, sizeof(one));
            (void)n;
        }
    }
}

void client_block_socket(struct usher_socket *sock) {
    if (sock->blocked)
        return;
    sock->blocked = true;
    sock->blocked_next = sock->ctx->blocked;
    sock->ctx->blocked = sock;
}

void client_unblock_socket(struct usher_socket *sock) {
    struct usher_socket **p = &sock->ctx->blocked;
    for (; sock->blocked && *p; p = &(*p)->blocked_next)
        if (*p == sock) {
            *p = sock->blocked_next;
            sock->blocked = false;
            return;
        }
}

/* Half of the credit must be back: else each small advance would bring an event and one more -EAGAIN. */
static bool is_writable(struct usher_socket *sock) {
    if (sock->kernel_blocked)
        return false;
    struct client_set *s = sock->set;
    if (!s)
        return true;
    if (UNLIKELY(sock->ctx->away || (sock->st && sock->st->again)))
        return false;
    client_sq_reap(sock->ctx, s);
    if (!sock->set) /* that found usherd gone */
        return true;
    if (s->sq_pos - s->sq_reaped > s->sq_mask)
        return false;
    if (sock->st)
        client_stream_reap(sock);
    else
        sock->done = __atomic_load_n(&sock->ctx->shared_sockets[sock->handle].tx_done, __ATOMIC_RELAXED);
    return (int32_t)(sock->sent - sock->done) <= (int32_t)(sock->tx_limit / 2);
}

bool client_any_writable(struct usher_context *ctx) {
    for (struct usher_socket *s = ctx->blocked; s; s = s->blocked_next)
        if (is_writable(s))
            return true;
    return false;
}

uint32_t client_take_writable(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n) {
    uint32_t got = 0;
    for (struct usher_socket **p = &ctx->blocked; *p && got < n;) {
        struct usher_socket *s = *p;
        if (!is_writable(s)) {
            p = &s->blocked_next;
            continue;
        }
        *p = s->blocked_next;
        s->blocked = false;
        ret_events[got++] = (struct usher_event){.type = USHER_EV_WRITABLE, .sock = s};
    }
    return got;
}

bool client_tx_available(struct usher_context *ctx) {
    for (uint32_t i = 0; i < ctx->set_count && !ctx->away; i++) {
        client_sq_reap(ctx, ctx->sets[i]);
        client_bounce_scan(ctx, ctx->sets[i]);
    }
    if (client_stream_reap_all(ctx))
        ctx->tx_freed = true;
    return ctx->tx_freed;
}
