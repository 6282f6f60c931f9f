/* SPDX-License-Identifier: Apache-2.0
 *
 * `usherctl doctor`: asks, has the checks judge, and shows what they found. Works without usherd too: then that is one
 * of the findings, and the host is judged all the same.
 */
#include "control/usherctl/doctor.h"

#include <stdarg.h>
#include <string.h>

#include "control/usherctl/json.h"
#include "control/usherctl/text.h"

static const struct {
    const char *word;
    enum tone tone;
} verdicts[] = {{"ok", TONE_GOOD}, {"note", TONE_PLAIN}, {"warn", TONE_WARN}, {"FAIL", TONE_BAD}};

void finding_add(struct findings *f, enum verdict verdict, const char *id, const char *costs, const char *mend,
                 const char *fmt, ...) {
    char text[sizeof f->list[0].what];
    va_list args;
    if (f->count == FINDING_MAX)
        return;
    struct finding *n = &f->list[f->count++];
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    *n = (struct finding){.verdict = verdict, .id = id, .costs = costs, .mend = mend};
    text_clean(text, n->what, sizeof n->what);
}

/* ---- showing ---- */

#define INDENT 29

/* Text with blanks to break at, from column INDENT on. */
static void print_wrapped(const struct screen *s, const char *text, enum tone tone) {
    size_t room = s->width > INDENT + 20 ? s->width - INDENT : 0;
    for (;;) {
        size_t n = room > 0 ? text_cut(text, room) : strlen(text);
        while (text[n] != '\0' && n > 0 && text[n] != ' ')
            n--;
        n = n > 0 || text[0] == '\0' ? n : text_cut(text, room);
        (void)fprintf(s->out, "%s%.*s%s\n", tone_on(s, tone), (int)n, text, tone_off(s, tone));
        text += n;
        text += *text == ' ';
        if (*text == '\0')
            return;
        (void)fprintf(s->out, "%*s", INDENT, "");
    }
}

static void print_finding(const struct finding *n, const struct screen *s) {
    (void)fprintf(s->out, "%s%-4s%s  %-21s  ", tone_on(s, verdicts[n->verdict].tone), verdicts[n->verdict].word,
                  tone_off(s, verdicts[n->verdict].tone), n->id);
    print_wrapped(s, n->what, TONE_PLAIN);
    char line[640];
    if (n->costs[0] != '\0') {
        (void)snprintf(line, sizeof line, "costs: %s", n->costs);
        (void)fprintf(s->out, "%*s", INDENT, "");
        print_wrapped(s, line, TONE_DIM);
    }
    if (n->mend[0] != '\0') {
        (void)snprintf(line, sizeof line, "mend:  %s", n->mend);
        (void)fprintf(s->out, "%*s", INDENT, "");
        print_wrapped(s, line, TONE_DIM);
    }
}

/* The worst last: it is what stands above the prompt. */
void doctor_print(const struct findings *f, const struct screen *s) {
    size_t counts[4] = {0};
    for (int v = VERDICT_OK; v <= VERDICT_FAIL; v++) {
        for (size_t i = 0; i < f->count; i++) {
            if (f->list[i].verdict == (enum verdict)v) {
                counts[v]++;
                print_finding(&f->list[i], s);
            }
        }
    }
    (void)fprintf(s->out, "%s%zu well, %zu to know, %zu weak, %zu broken%s\n", tone_on(s, TONE_TITLE), counts[0],
                  counts[1], counts[2], counts[3], tone_off(s, TONE_TITLE));
}

static void json_member(FILE *out, const char *name, const char *text, const char *end) {
    (void)fprintf(out, "\"%s\":", name);
    json_string(out, text);
    (void)fputs(end, out);
}

void doctor_json(const struct findings *f, FILE *out) {
    static const char *const words[] = {"ok", "note", "warn", "fail"};
    (void)fputs("{\"findings\":[", out);
    for (size_t i = 0; i < f->count; i++) {
        const struct finding *n = &f->list[i];
        (void)fputs(i > 0 ? ",\n{" : "\n{", out);
        json_member(out, "verdict", words[n->verdict], ",");
        json_member(out, "id", n->id, ",");
        json_member(out, "what", n->what, ",");
        json_member(out, "costs", n->costs, ",");
        json_member(out, "mend", n->mend, "}");
    }
    (void)fputs("\n]}\n", out);
}

/* ---- asking ---- */

static void answers_get(struct ctl *c, struct doctor_answers *a) {
    const PB(GetInfoRequest) info = USHER__CONTROL__V1__GET_INFO_REQUEST__INIT;
    const PB(ListWorkersRequest) workers = USHER__CONTROL__V1__LIST_WORKERS_REQUEST__INIT;
    const PB(ListPortsRequest) ports = USHER__CONTROL__V1__LIST_PORTS_REQUEST__INIT;
    const PB(ListRefusalsRequest) refusals = USHER__CONTROL__V1__LIST_REFUSALS_REQUEST__INIT;
    PB(GetCountersRequest) drops = USHER__CONTROL__V1__GET_COUNTERS_REQUEST__INIT;
    drops.prefix = (char *)(uintptr_t) "drop.";
    a->info = ctl_call(c, PB_METHOD(Daemon, GetInfo, get_info_response), &info);
    if (a->info == NULL)
        return;
    a->workers = ctl_call(c, PB_METHOD(Workers, List, list_workers_response), &workers);
    a->ports = ctl_call(c, PB_METHOD(Ports, List, list_ports_response), &ports);
    a->drops = ctl_call(c, PB_METHOD(Counters, Get, counters_snapshot), &drops);
    a->refusals = ctl_call(c, PB_METHOD(Sockets, ListRefusals, list_refusals_response), &refusals);
}

static void answers_free(const struct doctor_answers *a) {
    const void *const all[] = {a->info, a->workers, a->ports, a->drops, a->refusals};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ctl_free((void *)(uintptr_t)all[i]);
}

int run_doctor(struct ctl *c) {
    static struct findings f;
    struct doctor_answers a = {.info = NULL};
    f.count = 0;
    doctor_host("", &f);
    answers_get(c, &a);
    if (a.info == NULL)
        finding_add(&f, VERDICT_FAIL, "daemon.answer", "nothing is accelerated, and nothing can be asked",
                    c->fault.hint, "%s", c->fault.text);
    doctor_daemon(&a, &f);
    doctor_nic("", &a, &f);
    if (c->output == OUTPUT_JSON)
        doctor_json(&f, c->screen.out);
    else
        doctor_print(&f, &c->screen);
    answers_free(&a);
    size_t broken = 0;
    for (size_t i = 0; i < f.count; i++)
        broken += f.list[i].verdict == VERDICT_FAIL;
    if (broken == 0)
        return 0;
    memset(&c->fault, 0, sizeof c->fault); /* it was shown above */
    c->fault.exit = EXIT_FAILED;
    return -1;
}
