/* SPDX-License-Identifier: Apache-2.0
 *
 * The sentence behind usher_strerror(). One per thread; only failing calls touch it.
 */
#ifndef USHER_CLIENTLIB_ERROR_H
#define USHER_CLIENTLIB_ERROR_H

/* Keeps the sentence for this thread and returns err (a negative errno), so that callers can write `return`. */
int client_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3), cold));
/* The same for a text that lives for ever: no formatting, for paths that fail often (out of credit, no buffer). */
int client_fail_fast(int err, const char *text);

#endif
