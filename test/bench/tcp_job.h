/* SPDX-License-Identifier: Apache-2.0
 *
 * What is done over TCP connections by the tcp-* benches, the same over the kernel's and over Usher's (tcp_end.h): a
 * client and a server process, each pinned to a core, the server ended by SIGKILL; or one thread with both ends.
 */
#ifndef USHER_TEST_BENCH_TCP_JOB_H
#define USHER_TEST_BENCH_TCP_JOB_H

#include "test/bench/proc.h"
#include "test/bench/tcp_end.h"

#define TCP_JOB_MESSAGE 64u
#define TCP_JOB_PORT    9100u /* answers each message with one */
#define TCP_JOB_SINK    9101u /* reads bulk and says nothing */
#define TCP_JOB_CROWD   9102u /* and so on: as TCP_JOB_PORT, for more connections than one port has peers */
#define TCP_JOB_CROWDS  4u

struct tcp_job {
    enum tcp_kind kind;
    bool spin; /* else both sides wait with default settings */
    int client_core, server_core;
    uint32_t rpcs;    /* connections with a request under way each */
    uint32_t crowd;   /* connections that are open at once, `rpcs` random ones of them in use; 0 = no more than these */
    uint32_t streams; /* bulk beside them */
    bool brief;       /* each connection does one request, then another takes its place */
    double seconds;   /* a tenth on top to warm up */
    pid_t usherd;     /* its CPU time and its memory count; 0 = none */
    pid_t server;     /* set by tcp_job_run */
};

/* Then s->operations requests were answered (their times in s->hist), s->bulk bytes read by the server, and usherd has
 * grown by s->resident bytes while the connections were made. 0, or -1 with a sentence in s->error. */
int tcp_job_run(struct tcp_job *job, struct proc_shared *s);
/* One thread with both ends of one connection, on client_core. */
int tcp_job_alone(struct tcp_job *job, struct proc_shared *s);

#endif
