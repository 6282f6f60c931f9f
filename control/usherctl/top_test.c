/* SPDX-License-Identifier: Apache-2.0
 *
 * `usherctl top` without a terminal: rates between two samples, sorting, filter, keys, and golden screens.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/golden.h"
#include "control/usherctl/sample.h"
#include "control/usherctl/top.h"

static PB(Socket) before_sockets[5];
static PB(Socket) * before_list[5];
static PB(Worker) before_worker[2];
static PB(Worker) * before_workers[2];
static PB(ListWorkersResponse) workers;
static PB(Port) before_port;
static PB(PortQueue) before_queue;
static PB(PortQueue) * before_queues[] = {&before_queue};
static PB(Port) * before_ports[] = {&before_port};
static PB(ListPortsResponse) ports;
static PB(TcpInfo) before_tcp;
static struct top_sample now, before;
static struct top_state st;
static struct canvas canvas;

/* A second earlier everything was less. */
static void setup(void) {
    const PB(ListSocketsResponse) *sockets = sample_sockets();
    now = (struct top_sample){.info = (PB(GetInfoResponse) *)(uintptr_t)sample_info(),
                              .workers = (PB(ListWorkersResponse) *)(uintptr_t)sample_workers(),
                              .ports = (PB(ListPortsResponse) *)(uintptr_t)sample_ports(),
                              .drops = (PB(CountersSnapshot) *)(uintptr_t)sample_drops(),
                              .sockets = sockets->sockets,
                              .socket_count = sockets->n_sockets,
                              .time_unix_ns = SAMPLE_NOW};
    before = now;
    before.time_unix_ns = SAMPLE_NOW - 1000000000u;
    before_tcp = *sockets->sockets[1]->tcp;
    before_tcp.retransmits = 1;
    for (size_t i = 0; i < 5; i++) {
        before_sockets[i] = *sockets->sockets[i];
        before_sockets[i].rx_bytes -= 1000000 * (5 - i);
        before_sockets[i].rx_packets -= 1000 * (5 - i);
        before_sockets[i].tx_bytes -= i;
        before_list[i] = &before_sockets[i];
    }
    before_sockets[1].tcp = &before_tcp;
    before_sockets[4].rx_dropped = 0;
    before.sockets = before_list;
    workers = *now.workers;
    for (size_t i = 0; i < 2; i++) {
        before_worker[i] = *now.workers->workers[i];
        before_workers[i] = &before_worker[i];
    }
    before_worker[0].busy_ns -= 450000000;
    before_worker[0].spin_ns -= 120000000;
    before_worker[0].wakes -= 400;
    workers.workers = before_workers;
    before.workers = &workers;
    ports = *now.ports;
    before_port = *now.ports->ports[0];
    before_queue = *now.ports->ports[0]->queues[0];
    before_queue.rx_bytes -= 150000000;
    before_queue.rx_packets -= 103000;
    before_queue.tx_bytes -= 12500;
    before_queue.tx_packets -= 99;
    before_port.queues = before_queues;
    ports.ports = before_ports;
    ports.n_ports = 1;
    before.ports = &ports;
    before.drops = NULL;
    memset(&st, 0, sizeof st);
}

TestSuite(top, .init = setup);

static void draw_at(const struct screen *s, size_t height) {
    canvas_clear(&canvas, s->width, height);
    top_draw(&canvas, &now, &before, &st);
    canvas_write(&canvas, s->out);
}

static void draw_small(const struct screen *s) {
    draw_at(s, 24);
}

static void draw_large(const struct screen *s) {
    draw_at(s, 40);
}

static void keys(const char *typed) {
    for (; *typed != '\0'; typed++)
        cr_assert(top_key(&st, *typed, 10));
}

Test(top, looks_as_approved) {
    golden_check("top-sockets", 80, draw_small);
    golden_check("top-sockets", 120, draw_large);
    keys("o");
    golden_check("top-owners", 80, draw_small);
    golden_check("top-owners", 120, draw_large);
    keys("d");
    golden_check("top-drops", 80, draw_small);
    keys("sh");
    golden_check("top-help", 80, draw_small);
    keys("h/redis");
    st.paused = true;
    snprintf(st.trouble, sizeof st.trouble,
             "usherd does not run: nobody listens at /run/usher/control.sock; trying again");
    golden_check("top-filter", 80, draw_small);
}

Test(top, rates_are_a_second_s_worth) {
    size_t n;
    struct top_row *rows = top_rows(&now, &before, &st, &n);
    cr_assert_eq(n, 5);
    for (size_t i = 0; i < n; i++) {
        cr_expect_eq(rows[i].rx_bytes, 1000000 * (5 - i), "sorted by it");
        cr_expect_eq(rows[i].rx_packets, 1000 * (5 - i));
    }
    cr_expect_eq(rows[1].retransmits, 2);
    free(rows);
    /* A handle that another socket got meanwhile begins anew. */
    before_sockets[0].local_port = 1;
    before_sockets[1].cookie = 1;
    rows = top_rows(&now, &before, &st, &n);
    cr_expect_eq(rows[n - 1].rx_bytes, 0);
    cr_expect_eq(rows[n - 2].rx_bytes, 0);
    free(rows);
}

Test(top, owners_are_sums) {
    size_t n;
    st.page = TOP_OWNERS;
    struct top_row *rows = top_rows(&now, &before, &st, &n);
    cr_assert_eq(n, 3);
    cr_expect_eq(rows[0].sockets, 3);
    cr_expect_eq(rows[0].rx_bytes, 12000000);
    cr_expect_eq(rows[2].drops, 7);
    free(rows);
}

Test(top, filter_and_sort_by_keys) {
    size_t n;
    keys("/unbound\n");
    cr_expect_not(st.typing);
    struct top_row *rows = top_rows(&now, &before, &st, &n);
    cr_expect_eq(n, 1);
    free(rows);
    keys("/\033"); /* Esc as the terminal sends it becomes TOP_KEY_ESC in top.c; here it is just no letter */
    cr_expect(top_key(&st, TOP_KEY_ESC, 10));
    cr_expect_str_eq(st.filter, "");
    keys(">r");
    rows = top_rows(&now, &before, &st, &n);
    cr_assert_eq(n, 5);
    cr_expect_eq(rows[0].tx_bytes, 0, "least first");
    cr_expect_eq(rows[4].tx_bytes, 4);
    free(rows);
    keys("<<");
    cr_expect_str_eq(top_sort_names(TOP_SOCKETS)[st.sort], "retransmits", "round the corner");
    keys("\t\t");
    cr_expect_eq(st.page, TOP_DROPS);
    keys(">>");
    cr_expect_eq(st.sort, 0);
    cr_expect_not(top_key(&st, 'q', 10));
}

/* Whatever size the terminal has, and whatever is typed: nothing is drawn beyond it. */
Test(top, any_size_any_key) {
    static const int some[] = {'s',
                               'o',
                               'd',
                               '>',
                               '<',
                               'r',
                               'h',
                               ' ',
                               '/',
                               'x',
                               '\n',
                               127,
                               '\t',
                               TOP_KEY_UP,
                               TOP_KEY_DOWN,
                               TOP_KEY_PAGE_DOWN,
                               TOP_KEY_PAGE_UP,
                               TOP_KEY_ESC,
                               -1,
                               9999};
    uint32_t seed = 7;
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1664525u + 1013904223u;
        cr_assert(top_key(&st, some[(seed >> 8) % (sizeof some / sizeof some[0])], 5));
        canvas_clear(&canvas, (seed >> 16) % 400, (seed >> 20) % 150);
        if (canvas.height > 0)
            top_draw(&canvas, &now, &before, &st);
    }
}
