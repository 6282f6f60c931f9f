/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams on their way from one session to another: the client parks one (its bytes are all told, what it sent is all
 * acknowledged), control takes it out of the session, and later puts it into whichever session asks for it. While
 * nobody has it the transport keeps what comes.
 *
 * On the shard's worker: PARK, and the letters. The rest is control's.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session_internal.h"
#include "engines/wire.h"

/* ---- parking ---- */

/* Once nothing that it sent is under way. An error of the transport's: CLOSED comes, or came. */
void stream_park(struct shard *sh, struct sess_set *set, struct sess_socket *sk, uint32_t handle) {
    struct tcp_cmd_give cmd = {
        .cmd = {TCP_CMD_GIVE, sizeof cmd}, .sock = sk->sock, .sink = SINK(SINK_SESSION, set->slot, handle)};
    struct engine_reply reply;
    if (sk->tx_flight != 0 || session_transport(sh, PROTO_TCP, &cmd.cmd, &reply) < 0)
        return;
    if (sk->flags & SOCK_LEFT) { /* its session has ended */
        sk->state = SOCK_CLOSED;
        stream_engine_done(set, sk);
        session_set_settle(sh, set);
        return;
    }
    sk->state = SOCK_PARKED;
    sk->tx_told = reply.value; /* its peer has hung up */
    session_event(sh, set, handle, EV_PARKED, &(struct notice){.kind = NOTICE_CLOSED});
}

uint32_t stream_take_park(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    uint32_t index = USH_HANDLE_INDEX(e->stream.handle);
    if (UNLIKELY(e->flags != 0))
        return DETACH_BAD_OP;
    if (UNLIKELY(index < set->socket_max || index >= set->socket_end))
        return DETACH_BAD_HANDLE;
    hops_run(sh); /* what was sent before goes first, what came is told */
    struct sess_socket *sk = stream_find(set, e->stream.handle);
    if (sk == NULL || sk->state != SOCK_OPEN || sk->sock == USH_NONE)
        return SQE_TAKEN;
    sk->state = SOCK_PARKING;
    stream_park(sh, set, sk, e->stream.handle);
    return SQE_TAKEN;
}

/* ---- letters ---- */

struct share_letter {
    struct session *session;
    uint32_t handle, owner;
    struct session_stream stream;
    bool abort;
    int error;
};

static struct sess_socket *letter_find(struct shard *sh, const struct share_letter *l) {
    struct sess_set *set = l->session->set[sh->index];
    return set != NULL && !set->dead ? stream_find(set, l->handle) : NULL;
}

static void share_run(struct shard *sh, void *arg) {
    struct share_letter *l = arg;
    struct sess_socket *sk = letter_find(sh, l);
    if (sk == NULL)
        return;
    l->error = -EBUSY;
    if (sk->state != SOCK_PARKED)
        return;
    struct sess_set *set = l->session->set[sh->index];
    l->stream = (struct session_stream){.shard = sh->index, .sock = sk->sock, .hung_up = sk->tx_told != 0};
    l->error = stream_ends(sh, sk, &l->stream.flow) ? 0 : -ENOENT;
    stream_credit(sh, set, l->handle, sk->rx_held); /* it goes on elsewhere: what is given back later is not its */
    stream_credit_flush(sh);
    stream_engine_done(set, sk);
    sk->flags |= SOCK_LEFT;
    stream_told_closed(set, l->handle);
    session_set_settle(sh, set);
}

static void leave_run(struct shard *sh, void *arg) {
    struct share_letter *l = arg;
    struct sess_socket *sk = letter_find(sh, l);
    if (sk == NULL)
        return;
    struct sess_set *set = l->session->set[sh->index];
    session_set_drain(sh, set); /* what it sent, and gave back, before it went */
    sk = letter_find(sh, l);
    if (sk == NULL || sk->state != SOCK_OPEN || sk->sock == USH_NONE || !stream_ends(sh, sk, &l->stream.flow))
        return;
    l->error = -EBUSY;
    if (sk->rx_held != 0)
        return;
    l->error = 0;
    l->stream.shard = sh->index;
    l->stream.sock = sk->sock;
    sk->state = SOCK_PARKING;
    sk->flags |= SOCK_LEFT;
    stream_park(sh, set, sk, l->handle);
}

static void recall_run(struct shard *sh, void *arg) {
    struct share_letter *l = arg;
    struct sess_socket *sk = letter_find(sh, l);
    if (sk == NULL || sk->state != SOCK_OPEN)
        return;
    struct sess_set *set = l->session->set[sh->index];
    __atomic_store_n(&set->shm_socket[USH_HANDLE_INDEX(l->handle)].recall, 1, __ATOMIC_RELAXED);
    session_event(sh, set, l->handle, EV_WRITABLE, &(struct notice){.kind = NOTICE_WRITABLE});
}

static void adopt_run(struct shard *sh, void *arg) {
    struct share_letter *l = arg;
    struct sess_set *set = l->session->set[sh->index];
    l->error = -EMFILE;
    l->handle = set != NULL && !set->dead ? stream_handle_take(set) : USH_NONE;
    if (l->handle == USH_NONE)
        return;
    const struct flow *f = &l->stream.flow;
    struct sess_socket *sk = stream_adopted_tell(sh, set, l->handle, l->owner, l->stream.sock);
    struct tcp_cmd_adopt cmd = {.cmd = {TCP_CMD_ADOPT, sizeof cmd},
                                .sock = l->stream.sock,
                                .owner = l->owner,
                                .sink = SINK(SINK_SESSION, set->slot, l->handle),
                                .peer = f->remote,
                                .peer_port = f->remote_port};
    struct engine_reply reply;
    int error = session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
    l->error = error == -EALREADY ? -EAGAIN : error < 0 ? -ENOENT : 0;
    if (l->error < 0) { /* it was reset in the meantime; or its last owner's bytes are still on their way */
        stream_engine_done(set, sk);
        session_event(sh, set, l->handle, EV_CLOSED, &(struct notice){.kind = NOTICE_CLOSED});
    } else if (l->stream.hung_up) {
        session_event(sh, set, l->handle, EV_HANGUP, &(struct notice){.kind = NOTICE_HANGUP});
    }
}

static void drop_run(struct shard *sh, void *arg) {
    struct share_letter *l = arg;
    struct tcp_conn_info info;
    struct tcp_cmd_info ask = {.cmd = {TCP_CMD_INFO, sizeof ask}, .sock = l->stream.sock, .info = &info};
    struct tcp_cmd_close cmd = {.cmd = {TCP_CMD_CLOSE, sizeof cmd}, .sock = l->stream.sock, .unread = l->abort};
    struct engine_reply reply;
    const struct flow *f = &l->stream.flow;
    /* Its index may be another's by now. */
    if (session_transport(sh, PROTO_TCP, &ask.cmd, &reply) == 0 && info.flow.remote_port == f->remote_port &&
        info.flow.local_port == f->local_port && ipaddr_equal(&info.flow.remote, &f->remote))
        (void)session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
}

/* ---- control ---- */

/* The handle does not say which shard has it. */
static int ask_all(struct share_letter *l, shard_fn *fn) {
    l->error = -ENOENT;
    for (uint32_t i = 0; i < l->session->rt->shard_count && l->error == -ENOENT; i++) {
        if (l->session->set[i] != NULL)
            (void)runtime_call(l->session->rt, i, fn, l);
    }
    return l->error;
}

int session_stream_share(struct session *s, uint32_t handle, struct session_stream *ret_stream) {
    struct share_letter l = {.session = s, .handle = handle};
    int error = ask_all(&l, share_run);
    if (error == 0)
        *ret_stream = l.stream;
    return error;
}

/* The kernel reads the region: a page that cannot be had is its error, not our fault. */
int session_tx_file(const struct session *s, uint32_t off, uint32_t len) {
    if ((uint64_t)off + len > s->layout.tx_size)
        return -EINVAL;
    int fd = memfd_create("usher-unread", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, s->base + s->layout.tx_off + off, len) == (ssize_t)len)
        return fd;
    (void)close(fd);
    return -ENOMEM;
}

int session_stream_leave(struct session *s, uint32_t handle, struct session_stream *ret_stream) {
    struct share_letter l = {.session = s, .handle = handle};
    int error = ask_all(&l, leave_run);
    if (error == 0)
        *ret_stream = l.stream;
    return error;
}

void session_stream_recall(struct session *s, uint32_t handle) {
    struct share_letter l = {.session = s, .handle = handle};
    (void)ask_all(&l, recall_run);
}

int session_stream_adopt(struct session *s, const struct session_stream *stream, struct session_socket *ret_socket) {
    struct share_letter l = {.session = s, .stream = *stream, .owner = s->owner};
    int kick_fd;
    int error = session_set_ready(s, stream->shard, &kick_fd);
    if (error < 0)
        return error;
    error = runtime_call(s->rt, stream->shard, adopt_run, &l);
    error = error < 0 ? error : l.error;
    if (error < 0) {
        if (kick_fd >= 0)
            close(kick_fd);
        return error;
    }
    s->kick_sent[stream->shard] = true;
    *ret_socket = (struct session_socket){
        .handle = l.handle, .set = stream->shard, .kick_fd = kick_fd, .tx_limit = SESS_STREAM_LIMIT};
    return 0;
}

void session_stream_drop(struct runtime *rt, const struct session_stream *stream, bool abort) {
    struct share_letter l = {.stream = *stream, .abort = abort};
    (void)runtime_call(rt, stream->shard, drop_run, &l);
}
