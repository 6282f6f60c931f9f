/* SPDX-License-Identifier: Apache-2.0
 *
 * TCP options: a bounded walk over hostile bytes, and the three shapes we write. See tcp_opts.h.
 */
#include "engines/tcp/tcp_opts.h"

#define KIND_END         0
#define KIND_NOP         1
#define KIND_MSS         2
#define KIND_WSCALE      3
#define KIND_SACK_OK     4
#define KIND_SACK        5
#define KIND_TS          8
#define KIND_UTO         28
#define KIND_FASTOPEN    34
#define WSCALE_MAX       14 /* RFC 7323 section 2.3 */
#define COOKIE_MIN       4
#define COOKIE_MAX       16
#define FASTOPEN_ROUNDED 3u

static void read_syn_option(uint8_t kind, const uint8_t *v, uint32_t n, struct tcp_opts *o) {
    switch (kind) {
    case KIND_MSS:
        if (n != 2)
            return;
        o->mss = be16_load(v);
        o->present |= TCP_O_MSS;
        return;
    case KIND_WSCALE:
        if (n != 1)
            return;
        o->wscale = v[0] > WSCALE_MAX ? WSCALE_MAX : v[0];
        o->present |= TCP_O_WSCALE;
        return;
    case KIND_SACK_OK:
        if (n == 0)
            o->present |= TCP_O_SACK_OK;
        return;
    case KIND_FASTOPEN:
        if (n != 0 && (n < COOKIE_MIN || n > COOKIE_MAX || (n & 1)))
            return;
        o->cookie = v;
        o->cookie_len = (uint8_t)n;
        o->present |= TCP_O_FASTOPEN;
        return;
    default:
        return;
    }
}

static void read_sack(const uint8_t *v, uint32_t n, struct tcp_opts *o) {
    if (n % 8 != 0)
        return;
    for (uint32_t i = 0; i < n / 8 && o->sack_count < ARRAY_LEN(o->sack); i++)
        o->sack[o->sack_count++] = (struct tcp_range){be32_load(v + i * 8), be32_load(v + i * 8 + 4)};
}

static void read_option(uint8_t kind, const uint8_t *v, uint32_t n, bool syn, struct tcp_opts *o) {
    if (kind == KIND_TS && n == 8) {
        o->tsval = be32_load(v);
        o->tsecr = be32_load(v + 4);
        o->present |= TCP_O_TS;
    } else if (kind == KIND_SACK && !syn) {
        read_sack(v, n, o);
    } else if (kind == KIND_UTO && n == 2) {
        uint16_t raw = be16_load(v);
        uint32_t seconds = (raw & 0x7fffu) * ((raw & 0x8000u) ? 60u : 1u);
        o->uto = (uint16_t)(seconds > UINT16_MAX ? UINT16_MAX : seconds);
        o->present |= TCP_O_UTO;
    } else if (syn) {
        read_syn_option(kind, v, n, o);
    }
}

bool tcp_opts_parse(const uint8_t *at, uint32_t len, bool syn, struct tcp_opts *ret_opts) {
    *ret_opts = (struct tcp_opts){0};
    uint32_t i = 0;
    while (i < len && at[i] != KIND_END) {
        if (at[i] == KIND_NOP) {
            i++;
            continue;
        }
        if (len - i < 2 || at[i + 1] < 2 || at[i + 1] > len - i)
            return false;
        read_option(at[i], at + i + 2, at[i + 1] - 2u, syn, ret_opts);
        i += at[i + 1];
    }
    return true;
}

uint32_t tcp_opts_write_ts(uint8_t *at, uint32_t tsval, uint32_t tsecr) {
    be32_store(at, 0x0101080a);
    be32_store(at + 4, tsval);
    be32_store(at + 8, tsecr);
    return TCP_OPTS_TS;
}

uint32_t tcp_opts_write_sack(uint8_t *at, const struct tcp_range *blocks, uint32_t n) {
    at[0] = KIND_NOP;
    at[1] = KIND_NOP;
    at[2] = KIND_SACK;
    at[3] = (uint8_t)(2 + n * 8);
    for (uint32_t i = 0; i < n; i++) {
        be32_store(at + 4 + i * 8, blocks[i].start);
        be32_store(at + 8 + i * 8, blocks[i].end);
    }
    return 4 + n * 8;
}

static uint32_t write_fastopen(uint8_t *at, const struct tcp_opts *o) {
    uint32_t n = 2u + o->cookie_len;
    at[0] = KIND_FASTOPEN;
    at[1] = (uint8_t)n;
    if (o->cookie_len > 0)
        memcpy(at + 2, o->cookie, o->cookie_len);
    while (n & FASTOPEN_ROUNDED)
        at[n++] = KIND_NOP;
    return n;
}

static uint32_t write_uto(uint8_t *at, uint32_t seconds) {
    bool minutes = seconds > 0x7fff;
    at[0] = KIND_UTO;
    at[1] = 4;
    be16_store(at + 2, (uint16_t)(minutes ? 0x8000u | (seconds / 60u) : seconds));
    return 4;
}

/* In the order that most stacks use, so that a middlebox meets nothing new. With all of them: 4 + 12 + 4 + 4 + 2 + 16,
 * the user timeout gives way to a long cookie. */
uint32_t tcp_opts_write_syn(uint8_t *at, const struct tcp_opts *o) {
    uint32_t n = 0;
    at[n] = KIND_MSS;
    at[n + 1] = 4;
    be16_store(at + n + 2, o->mss);
    n += 4;
    if (o->present & TCP_O_TS) {
        n += tcp_opts_write_ts(at + n, o->tsval, o->tsecr);
        if (o->present & TCP_O_SACK_OK) { /* takes the place of the two NOPs */
            at[4] = KIND_SACK_OK;
            at[5] = 2;
        }
    } else if (o->present & TCP_O_SACK_OK) {
        be32_store(at + n, 0x01010402);
        n += 4;
    }
    if (o->present & TCP_O_WSCALE) {
        be32_store(at + n, 0x01030300u | o->wscale);
        n += 4;
    }
    if ((o->present & TCP_O_FASTOPEN) && n + 2u + o->cookie_len + FASTOPEN_ROUNDED <= TCP_OPTS_MAX)
        n += write_fastopen(at + n, o);
    if ((o->present & TCP_O_UTO) && n + 4 <= TCP_OPTS_MAX)
        n += write_uto(at + n, o->uto);
    return n;
}
