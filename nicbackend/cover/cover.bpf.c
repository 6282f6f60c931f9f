/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The policy's judges of kernel sockets, attached to the root of the cgroup tree:
 *
 *   usher_stamp      a socket is made: writes down by whom
 *   usher_walk       walks over all open files once and does the same for the sockets there were before
 *   usher_in, _out   every packet of a kernel socket on a managed interface, in or out
 *   usher_bind*, usher_connect*   the call itself, so that a program learns at once; only what no packet could pass
 *
 * Rules are asked one after the other, as the interpreter (nicbackend/ir) does it. A rule that asks for what a hook
 * cannot see is COVER_OPEN: its tier lets pass. A socket without a stamp, or of another network namespace, is not ours.
 */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "cover_judge.h"

#define INLINE static __always_inline

#define DIR_IN            1
#define DIR_OUT           2
#define STATE_NEW         1
#define STATE_ESTABLISHED 2
#define EXTENSIONS        6
#define AF_INET           2
#define AF_INET6          10

/* The kernel's own structs, as far as they are read; the loader finds the offsets in the running kernel's BTF. */
#define KERNEL __attribute__((preserve_access_index))
struct super_block {
    __u32 s_dev;
} KERNEL;
struct inode {
    unsigned long i_ino;
    struct super_block *i_sb;
} KERNEL;
struct file {
    struct inode *f_inode;
} KERNEL;
struct mm_struct {
    struct file *exe_file;
} KERNEL;
struct kernel_id { /* kuid_t, kgid_t */
    __u32 val;
} KERNEL;
struct cred {
    struct kernel_id euid, egid;
} KERNEL;
struct task_struct {
    struct mm_struct *mm;
    const struct cred *cred;
    int tgid;
    char comm[16];
} KERNEL;
struct net {
    __u64 net_cookie;
} KERNEL;
struct possible_net { /* possible_net_t */
    struct net *net;
} KERNEL;
struct sock_common {
    unsigned short skc_family;
    struct possible_net skc_net;
} KERNEL;
struct sock {
    struct sock_common __sk_common;
} KERNEL;
struct socket {
    struct sock *sk;
} KERNEL;
struct seq_file;
struct bpf_iter_meta {
    struct seq_file *seq;
} KERNEL;
struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    struct task_struct *task;
    __u32 fd;
    struct file *file;
} KERNEL;

struct {
    __uint(type, BPF_MAP_TYPE_SK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
    __type(key, int);
    __type(value, struct cover_owner);
} stamps SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, COVER_BANKS *COVER_RULES);
    __type(key, __u32);
    __type(value, struct cover_rule);
} rules SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, COVER_BANKS);
    __type(key, __u32);
    __type(value, struct cover_bank);
} banks SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct cover_config);
} config SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, COVER_IFINDEXES);
    __type(key, __u32);
    __type(value, __u32);
} managed SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, COVER_COUNT_MAX);
    __type(key, __u32);
    __type(value, __u64);
} denied SEC(".maps");

/* ---- rules ---- */

static long rule_ask(__u32 i, void *arg) {
    struct cover_walk *w = arg;
    __u32 key = w->first + i;
    struct cover_rule *r = bpf_map_lookup_elem(&rules, &key);
    if (!r)
        return 1;
    if (cover_ask(w, r))
        __sync_fetch_and_add(&r->hits, 1);
    return w->verdict == COVER_DENY;
}

INLINE int judge(const struct cover_view *v, const struct cover_owner *o, const struct cover_config *c) {
    __u32 bank = c->bank & 1;
    struct cover_bank *b = bpf_map_lookup_elem(&banks, &bank);
    if (!b)
        return 1;
    struct cover_walk w = {.v = v, .o = o, .defaults = b->defaults, .first = bank * COVER_RULES};
    bpf_loop(b->rules <= COVER_RULES ? b->rules : COVER_RULES, rule_ask, &w, 0);
    return cover_end(&w) != COVER_DENY;
}

INLINE int refuse(__u32 what) {
    __u64 *n = bpf_map_lookup_elem(&denied, &what);
    if (n)
        (*n)++;
    return 0;
}

/* ---- packets ---- */

#define KNOWN_OWNER (COVER_UID | COVER_GID | COVER_PID | COVER_EXE | COVER_COMM_IS | COVER_CGROUP)
#define KNOWN_ALL                                                                                                      \
    (KNOWN_OWNER | COVER_DIR | COVER_IFINDEX | COVER_SRC | COVER_DST | COVER_PROTO | COVER_SPORT | COVER_DPORT |       \
     COVER_IP_VERSION | COVER_TCP_FLAGS | COVER_ICMP_TYPE | COVER_ICMP_CODE | COVER_DSCP | COVER_LENGTH |              \
     COVER_FRAGMENT)
#define THERE_IP                                                                                                       \
    (KNOWN_OWNER | COVER_DIR | COVER_IFINDEX | COVER_SRC | COVER_DST | COVER_PROTO | COVER_IP_VERSION | COVER_DSCP |   \
     COVER_LENGTH | COVER_FRAGMENT)

INLINE void mapped(__u8 *to, const void *v4) {
    __builtin_memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    __builtin_memcpy(to + 12, v4, 4);
}

INLINE void ports_read(struct __sk_buff *skb, struct cover_view *v, __u32 at) {
    __be16 ports[2];
    if (bpf_skb_load_bytes(skb, at, ports, sizeof ports) < 0)
        return;
    v->sport = bpf_ntohs(ports[0]);
    v->dport = bpf_ntohs(ports[1]);
    v->there |= COVER_SPORT | COVER_DPORT;
}

INLINE void icmp_read(struct __sk_buff *skb, struct cover_view *v, __u32 at) {
    __u8 icmp[2];
    if (bpf_skb_load_bytes(skb, at, icmp, sizeof icmp) < 0)
        return;
    v->icmp_type = icmp[0];
    v->icmp_code = icmp[1];
    v->there |= COVER_ICMP_TYPE | COVER_ICMP_CODE;
}

/* A super-segment is judged as its full-sized segments are. */
INLINE void segment(struct __sk_buff *skb, struct cover_view *v, __u32 header) {
    __u32 size = header + skb->gso_size;
    if (skb->gso_size != 0 && size < v->length)
        v->length = size;
}

INLINE int transport_read(struct __sk_buff *skb, struct cover_view *v, __u32 at) {
    __u8 tcp[2]; /* header length, flags */
    if (v->proto == IPPROTO_ICMP || v->proto == IPPROTO_ICMPV6)
        icmp_read(skb, v, at);
    if (v->proto == IPPROTO_UDP || v->proto == IPPROTO_UDPLITE || v->proto == IPPROTO_SCTP)
        ports_read(skb, v, at);
    if (v->proto == IPPROTO_UDP)
        segment(skb, v, at + 8);
    if (v->proto != IPPROTO_TCP || bpf_skb_load_bytes(skb, at + 12, tcp, sizeof tcp) < 0)
        return 1;
    ports_read(skb, v, at);
    v->tcp_flags = tcp[1];
    v->there |= COVER_TCP_FLAGS;
    segment(skb, v, at + (tcp[0] >> 4) * 4u);
    return 1;
}

INLINE int view_v4(struct __sk_buff *skb, struct cover_view *v) {
    struct iphdr ip;
    if (bpf_skb_load_bytes(skb, 0, &ip, sizeof ip) < 0)
        return 0;
    mapped(v->src, &ip.saddr);
    mapped(v->dst, &ip.daddr);
    v->ip_version = 4;
    v->proto = ip.protocol;
    v->there = THERE_IP;
    v->dscp = ip.tos >> 2;
    v->length = bpf_ntohs(ip.tot_len);
    v->fragment = (ip.frag_off & bpf_htons(0x3fff)) != 0;
    return v->fragment ? 1 : transport_read(skb, v, ip.ihl * 4u);
}

/* One header; returns the length of an extension that was stepped over, 0 at the end. */
INLINE __u32 extension(struct __sk_buff *skb, struct cover_view *v, __u32 at) {
    struct {
        __u8 next, len;
        __be16 off;
    } h;
    if (v->proto != IPPROTO_HOPOPTS && v->proto != IPPROTO_ROUTING && v->proto != IPPROTO_DSTOPTS &&
        v->proto != IPPROTO_FRAGMENT)
        return 0;
    if (bpf_skb_load_bytes(skb, at, &h, sizeof h) < 0)
        return 0;
    __u32 length = v->proto == IPPROTO_FRAGMENT ? 8 : 8u + 8u * h.len;
    if (v->proto == IPPROTO_FRAGMENT)
        v->fragment |= (h.off & bpf_htons(0xfff9)) != 0;
    v->proto = h.next;
    return length;
}

INLINE int view_v6(struct __sk_buff *skb, struct cover_view *v) {
    struct ipv6hdr ip;
    __u32 at = sizeof ip;
    if (bpf_skb_load_bytes(skb, 0, &ip, sizeof ip) < 0)
        return 0;
    __builtin_memcpy(v->src, &ip.saddr, 16);
    __builtin_memcpy(v->dst, &ip.daddr, 16);
    v->ip_version = 6;
    v->proto = ip.nexthdr;
    v->there = THERE_IP;
    v->dscp = (__u8)(ip.priority << 2 | ip.flow_lbl[0] >> 6);
    v->length = bpf_ntohs(ip.payload_len) + (__u32)sizeof ip;
    for (int i = 0; i < EXTENSIONS; i++) {
        __u32 n = extension(skb, v, at);
        if (n == 0)
            break;
        at += n;
    }
    return v->fragment ? 1 : transport_read(skb, v, at);
}

/* Of TCP only: what a datagram answers, a hook does not know. */
INLINE void state_of(struct cover_view *v, __u32 state) {
    if (v->proto != IPPROTO_TCP)
        return;
    v->known |= COVER_STATE;
    v->there |= COVER_STATE;
    int fresh = state == BPF_TCP_LISTEN || state == BPF_TCP_CLOSE || (state == BPF_TCP_SYN_SENT && v->dir == DIR_OUT);
    v->state = fresh ? STATE_NEW : STATE_ESTABLISHED;
}

/* The walk over open files cannot ask. */
INLINE void cgroups_read(struct bpf_sock *sk, struct cover_owner *o) {
#pragma unroll
    for (int i = 0; i < COVER_DEPTH; i++)
        o->cgroup[i] = bpf_sk_ancestor_cgroup_id(sk, i);
}

INLINE int packet(struct __sk_buff *skb, __u8 dir) {
    __u32 zero = 0, ifindex = skb->ifindex;
    struct cover_config *c = bpf_map_lookup_elem(&config, &zero);
    if (!c || !c->on || !bpf_map_lookup_elem(&managed, &ifindex) || !skb->sk)
        return 1;
    struct bpf_sock *sk = bpf_sk_fullsock(skb->sk);
    if (!sk)
        return 1;
    struct cover_owner *o = bpf_sk_storage_get(&stamps, sk, 0, 0);
    if (!o || o->netns != c->netns)
        return 1;
    if (o->cgroup[0] == 0)
        cgroups_read(sk, o);
    struct cover_view v = {.ifindex = ifindex, .dir = dir, .known = KNOWN_ALL};
    int ip = skb->protocol == bpf_htons(0x0800) ? view_v4(skb, &v) : view_v6(skb, &v);
    if (!ip)
        return 1;
    state_of(&v, sk->state);
    return judge(&v, o, c) ? 1 : refuse(dir == DIR_IN ? COVER_COUNT_IN : COVER_COUNT_OUT);
}

SEC("cgroup_skb/ingress")
int usher_in(struct __sk_buff *skb) {
    return packet(skb, DIR_IN);
}

SEC("cgroup_skb/egress")
int usher_out(struct __sk_buff *skb) {
    return packet(skb, DIR_OUT);
}

/* ---- whose a socket is ---- */

INLINE void task_read(struct task_struct *task, struct cover_owner *o) {
    o->uid = BPF_CORE_READ(task, cred, euid.val);
    o->gid = BPF_CORE_READ(task, cred, egid.val);
    o->pid = BPF_CORE_READ(task, tgid);
    BPF_CORE_READ_STR_INTO(&o->comm, task, comm);
    struct inode *exe = BPF_CORE_READ(task, mm, exe_file, f_inode);
    if (!exe)
        return;
    o->exe_inode = BPF_CORE_READ(exe, i_ino);
    o->exe_dev = BPF_CORE_READ(exe, i_sb, s_dev);
}

SEC("cgroup/sock_create")
int usher_stamp(struct bpf_sock *ctx) {
    struct cover_owner *o = bpf_sk_storage_get(&stamps, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!o)
        return 1;
    task_read((struct task_struct *)bpf_get_current_task(), o);
#pragma unroll
    for (int i = 0; i < COVER_DEPTH; i++)
        o->cgroup[i] = bpf_get_current_ancestor_cgroup_id(i);
    o->netns = bpf_get_netns_cookie(ctx);
    return 1;
}

/* The first process that is found with it counts as its maker: a guess, but for the sockets of before only. Its cgroup
 * is asked of the socket when a packet comes. */
SEC("iter/task_file")
int usher_walk(struct bpf_iter__task_file *ctx) {
    struct file *file = ctx->file;
    struct task_struct *task = ctx->task;
    if (!file || !task)
        return 0;
    struct socket *socket = bpf_sock_from_file(file);
    if (!socket || !socket->sk)
        return 0;
    struct sock *sk = socket->sk;
    __u16 family = sk->__sk_common.skc_family;
    if (family != AF_INET && family != AF_INET6)
        return 0;
    struct cover_owner *o = bpf_sk_storage_get(&stamps, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!o || o->netns != 0)
        return 0;
    task_read(task, o);
    o->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
    return 0;
}

/* ---- calls ---- */

INLINE int loopback(const struct cover_view *v, const __u8 *addr) {
    if (v->ip_version == 4)
        return addr[12] == 127;
    __u8 rest = 0;
#pragma unroll
    for (int i = 0; i < 15; i++)
        rest |= addr[i];
    return rest == 0 && addr[15] == 1;
}

INLINE int call(struct bpf_sock_addr *ctx, struct cover_view *v, const __u8 *addr, __u32 what) {
    __u32 zero = 0;
    struct cover_config *c = bpf_map_lookup_elem(&config, &zero);
    struct bpf_sock *sk = ctx->sk;
    if (!c || !c->on || !sk || loopback(v, addr))
        return 1;
    __u32 ifindex = sk->bound_dev_if;
    if (ifindex ? !bpf_map_lookup_elem(&managed, &ifindex) : !c->all_managed)
        return 1;
    struct cover_owner *o = bpf_sk_storage_get(&stamps, sk, 0, 0);
    if (!o || o->netns != c->netns)
        return 1;
    v->ifindex = ifindex;
    v->known |= KNOWN_OWNER | COVER_DIR | COVER_PROTO | (ifindex ? COVER_IFINDEX : 0);
    v->there = ~0u;
    v->proto = (__u8)ctx->protocol;
    if (v->proto == IPPROTO_TCP) {
        v->known |= COVER_STATE;
        v->state = STATE_NEW;
    }
    return judge(v, o, c) ? 1 : refuse(what);
}

INLINE __u16 port_of(const struct bpf_sock_addr *ctx) {
    return bpf_ntohs((__u16)ctx->user_port);
}

/* A bind is refused when nothing that comes to the port could pass. Port 0 is the kernel's choice, judged later. */
INLINE int bound(struct bpf_sock_addr *ctx, struct cover_view *v) {
    v->dir = DIR_IN;
    v->dport = port_of(ctx);
    __u8 any = 0;
#pragma unroll
    for (int i = 0; i < 16; i++)
        any |= v->dst[i];
    v->known = COVER_DPORT | (any != 0 ? COVER_IP_VERSION : 0); /* "::" takes both */
    return v->dport == 0 ? 1 : call(ctx, v, v->dst, COVER_COUNT_BIND);
}

INLINE int connected(struct bpf_sock_addr *ctx, struct cover_view *v) {
    v->dir = DIR_OUT;
    v->dport = port_of(ctx);
    v->known = COVER_DPORT | COVER_DST | COVER_IP_VERSION;
    return call(ctx, v, v->dst, COVER_COUNT_CONNECT);
}

INLINE void peer_v4(struct bpf_sock_addr *ctx, struct cover_view *v) {
    __u32 addr = ctx->user_ip4;
    mapped(v->dst, &addr);
    v->ip_version = 4;
}

INLINE void peer_v6(struct bpf_sock_addr *ctx, struct cover_view *v) {
    __u32 addr[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};
    __builtin_memcpy(v->dst, addr, 16);
    v->ip_version = addr[0] == 0 && addr[1] == 0 && addr[2] == bpf_htonl(0xffff) ? 4 : 6;
}

SEC("cgroup/bind4")
int usher_bind4(struct bpf_sock_addr *ctx) {
    struct cover_view v = {0};
    peer_v4(ctx, &v);
    return bound(ctx, &v);
}

SEC("cgroup/bind6")
int usher_bind6(struct bpf_sock_addr *ctx) {
    struct cover_view v = {0};
    peer_v6(ctx, &v);
    return bound(ctx, &v);
}

SEC("cgroup/connect4")
int usher_connect4(struct bpf_sock_addr *ctx) {
    struct cover_view v = {0};
    peer_v4(ctx, &v);
    return connected(ctx, &v);
}

SEC("cgroup/connect6")
int usher_connect6(struct bpf_sock_addr *ctx) {
    struct cover_view v = {0};
    peer_v6(ctx, &v);
    return connected(ctx, &v);
}

char LICENSE[] SEC("license") = "GPL";
