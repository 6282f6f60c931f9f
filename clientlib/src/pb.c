/* SPDX-License-Identifier: Apache-2.0
 *
 * See pb.h. Malformed input ends the walk; nothing here reads beyond the buffer it was given.
 */
#include "clientlib/src/pb.h"

#include <errno.h>
#include <string.h>

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

static void put_varint(struct pb_writer *w, uint64_t v) {
    do {
        if (w->at == w->end) {
            w->overflow = true;
            return;
        }
        *w->at++ = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
}

void pb_put_uint(struct pb_writer *w, uint32_t field, uint64_t value) {
    if (!value)
        return;
    put_varint(w, field << 3 | WIRE_VARINT);
    put_varint(w, value);
}

void pb_put_bytes(struct pb_writer *w, uint32_t field, const void *data, size_t len) {
    put_varint(w, field << 3 | WIRE_BYTES);
    put_varint(w, len);
    if (w->overflow || len > (size_t)(w->end - w->at)) {
        w->overflow = true;
        return;
    }
    if (len)
        memcpy(w->at, data, len);
    w->at += len;
}

static int get_varint(struct pb_reader *r, uint64_t *ret_value) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (r->at == r->end)
            return -EPROTO;
        uint8_t b = *r->at++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *ret_value = v;
            return 0;
        }
    }
    return -EPROTO;
}

static int get_span(struct pb_reader *r, uint64_t len, struct pb_field *f) {
    if (len > (uint64_t)(r->end - r->at))
        return -EPROTO;
    f->data = r->at;
    f->len = (size_t)len;
    r->at += len;
    return 1;
}

int pb_next(struct pb_reader *r, struct pb_field *ret_field) {
    if (r->at == r->end)
        return 0;
    struct pb_field f = {0};
    uint64_t key, len;
    if (get_varint(r, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return -EPROTO;
    f.number = (uint32_t)(key >> 3);
    int rc = 1;
    switch (key & 7) {
    case WIRE_VARINT:
        rc = get_varint(r, &f.value) ? -EPROTO : 1;
        break;
    case WIRE_BYTES:
        f.is_bytes = true;
        rc = get_varint(r, &len) ? -EPROTO : get_span(r, len, &f);
        break;
    case WIRE_FIXED64:
    case WIRE_FIXED32:
        /* session.proto has none today: skipped, so that a newer usherd may add some. */
        rc = get_span(r, (key & 7) == WIRE_FIXED64 ? 8 : 4, &f);
        break;
    default:
        rc = -EPROTO;
    }
    if (rc == 1)
        *ret_field = f;
    return rc;
}

void pb_text(const struct pb_field *f, char *ret_text, size_t size) {
    size_t n = f->len < size - 1 ? f->len : size - 1;
    for (size_t i = 0; i < n; i++)
        ret_text[i] = (char)(f->data[i] < 0x20 || f->data[i] == 0x7f ? '?' : f->data[i]);
    ret_text[n] = 0;
}
