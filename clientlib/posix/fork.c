/* SPDX-License-Identifier: Apache-2.0
 *
 * fork(). The parent's session stays the parent's; the child begins with none. A listener or a datagram socket that
 * both have is fresh again in the child: its first use there asks usherd anew, and until then the kernel's socket
 * serves it. Streams are parked before the fork, and taken by whoever uses them first (share.c). The child's copy of
 * one that could not be parked, because its peer does not acknowledge what was sent, is dead.
 */
#include <pthread.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

bool posix_is_owner(void) {
    return posix.pid == getpid();
}

static void before(void) {
    posix_lock();
    posix_share_all(1, true, NULL);
}

static void after_in_parent(void) {
    posix.forks++;
    posix_unlock();
}

static void renew(struct posix_sock *s) {
    struct posix_rx *r;
    bool stream_of_parent = s->o.state == POSIX_OPEN || s->o.state == POSIX_CONNECTING;
    while ((r = posix_rx_pop(s))) {
        r->next = posix.free_rx; /* the buffers are the parent's */
        posix.free_rx = r;
    }
    s->us = NULL;
    s->witness = NULL;
    s->starved = s->full = false;
    if (posix_sock_is_dual(s))
        s->o.state = POSIX_FRESH;
    else if (stream_of_parent) {
        s->o.state = POSIX_DEAD;
        s->error = ECONNRESET;
        s->eof = true;
    }
}

/* Epoll sets are shared with the parent: their kernel half is left as it is. */
static void after_in_child(void) {
    posix.pid = getpid();
    posix.sleepers = NULL;
    posix.sleeping = 0;
    posix.starved = NULL;
    struct usher_context *old = posix.ctx;
    posix.ctx = NULL;
    posix.refused = false;
    for (int fd = 0; fd < posix.fd_high; fd++) {
        struct posix_object *o = posix_table[fd];
        if (o && o->kind == POSIX_SOCK)
            renew((struct posix_sock *)o);
        else if (o && o->kind == POSIX_EPOLL)
            ((struct posix_epoll *)o)->watches = 0;
        else if (o && o->kind == POSIX_FRAMES)
            posix_frames_renew(o);
    }
    posix_thread.waiter.prev_next = NULL;
    usher_context_close(old);
    posix_share_inherit();
    posix_unlock();
}

void posix_fork_watch(void) {
    client_fork_watch();
    pthread_atfork(before, after_in_parent, after_in_child);
}
