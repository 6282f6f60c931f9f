/* SPDX-License-Identifier: Apache-2.0
 *
 * Every bench there is; table.c puts them in order.
 */
#ifndef USHER_TEST_BENCH_BENCHES_H
#define USHER_TEST_BENCH_BENCHES_H

#include "test/bench/bench.h"

extern const struct bench bench_cross_core;
extern const struct bench bench_udp_rtt;
extern const struct bench bench_udp_echo_rate;
extern const struct bench bench_wake_latency;
extern const struct bench bench_bystander;
extern const struct bench bench_one_core;
extern const struct bench bench_idle_cost;
extern const struct bench bench_session_memory;
extern const struct bench bench_engine_cost;
extern const struct bench bench_qos;
extern const struct bench bench_capture_cost;
extern const struct bench bench_tcp_rtt;
extern const struct bench bench_tcp_rpc_rate;
extern const struct bench bench_tcp_mixed;
extern const struct bench bench_tcp_conn_rate;
extern const struct bench bench_tcp_engine_cost;
extern const struct bench bench_tcp_many;
extern const struct bench bench_upgrade_blackout;
extern const struct bench bench_tcp_bulk;
extern const struct bench bench_tcp_bulk_gso;
extern const struct bench bench_control_unary;
extern const struct bench bench_control_noise;
extern const struct bench bench_control_list;
extern const struct bench bench_filter_engine;
extern const struct bench bench_filter_cost;
extern const struct bench bench_policy_replace;
extern const struct bench bench_nic_drop;
extern const struct bench bench_nic_change;
extern const struct bench bench_posix_sockperf_udp;
extern const struct bench bench_posix_sockperf_tcp;
extern const struct bench bench_posix_redis;
extern const struct bench bench_posix_memcached;
extern const struct bench bench_posix_overhead;
extern const struct bench bench_posix_nginx;
extern const struct bench bench_posix_one_core;

/* The measured loops of udp-engine-cost alone, of `cycles` or of `local_echo`; an exit status. */
int bench_engine_loop(uint32_t turns, bool echo);

#endif
