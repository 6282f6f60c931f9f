/* SPDX-License-Identifier: Apache-2.0
 *
 * usher.control.v1.Events: what is logged is kept in a ring as well; every watcher has a place in it. Nothing is queued
 * for a watcher, so one that does not read costs nothing; it is told how much it missed. Control thread.
 */
#include <stdio.h>
#include <string.h>

#include "control/services/service_internal.h"
#include "usher/control/v1/counters.pb-c.h"

#define HISTORY_MAX 1000u

void events_take(void *arg, enum log_level level, const char *name, const char *text) {
    struct service *s = arg;
    struct event *e = &s->events[s->event_next++ % EVENTS_KEPT];
    *e = (struct event){.unix_ns = service_now_unix_ns(), .level = (uint8_t)level};
    (void)snprintf(e->name, sizeof e->name, "%s", name);
    (void)snprintf(e->text, sizeof e->text, "%s", text);
    for (struct watcher *w = s->watchers; w != NULL; w = w->next)
        rpc_stream_ready(w->call);
}

struct watch {
    struct watcher watcher;
    uint64_t at; /* number of the next event to look at */
    char prefix[32];
};

static enum rpc_code watch_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const PB(WatchEventsRequest) *q = request;
    struct service *s = arg;
    struct watch *w = state;
    if (q->history > HISTORY_MAX)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "OUT_OF_RANGE", "history",
                        "%u events of history are more than the %u that can be asked for", q->history, HISTORY_MAX);
    if (strlen(q->prefix) >= sizeof w->prefix)
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "TOO_LONG", "prefix", "no event's name is so long; shorten it");
    (void)snprintf(w->prefix, sizeof w->prefix, "%s", q->prefix);
    w->at = s->event_next > q->history ? s->event_next - q->history : 1;
    w->watcher = (struct watcher){.next = s->watchers, .call = c};
    s->watchers = &w->watcher;
    return RPC_OK;
}

static void answer(struct rpc_call *c, uint64_t number, const struct event *e) {
    PB(Event) m = USHER__CONTROL__V1__EVENT__INIT;
    m.time_unix_ns = e->unix_ns;
    m.number = number;
    m.level = (PB(EventLevel))(e->level + 1); /* the package's begin at 1 in the same order */
    m.name = PB_TEXT(e->name);
    m.text = PB_TEXT(e->text);
    rpc_answer(c, &m.base);
}

static void answer_missed(struct rpc_call *c, uint64_t number, uint64_t missed) {
    struct event e = {.unix_ns = service_now_unix_ns(), .level = LOG_LEVEL_WARNING, .name = "events.missed"};
    (void)snprintf(e.text, sizeof e.text, "%llu events were lost, because they were not read in time",
                   (unsigned long long)missed);
    answer(c, number, &e);
}

static enum rpc_next watch_next(struct rpc_call *c, void *arg, void *state) {
    const struct service *s = arg;
    struct watch *w = state;
    uint64_t oldest = s->event_next > EVENTS_KEPT ? s->event_next - EVENTS_KEPT : 1;
    if (w->at < oldest) {
        answer_missed(c, oldest - 1, oldest - w->at);
        w->at = oldest;
        return RPC_NEXT_SENT;
    }
    while (w->at < s->event_next) {
        uint64_t number = w->at++;
        const struct event *e = &s->events[number % EVENTS_KEPT];
        if (strncmp(e->name, w->prefix, strlen(w->prefix)) == 0) {
            answer(c, number, e);
            return RPC_NEXT_SENT;
        }
    }
    return RPC_NEXT_WAIT;
}

static void watch_close(void *arg, void *state) {
    struct service *s = arg;
    struct watch *w = state;
    struct watcher **link = &s->watchers;
    while (*link != &w->watcher)
        link = &(*link)->next;
    *link = w->watcher.next;
}

const struct rpc_method events_methods[] = {
    {.name = "Watch",
     PB_REQUEST(watch_events_request),
     .role = RPC_ROLE_VIEWER,
     .open = watch_open,
     .next = watch_next,
     .close = watch_close,
     .state_size = sizeof(struct watch)},
};
const size_t events_method_count = ARRAY_LEN(events_methods);
