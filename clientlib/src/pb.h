/* SPDX-License-Identifier: Apache-2.0
 *
 * The protobuf wire format, as much of it as session.proto needs: varints and length-delimited fields. Written out here
 * because libusher is loaded into every program: no other library comes with it, and nothing is allocated. The test
 * beside it holds this against the generated code. Any thread; buffers are the caller's.
 */
#ifndef USHER_CLIENTLIB_PB_H
#define USHER_CLIENTLIB_PB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pb_writer {
    uint8_t *at, *end;
    bool overflow; /* checked once, at the end */
};

void pb_put_uint(struct pb_writer *w, uint32_t field, uint64_t value); /* writes nothing for 0, as proto3 does */
void pb_put_bytes(struct pb_writer *w, uint32_t field, const void *data, size_t len);

struct pb_reader {
    const uint8_t *at, *end;
};

struct pb_field {
    uint32_t number;
    bool is_bytes;
    uint64_t value;      /* varint and fixed fields */
    const uint8_t *data; /* length-delimited fields, inside the reader's buffer */
    size_t len;
};

/* 1: ret_field is the next field; 0: end; -EPROTO: malformed. */
int pb_next(struct pb_reader *r, struct pb_field *ret_field);
/* Copies a text field, cut to size - 1 bytes; control characters become '?', since people will read it. */
void pb_text(const struct pb_field *f, char *ret_text, size_t size);

#endif
