/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables that fit the terminal: flexible columns shrink first, then the least important ones are left out. Where there
 * is no terminal nothing is cut.
 */
#ifndef USHER_CONTROL_USHERCTL_TABLE_H
#define USHER_CONTROL_USHERCTL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TABLE_COLUMN_MAX 24

/* Where it is shown. */
struct screen {
    FILE *out;
    size_t width; /* columns, 0 = as many as it takes */
    bool color;
    bool utf8;
    bool headers;
};

enum tone { TONE_PLAIN, TONE_TITLE, TONE_DIM, TONE_GOOD, TONE_WARN, TONE_BAD, TONE_COUNT };
/* The terminal's words for a tone and back; "" without colour. */
const char *tone_on(const struct screen *s, enum tone tone);
const char *tone_off(const struct screen *s, enum tone tone);

struct table_column {
    const char *title;
    bool right;   /* numbers */
    uint8_t rank; /* 0 = always there; the greatest is left out first */
    uint8_t min;  /* > 0: may shrink to so many columns */
};

struct table;

/* `columns` outlive the table. NULL: no memory. */
struct table *table_create(const struct table_column *columns, size_t count);
void table_destroy(struct table *t);
/* The next cell, row by row; copied and cleaned. */
void table_cell(struct table *t, const char *text, enum tone tone);
void table_print(const struct table *t, const struct screen *s);
/* The same with a line under each row: `under` has one text for each, NULL = none; cleaned. */
void table_print_with(const struct table *t, const struct screen *s, const char *const *under);

#endif
