/* SPDX-License-Identifier: Apache-2.0
 *
 * close, dup and their kin, fcntl, ioctl, fdopen: what happens to the number. The library's own fds are not the
 * program's to close: for a loop over all numbers they are not there.
 */
#include <linux/sockios.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

static bool is_internal(int fd) {
    struct posix_object *o = posix_object(fd);
    return o && o->kind == POSIX_INTERNAL;
}

static void forget(int fd) {
    posix_lock();
    posix_slot_drop(fd);
    posix_unlock();
}

int POSIX_CALL close(int fd) {
    if (LIKELY(!posix_object(fd)) || !posix_is_owner())
        return posix_real.close(fd);
    if (is_internal(fd))
        return posix_errno(-EBADF);
    forget(fd);
    return posix_real.close(fd);
}

/* Around the library's own. */
int POSIX_CALL close_range(unsigned int first, unsigned int last, int flags) {
    unsigned int high = (unsigned int)posix.fd_high;
    int result = 0;
    if (first > last || high == 0 || flags & CLOSE_RANGE_CLOEXEC || !posix_is_owner())
        return posix_real.close_range(first, last, flags);
    for (unsigned int fd = first; fd <= last && fd < high && result == 0; fd++) {
        if (!is_internal((int)fd)) {
            forget((int)fd);
            continue;
        }
        if (fd > first)
            result = posix_real.close_range(first, fd - 1, flags);
        first = fd + 1;
    }
    return result || first > last ? result : posix_real.close_range(first, last, flags);
}

void POSIX_CALL closefrom(int first) {
    (void)close_range(first > 0 ? (unsigned int)first : 0, ~0u, 0);
}

/* ---- copies ---- */

static int share(int from, int to) {
    if (to < 0 || !posix_is_owner())
        return to;
    posix_lock();
    struct posix_object *o = posix_object(from);
    posix_slot_drop(to);
    if (o && o->kind != POSIX_INTERNAL && to < POSIX_FDS)
        posix_slot_set(to, o);
    posix_unlock();
    return to;
}

int POSIX_CALL dup(int fd) {
    int to = posix_real.dup(fd);
    return LIKELY(!posix_object(fd)) ? to : share(fd, to);
}

int POSIX_CALL dup2(int from, int to) {
    if (from == to || LIKELY(!posix_object(from) && !posix_object(to)) || !posix_is_owner())
        return posix_real.dup2(from, to);
    return is_internal(to) ? posix_errno(-EBUSY) : share(from, posix_real.dup2(from, to));
}

int POSIX_CALL dup3(int from, int to, int flags) {
    if (from == to || LIKELY(!posix_object(from) && !posix_object(to)) || !posix_is_owner())
        return posix_real.dup3(from, to, flags);
    return is_internal(to) ? posix_errno(-EBUSY) : share(from, posix_real.dup3(from, to, flags));
}

static void set_nonblock(int fd, bool nonblock) {
    struct posix_sock *s = posix_enter(fd);
    if (!s)
        return;
    s->nonblock = nonblock;
    posix_unlock();
}

static int control(int fd, int command, long arg) {
    int result = posix_real.fcntl64(fd, command, arg);
    if (LIKELY(!posix_object(fd)) || result < 0)
        return result;
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        return share(fd, result);
    if (command == F_SETFL)
        set_nonblock(fd, arg & O_NONBLOCK);
    return result;
}

int POSIX_CALL fcntl(int fd, int command, ...) {
    va_list args;
    va_start(args, command);
    long arg = va_arg(args, long);
    va_end(args);
    return control(fd, command, arg);
}

int POSIX_CALL fcntl64(int fd, int command, ...) {
    va_list args;
    va_start(args, command);
    long arg = va_arg(args, long);
    va_end(args);
    return control(fd, command, arg);
}

/* ---- ioctl ---- */

static int unread(struct posix_sock *s) {
    posix_pump(false);
    if (s->stream || !s->rx_head)
        return (int)s->rx_bytes;
    const struct posix_rx *r = s->rx_head;
    uint32_t left = r->msg.len - r->at;
    return (int)(r->msg.gso_size && r->msg.gso_size < left ? r->msg.gso_size : left);
}

static int unsent(struct posix_sock *s) {
    client_stream_reap(s->us);
    return (int)(s->us->sent - s->us->done);
}

/* 1 = not ours to answer. */
static int ask(struct posix_sock *s, unsigned long request, void *arg) {
    int value = 0;
    if (request == FIONREAD && (s->o.state == POSIX_OPEN || s->rx_head))
        value = unread(s);
    else if (request == SIOCOUTQ && s->o.state == POSIX_OPEN)
        value = unsent(s);
    else if (request != SIOCATMARK || s->o.state != POSIX_OPEN)
        return 1;
    return posix_copy(arg, &value, sizeof(value)) ? 0 : -EFAULT;
}

int POSIX_CALL ioctl(int fd, unsigned long request, ...) {
    va_list args;
    va_start(args, request);
    long arg = va_arg(args, long);
    va_end(args);
    struct posix_sock *s = posix_enter(fd);
    if (LIKELY(!s))
        return posix_real.ioctl(fd, request, arg);
    int on = 0, err = ask(s, request, (void *)arg);
    posix_unlock();
    if (err <= 0)
        return err ? posix_errno(err) : 0;
    int result = posix_real.ioctl(fd, request, arg);
    if (result == 0 && request == FIONBIO && posix_copy(&on, (void *)arg, sizeof(on)))
        set_nonblock(fd, on != 0);
    return result;
}

/* ---- stdio ---- */

static ssize_t cookie_read(void *cookie, char *data, size_t len) {
    return read((int)(intptr_t)cookie, data, len);
}

static ssize_t cookie_write(void *cookie, const char *data, size_t len) {
    ssize_t n = write((int)(intptr_t)cookie, data, len);
    return n < 0 ? 0 : n;
}

static int cookie_close(void *cookie) {
    return close((int)(intptr_t)cookie);
}

/* The C library's streams call the kernel by themselves; those over our sockets call us. */
POSIX_CALL FILE *fdopen(int fd, const char *mode) {
    struct posix_sock *s = posix_enter(fd);
    if (LIKELY(!s))
        return posix_real.fdopen(fd, mode);
    posix_unlock();
    const cookie_io_functions_t calls = {.read = cookie_read, .write = cookie_write, .close = cookie_close};
    FILE *f = fopencookie((void *)(intptr_t)fd, mode, calls);
    if (f)
        f->_fileno = fd; /* fileno() answers as ever */
    return f;
}
