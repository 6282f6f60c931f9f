/* SPDX-License-Identifier: Apache-2.0
 *
 * The canonical parse, written to be read: it is the specification, not the fast path. See view.h.
 */
#include "nicbackend/ir/view.h"

#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

#define VLAN_TAG    4
#define VLAN_DEPTH  2
#define IPV6_HEADER 40

/* The part of a packet that is still to be parsed. */
struct rest {
    const uint8_t *at;
    size_t len;
};

static uint16_t be16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void step(struct rest *r, size_t n) {
    r->at += n;
    r->len -= n;
}

static void parse_tags(struct rest *r, bool outermost, struct nb_view *v) {
    for (int i = 0; i < VLAN_DEPTH; i++) {
        if ((v->ethertype != ETHERTYPE_VLAN && v->ethertype != 0x88a8) || r->len < VLAN_TAG)
            return;
        if (i == 0 && outermost)
            v->vlan = be16(r->at) & 0xfff;
        v->ethertype = be16(r->at + 2);
        step(r, VLAN_TAG);
    }
}

static bool parse_link(const struct nb_frame *f, struct rest *r, struct nb_view *v) {
    if (f->has_vlan)
        v->vlan = f->vlan_tci & 0xfff;
    if (f->l3) {
        v->ethertype = f->ethertype;
        return true;
    }
    if (r->len < ETH_HLEN)
        return false;
    v->ethertype = be16(r->at + 12);
    step(r, ETH_HLEN);
    parse_tags(r, !f->has_vlan, v);
    return true;
}

/* Leaves `r` at what follows the header and cuts it to the IP packet. */
static bool parse_v4(struct rest *r, struct nb_view *v) {
    const uint8_t *h = r->at;
    if (r->len < 20 || h[0] >> 4 != 4)
        return false;
    size_t header = (h[0] & 15u) * 4u, total = be16(h + 2);
    if (header < 20 || total < header || total > r->len)
        return false;
    v->ip_version = 4;
    v->src = nb_addr_from_v4(h + 12);
    v->dst = nb_addr_from_v4(h + 16);
    v->dscp = h[1] >> 2;
    v->proto = h[9];
    v->length = (uint32_t)total;
    if ((be16(h + 6) & 0x3fff) != 0) /* more fragments, or an offset */
        v->parsed |= NB_PARSED_FRAGMENT;
    r->len = total;
    step(r, header);
    return true;
}

static bool is_extension(uint8_t proto) {
    return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
           proto == IPPROTO_FRAGMENT;
}

/* True when `r` stands at a transport header. */
static bool skip_extensions(struct rest *r, struct nb_view *v) {
    for (int i = 0; is_extension(v->proto); i++) {
        if (i == NB_EXTENSION_MAX || r->len < 8)
            return false;
        size_t size = v->proto == IPPROTO_FRAGMENT ? 8 : (r->at[1] + 1u) * 8u;
        if (r->len < size)
            return false;
        bool fragment = v->proto == IPPROTO_FRAGMENT && (be16(r->at + 2) & 0xfff9) != 0;
        v->proto = r->at[0];
        step(r, size);
        if (fragment) {
            v->parsed |= NB_PARSED_FRAGMENT;
            return false;
        }
    }
    return true;
}

static bool parse_v6(struct rest *r, struct nb_view *v, bool *ret_transport) {
    const uint8_t *h = r->at;
    if (r->len < IPV6_HEADER || h[0] >> 4 != 6)
        return false;
    size_t total = be16(h + 4) + (size_t)IPV6_HEADER;
    if (total > r->len)
        return false;
    v->ip_version = 6;
    memcpy(v->src.b, h + 8, 16);
    memcpy(v->dst.b, h + 24, 16);
    v->dscp = (uint8_t)(be16(h) >> 6 & 0x3f);
    v->proto = h[6];
    v->length = (uint32_t)total;
    r->len = total;
    step(r, IPV6_HEADER);
    *ret_transport = skip_extensions(r, v);
    return true;
}

/* Returns the size of the transport's fixed part, 0 when it was not parsed. */
static size_t parse_transport(const struct rest *r, struct nb_view *v) {
    static const struct {
        uint8_t proto, size;
        bool ports;
    } transports[] = {
        {IPPROTO_TCP, 20, true},  {IPPROTO_UDP, 8, true},   {IPPROTO_UDPLITE, 8, true},
        {IPPROTO_SCTP, 12, true}, {IPPROTO_ICMP, 4, false}, {IPPROTO_ICMPV6, 4, false},
    };
    for (size_t i = 0; i < sizeof transports / sizeof transports[0]; i++) {
        if (transports[i].proto != v->proto || r->len < transports[i].size)
            continue;
        if (transports[i].ports) {
            v->parsed |= NB_PARSED_PORTS;
            v->sport = be16(r->at);
            v->dport = be16(r->at + 2);
            if (v->proto == IPPROTO_TCP)
                v->tcp_flags = r->at[13];
        } else {
            v->parsed |= NB_PARSED_ICMP;
            v->icmp_type = r->at[0];
            v->icmp_code = r->at[1];
        }
        return transports[i].size;
    }
    return 0;
}

/* Headers of a TCP segment include its options; those of everything else are the fixed part. */
static uint32_t segment_length(const struct nb_frame *f, const struct rest *r, const struct nb_view *v, size_t fixed) {
    uint32_t before = (uint32_t)(v->length - r->len);
    uint32_t header = v->proto == IPPROTO_TCP && fixed != 0 ? (r->at[12] >> 4) * 4u : (uint32_t)fixed;
    uint32_t segment = before + header + f->gso_size;
    return segment < v->length ? segment : v->length;
}

void nb_view_parse(const struct nb_frame *f, struct nb_view *v) {
    struct rest r = {f->data, f->len};
    memset(v, 0, sizeof *v);
    v->ifindex = f->ifindex;
    v->dir = f->dir;
    v->state = f->state;
    if (!parse_link(f, &r, v))
        return;
    v->length = v->bytes = (uint32_t)r.len;
    bool transport = true;
    bool ip = (v->ethertype == ETHERTYPE_IP && parse_v4(&r, v)) ||
              (v->ethertype == ETHERTYPE_IPV6 && parse_v6(&r, v, &transport));
    if (!ip)
        return;
    v->parsed |= NB_PARSED_IP;
    v->bytes = v->length;
    size_t fixed = transport && (v->parsed & NB_PARSED_FRAGMENT) == 0 ? parse_transport(&r, v) : 0;
    if (f->gso_size != 0)
        v->length = segment_length(f, &r, v, fixed);
}
