/* SPDX-License-Identifier: Apache-2.0
 *
 * usherctl qos: the counters twice, a second apart, shown as a tree of classes with rates.
 */
#include "control/usherctl/qos.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control/usherctl/text.h"

enum { CLASS, WEIGHT, RATE, GUARANTEE, CEILING, SENT, WAITS, DROPS, WHO, COLUMN_COUNT };

static const struct table_column columns[COLUMN_COUNT] = {
    [CLASS] = {"CLASS", false, 0, 12},      [WEIGHT] = {"WEIGHT", true, 1, 0},   [RATE] = {"RATE", true, 0, 0},
    [GUARANTEE] = {"AT LEAST", true, 2, 0}, [CEILING] = {"AT MOST", true, 0, 0}, [SENT] = {"SENT", true, 2, 0},
    [WAITS] = {"WAITS", true, 0, 0},        [DROPS] = {"DROPS", true, 0, 0},     [WHO] = {"WHO", false, 3, 12},
};

/* 1.2Mbit/s; "" for none. */
static const char *rate_text(uint64_t bps, char *text, size_t size) {
    char number[TEXT_NUMBER_MAX];
    text_count(bps, number);
    (void)snprintf(text, size, "%s%s", bps > 0 ? number : "", bps > 0 ? "bit/s" : "");
    return text;
}

static const PB(QosClass) * same(const PB(ListClassesResponse) * a, size_t at, const char *name) {
    if (a == NULL || at >= a->n_classes || strcmp(a->classes[at]->name, name) != 0)
        return NULL; /* the classes have changed meanwhile */
    return a->classes[at];
}

static uint64_t rate_of(const PB(ListClassesResponse) * before, const PB(ListClassesResponse) * now, size_t i) {
    const PB(QosClass) *c = now->classes[i], *was = same(before, i, c->name);
    if (was == NULL || now->time_unix_ns <= before->time_unix_ns || c->sent_bytes < was->sent_bytes)
        return 0;
    return (uint64_t)((double)(c->sent_bytes - was->sent_bytes) * 8e9 /
                      (double)(now->time_unix_ns - before->time_unix_ns));
}

/* "user bob, cgroup /games.slice, all others, each program alike" */
static void who_text(const PB(QosClass) * c, bool others, char *text, size_t size) {
    bool lines = c->each[0] != '\0' && strcmp(c->each, "flow") != 0;
    const struct {
        const char *before, *name, *after;
        bool there;
    } part[] = {{"user ", c->user, "", c->user[0] != '\0'},
                {"cgroup ", c->cgroup, "", c->cgroup[0] != '\0'},
                {"all others", "", "", others},
                {"each ", c->each, " alike", lines}};
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++)
        if (part[i].there && n < size)
            n += (size_t)snprintf(text + n, size - n, "%s%s%s%s", n > 0 ? ", " : "", part[i].before, part[i].name,
                                  part[i].after);
}

static void row(struct table *t, const PB(QosClass) * c, uint64_t rate, const char *fallback) {
    char text[512], number[TEXT_NUMBER_MAX];
    (void)snprintf(text, sizeof text, "%*s%s", (int)(c->depth < 16 ? 2 * c->depth : 32), "", c->name);
    table_cell(t, text, TONE_PLAIN);
    (void)snprintf(text, sizeof text, "%u", c->weight);
    table_cell(t, text, TONE_PLAIN);
    table_cell(t, rate > 0 ? rate_text(rate, text, sizeof text) : "0", TONE_PLAIN);
    table_cell(t, rate_text(c->guarantee_bps, text, sizeof text), TONE_PLAIN);
    table_cell(t, rate_text(c->ceiling_bps, text, sizeof text), TONE_PLAIN);
    text_bytes(c->sent_bytes, number);
    table_cell(t, number, TONE_PLAIN);
    text_bytes(c->waiting_bytes, number);
    table_cell(t, number, TONE_PLAIN);
    text_count(c->dropped_packets, number);
    table_cell(t, number, c->dropped_packets > 0 ? TONE_WARN : TONE_PLAIN);
    who_text(c, strcmp(c->name, fallback) == 0, text, sizeof text);
    table_cell(t, text, TONE_PLAIN);
}

void qos_print(const struct screen *s, const PB(ListClassesResponse) * before, const PB(ListClassesResponse) * now) {
    if (now->n_classes == 0) {
        if (s->headers)
            (void)fprintf(s->out, "%sthe policy has no classes: packets leave as they come%s\n", tone_on(s, TONE_DIM),
                          tone_off(s, TONE_DIM));
        return;
    }
    struct table *t = table_create(columns, COLUMN_COUNT);
    if (t == NULL)
        return;
    for (size_t i = 0; i < now->n_classes; i++)
        row(t, now->classes[i], rate_of(before, now, i), now->fallback);
    table_print(t, s);
    table_destroy(t);
    if (s->headers)
        (void)fprintf(s->out, "%snot shaped: what kernel sockets send, which leaves beside these classes%s\n",
                      tone_on(s, TONE_DIM), tone_off(s, TONE_DIM));
}

static PB(ListClassesResponse) * ask(struct ctl *c) {
    const PB(ListClassesRequest) request = USHER__CONTROL__V1__LIST_CLASSES_REQUEST__INIT;
    return ctl_call(c, PB_METHOD(Qos, ListClasses, list_classes_response), &request);
}

int run_qos(struct ctl *c) {
    PB(ListClassesResponse) *before = ask(c), *now = before;
    if (before == NULL)
        return -1;
    if (c->output == OUTPUT_JSON) {
        ctl_json(c, before);
    } else {
        if (before->n_classes > 0) {
            (void)nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
            now = ask(c);
        }
        if (now != NULL)
            qos_print(&c->screen, before, now);
    }
    if (now != before)
        ctl_free(now);
    ctl_free(before);
    return now != NULL ? 0 : -1;
}
