/* SPDX-License-Identifier: Apache-2.0
 *
 * The man page usherd.yaml(5), written from the schema table, so that it cannot lag behind the program.
 */
#include <string.h>

#include "control/config/schema.h"

/* A line that begins with a dot or quote would be a request to roff; a backslash and a minus have meanings of their
 * own. */
static void roff_text(const char *text, FILE *out) {
    if (text[0] == '.' || text[0] == '\'')
        (void)fputs("\\&", out);
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            (void)fputs("\\e", out);
        else if (*text == '-')
            (void)fputs("\\-", out);
        else
            (void)fputc(*text, out);
    }
}

static void manual_field(const struct field *f, const char *path, FILE *out) {
    char allowed[256];
    scalar_allowed(f, allowed, sizeof allowed);
    (void)fprintf(out, ".TP\n.B %s%s\n", path, f->name);
    roff_text(f->doc, out);
    (void)fputs("\n", out);
    if (f->item_max > 0)
        (void)fprintf(out, "A list of at most %u, each ", f->item_max);
    else
        (void)fputs("Must be ", out);
    roff_text(allowed, out);
    if (f->item_max == 0 && f->def[0] != '\0') {
        (void)fputs("; default ", out);
        roff_text(f->def, out);
    }
    (void)fputs(".\n", out);
}

static void manual_table(const struct field *table, const char *path, FILE *out) {
    char sub[128];
    for (const struct field *f = table; f->name != NULL; f++) {
        if (f->type != FIELD_SECTION) {
            manual_field(f, path, out);
            continue;
        }
        (void)snprintf(sub, sizeof sub, "%s%s%s.", path, f->name, f->item_max > 0 ? "[]" : "");
        (void)fprintf(out, ".SS %s%s\n", path, f->name);
        roff_text(f->doc, out);
        if (f->item_max > 0)
            (void)fprintf(out, "\nA list of at most %u sections.", f->item_max);
        (void)fputs("\n", out);
        manual_table(f->sub, sub, out);
    }
}

void config_print_manual(FILE *out) {
    (void)fputs(
        ".TH USHERD.YAML 5 \"\" \"usher " USHER_VERSION "\"\n"
        ".SH NAME\nusherd.yaml \\- settings of the host networking dataplane usherd\n"
        ".SH SYNOPSIS\n/etc/usher/usherd.yaml, /etc/usher/conf.d/*.yaml\n"
        ".SH DESCRIPTION\n"
        "The file is YAML. After it,\n.BR usherd (8)\n"
        "reads every *.yaml in the folder conf.d beside it, by name: sections are merged, lists grow, single\n"
        "values are replaced. Every setting has a default, so an empty file is valid. Unknown settings, values\n"
        "out of range, settings given twice in one file, anchors, aliases and tags are errors, reported with\n"
        "file, line and column:\n"
        ".B usherd \\-\\-check\\-config\nreports them and does nothing else; when all is well it prints the\n"
        "settings as usherd understands them, defaults included, in this same format.\n"
        ".SH SETTINGS\n",
        out);
    manual_table(config_schema, "", out);
    (void)fputs(".SH EXAMPLE\n.nf\ninterfaces:\n  \\- name: eth*\necho:\n  ports: [7777]\n.fi\n"
                ".SH SEE ALSO\n.BR usherd (8),\n.BR usher\\-keeper (8)\n",
                out);
}
