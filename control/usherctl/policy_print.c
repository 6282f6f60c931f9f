/* SPDX-License-Identifier: Apache-2.0
 *
 * Policies on the screen: verdicts of a check, differences, explanations, and the lists' columns. Pure.
 */
#include <inttypes.h>
#include <string.h>

#include "control/usherctl/policy.h"
#include "control/usherctl/text.h"

#define LINE_MAX_BYTES 2048

/* clang-format off */
#define L(title, rank) {title, false, rank, 0}
#define R(title, rank) {title, true, rank, 0}
#define FLEX(title, rank, min) {title, false, rank, min}
static const struct list_column history_columns[] = {
    {R("REVISION", 0), "revision", SHOW_NUMBER}, {L("STATE", 0), "state", SHOW_WORD},
    {R("AGE", 0), "time_unix_ns", SHOW_AGE},     {R("RULES", 0), "rules", SHOW_NUMBER},
    {R("SIZE", 2), "bytes", SHOW_BYTES},         {FLEX("BY", 0, 8), "by", SHOW_TEXT},
    {FLEX("NOTE", 1, 12), "note", SHOW_TEXT},
};
static const struct list_column rule_columns[] = {
    {R("#", 1), "number", SHOW_NUMBER},          {L("TIER", 1), "tier", SHOW_TEXT},
    {FLEX("RULE", 0, 12), "name", SHOW_TEXT},    {R("PACKETS", 0), "packets", SHOW_COUNT},
    {R("BYTES", 2), "bytes", SHOW_BYTES},        {FLEX("WHAT IT SAYS", 0, 24), "text", SHOW_TEXT},
};
static const struct list_column counter_columns[] = {
    {L("COUNTER", 0), "name", SHOW_TEXT},        {R("PACKETS", 0), "packets", SHOW_NUMBER},
    {R("BYTES", 0), "bytes", SHOW_NUMBER},
};
static const struct list_column set_columns[] = {
    {L("SET", 0), "name", SHOW_TEXT},            {L("OF", 0), "kind", SHOW_TEXT},
    {R("RANGES", 0), "members", SHOW_NUMBER},    {FLEX("THE FIRST", 1, 20), "first", SHOW_LIST},
};
#define COLUMNS(table) table, sizeof table / sizeof table[0]
const struct list list_policy_history = {"revisions", &usher__control__v1__policy_revision__descriptor,
                                         "there never was a policy: everything passes", COLUMNS(history_columns)};
const struct list list_policy_rules = {"rules", &usher__control__v1__policy_rule__descriptor,
                                       "the policy in force has no rules", COLUMNS(rule_columns)};
const struct list list_policy_counters = {"counters", &usher__control__v1__policy_counter__descriptor,
                                          "no rule names a counter", COLUMNS(counter_columns)};
const struct list list_policy_sets = {"sets", &usher__control__v1__policy_set__descriptor,
                                      "the policy in force has no sets", COLUMNS(set_columns)};
/* clang-format on */

/* One line: `head`, then as much of `text` as fits. */
static void line(const struct screen *s, enum tone tone, const char *head, const char *text) {
    char clean[LINE_MAX_BYTES];
    size_t used = text_columns(head);
    text_clean(text, clean, sizeof clean);
    size_t room = s->width > used ? s->width - used : 0;
    size_t n = s->width == 0 ? strlen(clean) : text_cut(clean, room);
    (void)fprintf(s->out, "%s%s%.*s%s\n", tone_on(s, tone), head, (int)n, clean, tone_off(s, tone));
}

/* ---- checks ---- */

void policy_print_gaps(PB(PolicyGap) * *gaps, size_t given, uint32_t count, const struct screen *s) {
    for (size_t i = 0; i < given; i++) {
        char name[96];
        text_clean(gaps[i]->rule, name, sizeof name);
        if (name[0] != '\0')
            (void)fprintf(s->out, "%srule %s (line %u) is open for kernel sockets%s: %s\n", tone_on(s, TONE_WARN), name,
                          gaps[i]->line, tone_off(s, TONE_WARN), gaps[i]->why);
        else
            (void)fprintf(s->out, "%skernel sockets are not judged%s: %s\n", tone_on(s, TONE_WARN),
                          tone_off(s, TONE_WARN), gaps[i]->why);
    }
    if (count > given)
        (void)fprintf(s->out, "... %u such rules in all\n", count);
}

void policy_print_check(const PB(CheckPolicyResponse) * a, const char *file, const struct screen *s) {
    for (size_t i = 0; i < a->n_problems; i++) {
        char clean[LINE_MAX_BYTES];
        text_clean(a->problems[i], clean, sizeof clean);
        (void)fprintf(s->out, "%s\n", clean);
    }
    if (!a->valid)
        (void)fprintf(s->out, "%s%s has %u mistake%s%s\n", tone_on(s, TONE_BAD), file, a->problem_count,
                      a->problem_count == 1 ? "" : "s", tone_off(s, TONE_BAD));
    else
        (void)fprintf(s->out, "%s%s is good%s: %u rules, %u sets, %u questions about owners, %u limits\n",
                      tone_on(s, TONE_GOOD), file, tone_off(s, TONE_GOOD), a->rules, a->sets, a->owners, a->limits);
    policy_print_gaps(a->gaps, a->n_gaps, a->gap_count, s);
}

/* ---- differences ---- */

static void change_print(const PB(PolicyChange) * m, const struct screen *s) {
    static const char signs[] = "?+-~^";
    static const enum tone tones[] = {TONE_PLAIN, TONE_GOOD, TONE_BAD, TONE_WARN, TONE_DIM};
    uint32_t kind = m->kind >= 1 && m->kind <= 4 ? (uint32_t)m->kind : 0;
    char head[192], name[96];
    text_clean(m->name, name, sizeof name);
    (void)snprintf(head, sizeof head, "%c %-7s %-20s  ", signs[kind], m->what, name);
    if (kind == 2)
        line(s, tones[kind], head, m->before);
    else if (kind == 4)
        line(s, tones[kind], head, "stands elsewhere in the order");
    else
        line(s, tones[kind], head, kind == 3 ? m->before : m->after);
    if (kind != 3)
        return;
    (void)snprintf(head, sizeof head, "%*s> ", (int)text_columns(head) - 2, "");
    line(s, tones[kind], head, m->after);
}

void policy_print_diff(const PB(DiffPolicyResponse) * a, const struct screen *s) {
    uint32_t counts[5] = {0};
    for (size_t i = 0; i < a->n_changes; i++) {
        counts[a->changes[i]->kind >= 1 && a->changes[i]->kind <= 4 ? a->changes[i]->kind : 0]++;
        change_print(a->changes[i], s);
    }
    if (a->change_count == 0)
        (void)fprintf(s->out, "nothing changes against revision %" PRIu64 "\n", a->base_revision);
    else if (a->change_count > a->n_changes)
        (void)fprintf(s->out, "... %u changes in all against revision %" PRIu64 "\n", a->change_count,
                      a->base_revision);
    else
        (void)fprintf(s->out, "%u added, %u removed, %u changed, %u moved against revision %" PRIu64 "\n", counts[1],
                      counts[2], counts[3], counts[4], a->base_revision);
}

/* ---- into force ---- */

void policy_print_apply(const PB(ApplyPolicyResponse) * a, uint64_t now_unix_ns, const struct screen *s) {
    char took[TEXT_NUMBER_MAX], left[TEXT_NUMBER_MAX];
    text_duration(a->took_ns, took);
    (void)fprintf(s->out, "revision %" PRIu64 " is in force after %s: %u rules", a->revision, took, a->rules);
    if (a->before != 0)
        (void)fprintf(s->out, "; it was revision %" PRIu64, a->before);
    (void)fputc('\n', s->out);
    if (a->gap_count != 0)
        (void)fprintf(s->out, "%skernel sockets are not judged by all of it%s: %u gaps, see usherctl policy check\n",
                      tone_on(s, TONE_WARN), tone_off(s, TONE_WARN), a->gap_count);
    if (a->confirm_by_unix_ns == 0)
        return;
    text_duration(a->confirm_by_unix_ns > now_unix_ns ? a->confirm_by_unix_ns - now_unix_ns : 0, left);
    (void)fprintf(s->out, "%sit goes back by itself in %s unless you say: usherctl policy confirm%s\n",
                  tone_on(s, TONE_WARN), left, tone_off(s, TONE_WARN));
}

/* ---- explanations ---- */

static enum tone verdict_tone(const char *verdict) {
    return strcmp(verdict, "allow") == 0 ? TONE_GOOD : TONE_BAD;
}

static void rule_print(const char *mark, const PB(PolicyRule) * r, const struct screen *s) {
    char head[192], name[96];
    text_clean(r->name, name, sizeof name);
    (void)snprintf(head, sizeof head, "            %s %s (line %u): ", mark, name, r->line);
    line(s, TONE_PLAIN, head, r->text);
}

static void tier_print(const PB(ExplainedTier) * t, const struct screen *s) {
    if (!t->asked) {
        (void)fprintf(s->out, "  %-9s %snot asked: a tier above has closed%s\n", t->tier, tone_on(s, TONE_DIM),
                      tone_off(s, TONE_DIM));
        return;
    }
    (void)fprintf(s->out, "  %-9s %s%s%s%s\n", t->tier, tone_on(s, verdict_tone(t->verdict)), t->verdict,
                  tone_off(s, verdict_tone(t->verdict)), t->rule == NULL ? ", by default" : "");
    for (size_t i = 0; i < t->n_passed; i++)
        rule_print("goes on after", t->passed[i], s);
    if (t->rule != NULL)
        rule_print("decided by", t->rule, s);
}

static void place_print(const PB(ExplainedPlace) * m, const char *title, const struct screen *s) {
    char head[192], place[128];
    text_clean(m->place, place, sizeof place);
    (void)snprintf(head, sizeof head, "  %-9s %s: ", title, place);
    line(s, verdict_tone(m->verdict), head, m->verdict);
    line(s, TONE_DIM, "              ", m->why);
}

void policy_print_explain(const PB(ExplainPolicyResponse) * a, const struct screen *s) {
    (void)fprintf(s->out, "%s\n%s%s%s by %s\n", a->packet, tone_on(s, verdict_tone(a->verdict)), a->verdict,
                  tone_off(s, verdict_tone(a->verdict)), a->decided_by);
    for (size_t i = 0; i < a->n_tiers; i++)
        tier_print(a->tiers[i], s);
    for (size_t i = 0; i < a->n_leaves; i++)
        (void)fprintf(s->out, "  %-9s %s\n", i == 0 ? "leaves" : "", a->leaves[i]);
    if (a->error[0] != '\0')
        (void)fprintf(s->out, "  %-9s %s\n", "program", a->error);
    for (size_t i = 0; i < a->n_places; i++)
        place_print(a->places[i], i == 0 ? "where" : "", s);
}
