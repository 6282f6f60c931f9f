/* SPDX-License-Identifier: Apache-2.0
 *
 * usher_strerror(): what happened, to what, and what to do next, for people. Thread-local; never cleared by success.
 */
#include "clientlib/src/error.h"

#include <stdarg.h>
#include <stdio.h>

#include <usher/usher.h>

static _Thread_local const char *last_text;
static _Thread_local char last_buffer[384];

int client_fail(int err, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(last_buffer, sizeof(last_buffer), format, ap);
    va_end(ap);
    last_text = last_buffer;
    return err;
}

int client_fail_fast(int err, const char *text) {
    last_text = text;
    return err;
}

const char *usher_strerror(void) {
    return last_text ? last_text : "";
}
