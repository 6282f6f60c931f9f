/* SPDX-License-Identifier: Apache-2.0
 *
 * Which record a segment belongs to, and which local port a new connection may have. Exact flows first (connections,
 * then half-open ones, then TIME-WAIT), then listeners: bound address before wildcard, interface-bound before not;
 * groups share by rendezvous hashing or by load, as in udp.
 */
#include <errno.h>

#include "engines/tcp/tcp_conn.h"
#include "engines/tcp/tcp_prf.h"

/* RFC 6191: with timestamps that have moved on. A peer's clock may tick once a second; ours, at both ends of a
 * connection on this host, ticks every coarse unit, and nothing of the old one is on its way. */
#define WAIT_REUSE_AGE      TCP_COARSE_S(1)
#define WAIT_REUSE_AGE_HERE 2u

static bool flow_equal(const struct flow *a, const struct flow *b) {
    uint64_t x[5], y[5];
    STATIC_ASSERT(sizeof x == sizeof *a, "a flow is five words");
    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4])) == 0;
}

uint32_t tcp_find_conn(struct tcp_engine *st, const struct flow *f, uint32_t hash) {
    uint32_t i = hash_index_first(&st->conn_ix, &st->a, hash);
    while (i != ARENA_NIL && !flow_equal(&tcp_at(st, i)->flow, f))
        i = hash_index_next(&st->conn_ix, &st->a, i);
    return i;
}

uint32_t tcp_find_half(struct tcp_engine *st, const struct flow *f, uint32_t hash) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_HALF];
    if (t->live == 0)
        return TCP_NIL;
    uint32_t i = hash_index_first(&st->half_ix, &st->a, hash);
    while (i != ARENA_NIL && !flow_equal(&((struct tcp_half *)arena_record(st, t, i))->flow, f))
        i = hash_index_next(&st->half_ix, &st->a, i);
    return i;
}

uint32_t tcp_find_wait(struct tcp_engine *st, const struct flow *f, uint32_t hash) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_WAIT];
    if (t->live == 0)
        return TCP_NIL;
    uint32_t i = hash_index_first(&st->wait_ix, &st->a, hash);
    while (i != ARENA_NIL && !flow_equal(&((struct tcp_wait *)arena_record(st, t, i))->flow, f))
        i = hash_index_next(&st->wait_ix, &st->a, i);
    return i;
}

static uint32_t listener_key(const struct tcp_engine *st, const struct ipaddr *local, uint16_t port) {
    static const struct ipaddr any;
    return hash_addr(&st->key, ipaddr_is_any(local) ? &any : local, port);
}

void tcp_listener_index(struct tcp_engine *st, uint32_t index) {
    const struct tcp_listener *l = tcp_listener_at(st, index);
    hash_index_insert(&st->listener_ix, &st->a, index, listener_key(st, &l->flow.local, l->flow.local_port));
}

static bool listener_matches(const struct tcp_listener *l, const struct flow *f, uint32_t ifindex) {
    if (l->flow.local_port != f->local_port || (l->ifindex != 0 && l->ifindex != ifindex))
        return false;
    if (!ipaddr_is_any(&l->flow.local))
        return ipaddr_equal(&l->flow.local, &f->local);
    if (ipaddr_is_v4(&l->flow.local))
        return ipaddr_is_v4(&f->local);
    return !ipaddr_is_v4(&f->local) || !(l->flags & TCP_L_V6ONLY);
}

struct choice {
    uint32_t index;
    uint32_t rank;
    uint64_t score;
};

static void consider(struct choice *best, const struct tcp_engine *st, const struct tcp_listener *l, uint32_t index,
                     uint32_t hash) {
    uint32_t rank = (l->ifindex != 0 ? 2u : 0u) + (ipaddr_is_v4(&l->flow.local) ? 1u : 0u);
    uint64_t score = index;
    if (l->flags & TCP_L_REUSEPORT)
        score = (uint64_t)(l->flags & TCP_L_SPREAD_LOAD ? l->open : hash_mix(&st->key, hash, index)) << 32 | index;
    if (best->index != TCP_NIL && (rank < best->rank || (rank == best->rank && score >= best->score)))
        return;
    *best = (struct choice){index, rank, score};
}

static uint32_t find_listener_in(struct tcp_engine *st, uint32_t key, const struct flow *f, uint32_t hash,
                                 uint32_t ifindex) {
    struct choice best = {.index = TCP_NIL};
    uint32_t i = hash_index_first(&st->listener_ix, &st->a, key);
    for (; i != ARENA_NIL; i = hash_index_next(&st->listener_ix, &st->a, i)) {
        const struct tcp_listener *l = tcp_listener_at(st, i);
        if (l != NULL && listener_matches(l, f, ifindex))
            consider(&best, st, l, i, hash);
    }
    return best.index;
}

uint32_t tcp_find_listener(struct tcp_engine *st, const struct flow *f, uint32_t hash, uint32_t ifindex) {
    static const struct ipaddr any;
    if (st->a.table[TCP_TABLE_LISTENER].live == 0)
        return TCP_NIL;
    uint32_t i = find_listener_in(st, hash_addr(&st->key, &f->local, f->local_port), f, hash, ifindex);
    if (i == TCP_NIL)
        i = find_listener_in(st, hash_addr(&st->key, &any, f->local_port), f, hash, ifindex);
    return i;
}

/* Two listeners that no SYN could tell apart, unless both agreed to share. */
static bool conflicts(const struct tcp_listener *a, const struct tcp_listener *b) {
    if (a->flow.local_port != b->flow.local_port || a->ifindex != b->ifindex || (a->flags & b->flags & TCP_L_REUSEPORT))
        return false;
    bool a_any = ipaddr_is_any(&a->flow.local), b_any = ipaddr_is_any(&b->flow.local);
    if (!a_any || !b_any)
        return a_any == b_any && ipaddr_equal(&a->flow.local, &b->flow.local);
    bool a4 = ipaddr_is_v4(&a->flow.local), b4 = ipaddr_is_v4(&b->flow.local);
    if (a4 == b4)
        return true;
    return !((a4 ? b->flags : a->flags) & TCP_L_V6ONLY);
}

bool tcp_listener_conflict(struct tcp_engine *st, const struct tcp_listener *l) {
    uint32_t i = hash_index_first(&st->listener_ix, &st->a, listener_key(st, &l->flow.local, l->flow.local_port));
    for (; i != ARENA_NIL; i = hash_index_next(&st->listener_ix, &st->a, i)) {
        const struct tcp_listener *other = tcp_listener_at(st, i);
        if (other != NULL && conflicts(l, other))
            return true;
    }
    return false;
}

bool tcp_flow_free(struct tcp_engine *st, const struct flow *f, uint32_t coarse) {
    uint32_t hash = hash_flow(&st->key, f);
    if (tcp_find_conn(st, f, hash) != TCP_NIL || tcp_find_half(st, f, hash) != TCP_NIL)
        return false;
    uint32_t w = tcp_find_wait(st, f, hash);
    if (w == TCP_NIL)
        return true;
    const struct tcp_wait *rec = (const struct tcp_wait *)arena_record(st, &st->a.table[TCP_TABLE_WAIT], w);
    uint32_t age = rec->same_host ? WAIT_REUSE_AGE_HERE : WAIT_REUSE_AGE;
    if (!rec->has_ts || !time_reached(coarse, rec->born_at + age))
        return false;
    tcp_wait_release(st, w);
    return true;
}

/* RFC 6056 section 3.3.4 (double hash): a secret start for each destination, steps that differ from it, so that ports
 * are not predictable and seldom reused early. Gives up after the whole range: at most 64 K lookups, once. */
int tcp_port_pick(struct tcp_engine *st, struct flow *f, uint32_t coarse) {
    if (st->port_low == 0 || st->port_high < st->port_low)
        return -EADDRNOTAVAIL;
    uint32_t range = (uint32_t)st->port_high - st->port_low + 1;
    struct flow to = *f;
    to.local_port = 0;
    uint32_t start = (uint32_t)tcp_prf_flow(&st->port_key, &to, 2);
    for (uint32_t i = 0; i < range; i++) {
        f->local_port = (uint16_t)(st->port_low + (start + st->port_step + i) % range);
        if (tcp_flow_free(st, f, coarse)) {
            st->port_step += i + 1;
            return 0;
        }
    }
    f->local_port = 0;
    return -EADDRNOTAVAIL;
}
