/* SPDX-License-Identifier: Apache-2.0
 *
 * See compile.h. A rule becomes as many as its sets have ranges: the first that matches decides, so several allow what
 * one would. What cannot be said is left out and the verdict becomes COVER_OPEN.
 */
#include "nicbackend/cover/compile.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/sysmacros.h>

#define ETHERTYPE_IP4 0x0800
#define ETHERTYPE_IP6 0x86dd
#define STATES        (NB_STATE_NEW | NB_STATE_ESTABLISHED)

/* A rule's alternatives: one of each kind is chosen for each rule that is made. Count 0: it does not ask. */
struct choices {
    const struct nb_set *src, *dst, *sport, *dport, *uids;
};

struct compiler {
    const struct nb_policy *policy;
    struct cover_rule *rules;
    int count; /* or -E2BIG */
};

/* ---- what a hook cannot say ---- */

static bool is_prefix(const struct nb_addr_range *a, cover_u8 value[16], cover_u8 mask[16]) {
    bool host = false;
    memset(mask, 0, 16);
    for (uint32_t i = 0; i < 128; i++) {
        uint8_t bit = (uint8_t)(0x80u >> i % 8);
        bool lo = (a->lo.b[i / 8] & bit) != 0, hi = (a->hi.b[i / 8] & bit) != 0;
        if ((host || lo != hi) && (lo || !hi))
            return false;
        host |= lo != hi;
        mask[i / 8] |= host ? 0 : bit;
    }
    memcpy(value, a->lo.b, 16);
    return true;
}

static bool addrs_sayable(const struct nb_set *set) {
    cover_u8 value[16], mask[16];
    for (uint32_t i = 0; i < set->count; i++) {
        if (!is_prefix(&set->addrs[i], value, mask))
            return false;
    }
    return true;
}

static const char *set_gap(const struct nb_policy *p, const struct nb_match *m) {
    const struct {
        uint32_t field, set, single;
        bool addrs;
    } sets[] = {{NB_F_SRC_SET, m->src_set, NB_F_SRC, true},
                {NB_F_DST_SET, m->dst_set, NB_F_DST, true},
                {NB_F_SPORT_SET, m->sport_set, NB_F_SPORT, false},
                {NB_F_DPORT_SET, m->dport_set, NB_F_DPORT, false}};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        if ((m->fields & sets[i].field) == 0)
            continue;
        if ((m->fields & sets[i].single) != 0)
            return "it asks for a set and a value at once";
        if ((m->invert & sets[i].field) != 0 && p->sets[sets[i].set].count != 1)
            return "a set that must not hold has not just one range";
        if (sets[i].addrs && !addrs_sayable(&p->sets[sets[i].set]))
            return "a set has an address range that is no prefix";
    }
    return NULL;
}

static const char *field_gap(const struct nb_match *m) {
    if ((m->fields & NB_F_VLAN) != 0)
        return "a socket's packet has no VLAN";
    bool tcp = (m->fields & NB_F_PROTO) != 0 && (m->invert & NB_F_PROTO) == 0 && m->proto == IPPROTO_TCP;
    if ((m->fields & NB_F_STATE) != 0 && !tcp)
        return "a hook knows the state of TCP only; add protocol: tcp";
    return NULL;
}

static const char *owner_gap(const struct nb_policy *p, const struct nb_match *m) {
    if (m->owner == NB_NONE)
        return NULL;
    const struct nb_owner_match *o = &p->owners[m->owner];
    if ((o->fields & NB_OWNER_GID) != 0)
        return "hooks do not see supplementary groups";
    if ((o->fields & NB_OWNER_LABEL) != 0)
        return "hooks do not know labels";
    if ((o->fields & o->invert & NB_OWNER_UID) != 0 && p->sets[o->uids].count != 1)
        return "a set of users that must not hold has not just one range";
    return NULL;
}

static const char *rule_gap(const struct nb_policy *p, const struct nb_rule *r) {
    if (r->limit != NB_NONE)
        return "hooks have no rate limits";
    const char *why = field_gap(&r->match);
    why = why != NULL ? why : set_gap(p, &r->match);
    return why != NULL ? why : owner_gap(p, &r->match);
}

/* ---- what matches no packet of a socket ---- */

static bool nobodys(const struct nb_policy *p, const struct nb_match *m) {
    return m->owner != NB_NONE && p->owners[m->owner].fields == NB_OWNER_NOBODY;
}

static bool other_link(const struct nb_match *m) {
    if ((m->fields & NB_F_ETHERTYPE) == 0)
        return false;
    bool ip = m->ethertype == ETHERTYPE_IP4 || m->ethertype == ETHERTYPE_IP6;
    return !ip && (m->invert & NB_F_ETHERTYPE) == 0;
}

static bool empty(const struct nb_set *set) {
    return set != NULL && set->count == 0;
}

/* ---- making ---- */

static void say(struct cover_rule *r, const struct nb_match *m, uint32_t from, uint32_t to) {
    if ((m->fields & from) == 0)
        return;
    r->fields |= to;
    r->invert |= (m->invert & from) != 0 ? to : 0;
}

static void say_packet(struct cover_rule *r, const struct nb_match *m) {
    say(r, m, NB_F_DIR, COVER_DIR);
    say(r, m, NB_F_IFINDEX, COVER_IFINDEX);
    say(r, m, NB_F_PROTO, COVER_PROTO);
    say(r, m, NB_F_IP_VERSION, COVER_IP_VERSION);
    say(r, m, NB_F_SRC, COVER_SRC);
    say(r, m, NB_F_DST, COVER_DST);
    say(r, m, NB_F_SPORT, COVER_SPORT);
    say(r, m, NB_F_DPORT, COVER_DPORT);
    say(r, m, NB_F_TCP_FLAGS, COVER_TCP_FLAGS);
    say(r, m, NB_F_ICMP_TYPE, COVER_ICMP_TYPE);
    say(r, m, NB_F_ICMP_CODE, COVER_ICMP_CODE);
    say(r, m, NB_F_DSCP, COVER_DSCP);
    say(r, m, NB_F_LENGTH, COVER_LENGTH);
    say(r, m, NB_F_FRAGMENT, COVER_FRAGMENT);
    if (field_gap(m) == NULL)
        say(r, m, NB_F_STATE, COVER_STATE);
    if ((m->fields & NB_F_ETHERTYPE) != 0) {
        say(r, m, NB_F_ETHERTYPE, COVER_IP_VERSION);
        r->ip_version = m->ethertype == ETHERTYPE_IP4 ? 4 : 6;
    } else {
        r->ip_version = m->ip_version;
    }
    r->dir = m->dir;
    r->state = m->state & STATES;
    r->proto = m->proto;
    r->ifindex = m->ifindex;
    r->tcp_flags = m->tcp_flags;
    r->tcp_flags_mask = m->tcp_flags_mask;
    r->icmp_type = m->icmp_type;
    r->icmp_code = m->icmp_code;
    r->dscp = m->dscp;
    r->length = (struct cover_range){m->length.lo, m->length.hi};
    memcpy(r->src, m->src.b, 16);
    memcpy(r->src_mask, m->src_mask.b, 16);
    memcpy(r->dst, m->dst.b, 16);
    memcpy(r->dst_mask, m->dst_mask.b, 16);
    r->sport = (struct cover_range){m->sport.lo, m->sport.hi};
    r->dport = (struct cover_range){m->dport.lo, m->dport.hi};
}

static void say_owner(struct cover_rule *r, const struct nb_owner_match *o) {
    static const struct {
        uint32_t from, to;
    } map[] = {{NB_OWNER_UID, COVER_UID},
               {NB_OWNER_PID, COVER_PID},
               {NB_OWNER_EXE, COVER_EXE},
               {NB_OWNER_COMM, COVER_COMM_IS},
               {NB_OWNER_CGROUP, COVER_CGROUP}};
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        r->fields |= (o->fields & map[i].from) != 0 ? map[i].to : 0;
        r->invert |= (o->fields & o->invert & map[i].from) != 0 ? map[i].to : 0;
    }
    r->pid = o->pid;
    r->exe_inode = o->exe_inode;
    r->exe_dev = major(o->exe_dev) << 20 | minor(o->exe_dev);
    r->cgroup = o->cgroup;
    memcpy(r->comm, o->comm, COVER_COMM);
}

static struct choices choices_of(const struct nb_policy *p, const struct nb_match *m) {
    const struct nb_owner_match *o = m->owner != NB_NONE ? &p->owners[m->owner] : NULL;
    return (struct choices){
        .src = (m->fields & NB_F_SRC_SET) != 0 ? &p->sets[m->src_set] : NULL,
        .dst = (m->fields & NB_F_DST_SET) != 0 ? &p->sets[m->dst_set] : NULL,
        .sport = (m->fields & NB_F_SPORT_SET) != 0 ? &p->sets[m->sport_set] : NULL,
        .dport = (m->fields & NB_F_DPORT_SET) != 0 ? &p->sets[m->dport_set] : NULL,
        .uids = o != NULL && (o->fields & NB_OWNER_UID) != 0 ? &p->sets[o->uids] : NULL,
    };
}

static uint32_t ways(const struct nb_set *set) {
    return set != NULL ? set->count : 1;
}

/* The n-th way of choosing. False: it cannot be said. */
static void choose_addr(const struct nb_set *set, uint32_t i, struct cover_rule *r, uint32_t field, cover_u8 value[16],
                        cover_u8 mask[16]) {
    if (set == NULL)
        return;
    if (is_prefix(&set->addrs[i], value, mask))
        r->fields |= field;
    else
        r->verdict = COVER_OPEN;
}

static void choose_range(const struct nb_set *set, uint32_t i, struct cover_rule *r, uint32_t field,
                         struct cover_range *ret_range) {
    if (set == NULL)
        return;
    r->fields |= field;
    *ret_range = (struct cover_range){set->ranges[i].lo, set->ranges[i].hi};
}

static void choose(const struct choices *c, uint32_t n, struct cover_rule *r) {
    choose_addr(c->src, n % ways(c->src), r, COVER_SRC, r->src, r->src_mask);
    n /= ways(c->src);
    choose_addr(c->dst, n % ways(c->dst), r, COVER_DST, r->dst, r->dst_mask);
    n /= ways(c->dst);
    choose_range(c->sport, n % ways(c->sport), r, COVER_SPORT, &r->sport);
    n /= ways(c->sport);
    choose_range(c->dport, n % ways(c->dport), r, COVER_DPORT, &r->dport);
    n /= ways(c->dport);
    choose_range(c->uids, n % ways(c->uids), r, COVER_UID, &r->uid);
}

static void rule_make(struct compiler *k, uint32_t number, bool gap) {
    const struct nb_rule *rule = &k->policy->rules[number];
    const struct nb_match *m = &rule->match;
    struct choices c = choices_of(k->policy, m);
    struct cover_rule base = {.tier = rule->tier, .number = number};
    if (empty(c.src) || empty(c.dst) || empty(c.sport) || empty(c.dport) || empty(c.uids))
        return; /* an empty set holds nothing */
    base.verdict = gap ? COVER_OPEN : rule->action.verdict == NB_ALLOW ? COVER_PASS : COVER_DENY;
    say_packet(&base, m);
    if (m->owner != NB_NONE)
        say_owner(&base, &k->policy->owners[m->owner]);
    const uint32_t sets[][2] = {{NB_F_SRC_SET, COVER_SRC},
                                {NB_F_DST_SET, COVER_DST},
                                {NB_F_SPORT_SET, COVER_SPORT},
                                {NB_F_DPORT_SET, COVER_DPORT}};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        base.invert |= (m->fields & m->invert & sets[i][0]) != 0 ? sets[i][1] : 0;
    uint64_t all = (uint64_t)ways(c.src) * ways(c.dst) * ways(c.sport) * ways(c.dport) * ways(c.uids);
    if (k->count < 0 || all > (uint64_t)(COVER_RULES - k->count)) {
        k->count = -E2BIG;
        return;
    }
    for (uint32_t n = 0; n < all; n++) {
        k->rules[k->count] = base;
        choose(&c, n, &k->rules[k->count++]);
    }
}

static cover_u32 defaults_of(const struct nb_policy *p) {
    cover_u32 all = 0;
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++)
        all |= (p->defaults[t].verdict == NB_ALLOW ? (cover_u32)COVER_PASS : COVER_DENY) << 8 * t;
    return all;
}

int cover_compile(const struct nb_policy *policy, struct cover_rule *ret_rules, struct cover_bank *ret_bank,
                  nb_cover_gap_fn *gap, void *arg) {
    struct compiler k = {.policy = policy, .rules = ret_rules};
    for (uint32_t i = 0; i < policy->rule_count; i++) {
        const struct nb_rule *r = &policy->rules[i];
        if (r->action.verdict == NB_CONTINUE || nobodys(policy, &r->match) || other_link(&r->match))
            continue;
        const char *why = rule_gap(policy, r);
        if (why != NULL && gap != NULL)
            gap(arg, i, why);
        rule_make(&k, i, why != NULL);
    }
    if (k.count >= 0)
        *ret_bank = (struct cover_bank){.rules = (cover_u32)k.count, .defaults = defaults_of(policy)};
    return k.count;
}
