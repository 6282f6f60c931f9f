/* SPDX-License-Identifier: Apache-2.0
 *
 * usherd for a bench: the program that lies beside usher-bench, started in the sandbox on its veth end
 * (sandbox_peer) with a configuration made from this struct; its run and state folders lie in the sandbox's own /run.
 * Ended by usherd_stop(), or with the sandbox.
 */
#ifndef USHER_TEST_BENCH_USHERD_H
#define USHER_TEST_BENCH_USHERD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define USHERD_ECHO_PORT 7u
#define USHERD_SERVER_PORT 9000u /* where the generator finds the client's server */

struct usherd_params {
    int core;          /* of its worker */
    bool pinned;       /* the whole process may run there only */
    const char *mode;  /* runtime.mode */
    uint32_t sockets;  /* per session; 0 = default */
    uint32_t udp_sockets; /* of all sessions; 0 = default */
    uint32_t streams;     /* that a session may connect, and accept; not with the two above; 0 = default */
    const char *policy; /* file; NULL = none, and as many buffers as usual */
    bool kept;         /* what outlives it is kept by usher-keeper */
    bool control;      /* no limit on how often one may call */
    uint32_t generate; /* window of the echo engine's generator towards USHERD_SERVER_PORT; 0 = none */
};

/* Waits until sessions can be opened. 0, or -1 with a sentence in err (the end of usherd's log among it). */
int usherd_start(const struct usherd_params *params, pid_t *ret_pid, char *err, size_t err_size);
void usherd_stop(pid_t pid);
/* After the end of one that was kept and did not end in order: its keeper ends as well. */
void usherd_forget(void);
/* usherctl with these words (NULL-ended); its exit status, and what it printed. */
int usherd_ctl(const char *const *words, char *ret_printed, size_t size);
/* Path of a file, named from the folder of usher-bench. */
void usherd_beside(const char *name, char *ret_path, size_t size);
/* Resident bytes of a process, shared pages included; 0 when it is gone. */
uint64_t usherd_rss(pid_t pid);

#endif
