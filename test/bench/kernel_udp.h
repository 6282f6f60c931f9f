/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's way: a UDP client and an echo server on loopback, each a process on a core of its own (or both on one).
 * Both sockets are connected, which is the kernel's fastest way for one flow.
 */
#ifndef USHER_TEST_BENCH_KERNEL_UDP_H
#define USHER_TEST_BENCH_KERNEL_UDP_H

#include <stdbool.h>
#include <stdint.h>

#include "test/bench/proc.h"

#define KERNEL_UDP_BATCH_MAX 64

struct kernel_udp_job {
    int server_core, client_core;
    bool spin;       /* both sides poll their socket; else they block in the kernel */
    uint32_t window; /* datagrams under way; 1 = round trips, whose times go to s->hist */
    uint32_t batch;  /* datagrams a system call moves at most; 1 = plain send and recv */
    uint32_t size;   /* bytes, at most 1472 */
    double seconds;  /* a tenth on top to warm up */
    pid_t server;    /* set by kernel_udp_run */
};

/* Runs it; s then has operations, seconds, cpu_seconds and hist. 0, or -1 with a sentence in s->error. */
int kernel_udp_run(struct kernel_udp_job *job, struct proc_shared *s);

#endif
