/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that several processes have a copy of, as a client asks for them.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "control/broker/broker_internal.h"
#include "control/broker/shared.h"

#define COPIES_MAX 64u
#define UNREAD_MAX (64u << 20)

enum action {
    ACTION_PUT = 1,
    ACTION_HOLD,
    ACTION_TAKE,
    ACTION_DROP,
    ACTION_LEAVE,
    ACTION_LOOK
}; /* ShareRequest.Action */

static int put(struct connection *c, const struct request *r, uint64_t cookie, struct incoming *in) {
    struct shared_put p = {
        .copies = r->share.copies, .keep = r->share.keep, .shut = r->share.shut, .unread = r->share.unread};
    if (p.copies > COPIES_MAX || p.unread > UNREAD_MAX || (p.unread > 0) != (in->fd_count > 0))
        return -EINVAL;
    int err = session_stream_share(c->session, r->handle, &p.stream);
    if (err != 0)
        return err;
    p.unread_fd = request_fd_take(in);
    return shared_put(c->broker->shared, cookie, c, &p);
}

/* The process may pass no file descriptor any more: its session names the stream, its TX region has the bytes. */
static int leave(struct connection *c, const struct request *r) {
    struct shared_put p = {.shut = r->share.shut, .unread = r->share.unread, .unread_fd = -1};
    uint64_t cookie;
    if (!shared_find_held(c->broker->shared, c, r->handle, &cookie))
        return -ENOENT;
    if (p.unread > 0)
        p.unread_fd = session_tx_file(c->session, r->share.unread_at, p.unread);
    if (p.unread > 0 && p.unread_fd < 0)
        return p.unread_fd;
    int err = session_stream_share(c->session, r->handle, &p.stream);
    if (err == 0)
        return shared_put(c->broker->shared, cookie, c, &p);
    if (p.unread_fd >= 0)
        (void)close(p.unread_fd);
    return err;
}

static int take(struct connection *c, uint64_t cookie, struct outgoing *out) {
    struct shared_got got;
    int err = shared_take(c->broker->shared, cookie, c, c->session, &got);
    if (err != 0)
        return err;
    out->response.socket.accelerated = true;
    out->response.socket.handle = got.made.handle;
    out->response.socket.set = got.made.set;
    out->response.socket.tx_limit = got.made.tx_limit;
    out->response.socket.others = got.others;
    out->response.socket.shut = got.shut;
    out->response.socket.unread = got.unread;
    out->response.socket.local_port = got.local_port;
    if (got.made.kick_fd >= 0)
        out->fds[out->fd_count++] = got.made.kick_fd;
    if (got.unread_fd >= 0)
        out->fds[out->fd_count++] = got.unread_fd;
    return 0;
}

static int act(struct connection *c, const struct request *r, uint64_t cookie, struct incoming *in,
               struct outgoing *out) {
    switch (r->share.action) {
    case ACTION_PUT:
        return put(c, r, cookie, in);
    case ACTION_HOLD:
        return r->share.copies <= COPIES_MAX ? shared_hold(c->broker->shared, cookie, c, r->share.copies) : -EINVAL;
    case ACTION_TAKE:
        return take(c, cookie, out);
    case ACTION_DROP:
        return shared_drop(c->broker->shared, cookie, c, &out->response.socket.others);
    case ACTION_LOOK:
        out->response.socket.others = shared_is_held_by(c->broker->shared, cookie, (pid_t)r->share.pid);
        return 0;
    default:
        return -EINVAL;
    }
}

static const char *text_of(int err) {
    switch (err) {
    case -EAGAIN:
        return "another process has the stream and is asked for it";
    case -ENOENT:
        return "no stream of this socket is shared; it has ended, or its promise has run out";
    case -EBUSY:
        return "the stream is not parked";
    default:
        return strerror(-err);
    }
}

static int act_by_socket(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    struct kernel_socket s;
    char why[160];
    int fd = request_fd_take(in);
    if (fd < 0)
        return request_refuse(out, EINVAL, "Share must carry the kernel socket");
    int err = kernel_socket_read(fd, c->broker->params.netns_cookie, &s, why, sizeof why);
    (void)close(fd);
    if (err != 0)
        return request_refuse(out, err, "%s", why);
    err = act(c, r, s.cookie, in, out);
    return err != 0 ? request_refuse(out, err, "%s", text_of(err)) : -1;
}

int request_share(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    out->response.kind = RESPONSE_SOCKET;
    if (r->share.action != ACTION_LEAVE)
        return act_by_socket(c, r, in, out);
    int err = leave(c, r);
    return err != 0 ? request_refuse(out, err, "%s", text_of(err)) : -1;
}

/* ---- a session's sockets, for its program ---- */

int request_list(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    (void)in;
    const struct broker_params *p = &c->broker->params;
    struct session_socket_info info[WIRE_LIST_MAX + 1];
    uint32_t n = session_sockets(c->session, r->after, info, WIRE_LIST_MAX + 1);
    out->response.kind = RESPONSE_LIST;
    out->response.list.more = n > WIRE_LIST_MAX;
    out->response.list.count = n < WIRE_LIST_MAX ? n : WIRE_LIST_MAX;
    for (uint32_t i = 0; i < out->response.list.count; i++) {
        struct response_socket *s = &out->response.list.sockets[i];
        *s = (struct response_socket){.handle = info[i].handle, .flow = info[i].flow};
        p->how(p->judge_arg, c->sockets[s->handle].ifindex, s->port_kind, sizeof s->port_kind, s->why, sizeof s->why);
    }
    return -1;
}
