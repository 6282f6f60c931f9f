/* SPDX-License-Identifier: Apache-2.0
 *
 * The ip engine's state: what survives an upgrade and a death in the middle of a change, and what is refused.
 */
#include "engines/ip/ip_fixture.h"

static void populate(struct fixture *f) {
    cr_assert_eq(fx_addr(f, "192.168.1.1", 96 + 24, 1, IP_ADDR_DEDICATED), 0);
    cr_assert_eq(fx_route_add(f, "::", 0, "fd00::2", 0), 0);
    cr_assert_eq(fx_route_add(f, "0.0.0.0", 96, "10.0.0.2", 0), 0);
    cr_assert_eq(fx_route_add(f, "172.16.0.0", 96 + 12, "192.168.1.2", 1), 0);
    fx_output(f, fx_datagram(f, "::", "10.0.0.50", 1)); /* one next hop is being asked for */
    fx_output(f, fx_datagram(f, "::", "8.8.8.8", 1));
    struct ipaddr far = testkit_addr("8.8.8.8");
    ip_pmtu_learn(f->ip.st, &f->tk->io, &far, 1300);
    testkit_clear(f->tk);
}

static void same_answers(struct fixture *a, struct fixture *b) {
    static const char *const dst[] = {"8.8.8.8", "8.8.4.4", "172.16.3.3",  "10.0.0.1", "10.0.0.9",
                                      "fd00::7", "2001::1", "192.168.1.1", "127.0.0.1"};
    for (uint32_t i = 0; i < ARRAY_LEN(dst); i++) {
        struct ip_route_result ra, rb;
        struct ip_cmd_lookup ca = {.cmd = {IP_CMD_LOOKUP, sizeof ca}, .dst = testkit_addr(dst[i]), .result = &ra};
        struct ip_cmd_lookup cb = {.cmd = {IP_CMD_LOOKUP, sizeof cb}, .dst = testkit_addr(dst[i]), .result = &rb};
        memset(&ra, 0, sizeof ra);
        memset(&rb, 0, sizeof rb);
        cr_assert_eq(testkit_command(a->tk, &a->ip, &ca).error, 0);
        cr_assert_eq(testkit_command(b->tk, &b->ip, &cb).error, 0);
        cr_assert_eq(memcmp(&ra, &rb, sizeof ra), 0, "%s", dst[i]);
    }
}

static struct fixture empty(void) {
    struct fixture f = {.tk = testkit_create()};
    testkit_open(&f.ip, &usher_engine_ip, NULL, 99);
    return f;
}

Test(ip_state, save_and_load_change_nothing) {
    struct fixture a = fx_make(), b = empty();
    populate(&a);
    cr_assert_eq(testkit_transfer(&b.ip, &a.ip), 0);
    cr_assert_eq(b.ip.ops->check(b.ip.st), 0);
    same_answers(&a, &b);
    cr_assert_eq(a.ip.ops->next_deadline(a.ip.st), b.ip.ops->next_deadline(b.ip.st));
    fx_output(&b, fx_datagram(&b, "::", "10.0.0.2", 4)); /* its neighbour is known */
    cr_assert_eq(b.tk->down.count, 1);
    testkit_clear(b.tk);
    cr_assert_neq(testkit_transfer(&b.ip, &a.ip), 0); /* everything is there already */
    fx_end(&a);
    fx_end(&b);
}

Test(ip_state, load_refuses_hostile_records) {
    struct fixture a = fx_make();
    populate(&a);
    uint8_t good[256], bad[256];
    uint64_t cursor = 0, seed = 3;
    int64_t n;
    struct fixture b = empty();
    while ((n = a.ip.ops->save(a.ip.st, &cursor, good, sizeof good)) > 0) {
        for (int64_t cut = 0; cut < n; cut++)
            cr_assert_neq(b.ip.ops->load(b.ip.st, 1, good, (size_t)cut), 0);
        for (uint32_t i = 0; i < 3000; i++) {
            memcpy(bad, good, (size_t)n);
            for (uint32_t k = 0; k < 3; k++) {
                seed = seed * 6364136223846793005ull + 1442695040888963407ull;
                bad[(seed >> 33) % (uint64_t)n] = (uint8_t)(seed >> 50);
            }
            (void)b.ip.ops->load(b.ip.st, 1, bad, (size_t)n);
        }
        cr_assert_eq(b.ip.ops->check(b.ip.st), 0);
    }
    cursor = 0;
    cr_assert_eq(a.ip.ops->save(a.ip.st, &cursor, bad, 5), -ENOSPC);
    cr_assert_eq(b.ip.ops->load(b.ip.st, IP_LAYOUT + 1, good, 10), -EPROTONOSUPPORT);
    fx_end(&a);
    fx_end(&b);
}

/* Every record type, changed half way when the process died: the undo slot brings it back. */
Test(ip_state, recovers_from_an_open_change) {
    struct fixture f = fx_make(), same = fx_make();
    populate(&f);
    populate(&same);
    f.ip.ops->fini(f.ip.st, &f.tk->io); /* what waited would be nobody's any more */
    testkit_clear(f.tk);
    for (uint32_t t = 0; t < IP_TABLE_COUNT; t++) {
        struct ip_state *st = f.ip.st;
        uint8_t *r = ip_get(st, (enum ip_table)t, 0);
        cr_assert_not_null(r);
        arena_change(&st->a, t, 0, r, st->a.table[t].record_size);
        memset(r + sizeof(struct arena_record), 0xa5, st->a.table[t].record_size - sizeof(struct arena_record));
        cr_assert_eq(testkit_recover(&f.ip), 0);
        cr_assert_eq(f.ip.ops->check(f.ip.st), 0);
        same_answers(&f, &same);
    }
    fx_end(&f);
    fx_end(&same);
}

Test(ip_state, recovers_from_broken_derived_data) {
    struct fixture f = fx_make(), same = fx_make();
    populate(&f);
    populate(&same);
    struct ip_state *st = f.ip.st;
    f.ip.ops->fini(st, &f.tk->io);
    testkit_clear(f.tk);
    memset(arena_at(st, st->addr.heads_lines), 0x5a, st->a.size - (uint64_t)st->addr.heads_lines * CACHE_LINE);
    memset(&st->wheel, 0x5a, sizeof st->wheel);
    memset(st->wait, 0x5a, sizeof st->wait);
    st->wait_count = 77;
    st->frag_held = 9;
    st->route_lengths[1] = ~0ull;
    st->generation = 5;
    for (uint32_t t = 0; t < IP_TABLE_COUNT; t++)
        st->a.table[t].free_head = 3;
    cr_assert_eq(testkit_recover(&f.ip), 0);
    same_answers(&f, &same);
    cr_assert_eq(f.ip.ops->next_deadline(st), same.ip.ops->next_deadline(same.ip.st));
    fx_end(&f);
    fx_end(&same);
}

Test(ip_state, recover_removes_bad_records) {
    struct fixture f = fx_make();
    populate(&f);
    struct ip_addr *a = ip_get(f.ip.st, IP_TABLE_ADDR, 0);
    struct ip_route *r = ip_get(f.ip.st, IP_TABLE_ROUTE, 0);
    struct ip_neigh *n = ip_get(f.ip.st, IP_TABLE_NEIGH, 0);
    a->prefix_len = 200;
    r->prefix.b[15] = 1; /* bits behind the prefix */
    n->state = 99;
    f.ip.ops->fini(f.ip.st, &f.tk->io);
    testkit_clear(f.tk);
    cr_assert_eq(testkit_recover(&f.ip), 3);
    cr_assert_eq(f.ip.ops->check(f.ip.st), 0);
    fx_end(&f);
}

Test(ip_state, foreign_arenas_are_refused) {
    struct fixture f = fx_make();
    struct ip_state *st = f.ip.st;
    uint32_t lost;
    st->a.layout_version++;
    cr_assert_eq(f.ip.ops->recover(st, f.ip.size, &lost), -EUCLEAN);
    st->a.layout_version--;
    cr_assert_eq(f.ip.ops->recover(st, f.ip.size - CACHE_LINE, &lost), -EUCLEAN);
    st->cfg.neigh_max = 1u << 30;
    cr_assert_eq(f.ip.ops->recover(st, f.ip.size, &lost), -EUCLEAN);
    st->cfg.neigh_max = 1024;
    cr_assert_eq(testkit_recover(&f.ip), 0);
    fx_end(&f);
}

Test(ip_state, config_bounds) {
    char err[160] = "";
    static const struct ip_config bad[] = {
        {.neigh_queue_max = 65}, {.reassembly_max = 5000}, {.route_max = UINT32_MAX}, {.addr_max = 1u << 23}};
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_assert_eq(usher_engine_ip.state_size(&bad[i], err, sizeof err), 0, "case %u", i);
    cr_assert(strstr(err, "reassembly_max") != NULL);
    cr_assert_eq(usher_engine_ip.init(err, 10, NULL, 1), -EINVAL);
}

static void try_cell(bool dedicated, uint32_t state, uint32_t ev) {
    static const uint8_t mac[6] = {2, 9, 9, 9, 9, 9};
    struct fixture f = fx_make_with(NULL, dedicated);
    struct ip_state *st = f.ip.st;
    struct ipaddr who = testkit_addr("10.0.0.50");
    uint32_t i = ip_neigh_need(st, &f.tk->io, &who, 0);
    ip_neigh_wait(st, &f.tk->io, i, fx_datagram(&f, "10.0.0.1", "10.0.0.50", 1));
    if (state == NEIGH_FAILED)
        ip_neigh_event(st, &f.tk->io, i, NEIGH_EV_GIVE_UP, NULL);
    if (state == NEIGH_REACHABLE || state == NEIGH_PROBE)
        ip_neigh_event(st, &f.tk->io, i, NEIGH_EV_KNOWN, mac);
    if (state == NEIGH_PROBE)
        ip_neigh_event(st, &f.tk->io, i, NEIGH_EV_IN_USE_OWN, NULL);
    cr_assert_eq(((struct ip_neigh *)ip_get(st, IP_TABLE_NEIGH, i))->state, state);
    testkit_clear(f.tk);
    ip_neigh_event(st, &f.tk->io, i, (enum ip_neigh_event)ev, mac);
    cr_assert_eq(f.ip.ops->check(st), 0, "state %u event %u", state, ev);
    testkit_clear(f.tk);
    fx_end(&f);
}

/* Every cell of the next-hop table: nothing but what the table says happens, and nothing breaks. */
Test(ip_neigh_table, every_cell) {
    for (uint32_t state = NEIGH_INCOMPLETE; state < NEIGH_STATE_COUNT; state++) {
        for (uint32_t ev = 0; ev < NEIGH_EV_COUNT; ev++) {
            try_cell(false, state, ev);
            try_cell(true, state, ev);
        }
    }
}

/* ---- any commands in any order ---- */

static uint64_t draw(uint64_t *seed, uint64_t below) {
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return (*seed >> 33) % below;
}

static struct ipaddr some_addr(uint64_t *seed) {
    static const char *const base[] = {"10.0.0.0", "fd00::", "172.16.0.0", "ff02::", "0.0.0.0", "127.0.0.0"};
    struct ipaddr a = testkit_addr(base[draw(seed, ARRAY_LEN(base))]);
    a.b[15] = (uint8_t)draw(seed, 6);
    return a;
}

static void some_command(struct fixture *f, uint64_t *seed) {
    union {
        struct engine_cmd cmd;
        struct ip_cmd_addr addr;
        struct ip_cmd_route route;
        struct ip_cmd_neigh neigh;
        struct ip_cmd_flush flush;
    } c;
    memset(&c, 0, sizeof c);
    c.cmd = (struct engine_cmd){1 + (uint32_t)draw(seed, 4), sizeof c};
    uint16_t port = (uint16_t)(draw(seed, 8) == 0 ? 0xfff0 + draw(seed, 16) : draw(seed, 2));
    if (c.cmd.id == IP_CMD_ADDR) {
        c.addr.addr = some_addr(seed);
        c.addr.port = port;
        c.addr.prefix_len = (uint8_t)draw(seed, 132);
        c.addr.remove = draw(seed, 3) == 0;
        c.addr.dedicated = draw(seed, 2);
        c.addr.broadcast = draw(seed, 4) == 0;
    } else if (c.cmd.id == IP_CMD_ROUTE) {
        c.route.prefix = some_addr(seed);
        c.route.gateway = draw(seed, 2) ? some_addr(seed) : ipaddr_any();
        c.route.port = port;
        c.route.prefix_len = (uint8_t)draw(seed, 132);
        c.route.remove = draw(seed, 3) == 0;
        c.route.metric = (uint32_t)draw(seed, 2);
    } else if (c.cmd.id == IP_CMD_NEIGH) {
        c.neigh.addr = some_addr(seed);
        c.neigh.port = port;
        c.neigh.state = (uint8_t)draw(seed, 4);
    } else {
        c.flush.begin = draw(seed, 2);
    }
    (void)testkit_command(f->tk, &f->ip, &c);
}

Test(ip_random, commands_sends_deaths_and_time) {
    struct ip_config cfg = {
        .addr_max = 8, .route_max = 8, .neigh_max = 6, .pmtu_max = 4, .reassembly_max = 2, .neigh_queue_max = 3};
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t s = seed;
        struct fixture f = fx_make_with(&cfg, seed & 1);
        for (uint32_t step = 0; step < 1500; step++) {
            if (draw(&s, 2))
                some_command(&f, &s);
            struct pkt *p = fx_datagram(&f, "::", "10.0.0.2", (uint32_t)draw(&s, 1800));
            p->flow.remote = some_addr(&s);
            p->flow.local = draw(&s, 4) ? ipaddr_any() : some_addr(&s);
            p->flags |= (uint16_t)draw(&s, 2) * PKT_MCAST_LOOP | (uint16_t)draw(&s, 2) * PKT_BROADCAST;
            fx_output(&f, p);
            f.tk->io.now += draw(&s, 3 * NS_PER_SEC);
            (void)testkit_run(f.tk, &f.ip, 64);
            testkit_clear(f.tk);
            cr_assert_eq(f.ip.ops->check(f.ip.st), 0, "seed %lu step %u", (unsigned long)seed, step);
            if (draw(&s, 100) == 0) {
                f.ip.ops->fini(f.ip.st, &f.tk->io);
                testkit_clear(f.tk);
                cr_assert_eq(testkit_recover(&f.ip), 0);
            }
        }
        fx_end(&f);
    }
}
