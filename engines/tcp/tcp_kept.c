/* SPDX-License-Identifier: Apache-2.0
 *
 * Packets the engine keeps (out of order, or an engine sink's send queue) as references: pool and index, never a
 * pointer, so that the arena stays free of addresses. Packets of another shard's pool are copied, because a reference
 * could not name them. Packets to be given back that find no room in `done` wait in a chain of their own.
 */
#include "engines/tcp/tcp_conn.h"

#define REF_LARGE 1u

static uint32_t reference(const struct tcp_ctx *x, const struct pkt *p) {
    if (p->pool == x->io->pool)
        return p->index << 1;
    if (p->pool == x->io->pool_large && p->pool != NULL)
        return p->index << 1 | REF_LARGE;
    return TCP_NIL;
}

/* One buffer with head and frags in it. */
static struct pkt *flatten(struct tcp_ctx *x, const struct pkt *p) {
    uint32_t bytes = pkt_bytes(p);
    struct pkt_pool *pool = x->io->pool;
    if (bytes + PKT_HEADROOM > pool->buf_size)
        pool = x->io->pool_large;
    if (pool == NULL || bytes + PKT_HEADROOM > pool->buf_size)
        return NULL;
    struct pkt *copy = pkt_alloc(pool);
    if (copy == NULL)
        return NULL;
    memcpy(copy->data, p->data, p->len);
    uint32_t at = p->len;
    for (uint32_t i = 0; i < p->frag_count; i++) {
        memcpy(copy->data + at, p->frag[i].base, p->frag[i].len);
        at += p->frag[i].len;
    }
    copy->len = at;
    copy->flow = p->flow;
    copy->flags = (uint16_t)(p->flags & ~(PKT_GSO | PKT_REGION));
    copy->port = p->port;
    copy->tos = p->tos;
    copy->ip_version = p->ip_version;
    copy->owner = p->owner;
    copy->rx_ns = p->rx_ns;
    copy->user = p->user;
    copy->user_data = p->user_data;
    return copy;
}

/* Frags borrow memory that may go away before we are done with it, so a packet with frags is copied too. */
uint32_t tcp_keep(struct tcp_ctx *x, struct pkt *p) {
    uint32_t ref = reference(x, p);
    if (LIKELY(ref != TCP_NIL && p->frag_count == 0))
        return ref;
    struct pkt *copy = flatten(x, p);
    if (copy == NULL)
        return TCP_NIL;
    (void)pkt_vec_push(x->io->done, p);
    return reference(x, copy);
}

struct pkt *tcp_kept(struct tcp_ctx *x, uint32_t ref) {
    const struct pkt_pool *pool = ref & REF_LARGE ? x->io->pool_large : x->io->pool;
    return &pool->pkts[ref >> 1];
}

void tcp_bury(struct tcp_ctx *x, uint32_t ref) {
    tcp_bury_chain(x, ref, ref);
}

void tcp_bury_chain(struct tcp_ctx *x, uint32_t head, uint32_t tail) {
    tcp_kept(x, tail)->next = x->st->grave;
    x->st->grave = head;
    (void)tcp_bury_run(x);
}

/* Leaves room for what the packets of this call still need. */
uint32_t tcp_bury_run(struct tcp_ctx *x) {
    struct tcp_engine *st = x->st;
    uint32_t n = 0;
    while (st->grave != TCP_NIL && pkt_vec_room(x->io->done) > PKT_BURST * 2) {
        struct pkt *p = tcp_kept(x, st->grave);
        st->grave = p->next;
        (void)pkt_vec_push(x->io->done, p);
        n++;
    }
    return n;
}
