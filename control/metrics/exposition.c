/* SPDX-License-Identifier: Apache-2.0
 *
 * The text format. Numbers are written as integers, or as seconds with all nine digits, so that nothing depends on the
 * locale or on rounding.
 */
#include "control/metrics/exposition.h"

#include <inttypes.h>

/* A label's value is quoted, a help text is not. */
static void write_escaped(FILE *out, const char *text, int quote) {
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\n')
            (void)fputs("\\n", out);
        else if (*p == '\\' || *p == quote)
            (void)fprintf(out, "\\%c", *p);
        else
            (void)fputc(*p, out);
    }
}

void exposition_family(FILE *out, const char *name, enum metric_type type, const char *help) {
    (void)fprintf(out, "# HELP %s ", name);
    write_escaped(out, help, '\0');
    (void)fprintf(out, "\n# TYPE %s %s\n", name, type == METRIC_COUNTER ? "counter" : "gauge");
}

static void write_head(FILE *out, const char *name, const struct label *labels) {
    (void)fputs(name, out);
    if (labels == NULL || labels->name == NULL)
        return;
    for (const struct label *l = labels; l->name != NULL; l++) {
        (void)fprintf(out, "%s%s=\"", l == labels ? "{" : ",", l->name);
        write_escaped(out, l->value, '"');
        (void)fputc('"', out);
    }
    (void)fputc('}', out);
}

void exposition_count(FILE *out, const char *name, const struct label *labels, uint64_t value) {
    write_head(out, name, labels);
    (void)fprintf(out, " %" PRIu64 "\n", value);
}

void exposition_seconds(FILE *out, const char *name, const struct label *labels, uint64_t ns) {
    write_head(out, name, labels);
    (void)fprintf(out, " %" PRIu64 ".%09" PRIu64 "\n", ns / 1000000000u, ns % 1000000000u);
}
