/* SPDX-License-Identifier: Apache-2.0
 *
 * Readiness: what poll() and epoll say, and ioctl()s that count bytes. See program.h.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "test/packetdrill/program.h"

static bool zerocopy_done(const struct fd *f) {
    return f->zerocopy_told != f->zerocopy_next && f->zerocopy_end[f->zerocopy_told % ZEROCOPY_MAX] <= f->tx_done;
}

/* A third of the buffer free is what Linux calls writable. */
static bool writable(const struct program *p, const struct fd *f) {
    size_t limit = f->opt.sndbuf != 0 && f->opt.sndbuf < FD_REGION ? f->opt.sndbuf : FD_REGION;
    return program_room(p, f) >= limit / 3;
}

static short stream_events(const struct program *p, const struct fd *f) {
    short e = 0;
    if (f->state == STREAM_LISTENING)
        return f->accepted_count != 0 ? POLLIN | POLLRDNORM : 0;
    if (f->state == STREAM_NEW)
        return POLLOUT | POLLWRNORM | POLLHUP;
    if (bytes_count(&f->rx) != 0 || f->hung_up || f->shut_rd)
        e |= POLLIN | POLLRDNORM;
    if (f->hung_up || f->shut_rd)
        e |= POLLRDHUP;
    if (f->urgent_known)
        e |= POLLPRI;
    if (f->error != 0 || zerocopy_done(f))
        e |= POLLERR;
    if (f->state == STREAM_ENDED || ((f->hung_up || f->shut_rd) && f->fin_queued))
        e |= POLLHUP;
    if (f->state == STREAM_ENDED || f->fin_queued || f->syn_waits || (f->state == STREAM_OPEN && writable(p, f)))
        e |= POLLOUT | POLLWRNORM;
    return e;
}

short program_events(const struct program *p, const struct fd *f) {
    switch (f->kind) {
    case FD_STREAM:
        return stream_events(p, f);
    case FD_DATAGRAM:
        return (short)(POLLOUT | POLLWRNORM | (bytes_count(&f->rx) != 0 ? POLLIN | POLLRDNORM : 0));
    case FD_PIPE:
        return (short)(POLLOUT | (bytes_count(&f->rx) != 0 ? POLLIN : 0));
    default:
        return POLLNVAL;
    }
}

static struct watch *watch_of(struct fd *ep, int fd) {
    for (uint32_t i = 0; i < WATCH_MAX; i++)
        if (ep->watch[i].fd == fd)
            return &ep->watch[i];
    return NULL;
}

int program_epoll_ctl(struct program *p, int epfd, int op, int fd, struct epoll_event *event) {
    struct fd *ep = program_fd(p, epfd);
    if (ep == NULL || program_fd(p, fd) == NULL)
        return -EBADF;
    if (ep->kind != FD_EPOLL)
        return -EINVAL;
    struct watch *w = watch_of(ep, fd);
    if (op == EPOLL_CTL_ADD && w != NULL)
        return -EEXIST;
    if (op != EPOLL_CTL_ADD && w == NULL)
        return -ENOENT;
    if (op == EPOLL_CTL_DEL) {
        *w = (struct watch){.fd = 0};
        return 0;
    }
    if (event == NULL)
        return -EFAULT;
    if (w == NULL && (w = watch_of(ep, 0)) == NULL)
        return -ENOSPC;
    *w = (struct watch){.fd = fd, .event = *event};
    return 0;
}

/* What this watch has to say now; 0 = nothing (new). */
static uint32_t look(const struct program *p, struct watch *w, const struct fd *f) {
    uint32_t ready = (uint32_t)program_events(p, f) & (w->event.events | EPOLLERR | EPOLLHUP);
    uint32_t changes = f->changes_in + f->changes_out + 1;
    if (ready == 0 || w->spent || ((w->event.events & EPOLLET) && w->seen == changes))
        return 0;
    w->seen = changes;
    w->spent = w->event.events & EPOLLONESHOT;
    return ready;
}

int program_epoll_look(struct program *p, int epfd, struct epoll_event *events, int max) {
    struct fd *ep = program_fd(p, epfd);
    int n = 0;
    if (ep == NULL)
        return -EBADF;
    if (ep->kind != FD_EPOLL || max <= 0)
        return -EINVAL;
    for (uint32_t i = 0; i < WATCH_MAX && n < max; i++) {
        struct watch *w = &ep->watch[i];
        const struct fd *f = w->fd == 0 ? NULL : program_fd(p, w->fd);
        uint32_t ready = f == NULL ? 0 : look(p, w, f);
        if (ready == 0)
            continue;
        events[n].events = ready;
        events[n++].data = w->event.data;
    }
    return n != 0 ? n : -EAGAIN;
}

static int count_unsent(struct program *p, const struct fd *f) {
    struct tcp_conn_info info = {.unsent = 0};
    struct tcp_cmd_info ask = {.cmd = {TCP_CMD_INFO, sizeof ask}, .sock = f->sock, .info = &info};
    (void)stack_command(p->stack, STACK_TCP, &ask);
    return (int)info.unsent;
}

int program_ioctl(struct program *p, int fd, unsigned long request, void *arg) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    if (arg == NULL)
        return -EFAULT;
    if (f->kind == FD_STREAM && f->state == STREAM_LISTENING)
        return -EINVAL;
    switch (request) {
    case FIONREAD: /* = SIOCINQ */
        *(int *)arg = (int)bytes_count(&f->rx);
        return 0;
    case SIOCOUTQ:
        *(int *)arg = (int)(f->tx_queued - f->tx_done);
        return 0;
    case SIOCOUTQNSD:
        *(int *)arg = f->state == STREAM_OPEN ? count_unsent(p, f) : 0;
        return 0;
    case FIONBIO:
        f->nonblock = *(int *)arg != 0;
        return 0;
    case SIOCATMARK:
        *(int *)arg = f->urgent_known && f->urgent_end - 1 == f->rx_base;
        return 0;
    default:
        return -ENOTTY;
    }
}
