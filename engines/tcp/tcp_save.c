/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine's truth as usher.state.v1.TcpRecord messages, for an upgrade to code of another layout, and back. Numbers
 * go by one table of field descriptors, so writing and reading cannot drift apart. The scoreboard goes along, because
 * an upgrade should not look like loss; kept packets do not, as if the peer had not sent them. Loading treats the
 * bytes as hostile: a record that breaks an invariant is refused as a whole. Control thread, before the state runs.
 */
#include <errno.h>

#include "engines/statewire.h"
#include "engines/tcp/tcp_cc.h"
#include "engines/tcp/tcp_cmds.h"
#include "engines/tcp/tcp_seg.h"
#include "engines/tcp/tcp_syn.h"

enum { RECORD_CONN = 1, RECORD_HALF, RECORD_WAIT, RECORD_LISTENER, RECORD_ENGINE };
enum { FIELD_INDEX = 1, FIELD_LOCAL, FIELD_REMOTE, FIELD_ITEM, FIELD_SEG, FIELD_NAME, FIELD_FIRST };

/* Field n of a message is the n-th row, counted from FIELD_FIRST. Only append. */
struct field {
    uint16_t offset;
    uint8_t size;
    uint8_t part; /* 0 = first struct of the record, 1 = second */
};
#define F(type, name, which)                                                                                           \
    { offsetof(struct type, name), sizeof(((struct type *)0)->name), which }
#define HOT(name)  F(tcp_conn, name, 0)
#define COLD(name) F(tcp_cold, name, 1)

static const struct field conn_fields[] = {
    HOT(flow.local_port),
    HOT(flow.remote_port),
    HOT(sink),
    HOT(rcv_nxt),
    HOT(rcv_adv),
    HOT(rcv_acked),
    HOT(rcv_limit),
    HOT(rcv_held),
    HOT(ts_recent),
    HOT(ts_recent_at),
    HOT(delack_at),
    HOT(heard_at),
    HOT(flags),
    HOT(rcv_mss),
    HOT(state),
    HOT(scales),
    HOT(irs),
    HOT(snd_una),
    HOT(snd_nxt),
    HOT(snd_end),
    HOT(snd_wnd),
    HOT(snd_wl1),
    HOT(snd_wnd_max),
    HOT(cwnd),
    HOT(ssthresh),
    HOT(srtt),
    HOT(rttvar),
    HOT(rto),
    HOT(rtx_at),
    HOT(pace_at),
    HOT(recover),
    HOT(tx_done),
    HOT(sent_at),
    HOT(mss),
    HOT(rtx),
    HOT(backoff),
    HOT(ca),
    HOT(dupacks),
    HOT(cc),
    HOT(probes),
    HOT(slow_at),
    HOT(iss),
    HOT(snd_up),
    COLD(delivered),
    COLD(delivered_at),
    COLD(first_sent),
    COLD(app_limited),
    COLD(rack_sent),
    COLD(rack_end),
    COLD(rack_rtt),
    COLD(fack),
    COLD(min_rtt),
    COLD(min_rtt_at),
    COLD(prr_delivered),
    COLD(prr_out),
    COLD(prr_flight),
    COLD(undo_cwnd),
    COLD(undo_ssthresh),
    COLD(undo_stamp),
    COLD(undo_left),
    COLD(reo_end),
    COLD(drs_seq),
    COLD(drs_at),
    COLD(drs_space),
    COLD(ts_off),
    COLD(owner),
    COLD(stuck_at),
    COLD(user_timeout),
    COLD(notsent_lowat),
    COLD(max_pacing),
    COLD(pacing_rate),
    COLD(listener),
    COLD(rcv_up),
    COLD(retransmits),
    COLD(black_hole_at),
    COLD(rx_high),
    COLD(tx_high),
    COLD(keep_idle),
    COLD(keep_interval),
    COLD(port),
    COLD(mtu),
    COLD(user_mss),
    COLD(peer_mss),
    COLD(linger2),
    COLD(error),
    COLD(keep_count),
    COLD(tos),
    COLD(ttl),
    COLD(retries),
    COLD(reo_mult),
    COLD(reo_persist),
    COLD(quickacks),
    COLD(syn_retries),
    COLD(cc[0]),
    COLD(cc[1]),
    COLD(cc[2]),
    COLD(cc[3]),
    COLD(cc[4]),
    COLD(cc[5]),
    COLD(cc[6]),
    COLD(cc[7]),
    COLD(cc[8]),
    COLD(cc[9]),
    COLD(undo_armed),
    HOT(wake_at),
};

#define HALF(name) F(tcp_half, name, 0)
static const struct field half_fields[] = {
    HALF(flow.local_port),
    HALF(flow.remote_port),
    HALF(iss),
    HALF(irs),
    HALF(ts_recent),
    HALF(ts_off),
    HALF(listener),
    HALF(sent_at),
    HALF(flags),
    HALF(mss),
    HALF(port),
    HALF(snd_wscale),
    HALF(retries),
    HALF(acked),
    HALF(tos),
    HALF(user_timeout),
    HALF(node.expiry),
};

#define WAIT(name) F(tcp_wait, name, 0)
static const struct field wait_fields[] = {
    WAIT(flow.local_port), WAIT(flow.remote_port), WAIT(snd_nxt), WAIT(rcv_nxt), WAIT(rcv_wnd),
    WAIT(ts_recent),       WAIT(ts_recent_at),     WAIT(ts_off),  WAIT(until),   WAIT(acked_at),
    WAIT(has_ts),          WAIT(rcv_wscale),       WAIT(tos),     WAIT(born_at), WAIT(same_host),
};

#define LISTENER(name) F(tcp_listener, name, 0)
static const struct field listener_fields[] = {
    LISTENER(flow.local_port), LISTENER(sink),           LISTENER(owner),
    LISTENER(ifindex),         LISTENER(backlog),        LISTENER(fastopen),
    LISTENER(defer_accept),    LISTENER(flags),          LISTENER(opt.user_timeout_ms),
    LISTENER(opt.rcvbuf),      LISTENER(opt.sndbuf),     LISTENER(opt.notsent_lowat),
    LISTENER(opt.max_pacing),  LISTENER(opt.keep_idle),  LISTENER(opt.keep_interval),
    LISTENER(opt.maxseg),      LISTENER(opt.keep_count), LISTENER(opt.tos),
    LISTENER(opt.ttl),         LISTENER(opt.retries),    LISTENER(opt.nodelay),
    LISTENER(opt.cork),        LISTENER(opt.quickack),   LISTENER(opt.keepalive),
};

#define ENGINE(name) F(tcp_engine, name, 0)
static const struct field engine_fields[] = {
    ENGINE(now),       ENGINE(cookies_at), ENGINE(port_step),    ENGINE(port_low),
    ENGINE(port_high), ENGINE(a.seed),     ENGINE(challenge_at), ENGINE(challenge_left),
};

struct message {
    const struct field *fields;
    uint32_t count;
};
static const struct message messages[] = {
    [RECORD_CONN] = {conn_fields, ARRAY_LEN(conn_fields)},
    [RECORD_HALF] = {half_fields, ARRAY_LEN(half_fields)},
    [RECORD_WAIT] = {wait_fields, ARRAY_LEN(wait_fields)},
    [RECORD_LISTENER] = {listener_fields, ARRAY_LEN(listener_fields)},
    [RECORD_ENGINE] = {engine_fields, ARRAY_LEN(engine_fields)},
};

/* ---- writing ---- */

static void write_numbers(struct statewire_out *o, const struct message *m, const void *first, const void *second) {
    for (uint32_t i = 0; i < m->count; i++) {
        const struct field *f = &m->fields[i];
        uint64_t v = 0;
        memcpy(&v, (const uint8_t *)(f->part == 0 ? first : second) + f->offset, f->size);
        statewire_put(o, FIELD_FIRST + i, v);
    }
}

static void write_flow(struct statewire_out *o, uint32_t index, const struct flow *f) {
    statewire_put(o, FIELD_INDEX, index);
    statewire_put_bytes(o, FIELD_LOCAL, f->local.b, sizeof f->local.b);
    statewire_put_bytes(o, FIELD_REMOTE, f->remote.b, sizeof f->remote.b);
}

static void write_piece(struct statewire_out *o, uint32_t field, const uint64_t *values, uint32_t n) {
    uint8_t body[128];
    struct statewire_out inner = {.buf = body, .size = sizeof body};
    for (uint32_t i = 0; i < n; i++)
        statewire_put(&inner, i + 1, values[i]);
    statewire_put_bytes(o, field, body, inner.len);
}

/* The send queue begins with the first unacknowledged byte, so the head item goes out cut. False: it holds packets. */
static bool write_queue(struct tcp_engine *st, const struct tcp_conn *c, struct statewire_out *o) {
    for (uint32_t i = c->q_head; i != TCP_NIL; i = tcp_item_at(st, i)->next) {
        const struct tcp_item *item = tcp_item_at(st, i);
        uint32_t skip = i == c->q_head ? c->q_head_off : 0;
        if (item->kept != TCP_NIL)
            return false;
        write_piece(o, FIELD_ITEM, (const uint64_t[]){item->off + skip, item->len - skip}, 2);
    }
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(st, i)->next) {
        const struct tcp_seg *s = tcp_seg_at(st, i);
        const uint64_t v[] = {s->end - s->seq, s->sent, s->flags, s->delivered, s->delivered_at, s->first_sent};
        write_piece(o, FIELD_SEG, v, ARRAY_LEN(v));
    }
    return true;
}

static uint32_t table_of(uint32_t kind) {
    static const uint8_t tables[] = {[RECORD_CONN] = TCP_TABLE_CONN,
                                     [RECORD_HALF] = TCP_TABLE_HALF,
                                     [RECORD_WAIT] = TCP_TABLE_WAIT,
                                     [RECORD_LISTENER] = TCP_TABLE_LISTENER};
    return tables[kind];
}

/* Somebody knows of it: whose it is, or who is about to take it from another. */
static bool was_told(const struct tcp_conn *c, uint32_t listener) {
    return (c->flags & TCP_F_ADOPTED) || listener == TCP_NIL;
}

/* One record's body; false: it is not worth saving (nobody was told of it, or its bytes die with the packets). */
static bool write_body(struct tcp_engine *st, uint32_t kind, uint32_t index, struct statewire_out *o) {
    const void *record = kind == RECORD_ENGINE ? st : arena_lookup(st, &st->a.table[table_of(kind)], index);
    if (record == NULL)
        return false;
    const struct tcp_cold *k = NULL;
    if (kind == RECORD_CONN) {
        const struct tcp_conn *c = (const struct tcp_conn *)record;
        k = tcp_cold_at(st, index);
        write_flow(o, index, &c->flow);
        if (!was_told(c, k->listener) || !write_queue(st, c, o))
            return false;
    } else if (kind != RECORD_ENGINE) {
        write_flow(o, index, (const struct flow *)((const uint8_t *)record + sizeof(struct arena_record)));
    }
    if (kind == RECORD_LISTENER) {
        const struct tcp_listener *l = (const struct tcp_listener *)record;
        statewire_put_bytes(o, FIELD_NAME, l->opt.congestion, sizeof l->opt.congestion);
    }
    write_numbers(o, &messages[kind], record, k);
    return true;
}

static uint32_t kind_capacity(const struct tcp_engine *st, uint32_t kind) {
    return kind == RECORD_ENGINE ? 1 : st->a.table[table_of(kind)].high_water;
}

/* Listeners go before what refers to them. *cursor = position in this order << 32 | next index. The body is written
 * behind room for the longest key and length, then moved in front. */
int64_t tcp_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size) {
    static const uint8_t order[] = {RECORD_ENGINE, RECORD_LISTENER, RECORD_CONN, RECORD_HALF, RECORD_WAIT};
    struct tcp_engine *st = (struct tcp_engine *)(uintptr_t)state;
    uint32_t at = (uint32_t)(*cursor >> 32), index = (uint32_t)*cursor;
    const size_t head = 16;
    if (size <= head)
        return -ENOSPC;
    for (; at < ARRAY_LEN(order); at++, index = 0) {
        for (; index < kind_capacity(st, order[at]); index++) {
            struct statewire_out body = {.buf = buf + head, .size = size - head};
            if (!write_body(st, order[at], index, &body))
                continue;
            struct statewire_out o = {.buf = buf, .size = head};
            if (body.full)
                return -ENOSPC;
            statewire_varint(&o, (uint64_t)order[at] << 3 | STATEWIRE_BYTES);
            statewire_varint(&o, body.len);
            memmove(buf + o.len, buf + head, body.len);
            *cursor = (uint64_t)at << 32 | (index + 1);
            return (int64_t)(o.len + body.len);
        }
    }
    *cursor = (uint64_t)at << 32;
    return 0;
}

/* ---- reading ---- */

static bool read_number(const struct message *m, const struct statewire_field *f, void *first, void *second) {
    uint32_t i = f->number - FIELD_FIRST;
    if (i >= m->count)
        return true; /* of a later version */
    const struct field *d = &m->fields[i];
    if (f->type != STATEWIRE_VARINT || (d->size < 8 && f->value >> (d->size * 8) != 0))
        return false;
    memcpy((uint8_t *)(d->part == 0 ? first : second) + d->offset, &f->value, d->size);
    return true;
}

static bool read_piece(const struct statewire_field *f, uint64_t *ret_values, uint32_t n) {
    struct statewire_in in = {f->data, f->data + f->size};
    struct statewire_field inner;
    int more;
    memset(ret_values, 0, n * sizeof *ret_values);
    if (f->type != STATEWIRE_BYTES)
        return false;
    while ((more = statewire_next(&in, &inner)) > 0) {
        if (inner.type != STATEWIRE_VARINT || inner.value > UINT32_MAX)
            return false;
        if (inner.number <= n)
            ret_values[inner.number - 1] = inner.value;
    }
    return more == 0;
}

static bool read_bytes(const struct statewire_field *f, void *to, size_t n) {
    if (f->type != STATEWIRE_BYTES || f->size != n)
        return false;
    memcpy(to, f->data, n);
    return true;
}

struct incoming {
    struct tcp_ctx *x;
    const struct message *m;
    struct flow *flow;
    void *first, *second;
    struct tcp_conn *conn; /* NULL: no queue */
    struct tcp_listener *listener;
    uint64_t index;
    uint32_t seq; /* of the next scoreboard range */
    struct tcp_cursor cur;
};

/* Items and ranges come before the numbers, so they are added up here and compared when all is read. */
static bool read_queue(struct incoming *in, const struct statewire_field *f) {
    uint64_t v[6];
    struct tcp_conn *c = in->conn;
    if (c == NULL || !read_piece(f, v, f->number == FIELD_ITEM ? 2 : 6) || (f->number == FIELD_ITEM ? v[1] : v[0]) == 0)
        return false;
    if (f->number == FIELD_ITEM)
        return tcp_queue_push(in->x, c, (uint32_t)v[0], (uint32_t)v[1], TCP_NIL);
    uint32_t index;
    struct arena_table *t = &in->x->st->a.table[TCP_TABLE_SEG];
    struct tcp_seg *s = (struct tcp_seg *)arena_take(in->x->st, t, &index);
    if (s == NULL)
        return false;
    const struct arena_record keep = s->r;
    *s = (struct tcp_seg){.r = keep, .next = TCP_NIL, .sent = (uint32_t)v[1], .flags = (uint8_t)v[2]};
    s->end = (uint32_t)v[0]; /* its length until the numbers are known */
    s->delivered = (uint32_t)v[3];
    s->delivered_at = (uint32_t)v[4];
    s->first_sent = (uint32_t)v[5];
    arena_publish(t, s);
    if (c->seg_tail == TCP_NIL)
        c->seg_head = index;
    else
        tcp_seg_at(in->x->st, c->seg_tail)->next = index;
    c->seg_tail = index;
    c->seg_count++;
    return true;
}

static bool read_field(struct incoming *in, const struct statewire_field *f) {
    switch (f->number) {
    case FIELD_INDEX:
        in->index = f->value;
        return f->type == STATEWIRE_VARINT && f->value < UINT32_MAX;
    case FIELD_LOCAL:
        return in->flow != NULL && read_bytes(f, in->flow->local.b, sizeof in->flow->local.b);
    case FIELD_REMOTE:
        return in->flow != NULL && read_bytes(f, in->flow->remote.b, sizeof in->flow->remote.b);
    case FIELD_ITEM:
    case FIELD_SEG:
        return read_queue(in, f);
    case FIELD_NAME:
        return in->listener != NULL && read_bytes(f, in->listener->opt.congestion, TCP_CC_NAME_MAX);
    default:
        return read_number(in->m, f, in->first, in->second);
    }
}

static bool read_body(struct incoming *in, struct statewire_in body) {
    struct statewire_field f;
    int more;
    while ((more = statewire_next(&body, &f)) > 0)
        if (!read_field(in, &f))
            return false;
    if (in->flow != NULL) {
        in->flow->proto = PROTO_TCP;
        memset(in->flow->pad, 0, sizeof in->flow->pad);
    }
    return more == 0;
}

/* Gives the ranges their numbers and places; the sums must come out right. */
static bool settle_scoreboard(struct tcp_engine *st, struct tcp_conn *c) {
    struct tcp_cursor cur = {c->q_head, c->q_head_off};
    uint32_t seq = c->snd_una;
    uint64_t left = c->snd_nxt - c->snd_una;
    uint64_t queued = c->snd_end - seq_min(seq_max(c->snd_una, c->iss + 1), c->snd_end);
    c->sacked = c->lost = c->retrans = 0;
    for (uint32_t i = c->seg_head; i != TCP_NIL; i = tcp_seg_at(st, i)->next) {
        struct tcp_seg *s = tcp_seg_at(st, i);
        uint32_t len = s->end, data = len - !!(s->flags & TCP_SEG_SYN) - !!(s->flags & TCP_SEG_FIN);
        bool odd = (s->flags & TCP_SEG_SACKED) && (s->flags & (TCP_SEG_LOST | TCP_SEG_RETRANS));
        if (len > left || data > queued || odd)
            return false;
        s->seq = seq;
        s->end = seq += len;
        s->item = cur.item;
        s->item_off = cur.off;
        tcp_cursor_skip(st, &cur, data);
        left -= len;
        queued -= data;
        c->sacked += s->flags & TCP_SEG_SACKED ? len : 0;
        c->lost += s->flags & TCP_SEG_LOST ? len : 0;
        c->retrans += s->flags & TCP_SEG_RETRANS ? len : 0;
    }
    c->q_next = cur.item;
    c->q_next_off = cur.off;
    return left == 0;
}

static void drop_conn(struct tcp_ctx *x, struct tcp_conn *c) {
    struct arena_table *t = &x->st->a.table[TCP_TABLE_ITEM];
    tcp_seg_release_all(x->st, c);
    for (uint32_t i = c->q_head; i != TCP_NIL;) {
        uint32_t next = tcp_item_at(x->st, i)->next;
        arena_release(t, tcp_item_at(x->st, i), i);
        i = next;
    }
}

static bool valid_conn(struct tcp_engine *st, const struct tcp_conn *c, uint32_t listener) {
    return tcp_cc_name(c->cc)[0] != '\0' && was_told(c, listener) && c->sink != 0 && c->mss != 0 && c->cwnd != 0 &&
           tcp_check_fields(c) == 0 && c->rtx <= TCP_RTX_PERSIST && c->ca <= TCP_CA_LOSS &&
           tcp_find_conn(st, &c->flow, hash_flow(&st->key, &c->flow)) == TCP_NIL;
}

static int load_conn(struct tcp_ctx *x, struct statewire_in body) {
    struct tcp_engine *st = x->st;
    struct tcp_conn fresh = {.q_head = TCP_NIL, .q_tail = TCP_NIL, .q_next = TCP_NIL};
    struct tcp_cold cold = {0};
    fresh.ooo_head = fresh.ooo_tail = fresh.seg_head = fresh.seg_tail = TCP_NIL;
    struct incoming in = {
        .x = x, .m = &messages[RECORD_CONN], .flow = &fresh.flow, .first = &fresh, .second = &cold, .conn = &fresh};
    struct arena_table *t = &st->a.table[TCP_TABLE_CONN];
    bool good = read_body(&in, body);
    uint32_t queued = 0, index = (uint32_t)in.index;
    for (uint32_t i = fresh.q_head; i != TCP_NIL; i = tcp_item_at(st, i)->next)
        queued += tcp_item_at(st, i)->len;
    good = good && queued == fresh.snd_end - seq_min(seq_max(fresh.snd_una, fresh.iss + 1), fresh.snd_end) &&
           settle_scoreboard(st, &fresh) && valid_conn(st, &fresh, cold.listener);
    struct tcp_conn *c = good ? (struct tcp_conn *)arena_take_at(st, t, index) : NULL;
    if (c == NULL) {
        drop_conn(x, &fresh);
        return good ? -EEXIST : -EBADMSG;
    }
    /* At the very tick it would have been, so that nobody can tell; at once when something was left to be done. */
    bool due = !(fresh.flags & TCP_F_ARMED) || (fresh.flags & (TCP_F_TOUCHED | TCP_F_STALLED)) || fresh.tx_done != 0;
    int32_t left = due ? 0 : (int32_t)(fresh.wake_at - x->tick);
    fresh.flags &= ~(uint32_t)(TCP_F_TOUCHED | TCP_F_STALLED);
    fresh.flags |= TCP_F_ARMED;
    fresh.wake_at = left > 0 ? fresh.wake_at : x->tick;
    memcpy((uint8_t *)c + sizeof c->r, (uint8_t *)&fresh + sizeof c->r, sizeof *c - sizeof c->r);
    *tcp_cold_at(st, index) = cold;
    arena_publish(t, c);
    hash_index_insert(&st->conn_ix, &st->a, index, hash_flow(&st->key, &c->flow));
    ns_t at = ((st->now >> TCP_TICK_SHIFT) + (uint32_t)left) << TCP_TICK_SHIFT;
    wheel_arm(tcp_wheel(st), index, left > 0 ? at : st->now);
    st->rx_held += c->rcv_held;
    struct tcp_listener *l = tcp_listener_at(st, cold.listener);
    if (l != NULL)
        l->open++;
    return 0;
}

static int load_half(struct tcp_ctx *x, struct statewire_in body) {
    struct tcp_engine *st = x->st;
    struct tcp_half fresh = {0};
    struct incoming in = {.x = x, .m = &messages[RECORD_HALF], .flow = &fresh.flow, .first = &fresh};
    struct arena_table *t = &st->a.table[TCP_TABLE_HALF];
    if (!read_body(&in, body))
        return -EBADMSG;
    uint32_t hash = hash_flow(&st->key, &fresh.flow);
    struct tcp_listener *l = tcp_listener_at(st, fresh.listener);
    if ((l == NULL && fresh.listener != TCP_NIL) || tcp_find_half(st, &fresh.flow, hash) != TCP_NIL)
        return -EBADMSG;
    struct tcp_half *h = (struct tcp_half *)arena_take_at(st, t, (uint32_t)in.index);
    if (h == NULL)
        return -EEXIST;
    uint64_t expiry = fresh.node.expiry;
    memset(&fresh.node, 0, sizeof fresh.node);
    memcpy((uint8_t *)h + sizeof h->r, (uint8_t *)&fresh + sizeof h->r, sizeof *h - sizeof h->r);
    arena_publish(t, h);
    hash_index_insert(&st->half_ix, &st->a, (uint32_t)in.index, hash);
    uint64_t ns = expiry << tcp_half_wheel(st)->shift;
    wheel_arm(tcp_half_wheel(st), (uint32_t)in.index, ns < st->now ? st->now : ns);
    if (l != NULL)
        l->half++;
    return 0;
}

static int load_wait(struct tcp_ctx *x, struct statewire_in body) {
    struct tcp_engine *st = x->st;
    struct tcp_wait fresh = {0};
    struct incoming in = {.x = x, .m = &messages[RECORD_WAIT], .flow = &fresh.flow, .first = &fresh};
    struct arena_table *t = &st->a.table[TCP_TABLE_WAIT];
    if (!read_body(&in, body))
        return -EBADMSG;
    uint32_t hash = hash_flow(&st->key, &fresh.flow);
    if (tcp_find_wait(st, &fresh.flow, hash) != TCP_NIL)
        return -EBADMSG;
    struct tcp_wait *w = (struct tcp_wait *)arena_take_at(st, t, (uint32_t)in.index);
    if (w == NULL)
        return -EEXIST;
    memcpy((uint8_t *)w + sizeof w->r, (uint8_t *)&fresh + sizeof w->r, sizeof *w - sizeof w->r);
    arena_publish(t, w);
    hash_index_insert(&st->wait_ix, &st->a, (uint32_t)in.index, hash);
    tcp_wait_link(st, (uint32_t)in.index);
    return 0;
}

static int load_listener(struct tcp_ctx *x, struct statewire_in body) {
    struct tcp_engine *st = x->st;
    struct tcp_listener fresh = {0};
    struct incoming in = {
        .x = x, .m = &messages[RECORD_LISTENER], .flow = &fresh.flow, .first = &fresh, .listener = &fresh};
    struct arena_table *t = &st->a.table[TCP_TABLE_LISTENER];
    if (!read_body(&in, body) || fresh.flow.local_port == 0 || fresh.sink == 0)
        return -EBADMSG;
    if (tcp_listener_conflict(st, &fresh))
        return -EADDRINUSE;
    struct tcp_listener *l = (struct tcp_listener *)arena_take_at(st, t, (uint32_t)in.index);
    if (l == NULL)
        return -EEXIST;
    memcpy((uint8_t *)l + sizeof l->r, (uint8_t *)&fresh + sizeof l->r, sizeof *l - sizeof l->r);
    arena_publish(t, l);
    tcp_listener_index(st, (uint32_t)in.index);
    return 0;
}

static int load_engine(struct tcp_ctx *x, struct statewire_in body) {
    struct tcp_engine scratch;
    memset(&scratch, 0, sizeof scratch);
    struct incoming in = {.x = x, .m = &messages[RECORD_ENGINE], .first = &scratch};
    if (!read_body(&in, body) || scratch.port_low > scratch.port_high)
        return -EBADMSG;
    struct tcp_engine *st = x->st;
    st->now = scratch.now;
    st->cookies_at = scratch.cookies_at;
    st->port_step = scratch.port_step;
    st->port_low = scratch.port_low;
    st->port_high = scratch.port_high;
    st->challenge_at = scratch.challenge_at;
    st->challenge_left = scratch.challenge_left;
    if (scratch.a.seed != 0) { /* the same secrets: numbers, offsets and cookies given out before stay good */
        st->a.seed = scratch.a.seed;
        tcp_keys_derive(st);
    }
    return 0;
}

int tcp_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size) {
    static int (*const loaders[])(struct tcp_ctx *, struct statewire_in) = {[RECORD_CONN] = load_conn,
                                                                            [RECORD_HALF] = load_half,
                                                                            [RECORD_WAIT] = load_wait,
                                                                            [RECORD_LISTENER] = load_listener,
                                                                            [RECORD_ENGINE] = load_engine};
    struct tcp_engine *st = (struct tcp_engine *)state;
    struct statewire_in in = {rec, rec + size};
    struct statewire_field f;
    struct tcp_ctx x = {.st = st, .tick = tcp_tick(st->now), .coarse = tcp_coarse(st->now), .open = TCP_NIL};
    if (from_version > TCP_LAYOUT)
        return -EPROTONOSUPPORT;
    if (statewire_next(&in, &f) != 1 || f.type != STATEWIRE_BYTES || in.at != in.end || f.number < RECORD_CONN ||
        f.number > RECORD_ENGINE)
        return -EBADMSG;
    return loaders[f.number](&x, (struct statewire_in){f.data, f.data + f.size});
}
