/* SPDX-License-Identifier: Apache-2.0
 *
 * Timers. A connection has one node on the wheel, armed for the earliest of: retransmission (one of timeout, tail
 * probe, reordering, persist), delayed ACK, pacing, and a slow one for keep-alive and FIN-WAIT-2. When the node fires
 * each is looked at; those moved into the future meanwhile just arm it again.
 */
#include "engines/tcp/tcp_timer.h"

#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_fastopen.h"
#include "engines/tcp/tcp_loss.h"
#include "engines/tcp/tcp_mtu.h"
#include "engines/tcp/tcp_output.h"

#define GIVE_UP_AFTER   TCP_COARSE_S(900) /* R2, RFC 9293 SHLD-11: at least 100 s */
#define ORPHAN_AFTER    TCP_COARSE_S(120) /* nobody waits for what the program left behind */
#define PROBES_MAX      15u
#define BLACK_HOLE_RTOS 3u

static void give_up(struct tcp_ctx *x, struct tcp_conn *c) {
    (void)tcp_fsm(x, c, TCP_EV_GIVE_UP);
}

static bool waited_too_long(struct tcp_ctx *x, const struct tcp_conn *c) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t limit = c->flags & TCP_F_ORPHAN ? ORPHAN_AFTER : GIVE_UP_AFTER;
    if (k->user_timeout != 0)
        limit = k->user_timeout;
    if (c->state < TCP_STATE_ESTABLISHED && k->user_timeout == 0)
        return c->backoff >= k->syn_retries;
    return k->stuck_at != 0 && time_since(x->coarse, k->stuck_at) >= limit;
}

static void fire_rto(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    if (k->stuck_at == 0)
        k->stuck_at = (x->coarse - (c->rto >> 10)) | 1;
    if (waited_too_long(x, c)) {
        give_up(x, c);
        return;
    }
    if (c->state == TCP_STATE_SYN_SENT && (c->flags & TCP_F_TFO))
        tcp_fastopen_failed(x, c);
    tcp_loss_rto(x, c);
    if (c->backoff == BLACK_HOLE_RTOS && tcp_synchronized(c))
        tcp_mtu_black_hole(x, c);
    if (c->backoff == 1 || c->backoff == BLACK_HOLE_RTOS) /* R1, RFC 9293 SHLD-9: is the route still good? */
        tcp_mtu_route(x, c);
    c->rtx = TCP_RTX_RTO;
    c->rtx_at = x->tick + tcp_rto(c);
}

/* Something waits and nothing is in flight: a small segment's turn (RFC 9293 section 3.8.6.2.1, override timeout), or a
 * closed window to ask about. */
static void fire_persist(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    c->rtx = TCP_RTX_NONE;
    if (c->snd_wnd > c->snd_nxt - c->snd_una) {
        c->flags &= ~(uint32_t)TCP_F_MORE; /* it was announced, and did not come */
        x->force = true;
        tcp_output(x, c);
        x->force = false;
        return;
    }
    if (k->stuck_at == 0)
        k->stuck_at = x->coarse | 1;
    /* Answers set it back: then it may take for ever (RFC 9293 MUST-37), as long as there is a program that waits. */
    bool deaf = c->probes >= PROBES_MAX, left = c->flags & TCP_F_ORPHAN;
    uint32_t limit = k->user_timeout != 0 ? k->user_timeout : ORPHAN_AFTER;
    if (deaf || ((left || k->user_timeout != 0) && time_since(x->coarse, k->stuck_at) >= limit)) {
        tcp_send_conn_reset(x, c);
        give_up(x, c);
        return;
    }
    ENGINE_COUNT(x->io, TCP_COUNT_PERSIST);
    c->probes++;
    tcp_send_probe(x, c);
    if (c->backoff < 32)
        c->backoff++;
    c->rtx = TCP_RTX_PERSIST;
    c->rtx_at = x->tick + tcp_rto(c);
}

/* The tail, once (RFC 8985 section 7.3); the head, as often as it takes, while connections are being resumed. */
static void fire_probe(struct tcp_ctx *x, struct tcp_conn *c) {
    uint32_t quick = tcp_quick_wait(x), rto = tcp_rto(c);
    c->rtx = TCP_RTX_NONE;
    if (quick != 0)
        tcp_send_head_probe(x, c);
    else
        tcp_send_tail_probe(x, c);
    if (x->dead)
        return;
    c->rtx = quick != 0 ? TCP_RTX_TLP : TCP_RTX_RTO;
    c->rtx_at = x->tick + (quick != 0 ? min_u32(quick, rto) : rto);
}

/* What was in flight may have ended with the process that carried it: nothing that the path does, so neither it nor the
 * window is judged by it. */
void tcp_timer_resumed(struct tcp_ctx *x, struct tcp_conn *c) {
    x->st->thawed_at = x->coarse | 1;
    if (c->snd_una != c->snd_nxt && tcp_synchronized(c) && !x->dead)
        fire_probe(x, c);
}

static void fire_rtx(struct tcp_ctx *x, struct tcp_conn *c) {
    switch (c->rtx) {
    case TCP_RTX_RTO:
        fire_rto(x, c);
        return;
    case TCP_RTX_TLP:
        fire_probe(x, c);
        return;
    case TCP_RTX_REO:
        tcp_loss_reo(x, c);
        return;
    case TCP_RTX_PERSIST:
        fire_persist(x, c);
        return;
    default:
        return;
    }
}

void tcp_timer_slow(struct tcp_ctx *x, struct tcp_conn *c) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    if (c->state == TCP_STATE_TIME_WAIT)
        return; /* it ends at once */
    if (c->state == TCP_STATE_FIN_WAIT_2 && (c->flags & TCP_F_ORPHAN))
        c->slow_at = (x->coarse + TCP_COARSE_S(k->linger2)) | 1;
    else if (c->flags & TCP_F_KEEPALIVE)
        c->slow_at = (c->heard_at + TCP_COARSE_S(k->keep_idle)) | 1;
    else
        c->slow_at = 0;
}

/* RFC 9293 section 3.8.4. */
static void fire_keepalive(struct tcp_ctx *x, struct tcp_conn *c) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t idle = TCP_COARSE_S(k->keep_idle);
    if (c->snd_una != c->snd_nxt || x->coarse - c->heard_at < idle) { /* alive, or retransmission watches it */
        c->slow_at = (seq_max(c->heard_at, c->snd_una != c->snd_nxt ? x->coarse : c->heard_at) + idle) | 1;
        c->probes = 0;
        return;
    }
    if (c->probes >= k->keep_count ||
        (k->user_timeout != 0 && x->coarse - c->heard_at >= k->user_timeout && c->probes)) {
        tcp_send_conn_reset(x, c);
        give_up(x, c);
        return;
    }
    ENGINE_COUNT(x->io, TCP_COUNT_KEEPALIVE);
    c->probes++;
    tcp_send_probe(x, c);
    c->slow_at = (x->coarse + TCP_COARSE_S(k->keep_interval)) | 1;
}

static void fire_slow(struct tcp_ctx *x, struct tcp_conn *c) {
    c->slow_at = 0;
    if (c->state == TCP_STATE_TIME_WAIT || (c->state == TCP_STATE_FIN_WAIT_2 && (c->flags & TCP_F_ORPHAN)))
        (void)tcp_fsm(x, c, TCP_EV_EXPIRE);
    else if ((c->flags & TCP_F_KEEPALIVE) && tcp_synchronized(c))
        fire_keepalive(x, c);
}

void tcp_timer_fire(struct tcp_ctx *x, struct tcp_conn *c) {
    c->flags &= ~(uint32_t)TCP_F_ARMED;
    if ((c->flags & TCP_F_ACK_LATER) && time_reached(x->tick, c->delack_at))
        c->flags = (c->flags & ~(uint32_t)TCP_F_ACK_LATER) | TCP_F_ACK_NOW;
    if (c->ooo_head != TCP_NIL && (c->flags & TCP_F_STALLED))
        tcp_data_drain(x, c);
    if (!x->dead && c->slow_at != 0 && time_reached(x->coarse, c->slow_at))
        fire_slow(x, c);
    if (!x->dead && c->rtx != TCP_RTX_NONE && time_reached(x->tick, c->rtx_at))
        fire_rtx(x, c);
    tcp_flush_conn(x, c);
}
