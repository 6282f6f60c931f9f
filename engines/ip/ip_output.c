/* SPDX-License-Identifier: Apache-2.0
 *
 * Packets on their way down: transport header at data, flow filled, checksum left open as engines/pkt.h says. Two
 * passes over a burst: find the destinations' cache lines, then send. Local destinations turn round with PKT_LOCAL;
 * what is larger than the path goes to ip_cut.c; what must wait for its next hop to ip_neigh.c.
 *
 * Lines touched per packet, warm destination: the packet's 0 and 1, one of its head buffer, one destination. No copies;
 * one pass over the payload when the port does not do checksums. 33 cycles with port checksums, 36 with 500
 * destinations.
 */
#include <errno.h>

#include "engines/ip/ip.h"
#include "engines/ip/ip_cut.h"
#include "engines/ip/ip_icmp.h"

#define PREFETCH_AHEAD 4u
#define IP4_DF         0x4000u

void ip_output_fail(struct engine_io *io, struct pkt *p, int error, uint32_t mtu, enum drop_reason why) {
    if (SINK_KIND(p->sink) != SINK_NONE) {
        const struct notice notice = {.sink = p->sink,
                                      .kind = NOTICE_ERROR,
                                      .value = (uint32_t)error,
                                      .extra = mtu,
                                      .port = p->flow.remote_port,
                                      .addr = p->flow.remote};
        engine_notice(io, &notice);
    }
    pkt_drop(io, p, why);
}

/* ---- headers ---- */

/* The header checksum is summed from the words as they are built: reading the bytes back would stall on the stores. */
STRAIGHT void push4(struct pkt *p, uint32_t len, uint16_t id, uint16_t flags_off) {
    const struct flow *f = &p->flow;
    uint32_t ttl = p->ttl != 0 ? p->ttl : IP_TTL_DEFAULT;
    uint32_t w0 = __builtin_bswap32(0x45000000u | (uint32_t)p->tos << 16 | (len + IP4_LEN));
    uint32_t w1 = __builtin_bswap32((uint32_t)id << 16 | flags_off);
    uint32_t w2 = __builtin_bswap32(ttl << 24 | (uint32_t)f->proto << 16);
    uint32_t src = f->local.w[3], dst = f->remote.w[3];
    w2 |= (uint32_t)(uint16_t)~csum_fold((uint64_t)w0 + w1 + w2 + src + dst) << 16;
    uint64_t a = w0 | (uint64_t)w1 << 32, b = w2 | (uint64_t)src << 32;
    uint8_t *h = pkt_push(p, IP4_LEN);
    memcpy(h, &a, sizeof a);
    memcpy(h + 8, &b, sizeof b);
    memcpy(h + 16, &dst, sizeof dst);
    p->l3_off = (uint16_t)(h - p->buf);
    p->ip_version = 4;
}

static inline void push6(struct pkt *p, uint32_t len, uint8_t next) {
    uint8_t *h = pkt_push(p, IP6_LEN);
    be32_store(h, 6u << 28 | (uint32_t)p->tos << 20);
    be16_store(h + 4, (uint16_t)len);
    h[6] = next;
    h[7] = p->ttl != 0 ? p->ttl : IP_TTL_DEFAULT;
    memcpy(h + 8, p->flow.local.b, 16);
    memcpy(h + 24, p->flow.remote.b, 16);
    p->l3_off = (uint16_t)(h - p->buf);
    p->ip_version = 6;
}

/* data is at the transport header. */
STRAIGHT void csum_finish(struct engine_io *io, struct pkt *p, uint32_t len, bool port_does) {
    if (!(p->flags & PKT_CSUM_PARTIAL))
        return;
    uint8_t *field = p->buf + p->csum_start + p->csum_offset;
    uint64_t pseudo = csum_pseudo(&p->flow, len);
    if (port_does) {
        uint16_t sum = csum_fold(pseudo);
        memcpy(field, &sum, 2);
        return;
    }
    ENGINE_COUNT(io, IP_COUNT_CSUM);
    uint16_t sum = (uint16_t)~csum_fold(csum_pkt(pseudo, p, p->data));
    if (sum == 0)
        sum = 0xffff; /* the other zero; for UDP the only one that means a checksum */
    memcpy(field, &sum, 2);
    p->flags &= (uint16_t)~PKT_CSUM_PARTIAL;
}

STRAIGHT void push_link(const struct port_info *port, struct pkt *p, const uint8_t *mac, bool v4) {
    if (port->caps & PORT_CAP_L3)
        return;
    uint8_t *h = pkt_push(p, ETH_LEN);
    memcpy(h, mac, 6);
    memcpy(h + 6, port->mac, 6);
    be16_store(h + 12, v4 ? ETHERTYPE_IP4 : ETHERTYPE_IP6);
}

STRAIGHT void push_ip(struct pkt *p, uint32_t len, bool v4) {
    if (v4)
        push4(p, len, 0, IP4_DF); /* not to be fragmented, so it needs no identification (RFC 6864) */
    else
        push6(p, len, p->flow.proto);
}

/* For those who put packets together piece by piece; a plain packet has it all inlined: 75 instructions fewer. */
void ip_push4(struct pkt *p, uint16_t id, uint16_t flags_off) {
    push4(p, pkt_bytes(p), id, flags_off);
}

void ip_push6(struct pkt *p, uint8_t next) {
    push6(p, pkt_bytes(p), next);
}

void ip_csum_finish(struct engine_io *io, struct pkt *p, bool port_does) {
    csum_finish(io, p, pkt_bytes(p), port_does);
}

void ip_push_link(const struct port_info *port, struct pkt *p, const uint8_t *mac) {
    push_link(port, p, mac, p->ip_version == 4);
}

/* ---- ways out ---- */

STRAIGHT void send_wire(struct engine_io *io, struct pkt *p, const struct ip_dest *d, uint32_t len, bool v4) {
    const struct port_info *port = &io->ports[d->port];
    csum_finish(io, p, len, port->caps & PORT_CAP_TX_CSUM);
    push_ip(p, len, v4);
    push_link(port, p, d->mac, v4);
    p->port = d->port;
    ip_down(io, p);
}

void ip_send(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_dest *d) {
    (void)st;
    send_wire(io, p, d, pkt_bytes(p), ipaddr_is_v4(&p->flow.remote));
}

static void send_local(struct engine_io *io, struct pkt *p) {
    if (ipaddr_is_v4(&p->flow.remote))
        ip_push4(p, 0, IP4_DF);
    else
        ip_push6(p, p->flow.proto);
    p->flags |= PKT_LOCAL;
    p->port = PORT_SLOT_LOCAL;
    ENGINE_COUNT(io, IP_COUNT_LOCAL);
    ip_down(io, p);
}

/* A packet to a group that has members here: they get a copy. False when that is all, because it may not leave. */
static bool send_group_copy(struct engine_io *io, struct pkt *p) {
    p->flags &= (uint16_t)~PKT_MCAST_LOOP;
    if (p->ttl == 0) {
        send_local(io, p);
        return false;
    }
    struct pkt *copy = ip_pkt_copy(io, p, 0, pkt_bytes(p));
    if (copy != NULL) {
        copy->flags = p->flags;
        copy->gso_size = p->gso_size;
        copy->gso_type = p->gso_type;
        send_local(io, copy);
    }
    return true;
}

/* The sender names an address: it must be ours, and a loopback one never leaves the host. */
static SELDOM int source_named(struct ip_state *st, const struct ipaddr *local, const struct ip_dest *d) {
    if (!ip_addr_is_local(st, local) || ipaddr_is_v4(local) != ipaddr_is_v4(&d->dst))
        return EADDRNOTAVAIL;
    return d->kind != IP_DEST_LOCAL && ipaddr_is_loopback(local) ? EINVAL : 0;
}

/* Fills or judges the source address. 0 or a positive errno. */
STRAIGHT int source(struct ip_state *st, struct pkt *p, const struct ip_dest *d) {
    struct ipaddr *local = &p->flow.local;
    if (LIKELY(!ipaddr_is_any(local)))
        return LIKELY(ipaddr_equal(local, &d->src)) ? 0 : source_named(st, local, d);
    *local = d->src;
    return ipaddr_is_any(&d->src) ? EADDRNOTAVAIL : 0; /* not *local: it was stored this moment, in one piece */
}

/* Only the kernel reaches the destination: the sender gets its datagram back, or learns that it cannot go. */
static void bounce(struct engine_io *io, struct pkt *p) {
    if ((p->flags & PKT_BOUNCE) && pkt_vec_room(io->up) > 0) {
        p->flags |= PKT_BOUNCED;
        ENGINE_COUNT(io, IP_COUNT_BOUNCED);
        (void)pkt_vec_push(io->up, p);
        return;
    }
    ip_output_fail(io, p, ENETUNREACH, 0, DROP_IP_NO_ROUTE);
}

/* Everything that is not one packet to a known next hop. */
static void output_slow(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_dest *d) {
    switch ((enum ip_dest_kind)d->kind) {
    case IP_DEST_LOCAL:
        send_local(io, p);
        return;
    case IP_DEST_WAIT:
        ip_neigh_wait(st, io, d->neigh, p);
        return;
    case IP_DEST_WIRE:
    case IP_DEST_BROADCAST:
        if (d->kind == IP_DEST_BROADCAST && !(p->flags & PKT_BROADCAST))
            ip_output_fail(io, p, EACCES, 0, DROP_UDP_BAD_SEND);
        else if (!io->ports[d->port].up)
            ip_output_fail(io, p, ENETDOWN, 0, DROP_PORT_DOWN);
        else if (!(p->flags & PKT_MCAST_LOOP) || send_group_copy(io, p))
            ip_cut(st, io, p, d);
        return;
    case IP_DEST_KERNEL:
        bounce(io, p);
        return;
    default:
        ip_output_fail(io, p, d->error, 0, d->error == EHOSTUNREACH ? DROP_IP_NEIGH_FAILED : DROP_IP_NO_ROUTE);
    }
}

/* One whole packet to a known next hop, which it has the room for. False when it is none of that. */
STRAIGHT bool output_plain(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_dest *d) {
    if (d->kind != IP_DEST_WIRE || (p->flags & PKT_MCAST_LOOP) || st->wait_count != 0)
        return false;
    const struct port_info *port = &io->ports[d->port];
    uint32_t len = pkt_bytes(p), mtu = d->mtu < port->mtu ? d->mtu : port->mtu;
    bool v4 = ipaddr_is_v4(&p->flow.remote);
    bool fits = LIKELY(!(p->flags & PKT_GSO)) ? len + (v4 ? IP4_LEN : IP6_LEN) <= mtu : ip_fits(port, p, mtu);
    if (!port->up || !fits)
        return false;
    send_wire(io, p, d, len, v4);
    return true;
}

STRAIGHT void output_one(struct ip_state *st, struct engine_io *io, struct pkt *p, struct ip_dest *set) {
    struct ip_dest *d = set;
    if (UNLIKELY(p->flags & PKT_ICMP_ERROR)) {
        ip_icmp_refuse(st, io, p);
        return;
    }
    if (UNLIKELY(!ip_dest_is(st, d, &p->flow.remote))) {
        d = set + 1;
        if (!ip_dest_is(st, d, &p->flow.remote))
            d = ip_dest_resolve(st, io, &p->flow.remote, set);
    }
    if (UNLIKELY((size_t)(p->data - p->buf) < IP_HEADROOM)) {
        pkt_drop(io, p, DROP_NO_BUFFER);
        return;
    }
    int error = d->kind >= IP_DEST_KERNEL ? 0 : source(st, p, d);
    if (UNLIKELY(error != 0))
        ip_output_fail(io, p, error, 0, DROP_IP_NO_ROUTE);
    else if (UNLIKELY(!output_plain(st, io, p, d)))
        output_slow(st, io, p, d);
}

void ip_output_packet(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    output_one(st, io, p, ip_dest_set(st, &p->flow.remote));
}

void ip_output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct ip_state *st = (struct ip_state *)state;
    struct ip_dest *d[PKT_BURST];
    CHECK(n <= PKT_BURST);
    io->counters[IP_COUNT_TX] += n;
    for (uint32_t i = 0; i < n; i++) {
        d[i] = ip_dest_set(st, &pkts[i]->flow.remote);
        __builtin_prefetch(d[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (i + PREFETCH_AHEAD < n)
            __builtin_prefetch(pkts[i + PREFETCH_AHEAD]->data - CACHE_LINE, 1);
        output_one(st, io, pkts[i], d[i]);
    }
}
