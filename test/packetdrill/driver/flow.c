/* SPDX-License-Identifier: Apache-2.0
 *
 * Packets of the flow under test: built from a script's line, read and compared with one. See flow.h.
 */
#include "test/packetdrill/driver/flow.h"

#include <stdio.h>

#include "engines/wire.h"

#define SYN           0x02
#define ACK           0x10
#define TCP_KIND_SACK 5
#define TCP_KIND_TS   8

/* ---- numbers ---- */

static uint32_t local_live(const struct flow_test *f, uint32_t script, bool syn) {
    return f->live_local_isn + script - (syn ? f->script_local_isn : 0);
}

static uint32_t remote_live(const struct flow_test *f, uint32_t script, bool syn) {
    return syn ? script : f->remote_isn + script;
}

static uint32_t local_script(const struct flow_test *f, uint32_t live, bool syn) {
    return live - f->live_local_isn + (syn ? f->script_local_isn : 0);
}

static uint32_t remote_script(const struct flow_test *f, uint32_t live, bool syn) {
    return syn ? live : live - f->remote_isn;
}

/* Calls `each` with every option; its length covers kind and length byte. */
static void walk(uint8_t *opts, uint32_t len, void (*each)(uint8_t *o, uint32_t n, void *arg), void *arg) {
    for (uint32_t i = 0; i < len;) {
        uint32_t n = opts[i] <= 1 ? 1 : i + 1 < len ? opts[i + 1] : 0;
        if (n == 0 || i + n > len)
            return;
        each(opts + i, n, arg);
        i += n;
    }
}

struct mapping {
    const struct flow_test *f;
    bool syn, to_live;
};

static void map_sack(uint8_t *o, uint32_t n, void *arg) {
    const struct mapping *m = arg;
    for (uint32_t i = 2; o[0] == TCP_KIND_SACK && i + 4 <= n; i += 4) {
        uint32_t v = be32_load(o + i);
        be32_store(o + i, m->to_live ? local_live(m->f, v, m->syn) : remote_script(m->f, v, m->syn));
    }
}

static void map_echo(uint8_t *o, uint32_t n, void *arg) {
    const struct mapping *m = arg;
    uint32_t ecr = o[0] == TCP_KIND_TS && n == 10 ? be32_load(o + 6) : 0;
    if (ecr == 0)
        return;
    for (uint32_t i = m->f->stamp_count; i-- > 0;) { /* the latest of that name */
        if (m->f->stamps[i].script != ecr)
            continue;
        be32_store(o + 6, m->f->stamps[i].live);
        return;
    }
}

/* ---- building ---- */

static size_t put_ip(const struct flow_test *f, bool inbound, uint8_t proto, uint8_t tos, size_t payload,
                     uint8_t *packet) {
    const struct ipaddr *src = inbound ? &f->remote : &f->local, *dst = inbound ? &f->local : &f->remote;
    if (f->v6) {
        memset(packet, 0, IP6_LEN);
        be32_store(packet, 6u << 28 | (uint32_t)tos << 20);
        be16_store(packet + 4, (uint16_t)payload);
        packet[6] = proto;
        packet[7] = 255;
        memcpy(packet + 8, src->b, 16);
        memcpy(packet + 24, dst->b, 16);
        return IP6_LEN;
    }
    memset(packet, 0, IP4_LEN);
    packet[0] = 0x45;
    packet[1] = tos;
    be16_store(packet + 2, (uint16_t)(IP4_LEN + payload));
    packet[8] = 255;
    packet[9] = proto;
    memcpy(packet + 12, &src->w[3], 4);
    memcpy(packet + 16, &dst->w[3], 4);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, packet, IP4_LEN));
    memcpy(packet + 10, &sum, 2);
    return IP4_LEN;
}

static struct flow wire_flow(const struct flow_test *f, uint8_t proto) {
    return (struct flow){.local = f->local, .remote = f->remote, .proto = proto};
}

static size_t build_icmp(const struct segment *g, const struct flow_test *f, uint8_t *packet) {
    uint8_t head = f->v6 ? IP6_LEN : IP4_LEN, icmp[8 + 60] = {0};
    uint32_t quoted = head + 8u, len = 8u + quoted;
    uint16_t sum;
    bool big = g->icmp == ICMP_TOO_BIG;
    icmp[0] = f->v6 ? (big ? 2 : 1) : 3;
    icmp[1] = (uint8_t)(f->v6 ? (big ? 0 : g->icmp_code == 3 ? 4 : 0) : g->icmp_code);
    be32_store(icmp + 4, g->icmp_mtu);
    (void)put_ip(f, false, PROTO_TCP, 0, TCP_LEN + g->len, icmp + 8);
    uint8_t *tcp = icmp + 8 + head;
    be16_store(tcp, f->local_port);
    be16_store(tcp + 2, f->remote_port);
    be32_store(tcp + 4, local_live(f, g->seq, false));
    const struct flow flow = wire_flow(f, PROTO_ICMP6);
    uint64_t pseudo = f->v6 ? csum_pseudo(&flow, len) : 0;
    sum = (uint16_t)~csum_fold(csum_add(pseudo, icmp, len));
    memcpy(icmp + 2, &sum, 2);
    size_t at = put_ip(f, true, f->v6 ? PROTO_ICMP6 : PROTO_ICMP, 0, len, packet);
    memcpy(packet + at, icmp, len);
    return at + len;
}

size_t flow_build(const struct script *s, const struct event *e, struct flow_test *f, uint8_t *ret_packet) {
    const struct segment *g = e->segment;
    uint8_t *h = ret_packet + (f->v6 ? IP6_LEN : IP4_LEN);
    uint32_t head = TCP_LEN + g->opts_len;
    bool syn = g->flags & SYN;
    if (g->icmp != ICMP_NONE)
        return build_icmp(g, f, ret_packet);
    if (syn && !f->has_remote_isn) {
        f->remote_isn = g->seq;
        f->has_remote_isn = true;
    }
    if (g->has_ack && !f->has_local_isn)
        script_fail(s, e->line, "acknowledges something of a flow that has sent nothing");
    memset(h, 0, head + g->len);
    be16_store(h, f->remote_port);
    be16_store(h + 2, f->local_port);
    be32_store(h + 4, remote_live(f, g->seq, syn));
    be32_store(h + 8, g->has_ack ? local_live(f, g->ack, syn) : 0);
    h[12] = (uint8_t)(head << 2);
    h[13] = g->flags;
    be16_store(h + 14, g->win);
    be16_store(h + 18, g->urg);
    memcpy(h + TCP_LEN, g->opts, g->opts_len);
    struct mapping m = {f, syn, true};
    walk(h + TCP_LEN, g->opts_len, map_sack, &m);
    walk(h + TCP_LEN, g->opts_len, map_echo, &m);
    const struct flow flow = wire_flow(f, PROTO_TCP);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(csum_pseudo(&flow, head + g->len), h, head + g->len));
    memcpy(h + 16, &sum, 2);
    return put_ip(f, true, PROTO_TCP, g->tos, head + g->len, ret_packet) + head + g->len;
}

/* ---- reading ---- */

bool flow_read(const uint8_t *packet, size_t len, struct seen *ret_seen, const char **ret_why) {
    bool v6 = len > 0 && packet[0] >> 4 == 6;
    size_t head = v6 ? IP6_LEN : IP4_LEN;
    *ret_why = "a packet that is no TCP";
    if (len < head + TCP_LEN || packet[v6 ? 6 : 9] != PROTO_TCP)
        return false;
    const uint8_t *h = packet + head;
    uint32_t n = (uint32_t)(len - head), tcp = (uint32_t)(h[12] >> 4) * 4;
    *ret_why = "a packet whose length or header checksum is wrong";
    if (tcp < TCP_LEN || tcp > n || (size_t)be16_load(packet + (v6 ? 4 : 2)) + (v6 ? IP6_LEN : 0) != len ||
        (!v6 && csum_fold(csum_add(0, packet, IP4_LEN)) != 0xffff))
        return false;
    *ret_seen = (struct seen){.flags = h[13],
                              .tos = v6 ? (uint8_t)(be16_load(packet) >> 4) : packet[1],
                              .seq = be32_load(h + 4),
                              .ack = be32_load(h + 8),
                              .len = n - tcp,
                              .win = be16_load(h + 14),
                              .urg = be16_load(h + 18),
                              .local_port = be16_load(h),
                              .remote_port = be16_load(h + 2),
                              .local = v6 ? ipaddr_from_v6(packet + 8) : ipaddr_from_v4(packet + 12),
                              .remote = v6 ? ipaddr_from_v6(packet + 24) : ipaddr_from_v4(packet + 16),
                              .opts = h + TCP_LEN,
                              .opts_len = tcp - TCP_LEN};
    const struct flow flow = {.local = ret_seen->local, .remote = ret_seen->remote, .proto = PROTO_TCP};
    *ret_why = "a packet whose checksum is wrong";
    return csum_fold(csum_add(csum_pseudo(&flow, n), h, n)) == 0xffff;
}

/* ---- comparing ---- */

struct stamp {
    bool there;
    uint32_t val, ecr;
};

static void find_stamp(uint8_t *o, uint32_t n, void *arg) {
    struct stamp *t = arg;
    if (o[0] == TCP_KIND_TS && n == 10)
        *t = (struct stamp){true, be32_load(o + 2), be32_load(o + 6)};
}

static void forget_stamp(uint8_t *o, uint32_t n, void *arg) {
    (void)arg;
    if (o[0] == TCP_KIND_TS && n == 10)
        memset(o + 2, 0, 4); /* what our clock says is not compared, what it echoes is */
}

static void learn_stamp(struct flow_test *f, const uint8_t *want, uint32_t want_len, const uint8_t *got,
                        uint32_t got_len) {
    struct stamp w = {.there = false}, g = {.there = false};
    walk((uint8_t *)(uintptr_t)want, want_len, find_stamp, &w);
    walk((uint8_t *)(uintptr_t)got, got_len, find_stamp, &g);
    if (!w.there || !g.there || f->stamp_count == STAMPS_MAX)
        return;
    f->stamps[f->stamp_count].script = w.val;
    f->stamps[f->stamp_count++].live = g.val;
}

static bool options_differ(const struct flow_test *f, const struct segment *want, const struct seen *got) {
    uint8_t a[OPTS_MAX], b[OPTS_MAX];
    struct mapping m = {f, want->flags & SYN, false};
    if (want->any_opts)
        return false;
    if (want->opts_len != got->opts_len)
        return true;
    memcpy(a, want->opts, want->opts_len);
    memcpy(b, got->opts, got->opts_len);
    walk(b, got->opts_len, map_sack, &m);
    walk(a, want->opts_len, forget_stamp, NULL);
    walk(b, got->opts_len, forget_stamp, NULL);
    return memcmp(a, b, want->opts_len) != 0;
}

const char *flow_compare(struct flow_test *f, const struct segment *want, const struct seen *got) {
    bool syn = want->flags & SYN;
    if (!f->has_local_isn && (got->flags & SYN)) {
        f->script_local_isn = want->seq;
        f->live_local_isn = got->seq;
        f->has_local_isn = true;
    }
    if (got->flags != want->flags)
        return "other flags";
    if (local_script(f, got->seq, syn) != want->seq)
        return "another sequence number";
    if (got->len != want->len)
        return "another length";
    if (want->has_ack && remote_script(f, got->ack, syn) != want->ack)
        return "another acknowledgement";
    if (want->has_win && got->win != want->win)
        return "another window";
    if (want->has_tos && (got->tos & want->tos_mask) != want->tos)
        return "another type of service";
    if (got->urg != want->urg)
        return "another urgent pointer";
    if (options_differ(f, want, got))
        return "other options";
    learn_stamp(f, want->opts, want->opts_len, got->opts, got->opts_len);
    return NULL;
}

void flow_describe(const struct flow_test *f, const struct seen *g, char *ret_text, size_t size) {
    static const char letters[] = "FSRP.UEW";
    bool syn = g->flags & SYN;
    uint32_t seq = local_script(f, g->seq, syn);
    char flags[9] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < 8; i++)
        if (g->flags >> i & 1)
            flags[n++] = letters[i];
    int at = snprintf(ret_text, size, "%s %u:%u(%u)", flags, seq, seq + g->len, g->len);
    if (g->flags & ACK)
        at += snprintf(ret_text + at, size - (size_t)at, " ack %u", remote_script(f, g->ack, syn));
    at += snprintf(ret_text + at, size - (size_t)at, " win %u tos %#x options", g->win, g->tos);
    for (uint32_t i = 0; i < g->opts_len && (size_t)at + 4 < size; i++)
        at += snprintf(ret_text + at, size - (size_t)at, " %02x", g->opts[i]);
}
