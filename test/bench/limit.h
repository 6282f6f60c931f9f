/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine itself can do between two cores: the bounds that no dataplane on these cores can pass.
 */
#ifndef USHER_TEST_BENCH_LIMIT_H
#define USHER_TEST_BENCH_LIMIT_H

#include "test/bench/hist.h"

/* A line handed to the other core and one handed back, one at a time. Adds ticks of each round trip to *h. */
int limit_line_rtt(const int core[2], double seconds, struct hist *h);
/* Messages of one line echoed through two rings of lines, many under way: round trips a second. */
int limit_line_rate(const int core[2], double seconds, double *ret_per_second);
/* Bytes a second that one core copies, in blocks of 64 MiB. */
int limit_memcpy(double seconds, double *ret_bytes_per_second);

#endif
