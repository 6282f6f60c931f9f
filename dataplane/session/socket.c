/* SPDX-License-Identifier: Apache-2.0
 *
 * A session's sockets as control sees them. Each change is one letter to the shard that owns the socket's local port;
 * there it opens, changes or closes the transport's socket and the session's record of it in one step. Control thread.
 *
 * A handle is used again only when the client holds none of its cells and none of its sends is under way, so that what
 * comes back late is never charged to a stranger.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session_internal.h"
#include "engines/udp/udp_cmd.h"

#define TX_LIMIT_MIN    (128u << 10) /* the rule for WRITABLE needs a quarter of it free for one large datagram */
#define RX_QUOTA_MIN    2048u
#define REUSE_TRIES     64u
#define BACKLOG_DEFAULT 128u
#define CLOSE_BATCH     256u /* sockets closed between two polls when a session ends */

/* ---- ports and shards ---- */

static uint32_t least_shard(const struct runtime *rt) {
    uint32_t least = 0;
    for (uint32_t i = 1; i < rt->shard_count; i++)
        least = rt->steer->sockets[i] < rt->steer->sockets[least] ? i : least;
    return least;
}

/* A port that has an owner stays his; one that is spread takes listeners that stand everywhere, and the local ends of
 * connections. */
static int shard_for(struct runtime *rt, const struct session_socket_params *p, uint32_t *ret_shard, bool *ret_all) {
    uint32_t owner = steer_lookup(rt->steer, p->flow.proto, p->flow.local_port);
    bool listens = p->flow.proto == PROTO_TCP && !p->bound;
    *ret_shard = owner;
    *ret_all = listens && p->all_shards && rt->shard_count > 1 && (owner == STEER_NONE || owner == STEER_SPREAD);
    if (owner == STEER_NONE || *ret_all) {
        *ret_shard = least_shard(rt);
    } else if (owner == STEER_SPREAD) {
        struct flow toward = {.remote = p->peer, .remote_port = p->peer_port, .local_port = p->flow.local_port};
        *ret_shard = steer_spread(&toward, rt->shard_count);
        return p->bound ? 0 : -EADDRINUSE;
    }
    return 0;
}

/* ---- handles ---- */

static bool handle_reusable(const struct session *s, uint32_t handle) {
    struct sess_socket sk;
    counters_read((uint64_t *)&sk, (const uint64_t *)&s->socket[handle], sizeof sk / sizeof(uint64_t));
    return sk.rx_held == 0 && sk.tx_flight == 0 && sk.events == 0;
}

static uint32_t handle_take(struct session *s) {
    uint32_t max = s->layout.socket_max;
    for (uint32_t tries = 0; tries < REUSE_TRIES && s->closed_head != s->closed_tail; tries++) {
        uint32_t handle = s->closed[s->closed_head++ % max];
        if (handle_reusable(s, handle))
            return handle;
        s->closed[s->closed_tail++ % max] = handle; /* later */
    }
    return s->socket_high < max ? s->socket_high++ : USH_NONE;
}

static void handle_put(struct session *s, uint32_t handle) {
    s->closed[s->closed_tail++ % s->layout.socket_max] = handle;
}

static bool handle_open(const struct session *s, uint32_t handle) {
    return handle < s->socket_high && s->flow[handle].open && !s->flow[handle].retired;
}

/* ---- letters ---- */

struct change {
    struct session *session;
    uint32_t handle;
    const struct session_socket_params *params;
    struct engine_cmd *cmd; /* for the transport */
    struct engine_reply reply;
    uint32_t rx_quota, tx_limit;
    uint32_t from, end; /* session_sockets_close(): first handle, the one behind the last */
    uint32_t stream_from;
    bool more;
};

int session_transport(struct shard *sh, uint8_t proto, struct engine_cmd *cmd, struct engine_reply *ret_reply) {
    uint8_t engine = sh->proto_node[proto];
    if (engine == NODE_NONE)
        return -EPROTONOSUPPORT;
    *ret_reply = (struct engine_reply){.error = 0};
    node_command(sh, &sh->node[engine], cmd, ret_reply);
    return ret_reply->error;
}

static struct udp_cmd_open udp_open(const struct session *s, uint32_t set, uint32_t handle,
                                    const struct session_socket_params *p) {
    return (struct udp_cmd_open){.cmd = {UDP_CMD_OPEN, sizeof(struct udp_cmd_open)},
                                 .flow = p->flow,
                                 .sink = SINK(SINK_SESSION, s->set[set]->slot, handle),
                                 .sock = s->socket[handle].sock,
                                 .owner = p->owner,
                                 .ifindex = p->ifindex,
                                 .v6only = p->v6only,
                                 .reuseport = p->reuseport,
                                 .spread = p->spread};
}

static struct tcp_cmd_listen tcp_listen(const struct session *s, uint32_t set, uint32_t handle,
                                        const struct session_socket_params *p) {
    struct tcp_cmd_listen l = {.cmd = {TCP_CMD_LISTEN, sizeof(struct tcp_cmd_listen)},
                               .flow = p->flow,
                               .sink = SINK(SINK_SESSION, s->set[set]->slot, handle),
                               .owner = p->owner,
                               .ifindex = p->ifindex,
                               .backlog = p->backlog != 0 ? p->backlog : BACKLOG_DEFAULT,
                               .v6only = p->v6only,
                               .reuseport = p->reuseport,
                               .spread = p->spread};
    for (uint32_t i = 0; i < p->option_count; i++)
        stream_option_born(&l.opt, p->options[i].option, p->options[i].value, p->options[i].name);
    return l;
}

static int listen_run(struct shard *sh, const struct change *c, struct sess_socket *sk,
                      struct engine_reply *ret_reply) {
    struct tcp_cmd_listen cmd = tcp_listen(c->session, sh->index, c->handle, c->params);
    int error = session_transport(sh, PROTO_TCP, &cmd.cmd, ret_reply);
    if (error == -EINVAL && cmd.opt.congestion[0] != '\0') { /* a name that the engine does not know */
        memset(cmd.opt.congestion, 0, sizeof cmd.opt.congestion);
        error = session_transport(sh, PROTO_TCP, &cmd.cmd, ret_reply);
    }
    if (error < 0)
        return error;
    sk->sock = ret_reply->value;
    stream_listen_options(sh, sk, c->params->options, c->params->option_count);
    return 0;
}

static int transport_open(struct shard *sh, const struct change *c, struct sess_socket *sk) {
    struct engine_reply reply;
    if (c->params->bound) {
        sk->sock = USH_NONE;
        return sh->proto_node[PROTO_TCP] != NODE_NONE ? 0 : -EPROTONOSUPPORT;
    }
    if (sk->proto == PROTO_FRAME) {
        sk->sock = c->params->ifindex;
        return 0;
    }
    if (sk->proto == PROTO_TCP)
        return listen_run(sh, c, sk, &reply);
    struct udp_cmd_open open = udp_open(c->session, sh->index, c->handle, c->params);
    int error = session_transport(sh, sk->proto, &open.cmd, &reply);
    if (error == 0)
        sk->sock = reply.value;
    return error;
}

/* The record is complete before the transport may hand a packet up. */
static void open_run(struct shard *sh, void *arg) {
    struct change *c = arg;
    struct session *s = c->session;
    struct sess_socket *sk = &s->socket[c->handle];
    struct ush_socket *shm = &s->set[sh->index]->shm_socket[c->handle];
    *sk = (struct sess_socket){.state = SOCK_OPEN,
                               .set = (uint8_t)sh->index,
                               .proto = c->params->flow.proto,
                               .owner = c->params->owner,
                               .rx_quota = c->rx_quota,
                               .tx_limit = c->tx_limit,
                               .event_next = USH_NONE};
    *shm = (struct ush_socket){.state = USH_SOCKET_OPEN};
    bool stream = sk->proto == PROTO_TCP;
    bool spread = c->params->reuseport && c->params->spread != 0;
    sk->flags = c->params->bound ? SOCK_BOUND : stream ? SOCK_LISTENER : spread ? SOCK_SPREAD : 0;
    c->reply.error = transport_open(sh, c, sk);
    if (c->reply.error < 0) {
        sk->state = SOCK_CLOSED;
        shm->state = USH_SOCKET_CLOSED;
    }
}

static void close_one(struct shard *sh, struct session *s, uint32_t handle) {
    struct sess_socket *sk = &s->socket[handle];
    struct udp_cmd_close close = {.cmd = {UDP_CMD_CLOSE, sizeof close}, .sock = sk->sock};
    struct tcp_cmd_close end = {.cmd = {TCP_CMD_CLOSE, sizeof end}, .sock = sk->sock};
    struct engine_reply reply;
    if (!(sk->flags & SOCK_BOUND) && sk->proto != PROTO_FRAME)
        (void)session_transport(sh, sk->proto, sk->proto == PROTO_TCP ? &end.cmd : &close.cmd, &reply);
    sk->state = SOCK_CLOSED;
    s->set[sh->index]->shm_socket[handle].state = USH_SOCKET_CLOSED;
}

static void close_run(struct shard *sh, void *arg) {
    struct change *c = arg;
    session_set_drain(sh, c->session->set[sh->index]); /* what was sent before the close still goes */
    if (c->session->socket[c->handle].state == SOCK_OPEN)
        close_one(sh, c->session, c->handle);
}

static void retire_run(struct shard *sh, void *arg) {
    static const struct notice none;
    const struct change *c = arg;
    close_run(sh, arg);
    session_event(sh, c->session->set[sh->index], c->handle, EV_CLOSED, &none);
}

static void close_batch_run(struct shard *sh, void *arg) {
    struct change *c = arg;
    struct session *s = c->session;
    uint32_t n = 0;
    if (c->from == 0 && c->stream_from == 0)
        session_set_drain(sh, s->set[sh->index]); /* what it sent before it went still goes */
    for (; c->from < s->socket_high && n < CLOSE_BATCH; c->from++) {
        struct sess_socket *sk = &s->socket[c->from];
        if (sk->state != SOCK_OPEN || sk->set != sh->index)
            continue;
        close_one(sh, s, c->from);
        n++;
    }
    c->more = c->from < s->socket_high || stream_end_some(sh, s->set[sh->index], &c->stream_from, CLOSE_BATCH);
}

static void frame_move_run(struct shard *sh, void *arg) {
    const struct change *c = arg;
    (void)sh;
    c->session->socket[c->handle].sock = c->params->ifindex;
}

static void command_run(struct shard *sh, void *arg) {
    struct change *c = arg;
    c->reply.error = session_transport(sh, c->session->socket[c->handle].proto, c->cmd, &c->reply);
}

void session_load_tell(struct shard *sh, const struct sess_socket *sk) {
    struct udp_cmd_option cmd = {.cmd = {UDP_CMD_OPTION, sizeof cmd},
                                 .sock = sk->sock,
                                 .option = UDP_OPT_LOAD,
                                 .value = sk->rx_held >> CELL_SHIFT};
    struct engine_reply reply;
    if (sk->state == SOCK_OPEN) /* else the transport's index may be another's by now */
        (void)session_transport(sh, sk->proto, &cmd.cmd, &reply);
}

static void limits_run(struct shard *sh, void *arg) {
    struct change *c = arg;
    (void)sh;
    struct sess_socket *sk = &c->session->socket[c->handle];
    if (c->rx_quota != 0)
        sk->rx_quota = c->rx_quota;
    if (c->tx_limit != 0)
        sk->tx_limit = c->tx_limit;
}

static int change_call(struct session *s, uint32_t handle, shard_fn *fn, struct change *c) {
    c->session = s;
    c->handle = handle;
    int error = runtime_call(s->rt, s->flow[handle].shard, fn, c);
    return error < 0 ? error : c->reply.error;
}

/* ---- listeners in every shard ---- */

/* The array is published once for a handle and freed with the session: a worker may look at any time. */
uint32_t session_part(const struct session *s, uint32_t handle, uint32_t index) {
    const uint32_t *part = __atomic_load_n(&s->flow[handle].part, __ATOMIC_ACQUIRE);
    return part != NULL ? part[index] : USH_NONE;
}

static int part_get(struct session *s, uint32_t handle) {
    struct sess_flow *f = &s->flow[handle];
    s->parted = true;
    if (f->part != NULL)
        return 0; /* of an earlier listener with this handle */
    uint32_t *part = malloc(USH_SET_MAX * sizeof *part);
    if (part == NULL)
        return -ENOMEM;
    memset(part, 0xff, USH_SET_MAX * sizeof *part);
    __atomic_store_n(&f->part, part, __ATOMIC_RELEASE);
    return 0;
}

static void part_open_run(struct shard *sh, void *arg) {
    struct change *c = arg;
    struct sess_socket here = {.sock = USH_NONE}; /* the client's record is its home shard's */
    c->reply.error = listen_run(sh, c, &here, &(struct engine_reply){.error = 0});
    c->session->flow[c->handle].part[sh->index] = here.sock;
}

/* Handles from .. before end. */
static void parts_close_run(struct shard *sh, void *arg) {
    struct change *c = arg;
    struct session *s = c->session;
    struct engine_reply reply;
    for (uint32_t n = 0; c->from < c->end && n < CLOSE_BATCH; c->from++) {
        uint32_t *part = s->flow[c->from].part;
        if (part == NULL || part[sh->index] == USH_NONE)
            continue;
        struct tcp_cmd_close cmd = {.cmd = {TCP_CMD_CLOSE, sizeof cmd}, .sock = part[sh->index]};
        (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
        part[sh->index] = USH_NONE;
        n++;
    }
    c->more = c->from < c->end;
}

/* Before the home shard's own part, whose record the others read when they accept. */
static void parts_close(struct session *s, uint32_t from, uint32_t end) {
    for (uint32_t i = 0; s->parted && i < s->rt->shard_count; i++) {
        struct change c = {.session = s, .from = from, .end = end, .more = s->set[i] != NULL};
        while (c.more && runtime_call(s->rt, i, parts_close_run, &c) == 0)
            continue;
    }
}

static void kicks_close(const struct session_socket *sock) {
    if (sock->kick_fd >= 0)
        close(sock->kick_fd);
    for (uint32_t i = 0; i < USH_SET_MAX; i++) {
        if ((sock->more_sets >> i & 1) && sock->more_kick_fd[i] >= 0)
            close(sock->more_kick_fd[i]);
    }
}

/* The home shard's part is open. What has been opened when this fails is the caller's to close. */
static int parts_open(struct session *s, const struct change *home, struct session_socket *sock) {
    int error = part_get(s, sock->handle);
    for (uint32_t i = 0; i < s->rt->shard_count && error == 0; i++) {
        if (i == sock->set)
            continue;
        error = session_set_ready(s, i, &sock->more_kick_fd[i]);
        if (error < 0)
            break;
        sock->more_sets |= 1u << i;
        struct change c = *home;
        error = runtime_call(s->rt, i, part_open_run, &c);
        error = error < 0 ? error : c.reply.error;
    }
    return error;
}

/* ---- limits ---- */

static uint32_t bounded(int64_t wish, uint32_t standard, uint32_t min, uint64_t max) {
    int64_t n = wish != 0 ? wish : standard;
    if (n < (int64_t)min)
        return min;
    return n > (int64_t)max ? (uint32_t)max : (uint32_t)n;
}

static uint32_t rx_quota_of(const struct session *s, int64_t wish) {
    return bounded(wish, SESS_RX_QUOTA, RX_QUOTA_MIN, s->layout.rx_size);
}

static uint32_t tx_limit_of(const struct session *s, int64_t wish) {
    return bounded(wish, SESS_TX_LIMIT, TX_LIMIT_MIN, s->layout.tx_size);
}

/* ---- calls ---- */

int session_set_ready(struct session *s, uint32_t shard, int *ret_kick_fd) {
    *ret_kick_fd = -1;
    if (s->set[shard] != NULL && s->kick_sent[shard])
        return 0;
    int error = s->set[shard] == NULL ? session_set_make(s, shard) : 0;
    if (error < 0)
        return error;
    *ret_kick_fd = fcntl(s->set[shard]->kick_fd, F_DUPFD_CLOEXEC, 0);
    return *ret_kick_fd < 0 ? -errno : 0;
}

static int params_check(const struct session_socket_params *p) {
    const struct flow *flow = &p->flow;
    if (flow->proto == PROTO_FRAME)
        return flow->local_port == 0 && p->ifindex != 0 ? 0 : -EINVAL;
    if (flow->local_port == 0)
        return -EINVAL;
    bool known = flow->proto == PROTO_UDP || (flow->proto == PROTO_TCP && flow->remote_port == 0);
    return known ? 0 : -EPROTONOSUPPORT;
}

/* In its home shard, and in all others where that is wanted; nothing of it is left when this fails. */
static int socket_begin(struct session *s, const struct session_socket_params *params, bool all,
                        struct session_socket *sock) {
    sock->handle = handle_take(s);
    if (sock->handle == USH_NONE)
        return -EMFILE;
    struct change c = {.params = params,
                       .rx_quota = sock->rx_quota = rx_quota_of(s, params->rx_quota),
                       .tx_limit = sock->tx_limit = tx_limit_of(s, params->tx_limit)};
    struct sess_flow *f = &s->flow[sock->handle];
    f->flow = params->flow;
    f->cookie = params->cookie;
    f->shard = (uint8_t)sock->set;
    f->spread = params->spread;
    f->open = f->retired = false;
    int error = change_call(s, sock->handle, open_run, &c);
    if (error == 0 && all && (error = parts_open(s, &c, sock)) < 0) {
        parts_close(s, sock->handle, sock->handle + 1);
        (void)change_call(s, sock->handle, close_run, &(struct change){.handle = sock->handle});
    }
    if (error < 0)
        handle_put(s, sock->handle);
    return error;
}

int session_socket_open(struct session *s, const struct session_socket_params *params,
                        struct session_socket *ret_socket) {
    bool all;
    struct session_socket sock = {.handle = USH_NONE, .kick_fd = -1};
    int error = params_check(params);
    if (error < 0)
        return error;
    error = shard_for(s->rt, params, &sock.set, &all);
    if (error == 0)
        error = session_set_ready(s, sock.set, &sock.kick_fd);
    if (error == 0)
        error = socket_begin(s, params, all, &sock);
    if (error < 0) {
        kicks_close(&sock);
        return error;
    }
    s->flow[sock.handle].open = true;
    for (uint32_t i = 0; i < USH_SET_MAX; i++)
        s->kick_sent[i] |= i == sock.set || (sock.more_sets >> i & 1);
    if (all) /* first: no flow may begin by a byte that names one shard */
        steer_spread_set(s->rt->steer, &params->flow);
    steer_add(s->rt->steer, &params->flow, sock.set);
    *ret_socket = sock;
    return 0;
}

int session_stream_set(struct session *s, struct session_socket *ret_socket) {
    uint32_t shard = least_shard(s->rt);
    if (s->rt->shard[shard]->proto_node[PROTO_TCP] == NODE_NONE)
        return -EPROTONOSUPPORT;
    int kick_fd;
    int error = session_set_ready(s, shard, &kick_fd);
    if (error < 0)
        return error;
    s->kick_sent[shard] = true;
    *ret_socket =
        (struct session_socket){.handle = USH_NONE, .set = shard, .kick_fd = kick_fd, .tx_limit = SESS_STREAM_LIMIT};
    return 0;
}

int session_socket_update(struct session *s, uint32_t handle, const struct session_socket_params *params) {
    if (!handle_open(s, handle))
        return -EBADF;
    struct sess_flow *f = &s->flow[handle];
    if (params_check(params) < 0 || params->flow.proto != f->flow.proto || f->flow.proto == PROTO_TCP)
        return -EINVAL;
    if (f->flow.proto == PROTO_FRAME) {
        struct change move = {.params = params};
        return change_call(s, handle, frame_move_run, &move);
    }
    /* A socket stays in its shard: the new port must be free to be steered there. */
    uint32_t owner = steer_lookup(s->rt->steer, params->flow.proto, params->flow.local_port);
    if (owner != STEER_NONE && owner != f->shard)
        return -EADDRINUSE;
    struct udp_cmd_open update = udp_open(s, f->shard, handle, params);
    update.cmd.id = UDP_CMD_UPDATE;
    update.spread = f->spread; /* said once, with the open */
    struct change c = {.cmd = &update.cmd};
    int error = change_call(s, handle, command_run, &c);
    if (error < 0)
        return error;
    steer_add(s->rt->steer, &params->flow, f->shard);
    steer_del(s->rt->steer, &f->flow, f->shard);
    f->flow = params->flow;
    f->cookie = params->cookie;
    return 0;
}

static void forget(struct session *s, uint32_t handle) {
    struct sess_flow *f = &s->flow[handle];
    f->open = false;
    if (!f->retired)
        steer_del(s->rt->steer, &f->flow, f->shard);
    handle_put(s, handle);
}

int session_socket_retire(struct session *s, uint32_t handle) {
    if (!handle_open(s, handle))
        return -ENOENT;
    struct sess_flow *f = &s->flow[handle];
    if (s->socket[handle].flags & SOCK_BOUND)
        return -EPROTOTYPE;
    struct change c = {.handle = handle};
    parts_close(s, handle, handle + 1);
    int error = change_call(s, handle, retire_run, &c);
    if (error < 0)
        return error;
    f->retired = true;
    steer_del(s->rt->steer, &f->flow, f->shard);
    return 0;
}

int session_socket_close(struct session *s, uint32_t handle) {
    if (handle >= s->socket_high || !s->flow[handle].open)
        return -EBADF;
    struct change c = {.handle = handle};
    parts_close(s, handle, handle + 1);
    int error = change_call(s, handle, close_run, &c);
    forget(s, handle);
    return error;
}

void session_socket_undo(struct session *s, const struct session_socket *sock) {
    (void)session_socket_close(s, sock->handle);
    kicks_close(sock);
    for (uint32_t i = 0; i < USH_SET_MAX; i++) {
        int fd = i == sock->set ? sock->kick_fd : sock->more_sets >> i & 1 ? sock->more_kick_fd[i] : -1;
        s->kick_sent[i] &= fd < 0;
    }
}

void session_sockets_close(struct session *s) {
    parts_close(s, 0, s->socket_high);
    for (uint32_t set = 0; set < USH_SET_MAX; set++) {
        struct change c = {.session = s, .more = s->set[set] != NULL};
        while (c.more && runtime_call(s->rt, set, close_batch_run, &c) == 0)
            continue;
    }
    for (uint32_t handle = 0; handle < s->socket_high; handle++) {
        if (s->flow[handle].open)
            forget(s, handle);
    }
}

/* SocketOption of session.proto -> the transport's. */
static const struct {
    uint8_t option, udp;
} option_map[] = {
    {1, UDP_OPT_TOS},
    {2, UDP_OPT_TTL},
    {5, UDP_OPT_DONT_FRAGMENT},
    {6, UDP_OPT_MULTICAST_TTL},
    {7, UDP_OPT_MULTICAST_LOOP},
    {8, UDP_OPT_BROADCAST},
};
#define OPTION_RX_QUOTA 3u
#define OPTION_TX_LIMIT 4u

int session_socket_set_option(struct session *s, uint32_t handle, uint32_t option, int64_t value) {
    if (!handle_open(s, handle))
        return -EBADF;
    struct change c = {.handle = handle};
    if (option == OPTION_RX_QUOTA || option == OPTION_TX_LIMIT) {
        if (value < 0)
            return -EINVAL;
        c.rx_quota = option == OPTION_RX_QUOTA ? rx_quota_of(s, value) : 0;
        c.tx_limit = option == OPTION_TX_LIMIT ? tx_limit_of(s, value) : 0;
        return change_call(s, handle, limits_run, &c);
    }
    if (s->flow[handle].flow.proto != PROTO_UDP)
        return -ENOPROTOOPT;
    for (uint32_t i = 0; i < ARRAY_LEN(option_map); i++) {
        if (option_map[i].option != option)
            continue;
        struct udp_cmd_option cmd = {.cmd = {UDP_CMD_OPTION, sizeof cmd},
                                     .sock = s->socket[handle].sock,
                                     .option = option_map[i].udp,
                                     .value = value};
        c.cmd = &cmd.cmd;
        return change_call(s, handle, command_run, &c);
    }
    return -ENOPROTOOPT;
}

int session_socket_group(struct session *s, uint32_t handle, const struct ipaddr *group, uint32_t ifindex, bool leave) {
    if (!handle_open(s, handle) || s->flow[handle].flow.proto != PROTO_UDP)
        return -EBADF;
    struct udp_cmd_group cmd = {.cmd = {UDP_CMD_GROUP, sizeof cmd},
                                .sock = s->socket[handle].sock,
                                .ifindex = ifindex,
                                .group = *group,
                                .leave = leave};
    struct change c = {.cmd = &cmd.cmd};
    return change_call(s, handle, command_run, &c);
}

uint32_t session_sockets(struct session *s, uint32_t after, struct session_socket_info *ret_info, uint32_t max) {
    uint32_t n = 0;
    for (uint32_t handle = after == USH_NONE ? 0 : after + 1; handle < s->socket_high && n < max; handle++) {
        if (!s->flow[handle].open)
            continue;
        struct sess_socket sk;
        counters_read((uint64_t *)&sk, (const uint64_t *)&s->socket[handle], sizeof sk / sizeof(uint64_t));
        ret_info[n++] = (struct session_socket_info){.handle = handle,
                                                     .owner = sk.owner,
                                                     .flow = s->flow[handle].flow,
                                                     .cookie = s->flow[handle].cookie,
                                                     .rx_packets = sk.proto != PROTO_FRAME ? sk.rx_packets : 0,
                                                     .tx_packets = sk.tx_packets,
                                                     .rx_dropped = sk.rx_dropped,
                                                     .rx_held = sk.rx_held};
    }
    return n;
}
