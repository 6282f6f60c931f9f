/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of the engine one by one: state table, options, SipHash, cookies, congestion controls, payload trimming,
 * loading of hostile records.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/tcp/tcp_cc.h"
#include "engines/tcp/tcp_cmds.h"
#include "engines/tcp/tcp_conn.h"
#include "engines/tcp/tcp_data.h"
#include "engines/tcp/tcp_fastopen.h"
#include "engines/tcp/tcp_prf.h"
#include "engines/tcp/tcp_syn.h"
#include "engines/tcp/testlink.h"

extern const struct engine_ops usher_engine_tcp;

/* ---- the table ---- */

/* RFC 9293 figure 5, written down a second time: {state, event, next}. What is not here must be empty. */
static const uint8_t arrows[][3] = {
    {TCP_STATE_CLOSED, TCP_EV_OPEN, TCP_STATE_SYN_SENT},
    {TCP_STATE_CLOSED, TCP_EV_ACCEPT, TCP_STATE_ESTABLISHED},
    {TCP_STATE_CLOSED, TCP_EV_ACCEPT_TFO, TCP_STATE_SYN_RCVD},
    {TCP_STATE_SYN_SENT, TCP_EV_SYN, TCP_STATE_SYN_RCVD},
    {TCP_STATE_SYN_SENT, TCP_EV_SYN_ACKED, TCP_STATE_ESTABLISHED},
    {TCP_STATE_SYN_RCVD, TCP_EV_SYN_ACKED, TCP_STATE_ESTABLISHED},
    {TCP_STATE_SYN_RCVD, TCP_EV_FIN_SENT, TCP_STATE_FIN_WAIT_1},
    {TCP_STATE_SYN_RCVD, TCP_EV_FIN, TCP_STATE_CLOSE_WAIT},
    {TCP_STATE_ESTABLISHED, TCP_EV_FIN_SENT, TCP_STATE_FIN_WAIT_1},
    {TCP_STATE_ESTABLISHED, TCP_EV_FIN, TCP_STATE_CLOSE_WAIT},
    {TCP_STATE_FIN_WAIT_1, TCP_EV_FIN_ACKED, TCP_STATE_FIN_WAIT_2},
    {TCP_STATE_FIN_WAIT_1, TCP_EV_FIN, TCP_STATE_CLOSING},
    {TCP_STATE_FIN_WAIT_2, TCP_EV_FIN, TCP_STATE_TIME_WAIT},
    {TCP_STATE_FIN_WAIT_2, TCP_EV_EXPIRE, TCP_STATE_CLOSED},
    {TCP_STATE_CLOSE_WAIT, TCP_EV_FIN_SENT, TCP_STATE_LAST_ACK},
    {TCP_STATE_CLOSING, TCP_EV_FIN_ACKED, TCP_STATE_TIME_WAIT},
    {TCP_STATE_LAST_ACK, TCP_EV_FIN_ACKED, TCP_STATE_CLOSED},
    {TCP_STATE_TIME_WAIT, TCP_EV_EXPIRE, TCP_STATE_CLOSED},
    {TCP_STATE_TIME_WAIT, TCP_EV_ABORT, TCP_STATE_CLOSED},
    {TCP_STATE_CLOSE_WAIT, TCP_EV_REWIND, TCP_STATE_ESTABLISHED},
    {TCP_STATE_CLOSING, TCP_EV_REWIND, TCP_STATE_FIN_WAIT_1},
    {TCP_STATE_LAST_ACK, TCP_EV_REWIND, TCP_STATE_FIN_WAIT_1},
    {TCP_STATE_TIME_WAIT, TCP_EV_REWIND, TCP_STATE_FIN_WAIT_2},
};

static uint8_t expected(uint8_t state, uint8_t ev) {
    bool ends = ev == TCP_EV_RST || ev == TCP_EV_ABORT || ev == TCP_EV_GIVE_UP;
    if (ends && state >= TCP_STATE_SYN_SENT && state <= TCP_STATE_LAST_ACK)
        return TCP_STATE_CLOSED;
    for (uint32_t i = 0; i < ARRAY_LEN(arrows); i++)
        if (arrows[i][0] == state && arrows[i][1] == ev)
            return arrows[i][2];
    return TCP_STATE_COUNT;
}

Test(tcp_unit, every_cell_of_the_state_table) {
    for (uint8_t state = 0; state < TCP_STATE_COUNT; state++)
        for (uint8_t ev = 0; ev < TCP_EV_COUNT; ev++)
            cr_assert_eq(tcp_fsm_next(state, ev), expected(state, ev), "state %u event %u", state, ev);
}

/* ---- options ---- */

Test(tcp_unit, options_come_back_as_written) {
    uint8_t cookie[8] = {1, 2, 3, 4, 5, 6, 7, 8}, bytes[64];
    for (uint32_t present = 0; present < 64; present++) {
        struct tcp_opts o = {.tsval = 7, .tsecr = 9, .mss = 1234, .uto = 77, .wscale = 5, .cookie = cookie}, got;
        o.present = (uint8_t)(present | TCP_O_MSS);
        o.cookie_len = sizeof cookie;
        uint32_t n = tcp_opts_write_syn(bytes, &o);
        cr_assert(n % 4 == 0 && n <= TCP_OPTS_MAX);
        cr_assert(tcp_opts_parse(bytes, n, true, &got));
        cr_assert_eq(got.present, o.present);
        cr_assert_eq(got.mss, 1234);
        cr_assert(!(present & TCP_O_TS) || (got.tsval == 7 && got.tsecr == 9));
        cr_assert(!(present & TCP_O_UTO) || got.uto == 77);
        cr_assert(!(present & TCP_O_FASTOPEN) || memcmp(got.cookie, cookie, 8) == 0);
        cr_assert(!(present & TCP_O_WSCALE) || got.wscale == 5);
    }
}

static uint64_t fill_random(uint8_t *to, uint32_t n, uint64_t rng) {
    for (uint32_t i = 0; i < n; i++)
        to[i] = (uint8_t)((rng = rng * 6364136223846793005ull + 1) >> (33 + n % 3));
    return rng;
}

Test(tcp_unit, options_bounds) {
    struct tcp_opts o;
    static const uint8_t wide[] = {3, 3, 99, 0}, late[] = {1, 1, 1, 2}, end[] = {0, 8, 0, 0};
    static const uint8_t odd_sack[] = {5, 9, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0};
    cr_assert(tcp_opts_parse(wide, 4, true, &o) && o.wscale == 14); /* RFC 7323 section 2.3 */
    cr_assert_not(tcp_opts_parse(late, 4, true, &o));               /* a kind without a length at the very end */
    cr_assert(tcp_opts_parse(end, 4, true, &o));
    cr_assert(tcp_opts_parse(odd_sack, 12, false, &o) && o.sack_count == 0);
    cr_assert(tcp_opts_parse(wide, 4, false, &o) && o.present == 0); /* a SYN's option elsewhere */
    uint8_t bytes[40];
    uint64_t rng = 1;
    for (uint32_t i = 0; i < 200000; i++) {
        rng = fill_random(bytes, 40, rng);
        if (tcp_opts_parse(bytes, (i % 11) * 4, i & 1, &o))
            cr_assert_leq(o.sack_count, 4);
    }
}

/* ---- keyed functions ---- */

/* The published vectors: key 00..0f, message 00 01 02 .., lengths that are whole words. */
Test(tcp_unit, siphash_vectors) {
    const struct tcp_key key = {{0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull}};
    const uint64_t words[2] = {0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull};
    cr_assert_eq(tcp_prf(&key, words, 0), 0x726fdb47dd0e0e31ull);
    cr_assert_eq(tcp_prf(&key, words, 1), 0x93f5f5799a932462ull);
    cr_assert_eq(tcp_prf(&key, words, 2), 0x3f2acc7f57c29bdbull);
}

Test(tcp_unit, initial_numbers_follow_the_clock_and_hide_the_rest) {
    struct tcp_engine st = {.isn_key = {{1, 2}}};
    struct flow f = {.local_port = 1, .remote_port = 2, .proto = 6}, g = f;
    g.local_port = 3;
    uint32_t first = tcp_isn(&st, &f, NS_PER_SEC);
    cr_assert_eq(tcp_isn(&st, &f, NS_PER_SEC + 4096 * 100) - first, 100u);
    cr_assert_neq(tcp_isn(&st, &g, NS_PER_SEC), first);
    st.isn_key.k[0]++;
    cr_assert_neq(tcp_isn(&st, &f, NS_PER_SEC), first);
}

/* ---- payload ---- */

static uint8_t head[256], piece[3][50];

static void trim_and_look(uint32_t front, uint32_t back) {
    struct pkt p = {
        .buf = head, .buf_size = sizeof head, .data = head + 20, .len = 40, .frag_count = 3, .frag_len = 150};
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 3; i++)
        p.frag[i] = (struct pkt_frag){piece[i], 50, 0};
    tcp_payload_trim_front(&p, front);
    tcp_payload_trim_back(&p, back);
    for (uint32_t i = 0; i < p.frag_count; i++)
        sum += p.frag[i].len;
    cr_assert_eq(sum, p.frag_len);
    cr_assert_eq(pkt_bytes(&p), 190 - front - back);
    if (front < 40 && p.len > 0)
        cr_assert_eq(p.data, head + 20 + front);
}

Test(tcp_unit, payload_is_trimmed_over_head_and_pieces) {
    for (uint32_t front = 0; front <= 190; front++)
        for (uint32_t back = 0; front + back <= 190; back += 7)
            trim_and_look(front, back);
}

/* ---- congestion control ---- */

Test(tcp_unit, controls_have_names_and_bounds) {
    cr_assert_geq(tcp_cc_find("cubic"), 0);
    cr_assert_geq(tcp_cc_find("bbr"), 0);
    cr_assert_eq(tcp_cc_find(""), -1);
    cr_assert_eq(tcp_cc_find("cub"), -1);
    cr_assert_eq(tcp_cc_find("cubiccubiccubic"), -1);
    for (uint32_t i = 0; tcp_cc_name(i)[0] != '\0'; i++)
        cr_assert_eq(tcp_cc_find(tcp_cc_name(i)), (int)i);
}

Test(tcp_unit, slow_start_stops_at_the_threshold) {
    struct tcp_conn c = {.cwnd = 1000, .ssthresh = 2500, .mss = 100};
    cr_assert_eq(tcp_cc_slow_start(&c, 1000), 0u);
    cr_assert_eq(c.cwnd, 2000u);
    cr_assert_eq(tcp_cc_slow_start(&c, 1000), 500u);
    cr_assert_eq(c.cwnd, 2500u);
    cr_assert_eq(tcp_cc_slow_start(&c, 1000), 1000u);
    cr_assert_eq(tcp_initial_cwnd(1460), 14600u);
    cr_assert_eq(tcp_initial_cwnd(9000), 18000u);
    cr_assert_eq(tcp_initial_cwnd(536), 5360u);
}

/* ---- saved state ---- */

Test(tcp_unit, hostile_records_are_refused) {
    struct tcp_config cfg = {.conn_max = 64, .half_open_max = 16, .time_wait_max = 16, .item_max = 64};
    cfg.segment_max = 64;
    cfg.listener_max = 4;
    struct link *l = link_create(3, &cfg, &cfg);
    (void)link_listen(l, 1, 80, NULL);
    l->faults[0].delay = l->faults[1].delay = 1000000;
    (void)link_connect(l, 0, 80, 100000, NULL);
    link_step_time(l, l->now + 5 * NS_PER_MS);
    uint8_t good[8192], bad[8192];
    uint64_t rng = 5, cursor = 0;
    int64_t n;
    void *fresh = aligned_alloc(4096, (l->host[0].size + 4095) & ~(size_t)4095);
    memset(fresh, 0, l->host[0].size);
    cr_assert_eq(usher_engine_tcp.init(fresh, l->host[0].size, &l->host[0].cfg, 1), 0);
    while ((n = usher_engine_tcp.save(l->host[0].st, &cursor, good, sizeof good)) > 0) {
        cr_assert_eq(usher_engine_tcp.load(fresh, 99, good, (size_t)n), -EPROTONOSUPPORT);
        for (uint32_t i = 0; i < 20000; i++) {
            memcpy(bad, good, (size_t)n);
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            bad[(rng >> 33) % (uint64_t)n] = (uint8_t)(rng >> 20);
            bad[(rng >> 40) % (uint64_t)n] ^= (uint8_t)(1u << (rng >> 61));
            (void)usher_engine_tcp.load(fresh, 1, bad, (size_t)(i % 3 ? n : (int64_t)((rng >> 50) % (uint64_t)n)));
            if (i % 500 == 0) {
                int broken = usher_engine_tcp.check(fresh);
                cr_assert_eq(broken, 0, "check says %d after %u records", broken, i);
            }
        }
    }
    uint64_t start = 0;
    cr_assert_eq(usher_engine_tcp.save(l->host[0].st, &start, good, 8), -ENOSPC);
    free(fresh);
    link_destroy(l);
}

Test(tcp_unit, recover_refuses_what_is_no_arena) {
    struct tcp_config cfg = {.conn_max = 16, .half_open_max = 16, .time_wait_max = 16, .item_max = 64};
    uint32_t lost;
    cfg.segment_max = 64;
    size_t size = usher_engine_tcp.state_size(&cfg, NULL, 0);
    void *st = aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
    memset(st, 0, size);
    cr_assert_neq(usher_engine_tcp.recover(st, size, &lost), 0);
    cr_assert_eq(usher_engine_tcp.init(st, size, &cfg, 1), 0);
    cr_assert_eq(usher_engine_tcp.recover(st, size, &lost), 0);
    cr_assert_eq(lost, 0u);
    ((struct tcp_engine *)st)->cfg.conn_max++;
    cr_assert_neq(usher_engine_tcp.recover(st, size, &lost), 0);
    free(st);
}

Test(tcp_unit, sizes) {
    cr_assert_leq(sizeof(struct tcp_conn) + sizeof(struct tcp_cold) + 8, 512u);
    cr_assert_eq(sizeof(struct tcp_half), 128u);
    cr_assert_eq(sizeof(struct tcp_wait), 128u);
}

/* ---- fast open ---- */

/* The values are Linux's, for the same key and addresses (of packetdrill's public scripts). */
Test(tcp_unit, fastopen_cookies_are_the_kernels) {
    static struct tcp_engine st;
    static const uint8_t want[TCP_FASTOPEN_COOKIE] = {0x30, 0x21, 0xb9, 0xd8, 0x89, 0x01, 0x7e, 0xeb};
    const struct flow f = {.local = ipaddr_from_v4((const uint8_t[]){192, 168, 0, 1}),
                           .remote = ipaddr_from_v4((const uint8_t[]){192, 0, 2, 1})};
    uint8_t got[TCP_FASTOPEN_COOKIE];
    st.cfg.fastopen_key[0] = 0xb2b2b2b2a1a1a1a1ull;
    st.cfg.fastopen_key[1] = 0xd4d4d4d4c3c3c3c3ull;
    tcp_keys_derive(&st);
    tcp_fastopen_cookie(&st, &f, got);
    cr_assert_arr_eq(got, want, sizeof want);
    st.cfg.fastopen_key[0] = st.cfg.fastopen_key[1] = 0;
    tcp_keys_derive(&st);
    tcp_fastopen_cookie(&st, &f, got);
    cr_assert_arr_neq(got, want, sizeof want, "a secret of its own");
}
