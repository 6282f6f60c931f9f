/* SPDX-License-Identifier: Apache-2.0
 *
 * The listening socket, the list of connections and what each user has. Knows nothing of messages.
 */
#include "control/broker/broker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/broker/broker_internal.h"
#include "control/broker/orphans.h"
#include "control/broker/shared.h"
#include "control/listener.h"
#include "control/log.h"

#define ACCEPT_PER_TURN 16

/* systemd's socket of that name, else one of our own. */
static int listen_open(struct broker *b, char *err, size_t err_size) {
    const struct listener_params p = {.path = b->path,
                                      .group = b->params.group,
                                      .mode = b->params.mode,
                                      .type = SOCK_SEQPACKET,
                                      .credentials = true,
                                      .group_setting = "sessions.group"};
    b->listen_fd = listener_passed("session", SOCK_SEQPACKET, true);
    b->passed = b->listen_fd >= 0;
    return b->passed ? 0 : listener_open_unix(&p, &b->listen_fd, err, err_size);
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
    if (b == NULL) {
        (void)snprintf(err, err_size, "no memory for the session broker");
        return -ENOMEM;
    }
    b->params = *params;
    b->listen_fd = -1;
    b->next_session_id = 1;
    (void)snprintf(b->path, sizeof b->path, "%s", params->path);
    int error = listen_open(b, err, err_size);
    if (error == 0)
        error = orphans_create(params->event, params->rt, params->claims, &b->orphans);
    if (error == 0)
        error = shared_create(params->event, params->rt, &b->shared);
    if (error == 0)
        error = sd_event_add_io(params->event, &b->listen_io, b->listen_fd, EPOLLIN, on_accept, b);
    if (error < 0) {
        if (b->listen_fd >= 0)
            (void)close(b->listen_fd);
        shared_destroy(b->shared);
        orphans_destroy(b->orphans);
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
    if (!b->passed)
        (void)unlink(b->path);
    sd_event_source_disable_unref(b->listen_io);
    (void)close(b->listen_fd);
    while (b->connections != NULL)
        connection_end(b->connections, DETACH_DAEMON_STOPS);
    shared_destroy(b->shared);
    orphans_destroy(b->orphans);
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

void broker_drain(struct broker *b, bool drain) {
    b->draining = drain;
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
        if (uid != 0)
            u->streams = session_quota_create(b->params.limits.streams_per_uid);
        if (uid != 0 && u->streams == NULL) {
            free(u);
            return NULL;
        }
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
    session_quota_release(u->streams);
    free(u);
}
