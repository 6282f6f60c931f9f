/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams on their way up, in three passes over a burst so that the cache misses of different packets overlap:
 * parse (header, length, checksum, flow), look up (one line of the flow cache, or the tables), deliver. Runs on the
 * shard's worker. Does not queue: back-pressure is the session's.
 *
 * Lines touched per packet, warm flow: the packet's 0 and 1, one of its header, one of the flow cache, one of the
 * socket record. No copies; a copy per further receiver of a group or broadcast. 28 cycles, 39 with the sum over 64
 * bytes; 35 with 10,000 sockets and 500 flows.
 */
#include "engines/udp/udp.h"

#define PREFETCH_AHEAD 4u

/* data is at the UDP header; leaves it at the payload. RFC 768; RFC 8200 section 8.1 for the zero checksum. */
STRAIGHT enum drop_reason parse(struct pkt *p) {
    const uint8_t *h = p->data;
    if (UNLIKELY(p->len < UDP_LEN))
        return DROP_UDP_TRUNCATED;
    uint32_t total = pkt_bytes(p), len = be16_load(h + 4);
    if (UNLIKELY(len != total)) {
        if (len < UDP_LEN || len > total || p->frag_len != 0)
            return DROP_UDP_TRUNCATED;
        p->len = len;
    }
    if (!(p->flags & (PKT_LOCAL | PKT_CSUM_PARTIAL))) {
        bool none = (h[6] | h[7]) == 0;
        if (UNLIKELY(none && p->ip_version == 6))
            return DROP_UDP_CHECKSUM;
        if (!none && !(p->flags & PKT_CSUM_OK) && csum_fold(csum_pkt(csum_pseudo(&p->flow, len), p, h)) != 0xffff)
            return DROP_UDP_CHECKSUM;
    }
    p->flow.remote_port = be16_load(h);
    p->flow.local_port = be16_load(h + 2);
    pkt_pull(p, UDP_LEN);
    return DROP_NONE;
}

/* A send request of this host's that only the kernel can carry goes back to its sender, data at the payload. */
static void bounce(struct engine_io *io, struct pkt *p) {
    p->flags |= PKT_BOUNCED;
    ENGINE_COUNT(io, UDP_COUNT_BOUNCED);
    (void)pkt_vec_push(io->up, p);
}

/* The link engine had no way for it. */
static void input_bounced(struct udp_state *st, struct engine_io *io, struct pkt *p) {
    const struct udp_socket *s = udp_socket_get(st, p->sock);
    if (p->len < UDP_LEN || s == NULL || s->sink != p->sink) {
        pkt_drop(io, p, DROP_UDP_NO_SOCKET); /* closed in between */
        return;
    }
    pkt_pull(p, UDP_LEN);
    bounce(io, p);
}

/* Nobody wants it: ip answers with an ICMP error where it is ours to answer, else counts the drop. */
static SELDOM void refuse(struct engine_io *io, struct pkt *p) {
    if ((p->flags & (PKT_LOCAL | PKT_BOUNCE)) == (PKT_LOCAL | PKT_BOUNCE)) {
        udp_flow_turn(&p->flow); /* a socket of the kernel's may listen there */
        bounce(io, p);
        return;
    }
    if ((p->flags & PKT_BROADCAST) || p->l3_off == 0) {
        pkt_drop(io, p, DROP_UDP_NO_SOCKET);
        return;
    }
    uint32_t back = (uint32_t)(p->data - pkt_l3(p));
    p->data -= back;
    p->len += back;
    p->flags |= PKT_ICMP_ERROR;
    p->user = PKT_REFUSE_PORT;
    p->drop = DROP_UDP_NO_SOCKET;
    (void)pkt_vec_push(io->down, p);
}

STRAIGHT void deliver(struct udp_state *st, struct engine_io *io, struct pkt *p, uint32_t sock) {
    struct udp_socket *s = (struct udp_socket *)arena_record(st, udp_sockets(st), sock);
    s->rx_packets++;
    s->rx_bytes += pkt_bytes(p);
    p->sock = sock;
    p->sink = s->sink;
    p->owner = s->owner;
    (void)pkt_vec_push(io->up, p);
}

void udp_deliver(struct udp_state *st, struct engine_io *io, struct pkt *p, uint32_t sock) {
    deliver(st, io, p, sock);
}

/* A copy from the IP header on, frags made one with the head. NULL when no buffer is free or large enough. */
static struct pkt *clone(struct engine_io *io, const struct pkt *p) {
    uint32_t head = (uint32_t)(p->data - pkt_l3(p)) + p->len, bytes = head + p->frag_len;
    struct pkt_pool *pool = bytes + PKT_HEADROOM <= io->pool->buf_size ? io->pool : io->pool_large;
    if (pool == NULL || bytes + PKT_HEADROOM > pool->buf_size)
        return NULL;
    struct pkt *c = pkt_alloc(pool);
    if (c == NULL)
        return NULL;
    uint8_t *to = c->data;
    memcpy(to, pkt_l3(p), head);
    to += head;
    for (uint32_t i = 0; i < p->frag_count; i++) {
        memcpy(to, p->frag[i].base, p->frag[i].len);
        to += p->frag[i].len;
    }
    c->l3_off = PKT_HEADROOM;
    c->l4_off = (uint16_t)(PKT_HEADROOM + (p->l4_off - p->l3_off));
    c->data += p->data - pkt_l3(p);
    c->len = p->len + p->frag_len;
    c->flags = p->flags;
    c->gso_size = p->gso_size;
    c->gso_type = p->gso_type;
    c->ip_version = p->ip_version;
    c->tos = p->tos;
    c->ttl = p->ttl;
    c->port = p->port;
    c->known = p->known;
    c->flow = p->flow;
    c->rx_ns = p->rx_ns;
    if (UNLIKELY(p->flags & PKT_VLAN))
        c->vlan = p->vlan;
    return c;
}

/* Several receivers: `last` is the one before, who now gets a copy, because another follows. `reserve`: room in `up`
 * that belongs to packets of this burst that are still to come. */
struct fanout {
    uint32_t last;
    uint32_t reserve;
};

static void fanout_add(struct udp_state *st, struct engine_io *io, struct fanout *f, const struct pkt *p,
                       uint32_t sock) {
    if (f->last != ARENA_NIL && pkt_vec_room(io->up) > f->reserve) {
        struct pkt *c = clone(io, p);
        if (c != NULL) {
            ENGINE_COUNT(io, UDP_COUNT_CLONES);
            udp_deliver(st, io, c, f->last);
        } else {
            ENGINE_COUNT(io, UDP_COUNT_CLONE_FAILED);
        }
    }
    f->last = sock;
}

static void fanout_members(struct udp_state *st, struct engine_io *io, struct fanout *out, const struct pkt *p,
                           uint32_t ifindex) {
    const struct arena_table *t = &st->a.table[UDP_TABLE_MEMBER];
    const struct ipaddr *group = &p->flow.local;
    uint32_t i = hash_index_first(&st->member, &st->a, hash_addr(&st->key, group, 0));
    for (; i != ARENA_NIL; i = hash_index_next(&st->member, &st->a, i)) {
        const struct udp_member *m = (const struct udp_member *)arena_record(st, t, i);
        if (!ipaddr_equal(&m->group, group) || (m->ifindex != 0 && ifindex != 0 && m->ifindex != ifindex))
            continue;
        if (m->ifindex != 0 && udp_member_find(st, group, m->sock, 0) != ARENA_NIL)
            continue; /* it has an any-interface membership as well: one copy is enough */
        const struct udp_socket *s = udp_socket_get(st, m->sock);
        if (s != NULL && udp_socket_matches(s, &p->flow, ifindex))
            fanout_add(st, io, out, p, m->sock);
    }
}

static void fanout_bound(struct udp_state *st, struct engine_io *io, struct fanout *out, const struct pkt *p,
                         uint32_t key, uint32_t ifindex) {
    uint32_t i = hash_index_first(&st->bound, &st->a, key);
    for (; i != ARENA_NIL; i = hash_index_next(&st->bound, &st->a, i)) {
        const struct udp_socket *s = (const struct udp_socket *)arena_record(st, udp_sockets(st), i);
        if (udp_socket_matches(s, &p->flow, ifindex))
            fanout_add(st, io, out, p, i);
    }
}

/* Groups go to every member, broadcasts to every socket that fits. */
static void deliver_all(struct udp_state *st, struct engine_io *io, struct pkt *p, uint32_t reserve) {
    struct fanout out = {.last = ARENA_NIL, .reserve = reserve};
    uint32_t ifindex = udp_ifindex(io, p->port);
    if (ipaddr_is_multicast(&p->flow.local)) {
        fanout_members(st, io, &out, p, ifindex);
    } else {
        static const struct ipaddr any;
        fanout_bound(st, io, &out, p, hash_addr(&st->key, &p->flow.local, p->flow.local_port), ifindex);
        fanout_bound(st, io, &out, p, hash_addr(&st->key, &any, p->flow.local_port), ifindex);
    }
    if (out.last == ARENA_NIL)
        pkt_drop(io, p, DROP_UDP_NO_SOCKET);
    else
        udp_deliver(st, io, p, out.last);
}

/* An ICMP error that quotes a datagram of ours: tell the socket that sent it. */
static void input_error(struct udp_state *st, struct engine_io *io, struct pkt *p) {
    if (p->len < UDP_LEN) {
        pkt_drop(io, p, DROP_ICMP_MALFORMED);
        return;
    }
    p->flow.local_port = be16_load(p->data);
    p->flow.remote_port = be16_load(p->data + 2);
    uint32_t sock = udp_table_find(st, &p->flow, hash_flow(&st->key, &p->flow), udp_ifindex(io, p->port));
    const struct udp_socket *s = sock == ARENA_NIL ? NULL : udp_socket_get(st, sock);
    if (s == NULL) {
        pkt_drop(io, p, DROP_ICMP_UNWANTED);
        return;
    }
    struct notice notice = {.sink = s->sink,
                            .kind = NOTICE_ERROR,
                            .value = p->user,
                            .extra = (uint32_t)p->user_data,
                            .port = p->flow.remote_port,
                            .addr = p->flow.remote};
    engine_notice(io, &notice);
    ENGINE_COUNT(io, UDP_COUNT_ERRORS);
    (void)pkt_vec_push(io->done, p);
}

/* Fills the flow cache unless the group's choice must be made for each datagram. */
static SELDOM uint32_t cache_miss(struct udp_state *st, struct engine_io *io, const struct pkt *p, uint32_t hash) {
    struct udp_cache_line *line = udp_cache_at(st, hash);
    uint32_t ifindex = udp_ifindex(io, p->port);
    ENGINE_COUNT(io, UDP_COUNT_CACHE_MISS);
    uint32_t sock = udp_table_find(st, &p->flow, hash, ifindex);
    struct udp_socket *s = sock == ARENA_NIL ? NULL : udp_socket_get(st, sock);
    if (s == NULL)
        return ARENA_NIL;
    if ((s->flags & UDP_SOCKET_REUSEPORT) && s->spread) {
        s->load++; /* here, not on delivery: the rest of the burst is looked up before */
        return sock;
    }
    line->flow = p->flow;
    line->generation = st->generation;
    line->sock = sock;
    line->ifindex = ifindex;
    return sock;
}

STRAIGHT uint32_t look_up(struct udp_state *st, struct engine_io *io, const struct pkt *p, uint32_t hash) {
    const struct udp_cache_line *line = udp_cache_at(st, hash);
    const uint64_t *a = (const uint64_t *)(const void *)&line->flow, *b = (const uint64_t *)(const void *)&p->flow;
    uint64_t differ = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]);
    if (LIKELY(differ == 0 && line->generation == st->generation && line->ifindex == udp_ifindex(io, p->port)))
        return line->sock;
    return cache_miss(st, io, p, hash);
}

/* The socket for one parsed datagram, which it will get. */
uint32_t udp_look_up(struct udp_state *st, struct engine_io *io, const struct pkt *p, uint32_t hash) {
    return look_up(st, io, p, hash);
}

/* What is not a plain unicast datagram. True when the packet is dealt with. */
static SELDOM bool input_special(struct udp_state *st, struct engine_io *io, struct pkt *p, uint32_t reserve) {
    if (p->flags & PKT_ICMP_ERROR) {
        input_error(st, io, p);
        return true;
    }
    if (p->flags & PKT_BOUNCED) {
        input_bounced(st, io, p);
        return true;
    }
    enum drop_reason why = parse(p);
    if (why != DROP_NONE)
        pkt_drop(io, p, why);
    else
        deliver_all(st, io, p, reserve);
    return true;
}

static bool is_special(const struct pkt *p) {
    return (p->flags & (PKT_ICMP_ERROR | PKT_BROADCAST | PKT_BOUNCED)) || ipaddr_is_multicast(&p->flow.local);
}

/* First pass. Returns how many packets are in keep[], with the hashes of their flows in hash[]. */
static uint32_t parse_all(struct udp_state *st, struct engine_io *io, struct pkt **pkts, uint32_t n, struct pkt **keep,
                          uint32_t *hash) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (i + PREFETCH_AHEAD < n)
            __builtin_prefetch(pkts[i + PREFETCH_AHEAD]->data);
        if (UNLIKELY(is_special(p)) && input_special(st, io, p, n - i))
            continue;
        enum drop_reason why = parse(p);
        if (UNLIKELY(why != DROP_NONE)) {
            pkt_drop(io, p, why);
            continue;
        }
        hash[kept] = hash_flow(&st->key, &p->flow);
        __builtin_prefetch(udp_cache_at(st, hash[kept]));
        keep[kept++] = p;
    }
    return kept;
}

void udp_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct udp_state *st = (struct udp_state *)state;
    struct pkt *keep[PKT_BURST];
    uint32_t hash[PKT_BURST];
    CHECK(n <= PKT_BURST);
    io->counters[UDP_COUNT_RX] += n;
    n = parse_all(st, io, pkts, n, keep, hash);
    if (n > 0 && (keep[0]->flags & PKT_LOCAL))
        udp_local_learn(st, io, keep[0]);
    /* Second pass: the hash's place now holds the socket. */
    for (uint32_t i = 0; i < n; i++) {
        hash[i] = look_up(st, io, keep[i], hash[i]);
        if (LIKELY(hash[i] != ARENA_NIL))
            __builtin_prefetch((uint8_t *)arena_record(st, udp_sockets(st), hash[i]) + CACHE_LINE, 1);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (LIKELY(hash[i] != ARENA_NIL))
            deliver(st, io, keep[i], hash[i]);
        else
            refuse(io, keep[i]);
    }
}

/* The socket that one datagram of one receiver would get to; what goes to many is nobody's before it is delivered. */
static uint32_t receiver(struct udp_state *st, const struct engine_io *io, const struct pkt *p) {
    uint32_t hash = hash_flow(&st->key, &p->flow), ifindex = udp_ifindex(io, p->port);
    const struct udp_cache_line *line = udp_cache_at(st, hash);
    if (line->generation == st->generation && line->ifindex == ifindex &&
        memcmp(&line->flow, &p->flow, sizeof p->flow) == 0)
        return line->sock;
    return udp_table_find(st, &p->flow, hash, ifindex); /* input fills the line */
}

void udp_demux(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct udp_state *st = (struct udp_state *)state;
    for (uint32_t i = 0; i < n; i++) {
        struct pkt *p = pkts[i];
        if (UNLIKELY(is_special(p) || p->len < UDP_LEN))
            continue;
        p->flow.remote_port = be16_load(p->data);
        p->flow.local_port = be16_load(p->data + 2);
        uint32_t sock = receiver(st, io, p);
        const struct udp_socket *s = sock == ARENA_NIL ? NULL : udp_socket_get(st, sock);
        if (s == NULL)
            continue;
        p->owner = s->owner;
        p->known = s->flags & UDP_SOCKET_CONNECTED ? PKT_KNOWN_ESTABLISHED : PKT_KNOWN_NOTHING;
    }
}
