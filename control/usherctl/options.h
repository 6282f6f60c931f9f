/* SPDX-License-Identifier: Apache-2.0
 *
 * Command lines, described by tables that help, completion and the manual use as well. Options may stand anywhere.
 */
#ifndef USHER_CONTROL_USHERCTL_OPTIONS_H
#define USHER_CONTROL_USHERCTL_OPTIONS_H

#include <stddef.h>

#define OPTION_MAX 16 /* of one table */
#define ARG_MAX    8

struct option_def {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* 0 = none */
    const char *arg;  /* what it takes, for people: "FILE"; NULL = a switch */
    const char *words; /* values for completion, split by blanks; NULL = any, "FILE" = file names */
    const char *doc;
    const char *absent; /* value when it is given without one (--watch); then only --name=VALUE takes one */
};

struct options_result {
    const char *first[OPTION_MAX], *second[OPTION_MAX]; /* by place in the tables; NULL = not given, switches: "" */
    const char *args[ARG_MAX];
    size_t arg_count;
};

/* `second` may be NULL; its letters go before those of `first`. Stops before the first word that is no option when
 * `until_word` is set; *ret_used words were taken. 0, or -1 with a sentence. */
int options_parse(const struct option_def *first, const struct option_def *second, int argc, char *const *argv,
                  int until_word, int *ret_used, struct options_result *ret, char *err, size_t err_size);

#endif
