/* SPDX-License-Identifier: Apache-2.0
 *
 * What the QoS engine itself costs: a packet in and a packet out, owners of weights 1:2:4:8 that always have packets
 * waiting, on a bench clock. Only the engine's calls are timed.
 */
#ifndef USHER_TEST_BENCH_QOS_COST_H
#define USHER_TEST_BENCH_QOS_COST_H

#include <stdint.h>

/* Nanoseconds a packet with `flows` flows of two packets each, of `owners` owners, measured for so long. */
double qos_cost_ns(uint32_t flows, uint32_t owners, double seconds);

#endif
