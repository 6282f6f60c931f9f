/* SPDX-License-Identifier: Apache-2.0
 *
 * See text.h.
 */
#include "control/usherctl/text.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Two digits at least, one decimal below ten: wide enough to compare, short enough for a column. */
static void scaled(uint64_t n, uint64_t step, const char *units, char ret[TEXT_NUMBER_MAX]) {
    uint64_t unit = 1;
    size_t i = 0;
    while (n / unit >= step && units[i + 1] != '\0') {
        unit *= step;
        i++;
    }
    if (i == 0)
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64, n);
    else if (n / unit < 10)
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 ".%" PRIu64 "%c", n / unit, n % unit * 10 / unit, units[i]);
    else
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 "%c", n / unit, units[i]);
}

void text_count(uint64_t n, char ret[TEXT_NUMBER_MAX]) {
    scaled(n, 1000, " kMGTPE", ret);
}

void text_bytes(uint64_t n, char ret[TEXT_NUMBER_MAX]) {
    scaled(n, 1024, " KMGTPE", ret);
}

static void long_duration(uint64_t s, char ret[TEXT_NUMBER_MAX]) {
    if (s < 3600)
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
    else if (s < 86400)
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
    else
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
}

void text_duration(uint64_t ns, char ret[TEXT_NUMBER_MAX]) {
    static const char *const units[] = {"ns", "us", "ms", "s"};
    uint64_t unit = 1;
    size_t i = 0;
    if (ns >= 60000000000u) {
        long_duration(ns / 1000000000u, ret);
        return;
    }
    while (i < 3 && ns / unit >= 1000) {
        unit *= 1000;
        i++;
    }
    if (i > 0 && ns / unit < 10)
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 ".%" PRIu64 "%s", ns / unit, ns % unit * 10 / unit, units[i]);
    else
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 "%s", ns / unit, units[i]);
}

void text_percent(uint64_t part, uint64_t whole, char ret[TEXT_NUMBER_MAX]) {
    uint64_t per_mille = whole > 0 ? part * 1000 / whole : 0;
    if (per_mille > 0 && per_mille < 10)
        (void)snprintf(ret, TEXT_NUMBER_MAX, "0.%" PRIu64 "%%", per_mille);
    else
        (void)snprintf(ret, TEXT_NUMBER_MAX, "%" PRIu64 "%%", per_mille / 10);
}

/* Bytes of the character at p; 0: it is none, or none that a terminal should get. */
static size_t character(const char *text) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80)
        return p[0] >= 0x20 && p[0] != 0x7f;
    size_t n = p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    bool c1 = n == 2 && p[0] == 0xc2 && p[1] < 0xa0; /* control characters of eight bits */
    return c1 ? 0 : n;
}

void text_clean(const char *text, char *ret, size_t size) {
    size_t used = 0;
    while (*text != '\0') {
        size_t n = character(text);
        if (used + (n > 0 ? n : 1) >= size)
            break;
        if (n == 0) {
            ret[used++] = '?';
            text++;
        }
        for (; n > 0; n--)
            ret[used++] = *text++;
    }
    ret[used] = '\0';
}

size_t text_columns(const char *text) {
    size_t columns = 0;
    for (; *text != '\0'; text++)
        columns += ((unsigned char)*text & 0xc0) != 0x80;
    return columns;
}

size_t text_cut(const char *text, size_t columns) {
    size_t i = 0;
    for (; text[i] != '\0'; i++) {
        if (((unsigned char)text[i] & 0xc0) != 0x80 && columns-- == 0)
            break;
    }
    return i;
}
