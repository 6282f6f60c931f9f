/* SPDX-License-Identifier: Apache-2.0
 *
 * The one writable global of the daemon outside its main struct: where events go. An error deep in a room should not
 * need a logger passed through every call, and there is only one stderr.
 */
#define SD_JOURNAL_SUPPRESS_LOCATION

#include "control/log.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

static struct {
    enum log_level least;
    bool journal;
    log_sink_fn *fn;
    void *arg;
} sink = {.least = LOG_LEVEL_INFO};

static const struct {
    const char *word;
    int priority;
} levels[] = {{"error", LOG_ERR}, {"warning", LOG_WARNING}, {"info", LOG_INFO}, {"debug", LOG_DEBUG}};

static const struct event {
    const char *name, *id, *subject, *explanation;
} events[] = {
#define EVENT(name, id, subject, explanation) {name, #id, subject, explanation},
#include "control/events.def"
#undef EVENT
};

/* A few dozen, looked through once for a line that somebody will read. */
static const char *event_id(const char *name) {
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        if (strcmp(events[i].name, name) == 0)
            return events[i].id;
    }
    return NULL;
}

void log_catalog_print(FILE *out) {
    (void)fputs("# The events of usherd, for journalctl -x.\n", out);
    for (size_t i = 0; i < sizeof events / sizeof events[0]; i++) {
        const struct event *e = &events[i];
        (void)fprintf(out, "\n-- %s\nSubject: %s\nDefined-By: usherd\nDocumentation: man:usherd(8)\n\n%s\n", e->id,
                      e->subject, e->explanation);
    }
}

/* systemd sets JOURNAL_STREAM to device:inode of the stderr it gave us; somebody may have redirected it since. */
static bool stderr_is_journal(void) {
    const char *stream = getenv("JOURNAL_STREAM");
    uint64_t dev, ino;
    struct stat st;
    if (stream == NULL || sscanf(stream, "%" SCNu64 ":%" SCNu64, &dev, &ino) != 2 || fstat(STDERR_FILENO, &st) != 0)
        return false;
    return st.st_dev == dev && st.st_ino == ino;
}

void log_open(enum log_level least) {
    sink.least = least;
    sink.journal = stderr_is_journal();
}

void log_level_set(enum log_level least) {
    sink.least = least;
}

void log_sink_set(log_sink_fn *fn, void *arg) {
    sink.fn = fn;
    sink.arg = arg;
}

/* Parts of a text may come from a client (its label, its path): an event stays one line whatever they hold. */
static void text_clean(char *text) {
    for (; *text != '\0'; text++) {
        if (iscntrl((unsigned char)*text))
            *text = '?';
    }
}

static void journal_fields(enum log_level level, const char *event, const char *text, const struct log_field *fields,
                           size_t count) {
    char lines[LOG_FIELDS_MAX + 4][1152];
    struct iovec iov[LOG_FIELDS_MAX + 4];
    size_t n = 0;
    const char *id = event_id(event);
    if (id != NULL)
        (void)snprintf(lines[n++], sizeof lines[0], "MESSAGE_ID=%s", id);
    (void)snprintf(lines[n++], sizeof lines[0], "PRIORITY=%d", levels[level].priority);
    (void)snprintf(lines[n++], sizeof lines[0], "USHER_EVENT=%s", event);
    (void)snprintf(lines[n++], sizeof lines[0], "MESSAGE=%s: %s", event, text);
    for (size_t i = 0; i < count && i < LOG_FIELDS_MAX; i++)
        (void)snprintf(lines[n++], sizeof lines[0], "%s=%s", fields[i].name, fields[i].value);
    for (size_t i = 0; i < n; i++)
        iov[i] = (struct iovec){lines[i], strlen(lines[i])};
    (void)sd_journal_sendv(iov, (int)n);
}

static void event_write(enum log_level level, const char *event, char *text, const struct log_field *fields,
                        size_t count) {
    text_clean(text);
    if (sink.fn != NULL)
        sink.fn(sink.arg, level, event, text);
    if (sink.journal)
        journal_fields(level, event, text, fields, count);
    else
        (void)fprintf(stderr, "usherd: %s: %s: %s\n", levels[level].word, event, text);
}

void log_event(enum log_level level, const char *event, const char *fmt, ...) {
    if (level > sink.least)
        return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    event_write(level, event, text, NULL, 0);
}

void log_fields(enum log_level level, const char *event, const struct log_field *fields, size_t count, const char *fmt,
                ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    event_write(level, event, text, fields, count);
}
