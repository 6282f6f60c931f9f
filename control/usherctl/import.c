/* SPDX-License-Identifier: Apache-2.0
 *
 * See import.h; and the command.
 */
#include "control/usherctl/import.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/ctl.h"
#include "control/usherctl/text.h"

#define INPUT_MAX (16u << 20)

/* ---- rules under construction ---- */

const char *import_get(const struct import_rule *r, const char *key) {
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->fields[i].key, key) == 0)
            return r->fields[i].value;
    return NULL;
}

bool import_set(struct import_rule *r, const char *key, const char *value) {
    const char *there = import_get(r, key);
    if (there != NULL)
        return strcmp(there, value) == 0;
    if (r->count == IMPORT_FIELD_MAX || strlen(value) >= IMPORT_VALUE_MAX)
        return false;
    (void)snprintf(r->fields[r->count].key, sizeof r->fields[0].key, "%s", key);
    (void)snprintf(r->fields[r->count++].value, IMPORT_VALUE_MAX, "%s", value);
    return true;
}

bool import_join(struct import_rule *r, const struct import_rule *more) {
    for (size_t i = 0; i < more->count; i++)
        if (!import_set(r, more->fields[i].key, more->fields[i].value))
            return false;
    return true;
}

/* ---- output ---- */

void import_name(const char *text, char ret[IMPORT_NAME_MAX]) {
    size_t n = 0;
    for (; *text != '\0' && n + 1 < IMPORT_NAME_MAX; text++)
        ret[n++] = isalnum((unsigned char)*text) || strchr("-_.", *text) != NULL ? *text : '-';
    ret[n] = '\0';
}

/* Lists stand as they are; a value that YAML could misread stands in quotes. */
static void value_print(FILE *out, const char *value) {
    bool plain =
        value[0] == '[' || (value[0] != '\0' && strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                              "0123456789-_./") == strlen(value));
    if (plain) {
        (void)fputs(value, out);
        return;
    }
    (void)fputc('\'', out);
    for (; *value != '\0'; value++)
        (void)fprintf(out, *value == '\'' ? "''" : "%c", (unsigned char)*value < 0x20 ? ' ' : *value);
    (void)fputc('\'', out);
}

void import_rule_add(struct import *im, const char *name, const struct import_rule *r) {
    char clean[IMPORT_NAME_MAX];
    import_name(name, clean);
    (void)fprintf(im->rules, "  - {name: %.48s-%u", clean, ++im->rule_count);
    for (size_t i = 0; i < r->count; i++) {
        (void)fprintf(im->rules, ", %s: ", r->fields[i].key);
        value_print(im->rules, r->fields[i].value);
    }
    (void)fputs("}\n", im->rules);
}

void import_lost(struct import *im, uint32_t line, const char *text, const char *why) {
    char clean[400];
    text_clean(text, clean, sizeof clean);
    im->lost++;
    (void)fprintf(im->report, "%s:%u: not carried over: %s: %s\n", im->name, line, clean, why);
}

void import_set_add(struct import *im, const char *name, const char *kind, const char *members) {
    (void)fprintf(im->sets, "  %s: {%s: [%s]}\n", name, kind, members);
    im->set_count++;
}

static void part_print(FILE *out, const char *title, const char *text, uint32_t count) {
    if (count > 0)
        (void)fprintf(out, "%s:\n%s", title, text);
}

int import_run(const char *name, const char *text, size_t size, bool (*reader)(struct import *, const char *, size_t),
               FILE *out, FILE *report) {
    char *rules = NULL, *sets = NULL;
    size_t rules_size, sets_size;
    struct import im = {.name = name, .report = report};
    im.rules = open_memstream(&rules, &rules_size);
    im.sets = open_memstream(&sets, &sets_size);
    bool good = im.rules != NULL && im.sets != NULL && reader(&im, text, size);
    if (im.rules != NULL)
        (void)fclose(im.rules);
    if (im.sets != NULL)
        (void)fclose(im.sets);
    if (good) {
        (void)fprintf(out, "# Made of %s by usherctl policy import: %u rules, %u not carried over.\n", name,
                      im.rule_count, im.lost);
        part_print(out, "sets", sets, im.set_count);
        part_print(out, "rules", rules, im.rule_count);
    }
    free(rules);
    free(sets);
    return good ? (int)im.lost : -1;
}

/* ---- the command ---- */

static char *input_read(struct ctl *c, const char *path, size_t *ret_size) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (f == NULL) {
        (void)ctl_usage(c, "%s cannot be opened: %s", path, strerror(errno));
        return NULL;
    }
    char *text = malloc(INPUT_MAX + 1u);
    size_t n = text != NULL ? fread(text, 1, INPUT_MAX + 1u, f) : 0;
    bool good = text != NULL && !ferror(f) && n <= INPUT_MAX;
    if (f != stdin)
        (void)fclose(f);
    if (!good) {
        free(text);
        (void)ctl_usage(c, "%s cannot be read, or is larger than %u bytes", path, INPUT_MAX);
        return NULL;
    }
    text[n] = '\0';
    *ret_size = n;
    return text;
}

int run_policy_import(struct ctl *c) {
    static const struct {
        const char *word;
        bool (*reader)(struct import *, const char *, size_t);
    } kinds[] = {{"nft", import_nft}, {"iptables", import_iptables}};
    size_t kind = 0, size = 0;
    while (kind < 2 && strcmp(kinds[kind].word, c->given.args[0]) != 0)
        kind++;
    if (kind == 2)
        return ctl_usage(c, "%s is nothing to import from; those are nft and iptables", c->given.args[0]);
    const char *path = c->given.arg_count > 1 ? c->given.args[1] : "-";
    char *text = input_read(c, path, &size);
    if (text == NULL)
        return -1;
    int lost =
        import_run(strcmp(path, "-") == 0 ? "stdin" : path, text, size, kinds[kind].reader, c->screen.out, stderr);
    free(text);
    c->fault.exit = EXIT_FAILED;
    return lost == 0 ? 0 : -1;
}
