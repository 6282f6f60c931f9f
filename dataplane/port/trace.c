/* SPDX-License-Identifier: Apache-2.0
 *
 * The `trace` decorator: one line for people per packet, to a function. It reads headers only, and only those that are
 * there: a packet may hold anything.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "dataplane/port/observe.h"
#include "engines/wire.h"

#define LINE_MAX_BYTES 240

struct trace {
    void (*sink)(void *arg, const char *line);
    void *arg;
    bool l3;
};

struct line {
    char text[LINE_MAX_BYTES];
    size_t used;
};

static void add(struct line *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(struct line *l, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(l->text + l->used, sizeof l->text - l->used, format, args);
    va_end(args);
    if (n > 0)
        l->used = l->used + (size_t)n < sizeof l->text ? l->used + (size_t)n : sizeof l->text - 1;
}

/* Protocol, ports and what comes with them. `at`: the transport header, from data. */
static void add_transport(struct line *l, const struct pkt *p, uint8_t proto, uint32_t at, const char *src,
                          const char *dst) {
    const uint8_t *t = p->data + at;
    bool ports = (proto == PROTO_UDP || proto == PROTO_TCP) && p->len >= at + UDP_LEN;
    if (!ports) {
        add(l, " %s > %s proto %u", src, dst, proto);
        return;
    }
    add(l, " %s.%u > %s.%u %s", src, be16_load(t), dst, be16_load(t + 2), proto == PROTO_UDP ? "udp" : "tcp");
    if (proto == PROTO_TCP && p->len >= at + TCP_LEN)
        add(l, " seq %u ack %u win %u%s%s%s%s", be32_load(t + 4), be32_load(t + 8), be16_load(t + 14),
            t[13] & 2 ? " syn" : "", t[13] & 1 ? " fin" : "", t[13] & 4 ? " rst" : "", t[13] & 16 ? " ack" : "");
}

static void add_ip(struct line *l, const struct pkt *p, uint32_t at) {
    const uint8_t *ip = p->data + at;
    char src[INET6_ADDRSTRLEN], dst[INET6_ADDRSTRLEN];
    uint32_t left = p->len - at;
    if (left >= IP4_LEN && ip[0] >> 4 == 4) {
        inet_ntop(AF_INET, ip + 12, src, sizeof src);
        inet_ntop(AF_INET, ip + 16, dst, sizeof dst);
        uint16_t frag = be16_load(ip + 6);
        uint32_t header = (ip[0] & 15) * 4u;
        bool first = (frag & 0x1fff) == 0;
        add_transport(l, p, first ? ip[9] : 0, at + header, src, dst);
        if ((frag & 0x3fff) != 0)
            add(l, " frag id %u at %u", be16_load(ip + 4), (frag & 0x1fffu) * 8);
    } else if (left >= IP6_LEN && ip[0] >> 4 == 6) {
        inet_ntop(AF_INET6, ip + 8, src, sizeof src);
        inet_ntop(AF_INET6, ip + 24, dst, sizeof dst);
        add_transport(l, p, ip[6], at + IP6_LEN, src, dst);
    } else {
        add(l, " not ip");
    }
}

static void add_link(struct line *l, const struct pkt *p) {
    if (p->len < ETH_LEN) {
        add(l, " cut");
        return;
    }
    const uint8_t *e = p->data;
    uint16_t type = be16_load(e + 12);
    uint32_t at = ETH_LEN;
    if (type == ETHERTYPE_VLAN && p->len >= ETH_LEN + VLAN_LEN) {
        add(l, " vlan %u", be16_load(e + 14) & 0xfff);
        type = be16_load(e + 16);
        at += VLAN_LEN;
    }
    if (type == ETHERTYPE_IP4 || type == ETHERTYPE_IP6)
        add_ip(l, p, at);
    else
        add(l, " %02x:%02x:%02x:%02x:%02x:%02x > %02x:%02x:%02x:%02x:%02x:%02x %s%04x", e[6], e[7], e[8], e[9], e[10],
            e[11], e[0], e[1], e[2], e[3], e[4], e[5], type == ETHERTYPE_ARP ? "arp " : "type ", type);
}

static void trace_see(void *arg, enum observe_way way, const struct pkt *p, ns_t now) {
    const struct trace *t = arg;
    struct line l = {.used = 0};
    add(&l, "%llu.%09llu %s %u", (unsigned long long)(now / NS_PER_SEC), (unsigned long long)(now % NS_PER_SEC),
        way == OBSERVE_RX ? "rx" : "tx", pkt_bytes(p));
    if (t->l3)
        add_ip(&l, p, 0);
    else
        add_link(&l, p);
    if (p->flags & PKT_CSUM_PARTIAL)
        add(&l, " csum partial");
    if (p->flags & PKT_CSUM_OK)
        add(&l, " csum ok");
    if (p->flags & PKT_GSO)
        add(&l, " gso %u", p->gso_size);
    t->sink(t->arg, l.text);
}

static void trace_end(void *arg) {
    free(arg);
}

static const struct observer trace_observer = {.kind = "trace", .see = trace_see, .end = trace_end};

int port_trace_create(struct port *inner, void (*sink)(void *arg, const char *line), void *arg,
                      struct port **ret_port) {
    struct trace *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    *t = (struct trace){.sink = sink, .arg = arg, .l3 = inner->info.caps & PORT_CAP_L3};
    int error = observe_create(inner, &trace_observer, t, ret_port);
    if (error < 0)
        free(t);
    return error;
}
