/* SPDX-License-Identifier: Apache-2.0
 *
 * The rule IR: a policy as every judge of packets gets it. Value types only: names, files and users' words stay in
 * control, which makes one of these of them; nicbackend partitions it; the filter engine compiles it; the interpreter
 * (interpret.h) says what it means.
 *
 * Meaning, in full:
 *   - Rules are asked in order, tier by tier (platform, host, app). In a tier the first matching rule with a
 *     verdict decides; when none does, the tier's default does. A packet passes when every tier lets it pass: the tiers
 *     are asked from the top, and the first that does not allow ends the matter, so that a lower tier can close what a
 *     higher one left open and never the other way round.
 *   - A rule without a verdict (NB_CONTINUE) only leaves its marks (count, log, mirror, mark, class, steer) and the
 *     next rule is asked. Marks of a rule with a verdict are left too. A later mark, class or steer replaces an earlier
 *     one. What a tier has left stays when a lower tier drops, except mark, class and steer, which end with the packet.
 *   - A limit is a part of the match, and the last: it is asked only when all else matches, and takes its tokens then.
 *     NB_LIMIT_OVER inverts it: "matches what is above the rate".
 *   - A match on a field that the packet does not have (ports of a fragment, owner of a packet that nobody's socket
 *     sends or receives) does not match, also when it is inverted.
 */
#ifndef USHER_NICBACKEND_IR_RULE_H
#define USHER_NICBACKEND_IR_RULE_H

#include "nicbackend/ir/view.h"

enum nb_tier { NB_TIER_PLATFORM, NB_TIER_HOST, NB_TIER_APP, NB_TIER_COUNT };

#define NB_NONE UINT32_MAX /* no set, owner, limit, counter */

/* --- sets ------------------------------------------------------------------------------------------------------ */

enum nb_set_kind { NB_SET_ADDR, NB_SET_PORT, NB_SET_ID };

struct nb_addr_range {
    struct nb_addr lo, hi; /* both included; a prefix is one */
};

struct nb_range {
    uint32_t lo, hi; /* both included */
};

/* Sorted, disjoint, not adjacent: nb_set_normalise() makes them so. A set has a life of its own: replacing its members
 * reloads no rule. */
struct nb_set {
    uint8_t kind; /* enum nb_set_kind */
    uint8_t pad[3];
    uint32_t count;
    union {
        struct nb_addr_range *addrs; /* NB_SET_ADDR */
        struct nb_range *ranges;     /* NB_SET_PORT, NB_SET_ID (users, groups) */
    };
};

/* Sorts and merges in place; -EINVAL when a range ends before it begins. */
int nb_set_normalise(struct nb_set *set);
/* Both normalised: the same members of the same kind? */
bool nb_set_same(const struct nb_set *a, const struct nb_set *b);
bool nb_set_has_addr(const struct nb_set *set, const struct nb_addr *addr);
bool nb_set_has(const struct nb_set *set, uint32_t value);

/* --- owners ---------------------------------------------------------------------------------------------------- */

#define NB_GROUP_MAX    32 /* supplementary groups that are looked at */
#define NB_CGROUP_DEPTH 8  /* levels of the cgroup tree that are looked at, from the root down */
#define NB_COMM_SIZE    16

/* Whose socket sends or receives the packet, as it was when the socket was made (see docs of identity). */
struct nb_owner {
    uint32_t uid, gid, pid;
    uint32_t label; /* number of the label that control gave the program's cgroup or unit, 0 = none */
    uint64_t exe_dev, exe_inode;
    uint64_t cgroup[NB_CGROUP_DEPTH]; /* ids, root first; 0 behind the leaf */
    uint32_t groups[NB_GROUP_MAX];
    uint32_t group_count;
    char comm[NB_COMM_SIZE];
    bool kernel; /* a kernel socket; false: one of Usher's */
    uint8_t pad[3];
};

enum nb_owner_field {
    NB_OWNER_UID = 1 << 0, /* effective uid in `uids` */
    NB_OWNER_GID = 1 << 1, /* gid or one of the groups in `gids` */
    NB_OWNER_PID = 1 << 2,
    NB_OWNER_EXE = 1 << 3,    /* the file, by device and inode */
    NB_OWNER_COMM = 1 << 4,   /* up to 15 bytes, exact */
    NB_OWNER_CGROUP = 1 << 5, /* the cgroup or one above it */
    NB_OWNER_LABEL = 1 << 6,
    NB_OWNER_NOBODY = 1 << 7, /* alone: no socket of this host sends or receives it */
};

/* All fields that are set must hold. Predicates are shared: rules name them by index, so that one bit for each says
 * all that classification needs to know of an owner. */
struct nb_owner_match {
    uint32_t fields;     /* enum nb_owner_field */
    uint32_t invert;     /* those of them that must not hold */
    uint32_t uids, gids; /* sets */
    uint32_t pid;
    uint32_t label;
    uint64_t exe_dev, exe_inode;
    uint64_t cgroup;
    char comm[NB_COMM_SIZE];
};

/* --- rules ----------------------------------------------------------------------------------------------------- */

enum nb_field {
    NB_F_DIR = 1 << 0,
    NB_F_IFINDEX = 1 << 1,
    NB_F_ETHERTYPE = 1 << 2,
    NB_F_VLAN = 1 << 3,
    NB_F_SRC = 1 << 4, /* address under a mask */
    NB_F_DST = 1 << 5,
    NB_F_SRC_SET = 1 << 6, /* address in a set */
    NB_F_DST_SET = 1 << 7,
    NB_F_PROTO = 1 << 8,
    NB_F_SPORT = 1 << 9, /* port in a range */
    NB_F_DPORT = 1 << 10,
    NB_F_SPORT_SET = 1 << 11,
    NB_F_DPORT_SET = 1 << 12,
    NB_F_TCP_FLAGS = 1 << 13, /* under a mask */
    NB_F_ICMP_TYPE = 1 << 14,
    NB_F_ICMP_CODE = 1 << 15,
    NB_F_DSCP = 1 << 16,
    NB_F_LENGTH = 1 << 17, /* in a range */
    NB_F_FRAGMENT = 1 << 18,
    NB_F_STATE = 1 << 19, /* one of a mask of states */
    NB_F_IP_VERSION = 1 << 20,
};

struct nb_match {
    uint32_t fields; /* enum nb_field: those that are looked at */
    uint32_t invert; /* those of them that must not hold */
    struct nb_addr src, src_mask, dst, dst_mask;
    uint32_t src_set, dst_set, sport_set, dport_set;
    struct nb_range sport, dport, length;
    uint32_t ifindex;
    uint32_t owner; /* index of an nb_owner_match, NB_NONE = whoever */
    uint16_t ethertype;
    uint16_t vlan;
    uint8_t dir;   /* mask of enum nb_dir */
    uint8_t state; /* mask of enum nb_state */
    uint8_t proto;
    uint8_t tcp_flags, tcp_flags_mask;
    uint8_t icmp_type, icmp_code;
    uint8_t dscp;
    uint8_t ip_version;
    uint8_t pad[3];
};

enum nb_verdict { NB_CONTINUE, NB_ALLOW, NB_DROP, NB_REJECT };

/* How a rejected packet is answered. A sender on this host gets the error at its call. */
enum nb_reject { NB_REJECT_AUTO, NB_REJECT_RST, NB_REJECT_PORT, NB_REJECT_HOST, NB_REJECT_ADMIN };

enum nb_action_flag {
    NB_ACT_LOG = 1 << 0,
    NB_ACT_MIRROR = 1 << 1, /* a copy to the captures that ask for mirrored packets */
    NB_ACT_MARK = 1 << 2,
    NB_ACT_CLASS = 1 << 3, /* QoS class */
    NB_ACT_STEER = 1 << 4, /* worker */
};

struct nb_action {
    uint8_t verdict;  /* enum nb_verdict */
    uint8_t reject;   /* enum nb_reject */
    uint16_t flags;   /* enum nb_action_flag */
    uint32_t counter; /* a named counter besides the rule's own, NB_NONE */
    uint32_t mark, mark_mask;
    uint32_t class_id;
    uint32_t steer;
};

enum nb_limit_flag {
    NB_LIMIT_BYTES = 1 << 0,      /* takes bytes, else packets */
    NB_LIMIT_PER_SOURCE = 1 << 1, /* a bucket for each source address */
    NB_LIMIT_OVER = 1 << 2,       /* matches what is above the rate */
};

/* A token bucket; starts full. Rules may share one. */
struct nb_limit {
    uint64_t rate;       /* a second */
    uint64_t burst;      /* tokens it holds, at least 1 */
    uint32_t flags;      /* enum nb_limit_flag */
    uint32_t source_max; /* per source: how many are kept; the one idle longest makes room */
};

struct nb_rule {
    uint64_t id;  /* stable over revisions: control derives it from the rule's name */
    uint8_t tier; /* enum nb_tier */
    uint8_t pad[3];
    uint32_t limit; /* index, NB_NONE */
    struct nb_match match;
    struct nb_action action;
};

/* One revision. Immutable once made, but for the members of its sets. Rules are sorted by tier, then by their order. */
struct nb_policy {
    uint64_t revision;
    const struct nb_rule *rules;
    const struct nb_set *sets;
    const struct nb_owner_match *owners;
    const struct nb_limit *limits;
    uint32_t rule_count, set_count, owner_count, limit_count, counter_count;
    struct nb_action defaults[NB_TIER_COUNT]; /* NB_ALLOW, NB_DROP or NB_REJECT */
};

/* 0, or -EINVAL with what is wrong with which rule (every index in range, verdicts and masks known, sets normalised
 * and of the right kind, ranges the right way round, value bits inside their masks). */
int nb_policy_check(const struct nb_policy *policy, char *err, size_t err_size);

#endif
