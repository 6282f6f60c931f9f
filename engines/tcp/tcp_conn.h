/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of connection records, and the state table that rules it. Private to engines/tcp.
 */
#ifndef USHER_ENGINES_TCP_CONN_H
#define USHER_ENGINES_TCP_CONN_H

#include "engines/tcp/tcp_opts.h"

enum tcp_event {
    TCP_EV_OPEN,       /* the program connects */
    TCP_EV_ACCEPT,     /* a half-open connection was completed */
    TCP_EV_ACCEPT_TFO, /* a SYN with a good fast-open cookie */
    TCP_EV_SYN,        /* the peer's SYN, which does not acknowledge ours */
    TCP_EV_SYN_ACKED,
    TCP_EV_FIN_SENT,
    TCP_EV_FIN_ACKED,
    TCP_EV_FIN,        /* the peer's FIN is next in order */
    TCP_EV_RST,
    TCP_EV_ABORT,      /* the program wants it gone, or a limit does */
    TCP_EV_GIVE_UP,    /* the peer does not answer */
    TCP_EV_EXPIRE,     /* nobody waits for it in FIN-WAIT-2 any more; its TIME-WAIT may become a record of its own */
    TCP_EV_REWIND,     /* after a crash: the peer's FIN was taken but its reader has not got all before it */
    TCP_EV_COUNT
};

/* The dispatcher: runs the cell's action and enters its state. False: the cell is empty (counted). The only place that
 * writes c->state. */
bool tcp_fsm(struct tcp_ctx *x, struct tcp_conn *c, enum tcp_event ev);
/* For the test that walks the table: next state, or TCP_STATE_COUNT for an empty cell. */
uint8_t tcp_fsm_next(uint8_t state, enum tcp_event ev);

/* What a connection is born from. */
struct tcp_birth {
    struct flow flow;
    uint64_t sink;
    uint32_t owner;
    uint32_t iss, irs;
    uint32_t flags; /* enum tcp_conn_flag: what was agreed */
    uint32_t ts_off, ts_recent;
    uint32_t listener;
    uint16_t peer_mss; /* 0 = not told */
    uint16_t port;
    uint8_t snd_wscale;
    bool local;
    const struct tcp_options *opt;
};

/* A live record in state CLOSED with its change open (as after tcp_begin()), in the index; NULL when the table is full.
 * The caller moves it on with tcp_fsm(). */
struct tcp_conn *tcp_conn_create(struct tcp_ctx *x, const struct tcp_birth *b);
/* After tcp_end(): gives back all it holds. */
void tcp_conn_destroy(struct tcp_ctx *x, uint32_t index);
/* Puts the options of a birth or a listener on a connection. */
void tcp_conn_apply(struct tcp_engine *st, struct tcp_conn *c, const struct tcp_options *opt);
/* Payload per segment, from route, peer and program. */
void tcp_conn_mss(struct tcp_engine *st, struct tcp_conn *c);
/* Asks the link engine for the route: mtu, port, locality. Returns its error. */
int tcp_conn_route(struct tcp_ctx *x, struct tcp_conn *c);
void tcp_notice(struct tcp_ctx *x, const struct tcp_conn *c, uint16_t kind, uint32_t value, uint32_t extra);
uint32_t tcp_initial_cwnd(uint32_t mss);

/* tcp_table.c */
uint32_t tcp_find_conn(struct tcp_engine *st, const struct flow *f, uint32_t hash);
uint32_t tcp_find_half(struct tcp_engine *st, const struct flow *f, uint32_t hash);
uint32_t tcp_find_wait(struct tcp_engine *st, const struct flow *f, uint32_t hash);
/* The listener that a SYN is for, by address, then wildcard; groups share. TCP_NIL when there is none. */
uint32_t tcp_find_listener(struct tcp_engine *st, const struct flow *f, uint32_t hash, uint32_t ifindex);
bool tcp_listener_conflict(struct tcp_engine *st, const struct tcp_listener *l);
void tcp_listener_index(struct tcp_engine *st, uint32_t index);
/* A local port such that `f` is free (RFC 6056); 0 or -EADDRNOTAVAIL. */
int tcp_port_pick(struct tcp_engine *st, struct flow *f, uint32_t coarse);
/* Whether the flow may be used for a new connection; a time-wait record that may give way does so. */
bool tcp_flow_free(struct tcp_engine *st, const struct flow *f, uint32_t coarse);

/* tcp_kept.c: packets the engine keeps, by reference into the pools. */
uint32_t tcp_keep(struct tcp_ctx *x, struct pkt *p); /* TCP_NIL: not of our pools and no copy could be made */
struct pkt *tcp_kept(struct tcp_ctx *x, uint32_t ref);
/* Hands kept packets back; what has no room waits for tcp_bury_run(). */
void tcp_bury(struct tcp_ctx *x, uint32_t ref);
void tcp_bury_chain(struct tcp_ctx *x, uint32_t head, uint32_t tail);
uint32_t tcp_bury_run(struct tcp_ctx *x);

/* tcp_wait.c */
void tcp_wait_enter(struct tcp_ctx *x, struct tcp_conn *c);
void tcp_wait_input(struct tcp_ctx *x, struct tcp_rx *rx, uint32_t index);
/* A SYN for a flow in TIME-WAIT that may begin a new connection: the record goes; *ret_iss = number to begin with. */
bool tcp_wait_yield(struct tcp_ctx *x, uint32_t index, const struct tcp_rx *rx, const struct tcp_opts *o,
                    uint32_t *ret_iss);
void tcp_wait_release(struct tcp_engine *st, uint32_t index);
uint32_t tcp_wait_run(struct tcp_ctx *x, uint32_t budget);
void tcp_wait_link(struct tcp_engine *st, uint32_t index);

#endif
