/* SPDX-License-Identifier: Apache-2.0
 *
 * See classes.h. What the engine would refuse is refused here, where its line is known.
 */
#include "control/policy/classes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/config/schema.h"
#include "control/identity/owner.h"
#include "control/policy/policy_internal.h"
#include "engines/qos/qos_cmd.h"

#define AT(type, member) .offset = offsetof(struct type, member), .size = sizeof(((struct type *)0)->member)
#define END                                                                                                            \
    { .name = NULL }
#define RATE(member_name)                                                                                              \
    .type = FIELD_RATE, AT(class_read, member_name), .min = 8 * QOS_RATE_MIN, .max = 8 * QOS_RATE_MAX, .unit = "bit/s"
#define PATH_SIZE 96

const char *const class_eachs[] = {
    [QOS_EACH_FLOW] = "flow",       [QOS_EACH_USER] = "user", [QOS_EACH_CGROUP] = "cgroup",
    [QOS_EACH_PROGRAM] = "program", [QOS_EACHES] = NULL,
};

/* A class as it stands in the file. */
struct class_read {
    char name[CLASS_NAME_SIZE], user[CLASS_NAME_SIZE], cgroup[CLASS_CGROUP_SIZE];
    uint32_t weight, each;
    uint64_t guarantee, ceiling, burst, queue;
    const struct node *classes;
};

static const struct field class_fields[] = {
    {.name = "name", .type = FIELD_TEXT, AT(class_read, name), .min = 1, .def = ""},
    {.name = "weight", .type = FIELD_U32, AT(class_read, weight), .min = 1, .max = QOS_WEIGHT_MAX, .def = "1"},
    {.name = "each", .type = FIELD_CHOICE, AT(class_read, each), .choices = class_eachs, .def = "flow"},
    {.name = "guarantee", RATE(guarantee), .def = "0"},
    {.name = "ceiling", RATE(ceiling), .def = "0"},
    {.name = "burst", .type = FIELD_SIZE, AT(class_read, burst), .min = 1514, .max = 1u << 30, .def = "0"},
    {.name = "queue", .type = FIELD_SIZE, AT(class_read, queue), .min = 1514, .max = 1u << 30, .def = "0"},
    {.name = "user", .type = FIELD_TEXT, AT(class_read, user), .min = 1, .def = ""},
    {.name = "cgroup", .type = FIELD_TEXT, AT(class_read, cgroup), .min = 1, .def = ""},
    {.name = "classes", .type = FIELD_TREE, AT(class_read, classes)},
    END,
};

struct qos_read {
    uint64_t rate;
    uint32_t overhead;
    char fallback[CLASS_NAME_SIZE];
    struct class_interface interface[CLASS_INTERFACE_MAX];
    uint32_t interface_count;
    const struct node *classes;
};

static const struct field qos_fields[] = {
    {.name = "rate",
     .type = FIELD_RATE,
     AT(qos_read, rate),
     .min = 8 * QOS_RATE_MIN,
     .max = 8 * QOS_RATE_MAX,
     .unit = "bit/s",
     .def = "0"},
    {.name = "overhead", .type = FIELD_U32, AT(qos_read, overhead), .max = 1024, .unit = "bytes", .def = "24"},
    {.name = "default", .type = FIELD_TEXT, AT(qos_read, fallback), .min = 1, .def = ""},
    {.name = "interfaces",
     .type = FIELD_TEXT,
     .offset = offsetof(struct qos_read, interface),
     .size = sizeof(struct class_interface),
     .min = 1,
     .item_max = CLASS_INTERFACE_MAX,
     .count_offset = offsetof(struct qos_read, interface_count)},
    {.name = "classes", .type = FIELD_TREE, AT(qos_read, classes)},
    END,
};

/* ---- the tree ---- */

static uint32_t by_name(const struct classes *c, const char *name) {
    for (uint32_t i = 1; i < c->count; i++)
        if (strcmp(c->v[i].name, name) == 0)
            return i;
    return CLASS_NONE;
}

static struct class_spec *class_add(struct policy *p, const char *name, uint32_t parent) {
    struct classes *c = &p->classes;
    struct class_spec *s = policy_grow(&c->v, c->count, sizeof *s);
    if (s == NULL)
        return NULL;
    *s =
        (struct class_spec){.parent = parent, .users = NB_NONE, .weight = 1, .depth = 1, .key = finder_hash_text(name)};
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    c->count++;
    if (parent != CLASS_NONE) {
        c->v[parent].children++;
        s->depth = c->v[parent].depth + 1;
        s->picky = c->v[parent].picky;
    }
    return s;
}

static void users_read(struct policy *p, const struct node *map, const char *text, uint32_t *ret_set,
                       struct problems *problems) {
    const struct node *at = tree_get(map, "user");
    char why[WHY_SIZE] = "no memory is left for it";
    struct nb_range range;
    bool absent;
    *ret_set = NB_NONE;
    if (text[0] == '@')
        *ret_set = policy_find_set(p, text + 1, NB_SET_ID, why);
    else if (policy_read_id(text, false, &range, &absent, why))
        *ret_set = policy_add_ids(p, &range);
    else if (absent && policy_absent_note(p, why))
        *ret_set = policy_add_ids(p, NULL);
    if (*ret_set == NB_NONE && at != NULL)
        problem_add(problems, &at->place, "user: %s", why);
}

static void classes_read(struct policy *p, uint32_t parent, const struct node *list, const char *path,
                         struct problems *problems);

static const char *class_wrong(const struct policy *p, const struct class_read *r, uint32_t parent) {
    if (r->name[0] == '\0')
        return "a class has a name";
    if (by_name(&p->classes, r->name) != CLASS_NONE)
        return "another class has this name; names are unique";
    if (p->classes.count >= CLASS_MAX - 1)
        return "there are too many classes";
    if (p->classes.v[parent].depth + 1 > QOS_DEPTH_MAX)
        return "the tree of classes is too deep";
    if (r->cgroup[0] != '\0' && r->cgroup[0] != '/')
        return "a cgroup is a path below /sys/fs/cgroup and begins with /";
    if (r->each != QOS_EACH_FLOW && r->classes != NULL)
        return "'each' is for a class that has packets, not classes of its own";
    if (r->ceiling != 0 && r->guarantee > r->ceiling)
        return "its guarantee is above its ceiling";
    return NULL;
}

static void class_read(struct policy *p, uint32_t parent, const struct node *map, const char *path,
                       struct problems *problems) {
    struct class_read r = {.name = ""}; /* what is not in the file, and has no default that it may be set to */
    char sub_path[PATH_SIZE];
    if (map->kind != NODE_MAP) {
        problem_add(problems, &map->place, "%s: a class is wanted here, as {name: games, weight: 2}", path);
        return;
    }
    (void)snprintf(sub_path, sizeof sub_path, "%.90s.", path);
    schema_defaults(class_fields, &r);
    schema_read(class_fields, map, &r, sub_path, problems);
    const char *wrong = class_wrong(p, &r, parent);
    struct class_spec *s = wrong == NULL ? class_add(p, r.name, parent) : NULL;
    if (s == NULL) {
        problem_add(problems, &map->place, "%s: %s", path, wrong != NULL ? wrong : "no memory is left for it");
        return;
    }
    uint32_t id = p->classes.count - 1;
    s->weight = r.weight;
    s->each = r.each;
    s->guarantee = r.guarantee / 8;
    s->ceiling = r.ceiling / 8;
    s->burst = r.burst;
    s->queue = r.queue;
    s->picky |= r.user[0] != '\0' || r.cgroup[0] != '\0';
    (void)snprintf(s->cgroup, sizeof s->cgroup, "%s", r.cgroup);
    (void)snprintf(s->user, sizeof s->user, "%s", r.user);
    if (r.user[0] != '\0')
        users_read(p, map, r.user, &s->users, problems);
    if (r.classes != NULL)
        classes_read(p, id, r.classes, sub_path, problems);
}

static void classes_read(struct policy *p, uint32_t parent, const struct node *list, const char *path,
                         struct problems *problems) {
    char item_path[PATH_SIZE];
    uint32_t i = 0;
    if (list->kind != NODE_LIST) {
        problem_add(problems, &list->place, "%sclasses: a list is wanted here", path);
        return;
    }
    for (const struct node *n = list->first; n != NULL; n = n->next) {
        (void)snprintf(item_path, sizeof item_path, "%.70sclasses[%u]", path, i++);
        class_read(p, parent, n, item_path, problems);
    }
}

/* ---- the whole ---- */

/* Children come behind their parents. */
static void guarantees_check(const struct classes *c, const struct place *at, struct problems *problems) {
    uint64_t *below = calloc(c->count, sizeof *below);
    for (uint32_t i = c->count; below != NULL && i-- > 0;) {
        const struct class_spec *s = &c->v[i];
        uint64_t sum = below[i] > s->guarantee ? below[i] : s->guarantee;
        if (s->ceiling != 0 && sum > s->ceiling)
            problem_add(problems, at, "qos: classes below '%s' are guaranteed %llu bit/s together, its ceiling is %llu",
                        s->name, (unsigned long long)sum * 8, (unsigned long long)s->ceiling * 8);
        if (i > 0)
            below[s->parent] += sum;
    }
    free(below);
}

static void fallback_choose(struct policy *p, const struct node *map, const char *name, struct problems *problems) {
    struct classes *c = &p->classes;
    if (name[0] == '\0' && by_name(c, "default") == CLASS_NONE) {
        c->fallback = c->count;
        if (class_add(p, "default", 0) == NULL)
            problem_add(problems, &map->place, "qos: no memory is left for it");
        return;
    }
    c->fallback = classes_find(c, name[0] != '\0' ? name : "default");
    if (c->fallback == CLASS_NONE)
        problem_add(problems, &map->place, "qos.default: '%s' is no class that has packets; name one of classes:",
                    name[0] != '\0' ? name : "default");
}

void policy_read_classes(struct policy *p, const struct node *map, struct problems *problems) {
    struct qos_read r = {.rate = 0};
    if (map->kind != NODE_MAP) {
        problem_add(problems, &map->place, "qos: write rate, default and classes");
        return;
    }
    schema_defaults(qos_fields, &r);
    schema_read(qos_fields, map, &r, "qos.", problems);
    struct class_spec *root = class_add(p, "root", CLASS_NONE);
    if (root == NULL) {
        problem_add(problems, &map->place, "qos: no memory is left for it");
        return;
    }
    root->ceiling = r.rate / 8;
    p->classes.overhead = r.overhead;
    p->classes.interface_count = r.interface_count;
    memcpy(p->classes.interface, r.interface, sizeof r.interface);
    if (r.classes != NULL)
        classes_read(p, 0, r.classes, "qos.", problems);
    fallback_choose(p, map, r.fallback, problems);
    guarantees_check(&p->classes, &map->place, problems);
}

/* ---- asking ---- */

const struct classes *policy_classes(const struct policy *p) {
    return &p->classes;
}

uint32_t classes_find(const struct classes *c, const char *name) {
    uint32_t i = by_name(c, name);
    return i != CLASS_NONE && c->v[i].children == 0 ? i : CLASS_NONE;
}

static bool cgroup_fits(const char *wanted, const char *cgroup) {
    size_t n = strlen(wanted);
    while (n > 0 && wanted[n - 1] == '/')
        n--;
    return strncmp(wanted, cgroup, n) == 0 && cgroup[0] == '/' && (cgroup[n] == '\0' || cgroup[n] == '/' || n == 0);
}

static bool class_fits(const struct policy *p, const struct class_spec *s, const struct owner *owner) {
    if (s->users != NB_NONE && !nb_set_has(&p->nb.sets[s->users], owner->uid))
        return false;
    return s->cgroup[0] == '\0' || cgroup_fits(s->cgroup, owner->cgroup);
}

uint32_t policy_class_of(const struct policy *p, const struct owner *owner) {
    const struct classes *c = &p->classes;
    for (uint32_t id = 1; id < c->count; id++) {
        uint32_t at = id;
        if (c->v[id].children > 0 || !c->v[id].picky)
            continue;
        while (at != CLASS_NONE && class_fits(p, &c->v[at], owner))
            at = c->v[at].parent;
        if (at == CLASS_NONE)
            return id;
    }
    return CLASS_NONE;
}
