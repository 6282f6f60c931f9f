/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Policies, what only looks: history, texts, rules with their counts, sets, explanations. Control
 * thread; counts come from the shards by letter.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control/identity/owner.h"
#include "control/policing.h"
#include "control/policy/compare.h"
#include "control/policy/explain.h"
#include "control/policy/history.h"
#include "control/services/policies.h"
#include "control/services/service_internal.h"
#include "engines/filter/filter_image.h"
#include "usher/control/v1/policies.pb-c.h"

#define PART_MAX     256u
#define TEXT_PART    (256u << 10)
#define COUNTERS_MAX 4096u
#define SETS_MAX     4096u
#define MEMBERS_MAX  8u

/* ---- history ---- */

static PB(RevisionState) state_of(const struct policing *p, uint64_t number) {
    if (number != policing_revision(p))
        return USHER__CONTROL__V1__REVISION_STATE__REVISION_STATE_KEPT;
    return policing_confirm_by(p) != 0 ? USHER__CONTROL__V1__REVISION_STATE__REVISION_STATE_UNCONFIRMED
                                       : USHER__CONTROL__V1__REVISION_STATE__REVISION_STATE_IN_FORCE;
}

enum rpc_code policies_history(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const struct policing *p = s->u->policing;
    PB(PolicyHistoryResponse) *a = PB_NEW(c, PolicyHistoryResponse, policy_history_response);
    const struct revision *r;
    (void)request;
    a->revision = policing_revision(p);
    a->confirm_by_unix_ns = policing_confirm_by(p);
    a->revisions = rpc_alloc_array(c, PB(PolicyRevision) *, HISTORY_KEPT + 1);
    for (uint32_t i = 0; (r = history_at(policing_history(p), i)) != NULL; i++) {
        PB(PolicyRevision) *m = PB_NEW(c, PolicyRevision, policy_revision);
        m->revision = r->number;
        m->time_unix_ns = r->unix_ns;
        m->by = PB_TEXT(r->by);
        m->note = PB_TEXT(r->note);
        m->rules = r->rules;
        m->bytes = r->size;
        m->state = state_of(p, r->number);
        a->revisions[a->n_revisions++] = m;
    }
    rpc_answer(c, &a->base);
    return RPC_OK;
}

/* Of a text's first part: the policy in force is parsed already. */
static void shown_gaps(struct rpc_call *c, const struct service *s, PB(ShowPolicyResponse) * r) {
    bool now = r->revision == policing_revision(s->u->policing);
    struct policy *other = now ? NULL : policies_revision(s, r->revision);
    const struct policy *p = now ? policing_policy(s->u->policing) : other;
    if (p != NULL)
        r->gap_count = policies_gaps(c, p, &r->gaps, &r->n_gaps);
    policy_destroy(other);
}

enum rpc_code policies_show(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const PB(ShowPolicyRequest) *q = request;
    PB(ShowPolicyResponse) *r = PB_NEW(c, ShowPolicyResponse, show_policy_response);
    char *text;
    size_t size;
    r->revision = q->revision != 0 ? q->revision : policing_revision(s->u->policing);
    if (r->revision == 0 && q->offset == 0) {
        rpc_answer(c, &r->base);
        return RPC_OK;
    }
    if (history_text(policing_history(s->u->policing), r->revision, &text, &size) != 0)
        return policies_revision_unknown(c, r->revision);
    size_t at = q->offset < size ? q->offset : size;
    r->bytes = size;
    r->part.len = size - at < TEXT_PART ? size - at : TEXT_PART;
    r->part.data = rpc_alloc(c, r->part.len + 1);
    memcpy(r->part.data, text + at, r->part.len);
    free(text);
    if (q->offset == 0)
        shown_gaps(c, s, r);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- rules ---- */

static PB(PolicyRule) *
    rule_message(struct rpc_call *c, const struct policy *p, uint32_t i, const struct filter_count *counts) {
    PB(PolicyRule) *m = PB_NEW(c, PolicyRule, policy_rule);
    m->number = i + 1;
    m->tier = PB_TEXT(policy_tier_name(policy_rules(p)->rules[i].tier));
    m->name = PB_TEXT(policy_rule_name(p, i));
    m->text = PB_TEXT(policy_rule_text(p, i));
    m->line = policy_rule_line(p, i);
    m->packets = counts != NULL ? counts[i].packets : 0;
    m->bytes = counts != NULL ? counts[i].bytes : 0;
    return m;
}

enum rpc_code policies_rules_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const struct service *s = arg;
    const PB(ListRulesRequest) *q = request;
    struct policies_rules *l = state;
    const struct policy *p = policing_policy(s->u->policing);
    uint32_t count = p != NULL ? policy_rules(p)->rule_count : 0;
    l->revision = policing_revision(s->u->policing);
    l->end = count;
    if (q->name[0] != '\0') {
        l->next = p != NULL ? policy_rule_find(p, q->name) : NB_NONE;
        if (l->next == NB_NONE)
            return rpc_fail(c, RPC_NOT_FOUND, "RULE_UNKNOWN", "name", "the policy in force has no rule \"%.60s\"",
                            q->name);
        l->end = l->next + 1;
    }
    l->counts = calloc(count + 1u, sizeof *l->counts);
    if (l->counts == NULL)
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", NULL, "no memory is left to list %u rules", count);
    (void)policing_counts(s->u->policing, false, l->counts);
    return RPC_OK;
}

enum rpc_next policies_rules_next(struct rpc_call *c, void *arg, void *state) {
    const struct service *s = arg;
    struct policies_rules *l = state;
    const struct policy *p = policing_policy(s->u->policing);
    PB(ListRulesResponse) *r = PB_NEW(c, ListRulesResponse, list_rules_response);
    if (l->revision != policing_revision(s->u->policing) || (p != NULL && l->end > policy_rules(p)->rule_count)) {
        (void)rpc_fail(c, RPC_UNAVAILABLE, "REVISION_CHANGED", NULL, "the policy changed meanwhile; ask again");
        return RPC_NEXT_END;
    }
    r->time_unix_ns = service_now_unix_ns();
    r->revision = l->revision;
    r->rules = rpc_alloc_array(c, PB(PolicyRule) *, PART_MAX);
    for (; r->n_rules < PART_MAX && l->next < l->end; l->next++)
        r->rules[r->n_rules++] = rule_message(c, p, l->next, l->counts);
    if (r->n_rules == 0 && l->sent)
        return RPC_NEXT_END;
    l->sent = true;
    rpc_answer(c, &r->base);
    return RPC_NEXT_SENT;
}

void policies_rules_close(void *arg, void *state) {
    struct policies_rules *l = state;
    (void)arg;
    free(l->counts);
}

/* ---- counters and sets ---- */

enum rpc_code policies_counters(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const struct policy *p = policing_policy(s->u->policing);
    PB(ListPolicyCountersResponse) *r = PB_NEW(c, ListPolicyCountersResponse, list_policy_counters_response);
    uint32_t n = p != NULL ? policy_rules(p)->counter_count : 0;
    struct filter_count *counts = rpc_alloc_array(c, struct filter_count, n + 1u);
    (void)request;
    (void)policing_counts(s->u->policing, true, counts);
    r->time_unix_ns = service_now_unix_ns();
    r->counters = rpc_alloc_array(c, PB(PolicyCounter) *, COUNTERS_MAX);
    for (uint32_t i = 0; i < n && i < COUNTERS_MAX; i++) {
        PB(PolicyCounter) *m = PB_NEW(c, PolicyCounter, policy_counter);
        m->name = PB_TEXT(policy_counter_name(p, i));
        m->packets = counts[i].packets;
        m->bytes = counts[i].bytes;
        r->counters[r->n_counters++] = m;
    }
    rpc_answer(c, &r->base);
    return RPC_OK;
}

static PB(PolicySet) * set_message(struct rpc_call *c, const struct policy *p, uint32_t i) {
    PB(PolicySet) *m = PB_NEW(c, PolicySet, policy_set);
    m->name = PB_TEXT(policy_set_name(p, i));
    m->kind = PB_TEXT(policy_set_kind(p, i));
    m->members = policy_rules(p)->sets[i].count;
    m->first = rpc_alloc_array(c, char *, MEMBERS_MAX);
    for (; m->n_first < MEMBERS_MAX && m->n_first < m->members; m->n_first++) {
        char text[128];
        policy_member_text(p, i, (uint32_t)m->n_first, text, sizeof text);
        m->first[m->n_first] = rpc_text(c, "%s", text);
    }
    return m;
}

enum rpc_code policies_sets(struct rpc_call *c, void *arg, const void *request) {
    const struct service *s = arg;
    const struct policy *p = policing_policy(s->u->policing);
    PB(ListSetsResponse) *r = PB_NEW(c, ListSetsResponse, list_sets_response);
    (void)request;
    r->sets = rpc_alloc_array(c, PB(PolicySet) *, SETS_MAX);
    for (uint32_t i = 0; p != NULL && i < policy_rules(p)->set_count && r->n_sets < SETS_MAX; i++)
        if (policy_set_name(p, i)[0] != '\0')
            r->sets[r->n_sets++] = set_message(c, p, i);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

/* ---- explanations ---- */

static PB(ExplainedTier) *
    tier_message(struct rpc_call *c, const struct policy *p, const struct explanation *e, uint32_t tier) {
    PB(ExplainedTier) *m = PB_NEW(c, ExplainedTier, explained_tier);
    uint32_t rule = e->out.rule[tier];
    m->tier = PB_TEXT(policy_tier_name(tier));
    m->asked = rule != NB_RULE_UNASKED;
    m->verdict = PB_TEXT("");
    if (!m->asked)
        return m;
    const struct nb_policy *nb = policy_rules(p);
    m->verdict = PB_TEXT(
        policy_verdict_name(rule == NB_RULE_DEFAULT ? nb->defaults[tier].verdict : nb->rules[rule].action.verdict));
    if (rule != NB_RULE_DEFAULT)
        m->rule = rule_message(c, p, rule, NULL);
    m->passed = rpc_alloc_array(c, PB(PolicyRule) *, EXPLAIN_PASSED_MAX);
    for (uint32_t i = 0; i < e->passed_count[tier]; i++)
        m->passed[m->n_passed++] = rule_message(c, p, e->passed[tier][i], NULL);
    return m;
}

static void leaves_fill(struct rpc_call *c, const struct nb_outcome *o, PB(ExplainPolicyResponse) * r) {
    r->leaves = rpc_alloc_array(c, char *, 5);
    if (o->flags & NB_ACT_MARK)
        r->leaves[r->n_leaves++] = rpc_text(c, "mark 0x%x", o->mark);
    if (o->flags & NB_ACT_CLASS)
        r->leaves[r->n_leaves++] = rpc_text(c, "class %u", o->class_id);
    if (o->flags & NB_ACT_STEER)
        r->leaves[r->n_leaves++] = rpc_text(c, "shard %u", o->steer);
    if (o->flags & NB_ACT_LOG)
        r->leaves[r->n_leaves++] = PB_TEXT("a log record");
    if (o->flags & NB_ACT_MIRROR)
        r->leaves[r->n_leaves++] = PB_TEXT("a copy for captures");
}

static char *decided_by(struct rpc_call *c, const struct policy *p, const struct nb_outcome *o) {
    uint32_t rule = o->rule[o->tier];
    if (rule < NB_RULE_UNASKED)
        return rpc_text(c, "rule %s of tier %s", policy_rule_name(p, rule), policy_tier_name(o->tier));
    return o->verdict == NB_ALLOW ? PB_TEXT("the defaults of all tiers that have no rule for it")
                                  : rpc_text(c, "the default of tier %s", policy_tier_name(o->tier));
}

static struct explain_packet packet_of(const PB(ExplainPolicyRequest) * q, const struct owner *owner) {
    return (struct explain_packet){.direction = q->direction,
                                   .protocol = q->protocol,
                                   .source = q->source,
                                   .destination = q->destination,
                                   .state = q->state,
                                   .interface = q->interface,
                                   .tcp_flags = q->tcp_flags,
                                   .dscp = q->dscp,
                                   .length = q->length,
                                   .icmp_type = q->icmp_type,
                                   .icmp_code = q->icmp_code,
                                   .vlan = q->vlan,
                                   .owner = owner,
                                   .user = q->user,
                                   .group = q->group,
                                   .exe = q->exe,
                                   .comm = q->comm,
                                   .cgroup = q->cgroup};
}

static int process_read(uint32_t pid, struct owner *owner) {
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (fd < 0)
        return -errno;
    int error = owner_read((pid_t)pid, fd, owner);
    (void)close(fd);
    return error;
}

static enum rpc_code explain_answer(struct rpc_call *c, const struct service *s, const struct policy *p,
                                    const PB(ExplainPolicyRequest) * q, const struct owner *owner, uint64_t revision) {
    PB(ExplainPolicyResponse) *r = PB_NEW(c, ExplainPolicyResponse, explain_policy_response);
    const struct explain_packet packet = packet_of(q, owner);
    struct explanation *e = rpc_alloc(c, sizeof *e);
    struct explain_error err;
    if (explain(p, &packet, e, &err) != 0)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "PACKET_WRONG", err.field, "%s", err.text);
    r->packet = e->packet;
    r->verdict = PB_TEXT(policy_verdict_name(e->out.verdict));
    r->decided_by = decided_by(c, p, &e->out);
    r->error = PB_TEXT(explain_errno(e));
    r->tiers = rpc_alloc_array(c, PB(ExplainedTier) *, NB_TIER_COUNT);
    for (uint32_t t = 0; t < NB_TIER_COUNT; t++)
        r->tiers[r->n_tiers++] = tier_message(c, p, e, t);
    r->revision = revision;
    policies_places(c, s, p, e, revision != 0, r);
    leaves_fill(c, &e->out, r);
    rpc_answer(c, &r->base);
    return RPC_OK;
}

enum rpc_code policies_explain(struct rpc_call *c, void *arg, const void *request) {
    struct service *s = arg;
    const PB(ExplainPolicyRequest) *q = request;
    const struct policy *p = policing_policy(s->u->policing);
    struct draft *d = q->draft != 0 ? draft_find(&s->drafts, rpc_caller(c), q->draft) : NULL;
    struct owner owner;
    if (q->draft != 0)
        p = d != NULL ? draft_parse(d) : NULL;
    if (p == NULL)
        return rpc_fail(c, RPC_FAILED_PRECONDITION, q->draft != 0 ? "DRAFT_UNKNOWN" : "NO_POLICY", "draft",
                        q->draft != 0 ? "there is no such draft, or it has mistakes; check it"
                                      : "no policy is in force: everything passes");
    int error = q->pid != 0 ? process_read(q->pid, &owner) : 0;
    if (error != 0)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "PROCESS_UNKNOWN", "pid", "process %u: %s", q->pid, strerror(-error));
    return explain_answer(c, s, p, q, q->pid != 0 ? &owner : NULL,
                          q->draft != 0 ? 0 : policing_revision(s->u->policing));
}
