/* SPDX-License-Identifier: Apache-2.0
 *
 * The cold half of the histogram: clearing it and asking it.
 */
#include "test/bench/hist.h"

#include <string.h>

void hist_reset(struct hist *h) {
    memset(h, 0, sizeof(*h));
}

static double bucket_middle(uint32_t index) {
    if (index < 2 * HIST_SUB)
        return (double)index;
    uint32_t shift = (index >> HIST_SUB_BITS) - 1;
    uint64_t low = (uint64_t)(index - (shift << HIST_SUB_BITS)) << shift;
    return (double)low + (double)(1ull << shift) / 2;
}

double hist_quantile(const struct hist *h, double q) {
    if (h->count == 0)
        return 0;
    uint64_t want = (uint64_t)(q * (double)h->count);
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > want)
            return bucket_middle(i);
    }
    return (double)h->max;
}
