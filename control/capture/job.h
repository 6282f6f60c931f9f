/* SPDX-License-Identifier: Apache-2.0
 *
 * One capture from an operator's wish to the bytes of a pcapng file. A thread of its own compiles the filter, takes
 * records from the rings, looks up whose they are and writes blocks; control hands the blocks on. At most one part
 * waits for control: when control (or the operator behind it) is slow, the thread waits, the rings fill, and what finds
 * no room there is counted. Packets never wait.
 *
 * Threads: everything here is called by control.
 */
#ifndef USHER_CONTROL_CAPTURE_JOB_H
#define USHER_CONTROL_CAPTURE_JOB_H

#include "control/identity/owner.h"
#include "dataplane/capture/capture.h"
#include "dataplane/port/port.h"

struct job;

struct job_names {
    char port[PORT_SLOT_MAX][16]; /* "" = none */
    char (*rule)[64];             /* by the number that the filter engine knows it by; copied */
    uint32_t rule_count;
};

/* Packets of the kernel's own stack on interfaces that usherd runs. */
struct job_watch {
    uint32_t ifindex[PORT_SLOT_MAX]; /* by slot; 0 = not this one */
    bool in, out;
    uint64_t own[PORT_SLOT_MAX * PORT_QUEUE_MAX]; /* cookies of our ports' sockets */
    size_t own_count;
};

struct job_params {
    struct capture_host *host;
    struct owner_table *owners;
    struct capture_params capture; /* code and count come from the expression */
    const char *expression;
    uint64_t packets;     /* 0 = no limit */
    uint64_t duration_ns; /* 0 = no limit */
    const struct job_names *names;
    const struct job_watch *watch;
    bool sharded; /* a shard does not know the sockets of another one: the kernel sockets behind them are asked */
};

enum job_state {
    JOB_COMPILING, /* wait for job_fd() */
    JOB_COMPILED,  /* call job_begin() */
    JOB_FAILED,    /* the filter: job_error() */
    JOB_RUNNING,
    JOB_ENDED, /* a limit was reached; parts may be left */
};

struct job_part {
    const uint8_t *bytes; /* until job_part_done() */
    size_t size;
    uint64_t packets, lost, seen;
};

int job_create(const struct job_params *params, struct job **ret_job);
/* Ends it wherever it is. Returns at once: a thread that still compiles frees itself later. */
void job_destroy(struct job *j);

/* Readable when the state or the part has changed; job_look() empties it. */
int job_fd(const struct job *j);
enum job_state job_look(struct job *j);
const char *job_error(const struct job *j);
/* Why packets of the kernel's own stack are not shown; "" = they are, or are not asked for. After job_begin(). */
const char *job_notice(const struct job *j);
/* The taps are on from now on. 0, -EMFILE: too many captures, or another error of capture_open(). */
int job_begin(struct job *j);
/* False: none is ready. */
bool job_part(struct job *j, struct job_part *ret_part);
void job_part_done(struct job *j);

#endif
