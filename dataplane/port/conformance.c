/* SPDX-License-Identifier: Apache-2.0
 *
 * The conformance cases; see conformance.h. Frames carry an experimental Ethernet type and a number; everything else
 * that a kernel interface may say by itself is ignored. Waiting is bounded by PATIENCE and never a sleep.
 */
#include "dataplane/port/conformance.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engines/wire.h"

#define TEST_TYPE 0x88b5
#define PATIENCE  (10 * NS_PER_SEC)

struct end {
    struct port_queue *q;
    struct pkt_pool *pool;
    struct pkt_vec done, drop;
    uint32_t next_sent, next_seen; /* numbers */
    uint32_t done_count, drop_count;
};

struct link {
    struct rig rig;
    const struct rig_kind *kind;
    struct end end[2];
};

static ns_t clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (ns_t)t.tv_sec * NS_PER_SEC + (ns_t)t.tv_nsec;
}

/* --- rigs ------------------------------------------------------------------------------------------------------ */

static bool link_open(struct link *l, const struct rig_kind *kind) {
    memset(l, 0, sizeof *l);
    l->kind = kind;
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pktmem_create(&l->rig.mem[i], kind->frame_count, kind->frame_size, 0), 0);
    struct port_error err = {""};
    int error = kind->open(&l->rig, &err);
    if (error == -EPERM || error == -EOPNOTSUPP) {
        fprintf(stderr, "SKIPPED: %s: %s\n", kind->name, err.text);
        return false;
    }
    cr_assert_eq(error, 0, "%s: %s", kind->name, err.text);
    for (int i = 0; i < 2; i++) {
        l->end[i].q = l->rig.port[i]->queue[0];
        l->end[i].pool = &l->rig.mem[i].pool;
        l->end[i].q->now = clock_now();
        cr_assert_eq(l->end[i].q->ops->attach(l->end[i].q), 0);
    }
    return true;
}

static void vec_free(struct pkt_vec *vec, uint32_t *count) {
    for (uint32_t i = 0; i < vec->count; i++)
        pkt_free(vec->v[i]->pool, vec->v[i]);
    *count += vec->count;
    vec->count = 0;
}

static void end_reap(struct end *e) {
    e->q->now = clock_now();
    e->q->ops->reap(e->q, &e->done);
    vec_free(&e->done, &e->done_count);
    vec_free(&e->drop, &e->drop_count);
}

static void link_close(struct link *l) {
    for (int i = 0; i < 2; i++)
        l->end[i].q->ops->detach(l->end[i].q);
    for (int i = 0; i < 2; i++)
        port_destroy(l->rig.port[i]);
    for (int i = 0; i < 2; i++) {
        struct pkt_pool *pool = &l->rig.mem[i].pool;
        cr_assert_eq(pool->free_count, pool->count, "%s: end %d lost %u packets", l->kind->name, i,
                     pool->count - pool->free_count);
        pktmem_destroy(&l->rig.mem[i]);
    }
}

/* --- frames ---------------------------------------------------------------------------------------------------- */

static uint8_t pattern(uint32_t number, uint32_t at) {
    return (uint8_t)(number * 7 + at * 13);
}

#define NUMBER_AT 14u
#define BODY_AT   18u

static uint8_t frag_memory[PKT_FRAG_MAX][2048];

/* A numbered frame of `len` bytes, the last `frags` pieces of it outside the head. */
static struct pkt *frame_make(struct end *e, uint32_t len, uint32_t frags) {
    struct pkt *p = pkt_alloc(e->pool);
    if (p == NULL)
        return NULL;
    uint32_t number = e->next_sent++;
    memset(p->data, 0xff, 6);
    memcpy(p->data + 6, (uint8_t[]){2, 0, 0, 0, 0, 7}, 6);
    be16_store(p->data + 12, TEST_TYPE);
    be32_store(p->data + NUMBER_AT, number);
    uint32_t piece = frags == 0 ? 0 : (len - BODY_AT) / (frags + 1);
    p->len = len - piece * frags;
    for (uint32_t i = BODY_AT; i < p->len; i++)
        p->data[i] = pattern(number, i);
    for (uint32_t f = 0, at = p->len; f < frags; f++, at += piece) {
        for (uint32_t i = 0; i < piece; i++)
            frag_memory[f][i] = pattern(number, at + i);
        p->frag[f] = (struct pkt_frag){.base = frag_memory[f], .len = piece};
    }
    p->frag_count = (uint8_t)frags;
    p->frag_len = piece * frags;
    return p;
}

/* The number of a frame of ours, or -1. */
static int64_t frame_number(const struct pkt *p) {
    return p->len >= BODY_AT && be16_load(p->data + 12) == TEST_TYPE ? (int64_t)be32_load(p->data + NUMBER_AT) : -1;
}

static void frame_check(const struct pkt *p, uint32_t number, uint32_t len) {
    cr_assert_eq(p->len, len, "frame %u has %u bytes, not %u", number, p->len, len);
    cr_assert_eq(p->frag_count, 0);
    for (uint32_t i = BODY_AT; i < len; i++)
        cr_assert_eq(p->data[i], pattern(number, i), "frame %u differs at byte %u", number, i);
}

static void send(struct end *e, struct pkt **pkts, uint32_t n) {
    e->q->now = clock_now();
    e->q->ops->tx(e->q, pkts, n, &e->done, &e->drop);
    end_reap(e);
}

static uint32_t send_plain(struct end *e, uint32_t n, uint32_t len) {
    struct pkt *burst[PKT_BURST];
    for (uint32_t i = 0; i < n; i++) {
        burst[i] = frame_make(e, len, 0);
        cr_assert_not_null(burst[i], "the sender's pool is empty");
    }
    send(e, burst, n);
    return n;
}

/* Receives once; frames must come in order. len 0: do not look inside. Returns how many were ours. */
static uint32_t receive(struct end *e, uint32_t len) {
    struct pkt *got[PKT_BURST];
    e->q->now = clock_now();
    uint32_t n = e->q->ops->rx(e->q, got, PKT_BURST), ours = 0;
    for (uint32_t i = 0; i < n; i++) {
        int64_t number = frame_number(got[i]);
        if (number >= 0) {
            cr_assert_eq(number, e->next_seen, "frame %d came when %u was due", (int)number, e->next_seen);
            if (len != 0)
                frame_check(got[i], e->next_seen, len);
            e->next_seen++;
            ours++;
        }
        pkt_free(got[i]->pool, got[i]);
    }
    return ours;
}

static void receive_all(struct link *l, int from, uint32_t len) {
    struct end *tx = &l->end[from], *rx = &l->end[1 - from];
    ns_t until = clock_now() + PATIENCE;
    while (rx->next_seen != tx->next_sent) {
        receive(rx, len);
        end_reap(tx);
        cr_assert(clock_now() < until, "%s: %u of %u frames came", l->kind->name, rx->next_seen, tx->next_sent);
    }
}

/* --- cases ----------------------------------------------------------------------------------------------------- */

static void case_bursts(struct link *l) {
    for (uint32_t round = 0; round < 200; round++) {
        int from = round & 1;
        send_plain(&l->end[from], 1 + round % PKT_BURST, 64);
        receive_all(l, from, 64);
    }
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(l->end[i].drop_count, 0);
        cr_assert_eq(l->end[i].q->stats.tx_packets, l->end[i].next_sent);
        cr_assert_eq(l->end[i].q->stats.tx_bytes, 64ull * l->end[i].next_sent);
        cr_assert_geq(l->end[i].q->stats.rx_packets, l->end[i].next_seen);
        cr_assert_eq(l->end[i].q->stats.tx_dropped, 0);
        cr_assert_eq(l->end[i].q->stats.rx_dropped, 0);
    }
}

static void case_sizes(struct link *l) {
    for (uint32_t len = 60; len <= l->kind->mtu + ETH_LEN; len += len < 130 ? 1 : 37) {
        for (uint32_t frags = 0; frags <= PKT_FRAG_MAX; frags++) {
            struct pkt *p = frame_make(&l->end[0], len, frags);
            send(&l->end[0], &p, 1);
            receive_all(l, 0, len);
        }
    }
    struct pkt *p = frame_make(&l->end[0], l->kind->mtu + ETH_LEN, 1);
    send(&l->end[0], &p, 1);
    receive_all(l, 0, l->kind->mtu + ETH_LEN);
}

/* More than there is room for, nobody receiving: tx never blocks, every packet is accounted for, order is kept. */
static void case_overrun(struct link *l) {
    struct end *tx = &l->end[0], *rx = &l->end[1];
    uint32_t made = 0;
    for (uint32_t round = 0; round < 400; round++) {
        struct pkt *burst[PKT_BURST];
        uint32_t n = 0;
        while (n < PKT_BURST && (burst[n] = frame_make(tx, 64, 0)) != NULL)
            n++;
        made += n;
        send(tx, burst, n);
    }
    cr_assert_eq(tx->q->stats.tx_packets + tx->q->stats.tx_dropped, made);
    cr_assert_eq(tx->drop_count, tx->q->stats.tx_dropped);
    struct pkt *got[PKT_BURST];
    uint32_t seen = 0;
    int64_t last = -1;
    for (uint32_t idle = 0; idle < 2000; idle++) {
        rx->q->now = clock_now();
        uint32_t n = rx->q->ops->rx(rx->q, got, PKT_BURST);
        end_reap(tx);
        for (uint32_t i = 0; i < n; i++) {
            int64_t number = frame_number(got[i]);
            cr_assert(number < 0 || number > last, "out of order");
            seen += number >= 0;
            last = number >= 0 ? number : last;
            pkt_free(got[i]->pool, got[i]);
            idle = 0;
        }
    }
    cr_assert(seen > 0 && seen <= tx->q->stats.tx_packets);
    tx->next_sent = rx->next_seen = 0;
    send_plain(tx, 16, 64); /* it works on */
    receive_all(l, 0, 64);
}

/* The receiver's pool is empty for a while: nothing breaks, and it goes on when packets are back. */
static void case_empty_pool(struct link *l) {
    struct end *tx = &l->end[0], *rx = &l->end[1];
    struct pkt **held = calloc(rx->pool->count + 1u, sizeof *held);
    uint32_t n = 0;
    while ((held[n] = pkt_alloc(rx->pool)) != NULL)
        n++;
    send_plain(tx, 32, 64);
    for (uint32_t i = 0; i < 100; i++) {
        struct pkt *got[PKT_BURST];
        rx->q->now = clock_now();
        uint32_t k = rx->q->ops->rx(rx->q, got, PKT_BURST);
        for (uint32_t j = 0; j < k; j++)
            cr_assert(frame_number(got[j]) < 0 || (uint32_t)frame_number(got[j]) == rx->next_seen++);
        for (uint32_t j = 0; j < k; j++)
            held[n++] = got[j];
    }
    for (uint32_t i = 0; i < n; i++)
        pkt_free(held[i]->pool, held[i]);
    free(held);
    receive_all(l, 0, 0);
}

/* --- offloads -------------------------------------------------------------------------------------------------- */

#define FLOW_SRC "\x0a\x01\x00\x01"
#define FLOW_DST "\x0a\x01\x00\x02"

/* An Ethernet, IPv4 and UDP or TCP frame with `bytes` of payload in frags; its checksum is partial. */
static struct pkt *ip_frame(struct end *e, uint8_t proto, uint32_t bytes, const uint8_t *payload) {
    struct pkt *p = pkt_alloc(e->pool);
    uint32_t l4 = proto == PROTO_UDP ? UDP_LEN : TCP_LEN;
    memset(p->data, 0, 64);
    memset(p->data, 0xff, 6);
    p->data[6] = 2;
    be16_store(p->data + 12, ETHERTYPE_IP4);
    struct ip4_hdr *ip = (struct ip4_hdr *)(p->data + ETH_LEN);
    ip->ver_ihl = 0x45;
    be16_store(ip->len, (uint16_t)(IP4_LEN + l4 + bytes));
    ip->ttl = 64;
    ip->proto = proto;
    memcpy(ip->src, FLOW_SRC, 4);
    memcpy(ip->dst, FLOW_DST, 4);
    uint16_t sum = (uint16_t)~csum_fold(csum_add(0, ip, IP4_LEN));
    memcpy(ip->csum, &sum, 2);
    uint8_t *t = p->data + ETH_LEN + IP4_LEN;
    be16_store(t, 1000);
    be16_store(t + 2, 2000);
    if (proto == PROTO_UDP) {
        be16_store(t + 4, (uint16_t)(UDP_LEN + bytes));
    } else {
        t[12] = 5 << 4;
        t[13] = 0x10;
        be16_store(t + 14, 1000);
    }
    struct flow f = {.local = ipaddr_from_v4(FLOW_SRC), .remote = ipaddr_from_v4(FLOW_DST), .proto = proto};
    uint16_t pseudo = csum_fold(csum_pseudo(&f, l4 + bytes));
    p->csum_offset = proto == PROTO_UDP ? 6 : 16;
    memcpy(t + p->csum_offset, &pseudo, 2);
    p->csum_start = (uint16_t)(t - p->buf);
    p->flags = PKT_CSUM_PARTIAL;
    p->len = ETH_LEN + IP4_LEN + l4;
    for (uint32_t at = 0, f4 = 0; at < bytes; f4++) {
        uint32_t piece = f4 == PKT_FRAG_MAX - 1 || bytes - at < 16384 ? bytes - at : 16384;
        p->frag[f4] = (struct pkt_frag){.base = payload + at, .len = piece};
        p->frag_count++;
        at += piece;
    }
    p->frag_len = bytes;
    return p;
}

/* True when the transport checksum of a received frame holds, as far as its flags say that anybody needs to look. */
static bool checksum_holds(const struct pkt *p, uint32_t l4_len) {
    const uint8_t *t = p->data + ETH_LEN + IP4_LEN;
    if (p->flags & PKT_CSUM_OK)
        return true;
    if (p->flags & PKT_CSUM_PARTIAL)
        return p->csum_start == t - p->buf && p->csum_offset == (l4_len == UDP_LEN ? 6 : 16);
    struct flow f = {.local = ipaddr_from_v4(FLOW_SRC), .remote = ipaddr_from_v4(FLOW_DST), .proto = p->data[23]};
    uint64_t sum = csum_pseudo(&f, (uint32_t)(p->data + p->len - t));
    return csum_fold(csum_pkt(sum, p, t)) == 0xffff;
}

/* Receives `bytes` of payload, in one frame or in segments. */
static void payload_check(struct link *l, const uint8_t *payload, uint32_t bytes, uint32_t l4_len) {
    struct end *rx = &l->end[1];
    ns_t until = clock_now() + PATIENCE;
    for (uint32_t at = 0; at < bytes;) {
        struct pkt *p;
        rx->q->now = clock_now();
        end_reap(&l->end[0]);
        cr_assert(clock_now() < until, "%s: %u of %u bytes came", l->kind->name, at, bytes);
        if (rx->q->ops->rx(rx->q, &p, 1) == 0)
            continue;
        uint32_t header = ETH_LEN + IP4_LEN + l4_len;
        if (p->len > header && be16_load(p->data + 12) == ETHERTYPE_IP4) {
            cr_assert(checksum_holds(p, l4_len), "%s: checksum, flags %x", l->kind->name, p->flags);
            cr_assert_leq(p->len - header, bytes - at);
            cr_assert_eq(memcmp(p->data + header, payload + at, p->len - header), 0);
            at += p->len - header;
        }
        pkt_free(p->pool, p);
    }
}

static uint8_t *payload_make(uint32_t bytes) {
    uint8_t *b = malloc(bytes);
    for (uint32_t i = 0; i < bytes; i++)
        b[i] = (uint8_t)(i * 31 + (i >> 8));
    return b;
}

static void case_partial_checksum(struct link *l) {
    if (!(l->rig.port[0]->info.caps & PORT_CAP_TX_CSUM))
        return;
    uint8_t *payload = payload_make(1200);
    for (uint32_t bytes = 18; bytes <= 1200; bytes += 197) {
        struct pkt *p = ip_frame(&l->end[0], PROTO_UDP, bytes, payload);
        send(&l->end[0], &p, 1);
        payload_check(l, payload, bytes, UDP_LEN);
    }
    free(payload);
}

static void super_segment(struct link *l, uint8_t proto, enum pkt_gso type, uint32_t bytes) {
    uint8_t *payload = payload_make(bytes);
    for (uint32_t round = 0; round < 5; round++) {
        struct pkt *p = ip_frame(&l->end[0], proto, bytes, payload);
        p->flags |= PKT_GSO;
        p->gso_type = (uint8_t)type;
        p->gso_size = 1400;
        send(&l->end[0], &p, 1);
        cr_assert_eq(l->end[0].drop_count, 0);
        payload_check(l, payload, bytes, proto == PROTO_UDP ? UDP_LEN : TCP_LEN);
    }
    free(payload);
}

static void case_super_segments(struct link *l) {
    uint16_t caps = l->rig.port[0]->info.caps;
    if (caps & PORT_CAP_TX_GSO_TCP)
        super_segment(l, PROTO_TCP, PKT_GSO_TCP4, 62000);
    if (caps & PORT_CAP_TX_GSO_UDP)
        super_segment(l, PROTO_UDP, PKT_GSO_UDP, 42000);
}

/* --- sleeping -------------------------------------------------------------------------------------------------- */

struct sleeper {
    struct link *link;
    _Atomic uint32_t seen;
    uint32_t timeouts, rounds;
};

/* One turn of a worker that sleeps whenever it may. */
static void sleep_turn(struct end *e, uint32_t *timeouts) {
    if (e->q->ops->arm(e->q) == 0) {
        struct pollfd p = {.fd = e->q->event_fd, .events = POLLIN};
        int wait_ms = e->q->wake_at == NS_NEVER ? 2000 : 1;
        int woken = poll(&p, 1, wait_ms);
        *timeouts += woken == 0 && e->q->wake_at == NS_NEVER;
    }
    e->q->ops->disarm(e->q);
}

static void *sleeper_main(void *arg) {
    struct sleeper *s = arg;
    struct end *e = &s->link->end[1];
    cr_assert_eq(e->q->ops->attach(e->q), 0);
    while (e->next_seen < s->rounds && s->timeouts < 3) {
        if (receive(e, 64) == 0)
            sleep_turn(e, &s->timeouts);
        atomic_store(&s->seen, e->next_seen);
    }
    e->q->ops->detach(e->q);
    return NULL;
}

/* One frame at a time with pauses of varying length: whenever it comes, the sleeper must wake. */
static void case_sleep_and_wake(struct link *l) {
    struct sleeper s = {.link = l, .rounds = 1500};
    struct end *tx = &l->end[0];
    l->end[1].q->ops->detach(l->end[1].q);
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, sleeper_main, &s), 0);
    ns_t until = clock_now() + 3 * PATIENCE;
    uint64_t seed = 1;
    while (tx->next_sent < s.rounds && clock_now() < until) {
        send_plain(tx, 1, 64);
        while (atomic_load(&s.seen) != tx->next_sent && clock_now() < until)
            end_reap(tx);
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        for (ns_t pause = clock_now() + (seed >> 33) % 40000; clock_now() < pause;)
            continue;
    }
    pthread_join(thread, NULL);
    cr_assert_eq(s.timeouts, 0, "%s: %u wake-ups were lost", l->kind->name, s.timeouts);
    cr_assert_eq(l->end[1].next_seen, s.rounds);
    cr_assert_eq(l->end[1].q->ops->attach(l->end[1].q), 0);
}

/* --- moving ---------------------------------------------------------------------------------------------------- */

struct mover {
    struct link *link;
    _Atomic uint32_t seen;
    _Atomic uint32_t sent;
    uint32_t total;
};

/* Runs the receiving queue for a while on a thread of its own. */
static void *mover_main(void *arg) {
    struct mover *m = arg;
    struct end *e = &m->link->end[1];
    cr_assert_eq(e->q->ops->attach(e->q), 0);
    ns_t until = clock_now() + PATIENCE;
    uint32_t stop_at = e->next_seen + 600 < m->total ? e->next_seen + 600 : m->total;
    while (e->next_seen < stop_at && clock_now() < until) {
        receive(e, 64);
        atomic_store(&m->seen, e->next_seen);
    }
    e->q->ops->detach(e->q);
    return NULL;
}

static void *move_sender_main(void *arg) {
    struct mover *m = arg;
    struct end *e = &m->link->end[0];
    cr_assert_eq(e->q->ops->attach(e->q), 0);
    ns_t until = clock_now() + 2 * PATIENCE;
    uint32_t moves = 0;
    while (e->next_sent < m->total && clock_now() < until) {
        if (e->next_sent - atomic_load(&m->seen) <= 48)
            send_plain(e, 16, 64);
        else
            end_reap(e);
        if (e->next_sent / 1600 > moves) { /* the sending queue changes hands too */
            moves++;
            e->q->ops->detach(e->q);
            cr_assert_eq(e->q->ops->attach(e->q), 0);
        }
    }
    e->q->ops->detach(e->q);
    return NULL;
}

/* Traffic never stops while the receiving queue goes from thread to thread; nothing is lost or overtaken. */
static void case_move(struct link *l) {
    struct mover m = {.link = l, .total = 16000};
    for (int i = 0; i < 2; i++)
        l->end[i].q->ops->detach(l->end[i].q);
    pthread_t sender, receiver;
    cr_assert_eq(pthread_create(&sender, NULL, move_sender_main, &m), 0);
    ns_t until = clock_now() + 2 * PATIENCE;
    while (l->end[1].next_seen < m.total && clock_now() < until) {
        cr_assert_eq(pthread_create(&receiver, NULL, mover_main, &m), 0);
        pthread_join(receiver, NULL);
    }
    pthread_join(sender, NULL);
    cr_assert_eq(l->end[1].next_seen, m.total, "%s: %u of %u came", l->kind->name, l->end[1].next_seen, m.total);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(l->end[i].q->ops->attach(l->end[i].q), 0);
}

/* --- the interface under it ------------------------------------------------------------------------------------ */

static int shell(const char *format, const char *ifname) {
    char command[128];
    snprintf(command, sizeof command, format, ifname);
    return system(command);
}

static void refresh_until(struct link *l, bool up) {
    ns_t until = clock_now() + PATIENCE;
    for (int i = 0; i < 2; i++) {
        struct port *p = l->rig.port[i];
        while (p->ops->refresh(p) == 0 && p->info.up != up)
            cr_assert(clock_now() < until, "%s: end %d does not go %s", l->kind->name, i, up ? "up" : "down");
    }
}

/* Sends until something new arrives: the carrier may still be on its way, and old frames may come late. */
static void comes_through(struct link *l, int from) {
    struct end *tx = &l->end[from], *rx = &l->end[1 - from];
    uint32_t first = tx->next_sent;
    ns_t until = clock_now() + PATIENCE;
    for (int64_t last = -1; last < first;) {
        struct pkt *got[PKT_BURST];
        send_plain(tx, 1, 64);
        rx->q->now = clock_now();
        uint32_t n = rx->q->ops->rx(rx->q, got, PKT_BURST);
        for (uint32_t i = 0; i < n; i++) {
            last = frame_number(got[i]);
            pkt_free(got[i]->pool, got[i]);
        }
        cr_assert(clock_now() < until, "%s: dead after down and up", l->kind->name);
    }
}

static void case_interface_down_and_up(struct link *l) {
    if (l->rig.ifname[0] == NULL)
        return;
    cr_assert_eq(shell("ip link set %s down", l->rig.ifname[0]), 0);
    refresh_until(l, false);
    for (uint32_t round = 0; round < 20; round++) {
        send_plain(&l->end[0], 8, 64);
        send_plain(&l->end[1], 8, 64);
        receive(&l->end[0], 0);
        receive(&l->end[1], 0);
    }
    for (int i = 0; i < 2; i++) { /* a dead interface must not keep its worker awake */
        struct port_queue *q = l->end[i].q;
        struct pollfd p = {.fd = q->event_fd, .events = POLLIN};
        int readable = 1;
        for (uint32_t wakes = 0; wakes < 20 && readable != 0; wakes++) {
            if (q->ops->arm(q) == 0)
                q->ops->disarm(q);
            readable = poll(&p, 1, 0);
        }
        cr_assert_eq(readable, 0, "%s: end %d stays readable while down", l->kind->name, i);
    }
    cr_assert_eq(shell("ip link set %s up", l->rig.ifname[0]), 0);
    refresh_until(l, true);
    for (int from = 0; from < 2; from++)
        comes_through(l, from);
}

static void case_interface_vanishes(struct link *l) {
    if (l->rig.ifname[0] == NULL)
        return;
    cr_assert_eq(shell("ip link del %s", l->rig.ifname[0]), 0);
    for (uint32_t round = 0; round < 20; round++) {
        send_plain(&l->end[0], 8, 64);
        receive(&l->end[0], 0);
        receive(&l->end[1], 0);
    }
    struct port *p = l->rig.port[0];
    cr_assert_lt(p->ops->refresh(p), 0);
    cr_assert(!p->info.up);
}

static const struct {
    const char *name;
    void (*run)(struct link *l);
} cases[] = {
    {"bursts", case_bursts},
    {"sizes", case_sizes},
    {"overrun", case_overrun},
    {"empty pool", case_empty_pool},
    {"partial checksum", case_partial_checksum},
    {"super-segments", case_super_segments},
    {"sleep and wake", case_sleep_and_wake},
    {"move", case_move},
    {"interface down and up", case_interface_down_and_up},
    {"interface vanishes", case_interface_vanishes},
};

void conformance_run(const struct rig_kind *kind) {
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct link *l = aligned_alloc(CACHE_LINE, (sizeof *l + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
        if (!link_open(l, kind)) {
            free(l);
            return;
        }
        ns_t start = clock_now();
        cases[i].run(l);
        link_close(l);
        free(l);
        fprintf(stderr, "%s: %s, %.0f ms\n", kind->name, cases[i].name, (double)(clock_now() - start) / NS_PER_MS);
    }
}
