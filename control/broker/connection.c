/* SPDX-License-Identifier: Apache-2.0
 *
 * One client's connection: receives messages with their credentials and fds, watches the process, answers without ever
 * waiting. A client that does not take its answers, cheats about who it is or becomes another program is ended.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/broker/broker_internal.h"
#include "control/log.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5; absent from Debian 12's headers */
#endif

static int pidfd_of(int fd, pid_t pid) {
    int pidfd;
    socklen_t len = sizeof pidfd;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0)
        return pidfd;
    /* Older kernels: the number may belong to another process by now. That one has no end of this connection, so it can
     * never send on it, and messages of the dead one fail the check of the executable and start. */
    pidfd = pidfd_open(pid, 0);
    return pidfd >= 0 ? pidfd : -errno;
}

static void fds_close(int *fds, uint32_t *count) {
    for (uint32_t i = 0; i < *count; i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    *count = 0;
}

/* Takes fds and credentials out of the control data. False: no credentials, or a truncated list of fds. */
static bool ancillary_take(struct msghdr *m, struct incoming *in, struct ucred *ret_cred) {
    bool known = false;
    in->fd_count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof *ret_cred)) {
            memcpy(ret_cred, CMSG_DATA(c), sizeof *ret_cred);
            known = true;
        }
        if (c->cmsg_type == SCM_RIGHTS) {
            uint32_t n = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            n = n < FD_MAX ? n : FD_MAX; /* the buffer holds no more */
            memcpy(in->fds, CMSG_DATA(c), n * sizeof(int));
            in->fd_count = n;
        }
    }
    return known && !(m->msg_flags & (MSG_CTRUNC | MSG_TRUNC));
}

/* 1 = a message, 0 = nothing there now, -1 = the connection ended, -2 = it broke a rule. */
static int message_receive(struct connection *c, struct incoming *in, struct ucred *ret_cred) {
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(FD_MAX * sizeof(int))];
    } control;
    struct iovec iov = {in->bytes, sizeof in->bytes};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (!ancillary_take(&m, in, ret_cred))
        return n == 0 && in->fd_count == 0 ? -1 : -2;
    in->size = (size_t)n;
    if (n == 0 && in->fd_count == 0)
        return -1;
    return in->size > WIRE_MESSAGE_MAX ? -2 : 1;
}

static bool message_send(struct connection *c, struct outgoing *out) {
    uint8_t bytes[WIRE_MESSAGE_MAX];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof out->fds)];
    } control;
    struct iovec iov = {bytes, wire_encode(&out->response, bytes)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (out->fd_count > 0) {
        memset(&control, 0, sizeof control);
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(out->fd_count * sizeof(int));
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(out->fd_count * sizeof(int));
        memcpy(CMSG_DATA(h), out->fds, out->fd_count * sizeof(int));
    }
    bool sent = sendmsg(c->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
    if (!sent && errno == EAGAIN && out->response.id != 0) /* a farewell may go unheard */
        c->broker->stats.slow_clients++;
    fds_close(out->fds, &out->fd_count);
    return sent;
}

static bool program_changed(const struct connection *c) {
    struct stat st;
    char path[40];
    (void)snprintf(path, sizeof path, "/proc/%d/exe", (int)c->pid);
    return c->session != NULL && (stat(path, &st) != 0 || st.st_dev != c->exe_dev || st.st_ino != c->exe_ino);
}

/* Handles one message. The reason when the connection must end, else -1. */
static int message_handle(struct connection *c, struct incoming *in, const struct ucred *cred) {
    struct outgoing out = {0};
    struct request r;
    if (cred->pid != c->pid) {
        /* A forked child on its parent's connection: it is told, the parent is not harmed. */
        c->broker->stats.bad_credentials++;
        out.response = (struct response){.error = EPERM};
        if (wire_decode(in->bytes, in->size, &r) == 0)
            out.response.id = r.id;
        (void)snprintf(out.response.text, sizeof out.response.text,
                       "this session belongs to process %d; attach one of your own", (int)c->pid);
        return message_send(c, &out) ? -1 : DETACH_CLIENT_CLOSED;
    }
    if (program_changed(c))
        return DETACH_CLIENT_EXEC;
    if (wire_decode(in->bytes, in->size, &r) != 0)
        return DETACH_BAD_RPC;
    int end = request_run(c, &r, in, &out);
    if (end >= 0) {
        fds_close(out.fds, &out.fd_count);
        return end;
    }
    return message_send(c, &out) ? -1 : DETACH_CLIENT_CLOSED;
}

static int on_message(sd_event_source *source, int fd, uint32_t events, void *arg) {
    struct connection *c = arg;
    struct incoming in;
    (void)source;
    (void)fd;
    (void)events;
    for (uint32_t i = 0; i < MESSAGES_PER_TURN; i++) {
        struct ucred cred;
        in.fd_count = 0;
        int got = message_receive(c, &in, &cred);
        int end = got == -1 ? (int)DETACH_CLIENT_CLOSED : got == -2 ? (int)DETACH_BAD_RPC : -1;
        if (got == 1)
            end = message_handle(c, &in, &cred);
        c->broker->stats.extra_fds += in.fd_count; /* those a request wanted were taken out by it */
        fds_close(in.fds, &in.fd_count);
        if (end >= 0) {
            connection_end(c, (enum detach_reason)end);
            return 0;
        }
        if (got == 0)
            return 0;
    }
    return 0;
}

static int on_death(sd_event_source *source, int fd, uint32_t events, void *arg) {
    (void)source;
    (void)fd;
    (void)events;
    connection_end(arg, DETACH_CLIENT_DIED);
    return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *arg) {
    struct connection *c = arg;
    (void)source;
    (void)usec;
    if (c->session == NULL)
        connection_end(c, DETACH_BAD_RPC);
    return 0;
}

static int sources_add(struct connection *c) {
    sd_event *e = c->broker->params.event;
    int err = sd_event_add_io(e, &c->io, c->fd, EPOLLIN, on_message, c);
    if (err >= 0)
        err = sd_event_add_io(e, &c->death, c->pidfd, EPOLLIN, on_death, c);
    if (err >= 0)
        err = sd_event_add_time_relative(e, &c->timeout, CLOCK_MONOTONIC, ATTACH_TIMEOUT_US, 0, on_timeout, c);
    return err;
}

static void connection_free(struct connection *c) {
    sd_event_source_disable_unref(c->io);
    sd_event_source_disable_unref(c->death);
    sd_event_source_disable_unref(c->timeout);
    if (c->pidfd >= 0)
        (void)close(c->pidfd);
    if (c->use != NULL)
        broker_use_give(c->broker, c->use);
    free(c);
}

static int connection_setup(struct connection *c, const struct ucred *peer) {
    c->use = broker_use_take(c->broker, peer->uid);
    if (c->use == NULL)
        return -ENOMEM;
    if (c->use->connections > c->use->sessions + PENDING_PER_UID)
        return -EAGAIN;
    c->pidfd = pidfd_of(c->fd, peer->pid);
    return c->pidfd >= 0 ? sources_add(c) : c->pidfd;
}

/* Takes fd on success. */
int connection_create(struct broker *b, int fd) {
    struct ucred peer;
    socklen_t len = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0)
        return -errno;
    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL)
        return -ENOMEM;
    c->broker = b;
    c->fd = fd;
    c->pidfd = -1;
    c->pid = peer.pid;
    int err = connection_setup(c, &peer);
    if (err < 0) {
        connection_free(c);
        return err;
    }
    c->next = b->connections;
    b->connections = c;
    b->stats.connections++;
    return 0;
}

/* Without these words the client would wait for a successor. */
static void farewell(struct connection *c, enum detach_reason why) {
    struct outgoing out = {.response = {.error = ESHUTDOWN}};
    (void)snprintf(out.response.text, sizeof out.response.text, "%s", detach_reason_text(why));
    (void)message_send(c, &out);
}

void connection_end(struct connection *c, enum detach_reason why) {
    struct broker *b = c->broker;
    if (c->session != NULL)
        farewell(c, why);
    struct connection **link = &b->connections;
    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    b->stats.connections--;
    if (c->session != NULL)
        request_undo_all(c, why);
    (void)close(c->fd);
    connection_free(c);
}
