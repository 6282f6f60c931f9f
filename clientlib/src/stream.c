/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that usherd carries. Connecting, accepting, closing are entries of the rings: no system call, unless the
 * worker sleeps. A sent buffer stays usherd's until its bytes are acknowledged; a stream keeps what it has sent in
 * order and takes buffers home from the counter in the shared table. All but the public calls under the context's lock.
 *
 * A handle's index is free for the next connection when CLOSED has come and CLOSE has gone; until then a closed socket
 * lives on, unseen by the program (`left`).
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clientlib/src/internal.h"

/* ---- coming and going ---- */

static void give_all(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    for (; st->sent_head != st->sent_tail; st->sent_head++)
        txbuf_give(&sock->ctx->txbuf, st->sent[st->sent_head & (st->sent_room - 1)].off);
    sock->ctx->tx_freed = true;
}

void client_stream_free(struct usher_socket *sock) {
    if (!sock->st)
        return;
    if (sock->st->close_due)
        sock->ctx->closes_due--;
    client_again_over(sock);
    if (sock->st->port) { /* the port stays the kernel socket's until usherd has heard that it is over */
        sock->st->port->fd = sock->fd;
        sock->fd = -1;
        sock->st->port->next = sock->ctx->ports_due;
        sock->ctx->ports_due = sock->st->port;
    }
    free(sock->st->options);
    free(sock->st->info);
    free(sock->st->tail);
    if (sock->st->sent != sock->st->first)
        free(sock->st->sent);
    sock->st = NULL;
}

static void attach(struct usher_socket *sock, struct client_set *set, uint32_t handle, uint32_t tx_limit) {
    struct usher_context *ctx = sock->ctx;
    sock->handle = handle;
    sock->set = sock->home = set;
    set->streams = true;
    sock->known = true;
    sock->sent = sock->done = 0;
    sock->tx_limit = tx_limit;
    ctx->by_handle[USH_HANDLE_INDEX(handle)] = sock;
    ctx->accelerated++;
    client_socket_reason(sock, "");
}

void client_stream_detach(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    if (!sock->known)
        return;
    uint32_t index = USH_HANDLE_INDEX(sock->handle);
    ctx->by_handle[index] = NULL;
    sock->known = false;
    if (index - ctx->h.socket_max < ctx->h.client_socket_max)
        ctx->stream_free[ctx->stream_free_count++] = index;
    if (sock->set)
        ctx->accelerated--;
    sock->set = NULL;
}

bool client_stream_op(struct usher_socket *sock, uint8_t op, uint8_t flags) {
    struct ush_sqe *e = client_sq_slot(sock->ctx, sock->set);
    if (!e)
        return false;
    e->op = op;
    e->flags = flags;
    e->count = 0;
    e->tos = 0;
    memset(&e->stream, 0, sizeof(e->stream));
    e->stream.handle = sock->handle;
    client_sq_commit(sock->set, e, TXBUF_NONE);
    sock->set->kick_due = sock->ctx->kick_due = true;
    return true;
}

bool client_stream_say_close(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    uint8_t flags = (uint8_t)((st->linger == 0 ? USH_CLOSE_ABORT : 0) | (st->unread ? USH_CLOSE_UNREAD : 0));
    bool said = client_stream_op(sock, USH_OP_CLOSE, flags);
    if (said == !st->close_due)
        return said;
    sock->ctx->closes_due += said ? -1u : 1u;
    st->close_due = !said;
    return said;
}

/* The program has closed it. True: nothing is left of it, the caller frees it. */
bool client_stream_leave(struct usher_socket *sock) {
    sock->st->left = true;
    if (!sock->known || !sock->set)
        return true;
    if (sock->st->again) /* said when it stands where it stood */
        return false;
    bool said = client_stream_say_close(sock);
    if (said && sock->st->gone) {
        client_stream_detach(sock);
        return true;
    }
    return false;
}

void client_stream_closes(struct usher_context *ctx) {
    for (struct usher_socket *s = ctx->sockets, *next; s; s = next) {
        next = s->next;
        if (s->st && s->st->close_due && s->set && client_stream_say_close(s) && s->st->gone) {
            client_stream_detach(s);
            client_socket_free(s);
        }
    }
}

/* usherd is gone: what the kernel never knew is lost. */
void client_stream_down(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    if (!st || st->listening || !sock->set)
        return;
    give_all(sock);
    client_again_over(sock);
    st->gone = st->eof = true;
    st->open = st->connecting = false;
    const struct usher_event ev = {.type = USHER_EV_ERROR, .error = ENETDOWN, .sock = sock};
    if (!st->left)
        client_park(sock->ctx, &ev);
}

/* ---- connecting ---- */

static int submit_connect(struct usher_socket *sock, struct client_set *set) {
    struct usher_context *ctx = sock->ctx;
    struct client_stream *st = sock->st;
    uint32_t index = ctx->stream_free[--ctx->stream_free_count];
    attach(sock, set, USH_HANDLE(index, ++ctx->stream_generation[index - ctx->h.socket_max]), 0);
    struct ush_sqe *e = client_stream_options_ahead(sock) ? client_sq_slot(ctx, set) : NULL;
    if (!e) {
        client_stream_detach(sock);
        return client_fail_fast(-EAGAIN, "the submission ring is full: poll, then try again");
    }
    sock->tx_limit = 64u << 10;
    st->fastopen = client_stream_fastopen(st);
    e->op = USH_OP_CONNECT;
    e->flags = (uint8_t)((st->fastopen ? USH_CONNECT_FASTOPEN : 0) | (st->port ? USH_CONNECT_BOUND : 0));
    e->count = e->tos = 0;
    memset(&e->connect, 0, sizeof(e->connect));
    e->connect.handle = sock->handle;
    e->connect.port = st->peer_port;
    memcpy(e->connect.addr, st->peer, 16);
    e->connect.bound = st->port ? st->port->handle : 0;
    client_sq_commit(set, e, TXBUF_NONE);
    set->kick_due = ctx->kick_due = true;
    st->connecting = true;
    client_stream_options_late(sock);
    return 0;
}

bool client_stream_reconnect(struct usher_socket *sock) {
    struct client_set *set = sock->set;
    client_stream_detach(sock);
    return submit_connect(sock, set) == 0;
}

/* Asks once where streams connect; the answer is remembered, also a refusal. Without the lock. */
static int find_set(struct usher_context *ctx) {
    client_relock(ctx);
    bool known = ctx->stream_set || ctx->stream_why[0] || ctx->down;
    client_leave(ctx);
    if (known)
        return 0;
    struct usher_socket probe = {.ctx = ctx, .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (probe.fd < 0)
        return client_fail(-errno, "kernel socket: %s", strerror(errno));
    int err = client_stream_announce(&probe);
    close(probe.fd);
    return err;
}

/* Where to connect from; NULL: by the kernel. Without the lock. */
static int choose_set(struct usher_socket *sock, bool scoped, struct client_set **ret_set) {
    struct usher_context *ctx = sock->ctx;
    *ret_set = NULL;
    int err = find_set(ctx);
    if (err)
        return err;
    client_relock(ctx);
    const char *why = ctx->stream_why[0]              ? ctx->stream_why
                      : scoped                        ? "a link-local peer"
                      : sock->st->by_kernel           ? "an option that only the kernel honours"
                      : !ctx->stream_free_count       ? "no stream handle was free"
                      : !ctx->stream_set || ctx->down ? "usherd is gone"
                                                      : NULL;
    if (why)
        client_socket_reason(sock, why);
    else
        *ret_set = ctx->stream_set;
    client_leave(ctx);
    return !why && sock->bound ? client_stream_port(sock, ret_set) : 0;
}

int client_stream_connect(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len) {
    struct usher_context *ctx = sock->ctx;
    struct client_stream *st = sock->st;
    struct client_set *set;
    struct usher_msg m = {0};
    if (client_addr_from(addr, len, &m) || (m.family == AF_INET6 && !sock->v6) || !m.peer_port)
        return client_fail(-EAFNOSUPPORT, "connect: no address that this socket could reach");
    if (st->connecting || st->open || st->listening || st->gone)
        return client_fail(-EISCONN, "connect: the stream is connecting, connected or listening already");
    client_addr_map(m.family, m.peer, st->peer);
    st->peer_port = m.peer_port;
    if (UNLIKELY(__atomic_load_n(&ctx->away, __ATOMIC_RELAXED))) { /* waits until it is known who carries it */
        client_rpc_begin(ctx);
        client_rpc_end(ctx);
    }
    int err = choose_set(sock, m.scope != 0, &set);
    if (err)
        return err;
    client_relock(ctx);
    err = set && !ctx->down && ctx->stream_free_count ? submit_connect(sock, set) : client_kstream_connect(sock);
    client_kick(ctx);
    client_leave(ctx);
    return err;
}

/* ---- events ---- */

void client_stream_peer(const struct usher_socket *sock, struct usher_msg *m) {
    const struct client_stream *st = sock->st;
    m->family = sock->v6 ? AF_INET6 : AF_INET;
    m->peer_port = st->peer_port;
    if (sock->v6) {
        memcpy(m->peer, st->peer, 16);
        memcpy(m->local, st->local, 16);
    } else {
        memcpy(m->peer, st->peer + 12, 4);
        memcpy(m->local, st->local + 12, 4);
    }
}

static bool on_connected(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    struct client_stream *st = sock->st;
    if (st->open) /* said again after a comeback */
        return false;
    memcpy(st->local, e->event.addr, 16);
    st->local_port = e->event.port;
    sock->tx_limit = e->event.extra && e->event.extra < INT32_MAX ? e->event.extra : sock->tx_limit;
    st->connecting = false;
    st->open = true;
    ret_ev->type = USHER_EV_CONNECTED;
    client_stream_peer(sock, &ret_ev->msg);
    return true;
}

static bool on_hangup(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    (void)e;
    ret_ev->type = USHER_EV_HANGUP;
    bool first = !sock->st->eof;
    sock->st->eof = true;
    return first;
}

static const char *why_kernel(int error) {
    switch (error) {
    case ECONNREFUSED:
        return "none of Usher's sockets listens at that address of this host; the kernel's socket carries the stream";
    case EMFILE:
        return "the user has as many streams as sessions.streams_per_uid allows; the kernel's socket carries it";
    case EADDRNOTAVAIL:
        return "no port of usherd's range is free (engines.tcp); the kernel's socket carries the stream";
    case ENOSPC:
        return "usherd's table of connections is full (engines.tcp); the kernel's socket carries the stream";
    default:
        return "usherd has no route to that address; the kernel's socket carries the stream";
    }
}

/* usherd has no way there: the kernel may have one. The program sees one connect. */
static bool on_error(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    struct client_stream *st = sock->st;
    bool retry = e->event.extra == 1 && st->connecting && !st->left && sock->sent == 0;
    if (retry) {
        st->quiet = true;
        client_socket_reason(sock, why_kernel((int)(e->event.value & 0xfff)));
    }
    st->open = false;
    st->connecting = retry;
    ret_ev->type = USHER_EV_ERROR;
    ret_ev->error = (int)(e->event.value & 0xfff);
    return !retry;
}

static bool retry_by_kernel(struct usher_socket *sock, struct usher_event *ret_ev) {
    sock->st->quiet = false;
    client_stream_op(sock, USH_OP_CLOSE, 0);
    client_stream_detach(sock);
    int err = client_kstream_connect(sock);
    ret_ev->type = USHER_EV_ERROR;
    ret_ev->error = -err;
    return err != 0;
}

static bool on_closed(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    struct client_stream *st = sock->st;
    (void)e;
    give_all(sock);
    client_again_over(sock);
    if (st->quiet)
        return retry_by_kernel(sock, ret_ev);
    bool cut = st->open && !st->eof; /* no word of its peer's end: usherd has ended it */
    st->gone = true;
    st->open = st->connecting = false;
    if (st->left && !st->close_due) {
        client_stream_detach(sock);
        client_socket_free(sock);
        return false;
    }
    ret_ev->type = cut ? USHER_EV_ERROR : USHER_EV_HANGUP; /* nobody waits for ever: also when an error came before */
    ret_ev->error = cut ? ECONNRESET : 0;
    bool told = st->eof || st->left;
    st->eof = true;
    return !told;
}

static bool on_urgent(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    (void)sock;
    ret_ev->type = USHER_EV_URGENT;
    ret_ev->msg.user_data = e->event.extra;
    return true;
}

static bool on_writable(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    const struct ush_socket *shared = &sock->ctx->shared_sockets[USH_HANDLE_INDEX(sock->handle)];
    (void)e;
    client_stream_reap(sock);
    if (LIKELY(!__atomic_load_n(&shared->recall, __ATOMIC_RELAXED)) || sock->st->recalled)
        return false;
    sock->st->recalled = true;
    ret_ev->type = CLIENT_EV_RECALLED;
    return true;
}

static bool on_parked(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    (void)e;
    client_stream_reap(sock);
    sock->st->parked = sock->st->parking;
    ret_ev->type = CLIENT_EV_PARKED;
    return sock->st->parked;
}

static bool on_resumed(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    (void)ret_ev;
    return client_again_event(sock, e->event.value);
}

bool client_stream_event(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    static bool (*const on[])(struct usher_socket *, const struct ush_cqe *, struct usher_event *) = {
        [USH_EVENT_ERROR] = on_error,     [USH_EVENT_WRITABLE] = on_writable, [USH_EVENT_CONNECTED] = on_connected,
        [USH_EVENT_HANGUP] = on_hangup,   [USH_EVENT_CLOSED] = on_closed,     [USH_EVENT_URGENT] = on_urgent,
        [USH_EVENT_RESUMED] = on_resumed, [USH_EVENT_PARKED] = on_parked,
    };
    if (e->flags >= sizeof(on) / sizeof(on[0]) || !on[e->flags])
        return false;
    bool left = sock->st->left; /* on_closed() may free it */
    memset(ret_ev, 0, sizeof(*ret_ev));
    ret_ev->sock = ret_ev->msg.sock = sock;
    return on[e->flags](sock, e, ret_ev) && !left;
}

/* ---- accepting ---- */

/* usherd gives an index again when CLOSED is written and CLOSE was read, but the two sets' rings are read in any order:
 * what the program has left is over, and CLOSED will find nobody. */
static bool index_is_free(struct usher_context *ctx, const struct client_set *s, uint32_t index) {
    struct usher_socket *old = ctx->by_handle[index];
    if (!old)
        return true;
    if (!old->st || !old->st->left || old->st->close_due || old->set == s)
        return false;
    give_all(old);
    client_again_over(old);
    client_stream_detach(old);
    client_socket_free(old);
    return true;
}

struct usher_socket *client_stream_begun(struct usher_context *ctx, struct client_set *s, bool v6, uint32_t handle,
                                         const struct ush_cqe *e) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    if (index >= ctx->table_size || index < ctx->h.socket_max + ctx->h.client_socket_max ||
        !index_is_free(ctx, s, index))
        return NULL;
    struct usher_socket *sock = client_socket_new(true);
    if (!sock)
        return NULL;
    sock->ctx = ctx;
    sock->v6 = v6;
    client_socket_link(ctx, sock);
    attach(sock, s, handle, e->event.extra < INT32_MAX ? e->event.extra : INT32_MAX);
    struct client_stream *st = sock->st;
    st->open = true;
    memcpy(st->peer, e->event.addr, 16);
    st->peer_port = e->event.port;
    memcpy(st->local, e->event.local, 16);
    return sock;
}

bool client_stream_accept(struct usher_socket *listener, struct client_set *s, const struct ush_cqe *e,
                          struct usher_event *ret_ev) {
    struct usher_socket *sock = client_stream_begun(listener->ctx, s, listener->v6, e->event.value, e);
    if (!sock)
        return false;
    struct client_stream *st = sock->st;
    st->local_port = listener->st->local_port;
    if (listener->st->option_count || listener->st->linger >= 0) {
        client_stream_options_inherit(st, listener->st);
        client_stream_options_late(sock);
    }
    *ret_ev = (struct usher_event){.type = USHER_EV_ACCEPT, .sock = listener, .msg = {.sock = sock}};
    client_stream_peer(sock, &ret_ev->msg);
    return true;
}

/* Nobody wants it. A full ring leaves it to the peer's patience and the session's end. */
void client_stream_refuse(struct usher_context *ctx, struct client_set *s, uint32_t handle) {
    struct ush_sqe *e = client_sq_slot(ctx, s);
    if (!e)
        return;
    e->op = USH_OP_CLOSE;
    e->flags = USH_CLOSE_ABORT;
    e->count = e->tos = 0;
    memset(&e->stream, 0, sizeof(e->stream));
    e->stream.handle = handle;
    client_sq_commit(s, e, TXBUF_NONE);
    s->kick_due = ctx->kick_due = true;
}

/* ---- sending ---- */

void client_stream_reap(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    struct client_stream *st = sock->st;
    if (!sock->set || st->listening)
        return;
    struct ush_socket *shared = &ctx->shared_sockets[USH_HANDLE_INDEX(sock->handle)];
    /* Pairs with the worker's release store: usherd reads those bytes no more. */
    uint32_t done = __atomic_load_n(&shared->tx_done, __ATOMIC_ACQUIRE);
    uint32_t limit = __atomic_load_n(&shared->tx_limit, __ATOMIC_RELAXED);
    if (done - sock->done > sock->sent - sock->done)
        return; /* of the socket that had this index before: ours has not begun yet */
    sock->done = done;
    if (limit && limit < INT32_MAX)
        sock->tx_limit = limit;
    for (; st->sent_head != st->sent_tail; st->sent_head++) {
        const struct client_sent *s = &st->sent[st->sent_head & (st->sent_room - 1)];
        if ((int32_t)(done - s->end) < 0)
            return;
        st->sent_from = s->end;
        txbuf_give(&ctx->txbuf, s->off);
        ctx->tx_freed = true;
    }
}

bool client_stream_reap_all(struct usher_context *ctx) {
    for (struct usher_socket *s = ctx->sockets; s; s = s->next)
        if (s->st && s->st->sent_head != s->st->sent_tail)
            client_stream_reap(s);
    return ctx->tx_freed;
}

static bool sent_grow(struct client_stream *st) {
    uint32_t n = st->sent_tail - st->sent_head;
    if (n < st->sent_room)
        return true;
    struct client_sent *p = calloc(st->sent_room * 2, sizeof(*p));
    if (!p)
        return false;
    for (uint32_t i = 0; i < n; i++)
        p[i] = st->sent[(st->sent_head + i) & (st->sent_room - 1)];
    if (st->sent != st->first)
        free(st->sent);
    st->sent = p;
    st->sent_room *= 2;
    st->sent_head = 0;
    st->sent_tail = n;
    return true;
}

static int can_send(const struct usher_socket *sock) {
    const struct client_stream *st = sock->st;
    if (LIKELY((st->open || (st->fastopen && st->connecting)) && !st->shut))
        return 0;
    if (st->connecting)
        return client_fail_fast(-ENOTCONN, "the stream is not connected yet: wait for USHER_EV_CONNECTED");
    if (st->shut || st->gone)
        return client_fail_fast(-EPIPE, "the stream is closed for sending");
    return client_fail_fast(-ENOTCONN, "the stream is not connected");
}

/* As long as half of the credit is there, which is when WRITABLE says so, a piece of any size goes: the limit follows
 * the path, and one that shrinks below the size of a program's pieces must not end the stream. */
static bool within_credit(const struct usher_socket *sock, uint32_t len) {
    int64_t in_flight = (int32_t)(sock->sent - sock->done);
    return in_flight + len <= sock->tx_limit || in_flight <= sock->tx_limit / 2;
}

static bool has_credit(struct usher_socket *sock, uint32_t len) {
    if (LIKELY(within_credit(sock, len) && sock->st->sent_tail - sock->st->sent_head < sock->st->sent_room))
        return true;
    client_stream_reap(sock);
    return within_credit(sock, len);
}

int client_stream_send(struct usher_socket *sock, const struct usher_msg *m, uint32_t off, bool more) {
    struct usher_context *ctx = sock->ctx;
    struct client_stream *st = sock->st;
    int err = can_send(sock);
    if (err)
        return err;
    if (!sock->set) {
        err = client_kstream_send(sock, m, ctx->tx + off);
        if (!err && txbuf_give(&ctx->txbuf, off))
            ctx->tx_freed = true;
        return err;
    }
    bool credit = !st->again && has_credit(sock, m->len);
    struct ush_sqe *e = credit ? client_sq_slot(ctx, sock->set) : NULL;
    if (UNLIKELY(!e)) {
        client_block_socket(sock);
        return client_fail_fast(-EAGAIN, credit ? "the submission ring is full: wait for USHER_EV_WRITABLE"
                                                : "the stream is out of send credit: wait for USHER_EV_WRITABLE");
    }
    if (UNLIKELY(!sent_grow(st)))
        return client_fail(-ENOMEM, "no memory to remember a sent buffer");
    sock->sent += m->len;
    st->sent[st->sent_tail++ & (st->sent_room - 1)] = (struct client_sent){off, sock->sent};
    e->op = USH_OP_SEND;
    e->flags = (uint8_t)((more ? USH_SEND_MORE : 0) | (m->flags & USHER_URGENT ? USH_SEND_URGENT : 0));
    e->count = e->tos = 0;
    e->send.handle = sock->handle;
    e->send.off = off;
    e->send.len = m->len;
    e->send.gso_size = e->send.port = 0;
    e->send.user_data = m->user_data;
    client_sq_commit(sock->set, e, TXBUF_NONE);
    sock->set->kick_due = ctx->kick_due = true;
    return 0;
}

static int shut_sending(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    if (!sock->set)
        return client_kstream_tail(sock) && shutdown(sock->fd, SHUT_WR) == 0 ? 0 : -EAGAIN;
    if (!st->shut && !st->again && !client_stream_op(sock, USH_OP_SHUTDOWN, 0))
        return client_fail_fast(-EAGAIN, "the submission ring is full: poll, then try again");
    st->shut = true;
    return 0;
}

int usher_shutdown(struct usher_socket *sock, int how) {
    struct usher_context *ctx = sock->ctx;
    int err = client_enter(ctx);
    if (err)
        return err;
    struct client_stream *st = sock->st;
    if (!st || !st->open)
        err = client_fail(-ENOTCONN, "shutdown: this is no connected stream");
    else if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
        err = client_fail(-EINVAL, "shutdown: %d is none of SHUT_RD, SHUT_WR, SHUT_RDWR", how);
    else if (how != SHUT_RD)
        err = shut_sending(sock);
    if (!err && how != SHUT_WR) {
        st->deaf = true; /* the peer is told nothing, as the kernel does it: what it sends is still taken */
        client_waiters_wake(ctx);
    }
    client_kick(ctx);
    client_leave(ctx);
    return err;
}

void client_stream_linger(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    struct usher_event ev;
    struct client_wait w;
    int err = 0;
    client_wait_begin(&w, sock, sock->st->linger * INT64_C(1000000000));
    for (;;) {
        while (client_take_fresh(ctx, &ev, 1, w.look) == 1)
            client_park(ctx, &ev);
        client_stream_reap(sock);
        if (!sock->set || sock->st->gone || sock->sent == sock->done || err)
            break;
        err = client_wait_block(ctx, &w);
    }
    client_wait_end(ctx, &w, !err);
}

ssize_t usher_send_stream(struct usher_socket *sock, const void *data, size_t len) {
    size_t done = 0;
    int n = 1;
    while (done < len && n == 1) {
        uint32_t part = len - done < TXBUF_SLAB / 4 ? (uint32_t)(len - done) : TXBUF_SLAB / 4;
        struct usher_msg m = {.sock = sock, .len = part};
        n = usher_tx_alloc(sock->ctx, part, &m.buf);
        if (n)
            break;
        memcpy(m.buf.data, (const uint8_t *)data + done, part);
        m.flags = done + part < len ? USHER_MORE : 0;
        n = usher_send(sock->ctx, &m, 1);
        if (n == 1)
            done += part;
        else
            usher_tx_free(sock->ctx, &m.buf);
    }
    return done ? (ssize_t)done : n < 0 ? n : 0;
}
