/* SPDX-License-Identifier: Apache-2.0
 *
 * What the broker tells an operator: sessions, and the sockets that stayed with the kernel. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "control/broker/broker_internal.h"

uint64_t broker_now_unix_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The list is not sorted, and a few thousand long at most. */
bool broker_session_next(const struct broker *b, uint64_t id, struct broker_session *ret_session) {
    const struct connection *least = NULL;
    for (const struct connection *c = b->connections; c != NULL; c = c->next) {
        if (c->session != NULL && c->session_id >= id && (least == NULL || c->session_id < least->session_id))
            least = c;
    }
    if (least == NULL)
        return false;
    *ret_session = (struct broker_session){.id = least->session_id,
                                           .session = least->session,
                                           .owner = least->owner,
                                           .label = least->label,
                                           .attached_unix_ns = least->attached_unix_ns,
                                           .sockets = least->socket_count,
                                           .socket_max = least->socket_max};
    return true;
}

void broker_limits_set(struct broker *b, const struct broker_limits *limits) {
    uint32_t sessions = b->params.limits.sessions;
    b->params.limits = *limits;
    b->params.limits.sessions = sessions;
}

int broker_session_kill(struct broker *b, uint64_t id) {
    for (struct connection *c = b->connections; c != NULL; c = c->next) {
        if (c->session == NULL || c->session_id != id)
            continue;
        connection_end(c, DETACH_KILLED);
        return 0;
    }
    return -ENOENT;
}

void broker_how(const struct broker *b, uint32_t ifindex, char *ret_how, size_t how_size, char *ret_why,
                size_t why_size) {
    b->params.how(b->params.judge_arg, ifindex, ret_how, how_size, ret_why, why_size);
}

static bool same_refusal(const struct broker_refusal *a, const struct broker_refusal *b) {
    return a->session_id == b->session_id && memcmp(&a->flow, &b->flow, sizeof a->flow) == 0 &&
           strcmp(a->reason, b->reason) == 0;
}

void broker_refusal_note(struct connection *c, const struct kernel_socket *s, const char *reason) {
    struct broker *b = c->broker;
    const struct owner *o = owner_get(b->params.owners, c->owner);
    struct broker_refusal r = {
        .unix_ns = broker_now_unix_ns(), .session_id = c->session_id, .flow = s->flow, .count = 1};
    (void)snprintf(r.reason, sizeof r.reason, "%s", reason);
    if (o != NULL) {
        r.pid = o->pid;
        r.uid = o->uid;
        r.gid = o->gid;
        memcpy(r.comm, o->comm, sizeof r.comm);
    }
    struct broker_refusal *last = &b->refusals[(b->refusal_count - 1) % BROKER_REFUSALS];
    if (b->refusal_count > 0 && same_refusal(last, &r)) {
        last->count++;
        last->unix_ns = r.unix_ns;
        return;
    }
    b->refusals[b->refusal_count++ % BROKER_REFUSALS] = r;
}

uint32_t broker_refusals(const struct broker *b, struct broker_refusal *ret_refusals, uint32_t max) {
    uint64_t kept = b->refusal_count < BROKER_REFUSALS ? b->refusal_count : BROKER_REFUSALS;
    uint32_t n = 0;
    for (uint64_t i = b->refusal_count - kept; i < b->refusal_count && n < max; i++)
        ret_refusals[n++] = b->refusals[i % BROKER_REFUSALS];
    return n;
}
