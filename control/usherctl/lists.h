/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists as data: which repeated field of an answer, which fields of its messages, and how each is shown. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_LISTS_H
#define USHER_CONTROL_USHERCTL_LISTS_H

#include <protobuf-c/protobuf-c.h>

#include "control/usherctl/table.h"

enum show {
    SHOW_TEXT,
    SHOW_NUMBER,
    SHOW_COUNT,    /* 1.2k */
    SHOW_BYTES,    /* 1.2K */
    SHOW_NS,       /* a duration */
    SHOW_US,
    SHOW_AGE,      /* time since, of a *_unix_ns */
    SHOW_YES,      /* yes, no */
    SHOW_UP,       /* up, down */
    SHOW_WORD,     /* an enum */
    SHOW_LIST,     /* numbers or texts, with commas */
    SHOW_SIZE,     /* how many a repeated field has */
    SHOW_ENDPOINT, /* path_address and path_port */
    SHOW_OWNER,    /* a message Owner: program/pid */
    SHOW_CORE,     /* -1 = none */
    SHOW_ALARM,    /* as COUNT; more than none is worth a look */
};

struct list_column {
    struct table_column head;
    const char *path;
    enum show show;
};

struct list {
    const char *rows; /* the repeated field */
    const ProtobufCMessageDescriptor *row;
    const char *empty; /* said instead of an empty table */
    const struct list_column *columns;
    size_t column_count;
};

struct list_view;

/* now_unix_ns: for ages. NULL: no memory. */
struct list_view *list_begin(const struct list *l, uint64_t now_unix_ns);
void list_add(struct list_view *v, const ProtobufCMessage *answer);
/* Prints, and frees the view. */
void list_end(struct list_view *v, const struct screen *s);
void list_print(const struct list *l, const ProtobufCMessage *answer, uint64_t now_unix_ns, const struct screen *s);

extern const struct list list_workers, list_shards, list_ports, list_engines, list_engine_counters, list_sessions,
    list_sockets, list_refusals, list_counters;

/* One field of a message as a cell. */
void list_cell_text(const ProtobufCMessage *m, const char *path, enum show show, uint64_t now_unix_ns, char *ret,
                    size_t size);

#endif
