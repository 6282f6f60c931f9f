/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_usherd.h. One client session at a time is served by the worker; a later attach replaces it.
 */
#include "test/harness/fake_usherd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "test/harness/fake_internal.h"

/* ---- completions ---- */

static struct ush_cqe *cq_slot(struct fake *f, struct fake_set *s) {
    uint32_t head = __atomic_load_n(&s->shm->cq_head, __ATOMIC_ACQUIRE);
    if (s->cq_pos - head >= f->h.cq_entries) {
        f->stats.cq_full++;
        return NULL;
    }
    return &s->cq[s->cq_pos % f->h.cq_entries];
}

static void cq_commit(struct fake_set *s, struct ush_cqe *e) {
    s->cq_pos++;
    __atomic_store_n(&e->seq, s->cq_pos, __ATOMIC_RELEASE);
    s->dirty = true;
}

/* One byte for each odd ticket, behind a fence; see usher_shm.h. */
static void wake(struct fake *f, struct fake_set *s) {
    if (!s->dirty)
        return;
    s->dirty = false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    uint32_t ticket = __atomic_load_n(&s->shm->wait_ticket, __ATOMIC_RELAXED);
    if (!(ticket & 1) || ticket == s->woken)
        return;
    s->woken = ticket;
    f->stats.wakes++;
    if (send(f->wake_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
        f->stats.bad++;
}

static bool deliver(struct fake *f, struct fake_set *s, const struct ush_cqe *head, const void *data, uint32_t len) {
    if (!f->cell_free_count || len > f->config.cell_bytes) {
        f->stats.no_cell++;
        return false;
    }
    struct ush_cqe *e = cq_slot(f, s);
    if (!e)
        return false;
    uint32_t cell = f->cell_free[--f->cell_free_count];
    f->cell_lent[cell / f->config.cell_bytes] = true;
    memcpy(f->base + f->h.rx_off + cell, data, len);
    e->type = USH_CQ_RECV;
    e->flags = head->flags;
    e->count = 0;
    e->tos = head->tos;
    e->recv = head->recv;
    e->recv.cell = cell;
    e->recv.len = len;
    cq_commit(s, e);
    f->stats.recvs++;
    return true;
}

/* ---- submissions ---- */

static void credit_back(struct fake *f, struct fake_set *s, uint32_t handle, uint32_t off, uint32_t len) {
    struct ush_socket *sk = (struct ush_socket *)(f->base + f->h.socket_off) + handle;
    __atomic_store_n(&sk->tx_done, sk->tx_done + len, __ATOMIC_RELEASE);
    if (len <= f->h.tx_copy_max)
        return;
    struct ush_cqe *e = cq_slot(f, s);
    if (!e)
        return;
    e->type = USH_CQ_TX_FREE;
    e->count = 1;
    e->tx_free.off[0] = off;
    cq_commit(s, e);
}

static void finish_send(struct fake *f, struct fake_set *s, const struct ush_sqe *e) {
    if (!f->hold_credit) {
        credit_back(f, s, e->send.handle, e->send.off, e->send.len);
        return;
    }
    if (f->held_count < FAKE_HELD_MAX)
        f->held[f->held_count++] = (struct fake_held){s, e->send.handle, e->send.off, e->send.len};
}

/* ---- streams ---- */

static struct fake_stream *stream_of(struct fake *f, uint32_t handle) {
    uint32_t i = USH_HANDLE_INDEX(handle) - f->h.socket_max;
    struct fake_stream *st = i < 2 * FAKE_STREAMS ? &f->stream[i] : NULL;
    return st && st->handle == handle && st->open ? st : NULL;
}

static void stream_event(struct fake *f, struct fake_set *s, uint32_t handle, uint8_t event, uint32_t value,
                         uint32_t extra) {
    struct ush_cqe *e = cq_slot(f, s);
    if (!e)
        return;
    e->type = USH_CQ_EVENT;
    e->flags = event;
    e->count = 0;
    memset(&e->event, 0, sizeof(e->event));
    e->event.handle = handle;
    e->event.value = value;
    e->event.extra = extra;
    e->event.port = 1234;
    memcpy(e->event.addr, (const uint8_t[16]){[10] = 0xff, 0xff, 192, 0, 2, 1}, 16);
    memcpy(e->event.local, (const uint8_t[16]){[10] = 0xff, 0xff, 192, 0, 2, 77}, 16);
    cq_commit(s, e);
}

static struct fake_stream *stream_open(struct fake *f, uint32_t handle, uint32_t peer) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    struct ush_socket *sk = (struct ush_socket *)(f->base + f->h.socket_off) + index;
    *sk = (struct ush_socket){.state = USH_SOCKET_OPEN, .tx_limit = f->config.tx_limit};
    struct fake_stream *st = &f->stream[index - f->h.socket_max];
    *st = (struct fake_stream){.handle = handle, .peer = peer, .open = true};
    return st;
}

static uint32_t accept_handle(struct fake *f) {
    for (uint32_t i = FAKE_STREAMS; i < 2 * FAKE_STREAMS; i++)
        if (!f->stream[i].open)
            return USH_HANDLE(f->h.socket_max + i, (uint8_t)(USH_HANDLE_GENERATION(f->stream[i].handle) + 1));
    return USH_NONE;
}

/* To a port that a socket of the fake listens on: a pair. To port 1: refused. 2: no way, the kernel may. Else echo. */
static void take_connect(struct fake *f, struct fake_set *s, const struct ush_sqe *e) {
    uint32_t handle = e->connect.handle, server = USH_NONE;
    if (stream_of(f, handle) || USH_HANDLE_INDEX(handle) - f->h.socket_max >= FAKE_STREAMS) {
        f->stats.bad++;
        return;
    }
    struct fake_stream *st = stream_open(f, handle, USH_NONE);
    f->stats.last_flags = e->flags;
    f->stats.last_bound = e->connect.bound;
    if (e->connect.port <= 2) {
        st->open = false;
        stream_event(f, s, handle, USH_EVENT_ERROR, e->connect.port == 1 ? ECONNREFUSED : ENETUNREACH,
                     e->connect.port == 2);
        stream_event(f, s, handle, USH_EVENT_CLOSED, 0, 0);
        return;
    }
    for (uint32_t i = 0; i < f->h.socket_max; i++)
        if (f->socket[i].open && f->socket[i].listens && f->socket[i].local_port == e->connect.port) {
            server = st->peer = accept_handle(f);
            stream_open(f, server, handle);
            stream_event(f, s, i, USH_EVENT_ACCEPT, server, f->config.tx_limit);
        }
    stream_event(f, s, handle, USH_EVENT_CONNECTED, 0, f->config.tx_limit);
}

static void stream_end(struct fake *f, struct fake_set *s, uint32_t handle) {
    struct fake_stream *st = stream_of(f, handle);
    if (!st)
        return;
    st->open = false;
    stream_event(f, s, handle, USH_EVENT_CLOSED, 0, 0);
}

static void hang_up(struct fake *f, struct fake_set *s, uint32_t handle) {
    struct fake_stream *st = stream_of(f, handle);
    if (!st || st->hung_up)
        return;
    st->hung_up = true;
    stream_event(f, s, handle, USH_EVENT_HANGUP, 0, 0);
}

static void take_info(struct fake *f, struct fake_set *s, const struct ush_sqe *e) {
    const struct ush_stream_info info = {.state = 1, .mss = 1448, .cwnd = 14480, .rtt_us = 123, .congestion = "dctcp"};
    struct ush_cqe *c = cq_slot(f, s);
    if (!c)
        return;
    c->type = USH_CQ_INFO;
    memset(&c->info, 0, sizeof(c->info));
    c->info.handle = e->stream.handle;
    c->info.cell = USH_NONE;
    c->info.error = stream_of(f, e->stream.handle) ? ENOBUFS : ENOTCONN;
    if (c->info.error == ENOBUFS && f->cell_free_count) {
        c->info.cell = f->cell_free[--f->cell_free_count];
        c->info.error = 0;
        f->cell_lent[c->info.cell / f->config.cell_bytes] = true;
        memcpy(f->base + f->h.rx_off + c->info.cell, &info, sizeof(info));
    }
    cq_commit(s, c);
}

static void take_option(struct fake *f, const struct ush_sqe *e) {
    f->stats.stream_options++;
    f->stats.last_option = e->stream.option;
    f->stats.last_option_value = e->stream.value;
    f->stats.last_option_handle = e->stream.handle;
    f->stats.ahead += e->flags & USH_OPTION_AHEAD;
}

static void take_stream(struct fake *f, struct fake_set *s, const struct ush_sqe *e) {
    struct fake_stream *st = stream_of(f, e->stream.handle);
    if (!st)
        return;
    uint32_t other = st->peer == USH_NONE ? st->handle : st->peer;
    if (e->op == USH_OP_SHUTDOWN) {
        hang_up(f, s, other);
    } else if (e->flags & USH_CLOSE_ABORT) {
        if (stream_of(f, other) && other != st->handle)
            stream_event(f, s, other, USH_EVENT_ERROR, ECONNRESET, 0);
        stream_end(f, s, other);
        stream_end(f, s, e->stream.handle);
    } else {
        hang_up(f, s, other);
        struct fake_stream *peer = stream_of(f, other);
        st->left = true;
        if (!peer || peer->left || peer == st) { /* CLOSED when both ends are through */
            stream_end(f, s, other);
            stream_end(f, s, e->stream.handle);
        }
    }
}

static void take_stream_send(struct fake *f, struct fake_set *s, const struct ush_sqe *e) {
    struct fake_stream *st = stream_of(f, e->send.handle);
    if (!st)
        return;
    if ((uint64_t)e->send.off + e->send.len > f->h.tx_size) {
        f->stats.bad++;
        return;
    }
    f->stats.sends++;
    f->stats.send_bytes += e->send.len;
    f->stats.last_flags = e->flags;
    struct ush_cqe head = {.type = USH_CQ_RECV};
    head.recv.handle = st->peer == USH_NONE ? st->handle : st->peer;
    for (uint32_t at = 0; at < e->send.len; at += f->config.cell_bytes) {
        uint32_t left = e->send.len - at;
        deliver(f, s, &head, f->base + f->h.tx_off + e->send.off + at,
                left < f->config.cell_bytes ? left : f->config.cell_bytes);
    }
    if (f->hold_credit)
        return;
    struct ush_socket *sk = (struct ush_socket *)(f->base + f->h.socket_off) + USH_HANDLE_INDEX(st->handle);
    __atomic_store_n(&sk->tx_done, sk->tx_done + e->send.len, __ATOMIC_RELEASE);
    stream_event(f, s, st->handle, USH_EVENT_WRITABLE, 0, 0);
}

/* ---- datagrams ---- */

static void take_send(struct fake *f, struct fake_set *s, const struct ush_sqe *e) {
    if (USH_HANDLE_INDEX(e->send.handle) - f->h.socket_max < 2 * FAKE_STREAMS) {
        take_stream_send(f, s, e);
        return;
    }
    if (e->send.handle >= f->h.socket_max || !f->socket[e->send.handle].open ||
        (uint64_t)e->send.off + e->send.len > f->h.tx_size) {
        f->stats.bad++;
        return;
    }
    const struct fake_socket *sk = &f->socket[e->send.handle];
    f->stats.sends++;
    f->stats.send_bytes += e->send.len;
    f->stats.last_user_data = e->send.user_data;
    f->stats.last_tos = e->tos;
    f->stats.last_flags = e->flags;
    f->stats.last_gso_size = e->send.gso_size;
    struct ush_cqe head = {.tos = e->tos};
    head.recv.handle = e->send.handle;
    head.recv.peer_port = e->flags & USH_SEND_TO ? e->send.port : sk->peer_port;
    memcpy(head.recv.peer, e->flags & USH_SEND_TO ? e->send.addr : sk->peer, 16);
    memcpy(head.recv.local, sk->local, 16);
    if (f->config.bounce_port && head.recv.peer_port >= f->config.bounce_port) {
        head.flags = USH_RECV_BOUNCED;
        head.recv.gso_size = e->send.gso_size;
    }
    bool lose = f->config.swallow || (f->config.wire_order_lossy && f->stats.sends % 3 == 0);
    if (!lose)
        deliver(f, s, &head, f->base + f->h.tx_off + e->send.off, e->send.len);
    finish_send(f, s, e);
}

static void take_release(struct fake *f, const struct ush_sqe *e) {
    for (uint32_t i = 0; i < e->count && i < 14; i++) {
        uint32_t cell = e->release.cell[i];
        if (e->count > 14 || cell % f->config.cell_bytes || cell >= f->h.rx_size ||
            !f->cell_lent[cell / f->config.cell_bytes]) {
            f->stats.bad++;
            continue;
        }
        f->cell_lent[cell / f->config.cell_bytes] = false;
        f->cell_free[f->cell_free_count++] = cell;
        f->stats.releases++;
    }
}

static unsigned take_set(struct fake *f, struct fake_set *s) {
    unsigned n = 0;
    for (; n < 32; n++) {
        const struct ush_sqe *at = &s->sq[s->sq_pos % f->h.sq_entries];
        if (__atomic_load_n(&at->seq, __ATOMIC_ACQUIRE) != s->sq_pos + 1)
            break;
        struct ush_sqe e = *at;
        if (e.op == USH_OP_SEND)
            take_send(f, s, &e);
        else if (e.op == USH_OP_RELEASE)
            take_release(f, &e);
        else if (e.op == USH_OP_CONNECT)
            take_connect(f, s, &e);
        else if (e.op == USH_OP_SHUTDOWN || e.op == USH_OP_CLOSE)
            take_stream(f, s, &e);
        else if (e.op == USH_OP_OPTION)
            take_option(f, &e);
        else if (e.op == USH_OP_INFO)
            take_info(f, s, &e);
        else
            f->stats.bad++;
        s->sq_pos++;
    }
    if (n)
        __atomic_store_n(&s->shm->sq[0].sq_head, s->sq_pos, __ATOMIC_RELEASE);
    wake(f, s);
    return n;
}

void fake_take_rest(struct fake *f, uint32_t set) {
    while (take_set(f, &f->set[set]))
        ;
}

static unsigned turn(struct fake *f) {
    unsigned n = 0;
    for (uint32_t i = 0; f->base && i < f->config.sets && !f->hold; i++)
        if (f->set[i].known)
            n += take_set(f, &f->set[i]);
    return n;
}

static bool any_submission(struct fake *f) {
    for (uint32_t i = 0; f->base && i < f->config.sets && !f->hold; i++) {
        struct fake_set *s = &f->set[i];
        if (s->known && __atomic_load_n(&s->sq[s->sq_pos % f->h.sq_entries].seq, __ATOMIC_ACQUIRE) == s->sq_pos + 1)
            return true;
    }
    return false;
}

static void say_need_kick(struct fake *f, uint32_t value) {
    for (uint32_t i = 0; f->base && i < f->config.sets; i++)
        if (f->set[i].known)
            __atomic_store_n(&f->set[i].shm->need_kick, value, __ATOMIC_RELAXED);
}

/* True: asleep may follow. */
static bool arm(struct fake *f) {
    say_need_kick(f, 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!any_submission(f))
        return true;
    say_need_kick(f, 0);
    return false;
}

static void *worker_main(void *arg) {
    struct fake *f = arg;
    unsigned idle = 0;
    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        idle = turn(f) ? 0 : idle + 1;
        if (idle < 50 || !arm(f)) {
            pthread_mutex_unlock(&f->lock);
            sched_yield();
            pthread_mutex_lock(&f->lock);
            continue;
        }
        f->stats.sleeps++;
        pthread_mutex_unlock(&f->lock);
        uint64_t count;
        ssize_t n = read(f->kick_fd, &count, sizeof(count)); /* one eventfd for all sets, blocking */
        pthread_mutex_lock(&f->lock);
        f->stats.kicks_seen += n == sizeof(count);
        say_need_kick(f, 0);
        idle = 0;
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* ---- what tests may do ---- */

static void poke_worker(struct fake *f) {
    eventfd_write(f->kick_fd, 1);
}

unsigned fake_step(struct fake *f) {
    pthread_mutex_lock(&f->lock);
    unsigned n = turn(f);
    pthread_mutex_unlock(&f->lock);
    return n;
}

void fake_hold(struct fake *f, bool hold) {
    pthread_mutex_lock(&f->lock);
    f->hold = hold;
    pthread_mutex_unlock(&f->lock);
    poke_worker(f);
}

void fake_hold_credit(struct fake *f, bool hold) {
    pthread_mutex_lock(&f->lock);
    f->hold_credit = hold;
    for (uint32_t i = 0; !hold && i < f->held_count; i++)
        credit_back(f, f->held[i].set, f->held[i].handle, f->held[i].off, f->held[i].len);
    if (!hold)
        f->held_count = 0;
    for (uint32_t i = 0; f->base && i < f->config.sets; i++)
        wake(f, &f->set[i]);
    pthread_mutex_unlock(&f->lock);
}

bool fake_deliver(struct fake *f, uint32_t handle, const void *data, uint32_t len) {
    struct ush_cqe head = {0};
    struct fake_set *s = &f->set[handle % f->config.sets];
    head.recv.handle = handle;
    head.recv.peer_port = 7;
    memcpy(head.recv.peer, (uint8_t[16]){[10] = 0xff, 0xff, 192, 0, 2, 1}, 16);
    bool ok = s->known && deliver(f, s, &head, data, len);
    if (ok)
        wake(f, s);
    return ok;
}

bool fake_inject(struct fake *f, uint32_t handle, const void *data, uint32_t len) {
    pthread_mutex_lock(&f->lock);
    bool ok = fake_deliver(f, handle, data, len);
    pthread_mutex_unlock(&f->lock);
    return ok;
}

void fake_raw(struct fake *f, uint32_t set, const struct ush_cqe *from) {
    pthread_mutex_lock(&f->lock);
    struct fake_set *s = &f->set[set];
    struct ush_cqe *e = cq_slot(f, s);
    if (e) {
        memcpy((char *)e + 4, (const char *)from + 4, sizeof(*e) - 4);
        cq_commit(s, e);
        wake(f, s);
    }
    pthread_mutex_unlock(&f->lock);
}

void fake_error(struct fake *f, uint32_t handle, int error) {
    struct ush_cqe e = {.type = USH_CQ_EVENT, .flags = USH_EVENT_ERROR};
    e.event.handle = handle;
    e.event.value = (uint32_t)error;
    fake_raw(f, 0, &e);
}

struct ush_set *fake_set(struct fake *f, uint32_t index) {
    pthread_mutex_lock(&f->lock);
    struct ush_set *set = f->set[index].shm;
    pthread_mutex_unlock(&f->lock);
    return set;
}

void fake_stats_get(struct fake *f, struct fake_stats *ret_stats) {
    pthread_mutex_lock(&f->lock);
    *ret_stats = f->stats;
    ret_stats->cells_lent = f->cell_count - f->cell_free_count;
    pthread_mutex_unlock(&f->lock);
}

const char *fake_path(const struct fake *f) {
    return f->path;
}

void fake_die(struct fake *f) {
    pthread_mutex_lock(&f->lock);
    fake_drop_session(f);
    f->refuse = true;
    pthread_mutex_unlock(&f->lock);
    eventfd_write(f->stop_fd, 1);
}

/* ---- life ---- */

static void set_default(uint32_t *field, uint32_t value) {
    if (*field == 0)
        *field = value;
}

static bool listen_on(struct fake *f) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(f->dir, sizeof(f->dir), "/tmp/fake-usherd-XXXXXX");
    if (!mkdtemp(f->dir))
        return false;
    snprintf(f->path, sizeof(f->path), "%s/session.sock", f->dir);
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", f->path);
    f->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return f->listen_fd >= 0 && bind(f->listen_fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 &&
           listen(f->listen_fd, 8) == 0;
}

struct fake *fake_start(const struct fake_config *config) {
    struct fake *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    if (config)
        f->config = *config;
    set_default(&f->config.cq_entries, 64);
    set_default(&f->config.sq_entries, 64);
    set_default(&f->config.socket_max, 64);
    set_default(&f->config.tx_copy_max, 1024);
    set_default(&f->config.cell_bytes, 2048);
    set_default(&f->config.tx_bytes, 1 << 20);
    set_default(&f->config.rx_bytes, 1 << 20);
    set_default(&f->config.tx_limit, 256 << 10);
    set_default(&f->config.rx_quota, 256 << 10);
    set_default(&f->config.sets, 1);
    f->conn_fd = f->wake_fd = f->wake_peer = f->memfd = -1;
    f->kick_fd = eventfd(0, EFD_CLOEXEC);
    f->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&f->lock, NULL);
    if (!listen_on(f) || pthread_create(&f->control, NULL, fake_control_main, f) ||
        (!f->config.manual && pthread_create(&f->worker, NULL, worker_main, f))) {
        perror("fake usherd: it could not start");
        return NULL;
    }
    return f;
}

void fake_stop(struct fake *f) {
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_mutex_unlock(&f->lock);
    eventfd_write(f->stop_fd, 1);
    poke_worker(f);
    pthread_join(f->control, NULL);
    if (!f->config.manual)
        pthread_join(f->worker, NULL);
    fake_drop_session(f);
    close(f->listen_fd);
    close(f->kick_fd);
    close(f->stop_fd);
    unlink(f->path);
    rmdir(f->dir);
    pthread_mutex_destroy(&f->lock);
    free(f);
}
