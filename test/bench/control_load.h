/* SPDX-License-Identifier: Apache-2.0
 *
 * Callers of usherd's control service, as processes of a bench.
 */
#ifndef USHER_TEST_BENCH_CONTROL_LOAD_H
#define USHER_TEST_BENCH_CONTROL_LOAD_H

#include "test/bench/proc.h"

#define CONTROL_STREAMS 200u /* that a busy operator has open */

/* The first call (usherd starts its core for it) takes *ret_first seconds; then calls one at a time for `seconds`:
 * s->hist has their times in ticks, s->operations their number. */
int control_calls(double seconds, double *ret_first, struct proc_shared *s);

/* A process on `core` that keeps the service busy until it is killed: CONTROL_STREAMS streams of counters, two messages
 * a second each, and calls one after another beside them. s->ready once it does; s->operations counts. */
pid_t control_busy(int core, struct proc_shared *s);

/* A process that lists all sockets over and over until it is killed; s->operations counts sockets. */
pid_t control_lister(int core, struct proc_shared *s);

/* Lists all sockets once: how many, and how long it took. 0, or -1 with a sentence in s->error. */
int control_list(uint32_t *ret_count, double *ret_seconds, struct proc_shared *s);

#endif
