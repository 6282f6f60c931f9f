/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to engines/ip: the state as usher.state.v1.IpRecord messages.
 */
#ifndef USHER_ENGINES_IP_IP_SAVE_H
#define USHER_ENGINES_IP_IP_SAVE_H

#include "engines/ip/ip.h"

int64_t ip_save(const void *state, uint64_t *cursor, uint8_t *buf, size_t size);
int ip_load(void *state, uint32_t from_version, const uint8_t *rec, size_t size);

#endif
