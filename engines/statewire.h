/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads and writes the protobuf wire format, as much of it as saved engine state needs: varints, byte strings and
 * nested messages. Inline, no memory of its own. The messages are in proto/usher/state/v1; a test reads what this
 * writes with the generated code, and the other way round.
 */
#ifndef USHER_ENGINES_STATEWIRE_H
#define USHER_ENGINES_STATEWIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum statewire_type { STATEWIRE_VARINT = 0, STATEWIRE_FIXED64 = 1, STATEWIRE_BYTES = 2, STATEWIRE_FIXED32 = 5 };

struct statewire_out {
    uint8_t *buf;
    size_t size;
    size_t len;
    bool full; /* something did not fit: the result is not to be used */
};

static inline void statewire_raw(struct statewire_out *o, const void *data, size_t n) {
    if (o->full || n > o->size - o->len) {
        o->full = true;
        return;
    }
    if (n > 0)
        memcpy(o->buf + o->len, data, n);
    o->len += n;
}

static inline void statewire_varint(struct statewire_out *o, uint64_t v) {
    uint8_t b[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        b[n++] = (uint8_t)(v | 0x80);
    b[n++] = (uint8_t)v;
    statewire_raw(o, b, n);
}

/* Proto3: a zero is not written. */
static inline void statewire_put(struct statewire_out *o, uint32_t field, uint64_t v) {
    if (v == 0)
        return;
    statewire_varint(o, (uint64_t)field << 3 | STATEWIRE_VARINT);
    statewire_varint(o, v);
}

static inline void statewire_put_bytes(struct statewire_out *o, uint32_t field, const void *data, size_t n) {
    statewire_varint(o, (uint64_t)field << 3 | STATEWIRE_BYTES);
    statewire_varint(o, n);
    statewire_raw(o, data, n);
}

struct statewire_in {
    const uint8_t *at;
    const uint8_t *end;
};

struct statewire_field {
    uint32_t number;
    enum statewire_type type;
    uint64_t value;      /* VARINT and FIXED */
    const uint8_t *data; /* BYTES: inside the input */
    size_t size;
};

static inline bool statewire_read_varint(struct statewire_in *in, uint64_t *ret_v) {
    uint64_t v = 0;
    for (uint32_t shift = 0; shift < 64 && in->at < in->end; shift += 7) {
        uint8_t b = *in->at++;
        if (shift == 63 && b > 1)
            return false;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *ret_v = v;
            return true;
        }
    }
    return false;
}

static inline bool statewire_read_fixed(struct statewire_in *in, size_t n, uint64_t *ret_v) {
    if ((size_t)(in->end - in->at) < n)
        return false;
    *ret_v = 0;
    memcpy(ret_v, in->at, n);
    in->at += n;
    return true;
}

/* 1 = a field was read, 0 = the end, -1 = not well formed. Fields may come in any order and unknown ones are the
 * caller's to skip. */
static inline int statewire_next(struct statewire_in *in, struct statewire_field *ret_f) {
    *ret_f = (struct statewire_field){0};
    if (in->at == in->end)
        return 0;
    uint64_t key = 0;
    if (!statewire_read_varint(in, &key) || key >> 3 == 0 || key >> 32 != 0)
        return -1;
    ret_f->number = (uint32_t)(key >> 3);
    ret_f->type = (enum statewire_type)(key & 7);
    switch (ret_f->type) {
    case STATEWIRE_VARINT:
        return statewire_read_varint(in, &ret_f->value) ? 1 : -1;
    case STATEWIRE_FIXED64:
        return statewire_read_fixed(in, 8, &ret_f->value) ? 1 : -1;
    case STATEWIRE_FIXED32:
        return statewire_read_fixed(in, 4, &ret_f->value) ? 1 : -1;
    case STATEWIRE_BYTES:
        if (!statewire_read_varint(in, &ret_f->value) || ret_f->value > (uint64_t)(in->end - in->at))
            return -1;
        ret_f->data = in->at;
        ret_f->size = (size_t)ret_f->value;
        in->at += ret_f->size;
        return 1;
    default:
        return -1;
    }
}

#endif
