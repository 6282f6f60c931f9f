/* SPDX-License-Identifier: Apache-2.0
 *
 * The rule programs: the canonical parse (nicbackend/ir/view.h) into a key, and the rules that have it.
 *
 *   rules_xdp     drops; what it lets pass goes to the program behind it, else to the kernel
 *   rules_tc      the same at tc ingress
 *   rules_filter  the same as a socket filter: the socket does not get what is dropped
 *
 * A packet that cannot be read where the canonical parse would read it passes. Every loop is bounded; rules are map
 * entries, so that no change of rules loads a program.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "load.bpf.h"
#include "rules_abi.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, RULES_MAX);
    __type(key, struct rule_key);
    __type(value, struct rule_value);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} rules SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, RULES_TUPLES);
    __type(key, __u32);
    __type(value, struct rule_tuple);
} tuples SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 65536);
    __type(key, __u32);
    __type(value, __u64);
} rule_ports SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, RULES_SOURCES);
    __type(key, struct rule_source);
    __type(value, __u64);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} rule_sources SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, RULES_MAX);
    __type(key, __u32);
    __type(value, struct rule_count);
} rule_counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct rule_config);
} rule_config SEC(".maps");

/* The program behind this one; nothing when there is none. */
struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u32);
} rule_next SEC(".maps");

/* --- the canonical parse --------------------------------------------------------------------------------------- */

enum { PARSED_IP = 1, PARSED_PORTS = 2, PARSED_ICMP = 4, PARSED_FRAGMENT = 8 }; /* enum nb_parsed */

/* struct nb_key; numbers in network order. */
struct key {
    __u8 src[16], dst[16];
    __u16 sport, dport;
    __u8 proto, parsed, ip_version, dscp;
    __u8 tcp_flags, icmp_type, icmp_code, zero;
    __u16 vlan, ethertype;
} __attribute__((aligned(8)));

#define EXTENSIONS_MAX 6
#define VLAN_DEPTH     2

/* What is left of the frame, by offset; beyond `end` is padding. */
struct rest {
    __u32 at, end;
};

INLINE __u32 frame_len(void *ctx, const enum hook hook) {
    if (hook == HOOK_XDP)
        return (__u32)bpf_xdp_get_buff_len(ctx);
    return ((struct __sk_buff *)ctx)->len;
}

/* The skb hooks find the outermost tag in the skb. -1: cannot be read. */
INLINE int parse_link(void *ctx, const enum hook hook, struct rest *r, struct key *k) {
    __u8 h[14];
    int outermost = 1;
    if (hook == HOOK_XDP) {
        if (load(ctx, hook, 0, h, sizeof h) != 0)
            return -1;
        __builtin_memcpy(&k->ethertype, h + 12, 2);
        r->at = sizeof h;
    } else {
        struct __sk_buff *s = ctx;
        k->ethertype = (__u16)s->protocol;
        r->at = hook == HOOK_TC ? ETH_HLEN : 0;
        if (s->vlan_present) {
            k->vlan = bpf_htons(s->vlan_tci & 0xfff);
            outermost = 0;
        }
    }
    for (int i = 0; i < VLAN_DEPTH; i++) {
        __u8 tag[4];
        if ((k->ethertype != bpf_htons(ETH_P_8021Q) && k->ethertype != bpf_htons(ETH_P_8021AD)) || r->at + 4 > r->end)
            break;
        if (load(ctx, hook, r->at, tag, sizeof tag) != 0)
            return -1;
        if (i == 0 && outermost)
            k->vlan = bpf_htons((__u16)(tag[0] << 8 | tag[1]) & 0xfff);
        __builtin_memcpy(&k->ethertype, tag + 2, 2);
        r->at += 4;
    }
    return 0;
}

INLINE void map_v4(__u8 *to, const __u8 *v4) {
    __u32 *w = (__u32 *)to;
    w[0] = w[1] = 0;
    w[2] = bpf_htonl(0xffff);
    __builtin_memcpy(&w[3], v4, 4);
}

/* Does the frame reach up to here? A socket filter's length may or may not have the link header in it, so it looks. */
INLINE int reaches(void *ctx, const enum hook hook, const struct rest *r, __u32 end) {
    __u8 last;
    if (hook == HOOK_FILTER)
        return bpf_skb_load_bytes_relative(ctx, end - 1, &last, 1, BPF_HDR_START_NET) == 0;
    return end <= r->end;
}

/* 1: an IP packet, with `r` at what follows its header; 0: none; -1: cannot be read. */
INLINE int parse_v4(void *ctx, const enum hook hook, struct rest *r, struct key *k) {
    __u8 h[20];
    if (r->at + sizeof h > r->end)
        return 0;
    if (load(ctx, hook, r->at, h, sizeof h) != 0)
        return -1;
    __u32 header = (h[0] & 15) * 4u, total = (__u32)h[2] << 8 | h[3];
    if (h[0] >> 4 != 4 || header < sizeof h || total < header || !reaches(ctx, hook, r, r->at + total))
        return 0;
    k->parsed = PARSED_IP;
    k->ip_version = 4;
    map_v4(k->src, h + 12);
    map_v4(k->dst, h + 16);
    k->dscp = h[1] >> 2;
    k->proto = h[9];
    if (((h[6] << 8 | h[7]) & 0x3fff) != 0)
        k->parsed |= PARSED_FRAGMENT;
    r->end = r->at + total;
    r->at += header;
    return 1;
}

/* 1: `r` stands at a transport header; 0: it does not; -1: cannot be read. Unrolled: Linux 6.1 takes a loop only when
 * a jump closes it, and whether the compiler puts one there is luck. */
INLINE int skip_extensions(void *ctx, const enum hook hook, struct rest *r, struct key *k) {
#pragma unroll
    for (int i = 0; i <= EXTENSIONS_MAX; i++) {
        __u8 h[8];
        if (k->proto != IPPROTO_HOPOPTS && k->proto != IPPROTO_ROUTING && k->proto != IPPROTO_DSTOPTS &&
            k->proto != IPPROTO_FRAGMENT)
            return 1;
        if (i == EXTENSIONS_MAX || r->at + sizeof h > r->end)
            return 0;
        if (load(ctx, hook, r->at, h, sizeof h) != 0)
            return -1;
        __u32 size = k->proto == IPPROTO_FRAGMENT ? 8 : (h[1] + 1u) * 8u;
        if (r->at + size > r->end)
            return 0;
        int fragment = k->proto == IPPROTO_FRAGMENT && ((h[2] << 8 | h[3]) & 0xfff9) != 0;
        k->proto = h[0];
        r->at += size;
        if (fragment) {
            k->parsed |= PARSED_FRAGMENT;
            return 0;
        }
    }
    return 0;
}

INLINE int parse_v6(void *ctx, const enum hook hook, struct rest *r, struct key *k, int *transport) {
    __u8 h[40];
    if (r->at + sizeof h > r->end)
        return 0;
    if (load(ctx, hook, r->at, h, sizeof h) != 0)
        return -1;
    __u32 total = ((__u32)h[4] << 8 | h[5]) + 40;
    if (h[0] >> 4 != 6 || !reaches(ctx, hook, r, r->at + total))
        return 0;
    k->parsed = PARSED_IP;
    k->ip_version = 6;
    __builtin_memcpy(k->src, h + 8, 16);
    __builtin_memcpy(k->dst, h + 24, 16);
    k->dscp = (__u8)((h[0] << 8 | h[1]) >> 6 & 0x3f);
    k->proto = h[6];
    r->end = r->at + total;
    r->at += sizeof h;
    *transport = skip_extensions(ctx, hook, r, k);
    return *transport < 0 ? -1 : 1;
}

INLINE __u32 transport_size(__u8 proto) {
    switch (proto) {
    case IPPROTO_TCP:
        return 20;
    case IPPROTO_UDP:
    case IPPROTO_UDPLITE:
        return 8;
    case IPPROTO_SCTP:
        return 12;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        return 4;
    default:
        return 0;
    }
}

INLINE int parse_transport(void *ctx, const enum hook hook, const struct rest *r, struct key *k) {
    __u8 h[4] __attribute__((aligned(4)));
    __u32 size = transport_size(k->proto);
    if (size == 0 || r->at + size > r->end)
        return 0;
    if (load(ctx, hook, r->at, h, sizeof h) != 0)
        return -1;
    if (size == 4) {
        k->parsed |= PARSED_ICMP;
        k->icmp_type = h[0];
        k->icmp_code = h[1];
        return 0;
    }
    k->parsed |= PARSED_PORTS;
    __builtin_memcpy(&k->sport, h, 4);
    return k->proto == IPPROTO_TCP ? load(ctx, hook, r->at + 13, &k->tcp_flags, 1) : 0;
}

INLINE int parse(void *ctx, const enum hook hook, struct key *k, __u32 *bytes) {
    struct rest r = {.end = frame_len(ctx, hook)};
    int transport = 1, ip = 0;
    if (parse_link(ctx, hook, &r, k) != 0)
        return -1;
    __u32 l3 = r.at;
    if (k->ethertype == bpf_htons(ETH_P_IP))
        ip = parse_v4(ctx, hook, &r, k);
    else if (k->ethertype == bpf_htons(ETH_P_IPV6))
        ip = parse_v6(ctx, hook, &r, k, &transport);
    if (ip < 0)
        return -1;
    *bytes = r.end - l3;
    if (ip && transport && !(k->parsed & PARSED_FRAGMENT))
        return parse_transport(ctx, hook, &r, k);
    return 0;
}

/* --- the rules ------------------------------------------------------------------------------------------------- */

/* Which tuples can have a rule for it. */
INLINE __u64 tuples_of(const struct key *k) {
    __u32 zero = 0, port = bpf_ntohs(k->dport);
    const struct rule_config *c = bpf_map_lookup_elem(&rule_config, &zero);
    const __u64 *by_port = bpf_map_lookup_elem(&rule_ports, &port);
    if (c == NULL || by_port == NULL)
        return 0;
    __u64 bits = *by_port | c->any_port;
    if ((bits & ~c->any_source) == 0)
        return bits;
    struct rule_source s = {.bits = 128};
    __builtin_memcpy(s.addr, k->src, 16);
    const __u64 *by_source = bpf_map_lookup_elem(&rule_sources, &s);
    return bits & (c->any_source | (by_source != NULL ? *by_source : 0));
}

INLINE struct rule_value *rule_of(const struct key *k, __u32 tuple) {
    const __u64 *words = (const __u64 *)k;
    struct rule_key key = {.tuple = tuple};
    const struct rule_tuple *t = bpf_map_lookup_elem(&tuples, &tuple);
    if (t == NULL)
        return NULL;
#pragma unroll
    for (int i = 0; i < RULES_WORDS; i++)
        key.words[i] = words[i] & t->mask[i];
    return bpf_map_lookup_elem(&rules, &key);
}

/* Without branches, which the verifier would walk one by one. */
INLINE __u32 bits_count(__u64 x) {
    x -= x >> 1 & 0x5555555555555555ull;
    x = (x & 0x3333333333333333ull) + (x >> 2 & 0x3333333333333333ull);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0full;
    return (__u32)(x * 0x0101010101010101ull >> 56);
}

struct search {
    struct key key;
    __u64 bits; /* tuples still to ask */
    const struct rule_value *best;
};

INLINE void ask(struct search *s) {
    const struct rule_value *v = rule_of(&s->key, bits_count((s->bits & -s->bits) - 1));
    s->bits &= s->bits - 1;
    if (v != NULL && (s->best == NULL || v->prec > s->best->prec))
        s->best = v;
}

static long ask_next(__u32 i, void *arg) {
    ask(arg);
    return 0;
}

/* 1: a rule drops it, and has counted it. A socket's filter counts nothing: the ingress hook sees the packet, too. */
INLINE int is_dropped(void *ctx, const enum hook hook) {
    struct search s;
    __u32 bytes = 0;
    __builtin_memset(&s, 0, sizeof s);
    if (parse(ctx, hook, &s.key, &bytes) != 0)
        return 0;
    s.bits = tuples_of(&s.key);
    if (s.bits == 0)
        return 0;
    ask(&s);
    if (s.bits != 0) /* seldom: a call of its own */
        bpf_loop(bits_count(s.bits), ask_next, &s, 0);
    if (s.best == NULL || s.best->action == 0)
        return 0;
    if (hook == HOOK_FILTER)
        return 1;
    __u32 slot = s.best->slot;
    struct rule_count *n = bpf_map_lookup_elem(&rule_counts, &slot);
    if (n != NULL) {
        n->packets++;
        n->bytes += bytes;
    }
    return 1;
}

SEC("xdp.frags")
int rules_xdp(struct xdp_md *ctx) {
    if (is_dropped(ctx, HOOK_XDP))
        return XDP_DROP;
    bpf_tail_call(ctx, &rule_next, 0);
    return XDP_PASS;
}

SEC("tc")
int rules_tc(struct __sk_buff *skb) {
    return is_dropped(skb, HOOK_TC) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SEC("socket")
int rules_filter(struct __sk_buff *skb) {
    if (is_dropped(skb, HOOK_FILTER))
        return 0;
    bpf_tail_call(skb, &rule_next, 0);
    return 0;
}

char LICENSE[] SEC("license") = "Apache-2.0";
