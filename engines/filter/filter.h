/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/filter: the state, and what the files of the room say to each other. On the shard's worker.
 *
 * Truth: which half holds the policy in force, and that policy's bytes (with its counters and buckets). Derived: the
 * flow cache, the traces it points to, and the conversations.
 */
#ifndef USHER_ENGINES_FILTER_FILTER_H
#define USHER_ENGINES_FILTER_FILTER_H

#include "engines/filter/filter_cmd.h"
#include "engines/filter/filter_image.h"
#include "engines/wire.h"

#define FILTER_LAYOUT      (3u + ARENA_LAYOUT_STEP)
#define FILTER_LIST_MAX    64u   /* rules that match one packet; with more of them the rules are asked one by one */
#define FILTER_TRACE_MAX   4096u /* different lists that are remembered */
#define FILTER_TRACE_RULES 10u   /* of a list that is */
#define FILTER_TRACE_SLOTS (2 * FILTER_TRACE_MAX)
#define FILTER_HALF_NONE   2u
#define FILTER_LOG_MAX     20u /* records a second: the rest is counted only */

/* As nicbackend/ir/rule.h has them; a test compares. */
enum filter_verdict { FILTER_CONTINUE, FILTER_ALLOW, FILTER_DROP, FILTER_REJECT };
enum filter_reject {
    FILTER_REJECT_AUTO,
    FILTER_REJECT_RST,
    FILTER_REJECT_PORT,
    FILTER_REJECT_HOST,
    FILTER_REJECT_ADMIN
};
enum filter_bits {
    FILTER_IN = 1,
    FILTER_OUT = 2,
    FILTER_NEW = 1,
    FILTER_ESTABLISHED = 2,
    FILTER_RELATED = 4,
    FILTER_HAS_IP = 1,
    FILTER_HAS_PORTS = 2,
    FILTER_HAS_ICMP = 4,
    FILTER_IS_FRAGMENT = 8,
    FILTER_ACT_LOG = 1,
    FILTER_ACT_MIRROR = 2,
    FILTER_ACT_MARK = 4,
    FILTER_ACT_CLASS = 8,
    FILTER_ACT_STEER = 16,
    FILTER_LIMIT_BYTES = 1,
    FILTER_LIMIT_PER_SOURCE = 2,
    FILTER_LIMIT_OVER = 4,
};

#define FILTER_RULE_DEFAULT UINT32_MAX
#define FILTER_RULE_UNASKED (UINT32_MAX - 1)

struct filter_outcome {
    uint8_t verdict, reject;
    uint16_t flags;
    uint8_t tier;
    uint8_t pad[3];
    uint32_t rule[FILTER_TIERS];
    uint32_t mark, class_id, steer;
};

/* A packet, as far as the judges care. */
struct filter_case {
    struct filter_words words;
    uint32_t bytes;
    ns_t now;
};

struct filter_list {
    uint32_t count;
    uint32_t rule[FILTER_LIST_MAX]; /* ascending */
};

/* Rules that match a packet, and what comes of it when no limit has a say. */
struct filter_trace {
    struct filter_outcome out;
    uint32_t hash;
    uint8_t count;
    bool plain; /* `out` holds: no limits, no named counters */
    uint8_t pad[2];
    uint32_t rule[FILTER_TRACE_RULES];
    uint32_t pad2[10];
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct filter_trace) == 2 * CACHE_LINE, "two lines");

struct filter_line {
    struct filter_words key;
    uint32_t generation;
    uint32_t trace;
} CACHE_ALIGNED;
STATIC_ASSERT(sizeof(struct filter_line) == CACHE_LINE, "one line a flow");

/* A conversation of datagrams: who has answered whom is known by its being here. */
struct filter_talk {
    struct flow flow; /* as this host sees it */
    uint32_t owner;
    uint32_t pad;
    ns_t until;
    uint64_t pad2;
} CACHE_ALIGNED;

struct filter_state {
    struct arena_header a;
    struct filter_config cfg;
    struct hash_key key;
    uint32_t active; /* half, FILTER_HALF_NONE: everything passes */
    uint32_t half_lines[2];
    uint64_t sum[2];   /* of the fixed part */
    bool filled[2];    /* holds a whole policy */
    /* derived */
    bool staging; /* the other half is being filled: */
    uint64_t stage_size, stage_at, stage_sum, stage_fixed;
    uint32_t generation; /* of cache lines; never 0 */
    uint32_t cache_lines, talk_lines, trace_lines, slot_lines;
    uint32_t trace_count;
    ns_t log_since; /* records of this second: */
    uint32_t logged;
};

enum filter_counter {
    FILTER_COUNT_JUDGED,
    FILTER_COUNT_DROPPED,
    FILTER_COUNT_REJECTED,
    FILTER_COUNT_RELATED,
    FILTER_COUNT_MISSES,
    FILTER_COUNT_EVICTED,
    FILTER_COUNT_UNCACHED,
    FILTER_COUNT_TALK_EVICTED,
    FILTER_COUNT_TOLD,
    FILTER_COUNT_COMMITS,
    FILTER_COUNT_LOGGED,
    FILTER_COUNT_UNLOGGED,
    FILTER_COUNT_COUNT
};

static inline struct filter_image *filter_half(struct filter_state *st, uint32_t half) {
    return (struct filter_image *)arena_at(st, st->half_lines[half]);
}

/* The policy in force, NULL: there is none. */
static inline struct filter_image *filter_active(struct filter_state *st) {
    return UNLIKELY(st->active == FILTER_HALF_NONE) ? NULL : filter_half(st, st->active);
}

/* filter_classify.c: which rules match. False: more than the list holds. */
bool filter_classify(const struct filter_image *img, const struct filter_words *p, struct filter_list *ret_list);
bool filter_rule_matches(const struct filter_image *img, const struct filter_rule *r, const struct filter_words *p);

/* filter_act.c: what comes of it. filter_act_all() asks every rule itself. */
void filter_act(struct filter_image *img, const struct filter_case *c, const uint32_t *rules, uint32_t count,
                struct filter_outcome *ret_out);
void filter_act_all(struct filter_image *img, const struct filter_case *c, struct filter_outcome *ret_out);
void filter_count(struct filter_image *img, uint32_t rule, uint32_t bytes);

/* filter_cache.c: the same by the flow cache. */
struct filter_line *filter_line_at(struct filter_state *st, const struct filter_image *img,
                                   const struct filter_words *p);
void filter_judge(struct filter_state *st, struct engine_io *io, struct filter_image *img, struct filter_line *line,
                  const struct filter_case *c, struct filter_outcome *ret_out);
void filter_cache_clear(struct filter_state *st);

/* filter_raw.c: what a frame that a program made says of itself. False: its headers do not end in the head buffer. */
bool filter_raw_case(const struct pkt *p, uint32_t ifindex, ns_t now, struct filter_case *ret_case);

/* filter_packet.c: packets in and out */
struct filter_transport {
    uint64_t what;   /* of FILTER_W_WHAT */
    uint32_t header; /* bytes, 0: none was parsed */
    uint8_t tcp_flags;
};
uint32_t filter_transport_size(uint8_t proto);
/* `h` is where the transport header would be, `len` what of it lies in the head buffer. */
struct filter_transport filter_transport_parse(uint8_t proto, const uint8_t *h, uint32_t len);
void filter_case_addrs(struct filter_case *c, const struct ipaddr *src, const struct ipaddr *dst);
void filter_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);
void filter_output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n);

/* filter_cmd.c */
void filter_command(void *state, struct engine_io *io, const struct engine_cmd *cmd, struct engine_reply *ret_reply);

#endif
