/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine knows of the world: own addresses, routes, path MTUs, and the destination cache that remembers what
 * they answer. A miss costs one hash lookup per prefix length in use, longest first, and one walk over the addresses; a
 * hit costs one cache line.
 */
#include <errno.h>

#include "engines/ip/ip.h"

#define PMTU_AGE (600 * NS_PER_SEC) /* RFC 1191 section 6.3: ten minutes */

struct ipaddr ip_prefix_mask(const struct ipaddr *addr, uint8_t len) {
    struct ipaddr out = ipaddr_any();
    memcpy(out.b, addr->b, len / 8);
    if (len % 8 != 0)
        out.b[len / 8] = (uint8_t)(addr->b[len / 8] & (0xff00 >> (len % 8)));
    return out;
}

bool ip_prefix_covers(const struct ipaddr *prefix, uint8_t len, const struct ipaddr *addr) {
    struct ipaddr a = ip_prefix_mask(addr, len), b = ip_prefix_mask(prefix, len);
    return ipaddr_equal(&a, &b);
}

/* ---- derived tables ---- */

static const struct hash_index *index_of(const struct ip_state *st, enum ip_table t) {
    const struct hash_index *const ix[IP_TABLE_COUNT] = {&st->addr, &st->route, &st->neigh, &st->pmtu};
    return ix[t];
}

static uint32_t record_hash(struct ip_state *st, enum ip_table t, uint32_t index) {
    const void *r = arena_record(st, &st->a.table[t], index);
    switch (t) {
    case IP_TABLE_ADDR:
        return hash_addr(&st->key, &((const struct ip_addr *)r)->addr, 0);
    case IP_TABLE_ROUTE:
        return hash_addr(&st->key, &((const struct ip_route *)r)->prefix, ((const struct ip_route *)r)->prefix_len);
    case IP_TABLE_NEIGH:
        return hash_addr(&st->key, &((const struct ip_neigh *)r)->addr, ((const struct ip_neigh *)r)->port);
    default:
        return hash_addr(&st->key, &((const struct ip_pmtu *)r)->addr, 0);
    }
}

static void count_length(struct ip_state *st, uint8_t len, int by) {
    st->route_count[len] = (uint32_t)((int64_t)st->route_count[len] + by);
    if (st->route_count[len] != 0)
        st->route_lengths[len / 64] |= 1ull << (len % 64);
    else
        st->route_lengths[len / 64] &= ~(1ull << (len % 64));
}

static void rebuild_filter(struct ip_state *st) {
    const struct arena_table *t = ip_table_of(st, IP_TABLE_ADDR);
    st->addr_filter = 0;
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct ip_addr *a = (const struct ip_addr *)ip_get(st, IP_TABLE_ADDR, i);
        if (a != NULL)
            st->addr_filter |= ip_filter_bit(&a->addr);
    }
}

void ip_changed(struct ip_state *st) {
    st->last_local = (struct ipaddr){.d = {UINT64_MAX, UINT64_MAX}}; /* a group: it is let in anyway */
    if (++st->generation == 0) {
        memset(arena_at(st, st->dest_lines), 0, IP_DEST_LINES * sizeof(struct ip_dest));
        st->generation = 1;
    }
}

/* The record is live. */
void ip_index_add(struct ip_state *st, enum ip_table t, uint32_t index) {
    hash_index_insert(index_of(st, t), &st->a, index, record_hash(st, t, index));
    if (t == IP_TABLE_ROUTE)
        count_length(st, ((struct ip_route *)arena_record(st, ip_table_of(st, t), index))->prefix_len, 1);
    if (t == IP_TABLE_ADDR)
        st->addr_filter |= ip_filter_bit(&((struct ip_addr *)arena_record(st, ip_table_of(st, t), index))->addr);
    ip_changed(st);
}

/* The record may be dead already. */
void ip_index_remove(struct ip_state *st, enum ip_table t, uint32_t index) {
    hash_index_remove(index_of(st, t), &st->a, index);
    if (t == IP_TABLE_ROUTE)
        count_length(st, ((struct ip_route *)arena_record(st, ip_table_of(st, t), index))->prefix_len, -1);
    if (t == IP_TABLE_ADDR)
        rebuild_filter(st);
    ip_changed(st);
}

void ip_tables_rebuild(struct ip_state *st) {
    memset(st->route_lengths, 0, sizeof st->route_lengths);
    memset(st->route_count, 0, sizeof st->route_count);
    st->addr_filter = 0;
    for (uint32_t t = 0; t < IP_TABLE_COUNT; t++) {
        hash_index_clear(index_of(st, (enum ip_table)t), &st->a);
        for (uint32_t i = 0; i < st->a.table[t].high_water; i++)
            if (ip_get(st, (enum ip_table)t, i) != NULL)
                ip_index_add(st, (enum ip_table)t, i);
    }
    ip_changed(st);
}

/* ---- addresses ---- */

/* Any interface when port is PORT_SLOT_LOCAL. */
const struct ip_addr *ip_addr_find(struct ip_state *st, const struct ipaddr *addr, uint16_t port) {
    if (!ip_filter_has(st, addr))
        return NULL;
    uint32_t i = hash_index_first(&st->addr, &st->a, hash_addr(&st->key, addr, 0));
    for (; i != ARENA_NIL; i = hash_index_next(&st->addr, &st->a, i)) {
        const struct ip_addr *a = (const struct ip_addr *)arena_record(st, ip_table_of(st, IP_TABLE_ADDR), i);
        if (ipaddr_equal(&a->addr, addr) && (port == PORT_SLOT_LOCAL || a->port == port))
            return a;
    }
    return NULL;
}

bool ip_addr_is_local(struct ip_state *st, const struct ipaddr *addr) {
    const struct ip_addr *a = ip_addr_find(st, addr, PORT_SLOT_LOCAL);
    return a != NULL ? !(a->flags & IP_ADDR_BROADCAST) : ipaddr_is_loopback(addr);
}

bool ip_addr_is_broadcast(struct ip_state *st, const struct ipaddr *addr) {
    if (ipaddr_is_v4(addr) && addr->w[3] == UINT32_MAX)
        return true;
    const struct ip_addr *a = ip_addr_find(st, addr, PORT_SLOT_LOCAL);
    return a != NULL && (a->flags & IP_ADDR_BROADCAST);
}

/* ---- routes ---- */

static const struct ip_route *route_at_length(struct ip_state *st, const struct ipaddr *dst, uint8_t len) {
    struct ipaddr prefix = ip_prefix_mask(dst, len);
    const struct ip_route *best = NULL;
    uint32_t i = hash_index_first(&st->route, &st->a, hash_addr(&st->key, &prefix, len));
    for (; i != ARENA_NIL; i = hash_index_next(&st->route, &st->a, i)) {
        const struct ip_route *r = (const struct ip_route *)arena_record(st, ip_table_of(st, IP_TABLE_ROUTE), i);
        if (r->prefix_len == len && ipaddr_equal(&r->prefix, &prefix) && (best == NULL || r->metric < best->metric))
            best = r;
    }
    return best;
}

static const struct ip_route *route_find(struct ip_state *st, const struct ipaddr *dst) {
    for (int word = 2; word >= 0; word--) {
        for (uint64_t bits = st->route_lengths[word]; bits != 0;) {
            uint32_t bit = 63 - (uint32_t)__builtin_clzll(bits);
            const struct ip_route *r = route_at_length(st, dst, (uint8_t)(word * 64 + (int)bit));
            if (r != NULL)
                return r;
            bits &= ~(1ull << bit);
        }
    }
    return NULL;
}

/* The interface address whose on-link prefix covers `dst` most closely. */
static const struct ip_addr *onlink_find(struct ip_state *st, const struct ipaddr *dst) {
    const struct arena_table *t = ip_table_of(st, IP_TABLE_ADDR);
    const struct ip_addr *best = NULL;
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct ip_addr *a = (const struct ip_addr *)ip_get(st, IP_TABLE_ADDR, i);
        if (a == NULL || (a->flags & IP_ADDR_BROADCAST) || a->port >= PORT_SLOT_MAX || a->prefix_len == 128)
            continue;
        if ((best == NULL || a->prefix_len > best->prefix_len) && ip_prefix_covers(&a->addr, a->prefix_len, dst))
            best = a;
    }
    return best;
}

static uint32_t common_bits(const struct ipaddr *a, const struct ipaddr *b) {
    for (uint32_t i = 0; i < 2; i++)
        if (a->d[i] != b->d[i])
            return i * 64 + (uint32_t)__builtin_clzll(__builtin_bswap64(a->d[i] ^ b->d[i]));
    return 128;
}

/* A source for `dst` over `port`: an address of that interface before others, of the destination's scope before others,
 * then the longest common prefix (RFC 6724 rules 2, 5, 8). All zero when there is none. */
static struct ipaddr source_choose(struct ip_state *st, const struct ipaddr *dst, uint16_t port) {
    const struct arena_table *t = ip_table_of(st, IP_TABLE_ADDR);
    struct ipaddr best = ipaddr_any();
    uint32_t best_score = 0;
    bool narrow = ipaddr_is_link_local(dst) || (!ipaddr_is_v4(dst) && dst->b[0] == 0xff && (dst->b[1] & 0xf) <= 2);
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct ip_addr *a = (const struct ip_addr *)ip_get(st, IP_TABLE_ADDR, i);
        if (a == NULL || (a->flags & IP_ADDR_BROADCAST) || ipaddr_is_v4(&a->addr) != ipaddr_is_v4(dst) ||
            ipaddr_is_loopback(&a->addr))
            continue;
        uint32_t score = 1 + common_bits(&a->addr, dst);
        score += ipaddr_is_link_local(&a->addr) == narrow ? 256 : 0;
        score += a->port == port ? 512 : 0;
        if (score > best_score) {
            best_score = score;
            best = a->addr;
        }
    }
    return best;
}

/* ---- path MTU ---- */

static uint32_t pmtu_find(struct ip_state *st, const struct ipaddr *dst) {
    if (ip_table_of(st, IP_TABLE_PMTU)->live == 0)
        return ARENA_NIL;
    uint32_t i = hash_index_first(&st->pmtu, &st->a, hash_addr(&st->key, dst, 0));
    for (; i != ARENA_NIL; i = hash_index_next(&st->pmtu, &st->a, i)) {
        const struct ip_pmtu *m = (const struct ip_pmtu *)arena_record(st, ip_table_of(st, IP_TABLE_PMTU), i);
        if (ipaddr_equal(&m->addr, dst))
            return i;
    }
    return ARENA_NIL;
}

static uint32_t pmtu_timer(const struct ip_state *st, uint32_t index) {
    return st->cfg.neigh_max + index;
}

void ip_pmtu_expire(struct ip_state *st, uint32_t index) {
    struct ip_pmtu *m = (struct ip_pmtu *)ip_get(st, IP_TABLE_PMTU, index);
    if (m == NULL)
        return;
    wheel_cancel(&st->wheel, pmtu_timer(st, index));
    ip_index_remove(st, IP_TABLE_PMTU, index);
    arena_release(&st->a.table[IP_TABLE_PMTU], m, index);
}

/* When the table is full the newcomer wins over a pseudo-random old one: an attacker who fills it with paths that quote
 * real flows of ours slows those, never the table. */
static uint32_t pmtu_make_room(struct ip_state *st, struct engine_io *io) {
    uint32_t victim = (uint32_t)(engine_random(io) % st->cfg.pmtu_max);
    ip_pmtu_expire(st, victim);
    return victim;
}

void ip_pmtu_learn(struct ip_state *st, struct engine_io *io, const struct ipaddr *dst, uint32_t mtu) {
    struct arena_table *t = &st->a.table[IP_TABLE_PMTU];
    uint32_t floor = ipaddr_is_v4(dst) ? IP4_PMTU_MIN : IP6_MTU_MIN;
    mtu = mtu < floor ? floor : mtu;
    uint32_t i = pmtu_find(st, dst);
    if (i != ARENA_NIL) {
        struct ip_pmtu *old = (struct ip_pmtu *)arena_record(st, t, i);
        if (old->mtu < mtu)
            return; /* RFC 8201 section 4: a report never raises the estimate */
        arena_change(&st->a, IP_TABLE_PMTU, i, old, sizeof *old);
        old->mtu = mtu;
        old->until = io->now + PMTU_AGE;
        arena_commit(&st->a);
    } else {
        if (t->live == t->capacity)
            (void)pmtu_make_room(st, io);
        struct ip_pmtu *m = (struct ip_pmtu *)arena_take(st, t, &i);
        if (m == NULL)
            return;
        m->addr = *dst;
        m->mtu = mtu;
        m->until = io->now + PMTU_AGE;
        arena_publish(t, m);
        ip_index_add(st, IP_TABLE_PMTU, i);
    }
    wheel_arm(&st->wheel, pmtu_timer(st, i), io->now + PMTU_AGE);
    ip_changed(st);
    ENGINE_COUNT(io, IP_COUNT_PMTU);
}

static uint16_t path_mtu(struct ip_state *st, const struct engine_io *io, const struct ipaddr *dst, uint16_t port,
                         uint16_t route_mtu) {
    uint32_t mtu = io->ports[port].mtu;
    if (route_mtu != 0 && route_mtu < mtu)
        mtu = route_mtu;
    uint32_t i = pmtu_find(st, dst);
    if (i != ARENA_NIL) {
        const struct ip_pmtu *m = (const struct ip_pmtu *)arena_record(st, ip_table_of(st, IP_TABLE_PMTU), i);
        mtu = m->mtu < mtu ? m->mtu : mtu;
    }
    return (uint16_t)mtu;
}

/* ---- destinations ---- */

/* Where a packet for `dst` leaves: what routes and on-link prefixes say, before any neighbour is asked. */
struct hop {
    struct ipaddr next, source;
    uint16_t port, mtu;
    int error;
};

static uint16_t first_port(struct ip_state *st, const struct engine_io *io, bool v4) {
    const struct arena_table *t = ip_table_of(st, IP_TABLE_ADDR);
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct ip_addr *a = (const struct ip_addr *)ip_get(st, IP_TABLE_ADDR, i);
        if (a != NULL && a->port < PORT_SLOT_MAX && ipaddr_is_v4(&a->addr) == v4 && io->ports[a->port].up)
            return a->port;
    }
    return PORT_SLOT_KERNEL;
}

static struct hop hop_find(struct ip_state *st, const struct engine_io *io, const struct ipaddr *dst) {
    struct hop h = {.next = *dst, .port = PORT_SLOT_KERNEL, .error = ENETUNREACH};
    const struct ip_route *r = route_find(st, dst);
    const struct ip_addr *a = onlink_find(st, dst);
    if (a != NULL && (r == NULL || r->prefix_len < a->prefix_len)) {
        h.port = a->port;
        h.error = 0;
    } else if (r != NULL) {
        h.port = r->port;
        h.mtu = r->mtu;
        h.source = r->source;
        h.error = r->unreachable ? EHOSTUNREACH : 0;
        if (!ipaddr_is_any(&r->gateway))
            h.next = r->gateway;
    } else if (ipaddr_is_multicast(dst) || ip_addr_is_broadcast(st, dst)) {
        h.port = first_port(st, io, ipaddr_is_v4(dst));
        h.error = h.port == PORT_SLOT_KERNEL ? ENETUNREACH : 0;
    }
    if (h.error == 0 && ipaddr_is_any(&h.source))
        h.source = source_choose(st, dst, h.port);
    return h;
}

static struct ipaddr local_source(const struct ipaddr *dst) {
    static const uint8_t loopback4[4] = {127, 0, 0, 1};
    if (ipaddr_is_v4(dst) && ipaddr_is_loopback(dst))
        return ipaddr_from_v4(loopback4);
    return *dst;
}

/* RFC 1112 section 6.4, RFC 2464 section 7. */
static void group_mac(const struct ipaddr *group, uint8_t *ret_mac) {
    if (ipaddr_is_v4(group)) {
        const uint8_t mac[6] = {0x01, 0x00, 0x5e, group->b[13] & 0x7f, group->b[14], group->b[15]};
        memcpy(ret_mac, mac, 6);
    } else {
        const uint8_t mac[6] = {0x33, 0x33, group->b[12], group->b[13], group->b[14], group->b[15]};
        memcpy(ret_mac, mac, 6);
    }
}

static void dest_link(struct ip_state *st, struct engine_io *io, const struct hop *h, struct ip_dest *d) {
    const struct ipaddr *dst = &d->dst;
    d->kind = IP_DEST_WIRE;
    if (ip_addr_is_broadcast(st, dst)) {
        d->kind = IP_DEST_BROADCAST;
        memset(d->mac, 0xff, sizeof d->mac);
    } else if (ipaddr_is_multicast(dst)) {
        group_mac(dst, d->mac);
    } else if (!(io->ports[d->port].caps & PORT_CAP_L3)) {
        uint32_t i = ip_neigh_need(st, io, &h->next, d->port);
        struct ip_neigh *n = i == ARENA_NIL ? NULL : (struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, i);
        if (n == NULL || n->state == NEIGH_FAILED) {
            d->kind = IP_DEST_ERROR;
            d->error = n == NULL ? ENOBUFS : EHOSTUNREACH;
            return;
        }
        n->used = 1;
        d->neigh = i;
        memcpy(d->mac, n->mac, sizeof d->mac);
        if (n->state == NEIGH_INCOMPLETE)
            d->kind = IP_DEST_WAIT;
    }
}

const struct ip_dest *ip_dest_peek(struct ip_state *st, const struct ipaddr *dst) {
    const struct ip_dest *set = ip_dest_set(st, dst);
    if (ip_dest_is(st, set, dst))
        return set;
    return ip_dest_is(st, set + 1, dst) ? set + 1 : NULL;
}

const struct ip_dest *ip_dest_talked(struct ip_state *st, const struct ipaddr *dst) {
    const struct ip_dest *set = ip_dest_set(st, dst);
    for (uint32_t way = 0; way < 2; way++)
        if (set[way].kind == IP_DEST_WIRE && ipaddr_equal(&set[way].dst, dst))
            return set + way;
    return NULL;
}

struct ip_dest *ip_dest_resolve(struct ip_state *st, struct engine_io *io, const struct ipaddr *dst,
                                struct ip_dest *set) {
    struct ip_dest d = {.dst = *dst, .kind = IP_DEST_ERROR, .error = ENETUNREACH, .port = PORT_SLOT_LOCAL};
    ENGINE_COUNT(io, IP_COUNT_DEST_MISS);
    if (ip_addr_is_local(st, dst)) {
        d.kind = IP_DEST_LOCAL;
        d.src = local_source(dst);
    } else {
        struct hop h = hop_find(st, io, dst);
        d.src = h.source;
        d.port = h.port;
        if (h.error != 0) {
            d.error = (uint8_t)h.error;
        } else if (h.port == PORT_SLOT_LOCAL) {
            d.kind = IP_DEST_LOCAL;
            d.src = local_source(dst);
        } else if (h.port < PORT_SLOT_MAX) {
            d.mtu = path_mtu(st, io, dst, h.port, h.mtu);
            dest_link(st, io, &h, &d);
        } else {
            d.kind = IP_DEST_KERNEL;
        }
    }
    d.generation = st->generation; /* after everything that may have raised it */
    /* The way that is of no use any more, else the one whose turn it is. */
    struct ip_dest *to = set[0].generation != st->generation ? set : set + 1;
    if (set[0].generation == st->generation && set[1].generation == st->generation)
        to = set + (st->dest_turn++ & 1);
    *to = d;
    return to;
}

void ip_route_explain(struct ip_state *st, struct engine_io *io, const struct ipaddr *dst,
                      struct ip_route_result *ret_result) {
    *ret_result = (struct ip_route_result){.port = PORT_SLOT_LOCAL, .next_hop = *dst, .mtu = UINT16_MAX};
    if (ip_addr_is_local(st, dst)) {
        ret_result->source = local_source(dst);
        return;
    }
    struct hop h = hop_find(st, io, dst);
    ret_result->port = h.port;
    ret_result->source = h.source;
    ret_result->next_hop = h.next;
    ret_result->error = -h.error;
    ret_result->mtu = h.mtu;
    if (h.port < PORT_SLOT_MAX)
        ret_result->mtu = path_mtu(st, io, dst, h.port, h.mtu);
}
