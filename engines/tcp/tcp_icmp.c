/* SPDX-License-Identifier: Apache-2.0
 *
 * ICMP errors about segments of ours: path MTU (RFC 1191, 8201), and unreachable hosts or ports. Anybody can send
 * these, so they count only when they quote a number that is in flight (RFC 5927), and never end an established
 * connection (RFC 5461, 9293 MUST-56): they become the reason that is given when the connection gives up by itself.
 */
#include <errno.h>

#include "engines/tcp/tcp_input.h"
#include "engines/tcp/tcp_loss.h"

#define MTU_FLOOR4 552u /* RFC 1191's plateau; a smaller one is an attack more often than a path */
#define MTU_FLOOR6 1280u

static void follow_mtu(struct tcp_ctx *x, struct tcp_conn *c, uint32_t mtu) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t floor = ipaddr_is_v4(&c->flow.remote) ? MTU_FLOOR4 : MTU_FLOOR6;
    mtu = max_u32(mtu, floor);
    if (mtu >= k->mtu)
        return;
    ENGINE_COUNT(x->io, TCP_COUNT_PMTU);
    k->mtu = (uint16_t)mtu;
    tcp_conn_mss(x->st, c);
    tcp_loss_resize(x, c);
}

static void take(struct tcp_ctx *x, struct tcp_conn *c, const struct pkt *p) {
    uint32_t error = p->user;
    ENGINE_COUNT(x->io, TCP_COUNT_ICMP);
    if (error == EMSGSIZE) {
        follow_mtu(x, c, (uint32_t)p->user_data);
        return;
    }
    struct tcp_cold *k = tcp_cold(x->st, c);
    k->error = (uint8_t)(error <= UINT8_MAX ? error : EHOSTUNREACH);
    /* Refused for good before there is a connection: RFC 9293 SHLD-26. */
    if (c->state == TCP_STATE_SYN_SENT && (error == ECONNREFUSED || error == ENOPROTOOPT || error == EACCES))
        (void)tcp_fsm(x, c, TCP_EV_GIVE_UP);
}

void tcp_icmp_input(struct tcp_ctx *x, struct pkt *p) {
    if (p->len < 8) {
        pkt_drop(x->io, p, DROP_ICMP_MALFORMED);
        return;
    }
    p->flow.local_port = be16_load(p->data);
    p->flow.remote_port = be16_load(p->data + 2);
    uint32_t seq = be32_load(p->data + 4);
    uint32_t i = tcp_find_conn(x->st, &p->flow, hash_flow(&x->st->key, &p->flow));
    struct tcp_conn *c = i == TCP_NIL ? NULL : tcp_at(x->st, i);
    if (c == NULL || seq_before(seq, c->snd_una) || !seq_before(seq, c->snd_nxt)) {
        pkt_drop(x->io, p, DROP_ICMP_UNWANTED);
        return;
    }
    (void)tcp_begin(x, i);
    tcp_touch(x, c);
    take(x, c, p);
    tcp_end(x);
    (void)pkt_vec_push(x->io->done, p);
}
