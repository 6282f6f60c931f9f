/* SPDX-License-Identifier: Apache-2.0
 *
 * The benches in the order in which `run all` takes them: the machine's bounds first, the slow ones last.
 */
#include "test/bench/benches.h"

const struct bench *const bench_table[] = {
    &bench_cross_core,
    &bench_udp_rtt,
    &bench_udp_echo_rate,
    &bench_engine_cost,
    &bench_capture_cost,
    &bench_wake_latency,
    &bench_one_core,
    &bench_bystander,
    &bench_nic_drop,
    &bench_nic_change,
    &bench_tcp_rtt,
    &bench_tcp_rpc_rate,
    &bench_tcp_mixed,
    &bench_tcp_conn_rate,
    &bench_tcp_engine_cost,
    &bench_tcp_many,
    &bench_tcp_bulk,
    &bench_tcp_bulk_gso,
    &bench_session_memory,
    &bench_idle_cost,
    &bench_control_unary,
    &bench_control_noise,
    &bench_control_list,
    &bench_posix_sockperf_udp,
    &bench_posix_sockperf_tcp,
    &bench_posix_redis,
    &bench_posix_memcached,
    &bench_posix_overhead,
    &bench_posix_nginx,
    &bench_posix_one_core,
    &bench_qos,
    &bench_upgrade_blackout,
    &bench_filter_engine,
    &bench_filter_cost,
    &bench_policy_replace,
};

const size_t bench_table_count = sizeof(bench_table) / sizeof(bench_table[0]);
