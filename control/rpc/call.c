/* SPDX-License-Identifier: Apache-2.0
 *
 * One call from its arrival to its end: a table of states and events. An event is a batch of the core that completed,
 * or a stream that has something to say. Control thread.
 *
 * Every call has one batch out from its arrival to its end that only waits for the end (CALL_CLOSED): so cancelling,
 * a deadline that passed and a connection that broke are all the same event, in every state.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/rpc/rpc_internal.h"
#include "engines/check.h"

/* ---- batches ---- */

static void batch(struct rpc_call *c, enum call_event event, const grpc_op *ops, size_t n) {
    c->tag[event] = (struct rpc_tag){.call = c, .event = (uint8_t)event};
    grpc_call_error e = grpc_call_start_batch(c->core, ops, n, &c->tag[event], NULL);
    CHECK(e == GRPC_CALL_OK); /* anything else is a wrong sequence of ours, never the peer's doing */
    c->batches++;
}

static void batch_closed(struct rpc_call *c) {
    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER, .data.recv_close_on_server.cancelled = &c->cancelled};
    batch(c, CALL_CLOSED, &op, 1);
}

static void batch_read(struct rpc_call *c) {
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &c->incoming};
    batch(c, CALL_MESSAGE, &op, 1);
}

static size_t op_headers(struct rpc_call *c, grpc_op *ops, size_t n) {
    if (!c->headers_sent)
        ops[n++] = (grpc_op){.op = GRPC_OP_SEND_INITIAL_METADATA};
    c->headers_sent = true;
    return n;
}

static size_t op_message(struct rpc_call *c, grpc_op *ops, size_t n) {
    if (c->answer == NULL)
        return n;
    ops[n++] = (grpc_op){.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = c->answer};
    c->server->stats.messages_sent++;
    c->server->stats.bytes_sent += grpc_byte_buffer_length(c->answer);
    return n;
}

static enum call_state send_message(struct rpc_call *c) {
    grpc_op ops[2] = {{0}};
    size_t n = op_headers(c, ops, 0);
    batch(c, CALL_SENT, ops, op_message(c, ops, n));
    return CALL_SENDING;
}

static void stream_close(struct rpc_call *c) {
    if (c->stream == NULL)
        return;
    if (c->method->close != NULL)
        c->method->close(c->service->arg, c->stream);
    free(c->stream);
    c->stream = NULL;
    c->server->counts[c->number].streams--;
}

/* The answer, if there is one, and the status. */
static enum call_state send_status(struct rpc_call *c) {
    grpc_op ops[3] = {{0}};
    grpc_slice text = grpc_slice_from_copied_string(c->text);
    grpc_metadata trailer = {0};
    size_t n = op_message(c, ops, op_headers(c, ops, 0));
    grpc_op *status = &ops[n++];
    c->judged = true;
    status->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
    status->data.send_status_from_server.status = (grpc_status_code)c->code;
    if (c->code != RPC_OK) {
        c->details_key = grpc_slice_from_static_string("grpc-status-details-bin");
        c->details_value = rpc_message_status(c);
        c->has_details = true;
        trailer = (grpc_metadata){.key = c->details_key, .value = c->details_value};
        status->data.send_status_from_server.status_details = &text;
        status->data.send_status_from_server.trailing_metadata = &trailer;
        status->data.send_status_from_server.trailing_metadata_count = 1;
        c->server->stats.failed_calls++;
    }
    stream_close(c); /* before the caller can know of the end */
    batch(c, CALL_SENT, ops, n);
    grpc_slice_unref(text);
    return CALL_ENDING;
}

static void answer_drop(struct rpc_call *c) {
    if (c->answer != NULL)
        grpc_byte_buffer_destroy(c->answer);
    c->answer = NULL;
}

/* ---- audit ---- */

static void audit(struct rpc_call *c) {
    struct rpc_audit_record r = {
        .caller = &c->caller,
        .method = c->path,
        .target = c->audit_target != NULL ? c->audit_target : "",
        .before = c->audit_before != NULL ? c->audit_before : "",
        .after = c->audit_after != NULL ? c->audit_after : "",
        .code = c->code,
        .text = c->text,
    };
    if (c->method->change && c->server->params.audit != NULL)
        c->server->params.audit(c->server->params.arg, &r);
    c->audit_target = c->audit_before = c->audit_after = NULL;
}

void rpc_audit(struct rpc_call *c, const char *target, const char *before, const char *after) {
    c->audit_target = target;
    c->audit_before = before;
    c->audit_after = after;
}

/* ---- arrival ---- */

static const struct rpc_method *method_find(const struct rpc_service *service, const char *name) {
    for (size_t i = 0; i < service->method_count; i++) {
        if (strcmp(service->methods[i].name, name) == 0)
            return &service->methods[i];
    }
    return NULL;
}

/* "/package.Service/Method". */
static bool path_find(struct rpc_call *c) {
    const struct rpc_server *s = c->server;
    const char *slash = c->path[0] == '/' ? strchr(c->path + 1, '/') : NULL;
    size_t length = slash != NULL ? (size_t)(slash - c->path) - 1 : 0;
    uint32_t first = 1;
    for (size_t i = 0; i < s->service_count && slash != NULL; i++) {
        const struct rpc_service *service = &s->services[i];
        if (strlen(service->name) == length && strncmp(service->name, c->path + 1, length) == 0) {
            c->service = service;
            c->method = method_find(service, slash + 1);
            c->number = c->method != NULL ? first + (uint32_t)(c->method - service->methods) : 0;
            return c->method != NULL;
        }
        first += (uint32_t)service->method_count;
    }
    return false;
}

static enum rpc_code role_check(struct rpc_call *c) {
    if (c->caller.role >= c->method->role)
        return RPC_OK;
    c->server->stats.denied_calls++;
    return rpc_fail(c, RPC_PERMISSION_DENIED, "ROLE_TOO_LOW", NULL,
                    "%s needs the role %s, and %s has the role %s; the setting control.roles of usherd gives roles",
                    c->path, rpc_role_text(c->method->role), c->caller.name, rpc_role_text(c->caller.role));
}

static enum rpc_code admit(struct rpc_call *c) {
    enum rpc_code code = rpc_peer_identify(c);
    if (code != RPC_OK)
        return code;
    if (c->server->stats.calls_now > RPC_CALLS_MAX)
        return rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", NULL,
                        "usherd has %u calls under way, its limit; try again later", RPC_CALLS_MAX);
    if (!path_find(c))
        return rpc_fail(c, RPC_UNIMPLEMENTED, "METHOD_UNKNOWN", NULL,
                        "this usherd has no method %s; ask the reflection service which it has", c->path);
    if (role_check(c) != RPC_OK)
        audit(c);
    return c->code;
}

static void path_take(struct rpc_call *c) {
    size_t n = GRPC_SLICE_LENGTH(c->details.method);
    n = n < sizeof c->path ? n : sizeof c->path - 1;
    memcpy(c->path, GRPC_SLICE_START_PTR(c->details.method), n);
    c->path[n] = '\0';
    for (size_t i = 0; i < n; i++) {
        if (c->path[i] < 0x21 || c->path[i] > 0x7e)
            c->path[i] = '?'; /* it goes into messages and the log */
    }
}

static enum call_state on_arrived(struct rpc_call *c, bool ok) {
    struct rpc_server *s = c->server;
    if (!ok)
        return CALL_OVER; /* the core is being stopped */
    if (!s->stopping)
        (void)rpc_call_await(s, (enum rpc_door)c->door);
    c->entered = true;
    s->stats.calls++;
    s->stats.calls_now++;
    path_take(c);
    batch_closed(c);
    if (admit(c) != RPC_OK)
        return send_status(c);
    batch_read(c);
    return CALL_READING;
}

/* ---- the request ---- */

static enum call_state stream_advance(struct rpc_call *c) {
    struct rpc_scratch *scratch = &c->server->scratch;
    answer_drop(c);
    c->ready = false;
    rpc_scratch_reset(scratch);
    if (role_check(c) != RPC_OK)
        return send_status(c); /* it had one when the stream began */
    enum rpc_next next = c->method->next(c, c->service->arg, c->stream);
    if (next == RPC_NEXT_WAIT)
        return CALL_WAITING;
    CHECK(next == RPC_NEXT_END || c->answer != NULL);
    return next == RPC_NEXT_SENT ? send_message(c) : send_status(c);
}

static enum call_state stream_begin(struct rpc_call *c, const void *request) {
    void *state = calloc(1, c->method->state_size);
    if (state == NULL) {
        (void)rpc_fail(c, RPC_RESOURCE_EXHAUSTED, "NO_MEMORY", NULL, "usherd has no memory for another stream");
        return send_status(c);
    }
    c->code = c->method->open(c, c->service->arg, request, state);
    audit(c);
    if (c->code != RPC_OK) {
        free(state);
        return send_status(c);
    }
    c->stream = state;
    c->server->counts[c->number].streams++;
    return stream_advance(c);
}

static enum call_state unary_run(struct rpc_call *c, const void *request) {
    answer_drop(c);
    c->code = c->method->unary(c, c->service->arg, request);
    CHECK(c->code != RPC_OK || c->answer != NULL);
    if (c->code != RPC_OK)
        answer_drop(c);
    audit(c);
    return c->code == RPC_OK && c->method->chat ? send_message(c) : send_status(c);
}

static enum call_state malformed(struct rpc_call *c, const char *why) {
    c->server->stats.malformed_requests++;
    (void)rpc_fail(c, RPC_INVALID_ARGUMENT, "MALFORMED_REQUEST", NULL,
                   "%s cannot be read: %s; check the client's "
                   ".proto files",
                   c->method->request->short_name, why);
    audit(c);
    return send_status(c);
}

static grpc_slice incoming_take(struct rpc_call *c) {
    grpc_byte_buffer_reader reader;
    grpc_slice bytes = grpc_empty_slice();
    if (grpc_byte_buffer_reader_init(&reader, c->incoming)) {
        bytes = grpc_byte_buffer_reader_readall(&reader);
        grpc_byte_buffer_reader_destroy(&reader);
    }
    grpc_byte_buffer_destroy(c->incoming);
    c->incoming = NULL;
    return bytes;
}

static enum call_state on_message(struct rpc_call *c, bool ok) {
    if (!ok || c->incoming == NULL) {
        if (c->method->chat)
            return send_status(c); /* the caller has no more to ask */
        return malformed(c, "the caller sent no message");
    }
    const char *why;
    grpc_slice bytes = incoming_take(c);
    rpc_scratch_reset(&c->server->scratch);
    const ProtobufCMessage *request = rpc_message_unpack(&c->server->scratch, c->method->request,
                                                         GRPC_SLICE_START_PTR(bytes), GRPC_SLICE_LENGTH(bytes), &why);
    grpc_slice_unref(bytes);
    if (request == NULL)
        return malformed(c, why);
    return c->method->unary != NULL ? unary_run(c, request) : stream_begin(c, request);
}

/* ---- sending ---- */

static enum call_state on_sent(struct rpc_call *c, bool ok) {
    answer_drop(c);
    if (!ok)
        return CALL_ENDING; /* the connection broke: CALL_CLOSED is on its way */
    if (!c->method->chat)
        return stream_advance(c);
    batch_read(c);
    return CALL_READING;
}

static enum call_state on_ready(struct rpc_call *c, bool ok) {
    (void)ok;
    return stream_advance(c);
}

static enum call_state on_status_sent(struct rpc_call *c, bool ok) {
    (void)c;
    (void)ok;
    return CALL_OVER;
}

/* Cancelled, too late, or the connection broke. */
static enum call_state on_closed(struct rpc_call *c, bool ok) {
    (void)ok;
    stream_close(c);
    return CALL_OVER;
}

/* ---- the table ---- */

typedef enum call_state action_fn(struct rpc_call *c, bool ok);

/* clang-format off */
static action_fn *const actions[CALL_STATE_COUNT][CALL_EVENT_COUNT] = {
    /*                 ARRIVED       MESSAGE       SENT             READY       CLOSED */
    [CALL_EMPTY]   = { on_arrived,   NULL,         NULL,            NULL,       NULL      },
    [CALL_READING] = { NULL,         on_message,   NULL,            NULL,       on_closed },
    [CALL_WAITING] = { NULL,         NULL,         NULL,            on_ready,   on_closed },
    [CALL_SENDING] = { NULL,         NULL,         on_sent,         NULL,       on_closed },
    [CALL_ENDING]  = { NULL,         NULL,         on_status_sent,  NULL,       on_closed },
    [CALL_OVER]    = { NULL,         NULL,         NULL,            NULL,       NULL      },
};
/* clang-format on */

static void call_free(struct rpc_call *c) {
    struct rpc_server *s = c->server;
    if (c->next != NULL)
        c->next->prev = c->prev;
    *(c->prev != NULL ? &c->prev->next : &s->calls) = c->next;
    if (c->entered) {
        s->stats.calls_now--;
        s->counts[c->number].ended[c->judged ? c->code : RPC_CANCELLED]++;
    }
    rpc_peer_release(c);
    answer_drop(c);
    if (c->incoming != NULL)
        grpc_byte_buffer_destroy(c->incoming);
    if (c->has_details) {
        grpc_slice_unref(c->details_key);
        grpc_slice_unref(c->details_value);
    }
    sd_event_source_disable_unref(c->timer);
    grpc_metadata_array_destroy(&c->metadata);
    grpc_call_details_destroy(&c->details);
    if (c->core != NULL)
        grpc_call_unref(c->core);
    free(c);
}

void rpc_call_event(struct rpc_call *c, enum call_event event, bool ok) {
    action_fn *action = actions[c->state][event];
    if (event != CALL_READY)
        c->batches--;
    if (action != NULL)
        c->state = (uint8_t)action(c, ok);
    if (c->state == CALL_OVER && c->batches == 0)
        call_free(c);
}

void rpc_call_end_unavailable(struct rpc_call *c) {
    if (c->state != CALL_WAITING)
        return;
    if (c->server->replaced)
        (void)rpc_fail(c, RPC_UNAVAILABLE, "REPLACED", NULL, "another usherd takes over; connect again in a moment");
    else
        (void)rpc_fail(c, RPC_UNAVAILABLE, "STOPPING", NULL,
                       "usherd ends; connect again when it has been started again");
    c->state = (uint8_t)send_status(c);
}

int rpc_call_await(struct rpc_server *s, enum rpc_door door) {
    struct rpc_call *c = calloc(1, sizeof *c);
    if (c == NULL)
        return -ENOMEM;
    c->server = s;
    c->door = (uint8_t)door;
    c->next = s->calls;
    if (s->calls != NULL)
        s->calls->prev = c;
    s->calls = c;
    grpc_call_details_init(&c->details);
    grpc_metadata_array_init(&c->metadata);
    c->tag[CALL_ARRIVED] = (struct rpc_tag){.call = c, .event = CALL_ARRIVED};
    grpc_call_error e = grpc_server_request_call(s->door[door], &c->core, &c->details, &c->metadata, s->queue, s->queue,
                                                 &c->tag[CALL_ARRIVED]);
    CHECK(e == GRPC_CALL_OK);
    c->batches = 1;
    return 0;
}

/* ---- for handlers ---- */

const struct rpc_caller *rpc_caller(const struct rpc_call *c) {
    return &c->caller;
}

void rpc_answer(struct rpc_call *c, const ProtobufCMessage *answer) {
    grpc_slice bytes = rpc_message_pack(answer);
    answer_drop(c);
    c->answer = grpc_raw_byte_buffer_create(&bytes, 1);
    grpc_slice_unref(bytes);
}

enum rpc_code rpc_fail(struct rpc_call *c, enum rpc_code code, const char *reason, const char *field, const char *fmt,
                       ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(c->text, sizeof c->text, fmt, args);
    va_end(args);
    c->code = code;
    (void)snprintf(c->reason, sizeof c->reason, "%s", reason);
    (void)snprintf(c->field, sizeof c->field, "%s", field != NULL ? field : "");
    return code;
}

void *rpc_alloc(struct rpc_call *c, size_t size) {
    void *p = rpc_scratch_alloc(&c->server->scratch, size);
    CHECK(p != NULL); /* a handler's own bound is wrong */
    return memset(p, 0, size);
}

void *rpc_new(struct rpc_call *c, const ProtobufCMessageDescriptor *d) {
    ProtobufCMessage *m = rpc_alloc(c, d->sizeof_message);
    protobuf_c_message_init(d, m);
    return m;
}

char *rpc_text(struct rpc_call *c, const char *fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t size = n < 0 ? 1 : (size_t)n < sizeof text ? (size_t)n + 1 : sizeof text;
    return memcpy(rpc_alloc(c, size), text, size);
}

/* Only noted: the caller may be in the middle of another call's handler. */
void rpc_stream_ready(struct rpc_call *c) {
    c->ready = true;
    (void)sd_event_source_set_enabled(c->server->ready_source, SD_EVENT_ONESHOT);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg) {
    (void)source;
    (void)usec;
    rpc_stream_ready(arg);
    return 0;
}

void rpc_stream_at(struct rpc_call *c, uint64_t usec) {
    sd_event *event = c->server->params.event;
    if (c->timer == NULL) {
        if (sd_event_add_time(event, &c->timer, CLOCK_MONOTONIC, usec, 10000, on_timer, c) < 0)
            rpc_stream_ready(c);
        return;
    }
    (void)sd_event_source_set_time(c->timer, usec);
    (void)sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
}
