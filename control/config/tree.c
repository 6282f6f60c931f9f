/* SPDX-License-Identifier: Apache-2.0
 *
 * libyaml events to a tree with positions. Memory comes from a chain of chunks that dies with the tree, so no node is
 * ever freed alone. One parse keeps an explicit stack; the depth bound is its size.
 */
#include "control/config/tree.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define CHUNK_SIZE 65536u

struct chunk {
    struct chunk *next;
    size_t used, size;
    _Alignas(16) char bytes[];
};

struct tree {
    struct chunk *chunks;
    uint32_t node_count;
    uint32_t file_max, node_max;
};

struct level {
    struct node *node;
    const char *key; /* of the value that comes next; NULL = a key is due */
    struct place key_place;
};

struct parse {
    struct tree *tree;
    struct problems *problems;
    const char *file;
    yaml_parser_t yaml;
    struct level stack[TREE_DEPTH_MAX];
    uint32_t depth;
    uint32_t documents;
    struct node *root;
    bool failed;
};

void problem_add(struct problems *p, const struct place *at, const char *fmt, ...) {
    if (p->count < PROBLEM_MAX) {
        char *text = p->text[p->count];
        int n = at->line != 0 ? snprintf(text, PROBLEM_TEXT_MAX, "%s:%u:%u: ", at->file, at->line, at->column)
                              : snprintf(text, PROBLEM_TEXT_MAX, "%s: ", at->file);
        if (n > PROBLEM_TEXT_MAX - 1)
            n = PROBLEM_TEXT_MAX - 1;
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(text + n, PROBLEM_TEXT_MAX - (size_t)n, fmt, args);
        va_end(args);
    }
    p->count++;
}

int tree_create(struct tree **ret_tree) {
    struct tree *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    t->file_max = TREE_FILE_MAX;
    t->node_max = TREE_NODE_MAX;
    *ret_tree = t;
    return 0;
}

void tree_limits_set(struct tree *t, uint32_t file_max, uint32_t node_max) {
    t->file_max = file_max;
    t->node_max = node_max;
}

void tree_destroy(struct tree *t) {
    if (t == NULL)
        return;
    while (t->chunks != NULL) {
        struct chunk *next = t->chunks->next;
        free(t->chunks);
        t->chunks = next;
    }
    free(t);
}

static void *tree_alloc(struct tree *t, size_t size) {
    size = (size + 15) & ~(size_t)15;
    if (t->chunks == NULL || t->chunks->size - t->chunks->used < size) {
        size_t room = size > CHUNK_SIZE ? size : CHUNK_SIZE;
        struct chunk *c = calloc(1, sizeof *c + room);
        if (c == NULL)
            return NULL;
        c->size = room;
        c->next = t->chunks;
        t->chunks = c;
    }
    void *p = t->chunks->bytes + t->chunks->used;
    t->chunks->used += size;
    return p;
}

static const char *tree_text(struct tree *t, const char *text, size_t size) {
    char *copy = tree_alloc(t, size + 1);
    if (copy != NULL) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

static struct place place_of(const struct parse *p, const yaml_mark_t *mark) {
    return (struct place){p->file, (uint32_t)mark->line + 1, (uint32_t)mark->column + 1};
}

static struct node *node_make(struct parse *p, enum node_kind kind, const struct place *at) {
    if (p->tree->node_count == p->tree->node_max) {
        problem_add(p->problems, at, "the file has more than %u values; make it smaller", p->tree->node_max);
        return NULL;
    }
    struct node *n = tree_alloc(p->tree, sizeof *n);
    if (n == NULL) {
        problem_add(p->problems, at, "out of memory");
        return NULL;
    }
    p->tree->node_count++;
    *n = (struct node){.kind = kind, .place = *at};
    return n;
}

struct node *tree_get(const struct node *map, const char *key) {
    if (map == NULL || map->kind != NODE_MAP)
        return NULL;
    for (struct node *n = map->first; n != NULL; n = n->next) {
        if (strcmp(n->key, key) == 0)
            return n;
    }
    return NULL;
}

struct node *tree_at(const struct node *list, uint32_t index) {
    if (list == NULL || list->kind != NODE_LIST)
        return NULL;
    struct node *n = list->first;
    while (n != NULL && index-- > 0)
        n = n->next;
    return n;
}

static void append(struct node *parent, struct node *child) {
    child->next = NULL;
    if (parent->last == NULL)
        parent->first = child;
    else
        parent->last->next = child;
    parent->last = child;
}

/* Puts a finished or just begun node where the stack says. False = refused, with a problem. */
static bool place_node(struct parse *p, struct node *n) {
    if (p->depth == 0) {
        p->root = n;
        return true;
    }
    struct level *top = &p->stack[p->depth - 1];
    if (top->node->kind == NODE_LIST) {
        append(top->node, n);
        return true;
    }
    if (top->key == NULL) {
        if (n->kind != NODE_SCALAR) {
            problem_add(p->problems, &n->place, "a key must be a plain word, not a list or a map");
            return false;
        }
        struct node *other = tree_get(top->node, n->text);
        if (other != NULL) {
            problem_add(p->problems, &n->place, "%s: given twice, first in line %u; keep one of them", n->text,
                        other->key_place.line);
            return false;
        }
        top->key = n->text;
        top->key_place = n->place;
        return true;
    }
    n->key = top->key;
    n->key_place = top->key_place;
    top->key = NULL;
    append(top->node, n);
    return true;
}

/* A value given once and meant in several places is easily changed in one of them only; and an alias of an alias grows
 * without bound. Nothing in usherd's settings is long enough to be worth that. */
static bool anchor_refuse(struct parse *p, const struct place *at, char mark, const yaml_char_t *name) {
    if (name != NULL)
        problem_add(p->problems, at, "%c%s: anchors and aliases are not taken; write the value out", mark,
                    (const char *)name);
    return name == NULL;
}

static bool on_scalar(struct parse *p, const yaml_event_t *ev) {
    struct place at = place_of(p, &ev->start_mark);
    const char *value = (const char *)ev->data.scalar.value;
    size_t size = ev->data.scalar.length;
    if (memchr(value, '\0', size) != NULL) {
        problem_add(p->problems, &at, "the value holds a NUL byte; remove it");
        return false;
    }
    if (ev->data.scalar.tag != NULL) {
        problem_add(p->problems, &at, "YAML tags (%s) have no meaning here; remove it", ev->data.scalar.tag);
        return false;
    }
    if (!anchor_refuse(p, &at, '&', ev->data.scalar.anchor))
        return false;
    struct node *n = node_make(p, NODE_SCALAR, &at);
    if (n == NULL)
        return false;
    n->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    n->text = tree_text(p->tree, value, size);
    return n->text != NULL && place_node(p, n);
}

static bool on_begin(struct parse *p, enum node_kind kind, const yaml_mark_t *mark, const yaml_char_t *anchor) {
    struct place at = place_of(p, mark);
    if (p->depth == TREE_DEPTH_MAX) {
        problem_add(p->problems, &at, "nested deeper than %u levels; nothing in usherd's config is", TREE_DEPTH_MAX);
        return false;
    }
    if (!anchor_refuse(p, &at, '&', anchor))
        return false;
    struct node *n = node_make(p, kind, &at);
    if (n == NULL || !place_node(p, n))
        return false;
    p->stack[p->depth++] = (struct level){.node = n};
    return true;
}

static bool list_style(struct parse *p, yaml_sequence_style_t style) {
    p->stack[p->depth - 1].node->flow = style == YAML_FLOW_SEQUENCE_STYLE;
    return true;
}

static void on_end(struct parse *p, const yaml_mark_t *mark) {
    struct node *n = p->stack[--p->depth].node;
    n->end_line = (uint32_t)mark->line + 1;
    n->end_column = (uint32_t)mark->column + 1;
}

static bool on_alias(struct parse *p, const yaml_event_t *ev) {
    struct place at = place_of(p, &ev->start_mark);
    return anchor_refuse(p, &at, '*', ev->data.alias.anchor);
}

static bool on_document(struct parse *p, const yaml_event_t *ev) {
    if (p->documents++ == 0)
        return true;
    struct place at = place_of(p, &ev->start_mark);
    problem_add(p->problems, &at, "a second YAML document; one file holds one, use conf.d for more");
    return false;
}

/* Handles one event; false ends the parse with a problem. */
static bool on_event(struct parse *p, const yaml_event_t *ev) {
    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        return on_document(p, ev);
    case YAML_SCALAR_EVENT:
        return on_scalar(p, ev);
    case YAML_SEQUENCE_START_EVENT:
        return on_begin(p, NODE_LIST, &ev->start_mark, ev->data.sequence_start.anchor) &&
               list_style(p, ev->data.sequence_start.style);
    case YAML_MAPPING_START_EVENT:
        return on_begin(p, NODE_MAP, &ev->start_mark, ev->data.mapping_start.anchor);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        on_end(p, &ev->end_mark);
        return true;
    case YAML_ALIAS_EVENT:
        return on_alias(p, ev);
    default:
        return true;
    }
}

static void syntax_problem(struct parse *p) {
    const yaml_parser_t *y = &p->yaml;
    bool reader = y->error == YAML_READER_ERROR;
    struct place at = {p->file, reader ? 0 : (uint32_t)y->problem_mark.line + 1, (uint32_t)y->problem_mark.column + 1};
    problem_add(p->problems, &at, "not valid YAML: %s%s%s", y->problem != NULL ? y->problem : "unknown error",
                y->context != NULL ? ", " : "", y->context != NULL ? y->context : "");
}

static bool parse_events(struct parse *p) {
    for (;;) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&p->yaml, &ev)) {
            syntax_problem(p);
            return false;
        }
        bool last = ev.type == YAML_STREAM_END_EVENT;
        bool good = on_event(p, &ev);
        yaml_event_delete(&ev);
        if (!good || last)
            return good;
    }
}

/* `a:` with nothing behind it at the top is an empty map to us; so is an empty file. */
static struct node *root_check(struct parse *p) {
    struct place at = {p->file, 1, 1};
    if (p->root == NULL || (p->root->kind == NODE_SCALAR && p->root->text[0] == '\0'))
        return node_make(p, NODE_MAP, &at);
    if (p->root->kind == NODE_MAP)
        return p->root;
    problem_add(p->problems, &p->root->place, "expected `section:` lines at the top of the file");
    return NULL;
}

struct node *tree_parse(struct tree *t, const char *name, const char *text, size_t size, struct problems *problems) {
    struct parse p = {.tree = t, .problems = problems, .file = tree_text(t, name, strlen(name))};
    struct place whole = {name, 0, 0};
    if (size > t->file_max) {
        problem_add(problems, &whole, "larger than %u bytes; make it smaller", t->file_max);
        return NULL;
    }
    if (p.file == NULL || !yaml_parser_initialize(&p.yaml)) {
        problem_add(problems, &whole, "out of memory");
        return NULL;
    }
    yaml_parser_set_input_string(&p.yaml, (const unsigned char *)text, size);
    bool good = parse_events(&p);
    yaml_parser_delete(&p.yaml);
    return good ? root_check(&p) : NULL;
}

struct node *tree_load(struct tree *t, const char *path, struct problems *problems) {
    struct place whole = {path, 0, 0};
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        problem_add(problems, &whole, "cannot be opened: %s", strerror(errno));
        return NULL;
    }
    /* One byte more than allowed, so that "too large" is seen without asking for the size. */
    char *text = malloc((size_t)t->file_max + 1);
    size_t size = text != NULL ? fread(text, 1, (size_t)t->file_max + 1, f) : 0;
    struct node *root = NULL;
    if (text == NULL || ferror(f))
        problem_add(problems, &whole, "cannot be read: %s", strerror(text == NULL ? ENOMEM : errno));
    else
        root = tree_parse(t, path, text, size, problems);
    free(text);
    (void)fclose(f);
    return root;
}

static void replace(struct node *map, struct node *old, struct node *with) {
    struct node **link = &map->first;
    while (*link != old)
        link = &(*link)->next;
    with->next = old->next;
    *link = with;
    if (map->last == old)
        map->last = with;
}

void tree_merge(struct node *base, struct node *over) {
    for (struct node *n = over->first, *next; n != NULL; n = next) {
        next = n->next;
        struct node *old = tree_get(base, n->key);
        if (old == NULL) {
            append(base, n);
        } else if (old->kind == NODE_MAP && n->kind == NODE_MAP) {
            tree_merge(old, n);
        } else if (old->kind == NODE_LIST && n->kind == NODE_LIST) {
            for (struct node *item = n->first, *after; item != NULL; item = after) {
                after = item->next;
                append(old, item);
            }
        } else {
            replace(base, old, n);
        }
    }
}
