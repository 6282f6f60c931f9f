/* SPDX-License-Identifier: Apache-2.0
 *
 * SYN cookies (Bernstein): 5 bits of a 64 s clock, 3 bits of MSS, 24 bits of keyed hash over flow, peer's number, clock
 * and MSS. Window scale, SACK and ECN ride in the low bits of our timestamp, which the peer echoes; without timestamps
 * the connection goes without them. A guess succeeds once in 2^23 tries within two minutes.
 */
#include "engines/tcp/tcp_prf.h"
#include "engines/tcp/tcp_syn.h"

#define CLOCK_SHIFT 16u /* of the coarse clock: 68 s */
#define CLOCK_BITS  5u
#define MAC_BITS    24u
#define AGE_MAX     1u
#define STAMP_MASK  63u
#define NO_WSCALE   15u

static const uint16_t mss_table[8] = {88, 536, 1220, 1400, 1440, 1460, 8940, 65483};

static uint32_t mac(const struct tcp_engine *st, const struct flow *f, uint32_t irs, uint32_t clock, uint32_t mss) {
    uint64_t extra = (uint64_t)irs << 32 | clock << 3 | mss;
    return (uint32_t)tcp_prf_flow(&st->cookie_key, f, extra) & ((1u << MAC_BITS) - 1);
}

uint32_t tcp_cookie_make(const struct tcp_engine *st, const struct flow *f, uint32_t irs, uint32_t coarse,
                         uint16_t mss) {
    uint32_t clock = coarse >> CLOCK_SHIFT, index = 0;
    while (index + 1 < ARRAY_LEN(mss_table) && mss_table[index + 1] <= mss)
        index++;
    return (clock & ((1u << CLOCK_BITS) - 1)) << 27 | index << MAC_BITS | mac(st, f, irs, clock, index);
}

uint32_t tcp_cookie_stamp(uint32_t stamp, const struct tcp_cookie *c) {
    uint32_t bits = c->flags & TCP_F_WSCALE ? c->snd_wscale : NO_WSCALE;
    bits |= (c->flags & TCP_F_SACK ? 16u : 0u) | (c->flags & TCP_F_ECN ? 32u : 0u);
    uint32_t with = (stamp & ~STAMP_MASK) | bits;
    return seq_after(with, stamp) ? with - (STAMP_MASK + 1) : with; /* never ahead of the clock */
}

bool tcp_cookie_check(const struct tcp_engine *st, const struct tcp_rx *rx, const struct tcp_opts *o, uint32_t coarse,
                      struct tcp_cookie *ret_cookie) {
    uint32_t cookie = rx->ack - 1, irs = rx->seq - 1, now = coarse >> CLOCK_SHIFT;
    uint32_t age = (now - (cookie >> 27)) & ((1u << CLOCK_BITS) - 1), index = cookie >> MAC_BITS & 7;
    if (age > AGE_MAX || mac(st, &rx->p->flow, irs, now - age, index) != (cookie & ((1u << MAC_BITS) - 1)))
        return false;
    *ret_cookie = (struct tcp_cookie){.mss = mss_table[index]};
    if (!(o->present & TCP_O_TS))
        return true;
    uint32_t scale = o->tsecr & 15;
    ret_cookie->flags = TCP_F_TS | (o->tsecr & 16 ? TCP_F_SACK : 0u) | (o->tsecr & 32 ? TCP_F_ECN : 0u);
    if (scale != NO_WSCALE) {
        ret_cookie->flags |= TCP_F_WSCALE;
        ret_cookie->snd_wscale = (uint8_t)scale;
    }
    return true;
}
