/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether the data path notices something beside it: round trips with a load and without, turn by turn.
 */
#ifndef USHER_TEST_BENCH_NOISE_H
#define USHER_TEST_BENCH_NOISE_H

#include "test/bench/bench.h"
#include "test/bench/proc.h"
#include "test/bench/usherd.h"

typedef int bench_measure_fn(struct bench_env *env, struct proc_shared *s);
/* A process that keeps usherd busy until it is killed; s->ready once it does, s->operations counts. */
typedef pid_t bench_load_fn(int core, struct proc_shared *s);

/* Runs measure() with an usherd; env->state is its pid meanwhile. */
int bench_with_usherd(struct bench_env *env, const struct usherd_params *params, bench_measure_fn *measure);
/* Metrics first..first+3 of Usher's side: p99 in silence, p99 beside the load, their ratio, operations a second. */
int bench_noise(struct bench_env *env, bool spin, bench_load_fn *load, uint32_t first);

#endif
