/* SPDX-License-Identifier: Apache-2.0
 *
 * See stack.h. A call on an engine fills its vecs; settle() carries what is in them on until nothing is left: up from
 * ip to the transports and the program, down from the transports to ip and out.
 */
#include "test/packetdrill/stack.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engines/arena.h"
#include "engines/wire.h"

#define SMALL_COUNT 8192u
#define SMALL_SIZE  2304u
#define LARGE_COUNT 32u
#define LARGE_SIZE  69632u
#define COUNTERS    128
#define ROUNDS_MAX  100000u /* timers that fire in one instant: more means that they fire for ever */

extern const struct engine_ops usher_engine_ip;
extern const struct engine_ops usher_engine_udp;
extern const struct engine_ops usher_engine_tcp;

static const struct engine_ops *const ops_of[STACK_ENGINES] = {&usher_engine_ip, &usher_engine_udp, &usher_engine_tcp};

struct node {
    const struct engine_ops *ops;
    void *st;
    size_t size;
    struct engine_io io;
    struct pkt_vec up, down, drop, done;
    uint64_t counters[COUNTERS];
    uint64_t rng;
};

struct sent {
    struct sent *next;
    ns_t at;
    size_t len;
    uint8_t bytes[];
};

struct stack {
    struct node node[STACK_ENGINES];
    struct stack_app app;
    struct pkt_pool small, large;
    struct port_info ports[PORT_SLOT_MAX];
    struct engine_region region;
    struct notice notices[NOTICE_VEC_MAX];
    struct engine_event events[EVENT_VEC_MAX];
    struct sent *sent_head, **sent_tail;
    ns_t now;
};

/* ---- life ---- */

static void *map(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

static void pool_create(struct pkt_pool *pool, uint32_t count, uint32_t size) {
    uint8_t *bytes = map((size_t)count * size);
    pool->pkts = map(count * sizeof *pool->pkts);
    pool->free = calloc(count, sizeof *pool->free);
    CHECK(pool->free != NULL);
    pool->count = pool->free_count = count;
    pool->buf_size = size;
    for (uint32_t i = 0; i < count; i++) {
        pool->pkts[i].pool = pool;
        pool->pkts[i].index = i;
        pool->pkts[i].buf = bytes + (size_t)i * size;
        pool->pkts[i].buf_size = size;
        pool->free[i] = &pool->pkts[i];
    }
}

static void pool_destroy(struct pkt_pool *pool) {
    munmap(pool->pkts[0].buf, (size_t)pool->count * pool->buf_size);
    munmap(pool->pkts, pool->count * sizeof *pool->pkts);
    free(pool->free);
}

static void route(void *arg, const struct ipaddr *dst, struct engine_route *ret_route) {
    struct stack *s = arg;
    struct node *ip = &s->node[STACK_IP];
    struct ip_route_result r = {.error = -ENETUNREACH};
    struct ip_cmd_lookup cmd = {.cmd = {IP_CMD_LOOKUP, sizeof cmd}, .dst = *dst, .result = &r};
    struct engine_reply reply = {.error = 0};
    ip->io.now = s->now;
    ip->ops->command(ip->st, &ip->io, &cmd.cmd, &reply);
    *ret_route = (struct engine_route){.source = r.source,
                                       .error = reply.error < 0 ? reply.error : r.error,
                                       .port = r.port,
                                       .mtu = r.mtu,
                                       .local = r.port == PORT_SLOT_LOCAL};
}

static void node_create(struct stack *s, enum stack_engine e, const void *cfg) {
    struct node *n = &s->node[e];
    char err[128] = "";
    n->ops = ops_of[e];
    n->size = n->ops->state_size(cfg, err, sizeof err);
    if (n->size == 0)
        fprintf(stderr, "libusher-packetdrill: %s\n", err);
    CHECK(n->size != 0);
    n->st = map(n->size);
    CHECK(n->ops->init(n->st, n->size, cfg, 42 + e) == 0);
    CHECK(n->ops->counter_count <= COUNTERS);
    n->rng = 77 + e;
    n->io = (struct engine_io){.pool = &s->small,
                               .pool_large = &s->large,
                               .up = &n->up,
                               .down = &n->down,
                               .drop = &n->drop,
                               .done = &n->done,
                               .ports = s->ports,
                               .counters = n->counters,
                               .notices = s->notices,
                               .events = s->events,
                               .rng = &n->rng,
                               .regions = &s->region,
                               .region_count = 1,
                               .route = route,
                               .route_arg = s};
}

static void default_routes(struct stack *s) {
    static const uint8_t any4[4];
    struct ip_cmd_route r = {.cmd = {IP_CMD_ROUTE, sizeof r}, .prefix = ipaddr_from_v4(any4), .prefix_len = 96};
    CHECK(stack_command(s, STACK_IP, &r).error == 0);
    r.prefix = ipaddr_any();
    r.prefix_len = 0;
    r.metric = 1;
    CHECK(stack_command(s, STACK_IP, &r).error == 0);
}

struct stack *stack_create(const struct stack_config *cfg, ns_t now, const struct stack_app *app) {
    struct stack *s = aligned_alloc(CACHE_LINE, arena_round(sizeof *s));
    struct ip_config ip = {.addr_max = 64, .route_max = 64, .neigh_max = 64, .pmtu_max = 64};
    struct udp_config udp = {.socket_max = 64};
    CHECK(s != NULL);
    memset(s, 0, sizeof *s);
    s->app = *app;
    s->now = now;
    s->sent_tail = &s->sent_head;
    s->ports[0] = (struct port_info){.up = true,
                                     .caps = PORT_CAP_L3 | PORT_CAP_TX_GSO_TCP | PORT_CAP_TX_CSUM | PORT_CAP_TX_FRAGS,
                                     .mtu = cfg->mtu,
                                     .ifindex = 2};
    s->region = (struct engine_region){.base = map(STACK_REGION_SIZE), .size = STACK_REGION_SIZE};
    pool_create(&s->small, SMALL_COUNT, SMALL_SIZE);
    pool_create(&s->large, LARGE_COUNT, LARGE_SIZE);
    node_create(s, STACK_IP, &ip);
    node_create(s, STACK_UDP, &udp);
    node_create(s, STACK_TCP, &cfg->tcp);
    default_routes(s);
    return s;
}

static void put(struct pkt *p) {
    pkt_free(p->pool, p);
}

static void put_all(struct pkt_vec *vec) {
    for (uint32_t i = 0; i < vec->count; i++)
        put(vec->v[i]);
    vec->count = 0;
}

void stack_destroy(struct stack *s) {
    for (uint32_t i = 0; i < STACK_ENGINES; i++) {
        struct node *n = &s->node[i];
        do {
            put_all(&n->drop);
            n->ops->fini(n->st, &n->io);
        } while (n->drop.count != 0);
        put_all(&n->done);
        munmap(n->st, n->size);
    }
    while (s->sent_head != NULL) {
        struct sent *first = s->sent_head;
        s->sent_head = first->next;
        free(first);
    }
    CHECK(s->small.free_count == s->small.count && s->large.free_count == s->large.count);
    pool_destroy(&s->small);
    pool_destroy(&s->large);
    munmap((void *)(uintptr_t)s->region.base, STACK_REGION_SIZE);
    free(s);
}

/* ---- packets on their way ---- */

static struct sent *sent_add(struct stack *s, const void *bytes, size_t len) {
    struct sent *out = malloc(sizeof *out + len);
    CHECK(out != NULL);
    memcpy(out->bytes, bytes, len);
    out->len = len;
    out->next = NULL;
    out->at = s->now;
    *s->sent_tail = out;
    s->sent_tail = &out->next;
    return out;
}

/* What the interface does for the engine: lengths, header and transport sums of one whole packet. */
static void finish(struct sent *out, const struct flow *f, uint32_t l4) {
    uint32_t len = (uint32_t)out->len - l4;
    uint16_t sum = 0;
    uint8_t *h = out->bytes;
    if (h[0] >> 4 == 4) {
        be16_store(h + 2, (uint16_t)out->len);
        memcpy(h + 10, &sum, sizeof sum);
        sum = (uint16_t)~csum_fold(csum_add(0, h, l4));
        memcpy(h + 10, &sum, sizeof sum);
    } else {
        be16_store(h + 4, (uint16_t)len);
    }
    memset(h + l4 + 16, 0, 2);
    sum = (uint16_t)~csum_fold(csum_add(csum_pseudo(f, len), h + l4, len));
    memcpy(h + l4 + 16, &sum, sizeof sum);
}

/* Cuts a super-segment: FIN and PSH belong to the last part, CWR to the first. */
static void leave_cut(struct stack *s, const struct pkt *p, const uint8_t *bytes, size_t len) {
    static uint8_t part[STACK_PACKET_MAX];
    uint32_t l4 = bytes[0] >> 4 == 4 ? IP4_LEN : IP6_LEN, head = l4 + (uint32_t)(bytes[l4 + 12] >> 4) * 4;
    uint32_t size = p->flags & PKT_GSO ? p->gso_size : (uint32_t)len;
    uint32_t seq = be32_load(bytes + l4 + 4);
    memcpy(part, bytes, head);
    for (size_t at = head; at < len || at == head; at += size) {
        size_t n = len - at < size ? len - at : size;
        bool last = at + n >= len;
        memcpy(part + head, bytes + at, n);
        be32_store(part + l4 + 4, seq + (uint32_t)(at - head));
        part[l4 + 13] = (uint8_t)(bytes[l4 + 13] & ~(last ? 0 : 0x09) & ~(at == head ? 0 : 0x80));
        finish(sent_add(s, part, head + n), &p->flow, l4);
    }
}

static void leave(struct stack *s, struct pkt *p) {
    static uint8_t bytes[STACK_PACKET_MAX + 4096];
    size_t len = p->len;
    CHECK(pkt_bytes(p) <= sizeof bytes);
    memcpy(bytes, p->data, p->len);
    for (uint32_t i = 0; i < p->frag_count; len += p->frag[i++].len)
        memcpy(bytes + len, p->frag[i].base, p->frag[i].len);
    if (p->flags & (PKT_GSO | PKT_CSUM_PARTIAL))
        leave_cut(s, p, bytes, len);
    else
        (void)sent_add(s, bytes, len);
    put(p);
}

static struct node *transport_of(struct stack *s, const struct pkt *p) {
    return p->flow.proto == PROTO_TCP ? &s->node[STACK_TCP] : p->flow.proto == PROTO_UDP ? &s->node[STACK_UDP] : NULL;
}

static void feed(struct stack *s, struct node *n, bool up, struct pkt *p) {
    n->io.now = s->now;
    (up ? n->ops->input : n->ops->output)(n->st, &n->io, &p, 1);
}

/* One packet of ip's: further up, round, or out. */
static void from_ip(struct stack *s, struct pkt *p, bool up) {
    if (up && transport_of(s, p) != NULL)
        feed(s, transport_of(s, p), true, p);
    else if (up)
        put(p);
    else if (p->flags & PKT_LOCAL)
        feed(s, &s->node[STACK_IP], true, p);
    else
        leave(s, p);
}

static void tell(struct stack *s, struct node *n) {
    struct notice notices[NOTICE_VEC_MAX];
    uint32_t count = n->io.notice_count;
    memcpy(notices, s->notices, count * sizeof *notices);
    n->io.notice_count = n->io.event_count = 0;
    for (uint32_t i = 0; i < count; i++)
        s->app.notice(s->app.arg, &notices[i]);
}

/* What was in a vec is taken out before anything else runs: that may call the engine again. */
static uint32_t take(struct pkt_vec *vec, struct pkt **ret_pkts) {
    uint32_t n = vec->count;
    memcpy(ret_pkts, vec->v, n * sizeof *ret_pkts);
    vec->count = 0;
    return n;
}

static bool settle_node(struct stack *s, enum stack_engine e) {
    struct node *n = &s->node[e];
    struct pkt *up[PKT_VEC_MAX], *down[PKT_VEC_MAX];
    uint32_t ups = take(&n->up, up), downs = take(&n->down, down), told = n->io.notice_count;
    put_all(&n->drop);
    put_all(&n->done);
    for (uint32_t i = 0; i < ups; i++) {
        if (e == STACK_IP) {
            from_ip(s, up[i], true);
            continue;
        }
        s->app.deliver(s->app.arg, up[i]);
        put(up[i]);
    }
    for (uint32_t i = 0; i < downs; i++) {
        if (e == STACK_IP)
            from_ip(s, down[i], false);
        else
            feed(s, &s->node[STACK_IP], false, down[i]);
    }
    tell(s, n);
    return ups + downs + told != 0;
}

static void settle(struct stack *s) {
    bool more;
    do {
        more = false;
        for (uint32_t e = 0; e < STACK_ENGINES; e++)
            more |= settle_node(s, e);
    } while (more);
    for (uint32_t e = 0; e < STACK_ENGINES; e++) {
        int broken = s->node[e].ops->check == NULL ? 0 : s->node[e].ops->check(s->node[e].st);
        if (broken != 0)
            fprintf(stderr, "libusher-packetdrill: %s breaks its invariant %d\n", s->node[e].ops->name, broken);
        CHECK(broken == 0);
    }
}

/* ---- time ---- */

ns_t stack_now(const struct stack *s) {
    return s->now;
}

ns_t stack_deadline(const struct stack *s) {
    ns_t at = NS_NEVER;
    for (uint32_t e = 0; e < STACK_ENGINES; e++) {
        ns_t due = s->node[e].ops->next_deadline(s->node[e].st);
        at = due < at ? due : at;
    }
    return at == NS_NEVER || at > s->now ? at : s->now;
}

static void run_due(struct stack *s) {
    for (uint32_t e = 0; e < STACK_ENGINES; e++) {
        struct node *n = &s->node[e];
        if (n->ops->next_deadline(n->st) > s->now)
            continue;
        n->io.now = s->now;
        (void)n->ops->run(n->st, &n->io, PKT_BURST);
        settle(s);
    }
}

void stack_advance(struct stack *s, ns_t to, bool until_sent) {
    ns_t due;
    uint32_t rounds = 0;
    while ((due = stack_deadline(s)) <= to && !(until_sent && s->sent_head != NULL)) {
        rounds = due == s->now ? rounds + 1 : 0;
        CHECK(rounds < ROUNDS_MAX);
        s->now = due;
        run_due(s);
    }
    if (!(until_sent && s->sent_head != NULL) && to > s->now && to != NS_NEVER)
        s->now = to;
}

/* ---- both ends ---- */

void stack_address(struct stack *s, const struct ipaddr *addr) {
    struct ip_cmd_addr a = {.cmd = {IP_CMD_ADDR, sizeof a}, .addr = *addr, .prefix_len = 128};
    CHECK(stack_command(s, STACK_IP, &a).error == 0);
}

void stack_receive(struct stack *s, const void *packet, size_t len) {
    struct pkt *p = pkt_alloc(len + PKT_HEADROOM <= SMALL_SIZE ? &s->small : &s->large);
    CHECK(p != NULL && len <= STACK_PACKET_MAX);
    memcpy(p->data, packet, len);
    p->len = (uint32_t)len;
    p->port = 0;
    p->rx_ns = s->now;
    feed(s, &s->node[STACK_IP], true, p);
    settle(s);
}

bool stack_has_sent(const struct stack *s) {
    return s->sent_head != NULL;
}

size_t stack_sent(struct stack *s, void *packet, size_t size, ns_t *ret_at) {
    struct sent *first = s->sent_head;
    if (first == NULL)
        return 0;
    size_t len = first->len < size ? first->len : size;
    memcpy(packet, first->bytes, len);
    *ret_at = first->at;
    s->sent_head = first->next;
    if (s->sent_head == NULL)
        s->sent_tail = &s->sent_head;
    free(first);
    return len;
}

struct engine_reply stack_command(struct stack *s, enum stack_engine engine, const void *cmd) {
    struct node *n = &s->node[engine];
    struct engine_reply r = {.error = 0};
    n->io.now = s->now;
    n->ops->command(n->st, &n->io, (const struct engine_cmd *)cmd, &r);
    settle(s);
    return r;
}

void stack_send_stream(struct stack *s, const struct stack_send *send) {
    struct pkt *p = pkt_alloc(&s->small);
    CHECK(p != NULL && send->offset + send->len <= STACK_REGION_SIZE);
    p->flags = (uint16_t)(PKT_REGION | send->flags);
    p->sock = send->sock;
    p->sink = send->sink;
    p->user = send->offset;
    p->frag_len = send->len;
    feed(s, &s->node[STACK_TCP], false, p);
    settle(s);
}

int stack_send_datagram(struct stack *s, const struct stack_send *send, const void *data) {
    struct pkt *p = pkt_alloc(send->len + PKT_HEADROOM <= SMALL_SIZE ? &s->small : &s->large);
    if (p == NULL || send->len + PKT_HEADROOM > p->buf_size) {
        if (p != NULL)
            put(p);
        return -EMSGSIZE;
    }
    memcpy(p->data, data, send->len);
    p->len = send->len;
    p->sock = send->sock;
    p->sink = send->sink;
    p->flow = (struct flow){.remote = send->remote, .remote_port = send->remote_port, .proto = PROTO_UDP};
    feed(s, &s->node[STACK_UDP], false, p);
    settle(s);
    return 0;
}

void stack_credit(struct stack *s, const struct engine_credit *credit) {
    struct node *n = &s->node[STACK_TCP];
    n->io.now = s->now;
    n->ops->credit(n->st, &n->io, credit, 1);
    settle(s);
}

uint8_t *stack_region(struct stack *s) {
    return (uint8_t *)(uintptr_t)s->region.base;
}
