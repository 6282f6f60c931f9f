/* SPDX-License-Identifier: Apache-2.0
 *
 * The state machine of RFC 9293 section 3.3.2 as a table. One function writes a connection's state: tcp_fsm(). Cells
 * that are not listed count as unexpected and change nothing. LISTEN and half-open are records of their own
 * (tcp_syn.c), and so is TIME-WAIT one call after it began (tcp_wait.c). Runs on the shard's worker, inside a change.
 */
#include <errno.h>

#include "engines/tcp/tcp_conn.h"
#include "engines/tcp/tcp_fastopen.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_syn.h"
#include "engines/tcp/tcp_timer.h"

typedef void action_fn(struct tcp_ctx *x, struct tcp_conn *c);

static void nothing(struct tcp_ctx *x, struct tcp_conn *c) {
    (void)x;
    (void)c;
}

static void end(struct tcp_ctx *x, struct tcp_conn *c, uint32_t error) {
    if (c->flags & TCP_F_ADOPTED) {
        if (c->tx_done != 0)
            tcp_notice(x, c, NOTICE_TX_DONE, 0, c->tx_done);
        if (error != 0 && !(c->flags & TCP_F_ORPHAN))
            tcp_notice(x, c, NOTICE_ERROR, error, 0);
        tcp_notice(x, c, NOTICE_CLOSED, 0, 0);
    }
    x->dead = true;
}

static void opened(struct tcp_ctx *x, struct tcp_conn *c) {
    tcp_timer_slow(x, c);
    if (c->flags & TCP_F_PASSIVE) { /* by fast open: accepted when its SYN came */
        tcp_fastopen_done(x, c);
        return;
    }
    tcp_notice(x, c, NOTICE_CONNECTED, 0, c->mss);
}

static void accepted(struct tcp_ctx *x, struct tcp_conn *c) {
    tcp_timer_slow(x, c);
    tcp_accept_ready(x, c);
}

static void refused(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_FAILED);
    ENGINE_COUNT(x->io, TCP_COUNT_RESET_IN);
    end(x, c, c->flags & TCP_F_PASSIVE ? ECONNRESET : ECONNREFUSED);
}

static void reset(struct tcp_ctx *x, struct tcp_conn *c) {
    ENGINE_COUNT(x->io, TCP_COUNT_RESET_IN);
    end(x, c, c->state == TCP_STATE_CLOSE_WAIT ? EPIPE : ECONNRESET);
}

static void closed(struct tcp_ctx *x, struct tcp_conn *c) {
    end(x, c, 0);
}

static void abort_silent(struct tcp_ctx *x, struct tcp_conn *c) {
    end(x, c, 0);
}

/* A reset that answers a segment carries the number which that one acknowledges: its sender expects no other, while
 * part of what we sent may never have arrived (RFC 5961 section 3.2). */
static void abort_reset(struct tcp_ctx *x, struct tcp_conn *c) {
    if (x->refused != NULL)
        tcp_send_stray_reset(x, x->refused);
    else
        tcp_send_conn_reset(x, c);
    end(x, c, tcp_cold(x->st, c)->error);
}

static void not_opened(struct tcp_ctx *x, struct tcp_conn *c) {
    uint8_t soft = tcp_cold(x->st, c)->error;
    ENGINE_COUNT(x->io, TCP_COUNT_FAILED);
    end(x, c, soft != 0 ? soft : ETIMEDOUT);
}

static void timed_out(struct tcp_ctx *x, struct tcp_conn *c) {
    uint8_t soft = tcp_cold(x->st, c)->error;
    ENGINE_COUNT(x->io, TCP_COUNT_TIMEOUT);
    end(x, c, soft != 0 ? soft : ETIMEDOUT);
}

static void hang_up(struct tcp_ctx *x, struct tcp_conn *c) {
    if (!(c->flags & TCP_F_ADOPTED) || (c->flags & (TCP_F_ORPHAN | TCP_F_HUNG_UP)))
        return;
    c->flags |= TCP_F_HUNG_UP;
    tcp_notice(x, c, NOTICE_HANGUP, 0, 0);
}

/* An orphan must not wait for ever for a peer that never closes. */
static void fin_wait(struct tcp_ctx *x, struct tcp_conn *c) {
    if (c->flags & TCP_F_ORPHAN)
        c->slow_at = (x->coarse + TCP_COARSE_S(tcp_cold(x->st, c)->linger2)) | 1;
}

/* What came with the FIN is only now on its way to the reader. The record stays as it is until the next call, when the
 * host has it: should we die in between, TCP_CMD_SYNC can go back. Never ahead of the clock, and not 0. */
static void soon_time_wait(struct tcp_ctx *x, struct tcp_conn *c) {
    hang_up(x, c);
    c->slow_at = (x->coarse - 1) | 1;
}

static void time_wait(struct tcp_ctx *x, struct tcp_conn *c) {
    tcp_wait_enter(x, c);
    end(x, c, 0);
}

struct cell {
    action_fn *action;
    uint8_t next;
};

/* clang-format off */
#define GONE(act) {act, TCP_STATE_CLOSED}
static const struct cell table[TCP_STATE_COUNT][TCP_EV_COUNT] = {
    [TCP_STATE_CLOSED] = {
        [TCP_EV_OPEN]       = {nothing, TCP_STATE_SYN_SENT},
        [TCP_EV_ACCEPT]     = {accepted, TCP_STATE_ESTABLISHED},
        [TCP_EV_ACCEPT_TFO] = {accepted, TCP_STATE_SYN_RCVD},
    },
    [TCP_STATE_SYN_SENT] = {
        [TCP_EV_SYN]        = {nothing, TCP_STATE_SYN_RCVD},
        [TCP_EV_SYN_ACKED]  = {opened, TCP_STATE_ESTABLISHED},
        [TCP_EV_RST]        = GONE(refused),
        [TCP_EV_ABORT]      = GONE(abort_silent),
        [TCP_EV_GIVE_UP]    = GONE(not_opened),
    },
    [TCP_STATE_SYN_RCVD] = {
        [TCP_EV_SYN_ACKED]  = {opened, TCP_STATE_ESTABLISHED},
        [TCP_EV_FIN_SENT]   = {nothing, TCP_STATE_FIN_WAIT_1},
        [TCP_EV_FIN]        = {hang_up, TCP_STATE_CLOSE_WAIT},
        [TCP_EV_RST]        = GONE(refused),
        [TCP_EV_ABORT]      = GONE(abort_reset),
        [TCP_EV_GIVE_UP]    = GONE(not_opened),
    },
    [TCP_STATE_ESTABLISHED] = {
        [TCP_EV_FIN_SENT]   = {nothing, TCP_STATE_FIN_WAIT_1},
        [TCP_EV_FIN]        = {hang_up, TCP_STATE_CLOSE_WAIT},
        [TCP_EV_RST]        = GONE(reset),
        [TCP_EV_ABORT]      = GONE(abort_reset),
        [TCP_EV_GIVE_UP]    = GONE(timed_out),
    },
    [TCP_STATE_FIN_WAIT_1] = {
        [TCP_EV_FIN_ACKED]  = {fin_wait, TCP_STATE_FIN_WAIT_2},
        [TCP_EV_FIN]        = {hang_up, TCP_STATE_CLOSING},
        [TCP_EV_RST]        = GONE(reset),
        [TCP_EV_ABORT]      = GONE(abort_reset),
        [TCP_EV_GIVE_UP]    = GONE(timed_out),
    },
    [TCP_STATE_FIN_WAIT_2] = {
        [TCP_EV_FIN]        = {soon_time_wait, TCP_STATE_TIME_WAIT},
        [TCP_EV_RST]        = GONE(reset),
        [TCP_EV_ABORT]      = GONE(abort_reset),
        [TCP_EV_GIVE_UP]    = GONE(timed_out),
        [TCP_EV_EXPIRE]     = GONE(closed),
    },
    [TCP_STATE_CLOSE_WAIT] = {
        [TCP_EV_FIN_SENT]   = {nothing, TCP_STATE_LAST_ACK},
        [TCP_EV_RST]        = GONE(reset),
        [TCP_EV_ABORT]      = GONE(abort_reset),
        [TCP_EV_GIVE_UP]    = GONE(timed_out),
        [TCP_EV_REWIND]     = {nothing, TCP_STATE_ESTABLISHED},
    },
    [TCP_STATE_CLOSING] = {
        [TCP_EV_FIN_ACKED]  = {soon_time_wait, TCP_STATE_TIME_WAIT},
        [TCP_EV_RST]        = GONE(closed),
        [TCP_EV_ABORT]      = GONE(abort_reset),
        [TCP_EV_GIVE_UP]    = GONE(timed_out),
        [TCP_EV_REWIND]     = {nothing, TCP_STATE_FIN_WAIT_1},
    },
    [TCP_STATE_LAST_ACK] = {
        [TCP_EV_FIN_ACKED]  = GONE(closed),
        [TCP_EV_RST]        = GONE(closed),
        [TCP_EV_ABORT]      = GONE(abort_reset),
        [TCP_EV_GIVE_UP]    = GONE(timed_out),
        [TCP_EV_REWIND]     = {nothing, TCP_STATE_FIN_WAIT_1},
    },
    [TCP_STATE_TIME_WAIT] = {
        [TCP_EV_EXPIRE]     = GONE(time_wait),
        [TCP_EV_ABORT]      = GONE(time_wait),
        [TCP_EV_REWIND]     = {nothing, TCP_STATE_FIN_WAIT_2},
    },
};
/* clang-format on */

bool tcp_fsm(struct tcp_ctx *x, struct tcp_conn *c, enum tcp_event ev) {
    const struct cell *cell = &table[c->state][ev];
    if (UNLIKELY(cell->action == NULL)) {
        ENGINE_COUNT(x->io, TCP_COUNT_FSM);
        return false;
    }
    ENGINE_TRACE(x->io, c->state, ev, tcp_index(x->st, c));
    cell->action(x, c);
    c->state = cell->next;
    return true;
}

uint8_t tcp_fsm_next(uint8_t state, enum tcp_event ev) {
    const struct cell *cell = &table[state][ev];
    return cell->action == NULL ? TCP_STATE_COUNT : cell->next;
}
