/* SPDX-License-Identifier: Apache-2.0
 *
 * YAML as a tree that remembers where every value stood: file, line, column. Built from libyaml's events, so that a
 * mistake found long after parsing can still be shown at its place. Knows nothing of usherd's settings; schema.c does.
 *
 * Thread: any, one at a time per tree. Everything is bounded: bytes of a file, nodes of a tree, depth. Anchors and
 * aliases are refused.
 */
#ifndef USHER_CONTROL_CONFIG_TREE_H
#define USHER_CONTROL_CONFIG_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TREE_FILE_MAX  (1u << 20)
#define TREE_NODE_MAX  20000u
#define TREE_DEPTH_MAX 16u

#define PROBLEM_MAX 16
#define PROBLEM_TEXT_MAX 512

/* What is wrong with a config, one sentence each, "file:line:col: field: what is wrong; what is allowed". Counts on
 * beyond PROBLEM_MAX without keeping the text. */
struct problems {
    uint32_t count;
    char text[PROBLEM_MAX][PROBLEM_TEXT_MAX];
};

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

struct place {
    const char *file;
    uint32_t line, column; /* from 1; line 0 = the file as a whole */
};

struct node {
    enum node_kind kind;
    bool plain;          /* a scalar without quotes: `yes` is a truth value, "yes" is a text */
    bool flow;           /* a list in brackets */
    struct place place;
    uint32_t end_line, end_column; /* of a list: behind its last byte */
    const char *text;    /* SCALAR */
    const char *key;     /* when this node is a map's value */
    struct place key_place;
    struct node *first, *last, *next;
};

struct tree;

int tree_create(struct tree **ret_tree);
void tree_destroy(struct tree *t);
/* Instead of TREE_FILE_MAX and TREE_NODE_MAX: before the first parse. */
void tree_limits_set(struct tree *t, uint32_t file_max, uint32_t node_max);

/* Parses one file's text; `name` is shown in messages. The root is a map (empty for an empty file). NULL when something
 * is wrong: see problems. The nodes live as long as the tree. */
struct node *tree_parse(struct tree *t, const char *name, const char *text, size_t size, struct problems *problems);
/* The same for a file on disk. */
struct node *tree_load(struct tree *t, const char *path, struct problems *problems);

/* Lays map `over` on top of map `base` (both of one tree): maps merge, lists grow, scalars are replaced. */
void tree_merge(struct node *base, struct node *over);

/* The value of `key` in a map, or NULL. */
struct node *tree_get(const struct node *map, const char *key);
/* Item `index` of a list, or NULL. */
struct node *tree_at(const struct node *list, uint32_t index);

/* Adds a problem at a place. */
void problem_add(struct problems *p, const struct place *at, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
