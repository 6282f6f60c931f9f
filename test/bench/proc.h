/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes of a bench: forked, pinned to a core, each with a page of memory shared with the one that started it; and
 * the CPU time that a set of them has used, whatever thread used it.
 */
#ifndef USHER_TEST_BENCH_PROC_H
#define USHER_TEST_BENCH_PROC_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "test/bench/hist.h"

#define PROC_CPU_MAX 4

/* What the processes of one measurement tell one another. */
struct proc_shared {
    atomic_uint ready; /* processes that have set up */
    atomic_uint stop;  /* server: end */
    atomic_uint failed;
    uint16_t port;
    uint64_t operations;
    double seconds;
    double cpu_seconds; /* all processes, over the measured time */
    struct hist hist;   /* ticks */
    _Atomic uint64_t bulk; /* bytes a server has read, so far ... */
    uint64_t bulk_read;    /* ... and over the measured time */
    uint64_t resident;     /* by how much a process has grown */
    char error[640];
};

struct proc_shared *proc_shared_create(void); /* NULL when out of memory */
void proc_shared_destroy(struct proc_shared *s);

int proc_pin(int core); /* the calling thread; 0 or -errno */
typedef int proc_fn(struct proc_shared *s, void *arg);
/* Forks, pins the child to `core` and runs fn there; its return value is the exit status. */
pid_t proc_spawn(int core, proc_fn *fn, struct proc_shared *s, void *arg);
/* Sleeps until *word is at least `want` or the seconds are over; 0, or -ETIMEDOUT. */
int proc_await(const atomic_uint *word, unsigned want, double seconds);
/* Waits for its end, at most `seconds`, then kills it. Its exit status, or -1. */
int proc_join(pid_t pid, double seconds);

/* CPU seconds used by these processes so far, threads that have ended included. pid 0 ends the list early. */
double proc_cpu_seconds(const pid_t *pids, uint32_t n);

#endif
