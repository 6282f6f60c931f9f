/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * How the hooks judge: pure functions, compiled for BPF and, for the tests against the interpreter, for the host.
 */
#ifndef USHER_NICBACKEND_COVER_JUDGE_H
#define USHER_NICBACKEND_COVER_JUDGE_H

#include "cover_abi.h"

#ifdef __bpf__
#define COVER_UNROLL _Pragma("unroll")
#else
#define COVER_UNROLL
#endif
#define COVER_INLINE static inline __attribute__((always_inline))

/* What is judged. `known`: fields that can be told; the others make a rule's answer open. */
struct cover_view {
    cover_u8 src[16], dst[16];
    cover_u32 ifindex;
    cover_u32 known, there; /* there: the packet has them, else a rule on them does not match */
    cover_u32 length;
    cover_u16 sport, dport;
    cover_u8 dir, state, proto, ip_version;
    cover_u8 tcp_flags, icmp_type, icmp_code, dscp, fragment;
};

struct cover_walk {
    const struct cover_view *v;
    const struct cover_owner *o;
    cover_u32 defaults, first; /* of the bank: see struct cover_bank; number of its first rule */
    cover_u8 tier;             /* that is being asked */
    cover_u8 decided;          /* enum cover_verdict of it, 0 = not yet */
    cover_u8 verdict;          /* COVER_DENY once a tier has closed */
};

COVER_INLINE int cover_under_mask(const cover_u8 *addr, const cover_u8 *value, const cover_u8 *mask) {
    COVER_UNROLL
    for (int i = 0; i < 4; i++) {
        cover_u32 a, v, m;
        __builtin_memcpy(&a, addr + 4 * i, 4);
        __builtin_memcpy(&v, value + 4 * i, 4);
        __builtin_memcpy(&m, mask + 4 * i, 4);
        if ((a & m) != v)
            return 0;
    }
    return 1;
}

COVER_INLINE int cover_in_range(cover_u32 n, const struct cover_range *r) {
    return n >= r->lo && n <= r->hi;
}

COVER_INLINE int cover_in_cgroup(const struct cover_owner *o, cover_u64 id) {
    int found = 0;
    COVER_UNROLL
    for (int i = 0; i < COVER_DEPTH; i++)
        found |= o->cgroup[i] == id;
    return found;
}

COVER_INLINE int cover_same_comm(const char *a, const char *b) {
    int same = 1;
    COVER_UNROLL
    for (int i = 0; i < COVER_COMM; i++) {
        same &= a[i] == b[i];
        if (a[i] == 0)
            break;
    }
    return same;
}

/* Which of the rule's fields hold. */
COVER_INLINE cover_u32 cover_holds(const struct cover_rule *r, const struct cover_view *v,
                                   const struct cover_owner *o) {
    cover_u32 yes = 0;
    yes |= (r->dir & v->dir) != 0 ? COVER_DIR : 0;
    yes |= r->ifindex == v->ifindex ? COVER_IFINDEX : 0;
    yes |= (r->fields & COVER_SRC) && cover_under_mask(v->src, r->src, r->src_mask) ? COVER_SRC : 0;
    yes |= (r->fields & COVER_DST) && cover_under_mask(v->dst, r->dst, r->dst_mask) ? COVER_DST : 0;
    yes |= r->proto == v->proto ? COVER_PROTO : 0;
    yes |= cover_in_range(v->sport, &r->sport) ? COVER_SPORT : 0;
    yes |= cover_in_range(v->dport, &r->dport) ? COVER_DPORT : 0;
    yes |= r->ip_version == v->ip_version ? COVER_IP_VERSION : 0;
    yes |= (r->state & v->state) != 0 ? COVER_STATE : 0;
    yes |= (v->tcp_flags & r->tcp_flags_mask) == r->tcp_flags ? COVER_TCP_FLAGS : 0;
    yes |= r->icmp_type == v->icmp_type ? COVER_ICMP_TYPE : 0;
    yes |= r->icmp_code == v->icmp_code ? COVER_ICMP_CODE : 0;
    yes |= r->dscp == v->dscp ? COVER_DSCP : 0;
    yes |= cover_in_range(v->length, &r->length) ? COVER_LENGTH : 0;
    yes |= v->fragment ? COVER_FRAGMENT : 0;
    yes |= cover_in_range(o->uid, &r->uid) ? COVER_UID : 0;
    yes |= cover_in_range(o->gid, &r->gid) ? COVER_GID : 0;
    yes |= r->pid == o->pid ? COVER_PID : 0;
    yes |= r->exe_inode == o->exe_inode && r->exe_dev == o->exe_dev ? COVER_EXE : 0;
    if (r->fields & COVER_COMM_IS)
        yes |= cover_same_comm(r->comm, o->comm) ? COVER_COMM_IS : 0;
    if (r->fields & COVER_CGROUP)
        yes |= cover_in_cgroup(o, r->cgroup) ? COVER_CGROUP : 0;
    return yes;
}

/* What the tier says when none of its rules has. */
COVER_INLINE void cover_tier_end(struct cover_walk *w) {
    cover_u8 said = w->decided;
    if (said == 0)
        said = (cover_u8)(w->defaults >> (8 * (w->tier & 3)));
    if (said == COVER_DENY)
        w->verdict = COVER_DENY;
    w->decided = 0;
    w->tier++;
}

/* The next rule, in order. 1 when it decides its tier. */
COVER_INLINE int cover_ask(struct cover_walk *w, const struct cover_rule *r) {
    for (int t = 0; t < COVER_TIERS && w->tier < r->tier && w->verdict != COVER_DENY; t++)
        cover_tier_end(w);
    if (w->verdict == COVER_DENY || w->decided)
        return 0;
    const struct cover_view *v = w->v;
    if ((r->fields & v->known & ~v->there) != 0)
        return 0;
    cover_u32 wrong = (cover_holds(r, v, w->o) ^ r->invert ^ r->fields) & r->fields;
    if ((wrong & v->known) != 0)
        return 0; /* something that is known does not hold */
    w->decided = (r->fields & ~v->known) != 0 ? COVER_OPEN : r->verdict;
    return 1;
}

/* After the last rule: COVER_DENY or anything else. */
COVER_INLINE cover_u8 cover_end(struct cover_walk *w) {
    for (int t = 0; t < COVER_TIERS && w->tier < COVER_TIERS && w->verdict != COVER_DENY; t++)
        cover_tier_end(w);
    return w->verdict;
}

#endif
