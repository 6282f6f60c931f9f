/* SPDX-License-Identifier: Apache-2.0
 *
 * What usherd tells its operator: one event a line. To the journal with fields when systemd reads our stderr, else to
 * stderr. Each event has a short stable name ("session.open"), so that it can be searched and counted.
 *
 * Thread: control only; workers never log.
 */
#ifndef USHER_CONTROL_LOG_H
#define USHER_CONTROL_LOG_H

#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_open(enum log_level least);
void log_event(enum log_level level, const char *event, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_error(event, ...)   log_event(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warning(event, ...) log_event(LOG_LEVEL_WARNING, event, __VA_ARGS__)
#define log_info(event, ...)    log_event(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(event, ...)   log_event(LOG_LEVEL_DEBUG, event, __VA_ARGS__)

#endif
