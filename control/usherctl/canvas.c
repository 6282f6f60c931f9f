/* SPDX-License-Identifier: Apache-2.0
 *
 * See canvas.h.
 */
#include "control/usherctl/canvas.h"

#include <stdarg.h>
#include <string.h>

#include "control/usherctl/text.h"

#define LINE_SIZE 1024

void canvas_clear(struct canvas *c, size_t width, size_t height) {
    c->width = width < CANVAS_COLUMNS_MAX ? width : CANVAS_COLUMNS_MAX;
    c->height = height < CANVAS_ROWS_MAX ? height : CANVAS_ROWS_MAX;
    for (size_t r = 0; r < c->height; r++) {
        for (size_t x = 0; x < c->width; x++)
            c->cell[r][x] = (struct canvas_cell){" ", TONE_PLAIN, false};
    }
}

size_t canvas_text(struct canvas *c, size_t row, size_t column, size_t room, enum tone tone, const char *text) {
    char clean[LINE_SIZE];
    text_clean(text, clean, sizeof clean);
    const char *at = clean;
    for (size_t left = room; *at != '\0' && left > 0 && column < c->width && row < c->height; left--) {
        size_t n = text_cut(at, 1);
        struct canvas_cell *cell = &c->cell[row][column++];
        *cell = (struct canvas_cell){.tone = (uint8_t)tone};
        memcpy(cell->text, at, n < CELL_BYTES ? n : CELL_BYTES - 1);
        at += n;
    }
    return column;
}

size_t canvas_printf(struct canvas *c, size_t row, size_t column, enum tone tone, const char *fmt, ...) {
    char text[LINE_SIZE];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return canvas_text(c, row, column, CANVAS_COLUMNS_MAX, tone, text);
}

void canvas_right(struct canvas *c, size_t row, size_t end, size_t room, enum tone tone, const char *text) {
    size_t n = text_columns(text);
    n = n < room ? n : room;
    if (end >= n)
        (void)canvas_text(c, row, end - n, n, tone, text);
}

void canvas_bar(struct canvas *c, size_t row, size_t column, size_t room, uint64_t part, uint64_t part2,
                uint64_t whole) {
    size_t cells = room > 2 ? room - 2 : 0;
    size_t full = whole > 0 ? (size_t)((double)part / (double)whole * (double)cells + 0.5) : 0;
    size_t both = whole > 0 ? (size_t)((double)(part + part2) / (double)whole * (double)cells + 0.5) : 0;
    full = full < cells ? full : cells;
    both = both < cells ? both : cells;
    (void)canvas_text(c, row, column, 1, TONE_TITLE, "[");
    for (size_t i = 0; i < cells; i++)
        (void)canvas_text(c, row, column + 1 + i, 1, i < full ? TONE_GOOD : TONE_DIM,
                          i < full   ? "|"
                          : i < both ? ":"
                                     : " ");
    (void)canvas_text(c, row, column + 1 + cells, 1, TONE_TITLE, "]");
}

void canvas_inverse(struct canvas *c, size_t row) {
    for (size_t x = 0; x < c->width && row < c->height; x++)
        c->cell[row][x].inverse = true;
}

void canvas_write(const struct canvas *c, FILE *out) {
    for (size_t r = 0; r < c->height; r++) {
        size_t end = c->width;
        while (end > 0 && strcmp(c->cell[r][end - 1].text, " ") == 0)
            end--;
        for (size_t x = 0; x < end; x++)
            (void)fputs(c->cell[r][x].text, out);
        (void)fputc('\n', out);
    }
}
