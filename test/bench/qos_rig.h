/* SPDX-License-Identifier: Apache-2.0
 *
 * A shard with the QoS engine in front of a `pair` port, polled by the caller on a bench clock, with owners that always
 * have packets waiting: what each of them got as it came out of the port's far end.
 */
#ifndef USHER_TEST_BENCH_QOS_RIG_H
#define USHER_TEST_BENCH_QOS_RIG_H

#include <stdint.h>

/* Weights 1:2:4:8, in turn. */
static inline uint32_t qos_weight(uint32_t owner) { return 1u << owner % 4; }
static inline uint32_t qos_weights(uint32_t owners) { /* of all; owners is a multiple of 4 */
    return owners / 4 * 15;
}

/* The greatest share error of an owner in percent of his share; one that is less than a packet counts as none. */
double qos_error(const uint64_t *got, uint32_t owners, uint32_t packet);

/* Shares of `owners` over so long by the bench clock at 10 M packets a second; negative: it could not be made. */
double qos_rig_share_error(uint32_t owners, double seconds);
/* By how much the worst of four ceilings was exceeded over that time, beyond its burst, in percent; 0: by nothing. */
double qos_rig_ceiling_excess(double seconds);

#endif
