/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that others take over. Connections that a program has not accepted when it closes its listener go back to
 * usherd, which gives them to another listener of the port; streams that other processes have a copy of are parked
 * there, and taken by whoever uses them. Under the context's lock, except where it says so.
 */
#include <unistd.h>

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

/* ---- streams that several processes have a copy of ---- */

bool client_stream_park(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    if (!(sock->ctx->h.features & USH_FEATURE_SHARE) || !sock->set || !st->open || st->parking || st->gone)
        return false;
    st->parking = client_stream_op(sock, USH_OP_PARK, 0);
    client_kick(sock->ctx);
    return st->parking;
}

static int ask(struct usher_context *ctx, const struct client_share *share, int fd, int unread_fd,
               struct client_answer *a) {
    client_rpc_begin(ctx);
    int err = client_rpc_share(ctx, share, fd, unread_fd, a);
    client_rpc_end(ctx);
    return err;
}

static void close_all(struct client_answer *a) {
    while (a->fd_count)
        close(a->fds[--a->fd_count]);
}

int client_stream_put(struct usher_socket *sock, int fd, const struct client_share *share, int unread_fd) {
    struct client_answer a = {0};
    int err = ask(sock->ctx, share, fd, unread_fd, &a);
    close_all(&a);
    if (err)
        return err;
    client_stream_reap(sock);
    client_stream_detach(sock);
    client_socket_free(sock);
    return 0;
}

bool client_tx_keep(struct usher_context *ctx, client_bytes_fn *bytes, void *arg, uint32_t len, uint32_t *ret_at) {
    uint32_t room;
    uint32_t at = len <= TXBUF_SLAB ? txbuf_take(&ctx->txbuf, len, &room) : TXBUF_NONE;
    if (at == TXBUF_NONE)
        return false;
    bytes(arg, ctx->tx + at);
    *ret_at = at;
    return true;
}

int client_stream_bequeath(struct usher_socket *sock, const struct client_share *share) {
    struct usher_context *ctx = sock->ctx;
    int err = ctx->h.features & USH_FEATURE_LEAVE ? client_stream_put(sock, -1, share, -1) : -EOPNOTSUPP;
    if (share->unread)
        txbuf_give(&ctx->txbuf, share->unread_at);
    return err;
}

/* A ring set that is new brings its fd first. */
static int take_set(struct usher_context *ctx, struct client_answer *a) {
    if (a->set >= USH_SET_MAX)
        return client_fail(-EPROTO, "usherd's answer names a ring set that cannot be");
    if (ctx->set_at[a->set])
        return 0;
    int err = a->fd_count ? client_set_add(ctx, a->set, a->fds[0]) : -EPROTO;
    if (!err)
        a->fds[0] = a->fds[--a->fd_count];
    return err;
}

int client_stream_take(struct usher_context *ctx, int fd, bool v6, struct client_taken *ret_taken) {
    const struct client_share share = {.action = CLIENT_SHARE_TAKE};
    struct client_answer a = {0};
    int err = ask(ctx, &share, fd, -1, &a);
    if (!err)
        err = take_set(ctx, &a);
    ctx->take_v6 = v6;
    *ret_taken = (struct client_taken){a.unread, a.local_port, -1, a.shut != 0};
    if (!err && a.unread && a.fd_count)
        ret_taken->unread_fd = a.fds[--a.fd_count];
    close_all(&a);
    return err;
}

int client_stream_hold(struct usher_context *ctx, int fd, uint32_t copies) {
    const struct client_share share = {.action = CLIENT_SHARE_HOLD, .copies = copies};
    struct client_answer a = {0};
    int err = ask(ctx, &share, fd, -1, &a);
    close_all(&a);
    return err;
}

int client_stream_drop(struct usher_context *ctx, int fd, uint32_t *ret_others) {
    const struct client_share share = {.action = CLIENT_SHARE_DROP};
    struct client_answer a = {0};
    int err = ask(ctx, &share, fd, -1, &a);
    *ret_others = a.others;
    close_all(&a);
    return err;
}

bool client_stream_is_held_by(struct usher_context *ctx, int fd, pid_t pid) {
    const struct client_share share = {.action = CLIENT_SHARE_LOOK, .pid = (uint32_t)pid};
    struct client_answer a = {0};
    int err = ask(ctx, &share, fd, -1, &a);
    close_all(&a);
    return err == 0 && a.others != 0;
}

bool client_stream_adopted(struct usher_context *ctx, struct client_set *s, const struct ush_cqe *e,
                           struct usher_event *ret_ev) {
    struct usher_socket *sock = client_stream_begun(ctx, s, ctx->take_v6, e->event.value, e);
    if (!sock)
        return false;
    *ret_ev = (struct usher_event){.type = CLIENT_EV_ADOPTED, .sock = sock, .msg = {.sock = sock}};
    client_stream_peer(sock, &ret_ev->msg);
    return true;
}
