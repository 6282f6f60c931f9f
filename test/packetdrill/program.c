/* SPDX-License-Identifier: Apache-2.0
 *
 * Birth and end of file descriptors, and what the engines tell about them. See program.h.
 */
#include "test/packetdrill/program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "engines/wire.h"

/* ---- bytes ---- */

void bytes_add(struct bytes *b, const void *data, size_t n) {
    if (b->from == b->to)
        b->from = b->to = 0;
    if (b->to + n > b->size) {
        b->size = (b->to + n) * 2;
        b->v = realloc(b->v, b->size);
        CHECK(b->v != NULL);
    }
    memcpy(b->v + b->to, data, n);
    b->to += n;
}

size_t bytes_take(struct bytes *b, void *data, size_t n, bool peek) {
    size_t have = bytes_count(b);
    n = n < have ? n : have;
    if (n != 0 && data != NULL)
        memcpy(data, b->v + b->from, n);
    if (!peek)
        b->from += n;
    return n;
}

/* ---- descriptors ---- */

uint64_t program_sink(const struct program *p, const struct fd *f) {
    return SINK(SINK_SESSION, 0, (uint32_t)(f - p->fds) + 1);
}

static struct fd *by_sink(struct program *p, uint64_t sink) {
    uint32_t i = SINK_HANDLE(sink);
    return i >= 1 && i <= FD_MAX && p->fds[i - 1].kind != FD_FREE ? &p->fds[i - 1] : NULL;
}

struct fd *program_fd(struct program *p, int fd) {
    for (uint32_t i = 0; i < FD_MAX; i++)
        if (p->fds[i].kind != FD_FREE && p->fds[i].open && p->fds[i].number == fd)
            return &p->fds[i];
    return NULL;
}

static void fd_free(struct fd *f) {
    free(f->rx.v);
    memset(f, 0, sizeof *f);
}

int program_fd_new(struct program *p, enum fd_kind kind, int family) {
    for (uint32_t i = 0; i < FD_MAX; i++) {
        struct fd *f = &p->fds[i];
        if (f->kind != FD_FREE)
            continue;
        memset(f, 0, sizeof *f);
        f->number = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (f->number < 0)
            return -errno;
        f->kind = kind;
        f->family = family;
        f->open = true;
        return f->number;
    }
    return -EMFILE;
}

void program_start(struct program *p) {
    const struct stack_app app = {.arg = p, .deliver = program_deliver, .notice = program_notice};
    if (p->stack == NULL)
        p->stack = stack_create(&p->config, STACK_EPOCH, &app);
}

void program_end(struct program *p) {
    if (p->stack != NULL)
        stack_destroy(p->stack);
    p->stack = NULL;
    for (uint32_t i = 0; i < FD_MAX; i++)
        fd_free(&p->fds[i]);
}

int program_socket(struct program *p, int domain, int type, int protocol) {
    int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (domain != AF_INET && domain != AF_INET6)
        return -EAFNOSUPPORT;
    if ((kind != SOCK_STREAM && kind != SOCK_DGRAM) || (protocol != 0 && kind == SOCK_STREAM && protocol != PROTO_TCP))
        return -EPROTONOSUPPORT;
    int fd = program_fd_new(p, kind == SOCK_STREAM ? FD_STREAM : FD_DATAGRAM, domain);
    if (fd >= 0)
        program_fd(p, fd)->nonblock = type & SOCK_NONBLOCK;
    return fd;
}

/* SHUTDOWN of a stream, CLOSE of a listener or a datagram socket. */
void program_engine_sock(struct program *p, struct fd *f, uint32_t id) {
    struct tcp_cmd_sock c = {.cmd = {id, sizeof c}, .sock = f->sock, .sink = program_sink(p, f)};
    (void)stack_command(p->stack, STACK_TCP, &c);
}

static void close_stream(struct program *p, struct fd *f) {
    bool hard = f->linger.l_onoff && f->linger.l_linger == 0;
    struct tcp_cmd_close c = {.cmd = {TCP_CMD_CLOSE, sizeof c}, .sock = f->sock, .sink = program_sink(p, f)};
    c.abort = hard;
    c.unread = bytes_count(&f->rx) != 0 && !f->ended;
    f->open = false;
    if (f->state != STREAM_NEW && !f->ended)
        (void)stack_command(p->stack, STACK_TCP, &c);
    if (f->state == STREAM_NEW || f->state == STREAM_LISTENING || f->ended)
        fd_free(f);
}

static void close_listener(struct program *p, struct fd *f) {
    for (uint32_t i = 0; i < f->accepted_count; i++) {
        struct fd *child = program_fd(p, f->accepted[i]);
        if (child == NULL)
            continue;
        child->linger = (struct linger){.l_onoff = 1};
        close(child->number);
        close_stream(p, child);
    }
    f->accepted_count = 0;
}

static void close_datagram(struct program *p, struct fd *f) {
    struct udp_cmd_close c = {.cmd = {UDP_CMD_CLOSE, sizeof c}, .sock = f->sock};
    if (f->bound)
        (void)stack_command(p->stack, STACK_UDP, &c);
    fd_free(f);
}

int program_close(struct program *p, int fd) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    for (uint32_t i = 0; i < FD_MAX; i++)
        for (uint32_t k = 0; k < WATCH_MAX; k++)
            if (p->fds[i].watch[k].fd == fd)
                p->fds[i].watch[k].fd = 0;
    if (f->kind == FD_DATAGRAM) {
        close_datagram(p, f);
    } else if (f->kind == FD_STREAM) {
        if (f->state == STREAM_LISTENING)
            close_listener(p, f);
        close_stream(p, f);
    } else {
        fd_free(f);
    }
    close(fd);
    return 0;
}

int program_shutdown(struct program *p, int fd, int how) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR)
        return -EINVAL;
    if (f->kind != FD_STREAM || f->state == STREAM_NEW || f->state == STREAM_ENDED)
        return -ENOTCONN;
    f->shut_rd |= how != SHUT_WR;
    f->changes_in++;
    if (how != SHUT_RD && !f->fin_queued) {
        f->fin_queued = true;
        program_engine_sock(p, f, TCP_CMD_SHUTDOWN);
    }
    return 0;
}

/* ---- what the engines tell ---- */

void program_deliver(void *arg, const struct pkt *pkt) {
    struct program *p = arg;
    struct fd *f = by_sink(p, pkt->sink);
    CHECK(f != NULL);
    if (pkt->flags & PKT_BOUNCED)
        return;
    if (f->kind == FD_DATAGRAM) {
        uint32_t len = pkt_bytes(pkt);
        bytes_add(&f->rx, &len, sizeof len);
        bytes_add(&f->rx, &pkt->flow, sizeof pkt->flow);
    }
    CHECK(f->kind == FD_DATAGRAM || (pkt_bytes(pkt) != 0 && !f->hung_up && !f->ended));
    bytes_add(&f->rx, pkt->data, pkt->len);
    for (uint32_t i = 0; i < pkt->frag_count; i++)
        bytes_add(&f->rx, pkt->frag[i].base, pkt->frag[i].len);
    f->changes_in++;
}

static void adopt(struct program *p, struct fd *listener, const struct notice *n) {
    int fd = listener->accepted_count < ACCEPT_MAX ? program_fd_new(p, FD_STREAM, listener->family) : -EMFILE;
    if (fd < 0) {
        struct tcp_cmd_close c = {.cmd = {TCP_CMD_CLOSE, sizeof c}, .sock = n->extra, .abort = true};
        (void)stack_command(p->stack, STACK_TCP, &c);
        return;
    }
    struct fd *f = program_fd(p, fd);
    struct tcp_cmd_adopt a = {.cmd = {TCP_CMD_ADOPT, sizeof a}, .sock = n->extra, .sink = program_sink(p, f)};
    struct tcp_conn_info info = {.flow = {.proto = 0}};
    struct tcp_cmd_info ask = {.cmd = {TCP_CMD_INFO, sizeof ask}, .sock = n->extra, .info = &info};
    (void)stack_command(p->stack, STACK_TCP, &ask);
    f->state = STREAM_OPEN;
    f->bound = true;
    f->sock = n->extra;
    f->flow = info.flow;
    program_options_inherit(f, listener);
    listener->accepted[listener->accepted_count++] = fd;
    listener->changes_in++;
    (void)stack_command(p->stack, STACK_TCP, &a);
}

static void ended(struct program *p, struct fd *f) {
    f->ended = true;
    f->hung_up = true;
    f->state = STREAM_ENDED;
    f->changes_in++;
    f->changes_out++;
    (void)p;
    if (!f->open)
        fd_free(f);
}

static void room(struct program *p, struct fd *f, uint32_t bytes) {
    f->tx_done += bytes;
    f->changes_out += f->zerocopy_told != f->zerocopy_next;
    CHECK(f->tx_done <= f->tx_queued);
    if (f->wants_room && program_events(p, f) & POLLOUT) {
        f->wants_room = false;
        f->changes_out++;
    }
}

void program_notice(void *arg, const struct notice *n) {
    struct program *p = arg;
    struct fd *f = by_sink(p, n->sink);
    CHECK(f != NULL);
    switch (n->kind) {
    case NOTICE_ACCEPT:
        adopt(p, f, n);
        return;
    case NOTICE_CONNECTED:
        f->state = STREAM_OPEN;
        f->changes_out++;
        return;
    case NOTICE_ERROR:
        f->error = (int)n->value;
        f->changes_in++;
        f->changes_out++;
        return;
    case NOTICE_HANGUP:
        f->hung_up = true;
        f->changes_in++;
        return;
    case NOTICE_TX_DONE:
        room(p, f, n->extra);
        return;
    case NOTICE_WRITABLE:
        f->wants_room = false;
        f->changes_out++;
        return;
    case NOTICE_URGENT:
        f->urgent_known = true;
        f->urgent_end = n->extra;
        f->changes_in++;
        return;
    case NOTICE_CLOSED:
        ended(p, f);
        return;
    default:
        return;
    }
}
