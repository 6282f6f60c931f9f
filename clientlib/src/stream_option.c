/* SPDX-License-Identifier: Apache-2.0
 *
 * Options of streams. What a program sets is kept here, so that reading it costs no exchange; usherd is told by entries
 * of the ring, ahead of CONNECT or later, and with the listener's Open. Where there is a kernel socket it is asked
 * first: it checks the value, and carries the stream when usherd cannot. Under the context's lock, but for the public
 * calls in option.c that lead here.
 */
#include <netinet/tcp.h>
#include <stdlib.h>

#include "clientlib/src/internal.h"

#ifndef TCP_NOTSENT_LOWAT
#define TCP_NOTSENT_LOWAT 25
#endif

enum kind {
    KIND_NUMBER,
    KIND_SWITCH, /* any value but 0 is 1 */
    KIND_BUFFER, /* read back twice as large, as the kernel does */
    KIND_NAME,
    KIND_LIBRARY, /* usherd needs no word of it */
};

static const struct row {
    int level, name;
    uint16_t option; /* enum ush_stream_option */
    uint8_t kind;
    bool later; /* no connection is born with it */
    int64_t scale, min, max, standard;
} rows[] = {
    {IPPROTO_TCP, TCP_NODELAY, USH_STREAM_NODELAY, KIND_SWITCH, false, 1, INT32_MIN, INT32_MAX, 0},
    {IPPROTO_TCP, TCP_CORK, USH_STREAM_CORK, KIND_SWITCH, false, 1, INT32_MIN, INT32_MAX, 0},
    {IPPROTO_TCP, TCP_QUICKACK, USH_STREAM_QUICKACK, KIND_SWITCH, false, 1, INT32_MIN, INT32_MAX, 1},
    {SOL_SOCKET, SO_KEEPALIVE, USH_STREAM_KEEPALIVE, KIND_SWITCH, false, 1, INT32_MIN, INT32_MAX, 0},
    {IPPROTO_TCP, TCP_KEEPIDLE, USH_STREAM_KEEP_IDLE, KIND_NUMBER, false, 1, 1, 32767, 7200},
    {IPPROTO_TCP, TCP_KEEPINTVL, USH_STREAM_KEEP_INTERVAL, KIND_NUMBER, false, 1, 1, 32767, 75},
    {IPPROTO_TCP, TCP_KEEPCNT, USH_STREAM_KEEP_COUNT, KIND_NUMBER, false, 1, 1, 127, 9},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, USH_STREAM_USER_TIMEOUT, KIND_NUMBER, false, 1, 0, INT32_MAX, 0},
    {IPPROTO_TCP, TCP_CONGESTION, USH_STREAM_CONGESTION, KIND_NAME, false, 1, 0, 0, 0},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, USH_STREAM_NOTSENT_LOWAT, KIND_NUMBER, false, 1, INT32_MIN, INT32_MAX, -1},
    {IPPROTO_TCP, TCP_MAXSEG, USH_STREAM_MAXSEG, KIND_NUMBER, false, 1, 88, 32767, 536},
    {IPPROTO_TCP, TCP_SYNCNT, USH_STREAM_SYN_RETRIES, KIND_NUMBER, false, 1, 1, 127, 6},
    {IPPROTO_TCP, TCP_LINGER2, USH_STREAM_LINGER2, KIND_NUMBER, true, 1000, INT32_MIN, 3600, 60},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, USH_STREAM_DEFER_ACCEPT, KIND_NUMBER, true, 1, 0, INT32_MAX, 0},
    {IPPROTO_TCP, TCP_FASTOPEN, USH_STREAM_FASTOPEN, KIND_NUMBER, true, 1, 0, INT32_MAX, 0},
    {IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 0, KIND_LIBRARY, true, 1, 0, 1, 0},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, USH_STREAM_RCVBUF, KIND_NUMBER, false, 1, 0, INT32_MAX, 0},
    {SOL_SOCKET, SO_RCVBUF, USH_STREAM_RCVBUF, KIND_BUFFER, false, 1, INT32_MIN, INT32_MAX, 65536},
    {SOL_SOCKET, SO_SNDBUF, USH_STREAM_SNDBUF, KIND_BUFFER, false, 1, INT32_MIN, INT32_MAX, 131072},
    {SOL_SOCKET, SO_MAX_PACING_RATE, USH_STREAM_MAX_PACING, KIND_NUMBER, false, 1, INT32_MIN, INT32_MAX, -1},
    {IPPROTO_IP, IP_TOS, USH_STREAM_TOS, KIND_NUMBER, false, 1, 0, 255, 0},
    {IPPROTO_IP, IP_TTL, USH_STREAM_TTL, KIND_NUMBER, false, 1, 1, 255, 64},
    {IPPROTO_IPV6, IPV6_TCLASS, USH_STREAM_TOS, KIND_NUMBER, false, 1, -1, 255, 0},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, USH_STREAM_TTL, KIND_NUMBER, false, 1, -1, 255, 64},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))
_Static_assert(ROWS <= CLIENT_OPTIONS, "a stream can keep all of them");

static const struct row *find(int level, int name) {
    for (size_t i = 0; i < ROWS; i++)
        if (rows[i].level == level && rows[i].name == name)
            return &rows[i];
    return NULL;
}

static struct client_option *kept(const struct client_stream *st, const struct row *row) {
    for (uint32_t i = 0; i < st->option_count; i++)
        if (st->options[i].row == (uint32_t)(row - rows))
            return &st->options[i];
    return NULL;
}

static int keep(struct client_stream *st, const struct row *row, int64_t value) {
    struct client_option *o = kept(st, row);
    if (!o) {
        struct client_option *grown = realloc(st->options, (st->option_count + 1) * sizeof(*grown));
        if (!grown)
            return client_fail(-ENOMEM, "no memory for an option of a stream");
        st->options = grown;
        o = &st->options[st->option_count++];
        o->row = (uint32_t)(row - rows);
    }
    o->value = value;
    return 0;
}

/* ---- telling usherd ---- */

/* What the engine is to have: two of the kernel's options bound its receive window. */
static int64_t value_for(const struct client_stream *st, const struct row *row, int64_t value) {
    if (row->option == USH_STREAM_RCVBUF) {
        const struct client_option *clamp = kept(st, find(IPPROTO_TCP, TCP_WINDOW_CLAMP));
        const struct client_option *buffer = kept(st, find(SOL_SOCKET, SO_RCVBUF));
        int64_t most = clamp && clamp->value > 0 ? clamp->value : INT64_MAX;
        if (buffer && buffer->value < most)
            most = buffer->value;
        return most == INT64_MAX ? 0 : most < 0 ? 2048 : most;
    }
    if (row->option == USH_STREAM_SNDBUF)
        return value > 0 ? value : 0;
    if (row->option == USH_STREAM_MAX_PACING || row->option == USH_STREAM_NOTSENT_LOWAT) /* -1: no limit */
        return value == -1 ? 0 : (uint32_t)value;
    if (row->option == USH_STREAM_TTL || row->option == USH_STREAM_TOS || row->option == USH_STREAM_LINGER2)
        value = value < 0 ? 0 : value;
    return value * row->scale;
}

static void fill(const struct client_stream *st, const struct client_option *o, struct ush_option *ret_option) {
    const struct row *row = &rows[o->row];
    *ret_option = (struct ush_option){.option = row->option, .value = value_for(st, row, o->value)};
    if (row->kind == KIND_NAME)
        memcpy(ret_option->name, st->congestion, sizeof(ret_option->name));
}

static bool put_on(struct usher_socket *sock, struct client_set *set, const struct client_option *o, uint8_t flags) {
    struct ush_sqe *e = client_sq_slot(sock->ctx, set);
    struct ush_option option;
    if (!e)
        return false;
    fill(sock->st, o, &option);
    e->op = USH_OP_OPTION;
    e->flags = flags;
    e->count = e->tos = 0;
    memset(&e->stream, 0, sizeof(e->stream));
    e->stream.handle = sock->handle;
    e->stream.option = option.option;
    e->stream.value = option.value;
    memcpy(e->stream.name, option.name, sizeof(e->stream.name));
    client_sq_commit(set, e, TXBUF_NONE);
    set->kick_due = sock->ctx->kick_due = true;
    return true;
}

/* Of a listener on each of its sets; when one is full, all of them are asked once more by whoever tries again. */
static bool put(struct usher_socket *sock, const struct client_option *o, uint8_t flags) {
    bool done = put_on(sock, sock->set, o, flags);
    for (uint32_t i = 0; done && i < USH_SET_MAX; i++)
        if (sock->st->more_sets >> i & 1)
            done = put_on(sock, sock->ctx->set_at[i], o, flags);
    return done;
}

bool client_stream_options_ahead(struct usher_socket *sock) {
    const struct client_stream *st = sock->st;
    for (uint32_t i = 0; i < st->option_count; i++)
        if (!rows[st->options[i].row].later && !put(sock, &st->options[i], USH_OPTION_AHEAD))
            return false;
    return true;
}

void client_stream_options_late(struct usher_socket *sock) {
    const struct client_stream *st = sock->st;
    for (uint32_t i = 0; i < st->option_count; i++)
        if (rows[st->options[i].row].option == USH_STREAM_LINGER2)
            (void)put(sock, &st->options[i], 0); /* a full ring: it keeps the usual time */
}

uint32_t client_stream_options_list(const struct client_stream *st, struct ush_option *ret_options, uint32_t max) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < st->option_count && n < max; i++)
        if (rows[st->options[i].row].kind != KIND_LIBRARY)
            fill(st, &st->options[i], &ret_options[n++]);
    return n;
}

void client_stream_options_inherit(struct client_stream *st, const struct client_stream *listener) {
    st->linger = listener->linger;
    memcpy(st->congestion, listener->congestion, sizeof(st->congestion));
    for (uint32_t i = 0; i < listener->option_count; i++) {
        const struct row *row = &rows[listener->options[i].row];
        if (row->option != USH_STREAM_DEFER_ACCEPT && row->option != USH_STREAM_FASTOPEN)
            (void)keep(st, row, listener->options[i].value); /* without memory it works, and reads as the default */
    }
}

/* A kernel socket that was made late learns what was set before. */
void client_stream_options_kernel(const struct usher_socket *sock) {
    const struct client_stream *st = sock->st;
    for (uint32_t i = 0; i < st->option_count; i++) {
        const struct row *row = &rows[st->options[i].row];
        int v = (int)st->options[i].value;
        if (row->kind == KIND_NAME)
            setsockopt(sock->fd, row->level, row->name, st->congestion, (socklen_t)strlen(st->congestion));
        else
            setsockopt(sock->fd, row->level, row->name, &v, sizeof(v));
    }
    if (st->linger >= 0) {
        const struct linger l = {1, st->linger};
        setsockopt(sock->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
    }
}

/* ---- setting ---- */

static int set_linger(struct usher_socket *sock, const void *value, socklen_t len) {
    struct linger l;
    if (len < sizeof(l))
        return client_fail(-EINVAL, "SO_LINGER takes a struct linger");
    memcpy(&l, value, sizeof(l));
    sock->st->linger = l.l_onoff ? l.l_linger : -1;
    if (sock->fd >= 0 && setsockopt(sock->fd, SOL_SOCKET, SO_LINGER, value, len) < 0)
        return client_fail(-errno, "setting SO_LINGER: %s", strerror(errno));
    return 0;
}

static int read_name(struct client_stream *st, const void *value, socklen_t len) {
    if (len < 1)
        return client_fail(-EINVAL, "TCP_CONGESTION takes a name");
    size_t n = strnlen(value, len < sizeof(st->congestion) ? len : sizeof(st->congestion) - 1);
    memset(st->congestion, 0, sizeof(st->congestion));
    memcpy(st->congestion, value, n < sizeof(st->congestion) ? n : sizeof(st->congestion) - 1);
    return 0;
}

static int read_value(struct client_stream *st, const struct row *row, const void *value, socklen_t len,
                      int64_t *ret_value) {
    int v;
    *ret_value = 0;
    if (row->kind == KIND_NAME)
        return read_name(st, value, len);
    if (len < sizeof(v))
        return client_fail(-EINVAL, "option %d of level %d takes an int", row->name, row->level);
    memcpy(&v, value, sizeof(v));
    if (v < row->min || v > row->max)
        return client_fail(-EINVAL, "option %d of level %d: %d is not between %lld and %lld", row->name, row->level, v,
                           (long long)row->min, (long long)row->max);
    *ret_value = row->kind == KIND_SWITCH ? v != 0 : v;
    return 0;
}

/* Options that only a kernel socket has. Some of them usherd could not honour: such a stream stays with the kernel. */
static int set_kernel(struct usher_socket *sock, int level, int name, const void *value, socklen_t len) {
    int err = client_kstream_fd(sock);
    if (err)
        return err;
    if (setsockopt(sock->fd, level, name, value, len) < 0)
        return client_fail(-errno, "setting socket option %d of level %d: %s", name, level, strerror(errno));
    if (level == SOL_SOCKET && (name == SO_BINDTODEVICE || name == SO_BINDTOIFINDEX || name == SO_MARK))
        sock->st->by_kernel = true;
    return 0;
}

/* A small window is opened again soon. */
static void owe_less(struct usher_socket *sock) {
    int64_t bytes = value_for(sock->st, find(SOL_SOCKET, SO_RCVBUF), 0);
    if (bytes > 0 && bytes / 2 < sock->ctx->owed_max)
        sock->ctx->owed_max = (uint32_t)(bytes / 2);
}

int client_stream_setsockopt(struct usher_socket *sock, int level, int name, const void *value, socklen_t len) {
    struct client_stream *st = sock->st;
    const struct row *row = find(level, name);
    int64_t v;
    if (level == SOL_SOCKET && name == SO_LINGER)
        return set_linger(sock, value, len);
    if (!row)
        return set_kernel(sock, level, name, value, len);
    if (sock->fd >= 0 && setsockopt(sock->fd, level, name, value, len) < 0)
        return client_fail(-errno, "setting socket option %d of level %d: %s", name, level, strerror(errno));
    int err = read_value(st, row, value, len, &v);
    if (!err)
        err = keep(st, row, v);
    if (!err && row->option == USH_STREAM_RCVBUF)
        owe_less(sock);
    if (err || row->kind == KIND_LIBRARY || !sock->set)
        return err;
    return put(sock, kept(st, row), 0) ? 0
                                       : client_fail_fast(-EAGAIN, "the submission ring is full: poll, then try again");
}

/* ---- reading ---- */

static int give(const void *from, socklen_t size, void *ret_value, socklen_t *len) {
    *len = *len < size ? *len : size;
    memcpy(ret_value, from, *len);
    return 0;
}

/* What this stream says of itself, without asking anybody. */
static bool fixed(const struct usher_socket *sock, int name, int *ret_value) {
    const struct client_stream *st = sock->st;
    switch (name) {
    case SO_TYPE:
        *ret_value = SOCK_STREAM;
        return true;
    case SO_PROTOCOL:
        *ret_value = IPPROTO_TCP;
        return true;
    case SO_DOMAIN:
        *ret_value = sock->v6 ? AF_INET6 : AF_INET;
        return true;
    case SO_ACCEPTCONN:
        *ret_value = st->listening;
        return true;
    default:
        return false;
    }
}

int client_stream_getsockopt(struct usher_socket *sock, int level, int name, void *ret_value, socklen_t *len) {
    const struct client_stream *st = sock->st;
    const struct row *row = find(level, name);
    int v;
    if (level == SOL_SOCKET && name == SO_LINGER) {
        const struct linger l = {st->linger >= 0, st->linger >= 0 ? st->linger : 0};
        return give(&l, sizeof(l), ret_value, len);
    }
    if (level == SOL_SOCKET && fixed(sock, name, &v))
        return give(&v, sizeof(v), ret_value, len);
    if (sock->fd >= 0)
        return getsockopt(sock->fd, level, name, ret_value, len) < 0
                   ? client_fail(-errno, "reading socket option %d of level %d: %s", name, level, strerror(errno))
                   : 0;
    if (!row)
        return client_fail(-ENOPROTOOPT, "option %d of level %d is none of a stream's", name, level);
    if (row->kind == KIND_NAME) {
        static const char standard[sizeof(st->congestion)] = "cubic";
        return give(st->congestion[0] ? st->congestion : standard, sizeof(standard), ret_value, len);
    }
    const struct client_option *o = kept(st, row);
    v = (int)(o ? o->value : row->standard);
    if (row->kind == KIND_BUFFER && o)
        v = v < 1152 ? 2304 : v > INT32_MAX / 2 ? INT32_MAX : 2 * v;
    return give(&v, sizeof(v), ret_value, len);
}

bool client_stream_fastopen(const struct client_stream *st) {
    const struct client_option *o = st->option_count ? kept(st, find(IPPROTO_TCP, TCP_FASTOPEN_CONNECT)) : NULL;
    return o && o->value;
}
