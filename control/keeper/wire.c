/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages between usherd and its keeper: both sides use this file.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/keeper/hold.h"

union fd_control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(KEEPER_BATCH_MAX * sizeof(int))];
};

static size_t message_size(uint32_t count) {
    return sizeof(struct keeper_message) - (KEEPER_BATCH_MAX - count) * (size_t)KEEPER_NAME_MAX;
}

int keeper_send(int fd, const struct keeper_message *m, const int *fds) {
    union fd_control control;
    struct iovec iov = {(void *)m, message_size(m->count)};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fds != NULL && m->count > 0) {
        size_t bytes = m->count * sizeof(int);
        memset(&control, 0, sizeof control);
        h.msg_control = control.bytes;
        h.msg_controllen = CMSG_SPACE(bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(bytes);
        memcpy(CMSG_DATA(c), fds, bytes);
    }
    return sendmsg(fd, &h, MSG_NOSIGNAL) >= 0 ? 0 : -errno;
}

static void fds_take(struct msghdr *h, int *ret_fds, uint32_t *ret_fd_count) {
    *ret_fd_count = 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(h);
    if (c == NULL || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return;
    *ret_fd_count = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(ret_fds, CMSG_DATA(c), *ret_fd_count * sizeof(int));
}

static bool message_good(struct keeper_message *m, size_t size) {
    if (size < message_size(0) || m->version != KEEPER_VERSION || m->count > KEEPER_BATCH_MAX ||
        size != message_size(m->count))
        return false;
    for (uint32_t i = 0; i < m->count; i++) {
        if (memchr(m->names[i], '\0', KEEPER_NAME_MAX) == NULL || m->names[i][0] == '\0')
            return false;
    }
    return true;
}

int keeper_receive(int fd, struct keeper_message *m, int *ret_fds, uint32_t *ret_fd_count) {
    union fd_control control;
    struct iovec iov = {m, sizeof *m};
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC);
    /* The other side closed without reading what we sent: its last words come after the error. */
    if (n < 0 && errno == ECONNRESET)
        n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC);
    *ret_fd_count = 0;
    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    fds_take(&h, ret_fds, ret_fd_count);
    if (n == 0)
        return 0;
    bool carries = m->op == KEEPER_PUT || m->op == KEEPER_FDS;
    if ((h.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) || !message_good(m, (size_t)n) ||
        *ret_fd_count != (carries ? m->count : 0))
        return -EPROTO;
    return 1;
}
