/* SPDX-License-Identifier: Apache-2.0
 *
 * Usher's way: programs on libusher against a running usherd. The twin of kernel_udp.h.
 */
#ifndef USHER_TEST_BENCH_USHER_UDP_H
#define USHER_TEST_BENCH_USHER_UDP_H

#include <stdbool.h>
#include <stdint.h>

#include "test/bench/proc.h"

struct usher_udp_job {
    int client_core;
    int server_core; /* -1: no server process, the client talks to the echo engine in usherd */
    bool spin;       /* the client polls; else it uses blocking waits with default settings */
    uint32_t size;
    double seconds; /* a tenth on top to warm up */
    pid_t usherd;
    pid_t server; /* set by usher_udp_rtt */
};

/* Round trips one at a time; s as kernel_udp_run() leaves it. 0, or -1 with a sentence in s->error. */
int usher_udp_rtt(struct usher_udp_job *job, struct proc_shared *s);
/* A server on client_core answers usherd's generator for job->seconds; s->operations datagrams were answered. */
int usher_udp_serve_rate(struct usher_udp_job *job, struct proc_shared *s);

/* A client with one bound socket that sleeps until it is killed; s->ready once it does. */
pid_t usher_udp_sleeper(int core, struct proc_shared *s);
/* The same with `count` sockets, each bound to a port of its own. */
pid_t usher_udp_crowd(int core, uint32_t count, struct proc_shared *s);
/* The same on another address of this host. */
#define USHER_UDP_CROWD_ADDR "10.77.0.3"
pid_t usher_udp_crowd_at(int core, const char *address, uint32_t count, struct proc_shared *s);
/* Receives stamps (wake.h) sent by the peer namespace, asleep between them: times go to s->hist. The server's port is
 * USHERD_SERVER_PORT. */
int usher_udp_wake(struct usher_udp_job *job, int peer_netns, struct proc_shared *s);

#endif
