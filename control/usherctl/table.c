/* SPDX-License-Identifier: Apache-2.0
 *
 * See table.h. Cells are kept until all are known, because widths depend on all of them.
 */
#include "control/usherctl/table.h"

#include <stdlib.h>
#include <string.h>

#include "control/usherctl/text.h"

#define GAP      2
#define CELL_MAX 1024

struct cell {
    char *text;
    enum tone tone;
};

struct table {
    const struct table_column *columns;
    size_t column_count;
    struct cell *cells;
    size_t cell_count, cell_room;
};

/* Widths of the columns on one screen; 0 = left out. */
struct layout {
    size_t width[TABLE_COLUMN_MAX];
    size_t last; /* the last column that is shown */
};

static const char *const tones[TONE_COUNT] = {
    [TONE_PLAIN] = "",        [TONE_TITLE] = "\033[1m", [TONE_DIM] = "\033[2m",
    [TONE_GOOD] = "\033[32m", [TONE_WARN] = "\033[33m", [TONE_BAD] = "\033[31m",
};

const char *tone_on(const struct screen *s, enum tone tone) {
    return s->color ? tones[tone] : "";
}

const char *tone_off(const struct screen *s, enum tone tone) {
    return s->color && tone != TONE_PLAIN ? "\033[0m" : "";
}

struct table *table_create(const struct table_column *columns, size_t count) {
    struct table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return NULL;
    t->columns = columns;
    t->column_count = count < TABLE_COLUMN_MAX ? count : TABLE_COLUMN_MAX;
    return t;
}

void table_destroy(struct table *t) {
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->cell_count; i++)
        free(t->cells[i].text);
    free(t->cells);
    free(t);
}

void table_cell(struct table *t, const char *text, enum tone tone) {
    char clean[CELL_MAX];
    if (t->cell_count == t->cell_room) {
        size_t room = t->cell_room > 0 ? 2 * t->cell_room : 256;
        struct cell *cells = realloc(t->cells, room * sizeof *cells);
        if (cells == NULL)
            return;
        t->cells = cells;
        t->cell_room = room;
    }
    text_clean(text, clean, sizeof clean);
    char *copy = strdup(clean);
    if (copy != NULL)
        t->cells[t->cell_count++] = (struct cell){copy, tone};
}

/* ---- layout ---- */

static void natural_widths(const struct table *t, struct layout *l) {
    for (size_t c = 0; c < t->column_count; c++)
        l->width[c] = text_columns(t->columns[c].title);
    for (size_t i = 0; i < t->cell_count; i++) {
        size_t c = i % t->column_count, n = text_columns(t->cells[i].text);
        if (n > l->width[c])
            l->width[c] = n;
    }
}

static size_t total_width(const struct table *t, const size_t *width) {
    size_t sum = 0;
    for (size_t c = 0; c < t->column_count; c++)
        sum += width[c] > 0 ? width[c] + (sum > 0 ? GAP : 0) : 0;
    return sum;
}

/* Takes from the widest flexible column until it fits; false: it does not. */
static bool shrink(const struct table *t, size_t *width, size_t room) {
    size_t total;
    while ((total = total_width(t, width)) > room) {
        size_t widest = t->column_count;
        for (size_t c = 0; c < t->column_count; c++) {
            bool can = t->columns[c].min > 0 && width[c] > t->columns[c].min;
            if (can && (widest == t->column_count || width[c] > width[widest]))
                widest = c;
        }
        if (widest == t->column_count)
            return false;
        width[widest]--;
    }
    return true;
}

/* The column to leave out next: of the greatest rank, the rightmost. */
static size_t least(const struct table *t, const struct layout *l) {
    size_t found = t->column_count;
    for (size_t c = 0; c < t->column_count; c++) {
        if (l->width[c] > 0 && t->columns[c].rank > 0 &&
            (found == t->column_count || t->columns[c].rank >= t->columns[found].rank))
            found = c;
    }
    return found;
}

static void lay_out(const struct table *t, const struct screen *s, struct layout *l) {
    natural_widths(t, l);
    while (s->width > 0) {
        size_t width[TABLE_COLUMN_MAX], out;
        memcpy(width, l->width, sizeof width);
        if (shrink(t, width, s->width) || (out = least(t, l)) == t->column_count) {
            memcpy(l->width, width, sizeof width);
            break;
        }
        l->width[out] = 0;
    }
    for (size_t c = 0; c < t->column_count; c++)
        l->last = l->width[c] > 0 ? c : l->last;
}

/* ---- printing ---- */

static void print_cell(const struct table *t, const struct screen *s, const struct layout *l, size_t c,
                       const struct cell *cell) {
    size_t width = l->width[c], n = text_columns(cell->text);
    size_t show = n > width ? width - 1 : n;
    const char *more = n > width ? (s->utf8 ? "\u2026" : "~") : "";
    size_t pad = n > width ? 0 : width - n;
    if (t->columns[c].right)
        (void)fprintf(s->out, "%*s", (int)pad, "");
    (void)fprintf(s->out, "%s%.*s%s%s", tone_on(s, cell->tone), (int)text_cut(cell->text, show), cell->text, more,
                  tone_off(s, cell->tone));
    if (c != l->last)
        (void)fprintf(s->out, "%*s", (int)(GAP + (t->columns[c].right ? 0 : pad)), "");
}

static void print_row(const struct table *t, const struct screen *s, const struct layout *l, const struct cell *row) {
    for (size_t c = 0; c < t->column_count; c++) {
        if (l->width[c] > 0)
            print_cell(t, s, l, c, &row[c]);
    }
    (void)fputc('\n', s->out);
}

static void print_under(const struct screen *s, const char *text) {
    char clean[CELL_MAX];
    text_clean(text, clean, sizeof clean);
    (void)fprintf(s->out, "\t%s\n", clean);
}

void table_print(const struct table *t, const struct screen *s) {
    table_print_with(t, s, NULL);
}

void table_print_with(const struct table *t, const struct screen *s, const char *const *under) {
    struct layout l = {.last = 0};
    struct cell titles[TABLE_COLUMN_MAX];
    lay_out(t, s, &l);
    for (size_t c = 0; c < t->column_count; c++)
        titles[c] = (struct cell){(char *)(uintptr_t)t->columns[c].title, TONE_TITLE};
    if (s->headers)
        print_row(t, s, &l, titles);
    for (size_t i = 0; i + t->column_count <= t->cell_count; i += t->column_count) {
        print_row(t, s, &l, &t->cells[i]);
        if (under != NULL && under[i / t->column_count] != NULL)
            print_under(s, under[i / t->column_count]);
    }
}
