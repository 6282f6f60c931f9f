/* SPDX-License-Identifier: Apache-2.0
 *
 * See blocks.h.
 */
#include "control/usherctl/blocks.h"

#include <string.h>

#define BLOCK_FRAME  12u /* type and both lengths */
#define PACKET_FIXED 28u /* before the bytes, with type and length */
#define DIRECTION    3u
#define OUTBOUND     2u

static uint32_t word(const uint8_t *at) {
    uint32_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

static uint16_t half(const uint8_t *at) {
    uint16_t v;
    memcpy(&v, at, sizeof v);
    return v;
}

bool block_first(const uint8_t *at, size_t size, struct block *ret_block) {
    if (size < BLOCK_FRAME)
        return false;
    *ret_block = (struct block){word(at), word(at + 4), at};
    return ret_block->size >= BLOCK_FRAME && ret_block->size % 4 == 0 && ret_block->size <= size;
}

/* Where the options begin. */
static uint32_t options_at(const struct block *b) {
    if (b->type == BLOCK_INTERFACE)
        return 16;
    if (b->type != BLOCK_PACKET || b->size < PACKET_FIXED + 4)
        return b->size;
    uint32_t captured = word(b->at + 20);
    return captured <= b->size - PACKET_FIXED - 4 ? PACKET_FIXED + ((captured + 3) & ~3u) : b->size;
}

/* NULL when there is none. */
static const uint8_t *option_find(const struct block *b, uint16_t code, uint32_t *ret_len) {
    uint32_t at = options_at(b);
    while (at + 8 <= b->size) { /* an option, and the length behind them all */
        uint16_t found = half(b->at + at), len = half(b->at + at + 2);
        if (found == 0 || at + 8 + len > b->size)
            return NULL;
        *ret_len = len;
        if (found == code)
            return b->at + at + 4;
        at += 4 + ((len + 3u) & ~3u);
    }
    return NULL;
}

void block_option_text(const struct block *b, uint16_t code, char *ret_text, size_t size) {
    uint32_t len = 0;
    const uint8_t *at = option_find(b, code, &len);
    len = at == NULL ? 0 : len < size - 1 ? len : (uint32_t)size - 1;
    if (len > 0)
        memcpy(ret_text, at, len);
    ret_text[len] = '\0';
}

bool block_packet(const struct block *b, struct block_packet *ret_packet) {
    uint32_t len;
    if (b->type != BLOCK_PACKET || options_at(b) >= b->size)
        return false;
    const uint8_t *flags = option_find(b, OPTION_PACKET_FLAGS, &len);
    *ret_packet = (struct block_packet){
        .interface = word(b->at + 8),
        .unix_ns = (uint64_t)word(b->at + 12) << 32 | word(b->at + 16),
        .captured = word(b->at + 20),
        .length = word(b->at + 24),
        .out = flags != NULL && len == 4 && (word(flags) & DIRECTION) == OUTBOUND,
        .bytes = b->at + PACKET_FIXED,
    };
    return true;
}
