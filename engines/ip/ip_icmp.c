/* SPDX-License-Identifier: Apache-2.0
 *
 * ICMP and ICMPv6: errors about packets we sent go up to the transport that sent them (and teach the path MTU), echo is
 * answered for dedicated addresses, and refusals of transports are sent where the kernel does not send them for us:
 * on dedicated addresses and between programs of this host. Rate limited by a token bucket.
 */
#include <errno.h>

#include "engines/ip/ip_cut.h"
#include "engines/ip/ip_icmp.h"
#include "engines/ip/ip_resolve.h"

#define ICMP4_ECHO_REPLY 0
#define ICMP4_UNREACH    3
#define ICMP4_ECHO       8
#define ICMP4_TIME       11
#define ICMP4_PARAM      12
#define ICMP6_UNREACH    1
#define ICMP6_TOO_BIG    2
#define ICMP6_TIME       3
#define ICMP6_PARAM      4
#define ICMP6_ECHO       128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_ND_FIRST   133
#define ICMP6_ND_LAST    137
#define QUOTE_TRANSPORT  8u
#define QUOTE4_MAX       (576u - IP4_LEN - ICMP_LEN)        /* RFC 1812 section 4.3.2.3 */
#define QUOTE6_MAX       (IP6_MTU_MIN - IP6_LEN - ICMP_LEN) /* RFC 4443 section 2.4 (c) */
#define EXT_MAX          4u

static bool checksum_ok(const struct pkt *p) {
    if (p->flags & (PKT_LOCAL | PKT_CSUM_OK))
        return true;
    uint64_t sum = p->ip_version == 6 ? csum_pseudo(&p->flow, pkt_bytes(p)) : 0;
    return csum_fold(csum_pkt(sum, p, p->data)) == 0xffff;
}

static bool own_dedicated(struct ip_state *st, const struct ipaddr *addr) {
    const struct ip_addr *a = ip_addr_find(st, addr, PORT_SLOT_LOCAL);
    return a != NULL && (a->flags & IP_ADDR_DEDICATED);
}

static bool rate_ok(struct ip_state *st, struct engine_io *io) {
    uint64_t rate = st->cfg.icmp_per_second;
    if (io->now > st->icmp_refilled) {
        ns_t gone = io->now - st->icmp_refilled < NS_PER_SEC ? io->now - st->icmp_refilled : NS_PER_SEC;
        uint64_t add = gone * rate / NS_PER_SEC;
        if (add > 0) {
            st->icmp_tokens = (uint32_t)(st->icmp_tokens + add < rate ? st->icmp_tokens + add : rate);
            st->icmp_refilled = io->now;
        }
    }
    if (st->icmp_tokens == 0)
        return false;
    st->icmp_tokens--;
    return true;
}

/* ---- echo ---- */

static enum drop_reason echo(struct ip_state *st, struct engine_io *io, struct pkt *p, uint8_t reply) {
    if (!own_dedicated(st, &p->flow.local) || (p->flags & PKT_BROADCAST))
        return DROP_ICMP_UNWANTED;
    if (!rate_ok(st, io))
        return DROP_ICMP_RATE;
    p->data[0] = reply;
    p->data[2] = 0;
    p->data[3] = 0;
    p->flags = 0;
    p->ttl = 0;
    p->sink = 0;
    p->l4_off = (uint16_t)(p->data - p->buf);
    p->csum_start = p->l4_off;
    p->csum_offset = 2;
    if (p->ip_version == 6) {
        p->flags = PKT_CSUM_PARTIAL;
    } else {
        uint16_t sum = (uint16_t)~csum_fold(csum_pkt(0, p, p->data));
        memcpy(p->data + 2, &sum, 2);
    }
    ENGINE_COUNT(io, IP_COUNT_ICMP_OUT);
    ip_output_packet(st, io, p);
    return IP_TAKEN;
}

/* ---- errors about packets of ours ---- */

/* What a quoted packet tells: its flow (ours is local) and where its transport header is. */
struct quote {
    struct flow flow;
    uint32_t transport; /* offset from the start of the quote */
};

static enum drop_reason quote4(const uint8_t *q, uint32_t len, struct quote *ret_quote) {
    if (len < IP4_LEN || q[0] >> 4 != 4)
        return DROP_ICMP_MALFORMED;
    uint32_t head = (uint32_t)(q[0] & 15) * 4;
    if (head < IP4_LEN || len < head + QUOTE_TRANSPORT)
        return DROP_ICMP_MALFORMED;
    if (be16_load(q + 6) & 0x1fff)
        return DROP_ICMP_UNWANTED; /* a later fragment has no ports to look at */
    *ret_quote = (struct quote){
        .flow = {.local = ipaddr_from_v4(q + 12), .remote = ipaddr_from_v4(q + 16), .proto = q[9]}, .transport = head};
    return DROP_NONE;
}

/* Steps over the extension headers that we send ourselves, a fragment header at most, and a few more. */
static enum drop_reason quote6(const uint8_t *q, uint32_t len, struct quote *ret_quote) {
    if (len < IP6_LEN || q[0] >> 4 != 6)
        return DROP_ICMP_MALFORMED;
    uint32_t at = IP6_LEN;
    uint8_t next = q[6];
    for (uint32_t i = 0; i < EXT_MAX && (next == PROTO_FRAGMENT6 || next == 0 || next == 60 || next == 43); i++) {
        if (len < at + 8)
            return DROP_ICMP_MALFORMED;
        if (next == PROTO_FRAGMENT6 && (be16_load(q + at + 2) & 0xfff8))
            return DROP_ICMP_UNWANTED;
        uint32_t step = next == PROTO_FRAGMENT6 ? 8 : 8 + (uint32_t)q[at + 1] * 8;
        next = q[at];
        at += step;
    }
    if (len < at + QUOTE_TRANSPORT)
        return DROP_ICMP_MALFORMED;
    *ret_quote = (struct quote){
        .flow = {.local = ipaddr_from_v6(q + 8), .remote = ipaddr_from_v6(q + 24), .proto = next}, .transport = at};
    return DROP_NONE;
}

static int errno_of_icmp4(uint8_t type, uint8_t code) {
    static const uint8_t unreach[16] = {
        ENETUNREACH, EHOSTUNREACH, ENOPROTOOPT,  ECONNREFUSED, EMSGSIZE,     EOPNOTSUPP,   ENETUNREACH,  EHOSTDOWN,
        ENONET,      ENETUNREACH,  EHOSTUNREACH, ENETUNREACH,  EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH, EHOSTUNREACH};
    if (type == ICMP4_UNREACH)
        return code < 16 ? unreach[code] : EHOSTUNREACH;
    return type == ICMP4_PARAM ? EPROTO : EHOSTUNREACH;
}

static int errno_of_icmp6(uint8_t type, uint8_t code) {
    static const uint8_t unreach[7] = {ENETUNREACH, EACCES, EHOSTUNREACH, EHOSTUNREACH, ECONNREFUSED, EACCES, EACCES};
    if (type == ICMP6_UNREACH)
        return code < 7 ? unreach[code] : EHOSTUNREACH;
    if (type == ICMP6_TOO_BIG)
        return EMSGSIZE;
    return type == ICMP6_PARAM ? EPROTO : EHOSTUNREACH;
}

/* RFC 1191 section 7: routers that do not say get the next plateau below what did not fit. */
static uint32_t plateau(uint32_t size) {
    static const uint16_t steps[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006, 576};
    for (uint32_t i = 0; i < ARRAY_LEN(steps); i++)
        if (steps[i] < size)
            return steps[i];
    return 576;
}

static uint32_t reported_mtu(const struct pkt *p) {
    if (p->ip_version == 6)
        return be32_load(p->data + 4);
    uint32_t mtu = be16_load(p->data + 6);
    return mtu != 0 ? mtu : plateau(be16_load(p->data + ICMP_LEN + 2));
}

/* Only about packets that this host can have sent: from an address of ours, and for a path MTU to a destination that we
 * did talk to of late, so that a blind sender has to guess our peers first (RFC 5927). */
static enum drop_reason error_input(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    struct quote q;
    const uint8_t *quoted = p->data + ICMP_LEN;
    uint32_t len = p->len - ICMP_LEN;
    enum drop_reason why = p->ip_version == 6 ? quote6(quoted, len, &q) : quote4(quoted, len, &q);
    if (why != DROP_NONE)
        return why;
    if (!ip_addr_is_local(st, &q.flow.local))
        return DROP_ICMP_UNWANTED;
    int error = p->ip_version == 6 ? errno_of_icmp6(p->data[0], p->data[1]) : errno_of_icmp4(p->data[0], p->data[1]);
    uint32_t mtu = 0;
    if (error == EMSGSIZE) {
        const struct ip_dest *d = ip_dest_talked(st, &q.flow.remote);
        mtu = reported_mtu(p);
        if (d == NULL)
            return DROP_ICMP_UNWANTED;
        if (mtu < d->mtu)
            ip_pmtu_learn(st, io, &q.flow.remote, mtu);
    }
    ENGINE_COUNT(io, IP_COUNT_ICMP_IN);
    pkt_pull(p, ICMP_LEN + q.transport);
    p->flow = q.flow;
    p->flags |= PKT_ICMP_ERROR;
    p->user = (uint32_t)error;
    p->user_data = mtu;
    return DROP_NONE;
}

/* ---- in ---- */

enum drop_reason ip_icmp4_input(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    if (p->len < ICMP_LEN)
        return DROP_ICMP_MALFORMED;
    if (!checksum_ok(p))
        return DROP_ICMP_CHECKSUM;
    switch (p->data[0]) {
    case ICMP4_ECHO:
        return echo(st, io, p, ICMP4_ECHO_REPLY);
    case ICMP4_UNREACH:
    case ICMP4_TIME:
    case ICMP4_PARAM:
        return error_input(st, io, p);
    default:
        return DROP_ICMP_UNWANTED;
    }
}

enum drop_reason ip_icmp6_input(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    if (p->len < ICMP_LEN)
        return DROP_ICMP_MALFORMED;
    if (!checksum_ok(p))
        return DROP_ICMP_CHECKSUM;
    uint8_t type = p->data[0];
    if (type == ICMP6_ECHO)
        return echo(st, io, p, ICMP6_ECHO_REPLY);
    if (type >= ICMP6_UNREACH && type <= ICMP6_PARAM)
        return error_input(st, io, p);
    if (type >= ICMP6_ND_FIRST && type <= ICMP6_ND_LAST)
        return ip_ndp_input(st, io, p);
    return DROP_ICMP_UNWANTED;
}

/* ---- refusals ---- */

/* RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e): never about what went to several, or came from nobody. */
static bool may_refuse(struct ip_state *st, struct engine_io *io, const struct pkt *p) {
    if (p->flags & PKT_BROADCAST)
        return false;
    if (ipaddr_is_any(&p->flow.remote) || ipaddr_is_multicast(&p->flow.remote) || ipaddr_is_multicast(&p->flow.local))
        return false;
    if (!(p->flags & PKT_LOCAL) && p->user < PKT_REFUSE_POLICY_PORT && !own_dedicated(st, &p->flow.local))
        return false; /* shared address: the kernel's port space is not ours to speak for */
    return rate_ok(st, io);
}

static void write_refusal(struct pkt *e, uint8_t version, uint32_t user) {
    static const struct {
        uint8_t code4, type6, code6, pointer6;
    } refusals[] = {
        [PKT_REFUSE_PORT] = {3, ICMP6_UNREACH, 4, 0},
        [PKT_REFUSE_PROTO] = {2, ICMP6_PARAM, 1, 6}, /* the next-header field */
        [PKT_REFUSE_POLICY_PORT] = {3, ICMP6_UNREACH, 4, 0},
        [PKT_REFUSE_POLICY_HOST] = {1, ICMP6_UNREACH, 3, 0},
        [PKT_REFUSE_POLICY_ADMIN] = {13, ICMP6_UNREACH, 1, 0},
    };
    uint8_t *h = pkt_push(e, ICMP_LEN);
    uint32_t which = user < ARRAY_LEN(refusals) ? user : PKT_REFUSE_PORT;
    memset(h, 0, ICMP_LEN);
    h[0] = version == 4 ? ICMP4_UNREACH : refusals[which].type6;
    h[1] = version == 4 ? refusals[which].code4 : refusals[which].code6;
    h[7] = version == 4 ? 0 : refusals[which].pointer6;
    e->l4_off = (uint16_t)(h - e->buf);
    e->csum_start = e->l4_off;
    e->csum_offset = 2;
}

void ip_icmp_refuse(struct ip_state *st, struct engine_io *io, struct pkt *p) {
    uint32_t max = p->ip_version == 4 ? QUOTE4_MAX : QUOTE6_MAX;
    uint32_t n = pkt_bytes(p) < max ? pkt_bytes(p) : max;
    struct pkt *e = may_refuse(st, io, p) ? ip_pkt_copy(io, p, 0, n) : NULL;
    if (e != NULL) {
        e->tos = 0;
        e->ttl = 0;
        write_refusal(e, p->ip_version, p->user);
        e->flow.proto = p->ip_version == 4 ? PROTO_ICMP : PROTO_ICMP6;
        e->flow.local_port = 0;
        e->flow.remote_port = 0;
        if (p->ip_version == 6) {
            e->flags = PKT_CSUM_PARTIAL;
        } else {
            uint16_t sum = (uint16_t)~csum_fold(csum_pkt(0, e, e->data));
            memcpy(e->data + 2, &sum, 2);
        }
        ENGINE_COUNT(io, IP_COUNT_ICMP_OUT);
        ip_output_packet(st, io, e);
    }
    pkt_drop(io, p, (enum drop_reason)p->drop);
}
