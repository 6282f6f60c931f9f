/* SPDX-License-Identifier: Apache-2.0
 *
 * See compare.h. Rules that stand in another order are found by the longest run of those that do not.
 */
#include "control/policy/compare.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/policy/classes.h"

#define MEMBERS_SHOWN 8u

/* ---- members as text ---- */

static void addr_text(const struct nb_addr *a, char ret[INET6_ADDRSTRLEN]) {
    static const uint8_t v4[12] = {[10] = 0xff, 0xff};
    bool is_v4 = memcmp(a->b, v4, sizeof v4) == 0;
    (void)inet_ntop(is_v4 ? AF_INET : AF_INET6, is_v4 ? a->b + 12 : a->b, ret, INET6_ADDRSTRLEN);
}

/* Bits of the prefix that the range is, counted in the address's own family; -1 when it is none. */
static int prefix_of(const struct nb_addr_range *r) {
    int bits = 0;
    while (bits < 128 && ((r->lo.b[bits / 8] ^ r->hi.b[bits / 8]) >> (7 - bits % 8) & 1) == 0)
        bits++;
    for (int i = bits; i < 128; i++)
        if ((r->lo.b[i / 8] >> (7 - i % 8) & 1) != 0 || (r->hi.b[i / 8] >> (7 - i % 8) & 1) == 0)
            return -1;
    static const uint8_t v4[12] = {[10] = 0xff, 0xff};
    return bits >= 96 && memcmp(r->lo.b, v4, sizeof v4) == 0 ? bits - 96 : bits;
}

static void addrs_text(const struct nb_addr_range *r, char *ret, size_t size) {
    char lo[INET6_ADDRSTRLEN], hi[INET6_ADDRSTRLEN];
    int bits = prefix_of(r);
    addr_text(&r->lo, lo);
    addr_text(&r->hi, hi);
    if (strcmp(lo, hi) == 0)
        (void)snprintf(ret, size, "%s", lo);
    else if (bits >= 0)
        (void)snprintf(ret, size, "%s/%d", lo, bits);
    else
        (void)snprintf(ret, size, "%s-%s", lo, hi);
}

void policy_member_text(const struct policy *p, uint32_t set, uint32_t i, char *ret, size_t size) {
    const struct nb_set *s = &policy_rules(p)->sets[set];
    if (s->kind == NB_SET_ADDR)
        addrs_text(&s->addrs[i], ret, size);
    else if (s->ranges[i].lo == s->ranges[i].hi)
        (void)snprintf(ret, size, "%u", s->ranges[i].lo);
    else
        (void)snprintf(ret, size, "%u-%u", s->ranges[i].lo, s->ranges[i].hi);
}

const char *policy_set_kind(const struct policy *p, uint32_t set) {
    static const char *const kinds[] = {"addresses", "ports", "users"};
    return kinds[policy_rules(p)->sets[set].kind];
}

void policy_set_text(const struct policy *p, uint32_t set, char *ret, size_t size) {
    const struct nb_set *s = &policy_rules(p)->sets[set];
    char one[128];
    int n = snprintf(ret, size, "%s: ", policy_set_kind(p, set));
    for (uint32_t i = 0; i < s->count && i < MEMBERS_SHOWN && n >= 0 && (size_t)n < size; i++) {
        policy_member_text(p, set, i, one, sizeof one);
        n += snprintf(ret + n, size - (size_t)n, "%s%s", i > 0 ? ", " : "", one);
    }
    if (s->count > MEMBERS_SHOWN && n >= 0 && (size_t)n < size)
        (void)snprintf(ret + n, size - (size_t)n, " and %u more", s->count - MEMBERS_SHOWN);
}

/* ---- sets and defaults ---- */

struct compare {
    const struct policy *before, *after;
    policy_difference_fn *fn;
    void *arg;
};

static void tell(const struct compare *c, enum policy_change kind, const char *what, const char *name,
                 const char *before, const char *after) {
    const struct policy_difference d = {kind, what, name, before, after};
    c->fn(c->arg, &d);
}

static void set_compare(const struct compare *c, uint32_t i) {
    const char *name = policy_set_name(c->after, i);
    char before[512], after[512];
    uint32_t k = policy_set_find(c->before, name);
    policy_set_text(c->after, i, after, sizeof after);
    if (k == NB_NONE) {
        tell(c, POLICY_ADDED, "set", name, "", after);
        return;
    }
    if (nb_set_same(&policy_rules(c->before)->sets[k], &policy_rules(c->after)->sets[i]))
        return;
    policy_set_text(c->before, k, before, sizeof before);
    tell(c, POLICY_CHANGED, "set", name, before, after);
}

static void sets_compare(const struct compare *c) {
    char text[512];
    for (uint32_t i = 0; i < policy_rules(c->after)->set_count; i++)
        if (policy_set_name(c->after, i)[0] != '\0')
            set_compare(c, i);
    for (uint32_t i = 0; i < policy_rules(c->before)->set_count; i++) {
        const char *name = policy_set_name(c->before, i);
        if (name[0] == '\0' || policy_set_find(c->after, name) != NB_NONE)
            continue;
        policy_set_text(c->before, i, text, sizeof text);
        tell(c, POLICY_REMOVED, "set", name, text, "");
    }
}

static void defaults_compare(const struct compare *c) {
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++) {
        uint8_t before = policy_rules(c->before)->defaults[t].verdict,
                after = policy_rules(c->after)->defaults[t].verdict;
        if (before != after)
            tell(c, POLICY_CHANGED, "default", policy_tier_name(t), policy_verdict_name(before),
                 policy_verdict_name(after));
    }
}

/* ---- classes ---- */

static void class_text(const struct class_spec *s, char *ret, size_t size) {
    (void)snprintf(ret, size, "weight %u, guarantee %llu, ceiling %llu, burst %llu, queue %llu%s%s%s%s", s->weight,
                   (unsigned long long)s->guarantee, (unsigned long long)s->ceiling, (unsigned long long)s->burst,
                   (unsigned long long)s->queue, s->user[0] != '\0' ? ", user " : "", s->user,
                   s->cgroup[0] != '\0' ? ", cgroup " : "", s->cgroup);
}

static const struct class_spec *class_find(const struct classes *c, uint64_t key) {
    for (uint32_t i = 1; i < c->count; i++)
        if (c->v[i].key == key)
            return &c->v[i];
    return NULL;
}

static void classes_compare(const struct compare *c) {
    const struct classes *before = policy_classes(c->before), *after = policy_classes(c->after);
    char was[640], is[640];
    for (uint32_t i = 1; i < after->count; i++) {
        const struct class_spec *old = class_find(before, after->v[i].key);
        class_text(&after->v[i], is, sizeof is);
        if (old == NULL) {
            tell(c, POLICY_ADDED, "class", after->v[i].name, "", is);
            continue;
        }
        class_text(old, was, sizeof was);
        if (strcmp(was, is) != 0)
            tell(c, POLICY_CHANGED, "class", old->name, was, is);
    }
    for (uint32_t i = 1; i < before->count; i++)
        if (class_find(after, before->v[i].key) == NULL) {
            class_text(&before->v[i], was, sizeof was);
            tell(c, POLICY_REMOVED, "class", before->v[i].name, was, "");
        }
}

/* ---- rules ---- */

/* Marks in `stays` the longest run of rules that stand in the same order in both; `old` has each rule's place in the
 * old policy, NB_NONE = it was not there. */
static bool order_find(const uint32_t *old, uint32_t n, bool *stays) {
    uint32_t *ends = calloc(n + 1u, sizeof *ends), *from = calloc(n + 1u, sizeof *from), len = 0;
    for (uint32_t i = 0; ends != NULL && from != NULL && i < n; i++) {
        uint32_t lo = 0, hi = len;
        if (old[i] == NB_NONE)
            continue;
        while (lo < hi) {
            uint32_t mid = lo + (hi - lo) / 2;
            if (old[ends[mid]] < old[i])
                lo = mid + 1;
            else
                hi = mid;
        }
        from[i] = lo > 0 ? ends[lo - 1] : NB_NONE;
        ends[lo] = i;
        len = lo == len ? len + 1 : len;
    }
    bool good = ends != NULL && from != NULL;
    for (uint32_t i = good && len > 0 ? ends[len - 1] : NB_NONE; i != NB_NONE; i = from[i])
        stays[i] = true;
    free(ends);
    free(from);
    return good;
}

static void rule_compare(const struct compare *c, uint32_t i, uint32_t k, bool stays) {
    const char *name = policy_rule_name(c->after, i), *after = policy_rule_text(c->after, i);
    if (k == NB_NONE)
        tell(c, POLICY_ADDED, "rule", name, "", after);
    else if (strcmp(policy_rule_text(c->before, k), after) != 0)
        tell(c, POLICY_CHANGED, "rule", name, policy_rule_text(c->before, k), after);
    else if (!stays)
        tell(c, POLICY_MOVED, "rule", name, after, after);
}

static int rules_compare(const struct compare *c) {
    uint32_t n = policy_rules(c->after)->rule_count;
    uint32_t *old = calloc(n + 1u, sizeof *old);
    bool *stays = calloc(n + 1u, sizeof *stays);
    bool good = old != NULL && stays != NULL;
    for (uint32_t i = 0; good && i < n; i++)
        old[i] = policy_rule_find(c->before, policy_rule_name(c->after, i));
    good = good && order_find(old, n, stays);
    for (uint32_t i = 0; good && i < n; i++)
        rule_compare(c, i, old[i], stays[i]);
    for (uint32_t i = 0; good && i < policy_rules(c->before)->rule_count; i++) {
        const char *name = policy_rule_name(c->before, i);
        if (policy_rule_find(c->after, name) == NB_NONE)
            tell(c, POLICY_REMOVED, "rule", name, policy_rule_text(c->before, i), "");
    }
    free(old);
    free(stays);
    return good ? 0 : -ENOMEM;
}

int policy_compare(const struct policy *before, const struct policy *after, policy_difference_fn *fn, void *arg) {
    const struct compare c = {before, after, fn, arg};
    defaults_compare(&c);
    sets_compare(&c);
    classes_compare(&c);
    return rules_compare(&c);
}
