/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections whose owners have yet to come back: the process that carried them died, or handed over to this one. A
 * frozen connection is a live record that lies in the index under another hash and not on the wheel: no segment finds
 * it and no timer fires. To its peer it is a path that loses everything for a while. Runs on the shard's worker.
 */
#include <errno.h>

#include "engines/tcp/tcp_cmds.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_syn.h"
#include "engines/tcp/tcp_timer.h"

#define FROZEN_SALT 0x5a5aa5a5u
#define RESETS_MAX  64u /* in one call: each is a packet */

bool tcp_is_frozen(const struct tcp_engine *st, const struct tcp_conn *c) {
    return c->link.hash == (hash_flow(&st->key, &c->flow) ^ FROZEN_SALT);
}

static void freeze(struct tcp_engine *st, uint32_t index) {
    struct tcp_conn *c = tcp_at(st, index);
    if (tcp_is_frozen(st, c))
        return;
    hash_index_remove(&st->conn_ix, &st->a, index);
    wheel_cancel(tcp_wheel(st), index);
    c->flags &= ~(uint32_t)TCP_F_ARMED;
    tcp_cold_at(st, index)->listener = TCP_NIL;
    hash_index_insert(&st->conn_ix, &st->a, index, hash_flow(&st->key, &c->flow) ^ FROZEN_SALT);
}

void tcp_thaw(struct tcp_ctx *x, uint32_t index) {
    struct tcp_engine *st = x->st;
    struct tcp_conn *c = tcp_at(st, index);
    hash_index_remove(&st->conn_ix, &st->a, index);
    hash_index_insert(&st->conn_ix, &st->a, index, hash_flow(&st->key, &c->flow));
    c->heard_at = x->coarse; /* the silence was ours */
    c->wake_at = x->tick;
    c->flags |= TCP_F_ARMED;
    wheel_arm(tcp_wheel(st), index, x->io->now);
}

static bool is_of(const struct tcp_conn *c, const struct tcp_listener *l) {
    return (c->flags & TCP_F_ADOPTED) && SINK_KIND(c->sink) == SINK_KIND(l->sink) &&
           SINK_INDEX(c->sink) == SINK_INDEX(l->sink) && c->flow.local_port == l->flow.local_port &&
           (ipaddr_is_any(&l->flow.local) || ipaddr_equal(&l->flow.local, &c->flow.local));
}

void tcp_frozen_offer(struct tcp_ctx *x, uint32_t listener) {
    struct tcp_engine *st = x->st;
    const struct arena_table *t = &st->a.table[TCP_TABLE_CONN];
    const struct tcp_listener *l = tcp_listener_at(st, listener);
    uint32_t half;
    for (uint32_t i = 0; i < t->high_water && st->quiet && l != NULL; i++) {
        const struct tcp_conn *c = (const struct tcp_conn *)arena_lookup(st, t, i);
        if (c == NULL || !tcp_is_frozen(st, c) || !is_of(c, l) || !tcp_half_again(st, c, tcp_cold_at(st, i), &half))
            continue;
        tcp_conn_destroy(x, i);
        tcp_half_link(st, half, x->io->now);
    }
}

static void freeze_all(struct tcp_engine *st) {
    const struct arena_table *conns = &st->a.table[TCP_TABLE_CONN], *halves = &st->a.table[TCP_TABLE_HALF];
    struct arena_table *listeners = &st->a.table[TCP_TABLE_LISTENER];
    for (uint32_t i = 0; i < halves->high_water; i++) {
        struct tcp_half *h = (struct tcp_half *)arena_lookup(st, halves, i);
        if (h != NULL)
            h->listener = TCP_NIL;
    }
    for (uint32_t i = 0; i < conns->high_water; i++) {
        if (arena_lookup(st, conns, i) != NULL)
            freeze(st, i);
    }
    hash_index_clear(&st->listener_ix, &st->a);
    for (uint32_t i = 0; i < listeners->high_water; i++) {
        void *l = arena_lookup(st, listeners, i);
        if (l != NULL)
            arena_release(listeners, l, i);
    }
    st->quiet = true;
}

/* Nobody wants them any more; nobody is told, either. */
static uint32_t reset_some(struct tcp_ctx *x) {
    struct tcp_engine *st = x->st;
    const struct arena_table *t = &st->a.table[TCP_TABLE_CONN];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->high_water && n < RESETS_MAX; i++) {
        const struct tcp_conn *live = (const struct tcp_conn *)arena_lookup(st, t, i);
        if (live == NULL || !tcp_is_frozen(st, live))
            continue;
        tcp_thaw(x, i);
        struct tcp_conn *c = tcp_begin(x, i);
        c->sink = SINK(SINK_NONE, 0, 1);
        (void)tcp_fsm(x, c, TCP_EV_ABORT);
        tcp_end(x);
        n++;
    }
    return n;
}

int tcp_cmd_freeze_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_freeze *a = (const struct tcp_cmd_freeze *)cmd;
    if (a->on) {
        freeze_all(x->st);
        return 0;
    }
    x->st->quiet = false;
    r->value = reset_some(x);
    return 0;
}

int tcp_cmd_resume_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_resume *a = (const struct tcp_cmd_resume *)cmd;
    struct tcp_engine *st = x->st;
    struct flow flow = a->flow;
    (void)r;
    flow.proto = PROTO_TCP;
    memset(flow.pad, 0, sizeof flow.pad);
    uint32_t hash = hash_flow(&st->key, &flow), index = tcp_find_conn(st, &flow, hash ^ FROZEN_SALT);
    if (index == TCP_NIL || tcp_at(st, index)->sink != a->old_sink || a->sink == 0)
        return -ENOENT;
    if (tcp_find_conn(st, &flow, hash) != TCP_NIL)
        return -EADDRINUSE;
    tcp_thaw(x, index);
    struct tcp_conn *c = tcp_begin(x, index);
    c->sink = a->sink;
    c->flags |= TCP_F_ADOPTED; /* who was about to give it away has it again */
    tcp_cold_at(st, index)->owner = a->owner;
    int error = tcp_sync(x, c, a->rx_bytes, a->held, a->result);
    if (error == 0) {
        tcp_timer_resumed(x, c);
        tcp_flush_conn(x, c);
    } else {
        (void)tcp_fsm(x, c, TCP_EV_ABORT);
    }
    tcp_end(x);
    return error;
}
