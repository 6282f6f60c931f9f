/* SPDX-License-Identifier: Apache-2.0
 *
 * A context's life: attach, detach, usherd's end, and fork. Any thread.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "clientlib/src/internal.h"
#include "clientlib/src/tags.h"

/* Counts the forks between the first ancestor that used the library and this process. */
uint32_t client_generation;
static struct usher_context *all_contexts;
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;

int client_forked(void) {
    return client_fail_fast(-EPERM, "this context belongs to the parent process; the child must open its own with "
                                    "usher_context_open()");
}

void client_close_fd(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Holds every context still, so that the child finds whole lists. */
static void before_fork(void) {
    pthread_mutex_lock(&all_lock);
    for (struct usher_context *c = all_contexts; c; c = c->list_next)
        client_lock_take(&c->lock);
}

static void after_fork_parent(void) {
    for (struct usher_context *c = all_contexts; c; c = c->list_next)
        client_lock_give(&c->lock);
    pthread_mutex_unlock(&all_lock);
}

/* The child keeps none of the parent's session: no fd that would keep a port or the session alive, no shared memory
 * that it could write to. Only calls that are safe after fork() of a program with threads. */
static void after_fork_child(void) {
    for (struct usher_context *c = all_contexts; c; c = c->list_next) {
        for (struct usher_socket *s = c->sockets; s; s = s->next)
            if (!s->borrowed)
                client_close_fd(&s->fd);
        for (uint32_t i = 0; i < c->set_count; i++)
            client_close_fd(&c->sets[i]->kick_fd);
        client_close_fd(&c->session_fd);
        client_close_fd(&c->wake_fd);
        client_close_fd(&c->epoll_fd);
        client_close_fd(&c->timer_fd);
        client_close_fd(&c->memfd);
        if (c->base)
            munmap(c->base, c->h.total_size);
        c->base = NULL;
    }
    all_contexts = NULL;
    client_generation++;
    pthread_mutex_unlock(&all_lock);
}

static void register_fork(void) {
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

void client_fork_watch(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork);
}

static void list_add(struct usher_context *ctx) {
    client_fork_watch();
    pthread_mutex_lock(&all_lock);
    ctx->list_next = all_contexts;
    ctx->list_prev_next = &all_contexts;
    if (all_contexts)
        all_contexts->list_prev_next = &ctx->list_next;
    all_contexts = ctx;
    pthread_mutex_unlock(&all_lock);
}

static void list_remove(struct usher_context *ctx) {
    pthread_mutex_lock(&all_lock);
    if (ctx->list_prev_next) {
        *ctx->list_prev_next = ctx->list_next;
        if (ctx->list_next)
            ctx->list_next->list_prev_next = ctx->list_prev_next;
    }
    pthread_mutex_unlock(&all_lock);
}

static int connect_fail(int err, const char *path) {
    switch (err) {
    case ENOENT:
        return client_fail(-err,
                           "no usherd at %s: start it (systemctl start usherd), or set USHER_SOCKET to where "
                           "its session socket is",
                           path);
    case ECONNREFUSED:
        return client_fail(-err,
                           "usherd does not run: %s is there but nobody listens; start it (systemctl start "
                           "usherd)",
                           path);
    case EACCES:
        return client_fail(-err,
                           "this user may not use %s: add it to the group that owns the socket, or widen "
                           "sessions.mode in usherd's settings",
                           path);
    default:
        return client_fail(-err, "connecting to usherd at %s: %s", path, strerror(err));
    }
}

int client_session_connect(struct usher_context *ctx, const char *path, int *ret_fd) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    (void)ctx;
    if (strlen(path) >= sizeof(sa.sun_path))
        return client_fail(-ENAMETOOLONG, "the path of usherd's socket is longer than %zu bytes: %s",
                           sizeof(sa.sun_path) - 1, path);
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return client_fail(-errno, "socket for usherd's session: %s", strerror(errno));
    fd = client_place_fd(fd);
    const struct timeval patience = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        int err = errno;
        close(fd);
        return connect_fail(err, path);
    }
    *ret_fd = fd;
    return 0;
}

static int watch(struct usher_context *ctx, int fd, uint32_t events, uint64_t tag) {
    struct epoll_event ev = {.events = events, .data.u64 = tag};
    if (epoll_ctl(ctx->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return client_fail(-errno, "watching the session's file descriptors: %s", strerror(errno));
    return 0;
}

/* usherd never speaks unasked, but for its farewell: only its end is of interest. */
int client_session_watch(struct usher_context *ctx) {
    int err = watch(ctx, ctx->wake_fd, EPOLLIN, TAG_WAKE);
    return err ? err : watch(ctx, ctx->session_fd, EPOLLRDHUP, TAG_SESSION);
}

static int make_epoll(struct usher_context *ctx) {
    ctx->epoll_fd = client_place_fd(epoll_create1(EPOLL_CLOEXEC));
    ctx->timer_fd = client_place_fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (ctx->epoll_fd < 0 || ctx->timer_fd < 0)
        return client_fail(-errno, "epoll and timer of the session: %s", strerror(errno));
    int err = client_session_watch(ctx);
    return err ? err : watch(ctx, ctx->timer_fd, EPOLLIN, TAG_TIMER);
}

static int spin_wish(const struct usher_context_params *p) {
    if (p->spin_us >= 0)
        return p->spin_us;
    const char *s = secure_getenv("USHER_SPIN_US");
    if (!s || !*s)
        return -1;
    char *end;
    long v = strtol(s, &end, 10);
    return *end == 0 && v >= 0 && v <= 1000000 ? (int)v : -1;
}

static int attach(struct usher_context *ctx, const struct usher_context_params *p) {
    const char *path = p->socket_path ? p->socket_path : secure_getenv("USHER_SOCKET");
    path = path && *path ? path : CLIENT_DEFAULT_PATH;
    int err = client_session_connect(ctx, path, &ctx->session_fd);
    if (err)
        return err;
    snprintf(ctx->path, sizeof(ctx->path), "%s", path);
    snprintf(ctx->label, sizeof(ctx->label), "%s", p->label ? p->label : program_invocation_short_name);
    struct client_answer a = {0};
    ctx->returning = true; /* nobody waits for a successor of one that did not even answer */
    err = client_rpc_attach(ctx, p, ctx->label, &a);
    ctx->returning = false;
    if (err)
        return err == -ENETDOWN ? client_fail(-ECONNREFUSED, "usherd closed the session while attaching; its log says "
                                                             "why (usherctl log, or journalctl -u usherd)")
                                : err;
    ctx->memfd = client_place_fd(a.fds[0]);
    ctx->comeback_ms = a.comeback_ms;
    memcpy(ctx->key, a.key, sizeof(ctx->key));
    ctx->life = 1;
    ctx->wake_fd = client_place_fd(a.fds[1]);
    (void)fcntl(ctx->wake_fd, F_SETFL, O_NONBLOCK);
    ctx->session_id = a.session_id;
    memcpy(ctx->daemon_version, a.version, sizeof(ctx->daemon_version));
    if (a.abi < USH_ABI_MIN || a.abi > USH_ABI_MAX)
        return client_fail(-EPROTO,
                           "usherd %s speaks version %u of the shared memory, this libusher %u to %u; upgrade "
                           "the older of the two",
                           a.version, a.abi, USH_ABI_MIN, USH_ABI_MAX);
    err = client_shm_map(ctx, ctx->memfd);
    if (ctx->comeback_ms == 0)
        client_close_fd(&ctx->memfd);
    return err ? err : make_epoll(ctx);
}

static void context_free(struct usher_context *ctx) {
    ctx->down = true; /* nothing below may write to the rings */
    while (ctx->sockets) {
        struct usher_socket *s = ctx->sockets;
        ctx->sockets = s->next;
        client_park_purge(s);
        client_socket_free(s);
    }
    client_park_fini(ctx);
    client_kbuf_fini(ctx);
    client_shm_unmap(ctx);
    client_close_fd(&ctx->session_fd);
    client_close_fd(&ctx->wake_fd);
    client_close_fd(&ctx->epoll_fd);
    client_close_fd(&ctx->timer_fd);
    client_close_fd(&ctx->memfd);
    for (struct client_port *p; (p = ctx->ports_due) != NULL; free(p)) { /* usherd gives them up with the session */
        ctx->ports_due = p->next;
        client_close_fd(&p->fd);
    }
    free(ctx->scratch);
    free(ctx);
}

int usher_context_open(const struct usher_context_params *params, struct usher_context **ret_ctx) {
    const struct usher_context_params defaults = {.spin_us = -1};
    const struct usher_context_params *p = params ? params : &defaults;
    struct usher_context *ctx = calloc(1, sizeof(*ctx));
    if (!ctx)
        return client_fail(-ENOMEM, "no memory for a context");
    ctx->session_fd = ctx->wake_fd = ctx->epoll_fd = ctx->timer_fd = ctx->memfd = -1;
    ctx->generation = client_generation;
    ctx->flags = p->flags;
    ctx->spin_us = spin_wish(p);
    ctx->owed_max = CLIENT_OWED_MAX;
    ctx->tune.score = 128;
    int err = attach(ctx, p);
    if (err) {
        context_free(ctx);
        return err;
    }
    list_add(ctx);
    *ret_ctx = ctx;
    return 0;
}

/* Datagrams that are under way still go: by usherd, or by the kernel when it gives them back. An exchange for each
 * socket that has some, none for the others. */
static void let_go(struct usher_context *ctx) {
    if (ctx->away)
        return;
    for (struct usher_socket *s = ctx->sockets, *next; s; s = next) {
        next = s->next;
        if (s->set && !s->st && s->sent != __atomic_load_n(&ctx->shared_sockets[s->handle].tx_done, __ATOMIC_ACQUIRE))
            usher_close(s);
    }
    for (uint32_t i = 0; i < ctx->set_count && !ctx->down; i++)
        client_bounce_scan(ctx, ctx->sets[i]);
}

void usher_context_close(struct usher_context *ctx) {
    if (!ctx)
        return;
    /* In a fork's child the handler has closed and unmapped all that was shared; what is left is plain memory. */
    if (ctx->generation == client_generation) {
        let_go(ctx);
        list_remove(ctx);
    }
    context_free(ctx);
}

void client_reclaim(struct usher_context *ctx) {
    for (uint32_t i = 0; i < ctx->set_count; i++) {
        struct client_set *s = ctx->sets[i];
        for (; s->sq_reaped != s->sq_pos; s->sq_reaped++) {
            uint32_t buf = s->sq_buf[s->sq_reaped & s->sq_mask];
            if (buf != TXBUF_NONE)
                txbuf_give(&ctx->txbuf, buf);
        }
        s->release_count = 0;
        s->release_bytes = s->owed = 0;
        s->kick_due = false;
        if (ctx->away) /* looks full: the fast path need not ask */
            s->sq_reaped = s->sq_pos - s->sq_mask - 1;
    }
    txbuf_return_all(&ctx->txbuf);
    ctx->tx_freed = true;
}

void client_go_down(struct usher_context *ctx, const char *why) {
    if (ctx->down)
        return;
    if (ctx->away) { /* reclaimed already */
        for (uint32_t i = 0; i < ctx->set_count; i++)
            ctx->sets[i]->sq_reaped = ctx->sets[i]->sq_pos;
        __atomic_store_n(&ctx->away, false, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&ctx->down, true, __ATOMIC_RELAXED);
    ctx->down_event = ctx->down_errno = true;
    if (ctx->epoll_fd >= 0 && !ctx->confined) {
        if (ctx->session_fd >= 0)
            epoll_ctl(ctx->epoll_fd, EPOLL_CTL_DEL, ctx->session_fd, NULL);
        if (ctx->wake_fd >= 0)
            epoll_ctl(ctx->epoll_fd, EPOLL_CTL_DEL, ctx->wake_fd, NULL);
    }
    for (struct usher_socket *s = ctx->sockets; s; s = s->next)
        client_socket_to_kernel(s, why);
    client_reclaim(ctx);
    /* It may be us who give up: usherd then ends the session, and the ports are the kernel sockets' again. */
    if (ctx->session_fd >= 0)
        shutdown(ctx->session_fd, SHUT_RDWR);
    client_waiters_wake(ctx);
}

int usher_owner_refresh(struct usher_context *ctx) {
    client_rpc_begin(ctx);
    int err = client_rpc_refresh_owner(ctx);
    client_rpc_end(ctx);
    return err;
}
