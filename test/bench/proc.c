/* SPDX-License-Identifier: Apache-2.0
 *
 * fork, affinity, process CPU clocks. A process's CPU clock can be read by others, counts all its threads in
 * nanoseconds and costs one system call: it is read outside the measured loops only.
 */
#include "test/bench/proc.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test/bench/tick.h"

struct proc_shared *proc_shared_create(void) {
    struct proc_shared *s =
        mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return s == MAP_FAILED ? NULL : s;
}

void proc_shared_destroy(struct proc_shared *s) {
    (void)munmap(s, sizeof(*s));
}

int proc_pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0 ? 0 : -errno;
}

pid_t proc_spawn(int core, proc_fn *fn, struct proc_shared *s, void *arg) {
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (proc_pin(core) != 0)
        _exit(1);
    _exit(fn(s, arg));
}

static void nap(void) {
    struct timespec ts = {.tv_nsec = 1000 * 1000};
    (void)nanosleep(&ts, NULL);
}

int proc_await(const atomic_uint *word, unsigned want, double seconds) {
    uint64_t end = tick_ns() + (uint64_t)(seconds * 1e9);
    while (atomic_load(word) < want) {
        if (tick_ns() > end)
            return -ETIMEDOUT;
        nap();
    }
    return 0;
}

int proc_join(pid_t pid, double seconds) {
    uint64_t end = tick_ns() + (uint64_t)(seconds * 1e9);
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (tick_ns() > end)
            (void)kill(pid, SIGKILL);
        nap();
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

double proc_cpu_seconds(const pid_t *pids, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n && pids[i] != 0; i++) {
        clockid_t clk;
        struct timespec ts;
        if (clock_getcpuclockid(pids[i], &clk) == 0 && clock_gettime(clk, &ts) == 0)
            sum += (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
    }
    return sum;
}
