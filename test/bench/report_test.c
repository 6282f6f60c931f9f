/* SPDX-License-Identifier: Apache-2.0
 *
 * Which way a ratio runs, what a missing figure looks like, when a target is met.
 */
#include "test/bench/report.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct bench_result result;

static void put(enum bench_side side, double a, double b, double c) {
    result.sample[0][side][0] = a;
    result.sample[0][side][1] = b;
    result.sample[0][side][2] = c;
    result.count[0][side] = 3;
}

Test(report, lower_is_better_divides_by_usher) {
    struct bench_metric m = {.name = "m", .unit = "us", .target_kind = TARGET_RATIO, .target = 2};
    put(SIDE_KERNEL, 30, 10, 20);
    put(SIDE_USHER, 5, 5, 1000);
    struct report_row row;
    report_row_make(&m, 0, &result, &row);
    cr_assert_eq(row.ratio, 4);
    cr_assert(row.met);
}

Test(report, higher_is_better_divides_by_the_kernel) {
    struct bench_metric m = {
        .name = "m", .unit = "1/s", .better = BETTER_HIGHER, .target_kind = TARGET_RATIO, .target = 5};
    put(SIDE_KERNEL, 10, 10, 10);
    put(SIDE_USHER, 40, 40, 40);
    struct report_row row;
    report_row_make(&m, 0, &result, &row);
    cr_assert_eq(row.ratio, 4);
    cr_assert_not(row.met);
}

Test(report, a_missing_side_is_null) {
    static const struct bench_metric m = {.name = "m", .unit = "us", .target_kind = TARGET_USHER, .target = 2};
    static const struct bench b = {.name = "b", .what = "w", .metrics = &m, .metric_count = 1};
    put(SIDE_KERNEL, 1.5, 1.5, 1.5);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    report_json(out, &b, &result);
    (void)fclose(out);
    cr_assert_str_eq(text, "{\"bench\":\"b\",\"metric\":\"m\",\"unit\":\"us\",\"kernel\":1.5,\"usher\":null,"
                           "\"ratio\":null,\"limit\":null}\n");
    free(text);
}

Test(report, the_table_marks_what_is_missed) {
    static const struct bench_metric m = {.name = "m", .unit = "us", .target_kind = TARGET_RATIO, .target = 8};
    static const struct bench b = {.name = "b", .what = "w", .metrics = &m, .metric_count = 1};
    put(SIDE_KERNEL, 8, 8, 8);
    put(SIDE_USHER, 2, 2, 2);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    report_table(out, &b, &result, 3, 0.5);
    (void)fclose(out);
    cr_assert(strstr(text, "MISSED") != NULL, "%s", text);
    cr_assert(strstr(text, "4x") != NULL, "%s", text);
    free(text);
}

Test(report, median_of_even_and_odd) {
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};
    cr_assert_eq(bench_median(odd, 3), 2);
    cr_assert_eq(bench_median(even, 4), 2.5);
}
