/* SPDX-License-Identifier: Apache-2.0
 *
 * See flow.h. One step for each part of the rule, in the order of a table. A step narrows the flow, or ends the matter.
 */
#include "nicbackend/flow/flow.h"

#include <netinet/in.h>
#include <string.h>

struct making {
    const struct nb_key *value, *mask; /* the rule's */
    struct nb_cube *flow;
    const struct nb_flow_traits *traits;
    uint8_t version;
    bool drop;
    int proto; /* the one protocol of the rule, -1 = any or several */
};

bool nb_flow_has_ports(uint8_t proto) {
    return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP;
}

static bool parses_ports(int proto) {
    return proto == IPPROTO_UDPLITE || (proto >= 0 && nb_flow_has_ports((uint8_t)proto));
}

static bool parses_icmp(int proto) {
    return proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6;
}

static bool is_extension(int proto) {
    return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS ||
           proto == IPPROTO_FRAGMENT;
}

static bool any(const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != 0)
            return true;
    return false;
}

static bool agrees(const uint8_t *want, const uint8_t *value, const uint8_t *mask, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (((want[i] ^ value[i]) & mask[i]) != 0)
            return false;
    return true;
}

/* What cannot be said: a punt is widened, a drop is left out. */
static bool unsaid(const struct making *m) {
    return !m->drop;
}

/* --- the steps: false ends the matter -------------------------------------------------------------------------- */

static bool link_step(struct making *m) {
    const uint8_t untagged[2] = {0, 0};
    const uint8_t type[2] = {m->version == 4 ? 0x08 : 0x86, m->version == 4 ? 0x00 : 0xdd};
    if (!agrees(&m->version, &m->value->ip_version, &m->mask->ip_version, 1))
        return false;
    m->flow->value.ip_version = m->version;
    m->flow->mask.ip_version = 0xff;
    return agrees(type, m->value->ethertype, m->mask->ethertype, 2) &&
           agrees(untagged, m->value->vlan, m->mask->vlan, 2);
}

static bool address(const struct making *m, const uint8_t *value, const uint8_t *mask, uint8_t *to, uint8_t *to_mask) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    bool could_be_mapped = agrees(mapped, value, mask, 12);
    bool is_mapped = could_be_mapped && memcmp(mapped, value, 12) == 0 && mask[11] == 0xff && mask[10] == 0xff;
    if (m->version == 4 ? !could_be_mapped : is_mapped)
        return false;
    uint32_t from = m->version == 4 ? 12 : 0;
    memcpy(to + from, value + from, 16 - from);
    memcpy(to_mask + from, mask + from, 16 - from);
    return true;
}

static bool address_step(struct making *m) {
    struct nb_key *v = &m->flow->value, *k = &m->flow->mask;
    return address(m, m->value->src, m->mask->src, v->src, k->src) &&
           address(m, m->value->dst, m->mask->dst, v->dst, k->dst);
}

/* IPv6 headers are counted differently by everybody: only a punt may ask what follows them. */
static bool proto_step(struct making *m) {
    if (m->mask->proto == 0)
        return true;
    if (m->proto < 0 || m->version == 6)
        if (m->drop)
            return false;
    if (m->proto < 0 || (m->version == 6 && is_extension(m->proto)))
        return true;
    m->flow->value.proto = (uint8_t)m->proto;
    m->flow->mask.proto = 0xff;
    return true;
}

static bool fragment(struct making *m, bool yes) {
    uint8_t want = yes ? NB_PARSED_FRAGMENT : 0;
    if (m->version == 6)
        return !yes;
    if (!m->traits->fragments)
        return unsaid(m);
    if ((m->flow->mask.parsed & NB_PARSED_FRAGMENT) != 0 && m->flow->value.parsed != want)
        return false;
    m->flow->mask.parsed |= NB_PARSED_FRAGMENT;
    m->flow->value.parsed |= want;
    return true;
}

/* The device looks at a transport header, and has none of a fragment. */
static bool never_fragment(const struct making *m) {
    return !m->traits->fragments && !m->traits->frag_ports &&
           (any(m->mask->sport, 4) || any(&m->mask->tcp_flags, 3)); /* flags, ICMP's type and code */
}

static bool transport_bit(struct making *m, uint8_t bit, bool (*parses)(int proto)) {
    bool yes = (m->value->parsed & bit) != 0;
    if ((m->mask->parsed & bit) == 0)
        return true;
    if (m->proto < 0)
        return unsaid(m);
    if (!yes)
        return !parses(m->proto) || unsaid(m);
    if (!parses(m->proto))
        return false;
    return never_fragment(m) || fragment(m, false);
}

static bool parsed_step(struct making *m) {
    if ((m->value->parsed & m->mask->parsed & 0xf0) != 0) /* no such bits */
        return false;
    if ((m->mask->parsed & NB_PARSED_IP) != 0 && (m->value->parsed & NB_PARSED_IP) == 0)
        return false;
    if ((m->mask->parsed & NB_PARSED_FRAGMENT) != 0 && !fragment(m, (m->value->parsed & NB_PARSED_FRAGMENT) != 0))
        return false;
    return transport_bit(m, NB_PARSED_PORTS, parses_ports) && transport_bit(m, NB_PARSED_ICMP, parses_icmp);
}

/* The rule asks for fields of a header, and for the header; the flow's protocol has it. */
static bool header(const struct making *m, uint8_t bit, bool proto_has_it) {
    return (m->mask->parsed & m->value->parsed & bit) != 0 && m->flow->mask.proto != 0 && proto_has_it;
}

static bool ports_step(struct making *m) {
    if (!any(m->mask->sport, 4))
        return true;
    if (!header(m, NB_PARSED_PORTS, m->proto >= 0 && nb_flow_has_ports((uint8_t)m->proto)))
        return unsaid(m);
    memcpy(m->flow->value.sport, m->value->sport, 4);
    memcpy(m->flow->mask.sport, m->mask->sport, 4);
    return true;
}

static bool tcp_flags_step(struct making *m) {
    if (m->mask->tcp_flags == 0)
        return true;
    if (!header(m, NB_PARSED_PORTS, m->proto == IPPROTO_TCP))
        return unsaid(m);
    m->flow->value.tcp_flags = m->value->tcp_flags;
    m->flow->mask.tcp_flags = m->mask->tcp_flags;
    return true;
}

static bool icmp_step(struct making *m) {
    int own = m->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
    if (m->mask->icmp_type == 0 && m->mask->icmp_code == 0)
        return true;
    if (!header(m, NB_PARSED_ICMP, m->proto == own))
        return unsaid(m);
    m->flow->value.icmp_type = m->value->icmp_type;
    m->flow->mask.icmp_type = m->mask->icmp_type;
    m->flow->value.icmp_code = m->value->icmp_code;
    m->flow->mask.icmp_code = m->mask->icmp_code;
    return true;
}

static bool dscp_step(struct making *m) {
    m->flow->value.dscp = m->value->dscp & 0x3f;
    m->flow->mask.dscp = m->mask->dscp & 0x3f;
    return (m->value->dscp & m->mask->dscp & 0xc0) == 0;
}

enum nb_flow_answer nb_flow_of(const struct nb_hw_rule *rule, uint8_t ip_version, const struct nb_flow_traits *traits,
                               struct nb_cube *ret_flow) {
    static bool (*const steps[])(struct making *) = {link_step,  address_step,   proto_step, parsed_step,
                                                     ports_step, tcp_flags_step, icmp_step,  dscp_step};
    struct nb_cube flow;
    memset(&flow, 0, sizeof flow);
    struct making m = {.value = &rule->cube.value,
                       .mask = &rule->cube.mask,
                       .flow = &flow,
                       .traits = traits,
                       .version = ip_version,
                       .drop = rule->action == NB_HW_DROP,
                       .proto = rule->cube.mask.proto == 0xff ? rule->cube.value.proto : -1};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        if (!steps[i](&m))
            return NB_FLOW_NONE;
    *ret_flow = flow;
    return NB_FLOW_EXISTS;
}
