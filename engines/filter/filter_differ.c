/* SPDX-License-Identifier: Apache-2.0
 *
 * The random world of filter_differ.h. Tests only.
 */
#include "engines/filter/filter_differ.h"

#include <string.h>

#include "engines/check.h"

uint32_t differ_roll(struct differ *d, uint32_t n) {
    uint64_t z = (d->rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

static bool one_in(struct differ *d, uint32_t n) {
    return differ_roll(d, n) == 0;
}

static struct nb_addr some_addr(struct differ *d) {
    struct nb_addr a = {{0xfd, 0}};
    a.b[15] = (uint8_t)differ_roll(d, 4);
    if (one_in(d, 4)) {
        a.b[7] = (uint8_t)differ_roll(d, 2);
        return a;
    }
    return nb_addr_from_v4((uint8_t[]){10, (uint8_t)differ_roll(d, 2), (uint8_t)differ_roll(d, 2), a.b[15]});
}

static struct nb_addr some_mask(struct differ *d) {
    static const uint8_t lengths[] = {128, 128, 128, 127, 126, 124, 120, 112, 104, 100, 96, 64, 63, 48, 8, 0};
    struct nb_addr m = {{0}};
    uint32_t n = lengths[differ_roll(d, sizeof lengths)];
    for (uint32_t i = 0; i < n; i++)
        m.b[i / 8] |= (uint8_t)(0x80 >> i % 8);
    if (one_in(d, 10))
        m.b[differ_roll(d, 16)] ^= 0x01; /* not a prefix */
    return m;
}

static void addr_under(struct differ *d, struct nb_addr *value, struct nb_addr *mask) {
    *value = some_addr(d);
    *mask = some_mask(d);
    for (uint32_t i = 0; i < 16; i++)
        value->b[i] &= mask->b[i];
}

static struct nb_range some_range(struct differ *d, uint32_t n) {
    uint32_t lo = differ_roll(d, n);
    return (struct nb_range){lo, one_in(d, 2) ? lo : lo + differ_roll(d, 4)};
}

static void make_sets(struct differ *d) {
    static const uint8_t kinds[] = {NB_SET_ADDR, NB_SET_PORT, NB_SET_ID};
    d->policy.sets = d->sets;
    d->policy.set_count = DIFFER_SETS;
    for (uint32_t i = 0; i < DIFFER_SETS; i++) {
        struct nb_set *s = &d->sets[i];
        *s = (struct nb_set){.kind = kinds[i % 3], .count = differ_roll(d, DIFFER_MEMBERS / (1 + differ_roll(d, 8)))};
        for (uint32_t k = 0; k < s->count; k++) {
            struct nb_addr lo = some_addr(d), hi = lo;
            hi.b[15] = (uint8_t)(hi.b[15] + differ_roll(d, 3));
            d->addrs[i][k] = (struct nb_addr_range){lo, hi};
            d->ranges[i][k] = some_range(d, 12);
        }
        if (s->kind == NB_SET_ADDR)
            s->addrs = d->addrs[i];
        else
            s->ranges = d->ranges[i];
        CHECK(nb_set_normalise(s) == 0);
    }
}

static uint32_t some_set(struct differ *d, enum nb_set_kind kind) {
    return (uint32_t)kind + 3 * differ_roll(d, DIFFER_SETS / 3);
}

static void make_owners(struct differ *d) {
    for (uint32_t i = 1; i < DIFFER_OWNERS; i++)
        d->owners[i] = (struct nb_owner){.uid = differ_roll(d, 12),
                                         .gid = differ_roll(d, 12),
                                         .pid = 100 + i,
                                         .label = differ_roll(d, 3),
                                         .exe_inode = differ_roll(d, 3),
                                         .cgroup = {1, 1 + differ_roll(d, 3)},
                                         .groups = {differ_roll(d, 12)},
                                         .group_count = 1,
                                         .comm = "bob"};
    d->policy.owners = d->matches;
    d->policy.owner_count = 1 + differ_roll(d, DIFFER_MATCHES);
    for (uint32_t i = 0; i < d->policy.owner_count; i++) {
        uint32_t fields = differ_roll(d, NB_OWNER_NOBODY - 1) & differ_roll(d, NB_OWNER_NOBODY - 1);
        fields = fields == 0 ? (one_in(d, 3) ? NB_OWNER_NOBODY : NB_OWNER_UID) : fields;
        d->matches[i] = (struct nb_owner_match){.fields = fields,
                                                .invert = fields == NB_OWNER_NOBODY ? 0 : fields & differ_roll(d, 128),
                                                .uids = some_set(d, NB_SET_ID),
                                                .gids = some_set(d, NB_SET_ID),
                                                .pid = 100 + differ_roll(d, DIFFER_OWNERS),
                                                .label = differ_roll(d, 3),
                                                .exe_inode = differ_roll(d, 3),
                                                .cgroup = 1 + differ_roll(d, 3),
                                                .comm = "bob"};
    }
}

static void make_limits(struct differ *d) {
    d->policy.limits = d->limits;
    d->policy.limit_count = DIFFER_LIMITS;
    d->policy.counter_count = one_in(d, 2) ? DIFFER_COUNTS : 0;
    for (uint32_t i = 0; i < DIFFER_LIMITS; i++) {
        uint32_t flags = differ_roll(d, NB_LIMIT_OVER * 2);
        d->limits[i] = (struct nb_limit){.rate = 1 + differ_roll(d, 100000),
                                         .burst = 1 + differ_roll(d, 3000),
                                         .flags = flags,
                                         .source_max = flags & NB_LIMIT_PER_SOURCE ? 1 + differ_roll(d, 5) : 0};
    }
}

static struct nb_action some_action(struct differ *d, bool decides) {
    struct nb_action a = {.verdict = (uint8_t)(decides ? NB_ALLOW + differ_roll(d, 3) : differ_roll(d, 4)),
                          .flags = (uint16_t)(differ_roll(d, NB_ACT_STEER * 2) & differ_roll(d, NB_ACT_STEER * 2)),
                          .counter = NB_NONE,
                          .mark_mask = differ_roll(d, 256),
                          .class_id = differ_roll(d, 9),
                          .steer = differ_roll(d, 9)};
    a.mark = a.mark_mask & differ_roll(d, 256);
    a.reject = (uint8_t)differ_roll(d, NB_REJECT_ADMIN + 1);
    if (d->policy.counter_count != 0 && one_in(d, 4))
        a.counter = differ_roll(d, d->policy.counter_count);
    return a;
}

static void some_match(struct differ *d, struct nb_match *m) {
    const uint32_t all = NB_F_IP_VERSION * 2 - 1;
    uint32_t fields = 0;
    for (uint32_t n = differ_roll(d, 4); n > 0; n--)
        fields |= 1u << differ_roll(d, 21);
    *m = (struct nb_match){.fields = fields & all,
                           .invert = one_in(d, 4) ? fields & all & differ_roll(d, all) : 0,
                           .src_set = some_set(d, NB_SET_ADDR),
                           .dst_set = some_set(d, NB_SET_ADDR),
                           .sport_set = some_set(d, NB_SET_PORT),
                           .dport_set = some_set(d, NB_SET_PORT),
                           .sport = some_range(d, 10),
                           .dport = some_range(d, 10),
                           .length = {40 + differ_roll(d, 4), 50 + differ_roll(d, 1500)},
                           .ifindex = 10 + differ_roll(d, 2),
                           .owner = one_in(d, 4) ? differ_roll(d, d->policy.owner_count) : NB_NONE,
                           .ethertype = one_in(d, 2) ? 0x0800 : 0x86dd,
                           .vlan = (uint16_t)differ_roll(d, 2),
                           .dir = (uint8_t)(1 + differ_roll(d, 3)),
                           .state = (uint8_t)(1 + differ_roll(d, 7)),
                           .proto = one_in(d, 2) ? 6 : 17,
                           .icmp_type = (uint8_t)differ_roll(d, 4),
                           .icmp_code = (uint8_t)differ_roll(d, 4),
                           .dscp = (uint8_t)differ_roll(d, 3),
                           .ip_version = one_in(d, 2) ? 4 : 6};
    m->tcp_flags_mask = (uint8_t)differ_roll(d, 64);
    m->tcp_flags = (uint8_t)(m->tcp_flags_mask & differ_roll(d, 64));
    addr_under(d, &m->src, &m->src_mask);
    addr_under(d, &m->dst, &m->dst_mask);
}

void differ_policy(struct differ *d, uint64_t seed, uint32_t rules) {
    memset(d, 0, sizeof *d);
    d->rng = seed;
    d->policy.revision = seed;
    make_sets(d);
    make_owners(d);
    make_limits(d);
    d->policy.rules = d->rules;
    d->policy.rule_count = rules;
    uint32_t more = one_in(d, 3) ? 20 : 2; /* one in so many lets later rules be asked */
    for (uint32_t i = 0; i < rules; i++) {
        struct nb_rule *r = &d->rules[i];
        *r = (struct nb_rule){.id = i, .tier = (uint8_t)(i * NB_TIER_COUNT / rules), .limit = NB_NONE};
        r->action = some_action(d, !one_in(d, more));
        if (one_in(d, 8))
            r->limit = differ_roll(d, DIFFER_LIMITS);
        some_match(d, &r->match);
    }
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++) {
        d->policy.defaults[t] = some_action(d, true);
        if (!one_in(d, 4))
            d->policy.defaults[t].verdict = NB_ALLOW;
    }
}

static void some_transport(struct differ *d, struct nb_view *v) {
    static const uint8_t protos[] = {6, 6, 17, 17, 1, 47};
    v->proto = protos[differ_roll(d, sizeof protos)];
    if (one_in(d, 12)) {
        v->parsed |= NB_PARSED_FRAGMENT;
    } else if (v->proto == 6 || v->proto == 17) {
        v->parsed |= NB_PARSED_PORTS;
        v->sport = (uint16_t)differ_roll(d, 12);
        v->dport = (uint16_t)differ_roll(d, 12);
        v->tcp_flags = v->proto == 6 ? (uint8_t)differ_roll(d, 64) : 0;
    } else if (v->proto == 1) {
        v->parsed |= NB_PARSED_ICMP;
        v->icmp_type = (uint8_t)differ_roll(d, 4);
        v->icmp_code = (uint8_t)differ_roll(d, 4);
    }
}

void differ_view(struct differ *d, struct nb_view *v) {
    memset(v, 0, sizeof *v);
    v->ifindex = 10 + differ_roll(d, 2);
    v->length = v->bytes = 40 + differ_roll(d, 30) * 50;
    v->vlan = (uint16_t)(one_in(d, 4) ? differ_roll(d, 2) : 0);
    v->dir = one_in(d, 2) ? NB_IN : NB_OUT;
    v->state = (uint8_t)(1u << differ_roll(d, 3));
    v->ethertype = 0x0806;
    if (one_in(d, 20))
        return;
    v->parsed = NB_PARSED_IP;
    v->src = some_addr(d);
    v->dst = some_addr(d);
    v->ip_version = v->src.b[0] == 0xfd ? 6 : 4;
    v->ethertype = v->ip_version == 6 ? 0x86dd : 0x0800;
    v->dscp = (uint8_t)(one_in(d, 3) ? differ_roll(d, 3) : 0);
    some_transport(d, v);
}
