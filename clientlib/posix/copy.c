/* SPDX-License-Identifier: Apache-2.0
 *
 * To and from memory that the program names. A pointer that is bad ends in the handler of SIGSEGV (signal.c), which
 * jumps back here: the call says EFAULT, as the kernel would. Any thread.
 */
#include <limits.h>

#include "clientlib/posix/posix.h"

/* The jump costs some 10 ns to prepare; between the two lines of `copying` nothing is held that would be lost. */
bool posix_copy(void *dst, const void *src, size_t len) {
    struct posix_thread *t = &posix_thread;
    if (len == 0)
        return true;
    if (dst == NULL || src == NULL)
        return false; /* memcpy() may take it that neither is */
    posix_signal_install();
    if (sigsetjmp(t->fault, 0)) {
        t->copying = false;
        return false;
    }
    t->copying = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    memcpy(dst, src, len);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    t->copying = false;
    return true;
}

int posix_iov_init(struct posix_iov *v, struct iovec *copy, size_t room, const struct iovec *iov, size_t n) {
    *v = (struct posix_iov){.iov = copy, .n = n};
    if (n > room)
        return -EMSGSIZE;
    if (!posix_copy(copy, iov, n * sizeof(*iov)))
        return -EFAULT;
    for (size_t i = 0; i < n; i++) {
        if ((ssize_t)copy[i].iov_len < 0)
            return -EINVAL;
        if (copy[i].iov_len > INT_MAX - v->total) /* the kernel cuts there too */
            copy[i].iov_len = INT_MAX - v->total;
        v->total += copy[i].iov_len;
    }
    return 0;
}

size_t posix_iov_left(const struct posix_iov *v) {
    return v->total;
}

/* The next piece of the program's memory, at most `len` long; NULL at the end. */
static uint8_t *piece(struct posix_iov *v, size_t len, size_t *ret_len) {
    while (v->n && v->at == v->iov->iov_len) {
        v->iov++;
        v->n--;
        v->at = 0;
    }
    if (!v->n)
        return NULL;
    size_t room = v->iov->iov_len - v->at;
    *ret_len = len < room ? len : room;
    return (uint8_t *)v->iov->iov_base + v->at;
}

static void advance(struct posix_iov *v, size_t n) {
    v->at += n;
    v->total -= n;
}

bool posix_iov_put(struct posix_iov *v, const void *src, size_t len) {
    size_t n;
    for (uint8_t *at; len && (at = piece(v, len, &n)); len -= n) {
        if (!posix_copy(at, src, n))
            return false;
        src = (const uint8_t *)src + n;
        advance(v, n);
    }
    return true;
}

bool posix_iov_get(struct posix_iov *v, void *dst, size_t len) {
    size_t n;
    for (uint8_t *at; len && (at = piece(v, len, &n)); len -= n) {
        if (!posix_copy(dst, at, n))
            return false;
        dst = (uint8_t *)dst + n;
        advance(v, n);
    }
    return true;
}

int posix_give_addr(const struct sockaddr_storage *sa, socklen_t sa_len, struct sockaddr *addr, socklen_t *len) {
    socklen_t room;
    if (!addr)
        return 0;
    if (!posix_copy(&room, len, sizeof(room)))
        return -EFAULT;
    if ((int)room < 0)
        return -EINVAL;
    if (!posix_copy(addr, sa, room < sa_len ? room : sa_len) || !posix_copy(len, &sa_len, sizeof(sa_len)))
        return -EFAULT;
    return 0;
}
