/* SPDX-License-Identifier: Apache-2.0
 *
 * A fuzzer's bytes as a stream of values. What is missing at the end reads as zero, so that every input is a valid one
 * and short ones stay short.
 */
#ifndef USHER_TEST_FUZZ_FUZZ_INPUT_H
#define USHER_TEST_FUZZ_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

/* What libFuzzer, and fuzz_main.c in its place, call. One for each target. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline const uint8_t *fuzz_bytes(struct fuzz_input *in, size_t want, size_t *ret_got) {
    const uint8_t *p = in->at;
    *ret_got = want < in->left ? want : in->left;
    in->at += *ret_got;
    in->left -= *ret_got;
    return p;
}

static inline void fuzz_fill(struct fuzz_input *in, void *to, size_t size) {
    size_t got;
    memset(to, 0, size);
    const uint8_t *p = fuzz_bytes(in, size, &got);
    if (got > 0)
        memcpy(to, p, got);
}

static inline uint8_t fuzz_u8(struct fuzz_input *in) {
    uint8_t v;
    fuzz_fill(in, &v, sizeof v);
    return v;
}

static inline uint16_t fuzz_u16(struct fuzz_input *in) {
    uint16_t v;
    fuzz_fill(in, &v, sizeof v);
    return v;
}

static inline uint32_t fuzz_u32(struct fuzz_input *in) {
    uint32_t v;
    fuzz_fill(in, &v, sizeof v);
    return v;
}

#endif
