/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands that ask for a list and show it.
 */
#include <stdlib.h>
#include <string.h>

#include "control/usherctl/ctl.h"
#include "control/usherctl/filter.h"
#include "control/usherctl/json.h"
#include "control/usherctl/lists.h"
#include "control/usherctl/reflect.h"

static char *argument(const struct ctl *c, size_t i) {
    return i < c->given.arg_count ? (char *)(uintptr_t)c->given.args[i] : (char *)(uintptr_t) "";
}

/* ---- one answer ---- */

int run_workers(struct ctl *c) {
    const PB(ListWorkersRequest) request = USHER__CONTROL__V1__LIST_WORKERS_REQUEST__INIT;
    PB(ListWorkersResponse) *a = ctl_call(c, PB_METHOD(Workers, List, list_workers_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON) {
        ctl_json(c, a);
    } else {
        char mode[ENUM_WORD_MAX];
        list_cell_text(&a->base, "mode", SHOW_WORD, 0, mode, sizeof mode);
        if (c->screen.headers)
            (void)fprintf(c->screen.out, "mode %s: %s\n", mode, a->mode_why);
        list_print(&list_workers, &a->base, a->time_unix_ns, &c->screen);
    }
    ctl_free(a);
    return 0;
}

int run_shards(struct ctl *c) {
    const PB(ListWorkersRequest) request = USHER__CONTROL__V1__LIST_WORKERS_REQUEST__INIT;
    PB(ListWorkersResponse) *a = ctl_call(c, PB_METHOD(Workers, List, list_workers_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_shards, &a->base, a->time_unix_ns, &c->screen);
    ctl_free(a);
    return 0;
}

int run_ports(struct ctl *c) {
    PB(ListPortsRequest) request = USHER__CONTROL__V1__LIST_PORTS_REQUEST__INIT;
    request.name = argument(c, 0);
    PB(ListPortsResponse) *a = ctl_call(c, PB_METHOD(Ports, List, list_ports_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_ports, &a->base, a->time_unix_ns, &c->screen);
    ctl_free(a);
    return 0;
}

/* One engine by name shows its counters: they are why somebody asks for it. */
int run_engines(struct ctl *c) {
    PB(ListEnginesRequest) request = USHER__CONTROL__V1__LIST_ENGINES_REQUEST__INIT;
    request.name = argument(c, 0);
    PB(ListEnginesResponse) *a = ctl_call(c, PB_METHOD(Engines, List, list_engines_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else if (request.name[0] != '\0' && a->n_engines > 0)
        list_print(&list_engine_counters, &a->engines[0]->base, 0, &c->screen);
    else
        list_print(&list_engines, &a->base, 0, &c->screen);
    ctl_free(a);
    return 0;
}

int run_refusals(struct ctl *c) {
    const PB(ListRefusalsRequest) request = USHER__CONTROL__V1__LIST_REFUSALS_REQUEST__INIT;
    PB(ListRefusalsResponse) *a = ctl_call(c, PB_METHOD(Sockets, ListRefusals, list_refusals_response), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_refusals, &a->base, ctl_now_unix_ns(), &c->screen);
    ctl_free(a);
    return 0;
}

static int counters_show(struct ctl *c, const char *prefix, bool zeros) {
    PB(GetCountersRequest) request = USHER__CONTROL__V1__GET_COUNTERS_REQUEST__INIT;
    request.prefix = (char *)(uintptr_t)prefix;
    request.with_zeros = zeros;
    PB(CountersSnapshot) *a = ctl_call(c, PB_METHOD(Counters, Get, counters_snapshot), &request);
    if (a == NULL)
        return -1;
    if (c->output == OUTPUT_JSON)
        ctl_json(c, a);
    else
        list_print(&list_counters, &a->base, a->time_unix_ns, &c->screen);
    ctl_free(a);
    return 0;
}

int run_counters(struct ctl *c) {
    return counters_show(c, argument(c, 0), c->given.second[0] != NULL);
}

int run_drops(struct ctl *c) {
    return counters_show(c, "drop.", c->given.second[0] != NULL);
}

/* ---- streams of parts ---- */

struct parts {
    struct ctl *ctl;
    struct list_view *view; /* tables */
    const char *rows;       /* JSON: the repeated field */
    size_t count;
};

static void part_json(struct parts *p, const ProtobufCMessage *part) {
    FILE *out = p->ctl->screen.out;
    struct value rows;
    if (!reflect_find(part, p->rows, &rows))
        return;
    for (size_t i = 0; i < rows.count; i++) {
        (void)fputs(p->count++ > 0 ? "," : "", out);
        json_write(out, reflect_message(&rows, i), false);
    }
}

static bool on_part(void *arg, const ProtobufCMessage *part) {
    struct parts *p = arg;
    if (p->view != NULL)
        list_add(p->view, part);
    else
        part_json(p, part);
    return true;
}

int ctl_list_stream(struct ctl *c, struct client_method m, const void *request, const struct list *l) {
    struct parts p = {.ctl = c, .rows = l->rows};
    if (c->output == OUTPUT_JSON)
        (void)fprintf(c->screen.out, "{\"%s\":[", l->rows);
    else
        p.view = list_begin(l, ctl_now_unix_ns());
    int error = ctl_stream(c, m, request, false, on_part, &p);
    if (c->output == OUTPUT_JSON)
        (void)fputs("]}\n", c->screen.out);
    else if (p.view != NULL)
        list_end(p.view, &(struct screen){c->screen.out, c->screen.width, c->screen.color, c->screen.utf8,
                                          c->screen.headers && error == 0});
    return error;
}

int run_sessions(struct ctl *c) {
    PB(ListSessionsRequest) request = USHER__CONTROL__V1__LIST_SESSIONS_REQUEST__INIT;
    PB(SessionFilter) filter = USHER__CONTROL__V1__SESSION_FILTER__INIT;
    request.filter = &filter;
    if (filter_session(c, SESSION_OPTIONS_AT, &filter) != 0)
        return -1;
    return ctl_list_stream(c, PB_METHOD(Sessions, List, list_sessions_response), &request, &list_sessions);
}

int run_sockets(struct ctl *c) {
    struct socket_request request;
    if (filter_sockets(c, &request) != 0)
        return -1;
    return ctl_list_stream(c, PB_METHOD(Sockets, List, list_sockets_response), &request.list, &list_sockets);
}
