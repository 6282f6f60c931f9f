/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes the configuration, forks, waits for the session socket. The log goes to a file in the sandbox's /run, whose
 * last lines are the explanation when the start fails.
 */
#include "test/bench/usherd.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test/bench/proc.h"
#include "test/bench/sandbox.h"
#include "test/bench/tick.h"

#define RUN_DIR       "/run/usher"
#define CONFIG_PATH   RUN_DIR "/usherd.yaml"
#define LOG_PATH      RUN_DIR "/usherd.log"
#define START_SECONDS 10.0
#define STOP_SECONDS  5.0

static int write_config(const struct usherd_params *p) {
    (void)mkdir(RUN_DIR, 0755);
    FILE *f = fopen(CONFIG_PATH, "w");
    if (f == NULL)
        return -1;
    (void)fprintf(f, "runtime:\n  mode: %s\n  shards: 1\n  cpus: \"%d\"\n", p->mode, p->core);
    if (p->policy != NULL)
        (void)fprintf(f, "  small_buffers: 32768\npolicy: %s\n", p->policy);
    (void)fprintf(f, "interfaces:\n  - name: " SANDBOX_IFNAME "\n");
    (void)fprintf(f, "echo:\n  ports: [%u]\n", USHERD_ECHO_PORT);
    if (p->generate > 0)
        (void)fprintf(f, "  generate:\n  - peer: " SANDBOX_ADDR "\n    peer_port: %u\n    window: %u\n    size: 64\n",
                      USHERD_SERVER_PORT, p->generate);
    if (p->sockets > 0)
        (void)fprintf(f, "sessions:\n  sockets: %u\n", p->sockets);
    if (p->udp_sockets > 0)
        (void)fprintf(f, "engines:\n  udp: {sockets: %u}\n", p->udp_sockets);
    if (p->streams > 0) /* both ends of each are on this host */
        (void)fprintf(f, "sessions: {streams: %u}\nengines:\n  tcp: {connections: %u, port_low: 25000}\n", p->streams,
                      2 * p->streams + 64);
    if (p->control)
        (void)fprintf(f, "control:\n  caller_rate: 0\n");
    (void)fprintf(f, "keeper:\n  mode: \"%s\"\nrun_dir: " RUN_DIR "\nstate_dir: " RUN_DIR "/state\n",
                  p->kept ? "on" : "off");
    return fclose(f) == 0 ? 0 : -1;
}

void usherd_beside(const char *name, char *ret_path, size_t size) {
    char self[PATH_MAX] = "/";
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 1] = '\0';
    *strrchr(self, '/') = '\0';
    (void)snprintf(ret_path, size, "%s/%s", self, name);
}

static void exec_usherd(const struct usherd_params *params) {
    char path[PATH_MAX + 16];
    int log = open(LOG_PATH, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (log < 0 || (params->pinned && proc_pin(params->core) != 0))
        _exit(126);
    usherd_beside("usherd", path, sizeof(path));
    (void)dup2(log, STDOUT_FILENO);
    (void)dup2(log, STDERR_FILENO);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)execl(path, "usherd", "--config", CONFIG_PATH, (char *)NULL);
    (void)dprintf(log, "cannot run %s", path);
    _exit(127);
}

static bool session_socket_answers(void) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = RUN_DIR "/session.sock"};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;
    if (fd >= 0)
        (void)close(fd);
    return ok;
}

static void explain(const char *what, char *err, size_t err_size) {
    char tail[400] = "";
    FILE *f = fopen(LOG_PATH, "r");
    if (f != NULL) {
        if (fseek(f, -(long)(sizeof(tail) - 1), SEEK_END) != 0)
            rewind(f);
        size_t n = fread(tail, 1, sizeof(tail) - 1, f);
        tail[n] = '\0';
        (void)fclose(f);
    }
    for (char *c = tail; *c != '\0'; c++) {
        if (*c == '\n')
            *c = '|';
    }
    (void)snprintf(err, err_size, "usherd %s: %s", what, tail);
}

int usherd_start(const struct usherd_params *params, pid_t *ret_pid, char *err, size_t err_size) {
    if (write_config(params) != 0) {
        (void)snprintf(err, err_size, "usherd's configuration could not be written");
        return -1;
    }
    (void)unlink(RUN_DIR "/session.sock");
    pid_t pid = fork();
    if (pid == 0)
        exec_usherd(params);
    uint64_t end = tick_ns() + (uint64_t)(START_SECONDS * 1e9);
    while (!session_socket_answers()) {
        struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
        (void)nanosleep(&pause, NULL);
        bool ended = waitpid(pid, NULL, WNOHANG) == pid;
        if (!ended && tick_ns() < end)
            continue;
        explain(ended ? "ended at once" : "does not answer", err, err_size);
        if (!ended)
            usherd_stop(pid);
        return -1;
    }
    *ret_pid = pid;
    return 0;
}

void usherd_stop(pid_t pid) {
    (void)kill(pid, SIGTERM);
    (void)proc_join(pid, STOP_SECONDS);
}

int usherd_ctl(const char *const *words, char *ret_printed, size_t size) {
    const char *argv[16] = {"usherctl", "--socket", RUN_DIR "/control.sock"};
    char path[PATH_MAX + 16];
    int out[2];
    size_t n = 3, got = 0;
    while (*words != NULL && n < 15)
        argv[n++] = *words++;
    usherd_beside("usherctl", path, sizeof(path));
    if (pipe(out) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(out[1], STDOUT_FILENO);
        (void)execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    (void)close(out[1]);
    for (ssize_t r; got + 1 < size && (r = read(out[0], ret_printed + got, size - 1 - got)) > 0;)
        got += (size_t)r;
    ret_printed[got] = '\0';
    (void)close(out[0]);
    return proc_join(pid, STOP_SECONDS);
}

void usherd_forget(void) {
    char path[PATH_MAX + 16];
    usherd_beside("usherd", path, sizeof(path));
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl(path, "usherd", "--cleanup", "--config", CONFIG_PATH, (char *)NULL);
        _exit(127);
    }
    (void)proc_join(pid, STOP_SECONDS);
}

uint64_t usherd_rss(pid_t pid) {
    char path[64];
    unsigned long total = 0, resident = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return 0;
    int n = fscanf(f, "%lu %lu", &total, &resident);
    (void)fclose(f);
    return n == 2 ? (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}
