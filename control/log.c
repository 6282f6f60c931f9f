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
#include <sys/stat.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

static struct {
    enum log_level least;
    bool journal;
} sink = {.least = LOG_LEVEL_INFO};

static const struct {
    const char *word;
    int priority;
} levels[] = {{"error", LOG_ERR}, {"warning", LOG_WARNING}, {"info", LOG_INFO}, {"debug", LOG_DEBUG}};

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

void log_event(enum log_level level, const char *event, const char *fmt, ...) {
    if (level > sink.least)
        return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    /* Parts of a text may come from a client (its label, its path): an event stays one line whatever they hold. */
    for (char *p = text; *p != '\0'; p++) {
        if (iscntrl((unsigned char)*p))
            *p = '?';
    }
    if (sink.journal)
        (void)sd_journal_send("PRIORITY=%d", levels[level].priority, "USHER_EVENT=%s", event, "MESSAGE=%s: %s", event,
                              text, NULL);
    else
        (void)fprintf(stderr, "usherd: %s: %s: %s\n", levels[level].word, event, text);
}
