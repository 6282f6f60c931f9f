/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd's side of the fd stores. The keeper is asked first whether it still holds a predecessor's fds; only when
 * nobody answers is a new one started, with a socket pair it inherits, so that there is nothing to wait for.
 */
#include "control/keeper/store.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define KEEPER_FD 3 /* where the keeper finds its end of the pair */
#define ARG_COUNT 24

extern char **environ;

struct store {
    enum store_kind kind;
    int fd; /* KEEPER */
    char text[64];
    struct keeper_message message;
    int fds[KEEPER_BATCH_MAX];
    char names[KEEPER_FD_MAX][KEEPER_NAME_MAX]; /* SYSTEMD: what is there, to be removed at an orderly stop */
    size_t name_count;
};

/* ---- usher-keeper ---- */

static int keeper_connect(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    (void)close(fd);
    return -ENOENT;
}

static int keeper_spawn(const struct store_params *p, int child_fd, pid_t *ret_pid) {
    char number[24], grace[24];
    const char *argv[ARG_COUNT] = {p->program, "--fd", number, "--socket", p->socket, "--grace-ms", grace};
    size_t n = 7;
    (void)snprintf(number, sizeof number, "%d", KEEPER_FD);
    (void)snprintf(grace, sizeof grace, "%llu", (unsigned long long)(p->grace_ns / 1000000));
    if (p->cleanup != NULL) {
        argv[n++] = "--";
        for (size_t i = 0; p->cleanup[i] != NULL && n < ARG_COUNT - 1; i++)
            argv[n++] = p->cleanup[i];
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    (void)sigemptyset(&none); /* usherd's loop blocks signals; the keeper shall not inherit that */
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawnattr_init(&attr);
    (void)posix_spawnattr_setsigmask(&attr, &none);
    (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    int err = posix_spawn_file_actions_adddup2(&actions, child_fd, KEEPER_FD);
    /* It must not keep a pipe open that somebody reads usherd's output from. */
    for (int i = 0; i < 3 && err == 0; i++)
        err = posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
    if (err == 0)
        err = posix_spawn(ret_pid, p->program, &actions, &attr, (char *const *)argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)posix_spawnattr_destroy(&attr);
    return -err;
}

static int keeper_start(struct store *s, const struct store_params *p) {
    int pair[2];
    pid_t pid;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return -errno;
    /* dup2() onto the same number would leave close-on-exec set. */
    int child = fcntl(pair[1], F_DUPFD_CLOEXEC, KEEPER_FD + 1);
    int err = child >= 0 ? keeper_spawn(p, child, &pid) : -errno;
    (void)close(pair[1]);
    if (child >= 0)
        (void)close(child);
    if (err != 0) {
        (void)close(pair[0]);
        return err;
    }
    (void)snprintf(s->text, sizeof s->text, "usher-keeper, pid %d", (int)pid);
    return pair[0];
}

static void fds_take(struct store *s, uint32_t count, struct store_fd *fds, size_t max, size_t *n) {
    for (uint32_t i = 0; i < count; i++) {
        if (*n == max) {
            (void)close(s->fds[i]);
            continue;
        }
        fds[*n].fd = s->fds[i];
        memcpy(fds[*n].name, s->message.names[i], KEEPER_NAME_MAX);
        (*n)++;
    }
}

static int keeper_hello(struct store *s, uint64_t grace_ns, struct store_fd *ret_fds, size_t max, size_t *ret_count) {
    struct keeper_message *m = &s->message;
    *m = (struct keeper_message){.version = KEEPER_VERSION, .op = KEEPER_HELLO, .grace_ns = grace_ns};
    (void)keeper_send(s->fd, m, NULL); /* one that is busy may have closed already, and left a word why */
    *ret_count = 0;
    do {
        uint32_t count = 0;
        int got = keeper_receive(s->fd, m, s->fds, &count);
        if (got == 1 && m->op == KEEPER_BUSY)
            return -EBUSY;
        if (got != 1 || m->op != KEEPER_FDS)
            return -EPIPE;
        fds_take(s, count, ret_fds, max, ret_count);
    } while (m->more);
    return 0;
}

static int keeper_open(struct store *s, const struct store_params *p, struct store_fd *ret_fds, size_t max,
                       size_t *ret_count) {
    (void)snprintf(s->text, sizeof s->text, "usher-keeper of the usherd before");
    s->fd = keeper_connect(p->socket);
    int err = s->fd >= 0 ? keeper_hello(s, p->grace_ns, ret_fds, max, ret_count) : s->fd;
    if (err == 0 || err == -EBUSY)
        return err;
    /* It was not there, or ended while we spoke: whatever it held is gone. */
    if (s->fd >= 0)
        (void)close(s->fd);
    s->fd = keeper_start(s, p);
    return s->fd >= 0 ? keeper_hello(s, p->grace_ns, ret_fds, max, ret_count) : s->fd;
}

void store_finish(const char *socket_path) {
    static struct keeper_message bye = {.version = KEEPER_VERSION, .op = KEEPER_BYE};
    int fd = keeper_connect(socket_path);
    if (fd < 0)
        return;
    (void)keeper_send(fd, &bye, NULL);
    (void)close(fd);
}

/* ---- systemd ---- */

static void name_note(struct store *s, const char *name) {
    for (size_t i = 0; i < s->name_count; i++) {
        if (strcmp(s->names[i], name) == 0)
            return;
    }
    if (s->name_count < KEEPER_FD_MAX)
        (void)snprintf(s->names[s->name_count++], KEEPER_NAME_MAX, "%s", name);
}

static int systemd_open(struct store *s, struct store_fd *ret_fds, size_t max, size_t *ret_count) {
    char **names = NULL;
    int n = sd_listen_fds_with_names(0, &names); /* stays in the environment: listeners are looked for there too */
    (void)snprintf(s->text, sizeof s->text, "systemd's fd store");
    *ret_count = 0;
    for (int i = 0; i < n; i++) {
        int fd = SD_LISTEN_FDS_START + i;
        /* What is passed by socket activation was never stored. */
        if (*ret_count < max && sd_is_socket(fd, AF_UNSPEC, 0, 1) <= 0) {
            name_note(s, names[i]);
            ret_fds[*ret_count].fd = fd;
            (void)snprintf(ret_fds[(*ret_count)++].name, KEEPER_NAME_MAX, "%s", names[i]);
        }
        free(names[i]);
    }
    free((void *)names);
    return 0;
}

static int systemd_drop(const char *name) {
    int n = sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
    return n > 0 ? 0 : -EPIPE;
}

static int systemd_put(struct store *s, const struct store_fd *f) {
    char text[KEEPER_NAME_MAX + 32];
    (void)systemd_drop(f->name); /* the store keeps several fds of one name */
    /* FDPOLL=0: an AF_XDP socket whose interface is down, or a client's socket, hangs up and is kept all the same. */
    (void)snprintf(text, sizeof text, "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", f->name);
    name_note(s, f->name);
    int n = sd_pid_notify_with_fds(0, 0, text, &f->fd, 1);
    return n > 0 ? 0 : -EPIPE;
}

/* ---- for all ---- */

int store_open(const struct store_params *params, struct store **ret_store, struct store_fd *ret_fds, size_t max,
               size_t *ret_count) {
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    s->kind = params->kind;
    s->fd = -1;
    *ret_count = 0;
    int err = 0;
    if (s->kind == STORE_KEEPER)
        err = keeper_open(s, params, ret_fds, max, ret_count);
    else if (s->kind == STORE_SYSTEMD)
        err = systemd_open(s, ret_fds, max, ret_count);
    if (err != 0) {
        if (s->fd >= 0)
            (void)close(s->fd);
        free(s);
        return err;
    }
    *ret_store = s;
    return 0;
}

void store_close(struct store *s, bool orderly) {
    if (s == NULL)
        return;
    if (orderly && s->kind == STORE_KEEPER) {
        s->message = (struct keeper_message){.version = KEEPER_VERSION, .op = KEEPER_BYE};
        (void)keeper_send(s->fd, &s->message, NULL);
    }
    for (size_t i = 0; orderly && i < s->name_count; i++)
        (void)systemd_drop(s->names[i]);
    if (s->fd >= 0)
        (void)close(s->fd);
    free(s);
}

static int keeper_put(struct store *s, const struct store_fd *fds, size_t count) {
    struct keeper_message *m = &s->message;
    *m = (struct keeper_message){.version = KEEPER_VERSION, .op = KEEPER_PUT};
    for (size_t i = 0; i < count; i++) {
        s->fds[m->count] = fds[i].fd;
        memcpy(m->names[m->count++], fds[i].name, KEEPER_NAME_MAX);
        if (m->count < KEEPER_BATCH_MAX && i + 1 < count)
            continue;
        int err = keeper_send(s->fd, m, s->fds);
        if (err != 0)
            return err;
        m->count = 0;
    }
    return 0;
}

int store_put(struct store *s, const struct store_fd *fds, size_t count) {
    int err = 0;
    if (s->kind == STORE_KEEPER)
        return keeper_put(s, fds, count);
    for (size_t i = 0; s->kind == STORE_SYSTEMD && i < count && err == 0; i++)
        err = systemd_put(s, &fds[i]);
    return err;
}

int store_drop(struct store *s, const char *name) {
    if (s->kind == STORE_SYSTEMD)
        return systemd_drop(name);
    if (s->kind == STORE_NONE)
        return 0;
    struct keeper_message *m = &s->message;
    *m = (struct keeper_message){.version = KEEPER_VERSION, .op = KEEPER_DROP, .count = 1};
    (void)snprintf(m->names[0], KEEPER_NAME_MAX, "%s", name);
    return keeper_send(s->fd, m, NULL);
}

int store_watch_fd(const struct store *s) {
    return s->fd;
}

const char *store_text(const struct store *s) {
    return s->kind == STORE_NONE ? "nobody" : s->text;
}
