/* SPDX-License-Identifier: Apache-2.0
 *
 * The udp engine's state: what survives an upgrade, a death in the middle of a change, and bytes of any kind.
 */
#include "engines/udp/udp_fixture.h"

/* ---- what survives ---- */

static void populate(struct fixture *f) {
    for (uint16_t i = 0; i < 40; i++) {
        uint32_t s = must_open(f, &(struct spec){.local = "0.0.0.0",
                                                 .local_port = (uint16_t)(100 + i % 10),
                                                 .reuseport = true,
                                                 .spread = i % 10 == 3});
        if (i % 4 == 0)
            join(f, s, "239.1.1.1", i, 0);
        if (i % 7 == 0) {
            struct udp_cmd_close c = {.cmd = {UDP_CMD_CLOSE, sizeof c}, .sock = s};
            cr_assert_eq(testkit_command(f->tk, &f->udp, &c).error, 0);
        }
    }
    (void)must_open(f, &(struct spec){.local = "fd00::1", .local_port = 9, .remote = "fd00::2", .remote_port = 10});
}

Test(udp_state, save_and_load_change_nothing) {
    struct fixture a = make(), b = make();
    populate(&a);
    cr_assert_eq(testkit_transfer(&b.udp, &a.udp), 0);
    cr_assert_eq(b.udp.ops->check(b.udp.st), 0);
    for (uint16_t i = 0; i < 300; i++) {
        uint16_t port = (uint16_t)(100 + i % 12);
        cr_assert_eq(deliver(&a, "10.0.0.1", port, "10.0.0.2", i), deliver(&b, "10.0.0.1", port, "10.0.0.2", i));
    }
    cr_assert_neq(testkit_transfer(&b.udp, &a.udp), 0); /* everything is there already */
    end(&a);
    end(&b);
}

Test(udp_state, load_refuses_hostile_records) {
    struct fixture a = make(), b = make();
    uint8_t good[256], bad[256];
    uint64_t cursor = 0, seed = 3;
    (void)must_open(&a, &(struct spec){.local = "::", .local_port = 5});
    int64_t n = a.udp.ops->save(a.udp.st, &cursor, good, sizeof good);
    cr_assert_gt(n, 0);
    cursor = 0;
    cr_assert_eq(a.udp.ops->save(a.udp.st, &cursor, bad, 10), -ENOSPC);
    for (int64_t cut = 0; cut < n; cut++)
        cr_assert_neq(b.udp.ops->load(b.udp.st, 1, good, (size_t)cut), 0);
    for (uint32_t i = 0; i < 20000; i++) {
        memcpy(bad, good, (size_t)n);
        for (uint32_t k = 0; k < 3; k++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            bad[(seed >> 33) % (uint64_t)n] = (uint8_t)(seed >> 50);
        }
        (void)b.udp.ops->load(b.udp.st, 1, bad, (size_t)n);
    }
    cr_assert_eq(b.udp.ops->check(b.udp.st), 0);
    cr_assert_eq(b.udp.ops->load(b.udp.st, UDP_LAYOUT + 1, good, (size_t)n), -EPROTONOSUPPORT);
    end(&a);
    end(&b);
}

Test(udp_state, recovers_from_an_open_change) {
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5});
    struct udp_state *st = f.udp.st;
    struct udp_socket *r = udp_socket_get(st, s);
    arena_change(&st->a, UDP_TABLE_SOCKET, s, r, sizeof *r);
    r->flow.local_port = 0; /* died half way */
    r->flags = 0xff;
    cr_assert_eq(testkit_recover(&f.udp), 0);
    cr_assert_eq(deliver(&f, "10.0.0.1", 5, "10.0.0.2", 9), s);
    end(&f);
}

Test(udp_state, recovers_from_broken_derived_data) {
    struct fixture f = make();
    populate(&f);
    struct udp_state *st = f.udp.st;
    uint32_t want[300];
    for (uint16_t i = 0; i < 300; i++)
        want[i] = i % 10 == 3 ? 0 : deliver(&f, "10.0.0.1", (uint16_t)(100 + i % 10), "10.0.0.2", i);
    memset(arena_at(st, st->exact.heads_lines), 0x5a, st->a.size - (uint64_t)st->exact.heads_lines * CACHE_LINE);
    st->a.table[0].free_head = 7;
    st->a.table[0].live = 12345;
    st->exact_count = 99;
    cr_assert_eq(testkit_recover(&f.udp), 0);
    for (uint16_t i = 0; i < 300; i++)
        if (i % 10 != 3)
            cr_assert_eq(deliver(&f, "10.0.0.1", (uint16_t)(100 + i % 10), "10.0.0.2", i), want[i]);
    end(&f);
}

Test(udp_state, recover_removes_bad_records_and_refuses_foreign_arenas) {
    struct fixture f = make();
    uint32_t s = must_open(&f, &(struct spec){.local = "0.0.0.0", .local_port = 5});
    join(&f, s, "239.1.1.1", 0, 0);
    udp_socket_get(f.udp.st, s)->flow.proto = 6;
    cr_assert_eq(testkit_recover(&f.udp), 2); /* the socket and its membership */
    cr_assert_eq(deliver(&f, "10.0.0.1", 5, "10.0.0.2", 9), NOBODY);
    struct udp_state *st = f.udp.st;
    uint32_t lost;
    st->cfg.socket_max++;
    cr_assert_eq(f.udp.ops->recover(st, f.udp.size, &lost), -EUCLEAN);
    st->cfg.socket_max--;
    st->a.magic ^= 1;
    cr_assert_eq(f.udp.ops->recover(st, f.udp.size, &lost), -EUCLEAN);
    st->a.magic ^= 1;
    cr_assert_eq(testkit_recover(&f.udp), 0);
    end(&f);
}

Test(udp_state, sizes) {
    char err[200] = "";
    struct udp_config small = {.socket_max = 10000, .member_max = 1}, huge = {.socket_max = UINT32_MAX};
    cr_assert_lt(usher_engine_udp.state_size(&small, NULL, 0), 10000 * 160 + (512 << 10));
    cr_assert_eq(usher_engine_udp.state_size(&huge, err, sizeof err), 0);
    cr_assert(strstr(err, "socket_max") != NULL);
    cr_assert_eq(usher_engine_udp.state_size(&huge, NULL, 0), 0);
}

/* ---- anything at all ---- */

Test(udp_random, bytes_and_fields_never_leak_or_crash) {
    struct fixture f = make();
    populate(&f);
    uint64_t seed = 17;
    for (uint32_t i = 0; i < 30000; i++) {
        struct flow flow = testkit_flow(i % 2 ? "10.0.0.1" : "fd00::1", 105, i % 2 ? "10.0.0.2" : "fd00::2", 9);
        struct pkt *p = arrive(&f, &flow, "abcdefgh", 8);
        for (uint32_t k = 0; k < 3; k++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            p->data[(seed >> 33) % 16] = (uint8_t)(seed >> 50);
        }
        p->len = (uint32_t)(seed >> 40) % 17;
        p->flags = (uint16_t)(seed >> 20) & (PKT_CSUM_OK | PKT_LOCAL | PKT_BROADCAST | PKT_ICMP_ERROR | PKT_GSO);
        p->sock = (uint32_t)(seed >> 22) % 64;
        if (i % 3 == 0)
            testkit_output(f.tk, &f.udp, &p, 1);
        else
            testkit_input(f.tk, &f.udp, &p, 1);
        cr_assert_eq(testkit_missing(f.tk), 0);
        testkit_clear(f.tk);
    }
    end(&f);
}

static void some_command(struct fixture *f, uint64_t *seed) {
    static const char *const addr[] = {"::", "0.0.0.0", "10.0.0.1", "fd00::1", "239.0.0.1"};
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    uint32_t r = (uint32_t)(*seed >> 32);
    struct spec s = {.local = addr[r % 5],
                     .local_port = (uint16_t)(r >> 3) % 4,
                     .reuseport = r & 1,
                     .v6only = r >> 1 & 1,
                     .spread = (uint8_t)(r >> 7) % 3,
                     .ifindex = (r >> 9) % 3};
    if (r >> 12 & 1) {
        s.remote = addr[(r >> 13) % 5];
        s.remote_port = (uint16_t)(r >> 16) % 3;
    }
    struct udp_cmd_open open = open_cmd(&s, r >> 20 & 7);
    open.sock = r >> 23 & 15;
    struct udp_cmd_close close = {.cmd = {UDP_CMD_CLOSE, sizeof close}, .sock = open.sock};
    struct udp_cmd_group group = {.cmd = {UDP_CMD_GROUP, sizeof group},
                                  .sock = open.sock,
                                  .group = testkit_addr(addr[r % 5]),
                                  .leave = r >> 27 & 1};
    const void *const cmds[] = {&open, &open, &close, &group};
    if (r >> 28 & 1)
        open.cmd.id = UDP_CMD_UPDATE;
    (void)testkit_command(f->tk, &f->udp, cmds[r >> 30]);
}

Test(udp_random, commands_and_deaths_keep_the_state_whole) {
    for (uint64_t seed = 1; seed <= 30; seed++) {
        uint64_t s = seed;
        struct fixture f = make();
        for (uint32_t step = 0; step < 1000; step++) {
            some_command(&f, &s);
            (void)deliver(&f, "10.0.0.1", step % 4, "10.0.0.2", (uint16_t)(step % 3));
            if (step % 100 == 99)
                cr_assert_eq(testkit_recover(&f.udp), 0);
            cr_assert_eq(f.udp.ops->check(f.udp.st), 0, "seed %lu step %u", (unsigned long)seed, step);
        }
        end(&f);
    }
}
