/* SPDX-License-Identifier: Apache-2.0
 *
 * See options.h. Done by hand because getopt knows neither tables per command nor optional values after `=` alone.
 */
#include "control/usherctl/options.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct parser {
    const struct option_def *tables[2];
    struct options_result *ret;
    int argc, at;
    char *const *argv;
    char *err;
    size_t err_size;
};

static int complain(struct parser *p, const char *fmt, const char *word) {
    (void)snprintf(p->err, p->err_size, fmt, word);
    return -1;
}

static const struct option_def *option_find(const struct parser *p, const char *name, size_t length, char letter,
                                            const char ***ret_slot) {
    for (int t = 1; t >= 0; t--) {
        const struct option_def *o = p->tables[t];
        for (size_t i = 0; o != NULL && o[i].name != NULL; i++) {
            bool same = letter != 0 ? o[i].letter == letter
                                    : strlen(o[i].name) == length && strncmp(o[i].name, name, length) == 0;
            if (!same)
                continue;
            *ret_slot = t == 0 ? &p->ret->first[i] : &p->ret->second[i];
            return &o[i];
        }
    }
    return NULL;
}

/* `inline_value`: what stands behind `=` or behind the letter, NULL = nothing does. */
static int option_take(struct parser *p, const struct option_def *o, const char **slot, const char *inline_value) {
    if (o->arg == NULL) {
        *slot = "";
        return inline_value == NULL ? 0 : complain(p, "--%s takes no value", o->name);
    }
    if (inline_value != NULL)
        *slot = inline_value;
    else if (o->absent != NULL)
        *slot = o->absent;
    else if (p->at < p->argc)
        *slot = p->argv[p->at++];
    else
        return complain(p, "--%s needs a value", o->name);
    return 0;
}

static int long_option(struct parser *p, const char *word) {
    const char **slot;
    size_t n = strcspn(word + 2, "=");
    const struct option_def *o = option_find(p, word + 2, n, 0, &slot);
    if (o == NULL)
        return complain(p, "there is no option %s here", word);
    return option_take(p, o, slot, word[2 + n] == '=' ? word + 2 + n + 1 : NULL);
}

/* -tul is -t -u -l; -o json and -ojson are the same. */
static int short_options(struct parser *p, const char *word) {
    for (const char *c = word + 1; *c != '\0'; c++) {
        const char **slot;
        const struct option_def *o = option_find(p, NULL, 0, *c, &slot);
        if (o == NULL)
            return complain(p, "there is no option %s here", word);
        bool rest = o->arg != NULL && c[1] != '\0';
        if (option_take(p, o, slot, rest ? c + 1 : NULL) != 0)
            return -1;
        if (rest)
            return 0;
    }
    return 0;
}

int options_parse(const struct option_def *first, const struct option_def *second, int argc, char *const *argv,
                  int until_word, int *ret_used, struct options_result *ret, char *err, size_t err_size) {
    struct parser p = {{first, second}, ret, argc, 0, argv, err, err_size};
    bool only_words = false;
    int error = 0;
    while (p.at < argc && error == 0) {
        const char *word = argv[p.at];
        bool option = !only_words && word[0] == '-' && word[1] != '\0';
        if (!option && until_word)
            break;
        p.at++;
        if (option && strcmp(word, "--") == 0)
            only_words = true;
        else if (option && word[1] == '-')
            error = long_option(&p, word);
        else if (option)
            error = short_options(&p, word);
        else if (ret->arg_count == ARG_MAX)
            error = complain(&p, "%s is one word too many", word);
        else
            ret->args[ret->arg_count++] = word;
    }
    *ret_used = p.at;
    return error;
}
