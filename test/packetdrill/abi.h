/* SPDX-License-Identifier: Apache-2.0
 *
 * What packetdrill asks of a network stack that it loads as a shared object (--so_filename). The object exports
 * packetdrill_interface_init(), which fills this table; packetdrill then makes every system call of a script through
 * it, puts the script's incoming packets in with netdev_send() and takes the stack's own out with netdev_receive().
 * Sleeping and the clock go through it as well, so a stack may run in virtual time. The order of the members is the
 * ABI; nothing in it carries a version.
 *
 * Calls: each behaves as the system call of its name, -1 and errno on failure, and may block. Those of one script's
 * system calls that block come from a second thread; everything else comes from packetdrill's main thread.
 */
#ifndef USHER_TEST_PACKETDRILL_ABI_H
#define USHER_TEST_PACKETDRILL_ABI_H

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct packetdrill_interface {
    void *userdata; /* handed to every call */
    void (*free)(void *userdata);

    int (*socket)(void *userdata, int domain, int type, int protocol);
    int (*bind)(void *userdata, int fd, const struct sockaddr *addr, socklen_t len);
    int (*listen)(void *userdata, int fd, int backlog);
    int (*accept)(void *userdata, int fd, struct sockaddr *addr, socklen_t *len);
    int (*connect)(void *userdata, int fd, const struct sockaddr *addr, socklen_t len);

    ssize_t (*read)(void *userdata, int fd, void *buf, size_t count);
    ssize_t (*readv)(void *userdata, int fd, const struct iovec *iov, int count);
    ssize_t (*recv)(void *userdata, int fd, void *buf, size_t len, int flags);
    ssize_t (*recvfrom)(void *userdata, int fd, void *buf, size_t len, int flags, struct sockaddr *addr,
                        socklen_t *addr_len);
    ssize_t (*recvmsg)(void *userdata, int fd, struct msghdr *msg, int flags);

    ssize_t (*write)(void *userdata, int fd, const void *buf, size_t count);
    ssize_t (*writev)(void *userdata, int fd, const struct iovec *iov, int count);
    ssize_t (*send)(void *userdata, int fd, const void *buf, size_t len, int flags);
    ssize_t (*sendto)(void *userdata, int fd, const void *buf, size_t len, int flags, const struct sockaddr *addr,
                      socklen_t addr_len);
    ssize_t (*sendmsg)(void *userdata, int fd, const struct msghdr *msg, int flags);

    int (*fcntl)(void *userdata, int fd, int cmd, ...);
    int (*ioctl)(void *userdata, int fd, unsigned long request, ...);
    int (*close)(void *userdata, int fd);
    int (*shutdown)(void *userdata, int fd, int how);
    int (*getsockopt)(void *userdata, int fd, int level, int name, void *value, socklen_t *len);
    int (*setsockopt)(void *userdata, int fd, int level, int name, const void *value, socklen_t len);
    int (*poll)(void *userdata, struct pollfd *fds, nfds_t count, int timeout);

    /* An IP packet arrives at the stack; 0 or -1. */
    int (*netdev_send)(void *userdata, const void *packet, size_t len);
    /* The next IP packet that left the stack, waiting for one. *len comes as the size of the buffer and goes as that of
     * the packet, 0 when there will be none; *ret_usecs is when it left. 0 or -1. */
    int (*netdev_receive)(void *userdata, void *packet, size_t *len, long long *ret_usecs);
    int (*usleep)(void *userdata, useconds_t usecs);
    int (*gettimeofday)(void *userdata, struct timeval *tv, struct timezone *tz);

    int (*epoll_create)(void *userdata, int size);
    int (*epoll_ctl)(void *userdata, int epfd, int op, int fd, struct epoll_event *event);
    int (*epoll_wait)(void *userdata, int epfd, struct epoll_event *events, int max, int timeout);
    int (*pipe)(void *userdata, int fds[2]);
    int (*splice)(void *userdata, int fd_in, loff_t *off_in, int fd_out, loff_t *off_out, size_t len,
                  unsigned int flags);
};

#define PACKETDRILL_INIT_SYMBOL "packetdrill_interface_init"
/* `flags` is what the user gave as --so_flags, or NULL. */
typedef void packetdrill_init_fn(const char *flags, struct packetdrill_interface *ifc);

#endif
