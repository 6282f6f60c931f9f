/* SPDX-License-Identifier: Apache-2.0
 *
 * `usherctl top` in its terminal: takes a sample every interval, asks ncurses for keys meanwhile, and shows the canvas.
 * When usherd goes away it says so and tries again; the screen keeps what was last known.
 */
#include "control/usherctl/top.h"

#include <curses.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INTERVAL_NS 1000000000u

/* ---- samples ---- */

static bool on_part(void *arg, const ProtobufCMessage *m) {
    struct top_sample *s = arg;
    PB(ListSocketsResponse) *part = (PB(ListSocketsResponse) *)(uintptr_t)m;
    size_t need = s->socket_count + part->n_sockets;
    if (need > s->socket_room) {
        size_t room = 2 * need;
        PB(Socket) **sockets = realloc((void *)s->sockets, room * sizeof *sockets);
        if (sockets == NULL)
            return false;
        s->sockets = sockets;
        s->socket_room = room;
    }
    /* Taken out of the part, which is freed when this returns. */
    for (size_t i = 0; i < part->n_sockets; i++)
        s->sockets[s->socket_count++] = part->sockets[i];
    part->n_sockets = 0;
    free((void *)part->sockets);
    part->sockets = NULL;
    return true;
}

static int sample_take(struct ctl *c, struct top_sample *s) {
    const PB(GetInfoRequest) info = USHER__CONTROL__V1__GET_INFO_REQUEST__INIT;
    const PB(ListWorkersRequest) workers = USHER__CONTROL__V1__LIST_WORKERS_REQUEST__INIT;
    const PB(ListPortsRequest) ports = USHER__CONTROL__V1__LIST_PORTS_REQUEST__INIT;
    PB(GetCountersRequest) drops = USHER__CONTROL__V1__GET_COUNTERS_REQUEST__INIT;
    PB(ListSocketsRequest) sockets = USHER__CONTROL__V1__LIST_SOCKETS_REQUEST__INIT;
    drops.prefix = (char *)(uintptr_t) "drop.";
    sockets.limit = TOP_SOCKETS_MAX;
    memset(s, 0, sizeof *s);
    s->info = ctl_call(c, PB_METHOD(Daemon, GetInfo, get_info_response), &info);
    if (s->info != NULL)
        s->workers = ctl_call(c, PB_METHOD(Workers, List, list_workers_response), &workers);
    if (s->workers != NULL)
        s->ports = ctl_call(c, PB_METHOD(Ports, List, list_ports_response), &ports);
    if (s->ports != NULL)
        s->drops = ctl_call(c, PB_METHOD(Counters, Get, counters_snapshot), &drops);
    if (s->drops != NULL &&
        ctl_stream(c, PB_METHOD(Sockets, List, list_sockets_response), &sockets, false, on_part, s) == 0) {
        s->time_unix_ns = s->workers->time_unix_ns;
        return 0;
    }
    top_sample_free(s);
    client_close(c->client); /* a new connection next time */
    c->client = NULL;
    return -1;
}

struct top {
    struct ctl *ctl;
    struct top_state state;
    struct top_sample now, before;
    struct canvas canvas;
};

static void sample_next(struct top *t) {
    struct top_sample s;
    if (sample_take(t->ctl, &s) != 0) {
        (void)snprintf(t->state.trouble, sizeof t->state.trouble, "%.200s; trying again", t->ctl->fault.text);
        return;
    }
    bool restarted = t->now.info != NULL && t->now.info->started_unix_ns != s.info->started_unix_ns;
    top_sample_free(&t->before);
    t->before = t->now;
    t->now = s;
    if (restarted)
        top_sample_free(&t->before); /* its counters began again */
    t->state.trouble[0] = '\0';
}

/* ---- the terminal ---- */

static const int colors[TONE_COUNT] = {[TONE_GOOD] = COLOR_GREEN, [TONE_WARN] = COLOR_YELLOW, [TONE_BAD] = COLOR_RED};

static void terminal_open(bool color) {
    (void)initscr();
    (void)cbreak();
    (void)noecho();
    (void)keypad(stdscr, TRUE);
    (void)set_escdelay(25);
    (void)curs_set(0);
    if (!color || !has_colors())
        return;
    (void)start_color();
    (void)use_default_colors();
    for (short tone = TONE_GOOD; tone <= TONE_BAD; tone++)
        (void)init_pair(tone, (short)colors[tone], -1);
}

static attr_t attributes(const struct canvas_cell *cell, bool color) {
    attr_t a = cell->inverse ? A_REVERSE : A_NORMAL;
    if (cell->tone == TONE_TITLE)
        a |= A_BOLD;
    else if (cell->tone == TONE_DIM)
        a |= A_DIM;
    else if (cell->tone >= TONE_GOOD)
        a |= color && has_colors() ? (attr_t)COLOR_PAIR(cell->tone) : A_BOLD;
    return a;
}

static void show(struct top *t) {
    struct canvas *c = &t->canvas;
    const struct top_sample *before = t->before.info != NULL ? &t->before : &t->now;
    canvas_clear(c, (size_t)COLS, (size_t)LINES);
    top_draw(c, &t->now, before, &t->state);
    (void)erase();
    for (size_t y = 0; y < c->height; y++) {
        for (size_t x = 0; x < c->width; x++) {
            (void)attrset(attributes(&c->cell[y][x], t->ctl->screen.color));
            (void)mvaddstr((int)y, (int)x, c->cell[y][x].text);
        }
    }
    (void)refresh();
}

static int key_of(int ch) {
    switch (ch) {
    case KEY_UP:
        return TOP_KEY_UP;
    case KEY_DOWN:
        return TOP_KEY_DOWN;
    case KEY_PPAGE:
        return TOP_KEY_PAGE_UP;
    case KEY_NPAGE:
        return TOP_KEY_PAGE_DOWN;
    case KEY_BACKSPACE:
        return 127;
    case 27:
        return TOP_KEY_ESC;
    default:
        return ch;
    }
}

static uint64_t monotonic_ns(void) {
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void loop(struct top *t, uint64_t every_ns) {
    uint64_t next = monotonic_ns() + every_ns / 4; /* the first rates come soon */
    for (;;) {
        show(t);
        uint64_t now = monotonic_ns();
        timeout(next > now ? (int)((next - now) / 1000000) + 1 : 0);
        int ch = getch();
        if (ch != ERR && !top_key(&t->state, key_of(ch), (size_t)LINES / 2))
            return;
        if (monotonic_ns() < next)
            continue;
        if (!t->state.paused)
            sample_next(t);
        next = monotonic_ns() + every_ns;
    }
}

int run_top(struct ctl *c) {
    static struct top t;
    if (c->output == OUTPUT_JSON)
        return ctl_usage(c, "top is for the eye; scripts ask for `usherctl -o json sockets --watch`");
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return ctl_usage(c, "top needs a terminal; in a pipe use `usherctl sockets --watch`");
    t.ctl = c;
    if (sample_take(c, &t.now) != 0)
        return -1;
    if (c->given.arg_count > 0)
        (void)snprintf(t.state.filter, sizeof t.state.filter, "%s", c->given.args[0]);
    terminal_open(c->screen.color);
    loop(&t, c->watch_ns > 0 ? c->watch_ns : INTERVAL_NS);
    (void)endwin();
    top_sample_free(&t.now);
    top_sample_free(&t.before);
    return 0;
}
