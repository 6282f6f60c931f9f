/* SPDX-License-Identifier: Apache-2.0
 *
 * Datagrams from one socket of this host to another. The link engine judges addresses and routes and turns them round;
 * once it has done so between two addresses, the next ones go straight to their socket for a millisecond: no headers,
 * no second look at the addresses. Runs on the shard's worker, and only while the host says that nobody else wants to
 * see them (io->direct).
 *
 * Order. What is learned holds from the next turn on (`now` is the same all through a turn, and a turn ends when
 * nothing is under way), so no datagram overtakes one that still goes the long way round.
 *
 * A round trip between two sockets costs 442 cycles so, 732 by ip both ways (local_echo of udp-engine-cost).
 */
#include "engines/udp/udp.h"

#define NEAR_NS NS_PER_MS

static struct udp_near *near_at(struct udp_state *st, const struct ipaddr *src, const struct ipaddr *dst) {
    return &st->near[((src->w[3] ^ dst->w[3] * 3) * 0x9e3779b1u >> 16) % UDP_NEAR_COUNT];
}

void udp_local_learn(struct udp_state *st, const struct engine_io *io, const struct pkt *p) {
    struct udp_near *n = near_at(st, &p->flow.remote, &p->flow.local);
    if (io->now < n->until)
        return;
    *n = (struct udp_near){.src = p->flow.remote, .dst = p->flow.local, .since = io->now, .until = io->now + NEAR_NS};
    st->near_until = n->until;
}

void udp_flow_turn(struct flow *f) {
    struct ipaddr addr = f->local;
    uint16_t port = f->local_port;
    f->local = f->remote;
    f->local_port = f->remote_port;
    f->remote = addr;
    f->remote_port = port;
}

bool udp_local_take(struct udp_state *st, struct engine_io *io, struct pkt *p) {
    const struct udp_near *n = near_at(st, &p->flow.local, &p->flow.remote);
    if (!io->direct || io->now <= n->since || io->now >= n->until || !ipaddr_equal(&n->src, &p->flow.local) ||
        !ipaddr_equal(&n->dst, &p->flow.remote))
        return false;
    uint16_t port = p->port;
    udp_flow_turn(&p->flow);
    p->port = UDP_SLOT_LOCAL;
    uint32_t sock = udp_look_up(st, io, p, hash_flow(&st->key, &p->flow));
    if (UNLIKELY(sock == ARENA_NIL)) { /* ip answers that nobody is there */
        udp_flow_turn(&p->flow);
        p->port = port;
        return false;
    }
    p->flags = (uint16_t)(PKT_LOCAL | (p->flags & PKT_GSO) | ((p->tos & 3) == 3 ? PKT_ECN_CE : 0));
    p->ip_version = ipaddr_is_v4(&p->flow.local) ? 4 : 6;
    p->l3_off = 0;
    p->l4_off = 0;
    p->rx_ns = io->now;
    ENGINE_COUNT(io, UDP_COUNT_DIRECT);
    udp_deliver(st, io, p, sock);
    return true;
}
