/* SPDX-License-Identifier: Apache-2.0
 *
 * The two-endpoint fixture. See testlink.h. Test code: heap memory, CHECK on everything that must hold.
 */
#include "engines/tcp/testlink_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engines/wire.h"

extern const struct engine_ops usher_engine_tcp;
const struct engine_ops *link_ops = &usher_engine_tcp;
#define OPS link_ops
uint32_t link_pool_size = LINK_POOL;

#define REGION_SIZE (32u << 20)
#define REGION_PART (REGION_SIZE / 2 / LINK_SOCK_MAX) /* the first one has the other half */

static void check_engine(struct link *l, uint32_t h) {
    int broken = OPS->check(l->host[h].st);
    if (broken != 0)
        link_check_failed("check() says that an invariant is broken", broken);
}

static void put_all(struct link_host *h, struct pkt_vec *vec) {
    for (uint32_t i = 0; i < vec->count; i++) {
        if (vec == &h->drop)
            h->drops[vec->v[i]->drop]++;
        link_put(vec->v[i]);
    }
    vec->count = 0;
}

struct route_arg {
    struct link *l;
    uint32_t h;
};
static struct route_arg route_args[2];

static void route(void *arg, const struct ipaddr *dst, struct engine_route *ret_route) {
    const struct route_arg *a = arg;
    (void)dst;
    *ret_route = (struct engine_route){.source = link_address(a->l, a->h), .mtu = a->l->mtu, .local = a->l->local};
}

/* ---- life ---- */

static void host_create(struct link *l, uint32_t i, struct tcp_config config, uint64_t seed) {
    struct link_host *h = &l->host[i];
    const struct tcp_config *cfg = &h->cfg;
    h->cfg = config;
    char err[128];
    h->size = OPS->state_size(cfg, err, sizeof err);
    CHECK(h->size != 0);
    h->st = link_map(h->size);
    CHECK(OPS->init(h->st, h->size, cfg, seed) == 0);
    link_pool_create(&h->small, link_pool_size, LINK_SMALL_SIZE);
    link_pool_create(&h->large, LINK_LARGE, LINK_LARGE_SIZE);
    h->region.base = link_map(REGION_SIZE);
    h->region.size = REGION_SIZE;
    h->rng = seed + i;
    h->accept_as.chunk = 16384;
    route_args[i] = (struct route_arg){l, i};
    h->ports[0] = (struct port_info){.up = true, .mtu = l->mtu};
    h->io = (struct engine_io){.pool = &h->small,
                               .pool_large = &h->large,
                               .up = &h->up,
                               .down = &h->down,
                               .drop = &h->drop,
                               .done = &h->done,
                               .ports = h->ports,
                               .counters = h->counters,
                               .notices = h->notices,
                               .events = h->events,
                               .rng = &h->rng,
                               .regions = &h->region,
                               .region_count = 1,
                               .route = route,
                               .route_arg = &route_args[i]};
}

/* Sizes for tests where a config leaves them open. */
static struct tcp_config with_defaults(const struct tcp_config *cfg, const struct tcp_config *standard) {
    if (cfg == NULL)
        return *standard;
    struct tcp_config c = *cfg;
    c.conn_max = c.conn_max != 0 ? c.conn_max : standard->conn_max;
    c.listener_max = c.listener_max != 0 ? c.listener_max : standard->listener_max;
    c.half_open_max = c.half_open_max != 0 ? c.half_open_max : standard->half_open_max;
    c.time_wait_max = c.time_wait_max != 0 ? c.time_wait_max : standard->time_wait_max;
    c.item_max = c.item_max != 0 ? c.item_max : standard->item_max;
    c.segment_max = c.segment_max != 0 ? c.segment_max : standard->segment_max;
    c.port_low = c.port_low != 0 ? c.port_low : standard->port_low;
    c.port_high = c.port_high != 0 ? c.port_high : standard->port_high;
    return c;
}

struct link *link_create(uint64_t seed, const struct tcp_config *a, const struct tcp_config *b) {
    static const struct tcp_config standard = {.conn_max = 256,
                                               .listener_max = 8,
                                               .half_open_max = 64,
                                               .time_wait_max = 64,
                                               .item_max = 16384,
                                               .segment_max = 16384,
                                               .port_low = 32768,
                                               .port_high = 40000};
    struct link *l = calloc(1, sizeof *l);
    CHECK(l != NULL);
    l->mtu = 1500;
    l->rng = seed;
    l->now = 1000 * NS_PER_SEC + seed % 1000003;
    l->trace = 0xcbf29ce484222325ull;
    host_create(l, 0, with_defaults(a, &standard), seed * 2 + 1);
    host_create(l, 1, with_defaults(b, &standard), seed * 2 + 2);
    memset(link_last, 0, sizeof link_last);
    return l;
}

void link_destroy(struct link *l) {
    for (uint32_t i = 0; i < l->flights; i++)
        link_put(l->flight[i].p);
    for (uint32_t i = 0; i < 2; i++) {
        struct link_host *h = &l->host[i];
        h->io.now = l->now;
        OPS->fini(h->st, &h->io);
        put_all(h, &h->drop);
        put_all(h, &h->done);
        put_all(h, &h->up);
        put_all(h, &h->down);
        link_pool_destroy(&h->small);
        link_pool_destroy(&h->large);
        munmap((void *)(uintptr_t)h->region.base, REGION_SIZE);
        munmap(h->st, h->size);
    }
    free(l);
}

/* ---- the host ---- */

static struct link_sock *sock_of(struct link_host *h, uint64_t sink) {
    uint32_t i = SINK_HANDLE(sink);
    return i >= 1 && i <= LINK_SOCK_MAX && h->socks[i - 1].used ? &h->socks[i - 1] : NULL;
}

static uint32_t sock_new(struct link_host *h) {
    uint32_t i = 0;
    while (i < LINK_SOCK_MAX && h->socks[i].used)
        i++;
    CHECK(i < LINK_SOCK_MAX);
    memset(&h->socks[i], 0, sizeof h->socks[i]);
    h->socks[i].used = true;
    h->socks[i].sink = SINK(SINK_SESSION, 0, i + 1);
    h->socks[i].region_at = i == 0 ? 0 : REGION_SIZE / 2 + (uint64_t)i * REGION_PART;
    h->socks[i].region_size = i == 0 ? REGION_SIZE / 2 : REGION_PART;
    h->socks[i].chunk = 16384;
    return i;
}

static void verify(struct link_sock *s, const uint8_t *data, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        s->rx_corrupt += data[i] != link_byte(s->rx_expect_key, s->rx_bytes + i);
    s->rx_bytes += n;
}

static void take_up(struct link *l, uint32_t hi) {
    struct link_host *h = &l->host[hi];
    for (uint32_t i = 0; i < h->up.count; i++) {
        struct pkt *p = h->up.v[i];
        struct link_sock *s = sock_of(h, p->sink);
        CHECK(s != NULL && s->sock == p->sock && !s->hung_up && !s->closed);
        CHECK(pkt_bytes(p) != 0);
        verify(s, p->data, p->len);
        for (uint32_t f = 0; f < p->frag_count; f++)
            verify(s, p->frag[f].base, p->frag[f].len);
        l->trace = (l->trace ^ s->rx_bytes ^ l->now) * 0x100000001b3ull;
        link_put(p);
    }
    h->up.count = 0;
}

static void settle(struct link *l, uint32_t hi);

static void adopt(struct link *l, uint32_t hi, const struct notice *n) {
    struct link_host *h = &l->host[hi];
    h->accepts++;
    if (h->refuse_adopt)
        return;
    uint32_t i = sock_new(h);
    struct link_sock *s = &h->socks[i];
    const struct link_sock *as = &h->accept_as;
    s->sock = n->extra;
    s->connected = s->adopted = true;
    s->tx_total = as->tx_total;
    s->chunk = as->chunk;
    s->tx_key = 0x5eef;
    s->rx_expect_key = 0xc11e;
    s->read_rate = as->read_rate;
    s->no_read = as->no_read;
    s->close_when_done = as->close_when_done;
    struct tcp_cmd_adopt a = {.cmd = {TCP_CMD_ADOPT, sizeof a}, .sock = n->extra, .sink = s->sink};
    a.peer = n->addr;
    a.peer_port = n->port;
    struct engine_reply r;
    OPS->command(h->st, &h->io, &a.cmd, &r);
    if (r.error != 0)
        s->used = false;
}

static void take_notice(struct link *l, uint32_t hi, const struct notice *n) {
    struct link_sock *s = sock_of(&l->host[hi], n->sink);
    if (n->kind == NOTICE_ACCEPT) {
        adopt(l, hi, n);
        return;
    }
    CHECK(s != NULL && !s->closed);
    switch (n->kind) {
    case NOTICE_CONNECTED:
        CHECK(!s->connected);
        s->connected = s->adopted = true;
        break;
    case NOTICE_HANGUP:
        CHECK(!s->hung_up);
        s->hung_up = true;
        break;
    case NOTICE_ERROR:
        s->error = (int)n->value;
        break;
    case NOTICE_URGENT:
        s->urgents++;
        s->urgent_end = n->extra;
        break;
    case NOTICE_TX_DONE:
        s->tx_done += n->extra;
        CHECK(s->tx_done <= s->tx_queued);
        break;
    case NOTICE_CLOSED:
        s->closed = true;
        break;
    default:
        break;
    }
}

/* Hands on all that a call produced; adopting produces more. */
static void settle(struct link *l, uint32_t hi) {
    struct link_host *h = &l->host[hi];
    struct notice notices[NOTICE_VEC_MAX];
    do {
        take_up(l, hi);
        uint32_t n = h->io.notice_count;
        memcpy(notices, h->notices, n * sizeof *notices);
        h->io.notice_count = 0;
        for (uint32_t i = 0; i < h->down.count; i++) {
            link_transmit(l, hi, h->down.v[i]);
            link_put(h->down.v[i]);
        }
        h->down.count = 0;
        put_all(h, &h->drop);
        put_all(h, &h->done);
        for (uint32_t i = 0; i < n; i++)
            take_notice(l, hi, &notices[i]);
    } while (h->up.count + h->down.count + h->io.notice_count + h->done.count + h->drop.count != 0);
    check_engine(l, hi);
}

struct engine_reply link_command(struct link *l, uint32_t host, const void *cmd) {
    struct engine_reply r;
    l->host[host].io.now = l->now;
    OPS->command(l->host[host].st, &l->host[host].io, cmd, &r);
    settle(l, host);
    return r;
}

uint32_t link_listen(struct link *l, uint32_t host, uint16_t port, const struct tcp_cmd_listen *more) {
    struct tcp_cmd_listen c = {.backlog = 64};
    if (more != NULL)
        c = *more;
    c.cmd = (struct engine_cmd){TCP_CMD_LISTEN, sizeof c};
    c.flow.local_port = port;
    if (c.sink == 0)
        c.sink = SINK(SINK_SESSION, 0, 0xffff);
    struct engine_reply r = link_command(l, host, &c);
    if (r.error != 0)
        link_check_failed("listen", r.error);
    return r.value;
}

uint32_t link_connect(struct link *l, uint32_t host, uint16_t port, uint64_t bytes,
                      const struct tcp_cmd_connect *more) {
    struct link_host *h = &l->host[host];
    uint32_t i = sock_new(h);
    struct link_sock *s = &h->socks[i];
    struct tcp_cmd_connect c = {0};
    if (more != NULL)
        c = *more;
    c.cmd = (struct engine_cmd){TCP_CMD_CONNECT, sizeof c};
    c.flow.remote = link_address(l, !host);
    c.flow.remote_port = port;
    c.sink = s->sink;
    s->tx_total = bytes;
    s->tx_key = 0xc11e;
    s->rx_expect_key = 0x5eef;
    struct engine_reply r;
    h->io.now = l->now;
    OPS->command(h->st, &h->io, &c.cmd, &r);
    s->sock = r.value;
    s->error = -r.error;
    settle(l, host);
    return i;
}

void link_close(struct link *l, uint32_t host, uint32_t s, bool abort) {
    struct tcp_cmd_close c = {.cmd = {TCP_CMD_CLOSE, sizeof c}, .abort = abort};
    c.sock = l->host[host].socks[s].sock;
    c.sink = l->host[host].socks[s].sink;
    (void)link_command(l, host, &c);
}

void link_shutdown(struct link *l, uint32_t host, uint32_t s) {
    struct tcp_cmd_sock c = {.cmd = {TCP_CMD_SHUTDOWN, sizeof c}};
    c.sock = l->host[host].socks[s].sock;
    c.sink = l->host[host].socks[s].sink;
    l->host[host].socks[s].shut = true;
    (void)link_command(l, host, &c);
}

int link_option(struct link *l, uint32_t host, uint32_t s, uint32_t option, int64_t value) {
    struct tcp_cmd_option c = {.cmd = {TCP_CMD_OPTION, sizeof c}, .option = option, .value = value};
    c.sock = l->host[host].socks[s].sock;
    return link_command(l, host, &c).error;
}

struct tcp_conn_info link_info(struct link *l, uint32_t host, uint32_t s) {
    struct tcp_conn_info info = {0};
    struct tcp_cmd_info c = {.cmd = {TCP_CMD_INFO, sizeof c}, .info = &info};
    c.sock = l->host[host].socks[s].sock;
    (void)link_command(l, host, &c);
    return info;
}

struct tcp_stats link_stats(struct link *l, uint32_t host) {
    struct tcp_stats stats = {0};
    struct tcp_cmd_stats c = {.cmd = {TCP_CMD_STATS, sizeof c}, .stats = &stats};
    (void)link_command(l, host, &c);
    return stats;
}

/* ---- programs ---- */

static bool send_chunk(struct link *l, uint32_t hi, struct link_sock *s) {
    struct link_host *h = &l->host[hi];
    uint64_t room = s->region_size - (s->tx_queued - s->tx_done), at = s->tx_queued % s->region_size;
    uint64_t n = s->tx_total - s->tx_queued;
    n = n < s->chunk ? n : s->chunk;
    n = n < s->region_size - at ? n : s->region_size - at;
    if (s->urgent_at > s->tx_queued && s->urgent_at < s->tx_queued + n)
        n = s->urgent_at - s->tx_queued;
    if (n == 0 || n > room || s->shut || s->closed || s->tx_queued - s->tx_done > s->region_size / 2)
        return false;
    uint8_t *to = (uint8_t *)(uintptr_t)h->region.base + s->region_at + at;
    for (uint64_t i = 0; i < n; i++)
        to[i] = link_byte(s->tx_key, s->tx_queued + i);
    struct pkt *p = pkt_alloc(&h->small);
    if (p == NULL)
        return false;
    p->flags |= (uint16_t)(PKT_REGION | (s->urgent_at == s->tx_queued + n ? PKT_URGENT : 0));
    p->sock = s->sock;
    p->sink = s->sink;
    p->user = (uint32_t)(s->region_at + at);
    p->frag_len = (uint32_t)n;
    s->tx_queued += n;
    h->io.now = l->now;
    OPS->output(h->st, &h->io, &p, 1);
    settle(l, hi);
    return true;
}

static void read_some(struct link *l, uint32_t hi, struct link_sock *s) {
    struct link_host *h = &l->host[hi];
    if (s->no_read || s->closed)
        return;
    uint64_t n = s->rx_bytes - s->rx_credited;
    if (s->read_rate != 0) {
        uint64_t may = (l->now / NS_PER_MS) * s->read_rate;
        n = may > s->rx_credited ? (n < may - s->rx_credited ? n : may - s->rx_credited) : 0;
    }
    if (n == 0)
        return;
    struct engine_credit c = {.sink = s->sink, .sock = s->sock, .bytes = (uint32_t)n};
    s->rx_credited += n;
    h->io.now = l->now;
    OPS->credit(h->st, &h->io, &c, 1);
    settle(l, hi);
}

void link_pump(struct link *l, uint32_t hi) {
    for (uint32_t i = 0; i < LINK_SOCK_MAX; i++) {
        struct link_sock *s = &l->host[hi].socks[i];
        if (!s->used)
            continue;
        read_some(l, hi, s);
        while (!s->closed && s->error == 0 && (s->connected || s->tx_queued == 0) && s->tx_queued < s->tx_total &&
               send_chunk(l, hi, s))
            ;
        if (s->close_when_done && !s->shut && s->tx_queued == s->tx_total && s->connected && !s->closed &&
            (s->hung_up || s->tx_total > 0))
            link_shutdown(l, hi, i);
    }
}

/* ---- time ---- */

static void deliver_due(struct link *l) {
    for (uint32_t h = 0; h < 2; h++) {
        struct pkt *burst[PKT_BURST];
        uint32_t n = 0;
        while (l->flights > 0 && l->flight[0].at <= l->now && l->flight[0].to == h && n < PKT_BURST) {
            burst[n] = link_dequeue(l).p;
            burst[n]->rx_ns = l->now;
            n++;
        }
        if (n == 0)
            continue;
        l->host[h].rx_packets += n;
        l->host[h].io.now = l->now;
        OPS->input(l->host[h].st, &l->host[h].io, burst, n);
        settle(l, h);
        link_pump(l, h);
    }
}

static bool reading_slowly(const struct link *l) {
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t i = 0; i < LINK_SOCK_MAX; i++)
            if (l->host[h].socks[i].used && l->host[h].socks[i].read_rate != 0 && !l->host[h].socks[i].closed)
                return true;
    return false;
}

static ns_t next_event(struct link *l, bool slow) {
    ns_t at = l->flights > 0 ? l->flight[0].at : NS_NEVER;
    for (uint32_t h = 0; h < 2; h++) {
        ns_t d = OPS->next_deadline(l->host[h].st);
        if (d < l->now)
            d = l->now;
        at = d < at ? d : at;
    }
    if (slow && l->now + NS_PER_MS < at)
        at = l->now + NS_PER_MS;
    return at;
}

static void step(struct link *l) {
    l->steps++;
    if (l->each_step != NULL)
        l->each_step(l);
    deliver_due(l);
    for (uint32_t h = 0; h < 2; h++) {
        struct link_host *host = &l->host[h];
        host->io.now = l->now;
        if (OPS->next_deadline(host->st) > l->now)
            continue;
        (void)OPS->run(host->st, &host->io, 64);
        settle(l, h);
    }
    link_pump(l, 0);
    link_pump(l, 1);
}

bool link_run(struct link *l, ns_t until, bool (*done)(struct link *l)) {
    bool slow = reading_slowly(l);
    link_pump(l, 0);
    link_pump(l, 1);
    ns_t stuck = l->now;
    uint32_t same = 0;
    while (done == NULL || !done(l)) {
        ns_t at = next_event(l, slow);
        if (at > until) {
            l->now = until == NS_NEVER ? l->now : until;
            return done == NULL;
        }
        l->now = at;
        same = at == stuck ? same + 1 : 0;
        stuck = at;
        if (same > 100000)
            link_check_failed("time stands still", (int)same);
        step(l);
        slow = slow || (l->steps % 64 == 0 && reading_slowly(l));
    }
    return true;
}

void link_step_time(struct link *l, ns_t until) {
    (void)link_run(l, until, NULL);
}

/* ---- hand-made segments ---- */

void link_inject(struct link *l, uint32_t to, const struct link_segment *s) {
    uint8_t bytes[2200] = {0};
    struct pkt meta = {.flow = {.local = link_address(l, !to), .remote = link_address(l, to), .proto = PROTO_TCP}};
    uint32_t header = TCP_LEN + ((s->opts_len + 3) & ~3u);
    be16_store(bytes, s->sport);
    be16_store(bytes + 2, s->dport);
    be32_store(bytes + 4, s->seq);
    be32_store(bytes + 8, s->ack);
    bytes[12] = (uint8_t)((s->doff != 0 ? s->doff : header / 4) << 4);
    bytes[13] = s->flags;
    be16_store(bytes + 14, s->wnd);
    if (s->opts_len != 0)
        memcpy(bytes + TCP_LEN, s->opts, s->opts_len);
    if (s->len != 0)
        memcpy(bytes + header, s->data, s->len);
    struct pkt *p = link_arrive(l, to, &meta, bytes, header + s->len);
    CHECK(p != NULL);
    if (s->bad_csum)
        p->data[16] ^= 0x55;
    p->flags |= s->pkt_flags | (s->broadcast ? PKT_BROADCAST : 0);
    l->host[to].io.now = l->now;
    OPS->input(l->host[to].st, &l->host[to].io, &p, 1);
    settle(l, to);
}

void link_inject_icmp(struct link *l, uint32_t to, uint16_t sport, uint16_t dport, uint32_t seq, int error,
                      uint32_t mtu) {
    struct pkt *p = pkt_alloc(&l->host[to].small);
    CHECK(p != NULL);
    be16_store(p->data, sport);
    be16_store(p->data + 2, dport);
    be32_store(p->data + 4, seq);
    p->len = 8;
    p->flags |= PKT_ICMP_ERROR;
    p->flow = (struct flow){.local = link_address(l, to), .remote = link_address(l, !to), .proto = PROTO_TCP};
    p->user = (uint32_t)error;
    p->user_data = mtu;
    link_enqueue(l, to, p, l->now);
}

/* ---- upgrade, crash ---- */

void link_upgrade(struct link *l, uint32_t host) {
    struct link_host *h = &l->host[host];
    const struct tcp_config cfg = h->cfg;
    size_t size = OPS->state_size(&cfg, NULL, 0);
    void *fresh = link_map(size);
    static uint8_t buf[1 << 20];
    uint64_t cursor = 0;
    int64_t n;
    CHECK(OPS->init(fresh, size, &cfg, 99) == 0);
    while ((n = OPS->save(h->st, &cursor, buf, sizeof buf)) > 0) {
        int error = OPS->load(fresh, OPS->layout_version, buf, (size_t)n);
        if (error != 0)
            link_check_failed("load", error);
    }
    CHECK(n == 0);
    h->io.now = l->now;
    OPS->fini(h->st, &h->io);
    put_all(h, &h->drop);
    put_all(h, &h->done);
    h->io.notice_count = 0;
    munmap(h->st, h->size);
    h->st = fresh;
    h->size = size;
    check_engine(l, host);
}

static void pool_reset(struct link *l, uint32_t host, struct pkt_pool *pool) {
    pool->free_count = 0;
    for (uint32_t i = 0; i < pool->count; i++) {
        bool carried = false;
        for (uint32_t k = 0; k < l->flights && !carried; k++)
            carried = l->flight[k].to == host && l->flight[k].p == &pool->pkts[i];
        if (!carried)
            pool->free[pool->free_count++] = &pool->pkts[i];
    }
}

/* What a host does for each socket after a restart. */
static void resync(struct link *l, uint32_t host, uint32_t i) {
    struct link_host *h = &l->host[host];
    struct link_sock *s = &h->socks[i];
    struct tcp_cmd_sync c = {.cmd = {TCP_CMD_SYNC, sizeof c}, .sock = s->sock, .sink = s->sink};
    c.rx_bytes = s->rx_bytes;
    c.held = (uint32_t)(s->rx_bytes - s->rx_credited);
    s->hung_up = false; /* it is said again */
    s->connected = false;
    struct engine_reply r;
    h->io.now = l->now;
    OPS->command(h->st, &h->io, &c.cmd, &r);
    if (r.error == -ENOENT) {
        s->closed = s->hung_up = s->connected = true;
        s->tx_done = s->tx_queued;
    } else if (r.error != 0) {
        link_check_failed("sync", r.error);
    } else {
        s->tx_queued = r.value; /* no stream of a test is longer than 4 GiB */
        s->tx_done = r.value64;
    }
    settle(l, host);
    s->connected = s->adopted; /* only the side that connected is told again */
    if (s->shut && !s->closed)
        link_shutdown(l, host, i);
}

uint32_t link_crash(struct link *l, uint32_t host) {
    struct link_host *h = &l->host[host];
    uint32_t lost = 0;
    h->up.count = h->down.count = h->drop.count = h->done.count = h->io.notice_count = 0;
    int error = OPS->recover(h->st, h->size, &lost);
    if (error != 0)
        link_check_failed("recover", error);
    pool_reset(l, host, &h->small);
    pool_reset(l, host, &h->large);
    check_engine(l, host);
    for (uint32_t i = 0; i < LINK_SOCK_MAX; i++)
        if (h->socks[i].used && !h->socks[i].closed)
            resync(l, host, i);
    return lost;
}

bool link_all_closed(struct link *l) {
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t i = 0; i < LINK_SOCK_MAX; i++)
            if (l->host[h].socks[i].used && !l->host[h].socks[i].closed)
                return false;
    return true;
}

struct link *link_stream(uint64_t seed, const struct tcp_config *cfg, const struct link_faults *f, uint64_t up,
                         uint64_t down) {
    struct link *l = link_create(seed, cfg, cfg);
    if (f != NULL)
        l->faults[0] = l->faults[1] = *f;
    l->host[1].accept_as.tx_total = down;
    l->host[1].accept_as.close_when_done = true;
    (void)link_listen(l, 1, 80, NULL);
    uint32_t s = link_connect(l, 0, 80, up, NULL);
    l->host[0].socks[s].close_when_done = true;
    return l;
}

const char *link_stream_wrong(struct link *l, uint64_t up, uint64_t down) {
    static char text[160];
    const struct link_sock *c = &l->host[0].socks[0], *s = &l->host[1].socks[0];
    snprintf(text, sizeof text,
             "errors %d %d, server %lu of %lu, client %lu of %lu, corrupt %u, hung up %d %d, done %lu %lu", c->error,
             s->error, s->rx_bytes, up, c->rx_bytes, down, s->rx_corrupt + c->rx_corrupt, c->hung_up, s->hung_up,
             c->tx_done, s->tx_done);
    bool good = c->error == 0 && s->error == 0 && s->rx_bytes == up && c->rx_bytes == down &&
                s->rx_corrupt + c->rx_corrupt == 0 && c->hung_up && s->hung_up && c->tx_done == up &&
                s->tx_done == down;
    if (!good)
        return text;
    return link_pools_whole(l) ? NULL : "packets are missing from a pool";
}

bool link_pools_whole(struct link *l) {
    for (uint32_t i = 0; i < 2; i++) {
        struct link_host *h = &l->host[i];
        uint32_t out = h->small.count - h->small.free_count + h->large.count - h->large.free_count;
        uint32_t carried = 0;
        for (uint32_t k = 0; k < l->flights; k++)
            carried += l->flight[k].to == i;
        if (out != carried + link_stats(l, i).ooo_packets)
            return false;
    }
    return true;
}
