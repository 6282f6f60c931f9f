/* SPDX-License-Identifier: Apache-2.0
 *
 * The guard: what it lets through protobuf-c can unpack within bounds, what it refuses it names.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "control/rpc/guard.h"
#include "google/protobuf/descriptor.pb-c.h"
#include "usher/control/v1/engines.pb-c.h"
#include "usher/control/v1/sessions.pb-c.h"

static const char *check(const ProtobufCMessageDescriptor *d, const char *bytes, size_t size) {
    return rpc_guard_check(d, (const uint8_t *)bytes, size);
}

#define REQUEST (&usher__control__v1__list_engines_request__descriptor)
#define SOCKETS (&usher__control__v1__list_sockets_request__descriptor)

Test(guard, good_bytes) {
    cr_assert_null(check(REQUEST, "", 0));
    cr_assert_null(check(REQUEST, "\x0a\x03tcp", 5));
    cr_assert_null(check(REQUEST, "\x0a\x06\xe2\x82\xac\xc3\xa4x", 8), "UTF-8 of two and three bytes");
    cr_assert_null(check(REQUEST, "\x0a\x04\xf0\x9f\x98\x80", 6), "and of four");
    cr_assert_null(check(REQUEST, "\x78\x01\x7d\x01\x02\x03\x04", 7), "unknown fields are skipped");
    cr_assert_null(check(SOCKETS, "\x0a\x04\x3a\x02\x08\x05", 6), "a filter in a filter");
}

Test(guard, bad_bytes) {
    static const struct {
        const char *bytes;
        size_t size;
        const char *why;
    } bad[] = {
        {"\x0a", 1, "cut short"},
        {"\x0a\x04x", 3, "cut short"},
        {"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11, "cut short"},
        {"\x7d\x01", 2, "cut short"},
        {"\x02\x00", 2, "field number"},
        {"\x0b", 1, "wire type"},
        {"\x0e", 1, "wire type"},
        {"\x0a\x01\x00", 3, "UTF-8"},
        {"\x0a\x02\xc0\x80", 4, "UTF-8"},         /* NUL, overlong */
        {"\x0a\x03\xed\xa0\x80", 5, "UTF-8"},     /* a surrogate */
        {"\x0a\x04\xf4\x90\x80\x80", 6, "UTF-8"}, /* beyond the last character */
        {"\x0a\x01\x80", 3, "UTF-8"},             /* begins in the middle */
        {"\x0a\x01\xe2", 3, "UTF-8"},             /* ends in the middle */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *why = check(REQUEST, bad[i].bytes, bad[i].size);
        cr_assert_not_null(why, "%zu was let through", i);
        cr_assert_not_null(strstr(why, bad[i].why), "%zu: %s", i, why);
    }
}

/* DescriptorProto holds itself (field 3): what would send protobuf-c into recursion without end. */
static size_t nested(uint8_t *bytes, size_t size, uint32_t levels) {
    size_t at = size;
    for (uint32_t i = 0; i < levels; i++) {
        size_t inner = size - at;
        if (inner > 127)
            bytes[--at] = (uint8_t)(inner >> 7);
        bytes[--at] = (uint8_t)(inner > 127 ? (inner & 127) | 128 : inner);
        bytes[--at] = 0x1a;
    }
    memmove(bytes, bytes + at, size - at);
    return size - at;
}

Test(guard, depth_is_bounded) {
    uint8_t bytes[8192];
    const ProtobufCMessageDescriptor *d = &google__protobuf__descriptor_proto__descriptor;
    cr_assert_null(rpc_guard_check(d, bytes, nested(bytes, sizeof bytes, RPC_GUARD_DEPTH)));
    const char *why = rpc_guard_check(d, bytes, nested(bytes, sizeof bytes, RPC_GUARD_DEPTH + 1));
    cr_assert(why != NULL && strstr(why, "nested too deep") != NULL);
    cr_assert_not_null(rpc_guard_check(d, bytes, nested(bytes, sizeof bytes, 2000)));
}

Test(guard, fields_are_counted) {
    static char bytes[2 * (RPC_GUARD_FIELDS + 1)];
    for (size_t i = 0; i < sizeof bytes; i += 2) {
        bytes[i] = 0x10;
        bytes[i + 1] = 1;
    }
    cr_assert_null(check(REQUEST, bytes, sizeof bytes - 2));
    const char *why = check(REQUEST, bytes, sizeof bytes);
    cr_assert(why != NULL && strstr(why, "too many fields") != NULL);
}

/* Whatever it lets through must be good enough for protobuf-c, and a length may never lead beyond the end. */
Test(guard, random_bytes) {
    srand(7);
    for (int round = 0; round < 200000; round++) {
        uint8_t bytes[48];
        size_t size = (size_t)rand() % sizeof bytes;
        uint8_t *copy = malloc(size); /* its own allocation, so that a sanitizer sees a step beyond */
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)(rand() % 5 == 0 ? rand() : rand() % 16);
        if (size > 0)
            memcpy(copy, bytes, size);
        (void)rpc_guard_check(SOCKETS, copy, size);
        free(copy);
    }
}
