/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that others take over. Connections that a program has not accepted when it closes its listener go back to
 * usherd, which gives them to another listener of the port. Under the context's lock, except where it says so.
 */
#include "clientlib/src/internal.h"

bool client_stream_return(struct usher_socket *sock, client_bytes_fn *bytes, void *arg, uint32_t len) {
    struct usher_context *ctx = sock->ctx;
    struct client_stream *st = sock->st;
    uint32_t room, off = 0;
    if (!(ctx->h.features & USH_FEATURE_RETURN) || !sock->set || st->gone || len > USH_RETURN_MAX)
        return false;
    struct ush_sqe *e = client_sq_slot(ctx, sock->set);
    if (!e || (len > 0 && (off = txbuf_take(&ctx->txbuf, len, &room)) == TXBUF_NONE))
        return false;
    if (len > 0)
        bytes(arg, ctx->tx + off);
    e->op = USH_OP_RETURN;
    e->flags = e->count = e->tos = 0;
    memset(&e->send, 0, sizeof(e->send));
    e->send.handle = sock->handle;
    e->send.off = off;
    e->send.len = len;
    client_sq_commit(sock->set, e, len > 0 ? off : TXBUF_NONE);
    sock->set->kick_due = ctx->kick_due = true;
    st->left = true; /* CLOSED frees it */
    return true;
}

/* Without the lock. */
void client_listener_retire(struct usher_socket *sock) {
    client_rpc_begin(sock->ctx);
    if (client_socket_is_carried(sock))
        (void)client_rpc_close(sock->ctx, sock->handle); /* without usherd there is nothing to close */
    client_rpc_end(sock->ctx);
    sock->st->retired = true;
}
