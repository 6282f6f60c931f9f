/* SPDX-License-Identifier: Apache-2.0
 *
 * The fake daemon's session socket: one thread, one connection at a time (a new one replaces it), answers in order.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/harness/fake_internal.h"
#include "usher/session/v1/session.pb-c.h"

typedef Usher__Session__V1__Request request_t;
typedef Usher__Session__V1__Response response_t;

struct answer {
    response_t r;
    Usher__Session__V1__AttachResponse attach;
    Usher__Session__V1__SocketResponse socket;
    int fds[4];
    int fd_count;
};

/* ---- the shared memory ---- */

static uint64_t page_up(uint64_t n) {
    return (n + USH_PAGE - 1) & ~(uint64_t)(USH_PAGE - 1);
}

static void layout(struct fake *f) {
    const struct fake_config *c = &f->config;
    struct ush_header *h = &f->h;
    *h = (struct ush_header){.magic = USH_MAGIC, .abi = USH_ABI_MAX, .header_size = sizeof(*h)};
    h->sq_entries = c->sq_entries;
    h->cq_entries = c->cq_entries;
    h->socket_max = c->socket_max;
    h->client_socket_max = h->accept_socket_max = FAKE_STREAMS;
    h->tx_copy_max = c->tx_copy_max;
    h->rx_cell_min = 256;
    h->tx_size = c->tx_bytes;
    h->rx_size = c->rx_bytes;
    h->set_stride = page_up(ush_set_bytes(h->cq_entries, h->sq_entries));
    h->socket_off = USH_PAGE;
    h->set_off = h->socket_off + page_up((h->socket_max + 2 * FAKE_STREAMS) * sizeof(struct ush_socket));
    h->tx_off = h->set_off + h->set_stride * USH_SET_MAX;
    h->rx_off = h->tx_off + page_up(h->tx_size);
    h->total_size = h->rx_off + page_up(h->rx_size);
}

static void make_sets(struct fake *f) {
    memset(f->set, 0, sizeof(f->set));
    memset(f->stream, 0, sizeof(f->stream));
    for (uint32_t i = 0; i < f->config.sets; i++) {
        struct fake_set *s = &f->set[i];
        uint8_t *at = f->base + f->h.set_off + f->h.set_stride * i;
        s->shm = (struct ush_set *)at;
        s->cq = (struct ush_cqe *)(at + ush_cq_off());
        s->sq = (struct ush_sqe *)(at + ush_sq_off(f->h.cq_entries, f->h.sq_entries, 0));
        s->shm->worker_cpu = f->config.worker_cpu - 1;
    }
}

static void make_session(struct fake *f) {
    layout(f);
    f->memfd = memfd_create("fake-usherd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ftruncate(f->memfd, (off_t)f->h.total_size))
        perror("fake usherd: ftruncate");
    f->base = mmap(NULL, f->h.total_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
    struct ush_header shown = f->h;
    if (f->config.spoil)
        f->config.spoil(&shown, f->config.spoil_arg);
    memcpy(f->base, &shown, sizeof(shown));
    if (!f->config.unsealed)
        fcntl(f->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        perror("fake usherd: socketpair");
    f->wake_fd = pair[0];
    f->wake_peer = pair[1];
    make_sets(f);
    f->socket = calloc(f->h.socket_max, sizeof(*f->socket));
    f->cell_count = (uint32_t)(f->h.rx_size / f->config.cell_bytes);
    f->cell_free = calloc(f->cell_count, sizeof(uint32_t));
    f->cell_lent = calloc(f->cell_count, sizeof(bool));
    for (uint32_t i = 0; i < f->cell_count; i++)
        f->cell_free[i] = (f->cell_count - 1 - i) * f->config.cell_bytes;
    f->cell_free_count = f->cell_count;
    f->stats.attached++;
}

static void close_fd(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void fake_drop_session(struct fake *f) {
    close_fd(&f->conn_fd);
    close_fd(&f->wake_fd);
    close_fd(&f->wake_peer);
    close_fd(&f->memfd);
    if (f->base)
        munmap(f->base, f->h.total_size);
    f->base = NULL;
    memset(f->set, 0, sizeof(f->set));
    free(f->socket);
    free(f->cell_free);
    free(f->cell_lent);
    f->socket = NULL;
    f->cell_free = NULL;
    f->cell_lent = NULL;
    f->cell_free_count = f->cell_count = f->held_count = 0;
}

/* ---- requests ---- */

static void map_addr(const struct sockaddr_storage *sa, uint8_t ret_addr[16], uint16_t *ret_port) {
    if (sa->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;
        memcpy(ret_addr, &in6->sin6_addr, 16);
        *ret_port = ntohs(in6->sin6_port);
    } else if (sa->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)sa;
        memset(ret_addr, 0, 10);
        ret_addr[10] = ret_addr[11] = 0xff;
        memcpy(ret_addr + 12, &in->sin_addr, 4);
        *ret_port = ntohs(in->sin_port);
    }
}

static void read_kernel_socket(struct fake_socket *sk, int fd) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    uint16_t port = 0;
    memset(sk, 0, sizeof(*sk));
    sk->open = true;
    if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0)
        map_addr(&sa, sk->local, &port);
    int listens = 0;
    socklen_t int_len = sizeof(listens);
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &int_len);
    sk->listens = listens;
    sk->local_port = port;
    len = sizeof(sa);
    if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0)
        map_addr(&sa, sk->peer, &sk->peer_port);
}

static void know_set(struct fake *f, struct answer *a, uint32_t set) {
    if (f->set[set].known)
        return;
    a->fds[a->fd_count++] = f->kick_fd;
    f->set[set].known = true;
    eventfd_write(f->kick_fd, 1); /* the worker may sleep without having said so in this set */
}

static void fill_socket(struct fake *f, struct answer *a, uint32_t handle) {
    uint32_t set = handle % f->config.sets;
    usher__session__v1__socket_response__init(&a->socket);
    a->socket.handle = handle;
    a->socket.set = set;
    a->socket.accelerated = true;
    a->socket.rx_quota = f->config.rx_quota;
    a->socket.tx_limit = f->config.tx_limit;
    know_set(f, a, set);
    a->r.body_case = USHER__SESSION__V1__RESPONSE__BODY_SOCKET;
    a->r.socket = &a->socket;
}

static void fill_more_sets(struct fake *f, struct answer *a) {
    for (uint32_t set = 0; set < f->config.sets; set++) {
        if (set == a->socket.set)
            continue;
        a->socket.more_sets |= 1u << set;
        know_set(f, a, set);
    }
}

static int do_attach(struct fake *f, const request_t *q, int fd, struct answer *a) {
    (void)q;
    (void)fd;
    make_session(f);
    usher__session__v1__attach_response__init(&a->attach);
    a->attach.abi = USH_ABI_MAX;
    a->attach.session_id = 77;
    a->attach.daemon_version = (char *)"fake";
    a->r.body_case = USHER__SESSION__V1__RESPONSE__BODY_ATTACH;
    a->r.attach = &a->attach;
    a->fds[a->fd_count++] = f->memfd;
    a->fds[a->fd_count++] = f->wake_peer;
    return 0;
}

static int do_open(struct fake *f, const request_t *q, int fd, struct answer *a) {
    f->stats.opens++;
    f->stats.listen_options = (uint32_t)(q->open->stream_options.len / sizeof(struct ush_option));
    f->stats.last_remote_port = q->open->remote_port;
    for (uint32_t i = 0; i < f->h.socket_max; i++)
        if (!f->socket[i].open) {
            read_kernel_socket(&f->socket[i], fd);
            fill_socket(f, a, i);
            if (q->open->all_shards)
                fill_more_sets(f, a);
            if (f->config.greet)
                fake_deliver(f, i, "hello", 5);
            return 0;
        }
    return EMFILE;
}

static int do_update(struct fake *f, const request_t *q, int fd, struct answer *a) {
    f->stats.updates++;
    if (q->update->handle >= f->h.socket_max)
        return EBADF;
    read_kernel_socket(&f->socket[q->update->handle], fd);
    fill_socket(f, a, q->update->handle);
    return 0;
}

static int do_close(struct fake *f, const request_t *q, int fd, struct answer *a) {
    (void)fd;
    (void)a;
    f->stats.closes++;
    if (q->close->handle >= f->h.socket_max || !f->socket[q->close->handle].open)
        return EBADF;
    for (uint32_t i = 0; i < f->config.sets && !f->config.manual; i++)
        if (f->set[i].known)
            fake_take_rest(f, i);
    f->socket[q->close->handle].open = false;
    return 0;
}

static int do_option(struct fake *f, const request_t *q, int fd, struct answer *a) {
    (void)fd;
    (void)a;
    f->stats.options++;
    f->stats.last_option = q->set_option->option;
    f->stats.last_option_value = q->set_option->value;
    return q->set_option->handle < f->h.socket_max && f->socket[q->set_option->handle].open ? 0 : EBADF;
}

static int do_group(struct fake *f, const request_t *q, int fd, struct answer *a) {
    (void)fd;
    (void)a;
    f->stats.groups++;
    return q->group->group.len == 16 ? 0 : EINVAL;
}

static int (*const actions[FAKE_RPC_COUNT])(struct fake *, const request_t *, int, struct answer *) = {
    [FAKE_RPC_ATTACH] = do_attach, [FAKE_RPC_OPEN] = do_open,         [FAKE_RPC_UPDATE] = do_update,
    [FAKE_RPC_CLOSE] = do_close,   [FAKE_RPC_SET_OPTION] = do_option, [FAKE_RPC_GROUP] = do_group,
};

/* ---- answers, good and bad ---- */

static void send_packet(struct fake *f, const uint8_t *data, size_t len, const int *fds, int fd_count) {
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(4 * sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)data, len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
    }
    if (sendmsg(f->conn_fd, &m, MSG_NOSIGNAL) < 0)
        f->stats.bad++;
}

static void send_answer(struct fake *f, struct answer *a) {
    uint8_t buf[4096];
    size_t len = usher__session__v1__response__pack(&a->r, buf);
    send_packet(f, buf, len, a->fds, a->fd_count);
}

static void fault_stale(struct fake *f, struct answer *a) {
    a->r.id += 1000;
    int saved = a->fd_count;
    a->fd_count = 0;
    send_answer(f, a);
    a->r.id -= 1000;
    a->fd_count = saved;
    send_answer(f, a);
}

static void fault_cut(struct fake *f, struct answer *a) {
    uint8_t buf[4096];
    size_t len = usher__session__v1__response__pack(&a->r, buf);
    send_packet(f, buf, len > 3 ? len - 3 : len, a->fds, a->fd_count);
}

static void send_faulty(struct fake *f, struct answer *a) {
    static char long_text[2001];
    switch (f->config.fault) {
    case FAULT_DIE:
        fake_drop_session(f);
        f->refuse = true;
        return;
    case FAULT_GARBAGE:
        send_packet(f, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 6, NULL, 0);
        return;
    case FAULT_CUT:
        fault_cut(f, a);
        return;
    case FAULT_STALE_ID:
        fault_stale(f, a);
        return;
    case FAULT_ERROR:
        a->r.error = ENOBUFS;
        a->r.text = (char *)"no buffers in the fake";
        a->r.body_case = USHER__SESSION__V1__RESPONSE__BODY__NOT_SET;
        break;
    case FAULT_NO_FDS:
        a->fd_count = 0;
        break;
    case FAULT_MANY_FDS:
        while (a->fd_count < 4)
            a->fds[a->fd_count++] = f->stop_fd;
        break;
    case FAULT_BAD_HANDLE:
        a->socket.handle = f->h.socket_max;
        break;
    case FAULT_BAD_SET:
        a->socket.set = USH_SET_MAX;
        break;
    case FAULT_KERNEL:
        a->socket.accelerated = false;
        a->socket.reason = (char *)"the route leaves by an interface usherd does not manage";
        break;
    case FAULT_LONG_TEXT:
        memset(long_text, 'x', 2000);
        a->r.text = long_text;
        a->socket.reason = long_text;
        break;
    default:
        break;
    }
    send_answer(f, a);
}

static void handle(struct fake *f, const request_t *q, int fd) {
    struct answer a = {0};
    usher__session__v1__response__init(&a.r);
    a.r.id = q->id;
    unsigned kind = q->body_case;
    a.r.error = kind < FAKE_RPC_COUNT && actions[kind] ? actions[kind](f, q, fd, &a) : EOPNOTSUPP;
    if (f->config.fault != FAULT_NONE && kind == f->config.fault_at)
        send_faulty(f, &a);
    else
        send_answer(f, &a);
}

/* ---- the thread ---- */

static int receive(struct fake *f, uint8_t *buf, size_t size, ssize_t *ret_len) {
    union {
        struct cmsghdr h;
        char space[256];
    } control;
    struct iovec iov = {buf, size};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    int fd = -1;
    *ret_len = recvmsg(f->conn_fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    for (struct cmsghdr *c = *ret_len > 0 ? CMSG_FIRSTHDR(&m) : NULL; c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

static void serve_request(struct fake *f) {
    uint8_t buf[4096];
    ssize_t len;
    int fd = receive(f, buf, sizeof(buf), &len);
    if (len == 0 || (len < 0 && errno != EAGAIN)) {
        fake_drop_session(f);
        return;
    }
    request_t *q = len > 0 ? usher__session__v1__request__unpack(NULL, (size_t)len, buf) : NULL;
    if (q)
        handle(f, q, fd);
    else if (len > 0)
        f->stats.bad++;
    if (q)
        usher__session__v1__request__free_unpacked(q, NULL);
    if (fd >= 0)
        close(fd);
}

static void accept_one(struct fake *f) {
    int fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (f->refuse) {
        close(fd);
        return;
    }
    fake_drop_session(f);
    f->conn_fd = fd;
}

void *fake_control_main(void *arg) {
    struct fake *f = arg;
    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        struct pollfd p[3] = {{f->listen_fd, POLLIN, 0}, {f->stop_fd, POLLIN, 0}, {f->conn_fd, POLLIN, 0}};
        pthread_mutex_unlock(&f->lock);
        poll(p, 3, -1);
        pthread_mutex_lock(&f->lock);
        uint64_t count;
        if (p[1].revents && read(f->stop_fd, &count, sizeof(count)) < 0)
            continue;
        if (p[2].revents && f->conn_fd == p[2].fd && !f->stop)
            serve_request(f);
        if (p[0].revents && !f->stop)
            accept_one(f);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}
