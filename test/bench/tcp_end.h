/* SPDX-License-Identifier: Apache-2.0
 *
 * One end of TCP connections, by the kernel's sockets or by libusher, with the same calls: so a workload (tcp_job.c) is
 * written once and runs both ways. News comes by a callback from tcp_end_turn(). Each kind does what a program written
 * for it would do: the kernel's uses epoll, or plain calls where a single connection allows it; Usher's batches what
 * it sends and releases in a turn. One thread per end.
 */
#ifndef USHER_TEST_BENCH_TCP_END_H
#define USHER_TEST_BENCH_TCP_END_H

#include <stdbool.h>
#include <stdint.h>
#include <usher/usher.h>

#define TCP_END_BATCH 64u
#define TCP_END_CHUNK 16384u /* bytes a bulk sender hands over at a time */
#define TCP_END_SMALL 4096u  /* at most so many go by tcp_end_send() */

enum tcp_kind { TCP_KERNEL, TCP_USHER };

enum tcp_news {
    TCP_UP,   /* connected, or accepted */
    TCP_DATA, /* `len` bytes at `data`, until the callback returns */
    TCP_ROOM, /* tcp_end_push() takes bytes again */
    TCP_GONE, /* the peer has hung up, or there was an error */
};

struct tcp_conn {
    struct tcp_conn *next; /* free, or to be closed after this turn */
    struct usher_socket *sock;
    int fd;
    bool listens, closing;
    /* the workload's */
    uint16_t port;  /* that was connected to, or listened on */
    uint32_t got;   /* bytes of a message so far */
    uint64_t since; /* tick of the request under way */
};

struct tcp_end;
typedef void tcp_news_fn(struct tcp_end *e, struct tcp_conn *c, enum tcp_news what, const uint8_t *data, uint32_t len);

struct tcp_end {
    enum tcp_kind kind;
    bool spin; /* a turn that waits polls instead of sleeping */
    tcp_news_fn *on;
    void *arg;
    struct tcp_conn *solo; /* kernel: turns receive from this connection alone, without epoll; NULL = from all */
    struct tcp_conn *free, *closing;
    struct usher_context *ctx;
    struct usher_msg out[TCP_END_BATCH], taken[TCP_END_BATCH];
    uint32_t out_count, taken_count;
    int epoll;
    uint8_t *buf;
    char error[256];
};

/* kind, spin, on and arg are the caller's to set. All return 0, or -1 with a sentence in e->error. */
int tcp_end_open(struct tcp_end *e);
void tcp_end_fini(struct tcp_end *e);
/* At the address of the kind: loopback, or usherd's. */
int tcp_end_listen(struct tcp_end *e, uint16_t port);
/* TCP_UP follows, from this call or a later turn. */
struct tcp_conn *tcp_end_connect(struct tcp_end *e, uint16_t port);
/* What there is; with `wait`, at least something, or a second. */
int tcp_end_turn(struct tcp_end *e, bool wait);
/* A message, which a connection with nothing else under way always takes. It may leave at the end of the turn only, or
 * with tcp_end_flush(). */
int tcp_end_send(struct tcp_end *e, struct tcp_conn *c, uint32_t len);
int tcp_end_flush(struct tcp_end *e);
/* One chunk of bulk. 1, 0 = no room: TCP_ROOM follows, or -1. */
int tcp_end_push(struct tcp_end *e, struct tcp_conn *c);
/* At the end of the turn; no news of it any more. */
void tcp_end_close(struct tcp_end *e, struct tcp_conn *c);

/* ---- the kinds, for tcp_end.c ---- */

struct tcp_end_ops {
    int (*open)(struct tcp_end *e);
    void (*fini)(struct tcp_end *e);
    int (*listen)(struct tcp_end *e, struct tcp_conn *c);
    int (*connect)(struct tcp_end *e, struct tcp_conn *c);
    int (*turn)(struct tcp_end *e, bool wait);
    int (*send)(struct tcp_end *e, struct tcp_conn *c, uint32_t len);
    int (*flush)(struct tcp_end *e);
    int (*push)(struct tcp_end *e, struct tcp_conn *c);
    void (*close)(struct tcp_end *e, struct tcp_conn *c);
};

extern const struct tcp_end_ops tcp_end_kernel, tcp_end_usher;
struct tcp_conn *tcp_conn_new(struct tcp_end *e);
void tcp_conn_free(struct tcp_end *e, struct tcp_conn *c);
int tcp_end_fail(struct tcp_end *e, const char *what, int error);

#endif
