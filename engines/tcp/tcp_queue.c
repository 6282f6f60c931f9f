/* SPDX-License-Identifier: Apache-2.0
 *
 * Send queues as index-linked items. See tcp_queue.h. An item is filled and published before the connection points to
 * it; a piece that follows its predecessor in memory only lengthens it, so a client that fills its region in order
 * costs one item however often it sends. Recovery cuts the last item to what the connection's record says.
 */
#include "engines/tcp/tcp_queue.h"

#define ADVICE_MIN     (64u << 10)
#define ITEM_BYTES_MAX (1u << 30)

static bool extend_tail(struct tcp_ctx *x, struct tcp_conn *c, uint32_t off, uint32_t len) {
    if (c->q_tail == TCP_NIL)
        return false;
    struct tcp_item *tail = tcp_item_at(x->st, c->q_tail);
    if (tail->kept != TCP_NIL || tail->off + tail->len != off || tail->len + len > ITEM_BYTES_MAX)
        return false;
    if (c->q_next == TCP_NIL) { /* everything before it was sent */
        c->q_next = c->q_tail;
        c->q_next_off = tail->len;
    }
    tail->len += len;
    c->snd_end += len;
    return true;
}

bool tcp_queue_push(struct tcp_ctx *x, struct tcp_conn *c, uint32_t off, uint32_t len, uint32_t kept) {
    struct tcp_engine *st = x->st;
    if (kept == TCP_NIL && extend_tail(x, c, off, len))
        return true;
    uint32_t index;
    struct tcp_item *item = (struct tcp_item *)arena_take(st, &st->a.table[TCP_TABLE_ITEM], &index);
    if (item == NULL)
        return false;
    item->off = off;
    item->len = len;
    item->next = TCP_NIL;
    item->kept = kept;
    arena_publish(&st->a.table[TCP_TABLE_ITEM], item);
    if (c->q_tail != TCP_NIL) {
        tcp_item_at(st, c->q_tail)->next = index;
    } else {
        c->q_head = index;
        c->q_head_off = 0;
    }
    c->q_tail = index;
    if (c->q_next == TCP_NIL) {
        c->q_next = index;
        c->q_next_off = 0;
    }
    c->snd_end += len;
    return true;
}

void tcp_cursor_skip(struct tcp_engine *st, struct tcp_cursor *cur, uint32_t n) {
    while (cur->item != TCP_NIL) {
        const struct tcp_item *item = tcp_item_at(st, cur->item);
        uint32_t left = item->len - cur->off;
        if (n < left) {
            cur->off += n;
            return;
        }
        n -= left;
        cur->item = item->next;
        cur->off = 0;
    }
    DCHECK(n == 0);
}

void tcp_queue_acked(struct tcp_ctx *x, struct tcp_conn *c, uint32_t n) {
    if (n == 0)
        return;
    struct tcp_cursor cur = {c->q_head, c->q_head_off};
    tcp_cursor_skip(x->st, &cur, n);
    if (cur.item != c->q_head) {
        if (x->free_item == x->free_item_end)
            x->free_item = c->q_head;
        x->free_item_end = cur.item;
    }
    c->q_head = cur.item;
    c->q_head_off = cur.off;
    if (cur.item == TCP_NIL)
        c->q_tail = TCP_NIL;
    c->tx_done += n;
}

void tcp_queue_release(struct tcp_ctx *x, uint32_t from, uint32_t end) {
    struct tcp_engine *st = x->st;
    while (from != end && from != TCP_NIL) {
        struct tcp_item *item = tcp_item_at(st, from);
        uint32_t next = item->next, kept = item->kept;
        arena_release(&st->a.table[TCP_TABLE_ITEM], item, from);
        if (kept != TCP_NIL)
            tcp_bury(x, kept);
        from = next;
    }
}

uint32_t tcp_queue_advice(const struct tcp_engine *st, const struct tcp_conn *c) {
    return min_u32(max_u32(2 * min_u32(c->cwnd, UINT32_MAX / 4), ADVICE_MIN), st->cfg.sndbuf_max);
}

const uint8_t *tcp_queue_bytes(struct tcp_ctx *x, const struct tcp_conn *c, const struct tcp_cursor *cur, uint32_t max,
                               uint32_t *ret_len) {
    const struct tcp_item *item = tcp_item_at(x->st, cur->item);
    *ret_len = min_u32(item->len - cur->off, max);
    if (UNLIKELY(item->kept != TCP_NIL))
        return tcp_kept(x, item->kept)->data + cur->off;
    uint32_t slot = SINK_INDEX(c->sink);
    if (UNLIKELY(slot >= x->io->region_count))
        return NULL;
    const struct engine_region *r = &x->io->regions[slot];
    uint64_t at = (uint64_t)item->off + cur->off;
    if (UNLIKELY(r->base == NULL || at + *ret_len > r->size))
        return NULL;
    return r->base + at;
}
