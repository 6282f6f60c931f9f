/* SPDX-License-Identifier: Apache-2.0
 *
 * grpc.reflection, v1 and v1alpha (the bytes are the same), from a FileDescriptorSet that is part of the program. Such
 * a set is a run of length-prefixed FileDescriptorProtos: files are answered with those slices as they are, names are
 * looked up in their unpacked form. Control thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/rpc/rpc_internal.h"
#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

__asm__(".section .rodata\n"
        ".balign 16\n"
        ".globl usher_descriptors\n"
        "usher_descriptors: .incbin \"" USHER_DESCRIPTORS "\"\n"
        ".globl usher_descriptors_end\n"
        "usher_descriptors_end: .byte 0\n"
        ".previous\n");
extern const uint8_t usher_descriptors[], usher_descriptors_end[];

typedef Grpc__Reflection__V1__ServerReflectionRequest request_t;
typedef Grpc__Reflection__V1__ServerReflectionResponse response_t;
typedef Google__Protobuf__FileDescriptorProto file_t;
typedef Google__Protobuf__DescriptorProto message_t;

/* ---- names ---- */

/* If `symbol` begins with `scope` and a dot, what follows, else NULL. The package "" holds everything. */
static const char *within(const char *scope, const char *symbol) {
    size_t n = strlen(scope);
    if (n == 0)
        return symbol;
    return strncmp(scope, symbol, n) == 0 && symbol[n] == '.' ? symbol + n + 1 : NULL;
}

static bool enum_named(Google__Protobuf__EnumDescriptorProto *const *enums, size_t n, const char *rest) {
    for (size_t i = 0; i < n; i++) {
        if (strcmp(enums[i]->name, rest) == 0)
            return true;
    }
    return false;
}

/* Descriptors nest as deep as our own .proto files do. */
static bool message_named(message_t *const *messages, size_t n, const char *rest) {
    for (size_t i = 0; i < n; i++) {
        const message_t *m = messages[i];
        const char *inner = within(m->name, rest);
        if (strcmp(m->name, rest) == 0 || (inner != NULL && (message_named(m->nested_type, m->n_nested_type, inner) ||
                                                             enum_named(m->enum_type, m->n_enum_type, inner))))
            return true;
    }
    return false;
}

static bool service_named(const file_t *f, const char *rest) {
    for (size_t i = 0; i < f->n_service; i++) {
        const Google__Protobuf__ServiceDescriptorProto *s = f->service[i];
        const char *inner = within(s->name, rest);
        if (strcmp(s->name, rest) == 0)
            return true;
        for (size_t m = 0; inner != NULL && m < s->n_method; m++) {
            if (strcmp(s->method[m]->name, inner) == 0)
                return true;
        }
    }
    return false;
}

static bool file_defines(const file_t *f, const char *symbol) {
    const char *rest = within(f->package != NULL ? f->package : "", symbol);
    return rest != NULL && (message_named(f->message_type, f->n_message_type, rest) || service_named(f, rest) ||
                            enum_named(f->enum_type, f->n_enum_type, rest));
}

/* ---- files ---- */

struct slice {
    const uint8_t *bytes;
    size_t size;
};

/* The set is ours and well formed: tag 0x0a, a length of at most five bytes, the file. */
static const uint8_t *slice_next(const uint8_t *at, struct slice *ret_slice) {
    size_t size = 0;
    at++;
    for (uint32_t shift = 0;; shift += 7) {
        uint8_t byte = *at++;
        size |= (size_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            break;
    }
    *ret_slice = (struct slice){at, size};
    return at + size;
}

struct files {
    size_t count;
    file_t **file;
    struct slice *slice;
    bool *wanted;
};

/* Unpacked anew for each answer: reflection is asked once by a client that has no .proto files. */
static struct files files_read(struct rpc_call *c) {
    struct files f = {0};
    struct slice ignored;
    for (const uint8_t *at = usher_descriptors; at < usher_descriptors_end; at = slice_next(at, &ignored))
        f.count++;
    f.file = rpc_alloc_array(c, file_t *, f.count);
    f.slice = rpc_alloc_array(c, struct slice, f.count);
    f.wanted = rpc_alloc_array(c, bool, f.count);
    const uint8_t *at = usher_descriptors;
    for (size_t i = 0; i < f.count; i++) {
        at = slice_next(at, &f.slice[i]);
        f.file[i] = google__protobuf__file_descriptor_proto__unpack(NULL, f.slice[i].size, f.slice[i].bytes);
    }
    return f;
}

static void files_free(struct files *f) {
    for (size_t i = 0; i < f->count; i++)
        google__protobuf__file_descriptor_proto__free_unpacked(f->file[i], NULL);
}

static size_t file_named(const struct files *f, const char *name) {
    size_t i = 0;
    while (i < f->count && strcmp(f->file[i]->name, name) != 0)
        i++;
    return i;
}

static size_t file_with(const struct files *f, const char *symbol) {
    size_t i = 0;
    while (i < f->count && !file_defines(f->file[i], symbol))
        i++;
    return i;
}

static void want(struct files *f, size_t index) {
    if (index == f->count || f->wanted[index])
        return;
    f->wanted[index] = true;
    for (size_t d = 0; d < f->file[index]->n_dependency; d++)
        want(f, file_named(f, f->file[index]->dependency[d]));
}

/* ---- answers ---- */

static void answer_error(response_t *r, Grpc__Reflection__V1__ErrorResponse *e, const char *what) {
    e->error_code = RPC_NOT_FOUND;
    e->error_message = (char *)(uintptr_t)what;
    r->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    r->error_response = e;
}

/* The file and all it imports. */
static void answer_file(struct rpc_call *c, response_t *r, struct files *f, size_t index) {
    Grpc__Reflection__V1__FileDescriptorResponse *a = rpc_alloc(c, sizeof *a);
    grpc__reflection__v1__file_descriptor_response__init(a);
    want(f, index);
    a->file_descriptor_proto = rpc_alloc_array(c, ProtobufCBinaryData, f->count);
    for (size_t i = 0; i < f->count; i++) {
        if (f->wanted[i])
            a->file_descriptor_proto[a->n_file_descriptor_proto++] =
                (ProtobufCBinaryData){f->slice[i].size, (uint8_t *)(uintptr_t)f->slice[i].bytes};
    }
    r->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    r->file_descriptor_response = a;
}

static void answer_services(struct rpc_call *c, response_t *r) {
    const struct rpc_server *s = c->server;
    Grpc__Reflection__V1__ListServiceResponse *a = rpc_alloc(c, sizeof *a);
    grpc__reflection__v1__list_service_response__init(a);
    a->service = rpc_alloc_array(c, Grpc__Reflection__V1__ServiceResponse *, s->service_count);
    for (; a->n_service < s->service_count; a->n_service++) {
        Grpc__Reflection__V1__ServiceResponse *one = rpc_alloc(c, sizeof *one);
        grpc__reflection__v1__service_response__init(one);
        one->name = (char *)(uintptr_t)s->services[a->n_service].name;
        a->service[a->n_service] = one;
    }
    r->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    r->list_services_response = a;
}

static void answer_lookup(struct rpc_call *c, response_t *r, const request_t *q) {
    bool by_name =
        q->message_request_case == GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME;
    struct files f = files_read(c);
    const char *wish = by_name ? q->file_by_filename : q->file_containing_symbol;
    size_t index = by_name ? file_named(&f, wish) : file_with(&f, wish);
    if (index < f.count)
        answer_file(c, r, &f, index);
    else
        answer_error(r, r->error_response, by_name ? "usherd has no such file" : "usherd has no such symbol");
    rpc_answer(c, &r->base);
    files_free(&f);
}

static enum rpc_code info(struct rpc_call *c, void *arg, const void *request) {
    const request_t *q = request;
    response_t r = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    (void)arg;
    r.valid_host = q->host;
    r.original_request = (request_t *)(uintptr_t)q;
    r.error_response = &error; /* used only when the case says so */
    switch (q->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        answer_lookup(c, &r, q);
        return RPC_OK;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        answer_services(c, &r);
        break;
    default:
        answer_error(&r, &error, "usherd's messages have no extensions");
        break;
    }
    rpc_answer(c, &r.base);
    return RPC_OK;
}

const struct rpc_method rpc_reflection_methods[] = {
    {.name = "ServerReflectionInfo",
     .request = &grpc__reflection__v1__server_reflection_request__descriptor,
     .role = RPC_ROLE_VIEWER,
     .chat = true,
     .unary = info},
};
const size_t rpc_reflection_method_count = sizeof rpc_reflection_methods / sizeof rpc_reflection_methods[0];
