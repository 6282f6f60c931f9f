/* SPDX-License-Identifier: Apache-2.0
 *
 * Programs of the machine as they are, for benches: started on a core, plainly or under usher-run, their output kept.
 * They end with the sandbox at the latest.
 */
#ifndef USHER_TEST_BENCH_PROGRAM_H
#define USHER_TEST_BENCH_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct program {
    int core; /* -1 = any */
    bool usher;
    const char *const *argv; /* argv[0] is looked for beside usher-bench, along PATH and in sbin */
};

/* 0, or -1 with a sentence in err. */
int program_start(const struct program *p, pid_t *ret_pid, char *err, size_t err_size);
/* Until some socket of this sandbox listens at the port (of /proc/net/tcp or udp). */
int program_await_port(bool udp, uint16_t port, double seconds);
/* Its and its children's end; they are killed when they do not want to. */
void program_stop(pid_t pid);
/* Runs it to its end: its output (cut to size), and the CPU seconds it took. */
int program_run(const struct program *p, double seconds, char *ret_out, size_t size, double *ret_cpu, char *err,
                size_t err_size);

#endif
