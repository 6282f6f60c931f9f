/* SPDX-License-Identifier: Apache-2.0
 *
 * Invariants of the whole state, and its repair after a crash. check() names what is broken by a number (the comments
 * of enum broken); tests and the simulator call it after every step. Recovery believes records only: it rebuilds what
 * is derived, and removes records that no code of ours could have left behind.
 */
#include "engines/tcp/tcp_cc.h"
#include "engines/tcp/tcp_cmds.h"
#include "engines/tcp/tcp_loss.h"
#include "engines/tcp/tcp_syn.h"

#define MSS_MAX 65483u      /* IPv4 */
#define MARKED  0x7ffffff0u /* in free_next of a live item: some connection reaches it */

enum broken {
    BROKEN_UNDO = 1,   /* a change is open */
    BROKEN_STATE,      /* state or flags that do not go together */
    BROKEN_SEQUENCE,   /* snd_una <= snd_nxt <= snd_end (+ FIN) does not hold */
    BROKEN_SCOREBOARD, /* ranges do not cover snd_una..snd_nxt without gaps */
    BROKEN_COUNTS,     /* sacked, lost, retrans are not the sums over the ranges */
    BROKEN_QUEUE,      /* items do not add up to snd_una..snd_end */
    BROKEN_CURSOR,     /* q_next is not the place of snd_nxt */
    BROKEN_WINDOW,     /* the promised edge is behind what came */
    BROKEN_TIMER,      /* something is in flight and no timer watches it */
    BROKEN_INDEX,      /* a record is not found by its flow */
    BROKEN_LEAK,       /* items or ranges that nothing reaches */
    BROKEN_LISTENER,   /* its counts are wrong */
    BROKEN_WAIT,       /* TIME-WAIT queue */
    BROKEN_HELD,       /* what readers hold is not the sum over the connections */
    BROKEN_CWND,       /* window, segment size or timeout out of range */
};

static struct tcp_conn *live_conn(struct tcp_engine *st, uint32_t i) {
    return (struct tcp_conn *)arena_lookup(st, &st->a.table[TCP_TABLE_CONN], i);
}

/* Sequence number of the first queued byte, and of the one behind the last. */
static uint32_t queue_start(const struct tcp_conn *c) {
    uint32_t start = seq_max(c->snd_una, c->iss + 1);
    return seq_min(start, c->snd_end);
}

static uint32_t queue_position(const struct tcp_conn *c) {
    return seq_min(seq_max(c->snd_nxt, c->iss + 1), c->snd_end);
}

int tcp_check_fields(const struct tcp_conn *c) {
    if (c->state == TCP_STATE_CLOSED || c->state == TCP_STATE_LISTEN || c->state > TCP_STATE_TIME_WAIT ||
        c->flow.proto != PROTO_TCP)
        return BROKEN_STATE;
    bool sent = c->flags & TCP_F_FIN_SENT, rcvd = c->flags & TCP_F_FIN_RCVD;
    static const uint8_t fins[TCP_STATE_COUNT] = {
        [TCP_STATE_FIN_WAIT_1] = 1, [TCP_STATE_FIN_WAIT_2] = 1, [TCP_STATE_CLOSE_WAIT] = 2,
        [TCP_STATE_CLOSING] = 3,    [TCP_STATE_LAST_ACK] = 3,   [TCP_STATE_TIME_WAIT] = 3};
    bool want_sent = fins[c->state] & 1, want_rcvd = fins[c->state] & 2;
    if (sent != want_sent || rcvd != want_rcvd || (sent && !(c->flags & TCP_F_FIN_QUEUED)))
        return BROKEN_STATE;
    uint32_t end = c->snd_end + sent;
    if (seq_after(c->snd_una, c->snd_nxt) || seq_after(seq_max(c->snd_nxt, c->iss + 1), end) ||
        (sent && c->snd_nxt != end))
        return BROKEN_SEQUENCE;
    if (seq_before(c->rcv_adv, c->rcv_nxt) && !(c->flags & TCP_F_FIN_RCVD))
        return BROKEN_WINDOW;
    bool sizes = c->mss != 0 && c->mss <= MSS_MAX && c->cwnd != 0 && c->rto != 0;
    return !sizes ? BROKEN_CWND : 0;
}

static int check_scoreboard(struct tcp_engine *st, const struct tcp_conn *c, uint32_t *segs) {
    uint32_t at = c->snd_una, sacked = 0, lost = 0, retrans = 0, n = 0;
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(st, i)->next) {
        const struct tcp_seg *s = tcp_seg_at(st, i);
        uint32_t len = s->end - s->seq;
        if (s->seq != at || !seq_before(s->seq, s->end) || !(s->r.generation & 1) ||
            (s->next == TCP_NIL) != (i == c->seg_tail))
            return BROKEN_SCOREBOARD;
        if ((s->flags & TCP_SEG_SACKED) && (s->flags & (TCP_SEG_LOST | TCP_SEG_RETRANS)))
            return BROKEN_SCOREBOARD;
        sacked += s->flags & TCP_SEG_SACKED ? len : 0;
        lost += s->flags & TCP_SEG_LOST ? len : 0;
        retrans += s->flags & TCP_SEG_RETRANS ? len : 0;
        at = s->end;
        n++;
    }
    if (at != c->snd_nxt || n != c->seg_count)
        return BROKEN_SCOREBOARD;
    *segs += n;
    return sacked != c->sacked || lost != c->lost || retrans != c->retrans ? BROKEN_COUNTS : 0;
}

static int check_queue(struct tcp_engine *st, const struct tcp_conn *c, uint32_t *items) {
    uint32_t sum = 0, want = c->snd_end - queue_start(c), position = queue_position(c) - queue_start(c);
    bool found = false;
    for (uint32_t i = c->q_head; i != TCP_NIL; i = tcp_item_at(st, i)->next) {
        const struct tcp_item *item = tcp_item_at(st, i);
        uint32_t skip = i == c->q_head ? c->q_head_off : 0;
        if (!(item->r.generation & 1) || item->len <= skip || (item->next == TCP_NIL) != (i == c->q_tail))
            return BROKEN_QUEUE;
        if (i == c->q_next)
            found = sum + c->q_next_off - skip == position;
        sum += item->len - skip;
        (*items)++;
        if (sum > want)
            return BROKEN_QUEUE;
    }
    if (sum != want)
        return BROKEN_QUEUE;
    return found == (position != want) ? 0 : BROKEN_CURSOR;
}

static bool in_index(const struct tcp_engine *st, const struct hash_index *ix, uint32_t index) {
    uint32_t i = hash_index_first(ix, &st->a, hash_index_link(ix, &st->a, index)->hash);
    while (i != ARENA_NIL && i != index)
        i = hash_index_next(ix, &st->a, i);
    return i == index;
}

static int check_conn(struct tcp_engine *st, uint32_t i, uint32_t *segs, uint32_t *items) {
    const struct tcp_conn *c = live_conn(st, i);
    int broken = tcp_check_fields(c);
    if (broken == 0)
        broken = check_scoreboard(st, c, segs);
    if (broken == 0)
        broken = check_queue(st, c, items);
    if (broken != 0)
        return broken;
    if (!in_index(st, &st->conn_ix, i))
        return BROKEN_INDEX;
    if (tcp_is_frozen(st, c))
        return 0; /* not on the wheel, whatever it waits for */
    bool watched = c->rtx != TCP_RTX_NONE && (c->flags & TCP_F_ARMED) && wheel_armed(tcp_wheel(st), i);
    if (c->snd_una != c->snd_nxt && !watched)
        return BROKEN_TIMER;
    return !(c->flags & TCP_F_ARMED) != !wheel_armed(tcp_wheel(st), i) ? BROKEN_TIMER : 0;
}

static int check_listeners(struct tcp_engine *st) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_LISTENER];
    for (uint32_t i = 0; i < t->high_water; i++) {
        const struct tcp_listener *l = tcp_listener_at(st, i);
        uint32_t pending = 0, half = 0;
        if (l == NULL)
            continue;
        for (uint32_t k = 0; k < st->a.table[TCP_TABLE_CONN].high_water; k++) {
            const struct tcp_conn *c = live_conn(st, k);
            pending += c != NULL && tcp_cold_at(st, k)->listener == i && !(c->flags & TCP_F_ADOPTED);
        }
        for (uint32_t k = 0; k < st->a.table[TCP_TABLE_HALF].high_water; k++) {
            const struct tcp_half *h = (const struct tcp_half *)arena_lookup(st, &st->a.table[TCP_TABLE_HALF], k);
            half += h != NULL && h->listener == i;
        }
        if (pending != l->pending || half != l->half || !in_index(st, &st->listener_ix, i))
            return BROKEN_LISTENER;
    }
    return 0;
}

static int check_waits(struct tcp_engine *st) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_WAIT];
    uint32_t n = 0, prev = TCP_NIL;
    for (uint32_t i = st->wait_head; i != TCP_NIL && n <= t->live; n++) {
        const struct tcp_wait *w = (const struct tcp_wait *)arena_lookup(st, t, i);
        if (w == NULL || w->prev != prev || !in_index(st, &st->wait_ix, i))
            return BROKEN_WAIT;
        prev = i;
        i = w->next;
    }
    return n == t->live && prev == st->wait_tail ? 0 : BROKEN_WAIT;
}

int tcp_check(const void *state) {
    struct tcp_engine *st = (struct tcp_engine *)(uintptr_t)state;
    uint32_t segs = 0, items = 0, held = 0;
    if (st->a.undo_open)
        return BROKEN_UNDO;
    for (uint32_t i = 0; i < st->a.table[TCP_TABLE_CONN].high_water; i++) {
        const struct tcp_conn *c = live_conn(st, i);
        held += c != NULL ? c->rcv_held : 0;
        int broken = c != NULL ? check_conn(st, i, &segs, &items) : 0;
        if (broken != 0)
            return broken;
    }
    if (segs != st->a.table[TCP_TABLE_SEG].live || items != st->a.table[TCP_TABLE_ITEM].live)
        return BROKEN_LEAK;
    if (held != st->rx_held)
        return BROKEN_HELD;
    int broken = check_listeners(st);
    return broken != 0 ? broken : check_waits(st);
}

/* ---- recovery ---- */

/* Walks the queue from its head: marks items, cuts what was appended and never committed. False: it does not reach as
 * far as the record says, or holds packets, which died. */
static bool repair_queue(struct tcp_engine *st, struct tcp_conn *c) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_ITEM];
    uint32_t want = c->snd_end - queue_start(c), steps = 0;
    uint64_t sum = 0;
    if (want == 0) {
        c->q_head = c->q_tail = c->q_next = TCP_NIL;
        return true;
    }
    for (uint32_t i = c->q_head; steps <= t->live; steps++) {
        struct tcp_item *item = (struct tcp_item *)arena_lookup(st, t, i);
        uint32_t skip = i == c->q_head ? c->q_head_off : 0;
        if (item == NULL || item->kept != TCP_NIL || item->len <= skip || item->r.free_next == MARKED)
            return false;
        sum += item->len - skip;
        item->r.free_next = MARKED;
        if (sum >= want) {
            item->len -= (uint32_t)(sum - want);
            item->next = TCP_NIL;
            c->q_tail = i;
            break;
        }
        i = item->next;
    }
    struct tcp_cursor cur = {c->q_head, c->q_head_off};
    tcp_cursor_skip(st, &cur, queue_position(c) - queue_start(c));
    c->q_next = cur.item;
    c->q_next_off = cur.off;
    return sum >= want;
}

/* What was in flight is one range (two with a SYN), sent "just now": the timer finds out what became of it. */
static bool repair_flight(struct tcp_ctx *x, struct tcp_conn *c) {
    c->seg_head = c->seg_tail = TCP_NIL;
    c->seg_count = c->sacked = c->lost = c->retrans = 0;
    c->ca = TCP_CA_OPEN;
    c->dupacks = 0;
    c->backoff = 0; /* the silence was ours */
    uint32_t at = x->tick + tcp_rto(c);
    if (c->rtx != TCP_RTX_NONE) /* deaths that follow each other must not put it off for ever */
        at = seq_min(at, c->rtx_at);
    c->rtx = TCP_RTX_NONE;
    if (c->snd_una == c->snd_nxt)
        return true;
    uint32_t from = c->snd_una;
    struct tcp_cursor none = {TCP_NIL, 0}, head = {c->q_head, c->q_head_off};
    if (from == c->iss) {
        if (!tcp_seg_append(x, c, from, from + 1, TCP_SEG_SYN | TCP_SEG_EVER, none))
            return false;
        from++;
    }
    uint8_t fin = c->flags & TCP_F_FIN_SENT ? TCP_SEG_FIN : 0;
    if (from != c->snd_nxt && !tcp_seg_append(x, c, from, c->snd_nxt, TCP_SEG_EVER | fin, head))
        return false;
    c->rtx = TCP_RTX_RTO;
    c->rtx_at = at;
    return true;
}

static bool repair_conn(struct tcp_ctx *x, uint32_t i) {
    struct tcp_engine *st = x->st;
    struct tcp_conn *c = live_conn(st, i);
    struct tcp_cold *k = tcp_cold_at(st, i);
    c->flags &= ~(uint32_t)(TCP_F_TOUCHED | TCP_F_ARMED | TCP_F_STALLED | TCP_F_TLP);
    c->ooo_head = c->ooo_tail = TCP_NIL;
    c->ooo_bytes = 0;
    c->cwnd = max_u32(c->cwnd, c->mss);
    memset(k->sack, 0, sizeof k->sack);
    k->stuck_at = 0;
    k->dsack = (struct tcp_range){0, 0};
    /* Nobody was told of a connection that is not adopted, unless somebody gave it away: see half_again(). */
    if ((!(c->flags & TCP_F_ADOPTED) && k->listener != TCP_NIL) || tcp_check_fields(c) != 0 || !repair_queue(st, c) ||
        !repair_flight(x, c))
        return false;
    uint32_t hash = hash_flow(&st->key, &c->flow);
    if (tcp_find_conn(st, &c->flow, hash) != TCP_NIL)
        return false;
    hash_index_insert(&st->conn_ix, &st->a, i, hash);
    st->rx_held += c->rcv_held;
    c->flags |= TCP_F_ARMED;
    c->wake_at = x->tick;
    wheel_arm(tcp_wheel(st), i, st->now);
    struct tcp_listener *l = tcp_listener_at(st, k->listener);
    if (l == NULL)
        k->listener = TCP_NIL;
    else
        l->open++;
    return true;
}

/* Nobody here was told of it: it is half open again, and its peer will not notice. */
static void half_again(struct tcp_engine *st, const struct tcp_conn *c, const struct tcp_cold *k) {
    uint32_t index;
    if (!(c->flags & TCP_F_ADOPTED) && k->listener != TCP_NIL)
        (void)tcp_half_again(st, c, k, &index); /* repair_halves() comes */
}

static void free_unmarked(struct tcp_engine *st) {
    struct arena_table *t = &st->a.table[TCP_TABLE_ITEM];
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct tcp_item *item = (struct tcp_item *)arena_lookup(st, t, i);
        if (item != NULL && item->r.free_next != MARKED)
            arena_release(t, item, i);
    }
}

static void clear_marks(struct tcp_engine *st) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_ITEM];
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct tcp_item *item = (struct tcp_item *)arena_lookup(st, t, i);
        if (item != NULL)
            item->r.free_next = TCP_NIL;
    }
}

static void release_all(struct tcp_engine *st, enum tcp_table table) {
    struct arena_table *t = &st->a.table[table];
    for (uint32_t i = 0; i < t->high_water; i++) {
        void *record = arena_lookup(st, t, i);
        if (record != NULL)
            arena_release(t, record, i);
    }
}

static void repair_listeners(struct tcp_engine *st) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_LISTENER];
    hash_index_clear(&st->listener_ix, &st->a);
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct tcp_listener *l = tcp_listener_at(st, i);
        if (l == NULL)
            continue;
        l->half = l->pending = l->open = l->fastopen_used = 0;
        tcp_listener_index(st, i);
    }
}

static void repair_halves(struct tcp_engine *st) {
    struct arena_table *t = &st->a.table[TCP_TABLE_HALF];
    hash_index_clear(&st->half_ix, &st->a);
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct tcp_half *h = (struct tcp_half *)arena_record(st, t, i);
        memset(&h->node, 0, sizeof h->node);
        if (!(h->r.generation & 1))
            continue;
        uint32_t hash = hash_flow(&st->key, &h->flow);
        struct tcp_listener *l = tcp_listener_at(st, h->listener);
        if ((l == NULL && h->listener != TCP_NIL) || tcp_find_conn(st, &h->flow, hash) != TCP_NIL ||
            tcp_find_half(st, &h->flow, hash) != TCP_NIL) {
            arena_release(t, h, i);
            continue;
        }
        tcp_half_link(st, i, st->now + NS_PER_SEC);
        if (l != NULL)
            l->half++;
    }
}

static void repair_waits(struct tcp_engine *st) {
    struct arena_table *t = &st->a.table[TCP_TABLE_WAIT];
    hash_index_clear(&st->wait_ix, &st->a);
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct tcp_wait *w = (struct tcp_wait *)arena_lookup(st, t, i);
        if (w == NULL)
            continue;
        uint32_t hash = hash_flow(&st->key, &w->flow);
        if (tcp_find_conn(st, &w->flow, hash) != TCP_NIL || tcp_find_wait(st, &w->flow, hash) != TCP_NIL) {
            arena_release(t, w, i);
            continue;
        }
        hash_index_insert(&st->wait_ix, &st->a, i, hash);
        tcp_wait_link(st, i);
    }
}

uint32_t tcp_recover_records(struct tcp_engine *st) {
    struct tcp_ctx x = {.st = st, .tick = tcp_tick(st->now), .coarse = tcp_coarse(st->now), .open = TCP_NIL};
    struct arena_table *t = &st->a.table[TCP_TABLE_CONN];
    uint32_t lost = 0;
    clear_marks(st);
    release_all(st, TCP_TABLE_SEG);
    repair_listeners(st);
    hash_index_clear(&st->conn_ix, &st->a);
    for (uint32_t i = 0; i < t->high_water; i++) {
        struct tcp_conn *c = live_conn(st, i);
        if (c == NULL || repair_conn(&x, i))
            continue;
        half_again(st, c, tcp_cold_at(st, i));
        tcp_seg_release_all(st, c);
        lost += (c->flags & TCP_F_ADOPTED) && c->state != TCP_STATE_CLOSED; /* closed: it was about to go */
        arena_release(t, c, i);
    }
    free_unmarked(st);
    repair_halves(st);
    repair_waits(st);
    return lost;
}
