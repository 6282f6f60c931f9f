/* SPDX-License-Identifier: Apache-2.0
 *
 * Protocol headers as they lie on the wire, and the Internet checksum. Values only; every field is read and written
 * with be16_load() and friends because headers have no alignment.
 */
#ifndef USHER_ENGINES_WIRE_H
#define USHER_ENGINES_WIRE_H

#include "engines/pkt.h"

#define ETH_LEN 14u
#define VLAN_LEN 4u
#define ARP_LEN 28u
#define IP4_LEN 20u
#define IP6_LEN 40u
#define UDP_LEN 8u
#define TCP_LEN 20u
#define ICMP_LEN 8u

#define ETHERTYPE_IP4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_IP6 0x86dd

#define PROTO_ICMP 1
#define PROTO_IGMP 2
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_FRAGMENT6 44
#define PROTO_ICMP6 58
#define PROTO_FRAME 255 /* reserved by IANA: whole frames of a program's, see PKT_KNOWN_RAW */

struct eth_hdr {
    uint8_t dst[6], src[6], type[2];
};

struct ip4_hdr {
    uint8_t ver_ihl, tos, len[2], id[2], frag[2], ttl, proto, csum[2], src[4], dst[4];
};

struct ip6_hdr {
    uint8_t ver_class_flow[4], len[2], next, hops, src[16], dst[16];
};

struct udp_hdr {
    uint8_t sport[2], dport[2], len[2], csum[2];
};

STATIC_ASSERT(sizeof(struct eth_hdr) == ETH_LEN && sizeof(struct ip4_hdr) == IP4_LEN, "wire layout");
STATIC_ASSERT(sizeof(struct ip6_hdr) == IP6_LEN && sizeof(struct udp_hdr) == UDP_LEN, "wire layout");

/* One's-complement sum of `len` bytes, continued from `sum`; not folded. `odd` pieces are the caller's business: only
 * the last piece of a packet may have an odd length, see csum_pkt(). Seven instructions for 16 bytes (written with more
 * bytes a step or a wider sum it becomes more: the compiler no longer finds add-with-carry); loads are native order,
 * which the one's-complement sum allows when the result is stored native too. */
static inline uint64_t csum_add(uint64_t sum, const void *data, size_t len) {
    const uint8_t *p = (const uint8_t *)data;
    uint64_t a = sum, b = 0;
    while (len >= 16) {
        uint64_t x, y;
        memcpy(&x, p, 8);
        memcpy(&y, p + 8, 8);
        a += x;
        a += a < x;
        b += y;
        b += b < y;
        p += 16;
        len -= 16;
    }
    a += b;
    a += a < b;
    if (len >= 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        a += x;
        a += a < x;
        p += 8;
        len -= 8;
    }
    if (len == 0)
        return a;
    /* Word by word: one load of a value that a copy of `len` bytes put together would stall on its stores. */
    uint64_t x = 0;
    if (len & 4) {
        uint32_t w;
        memcpy(&w, p, 4);
        x = w;
        p += 4;
    }
    if (len & 2) {
        uint16_t h;
        memcpy(&h, p, 2);
        x += h;
        p += 2;
    }
    if (len & 1)
        x += *p;
    a += x;
    a += a < x;
    return a;
}

/* The same for an IPv4 header without options: three loads. */
static inline uint64_t csum_ip4_header(const void *header) {
    uint64_t x, y;
    uint32_t z;
    memcpy(&x, header, 8);
    memcpy(&y, (const uint8_t *)header + 8, 8);
    memcpy(&z, (const uint8_t *)header + 16, 4);
    x += z;
    x += x < z;
    x += y;
    return x + (x < y);
}

/* Folds to 16 bits, in the byte order in which it can be stored with memcpy. Not inverted. Adding a word to itself with
 * its halves swapped leaves their sum, carry included, in the upper half. */
static inline uint16_t csum_fold(uint64_t sum) {
    sum += sum << 32 | sum >> 32;
    uint32_t s = (uint32_t)(sum >> 32);
    s += s << 16 | s >> 16;
    return (uint16_t)(s >> 16);
}

/* Sum of the pseudo header of `flow`, with local as source or as destination (the sum is the same). */
STRAIGHT uint64_t csum_pseudo(const struct flow *f, uint32_t len) {
    uint64_t s;
    if (ipaddr_is_v4(&f->remote)) {
        s = (uint64_t)f->local.w[3] + f->remote.w[3];
    } else {
        s = csum_add(0, f->local.b, 16);
        s = csum_add(s, f->remote.b, 16);
    }
    uint64_t t = (uint64_t)__builtin_bswap32(len) + __builtin_bswap32((uint32_t)f->proto);
    s += t;
    return s + (s < t);
}

/* Continues the sum of `at` bytes with those in frags, pieces of any length. */
__attribute__((noinline, unused)) static uint64_t csum_frags(uint64_t sum, const struct pkt *p, size_t at) {
    for (uint32_t i = 0; i < p->frag_count; i++) {
        uint64_t s = csum_add(0, p->frag[i].base, p->frag[i].len);
        if (at & 1) { /* the piece starts at an odd byte: its sum is byte-swapped (RFC 1071 section 2B) */
            uint16_t f = csum_fold(s);
            s = (uint16_t)((f << 8) | (f >> 8));
        }
        sum += s;
        sum += sum < s;
        at += p->frag[i].len;
    }
    return sum;
}

/* Sum over the packet from buffer offset `from` to its end, frags included. */
static inline uint64_t csum_pkt(uint64_t sum, const struct pkt *p, const uint8_t *from) {
    size_t head = (size_t)(p->data + p->len - from);
    sum = csum_add(sum, from, head);
    return LIKELY(p->frag_count == 0) ? sum : csum_frags(sum, p, head);
}

#endif
