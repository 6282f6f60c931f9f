/* SPDX-License-Identifier: Apache-2.0
 *
 * A poll loop over the listening socket, the connection of the usherd that lives, its pidfd and a deadline. Everything
 * is one thread and plain calls; the table of fds is an array, because it is small and looked at rarely.
 */
#include "control/keeper/hold.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5; absent from Debian 12's headers */
#endif

#define NEVER UINT64_MAX

struct held {
    int fd;
    char name[KEEPER_NAME_MAX];
};

struct hold {
    int listen_fd, peer_fd, peer_pidfd;
    uint64_t grace_ns, deadline; /* NEVER while an usherd lives */
    struct held held[KEEPER_FD_MAX];
    uint32_t count;
    bool done;
    char *const *cleanup;
    pid_t cleanup_pid;             /* that runs; 0 = none */
    struct keeper_message message; /* too large for a stack frame */
    int fds[KEEPER_BATCH_MAX];
};

static uint64_t now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void fds_close(const int *fds, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        (void)close(fds[i]);
}

static void held_drop(struct hold *h, const char *name) {
    for (uint32_t i = 0; i < h->count; i++) {
        if (strcmp(h->held[i].name, name) == 0) {
            (void)close(h->held[i].fd);
            h->held[i] = h->held[--h->count];
            return;
        }
    }
}

static void held_put(struct hold *h, const char *name, int fd) {
    held_drop(h, name);
    if (h->count == KEEPER_FD_MAX) {
        (void)close(fd);
        return;
    }
    struct held *e = &h->held[h->count++];
    e->fd = fd;
    memcpy(e->name, name, KEEPER_NAME_MAX);
}

/* ---- the end of a grace period ---- */

static bool lasts(const struct held *e) {
    return strncmp(e->name, KEEPER_LASTING, strlen(KEEPER_LASTING)) == 0;
}

/* It takes away what no fd holds, and would tell us to end as well. */
static void cleanup_start(struct hold *h) {
    h->cleanup_pid = h->cleanup != NULL ? fork() : 0;
    if (h->cleanup == NULL || h->cleanup_pid > 0)
        return;
    if (h->cleanup_pid == 0) {
        (void)execv(h->cleanup[0], h->cleanup);
        _exit(127);
    }
    h->cleanup_pid = 0; /* it was not to be; what an usherd does when it comes again is the same */
}

static bool is_cleanup(struct hold *h, pid_t pid) {
    if (h->cleanup_pid != 0 && waitpid(h->cleanup_pid, NULL, WNOHANG) != 0)
        h->cleanup_pid = 0; /* and its number may be another's by now */
    return h->cleanup_pid != 0 && pid == h->cleanup_pid;
}

static void grace_end(struct hold *h) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < h->count; i++) {
        if (lasts(&h->held[i]))
            h->held[kept++] = h->held[i];
        else
            (void)close(h->held[i].fd);
    }
    h->count = kept;
    h->deadline = NEVER;
    h->done = kept == 0;
    if (kept > 0)
        cleanup_start(h);
}

/* ---- the usherd that lives ---- */

static void peer_lost(struct hold *h) {
    (void)close(h->peer_fd);
    (void)close(h->peer_pidfd);
    h->peer_fd = h->peer_pidfd = -1;
    h->deadline = now_ns() + h->grace_ns;
}

static int pidfd_of(int fd) {
    struct ucred peer;
    socklen_t len = sizeof(int);
    int pidfd;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0)
        return pidfd;
    len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
        return -1;
    return pidfd_open(peer.pid, 0);
}

static bool peer_allowed(struct hold *h, int fd) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == geteuid() &&
           !is_cleanup(h, peer.pid);
}

static int all_send(struct hold *h, int fd) {
    uint32_t sent = 0;
    do {
        struct keeper_message *m = &h->message;
        uint32_t left = h->count - sent;
        m->version = KEEPER_VERSION;
        m->op = KEEPER_FDS;
        m->count = left < KEEPER_BATCH_MAX ? left : KEEPER_BATCH_MAX;
        m->more = left > m->count;
        for (uint32_t i = 0; i < m->count; i++) {
            h->fds[i] = h->held[sent + i].fd;
            memcpy(m->names[i], h->held[sent + i].name, KEEPER_NAME_MAX);
        }
        int err = keeper_send(fd, m, h->fds);
        if (err != 0)
            return err;
        sent += m->count;
    } while (h->message.more);
    return 0;
}

static void peer_message(struct hold *h) {
    uint32_t fd_count;
    struct keeper_message *m = &h->message;
    int got = keeper_receive(h->peer_fd, m, h->fds, &fd_count);
    if (got != 1) {
        fds_close(h->fds, fd_count);
        peer_lost(h);
        return;
    }
    switch (m->op) {
    case KEEPER_HELLO:
        h->grace_ns = m->grace_ns;
        if (all_send(h, h->peer_fd) != 0)
            peer_lost(h);
        break;
    case KEEPER_PUT:
        for (uint32_t i = 0; i < m->count; i++)
            held_put(h, m->names[i], h->fds[i]);
        break;
    case KEEPER_DROP:
        for (uint32_t i = 0; i < m->count; i++)
            held_drop(h, m->names[i]);
        break;
    case KEEPER_BYE:
        h->done = true;
        break;
    default:
        fds_close(h->fds, fd_count);
        peer_lost(h);
    }
}

static void peer_take(struct hold *h, int fd) {
    h->peer_fd = fd;
    h->peer_pidfd = pidfd_of(fd);
    h->deadline = NEVER;
    if (h->peer_pidfd < 0)
        peer_lost(h);
}

static void successor_accept(struct hold *h) {
    int fd = accept4(h->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (!peer_allowed(h, fd)) {
        (void)close(fd);
    } else if (h->peer_fd >= 0) {
        struct keeper_message *m = &h->message;
        *m = (struct keeper_message){.version = KEEPER_VERSION, .op = KEEPER_BUSY};
        (void)keeper_send(fd, m, NULL);
        (void)close(fd);
    } else {
        peer_take(h, fd);
    }
}

/* ---- the loop ---- */

static int listen_open(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (path == NULL)
        return -1;
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* usherd starts a keeper only after it found nobody answering here. */
    (void)unlink(path);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 4) != 0) {
        int err = -errno;
        (void)close(fd);
        return err;
    }
    return fd;
}

static int wait_ms(const struct hold *h) {
    if (h->deadline == NEVER)
        return -1;
    uint64_t now = now_ns();
    return h->deadline <= now ? 0 : (int)((h->deadline - now) / 1000000 + 1);
}

static void turn(struct hold *h) {
    struct pollfd p[3] = {{.fd = h->listen_fd, .events = POLLIN},
                          {.fd = h->peer_fd, .events = POLLIN},
                          {.fd = h->peer_pidfd, .events = POLLIN}};
    int n = poll(p, 3, wait_ms(h));
    if (n < 0 && errno != EINTR) {
        h->done = true;
        return;
    }
    /* Messages before death, so that an orderly BYE is not taken for a crash; and death before a successor, so that one
     * that comes at once is not told that its predecessor lives. */
    if (p[1].revents != 0)
        peer_message(h);
    else if (p[2].revents != 0 && h->peer_fd >= 0)
        peer_lost(h);
    else if (p[0].revents != 0)
        successor_accept(h);
    if (h->deadline != NEVER && now_ns() >= h->deadline)
        grace_end(h);
}

int hold_run(const struct hold_params *params) {
    struct hold *h = calloc(1, sizeof *h);
    if (h == NULL)
        return -ENOMEM;
    h->peer_fd = h->peer_pidfd = -1;
    h->grace_ns = params->grace_ns;
    h->cleanup = params->cleanup;
    h->listen_fd = listen_open(params->path);
    if (h->listen_fd < -1) {
        int err = h->listen_fd;
        free(h);
        return err;
    }
    h->deadline = now_ns() + h->grace_ns;
    if (params->first >= 0)
        peer_take(h, params->first);
    while (!h->done)
        turn(h);
    for (uint32_t i = 0; i < h->count; i++)
        (void)close(h->held[i].fd);
    if (params->path != NULL)
        (void)unlink(params->path);
    if (h->listen_fd >= 0)
        (void)close(h->listen_fd);
    if (h->peer_fd >= 0)
        peer_lost(h);
    free(h);
    return 0;
}
