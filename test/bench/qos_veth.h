/* SPDX-License-Identifier: Apache-2.0
 *
 * Owners that all have more to send than a veth pair is allowed to carry, and what each of them got: one socket an
 * owner, weights 1:2:4:8, through the kernel's HTB or through usherd's classes. The receiver is the kernel's, in the
 * namespace on the other end; frames and rate are the same.
 */
#ifndef USHER_TEST_BENCH_QOS_VETH_H
#define USHER_TEST_BENCH_QOS_VETH_H

#include "test/bench/bench.h"

#define QOS_VETH_MAX 256u /* owners */

/* The greatest share error in percent, see qos_error(); negative with the reason noted for `side`. */
double qos_veth_error(struct bench_env *env, enum bench_side side, uint32_t owners);

#endif
