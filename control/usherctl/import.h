/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules of others as a policy: what the readers of nft and iptables have in common. A reader fills a rule field by
 * field, in the words of usher-policy(5), and adds it; whatever cannot be said in them is reported with its place, and
 * nothing is carried over half. Pure but for the two streams.
 */
#ifndef USHER_CONTROL_USHERCTL_IMPORT_H
#define USHER_CONTROL_USHERCTL_IMPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define IMPORT_VALUE_MAX 512
#define IMPORT_FIELD_MAX 24
#define IMPORT_NAME_MAX  64

struct import_rule {
    size_t count;
    struct {
        char key[16];
        char value[IMPORT_VALUE_MAX];
    } fields[IMPORT_FIELD_MAX];
};

struct import {
    FILE *rules, *sets; /* the two parts of the policy */
    FILE *report;
    const char *name;   /* of the input */
    uint32_t rule_count, set_count, lost;
};

/* False: the field has another value already, and both must hold: no rule says that. */
bool import_set(struct import_rule *r, const char *key, const char *value);
const char *import_get(const struct import_rule *r, const char *key); /* NULL: not set */
/* All fields of `more` as well; false as above. */
bool import_join(struct import_rule *r, const struct import_rule *more);
/* Writes it with a name of its own, made of `name`. */
void import_rule_add(struct import *im, const char *name, const struct import_rule *r);
/* "line 12: TEXT: WHY" */
void import_lost(struct import *im, uint32_t line, const char *text, const char *why);
/* A set; `kind` "addresses" or "ports", `members` with ", " between them. */
void import_set_add(struct import *im, const char *name, const char *kind, const char *members);
/* A name as a policy takes it: other characters become dashes. */
void import_name(const char *text, char ret_name[IMPORT_NAME_MAX]);

/* The readers. False: this is not such an input at all, said in the report. */
bool import_nft(struct import *im, const char *text, size_t size);
bool import_iptables(struct import *im, const char *text, size_t size);

/* Reads `text`, writes the policy to `out`. -1: it is none. Otherwise how much was lost. */
int import_run(const char *name, const char *text, size_t size, bool (*reader)(struct import *, const char *, size_t),
               FILE *out, FILE *report);

#endif
