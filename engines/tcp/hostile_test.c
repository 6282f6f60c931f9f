/* SPDX-License-Identifier: Apache-2.0
 *
 * What a hostile peer, or somebody who is no peer at all, may send: malformed headers and options, segments out of
 * the window, resets and SYNs by guess, lies about what arrived, shrinking windows, urgent data, tiny segments, forged
 * ICMP. Each is defined, counted, and harmless. Virtual time, check() after each packet.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/tcp/testlink.h"
#include "engines/wire.h"

#define SEC NS_PER_SEC
#define MS  NS_PER_MS
#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define PSH 0x08
#define ACK 0x10
#define URG 0x20

enum counter {
#define TCP_COUNTER(name, text, help) COUNT_##name,
#include "engines/tcp/tcp_counters.def"
#undef TCP_COUNTER
};

/* A server connection whose client is this test: no timestamps, SACK permitted. */
struct peer {
    struct link *l;
    uint32_t snd, rcv; /* the test's next number; what it would acknowledge */
};

/* The test is the peer: what the server sends must not reach the engine at the other end. */
static bool only_hand_made(struct link *l, uint32_t from, struct pkt *p, void *arg) {
    (void)l;
    (void)from;
    (void)p;
    (void)arg;
    return false;
}

static struct peer peer_open(const uint8_t *opts, uint32_t opts_len, uint64_t server_sends) {
    struct peer p = {.l = link_create(8, NULL, NULL)};
    p.l->host[1].accept_as.tx_total = server_sends;
    p.l->filter = only_hand_made;
    (void)link_listen(p.l, 1, 80, NULL);
    struct link_segment s = {.sport = 6000, .dport = 80, .seq = 1000, .flags = SYN, .wnd = 60000};
    s.opts = opts;
    s.opts_len = opts_len;
    link_inject(p.l, 1, &s);
    cr_assert_eq(link_last[1].flags & (SYN | ACK), SYN | ACK);
    p.snd = 1001;
    p.rcv = link_last[1].seq + 1;
    s = (struct link_segment){.sport = 6000, .dport = 80, .seq = p.snd, .ack = p.rcv, .flags = ACK, .wnd = 60000};
    link_inject(p.l, 1, &s);
    cr_assert_eq(p.l->host[1].accepts, 1u);
    p.l->host[1].socks[0].rx_expect_key = 0;
    return p;
}

static const uint8_t sack_ok[] = {2, 4, 5, 180, 4, 2, 1, 1};

static void inject(struct peer *p, uint32_t seq, uint32_t ack, uint8_t flags, const void *data, uint32_t len) {
    struct link_segment s = {.sport = 6000, .dport = 80, .seq = seq, .ack = ack, .flags = flags, .wnd = 60000};
    s.data = data;
    s.len = len;
    link_inject(p->l, 1, &s);
}

static void inject_opts(struct peer *p, uint32_t ack, const uint8_t *opts, uint32_t len) {
    struct link_segment s = {.sport = 6000, .dport = 80, .seq = p->snd, .ack = ack, .flags = ACK, .wnd = 60000};
    s.opts = opts;
    s.opts_len = len;
    link_inject(p->l, 1, &s);
}

static struct link_host *server(struct peer *p) {
    return &p->l->host[1];
}

/* ---- headers ---- */

Test(tcp_hostile, malformed_headers_are_counted) {
    struct peer p = peer_open(NULL, 0, 0);
    struct link_segment s = {.sport = 6000, .dport = 80, .seq = p.snd, .ack = p.rcv, .flags = ACK, .wnd = 1};
    s.doff = 4;
    link_inject(p.l, 1, &s);
    s.doff = 15;
    link_inject(p.l, 1, &s);
    cr_assert_eq(server(&p)->drops[DROP_TCP_TRUNCATED], 2u);
    s.doff = 0;
    s.bad_csum = true;
    link_inject(p.l, 1, &s);
    cr_assert_eq(server(&p)->drops[DROP_TCP_CHECKSUM], 1u);
    s.pkt_flags = PKT_CSUM_OK; /* the port has said that it is right */
    link_inject(p.l, 1, &s);
    cr_assert_eq(server(&p)->drops[DROP_TCP_CHECKSUM], 1u);
    link_destroy(p.l);
}

Test(tcp_hostile, malformed_options_are_counted) {
    static const uint8_t bad[][4] = {{8, 0, 0, 0}, {8, 1, 0, 0}, {8, 10, 0, 0}, {5, 250, 0, 0}, {1, 1, 1, 99}};
    struct peer p = peer_open(NULL, 0, 0);
    for (uint32_t i = 0; i < 5; i++)
        inject_opts(&p, p.rcv, bad[i], 4);
    cr_assert_eq(server(&p)->drops[DROP_TCP_OPTIONS], 5u);
    struct link_segment s = {
        .sport = 6001, .dport = 80, .seq = 1, .flags = SYN, .wnd = 1, .opts = bad[0], .opts_len = 4};
    link_inject(p.l, 1, &s);
    cr_assert_eq(server(&p)->drops[DROP_TCP_OPTIONS], 6u);
    link_destroy(p.l);
}

Test(tcp_hostile, every_combination_of_flags) {
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t flags = 0; flags < 256; flags++) {
            struct peer p = peer_open(round ? sack_ok : NULL, round ? 8 : 0, 1000);
            inject(&p, p.snd + (round == 2 ? 5 : 0), p.rcv + round, (uint8_t)flags, "x", 1);
            link_step_time(p.l, p.l->now + SEC);
            struct link_segment s = {.sport = 1, .dport = 80, .seq = 9, .ack = 7, .flags = (uint8_t)flags, .wnd = 9};
            link_inject(p.l, 1, &s); /* to the listener */
            s.dport = 81;
            link_inject(p.l, 1, &s); /* to nobody */
            link_destroy(p.l);
        }
    }
}

Test(tcp_hostile, stray_segments_get_the_right_reset) {
    struct link *l = link_create(1, NULL, NULL);
    struct link_segment s = {.sport = 6000, .dport = 81, .seq = 100, .ack = 777, .flags = ACK, .wnd = 1};
    link_inject(l, 1, &s);
    cr_assert(link_last[1].flags == RST && link_last[1].seq == 777);
    s.flags = SYN;
    link_inject(l, 1, &s);
    cr_assert(link_last[1].flags == (RST | ACK) && link_last[1].ack == 101 && link_last[1].seq == 0);
    uint32_t count = link_last[1].count;
    s.flags = RST;
    link_inject(l, 1, &s); /* never in answer to a reset */
    s.flags = SYN;
    s.broadcast = true;
    link_inject(l, 1, &s); /* nor to a broadcast: RFC 9293 MUST-57 */
    cr_assert_eq(link_last[1].count, count);
    link_destroy(l);
}

/* ---- blind attacks (RFC 5961) ---- */

Test(tcp_hostile, resets_count_only_when_exact) {
    struct peer p = peer_open(NULL, 0, 0);
    inject(&p, p.snd + 1000, p.rcv, RST, NULL, 0); /* in the window */
    cr_assert_eq(link_stats(p.l, 1).connections, 1u);
    cr_assert_eq(server(&p)->counters[COUNT_CHALLENGE], 1u);
    cr_assert_eq(link_last[1].ack, p.snd);
    inject(&p, p.snd + 0x40000000, p.rcv, RST, NULL, 0); /* outside: nothing at all */
    cr_assert_eq(server(&p)->counters[COUNT_CHALLENGE], 1u);
    inject(&p, p.snd, p.rcv, RST, NULL, 0);
    cr_assert_eq(server(&p)->socks[0].error, ECONNRESET);
    link_destroy(p.l);
}

Test(tcp_hostile, syn_in_a_connection_is_challenged) {
    struct peer p = peer_open(NULL, 0, 0);
    inject(&p, p.snd, p.rcv, SYN, NULL, 0);
    inject(&p, p.snd + 100, p.rcv, SYN | ACK, NULL, 0);
    cr_assert_eq(link_stats(p.l, 1).connections, 1u);
    cr_assert_eq(server(&p)->counters[COUNT_CHALLENGE], 2u);
    link_destroy(p.l);
}

Test(tcp_hostile, challenges_are_limited) {
    struct peer p = peer_open(NULL, 0, 0);
    for (uint32_t i = 0; i < 5000; i++)
        inject(&p, p.snd + 100 + i % 1000, p.rcv, RST, NULL, 0);
    cr_assert_leq(server(&p)->counters[COUNT_CHALLENGE], 1500u);
    cr_assert_geq(server(&p)->counters[COUNT_CHALLENGE_LIMIT], 3500u);
    link_destroy(p.l);
}

Test(tcp_hostile, acks_of_the_unsent_and_of_the_past) {
    struct peer p = peer_open(NULL, 0, 0);
    inject(&p, p.snd, p.rcv + 1, ACK, "x", 1); /* optimistic */
    inject(&p, p.snd, p.rcv - 100000, ACK, "x", 1);
    cr_assert_eq(server(&p)->counters[COUNT_BAD_ACK], 2u);
    cr_assert_eq(server(&p)->socks[0].rx_bytes, 0u);
    link_destroy(p.l);
}

/* ---- lies about delivery ---- */

static void sack(struct peer *p, uint32_t ack, uint32_t start, uint32_t end) {
    uint8_t o[12] = {1, 1, 5, 10};
    be32_store(o + 4, start);
    be32_store(o + 8, end);
    inject_opts(p, ack, o, sizeof o);
}

Test(tcp_hostile, sack_lies_change_nothing) {
    struct peer p = peer_open(sack_ok, sizeof sack_ok, 20000);
    link_step_time(p.l, p.l->now + MS);
    uint32_t sent = link_last[1].seq + link_last[1].len;
    sack(&p, p.rcv, sent + 1, sent + 1000);     /* never sent */
    sack(&p, p.rcv, p.rcv + 5000, p.rcv + 10);  /* reversed */
    sack(&p, p.rcv, p.rcv + 500, p.rcv + 500);  /* empty */
    sack(&p, p.rcv, p.rcv, p.rcv + 1000);       /* below what is acknowledged */
    sack(&p, p.rcv, p.rcv - 50000, sent + 5);   /* everything and more */
    sack(&p, p.rcv, p.rcv + 0x7fffffff, p.rcv); /* half the space */
    cr_assert_geq(server(&p)->counters[COUNT_BAD_SACK], 3u);
    cr_assert_eq(link_info(p.l, 1, 0).sacked, 0u);
    link_destroy(p.l);
}

Test(tcp_hostile, sack_in_crumbs_is_bounded) {
    struct peer p = peer_open(sack_ok, sizeof sack_ok, 200000);
    link_step_time(p.l, p.l->now + MS);
    for (uint32_t i = 0; i < 14000; i += 2)
        sack(&p, p.rcv, p.rcv + 1 + i, p.rcv + 2 + i);
    cr_assert_leq(link_stats(p.l, 1).segments, 1100u);
    cr_assert_geq(server(&p)->counters[COUNT_SACK_LIMIT], 1000u);
    link_destroy(p.l);
}

Test(tcp_hostile, reneging_peer_gets_it_again) {
    struct peer p = peer_open(sack_ok, sizeof sack_ok, 14480);
    link_step_time(p.l, p.l->now + MS);
    sack(&p, p.rcv, p.rcv + 1460, p.rcv + 14480);
    link_step_time(p.l, p.l->now + 10 * MS);
    inject(&p, p.snd, p.rcv + 1460, ACK, NULL, 0); /* and now it has the rest no more */
    uint32_t count = link_last[1].count;
    for (uint32_t i = 0; i < 40 && !server(&p)->socks[0].closed; i++) {
        link_step_time(p.l, p.l->now + SEC);
        inject(&p, p.snd, p.rcv + 1460, ACK, NULL, 0);
    }
    cr_assert_geq(server(&p)->counters[COUNT_SACK_RENEGE], 1u);
    cr_assert_gt(link_last[1].count, count);
    inject(&p, p.snd, p.rcv + 14480, ACK, NULL, 0);
    cr_assert_eq(server(&p)->socks[0].tx_done, 14480u);
    link_destroy(p.l);
}

/* ---- data ---- */

static void byte_stream(uint8_t *to, uint64_t at, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        to[i] = link_byte(0, at + i);
}

Test(tcp_hostile, overlapping_segments_keep_the_first_bytes) {
    struct peer p = peer_open(sack_ok, sizeof sack_ok, 0);
    uint8_t good[2000], evil[2000];
    byte_stream(good, 0, sizeof good);
    memset(evil, 0xee, sizeof evil);
    inject(&p, p.snd + 100, p.rcv, ACK, good + 100, 100); /* [100,200) */
    inject(&p, p.snd + 300, p.rcv, ACK, good + 300, 100); /* [300,400) */
    inject(&p, p.snd + 120, p.rcv, ACK, evil, 50);        /* inside what is kept */
    inject(&p, p.snd + 150, p.rcv, ACK, good + 150, 200); /* [150,350): over both edges */
    inject(&p, p.snd + 50, p.rcv, ACK, good + 50, 450);   /* [50,500): over all */
    inject(&p, p.snd, p.rcv, ACK, good, 60);              /* fills the hole */
    struct link_sock *s = &server(&p)->socks[0];
    cr_assert_eq(s->rx_bytes, 500u);
    cr_assert_eq(s->rx_corrupt, 0u);
    inject(&p, p.snd + 10, p.rcv, ACK, evil, 20); /* all of it old */
    inject(&p, p.snd + 490, p.rcv, ACK, good + 490, 30);
    cr_assert_eq(s->rx_bytes, 520u);
    cr_assert_eq(s->rx_corrupt, 0u);
    cr_assert(link_pools_whole(p.l));
    link_destroy(p.l);
}

/* After a loss a kernel may send everything from the gap to its FIN once more, as one segment. What was kept of it is
 * read with that, not left unread: a reset for it would cut off what the program still has to send. */
Test(tcp_hostile, fin_over_what_was_kept_leaves_nothing_unread) {
    struct peer p = peer_open(sack_ok, 8, 0);
    inject(&p, p.snd + 2, p.rcv, ACK, "cd", 2);
    inject(&p, p.snd, p.rcv, ACK | FIN, "abcd", 4);
    cr_assert_eq(server(&p)->socks[0].rx_bytes, 4u);
    cr_assert(server(&p)->socks[0].hung_up);
    link_close(p.l, 1, 0, false);
    cr_assert_eq(link_last[1].flags & (FIN | RST), FIN, "an orderly end, not a reset");
    cr_assert_eq(link_last[1].ack, p.snd + 5);
    link_destroy(p.l);
}

Test(tcp_hostile, random_overlaps_lose_nothing) {
    for (uint64_t seed = 1; seed < 60; seed++) {
        struct peer p = peer_open(sack_ok, sizeof sack_ok, 0);
        uint8_t data[4000];
        uint64_t rng = seed;
        byte_stream(data, 0, sizeof data);
        for (uint32_t i = 0; i < 400; i++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            uint32_t from = (uint32_t)(rng >> 33) % 3990, n = 1 + (uint32_t)(rng >> 20) % 300;
            n = from + n > 4000 ? 4000 - from : n;
            uint8_t fin = from + n == 4000 && seed % 2 ? FIN : 0;
            inject(&p, p.snd + from, p.rcv, (uint8_t)(ACK | fin), data + from, n);
        }
        for (uint32_t at = 0; at < 4000; at += 500)
            inject(&p, p.snd + at, p.rcv, (uint8_t)(ACK | (at == 3500 && seed % 2 ? FIN : 0)), data + at, 500);
        struct link_sock *s = &server(&p)->socks[0];
        cr_assert_eq(s->rx_bytes, 4000u, "seed %lu: %lu", seed, s->rx_bytes);
        cr_assert_eq(s->rx_corrupt, 0u);
        cr_assert_eq(s->hung_up, seed % 2 == 1);
        cr_assert(link_pools_whole(p.l));
        link_destroy(p.l);
    }
}

Test(tcp_hostile, beyond_the_window_is_cut) {
    struct peer p = peer_open(NULL, 0, 0);
    struct tcp_conn_info i = link_info(p.l, 1, 0);
    inject(&p, p.snd + i.rcv_wnd, p.rcv, ACK, "x", 1);
    cr_assert_eq(server(&p)->drops[DROP_TCP_WINDOW], 1u);
    cr_assert_eq(link_last[1].ack, p.snd);
    inject(&p, p.snd + i.rcv_wnd - 1, p.rcv, ACK | FIN, "xy", 2);
    cr_assert_eq(link_info(p.l, 1, 0).rcv_ooo, 1u);
    link_destroy(p.l);
}

Test(tcp_hostile, one_byte_segments_are_bounded) {
    struct tcp_config cfg = {.ooo_packet_max = 100};
    struct link *l = link_create(8, &cfg, &cfg);
    (void)link_listen(l, 1, 80, NULL);
    struct link_segment s = {.sport = 6000, .dport = 80, .seq = 1000, .flags = SYN, .wnd = 60000};
    link_inject(l, 1, &s);
    s = (struct link_segment){
        .sport = 6000, .dport = 80, .seq = 1001, .ack = link_last[1].seq + 1, .flags = ACK, .wnd = 60000};
    link_inject(l, 1, &s);
    s.data = "z";
    s.len = 1;
    for (uint32_t i = 0; i < 3000; i++) {
        s.seq = 1003 + i * 2;
        link_inject(l, 1, &s);
    }
    cr_assert_eq(link_stats(l, 1).ooo_packets, 100u);
    cr_assert_eq(l->host[1].counters[COUNT_OOO_LIMIT], 2900u);
    link_close(l, 1, 0, true);
    cr_assert(link_pools_whole(l));
    link_destroy(l);
}

Test(tcp_hostile, urgent_data_is_in_line) {
    struct peer p = peer_open(NULL, 0, 0);
    uint8_t data[10];
    byte_stream(data, 0, 10);
    inject(&p, p.snd, p.rcv, ACK | URG | PSH, data, 10);
    cr_assert_eq(server(&p)->socks[0].rx_bytes, 10u);
    cr_assert_eq(server(&p)->socks[0].rx_corrupt, 0u);
    cr_assert_eq(server(&p)->counters[COUNT_URGENT], 1u);
    link_destroy(p.l);
}

/* ---- windows, sizes ---- */

Test(tcp_hostile, shrinking_window_stops_and_recovers) {
    struct peer p = peer_open(NULL, 0, 100000);
    link_step_time(p.l, p.l->now + MS);
    struct link_segment s = {.sport = 6000, .dport = 80, .seq = p.snd, .ack = p.rcv + 536, .flags = ACK, .wnd = 100};
    link_inject(p.l, 1, &s); /* far below what is in flight */
    uint32_t sent = link_info(p.l, 1, 0).unacked;
    link_step_time(p.l, p.l->now + 60 * SEC);
    cr_assert_leq(link_info(p.l, 1, 0).unacked, sent);
    cr_assert_not(server(&p)->socks[0].closed);
    s.ack = p.rcv + 536 + sent;
    s.wnd = 0;
    link_inject(p.l, 1, &s);
    link_step_time(p.l, p.l->now + 5 * SEC);
    cr_assert_geq(server(&p)->counters[COUNT_PERSIST], 1u);
    s.wnd = 60000;
    link_inject(p.l, 1, &s);
    cr_assert_gt(link_info(p.l, 1, 0).unacked, 0u);
    link_destroy(p.l);
}

Test(tcp_hostile, tiny_mss_is_not_taken_at_its_word) {
    static const uint8_t tiny[] = {2, 4, 0, 1}, zero[] = {2, 4, 0, 0};
    struct peer p = peer_open(tiny, sizeof tiny, 5000);
    cr_assert_geq(link_info(p.l, 1, 0).mss, 88u);
    link_destroy(p.l);
    p = peer_open(zero, sizeof zero, 5000);
    cr_assert_geq(link_info(p.l, 1, 0).mss, 88u);
    link_destroy(p.l);
}

Test(tcp_hostile, no_mss_option_means_536) {
    struct peer p = peer_open(NULL, 0, 5000);
    cr_assert_eq(link_info(p.l, 1, 0).mss, 536u);
    link_destroy(p.l);
}

Test(tcp_hostile, reset_counts_at_a_closed_window) {
    struct peer p = peer_open(NULL, 0, 3000);
    uint8_t data[1000] = {0};
    server(&p)->socks[0].no_read = true;
    link_step_time(p.l, p.l->now + MS);
    while (link_info(p.l, 1, 0).rcv_wnd > 0) {
        struct tcp_conn_info i = link_info(p.l, 1, 0);
        uint32_t n = i.rcv_wnd < sizeof data ? i.rcv_wnd : (uint32_t)sizeof data;
        inject(&p, p.snd, p.rcv, ACK, data, n);
        p.snd += n;
    }
    uint64_t have = server(&p)->socks[0].rx_bytes;
    inject(&p, p.snd, p.rcv, ACK, "x", 1);
    cr_assert_eq(server(&p)->socks[0].rx_bytes, have);
    cr_assert_eq(link_last[1].ack, p.snd);
    inject(&p, p.snd, p.rcv + 536, ACK, NULL, 0); /* the ACK still counts */
    cr_assert_eq(server(&p)->socks[0].tx_done, 536u);
    inject(&p, p.snd, p.rcv + 536, RST, NULL, 0);
    cr_assert_eq(server(&p)->socks[0].error, ECONNRESET);
    link_destroy(p.l);
}

/* ---- ICMP ---- */

Test(tcp_hostile, icmp_must_quote_what_is_in_flight) {
    struct peer p = peer_open(sack_ok, sizeof sack_ok, 20000);
    link_step_time(p.l, p.l->now + MS);
    uint16_t mss = (uint16_t)link_info(p.l, 1, 0).mss;
    link_inject_icmp(p.l, 1, 80, 6000, p.rcv - 1, EMSGSIZE, 600);
    link_inject_icmp(p.l, 1, 80, 6000, p.rcv + 1000000, EMSGSIZE, 600);
    link_inject_icmp(p.l, 1, 80, 6001, p.rcv, EMSGSIZE, 600);
    link_step_time(p.l, p.l->now + MS);
    cr_assert_eq(link_info(p.l, 1, 0).mss, mss);
    cr_assert_eq(server(&p)->drops[DROP_ICMP_UNWANTED], 3u);
    link_inject_icmp(p.l, 1, 80, 6000, p.rcv, EMSGSIZE, 68); /* nobody has such a path */
    link_step_time(p.l, p.l->now + MS);
    cr_assert_eq(link_info(p.l, 1, 0).mss, 552u - 40);
    link_inject_icmp(p.l, 1, 80, 6000, p.rcv, ECONNREFUSED, 0); /* RFC 5461: soft once established */
    link_step_time(p.l, p.l->now + MS);
    cr_assert_not(server(&p)->socks[0].closed);
    link_destroy(p.l);
}

/* ---- the program's side ---- */

Test(tcp_hostile, bad_send_requests_are_refused) {
    extern const struct engine_ops usher_engine_tcp;
    struct peer p = peer_open(NULL, 0, 0);
    struct link_host *h = server(&p);
    struct {
        uint32_t sock, len;
        uint64_t sink;
    } bad[] = {{99, 10, h->socks[0].sink},
               {UINT32_MAX, 10, 0},
               {h->socks[0].sock, 0, h->socks[0].sink},
               {h->socks[0].sock, 10, 77},
               {h->socks[0].sock, UINT32_MAX, h->socks[0].sink}};
    for (uint32_t i = 0; i < 5; i++) {
        struct pkt *r = pkt_alloc(&h->small);
        r->flags |= PKT_REGION;
        r->sock = bad[i].sock;
        r->sink = bad[i].sink;
        r->frag_len = bad[i].len;
        h->io.now = p.l->now;
        usher_engine_tcp.output(h->st, &h->io, &r, 1);
        link_step_time(p.l, p.l->now);
        struct tcp_stats stats = link_stats(p.l, 1);
        cr_assert_eq(stats.items, 0u, "request %u was taken", i);
    }
    cr_assert_eq(h->counters[COUNT_BAD_SEND], 5u);
    struct pkt *r = pkt_alloc(&h->small); /* beyond the client's region: its connection ends, nothing else */
    r->flags |= PKT_REGION;
    r->sock = h->socks[0].sock;
    r->sink = h->socks[0].sink;
    r->user = UINT32_MAX - 5;
    r->frag_len = 100;
    usher_engine_tcp.output(h->st, &h->io, &r, 1);
    (void)link_stats(p.l, 1);
    cr_assert_eq(h->counters[COUNT_REGION_GONE], 1u);
    cr_assert(h->socks[0].closed);
    link_destroy(p.l);
}
