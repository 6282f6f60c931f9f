/* SPDX-License-Identifier: Apache-2.0
 *
 * Packets on their way up and down: each becomes seven words, as nicbackend/ir/view.h says, is judged and goes on, or
 * ends here. In two passes over a burst, so that the misses on different flows' lines overlap. On the shard's worker.
 *
 * Whose a packet is: on the way down its transport has stamped it; on the way up the host lets the transport's demux()
 * stamp it before. What of a conversation: TCP's and connected sockets' transports know it, for the other datagrams
 * this engine remembers what has passed (only while a rule asks for a state).
 *
 * A packet that a policy ends: towards this host it is dropped, or answered by way of the link engine; from this host
 * its sender's transport gets an error about it, as if the network had answered.
 */
#include "engines/filter/filter.h"

#include <errno.h>

#define PREFETCH_AHEAD 4u
#define TALK_NS        (180 * NS_PER_SEC)
#define TCP_SYN        0x02u
#define TCP_RST        0x04u
#define TCP_ACK        0x10u
#define TCP_FIN        0x01u
#define ERROR_QUOTE    20u

/* ---- a packet as words ---- */

uint32_t filter_transport_size(uint8_t proto) {
    switch (proto) {
    case PROTO_TCP:
        return TCP_LEN;
    case PROTO_UDP:
    case 136: /* UDP-Lite */
        return UDP_LEN;
    case 132: /* SCTP */
        return 12;
    case PROTO_ICMP:
    case PROTO_ICMP6:
        return 4;
    default:
        return 0;
    }
}

STRAIGHT struct filter_transport parse_transport(uint8_t proto, const uint8_t *h, uint32_t len) {
    struct filter_transport r = {.what = (uint64_t)proto << FILTER_PROTO | (uint64_t)FILTER_HAS_IP << FILTER_PARSED};
    uint32_t size = filter_transport_size(proto);
    if (UNLIKELY(size == 0 || len < size))
        return r;
    r.header = size;
    if (UNLIKELY(size == 4)) {
        r.what |= h[0] | (uint64_t)h[1] << FILTER_DPORT | (uint64_t)FILTER_HAS_ICMP << FILTER_PARSED;
        return r;
    }
    r.what |= be16_load(h) | (uint64_t)be16_load(h + 2) << FILTER_DPORT | (uint64_t)FILTER_HAS_PORTS << FILTER_PARSED;
    if (proto == PROTO_TCP) {
        r.tcp_flags = h[13];
        r.header = (uint32_t)(h[12] >> 4) * 4u;
    }
    return r;
}

struct filter_transport filter_transport_parse(uint8_t proto, const uint8_t *h, uint32_t len) {
    return parse_transport(proto, h, len);
}

/* Everything but the addresses and the state. `l4`: the transport header; `total`: bytes of the IP packet. */
STRAIGHT void fill(struct filter_case *c, const struct engine_io *io, const struct pkt *p, const uint8_t *l4,
                   uint32_t total, uint64_t dir) {
    uint32_t before = (uint32_t)(l4 - pkt_l3(p));
    struct filter_transport t = {.what = (uint64_t)p->flow.proto << FILTER_PROTO |
                                         (uint64_t)(FILTER_HAS_IP | FILTER_IS_FRAGMENT) << FILTER_PARSED};
    if (LIKELY(!(p->flags & PKT_FRAGMENT)))
        t = parse_transport(p->flow.proto, l4, (uint32_t)(p->data + p->len - l4));
    uint32_t length = total;
    if (UNLIKELY(p->flags & PKT_GSO) && before + t.header + p->gso_size < total)
        length = before + t.header + p->gso_size;
    uint64_t ethertype = p->ip_version == 4 ? ETHERTYPE_IP4 : ETHERTYPE_IP6;
    uint64_t ifindex = p->port < PORT_SLOT_MAX ? io->ports[p->port].ifindex : 0;
    uint64_t vlan = UNLIKELY(p->flags & PKT_VLAN) ? p->vlan & 0xfffu : 0;
    c->words.w[FILTER_W_WHAT] = t.what | dir << FILTER_DIR | (p->ip_version == 4 ? 1ull : 2ull) << FILTER_VERSION;
    c->words.w[FILTER_W_WHOSE] = (p->owner & 0xffffu) | ethertype << FILTER_ETHERTYPE | ifindex << FILTER_IFINDEX;
    c->words.w[FILTER_W_SHAPE] = length | (uint64_t)(p->tos >> 2) << FILTER_DSCP | vlan << FILTER_VLAN |
                                 (uint64_t)t.tcp_flags << FILTER_TCP_FLAGS;
    c->bytes = total;
    c->now = io->now;
}

void filter_case_addrs(struct filter_case *c, const struct ipaddr *src, const struct ipaddr *dst) {
    c->words.w[FILTER_W_SRC] = src->d[0];
    c->words.w[FILTER_W_SRC + 1] = src->d[1];
    c->words.w[FILTER_W_DST] = dst->d[0];
    c->words.w[FILTER_W_DST + 1] = dst->d[1];
}

/* ---- conversations ---- */

static struct flow talk_flow(const struct filter_case *c, bool in) {
    struct flow f = {.proto = (uint8_t)(c->words.w[FILTER_W_WHAT] >> FILTER_PROTO)};
    const uint64_t *src = &c->words.w[FILTER_W_SRC], *dst = &c->words.w[FILTER_W_DST];
    uint16_t sport = (uint16_t)c->words.w[FILTER_W_WHAT], dport = (uint16_t)(c->words.w[FILTER_W_WHAT] >> FILTER_DPORT);
    memcpy(&f.local, in ? dst : src, sizeof f.local);
    memcpy(&f.remote, in ? src : dst, sizeof f.remote);
    f.local_port = in ? dport : sport;
    f.remote_port = in ? sport : dport;
    return f;
}

static struct filter_talk *talk_at(struct filter_state *st, const struct flow *f) {
    return (struct filter_talk *)arena_at(st, st->talk_lines) + (hash_flow(&st->key, f) & (st->cfg.talk_lines - 1));
}

static bool talk_is(const struct filter_talk *t, const struct flow *f, uint32_t owner, ns_t now) {
    return t->until > now && t->owner == owner && memcmp(&t->flow, f, sizeof *f) == 0;
}

/* After it has passed: from now on both directions are of a conversation. */
static void talk_note(struct filter_state *st, struct engine_io *io, const struct pkt *p, const struct filter_case *c,
                      bool in) {
    const struct flow f = talk_flow(c, in);
    struct filter_talk *t = talk_at(st, &f);
    if (t->until > io->now && memcmp(&t->flow, &f, sizeof f) != 0)
        ENGINE_COUNT(io, FILTER_COUNT_TALK_EVICTED);
    *t = (struct filter_talk){.flow = f, .owner = p->owner, .until = io->now + TALK_NS};
}

static bool states_matter(const struct filter_image *img) {
    return (img->used.w[FILTER_W_WHAT] >> FILTER_STATE & 7) != 0;
}

static bool is_datagram(const struct filter_case *c) {
    return (uint8_t)(c->words.w[FILTER_W_WHAT] >> FILTER_PROTO) == PROTO_UDP &&
           (c->words.w[FILTER_W_WHAT] >> FILTER_PARSED & FILTER_HAS_PORTS) != 0;
}

/* Only sockets know: what belongs to nobody is always new, but for errors that this host sends. */
static SELDOM uint64_t state_of(struct filter_state *st, const struct engine_io *io, const struct pkt *p,
                                const struct filter_case *c, bool in) {
    uint8_t proto = p->flow.proto, tcp = (uint8_t)(c->words.w[FILTER_W_SHAPE] >> FILTER_TCP_FLAGS);
    if (p->known == PKT_KNOWN_ESTABLISHED)
        return FILTER_ESTABLISHED;
    if (p->known == PKT_KNOWN_RELATED)
        return FILTER_RELATED;
    if (p->owner == 0)
        return !in && (proto == PROTO_ICMP || proto == PROTO_ICMP6) ? FILTER_RELATED : FILTER_NEW;
    if (proto == PROTO_TCP)
        return !in && (tcp & (TCP_SYN | TCP_ACK)) != TCP_SYN ? FILTER_ESTABLISHED : FILTER_NEW;
    if (!is_datagram(c))
        return FILTER_NEW;
    const struct flow f = talk_flow(c, in);
    return talk_is(talk_at(st, &f), &f, p->owner, io->now) ? FILTER_ESTABLISHED : FILTER_NEW;
}

/* ---- the end of a packet ---- */

static void drop(struct engine_io *io, struct pkt *p, const struct filter_outcome *o) {
    p->user = o->rule[o->tier];
    pkt_drop(io, p, DROP_POLICY);
}

/* An RST as the segment's destination would send it (RFC 9293 section 3.10.7.1). False: there is no buffer. */
static bool reset(struct engine_io *io, const struct pkt *p) {
    const uint8_t *h = p->data;
    struct pkt *r = pkt_vec_room(io->down) == 0 ? NULL : pkt_alloc(io->pool);
    if (r == NULL)
        return false;
    uint8_t *to = r->data;
    uint32_t header = (uint32_t)(h[12] >> 4) * 4u;
    uint32_t len = pkt_bytes(p) > header ? pkt_bytes(p) - header : 0;
    memset(to, 0, TCP_LEN);
    memcpy(to, h + 2, 2);
    memcpy(to + 2, h, 2);
    to[12] = TCP_LEN / 4 << 4;
    if (h[13] & TCP_ACK) {
        memcpy(to + 4, h + 8, 4);
        to[13] = TCP_RST;
    } else {
        be32_store(to + 8, be32_load(h + 4) + len + !!(h[13] & TCP_SYN) + !!(h[13] & TCP_FIN));
        to[13] = TCP_RST | TCP_ACK;
    }
    r->len = TCP_LEN;
    r->flow = p->flow;
    r->flow.local_port = be16_load(h + 2);
    r->flow.remote_port = be16_load(h);
    r->ip_version = p->ip_version;
    r->port = p->port;
    r->flags = PKT_CSUM_PARTIAL;
    r->l4_off = r->csum_start = (uint16_t)(to - r->buf);
    r->csum_offset = 16;
    r->known = PKT_KNOWN_RELATED;
    (void)pkt_vec_push(io->down, r);
    return true;
}

static bool wants_reset(const struct pkt *p, uint8_t how) {
    return p->flow.proto == PROTO_TCP && (how == FILTER_REJECT_AUTO || how == FILTER_REJECT_RST) && p->len >= TCP_LEN &&
           !(p->data[13] & TCP_RST) && !(p->flags & PKT_BROADCAST);
}

/* What came from elsewhere is answered: an RST, or the link engine's ICMP error. */
static SELDOM void reject_in(struct engine_io *io, struct pkt *p, const struct filter_outcome *o) {
    static const uint8_t refusal[] = {[FILTER_REJECT_AUTO] = PKT_REFUSE_POLICY_PORT,
                                      [FILTER_REJECT_RST] = PKT_REFUSE_POLICY_PORT,
                                      [FILTER_REJECT_PORT] = PKT_REFUSE_POLICY_PORT,
                                      [FILTER_REJECT_HOST] = PKT_REFUSE_POLICY_HOST,
                                      [FILTER_REJECT_ADMIN] = PKT_REFUSE_POLICY_ADMIN};
    ENGINE_COUNT(io, FILTER_COUNT_REJECTED);
    bool tcp_reset = p->flow.proto == PROTO_TCP && p->len >= TCP_LEN && (p->data[13] & TCP_RST);
    if (tcp_reset || p->l3_off == 0 || pkt_vec_room(io->down) == 0 || wants_reset(p, o->reject)) {
        if (wants_reset(p, o->reject))
            (void)reset(io, p);
        drop(io, p, o);
        return;
    }
    uint32_t back = (uint32_t)(p->data - pkt_l3(p));
    p->data -= back;
    p->len += back;
    p->flags |= PKT_ICMP_ERROR;
    p->user = refusal[o->reject];
    p->user_data = o->rule[o->tier];
    p->drop = DROP_POLICY;
    (void)pkt_vec_push(io->down, p);
}

/* As the kernel's packet filter tells a sender of its own host. */
static uint32_t error_of(const struct filter_outcome *o) {
    if (o->verdict == FILTER_DROP)
        return EPERM;
    if (o->reject == FILTER_REJECT_HOST)
        return EHOSTUNREACH;
    return o->reject == FILTER_REJECT_ADMIN ? EACCES : ECONNREFUSED;
}

static SELDOM void end_out(struct engine_io *io, struct pkt *p, const struct filter_outcome *o) {
    ENGINE_COUNT(io, o->verdict == FILTER_DROP ? FILTER_COUNT_DROPPED : FILTER_COUNT_REJECTED);
    const uint8_t *l4 = pkt_l4(p);
    uint32_t len = (uint32_t)(p->data + p->len - l4);
    struct pkt *e = NULL;
    if (p->owner != 0 && p->known != PKT_KNOWN_RAW && len >= UDP_LEN && !(p->flags & PKT_FRAGMENT) &&
        pkt_vec_room(io->up) > 0)
        e = pkt_alloc(io->pool);
    if (e != NULL) {
        e->len = len < ERROR_QUOTE ? len : ERROR_QUOTE;
        memcpy(e->data, l4, e->len);
        e->flow = p->flow;
        e->flags = PKT_ICMP_ERROR | (p->flags & PKT_LOCAL);
        e->ip_version = p->ip_version;
        e->port = p->port;
        e->user = error_of(o);
        e->user_data = 0;
        ENGINE_COUNT(io, FILTER_COUNT_TOLD);
        (void)pkt_vec_push(io->up, e);
    }
    drop(io, p, o);
}

static SELDOM void end_in(struct engine_io *io, struct pkt *p, const struct filter_outcome *o) {
    if (o->verdict == FILTER_REJECT) {
        reject_in(io, p, o);
        return;
    }
    ENGINE_COUNT(io, FILTER_COUNT_DROPPED);
    drop(io, p, o);
}

/* ---- bursts ---- */

/* Neighbour discovery and errors about what this host has sent are not asked about: without them no policy that lets
 * anything pass could work. */
static bool is_own_business(const struct pkt *p, bool in) {
    if (in)
        return (p->flags & (PKT_ICMP_ERROR | PKT_BOUNCED)) != 0;
    if (UNLIKELY(p->known == PKT_KNOWN_RAW))
        return false;
    if (p->ip_version == 0)
        return true; /* ARP */
    const uint8_t *h = pkt_l4(p);
    return p->flow.proto == PROTO_ICMP6 && p->owner == 0 && h < p->data + p->len && h[0] >= 133 && h[0] <= 137;
}

/* Bounded: a flood must not become a flood of records. */
static SELDOM void leave_record(struct filter_state *st, struct engine_io *io, const struct filter_image *img,
                                const struct pkt *p, const struct filter_case *c, const struct filter_outcome *o,
                                bool in) {
    uint32_t rule = o->rule[o->tier];
    if (io->now - st->log_since >= NS_PER_SEC) {
        st->log_since = io->now;
        st->logged = 0;
    }
    if (st->logged == FILTER_LOG_MAX) {
        ENGINE_COUNT(io, FILTER_COUNT_UNLOGGED);
        return;
    }
    st->logged++;
    ENGINE_COUNT(io, FILTER_COUNT_LOGGED);
    const struct filter_action *a = (const struct filter_action *)filter_at(img, FILTER_SEC_ACTIONS);
    const struct engine_event e = {.kind = EVENT_POLICY_LOG,
                                   .port = p->port,
                                   .value = o->verdict | (in ? FILTER_IN : FILTER_OUT) << 8,
                                   .id = rule < FILTER_RULE_UNASKED ? a[rule].id : 0,
                                   .owner = p->owner,
                                   .flow = talk_flow(c, in)};
    engine_event(io, &e);
}

/* For who comes later on the way to the wire: the QoS engine and the port. */
static void leave_words(struct pkt *p, const struct filter_outcome *o) {
    p->class_id = o->flags & FILTER_ACT_CLASS ? o->class_id + 1 : 0;
    if (o->flags & FILTER_ACT_MARK) {
        p->class_id |= PKT_MARKED;
        p->mark = o->mark;
    }
}

struct burst {
    struct pkt *pkts[PKT_BURST];
    struct filter_case c[PKT_BURST];
    struct filter_line *line[PKT_BURST];
    uint32_t count;
};

static SELDOM void prepare_raw(struct filter_state *st, struct engine_io *io, const struct filter_image *img,
                               struct burst *b, struct pkt *p) {
    struct filter_case *c = &b->c[b->count];
    if (!filter_raw_case(p, p->port < PORT_SLOT_MAX ? io->ports[p->port].ifindex : 0, io->now, c)) {
        ENGINE_COUNT(io, FILTER_COUNT_DROPPED);
        pkt_drop(io, p, DROP_FRAME_BAD_SEND); /* headers longer than anyone sends: nobody could say what they hide */
        return;
    }
    b->line[b->count] = filter_line_at(st, img, &c->words);
    b->pkts[b->count++] = p;
}

STRAIGHT void prepare(struct filter_state *st, struct engine_io *io, const struct filter_image *img, struct burst *b,
                      struct pkt *p, bool in) {
    struct filter_case *c = &b->c[b->count];
    if (UNLIKELY(p->known == PKT_KNOWN_RAW) && !in) {
        prepare_raw(st, io, img, b, p);
        return;
    }
    if (in) {
        filter_case_addrs(c, &p->flow.remote, &p->flow.local);
        fill(c, io, p, p->data, (uint32_t)(p->data - pkt_l3(p)) + pkt_bytes(p), FILTER_IN);
    } else {
        filter_case_addrs(c, &p->flow.local, &p->flow.remote);
        fill(c, io, p, pkt_l4(p), pkt_bytes(p) - (uint32_t)(pkt_l3(p) - p->data), FILTER_OUT);
    }
    uint64_t state = UNLIKELY(states_matter(img)) ? state_of(st, io, p, c, in) : FILTER_NEW;
    c->words.w[FILTER_W_WHAT] |= state << FILTER_STATE;
    b->line[b->count] = filter_line_at(st, img, &c->words);
    __builtin_prefetch(b->line[b->count]);
    b->pkts[b->count++] = p;
}

STRAIGHT void finish(struct filter_state *st, struct engine_io *io, struct filter_image *img, struct burst *b,
                     uint32_t i, bool in) {
    struct filter_outcome o;
    struct pkt *p = b->pkts[i];
    filter_judge(st, io, img, b->line[i], &b->c[i], &o);
    if (UNLIKELY(o.flags & FILTER_ACT_LOG))
        leave_record(st, io, img, p, &b->c[i], &o, in);
    if (UNLIKELY(o.flags & FILTER_ACT_MIRROR) && io->shown != NULL)
        (void)pkt_vec_push(io->shown, p);
    if (UNLIKELY(o.verdict != FILTER_ALLOW)) {
        if (in)
            end_in(io, p, &o);
        else
            end_out(io, p, &o);
        return;
    }
    if (!in && UNLIKELY(o.flags & (FILTER_ACT_CLASS | FILTER_ACT_MARK)))
        leave_words(p, &o);
    if (UNLIKELY(states_matter(img)) && p->owner != 0 && p->known != PKT_KNOWN_RAW && is_datagram(&b->c[i]))
        talk_note(st, io, p, &b->c[i], in);
    (void)pkt_vec_push(in ? io->up : io->down, p);
}

STRAIGHT void judge_all(struct filter_state *st, struct engine_io *io, struct pkt **pkts, uint32_t n, bool in) {
    struct filter_image *img = filter_active(st);
    struct burst b;
    CHECK(n <= PKT_BURST);
    b.count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i + PREFETCH_AHEAD < n)
            __builtin_prefetch(pkts[i + PREFETCH_AHEAD]->data);
        if (LIKELY(img != NULL) && LIKELY(!is_own_business(pkts[i], in))) {
            prepare(st, io, img, &b, pkts[i], in);
            continue;
        }
        io->counters[FILTER_COUNT_RELATED] += img != NULL;
        (void)pkt_vec_push(in ? io->up : io->down, pkts[i]);
    }
    io->counters[FILTER_COUNT_JUDGED] += b.count;
    for (uint32_t i = 0; i < b.count; i++)
        finish(st, io, img, &b, i, in);
}

void filter_input(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    judge_all((struct filter_state *)state, io, pkts, n, true);
}

void filter_output(void *state, struct engine_io *io, struct pkt **pkts, uint32_t n) {
    judge_all((struct filter_state *)state, io, pkts, n, false);
}
