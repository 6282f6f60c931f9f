/* SPDX-License-Identifier: Apache-2.0
 *
 * What the hooks on kernel sockets and their user space share: the layout of their maps. Both sides check COVER_ABI.
 */
#ifndef USHER_NICBACKEND_COVER_ABI_H
#define USHER_NICBACKEND_COVER_ABI_H

#define COVER_ABI       1
#define COVER_RULES     1024 /* of one bank */
#define COVER_BANKS     2
#define COVER_DEPTH     8 /* levels of the cgroup tree, NB_CGROUP_DEPTH */
#define COVER_COMM      16
#define COVER_TIERS     3
#define COVER_IFINDEXES 256

typedef unsigned char cover_u8;
typedef unsigned short cover_u16;
typedef unsigned int cover_u32;
typedef unsigned long long cover_u64;

/* Whose a socket is: stamped when it is made, or found by the walk over all open files. Socket storage. */
struct cover_owner {
    cover_u64 netns; /* cookie */
    cover_u64 exe_inode;
    cover_u64 cgroup[COVER_DEPTH]; /* ids, root first */
    cover_u32 exe_dev;             /* as the kernel has it: major << 20 | minor */
    cover_u32 uid, gid, pid;
    char comm[COVER_COMM];
};

enum cover_field {
    COVER_DIR = 1 << 0,
    COVER_IFINDEX = 1 << 1,
    COVER_SRC = 1 << 2,
    COVER_DST = 1 << 3,
    COVER_PROTO = 1 << 4,
    COVER_SPORT = 1 << 5,
    COVER_DPORT = 1 << 6,
    COVER_IP_VERSION = 1 << 7,
    COVER_STATE = 1 << 8, /* TCP only */
    COVER_UID = 1 << 9,
    COVER_GID = 1 << 10,
    COVER_PID = 1 << 11,
    COVER_EXE = 1 << 12,
    COVER_COMM_IS = 1 << 13,
    COVER_CGROUP = 1 << 14,
    COVER_TCP_FLAGS = 1 << 15, /* under a mask */
    COVER_ICMP_TYPE = 1 << 16,
    COVER_ICMP_CODE = 1 << 17,
    COVER_DSCP = 1 << 18,
    COVER_LENGTH = 1 << 19,
    COVER_FRAGMENT = 1 << 20,
};

enum cover_verdict {
    COVER_PASS = 1,
    COVER_DENY = 2,
    COVER_OPEN = 3, /* the rule asks for more than a hook can see: let it pass, as if the tier allowed it */
};

struct cover_range {
    cover_u32 lo, hi;
};

/* All fields that are set must hold; one that is not known (a bind knows no peer) makes the rule's answer open. */
struct cover_rule {
    cover_u32 fields, invert;
    cover_u8 src[16], src_mask[16], dst[16], dst_mask[16];
    struct cover_range sport, dport, uid, gid, length;
    cover_u64 exe_inode, cgroup;
    cover_u32 exe_dev, ifindex, pid;
    cover_u32 number; /* of the policy's rule, for who asks on the host */
    cover_u8 dir, state, proto, ip_version; /* dir, state: masks as in nicbackend/ir */
    cover_u8 tier, verdict;
    cover_u8 tcp_flags, tcp_flags_mask, icmp_type, icmp_code, dscp;
    cover_u8 pad[1];
    char comm[COVER_COMM];
    cover_u64 hits;
};

/* Which bank is in force; the bank's own numbers. */
struct cover_bank {
    cover_u32 rules;
    cover_u32 defaults; /* enum cover_verdict of each tier, a byte each from the lowest on */
};

struct cover_config {
    cover_u32 abi;
    cover_u32 bank;
    cover_u64 netns;       /* cookie of the one that is judged */
    cover_u32 all_managed; /* every interface but the loopback is: bind and connect are judged at the call */
    cover_u32 on;          /* 0: all passes */
};

enum cover_count { COVER_COUNT_IN, COVER_COUNT_OUT, COVER_COUNT_BIND, COVER_COUNT_CONNECT, COVER_COUNT_MAX };

#endif
