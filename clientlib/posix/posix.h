/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of libusher-posix share: the table of file descriptors, sockets, epoll sets, and the process.
 *
 * One lock. Everything but the table's slots is guarded by posix.lock, and the context of libusher is used under it
 * alone. A slot is read without it; objects are never freed but kept for the next one of their kind, so a stale pointer
 * can be looked at, and posix_enter() compares the slot again once it has the lock. Nobody sleeps with it.
 *
 * Names. "Carried" means by usherd. A socket that is not carried and never will be has no object: its calls cost a load
 * and go to the C library.
 */
#ifndef USHER_POSIX_POSIX_H
#define USHER_POSIX_POSIX_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <stdint.h>

#include "clientlib/posix/real.h"
#include "clientlib/src/internal.h"

#define POSIX_CALL __attribute__((visibility("default")))
#define PLACE_FROM 960 /* the library's own fds lie from here on, where the limit allows */
#define POSIX_FDS  (1 << 18) /* higher ones stay with the kernel; 2 MiB of address space */

enum posix_kind { POSIX_SOCK = 1, POSIX_EPOLL, POSIX_FRAMES, POSIX_INTERNAL };

enum posix_state {
    POSIX_FREE,
    POSIX_FRESH,      /* the kernel's so far: connect, or the first use of a listener or datagram socket, decides */
    POSIX_CONNECTING,
    POSIX_OPEN,       /* a stream, carried */
    POSIX_LISTENING,  /* carried; the kernel socket listens as well */
    POSIX_DGRAM,      /* carried; the kernel socket receives as well */
    POSIX_PARKED,     /* a stream that usherd keeps for this process and others that have a copy; see share.c */
    POSIX_DEAD,       /* was carried and is no more: `error`, then the end */
};

/* The first member of everything that a slot of the table points to. */
struct posix_object {
    uint8_t kind;
    uint8_t state;
    uint32_t refs; /* slots that point here */
};

/* What came and was not read yet: bytes, a datagram, or a connection (msg.sock). */
struct posix_rx {
    struct posix_rx *next;
    struct usher_msg msg;
    uint32_t at; /* bytes of it that were read */
};

struct posix_sock {
    struct posix_object o;
    bool stream, v6, nonblock, listened;
    bool eof;      /* the peer sends no more */
    bool shut_rd, shut_wr;
    bool full;     /* a send found no room; not writable until usherd says so */
    bool starved;  /* ... because the TX region had none: on posix.starved */
    bool shared;   /* other processes have, or had, a copy of this stream */
    bool park_keep; /* it is being parked: this process keeps its copy ... */
    uint32_t park_copies; /* ... and makes so many */
    int64_t asked_ns; /* when it was last asked for, and was another's */
    int64_t lent_ns;  /* when another asked for it */
    uint8_t trust; /* enum posix_trust, of a listener */
    struct posix_sock *witness; /* accepted by the kernel from this listener, when it had the life and ... */
    uint32_t witness_life, witness_forks; /* ... the process had forked so often: its use, or end, tells of trust */
    bool told;     /* connect() has said once that the connection is there */
    uint32_t life; /* counts the sockets that this object has been */
    int fd;        /* one of this process's, for the kernel */
    int error;     /* SO_ERROR, positive */
    struct usher_socket *us;
    struct posix_rx *rx_head, **rx_tail;
    uint32_t rx_bytes, rx_count;
    int64_t rcv_timeout_ns, snd_timeout_ns; /* -1 = for ever */
    int rcvlowat;
    int64_t looked_ns; /* when its kernel socket was asked last */
    uint32_t kernel_sends; /* posix.kernel_sends then */
    struct posix_interest *interests;
    struct posix_sock *next_starved, *next_free;
    struct usher_msg peer; /* family, peer, peer_port, scope of a stream's peer */
    struct usher_msg local; /* likewise of its own end, while it is parked; no port: unknown */
    uint32_t control;      /* enum posix_control: what recvmsg() tells of a datagram */
    struct posix_option *options; /* that were set, for whoever is born of it */
    uint32_t option_count;
    char why[128]; /* an option that usherd has not: it stays with the kernel */
};

/* An option that usherd has as well. */
#define POSIX_OPTIONS 16
struct posix_option {
    int level, name;
    socklen_t len;
    uint8_t value[16];
};

/* Does the process that accepts from a listener also serve what it accepts? A connection cannot follow fork() into a
 * child, so a listener whose program forks for each must stay with the kernel. */
enum posix_trust { TRUST_OPEN, TRUST_YES, TRUST_NO };

struct posix_epoll;

/* One fd in one epoll set. */
struct posix_interest {
    struct posix_interest *next;       /* of the socket */
    struct posix_interest *set_next, **set_prev_next; /* of the set */
    struct posix_interest *ready_next; /* of the set's ready list */
    struct posix_epoll *ep;
    struct posix_sock *sock;
    int fd;
    uint32_t events;
    epoll_data_t data;
    bool in_kernel; /* the kernel's set has it too, under posix_tag(fd) */
    bool listed;    /* on the ready list */
    bool disabled;  /* EPOLLONESHOT has fired */
};

struct posix_epoll {
    struct posix_object o;
    int fd;
    uint32_t watches;  /* the kernel's set has the session's fds since that life of it; 0 = it has not */
    uint32_t sleepers; /* threads asleep in the kernel's epoll_wait */
    int bell;          /* eventfd in the kernel's set, to wake a sleeper; -1 = not needed yet */
    struct posix_epoll *next_free;
    struct posix_interest *interests, *ready, **ready_tail;
    int64_t looked_ns;
};

/* A thread that waits, in its own memory: a longjmp() out of a signal handler leaves nothing dangling. */
struct posix_waiter {
    struct posix_waiter *next, **prev_next; /* of posix.sleepers; NULL when not asleep */
    const struct posix_sock *sock; /* who is waited for; NULL: whoever of `fds` */
    const struct pollfd *fds;
    uint32_t fd_count;
    int bell; /* eventfd, or -1 */
    bool owns_wake; /* sleeps on the session's wake fd */
};

struct posix_thread {
    struct posix_waiter waiter;
    sigjmp_buf fault;
    bool copying;
    uint32_t held; /* the lock, and how often */
    uint32_t kept; /* signals kept back meanwhile */
};

struct posix_process {
    struct client_lock lock;
    int pid;
    int fd_high; /* no slot from here on was ever in use */
    uint32_t objects; /* sockets that are not the kernel's alone */
    uint32_t news; /* counts what spinning threads should look at */
    struct usher_context *ctx; /* NULL: not attached (yet, or any more) */
    bool refused; /* usherd is not there; asked again after `retry_ns` */
    int64_t retry_ns;
    int report_fd; /* usher-run --check; -1 */
    uint8_t loopback; /* enum posix_loopback */
    bool listen_now; /* listeners are trusted from the start */
    bool confined; /* the program may make few system calls now; see confine.c */
    uint32_t parked; /* sockets that are */
    int64_t want_until_ns; /* some of them are wanted, and others have them */
    struct posix_sock *adopting; /* who gets the stream that usherd brings next */
    uint32_t forks;
    uint32_t kernel_sends; /* datagrams that this process sent by the kernel */
    uint32_t sleeping; /* threads asleep on the session */
    uint32_t cpus; /* that the process may run on */
    struct posix_waiter *sleepers;
    struct posix_sock *starved;
    struct posix_sock *free_socks;
    struct posix_rx *free_rx;
    struct posix_epoll *free_epolls;
    struct posix_interest *free_interests;
};

enum posix_control {
    CONTROL_PKTINFO = 1 << 0,
    CONTROL_PKTINFO6 = 1 << 1,
    CONTROL_TOS = 1 << 2,
    CONTROL_TCLASS = 1 << 3,
    CONTROL_TIMESTAMP = 1 << 4,
    CONTROL_TIMESTAMPNS = 1 << 5,
    CONTROL_TTL = 1 << 6,
};

enum posix_loopback { LOOPBACK_AUTO, LOOPBACK_KERNEL, LOOPBACK_USHER };

extern struct posix_process posix;
extern struct posix_object *posix_table[POSIX_FDS];
extern __thread struct posix_thread posix_thread;

/* ---- fork.c ---- */
/* False in a child of vfork(), whose memory is its parent's: it may close its fds, but ends none of our objects. */
bool posix_is_owner(void);
void posix_fork_watch(void);

/* ---- table.c ---- */
static inline struct posix_object *posix_object(int fd)
{
    if (UNLIKELY((unsigned)fd >= POSIX_FDS))
        return NULL;
    return __atomic_load_n(&posix_table[fd], __ATOMIC_RELAXED);
}
void posix_lock(void);
void posix_unlock(void);
/* The socket behind fd with the lock held, or NULL (not ours: call the C library). */
struct posix_sock *posix_enter_any(int fd);
static inline struct posix_sock *posix_enter(int fd)
{
    return LIKELY(!posix_object(fd)) ? NULL : posix_enter_any(fd);
}
/* The same, but a fresh stream is the kernel's, and a fresh listener or datagram socket is decided now. */
struct posix_sock *posix_enter_carried(int fd);
void posix_slot_set(int fd, struct posix_object *o);
/* The slot forgets its object; the last slot ends it. Under the lock. */
void posix_slot_drop(int fd);
struct posix_sock *posix_sock_new(int fd, bool stream, bool v6, bool nonblock);

/* ---- session.c ---- */
/* The context, attached on first use; NULL: usherd is not there (usher_strerror() says why). Under the lock. */
struct usher_context *posix_session(void);
/* usher-run --check: a line for each socket whose way is decided. */
void posix_report(const struct posix_sock *s, const char *how, const char *why);
void posix_session_lost(void);

/* ---- sock.c: under the lock ---- */
void posix_sock_end(struct posix_sock *s);
/* usherd has nothing of it any more, or delivers what was sent. */
void posix_sock_leave(struct posix_sock *s);
/* The kernel has it from now on: the object goes, the epoll sets are told. */
void posix_sock_to_kernel(struct posix_sock *s, const char *why);
/* Takes what usherd has to say and gives it to the sockets. True: there was something. */
bool posix_pump(bool look);
/* POLLIN and its kin, as the kernel would say it of a socket in this state; of the carried part only. */
uint32_t posix_sock_events(const struct posix_sock *s);
void posix_sock_notify(struct posix_sock *s);
/* True: the kernel socket behind it may have something too. */
static inline bool posix_sock_is_dual(const struct posix_sock *s)
{
    return s->o.state == POSIX_LISTENING || s->o.state == POSIX_DGRAM;
}
void posix_sock_move(struct posix_sock *s, int fd);
/* A stream whose connect() failed may try again. */
void posix_sock_renew(struct posix_sock *s);
/* 0 = under way, -errno, or -CLIENT_BY_KERNEL. */
int posix_sock_connect(struct posix_sock *s, const struct sockaddr *addr, socklen_t len);
int posix_sock_take_error(struct posix_sock *s);
/* The kernel has accepted fd from a listener that is not trusted yet. */
void posix_sock_witness(struct posix_sock *listener, uint32_t life, int fd, bool nonblock);
/* Opens what is fresh, where usherd takes it; else it goes to the kernel. False: it is the kernel's. */
bool posix_sock_decide(struct posix_sock *s, bool sending);
struct posix_rx *posix_rx_pop(struct posix_sock *s);
void posix_rx_free(struct posix_rx *r);
bool posix_look_due(struct posix_sock *s, bool waits);

/* What came for it is the program's to read. False: there is no memory. */
bool posix_rx_push(struct posix_sock *s, const struct usher_msg *m);
/* All rx_bytes of a struct posix_sock that were not read. */
void posix_rx_copy(void *sock, uint8_t *to);

/* ---- share.c: under the lock, but posix_share_end() ---- */
/* Before copies are made: all streams that are wanted (NULL: all) are parked, so that whoever has one can take them. */
void posix_share_all(uint32_t copies, bool keep, bool (*wanted)(const struct posix_sock *s));
/* In a new process: it has copies of what is parked. */
void posix_share_inherit(void);
/* A socket that came from elsewhere: is it a stream that is parked? */
bool posix_share_find(struct posix_sock *s);
/* So many copies of it are about to be sent. */
void posix_share_one(struct posix_sock *s, uint32_t copies);
/* That process has said that it has a copy; or nobody will ask for one. */
bool posix_share_is_held_by(const struct posix_sock *s, pid_t pid);
/* A parked one into this session; use: the program reads or writes it, else it only waits. False: another process has
 * it for now, and is asked; or it is dead. */
bool posix_share_take(struct posix_sock *s, bool use);
/* All that is parked, as far as others let it go: soon usherd cannot be asked any more. */
void posix_share_take_all(void);
/* How long to sleep at most before asking again for what another process has; -1 = for ever. */
int64_t posix_share_limit(int64_t limit_ns);
/* The last slot is about to go. True: others have copies, usherd keeps it for them. */
bool posix_share_leave(struct posix_sock *s);
void posix_share_end(void);
/* usherd says: it is parked; another process wants it; here is the stream that was taken. */
void posix_share_parked(struct posix_sock *s);
void posix_share_recalled(struct posix_sock *s);
void posix_share_adopted(struct usher_event *ev);

/* ---- inherit.c ---- */
/* Tells the next program that there are sockets to look for, and that those that it should have may come late. */
#define POSIX_MARK      "USHER_INHERIT=1"
#define POSIX_MARK_WAIT "USHER_INHERIT=wait"
#define POSIX_ENV_MAX   1024
/* The environment with a mark; without it, where it is too large. */
char *const *posix_env_mark(char *room[POSIX_ENV_MAX], char *const envp[], const char *mark);
/* Once: the program before this one, or its parent, has left sockets. */
void posix_inherit_all(bool wait);
void posix_inherit_message(const struct msghdr *m);
void posix_share_message(const struct msghdr *m);

/* ---- spawn.c ---- */
/* Some stream is carried. */
bool posix_has_streams(void);

/* ---- wait.c: under the lock ---- */
struct posix_wait {
    int64_t start_ns, deadline_ns; /* deadline < 0: for ever */
    bool spun, slept;
};
#define POSIX_WAIT_EXTRA 3
void posix_wait_begin(struct posix_wait *w, int64_t timeout_ns);
/* What a thread waits for: a socket of ours, or those among `all`; and what it asks the kernel meanwhile. */
struct posix_wanted {
    const struct posix_sock *sock;
    const struct pollfd *all;
    uint32_t all_count;
    struct pollfd *fds; /* n of the kernel's, with room for POSIX_WAIT_EXTRA more */
    uint32_t n;
    const sigset_t *mask;
    bool polled; /* revents of `fds` are the kernel's answer */
};
/* Nothing is ready. 0 = look again, -EAGAIN = the time is up, -EINTR. Gives the lock meanwhile. */
int posix_wait_block(struct posix_wait *w, struct posix_wanted *want);
/* For one socket of ours and, if it is dual, its kernel socket. */
int posix_wait_sock(struct posix_wait *w, struct posix_sock *s, short kernel_events);
void posix_wait_spin(struct posix_wait *w);
bool posix_sleep_begin(void);
void posix_sleep_end(void);
int64_t posix_wait_limit(const struct posix_wait *w);
void posix_wait_end(struct posix_wait *w, bool success);
void posix_wake_waiters(const struct posix_sock *s);
void posix_bell_ring(int bell);
int posix_bell_new(void);

/* ---- copy.c: to and from the program, whose pointers may be bad ---- */
struct posix_iov {
    const struct iovec *iov;
    size_t n, at;  /* at: bytes of iov[0] that are done */
    size_t total;
};
bool posix_copy(void *dst, const void *src, size_t len);
/* -EFAULT, -EINVAL or -EMSGSIZE as the kernel; `copy` has room for `room` entries. */
int posix_iov_init(struct posix_iov *v, struct iovec *copy, size_t room, const struct iovec *iov, size_t n);
bool posix_iov_put(struct posix_iov *v, const void *src, size_t len);
bool posix_iov_get(struct posix_iov *v, void *dst, size_t len);
size_t posix_iov_left(const struct posix_iov *v);
/* An address for the program: 0 or -EFAULT. */
int posix_give_addr(const struct sockaddr_storage *sa, socklen_t sa_len, struct sockaddr *addr, socklen_t *len);

/* ---- option_calls.c: under the lock ---- */
/* Tells usherd what was set on a fresh socket. */
void posix_option_replay(struct posix_sock *s);

/* ---- signal.c ---- */
/* Handlers that came while this thread held the lock run now. */
void posix_signal_let_go(void);
/* A blocking call was interrupted: shall it go on, as SA_RESTART asks? */
bool posix_signal_restarts(void);
/* Bad pointers of the program's end in posix_copy() from now on; once, with the first socket of the program's. */
void posix_signal_install(void);

/* ---- send.c, recv.c: under the lock, which blocking calls give meanwhile; a length or -errno ---- */
/* As recvmsg(2), `m` being the program's own structure copied. Gives the lock. */
ssize_t posix_recvmsg(struct posix_sock *s, struct msghdr *m, int flags);
/* As sendmsg(2); raises SIGPIPE. Gives the lock. */
ssize_t posix_sendmsg(struct posix_sock *s, const struct msghdr *m, int flags);

/* ---- frames.c: packet sockets; under the lock unless it is said ---- */
/* Without the lock: a new packet socket; it was bound; an option of it was set. */
void posix_frames_track(int fd, bool cooked);
void posix_frames_bound(int fd);
void posix_frames_option(int fd, int level, int name);
/* Without the lock, as sendmsg(2): false = the kernel has to send it. */
bool posix_frames_sendmsg(int fd, const struct msghdr *h, int flags, ssize_t *ret_n);
/* Its last slot is gone; `to` takes over for `from`; this is a fork's child; usherd is gone. */
void posix_frames_end(struct posix_object *o);
void posix_frames_move(struct posix_object *o, int from, int to);
void posix_frames_renew(struct posix_object *o);
void posix_frames_down(struct posix_object *o);
/* True: it is about one of these. */
bool posix_frames_event(const struct usher_event *ev);

static inline bool posix_is_frames(int fd)
{
    const struct posix_object *o = posix_object(fd);
    return UNLIKELY(o != NULL) && o->kind == POSIX_FRAMES;
}

/* ---- epoll.c: under the lock ---- */
void posix_epoll_end(struct posix_epoll *ep);
void posix_epoll_notify(struct posix_sock *s);
/* The socket's registrations in kernel sets follow what it has become; are the kernel's alone; end. */
void posix_epoll_sync(struct posix_sock *s);
void posix_epoll_give_kernel(struct posix_sock *s);
void posix_epoll_release(struct posix_sock *s);
/* The session's fds leave the kernel's set. */
void posix_epoll_unwatch(struct posix_epoll *ep, const struct usher_context *ctx);
/* Of the epoll set itself: may epoll_wait() return something of ours? */
bool posix_epoll_ready(struct posix_epoll *ep);

static inline int posix_errno(int err)
{
    errno = -err;
    return -1;
}

#endif
