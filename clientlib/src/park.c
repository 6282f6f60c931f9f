/* SPDX-License-Identifier: Apache-2.0
 *
 * Events that usher_recvfrom() of one socket found for another. They wait in private memory, in order for each socket,
 * so that no socket can stop the ring for its neighbours; a socket's RX quota, and for kernel sockets a share of
 * KERNEL_SHARE datagrams, bounds how many there can be. An error is one number, the latest. Under the context's lock.
 */
#include <stdlib.h>

#include "clientlib/src/internal.h"

#define KERNEL_SHARE 32

static struct client_parked *node_get(struct usher_context *ctx) {
    struct client_parked *p = ctx->parked_free;
    if (!p)
        return malloc(sizeof(*p));
    ctx->parked_free = p->next;
    return p;
}

static void list_socket(struct usher_context *ctx, struct usher_socket *sock) {
    if (sock->parked_listed)
        return;
    sock->parked_listed = true;
    sock->parked_next = NULL;
    if (ctx->parked)
        ctx->parked_last->parked_next = sock;
    else
        ctx->parked = sock;
    ctx->parked_last = sock;
}

static void drop_event(struct usher_context *ctx, const struct usher_event *ev) {
    if (ev->type == USHER_EV_ACCEPT) {
        struct usher_socket *sock = ev->msg.sock;
        if (client_stream_leave(sock))
            client_socket_free(sock);
    }
    if (ev->type == USHER_EV_RECV) {
        struct usher_msg m = ev->msg;
        client_release_msg(ctx, &m);
    }
}

static void park_datagram(struct usher_context *ctx, const struct usher_event *ev) {
    struct usher_socket *sock = ev->sock;
    struct client_parked *p = node_get(ctx);
    if (!p) {
        drop_event(ctx, ev); /* as a full socket buffer would */
        return;
    }
    p->ev = *ev;
    p->next = NULL;
    if (!sock->parked_head)
        sock->parked_tail = &sock->parked_head;
    *sock->parked_tail = p;
    sock->parked_tail = &p->next;
    if (ev->type == USHER_EV_RECV && ev->msg.flags & USHER_RECV_KERNEL && ++sock->parked_kernel == KERNEL_SHARE) {
        sock->muted = true;
        client_kernel_interest(sock);
    }
}

void client_park(struct usher_context *ctx, const struct usher_event *ev) {
    if (ev->type != USHER_EV_ERROR)
        park_datagram(ctx, ev);
    else
        ev->sock->error = ev->error;
    list_socket(ctx, ev->sock);
    client_waiters_wake(ctx);
}

bool client_unpark(struct usher_socket *sock, struct usher_event *ret_ev) {
    struct usher_context *ctx = sock->ctx;
    struct client_parked *p = sock->parked_head;
    if (!p)
        return false;
    *ret_ev = p->ev;
    sock->parked_head = p->next;
    p->next = ctx->parked_free;
    ctx->parked_free = p;
    if (ret_ev->type == USHER_EV_RECV && ret_ev->msg.flags & USHER_RECV_KERNEL && --sock->parked_kernel == 0 &&
        sock->muted) {
        sock->muted = false;
        client_kernel_interest(sock);
    }
    return true;
}

static bool unlist_if_empty(struct usher_context *ctx, struct usher_socket *sock) {
    if (sock->parked_head || sock->error)
        return false;
    ctx->parked = sock->parked_next;
    sock->parked_listed = false;
    return true;
}

bool client_has_parked(struct usher_context *ctx) {
    while (ctx->parked && unlist_if_empty(ctx, ctx->parked))
        ;
    return ctx->parked;
}

uint32_t client_take_parked(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n) {
    uint32_t got = 0;
    while (got < n && client_has_parked(ctx)) {
        struct usher_socket *sock = ctx->parked;
        if (client_unpark(sock, &ret_events[got])) {
            got++;
            continue;
        }
        ret_events[got++] = (struct usher_event){.type = USHER_EV_ERROR, .error = sock->error, .sock = sock};
        sock->error = 0;
    }
    return got;
}

bool client_park_has_bytes(const struct usher_socket *sock) {
    for (const struct client_parked *p = sock->parked_head; p; p = p->next)
        if (p->ev.type == USHER_EV_RECV)
            return true;
    return false;
}

void client_park_purge(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    struct usher_event ev;
    sock->muted = false;
    sock->error = 0;
    while (client_unpark(sock, &ev))
        drop_event(ctx, &ev);
    struct usher_socket *last = NULL;
    for (struct usher_socket **p = &ctx->parked; sock->parked_listed && *p;) {
        if (*p == sock) {
            *p = sock->parked_next;
            sock->parked_listed = false;
            if (ctx->parked_last == sock)
                ctx->parked_last = last;
            break;
        }
        last = *p;
        p = &(*p)->parked_next;
    }
}

void client_park_fini(struct usher_context *ctx) {
    while (ctx->parked_free) {
        struct client_parked *p = ctx->parked_free;
        ctx->parked_free = p->next;
        free(p);
    }
}
