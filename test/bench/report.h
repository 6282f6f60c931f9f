/* SPDX-License-Identifier: Apache-2.0
 *
 * Says what a bench found: one JSON object a line for programs, a table with targets for people.
 */
#ifndef USHER_TEST_BENCH_REPORT_H
#define USHER_TEST_BENCH_REPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "test/bench/bench.h"

struct report_row {
    double value[SIDE_COUNT]; /* NaN: no figure */
    double ratio;             /* NaN when a side is missing; above 1 Usher is better */
    bool has_target, met;
};

void report_row_make(const struct bench_metric *m, uint32_t index, struct bench_result *result,
                     struct report_row *ret_row);
void report_json(FILE *out, const struct bench *b, struct bench_result *result);
void report_table(FILE *out, const struct bench *b, struct bench_result *result, uint32_t rounds, double seconds);
void report_errors(FILE *out, const struct bench *b, const struct bench_result *result);

#endif
