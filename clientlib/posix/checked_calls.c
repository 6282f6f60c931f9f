/* SPDX-License-Identifier: Apache-2.0
 *
 * The names under which programs built with _FORTIFY_SOURCE call: the size of the buffer is checked, then the call is
 * the ordinary one.
 */
#include <unistd.h>

#include "clientlib/posix/posix.h"

void __chk_fail(void) __attribute__((noreturn));
ssize_t __read_chk(int fd, void *data, size_t len, size_t room);
ssize_t __recv_chk(int fd, void *data, size_t len, size_t room, int flags);
ssize_t __recvfrom_chk(int fd, void *data, size_t len, size_t room, int flags, struct sockaddr *from,
                       socklen_t *from_len);
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout_ms, size_t room);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask, size_t room);

ssize_t POSIX_CALL __read_chk(int fd, void *data, size_t len, size_t room) {
    if (len > room)
        __chk_fail();
    return read(fd, data, len);
}

ssize_t POSIX_CALL __recv_chk(int fd, void *data, size_t len, size_t room, int flags) {
    if (len > room)
        __chk_fail();
    return recv(fd, data, len, flags);
}

ssize_t POSIX_CALL __recvfrom_chk(int fd, void *data, size_t len, size_t room, int flags, struct sockaddr *from,
                                  socklen_t *from_len) {
    if (len > room)
        __chk_fail();
    return recvfrom(fd, data, len, flags, from, from_len);
}

int POSIX_CALL __poll_chk(struct pollfd *fds, nfds_t n, int timeout_ms, size_t room) {
    if (room / sizeof(*fds) < n)
        __chk_fail();
    return poll(fds, n, timeout_ms);
}

int POSIX_CALL __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask,
                           size_t room) {
    if (room / sizeof(*fds) < n)
        __chk_fail();
    return ppoll(fds, n, timeout, mask);
}
