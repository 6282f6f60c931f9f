/* SPDX-License-Identifier: Apache-2.0
 *
 * Which tuples a packet needs to ask: by destination port and by source prefix. A bit too many costs a lookup, one too
 * few would lose a rule, so bits are set before their rule comes. Thread: control only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "nicbackend/xdp/rules_internal.h"

static int config_write(struct nb_rules *r) {
    uint32_t zero = 0;
    return bpf_map_update_elem(r->map[RULES_MAP_CONFIG], &zero, &r->prune.config, BPF_ANY) < 0 ? -errno : 0;
}

static int any_set(struct nb_rules *r, __u64 *bits, uint64_t bit) {
    if ((*bits & bit) != 0)
        return 0;
    *bits |= bit;
    return config_write(r);
}

/* --- ports ----------------------------------------------------------------------------------------------------- */

static int port_set(struct nb_rules *r, uint32_t port, uint64_t bits) {
    if (r->prune.ports[port] == bits)
        return 0;
    if (bpf_map_update_elem(r->map[RULES_MAP_PORTS], &port, &bits, BPF_ANY) < 0)
        return -errno;
    r->prune.ports[port] = bits;
    return 0;
}

static int port_add(struct nb_rules *r, const struct nb_cube *c, uint64_t bit) {
    if (c->mask.dport[0] != 0xff || c->mask.dport[1] != 0xff)
        return any_set(r, &r->prune.config.any_port, bit);
    uint32_t port = (uint32_t)c->value.dport[0] << 8 | c->value.dport[1];
    return port_set(r, port, r->prune.ports[port] | bit);
}

/* --- source prefixes ------------------------------------------------------------------------------------------- */

static int prefix_order(const struct rule_source *a, const struct rule_source *b) {
    int order = memcmp(a->addr, b->addr, sizeof a->addr);
    return order != 0 ? order : (a->bits > b->bits) - (a->bits < b->bits);
}

/* Where it is, or belongs. */
static uint32_t source_at(const struct rules_prune *p, const struct rule_source *prefix) {
    uint32_t lo = 0, hi = p->source_count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (prefix_order(&p->sources[mid].prefix, prefix) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct rules_source *source_find(const struct rules_prune *p, const struct rule_source *prefix) {
    uint32_t at = source_at(p, prefix);
    return at < p->source_count && prefix_order(&p->sources[at].prefix, prefix) == 0 ? &p->sources[at] : NULL;
}

static struct rule_source shortened(const struct rule_source *prefix, uint32_t bits) {
    struct rule_source s = {.bits = bits};
    memcpy(s.addr, prefix->addr, bits / 8);
    if (bits % 8 != 0)
        s.addr[bits / 8] = (uint8_t)(prefix->addr[bits / 8] & 0xff << (8 - bits % 8));
    return s;
}

static bool contains(const struct rule_source *outer, const struct rule_source *inner) {
    if (outer->bits > inner->bits)
        return false;
    struct rule_source s = shortened(inner, outer->bits);
    return memcmp(s.addr, outer->addr, sizeof s.addr) == 0;
}

static uint64_t inherited(const struct rules_prune *p, const struct rule_source *prefix) {
    uint64_t bits = 0;
    for (uint32_t length = 1; length < prefix->bits; length++) {
        if (p->lengths[length] == 0)
            continue;
        const struct rule_source outer = shortened(prefix, length);
        const struct rules_source *s = source_find(p, &outer);
        bits |= s != NULL ? s->own : 0;
    }
    return bits;
}

static int source_insert(struct rules_prune *p, const struct rule_source *prefix, struct rules_source **ret) {
    if (p->source_count == RULES_SOURCES)
        return -ENOSPC;
    if (p->source_count == p->source_size) {
        uint32_t size = p->source_size == 0 ? 64 : p->source_size * 2;
        struct rules_source *v = realloc(p->sources, size * sizeof *v);
        if (v == NULL)
            return -ENOMEM;
        p->sources = v;
        p->source_size = size;
    }
    uint32_t at = source_at(p, prefix);
    memmove(&p->sources[at + 1], &p->sources[at], (p->source_count - at) * sizeof *p->sources);
    p->sources[at] = (struct rules_source){.prefix = *prefix};
    p->source_count++;
    p->lengths[prefix->bits]++;
    *ret = &p->sources[at];
    return 0;
}

static int source_write(struct nb_rules *r, struct rules_source *s, uint64_t bits) {
    if (s->all == bits)
        return 0;
    if (bpf_map_update_elem(r->map[RULES_MAP_SOURCES], &s->prefix, &bits, BPF_ANY) < 0)
        return -errno;
    s->all = bits;
    return 0;
}

static uint32_t mask_length(const uint8_t *mask) {
    uint32_t n = 0, ones = 0;
    while (n < 128 && (mask[n / 8] & (0x80 >> n % 8)) != 0)
        n++;
    for (int i = 0; i < 16; i++)
        ones += (uint32_t)__builtin_popcount(mask[i]);
    return ones == n ? n : 0;
}

/* The prefix gets the bit, and so do all inside it, which stand right behind it. */
static int source_add(struct nb_rules *r, const struct nb_cube *c, uint64_t bit) {
    struct rules_prune *p = &r->prune;
    struct rule_source prefix = {.bits = mask_length(c->mask.src)};
    if (prefix.bits == 0)
        return any_set(r, &p->config.any_source, bit);
    memcpy(prefix.addr, c->value.src, sizeof prefix.addr);
    struct rules_source *s = source_find(p, &prefix);
    int error = s == NULL ? source_insert(p, &prefix, &s) : 0;
    if (error != 0 || (s->own & bit) != 0)
        return error;
    error = source_write(r, s, s->all | inherited(p, &prefix) | bit);
    for (struct rules_source *in = s + 1;
         error == 0 && in < p->sources + p->source_count && contains(&prefix, &in->prefix); in++)
        error = source_write(r, in, in->all | bit);
    if (error == 0)
        s->own |= bit;
    return error;
}

/* --- both ------------------------------------------------------------------------------------------------------ */

int rules_prune_add(struct nb_rules *r, uint32_t tuple, const struct nb_cube *cube) {
    uint64_t bit = 1ull << tuple;
    int error = port_add(r, cube, bit);
    return error != 0 ? error : source_add(r, cube, bit);
}

/* Bits that cannot be taken away only cost time. */
void rules_prune_clear(struct nb_rules *r, uint32_t tuple) {
    struct rules_prune *p = &r->prune;
    uint64_t bit = 1ull << tuple;
    uint32_t kept = 0;
    for (uint32_t port = 0; port < 65536; port++)
        if ((p->ports[port] & bit) != 0)
            (void)port_set(r, port, p->ports[port] & ~bit);
    for (uint32_t i = 0; i < p->source_count; i++) {
        struct rules_source *s = &p->sources[i];
        s->own &= ~bit;
        (void)source_write(r, s, s->all & ~bit);
        bool empty = s->own == 0 && bpf_map_delete_elem(r->map[RULES_MAP_SOURCES], &s->prefix) == 0;
        p->lengths[s->prefix.bits] -= empty;
        if (!empty)
            p->sources[kept++] = *s;
    }
    p->source_count = kept;
    p->config.any_port &= ~bit;
    p->config.any_source &= ~bit;
    (void)config_write(r);
}
