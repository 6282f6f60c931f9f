/* SPDX-License-Identifier: Apache-2.0
 *
 * A connection that a session was given and its program never accepted, because it closed the listener first: another
 * listener of the port gets it, in whichever session of this shard, as the kernel leaves it in the queue that all
 * share. What it brought so far comes back with it. On the shard's worker.
 */
#include "dataplane/session/session_internal.h"
#include "engines/wire.h"

static bool listens(const struct sess_set *set, uint32_t handle) {
    return handle < set->socket_max && !set->dead && set->socket[handle].state == SOCK_OPEN &&
           (set->socket[handle].flags & SOCK_LISTENER);
}

/* Who gets it; NULL: nobody listens there any more. */
static struct sess_set *heir_find(struct shard *sh, uint32_t sock, uint64_t sink, uint32_t *ret_listener) {
    struct tcp_cmd_sock cmd = {.cmd = {TCP_CMD_HEIR, sizeof cmd}, .sock = sock, .sink = sink};
    struct engine_reply reply;
    if (session_transport(sh, PROTO_TCP, &cmd.cmd, &reply) < 0 || SINK_KIND(reply.value64) != SINK_SESSION)
        return NULL;
    uint32_t slot = SINK_INDEX(reply.value64);
    *ret_listener = SINK_HANDLE(reply.value64);
    struct sess_set *heir = slot < sh->session_max ? sh->set[slot] : NULL;
    return heir != NULL && listens(heir, *ret_listener) ? heir : NULL;
}

/* The bytes of the client's that were received and not read. NULL: there is no buffer for them. */
static struct pkt *bytes_take(struct shard *sh, const struct sess_set *set, const struct ush_sqe *e) {
    struct pkt *p = pkt_alloc(e->send.len <= SESS_TX_COPY_MAX ? &sh->small.pool : &sh->large.pool);
    if (p == NULL)
        return NULL;
    memcpy(p->data, set->tx + e->send.off, e->send.len);
    p->len = e->send.len;
    p->rx_ns = sh->now;
    p->flow.proto = PROTO_TCP;
    return p;
}

static void give(struct shard *sh, struct sess_set *heir, uint32_t handle, uint64_t from, struct pkt *bytes) {
    struct sess_socket *sk = &heir->socket[USH_HANDLE_INDEX(handle)];
    struct tcp_cmd_give cmd = {.cmd = {TCP_CMD_GIVE, sizeof cmd},
                               .sock = sk->sock,
                               .owner = sk->owner,
                               .sink = from,
                               .to = SINK(SINK_SESSION, heir->slot, handle)};
    struct engine_reply reply;
    if (bytes != NULL) {
        bytes->sink = cmd.to;
        (void)stream_deliver(sh, heir, &bytes, 1);
    }
    int error = session_transport(sh, PROTO_TCP, &cmd.cmd, &reply);
    CHECK(error == 0); /* heir_find() has asked for the same connection */
    if (reply.value)
        session_event(sh, heir, handle, EV_HANGUP, &(struct notice){.kind = NOTICE_HANGUP});
}

static bool rehome(struct shard *sh, struct sess_set *set, struct sess_socket *sk, const struct ush_sqe *e) {
    const uint64_t sink = SINK(SINK_SESSION, set->slot, e->send.handle);
    struct engine_reply reply;
    struct tcp_conn_info info;
    struct tcp_cmd_info ask = {.cmd = {TCP_CMD_INFO, sizeof ask}, .sock = sk->sock, .info = &info};
    uint32_t listener, handle = USH_NONE;
    if (e->send.len > USH_RETURN_MAX || sk->tx_flight != 0 || stream_is_pending(set, sink) ||
        session_transport(sh, PROTO_TCP, &ask.cmd, &reply) < 0)
        return false;
    struct sess_set *heir = heir_find(sh, sk->sock, sink, &listener);
    struct pkt *bytes = heir != NULL && e->send.len > 0 ? bytes_take(sh, set, e) : NULL;
    if (heir != NULL && (bytes != NULL || e->send.len == 0))
        handle = stream_handle_take(heir);
    if (handle == USH_NONE) {
        if (bytes != NULL)
            shard_pkt_free(sh, bytes);
        return false;
    }
    const struct notice n = {.sink = SINK(SINK_SESSION, heir->slot, listener),
                             .extra = sk->sock,
                             .addr = info.flow.remote,
                             .port = info.flow.remote_port};
    stream_accept_tell(sh, heir, handle, &n);
    give(sh, heir, handle, sink, bytes);
    return true;
}

uint32_t stream_take_return(struct shard *sh, struct sess_set *set, const struct ush_sqe *e) {
    uint32_t index = USH_HANDLE_INDEX(e->send.handle);
    if (UNLIKELY(e->flags != 0))
        return DETACH_BAD_OP;
    if (UNLIKELY(index < set->socket_max || index >= set->socket_end))
        return DETACH_BAD_HANDLE;
    if (UNLIKELY((uint64_t)e->send.off + e->send.len > set->tx_size))
        return DETACH_BAD_TX_RANGE;
    hops_run(sh); /* what came for it is the client's, or waits and is seen */
    struct sess_socket *sk = stream_find(set, e->send.handle);
    if (sk == NULL || (sk->flags & SOCK_LEFT))
        return SQE_TAKEN;
    bool may = (sk->flags & SOCK_ACCEPTED) && sk->state == SOCK_OPEN && sk->sock != USH_NONE;
    if (!may || !rehome(sh, set, sk, e)) {
        const struct ush_sqe close = {.flags = USH_CLOSE_ABORT, .stream = {.handle = e->send.handle}};
        return stream_take_close(sh, set, &close);
    }
    sk->flags |= SOCK_LEFT;
    stream_engine_done(set, sk);
    session_event(sh, set, e->send.handle, EV_CLOSED, &(struct notice){.kind = NOTICE_CLOSED});
    session_set_settle(sh, set);
    return SQE_TAKEN;
}
