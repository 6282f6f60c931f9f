/* SPDX-License-Identifier: Apache-2.0
 *
 * What control may ask of the QoS engine. Values only. Rates are bytes a second on the wire; see qos_cmd_begin.
 *
 * The tree is replaced whole and without a pause: BEGIN, a NODE for each node (ids 0, 1, 2 ... in order, parents first,
 * 0 is the root), COMMIT. Only COMMIT changes what packets meet. A leaf that has the same id and key in both trees
 * keeps its queues, its credit and its counters; what waits in a leaf that is gone moves to the fallback leaf. Nothing
 * is dropped. A fresh engine has one node without limits: packets pass.
 *
 * Which leaf: pkt->class_id - 1 when a filter has said so, else that of pkt->owner, else the fallback leaf. An id that
 * is no leaf means the fallback as well.
 */
#ifndef USHER_ENGINES_QOS_QOS_CMD_H
#define USHER_ENGINES_QOS_QOS_CMD_H

#include "engines/engine.h"

#define QOS_NONE       UINT32_MAX
#define QOS_WEIGHT_MAX 4096u
#define QOS_DEPTH_MAX  8u
#define QOS_RATE_MIN   1000ull          /* 8 kbit/s */
#define QOS_RATE_MAX   1000000000000ull /* 8 Tbit/s */
#define QOS_STATS_MAX  1024u

struct qos_config {
    uint32_t node_max;   /* of one tree; there are two */
    uint32_t packet_max; /* that wait at the same time; as many as the host has buffers, or some are dropped */
    uint32_t small_max;  /* packets that are no super-segments: those of one leaf are at most as many as others could
                            still be, so that no leaf takes all buffers of a shard. Half of this, when it is alone */
    uint32_t large_max;  /* super-segments, likewise. 0 of either: packet_max */
    uint32_t owner_max;
};

/* Whose packets wait in line with each other: a leaf serves its lines by turns, each as much as the next one. */
enum qos_each { QOS_EACH_FLOW, QOS_EACH_USER, QOS_EACH_CGROUP, QOS_EACH_PROGRAM, QOS_EACHES };

/* Where an owner's packets belong, and who that is: a hash each for QOS_EACH_USER and what follows it. */
struct qos_owner {
    uint32_t leaf; /* id; QOS_NONE: the fallback */
    uint32_t who[QOS_EACHES - 1];
};

enum qos_cmd_id {
    QOS_CMD_BEGIN = 1, /* forgets what a transaction before it has left */
    QOS_CMD_NODE,
    QOS_CMD_COMMIT,
    QOS_CMD_OWNER,
    QOS_CMD_STATS,
};

struct qos_cmd_begin {
    struct engine_cmd cmd;
    uint32_t fallback; /* id of the leaf for packets that nobody has classified */
    uint32_t overhead; /* bytes a frame costs beside its own: 24 on Ethernet (sum, preamble, gap); 0 = frames as the
                          kernel counts them. With an overhead, short frames count as 60 bytes */
};

/* -EINVAL with a sentence when a value is out of range or the parent is not there yet; -ENOSPC: node_max. */
struct qos_cmd_node {
    struct engine_cmd cmd;
    uint32_t id;
    uint32_t parent;      /* QOS_NONE for the root */
    uint32_t weight;      /* 1 ... QOS_WEIGHT_MAX, among its siblings */
    uint32_t each;        /* of a leaf: enum qos_each */
    uint32_t queue_bytes; /* of a leaf: how much one line may let wait; 0 = 1 MiB. A stream is never cut by it: it is
                             bounded by what its sender may have in flight, and like all by qos_config */
    uint64_t min_rate;    /* served before any share, 0 = none. A parent guarantees what its children do in sum */
    uint64_t max_rate;    /* never more, 0 = no ceiling */
    uint64_t burst;       /* bytes above max_rate at once; 0 = those of a millisecond, at least 32 KiB */
    uint64_t key;         /* the caller's: who this is, whatever its id */
};

/* -EINVAL with a sentence when the tree makes no sense; -ERANGE: owner_max, or an owner's leaf beyond node_max. */
struct qos_cmd_commit {
    struct engine_cmd cmd;
    const struct qos_owner *owner; /* 0 ... owner_count - 1; lent for the call. The others stay as they are */
    uint32_t owner_count;
};

/* From now on this is owner number `owner`. -ERANGE: owner_max, node_max. */
struct qos_cmd_owner {
    struct engine_cmd cmd;
    uint32_t owner;
    struct qos_owner is;
};

struct qos_stat {
    uint64_t packets, bytes;                 /* that left, in wire bytes; of an inner node: those of all below it */
    uint64_t drops;                          /* of a leaf: the flow's queue was full */
    uint64_t waiting_bytes, waiting_packets; /* of a leaf */
};

/* Copies `count` (at most QOS_STATS_MAX) nodes' counters out, from `first` on; reply.value = how many there were. */
struct qos_cmd_stats {
    struct engine_cmd cmd;
    uint32_t first, count;
    struct qos_stat *stats; /* lent for the call */
};

#endif
