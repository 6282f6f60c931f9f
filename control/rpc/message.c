/* SPDX-License-Identifier: Apache-2.0
 *
 * From a message to bytes: answers, and the google.rpc.Status of an error.
 */
#include "control/rpc/rpc_internal.h"
#include "engines/check.h"
#include "google/rpc/status.pb-c.h"

const char *rpc_code_text(uint32_t code) {
    static const char *const words[RPC_CODE_COUNT] = {
        "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED"};
    return words[code < RPC_CODE_COUNT ? code : 2];
}

grpc_slice rpc_message_pack(const ProtobufCMessage *message) {
    grpc_slice bytes = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(bytes));
    return bytes;
}

static grpc_slice status_with(struct rpc_call *c, Google__Rpc__Detail **details, size_t n) {
    Google__Rpc__Status status = GOOGLE__RPC__STATUS__INIT;
    status.code = (int32_t)c->code;
    status.message = c->text;
    status.n_details = n;
    status.details = details;
    return rpc_message_pack(&status.base);
}

grpc_slice rpc_message_status(struct rpc_call *c) {
    static char info_type[] = "type.googleapis.com/google.rpc.ErrorInfo", domain[] = "usher";
    static char bad_type[] = "type.googleapis.com/google.rpc.BadRequest";
    uint8_t info_bytes[128], bad_bytes[RPC_TEXT_MAX + 160];
    Google__Rpc__ErrorInfo info = GOOGLE__RPC__ERROR_INFO__INIT;
    info.reason = c->reason;
    info.domain = domain;
    Google__Rpc__BadRequest__FieldViolation violation = GOOGLE__RPC__BAD_REQUEST__FIELD_VIOLATION__INIT;
    violation.field = c->field;
    violation.description = c->text;
    Google__Rpc__BadRequest__FieldViolation *violations[] = {&violation};
    Google__Rpc__BadRequest bad = GOOGLE__RPC__BAD_REQUEST__INIT;
    bad.n_field_violations = 1;
    bad.field_violations = violations;
    Google__Rpc__Detail first = GOOGLE__RPC__DETAIL__INIT, second = GOOGLE__RPC__DETAIL__INIT;
    STATIC_ASSERT(sizeof info_bytes >= sizeof c->reason + 16, "an ErrorInfo fits");
    STATIC_ASSERT(sizeof bad_bytes >= sizeof c->text + sizeof c->field + 16, "a BadRequest fits");
    first.type_url = info_type;
    first.value = (ProtobufCBinaryData){google__rpc__error_info__pack(&info, info_bytes), info_bytes};
    second.type_url = bad_type;
    second.value = (ProtobufCBinaryData){google__rpc__bad_request__pack(&bad, bad_bytes), bad_bytes};
    Google__Rpc__Detail *details[] = {&first, &second};
    return status_with(c, details, c->field[0] != '\0' ? 2 : 1);
}
