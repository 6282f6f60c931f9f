/* SPDX-License-Identifier: Apache-2.0
 *
 * Every policy that was in force, on disk: a folder with one file for each revision (its text behind a head of comment
 * lines, so that it can be read and applied as it is) and the number of the one in force. Each change is on disk
 * before the call returns and is whole or not there. Numbers are never used again. Control thread.
 */
#ifndef USHER_CONTROL_POLICY_HISTORY_H
#define USHER_CONTROL_POLICY_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HISTORY_KEPT 64 /* the oldest are forgotten, but never the one in force */

struct history;

struct revision {
    uint64_t number; /* from 1 */
    uint64_t unix_ns;
    uint64_t size; /* bytes of the text */
    uint32_t rules;
    char by[80];    /* who brought it */
    char note[160]; /* and why; "" = not said */
};

/* Makes the folder when it is missing. Files that are not whole are ignored. */
int history_open(const char *folder, struct history **ret_history);
void history_close(struct history *h);

/* Takes number and time itself; the rest is `what`'s. Not in force yet. */
int history_add(struct history *h, const struct revision *what, const char *text, size_t size, uint64_t *ret_number);
/* As if it had never been; not the one in force. */
void history_drop(struct history *h, uint64_t number);
/* 0: none was ever in force. */
uint64_t history_in_force(const struct history *h);
/* -ENOENT: there is no such revision. */
int history_force(struct history *h, uint64_t number);
/* NULL: there is none, or it was forgotten. */
const struct revision *history_find(const struct history *h, uint64_t number);
/* In order, the oldest first; NULL behind the last. */
const struct revision *history_at(const struct history *h, uint32_t i);
/* Its text, as it came; to be freed. */
int history_text(const struct history *h, uint64_t number, char **ret_text, size_t *ret_size);

#endif
