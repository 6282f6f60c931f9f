/* SPDX-License-Identifier: Apache-2.0
 *
 * The rpc layer with a service made for it and a client over the same core: unary calls, errors with details, streams
 * and their flow, cancelling, limits, roles, malformed bytes, and the core's coming and going. The server's loop runs
 * on a thread of its own, as usherd's does; the client waits on the test's.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/rpc/rpc.h"
#include "google/rpc/status.pb-c.h"
#include "grpc/health/v1/health.pb-c.h"
#include "test/harness/rpc_client.h"

/* Any message will do for a service of the test: a health request is one text, a health answer one number. */
typedef Grpc__Health__V1__HealthCheckRequest request_t;
typedef Grpc__Health__V1__HealthCheckResponse answer_t;

static struct {
    sd_event *event;
    struct rpc_server *server;
    struct rpc_limits limits;
    pthread_t thread;
    char dir[64], path[96];
    int stop_fd;
    atomic_uint asked, opened, closed, audits;
    char audit[512];
    struct rpc_stats stats;
    atomic_bool idle;
} t;

static void answer_number(struct rpc_call *c, uint32_t n) {
    answer_t a = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    a.status = (Grpc__Health__V1__HealthCheckResponse__ServingStatus)n;
    rpc_answer(c, &a.base);
}

static enum rpc_code echo(struct rpc_call *c, void *arg, const void *request) {
    const request_t *q = request;
    (void)arg;
    rpc_audit(c, q->service, "this", "that");
    if (strcmp(q->service, "fail") == 0)
        return rpc_fail(c, RPC_NOT_FOUND, "NO_SUCH_THING", "service", "there is no %s", q->service);
    answer_number(c, (uint32_t)strlen(q->service));
    return RPC_OK;
}

struct counting {
    uint32_t next, last;
};

static enum rpc_code count_open(struct rpc_call *c, void *arg, const void *request, void *state) {
    const request_t *q = request;
    struct counting *s = state;
    (void)arg;
    if (q->service[0] == '-')
        return rpc_fail(c, RPC_INVALID_ARGUMENT, "NEGATIVE", "service", "cannot count down");
    s->last = (uint32_t)strtoul(q->service, NULL, 10);
    atomic_fetch_add(&t.opened, 1);
    return RPC_OK;
}

/* Every other number comes only after a wait, so that both ways are walked. */
static enum rpc_next count_next(struct rpc_call *c, void *arg, void *state) {
    struct counting *s = state;
    (void)arg;
    atomic_fetch_add(&t.asked, 1);
    if (s->next / 2 == s->last)
        return RPC_NEXT_END;
    if (s->next++ % 2 == 0) {
        rpc_stream_ready(c);
        return RPC_NEXT_WAIT;
    }
    answer_number(c, s->next / 2);
    return RPC_NEXT_SENT;
}

static void count_close(void *arg, void *state) {
    (void)arg;
    (void)state;
    atomic_fetch_add(&t.closed, 1);
}

#define REQUEST .request = &grpc__health__v1__health_check_request__descriptor
static const struct rpc_method methods[] = {
    {.name = "Echo", REQUEST, .role = RPC_ROLE_VIEWER, .unary = echo},
    {.name = "Change", REQUEST, .role = RPC_ROLE_OPERATOR, .change = true, .unary = echo},
    {.name = "Count",
     REQUEST,
     .role = RPC_ROLE_VIEWER,
     .open = count_open,
     .next = count_next,
     .close = count_close,
     .state_size = sizeof(struct counting)},
};
static const struct rpc_service services[] = {{"test.Service", methods, sizeof methods / sizeof methods[0], NULL}};

static void audit(void *arg, const struct rpc_audit_record *r) {
    (void)arg;
    (void)snprintf(t.audit, sizeof t.audit, "%s %s %s %s->%s %d", r->caller->name, r->method, r->target, r->before,
                   r->after, (int)r->code);
    atomic_fetch_add(&t.audits, 1);
}

/* ---- the server's thread ---- */

static int on_stop(sd_event_source *source, int fd, uint32_t events, void *arg) {
    (void)source;
    (void)fd;
    (void)events;
    (void)arg;
    return sd_event_exit(t.event, 0);
}

static int on_tick(sd_event_source *source, uint64_t usec, void *arg) {
    (void)usec;
    (void)arg;
    rpc_server_stats(t.server, &t.stats);
    atomic_store(&t.idle, !t.stats.core_running);
    (void)sd_event_source_set_time_relative(source, 2000);
    return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

static void *serve(void *arg) {
    const struct rpc_params p = {
        .event = t.event,
        .path = t.path,
        .listen_fd = -1,
        .group = "",
        .mode = 0600,
        .limits = t.limits,
        .services = services,
        .service_count = 1,
        .audit = audit,
    };
    char err[256];
    cr_assert_eq(rpc_server_create(&p, &t.server, err, sizeof err), 0, "%s", err);
    (void)eventfd_write(*(int *)arg, 1);
    (void)sd_event_add_io(t.event, NULL, t.stop_fd, EPOLLIN, on_stop, NULL);
    (void)sd_event_add_time_relative(t.event, NULL, CLOCK_MONOTONIC, 0, 0, on_tick, NULL);
    (void)sd_event_loop(t.event);
    rpc_server_destroy(t.server);
    return NULL;
}

static void begin(void) {
    eventfd_t ignored;
    int ready = eventfd(0, 0);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)snprintf(t.dir, sizeof t.dir, "/tmp/usher-rpc-XXXXXX");
    cr_assert_not_null(mkdtemp(t.dir));
    (void)snprintf(t.path, sizeof t.path, "%s/control.sock", t.dir);
    if (t.limits.connections == 0)
        t.limits =
            (struct rpc_limits){.connections = 8, .caller_connections = 8, .caller_calls = 16, .idle_stop_us = 20000};
    t.stop_fd = eventfd(0, EFD_NONBLOCK);
    cr_assert_geq(sd_event_new(&t.event), 0);
    cr_assert_eq(pthread_create(&t.thread, NULL, serve, &ready), 0);
    cr_assert_eq(eventfd_read(ready, &ignored), 0);
    (void)close(ready);
}

static void end(void) {
    (void)eventfd_write(t.stop_fd, 1);
    (void)pthread_join(t.thread, NULL);
    sd_event_unref(t.event);
    (void)close(t.stop_fd);
    cr_assert_neq(access(t.path, F_OK), 0, "the socket's path is gone");
    (void)rmdir(t.dir);
}

TestSuite(rpc, .init = begin, .fini = end, .timeout = 30);
TestSuite(rpc_limits, .timeout = 30);

static size_t request_pack(const char *service, uint8_t *ret_bytes) {
    request_t q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    q.service = (char *)(uintptr_t)service;
    return grpc__health__v1__health_check_request__pack(&q, ret_bytes);
}

static struct rpc_client_answer call(struct rpc_client *c, const char *method, const char *service) {
    uint8_t bytes[256];
    return rpc_client_call(c, method, bytes, request_pack(service, bytes), 10000);
}

static int number_of(const struct rpc_client_answer *a) {
    answer_t *m = grpc__health__v1__health_check_response__unpack(NULL, a->size, a->bytes);
    cr_assert_not_null(m);
    int n = (int)m->status;
    grpc__health__v1__health_check_response__free_unpacked(m, NULL);
    return n;
}

static int number_take(struct rpc_client_answer a) {
    cr_assert_eq(a.code, 0, "%s", a.text);
    cr_assert_not_null(a.bytes);
    int n = number_of(&a);
    free(a.bytes);
    return n;
}

/* ---- unary ---- */

Test(rpc, unary_answers) {
    struct rpc_client *c = rpc_client_open(t.path);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(number_take(call(c, "/test.Service/Echo", "four")), 4);
    rpc_client_close(c);
}

Test(rpc, errors_say_code_text_reason_and_field) {
    struct rpc_client *c = rpc_client_open(t.path);
    struct rpc_client_answer a = call(c, "/test.Service/Echo", "fail");
    cr_assert_eq(a.code, RPC_NOT_FOUND);
    cr_assert_str_eq(a.text, "there is no fail");
    Google__Rpc__Status *s = google__rpc__status__unpack(NULL, a.details_size, a.details);
    cr_assert(s != NULL && s->code == RPC_NOT_FOUND && s->n_details == 2);
    Google__Rpc__ErrorInfo *info =
        google__rpc__error_info__unpack(NULL, s->details[0]->value.len, s->details[0]->value.data);
    cr_assert_str_eq(info->reason, "NO_SUCH_THING");
    cr_assert_str_eq(info->domain, "usher");
    Google__Rpc__BadRequest *bad =
        google__rpc__bad_request__unpack(NULL, s->details[1]->value.len, s->details[1]->value.data);
    cr_assert_str_eq(bad->field_violations[0]->field, "service");
    google__rpc__bad_request__free_unpacked(bad, NULL);
    google__rpc__error_info__free_unpacked(info, NULL);
    google__rpc__status__free_unpacked(s, NULL);
    rpc_client_close(c);
}

Test(rpc, what_is_not_there_is_unimplemented) {
    static const char *const paths[] = {"/test.Service/Nonesuch", "/nonesuch.Service/Echo", "/test.Service", "/", "/x/",
                                        "/test.Servic/Echo",      "/test.Service/Echo/"};
    struct rpc_client *c = rpc_client_open(t.path);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        cr_assert_eq(call(c, paths[i], "").code, RPC_UNIMPLEMENTED, "%s", paths[i]);
    rpc_client_close(c);
}

Test(rpc, malformed_requests_are_refused) {
    static const struct {
        const char *bytes;
        size_t size;
    } bad[] = {{"\xff", 1},
               {"\x0a\x05x", 3},
               {"\x0a\x01\xff", 3},
               {"\x0a\x01\0", 3},
               {"\x0b\x0c", 2},
               {"\x00\x00", 2},
               {"\x0a\xff\xff\xff\xff\x0f", 6}};
    struct rpc_client *c = rpc_client_open(t.path);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct rpc_client_answer a = rpc_client_call(c, "/test.Service/Echo", bad[i].bytes, bad[i].size, 10000);
        cr_assert_eq(a.code, RPC_INVALID_ARGUMENT, "%zu: %d %s", i, a.code, a.text);
    }
    static char large[RPC_MESSAGE_MAX + 1];
    cr_assert_eq(rpc_client_call(c, "/test.Service/Echo", large, sizeof large, 10000).code, RPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(number_take(call(c, "/test.Service/Echo", "x")), 1);
    rpc_client_close(c);
}

Test(rpc, changes_are_audited_with_what_was_and_is) {
    struct rpc_client *c = rpc_client_open(t.path);
    cr_assert_eq(number_take(call(c, "/test.Service/Echo", "no change")), 9);
    cr_assert_eq(t.audits, 0);
    cr_assert_eq(number_take(call(c, "/test.Service/Change", "thing")), 5);
    cr_assert_eq(t.audits, 1);
    cr_assert_not_null(strstr(t.audit, " /test.Service/Change thing this->that 0"), "%s", t.audit);
    cr_assert_eq(call(c, "/test.Service/Change", "fail").code, RPC_NOT_FOUND);
    cr_assert_eq(t.audits, 2);
    cr_assert_not_null(strstr(t.audit, "fail this->that 5"), "%s", t.audit);
    rpc_client_close(c);
}

/* ---- streams ---- */

static struct rpc_client_stream *stream_open(struct rpc_client *c, const char *service, int timeout_ms) {
    uint8_t bytes[64];
    return rpc_client_stream_open(c, "/test.Service/Count", bytes, request_pack(service, bytes), timeout_ms);
}

Test(rpc, streams_give_every_message_in_order) {
    struct rpc_client *c = rpc_client_open(t.path);
    struct rpc_client_stream *s = stream_open(c, "1000", 20000);
    for (int i = 1; i <= 1000; i++)
        cr_assert_eq(number_take(rpc_client_stream_next(s)), i);
    struct rpc_client_answer last = rpc_client_stream_next(s);
    cr_assert(last.bytes == NULL && last.code == RPC_OK, "%d %s", last.code, last.text);
    rpc_client_stream_close(s);
    cr_assert_eq(t.closed, 1);
    rpc_client_close(c);
}

Test(rpc, a_stream_that_cannot_begin_tells_why) {
    struct rpc_client *c = rpc_client_open(t.path);
    struct rpc_client_stream *s = stream_open(c, "-1", 10000);
    struct rpc_client_answer a = rpc_client_stream_next(s);
    cr_assert(a.bytes == NULL && a.code == RPC_INVALID_ARGUMENT);
    rpc_client_stream_close(s);
    cr_assert_eq(t.closed, 0, "what was not opened is not closed");
    rpc_client_close(c);
}

static void await_closed(unsigned n) {
    while (atomic_load(&t.closed) < n)
        (void)sched_yield(); /* the suite's time limit ends a wait in vain */
}

/* The core takes what flow control lets it take, then the layer waits: a reader that does not read costs no work. */
Test(rpc, a_reader_that_does_not_read_stops_the_stream) {
    struct rpc_client *c = rpc_client_open(t.path);
    struct rpc_client_stream *s = stream_open(c, "100000000", 20000);
    for (int i = 1; i <= 10; i++)
        cr_assert_eq(number_take(rpc_client_stream_next(s)), i);
    /* What another caller is answered meanwhile shows that the loop is free. */
    unsigned before, asked = atomic_load(&t.asked);
    do {
        before = asked;
        for (int i = 0; i < 200; i++)
            cr_assert_eq(number_take(call(c, "/test.Service/Echo", "x")), 1);
        asked = atomic_load(&t.asked);
    } while (asked != before);
    cr_assert_lt(asked, 2000000, "the stream was not stopped by its reader");
    rpc_client_stream_close(s);
    await_closed(1);
    rpc_client_close(c);
}

Test(rpc, a_deadline_ends_a_stream) {
    struct rpc_client *c = rpc_client_open(t.path);
    struct rpc_client_stream *s = stream_open(c, "100000000", 100);
    struct rpc_client_answer a;
    while ((a = rpc_client_stream_next(s)).bytes != NULL)
        free(a.bytes);
    cr_assert_eq(a.code, RPC_DEADLINE_EXCEEDED);
    rpc_client_stream_close(s);
    /* On a slow machine the time may be over before it began; then there is nothing to close. */
    cr_assert_eq(number_take(call(c, "/test.Service/Echo", "x")), 1);
    await_closed(atomic_load(&t.opened));
    rpc_client_close(c);
}

Test(rpc, the_end_of_the_server_ends_streams) {
    struct rpc_client *c = rpc_client_open(t.path);
    uint8_t bytes[8];
    struct rpc_client_stream *s =
        rpc_client_stream_open(c, "/grpc.health.v1.Health/Watch", bytes, request_pack("", bytes), 20000);
    cr_assert_eq(number_take(rpc_client_stream_next(s)), 1);
    (void)eventfd_write(t.stop_fd, 1);
    struct rpc_client_answer a = rpc_client_stream_next(s);
    cr_assert(a.bytes == NULL && a.code == RPC_UNAVAILABLE, "%d %s", a.code, a.text);
    rpc_client_stream_close(s);
    rpc_client_close(c);
}

/* ---- life ---- */

Test(rpc, the_core_ends_when_nobody_is_connected_and_comes_back) {
    for (unsigned round = 1; round <= 3; round++) {
        struct rpc_client *c = rpc_client_open(t.path);
        cr_assert_eq(number_take(call(c, "/test.Service/Echo", "abc")), 3);
        while (atomic_load(&t.idle))
            (void)sched_yield();
        cr_assert_eq(t.stats.core_starts, round);
        rpc_client_close(c);
        while (!atomic_load(&t.idle))
            (void)sched_yield();
        cr_assert_eq(t.stats.connections_now, 0);
        cr_assert_eq(t.stats.calls_now, 0);
    }
}

Test(rpc_limits, calls_and_rate) {
    t.limits = (struct rpc_limits){
        .connections = 8, .caller_connections = 8, .caller_calls = 2, .caller_rate = 10, .idle_stop_us = 1000000};
    begin();
    struct rpc_client *c = rpc_client_open(t.path);
    struct rpc_client_stream *s[2];
    for (int i = 0; i < 2; i++) {
        s[i] = stream_open(c, "100000000", 20000);
        cr_assert_eq(number_take(rpc_client_stream_next(s[i])), 1);
    }
    struct rpc_client_answer a = call(c, "/test.Service/Echo", "x");
    cr_assert_eq(a.code, RPC_RESOURCE_EXHAUSTED);
    cr_assert_not_null(strstr(a.text, "control.caller_calls"), "%s", a.text);
    for (int i = 0; i < 2; i++)
        rpc_client_stream_close(s[i]);
    await_closed(2);
    int limited = 0;
    for (int i = 0; i < 1000 && !limited; i++) {
        a = call(c, "/test.Service/Echo", "x");
        free(a.bytes);
        limited = a.code == RPC_RESOURCE_EXHAUSTED && strstr(a.text, "control.caller_rate") != NULL;
    }
    cr_assert(limited);
    rpc_client_close(c);
    end();
}

static int plain_connect(void) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    (void)snprintf(sa.sun_path, sizeof sa.sun_path, "%s", t.path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

/* A server speaks first in HTTP/2: settings, or nothing but the end. */
static bool is_served(int fd) {
    char byte;
    return recv(fd, &byte, 1, 0) == 1;
}

Test(rpc_limits, connections) {
    t.limits =
        (struct rpc_limits){.connections = 3, .caller_connections = 2, .caller_calls = 16, .idle_stop_us = 1000000};
    begin();
    int fd[3];
    for (int i = 0; i < 3; i++) {
        fd[i] = plain_connect();
        cr_assert_eq(is_served(fd[i]), i < 2, "connection %d", i);
    }
    for (int i = 0; i < 3; i++)
        (void)close(fd[i]);
    /* Those that ended count no more; the core needs a moment to see it. */
    for (bool served = false; !served;) {
        int again = plain_connect();
        served = is_served(again);
        (void)close(again);
    }
    end();
}
