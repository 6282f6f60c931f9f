/* SPDX-License-Identifier: Apache-2.0
 *
 * The benches in the order in which `run all` takes them: the machine's bounds first, the slow ones last.
 */
#include "test/bench/benches.h"

const struct bench *const bench_table[] = {
    &bench_cross_core, &bench_udp_rtt,   &bench_udp_echo_rate,  &bench_engine_cost, &bench_wake_latency,
    &bench_one_core,   &bench_bystander, &bench_session_memory, &bench_idle_cost,
};

const size_t bench_table_count = sizeof(bench_table) / sizeof(bench_table[0]);
