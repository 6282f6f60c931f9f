/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of file descriptors and the objects behind it. A slot that is empty is all there is to a file descriptor
 * that is not ours: one load. Any thread; see posix.h for the lock.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

struct posix_object *posix_table[POSIX_FDS];

/* Nothing of a signal handler's runs while the lock is held (signal.c keeps it back), so a thread never meets itself
 * here. */
void posix_lock(void) {
    posix_thread.held++;
    client_lock_take(&posix.lock);
}

void posix_unlock(void) {
    client_lock_give(&posix.lock);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    posix_thread.held--;
    if (UNLIKELY(posix_thread.kept) && posix_thread.held == 0)
        posix_signal_let_go();
}

struct posix_sock *posix_enter_any(int fd) {
    struct posix_object *o = posix_object(fd);
    if (!o || o->kind != POSIX_SOCK)
        return NULL;
    posix_lock();
    if (LIKELY(posix_object(fd) == o && o->kind == POSIX_SOCK)) {
        if (UNLIKELY(o->state == POSIX_PARKED))
            (void)posix_share_take((struct posix_sock *)o, true);
        return (struct posix_sock *)o;
    }
    posix_unlock();
    return NULL;
}

struct posix_sock *posix_enter_carried(int fd) {
    struct posix_sock *s = posix_enter(fd);
    if (LIKELY(!s || s->o.state != POSIX_FRESH))
        return s;
    if (posix_sock_decide(s, false))
        return s;
    posix_unlock();
    return NULL;
}

void posix_slot_set(int fd, struct posix_object *o) {
    o->refs++;
    posix.fd_high = fd >= posix.fd_high ? fd + 1 : posix.fd_high;
    __atomic_store_n(&posix_table[fd], o, __ATOMIC_RELAXED);
}

/* Another slot of the same object takes over what the kernel is asked by. */
static int other_slot(const struct posix_object *o) {
    for (int fd = 0; fd < posix.fd_high; fd++)
        if (posix_table[fd] == o)
            return fd;
    return -1;
}

void posix_slot_drop(int fd) {
    struct posix_object *o = posix_object(fd);
    if (!o)
        return;
    __atomic_store_n(&posix_table[fd], NULL, __ATOMIC_RELAXED);
    struct posix_sock *s = (struct posix_sock *)o;
    if (--o->refs) {
        int next = o->kind == POSIX_FRAMES || (o->kind == POSIX_SOCK && s->fd == fd) ? other_slot(o) : -1;
        if (next >= 0 && o->kind == POSIX_FRAMES)
            posix_frames_move(o, fd, next);
        else if (next >= 0)
            posix_sock_move(s, next);
        return;
    }
    if (o->kind == POSIX_SOCK)
        posix_sock_end(s);
    else if (o->kind == POSIX_EPOLL)
        posix_epoll_end((struct posix_epoll *)o);
    else if (o->kind == POSIX_FRAMES)
        posix_frames_end(o);
}

struct posix_sock *posix_sock_new(int fd, bool stream, bool v6, bool nonblock) {
    struct posix_sock *s = posix.free_socks;
    if (s)
        posix.free_socks = s->next_free;
    else if (!(s = calloc(1, sizeof(*s))))
        return NULL;
    uint32_t life = s->life;
    *s = (struct posix_sock){.life = life,
                             .o = {.kind = POSIX_SOCK, .state = POSIX_FRESH},
                             .stream = stream,
                             .v6 = v6,
                             .nonblock = nonblock,
                             .fd = fd,
                             .rcv_timeout_ns = -1,
                             .snd_timeout_ns = -1};
    s->rx_tail = &s->rx_head;
    posix.objects++;
    return s;
}

/* An fd of the library's own: out of the program's way, and not the program's to close. */
int client_place_fd(int fd) {
    if (fd < 0)
        return fd;
    static struct posix_object internal = {.kind = POSIX_INTERNAL};
    struct rlimit limit;
    int from = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > 128 ? (int)limit.rlim_cur - 64 : 64;
    if (limit.rlim_cur > PLACE_FROM + 64)
        from = PLACE_FROM;
    int high = posix_real.fcntl64(fd, F_DUPFD_CLOEXEC, from);
    if (high < 0)
        high = fd;
    else
        posix_real.close(fd);
    if (high < POSIX_FDS)
        posix_slot_set(high, &internal);
    return high;
}
