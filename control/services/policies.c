/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Policies, what changes something: drafts, checks, and the way into force and back. Lists and
 * explanations are in policies_list.c. Control thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/policing.h"
#include "control/policy/compare.h"
#include "control/policy/history.h"
#include "control/services/policies.h"
#include "control/services/service_internal.h"
#include "nicbackend/cover.h"
#include "usher/control/v1/policies.pb-c.h"

#define CHANGES_MAX 1000u
#define GAPS_MAX    256u
#define CONFIRM_MAX 86400u

static enum rpc_code draft_unknown(struct rpc_call *c, uint64_t id) {
    return rpc_fail(c, RPC_NOT_FOUND, "DRAFT_UNKNOWN", "draft",
                    "you have no draft %" PRIu64 " (any more): it was applied, or newer ones took its place; put the "
                    "policy again",
                    id);
}

/* ---- drafts ---- */

static enum rpc_code put(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(PutPolicyRequest) *q = request;
    PB(PutPolicyResponse) *r = PB_NEW(c, PutPolicyResponse, put_policy_response);
    struct draft *d = q->draft == 0 ? draft_begin(&s->drafts, rpc_caller(c), q->name)
                                    : draft_find(&s->drafts, rpc_caller(c), q->draft);
    if (d == NULL)
        return draft_unknown(c, q->draft);
    int error = draft_append(d, q->part.data, q->part.len);
    if (error == -EFBIG) {
        draft_end(d);
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "TOO_LONG", "part",
                        "a policy has at most %u bytes; use sets and ranges for rules that differ in a value",
                        POLICY_TEXT_MAX);
    }
    if (error != 0) {
        draft_end(d);
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", NULL, "no memory is left for the policy");
    }
    r->draft = d->id;
    r->bytes = d->size;
    rpc_answer(c, &r->base);
    return RPC_OK;
}

struct gap_list {
    struct rpc_call *c;
    const struct policy *policy;
    PB(PolicyGap) * *v;
    size_t count;
};

static void on_gap(void *arg, uint32_t rule, const char *why) {
    struct gap_list *g = arg;
    if (g->count >= GAPS_MAX)
        return;
    const char *name = policy_rule_name(g->policy, rule);
    PB(PolicyGap) *m = PB_NEW(g->c, PolicyGap, policy_gap);
    m->rule = rpc_text(g->c, "%s", name != NULL ? name : "");
    m->line = name != NULL ? policy_rule_line(g->policy, rule) : 0;
    m->why = PB_TEXT(why);
    g->v[g->count++] = m;
}

uint32_t policies_gaps(struct rpc_call *c, const struct policy *p, PB(PolicyGap) * **ret_gaps, size_t *ret_count) {
    struct gap_list g = {c, p, rpc_alloc_array(c, PB(PolicyGap) *, GAPS_MAX), 0};
    uint32_t all = nb_cover_gaps(policy_rules(p), on_gap, &g);
    *ret_gaps = g.v;
    *ret_count = g.count;
    return all;
}

static void problems_message(struct rpc_call *c, struct draft *d, PB(CheckPolicyResponse) * r) {
    if (d->problems == NULL)
        return;
    r->problem_count = d->problems->count;
    r->problems = rpc_alloc_array(c, char *, PROBLEM_MAX);
    for (uint32_t i = 0; i < d->problems->count && i < PROBLEM_MAX; i++)
        r->problems[r->n_problems++] = d->problems->text[i];
}

static enum rpc_code check(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(CheckPolicyRequest) *q = request;
    PB(CheckPolicyResponse) *r = PB_NEW(c, CheckPolicyResponse, check_policy_response);
    struct draft *d = draft_find(&s->drafts, rpc_caller(c), q->draft);
    if (d == NULL)
        return draft_unknown(c, q->draft);
    const struct policy *p = draft_parse(d);
    r->valid = p != NULL;
    problems_message(c, d, r);
    if (p != NULL) {
        const struct nb_policy *nb = policy_rules(p);
        r->rules = nb->rule_count;
        r->sets = nb->set_count;
        r->owners = nb->owner_count;
        r->limits = nb->limit_count;
        r->gap_count = policies_gaps(c, p, &r->gaps, &r->n_gaps);
    }
    r->revision = policing_revision(s->u->policing);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code policy_wrong(struct rpc_call *c, const struct draft *d) {
    return rpc_fail(c, RPC_INVALID_ARGUMENT, "POLICY_WRONG", "draft", "%s%s",
                    d->problems != NULL && d->problems->count > 0 ? d->problems->text[0] : "no memory is left",
                    d->problems != NULL && d->problems->count > 1 ? " (and more; check lists them)" : "");
}

/* ---- differences ---- */

struct diff {
    struct rpc_call *c;
    PB(DiffPolicyResponse) * r;
};

static void on_difference(void *arg, const struct policy_difference *d) {
    struct diff *f = arg;
    if (f->r->change_count++ >= CHANGES_MAX)
        return;
    PB(PolicyChange) *m = PB_NEW(f->c, PolicyChange, policy_change);
    m->kind = (PB(PolicyChangeKind))d->kind; /* the numbers are the same */
    m->what = PB_TEXT(d->what);
    m->name = rpc_text(f->c, "%s", d->name);
    m->before = rpc_text(f->c, "%s", d->before);
    m->after = rpc_text(f->c, "%s", d->after);
    f->r->changes[f->r->n_changes++] = m;
}

struct policy *policies_revision(const struct service *s, uint64_t number) {
    struct problems *problems = calloc(1, sizeof *problems);
    struct policy *p = NULL;
    char *text = NULL;
    size_t size = 0;
    if (problems != NULL && (number == 0 || history_text(policing_history(s->u->policing), number, &text, &size) == 0))
        (void)policy_parse("revision", text != NULL ? text : "", size, POLICY_ABSENT_OK, &p, problems);
    free(text);
    free(problems);
    return p;
}

static enum rpc_code diff(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(DiffPolicyRequest) *q = request;
    PB(DiffPolicyResponse) *r = PB_NEW(c, DiffPolicyResponse, diff_policy_response);
    struct draft *d = q->draft != 0 ? draft_find(&s->drafts, rpc_caller(c), q->draft) : NULL;
    if (q->draft != 0 && d == NULL)
        return draft_unknown(c, q->draft);
    if (d != NULL && draft_parse(d) == NULL)
        return policy_wrong(c, d);
    r->revision = policing_revision(s->u->policing);
    r->base_revision = q->base_revision != 0 ? q->base_revision : r->revision;
    struct policy *before = policies_revision(s, r->base_revision),
                  *other = d == NULL ? policies_revision(s, q->revision) : NULL;
    const struct policy *after = d != NULL ? d->policy : other;
    struct diff f = {c, r};
    r->changes = rpc_alloc_array(c, PB(PolicyChange) *, CHANGES_MAX);
    bool known = before != NULL && after != NULL;
    int error = known ? policy_compare(before, after, on_difference, &f) : 0;
    policy_destroy(before);
    policy_destroy(other);
    if (!known)
        return policies_revision_unknown(c, before == NULL ? r->base_revision : q->revision);
    if (error != 0)
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", NULL, "no memory is left to compare");
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- into force and back ---- */

enum rpc_code policies_revision_unknown(struct rpc_call *c, uint64_t number) {
    return rpc_fail(c, RPC_NOT_FOUND, "REVISION_UNKNOWN", "revision",
                    "revision %" PRIu64 " is not kept; Policies.History has those that are", number);
}

static enum rpc_code change_failed(struct rpc_call *c, int error, const struct policing_error *err) {
    static const struct {
        int error;
        enum rpc_code code;
        const char *reason;
    } table[] = {{-ESTALE, RPC_FAILED_PRECONDITION, "REVISION_CONFLICT"},
                 {-EBUSY, RPC_FAILED_PRECONDITION, "UNCONFIRMED"},
                 {-ENOTSUP, RPC_FAILED_PRECONDITION, "GAPS"},
                 {-EFBIG, RPC_RESOURCE_EXHAUSTED, "TOO_LARGE"},
                 {-EINVAL, RPC_INVALID_ARGUMENT, "POLICY_WRONG"},
                 {-ENOENT, RPC_NOT_FOUND, "REVISION_UNKNOWN"},
                 {-ENOMEM, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY"}};
    size_t i = 0;
    while (i < ARRAY_LEN(table) && table[i].error != error)
        i++;
    if (i == ARRAY_LEN(table))
        return rpc_fail(c, RPC_UNAVAILABLE, "NOT_CHANGED", NULL, "%s", err->text);
    return rpc_fail(c, table[i].code, table[i].reason, NULL, "%s", err->text);
}

static char *revision_text(struct rpc_call *c, uint64_t number) {
    return number != 0 ? rpc_text(c, "revision %" PRIu64, number) : PB_TEXT("none");
}

static uint64_t monotonic_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct policing_change change_of(struct rpc_call *c, const char *note, bool expects, uint64_t expected) {
    return (struct policing_change){.by = rpc_caller(c)->name, .note = note, .expects = expects, .expected = expected};
}

static enum rpc_code apply_draft(struct rpc_call *c, struct service *s, const PB(ApplyPolicyRequest) * q,
                                 struct draft *d) {
    PB(ApplyPolicyResponse) *r = PB_NEW(c, ApplyPolicyResponse, apply_policy_response);
    struct policing_change change =
        change_of(c, q->note, q->expects_case == USHER__CONTROL__V1__APPLY_POLICY_REQUEST__EXPECTS_EXPECTED_REVISION,
                  q->expected_revision);
    struct policing_error err = {""};
    uint64_t began = monotonic_ns();
    change.confirm_ns = q->confirm_seconds * 1000000000ull;
    change.partial = q->partial;
    r->before = policing_revision(s->u->policing);
    r->rules = policy_rules(d->policy)->rule_count;
    r->gap_count = nb_cover_gaps(policy_rules(d->policy), NULL, NULL);
    int error =
        policing_apply(s->u->policing, d->policy, d->text != NULL ? d->text : "", d->size, &change, &r->revision, &err);
    r->took_ns = monotonic_ns() - began;
    if (error != 0)
        return change_failed(c, error, &err);
    rpc_audit(c, "policy", revision_text(c, r->before),
              rpc_text(c, "revision %" PRIu64 ", %u rules%s%s%s", r->revision, r->rules,
                       r->gap_count != 0 ? ", partial" : "", q->confirm_seconds != 0 ? ", unconfirmed" : "",
                       q->note[0] != '\0' ? rpc_text(c, ": %s", q->note) : ""));
    r->confirm_by_unix_ns = policing_confirm_by(s->u->policing);
    d->policy = NULL; /* taken */
    draft_end(d);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code apply(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(ApplyPolicyRequest) *q = request;
    struct draft *d = draft_find(&s->drafts, rpc_caller(c), q->draft);
    rpc_audit(c, "policy", revision_text(c, policing_revision(s->u->policing)), "");
    if (d == NULL)
        return draft_unknown(c, q->draft);
    if (q->confirm_seconds > CONFIRM_MAX)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "TOO_LONG", "confirm_seconds",
                        "a change waits at most %u seconds to be confirmed", CONFIRM_MAX);
    if (draft_parse(d) == NULL)
        return policy_wrong(c, d);
    return apply_draft(c, s, q, d);
}

static enum rpc_code confirm(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(ConfirmPolicyRequest) *q = request;
    PB(ConfirmPolicyResponse) *r = PB_NEW(c, ConfirmPolicyResponse, confirm_policy_response);
    struct policing_error err = {""};
    char *now = revision_text(c, policing_revision(s->u->policing));
    rpc_audit(c, "policy", rpc_text(c, "%s, unconfirmed", now), now);
    int error = policing_confirm(s->u->policing, q->revision, &err);
    if (error == -ENOENT)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, "NOTHING_WAITS", "revision", "%s", err.text);
    if (error != 0)
        return change_failed(c, error, &err);
    r->revision = policing_revision(s->u->policing);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code rollback(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(RollbackPolicyRequest) *q = request;
    PB(RollbackPolicyResponse) *r = PB_NEW(c, RollbackPolicyResponse, rollback_policy_response);
    const struct policing_change change =
        change_of(c, "", q->expects_case == USHER__CONTROL__V1__ROLLBACK_POLICY_REQUEST__EXPECTS_EXPECTED_REVISION,
                  q->expected_revision);
    struct policing_error err = {""};
    r->before = policing_revision(s->u->policing);
    rpc_audit(c, "policy", revision_text(c, r->before), "");
    int error = policing_rollback(s->u->policing, q->revision, &change, &r->revision, &err);
    if (error != 0)
        return change_failed(c, error, &err);
    rpc_audit(c, "policy", revision_text(c, r->before), revision_text(c, r->revision));
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- sets ---- */

static enum rpc_code edit_failed(struct rpc_call *c, int error, const char *set, const struct problems *problems) {
    if (error == -ENOENT)
        return rpc_fail(c, RPC_NOT_FOUND, "SET_UNKNOWN", "set",
                        "the policy in force has no set \"%.60s\"; Policies.ListSets has those there are", set);
    return rpc_fail(c, RPC_INVALID_ARGUMENT, "MEMBER_WRONG", "members", "%s",
                    problems->count > 0 ? problems->text[0] : "no memory is left");
}

static enum rpc_code edited_apply(struct rpc_call *c, struct service *s, const PB(EditSetRequest) * q,
                                  struct policy *policy, const char *text) {
    PB(EditSetResponse) *r = PB_NEW(c, EditSetResponse, edit_set_response);
    static const char *const words[] = {"", "with", "without", "is"};
    char *note = rpc_text(c, "set %s %s %s%s", q->set, words[q->edit], q->n_members > 0 ? q->members[0] : "nothing",
                          q->n_members > 1 ? ", ..." : "");
    const struct policing_change change =
        change_of(c, note, q->expects_case == USHER__CONTROL__V1__EDIT_SET_REQUEST__EXPECTS_EXPECTED_REVISION,
                  q->expected_revision);
    struct policing_error err = {""};
    bool in_place = false;
    uint32_t set = policy_set_find(policy, q->set);
    r->before = policing_revision(s->u->policing);
    r->members = set != NB_NONE ? policy_rules(policy)->sets[set].count : 0;
    int error = policing_edit(s->u->policing, policy, text, strlen(text), &change, &r->revision, &in_place, &err);
    if (error != 0) {
        policy_destroy(policy);
        return change_failed(c, error, &err);
    }
    r->in_place = in_place;
    rpc_audit(c, rpc_text(c, "policy set %s", q->set), revision_text(c, r->before), revision_text(c, r->revision));
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static enum rpc_code edit_set(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(EditSetRequest) *q = request;
    uint64_t now = policing_revision(s->u->policing);
    struct problems *problems = rpc_alloc(c, sizeof *problems);
    struct policy *policy = NULL;
    char *text = NULL, *edited = NULL;
    size_t size = 0;
    rpc_audit(c, rpc_text(c, "policy set %.64s", q->set), revision_text(c, now), "");
    if (q->edit < 1 || q->edit > 3)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "EDIT_UNKNOWN", "edit", "give ADD, REMOVE or REPLACE");
    if (now == 0 || history_text(policing_history(s->u->policing), now, &text, &size) != 0)
        return edit_failed(c, -ENOENT, q->set, problems);
    int error = policy_edit_set(text, size, q->set, (enum policy_edit)(q->edit - 1), (const char *const *)q->members,
                                q->n_members, &edited, problems);
    free(text);
    if (error != 0)
        return edit_failed(c, error, q->set, problems);
    error = policy_parse("policy", edited, strlen(edited), POLICY_ABSENT_OK, &policy, problems);
    enum rpc_code code = error != 0 ? edit_failed(c, error, q->set, problems) : edited_apply(c, s, q, policy, edited);
    free(edited);
    return code;
}

#define CHANGE(lower) PB_REQUEST(lower), .role = RPC_ROLE_OPERATOR, .change = true
#define LOOK(lower)   PB_REQUEST(lower), .role = RPC_ROLE_VIEWER

const struct rpc_method policies_methods[] = {
    {.name = "Put", PB_REQUEST(put_policy_request), .role = RPC_ROLE_OPERATOR, .unary = put},
    {.name = "Check", PB_REQUEST(check_policy_request), .role = RPC_ROLE_OPERATOR, .unary = check},
    {.name = "Diff", PB_REQUEST(diff_policy_request), .role = RPC_ROLE_OPERATOR, .unary = diff},
    {.name = "Apply", CHANGE(apply_policy_request), .unary = apply},
    {.name = "Confirm", CHANGE(confirm_policy_request), .unary = confirm},
    {.name = "Rollback", CHANGE(rollback_policy_request), .unary = rollback},
    {.name = "EditSet", CHANGE(edit_set_request), .unary = edit_set},
    {.name = "History", LOOK(policy_history_request), .unary = policies_history},
    {.name = "Show", LOOK(show_policy_request), .unary = policies_show},
    {.name = "ListRules",
     LOOK(list_rules_request),
     .open = policies_rules_open,
     .next = policies_rules_next,
     .close = policies_rules_close,
     .state_size = sizeof(struct policies_rules)},
    {.name = "ListCounters", LOOK(list_policy_counters_request), .unary = policies_counters},
    {.name = "ListSets", LOOK(list_sets_request), .unary = policies_sets},
    {.name = "Explain", LOOK(explain_policy_request), .unary = policies_explain},
};
const size_t policies_method_count = ARRAY_LEN(policies_methods);
