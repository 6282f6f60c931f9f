/* SPDX-License-Identifier: Apache-2.0
 *
 * TCP options as they lie on the wire: reading (hostile bytes) and writing. No state.
 */
#ifndef USHER_ENGINES_TCP_OPTS_H
#define USHER_ENGINES_TCP_OPTS_H

#include "engines/tcp/tcp.h"

#define TCP_OPTS_MAX 40u
#define TCP_OPTS_TS  12u /* two NOPs and the timestamp */

enum tcp_opt_present {
    TCP_O_MSS = 1 << 0,
    TCP_O_WSCALE = 1 << 1,
    TCP_O_SACK_OK = 1 << 2,
    TCP_O_TS = 1 << 3,
    TCP_O_FASTOPEN = 1 << 4,
    TCP_O_UTO = 1 << 5,
};

struct tcp_opts {
    uint32_t tsval, tsecr;
    uint16_t mss;
    uint16_t uto;       /* seconds */
    uint8_t present;    /* enum tcp_opt_present */
    uint8_t wscale;
    uint8_t sack_count;
    uint8_t cookie_len; /* 0 = the peer asks for one */
    const uint8_t *cookie; /* inside the packet */
    struct tcp_range sack[4];
};

/* Reads `len` bytes. False: malformed (a length of 0 or 1, or beyond the end; RFC 9293 MUST-7). Options that belong on
 * a SYN are read only when `syn`. */
bool tcp_opts_parse(const uint8_t *at, uint32_t len, bool syn, struct tcp_opts *ret_opts);

/* What almost every segment carries: nothing, or just the timestamp. True when it was that. */
static inline bool tcp_opts_parse_common(const uint8_t *at, uint32_t len, struct tcp_opts *ret_opts) {
    ret_opts->present = 0;
    ret_opts->sack_count = 0;
    if (len == 0)
        return true;
    if (len != TCP_OPTS_TS || be32_load(at) != 0x0101080a)
        return false;
    ret_opts->present = TCP_O_TS;
    ret_opts->tsval = be32_load(at + 4);
    ret_opts->tsecr = be32_load(at + 8);
    return true;
}

/* Writers return the bytes written, always a multiple of four. */
uint32_t tcp_opts_write_syn(uint8_t *at, const struct tcp_opts *o);
uint32_t tcp_opts_write_ts(uint8_t *at, uint32_t tsval, uint32_t tsecr);
uint32_t tcp_opts_write_sack(uint8_t *at, const struct tcp_range *blocks, uint32_t n);

#endif
