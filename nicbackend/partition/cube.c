/* SPDX-License-Identifier: Apache-2.0
 *
 * See cube.h.
 */
#include "nicbackend/partition/cube.h"

#include <errno.h>
#include <string.h>

static const struct {
    uint8_t at, size;
    uint8_t needs; /* what of the parse a device that matches it has seen */
} fields[NB_KEY_COUNT] = {
    [NB_KEY_SRC] = {offsetof(struct nb_key, src), 16, NB_PARSED_IP},
    [NB_KEY_DST] = {offsetof(struct nb_key, dst), 16, NB_PARSED_IP},
    [NB_KEY_SPORT] = {offsetof(struct nb_key, sport), 2, NB_PARSED_IP | NB_PARSED_PORTS},
    [NB_KEY_DPORT] = {offsetof(struct nb_key, dport), 2, NB_PARSED_IP | NB_PARSED_PORTS},
    [NB_KEY_PROTO] = {offsetof(struct nb_key, proto), 1, NB_PARSED_IP},
    [NB_KEY_PARSED] = {offsetof(struct nb_key, parsed), 1, 0},
    [NB_KEY_IP_VERSION] = {offsetof(struct nb_key, ip_version), 1, NB_PARSED_IP},
    [NB_KEY_DSCP] = {offsetof(struct nb_key, dscp), 1, NB_PARSED_IP},
    [NB_KEY_TCP_FLAGS] = {offsetof(struct nb_key, tcp_flags), 1, NB_PARSED_IP | NB_PARSED_PORTS},
    [NB_KEY_ICMP_TYPE] = {offsetof(struct nb_key, icmp_type), 1, NB_PARSED_IP | NB_PARSED_ICMP},
    [NB_KEY_ICMP_CODE] = {offsetof(struct nb_key, icmp_code), 1, NB_PARSED_IP | NB_PARSED_ICMP},
    [NB_KEY_VLAN] = {offsetof(struct nb_key, vlan), 2, 0},
    [NB_KEY_ETHERTYPE] = {offsetof(struct nb_key, ethertype), 2, 0},
};

static void put16(uint8_t *to, uint16_t v) {
    to[0] = (uint8_t)(v >> 8);
    to[1] = (uint8_t)v;
}

void nb_key_of_view(const struct nb_view *v, struct nb_key *k) {
    memset(k, 0, sizeof *k);
    memcpy(k->src, v->src.b, 16);
    memcpy(k->dst, v->dst.b, 16);
    put16(k->sport, v->sport);
    put16(k->dport, v->dport);
    put16(k->vlan, v->vlan);
    put16(k->ethertype, v->ethertype);
    k->proto = v->proto;
    k->parsed = v->parsed;
    k->ip_version = v->ip_version;
    k->dscp = v->dscp;
    k->tcp_flags = v->tcp_flags;
    k->icmp_type = v->icmp_type;
    k->icmp_code = v->icmp_code;
}

bool nb_cube_has(const struct nb_cube *c, const struct nb_key *key) {
    uint64_t differ = 0;
    for (int i = 0; i < 6; i++)
        differ |= (key->words[i] & c->mask.words[i]) ^ c->value.words[i];
    return differ == 0;
}

bool nb_cube_overlaps(const struct nb_cube *a, const struct nb_cube *b) {
    static const uint8_t order[6] = {4, 1, 3, 0, 2, 5}; /* where rules differ most: ports, then low address words */
    for (int i = 0; i < 6; i++) {
        uint8_t w = order[i];
        if (((a->value.words[w] ^ b->value.words[w]) & a->mask.words[w] & b->mask.words[w]) != 0)
            return false;
    }
    return true;
}

bool nb_cube_contains(const struct nb_cube *a, const struct nb_cube *b) {
    for (int i = 0; i < 6; i++) {
        uint64_t m = a->mask.words[i];
        if ((m & ~b->mask.words[i]) != 0 || ((a->value.words[i] ^ b->value.words[i]) & m) != 0)
            return false;
    }
    return true;
}

bool nb_cube_equal(const struct nb_cube *a, const struct nb_cube *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

bool nb_cube_meet(const struct nb_cube *a, const struct nb_cube *b, struct nb_cube *ret) {
    if (!nb_cube_overlaps(a, b))
        return false;
    struct nb_cube c;
    for (int i = 0; i < 6; i++) {
        c.value.words[i] = a->value.words[i] | b->value.words[i];
        c.mask.words[i] = a->mask.words[i] | b->mask.words[i];
    }
    *ret = c;
    return true;
}

int nb_cube_subtract(const struct nb_cube *a, const struct nb_cube *b, struct nb_cube *ret, int max) {
    int n = 0;
    struct nb_cube rest = *a;
    if (!nb_cube_overlaps(a, b)) {
        if (max < 1)
            return -ENOSPC;
        ret[0] = *a;
        return 1;
    }
    /* Bit by bit: the part of the rest that differs from `b` here goes out, the part that agrees goes on. */
    for (uint32_t bit = 0; bit < sizeof rest.mask.bytes * 8; bit++) {
        uint32_t at = bit / 8;
        uint8_t one = (uint8_t)(0x80 >> bit % 8);
        if ((b->mask.bytes[at] & ~rest.mask.bytes[at] & one) == 0)
            continue;
        if (n == max)
            return -ENOSPC;
        rest.mask.bytes[at] |= one;
        ret[n] = rest;
        ret[n].value.bytes[at] |= (uint8_t)(~b->value.bytes[at] & one);
        rest.value.bytes[at] |= (uint8_t)(b->value.bytes[at] & one);
        n++;
    }
    return n;
}

uint8_t *nb_key_field(struct nb_key *key, enum nb_key_field field, uint32_t *ret_size) {
    *ret_size = fields[field].size;
    return key->bytes + fields[field].at;
}

static bool looks_at(const struct nb_cube *c, int field) {
    for (uint32_t i = 0; i < fields[field].size; i++)
        if (c->mask.bytes[fields[field].at + i] != 0)
            return true;
    return false;
}

uint32_t nb_cube_fields(const struct nb_cube *c) {
    uint32_t n = 0;
    for (int f = 0; f < NB_KEY_COUNT; f++)
        n += f != NB_KEY_PARSED && looks_at(c, f);
    return n;
}

/* The leading ones of a mask, in bits; the rest of it is to be zero for a prefix. */
static uint32_t leading_ones(const uint8_t *mask, uint32_t size) {
    uint32_t n = 0;
    while (n < size * 8 && (mask[n / 8] & (0x80 >> n % 8)) != 0)
        n++;
    return n;
}

static uint32_t ones(const uint8_t *mask, uint32_t size) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < size; i++)
        n += (uint32_t)__builtin_popcount(mask[i]);
    return n;
}

static uint32_t field_bits(int field) {
    return field == NB_KEY_DSCP ? 6 : fields[field].size * 8u;
}

static bool field_exact(const uint8_t *mask, int field, uint8_t kind) {
    uint32_t size = fields[field].size, n = ones(mask, size);
    if (n == 0 || kind == NB_MATCH_MASK)
        return true;
    if (kind == NB_MATCH_NONE)
        return false;
    if (field == NB_KEY_DSCP || kind == NB_MATCH_EXACT)
        return n == field_bits(field);
    return leading_ones(mask, size) == n;
}

/* What a device that cannot look at the parse itself has seen when it matches these fields. */
static uint8_t implied(const struct nb_cube *c, const struct nb_caps *caps) {
    uint8_t seen = 0;
    for (int f = 0; f < NB_KEY_COUNT; f++)
        if (caps->match[f] != NB_MATCH_NONE && looks_at(c, f))
            seen |= fields[f].needs;
    if (caps->frag_ports)
        seen &= (uint8_t) ~(NB_PARSED_PORTS | NB_PARSED_ICMP);
    return seen;
}

bool nb_cube_exact(const struct nb_cube *c, const struct nb_caps *caps) {
    for (int f = 0; f < NB_KEY_COUNT; f++)
        if (f != NB_KEY_PARSED && !field_exact(c->mask.bytes + fields[f].at, f, caps->match[f]))
            return false;
    if (caps->match[NB_KEY_PARSED] != NB_MATCH_NONE)
        return true;
    return (c->mask.parsed & ~(implied(c, caps) & c->value.parsed)) == 0;
}

static void field_widen(struct nb_cube *c, int field, uint8_t kind) {
    uint8_t *value = c->value.bytes + fields[field].at, *mask = c->mask.bytes + fields[field].at;
    uint32_t size = fields[field].size;
    if (field_exact(mask, field, kind))
        return;
    uint32_t keep = kind == NB_MATCH_PREFIX && field != NB_KEY_DSCP ? leading_ones(mask, size) : 0;
    for (uint32_t bit = keep; bit < size * 8; bit++)
        mask[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
    for (uint32_t i = 0; i < size; i++)
        value[i] &= mask[i];
}

void nb_cube_widen(struct nb_cube *c, const struct nb_caps *caps) {
    for (int f = 0; f < NB_KEY_COUNT; f++)
        if (f != NB_KEY_PARSED)
            field_widen(c, f, caps->match[f]);
    if (caps->match[NB_KEY_PARSED] == NB_MATCH_NONE) {
        c->mask.parsed &= (uint8_t)(c->value.parsed & implied(c, caps));
        c->value.parsed &= c->mask.parsed;
    }
}
