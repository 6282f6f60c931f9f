/* SPDX-License-Identifier: Apache-2.0
 *
 * The scoreboard as an index-linked list. See tcp_seg.h. A range covers everything that one call of output sent in one
 * piece, so bulk transfer costs one record per 64 KiB; a cumulative ACK that falls inside a range only moves its start.
 */
#include "engines/tcp/tcp_seg.h"

static uint32_t seg_len(const struct tcp_seg *s) {
    return s->end - s->seq;
}

static void seg_free(struct tcp_engine *st, uint32_t index) {
    arena_release(&st->a.table[TCP_TABLE_SEG], tcp_seg_at(st, index), index);
}

static struct tcp_seg *seg_take(struct tcp_ctx *x, struct tcp_conn *c, uint32_t *ret_index) {
    struct arena_table *t = &x->st->a.table[TCP_TABLE_SEG];
    struct tcp_seg *s = (struct tcp_seg *)arena_take(x->st, t, ret_index);
    if (s == NULL)
        return NULL;
    arena_publish(t, s);
    c->seg_count++;
    return s;
}

/* The rate sample of a range begins when nothing was in flight, or at the last delivery (BBR's delivery rate). So does
 * RACK's memory: nothing is left to be overtaken, and a stamp of half the clock's circle ago (36 minutes, or none yet)
 * would look like one that is still to come. */
static void stamp(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_seg *s) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    if (c->snd_una == c->snd_nxt) {
        k->first_sent = x->tick;
        k->delivered_at = x->tick;
        k->rack_sent = x->tick;
        k->rack_end = c->snd_una;
    }
    s->sent = x->tick;
    s->delivered = k->delivered;
    s->delivered_at = k->delivered_at;
    s->first_sent = k->first_sent;
}

bool tcp_seg_append(struct tcp_ctx *x, struct tcp_conn *c, uint32_t seq, uint32_t end, uint8_t flags,
                    struct tcp_cursor at) {
    struct tcp_engine *st = x->st;
    if (c->seg_tail != TCP_NIL) {
        struct tcp_seg *tail = tcp_seg_at(st, c->seg_tail);
        if (tail->sent == x->tick && ((tail->flags | flags) & ~TCP_SEG_APP_LIMITED) == 0) {
            tail->end = end;
            return true;
        }
    }
    uint32_t index;
    struct tcp_seg *s = seg_take(x, c, &index);
    if (s == NULL)
        return false;
    s->seq = seq;
    s->end = end;
    s->next = TCP_NIL;
    s->item = at.item;
    s->item_off = at.off;
    s->flags = flags;
    stamp(x, c, s);
    if (tcp_cold(st, c)->app_limited != 0)
        s->flags |= TCP_SEG_APP_LIMITED;
    if (c->seg_tail != TCP_NIL)
        tcp_seg_at(st, c->seg_tail)->next = index;
    else
        c->seg_head = index;
    c->seg_tail = index;
    return true;
}

bool tcp_seg_split(struct tcp_ctx *x, struct tcp_conn *c, uint32_t index, uint32_t at) {
    struct tcp_engine *st = x->st;
    struct tcp_seg *s = tcp_seg_at(st, index);
    uint32_t second;
    DCHECK(seq_after(at, s->seq) && seq_before(at, s->end));
    struct tcp_seg *n = seg_take(x, c, &second);
    if (n == NULL)
        return false;
    struct tcp_cursor cur = {s->item, s->item_off};
    tcp_cursor_skip(st, &cur, at - s->seq);
    uint8_t fin = s->flags & TCP_SEG_FIN;
    const struct arena_record keep = n->r;
    *n = *s;
    n->r = keep;
    n->seq = at;
    n->item = cur.item;
    n->item_off = cur.off;
    s->end = at;
    s->next = second;
    s->flags = (uint8_t)(s->flags & ~(fin | TCP_SEG_PROBE)); /* a part of a probe proves nothing */
    n->flags = (uint8_t)(n->flags & ~TCP_SEG_PROBE);
    if (c->seg_tail == index)
        c->seg_tail = second;
    return true;
}

/* The first `len` bytes of a range reached the peer: round trip, RACK's clock, rate sample. What follows them in the
 * range left later, in the same burst: it must not look overtaken. */
static void took(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_seg *s, uint32_t len, struct tcp_acked *a) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t end = s->seq + len;
    a->delivered += len;
    k->delivered += len;
    if (UNLIKELY(s->flags & TCP_SEG_PROBE) && len == seg_len(s))
        a->probe = len;
    uint32_t rtt = x->tick - s->sent;
    if (s->flags & TCP_SEG_EVER) {
        a->repeated = true;
        /* An answer faster than the path can be is the answer to an earlier transmission. RFC 8985 section 6.2. */
        if (k->min_rtt != UINT32_MAX && rtt < k->min_rtt) {
            a->overtaken |= seq_before(s->end, a->fack);
            return;
        }
    } else {
        if (a->rtt == UINT32_MAX)
            a->rtt = rtt;
        a->rtt_last = rtt;
        a->overtaken |= seq_before(s->end, a->fack);
    }
    if (a->sent_at == 0 || !seq_before(s->sent, a->sent_at)) {
        a->prior_delivered = s->delivered;
        a->prior_at = s->delivered_at;
        a->sent_at = s->sent;
        a->first_sent = s->first_sent;
        a->app_limited = s->flags & TCP_SEG_APP_LIMITED;
    }
    if (seq_after(s->sent, k->rack_sent) || (s->sent == k->rack_sent && seq_after(end, k->rack_end))) {
        k->rack_sent = s->sent;
        k->rack_end = end;
        k->rack_rtt = rtt;
    }
}

static void uncount(struct tcp_conn *c, const struct tcp_seg *s, uint32_t len) {
    if (s->flags & TCP_SEG_SACKED)
        c->sacked -= len;
    if (s->flags & TCP_SEG_LOST)
        c->lost -= len;
    if (s->flags & TCP_SEG_RETRANS)
        c->retrans -= len;
}

void tcp_seg_ack(struct tcp_ctx *x, struct tcp_conn *c, uint32_t ack, struct tcp_acked *a) {
    struct tcp_engine *st = x->st;
    while (c->seg_head != TCP_NIL) {
        uint32_t index = c->seg_head;
        struct tcp_seg *s = tcp_seg_at(st, index);
        if (!seq_before(s->seq, ack))
            break;
        bool whole = !seq_after(s->end, ack);
        uint32_t len = whole ? seg_len(s) : ack - s->seq;
        uncount(c, s, len);
        if (!(s->flags & TCP_SEG_SACKED))
            took(x, c, s, len, a);
        if (!whole) {
            struct tcp_cursor cur = {s->item, s->item_off};
            tcp_cursor_skip(st, &cur, len);
            s->item = cur.item;
            s->item_off = cur.off;
            s->seq = ack;
            s->flags = (uint8_t)(s->flags & ~TCP_SEG_PROBE);
            break;
        }
        a->syn |= (s->flags & TCP_SEG_SYN) != 0;
        a->fin |= (s->flags & TCP_SEG_FIN) != 0;
        c->seg_head = s->next;
        c->seg_count--;
        seg_free(st, index);
    }
    if (c->seg_head == TCP_NIL)
        c->seg_tail = TCP_NIL;
}

void tcp_seg_sack(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_range block, struct tcp_acked *a) {
    struct tcp_engine *st = x->st;
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(st, i)->next) {
        struct tcp_seg *s = tcp_seg_at(st, i);
        if (!seq_before(s->seq, block.end))
            break;
        if (!seq_after(s->end, block.start) || (s->flags & TCP_SEG_SACKED))
            continue;
        bool head = seq_before(s->seq, block.start), tail = seq_after(s->end, block.end);
        if ((head || tail) && c->seg_count >= TCP_SEG_PER_CONN) {
            ENGINE_COUNT(x->io, TCP_COUNT_SACK_LIMIT);
            continue;
        }
        if (head) {
            if (!tcp_seg_split(x, c, i, block.start))
                return;
            continue; /* the second half comes next */
        }
        if (tail && !tcp_seg_split(x, c, i, block.end))
            return;
        uncount(c, s, seg_len(s));
        took(x, c, s, seg_len(s), a);
        s->flags = (uint8_t)((s->flags & ~(TCP_SEG_LOST | TCP_SEG_RETRANS)) | TCP_SEG_SACKED);
        c->sacked += seg_len(s);
    }
}

void tcp_seg_mark_lost(struct tcp_conn *c, struct tcp_seg *s, struct tcp_acked *a) {
    uint32_t len = seg_len(s);
    if (!(s->flags & TCP_SEG_LOST))
        c->lost += len;
    if (s->flags & TCP_SEG_RETRANS)
        c->retrans -= len;
    if (a != NULL)
        a->lost += len;
    if (UNLIKELY(s->flags & TCP_SEG_PROBE) && a != NULL)
        a->probe_lost += len;
    s->flags = (uint8_t)((s->flags & ~(TCP_SEG_RETRANS | TCP_SEG_PROBE)) | TCP_SEG_LOST);
}

void tcp_seg_mark_all_lost(struct tcp_ctx *x, struct tcp_conn *c, bool forget) {
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(x->st, i)->next) {
        struct tcp_seg *s = tcp_seg_at(x->st, i);
        if (forget && (s->flags & TCP_SEG_SACKED)) {
            c->sacked -= seg_len(s);
            s->flags = (uint8_t)(s->flags & ~TCP_SEG_SACKED);
        }
        if (!(s->flags & TCP_SEG_SACKED))
            tcp_seg_mark_lost(c, s, NULL);
    }
}

void tcp_seg_repeated(struct tcp_ctx *x, struct tcp_conn *c, struct tcp_seg *s) {
    if (!(s->flags & TCP_SEG_RETRANS))
        c->retrans += seg_len(s);
    if (!(s->flags & TCP_SEG_LOST))
        c->lost += seg_len(s); /* a probe of what may still be on its way: in flight once, as a repetition */
    s->flags = (uint8_t)(s->flags | TCP_SEG_RETRANS | TCP_SEG_EVER | TCP_SEG_LOST);
    stamp(x, c, s);
}

uint32_t tcp_seg_first_lost(struct tcp_engine *st, const struct tcp_conn *c) {
    uint32_t i = c->seg_head;
    while (i != TCP_NIL && (tcp_seg_at(st, i)->flags & (TCP_SEG_LOST | TCP_SEG_RETRANS)) != TCP_SEG_LOST)
        i = tcp_seg_at(st, i)->next;
    return i;
}

/* The loss was none: what is marked and not sent again is in flight after all. */
void tcp_seg_clear_lost(struct tcp_engine *st, struct tcp_conn *c) {
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(st, i)->next) {
        struct tcp_seg *s = tcp_seg_at(st, i);
        if ((s->flags & (TCP_SEG_LOST | TCP_SEG_RETRANS)) == TCP_SEG_LOST) {
            c->lost -= seg_len(s);
            s->flags = (uint8_t)(s->flags & ~TCP_SEG_LOST);
        }
    }
}

void tcp_seg_release_all(struct tcp_engine *st, struct tcp_conn *c) {
    while (c->seg_head != TCP_NIL) {
        uint32_t next = tcp_seg_at(st, c->seg_head)->next;
        seg_free(st, c->seg_head);
        c->seg_head = next;
    }
    c->seg_tail = TCP_NIL;
    c->seg_count = 0;
    c->sacked = c->lost = c->retrans = 0;
}
