/* SPDX-License-Identifier: Apache-2.0
 *
 * The claim programs: one parser and one verdict for three hooks.
 *
 *   claims_xdp     claimed packets go to the AF_XDP socket of their queue, the rest passes
 *   claims_tc      claimed packets are dropped: the packet socket, which sees them earlier, has taken them
 *   claims_filter  socket filter of that packet socket: takes exactly the claimed packets
 *
 * They write nothing but counters and the table of fragments. A packet they cannot parse is not claimed: the kernel
 * gets it. Every loop is bounded. An unclaimed TCP or UDP packet costs one array load besides parsing.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "claims_abi.h"
#include "load.bpf.h"

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct claim_key);
    __type(value, __u32);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} claims SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, CLAIM_PORT_WORDS + 1);
    __type(key, __u32);
    __type(value, __u64);
} ports SEC(".maps");

struct addr {
    __u8 b[16] __attribute__((aligned(4)));
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct addr);
    __type(value, __u32);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} addrs SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, CLAIM_FRAG_MAX);
    __type(key, struct claim_frag_key);
    __type(value, __u64);
} frags SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, CLAIM_KEPT_MAX);
    __type(key, struct claim_kept_key);
    __type(value, __u32);
} kept SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct claim_kept_key);
    __type(value, __u32);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} held SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct claim_config);
} config SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, CLAIM_COUNT_COUNT);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, CLAIM_QUEUE_MAX);
    __type(key, __u32);
    __type(value, __u32);
} xsks SEC(".maps");

/* --- reading packets ------------------------------------------------------------------------------------------ */

INLINE int load_dst_mac(void *ctx, const enum hook hook, __u8 *mac) {
    if (hook == HOOK_FILTER)
        return bpf_skb_load_bytes_relative(ctx, 0, mac, 6, BPF_HDR_START_MAC) == 0 ? 0 : -1;
    return load(ctx, hook, 0, mac, 6);
}

/* --- one IP packet, or one that an ICMP error quotes ---------------------------------------------------------- */

enum frag { FRAG_NONE, FRAG_FIRST, FRAG_LATER };

struct view {
    struct addr local, remote; /* quoted packets are ours: their source is local */
    __u32 l4;                  /* offset of the transport header */
    __u32 frag_id;
    __u8 frag; /* enum frag */
    __u8 proto;
    __u8 is_v6;
};

INLINE void map_v4(struct addr *a, const __u8 *v4) {
    __u32 *w = (__u32 *)a->b;
    w[0] = w[1] = 0;
    w[2] = bpf_htonl(0xffff);
    __builtin_memcpy(&w[3], v4, 4);
}

INLINE int parse_v4(void *ctx, const enum hook hook, __u32 off, int quoted, struct view *v) {
    __u8 h[20];
    if (load(ctx, hook, off, h, sizeof h) != 0)
        return -1;
    __u32 header = (h[0] & 15) * 4u;
    if (h[0] >> 4 != 4 || header < sizeof h)
        return -1;
    __u16 frag = (__u16)(h[6] << 8 | h[7]);
    v->frag = (frag & 0x1fff) != 0 ? FRAG_LATER : (frag & 0x2000) != 0 ? FRAG_FIRST : FRAG_NONE;
    v->frag_id = (__u32)h[4] << 8 | h[5];
    v->proto = h[9];
    v->is_v6 = 0;
    map_v4(quoted ? &v->local : &v->remote, h + 12);
    map_v4(quoted ? &v->remote : &v->local, h + 16);
    v->l4 = off + header;
    return 0;
}

#define EXTENSIONS_MAX 6

/* Walks extension headers. Returns 0 at a transport header or a later fragment, -1 when there are too many or they are
 * cut off. */
INLINE int skip_extensions(void *ctx, const enum hook hook, struct view *v) {
    for (int i = 0; i < EXTENSIONS_MAX; i++) {
        __u8 h[8];
        if (v->proto != IPPROTO_HOPOPTS && v->proto != IPPROTO_ROUTING && v->proto != IPPROTO_DSTOPTS &&
            v->proto != IPPROTO_FRAGMENT)
            return 0;
        if (load(ctx, hook, v->l4, h, sizeof h) != 0)
            return -1;
        if (v->proto == IPPROTO_FRAGMENT) {
            __u16 frag = (__u16)(h[2] << 8 | h[3]);
            v->frag = (frag & 0xfff8) != 0 ? FRAG_LATER : (frag & 1) != 0 ? FRAG_FIRST : FRAG_NONE;
            __builtin_memcpy(&v->frag_id, h + 4, 4);
            v->l4 += 8;
        } else {
            v->l4 += (h[1] + 1u) * 8u;
        }
        v->proto = h[0];
        if (v->frag == FRAG_LATER)
            return 0;
    }
    return -1;
}

INLINE int parse_v6(void *ctx, const enum hook hook, __u32 off, int quoted, struct view *v) {
    __u8 h[40];
    if (load(ctx, hook, off, h, sizeof h) != 0 || h[0] >> 4 != 6)
        return -1;
    v->frag = FRAG_NONE;
    v->frag_id = 0;
    v->proto = h[6];
    v->is_v6 = 1;
    __builtin_memcpy(quoted ? &v->local : &v->remote, h + 8, 16);
    __builtin_memcpy(quoted ? &v->remote : &v->local, h + 24, 16);
    v->l4 = off + sizeof h;
    return skip_extensions(ctx, hook, v);
}

/* --- the verdict ---------------------------------------------------------------------------------------------- */

INLINE int addr_is_local(const struct addr *a) {
    return bpf_map_lookup_elem(&addrs, a) != NULL;
}

/* The compiler turns memcmp into a call that does not exist here. */
INLINE int addr_equal(const struct addr *a, const struct addr *b) {
    const __u32 *x = (const __u32 *)a->b, *y = (const __u32 *)b->b;
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3])) == 0;
}

INLINE struct claim_kept_key flow_key(const struct view *v, __u16 local_be, __u16 remote_be) {
    struct claim_kept_key key = {.local_port = local_be, .remote_port = remote_be};
    __builtin_memcpy(key.local, v->local.b, 16);
    __builtin_memcpy(key.remote, v->remote.b, 16);
    return key;
}

/* A connection whose listener is gone. */
INLINE int flow_is_held(const struct view *v, __u16 local_be, __u16 remote_be) {
    if (v->proto != IPPROTO_TCP)
        return 0;
    struct claim_kept_key key = flow_key(v, local_be, remote_be);
    return bpf_map_lookup_elem(&held, &key) != NULL;
}

/* Port bits first: they are one load, and settle nearly every packet of the kernel's. */
INLINE int flow_is_claimed(const struct view *v, __u16 port_be, __u16 remote_be) {
    __u32 port = bpf_ntohs(port_be);
    __u32 word = CLAIM_PORT_WORD(v->proto == IPPROTO_TCP, port);
    __u64 *bits = bpf_map_lookup_elem(&ports, &word);
    if (bits == NULL)
        return 0;
    __u32 bit = (__u32)(*bits >> CLAIM_PORT_SHIFT(port)) & 3u;
    if (bit == 0 || !addr_is_local(&v->local))
        return 0;
    if (bit & CLAIM_PORT_ANY)
        return 1;
    struct claim_key key = {.port = port_be, .proto = v->proto};
    __builtin_memcpy(key.addr, v->local.b, 16);
    if (bpf_map_lookup_elem(&claims, &key) != NULL)
        return 1;
    /* Any address of this IP version: a second lookup for ports that are claimed at some addresses only. */
    __u32 *w = (__u32 *)key.addr;
    w[0] = w[1] = v->is_v6 ? 0xffffffff : 0;
    w[2] = v->is_v6 ? 0xffffffff : bpf_htonl(0xffff);
    w[3] = v->is_v6 ? 0xffffffff : 0;
    return bpf_map_lookup_elem(&claims, &key) != NULL || flow_is_held(v, port_be, remote_be);
}

/* One load more for claimed TCP packets, and a lookup only once there was such a flow. While a port settles, whoever
 * comes is the kernel's and is noted: a handshake that began there ends there. */
INLINE int flow_is_kept(const struct view *v, __u16 local_be, __u16 remote_be) {
    __u32 word = CLAIM_KEPT_WORD;
    if (v->proto != IPPROTO_TCP)
        return 0;
    __u64 *some = bpf_map_lookup_elem(&ports, &word);
    if (some == NULL || *some == 0)
        return 0;
    struct claim_kept_key key = flow_key(v, local_be, remote_be);
    if (CLAIM_SETTLING_OF(*some) == bpf_ntohs(local_be)) {
        __u32 zero = 0;
        bpf_map_update_elem(&kept, &key, &zero, BPF_ANY);
        return 1;
    }
    return bpf_map_lookup_elem(&kept, &key) != NULL;
}

INLINE int has_ports(const struct view *v) {
    return v->proto == IPPROTO_UDP || v->proto == IPPROTO_TCP;
}

/* Destination unreachable, time exceeded, parameter problem. Redirects stay with the kernel: it owns the routes. */
INLINE int icmp_is_error(const struct view *v, __u8 type) {
    return v->is_v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

INLINE int icmp_is_claimed(void *ctx, const enum hook hook, const struct view *outer) {
    __u8 type;
    struct view inner;
    __u8 p[4] __attribute__((aligned(4)));
    if (outer->proto != (outer->is_v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
        return 0;
    if (load(ctx, hook, outer->l4, &type, 1) != 0 || !icmp_is_error(outer, type))
        return 0;
    if (outer->is_v6 ? parse_v6(ctx, hook, outer->l4 + 8, 1, &inner) : parse_v4(ctx, hook, outer->l4 + 8, 1, &inner))
        return 0;
    if (inner.frag == FRAG_LATER || !has_ports(&inner) || load(ctx, hook, inner.l4, p, sizeof p) != 0)
        return 0;
    if (!addr_equal(&inner.local, &outer->local))
        return 0;
    __u16 local = *(__u16 *)p, remote = *(__u16 *)(p + 2);
    return flow_is_claimed(&inner, local, remote) && !flow_is_kept(&inner, local, remote);
}

INLINE int transport_is_claimed(void *ctx, const enum hook hook, const struct view *v) {
    __u8 p[4] __attribute__((aligned(4)));
    if (!has_ports(v))
        return icmp_is_claimed(ctx, hook, v);
    if (load(ctx, hook, v->l4, p, sizeof p) != 0)
        return 0;
    __u16 local = *(__u16 *)(p + 2), remote = *(__u16 *)p;
    return flow_is_claimed(v, local, remote) && !flow_is_kept(v, local, remote);
}

/* Later fragments have no ports: they go where their first one went. The first one decides anew each time, so a reused
 * identification does not inherit. Fragments that overtake their first one stay with the kernel. */
INLINE int fragment_is_claimed(void *ctx, const enum hook hook, const struct view *v) {
    struct claim_frag_key key = {.id = v->frag_id, .proto = v->is_v6 ? 0 : v->proto};
    __builtin_memcpy(key.src, v->remote.b, 16);
    __builtin_memcpy(key.dst, v->local.b, 16);
    __u64 now = bpf_ktime_get_ns();
    if (v->frag == FRAG_LATER) {
        __u64 *since = bpf_map_lookup_elem(&frags, &key);
        return since != NULL && now - *since < CLAIM_FRAG_NS;
    }
    int claimed = transport_is_claimed(ctx, hook, v);
    if (claimed)
        bpf_map_update_elem(&frags, &key, &now, BPF_ANY);
    else
        bpf_map_delete_elem(&frags, &key);
    return claimed;
}

INLINE int ip_is_claimed(void *ctx, const enum hook hook, __u32 l3, int is_v6) {
    struct view v;
    if (is_v6 ? parse_v6(ctx, hook, l3, 0, &v) : parse_v4(ctx, hook, l3, 0, &v))
        return 0;
    if (v.frag != FRAG_NONE)
        return fragment_is_claimed(ctx, hook, &v);
    return transport_is_claimed(ctx, hook, &v);
}

/* --- dedicated mode ------------------------------------------------------------------------------------------- */

/* ARP for, or about, an address of ours: the question is a broadcast, so the MAC does not tell. */
INLINE int arp_is_ours(void *ctx, const enum hook hook, __u32 l3) {
    __u8 h[28];
    struct addr target;
    if (load(ctx, hook, l3, h, sizeof h) != 0 || h[4] != 6 || h[5] != 4)
        return 0;
    map_v4(&target, h + 24);
    return addr_is_local(&target);
}

/* Neighbour solicitation or advertisement about an address of ours, sent to a multicast group. */
INLINE int ndp_is_ours(void *ctx, const enum hook hook, __u32 l3) {
    __u8 next;
    __u8 m[24];
    if (load(ctx, hook, l3 + 6, &next, 1) != 0 || next != IPPROTO_ICMPV6)
        return 0;
    if (load(ctx, hook, l3 + 40, m, sizeof m) != 0 || (m[0] != 135 && m[0] != 136))
        return 0;
    return addr_is_local((struct addr *)(m + 8));
}

INLINE int mac_equal(const __u8 *a, const __u8 *b) {
    int differ = 0;
    for (int i = 0; i < 6; i++)
        differ |= a[i] ^ b[i];
    return differ == 0;
}

INLINE int dedicated_is_claimed(void *ctx, const enum hook hook, const struct claim_config *c, __u16 type, __u32 l3) {
    __u8 mac[6];
    if (load_dst_mac(ctx, hook, mac) == 0 && mac_equal(mac, c->mac))
        return 1;
    if (type == ETH_P_ARP)
        return arp_is_ours(ctx, hook, l3);
    return type == ETH_P_IPV6 && ndp_is_ours(ctx, hook, l3);
}

/* --- link layer ----------------------------------------------------------------------------------------------- */

/* Where the network header is and what it is. The skb hooks find one tag in the skb, XDP finds it in the frame. Frames
 * of a VLAN that is not this attachment's belong to another interface of the kernel's. */
INLINE int parse_link_xdp(void *ctx, const struct claim_config *c, __u16 *type, __u32 *l3) {
    __u8 h[14];
    __u8 tag[4];
    __u16 vlan = 0;
    if (load(ctx, HOOK_XDP, 0, h, sizeof h) != 0)
        return -1;
    *type = (__u16)(h[12] << 8 | h[13]);
    *l3 = 14;
    if (*type == ETH_P_8021Q) {
        if (load(ctx, HOOK_XDP, 14, tag, sizeof tag) != 0)
            return -1;
        vlan = (__u16)(tag[0] << 8 | tag[1]) & 0xfff;
        *type = (__u16)(tag[2] << 8 | tag[3]);
        *l3 = 18;
    }
    return vlan == c->vlan ? 0 : -1;
}

INLINE int parse_link_skb(struct __sk_buff *skb, const enum hook hook, const struct claim_config *c, __u16 *type,
                          __u32 *l3) {
    __u16 vlan = skb->vlan_present ? skb->vlan_tci & 0xfff : 0;
    *type = bpf_ntohs((__u16)skb->protocol);
    *l3 = hook == HOOK_TC ? 14 : 0;
    if (skb->pkt_type == PACKET_OTHERHOST && !c->dedicated)
        return -1; /* promiscuous: the kernel would not take it either */
    return vlan == c->vlan ? 0 : -1;
}

INLINE int is_claimed(void *ctx, const enum hook hook, const struct claim_config *c) {
    __u16 type = 0;
    __u32 l3 = 0;
    if (c->all)
        return 1;
    if (hook == HOOK_XDP ? parse_link_xdp(ctx, c, &type, &l3) : parse_link_skb(ctx, hook, c, &type, &l3))
        return 0;
    if (c->dedicated && dedicated_is_claimed(ctx, hook, c, type, l3))
        return 1;
    if (type == ETH_P_IP)
        return ip_is_claimed(ctx, hook, l3, 0);
    return type == ETH_P_IPV6 && ip_is_claimed(ctx, hook, l3, 1);
}

/* --- programs ------------------------------------------------------------------------------------------------- */

INLINE const struct claim_config *config_get(void) {
    __u32 zero = 0;
    return bpf_map_lookup_elem(&config, &zero);
}

INLINE void count(__u32 which) {
    __u64 *n = bpf_map_lookup_elem(&counts, &which);
    if (n != NULL)
        (*n)++;
}

SEC("xdp.frags")
int claims_xdp(struct xdp_md *ctx) {
    const struct claim_config *c = config_get();
    __u32 queue = ctx->rx_queue_index;
    if (c == NULL || !is_claimed(ctx, HOOK_XDP, c)) {
        count(CLAIM_COUNT_PASSED);
        return XDP_PASS;
    }
    int miss = queue < CLAIM_QUEUE_MAX && (c->served >> queue & 1) ? XDP_DROP : XDP_PASS;
    int verdict = (int)bpf_redirect_map(&xsks, queue, (__u64)miss);
    count(verdict == XDP_REDIRECT ? CLAIM_COUNT_CLAIMED : CLAIM_COUNT_NO_QUEUE);
    return verdict;
}

SEC("tc")
int claims_tc(struct __sk_buff *skb) {
    const struct claim_config *c = config_get();
    if (c == NULL || !is_claimed(skb, HOOK_TC, c)) {
        count(CLAIM_COUNT_PASSED);
        return TC_ACT_UNSPEC; /* the next program, or the kernel */
    }
    count(CLAIM_COUNT_CLAIMED);
    return TC_ACT_SHOT;
}

SEC("socket")
int claims_filter(struct __sk_buff *skb) {
    const struct claim_config *c = config_get();
    return c != NULL && is_claimed(skb, HOOK_FILTER, c) ? -1 : 0;
}

char LICENSE[] SEC("license") = "Apache-2.0";
