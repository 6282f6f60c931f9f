/* SPDX-License-Identifier: Apache-2.0
 *
 * One bulk stream between the side under test (on `core`, in the sandbox) and a kernel process on the other core, in
 * the peer's namespace. The peer listens, the side under test connects; bytes are counted where they are received.
 */
#ifndef USHER_TEST_BENCH_BULK_H
#define USHER_TEST_BENCH_BULK_H

#include <stdbool.h>

#include "test/bench/proc.h"

#define BULK_BLOCK (256u << 10)

struct bulk_job {
    int peer_netns;
    int core, peer_core;
    bool transmit; /* the side under test sends */
    double seconds;
    proc_fn *end; /* the side under test: connects to SANDBOX_PEER_ADDR, s->port, then streams until it is killed */
};

/* Runs the stream for a third of job->seconds, then measures. s->operations bytes were received in s->seconds, in which
 * `core` was busy for s->cpu_seconds. 0, or -1 with s->error. */
int bulk_run(const struct bulk_job *job, struct proc_shared *s);

/* The two ends there are; arg is the job. Each raises s->ready when its stream stands. */
int bulk_end_kernel(struct proc_shared *s, void *arg);
int bulk_end_usher(struct proc_shared *s, void *arg);

#endif
