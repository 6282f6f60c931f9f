/* SPDX-License-Identifier: Apache-2.0
 *
 * What a client may ask for, one function a request, found by a table.
 *
 * The order of steps keeps every packet with somebody. Opening: first the dataplane's socket, then the claim; until the
 * claim the kernel's socket gets the packets, which the program reads as well. Closing: first the claim, then the
 * dataplane's socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/broker/broker_internal.h"
#include "control/broker/orphans.h"
#include "control/broker/shared.h"
#include "control/broker/sharing.h"
#include "control/log.h"
#include "engines/wire.h"
#include "proto/usher_shm.h"

#define TX_BYTES_MIN       65536u
#define MEMBERSHIPS_MAX    64u /* of one session */
#define COMEBACK_BYTES_MAX (1 << 24)
#define OWNER_FULL_TEXT    "usherd's table of owners is full; close some sessions"

int request_refuse(struct outgoing *out, int error, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    out->response.error = error < 0 ? -error : error;
    (void)vsnprintf(out->response.text, sizeof out->response.text, fmt, args);
    va_end(args);
    return -1;
}

int request_fd_take(struct incoming *in) {
    if (in->fd_count == 0)
        return -1;
    int fd = in->fds[0];
    memmove(in->fds, in->fds + 1, --in->fd_count * sizeof in->fds[0]); /* the next one is taken next */
    return fd;
}

static struct open_socket *socket_of(struct connection *c, uint32_t handle) {
    return handle < c->socket_max && c->sockets[handle].open ? &c->sockets[handle] : NULL;
}

/* ---- attach ---- */

static uint64_t bounded(uint64_t wish, uint64_t least, uint64_t most) {
    if (wish == 0 || wish > most)
        return most;
    return wish < least ? least : wish;
}

static bool limits_allow(struct connection *c, struct outgoing *out) {
    struct broker *b = c->broker;
    const struct broker_limits *l = &b->params.limits;
    if (b->stats.sessions >= l->sessions) {
        request_refuse(out, EMFILE, "usherd has %u sessions, its limit (sessions.max)", l->sessions);
        return false;
    }
    if (c->use->uid != 0 && c->use->sessions >= l->sessions_per_uid) {
        request_refuse(out, EMFILE, "user %u has %u sessions, its limit (sessions.max_per_uid)", c->use->uid,
                       l->sessions_per_uid);
        return false;
    }
    return true;
}

/* ---- coming back ---- */

/* What it brings; the bits of held[] are the caller's to free. */
static int comeback_read(const struct incoming *in, const struct request *r, struct session_comeback *ret) {
    struct stat st;
    const size_t head = sizeof ret->rings;
    *ret = (struct session_comeback){.memfd = in->fds[0]};
    memcpy(&ret->key, r->attach.key, sizeof ret->key);
    if (in->fd_count != 2 || fcntl(in->fds[1], F_GET_SEALS) < 0 || fstat(in->fds[1], &st) != 0 ||
        pread(in->fds[1], &ret->rings, head, 0) != (ssize_t)head || ret->rings.magic != USH_COMEBACK_MAGIC ||
        ret->rings.set_count > USH_SET_MAX || st.st_size < (off_t)head || st.st_size > COMEBACK_BYTES_MAX)
        return -EBADMSG;
    if (ret->rings.set_count == 0)
        return 0;
    ret->held_words = ((uint64_t)st.st_size - head) / sizeof(uint64_t) / ret->rings.set_count;
    size_t bytes = ret->held_words * sizeof(uint64_t) * ret->rings.set_count;
    uint64_t *all = malloc(bytes + 1);
    if (all == NULL)
        return -ENOMEM;
    ret->held[0] = all;
    if (pread(in->fds[1], all, bytes, (off_t)head) != (ssize_t)bytes)
        return -EBADMSG;
    for (uint32_t i = 1; i < ret->rings.set_count; i++)
        ret->held[i] = all + i * ret->held_words;
    return 0;
}

static int session_make(struct connection *c, const struct request *r, uint32_t abi,
                        const struct session_comeback *back, struct session_fds *ret_fds) {
    const struct broker_limits *l = &c->broker->params.limits;
    uint32_t socket_max = (uint32_t)bounded(r->attach.socket_max, 1, l->sockets);
    struct session_params params = {
        .back = back,
        .abi = abi,
        .tx_bytes = bounded(r->attach.tx_bytes, TX_BYTES_MIN, l->tx_bytes),
        .rx_bytes = bounded(r->attach.rx_bytes, TX_BYTES_MIN, l->rx_bytes),
        .socket_max = socket_max,
        .owner = c->owner,
        .stream_max = l->streams,
        .quota = c->use->streams,
    };
    /* Zeroed pages that are touched as sockets come: an idle table costs address space only. */
    c->sockets = calloc(socket_max, sizeof *c->sockets);
    if (c->sockets == NULL)
        return -ENOMEM;
    c->socket_max = socket_max;
    int err = session_create(c->broker->params.rt, &params, &c->session, ret_fds);
    if (err != 0) {
        free(c->sockets);
        c->sockets = NULL;
    }
    return err;
}

static void attach_done(struct connection *c, const struct request *r, const struct owner *o, uint32_t abi,
                        struct outgoing *out) {
    struct broker *b = c->broker;
    c->session_id = b->next_session_id++;
    c->attached_unix_ns = broker_now_unix_ns();
    c->exe_dev = o->exe_dev;
    c->exe_ino = o->exe_ino;
    memcpy(c->label, r->attach.label, sizeof c->label);
    c->use->sessions++;
    b->stats.sessions++;
    b->stats.attached++;
    (void)sd_event_source_set_enabled(c->timeout, SD_EVENT_OFF);
    out->response.kind = RESPONSE_ATTACH;
    out->response.attach.abi = abi;
    out->response.attach.session_id = c->session_id;
    out->response.attach.comeback_ms = b->params.comeback_ms;
    struct session_key key = session_key_of(c->session);
    memcpy(out->response.attach.key, &key, sizeof out->response.attach.key);
    log_info("session.attach", "session %" PRIu64 ": pid %u uid %u %s (%s) label \"%s\"%s", c->session_id, o->pid,
             o->uid, o->comm, o->exe, c->label, r->attach.back ? ", back again" : "");
}

/* Where streams connect was asked for in its former life; the ports are claimed for all of them. */
static int stream_ports_claim(struct broker *b) {
    if (b->stream_ports_claimed || b->params.stream_port_high == 0)
        return 0;
    int err = claim_range_take(b->params.claims, IPPROTO_TCP, b->params.stream_port_low, b->params.stream_port_high);
    b->stream_ports_claimed = err == 0;
    return err;
}

static void fds_pass(const struct session_fds *fds, uint32_t sets, struct outgoing *out) {
    if (fds->memfd >= 0)
        out->fds[out->fd_count++] = fds->memfd;
    out->fds[out->fd_count++] = fds->wake_peer;
    for (uint32_t i = 0; i < sets; i++)
        out->fds[out->fd_count++] = fds->kick[i];
}

static int attach_as(struct connection *c, const struct request *r, uint32_t abi, struct incoming *in,
                     struct session_fds *ret_fds, uint32_t *ret_sets) {
    struct session_comeback back;
    if (!r->attach.back)
        return session_make(c, r, abi, NULL, ret_fds);
    int err = comeback_read(in, r, &back);
    if (err == 0)
        err = session_make(c, r, abi, &back, ret_fds);
    if (err == 0 && back.rings.set_count > 0)
        (void)stream_ports_claim(c->broker);
    *ret_sets = back.rings.set_count;
    free((void *)(uintptr_t)back.held[0]);
    return err;
}

static int run_attach(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    uint32_t sets = 0;
    if (c->session != NULL)
        return request_refuse(out, EALREADY, "this connection is attached already");
    if (r->attach.abi_min > USH_ABI_MAX || r->attach.abi_max < USH_ABI_MIN || r->attach.abi_min > r->attach.abi_max)
        return request_refuse(out, EPROTONOSUPPORT,
                              "usherd speaks versions %u to %u of the shared memory, the client %u to %u", USH_ABI_MIN,
                              USH_ABI_MAX, r->attach.abi_min, r->attach.abi_max);
    if (c->broker->draining)
        return request_refuse(out, ESHUTDOWN,
                              "usherd takes no new sessions (its operator drains it); use the kernel's stack");
    if (!limits_allow(c, out))
        return -1;
    uint32_t abi = r->attach.abi_max < USH_ABI_MAX ? r->attach.abi_max : USH_ABI_MAX;
    struct owner owner;
    struct session_fds fds;
    int err = connection_owner_read(c, &owner, &c->owner);
    if (err == -ENOSPC)
        return request_refuse(out, ENOBUFS, OWNER_FULL_TEXT);
    if (err != 0)
        return DETACH_CLIENT_DIED;
    err = attach_as(c, r, abi, in, &fds, &sets);
    if (err != 0) {
        owner_release(c->broker->params.owners, c->owner);
        return request_refuse(out, err, "the session cannot be made: %s", strerror(-err));
    }
    fds_pass(&fds, sets, out);
    attach_done(c, r, &owner, abi, out);
    return -1;
}

/* ---- sockets ---- */

static void not_accelerated(struct outgoing *out, const char *reason) {
    out->response.kind = RESPONSE_SOCKET;
    out->response.socket.accelerated = false;
    (void)snprintf(out->response.socket.reason, sizeof out->response.socket.reason, "%s", reason);
}

/* A sharing_ours_fn: is it accelerated for any session? */
static bool cookie_is_ours(void *arg, uint64_t cookie) {
    const struct broker *b = arg;
    for (const struct connection *c = b->connections; c != NULL; c = c->next) {
        for (uint32_t h = 0, left = c->socket_count; h < c->socket_max && left > 0; h++) {
            left -= c->sockets[h].open;
            if (c->sockets[h].open && c->sockets[h].cookie == cookie)
                return true;
        }
    }
    return false;
}

/* The judge last: when it says yes, its answer tells how the socket is carried. */
static bool may_carry(struct connection *c, const struct kernel_socket *s, char *ret_why, size_t size) {
    const struct broker_params *p = &c->broker->params;
    const struct owner *o = owner_get(p->owners, c->owner);
    return sharing_allows(s, cookie_is_ours, c->broker, ret_why, size) &&
           p->judge(p->judge_arg, s, o != NULL ? o->cgroup : "", ret_why, size);
}

/* Reads the passed socket. False: `out` holds the answer (refused, or stays with the kernel). */
static bool kernel_socket_take(struct connection *c, int fd, struct kernel_socket *ret_socket, struct outgoing *out) {
    char why[160];
    int err = kernel_socket_read(fd, c->broker->params.netns_cookie, ret_socket, why, sizeof why);
    if (err == -EPROTONOSUPPORT || err == -EXDEV)
        not_accelerated(out, why);
    else if (err != 0)
        request_refuse(out, err, "%s", why);
    return err == 0;
}

/* The same. */
static bool kernel_socket_judge(struct connection *c, const struct kernel_socket *s, struct outgoing *out) {
    char why[160];
    bool good = may_carry(c, s, why, sizeof why);
    if (good)
        (void)snprintf(out->response.socket.reason, sizeof out->response.socket.reason, "%s", why);
    else
        not_accelerated(out, why);
    return good;
}

static struct session_socket_params params_of(const struct connection *c, const struct kernel_socket *s) {
    return (struct session_socket_params){
        .flow = s->flow,
        .v6only = s->v6only,
        .reuseport = s->reuseport,
        .owner = c->owner,
        .ifindex = s->ifindex,
        .backlog = s->backlog,
        .cookie = s->cookie,
    };
}

static bool socket_limits_allow(struct connection *c, struct outgoing *out) {
    const struct broker_limits *l = &c->broker->params.limits;
    if (c->socket_count >= c->socket_max) {
        request_refuse(out, EMFILE, "this session has %u sockets, its limit", c->socket_max);
        return false;
    }
    if (c->use->uid != 0 && c->use->sockets >= l->sockets_per_uid) {
        request_refuse(out, EMFILE, "user %u has %u sockets, its limit (sessions.sockets_per_uid)", c->use->uid,
                       l->sockets_per_uid);
        return false;
    }
    return true;
}

static void socket_enter(struct connection *c, uint32_t handle, const struct kernel_socket *s) {
    CHECK(handle < c->socket_max && !c->sockets[handle].open);
    c->sockets[handle] = (struct open_socket){.claimed = s->flow,
                                              .cookie = s->cookie,
                                              .owner = c->owner,
                                              .ifindex = s->ifindex,
                                              .v6only = s->v6only,
                                              .listens = s->listening,
                                              .open = true};
    owner_hold(c->broker->params.owners, c->owner);
    c->socket_count++;
    c->use->sockets++;
    c->broker->stats.sockets++;
}

static void socket_answer(const struct session_socket *made, struct outgoing *out) {
    out->response.kind = RESPONSE_SOCKET;
    out->response.socket.accelerated = true;
    out->response.socket.handle = made->handle;
    out->response.socket.set = made->set;
    out->response.socket.rx_quota = made->rx_quota;
    out->response.socket.tx_limit = made->tx_limit;
    out->response.socket.more_sets = made->more_sets;
    if (made->kick_fd >= 0)
        out->fds[out->fd_count++] = made->kick_fd;
    for (uint32_t i = 0; i < USH_SET_MAX; i++) {
        if ((made->more_sets >> i & 1) && made->more_kick_fd[i] >= 0)
            out->fds[out->fd_count++] = made->more_kick_fd[i];
    }
}

static void flow_keep(void *arg, const struct flow *flow) {
    (void)claim_keep(arg, flow);
}

/* A listener may have been the kernel's for a while: its connections stay there. Those that come while the kernel is
 * asked for them stay as well. */
static int claim_listener(struct claim_table *claims, const struct kernel_socket *s) {
    bool settles = s->listening && claim_settle(claims, s->flow.local_port) == 0;
    int err = claim_take(claims, &s->flow, s->v6only);
    if (err == 0 && s->listening)
        sharing_flows(s, flow_keep, claims);
    if (settles)
        (void)claim_settle(claims, 0);
    return err;
}

static void socket_try(struct connection *c, const struct kernel_socket *s, const struct session_socket_params *params,
                       struct outgoing *out) {
    struct session_socket made;
    int err = session_socket_open(c->session, params, &made);
    if (err == -EPROTONOSUPPORT) {
        not_accelerated(out, "usherd has not loaded the engine of this protocol (engines.load)");
        return;
    }
    if (err == -EADDRINUSE) {
        not_accelerated(out, "another accelerated socket has this address and port");
        return;
    }
    if (err != 0) {
        request_refuse(out, err, "the socket cannot be opened in the dataplane: %s", strerror(-err));
        return;
    }
    err = claim_listener(c->broker->params.claims, s);
    if (err != 0) {
        session_socket_undo(c->session, &made);
        request_refuse(out, ENOBUFS, "the port cannot be claimed: %s", strerror(-err));
        return;
    }
    socket_enter(c, made.handle, s);
    socket_answer(&made, out);
}

static void socket_make(struct connection *c, const struct kernel_socket *s, const struct session_socket_params *params,
                        struct outgoing *out) {
    told_comes(c, s, c->owner);
    socket_try(c, s, params, out);
    if (out->response.kind == RESPONSE_SOCKET && out->response.socket.accelerated)
        told_lives(c, &c->sockets[out->response.socket.handle]);
    else
        told_comes_not(c, s, c->owner);
}

/* A fresh TCP socket asks where streams connect: they come and go by the rings, only the set is made here. */
static void stream_set_make(struct connection *c, struct outgoing *out) {
    struct broker *b = c->broker;
    struct session_socket made;
    int err = session_stream_set(c->session, &made);
    if (err == 0) {
        err = stream_ports_claim(b);
        if (err != 0 && made.kick_fd >= 0)
            (void)close(made.kick_fd);
    }
    if (err == -EPROTONOSUPPORT)
        not_accelerated(out, "usherd has not loaded the tcp engine (engines.load)");
    else if (err != 0)
        request_refuse(out, err, "streams cannot be connected: %s", strerror(-err));
    else
        socket_answer(&made, out);
}

/* The port of a connection to come: the kernel's socket has it, so nobody else in the kernel may. */
static void bound_open(struct connection *c, const struct kernel_socket *s, struct session_socket_params *params,
                       struct outgoing *out) {
    params->bound = true;
    params->reuseport = false;
    params->peer = params->flow.remote;
    params->peer_port = params->flow.remote_port;
    params->flow.remote = ipaddr_any();
    params->flow.remote_port = 0;
    struct kernel_socket here = *s;
    here.flow = params->flow;
    socket_make(c, &here, params, out);
}

static void tcp_open(struct connection *c, const struct kernel_socket *s, struct session_socket_params *params,
                     struct outgoing *out) {
    if (s->flow.local_port == 0)
        stream_set_make(c, out);
    else if (s->listening) {
        /* The kernel has decided who may listen where. One socket that several processes accept from is opened by each:
         * connections go to whoever has fewest waiting. */
        params->spread = s->reuseport ? params->spread : 1;
        params->reuseport = true;
        socket_make(c, s, params, out);
    } else if (s->connected && s->flow.remote_port != 0 && params->bound)
        bound_open(c, s, params, out);
    else
        not_accelerated(out, "a stream that the kernel has connected already stays with it");
}

/* A bound TCP socket is judged together with where it is about to connect to. False: it went another way already. */
static bool remote_join(const struct request *r, struct kernel_socket *s) {
    bool bound = r->open.remote_port != 0 && s->flow.proto == IPPROTO_TCP && !s->connected && !s->listening;
    if (bound) {
        s->flow.remote = r->open.remote;
        s->flow.remote_port = r->open.remote_port;
        s->connected = true;
    }
    return bound;
}

/* ret_socket: what could be read of the kernel socket, whatever comes of it. */
static void open_socket(struct connection *c, const struct request *r, int fd, struct kernel_socket *ret_socket,
                        struct outgoing *out) {
    bool bound;
    if (!kernel_socket_take(c, fd, ret_socket, out))
        return;
    if (ret_socket->flow.proto == PROTO_FRAME && r->open.ifindex != 0)
        ret_socket->ifindex = r->open.ifindex;
    bound = remote_join(r, ret_socket);
    if (!kernel_socket_judge(c, ret_socket, out))
        return;
    struct session_socket_params params = params_of(c, ret_socket);
    params.rx_quota = r->open.rx_quota;
    params.tx_limit = r->open.tx_limit;
    params.spread = (uint8_t)r->open.spread;
    params.bound = bound;
    params.all_shards = r->open.all_shards;
    params.options = r->open.options;
    params.option_count = r->open.option_count;
    if (ret_socket->flow.proto == IPPROTO_TCP)
        tcp_open(c, ret_socket, &params, out);
    else
        socket_make(c, ret_socket, &params, out);
}

static int run_open(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    struct kernel_socket s = {.cookie = 0};
    int fd = request_fd_take(in);
    if (fd < 0)
        return request_refuse(out, EINVAL, "Open must carry the kernel socket");
    if (r->open.spread > 1)
        request_refuse(out, EINVAL, "spread %u is unknown; 0 is by hash, 1 the shortest queue", r->open.spread);
    else if (!connection_owner_follow(c))
        request_refuse(out, ENOBUFS, "this session has had %u owners already; open another one", OWNERS_MAX);
    else if (socket_limits_allow(c, out))
        open_socket(c, r, fd, &s, out);
    if (out->response.kind == RESPONSE_SOCKET && !out->response.socket.accelerated)
        broker_refusal_note(c, &s, out->response.socket.reason);
    (void)close(fd);
    return -1;
}

static void memberships_drop(struct connection *c, uint32_t handle) {
    struct membership **link = &c->memberships;
    while (*link != NULL) {
        struct membership *m = *link;
        if (m->handle != handle && handle != USH_NONE) {
            link = &m->next;
            continue;
        }
        *link = m->next;
        claim_group_give(c->broker->params.claims, &m->group);
        c->membership_count--;
        free(m);
    }
}

/* Claim first, so that the kernel has the port again before the dataplane forgets it. The session's own part of it is
 * the caller's. */
static void socket_leave(struct connection *c, uint32_t handle) {
    struct open_socket *o = &c->sockets[handle];
    told_goes(c, o);
    if (!o->retired)
        claim_give(c->broker->params.claims, &o->claimed, o->v6only);
    owner_release(c->broker->params.owners, o->owner);
    *o = (struct open_socket){0};
    c->socket_count--;
    c->use->sockets--;
    c->broker->stats.sockets--;
}

/* Its connections go on without it: they are found once it is gone from the dataplane, before its claim is. */
static void listener_leave(struct connection *c, uint32_t handle) {
    uint64_t ports[65536 / 64] = {0};
    uint16_t port = c->sockets[handle].claimed.local_port;
    told_goes(c, &c->sockets[handle]);
    ports[port / 64] |= 1ull << (port % 64);
    (void)session_socket_close(c->session, handle);
    orphans_hold(c->broker->orphans, ports);
    socket_leave(c, handle);
}

static bool leaves_orphans(const struct connection *c, const struct open_socket *o) {
    return o->listens && claim_is_last(c->broker->params.claims, &o->claimed, o->v6only);
}

static void socket_close(struct connection *c, uint32_t handle) {
    memberships_drop(c, handle);
    if (leaves_orphans(c, &c->sockets[handle])) {
        listener_leave(c, handle);
        return;
    }
    socket_leave(c, handle);
    (void)session_socket_close(c->session, handle);
}

/* Claim first, as in socket_leave(); the client's Close does the rest. */
int broker_socket_kill(struct broker *b, uint64_t session_id, uint32_t handle) {
    struct connection *c = b->connections;
    while (c != NULL && (c->session == NULL || c->session_id != session_id))
        c = c->next;
    struct open_socket *o = c != NULL ? socket_of(c, handle) : NULL;
    if (o == NULL || o->retired)
        return -ENOENT;
    memberships_drop(c, handle);
    told_goes(c, o);
    claim_give(b->params.claims, &o->claimed, o->v6only);
    o->retired = true;
    return session_socket_retire(c->session, handle);
}

/* The socket's addresses changed. The new claim comes before the change and the old one goes after it. */
static void socket_try_move(struct connection *c, uint32_t handle, const struct kernel_socket *s,
                            struct outgoing *out) {
    struct open_socket *o = &c->sockets[handle];
    struct claim_table *claims = c->broker->params.claims;
    struct session_socket_params params = params_of(c, s);
    params.owner = o->owner;
    int err = claim_take(claims, &s->flow, s->v6only);
    if (err != 0) {
        request_refuse(out, ENOBUFS, "the port cannot be claimed: %s", strerror(-err));
        return;
    }
    err = session_socket_update(c->session, handle, &params);
    if (err != 0) {
        claim_give(claims, &s->flow, s->v6only);
        request_refuse(out, err, "the socket cannot be changed in the dataplane: %s", strerror(-err));
        return;
    }
    claim_give(claims, &o->claimed, o->v6only);
    o->claimed = s->flow;
    o->v6only = s->v6only;
    o->ifindex = s->ifindex;
    out->response.kind = RESPONSE_SOCKET;
    out->response.socket.accelerated = true;
    out->response.socket.handle = handle;
}

static void socket_move(struct connection *c, uint32_t handle, const struct kernel_socket *s, struct outgoing *out) {
    struct open_socket *o = &c->sockets[handle];
    told_goes(c, o);
    told_comes(c, s, o->owner);
    socket_try_move(c, handle, s, out);
    if (out->response.kind == RESPONSE_SOCKET)
        told_lives(c, o);
    else
        told_stays(c, o, s);
}

static int run_update(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    struct kernel_socket s;
    int fd = request_fd_take(in);
    const struct open_socket *o = socket_of(c, r->handle);
    if (fd < 0)
        return request_refuse(out, EINVAL, "Update must carry the kernel socket");
    if (o == NULL || o->retired)
        request_refuse(out, EBADF, "handle %u is not open", r->handle);
    else if (!kernel_socket_take(c, fd, &s, out) || !kernel_socket_judge(c, &s, out)) {
        /* It went where Usher cannot follow (a peer behind a foreign interface, say): the kernel has it from here. */
        if (out->response.error == 0)
            socket_close(c, r->handle);
    } else if (s.cookie != o->cookie)
        request_refuse(out, EINVAL, "this is another kernel socket than the one handle %u was opened with", r->handle);
    else
        socket_move(c, r->handle, &s, out);
    (void)close(fd);
    return -1;
}

static int run_close(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    (void)in;
    if (socket_of(c, r->handle) == NULL)
        return request_refuse(out, EBADF, "handle %u is not open", r->handle);
    socket_close(c, r->handle);
    return -1;
}

static int run_option(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    (void)in;
    if (socket_of(c, r->handle) == NULL)
        return request_refuse(out, EBADF, "handle %u is not open", r->handle);
    int err = session_socket_set_option(c->session, r->handle, r->option.option, r->option.value);
    if (err != 0)
        return request_refuse(out, err, "option %u of handle %u cannot be set: %s", r->option.option, r->handle,
                              strerror(-err));
    return -1;
}

/* ---- groups ---- */

static struct membership *membership_find(struct connection *c, const struct request *r) {
    struct membership *m = c->memberships;
    while (m != NULL &&
           (m->handle != r->handle || m->ifindex != r->group.ifindex || !ipaddr_equal(&m->group, &r->group.group)))
        m = m->next;
    return m;
}

static int group_join(struct connection *c, const struct request *r, struct outgoing *out) {
    if (membership_find(c, r) != NULL)
        return request_refuse(out, EADDRINUSE, "handle %u is a member of this group already", r->handle);
    if (c->membership_count == MEMBERSHIPS_MAX)
        return request_refuse(out, ENOBUFS, "this session is in %u groups, its limit", MEMBERSHIPS_MAX);
    struct membership *m = calloc(1, sizeof *m);
    if (m == NULL)
        return request_refuse(out, ENOMEM, "out of memory");
    *m = (struct membership){.group = r->group.group, .handle = r->handle, .ifindex = r->group.ifindex};
    int err = session_socket_group(c->session, r->handle, &m->group, m->ifindex, false);
    if (err == 0) {
        err = claim_group_take(c->broker->params.claims, &m->group);
        if (err != 0)
            (void)session_socket_group(c->session, r->handle, &m->group, m->ifindex, true);
    }
    if (err != 0) {
        free(m);
        return request_refuse(out, err, "the group cannot be joined: %s", strerror(-err));
    }
    m->next = c->memberships;
    c->memberships = m;
    c->membership_count++;
    return -1;
}

static int group_leave(struct connection *c, const struct request *r, struct outgoing *out) {
    struct membership *m = membership_find(c, r);
    if (m == NULL)
        return request_refuse(out, EADDRNOTAVAIL, "handle %u is not a member of this group", r->handle);
    claim_group_give(c->broker->params.claims, &m->group);
    (void)session_socket_group(c->session, r->handle, &m->group, m->ifindex, true);
    struct membership **link = &c->memberships;
    while (*link != m)
        link = &(*link)->next;
    *link = m->next;
    c->membership_count--;
    free(m);
    return -1;
}

static int run_group(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    (void)in;
    if (socket_of(c, r->handle) == NULL)
        return request_refuse(out, EBADF, "handle %u is not open", r->handle);
    if (!ipaddr_is_multicast(&r->group.group))
        return request_refuse(out, EINVAL, "this is no multicast group");
    return r->group.leave ? group_leave(c, r, out) : group_join(c, r, out);
}

/* ---- the rest ---- */

static int run_new_sq(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    (void)in;
    uint32_t index;
    int err = r->set < USH_SET_MAX ? session_new_sq(c->session, r->set, &index) : -EINVAL;
    if (err != 0)
        return request_refuse(out, err, "set %u gets no further submission ring: %s", r->set, strerror(-err));
    out->response.kind = RESPONSE_NEW_SQ;
    out->response.sq_index = index;
    return -1;
}

static int run_refresh_owner(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out) {
    (void)r;
    (void)in;
    struct owner owner;
    uint32_t index;
    int err = connection_owner_read(c, &owner, &index);
    if (err == -ENOSPC)
        return request_refuse(out, ENOBUFS, OWNER_FULL_TEXT);
    if (err != 0)
        return DETACH_CLIENT_DIED;
    if (!connection_owner_set(c, index))
        return request_refuse(out, ENOBUFS, "this session has had %u owners already; open another one", OWNERS_MAX);
    log_info("session.owner", "session %" PRIu64 ": uid is now %u", c->session_id, owner.uid);
    return -1;
}

typedef int run_fn(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *out);

static run_fn *const runs[REQUEST_COUNT] = {
    [REQUEST_ATTACH] = run_attach,     [REQUEST_OPEN] = run_open,
    [REQUEST_UPDATE] = run_update,     [REQUEST_CLOSE] = run_close,
    [REQUEST_SET_OPTION] = run_option, [REQUEST_GROUP] = run_group,
    [REQUEST_NEW_SQ] = run_new_sq,     [REQUEST_REFRESH_OWNER] = run_refresh_owner,
    [REQUEST_LIST] = request_list,     [REQUEST_SHARE] = request_share,
};

int request_run(struct connection *c, const struct request *r, struct incoming *in, struct outgoing *ret_out) {
    ret_out->response = (struct response){.id = r->id};
    ret_out->fd_count = 0;
    if (c->session == NULL && r->kind != REQUEST_ATTACH)
        return request_refuse(ret_out, ENOTCONN, "attach first");
    return runs[r->kind](c, r, in, ret_out);
}

/* All but those that leave orphans, when these stay. Returns how many stayed; their ports are in `ports`. */
static uint32_t sockets_leave(struct connection *c, bool some_stay, uint64_t *ports) {
    uint32_t stayed = 0;
    for (uint32_t h = 0; h < c->socket_max && c->socket_count > stayed; h++) {
        struct open_socket *o = &c->sockets[h];
        uint16_t port = o->claimed.local_port;
        if (!o->open)
            continue;
        told_goes(c, o);
        if (some_stay && leaves_orphans(c, o)) {
            ports[port / 64] |= 1ull << (port % 64);
            stayed++;
        } else {
            socket_leave(c, h);
        }
    }
    return stayed;
}

void request_undo_all(struct connection *c, enum detach_reason why) {
    struct broker *b = c->broker;
    uint64_t ports[65536 / 64] = {0};
    memberships_drop(c, USH_NONE);
    uint32_t listeners = sockets_leave(c, why != DETACH_DAEMON_STOPS, ports);
    shared_forget(b->shared, c);
    session_destroy(c->session, why);
    if (listeners > 0)
        orphans_hold(b->orphans, ports);
    (void)sockets_leave(c, false, ports);
    owner_release(b->params.owners, c->owner);
    while (c->owner_count > 0)
        owner_release(b->params.owners, c->owners_before[--c->owner_count]);
    free(c->sockets);
    c->session = NULL;
    c->use->sessions--;
    b->stats.sessions--;
    b->stats.detached[why]++;
    log_info("session.end", "session %" PRIu64 ": %s", c->session_id, detach_reason_text(why));
}
