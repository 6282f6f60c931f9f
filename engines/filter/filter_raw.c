/* SPDX-License-Identifier: Apache-2.0
 *
 * A frame that a program made whole, as words: no engine has parsed it, so it is parsed here, as nicbackend/ir/view.h
 * says. It is of no conversation, whatever its flags claim. Cost: about 30 ns a frame. On the shard's worker.
 */
#include "engines/filter/filter.h"

#define TAGS_MAX       2u
#define EXTENSIONS_MAX 6u
#define ETHERTYPE_QINQ 0x88a8
#define FRAGMENTED4    0x3fffu /* more to come, or an offset */
#define FRAGMENTED6    0xfff9u

/* What is left to parse. */
struct raw {
    const uint8_t *at;
    uint32_t len;  /* of the frame, later of the IP packet */
    uint32_t seen; /* of it in the head buffer */
    bool hidden;   /* something that matters is not in the head buffer */
    bool fragment;
    uint8_t version; /* of IP, 0: it is none */
    uint8_t proto, dscp;
    uint16_t ethertype, vlan;
};

/* Are `n` bytes there? */
static bool has(struct raw *r, uint32_t n) {
    if (r->len < n)
        return false;
    r->hidden |= r->seen < n;
    return r->seen >= n;
}

/* The caller has asked has(). */
static void step(struct raw *r, uint32_t n) {
    r->at += n;
    r->len -= n;
    r->seen -= n;
}

static void cut(struct raw *r, uint32_t len) {
    r->len = len;
    r->seen = r->seen < len ? r->seen : len;
}

static void parse_link(struct raw *r) {
    r->ethertype = be16_load(r->at + 12);
    step(r, ETH_LEN);
    for (uint32_t i = 0; i < TAGS_MAX; i++) {
        if ((r->ethertype != ETHERTYPE_VLAN && r->ethertype != ETHERTYPE_QINQ) || !has(r, VLAN_LEN))
            return;
        if (i == 0)
            r->vlan = be16_load(r->at) & 0xfff;
        r->ethertype = be16_load(r->at + 2);
        step(r, VLAN_LEN);
    }
}

static void parse_v4(struct raw *r, struct filter_case *c) {
    const uint8_t *h = r->at;
    if (!has(r, IP4_LEN) || h[0] >> 4 != 4)
        return;
    uint32_t header = (h[0] & 15u) * 4u, total = be16_load(h + 2);
    if (header < IP4_LEN || total < header || total > r->len || !has(r, header))
        return;
    const struct ipaddr src = ipaddr_from_v4(h + 12), dst = ipaddr_from_v4(h + 16);
    filter_case_addrs(c, &src, &dst);
    r->version = 4;
    r->dscp = h[1] >> 2;
    r->proto = h[9];
    r->fragment = (be16_load(h + 6) & FRAGMENTED4) != 0;
    c->bytes = total;
    cut(r, total);
    step(r, header);
}

static bool is_extension(uint8_t proto) {
    return proto == 0 || proto == 43 || proto == PROTO_FRAGMENT6 || proto == 60;
}

static void skip_extensions(struct raw *r) {
    for (uint32_t i = 0; i < EXTENSIONS_MAX && is_extension(r->proto) && !r->fragment && has(r, 8); i++) {
        uint32_t size = r->proto == PROTO_FRAGMENT6 ? 8 : (r->at[1] + 1u) * 8u;
        if (!has(r, size))
            return;
        r->fragment = r->proto == PROTO_FRAGMENT6 && (be16_load(r->at + 2) & FRAGMENTED6) != 0;
        r->proto = r->at[0];
        step(r, size);
    }
}

static void parse_v6(struct raw *r, struct filter_case *c) {
    const uint8_t *h = r->at;
    if (!has(r, IP6_LEN) || h[0] >> 4 != 6 || be16_load(h + 4) + IP6_LEN > r->len)
        return;
    const struct ipaddr src = ipaddr_from_v6(h + 8), dst = ipaddr_from_v6(h + 24);
    filter_case_addrs(c, &src, &dst);
    r->version = 6;
    r->dscp = (uint8_t)(be16_load(h) >> 6 & 0x3f);
    r->proto = h[6];
    c->bytes = be16_load(h + 4) + IP6_LEN;
    cut(r, c->bytes);
    step(r, IP6_LEN);
    skip_extensions(r);
}

bool filter_raw_case(const struct pkt *p, uint32_t ifindex, ns_t now, struct filter_case *c) {
    struct raw r = {.at = p->data, .len = pkt_bytes(p), .seen = p->len};
    *c = (struct filter_case){.now = now};
    if (!has(&r, ETH_LEN))
        return false;
    parse_link(&r);
    c->bytes = r.len;
    if (r.ethertype == ETHERTYPE_IP4)
        parse_v4(&r, c);
    else if (r.ethertype == ETHERTYPE_IP6)
        parse_v6(&r, c);
    struct filter_transport t = {.what = 0};
    if (r.version != 0 && r.fragment)
        t.what = (uint64_t)r.proto << FILTER_PROTO | (uint64_t)(FILTER_HAS_IP | FILTER_IS_FRAGMENT) << FILTER_PARSED;
    else if (r.version != 0) {
        (void)has(&r, filter_transport_size(r.proto));
        t = filter_transport_parse(r.proto, r.at, r.seen);
    }
    c->words.w[FILTER_W_WHAT] = t.what | (uint64_t)FILTER_OUT << FILTER_DIR | (uint64_t)FILTER_NEW << FILTER_STATE;
    if (r.version != 0)
        c->words.w[FILTER_W_WHAT] |= (r.version == 4 ? 1ull : 2ull) << FILTER_VERSION;
    c->words.w[FILTER_W_WHOSE] =
        (p->owner & 0xffffu) | (uint64_t)r.ethertype << FILTER_ETHERTYPE | (uint64_t)ifindex << FILTER_IFINDEX;
    c->words.w[FILTER_W_SHAPE] = c->bytes | (uint64_t)r.dscp << FILTER_DSCP | (uint64_t)r.vlan << FILTER_VLAN |
                                 (uint64_t)t.tcp_flags << FILTER_TCP_FLAGS;
    return !r.hidden;
}
