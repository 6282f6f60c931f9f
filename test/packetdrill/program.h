/* SPDX-License-Identifier: Apache-2.0
 *
 * The program's side of the host: file descriptors as POSIX shows them, over the engines of stack.h. Every call answers
 * at once, with a result or -errno; -EAGAIN means that it would block, and interface.c decides whether it does. One
 * thread at a time.
 */
#ifndef USHER_TEST_PACKETDRILL_PROGRAM_H
#define USHER_TEST_PACKETDRILL_PROGRAM_H

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "test/packetdrill/stack.h"

#define FD_MAX       64
#define FD_REGION    (STACK_REGION_SIZE / FD_MAX)
#define OPTION_MAX   48
#define ACCEPT_MAX   64
#define WATCH_MAX    16
#define ZEROCOPY_MAX 64

enum fd_kind { FD_FREE, FD_STREAM, FD_DATAGRAM, FD_EPOLL, FD_PIPE };
enum fd_state { STREAM_NEW, STREAM_LISTENING, STREAM_CONNECTING, STREAM_OPEN, STREAM_ENDED };

/* Bytes that wait for a reader; of a datagram socket, each datagram with a head of its own. */
struct bytes {
    uint8_t *v;
    size_t from, to, size;
};

struct watch {
    int fd; /* 0 = free */
    struct epoll_event event;
    uint32_t seen; /* fd.changes when it was last reported: edge triggered */
    bool spent;    /* one shot, and it was shot */
};

struct fd {
    int number; /* a real descriptor of this process: packetdrill closes what is left over itself */
    enum fd_kind kind;
    enum fd_state state;
    bool open; /* the program has not closed it; the engine may know it longer than that */
    bool nonblock, bound, shut_rd, hung_up, ended, fin_queued;
    int family;
    uint32_t sock;
    struct flow flow;
    struct tcp_options opt;
    int values[OPTION_MAX]; /* what setsockopt() was told, by row of its table */
    uint64_t options_set;
    int error; /* SO_ERROR */
    struct bytes rx;
    uint64_t tx_queued, tx_done;
    uint64_t rx_base; /* stream offset of rx.from */
    bool urgent_known;
    uint8_t urgent_byte;
    uint32_t urgent_end; /* stream offset behind the urgent byte */
    uint32_t changes_in, changes_out;
    bool wants_room; /* a write found too little; the next room is news */
    struct linger linger;
    uint32_t backlog;
    int accepted[ACCEPT_MAX];
    uint32_t accepted_count;
    bool syn_waits;                        /* fast open: for the first write */
    uint32_t zerocopy_next, zerocopy_told; /* sends with MSG_ZEROCOPY so far, and reported */
    uint64_t zerocopy_end[ZEROCOPY_MAX];   /* tx position at which each is done */
    int pipe_peer;
    struct watch watch[WATCH_MAX];
};

struct program {
    struct stack *stack;
    struct stack_config config;
    struct fd fds[FD_MAX];
    uint32_t fastopen_mode; /* bits of net.ipv4.tcp_fastopen: 1 client, 2 server, 0x400 every listener */
    uint16_t next_port;
};

struct fd *program_fd(struct program *p, int fd); /* NULL: not open */
int program_fd_new(struct program *p, enum fd_kind kind, int family);
uint64_t program_sink(const struct program *p, const struct fd *f);
void program_start(struct program *p); /* makes the stack when there is none yet */
void program_end(struct program *p);

/* program.c */
int program_socket(struct program *p, int domain, int type, int protocol);
int program_close(struct program *p, int fd);
int program_shutdown(struct program *p, int fd, int how);
void program_deliver(void *arg, const struct pkt *pkt);
void program_notice(void *arg, const struct notice *n);
void program_engine_sock(struct program *p, struct fd *f, uint32_t id);
void bytes_add(struct bytes *b, const void *data, size_t n);
size_t bytes_take(struct bytes *b, void *data, size_t n, bool peek);
static inline size_t bytes_count(const struct bytes *b) {
    return b->to - b->from;
}

/* connect.c */
int program_bind(struct program *p, int fd, const struct sockaddr *addr, socklen_t len);
int program_listen(struct program *p, int fd, int backlog);
int program_accept(struct program *p, int fd, struct sockaddr *addr, socklen_t *len);
/* -EINPROGRESS: begun, ask program_connected(). */
int program_connect(struct program *p, int fd, const struct sockaddr *addr, socklen_t len, bool fastopen);
int program_connected(struct program *p, int fd); /* 0, -EAGAIN or why not */
void program_name(const struct ipaddr *a, uint16_t port, int family, struct sockaddr *addr, socklen_t *len);
int program_address(const struct sockaddr *addr, socklen_t len, struct ipaddr *ret_addr, uint16_t *ret_port);

/* transfer.c */
ssize_t program_send(struct program *p, int fd, const struct iovec *iov, size_t count, size_t skip, int flags);
ssize_t program_send_to(struct program *p, int fd, const struct iovec *iov, size_t count, const struct sockaddr *to,
                        socklen_t len);
ssize_t program_recv(struct program *p, int fd, struct msghdr *msg, int flags);
size_t program_room(const struct program *p, const struct fd *f); /* bytes a write can take now */
size_t iov_bytes(const struct iovec *iov, size_t count);

/* options.c */
int program_setsockopt(struct program *p, int fd, int level, int name, const void *value, socklen_t len);
int program_getsockopt(struct program *p, int fd, int level, int name, void *value, socklen_t *len);
/* What was said of `name` with an int, or its default. */
int program_option(const struct fd *f, int level, int name);
void program_options_inherit(struct fd *child, const struct fd *listener);

/* ready.c */
short program_events(const struct program *p, const struct fd *f); /* POLLIN and so on, all that hold */
int program_epoll_ctl(struct program *p, int epfd, int op, int fd, struct epoll_event *event);
int program_epoll_look(struct program *p, int epfd, struct epoll_event *events, int max);
int program_ioctl(struct program *p, int fd, unsigned long request, void *arg);

/* settings.c */
void program_settings(struct program *p, const char *flags);

#endif
