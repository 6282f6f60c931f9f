/* SPDX-License-Identifier: Apache-2.0
 *
 * SipHash-2-4 (Aumasson, Bernstein): the keyed function behind initial sequence numbers (RFC 6528), SYN and fast-open
 * cookies and port choice (RFC 6056). Peers see its results, so the fast hash of engines/hash.h would not do. Inline;
 * about 60 cycles for a flow.
 */
#ifndef USHER_ENGINES_TCP_PRF_H
#define USHER_ENGINES_TCP_PRF_H

#include "engines/tcp/tcp.h"

struct tcp_sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t tcp_rotl(uint64_t x, uint32_t n) { return x << n | x >> (64 - n); }

static inline void tcp_sip_round(struct tcp_sip *s) {
    s->v0 += s->v1;
    s->v1 = tcp_rotl(s->v1, 13) ^ s->v0;
    s->v0 = tcp_rotl(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = tcp_rotl(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = tcp_rotl(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = tcp_rotl(s->v1, 17) ^ s->v2;
    s->v2 = tcp_rotl(s->v2, 32);
}

/* Of whole 64-bit words; the length word is theirs. */
static inline uint64_t tcp_prf(const struct tcp_key *key, const uint64_t *words, uint32_t n) {
    struct tcp_sip s = {key->k[0] ^ 0x736f6d6570736575ull, key->k[1] ^ 0x646f72616e646f6dull,
                        key->k[0] ^ 0x6c7967656e657261ull, key->k[1] ^ 0x7465646279746573ull};
    for (uint32_t i = 0; i <= n; i++) {
        uint64_t m = i < n ? words[i] : (uint64_t)(n * 8) << 56;
        s.v3 ^= m;
        tcp_sip_round(&s);
        tcp_sip_round(&s);
        s.v0 ^= m;
    }
    s.v2 ^= 0xff;
    for (uint32_t i = 0; i < 4; i++)
        tcp_sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* Of a flow, as this host sees it, and one word more. */
static inline uint64_t tcp_prf_flow(const struct tcp_key *key, const struct flow *f, uint64_t extra) {
    const uint64_t words[6] = {f->local.d[0],  f->local.d[1],
                               f->remote.d[0], f->remote.d[1],
                               (uint64_t)f->local_port << 16 | f->remote_port, extra};
    return tcp_prf(key, words, 6);
}

/* RFC 6528: a 4.1 us clock plus a secret function of the flow. */
static inline uint32_t tcp_isn(const struct tcp_engine *st, const struct flow *f, ns_t now) {
    return (uint32_t)(now >> 12) + (uint32_t)tcp_prf_flow(&st->isn_key, f, 0);
}

/* RFC 7323 section 5.4: the clock shown to a pair of hosts starts at a secret offset, the same for all of their
 * connections, so that a new one is never behind an old one (RFC 6191). */
static inline uint32_t tcp_ts_offset(const struct tcp_engine *st, const struct flow *f) {
    const uint64_t words[5] = {f->local.d[0], f->local.d[1], f->remote.d[0], f->remote.d[1], 1};
    return (uint32_t)tcp_prf(&st->isn_key, words, 5);
}

#endif
