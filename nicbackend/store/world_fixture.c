/* SPDX-License-Identifier: Apache-2.0
 *
 * See world_fixture.h.
 */
#include "nicbackend/store/world_fixture.h"

#include <stdlib.h>
#include <string.h>

static const struct nb_owner owners[TOY_OWNERS] = {
    {.pid = 0}, {.pid = 1}, {.pid = 2}}; /* the first stands for nobody */

uint32_t toy_roll(uint64_t *rng, uint32_t n) {
    uint64_t z = (*rng += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % n;
}

static uint32_t roll(struct toy *t, uint32_t n) {
    return toy_roll(&t->rng, n);
}

/* --- packets --------------------------------------------------------------------------------------------------- */

static struct nb_addr addr_of(uint32_t last) {
    return nb_addr_from_v4((uint8_t[]){10, 0, 0, (uint8_t)last});
}

static struct nb_view packet_of(uint32_t src, uint8_t proto) {
    return (struct nb_view){.parsed = NB_PARSED_IP,
                            .src = addr_of(src),
                            .dst = addr_of(9),
                            .ifindex = 1,
                            .length = 60,
                            .bytes = 60,
                            .ethertype = 0x0800,
                            .dir = NB_IN,
                            .ip_version = 4,
                            .proto = proto};
}

uint32_t toy_points(struct nb_view *v) {
    uint32_t n = 0;
    for (uint32_t src = 0; src < 4; src++) {
        for (uint32_t i = 0; i < 32; i++) { /* ports, TCP's flags */
            v[n] = packet_of(src, i < 16 ? 6 : 17);
            v[n].parsed |= NB_PARSED_PORTS;
            v[n].dport = (uint16_t)(i % 4);
            v[n].sport = (uint16_t)(i / 4 % 2);
            v[n].tcp_flags = i >= 16 ? 0 : i / 8 % 2 ? 0x10 : 0x02;
            v[n++].length = i % 3 ? 60 : 1000;
        }
        for (uint32_t i = 0; i < 2; i++) {
            v[n] = packet_of(src, i ? 6 : 17);
            v[n++].parsed |= NB_PARSED_FRAGMENT;
            v[n] = packet_of(src, 1);
            v[n].parsed |= NB_PARSED_ICMP;
            v[n++].icmp_type = (uint8_t)i;
        }
    }
    v[n++] = (struct nb_view){.ifindex = 1, .length = 28, .bytes = 28, .ethertype = 0x0806, .dir = NB_IN};
    return n;
}

/* --- policies -------------------------------------------------------------------------------------------------- */

static void some_match(struct toy *t, struct nb_match *m) {
    static const uint32_t fields[] = {NB_F_SRC,       NB_F_SRC,       NB_F_PROTO,     NB_F_DPORT, NB_F_DPORT,
                                      NB_F_SPORT,     NB_F_DPORT_SET, NB_F_SRC_SET,   NB_F_STATE, NB_F_TCP_FLAGS,
                                      NB_F_ICMP_TYPE, NB_F_FRAGMENT,  NB_F_LENGTH,    NB_F_DIR,   NB_F_IFINDEX,
                                      NB_F_ETHERTYPE, NB_F_DST,       NB_F_IP_VERSION};
    *m = (struct nb_match){.dir = (uint8_t)(roll(t, 6) ? NB_IN : NB_OUT),
                           .ifindex = 1 + !roll(t, 6),
                           .owner = roll(t, 5) ? NB_NONE : roll(t, 2),
                           .ethertype = roll(t, 3) ? 0x0800 : 0x0806,
                           .proto = roll(t, 2) ? 6 : 17,
                           .state = (uint8_t)(1 + roll(t, 6)),
                           .dport = {roll(t, 3), 0},
                           .sport = {roll(t, 2), 1},
                           .length = {0, 500},
                           .src_set = 0,
                           .dport_set = 1,
                           .tcp_flags_mask = 0x12,
                           .tcp_flags = 0x02,
                           .icmp_type = (uint8_t)roll(t, 2),
                           .ip_version = 4};
    m->dport.hi = m->dport.lo + roll(t, 2);
    for (uint32_t n = roll(t, 4); n > 0; n--)
        m->fields |= fields[roll(t, sizeof fields / sizeof fields[0])];
    m->invert = roll(t, 5) ? 0 : m->fields & (1u << roll(t, 21));
    m->src_mask = m->dst_mask = (struct nb_addr){
        {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, (uint8_t)(252 + roll(t, 4))}};
    m->src = addr_of(roll(t, 4) & m->src_mask.b[15]);
    m->dst = addr_of(9 & m->dst_mask.b[15]);
}

static struct nb_action some_action(struct toy *t) {
    static const uint8_t verdicts[] = {NB_DROP, NB_DROP, NB_DROP, NB_ALLOW, NB_ALLOW, NB_REJECT, NB_CONTINUE};
    return (struct nb_action){.verdict = verdicts[roll(t, sizeof verdicts)],
                              .counter = NB_NONE,
                              .flags = (uint16_t)(roll(t, 8) ? 0u : 1u << roll(t, 5))};
}

static void some_rule(struct toy *t, struct nb_rule *r, uint32_t number) {
    *r = (struct nb_rule){.id = number + 100 * (1 + roll(t, 2)), .limit = roll(t, 8) ? NB_NONE : 0};
    r->action = some_action(t);
    some_match(t, &r->match);
}

void toy_policy(struct toy *t, uint64_t seed) {
    *t = (struct toy){.rng = seed};
    t->policy = (struct nb_policy){.rules = t->rules,
                                   .rule_count = roll(t, TOY_RULES + 1),
                                   .sets = t->sets,
                                   .set_count = 2,
                                   .owners = t->matches,
                                   .owner_count = 2,
                                   .limits = &t->limit,
                                   .limit_count = 1};
    t->addrs[0] = (struct nb_addr_range){addr_of(roll(t, 2)), addr_of(2)};
    t->ports[0] = (struct nb_range){0, 0};
    t->ports[1] = (struct nb_range){2, 2 + roll(t, 2)};
    t->sets[0] = (struct nb_set){.kind = NB_SET_ADDR, .count = 1, .addrs = t->addrs};
    t->sets[1] = (struct nb_set){.kind = NB_SET_PORT, .count = 2, .ranges = t->ports};
    t->limit = (struct nb_limit){.rate = 1u << 20, .burst = 1u << 20};
    t->matches[0] = (struct nb_owner_match){.fields = NB_OWNER_PID, .pid = 1};
    t->matches[1] = (struct nb_owner_match){.fields = NB_OWNER_NOBODY};
    for (uint32_t i = 0; i < t->policy.rule_count; i++) {
        struct nb_rule *r = &t->rules[i];
        some_rule(t, r, i);
        r->tier = (uint8_t)(i * NB_TIER_COUNT / t->policy.rule_count);
    }
    for (uint32_t i = 0; i < NB_TIER_COUNT; i++)
        t->policy.defaults[i] = (struct nb_action){.verdict = roll(t, 5) ? NB_ALLOW : NB_DROP, .counter = NB_NONE};
    toy_world(t);
}

/* --- sockets --------------------------------------------------------------------------------------------------- */

static void some_cell(struct toy *t, struct nb_cell *c) {
    memset(c, 0, sizeof *c);
    c->states = (uint8_t)(1 + roll(t, 7));
    c->owner_known = roll(t, 3) != 0;
    c->owner = roll(t, TOY_OWNERS) == 0 ? NULL : &owners[1 + roll(t, TOY_OWNERS - 1)];
    c->cube.value.parsed = c->cube.mask.parsed = NB_PARSED_PORTS;
    c->cube.value.proto = roll(t, 2) ? 6 : 17;
    c->cube.mask.proto = 0xff;
    c->cube.value.dport[1] = (uint8_t)roll(t, 4);
    memset(c->cube.mask.dport, 0xff, 2);
    if (roll(t, 2)) { /* a connected one */
        struct nb_addr src = addr_of(roll(t, 4));
        memcpy(c->cube.value.src, src.b, 16);
        memset(c->cube.mask.src, 0xff, 16);
        c->cube.value.sport[1] = (uint8_t)roll(t, 2);
        memset(c->cube.mask.sport, 0xff, 2);
    }
}

void toy_world(struct toy *t) {
    t->world = (struct nb_world){.cells = t->cells, .cell_count = roll(t, TOY_CELLS + 1)};
    for (uint32_t i = 0; i < t->world.cell_count; i++)
        some_cell(t, &t->cells[i]);
    t->world.rest = (struct nb_cell){.states = (uint8_t)(roll(t, 2) ? NB_STATE_NEW : 1 + roll(t, 7)),
                                     .owner_known = roll(t, 2) != 0};
}

void toy_sockets(struct toy *t) {
    t->world = (struct nb_world){.cells = t->cells, .disjoint = true, .rest = NB_WORLD_UNKNOWN.rest};
    for (uint32_t port = 0; port < 4; port++) {
        struct nb_cell *c = &t->cells[t->world.cell_count];
        if (roll(t, 2))
            continue;
        some_cell(t, c);
        memset(c->cube.value.src, 0, sizeof c->cube.value.src + sizeof c->cube.value.dst + 2);
        memset(c->cube.mask.src, 0, sizeof c->cube.mask.src + sizeof c->cube.mask.dst + 2);
        c->states = NB_STATES_ALL;
        c->cube.value.dport[1] = (uint8_t)port;
        t->world.cell_count++;
    }
}

void toy_copy(struct toy *to, const struct toy *from) {
    *to = *from;
    to->policy.rules = to->rules;
    to->policy.sets = to->sets;
    to->policy.owners = to->matches;
    to->policy.limits = &to->limit;
    to->sets[0].addrs = to->addrs;
    to->sets[1].ranges = to->ports;
    to->world.cells = to->cells;
}

static void rule_comes(struct toy *t) {
    uint32_t at = roll(t, t->policy.rule_count + 1), n = t->policy.rule_count;
    if (n == TOY_RULES)
        return;
    memmove(&t->rules[at + 1], &t->rules[at], (n - at) * sizeof *t->rules);
    some_rule(t, &t->rules[at], 1000 + roll(t, 1000));
    t->rules[at].tier = at < n ? t->rules[at + 1].tier : NB_TIER_APP;
    t->policy.rule_count++;
}

static void rule_goes(struct toy *t, uint32_t at) {
    t->policy.rule_count--;
    memmove(&t->rules[at], &t->rules[at + 1], (t->policy.rule_count - at) * sizeof *t->rules);
}

void toy_nudge(struct toy *t) {
    uint32_t what = roll(t, 8), n = t->policy.rule_count, tier;
    if (what == 0 || n == 0)
        return rule_comes(t);
    uint32_t at = roll(t, n);
    tier = t->rules[at].tier;
    switch (what) {
    case 1:
        return rule_goes(t, at);
    case 2:
        t->policy.defaults[roll(t, NB_TIER_COUNT)].verdict = roll(t, 2) ? NB_ALLOW : NB_DROP;
        return;
    case 3:
        t->ports[1] = (struct nb_range){2, 2 + roll(t, 2)};
        return;
    case 4:
        t->rules[at].action = some_action(t);
        return;
    default:
        some_rule(t, &t->rules[at], at);
        t->rules[at].tier = (uint8_t)tier;
        return;
    }
}

/* --- what software says ---------------------------------------------------------------------------------------- */

static const struct nb_cell *cell_of(const struct toy *t, const struct nb_view *v) {
    struct nb_key key;
    nb_key_of_view(v, &key);
    for (uint32_t i = 0; i < t->world.cell_count; i++)
        if (nb_cube_has(&t->cells[i].cube, &key))
            return &t->cells[i];
    return &t->world.rest;
}

static uint64_t counted(const struct toy *t, const struct nb_meters *m) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < t->policy.rule_count; i++)
        sum += nb_meters_rule(m, i).packets;
    return sum;
}

static void judge_one(struct toy *t, struct nb_meters *m, const struct nb_view *v, const struct nb_owner *owner,
                      uint32_t point) {
    struct nb_outcome out;
    uint64_t before = counted(t, m);
    nb_interpret(&t->policy, m, v, owner, 0, &out);
    uint32_t rule = out.rule[out.tier];
    bool by_default = rule == NB_RULE_DEFAULT;
    uint64_t credit = by_default ? UINT64_MAX - out.tier : t->rules[rule].id;
    bool first = t->credit[point] == 0;
    t->alone[point] = t->alone[point] && counted(t, m) - before == !by_default && (first || t->credit[point] == credit);
    t->drops[point] = t->drops[point] && out.verdict == NB_DROP && (out.flags & (NB_ACT_LOG | NB_ACT_MIRROR)) == 0;
    t->credit[point] = credit;
}

/* All that hardware cannot see: state, owner, and whether the limit has tokens (it always has: inverting it is the
 * other case). */
static void judge_point(struct toy *t, struct nb_meters *m, struct nb_view v, uint32_t point) {
    const struct nb_cell *c = cell_of(t, &v);
    t->drops[point] = t->alone[point] = true;
    t->credit[point] = 0;
    for (uint32_t i = 0; i < 3 * TOY_OWNERS * 2; i++) {
        const struct nb_owner *owner = i % TOY_OWNERS == 0 ? NULL : &owners[i % TOY_OWNERS];
        v.state = (uint8_t)(1u << i / TOY_OWNERS % 3);
        if ((c->states & v.state) == 0 || (c->owner_known && owner != c->owner))
            continue;
        t->limit.flags = i < 3 * TOY_OWNERS ? 0 : NB_LIMIT_OVER;
        judge_one(t, m, &v, owner, point);
    }
}

void toy_judge(struct toy *t) {
    struct nb_view views[TOY_POINTS];
    struct nb_meters *m;
    uint32_t n = toy_points(views);
    if (nb_meters_create(&t->policy, &m) != 0)
        abort();
    for (uint32_t i = 0; i < n; i++)
        judge_point(t, m, views[i], i);
    t->limit.flags = 0;
    nb_meters_destroy(m);
}
