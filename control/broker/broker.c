/* SPDX-License-Identifier: Apache-2.0
 *
 * The listening socket, the list of connections and what each user has. Knows nothing of messages.
 */
#include "control/broker/broker.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/broker/broker_internal.h"
#include "control/log.h"

#define ACCEPT_PER_TURN 16

static int fail(char *err, size_t err_size, int error, const char *what, const char *path, const char *todo) {
    (void)snprintf(err, err_size, "cannot %s %s: %s; %s", what, path, strerror(-error), todo);
    return error;
}

/* A path is free when nobody answers there any more. */
static int path_claim(const struct sockaddr_un *addr) {
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int alive = connect(fd, (const struct sockaddr *)addr, sizeof *addr) == 0 || errno == EAGAIN;
    (void)close(fd);
    if (alive)
        return -EADDRINUSE;
    return unlink(addr->sun_path) == 0 || errno == ENOENT ? 0 : -errno;
}

static int path_own(const char *path, const char *group, uint32_t mode) {
    if (group[0] != '\0') {
        const struct group *g = getgrnam(group);
        if (g == NULL)
            return -ESRCH;
        if (chown(path, (uid_t)-1, g->gr_gid) != 0)
            return -errno;
    }
    return chmod(path, mode) == 0 ? 0 : -errno;
}

static int listen_open(struct broker *b, char *err, size_t err_size) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    (void)snprintf(addr.sun_path, sizeof addr.sun_path, "%s", b->path);
    int error = path_claim(&addr);
    if (error == -EADDRINUSE)
        return fail(err, err_size, error, "listen on", b->path,
                    "another usherd serves there: stop it, or give this one its own run_dir");
    if (error != 0)
        return fail(err, err_size, error, "make room at", b->path, "check that run_dir is writable");
    b->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (b->listen_fd < 0)
        return fail(err, err_size, -errno, "make the socket for", b->path, "raise the limit of open files");
    /* Inherited by accepted sockets, so that not even the first message comes without its credentials. */
    int one = 1;
    mode_t mask = umask(0777); /* nobody may connect before the rights are set */
    error = setsockopt(b->listen_fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) != 0 ||
                    bind(b->listen_fd, (struct sockaddr *)&addr, sizeof addr) != 0
                ? -errno
                : 0;
    (void)umask(mask);
    if (error != 0)
        return fail(err, err_size, error, "bind", b->path, "check that run_dir exists and is writable");
    error = path_own(b->path, b->params.group, b->params.mode);
    if (error != 0)
        return fail(err, err_size, error, "set group and mode of", b->path, "check sessions.group");
    if (listen(b->listen_fd, 64) != 0)
        return fail(err, err_size, -errno, "listen on", b->path, "see the system's log");
    return 0;
}

static uint32_t connection_limit(const struct broker *b) {
    return b->params.limits.sessions + 64;
}

static int on_accept(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct broker *b = arg;
    (void)source;
    (void)events;
    for (int i = 0; i < ACCEPT_PER_TURN; i++) {
        int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client < 0)
            return 0;
        int error = b->stats.connections < connection_limit(b) ? connection_create(b, client) : -EMFILE;
        if (error != 0) {
            b->stats.refused++;
            log_warning("session.refuse", "a connection was closed at once: %s", strerror(-error));
            (void)close(client);
        }
    }
    return 0;
}

int broker_create(const struct broker_params *params, struct broker **ret_broker, char *err, size_t err_size) {
    struct broker *b = calloc(1, sizeof *b);
    if (b == NULL)
        return fail(err, err_size, -ENOMEM, "make", "the session broker", "free some memory");
    b->params = *params;
    b->listen_fd = -1;
    b->next_session_id = 1;
    (void)snprintf(b->path, sizeof b->path, "%s", params->path);
    int error = listen_open(b, err, err_size);
    if (error == 0)
        error = sd_event_add_io(params->event, &b->listen_io, b->listen_fd, EPOLLIN, on_accept, b);
    if (error < 0) {
        if (b->listen_fd >= 0)
            (void)close(b->listen_fd);
        free(b);
        return error;
    }
    *ret_broker = b;
    return 0;
}

void broker_destroy(struct broker *b) {
    if (b == NULL)
        return;
    /* No new ones while the old ones end. */
    (void)unlink(b->path);
    sd_event_source_disable_unref(b->listen_io);
    (void)close(b->listen_fd);
    while (b->connections != NULL)
        connection_end(b->connections, DETACH_DAEMON_STOPS);
    free(b);
}

void broker_reap(struct broker *b) {
    enum detach_reason why;
    struct session *s;
    while ((s = session_next_detached(b->params.rt, &why)) != NULL) {
        struct connection *c = b->connections;
        while (c != NULL && c->session != s)
            c = c->next;
        if (c != NULL)
            connection_end(c, why);
    }
}

void broker_stats_read(const struct broker *b, struct broker_stats *ret_stats) {
    *ret_stats = b->stats;
}

struct uid_use *broker_use_take(struct broker *b, uint32_t uid) {
    struct uid_use *u = b->uses;
    while (u != NULL && u->uid != uid)
        u = u->next;
    if (u == NULL) {
        u = calloc(1, sizeof *u);
        if (u == NULL)
            return NULL;
        u->uid = uid;
        u->next = b->uses;
        b->uses = u;
    }
    u->connections++;
    return u;
}

void broker_use_give(struct broker *b, struct uid_use *u) {
    if (--u->connections > 0)
        return;
    struct uid_use **link = &b->uses;
    while (*link != u)
        link = &(*link)->next;
    *link = u->next;
    free(u);
}
