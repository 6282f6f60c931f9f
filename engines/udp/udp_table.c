/* SPDX-License-Identifier: Apache-2.0
 *
 * Which socket a datagram belongs to. Exact 4-tuple beats bound address and port beats wildcard; among equals an
 * interface-bound socket beats one that is not, and a group shares by rendezvous hashing (the choice does not depend on
 * the order of any table, and only the flows of a member that leaves move) or goes to the member with the least load.
 */
#include "engines/udp/udp.h"

uint32_t udp_key_bound(const struct udp_state *st, const struct ipaddr *local, uint16_t port) {
    static const struct ipaddr any;
    return hash_addr(&st->key, ipaddr_is_any(local) ? &any : local, port);
}

void udp_table_changed(struct udp_state *st) {
    if (++st->generation == 0) {
        memset(arena_at(st, st->cache_lines), 0, UDP_CACHE_LINES * sizeof(struct udp_cache_line));
        st->generation = 1;
    }
}

/* What every send would else find out from address and flags again: 30 instructions a packet. */
void udp_socket_derive(struct udp_socket *s) {
    const struct ipaddr *local = &s->flow.local;
    bool bound = !ipaddr_is_any(local) && !ipaddr_is_multicast(local), v4 = ipaddr_is_v4(local);
    s->sends = bound ? UDP_SENDS_BOUND : 0;
    s->sends |= !v4 ? UDP_SENDS_V6 : 0;
    s->sends |= (s->flags & UDP_SOCKET_V6ONLY) || (bound && !v4) ? 0 : UDP_SENDS_V4;
    s->tx_flags = PKT_CSUM_PARTIAL;
    s->tx_flags |= s->flags & UDP_SOCKET_DONT_FRAGMENT ? PKT_DONT_FRAGMENT : 0;
    s->tx_flags |= s->flags & UDP_SOCKET_BROADCAST ? PKT_BROADCAST : 0;
    s->tx_flags |= SINK_KIND(s->sink) == SINK_SESSION ? PKT_BOUNCE : 0; /* its owner has a kernel socket */
}

void udp_table_add(struct udp_state *st, uint32_t sock) {
    struct udp_socket *s = udp_socket_get(st, sock);
    CHECK(s != NULL);
    udp_socket_derive(s);
    if (s->flags & UDP_SOCKET_CONNECTED) {
        hash_index_insert(&st->exact, &st->a, sock, hash_flow(&st->key, &s->flow));
        st->exact_count++;
    } else {
        hash_index_insert(&st->bound, &st->a, sock, udp_key_bound(st, &s->flow.local, s->flow.local_port));
        st->bound_addr_count += !ipaddr_is_any(&s->flow.local);
    }
    udp_table_changed(st);
}

void udp_table_remove(struct udp_state *st, uint32_t sock) {
    const struct udp_socket *s = udp_socket_get(st, sock);
    CHECK(s != NULL);
    if (s->flags & UDP_SOCKET_CONNECTED) {
        hash_index_remove(&st->exact, &st->a, sock);
        st->exact_count--;
    } else {
        hash_index_remove(&st->bound, &st->a, sock);
        st->bound_addr_count -= !ipaddr_is_any(&s->flow.local);
    }
    udp_table_changed(st);
}

void udp_table_rebuild(struct udp_state *st) {
    hash_index_clear(&st->exact, &st->a);
    hash_index_clear(&st->bound, &st->a);
    hash_index_clear(&st->member, &st->a);
    st->exact_count = 0;
    st->bound_addr_count = 0;
    const struct arena_table *t = udp_sockets(st);
    for (uint32_t i = 0; i < t->high_water; i++)
        if (udp_socket_get(st, i) != NULL)
            udp_table_add(st, i);
    t = &st->a.table[UDP_TABLE_MEMBER];
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct udp_member *m = (const struct udp_member *)arena_lookup(st, t, i);
        if (m != NULL)
            hash_index_insert(&st->member, &st->a, i, hash_addr(&st->key, &m->group, 0));
    }
    udp_table_changed(st);
}

/* Whether `s`, which sits in a chain of the right key or joined the group, may have a datagram of flow `f`. */
bool udp_socket_matches(const struct udp_socket *s, const struct flow *f, uint32_t ifindex) {
    if (s->flow.local_port != f->local_port || (s->ifindex != 0 && s->ifindex != ifindex))
        return false;
    if ((s->flags & UDP_SOCKET_CONNECTED) &&
        (s->flow.remote_port != f->remote_port || !ipaddr_equal(&s->flow.remote, &f->remote)))
        return false;
    if (!ipaddr_is_any(&s->flow.local))
        return ipaddr_equal(&s->flow.local, &f->local);
    if (ipaddr_is_v4(&s->flow.local))
        return ipaddr_is_v4(&f->local);
    return !ipaddr_is_v4(&f->local) || !(s->flags & UDP_SOCKET_V6ONLY);
}

/* Among the matching sockets of one chain: bound to the interface first, then an IPv4 wildcard before a dual one, then
 * the group's rule; the least index ends a tie. */
struct choice {
    uint32_t sock;
    uint32_t rank;
    uint64_t score; /* the lower the better */
};

static void consider(struct choice *best, const struct udp_state *st, const struct udp_socket *s, uint32_t sock,
                     uint32_t flow_hash) {
    uint32_t rank = (s->ifindex != 0 ? 2u : 0u) + (ipaddr_is_v4(&s->flow.local) ? 1u : 0u);
    uint64_t score = sock;
    if (s->flags & UDP_SOCKET_REUSEPORT)
        score = (uint64_t)(s->spread ? s->load : hash_mix(&st->key, flow_hash, sock)) << 32 | sock;
    if (best->sock != ARENA_NIL && (rank < best->rank || (rank == best->rank && score >= best->score)))
        return;
    *best = (struct choice){sock, rank, score};
}

static uint32_t find_in(struct udp_state *st, const struct hash_index *ix, uint32_t key, const struct flow *f,
                        uint32_t flow_hash, uint32_t ifindex) {
    struct choice best = {.sock = ARENA_NIL};
    for (uint32_t i = hash_index_first(ix, &st->a, key); i != ARENA_NIL; i = hash_index_next(ix, &st->a, i)) {
        const struct udp_socket *s = (const struct udp_socket *)arena_record(st, udp_sockets(st), i);
        if (udp_socket_matches(s, f, ifindex))
            consider(&best, st, s, i, flow_hash);
    }
    return best.sock;
}

uint32_t udp_table_find(struct udp_state *st, const struct flow *f, uint32_t hash, uint32_t ifindex) {
    static const struct ipaddr any;
    uint32_t sock = ARENA_NIL;
    if (st->exact_count > 0)
        sock = find_in(st, &st->exact, hash, f, hash, ifindex);
    if (sock == ARENA_NIL && st->bound_addr_count > 0)
        sock = find_in(st, &st->bound, hash_addr(&st->key, &f->local, f->local_port), f, hash, ifindex);
    if (sock == ARENA_NIL)
        sock = find_in(st, &st->bound, hash_addr(&st->key, &any, f->local_port), f, hash, ifindex);
    return sock;
}

/* Two sockets that no datagram could tell apart, unless both agreed to share. */
static bool conflicts(const struct udp_socket *a, const struct udp_socket *b) {
    if (a->flow.local_port != b->flow.local_port ||
        (a->flags & UDP_SOCKET_CONNECTED) != (b->flags & UDP_SOCKET_CONNECTED))
        return false;
    if (a->flags & b->flags & UDP_SOCKET_REUSEPORT)
        return false;
    if (a->ifindex != b->ifindex)
        return false;
    if (a->flags & UDP_SOCKET_CONNECTED)
        return a->flow.remote_port == b->flow.remote_port && ipaddr_equal(&a->flow.remote, &b->flow.remote) &&
               ipaddr_equal(&a->flow.local, &b->flow.local);
    if (!ipaddr_is_any(&a->flow.local) || !ipaddr_is_any(&b->flow.local))
        return ipaddr_equal(&a->flow.local, &b->flow.local);
    bool a4 = ipaddr_is_v4(&a->flow.local), b4 = ipaddr_is_v4(&b->flow.local);
    if (a4 == b4)
        return true;
    return !((a4 ? b->flags : a->flags) & UDP_SOCKET_V6ONLY);
}

bool udp_table_conflict(struct udp_state *st, const struct udp_socket *s, uint32_t self) {
    bool connected = s->flags & UDP_SOCKET_CONNECTED;
    const struct hash_index *ix = connected ? &st->exact : &st->bound;
    uint32_t key = connected ? hash_flow(&st->key, &s->flow) : udp_key_bound(st, &s->flow.local, s->flow.local_port);
    for (uint32_t i = hash_index_first(ix, &st->a, key); i != ARENA_NIL; i = hash_index_next(ix, &st->a, i)) {
        const struct udp_socket *other = (const struct udp_socket *)arena_record(st, udp_sockets(st), i);
        if (i != self && conflicts(s, other))
            return true;
    }
    return false;
}

uint32_t udp_member_find(struct udp_state *st, const struct ipaddr *group, uint32_t sock, uint32_t ifindex) {
    const struct arena_table *t = &st->a.table[UDP_TABLE_MEMBER];
    uint32_t i = hash_index_first(&st->member, &st->a, hash_addr(&st->key, group, 0));
    for (; i != ARENA_NIL; i = hash_index_next(&st->member, &st->a, i)) {
        const struct udp_member *m = (const struct udp_member *)arena_record(st, t, i);
        if (m->sock == sock && m->ifindex == ifindex && ipaddr_equal(&m->group, group))
            return i;
    }
    return ARENA_NIL;
}

bool udp_table_has_member(struct udp_state *st, const struct ipaddr *group) {
    const struct arena_table *t = &st->a.table[UDP_TABLE_MEMBER];
    if (t->live == 0)
        return false;
    uint32_t i = hash_index_first(&st->member, &st->a, hash_addr(&st->key, group, 0));
    for (; i != ARENA_NIL; i = hash_index_next(&st->member, &st->a, i))
        if (ipaddr_equal(&((const struct udp_member *)arena_record(st, t, i))->group, group))
            return true;
    return false;
}
