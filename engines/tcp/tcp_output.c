/* SPDX-License-Identifier: Apache-2.0
 *
 * What may be sent now: repetitions of what is lost first (RFC 6675), then new data as far as the peer's window, the
 * congestion window, pacing and the rules against small segments allow (RFC 9293 section 3.8.6, RFC 1122 section
 * 4.2.3.4), then FIN. Bulk data goes in super-segments, one decision and one record for up to 64 KiB. Runs on the
 * shard's worker inside a change.
 */
#include <errno.h>

#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_fastopen.h"
#include "engines/tcp/tcp_loss.h"
#include "engines/tcp/tcp_mtu.h"
#include "engines/tcp/tcp_output.h"

#define BURST_MAX 64u /* packets one connection may send in one call: others wait too */
/* What goes to this host itself is delivered, acknowledged and followed by more within one turn of the shard, until a
 * window ends it: megabytes, and everybody else waits. A turn carries so much of it; copying that takes about 10 us. */
#define TURN_MAX        (48u << 10)
#define TURN_SMALL      2048u /* a message: not what fits a segment, for within the host that is 64 KiB */
#define CHALLENGE_PER_S 1000u
#define SECOND          TCP_COARSE_S(1)

static void give_up_memory(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_REGION_GONE);
    tcp_cold(x->st, c)->error = ECONNABORTED;
    (void)tcp_fsm(x, c, TCP_EV_ABORT);
}

static void stall(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_STALL);
    c->flags |= TCP_F_STALLED;
}

/* RFC 3042: each of the first two duplicates tells that a segment left the path, and lets a new one go. With SACK the
 * scoreboard says so by itself. */
static uint32_t limited_transmit(const struct tcp_conn *c) {
    if (LIKELY(c->dupacks == 0) || (c->flags & TCP_F_SACK) || c->ca > TCP_CA_DISORDER)
        return 0;
    return min_u32(c->dupacks, 2) * c->mss;
}

static uint32_t cwnd_left(const struct tcp_conn *c) {
    uint32_t flight = tcp_flight(c), most = c->cwnd + limited_transmit(c);
    return most > flight ? most - flight : 0;
}

static uint32_t window_left(const struct tcp_conn *c) {
    int32_t left = (int32_t)(c->snd_una + c->snd_wnd - c->snd_nxt);
    return left > 0 ? (uint32_t)left : 0;
}

/* The next permitted departure; at most a millisecond of credit is saved up while idle. */
static void paced(struct tcp_ctx *x, struct tcp_conn *c, uint32_t bytes) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t rate = k->pacing_rate;
    if (k->max_pacing != 0 && (rate == 0 || rate > k->max_pacing))
        rate = k->max_pacing;
    if (rate == 0)
        return;
    uint32_t from = seq_before(c->pace_at, x->tick) ? x->tick : c->pace_at;
    c->pace_at = from + (uint32_t)(((uint64_t)bytes << (TCP_COARSE_SHIFT - TCP_TICK_SHIFT)) / rate);
}

static bool pacing_blocks(const struct tcp_ctx *x, const struct tcp_conn *c) {
    return (c->flags & TCP_F_PACED) && seq_before(x->tick, c->pace_at);
}

/* A paced connection sends about a millisecond's worth at a time. */
static uint32_t pacing_limit(struct tcp_ctx *x, const struct tcp_conn *c, uint32_t len, uint32_t segment) {
    if (!(c->flags & TCP_F_PACED))
        return len;
    const struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t rate =
        k->max_pacing != 0 && (k->pacing_rate == 0 || k->pacing_rate > k->max_pacing) ? k->max_pacing : k->pacing_rate;
    return rate == 0 ? len : min_u32(len, max_u32(rate / segment, 2) * segment);
}

static void after_send(struct tcp_ctx *x, struct tcp_conn *c, uint32_t bytes) {
    c->sent_at = x->tick;
    if (c->ca == TCP_CA_CWR || c->ca == TCP_CA_RECOVERY)
        tcp_cold(x->st, c)->prr_out += bytes;
    if (c->flags & TCP_F_PACED)
        paced(x, c, bytes);
}

/* The last byte queued is pushed (RFC 9293 section 3.9.1.2), unless more is announced. So is a super-segment,
 * whose last part then tells the receiver's GRO that nothing more comes to join it. */
static bool pushes(const struct tcp_conn *c, uint32_t end, uint32_t len) {
    return len != 0 && ((end == c->snd_end && !(c->flags & TCP_F_MORE)) || len > c->mss);
}

/* ---- repetitions ---- */

static bool repeat(struct tcp_ctx *x, struct tcp_conn *c, uint32_t index, uint32_t len) {
    struct tcp_seg *s = tcp_seg_at(x->st, index);
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t payload = s->end - s->seq - ((s->flags & TCP_SEG_FIN) != 0);
    struct tcp_build b = {.at = {s->item, s->item_off}, .seq = s->seq, .len = min_u32(len, payload), .flags = TCP_ACK};
    struct pkt *p;
    uint32_t got;
    enum tcp_built r = tcp_build(x, c, &b, &p, &got);
    if (r == TCP_BUILT_GONE)
        give_up_memory(x, c);
    if (r != TCP_BUILT) {
        stall(x, c);
        return false;
    }
    if (got < payload && !tcp_seg_split(x, c, index, s->seq + got)) {
        (void)pkt_vec_push(x->io->done, p);
        stall(x, c);
        return false;
    }
    if (s->flags & TCP_SEG_FIN)
        b.flags |= TCP_FIN;
    if (pushes(c, s->seq + got, min_u32(got, c->mss)))
        b.flags |= TCP_PSH;
    tcp_seg_repeated(x, c, s);
    k->undo_left += got;
    k->undo_armed |= TCP_UNDO_ARMED;
    k->retransmits = (uint16_t)(k->retransmits + (k->retransmits < UINT16_MAX));
    ENGINE_COUNT(x->io, TCP_COUNT_RETRANS);
    tcp_build_send(x, c, &b, p);
    after_send(x, c, got);
    return true;
}

static bool repeat_lost(struct tcp_ctx *x, struct tcp_conn *c) {
    uint32_t index = tcp_seg_first_lost(x->st, c);
    if (index == TCP_NIL)
        return false;
    const struct tcp_seg *s = tcp_seg_at(x->st, index);
    if (s->flags & TCP_SEG_SYN) {
        (void)tcp_send_syn(x, c);
        return false;
    }
    uint32_t segment = tcp_segment_size(x, c), len = s->end - s->seq, left = cwnd_left(c);
    if (left < min_u32(len, segment) && tcp_flight(c) != 0) {
        c->flags |= TCP_F_CWND_LIMITED;
        return false;
    }
    uint32_t most = max_u32(left / segment * segment, segment);
    return repeat(x, c, index, min_u32(min_u32(len, most), tcp_super_max(x, c, segment)));
}

/* ---- new data ---- */

/* Not a full segment: RFC 9293 section 3.8.6.2.1 with Nagle in Minshall's form. `whole` = it is all that is queued. */
static bool small_may_go(const struct tcp_conn *c, uint32_t len, bool whole) {
    if (!whole)
        return len >= c->snd_wnd_max / 2; /* the window cuts it: wait for more unless it is a good part of it */
    if (c->flags & TCP_F_FIN_QUEUED)
        return true;
    if (c->flags & (TCP_F_CORK | TCP_F_MORE))
        return false;
    return (c->flags & TCP_F_NODELAY) || !(c->flags & TCP_F_SMALL_OUT);
}

/* A super-segment that ACKs would soon let grow is worth waiting for, while ACKs are on their way: an eighth of the
 * window at least, so that the pipe stays full. */
static bool better_later(const struct tcp_conn *c, uint32_t len, uint32_t unsent, uint32_t super) {
    return len < unsent && len < min_u32(super, c->cwnd >> 3) && c->ca == TCP_CA_OPEN && tcp_flight(c) > c->cwnd / 2;
}

/* How many bytes to send in one piece now; 0 = none. */
static uint32_t choose(struct tcp_ctx *x, struct tcp_conn *c) {
    uint32_t unsent = c->snd_end - c->snd_nxt, segment = tcp_segment_size(x, c);
    uint32_t path = cwnd_left(c), len = min_u32(unsent, window_left(c));
    if (path < min_u32(len, segment)) {
        if (tcp_flight(c) != 0 || path == 0) {
            c->flags |= TCP_F_CWND_LIMITED;
            return 0;
        }
        path = segment; /* the window may be smaller than a segment; one is always allowed */
    }
    if (path < len) {
        c->flags |= TCP_F_CWND_LIMITED;
        len = path;
    }
    if (len == 0)
        return 0;
    if (len < segment)
        return x->force || small_may_go(c, len, len == unsent) ? len : 0;
    /* A port that cuts a super-segment would repeat its urgent pointer. */
    uint32_t super = seq_after(c->snd_up, c->snd_nxt) ? segment : tcp_super_max(x, c, segment);
    if (super > segment && better_later(c, len, unsent, super))
        return 0;
    len = pacing_limit(x, c, min_u32(len, super), segment);
    uint32_t rest = len % segment; /* the tail goes by its own rules, next time round */
    if (rest != 0 && !(len == unsent && small_may_go(c, rest, true)))
        len -= rest;
    return len;
}

/* `segment`: as in struct tcp_build. */
static bool send_piece(struct tcp_ctx *x, struct tcp_conn *c, uint32_t len, uint32_t segment) {
    struct tcp_build b = {.at = {c->q_next, c->q_next_off},
                          .seq = c->snd_nxt,
                          .len = len,
                          .segment = segment,
                          .flags = TCP_ACK,
                          .fresh = true};
    struct pkt *p;
    uint32_t got;
    enum tcp_built r = tcp_build(x, c, &b, &p, &got);
    if (r == TCP_BUILT_GONE) {
        give_up_memory(x, c);
        return false;
    }
    if (r != TCP_BUILT) {
        stall(x, c);
        return false;
    }
    bool all = c->snd_nxt + got == c->snd_end;
    bool fin = all && (c->flags & TCP_F_FIN_QUEUED);
    uint8_t flags = (uint8_t)((fin ? TCP_SEG_FIN : 0) | (segment != 0 && got == segment ? TCP_SEG_PROBE : 0));
    if (!tcp_seg_append(x, c, c->snd_nxt, c->snd_nxt + got + fin, flags, b.at)) {
        (void)pkt_vec_push(x->io->done, p);
        stall(x, c);
        return false;
    }
    if (pushes(c, b.seq + got, got))
        b.flags |= TCP_PSH;
    if (got % c->mss != 0)
        c->flags |= TCP_F_SMALL_OUT;
    tcp_cursor_skip(x->st, &b.at, got);
    c->q_next = b.at.item;
    c->q_next_off = b.at.off;
    c->snd_nxt += got + fin;
    b.flags |= fin ? TCP_FIN : 0;
    tcp_build_send(x, c, &b, p);
    after_send(x, c, got);
    if (fin) {
        c->flags |= TCP_F_FIN_SENT;
        (void)tcp_fsm(x, c, TCP_EV_FIN_SENT);
    }
    return true;
}

/* Small messages always go. */
static bool turn_over(struct tcp_ctx *x, const struct tcp_conn *c, uint32_t len) {
    struct tcp_engine *st = x->st;
    if (LIKELY(len <= TURN_SMALL || !(c->flags & TCP_F_LOCAL)))
        return false;
    if (st->turn != x->io->now) {
        st->turn = x->io->now;
        st->turn_bytes = 0;
    }
    bool over = st->turn_bytes >= TURN_MAX;
    st->turn_bytes += over ? 0 : len;
    return over;
}

static bool send_new(struct tcp_ctx *x, struct tcp_conn *c) {
    if (c->flags & TCP_F_FIN_SENT)
        return false;
    if (c->snd_nxt == c->snd_end)
        return (c->flags & TCP_F_FIN_QUEUED) && send_piece(x, c, 0, 0);
    if (pacing_blocks(x, c))
        return false;
    uint32_t probe = UNLIKELY(tcp_cold(x->st, c)->black_hole_at != 0) ? tcp_mtu_probe(x, c, cwnd_left(c)) : 0;
    if (UNLIKELY(probe != 0))
        return send_piece(x, c, probe, probe);
    uint32_t len = choose(x, c);
    if (len == 0)
        return false;
    if (UNLIKELY(turn_over(x, c, len))) {
        x->later = true;
        c->flags |= TCP_F_STALLED;
        return false;
    }
    return send_piece(x, c, len, 0);
}

#define PACE_LASTS TCP_COARSE_MS(100000) /* no pace is set further ahead: a super-segment at the lowest rate */

/* Ticks wrap after 73 minutes, so a departure that is long past would look like one to come. It is brought along while
 * the peer is heard; after a longer silence it means nothing. */
static void pace_refresh(const struct tcp_ctx *x, struct tcp_conn *c) {
    if (!seq_before(x->tick, c->pace_at) || x->coarse - c->heard_at > PACE_LASTS)
        c->pace_at = x->tick;
}

/* RFC 5681 section 4.1: after an idle time the old window says little about the path. Halved for each timeout that
 * passed (RFC 2861), not below the initial one. */
static void after_idle(struct tcp_ctx *x, struct tcp_conn *c) {
    uint32_t idle = x->tick - c->sent_at, rto = c->rto;
    if (c->snd_una != c->snd_nxt || idle < rto || c->snd_end == c->snd_nxt)
        return;
    uint32_t initial = tcp_initial_cwnd(c->mss);
    for (; c->cwnd > initial && idle >= rto; idle -= rto)
        c->cwnd = max_u32(c->cwnd / 2, initial);
    tcp_cc(c)->idle(x, c, tcp_cold(x->st, c)->cc);
}

/* Nothing is in flight, yet something could not go: ask again after a while. RFC 9293 section 3.8.6.1. */
static void watch_window(struct tcp_ctx *x, struct tcp_conn *c) {
    if (c->snd_una != c->snd_nxt || c->snd_nxt == c->snd_end || (c->flags & TCP_F_STALLED) || c->rtx != TCP_RTX_NONE ||
        pacing_blocks(x, c))
        return;
    c->rtx = TCP_RTX_PERSIST;
    c->rtx_at = x->tick + tcp_rto(c);
}

void tcp_output(struct tcp_ctx *x, struct tcp_conn *c) {
    c->flags &= ~(uint32_t)TCP_F_STALLED;
    x->later = false;
    uint32_t before = c->snd_nxt, burst = 0;
    if (UNLIKELY(c->lost != c->retrans)) {
        bool more = !tcp_loss_holds_back(x, c);
        while (more && burst++ < BURST_MAX && !pacing_blocks(x, c))
            more = pkt_vec_room(x->io->down) > TCP_ROOM_RESERVE && repeat_lost(x, c);
    }
    if (x->dead || c->state < TCP_STATE_SYN_RCVD || (c->state == TCP_STATE_SYN_RCVD && !(c->flags & TCP_F_TFO)))
        return;
    if (c->snd_una == c->snd_nxt) {
        c->flags &= ~TCP_F_SMALL_OUT;
        if (UNLIKELY(c->flags & TCP_F_PACED))
            pace_refresh(x, c);
        after_idle(x, c);
    }
    while (burst++ < BURST_MAX && pkt_vec_room(x->io->down) > TCP_ROOM_RESERVE && !x->dead && send_new(x, c))
        ;
    if (x->dead)
        return;
    if (burst > BURST_MAX || pkt_vec_room(x->io->down) <= TCP_ROOM_RESERVE)
        c->flags |= c->snd_nxt != c->snd_end || c->lost != c->retrans ? TCP_F_STALLED : 0u;
    if (c->snd_nxt != before && (c->rtx == TCP_RTX_NONE || c->rtx == TCP_RTX_TLP || c->rtx == TCP_RTX_PERSIST))
        tcp_rtx_arm(x, c);
    else if (c->snd_una == c->snd_nxt)
        watch_window(x, c);
    if ((c->flags & TCP_F_PACED) && c->snd_nxt == c->snd_end && tcp_flight(c) < c->cwnd) {
        struct tcp_cold *k = tcp_cold(x->st, c);
        k->app_limited = (k->delivered + tcp_flight(c)) | 1;
    }
}

/* ---- segments without new data ---- */

static void send_bare(struct tcp_ctx *x, struct tcp_conn *c, uint32_t seq, uint8_t flags) {
    struct tcp_build b = {.seq = seq, .flags = flags};
    struct pkt *p;
    uint32_t got;
    if (pkt_vec_room(x->io->down) == 0 || tcp_build(x, c, &b, &p, &got) != TCP_BUILT) {
        stall(x, c);
        return;
    }
    tcp_build_send(x, c, &b, p);
}

void tcp_send_ack(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_TX_ACK);
    send_bare(x, c, c->snd_nxt, TCP_ACK);
}

bool tcp_challenge_allowed(struct tcp_ctx *x) {
    struct tcp_engine *st = x->st;
    if (x->coarse - st->challenge_at >= SECOND) {
        /* RFC 5961 section 7, but with a limit nobody can count down to from outside (CVE-2016-5696). */
        st->challenge_at = x->coarse;
        st->challenge_left = CHALLENGE_PER_S / 2 + (uint32_t)(engine_random(x->io) % CHALLENGE_PER_S);
    }
    if (st->challenge_left == 0) {
        ENGINE_COUNT(x->io, TCP_COUNT_CHALLENGE_LIMIT);
        return false;
    }
    st->challenge_left--;
    return true;
}

void tcp_send_challenge(struct tcp_ctx *x, struct tcp_conn *c) {
    if (!tcp_challenge_allowed(x))
        return;
    ENGINE_COUNT(x->io, TCP_COUNT_CHALLENGE);
    send_bare(x, c, c->snd_nxt, TCP_ACK);
}

void tcp_send_conn_reset(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_RESET_OUT);
    send_bare(x, c, c->snd_nxt, TCP_RST | TCP_ACK);
}

void tcp_send_probe(struct tcp_ctx *x, struct tcp_conn *c) {
    send_bare(x, c, c->snd_una - 1, TCP_ACK);
}

void tcp_send_tail_probe(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_TLP);
    c->flags |= TCP_F_TLP;
    uint32_t before = c->snd_nxt;
    uint32_t len = min_u32(min_u32(c->snd_end - c->snd_nxt, window_left(c)), c->mss);
    if (len != 0 && !(c->flags & TCP_F_FIN_SENT))
        (void)send_piece(x, c, len, 0);
    if (c->snd_nxt == before && !x->dead && c->seg_tail != TCP_NIL) {
        struct tcp_seg *s = tcp_seg_at(x->st, c->seg_tail);
        uint32_t index = c->seg_tail, size = s->end - s->seq - ((s->flags & TCP_SEG_FIN) != 0);
        if (size > c->mss && tcp_seg_split(x, c, index, s->seq + size - c->mss))
            index = c->seg_tail;
        (void)repeat(x, c, index, c->mss);
    }
    c->recover = c->snd_nxt;
    if (c->snd_nxt != before) /* new data: nothing was repeated, nothing to find out */
        c->flags &= ~(uint32_t)TCP_F_TLP;
}

void tcp_send_head_probe(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_TLP);
    if (c->seg_head != TCP_NIL && !(tcp_seg_at(x->st, c->seg_head)->flags & TCP_SEG_SYN))
        (void)repeat(x, c, c->seg_head, c->mss);
}

/* SYN, or SYN-ACK when the peer's SYN is known: first time or again. */
bool tcp_send_syn(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    bool reply = c->state == TCP_STATE_SYN_RCVD, again = c->seg_head != TCP_NIL;
    if (!again) {
        if (!tcp_seg_append(x, c, c->iss, c->iss + 1, TCP_SEG_SYN, (struct tcp_cursor){TCP_NIL, 0}))
            return false;
        c->snd_nxt = c->iss + 1;
    }
    struct tcp_opts o = {.mss = tcp_advertised_mss(x->st, c), .wscale = x->st->rcv_wscale};
    uint8_t cookie[16], bytes[TCP_OPTS_MAX];
    o.present = TCP_O_MSS | (c->flags & TCP_F_WSCALE ? TCP_O_WSCALE : 0u) | (c->flags & TCP_F_TS ? TCP_O_TS : 0u) |
                (c->flags & TCP_F_SACK ? TCP_O_SACK_OK : 0u);
    o.tsval = x->coarse + k->ts_off;
    o.tsecr = reply ? c->ts_recent : 0;
    if (k->user_timeout != 0) {
        o.present |= TCP_O_UTO;
        o.uto = (uint16_t)min_u32((uint32_t)(((uint64_t)k->user_timeout << TCP_COARSE_SHIFT) / NS_PER_SEC), UINT16_MAX);
    }
    bool data = !reply && !again && (c->flags & TCP_F_TFO) && tcp_fastopen_ask(x, c, &o, cookie);
    struct tcp_head h = {.flow = &c->flow,
                         .seq = c->iss,
                         .ack = reply ? tcp_data_syn_ack(x, c) : 0,
                         .flags = TCP_SYN | (reply ? TCP_ACK : 0),
                         .wnd = (uint16_t)min_u32(tcp_window_free(x, c), 65535),
                         .tos = k->tos,
                         .ttl = k->ttl,
                         .opts = bytes,
                         .owner = k->owner,
                         .sock = tcp_index(x->st, c)};
    /* RFC 3168 section 6.1.1.1: a SYN that is repeated asks for no ECN, in case the first one died of it. */
    if ((c->flags & TCP_F_ECN) && (!again || reply))
        h.flags |= reply ? TCP_ECE : TCP_ECE | TCP_CWR;
    h.opts_len = (uint8_t)tcp_opts_write_syn(bytes, &o);
    c->rcv_adv = c->rcv_nxt + h.wnd;
    if (!data || !tcp_fastopen_send(x, c, &h))
        (void)tcp_emit(x, &h);
    if (again) {
        tcp_seg_repeated(x, c, tcp_seg_at(x->st, c->seg_head));
        k->retransmits = (uint16_t)(k->retransmits + (k->retransmits < UINT16_MAX));
        ENGINE_COUNT(x->io, TCP_COUNT_RETRANS);
    } else {
        tcp_rtx_arm(x, c);
    }
    return true;
}
