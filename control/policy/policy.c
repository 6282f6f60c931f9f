/* SPDX-License-Identifier: Apache-2.0
 *
 * A policy file as a whole: defaults, sets, rules in their tiers; at the end the check that every policy passes.
 */
#include "control/policy/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "control/identity/owner.h"
#include "control/policy/policy_internal.h"

static const char *const tiers[] = {"platform", "host", "app", NULL};

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

uint32_t policy_find_set(const struct policy *p, const char *name, uint8_t kind, char *why) {
    static const char *const kinds[] = {"addresses", "ports", "users or groups"};
    (void)snprintf(why, WHY_SIZE, "no set '%.60s'; define it under sets:", name);
    for (uint32_t i = 0; i < p->nb.set_count; i++) {
        if (p->set_names[i].text[0] == '\0' || strcmp(p->set_names[i].text, name) != 0)
            continue;
        if (p->sets[i].kind == kind)
            return i;
        (void)snprintf(why, WHY_SIZE, "set '%.60s' has %s; %s are wanted here", name, kinds[p->sets[i].kind],
                       kinds[kind]);
    }
    return NB_NONE;
}

static uint32_t set_make(struct policy *p, uint8_t kind, const char *name) {
    uint32_t i = p->nb.set_count;
    struct nb_set *s = policy_grow(&p->sets, i, sizeof *s);
    struct name *n = policy_grow(&p->set_names, i, sizeof *n);
    if (s == NULL || n == NULL)
        return NB_NONE;
    s->kind = kind;
    (void)snprintf(n->text, sizeof n->text, "%s", name);
    p->nb.set_count++;
    return i;
}

uint32_t policy_add_set(struct policy *p, uint8_t kind, const struct nb_range *range) {
    uint32_t i = set_make(p, kind, "");
    struct nb_range *r = i == NB_NONE ? NULL : malloc(sizeof *r);
    if (r == NULL)
        return NB_NONE;
    *r = *range;
    p->sets[i].ranges = r;
    p->sets[i].count = 1;
    return i;
}

static bool member_read(struct nb_set *s, const char *field, const char *text, char *why) {
    if (s->kind == NB_SET_ADDR) {
        struct nb_addr_range r, *at;
        if (!policy_read_addr(text, &r, why) || (at = policy_grow(&s->addrs, s->count, sizeof *at)) == NULL)
            return false;
        *at = r;
    } else {
        struct nb_range r, *at;
        bool good = s->kind == NB_SET_PORT ? policy_read_range(text, 65535, &r, why)
                                           : policy_read_id(text, strcmp(field, "groups") == 0, &r, why);
        if (!good || (at = policy_grow(&s->ranges, s->count, sizeof *at)) == NULL)
            return false;
        *at = r;
    }
    s->count++;
    return true;
}

static void set_read(struct policy *p, const struct node *map, struct problems *problems) {
    static const char *const words[] = {"addresses", "ports", "users", "groups", NULL};
    const struct node *list = map->kind == NODE_MAP ? map->first : NULL;
    char why[WHY_SIZE];
    uint32_t kind;
    if (list == NULL || list->next != NULL || list->kind != NODE_LIST ||
        !policy_read_word(list->key, words, &kind, why)) {
        problem_add(problems, &map->place, "sets.%s: write one of addresses, ports, users, groups, and a list",
                    map->key);
        return;
    }
    if (strlen(map->key) >= NAME_SIZE) {
        problem_add(problems, &map->key_place, "sets: a name has at most %d bytes", NAME_SIZE - 1);
        return;
    }
    uint32_t i = set_make(p, (uint8_t)(kind > NB_SET_ID ? NB_SET_ID : kind), map->key);
    for (const struct node *n = list->first; n != NULL && i != NB_NONE; n = n->next) {
        if (n->kind != NODE_SCALAR)
            problem_add(problems, &n->place, "sets.%s: one value is wanted here", map->key);
        else if (!member_read(&p->sets[i], list->key, n->text, why))
            problem_add(problems, &n->place, "sets.%s: %s", map->key, why);
    }
    if (i != NB_NONE)
        (void)nb_set_normalise(&p->sets[i]);
}

/* ---- rules ---- */

/* FNV-1a over the name: the same rule has the same number in every revision. */
static uint64_t id_of(const char *name) {
    uint64_t h = 0xcbf29ce484222325ull;
    for (; *name != '\0'; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3ull;
    return h;
}

static bool name_known(const struct policy *p, const char *name) {
    for (uint32_t i = 0; i < p->nb.rule_count; i++)
        if (strcmp(p->rule_names[i].text, name) == 0)
            return true;
    return false;
}

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

static void rule_read(struct policy *p, const struct node *map, struct problems *problems) {
    const struct node *name = map->kind == NODE_MAP ? tree_get(map, "name") : NULL;
    if (name == NULL || name->kind != NODE_SCALAR || name->text[0] == '\0' || strlen(name->text) >= NAME_SIZE) {
        problem_add(problems, &map->place, "rules: each has a name of 1 to %d bytes", NAME_SIZE - 1);
        return;
    }
    if (name_known(p, name->text))
        problem_add(problems, &name->place, "name: another rule is called '%s'; names are unique", name->text);
    uint32_t i = p->nb.rule_count;
    struct nb_rule *r = policy_grow(&p->rules, i, sizeof *r);
    struct name *n = policy_grow(&p->rule_names, i, sizeof *n);
    if (r == NULL || n == NULL) {
        problem_add(problems, &map->place, "rules: no memory is left");
        return;
    }
    p->nb.rule_count++;
    (void)snprintf(n->text, sizeof n->text, "%s", name->text);
    *r = (struct nb_rule){.id = id_of(name->text),
                          .tier = (uint8_t)tier_of(map, problems),
                          .limit = NB_NONE,
                          .match.owner = NB_NONE,
                          .action.counter = NB_NONE};
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
    static const char *const verdicts[] = {"allow", "drop", "reject", NULL};
    char why[WHY_SIZE];
    for (const struct node *n = map->kind == NODE_MAP ? map->first : NULL; n != NULL; n = n->next) {
        uint32_t tier, verdict;
        if (!policy_read_word(n->key, tiers, &tier, why))
            problem_add(problems, &n->key_place, "defaults: %s", why);
        else if (n->kind != NODE_SCALAR || !policy_read_word(n->text, verdicts, &verdict, why))
            problem_add(problems, &n->place, "defaults.%s: allow, drop or reject is wanted here", n->key);
        else
            p->nb.defaults[tier].verdict = (uint8_t)(NB_ALLOW + verdict);
    }
}

/* ---- the whole ---- */

static void read_all(struct policy *p, const struct node *root, struct problems *problems) {
    for (const struct node *n = root->first; n != NULL; n = n->next)
        if (strcmp(n->key, "defaults") != 0 && strcmp(n->key, "sets") != 0 && strcmp(n->key, "rules") != 0)
            problem_add(problems, &n->key_place, "%s: a policy has defaults, sets and rules", n->key);
    const struct node *defaults = tree_get(root, "defaults"), *sets = tree_get(root, "sets");
    const struct node *rules = tree_get(root, "rules");
    if (defaults != NULL)
        defaults_read(p, defaults, problems);
    for (const struct node *n = sets != NULL && sets->kind == NODE_MAP ? sets->first : NULL; n != NULL; n = n->next)
        set_read(p, n, problems);
    if (rules != NULL)
        rules_read(p, rules, problems);
    p->nb.rules = p->rules;
    p->nb.sets = p->sets;
    p->nb.owners = p->owners;
    p->nb.limits = p->limits;
}

static int policy_make(const struct node *root, struct policy **ret, struct problems *problems) {
    struct policy *p = calloc(1, sizeof *p);
    if (p == NULL)
        return -ENOMEM;
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

int policy_parse(const char *name, const char *text, size_t size, struct policy **ret, struct problems *problems) {
    struct tree *t;
    int err = tree_create(&t);
    if (err != 0)
        return err;
    const struct node *root = tree_parse(t, name, text, size, problems);
    err = root == NULL ? -EINVAL : policy_make(root, ret, problems);
    tree_destroy(t);
    return err;
}

int policy_load(const char *path, struct policy **ret, struct problems *problems) {
    struct tree *t;
    int err = tree_create(&t);
    if (err != 0)
        return err;
    const struct node *root = tree_load(t, path, problems);
    err = root == NULL ? -EINVAL : policy_make(root, ret, problems);
    tree_destroy(t);
    return err;
}

void policy_destroy(struct policy *p) {
    if (p == NULL)
        return;
    for (uint32_t i = 0; i < p->nb.set_count; i++)
        free(p->sets[i].kind == NB_SET_ADDR ? (void *)p->sets[i].addrs : (void *)p->sets[i].ranges);
    free(p->sets);
    free(p->set_names);
    free(p->rules);
    free(p->rule_names);
    free(p->owners);
    free(p->limits);
    free(p->counters);
    free(p);
}

const struct nb_policy *policy_rules(const struct policy *p) {
    return &p->nb;
}

const char *policy_rule_name(const struct policy *p, uint32_t rule) {
    return rule < p->nb.rule_count ? p->rule_names[rule].text : NULL;
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

void policy_owner(const struct owner *from, struct nb_owner *o) {
    *o = (struct nb_owner){
        .uid = from->uid, .gid = from->gid, .pid = from->pid, .exe_dev = from->exe_dev, .exe_inode = from->exe_ino};
    o->group_count = from->group_count < NB_GROUP_MAX ? from->group_count : NB_GROUP_MAX;
    memcpy(o->groups, from->groups, o->group_count * sizeof o->groups[0]);
    memcpy(o->comm, from->comm, sizeof o->comm);
    cgroups(from->cgroup, o);
}
