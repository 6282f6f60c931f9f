/* SPDX-License-Identifier: Apache-2.0
 *
 * Cutting. A packet gives up to 64 datagrams or 55 fragments, more than a call's vec may take, so it can stop half way:
 * packets that are not finished wait in a ring, in order, and everything that has to be cut after them waits too. Each
 * piece is one copy of its payload.
 */
#include <errno.h>

#include "engines/ip/ip_cut.h"

#define IP4_MF        0x2000u
#define FRAGMENT6_LEN 8u

struct pkt *ip_pkt_alloc(struct engine_io *io, uint32_t bytes) {
    struct pkt_pool *pool = bytes + PKT_HEADROOM <= io->pool->buf_size ? io->pool : io->pool_large;
    if (pool == NULL || bytes + PKT_HEADROOM > pool->buf_size)
        return NULL;
    return pkt_alloc(pool);
}

/* Copies [offset, offset + n) of the packet's bytes; the caller knows that they are there. */
static void gather(uint8_t *to, const struct pkt *p, uint32_t offset, uint32_t n) {
    const uint8_t *base = p->data;
    uint32_t len = p->len;
    for (uint32_t i = 0;; i++) {
        if (offset < len) {
            uint32_t part = len - offset < n ? len - offset : n;
            memcpy(to, base + offset, part);
            to += part;
            n -= part;
            offset = len;
        }
        if (n == 0 || i == p->frag_count)
            return;
        offset -= len;
        base = p->frag[i].base;
        len = p->frag[i].len;
    }
}

struct pkt *ip_pkt_copy(struct engine_io *io, const struct pkt *p, uint32_t offset, uint32_t bytes) {
    struct pkt *c = ip_pkt_alloc(io, bytes);
    if (c == NULL)
        return NULL;
    gather(c->data, p, offset, bytes);
    c->len = bytes;
    c->flow = p->flow;
    c->tos = p->tos;
    c->ttl = p->ttl;
    c->port = p->port;
    c->owner = p->owner;
    c->l4_off = PKT_HEADROOM;
    c->csum_start = PKT_HEADROOM;
    c->csum_offset = p->csum_offset;
    return c;
}

static uint32_t ip_len(const struct pkt *p) {
    return ipaddr_is_v4(&p->flow.remote) ? IP4_LEN : IP6_LEN;
}

static uint32_t transport_len(const struct pkt *p) {
    if (p->gso_type == PKT_GSO_UDP)
        return UDP_LEN;
    return p->len > 12 ? (uint32_t)(p->data[12] >> 4) * 4 : TCP_LEN;
}

bool ip_fits(const struct port_info *port, const struct pkt *p, uint32_t mtu) {
    if (LIKELY(!(p->flags & PKT_GSO)))
        return ip_len(p) + pkt_bytes(p) <= mtu;
    uint16_t cap = p->gso_type == PKT_GSO_UDP ? PORT_CAP_TX_GSO_UDP : PORT_CAP_TX_GSO_TCP;
    return (port->caps & cap) != 0 && ip_len(p) + transport_len(p) + p->gso_size <= mtu;
}

/* One packet being cut: `at` payload bytes have left. */
struct cut {
    struct ip_state *st;
    struct engine_io *io;
    struct pkt *p;
    const struct ip_dest *d;
    uint32_t mtu;
    uint32_t at;
};

/* DONE: nothing is left of it. LATER: no room in `down`. FAILED: no buffer for the next piece. */
enum cut_result { CUT_DONE, CUT_LATER, CUT_FAILED };

static bool room(const struct engine_io *io) {
    return pkt_vec_room(io->down) > PKT_BURST;
}

static enum cut_result datagrams(struct cut *c) {
    uint32_t payload = pkt_bytes(c->p) - UDP_LEN;
    while (c->at < payload) {
        uint32_t n = payload - c->at < c->p->gso_size ? payload - c->at : c->p->gso_size;
        if (!room(c->io))
            return CUT_LATER;
        struct pkt *s = ip_pkt_copy(c->io, c->p, UDP_LEN + c->at, n);
        if (s == NULL)
            return CUT_FAILED;
        uint8_t *h = pkt_push(s, UDP_LEN);
        memcpy(h, c->p->data, UDP_LEN);
        be16_store(h + 4, (uint16_t)(n + UDP_LEN));
        s->l4_off = (uint16_t)(h - s->buf);
        s->csum_start = s->l4_off;
        s->flags = PKT_CSUM_PARTIAL;
        ENGINE_COUNT(c->io, IP_COUNT_GSO_SPLIT);
        ip_send(c->st, c->io, s, c->d);
        c->at += n;
    }
    return CUT_DONE;
}

static void push_fragment6(struct pkt *p, uint32_t offset, bool more, uint32_t id) {
    uint8_t *h = pkt_push(p, FRAGMENT6_LEN);
    h[0] = p->flow.proto;
    h[1] = 0;
    be16_store(h + 2, (uint16_t)(offset | (more ? 1 : 0)));
    be32_store(h + 4, id);
    ip_push6(p, PROTO_FRAGMENT6);
}

static enum cut_result fragments(struct cut *c) {
    bool v4 = ipaddr_is_v4(&c->p->flow.remote);
    uint32_t head = v4 ? IP4_LEN : IP6_LEN + FRAGMENT6_LEN;
    uint32_t total = pkt_bytes(c->p), step = (c->mtu - head) & ~7u;
    if (c->at == 0) {
        ip_csum_finish(c->io, c->p, false);
        c->st->wait_id = (uint32_t)engine_random(c->io);
    }
    while (c->at < total) {
        uint32_t n = total - c->at < step ? total - c->at : step;
        bool more = c->at + n < total;
        if (!room(c->io))
            return CUT_LATER;
        struct pkt *f = ip_pkt_copy(c->io, c->p, c->at, n);
        if (f == NULL)
            return CUT_FAILED;
        f->flags = PKT_FRAGMENT;
        if (v4)
            ip_push4(f, (uint16_t)c->st->wait_id, (uint16_t)((more ? IP4_MF : 0) | c->at / 8));
        else
            push_fragment6(f, c->at, more, c->st->wait_id);
        ip_push_link(&c->io->ports[c->d->port], f, c->d->mac);
        f->port = c->d->port;
        ip_down(c->io, f);
        ENGINE_COUNT(c->io, IP_COUNT_FRAGMENTED);
        c->at += n;
    }
    return CUT_DONE;
}

/* Sends as much of it as there is room for; on LATER c->at says how far it came. */
static enum cut_result cut_on(struct cut *c) {
    const struct port_info *port = &c->io->ports[c->d->port];
    struct pkt *p = c->p;
    c->mtu = c->d->mtu < port->mtu ? c->d->mtu : port->mtu;
    if (c->at == 0 && ip_fits(port, p, c->mtu)) {
        if (!room(c->io))
            return CUT_LATER;
        ip_send(c->st, c->io, p, c->d);
        c->p = NULL;
        return CUT_DONE;
    }
    bool gso = p->flags & PKT_GSO;
    uint32_t mtu_min = ipaddr_is_v4(&p->flow.remote) ? IP4_MTU_MIN : IP6_MTU_MIN;
    bool impossible = gso ? p->gso_type != PKT_GSO_UDP || ip_len(p) + UDP_LEN + p->gso_size > c->mtu
                          : (p->flags & PKT_DONT_FRAGMENT) != 0 || c->mtu < mtu_min;
    if (impossible) {
        ip_output_fail(c->io, p, EMSGSIZE, c->mtu, DROP_IP_TOO_BIG);
        c->p = NULL;
        return CUT_DONE;
    }
    return gso ? datagrams(c) : fragments(c);
}

static void finish(struct cut *c, enum cut_result result) {
    if (c->p == NULL)
        return;
    if (result == CUT_FAILED)
        pkt_drop(c->io, c->p, DROP_NO_BUFFER);
    else
        (void)pkt_vec_push(c->io->done, c->p);
}

static void keep(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    if (st->wait_count == IP_WAIT_MAX)
        pkt_drop(io, p, DROP_QUEUE_FULL);
    else
        st->wait[(st->wait_head + st->wait_count++) % IP_WAIT_MAX] = p;
}

void ip_cut(struct ip_state *st, struct engine_io *io, struct pkt *p, const struct ip_dest *d) {
    if (st->wait_count > 0) {
        keep(st, io, p);
        return;
    }
    struct cut c = {.st = st, .io = io, .p = p, .d = d};
    enum cut_result result = cut_on(&c);
    if (result == CUT_LATER) {
        st->wait_cut = c.at;
        keep(st, io, p);
    } else {
        finish(&c, result);
    }
}

uint32_t ip_cut_run(struct ip_state *st, struct engine_io *io) {
    uint32_t finished = 0;
    while (st->wait_count > 0 && room(io)) {
        struct cut c = {.st = st, .io = io, .p = st->wait[st->wait_head], .at = st->wait_cut};
        const struct ip_dest *d = ip_dest_peek(st, &c.p->flow.remote);
        if (d == NULL)
            d = ip_dest_resolve(st, io, &c.p->flow.remote, ip_dest_set(st, &c.p->flow.remote));
        c.d = d;
        enum cut_result result = CUT_FAILED; /* its way is gone meanwhile */
        if ((d->kind == IP_DEST_WIRE || d->kind == IP_DEST_BROADCAST) && io->ports[d->port].up)
            result = cut_on(&c);
        st->wait_cut = result == CUT_LATER ? c.at : 0;
        if (result == CUT_LATER)
            break;
        st->wait_head = (st->wait_head + 1) % IP_WAIT_MAX;
        st->wait_count--;
        finish(&c, result);
        finished++;
    }
    return finished;
}

void ip_cut_drop_all(struct ip_state *st, struct engine_io *io) {
    for (; st->wait_count > 0 && pkt_vec_room(io->drop) > 0; st->wait_count--) {
        pkt_drop(io, st->wait[st->wait_head], DROP_QUEUE_FULL);
        st->wait_head = (st->wait_head + 1) % IP_WAIT_MAX;
    }
    st->wait_cut = 0;
}
