/* SPDX-License-Identifier: Apache-2.0
 *
 * See expand.h. Field by field: each gives alternatives, and the cubes so far are multiplied by them. A range of w bits
 * becomes at most 2w - 2 prefixes.
 */
#include "nicbackend/partition/expand.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 wide;

/* The alternatives of one field: each cube looks at that field alone (and at the parse). */
struct alternatives {
    struct nb_cubes cubes;
    enum nb_key_field field;
    uint8_t needs; /* enum nb_parsed: without it the field does not match, inverted or not */
    uint32_t max;
    int error; /* -ENOSPC: more than max */
};

static void cubes_add(struct nb_cubes *c, const struct nb_cube *cube, uint32_t max, int *error) {
    if (*error == 0 && c->count == max)
        *error = -ENOSPC;
    if (*error != 0)
        return;
    if (c->count == c->size) {
        uint32_t size = c->size == 0 ? 8 : c->size * 2;
        struct nb_cube *v = realloc(c->v, size * sizeof *v);
        if (v == NULL) {
            *error = -ENOMEM;
            return;
        }
        c->v = v;
        c->size = size;
    }
    c->v[c->count++] = *cube;
}

static wide wide_of(const uint8_t *b, uint32_t size) {
    wide v = 0;
    for (uint32_t i = 0; i < size; i++)
        v = v << 8 | b[i];
    return v;
}

static void wide_put(uint8_t *b, uint32_t size, wide v) {
    for (uint32_t i = size; i-- > 0; v >>= 8)
        b[i] = (uint8_t)v;
}

static void add_masked(struct alternatives *a, wide value, wide mask) {
    struct nb_cube c;
    uint32_t size;
    memset(&c, 0, sizeof c);
    c.value.parsed = c.mask.parsed = a->needs;
    uint8_t *m = nb_key_field(&c.mask, a->field, &size), *v = nb_key_field(&c.value, a->field, &size);
    if (a->field == NB_KEY_PARSED) {
        *v |= (uint8_t)value;
        *m |= (uint8_t)mask;
    } else {
        wide_put(v, size, value & mask);
        wide_put(m, size, mask);
    }
    cubes_add(&a->cubes, &c, a->max, &a->error);
}

static wide field_full(enum nb_key_field field) {
    struct nb_key k;
    uint32_t size;
    (void)nb_key_field(&k, field, &size);
    return size == 16 ? ~(wide)0 : ((wide)1 << size * 8) - 1;
}

/* lo to hi, both included, as prefixes from the left. */
static void add_range(struct alternatives *a, wide lo, wide hi) {
    const wide full = field_full(a->field);
    while (a->error == 0) {
        wide size = lo == 0 ? full : (lo & -lo) - 1; /* the largest block that begins here, less one */
        while (size > hi - lo)
            size >>= 1;
        add_masked(a, lo, full & ~size);
        if (lo + size == hi)
            return;
        lo += size + 1;
    }
}

/* Differs from `value` under `mask`: at one bit, and agrees at those before it. */
static void add_other(struct alternatives *a, wide value, wide mask) {
    wide seen = 0;
    for (int bit = 127; bit >= 0; bit--) {
        wide one = (wide)1 << bit;
        if ((mask & one) == 0)
            continue;
        seen |= one;
        add_masked(a, (value & seen) ^ one, seen);
    }
}

static void add_value(struct alternatives *a, wide value, wide mask, bool invert) {
    if (invert)
        add_other(a, value, mask);
    else
        add_masked(a, value, mask);
}

static void member(const struct nb_set *s, uint32_t i, wide *lo, wide *hi) {
    if (s->kind == NB_SET_ADDR) {
        *lo = wide_of(s->addrs[i].lo.b, 16);
        *hi = wide_of(s->addrs[i].hi.b, 16);
    } else {
        *lo = s->ranges[i].lo;
        *hi = s->ranges[i].hi;
    }
}

/* Sets are sorted and disjoint: what is not in them are the gaps. */
static void add_set(struct alternatives *a, const struct nb_set *s, bool invert) {
    const wide full = field_full(a->field);
    wide gap = 0, lo, hi = 0;
    bool end = false;
    for (uint32_t i = 0; i < s->count && a->error == 0; i++) {
        member(s, i, &lo, &hi);
        if (!invert)
            add_range(a, lo, hi);
        else if (lo > gap)
            add_range(a, gap, lo - 1);
        end = hi == full;
        gap = hi + 1;
    }
    if (invert && !end && a->error == 0)
        add_range(a, gap, full);
}

static void add_ports(struct alternatives *a, const struct nb_range *r, bool invert) {
    struct nb_range one = *r;
    add_set(a, &(struct nb_set){.kind = NB_SET_PORT, .count = 1, .ranges = &one}, invert);
}

static void add_addr(struct alternatives *a, const struct nb_addr *value, const struct nb_addr *mask, bool invert) {
    add_value(a, wide_of(value->b, 16), wide_of(mask->b, 16), invert);
}

/* --- fields ---------------------------------------------------------------------------------------------------- */

static const struct {
    uint32_t match;
    enum nb_key_field key;
    uint8_t needs;
} visible[] = {
    {NB_F_ETHERTYPE, NB_KEY_ETHERTYPE, 0},
    {NB_F_VLAN, NB_KEY_VLAN, 0},
    {NB_F_IP_VERSION, NB_KEY_IP_VERSION, NB_PARSED_IP},
    {NB_F_PROTO, NB_KEY_PROTO, NB_PARSED_IP},
    {NB_F_DSCP, NB_KEY_DSCP, NB_PARSED_IP},
    {NB_F_FRAGMENT, NB_KEY_PARSED, NB_PARSED_IP},
    {NB_F_SRC, NB_KEY_SRC, NB_PARSED_IP},
    {NB_F_DST, NB_KEY_DST, NB_PARSED_IP},
    {NB_F_SPORT, NB_KEY_SPORT, NB_PARSED_PORTS},
    {NB_F_DPORT, NB_KEY_DPORT, NB_PARSED_PORTS},
    {NB_F_TCP_FLAGS, NB_KEY_TCP_FLAGS, NB_PARSED_PORTS},
    {NB_F_ICMP_TYPE, NB_KEY_ICMP_TYPE, NB_PARSED_ICMP},
    {NB_F_ICMP_CODE, NB_KEY_ICMP_CODE, NB_PARSED_ICMP},
    {NB_F_SRC_SET, NB_KEY_SRC, NB_PARSED_IP},
    {NB_F_DST_SET, NB_KEY_DST, NB_PARSED_IP},
    {NB_F_SPORT_SET, NB_KEY_SPORT, NB_PARSED_PORTS},
    {NB_F_DPORT_SET, NB_KEY_DPORT, NB_PARSED_PORTS},
};

static void add_scalar(struct alternatives *a, const struct nb_match *m, uint32_t field, bool invert) {
    switch (field) {
    case NB_F_ETHERTYPE:
        return add_value(a, m->ethertype, 0xffff, invert);
    case NB_F_VLAN:
        return add_value(a, m->vlan, 0xffff, invert);
    case NB_F_IP_VERSION:
        return add_value(a, m->ip_version, 0xff, invert);
    case NB_F_PROTO:
        return add_value(a, m->proto, 0xff, invert);
    case NB_F_DSCP:
        return add_value(a, m->dscp, 0xff, invert);
    case NB_F_FRAGMENT:
        return add_value(a, NB_PARSED_FRAGMENT, NB_PARSED_FRAGMENT, invert);
    case NB_F_TCP_FLAGS:
        return add_value(a, m->tcp_flags, m->tcp_flags_mask, invert);
    case NB_F_ICMP_TYPE:
        return add_value(a, m->icmp_type, 0xff, invert);
    default:
        return add_value(a, m->icmp_code, 0xff, invert);
    }
}

static void add_field(struct alternatives *a, const struct nb_policy *p, const struct nb_match *m, uint32_t field) {
    bool invert = (m->invert & field) != 0;
    switch (field) {
    case NB_F_SRC:
        return add_addr(a, &m->src, &m->src_mask, invert);
    case NB_F_DST:
        return add_addr(a, &m->dst, &m->dst_mask, invert);
    case NB_F_SPORT:
        return add_ports(a, &m->sport, invert);
    case NB_F_DPORT:
        return add_ports(a, &m->dport, invert);
    case NB_F_SRC_SET:
        return add_set(a, &p->sets[m->src_set], invert);
    case NB_F_DST_SET:
        return add_set(a, &p->sets[m->dst_set], invert);
    case NB_F_SPORT_SET:
        return add_set(a, &p->sets[m->sport_set], invert);
    case NB_F_DPORT_SET:
        return add_set(a, &p->sets[m->dport_set], invert);
    default:
        return add_scalar(a, m, field, invert);
    }
}

/* Two fields of a match can say the same twice (an address and a set): what they have in common is left. */
static int multiply(struct nb_cubes *c, const struct nb_cubes *by, uint32_t max) {
    struct nb_cubes product = {NULL, 0, 0};
    struct nb_cube one;
    int error = 0;
    for (uint32_t i = 0; i < c->count && error == 0; i++)
        for (uint32_t k = 0; k < by->count && error == 0; k++)
            if (nb_cube_meet(&c->v[i], &by->v[k], &one))
                cubes_add(&product, &one, max, &error);
    if (error != 0) {
        free(product.v);
        return error;
    }
    free(c->v);
    *c = product;
    return 0;
}

static int expand_field(const struct nb_policy *p, const struct nb_match *m, size_t which, uint32_t max,
                        struct nb_cubes *cubes) {
    struct alternatives a = {.field = visible[which].key, .needs = visible[which].needs, .max = max};
    add_field(&a, p, m, visible[which].match);
    int error = a.error != 0 ? a.error : multiply(cubes, &a.cubes, max);
    free(a.cubes.v);
    return error;
}

int nb_expand(const struct nb_policy *p, const struct nb_match *m, uint32_t max, struct nb_cubes *ret_cubes,
              bool *ret_wide) {
    struct nb_cubes cubes = {NULL, 0, 0};
    struct nb_cube all;
    int error = 0;
    memset(&all, 0, sizeof all);
    if ((m->fields & NB_F_TCP_FLAGS) != 0) { /* only TCP has them */
        all.value.proto = 6;
        all.mask.proto = 0xff;
    }
    *ret_wide = false;
    cubes_add(&cubes, &all, 1, &error);
    for (size_t i = 0; i < sizeof visible / sizeof visible[0] && error == 0; i++) {
        if ((m->fields & visible[i].match) == 0)
            continue;
        error = expand_field(p, m, i, max, &cubes);
        if (error == -ENOSPC) {
            *ret_wide = true;
            error = 0;
        }
    }
    if (error != 0) {
        free(cubes.v);
        return error;
    }
    *ret_cubes = cubes;
    return 0;
}
