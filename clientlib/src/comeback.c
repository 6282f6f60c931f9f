/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd has died, or has given way to another, without a farewell: its connections stand still until we are back.
 * Until a successor answers at the old path nothing can be sent, and nothing is told to the program. Then the same
 * memory serves on: the rings go on where we say, cells that we hold stay ours, sockets are opened again, and each
 * stream is resumed where both sides find that it stood. When nobody comes in time, the sockets go on over the
 * kernel.
 *
 * Locks as everywhere: rpc_lock first. Whoever has it alone talks to the successor.
 */
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clientlib/src/internal.h"

#define TRY_NS     INT64_C(10000000)
#define STREAMS_NS INT64_C(2000000000)
#define NEVER_IN   "its successor did not come in time"

static bool rpc_try(struct usher_context *ctx) {
    return client_is_single(ctx) || client_lock_try(&ctx->rpc_lock);
}

/* ---- going ---- */

void client_lost(struct usher_context *ctx, const char *why) {
    if (ctx->down || ctx->away)
        return;
    if (ctx->comeback_ms == 0 || ctx->farewell || ctx->confined) {
        client_go_down(ctx, why);
        return;
    }
    __atomic_store_n(&ctx->away, true, __ATOMIC_RELAXED);
    ctx->away_next = client_now();
    ctx->away_until = ctx->away_next + (int64_t)ctx->comeback_ms * 1000000;
    client_close_fd(&ctx->session_fd); /* closed fds leave the epoll set by themselves */
    client_close_fd(&ctx->wake_fd);
    client_reclaim(ctx);
    client_waiters_wake(ctx);
}

/* What is readable now is the farewell, or the end. With rpc_lock: between two exchanges. */
static void session_hear(struct usher_context *ctx) {
    char word[64];
    ssize_t n = ctx->session_fd >= 0 ? recv(ctx->session_fd, word, sizeof(word), MSG_DONTWAIT) : -1;
    ctx->farewell |= n > 0;
    if (n >= 0 || (errno != EAGAIN && errno != EINTR && ctx->session_fd >= 0))
        client_lost(ctx, "it closed the session");
}

void client_session_news(struct usher_context *ctx) {
    if (!rpc_try(ctx))
        return; /* whoever waits for an answer finds out */
    session_hear(ctx);
    if (!client_is_single(ctx))
        client_lock_give(&ctx->rpc_lock);
}

/* ---- what we tell ---- */

/* All completions are taken, so that it is known what has come. */
static void drain(struct usher_context *ctx) {
    struct usher_event ev;
    while (client_take_rings(ctx, &ev, 1) == 1)
        client_park(ctx, &ev);
}

static bool put(int fd, const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const uint8_t *)data + done, size - done);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

/* Under the lock. The fd, or -1. */
static int file_make(struct usher_context *ctx) {
    struct ush_comeback c = {.magic = USH_COMEBACK_MAGIC, .set_count = ctx->set_count};
    for (uint32_t i = 0; i < ctx->set_count; i++) {
        struct client_set *s = ctx->sets[i];
        c.set[i].set = s->index;
        c.set[i].sq_pos = s->sq_pos;
        c.set[i].cq_pos = s->cq_pos;
        s->release_count = 0; /* those are not held any more, which says the same */
        s->release_bytes = 0;
    }
    int fd = memfd_create("usher-comeback", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    bool good = fd >= 0 && put(fd, &c, sizeof(c));
    for (uint32_t i = 0; i < ctx->set_count && good; i++)
        good = put(fd, ctx->sets[i]->held, client_held_words(ctx) * sizeof(uint64_t));
    if (!good)
        client_close_fd(&fd);
    return fd;
}

/* ---- what is heard ---- */

static bool is_opened(const struct usher_socket *sock) {
    return !sock->st || sock->st->listening;
}

/* Its handle is nobody's until it is opened again. */
static void forget(struct usher_socket *sock) {
    if (sock->known)
        sock->ctx->by_handle[USH_HANDLE_INDEX(sock->handle)] = NULL;
    sock->known = false;
    sock->reopen_due = true; /* also when the successor dies before it is asked */
    client_socket_to_kernel(sock, "usherd's successor has not been asked yet");
}

static void note_due(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    if (!sock->set || !sock->known || st->gone)
        return;
    if (st->parking) { /* it is nobody's, or already another's */
        client_stream_down(sock);
        return;
    }
    sock->ctx->agains += st->again == AGAIN_NOT;
    st->again = st->connecting && !st->open ? AGAIN_CONNECT : AGAIN_RESUME;
    if (st->close_due) { /* said with the rest */
        st->close_due = false;
        sock->ctx->closes_due--;
    }
}

/* Under the lock. The sockets to be opened, which stay while rpc_lock is held; *ret_count of them. */
static struct usher_socket **install(struct usher_context *ctx, struct client_answer *a, uint32_t *ret_count) {
    uint32_t n = 0, all = 0;
    for (struct usher_socket *s = ctx->sockets; s; s = s->next)
        all++;
    struct usher_socket **list = calloc(all + 1, sizeof(*list));
    ctx->life++;
    ctx->wake_fd = client_place_fd(a->fds[0]);
    for (uint32_t i = 0; i < ctx->set_count; i++) {
        struct client_set *s = ctx->sets[i];
        client_close_fd(&s->kick_fd);
        s->kick_fd = client_place_fd(a->fds[1 + i]);
        s->sq_reaped = s->sq_pos;
        s->cq_published = s->cq_pos;
    }
    a->fd_count = 0;
    ctx->session_id = a->session_id;
    ctx->comeback_ms = a->comeback_ms;
    memcpy(ctx->key, a->key, sizeof(ctx->key));
    memcpy(ctx->daemon_version, a->version, sizeof(ctx->daemon_version));
    (void)client_session_watch(ctx);
    for (struct usher_socket *s = ctx->sockets; s; s = s->next) {
        if (!is_opened(s)) {
            note_due(s);
        } else if (s->set || s->reopen_due) {
            forget(s);
            if (list)
                list[n++] = s;
        }
    }
    ctx->wake_taken = false;
    __atomic_store_n(&ctx->away, false, __ATOMIC_RELAXED);
    *ret_count = n;
    return list;
}

/* Streams go first: a listener that is open again gets connections under handles that a stream of before may have. */
static void streams_wait(struct usher_context *ctx) {
    const struct timespec nap = {.tv_nsec = 100000};
    int64_t end = client_now() + STREAMS_NS;
    bool due = true;
    while (due && client_now() < end) {
        client_relock(ctx);
        client_again(ctx);
        drain(ctx);
        session_hear(ctx); /* this usherd may be gone already */
        due = ctx->agains && !ctx->down && !ctx->away;
        client_leave(ctx);
        if (due)
            (void)nanosleep(&nap, NULL);
    }
}

static void reopen(struct usher_context *ctx, struct client_answer *a) {
    uint32_t n = 0;
    client_relock(ctx);
    struct usher_socket **list = install(ctx, a, &n);
    client_leave(ctx);
    streams_wait(ctx);
    for (uint32_t i = 0; i < n && !ctx->down && !ctx->away; i++)
        client_socket_reopen(list[i]);
    free(list);
    client_relock(ctx);
    client_waiters_wake(ctx);
    client_leave(ctx);
}

/* ---- trying: rpc_lock is held, the lock is not ---- */

static void give_up(struct usher_context *ctx, const char *why) {
    client_relock(ctx);
    client_go_down(ctx, why);
    client_leave(ctx);
}

static void attempt(struct usher_context *ctx) {
    struct client_answer a = {0};
    int fd = -1;
    ctx->away_next = client_now() + TRY_NS;
    if (client_session_connect(ctx, ctx->path, &fd)) {
        if (client_now() >= ctx->away_until)
            give_up(ctx, NEVER_IN);
        return;
    }
    client_relock(ctx);
    drain(ctx);
    int file = file_make(ctx);
    ctx->session_fd = fd;
    client_leave(ctx);
    ctx->returning = true;
    int err = file < 0 ? client_fail(-ENOMEM, "no memory to come back to usherd") : client_rpc_return(ctx, file, &a);
    ctx->returning = false;
    client_close_fd(&file);
    if (!err) {
        reopen(ctx, &a);
        return;
    }
    client_relock(ctx);
    client_close_fd(&ctx->session_fd);
    client_leave(ctx);
    if (err != -ENETDOWN || client_now() >= ctx->away_until) /* it has said no, or died once too often */
        give_up(ctx, usher_strerror());
}

void client_comeback_look(struct usher_context *ctx) {
    if (client_now() < ctx->away_next || !rpc_try(ctx))
        return;
    client_leave(ctx);
    if (ctx->away && !ctx->down)
        attempt(ctx);
    if (!client_is_single(ctx))
        client_lock_give(&ctx->rpc_lock);
    client_relock(ctx);
}

void client_comeback_wait(struct usher_context *ctx) {
    const struct timespec nap = {.tv_nsec = TRY_NS};
    while (__atomic_load_n(&ctx->away, __ATOMIC_RELAXED) && !ctx->returning) {
        attempt(ctx);
        if (__atomic_load_n(&ctx->away, __ATOMIC_RELAXED))
            (void)nanosleep(&nap, NULL);
    }
}

/* ---- streams ---- */

void client_again_over(struct usher_socket *sock) {
    if (sock->st->again != AGAIN_NOT)
        sock->ctx->agains--;
    sock->st->again = AGAIN_NOT;
}

static bool ask(struct usher_socket *sock) {
    const struct client_stream *st = sock->st;
    struct ush_sqe *e = client_sq_slot(sock->ctx, sock->set);
    if (!e)
        return false;
    e->op = USH_OP_RESUME;
    e->flags = e->count = e->tos = 0;
    e->resume.handle = sock->handle;
    e->resume.rx_bytes = st->rx_total;
    e->resume.local_port = st->local_port;
    e->resume.remote_port = st->peer_port;
    memcpy(e->resume.local, st->local, 16);
    memcpy(e->resume.remote, st->peer, 16);
    client_sq_commit(sock->set, e, TXBUF_NONE);
    sock->set->kick_due = sock->ctx->kick_due = true;
    return true;
}

bool client_again_event(struct usher_socket *sock, uint32_t taken) {
    struct client_stream *st = sock->st;
    if (st->again != AGAIN_WAIT)
        return false;
    st->again = AGAIN_SEND;
    st->again_at = taken;
    return false;
}

static bool send_part(struct usher_socket *sock, uint32_t off, uint32_t len) {
    struct ush_sqe *e = client_sq_slot(sock->ctx, sock->set);
    if (!e)
        return false;
    e->op = USH_OP_SEND;
    e->flags = e->count = e->tos = 0;
    e->send.handle = sock->handle;
    e->send.off = off;
    e->send.len = len;
    e->send.gso_size = e->send.port = 0;
    e->send.user_data = 0;
    client_sq_commit(sock->set, e, TXBUF_NONE);
    sock->set->kick_due = sock->ctx->kick_due = true;
    return true;
}

/* What lies behind again_at in the buffers that were sent, then the end. */
static bool send_rest(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    uint32_t from = st->sent_from;
    for (uint32_t i = st->sent_head; i != st->sent_tail; i++) {
        const struct client_sent *s = &st->sent[i & (st->sent_room - 1)];
        uint32_t len = s->end - from, skip = st->again_at - from;
        from = s->end;
        if ((int32_t)(s->end - st->again_at) <= 0)
            continue;
        if ((int32_t)skip < 0)
            skip = 0;
        if (!send_part(sock, s->off + skip, len - skip))
            return false;
        st->again_at = s->end;
    }
    if (st->shut && !st->left && !client_stream_op(sock, USH_OP_SHUTDOWN, 0))
        return false;
    client_again_over(sock);
    if (st->left)
        (void)client_stream_say_close(sock);
    return true;
}

/* False: the ring is full. */
static bool step(struct usher_socket *sock) {
    struct client_stream *st = sock->st;
    switch (st->again) {
    case AGAIN_CONNECT:
        client_again_over(sock);
        if (!client_stream_reconnect(sock)) {
            const struct usher_event ev = {.type = USHER_EV_ERROR, .error = ENETDOWN, .sock = sock};
            st->connecting = false;
            st->gone = st->eof = true;
            client_park(sock->ctx, &ev);
        }
        return true;
    case AGAIN_RESUME:
        if (!ask(sock))
            return false;
        st->again = AGAIN_WAIT;
        return true;
    case AGAIN_SEND:
        return send_rest(sock);
    default:
        return true;
    }
}

void client_again(struct usher_context *ctx) {
    for (struct usher_socket *s = ctx->sockets, *next; s && ctx->agains && !ctx->away && !ctx->down; s = next) {
        next = s->next;
        if (s->st && s->set && !step(s))
            break;
    }
    client_kick(ctx);
}
