/* SPDX-License-Identifier: Apache-2.0
 *
 * One process, one program after the other: execve() keeps what the service manager, the kernel and the keeper know of
 * usherd (its process id, cgroup, capabilities, namespace), so there is no moment in which nobody or two are usherd.
 * What must outlive the program is with the store; when that is systemd's, which gives fds only to a service that it
 * starts, they are left open and named in the environment. The old program's file stays open until the new one serves:
 * if that one fails, crashes or hangs before, the process becomes the old program again and carries on in the same
 * way.
 */
#include "control/succession.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "control/keeper/store.h"
#include "control/log.h"
#include "control/usherd.h"
#include "engines/check.h"

#define TRY_MS         8000
#define LISTEN_MAX     (KEPT_MAX + 8)
#define OUT_OF_THE_WAY 1000
#define ENVIRON_MAX    512
#define BEGIN_S        15                /* a new one that does not serve by then is taken back */
#define WORD           "USHERD_SUCCEEDS" /* "fd of the old program, when it stopped, its version" */
#define WORD_BACK      "USHERD_CAME_BACK"

extern char **environ;

/* What the service manager gave at the start, at a number of its own: who is started with them closes and reuses them
 * as they please. Once the start is through, only the sockets that listen. */
static struct {
    int fd, number;
    char name[KEEPER_NAME_MAX];
} given[LISTEN_MAX];
static int given_count;

/* Of the new program's start; a signal handler reads them. */
static int old_program = -1;
static char **old_arguments, *old_environ[ENVIRON_MAX];
static size_t old_environ_count;
static unsigned long long stopped_ns;
static char old_version[32];

static unsigned long long monotonic(void) {
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (unsigned long long)ts.tv_sec * 1000000000u + (unsigned long long)ts.tv_nsec;
}

static int fail(char *err, size_t size, int error, const char *what, const char *path) {
    (void)snprintf(err, size, "%s %s: %s", what, path, strerror(-error));
    return error;
}

/* ---- trying ---- */

/* Whoever could write it could run as usherd. */
static int file_check(const char *path, char *err, size_t size) {
    struct stat st;
    if (stat(path, &st) != 0)
        return fail(err, size, -errno, "cannot find", path);
    if (!S_ISREG(st.st_mode) || (st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0 ||
        access(path, X_OK) != 0)
        return fail(err, size, -EPERM, "only a program that nobody but root and usherd's user can write is run:", path);
    return 0;
}

static int try_spawn(const struct usherd *u, const char *path, int out, pid_t *ret_pid) {
    posix_spawn_file_actions_t actions;
    const char *argv[] = {path, "--try", "--config", u->config_path, NULL};
    if (u->config_default)
        argv[2] = NULL;
    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
    int error = posix_spawn(ret_pid, path, &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    (void)posix_spawn_file_actions_destroy(&actions);
    return -error;
}

/* Its exit status, -1 when it died or hangs; what it said is read meanwhile. */
static int try_wait(pid_t pid, int in, char *said, size_t size) {
    int status = -1, pidfd = pidfd_open(pid, 0);
    size_t n = 0;
    unsigned long long end = monotonic() + TRY_MS * 1000000ull;
    struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = in, .events = POLLIN}};
    while (pidfd >= 0 && !(p[0].revents & POLLIN) && monotonic() < end) {
        (void)poll(p, 2, 100);
        ssize_t got = p[1].revents != 0 && n + 1 < size ? read(in, said + n, size - 1 - n) : 0;
        n += got > 0 ? (size_t)got : 0;
        p[1].fd = got > 0 || p[1].revents == 0 ? in : -1;
    }
    for (ssize_t got; n + 1 < size && (got = read(in, said + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = '\0';
    if (!(p[0].revents & POLLIN))
        (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
    if (pidfd >= 0)
        (void)close(pidfd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int succession_try(struct usherd *u, const char *path, char *err, size_t err_size) {
    char said[200];
    int out[2];
    pid_t pid;
    path = path != NULL ? path : u->self;
    int error = file_check(path, err, err_size);
    if (error != 0)
        return error;
    if (pipe2(out, O_CLOEXEC | O_NONBLOCK) != 0)
        return fail(err, err_size, -errno, "cannot try", path);
    error = try_spawn(u, path, out[1], &pid);
    (void)close(out[1]);
    int status = error == 0 ? try_wait(pid, out[0], said, sizeof said) : -1;
    (void)close(out[0]);
    if (error != 0)
        return fail(err, err_size, error, "cannot run", path);
    if (status != 0) {
        (void)snprintf(err, err_size, "%s cannot take over: it %s%.180s", path,
                       status < 0 ? "dies or hangs when it is tried; " : "says: ", said);
        return -ENOEXEC;
    }
    (void)snprintf(u->successor, sizeof u->successor, "%s", path);
    return 0;
}

bool succession_wanted(const struct usherd *u) {
    struct stat now, on_disk;
    return stat("/proc/self/exe", &now) == 0 && stat(u->self, &on_disk) == 0 &&
           (now.st_ino != on_disk.st_ino || now.st_dev != on_disk.st_dev);
}

int succession_rehearse(struct usherd *u) {
    struct runtime_error err = {""};
    int error = usherd_engines_try(u, &err);
    if (error != 0)
        (void)fprintf(stderr, "%s\n", err.text);
    return error == 0 ? 0 : 1;
}

/* ---- becoming the other ---- */

/* What systemd gave at its start it does not give again: its sockets and what it keeps are made to look so. The fds are
 * moved out of the way first, for their places overlap. */
static void listen_fds_add(const char *name, int fd, int *moved, char *names, size_t size, int *count) {
    if (*count == LISTEN_MAX || (moved[*count] = fcntl(fd, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY)) < 0)
        return;
    size_t at = strlen(names);
    (void)snprintf(names + at, size - at, "%s%s", at > 0 ? ":" : "", name);
    (*count)++;
}

static void listen_fds_pass(const struct usherd *u) {
    static int moved[LISTEN_MAX];
    static char names[LISTEN_MAX * (KEEPER_NAME_MAX + 1)];
    char number[16];
    int count = 0;
    for (int i = 0; i < given_count; i++)
        listen_fds_add(given[i].name, given[i].fd, moved, names, sizeof names, &count);
    for (size_t i = 0; i < u->kept_count && usherd_keeps_by_systemd(u); i++)
        listen_fds_add(u->kept[i].name, u->kept[i].fd, moved, names, sizeof names, &count);
    for (int i = 0; i < count; i++)
        (void)dup2(moved[i], SD_LISTEN_FDS_START + i); /* without CLOEXEC */
    if (count == 0)
        return;
    (void)snprintf(number, sizeof number, "%d", count);
    (void)setenv("LISTEN_FDS", number, 1);
    (void)setenv("LISTEN_FDNAMES", names, 1);
    (void)snprintf(number, sizeof number, "%d", (int)getpid());
    (void)setenv("LISTEN_PID", number, 1);
}

static void word_set(int program) {
    char word[96];
    (void)snprintf(word, sizeof word, "%d %llu %s", program, monotonic(), USHER_VERSION);
    (void)setenv(WORD, word, 1);
}

void succession_end(struct usherd *u) {
    int here = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int program = fcntl(here, F_DUPFD, OUT_OF_THE_WAY); /* without CLOEXEC: to become this again */
    log_info("succession", "%s takes over", u->successor);
    usherd_leave(u);
    listen_fds_pass(u);
    word_set(program);
    u->arguments[0] = u->successor;
    (void)execv(u->successor, u->arguments);
    int error = -errno;
    log_error("succession", "cannot become %s (%s); this usherd starts again", u->successor, strerror(-error));
    (void)setenv(WORD_BACK, strerror(-error), 1);
    (void)fexecve(program, u->arguments, environ);
}

/* ---- in the new one ---- */

/* Safe in a signal handler. The environment still says what the store has left; `why` is one of its lines. */
static void become_old(char *why) {
    sigset_t none;
    if (old_program < 0)
        return;
    old_environ[old_environ_count] = why;
    for (int i = 0; i < given_count; i++)
        (void)dup2(given[i].fd, given[i].number); /* without CLOEXEC */
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)fexecve(old_program, old_arguments, old_environ);
}

static void on_death(int sig) {
    static char hung[] = WORD_BACK "=it hung while it started", crashed[] = WORD_BACK "=it crashed while it started";
    become_old(sig == SIGALRM ? hung : crashed);
    (void)signal(sig, SIG_DFL);
    (void)raise(sig);
}

/* Not SIGBUS, which has a handler of its own. */
static const int deaths[] = {SIGSEGV, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGALRM};

static void deaths_watch(void (*handler)(int)) {
    struct sigaction act = {.sa_handler = handler, .sa_flags = SA_NODEFER};
    for (size_t i = 0; i < ARRAY_LEN(deaths); i++)
        (void)sigaction(deaths[i], &act, NULL);
}

static void given_take(void) {
    char **names = NULL;
    int n = sd_listen_fds_with_names(0, &names); /* stays in the environment: others look there */
    for (int i = 0; i < n; i++) {
        int fd = given_count < LISTEN_MAX ? fcntl(SD_LISTEN_FDS_START + i, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY) : -1;
        if (fd >= 0) {
            given[given_count].fd = fd;
            given[given_count].number = SD_LISTEN_FDS_START + i;
            (void)snprintf(given[given_count++].name, KEEPER_NAME_MAX, "%s", names[i]);
        }
        free(names[i]);
    }
    free((void *)names);
}

static void given_let_go(void) {
    int count = 0;
    for (int i = 0; i < given_count; i++) {
        if (sd_is_socket(given[i].fd, AF_UNSPEC, 0, 1) > 0)
            given[count++] = given[i];
        else
            (void)close(given[i].fd);
    }
    given_count = count;
}

void succession_begin(char **arguments) {
    const char *word = getenv(WORD);
    int program;
    given_take();
    if (word == NULL || sscanf(word, "%d %llu %31s", &program, &stopped_ns, old_version) != 3)
        return;
    if (getenv(WORD_BACK) != NULL) { /* it is we who came back */
        (void)close(program);
        return;
    }
    while (old_environ_count + 2 < ENVIRON_MAX && environ[old_environ_count] != NULL) {
        old_environ[old_environ_count] = environ[old_environ_count];
        old_environ_count++;
    }
    old_program = program;
    old_arguments = arguments;
    deaths_watch(on_death);
    (void)alarm(BEGIN_S);
}

void succession_back(void) {
    static char failed[] = WORD_BACK "=it could not start";
    become_old(failed);
}

void succession_through(struct usherd *u) {
    const char *back = getenv(WORD_BACK);
    if (old_program >= 0) {
        (void)alarm(0);
        deaths_watch(SIG_DFL);
        (void)close(old_program);
        old_program = -1;
    }
    given_let_go();
    if (stopped_ns == 0)
        return;
    unsigned long long ms = (monotonic() - stopped_ns) / 1000000;
    if (back != NULL)
        (void)snprintf(u->succession, sizeof u->succession, "back again after %llu ms: its successor failed (%s)", ms,
                       back);
    else
        (void)snprintf(u->succession, sizeof u->succession, "took over from usherd %s within %llu ms", old_version, ms);
    if (back != NULL)
        log_error("succession", "%s", u->succession);
    else
        log_info("succession", "%s", u->succession);
    (void)unsetenv(WORD);
    (void)unsetenv(WORD_BACK);
}
