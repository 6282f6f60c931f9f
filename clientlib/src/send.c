/* SPDX-License-Identifier: Apache-2.0
 *
 * Sending. Any thread, under the context's lock. An accelerated send writes one line of the ring and no payload byte.
 */
#include "clientlib/src/internal.h"

/* Low byte of a TX buffer's cookie; the rest is the block's offset, a multiple of 256. */
#define TX_COOKIE 0xa5u

int usher_tx_alloc(struct usher_context *ctx, uint32_t size, struct usher_buf *ret_buf) {
    if (size > CLIENT_DATAGRAM_MAX)
        return client_fail(-EMSGSIZE, "a buffer of %u bytes: at most %u fit a datagram", size, CLIENT_DATAGRAM_MAX);
    int err = client_enter(ctx);
    if (err)
        return err;
    uint32_t room, off = txbuf_take(&ctx->txbuf, size, &room);
    if (UNLIKELY(off == TXBUF_NONE)) {
        client_tx_available(ctx);
        off = txbuf_take(&ctx->txbuf, size, &room);
    }
    if (UNLIKELY(off == TXBUF_NONE)) {
        ctx->tx_wanted = true;
        ctx->tx_freed = false;
        client_leave(ctx);
        return client_fail_fast(-ENOBUFS, "all of the TX region is lent or in flight: wait for USHER_EV_TX_FREE, or "
                                          "open the context with more tx_bytes");
    }
    *ret_buf = (struct usher_buf){ctx->tx + off, room, off | TX_COOKIE};
    client_leave(ctx);
    return 0;
}

static void give_buf(struct usher_context *ctx, struct usher_buf *buf) {
    if (buf->data && (buf->cookie & 0xff) == TX_COOKIE && txbuf_give(&ctx->txbuf, buf->cookie & ~0xffu))
        ctx->tx_freed = true;
    *buf = (struct usher_buf){0};
}

void usher_tx_free(struct usher_context *ctx, struct usher_buf *buf) {
    if (client_enter(ctx))
        return;
    give_buf(ctx, buf);
    client_leave(ctx);
}

/* Offset in the TX region of the bytes to send; they may start anywhere in the block. */
static int check_buffer(const struct usher_context *ctx, const struct usher_msg *m, uint32_t *ret_off) {
    uint32_t start, room;
    if (UNLIKELY((m->buf.cookie & 0xff) != TX_COOKIE ||
                 !txbuf_block(&ctx->txbuf, m->buf.cookie & ~0xffu, &start, &room)))
        return client_fail_fast(-EINVAL, "the message's buffer is not one of usher_tx_alloc(), or was sent already");
    uint64_t off = (uint64_t)((const uint8_t *)m->buf.data - ctx->tx);
    if (UNLIKELY(off < start || off > start + room || m->len > start + room - off))
        return client_fail_fast(-EINVAL, "the message is longer than its buffer");
    *ret_off = (uint32_t)off;
    return 0;
}

static int check_message(const struct usher_socket *sock, const struct usher_msg *m) {
    if (UNLIKELY(sock->frames))
        return client_frames_check(sock, m);
    if (UNLIKELY(m->len > CLIENT_DATAGRAM_MAX))
        return client_fail_fast(-EMSGSIZE, "longer than a datagram can be");
    if (UNLIKELY(m->gso_size && (m->len + m->gso_size - 1) / m->gso_size > 64))
        return client_fail_fast(-EINVAL, "gso_size would make more than 64 datagrams of this message");
    if (m->family == 0)
        return LIKELY(sock->connected) ? 0
                                       : client_fail_fast(-EDESTADDRREQ, "the socket is not connected and the "
                                                                         "message names no peer");
    if (UNLIKELY(m->family != AF_INET && !(m->family == AF_INET6 && sock->v6)))
        return client_fail_fast(-EAFNOSUPPORT, "the message's address is of another family than the socket");
    return LIKELY(m->peer_port) ? 0 : client_fail_fast(-EINVAL, "the message's peer has no port");
}

/* A message larger than the whole credit goes when nothing else is in flight: else it could never go. */
static bool has_credit(struct usher_socket *sock, uint32_t len) {
    uint32_t limit = sock->tx_limit;
    int64_t in_flight = (int32_t)(sock->sent - sock->done);
    if (LIKELY(in_flight + len <= limit))
        return true;
    sock->done = __atomic_load_n(&sock->ctx->shared_sockets[sock->handle].tx_done, __ATOMIC_RELAXED);
    in_flight = (int32_t)(sock->sent - sock->done);
    return in_flight + len <= limit || in_flight <= 0;
}

static void fill_addresses(struct ush_sqe *e, const struct usher_socket *sock, const struct usher_msg *m) {
    static const uint8_t none[16];
    client_addr_map(m->family, m->peer, e->send.addr);
    e->send.port = m->peer_port;
    e->flags |= USH_SEND_TO;
    if (sock->wildcard && memcmp(m->local, none, 16) != 0) {
        client_addr_map(sock->v6 ? AF_INET6 : AF_INET, m->local, e->send.from);
        e->flags |= USH_SEND_FROM;
    }
}

static int submit(struct usher_socket *sock, const struct usher_msg *m, uint32_t off, bool more) {
    struct usher_context *ctx = sock->ctx;
    struct client_set *s = sock->set;
    if (UNLIKELY(!has_credit(sock, m->len))) {
        client_block_socket(sock);
        return client_fail_fast(-EAGAIN, "the socket is out of send credit: wait for USHER_EV_WRITABLE");
    }
    struct ush_sqe *e = client_sq_slot(ctx, s);
    if (UNLIKELY(!e)) {
        client_block_socket(sock);
        return client_fail_fast(-EAGAIN, "the submission ring is full: wait for USHER_EV_WRITABLE");
    }
    e->op = USH_OP_SEND;
    e->flags = more ? USH_SEND_MORE : 0;
    e->count = 0;
    e->tos = m->tos;
    e->send.handle = sock->handle;
    e->send.off = off;
    e->send.len = m->len;
    e->send.gso_size = m->gso_size;
    e->send.user_data = m->user_data;
    if (m->family)
        fill_addresses(e, sock, m);
    bool copied = m->len <= ctx->h.tx_copy_max;
    if (!copied)
        txbuf_lend(&ctx->txbuf, off);
    client_sq_commit(s, e, copied ? off : TXBUF_NONE);
    s->kick_due = ctx->kick_due = true;
    sock->sent += m->len;
    if (UNLIKELY(s->sq_pos % 32 == 0))
        client_sq_reap(ctx, s);
    return 0;
}

/* Is the next one at once behind it? Of a stream only that counts which is its own: its transport holds a small segment
 * back for what is announced. */
static bool more_follows(const struct usher_msg *msgs, uint32_t i, uint32_t n) {
    if (msgs[i].flags & USHER_MORE)
        return true;
    const struct usher_socket *sock = msgs[i].sock;
    return i + 1 < n && (!sock || !sock->st || msgs[i + 1].sock == sock);
}

static int send_one(struct usher_context *ctx, struct usher_msg *m, bool more) {
    struct usher_socket *sock = m->sock;
    uint32_t off = 0;
    if (UNLIKELY(!sock || sock->ctx != ctx))
        return client_fail_fast(-EINVAL, "the message names no socket of this context");
    int err = check_buffer(ctx, m, &off);
    if (!err && !sock->st)
        err = check_message(sock, m);
    if (UNLIKELY(!err && sock->error)) {
        err = client_fail(-sock->error, "an earlier send on this socket failed: %s", strerror(sock->error));
        sock->error = 0;
    }
    if (UNLIKELY(err))
        return err;
    if (sock->st) {
        err = client_stream_send(sock, m, off, more);
    } else if (LIKELY(sock->set && !client_peer_is_by_kernel(sock, m))) {
        err = submit(sock, m, off, more);
    } else {
        err = client_kernel_send(sock, m, ctx->tx + off);
        if (!err && txbuf_give(&ctx->txbuf, off))
            ctx->tx_freed = true;
    }
    if (LIKELY(!err))
        m->buf = (struct usher_buf){0};
    return err;
}

/* Sockets nobody has bound yet get a port first; that is an exchange with usherd, so it happens without the lock. */
static int bind_unbound(struct usher_context *ctx, const struct usher_msg *msgs, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct usher_socket *sock = msgs[i].sock;
        if (LIKELY(!sock || sock->ctx != ctx || sock->bound || sock->st))
            continue;
        client_leave(ctx);
        int err = client_socket_autobind(sock);
        client_relock(ctx);
        if (err)
            return i ? (int)i : err;
    }
    return (int)n;
}

int usher_send(struct usher_context *ctx, struct usher_msg *msgs, uint32_t n) {
    int err = client_enter(ctx);
    if (err)
        return err;
    uint32_t i = 0;
    err = bind_unbound(ctx, msgs, n);
    uint32_t ready = err > 0 ? (uint32_t)err : 0;
    bool hold = false;
    for (uint32_t set = 0; set < ctx->set_count; set++)
        client_bounce_scan(ctx, ctx->sets[set]); /* a program that only sends never polls */
    for (; i < ready; i++) {
        hold = msgs[i].flags & USHER_MORE;
        err = send_one(ctx, &msgs[i], more_follows(msgs, i, ready));
        if (UNLIKELY(err))
            break;
    }
    if (LIKELY(!hold || err < 0))
        client_kick(ctx);
    client_leave(ctx);
    return i ? (int)i : err < 0 ? err : 0;
}

ssize_t usher_sendto(struct usher_socket *sock, const void *data, size_t len, const struct sockaddr *addr,
                     socklen_t addr_len) {
    struct usher_context *ctx = sock->ctx;
    struct usher_msg m = {.sock = sock};
    if (sock->st)
        return client_fail_fast(-EOPNOTSUPP, "a stream is sent to by usher_send_stream()");
    if (len > CLIENT_DATAGRAM_MAX)
        return client_fail_fast(-EMSGSIZE, "longer than a datagram can be");
    int err = addr ? client_addr_from(addr, addr_len, &m) : 0;
    if (err)
        return client_fail_fast(err, "the destination is no IPv4 or IPv6 address");
    err = usher_tx_alloc(ctx, (uint32_t)len, &m.buf);
    if (err)
        return err;
    if (len)
        memcpy(m.buf.data, data, len);
    m.len = (uint32_t)len;
    err = usher_send(ctx, &m, 1);
    if (err == 1)
        return (ssize_t)len;
    usher_tx_free(ctx, &m.buf);
    return err;
}
