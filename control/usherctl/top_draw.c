/* SPDX-License-Identifier: Apache-2.0
 *
 * How `usherctl top` looks: a title, a line a worker and a line an interface, then one page of rows, then the keys.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/lists.h"
#include "control/usherctl/reflect.h"
#include "control/usherctl/text.h"
#include "control/usherctl/top.h"

#define BAR_MIN  8
#define BAR_MAX  40
#define BAR_REST 68 /* of a worker's line */

static uint64_t delta(uint64_t now, uint64_t before) {
    return now > before ? now - before : 0;
}

static uint64_t interval(const struct top_sample *now, const struct top_sample *before) {
    return delta(now->time_unix_ns, before->time_unix_ns);
}

static uint64_t per_second(uint64_t now, uint64_t before, uint64_t ns) {
    return ns > 0 ? (uint64_t)((double)delta(now, before) * 1e9 / (double)ns) : 0;
}

/* ---- title ---- */

static size_t draw_title(struct canvas *c, const struct top_sample *now, const struct top_state *st) {
    char up[TEXT_NUMBER_MAX], mode[ENUM_WORD_MAX] = "";
    size_t row = 0;
    if (now->info != NULL) {
        const PB(GetInfoResponse) *i = now->info;
        text_duration(delta(now->time_unix_ns, i->started_unix_ns), up);
        if (now->workers != NULL)
            list_cell_text(&now->workers->base, "mode", SHOW_WORD, 0, mode, sizeof mode);
        size_t x = canvas_printf(c, row, 0, TONE_TITLE, "usherd %s on %s", i->version, i->hostname);
        x = canvas_printf(c, row, x, TONE_PLAIN, "  up %s  %u program%s  %zu socket%s  %s", up, i->sessions,
                          i->sessions == 1 ? "" : "s", now->socket_count, now->socket_count == 1 ? "" : "s", mode);
        if (i->draining)
            (void)canvas_text(c, row, x + 2, 20, TONE_WARN, "draining");
    }
    if (st->paused)
        canvas_right(c, row, c->width, 8, TONE_WARN, "paused");
    if (st->trouble[0] != '\0')
        (void)canvas_text(c, ++row, 0, c->width, TONE_BAD, st->trouble);
    return row + 1;
}

/* ---- workers and ports ---- */

static const PB(Worker) * worker_before(const struct top_sample *before, uint32_t worker) {
    for (size_t i = 0; before->workers != NULL && i < before->workers->n_workers; i++) {
        if (before->workers->workers[i]->worker == worker)
            return before->workers->workers[i];
    }
    return NULL;
}

static void draw_worker(struct canvas *c, size_t row, const PB(Worker) * w, const PB(Worker) * b, uint64_t ns) {
    char busy[TEXT_NUMBER_MAX], spin[TEXT_NUMBER_MAX], delay[TEXT_NUMBER_MAX], wakes[TEXT_NUMBER_MAX], core[16] = "-";
    uint64_t busy_ns = b != NULL ? delta(w->busy_ns, b->busy_ns) : 0;
    uint64_t spin_ns = b != NULL ? delta(w->spin_ns, b->spin_ns) : 0;
    if (w->cpu >= 0)
        (void)snprintf(core, sizeof core, "%d", w->cpu);
    text_percent(busy_ns, ns, busy);
    text_percent(spin_ns, ns, spin);
    text_duration(w->delay_p99_ns, delay);
    text_count(b != NULL ? per_second(w->wakes, b->wakes, ns) : 0, wakes);
    size_t x = canvas_printf(c, row, 0, TONE_TITLE, "worker %-2u", w->worker);
    x = canvas_printf(c, row, x, TONE_PLAIN, " core %-3s", core);
    if (!w->running) {
        (void)canvas_text(c, row, x, 12, TONE_DIM, "not running");
        return;
    }
    size_t bar = c->width > BAR_REST + BAR_MIN ? c->width - BAR_REST : BAR_MIN;
    bar = bar < BAR_MAX ? bar : BAR_MAX;
    canvas_bar(c, row, x, bar, busy_ns, spin_ns, ns);
    (void)canvas_printf(c, row, x + bar + 1, TONE_PLAIN, "busy %4s  spin %4s  p99 %5s  wakes %5s/s", busy, spin, delay,
                        wakes);
}

static const PB(Port) * port_before(const struct top_sample *before, const char *name) {
    for (size_t i = 0; before->ports != NULL && i < before->ports->n_ports; i++) {
        if (strcmp(before->ports->ports[i]->name, name) == 0)
            return before->ports->ports[i];
    }
    return NULL;
}

struct port_total {
    uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes, dropped;
};

static struct port_total port_total(const PB(Port) * p) {
    struct port_total t = {0};
    for (size_t i = 0; i < p->n_queues; i++) {
        const PB(PortQueue) *q = p->queues[i];
        t.rx_packets += q->rx_packets;
        t.rx_bytes += q->rx_bytes;
        t.tx_packets += q->tx_packets;
        t.tx_bytes += q->tx_bytes;
        t.dropped += q->rx_dropped + q->tx_dropped;
    }
    return t;
}

static void draw_port(struct canvas *c, size_t row, const PB(Port) * p, const PB(Port) * b, uint64_t ns) {
    char in[TEXT_NUMBER_MAX], inp[TEXT_NUMBER_MAX], out[TEXT_NUMBER_MAX], outp[TEXT_NUMBER_MAX], lost[TEXT_NUMBER_MAX];
    struct port_total n = port_total(p), o = b != NULL ? port_total(b) : n;
    uint64_t dropped = per_second(n.dropped, o.dropped, ns);
    text_count(8 * per_second(n.rx_bytes, o.rx_bytes, ns), in);
    text_count(per_second(n.rx_packets, o.rx_packets, ns), inp);
    text_count(8 * per_second(n.tx_bytes, o.tx_bytes, ns), out);
    text_count(per_second(n.tx_packets, o.tx_packets, ns), outp);
    text_count(dropped, lost);
    size_t x = canvas_printf(c, row, 0, TONE_TITLE, "%-12.12s", p->name);
    x = canvas_printf(c, row, x, p->up ? TONE_GOOD : TONE_BAD, " %-4s", p->up ? "up" : "down");
    x = canvas_printf(c, row, x, TONE_DIM, " %-6.6s", p->kind);
    x = canvas_printf(c, row, x, TONE_PLAIN, " in %5sb/s %5sp/s  out %5sb/s %5sp/s", in, inp, out, outp);
    (void)canvas_printf(c, row, x, dropped > 0 ? TONE_WARN : TONE_PLAIN, "  lost %s/s", lost);
}

static size_t draw_head(struct canvas *c, size_t row, const struct top_sample *now, const struct top_sample *before) {
    uint64_t ns = interval(now, before);
    size_t room = c->height / 4; /* of the screen, for each kind of line */
    for (size_t i = 0; now->workers != NULL && i < now->workers->n_workers && i < room; i++, row++)
        draw_worker(c, row, now->workers->workers[i], worker_before(before, now->workers->workers[i]->worker), ns);
    for (size_t i = 0; now->ports != NULL && i < now->ports->n_ports && i < room; i++, row++)
        draw_port(c, row, now->ports->ports[i], port_before(before, now->ports->ports[i]->name), ns);
    return row;
}

/* ---- pages ---- */

enum top_cell {
    CELL_PROTO,
    CELL_STATE,
    CELL_LOCAL,
    CELL_PEER,
    CELL_PROGRAM,
    CELL_USER,
    CELL_SOCKETS,
    CELL_RX,
    CELL_TX,
    CELL_RXP,
    CELL_TXP,
    CELL_QUEUES,
    CELL_RTT,
    CELL_RETR,
    CELL_DROPS,
    CELL_NAME,
    CELL_TOTAL,
    CELL_HELP,
};

struct top_column {
    const char *title;
    uint8_t cell;  /* enum top_cell */
    uint8_t width; /* least; 0 ends the page's list */
    bool right;
    uint8_t grow; /* share of what is left */
    uint8_t from; /* shown on screens at least so wide */
};

static const struct top_column pages[TOP_PAGE_COUNT][14] = {
    [TOP_SOCKETS] = {{"PROTO", CELL_PROTO, 5, false, 0, 0},
                     {"STATE", CELL_STATE, 11, false, 0, 100},
                     {"LOCAL", CELL_LOCAL, 15, false, 2, 0},
                     {"PEER", CELL_PEER, 15, false, 2, 0},
                     {"PROGRAM", CELL_PROGRAM, 12, false, 1, 0},
                     {"RX B/s", CELL_RX, 6, true, 0, 0},
                     {"TX B/s", CELL_TX, 6, true, 0, 0},
                     {"RX p/s", CELL_RXP, 6, true, 0, 120},
                     {"TX p/s", CELL_TXP, 6, true, 0, 120},
                     {"QUEUED", CELL_QUEUES, 6, true, 0, 110},
                     {"RTT", CELL_RTT, 5, true, 0, 0},
                     {"RETR", CELL_RETR, 4, true, 0, 100},
                     {"DROP", CELL_DROPS, 4, true, 0, 110}},
    [TOP_OWNERS] = {{"PROGRAM", CELL_PROGRAM, 24, false, 2, 0},
                    {"UID", CELL_USER, 6, true, 0, 0},
                    {"SOCKETS", CELL_SOCKETS, 7, true, 0, 0},
                    {"RX B/s", CELL_RX, 7, true, 0, 0},
                    {"TX B/s", CELL_TX, 7, true, 0, 0},
                    {"RX p/s", CELL_RXP, 7, true, 0, 90},
                    {"TX p/s", CELL_TXP, 7, true, 0, 90},
                    {"DROP/s", CELL_DROPS, 6, true, 0, 0}},
    [TOP_DROPS] = {{"REASON", CELL_NAME, 20, false, 0, 0},
                   {"RATE/s", CELL_DROPS, 7, true, 0, 0},
                   {"TOTAL", CELL_TOTAL, 7, true, 0, 0},
                   {"MEANING", CELL_HELP, 30, false, 1, 0}},
};

static void cell_number(const struct top_row *r, enum top_cell cell, char *ret) {
    switch (cell) {
    case CELL_RX:
        text_count(r->rx_bytes, ret);
        break;
    case CELL_TX:
        text_count(r->tx_bytes, ret);
        break;
    case CELL_RXP:
        text_count(r->rx_packets, ret);
        break;
    case CELL_TXP:
        text_count(r->tx_packets, ret);
        break;
    case CELL_DROPS:
        text_count(r->drops, ret);
        break;
    case CELL_RETR:
        text_count(r->retransmits, ret);
        break;
    case CELL_SOCKETS:
        text_count(r->sockets, ret);
        break;
    case CELL_TOTAL:
        text_count(r->total, ret);
        break;
    case CELL_QUEUES:
        text_bytes(r->socket->rx_queued_bytes + r->socket->tx_queued_bytes, ret);
        break;
    default:
        ret[0] = '\0';
    }
}

static void cell_words(const struct top_row *r, enum top_cell cell, char *ret, size_t size) {
    static const struct {
        const char *path;
        enum show show;
    } fields[] = {[CELL_PROTO] = {"protocol", SHOW_WORD},  [CELL_STATE] = {"state", SHOW_WORD},
                  [CELL_LOCAL] = {"local", SHOW_ENDPOINT}, [CELL_PEER] = {"remote", SHOW_ENDPOINT},
                  [CELL_PROGRAM] = {"owner", SHOW_OWNER},  [CELL_USER] = {"owner.uid", SHOW_NUMBER},
                  [CELL_RTT] = {"tcp.rtt_us", SHOW_US}};
    if (cell == CELL_NAME)
        (void)snprintf(ret, size, "%s", strncmp(r->drop->name, "drop.", 5) == 0 ? r->drop->name + 5 : r->drop->name);
    else if (cell == CELL_HELP)
        (void)snprintf(ret, size, "%s", r->drop->help);
    else if (cell < sizeof fields / sizeof fields[0] && fields[cell].path != NULL && r->socket != NULL)
        list_cell_text(&r->socket->base, fields[cell].path, fields[cell].show, 0, ret, size);
    else
        cell_number(r, cell, ret);
}

static size_t columns_lay(const struct top_column *columns, size_t screen, size_t *width) {
    size_t n = 0, used = 0, grow = 0;
    for (; columns[n].width > 0; n++) {
        width[n] = screen >= columns[n].from ? columns[n].width : 0;
        used += width[n] > 0 ? width[n] + 1 : 0;
        grow += width[n] > 0 ? columns[n].grow : 0;
    }
    size_t left = screen > used ? screen - used : 0;
    for (size_t i = 0; i < n && grow > 0; i++)
        width[i] += width[i] > 0 ? left * columns[i].grow / grow : 0;
    return n;
}

static void draw_row(struct canvas *c, size_t row, const struct top_column *columns, const size_t *width, size_t n,
                     const struct top_row *r, bool utf8) {
    char text[512];
    size_t x = 0;
    for (size_t i = 0; i < n; i++) {
        if (width[i] == 0)
            continue;
        text[0] = '\0';
        if (r != NULL)
            cell_words(r, columns[i].cell, text, sizeof text);
        const char *show = r != NULL ? text : columns[i].title;
        enum tone tone = r != NULL && columns[i].cell == CELL_DROPS && r->drops > 0 ? TONE_WARN : TONE_PLAIN;
        if (columns[i].right) {
            canvas_right(c, row, x + width[i], width[i], tone, show);
        } else {
            (void)canvas_text(c, row, x, width[i], tone, show);
            if (text_columns(show) > width[i])
                (void)canvas_text(c, row, x + width[i] - 1, 1, TONE_DIM, utf8 ? "\u2026" : "~");
        }
        x += width[i] + 1;
    }
}

static void draw_page(struct canvas *c, size_t row, const struct top_sample *now, const struct top_sample *before,
                      struct top_state *st) {
    static const char *const empty[] = {"no socket is carried by usherd", "no program has a socket",
                                        "no packet was dropped"};
    const struct top_column *columns = pages[st->page];
    size_t width[14], count = 0;
    size_t n = columns_lay(columns, c->width, width);
    struct top_row *rows = top_rows(now, before, st, &count);
    size_t room = c->height > row + 2 ? c->height - row - 2 : 0;
    if (rows == NULL)
        return;
    size_t last = count > room ? count - room : 0;
    st->scroll = st->scroll < last ? st->scroll : last;
    draw_row(c, row, columns, width, n, NULL, true);
    canvas_inverse(c, row);
    for (size_t i = 0; i < room && st->scroll + i < count; i++)
        draw_row(c, row + 1 + i, columns, width, n, &rows[st->scroll + i], true);
    if (count == 0)
        (void)canvas_printf(c, row + 1, 0, TONE_DIM, "%s%s%s", empty[st->page],
                            st->filter[0] != '\0' ? " that fits " : "", st->filter);
    free(rows);
}

/* ---- foot ---- */

static void draw_foot(struct canvas *c, const struct top_state *st) {
    static const char *const names[] = {"sockets", "owners", "drops"};
    size_t row = c->height - 1;
    if (st->typing) {
        size_t x = canvas_printf(c, row, 0, TONE_TITLE, "filter: %s", st->filter);
        (void)canvas_text(c, row, x, 1, TONE_PLAIN, "_");
        canvas_right(c, row, c->width, 30, TONE_DIM, "Enter keep  Esc clear");
        return;
    }
    size_t x = 0;
    for (size_t i = 0; i < TOP_PAGE_COUNT; i++)
        x = canvas_printf(c, row, x, i == (size_t)st->page ? TONE_TITLE : TONE_DIM, "%s%zu %s%s",
                          i == (size_t)st->page ? "[" : " ", i + 1, names[i], i == (size_t)st->page ? "]" : " ");
    x = canvas_printf(c, row, x + 1, TONE_PLAIN, "by %s%s", top_sort_names(st->page)[st->sort],
                      st->reverse ? " (up)" : "");
    if (st->filter[0] != '\0')
        x = canvas_printf(c, row, x, TONE_WARN, "  /%s", st->filter);
    static const char *const keys[] = {"<> sort  / filter  space pause  h help  q quit", "/ filter  h help  q quit",
                                       "h help  q quit"};
    for (size_t i = 0; i < 3; i++) {
        if (x + 2 + strlen(keys[i]) <= c->width) {
            canvas_right(c, row, c->width, c->width, TONE_DIM, keys[i]);
            return;
        }
    }
}

static void draw_help(struct canvas *c) {
    static const char *const lines[] = {
        "",
        "  1 s   sockets by rate            < >     sort by the key before, after",
        "  2 o   owners: sums of programs   r       the other way round",
        "  3 d   drops by reason            /       show only what contains a text",
        "  Tab   next page                  Esc     show all again",
        "  space pause                      up, down, PgUp, PgDn: scroll; q: quit",
        "",
        "  Bars of workers: | with work, : looking for work; p99: 99 of 100 packets",
        "  waited less than that. RX and TX of programs are bytes of payload, b/s of",
        "  interfaces bits of whole frames. RTT is TCP's smoothed round trip.",
        "",
    };
    size_t n = sizeof lines / sizeof lines[0];
    size_t first = c->height > n + 1 ? c->height - 1 - n : 0;
    for (size_t i = 0; i < n && first + i + 1 < c->height; i++) {
        (void)canvas_printf(c, first + i, 0, TONE_PLAIN, "%-*s", (int)c->width, lines[i]);
        canvas_inverse(c, first + i);
    }
}

void top_draw(struct canvas *c, const struct top_sample *now, const struct top_sample *before, struct top_state *st) {
    size_t row = draw_title(c, now, st);
    if (c->height < 8)
        return;
    row = draw_head(c, row, now, before);
    draw_page(c, row, now, before, st);
    if (st->help)
        draw_help(c);
    draw_foot(c, st);
}
