/* SPDX-License-Identifier: Apache-2.0
 *
 * One kernel TCP stream between the sandbox and its peer namespace, a sender and a receiver process on a core each.
 */
#ifndef USHER_TEST_BENCH_KERNEL_TCP_H
#define USHER_TEST_BENCH_KERNEL_TCP_H

#include <stdbool.h>

#include "test/bench/proc.h"

struct kernel_tcp_job {
    int peer_netns;
    int sender_core, receiver_core;
    bool inward; /* the peer sends, the sandbox receives */
    double seconds;
    pid_t also; /* a process whose CPU time counts as well; 0 = none */
    pid_t receiver;
};

/* Then s->operations is bytes received; seconds and cpu_seconds cover the same time. 0, or -1 with s->error. */
int kernel_tcp_run(struct kernel_tcp_job *job, struct proc_shared *s);

#endif
