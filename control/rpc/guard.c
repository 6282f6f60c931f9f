/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk. Every length is checked against what is left before it is used; recursion is bounded by RPC_GUARD_DEPTH.
 */
#include "control/rpc/guard.h"

#include <stdbool.h>

struct walk {
    const uint8_t *at, *end;
    uint32_t fields; /* seen so far, of the whole message */
    const char *why;
};

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static bool bad(struct walk *w, const char *why) {
    w->why = why;
    return false;
}

static bool varint(struct walk *w, uint64_t *ret_value) {
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        uint8_t byte = *w->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ret_value = value;
            return true;
        }
    }
    return bad(w, "it is cut short");
}

static bool skip(struct walk *w, uint64_t size) {
    if (size > (uint64_t)(w->end - w->at))
        return bad(w, "it is cut short");
    w->at += size;
    return true;
}

/* Length of the well-formed UTF-8 character at `s` (RFC 3629), 0 when there is none. */
static uint32_t utf8_length(const uint8_t *s, const uint8_t *end) {
    uint32_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    if (s[0] == 0 || (s[0] >= 0x80 && s[0] < 0xc2) || n == 0 || (size_t)(end - s) < n)
        return 0;
    for (uint32_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    /* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

static bool text(struct walk *w, const uint8_t *end) {
    while (w->at < end) {
        uint32_t n = utf8_length(w->at, end);
        if (n == 0)
            return bad(w, "a text in it is not UTF-8, or holds a NUL");
        w->at += n;
    }
    return true;
}

static bool message(struct walk *w, const ProtobufCMessageDescriptor *d, const uint8_t *end, uint32_t depth);

static bool bytes_field(struct walk *w, const ProtobufCFieldDescriptor *f, const uint8_t *end, uint32_t depth) {
    uint64_t size;
    if (!varint(w, &size))
        return false;
    if (size > (uint64_t)(end - w->at))
        return bad(w, "it is cut short");
    if (f != NULL && f->type == PROTOBUF_C_TYPE_STRING)
        return text(w, w->at + size);
    if (f != NULL && f->type == PROTOBUF_C_TYPE_MESSAGE)
        return message(w, f->descriptor, w->at + size, depth + 1);
    return skip(w, size);
}

static bool field(struct walk *w, const ProtobufCMessageDescriptor *d, const uint8_t *end, uint32_t depth) {
    uint64_t tag, ignored;
    if (!varint(w, &tag))
        return false;
    if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return bad(w, "it has a field number that does not exist");
    if (++w->fields > RPC_GUARD_FIELDS)
        return bad(w, "it has too many fields");
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field(d, (unsigned)(tag >> 3));
    switch ((enum wire)(tag & 7)) {
    case WIRE_VARINT:
        return varint(w, &ignored);
    case WIRE_64:
        return skip(w, 8);
    case WIRE_32:
        return skip(w, 4);
    case WIRE_BYTES:
        return bytes_field(w, f, end, depth);
    }
    return bad(w, "it uses a wire type that proto3 does not have");
}

/* Reads from w->at to `end`, which lies within what the caller has checked. */
static bool message(struct walk *w, const ProtobufCMessageDescriptor *d, const uint8_t *end, uint32_t depth) {
    if (depth > RPC_GUARD_DEPTH)
        return bad(w, "its messages are nested too deep");
    const uint8_t *outer = w->end;
    w->end = end;
    while (w->at < end) {
        if (!field(w, d, end, depth))
            return false;
    }
    w->end = outer;
    return true;
}

const char *rpc_guard_check(const ProtobufCMessageDescriptor *d, const uint8_t *bytes, size_t size) {
    struct walk w = {.at = bytes, .end = bytes + size};
    (void)message(&w, d, w.end, 0);
    return w.why;
}
