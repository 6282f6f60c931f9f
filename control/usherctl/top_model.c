/* SPDX-License-Identifier: Apache-2.0
 *
 * Rates, rows, sorting, keys of `usherctl top`. See top.h.
 */
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/reflect.h"
#include "control/usherctl/top.h"

void top_sample_free(struct top_sample *s) {
    ctl_free(s->info);
    ctl_free(s->workers);
    ctl_free(s->ports);
    ctl_free(s->drops);
    for (size_t i = 0; i < s->socket_count; i++)
        ctl_free(s->sockets[i]);
    free((void *)s->sockets);
    memset(s, 0, sizeof *s);
}

/* A second's worth of what was counted between two looks. */
static uint64_t rate(uint64_t now, uint64_t before, uint64_t ns) {
    return now > before && ns > 0 ? (uint64_t)((double)(now - before) * 1e9 / (double)ns) : 0;
}

static int socket_order(const PB(Socket) * a, const PB(Socket) * b) {
    if (a->session_id != b->session_id)
        return a->session_id < b->session_id ? -1 : 1;
    return a->handle < b->handle ? -1 : a->handle > b->handle;
}

/* The same socket at the earlier look: both lists are in order, so `*at` only moves on. */
static const PB(Socket) * socket_before(const struct top_sample *before, const PB(Socket) * s, size_t *at) {
    while (*at < before->socket_count && socket_order(before->sockets[*at], s) < 0)
        (*at)++;
    if (*at == before->socket_count || socket_order(before->sockets[*at], s) != 0)
        return NULL;
    const PB(Socket) *b = before->sockets[*at];
    /* A handle that was used again is another socket. */
    return b->local_port == s->local_port && b->remote_port == s->remote_port && b->cookie == s->cookie ? b : NULL;
}

static struct top_row socket_row(const PB(Socket) * s, const PB(Socket) * b, uint64_t ns) {
    struct top_row r = {.socket = s, .sockets = 1};
    if (b == NULL)
        return r;
    r.rx_bytes = rate(s->rx_bytes, b->rx_bytes, ns);
    r.tx_bytes = rate(s->tx_bytes, b->tx_bytes, ns);
    r.rx_packets = rate(s->rx_packets, b->rx_packets, ns);
    r.tx_packets = rate(s->tx_packets, b->tx_packets, ns);
    r.drops = rate(s->rx_dropped, b->rx_dropped, ns);
    if (s->tcp != NULL && b->tcp != NULL)
        r.retransmits = rate(s->tcp->retransmits, b->tcp->retransmits, ns);
    return r;
}

/* ---- filter ---- */

static bool socket_fits(const PB(Socket) * s, const char *filter) {
    char text[512];
    if (filter[0] == '\0')
        return true;
    (void)snprintf(text, sizeof text, "%s %s:%u %s:%u %s %u %s %s",
                   s->protocol == USHER__CONTROL__V1__PROTOCOL__PROTOCOL_TCP ? "tcp" : "udp", s->local_address,
                   s->local_port, s->remote_address, s->remote_port, s->owner != NULL ? s->owner->comm : "",
                   s->owner != NULL ? s->owner->pid : 0, s->label, s->how);
    return strcasestr(text, filter) != NULL;
}

/* ---- pages ---- */

static size_t sockets_fill(struct top_row *rows, const struct top_sample *now, const struct top_sample *before,
                           const char *filter, uint64_t ns) {
    size_t at = 0, n = 0;
    for (size_t i = 0; i < now->socket_count; i++) {
        const PB(Socket) *s = now->sockets[i];
        const PB(Socket) *b = socket_before(before, s, &at);
        if (socket_fits(s, filter))
            rows[n++] = socket_row(s, b, ns);
    }
    return n;
}

static bool same_owner(const struct top_row *a, const struct top_row *b) {
    const PB(Owner) *x = a->socket->owner, *y = b->socket->owner;
    return x != NULL && y != NULL && x->pid == y->pid && strcmp(x->comm, y->comm) == 0;
}

static int by_owner(const void *a, const void *b) {
    const PB(Owner) *x = ((const struct top_row *)a)->socket->owner, *y = ((const struct top_row *)b)->socket->owner;
    uint32_t p = x != NULL ? x->pid : 0, q = y != NULL ? y->pid : 0;
    return p < q ? -1 : p > q;
}

/* Sockets of one program become one row. */
static size_t owners_join(struct top_row *rows, size_t count) {
    size_t n = 0;
    qsort(rows, count, sizeof *rows, by_owner);
    for (size_t i = 0; i < count; i++) {
        if (n == 0 || !same_owner(&rows[n - 1], &rows[i])) {
            rows[n++] = rows[i];
            continue;
        }
        struct top_row *to = &rows[n - 1];
        to->sockets++;
        to->rx_bytes += rows[i].rx_bytes;
        to->tx_bytes += rows[i].tx_bytes;
        to->rx_packets += rows[i].rx_packets;
        to->tx_packets += rows[i].tx_packets;
        to->drops += rows[i].drops;
        to->retransmits += rows[i].retransmits;
    }
    return n;
}

static uint64_t counter_before(const PB(CountersSnapshot) * before, const char *name) {
    for (size_t i = 0; before != NULL && i < before->n_counters; i++) {
        if (strcmp(before->counters[i]->name, name) == 0)
            return before->counters[i]->value;
    }
    return 0;
}

static size_t drops_fill(struct top_row *rows, const struct top_sample *now, const struct top_sample *before,
                         const char *filter, uint64_t ns) {
    size_t n = 0;
    for (size_t i = 0; now->drops != NULL && i < now->drops->n_counters; i++) {
        const PB(NamedCounter) *d = now->drops->counters[i];
        if (filter[0] != '\0' && strcasestr(d->name, filter) == NULL && strcasestr(d->help, filter) == NULL)
            continue;
        rows[n++] = (struct top_row){
            .drop = d, .drops = rate(d->value, counter_before(before->drops, d->name), ns), .total = d->value};
    }
    return n;
}

/* ---- sorting ---- */

#define KEY(words, member)                                                                                             \
    { words, offsetof(struct top_row, member) }

/* By page; the first is how a page begins. */
static const struct {
    const char *name;
    size_t offset;
} keys[TOP_PAGE_COUNT][TOP_SORT_COUNT] = {
    [TOP_SOCKETS] = {KEY("rx", rx_bytes), KEY("tx", tx_bytes), KEY("rx packets", rx_packets),
                     KEY("tx packets", tx_packets), KEY("drops", drops), KEY("retransmits", retransmits)},
    [TOP_OWNERS] = {KEY("rx", rx_bytes), KEY("tx", tx_bytes), KEY("rx packets", rx_packets),
                    KEY("tx packets", tx_packets), KEY("drops", drops)},
    [TOP_DROPS] = {KEY("rate", drops), KEY("total", total)},
};

const char *const *top_sort_names(enum top_page page) {
    static const char *names[TOP_PAGE_COUNT][TOP_SORT_COUNT + 1];
    for (size_t i = 0; i < TOP_SORT_COUNT; i++)
        names[page][i] = keys[page][i].name;
    return names[page];
}

static size_t sort_count(enum top_page page) {
    size_t n = 0;
    while (n < TOP_SORT_COUNT && keys[page][n].name != NULL)
        n++;
    return n;
}

struct order {
    size_t offset;
    bool reverse;
};

/* Equal ones stay as usherd listed them, so that the screen does not flicker. */
static int by_key(const void *a, const void *b, void *arg) {
    const struct order *o = arg;
    uint64_t x = *(const uint64_t *)((const char *)a + o->offset), y = *(const uint64_t *)((const char *)b + o->offset);
    if (x != y)
        return (x > y ? -1 : 1) * (o->reverse ? -1 : 1);
    const struct top_row *r = a, *s = b;
    if (r->socket != NULL && s->socket != NULL)
        return socket_order(r->socket, s->socket);
    return r->drop < s->drop ? -1 : r->drop > s->drop;
}

struct top_row *top_rows(const struct top_sample *now, const struct top_sample *before, const struct top_state *st,
                         size_t *ret_count) {
    uint64_t ns = now->time_unix_ns > before->time_unix_ns ? now->time_unix_ns - before->time_unix_ns : 0;
    size_t room = now->socket_count + (now->drops != NULL ? now->drops->n_counters : 0) + 1, n;
    struct top_row *rows = calloc(room, sizeof *rows);
    if (rows == NULL)
        return NULL;
    if (st->page == TOP_DROPS)
        n = drops_fill(rows, now, before, st->filter, ns);
    else
        n = sockets_fill(rows, now, before, st->filter, ns);
    if (st->page == TOP_OWNERS)
        n = owners_join(rows, n);
    struct order o = {keys[st->page][st->sort].offset, st->reverse};
    qsort_r(rows, n, sizeof *rows, by_key, &o);
    *ret_count = n;
    return rows;
}

/* ---- keys ---- */

static void page_set(struct top_state *st, enum top_page page) {
    st->page = page;
    st->sort = 0;
    st->scroll = 0;
}

static void filter_key(struct top_state *st, int key) {
    size_t n = strlen(st->filter);
    if (key == '\n' || key == '\r' || key == TOP_KEY_ESC)
        st->typing = false;
    if (key == TOP_KEY_ESC)
        st->filter[0] = '\0';
    if ((key == 127 || key == 8) && n > 0)
        st->filter[n - 1] = '\0';
    if (key >= ' ' && key < 127 && n + 1 < sizeof st->filter) {
        st->filter[n] = (char)key;
        st->filter[n + 1] = '\0';
    }
    st->scroll = 0;
}

static void scroll_by(struct top_state *st, long rows) {
    long at = (long)st->scroll + rows;
    st->scroll = at > 0 ? (size_t)at : 0; /* the end is found when it is drawn */
}

bool top_key(struct top_state *st, int key, size_t page_rows) {
    size_t sorts = sort_count(st->page);
    if (st->typing) {
        filter_key(st, key);
        return true;
    }
    switch (key) {
    case 'q':
        return false;
    case 's':
    case '1':
        page_set(st, TOP_SOCKETS);
        break;
    case 'o':
    case '2':
        page_set(st, TOP_OWNERS);
        break;
    case 'd':
    case '3':
        page_set(st, TOP_DROPS);
        break;
    case '\t':
        page_set(st, (st->page + 1) % TOP_PAGE_COUNT);
        break;
    case '>':
    case '<':
        st->sort = (st->sort + (key == '>' ? 1 : sorts - 1)) % sorts;
        break;
    case 'r':
        st->reverse = !st->reverse;
        break;
    case '/':
        st->typing = true;
        break;
    case TOP_KEY_ESC:
        st->filter[0] = '\0';
        st->help = false;
        break;
    case ' ':
        st->paused = !st->paused;
        break;
    case 'h':
    case '?':
        st->help = !st->help;
        break;
    case TOP_KEY_UP:
    case TOP_KEY_DOWN:
        scroll_by(st, key == TOP_KEY_UP ? -1 : 1);
        break;
    case TOP_KEY_PAGE_UP:
    case TOP_KEY_PAGE_DOWN:
        scroll_by(st, key == TOP_KEY_PAGE_UP ? -(long)page_rows : (long)page_rows);
        break;
    default:
        break;
    }
    return true;
}
