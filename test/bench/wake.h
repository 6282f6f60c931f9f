/* SPDX-License-Identifier: Apache-2.0
 *
 * A sender in the peer namespace that sends one stamped datagram every half millisecond, so that whoever receives them
 * sleeps in between. The stamp is tick_now() just before the send; the TSC is the same on all cores.
 */
#ifndef USHER_TEST_BENCH_WAKE_H
#define USHER_TEST_BENCH_WAKE_H

#include "test/bench/proc.h"

struct wake_job {
    int peer_netns;
    int core;      /* of the sender */
    uint16_t port; /* of the receiver, at SANDBOX_ADDR */
};

/* The payload: 64 bytes that begin with this. */
struct wake_stamp {
    uint64_t tick;
    uint64_t number;
    uint8_t pad[48];
};

pid_t wake_sender_spawn(struct proc_shared *s, struct wake_job *job); /* runs until it is killed */

#endif
