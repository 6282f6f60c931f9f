/* SPDX-License-Identifier: Apache-2.0
 *
 * A socket's life. The kernel socket comes first: it decides who may have a port. Then usherd is asked to carry it;
 * when it will not, or is gone, the kernel socket carries it and `reason` says why. Any thread; exchanges with usherd
 * happen without the context's lock.
 */
#include <fcntl.h>
#include <netinet/ip.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clientlib/src/internal.h"

static void set_reason(struct usher_socket *sock, const char *reason) {
    snprintf(sock->reason, sizeof(sock->reason), "%s", reason);
}

void client_socket_reason(struct usher_socket *sock, const char *reason) {
    set_reason(sock, reason);
}

static int check_kind(int family, int type, int proto) {
    int kind = type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (family == AF_PACKET)
        return kind == SOCK_RAW ? 0 : client_fail(-ESOCKTNOSUPPORT, "packet sockets of Usher's are SOCK_RAW");
    if (family != AF_INET && family != AF_INET6)
        return client_fail(-EAFNOSUPPORT, "address family %d: Usher has AF_INET, AF_INET6 and AF_PACKET", family);
    if (kind != SOCK_DGRAM && kind != SOCK_STREAM)
        return client_fail(-ESOCKTNOSUPPORT, "socket type %d: Usher has SOCK_DGRAM and SOCK_STREAM", type);
    if (proto != 0 && proto != (kind == SOCK_DGRAM ? IPPROTO_UDP : IPPROTO_TCP))
        return client_fail(-EPROTONOSUPPORT, "protocol %d: Usher has UDP and TCP", proto);
    return 0;
}

static int kernel_socket(int family, int proto, int *ret_fd) {
    int type = family == AF_PACKET ? SOCK_RAW : SOCK_DGRAM;
    int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, proto);
    if (fd < 0)
        return client_fail(-errno, "kernel socket: %s", strerror(errno));
    *ret_fd = fd;
    if (family == AF_PACKET)
        return 0;
    const int on = 1;
    /* So that a datagram by the kernel tells as much as one by usherd. */
    setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
    setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on));
    if (family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on));
    }
    return 0;
}

void client_socket_link(struct usher_context *ctx, struct usher_socket *sock) {
    sock->next = ctx->sockets;
    sock->prev_next = &ctx->sockets;
    if (sock->next)
        sock->next->prev_next = &sock->next;
    ctx->sockets = sock;
}

void client_socket_free(struct usher_socket *sock) {
    client_park_purge(sock);
    client_unblock_socket(sock);
    *sock->prev_next = sock->next;
    if (sock->next)
        sock->next->prev_next = sock->prev_next;
    if (sock->st && sock->watched)
        sock->ctx->kernel_only--;
    client_stream_free(sock); /* may keep the fd for a port that is to be given back */
    if (sock->fd >= 0 && !sock->borrowed)
        close(sock->fd); /* leaves the epoll set by itself */
    free(sock->groups);
    free(sock);
}

/* One block, so that what belongs together lies in one page. */
struct usher_socket *client_socket_new(bool stream) {
    size_t all = CLIENT_STREAM_AT + (stream ? CLIENT_LINES(sizeof(struct client_stream)) : 0);
    struct usher_socket *sock = aligned_alloc(64, all);
    if (!sock) {
        (void)client_fail(-ENOMEM, "no memory for a socket");
        return NULL;
    }
    memset(sock, 0, all);
    sock->fd = -1;
    if (stream) {
        sock->st = (void *)((uint8_t *)sock + CLIENT_STREAM_AT);
        sock->st->sent = sock->st->first;
        sock->st->sent_room = CLIENT_SENT_FIRST;
        sock->st->linger = -1;
    }
    return sock;
}

void client_socket_drop(struct usher_socket *sock) {
    if (sock)
        client_stream_free(sock);
    free(sock);
}

/* A socket of this context around `fd`, entered; leave with client_leave(). On failure fd stays the caller's. */
static int socket_enter(struct usher_context *ctx, int family, bool stream, int fd, struct usher_socket **ret_sock) {
    struct usher_socket *sock = client_socket_new(stream);
    int err = sock ? client_enter(ctx) : -ENOMEM;
    if (err) {
        client_socket_drop(sock);
        return err;
    }
    sock->ctx = ctx;
    sock->fd = fd;
    sock->v6 = family == AF_INET6;
    sock->frames = family == AF_PACKET;
    sock->wildcard = true;
    client_socket_link(ctx, sock);
    *ret_sock = sock;
    return 0;
}

int usher_socket(struct usher_context *ctx, int family, int type, int proto, struct usher_socket **ret_sock) {
    bool stream = (type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) == SOCK_STREAM;
    int fd = -1, err = check_kind(family, type, proto);
    if (!err && !stream)
        err = kernel_socket(family, proto, &fd);
    if (!err)
        err = socket_enter(ctx, family, stream, fd, ret_sock);
    if (err) {
        if (fd >= 0)
            close(fd);
        return err;
    }
    set_reason(*ret_sock, "not bound yet");
    client_leave(ctx);
    return 0;
}

static void adopt_ends(struct usher_socket *sock) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    struct usher_msg m = {0};
    sock->connected = !sock->st && getpeername(sock->fd, (struct sockaddr *)&sa, &len) == 0;
    len = sizeof(sa);
    if (!sock->st || getsockname(sock->fd, (struct sockaddr *)&sa, &len) < 0 ||
        client_addr_from((struct sockaddr *)&sa, len, &m))
        return;
    client_addr_map(m.family, m.peer, sock->st->local);
    sock->st->local_port = m.peer_port;
    sock->bound = m.peer_port != 0;
}

int client_socket_adopt(struct usher_context *ctx, int fd, int family, int type, struct usher_socket **ret_sock) {
    int err = check_kind(family, type, 0);
    if (!err)
        err = socket_enter(ctx, family, type == SOCK_STREAM, fd, ret_sock);
    if (err)
        return err;
    (*ret_sock)->borrowed = true;
    adopt_ends(*ret_sock);
    set_reason(*ret_sock, "not asked yet");
    client_leave(ctx);
    return 0;
}

void client_socket_to_kernel(struct usher_socket *sock, const char *why) {
    struct usher_context *ctx = sock->ctx;
    client_stream_down(sock);
    if (sock->set) {
        sock->set = NULL;
        ctx->accelerated--;
        ctx->kernel_only++;
    }
    set_reason(sock, why);
}

/* One of the answer's sets, made known when it is new: the first fd that is left is its own then. */
static int install_one_set(struct usher_context *ctx, struct client_answer *a, uint32_t set) {
    if (ctx->set_at[set])
        return 0;
    if (a->fd_count == 0)
        return client_fail(-EPROTO, "usherd's answer brings no kick fd for a new ring set");
    int err = client_set_add(ctx, set, a->fds[0]);
    if (!err)
        memmove(&a->fds[0], &a->fds[1], --a->fd_count * sizeof(a->fds[0]));
    return err;
}

static int install_set(struct usher_context *ctx, struct client_answer *a) {
    if (a->set >= USH_SET_MAX || a->more_sets >> USH_SET_MAX)
        return client_fail(-EPROTO, "usherd's answer names a socket or ring set that cannot be");
    int err = install_one_set(ctx, a, a->set);
    for (uint32_t i = 0; i < USH_SET_MAX && !err; i++)
        err = a->more_sets >> i & 1 ? install_one_set(ctx, a, i) : 0;
    return err;
}

/* usherd carries the socket: remembers where. The answer's numbers are checked, they index our tables. */
static int install(struct usher_socket *sock, struct client_answer *a) {
    struct usher_context *ctx = sock->ctx;
    if (a->handle >= ctx->h.socket_max)
        return client_fail(-EPROTO, "usherd's answer names a socket or ring set that cannot be");
    int err = install_set(ctx, a);
    if (err)
        return err;
    if (!sock->set)
        ctx->accelerated++;
    if (sock->known)
        ctx->by_handle[sock->handle] = NULL;
    sock->known = true;
    sock->handle = a->handle;
    sock->set = sock->home = ctx->set_at[a->set];
    sock->sent = sock->done = __atomic_load_n(&ctx->shared_sockets[a->handle].tx_done, __ATOMIC_RELAXED);
    sock->tx_limit = a->tx_limit && a->tx_limit < INT32_MAX ? a->tx_limit : INT32_MAX;
    sock->rx_quota = a->rx_quota;
    if (sock->st)
        sock->st->more_sets = a->more_sets;
    ctx->by_handle[a->handle] = sock;
    set_reason(sock, a->reason);
    return 0;
}

/* What became of the question: `err` of the exchange, else the answer. usherd has no handle for it where it is not
 * carried. */
static void take_answer(struct usher_socket *sock, int err, struct client_answer *a) {
    struct usher_context *ctx = sock->ctx;
    bool was_kernel = sock->bound && !sock->set;
    if (!err && a->accelerated && install(sock, a)) {
        /* usherd carries a socket that we cannot follow: only the end of the session frees its port. */
        client_go_down(ctx, usher_strerror());
    } else if (err || !a->accelerated) {
        client_handle_forget(sock);
        client_socket_to_kernel(sock, err ? usher_strerror() : a->reason[0] ? a->reason : "usherd does not say");
    }
    if (was_kernel && sock->set)
        ctx->kernel_only--;
    else if (!sock->bound && !sock->set)
        ctx->kernel_only++;
    sock->bound = true;
}

static void read_local(struct usher_socket *sock) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    struct usher_msg m = {0};
    static const uint8_t any[16], any_mapped[16] = {[10] = 0xff, [11] = 0xff};
    if (getsockname(sock->fd, (struct sockaddr *)&sa, &len) < 0 || client_addr_from((struct sockaddr *)&sa, len, &m))
        return;
    sock->wildcard = memcmp(m.peer, any, 16) == 0 || memcmp(m.peer, any_mapped, 16) == 0;
}

bool client_socket_is_carried(struct usher_socket *sock) {
    client_relock(sock->ctx);
    bool carried = sock->set != NULL;
    client_leave(sock->ctx);
    return carried;
}

static void replay_groups(struct usher_socket *sock) {
    for (uint32_t i = 0; i < sock->group_count && client_socket_is_carried(sock); i++)
        if (client_rpc_group(sock->ctx, sock->handle, &sock->groups[i], false))
            set_reason(sock, usher_strerror());
}

/* A refused change leaves usherd with the old address: it must let go of the socket. */
static int update(struct usher_socket *sock, struct client_answer *a) {
    int err = client_rpc_update(sock->ctx, sock, a);
    if (err && err != -ENETDOWN)
        client_rpc_close(sock->ctx, sock->handle);
    return err;
}

/* usherd has let go of the socket: its handle is of no use, and a new question gives a new one. */
static void handle_return(struct usher_socket *sock) {
    client_relock(sock->ctx);
    bool due = sock->let_go;
    uint32_t handle = sock->handle;
    if (due)
        client_handle_forget(sock);
    sock->let_go = false;
    client_leave(sock->ctx);
    if (due)
        (void)client_rpc_close(sock->ctx, handle);
}

/* The kernel socket has a new address: usherd is told. It is no error when usherd does not want it. */
int client_socket_announce(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    struct client_answer a = {0};
    int err = client_enter(ctx);
    if (err)
        return err;
    read_local(sock);
    err = client_kernel_watch(sock);
    bool first = !sock->bound;
    ctx->opening++;
    client_leave(ctx);
    client_rpc_begin(ctx);
    handle_return(sock);
    if (!err)
        err = client_socket_is_carried(sock) ? update(sock, &a) : client_rpc_open(ctx, sock, &a);
    client_relock(ctx);
    take_answer(sock, err, &a);
    while (a.fd_count)
        close(a.fds[--a.fd_count]);
    ctx->opening--;
    client_leave(ctx);
    if (first)
        replay_groups(sock);
    client_rpc_end(ctx);
    return 0;
}

void client_socket_reopen(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    struct client_answer a = {0};
    int err = client_rpc_open(ctx, sock, &a);
    client_relock(ctx);
    sock->reopen_due = err == -ENETDOWN; /* gone before it could answer */
    take_answer(sock, err, &a);
    while (a.fd_count)
        close(a.fds[--a.fd_count]);
    client_leave(ctx);
    replay_groups(sock);
}

/* Of a stream: its listener, or (a fresh kernel socket, of no context) the set where streams connect. */
int client_stream_announce(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    struct client_answer a = {0};
    client_rpc_begin(ctx);
    int err = client_rpc_open(ctx, sock, &a);
    client_relock(ctx);
    if (sock->st) {
        take_answer(sock, err, &a);
        if (sock->set)
            ctx->by_handle[sock->handle] = sock;
    } else if (!err && a.accelerated && install_set(ctx, &a) == 0) {
        ctx->stream_set = ctx->set_at[a.set];
    } else {
        snprintf(ctx->stream_why, sizeof(ctx->stream_why), "%s", err ? usher_strerror() : a.reason);
        if (!ctx->stream_why[0])
            snprintf(ctx->stream_why, sizeof(ctx->stream_why), "usherd does not say");
    }
    while (a.fd_count)
        close(a.fds[--a.fd_count]);
    client_leave(ctx);
    client_rpc_end(ctx);
    return 0;
}

/* The kernel's socket goes on holding the port; usherd's answer is remembered with the stream. */
int client_stream_port(struct usher_socket *sock, struct client_set **ret_set) {
    struct usher_context *ctx = sock->ctx;
    struct client_answer a = {0};
    struct client_port *port = calloc(1, sizeof(*port));
    *ret_set = NULL;
    if (!port)
        return client_fail(-ENOMEM, "no memory for a bound port");
    client_rpc_begin(ctx);
    int err = sock->st->local_port ? client_rpc_open(ctx, sock, &a) : 0;
    client_relock(ctx);
    if (!err && a.accelerated && a.handle < ctx->h.socket_max && install_set(ctx, &a) == 0) {
        *port = (struct client_port){.handle = a.handle, .fd = -1};
        sock->st->port = port;
        *ret_set = ctx->set_at[a.set];
    } else {
        free(port);
        client_socket_reason(sock, err ? usher_strerror() : a.reason[0] ? a.reason : "it is bound to no port yet");
    }
    while (a.fd_count)
        close(a.fds[--a.fd_count]);
    client_leave(ctx);
    client_rpc_end(ctx);
    return 0;
}

void client_ports_give(struct usher_context *ctx) {
    if (client_enter(ctx))
        return;
    struct client_port *due = ctx->ports_due;
    ctx->ports_due = NULL;
    client_leave(ctx);
    while (due) {
        struct client_port *p = due;
        due = p->next;
        client_rpc_begin(ctx);
        (void)client_rpc_close(ctx, p->handle); /* without usherd the port is free anyway */
        client_rpc_end(ctx);
        if (p->fd >= 0)
            close(p->fd);
        free(p);
    }
}

int usher_listen(struct usher_socket *sock, int backlog) {
    struct usher_context *ctx = sock->ctx;
    int err = client_enter(ctx);
    if (err)
        return err;
    bool fits = sock->st && sock->bound && !sock->st->listening;
    client_leave(ctx);
    if (!fits)
        return client_fail(-EINVAL, "listen: only a bound stream can");
    if (listen(sock->fd, backlog) < 0)
        return client_fail(-errno, "listen: %s", strerror(errno));
    return client_stream_listen(sock);
}

int client_stream_listen(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    client_relock(ctx);
    sock->st->listening = true;
    sock->bound = false; /* take_answer() counts it */
    ctx->opening++;
    int err = client_kernel_watch(sock);
    client_leave(ctx);
    if (!err)
        err = client_stream_announce(sock);
    client_relock(ctx);
    ctx->opening--;
    client_leave(ctx);
    return err;
}

/* The kernel's socket holds the port; usherd hears of it when it listens. */
static int stream_bind(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len) {
    client_relock(sock->ctx);
    int err = client_kstream_fd(sock);
    client_leave(sock->ctx);
    if (err)
        return err;
    struct usher_msg m = {0};
    struct sockaddr_storage sa = {0};
    socklen_t sa_len = sizeof(sa);
    const int on = 1;
    setsockopt(sock->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* TIME-WAIT is usherd's to mind */
    if (bind(sock->fd, addr, len) < 0)
        return client_fail(-errno, "bind: %s", strerror(errno));
    sock->bound = true;
    if (getsockname(sock->fd, (struct sockaddr *)&sa, &sa_len) == 0 &&
        client_addr_from((struct sockaddr *)&sa, sa_len, &m) == 0) {
        client_addr_map(m.family, m.peer, sock->st->local);
        sock->st->local_port = m.peer_port;
    }
    return 0;
}

int usher_bind(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len) {
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    client_leave(sock->ctx);
    if (sock->st)
        return stream_bind(sock, addr, len);
    if (bind(sock->fd, addr, len) < 0)
        return client_fail(-errno, "bind: %s", strerror(errno));
    return client_socket_announce(sock);
}

int usher_connect(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len) {
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    client_leave(sock->ctx);
    if (sock->st)
        return client_stream_connect(sock, addr, len);
    if (connect(sock->fd, addr, len) < 0)
        return client_fail(-errno, "connect: %s", strerror(errno));
    sock->connected = addr->sa_family != AF_UNSPEC;
    sock->kernel_peer = false;
    return client_socket_announce(sock);
}

int client_socket_autobind(struct usher_socket *sock) {
    struct sockaddr_storage any = {.ss_family = sock->v6 ? AF_INET6 : AF_INET};
    if (sock->frames)
        return client_fail(-ENXIO, "bind the socket to an interface first");
    socklen_t len = sock->v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    return usher_bind(sock, (struct sockaddr *)&any, len);
}

static void forget(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    client_handle_forget(sock);
    if (sock->set) {
        ctx->accelerated--;
    } else if (sock->bound) {
        ctx->kernel_only--;
    }
    sock->set = NULL;
}

/* A connection: an entry of the ring, no exchange. It may live on until its last byte is through. */
static void stream_close(struct usher_socket *sock) {
    struct usher_context *ctx = sock->ctx;
    if (sock->st->linger > 0 && sock->set && sock->st->open)
        client_stream_linger(sock);
    sock->st->unread |= sock->st->rest.buf.data || client_park_has_bytes(sock);
    client_park_purge(sock);
    client_unblock_socket(sock);
    if (sock->st->rest.buf.data)
        client_release_msg(ctx, &sock->st->rest);
    if (!sock->set && sock->fd >= 0)
        (void)client_kstream_tail(sock);
    if (client_stream_leave(sock))
        client_socket_free(sock);
    client_kick(ctx);
    client_leave(ctx);
    if (ctx->ports_due)
        client_ports_give(ctx);
}

/* The stream may outlive the program's fd. A port that it was bound to has to be held as long. */
static void give_back_fd(struct usher_socket *sock) {
    sock->fd = sock->st->port ? client_place_fd(fcntl(sock->fd, F_DUPFD_CLOEXEC, 3)) : -1;
    sock->borrowed = false;
}

void usher_close(struct usher_socket *sock) {
    if (!sock)
        return;
    struct usher_context *ctx = sock->ctx;
    if (client_enter(ctx))
        return; /* a fork's child: the parent's socket is none of its business */
    client_kick(ctx);
    if (sock->borrowed && sock->st && !sock->st->listening)
        give_back_fd(sock);
    if (sock->st && !sock->st->listening) {
        stream_close(sock);
        return;
    }
    client_leave(ctx);
    client_rpc_begin(ctx);
    handle_return(sock);
    if (client_socket_is_carried(sock) && !(sock->st && sock->st->retired))
        client_rpc_close(ctx, sock->handle);
    client_relock(ctx);
    forget(sock);
    if (sock->st)
        sock->watched = false; /* counted above */
    client_socket_free(sock);
    client_leave(ctx);
    client_rpc_end(ctx);
}

static void give_end(const struct usher_socket *sock, const uint8_t mapped[16], uint16_t port,
                     struct sockaddr *ret_addr, socklen_t *len) {
    struct usher_msg m = {.family = sock->v6 ? AF_INET6 : AF_INET, .peer_port = port};
    struct sockaddr_storage sa;
    socklen_t sa_len;
    client_addr_unmap(sock->v6, mapped, m.peer);
    client_addr_to(&m, sock->v6, &sa, &sa_len);
    client_addr_give(&sa, sa_len, ret_addr, len);
}

int usher_getsockname(struct usher_socket *sock, struct sockaddr *ret_addr, socklen_t *len) {
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    bool ours = sock->st && (sock->fd < 0 || (sock->set && !sock->st->listening && sock->st->local_port));
    if (ours)
        give_end(sock, sock->st->local, sock->st->local_port, ret_addr, len);
    client_leave(sock->ctx);
    if (!ours && getsockname(sock->fd, ret_addr, len) < 0)
        return client_fail(-errno, "getsockname: %s", strerror(errno));
    return 0;
}

int usher_getpeername(struct usher_socket *sock, struct sockaddr *ret_addr, socklen_t *len) {
    int err = client_enter(sock->ctx);
    if (err)
        return err;
    bool stream = sock->st != NULL, connected = stream && sock->st->open;
    if (connected)
        give_end(sock, sock->st->peer, sock->st->peer_port, ret_addr, len);
    client_leave(sock->ctx);
    if (stream && !connected)
        return client_fail(-ENOTCONN, "getpeername: the stream is not connected");
    if (!stream && getpeername(sock->fd, ret_addr, len) < 0)
        return client_fail(-errno, "getpeername: %s", strerror(errno));
    return 0;
}

int usher_kernel_fd(struct usher_socket *sock) {
    if (sock->st && client_kstream_fd(sock))
        return -1;
    return sock->fd;
}

void usher_set_user(struct usher_socket *sock, void *user) {
    sock->user = user;
}

void *usher_user(struct usher_socket *sock) {
    return sock->user;
}

int usher_socket_info(struct usher_socket *sock, struct usher_socket_info *ret_info) {
    struct usher_context *ctx = sock->ctx;
    int err = client_enter(ctx);
    if (err)
        return err;
    struct usher_socket_info info = {.accelerated = sock->set != NULL, .worker_cpu = UINT32_MAX};
    memcpy(info.reason, sock->reason, sizeof(info.reason));
    if (sock->set) {
        info.handle = sock->handle;
        info.worker_cpu = (uint32_t)__atomic_load_n(&sock->set->shared->worker_cpu, __ATOMIC_RELAXED);
        info.rx_quota = sock->rx_quota;
        info.tx_limit = sock->tx_limit;
        info.rx_dropped =
            __atomic_load_n(&ctx->shared_sockets[USH_HANDLE_INDEX(sock->handle)].rx_dropped, __ATOMIC_RELAXED);
    }
    client_leave(ctx);
    *ret_info = info;
    return 0;
}
