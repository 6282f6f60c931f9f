/* SPDX-License-Identifier: Apache-2.0
 *
 * A UNIX socket is connected here rather than by the core, so that "nobody listens" and "you may not" are told apart. A
 * batch is always waited for before the next one begins; whatever comes, the call is ended by its status.
 */
#include "control/usherctl/client.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/usherctl/client_status.h"

#define ANSWER_MAX (16 << 20)
#define PEM_MAX    (1 << 20)

struct client {
    struct client_params params;
    grpc_completion_queue *queue;
    grpc_channel *channel;
};

void fault_set(struct fault *f, enum exit_code exit, const char *fmt, ...) {
    va_list args;
    memset(f, 0, sizeof *f);
    f->exit = exit;
    va_start(args, fmt);
    (void)vsnprintf(f->text, sizeof f->text, fmt, args);
    va_end(args);
}

static void hint(struct fault *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void hint(struct fault *f, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(f->hint, sizeof f->hint, fmt, args);
    va_end(args);
}

/* ---- connecting ---- */

/* Who could connect: the socket's group, if others may not. */
static void denied_fault(const char *path, struct fault *f) {
    struct stat st;
    const struct group *g = stat(path, &st) == 0 ? getgrgid(st.st_gid) : NULL;
    fault_set(f, EXIT_DENIED, "you may not connect to usherd's control socket %s", path);
    if (g != NULL && (st.st_mode & S_IWGRP) != 0 && st.st_gid != 0)
        hint(f, "join group %s (usermod -aG %s USER, then log in again), or run usherctl as root", g->gr_name,
             g->gr_name);
    else
        hint(f, "run usherctl as root, or let an administrator change control.group and control.mode in usherd.yaml");
}

static int socket_connect(const char *path, struct fault *f) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof addr.sun_path) {
        fault_set(f, EXIT_USAGE, "%s is too long for the path of a socket", path);
        return -1;
    }
    (void)snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof addr) == 0) {
        (void)fcntl(fd, F_SETFL, O_NONBLOCK);
        return fd;
    }
    int error = errno;
    if (fd >= 0)
        (void)close(fd);
    if (error == EACCES || error == EPERM) {
        denied_fault(path, f);
        return -1;
    }
    fault_set(f, EXIT_UNREACHABLE, "usherd does not run: nobody listens at %s (%s)", path, strerror(error));
    hint(f,
         "start it with `systemctl start usherd`, or `usherd --config FILE` as root; if it has a run_dir of its own, "
         "name its socket with --socket");
    return -1;
}

static char *pem_read(const char *option, const char *path, struct fault *f) {
    FILE *file = path != NULL ? fopen(path, "re") : NULL;
    char *text = calloc(1, PEM_MAX);
    size_t n = file != NULL && text != NULL ? fread(text, 1, PEM_MAX - 1, file) : 0;
    if (file != NULL)
        (void)fclose(file);
    if (n > 0)
        return text;
    free(text);
    if (path == NULL)
        fault_set(f, EXIT_USAGE, "--connect needs --ca, --cert and --key as well; %s is missing", option);
    else
        fault_set(f, EXIT_USAGE, "%s %s cannot be read; give a file in PEM format", option, path);
    return NULL;
}

static grpc_channel *tls_channel(const struct client_params *p, const grpc_channel_args *args, struct fault *f) {
    grpc_channel *channel = NULL;
    char *ca = pem_read("--ca", p->ca, f);
    char *cert = ca != NULL ? pem_read("--cert", p->cert, f) : NULL;
    char *key = cert != NULL ? pem_read("--key", p->key, f) : NULL;
    if (key != NULL) {
        grpc_ssl_pem_key_cert_pair pair = {key, cert};
        grpc_channel_credentials *creds = grpc_ssl_credentials_create_ex(ca, &pair, NULL, NULL);
        channel = grpc_channel_create(p->address, creds, args);
        grpc_channel_credentials_release(creds);
    }
    free(ca);
    free(cert);
    free(key);
    return channel;
}

static grpc_channel *unix_channel(const struct client_params *p, const grpc_channel_args *args, struct fault *f) {
    int fd = socket_connect(p->socket, f);
    if (fd < 0)
        return NULL;
    grpc_channel_credentials *creds = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create_from_fd("usherd", fd, creds, args);
    grpc_channel_credentials_release(creds);
    return channel;
}

/* The core's own words go to stderr otherwise, and say less than ours. */
static void no_log(gpr_log_func_args *args) {
    (void)args;
}

static grpc_arg channel_arg(const char *key, int value) {
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

int client_open(const struct client_params *params, struct client **ret_client, struct fault *ret_fault) {
    grpc_arg list[] = {
        channel_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        channel_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        channel_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, ANSWER_MAX),
    };
    const grpc_channel_args args = {sizeof list / sizeof list[0], list};
    struct client *c = calloc(1, sizeof *c);
    if (c == NULL) {
        fault_set(ret_fault, EXIT_FAILED, "no memory");
        return -1;
    }
    (void)setenv("GRPC_DNS_RESOLVER", "native", 0);
    gpr_set_log_function(no_log);
    grpc_init();
    c->params = *params;
    c->channel =
        params->address != NULL ? tls_channel(params, &args, ret_fault) : unix_channel(params, &args, ret_fault);
    if (c->channel == NULL) {
        grpc_shutdown();
        free(c);
        return -1;
    }
    c->queue = grpc_completion_queue_create_for_pluck(NULL);
    *ret_client = c;
    return 0;
}

void client_close(struct client *c) {
    if (c == NULL)
        return;
    grpc_channel_destroy(c->channel);
    grpc_completion_queue_shutdown(c->queue);
    grpc_completion_queue_destroy(c->queue);
    grpc_shutdown();
    free(c);
}

/* ---- calls ---- */

/* A call under way. The status of its end is asked for in the first batch, and comes with the last. */
struct call {
    struct client *client;
    grpc_call *call;
    grpc_metadata_array initial, trailing;
    grpc_status_code status;
    grpc_slice message;
};

static grpc_byte_buffer *pack(const ProtobufCMessage *m) {
    size_t size = protobuf_c_message_get_packed_size(m);
    grpc_slice slice = grpc_slice_malloc(size);
    (void)protobuf_c_message_pack(m, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

static ProtobufCMessage *unpack(grpc_byte_buffer *buffer, const ProtobufCMessageDescriptor *d) {
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return NULL;
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    ProtobufCMessage *m = protobuf_c_message_unpack(d, NULL, GRPC_SLICE_LENGTH(all), GRPC_SLICE_START_PTR(all));
    grpc_slice_unref(all);
    return m;
}

static bool batch(struct call *k, const grpc_op *ops, size_t count) {
    if (grpc_call_start_batch(k->call, ops, count, k, NULL) != GRPC_CALL_OK)
        return false;
    return grpc_completion_queue_pluck(k->client->queue, k, gpr_inf_future(GPR_CLOCK_REALTIME), NULL).success != 0;
}

static void call_begin(struct call *k, struct client *c, const char *path, bool endless) {
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (!endless && c->params.timeout_ms > 0)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(c->params.timeout_ms, GPR_TIMESPAN));
    memset(k, 0, sizeof *k);
    k->client = c;
    k->message = grpc_empty_slice();
    grpc_metadata_array_init(&k->initial);
    grpc_metadata_array_init(&k->trailing);
    k->call = grpc_channel_create_call(c->channel, NULL, GRPC_PROPAGATE_DEFAULTS, c->queue,
                                       grpc_slice_from_static_string(path), NULL, deadline, NULL);
}

/* Sends the request; what comes before the first answer is waited for with it. */
static void call_send(struct call *k, const ProtobufCMessage *request) {
    grpc_byte_buffer *buffer = pack(request);
    const grpc_op ops[] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer},
        {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
        {.op = GRPC_OP_RECV_INITIAL_METADATA, .data.recv_initial_metadata.recv_initial_metadata = &k->initial},
    };
    (void)batch(k, ops, sizeof ops / sizeof ops[0]);
    grpc_byte_buffer_destroy(buffer);
}

/* NULL: the stream is over. */
static grpc_byte_buffer *call_receive(struct call *k) {
    grpc_byte_buffer *buffer = NULL;
    const grpc_op op = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &buffer};
    return batch(k, &op, 1) ? buffer : NULL;
}

static void call_end(struct call *k) {
    const grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                        .data.recv_status_on_client = {
                            .trailing_metadata = &k->trailing, .status = &k->status, .status_details = &k->message}};
    (void)batch(k, &op, 1);
}

/* 0, or -1 with the fault that the status means. */
static int call_finish(struct call *k, struct fault *f) {
    char *text = grpc_slice_to_c_string(k->message);
    struct status_details details = {.size = 0};
    for (size_t i = 0; i < k->trailing.count; i++) {
        const grpc_metadata *m = &k->trailing.metadata[i];
        if (grpc_slice_str_cmp(m->key, "grpc-status-details-bin") == 0) {
            details.bytes = GRPC_SLICE_START_PTR(m->value);
            details.size = GRPC_SLICE_LENGTH(m->value);
        }
    }
    if (k->status != GRPC_STATUS_OK)
        status_fault((int)k->status, text, &details, k->client->params.address == NULL, f);
    gpr_free(text);
    grpc_slice_unref(k->message);
    grpc_metadata_array_destroy(&k->initial);
    grpc_metadata_array_destroy(&k->trailing);
    grpc_call_unref(k->call);
    return k->status == GRPC_STATUS_OK ? 0 : -1;
}

static int answer_fault(const char *path, struct fault *f) {
    fault_set(f, EXIT_FAILED, "the answer to %s makes no sense", path);
    hint(f, "usherctl and usherd may be of different versions; see usherctl status");
    return -1;
}

int client_call(struct client *c, const struct client_method *m, const ProtobufCMessage *request,
                ProtobufCMessage **ret_answer, struct fault *ret_fault) {
    struct call k;
    call_begin(&k, c, m->path, false);
    call_send(&k, request);
    grpc_byte_buffer *buffer = call_receive(&k);
    call_end(&k);
    ProtobufCMessage *answer = buffer != NULL ? unpack(buffer, m->answer) : NULL;
    if (buffer != NULL)
        grpc_byte_buffer_destroy(buffer);
    if (call_finish(&k, ret_fault) != 0) {
        if (answer != NULL)
            protobuf_c_message_free_unpacked(answer, NULL);
        return -1;
    }
    if (answer == NULL)
        return answer_fault(m->path, ret_fault);
    *ret_answer = answer;
    return 0;
}

int client_stream(struct client *c, const struct client_method *m, const ProtobufCMessage *request, bool endless,
                  client_stream_fn *fn, void *arg, struct fault *ret_fault) {
    struct call k;
    bool more = true, sense = true;
    grpc_byte_buffer *buffer;
    call_begin(&k, c, m->path, endless);
    call_send(&k, request);
    while (more && sense && (buffer = call_receive(&k)) != NULL) {
        ProtobufCMessage *message = unpack(buffer, m->answer);
        grpc_byte_buffer_destroy(buffer);
        sense = message != NULL;
        more = sense && fn(arg, message);
        if (message != NULL)
            protobuf_c_message_free_unpacked(message, NULL);
    }
    if (!more || !sense)
        (void)grpc_call_cancel(k.call, NULL);
    call_end(&k);
    int error = call_finish(&k, ret_fault);
    if (!sense)
        return answer_fault(m->path, ret_fault);
    return more ? error : 0;
}
