/* SPDX-License-Identifier: Apache-2.0
 *
 * A policy as a whole: defaults, labels, sets, rules in their tiers; at the end the check that every policy passes.
 */
#include "control/policy/policy.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "control/identity/owner.h"
#include "control/policy/policy_internal.h"

static const char *const tiers[] = {"platform", "host", "app", NULL};
static const char *const verdicts[] = {"continue", "allow", "drop", "reject"};
static const char *const set_words[] = {"addresses", "ports", "users", "groups", NULL};

void *policy_grow(void *v_ptr, uint32_t count, size_t size) {
    void **v = (void **)v_ptr;
    /* Doubled whenever the count reaches a power of two. */
    if ((count & (count - 1)) == 0) {
        void *more = realloc(*v, (count == 0 ? 1 : 2 * (size_t)count) * size);
        if (more == NULL)
            return NULL;
        *v = more;
    }
    return memset((uint8_t *)*v + count * size, 0, size);
}

/* ---- sets ---- */

static bool same_name(const void *names, uint32_t index, const void *wanted) {
    return strcmp(((const struct name *)names)[index].text, wanted) == 0;
}

uint32_t policy_find_set(const struct policy *p, const char *name, uint8_t kind, char *why) {
    static const char *const kinds[] = {"addresses", "ports", "users or groups"};
    (void)snprintf(why, WHY_SIZE, "no set '%.60s'; define it under sets:", name);
    uint32_t i = finder_get(&p->set_finder, finder_hash_text(name), same_name, p->set_names, name);
    if (i == NB_NONE || p->sets[i].kind == kind)
        return i;
    (void)snprintf(why, WHY_SIZE, "set '%.60s' has %s; %s are wanted here", name, kinds[p->sets[i].kind], kinds[kind]);
    return NB_NONE;
}

static uint32_t set_make(struct policy *p, uint8_t kind, const char *name, uint64_t hash) {
    uint32_t i = p->nb.set_count;
    struct nb_set *s = policy_grow(&p->sets, i, sizeof *s);
    struct name *n = policy_grow(&p->set_names, i, sizeof *n);
    if (s == NULL || n == NULL || !finder_add(&p->set_finder, hash, i))
        return NB_NONE;
    s->kind = kind;
    (void)snprintf(n->text, sizeof n->text, "%s", name);
    p->nb.set_count++;
    return i;
}

struct wanted_ids {
    const struct policy *p;
    const struct nb_range *range;
};

static bool same_ids(const void *sets, uint32_t index, const void *wanted) {
    const struct wanted_ids *w = wanted;
    const struct nb_set *s = (const struct nb_set *)sets + index;
    if (s->kind != NB_SET_ID || w->p->set_names[index].text[0] != '\0' || s->count != (w->range != NULL ? 1 : 0))
        return false;
    return w->range == NULL || memcmp(s->ranges, w->range, sizeof *w->range) == 0;
}

uint32_t policy_add_ids(struct policy *p, const struct nb_range *range) {
    const struct wanted_ids wanted = {p, range};
    uint64_t hash = range != NULL ? finder_hash(range, sizeof *range) : 1;
    uint32_t i = finder_get(&p->set_finder, hash, same_ids, p->sets, &wanted);
    if (i != NB_NONE)
        return i;
    i = set_make(p, NB_SET_ID, "", hash);
    if (i == NB_NONE || range == NULL)
        return i;
    struct nb_range *r = malloc(sizeof *r);
    if (r == NULL)
        return NB_NONE;
    *r = *range;
    p->sets[i].ranges = r;
    p->sets[i].count = 1;
    return i;
}

bool policy_absent_note(struct policy *p, const char *why) {
    if (!(p->flags & POLICY_ABSENT_OK))
        return false;
    if (p->absent++ == 0)
        (void)snprintf(p->absent_first, sizeof p->absent_first, "%s", why);
    return true;
}

/* False: `why`. */
static bool member_add(struct policy *p, struct nb_set *s, const char *field, const char *text, char *why) {
    struct nb_addr_range addr;
    struct nb_range range;
    bool absent;
    if (!policy_read_member(field, text, &addr, &range, &absent, why))
        return absent && policy_absent_note(p, why);
    (void)snprintf(why, WHY_SIZE, "no memory is left for it");
    if (s->kind == NB_SET_ADDR) {
        struct nb_addr_range *at = policy_grow(&s->addrs, s->count, sizeof *at);
        if (at == NULL)
            return false;
        *at = addr;
    } else {
        struct nb_range *at = policy_grow(&s->ranges, s->count, sizeof *at);
        if (at == NULL)
            return false;
        *at = range;
    }
    s->count++;
    return true;
}

static void set_read(struct policy *p, const struct node *map, struct problems *problems) {
    const struct node *list = map->kind == NODE_MAP ? map->first : NULL;
    char why[WHY_SIZE];
    uint32_t kind;
    if (list == NULL || list->next != NULL || list->kind != NODE_LIST ||
        !policy_read_word(list->key, set_words, &kind, why)) {
        problem_add(problems, &map->place, "sets.%s: write one of addresses, ports, users, groups, and a list",
                    map->key);
        return;
    }
    if (map->key[0] == '\0' || strlen(map->key) >= NAME_SIZE) {
        problem_add(problems, &map->key_place, "sets: a name has 1 to %d bytes", NAME_SIZE - 1);
        return;
    }
    uint32_t i = set_make(p, (uint8_t)(kind > NB_SET_ID ? NB_SET_ID : kind), map->key, finder_hash_text(map->key));
    if (i == NB_NONE) {
        problem_add(problems, &map->place, "sets.%s: no memory is left for it", map->key);
        return;
    }
    for (const struct node *n = list->first; n != NULL; n = n->next) {
        if (n->kind != NODE_SCALAR)
            problem_add(problems, &n->place, "sets.%s: one value is wanted here", map->key);
        else if (!member_add(p, &p->sets[i], list->key, n->text, why))
            problem_add(problems, &n->place, "sets.%s: %s", map->key, why);
    }
    (void)nb_set_normalise(&p->sets[i]);
}

/* ---- labels ---- */

static void label_add(struct policy *p, const struct node *n, const char *name, uint32_t number,
                      struct problems *problems) {
    if (n->kind != NODE_SCALAR || n->text[0] != '/' || strlen(n->text) >= sizeof p->labels->pattern) {
        problem_add(problems, &n->place, "labels.%s: a cgroup's path is wanted here, as /system.slice/game.service",
                    name);
        return;
    }
    struct label *l = policy_grow(&p->labels, p->label_count, sizeof *l);
    if (l == NULL) {
        problem_add(problems, &n->place, "labels.%s: no memory is left for it", name);
        return;
    }
    (void)snprintf(l->name, sizeof l->name, "%s", name);
    (void)snprintf(l->pattern, sizeof l->pattern, "%s", n->text);
    l->number = number;
    p->label_count++;
}

static void labels_read(struct policy *p, const struct node *map, struct problems *problems) {
    uint32_t number = 0;
    if (map->kind != NODE_MAP)
        problem_add(problems, &map->place, "labels: a map of names is wanted here");
    for (const struct node *l = map->kind == NODE_MAP ? map->first : NULL; l != NULL; l = l->next) {
        if (l->kind != NODE_LIST || l->first == NULL || strlen(l->key) >= NAME_SIZE)
            problem_add(problems, &l->place, "labels.%.40s: a list of cgroups is wanted here", l->key);
        number++;
        for (const struct node *n = l->kind == NODE_LIST ? l->first : NULL; n != NULL; n = n->next)
            label_add(p, n, l->key, number, problems);
    }
}

/* ---- a rule as text ---- */

struct text {
    char v[1024];
    size_t len;
};

static void text_add(struct text *t, const char *more) {
    size_t n = strlen(more), room = sizeof t->v - 1 - t->len;
    n = n < room ? n : room;
    memcpy(t->v + t->len, more, n);
    t->len += n;
    t->v[t->len] = '\0';
}

static void node_text(struct text *t, const struct node *n) {
    if (n->kind == NODE_SCALAR) {
        text_add(t, n->plain ? "" : "'");
        text_add(t, n->text);
        text_add(t, n->plain ? "" : "'");
        return;
    }
    text_add(t, "[");
    for (const struct node *item = n->first; item != NULL && n->kind == NODE_LIST; item = item->next) {
        text_add(t, item->kind == NODE_SCALAR ? item->text : "");
        text_add(t, item->next != NULL ? ", " : "");
    }
    text_add(t, "]");
}

static char *rule_text(const struct node *map) {
    struct text t = {.len = 0};
    t.v[0] = '\0';
    for (const struct node *n = map->first; n != NULL; n = n->next) {
        if (strcmp(n->key, "name") == 0)
            continue;
        text_add(&t, t.len > 0 ? ", " : "");
        text_add(&t, n->key);
        text_add(&t, ": ");
        node_text(&t, n);
    }
    return strdup(t.v);
}

/* ---- rules ---- */

static uint32_t tier_of(const struct node *map, struct problems *problems) {
    const struct node *n = map->kind == NODE_MAP ? tree_get(map, "tier") : NULL;
    uint32_t tier = NB_TIER_HOST;
    char why[WHY_SIZE];
    if (n != NULL && (n->kind != NODE_SCALAR || !policy_read_word(n->text, tiers, &tier, why))) {
        if (problems != NULL)
            problem_add(problems, &n->place, "tier: platform, host or app is wanted here");
        return NB_TIER_HOST;
    }
    return tier;
}

/* A place for one more rule, zeroed; NULL without memory. Its number follows from its name, so that the same rule has
 * the same one in every revision. */
static struct nb_rule *rule_make(struct policy *p, const char *name, const struct node *map) {
    uint32_t i = p->nb.rule_count;
    struct nb_rule *r = policy_grow(&p->rules, i, sizeof *r);
    struct name *n = policy_grow(&p->rule_names, i, sizeof *n);
    char **text = policy_grow(&p->rule_texts, i, sizeof *text);
    uint32_t *line = policy_grow(&p->rule_lines, i, sizeof *line);
    uint64_t id = finder_hash_text(name);
    if (r == NULL || n == NULL || text == NULL || line == NULL || !finder_add(&p->rule_finder, id, i))
        return NULL;
    p->nb.rule_count++;
    (void)snprintf(n->text, sizeof n->text, "%s", name);
    *text = rule_text(map);
    *line = map->place.line;
    *r = (struct nb_rule){.id = id, .limit = NB_NONE, .match.owner = NB_NONE, .action.counter = NB_NONE};
    return r;
}

static void rule_read(struct policy *p, const struct node *map, struct problems *problems) {
    const struct node *name = map->kind == NODE_MAP ? tree_get(map, "name") : NULL;
    if (name == NULL || name->kind != NODE_SCALAR || name->text[0] == '\0' || strlen(name->text) >= NAME_SIZE) {
        problem_add(problems, &map->place, "rules: each has a name of 1 to %d bytes", NAME_SIZE - 1);
        return;
    }
    if (policy_rule_find(p, name->text) != NB_NONE)
        problem_add(problems, &name->place, "name: another rule is called '%s'; names are unique", name->text);
    struct nb_rule *r = rule_make(p, name->text, map);
    if (r == NULL) {
        problem_add(problems, &map->place, "rules: no memory is left");
        return;
    }
    r->tier = (uint8_t)tier_of(map, problems);
    policy_read_rule(p, map, r, problems);
}

/* The order of the file inside a tier, the tiers in theirs. */
static void rules_read(struct policy *p, const struct node *list, struct problems *problems) {
    if (list->kind != NODE_LIST) {
        problem_add(problems, &list->place, "rules: a list is wanted here");
        return;
    }
    for (uint32_t tier = 0; tier < NB_TIER_COUNT; tier++)
        for (const struct node *n = list->first; n != NULL; n = n->next)
            if (tier_of(n, NULL) == tier)
                rule_read(p, n, problems);
}

static void defaults_read(struct policy *p, const struct node *map, struct problems *problems) {
    static const char *const words[] = {"allow", "drop", "reject", NULL};
    char why[WHY_SIZE];
    for (const struct node *n = map->kind == NODE_MAP ? map->first : NULL; n != NULL; n = n->next) {
        uint32_t tier, verdict;
        if (!policy_read_word(n->key, tiers, &tier, why))
            problem_add(problems, &n->key_place, "defaults: %s", why);
        else if (n->kind != NODE_SCALAR || !policy_read_word(n->text, words, &verdict, why))
            problem_add(problems, &n->place, "defaults.%s: allow, drop or reject is wanted here", n->key);
        else
            p->nb.defaults[tier].verdict = (uint8_t)(NB_ALLOW + verdict);
    }
}

/* ---- the whole ---- */

static void keys_check(const struct node *root, struct problems *problems) {
    static const char *const words[] = {"defaults", "labels", "sets", "qos", "rules", NULL};
    char why[WHY_SIZE];
    uint32_t i;
    for (const struct node *n = root->first; n != NULL; n = n->next)
        if (!policy_read_word(n->key, words, &i, why))
            problem_add(problems, &n->key_place, "%s: a policy has defaults, labels, sets, qos and rules%s", n->key,
                        strcmp(n->key, "include") == 0 ? "; other files are not read, put what they say here" : "");
}

static void read_all(struct policy *p, const struct node *root, struct problems *problems) {
    keys_check(root, problems);
    const struct node *defaults = tree_get(root, "defaults"), *sets = tree_get(root, "sets");
    const struct node *labels = tree_get(root, "labels"), *rules = tree_get(root, "rules");
    const struct node *qos = tree_get(root, "qos");
    if (defaults != NULL)
        defaults_read(p, defaults, problems);
    if (labels != NULL)
        labels_read(p, labels, problems);
    for (const struct node *n = sets != NULL && sets->kind == NODE_MAP ? sets->first : NULL; n != NULL; n = n->next)
        set_read(p, n, problems);
    if (qos != NULL)
        policy_read_classes(p, qos, problems);
    if (rules != NULL)
        rules_read(p, rules, problems);
    p->nb.rules = p->rules;
    p->nb.sets = p->sets;
    p->nb.owners = p->owners;
    p->nb.limits = p->limits;
}

static int policy_make(const struct node *root, uint32_t flags, struct policy **ret, struct problems *problems) {
    struct policy *p = calloc(1, sizeof *p);
    if (p == NULL)
        return -ENOMEM;
    p->flags = flags;
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++)
        p->nb.defaults[t] = (struct nb_action){.verdict = NB_ALLOW, .counter = NB_NONE};
    read_all(p, root, problems);
    char err[WHY_SIZE];
    if (problems->count == 0 && nb_policy_check(&p->nb, err, sizeof err) != 0)
        problem_add(problems, &root->place, "%s", err);
    if (problems->count != 0) {
        policy_destroy(p);
        return -EINVAL;
    }
    *ret = p;
    return 0;
}

int policy_parse(const char *name, const char *text, size_t size, uint32_t flags, struct policy **ret,
                 struct problems *problems) {
    struct tree *t;
    int err = tree_create(&t);
    if (err != 0)
        return err;
    tree_limits_set(t, POLICY_TEXT_MAX, POLICY_VALUE_MAX);
    const struct node *root = tree_parse(t, name, text, size, problems);
    err = root == NULL ? -EINVAL : policy_make(root, flags, ret, problems);
    tree_destroy(t);
    return err;
}

int policy_read_file(const char *path, char **ret_text, size_t *ret_size, struct problems *problems) {
    const struct place whole = {path, 0, 0};
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        problem_add(problems, &whole, "cannot be opened: %s", strerror(errno));
        return -EINVAL;
    }
    /* One byte more than allowed, so that "too large" is seen without asking for the size. */
    char *text = malloc(POLICY_TEXT_MAX + 1u);
    size_t size = text != NULL ? fread(text, 1, POLICY_TEXT_MAX + 1u, f) : 0;
    bool good = text != NULL && !ferror(f);
    (void)fclose(f);
    if (!good || size > POLICY_TEXT_MAX) {
        if (good)
            problem_add(problems, &whole, "larger than %u bytes; make it smaller", POLICY_TEXT_MAX);
        else
            problem_add(problems, &whole, "cannot be read: %s", strerror(text == NULL ? ENOMEM : errno));
        free(text);
        return -EINVAL;
    }
    char *less = realloc(text, size + 1);
    *ret_text = less != NULL ? less : text;
    *ret_size = size;
    return 0;
}

void policy_destroy(struct policy *p) {
    if (p == NULL)
        return;
    for (uint32_t i = 0; i < p->nb.set_count; i++)
        free(p->sets[i].kind == NB_SET_ADDR ? (void *)p->sets[i].addrs : (void *)p->sets[i].ranges);
    for (uint32_t i = 0; i < p->nb.rule_count; i++)
        free(p->rule_texts[i]);
    finder_free(&p->rule_finder);
    finder_free(&p->set_finder);
    finder_free(&p->owner_finder);
    finder_free(&p->counter_finder);
    free(p->sets);
    free(p->set_names);
    free(p->rules);
    free(p->rule_names);
    free(p->rule_texts);
    free(p->rule_lines);
    free(p->labels);
    free(p->owners);
    free(p->limits);
    free(p->counters);
    free(p->classes.v);
    free(p);
}

const struct nb_policy *policy_rules(const struct policy *p) {
    return &p->nb;
}

const char *policy_rule_name(const struct policy *p, uint32_t rule) {
    return rule < p->nb.rule_count ? p->rule_names[rule].text : NULL;
}

const char *policy_rule_text(const struct policy *p, uint32_t rule) {
    return rule < p->nb.rule_count && p->rule_texts[rule] != NULL ? p->rule_texts[rule] : "";
}

uint32_t policy_rule_line(const struct policy *p, uint32_t rule) {
    return rule < p->nb.rule_count ? p->rule_lines[rule] : 0;
}

uint32_t policy_rule_find(const struct policy *p, const char *name) {
    return finder_get(&p->rule_finder, finder_hash_text(name), same_name, p->rule_names, name);
}

uint32_t policy_set_find(const struct policy *p, const char *name) {
    return finder_get(&p->set_finder, finder_hash_text(name), same_name, p->set_names, name);
}

static bool same_id(const void *rules, uint32_t index, const void *wanted) {
    return ((const struct nb_rule *)rules)[index].id == *(const uint64_t *)wanted;
}

uint32_t policy_rule_find_id(const struct policy *p, uint64_t id) {
    return finder_get(&p->rule_finder, id, same_id, p->rules, &id);
}

const char *policy_set_name(const struct policy *p, uint32_t set) {
    return set < p->nb.set_count ? p->set_names[set].text : "";
}

const char *policy_tier_name(uint32_t tier) {
    return tier < NB_TIER_COUNT ? tiers[tier] : "";
}

const char *policy_verdict_name(uint32_t verdict) {
    return verdict <= NB_REJECT ? verdicts[verdict] : "";
}

void policy_revision_set(struct policy *p, uint64_t revision) {
    p->nb.revision = revision;
}

uint32_t policy_absent(const struct policy *p, const char **ret_first) {
    *ret_first = p->absent_first;
    return p->absent;
}

uint32_t policy_counter_find(const struct policy *p, const char *name) {
    return finder_get(&p->counter_finder, finder_hash_text(name), same_name, p->counters, name);
}

const char *policy_counter_name(const struct policy *p, uint32_t counter) {
    return counter < p->nb.counter_count ? p->counters[counter].text : NULL;
}

/* Ids of the cgroup and those above it, from the root down; a cgroup's id is its folder's inode. */
static void cgroups(const char *path, struct nb_owner *o) {
    char folder[320];
    int n = snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", path);
    size_t at = strlen("/sys/fs/cgroup");
    if (path[0] != '/' || n >= (int)sizeof folder)
        return;
    for (uint32_t i = 0; i < NB_CGROUP_DEPTH; i++) {
        struct stat st;
        char *slash = strchr(folder + at + (i == 0 ? 0 : 1), '/');
        size_t end = slash != NULL ? (size_t)(slash - folder) : strlen(folder);
        char kept = folder[end];
        folder[end] = '\0';
        o->cgroup[i] = stat(folder, &st) == 0 ? st.st_ino : 0;
        folder[end] = kept;
        if (o->cgroup[i] == 0 || kept == '\0' || folder[end + 1] == '\0')
            return;
        at = end;
    }
}

/* Does the pattern fit the path, or a cgroup above it? */
static bool is_below(const char *pattern, const char *path) {
    char part[sizeof((struct owner *)0)->cgroup];
    (void)snprintf(part, sizeof part, "%s", path);
    while (part[0] == '/' && fnmatch(pattern, part, FNM_PATHNAME) != 0)
        *strrchr(part, '/') = '\0';
    return part[0] == '/';
}

static uint32_t label_of(const struct policy *p, const char *cgroup) {
    for (uint32_t i = 0; i < p->label_count; i++)
        if (is_below(p->labels[i].pattern, cgroup))
            return p->labels[i].number;
    return 0;
}

void policy_owner(const struct policy *p, const struct owner *from, struct nb_owner *o) {
    *o = (struct nb_owner){.uid = from->uid,
                           .gid = from->gid,
                           .pid = from->pid,
                           .label = label_of(p, from->cgroup),
                           .exe_dev = from->exe_dev,
                           .exe_inode = from->exe_ino};
    o->group_count = from->group_count < NB_GROUP_MAX ? from->group_count : NB_GROUP_MAX;
    memcpy(o->groups, from->groups, o->group_count * sizeof o->groups[0]);
    memcpy(o->comm, from->comm, sizeof o->comm);
    cgroups(from->cgroup, o);
}
