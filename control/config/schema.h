/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of usherd's settings and what can be done with any such table: set defaults, fill a struct from a tree,
 * print a struct back. For this room, and for files that have a table of their own (control/policy); who wants usherd's
 * settings sees config.h.
 */
#ifndef USHER_CONTROL_CONFIG_SCHEMA_H
#define USHER_CONTROL_CONFIG_SCHEMA_H

#include "control/config/config.h"

enum field_type {
    FIELD_BOOL,     /* bool */
    FIELD_U32,      /* uint32_t */
    FIELD_SIZE,     /* uint64_t bytes: 4096, 64K, 16M, 1G */
    FIELD_RATE,     /* uint64_t bits per second: 10M, 1G (powers of ten) */
    FIELD_SEED,     /* uint64_t */
    FIELD_DURATION, /* uint64_t ns: 10s, 500ms, 20us, 5ns */
    FIELD_CHOICE,   /* uint32_t: index into `choices` */
    FIELD_TEXT,     /* char[size] */
    FIELD_OCTAL,    /* uint32_t: 0660 */
    FIELD_CPUS,     /* uint64_t mask: all, or 0-1,3 */
    FIELD_PREFIX,   /* struct config_prefix: 10.0.0.1/24, fd00::1/64 */
    FIELD_HOST,     /* struct config_prefix of full length: 10.0.0.1 */
    FIELD_MAC,      /* struct config_mac: auto, or 02:00:00:00:00:01 */
    FIELD_SECTION,  /* a map: `sub` describes it */
    FIELD_TREE,     /* const struct node *: read by who has the table; NULL when it is not there. Never printed */
};

struct field {
    const char *name; /* NULL ends a table */
    enum field_type type;
    size_t offset, size;   /* in the struct; of one value */
    uint64_t min, max;     /* numbers; texts: least and most length is size - 1 */
    const char *unit;      /* for people, NULL = none */
    const char *def;       /* as written in the file; lists: words split by spaces; NULL for sections */
    const char *doc;       /* a sentence or more, no roff */
    const char *const *choices;
    const struct field *sub;
    uint32_t item_max;     /* > 0: a list of these; count at count_offset */
    size_t count_offset;
};

extern const struct field config_schema[];

/* Parses one value into `at`. False: `why` says what is wrong and what is allowed. */
bool scalar_parse(const struct field *f, const char *text, bool plain, void *at, char *why, size_t why_size);
/* The value as it would be written in the file. */
void scalar_print(const struct field *f, const void *at, char *ret_text, size_t size);
/* "1..64 packets", "one of a, b, c": for messages and the manual. */
void scalar_allowed(const struct field *f, char *ret_text, size_t size);

void schema_defaults(const struct field *table, void *base);
void schema_read(const struct field *table, const struct node *map, void *base, const char *path,
                 struct problems *problems);
/* Calls fn with the dotted name of each setting that differs; a list is one setting. */
void schema_compare(const struct field *table, const void *a, const void *b, const char *path,
                    void (*fn)(void *arg, const char *name), void *arg);
void schema_print(const struct field *table, const void *base, uint32_t indent, FILE *out);

#endif
