/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon as a whole: what runs, its settings, its events.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/usherctl/ctl.h"
#include "control/usherctl/lists.h"
#include "control/usherctl/status.h"
#include "control/usherctl/text.h"

#define SETTINGS_MAX 60000 /* of CheckConfigRequest.yaml */

/* ---- status ---- */

struct line {
    const struct screen *s;
    size_t room; /* for the value */
};

/* "label      value": long values go on in lines of their own, under the first. */
static void print_line(const struct line *l, const char *label, enum tone tone, const char *value) {
    char clean[512];
    text_clean(value, clean, sizeof clean);
    (void)fprintf(l->s->out, "%s%-10s%s  ", tone_on(l->s, TONE_DIM), label, tone_off(l->s, TONE_DIM));
    const char *at = clean;
    while (text_columns(at) > l->room && l->room > 0) {
        size_t n = text_cut(at, l->room);
        while (n > 0 && at[n] != ' ')
            n--;
        n = n > 0 ? n : text_cut(at, l->room);
        (void)fprintf(l->s->out, "%s%.*s%s\n%12s", tone_on(l->s, tone), (int)n, at, tone_off(l->s, tone), "");
        at += n + (at[n] == ' ');
    }
    (void)fprintf(l->s->out, "%s%s%s\n", tone_on(l->s, tone), at, tone_off(l->s, tone));
}

void status_print(const struct screen *s, const PB(GetInfoResponse) * i, uint64_t now_unix_ns) {
    static const char *const roles[] = {"nobody", "viewer", "operator", "admin"};
    const struct line l = {s, s->width > 24 ? s->width - 12 : 0};
    char text[512], age[TEXT_NUMBER_MAX];
    text_duration(now_unix_ns > i->started_unix_ns ? now_unix_ns - i->started_unix_ns : 0, age);
    (void)snprintf(text, sizeof text, "usherd %s, pid %u, up %s", i->version, i->pid, age);
    print_line(&l, "daemon", TONE_TITLE, text);
    print_line(&l, "state", i->draining ? TONE_WARN : TONE_GOOD,
               i->draining ? "draining: no new sessions (usherctl resume lets them in again)" : "serving");
    (void)snprintf(text, sizeof text, "%s, Linux %s", i->hostname, i->kernel);
    print_line(&l, "host", TONE_PLAIN, text);
    (void)snprintf(text, sizeof text, "%u attached, %u socket%s, %u port%s claimed", i->sessions, i->sockets,
                   i->sockets == 1 ? "" : "s", i->claims, i->claims == 1 ? "" : "s");
    print_line(&l, "programs", TONE_PLAIN, text);
    (void)snprintf(text, sizeof text, "%llu attached, %llu refused since the start",
                   (unsigned long long)i->sessions_attached, (unsigned long long)i->sessions_refused);
    print_line(&l, "so far", i->sessions_refused > 0 ? TONE_WARN : TONE_PLAIN, text);
    (void)snprintf(text, sizeof text, "programs at %s", i->session_socket);
    print_line(&l, "doors", TONE_PLAIN, text);
    (void)snprintf(text, sizeof text, "operators at %s", i->control_socket);
    print_line(&l, "", TONE_PLAIN, text);
    for (size_t a = 0; a < i->n_control_addresses; a++) {
        (void)snprintf(text, sizeof text, "operators at %s (mutual TLS)", i->control_addresses[a]);
        print_line(&l, "", TONE_PLAIN, text);
    }
    print_line(&l, "settings", TONE_PLAIN, i->config_path);
    print_line(&l, "log level", TONE_PLAIN, i->log_level);
    print_line(&l, "keeper", TONE_PLAIN, i->keeper);
    if (i->caller != NULL) {
        unsigned role = (unsigned)i->caller->role;
        (void)snprintf(text, sizeof text, "%s, by %s: %s", i->caller->name, i->caller->via, roles[role < 4 ? role : 0]);
        print_line(&l, "you are", TONE_PLAIN, text);
    }
}

int run_status(struct ctl *c) {
    const PB(GetInfoRequest) request = USHER__CONTROL__V1__GET_INFO_REQUEST__INIT;
    PB(GetInfoResponse) *a = ctl_call(c, PB_METHOD(Daemon, GetInfo, get_info_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        status_print(&c->screen, a, ctl_now_unix_ns());
    ctl_free(a);
    return 0;
}

/* ---- settings ---- */

int run_config(struct ctl *c) {
    const PB(GetConfigRequest) request = USHER__CONTROL__V1__GET_CONFIG_REQUEST__INIT;
    PB(GetConfigResponse) *a = ctl_call(c, PB_METHOD(Daemon, GetConfig, get_config_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        (void)fprintf(c->screen.out, "# in force; read from %s\n%s", a->config_path, a->yaml);
    ctl_free(a);
    return 0;
}

static char *file_read(struct ctl *c, const char *path) {
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    char *text = calloc(1, SETTINGS_MAX + 2);
    size_t n = f != NULL && text != NULL ? fread(text, 1, SETTINGS_MAX + 1, f) : 0;
    bool bad = f == NULL || text == NULL || ferror(f) != 0;
    if (f != NULL && f != stdin)
        (void)fclose(f);
    if (!bad && n <= SETTINGS_MAX && n > 0)
        return text;
    free(text);
    if (bad)
        (void)ctl_usage(c, "%s cannot be read", path);
    else
        (void)ctl_usage(c, "%s is %s; usherd takes up to %d bytes", path, n == 0 ? "empty" : "too long", SETTINGS_MAX);
    return NULL;
}

static int verdict_show(struct ctl *c, const PB(CheckConfigResponse) * a, const char *what) {
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else if (a->valid)
        (void)fprintf(c->screen.out, "%s: valid\n", what);
    else
        for (size_t i = 0; i < a->n_problems; i++)
            (void)fprintf(c->screen.out, "%s\n", a->problems[i]);
    if (a->valid)
        return 0;
    fault_set(&c->fault, EXIT_FAILED, "%u problem%s in %s; usherd would not start with it", a->problem_count,
              a->problem_count == 1 ? "" : "s", what);
    return -1;
}

int run_check_config(struct ctl *c) {
    PB(CheckConfigRequest) request = USHER__CONTROL__V1__CHECK_CONFIG_REQUEST__INIT;
    bool file = c->given.arg_count > 0;
    char *text = file ? file_read(c, c->given.args[0]) : NULL;
    if (file && text == NULL)
        return -1;
    if (file)
        request.yaml = text;
    PB(CheckConfigResponse) *a = ctl_call(c, PB_METHOD(Daemon, CheckConfig, check_config_response), &request);
    free(text);
    if (a == NULL)
        return -1;
    int result = verdict_show(c, a, file ? c->given.args[0] : "the settings on disk");
    ctl_free(a);
    return result;
}

/* ---- events ---- */

static bool on_event(void *arg, const ProtobufCMessage *m) {
    static const enum tone tones[] = {TONE_PLAIN, TONE_BAD, TONE_WARN, TONE_PLAIN, TONE_DIM};
    struct ctl *c = arg;
    const PB(Event) *e = (const PB(Event) *)m;
    char clock[32], clean[1024];
    if (c->output == OUTPUT_JSON) {
        ctl_json(c, e);
        return ferror(c->screen.out) == 0;
    }
    time_t s = (time_t)(e->time_unix_ns / 1000000000u);
    struct tm tm;
    unsigned level = (unsigned)e->level;
    enum tone tone = tones[level < 5 ? level : 0];
    (void)strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&s, &tm));
    text_clean(e->text, clean, sizeof clean);
    (void)fprintf(c->screen.out, "%s%s.%03u%s  %s%-16s  %s%s\n", tone_on(&c->screen, TONE_DIM), clock,
                  (unsigned)(e->time_unix_ns / 1000000 % 1000), tone_off(&c->screen, TONE_DIM),
                  tone_on(&c->screen, tone), e->name, clean, tone_off(&c->screen, tone));
    (void)fflush(c->screen.out);
    return ferror(c->screen.out) == 0;
}

int run_events(struct ctl *c) {
    PB(WatchEventsRequest) request = USHER__CONTROL__V1__WATCH_EVENTS_REQUEST__INIT;
    uint64_t history = 10;
    if (c->given.second[0] != NULL && !ctl_number(c, c->given.second[0], "number up to 1000", 1000, &history))
        return -1;
    request.prefix = (char *)(uintptr_t)(c->given.arg_count > 0 ? c->given.args[0] : "");
    request.history = (uint32_t)history;
    c->watch_ns = 1; /* one JSON object a line */
    return ctl_stream(c, PB_METHOD(Events, Watch, event), &request, true, on_event, c);
}
