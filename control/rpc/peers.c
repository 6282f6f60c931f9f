/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is behind a connection and what the caller may have. A UNIX connection is judged by the kernel's word on the
 * process that made it, before the core gets the descriptor; a TLS one by the names in the certificate that the core
 * has verified, at each call.
 *
 * The core tells a call's UNIX connection as "fd:<number>". Numbers are given out from a wide range in turn, so that
 * one is not used again while a call of its last owner may still be under way.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/log.h"
#include "control/rpc/rpc_internal.h"

#define GROUPS_MAX 1024
#define FD_FIRST   1000
#define FD_LAST    60000

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

const char *rpc_role_text(enum rpc_role role) {
    static const char *const words[RPC_ROLE_COUNT] = {"none", "viewer", "operator", "admin"};
    return (uint32_t)role < RPC_ROLE_COUNT ? words[role] : "none";
}

/* ---- what a caller has ---- */

static struct rpc_use *use_find(struct rpc_server *s, const char *name) {
    for (struct rpc_use *u = s->uses; u != NULL; u = u->next) {
        if (strcmp(u->name, name) == 0)
            return u;
    }
    struct rpc_use *u = calloc(1, sizeof *u);
    if (u == NULL)
        return NULL;
    (void)snprintf(u->name, sizeof u->name, "%s", name);
    u->tokens = 2000000ull * s->params.limits.caller_rate;
    u->tokens_us = rpc_now_us();
    u->next = s->uses;
    s->uses = u;
    return u;
}

/* A caller's spent tokens outlive its connections, or connecting anew would give fresh ones. */
static void uses_sweep(struct rpc_server *s) {
    uint64_t now = rpc_now_us();
    for (struct rpc_use **link = &s->uses; *link != NULL;) {
        struct rpc_use *u = *link;
        if (u->connections > 0 || u->calls > 0 || now - u->tokens_us < 2000000) {
            link = &u->next;
            continue;
        }
        *link = u->next;
        free(u);
    }
}

static bool rate_allows(struct rpc_server *s, struct rpc_use *u) {
    uint64_t rate = s->params.limits.caller_rate, now = rpc_now_us();
    uint64_t most = 2000000 * rate, gained = (now - u->tokens_us) * rate;
    if (rate == 0)
        return true;
    u->tokens = u->tokens + gained < most ? u->tokens + gained : most;
    u->tokens_us = now;
    if (u->tokens < 1000000)
        return false;
    u->tokens -= 1000000;
    return true;
}

/* ---- roles ---- */

/* Names become numbers once: asking for them at each connection could wait for a directory server. */
int rpc_grants_resolve(struct rpc_server *s) {
    s->grants = calloc(s->params.grant_count + 1, sizeof *s->grants);
    for (size_t i = 0; s->grants != NULL && i < s->params.grant_count; i++) {
        const struct rpc_grant *g = &s->params.grants[i];
        const struct passwd *user = g->user != NULL ? getpwnam(g->user) : NULL;
        const struct group *group = g->group != NULL ? getgrnam(g->group) : NULL;
        s->grants[i] = (struct rpc_grant_ids){.by_user = user != NULL, .by_group = group != NULL};
        if (user != NULL)
            s->grants[i].uid = user->pw_uid;
        if (group != NULL)
            s->grants[i].gid = group->gr_gid;
        if ((g->user != NULL && user == NULL) || (g->group != NULL && group == NULL))
            log_warning("control.role", "control.roles: there is no %s %s; make it, or take it out",
                        g->user != NULL ? "user" : "group", g->user != NULL ? g->user : g->group);
    }
    return s->grants != NULL ? 0 : -ENOMEM;
}

static bool in_group(gid_t group, gid_t own, const gid_t *groups, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (groups[i] == group)
            return true;
    }
    return own == group;
}

static enum rpc_role role_of_process(const struct rpc_server *s, const struct ucred *peer, const gid_t *groups,
                                     size_t n) {
    enum rpc_role role = peer->uid == 0 || peer->uid == geteuid() ? RPC_ROLE_ADMIN : RPC_ROLE_NONE;
    for (size_t i = 0; i < s->params.grant_count; i++) {
        const struct rpc_grant_ids *g = &s->grants[i];
        bool fits = (g->by_user && g->uid == peer->uid) || (g->by_group && in_group(g->gid, peer->gid, groups, n));
        if (fits && s->params.grants[i].role > role)
            role = s->params.grants[i].role;
    }
    return role;
}

static int caller_read(const struct rpc_server *s, int fd, struct rpc_caller *ret_caller) {
    struct ucred peer;
    gid_t groups[GROUPS_MAX];
    socklen_t length = sizeof peer, groups_length = sizeof groups;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        return -errno;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &groups_length) != 0)
        groups_length = 0; /* in more groups than anybody is: by its first one, then */
    *ret_caller = (struct rpc_caller){
        .role = role_of_process(s, &peer, groups, groups_length / sizeof groups[0]),
        .uid = peer.uid,
        .gid = peer.gid,
        .pid = (uint32_t)peer.pid,
    };
    /* Only a caller with a role is worth the look into the directory. */
    const struct passwd *user = ret_caller->role != RPC_ROLE_NONE ? getpwuid(peer.uid) : NULL;
    if (user != NULL)
        (void)snprintf(ret_caller->name, sizeof ret_caller->name, "%s", user->pw_name);
    else
        (void)snprintf(ret_caller->name, sizeof ret_caller->name, "uid %u", peer.uid);
    return 0;
}

/* ---- connections ---- */

struct rpc_connection *rpc_peer_add(struct rpc_server *s, const char *peer, const struct rpc_caller *caller) {
    char name[72];
    const struct rpc_limits *l = &s->params.limits;
    if (caller->tls)
        (void)snprintf(name, sizeof name, "at %.*s", (int)strcspn(caller->address, " "), caller->address);
    else
        (void)snprintf(name, sizeof name, "uid %u", caller->uid);
    char *port = caller->tls ? strrchr(name, ':') : NULL;
    if (port != NULL)
        *port = '\0'; /* connections of one host count together */
    struct rpc_use *use = use_find(s, name);
    struct rpc_connection *conn = calloc(1, sizeof *conn);
    if (use == NULL || conn == NULL || s->stats.connections_now >= l->connections ||
        use->connections >= l->caller_connections) {
        free(conn);
        s->stats.refused_connections++;
        return NULL;
    }
    (void)snprintf(conn->peer, sizeof conn->peer, "%s", peer);
    conn->fd = -1;
    conn->caller = *caller;
    conn->use = use;
    use->connections++;
    conn->next = s->connections;
    s->connections = conn;
    s->stats.connections++;
    s->stats.connections_now++;
    s->empty_since_us = 0;
    return conn;
}

void rpc_peer_remove(struct rpc_server *s, struct rpc_connection *conn) {
    struct rpc_connection **link = &s->connections;
    while (*link != conn)
        link = &(*link)->next;
    *link = conn->next;
    conn->use->connections--;
    s->stats.connections_now--;
    free(conn);
}

static int fd_renumber(struct rpc_server *s, int fd) {
    struct rlimit files;
    int last = getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < FD_LAST ? (int)files.rlim_cur - 1 : FD_LAST;
    int first = FD_FIRST < last ? FD_FIRST : last / 2;
    for (int tries = 0; tries < 2; tries++) {
        if (s->next_fd < first || s->next_fd > last)
            s->next_fd = first;
        int moved = fcntl(fd, F_DUPFD_CLOEXEC, s->next_fd);
        if (moved >= 0 && moved <= last) {
            s->next_fd = moved + 1;
            return moved;
        }
        if (moved >= 0)
            (void)close(moved);
        s->next_fd = 0; /* the range is used up: from its beginning */
    }
    return -EMFILE;
}

static bool connection_alive(const struct rpc_connection *conn) {
    struct stat st;
    return fstat(conn->fd, &st) == 0 && st.st_ino == conn->ino;
}

uint32_t rpc_peers_sweep(struct rpc_server *s) {
    uint32_t left = 0;
    for (struct rpc_connection *c = s->connections, *next; c != NULL; c = next) {
        next = c->next;
        if (c->relay != NULL || connection_alive(c))
            left++;
        else
            rpc_peer_remove(s, c);
    }
    uses_sweep(s);
    return left;
}

void rpc_peers_clear(struct rpc_server *s) {
    while (s->connections != NULL)
        rpc_peer_remove(s, s->connections);
}

static void refuse(int fd, const struct rpc_caller *caller, const char *why) {
    log_warning("control.refuse", "a connection of %s (uid %u, pid %u) was refused: %s", caller->name, caller->uid,
                caller->pid, why);
    (void)close(fd);
}

void rpc_peer_accept(struct rpc_server *s, int fd) {
    struct rpc_caller caller;
    char peer[32];
    struct stat st;
    int error = caller_read(s, fd, &caller);
    if (error != 0) {
        (void)close(fd);
        return;
    }
    if (caller.role == RPC_ROLE_NONE) {
        s->stats.refused_connections++;
        refuse(fd, &caller, "it has no role; the setting control.roles gives roles to users and groups");
        return;
    }
    error = rpc_core_start(s);
    int moved = error == 0 ? fd_renumber(s, fd) : error;
    if (moved < 0 || fstat(moved, &st) != 0) {
        refuse(fd, &caller, strerror(moved < 0 ? -moved : errno));
        return;
    }
    (void)close(fd);
    (void)rpc_peers_sweep(s);
    (void)snprintf(peer, sizeof peer, "fd:%d", moved);
    struct rpc_connection *conn = rpc_peer_add(s, peer, &caller);
    if (conn == NULL) {
        refuse(moved, &caller, "there are too many connections; close some, or raise control.connections");
        return;
    }
    conn->fd = moved;
    conn->ino = st.st_ino;
    grpc_server_add_channel_from_fd(s->door[RPC_DOOR_UNIX], moved, s->insecure);
}

/* ---- calls ---- */

static const struct rpc_connection *connection_of(struct rpc_call *c) {
    char *peer = grpc_call_get_peer(c->core);
    const struct rpc_connection *conn = c->server->connections;
    while (conn != NULL && (peer == NULL || strcmp(conn->peer, peer) != 0))
        conn = conn->next;
    gpr_free(peer);
    return conn;
}

static void name_try(const struct rpc_server *s, const grpc_auth_property *p, struct rpc_caller *caller) {
    for (size_t i = 0; i < s->params.grant_count; i++) {
        const struct rpc_grant *g = &s->params.grants[i];
        if (g->name == NULL || strlen(g->name) != p->value_length || memcmp(g->name, p->value, p->value_length) != 0 ||
            g->role <= caller->role)
            continue;
        caller->role = g->role;
        (void)snprintf(caller->name, sizeof caller->name, "%s", g->name);
    }
}

/* Names of the certificate that the handshake has verified. Without one that has a role the caller is named by the
 * first of them, so that the refusal says whom it refuses. */
static void certificate_read(struct rpc_call *c) {
    static const char *const kinds[] = {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME};
    grpc_auth_context *context = grpc_call_auth_context(c->core);
    for (size_t k = 0; context != NULL && k < sizeof kinds / sizeof kinds[0]; k++) {
        grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(context, kinds[k]);
        const grpc_auth_property *p;
        while ((p = grpc_auth_property_iterator_next(&it)) != NULL) {
            if (c->caller.name[0] == '\0')
                (void)snprintf(c->caller.name, sizeof c->caller.name, "%.*s", (int)p->value_length, p->value);
            name_try(c->server, p, &c->caller);
        }
    }
    grpc_auth_context_release(context);
}

static enum rpc_code use_take(struct rpc_call *c) {
    char name[72];
    const struct rpc_limits *l = &c->server->params.limits;
    if (c->caller.tls)
        (void)snprintf(name, sizeof name, "name %s", c->caller.name);
    else
        (void)snprintf(name, sizeof name, "uid %u", c->caller.uid);
    struct rpc_use *use = use_find(c->server, name);
    if (use == NULL)
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", NULL, "usherd has no memory for another caller");
    if (use->calls >= l->caller_calls) {
        c->server->stats.limited_calls++;
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", NULL,
                        "%s has %u calls and streams under way, the limit (control.caller_calls); end some",
                        c->caller.name, use->calls);
    }
    if (!rate_allows(c->server, use)) {
        c->server->stats.limited_calls++;
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "RATE_LIMIT", NULL,
                        "%s calls more than %u times a second, the limit (control.caller_rate); call less often",
                        c->caller.name, l->caller_rate);
    }
    use->calls++;
    c->use = use;
    return RPC_OK;
}

static bool caller_take(struct rpc_call *c) {
    const struct rpc_connection *conn = connection_of(c);
    if (conn == NULL || conn->caller.tls != (c->door == RPC_DOOR_TLS))
        return false;
    c->caller = conn->caller;
    if (c->caller.tls)
        certificate_read(c);
    return true;
}

enum rpc_code rpc_peer_identify(struct rpc_call *c) {
    if (!caller_take(c))
        return rpc_fail(c, RPC_UNAUTHENTICATED, "CALLER_UNKNOWN", NULL,
                        "usherd does not know who is behind this connection; connect anew");
    if (c->caller.role == RPC_ROLE_NONE) {
        c->server->stats.denied_calls++;
        return rpc_fail(c, RPC_UNAUTHENTICATED, "NAME_UNKNOWN", NULL,
                        "%s %s has no role; the setting control.roles gives roles to users, groups and names",
                        c->caller.tls ? "the certificate's name" : "user", c->caller.name);
    }
    return use_take(c);
}

/* The core's descriptor still says who is at the other end. */
static void connection_judge(const struct rpc_server *s, struct rpc_connection *conn) {
    struct rpc_caller now;
    if (conn->relay != NULL || !connection_alive(conn))
        return;
    conn->caller.role = caller_read(s, conn->fd, &now) == 0 ? now.role : RPC_ROLE_NONE;
}

void rpc_peers_judge(struct rpc_server *s) {
    for (struct rpc_connection *conn = s->connections; conn != NULL; conn = conn->next)
        connection_judge(s, conn);
    for (struct rpc_call *c = s->calls; c != NULL; c = c->next) {
        if (c->stream == NULL)
            continue;
        if (!caller_take(c))
            c->caller.role = RPC_ROLE_NONE;
        c->ready = c->ready || c->caller.role < c->method->role;
    }
}

void rpc_peer_release(struct rpc_call *c) {
    if (c->use != NULL)
        c->use->calls--;
    c->use = NULL;
}
