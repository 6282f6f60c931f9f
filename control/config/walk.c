/* SPDX-License-Identifier: Apache-2.0
 *
 * Walks a schema table: defaults, a tree into a struct, a struct back into YAML. Knows types and places, no setting by
 * name. A section without a list shares its parent's struct when its size says so (see member()).
 */
#include <stdlib.h>
#include <string.h>

#include "control/config/schema.h"

#define PATH_SIZE 128

/* Top-level sections describe members of struct config itself (offset 0), nested structs lie at their own offset. */
static void *member(const struct field *f, void *base, uint32_t index) {
    return (uint8_t *)base + f->offset + (size_t)index * f->size;
}

static uint32_t *list_count(const struct field *f, void *base) {
    return (uint32_t *)((uint8_t *)base + f->count_offset);
}

static void defaults_of(const struct field *f, void *base) {
    char why[256];
    if (f->type == FIELD_TREE)
        *(const struct node **)member(f, base, 0) = NULL;
    else if (f->type == FIELD_SECTION && f->item_max == 0)
        schema_defaults(f->sub, member(f, base, 0));
    else if (f->item_max > 0)
        *list_count(f, base) = 0;
    else
        (void)scalar_parse(f, f->def, true, member(f, base, 0), why, sizeof why);
}

void schema_defaults(const struct field *table, void *base) {
    for (const struct field *f = table; f->name != NULL; f++)
        defaults_of(f, base);
}

/* Edit distance of two short words, for "did you mean". */
static uint32_t distance(const char *a, const char *b) {
    uint32_t row[32];
    size_t n = strlen(b);
    if (n >= 31 || strlen(a) >= 31)
        return 99;
    for (size_t j = 0; j <= n; j++)
        row[j] = (uint32_t)j;
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        uint32_t diagonal = row[0];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= n; j++) {
            uint32_t up = row[j];
            uint32_t best = diagonal + (a[i - 1] != b[j - 1]);
            best = up + 1 < best ? up + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diagonal = up;
        }
    }
    return row[n];
}

static void unknown_key(const struct field *table, const struct node *n, const char *path, struct problems *problems) {
    const struct field *best = NULL;
    uint32_t least = 4;
    char all[256] = "";
    size_t used = 0;
    for (const struct field *f = table; f->name != NULL; f++) {
        uint32_t d = distance(n->key, f->name);
        if (d < least) {
            least = d;
            best = f;
        }
        if (used < sizeof all)
            used += (size_t)snprintf(all + used, sizeof all - used, "%s%s", used > 0 ? ", " : "", f->name);
    }
    if (best != NULL)
        problem_add(problems, &n->key_place, "%s%.40s: unknown setting; did you mean %s?", path, n->key, best->name);
    else
        problem_add(problems, &n->key_place, "%s%.40s: unknown setting; known here are %s", path, n->key, all);
}

static const char *const kind_names[] = {"a single value", "a list", "a section"};

/* An empty `key:` stands for an empty list or section. */
static bool is_blank(const struct node *n) {
    return n->kind == NODE_SCALAR && n->plain && n->text[0] == '\0';
}

static void read_one(const struct field *f, const struct node *n, void *at, const char *path,
                     struct problems *problems) {
    char sub_path[PATH_SIZE + 32], why[384];
    if (f->type == FIELD_TREE) {
        *(const struct node **)at = n;
        return;
    }
    if (f->type == FIELD_SECTION) {
        if (n->kind != NODE_MAP && !is_blank(n)) {
            problem_add(problems, &n->place, "%s: must be a section with settings of its own, not %s", path,
                        kind_names[n->kind]);
            return;
        }
        (void)snprintf(sub_path, sizeof sub_path, "%s.", path);
        schema_read(f->sub, n, at, sub_path, problems);
        return;
    }
    if (n->kind != NODE_SCALAR)
        problem_add(problems, &n->place, "%s: must be a single value, not %s", path, kind_names[n->kind]);
    else if (!scalar_parse(f, n->text, n->plain, at, why, sizeof why))
        problem_add(problems, &n->place, "%s: %s", path, why);
}

static void read_list(const struct field *f, const struct node *n, void *base, const char *path,
                      struct problems *problems) {
    char item_path[PATH_SIZE + 16];
    uint32_t *count = list_count(f, base);
    *count = 0;
    if (is_blank(n))
        return;
    if (n->kind != NODE_LIST) {
        problem_add(problems, &n->place, "%s: must be a list, not %s; write [ ... ] or lines with \"- \"", path,
                    kind_names[n->kind]);
        return;
    }
    for (const struct node *item = n->first; item != NULL; item = item->next) {
        (void)snprintf(item_path, sizeof item_path, "%s[%u]", path, *count);
        if (*count == f->item_max) {
            problem_add(problems, &item->place, "%s: too many; at most %u are allowed", item_path, f->item_max);
            return;
        }
        void *at = member(f, base, *count);
        if (f->type == FIELD_SECTION)
            schema_defaults(f->sub, at);
        read_one(f, item, at, item_path, problems);
        (*count)++;
    }
}

static const struct field *field_find(const struct field *table, const char *name) {
    for (const struct field *f = table; f->name != NULL; f++) {
        if (strcmp(f->name, name) == 0)
            return f;
    }
    return NULL;
}

void schema_read(const struct field *table, const struct node *map, void *base, const char *path,
                 struct problems *problems) {
    char sub_path[PATH_SIZE];
    for (const struct node *n = map->first; n != NULL; n = n->next) {
        const struct field *f = field_find(table, n->key);
        if (f == NULL) {
            unknown_key(table, n, path, problems);
            continue;
        }
        (void)snprintf(sub_path, sizeof sub_path, "%s%s", path, f->name);
        if (f->item_max > 0)
            read_list(f, n, base, sub_path, problems);
        else
            read_one(f, n, member(f, base, 0), sub_path, problems);
    }
}

static void print_indent(uint32_t indent, FILE *out) {
    (void)fprintf(out, "%*s", (int)indent, "");
}

static void print_words(const struct field *f, const void *base, uint32_t count, FILE *out) {
    char text[320];
    (void)fprintf(out, " [");
    for (uint32_t i = 0; i < count; i++) {
        scalar_print(f, (const uint8_t *)base + f->offset + (size_t)i * f->size, text, sizeof text);
        (void)fprintf(out, "%s%s", i > 0 ? ", " : "", text);
    }
    (void)fprintf(out, "]\n");
}

/* Items are `- name: x`: the dash takes the place of two blanks in front of the first line. */
static void print_items(const struct field *f, const void *base, uint32_t count, uint32_t indent, FILE *out) {
    (void)fprintf(out, count == 0 ? " []\n" : "\n");
    for (uint32_t i = 0; i < count; i++) {
        print_indent(indent + 2, out);
        (void)fprintf(out, "-\n");
        schema_print(f->sub, (const uint8_t *)base + f->offset + (size_t)i * f->size, indent + 4, out);
    }
}

void schema_print(const struct field *table, const void *base, uint32_t indent, FILE *out) {
    for (const struct field *f = table; f->name != NULL; f++) {
        print_indent(indent, out);
        (void)fprintf(out, "%s:", f->name);
        const uint8_t *at = (const uint8_t *)base + f->offset;
        uint32_t count = f->item_max > 0 ? *(const uint32_t *)((const uint8_t *)base + f->count_offset) : 0;
        if (f->item_max > 0 && f->type == FIELD_SECTION) {
            print_items(f, base, count, indent, out);
        } else if (f->item_max > 0) {
            print_words(f, base, count, out);
        } else if (f->type == FIELD_SECTION) {
            (void)fprintf(out, "\n");
            schema_print(f->sub, at, indent + 2, out);
        } else {
            char text[320];
            scalar_print(f, at, text, sizeof text);
            (void)fprintf(out, " %s\n", text);
        }
    }
}

static bool values_differ(const struct field *f, const void *a, const void *b) {
    char text_a[320], text_b[320];
    scalar_print(f, (const uint8_t *)a + f->offset, text_a, sizeof text_a);
    scalar_print(f, (const uint8_t *)b + f->offset, text_b, sizeof text_b);
    return strcmp(text_a, text_b) != 0;
}

/* Structs of settings begin as zeros, so that their bytes can be compared. */
static bool lists_differ(const struct field *f, const void *a, const void *b) {
    const uint8_t *pa = a, *pb = b;
    uint32_t na = *(const uint32_t *)(pa + f->count_offset), nb = *(const uint32_t *)(pb + f->count_offset);
    return na != nb || memcmp(pa + f->offset, pb + f->offset, na * f->size) != 0;
}

void schema_compare(const struct field *table, const void *a, const void *b, const char *path,
                    void (*fn)(void *arg, const char *name), void *arg) {
    for (const struct field *f = table; f->name != NULL; f++) {
        char name[160];
        (void)snprintf(name, sizeof name, "%s%s%s", path, path[0] != '\0' ? "." : "", f->name);
        if (f->item_max == 0 && f->type == FIELD_SECTION)
            schema_compare(f->sub, (const uint8_t *)a + f->offset, (const uint8_t *)b + f->offset, name, fn, arg);
        else if (f->item_max > 0 ? lists_differ(f, a, b) : values_differ(f, a, b))
            fn(arg, name);
    }
}
