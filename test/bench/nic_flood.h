/* SPDX-License-Identifier: Apache-2.0
 *
 * How well two ordinary programs talk over the veth pair while somebody floods it with 100,000 packets a second.
 */
#ifndef USHER_TEST_BENCH_NIC_FLOOD_H
#define USHER_TEST_BENCH_NIC_FLOOD_H

#include "test/bench/bench.h"

#define NIC_FLOOD_FRAME 60u

struct nic_flood {
    const uint8_t (*frames)[NIC_FLOOD_FRAME]; /* sent in turn, from the other namespace */
    uint32_t count;
    bool at_sender; /* the flood dies at its own egress */
};

/* Round trips a second of a client there and a server here, over the kernel's sockets. 0, or -1. */
int nic_flood_goodput(struct bench_env *env, const struct nic_flood *flood, double *ret_rate);

#endif
