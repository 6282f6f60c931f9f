/* SPDX-License-Identifier: Apache-2.0
 *
 * A log-linear histogram: 64 buckets for each power of two, so a quantile is right within 1.6 %. Fixed size, no
 * allocation, about 2 ns to add a value. Lies in shared memory as well as anywhere. Not thread-safe.
 */
#ifndef USHER_TEST_BENCH_HIST_H
#define USHER_TEST_BENCH_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 6
#define HIST_SUB (1u << HIST_SUB_BITS)
#define HIST_BUCKETS ((64 - HIST_SUB_BITS + 1) * HIST_SUB)

struct hist {
    uint64_t count;
    uint64_t max;
    uint32_t bucket[HIST_BUCKETS];
};

/* Values below 64 have a bucket each; above, the top seven bits choose it. */
static inline uint32_t hist_index(uint64_t value) {
    if (value < HIST_SUB)
        return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - HIST_SUB_BITS;
    return (shift << HIST_SUB_BITS) + (uint32_t)(value >> shift);
}

static inline void hist_add(struct hist *h, uint64_t value) {
    h->bucket[hist_index(value)]++;
    h->count++;
    if (value > h->max)
        h->max = value;
}

void hist_reset(struct hist *h);
/* The value that the fraction `q` (0..1) of all values do not exceed: the middle of its bucket; 0 when empty. */
double hist_quantile(const struct hist *h, double q);

#endif
