/* SPDX-License-Identifier: Apache-2.0
 *
 * Reassembly: every order, repetitions, overlaps, lies about the end, limits, time.
 */
#include "engines/ip/ip_fixture.h"

/* Piece [from, from + len) of a datagram whose byte i is i * 7, as a frame. */
struct piece {
    uint32_t from, len;
    bool more;
};

static struct pkt *frame4(struct fixture *f, uint16_t id, const struct piece *c) {
    struct flow flow = testkit_flow("10.0.0.1", 7, "10.0.0.2", 9);
    struct pkt *p = testkit_udp_frame(f->tk, &flow, NULL, c->len - (c->len < UDP_LEN ? 0 : UDP_LEN));
    p->len = ETH_LEN + IP4_LEN + c->len;
    uint8_t *h = p->data + ETH_LEN;
    be16_store(h + 2, (uint16_t)(IP4_LEN + c->len));
    be16_store(h + 4, id);
    be16_store(h + 6, (uint16_t)(c->from / 8 | (c->more ? 0x2000 : 0)));
    testkit_fix_ip4(h);
    for (uint32_t i = 0; i < c->len; i++)
        h[IP4_LEN + i] = (uint8_t)((c->from + i) * 7);
    return p;
}

static struct pkt *frame6(struct fixture *f, uint32_t id, const struct piece *c) {
    struct flow flow = testkit_flow("fd00::1", 7, "fd00::2", 9);
    struct pkt *p = testkit_udp_frame(f->tk, &flow, NULL, c->len);
    uint8_t *h = p->data + ETH_LEN;
    h[6] = PROTO_FRAGMENT6;
    be16_store(h + 4, (uint16_t)(8 + c->len));
    uint8_t *g = h + IP6_LEN;
    g[0] = PROTO_UDP;
    g[1] = 0;
    be16_store(g + 2, (uint16_t)(c->from | (c->more ? 1 : 0)));
    be32_store(g + 4, id);
    for (uint32_t i = 0; i < c->len; i++)
        g[8 + i] = (uint8_t)((c->from + i) * 7);
    p->len = ETH_LEN + IP6_LEN + 8 + c->len;
    return p;
}

static struct pkt *frame(struct fixture *f, bool six, uint32_t id, const struct piece *c) {
    return six ? frame6(f, id, c) : frame4(f, (uint16_t)id, c);
}

static bool whole_is_right(const struct fixture *f, uint32_t len) {
    if (f->tk->up.count != 1 || f->tk->up.v[0]->len != len)
        return false;
    for (uint32_t i = 0; i < len; i++)
        if (f->tk->up.v[0]->data[i] != (uint8_t)(i * 7))
            return false;
    return true;
}

Test(ip_frag, every_order_of_four_pieces) {
    static const struct piece pieces[4] = {{0, 800, true}, {800, 400, true}, {1200, 8, true}, {1208, 101, false}};
    for (int six = 0; six < 2; six++) {
        for (uint32_t order = 0; order < 256; order++) {
            uint32_t at[4] = {order & 3, order >> 2 & 3, order >> 4 & 3, order >> 6 & 3};
            if ((1u << at[0] | 1u << at[1] | 1u << at[2] | 1u << at[3]) != 15)
                continue;
            struct fixture f = fx_make();
            for (uint32_t i = 0; i < 4; i++) {
                cr_assert_eq(f.tk->up.count, 0);
                fx_input(&f, frame(&f, six, 77, &pieces[at[i]]));
            }
            cr_assert(whole_is_right(&f, 1309), "order %u v6 %d", order, six);
            const struct pkt *p = f.tk->up.v[0];
            cr_assert_eq(p->flow.proto, PROTO_UDP);
            cr_assert_eq(pkt_l4(p), p->data);
            cr_assert_eq(pkt_l3(p)[0] >> 4, six ? 6 : 4);
            cr_assert_eq(f.tk->done.count, 4);
            testkit_clear(f.tk);
            fx_end(&f);
        }
    }
}

Test(ip_frag, large_datagrams_need_the_large_pool) {
    struct fixture f = fx_make();
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1)
            f.tk->io.pool_large = NULL;
        for (uint32_t at = 0; at < 3000; at += 1000)
            fx_input(&f, frame4(&f, (uint16_t)pass, &(struct piece){at, 1000, at < 2000}));
        cr_assert_eq(whole_is_right(&f, 3000), pass == 0);
        if (pass == 1) {
            cr_assert_eq(f.tk->drop.count, 3);
            cr_assert_eq(f.tk->drop.v[0]->drop, DROP_NO_BUFFER);
        }
        testkit_clear(f.tk);
    }
    f.tk->io.pool_large = &f.tk->large;
    fx_end(&f);
}

Test(ip_frag, ill_pieces) {
    static const struct {
        struct piece p[3];
        uint32_t n, drops; /* drops at the last piece, the others with it included */
    } cases[] = {
        {{{0, 801, true}}, 1, 1},                       /* not a multiple of eight */
        {{{0, 800, true}, {792, 800, false}}, 2, 2},    /* overlaps the end */
        {{{800, 800, true}, {0, 808, true}}, 2, 2},     /* overlaps the start */
        {{{0, 1600, true}, {400, 400, true}}, 2, 2},    /* lies inside */
        {{{400, 400, true}, {0, 1200, true}}, 2, 2},    /* covers */
        {{{0, 800, true}, {0, 808, true}}, 2, 2},       /* same start, longer */
        {{{800, 100, false}, {904, 100, false}}, 2, 2}, /* two ends */
        {{{800, 100, false}, {1600, 800, true}}, 2, 2}, /* beyond the end */
        {{{1600, 800, true}, {800, 100, false}}, 2, 2}, /* an end before what is here */
        {{{65528, 100, false}}, 1, 1},                  /* longer than any packet */
        {{{8, 800, true}, {808, 800, true}, {400, 800, true}}, 3, 3},
    };
    for (int six = 0; six < 2; six++) {
        for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
            struct fixture f = fx_make();
            for (uint32_t k = 0; k < cases[i].n; k++)
                fx_input(&f, frame(&f, six, 5, &cases[i].p[k]));
            cr_assert_eq(f.tk->drop.count, cases[i].drops, "case %u v6 %d: %u", i, six, f.tk->drop.count);
            for (uint32_t k = 0; k < f.tk->drop.count; k++)
                cr_assert_eq(f.tk->drop.v[k]->drop, DROP_IP_FRAG_MALFORMED);
            cr_assert_eq(testkit_missing(f.tk), 0);
            testkit_clear(f.tk);
            fx_end(&f);
        }
    }
}

Test(ip_frag, an_exact_repetition_is_ignored_another_text_is_not) {
    struct fixture f = fx_make();
    struct piece first = {0, 800, true}, last = {800, 100, false};
    fx_input(&f, frame4(&f, 5, &first));
    fx_input(&f, frame4(&f, 5, &first));
    cr_assert_eq(f.tk->done.count, 1);
    fx_input(&f, frame4(&f, 5, &last));
    cr_assert(whole_is_right(&f, 900));
    testkit_clear(f.tk);
    fx_input(&f, frame4(&f, 6, &first));
    struct pkt *forged = frame4(&f, 6, &first);
    forged->data[forged->len - 1] ^= 1;
    fx_input(&f, forged);
    cr_assert_eq(f.tk->drop.count, 2);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_frag, keys_keep_datagrams_apart) {
    struct fixture f = fx_make();
    struct piece first = {0, 800, true}, last = {800, 100, false};
    fx_input(&f, frame4(&f, 5, &first));
    fx_input(&f, frame4(&f, 6, &last));
    struct pkt *other = frame4(&f, 5, &last);
    other->data[ETH_LEN + 9] = 99; /* another protocol */
    testkit_fix_ip4(other->data + ETH_LEN);
    fx_input(&f, other);
    fx_input(&f, frame6(&f, 5, &last));
    cr_assert_eq(f.tk->up.count, 0);
    cr_assert_eq(testkit_missing(f.tk), 4);
    fx_input(&f, frame4(&f, 5, &last));
    cr_assert(whole_is_right(&f, 900));
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_frag, congestion_mark_of_any_piece_marks_the_whole) {
    struct fixture f = fx_make();
    struct piece first = {0, 800, true}, last = {800, 100, false};
    struct pkt *p = frame4(&f, 5, &last);
    p->data[ETH_LEN + 1] = 3;
    testkit_fix_ip4(p->data + ETH_LEN);
    fx_input(&f, frame4(&f, 5, &first));
    fx_input(&f, p);
    cr_assert(f.tk->up.count == 1 && (f.tk->up.v[0]->flags & PKT_ECN_CE));
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_frag, times_out_and_then_sleeps) {
    struct fixture f = fx_make();
    fx_input(&f, frame4(&f, 5, &(struct piece){0, 800, true}));
    fx_input(&f, frame6(&f, 5, &(struct piece){800, 800, true}));
    f.tk->io.now += 29 * NS_PER_SEC;
    (void)testkit_run(f.tk, &f.ip, 64);
    cr_assert_eq(f.tk->drop.count, 0);
    f.tk->io.now += 2 * NS_PER_SEC;
    (void)testkit_run(f.tk, &f.ip, 64);
    cr_assert_eq(f.tk->drop.count, 2);
    cr_assert_eq(f.tk->drop.v[0]->drop, DROP_IP_FRAG_TIMEOUT);
    cr_assert_geq(f.ip.ops->next_deadline(f.ip.st), f.tk->io.now); /* only the neighbours' checks are left */
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_frag, the_oldest_gives_way) {
    struct fixture f = fx_make_with(&(struct ip_config){.reassembly_max = 3}, false);
    for (uint16_t id = 0; id < 4; id++)
        fx_input(&f, frame4(&f, id, &(struct piece){0, 800, true}));
    cr_assert_eq(f.tk->drop.count, 1);
    cr_assert_eq(f.tk->drop.v[0]->drop, DROP_IP_FRAG_LIMIT);
    testkit_clear(f.tk);
    fx_input(&f, frame4(&f, 3, &(struct piece){800, 8, false}));
    cr_assert(whole_is_right(&f, 808));
    testkit_clear(f.tk);
    fx_input(&f, frame4(&f, 0, &(struct piece){800, 8, false})); /* the one that went: a new one begins */
    cr_assert_eq(f.tk->up.count, 0);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_frag, pieces_are_bounded) {
    struct fixture f = fx_make();
    for (uint32_t i = 0; i <= IP_FRAG_PIECES; i++)
        fx_input(&f, frame4(&f, 1, &(struct piece){i * 16, 8, true}));
    cr_assert_eq(f.tk->drop.count, IP_FRAG_PIECES + 1);
    cr_assert_eq(testkit_missing(f.tk), 0);
    testkit_clear(f.tk);
    fx_end(&f);
}

Test(ip_frag, a_flood_neither_leaks_nor_overflows) {
    struct fixture f = fx_make_with(&(struct ip_config){.reassembly_max = 16}, false);
    uint64_t seed = 4;
    for (uint32_t round = 0; round < 200; round++) {
        struct pkt *burst[PKT_BURST];
        for (uint32_t i = 0; i < PKT_BURST; i++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            uint32_t n = (uint32_t)(seed >> 33) % 40;
            burst[i] = frame(&f, seed >> 60 & 1, (uint32_t)(seed >> 50) % 12, &(struct piece){n * 8, 8, n != 39});
            burst[i]->flags = PKT_CSUM_OK;
        }
        testkit_input(f.tk, &f.ip, burst, PKT_BURST);
        cr_assert_leq(f.tk->drop.count, PKT_VEC_MAX);
        cr_assert_leq(testkit_missing(f.tk), 16 * IP_FRAG_PIECES);
        cr_assert_eq(f.ip.ops->check(f.ip.st), 0);
        testkit_clear(f.tk);
        f.tk->io.now += NS_PER_SEC;
        (void)testkit_run(f.tk, &f.ip, 64);
        testkit_clear(f.tk);
    }
    fx_end(&f);
}

/* Six full datagrams complete in one burst of last pieces: more pieces come free than a vec takes. */
Test(ip_frag, completions_wait_for_room) {
    struct fixture f = fx_make();
    struct pkt *burst[6];
    for (uint16_t id = 0; id < 6; id++) {
        for (uint32_t i = 0; i < 63; i++)
            fx_input(&f, frame4(&f, id, &(struct piece){i * 8, 8, true}));
        burst[id] = frame4(&f, id, &(struct piece){63 * 8, 8, false});
    }
    cr_assert_eq(f.tk->drop.count, 0);
    testkit_input(f.tk, &f.ip, burst, 6);
    uint32_t whole = 0;
    for (uint32_t turn = 0; turn < 10; turn++) {
        whole += f.tk->up.count;
        cr_assert_eq(f.tk->drop.count, 0);
        testkit_clear(f.tk);
        f.tk->io.now += 2 * NS_PER_MS;
        (void)testkit_run(f.tk, &f.ip, 64);
    }
    cr_assert_eq(whole, 6);
    fx_end(&f);
}

/* A reassembled packet that is itself a fragment would let one packet start a chain of work. */
Test(ip_frag, no_fragments_inside_fragments) {
    struct fixture f = fx_make();
    struct pkt *p = frame6(&f, 5, &(struct piece){0, 16, true});
    uint8_t inner[16] = {PROTO_UDP, 0, 0, 1, 0, 0, 0, 9};
    p->data[ETH_LEN + IP6_LEN] = PROTO_FRAGMENT6;
    memcpy(p->data + ETH_LEN + IP6_LEN + 8, inner, 16);
    fx_input(&f, p);
    struct pkt *last = frame6(&f, 5, &(struct piece){16, 8, false});
    last->data[ETH_LEN + IP6_LEN] = PROTO_FRAGMENT6;
    fx_input(&f, last);
    cr_assert_eq(f.tk->up.count, 0);
    cr_assert_eq(f.tk->drop.count, 1);
    cr_assert_eq(f.tk->drop.v[0]->drop, DROP_IP_FRAG_MALFORMED);
    testkit_clear(f.tk);
    fx_end(&f);
}
