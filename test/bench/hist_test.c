/* SPDX-License-Identifier: Apache-2.0
 *
 * The histogram's promise: quantiles right within a bucket, for any magnitude.
 */
#include "test/bench/hist.h"

#include <criterion/criterion.h>

static struct hist h;

Test(hist, every_value_has_a_bucket_in_order) {
    uint32_t last = 0;
    for (uint64_t v = 0; v < 100000; v++) {
        uint32_t i = hist_index(v);
        cr_assert(i == last || i == last + 1, "value %lu", v);
        last = i;
    }
    cr_assert(hist_index(UINT64_MAX) < HIST_BUCKETS);
}

Test(hist, small_values_are_exact) {
    for (uint64_t v = 0; v < 100; v++)
        hist_add(&h, v);
    cr_assert_eq(hist_quantile(&h, 0.5), 50);
    cr_assert_eq(hist_quantile(&h, 0.99), 99);
    cr_assert_eq(h.max, 99);
}

Test(hist, large_values_are_right_within_two_percent) {
    for (uint64_t v = 1; v <= 1000000; v++)
        hist_add(&h, v * 1000);
    double p50 = hist_quantile(&h, 0.5), p999 = hist_quantile(&h, 0.999);
    cr_assert(p50 > 0.98 * 5e8 && p50 < 1.02 * 5e8, "%f", p50);
    cr_assert(p999 > 0.98 * 9.99e8 && p999 < 1.02 * 9.99e8, "%f", p999);
}

Test(hist, empty_says_zero) {
    cr_assert_eq(hist_quantile(&h, 0.5), 0);
}
