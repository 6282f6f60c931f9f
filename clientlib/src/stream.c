/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that usherd carries. Connecting, accepting, closing are entries of the rings: no system call, unless the
 * worker sleeps. A sent buffer stays usherd's until its bytes are acknowledged; a stream keeps what it has sent in
 * order and takes buffers home from the counter in the shared table. All but the public calls under the context's lock.
 *
 * A handle's index is free for the next connection when CLOSED has come and CLOSE has gone; until then a closed socket
 * lives on, unseen by the program (`left`).
 */
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clientlib/src/internal.h"

#define SENT_FIRST 16u

/* ---- coming and going ---- */

int client_stream_new(struct usher_socket *sock) {
    sock->st = calloc(1, sizeof(*sock->st));
    if (sock->st)
        sock->st->sent = calloc(SENT_FIRST, sizeof(*sock->st->sent));
    if (!sock->st || !sock->st->sent)
        return client_fail(-ENOMEM, "no memory for a stream");
    sock->st->sent_room = SENT_FIRST;
    return 0;
}

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
    free(sock->st->tail);
    free(sock->st->sent);
    free(sock->st);
    sock->st = NULL;
}

static void attach(struct usher_socket *sock, struct client_set *set, uint32_t handle, uint32_t tx_limit) {
    struct usher_context *ctx = sock->ctx;
    sock->handle = handle;
    sock->set = sock->home = set;
    sock->known = true;
    sock->sent = sock->done = 0;
    sock->tx_limit = tx_limit;
    ctx->by_handle[USH_HANDLE_INDEX(handle)] = sock;
    ctx->accelerated++;
    client_socket_reason(sock, "");
}

/* Nobody names the handle any more. */
static void detach(struct usher_socket *sock) {
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

static bool say_close(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    bool said =
        client_stream_op(sock, USH_OP_CLOSE, (st->abort ? USH_CLOSE_ABORT : 0) | (st->unread ? USH_CLOSE_UNREAD : 0));
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
    bool said = say_close(sock);
    if (said && sock->st->gone) {
        detach(sock);
        return true;
    }
    return false;
}

void client_stream_closes(struct usher_context *ctx) {
    for (struct usher_socket *s = ctx->sockets, *next; s; s = next) {
        next = s->next;
        if (s->st && s->st->close_due && s->set && say_close(s) && s->st->gone) {
            detach(s);
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
    st->gone = true;
    st->open = st->connecting = false;
    sock->error = sock->st->left ? 0 : ENETDOWN;
}

/* ---- connecting ---- */

static void send_wishes(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    for (uint32_t i = 0; i < st->wish_count; i++) {
        struct ush_sqe *e = client_sq_slot(sock->ctx, sock->set);
        if (!e)
            return; /* they are hints: a stream without them works */
        e->op = USH_OP_OPTION;
        e->flags = e->count = e->tos = 0;
        e->stream.handle = sock->handle;
        e->stream.option = st->wish[i].option;
        e->stream.value = st->wish[i].value;
        memcpy(e->stream.name, st->wish[i].name, sizeof(e->stream.name));
        client_sq_commit(sock->set, e, TXBUF_NONE);
    }
}

static int submit_connect(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    struct client_stream *st = sock->st;
    struct ush_sqe *e = client_sq_slot(ctx, ctx->stream_set);
    if (!e)
        return client_fail_fast(-EAGAIN, "the submission ring is full: poll, then try again");
    uint32_t index = ctx->stream_free[--ctx->stream_free_count];
    attach(sock, ctx->stream_set, USH_HANDLE(index, ++ctx->stream_generation[index - ctx->h.socket_max]), 0);
    sock->tx_limit = 64u << 10;
    e->op = USH_OP_CONNECT;
    e->flags = e->count = e->tos = 0;
    memset(&e->connect, 0, sizeof(e->connect));
    e->connect.handle = sock->handle;
    e->connect.port = st->peer_port;
    memcpy(e->connect.addr, st->peer, 16);
    client_sq_commit(sock->set, e, TXBUF_NONE);
    sock->set->kick_due = ctx->kick_due = true;
    st->connecting = true;
    send_wishes(sock);
    return 0;
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

int client_stream_connect(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len) {
    struct usher_context *ctx = sock->ctx;
    struct client_stream *st = sock->st;
    struct usher_msg m = {0};
    if (client_addr_from(addr, len, &m) || (m.family == AF_INET6 && !sock->v6) || !m.peer_port)
        return client_fail(-EAFNOSUPPORT, "connect: no address that this socket could reach");
    if (st->connecting || st->open || st->listening || st->gone)
        return client_fail(-EISCONN, "connect: the stream is connecting, connected or listening already");
    int err = find_set(ctx);
    if (err)
        return err;
    client_relock(ctx);
    client_addr_map(m.family, m.peer, st->peer);
    st->peer_port = m.peer_port;
    bool carry = ctx->stream_set && !ctx->down && !sock->bound && !m.scope && ctx->stream_free_count > 0;
    err = carry ? submit_connect(sock) : client_kstream_connect(sock);
    if (!carry && !err)
        client_socket_reason(sock, sock->bound          ? "bound before connect"
                                   : ctx->stream_why[0] ? ctx->stream_why
                                                        : "no stream handle was free");
    client_kick(ctx);
    client_leave(ctx);
    return err;
}

/* ---- events ---- */

static void fill_peer(const struct usher_socket *sock, struct usher_msg *m) {
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
    memcpy(st->local, e->event.addr, 16);
    st->local_port = e->event.port;
    sock->tx_limit = e->event.extra && e->event.extra < INT32_MAX ? e->event.extra : sock->tx_limit;
    st->connecting = false;
    st->open = true;
    ret_ev->type = USHER_EV_CONNECTED;
    fill_peer(sock, &ret_ev->msg);
    return true;
}

static bool on_hangup(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    (void)e;
    ret_ev->type = USHER_EV_HANGUP;
    bool first = !sock->st->eof;
    sock->st->eof = true;
    return first;
}

/* usherd has no way there: the kernel may have one. The program sees one connect. */
static bool on_error(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    struct client_stream *st = sock->st;
    bool retry = e->event.extra == 1 && st->connecting && !st->left;
    if (retry)
        st->quiet = true;
    st->open = false;
    st->connecting = retry;
    ret_ev->type = USHER_EV_ERROR;
    ret_ev->error = (int)(e->event.value & 0xfff);
    return !retry;
}

static bool retry_by_kernel(struct usher_socket *sock, struct usher_event *ret_ev) {
    sock->st->quiet = false;
    client_stream_op(sock, USH_OP_CLOSE, 0);
    detach(sock);
    client_socket_reason(sock, "usherd has no route to that address; the kernel's socket carries the stream");
    int err = client_kstream_connect(sock);
    ret_ev->type = USHER_EV_ERROR;
    ret_ev->error = -err;
    return err != 0;
}

static bool on_closed(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    struct client_stream *st = sock->st;
    (void)e;
    give_all(sock);
    if (st->quiet)
        return retry_by_kernel(sock, ret_ev);
    st->gone = true;
    st->open = st->connecting = false;
    if (st->left && !st->close_due) {
        detach(sock);
        client_socket_free(sock);
        return false;
    }
    ret_ev->type = USHER_EV_HANGUP; /* nobody waits for ever: also when an error came before */
    bool told = st->eof || st->left;
    st->eof = true;
    return !told;
}

static bool on_writable(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    (void)e;
    (void)ret_ev;
    client_stream_reap(sock);
    return false;
}

bool client_stream_event(struct usher_socket *sock, const struct ush_cqe *e, struct usher_event *ret_ev) {
    static bool (*const on[])(struct usher_socket *, const struct ush_cqe *, struct usher_event *) = {
        [USH_EVENT_ERROR] = on_error,   [USH_EVENT_WRITABLE] = on_writable, [USH_EVENT_CONNECTED] = on_connected,
        [USH_EVENT_HANGUP] = on_hangup, [USH_EVENT_CLOSED] = on_closed,
    };
    if (e->flags >= sizeof(on) / sizeof(on[0]) || !on[e->flags])
        return false;
    bool left = sock->st->left; /* on_closed() may free it */
    memset(ret_ev, 0, sizeof(*ret_ev));
    ret_ev->sock = ret_ev->msg.sock = sock;
    return on[e->flags](sock, e, ret_ev) && !left;
}

/* ---- accepting ---- */

bool client_stream_accept(struct usher_socket *listener, const struct ush_cqe *e, struct usher_event *ret_ev) {
    struct usher_context *ctx = listener->ctx;
    uint32_t handle = e->event.value, index = USH_HANDLE_INDEX(handle);
    if (index >= ctx->table_size || index < ctx->h.socket_max + ctx->h.client_socket_max || ctx->by_handle[index])
        return false;
    struct usher_socket *sock = calloc(1, sizeof(*sock));
    if (!sock)
        return false;
    sock->ctx = ctx;
    sock->fd = -1;
    sock->v6 = listener->v6;
    if (client_stream_new(sock)) {
        client_stream_free(sock);
        free(sock);
        return false;
    }
    client_socket_link(ctx, sock);
    attach(sock, listener->set, handle, e->event.extra < INT32_MAX ? e->event.extra : INT32_MAX);
    struct client_stream *st = sock->st;
    st->open = true;
    memcpy(st->peer, e->event.addr, 16);
    st->peer_port = e->event.port;
    st->local_port = listener->st->local_port;
    memcpy(st->local, listener->st->local, 16);
    *ret_ev = (struct usher_event){.type = USHER_EV_ACCEPT, .sock = listener, .msg = {.sock = sock}};
    fill_peer(sock, &ret_ev->msg);
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
    free(st->sent);
    st->sent = p;
    st->sent_room *= 2;
    st->sent_head = 0;
    st->sent_tail = n;
    return true;
}

static int can_send(const struct usher_socket *sock) {
    const struct client_stream *st = sock->st;
    if (LIKELY(st->open && !st->shut))
        return 0;
    if (st->connecting)
        return client_fail_fast(-ENOTCONN, "the stream is not connected yet: wait for USHER_EV_CONNECTED");
    if (st->shut || st->gone)
        return client_fail_fast(-EPIPE, "the stream is closed for sending");
    return client_fail_fast(-ENOTCONN, "the stream is not connected");
}

static bool has_credit(struct usher_socket *sock, uint32_t len) {
    int64_t in_flight = (int32_t)(sock->sent - sock->done);
    if (LIKELY(in_flight + len <= sock->tx_limit && sock->st->sent_tail - sock->st->sent_head < sock->st->sent_room))
        return true;
    client_stream_reap(sock);
    in_flight = (int32_t)(sock->sent - sock->done);
    return in_flight + len <= sock->tx_limit || in_flight <= 0;
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
    bool credit = has_credit(sock, m->len);
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
    e->flags = more ? USH_SEND_MORE : 0;
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

int usher_shutdown(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    int err = client_enter(ctx);
    if (err)
        return err;
    struct client_stream *st = sock->st;
    if (!st || !st->open)
        err = client_fail(-ENOTCONN, "shutdown: this is no connected stream");
    else if (!sock->set)
        err = client_kstream_tail(sock) && shutdown(sock->fd, SHUT_WR) == 0 ? 0 : -EAGAIN;
    else if (!st->shut && !client_stream_op(sock, USH_OP_SHUTDOWN, 0))
        err = client_fail_fast(-EAGAIN, "the submission ring is full: poll, then try again");
    if (!err)
        st->shut = true;
    client_kick(ctx);
    client_leave(ctx);
    return err;
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

/* ---- options ---- */

static const struct {
    int level, name;
    uint32_t option;
} rows[] = {
    {IPPROTO_TCP, TCP_NODELAY, USH_STREAM_NODELAY},
    {IPPROTO_TCP, TCP_CORK, USH_STREAM_CORK},
    {IPPROTO_TCP, TCP_QUICKACK, USH_STREAM_QUICKACK},
    {SOL_SOCKET, SO_KEEPALIVE, USH_STREAM_KEEPALIVE},
    {IPPROTO_TCP, TCP_KEEPIDLE, USH_STREAM_KEEP_IDLE},
    {IPPROTO_TCP, TCP_KEEPINTVL, USH_STREAM_KEEP_INTERVAL},
    {IPPROTO_TCP, TCP_KEEPCNT, USH_STREAM_KEEP_COUNT},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, USH_STREAM_USER_TIMEOUT},
    {IPPROTO_TCP, TCP_CONGESTION, USH_STREAM_CONGESTION},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, USH_STREAM_NOTSENT_LOWAT},
    {SOL_SOCKET, SO_RCVBUF, USH_STREAM_RCVBUF},
    {SOL_SOCKET, SO_SNDBUF, USH_STREAM_SNDBUF},
    {IPPROTO_IP, IP_TOS, USH_STREAM_TOS},
    {IPPROTO_IP, IP_TTL, USH_STREAM_TTL},
};

static int send_option(struct usher_socket *sock, const struct client_wish *w) {
    struct ush_sqe *e = client_sq_slot(sock->ctx, sock->set);
    if (!e)
        return client_fail_fast(-EAGAIN, "the submission ring is full: poll, then try again");
    e->op = USH_OP_OPTION;
    e->flags = e->count = e->tos = 0;
    e->stream.handle = sock->handle;
    e->stream.option = w->option;
    e->stream.value = w->value;
    memcpy(e->stream.name, w->name, sizeof(e->stream.name));
    client_sq_commit(sock->set, e, TXBUF_NONE);
    sock->set->kick_due = sock->ctx->kick_due = true;
    return 0;
}

static int remember(struct client_stream *st, const struct client_wish *w) {
    for (uint32_t i = 0; i < st->wish_count; i++)
        if (st->wish[i].option == w->option) {
            st->wish[i] = *w;
            return 0;
        }
    if (st->wish_count == CLIENT_WISHES)
        return client_fail(-ENOBUFS, "more options than a stream keeps before it is connected");
    st->wish[st->wish_count++] = *w;
    return 0;
}

static int set_linger(struct usher_socket *sock, const void *value, socklen_t len) {
    struct linger l;
    if (len < sizeof(l))
        return client_fail(-EINVAL, "SO_LINGER takes a struct linger");
    memcpy(&l, value, sizeof(l));
    sock->st->abort = l.l_onoff && l.l_linger == 0;
    return 0;
}

int client_stream_setsockopt(struct usher_socket *sock, int level, int name, const void *value, socklen_t len) {
    struct client_wish w = {0};
    if (level == SOL_SOCKET && name == SO_LINGER)
        return set_linger(sock, value, len);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].level == level && rows[i].name == name)
            w.option = rows[i].option;
    if (w.option == USH_STREAM_CONGESTION) {
        memcpy(w.name, value, len < sizeof(w.name) - 1 ? len : sizeof(w.name) - 1);
    } else if (len >= sizeof(int)) {
        int v;
        memcpy(&v, value, sizeof(v));
        w.value = v;
    } else if (w.option) {
        return client_fail(-EINVAL, "this option takes an int");
    }
    if (sock->fd >= 0 && setsockopt(sock->fd, level, name, value, len) < 0)
        return client_fail(-errno, "setting socket option %d of level %d: %s", name, level, strerror(errno));
    if (!w.option)
        return sock->fd >= 0 ? 0
                             : client_fail(-ENOPROTOOPT, "option %d of level %d is none of a stream's", name, level);
    return sock->set && !sock->st->listening ? send_option(sock, &w) : remember(sock->st, &w);
}
