/* SPDX-License-Identifier: Apache-2.0
 *
 * See rpc_client.h. Each call has a completion queue of its own and plucks its batches from it one after another.
 */
#include "test/harness/rpc_client.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rpc_client {
    grpc_channel *channel;
};

struct rpc_client_stream {
    grpc_completion_queue *queue;
    grpc_call *call;
    grpc_metadata_array initial, trailing;
    grpc_status_code code;
    grpc_slice text;
    grpc_byte_buffer *message;
    int status_due, headers_due; /* not yet asked for */
};

struct rpc_client *rpc_client_open(const char *path) {
    char target[128];
    struct rpc_client *c = calloc(1, sizeof(*c));
    grpc_init();
    grpc_channel_credentials *creds = grpc_insecure_credentials_create();
    (void)snprintf(target, sizeof(target), "unix:%s", path);
    if (c != NULL)
        c->channel = grpc_channel_create(target, creds, NULL);
    grpc_channel_credentials_release(creds);
    return c;
}

void rpc_client_close(struct rpc_client *c) {
    grpc_channel_destroy(c->channel);
    free(c);
    grpc_shutdown_blocking();
}

static int batch(struct rpc_client_stream *s, const grpc_op *ops, size_t n) {
    if (grpc_call_start_batch(s->call, ops, n, s, NULL) != GRPC_CALL_OK)
        abort();
    return grpc_completion_queue_pluck(s->queue, s, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).success;
}

static struct rpc_client_stream *call_make(struct rpc_client *c, const char *method, int timeout_ms) {
    struct rpc_client_stream *s = calloc(1, sizeof(*s));
    if (s == NULL)
        abort();
    gpr_timespec end = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (timeout_ms > 0)
        end = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
    s->queue = grpc_completion_queue_create_for_pluck(NULL);
    grpc_slice path = grpc_slice_from_copied_string(method);
    s->call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, s->queue, path, NULL, end, NULL);
    grpc_slice_unref(path);
    grpc_metadata_array_init(&s->initial);
    grpc_metadata_array_init(&s->trailing);
    s->text = grpc_empty_slice();
    return s;
}

static grpc_byte_buffer *message_make(const void *bytes, size_t size) {
    grpc_slice slice = grpc_slice_from_copied_buffer(bytes, size);
    grpc_byte_buffer *message = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return message;
}

static grpc_op status_op(struct rpc_client_stream *s) {
    return (grpc_op){.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                     .data.recv_status_on_client = {
                         .trailing_metadata = &s->trailing, .status = &s->code, .status_details = &s->text}};
}

struct rpc_client_stream *rpc_client_stream_open(struct rpc_client *c, const char *method, const void *request,
                                                 size_t size, int timeout_ms) {
    struct rpc_client_stream *s = call_make(c, method, timeout_ms);
    grpc_byte_buffer *message = message_make(request, size);
    grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT}};
    s->status_due = s->headers_due = 1;
    (void)batch(s, ops, 3); /* when it fails, the status says why */
    grpc_byte_buffer_destroy(message);
    return s;
}

static void details_take(const grpc_metadata_array *trailing, struct rpc_client_answer *a) {
    for (size_t i = 0; i < trailing->count; i++) {
        const grpc_metadata *m = &trailing->metadata[i];
        if (grpc_slice_str_cmp(m->key, "grpc-status-details-bin") != 0)
            continue;
        size_t n = GRPC_SLICE_LENGTH(m->value);
        a->details_size = n < sizeof(a->details) ? n : sizeof(a->details);
        memcpy(a->details, GRPC_SLICE_START_PTR(m->value), a->details_size);
    }
}

static void answer_fill(struct rpc_client_stream *s, struct rpc_client_answer *a) {
    a->code = (int)s->code;
    size_t n = GRPC_SLICE_LENGTH(s->text);
    n = n < sizeof(a->text) ? n : sizeof(a->text) - 1;
    memcpy(a->text, GRPC_SLICE_START_PTR(s->text), n);
    details_take(&s->trailing, a);
}

static void status_take(struct rpc_client_stream *s, struct rpc_client_answer *a) {
    const grpc_op op = status_op(s);
    s->status_due = 0;
    (void)batch(s, &op, 1);
    answer_fill(s, a);
}

static void bytes_take(grpc_byte_buffer *message, struct rpc_client_answer *a) {
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, message))
        abort();
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    a->size = GRPC_SLICE_LENGTH(all);
    a->bytes = malloc(a->size + 1);
    if (a->bytes == NULL)
        abort();
    memcpy(a->bytes, GRPC_SLICE_START_PTR(all), a->size);
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(message);
}

struct rpc_client_answer rpc_client_stream_next(struct rpc_client_stream *s) {
    struct rpc_client_answer a = {0};
    grpc_op ops[2] = {
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->message},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &s->initial}};
    /* Without asking for the initial metadata once, the status never comes. */
    (void)batch(s, ops, s->headers_due ? 2 : 1);
    s->headers_due = 0;
    if (s->message != NULL)
        bytes_take(s->message, &a);
    else
        status_take(s, &a);
    s->message = NULL;
    return a;
}

void rpc_client_stream_close(struct rpc_client_stream *s) {
    struct rpc_client_answer ignored = {0};
    if (s->status_due) {
        (void)grpc_call_cancel(s->call, NULL);
        if (s->headers_due)
            free(rpc_client_stream_next(s).bytes);
        else
            status_take(s, &ignored);
    }
    grpc_slice_unref(s->text);
    grpc_metadata_array_destroy(&s->initial);
    grpc_metadata_array_destroy(&s->trailing);
    grpc_call_unref(s->call);
    grpc_completion_queue_shutdown(s->queue);
    while (grpc_completion_queue_pluck(s->queue, NULL, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL).type !=
           GRPC_QUEUE_SHUTDOWN)
        continue;
    grpc_completion_queue_destroy(s->queue);
    free(s);
}

/* Everything in one batch: one turn of the core. */
struct rpc_client_answer rpc_client_call(struct rpc_client *c, const char *method, const void *request, size_t size,
                                         int timeout_ms) {
    struct rpc_client_answer a = {0};
    struct rpc_client_stream *s = call_make(c, method, timeout_ms);
    grpc_byte_buffer *message = message_make(request, size);
    grpc_op ops[6] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = message},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &s->initial},
        {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &s->message}};
    ops[5] = status_op(s);
    (void)batch(s, ops, 6);
    answer_fill(s, &a);
    if (s->message != NULL)
        bytes_take(s->message, &a);
    grpc_byte_buffer_destroy(message);
    rpc_client_stream_close(s);
    return a;
}
