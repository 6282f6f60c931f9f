/* SPDX-License-Identifier: Apache-2.0
 *
 * Other members for one set, in the text itself: what the operator wrote around them, comments included, stays. A list
 * in brackets is replaced from bracket to bracket, one with dashes from its first line to its last. Control thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/policy/policy_internal.h"

struct edit {
    const char *text;
    size_t size;
    const char *set;
    const struct node *list;
    const char **members;
    size_t count;
    struct problems *problems;
};

/* Where a line and column (in characters, from 1) lie in the text. */
static size_t offset_of(const struct edit *e, uint32_t line, uint32_t column) {
    size_t at = 0;
    for (uint32_t i = 1; i < line && at < e->size; i++) {
        const char *end = memchr(e->text + at, '\n', e->size - at);
        at = end != NULL ? (size_t)(end - e->text) + 1 : e->size;
    }
    for (uint32_t i = 1; i < column && at < e->size; i++)
        do
            at++;
        while (at < e->size && ((uint8_t)e->text[at] & 0xc0) == 0x80);
    return at;
}

static const struct node *list_find(const struct node *root, const char *set, struct problems *problems) {
    const struct node *map = tree_get(tree_get(root, "sets"), set);
    const struct node *list = map != NULL && map->kind == NODE_MAP ? map->first : NULL;
    if (list != NULL && list->kind == NODE_LIST)
        return list;
    problem_add(problems, &root->place, "sets: there is no set '%.60s'", set);
    return NULL;
}

static size_t member_find(const struct edit *e, const char *text) {
    size_t i = 0;
    while (i < e->count && strcmp(e->members[i], text) != 0)
        i++;
    return i;
}

static bool member_good(const struct edit *e, const char *text) {
    struct nb_addr_range addr;
    struct nb_range range;
    char why[WHY_SIZE];
    bool absent;
    if (policy_read_member(e->list->key, text, &addr, &range, &absent, why))
        return true;
    problem_add(e->problems, &e->list->place, "sets.%s: %s", e->set, why);
    return false;
}

static bool member_edit(struct edit *e, enum policy_edit how, const char *text) {
    size_t at = member_find(e, text);
    if (how == POLICY_EDIT_REMOVE && at == e->count) {
        problem_add(e->problems, &e->list->place, "sets.%s: '%.60s' is not a member as the policy writes it", e->set,
                    text);
        return false;
    }
    if (how == POLICY_EDIT_REMOVE) {
        memmove(&e->members[at], &e->members[at + 1], (e->count - at - 1) * sizeof *e->members);
        e->count--;
        return true;
    }
    if (!member_good(e, text))
        return false;
    if (at == e->count)
        e->members[e->count++] = text;
    return true;
}

/* Colons mean something to YAML. */
static void member_print(FILE *out, const char *text) {
    const char *quote = strchr(text, ':') != NULL ? "'" : "";
    (void)fprintf(out, "%s%s%s", quote, text, quote);
}

static void flow_print(const struct edit *e, FILE *out) {
    (void)fputc('[', out);
    for (size_t i = 0; i < e->count; i++) {
        (void)fputs(i > 0 ? ", " : "", out);
        member_print(out, e->members[i]);
    }
    (void)fputc(']', out);
}

static void block_print(const struct edit *e, FILE *out) {
    uint32_t indent = e->list->place.column - 1;
    for (size_t i = 0; i < e->count; i++) {
        (void)fprintf(out, "%*s- ", (int)indent, "");
        member_print(out, e->members[i]);
        (void)fputc('\n', out);
    }
    if (e->count == 0)
        (void)fprintf(out, "%*s[]\n", (int)indent + 2, "");
}

static int text_make(const struct edit *e, char **ret_text) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return -ENOMEM;
    const struct node *l = e->list;
    size_t from = offset_of(e, l->place.line, l->flow ? l->place.column : 1);
    size_t to = l->flow ? offset_of(e, l->end_line, l->end_column) : offset_of(e, l->last->place.line + 1, 1);
    (void)fwrite(e->text, 1, from, out);
    if (l->flow)
        flow_print(e, out);
    else
        block_print(e, out);
    (void)fwrite(e->text + to, 1, e->size - to, out);
    bool good = fclose(out) == 0;
    *ret_text = text;
    return good ? 0 : -ENOMEM;
}

static int edit_run(struct edit *e, enum policy_edit how, const char *const *members, size_t count, char **ret_text) {
    size_t before = 0;
    for (const struct node *n = e->list->first; n != NULL; n = n->next)
        before++;
    e->members = calloc(before + count + 1, sizeof *e->members);
    if (e->members == NULL)
        return -ENOMEM;
    for (const struct node *n = e->list->first; n != NULL && how != POLICY_EDIT_REPLACE; n = n->next)
        e->members[e->count++] = n->text != NULL ? n->text : "";
    bool good = true;
    for (size_t i = 0; i < count && good; i++)
        good = member_edit(e, how, members[i]);
    int error = good ? text_make(e, ret_text) : -EINVAL;
    free(e->members);
    return error;
}

int policy_edit_set(const char *text, size_t size, const char *set, enum policy_edit how, const char *const *members,
                    size_t member_count, char **ret_text, struct problems *problems) {
    struct tree *t;
    int error = tree_create(&t);
    if (error != 0)
        return error;
    tree_limits_set(t, POLICY_TEXT_MAX, POLICY_VALUE_MAX);
    struct edit e = {.text = text, .size = size, .set = set, .problems = problems};
    const struct node *root = tree_parse(t, "policy", text, size, problems);
    e.list = root != NULL ? list_find(root, set, problems) : NULL;
    error = e.list == NULL ? -ENOENT : edit_run(&e, how, members, member_count, ret_text);
    tree_destroy(t);
    return error;
}
