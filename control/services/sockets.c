/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Sockets. A list goes on from a cursor: session, then a place in it; each part asks the workers for a
 * few letters' worth. Control thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/interfaces.h"
#include "control/services/filter.h"
#include "control/services/service_internal.h"
#include "control/services/sessions.h"
#include "engines/wire.h"
#include "usher/control/v1/sessions.pb-c.h"

#define PART_MAX   256u /* sockets in a message */
#define LETTER_MAX 32u  /* sockets asked for at a time */
#define LETTERS    16u  /* asked in one turn of control's loop: 0.1-0.5 ms */

/* ---- one socket ---- */

/* The package's numbers, by enum tcp_state. */
static uint32_t state_of(const struct session_snap *snap) {
    static const uint8_t states[TCP_STATE_COUNT] = {
        [TCP_STATE_CLOSED] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_CLOSED,
        [TCP_STATE_LISTEN] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_LISTEN,
        [TCP_STATE_SYN_SENT] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_SYN_SENT,
        [TCP_STATE_SYN_RCVD] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_SYN_RECEIVED,
        [TCP_STATE_ESTABLISHED] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_ESTABLISHED,
        [TCP_STATE_FIN_WAIT_1] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_FIN_WAIT_1,
        [TCP_STATE_FIN_WAIT_2] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_FIN_WAIT_2,
        [TCP_STATE_CLOSE_WAIT] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_CLOSE_WAIT,
        [TCP_STATE_CLOSING] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_CLOSING,
        [TCP_STATE_LAST_ACK] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_LAST_ACK,
        [TCP_STATE_TIME_WAIT] = USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_TIME_WAIT,
    };
    if (snap->has_tcp)
        return states[snap->tcp.state < TCP_STATE_COUNT ? snap->tcp.state : TCP_STATE_CLOSED];
    if (snap->ended)
        return USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_CLOSED;
    return snap->flow.remote_port != 0 ? USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_ESTABLISHED
                                       : USHER__CONTROL__V1__SOCKET_STATE__SOCKET_STATE_UNCONNECTED;
}

static char *address_text(struct rpc_call *c, const struct ipaddr *a) {
    char *text = rpc_alloc(c, INET6_ADDRSTRLEN);
    if (ipaddr_is_v4(a))
        (void)inet_ntop(AF_INET, a->b + 12, text, INET6_ADDRSTRLEN);
    else
        (void)inet_ntop(AF_INET6, a->b, text, INET6_ADDRSTRLEN);
    return text;
}

static PB(TcpInfo) * tcp_message(struct rpc_call *c, const struct tcp_conn_info *t) {
    PB(TcpInfo) *m = PB_NEW(c, TcpInfo, tcp_info);
    m->rtt_us = t->rtt_us;
    m->rtt_var_us = t->rtt_var_us;
    m->rtt_min_us = t->min_rtt_us;
    m->rto_us = t->rto_us;
    m->cwnd_bytes = t->cwnd;
    m->ssthresh_bytes = t->ssthresh;
    m->send_window_bytes = t->snd_wnd;
    m->receive_window_bytes = t->rcv_wnd;
    m->mss_bytes = t->mss;
    m->pmtu_bytes = t->pmtu;
    m->unacked_bytes = t->unacked;
    m->unsent_bytes = t->unsent;
    m->retransmits = t->retransmits;
    m->lost = t->lost;
    m->reordering = t->reordering;
    m->pacing_bytes_per_second = t->pacing_rate;
    m->rx_segments = t->rx_segments;
    m->tx_segments = t->tx_segments;
    m->congestion = rpc_text(c, "%.*s", TCP_CC_NAME_MAX, t->congestion);
    m->timestamps = t->timestamps;
    m->sack = t->sack;
    m->ecn = t->ecn;
    m->send_window_scale = t->snd_wscale;
    m->receive_window_scale = t->rcv_wscale;
    m->backlog = t->backlog;
    m->pending = t->pending;
    return m;
}

/* A packet socket has no address: what stands in its place is its interface. */
static char *interface_text(struct rpc_call *c, const struct service *s, uint32_t ifindex) {
    const struct interface *i = interfaces_find(s->u->interfaces, ifindex);
    return i != NULL ? rpc_text(c, "%s", i->name) : rpc_text(c, "interface %u", ifindex);
}

static void flow_fill(struct rpc_call *c, const struct service *s, const struct session_snap *snap, PB(Socket) * m) {
    m->protocol = (PB(Protocol))snap->flow.proto;
    m->state = (PB(SocketState))state_of(snap);
    if (snap->ended)
        return; /* nobody knows any more */
    if (snap->flow.proto == PROTO_FRAME) {
        m->local_address = interface_text(c, s, snap->ifindex);
        return;
    }
    m->local_address = address_text(c, &snap->flow.local);
    m->local_port = snap->flow.local_port;
    if (snap->flow.remote_port == 0)
        return;
    m->remote_address = address_text(c, &snap->flow.remote);
    m->remote_port = snap->flow.remote_port;
}

/* How sockets are carried is the same for all without an interface of their own: said once in a message. */
struct carried {
    char *how, *why;
};

static struct carried carried_read(struct rpc_call *c, const struct service *s) {
    struct carried r = {rpc_alloc(c, 96), rpc_alloc(c, 256)};
    broker_how(s->u->broker, 0, r.how, 96, r.why, 256);
    return r;
}

static PB(Socket) * socket_message(struct rpc_call *c, const struct service *s, const struct broker_session *b,
                                   const struct session_snap *snap, const struct carried *carried) {
    PB(Socket) *m = PB_NEW(c, Socket, socket);
    m->session_id = b->id;
    m->handle = snap->handle;
    flow_fill(c, s, snap, m);
    m->owner = owner_message(c, owner_get(s->u->owners, snap->owner));
    m->label = PB_TEXT(b->label);
    m->shard = snap->shard;
    m->cookie = snap->cookie;
    m->how = carried->how;
    m->why = carried->why;
    m->rx_packets = snap->rx_packets;
    m->tx_packets = snap->tx_packets;
    m->rx_bytes = snap->rx_bytes;
    m->tx_bytes = snap->tx_bytes;
    m->rx_dropped = snap->rx_dropped;
    m->rx_queued_bytes = snap->rx_held;
    m->tx_queued_bytes = snap->tx_held;
    m->rx_limit_bytes = snap->rx_limit;
    m->tx_limit_bytes = snap->tx_limit;
    if (snap->has_tcp)
        m->tcp = tcp_message(c, &snap->tcp);
    return m;
}

/* ---- list ---- */

struct list {
    struct filter_socket filter;
    uint64_t session_id; /* where the list is; its next one when `at` is its beginning */
    struct session_cursor at;
    uint32_t left; /* of the limit */
    bool without_tcp, sent, done;
};

static enum rpc_code list_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const PB(ListSocketsRequest) *q = request;
    struct list *l = state;
    (void)arg;
    l->left = q->limit != 0 ? q->limit : UINT32_MAX;
    l->without_tcp = q->without_tcp;
    return filter_socket_read(c, q->filter, &l->filter);
}

/* The session where the list is, or the next one that fits. False: there is none. */
static bool session_find(const struct service *s, struct list *l, struct broker_session *ret_session) {
    const struct filter_session *f = &l->filter.session;
    while (broker_session_next(s->u->broker, l->session_id, ret_session)) {
        if (ret_session->id != l->session_id)
            l->at = (struct session_cursor){.shard = 0}; /* that one is gone */
        l->session_id = ret_session->id;
        if ((f->session_id == 0 || f->session_id == ret_session->id) &&
            (f->label[0] == '\0' || strcmp(f->label, ret_session->label) == 0))
            return true;
        l->session_id++;
    }
    return false;
}

/* One letter's worth into the message. */
static void letter_take(struct rpc_call *c, const struct service *s, struct list *l, const struct broker_session *b,
                        const struct carried *carried, PB(ListSocketsResponse) * r) {
    struct session_snap snaps[LETTER_MAX];
    uint32_t room = PART_MAX - (uint32_t)r->n_sockets;
    bool end;
    uint32_t n = session_snapshot(b->session, &l->at, snaps, room < LETTER_MAX ? room : LETTER_MAX, &end);
    for (uint32_t i = 0; i < n && l->left > 0; i++) {
        const struct owner *o = owner_get(s->u->owners, snaps[i].owner);
        if (!filter_socket_fits(&l->filter, &snaps[i], state_of(&snaps[i])) ||
            !filter_session_fits(&l->filter.session, b->id, b->label, o))
            continue;
        snaps[i].has_tcp = snaps[i].has_tcp && !l->without_tcp;
        r->sockets[r->n_sockets++] = socket_message(c, s, b, &snaps[i], carried);
        l->left--;
    }
    if (!end)
        return;
    l->session_id++;
    l->at = (struct session_cursor){.shard = 0};
}

static enum rpc_next list_next(struct rpc_call *c, void *arg, void *state) {
    const struct service *s = arg;
    struct list *l = state;
    struct broker_session b;
    PB(ListSocketsResponse) *r = PB_NEW(c, ListSocketsResponse, list_sockets_response);
    const struct carried carried = carried_read(c, s);
    r->time_unix_ns = service_now_unix_ns();
    r->sockets = rpc_alloc_array(c, PB(Socket) *, PART_MAX);
    for (uint32_t i = 0; i < LETTERS && r->n_sockets < PART_MAX && !l->done; i++) {
        if (l->left > 0 && session_find(s, l, &b))
            letter_take(c, s, l, &b, &carried, r);
        else
            l->done = true;
    }
    if (r->n_sockets == 0 && l->done && l->sent)
        return RPC_NEXT_END;
    if (r->n_sockets == 0 && !l->done) {
        rpc_stream_ready(c); /* nothing that fits in this part: others get their turn, then we go on */
        return RPC_NEXT_WAIT;
    }
    l->sent = true;
    rpc_answer(c, &r->base);
    return RPC_NEXT_SENT;
}

/* ---- kill ---- */

static enum rpc_code kill_socket(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(KillSocketRequest) *q = request;
    PB(KillSocketResponse) *r = PB_NEW(c, KillSocketResponse, kill_socket_response);
    struct broker_session b;
    struct session_snap snap;
    char *target = rpc_text(c, "socket %u of session %llu", q->handle, (unsigned long long)q->session_id);
    rpc_audit(c, target, "", "");
    if (!broker_session_next(s->u->broker, q->session_id, &b) || b.id != q->session_id ||
        session_snapshot_one(b.session, q->handle, &snap) != 0)
        return rpc_fail(c, RPC_NOT_FOUND, "SOCKET_UNKNOWN", "handle",
                        "there is no %s (any more); Sockets.List has those there are", target);
    const struct carried carried = carried_read(c, s);
    r->socket = socket_message(c, s, &b, &snap, &carried);
    bool stream = snap.stream;
    int error = stream ? session_stream_kill(b.session, q->handle) : broker_socket_kill(s->u->broker, b.id, q->handle);
    if (error != 0)
        return rpc_fail(c, RPC_NOT_FOUND, "SOCKET_UNKNOWN", "handle", "%s ended meanwhile", target);
    rpc_audit(c, target,
              rpc_text(c, "%s port %u to %s port %u", r->socket->local_address, r->socket->local_port,
                       r->socket->remote_address, r->socket->remote_port),
              stream ? "reset" : "the kernel's");
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- refusals ---- */

static PB(Refusal) * refusal_message(struct rpc_call *c, const struct broker_refusal *b) {
    PB(Refusal) *m = PB_NEW(c, Refusal, refusal);
    m->time_unix_ns = b->unix_ns;
    m->session_id = b->session_id;
    m->owner = PB_NEW(c, Owner, owner);
    m->owner->pid = b->pid;
    m->owner->uid = b->uid;
    m->owner->gid = b->gid;
    m->owner->comm = PB_TEXT(b->comm);
    m->reason = PB_TEXT(b->reason);
    m->count = b->count;
    if (b->flow.proto == 0)
        return m; /* not even its protocol could be read */
    m->protocol = (PB(Protocol))b->flow.proto;
    m->local_address = address_text(c, &b->flow.local);
    m->local_port = b->flow.local_port;
    m->remote_port = b->flow.remote_port;
    if (m->remote_port != 0)
        m->remote_address = address_text(c, &b->flow.remote);
    return m;
}

static enum rpc_code refusals(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    PB(ListRefusalsResponse) *r = PB_NEW(c, ListRefusalsResponse, list_refusals_response);
    struct broker_refusal *list = rpc_alloc_array(c, struct broker_refusal, BROKER_REFUSALS);
    uint32_t n = broker_refusals(s->u->broker, list, BROKER_REFUSALS);
    (void)request;
    r->refusals = rpc_alloc_array(c, PB(Refusal) *, n);
    for (uint32_t i = 0; i < n; i++)
        r->refusals[r->n_refusals++] = refusal_message(c, &list[i]);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

const struct rpc_method sockets_methods[] = {
    {.name = "List",
     PB_REQUEST(list_sockets_request),
     .role = RPC_ROLE_VIEWER,
     .open = list_open,
     .next = list_next,
     .state_size = sizeof(struct list)},
    {.name = "Kill", PB_REQUEST(kill_socket_request), .role = RPC_ROLE_OPERATOR, .change = true, .unary = kill_socket},
    {.name = "ListRefusals", PB_REQUEST(list_refusals_request), .role = RPC_ROLE_VIEWER, .unary = refusals},
};
const size_t sockets_method_count = ARRAY_LEN(sockets_methods);
