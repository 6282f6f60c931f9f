/* SPDX-License-Identifier: Apache-2.0
 *
 * See dissect.h. Lines look like tcpdump's, because people know those.
 */
#include "control/usherctl/dissect.h"

#include <arpa/inet.h>
#include <stdio.h>

/* usherctl shares nothing with usherd but the .proto files, so the numbers of the wire stand here. */
enum { TYPE_IP4 = 0x0800, TYPE_ARP = 0x0806, TYPE_VLAN = 0x8100, TYPE_IP6 = 0x86dd };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMP6 = 58 };

struct bytes {
    const uint8_t *at;
    uint32_t left;
};

struct line {
    char *text;
    size_t size;
};

static uint16_t be16(const uint8_t *p) {
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void cut_short(const struct line *l, const char *what, uint32_t length) {
    (void)snprintf(l->text, l->size, "%s, cut short, length %u", what, length);
}

static void arp(const struct line *l, struct bytes b, uint32_t length) {
    char asks[INET_ADDRSTRLEN], whom[INET_ADDRSTRLEN];
    if (b.left < 28 || be16(b.at + 2) != TYPE_IP4) {
        cut_short(l, "ARP", length);
        return;
    }
    (void)inet_ntop(AF_INET, b.at + 14, asks, sizeof asks);
    (void)inet_ntop(AF_INET, b.at + 24, whom, sizeof whom);
    if (be16(b.at + 6) == 1)
        (void)snprintf(l->text, l->size, "ARP, who has %s, tell %s", whom, asks);
    else
        (void)snprintf(l->text, l->size, "ARP, %s is at %02x:%02x:%02x:%02x:%02x:%02x", asks, b.at[8], b.at[9],
                       b.at[10], b.at[11], b.at[12], b.at[13]);
}

struct ip {
    char src[INET6_ADDRSTRLEN], dst[INET6_ADDRSTRLEN];
    const char *name; /* "IP" */
    uint8_t proto;
    uint32_t payload; /* bytes, as the header says */
};

static void flags_text(uint8_t flags, char *ret_text) {
    static const struct {
        uint8_t bit;
        char letter;
    } letters[] = {{2, 'S'}, {1, 'F'}, {4, 'R'}, {8, 'P'}, {32, 'U'}, {16, '.'}};
    for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
        if (flags & letters[i].bit)
            *ret_text++ = letters[i].letter;
    }
    *ret_text = '\0';
}

static void tcp(const struct line *l, const struct ip *ip, struct bytes b) {
    char flags[8];
    uint32_t head = (uint32_t)(b.at[12] >> 4) * 4;
    flags_text(b.at[13], flags);
    (void)snprintf(l->text, l->size, "%s %s.%u > %s.%u: TCP [%s], length %u", ip->name, ip->src, be16(b.at), ip->dst,
                   be16(b.at + 2), flags, ip->payload > head ? ip->payload - head : 0);
}

static void transport(const struct line *l, const struct ip *ip, struct bytes b) {
    if (ip->proto == PROTO_TCP && b.left >= 20)
        tcp(l, ip, b);
    else if (ip->proto == PROTO_UDP && b.left >= 8)
        (void)snprintf(l->text, l->size, "%s %s.%u > %s.%u: UDP, length %u", ip->name, ip->src, be16(b.at), ip->dst,
                       be16(b.at + 2), ip->payload > 8 ? ip->payload - 8 : 0);
    else if ((ip->proto == PROTO_ICMP || ip->proto == PROTO_ICMP6) && b.left >= 2)
        (void)snprintf(l->text, l->size, "%s %s > %s: ICMP type %u code %u, length %u", ip->name, ip->src, ip->dst,
                       b.at[0], b.at[1], ip->payload);
    else
        (void)snprintf(l->text, l->size, "%s %s > %s: protocol %u, length %u", ip->name, ip->src, ip->dst, ip->proto,
                       ip->payload);
}

static void ip4(const struct line *l, struct bytes b, uint32_t length) {
    uint32_t head = b.left > 0 ? (b.at[0] & 15u) * 4 : 0;
    if (b.left < 20 || head < 20 || head > b.left) {
        cut_short(l, "IP", length);
        return;
    }
    struct ip ip = {.name = "IP", .proto = b.at[9]};
    uint32_t total = be16(b.at + 2), offset = be16(b.at + 6) & 0x1fffu;
    ip.payload = total > head ? total - head : 0;
    (void)inet_ntop(AF_INET, b.at + 12, ip.src, sizeof ip.src);
    (void)inet_ntop(AF_INET, b.at + 16, ip.dst, sizeof ip.dst);
    if (offset != 0)
        (void)snprintf(l->text, l->size, "IP %s > %s: fragment at %u, length %u", ip.src, ip.dst, offset * 8,
                       ip.payload);
    else
        transport(l, &ip, (struct bytes){b.at + head, b.left - head});
}

static void ip6(const struct line *l, struct bytes b, uint32_t length) {
    if (b.left < 40) {
        cut_short(l, "IP6", length);
        return;
    }
    struct ip ip = {.name = "IP6", .proto = b.at[6], .payload = be16(b.at + 4)};
    (void)inet_ntop(AF_INET6, b.at + 8, ip.src, sizeof ip.src);
    (void)inet_ntop(AF_INET6, b.at + 24, ip.dst, sizeof ip.dst);
    transport(l, &ip, (struct bytes){b.at + 40, b.left - 40});
}

void dissect(const uint8_t *frame, uint32_t captured, uint32_t length, char *ret_text, size_t size) {
    const struct line l = {ret_text, size};
    struct bytes b = {frame, captured};
    if (captured < 14) {
        cut_short(&l, "a frame", length);
        return;
    }
    uint16_t type = be16(b.at + 12);
    uint32_t head = type == TYPE_VLAN && captured >= 18 ? 18 : 14;
    if (head == 18)
        type = be16(b.at + 16);
    b = (struct bytes){frame + head, captured - head};
    switch (type) {
    case TYPE_IP4:
        ip4(&l, b, length);
        break;
    case TYPE_IP6:
        ip6(&l, b, length);
        break;
    case TYPE_ARP:
        arp(&l, b, length);
        break;
    default:
        (void)snprintf(ret_text, size, "Ethernet type 0x%04x, length %u", type, length);
    }
}
