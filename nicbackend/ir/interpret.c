/* SPDX-License-Identifier: Apache-2.0
 *
 * The interpreter: the policy read aloud. No indexes, no caches, nothing to get wrong. See interpret.h.
 */
#include "nicbackend/ir/interpret.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NANO 1000000000ull

/* --- limits ---------------------------------------------------------------------------------------------------- */

struct bucket {
    uint64_t level; /* tokens, in units of 10^-9 */
    uint64_t at;    /* when that was */
    struct nb_addr source;
    bool used;
};

struct nb_meters {
    const struct nb_policy *policy;
    struct nb_count *rules;
    struct nb_count *counters;
    struct bucket **buckets; /* by limit: one, or source_max of them */
};

static uint32_t bucket_count(const struct nb_limit *l) {
    return (l->flags & NB_LIMIT_PER_SOURCE) != 0 ? l->source_max : 1;
}

int nb_meters_create(const struct nb_policy *policy, struct nb_meters **ret_meters) {
    struct nb_meters *m = calloc(1, sizeof *m);
    if (m == NULL)
        return -ENOMEM;
    m->policy = policy;
    m->rules = calloc(policy->rule_count + 1u, sizeof *m->rules);
    m->counters = calloc(policy->counter_count + 1u, sizeof *m->counters);
    m->buckets = calloc(policy->limit_count + 1u, sizeof *m->buckets);
    bool ok = m->rules != NULL && m->counters != NULL && m->buckets != NULL;
    for (uint32_t i = 0; ok && i < policy->limit_count; i++)
        ok = (m->buckets[i] = calloc(bucket_count(&policy->limits[i]), sizeof(struct bucket))) != NULL;
    if (!ok) {
        nb_meters_destroy(m);
        return -ENOMEM;
    }
    *ret_meters = m;
    return 0;
}

void nb_meters_destroy(struct nb_meters *m) {
    if (m == NULL)
        return;
    for (uint32_t i = 0; m->buckets != NULL && i < m->policy->limit_count; i++)
        free(m->buckets[i]);
    free(m->buckets);
    free(m->counters);
    free(m->rules);
    free(m);
}

struct nb_count nb_meters_rule(const struct nb_meters *m, uint32_t rule) {
    return m->rules[rule];
}
struct nb_count nb_meters_counter(const struct nb_meters *m, uint32_t counter) {
    return m->counters[counter];
}

/* The bucket of `source`, else a free one, else the one idle longest; fresh ones are full. */
static struct bucket *bucket_find(const struct nb_limit *l, struct bucket *b, const struct nb_addr *source) {
    struct bucket *best = &b[0];
    for (uint32_t i = 0; i < bucket_count(l); i++) {
        if (b[i].used && memcmp(&b[i].source, source, sizeof *source) == 0)
            return &b[i];
        if (best->used && (!b[i].used || b[i].at < best->at))
            best = &b[i];
    }
    *best = (struct bucket){.source = *source};
    return best;
}

static void bucket_refill(const struct nb_limit *l, struct bucket *b, uint64_t now) {
    const uint64_t full = l->burst * NANO;
    if (!b->used) {
        b->level = full;
        b->used = true;
    } else {
        unsigned __int128 level = (unsigned __int128)(now - b->at) * l->rate + b->level;
        b->level = level > full ? full : (uint64_t)level;
    }
    b->at = now;
}

/* Takes the packet's tokens when they are all there. */
static bool limit_within(struct nb_meters *m, uint32_t limit, const struct nb_view *v, uint64_t now) {
    const struct nb_limit *l = &m->policy->limits[limit];
    const struct nb_addr nobody = {{0}};
    const struct nb_addr *source = (l->flags & NB_LIMIT_PER_SOURCE) != 0 ? &v->src : &nobody;
    struct bucket *b = bucket_find(l, m->buckets[limit], source);
    bucket_refill(l, b, now);
    uint64_t cost = ((l->flags & NB_LIMIT_BYTES) != 0 ? v->bytes : 1u) * NANO;
    if (cost > b->level)
        return false;
    b->level -= cost;
    return true;
}

/* --- matching -------------------------------------------------------------------------------------------------- */

static bool under_mask(const struct nb_addr *addr, const struct nb_addr *value, const struct nb_addr *mask) {
    for (int i = 0; i < 16; i++)
        if ((addr->b[i] & mask->b[i]) != value->b[i])
            return false;
    return true;
}

static bool in_range(uint32_t value, const struct nb_range *r) {
    return value >= r->lo && value <= r->hi;
}

static bool in_groups(const struct nb_set *gids, const struct nb_owner *o) {
    for (uint32_t i = 0; i < o->group_count && i < NB_GROUP_MAX; i++)
        if (nb_set_has(gids, o->groups[i]))
            return true;
    return nb_set_has(gids, o->gid);
}

static bool in_cgroup(uint64_t cgroup, const struct nb_owner *o) {
    for (int i = 0; i < NB_CGROUP_DEPTH && o->cgroup[i] != 0; i++)
        if (o->cgroup[i] == cgroup)
            return true;
    return false;
}

static bool owner_field(const struct nb_policy *p, const struct nb_owner_match *m, const struct nb_owner *o,
                        uint32_t field) {
    switch (field) {
    case NB_OWNER_UID:
        return nb_set_has(&p->sets[m->uids], o->uid);
    case NB_OWNER_GID:
        return in_groups(&p->sets[m->gids], o);
    case NB_OWNER_PID:
        return m->pid == o->pid;
    case NB_OWNER_EXE:
        return m->exe_dev == o->exe_dev && m->exe_inode == o->exe_inode;
    case NB_OWNER_COMM:
        return strncmp(m->comm, o->comm, NB_COMM_SIZE) == 0;
    case NB_OWNER_CGROUP:
        return in_cgroup(m->cgroup, o);
    case NB_OWNER_LABEL:
        return m->label == o->label;
    default:
        return false;
    }
}

bool nb_owner_matches(const struct nb_policy *p, const struct nb_owner_match *m, const struct nb_owner *o) {
    if (o == NULL || m->fields == NB_OWNER_NOBODY)
        return (o == NULL) == (m->fields == NB_OWNER_NOBODY) && m->invert == 0;
    for (uint32_t left = m->fields; left != 0; left &= left - 1) {
        uint32_t field = left & -left;
        if (owner_field(p, m, o, field) == ((m->invert & field) != 0))
            return false;
    }
    return true;
}

/* Which part of the parse a field needs; 0: it is always there. */
static uint8_t field_needs(uint32_t field) {
    if ((field & (NB_F_SRC | NB_F_DST | NB_F_SRC_SET | NB_F_DST_SET | NB_F_PROTO | NB_F_DSCP | NB_F_FRAGMENT |
                  NB_F_IP_VERSION)) != 0)
        return NB_PARSED_IP;
    if ((field & (NB_F_SPORT | NB_F_DPORT | NB_F_SPORT_SET | NB_F_DPORT_SET | NB_F_TCP_FLAGS)) != 0)
        return NB_PARSED_PORTS;
    return (field & (NB_F_ICMP_TYPE | NB_F_ICMP_CODE)) != 0 ? NB_PARSED_ICMP : 0;
}

static bool link_field(const struct nb_match *m, const struct nb_view *v, uint32_t field) {
    switch (field) {
    case NB_F_DIR:
        return (m->dir & v->dir) != 0;
    case NB_F_IFINDEX:
        return m->ifindex == v->ifindex;
    case NB_F_ETHERTYPE:
        return m->ethertype == v->ethertype;
    case NB_F_VLAN:
        return m->vlan == v->vlan;
    case NB_F_LENGTH:
        return in_range(v->length, &m->length);
    default:
        return (m->state & v->state) != 0;
    }
}

static bool ip_field(const struct nb_policy *p, const struct nb_match *m, const struct nb_view *v, uint32_t field) {
    switch (field) {
    case NB_F_SRC:
        return under_mask(&v->src, &m->src, &m->src_mask);
    case NB_F_DST:
        return under_mask(&v->dst, &m->dst, &m->dst_mask);
    case NB_F_SRC_SET:
        return nb_set_has_addr(&p->sets[m->src_set], &v->src);
    case NB_F_DST_SET:
        return nb_set_has_addr(&p->sets[m->dst_set], &v->dst);
    case NB_F_PROTO:
        return m->proto == v->proto;
    case NB_F_DSCP:
        return m->dscp == v->dscp;
    case NB_F_FRAGMENT:
        return (v->parsed & NB_PARSED_FRAGMENT) != 0;
    default:
        return m->ip_version == v->ip_version;
    }
}

static bool transport_field(const struct nb_policy *p, const struct nb_match *m, const struct nb_view *v,
                            uint32_t field) {
    switch (field) {
    case NB_F_SPORT:
        return in_range(v->sport, &m->sport);
    case NB_F_DPORT:
        return in_range(v->dport, &m->dport);
    case NB_F_SPORT_SET:
        return nb_set_has(&p->sets[m->sport_set], v->sport);
    case NB_F_DPORT_SET:
        return nb_set_has(&p->sets[m->dport_set], v->dport);
    case NB_F_TCP_FLAGS:
        return (v->tcp_flags & m->tcp_flags_mask) == m->tcp_flags;
    case NB_F_ICMP_TYPE:
        return m->icmp_type == v->icmp_type;
    default:
        return m->icmp_code == v->icmp_code;
    }
}

static bool field_matches(const struct nb_policy *p, const struct nb_match *m, const struct nb_view *v,
                          uint32_t field) {
    uint8_t needs = field_needs(field);
    if (needs == 0)
        return link_field(m, v, field);
    return needs == NB_PARSED_IP ? ip_field(p, m, v, field) : transport_field(p, m, v, field);
}

static bool has_field(const struct nb_view *v, uint32_t field) {
    if (field == NB_F_TCP_FLAGS && v->proto != 6)
        return false;
    uint8_t needs = field_needs(field);
    return (v->parsed & needs) == needs;
}

bool nb_rule_matches(const struct nb_policy *p, const struct nb_match *m, const struct nb_view *v,
                     const struct nb_owner *owner) {
    for (uint32_t left = m->fields; left != 0; left &= left - 1) {
        uint32_t field = left & -left;
        if (!has_field(v, field) || field_matches(p, m, v, field) == ((m->invert & field) != 0))
            return false;
    }
    return m->owner == NB_NONE || nb_owner_matches(p, &p->owners[m->owner], owner);
}

/* --- verdicts -------------------------------------------------------------------------------------------------- */

static void count(struct nb_count *c, const struct nb_view *v) {
    c->packets++;
    c->bytes += v->bytes;
}

static void act(const struct nb_action *a, struct nb_meters *m, const struct nb_view *v, struct nb_outcome *out) {
    out->flags |= a->flags;
    if ((a->flags & NB_ACT_MARK) != 0)
        out->mark = (out->mark & ~a->mark_mask) | a->mark;
    if ((a->flags & NB_ACT_CLASS) != 0)
        out->class_id = a->class_id;
    if ((a->flags & NB_ACT_STEER) != 0)
        out->steer = a->steer;
    if (m != NULL && a->counter != NB_NONE)
        count(&m->counters[a->counter], v);
}

static bool limit_matches(const struct nb_policy *p, struct nb_meters *m, const struct nb_rule *rule,
                          const struct nb_view *v, uint64_t now) {
    if (rule->limit == NB_NONE)
        return true;
    bool within = m == NULL || limit_within(m, rule->limit, v, now);
    return within != ((p->limits[rule->limit].flags & NB_LIMIT_OVER) != 0);
}

/* Asks one tier, whose rules begin at *next, and leaves *next behind them. */
static enum nb_verdict ask_tier(const struct nb_policy *p, struct nb_meters *m, const struct nb_view *v,
                                const struct nb_owner *owner, uint64_t now, uint8_t tier, uint32_t *next,
                                struct nb_outcome *out) {
    const struct nb_action *decision = &p->defaults[tier];
    out->rule[tier] = NB_RULE_DEFAULT;
    for (; *next < p->rule_count && p->rules[*next].tier == tier; (*next)++) {
        const struct nb_rule *rule = &p->rules[*next];
        if (out->rule[tier] != NB_RULE_DEFAULT || !nb_rule_matches(p, &rule->match, v, owner) ||
            !limit_matches(p, m, rule, v, now))
            continue;
        if (m != NULL)
            count(&m->rules[*next], v);
        if (rule->action.verdict == NB_CONTINUE) {
            act(&rule->action, m, v, out);
            continue;
        }
        decision = &rule->action;
        out->rule[tier] = *next;
    }
    act(decision, m, v, out);
    out->reject = decision->verdict == NB_REJECT ? decision->reject : 0;
    return decision->verdict;
}

void nb_interpret(const struct nb_policy *p, struct nb_meters *m, const struct nb_view *v, const struct nb_owner *owner,
                  uint64_t now, struct nb_outcome *out) {
    memset(out, 0, sizeof *out);
    for (int t = 0; t < NB_TIER_COUNT; t++)
        out->rule[t] = NB_RULE_UNASKED;
    uint32_t next = 0;
    for (uint8_t tier = 0; tier < NB_TIER_COUNT; tier++) {
        out->tier = tier;
        out->verdict = (uint8_t)ask_tier(p, m, v, owner, now, tier, &next, out);
        if (out->verdict != NB_ALLOW)
            return;
    }
}
