/* SPDX-License-Identifier: Apache-2.0
 *
 * fork and exec, with the output in a file of the sandbox's /run. A program is the head of a process group of its own,
 * so that workers end with it.
 */
#include "test/bench/program.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test/bench/proc.h"
#include "test/bench/tick.h"

#define OUT_PATH   "/run/program.out"
#define ARGV_MAX   32
#define PROGRAMS   "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
#define STOP_TURNS 2000

static void become(const struct program *p, const char *out_path) {
    char self[PATH_MAX], run[PATH_MAX + 16], path[PATH_MAX + sizeof(PROGRAMS) + 1];
    const char *argv[ARGV_MAX + 3];
    int n = 0, out = open(out_path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (len < 0 || out < 0 || (p->core >= 0 && proc_pin(p->core) != 0))
        _exit(126);
    self[len] = '\0';
    *strrchr(self, '/') = '\0';
    (void)snprintf(run, sizeof(run), "%s/usher-run", self);
    if (p->usher) {
        argv[n++] = run;
        argv[n++] = "--socket=/run/usher/session.sock";
    }
    for (int i = 0; p->argv[i] != NULL && i < ARGV_MAX; i++)
        argv[n++] = p->argv[i];
    argv[n] = NULL;
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)snprintf(path, sizeof(path), "%s:" PROGRAMS, self);
    (void)setenv("PATH", path, 1);
    (void)dup2(out, STDOUT_FILENO);
    (void)dup2(out, STDERR_FILENO);
    (void)execvp(argv[0], (char *const *)(uintptr_t)argv);
    (void)dprintf(out, "cannot run %s", argv[0]);
    _exit(127);
}

int program_start(const struct program *p, pid_t *ret_pid, char *err, size_t err_size) {
    pid_t pid = fork();
    if (pid == 0)
        become(p, OUT_PATH ".server");
    if (pid < 0) {
        (void)snprintf(err, err_size, "%s could not be started", p->argv[0]);
        return -1;
    }
    (void)setpgid(pid, pid);
    *ret_pid = pid;
    return 0;
}

static bool port_listens(const char *path, bool udp, uint16_t port) {
    char line[256], tail[16];
    bool found = false;
    FILE *f = fopen(path, "r");
    (void)snprintf(tail, sizeof(tail), ":%04X ", port);
    while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL) {
        char *at = strstr(line, tail);
        found = at != NULL && (udp || strstr(line, " 0A ") != NULL) && at - line < 50;
    }
    if (f != NULL)
        (void)fclose(f);
    return found;
}

int program_await_port(bool udp, uint16_t port, double seconds) {
    uint64_t end = tick_ns() + (uint64_t)(seconds * 1e9);
    while (tick_ns() < end) {
        if (port_listens(udp ? "/proc/net/udp" : "/proc/net/tcp", udp, port) ||
            port_listens(udp ? "/proc/net/udp6" : "/proc/net/tcp6", udp, port))
            return 0;
        const struct timespec ts = {.tv_nsec = 5 * 1000 * 1000};
        (void)nanosleep(&ts, NULL);
    }
    return -1;
}

void program_stop(pid_t pid) {
    (void)kill(-pid, SIGTERM);
    for (int i = 0; i < STOP_TURNS && waitpid(pid, NULL, WNOHANG) == 0; i++) {
        const struct timespec ts = {.tv_nsec = 1000 * 1000};
        (void)nanosleep(&ts, NULL);
    }
    (void)kill(-pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

static void read_output(char *ret_out, size_t size) {
    FILE *f = fopen(OUT_PATH, "r");
    size_t n = f != NULL ? fread(ret_out, 1, size - 1, f) : 0;
    ret_out[n] = '\0';
    if (f != NULL)
        (void)fclose(f);
}

int program_run(const struct program *p, double seconds, char *ret_out, size_t size, double *ret_cpu, char *err,
                size_t err_size) {
    struct rusage use = {0};
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        become(p, OUT_PATH);
    uint64_t end = tick_ns() + (uint64_t)(seconds * 1e9);
    while (pid > 0 && wait4(pid, &status, WNOHANG, &use) == 0) {
        if (tick_ns() > end)
            (void)kill(-pid, SIGKILL);
        const struct timespec ts = {.tv_nsec = 2 * 1000 * 1000};
        (void)nanosleep(&ts, NULL);
    }
    read_output(ret_out, size);
    *ret_cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
               (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    size_t n = strlen(ret_out);
    (void)snprintf(err, err_size, "%s failed: %s", p->argv[0], ret_out + (n > 300 ? n - 300 : 0));
    return -1;
}
