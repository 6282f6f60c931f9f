/* SPDX-License-Identifier: Apache-2.0
 *
 * libusher: sockets on usherd's dataplane, natively.
 *
 * A *context* is one process's session with usherd. A *socket* belongs to a context and wraps a kernel socket that the
 * library creates, binds and connects with the program's own rights: the kernel decides who may have a port, `ss` shows
 * it, and what arrives where Usher is not attached reaches the same program through it. Where usherd cannot accelerate
 * a socket the kernel socket carries all of it, through the same calls; usher_socket_info() tells, and why.
 *
 * Buffers. usher_tx_alloc() lends a buffer of the shared TX region; fill it and send it: nothing is copied by the
 * library. Received buffers are lent until usher_rx_release(). All of it is plain memory of this process.
 *
 * Errors. Functions return 0 or a count, or a negative errno. Nothing here logs or ends the program; errno is not
 * meaningful. When usherd goes away, usher_poll() says so once and the sockets go on over the kernel by the same calls.
 *
 * Threads. A context may be used by several threads; each call takes the context's lock (a few cycles uncontended).
 * A context made with USHER_SINGLE_THREAD takes none. Waiting calls do not hold the lock while they sleep.
 *
 * fork. The child may not use the parent's contexts: calls return -EPERM there until it makes its own.
 */
#ifndef USHER_USHER_H
#define USHER_USHER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* the library itself is built with hidden symbols */

#define USHER_API_VERSION 1

struct usher_context;
struct usher_socket;

enum usher_context_flag {
    USHER_SINGLE_THREAD = 1 << 0, /* one thread uses this context: no lock is taken */
    USHER_LOOPBACK = 1 << 1, /* datagrams to 127.0.0.0/8 and ::1 try Usher's sockets first, then the kernel's */
};

struct usher_context_params {
    const char *socket_path; /* NULL: $USHER_SOCKET, else /run/usher/session.sock */
    const char *label;       /* shown to operators; NULL = the program's name */
    uint64_t tx_bytes;       /* 0 = the daemon's default */
    uint64_t rx_bytes;
    uint32_t socket_max;
    uint32_t flags; /* enum usher_context_flag */
    int spin_us;    /* longest active wait before sleeping; -1 = self-tuned (also $USHER_SPIN_US), 0 = never spin */
};

/* Attaches this process. params may be NULL. -ECONNREFUSED / -ENOENT: no usherd there; -EPROTO: no common version.
 * Costs about a millisecond. usher_strerror() explains the last failure in a sentence. */
int usher_context_open(const struct usher_context_params *params, struct usher_context **ret_ctx);
/* Detaches; closes all of its sockets. Buffers that are still lent become invalid. */
void usher_context_close(struct usher_context *ctx);
/* This process has become another user's, or moved to another cgroup: what it opens and connects from now on is judged
 * as such; what it has stays what it was, as with the kernel. Costs an exchange with usherd. -ENETDOWN; -ENOBUFS: it
 * has been too many. */
int usher_owner_refresh(struct usher_context *ctx);
/* A sentence about this thread's last failed call, for people; "" when there is none. Valid until the next call. */
const char *usher_strerror(void);

/* One fd for the program's own poll/epoll/io_uring loop: readable when usher_poll() has something to say. Call
 * usher_arm() before each wait on it; it returns 1 when there is something already (do not wait), else 0. */
int usher_fd(struct usher_context *ctx);
int usher_arm(struct usher_context *ctx);

/* A socket of `family` AF_INET or AF_INET6; `type` SOCK_DGRAM or SOCK_STREAM. `proto` 0. A stream has a kernel socket
 * only once it needs one: bound, listening, or carried by the kernel.
 * AF_PACKET with SOCK_RAW is a socket for whole frames, for those whom the kernel gives one (CAP_NET_RAW: else -EPERM);
 * `proto` is the EtherType to receive as packet(7) has it, 0 = none. usher_bind() to a struct sockaddr_ll names the
 * interface. Frames are sent with `family` 0, link header included; they pass usherd's filter, QoS and captures under
 * their owner's name, and what the policy ends is USHER_EV_ERROR with EPERM. Frames are received by the kernel's
 * socket, with its options: `family` is AF_PACKET then, `peer` the sender's MAC address, `peer_port` the EtherType,
 * `tos` the packet type and `user_data` the interface's index. */
int usher_socket(struct usher_context *ctx, int family, int type, int proto, struct usher_socket **ret_sock);
/* Closes it. Received buffers stay valid until released. */
void usher_close(struct usher_socket *sock);
/* As bind(2) and connect(2); the kernel's errno. Afterwards the socket is accelerated where usherd can. Sending on an
 * unbound socket binds it to a port of the kernel's choice. A socket beyond a quota of usherd's (of its session, its
 * user, or all claims) is not refused: the kernel carries it, and `reason` in struct usher_socket_info names the limit.
 * A session beyond one is: usher_context_open() gives -EMFILE. */
int usher_bind(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len);
int usher_connect(struct usher_socket *sock, const struct sockaddr *addr, socklen_t len);
/* Streams. connect() never waits: USHER_EV_CONNECTED or USHER_EV_ERROR answers. listen() needs a bound stream;
 * connections come as USHER_EV_ACCEPT. A stream that is bound first connects from that address and port.
 * usher_shutdown() as shutdown(2): SHUT_WR ends the sending half, the peer reads to the end and this side may still
 * receive; SHUT_RD is known on this side only, usher_recv_stream() then returns 0 once nothing waits. usher_close()
 * lets what was sent arrive (SO_LINGER: with 0 seconds it resets instead, with more it waits so long for the peer's
 * acknowledgment); received bytes that nobody read make it a reset. */
int usher_listen(struct usher_socket *sock, int backlog);
int usher_shutdown(struct usher_socket *sock, int how);
int usher_getpeername(struct usher_socket *sock, struct sockaddr *ret_addr, socklen_t *len);
int usher_getsockname(struct usher_socket *sock, struct sockaddr *ret_addr, socklen_t *len);
/* SOL_SOCKET: SO_REUSEADDR, SO_REUSEPORT, SO_RCVBUF, SO_SNDBUF, SO_BROADCAST, SO_BINDTODEVICE; IP: IP_TOS, IP_TTL,
 * IP_MTU_DISCOVER, IP_ADD/DROP_MEMBERSHIP, IP_MULTICAST_TTL/LOOP/IF; IPv6: their twins, IPV6_V6ONLY. -ENOPROTOOPT for
 * others. Set on the kernel socket and in usherd alike.
 * Streams: TCP_NODELAY, TCP_CORK, TCP_QUICKACK, SO_KEEPALIVE, TCP_KEEPIDLE/KEEPINTVL/KEEPCNT, TCP_USER_TIMEOUT,
 * TCP_CONGESTION, TCP_NOTSENT_LOWAT, TCP_MAXSEG, TCP_SYNCNT, TCP_LINGER2, TCP_WINDOW_CLAMP, TCP_DEFER_ACCEPT,
 * TCP_FASTOPEN, TCP_FASTOPEN_CONNECT, SO_LINGER, SO_RCVBUF, SO_SNDBUF, SO_MAX_PACING_RATE, IP_TOS, IP_TTL and their
 * IPv6 twins; a connection has what its listener had. Others go to the stream's kernel socket (one that is bound to a
 * device or has a mark stays with the kernel). With TCP_FASTOPEN_CONNECT a stream may send at once after
 * usher_connect(), and should: the first bytes travel with the SYN where the peer is known.
 * Reading costs no exchange: the library knows what was set. Of a connected stream TCP_INFO, TCP_MAXSEG and
 * TCP_CONGESTION are asked of the worker, as usher_stream_info() does. */
int usher_setsockopt(struct usher_socket *sock, int level, int name, const void *value, socklen_t len);
int usher_getsockopt(struct usher_socket *sock, int level, int name, void *ret_value, socklen_t *len);
/* The program's kernel socket under it. Owned by the library. */
int usher_kernel_fd(struct usher_socket *sock);
void usher_set_user(struct usher_socket *sock, void *user);
void *usher_user(struct usher_socket *sock);

struct usher_socket_info {
    int accelerated;
    uint32_t handle;
    uint32_t worker_cpu;
    uint32_t rx_quota, tx_limit;
    uint32_t rx_dropped;
    char reason[128]; /* why not accelerated, or how its interface runs */
};
int usher_socket_info(struct usher_socket *sock, struct usher_socket_info *ret_info);

struct usher_stream_info {
    uint64_t rx_bytes, tx_bytes; /* that reached this side; that the peer has acknowledged */
    uint64_t pacing_rate;        /* bytes per second, 0 = not paced */
    uint8_t local[16], remote[16]; /* IPv4 as ::ffff:a.b.c.d */
    uint16_t local_port, remote_port;
    uint8_t state;               /* as in struct tcp_info: 1 = ESTABLISHED ... 11 = CLOSING */
    uint8_t ca_state;            /* 0 open, 1 disorder, 2 cwr, 3 recovery, 4 loss */
    uint8_t backoff;
    uint8_t snd_wscale, rcv_wscale;
    uint8_t timestamps, sack, ecn;
    uint32_t rtt_us, rtt_var_us, min_rtt_us, rto_us;
    uint32_t cwnd, ssthresh;     /* bytes */
    uint32_t snd_wnd, rcv_wnd;
    uint32_t mss, pmtu;
    uint32_t unacked, unsent;    /* bytes */
    uint32_t sacked, lost;       /* bytes */
    uint32_t retransmits;        /* segments, ever */
    uint32_t rcv_limit, rcv_held, rcv_ooo; /* bytes: that may wait unread, that do, that came out of order */
    char congestion[12];
};
/* Of a connected stream. Asks the worker through the ring and waits for its answer: some microseconds while it is
 * awake. Events that come meanwhile stay queued. -ENOTCONN: it is not connected, or not any more. */
int usher_stream_info(struct usher_socket *sock, struct usher_stream_info *ret_info);

/* ---- sending ---- */

struct usher_buf {
    void *data;
    uint32_t size;  /* room */
    uint32_t cookie; /* the library's */
};

/* Lends a buffer of at least `size` bytes (at most 65,507). -ENOBUFS: none free now; wait for USHER_EV_TX_FREE. */
int usher_tx_alloc(struct usher_context *ctx, uint32_t size, struct usher_buf *ret_buf);
void usher_tx_free(struct usher_context *ctx, struct usher_buf *buf);

enum usher_send_flag {
    USHER_MORE = 1 << 0,   /* more follows at once: do not wake the worker yet */
    USHER_URGENT = 1 << 3, /* streams: the last byte is urgent (RFC 9293, 3.8.5; RFC 6093 advises against new uses) */
};

struct usher_msg {
    struct usher_socket *sock;
    struct usher_buf buf;
    uint32_t len;        /* bytes of buf.data in use */
    uint32_t flags;      /* usher_send_flag when sending; usher_recv_flag when received */
    uint16_t gso_size;   /* sending: cut into datagrams of this size; received: coalesced from this size; 0 = one */
    uint8_t tos;
    uint8_t family;      /* AF_INET, AF_INET6; 0 when sending to the connected peer */
    uint16_t peer_port;  /* host order */
    uint16_t scope;      /* interface index of a link-local IPv6 peer, else 0; such datagrams go by the kernel socket */
    uint8_t peer[16];    /* network order; IPv4 in the first four bytes */
    uint8_t local[16];   /* received: the address it was sent to. Sending with `family` from a socket bound to the
                            wildcard: source address, so that a received message's addresses fit its answer; 0 = any */
    uint64_t rx_ns;      /* received: CLOCK_MONOTONIC of arrival */
    uint64_t user_data;
};

enum usher_recv_flag {
    USHER_RECV_TRUNC = 1 << 0,
    USHER_RECV_CE = 1 << 1,
    USHER_RECV_KERNEL = 1 << 2, /* came by the kernel socket */
};

/* Sends up to n messages; takes the buffers of those it accepted. Returns how many, or a negative errno when not even
 * the first could go: -EAGAIN (out of credit or ring full: wait for USHER_EV_WRITABLE), -EMSGSIZE, -EDESTADDRREQ,
 * -ENETDOWN, or the socket's pending error.
 * A datagram to a peer that only the kernel reaches (loopback, an interface that usherd does not run, a local port
 * where no Usher socket listens) goes out by the kernel socket. The first ones to such a peer do so within a later call
 * on the context (send, poll, wait or close), because it is usherd that finds out; the order is kept. */
int usher_send(struct usher_context *ctx, struct usher_msg *msgs, uint32_t n);
/* Copies and sends bytes of a stream, as many as there is room for now. Returns how many, or a negative errno when that
 * is none: -EAGAIN (wait for USHER_EV_WRITABLE), -ENOBUFS (for USHER_EV_TX_FREE), -ENOTCONN, -EPIPE. With usher_send()
 * a message is the next bytes of a stream; its buffer is usherd's until the peer has acknowledged them. */
ssize_t usher_send_stream(struct usher_socket *sock, const void *data, size_t len);
/* Copies and sends one datagram, as sendto(2). Returns len or a negative errno. */
ssize_t usher_sendto(struct usher_socket *sock, const void *data, size_t len, const struct sockaddr *addr,
                     socklen_t addr_len);

/* ---- receiving, events ---- */

enum usher_event_type {
    USHER_EV_RECV = 1,  /* msg is a datagram or a stream's next bytes; its buffer is the caller's until
                           usher_rx_release() */
    USHER_EV_ERROR,     /* error = a positive errno of an earlier send (ECONNREFUSED, EMSGSIZE ...) on sock */
    USHER_EV_WRITABLE,  /* a socket that answered -EAGAIN takes sends again */
    USHER_EV_TX_FREE,   /* usher_tx_alloc() may succeed again */
    USHER_EV_CONNECTED, /* the stream is connected; msg.peer, msg.local */
    USHER_EV_ACCEPT,    /* sock listens; msg.sock is the new stream, the program's to close; msg.peer its peer */
    USHER_EV_HANGUP,    /* the stream's peer sends no more; all it sent has come before */
    USHER_EV_DOWN,      /* usherd is gone and no successor came in time; sockets go on over the kernel where they can */
    USHER_EV_URGENT,    /* the stream's byte number msg.user_data (the first is 1, modulo 2^32) is urgent; it comes in
                           line, before or after this event. Only of streams that usherd carries */
};

struct usher_event {
    enum usher_event_type type;
    int error;
    struct usher_socket *sock;
    struct usher_msg msg;
};

/* Takes up to n events without waiting. Returns how many (0 = none), or -ENETDOWN once after USHER_EV_DOWN. Whoever
 * closes a socket while he handles a burst skips what is left of it for that socket. */
int usher_poll(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n);
/* The same, but waits for at least one: actively for a short, self-tuned time, then asleep. timeout_ns < 0: for ever.
 * Returns 0 on timeout, -EINTR when a signal came. */
int usher_wait(struct usher_context *ctx, struct usher_event *ret_events, uint32_t n, int64_t timeout_ns);
/* Gives received buffers back. */
void usher_rx_release(struct usher_context *ctx, struct usher_msg *msgs, uint32_t n);
/* Waits for one datagram on `sock` and copies it, as recvfrom(2) with an optional timeout. Events of other sockets stay
 * queued. Returns its length (cut to `size`), -EAGAIN on timeout. */
ssize_t usher_recvfrom(struct usher_socket *sock, void *data, size_t size, struct sockaddr *ret_addr,
                       socklen_t *addr_len, int64_t timeout_ns);

/* Copies the next bytes of a stream, waiting for the first. Events of other sockets stay queued. Returns how many, 0
 * when the peer has hung up, -EAGAIN on timeout, or the stream's error. */
ssize_t usher_recv_stream(struct usher_socket *sock, void *data, size_t size, int64_t timeout_ns);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
