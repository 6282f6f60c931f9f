/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams that other processes have a copy of: after fork(), over exec(), sent in a message. Before a copy is made the
 * stream is parked at usherd, with what was received and not read; whichever process uses it first takes it into its
 * session, and parks it again when another one wants it, or when it closes its copy before the others do. A copy's
 * kernel socket names the stream. Under the lock.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "clientlib/posix/posix.h"

#define PARK_NS  INT64_C(2000000000) /* how long a peer may take to acknowledge what was sent before a copy is made */
#define RETRY_NS INT64_C(2000000)    /* how often a stream that another process has is asked for ... */
#define LENT_NS  INT64_C(100000000)  /* ... and by whoever only waits for it, once another has asked for it */
#define WANT_NS  INT64_C(1000000000)

/* ---- giving ---- */

/* It goes to usherd as soon as all that it has sent is acknowledged: posix_share_parked(). */
static bool park_begin(struct posix_sock *s, uint32_t copies, bool keep) {
    if (!posix.ctx || s->o.state != POSIX_OPEN || !s->us || !client_stream_park(s->us))
        return false;
    s->park_copies = copies;
    s->park_keep = keep;
    return true;
}

static bool is_parking(const struct posix_sock *s) {
    return s->o.state == POSIX_OPEN && s->us && s->us->st->parking;
}

/* What was received and not read, as a file; -1: there is nothing, or it cannot be had. */
static int unread_file(const struct posix_sock *s) {
    int fd = s->rx_bytes ? memfd_create("usher-unread", MFD_CLOEXEC) : -1;
    for (const struct posix_rx *r = s->rx_head; r && fd >= 0; r = r->next) {
        size_t left = r->msg.len - r->at;
        if (posix_real.write(fd, (uint8_t *)r->msg.buf.data + r->at, left) != (ssize_t)left) {
            posix_real.close(fd);
            fd = -1;
        }
    }
    return fd;
}

static void die(struct posix_sock *s) {
    s->o.state = POSIX_DEAD;
    s->error = ECONNRESET;
    s->eof = true;
    s->full = false;
}

static void drop_unread(struct posix_sock *s) {
    struct posix_rx *r;
    while ((r = posix_rx_pop(s)))
        posix_rx_free(r);
}

static int put(struct posix_sock *s, struct client_share *share) {
    int unread = unread_file(s), err = share->unread && unread < 0 ? -ENOMEM : 0;
    drop_unread(s);
    if (!err)
        err = client_stream_put(s->us, s->fd, share, unread);
    if (unread >= 0)
        posix_real.close(unread);
    return err;
}

/* No descriptors may be passed, no file be written: at the end of a process that confined itself. */
static int bequeath(struct posix_sock *s, struct client_share *share) {
    bool kept = !share->unread || client_tx_keep(posix.ctx, posix_rx_copy, s, share->unread, &share->unread_at);
    share->action = CLIENT_SHARE_LEAVE;
    drop_unread(s);
    return kept ? client_stream_bequeath(s->us, share) : -ENOBUFS;
}

void posix_share_parked(struct posix_sock *s) {
    struct client_share share = {.action = CLIENT_SHARE_PUT,
                                 .handle = s->us->handle,
                                 .copies = s->park_copies,
                                 .keep = s->park_keep,
                                 .shut = s->shut_wr,
                                 .unread = s->rx_bytes};
    s->local = (struct usher_msg){.family = s->v6 ? AF_INET6 : AF_INET, .peer_port = s->us->st->local_port};
    client_addr_unmap(s->v6, s->us->st->local, s->local.peer);
    int err = posix.confined ? bequeath(s, &share) : put(s, &share);
    if (err) {
        usher_close(s->us);
        die(s);
    } else {
        s->o.state = POSIX_PARKED;
        s->full = false;
        s->shared = true;
        posix.parked++;
    }
    s->us = NULL;
}

/* A confined process could not take it back: it keeps it to its end. */
void posix_share_recalled(struct posix_sock *s) {
    if (!posix.confined && park_begin(s, 0, true))
        s->lent_ns = client_now();
}

static bool any_parking(const struct posix_sock *only) {
    if (only)
        return is_parking(only);
    for (int fd = 0; fd < posix.fd_high; fd++) {
        struct posix_object *o = posix_table[fd];
        if (o && o->kind == POSIX_SOCK && is_parking((struct posix_sock *)o))
            return true;
    }
    return false;
}

/* Until usherd has them, or the time is up; then they go when they can. The lock stays: nobody may send meanwhile. */
static void park_wait(const struct posix_sock *only) {
    int64_t until = client_now() + PARK_NS;
    for (uint32_t turn = 0; posix.ctx && any_parking(only) && client_now() < until; turn++) {
        if (posix_pump(false) || turn < 100 || !posix_sleep_begin())
            continue;
        struct pollfd f = {.fd = posix.ctx->wake_fd, .events = POLLIN};
        if (posix_real.poll(&f, 1, 1) > 0)
            client_drain_wake(posix.ctx);
        posix_sleep_end();
    }
}

/* One that is parked already is only promised to others. */
static bool copy_begin(struct posix_sock *s, uint32_t copies, bool keep) {
    if (s->o.state == POSIX_PARKED && posix.ctx)
        (void)client_stream_hold(posix.ctx, s->fd, copies);
    return park_begin(s, copies, keep);
}

void posix_share_all(uint32_t copies, bool keep, bool (*wanted)(const struct posix_sock *s)) {
    bool some = false;
    for (int fd = 0; fd < posix.fd_high && posix.objects; fd++) {
        struct posix_sock *s = (struct posix_sock *)posix_table[fd];
        if (s && s->o.kind == POSIX_SOCK && s->fd == fd && s->stream && (!wanted || wanted(s)))
            some |= copy_begin(s, copies, keep);
    }
    if (some)
        park_wait(NULL);
}

void posix_share_one(struct posix_sock *s, uint32_t copies) {
    if (copy_begin(s, copies, true))
        park_wait(s);
}

bool posix_share_is_held_by(const struct posix_sock *s, pid_t pid) {
    return s->o.state != POSIX_PARKED || !posix.ctx || client_stream_is_held_by(posix.ctx, s->fd, pid);
}

/* ---- taking ---- */

/* What an earlier owner had received. */
static void read_unread(struct posix_sock *s, int fd, uint32_t len) {
    for (uint32_t at = 0; at < len;) {
        uint32_t n = len - at < 65536 ? len - at : 65536;
        struct client_kbuf *b = client_kbuf_get(posix.ctx, n);
        ssize_t got = b ? pread(fd, b + 1, n, at) : -1;
        if (got <= 0)
            return;
        const struct usher_msg m = {
            .sock = s->us, .len = (uint32_t)got, .buf = {b + 1, (uint32_t)got, 0}, .flags = USHER_RECV_KERNEL};
        if (!posix_rx_push(s, &m))
            return;
        at += (uint32_t)got;
    }
}

/* In front of what came meanwhile. */
static void unread_first(struct posix_sock *s, int fd, uint32_t len) {
    struct posix_rx *head = s->rx_head, **tail = s->rx_tail;
    s->rx_head = NULL;
    s->rx_tail = &s->rx_head;
    read_unread(s, fd, len);
    *s->rx_tail = head;
    if (head)
        s->rx_tail = tail;
    posix_real.close(fd);
}

void posix_share_adopted(struct usher_event *ev) {
    struct posix_sock *s = posix.adopting;
    if (!s) {
        usher_close(ev->sock);
        return;
    }
    s->us = ev->sock;
    s->us->borrowed = true;
    s->us->fd = s->fd;
    s->o.state = POSIX_OPEN;
    s->peer = ev->msg;
    s->peer.len = 0;
    usher_set_user(s->us, s);
    posix.parked--;
}

static bool taken(struct posix_sock *s, struct client_taken *t) {
    posix.adopting = s;
    while (posix.ctx && !s->us && s->o.state == POSIX_PARKED) /* ACCEPT of no listener is on its way */
        (void)posix_pump(false);
    posix.adopting = NULL;
    if (t->unread_fd >= 0 && s->us)
        unread_first(s, t->unread_fd, t->unread);
    if (!s->us)
        return false;
    s->shut_wr = s->us->st->shut = t->shut;
    s->us->st->local_port = (uint16_t)t->local_port;
    s->asked_ns = s->lent_ns = 0;
    posix_epoll_sync(s);
    return true;
}

bool posix_share_take(struct posix_sock *s, bool use) {
    struct client_taken t;
    int64_t now = client_now(), pause = use || !s->lent_ns ? RETRY_NS : LENT_NS;
    struct usher_context *ctx = posix_session();
    if (ctx && now - (s->asked_ns > s->lent_ns ? s->asked_ns : use ? s->asked_ns : s->lent_ns) < pause) {
        posix.want_until_ns = now + WANT_NS;
        return false;
    }
    int err = ctx ? client_stream_take(ctx, s->fd, s->v6, &t) : -ENETDOWN;
    if (!err)
        return taken(s, &t);
    if (err == -EAGAIN) {
        s->asked_ns = now;
        posix.want_until_ns = now + WANT_NS;
        return false;
    }
    posix.parked--;
    die(s);
    return false;
}

void posix_share_take_all(void) {
    for (int fd = 0; fd < posix.fd_high && posix.parked; fd++) {
        struct posix_sock *s = (struct posix_sock *)posix_table[fd];
        if (s && s->o.kind == POSIX_SOCK && s->fd == fd && s->o.state == POSIX_PARKED)
            (void)posix_share_take(s, true);
    }
}

int64_t posix_share_limit(int64_t limit_ns) {
    bool wants = posix.parked && client_now() < posix.want_until_ns;
    return wants && (limit_ns < 0 || limit_ns > RETRY_NS) ? RETRY_NS : limit_ns;
}

/* ---- copies ---- */

void posix_share_inherit(void) {
    for (int fd = 0; fd < posix.fd_high && posix.parked; fd++) {
        struct posix_sock *s = (struct posix_sock *)posix_table[fd];
        if (!s || s->o.kind != POSIX_SOCK || s->fd != fd || s->o.state != POSIX_PARKED)
            continue;
        struct usher_context *ctx = posix_session();
        if (!ctx || client_stream_hold(ctx, fd, 0)) {
            posix.parked--;
            die(s);
        }
    }
}

bool posix_share_find(struct posix_sock *s) {
    struct usher_context *ctx = posix_session();
    if (!ctx || client_stream_hold(ctx, s->fd, 0))
        return false;
    s->o.state = POSIX_PARKED;
    s->shared = true;
    posix.parked++;
    return true;
}

/* Without a word to usherd the end of its session leaves it to the others as well, if all that came was read. */
static bool leave_confined(struct posix_sock *s) {
    if (posix.ctx->h.features & USH_FEATURE_LEAVE && park_begin(s, 0, false))
        park_wait(s);
    if (s->o.state == POSIX_PARKED) {
        posix.parked--;
        s->o.state = POSIX_DEAD;
        return true;
    }
    client_release_flush_all(posix.ctx);
    client_kick(posix.ctx);
    return s->o.state == POSIX_OPEN;
}

bool posix_share_leave(struct posix_sock *s) {
    uint32_t others = 0;
    if (!s->shared || !posix.ctx || posix.pid != getpid())
        return false;
    if (posix.confined)
        return leave_confined(s);
    /* The C library closes the fds of its own streams behind our back; what names the stream is gone then. */
    bool named = posix_real.fcntl64(s->fd, F_GETFD, 0) >= 0;
    if (s->o.state == POSIX_PARKED) {
        posix.parked--;
        if (named)
            (void)client_stream_drop(posix.ctx, s->fd, &others);
        s->o.state = POSIX_DEAD;
        return true;
    }
    if (!named || s->o.state != POSIX_OPEN || is_parking(s) || client_stream_drop(posix.ctx, s->fd, &others) ||
        others == 0)
        return false;
    if (park_begin(s, 0, false))
        park_wait(s);
    if (s->o.state != POSIX_PARKED)
        return false;
    posix.parked--;
    s->o.state = POSIX_DEAD;
    return true;
}

/* A process that ends leaves to the others what they have copies of, and closes the rest, as the kernel does. */
void posix_share_end(void) {
    if (!posix.ctx || posix.pid != getpid() || posix_thread.held) /* held: it ends in the midst of us, by a crash */
        return;
    posix_lock();
    for (int fd = 0; fd < posix.fd_high; fd++) {
        struct posix_sock *s = (struct posix_sock *)posix_table[fd];
        if (!s || s->o.kind != POSIX_SOCK || s->fd != fd || posix_share_leave(s) || s->o.state != POSIX_OPEN)
            continue;
        posix_sock_leave(s);
        s->o.state = POSIX_DEAD;
    }
    posix_unlock();
}

__attribute__((destructor)) static void end(void) {
    posix_share_end();
}
