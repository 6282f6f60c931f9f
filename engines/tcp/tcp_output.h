/* SPDX-License-Identifier: Apache-2.0
 *
 * Segments on their way out: what to send when (tcp_output.c) and how a segment is put together (tcp_build.c).
 */
#ifndef USHER_ENGINES_TCP_OUTPUT_H
#define USHER_ENGINES_TCP_OUTPUT_H

#include "engines/tcp/tcp_queue.h"

/* Room in io->down that data leaves for the acknowledgements of a burst. */
#define TCP_ROOM_RESERVE (PKT_BURST + 8u)

/* Sends what the peer's window, the path and Nagle allow: repetitions first, then new data, then FIN. */
void tcp_output(struct tcp_ctx *x, struct tcp_conn *c);
void tcp_send_ack(struct tcp_ctx *x, struct tcp_conn *c);
/* RFC 5961: an ACK that asks "did you mean that?", rate limited for all connections together. */
void tcp_send_challenge(struct tcp_ctx *x, struct tcp_conn *c);
void tcp_send_conn_reset(struct tcp_ctx *x, struct tcp_conn *c);
/* A segment with an old number and no data: the peer must answer (keep-alive, window probe). */
void tcp_send_probe(struct tcp_ctx *x, struct tcp_conn *c);
/* RFC 8985 section 7.3: new data if there is any and it fits, else the last segment again. */
void tcp_send_tail_probe(struct tcp_ctx *x, struct tcp_conn *c);
void tcp_send_head_probe(struct tcp_ctx *x, struct tcp_conn *c); /* the oldest that is not acknowledged */
/* SYN, or SYN-ACK where the peer's SYN is known; first time or again. False: no scoreboard record is free. */
bool tcp_send_syn(struct tcp_ctx *x, struct tcp_conn *c);
/* What we tell the peer (RFC 9293 MUST-16, RFC 6691). */
uint16_t tcp_advertised_mss(struct tcp_engine *st, const struct tcp_conn *c);
bool tcp_challenge_allowed(struct tcp_ctx *x);

/* tcp_build.c */
struct tcp_head {
    const struct flow *flow;
    uint32_t seq, ack;
    uint16_t wnd;   /* as it goes on the wire */
    uint8_t flags;  /* enum tcp_wire_flag */
    uint16_t urgent; /* with TCP_URG */
    uint8_t tos, ttl;
    uint8_t opts_len;
    const uint8_t *opts;
    uint32_t owner, sock;
};
/* A segment without payload. False: no buffer or no room; nothing was sent. */
bool tcp_emit(struct tcp_ctx *x, const struct tcp_head *h);
/* Puts header and options in front of what is in `p` and hands it down. */
void tcp_push_down(struct tcp_ctx *x, struct pkt *p, const struct tcp_head *h);
/* RST in answer to a segment that belongs to nothing (RFC 9293 section 3.10.7.1). */
void tcp_send_stray_reset(struct tcp_ctx *x, const struct tcp_rx *rx);

struct tcp_build {
    struct tcp_cursor at;
    uint32_t seq;
    uint32_t len;   /* wished; 0 is fine for a bare FIN */
    uint32_t segment; /* payload of a full segment; 0 = the connection's own */
    uint8_t flags;
    bool fresh;     /* first transmission: ECT, CWR */
};
enum tcp_built { TCP_BUILT, TCP_BUILT_NO_BUFFER, TCP_BUILT_GONE };
/* Makes a segment, or a super-segment where the path takes it; *ret_len = payload it carries. It goes out with
 * tcp_build_send(), or back with tcp_build_drop(). */
enum tcp_built tcp_build(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_build *b, struct pkt **ret_pkt,
                         uint32_t *ret_len);
void tcp_build_send(struct tcp_ctx *x, struct tcp_conn *c, const struct tcp_build *b, struct pkt *p);
/* Most payload one packet may carry on this connection's path: a multiple of the segment size. */
uint32_t tcp_super_max(struct tcp_ctx *x, const struct tcp_conn *c, uint32_t segment);
/* Payload of a full segment now: SACK blocks take room. */
uint32_t tcp_segment_size(struct tcp_ctx *x, const struct tcp_conn *c);
/* The window field, and what it promises (rcv_adv). */
uint16_t tcp_window(struct tcp_ctx *x, struct tcp_conn *c);

#endif
