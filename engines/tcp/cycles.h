/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tcp engine costs, in TSC cycles on warm caches, measured between two engines in this process: for
 * cycles_bench.c and for usher-bench. Only the engine's calls are timed, medians over many rounds. One thread.
 */
#ifndef USHER_ENGINES_TCP_CYCLES_H
#define USHER_ENGINES_TCP_CYCLES_H

#include <stdint.h>

struct link;

#define CYCLES_CONNS 32u
#define CYCLES_SIZE  64u
#define CYCLES_MANY   100000u
#define CYCLES_ACTIVE 1000u

struct cycles_request { /* per request: each side's send and receive */
    uint64_t client_send, client_receive, server_send, server_receive;
};

struct cycles_bulk { /* per 64 KiB */
    uint64_t send, acks, receive;
};

struct cycles_many {
    uint64_t bytes_each; /* resident, for each connection */
    uint64_t segment;    /* a 64 B segment in, on CYCLES_ACTIVE of them chosen at random */
};

/* CYCLES_CONNS connections between the two ends; link_destroy() ends them. */
struct link *cycles_open(void);
/* Requests and answers of 64 bytes on `socks` connections at a time, one under way on each. */
struct cycles_request cycles_requests(struct link *l, uint32_t socks);
struct cycles_bulk cycles_bulk(struct link *l);
/* `count` established connections, CYCLES_ACTIVE to CYCLES_MANY. */
struct cycles_many cycles_many(uint32_t count);
void cycles_drain(struct link *l, uint32_t host);
uint64_t cycles_median(uint64_t *v, uint32_t n);

#endif
