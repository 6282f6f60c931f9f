/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages as JSON. Names are those of the .proto files and every field is there, so that scripts need no defaults:
 * numbers are numbers (also those of 64 bits), enums are words, what is not set is null.
 */
#ifndef USHER_CONTROL_USHERCTL_JSON_H
#define USHER_CONTROL_USHERCTL_JSON_H

#include <protobuf-c/protobuf-c.h>
#include <stdio.h>

/* pretty: indented by two blanks, ends in a newline; else one line. */
void json_write(FILE *out, const ProtobufCMessage *m, int pretty);
void json_string(FILE *out, const char *text);

#endif
