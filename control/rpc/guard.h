/* SPDX-License-Identifier: Apache-2.0
 *
 * A look at the raw bytes of a protobuf message before protobuf-c unpacks them: depth, number of fields, wire types,
 * and that every string is UTF-8 without NUL. Pure.
 */
#ifndef USHER_CONTROL_RPC_GUARD_H
#define USHER_CONTROL_RPC_GUARD_H

#include <protobuf-c/protobuf-c.h>

#define RPC_GUARD_DEPTH  8u
#define RPC_GUARD_FIELDS 4096u /* of the whole message; the memory they can take is bounded by this */

/* NULL when the bytes may be unpacked, else what is wrong with them. */
const char *rpc_guard_check(const ProtobufCMessageDescriptor *d, const uint8_t *bytes, size_t size);

#endif
