/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of a pcapng file as usherd writes them: one behind the other, native byte order, nanoseconds. Lengths are
 * judged before they are followed. Pure.
 */
#ifndef USHER_CONTROL_USHERCTL_BLOCKS_H
#define USHER_CONTROL_USHERCTL_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK_INTERFACE_MAX 32u

enum block_type { BLOCK_SECTION = 0x0a0d0d0a, BLOCK_INTERFACE = 1, BLOCK_STATISTICS = 5, BLOCK_PACKET = 6 };

struct block {
    uint32_t type;
    uint32_t size; /* of the whole */
    const uint8_t *at;
};

/* The first of `size` bytes of blocks; false when there is no whole one. */
bool block_first(const uint8_t *at, size_t size, struct block *ret_block);

/* Text of an option of an interface or packet, "" when there is none. */
#define OPTION_COMMENT        1
#define OPTION_INTERFACE_NAME 2
#define OPTION_PACKET_FLAGS   2
void block_option_text(const struct block *b, uint16_t code, char *ret_text, size_t size);

struct block_packet {
    uint32_t interface, captured, length;
    uint64_t unix_ns;
    bool out;
    const uint8_t *bytes;
};
bool block_packet(const struct block *b, struct block_packet *ret_packet);

#endif
