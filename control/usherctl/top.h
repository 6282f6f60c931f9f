/* SPDX-License-Identifier: Apache-2.0
 *
 * `usherctl top`: samples of what usherd counts, the rates between two of them, and how they look. top.c runs the
 * terminal; the rest is pure.
 */
#ifndef USHER_CONTROL_USHERCTL_TOP_H
#define USHER_CONTROL_USHERCTL_TOP_H

#include "control/usherctl/canvas.h"
#include "control/usherctl/ctl.h"

#define TOP_SOCKETS_MAX 20000u /* asked for; usherd lists them by session */
#define TOP_FILTER_MAX  48

/* One look at usherd. Owns the messages. */
struct top_sample {
    PB(GetInfoResponse) *info;
    PB(ListWorkersResponse) *workers;
    PB(ListPortsResponse) *ports;
    PB(CountersSnapshot) *drops;
    PB(Socket) **sockets; /* by session and handle, as usherd lists them */
    size_t socket_count, socket_room;
    uint64_t time_unix_ns;
};

void top_sample_free(struct top_sample *s);

enum top_page { TOP_SOCKETS, TOP_OWNERS, TOP_DROPS, TOP_PAGE_COUNT };

/* What a row is about, with rates a second. */
struct top_row {
    const PB(Socket) *socket;      /* sockets; owners: one of theirs */
    const PB(NamedCounter) *drop;  /* drops */
    uint32_t sockets;              /* owners */
    uint64_t rx_bytes, tx_bytes, rx_packets, tx_packets, drops, retransmits, total;
};

#define TOP_SORT_COUNT 6 /* of the page with the most columns to sort by */

struct top_state {
    enum top_page page;
    size_t sort;    /* of the page's sort keys */
    bool reverse;
    bool paused, help, typing; /* typing: keys go to the filter */
    char filter[TOP_FILTER_MAX];
    size_t scroll;
    char trouble[256]; /* usherd does not answer; "" = it does */
};

/* Rows of the page, filtered and sorted; NULL = no memory. Both samples may be the same: rates are 0 then. */
struct top_row *top_rows(const struct top_sample *now, const struct top_sample *before, const struct top_state *st,
                         size_t *ret_count);
/* The words of the page's sort keys; NULL at the end. */
const char *const *top_sort_names(enum top_page page);
/* Draws everything. The canvas has its size; `utc`: the clock's zone, for tests. */
void top_draw(struct canvas *c, const struct top_sample *now, const struct top_sample *before, struct top_state *st);
/* A key (ASCII, or enum top_key). False: end. */
enum top_key { TOP_KEY_UP = 1000, TOP_KEY_DOWN, TOP_KEY_PAGE_UP, TOP_KEY_PAGE_DOWN, TOP_KEY_ESC };
bool top_key(struct top_state *st, int key, size_t page_rows);

#endif
