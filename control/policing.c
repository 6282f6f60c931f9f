/* SPDX-License-Identifier: Apache-2.0
 *
 * See policing.h.
 */
#include "control/policing.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/coverage.h"
#include "control/identity/owner.h"
#include "control/log.h"
#include "control/nic.h"
#include "control/policy/classes.h"
#include "control/policy/classes_install.h"
#include "control/policy/history.h"
#include "control/policy/install.h"
#include "control/usherd.h"
#include "engines/filter/filter_image.h"
#include "nicbackend/cover.h"

struct policing {
    struct usherd *u;
    struct history *history;
    struct policy *now;                            /* NULL: there is none */
    uint64_t revision, before;                     /* before: in force until this one came */
    bool open;                                     /* the filter engine is in the packets' way */
    const struct policy *counted;                  /* whose rules and counters these are for: */
    struct filter_count *rule_base, *counter_base; /* what earlier revisions have counted */
    /* a change that waits to be confirmed: */
    sd_event_source *timer;
    uint64_t confirm_by;
    struct policy *back; /* what comes back; NULL: the empty policy does */
    struct problems problems;
};

__attribute__((format(printf, 3, 4))) static int fail(struct policing_error *err, int error, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    return error;
}

static uint64_t now_unix_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- counts ---- */

/* What `old` and those before it have counted, in the places that `new` has for the same names. */
static struct filter_count *carry(struct policing *p, const struct policy *old, const struct policy *new, bool named) {
    const struct nb_policy *from = policy_rules(old), *to = policy_rules(new);
    uint32_t n = named ? from->counter_count : from->rule_count, m = named ? to->counter_count : to->rule_count;
    struct filter_count *counts = named ? p->counter_base : p->rule_base;
    struct filter_count *ret = calloc(m + 1u, sizeof *ret);
    if (ret == NULL || counts == NULL)
        return ret;
    (void)policy_counts_add(p->u->rt, true, named, n, counts);
    for (uint32_t i = 0; i < m; i++) {
        uint32_t k = named ? policy_counter_find(old, policy_counter_name(new, i))
                           : policy_rule_find(old, policy_rule_name(new, i));
        if (k != NB_NONE)
            ret[i] = counts[k];
    }
    return ret;
}

static struct filter_count *none(uint32_t count) {
    return calloc(count + 1u, sizeof(struct filter_count));
}

static void counts_turn(struct policing *p, const struct policy *new) {
    const struct nb_policy *to = policy_rules(new);
    const struct policy *old = p->counted;
    struct filter_count *rules = old != NULL ? carry(p, old, new, false) : none(to->rule_count);
    struct filter_count *counters = old != NULL ? carry(p, old, new, true) : none(to->counter_count);
    free(p->rule_base);
    free(p->counter_base);
    p->rule_base = rules;
    p->counter_base = counters;
    p->counted = new;
}

struct nic_adding {
    const struct nb_policy *policy;
    bool named;
    struct filter_count *counts;
};

static void nic_count_add(void *arg, uint32_t rule, uint64_t packets, uint64_t bytes) {
    const struct nic_adding *a = arg;
    uint32_t at = a->named ? a->policy->rules[rule].action.counter : rule;
    if (at == NB_NONE)
        return;
    a->counts[at].packets += packets;
    a->counts[at].bytes += bytes;
}

int policing_counts(const struct policing *p, bool named, struct filter_count *counts) {
    const struct filter_count *base = named ? p->counter_base : p->rule_base;
    if (p->now == NULL)
        return 0;
    const struct nb_policy *nb = policy_rules(p->now);
    uint32_t n = named ? nb->counter_count : nb->rule_count;
    if (base != NULL)
        memcpy(counts, base, n * sizeof *counts);
    struct nic_adding adding = {nb, named, counts};
    nic_counts(p->u->nic, nic_count_add, &adding);
    return policy_counts_add(p->u->rt, false, named, n, counts);
}

/* For NICs, which give their tables to the rules with most of them. */
static int rule_packets(void *arg, uint64_t *ret_packets, uint32_t rules) {
    const struct policing *p = arg;
    uint32_t count = p->now != NULL ? policy_rules(p->now)->rule_count : 0;
    struct filter_count *counts = calloc(count + 1u, sizeof *counts);
    int error = counts == NULL ? -ENOMEM : count != rules ? -ESTALE : policing_counts(p, false, counts);
    for (uint32_t i = 0; error == 0 && i < count; i++)
        ret_packets[i] = counts[i].packets;
    free(counts);
    return error;
}

/* ---- bringing one into force ---- */

struct installing {
    struct policing *p;
    const struct policy *policy;
};

static uint32_t owner_max(const struct usherd *u) {
    return u->owners != NULL ? OWNERS_PER_SESSION * u->cfg.sessions.max + 1 : 0;
}

/* Between two bursts of every shard. From the first policy on, packets pass the filter engine. */
static int install(void *arg) {
    const struct installing *i = arg;
    struct usherd *u = i->p->u;
    uint32_t engine;
    int error = policy_install(u->rt, i->policy, u->owners, owner_max(u));
    if (error == 0 && !i->p->open)
        error = runtime_engine_find(u->rt, "filter", &engine);
    if (error == 0 && !i->p->open)
        error = runtime_stage_set(u->rt, engine, true);
    i->p->open = i->p->open || error == 0;
    return error;
}

/* In software and in NICs. */
static int force(struct policing *p, struct policy *policy, uint64_t revision, struct policing_error *err) {
    struct installing i = {p, policy};
    policy_revision_set(policy, revision);
    int error = nic_change(p->u->nic, policy, install, &i);
    if (error == -EFBIG)
        return fail(err, error,
                    "the policy's %u rules and its sets need more memory than the filter engine has for one; "
                    "nothing was changed. Use sets and ranges for rules that differ in a value",
                    policy_rules(policy)->rule_count);
    if (error != 0)
        return fail(err, error, "a worker did not take the policy: %s; nothing was changed. Look at its load",
                    strerror(-error));
    counts_turn(p, policy);
    coverage_policy(p->u, policy);
    return 0;
}

static void became(struct policing *p, struct policy *policy, uint64_t revision) {
    if (p->back != p->now)
        policy_destroy(p->now);
    p->now = policy;
    if (revision != p->revision)
        p->before = p->revision;
    p->revision = revision;
}

static void wait_end(struct policing *p) {
    p->timer = sd_event_source_disable_unref(p->timer);
    p->confirm_by = 0;
    if (p->back != p->now)
        policy_destroy(p->back);
    p->back = NULL;
}

/* The policy that lets everything pass: what comes back when there was none before. */
static struct policy *empty_policy(void) {
    static struct problems problems;
    struct policy *policy = NULL;
    problems.count = 0;
    (void)policy_parse("empty", "", 0, 0, &policy, &problems);
    return policy;
}

static int go_back(struct policing *p, struct policing_error *err) {
    struct policy *policy = p->back != NULL ? p->back : empty_policy();
    uint64_t revision = p->before;
    if (policy == NULL)
        return fail(err, -ENOMEM, "no memory is left to go back");
    int error = force(p, policy, revision, err);
    if (error != 0) {
        if (policy != p->back)
            policy_destroy(policy);
        return error;
    }
    p->back = NULL;
    became(p, policy, revision);
    wait_end(p);
    return 0;
}

static int on_unconfirmed(sd_event_source *source, uint64_t usec, void *arg) {
    struct policing *p = arg;
    struct policing_error err;
    uint64_t was = p->revision;
    (void)source;
    (void)usec;
    if (go_back(p, &err) != 0)
        log_error("policy", "revision %" PRIu64 " was not confirmed and cannot be taken back: %s", was, err.text);
    else
        log_warning("policy", "revision %" PRIu64 " was not confirmed in time; revision %" PRIu64 " is in force again",
                    was, p->revision);
    return 0;
}

static int wait_begin(struct policing *p, uint64_t ns) {
    int error = sd_event_add_time_relative(p->u->event, &p->timer, CLOCK_BOOTTIME, ns / 1000, 0, on_unconfirmed, p);
    p->confirm_by = error >= 0 ? now_unix_ns() + ns : 0;
    return error;
}

/* ---- changes ---- */

static int change_check(const struct policing *p, const struct policing_change *c, struct policing_error *err) {
    if (c->expects && c->expected != p->revision)
        return fail(err, -ESTALE,
                    "revision %" PRIu64 " is in force, not %" PRIu64 ": somebody changed the policy meanwhile. Look at "
                    "it and apply again",
                    p->revision, c->expected);
    if (p->timer != NULL)
        return fail(err, -EBUSY, "revision %" PRIu64 " waits to be confirmed; confirm it or roll it back first",
                    p->revision);
    return 0;
}

struct first_gap {
    const struct policy *policy;
    struct policing_error *err;
    uint32_t count;
};

static void gap_note(void *arg, uint32_t rule, const char *why) {
    struct first_gap *f = arg;
    const char *name = policy_rule_name(f->policy, rule);
    if (f->count++ == 0 && name != NULL)
        (void)fail(f->err, 0, "rule %s would be open for kernel sockets: %s", name, why);
    else if (f->count == 1)
        (void)fail(f->err, 0, "no rule would judge kernel sockets: %s", why);
}

static int gaps_check(const struct policy *policy, uint32_t max, struct policing_error *err) {
    struct first_gap f = {policy, err, 0};
    if (max == UINT32_MAX || nb_cover_gaps(policy_rules(policy), gap_note, &f) <= max)
        return 0;
    size_t n = strlen(err->text);
    (void)snprintf(err->text + n, sizeof err->text - n, "%s; change it, or apply it with --partial",
                   f.count > 1 ? " (and others; check lists them)" : "");
    return -ENOTSUP;
}

static int noted(int error, struct policing_error *err) {
    return error == 0
               ? 0
               : fail(err, error, "the policy cannot be noted in state_dir: %s; nothing was changed", strerror(-error));
}

/* In force, and either noted as such or waiting. When neither can be, the old one is brought back. */
static int settle(struct policing *p, struct policy *policy, uint64_t number, uint64_t confirm_ns,
                  struct policing_error *err) {
    int error = confirm_ns != 0 ? wait_begin(p, confirm_ns) : history_force(p->history, number);
    if (error >= 0) {
        if (confirm_ns != 0)
            p->back = p->now;
        became(p, policy, number);
        return 0;
    }
    struct policing_error ignored;
    if (p->now == NULL)
        p->now = empty_policy();
    if (p->now != NULL)
        (void)force(p, p->now, p->revision, &ignored);
    return noted(error, err);
}

static struct revision revision_of(const struct policy *policy, const struct policing_change *c) {
    struct revision what = {.rules = policy_rules(policy)->rule_count};
    (void)snprintf(what.by, sizeof what.by, "%s", c->by);
    (void)snprintf(what.note, sizeof what.note, "%s", c->note);
    return what;
}

static int apply(struct policing *p, struct policy *policy, const char *text, size_t size,
                 const struct policing_change *c, uint64_t *ret_revision, struct policing_error *err) {
    const struct revision what = revision_of(policy, c);
    uint64_t number = 0;
    int error = change_check(p, c, err);
    if (error != 0)
        return error;
    error = noted(history_add(p->history, &what, text, size, &number), err);
    if (error != 0)
        return error;
    error = force(p, policy, number, err);
    if (error == 0)
        error = settle(p, policy, number, c->confirm_ns, err);
    if (error != 0) {
        history_drop(p->history, number);
        return error;
    }
    *ret_revision = number;
    log_info("policy", "revision %" PRIu64 " of %s is in force: %u rules%s", number, c->by, what.rules,
             c->confirm_ns != 0 ? "; it waits to be confirmed" : "");
    return 0;
}

int policing_apply(struct policing *p, struct policy *policy, const char *text, size_t size,
                   const struct policing_change *c, uint64_t *ret_revision, struct policing_error *err) {
    int error = gaps_check(policy, c->partial ? UINT32_MAX : 0, err);
    return error != 0 ? error : apply(p, policy, text, size, c, ret_revision, err);
}

/* Is everything the same but for the members of sets? */
static bool same_rules(const struct nb_policy *a, const struct nb_policy *b) {
    bool same = a->rule_count == b->rule_count && a->set_count == b->set_count && a->owner_count == b->owner_count &&
                a->limit_count == b->limit_count && a->counter_count == b->counter_count &&
                memcmp(a->defaults, b->defaults, sizeof a->defaults) == 0;
    same = same && (a->rule_count == 0 || memcmp(a->rules, b->rules, a->rule_count * sizeof *a->rules) == 0) &&
           (a->owner_count == 0 || memcmp(a->owners, b->owners, a->owner_count * sizeof *a->owners) == 0) &&
           (a->limit_count == 0 || memcmp(a->limits, b->limits, a->limit_count * sizeof *a->limits) == 0);
    for (uint32_t i = 0; same && i < a->set_count; i++)
        same = a->sets[i].kind == b->sets[i].kind;
    return same;
}

/* May a class take other owners when this set changes? */
static bool classes_ask(const struct policy *policy, uint32_t set) {
    const struct classes *c = policy_classes(policy);
    uint32_t i = 1;
    while (i < c->count && c->v[i].users != set)
        i++;
    return i < c->count;
}

static int sets_install(void *arg) {
    const struct installing *s = arg;
    const struct usherd *u = s->p->u;
    const struct nb_policy *old = policy_rules(s->p->now), *new = policy_rules(s->policy);
    int error = 0;
    for (uint32_t i = 0; i < new->set_count; i++) {
        bool same = nb_set_same(&old->sets[i], &new->sets[i]);
        if (error == 0 && !same)
            error =
                classes_ask(s->policy, i) ? -ENOSPC : policy_set_install(u->rt, s->policy, i, u->owners, owner_max(u));
    }
    return error;
}

/* In software and in NICs: those have the members in their entries. */
static int sets_force(struct policing *p, const struct policy *policy, struct policing_error *err) {
    struct installing s = {p, policy};
    int error = nic_change(p->u->nic, policy, sets_install, &s);
    return error == 0 ? 0 : fail(err, error, "a worker did not take the set: %s", strerror(-error));
}

int policing_edit(struct policing *p, struct policy *policy, const char *text, size_t size,
                  const struct policing_change *c, uint64_t *ret_revision, bool *ret_in_place,
                  struct policing_error *err) {
    const struct revision what = revision_of(policy, c);
    uint64_t number = 0;
    int error = change_check(p, c, err);
    uint32_t gaps = p->now != NULL ? nb_cover_gaps(policy_rules(p->now), NULL, NULL) : 0;
    error = error == 0 ? gaps_check(policy, c->partial ? UINT32_MAX : gaps, err) : error;
    *ret_in_place = error == 0 && p->now != NULL && same_rules(policy_rules(p->now), policy_rules(policy));
    if (!*ret_in_place)
        return error != 0 ? error : apply(p, policy, text, size, c, ret_revision, err);
    error = noted(history_add(p->history, &what, text, size, &number), err);
    if (error != 0)
        return error;
    if (sets_force(p, policy, err) != 0) { /* no room, or a class has a say: the whole goes instead */
        history_drop(p->history, number);
        *ret_in_place = false;
        return apply(p, policy, text, size, c, ret_revision, err);
    }
    coverage_policy(p->u, policy);
    p->counted = policy; /* its rules are those that counted */
    error = settle(p, policy, number, 0, err);
    if (error != 0) {
        history_drop(p->history, number);
        return error;
    }
    *ret_revision = number;
    log_info("policy", "revision %" PRIu64 " of %s is in force: %s", number, c->by, c->note);
    return 0;
}

int policing_confirm(struct policing *p, uint64_t revision, struct policing_error *err) {
    if (p->timer == NULL)
        return fail(err, -ENOENT, "no change waits to be confirmed; revision %" PRIu64 " is in force", p->revision);
    if (revision != 0 && revision != p->revision)
        return fail(err, -ENOENT, "revision %" PRIu64 " waits to be confirmed, not %" PRIu64, p->revision, revision);
    int error = history_force(p->history, p->revision);
    if (error != 0)
        return fail(err, error, "revision %" PRIu64 " cannot be noted in state_dir: %s; it still waits", p->revision,
                    strerror(-error));
    wait_end(p);
    log_info("policy", "revision %" PRIu64 " is confirmed", p->revision);
    return 0;
}

static uint64_t one_before(const struct policing *p) {
    const struct revision *r;
    uint64_t best = 0;
    if (history_find(p->history, p->before) != NULL)
        return p->before;
    for (uint32_t i = 0; (r = history_at(p->history, i)) != NULL; i++)
        if (r->number < p->revision)
            best = r->number;
    return best;
}

/* A revision's policy as it would be now: names that are gone meanwhile match nobody. */
static struct policy *recall(struct policing *p, uint64_t number, struct policing_error *err) {
    struct policy *policy = NULL;
    char *text, name[48];
    size_t size;
    int error = history_text(p->history, number, &text, &size);
    if (error != 0) {
        (void)fail(err, error, "revision %" PRIu64 " cannot be read: %s", number, strerror(-error));
        return NULL;
    }
    (void)snprintf(name, sizeof name, "revision %" PRIu64, number);
    p->problems.count = 0;
    if (policy_parse(name, text, size, POLICY_ABSENT_OK, &policy, &p->problems) != 0)
        (void)fail(err, -EINVAL, "%.250s", p->problems.count > 0 ? p->problems.text[0] : "no memory is left");
    free(text);
    const char *first;
    if (policy != NULL && policy_absent(policy, &first) > 0)
        log_warning("policy",
                    "revision %" PRIu64 " names %u things that this host does not have; they match nobody: %s", number,
                    policy_absent(policy, &first), first);
    return policy;
}

static int bring_back(struct policing *p, uint64_t number, struct policing_error *err) {
    struct policy *policy = recall(p, number, err);
    if (policy == NULL)
        return -EINVAL;
    int error = force(p, policy, number, err);
    if (error == 0)
        error = settle(p, policy, number, 0, err);
    if (error != 0)
        policy_destroy(policy);
    return error;
}

int policing_rollback(struct policing *p, uint64_t revision, const struct policing_change *c, uint64_t *ret_revision,
                      struct policing_error *err) {
    uint64_t target = revision != 0 ? revision : p->timer != NULL ? p->before : one_before(p);
    int error = 0;
    if (c->expects && c->expected != p->revision)
        return change_check(p, c, err);
    if (target == 0 && p->timer == NULL)
        return fail(err, -ENOENT, "there is no earlier revision");
    if (target != 0 && history_find(p->history, target) == NULL)
        return fail(err, -ENOENT, "revision %" PRIu64 " is not kept; `usherctl policy history` lists those that are",
                    target);
    if (p->timer != NULL)
        error = go_back(p, err);
    if (error == 0 && target != p->revision)
        error = bring_back(p, target, err);
    if (error != 0)
        return error;
    *ret_revision = p->revision;
    log_info("policy", "%s brought revision %" PRIu64 " back", c->by, p->revision);
    return 0;
}

/* ---- the file of the settings ---- */

static const struct revision *last_of(const struct policing *p, const char *by) {
    const struct revision *r, *best = NULL;
    for (uint32_t i = 0; (r = history_at(p->history, i)) != NULL; i++)
        if (strcmp(r->by, by) == 0)
            best = r;
    return best;
}

static bool same_text(const struct policing *p, const struct revision *r, const char *text, size_t size) {
    char *kept;
    size_t kept_size;
    if (r == NULL || r->size != size || history_text(p->history, r->number, &kept, &kept_size) != 0)
        return false;
    bool same = kept_size == size && memcmp(kept, text, size) == 0;
    free(kept);
    return same;
}

static int apply_text(struct policing *p, const char *path, const char *text, size_t size, const char *by) {
    struct policing_error err;
    struct policy *policy = NULL;
    uint64_t revision;
    int error = policy_parse(path, text, size, 0, &policy, &p->problems);
    if (error != 0)
        return error;
    const struct policing_change c = {.by = by, .note = "", .partial = true}; /* coverage_policy() names its gaps */
    error = policing_apply(p, policy, text, size, &c, &revision, &err);
    if (error != 0) {
        policy_destroy(policy);
        problem_add(&p->problems, &(struct place){path, 0, 0}, "%s", err.text);
    }
    return error;
}

/* The file counts when it is another than the last time; what operators have applied since is in force otherwise.
 * *ret_changed: it became a new revision. */
static int apply_file(struct policing *p, const char *path, bool *ret_changed) {
    char by[sizeof((struct revision *)0)->by], *text;
    size_t size;
    *ret_changed = false;
    p->problems.count = 0;
    int error = policy_read_file(path, &text, &size, &p->problems);
    if (error != 0)
        return error;
    (void)snprintf(by, sizeof by, "file %s", path);
    if (!same_text(p, last_of(p, by), text, size)) {
        error = apply_text(p, path, text, size, by);
        *ret_changed = error == 0;
    }
    free(text);
    return error;
}

static void problems_log(const struct policing *p) {
    for (uint32_t i = 0; i < p->problems.count && i < PROBLEM_MAX; i++)
        log_error("policy", "%s", p->problems.text[i]);
}

void policing_reload(struct usherd *u) {
    struct policing *p = u->policing;
    struct policing_error err = {""};
    bool changed = false;
    if (p->timer != NULL) {
        log_warning("policy", "revision %" PRIu64 " waits to be confirmed; the policy was not read again", p->revision);
        return;
    }
    if (u->cfg.policy[0] != '\0' && apply_file(p, u->cfg.policy, &changed) != 0) {
        problems_log(p);
        log_error("policy", "%s has mistakes; revision %" PRIu64 " stays in force", u->cfg.policy, p->revision);
    }
    if (!changed && p->revision != 0 && bring_back(p, p->revision, &err) != 0)
        log_error("policy", "revision %" PRIu64 " could not be read again: %s", p->revision, err.text);
}

/* ---- life ---- */

static int open_history(struct policing *p, char *err, size_t err_size) {
    char folder[CONFIG_PATH_MAX + 48];
    (void)snprintf(folder, sizeof folder, "%s/policy-%" PRIu64, p->u->cfg.state_dir, p->u->netns_cookie);
    int error = history_open(folder, &p->history);
    if (error != 0)
        (void)snprintf(err, err_size, "%s cannot be used: %s; look at its owner and mode", folder, strerror(-error));
    return error;
}

/* What was in force when the last usherd ended. */
static int recover(struct policing *p, char *err, size_t err_size) {
    struct policing_error e = {""};
    uint64_t number = history_in_force(p->history);
    if (number == 0)
        return 0;
    int error = bring_back(p, number, &e);
    if (error != 0)
        (void)snprintf(err, err_size, "the last policy cannot be brought into force again: %.160s", e.text);
    else
        log_info("policy", "revision %" PRIu64 " is in force again: %u rules", number,
                 policy_rules(p->now)->rule_count);
    return error;
}

static int begin(struct policing *p, char *err, size_t err_size) {
    const char *path = p->u->cfg.policy;
    bool changed;
    int error = open_history(p, err, err_size);
    if (error == 0)
        error = recover(p, err, err_size);
    if (error != 0 || path[0] == '\0')
        return error;
    error = apply_file(p, path, &changed);
    if (error != 0 && p->now != NULL) {
        problems_log(p);
        log_error("policy", "%s cannot be taken; revision %" PRIu64 " stays in force", path, p->revision);
        return 0;
    }
    if (error != 0) {
        problems_log(p);
        (void)snprintf(err, err_size, "%s", p->problems.count > 0 ? p->problems.text[0] : "no memory is left");
    }
    return error;
}

int policing_begin(struct usherd *u, char *err, size_t err_size) {
    struct policing *p = calloc(1, sizeof *p);
    if (p == NULL)
        return -ENOMEM;
    p->u = u;
    u->policing = p;
    nic_packets_from(u->nic, rule_packets, p);
    int error = begin(p, err, err_size);
    if (error != 0)
        policing_end(u);
    return error;
}

void policing_end(struct usherd *u) {
    struct policing *p = u->policing;
    nic_packets_from(u->nic, NULL, NULL);
    wait_end(p);
    history_close(p->history);
    policy_destroy(p->now);
    free(p->rule_base);
    free(p->counter_base);
    free(p);
    u->policing = NULL;
}

void policing_ports(struct usherd *u) {
    int error = classes_ports(u->rt, u->policing->now);
    if (error != 0)
        log_error("policy", "the workers cannot be told which interfaces the classes are for: %s", strerror(-error));
}

int policing_owner(void *usherd, uint32_t index, const struct owner *owner) {
    const struct usherd *u = usherd;
    const struct policing *p = u->policing;
    return p->now == NULL ? 0 : policy_owner_add(u->rt, p->now, index, owner);
}

/* ---- records ---- */

static void end_text(char *ret, size_t size, const struct ipaddr *addr, uint16_t port) {
    char text[INET6_ADDRSTRLEN];
    bool v4 = ipaddr_is_v4(addr);
    (void)inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? addr->b + 12 : addr->b, text, sizeof text);
    (void)snprintf(ret, size, v4 ? "%s:%u" : "[%s]:%u", text, port);
}

void policing_record(const struct usherd *u, const struct engine_event *ev) {
    const struct policing *p = u->policing;
    const struct owner *o = u->owners != NULL ? owner_get(u->owners, ev->owner) : NULL;
    const char *name = p->now != NULL ? policy_rule_name(p->now, policy_rule_find_id(p->now, ev->id)) : NULL;
    char local[64], remote[64], who[64] = "nobody's";
    bool in = ev->value >> 8 == NB_IN;
    end_text(local, sizeof local, &ev->flow.local, ev->flow.local_port);
    end_text(remote, sizeof remote, &ev->flow.remote, ev->flow.remote_port);
    if (o != NULL)
        (void)snprintf(who, sizeof who, "%.15s pid %u uid %u", o->comm, o->pid, o->uid);
    log_info("policy.log", "%s: %s %s protocol %u %s > %s, %s", name != NULL ? name : "a default",
             policy_verdict_name(ev->value & 0xff), in ? "in" : "out", ev->flow.proto, in ? remote : local,
             in ? local : remote, who);
}

const struct policy *policing_policy(const struct policing *p) {
    return p->now;
}

uint64_t policing_revision(const struct policing *p) {
    return p->revision;
}

uint64_t policing_confirm_by(const struct policing *p) {
    return p->confirm_by;
}

struct history *policing_history(const struct policing *p) {
    return p->history;
}

int policing_again(void *usherd) {
    struct usherd *u = usherd;
    const struct policing *p = u->policing;
    return p->now == NULL ? 0 : policy_install(u->rt, p->now, u->owners, OWNERS_PER_SESSION * u->cfg.sessions.max + 1);
}
