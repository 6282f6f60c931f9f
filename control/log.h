/* SPDX-License-Identifier: Apache-2.0
 *
 * What usherd tells its operator: one event a line. To the journal with fields when systemd reads our stderr, else to
 * stderr. Each event has a short stable name ("session.attach"), so that it can be searched and counted, and a line in
 * events.def, from which the journal knows its message id and explanation.
 *
 * Thread: control only; workers never log.
 */
#ifndef USHER_CONTROL_LOG_H
#define USHER_CONTROL_LOG_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_open(enum log_level least);
void log_level_set(enum log_level least);
void log_event(enum log_level level, const char *event, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The events as a message catalog of the journal. */
void log_catalog_print(FILE *out);

/* A record with fields of its own in the journal; only the text goes to stderr. Written whatever the level is. */
struct log_field {
    const char *name, *value;
};
#define LOG_FIELDS_MAX 12
void log_fields(enum log_level level, const char *event, const struct log_field *fields, size_t count, const char *fmt,
                ...) __attribute__((format(printf, 5, 6)));

/* Told of every event that is logged; one at a time, NULL = none. */
typedef void log_sink_fn(void *arg, enum log_level level, const char *event, const char *text);
void log_sink_set(log_sink_fn *fn, void *arg);

#define log_error(event, ...)   log_event(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warning(event, ...) log_event(LOG_LEVEL_WARNING, event, __VA_ARGS__)
#define log_info(event, ...)    log_event(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(event, ...)   log_event(LOG_LEVEL_DEBUG, event, __VA_ARGS__)

#endif
