/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Sessions. Control thread.
 */
#include <string.h>

#include "control/services/filter.h"
#include "control/services/service_internal.h"
#include "control/services/sessions.h"
#include "usher/control/v1/sessions.pb-c.h"

#define PART_MAX 256u /* sessions in a message */

PB(Owner) * owner_message(struct rpc_call *c, const struct owner *o) {
    PB(Owner) *m = PB_NEW(c, Owner, owner);
    if (o == NULL)
        return m;
    m->pid = o->pid;
    m->uid = o->uid;
    m->gid = o->gid;
    m->comm = PB_TEXT(o->comm);
    m->exe = PB_TEXT(o->exe);
    m->cgroup = PB_TEXT(o->cgroup);
    return m;
}

static PB(Session) * session_message(struct rpc_call *c, const struct service *s, const struct broker_session *b) {
    PB(Session) *m = PB_NEW(c, Session, session);
    struct session_facts facts;
    session_facts_read(b->session, &facts);
    m->session_id = b->id;
    m->owner = owner_message(c, owner_get(s->u->owners, b->owner));
    m->label = rpc_text(c, "%s", b->label); /* the session may be gone when the message is packed */
    m->attached_unix_ns = b->attached_unix_ns;
    m->sockets = b->sockets;
    m->socket_max = b->socket_max;
    m->abi = facts.abi;
    m->tx_bytes = facts.tx_bytes;
    m->rx_bytes = facts.rx_bytes;
    m->shards = rpc_alloc_array(c, uint32_t, 32);
    for (uint32_t i = 0; i < 32; i++) {
        if (facts.shards >> i & 1)
            m->shards[m->n_shards++] = i;
    }
    return m;
}

/* ---- list ---- */

struct list {
    struct filter_session filter;
    uint64_t next_id;
    bool sent;
};

static enum rpc_code list_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const PB(ListSessionsRequest) *q = request;
    struct list *l = state;
    (void)arg;
    return filter_session_read(c, q->filter, &l->filter);
}

static enum rpc_next list_next(struct rpc_call *c, void *arg, void *state) {
    const struct service *s = arg;
    struct list *l = state;
    struct broker_session b;
    PB(ListSessionsResponse) *r = PB_NEW(c, ListSessionsResponse, list_sessions_response);
    r->time_unix_ns = service_now_unix_ns();
    r->sessions = rpc_alloc_array(c, PB(Session) *, PART_MAX);
    while (r->n_sessions < PART_MAX && broker_session_next(s->u->broker, l->next_id, &b)) {
        l->next_id = b.id + 1;
        if (filter_session_fits(&l->filter, b.id, b.label, owner_get(s->u->owners, b.owner)))
            r->sessions[r->n_sessions++] = session_message(c, s, &b);
    }
    /* An empty list is one empty message: a reader that waits for the first one learns the time. */
    if (r->n_sessions == 0 && l->sent)
        return RPC_NEXT_END;
    l->sent = true;
    rpc_answer(c, &r->base);
    return RPC_NEXT_SENT;
}

/* ---- kill ---- */

static enum rpc_code kill_session(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(KillSessionRequest) *q = request;
    PB(KillSessionResponse) *r = PB_NEW(c, KillSessionResponse, kill_session_response);
    struct broker_session b;
    char *target = rpc_text(c, "session %llu", (unsigned long long)q->session_id);
    rpc_audit(c, target, "", "");
    if (!broker_session_next(s->u->broker, q->session_id, &b) || b.id != q->session_id)
        return rpc_fail(c, RPC_NOT_FOUND, "SESSION_UNKNOWN", "session_id",
                        "there is no session %llu (any more); Sessions.List has those there are",
                        (unsigned long long)q->session_id);
    r->session = session_message(c, s, &b);
    rpc_audit(c, target,
              rpc_text(c, "pid %u uid %u %s, %u sockets", r->session->owner->pid, r->session->owner->uid,
                       r->session->owner->comm, b.sockets),
              "ended");
    rpc_answer(c, &r->base);
    (void)broker_session_kill(s->u->broker, b.id);
    return RPC_OK;
}

const struct rpc_method sessions_methods[] = {
    {.name = "List",
     PB_REQUEST(list_sessions_request),
     .role = RPC_ROLE_VIEWER,
     .open = list_open,
     .next = list_next,
     .state_size = sizeof(struct list)},
    {.name = "Kill",
     PB_REQUEST(kill_session_request),
     .role = RPC_ROLE_OPERATOR,
     .change = true,
     .unary = kill_session},
};
const size_t sessions_method_count = ARRAY_LEN(sessions_methods);
