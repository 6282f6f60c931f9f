/* SPDX-License-Identifier: Apache-2.0
 *
 * See json.h. Texts may come from clients of usherd: they are escaped, and bytes that are no UTF-8 become U+FFFD.
 */
#include "control/usherctl/json.h"

#include <inttypes.h>

#include "control/usherctl/reflect.h"

/* Bytes of the UTF-8 character at p, 0 when it is none. Surrogates and overlong forms are none. */
static int utf8_length(const unsigned char *p) {
    if (p[0] < 0x80)
        return 1;
    int n = p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

void json_string(FILE *out, const char *text) {
    (void)fputc('"', out);
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        int n = utf8_length(p);
        if (n == 0)
            (void)fputs("\\ufffd", out);
        else if (*p == '"' || *p == '\\')
            (void)fprintf(out, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f)
            (void)fprintf(out, "\\u%04x", *p);
        else
            (void)fwrite(p, 1, (size_t)n, out);
        p += n > 0 ? n : 1;
    }
    (void)fputc('"', out);
}

struct writer {
    FILE *out;
    int pretty;
};

static void write_message(const struct writer *w, const ProtobufCMessage *m, int depth);

static void new_line(const struct writer *w, int depth) {
    if (w->pretty)
        (void)fprintf(w->out, "\n%*s", 2 * depth, "");
}

static void write_element(const struct writer *w, const struct value *v, size_t i, int depth) {
    char word[ENUM_WORD_MAX];
    switch (v->field->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        write_message(w, reflect_message(v, i), depth);
        break;
    case PROTOBUF_C_TYPE_STRING:
        json_string(w->out, reflect_text(v, i));
        break;
    case PROTOBUF_C_TYPE_BOOL:
        (void)fputs(reflect_number(v, i) != 0 ? "true" : "false", w->out);
        break;
    case PROTOBUF_C_TYPE_ENUM:
        reflect_enum_word(v, i, word);
        json_string(w->out, word);
        break;
    default:
        if (reflect_is_signed(v))
            (void)fprintf(w->out, "%" PRId64, (int64_t)reflect_number(v, i));
        else
            (void)fprintf(w->out, "%" PRIu64, reflect_number(v, i));
    }
}

static void write_value(const struct writer *w, const struct value *v, int depth) {
    bool lines = v->field->type == PROTOBUF_C_TYPE_MESSAGE;
    if (v->field->label != PROTOBUF_C_LABEL_REPEATED) {
        if (v->count == 0)
            (void)fputs("null", w->out);
        else
            write_element(w, v, 0, depth);
        return;
    }
    (void)fputc('[', w->out);
    for (size_t i = 0; i < v->count; i++) {
        if (i > 0)
            (void)fputs(lines || !w->pretty ? "," : ", ", w->out);
        if (lines)
            new_line(w, depth + 1);
        write_element(w, v, i, depth + 1);
    }
    if (lines && v->count > 0)
        new_line(w, depth);
    (void)fputc(']', w->out);
}

static void write_message(const struct writer *w, const ProtobufCMessage *m, int depth) {
    const ProtobufCMessageDescriptor *d = m->descriptor;
    (void)fputc('{', w->out);
    for (unsigned i = 0; i < d->n_fields; i++) {
        struct value v = reflect_field(m, &d->fields[i]);
        if (i > 0)
            (void)fputc(',', w->out);
        new_line(w, depth + 1);
        (void)fprintf(w->out, "\"%s\":%s", d->fields[i].name, w->pretty ? " " : "");
        write_value(w, &v, depth + 1);
    }
    if (d->n_fields > 0)
        new_line(w, depth);
    (void)fputc('}', w->out);
}

void json_write(FILE *out, const ProtobufCMessage *m, int pretty) {
    const struct writer w = {out, pretty};
    write_message(&w, m, 0);
    (void)fputc('\n', out);
}
