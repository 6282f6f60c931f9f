/* SPDX-License-Identifier: Apache-2.0
 *
 * See error.h.
 */
#include "nicbackend/error.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

int nb_fail(struct nb_error *err, int error, const char *format, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return error;
}
