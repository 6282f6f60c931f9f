/* SPDX-License-Identifier: Apache-2.0
 *
 * libusher-packetdrill.so: the program of program.h behind packetdrill's interface, in virtual time. Time moves only
 * when packetdrill sleeps, waits for a packet, or looks at the clock (a microsecond each, because it also spins).
 *
 * A call that blocks comes from packetdrill's second thread and waits for the clock or a packet to change something.
 * Before time moves, whoever moves it waits until every other thread of the process sleeps: then nobody is still on its
 * way into a call, or out of one, with the time of the past in mind. So blocking calls end at the right microsecond,
 * however busy the machine is.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

#include "test/packetdrill/abi.h"
#include "test/packetdrill/program.h"

#define RECEIVE_MAX (1000 * NS_PER_SEC) /* virtual: then there is no packet */
#define SETTLE_MAX  2000                /* real half milliseconds */

struct drill {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct program program;
    char flags[256];
    ns_t early; /* the clock while there is no stack yet */
    uint32_t waiting;
    ns_t wake_at; /* when somebody who waits has waited long enough */
    uint64_t changes;
    bool over;
};

/* ---- other threads ---- */

static bool thread_sleeps(const char *tid) {
    char path[300], line[512];
    snprintf(path, sizeof path, "/proc/self/task/%s/stat", tid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return true;
    char *got = fgets(line, sizeof line, f);
    fclose(f);
    const char *end = got == NULL ? NULL : strrchr(line, ')');
    return end == NULL || (end[2] != 'R' && end[2] != 'D');
}

static bool others_sleep(void) {
    DIR *d = opendir("/proc/self/task");
    struct dirent *e;
    bool all = true;
    char self[16];
    snprintf(self, sizeof self, "%ld", syscall(SYS_gettid));
    while (d != NULL && all && (e = readdir(d)) != NULL)
        if (e->d_name[0] != '.' && strcmp(e->d_name, self) != 0)
            all = thread_sleeps(e->d_name);
    if (d != NULL)
        closedir(d);
    return all;
}

/* Without the lock held. */
static void let_others_settle(void) {
    const struct timespec pause = {.tv_nsec = 500000};
    for (uint32_t i = 0; i < SETTLE_MAX && !others_sleep(); i++)
        nanosleep(&pause, NULL);
}

static void tell_waiting(struct drill *d) {
    d->changes++;
    if (d->waiting == 0)
        return;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
    let_others_settle();
    pthread_mutex_lock(&d->lock);
}

/* Waits for anything to change; false: the script is over. Returns with the lock, as it came. */
static bool wait_for_change(struct drill *d) {
    uint64_t seen = d->changes;
    d->waiting++;
    while (d->changes == seen && !d->over)
        pthread_cond_wait(&d->changed, &d->lock);
    d->waiting--;
    return !d->over;
}

/* ---- time ---- */

static ns_t now(const struct drill *d) {
    return d->program.stack != NULL ? stack_now(d->program.stack) : d->early;
}

static ns_t next_change(const struct drill *d) {
    ns_t due = stack_deadline(d->program.stack);
    return d->wake_at < due ? d->wake_at : due;
}

/* With somebody waiting, timer by timer. */
static void advance(struct drill *d, ns_t to, bool until_sent) {
    struct stack *s = d->program.stack;
    if (s == NULL) {
        d->early = to;
        return;
    }
    ns_t due;
    while (d->waiting != 0 && (due = next_change(d)) <= to && !(until_sent && stack_has_sent(s))) {
        if (due == d->wake_at)
            d->wake_at = NS_NEVER;
        stack_advance(s, due, until_sent);
        tell_waiting(d);
    }
    stack_advance(s, to, until_sent);
    tell_waiting(d);
}

static int drill_usleep(void *userdata, useconds_t usecs) {
    struct drill *d = userdata;
    let_others_settle();
    pthread_mutex_lock(&d->lock);
    advance(d, now(d) + usecs * NS_PER_US, false);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static int drill_gettimeofday(void *userdata, struct timeval *tv, struct timezone *tz) {
    struct drill *d = userdata;
    (void)tz;
    pthread_mutex_lock(&d->lock);
    uint64_t usecs = now(d) / NS_PER_US;
    tv->tv_sec = (time_t)(usecs / 1000000);
    tv->tv_usec = (suseconds_t)(usecs % 1000000);
    if (d->program.stack == NULL)
        d->early += NS_PER_US;
    else
        stack_advance(d->program.stack, stack_now(d->program.stack) + NS_PER_US, false);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

/* ---- the wire ---- */

static void learn_address(struct program *p, const uint8_t *packet, size_t len) {
    struct ipaddr a;
    if (len >= 20 && packet[0] >> 4 == 4)
        a = ipaddr_from_v4(packet + 16);
    else if (len >= 40 && packet[0] >> 4 == 6)
        a = ipaddr_from_v6(packet + 24);
    else
        return;
    if (!ipaddr_is_multicast(&a) && !ipaddr_is_any(&a))
        stack_address(p->stack, &a);
}

static int drill_netdev_send(void *userdata, const void *packet, size_t len) {
    struct drill *d = userdata;
    let_others_settle();
    pthread_mutex_lock(&d->lock);
    if (d->program.stack != NULL) {
        learn_address(&d->program, packet, len);
        stack_receive(d->program.stack, packet, len);
        tell_waiting(d);
    }
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static int drill_netdev_receive(void *userdata, void *packet, size_t *len, long long *ret_usecs) {
    struct drill *d = userdata;
    ns_t at = 0;
    let_others_settle();
    pthread_mutex_lock(&d->lock);
    struct stack *s = d->program.stack;
    if (s != NULL && !stack_has_sent(s)) {
        ns_t limit = stack_now(s) + RECEIVE_MAX;
        while (!stack_has_sent(s) && next_change(d) <= limit)
            advance(d, next_change(d), true);
    }
    *len = s == NULL ? 0 : stack_sent(s, packet, *len, &at);
    *ret_usecs = (long long)(at / NS_PER_US);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

/* ---- calls ---- */

/* The stack is made when the script's settings are surely in place: at its first socket. */
static void start(struct drill *d) {
    if (d->program.stack != NULL)
        return;
    program_settings(&d->program, d->flags);
    program_start(&d->program);
    advance(d, d->early, false);
}

static long answer(struct drill *d, long rc) {
    pthread_mutex_unlock(&d->lock);
    if (rc >= 0)
        return rc;
    errno = (int)-rc;
    return -1;
}

static bool may_wait(struct drill *d, int fd, int flags) {
    const struct fd *f = program_fd(&d->program, fd);
    return f != NULL && !f->nonblock && !(flags & MSG_DONTWAIT);
}

#define LOCKED(call)                                                                                                   \
    struct drill *d = userdata;                                                                                        \
    pthread_mutex_lock(&d->lock);                                                                                      \
    return (int)answer(d, call)

static int drill_socket(void *userdata, int domain, int type, int protocol) {
    struct drill *d = userdata;
    pthread_mutex_lock(&d->lock);
    start(d);
    return (int)answer(d, program_socket(&d->program, domain, type, protocol));
}

static int drill_bind(void *userdata, int fd, const struct sockaddr *addr, socklen_t len) {
    LOCKED(program_bind(&d->program, fd, addr, len));
}

static int drill_listen(void *userdata, int fd, int backlog) {
    LOCKED(program_listen(&d->program, fd, backlog));
}

static int drill_accept(void *userdata, int fd, struct sockaddr *addr, socklen_t *len) {
    struct drill *d = userdata;
    int rc;
    pthread_mutex_lock(&d->lock);
    while ((rc = program_accept(&d->program, fd, addr, len)) == -EAGAIN && may_wait(d, fd, 0) && wait_for_change(d))
        ;
    return (int)answer(d, rc);
}

static int wait_connected(struct drill *d, int fd) {
    int rc;
    while ((rc = program_connected(&d->program, fd)) == -EAGAIN && wait_for_change(d))
        ;
    return rc;
}

static int drill_connect(void *userdata, int fd, const struct sockaddr *addr, socklen_t len) {
    struct drill *d = userdata;
    pthread_mutex_lock(&d->lock);
    int rc = program_connect(&d->program, fd, addr, len, false);
    if (rc == -EINPROGRESS && may_wait(d, fd, 0))
        rc = wait_connected(d, fd);
    return (int)answer(d, rc);
}

static ssize_t receive(void *userdata, int fd, struct msghdr *msg, int flags) {
    struct drill *d = userdata;
    size_t control = msg->msg_controllen;
    ssize_t rc;
    pthread_mutex_lock(&d->lock);
    while ((rc = program_recv(&d->program, fd, msg, flags)) == -EAGAIN && may_wait(d, fd, flags) &&
           !(flags & (MSG_OOB | MSG_ERRQUEUE)) && wait_for_change(d))
        msg->msg_controllen = control;
    return answer(d, rc);
}

static ssize_t drill_recvmsg(void *userdata, int fd, struct msghdr *msg, int flags) {
    return receive(userdata, fd, msg, flags);
}

static ssize_t drill_recvfrom(void *userdata, int fd, void *buf, size_t len, int flags, struct sockaddr *addr,
                              socklen_t *addr_len) {
    struct iovec iov = {buf, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_name = addr};
    msg.msg_namelen = addr_len != NULL ? *addr_len : 0;
    ssize_t rc = receive(userdata, fd, &msg, flags);
    if (addr_len != NULL)
        *addr_len = msg.msg_namelen;
    return rc;
}

static ssize_t drill_recv(void *userdata, int fd, void *buf, size_t len, int flags) {
    return drill_recvfrom(userdata, fd, buf, len, flags, NULL, NULL);
}

static ssize_t drill_readv(void *userdata, int fd, const struct iovec *iov, int count) {
    struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    return receive(userdata, fd, &msg, 0);
}

static ssize_t drill_read(void *userdata, int fd, void *buf, size_t count) {
    return drill_recvfrom(userdata, fd, buf, count, 0, NULL, NULL);
}

/* MSG_FASTOPEN: connect and send in one; without a cookie only the connection is begun. */
static ssize_t fastopen(struct drill *d, int fd, const struct sockaddr *addr, socklen_t len, int flags) {
    int rc = program_connect(&d->program, fd, addr, len, true);
    const struct fd *f = program_fd(&d->program, fd);
    if (rc != -EINPROGRESS || f->syn_waits)
        return rc == -EINPROGRESS ? 0 : rc;
    return may_wait(d, fd, flags) ? wait_connected(d, fd) : rc;
}

static ssize_t transmit(void *userdata, int fd, const struct msghdr *msg, int flags) {
    struct drill *d = userdata;
    size_t n = iov_bytes(msg->msg_iov, msg->msg_iovlen), sent = 0;
    ssize_t rc = 0;
    pthread_mutex_lock(&d->lock);
    const struct fd *f = program_fd(&d->program, fd);
    if (f != NULL && f->kind == FD_DATAGRAM)
        return answer(d,
                      program_send_to(&d->program, fd, msg->msg_iov, msg->msg_iovlen, msg->msg_name, msg->msg_namelen));
    if (flags & MSG_FASTOPEN)
        rc = fastopen(d, fd, msg->msg_name, msg->msg_namelen, flags);
    while (rc >= 0) {
        rc = program_send(&d->program, fd, msg->msg_iov, msg->msg_iovlen, sent, flags);
        sent += rc > 0 ? (size_t)rc : 0;
        if (sent == n || (rc < 0 && rc != -EAGAIN) || !may_wait(d, fd, flags))
            break;
        rc = wait_for_change(d) ? 0 : -EINTR;
    }
    return answer(d, sent > 0 ? (ssize_t)sent : rc);
}

static ssize_t drill_sendmsg(void *userdata, int fd, const struct msghdr *msg, int flags) {
    return transmit(userdata, fd, msg, flags);
}

static ssize_t drill_sendto(void *userdata, int fd, const void *buf, size_t len, int flags, const struct sockaddr *addr,
                            socklen_t addr_len) {
    struct iovec iov = {(void *)(uintptr_t)buf, len};
    const struct msghdr msg = {.msg_iov = &iov,
                               .msg_iovlen = 1,
                               .msg_name = (void *)(uintptr_t)addr,
                               .msg_namelen = addr != NULL ? addr_len : 0};
    return transmit(userdata, fd, &msg, flags);
}

static ssize_t drill_send(void *userdata, int fd, const void *buf, size_t len, int flags) {
    return drill_sendto(userdata, fd, buf, len, flags, NULL, 0);
}

static ssize_t drill_writev(void *userdata, int fd, const struct iovec *iov, int count) {
    const struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)count};
    return transmit(userdata, fd, &msg, 0);
}

static ssize_t drill_write(void *userdata, int fd, const void *buf, size_t count) {
    return drill_sendto(userdata, fd, buf, count, 0, NULL, 0);
}

static int do_fcntl(struct program *p, int fd, int cmd, long arg) {
    struct fd *f = program_fd(p, fd);
    if (f == NULL)
        return -EBADF;
    if (cmd == F_SETFL)
        f->nonblock = arg & O_NONBLOCK;
    return cmd == F_GETFL ? O_RDWR | (f->nonblock ? O_NONBLOCK : 0) : cmd == F_SETFL ? 0 : -EINVAL;
}

static int drill_fcntl(void *userdata, int fd, int cmd, ...) {
    va_list args;
    va_start(args, cmd);
    long arg = cmd == F_SETFL ? va_arg(args, long) : 0;
    va_end(args);
    LOCKED(do_fcntl(&d->program, fd, cmd, arg));
}

static int drill_ioctl(void *userdata, int fd, unsigned long request, ...) {
    va_list args;
    va_start(args, request);
    void *arg = va_arg(args, void *);
    va_end(args);
    LOCKED(program_ioctl(&d->program, fd, request, arg));
}

static int drill_close(void *userdata, int fd) {
    LOCKED(program_close(&d->program, fd));
}

static int drill_shutdown(void *userdata, int fd, int how) {
    LOCKED(program_shutdown(&d->program, fd, how));
}

static int drill_getsockopt(void *userdata, int fd, int level, int name, void *value, socklen_t *len) {
    LOCKED(program_getsockopt(&d->program, fd, level, name, value, len));
}

static int drill_setsockopt(void *userdata, int fd, int level, int name, const void *value, socklen_t len) {
    LOCKED(program_setsockopt(&d->program, fd, level, name, value, len));
}

/* ---- waiting for several ---- */

static int poll_once(struct program *p, struct pollfd *fds, nfds_t count) {
    int ready = 0;
    for (nfds_t i = 0; i < count; i++) {
        const struct fd *f = program_fd(p, fds[i].fd);
        fds[i].revents = f == NULL ? POLLNVAL : (short)(program_events(p, f) & (fds[i].events | POLLERR | POLLHUP));
        ready += fds[i].revents != 0;
    }
    return ready;
}

static bool waits_on(struct drill *d, ns_t until) {
    if (now(d) >= until)
        return false;
    d->wake_at = until;
    return wait_for_change(d);
}

static ns_t until(const struct drill *d, int timeout) {
    return timeout < 0 ? NS_NEVER : now(d) + (ns_t)timeout * NS_PER_MS;
}

static int drill_poll(void *userdata, struct pollfd *fds, nfds_t count, int timeout) {
    struct drill *d = userdata;
    int rc;
    pthread_mutex_lock(&d->lock);
    ns_t end = until(d, timeout);
    while ((rc = poll_once(&d->program, fds, count)) == 0 && waits_on(d, end))
        ;
    return (int)answer(d, rc);
}

static int drill_epoll_create(void *userdata, int size) {
    (void)size;
    LOCKED(program_fd_new(&d->program, FD_EPOLL, AF_UNSPEC));
}

static int drill_epoll_ctl(void *userdata, int epfd, int op, int fd, struct epoll_event *event) {
    LOCKED(program_epoll_ctl(&d->program, epfd, op, fd, event));
}

static int drill_epoll_wait(void *userdata, int epfd, struct epoll_event *events, int max, int timeout) {
    struct drill *d = userdata;
    int rc;
    pthread_mutex_lock(&d->lock);
    ns_t end = until(d, timeout);
    while ((rc = program_epoll_look(&d->program, epfd, events, max)) == -EAGAIN && waits_on(d, end))
        ;
    return (int)answer(d, rc == -EAGAIN ? 0 : rc);
}

/* ---- pipes, as far as splice() needs them ---- */

static int make_pipe(struct program *p, int fds[2]) {
    int in = program_fd_new(p, FD_PIPE, AF_UNSPEC), out = in < 0 ? in : program_fd_new(p, FD_PIPE, AF_UNSPEC);
    if (out < 0)
        return out;
    program_fd(p, in)->pipe_peer = out;
    program_fd(p, out)->pipe_peer = in;
    fds[0] = in;
    fds[1] = out;
    return 0;
}

static int drill_pipe(void *userdata, int fds[2]) {
    struct drill *d = userdata;
    pthread_mutex_lock(&d->lock);
    start(d);
    return (int)answer(d, make_pipe(&d->program, fds));
}

/* Reads from one end, then gives all of it to the other. */
static ssize_t do_splice(struct program *p, int fd_in, int fd_out, size_t len) {
    uint8_t buf[65536];
    struct iovec iov = {buf, len < sizeof buf ? len : sizeof buf};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    const struct fd *out = program_fd(p, fd_out);
    ssize_t n = out == NULL ? -EBADF : program_recv(p, fd_in, &msg, 0);
    if (n <= 0)
        return n;
    iov.iov_len = (size_t)n;
    if (out->kind != FD_PIPE)
        return program_send(p, fd_out, &iov, 1, 0, 0);
    bytes_add(&program_fd(p, out->pipe_peer)->rx, buf, (size_t)n);
    return n;
}

static int drill_splice(void *userdata, int fd_in, loff_t *off_in, int fd_out, loff_t *off_out, size_t len,
                        unsigned int flags) {
    struct drill *d = userdata;
    ssize_t rc;
    (void)flags;
    pthread_mutex_lock(&d->lock);
    if (off_in != NULL || off_out != NULL)
        return (int)answer(d, -ESPIPE);
    while ((rc = do_splice(&d->program, fd_in, fd_out, len)) == -EAGAIN && may_wait(d, fd_in, 0) && wait_for_change(d))
        ;
    return (int)answer(d, rc);
}

/* ---- life ---- */

static void drill_free(void *userdata) {
    struct drill *d = userdata;
    pthread_mutex_lock(&d->lock);
    d->over = true;
    tell_waiting(d);
    program_end(&d->program);
    pthread_mutex_unlock(&d->lock);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

__attribute__((visibility("default"))) packetdrill_init_fn packetdrill_interface_init;

void packetdrill_interface_init(const char *flags, struct packetdrill_interface *ifc) {
    struct drill *d = calloc(1, sizeof *d);
    CHECK(d != NULL);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, NULL);
    snprintf(d->flags, sizeof d->flags, "%s", flags != NULL ? flags : "");
    d->early = STACK_EPOCH;
    d->wake_at = NS_NEVER;
    *ifc = (struct packetdrill_interface){.userdata = d,
                                          .free = drill_free,
                                          .socket = drill_socket,
                                          .bind = drill_bind,
                                          .listen = drill_listen,
                                          .accept = drill_accept,
                                          .connect = drill_connect,
                                          .read = drill_read,
                                          .readv = drill_readv,
                                          .recv = drill_recv,
                                          .recvfrom = drill_recvfrom,
                                          .recvmsg = drill_recvmsg,
                                          .write = drill_write,
                                          .writev = drill_writev,
                                          .send = drill_send,
                                          .sendto = drill_sendto,
                                          .sendmsg = drill_sendmsg,
                                          .fcntl = drill_fcntl,
                                          .ioctl = drill_ioctl,
                                          .close = drill_close,
                                          .shutdown = drill_shutdown,
                                          .getsockopt = drill_getsockopt,
                                          .setsockopt = drill_setsockopt,
                                          .poll = drill_poll,
                                          .netdev_send = drill_netdev_send,
                                          .netdev_receive = drill_netdev_receive,
                                          .usleep = drill_usleep,
                                          .gettimeofday = drill_gettimeofday,
                                          .epoll_create = drill_epoll_create,
                                          .epoll_ctl = drill_epoll_ctl,
                                          .epoll_wait = drill_epoll_wait,
                                          .pipe = drill_pipe,
                                          .splice = drill_splice};
}
