/* SPDX-License-Identifier: Apache-2.0
 *
 * The exchanges of session.proto: one request, one answer, in order. The caller holds rpc_lock. A file descriptor may
 * travel each way. Whatever is wrong with an answer ends the session: after it nothing on the socket could be believed.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "clientlib/src/internal.h"
#include "clientlib/src/pb.h"

#define MESSAGE_MAX 4096
#define REQUEST_MAX 512
#define FDS_MAX     (2 + USH_SET_MAX)

/* Field numbers of session.proto; the test compares them with the generated descriptors. */
enum request_field {
    REQ_ID = 1,
    REQ_ATTACH = 2,
    REQ_OPEN = 3,
    REQ_UPDATE = 4,
    REQ_CLOSE = 5,
    REQ_SET_OPTION = 6,
    REQ_GROUP = 7,
    REQ_REFRESH_OWNER = 9,
    REQ_SHARE = 11,
};
enum response_field { RESP_ID = 1, RESP_ERROR = 2, RESP_TEXT = 3, RESP_ATTACH = 4, RESP_SOCKET = 5, RESP_RING = 6 };

static int lost(struct usher_context *ctx, int err, const char *why) {
    if (ctx->returning)
        return client_fail(-ENETDOWN, "usherd's successor is gone: %s", why);
    client_relock(ctx);
    if (err == -EAGAIN || err == -EPROTO)
        client_go_down(ctx, why); /* it is there and cannot be talked to */
    else
        client_lost(ctx, why);
    client_leave(ctx);
    return client_fail(-ENETDOWN, "usherd is gone: %s; sockets go on over the kernel", why);
}

static int send_request(struct usher_context *ctx, const struct pb_writer *w, uint8_t *buf, const int fds[2]) {
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    size_t fd_bytes = fds[0] < 0 ? 0 : fds[1] < 0 ? sizeof(int) : 2 * sizeof(int);
    struct iovec iov = {buf, (size_t)(w->at - buf)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_bytes) {
        m.msg_control = control.space;
        m.msg_controllen = CMSG_SPACE(fd_bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(fd_bytes)};
        memcpy(CMSG_DATA(c), fds, fd_bytes);
    }
    ssize_t n;
    do
        n = ctx->confined ? write(ctx->session_fd, buf, iov.iov_len) : sendmsg(ctx->session_fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *m, struct client_answer *a) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (a->fd_count < sizeof(a->fds) / sizeof(a->fds[0]))
                a->fds[a->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

static void drop_fds(struct client_answer *a) {
    while (a->fd_count)
        close(a->fds[--a->fd_count]);
}

static int parse_body(const struct pb_field *body, enum response_field kind, struct client_answer *a) {
    struct pb_reader r = {body->data, body->data + body->len};
    struct pb_field f;
    int rc;
    while ((rc = pb_next(&r, &f)) == 1) {
        if (kind == RESP_ATTACH && f.number == 1)
            a->abi = (uint32_t)f.value;
        else if (kind == RESP_ATTACH && f.number == 2)
            a->session_id = f.value;
        else if (kind == RESP_ATTACH && f.number == 3)
            pb_text(&f, a->version, sizeof(a->version));
        else if (kind == RESP_ATTACH && f.number == 4)
            a->comeback_ms = (uint32_t)f.value;
        else if (kind == RESP_ATTACH && f.number == 5 && f.len == sizeof(a->key))
            memcpy(a->key, f.data, f.len);
        else if (kind == RESP_RING && f.number == 1)
            a->index = (uint32_t)f.value;
        else if (kind == RESP_SOCKET && f.number == 4)
            pb_text(&f, a->reason, sizeof(a->reason));
        else if (kind == RESP_SOCKET && f.number == 3)
            a->accelerated = f.value != 0;
        else if (kind == RESP_SOCKET && f.number <= 11) {
            uint32_t *const to[] = {
                [1] = &a->handle, [2] = &a->set,    [5] = &a->rx_quota,    [6] = &a->tx_limit,  [7] = &a->others,
                [8] = &a->shut,   [9] = &a->unread, [10] = &a->local_port, [11] = &a->more_sets};
            *to[f.number] = (uint32_t)f.value;
        }
    }
    return rc;
}

static int parse_answer(const uint8_t *data, size_t len, uint32_t *ret_id, struct client_answer *a) {
    struct pb_reader r = {data, data + len};
    struct pb_field f;
    int rc;
    *ret_id = 0;
    while ((rc = pb_next(&r, &f)) == 1) {
        if (f.number == RESP_ID)
            *ret_id = (uint32_t)f.value;
        else if (f.number == RESP_ERROR)
            a->error = (int32_t)f.value;
        else if (f.number == RESP_TEXT)
            pb_text(&f, a->text, sizeof(a->text));
        else if (f.is_bytes && f.number >= RESP_ATTACH && f.number <= RESP_RING)
            rc = parse_body(&f, f.number, a);
        if (rc < 0)
            break;
    }
    return rc;
}

/* 0: an answer to anything is in *a. */
static int recv_answer(struct usher_context *ctx, uint32_t *ret_id, struct client_answer *a) {
    uint8_t buf[MESSAGE_MAX];
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(FDS_MAX * sizeof(int)) + 64];
    } control;
    struct iovec iov = {buf, sizeof(buf)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    memset(a, 0, sizeof(*a));
    ssize_t n;
    do
        n = ctx->confined ? read(ctx->session_fd, buf, sizeof(buf)) : recvmsg(ctx->session_fd, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (n == 0)
        return -ECONNRESET;
    if (ctx->confined)
        m.msg_controllen = 0;
    take_fds(&m, a);
    if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || parse_answer(buf, (size_t)n, ret_id, a)) {
        drop_fds(a);
        return -EPROTO;
    }
    return 0;
}

static const char *lost_text(int err) {
    switch (err) {
    case -EAGAIN:
        return "it did not answer within 5 s";
    case -EPROTO:
        return "its answer was malformed";
    default:
        return "it closed the session";
    }
}

/* One request whose body is field `kind`. */
static int exchange(struct usher_context *ctx, enum request_field kind, const struct pb_writer *body,
                    const uint8_t *body_start, const int fds[2], struct client_answer *a) {
    uint8_t buf[REQUEST_MAX];
    struct pb_writer w = {buf, buf + sizeof(buf), body->overflow};
    uint32_t id = ++ctx->rpc_id ? ctx->rpc_id : ++ctx->rpc_id, got = 0;
    pb_put_uint(&w, REQ_ID, id);
    pb_put_bytes(&w, kind, body_start, (size_t)(body->at - body_start));
    if (w.overflow)
        return client_fail(-EMSGSIZE, "a request to usherd would be too long");
    int err = __atomic_load_n(&ctx->down, __ATOMIC_RELAXED) ? -ECONNRESET : send_request(ctx, &w, buf, fds);
    while (!err) {
        err = recv_answer(ctx, &got, a);
        if (!err && got == id)
            break;
        ctx->farewell |= !err && got == 0;
        if (!err)
            drop_fds(a); /* the answer to a request that was given up */
    }
    if (err == -EBADF && fds[0] >= 0 && ctx->session_fd >= 0) /* what was to be passed is closed: nothing was said */
        return client_fail(err, "the socket to pass to usherd is closed");
    if (err)
        return lost(ctx, err, lost_text(err));
    if (a->error) {
        drop_fds(a);
        int e = a->error > 0 && a->error < 4096 ? -a->error : -EPROTO;
        return client_fail(e, "usherd: %s", a->text[0] ? a->text : strerror(-e));
    }
    return 0;
}

struct body {
    struct pb_writer w;
    uint8_t buf[REQUEST_MAX - 16];
};

static void body_init(struct body *b) {
    b->w = (struct pb_writer){b->buf, b->buf + sizeof(b->buf), false};
}

static int body_send(struct usher_context *ctx, enum request_field kind, struct body *b, int fd,
                     struct client_answer *a) {
    return exchange(ctx, kind, &b->w, b->buf, (const int[]){fd, -1}, a);
}

int client_rpc_attach(struct usher_context *ctx, const struct usher_context_params *p, const char *label,
                      struct client_answer *ret_answer) {
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, USH_ABI_MIN);
    pb_put_uint(&b.w, 2, USH_ABI_MAX);
    pb_put_uint(&b.w, 3, p->tx_bytes);
    pb_put_uint(&b.w, 4, p->rx_bytes);
    pb_put_uint(&b.w, 5, p->socket_max);
    pb_put_bytes(&b.w, 6, label, strnlen(label, 63));
    int err = body_send(ctx, REQ_ATTACH, &b, -1, ret_answer);
    if (err)
        return err;
    while (ret_answer->fd_count > 2)
        close(ret_answer->fds[--ret_answer->fd_count]);
    if (ret_answer->fd_count != 2) {
        drop_fds(ret_answer);
        return client_fail(-EPROTO, "usherd's answer to attach came without its two file descriptors");
    }
    return 0;
}

int client_rpc_return(struct usher_context *ctx, int file, struct client_answer *ret_answer) {
    const int fds[2] = {ctx->memfd, file};
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, ctx->h.abi);
    pb_put_uint(&b.w, 2, ctx->h.abi);
    pb_put_uint(&b.w, 3, ctx->h.tx_size);
    pb_put_uint(&b.w, 4, ctx->h.rx_size);
    pb_put_uint(&b.w, 5, ctx->h.socket_max);
    pb_put_bytes(&b.w, 6, ctx->label, strnlen(ctx->label, sizeof(ctx->label) - 1));
    pb_put_bytes(&b.w, 7, ctx->key, sizeof(ctx->key));
    int err = exchange(ctx, REQ_ATTACH, &b.w, b.buf, fds, ret_answer);
    if (!err && ret_answer->fd_count != 1 + ctx->set_count) {
        drop_fds(ret_answer);
        err = client_fail(-EPROTO, "usherd's answer to a client that came back has %u file descriptors",
                          ret_answer->fd_count);
    }
    return err;
}

static void put_stream(struct pb_writer *w, const struct usher_socket *sock) {
    const struct client_stream *st = sock->st;
    struct ush_option options[CLIENT_LISTEN_OPTIONS];
    if (!st->listening) {
        pb_put_bytes(w, 4, st->peer, sizeof(st->peer));
        pb_put_uint(w, 5, st->peer_port);
        return;
    }
    uint32_t n = client_stream_options_list(st, options, CLIENT_LISTEN_OPTIONS);
    if (n)
        pb_put_bytes(w, 6, options, n * sizeof(options[0]));
    pb_put_uint(w, 7, true);
}

int client_rpc_open(struct usher_context *ctx, const struct usher_socket *sock, struct client_answer *ret_answer) {
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, sock->wish_rx_quota);
    pb_put_uint(&b.w, 2, sock->wish_tx_limit);
    if (sock->st)
        put_stream(&b.w, sock);
    pb_put_uint(&b.w, 8, sock->ifindex);
    return body_send(ctx, REQ_OPEN, &b, sock->fd, ret_answer);
}

int client_rpc_update(struct usher_context *ctx, const struct usher_socket *sock, struct client_answer *ret_answer) {
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, sock->handle);
    return body_send(ctx, REQ_UPDATE, &b, sock->fd, ret_answer);
}

static int without_fds(int err, struct client_answer *a) {
    drop_fds(a);
    return err;
}

int client_rpc_close(struct usher_context *ctx, uint32_t handle) {
    struct client_answer a = {0};
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, handle);
    return without_fds(body_send(ctx, REQ_CLOSE, &b, -1, &a), &a);
}

int client_rpc_option(struct usher_context *ctx, uint32_t handle, uint32_t option, int64_t value) {
    struct client_answer a = {0};
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, handle);
    pb_put_uint(&b.w, 2, option);
    pb_put_uint(&b.w, 3, (uint64_t)value);
    return without_fds(body_send(ctx, REQ_SET_OPTION, &b, -1, &a), &a);
}

int client_rpc_group(struct usher_context *ctx, uint32_t handle, const struct client_group *g, bool leave) {
    struct client_answer a = {0};
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, handle);
    pb_put_uint(&b.w, 2, leave);
    pb_put_bytes(&b.w, 3, g->addr, sizeof(g->addr));
    pb_put_uint(&b.w, 4, g->ifindex);
    return without_fds(body_send(ctx, REQ_GROUP, &b, -1, &a), &a);
}

int client_rpc_refresh_owner(struct usher_context *ctx) {
    struct client_answer a = {0};
    struct body b = {0}; /* it has no fields */
    body_init(&b);
    return without_fds(body_send(ctx, REQ_REFRESH_OWNER, &b, -1, &a), &a);
}

int client_rpc_share(struct usher_context *ctx, const struct client_share *share, int fd, int unread_fd,
                     struct client_answer *ret_answer) {
    struct body b;
    body_init(&b);
    pb_put_uint(&b.w, 1, share->action);
    pb_put_uint(&b.w, 2, share->handle);
    pb_put_uint(&b.w, 3, share->copies);
    pb_put_uint(&b.w, 4, share->keep);
    pb_put_uint(&b.w, 5, share->shut);
    pb_put_uint(&b.w, 6, share->unread);
    pb_put_uint(&b.w, 7, share->unread_at);
    pb_put_uint(&b.w, 8, share->pid);
    return exchange(ctx, REQ_SHARE, &b.w, b.buf, (const int[2]){fd, unread_fd}, ret_answer);
}
