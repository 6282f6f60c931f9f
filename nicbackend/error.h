/* SPDX-License-Identifier: Apache-2.0
 *
 * What went wrong, for people. Any thread.
 */
#ifndef USHER_NICBACKEND_ERROR_H
#define USHER_NICBACKEND_ERROR_H

struct nb_error {
    char text[256];
};

/* Writes the sentence unless `err` is NULL; returns `error`. */
int nb_fail(struct nb_error *err, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
