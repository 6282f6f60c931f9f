/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading protobuf-c messages by field name, through the descriptors that are generated with them. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_REFLECT_H
#define USHER_CONTROL_USHERCTL_REFLECT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENUM_WORD_MAX 40

struct value {
    const ProtobufCFieldDescriptor *field;
    const void *at; /* of the value; of a repeated field: of the first one */
    size_t count;   /* 0 = an empty list, or a message or oneof that is not set */
};

/* The field at `path` ("owner.comm") below m. False: there is no such field. */
bool reflect_find(const ProtobufCMessage *m, const char *path, struct value *ret_value);
/* Is there such a field? For tests of tables that name fields. */
bool reflect_names(const ProtobufCMessageDescriptor *d, const char *path);
/* One field of m itself. */
struct value reflect_field(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);
/* Element i of a value; numbers of any width, booleans and enums as 64 bits. */
uint64_t reflect_number(const struct value *v, size_t i);
bool reflect_is_signed(const struct value *v);
const char *reflect_text(const struct value *v, size_t i); /* "" for none */
const ProtobufCMessage *reflect_message(const struct value *v, size_t i);
/* "SCHEDULING_MODE_SPREADING" as people say it: "spreading"; numbers that have no name as such. */
void reflect_enum_word(const struct value *v, size_t i, char ret_word[ENUM_WORD_MAX]);

#endif
