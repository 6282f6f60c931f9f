/* SPDX-License-Identifier: Apache-2.0
 *
 * Options of a living connection, and what it tells about itself. Values may come from a client: bounded, refused with
 * their errno. Runs on the shard's worker.
 */
#include <errno.h>

#include "engines/tcp/tcp_cc.h"
#include "engines/tcp/tcp_cmds.h"
#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_output.h"
#include "engines/tcp/tcp_timer.h"

static void set_flag(struct tcp_conn *c, uint32_t flag, bool on) {
    c->flags = on ? c->flags | flag : c->flags & ~flag;
}

/* What an option may be, and where its number goes when it is nothing more than a number of the cold record. */
struct option {
    int64_t min, max;
    uint16_t offset, size;    /* in struct tcp_cold; size 0 = see apply() */
    uint32_t flag;            /* of the connection; 0 = none */
    uint16_t born, born_size; /* in struct tcp_options: what a listener's connections begin with; size 0 = nothing */
};

#define COLD(field) offsetof(struct tcp_cold, field), sizeof(((struct tcp_cold *)0)->field)
#define BORN(field) offsetof(struct tcp_options, field), sizeof(((struct tcp_options *)0)->field)

static const struct option options[] = {
    [TCP_OPT_NODELAY] = {0, 1, 0, 0, TCP_F_NODELAY, BORN(nodelay)},
    [TCP_OPT_CORK] = {0, 1, 0, 0, TCP_F_CORK, BORN(cork)},
    [TCP_OPT_QUICKACK] = {0, 1, 0, 0, TCP_F_QUICKACK, BORN(quickack)},
    [TCP_OPT_KEEPALIVE] = {0, 1, 0, 0, TCP_F_KEEPALIVE, BORN(keepalive)},
    [TCP_OPT_KEEP_IDLE] = {1, 32767, COLD(keep_idle), 0, BORN(keep_idle)},
    [TCP_OPT_KEEP_INTERVAL] = {1, 32767, COLD(keep_interval), 0, BORN(keep_interval)},
    [TCP_OPT_KEEP_COUNT] = {1, 127, COLD(keep_count), 0, BORN(keep_count)},
    [TCP_OPT_USER_TIMEOUT] = {0, 24 * 3600 * 1000, 0, 0, 0, BORN(user_timeout_ms)},
    [TCP_OPT_MAXSEG] = {88, 65483, COLD(user_mss), 0, BORN(maxseg)},
    [TCP_OPT_CONGESTION] = {0, 0, 0, 0, 0, 0, 0},
    [TCP_OPT_RCVBUF] = {0, 1 << 30, 0, 0, 0, BORN(rcvbuf)},
    [TCP_OPT_SNDBUF] = {0, 1 << 30, 0, 0, 0, BORN(sndbuf)},
    [TCP_OPT_TOS] = {0, 255, COLD(tos), 0, BORN(tos)},
    [TCP_OPT_TTL] = {0, 255, COLD(ttl), 0, BORN(ttl)},
    [TCP_OPT_NOTSENT_LOWAT] = {0, 1 << 30, COLD(notsent_lowat), 0, BORN(notsent_lowat)},
    [TCP_OPT_MAX_PACING] = {0, INT64_MAX >> 21, 0, 0, 0, BORN(max_pacing)},
    [TCP_OPT_LINGER2] = {0, 3600 * 1000, 0, 0, 0, 0, 0},
    [TCP_OPT_RETRIES] = {1, 127, COLD(syn_retries), 0, BORN(retries)},
    [TCP_OPT_OWNER] = {0, UINT32_MAX, COLD(owner), 0, 0, 0},
};

static int set_congestion(struct tcp_ctx *x, struct tcp_conn *c, const char *name) {
    int cc = tcp_cc_find(name);
    if (cc < 0)
        return -ENOENT;
    c->cc = (uint8_t)cc;
    tcp_cc_init(x, c);
    return 0;
}

static void set_rcvbuf(struct tcp_ctx *x, struct tcp_conn *c, uint32_t bytes) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    k->drs_space = bytes != 0 ? UINT32_MAX : 0;
    if (bytes != 0)
        c->rcv_limit = min_u32(max_u32(bytes, 2048), x->st->cfg.rcvbuf_max);
}

/* Who asks for no delay wants what was held back to go, corked or not, as with every other stack. */
static void flush_past_cork(struct tcp_ctx *x, struct tcp_conn *c) {
    x->force = true;
    tcp_output(x, c);
    x->force = false;
}

/* Options that are more than a number. */
static int apply(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_cmd_option *a) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    switch (a->option) {
    case TCP_OPT_NODELAY:
        if (a->value != 0)
            flush_past_cork(x, c);
        return 0;
    case TCP_OPT_CORK:
        return 0; /* output, which follows, sends what was held back */
    case TCP_OPT_QUICKACK:
        if (a->value != 0 && (c->flags & TCP_F_ACK_LATER))
            c->flags = (c->flags & ~(uint32_t)TCP_F_ACK_LATER) | TCP_F_ACK_NOW;
        return 0;
    case TCP_OPT_KEEPALIVE:
    case TCP_OPT_KEEP_IDLE:
        c->probes = 0;
        tcp_timer_slow(x, c);
        return 0;
    case TCP_OPT_USER_TIMEOUT:
        k->user_timeout = a->value != 0 ? TCP_COARSE_MS(a->value) : 0;
        return 0;
    case TCP_OPT_MAXSEG:
        tcp_conn_mss(x->st, c);
        return 0;
    case TCP_OPT_CONGESTION:
        return set_congestion(x, c, a->name);
    case TCP_OPT_RCVBUF:
        set_rcvbuf(x, c, (uint32_t)a->value);
        return 0;
    case TCP_OPT_MAX_PACING:
        k->max_pacing = (uint32_t)(((uint64_t)a->value << TCP_COARSE_SHIFT) / NS_PER_SEC);
        set_flag(c, TCP_F_PACED, k->max_pacing != 0 || k->pacing_rate != 0);
        return 0;
    case TCP_OPT_LINGER2:
        k->linger2 = (uint16_t)((a->value + 999) / 1000);
        return 0;
    default:
        return 0;
    }
}

static void store(void *record, uint16_t offset, uint16_t size, int64_t value) {
    memcpy((uint8_t *)record + offset, &value, size); /* little endian, as all hosts we build for */
}

/* 0: a number that the option can be. */
static int number_check(const struct tcp_cmd_option *a) {
    if (a->option >= ARRAY_LEN(options) || (options[a->option].min | options[a->option].max) == 0)
        return -ENOPROTOOPT;
    return a->value < options[a->option].min || a->value > options[a->option].max ? -EINVAL : 0;
}

/* What connections are born with from now on. */
static int born_option(struct tcp_options *opt, const struct tcp_cmd_option *a) {
    int error = number_check(a);
    if (error != 0)
        return error;
    const struct option *o = &options[a->option];
    if (o->born_size == 0)
        return -ENOPROTOOPT;
    if (o->born_size < sizeof a->value && a->value >> (8u * o->born_size) != 0)
        return -EINVAL;
    store(opt, o->born, o->born_size, a->value);
    return 0;
}

static int listener_option(struct tcp_ctx *x, const struct tcp_cmd_option *a) {
    struct tcp_listener *l = tcp_listener_at(x->st, a->sock & ~TCP_SOCK_LISTENER);
    if (l == NULL || (a->sink != 0 && l->sink != a->sink))
        return -ENOENT;
    switch (a->option) {
    case TCP_OPT_FASTOPEN:
    case TCP_OPT_DEFER_ACCEPT:
        if (a->value < 0 || a->value > INT32_MAX)
            return -EINVAL;
        if (a->option == TCP_OPT_FASTOPEN)
            l->fastopen = (uint32_t)a->value;
        else
            l->defer_accept = TCP_COARSE_S((uint32_t)a->value);
        return 0;
    case TCP_OPT_CONGESTION:
        if (tcp_cc_find(a->name) < 0)
            return -ENOENT;
        memcpy(l->opt.congestion, a->name, sizeof l->opt.congestion);
        return 0;
    default:
        return born_option(&l->opt, a);
    }
}

int tcp_cmd_option_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_option *a = (const struct tcp_cmd_option *)cmd;
    (void)r;
    if (a->sock != TCP_NIL && (a->sock & TCP_SOCK_LISTENER))
        return listener_option(x, a);
    struct tcp_conn *c = (struct tcp_conn *)arena_lookup(x->st, &x->st->a.table[TCP_TABLE_CONN], a->sock);
    if (c == NULL || (a->sink != 0 && c->sink != a->sink))
        return -ENOENT;
    int error = a->option != TCP_OPT_CONGESTION ? number_check(a) : 0;
    if (error != 0)
        return error;
    const struct option *o = &options[a->option];
    (void)tcp_begin(x, a->sock);
    if (o->size != 0)
        store(tcp_cold(x->st, c), o->offset, o->size, a->value);
    if (o->flag != 0)
        set_flag(c, o->flag, a->value != 0);
    error = apply(x, c, a);
    tcp_flush_conn(x, c);
    tcp_end(x);
    return error;
}

/* ---- information ---- */

static void fill_rates(const struct tcp_conn *c, const struct tcp_cold *k, struct tcp_conn_info *i) {
    i->rx_bytes = ((uint64_t)k->rx_high << 32 | (c->rcv_nxt - c->irs)) - 1 - ((c->flags & TCP_F_FIN_RCVD) != 0);
    i->tx_bytes = ((uint64_t)tcp_high(k->tx_high) << 32 | (c->snd_una - c->iss));
    i->tx_bytes -= i->tx_bytes > 0;
    i->pacing_rate = (uint64_t)k->pacing_rate * NS_PER_SEC >> TCP_COARSE_SHIFT;
    i->rtt_us = tcp_ticks_to_us(c->srtt >> 3);
    i->rtt_var_us = tcp_ticks_to_us(c->rttvar >> 2);
    i->rto_us = tcp_ticks_to_us(c->rto);
    i->min_rtt_us = k->min_rtt == UINT32_MAX ? 0 : tcp_ticks_to_us(k->min_rtt);
    i->retransmits = k->retransmits;
    i->reordering = (c->flags & TCP_F_SACK_REORDER) != 0;
    i->owner = k->owner;
    i->pmtu = k->mtu;
}

static void fill_info(struct tcp_engine *st, const struct tcp_conn *c, struct tcp_conn_info *i) {
    *i = (struct tcp_conn_info){.flow = c->flow,
                                .sink = c->sink,
                                .cwnd = c->cwnd,
                                .ssthresh = c->ssthresh,
                                .snd_wnd = c->snd_wnd,
                                .rcv_wnd = c->rcv_adv - c->rcv_nxt,
                                .mss = c->mss,
                                .unacked = c->snd_nxt - c->snd_una,
                                .unsent = seq_after(c->snd_end, c->snd_nxt) ? c->snd_end - c->snd_nxt : 0,
                                .sacked = c->sacked,
                                .lost = c->lost,
                                .rcv_limit = c->rcv_limit,
                                .rcv_held = c->rcv_held,
                                .rcv_ooo = c->ooo_bytes,
                                .state = c->state,
                                .ca_state = c->ca,
                                .backoff = c->backoff,
                                .snd_wscale = (uint8_t)tcp_snd_scale(c),
                                .rcv_wscale = (uint8_t)tcp_rcv_scale(c),
                                .timestamps = (c->flags & TCP_F_TS) != 0,
                                .sack = (c->flags & TCP_F_SACK) != 0,
                                .ecn = (c->flags & TCP_F_ECN) != 0};
    fill_rates(c, tcp_cold(st, c), i);
    memcpy(i->congestion, tcp_cc_name(c->cc), sizeof i->congestion);
}

static void fill_listener(const struct tcp_listener *l, struct tcp_conn_info *i) {
    *i = (struct tcp_conn_info){.flow = l->flow,
                                .sink = l->sink,
                                .owner = l->owner,
                                .backlog = l->backlog,
                                .pending = l->pending,
                                .state = TCP_STATE_LISTEN};
}

/* Connections by index, then listeners. */
static uint32_t next_socket(struct tcp_engine *st, uint32_t from) {
    const struct arena_table *t = &st->a.table[TCP_TABLE_CONN];
    if (!(from & TCP_SOCK_LISTENER)) {
        for (; from < t->high_water; from++)
            if (arena_lookup(st, t, from) != NULL)
                return from;
        from = TCP_SOCK_LISTENER;
    }
    t = &st->a.table[TCP_TABLE_LISTENER];
    for (from &= ~TCP_SOCK_LISTENER; from < t->high_water; from++)
        if (arena_lookup(st, t, from) != NULL)
            return from | TCP_SOCK_LISTENER;
    return TCP_NIL;
}

int tcp_cmd_info_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_info *a = (const struct tcp_cmd_info *)cmd;
    uint32_t sock = a->each ? next_socket(x->st, a->sock) : a->sock;
    if (a->info == NULL)
        return -EINVAL;
    if (sock == TCP_NIL)
        return -ENOENT;
    r->value = sock;
    if (sock & TCP_SOCK_LISTENER) {
        const struct tcp_listener *l = tcp_listener_at(x->st, sock & ~TCP_SOCK_LISTENER);
        if (l == NULL)
            return -ENOENT;
        fill_listener(l, a->info);
        return 0;
    }
    const struct tcp_conn *c = (const struct tcp_conn *)arena_lookup(x->st, &x->st->a.table[TCP_TABLE_CONN], sock);
    if (c == NULL)
        return -ENOENT;
    fill_info(x->st, c, a->info);
    return 0;
}

int tcp_cmd_stats_run(struct tcp_ctx *x, const struct engine_cmd *cmd, struct engine_reply *r) {
    const struct tcp_cmd_stats *a = (const struct tcp_cmd_stats *)cmd;
    const struct arena_table *t = x->st->a.table;
    (void)r;
    if (a->stats == NULL)
        return -EINVAL;
    *a->stats = (struct tcp_stats){.connections = t[TCP_TABLE_CONN].live,
                                   .listeners = t[TCP_TABLE_LISTENER].live,
                                   .half_open = t[TCP_TABLE_HALF].live,
                                   .time_wait = t[TCP_TABLE_WAIT].live,
                                   .items = t[TCP_TABLE_ITEM].live,
                                   .segments = t[TCP_TABLE_SEG].live,
                                   .ooo_packets = x->st->ooo_packets};
    return 0;
}
