/* SPDX-License-Identifier: Apache-2.0
 *
 * Sets and the check of a whole policy: what later stages rely on without looking again. See rule.h.
 */
#include "nicbackend/ir/rule.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PORT_MAX   65535u
#define BURST_MAX  (1ull << 33) /* nano-tokens of a bucket fit 64 bits */
#define RATE_MAX   (1ull << 40)
#define SOURCE_MAX (1u << 20)

/* --- sets ------------------------------------------------------------------------------------------------------ */

static int addr_order(const struct nb_addr *a, const struct nb_addr *b) {
    return memcmp(a->b, b->b, sizeof a->b);
}

static int addr_range_order(const void *a, const void *b) {
    const struct nb_addr_range *x = a, *y = b;
    return addr_order(&x->lo, &y->lo);
}

static int range_order(const void *a, const void *b) {
    const struct nb_range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

/* The address behind `a`; false at the end of the space. */
static bool addr_next(struct nb_addr *a) {
    for (int i = 15; i >= 0; i--)
        if (++a->b[i] != 0)
            return true;
    return false;
}

static bool addr_touches(const struct nb_addr_range *before, const struct nb_addr_range *after) {
    struct nb_addr next = before->hi;
    return !addr_next(&next) || addr_order(&after->lo, &next) <= 0;
}

static int normalise_addrs(struct nb_set *set) {
    struct nb_addr_range *r = set->addrs;
    for (uint32_t i = 0; i < set->count; i++)
        if (addr_order(&r[i].lo, &r[i].hi) > 0)
            return -EINVAL;
    qsort(r, set->count, sizeof *r, addr_range_order);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        if (kept == 0 || !addr_touches(&r[kept - 1], &r[i]))
            r[kept++] = r[i];
        else if (addr_order(&r[i].hi, &r[kept - 1].hi) > 0)
            r[kept - 1].hi = r[i].hi;
    }
    set->count = kept;
    return 0;
}

static int normalise_ranges(struct nb_set *set) {
    struct nb_range *r = set->ranges;
    for (uint32_t i = 0; i < set->count; i++)
        if (r[i].lo > r[i].hi)
            return -EINVAL;
    qsort(r, set->count, sizeof *r, range_order);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        if (kept == 0 || (r[kept - 1].hi != UINT32_MAX && r[i].lo > r[kept - 1].hi + 1))
            r[kept++] = r[i];
        else if (r[i].hi > r[kept - 1].hi)
            r[kept - 1].hi = r[i].hi;
    }
    set->count = kept;
    return 0;
}

int nb_set_normalise(struct nb_set *set) {
    if (set->count == 0)
        return 0;
    return set->kind == NB_SET_ADDR ? normalise_addrs(set) : normalise_ranges(set);
}

bool nb_set_same(const struct nb_set *a, const struct nb_set *b) {
    if (a->kind != b->kind || a->count != b->count)
        return false;
    if (a->count == 0)
        return true;
    return a->kind == NB_SET_ADDR ? memcmp(a->addrs, b->addrs, a->count * sizeof *a->addrs) == 0
                                  : memcmp(a->ranges, b->ranges, a->count * sizeof *a->ranges) == 0;
}

bool nb_set_has_addr(const struct nb_set *set, const struct nb_addr *addr) {
    uint32_t lo = 0, hi = set->count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (addr_order(addr, &set->addrs[mid].lo) < 0)
            hi = mid;
        else if (addr_order(addr, &set->addrs[mid].hi) > 0)
            lo = mid + 1;
        else
            return true;
    }
    return false;
}

bool nb_set_has(const struct nb_set *set, uint32_t value) {
    uint32_t lo = 0, hi = set->count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (value < set->ranges[mid].lo)
            hi = mid;
        else if (value > set->ranges[mid].hi)
            lo = mid + 1;
        else
            return true;
    }
    return false;
}

/* --- the check of a policy ------------------------------------------------------------------------------------- */

struct check {
    const struct nb_policy *policy;
    char *err;
    size_t err_size;
};

__attribute__((format(printf, 2, 3))) static int refuse(const struct check *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (c->err_size != 0)
        vsnprintf(c->err, c->err_size, format, args);
    va_end(args);
    return -EINVAL;
}

static bool set_is_normal(const struct nb_set *s) {
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->kind == NB_SET_ADDR ? addr_order(&s->addrs[i].lo, &s->addrs[i].hi) > 0
                                   : s->ranges[i].lo > s->ranges[i].hi)
            return false;
        if (i == 0)
            continue;
        if (s->kind == NB_SET_ADDR ? addr_touches(&s->addrs[i - 1], &s->addrs[i])
                                   : s->ranges[i].lo <= s->ranges[i - 1].hi + 1ull)
            return false;
    }
    return true;
}

static int check_sets(const struct check *c) {
    for (uint32_t i = 0; i < c->policy->set_count; i++) {
        const struct nb_set *s = &c->policy->sets[i];
        if (s->kind > NB_SET_ID)
            return refuse(c, "set %u is of no known kind (%u)", i, s->kind);
        if (!set_is_normal(s))
            return refuse(c, "set %u is not normalised", i);
        if (s->kind == NB_SET_PORT && s->count != 0 && s->ranges[s->count - 1].hi > PORT_MAX)
            return refuse(c, "set %u holds a port above %u", i, PORT_MAX);
    }
    return 0;
}

static int check_set_index(const struct check *c, uint32_t index, enum nb_set_kind kind, const char *user, uint32_t n) {
    if (index >= c->policy->set_count)
        return refuse(c, "%s %u names set %u; there are %u", user, n, index, c->policy->set_count);
    if (c->policy->sets[index].kind != kind)
        return refuse(c, "%s %u uses set %u as what it is not", user, n, index);
    return 0;
}

static int check_owner(const struct check *c, uint32_t n) {
    const struct nb_owner_match *o = &c->policy->owners[n];
    const uint32_t known = NB_OWNER_NOBODY * 2u - 1u;
    if (o->fields == 0 || (o->fields & ~known) != 0 || (o->invert & ~o->fields) != 0)
        return refuse(c, "owner %u looks at unknown or no fields", n);
    if ((o->fields & NB_OWNER_NOBODY) != 0 && o->fields != NB_OWNER_NOBODY)
        return refuse(c, "owner %u is nobody and somebody", n);
    int r = 0;
    if ((o->fields & NB_OWNER_UID) != 0)
        r = check_set_index(c, o->uids, NB_SET_ID, "owner", n);
    if (r == 0 && (o->fields & NB_OWNER_GID) != 0)
        r = check_set_index(c, o->gids, NB_SET_ID, "owner", n);
    if (r == 0 && memchr(o->comm, 0, sizeof o->comm) == NULL)
        r = refuse(c, "owner %u names a program longer than %u bytes", n, NB_COMM_SIZE - 1);
    return r;
}

static int check_limit(const struct check *c, uint32_t n) {
    const struct nb_limit *l = &c->policy->limits[n];
    const uint32_t known = NB_LIMIT_OVER * 2u - 1u;
    if ((l->flags & ~known) != 0)
        return refuse(c, "limit %u has unknown flags", n);
    if (l->burst == 0 || l->burst > BURST_MAX || l->rate > RATE_MAX)
        return refuse(c, "limit %u: rate or burst is out of range", n);
    bool per_source = (l->flags & NB_LIMIT_PER_SOURCE) != 0;
    if (per_source ? l->source_max == 0 || l->source_max > SOURCE_MAX : l->source_max != 0)
        return refuse(c, "limit %u keeps %u sources", n, l->source_max);
    return 0;
}

static bool addr_inside(const struct nb_addr *value, const struct nb_addr *mask) {
    for (int i = 0; i < 16; i++)
        if ((value->b[i] & ~mask->b[i]) != 0)
            return false;
    return true;
}

static int check_match_sets(const struct check *c, const struct nb_match *m, uint32_t n) {
    const struct {
        uint32_t field, index;
        enum nb_set_kind kind;
    } uses[] = {
        {NB_F_SRC_SET, m->src_set, NB_SET_ADDR},
        {NB_F_DST_SET, m->dst_set, NB_SET_ADDR},
        {NB_F_SPORT_SET, m->sport_set, NB_SET_PORT},
        {NB_F_DPORT_SET, m->dport_set, NB_SET_PORT},
    };
    for (size_t i = 0; i < sizeof uses / sizeof uses[0]; i++) {
        if ((m->fields & uses[i].field) == 0)
            continue;
        int r = check_set_index(c, uses[i].index, uses[i].kind, "rule", n);
        if (r != 0)
            return r;
    }
    return 0;
}

static int check_match_values(const struct check *c, const struct nb_match *m, uint32_t n) {
    const struct {
        uint32_t field;
        bool good;
        const char *what;
    } values[] = {
        {NB_F_DIR, m->dir != 0 && (m->dir & ~(NB_IN | NB_OUT)) == 0, "direction"},
        {NB_F_VLAN, m->vlan < 4096, "VLAN"},
        {NB_F_SRC, addr_inside(&m->src, &m->src_mask), "source address under its mask"},
        {NB_F_DST, addr_inside(&m->dst, &m->dst_mask), "destination address under its mask"},
        {NB_F_SPORT, m->sport.lo <= m->sport.hi && m->sport.hi <= PORT_MAX, "source ports"},
        {NB_F_DPORT, m->dport.lo <= m->dport.hi && m->dport.hi <= PORT_MAX, "destination ports"},
        {NB_F_TCP_FLAGS, (m->tcp_flags & ~m->tcp_flags_mask) == 0, "TCP flags under their mask"},
        {NB_F_DSCP, m->dscp < 64, "DSCP"},
        {NB_F_LENGTH, m->length.lo <= m->length.hi, "lengths"},
        {NB_F_STATE, m->state != 0 && m->state < NB_STATE_RELATED * 2, "states"},
        {NB_F_IP_VERSION, m->ip_version == 4 || m->ip_version == 6, "IP version"},
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        if ((m->fields & values[i].field) != 0 && !values[i].good)
            return refuse(c, "rule %u: %s: no packet has that", n, values[i].what);
    return 0;
}

static int check_action(const struct check *c, const struct nb_action *a, const char *user, uint32_t n) {
    if (a->verdict > NB_REJECT || a->reject > NB_REJECT_ADMIN || a->flags >= NB_ACT_STEER * 2)
        return refuse(c, "%s %u: unknown action", user, n);
    if (a->counter != NB_NONE && a->counter >= c->policy->counter_count)
        return refuse(c, "%s %u names counter %u; there are %u", user, n, a->counter, c->policy->counter_count);
    if ((a->flags & NB_ACT_MARK) != 0 && (a->mark & ~a->mark_mask) != 0)
        return refuse(c, "%s %u: mark has bits outside its mask", user, n);
    return 0;
}

static int check_rule(const struct check *c, uint32_t n) {
    const struct nb_rule *rule = &c->policy->rules[n];
    const struct nb_match *m = &rule->match;
    if (rule->tier >= NB_TIER_COUNT || (n > 0 && rule->tier < rule[-1].tier))
        return refuse(c, "rule %u stands in the wrong tier", n);
    if (m->fields >= NB_F_IP_VERSION * 2 || (m->invert & ~m->fields) != 0)
        return refuse(c, "rule %u looks at unknown fields", n);
    if (m->owner != NB_NONE && m->owner >= c->policy->owner_count)
        return refuse(c, "rule %u names owner %u; there are %u", n, m->owner, c->policy->owner_count);
    if (rule->limit != NB_NONE && rule->limit >= c->policy->limit_count)
        return refuse(c, "rule %u names limit %u; there are %u", n, rule->limit, c->policy->limit_count);
    int r = check_match_sets(c, m, n);
    if (r == 0)
        r = check_match_values(c, m, n);
    return r == 0 ? check_action(c, &rule->action, "rule", n) : r;
}

static int check_defaults(const struct check *c) {
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++) {
        if (c->policy->defaults[t].verdict == NB_CONTINUE)
            return refuse(c, "tier %u has no default verdict", t);
        int r = check_action(c, &c->policy->defaults[t], "default of tier", t);
        if (r != 0)
            return r;
    }
    return 0;
}

int nb_policy_check(const struct nb_policy *policy, char *err, size_t err_size) {
    const struct check c = {policy, err, err_size};
    int r = check_sets(&c);
    for (uint32_t i = 0; r == 0 && i < policy->owner_count; i++)
        r = check_owner(&c, i);
    for (uint32_t i = 0; r == 0 && i < policy->limit_count; i++)
        r = check_limit(&c, i);
    for (uint32_t i = 0; r == 0 && i < policy->rule_count; i++)
        r = check_rule(&c, i);
    return r == 0 ? check_defaults(&c) : r;
}
