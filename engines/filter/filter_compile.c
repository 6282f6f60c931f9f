/* SPDX-License-Identifier: Apache-2.0
 *
 * The compiler: match fields become words under masks, or tests where a mask cannot say it; the sections are then laid
 * out and filled. See filter_image.h for what they mean, nicbackend/ir/rule.h for what rules mean. Control thread.
 */
#include "engines/filter/filter_compile.h"

#include <errno.h>
#include <stdlib.h>

#include "engines/filter/filter_tables.h"
#include "nicbackend/ir/interpret.h"

#define NANO      1000000000ull
#define PROTO_TCP 6u
#define SET_SPARE 16u /* members that any set may grow by */

struct list {
    void *v;
    uint32_t count, room;
};

struct build {
    const struct nb_policy *policy;
    struct list tests, cubes;
    struct filter_rule *rules;
    bool *possible;
    struct filter_words used;
    struct filter_groups groups;
    struct hash_key key;
    int err;
};

static void *list_add(struct build *b, struct list *l, size_t size) {
    if (l->count == l->room) {
        uint32_t room = l->room == 0 ? 64 : l->room * 2;
        void *more = realloc(l->v, room * size);
        if (more == NULL) {
            b->err = -ENOMEM;
            return NULL;
        }
        l->v = more;
        l->room = room;
    }
    uint8_t *at = (uint8_t *)l->v + l->count++ * size;
    memset(at, 0, size);
    return at;
}

/* ---- words ---- */

static uint64_t states_of(uint64_t dir, uint64_t state) {
    return dir << FILTER_DIR | state << FILTER_STATE;
}

static uint64_t version_of(uint8_t version) {
    return version == 4 ? 1ull << FILTER_VERSION : version == 6 ? 2ull << FILTER_VERSION : 0;
}

void filter_words_of_view(const struct nb_view *v, uint32_t owner, struct filter_words *out) {
    memcpy(&out->w[FILTER_W_SRC], &v->src, 16);
    memcpy(&out->w[FILTER_W_DST], &v->dst, 16);
    bool icmp = (v->parsed & NB_PARSED_ICMP) != 0;
    uint64_t sport = icmp ? v->icmp_type : v->sport, dport = icmp ? v->icmp_code : v->dport;
    out->w[FILTER_W_WHAT] = sport << FILTER_SPORT | dport << FILTER_DPORT | (uint64_t)v->proto << FILTER_PROTO |
                            (uint64_t)v->parsed << FILTER_PARSED | states_of(v->dir, v->state) |
                            version_of(v->ip_version);
    out->w[FILTER_W_WHOSE] = (uint64_t)owner << FILTER_OWNER | (uint64_t)v->ethertype << FILTER_ETHERTYPE |
                             (uint64_t)v->ifindex << FILTER_IFINDEX;
    out->w[FILTER_W_SHAPE] = (uint64_t)v->length << FILTER_LENGTH | (uint64_t)v->dscp << FILTER_DSCP |
                             (uint64_t)v->vlan << FILTER_VLAN | (uint64_t)v->tcp_flags << FILTER_TCP_FLAGS;
}

/* ---- matches ---- */

/* Adds a condition; false: the rule asks for two things at once that no packet is. */
static bool constrain(struct filter_words *value, struct filter_words *mask, enum filter_word w, uint64_t bits,
                      uint64_t want) {
    if ((mask->w[w] & bits & (value->w[w] ^ want)) != 0)
        return false;
    mask->w[w] |= bits;
    value->w[w] |= want & bits;
    return true;
}

static bool constrain_addr(struct filter_cube *c, enum filter_word w, const struct nb_addr *value,
                           const struct nb_addr *mask) {
    uint64_t v[2], m[2];
    memcpy(v, value, 16);
    memcpy(m, mask, 16);
    return constrain(&c->value, &c->mask, w, m[0], v[0]) && constrain(&c->value, &c->mask, w + 1, m[1], v[1]);
}

static bool number(struct filter_cube *c, enum filter_word w, uint32_t shift, uint64_t mask, uint64_t want) {
    return constrain(&c->value, &c->mask, w, mask << shift, want << shift);
}

/* One field that is a value under a mask. */
static bool cube_field(struct filter_cube *c, const struct nb_match *m, uint32_t field) {
    switch (field) {
    case NB_F_SRC:
        return constrain_addr(c, FILTER_W_SRC, &m->src, &m->src_mask);
    case NB_F_DST:
        return constrain_addr(c, FILTER_W_DST, &m->dst, &m->dst_mask);
    case NB_F_PROTO:
        return number(c, FILTER_W_WHAT, FILTER_PROTO, 0xff, m->proto);
    case NB_F_TCP_FLAGS:
        return number(c, FILTER_W_SHAPE, FILTER_TCP_FLAGS, m->tcp_flags_mask, m->tcp_flags);
    case NB_F_ICMP_TYPE:
        return number(c, FILTER_W_WHAT, FILTER_SPORT, 0xffff, m->icmp_type);
    case NB_F_ICMP_CODE:
        return number(c, FILTER_W_WHAT, FILTER_DPORT, 0xffff, m->icmp_code);
    case NB_F_DSCP:
        return number(c, FILTER_W_SHAPE, FILTER_DSCP, 0xff, m->dscp);
    case NB_F_IFINDEX:
        return number(c, FILTER_W_WHOSE, FILTER_IFINDEX, UINT32_MAX, m->ifindex);
    case NB_F_ETHERTYPE:
        return number(c, FILTER_W_WHOSE, FILTER_ETHERTYPE, 0xffff, m->ethertype);
    default:
        return number(c, FILTER_W_SHAPE, FILTER_VLAN, 0xffff, m->vlan);
    }
}

/* What a packet must have for the field to be asked at all. */
static bool need(struct filter_cube *c, uint32_t field) {
    const uint32_t ip =
        NB_F_SRC | NB_F_DST | NB_F_SRC_SET | NB_F_DST_SET | NB_F_PROTO | NB_F_DSCP | NB_F_FRAGMENT | NB_F_IP_VERSION;
    const uint32_t ports = NB_F_SPORT | NB_F_DPORT | NB_F_SPORT_SET | NB_F_DPORT_SET | NB_F_TCP_FLAGS;
    uint64_t parsed = 0;
    if ((field & ip) != 0)
        parsed = NB_PARSED_IP;
    else if ((field & ports) != 0)
        parsed = NB_PARSED_PORTS;
    else if ((field & (NB_F_ICMP_TYPE | NB_F_ICMP_CODE)) != 0)
        parsed = NB_PARSED_ICMP;
    bool ok = number(c, FILTER_W_WHAT, FILTER_PARSED, parsed, parsed);
    return field == NB_F_TCP_FLAGS ? ok && number(c, FILTER_W_WHAT, FILTER_PROTO, 0xff, PROTO_TCP) : ok;
}

static struct filter_test *test_add(struct build *b, struct filter_rule *r, enum filter_test_kind kind, bool negate) {
    struct filter_test *t = (struct filter_test *)list_add(b, &b->tests, sizeof *t);
    if (t == NULL)
        return NULL;
    t->kind = (uint8_t)kind;
    t->negate = negate;
    r->test_count++;
    return t;
}

/* A port in a range or in a set. */
static void port_test(struct build *b, struct filter_rule *r, bool negate, uint32_t shift, uint32_t set,
                      const struct nb_range *range) {
    struct filter_test *t = test_add(b, r, set != NB_NONE ? FILTER_TEST_SET : FILTER_TEST_RANGE, negate);
    if (t == NULL)
        return;
    t->word = FILTER_W_WHAT;
    t->shift = (uint8_t)shift;
    t->width_mask = UINT16_MAX;
    t->index = set;
    if (range != NULL) {
        t->lo = range->lo;
        t->hi = range->hi;
    }
    b->used.w[FILTER_W_WHAT] |= 0xffffull << shift;
}

static void length_test(struct build *b, struct filter_rule *r, bool negate, const struct nb_range *range) {
    struct filter_test *t = test_add(b, r, FILTER_TEST_RANGE, negate);
    if (t == NULL)
        return;
    t->word = FILTER_W_SHAPE;
    t->shift = FILTER_LENGTH;
    t->width_mask = UINT32_MAX;
    t->lo = range->lo;
    t->hi = range->hi;
    b->used.w[FILTER_W_SHAPE] |= UINT32_MAX;
}

static void addr_test(struct build *b, struct filter_rule *r, bool negate, enum filter_word w, uint32_t set) {
    struct filter_test *t = test_add(b, r, FILTER_TEST_ADDRS, negate);
    if (t == NULL)
        return;
    t->word = (uint8_t)w;
    t->index = set;
    b->used.w[w] = b->used.w[w + 1] = UINT64_MAX;
}

/* A single port that must be there is a value; everything else is a test. */
static bool port_field(struct build *b, struct filter_rule *r, struct filter_cube *c, uint32_t shift, bool negate,
                       const struct nb_range *range) {
    if (range->lo == range->hi && !negate)
        return number(c, FILTER_W_WHAT, shift, 0xffff, range->lo);
    port_test(b, r, negate, shift, NB_NONE, range);
    return true;
}

/* One bit a value: those that are not wanted must be zero. */
static bool one_of(struct filter_cube *c, uint32_t shift, uint64_t all, uint64_t wanted, bool negate) {
    return number(c, FILTER_W_WHAT, shift, negate ? wanted & all : all & ~wanted, 0);
}

static bool cube_test(struct build *b, struct filter_rule *r, const struct nb_match *m, uint32_t field) {
    struct filter_cube *c = (struct filter_cube *)list_add(b, &b->cubes, sizeof *c);
    struct filter_test *t = c == NULL ? NULL : test_add(b, r, FILTER_TEST_CUBE, true);
    if (t == NULL)
        return true;
    t->index = b->cubes.count - 1;
    (void)cube_field(c, m, field);
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        b->used.w[i] |= c->mask.w[i];
    return true;
}

static bool field_compile(struct build *b, struct filter_rule *r, struct filter_cube *c, const struct nb_match *m,
                          uint32_t field) {
    bool negate = (m->invert & field) != 0;
    switch (field) {
    case NB_F_DIR:
        return one_of(c, FILTER_DIR, NB_IN | NB_OUT, m->dir, negate);
    case NB_F_STATE:
        return one_of(c, FILTER_STATE, NB_STATE_RELATED * 2 - 1, m->state, negate);
    case NB_F_IP_VERSION:
        return one_of(c, FILTER_VERSION, 3, version_of(m->ip_version) >> FILTER_VERSION, negate);
    case NB_F_FRAGMENT:
        return number(c, FILTER_W_WHAT, FILTER_PARSED, NB_PARSED_FRAGMENT, negate ? 0 : NB_PARSED_FRAGMENT);
    case NB_F_SPORT:
        return port_field(b, r, c, FILTER_SPORT, negate, &m->sport);
    case NB_F_DPORT:
        return port_field(b, r, c, FILTER_DPORT, negate, &m->dport);
    case NB_F_SPORT_SET:
        port_test(b, r, negate, FILTER_SPORT, m->sport_set, NULL);
        return true;
    case NB_F_DPORT_SET:
        port_test(b, r, negate, FILTER_DPORT, m->dport_set, NULL);
        return true;
    case NB_F_SRC_SET:
        addr_test(b, r, negate, FILTER_W_SRC, m->src_set);
        return true;
    case NB_F_DST_SET:
        addr_test(b, r, negate, FILTER_W_DST, m->dst_set);
        return true;
    case NB_F_LENGTH:
        length_test(b, r, negate, &m->length);
        return true;
    default:
        return negate ? cube_test(b, r, m, field) : cube_field(c, m, field);
    }
}

static void owner_test(struct build *b, struct filter_rule *r, uint32_t owner) {
    struct filter_test *t = test_add(b, r, FILTER_TEST_OWNER, false);
    if (t == NULL)
        return;
    t->index = owner;
    b->used.w[FILTER_W_WHOSE] |= 0xffffull << FILTER_OWNER;
}

static void rule_compile(struct build *b, uint32_t n) {
    const struct nb_rule *from = &b->policy->rules[n];
    struct filter_rule *r = &b->rules[n];
    struct filter_cube c = {.value.w = {0}};
    bool possible = true;
    *r = (struct filter_rule){
        .tier = from->tier, .verdict = from->action.verdict, .limit = from->limit, .test_first = b->tests.count};
    if (from->match.owner != NB_NONE)
        owner_test(b, r, from->match.owner);
    for (uint32_t left = from->match.fields; left != 0; left &= left - 1) {
        uint32_t field = left & -left;
        possible &= need(&c, field);
        possible &= field_compile(b, r, &c, &from->match, field);
    }
    r->value = c.value;
    r->mask = c.mask;
    b->possible[n] = possible;
    for (uint32_t i = 0; i < FILTER_WORDS; i++)
        b->used.w[i] |= c.mask.w[i];
}

/* ---- layout ---- */

static const uint16_t record_size[FILTER_SEC_COUNT] = {
    [FILTER_SEC_TABLES] = sizeof(struct filter_table),      [FILTER_SEC_STARTS] = sizeof(uint32_t),
    [FILTER_SEC_ENTRIES] = sizeof(struct filter_entry),     [FILTER_SEC_RULES] = sizeof(struct filter_rule),
    [FILTER_SEC_ACTIONS] = sizeof(struct filter_action),    [FILTER_SEC_TESTS] = sizeof(struct filter_test),
    [FILTER_SEC_CUBES] = sizeof(struct filter_cube),        [FILTER_SEC_SETS] = sizeof(struct filter_set),
    [FILTER_SEC_RANGES] = sizeof(struct filter_range),      [FILTER_SEC_ADDRS] = sizeof(struct filter_addrs),
    [FILTER_SEC_LIMITS] = sizeof(struct filter_limit),      [FILTER_SEC_OWNERS] = sizeof(uint64_t),
    [FILTER_SEC_RULE_COUNTS] = sizeof(struct filter_count), [FILTER_SEC_COUNTERS] = sizeof(struct filter_count),
    [FILTER_SEC_METERS] = sizeof(struct filter_meter),      [FILTER_SEC_HEADS] = sizeof(uint32_t),
    [FILTER_SEC_BUCKETS] = sizeof(struct filter_bucket),
};

static uint32_t heads_of(const struct nb_limit *l) {
    uint32_t n = 1;
    while ((l->flags & NB_LIMIT_PER_SOURCE) != 0 && n < l->source_max)
        n *= 2;
    return n;
}

static uint32_t buckets_of(const struct nb_limit *l) {
    return (l->flags & NB_LIMIT_PER_SOURCE) != 0 ? l->source_max : 1;
}

/* Users and groups are looked at when an owner is told, never here. */
static uint32_t room_of(const struct nb_set *s) {
    return s->kind == NB_SET_ID ? 0 : s->count + s->count / 4 + SET_SPARE;
}

static void counts(const struct build *b, struct filter_image *h) {
    const struct nb_policy *p = b->policy;
    h->count[FILTER_SEC_TABLES] = b->groups.count;
    for (uint32_t i = 0; i < b->groups.count; i++) {
        h->count[FILTER_SEC_STARTS] += filter_group_buckets(&b->groups.v[i]) + 1;
        h->count[FILTER_SEC_ENTRIES] += b->groups.v[i].count;
    }
    h->count[FILTER_SEC_RULES] = h->count[FILTER_SEC_ACTIONS] = h->count[FILTER_SEC_RULE_COUNTS] = p->rule_count;
    h->count[FILTER_SEC_TESTS] = b->tests.count;
    h->count[FILTER_SEC_CUBES] = b->cubes.count;
    h->count[FILTER_SEC_SETS] = p->set_count;
    for (uint32_t i = 0; i < p->set_count; i++)
        h->count[p->sets[i].kind == NB_SET_ADDR ? FILTER_SEC_ADDRS : FILTER_SEC_RANGES] += 2 * room_of(&p->sets[i]);
    h->count[FILTER_SEC_LIMITS] = h->count[FILTER_SEC_METERS] = p->limit_count;
    h->owner_words = (p->owner_count + 63) / 64;
    h->owner_max = FILTER_OWNER_MAX;
    h->count[FILTER_SEC_OWNERS] = h->owner_words * h->owner_max;
    h->count[FILTER_SEC_COUNTERS] = p->counter_count;
    for (uint32_t i = 0; i < p->limit_count; i++) {
        h->count[FILTER_SEC_HEADS] += heads_of(&p->limits[i]);
        h->count[FILTER_SEC_BUCKETS] += buckets_of(&p->limits[i]);
    }
}

static void lay_out(struct filter_image *h) {
    uint64_t at = arena_round(sizeof *h);
    for (uint32_t s = 0; s < FILTER_SEC_COUNT; s++) {
        if (s == FILTER_SEC_OWNERS)
            h->fixed = at;
        h->at[s] = at;
        at += arena_round((uint64_t)h->count[s] * record_size[s]);
    }
    h->size = at;
}

/* ---- filling ---- */

/* A bound on the number in the place of the destination port. */
static struct nb_range dports(const struct build *b, const struct filter_rule *r) {
    struct nb_range ports = {0, UINT16_MAX};
    if ((uint16_t)(r->mask.w[FILTER_W_WHAT] >> FILTER_DPORT) == UINT16_MAX)
        ports.lo = ports.hi = (uint16_t)(r->value.w[FILTER_W_WHAT] >> FILTER_DPORT);
    const struct filter_test *t = (const struct filter_test *)b->tests.v + r->test_first;
    for (uint32_t i = 0; i < r->test_count; i++)
        if (t[i].kind == FILTER_TEST_RANGE && t[i].word == FILTER_W_WHAT && t[i].shift == FILTER_DPORT && !t[i].negate)
            ports = (struct nb_range){t[i].lo, t[i].hi};
    return ports;
}

static void fill_table(const struct build *b, struct filter_image *img, uint32_t n, uint32_t *start, uint32_t *entry) {
    const struct filter_group *g = &b->groups.v[n];
    struct filter_table *t = (struct filter_table *)filter_at(img, FILTER_SEC_TABLES) + n;
    uint32_t *starts = (uint32_t *)filter_at(img, FILTER_SEC_STARTS) + *start;
    struct filter_entry *entries = (struct filter_entry *)filter_at(img, FILTER_SEC_ENTRIES);
    uint32_t buckets = filter_group_buckets(g);
    *t = (struct filter_table){.mask = g->mask, .starts = *start, .bucket_mask = buckets - 1};
    for (uint32_t i = 0; i < FILTER_TIERS; i++)
        t->first[i] = FILTER_NONE;
    for (uint32_t i = 0; i < g->count; i++) {
        const struct filter_rule *r = &b->rules[g->rules[i]];
        starts[filter_hash(&b->key, &r->value, &g->mask) & t->bucket_mask]++;
        if (t->first[r->tier] == FILTER_NONE)
            t->first[r->tier] = g->rules[i];
    }
    uint32_t sum = *entry + g->count;
    starts[buckets] = sum;
    for (uint32_t i = buckets; i-- > 0;) { /* ends first: filled backwards they become starts */
        uint32_t count = starts[i];
        starts[i] = sum;
        sum -= count;
    }
    for (uint32_t i = g->count; i-- > 0;) {
        const struct filter_rule *r = &b->rules[g->rules[i]];
        const struct nb_range ports = dports(b, r);
        uint32_t hash = filter_hash(&b->key, &r->value, &g->mask);
        entries[--starts[hash & t->bucket_mask]] = (struct filter_entry){
            .hash = hash, .rule = g->rules[i], .lo = (uint16_t)ports.lo, .hi = (uint16_t)ports.hi};
    }
    *start += buckets + 1;
    *entry += g->count;
}

static struct filter_action action_of(const struct nb_action *a, uint64_t id) {
    return (struct filter_action){.id = id,
                                  .counter = a->counter,
                                  .mark = a->mark,
                                  .mark_mask = a->mark_mask,
                                  .class_id = a->class_id,
                                  .steer = a->steer,
                                  .flags = a->flags,
                                  .verdict = a->verdict,
                                  .reject = a->reject};
}

static void fill_actions(const struct build *b, struct filter_image *img) {
    struct filter_action *actions = (struct filter_action *)filter_at(img, FILTER_SEC_ACTIONS);
    for (uint32_t i = 0; i < b->policy->rule_count; i++) {
        actions[i] = action_of(&b->policy->rules[i].action, b->policy->rules[i].id);
        img->counting |= actions[i].counter != NB_NONE;
    }
    for (uint32_t t = 0; t < FILTER_TIERS; t++) {
        img->defaults[t] = action_of(&b->policy->defaults[t], 0);
        img->counting |= img->defaults[t].counter != NB_NONE;
    }
}

static void host_order(uint64_t ret[2], const struct nb_addr *a) {
    memcpy(ret, a, 16);
    ret[0] = __builtin_bswap64(ret[0]);
    ret[1] = __builtin_bswap64(ret[1]);
}

void filter_set_members(const struct nb_set *set, void *ret_members) {
    struct filter_addrs *addrs = (struct filter_addrs *)ret_members;
    struct filter_range *ranges = (struct filter_range *)ret_members;
    for (uint32_t i = 0; i < set->count && set->kind == NB_SET_ADDR; i++) {
        host_order(addrs[i].lo, &set->addrs[i].lo);
        host_order(addrs[i].hi, &set->addrs[i].hi);
    }
    for (uint32_t i = 0; i < set->count && set->kind != NB_SET_ADDR; i++)
        ranges[i] = (struct filter_range){set->ranges[i].lo, set->ranges[i].hi};
}

static void fill_sets(const struct build *b, struct filter_image *img) {
    struct filter_set *sets = (struct filter_set *)filter_at(img, FILTER_SEC_SETS);
    uint32_t next[2] = {0, 0};
    for (uint32_t i = 0; i < b->policy->set_count; i++) {
        const struct nb_set *s = &b->policy->sets[i];
        uint32_t addrs = s->kind == NB_SET_ADDR, base = next[addrs], room = room_of(s);
        sets[i] = (struct filter_set){
            .first = base, .count = room > 0 ? s->count : 0, .base = base, .room = room, .addrs = addrs};
        next[addrs] += 2 * room;
        if (room > 0 && addrs)
            filter_set_members(s, (struct filter_addrs *)filter_at(img, FILTER_SEC_ADDRS) + base);
        else if (room > 0)
            filter_set_members(s, (struct filter_range *)filter_at(img, FILTER_SEC_RANGES) + base);
    }
}

static void fill_limits(const struct build *b, struct filter_image *img) {
    struct filter_limit *limits = (struct filter_limit *)filter_at(img, FILTER_SEC_LIMITS);
    uint32_t head = 0, bucket = 0;
    for (uint32_t i = 0; i < b->policy->limit_count; i++) {
        const struct nb_limit *l = &b->policy->limits[i];
        limits[i] = (struct filter_limit){.rate = l->rate,
                                          .full = l->burst * NANO,
                                          .flags = l->flags,
                                          .bucket_first = bucket,
                                          .bucket_count = buckets_of(l),
                                          .head_first = head,
                                          .head_mask = heads_of(l) - 1};
        head += heads_of(l);
        bucket += buckets_of(l);
    }
}

void filter_owner_bits(const struct nb_policy *policy, const struct nb_owner *owner, uint64_t *bits) {
    memset(bits, 0, (policy->owner_count + 63) / 64 * sizeof *bits);
    for (uint32_t i = 0; i < policy->owner_count; i++)
        if (nb_owner_matches(policy, &policy->owners[i], owner))
            bits[i / 64] |= 1ull << i % 64;
}

static void fill_owners(const struct nb_policy *p, struct filter_image *img, const struct filter_owner *owners,
                        uint32_t count) {
    uint64_t *bits = (uint64_t *)filter_at(img, FILTER_SEC_OWNERS);
    if (img->owner_words == 0)
        return;
    filter_owner_bits(p, NULL, bits);
    for (uint32_t i = 0; i < count; i++)
        if (owners[i].index != 0 && owners[i].index < img->owner_max)
            filter_owner_bits(p, owners[i].owner, bits + (size_t)owners[i].index * img->owner_words);
}

static void copy_section(struct filter_image *img, enum filter_section s, const void *from) {
    if (img->count[s] != 0)
        memcpy(filter_at(img, s), from, (size_t)img->count[s] * record_size[s]);
}

static int image_make(const struct build *b, const struct filter_owner *owners, uint32_t owner_count,
                      struct filter_compiled *c) {
    struct filter_image head = {.magic = FILTER_MAGIC, .revision = b->policy->revision, .key = b->key, .used = b->used};
    counts(b, &head);
    lay_out(&head);
    c->bytes = head.at[FILTER_SEC_RULE_COUNTS];
    struct filter_image *img = calloc(1, c->bytes);
    if (img == NULL)
        return -ENOMEM;
    *img = head;
    uint32_t start = 0, entry = 0;
    for (uint32_t i = 0; i < b->groups.count; i++)
        fill_table(b, img, i, &start, &entry);
    copy_section(img, FILTER_SEC_RULES, b->rules);
    copy_section(img, FILTER_SEC_TESTS, b->tests.v);
    copy_section(img, FILTER_SEC_CUBES, b->cubes.v);
    fill_actions(b, img);
    fill_sets(b, img);
    fill_limits(b, img);
    fill_owners(b->policy, img, owners, owner_count);
    c->image = img;
    c->sum = filter_sum(0, img, img->fixed);
    c->chain_max = b->groups.chain_max;
    return 0;
}

int filter_compile(const struct nb_policy *policy, const struct filter_owner *owners, uint32_t owner_count,
                   uint64_t seed, struct filter_compiled *ret) {
    struct build b = {.policy = policy};
    b.rules = aligned_alloc(CACHE_LINE, (policy->rule_count + 1u) * sizeof *b.rules);
    b.possible = calloc(policy->rule_count + 1u, sizeof *b.possible);
    if (b.rules == NULL || b.possible == NULL)
        b.err = -ENOMEM;
    hash_key_init(&b.key, seed);
    for (uint32_t i = 0; i < policy->rule_count && b.err == 0; i++)
        rule_compile(&b, i);
    if (b.err == 0)
        b.err = filter_tables_plan(b.rules, b.possible, policy->rule_count, &b.key, &b.groups);
    if (b.err == 0)
        b.err = image_make(&b, owners, owner_count, ret);
    filter_groups_free(&b.groups);
    free(b.possible);
    free(b.rules);
    free(b.tests.v);
    free(b.cubes.v);
    return b.err;
}

void filter_compiled_free(struct filter_compiled *c) {
    free(c->image);
    *c = (struct filter_compiled){.image = NULL};
}
