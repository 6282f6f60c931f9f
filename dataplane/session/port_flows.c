/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections that outlive the listener of their port. Control asks which there are when a listener is gone, and from
 * time to time which of them still live; meanwhile their port stays steered to their shard.
 *
 * Control, except what runs in the letters. A letter describes at most LETTER_FLOWS connections (100-200 ns each).
 */
#include <errno.h>

#include "dataplane/core/runtime_internal.h"
#include "dataplane/session/session_internal.h"

#define LETTER_FLOWS 32u

/* ---- on the worker ---- */

struct find_letter {
    const uint64_t *ports;
    struct session_port_cursor *at;
    struct session_port_flow *flows;
    uint32_t max, count;
    bool shard_end;
};

static bool port_in(const uint64_t *ports, uint16_t port) {
    return ports[port / 64] >> (port % 64) & 1;
}

static void find_run(struct shard *sh, void *arg) {
    struct find_letter *l = arg;
    struct tcp_conn_info info;
    struct tcp_cmd_info cmd = {.cmd = {TCP_CMD_INFO, sizeof cmd}, .sock = l->at->sock, .each = true, .info = &info};
    for (uint32_t n = 0; n < LETTER_FLOWS && l->count < l->max; n++) {
        struct engine_reply reply;
        l->shard_end = session_transport(sh, PROTO_TCP, &cmd.cmd, &reply) < 0 || (reply.value & TCP_SOCK_LISTENER) != 0;
        if (l->shard_end)
            return;
        cmd.sock = l->at->sock = reply.value + 1;
        if (port_in(l->ports, info.flow.local_port))
            l->flows[l->count++] = (struct session_port_flow){info.flow, reply.value, sh->index, true};
    }
}

/* Another connection may have the transport's index by now. */
static bool ends_equal(const struct flow *a, const struct flow *b) {
    return a->local_port == b->local_port && a->remote_port == b->remote_port && ipaddr_equal(&a->local, &b->local) &&
           ipaddr_equal(&a->remote, &b->remote);
}

struct look_letter {
    struct session_port_flow *flows;
    uint32_t count;
};

static void look_run(struct shard *sh, void *arg) {
    struct look_letter *l = arg;
    for (uint32_t i = 0; i < l->count; i++) {
        struct session_port_flow *f = &l->flows[i];
        struct tcp_conn_info info;
        struct tcp_cmd_info cmd = {.cmd = {TCP_CMD_INFO, sizeof cmd}, .sock = f->sock, .info = &info};
        struct engine_reply reply;
        if (f->shard == sh->index)
            f->lives = session_transport(sh, PROTO_TCP, &cmd.cmd, &reply) == 0 && ends_equal(&info.flow, &f->flow);
    }
}

/* ---- control ---- */

uint32_t session_port_flows(struct runtime *rt, const uint64_t *ports, struct session_port_cursor *at,
                            struct session_port_flow *ret_flows, uint32_t max, bool *ret_end) {
    struct find_letter l = {.ports = ports, .at = at, .flows = ret_flows, .max = max};
    *ret_end = at->shard >= rt->shard_count;
    if (*ret_end)
        return 0;
    if (runtime_call(rt, at->shard, find_run, &l) < 0 || l.shard_end)
        *at = (struct session_port_cursor){.shard = at->shard + 1};
    return l.count;
}

void session_port_flows_look(struct runtime *rt, struct session_port_flow *flows, uint32_t count) {
    for (uint32_t i = 0; i < count; i += LETTER_FLOWS) {
        struct look_letter l = {.flows = &flows[i], .count = count - i < LETTER_FLOWS ? count - i : LETTER_FLOWS};
        for (uint32_t shard = 0; shard < rt->shard_count; shard++)
            (void)runtime_call(rt, shard, look_run, &l);
    }
}

void session_port_flow_steer(struct runtime *rt, const struct session_port_flow *f, bool hold) {
    if (hold)
        steer_add(rt->steer, &f->flow, f->shard);
    else
        steer_del(rt->steer, &f->flow, f->shard);
}
