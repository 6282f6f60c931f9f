/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers as people read them, and texts as a terminal may show them. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_TEXT_H
#define USHER_CONTROL_USHERCTL_TEXT_H

#include <stddef.h>
#include <stdint.h>

#define TEXT_NUMBER_MAX 48

void text_count(uint64_t n, char ret[TEXT_NUMBER_MAX]);       /* 0 999 1.2k 34k 567M: steps of 1000 */
void text_bytes(uint64_t n, char ret[TEXT_NUMBER_MAX]);       /* 0 999 1.2K 34K 567M: steps of 1024 */
void text_duration(uint64_t ns, char ret[TEXT_NUMBER_MAX]);   /* 12ns 3.4us 56ms 7.8s 3m20s 5h02m 3d04h */
void text_percent(uint64_t part, uint64_t whole, char ret[TEXT_NUMBER_MAX]); /* 0% 0.3% 12% 100% */
/* Copies what a terminal can show: control bytes and broken UTF-8 become '?'. Texts from clients must pass here. */
void text_clean(const char *text, char *ret, size_t size);
/* Columns it takes on the terminal (of clean text; every character counts as one). */
size_t text_columns(const char *text);
/* Bytes of the first `columns` columns. */
size_t text_cut(const char *text, size_t columns);

#endif
