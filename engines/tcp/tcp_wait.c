/* SPDX-License-Identifier: Apache-2.0
 *
 * TIME-WAIT as a record of two lines. All of them last equally long, so they form one queue in order of their end and
 * need no wheel. An early end is safe when timestamps or numbers prove a SYN to be new (RFC 6191, RFC 9293 MAY-2), and
 * forced when the table is full (the oldest goes). RSTs do not end it (RFC 1337).
 */
#include "engines/tcp/tcp_conn.h"
#include "engines/tcp/tcp_output.h"

#define ISS_STEP  65537u /* beyond any number of the old connection */
#define ACK_EVERY TCP_COARSE_MS(500)

static struct tcp_wait *wait_at(struct tcp_engine *st, uint32_t index) {
    return (struct tcp_wait *)arena_record(st, &st->a.table[TCP_TABLE_WAIT], index);
}

void tcp_wait_link(struct tcp_engine *st, uint32_t index) {
    struct tcp_wait *w = wait_at(st, index);
    w->prev = st->wait_tail;
    w->next = TCP_NIL;
    if (st->wait_tail != TCP_NIL)
        wait_at(st, st->wait_tail)->next = index;
    else
        st->wait_head = index;
    st->wait_tail = index;
}

static void unlink_wait(struct tcp_engine *st, uint32_t index) {
    struct tcp_wait *w = wait_at(st, index);
    if (w->prev != TCP_NIL)
        wait_at(st, w->prev)->next = w->next;
    else
        st->wait_head = w->next;
    if (w->next != TCP_NIL)
        wait_at(st, w->next)->prev = w->prev;
    else
        st->wait_tail = w->prev;
}

void tcp_wait_release(struct tcp_engine *st, uint32_t index) {
    unlink_wait(st, index);
    hash_index_remove(&st->wait_ix, &st->a, index);
    arena_release(&st->a.table[TCP_TABLE_WAIT], wait_at(st, index), index);
}

/* The connection's record goes when its change ends; until then both exist, and the connection is found first. */
void tcp_wait_enter(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_engine *st = x->st;
    struct arena_table *t = &st->a.table[TCP_TABLE_WAIT];
    if (c->flags & TCP_F_ACK_NOW)
        tcp_send_ack(x, c); /* of the FIN */
    uint32_t index;
    struct tcp_wait *w = (struct tcp_wait *)arena_take(st, t, &index);
    if (w == NULL && st->wait_head != TCP_NIL) {
        ENGINE_COUNT(x->io, TCP_COUNT_WAIT_EVICT);
        tcp_wait_release(st, st->wait_head);
        w = (struct tcp_wait *)arena_take(st, t, &index);
    }
    if (w == NULL)
        return;
    const struct arena_record keep = w->r;
    *w = (struct tcp_wait){.r = keep,
                           .flow = c->flow,
                           .snd_nxt = c->snd_nxt,
                           .rcv_nxt = c->rcv_nxt,
                           .rcv_wnd = c->rcv_adv - c->rcv_nxt,
                           .ts_recent = c->ts_recent,
                           .ts_recent_at = c->ts_recent_at,
                           .ts_off = tcp_cold(st, c)->ts_off,
                           .until = x->coarse + TCP_COARSE_MS(st->cfg.time_wait_ms),
                           .has_ts = (c->flags & TCP_F_TS) != 0,
                           .rcv_wscale = (uint8_t)tcp_rcv_scale(c),
                           .tos = tcp_cold(st, c)->tos,
                           .same_host = (c->flags & TCP_F_LOCAL) != 0,
                           .born_at = x->coarse};
    arena_publish(t, w);
    hash_index_insert(&st->wait_ix, &st->a, index, hash_flow(&st->key, &w->flow));
    tcp_wait_link(st, index);
}

bool tcp_wait_yield(struct tcp_ctx *x, uint32_t index, const struct tcp_rx *rx, const struct tcp_opts *o,
                    uint32_t *ret_iss) {
    const struct tcp_wait *w = wait_at(x->st, index);
    bool newer = seq_after(rx->seq, w->rcv_nxt);
    if (w->has_ts && (o->present & TCP_O_TS))
        newer = seq_after(o->tsval, w->ts_recent) || (o->tsval == w->ts_recent && newer);
    if (!newer)
        return false;
    ENGINE_COUNT(x->io, TCP_COUNT_WAIT_REUSE);
    *ret_iss = w->snd_nxt + ISS_STEP;
    *ret_iss += *ret_iss == 0;
    tcp_wait_release(x->st, index);
    return true;
}

/* RFC 9293 section 3.10.7.4 for TIME-WAIT: a FIN that comes again is acknowledged and starts the time anew. */
void tcp_wait_input(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t index) {
    struct tcp_engine *st = x->st;
    struct tcp_wait *w = wait_at(st, index);
    bool fin = (rx->flags & TCP_FIN) && rx->seq + rx->len + 1 == w->rcv_nxt;
    if (fin) {
        w->until = x->coarse + TCP_COARSE_MS(st->cfg.time_wait_ms);
        unlink_wait(st, index);
        tcp_wait_link(st, index);
    }
    bool odd = rx->len != 0 || (rx->flags & (TCP_SYN | TCP_FIN)) || rx->seq != w->rcv_nxt;
    if (!(rx->flags & TCP_RST) && odd && (fin || x->coarse - w->acked_at >= ACK_EVERY)) {
        uint8_t opts[TCP_OPTS_TS];
        w->acked_at = x->coarse;
        struct tcp_head h = {.flow = &w->flow,
                             .seq = w->snd_nxt,
                             .ack = w->rcv_nxt,
                             .wnd = (uint16_t)min_u32(w->rcv_wnd >> w->rcv_wscale, 65535),
                             .flags = TCP_ACK,
                             .tos = w->tos,
                             .opts = opts,
                             .sock = TCP_NIL};
        if (w->has_ts)
            h.opts_len = (uint8_t)tcp_opts_write_ts(opts, x->coarse + w->ts_off, w->ts_recent);
        (void)tcp_emit(x, &h);
    }
    (void)pkt_vec_push(x->io->done, rx->p);
}

uint32_t tcp_wait_run(struct tcp_ctx *x, uint32_t budget) {
    struct tcp_engine *st = x->st;
    uint32_t n = 0;
    while (n < budget && st->wait_head != TCP_NIL && time_reached(x->coarse, wait_at(st, st->wait_head)->until)) {
        tcp_wait_release(st, st->wait_head);
        n++;
    }
    return n;
}
