/* SPDX-License-Identifier: Apache-2.0
 *
 * See reflect.h. Sizes of elements follow protobuf-c's types; bytes fields do not occur in the control service.
 */
#include "control/usherctl/reflect.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static size_t element_size(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 4;
    }
}

struct value reflect_field(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f) {
    const uint8_t *base = (const uint8_t *)m;
    struct value v = {f, base + f->offset, 1};
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        v.count = *(const size_t *)(base + f->quantifier_offset);
        v.at = *(const void *const *)(base + f->offset);
    } else if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        v.count = *(const uint32_t *)(base + f->quantifier_offset) == f->id;
    } else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        v.count = *(const void *const *)(base + f->offset) != NULL;
    }
    return v;
}

static const ProtobufCFieldDescriptor *field_named(const ProtobufCMessageDescriptor *d, const char *path,
                                                   const char **ret_rest) {
    char name[64];
    size_t n = strcspn(path, ".");
    if (n >= sizeof name)
        return NULL;
    memcpy(name, path, n);
    name[n] = '\0';
    *ret_rest = path[n] == '.' ? path + n + 1 : NULL;
    return protobuf_c_message_descriptor_get_field_by_name(d, name);
}

bool reflect_find(const ProtobufCMessage *m, const char *path, struct value *ret_value) {
    for (;;) {
        const ProtobufCFieldDescriptor *f = field_named(m->descriptor, path, &path);
        if (f == NULL)
            return false;
        *ret_value = reflect_field(m, f);
        if (path == NULL)
            return true;
        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            return false;
        if (ret_value->count == 0)
            return reflect_names(f->descriptor, path);
        m = reflect_message(ret_value, 0);
    }
}

bool reflect_names(const ProtobufCMessageDescriptor *d, const char *path) {
    const ProtobufCFieldDescriptor *f;
    while ((f = field_named(d, path, &path)) != NULL && path != NULL) {
        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            return false;
        d = f->descriptor;
    }
    return f != NULL;
}

static const void *element(const struct value *v, size_t i) {
    return (const uint8_t *)v->at + i * element_size(v->field->type);
}

bool reflect_is_signed(const struct value *v) {
    return v->field->type == PROTOBUF_C_TYPE_INT32 || v->field->type == PROTOBUF_C_TYPE_SINT32 ||
           v->field->type == PROTOBUF_C_TYPE_INT64 || v->field->type == PROTOBUF_C_TYPE_SINT64;
}

uint64_t reflect_number(const struct value *v, size_t i) {
    if (i >= v->count)
        return 0;
    const void *at = element(v, i);
    if (element_size(v->field->type) == 8)
        return *(const uint64_t *)at;
    return reflect_is_signed(v) ? (uint64_t)(int64_t) * (const int32_t *)at : *(const uint32_t *)at;
}

const char *reflect_text(const struct value *v, size_t i) {
    const char *text = i < v->count ? *(const char *const *)element(v, i) : NULL;
    return text != NULL ? text : "";
}

const ProtobufCMessage *reflect_message(const struct value *v, size_t i) {
    return *(const ProtobufCMessage *const *)element(v, i);
}

/* The names of an enum's values begin with its own, in capitals: SchedulingMode, SCHEDULING_MODE_. */
static size_t prefix_length(const ProtobufCEnumDescriptor *d, const char *name) {
    size_t at = 0;
    for (const char *p = d->short_name; *p != '\0'; p++) {
        if (isupper((unsigned char)*p) && p != d->short_name && name[at++] != '_')
            return 0;
        if (name[at++] != toupper((unsigned char)*p))
            return 0;
    }
    return name[at] == '_' ? at + 1 : 0;
}

void reflect_enum_word(const struct value *v, size_t i, char ret_word[ENUM_WORD_MAX]) {
    const ProtobufCEnumDescriptor *d = v->field->descriptor;
    int number = (int)reflect_number(v, i);
    const ProtobufCEnumValue *e = protobuf_c_enum_descriptor_get_value(d, number);
    if (e == NULL) {
        (void)snprintf(ret_word, ENUM_WORD_MAX, "%d", number);
        return;
    }
    (void)snprintf(ret_word, ENUM_WORD_MAX, "%s", e->name + prefix_length(d, e->name));
    for (char *p = ret_word; *p != '\0'; p++)
        *p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
}
