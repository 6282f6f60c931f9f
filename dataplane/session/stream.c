/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams of a session: what the client asks for by its ring, what the transport says about them, and their life. On
 * the shard's worker. No call here goes to control: a connection comes and goes without one. Received bytes are in
 * stream_rx.c.
 *
 * A record leaves SOCK_FREE by an atomic exchange, because the client may (wrongly) name one index on two sets whose
 * workers run at once; from then on its set's worker alone writes it, until it is free again.
 *
 * Cost of a send: the entry's line comes over; lines 0, 1 and 3 of a packet that returns at once and the socket's line
 * are touched; no payload byte is read.
 */
#include <errno.h>

#include "dataplane/core/steer.h"
#include "dataplane/session/session_internal.h"
#include "engines/wire.h"

struct sess_socket *stream_find(const struct sess_set *set, uint32_t handle) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    if (index < set->socket_max || index >= set->socket_end)
        return NULL;
    struct sess_socket *sk = &set->socket[index];
    uint8_t state = __atomic_load_n(&sk->state, __ATOMIC_ACQUIRE); /* pairs with record_free() on another set */
    if (state == SOCK_FREE || sk->set != set->index || sk->generation != USH_HANDLE_GENERATION(handle))
        return NULL;
    return sk;
}

static uint64_t sink_of(const struct sess_set *set, uint32_t handle) {
    return SINK(SINK_SESSION, set->slot, handle);
}

/* ---- records ---- */

/* One stream more of its user's; quota_give() counts it out again. False: that is one too many. */
bool stream_quota_take(const struct sess_set *set) {
    struct session_quota *q = set->quota;
    return q == NULL || __atomic_add_fetch(&q->used, 1, __ATOMIC_RELAXED) <= q->max;
}

static void quota_give(const struct sess_set *set) {
    if (set->quota != NULL)
        __atomic_sub_fetch(&set->quota->used, 1, __ATOMIC_RELAXED);
}

/* The record is ours already (state OPEN); fills the rest. */
struct sess_socket *stream_record_fill(struct sess_set *set, uint32_t handle, uint32_t owner, uint8_t flags) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    struct sess_socket *sk = &set->socket[index];
    *sk = (struct sess_socket){.state = SOCK_OPEN,
                               .set = (uint8_t)set->index,
                               .proto = PROTO_TCP,
                               .sock = USH_NONE,
                               .owner = owner,
                               .tx_limit = SESS_STREAM_LIMIT,
                               .generation = (uint8_t)USH_HANDLE_GENERATION(handle),
                               .flags = flags,
                               .event_next = USH_NONE};
    set->shm_socket[index] = (struct ush_socket){.state = USH_SOCKET_OPEN, .tx_limit = sk->tx_limit};
    uint32_t *high = index < set->accept_base ? &set->connect_high : &set->accept_high;
    *high = index >= *high ? index + 1 : *high;
    set->streams++;
    return sk;
}

static void record_free(struct sess_set *set, uint32_t index) {
    struct sess_socket *sk = &set->socket[index];
    bool accepted = sk->flags & SOCK_ACCEPTED;
    __atomic_store_n(&sk->state, SOCK_FREE, __ATOMIC_RELEASE); /* pairs with whoever takes it next */
    if (!accepted)
        return;
    uint32_t bit = index - set->accept_base;
    __atomic_fetch_or(&set->accept_pool[bit / 64], 1ull << (bit % 64), __ATOMIC_RELEASE);
}

void stream_told_closed(struct sess_set *set, uint32_t handle) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    struct sess_socket *sk = &set->socket[index];
    set->shm_socket[index].state = USH_SOCKET_CLOSED;
    if ((sk->flags & SOCK_ACCEPTED) && !(sk->flags & SOCK_LEFT))
        sk->state = SOCK_CLOSED; /* the client's table still has it: CLOSE gives the index back */
    else
        record_free(set, index);
}

void stream_engine_done(struct sess_set *set, struct sess_socket *sk) {
    sk->sock = USH_NONE;
    sk->tx_flight = 0;
    set->streams--;
    quota_give(set);
}

/* ---- submissions ---- */

static bool is_open(const struct sess_socket *sk) {
    return sk != NULL && sk->state == SOCK_OPEN && sk->sock != USH_NONE;
}

/* The range that any entry must keep to; what is gone meanwhile is no offence. */
static bool in_range(const struct sess_set *set, uint32_t handle) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    return index >= set->socket_max && index < set->socket_end;
}

uint32_t stream_take_send(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    if (UNLIKELY(e->flags & ~(USH_SEND_MORE | USH_SEND_URGENT)))
        return DETACH_BAD_OP;
    if (UNLIKELY(!in_range(set, e->send.handle)))
        return DETACH_BAD_HANDLE;
    if (UNLIKELY((uint64_t)e->send.off + e->send.len > set->tx_size))
        return DETACH_BAD_TX_RANGE;
    struct sess_socket *sk = stream_find(set, e->send.handle);
    if (UNLIKELY(!is_open(sk) || e->send.len == 0))
        return SQE_TAKEN;
    /* No two bytes in flight share a byte of the region: more than the region has cannot be honest. */
    if (UNLIKELY((uint64_t)sk->tx_flight + e->send.len > set->tx_size))
        return DETACH_BAD_CREDIT;
    struct pkt *p = pkt_alloc(&sh->small.pool);
    if (UNLIKELY(p == NULL))
        return SQE_WAIT; /* a stream loses nothing */
    sk->tx_flight += e->send.len;
    sk->tx_packets++;
    p->flags = PKT_REGION | (e->flags & USH_SEND_MORE ? PKT_MORE : 0);
    if (UNLIKELY(e->flags & USH_SEND_URGENT))
        p->flags |= PKT_URGENT;
    p->flow.proto = PROTO_TCP;
    p->sock = sk->sock;
    p->sink = sink_of(set, e->send.handle);
    p->owner = sk->owner;
    p->user = e->send.off;
    p->frag_len = e->send.len;
    sh->stats.from_sessions++;
    (void)hop_push(sh, HOP_TRANSPORT_OUT, p); /* sq_poll() made room */
    return SQE_TAKEN;
}

void stream_refused(struct shard *sh, struct sess_set *set, uint32_t handle, const struct notice *why) {
    stream_engine_done(set, &set->socket[USH_HANDLE_INDEX(handle)]);
    session_event(sh, set, handle, EV_ERROR, why);
    session_event(sh, set, handle, EV_CLOSED, &(struct notice){.kind = NOTICE_CLOSED});
}

/* CONNECT could not even begin: the client learns why, and that nothing of it is left. From a port of its choice it has
 * no second try by the kernel: usherd has that port now. */
static void connect_refused(struct shard *sh, struct sess_set *set, uint32_t handle, int error, bool bound) {
    set->socket[USH_HANDLE_INDEX(handle)].flags |= bound ? 0 : SOCK_REFUSED;
    const struct notice n = {.value = (uint32_t)-error, .extra = !bound};
    stream_refused(sh, set, handle, &n);
}

/* On this host only what usherd itself serves is reached through it; the kernel's own listeners are the kernel's. */
static int way_check(struct shard *sh, const struct flow *flow, bool *ret_local) {
    uint8_t engine = sh->proto_node[PROTO_TCP];
    struct engine_route route = {.error = 0};
    if (engine == NODE_NONE)
        return -EPROTONOSUPPORT;
    shard_route(sh, &flow->remote, &route);
    bool ours = steer_lookup(sh->steer, PROTO_TCP, flow->remote_port) != STEER_NONE;
    *ret_local = route.local;
    return route.error == 0 && route.local && !ours ? -ENETUNREACH : route.error;
}

/* The address and port of a socket that was bound in the kernel, as control has read them from there. They do not
 * change while it is open. */
static bool bound_from(const struct sess_set *set, uint32_t bound, struct flow *flow) {
    const struct sess_socket *sk = &set->socket[bound];
    if (sk->state != SOCK_OPEN || sk->set != set->index || !(sk->flags & SOCK_BOUND))
        return false;
    flow->local = set->session->flow[bound].flow.local;
    flow->local_port = set->session->flow[bound].flow.local_port;
    return true;
}

static int connect_begin(struct shard *sh, struct sess_socket *sk, struct tcp_cmd_connect *cmd) {
    bool local = false;
    struct engine_reply reply;
    int error = way_check(sh, &cmd->flow, &local);
    if (error < 0)
        return error;
    error = session_transport(sh, PROTO_TCP, &cmd->cmd, &reply);
    if (error == -EINVAL && cmd->opt.congestion[0] != '\0') { /* a name that the engine does not know */
        memset(cmd->opt.congestion, 0, sizeof cmd->opt.congestion);
        error = session_transport(sh, PROTO_TCP, &cmd->cmd, &reply);
    }
    if (error < 0)
        return error == -EADDRINUSE ? -EADDRNOTAVAIL : error; /* as connect(2) says it */
    sk->sock = reply.value;
    sk->flags |= local && cmd->flow.local_port == 0 ? SOCK_LOCAL : 0;
    return 0;
}

uint32_t stream_take_connect(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    uint32_t handle = e->connect.handle, index = USH_HANDLE_INDEX(handle);
    uint8_t expected = SOCK_FREE;
    bool bound = e->flags & USH_CONNECT_BOUND;
    if (UNLIKELY(e->flags & ~(USH_CONNECT_NODELAY | USH_CONNECT_FASTOPEN | USH_CONNECT_BOUND)))
        return DETACH_BAD_OP;
    if (UNLIKELY(index < set->socket_max || index >= set->accept_base ||
                 (bound && e->connect.bound >= set->socket_max)))
        return DETACH_BAD_HANDLE;
    if (UNLIKELY(!__atomic_compare_exchange_n(&set->socket[index].state, &expected, SOCK_OPEN, false, __ATOMIC_ACQUIRE,
                                              __ATOMIC_RELAXED)))
        return DETACH_BAD_CONNECT;
    bool over = !stream_quota_take(set);
    struct sess_socket *sk =
        stream_record_fill(set, handle, __atomic_load_n(&set->session->owner, __ATOMIC_RELAXED), 0);
    struct tcp_cmd_connect cmd = {.cmd = {TCP_CMD_CONNECT, sizeof cmd},
                                  .flow = {.remote_port = e->connect.port, .proto = PROTO_TCP},
                                  .sink = sink_of(set, handle),
                                  .owner = sk->owner,
                                  .fastopen = e->flags & USH_CONNECT_FASTOPEN};
    memcpy(cmd.flow.remote.b, e->connect.addr, 16);
    stream_options_take(set, handle, &cmd.opt);
    cmd.opt.nodelay |= (e->flags & USH_CONNECT_NODELAY) != 0;
    int error = over ? -EMFILE : !bound || bound_from(set, e->connect.bound, &cmd.flow) ? 0 : -EADDRNOTAVAIL;
    if (error == 0)
        error = connect_begin(sh, sk, &cmd);
    if (error < 0)
        connect_refused(sh, set, handle, error, bound);
    return SQE_TAKEN;
}

uint32_t stream_take_shutdown(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    if (UNLIKELY(!in_range(set, e->stream.handle)))
        return DETACH_BAD_HANDLE;
    struct sess_socket *sk = stream_find(set, e->stream.handle);
    if (!is_open(sk))
        return SQE_TAKEN;
    hops_run(sh); /* what was sent before goes first */
    if (sk->sock == USH_NONE)
        return SQE_TAKEN;
    struct tcp_cmd_sock cmd = {
        .cmd = {TCP_CMD_SHUTDOWN, sizeof cmd}, .sock = sk->sock, .sink = sink_of(set, e->stream.handle)};
    struct engine_reply reply;
    (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
    return SQE_TAKEN;
}

static void engine_close(struct shard *sh, struct sess_set *set, struct sess_socket *sk, uint32_t handle,
                         uint8_t flags) {
    struct tcp_cmd_close cmd = {.cmd = {TCP_CMD_CLOSE, sizeof cmd},
                                .sock = sk->sock,
                                .abort = flags & USH_CLOSE_ABORT,
                                .unread = (flags & USH_CLOSE_UNREAD) || stream_is_pending(set, sink_of(set, handle)),
                                .sink = sink_of(set, handle)};
    struct engine_reply reply;
    sk->state = SOCK_CLOSING;
    (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
}

/* The client, or its end, has it after all. Of one that nobody has the engine tells nothing. */
static void parked_end(struct shard *sh, struct sess_set *set, struct sess_socket *sk, uint32_t handle) {
    bool parked = sk->state == SOCK_PARKED;
    engine_close(sh, set, sk, handle, USH_CLOSE_ABORT);
    if (!parked)
        return;
    stream_engine_done(set, sk);
    session_event(sh, set, handle, EV_CLOSED, &(struct notice){.kind = NOTICE_CLOSED});
}

uint32_t stream_take_close(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    if (UNLIKELY(e->flags & ~(USH_CLOSE_ABORT | USH_CLOSE_UNREAD)))
        return DETACH_BAD_OP;
    if (UNLIKELY(!in_range(set, e->stream.handle)))
        return DETACH_BAD_HANDLE;
    struct sess_socket *sk = stream_find(set, e->stream.handle);
    if (sk == NULL || (sk->flags & SOCK_LEFT))
        return SQE_TAKEN;
    sk->flags |= SOCK_LEFT;
    if (sk->state == SOCK_CLOSED) {
        record_free(set, USH_HANDLE_INDEX(e->stream.handle));
        return SQE_TAKEN;
    }
    if (UNLIKELY(sk->state == SOCK_PARKING || sk->state == SOCK_PARKED)) {
        parked_end(sh, set, sk, e->stream.handle);
        return SQE_TAKEN;
    }
    hops_run(sh); /* what was sent before goes first */
    if (is_open(sk))
        engine_close(sh, set, sk, e->stream.handle, e->flags);
    return SQE_TAKEN;
}

/* ---- notices ---- */

bool stream_ends(struct shard *sh, const struct sess_socket *sk, struct flow *ret_flow) {
    struct tcp_conn_info info;
    bool there = stream_info(sh, sk, &info);
    if (there)
        *ret_flow = info.flow;
    return there;
}

/* Bytes were acknowledged: their place in the region is the client's again. */
static void tx_done(struct shard *sh, struct sess_set *set, struct sess_socket *sk, uint32_t handle,
                    const struct notice *n) {
    uint32_t index = USH_HANDLE_INDEX(handle);
    sk->tx_flight -= n->extra < sk->tx_flight ? n->extra : sk->tx_flight;
    sk->tx_done += n->extra;
    if (UNLIKELY(sk->state == SOCK_PARKING) && sk->tx_flight == 0 && sh->accept_count < NOTICE_VEC_MAX)
        sh->accept[sh->accept_count++] = *n; /* stream_accepts(): not while the engine speaks */
    if (set->dead)
        return;
    if (n->value != 0 && n->value != sk->tx_limit) {
        sk->tx_limit = n->value;
        __atomic_store_n(&set->shm_socket[index].tx_limit, n->value, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&set->shm_socket[index].tx_done, sk->tx_done, __ATOMIC_RELEASE);
    if (sk->tx_done - sk->tx_told >= sk->tx_limit / 4) { /* as session_tx_return() */
        sk->tx_told = sk->tx_done;
        session_event(sh, set, handle, EV_WRITABLE, &(struct notice){.kind = NOTICE_WRITABLE});
    }
}

static void connected(struct shard *sh, struct sess_set *set, struct sess_socket *sk, uint32_t handle) {
    struct notice n = {.extra = sk->tx_limit};
    struct flow ends;
    if (stream_ends(sh, sk, &ends)) {
        n.addr = ends.local;
        n.port = ends.local_port;
    }
    sk->flags &= (uint8_t)~SOCK_LOCAL;
    session_event(sh, set, handle, EV_CONNECTED, &n);
}

/* Nobody of ours listens at that address of this host, only at that port: the kernel may have somebody. */
static void refused(struct shard *sh, struct sess_set *set, struct sess_socket *sk, uint32_t handle,
                    const struct notice *n) {
    struct notice told = *n;
    told.extra = (sk->flags & SOCK_LOCAL) && n->value == ECONNREFUSED;
    sk->flags |= told.extra ? SOCK_REFUSED : 0;
    session_event(sh, set, handle, EV_ERROR, &told);
}

bool stream_notice(struct shard *sh, struct sess_set *set, uint32_t handle, const struct notice *n) {
    if (n->kind == NOTICE_ACCEPT) {
        if (sh->accept_count < NOTICE_VEC_MAX)
            sh->accept[sh->accept_count++] = *n;
        return true;
    }
    if (USH_HANDLE_INDEX(handle) < set->socket_max)
        return false;
    struct sess_socket *sk = stream_find(set, handle);
    if (sk == NULL)
        return true;
    switch (n->kind) {
    case NOTICE_TX_DONE:
        tx_done(sh, set, sk, handle, n);
        return true;
    case NOTICE_CONNECTED:
        connected(sh, set, sk, handle);
        return true;
    case NOTICE_ERROR:
        if (sk->state == SOCK_OPEN)
            refused(sh, set, sk, handle, n);
        return true;
    case NOTICE_CLOSED:
        stream_engine_done(set, sk);
        session_event(sh, set, handle, EV_CLOSED, n);
        session_set_settle(sh, set);
        return true;
    default:
        return sk->state != SOCK_OPEN && sk->state != SOCK_PARKING; /* whoever has closed it wants no news but CLOSED */
    }
}

/* ---- accepting ---- */

static uint32_t accept_take(struct sess_set *set) {
    uint32_t words = (set->socket_end - set->accept_base) / 64;
    for (uint32_t i = 0; i < words; i++) {
        uint32_t w = (set->accept_next + i) % words;
        uint64_t map = __atomic_load_n(&set->accept_pool[w], __ATOMIC_RELAXED);
        while (map != 0) {
            uint64_t bit = map & -map;
            map = __atomic_fetch_and(&set->accept_pool[w], ~bit, __ATOMIC_ACQUIRE); /* pairs with record_free() */
            if ((map & bit) == 0)
                continue; /* another set was quicker */
            set->accept_next = w;
            uint32_t index = set->accept_base + w * 64 + (uint32_t)__builtin_ctzll(bit);
            return USH_HANDLE(index, (uint8_t)(set->socket[index].generation + 1));
        }
    }
    return USH_NONE;
}

static void accept_refuse(struct shard *sh, uint32_t sock) {
    struct tcp_cmd_close cmd = {.cmd = {TCP_CMD_CLOSE, sizeof cmd}, .sock = sock, .abort = true};
    struct engine_reply reply;
    (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
}

uint32_t stream_handle_take(struct sess_set *set) {
    uint32_t handle = stream_quota_take(set) ? accept_take(set) : USH_NONE;
    if (handle == USH_NONE)
        quota_give(set);
    return handle;
}

struct sess_socket *stream_accept_tell(struct shard *sh, struct sess_set *set, uint32_t handle,
                                       const struct notice *n) {
    uint32_t listener = SINK_HANDLE(n->sink);
    struct sess_socket *sk = stream_record_fill(set, handle, set->socket[listener].owner, SOCK_ACCEPTED);
    sk->listener = listener;
    sk->sock = n->extra;
    const struct notice told = {.extra = sk->tx_limit, .addr = n->addr, .port = n->port};
    session_event(sh, set, handle, EV_ACCEPT, &told);
    return sk;
}

struct sess_socket *stream_adopted_tell(struct shard *sh, struct sess_set *set, uint32_t handle, uint32_t owner,
                                        uint32_t sock) {
    struct sess_socket *sk = stream_record_fill(set, handle, owner, SOCK_ACCEPTED);
    struct notice told = {.extra = sk->tx_limit};
    struct flow ends;
    sk->listener = USH_NONE;
    sk->sock = sock;
    if (stream_ends(sh, sk, &ends)) {
        told.addr = ends.remote;
        told.port = ends.remote_port;
    }
    session_event(sh, set, handle, EV_ACCEPT, &told);
    return sk;
}

/* The client hears of the connection before the engine may hand its bytes up. */
static void accept_into(struct shard *sh, struct sess_set *set, uint32_t handle, const struct notice *n) {
    struct sess_socket *sk = stream_accept_tell(sh, set, handle, n);
    struct tcp_cmd_adopt cmd = {.cmd = {TCP_CMD_ADOPT, sizeof cmd},
                                .sock = n->extra,
                                .owner = sk->owner,
                                .sink = sink_of(set, handle),
                                .peer = n->addr,
                                .peer_port = n->port};
    struct engine_reply reply;
    if (session_transport(sh, PROTO_TCP, &cmd.cmd, &reply) == 0)
        return;
    stream_engine_done(set, sk); /* it was reset in the meantime */
    session_event(sh, set, handle, EV_CLOSED, &(struct notice){.kind = NOTICE_CLOSED});
}

/* All that it had sent is acknowledged. */
static void park_one(struct shard *sh, const struct notice *n) {
    struct sess_set *set = sh->set[SINK_INDEX(n->sink)];
    struct sess_socket *sk = set != NULL ? stream_find(set, SINK_HANDLE(n->sink)) : NULL;
    if (sk != NULL && sk->state == SOCK_PARKING)
        stream_park(sh, set, sk, SINK_HANDLE(n->sink));
}

static void accept_one(struct shard *sh, const struct notice *n) {
    struct sess_set *set = SINK_INDEX(n->sink) < sh->session_max ? sh->set[SINK_INDEX(n->sink)] : NULL;
    uint32_t listener = SINK_HANDLE(n->sink);
    if (set == NULL || set->dead || listener >= set->socket_max || set->socket[listener].state != SOCK_OPEN) {
        accept_refuse(sh, n->extra);
        return;
    }
    uint32_t handle = stream_handle_take(set);
    if (handle == USH_NONE) {
        uint32_t lost = __atomic_add_fetch(&set->socket[listener].rx_dropped, 1, __ATOMIC_RELAXED); /* any shard's */
        __atomic_store_n(&set->shm_socket[listener].rx_dropped, lost, __ATOMIC_RELAXED);
        accept_refuse(sh, n->extra);
        return;
    }
    accept_into(sh, set, handle, n);
}

void stream_accepts(struct shard *sh) {
    if (LIKELY(sh->accept_count == 0) || sh->accepting)
        return;
    sh->accepting = true; /* adopting may bring further ones, which this loop finds */
    for (uint32_t i = 0; i < sh->accept_count; i++) {
        struct notice n = sh->accept[i];
        if (LIKELY(n.kind == NOTICE_ACCEPT))
            accept_one(sh, &n);
        else
            park_one(sh, &n);
    }
    sh->accept_count = 0;
    sh->accepting = false;
}

/* ---- the end of a session ---- */

bool stream_end_some(struct shard *sh, struct sess_set *set, uint32_t *at, uint32_t max) {
    for (uint32_t n = 0; n < max; n++, (*at)++) {
        if (*at < set->socket_max)
            *at = set->socket_max;
        if (*at >= set->connect_high && *at < set->accept_base)
            *at = set->accept_base;
        if (*at >= set->accept_high)
            return false;
        struct sess_socket *sk = &set->socket[*at];
        if (sk->set != set->index || sk->sock == USH_NONE)
            continue;
        if (sk->state == SOCK_PARKING && (sk->flags & SOCK_LEFT))
            continue; /* others have it */
        if (sk->state == SOCK_PARKING || sk->state == SOCK_PARKED)
            parked_end(sh, set, sk, USH_HANDLE(*at, sk->generation));
        else if (is_open(sk))
            engine_close(sh, set, sk, USH_HANDLE(*at, sk->generation), USH_CLOSE_ABORT);
    }
    return true;
}

static void linger_end(struct shard *sh, struct sess_set *set) {
    for (uint32_t at = set->socket_max;; at++) {
        if (at >= set->connect_high && at < set->accept_base)
            at = set->accept_base;
        if (at >= set->accept_high)
            return;
        struct sess_socket *sk = &set->socket[at];
        bool ends = sk->state == SOCK_CLOSING || sk->state == SOCK_PARKING;
        if (ends && sk->set == set->index && sk->sock != USH_NONE)
            engine_close(sh, set, sk, USH_HANDLE(at, sk->generation), USH_CLOSE_ABORT);
    }
}

uint32_t stream_linger(struct shard *sh) {
    uint32_t work = 0;
    for (struct sess_set *set = sh->linger, *next; set != NULL; set = next) {
        next = set->linger_next;
        if (set->linger_until > sh->now)
            continue;
        set->linger_until = NS_NEVER;
        set->flight++; /* holds the set while its streams end one by one */
        linger_end(sh, set);
        hops_run(sh); /* the resets leave now */
        set->flight--;
        session_set_settle(sh, set);
        work++;
    }
    return work;
}

void stream_forget_all(struct shard *sh) {
    for (uint32_t i = 0; sh->set != NULL && i < sh->session_max; i++) {
        struct sess_set *set = sh->set[i];
        if (set == NULL)
            continue;
        set->streams = 0;
        session_set_settle(sh, set);
    }
}
