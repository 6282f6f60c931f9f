/* SPDX-License-Identifier: Apache-2.0
 *
 * A socket between the program and usherd: how it comes to be carried, what usherd's events do to it, and how it ends.
 * Under the lock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

/* How long a kernel socket may go unasked: while its carried half is busy or the program will sleep on both; and when
 * the program looks without waiting. */
#define LOOK_NS      50000
#define LOOK_IDLE_NS 5000

/* ---- what was received ---- */

struct posix_rx *posix_rx_pop(struct posix_sock *s) {
    struct posix_rx *r = s->rx_head;
    if (!r)
        return NULL;
    s->rx_head = r->next;
    if (!s->rx_head)
        s->rx_tail = &s->rx_head;
    s->rx_bytes -= r->msg.len - r->at;
    s->rx_count--;
    return r;
}

void posix_rx_free(struct posix_rx *r) {
    if (r->msg.buf.data)
        usher_rx_release(r->msg.sock->ctx, &r->msg, 1);
    r->next = posix.free_rx;
    posix.free_rx = r;
}

bool posix_rx_push(struct posix_sock *s, const struct usher_msg *m) {
    struct posix_rx *r = posix.free_rx;
    if (r)
        posix.free_rx = r->next;
    else if (!(r = malloc(sizeof(*r))))
        return false;
    r->next = NULL;
    r->msg = *m;
    r->at = 0;
    *s->rx_tail = r;
    s->rx_tail = &r->next;
    s->rx_bytes += m->len;
    s->rx_count++;
    return true;
}

static void sock_free(struct posix_sock *s) {
    free(s->options);
    s->options = NULL;
    s->o.kind = 0;
    s->life++;
    posix.objects--;
    s->o.state = POSIX_FREE;
    s->next_free = posix.free_socks;
    posix.free_socks = s;
}

static void unstarve(struct posix_sock *s) {
    for (struct posix_sock **p = &posix.starved; s->starved && *p; p = &(*p)->next_starved)
        if (*p == s) {
            *p = s->next_starved;
            s->starved = false;
            return;
        }
}

void posix_rx_copy(void *sock, uint8_t *to) {
    for (const struct posix_rx *r = ((struct posix_sock *)sock)->rx_head; r; r = r->next) {
        memcpy(to, (uint8_t *)r->msg.buf.data + r->at, r->msg.len - r->at);
        to += r->msg.len - r->at;
    }
}

/* A connection that nobody has accepted goes to another listener of the port, where there is one; else it ends with
 * its listener, as the kernel's do. */
static void give_up(struct posix_sock *s) {
    if (client_stream_return(s->us, posix_rx_copy, s, s->rx_bytes)) {
        usher_set_user(s->us, NULL);
        s->us = NULL;
    } else {
        s->us->st->linger = 0;
    }
    posix_sock_end(s);
}

static void drop_received(struct posix_sock *s) {
    struct posix_rx *r;
    while ((r = posix_rx_pop(s))) {
        struct posix_sock *child = s->o.state == POSIX_LISTENING ? usher_user(r->msg.sock) : NULL;
        if (child) {
            give_up(child);
        } else if (s->us && s->us->st) {
            s->us->st->unread = true;
        }
        posix_rx_free(r);
    }
}

void posix_sock_leave(struct posix_sock *s) {
    if (s->o.state == POSIX_LISTENING && s->us->set) {
        client_listener_retire(s->us);
        while (posix_pump(false)) /* what usherd gave it until now */
            continue;
    }
    drop_received(s);
    unstarve(s);
    if (s->us && s->us->st && s->us->st->linger > 0)
        s->us->st->linger = -1; /* nobody waits with the lock held: usherd delivers what was sent all the same */
    if (s->us)
        usher_close(s->us);
    s->us = NULL;
}

/* ---- trust ---- */

void posix_sock_witness(struct posix_sock *listener, uint32_t life, int fd, bool nonblock) {
    if (fd >= POSIX_FDS || listener->life != life || listener->trust != TRUST_OPEN)
        return;
    struct posix_sock *s = posix_sock_new(fd, true, listener->v6, nonblock);
    if (!s)
        return;
    s->witness = listener;
    s->witness_life = life;
    s->witness_forks = posix.forks;
    posix_slot_drop(fd);
    posix_slot_set(fd, &s->o);
}

/* `used`: this process reads or writes it. Else it is closed: unread, and a child may have it. */
static void testify(struct posix_sock *s, bool used) {
    struct posix_sock *l = s->witness;
    s->witness = NULL;
    if (!l || l->life != s->witness_life || l->trust != TRUST_OPEN)
        return;
    if (used)
        l->trust = TRUST_YES;
    else if (posix.forks != s->witness_forks)
        l->trust = TRUST_NO;
}

void posix_sock_end(struct posix_sock *s) {
    testify(s, false);
    posix_epoll_release(s);
    if (posix_share_leave(s) && s->us) { /* it stays in the session until that ends */
        drop_received(s);
        usher_set_user(s->us, NULL);
        s->us = NULL;
    }
    posix_sock_leave(s);
    sock_free(s);
}

void posix_sock_renew(struct posix_sock *s) {
    posix_sock_leave(s);
    s->o.state = POSIX_FRESH;
    s->eof = s->shut_rd = s->shut_wr = s->full = s->told = false;
}

void posix_sock_move(struct posix_sock *s, int fd) {
    s->fd = fd;
    if (s->us)
        s->us->fd = fd;
}

void posix_sock_to_kernel(struct posix_sock *s, const char *why) {
    posix_report(s, "by the kernel", why);
    for (int fd = 0; fd < posix.fd_high && s->o.refs; fd++)
        if (posix_table[fd] == &s->o) {
            __atomic_store_n(&posix_table[fd], NULL, __ATOMIC_RELAXED);
            s->o.refs--;
        }
    posix_epoll_give_kernel(s);
    posix_wake_waiters(s);
    posix_sock_leave(s);
    sock_free(s);
}

/* ---- events ---- */

uint32_t posix_sock_events(const struct posix_sock *s) {
    uint32_t ev = s->error ? POLLERR : 0;
    switch (s->o.state) {
    case POSIX_LISTENING:
        return s->rx_head ? POLLIN | POLLRDNORM : 0;
    case POSIX_DGRAM:
        ev |= s->rx_head || s->error ? POLLIN | POLLRDNORM : 0;
        return ev | (s->full ? 0 : POLLOUT | POLLWRNORM);
    case POSIX_DEAD:
        return ev | POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLRDHUP;
    case POSIX_OPEN:
        if (s->rx_head || s->eof || s->shut_rd || s->error)
            ev |= POLLIN | POLLRDNORM;
        if (!s->full || s->shut_wr)
            ev |= POLLOUT | POLLWRNORM;
        if (s->eof || s->shut_rd)
            ev |= POLLRDHUP;
        return ev | (s->eof && s->shut_wr ? POLLHUP : 0);
    default:
        return 0;
    }
}

void posix_sock_notify(struct posix_sock *s) {
    __atomic_store_n(&posix.news, posix.news + 1, __ATOMIC_RELAXED);
    posix_epoll_notify(s);
    posix_wake_waiters(s);
}

int posix_sock_take_error(struct posix_sock *s) {
    int e = s->error;
    s->error = 0;
    return e;
}

static void on_recv(struct posix_sock *s, struct usher_event *ev) {
    if (s->shut_rd || !posix_rx_push(s, &ev->msg))
        usher_rx_release(posix.ctx, &ev->msg, 1);
}

static void die(struct posix_sock *s, int error) {
    s->o.state = POSIX_DEAD;
    s->error = error;
    s->eof = true;
    s->full = false;
    unstarve(s);
}

/* usherd has no way there; the kernel tries, with the program's own socket. A thread that blocks in connect() does it
 * itself, without the lock. */
static void connect_by_kernel(struct posix_sock *s) {
    struct sockaddr_storage to;
    socklen_t len;
    client_addr_to(&s->peer, s->v6, &to, &len);
    usher_close(s->us);
    s->us = NULL;
    if (!s->nonblock) {
        s->o.state = POSIX_FRESH;
        return;
    }
    if (posix.loopback == LOOPBACK_USHER && client_msg_from_loopback(&s->peer)) {
        die(s, ECONNREFUSED);
        return;
    }
    if (posix_real.connect(s->fd, (struct sockaddr *)&to, len) < 0 && errno != EINPROGRESS) {
        die(s, errno);
        return;
    }
    posix_sock_to_kernel(s, "usherd has no way to its peer");
}

static void on_error(struct posix_sock *s, struct usher_event *ev) {
    if (s->o.state == POSIX_DGRAM) {
        s->error = ev->error;
        return;
    }
    die(s, ev->error);
}

static void on_connected(struct posix_sock *s, struct usher_event *ev) {
    (void)ev;
    s->o.state = POSIX_OPEN;
    posix_report(s, "by usherd", "");
}

static void on_hangup(struct posix_sock *s, struct usher_event *ev) {
    (void)ev;
    s->eof = true;
}

static void on_accept(struct posix_sock *s, struct usher_event *ev) {
    struct posix_sock *child = posix_sock_new(-1, true, s->v6, false);
    if (child) {
        child->o.state = POSIX_OPEN;
        child->us = ev->msg.sock;
        usher_set_user(child->us, child);
        child->peer = ev->msg;
        ev->msg.len = 0;
        ev->msg.buf = (struct usher_buf){0};
        if (posix_rx_push(s, &ev->msg))
            return;
        sock_free(child);
    }
    usher_set_user(ev->msg.sock, NULL);
    usher_close(ev->msg.sock);
}

static void on_writable(struct posix_sock *s, struct usher_event *ev) {
    (void)ev;
    s->full = false;
}

static void feed_starved(void) {
    while (posix.starved) {
        struct posix_sock *s = posix.starved;
        posix.starved = s->next_starved;
        s->starved = s->full = false;
        posix_sock_notify(s);
    }
}

static void lose(struct posix_sock *s) {
    if (posix_sock_is_dual(s))
        posix_sock_to_kernel(s, "usherd is gone");
    else if (s->o.state == POSIX_CONNECTING || s->o.state == POSIX_OPEN || s->o.state == POSIX_PARKED) {
        posix.parked -= s->o.state == POSIX_PARKED;
        die(s, ECONNRESET);
        posix_sock_notify(s);
    }
}

/* usherd is gone: streams are reset, the others are the kernel's again. The context stays, for threads that look at its
 * rings just now; its memory is small and usherd rarely dies. */
static void on_down(void) {
    for (int fd = 0; fd < posix.fd_high; fd++) {
        struct posix_object *o = posix_table[fd];
        if (o && o->kind == POSIX_SOCK)
            lose((struct posix_sock *)o);
        else if (o && o->kind == POSIX_EPOLL)
            posix_epoll_unwatch((struct posix_epoll *)o, posix.ctx);
        else if (o && o->kind == POSIX_FRAMES)
            posix_frames_down(o);
    }
    posix_session_lost();
}

/* What only streams of several processes are told. */
static bool dispatch_shared(struct posix_sock *s, const struct usher_event *ev) {
    if (LIKELY(ev->type < CLIENT_EV_PARKED))
        return false;
    if (ev->type == CLIENT_EV_PARKED)
        posix_share_parked(s);
    else
        posix_share_recalled(s);
    posix_sock_notify(s);
    return true;
}

static void dispatch(struct usher_event *ev) {
    static void (*const on[])(struct posix_sock *, struct usher_event *) = {
        [USHER_EV_RECV] = on_recv,           [USHER_EV_ERROR] = on_error,   [USHER_EV_WRITABLE] = on_writable,
        [USHER_EV_CONNECTED] = on_connected, [USHER_EV_ACCEPT] = on_accept, [USHER_EV_HANGUP] = on_hangup,
    };
    if (ev->type == USHER_EV_TX_FREE) {
        feed_starved();
        return;
    }
    if (ev->type == CLIENT_EV_ADOPTED) {
        posix_share_adopted(ev);
        return;
    }
    if (posix_frames_event(ev))
        return;
    struct posix_sock *s = ev->sock ? usher_user(ev->sock) : NULL;
    if (s && s->us == ev->sock && dispatch_shared(s, ev))
        return;
    if (UNLIKELY(!s || s->us != ev->sock || ev->type >= sizeof(on) / sizeof(on[0]) || !on[ev->type])) {
        if (ev->type == USHER_EV_RECV)
            usher_rx_release(posix.ctx, &ev->msg, 1);
        return;
    }
    if (ev->type == USHER_EV_ERROR && ev->error == CLIENT_BY_KERNEL) {
        connect_by_kernel(s);
        if (s->o.kind != POSIX_SOCK)
            return;
    } else {
        on[ev->type](s, ev);
    }
    posix_sock_notify(s);
}

bool posix_pump(bool look) {
    struct usher_event ev[32];
    struct usher_context *ctx = posix.ctx;
    if (!ctx)
        return false;
    client_kick(ctx);
    if (UNLIKELY(ctx->ports_due != NULL))
        client_ports_give(ctx);
    uint32_t n = client_take(ctx, ev, sizeof(ev) / sizeof(ev[0]), look);
    bool down = false;
    for (uint32_t i = 0; i < n; i++)
        if (ev[i].type == USHER_EV_DOWN)
            down = true;
        else
            dispatch(&ev[i]);
    if (UNLIKELY(down))
        on_down();
    return n > 0;
}

bool posix_look_due(struct posix_sock *s, bool waits) {
    int64_t now = client_now();
    if (now - s->looked_ns < (waits || s->rx_head ? LOOK_NS : LOOK_IDLE_NS) && s->kernel_sends == posix.kernel_sends)
        return false;
    s->looked_ns = now;
    s->kernel_sends = posix.kernel_sends;
    return true;
}

/* ---- deciding ---- */

static bool adopt(struct posix_sock *s) {
    struct usher_context *ctx = posix_session();
    if (!ctx)
        return false;
    int err = client_socket_adopt(ctx, s->fd, s->v6 ? AF_INET6 : AF_INET, s->stream ? SOCK_STREAM : SOCK_DGRAM, &s->us);
    if (err)
        return false;
    usher_set_user(s->us, s);
    return true;
}

static bool listener_open(struct posix_sock *s) {
    if (!adopt(s))
        return false;
    posix_option_replay(s);
    if (client_stream_listen(s->us) || !s->us->set)
        return false;
    s->o.state = POSIX_LISTENING;
    return true;
}

/* What it is bound to, as the peer of *ret_msg. */
static bool local_read(const struct posix_sock *s, struct usher_msg *ret_msg) {
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    *ret_msg = (struct usher_msg){0};
    return posix_real.getsockname(s->fd, (struct sockaddr *)&sa, &len) == 0 &&
           client_addr_from((struct sockaddr *)&sa, len, ret_msg) == 0;
}

static bool dgram_is_bound(const struct posix_sock *s) {
    struct usher_msg m;
    return local_read(s, &m) && m.peer_port != 0;
}

/* The program wants the kernel's loopback, and it is bound there. */
static bool is_kernel_loopback(const struct posix_sock *s) {
    struct usher_msg m;
    return posix.loopback == LOOPBACK_KERNEL && local_read(s, &m) && client_msg_from_loopback(&m);
}

static bool dgram_open(struct posix_sock *s) {
    if (!adopt(s) || client_socket_announce(s->us) || !s->us->set)
        return false;
    s->o.state = POSIX_DGRAM;
    return true;
}

/* True: the kernel has it for now, or for good. */
static bool waits_for_trust(struct posix_sock *s) {
    if (s->witness) {
        testify(s, true);
        posix_sock_to_kernel(s, "it came before its listener was usherd's");
        return true;
    }
    if (!s->stream || !s->listened || posix.listen_now || s->trust == TRUST_YES)
        return false;
    if (s->trust == TRUST_NO)
        posix_sock_to_kernel(s, "its program hands connections to children");
    return true;
}

bool posix_sock_decide(struct posix_sock *s, bool sending) {
    if (waits_for_trust(s))
        return false;
    bool fit = s->stream ? s->listened : sending || dgram_is_bound(s);
    if (!fit)
        return false;
    if (!s->stream && !dgram_is_bound(s)) {
        struct sockaddr_storage any = {.ss_family = s->v6 ? AF_INET6 : AF_INET};
        if (posix_real.bind(s->fd, (struct sockaddr *)&any,
                            s->v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)))
            return false;
    }
    if (is_kernel_loopback(s))
        snprintf(s->why, sizeof(s->why), "the loopback is the kernel's (--loopback)");
    if (!s->why[0] && (s->stream ? listener_open(s) : dgram_open(s))) {
        posix_epoll_sync(s);
        posix_report(s, "by usherd", s->us->reason);
        return true;
    }
    char why[128];
    snprintf(why, sizeof(why), "%s", s->why[0] ? s->why : s->us ? s->us->reason : usher_strerror());
    posix_sock_to_kernel(s, why);
    return false;
}

/* 0 = under way, -errno, or -CLIENT_BY_KERNEL. */
int posix_sock_connect(struct posix_sock *s, const struct sockaddr *addr, socklen_t len) {
    if (s->why[0] || client_addr_from(addr, len, &s->peer))
        return -CLIENT_BY_KERNEL;
    if (!adopt(s)) {
        snprintf(s->why, sizeof(s->why), "%s", usher_strerror());
        return -CLIENT_BY_KERNEL;
    }
    posix_option_replay(s);
    int err = usher_connect(s->us, addr, len);
    if (err) {
        snprintf(s->why, sizeof(s->why), "%s", s->us->reason);
        usher_close(s->us);
        s->us = NULL;
        return err;
    }
    s->o.state = POSIX_CONNECTING;
    posix_epoll_sync(s);
    return 0;
}
