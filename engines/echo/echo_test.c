/* SPDX-License-Identifier: Apache-2.0
 *
 * The echo engine alone: what comes goes back, and a closed loop that keeps its window over loss, lateness, death.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "engines/echo/echo_cmd.h"
#include "engines/testkit.h"
#include "engines/wire.h"

extern const struct engine_ops usher_engine_echo;

struct fixture {
    struct testkit *tk;
    struct testkit_engine echo;
};

static struct fixture make(void) {
    struct fixture f = {.tk = testkit_create()};
    testkit_open(&f.echo, &usher_engine_echo, NULL, 1);
    return f;
}

static void end(struct fixture *f) {
    cr_assert_eq(f->echo.ops->check(f->echo.st), 0);
    testkit_close(f->tk, &f->echo);
    cr_assert_eq(testkit_missing(f->tk), 0);
    testkit_destroy(f->tk);
}

static struct echo_cmd_generate loop(uint32_t sock, uint32_t window, uint32_t size) {
    return (struct echo_cmd_generate){.cmd = {ECHO_CMD_GENERATE, sizeof(struct echo_cmd_generate)},
                                      .sock = sock,
                                      .window = window,
                                      .size = size,
                                      .peer_port = 9,
                                      .peer = testkit_addr("10.0.0.2"),
                                      .timeout_ns = 10 * NS_PER_MS};
}

static int generate(struct fixture *f, uint32_t sock, uint32_t window, uint32_t size) {
    struct echo_cmd_generate c = loop(sock, window, size);
    return testkit_command(f->tk, &f->echo, &c).error;
}

static struct engine_reply stats(struct fixture *f) {
    struct echo_cmd_stats c = {.cmd = {ECHO_CMD_STATS, sizeof c}};
    return testkit_command(f->tk, &f->echo, &c);
}

/* The peer: everything in `down` comes back up to socket `sock`. */
static void answer_all(struct fixture *f, uint32_t sock) {
    for (uint32_t n = f->tk->down.count; n > 0; n--) {
        struct pkt *p = testkit_take(&f->tk->down, 0);
        p->sock = sock;
        testkit_input(f->tk, &f->echo, &p, 1);
    }
}

Test(echo, sends_back_what_came) {
    struct fixture f = make();
    struct pkt *p = testkit_raw(f.tk, "hello", 5);
    p->flow = testkit_flow("10.0.0.1", 7, "10.0.0.2", 9);
    p->tos = 0x2b;
    p->sock = 3;
    testkit_input(f.tk, &f.echo, &p, 1);
    cr_assert_eq(f.tk->down.v[0], p);
    cr_assert(p->sock == 3 && p->len == 5 && p->flow.remote_port == 9 && p->tos == 0x28);
    struct ipaddr own = testkit_addr("10.0.0.1");
    cr_assert(ipaddr_equal(&p->flow.local, &own)); /* from the address it was sent to */
    testkit_clear(f.tk);
    p = testkit_raw(f.tk, "hello", 5);
    p->flow = testkit_flow("239.0.0.1", 7, "10.0.0.2", 9);
    testkit_input(f.tk, &f.echo, &p, 1);
    cr_assert(ipaddr_is_any(&p->flow.local)); /* a group answers from no address of its own */
    testkit_clear(f.tk);
    end(&f);
}

Test(echo, commands_refuse_bad_arguments) {
    struct fixture f = make();
    cr_assert_eq(generate(&f, 1, 1025, 64), -EINVAL);
    cr_assert_eq(generate(&f, 1, 1, 7), -EINVAL);
    cr_assert_eq(generate(&f, 1, 1, 65508), -EINVAL);
    cr_assert_eq(generate(&f, 1, 0, 64), -ENOENT);
    struct echo_cmd_generate c = loop(1, 1, 64);
    c.peer_port = 0;
    cr_assert_eq(testkit_command(f.tk, &f.echo, &c).error, -EINVAL);
    c = loop(1, 1, 64);
    c.timeout_ns = 0;
    cr_assert_eq(testkit_command(f.tk, &f.echo, &c).error, -EINVAL);
    c = loop(1, 1, 64);
    c.peer = ipaddr_any();
    cr_assert_eq(testkit_command(f.tk, &f.echo, &c).error, -EINVAL);
    c.cmd.size--;
    cr_assert_eq(testkit_command(f.tk, &f.echo, &c).error, -EINVAL);
    struct engine_cmd unknown = {77, sizeof unknown};
    cr_assert_eq(testkit_command(f.tk, &f.echo, &unknown).error, -ENOTSUP);
    for (uint32_t i = 0; i < 16; i++)
        cr_assert_eq(generate(&f, i, 1, 64), 0);
    cr_assert_eq(generate(&f, 16, 1, 64), -ENOSPC);
    cr_assert_eq(f.echo.ops->next_deadline(f.echo.st), 1);
    for (uint32_t i = 0; i < 16; i++)
        cr_assert_eq(generate(&f, i, 0, 0), 0);
    cr_assert_eq(f.echo.ops->next_deadline(f.echo.st), NS_NEVER);
    end(&f);
}

Test(echo, the_window_stays_closed) {
    struct fixture f = make();
    cr_assert_eq(generate(&f, 1, 8, 100), 0);
    cr_assert_eq(testkit_run(f.tk, &f.echo, 5), 5); /* the budget */
    cr_assert_eq(testkit_run(f.tk, &f.echo, 64), 3);
    cr_assert_eq(testkit_run(f.tk, &f.echo, 64), 0);
    for (uint32_t turn = 0; turn < 50; turn++) {
        cr_assert_eq(f.tk->down.count, 8);
        answer_all(&f, 1);
        f.tk->io.now += NS_PER_MS;
    }
    cr_assert_eq(stats(&f).value64, 400);
    cr_assert_eq(stats(&f).value, 0);
    testkit_clear(f.tk);
    end(&f);
}

Test(echo, lost_requests_go_out_anew_and_late_answers_do_not_count) {
    struct fixture f = make();
    cr_assert_eq(generate(&f, 1, 4, 64), 0);
    (void)testkit_run(f.tk, &f.echo, 64);
    struct pkt *late = testkit_take(&f.tk->down, 1);
    struct pkt *good = testkit_take(&f.tk->down, 0);
    good->sock = 1;
    testkit_input(f.tk, &f.echo, &good, 1);
    testkit_clear(f.tk);
    cr_assert_eq(f.echo.ops->next_deadline(f.echo.st), f.tk->io.now + 10 * NS_PER_MS);
    f.tk->io.now += 10 * NS_PER_MS;
    cr_assert_eq(testkit_run(f.tk, &f.echo, 64), 4);
    cr_assert_eq(stats(&f).value, 4);
    late->sock = 1;
    testkit_input(f.tk, &f.echo, &late, 1);
    cr_assert_eq(f.tk->done.count, 1);
    cr_assert_eq(stats(&f).value64, 1);
    testkit_clear(f.tk);
    end(&f);
}

Test(echo, forged_answers_change_nothing) {
    struct fixture f = make();
    uint64_t seed = 5;
    cr_assert_eq(generate(&f, 1, 4, 64), 0);
    (void)testkit_run(f.tk, &f.echo, 64);
    testkit_clear(f.tk);
    for (uint32_t i = 0; i < 5000; i++) {
        uint8_t b[64] = {0};
        for (uint32_t k = 0; k < 8; k++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            b[k] = (uint8_t)(seed >> 50);
        }
        b[4] |= 0x80; /* no request has a number like it */
        struct pkt *p = testkit_raw(f.tk, b, (uint32_t)(seed >> 33) % 65);
        p->sock = 1;
        testkit_input(f.tk, &f.echo, &p, 1);
        cr_assert_eq(f.tk->done.count, 1);
        testkit_clear(f.tk);
    }
    end(&f);
}

Test(echo, waits_when_there_is_no_buffer) {
    struct fixture f = make();
    struct pkt *held[TESTKIT_SMALL];
    uint32_t n = 0;
    while (f.tk->small.free_count > 0)
        held[n++] = pkt_alloc(&f.tk->small);
    cr_assert_eq(generate(&f, 1, 4, 64), 0);
    cr_assert_eq(testkit_run(f.tk, &f.echo, 64), 0);
    cr_assert_gt(f.echo.ops->next_deadline(f.echo.st), f.tk->io.now); /* not at once: that would spin */
    while (n > 0)
        testkit_put(held[--n]);
    f.tk->io.now = f.echo.ops->next_deadline(f.echo.st);
    cr_assert_eq(testkit_run(f.tk, &f.echo, 64), 4);
    testkit_clear(f.tk);
    end(&f);
}

Test(echo, loops_survive_upgrade_and_death) {
    struct fixture a = make(), b = make();
    cr_assert_eq(generate(&a, 1, 4, 64), 0);
    cr_assert_eq(generate(&a, 2, 2, 100), 0);
    cr_assert_eq(generate(&a, 1, 0, 0), 0);
    (void)testkit_run(a.tk, &a.echo, 64);
    answer_all(&a, 2);
    cr_assert_eq(testkit_transfer(&b.echo, &a.echo), 0);
    cr_assert_eq(stats(&b).value64, 2);
    cr_assert_eq(testkit_run(b.tk, &b.echo, 64), 2);
    testkit_clear(a.tk);
    cr_assert_eq(testkit_recover(&a.echo), 0);
    cr_assert_eq(a.echo.ops->check(a.echo.st), 0);
    cr_assert_eq(testkit_run(a.tk, &a.echo, 64), 2); /* the whole window anew */
    testkit_clear(a.tk);
    testkit_clear(b.tk);
    end(&a);
    end(&b);
}

Test(echo, load_refuses_hostile_records) {
    struct fixture a = make(), b = make();
    uint8_t good[128], bad[128];
    uint64_t cursor = 0, seed = 3;
    cr_assert_eq(generate(&a, 1, 4, 64), 0);
    int64_t n = a.echo.ops->save(a.echo.st, &cursor, good, sizeof good);
    for (int64_t cut = 0; cut < n; cut++)
        (void)b.echo.ops->load(b.echo.st, 1, good, (size_t)cut);
    for (uint32_t i = 0; i < 20000; i++) {
        memcpy(bad, good, (size_t)n);
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        bad[(seed >> 33) % (uint64_t)n] = (uint8_t)(seed >> 50);
        (void)b.echo.ops->load(b.echo.st, 1, bad, (size_t)n);
    }
    cr_assert_eq(b.echo.ops->check(b.echo.st), 0);
    cr_assert_eq(b.echo.ops->load(b.echo.st, 99, good, (size_t)n), -EPROTONOSUPPORT);
    end(&a);
    end(&b);
}
