/* SPDX-License-Identifier: Apache-2.0
 *
 * RFC 4821. See tcp_mtu.h. A probe is new data in a segment of the next common size above the proven one. It is sent
 * only where its loss shows by SACK while others go on, and such a loss is no sign of congestion: the window stays. The
 * next attempt is ten minutes later; an arrival allows the next size at once. Nothing is remembered but the proven MTU
 * and the time of the next attempt; which segment is the probe, the scoreboard knows.
 */
#include "engines/tcp/tcp_mtu.h"

#include "engines/tcp/tcp_loss.h"

#define FLOOR4    576u
#define FLOOR6    1280u
#define RETRY     559u /* of 2^30 ns: ten minutes */
#define FOLLOWERS 4u   /* segments behind a probe, so that its loss shows at once */
#define CLOCK(x)  ((uint16_t)((x)->coarse >> 10))
#define LONG_PAST 16384

/* What links and tunnels have. */
static const uint16_t sizes[] = {1006, 1280, 1400, 1460, 1492, 1500, 2002, 4352, 8166, 9000, 17914, 32000};

static uint32_t headers(const struct tcp_conn *c) {
    return TCP_LEN + (ipaddr_is_v4(&c->flow.remote) ? IP4_LEN : IP6_LEN);
}

static void again_at(struct tcp_cold *k, uint16_t when) {
    k->black_hole_at = (uint16_t)(when | 1); /* 0 has a meaning of its own */
}

void tcp_mtu_black_hole(struct tcp_ctx *x, struct tcp_conn *c) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t floor = ipaddr_is_v4(&c->flow.remote) ? FLOOR4 : FLOOR6;
    if (c->seg_head == TCP_NIL || k->mtu <= floor || (c->flags & TCP_F_LOCAL))
        return;
    const struct tcp_seg *s = tcp_seg_at(x->st, c->seg_head);
    if (s->end - s->seq < c->mss)
        return;
    ENGINE_COUNT(x->io, TCP_COUNT_BLACK_HOLE);
    k->mtu = (uint16_t)floor;
    again_at(k, CLOCK(x));
    tcp_conn_mss(x->st, c);
}

void tcp_mtu_route(struct tcp_ctx *x, struct tcp_conn *c) {
    if (tcp_cold(x->st, c)->black_hole_at != 0)
        return; /* the route promises more than the path holds */
    uint16_t mss = c->mss;
    (void)tcp_conn_route(x, c);
    if (c->mss < mss)
        tcp_loss_resize(x, c);
}

/* The most that route, peer and program allow. */
static uint32_t mtu_most(struct tcp_ctx *x, const struct tcp_conn *c) {
    const struct tcp_cold *k = tcp_cold(x->st, c);
    struct engine_route route = {.mtu = k->mtu};
    if (x->io->route != NULL)
        x->io->route(x->io->route_arg, &c->flow.remote, &route);
    uint32_t most = route.error != 0 ? k->mtu : route.mtu;
    if (k->peer_mss != 0)
        most = min_u32(most, k->peer_mss + headers(c));
    return k->user_mss != 0 ? min_u32(most, k->user_mss + headers(c)) : most;
}

/* The connection goes well, and nothing of it would hide the loss of a probe. */
static bool calm(const struct tcp_conn *c) {
    return (c->flags & (TCP_F_SACK | TCP_F_LOCAL)) == TCP_F_SACK && c->ca == TCP_CA_OPEN && c->sacked == 0;
}

uint32_t tcp_mtu_probe(struct tcp_ctx *x, struct tcp_conn *c, uint32_t room) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    int16_t left = (int16_t)(k->black_hole_at - CLOCK(x));
    if ((left > 1 && left < LONG_PAST) || !calm(c))
        return 0;
    uint32_t most = mtu_most(x, c), mtu = most, i = 0;
    if (most <= k->mtu) {
        k->black_hole_at = 0;
        return 0;
    }
    while (i < ARRAY_LEN(sizes) && sizes[i] <= k->mtu)
        i++;
    if (i < ARRAY_LEN(sizes))
        mtu = min_u32(mtu, sizes[i]);
    uint32_t len = mtu - headers(c) - (c->flags & TCP_F_TS ? TCP_OPTS_TS : 0), all = len + FOLLOWERS * c->mss;
    if (c->snd_end - c->snd_nxt < all || room < all || (int32_t)(c->snd_una + c->snd_wnd - c->snd_nxt) < (int32_t)all)
        return 0;
    again_at(k, (uint16_t)(CLOCK(x) + RETRY));
    ENGINE_COUNT(x->io, TCP_COUNT_MTU_PROBE);
    return len;
}

void tcp_mtu_arrived(struct tcp_ctx *x, struct tcp_conn *c, uint32_t len) {
    struct tcp_cold *k = tcp_cold(x->st, c);
    uint32_t mtu = len + headers(c) + (c->flags & TCP_F_TS ? TCP_OPTS_TS : 0);
    if (mtu <= k->mtu || mtu > UINT16_MAX)
        return; /* a black hole since then, or a message that told the MTU */
    k->mtu = (uint16_t)mtu;
    again_at(k, CLOCK(x));
    tcp_conn_mss(x->st, c);
}
