/* SPDX-License-Identifier: Apache-2.0
 *
 * A screen in memory: rows of cells with a tone. top draws on it; ncurses shows it, tests read it. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_CANVAS_H
#define USHER_CONTROL_USHERCTL_CANVAS_H

#include "control/usherctl/table.h"

#define CANVAS_COLUMNS_MAX 320
#define CANVAS_ROWS_MAX    120
#define CELL_BYTES         5

struct canvas_cell {
    char text[CELL_BYTES]; /* one character of UTF-8 */
    uint8_t tone;          /* enum tone */
    bool inverse;
};

struct canvas {
    size_t width, height;
    struct canvas_cell cell[CANVAS_ROWS_MAX][CANVAS_COLUMNS_MAX];
};

/* Blank; width and height are cut to what fits. */
void canvas_clear(struct canvas *c, size_t width, size_t height);
/* From (row, column) to the right, cut at `room` columns and the edge; cleaned. Returns the column behind it. */
size_t canvas_text(struct canvas *c, size_t row, size_t column, size_t room, enum tone tone, const char *text);
size_t canvas_printf(struct canvas *c, size_t row, size_t column, enum tone tone, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* Ends at `end` (exclusive). */
void canvas_right(struct canvas *c, size_t row, size_t end, size_t room, enum tone tone, const char *text);
/* A bar of `room` cells in brackets, `part` of `whole` filled with `mark`; a second part behind it with `mark2`. */
void canvas_bar(struct canvas *c, size_t row, size_t column, size_t room, uint64_t part, uint64_t part2,
                uint64_t whole);
void canvas_inverse(struct canvas *c, size_t row);
/* As text, without blanks at line ends. */
void canvas_write(const struct canvas *c, FILE *out);

#endif
